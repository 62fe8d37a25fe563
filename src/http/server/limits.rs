//! Limits on connections: each holds one permit from accept to close, whose state changes.
//!
//! | state | the client | limit | evicted for a newcomer |
//! |---|---|---|---|
//! | head | owes a request: a new or an idle connection | 256 with closing | at once, the oldest first |
//! | short | is sent a short response | 256; 272 with head and closing | when it took no byte for 2 s |
//! | waiting | waits for the camera | 16 | never |
//! | viewer | is sent frames | `--max-clients` | when it took no byte for 2 s |
//! | closing | was sent its last response | as head | as head |
//!
//! Silent connections and unread responses therefore lock nobody out, viewers never lock out a short response, and
//! nothing is evicted while there is room. There are at most `--max-clients` + 16 + 16 + 256 connections.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::info;
use parking_lot::{Condvar, Mutex};

use super::client::{ClientStats, EndReason, Totals, Viewers};
use super::connection::Link;

/// Connections that owe a request or are being closed. As many may be sent a short response.
const HEADS: usize = 256;
/// Further connections with a short response. Since short responses cannot fill this and [`HEADS`], a newcomer always
/// finds a connection that can be evicted at once.
const SHORT: usize = 16;
/// Requests that wait for the camera.
const WAITING: usize = 16;
/// A client whose socket has taken nothing for this time can be evicted.
const STALLED: Duration = Duration::from_secs(2);
/// How long a newcomer waits for the thread of an evicted connection to end.
const EVICTION: Duration = Duration::from_millis(250);
/// How often a request that waits for its turn makes sure that its client is still there.
const LOOK: Duration = Duration::from_millis(250);
/// How often a connection that sleeps looks whether it was evicted.
const PAUSE: Duration = Duration::from_millis(20);

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Short,
    Waiting,
    Viewer,
    Closing,
    /// It was closed in favour of another; its thread has not ended yet.
    Evicted,
}

/// Why a connection may not do what it wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The connection was evicted itself.
    Evicted,
    /// Too many requests that wait for the camera.
    Waiting,
    /// Too many viewers.
    Viewers,
    /// Too many viewers with this address.
    Address,
}

impl Full {
    /// In words, for a response 503.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Evicted => "this connection was closed for another",
            Self::Waiting => "too many requests wait for a picture already",
            Self::Viewers => "too many viewers (see --max-clients)",
            Self::Address => "too many viewers with your address (see --max-clients-per-address)",
        }
    }
}

/// Most connections in each state.
#[derive(Debug, Clone, Copy)]
struct Caps {
    heads: usize,
    short: usize,
    waiting: usize,
    viewers: usize,
    viewers_per_address: Option<usize>,
}

impl Caps {
    fn total(&self) -> usize {
        self.viewers + self.short + self.waiting + self.heads
    }
}

/// The connections and their states. Pure but for the eviction of a connection, which closes its socket.
struct Occupancy {
    caps: Caps,
    entries: BTreeMap<u64, Entry>,
    /// Numbers connections, and orders their changes of state.
    next: u64,
    viewers_so_far: u64,
    totals: Totals,
    is_closing: bool,
    panics: u64,
}

struct Entry {
    link: Arc<Link>,
    state: State,
    /// When the state was entered, by [`Occupancy::next`].
    entered: u64,
    /// Whether it has sent a request.
    has_asked: bool,
    /// Of a viewer.
    stats: Option<Arc<ClientStats>>,
}

impl Entry {
    /// How long the client has taken no byte, if that is long enough for an eviction.
    fn stalled_for(&self) -> Option<Duration> {
        Some(self.link.flow().stuck_for()).filter(|time| *time >= STALLED)
    }
}

impl Occupancy {
    fn new(caps: Caps) -> Self {
        Self {
            caps,
            entries: BTreeMap::new(),
            next: 0,
            viewers_so_far: 0,
            totals: Totals::default(),
            is_closing: false,
            panics: 0,
        }
    }

    fn count(&self, state: State) -> usize {
        self.entries.values().filter(|entry| entry.state == state).count()
    }

