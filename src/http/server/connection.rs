//! One client's socket: its options, reading with a deadline, and the loop that writes everything or gives up.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{IpAddr, Shutdown};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Condvar;
use socket2::{SockAddr, Socket, TcpKeepalive};

use crate::system::os;

/// A client whose socket takes no byte for this long is disconnected. An `<img>` does not reconnect, so a Wi-Fi gap of
/// four seconds must not end its connection.
const SILENCE: Duration = Duration::from_secs(7);
/// The kernel's own limit, for peers that vanish while little is sent. Not [`SILENCE`]: its clock runs on while a
/// steady but slow reader's window is too small for the next segment; with 8 s, 9 of 12 viewers that read 5 to
/// 10 kB/s were reset.
const VANISHED: Duration = Duration::from_secs(60);
/// Maximum time of one blocking send. Progress is checked between two.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);
/// Without a byte taken for this time, a part counts as stalled.
const STALL: Duration = Duration::from_secs(1);
/// A send blocks while more bytes than this are unsent, so that a slow viewer's pictures are a few frames old, not
/// seconds.
const NOT_SENT: u32 = 16 * 1024;
/// Maximum time for one part: this, and a second more for each [`PART_BYTES_PER_SECOND`]. It ends viewers that read a
/// few bytes at a time.
const PART_TIME: Duration = Duration::from_secs(10);
const PART_BYTES_PER_SECOND: usize = 4000;
/// How much is read and discarded, and for how long, so that the last response is not lost in a reset.
const LINGER_BYTES: usize = 256 * 1024;
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 26\r\n\r\nno room for a client now\r\n";
const LINGER_TIME: Duration = Duration::from_millis(500);

/// Why nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The client closed or reset the connection.
    Left,
    /// It stopped reading.
    Stalled,
    /// It reads, but too slowly for the part to end in time.
    TooSlow,
}

/// How well a client's socket takes what it is sent. Written by the client's own thread, and only while the socket's
/// buffer is full.
#[derive(Debug, Default)]
pub struct Flow {
    /// When the socket last took a byte, in ms of CLOCK_MONOTONIC, while more are waiting; else 0.
    taken_at: AtomicU64,
    stalls: AtomicU64,
}

impl Flow {
    /// Notes that bytes are waiting, and that the socket took the last one `ago`.
    pub fn waits(&self, ago: Duration) {
        let at = os::monotonic().saturating_sub(ago).as_millis() as u64;
        self.taken_at.store(at.max(1), Relaxed);
    }

    /// Notes that no bytes are waiting any more.
    pub fn drained(&self) {
        self.taken_at.store(0, Relaxed);
    }

    /// How often the socket took no byte for a second while bytes were waiting. Each part counts once at most.
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Relaxed)
    }

    /// How long the socket has taken no byte while bytes are waiting.
    pub fn stuck_for(&self) -> Duration {
        match self.taken_at.load(Relaxed) {
            0 => Duration::ZERO,
            at => os::monotonic().saturating_sub(Duration::from_millis(at)),
        }
    }
}

/// An accepted socket, shared by the client's thread and those that may have to evict the client.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    /// The address at the other end; `None` for a Unix socket.
    address: Option<IpAddr>,
    flow: Flow,
    is_evicted: AtomicBool,
    /// Wakes the connection's thread while it is queued; used with the lock of the limits.
    pub turn: Condvar,
}

impl Link {
    /// Takes over a socket that was accepted from this address.
    pub fn new(socket: Socket, address: &SockAddr) -> Arc<Self> {
        Arc::new(Self {
            socket,
            address: address.as_socket().map(|address| address.ip().to_canonical()),
            flow: Flow::default(),
            is_evicted: AtomicBool::new(false),
            turn: Condvar::new(),
        })
    }

    /// The address at the other end; `None` for a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// How well the socket takes what it is sent.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Closes the connection in favour of another.
    pub fn evict(&self) {
        self.is_evicted.store(true, Relaxed);
        self.shutdown();
    }

