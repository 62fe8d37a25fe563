//! An immutable picture, laid out so that one `send` delivers it.
//!
//! A frame's buffer holds the multipart part around the JPEG, once for all clients:
//!
//! ```text
//! X-Frame-Seq: 42 CRLF              <- only `all` and `lockstep` clients are sent this line
//! Content-Type: image/jpeg CRLF     <- everybody else's part begins here
//! Content-Length: 40123 CRLF
//! X-Timestamp: 1763680000.123456 CRLF CRLF
//! JPEG
//! CRLF --boundarydonotcross CRLF    <- with the picture, so that players need not wait for the next one
//! ```
//!
//! This file knows neither cameras nor sockets. Buffers return to their [`Pool`] when the last client lets go.

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// The multipart boundary: letters only, since players disagree on everything else.
macro_rules! boundary {
    () => {
        "boundarydonotcross"
    };
}

/// The media type of a stream. The declared boundary has neither dashes nor quotes.
pub const REPLACE_TYPE: &str = concat!("multipart/x-mixed-replace;boundary=", boundary!());
/// The media type of the same bytes for scripts in WebKit, which refuses them the other one.
pub const MIXED_TYPE: &str = concat!("multipart/mixed;boundary=", boundary!());
/// The delimiter before the first part of a stream.
pub const FIRST_BOUNDARY: &[u8] = concat!("--", boundary!(), "\r\n").as_bytes();
/// The delimiter after the last part of a stream. Every part ends with a delimiter already, so a close delimiter follows it.
pub const LAST_BOUNDARY: &[u8] = concat!("\r\n--", boundary!(), "--\r\n").as_bytes();
/// The delimiter behind each part. It is sent with the picture, so that players need not wait for the next one.
const TRAILING_BOUNDARY: &[u8] = concat!("\r\n--", boundary!(), "\r\n").as_bytes();

/// Width and height in pixels; written `640x480`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// The size of a stream of which nothing is known before its first picture.
    pub const UNKNOWN: Self = Self::new(0, 0);

    /// A size from its two numbers.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Pixels in all.
    pub fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (width, height) = text.split_once(['x', 'X'])?;
            Some(Self::new(width.parse().ok()?, height.parse().ok()?))
        };
        match parse() {
            Some(size) if (16..=16384).contains(&size.width) && (16..=16384).contains(&size.height) => Ok(size),
            _ => {
                Err("invalid size: expected WIDTHxHEIGHT in pixels, from 16x16 to 16384x16384, such as 640x480".into())
            }
        }
    }
}

/// When a picture was exposed, on both of the system's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// CLOCK_MONOTONIC, for comparing; unaffected by somebody setting the clock.
    pub mono: Duration,
    /// Since the UNIX epoch, for people and for `X-Timestamp`.
    pub real: Duration,
}

/// One whole JPEG with its part header and trailing boundary; never changes once made.
pub struct Frame {
    buffer: Vec<u8>,
    /// Where the part begins for clients that are not told the sequence number.
    plain_part: usize,
    jpeg: Range<usize>,
    info: FrameInfo,
    pool: Arc<Pool>,
}

impl Frame {
    /// The JPEG alone.
    pub fn jpeg(&self) -> &[u8] {
        &self.buffer[self.jpeg.clone()]
    }

    /// Part header, JPEG and trailing boundary.
    pub fn part(&self) -> &[u8] {
        &self.buffer[self.plain_part..]
    }

    /// The same with `X-Frame-Seq` in front, for clients that must see every gap.
    pub fn numbered_part(&self) -> &[u8] {
        &self.buffer
    }

    /// Number of this frame among all frames for viewers: consecutive, starting at 1. A frame that was captured between
    /// two of them (see [`Publisher`](crate::hub::Publisher)) has the number of the one before it. 0 is no camera's frame.
    pub fn sequence(&self) -> u64 {
        self.info.sequence
    }

