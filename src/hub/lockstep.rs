//! Lock-step: all viewers in this mode get the same frames, and the slowest sets the pace.
//!
//! [`Lockstep`] is pure: it is told everything and waits for nothing. [`LockstepGroup`] is the [`FrameSink`] around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Feed, FeedEnd, FrameSink, Wait, skipped};
use crate::frame::Frame;
use crate::system::sync::{AtomicBool, Condvar, Mutex, rank};

/// A member that takes longer than this for a frame holds the group under one frame a second.
const SLOW: Duration = Duration::from_secs(1);
/// How long a member may do that alone.
const SLOW_FOR: Duration = Duration::from_secs(30);

/// A round begins when every member has been sent the last round's frame, with the newest frame there is then. A member
/// that exceeds the timeout while others wait is evicted, and so is one that was slow in each round of half a minute,
/// while at least as many others were not.
struct Lockstep {
    timeout: Duration,
    members: BTreeMap<u64, Member>,
    /// Why the members that have not noticed it yet were evicted.
    evicted: BTreeMap<u64, Eviction>,
    next_id: u64,
    round: Option<Round>,
    /// The newest frame, until a round takes it.
    offered: Option<Arc<Frame>>,
}

/// One viewer of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    /// Is being sent the round's frame; otherwise it waits for a round.
    is_busy: bool,
    /// When the first of the rounds began in each of which it has been slow.
    slow_since: Option<Instant>,
}

/// Why a member was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eviction {
    /// It exceeded the timeout.
    Stalled,
    /// It alone held the group under one frame a second.
    Slow,
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
    Evicted(Eviction),
}

impl Lockstep {
    /// Creates an empty group.
    fn new(timeout: Duration) -> Self {
        Self { timeout, members: BTreeMap::new(), evicted: BTreeMap::new(), next_id: 0, round: None, offered: None }
    }

    /// Adds a member that is ready for the next round.
    fn join(&mut self) -> u64 {
        self.next_id += 1;
        self.members.insert(self.next_id, Member { is_busy: false, slow_since: None });
        self.next_id
    }

    /// Removes a member. Returns `true` if a round began because of that.
    fn leave(&mut self, id: u64, now: Instant) -> bool {
        self.members.remove(&id);
        self.evicted.remove(&id);
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
        let has_others = self.members.len() > 1;
        if let (Some(member), Some(round)) = (self.members.get_mut(&id), &self.round) {
            let is_slow = has_others && now - round.began >= SLOW;
            member.is_busy = false;
            member.slow_since = is_slow.then_some(member.slow_since.unwrap_or(round.began));
        }
        self.advance(now)
    }

    /// What this member, which said that it is ready, is to do now.
    fn step(&self, id: u64) -> Step {
        match (self.members.get(&id), &self.round) {
            (None, _) => Step::Evicted(self.evicted.get(&id).copied().unwrap_or(Eviction::Stalled)),
            (Some(Member { is_busy: true, .. }), Some(round)) => Step::Send(round.frame.clone()),
            _ => Step::Wait(self.deadline()),
        }
    }

    /// Evicts the members that have kept others waiting for too long. Returns `true` if there were any.
    fn evict_stalled(&mut self, now: Instant) -> bool {
        let stalled = self.deadline().filter(|deadline| now >= *deadline).map(|_| Eviction::Stalled);
        let slowest = self.slowest().filter(|(_, since)| now - *since >= SLOW_FOR);
        let Some(why) = stalled.or(slowest.map(|_| Eviction::Slow)) else { return false };
        let is_out = |id: u64, member: &Member| match why {
            Eviction::Stalled => member.is_busy,
            Eviction::Slow => slowest.is_some_and(|(slowest, _)| slowest == id),
        };
        let evicted: Vec<u64> =
            self.members.iter().filter(|(id, member)| is_out(**id, member)).map(|(id, _)| *id).collect();
        for id in evicted {
            self.members.remove(&id);
            self.evicted.insert(id, why);
        }
        self.advance(now);
        true
    }

    /// The member that has been slow for the longest time, and since when, unless most members are slow.
    fn slowest(&self) -> Option<(u64, Instant)> {
        let slow = || self.members.iter().filter_map(|(id, member)| Some((*id, member.slow_since?)));
        let is_alone = slow().count() * 2 <= self.members.len();
        slow().min_by_key(|(_, since)| *since).filter(|_| is_alone)
    }

    /// When the members that others wait for have used up their time; `None` while nobody waits for others.
    fn deadline(&self) -> Option<Instant> {
        let is_any = |is_busy| self.members.values().any(|member| member.is_busy == is_busy);
        let round = self.round.as_ref().filter(|_| is_any(true) && is_any(false))?;
        Some(round.began + self.timeout)
    }

    fn advance(&mut self, now: Instant) -> bool {
        if self.members.is_empty() || self.members.values().any(|member| member.is_busy) {
            return false;
        }
        let Some(frame) = self.offered.take() else { return false };
        self.round = Some(Round { frame, began: now });
        self.members.values_mut().for_each(|member| member.is_busy = true);
        true
    }
}