    /// Whether it was closed in favour of another.
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Relaxed)
    }

    /// Closes the connection and wakes the thread that is blocked on it; only that thread frees the descriptor.
    pub fn shutdown(&self) {
        // An error means that the client was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Lets the connection's thread read what has arrived, and then the end.
    pub fn stop_reading(&self) {
        // As above.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Sends 503 to a client for which there is no permit, thread or descriptor, without waiting.
    pub fn refuse(&self) {
        // A fresh connection's buffer takes this; if it does not, the client has left or does not read.
        let _ = self.socket.send_with_flags(OVERLOADED, libc::MSG_DONTWAIT);
    }
}

/// A connected client.
pub struct Connection {
    link: Arc<Link>,
    /// The client that sent the current request; see [`Connection::set_client`].
    client: Option<IpAddr>,
    peer: String,
}

impl Connection {
    /// Sets the options of an accepted socket. Options that a Unix socket lacks are left out.
    pub fn new(link: Arc<Link>) -> io::Result<Self> {
        let socket = &link.socket;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        if link.address.is_some() {
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_notsent_lowat(NOT_SENT)?;
            socket.set_tcp_user_timeout(Some(VANISHED))?;
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
        }
        let address = link.address;
        let mut connection = Self { link, client: None, peer: String::new() };
        connection.set_client(address);
        Ok(connection)
    }

    /// The address at the other end; `None` for a Unix socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.link.address
    }

    /// Sets the client that sent the current request. A proxy sends requests of many clients.
    pub fn set_client(&mut self, client: Option<IpAddr>) {
        self.client = client;
        self.peer = client.map_or("unix".into(), |address| address.to_string());
    }

    /// The address of the client that sent the current request.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The same without the port, for the log.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Appends what can be read to `buffer`, up to `room` bytes. Returns 0 when the client has closed its end.
    pub fn read(&self, buffer: &mut Vec<u8>, room: usize, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.link.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let start = buffer.len();
        buffer.resize(start + room, 0);
        let got = (&self.link.socket).read(&mut buffer[start..]);
        buffer.truncate(start + *got.as_ref().unwrap_or(&0));
        got
    }

    /// Sends all of these bytes, in one send where the client keeps up.
    pub fn send(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.send_with(bytes.len(), part_time(bytes.len()), |done, flags| {
            self.link.socket.send_with_flags(&bytes[done..], flags)
        })
    }

    /// Sends all of these bytes within this time; see [`Connection::set_send_timeout`].
    pub fn send_within(&self, bytes: &[u8], time: Duration) -> Result<(), SendError> {
        self.send_with(bytes.len(), time, |done, flags| self.link.socket.send_with_flags(&bytes[done..], flags))
    }

    /// Shortens the time of one blocking send, so that a deadline as short as this time is noticed.
    pub fn set_send_timeout(&self, time: Duration) {
        let timeout = (time / 4).clamp(Duration::from_millis(10), SEND_TIMEOUT);
        // After an error the longer time-out stays, and the deadline is noticed late.
        let _ = self.link.socket.set_write_timeout(Some(timeout));
    }

    /// Sends both slices, in one send where the client keeps up.
    pub fn send_both(&self, head: &[u8], body: &[u8]) -> Result<(), SendError> {
        let length = head.len() + body.len();
        self.send_with(length, part_time(length), |done, flags| {
            let head_left = head.get(done..).unwrap_or_default();
            let body_left = &body[done.saturating_sub(head.len())..];
            self.link.socket.send_vectored_with_flags(&[IoSlice::new(head_left), IoSlice::new(body_left)], flags)
        })
    }

    fn send_with(
        &self,
        length: usize,
        time: Duration,
        send: impl Fn(usize, i32) -> io::Result<usize>,
    ) -> Result<(), SendError> {
        let began = Instant::now();
        // Without waiting, so that it is known from when on the client's buffer has been full.
        match send(0, libc::MSG_DONTWAIT) {
            Ok(sent) if sent == length => Ok(()),
            first => {
                let end = self.send_rest(length, began, time, first, send);
                self.link.flow.drained();
                end
            }
        }
    }

    /// Goes on sending after the socket's buffer was full.
    fn send_rest(
        &self,
        length: usize,
        began: Instant,
        time: Duration,
        first: io::Result<usize>,
        send: impl Fn(usize, i32) -> io::Result<usize>,
    ) -> Result<(), SendError> {
        let (mut done, mut progress, mut is_stalled) = (0, began, false);
        let mut sent = first;
        loop {
            let sent_now = sent.or_else(|error| not_yet(&error))?;
            done += sent_now;
            if done >= length {
                return Ok(());
            }
            let now = Instant::now();
            if sent_now > 0 {
                progress = now;
            } else if !is_stalled && now - progress >= STALL {
                is_stalled = true;
                self.link.flow.stalls.fetch_add(1, Relaxed);
            }
            if now - progress >= SILENCE {
                return Err(SendError::Stalled);
            }
            if now - began >= time {
                return Err(SendError::TooSlow);
            }
            self.link.flow.waits(now - progress);
            sent = send(done, 0);
        }
    }

    /// Whether the client has closed its end or the connection has broken, whatever it sent before.
    pub fn has_left(&self) -> bool {
        os::peer(self.link.socket.as_fd()) != os::Peer::Here
    }

    /// Whether the connection has broken. A client that has only closed its end may still read.
    pub fn is_broken(&self) -> bool {
        os::peer(self.link.socket.as_fd()) == os::Peer::Closed
    }

    /// Ends the connection so that the client receives the last response: closing a socket that has unread bytes resets
    /// the connection.
    pub fn linger(&self) {
        if self.link.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER_TIME;
        let mut bin = Vec::new();
        let mut total = 0;
        while let Ok(got @ 1..) = self.read(&mut bin, 4096, deadline) {
            bin.clear();
            total += got;
            if total > LINGER_BYTES {
                return;
            }
        }
    }
}