    /// Start of exposure.
    pub fn captured_at(&self) -> Stamp {
        self.info.captured_at
    }

    /// Size in pixels, as the JPEG itself states it.
    pub fn size(&self) -> Size {
        self.info.size
    }

    /// Number of whole pictures that its stream delivered before this one.
    pub fn position(&self) -> u32 {
        self.info.position
    }

    /// Whether the picture of its stream had settled by then: steady in size and brightness.
    pub fn is_settled(&self) -> bool {
        self.info.is_settled
    }

    /// Bytes of memory that this frame holds, more than its JPEG's length.
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame {} of {}, {} bytes", self.info.sequence, self.info.size, self.jpeg.len())
    }
}

/// Everything that is known of a frame apart from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct FrameInfo {
    /// See [`Frame::sequence`].
    pub sequence: u64,
    /// See [`Frame::captured_at`].
    pub captured_at: Stamp,
    /// See [`Frame::size`].
    pub size: Size,
    /// See [`Frame::position`].
    pub position: u32,
    /// See [`Frame::is_settled`].
    pub is_settled: bool,
}

/// Buffers of frames that nobody holds any more, kept for the next ones.
///
/// Without it each frame would cost an allocation and fresh zeroed pages from the kernel.
#[derive(Default)]
pub struct Pool {
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    /// Room that the newest frame needed: buffers of another order of size, a still's, are not kept for the next ones.
    needed: usize,
}

impl Pool {
    /// Spare buffers kept; more are given back to the system.
    const SPARE: usize = 3;
    /// Room for the part header and the trailing boundary.
    const MARGIN: usize = 256;

