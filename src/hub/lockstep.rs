//! Lock-step: all viewers in this mode get the same frames, and the slowest sets the pace.
//!
//! [`Lockstep`] is pure: it is told everything and waits for nothing. [`LockstepGroup`] is the [`FrameSink`] around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Feed, FeedEnd, FrameSink, Wait, skipped};
use crate::frame::Frame;

/// A round begins when every member has been sent the last round's frame, with the newest frame there is then. A member
/// that exceeds the timeout while others wait is evicted.
struct Lockstep {
    timeout: Duration,
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
enum Step {
    /// Send this frame, then call [`Lockstep::ready`].
    Send(Arc<Frame>),
    /// Wait for a change, at most until then: somebody may have to be evicted.
    Wait(Option<Instant>),
    /// The member was evicted.
    Evicted,
}

impl Lockstep {
    /// Creates an empty group.
    fn new(timeout: Duration) -> Self {
        Self { timeout, members: BTreeMap::new(), next_id: 0, round: None, offered: None }
    }

    /// Adds a member that is ready for the next round.
    fn join(&mut self) -> u64 {
        self.next_id += 1;
        self.members.insert(self.next_id, Member::Ready);
        self.next_id
    }

    /// Removes a member. Returns `true` if a round began because of that.
    fn leave(&mut self, id: u64, now: Instant) -> bool {
        self.members.remove(&id);
        if self.members.is_empty() {
            (self.round, self.offered) = (None, None);
        }
        self.advance(now)
    }

    /// Offers a newer frame. Returns `true` if a round began with it.
    fn offer(&mut self, frame: &Arc<Frame>, now: Instant) -> bool {
        if self.members.is_empty() {
            return false;
        }
        self.offered = Some(frame.clone());
        self.advance(now)
    }

    /// Notes that this member has been sent its frame. Returns `true` if a round began.
    fn ready(&mut self, id: u64, now: Instant) -> bool {
        if let Some(member) = self.members.get_mut(&id) {
            *member = Member::Ready;
        }
        self.advance(now)
    }

    /// What this member, which said that it is ready, is to do now.
    fn step(&self, id: u64) -> Step {
        match (self.members.get(&id), &self.round) {
            (None, _) => Step::Evicted,
            (Some(Member::Busy), Some(round)) => Step::Send(round.frame.clone()),
            _ => Step::Wait(self.deadline()),
        }
    }

    /// Evicts the members that have kept others waiting for too long. Returns `true` if there were any.
    fn evict_stalled(&mut self, now: Instant) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.members.retain(|_, member| *member == Member::Ready);
        self.advance(now);
        true
    }

    /// When the members that others wait for have used up their time; `None` while nobody waits for others.
    fn deadline(&self) -> Option<Instant> {
        let is_any = |state| self.members.values().any(|member| *member == state);
        let round = self.round.as_ref().filter(|_| is_any(Member::Busy) && is_any(Member::Ready))?;
        Some(round.began + self.timeout)
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

/// The viewers that go in lock-step.
pub struct LockstepGroup {
    group: Mutex<Lockstep>,
    stepped: Condvar,
    /// Whether there are members, to be asked without the lock.
    has_members: AtomicBool,
    is_closed: AtomicBool,
}

impl LockstepGroup {
    /// Creates an empty group in which one member may keep the others waiting for at most `timeout`.
    pub fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            group: Mutex::new(Lockstep::new(timeout)),
            stepped: Condvar::new(),
            has_members: AtomicBool::default(),
            is_closed: AtomicBool::default(),
        })
    }

    /// Joins the group; the result leaves it when dropped.
    pub fn join_lockstep(self: &Arc<Self>) -> LockstepMember {
        let mut group = self.group.lock();
        let id = group.join();
        self.has_members.store(true, Ordering::SeqCst);
        LockstepMember { group: self.clone(), id, is_sending: false, last: 0, skipped: 0 }
    }
}

impl FrameSink for LockstepGroup {
    fn take(&self, frame: &Arc<Frame>) {
        if self.has_members.load(Ordering::SeqCst) && self.group.lock().offer(frame, Instant::now()) {
            self.stepped.notify_all();
        }
    }

    fn close(&self) {
        let group = self.group.lock();
        self.is_closed.store(true, Ordering::SeqCst);
        drop(group);
        self.stepped.notify_all();
    }
}