/// Maximum time for a part of this length.
fn part_time(length: usize) -> Duration {
    PART_TIME + Duration::from_secs((length / PART_BYTES_PER_SECOND) as u64)
}

/// Returns 0 bytes for a send that has to be tried again.
fn not_yet(error: &io::Error) -> Result<usize, SendError> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
        // TCP_USER_TIMEOUT has expired.
        ErrorKind::TimedOut => Err(SendError::Stalled),
        _ => Err(SendError::Left),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use socket2::{Domain, Type};

    pub(in crate::http::server) fn pair() -> (Connection, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = ours.peer_addr().unwrap();
        (Connection::new(Link::new(ours, &address)).unwrap(), theirs)
    }

    #[test]
    fn sends_head_and_body_whole_to_a_slow_reader() {
        let (ours, mut theirs) = pair();
        let body = vec![7; 3_000_000];
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            got
        });
        ours.send_both(b"head", &body).unwrap();
        drop(ours);
        let got = reader.join().unwrap();
        assert_eq!((&got[..4], got.len()), (&b"head"[..], body.len() + 4));
    }

    #[test]
    fn notices_a_client_that_left() {
        let (ours, theirs) = pair();
        assert!(!ours.has_left());
        theirs.send(b"GET / HT").unwrap();
        assert!(!ours.has_left(), "it has sent something");
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(ours.has_left() && !ours.is_broken(), "it may still read");
        drop(theirs);
        assert!(ours.has_left() && ours.is_broken());
        assert_eq!(ours.send(b"x"), Err(SendError::Left));
    }

    #[test]
    fn tells_for_how_long_a_client_has_taken_nothing() {
        let (ours, mut theirs) = pair();
        ours.set_send_timeout(Duration::from_millis(40));
        let body = vec![7; 3_000_000];
        let began = Instant::now();
        assert_eq!(ours.send_within(&body, Duration::from_millis(300)), Err(SendError::TooSlow));
        assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(5));
        assert_eq!(ours.link.flow().stuck_for(), Duration::ZERO, "nothing waits any more");
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| ours.send(&body));
            while ours.link.flow().stuck_for() < Duration::from_millis(100) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let mut got = vec![0; 1_000_000];
            theirs.read_exact(&mut got).unwrap();
            drop(theirs);
            assert_eq!(sender.join().unwrap(), Err(SendError::Left));
        });
        assert_eq!(ours.link.flow().stuck_for(), Duration::ZERO);
    }
}