    /// Makes a frame whose JPEG, `length` bytes, is written by `fill`: the one copy that a picture sees.
    pub fn frame(self: &Arc<Self>, info: FrameInfo, length: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Arc<Frame> {
        let real = info.captured_at.real;
        let time = format_args!("X-Timestamp: {}.{:06}", real.as_secs(), real.subsec_micros());
        self.make(info, length, fill, time)
    }

    /// Makes a frame that is no camera's: its part says so, and has neither time nor number.
    pub fn placeholder(self: &Arc<Self>, size: Size, jpeg: &[u8]) -> Arc<Frame> {
        let captured_at = Stamp { mono: Duration::ZERO, real: Duration::ZERO };
        let info = FrameInfo { sequence: 0, captured_at, size, position: 0, is_settled: true };
        self.make(info, jpeg.len(), |out| out.extend_from_slice(jpeg), format_args!("X-Framehub-No-Signal: 1"))
    }

    fn make(
        self: &Arc<Self>,
        info: FrameInfo,
        length: usize,
        fill: impl FnOnce(&mut Vec<u8>),
        field: fmt::Arguments<'_>,
    ) -> Arc<Frame> {
        let mut buffer = self.take(length + Self::MARGIN);
        // Writing to a Vec cannot fail.
        let _ = write!(buffer, "X-Frame-Seq: {}\r\n", info.sequence);
        let plain_part = buffer.len();
        let _ = write!(buffer, "Content-Type: image/jpeg\r\nContent-Length: {length}\r\n{field}\r\n\r\n");
        let start = buffer.len();
        fill(&mut buffer);
        let jpeg = start..buffer.len();
        debug_assert_eq!(jpeg.len(), length, "Content-Length must be true");
        buffer.extend_from_slice(TRAILING_BOUNDARY);
        Arc::new(Frame { buffer, plain_part, jpeg, info, pool: self.clone() })
    }

    fn take(&self, capacity: usize) -> Vec<u8> {
        let mut spare = self.spare.lock();
        spare.needed = capacity;
        if let Some(at) = spare.buffers.iter().position(|buffer| fits(buffer, capacity)) {
            return spare.buffers.swap_remove(at);
        }
        spare.buffers.pop();
        drop(spare);
        // An eighth more, since the next picture of the same scene may be a little larger.
        Vec::with_capacity(capacity + capacity / 8)
    }

    fn put(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.lock();
        let needed = spare.needed;
        spare.buffers.retain(|kept| kept.capacity() <= 2 * needed);
        if spare.buffers.len() < Self::SPARE && buffer.capacity() <= 2 * needed {
            spare.buffers.push(buffer);
        }
    }
}

/// A buffer that is far too large would waste memory in a ring of small frames.
fn fits(buffer: &Vec<u8>, capacity: usize) -> bool {
    buffer.capacity() >= capacity && buffer.capacity() <= 2 * capacity
}

/// A frame for tests: its number, its time and how many bytes.
#[cfg(test)]
pub(crate) fn test_frame(sequence: u64, at: Duration, bytes: usize) -> Arc<Frame> {
    let captured_at = Stamp { mono: at, real: at };
    let info = FrameInfo { sequence, captured_at, size: Size::new(16, 16), position: 0, is_settled: true };
    Arc::<Pool>::default().frame(info, bytes, |out| out.resize(out.len() + bytes, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sequence: u64) -> FrameInfo {
        let stamp = Stamp { mono: Duration::from_millis(5), real: Duration::from_micros(1_700_000_000_000_042) };
        FrameInfo { sequence, captured_at: stamp, size: Size::new(640, 480), position: 0, is_settled: true }
    }

    #[test]
    fn part_is_the_golden_format_byte_for_byte() {
        let frame = Arc::<Pool>::default().frame(info(7), 4, |out| out.extend_from_slice(b"JPEG"));
        let golden = "Content-Type: image/jpeg\r\nContent-Length: 4\r\nX-Timestamp: 1700000000.000042\r\n\r\n\
                      JPEG\r\n--boundarydonotcross\r\n";
        assert_eq!(std::str::from_utf8(frame.part()), Ok(golden));
        assert_eq!(frame.numbered_part(), format!("X-Frame-Seq: 7\r\n{golden}").as_bytes());
        assert_eq!(frame.jpeg(), b"JPEG");
        let placeholder = Arc::<Pool>::default().placeholder(Size::new(640, 480), b"JPEG");
        let golden = golden.replace("X-Timestamp: 1700000000.000042", "X-Framehub-No-Signal: 1");
        assert_eq!(placeholder.part(), golden.as_bytes());
    }

    #[test]
    fn buffers_are_used_again_but_not_far_too_large_ones() {
        let pool = Arc::<Pool>::default();
        let first = pool.frame(info(1), 10_000, |out| out.resize(out.len() + 10_000, 1));
        let address = first.buffer.as_ptr();
        drop(first);
        let second = pool.frame(info(2), 10_100, |out| out.resize(out.len() + 10_100, 2));
        assert_eq!(second.buffer.as_ptr(), address);
        drop(second);
        let small = pool.frame(info(3), 100, |out| out.resize(out.len() + 100, 3));
        assert!(small.memory() < 1000);
        let still = pool.frame(info(4), 1_000_000, |out| out.resize(out.len() + 1_000_000, 4));
        let next = pool.frame(info(5), 100, |out| out.resize(out.len() + 100, 5));
        drop([still, small, next]);
        let kept: usize = pool.spare.lock().buffers.iter().map(Vec::capacity).sum();
        assert!(kept < 2_000, "a still's buffer is given back: {kept} bytes");
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, size) in [("640x480", Some(Size::new(640, 480))), ("3840X2160", Some(Size::new(3840, 2160)))] {
            assert_eq!(text.parse::<Size>().ok(), size);
        }
        for bad in ["", "640", "640x", "x480", "0x480", "640x-1", "640 x 480", "99999x99999"] {
            let error = bad.parse::<Size>().unwrap_err();
            assert!(error.contains("640x480"), "{error}");
        }
        assert_eq!(Size::new(1280, 720).to_string(), "1280x720");
    }
}
