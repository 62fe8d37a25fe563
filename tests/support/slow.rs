//! Viewers whose line is slow, or that have stopped reading.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::http::Client;

/// Reads at most `bytes_per_second`, evenly, however much is there.
pub struct SlowReader<R> {
    inner: R,
    bytes_per_second: u32,
    due: Instant,
}

impl<R: Read> SlowReader<R> {
    pub fn new(inner: R, bytes_per_second: u32) -> SlowReader<R> {
        SlowReader { inner, bytes_per_second, due: Instant::now() }
    }
}

impl<R: Read> Read for SlowReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
        // A fiftieth of a second's bytes at a time: small enough to look like a steady line.
        let chunk = buffer.len().min((self.bytes_per_second as usize / 50).max(1));
        let read = self.inner.read(&mut buffer[..chunk])?;
        // From now, not from the last due time: a pause does not earn a burst.
        self.due = Instant::now() + Duration::from_secs(1) * read as u32 / self.bytes_per_second;
        Ok(read)
    }
}

/// Connects with a small receive buffer and Ethernet's segment size, so that the server soon feels how slowly we
/// read. Loopback's own segments of 64 KB would open the window in jumps of many seconds, as no network does.
pub fn narrow_connection(address: SocketAddr, receive_buffer: usize) -> TcpStream {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(receive_buffer).expect("SO_RCVBUF can be set");
    socket.set_tcp_mss(1_460).expect("TCP_MAXSEG can be set");
    socket.connect(&address.into()).expect("the server accepts connections");
    socket.into()
}

/// A viewer that asks for the stream and never reads a byte of it.
pub fn stalled_viewer(address: SocketAddr) -> TcpStream {
    let mut client = Client::over(narrow_connection(address, 16 * 1024));
    client.send(super::request("GET", "/stream"));
    client.into_socket()
}
