//! What is counted about each viewer, and about all that have left. Only the viewer's own thread writes its counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use super::connection::{Link, SendError};
use crate::frame::Frame;
use crate::system::os;

/// Maximum length of a user agent's name in characters; the rest is cut off.
const USER_AGENT_LENGTH: usize = 200;

/// What is counted about one viewer.
#[derive(Debug)]
pub struct ClientStats {
    /// Consecutive, from 1.
    pub id: u64,
    /// The address without the port.
    pub peer: String,
    /// The name of its program; may be empty.
    pub user_agent: String,
    /// The name of its delivery mode.
    pub mode: &'static str,
    /// When it started.
    pub since: SystemTime,
    /// When it started, on CLOCK_MONOTONIC.
    came_at: Duration,
    frames: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
    /// The last frame sent: when it was captured, in µs of CLOCK_MONOTONIC; 0 before the first.
    captured_at: AtomicU64,
    link: Arc<Link>,
}

impl ClientStats {
    /// A viewer that has been sent nothing yet.
    pub fn new(id: u64, link: Arc<Link>, peer: &str, user_agent: &str, mode: &'static str) -> Self {
        Self {
            id,
            peer: peer.to_owned(),
            user_agent: user_agent.chars().take(USER_AGENT_LENGTH).collect(),
            mode,
            since: SystemTime::now(),
            came_at: os::monotonic(),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            captured_at: AtomicU64::new(0),
            link,
        }
    }

    /// Counts what was sent: its bytes, and the frame, if it is the camera's.
    pub fn count(&self, frame: &Frame, bytes: usize) {
        add(&self.bytes, bytes as u64);
        if frame.sequence() == 0 {
            return;
        }
        add(&self.frames, 1);
        self.captured_at.store(frame.captured_at().mono.as_micros() as u64, Relaxed);
    }

    /// Sets how many frames so far were published while it was not ready for them.
    pub fn set_skipped(&self, skipped: u64) {
        self.skipped.store(skipped, Relaxed);
    }

    /// Frames sent.
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    /// Bytes sent, without the response's head.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Frames that were published while it was not ready. Those that `fps=` leaves out do not count.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Parts during which its socket took no byte for a second.
    pub fn stalls(&self) -> u64 {
        self.link.flow().stalls()
    }

    /// All four of these counts.
    pub fn sent(&self) -> Sent {
        Sent { frames: self.frames(), bytes: self.bytes(), skipped: self.skipped(), stalls: self.stalls() }
    }

    /// The age of the last frame that it was sent; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        let captured_at = Some(self.captured_at.load(Relaxed)).filter(|at| *at > 0)?;
        Some(os::monotonic().saturating_sub(Duration::from_micros(captured_at)))
    }

    /// How long it has been a viewer.
    pub fn here_for(&self) -> Duration {
        os::monotonic().saturating_sub(self.came_at)
    }

    /// Whether `other` has the same address and the same user agent.
    pub fn is_same_client(&self, other: &Self) -> bool {
        self.peer == other.peer && self.user_agent == other.user_agent
    }
}

/// Only the client's own thread writes, so a load and a store will do, and are cheaper than an atomic addition.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}

/// Why a viewer was sent nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Everything that it asked for was sent.
    Done,
    /// The client closed or reset the connection.
    Left,
    /// It stopped reading.
    Stalled,
    /// It read too slowly for a picture to be sent in time.
    TooSlow,
    /// It wanted every frame and was so slow that its next one was no longer kept.
    FellBehind,
    /// The others were to get the same frames, and it kept them waiting for too long.
    HeldUpOthers,
    /// It was evicted: it took nothing any more, and there was no room for a newcomer.
    MadeRoom,
    /// The server was stopped.
    ServerStops,
}

impl EndReason {
    /// All reasons, in the order of [`Totals::ended`].
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Left,
        Self::Stalled,
        Self::TooSlow,
        Self::FellBehind,
        Self::HeldUpOthers,
        Self::MadeRoom,
        Self::ServerStops,
    ];

    /// The reason in one word, for figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Left => "left",
            Self::Stalled => "stalled",
            Self::TooSlow => "too_slow",
            Self::FellBehind => "fell_behind",
            Self::HeldUpOthers => "held_up_others",
            Self::MadeRoom => "made_room",
            Self::ServerStops => "server_stops",
        }
    }

    /// The reason in words, for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Done => "has all it asked for",
            Self::Left => "closed by the client",
            Self::Stalled => "stopped reading",
            Self::TooSlow => "too slow for one picture",
            Self::FellBehind => "fell behind the ring (see --all-frames-memory)",
            Self::HeldUpOthers => "held up the other lock-step clients (see --lockstep-patience)",
            Self::MadeRoom => "took nothing for 2 s and another wanted the place",
            Self::ServerStops => "server stops",
        }
    }
}

impl From<SendError> for EndReason {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Left => Self::Left,
            SendError::Stalled => Self::Stalled,
            SendError::TooSlow => Self::TooSlow,
        }
    }
}

/// What one viewer, or several, were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// See [`ClientStats::frames`].
    pub frames: u64,
    /// See [`ClientStats::bytes`].
    pub bytes: u64,
    /// See [`ClientStats::skipped`].
    pub skipped: u64,
    /// See [`ClientStats::stalls`].
    pub stalls: u64,
}

impl Sent {
    /// Adds what others were sent.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.skipped += other.skipped;
        self.stalls += other.stalls;
    }
}

/// Sums over all viewers that have left.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// How many ended for each reason, in the order of [`EndReason::ALL`].
    pub ended: [u64; EndReason::ALL.len()],
    /// What they were sent, by [`ClientStats::mode`].
    pub by_mode: BTreeMap<&'static str, Sent>,
}

impl Totals {
    /// Counts one more viewer that has left.
    pub fn add(&mut self, client: &ClientStats, end: EndReason) {
        self.ended[end as usize] += 1;
        self.by_mode.entry(client.mode).or_default().add(&client.sent());
    }
}

/// The viewers at one moment: each of them is either present or counted among those that have left.
pub struct Viewers {
    /// Those that are here.
    pub present: Vec<Arc<ClientStats>>,
    /// Sums over the rest.
    pub left: Totals,
}
