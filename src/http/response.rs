//! An ordinary response: status, fields and a body of known length, printed by `tiny_http` and sent in one write.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tiny_http::{HTTPVersion, Header, StatusCode};

use super::server::connection::{Connection, SendError};
use super::server::memory::Block;
use crate::frame::Frame;
use crate::jpeg::{self, Capture};
use crate::system::os;

/// The `Server` header of every response that has no other.
const SERVER: &str = concat!("framehub/", env!("CARGO_PKG_VERSION"));

/// Texts up to this length are not counted among the responses in memory: their connection takes as much.
const SMALL: usize = 4096;

/// A response whose body is complete before its first byte is sent.
pub struct Response {
    /// The status code.
    pub status: u16,
    fields: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Bytes(Vec<u8>),
    Fixed(&'static [u8]),
    /// For HEAD, where nobody knows what GET would send.
    Unknown,
    /// What replaces the beginning of the frame's JPEG, and where it goes on behind it.
    Picture(Vec<u8>, usize, Arc<Frame>),
}

impl Response {
    /// A plain text, to which a line end is added.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self::new(status, "text/plain; charset=utf-8", Body::Bytes(text.into_bytes())).uncached()
    }

    /// A JSON document.
    pub fn json(value: &serde_json::Value) -> Self {
        Self::document("application/json", format!("{value}\n"))
    }

    /// A text for programs, in the format that the content type names.
    pub fn document(content_type: &str, text: String) -> Self {
        Self::new(200, content_type, Body::Bytes(text.into_bytes())).uncached()
    }

    /// A file that is part of the program.
    pub fn file(content_type: &str, bytes: &'static [u8]) -> Self {
        Self::new(200, content_type, Body::Fixed(bytes))
    }

    /// The head of something that was not made, for HEAD.
    pub fn head_only(content_type: &str) -> Self {
        Self::new(200, content_type, Body::Unknown).uncached()
    }

    /// One picture, with what wget, cron jobs and timelapse programs want to know about it.
    pub fn picture(frame: Arc<Frame>, camera: &str) -> Self {
        let (header, rest) = with_capture(&frame, camera);
        let real = frame.captured_at().real;
        let taken = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(real.as_secs()));
        let sequence = frame.sequence();
        Self::new(200, "image/jpeg", Body::Picture(header, rest, frame))
            .uncached()
            .with("X-Timestamp", format!("{}.{:06}", real.as_secs(), real.subsec_micros()))
            .with("X-Frame-Seq", sequence.to_string())
            .with("Last-Modified", taken)
            .with("Content-Disposition", "inline; filename=snapshot.jpg")
    }

    /// 503 with the reason, and the advice to ask again after 2 s.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::unavailable_for(2, why)
    }

    /// 503 with the reason, and the number of seconds after which to ask again.
    pub fn unavailable_for(seconds: u32, why: impl Into<String>) -> Self {
        Self::text(503, why).with("Retry-After", seconds.to_string())
    }

    /// The same response with this picture in place of its body.
    pub fn showing(mut self, frame: Arc<Frame>) -> Self {
        self.fields.retain(|(name, _)| *name != "Content-Type");
        self.body = Body::Picture(vec![], 0, frame);
        self.with("Content-Type", "image/jpeg")
    }

    fn new(status: u16, content_type: &str, body: Body) -> Self {
        // The page's address may contain a token, which must not reach other servers in Referer.
        let fields = vec![
            ("Content-Type", content_type.into()),
            ("X-Content-Type-Options", "nosniff".into()),
            ("Referrer-Policy", "strict-origin".into()),
        ];
        Self { status, fields, body }
    }

    fn uncached(self) -> Self {
        self.with("Cache-Control", "no-store, no-cache, must-revalidate, max-age=0").with("Pragma", "no-cache")
    }

    /// Adds a header field.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// What it holds in memory while it is sent; `None` for what the program has anyhow, and for a few bytes.
    pub fn block(&self) -> Option<Block> {
        match &self.body {
            Body::Bytes(bytes) => Some(Block::from(bytes.as_slice())).filter(|_| bytes.len() > SMALL),
            Body::Fixed(_) | Body::Unknown => None,
            Body::Picture(_, _, frame) => Some(Block::from(&**frame)),
        }
    }

    /// Sends the response; only its head if `is_head`.
    pub fn send(
        &self,
        connection: &Connection,
        version: &HTTPVersion,
        is_head: bool,
        keep: bool,
    ) -> Result<(), SendError> {
        let (first, body) = match &self.body {
            Body::Bytes(bytes) => (&[][..], bytes.as_slice()),
            Body::Fixed(bytes) => (&[][..], *bytes),
            Body::Unknown => (&[][..], &[][..]),
            Body::Picture(header, rest, frame) => (header.as_slice(), &frame.jpeg()[*rest..]),
        };
        let mut head = self.head(version, first.len() + body.len(), keep);
        if !is_head {
            head.extend_from_slice(first);
        }
        connection.send_both(&head, if is_head { &[] } else { body })
    }

    /// Sends the head for a body of this length, which the caller sends. The connection closes after the body.
    pub fn send_head(&self, connection: &Connection, version: &HTTPVersion, length: usize) -> Result<(), SendError> {
        connection.send(&self.head(version, length, false))
    }

    /// The head, as tiny_http prints it. tiny_http drops `Connection`, obeys `TE: chunked` and sends bodies in small
    /// writes, so it does not see the request's fields, and the rest is done here.
    fn head(&self, version: &HTTPVersion, length: usize, keep: bool) -> Vec<u8> {
        let field = |name: &str, value: &str| Header::from_bytes(name.as_bytes(), value.as_bytes()).ok();
        let mut headers: Vec<Header> = self.fields.iter().filter_map(|(name, value)| field(name, value)).collect();
        if !self.fields.iter().any(|(name, _)| *name == "Server") {
            headers.extend(field("Server", SERVER));
        }
        let printed = tiny_http::Response::new(StatusCode(self.status), headers, std::io::empty(), Some(length), None)
            .with_chunked_threshold(usize::MAX);
        let mut head = Vec::with_capacity(512);
        // Writing to a Vec cannot fail.
        let _ = printed.raw_print(&mut head, version.clone(), &[], true, None);
        head.truncate(head.len().saturating_sub(2));
        if matches!(self.body, Body::Unknown) {
            head.truncate(head.len().saturating_sub(b"Content-Length: 0\r\n".len()));
        }
        let connection: &[u8] = if keep { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" };
        head.extend_from_slice(connection);
        head
    }
}

