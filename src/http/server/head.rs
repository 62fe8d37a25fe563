//! Reads a request: its head, with limits on size, fields and time, and its body.

use std::fmt;
use std::io::ErrorKind;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Method};

use super::connection::Connection;

/// Maximum length of a head in bytes.
const HEAD_BYTES: usize = 8 * 1024;
/// Maximum number of header fields.
const FIELDS: usize = 64;
/// Maximum time from a head's first byte (or the accept) to its last one, however slowly bytes arrive in between.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Maximum time for which a connection is kept open without a request.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// Maximum length of a body in bytes.
const BODY_BYTES: usize = 64 * 1024;

/// A complete and valid request head.
#[derive(Debug)]
pub struct Head {
    /// The method, which may be unknown.
    pub method: Method,
    /// The target as sent: path and query, or an absolute URI.
    pub target: String,
    /// The version: 1.0 or 1.1.
    pub version: HTTPVersion,
    fields: Vec<(String, String)>,
    body_bytes: usize,
}

impl Head {
    /// Stands for a head that could not be read; a response to it closes the connection.
    pub fn unread() -> Self {
        let fields = vec![("Connection".into(), "close".into())];
        Self { method: Method::Get, target: String::new(), version: HTTPVersion(1, 1), fields, body_bytes: 0 }
    }

    /// The value of the first field with this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The values of all fields with this name, in the order in which they were sent.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).count()
    }

    /// Whether the client wants to send another request on this connection.
    pub fn keeps_alive(&self) -> bool {
        let says = |word: &str| {
            let lines = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case("Connection"));
            lines.flat_map(|(_, value)| value.split(',')).any(|token| trim(token).eq_ignore_ascii_case(word))
        };
        if self.version == HTTPVersion(1, 0) { says("keep-alive") && !says("close") } else { !says("close") }
    }
}

/// Why there is no request to respond to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadError {
    /// The client left, or sent nothing for too long. There is nothing to respond to.
    Nothing,
    /// The request is invalid. A response with this status and text is sent, then the connection is closed.
    Refused(u16, &'static str),
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no request arrived"),
            Self::Refused(status, why) => write!(f, "{status}: {why}"),
        }
    }
}

/// Reads requests from one connection, and keeps what the client has sent ahead.
pub struct Requests {
    buffer: Vec<u8>,
    /// So many bytes of the buffer were searched for a head's end, and so many parsed, without success.
    searched: usize,
    parsed: usize,
    is_first: bool,
}

impl Requests {
    /// A reader that has read nothing yet.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), searched: 0, parsed: 0, is_first: true }
    }

    /// Waits for the next head. Its body must be read before the next call.
    pub fn next(&mut self, connection: &Connection) -> Result<Head, HeadError> {
        let mut deadline = Instant::now() + if self.is_first { HEAD_TIME } else { IDLE_TIME };
        let mut has_begun = self.is_first;
        let mut empty_lines = 0;
        self.is_first = false;
        (self.searched, self.parsed) = (0, 0);
        loop {
            empty_lines += self.skip_empty_lines();
            if empty_lines > HEAD_BYTES {
                return Err(HeadError::Refused(400, "more than 8 KiB of empty lines in front of a request"));
            }
            if !self.buffer.is_empty() {
                if !has_begun {
                    has_begun = true;
                    deadline = Instant::now() + HEAD_TIME;
                }
                if let Some(head) = self.parse_if_due()? {
                    return Ok(head);
                }
            }
            let room = HEAD_BYTES.saturating_sub(self.buffer.len());
            if room == 0 {
                let has_line = self.buffer.contains(&b'\n');
                return Err(match has_line {
                    true => HeadError::Refused(431, "the request head is longer than 8 KiB"),
                    false => HeadError::Refused(414, "the request line is longer than 8 KiB"),
                });
            }
            match connection.read(&mut self.buffer, room, deadline) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                    if self.buffer.is_empty() {
                        return Err(HeadError::Nothing);
                    }
                    if Instant::now() >= deadline {
                        // What is wrong with what did arrive says more.
                        parse(&self.buffer)?;
                        return Err(HeadError::Refused(408, "the request head did not arrive within 5 s"));
                    }
                }
                Ok(0) | Err(_) => return Err(HeadError::Nothing),
            }
        }
    }

    /// Removes the line ends in front of a request, which old clients send behind a body (RFC 9112, section 2.2).
    /// Returns how many bytes they had.
    fn skip_empty_lines(&mut self) -> usize {
        let mut length = 0;
        while let [b'\r', b'\n', ..] | [b'\n', ..] = self.buffer[length..] {
            length += if self.buffer[length] == b'\r' { 2 } else { 1 };
        }
        self.buffer.drain(..length);
        length
    }

    /// Parses the head if its end may be there, or twice as much as when it was last tried, so that invalid beginnings are
    /// refused early and single bytes cost no more than whole heads.
    fn parse_if_due(&mut self) -> Result<Option<Head>, HeadError> {
        let new = &self.buffer[self.searched.saturating_sub(2).min(self.buffer.len())..];
        let has_end = new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
        self.searched = self.buffer.len();
        if !has_end && self.buffer.len() < self.parsed * 2 {
            return Ok(None);
        }
        self.parsed = self.buffer.len();
        let Some((head, length)) = parse(&self.buffer)? else { return Ok(None) };
        self.buffer.drain(..length);
        Ok(Some(head))
    }

    /// Reads the body of the request whose head was just read.
    pub fn body(&mut self, head: &Head, connection: &Connection) -> Result<Vec<u8>, HeadError> {
        let expects = head.field("Expect").filter(|_| head.version == HTTPVersion(1, 1));
        if expects.is_some_and(|what| !what.eq_ignore_ascii_case("100-continue")) {
            return Err(HeadError::Refused(417, "the only supported expectation is 100-continue"));
        }
        if head.body_bytes > 0 && expects.is_some() {
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| HeadError::Nothing)?;
        }
        let deadline = Instant::now() + HEAD_TIME;
        while self.buffer.len() < head.body_bytes {
            let room = (head.body_bytes - self.buffer.len()).min(HEAD_BYTES);
            match connection.read(&mut self.buffer, room, deadline) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                    return Err(HeadError::Refused(408, "the request body did not arrive within 5 s"));
                }
                Ok(0) | Err(_) => return Err(HeadError::Nothing),
            }
        }
        Ok(self.buffer.drain(..head.body_bytes).collect())
    }
}

