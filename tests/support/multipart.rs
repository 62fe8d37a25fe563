//! The golden format of the stream, read byte for byte.

use std::io::{self, BufRead, Read};
use std::time::{Duration, SystemTime};

use super::sys;

/// The stream's response after its status line, in this order and spelling.
pub const STREAM_HEAD_LINES: &str = "Vary: Origin\r\n\
    Cache-Control: no-store, no-cache, must-revalidate, max-age=0\r\n\
    Pragma: no-cache\r\n\
    X-Content-Type-Options: nosniff\r\n\
    X-Accel-Buffering: no\r\n\
    Connection: close\r\n\
    Content-Type: multipart/x-mixed-replace;boundary=boundarydonotcross\r\n\
    \r\n";

/// One part, as sent.
#[derive(Debug, Clone)]
pub struct Part {
    pub jpeg: Vec<u8>,
    /// `X-Timestamp`: the capture time since 1970.
    pub captured_at: Duration,
}

impl Part {
    #[track_caller]
    pub fn stamp(&self) -> Stamp {
        stamp_of(&self.jpeg).expect("the synthetic camera's stamp")
    }
}

/// What the synthetic camera wrote into the picture itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub seq: u64,
    pub mono_ns: u64,
}

/// Reads parts and refuses every byte that the golden format does not have in that place. Each part is read with
/// the boundary behind it, so a server that sends the boundary only with the next frame is always one frame late.
pub struct PartReader<R> {
    reader: R,
    has_begun: bool,
    has_ended: bool,
}

impl<R: BufRead> PartReader<R> {
    pub fn new(reader: R) -> PartReader<R> {
        PartReader { reader, has_begun: false, has_ended: false }
    }

    pub fn get_ref(&self) -> &R {
        &self.reader
    }

    /// The first boundary, which has to be there before any frame.
    pub fn first_boundary(&mut self) -> io::Result<()> {
        self.has_begun = true;
        self.expect(b"--boundarydonotcross\r\n")
    }

    /// The next part, or `None` after a proper end: the closing boundary, then nothing.
    pub fn try_next(&mut self) -> io::Result<Option<Part>> {
        if !self.has_begun {
            self.first_boundary()?;
        }
        if self.has_ended || self.reads_closing_boundary()? {
            return Ok(None);
        }
        self.expect(b"Content-Type: image/jpeg\r\nContent-Length: ")?;
        let length = self.line()?;
        let length: usize = length.parse().map_err(|_| bad(format!("Content-Length {length:?}")))?;
        self.expect(b"X-Timestamp: ")?;
        let captured_at = parse_timestamp(&self.line()?)?;
        self.expect(b"\r\n")?;
        let mut jpeg = vec![0; length];
        self.reader.read_exact(&mut jpeg)?;
        if !is_one_whole_jpeg(&jpeg) {
            return Err(bad(format!("the {length} bytes of a part are not one whole JPEG")));
        }
        self.expect(b"\r\n--boundarydonotcross")?;
        let mut tail = [0; 2];
        self.reader.read_exact(&mut tail)?;
        match &tail {
            b"\r\n" => {}
            // The last part's own boundary may be the closing one.
            b"--" => self.expect_end()?,
            _ => return Err(bad(format!("after a part's boundary: {tail:?}"))),
        }
        Ok(Some(Part { jpeg, captured_at }))
    }

    /// The next part of a stream that should go on.
    #[track_caller]
    pub fn next_part(&mut self) -> Part {
        self.try_next().expect("a golden part").expect("the stream goes on")
    }

    /// Waits for the first byte of what comes next.
    #[track_caller]
    pub fn wait_for_part(&mut self) {
        assert!(self.peek().expect("the stream goes on").is_some(), "the stream ended");
    }

    /// Reads on until the proper end and returns how many parts came before it.
    pub fn read_to_end(&mut self) -> io::Result<usize> {
        let mut parts = 0;
        while self.try_next()?.is_some() {
            parts += 1;
        }
        Ok(parts)
    }

