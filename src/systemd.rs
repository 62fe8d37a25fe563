//! The service manager that started us: the sockets that it keeps for us, and what it is told.
//!
//! Its own thread reports the status and feeds the watchdog, but only while the capture thread is alive (or sleeps
//! on purpose) and a request of our own gets a response. Without a service manager, only SIGHUP is left to do.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr as TcpAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::{info, warn};
use sd_notify::NotifyState;
use sendfd::SendWithFd;
use socket2::{SockAddr, SockRef, Socket, Type};

use crate::camera::session::{Phase, Session};
use crate::http::server::listener::{Listeners, Passed};
use crate::system::os::{self, Event};

/// How old the status in `systemctl status` may be, unless a watchdog asks for more.
const STATUS_AGE: Duration = Duration::from_secs(10);
/// How long our own request may take to connect, and to get its response.
const OWN_REQUEST: Duration = Duration::from_secs(2);
/// How long a notification waits for a manager that does not read.
const NOTIFY_TIMEOUT: Duration = Duration::from_millis(200);
/// The name under which the manager keeps our listening sockets for our successor.
const KEPT: &str = "kept-listener";
/// Connecting fails with these when the system has no way to an address. That says nothing about our server: IPv6 or
/// the loopback interface can be disabled, a Unix socket can be meant for others.
const NO_WAY: [i32; 6] =
    [libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EAFNOSUPPORT, libc::EACCES, libc::EPERM];

/// The listening sockets that the manager passed to us. To be called before this process opens anything else.
pub fn passed_sockets() -> Passed {
    let mut passed = Passed::default();
    let descriptors = os::passed_descriptors().unwrap_or_else(|error| {
        warn!("LISTEN_FDS does not say what sockets were passed; none is used error=\"{error}\"");
        Vec::new()
    });
    for (fd, name) in descriptors {
        let socket = Socket::from(fd);
        let listens = socket.is_listener().unwrap_or(false) && socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
        if !listens || socket.set_nonblocking(true).is_err() {
            warn!("the service manager passed something that is not a listening socket name=\"{name}\"");
        } else if name == KEPT {
            passed.kept.push(socket);
        } else {
            passed.unit.push(socket);
        }
    }
    passed
}

/// What is reported and watched.
pub struct Watched<'a> {
    /// The camera's session.
    pub session: &'a Session,
    /// The longest time that a still may take.
    pub still_deadline: Duration,
    /// The sockets at which requests must get responses.
    pub listeners: &'a Listeners,
    /// Counts the viewers.
    pub viewers: &'a dyn Fn() -> usize,
}

impl Watched<'_> {
    /// The status in one line.
    fn status(&self) -> String {
        let status = self.session.status();
        let what = match status.phase {
            Phase::Live => status.mode.map_or("live".into(), |mode| format!("live {mode}")),
            Phase::Asleep => "the camera is asleep until somebody looks".into(),
            Phase::Starting => "the camera is starting".into(),
            Phase::Lost(why) => why,
        };
        format!("{what}; viewers: {}", (self.viewers)())
    }

    /// Why the watchdog should end this process, if it should.
    fn health_problem(&self, done: BorrowedFd<'_>) -> Option<String> {
        if !self.session.is_alive(self.still_deadline) {
            return Some("the capture thread hangs".into());
        }
        self.listeners.sockets().iter().find_map(|listener| request_problem(listener, done))
    }
}

/// The service manager, or nobody.
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that the environment names, if it names one.
    pub fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            connect(&name).inspect_err(|error| warn!("cannot reach the service manager error=\"{error}\"")).ok()
        });
        Self { socket, watchdog: sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) }
    }

    /// Gives our listening sockets to the manager, which passes them to the process that follows us: during a restart
    /// clients wait a moment, and no connection is refused.
    pub fn keep(&self, listeners: &Listeners) {
        let fds: Vec<_> = listeners.own().iter().map(AsRawFd::as_raw_fd).collect();
        if !fds.is_empty() {
            let message = message(&[NotifyState::FdStore, NotifyState::FdName(KEPT)]);
            self.send(|socket| socket.send_with_fd(message.as_bytes(), &fds));
        }
    }

    /// Reports until `done` is closed at its other end. `reload` becomes readable when the camera is to be opened again;
    /// viewers stay.
    pub fn run(&self, watched: &Watched<'_>, reload: BorrowedFd<'_>, done: BorrowedFd<'_>) {
        let period = self.watchdog.map_or(STATUS_AGE, |limit| (limit / 4).min(STATUS_AGE));
        let mut status = watched.status();
        self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        loop {
            match os::poll([done, reload], self.socket.as_ref().map(|_| period)) {
                Ok([Event::Nothing, Event::Readable]) => {
                    // Several signals in the meantime are one.
                    let _ = (&*SockRef::from(&reload)).read(&mut [0; 64]);
                    self.reload(watched.session);
                }
                Ok([Event::Nothing, Event::Nothing]) => {}
                _ => break,
            }
            let now = watched.status();
            if now != status {
                self.notify(&[NotifyState::Status(&now)]);
                status = now;
            }
            if self.watchdog.is_some() {
                match watched.health_problem(done) {
                    None => self.notify(&[NotifyState::Watchdog]),
                    Some(problem) => warn!("{problem}: the watchdog is not fed"),
                }
            }
        }
        self.notify(&[NotifyState::Stopping]);
    }

    fn reload(&self, session: &Session) {
        // Not by the crate, whose microseconds overflow where time_t has 32 bits.
        let now = os::monotonic().as_micros() as i128;
        self.notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(now)]);
        info!("reloading: the camera is opened again; options are read at a restart only");
        session.reopen();
        self.notify(&[NotifyState::Ready]);
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        let message = message(states);
        self.send(|socket| socket.send(message.as_bytes()));
    }

    fn send(&self, send: impl Fn(&UnixDatagram) -> io::Result<usize>) {
        let Some(Err(error)) = self.socket.as_ref().map(send) else { return };
        warn!("the service manager does not listen error=\"{error}\"");
    }
}

