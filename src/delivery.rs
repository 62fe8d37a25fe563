//! What a client gets next: pure decisions, told the time and never waiting for it.
//!
//! | mode | what a client gets |
//! |---|---|
//! | [`Mode::Newest`] | the newest frame whenever it is ready; [`Pace`] thins it on request |
//! | [`Mode::All`] | every frame, out of the [`crate::ring`] |
//! | [`Mode::Lockstep`] | the same frames as all other such clients: [`Lockstep`] |
//!
//! Waiting for frames is the [`crate::hub`]'s; sending them is `http`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// How much too early a frame may be and still be on time.
const TREMBLE: Duration = Duration::from_millis(8);

/// How frames are chosen for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The newest one whenever the client is ready.
    #[default]
    Newest,
    /// Every one, in order.
    All,
    /// The same ones as all others in this mode; the slowest sets the pace.
    Lockstep,
}

impl Mode {
    /// As it is written in options, URLs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::All => "all",
            Self::Lockstep => "lockstep",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Newest, Self::All, Self::Lockstep].into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("\"{text}\" is no mode; give newest, all or lockstep"))
    }
}

/// Reads frames per second.
///
/// # Errors
/// In words, when it is no such number.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|fps| (0.1..=1000.0).contains(fps));
    number.ok_or_else(|| format!("\"{text}\" is no rate; give frames per second from 0.1 to 1000"))
}

/// Reads a time in seconds, with or without its `s`.
///
/// # Errors
/// In words, when it is no such number.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().ok();
    let seconds = number.filter(|seconds| (0.0..=1e9).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("\"{text}\" is no time; give seconds, such as 5 or 0.5"))
}

/// Lets through at most so many frames a second, as evenly as whole frames allow.
///
/// Frames are measured against a fixed grid of times, not against the frame before: so an early or late one shifts
/// none of those after it, and the rate is right over any length of time.
#[derive(Debug, Clone)]
pub struct Pace {
    period: Duration,
    due: Option<Duration>,
}

impl Pace {
    /// At most `fps` frames a second.
    pub fn new(fps: f64) -> Self {
        Self { period: Duration::from_secs_f64(1.0 / fps), due: None }
    }

    /// Whether the frame captured `at` (CLOCK_MONOTONIC) is one of them.
    pub fn takes(&mut self, at: Duration) -> bool {
        let due = self.due.unwrap_or(at);
        // Cameras tremble: a little too early is on time.
        if at + TREMBLE.min(self.period / 4) < due {
            return false;
        }
        // After a pause the grid begins anew, else the frames that were missed would be made up for in a burst.
        let start = if at > due + self.period { at } else { due };
        self.due = Some(start + self.period);
        true
    }
}

/// The lock-step group: a round begins when everybody in it has been sent the last round's frame, with the newest
/// frame there is then. Who takes longer than the patience while others wait is put out.
pub struct Lockstep {
    patience: Duration,
    members: BTreeMap<u64, Member>,
    next_id: u64,
    round: Option<Round>,
    /// The newest frame, until a round takes it.
    offered: Option<Arc<Frame>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    /// Waits for a round.
    Ready,
    /// Is being sent the round's frame.
    Busy,
}

struct Round {
    frame: Arc<Frame>,
    began: Instant,
}

/// What a member of the group is to do.
#[derive(Debug)]
pub enum Step {
    /// Send this frame, then say [`Lockstep::ready`].
    Send(Arc<Frame>),
    /// Wait for a change, at most until then: somebody may have to be put out.
    Wait(Option<Instant>),
    /// It was put out.
    PutOut,
}

impl Lockstep {
    /// An empty group.
    pub fn new(patience: Duration) -> Self {
        Self { patience, members: BTreeMap::new(), next_id: 0, round: None, offered: None }
    }

    /// How long one member may keep the others waiting.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A new member, ready for the next round.
    pub fn join(&mut self) -> u64 {
        self.next_id += 1;
        self.members.insert(self.next_id, Member::Ready);
        self.next_id
    }

    /// `true` if a round began because this one has left.
    pub fn leave(&mut self, id: u64, now: Instant) -> bool {
        self.members.remove(&id);
        if self.members.is_empty() {
            (self.round, self.offered) = (None, None);
        }
        self.advance(now)
    }