    /// Connections that can be evicted at once.
    fn idle(&self) -> usize {
        self.count(State::Head) + self.count(State::Closing)
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Changes a connection's state; `false` for one that was evicted, which stays so.
    fn set(&mut self, id: u64, state: State) -> bool {
        let entered = self.ticket();
        let entry = self.entries.get_mut(&id).filter(|entry| entry.state != State::Evicted);
        entry.map(|entry| (entry.state, entry.entered) = (state, entered)).is_some()
    }

    /// Evicts the connection with the highest rank, among those that have one. Its permit is free at once; its thread ends
    /// a little later.
    fn evict<Rank: Ord>(&mut self, rank: impl Fn(&Entry) -> Option<Rank>) -> Option<()> {
        let ranked = self.entries.values_mut().filter_map(|entry| Some((rank(entry)?, entry)));
        let (_, entry) = ranked.max_by(|(left, _), (right, _)| left.cmp(right))?;
        entry.state = State::Evicted;
        entry.link.evict();
        // Now, since sums must not fall until the thread has ended.
        if let Some(stats) = entry.stats.take() {
            self.totals.add(&stats, EndReason::MadeRoom);
        }
        Some(())
    }

    fn evict_oldest_idle(&mut self) -> Option<()> {
        self.evict(|entry| matches!(entry.state, State::Head | State::Closing).then_some(Reverse(entry.entered)))
    }

    fn evict_stalled_short(&mut self) -> Option<()> {
        self.evict(|entry| entry.stalled_for().filter(|_| entry.state == State::Short))
    }

    /// Evicts a stalled viewer: an old connection of the newcomer's client first, then the one that has been stalled
    /// for the longest time.
    fn evict_stalled_viewer(&mut self, newcomer: &ClientStats, among: impl Fn(&ClientStats) -> bool) -> Option<()> {
        self.evict(|entry| {
            let stats = entry.stats.as_ref().filter(|stats| entry.state == State::Viewer && among(stats))?;
            Some((stats.is_same_client(newcomer), entry.stalled_for()?))
        })
    }

    /// Makes room for one connection more that can be evicted at once, if it can be made.
    fn reserve(&mut self) -> Option<()> {
        if self.idle() >= self.caps.heads {
            self.evict_oldest_idle()?;
        }
        while self.idle() + self.count(State::Short) >= self.caps.heads + self.caps.short {
            self.evict_oldest_idle().or_else(|| self.evict_stalled_short())?;
        }
        Some(())
    }

    /// Takes a new connection in; `None` while there is no room.
    fn admit(&mut self, link: &Arc<Link>) -> Option<u64> {
        self.reserve()?;
        if self.entries.len() >= self.caps.total() {
            return None;
        }
        let id = self.ticket();
        self.entries
            .insert(id, Entry { link: link.clone(), state: State::Head, entered: id, has_asked: false, stats: None });
        Some(id)
    }

    /// The connection owes a request, or is being closed. Where too many are, the oldest of them is evicted.
    fn set_idle(&mut self, id: u64, state: State) {
        if self.set(id, state) && self.idle() > self.caps.heads {
            self.evict_oldest_idle();
        }
    }

    /// Whether the connection may send a response now.
    fn begin_response(&mut self, id: u64) -> bool {
        let has_room = self.count(State::Short) < self.caps.heads || self.evict_stalled_short().is_some();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.has_asked = true;
        }
        has_room && self.set(id, State::Short)
    }

    /// Whether the connection may wait for the camera now.
    fn begin_waiting(&mut self, id: u64) -> bool {
        self.count(State::Waiting) < self.caps.waiting && self.set(id, State::Waiting)
    }

    fn begin_viewing(
        &mut self,
        id: u64,
        peer: &str,
        user_agent: &str,
        mode: &'static str,
    ) -> Result<Arc<ClientStats>, Full> {
        let entry = self.entries.get(&id).filter(|entry| entry.state != State::Evicted);
        let link = entry.ok_or(Full::Evicted)?.link.clone();
        let stats = Arc::new(ClientStats::new(self.viewers_so_far + 1, link, peer, user_agent, mode));
        let has_address = |viewer: &ClientStats| viewer.peer == peer;
        let of_address = self.viewers().filter(|viewer| has_address(viewer)).count();
        if self.caps.viewers_per_address.is_some_and(|most| of_address >= most) {
            self.evict_stalled_viewer(&stats, has_address).ok_or(Full::Address)?;
        }
        if self.count(State::Viewer) >= self.caps.viewers {
            self.evict_stalled_viewer(&stats, |_| true).ok_or(Full::Viewers)?;
        }
        self.viewers_so_far += 1;
        self.set(id, State::Viewer);
        self.entries.entry(id).and_modify(|entry| entry.stats = Some(stats.clone()));
        Ok(stats)
    }