fn message(states: &[NotifyState<'_>]) -> String {
    states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Connects to a path, or to a name without a file where it begins with `@`. `sd_notify::notify` takes no such name, and
/// waits for ever for a manager that does not read.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
    Ok(socket)
}

/// Why this listener does not serve requests, if so. One address at which it does is enough.
fn request_problem(listener: &Socket, done: BorrowedFd<'_>) -> Option<String> {
    let addresses = match own_addresses(listener) {
        Ok(addresses) => addresses,
        Err(error) => return Some(format!("a listening socket has no address ({error})")),
    };
    let mut problem = None;
    for address in addresses {
        match request(&address, done) {
            Ok(true) => return None,
            Ok(false) => problem = Some("our own request got no response".into()),
            Err(error) if error.raw_os_error().is_some_and(|code| NO_WAY.contains(&code)) => {}
            Err(error) => problem = Some(format!("our own request failed ({error})")),
        }
    }
    problem
}

/// The addresses of this machine at which a listener can be reached.
fn own_addresses(listener: &Socket) -> io::Result<Vec<SockAddr>> {
    let address = listener.local_addr()?;
    let v4 = |port| TcpAddr::from((Ipv4Addr::LOCALHOST, port)).into();
    let v6 = |port| TcpAddr::from((Ipv6Addr::LOCALHOST, port)).into();
    Ok(match address.as_socket() {
        Some(tcp) if !tcp.ip().is_unspecified() => vec![address],
        Some(tcp) if tcp.is_ipv4() => vec![v4(tcp.port())],
        Some(tcp) if listener.only_v6()? => vec![v6(tcp.port())],
        Some(tcp) => vec![v6(tcp.port()), v4(tcp.port())],
        None => vec![address],
    })
}

/// Whether a request gets a response, whatever it is. `done` ends the wait, and then nobody asks any more.
fn request(address: &SockAddr, done: BorrowedFd<'_>) -> io::Result<bool> {
    let mut socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            if !os::is_writable(socket.as_fd(), OWN_REQUEST, Some(done))? {
                return Ok(false);
            }
            socket.take_error()?.map_or(Ok(()), Err)?;
        }
        connected => connected?,
    }
    socket.send(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let deadline = Instant::now() + OWN_REQUEST;
    let mut response = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match os::poll([done, socket.as_fd()], Some(left))? {
            [Event::Nothing, Event::Readable] => {}
            [Event::Nothing, _] => return Ok(false),
            _ => return Ok(true),
        }
        let mut piece = [0; 512];
        match socket.read(&mut piece)? {
            0 => return Ok(response.starts_with(b"HTTP/1.")),
            length => response.extend(&piece[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_must_respond_where_it_can_be_asked() {
        let (_end, done) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = || {
            let socket = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&TcpAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
            socket
        };
        let problem = request_problem(&socket(), done.as_fd()).unwrap();
        assert!(problem.contains("refused"), "{problem}");
        let silent = socket();
        silent.listen(1).unwrap();
        let problem = request_problem(&silent, done.as_fd()).unwrap();
        assert!(problem.contains("no response"), "{problem}");
        let (end, done) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(end);
        assert_eq!(request_problem(&silent, done.as_fd()), None, "nobody asks any more");
    }

    #[test]
    fn listeners_for_all_addresses_are_asked_at_home() {
        for (bound, only_v6, expected) in [
            ("127.0.0.1:0", false, &["127.0.0.1"][..]),
            ("0.0.0.0:0", false, &["127.0.0.1"]),
            ("[::]:0", true, &["::1"]),
            ("[::]:0", false, &["::1", "127.0.0.1"]),
            ("[::1]:0", true, &["::1"]),
        ] {
            let bound: TcpAddr = bound.parse().unwrap();
            let socket = Socket::new(socket2::Domain::for_address(bound), Type::STREAM, None).unwrap();
            if bound.is_ipv6() {
                socket.set_only_v6(only_v6).unwrap();
            }
            socket.bind(&bound.into()).unwrap();
            let addresses = own_addresses(&socket).unwrap();
            let ips: Vec<String> = addresses.iter().map(|a| a.as_socket().unwrap().ip().to_string()).collect();
            assert_eq!(ips, expected, "{bound}");
        }
    }
}
