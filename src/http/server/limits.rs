//! Limits on connections: each holds one permit from accept to close, whose state changes.
//!
//! | state | the client | limit | evicted for a newcomer |
//! |---|---|---|---|
//! | head | owes a request: a new or an idle connection | 256 with closing | at once, the oldest first |
//! | short | is sent a short response | 128 with queued; 272 with head and closing | when it took no byte for 2 s, or is one of many unread ones of its address |
//! | queued | is going to wait for the camera | as short | at once, with 503, where short responses need its place |
//! | waiting | waits for the camera | 16, of which 8 for a still | never |
//! | viewer | is sent frames | `--max-clients` | when it took no byte for 2 s |
//! | closing | was sent its last response | as head | as head |
//!
//! Silent connections and unread responses therefore lock nobody out, viewers never lock out a short response, and
//! nothing is evicted while there is room. There are at most `--max-clients` + 16 + 16 + 256 connections. Of those that can
//! make room, one of the address that has most of them does: one address cannot take all places, and many clients behind one
//! address take what is free. Where clients need a credential, 48 places for short responses are for those
//! that have shown one, and they are queued before strangers.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::info;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::client::{ClientStats, EndReason, Viewers};
use super::connection::Link;
use super::memory::Block;
pub use super::occupancy::Full;
use super::occupancy::{Caps, Occupancy, State};

/// Connections that owe a request or are being closed.
const HEADS: usize = 256;
/// Further connections with a short response.
const SHORT: usize = 16;
/// Connections with a short response in all. Since they cannot fill all of [`HEADS`] and [`SHORT`], a newcomer always
/// finds a connection that can be evicted at once, and has the time to send its request.
const RESPONSES: usize = 128;
/// So many of them are for clients that have shown a credential, where clients need one.
const RESERVED: usize = 48;
/// Requests that wait for the camera.
const WAITING: usize = 16;
/// So many of them may wait for a still, which takes longer.
const STILLS: usize = 8;
/// How long a newcomer waits for the thread of an evicted connection to end.
const EVICTION: Duration = Duration::from_millis(250);
/// How long a request waits for a place among the short responses.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a request that waits for its turn makes sure that its client is still there.
const LOOK: Duration = Duration::from_millis(250);
/// How often a connection that sleeps looks whether it was evicted.
const PAUSE: Duration = Duration::from_millis(20);

/// How many clients there may be, and what they may take.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Viewers.
    pub max_clients: usize,
    /// Viewers with one address; `None` for no such limit.
    pub max_per_address: Option<usize>,
    /// Whether places are reserved for clients that have shown a credential.
    pub has_known: bool,
    /// Bytes of all responses that are being sent.
    pub response_memory: usize,
}

/// The limits on connections, and the connections that there are.
pub struct Limits {
    occupancy: Mutex<Occupancy>,
    /// A connection's thread has ended.
    ended: Condvar,
    /// A short response has ended.
    sent: Condvar,
}

