//! The lock-step group. Pure: it is told everything and waits for nothing; the waiting is in [`crate::hub`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::Frame;

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
