//! The one device that stands for all streams of bytes, and what such sources have in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::splitter::{Head, Splitter};
use crate::camera::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness};
use crate::frame::Size;
use crate::system::os;
use crate::system::sync::{Mutex, rank};

/// A text without the user names and passwords of the URLs in it.
pub fn without_credentials(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = behind.find(|letter: char| letter.is_whitespace() || "'\"".contains(letter)).unwrap_or(behind.len());
        let secret = behind[..end].rfind('@');
        shown.push_str(secret.map_or("", |_| "***"));
        rest = &behind[secret.unwrap_or(0)..];
    }
    shown + rest
}

/// Where the pictures of one stream come from, from its start to its end.
pub trait Input: Send {
    /// Waits until `deadline` for the next picture.
    fn wait(&mut self, deadline: Instant) -> Result<bool, CameraError>;

    /// The picture that was waited for, without its number.
    fn picture(&self) -> RawFrame<'_>;
}

/// A stream that was started: its rate, as far as it is known or was asked for, and where its pictures come from.
pub type Started = (Option<f64>, Box<dyn Input>);

/// An open source.
pub struct SourceDevice {
    identity: Identity,
    begin: Box<dyn FnMut(Mode) -> Result<Started, CameraError> + Send>,
    stream: Arc<Stream>,
}

impl SourceDevice {
    /// An open source whose streams are started by `begin`.
    pub fn open(
        [node, card, driver]: [String; 3],
        begin: impl FnMut(Mode) -> Result<Started, CameraError> + Send + 'static,
    ) -> Box<dyn Device> {
        let identity = Identity { node, card, driver, ..Identity::default() };
        Box::new(Self { identity, begin: Box::new(begin), stream: Arc::default() })
    }
}

impl Device for SourceDevice {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn is_tried_by_opening(&self) -> bool {
        self.identity.driver == "replay"
    }

    fn offers(&self) -> Vec<Offer> {
        vec![Offer { size: Size::UNKNOWN, fps: Vec::new() }]
    }

    fn start(&mut self, want: Mode, _buffers: u32) -> Result<Mode, CameraError> {
        self.stop()?;
        let (fps, input) = (self.begin)(want)?;
        self.stream = Arc::new(Stream(Mutex::new(Some(Taking { input, is_ready: false, sequence: 0 }))));
        Ok(Mode { size: Size::UNKNOWN, fps })
    }

    fn stop(&mut self) -> Result<(), CameraError> {
        // A thread that waits keeps the stream until it has waited, at most a quarter of a second.
        self.stream = Arc::default();
        Ok(())
    }

    fn readiness(&self) -> Arc<dyn Readiness> {
        self.stream.clone()
    }

    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let mut taking = self.stream.0.lock();
        let taking = taking.as_mut().filter(|taking| taking.is_ready).ok_or_else(not_streaming)?;
        taking.is_ready = false;
        taking.sequence = taking.sequence.wrapping_add(1);
        sink(RawFrame { sequence: taking.sequence, ..taking.input.picture() });
        Ok(())
    }
}

/// One stream; `None` where nothing streams.
#[derive(Default)]
struct Stream(Mutex<Option<Taking>, { rank::KNOWN }>);

struct Taking {
    input: Box<dyn Input>,
    is_ready: bool,
    sequence: u32,
}

impl Readiness for Stream {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        let deadline = Instant::now() + timeout;
        let mut taking = self.0.lock();
        let taking = taking.as_mut().ok_or_else(not_streaming)?;
        if !taking.is_ready {
            taking.is_ready = taking.input.wait(deadline)?;
        }
        Ok(taking.is_ready)
    }
}

fn not_streaming() -> CameraError {
    failed("it is not streaming")
}

/// The source was being used and failed.
pub fn failed(message: impl Into<String>) -> CameraError {
    CameraError::new(ErrorKind::Failed, message)
}

/// The source is not there.
pub fn absent(message: impl Into<String>) -> CameraError {
    CameraError::new(ErrorKind::Absent, message)
}

/// Pictures that come in a stream of bytes, as they come.
pub struct Arrivals {
    /// From where they come, for messages.
    name: String,
    /// Takes the bytes.
    pub splitter: Splitter,
    /// What the response around the picture says, where the picture's part says nothing.
    response: Head,
    head: Head,
    arrived_at: Duration,
    faults: Limited,
}

impl Arrivals {
    /// Forgets what has come, of which another response says this.
    pub fn begin(&mut self, response: Head) {
        self.splitter = Splitter::default();
        self.response = response;
    }