impl Limits {
    /// Limits as they are set.
    pub fn new(settings: Sizes) -> Arc<Self> {
        let caps = Caps {
            heads: HEADS,
            short: RESPONSES,
            reserved: if settings.has_known { RESERVED } else { 0 },
            heads_and_short: HEADS + SHORT,
            waiting: WAITING,
            stills: STILLS,
            viewers: settings.max_clients,
            viewers_per_address: settings.max_per_address,
        };
        let occupancy = Mutex::new(Occupancy::new(caps, settings.response_memory));
        Arc::new(Self { occupancy, ended: Condvar::new(), sent: Condvar::new() })
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
            if let Some(id) = occupancy.admit(link, link.address().into()) {
                return Some(Permit { link: link.clone(), registration: Registration { limits: self.clone(), id } });
            }
            if !self.wait_for_evicted(&mut occupancy, deadline) {
                return None;
            }
        }
    }

    /// Evicts a connection that owes a request, and waits until it is closed. `false` if there is none, or if that
    /// takes too long.
    pub fn evict_idle(&self) -> bool {
        let mut occupancy = self.occupancy.lock();
        occupancy.evict_oldest_idle();
        self.wait_for_evicted(&mut occupancy, Instant::now() + EVICTION)
    }

    /// Waits for the thread of an evicted connection to end.
    fn wait_for_evicted(&self, occupancy: &mut MutexGuard<'_, Occupancy>, deadline: Instant) -> bool {
        occupancy.count(State::Evicted) > 0 && !self.ended.wait_until(occupancy, deadline).timed_out()
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

    /// Bytes that responses hold while they are sent.
    pub fn response_bytes(&self) -> usize {
        self.occupancy.lock().memory.used()
    }

    /// Closes the connections that owe a request, now and from now on, and ends the waiting for a turn to wait. A request
    /// that has arrived gets its response, and a connection that has not had one yet may still send it.
    pub fn close_idle(&self) {
        let mut occupancy = self.occupancy.lock();
        occupancy.is_closing = true;
        for entry in occupancy.entries.values() {
            match entry.state {
                State::Head | State::Closing if entry.has_asked => entry.link.stop_reading(),
                _ => {
                    entry.link.turn.notify_one();
                }
            }
        }
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

    fn change<T>(&self, change: impl FnOnce(&mut Occupancy, u64) -> T) -> T {
        change(&mut self.registration.limits.occupancy.lock(), self.registration.id)
    }

    /// The client owes a request, and its connection can be evicted for a newcomer. `false` while the server stops.
    pub fn expect_request(&self) -> bool {
        let is_closing = self.change(|occupancy, id| {
            occupancy.set_idle(id, State::Head);
            occupancy.is_closing
        });
        self.registration.limits.sent.notify_one();
        !is_closing
    }

    /// The client was sent its last response, and its connection can be evicted for a newcomer.
    pub fn close(&self) {
        self.change(|occupancy, id| occupancy.set_idle(id, State::Closing));
        self.registration.limits.sent.notify_one();
    }

    /// A response is made and sent to this client, which may have shown a credential (`is_known`); `false` if there are too
    /// many already, which the client was told.
    pub fn begin_response(&self, client: Option<IpAddr>, is_known: bool) -> bool {
        let Registration { limits, id } = &self.registration;
        let deadline = Instant::now() + PATIENCE;
        let mut occupancy = limits.occupancy.lock();
        loop {
            match occupancy.begin_response(*id, client.into(), is_known) {
                Ok(()) => return true,
                Err(Full::Evicted) => return false,
                // Whether it was woken or not, it looks again: others' clients may have stalled since.
                Err(_) => _ = limits.sent.wait_until(&mut occupancy, Instant::now() + PAUSE),
            }
            if Instant::now() >= deadline || occupancy.is_closing {
                drop(occupancy);
                self.link.refuse();
                return false;
            }
        }
    }

    /// Sleeps while the connection can be evicted, which ends the sleep.
    pub fn pause(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !self.link.is_evicted() {
            thread::sleep(PAUSE);
        }
    }

    /// Waits until this request may wait for the camera, perhaps for a still.
    ///
    /// # Errors
    /// When that was not before `deadline`, or `go_on` said no.
    pub fn wait(&self, deadline: Instant, wants_still: bool, go_on: impl Fn() -> bool) -> Result<Waiting<'_>, Full> {
        let Registration { limits, id } = &self.registration;
        let mut occupancy = limits.occupancy.lock();
        if !occupancy.queue(*id, wants_still) {
            return Err(Full::Evicted);
        }
        loop {
            match occupancy.entries.get(id).map(|entry| entry.state) {
                Some(State::Waiting) => return Ok(Waiting(self)),
                Some(State::Queued) => {}
                _ => return Err(Full::Evicted),
            }
            if occupancy.is_closing || Instant::now() >= deadline || !go_on() {
                occupancy.end_waiting(*id);
                return Err(Full::Waiting);
            }
            self.link.turn.wait_until(&mut occupancy, deadline.min(Instant::now() + LOOK));
        }
    }

    /// Makes the client a viewer.
    ///
    /// # Errors
    /// When there are too many, and none can be evicted.
    pub fn view(&self, peer: &str, user_agent: &str, mode: &'static str) -> Result<Viewer<'_>, Full> {
        let stats = self.change(|occupancy, id| occupancy.begin_viewing(id, peer, user_agent, mode))?;
        self.registration.limits.sent.notify_one();
        info!("viewer came client={} id={} mode={mode}", stats.peer, stats.id);
        Ok(Viewer { permit: self, stats, end: EndReason::Left })
    }

    /// Closes the slowest viewer in this mode, among those that are sent fewer bytes a second for some time, and waits for
    /// its end. `false` if there is none.
    pub fn evict_slow_viewer(&self, mode: &str, bytes_per_second: u64) -> bool {
        let limits = &self.registration.limits;
        let mut occupancy = limits.occupancy.lock();
        occupancy.evict_slow_viewer(mode, bytes_per_second).is_some()
            && limits.wait_for_evicted(&mut occupancy, Instant::now() + EVICTION)
    }

    /// Counts what the response holds while it is sent; `None` if all responses together would hold too much.
    pub fn hold(&self, block: Block) -> Option<Held<'_>> {
        self.change(|occupancy, id| occupancy.hold(id, block)).then_some(Held(self))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut occupancy = self.limits.occupancy.lock();
        occupancy.remove(self.id);
        occupancy.panics += u64::from(thread::panicking());
        drop(occupancy);
        self.limits.ended.notify_all();
        self.limits.sent.notify_one();
    }
}