    /// The closing boundary begins with the CRLF that belongs to it, where a part would begin with a header.
    fn reads_closing_boundary(&mut self) -> io::Result<bool> {
        match self.peek()? {
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended without its closing boundary")),
            Some(b'\r') => {
                self.expect(b"\r\n--boundarydonotcross--")?;
                self.expect_end()?;
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    /// The CRLF of the closing boundary, then the end of the connection.
    fn expect_end(&mut self) -> io::Result<()> {
        self.has_ended = true;
        self.expect(b"\r\n")?;
        match self.peek()? {
            None => Ok(()),
            Some(_) => Err(bad("bytes after the closing boundary")),
        }
    }

    /// The next byte, which stays where it is; `None` at the end.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(next) => return Ok(next.first().copied()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn expect(&mut self, golden: &[u8]) -> io::Result<()> {
        let mut found = vec![0; golden.len()];
        self.reader.read_exact(&mut found)?;
        if found == golden {
            return Ok(());
        }
        let (found, golden) = (String::from_utf8_lossy(&found), String::from_utf8_lossy(golden));
        Err(bad(format!("{found:?} where {golden:?} belongs")))
    }

    /// The rest of a line, without its CRLF.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.by_ref().take(100).read_until(b'\n', &mut line)?;
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| bad("a part header line does not end with CRLF"))?;
        String::from_utf8(text.to_vec()).map_err(|_| bad("a part header is not text"))
    }
}

/// The timestamp is that of the picture's capture, not of its sending. The server reads the two clocks at one moment
/// and we at another, and both may be interrupted in between: hence the tolerance.
#[track_caller]
pub fn assert_capture_time(timestamp: Duration, stamp: Stamp) {
    let realtime = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    let captured_at = realtime - Duration::from_nanos(sys::monotonic_ns() - stamp.mono_ns);
    let difference = captured_at.abs_diff(timestamp);
    assert!(difference < Duration::from_millis(20), "X-Timestamp is {difference:?} off the capture time");
}

/// Seconds, a dot, exactly six digits.
pub fn parse_timestamp(text: &str) -> io::Result<Duration> {
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (seconds, micros) = text.split_once('.').ok_or_else(|| bad(format!("X-Timestamp {text:?}")))?;
    if !is_digits(seconds) || !is_digits(micros) || micros.len() != 6 {
        return Err(bad(format!("X-Timestamp {text:?}")));
    }
    let seconds = seconds.parse().map_err(|_| bad("X-Timestamp is out of range"))?;
    let micros: u32 = micros.parse().map_err(|_| bad("X-Timestamp is out of range"))?;
    Ok(Duration::new(seconds, micros * 1_000))
}

/// One picture from SOI to EOI with no second one inside: players search for these two markers.
pub fn is_one_whole_jpeg(bytes: &[u8]) -> bool {
    let is_framed = bytes.len() > 4 && bytes.starts_with(&[0xFF, 0xD8]) && bytes.ends_with(&[0xFF, 0xD9]);
    is_framed && bytes[2..bytes.len() - 2].windows(2).all(|pair| pair != [0xFF, 0xD8] && pair != [0xFF, 0xD9])
}

/// The stamp `framehub seq=… mono_ns=…` from a COM segment within the first 1 KiB.
pub fn stamp_of(jpeg: &[u8]) -> Result<Stamp, String> {
    let first = &jpeg[..jpeg.len().min(1024)];
    let mut at = 2;
    while let Some(&[0xFF, marker, high, low]) = first.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let payload = jpeg.get(at + 4..at + 2 + length).ok_or("a segment runs past the end")?;
        if marker == 0xFE && payload.starts_with(b"framehub ") {
            return if at + 2 + length <= 1024 { parse_stamp(payload) } else { Err("the stamp is too far in".into()) };
        }
        at += 2 + length;
    }
    Err("no COM segment `framehub seq=… mono_ns=…` in the first 1 KiB".into())
}

fn parse_stamp(payload: &[u8]) -> Result<Stamp, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the stamp is not text")?;
    let number = |name: &str| {
        let value = text.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {name} in {text:?}"))
    };
    Ok(Stamp { seq: number("seq=")?, mono_ns: number("mono_ns=")? })
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