/// Removes the white space of HTTP at both ends: spaces and tabs, and nothing that Unicode has beside them.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Parses a head and returns it with its length, or `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::Refused(431, "more than 64 header fields")),
        Err(httparse::Error::Version) => {
            return Err(HeadError::Refused(505, "only HTTP/1.0 and HTTP/1.1 are supported"));
        }
        Err(_) => return Err(HeadError::Refused(400, "not an HTTP request")),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Refused(400, "the request line is incomplete"));
    };
    let text = |value: &[u8]| trim(&String::from_utf8_lossy(value)).to_owned();
    let fields = request.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect();
    let method = Method::from_str(method).map_err(|()| HeadError::Refused(400, "the method is not a token"))?;
    let mut head = Head { method, target: target.to_owned(), version: HTTPVersion(1, minor), fields, body_bytes: 0 };
    head.body_bytes = body_bytes(&head)?;
    Ok(Some((head, length)))
}

/// The length of the body. Where it is ambiguous, the connection must be closed (RFC 9112, section 6.3).
fn body_bytes(head: &Head) -> Result<usize, HeadError> {
    if head.count("Host") > 1 || head.count("Host") == 0 && head.version == HTTPVersion(1, 1) {
        return Err(HeadError::Refused(400, "HTTP/1.1 needs exactly one Host"));
    }
    let length = head.field("Content-Length");
    if head.field("Transfer-Encoding").is_some() {
        return Err(match length {
            Some(_) => HeadError::Refused(400, "both Content-Length and Transfer-Encoding"),
            None => HeadError::Refused(501, "Transfer-Encoding is not supported: send Content-Length"),
        });
    }
    let Some(length) = length else { return Ok(0) };
    if head.count("Content-Length") > 1 || length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HeadError::Refused(400, "Content-Length must be one number"));
    }
    match length.parse() {
        Ok(length @ 0..=BODY_BYTES) => Ok(length),
        _ => Err(HeadError::Refused(413, "the request body is longer than 64 KiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::tests::pair;
    use super::*;
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn status(request: &str) -> u16 {
        match parse(request.as_bytes()) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(HeadError::Refused(status, _)) => status,
            Err(HeadError::Nothing) => 1,
        }
    }

    #[test]
    fn heads_are_taken_or_refused() {
        let fields = |n: usize| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
        for (request, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET / HTTP/1.0\n\n", 200),
            ("GET http://a/stream HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\n", 0),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\0\r\n\r\n", 400),
            ("\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000000\r\n\r\n", 413),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
        ] {
            assert_eq!(status(request), expected, "{request:?}");
        }
        assert_eq!(status(&format!("GET / HTTP/1.0\r\n{}\r\n", fields(64))), 200);
        assert_eq!(status(&format!("GET / HTTP/1.0\r\n{}\r\n", fields(65))), 431);
    }

    #[test]
    fn only_spaces_and_tabs_are_removed_from_values() {
        for (value, expected) in [
            ("3", 200),
            (" \t3\t ", 200),
            ("3\u{a0}", 400),
            ("\u{2003}3", 400),
            ("3\u{3000}", 400),
            ("\u{feff}3", 400),
            ("3\u{85}", 400),
            ("3\u{b}", 400),
        ] {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:{value}\r\n\r\n");
            assert_eq!(status(&request), expected, "{value:?}");
        }
        let latin = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\xa0\r\n\r\n";
        assert!(matches!(parse(latin), Err(HeadError::Refused(400, _))));
    }

    /// What the reader makes of bytes that come in pieces of this length.
    fn read(bytes: &[u8], piece: usize) -> (Vec<String>, usize) {
        let (mut requests, mut targets, mut parsed) = (Requests::new(), Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            requests.buffer.extend_from_slice(piece);
            loop {
                requests.skip_empty_lines();
                let before = requests.parsed;
                let head = requests.parse_if_due().unwrap();
                parsed += if requests.parsed == before { 0 } else { requests.parsed };
                let Some(head) = head else { break };
                targets.push(head.target);
                (requests.searched, requests.parsed) = (0, 0);
            }
        }
        (targets, parsed)
    }

    #[test]
    fn single_bytes_and_empty_lines_change_nothing_and_cost_little() {
        let fields = (0..60).map(|i| format!("X-{i}: {}\r\n", "y".repeat(100))).collect::<String>();
        let long = format!("GET /long HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let bytes =
            format!("\r\n\nGET /a HTTP/1.0\n\n\r\nGET /b HTTP/1.0\r\n\r\n\r\n\r\n{long}\nGET /c HTTP/1.0\n\r\n\r\n");
        for piece in [1, 2, 3, 7, 100, 100_000] {
            let (targets, parsed) = read(bytes.as_bytes(), piece);
            assert_eq!(targets, ["/a", "/b", "/long", "/c"], "{piece} bytes at a time");
            assert!(
                parsed < 4 * bytes.len() + 100,
                "{parsed} bytes were parsed of {} in pieces of {piece}",
                bytes.len()
            );
        }
    }

    /// The next head of a client that sends these bytes and then waits, and how long that took.
    fn next(sent: &[u8]) -> (Result<String, HeadError>, Duration) {
        let (ours, theirs) = pair();
        theirs.send(sent).unwrap();
        let began = Instant::now();
        let next = Requests::new().next(&ours).map(|head| head.target);
        (next, began.elapsed())
    }

    fn long_head(bytes: usize) -> Vec<u8> {
        let start = "GET /long HTTP/1.0\r\nX: ";
        [start.as_bytes(), &vec![b'y'; bytes - start.len() - 4], b"\r\n\r\n"].concat()
    }

    #[test]
    fn sizes_are_limited_to_the_byte() {
        let lines = |bytes: usize| [&vec![b'\n'; bytes][..], b"GET /lines HTTP/1.0\n\n"].concat();
        let refused = |status| Err(status);
        for (sent, expected) in [
            (long_head(8192), Ok("/long")),
            (long_head(8193), refused(431)),
            ([b"GET /", &vec![b'y'; 8192][..]].concat(), refused(414)),
            (lines(8192), Ok("/lines")),
            (lines(8193), refused(400)),
            (b"POST /post HTTP/1.0\r\nContent-Length: 65536\r\n\r\n".to_vec(), Ok("/post")),
            (b"POST /post HTTP/1.0\r\nContent-Length: 65537\r\n\r\n".to_vec(), refused(413)),
            // Before more of it comes.
            (b"\x16\x03\x01".to_vec(), refused(400)),
        ] {
            let (next, took) = next(&sent);
            let status = |error| if let HeadError::Refused(status, _) = error { status } else { 0 };
            assert_eq!(next.as_deref().map_err(|error| status(error.clone())), expected, "{} bytes", sent.len());
            assert!(took < HEAD_TIME / 2, "{took:?}");
        }
    }

    /// A client that sends a byte every 200 ms, behind a whole request if `is_second`.
    fn drip(is_second: bool) -> (HeadError, Duration) {
        let (ours, theirs) = pair();
        let mut requests = Requests::new();
        if is_second {
            theirs.send(b"GET /first HTTP/1.0\n\n").unwrap();
            assert_eq!(requests.next(&ours).unwrap().target, "/first");
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let dripper = scope.spawn(|| {
                for byte in std::iter::once(&b'G').chain(b"ET /".iter().chain(std::iter::repeat_n(&b'y', 50))) {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    theirs.send(std::slice::from_ref(byte)).unwrap();
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            let began = Instant::now();
            let error = requests.next(&ours).unwrap_err();
            let took = began.elapsed();
            is_over.store(true, Ordering::SeqCst);
            dripper.join().unwrap();
            (error, took)
        })
    }

    #[test]
    fn a_head_has_five_seconds_however_its_bytes_come() {
        std::thread::scope(|scope| {
            let clients = [false, true].map(|is_second| scope.spawn(move || drip(is_second)));
            for client in clients {
                let (error, took) = client.join().unwrap();
                assert!(matches!(error, HeadError::Refused(408, _)), "{error}");
                assert!(took >= HEAD_TIME && took < HEAD_TIME + Duration::from_secs(4), "{took:?}");
            }
        });
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(Requests::new().next(&ours).unwrap_err(), HeadError::Nothing);
    }

    #[test]
    fn a_body_is_read_whole_and_the_next_request_is_left() {
        let (ours, theirs) = pair();
        let mut requests = Requests::new();
        let long = vec![b'b'; 20_000];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in [
                    &b"POST /a HTTP/1.0\r\nContent-Length: 3\r\n\r\nabcPOST /b HTTP/1.0\r\nContent-Length: 20000\r\n\r\n"[..],
                    &long[..10_000],
                    &long[10_000..],
                    b"GET /c",
                    b" HTTP/1.0\n\n",
                ] {
                    theirs.send(piece).unwrap();
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            for (target, body) in [("/a", &b"abc"[..]), ("/b", &long), ("/c", b"")] {
                let head = requests.next(&ours).unwrap();
                assert_eq!(head.target, target);
                assert_eq!(requests.body(&head, &ours).unwrap(), body, "{target}");
            }
        });
    }

    #[test]
    fn a_client_that_expects_100_continue_gets_it_where_there_is_a_body() {
        for (version, expects, bytes, expected) in [
            ("1.1", "100-continue", 3, Ok(true)),
            ("1.1", "100-Continue", 0, Ok(false)),
            ("1.0", "100-continue", 3, Ok(false)),
            ("1.0", "200-ok", 3, Ok(false)),
            ("1.1", "200-ok", 3, Err(417)),
        ] {
            let (ours, mut theirs) = pair();
            let fields = format!("Host: a\r\nExpect: {expects}\r\nContent-Length: {bytes}");
            theirs.send(format!("POST / HTTP/{version}\r\n{fields}\r\n\r\n{}", "b".repeat(bytes)).as_bytes()).unwrap();
            let mut requests = Requests::new();
            let head = requests.next(&ours).unwrap();
            let body = requests.body(&head, &ours).map_err(|error| error.to_string());
            drop(ours);
            let mut got = String::new();
            theirs.read_to_string(&mut got).unwrap();
            let status = |error: String| error[..3].parse::<u16>().unwrap();
            assert_eq!(body.map(|_| !got.is_empty()).map_err(status), expected, "{version} {expects} {bytes}");
        }
    }

    #[test]
    fn a_body_that_does_not_come_is_refused_and_a_client_that_left_is_not() {
        let read = |leaves: bool| {
            let (ours, theirs) = pair();
            theirs.send(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\na").unwrap();
            let mut requests = Requests::new();
            let head = requests.next(&ours).unwrap();
            // It leaves without having read this, which resets the connection.
            ours.send(b"unread").unwrap();
            let theirs = Some(theirs).filter(|_| !leaves);
            let body = requests.body(&head, &ours);
            drop(theirs);
            body
        };
        assert_eq!(read(true), Err(HeadError::Nothing));
        let error = read(false).unwrap_err();
        assert_eq!(error.to_string(), "408: the request body did not arrive within 5 s");
        assert_eq!(HeadError::Nothing.to_string(), "no request arrived");
    }

    #[test]
    fn fields_are_found_whatever_their_case() {
        let (head, _) = parse(b"GET / HTTP/1.0\r\nA: 1\r\nB: 2\r\na: 3\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.all("a"), head.field("A"), head.field("c")), (vec!["1", "3"], Some("1"), None));
    }

    #[test]
    fn keep_alive_follows_version_and_field() {
        for (request, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: TE, Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            let (head, _) = parse(request.as_bytes()).unwrap().unwrap();
            assert_eq!(head.keeps_alive(), expected, "{request:?}");
        }
    }
}
