//! The service manager that started us: the sockets it holds for us, and what it wants to hear.
//!
//! This speaks the two small protocols of systemd, `sd_listen_fds` and `sd_notify`, which others have taken over. Its
//! own thread tells how we are and feeds the watchdog, but only while the capture thread comes round (or sleeps on
//! purpose) and a request of our own is answered. Started by hand, all that is left of this is SIGHUP.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr as TcpAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use log::{info, warn};
use socket2::{MsgHdr, SockRef, Socket, Type};

use crate::camera::session::Phase;
use crate::http::{App, Listeners, Passed};
use crate::system::os::{self, Event};

/// How old the status in `systemctl status` may be, where no watchdog asks for more.
const STATUS_AGE: Duration = Duration::from_secs(10);
/// How long our own request may take, connecting and reading each.
const OWN_REQUEST: Duration = Duration::from_secs(2);
/// The name under which the manager keeps our listening sockets for our successor.
const KEPT: &str = "kept-listener";

/// The listening sockets that the manager passed to us.
pub fn passed_sockets() -> Passed {
    let mut passed = Passed::default();
    for (fd, name) in os::passed_descriptors() {
        let socket = Socket::from(fd);
        let listens = socket.is_listener().unwrap_or(false) && socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
        if !listens || socket.set_nonblocking(true).is_err() {
            warn!("the service manager passed something that is no listening socket name=\"{name}\"");
        } else if name == KEPT {
            passed.kept.push(socket);
        } else {
            passed.unit.push(socket);
        }
    }
    passed
}

/// See the module's documentation.
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names; one that hears nothing if there is none.
    pub fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            connect(&name).inspect_err(|error| warn!("cannot reach the service manager error=\"{error}\"")).ok()
        });
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// Gives our listening sockets into the manager's keeping. It passes them to the process that follows us: while
    /// we are restarted clients wait a moment, and none is refused.
    pub fn keep(&self, listeners: &Listeners) {
        for fd in listeners.own() {
            self.send(&format!("FDSTORE=1\nFDNAME={KEPT}"), &control_message(fd.as_raw_fd()));
        }
    }

    /// Reports until `done` is closed at its other end. What `reload` announces is done here, without a viewer lost.
    pub fn attend(&self, app: &App, listeners: &Listeners, reload: BorrowedFd<'_>, done: BorrowedFd<'_>) {
        let period = self.watchdog.map_or(STATUS_AGE, |limit| (limit / 4).min(STATUS_AGE));
        let mut status = status(app);
        self.tell(&format!("READY=1\nSTATUS={status}"));
        loop {
            let told = os::poll([done, reload], self.socket.as_ref().map(|_| period));
            match told {
                Ok([Event::Nothing, Event::Readable]) => {
                    // More than one signal in the meantime is one wish.
                    let _ = (&*SockRef::from(&reload)).read(&mut [0; 64]);
                    self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", os::monotonic().as_micros()));
                    info!("reloading: the camera is opened anew; options are read at a restart only");
                    app.session().reopen();
                    self.tell("READY=1");
                }
                Ok([Event::Nothing, Event::Nothing]) => {}
                _ => break,
            }
            let now = self::status(app);
            if now != status {
                self.tell(&format!("STATUS={now}"));
                status = now;
            }
            if self.watchdog.is_some() {
                let answers = listeners.sockets().iter().all(|socket| is_answered(socket).unwrap_or(false));
                match (app.is_alive(), answers) {
                    (true, true) => self.tell("WATCHDOG=1"),
                    (false, _) => warn!("the capture thread hangs: the watchdog is not fed"),
                    (_, false) => warn!("our own request was not answered: the watchdog is not fed"),
                }
            }
        }
        self.tell("STOPPING=1");
    }

    fn tell(&self, message: &str) {
        self.send(message, &[]);
    }

    fn send(&self, message: &str, control: &[u8]) {
        let Some(socket) = &self.socket else { return };
        let text = [IoSlice::new(message.as_bytes())];
        let header = MsgHdr::new().with_buffers(&text).with_control(control);
        if let Err(error) = SockRef::from(socket).sendmsg(&header, libc::MSG_NOSIGNAL) {
            warn!("the service manager does not listen error=\"{error}\"");
        }
    }
}

/// A path, or a name without a file where it begins with `@`.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// The `cmsghdr` that passes one descriptor: its length, SOL_SOCKET, SCM_RIGHTS and the descriptor.
fn control_message(fd: RawFd) -> Vec<u8> {
    let numbers = [libc::SOL_SOCKET, libc::SCM_RIGHTS, fd];
    let length = size_of::<usize>() + size_of_val(&numbers);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
    message
}

/// Whether a request to one of our own sockets is answered in time, whatever the answer says.
fn is_answered(listener: &Socket) -> io::Result<bool> {
    let mut address = listener.local_addr()?;
    if let Some(tcp) = address.as_socket().filter(|tcp| tcp.ip().is_unspecified()) {
        let here = if tcp.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        address = TcpAddr::new(here, tcp.port()).into();
    }
    let mut socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_read_timeout(Some(OWN_REQUEST))?;
    socket.connect_timeout(&address, OWN_REQUEST)?;
    socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.take(4096).read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1."))
}

/// How we are, in one line.
fn status(app: &App) -> String {
    let camera = app.session().status();
    let what = match camera.phase {
        Phase::Live => camera.mode.map_or("live".into(), |mode| format!("live {mode}")),
        Phase::Asleep => "the camera is asleep until somebody looks".into(),
        Phase::Starting => "the camera is starting".into(),
        Phase::Lost(why) => why,
    };
    format!("{what}; viewers: {}", app.viewers())
}