    fn end_viewing(&mut self, id: u64, end: EndReason) {
        // An evicted viewer has been counted already.
        if let Some(stats) = self.entries.get_mut(&id).and_then(|entry| entry.stats.take()) {
            self.totals.add(&stats, end);
            self.set_idle(id, State::Closing);
        }
    }

    fn viewers(&self) -> impl Iterator<Item = &Arc<ClientStats>> {
        self.entries.values().filter(|entry| entry.state == State::Viewer).filter_map(|entry| entry.stats.as_ref())
    }
}

/// The limits on connections, and the connections that there are.
pub struct Limits {
    occupancy: Mutex<Occupancy>,
    /// A connection's thread has ended.
    ended: Condvar,
    /// A request waits for the camera no more.
    stopped_waiting: Condvar,
}

impl Limits {
    /// Limits with so many viewers, and so many of them from one address.
    pub fn new(max_clients: usize, max_per_address: Option<usize>) -> Arc<Self> {
        let caps = Caps {
            heads: HEADS,
            short: SHORT,
            waiting: WAITING,
            viewers: max_clients,
            viewers_per_address: max_per_address,
        };
        let occupancy = Mutex::new(Occupancy::new(caps));
        Arc::new(Self { occupancy, ended: Condvar::new(), stopped_waiting: Condvar::new() })
    }

    /// The most connections, and so threads and descriptors, that there can be at a time.
    pub fn max_connections(&self) -> usize {
        self.occupancy.lock().caps.total()
    }

    /// Takes a new connection in, evicting another where that is needed; `None` if there is no room.
    pub fn admit(self: &Arc<Self>, link: &Arc<Link>) -> Option<Permit> {
        let deadline = Instant::now() + EVICTION;
        let mut occupancy = self.occupancy.lock();
        loop {
            if let Some(id) = occupancy.admit(link) {
                return Some(Permit { link: link.clone(), registration: Registration { limits: self.clone(), id } });
            }
            if occupancy.count(State::Evicted) == 0 || self.ended.wait_until(&mut occupancy, deadline).timed_out() {
                return None;
            }
        }
    }

    /// All viewers at one moment, so that sums over those present and those that have left never fall.
    pub fn viewers(&self) -> Viewers {
        let occupancy = self.occupancy.lock();
        let mut present: Vec<_> = occupancy.viewers().cloned().collect();
        present.sort_by_key(|stats| stats.id);
        Viewers { present, left: occupancy.totals.clone() }
    }

    /// Connections whose thread has panicked.
    pub fn panics(&self) -> u64 {
        self.occupancy.lock().panics
    }

    /// Closes the connections that owe a request, now and from now on, and ends the waiting for a turn to wait. A request
    /// that has arrived gets its response, and a connection that has not had one yet may still send it.
    pub fn close_idle(&self) {
        let mut occupancy = self.occupancy.lock();
        occupancy.is_closing = true;
        let is_idle = |entry: &&Entry| matches!(entry.state, State::Head | State::Closing) && entry.has_asked;
        occupancy.entries.values().filter(is_idle).for_each(|entry| entry.link.stop_reading());
        self.stopped_waiting.notify_all();
    }

    /// Closes all connections, whatever they are doing.
    pub fn close_all(&self) {
        self.occupancy.lock().entries.values().for_each(|entry| entry.link.shutdown());
    }

    /// Waits until every connection's thread has ended; `false` if some have not by then.
    pub fn wait_empty(&self, deadline: Instant) -> bool {
        let mut occupancy = self.occupancy.lock();
        while !occupancy.entries.is_empty() {
            if self.ended.wait_until(&mut occupancy, deadline).timed_out() {
                return occupancy.entries.is_empty();
            }
        }
        true
    }
}

/// What a connection holds from accept to close. A new one owes a request.
pub struct Permit {
    /// Dropped first, so that the descriptor is closed when the permit is free.
    link: Arc<Link>,
    registration: Registration,
}

struct Registration {
    limits: Arc<Limits>,
    id: u64,
}

impl Permit {
    /// The connection's socket.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The client owes a request, and its connection can be evicted for a newcomer. `false` while the server stops.
    pub fn expect_request(&self) -> bool {
        let mut occupancy = self.registration.limits.occupancy.lock();
        occupancy.set_idle(self.registration.id, State::Head);
        !occupancy.is_closing
    }

    /// The client was sent its last response, and its connection can be evicted for a newcomer.
    pub fn close(&self) {
        self.registration.limits.occupancy.lock().set_idle(self.registration.id, State::Closing);
    }

