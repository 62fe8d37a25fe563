//! Who may stay: every connection's socket, and the three budgets that keep them from locking each other out.
//!
//! Viewers (streams and clips) have `--max-clients` places; short requests have those that viewers leave free and
//! 16 more, so viewers never lock out a snapshot; unfinished heads have 256, whose oldest is closed for a newcomer,
//! so silent connections lock out nobody.
//!
//! When the viewers' places are full, a viewer whose socket has taken nothing for 2 s makes room for a newcomer:
//! browsers leave such ghosts. One that keeps taking frames never does.

use std::collections::{BTreeMap, HashMap};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;
use parking_lot::{Condvar, Mutex};
use socket2::Socket;

use super::client::{ClientStats, EndReason, Totals, Viewers};
use super::connection::Connection;

/// Unfinished request heads, idle keep-alive connections among them.
const HEADS: usize = 256;
/// Limits for short requests beyond those for viewers.
const SHORT_EXTRA: usize = 16;
/// A viewer whose socket has taken nothing for so long can be asked to make room.
const STALLED: Duration = Duration::from_secs(2);

/// The budgets and the connections that fill them.
pub struct Limits {
    max_clients: usize,
    max_per_address: Option<usize>,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    connections: HashMap<u64, Arc<Socket>>,
    /// Connections that owe us a head, by the order in which they began to.
    heads: BTreeMap<u64, Arc<Socket>>,
    viewers: BTreeMap<u64, Viewer>,
    shorts: usize,
    totals: Totals,
}

struct Viewer {
    stats: Arc<ClientStats>,
    socket: Arc<Socket>,
}

/// Why there is no place for a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// None for anybody.
    Server,
    /// None for this address.
    Address,
}

impl Full {
    /// In words, for an answer 503.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Server => "all places are taken (see --max-clients)",
            Self::Address => "all places for your address are taken (see --max-clients-per-address)",
        }
    }
}

impl Limits {
    /// Room for `max_clients` viewers and what goes with them, so many of them from one address.
    pub fn new(max_clients: usize, max_per_address: Option<usize>) -> Arc<Self> {
        Arc::new(Self { max_clients, max_per_address, state: Mutex::default(), left: Condvar::new() })
    }

    /// Threads that can exist because of clients; descriptors too.
    pub fn most(&self) -> usize {
        self.max_clients + SHORT_EXTRA + HEADS
    }

    /// Takes a new connection in. It owes a head.
    pub fn admit(self: &Arc<Self>, socket: Arc<Socket>) -> Permit {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.connections.insert(id, socket.clone());
        drop(state);
        let mut place = Permit { places: self.clone(), id, socket, head: None };
        place.begin_head();
        place
    }

    /// A place for one short request; `None` when the house is full. Given back on drop.
    pub fn take_short(self: &Arc<Self>) -> Option<ShortPermit> {
        let mut state = self.state.lock();
        if state.viewers.len() + state.shorts >= self.max_clients + SHORT_EXTRA {
            return None;
        }
        state.shorts += 1;
        Some(ShortPermit { places: self.clone() })
    }

    /// A viewer's place. Given back on drop.
    ///
    /// # Errors
    /// When there is none, and nobody who could make room.
    pub fn take_viewer(
        self: &Arc<Self>,
        connection: &Connection,
        user_agent: &str,
        mode: &'static str,
    ) -> Result<ViewerPermit, Full> {
        let mut state = self.state.lock();
        state.next += 1;
        let stats = Arc::new(ClientStats::new(state.next, connection, user_agent, mode));
        if let Some(most) = self.max_per_address {
            let is_same = |viewer: &Viewer| viewer.stats.peer == stats.peer;
            if state.viewers.values().filter(|viewer| is_same(viewer)).count() >= most {
                state.make_room(&stats, is_same).ok_or(Full::Address)?;
            }
        }
        let has_room = state.viewers.len() + state.shorts < self.max_clients + SHORT_EXTRA;
        if !has_room || state.viewers.len() >= self.max_clients {
            state.make_room(&stats, |_| true).ok_or(Full::Server)?;
        }
        state.viewers.insert(stats.id, Viewer { stats: stats.clone(), socket: connection.socket().clone() });
        drop(state);
        info!("viewer came client={} id={} mode={mode}", stats.peer, stats.id);
        Ok(ViewerPermit { places: self.clone(), stats, end: EndReason::Left })
    }

    /// What is counted about every viewer that is here now.
    pub fn clients(&self) -> Vec<Arc<ClientStats>> {
        self.state.lock().viewers.values().map(|viewer| viewer.stats.clone()).collect()
    }

