//! The client's side of HTTP/1.1, as far as a camera's server needs it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::{fmt, str};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::device::{absent, failed, without_credentials};
use super::splitter::{Head, read_head};
use crate::camera::CameraError;
use crate::system::os::{self, Event};
use crate::system::percent::decode;

/// How long one address may take to accept a connection, and all of a name's addresses.
const CONNECT: Duration = Duration::from_secs(3);
const CONNECT_ALL: Duration = Duration::from_secs(6);
/// How long the head of a response may take.
const HEAD_TIME: Duration = Duration::from_secs(6);
const HEAD_BYTES: usize = 16 << 10;
const READ: usize = 64 << 10;

/// `http://HOST[:PORT]/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

/// A user and a password, as a request has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Basic(String);

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basic(***)")
    }
}

impl Basic {
    /// From the user's name and password.
    pub fn new(user: &str, password: &str) -> Self {
        Self(STANDARD.encode(format!("{user}:{password}")))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl Url {
    /// Reads an address with this scheme, and the credentials in it.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(scheme: &str, text: &str) -> Result<(Self, Option<Basic>), String> {
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => {
                return Err(
                    "HTTPS is not supported: expected http://HOST/PATH; put stunnel or a proxy in between, which \
                            speaks HTTPS to the server (docs/sources.md)"
                        .into(),
                );
            }
            "rtsp" | "rtsps" => {
                return Err("RTSP is not supported: expected http://HOST/PATH, or a command that reads it, such as \
                            exec:ffmpeg -i rtsp://... (docs/sources.md)"
                    .into());
            }
            _ => return Err("expected http://HOST[:PORT]/PATH".into()),
        }
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7F) {
            return Err("expected an address without spaces; a space in it is written %20".into());
        }
        let rest = &text[scheme.len() + 3..];
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (name, port) = match host.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((name, port)) => (name, port.parse().ok().filter(|port| *port > 0)),
            None => (host, Some(80)),
        };
        let port = port.ok_or(
            "expected a port from 1 to 65535 behind the host; in a password, : / ? # @ are written \
                               %3A %2F %3F %23 %40",
        )?;
        let is_address = name.starts_with('[') && name.ends_with(']');
        let inner = if is_address { decode(&name[1..name.len() - 1], b'+') } else { name.to_ascii_lowercase() };
        if inner.is_empty() || (!is_address && inner.contains([':', '[', ']'])) {
            return Err(
                "expected http://HOST[:PORT]/PATH; an IPv6 address stands in brackets: http://[fd00::1]/".into()
            );
        }
        let basic = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        let basic = basic.map(|(user, password)| Basic::new(&decode(user, b'+'), &decode(password, b'+')));
        Ok((Self { host: inner, port, path }, basic))
    }

    /// The host and its port, as in a request; the port only where it is not 80.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }

    /// Where a redirect leads to, without what credentials stand in it.
    fn join(&self, location: &str) -> Result<Self, String> {
        if let Some((scheme, _)) = location.split_once("://") {
            return Self::parse(scheme, location).map(|(url, _)| url);
        }
        let path = if location.starts_with("//") {
            return Self::parse("http", &format!("http:{location}")).map(|(url, _)| url);
        } else if location.starts_with('/') {
            location.to_owned()
        } else {
            let folder = self.path.split('?').next().and_then(|path| path.rsplit_once('/'));
            format!("{}/{location}", folder.map_or("", |(folder, _)| folder))
        };
        Self::parse("http", &format!("http://{}{path}", self.authority())).map(|(url, _)| url)
    }

    fn connect(&self) -> Result<TcpStream, CameraError> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let addresses = addresses.map_err(|error| absent(self.unresolved(&error)))?;
        let deadline = Instant::now() + CONNECT_ALL;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now()).min(CONNECT);
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(absent(format!("cannot connect to {}: {last}", self.authority())))
    }

    fn unresolved(&self, error: &io::Error) -> String {
        let host = &self.host;
        if host.ends_with(".local") || host.ends_with(".local.") {
            return format!(
                "cannot find {host}: .local names need mDNS, which this system does not offer here; use the camera's IP \
                 address, or add a line with it and {host} to /etc/hosts ({error})"
            );
        }
        format!("cannot find {host}: {error}; is the name right, and the network up? An IP address always works")
    }
}

/// A response whose head has been read.
pub struct Response {
    socket: TcpStream,
    /// What was read and not looked at yet.
    rest: Vec<u8>,
    length: Length,
    /// What its head says.
    pub meta: Meta,
}

/// What the head of a response says.
#[derive(Debug, Default)]
pub struct Meta {
    status: u16,
    location: Option<String>,
    /// How long the body is, where it says.
    pub content_length: Option<u64>,
    is_chunked: bool,
    may_keep: bool,
    /// What the body is, in lower case and without parameters.
    pub media_type: String,
    /// What it says of the picture.
    pub head: Head,
    /// `X-Settled` of another framehub.
    pub is_settled: bool,
}