/// What a response holds, until it is dropped.
pub struct Held<'a>(&'a Permit);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.change(|occupancy, id| occupancy.release(id));
    }
}

/// A request that waits for the camera, until it is dropped.
pub struct Waiting<'a>(&'a Permit);

impl Waiting<'_> {
    /// Whether others are queued for its place.
    pub fn is_in_demand(&self) -> bool {
        self.0.change(|occupancy, _| occupancy.count(State::Queued) > 0)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(|occupancy, id| occupancy.end_waiting(id));
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
        self.permit.change(|occupancy, id| occupancy.end_viewing(id, end));
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
    use socket2::{Domain, Socket, Type};
    use std::io::Read;

    fn link() -> (Arc<Link>, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = ours.peer_addr().unwrap();
        (Link::new(ours, &address), theirs)
    }

    fn new_limits(max_clients: usize, max_per_address: Option<usize>, has_known: bool) -> Arc<Limits> {
        Limits::new(Sizes { max_clients, max_per_address, has_known, response_memory: 1 << 20 })
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    fn connect(limits: &Arc<Limits>) -> (Permit, Socket) {
        let (link, theirs) = link();
        (limits.admit(&link).expect("room"), theirs)
    }

    /// Connections with a short response, as many as there may be.
    fn fill_with_short(limits: &Arc<Limits>) -> Vec<(Permit, Socket)> {
        let begin = |_| {
            let (permit, theirs) = connect(limits);
            assert!(permit.begin_response(None, false), "room");
            (permit, theirs)
        };
        (0..RESPONSES).map(begin).collect()
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
        let limits = new_limits(2, None, false);
        let mut others: Vec<_> = (0..19).map(|_| connect(&limits)).collect();
        let viewer = |at: usize| others[at].0.view("a", "", "newest");
        let viewers = [viewer(0).unwrap(), viewer(1).unwrap()];
        assert_eq!(viewer(2).map(drop), Err(Full::Viewers));
        let wait = |at: usize| others[at].0.wait(Instant::now(), false, || true);
        let mut waiting: Vec<_> = (2..18).map(|at| wait(at).unwrap()).collect();
        assert_eq!(wait(18).map(drop), Err(Full::Waiting));
        waiting.pop();
        assert!(wait(18).is_ok());
        drop((viewers, waiting));
        others.clear();
        let short = fill_with_short(&limits);
        let newcomer = connect(&limits).0;
        assert!(!newcomer.begin_response(None, false));
        assert!(newcomer.view("a", "", "newest").is_ok() && newcomer.wait(Instant::now(), false, || true).is_ok());
        drop(short);
        assert!(newcomer.begin_response(None, false));
    }

    #[test]
    fn a_request_waits_for_its_turn_to_wait() {
        let limits = new_limits(1, None, false);
        let permits: Vec<_> = (0..=WAITING).map(|_| connect(&limits)).collect();
        let now = Instant::now();
        let wait = |at: usize| permits[at].0.wait(now, false, || true).unwrap();
        let mut waiting: Vec<_> = (1..=WAITING).map(wait).collect();
        let far = now + Duration::from_secs(60);
        assert_eq!(permits[0].0.wait(far, false, || false).map(drop), Err(Full::Waiting), "its client left");
        thread::scope(|scope| {
            let last = scope.spawn(|| permits[0].0.wait(far, false, || true).is_ok());
            waiting.pop();
            assert!(last.join().unwrap());
            waiting.push(wait(WAITING));
            let last = scope.spawn(|| permits[0].0.wait(far, false, || true).is_ok());
            limits.close_idle();
            assert!(!last.join().unwrap(), "the server stops");
        });
    }

    #[test]
    fn only_stalled_viewers_are_evicted_and_the_same_client_comes_first() {
        let limits = new_limits(3, None, false);
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
        let limits = new_limits(1, None, false);
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
        let limits = new_limits(10, Some(2), false);
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
            let limits = new_limits(1, None, false);
            connect(&limits).0.view("a", "", "newest").unwrap().leave(end);
            let ended = limits.viewers().left.ended;
            assert_eq!((ended[at], ended.iter().sum()), (1, 1u64));
        }
    }

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let limits = new_limits(1, None, false);
        let idle: Vec<_> = (0..HEADS).map(|_| connect(&limits)).collect();
        idle[0].0.expect_request();
        idle[1].0.close();
        let newcomers = [connect(&limits), connect(&limits)];
        assert!(is_closed(&idle[2].1) && is_closed(&idle[3].1), "the oldest");
        assert!(!is_closed(&idle[0].1) && !is_closed(&idle[1].1) && !is_closed(&newcomers[0].1), "younger ones");
    }

    #[test]
    fn short_responses_that_nobody_reads_make_room_after_two_seconds() {
        let limits = new_limits(1, None, false);
        let short = fill_with_short(&limits);
        let newcomer = connect(&limits).0;
        stall(&short[3].0, 900);
        assert!(!newcomer.begin_response(None, false));
        assert!(!is_closed(&short[3].1));
        stall(&short[5].0, 2100);
        stall(&short[7].0, 2200);
        assert!(newcomer.begin_response(None, false));
        assert!(is_closed(&short[7].1) && !is_closed(&short[5].1), "the one that has been stuck longest");
    }

    #[test]
    fn one_address_with_many_unread_responses_makes_room_at_once() {
        let limits = new_limits(1, None, false);
        let new: Vec<_> = (0..RESPONSES).map(|_| connect(&limits)).collect();
        for (at, (permit, _)) in new.iter().enumerate() {
            assert!(permit.begin_response(address(if at < 16 { 1 } else { 2 }), false));
            stall(permit, if at < 16 { 1500 } else { 100 });
        }
        stall(&new[20].0, 200);
        assert!(connect(&limits).0.begin_response(address(3), false));
        assert!(is_closed(&new[20].1), "the oldest of those");
        assert!(new[..16].iter().all(|(_, theirs)| !is_closed(theirs)), "others have their two seconds");
    }

    #[test]
    fn whoever_has_shown_a_credential_comes_before_strangers() {
        let limits = new_limits(1, None, true);
        let strangers: Vec<_> = (0..RESPONSES).map(|_| connect(&limits)).collect();
        let begun =
            |permit: &Permit| permit.change(|occupancy, id| occupancy.begin_response(id, None.into(), false).is_ok());
        let begun = strangers.iter().filter(|(permit, _)| begun(permit)).count();
        assert_eq!(begun, RESPONSES - RESERVED);
        let known: Vec<_> = (0..RESPONSES).map(|_| connect(&limits)).collect();
        assert!(known.iter().all(|(permit, _)| permit.begin_response(None, true)));
        assert!(strangers[..begun].iter().all(|(_, theirs)| is_closed(theirs)), "all of them made room");
    }

    #[test]
    fn queued_requests_make_room_for_responses_and_are_told_so() {
        let limits = new_limits(1, None, false);
        let new: Vec<_> = (0..WAITING + RESPONSES).map(|_| connect(&limits)).collect();
        for (permit, _) in &new {
            assert!(permit.begin_response(address(1), false));
            assert!(permit.change(|occupancy, id| occupancy.queue(id, false)));
        }
        let limits = &limits;
        thread::scope(|scope| {
            let newest = scope
                .spawn(|| new[WAITING + RESPONSES - 1].0.wait(Instant::now() + PATIENCE * 9, false, || true).map(drop));
            thread::sleep(Duration::from_millis(50));
            assert!(connect(limits).0.begin_response(address(2), false));
            assert_eq!(newest.join().unwrap(), Err(Full::Evicted));
        });
        let mut told = [0; 12];
        (&new[WAITING + RESPONSES - 1].1).read_exact(&mut told).unwrap();
        assert_eq!(&told, b"HTTP/1.1 503");
    }

    #[test]
    fn stills_leave_half_of_the_places_to_snapshots() {
        let limits = new_limits(1, None, false);
        let new: Vec<_> = (0..WAITING + 1).map(|_| connect(&limits)).collect();
        let wait = |at: usize, still| new[at].0.wait(Instant::now(), still, || true);
        let _stills: Vec<_> = (0..STILLS).map(|at| wait(at, true).unwrap()).collect();
        assert_eq!(wait(STILLS, true).map(drop), Err(Full::Waiting));
        let _snapshots: Vec<_> = (STILLS..WAITING).map(|at| wait(at, false).unwrap()).collect();
        assert_eq!(wait(WAITING, false).map(drop), Err(Full::Waiting));
    }

    #[test]
    fn a_newcomer_waits_until_the_evicted_have_ended() {
        let limits = new_limits(1, None, false);
        let mut all = fill_with_short(&limits);
        let viewer = connect(&limits);
        let _viewer = viewer.0.view("a", "", "newest").unwrap();
        let waiting: Vec<_> = (0..WAITING).map(|_| connect(&limits)).collect();
        let _waiting: Vec<_> =
            waiting.iter().map(|(permit, _)| permit.wait(Instant::now(), false, || true).unwrap()).collect();
        all.extend((RESPONSES..HEADS + SHORT).map(|_| connect(&limits)));
        let connections = limits.occupancy.lock().entries.len();
        assert_eq!(connections, limits.max_connections());
        let newcomer = link().0;
        assert!(limits.admit(&newcomer).is_none(), "idle ones are there, but no thread ends");
        thread::scope(|scope| {
            let admitted = scope.spawn(|| limits.admit(&newcomer).is_some());
            let evicted = all.iter().position(|(permit, _)| permit.link.is_evicted()).expect("the oldest idle one");
            drop(all.swap_remove(evicted));
            assert!(admitted.join().unwrap());
        });
    }

    #[test]
    fn a_stop_lets_those_ask_that_have_not_asked_yet() {
        let limits = new_limits(1, None, false);
        let ((new, _new_end), (kept, _kept_end)) = (connect(&limits), connect(&limits));
        assert!(kept.begin_response(None, false) && kept.expect_request());
        limits.close_idle();
        let is_at_end = |permit: &Permit| {
            let mut read = Vec::new();
            let connection = super::super::connection::Connection::new(permit.link.clone()).unwrap();
            matches!(connection.read(&mut read, 10, Instant::now() + Duration::from_millis(20)), Ok(0))
        };
        assert!(!is_at_end(&new) && is_at_end(&kept));
        assert!(new.begin_response(None, false) && !new.expect_request(), "one request, and no other");
    }

    #[test]
    fn panics_are_counted() {
        let limits = new_limits(1, None, false);
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
        let limits = new_limits(1, None, false);
        let permit = connect(&limits);
        assert!(!limits.wait_empty(Instant::now() + Duration::from_millis(10)));
        drop(permit);
        assert!(limits.wait_empty(Instant::now()));
    }
}