    /// A response is made and sent; `false` if there are too many already, which the client was told.
    pub fn begin_response(&self) -> bool {
        let begun = self.registration.limits.occupancy.lock().begin_response(self.registration.id);
        if !begun {
            self.link.refuse();
        }
        begun
    }

    /// Sleeps while the connection can be evicted, which ends the sleep.
    pub fn pause(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !self.link.is_evicted() {
            thread::sleep(PAUSE);
        }
    }

    /// Waits until this request may wait for the camera.
    ///
    /// # Errors
    /// When that was not before `deadline`, or `go_on` said no.
    pub fn wait(&self, deadline: Instant, go_on: impl Fn() -> bool) -> Result<Waiting<'_>, Full> {
        let Registration { limits, id } = &self.registration;
        loop {
            let mut occupancy = limits.occupancy.lock();
            if occupancy.begin_waiting(*id) {
                return Ok(Waiting(self));
            }
            let now = Instant::now();
            if occupancy.is_closing || now >= deadline {
                return Err(Full::Waiting);
            }
            limits.stopped_waiting.wait_until(&mut occupancy, deadline.min(now + LOOK));
            drop(occupancy);
            if !go_on() {
                return Err(Full::Waiting);
            }
        }
    }

    /// Makes the client a viewer.
    ///
    /// # Errors
    /// When there are too many, and none can be evicted.
    pub fn view(&self, peer: &str, user_agent: &str, mode: &'static str) -> Result<Viewer<'_>, Full> {
        let Registration { limits, id } = &self.registration;
        let stats = limits.occupancy.lock().begin_viewing(*id, peer, user_agent, mode)?;
        info!("viewer came client={} id={} mode={mode}", stats.peer, stats.id);
        Ok(Viewer { permit: self, stats, end: EndReason::Left })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut occupancy = self.limits.occupancy.lock();
        occupancy.entries.remove(&self.id);
        occupancy.panics += u64::from(thread::panicking());
        drop(occupancy);
        self.limits.ended.notify_all();
    }
}

/// A request that waits for the camera, until it is dropped.
pub struct Waiting<'a>(&'a Permit);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Registration { limits, id } = &self.0.registration;
        limits.occupancy.lock().set(*id, State::Short);
        limits.stopped_waiting.notify_one();
    }
}

/// A client that is sent frames, until this is dropped.
pub struct Viewer<'a> {
    permit: &'a Permit,
    stats: Arc<ClientStats>,
    end: EndReason,
}

impl Viewer<'_> {
    /// What is counted about this viewer.
    pub fn stats(&self) -> &Arc<ClientStats> {
        &self.stats
    }

    /// Ends it for this reason, or since it was evicted.
    pub fn leave(mut self, end: EndReason) {
        self.end = if self.permit.link.is_evicted() { EndReason::MadeRoom } else { end };
    }
}