/// Where a body ends.
enum Length {
    Exact(u64),
    Chunked(Chunks),
    UntilClose,
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Some bytes came.
    Some,
    /// None within the time.
    Nothing,
    /// The body has ended.
    End,
}

impl Response {
    /// Requests a resource, over `kept` where that is still usable, and follows one redirect.
    ///
    /// # Errors
    /// In words, when there is no response with status 200.
    pub fn request(url: &Url, basic: Option<&Basic>, kept: Option<TcpStream>) -> Result<Self, CameraError> {
        let first = kept.and_then(|socket| Self::exchange(socket, url, basic).ok());
        let first = first.map_or_else(|| Self::exchange(url.connect()?, url, basic), Ok)?;
        if !first.is_redirect() {
            return first.checked(url);
        }
        let Some(location) = &first.meta.location else { return first.checked(url) };
        let cannot = |why| failed(format!("{url} redirects to {}: {why}", without_credentials(location)));
        let target = url.join(location).map_err(cannot)?;
        drop(first);
        // Not to another server.
        let basic = basic.filter(|_| target.authority() == url.authority());
        let second = Self::exchange(target.connect()?, &target, basic)?;
        if second.is_redirect() {
            return Err(failed(format!(
                "{url} redirects to {target}, which redirects again; use the address it ends at"
            )));
        }
        second.checked(&target)
    }

    fn is_redirect(&self) -> bool {
        matches!(self.meta.status, 301 | 302 | 303 | 307 | 308)
    }