/// What replaces the beginning of a frame's JPEG so that it says when and by which camera it was taken, and where the
/// JPEG goes on behind it. The frame's own bytes are shared by all clients.
pub fn with_capture(frame: &Frame, camera: &str) -> (Vec<u8>, usize) {
    let real = frame.captured_at().real;
    let (time, offset) = os::local_time(real);
    let capture = Capture { camera, time, micros: real.subsec_micros(), offset };
    jpeg::with_capture(frame.jpeg(), &capture).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_whole_and_never_chunked() {
        let response = Response::unavailable("no picture");
        let head = String::from_utf8(response.head(&HTTPVersion(1, 1), 1_000_000, true)).unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.ends_with("\r\nConnection: keep-alive\r\n\r\n"), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1, "{head}");
        for field in [
            "Server: framehub/",
            "Content-Length: 1000000",
            "Retry-After: 2",
            "Referrer-Policy: strict-origin",
            "X-Content-Type-Options: nosniff",
            "Cache-Control: no-store",
        ] {
            assert!(head.contains(&format!("\r\n{field}")), "{field} in {head}");
        }
        assert!(!head.contains("chunked"), "{head}");
        let unknown = String::from_utf8(Response::head_only("image/jpeg").head(&HTTPVersion(1, 0), 0, true)).unwrap();
        assert!(unknown.contains("\r\nContent-Type: image/jpeg\r\n") && !unknown.contains("Length"), "{unknown}");
        assert!(unknown.ends_with("\r\nConnection: keep-alive\r\n\r\n"), "{unknown}");
        let renamed = Response::text(200, "").with("Server", "MJPG-Streamer/0.2").head(&HTTPVersion(1, 1), 0, true);
        let renamed = String::from_utf8(renamed).unwrap();
        assert!(renamed.contains("\r\nServer: MJPG-Streamer/0.2\r\n") && !renamed.contains("framehub"), "{renamed}");
    }
}