    /// Nothing has come from there yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            splitter: Splitter::default(),
            response: Head::default(),
            head: Head::default(),
            arrived_at: Duration::ZERO,
            faults: Limited::new(1),
        }
    }

    /// Whether the bytes that have come hold another picture.
    ///
    /// # Errors
    /// When the sender says that it has none.
    pub fn next(&mut self) -> Result<bool, CameraError> {
        let Some(found) = self.splitter.next() else { return Ok(false) };
        let (is_whole, length) = (found.is_whole, found.data.len());
        self.head = Head { captured_at: found.head.captured_at.or(self.response.captured_at), ..found.head };
        self.arrived_at = os::monotonic();
        if self.head.is_no_signal || self.response.is_no_signal {
            return Err(absent(format!("{} says that its camera sends no pictures", self.name)));
        }
        if !is_whole && let Some(more) = self.faults.permits() {
            warn!("{}: a picture is damaged or was cut after {length} bytes{more}", self.name);
        }
        Ok(true)
    }

    /// The picture that was found last.
    pub fn picture(&self) -> RawFrame<'_> {
        let (now, real) = (os::monotonic(), os::realtime());
        let captured_real = self.head.captured_at.filter(|at| is_plausible(*at, real));
        // By a clock that may be wrong: a larger age than this would make requests for a new picture wait in vain.
        let age =
            captured_real.map_or(Duration::ZERO, |at| real.saturating_sub(at)).saturating_sub(now - self.arrived_at);
        let age = if age <= Duration::from_secs(1) { age } else { Duration::ZERO };
        let exposed_at = Some(self.arrived_at.saturating_sub(age));
        RawFrame { data: self.splitter.found(), sequence: 0, is_flagged: false, exposed_at, captured_real }
    }
}

/// Whether this can be when a picture was captured: boards without a clock count from their start.
fn is_plausible(captured_at: Duration, now: Duration) -> bool {
    captured_at >= Duration::from_secs(1_000_000_000) && captured_at <= now + Duration::from_secs(60)
}

/// Limits lines in the log: so many in 10 s.
pub struct Limited {
    most: u32,
    since: Instant,
    lines: u32,
    left_out: u32,
}

impl Limited {
    /// At most this many.
    pub fn new(most: u32) -> Self {
        Self { most, since: Instant::now(), lines: 0, left_out: 0 }
    }

    /// Whether one more line may be logged, with what to append to it.
    pub fn permits(&mut self) -> Option<String> {
        if self.since.elapsed() >= Duration::from_secs(10) {
            (self.since, self.lines) = (Instant::now(), 0);
        }
        if self.lines >= self.most {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            left_out => format!(" (and {left_out} lines like it before)"),
        })
    }
}

/// The time between attempts to start a source that fails: 1, 2, 4 and then 8 s.
#[derive(Default)]
pub struct Backoff(Mutex<Option<Instant>, { rank::BRIEF }>);

impl Backoff {
    /// Notes that an attempt begins; returns whether it is the first.
    pub fn begin(&self) -> bool {
        self.0.lock().replace(Instant::now()).is_none()
    }

    /// What is left of the time since that attempt, at least 1 s.
    pub fn left(&self, failures: u32) -> Duration {
        let pause = Duration::from_secs(1 << failures.saturating_sub(1).min(3));
        let since = self.0.lock().map_or(Duration::ZERO, |began| began.elapsed());
        pause.saturating_sub(since).max(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (text, shown) in [
            ("http://user:pass@host/path", "http://***@host/path"),
            ("ffmpeg -i 'rtsp://a:b@c/d' -i http://e/f", "ffmpeg -i 'rtsp://***@c/d' -i http://e/f"),
            ("http://user:p/a?s#s@w@host", "http://***@host"),
            ("no address", "no address"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn clocks_that_cannot_be_right_are_not_believed() {
        let now = Duration::from_secs(1_763_680_000);
        let seconds = Duration::from_secs;
        for (at, believed) in [
            (now, true),
            (seconds(1_500_000_000), true),
            (now + seconds(59), true),
            (now + seconds(61), false),
            (seconds(12), false),
        ] {
            assert_eq!(is_plausible(at, now), believed, "{at:?}");
        }
    }

    #[test]
    fn attempts_are_at_most_eight_seconds_apart() {
        let backoff = Backoff::default();
        let pauses = |from: u32| (from..from + 6).map(|failures| backoff.left(failures).as_secs()).collect::<Vec<_>>();
        assert_eq!(pauses(0), [1, 1, 2, 4, 8, 8]);
        // The attempt itself took some of the time.
        *backoff.0.lock() = Instant::now().checked_sub(Duration::from_secs(6));
        assert_eq!(backoff.left(9).as_secs(), 1);
    }
}