    /// Sends the request and reads the response's head.
    fn exchange(mut socket: TcpStream, url: &Url, basic: Option<&Basic>) -> Result<Self, CameraError> {
        let server = url.authority();
        let cannot = |error: io::Error| absent(format!("no response from {server}: {error}"));
        let credentials = basic.map_or(String::new(), |basic| format!("Authorization: Basic {}\r\n", basic.0));
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: framehub/{}\r\n\
             Accept: multipart/x-mixed-replace, image/jpeg, video/x-motion-jpeg, */*;q=0.1\r\n{credentials}\r\n",
            url.path,
            env!("CARGO_PKG_VERSION")
        );
        let deadline = Instant::now() + HEAD_TIME;
        socket.set_nodelay(true).map_err(cannot)?;
        socket.set_write_timeout(Some(HEAD_TIME)).map_err(cannot)?;
        socket.write_all(request.as_bytes()).map_err(cannot)?;
        let mut bytes = Vec::new();
        loop {
            match read_by(&mut socket, deadline, &mut bytes).map_err(cannot)? {
                Progress::Some => {}
                Progress::Nothing => {
                    return Err(absent(format!("no response from {server} within {} s", HEAD_TIME.as_secs())));
                }
                Progress::End => return Err(absent(format!("{server} closed the connection without a response"))),
            }
            let parsed = Meta::parse(&bytes).map_err(|why| failed(format!("{server} sent no HTTP response: {why}")))?;
            if let Some((end, meta)) = parsed {
                let length = match meta.content_length {
                    _ if meta.is_chunked => Length::Chunked(Chunks::Size(Vec::new())),
                    Some(length) => Length::Exact(length),
                    None => Length::UntilClose,
                };
                return Ok(Self { socket, rest: bytes.split_off(end), length, meta });
            }
            if bytes.len() > HEAD_BYTES {
                return Err(failed(format!("the head of the response from {server} exceeds 16 KiB")));
            }
        }
    }

    /// The response if its status is 200; else what is wrong, in the server's own words where they are text.
    fn checked(mut self, url: &Url) -> Result<Self, CameraError> {
        let status = self.meta.status;
        if status == 200 {
            return Ok(self);
        }
        if status == 401 {
            return Err(failed(format!(
                "{url} wants a user and a password (status 401): set FRAMEHUB_SOURCE_USER and FRAMEHUB_SOURCE_PASSWORD; \
                 only Basic authentication is supported"
            )));
        }
        let mut body = Vec::new();
        if self.meta.media_type == "text/plain" {
            let _ = self.read(Instant::now() + Duration::from_millis(200), |bytes| body.extend_from_slice(bytes));
        }
        let line = String::from_utf8_lossy(&body).lines().next().unwrap_or_default().to_owned();
        let line: String = line.chars().filter(|letter| !letter.is_control()).take(200).collect();
        let colon = if line.is_empty() { "" } else { ": " };
        Err(failed(format!("{url} responded with status {status}{colon}{line}")))
    }

    /// Reads what comes of the body by `deadline`.
    ///
    /// # Errors
    /// When the connection fails, or ends within the body.
    pub fn read(&mut self, deadline: Instant, mut take: impl FnMut(&[u8])) -> io::Result<Progress> {
        if self.is_over() {
            return Ok(Progress::End);
        }
        if self.rest.is_empty() {
            match read_by(&mut self.socket, deadline, &mut self.rest)? {
                Progress::End if matches!(self.length, Length::UntilClose) => return Ok(Progress::End),
                Progress::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Progress::Nothing => return Ok(Progress::Nothing),
                Progress::Some => {}
            }
        }
        let bytes = std::mem::take(&mut self.rest);
        match &mut self.length {
            Length::UntilClose => take(&bytes),
            Length::Chunked(chunks) => chunks.decode(&bytes, take)?,
            Length::Exact(left) => {
                let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                take(&bytes[..now]);
                *left -= now as u64;
            }
        }
        Ok(Progress::Some)
    }

    fn is_over(&self) -> bool {
        match &self.length {
            Length::Exact(left) => *left == 0,
            Length::Chunked(chunks) => matches!(chunks, Chunks::Over),
            Length::UntilClose => false,
        }
    }

    /// The connection for the next request, where the server keeps it and little is left of this response.
    pub fn keep(mut self) -> Option<TcpStream> {
        let soon = Instant::now() + Duration::from_millis(100);
        self.meta.may_keep &= !matches!(self.length, Length::UntilClose);
        while self.meta.may_keep && !self.is_over() {
            match self.read(soon, |_| ()) {
                Ok(Progress::Some) => {}
                _ => return None,
            }
        }
        self.meta.may_keep.then_some(self.socket)
    }
}

impl Meta {
    /// Where the head ends, and what it says; `None` while it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<(usize, Self)>, httparse::Error> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(end) = response.parse(bytes)? else { return Ok(None) };
        let field = |name: &str| {
            let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.map(|field| String::from_utf8_lossy(field.value).trim().to_owned())
        };
        let connection = field("Connection").unwrap_or_default().to_ascii_lowercase();
        let media_type = field("Content-Type").unwrap_or_default().to_ascii_lowercase();
        Ok(Some((
            end,
            Self {
                status: response.code.unwrap_or_default(),
                location: field("Location"),
                content_length: field("Content-Length").and_then(|length| length.parse().ok()),
                is_chunked: field("Transfer-Encoding").is_some_and(|how| how.to_ascii_lowercase().contains("chunked")),
                may_keep: connection.contains("keep-alive") || response.version == Some(1) && connection != "close",
                media_type: media_type.split([';', ',']).next().unwrap_or_default().trim().to_owned(),
                head: read_head(&bytes[..end]),
                is_settled: field("X-Settled").is_none_or(|value| value != "0"),
            },
        )))
    }
}

/// Reads once into `bytes`, by `deadline`.
fn read_by(socket: &mut TcpStream, deadline: Instant, bytes: &mut Vec<u8>) -> io::Result<Progress> {
    let left = deadline.saturating_duration_since(Instant::now());
    if os::poll([socket.as_fd()], Some(left))? == [Event::Nothing] {
        return Ok(Progress::Nothing);
    }
    let begin = bytes.len();
    bytes.resize(begin + READ, 0);
    let length = socket.read(&mut bytes[begin..]);
    bytes.truncate(begin + *length.as_ref().unwrap_or(&0));
    Ok(if length? == 0 { Progress::End } else { Progress::Some })
}

/// Where in a chunked body the reader is.
#[derive(Debug)]
enum Chunks {
    /// In the line with a chunk's size, of which so much is here.
    Size(Vec<u8>),
    /// In a chunk of which so much is left.
    Data(u64),
    /// Behind a chunk, before the end of its line.
    Behind,
    /// Behind the last chunk.
    Over,
}

impl Chunks {
    /// Gives what is in the chunks to `take`.
    fn decode(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a chunk of the response has no valid size");
        while let Some((&first, behind)) = bytes.split_first() {
            match self {
                Self::Size(line) => {
                    bytes = behind;
                    match first {
                        b'\n' => {
                            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                            let digits = str::from_utf8(digits).map_err(|_| wrong())?;
                            *self = match u64::from_str_radix(digits, 16).map_err(|_| wrong())? {
                                // Of trailers nothing is known here.
                                0 => Self::Over,
                                size => Self::Data(size),
                            };
                        }
                        _ if line.len() > 1000 => return Err(wrong()),
                        _ => line.push(first),
                    }
                }
                Self::Data(left) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    take(&bytes[..now]);
                    bytes = &bytes[now..];
                    *left -= now as u64;
                    if *left == 0 {
                        *self = Self::Behind;
                    }
                }
                Self::Behind => {
                    bytes = behind;
                    match first {
                        b'\n' => *self = Self::Size(Vec::new()),
                        b'\r' => {}
                        _ => return Err(wrong()),
                    }
                }
                Self::Over => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<(Url, Option<Basic>), String> {
        Url::parse(text.split_once("://").map_or("", |(scheme, _)| scheme), text)
    }

    #[test]
    fn addresses_and_their_credentials() {
        for (text, host, port, path, user) in [
            ("http://cam", "cam", 80, "/", None),
            ("HTTP://Cam:81/Stream?a=b#c", "cam", 81, "/Stream?a=b", None),
            ("http://cam?x=1", "cam", 80, "/?x=1", None),
            ("http://[fd00::1]:8080/s", "fd00::1", 8080, "/s", None),
            ("http://[fe80::1%25eth0]/s", "fe80::1%eth0", 80, "/s", None),
            ("http://me:s%40c:ret@cam/s@t", "cam", 80, "/s@t", Some(("me", "s@c:ret"))),
            ("http://me@cam/", "cam", 80, "/", Some(("me", ""))),
        ] {
            let expected = Url { host: host.into(), port, path: path.into() };
            let basic = user.map(|(user, password)| Basic::new(user, password));
            assert_eq!(url(text), Ok((expected, basic)), "{text}");
        }
        for (text, words) in [
            ("https://cam/", "stunnel or a proxy"),
            ("rtsp://cam/", "exec:ffmpeg"),
            ("ftp://cam/", "expected http://"),
            ("http:///s", "expected http://HOST"),
            ("http://fd00::1/", "brackets"),
            ("http://cam:0/", "a port from 1"),
            ("http://me:a/b@cam/", "%2F"),
            ("http://cam/a b", "%20"),
            ("http://cam/\r\nX: y", "%20"),
        ] {
            let why = url(text).expect_err(text);
            assert!(why.contains(words) && !why.contains("a/b"), "{text}: {why}");
        }
        assert_eq!(url("http://me:secret@[fd00::1]:81/s?t").unwrap().0.to_string(), "http://[fd00::1]:81/s?t");
        assert_eq!(format!("{:?}", Basic::new("me", "secret")), "Basic(***)");
    }

    #[test]
    fn redirects_lead_somewhere() {
        let from = url("http://cam:81/a/b?c").unwrap().0;
        for (location, target) in [
            ("http://other/x", Ok("http://other/x")),
            ("//other:82/x", Ok("http://other:82/x")),
            ("/x?y", Ok("http://cam:81/x?y")),
            ("x", Ok("http://cam:81/a/x")),
            ("https://other/x", Err("HTTPS is not supported")),
        ] {
            match (from.join(location), target) {
                (Ok(to), Ok(target)) => assert_eq!(to.to_string(), target),
                (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
                (to, _) => panic!("{location}: {to:?}"),
            }
        }
    }

    #[test]
    fn chunks_are_put_together_however_they_come() {
        let body = b"4\r\nabcd\r\n0A;x=y\r\n0123456789\r\n3\nxyz\n0\r\n\r\n";
        for piece in [1, 2, 3, 100] {
            let (mut chunks, mut out) = (Chunks::Size(Vec::new()), Vec::new());
            for bytes in body.chunks(piece) {
                chunks.decode(bytes, |bytes| out.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!((&out[..], matches!(chunks, Chunks::Over)), (&b"abcd0123456789xyz"[..], true));
        }
        for body in [&b"x\r\n"[..], b"\r\n", b"1\r\nab", &[b'1'; 2000], b"11111111111111111\r\n", b"\xFF\r\n"] {
            assert!(Chunks::Size(Vec::new()).decode(body, |_| ()).is_err(), "{body:?}");
        }
    }

    #[test]
    fn heads_say_what_follows() {
        let parse = |text: &str| Meta::parse(text.as_bytes()).unwrap().unwrap().1;
        let meta = parse("HTTP/1.1 200 OK\r\nContent-Type: Image/JPEG; x=1\r\nX-Timestamp: 1763680000.5\r\n\r\n");
        assert_eq!((meta.status, &*meta.media_type, meta.may_keep, meta.is_settled), (200, "image/jpeg", true, true));
        assert_eq!(meta.head.captured_at, Some(Duration::from_millis(1_763_680_000_500)));
        let meta = parse("HTTP/1.0 200 OK\nTransfer-Encoding: Chunked\nX-Settled: 0\n\n");
        assert!(meta.is_chunked && !meta.may_keep && !meta.is_settled);
        assert!(!parse("HTTP/1.1 302\r\nConnection: close\r\n\r\n").may_keep);
        assert!(Meta::parse(b"<html>").is_err() && Meta::parse(b"HTTP/1.1 2").unwrap().is_none());
    }
}