    /// There is a newer frame. `true` if a round began with it.
    pub fn offer(&mut self, frame: &Arc<Frame>, now: Instant) -> bool {
        if self.members.is_empty() {
            return false;
        }
        self.offered = Some(frame.clone());
        self.advance(now)
    }

    /// This member has been sent what it was to send. `true` if a round began.
    pub fn ready(&mut self, id: u64, now: Instant) -> bool {
        if let Some(member) = self.members.get_mut(&id) {
            *member = Member::Ready;
        }
        self.advance(now)
    }

    /// What this member, which said that it is ready, is to do now.
    pub fn step(&self, id: u64) -> Step {
        match (self.members.get(&id), &self.round) {
            (None, _) => Step::PutOut,
            (Some(Member::Busy), Some(round)) => Step::Send(round.frame.clone()),
            _ => Step::Wait(self.deadline()),
        }
    }

    /// Puts out those who have kept others waiting for too long. `true` if there were any.
    pub fn put_out_late(&mut self, now: Instant) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.members.retain(|_, member| *member == Member::Ready);
        self.advance(now);
        true
    }

    /// When the patience of those who wait for others ends; `None` while nobody does.
    fn deadline(&self) -> Option<Instant> {
        let is_anybody = |state| self.members.values().any(|member| *member == state);
        let round = self.round.as_ref().filter(|_| is_anybody(Member::Busy) && is_anybody(Member::Ready))?;
        Some(round.began + self.patience)
    }

    fn advance(&mut self, now: Instant) -> bool {
        if self.members.is_empty() || self.members.values().any(|member| *member == Member::Busy) {
            return false;
        }
        let Some(frame) = self.offered.take() else { return false };
        self.round = Some(Round { frame, began: now });
        self.members.values_mut().for_each(|member| *member = Member::Busy);
        true
    }
}