    /// All viewers at one moment, so that sums over those present and those that have left never fall.
    pub fn viewers(&self) -> Viewers {
        let state = self.state.lock();
        let present = state.viewers.values().map(|viewer| viewer.stats.clone()).collect();
        Viewers { present, left: state.totals.clone() }
    }

    /// Ends those connections that are only waiting for a request.
    pub fn close_waiting(&self) {
        for socket in self.state.lock().heads.values() {
            close(socket);
        }
    }

    /// Ends all connections, whatever they are doing.
    pub fn close_all(&self) {
        for socket in self.state.lock().connections.values() {
            close(socket);
        }
    }

    /// Waits until every connection's thread has ended; `false` if some have not by then.
    pub fn wait_empty(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.connections.is_empty() {
            if self.left.wait_until(&mut state, deadline).timed_out() {
                return state.connections.is_empty();
            }
        }
        true
    }
}

impl State {
    /// Puts out one of these who takes nothing, if there is one: the newcomer's twin first, then who has been stuck
    /// for longest. Its place is free at once; its thread ends a little later.
    fn make_room(&mut self, newcomer: &ClientStats, among: impl Fn(&Viewer) -> bool) -> Option<()> {
        let ghosts = self.viewers.values().filter(|viewer| among(viewer) && viewer.stats.stuck_for() >= STALLED);
        let id = ghosts.max_by_key(|ghost| (ghost.stats.is_same_client(newcomer), ghost.stats.stuck_for()))?.stats.id;
        let ghost = self.viewers.remove(&id)?;
        // At once: its thread may take a while to end, and sums must not fall meanwhile.
        self.totals.add(&ghost.stats, EndReason::MadeRoom);
        ghost.stats.evict();
        close(&ghost.socket);
        Some(())
    }
}

/// Wakes the thread that is blocked on this socket; only that thread frees the descriptor.
fn close(socket: &Socket) {
    // An error means that the peer was faster.
    let _ = socket.shutdown(Shutdown::Both);
}

/// A connection's place, for as long as its thread lives.
pub struct Permit {
    places: Arc<Limits>,
    id: u64,
    socket: Arc<Socket>,
    head: Option<u64>,
}

impl Permit {
    /// From now on the client owes us a request. Where too many do, the oldest of them is closed.
    pub fn begin_head(&mut self) {
        let mut state = self.places.state.lock();
        if state.heads.len() >= HEADS
            && let Some((_, oldest)) = state.heads.pop_first()
        {
            close(&oldest);
        }
        state.next += 1;
        let ticket = state.next;
        state.heads.insert(ticket, self.socket.clone());
        drop(state);
        self.head = Some(ticket);
    }

    /// The request is here.
    pub fn end_head(&mut self) {
        if let Some(ticket) = self.head.take() {
            self.places.state.lock().heads.remove(&ticket);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end_head();
        self.places.state.lock().connections.remove(&self.id);
        self.places.left.notify_all();
    }
}

/// The right to answer one short request; see [`Limits::take_short`].
pub struct ShortPermit {
    places: Arc<Limits>,
}

impl Drop for ShortPermit {
    fn drop(&mut self) {
        self.places.state.lock().shorts -= 1;
    }
}

/// A viewer's place; see [`Limits::take_viewer`].
pub struct ViewerPermit {
    places: Arc<Limits>,
    stats: Arc<ClientStats>,
    end: EndReason,
}

impl ViewerPermit {
    /// What is counted about this viewer.
    pub fn stats(&self) -> &Arc<ClientStats> {
        &self.stats
    }

