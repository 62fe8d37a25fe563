//! A raw HTTP client: what is sent is what the test wrote, what comes back is taken apart strictly.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;
use super::multipart::PartReader;

/// One response. `head` is the exact bytes up to and including the empty line.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that may be there once, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} is sent twice:\n{}", self.head);
        value
    }

    /// All values of a header that may be there several times.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The value of a header that has to be there.
    pub fn expect_header(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in the response:\n{}", self.head))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the server announced that it closes after this response.
    pub fn says_close(&self) -> bool {
        match self.header("Connection") {
            Some(value) => value.eq_ignore_ascii_case("close"),
            None => self.head.starts_with("HTTP/1.0"),
        }
    }

    /// The refusal of a full server or a missing camera: 503, when to come again, and why in words.
    #[track_caller]
    pub fn assert_unavailable(&self) {
        assert_eq!(self.status, 503, "{}", self.head);
        let retry_after = self.expect_header("Retry-After");
        assert!(retry_after.parse::<u32>().is_ok(), "Retry-After is a number of seconds: {retry_after}");
        assert!(self.text().trim().len() > 8, "the reason is told in words: {:?}", self.text());
    }
}

/// A plain HTTP/1.1 request without a body.
pub fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: framehub.local\r\n\r\n")
}

/// The same with more header lines.
pub fn request_with(method: &str, target: &str, fields: &[(&str, &str)]) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let host = if fields.contains("Host: ") { "" } else { "Host: framehub.local\r\n" };
    format!("{method} {target} HTTP/1.1\r\n{host}{fields}\r\n")
}

/// One connection, blocking, on which no read or write waits longer than [`PATIENCE`].
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts connections");
        Client::over(socket)
    }

    pub fn over(socket: TcpStream) -> Client {
        socket.set_read_timeout(Some(PATIENCE)).expect("time-outs can be set");
        socket.set_write_timeout(Some(PATIENCE)).expect("time-outs can be set");
        socket.set_nodelay(true).expect("TCP_NODELAY can be set");
        Client { reader: BufReader::new(socket) }
    }

    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The socket alone, of a client that has read nothing yet.
    pub fn into_socket(self) -> TcpStream {
        assert!(self.reader.buffer().is_empty(), "bytes that were read already would be lost");
        self.reader.into_inner()
    }

    /// What follows the answers that were read.
    pub fn into_reader(self) -> BufReader<TcpStream> {
        self.reader
    }

    /// Writes it all, or says why not: a server may have hung up on us with good reason.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes the request");
    }

    /// The response to the request that was just sent.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response("GET").expect("the server answers")
    }

    /// A response, or how the connection ended instead. The method decides if a body follows.
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = read_head(&mut self.reader)?;
        let is_stream = response.header("Content-Type").is_some_and(|value| value.starts_with("multipart/"));
        if method != "HEAD" && response.status != 204 && !is_stream {
            let length = response.header("Content-Length").ok_or_else(|| bad("a response without Content-Length"))?;
            let length = length.parse().map_err(|_| bad("Content-Length is not a number"))?;
            response.body = vec![0; length];
            self.reader.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    #[track_caller]
    pub fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.send(bytes);
        self.response()
    }

    /// Asks for a stream and returns the reader of its parts, with the response's head.
    #[track_caller]
    pub fn stream(mut self, bytes: impl AsRef<[u8]>) -> (Response, PartReader<BufReader<TcpStream>>) {
        let response = self.exchange(bytes);
        assert_eq!(response.status, 200, "{}", response.head);
        (response, PartReader::new(self.reader))
    }

    /// Everything until the connection ends, whether politely or by a reset. Fails if it stays open.
    #[track_caller]
    pub fn drain(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => rest,
            Err(e) => panic!("the server should have closed the connection: {e}"),
        }
    }

    /// Asserts that the server closes now and sends nothing more.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let rest = self.drain();
        assert!(rest.is_empty(), "bytes after the last response: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Leaves as a crashed client does: RST instead of FIN.
    pub fn reset(self) {
        let socket = self.reader.into_inner();
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
        drop(socket);
    }

    /// Says that no further request follows, and goes on reading.
    pub fn finish_sending(&self) {
        self.socket().shutdown(Shutdown::Write).expect("a connected socket can be half closed");
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let before = head.len();
        reader.read_until(b'\n', &mut head)?;
        if head.len() == before {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the response's head ended"));
        }
        if head.len() > 16 * 1024 {
            return Err(bad("the response's head has no end"));
        }
    }
    let head = String::from_utf8(head).map_err(|_| bad("the response's head is not text"))?;
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.split_once(' '))
        .and_then(|(code, reason)| if reason.is_empty() { None } else { code.parse().ok() })
        .ok_or_else(|| bad(format!("not a status line: {status_line:?}")))?;
    let headers = lines.map(split_header).collect::<io::Result<Vec<_>>>()?;
    let response = Response { head: head.clone(), status, headers, body: Vec::new() };
    if response.header("Transfer-Encoding").is_some() {
        return Err(bad("answers are never chunked"));
    }
    Ok(response)
}

/// `Name: value` with exactly one space, as GStreamer wants it.
fn split_header(line: &str) -> io::Result<(String, String)> {
    match line.split_once(": ") {
        Some((name, value)) if !name.is_empty() && value.trim() == value => Ok((name.into(), value.into())),
        _ => Err(bad(format!("not a header line: {line:?}"))),
    }
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
