//! Listening, and the accept loop, which never dies: when descriptors, memory or threads run out it responds with 503
//! where it can and goes on.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::log::warn;
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::Link;
use super::limits::{Limits, Permit};
use super::unix::{self, SocketFile};
use crate::system::log;
use crate::system::os::{self, Event};

/// Where to listen when nobody says where.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// Connections that may wait to be accepted: a hundred browsers arrive at once.
const BACKLOG: i32 = 1024;
/// A client thread needs little; a thousand of them should not need much.
const STACK: usize = 128 * 1024;
/// How long a new connection waits until the threads of earlier ones have ended.
const THREAD_END: Duration = Duration::from_millis(250);
/// Pause after running out of something, where nobody could be closed for a newcomer.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Address space that no client's thread gets: for frames and everything else that cannot be done without.
const SPARE_MEMORY: u64 = 16 << 20;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `ADDRESS:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("expected a path after unix:, such as unix:/run/framehub/http.sock".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "expected ADDRESS:PORT with a numeric address, such as 0.0.0.0:8080 or [::]:8080, or unix:PATH".into()
            }),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a connection's thread does.
pub trait Serve: Fn(Permit) + Send + Sync + 'static {}

impl<F: Fn(Permit) + Send + Sync + 'static> Serve for F {}

/// Sockets that are being listened to.
pub struct Listeners {
    sockets: Vec<Socket>,
    /// So many of them, from the front, are TCP sockets of our own.
    own: usize,
    files: Vec<SocketFile>,
}

/// Listening sockets that a service manager passed.
#[derive(Default)]
pub struct Passed {
    /// Those that we gave into its keeping before we were restarted.
    pub kept: Vec<Socket>,
    /// Those of a socket unit.
    pub unit: Vec<Socket>,
}

impl Listeners {
    /// Listens on all of these addresses, or on none, with an error for people. Without any, the sockets of a socket
    /// unit are what is listened to, or else [`DEFAULT_ADDRESS`].
    pub fn open(addresses: &[Listen], socket_mode: u32, passed: Passed) -> Result<Self, String> {
        let default = [Listen::Tcp(DEFAULT_ADDRESS)];
        let addresses = if addresses.is_empty() && passed.unit.is_empty() { &default } else { addresses };
        let v4_ports = v4_ports(addresses, &passed.unit);
        let is_bound = |socket: &Socket, listen: &Listen| match listen {
            Listen::Tcp(address) => bound_to(socket) == Some((*address, is_only_v6(address, &v4_ports))),
            Listen::Unix(_) => false,
        };
        let is_wanted = |socket: &Socket| addresses.iter().any(|listen| is_bound(socket, listen));
        let (mut sockets, unwanted): (Vec<_>, Vec<_>) = passed.kept.into_iter().partition(is_wanted);
        for old in unwanted {
            // Its port becomes free, and the manager closes it too.
            let _ = old.shutdown(Shutdown::Both);
        }
        let mut unix = Vec::new();
        let mut files = Vec::new();
        for address in addresses {
            if sockets.iter().any(|socket| is_bound(socket, address)) {
                continue;
            }
            let (socket, to) = match address {
                Listen::Tcp(address) => (bind(*address, is_only_v6(address, &v4_ports)), &mut sockets),
                Listen::Unix(path) => {
                    let (socket, file) = unix::bind(path, socket_mode)?;
                    files.push(file);
                    (Ok(socket), &mut unix)
                }
            };
            to.push(socket.and_then(listen).map_err(|error| explain(address, &error))?);
        }
        let own = sockets.len();
        sockets.extend(unix);
        sockets.extend(passed.unit);
        Ok(Self { sockets, own, files })
    }

    /// What to open in a browser: the addresses, with the port that was chosen for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect()
    }

    /// The files of Unix sockets.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(SocketFile::path)
    }

    /// All of the sockets.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Those that our successor can use again: the rest has a name, or belongs to a socket unit.
    pub fn own(&self) -> &[Socket] {
        &self.sockets[..self.own]
    }

    /// Accepts until `stop` becomes readable or is closed at its other end.
    pub fn serve(&self, limits: &Arc<Limits>, serve: &Arc<impl Serve>, stop: BorrowedFd<'_>) -> io::Result<()> {
        let mut acceptor = Acceptor { limits, serve, threads: Vec::new(), fitting: 0, reserve: Reserve::new() };
        let mut fds = vec![stop];
        fds.extend(self.sockets.iter().map(AsFd::as_fd));
        loop {
            let events = os::poll_all(&fds, None)?;
            if events[0] != Event::Nothing {
                return Ok(());
            }
            for (socket, _) in self.sockets.iter().zip(&events[1..]).filter(|(_, event)| **event != Event::Nothing) {
                if let Err(error) = acceptor.accept(socket) {
                    acceptor.reserve.warn_once(&error);
                    os::poll([stop], Some(BACK_OFF))?;
                }
            }
        }
    }
}

/// The ports at which other sockets listen for IPv4.
fn v4_ports(addresses: &[Listen], unit: &[Socket]) -> Vec<u16> {
    let asked =
        addresses.iter().filter_map(|listen| if let Listen::Tcp(address) = listen { Some(*address) } else { None });
    let passed = unit.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket());
    asked.chain(passed).filter(SocketAddr::is_ipv4).map(|address| address.port()).collect()
}

/// Alone, `[::]:P` takes IPv4 clients too; beside a listener for IPv4 on that port it must not.
fn is_only_v6(address: &SocketAddr, v4_ports: &[u16]) -> bool {
    is_any_v6(address) && v4_ports.contains(&address.port())
}

/// The address of a TCP socket, and whether it is `[::]` for IPv6 clients only.
fn bound_to(socket: &Socket) -> Option<(SocketAddr, bool)> {
    let address = socket.local_addr().ok()?.as_socket()?;
    Some((address, is_any_v6(&address) && socket.only_v6().ok()?))
}

fn is_any_v6(address: &SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<Socket> {
    socket.listen(BACKLOG)?;
    // Another process may share it (systemd), and a client may leave between poll and accept.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn explain(address: &Listen, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; stop it, or choose another port with --listen",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; 0.0.0.0 listens on all it has",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE; 8080 is free for all",
        _ => return format!("cannot listen on {address}: {error}"),
    };
    format!("cannot listen on {address}: {hint}")
}

/// Accepts connections and starts their threads.
struct Acceptor<'a, S> {
    limits: &'a Arc<Limits>,
    serve: &'a Arc<S>,
    /// The threads of the connections. A thread exists for a moment after it has given its permit back.
    threads: Vec<JoinHandle<()>>,
    /// So many threads fit into the address space at some time. The C library keeps the stacks of those that have ended.
    fitting: usize,
    reserve: Reserve,
}

impl<S: Serve> Acceptor<'_, S> {
    /// Accepts one connection: a flood of them must not hide that the server is to stop. An error is a lack of
    /// something, which passes. Where the descriptors run out, a connection that owes a request is closed for the new one.
    fn accept(&mut self, listener: &Socket) -> io::Result<()> {
        use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
        log::note_left_out();
        loop {
            match listener.accept() {
                Ok((socket, address)) => {
                    self.reserve.is_warned = false;
                    self.start_thread(&Link::new(socket, &address));
                    return Ok(());
                }
                // Another process was faster, it left before it was accepted, or a signal came.
                Err(error) if [WouldBlock, ConnectionAborted, Interrupted].contains(&error.kind()) => return Ok(()),
                Err(error) if is_lack(&error) => {
                    self.reserve.warn_once(&error);
                    if !self.limits.evict_idle() {
                        self.reserve.turn_away(listener);
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts the thread of a connection. Where there is none to spare, a connection that owes a request is closed for it.
    fn start_thread(&mut self, link: &Arc<Link>) {
        loop {
            let Some(permit) = self.limits.admit(link).filter(|_| self.has_thread_left()) else {
                return link.refuse();
            };
            let serve = self.serve.clone();
            let run = move || serve(permit);
            let spawn = || thread::Builder::new().name(log::CLIENT.into()).stack_size(STACK).spawn(run);
            match self.check_memory().and_then(|()| spawn()) {
                Ok(thread) => {
                    self.threads.push(thread);
                    return;
                }
                Err(error) => {
                    self.reserve.warn_once(&error);
                    if !self.limits.evict_idle() {
                        return link.refuse();
                    }
                    self.wait_for_thread_end();
                }
            }
        }
    }

    /// Checks that one more thread leaves the others enough address space. A thread that gets none for its signal stack
    /// ends the process, and so does anything that is allocated in vain.
    fn check_memory(&mut self) -> io::Result<()> {
        let threads = self.threads.len() + 1;
        if os::address_space_left().is_none_or(|left| left >= SPARE_MEMORY) {
            self.fitting = self.fitting.max(threads);
        }
        if threads <= self.fitting { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }

    /// Waits a moment for threads that are about to end, if there are too many.
    fn has_thread_left(&mut self) -> bool {
        self.join_ended();
        self.threads.len() < self.limits.max_connections() || self.wait_for_thread_end()
    }

    /// Waits a moment for any thread to end.
    fn wait_for_thread_end(&mut self) -> bool {
        let deadline = Instant::now() + THREAD_END;
        loop {
            if self.join_ended() > 0 {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Joins the threads that have ended, and returns how many those were.
    fn join_ended(&mut self) -> usize {
        // A panic has been logged by its thread.
        self.threads.extract_if(.., |thread| thread.is_finished()).map(JoinHandle::join).count()
    }
}

/// Whether it is for want of descriptors or memory that nobody can be accepted.
fn is_lack(error: &io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM].map(Some).contains(&error.raw_os_error())
}

/// A descriptor kept for the moment when there are none: with it a client can be told so.
struct Reserve {
    file: Option<File>,
    is_warned: bool,
}

impl Reserve {
    fn new() -> Self {
        Self { file: File::open("/dev/null").ok(), is_warned: false }
    }

    fn turn_away(&mut self, listener: &Socket) {
        self.file = None;
        if let Ok((socket, address)) = listener.accept() {
            Link::new(socket, &address).refuse();
        }
        self.file = File::open("/dev/null").ok();
    }

    fn warn_once(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_warned, true) {
            warn!("cannot take more clients now error=\"{error}\"");
        }
    }
}

/// The machine's addresses at which a listener for all addresses can be reached from the local network.
pub fn lan_addresses(address: SocketAddr) -> Vec<SocketAddr> {
    if !address.ip().is_unspecified() {
        return Vec::new();
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let ips = interfaces.into_iter().filter(|interface| !interface.is_loopback()).map(|interface| interface.ip());
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        // Link-local addresses need a zone, which browsers do not take.
        IpAddr::V6(v6) => address.is_ipv6() && !v6.is_unicast_link_local(),
    };
    ips.filter(usable).map(|ip| SocketAddr::new(ip, address.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::limits::Sizes;
    use super::*;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_flood_does_not_hide_the_stop() {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::open(&[Listen::Tcp(loopback)], 0o660, Passed::default()).unwrap();
        let address = listeners.addresses()[0];
        let _flood: Vec<_> = (0..400).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (stop, stop_end) = UnixStream::pair().unwrap();
        // The first connection stops the server.
        let (stop_end, served) = (Mutex::new(Some(stop_end)), Arc::new(AtomicUsize::new(0)));
        let count = served.clone();
        let serve = Arc::new(move |_: Permit| {
            stop_end.lock().unwrap().take();
            count.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(50));
        });
        let limits =
            Limits::new(Sizes { max_clients: 1000, max_per_address: None, has_known: false, response_memory: 1 << 20 });
        listeners.serve(&limits, &serve, stop.as_fd()).unwrap();
        assert!(limits.wait_empty(Instant::now() + Duration::from_secs(5)));
        let served = served.load(Ordering::SeqCst);
        assert!((1..400).contains(&served), "{served} of 400 were served, all of them after the stop");
    }

    #[test]
    fn only_the_socket_that_is_asked_for_is_taken_up_again() {
        let listen =
            |addresses: &[&str]| -> Vec<Listen> { addresses.iter().map(|text| text.parse().unwrap()).collect() };
        let open = |addresses: &[Listen], kept| Listeners::open(addresses, 0o660, Passed { kept, ..Passed::default() });
        let kept = |listeners: Listeners| -> Vec<Socket> {
            listeners.own().iter().map(|socket| socket.try_clone().unwrap()).collect()
        };
        let takes = |ip: &str, port| TcpStream::connect((ip, port)).is_ok();
        let port = open(&listen(&["127.0.0.1:0"]), Vec::new()).unwrap().addresses()[0].port();
        let (v6, v4) = (format!("[::]:{port}"), format!("0.0.0.0:{port}"));
        let mut before: Vec<Socket> = Vec::new();
        // Each is restarted into the next.
        for addresses in [&[v6.as_str(), &v4][..], &[&v6], &[&v4, &v6], &[&v4], &[&v6], &[&v6]] {
            let listeners = open(&listen(addresses), before).unwrap_or_else(|error| panic!("{addresses:?}: {error}"));
            assert_eq!(listeners.addresses().len(), addresses.len(), "{addresses:?}");
            assert!(takes("127.0.0.1", port), "{addresses:?} takes IPv4 clients");
            assert_eq!(takes("::1", port), addresses.contains(&v6.as_str()), "{addresses:?} and IPv6 clients");
            before = kept(listeners);
        }
    }
}