impl Drop for Viewer<'_> {
    fn drop(&mut self) {
        let (stats, end) = (&self.stats, self.end);
        let Registration { limits, id } = &self.permit.registration;
        limits.occupancy.lock().end_viewing(*id, end);
        info!(
            "viewer left client={} id={} mode={} reason=\"{}\" frames={} bytes={} skipped={} stalls={} seconds={:.1}",
            stats.peer,
            stats.id,
            stats.mode,
            end.reason(),
            stats.frames(),
            stats.bytes(),
            stats.skipped(),
            stats.stalls(),
            stats.here_for().as_secs_f64()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::test_frame;
    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};
    use std::io::Read;

    fn link() -> (Arc<Link>, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        (Link::new(ours), theirs)
    }

    fn connect(limits: &Arc<Limits>) -> (Permit, Socket) {
        let (link, theirs) = link();
        (limits.admit(&link).expect("room"), theirs)
    }

    /// Connections with a short response, as many as there may be.
    fn fill_with_short(limits: &Arc<Limits>) -> Vec<(Permit, Socket)> {
        let begin = |_| {
            let (permit, theirs) = connect(limits);
            assert!(permit.begin_response(), "room");
            (permit, theirs)
        };
        (0..HEADS).map(begin).collect()
    }

    fn is_closed(theirs: &Socket) -> bool {
        theirs.set_nonblocking(true).unwrap();
        matches!((&*theirs).read(&mut [0; 8]), Ok(0))
    }

    fn stall(permit: &Permit, millis: u64) {
        permit.link.flow().waits(Duration::from_millis(millis));
    }

    #[test]
    fn viewers_short_responses_and_waiting_requests_do_not_lock_each_other_out() {
        let limits = Limits::new(2, None);
        let mut others: Vec<_> = (0..19).map(|_| connect(&limits)).collect();
        let viewer = |at: usize| others[at].0.view("a", "", "newest");
        let viewers = [viewer(0).unwrap(), viewer(1).unwrap()];
        assert_eq!(viewer(2).map(drop), Err(Full::Viewers));
        let wait = |at: usize| others[at].0.wait(Instant::now(), || true);
        let mut waiting: Vec<_> = (2..18).map(|at| wait(at).unwrap()).collect();
        assert_eq!(wait(18).map(drop), Err(Full::Waiting));
        waiting.pop();
        assert!(wait(18).is_ok());
        drop((viewers, waiting));
        others.clear();
        let short = fill_with_short(&limits);
        let newcomer = connect(&limits).0;
        assert!(!newcomer.begin_response());
        assert!(newcomer.view("a", "", "newest").is_ok() && newcomer.wait(Instant::now(), || true).is_ok());
        drop(short);
        assert!(newcomer.begin_response());
    }

    #[test]
    fn a_request_waits_for_its_turn_to_wait() {
        let limits = Limits::new(1, None);
        let permits: Vec<_> = (0..=WAITING).map(|_| connect(&limits)).collect();
        let now = Instant::now();
        let mut waiting: Vec<_> = permits[1..].iter().map(|(permit, _)| permit.wait(now, || true).unwrap()).collect();
        let far = now + Duration::from_secs(60);
        assert_eq!(permits[0].0.wait(far, || false).map(drop), Err(Full::Waiting), "its client left");
        thread::scope(|scope| {
            let last = scope.spawn(|| permits[0].0.wait(far, || true).is_ok());
            waiting.pop();
            assert!(last.join().unwrap());
            waiting.push(permits[WAITING].0.wait(now, || true).unwrap());
            let last = scope.spawn(|| permits[0].0.wait(far, || true).is_ok());
            limits.close_idle();
            assert!(!last.join().unwrap(), "the server stops");
        });
    }

    #[test]
    fn only_stalled_viewers_are_evicted_and_the_same_client_comes_first() {
        let limits = Limits::new(3, None);
        let new: Vec<_> = (0..9).map(|_| connect(&limits)).collect();
        let view = |at: usize, agent: &str| new[at].0.view("10.0.0.7", agent, "newest");
        let taking = view(0, "Safari").unwrap();
        let (other, same) = (view(1, "VLC").unwrap(), view(2, "Safari").unwrap());
        stall(&new[0].0, 1900);
        assert_eq!(view(3, "Safari").map(drop), Err(Full::Viewers), "1.9 s are forgiven");
        stall(&new[1].0, 5000);
        stall(&new[2].0, 3000);
        let first = view(4, "Safari").unwrap();
        assert!(is_closed(&new[2].1) && !is_closed(&new[1].1) && new[2].0.link.is_evicted());
        let second = view(5, "Safari").unwrap();
        assert!(is_closed(&new[1].1) && !is_closed(&new[0].1));
        assert_eq!(view(6, "Safari").map(drop), Err(Full::Viewers));
        // Whatever they think why they ended.
        other.leave(EndReason::Left);
        same.leave(EndReason::Stalled);
        let here: Vec<u64> = limits.viewers().present.iter().map(|stats| stats.id).collect();
        assert_eq!(here, [taking.stats().id, first.stats().id, second.stats().id]);
        assert_eq!(here, [1, 4, 5]);
        assert_eq!(limits.viewers().left.ended[EndReason::MadeRoom as usize], 2);
    }

    #[test]
    fn an_evicted_viewer_is_counted_once_and_at_once() {
        let limits = Limits::new(1, None);
        let new = [connect(&limits), connect(&limits)];
        let evicted = new[0].0.view("a", "", "newest").unwrap();
        evicted.stats().count(&test_frame(1, Duration::ZERO, 10), 10);
        stall(&new[0].0, 3000);
        let _newcomer = new[1].0.view("a", "", "newest").unwrap();
        let left = || limits.viewers().left;
        assert_eq!((left().by_mode["newest"].frames, left().ended[EndReason::MadeRoom as usize]), (1, 1));
        evicted.leave(EndReason::Left);
        assert_eq!((left().by_mode["newest"].frames, left().ended[EndReason::MadeRoom as usize]), (1, 1));
    }

    #[test]
    fn an_address_can_have_a_limit_of_its_own() {
        let limits = Limits::new(10, Some(2));
        let new: Vec<_> = (0..5).map(|_| connect(&limits)).collect();
        let view = |at: usize, peer: &str| new[at].0.view(peer, "", "newest");
        let _viewers = [view(0, "a").unwrap(), view(1, "a").unwrap(), view(2, "b").unwrap()];
        stall(&new[2].0, 9000);
        assert_eq!(view(3, "a").map(drop), Err(Full::Address));
        stall(&new[0].0, 2000);
        assert!(view(3, "a").is_ok() && is_closed(&new[0].1) && !is_closed(&new[2].1));
    }

    #[test]
    fn every_reason_is_counted_in_its_own_place() {
        for (at, end) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at, "{}", end.name());
            let limits = Limits::new(1, None);
            connect(&limits).0.view("a", "", "newest").unwrap().leave(end);
            let ended = limits.viewers().left.ended;
            assert_eq!((ended[at], ended.iter().sum()), (1, 1u64));
        }
    }

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let limits = Limits::new(1, None);
        let idle: Vec<_> = (0..HEADS).map(|_| connect(&limits)).collect();
        idle[0].0.expect_request();
        idle[1].0.close();
        let newcomers = [connect(&limits), connect(&limits)];
        assert!(is_closed(&idle[2].1) && is_closed(&idle[3].1), "the oldest");
        assert!(!is_closed(&idle[0].1) && !is_closed(&idle[1].1) && !is_closed(&newcomers[0].1), "younger ones");
    }

    #[test]
    fn short_responses_that_nobody_reads_make_room_after_two_seconds() {
        let limits = Limits::new(1, None);
        let short = fill_with_short(&limits);
        let newcomer = connect(&limits).0;
        stall(&short[3].0, 1900);
        assert!(!newcomer.begin_response());
        assert!(!is_closed(&short[3].1));
        stall(&short[5].0, 2100);
        stall(&short[7].0, 2200);
        assert!(newcomer.begin_response());
        assert!(is_closed(&short[7].1) && !is_closed(&short[5].1), "the one that has been stuck longest");
    }

    #[test]
    fn a_newcomer_waits_until_the_evicted_have_ended() {
        let limits = Limits::new(1, None);
        let mut all = fill_with_short(&limits);
        let viewer = connect(&limits);
        let _viewer = viewer.0.view("a", "", "newest").unwrap();
        let waiting: Vec<_> = (0..WAITING).map(|_| connect(&limits)).collect();
        let _waiting: Vec<_> =
            waiting.iter().map(|(permit, _)| permit.wait(Instant::now(), || true).unwrap()).collect();
        all.extend((0..SHORT).map(|_| connect(&limits)));
        let connections = limits.occupancy.lock().entries.len();
        assert_eq!(connections, limits.max_connections());
        let newcomer = link().0;
        assert!(limits.admit(&newcomer).is_none(), "{SHORT} idle ones are there, but no thread ends");
        thread::scope(|scope| {
            let admitted = scope.spawn(|| limits.admit(&newcomer).is_some());
            let evicted = all.iter().position(|(permit, _)| permit.link.is_evicted()).expect("the oldest idle one");
            drop(all.swap_remove(evicted));
            assert!(admitted.join().unwrap());
        });
    }

    #[test]
    fn a_stop_lets_those_ask_that_have_not_asked_yet() {
        let limits = Limits::new(1, None);
        let ((new, _new_end), (kept, _kept_end)) = (connect(&limits), connect(&limits));
        assert!(kept.begin_response() && kept.expect_request());
        limits.close_idle();
        let is_at_end = |permit: &Permit| {
            let (mut read, address) = (Vec::new(), socket2::SockAddr::unix("/none").unwrap());
            let connection = super::super::connection::Connection::new(permit.link.clone(), &address).unwrap();
            matches!(connection.read(&mut read, 10, Instant::now() + Duration::from_millis(20)), Ok(0))
        };
        assert!(!is_at_end(&new) && is_at_end(&kept));
        assert!(new.begin_response() && !new.expect_request(), "one request, and no other");
    }

    #[test]
    fn panics_are_counted() {
        let limits = Limits::new(1, None);
        let permit = connect(&limits).0;
        let thread = thread::spawn(move || {
            let _permit = permit;
            panic!("as the test wants");
        });
        assert!(thread.join().is_err());
        assert_eq!((limits.panics(), limits.wait_empty(Instant::now())), (1, true));
    }

    #[test]
    fn empties_when_all_have_left() {
        let limits = Limits::new(1, None);
        let permit = connect(&limits);
        assert!(!limits.wait_empty(Instant::now() + Duration::from_millis(10)));
        drop(permit);
        assert!(limits.wait_empty(Instant::now()));
    }

    /// What can happen to the connections. Numbers choose one of those that there are.
    #[derive(Debug, Clone)]
    enum Event {
        Admit,
        Begin(usize),
        Wait(usize),
        EndWaiting(usize),
        View(usize, u8),
        EndViewing(usize),
        Expect(usize),
        Close(usize),
        Stall(usize, u64),
        Remove(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        let at = 0..64usize;
        prop_oneof![
            4 => Just(Event::Admit),
            3 => at.clone().prop_map(Event::Begin),
            3 => at.clone().prop_map(Event::Wait),
            2 => at.clone().prop_map(Event::EndWaiting),
            3 => (at.clone(), 0..3u8).prop_map(|(at, peer)| Event::View(at, peer)),
            1 => at.clone().prop_map(Event::EndViewing),
            2 => at.clone().prop_map(Event::Expect),
            1 => at.clone().prop_map(Event::Close),
            3 => (at.clone(), 0..6u64).prop_map(|(at, seconds)| Event::Stall(at, seconds)),
            2 => at.prop_map(Event::Remove),
        ]
    }

    /// One connection as the naive model sees it.
    #[derive(Debug, Clone)]
    struct Known {
        id: u64,
        state: State,
        peer: Option<u8>,
        /// For how many ms the socket has taken nothing.
        stuck: u64,
    }

    /// The connections in the order in which they entered their states.
    #[derive(Debug, Default)]
    struct Model(Vec<Known>);

    impl Model {
        fn count(&self, states: &[State]) -> usize {
            self.0.iter().filter(|known| states.contains(&known.state)).count()
        }

        fn idle(&self) -> usize {
            self.count(&[State::Head, State::Closing])
        }

        fn enter(&mut self, id: u64, state: State) -> bool {
            let Some(at) = self.0.iter().position(|known| known.id == id && known.state != State::Evicted) else {
                return false;
            };
            let known = Known { state, ..self.0.remove(at) };
            self.0.push(known);
            true
        }

        fn evict_first(&mut self, is_victim: impl Fn(&Known) -> bool) -> bool {
            let victim = self.0.iter().find(|known| is_victim(known)).map(|known| known.id);
            victim.is_some_and(|id| self.enter(id, State::Evicted))
        }

        fn evict_idle(&mut self) -> bool {
            self.evict_first(|known| matches!(known.state, State::Head | State::Closing))
        }

        fn evict_stalled(&mut self, state: State, peer: Option<u8>) -> bool {
            let is_victim =
                |known: &Known| known.state == state && known.stuck >= 2000 && (peer.is_none() || known.peer == peer);
            // The newcomer's own client first, then the longest. (Each has its own time.)
            let longest = self.0.iter().filter(|known| is_victim(known)).map(|known| known.stuck).max();
            self.evict_first(|known| is_victim(known) && Some(known.stuck) == longest)
        }
    }

    const CAPS: Caps = Caps { heads: 3, short: 1, waiting: 3, viewers: 3, viewers_per_address: Some(2) };

    /// Does to both what happens, and compares what they say of it.
    fn step(occupancy: &mut Occupancy, model: &mut Model, links: &mut BTreeMap<u64, Arc<Link>>, event: &Event) {
        let id = |at: usize| model.0.get(at % model.0.len().max(1)).map_or(0, |known| known.id);
        match *event {
            Event::Admit => {
                let mut has_room = model.idle() < CAPS.heads || model.evict_idle();
                while has_room && model.idle() + model.count(&[State::Short]) >= CAPS.heads + CAPS.short {
                    has_room = model.evict_idle() || model.evict_stalled(State::Short, None);
                }
                let link = link().0;
                let admitted = occupancy.admit(&link);
                assert_eq!(admitted.is_some(), has_room && model.0.len() < CAPS.total());
                if let Some(id) = admitted {
                    links.insert(id, link);
                    model.0.push(Known { id, state: State::Head, peer: None, stuck: 0 });
                }
            }
            Event::Begin(at) => {
                let id = id(at);
                let has_room = model.count(&[State::Short]) < CAPS.heads || model.evict_stalled(State::Short, None);
                let begun = has_room && model.enter(id, State::Short);
                assert_eq!(occupancy.begin_response(id), begun);
            }
            Event::Wait(at) => {
                let id = id(at);
                let begun = model.count(&[State::Waiting]) < CAPS.waiting && model.enter(id, State::Waiting);
                assert_eq!(occupancy.begin_waiting(id), begun);
            }
            Event::EndWaiting(at) => {
                let id = id(at);
                if model.0.iter().any(|known| known.id == id && known.state == State::Waiting) {
                    assert!(model.enter(id, State::Short) && occupancy.set(id, State::Short));
                }
            }
            Event::View(at, peer) => view(occupancy, model, id(at), peer),
            Event::EndViewing(at) => {
                let id = id(at);
                if model.0.iter().any(|known| known.id == id && known.peer.is_some()) {
                    set_idle(model, id, State::Closing);
                    model.0.iter_mut().filter(|known| known.id == id).for_each(|known| known.peer = None);
                    occupancy.end_viewing(id, EndReason::Left);
                }
            }
            Event::Expect(at) | Event::Close(at) => {
                let id = id(at);
                // A viewer stays one until it leaves.
                if model.0.iter().any(|known| known.id == id && known.peer.is_none()) {
                    let state = if matches!(event, Event::Close(_)) { State::Closing } else { State::Head };
                    set_idle(model, id, state);
                    occupancy.set_idle(id, state);
                }
            }
            Event::Stall(at, seconds) => {
                let id = id(at);
                if let Some(known) = model.0.iter_mut().find(|known| known.id == id) {
                    // No two stall for the same time.
                    known.stuck = if seconds < 2 { 0 } else { seconds * 1000 + id };
                    links[&id].flow().waits(Duration::from_millis(known.stuck));
                }
            }
            Event::Remove(at) => {
                let id = id(at);
                let known = model.0.iter().position(|known| known.id == id).map(|at| model.0.remove(at));
                let entry = occupancy.entries.remove(&id);
                assert_eq!(entry.map(|entry| entry.state), known.map(|known| known.state));
            }
        }
    }

    fn set_idle(model: &mut Model, id: u64, state: State) {
        if model.enter(id, state) && model.idle() > CAPS.heads {
            model.evict_idle();
        }
    }

    fn view(occupancy: &mut Occupancy, model: &mut Model, id: u64, peer: u8) {
        // A connection asks for one stream at a time.
        if model.0.iter().any(|known| known.id == id && (known.peer.is_some() || known.state == State::Evicted)) {
            return;
        }
        let is_known = model.0.iter().any(|known| known.id == id);
        let peers = model.0.iter().filter(|known| known.state == State::Viewer && known.peer == Some(peer)).count();
        let mut has_room = is_known && (peers < 2 || model.evict_stalled(State::Viewer, Some(peer)));
        if has_room && model.count(&[State::Viewer]) >= CAPS.viewers {
            // All viewers have the same agent: those with the same address are the same client.
            has_room = model.evict_stalled(State::Viewer, Some(peer)) || model.evict_stalled(State::Viewer, None);
        }
        let begun = has_room && model.enter(id, State::Viewer);
        model.0.iter_mut().filter(|known| known.id == id && begun).for_each(|known| known.peer = Some(peer));
        assert_eq!(occupancy.begin_viewing(id, &peer.to_string(), "", "newest").is_ok(), begun);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// No sequence of events leaks a place or gives one away twice, and the right ones are evicted.
        #[test]
        fn a_naive_model_agrees(events in prop::collection::vec(event(), 0..120)) {
            let (mut occupancy, mut model, mut links) = (Occupancy::new(CAPS), Model::default(), BTreeMap::new());
            for event in &events {
                step(&mut occupancy, &mut model, &mut links, event);
                let states: BTreeMap<_, _> = model.0.iter().map(|known| (known.id, known.state)).collect();
                let seen: BTreeMap<_, _> = occupancy.entries.iter().map(|(id, entry)| (*id, entry.state)).collect();
                prop_assert_eq!(&seen, &states, "after {:?}", event);
                for state in [State::Head, State::Short, State::Waiting, State::Viewer, State::Closing, State::Evicted] {
                    prop_assert_eq!(occupancy.count(state), model.count(&[state]), "{:?}", state);
                }
                for (id, link) in links.iter().filter(|(id, _)| states.contains_key(id)) {
                    prop_assert_eq!(link.is_evicted(), states[id] == State::Evicted);
                }
                prop_assert!(seen.len() <= CAPS.total() && occupancy.viewers().count() <= CAPS.viewers);
                prop_assert!(occupancy.idle() <= CAPS.heads && occupancy.count(State::Waiting) <= CAPS.waiting);
            }
        }
    }
}