/// The viewers that go in lock-step.
pub struct LockstepGroup {
    group: Mutex<Lockstep, { rank::BRIEF }>,
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
                Step::Evicted(Eviction::Stalled) => {
                    return Err(FeedEnd::HeldUpOthers(format!("held up the others with frame {}", self.last)));
                }
                Step::Evicted(Eviction::Slow) => {
                    let time = SLOW_FOR.as_secs();
                    let why = format!("held the others under one frame a second for {time} s");
                    return Err(FeedEnd::HeldUpOthers(why));
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
                Step::Evicted(_) => panic!("member {id} was evicted"),
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
        assert!(matches!(all.group.step(stalled), Step::Evicted(Eviction::Stalled)));
        assert_eq!((all.at(fast), all.at(slow)), (21, 21));
        // Saying that it is ready does not bring it back.
        all.ready(stalled);
        assert!(matches!(all.group.step(stalled), Step::Evicted(Eviction::Stalled)));
        // Nobody waits for anybody, so nobody is evicted.
        all.frames(50);
        assert!(!all.group.evict_stalled(all.now));
    }

    /// Rounds in which these members take so many tenths of a second each, until one is evicted, for at most so many
    /// seconds. Returns who, and when.
    fn rounds(all: &mut Group, members: &[(u64, u64)], seconds: u64) -> Option<(u64, u64)> {
        let began = all.now;
        all.frames(1);
        while all.now - began < Duration::from_secs(seconds) {
            let start = all.now;
            loop {
                let took = (all.now - start).as_millis() as u64 / 100;
                members.iter().filter(|(_, tenths)| *tenths == took).for_each(|(id, _)| all.ready(*id));
                all.group.evict_stalled(all.now);
                let evicted = members.iter().find(|(id, _)| matches!(all.group.step(*id), Step::Evicted(_)));
                if let Some((id, _)) = evicted {
                    assert!(matches!(all.group.step(*id), Step::Evicted(Eviction::Slow)));
                    return Some((*id, (all.now - began).as_secs()));
                }
                if members.iter().all(|(_, tenths)| *tenths <= took) {
                    break;
                }
                all.frames(1);
            }
        }
        None
    }

    #[test]
    fn lockstep_evicts_the_few_that_hold_the_group_under_one_frame_a_second() {
        let evicted = |tenths: &[u64]| {
            let mut all = Group::new();
            let members: Vec<_> = tenths.iter().map(|tenths| (all.group.join(), *tenths)).collect();
            rounds(&mut all, &members, 100)
        };
        assert!(matches!(evicted(&[19, 1]), Some((1, 30..=31))), "{:?}", evicted(&[19, 1]));
        assert!(matches!(evicted(&[1, 1, 11, 3]), Some((3, 30..=31))));
        assert!(matches!(evicted(&[1, 19, 18, 1]), Some((2 | 3, 30..=31))), "two of four");
        assert_eq!(evicted(&[9, 1, 1]), None, "more than one frame a second");
        assert_eq!(evicted(&[19, 18, 1]), None, "most of them are slow: it is their group");
        assert_eq!(evicted(&[19]), None, "it holds up nobody");
        let mut all = Group::new();
        let alone = all.group.join();
        assert_eq!(rounds(&mut all, &[(alone, 19)], 60), None);
        let other = all.group.join();
        let evicted = rounds(&mut all, &[(alone, 19), (other, 1)], 60);
        assert!(matches!(evicted, Some((1, 30..=31))), "from when the other came: {evicted:?}");
    }

    #[test]
    fn a_pause_is_no_reason_to_evict_from_lockstep() {
        let mut all = Group::new();
        let (slow, fast) = (all.group.join(), all.group.join());
        for _ in 0..5 {
            assert_eq!(rounds(&mut all, &[(slow, 19), (fast, 1)], 20), None);
            assert_eq!(rounds(&mut all, &[(slow, 5), (fast, 1)], 1), None);
        }
        assert!(rounds(&mut all, &[(slow, 19), (fast, 1)], 40).is_some());
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
    fn members_go_on_when_one_has_left_and_count_what_they_did_not_get() {
        let group = LockstepGroup::new(Duration::from_secs(3600));
        let (mut stays, mut leaves) = (group.join_lockstep(), group.join_lockstep());
        assert_eq!(stays.send_limit(), Some(Duration::from_secs(3600)));
        let far = Instant::now() + Duration::from_secs(20);
        let number = |wait| if let Ok(Wait::Frame(frame)) = wait { frame.sequence() } else { 0 };
        let take = |number| group.take(&test_frame(number, Duration::from_secs(number), 0));
        take(1);
        assert_eq!((number(stays.next(far)), number(leaves.next(far))), (1, 1));
        (2..=4).for_each(take);
        drop(leaves);
        assert_eq!((number(stays.next(far)), stays.skipped()), (4, 2));
        take(5);
        assert_eq!((number(stays.next(far)), stays.skipped()), (5, 2));
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