impl fmt::Debug for Lockstep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let round = self.round.as_ref().map(|round| round.frame.sequence());
        write!(f, "round of frame {round:?}, members {:?}", self.members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::test_frame;

    /// Which of the frames of a camera at `source` per second are taken, for a minute. `tremble` is added to or
    /// taken off each frame's time in turn.
    fn taken(source: f64, fps: f64, tremble: Duration) -> Vec<usize> {
        let mut pace = Pace::new(fps);
        let at = |number: usize| {
            let even = Duration::from_secs_f64(10.0 + number as f64 / source);
            if number.is_multiple_of(2) { even + tremble } else { even - tremble }
        };
        (0..(60.0 * source) as usize).filter(|number| pace.takes(at(*number))).collect()
    }

    #[test]
    fn pace_is_even_and_exact() {
        for source in [30.0_f64, 29.97, 15.0, 60.0] {
            for fps in [0.5, 1.0, 7.0, 10.0, 12.5, 15.0, 20.0, 24.0, 29.0, 30.0, 60.0, 1000.0] {
                let expected = source.min(fps) * 60.0;
                for tremble in [0, 3] {
                    let taken = taken(source, fps, Duration::from_millis(tremble));
                    let name = format!("{fps} of {source} a second, {tremble} ms");
                    // At the limit itself a trembling source may lose the frames that come too early.
                    let is_exact = (taken.len() as f64 - expected).abs() <= 2.0;
                    assert!(is_exact, "{name}: {} of {expected}", taken.len());
                    let gaps = || taken.windows(2).map(|pair| pair[1] - pair[0]);
                    let (least, most) = (gaps().min().unwrap(), gaps().max().unwrap());
                    let uneven = if tremble == 0 { 1 } else { 2 };
                    assert!(most - least <= uneven, "{name}: gaps of {least} to {most} frames");
                }
            }
        }
    }

    #[test]
    fn pace_makes_up_for_nothing_after_a_pause() {
        let mut pace = Pace::new(10.0);
        let millis = |millis| Duration::from_millis(millis);
        assert!(pace.takes(millis(1000)) && !pace.takes(millis(1033)) && pace.takes(millis(1100)));
        let after: Vec<bool> = [5000, 5033, 5066, 5100].map(|at| pace.takes(millis(at))).into();
        assert_eq!(after, [true, false, false, true]);
    }

    #[test]
    fn words_for_modes_rates_and_times() {
        for mode in [Mode::Newest, Mode::All, Mode::Lockstep] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("latest".parse::<Mode>().unwrap_err().contains("lockstep"));
        for (text, time) in [("20s", Some(20.0)), ("20", Some(20.0)), ("0.5s", Some(0.5)), ("0", Some(0.0))] {
            assert_eq!(parse_time(text).ok(), time.map(Duration::from_secs_f64), "{text}");
        }
        for bad in ["", "s", "20m", "-1", "-1s", "nan", "inf", "1e99", "20 s", "ss"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "-5", "nan", "inf", "fast", "1001", "0.01", "5fps"] {
            assert!(parse_rate(bad).unwrap_err().contains("0.1 to 1000"), "{bad}");
        }
    }

    /// A group, its clock, and what each member was sent.
    struct Group {
        group: Lockstep,
        now: Instant,
        newest: u64,
    }

    impl Group {
        fn new() -> Self {
            Self { group: Lockstep::new(Duration::from_secs(2)), now: Instant::now(), newest: 0 }
        }

        /// A frame every 100 ms.
        fn frames(&mut self, count: u64) {
            for _ in 0..count {
                self.newest += 1;
                self.now += Duration::from_millis(100);
                self.group.offer(&test_frame(self.newest, self.now.elapsed(), 10), self.now);
            }
        }

        /// What the member is being sent; 0 while it waits.
        fn at(&self, id: u64) -> u64 {
            match self.group.step(id) {
                Step::Send(frame) => frame.sequence(),
                Step::Wait(_) => 0,
                Step::PutOut => panic!("member {id} was put out"),
            }
        }

        fn ready(&mut self, id: u64) {
            self.group.ready(id, self.now);
        }
    }

    #[test]
    fn lockstep_goes_at_the_pace_of_the_slowest() {
        let mut all = Group::new();
        all.frames(3);
        let (fast, slow) = (all.group.join(), all.group.join());
        assert_eq!((all.at(fast), all.at(slow)), (0, 0), "no frame from before they came");
        all.frames(1);
        assert_eq!((all.at(fast), all.at(slow)), (4, 4));
        all.ready(fast);
        all.frames(5);
        assert_eq!((all.at(fast), all.at(slow)), (0, 4), "the fast one waits");
        all.ready(slow);
        assert_eq!((all.at(fast), all.at(slow)), (9, 9), "then both get the newest");
        all.ready(slow);
        all.ready(fast);
        assert_eq!((all.at(fast), all.at(slow)), (0, 0), "none comes twice");
        let late = all.group.join();
        all.frames(1);
        assert_eq!([fast, slow, late].map(|id| all.at(id)), [10; 3]);
    }

    #[test]
    fn lockstep_puts_out_who_stalls_while_others_wait() {
        let mut all = Group::new();
        let (fast, slow, stalled) = (all.group.join(), all.group.join(), all.group.join());
        all.frames(1);
        all.ready(fast);
        all.frames(10);
        all.ready(slow);
        all.frames(9);
        assert!(!all.group.put_out_late(all.now), "1.9 s are forgiven");
        let Step::Wait(Some(deadline)) = all.group.step(fast) else { panic!("it should wait") };
        assert_eq!(deadline - all.now, Duration::from_millis(100));
        all.frames(1);
        assert!(all.group.put_out_late(all.now));
        assert!(matches!(all.group.step(stalled), Step::PutOut));
        assert_eq!((all.at(fast), all.at(slow)), (21, 21));
        // Saying that it is ready does not bring it back.
        all.ready(stalled);
        assert!(matches!(all.group.step(stalled), Step::PutOut));
        // Nobody waits for anybody: nobody is put out.
        all.frames(50);
        assert!(!all.group.put_out_late(all.now));
    }

    #[test]
    fn lockstep_goes_on_when_the_slowest_leaves() {
        let mut all = Group::new();
        let (fast, slow) = (all.group.join(), all.group.join());
        all.frames(1);
        all.ready(fast);
        all.frames(3);
        assert!(all.group.leave(slow, all.now));
        assert_eq!(all.at(fast), 4);
        all.group.leave(fast, all.now);
        let later = all.group.join();
        assert_eq!(all.at(later), 0, "an empty group keeps no frame");
    }
}