/// The feed of one viewer in lock-step; see [`LockstepGroup::join_lockstep`].
pub struct LockstepMember {
    group: Arc<LockstepGroup>,
    id: u64,
    /// Has a frame that the group does not know to be sent.
    is_sending: bool,
    last: u64,
    skipped: u64,
}

impl Feed for LockstepMember {
    /// Notes that the last frame has been sent, then waits for the next one.
    fn next(&mut self, deadline: Instant) -> Result<Wait, FeedEnd> {
        let mut group = self.group.group.lock();
        let mut has_changed = std::mem::take(&mut self.is_sending) && group.ready(self.id, Instant::now());
        loop {
            has_changed |= group.evict_stalled(Instant::now());
            if std::mem::take(&mut has_changed) {
                self.group.stepped.notify_all();
            }
            if self.group.is_closed.load(Ordering::SeqCst) {
                return Ok(Wait::Closed);
            }
            let until = match group.step(self.id) {
                Step::Send(frame) => {
                    self.is_sending = true;
                    self.skipped += skipped(self.last, &frame);
                    self.last = frame.sequence();
                    return Ok(Wait::Frame(frame));
                }
                Step::Evicted => {
                    return Err(FeedEnd::HeldUpOthers(format!("held up the others with frame {}", self.last)));
                }
                Step::Wait(until) => until.map_or(deadline, |until| until.min(deadline)),
            };
            if self.group.stepped.wait_until(&mut group, until).timed_out() && Instant::now() >= deadline {
                return Ok(Wait::Nothing);
            }
        }
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }

    fn send_limit(&self) -> Option<Duration> {
        Some(self.group.group.lock().timeout)
    }
}

impl Drop for LockstepMember {
    fn drop(&mut self) {
        let mut group = self.group.group.lock();
        let has_changed = group.leave(self.id, Instant::now());
        self.group.has_members.store(!group.members.is_empty(), Ordering::SeqCst);
        drop(group);
        if has_changed {
            self.group.stepped.notify_all();
        }
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
                Step::Evicted => panic!("member {id} was evicted"),
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
    fn lockstep_evicts_a_member_that_stalls_while_others_wait() {
        let mut all = Group::new();
        let (fast, slow, stalled) = (all.group.join(), all.group.join(), all.group.join());
        all.frames(1);
        all.ready(fast);
        all.frames(10);
        all.ready(slow);
        all.frames(9);
        assert!(!all.group.evict_stalled(all.now), "1.9 s are forgiven");
        let Step::Wait(Some(deadline)) = all.group.step(fast) else { panic!("it should wait") };
        assert_eq!(deadline - all.now, Duration::from_millis(100));
        all.frames(1);
        assert!(all.group.evict_stalled(all.now));
        assert!(matches!(all.group.step(stalled), Step::Evicted));
        assert_eq!((all.at(fast), all.at(slow)), (21, 21));
        // Saying that it is ready does not bring it back.
        all.ready(stalled);
        assert!(matches!(all.group.step(stalled), Step::Evicted));
        // Nobody waits for anybody, so nobody is evicted.
        all.frames(50);
        assert!(!all.group.evict_stalled(all.now));
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

    #[test]
    fn members_wait_for_each_other_and_for_no_longer_than_the_timeout() {
        let group = LockstepGroup::new(Duration::from_millis(200));
        let (mut fast, mut stalled) = (group.join_lockstep(), group.join_lockstep());
        let far = Instant::now() + Duration::from_secs(20);
        let sent = |wait, number| matches!(wait, Ok(Wait::Frame(frame)) if frame.sequence() == number);
        group.take(&test_frame(1, Duration::from_secs(1), 0));
        assert!(sent(fast.next(far), 1) && sent(stalled.next(far), 1));
        group.take(&test_frame(2, Duration::from_secs(2), 0));
        let soon = Instant::now() + Duration::from_millis(30);
        assert!(matches!(fast.next(soon), Ok(Wait::Nothing)), "it waits for the other");
        assert!(sent(fast.next(far), 2));
        assert!(matches!(stalled.next(far), Err(FeedEnd::HeldUpOthers(_))), "it was evicted");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| fast.next(far));
            group.close();
            assert!(matches!(waiter.join().unwrap(), Ok(Wait::Closed)));
        });
    }
}