    /// Gives the place back and says why.
    pub fn leave(mut self, end: EndReason) {
        self.end = end;
    }
}

impl Drop for ViewerPermit {
    fn drop(&mut self) {
        let (stats, end) = (&self.stats, self.end);
        let mut state = self.places.state.lock();
        // An evicted viewer has been removed and counted already.
        if state.viewers.remove(&stats.id).is_some() {
            state.totals.add(stats, end);
        }
        drop(state);
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
    use socket2::{Domain, Type};
    use std::time::Duration;

    fn socket() -> (Arc<Socket>, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        (Arc::new(ours), theirs)
    }

    fn connection() -> (Connection, Socket) {
        let (ours, theirs) = socket();
        let address = ours.peer_addr().unwrap();
        (Connection::new(ours, &address).unwrap(), theirs)
    }

    /// A viewer, and the end of its socket that a browser would have.
    fn viewer(places: &Arc<Limits>, user_agent: &str) -> Result<(ViewerPermit, Connection, Socket), Full> {
        let (connection, theirs) = connection();
        let permit = places.take_viewer(&connection, user_agent, "newest")?;
        Ok((permit, connection, theirs))
    }

    /// Whether its socket was closed under it.
    fn is_closed(theirs: &Socket) -> bool {
        theirs.set_nonblocking(true).unwrap();
        matches!(std::io::Read::read(&mut &*theirs, &mut [0; 8]), Ok(0))
    }

    #[test]
    fn viewers_never_lock_out_short_requests() {
        let places = Limits::new(2, None);
        let viewers: Vec<_> = (0..2).map(|_| viewer(&places, "").expect("room")).collect();
        assert_eq!(viewer(&places, "").map(drop), Err(Full::Server));
        let shorts: Vec<_> = (0..16).map(|_| places.take_short().expect("room")).collect();
        assert!(places.take_short().is_none());
        drop(viewers);
        assert!(places.take_short().is_some() && places.clients().is_empty());
        drop(shorts);
    }

    #[test]
    fn only_who_takes_nothing_makes_room_and_twins_come_first() {
        let places = Limits::new(3, None);
        let taking = viewer(&places, "Safari").unwrap();
        let (other, twin) = (viewer(&places, "VLC").unwrap(), viewer(&places, "Safari").unwrap());
        taking.1.flow().waits(Duration::from_millis(1900));
        assert_eq!(viewer(&places, "Safari").map(drop), Err(Full::Server), "1.9 s are forgiven");
        other.1.flow().waits(Duration::from_secs(5));
        twin.1.flow().waits(Duration::from_secs(3));
        let first = viewer(&places, "Safari").unwrap();
        assert!(is_closed(&twin.2) && !is_closed(&other.2) && twin.0.stats().was_evicted());
        let second = viewer(&places, "Safari").unwrap();
        assert!(is_closed(&other.2) && !is_closed(&taking.2));
        assert_eq!(viewer(&places, "Safari").map(drop), Err(Full::Server));
        // Those who were put out have no place to give back.
        other.0.leave(EndReason::MadeRoom);
        twin.0.leave(EndReason::MadeRoom);
        let ids = |viewers: &[&ViewerPermit]| viewers.iter().map(|permit| permit.stats().id).collect::<Vec<_>>();
        let here: Vec<u64> = places.clients().iter().map(|stats| stats.id).collect();
        assert_eq!(here, ids(&[&taking.0, &first.0, &second.0]));
        assert_eq!(places.viewers().left.ended[EndReason::MadeRoom as usize], 2);
    }

    #[test]
    fn an_evicted_viewer_is_counted_once_and_at_once() {
        let limits = Limits::new(1, None);
        let (evicted, connection, _socket) = viewer(&limits, "").unwrap();
        evicted.stats().count(&test_frame(1, Duration::ZERO, 10), 10);
        connection.flow().waits(Duration::from_secs(3));
        let _newcomer = viewer(&limits, "").unwrap();
        let left = || limits.viewers().left;
        assert_eq!((left().by_mode["newest"].frames, left().ended[EndReason::MadeRoom as usize]), (1, 1));
        evicted.leave(EndReason::MadeRoom);
        assert_eq!((left().by_mode["newest"].frames, left().ended[EndReason::MadeRoom as usize]), (1, 1));
    }

    #[test]
    fn an_address_can_have_a_limit_of_its_own() {
        let places = Limits::new(10, Some(2));
        let first = viewer(&places, "").unwrap();
        let _second = viewer(&places, "").unwrap();
        assert_eq!(viewer(&places, "").map(drop), Err(Full::Address));
        first.1.flow().waits(Duration::from_secs(2));
        assert!(viewer(&places, "").is_ok() && is_closed(&first.2));
    }

    #[test]
    fn every_reason_is_counted_in_its_own_place() {
        for (at, end) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at, "{}", end.name());
            let places = Limits::new(1, None);
            viewer(&places, "").unwrap().0.leave(end);
            assert_eq!((places.viewers().left.ended[at], places.viewers().left.ended.iter().sum()), (1, 1u64));
        }
    }

    #[test]
    fn the_oldest_unfinished_head_makes_room() {
        let places = Limits::new(1, None);
        let (first, mut first_peer) = socket();
        let _first = places.admit(first);
        let rest: Vec<_> = (0..HEADS).map(|_| socket()).collect();
        let _rest: Vec<_> = rest.iter().map(|(ours, _)| places.admit(ours.clone())).collect();
        first_peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(std::io::Read::read(&mut first_peer, &mut [0; 8]).unwrap(), 0, "closed");
        assert!(rest[0].1.set_nonblocking(true).is_ok());
        assert!(std::io::Read::read(&mut &rest[0].1, &mut [0; 8]).is_err(), "still open");
    }

    #[test]
    fn empties_when_all_have_left() {
        let places = Limits::new(1, None);
        let (ours, _theirs) = socket();
        let place = places.admit(ours);
        assert!(!places.wait_empty(Instant::now() + Duration::from_millis(10)));
        drop(place);
        assert!(places.wait_empty(Instant::now()));
    }
}
