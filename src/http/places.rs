//! Who may stay: every connection's socket, and the three budgets that keep them from locking each other out.
//!
//! Streams have `--max-clients` places; short requests have those that streams leave free and 16 more, so viewers
//! never lock out a snapshot; unfinished heads have 256, whose oldest is closed for a newcomer, so silent
//! connections lock out nobody.

use std::collections::{BTreeMap, HashMap};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use socket2::Socket;

/// Unfinished request heads, idle keep-alive connections among them.
const HEADS: usize = 256;
/// Places for short requests beyond those for streams.
const SHORT_EXTRA: usize = 16;

/// The budgets and the connections that fill them.
pub struct Places {
    max_clients: usize,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    connections: HashMap<u64, Arc<Socket>>,
    /// Connections that owe us a head, by the order in which they began to.
    heads: BTreeMap<u64, Arc<Socket>>,
    streams: usize,
    shorts: usize,
}

/// What a connection wants to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An endless answer.
    Stream,
    /// Any other.
    Short,
}

impl Places {
    /// Room for `max_clients` streams and what goes with them.
    pub fn new(max_clients: usize) -> Arc<Self> {
        Arc::new(Self { max_clients, state: Mutex::default(), left: Condvar::new() })
    }

    /// Threads that can exist because of clients; descriptors too.
    pub fn most(&self) -> usize {
        self.max_clients + SHORT_EXTRA + HEADS
    }

    /// Takes a new connection in. It owes a head.
    pub fn admit(self: &Arc<Self>, socket: Arc<Socket>) -> Place {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.connections.insert(id, socket.clone());
        drop(state);
        let mut place = Place { places: self.clone(), id, socket, head: None };
        place.begin_head();
        place
    }

    /// A place for one request; `None` when the house is full. Given back on drop.
    pub fn take(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        let mut state = self.state.lock();
        let has_room = state.streams + state.shorts < self.max_clients + SHORT_EXTRA;
        if !has_room || kind == Kind::Stream && state.streams >= self.max_clients {
            return None;
        }
        match kind {
            Kind::Stream => state.streams += 1,
            Kind::Short => state.shorts += 1,
        }
        Some(Permit { places: self.clone(), kind })
    }

    /// Streams being sent now.
    pub fn streams(&self) -> usize {
        self.state.lock().streams
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

/// Wakes the thread that is blocked on this socket; only that thread frees the descriptor.
fn close(socket: &Socket) {
    // An error means that the peer was faster.
    let _ = socket.shutdown(Shutdown::Both);
}

/// A connection's place, for as long as its thread lives.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    socket: Arc<Socket>,
    head: Option<u64>,
}

impl Place {
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

impl Drop for Place {
    fn drop(&mut self) {
        self.end_head();
        self.places.state.lock().connections.remove(&self.id);
        self.places.left.notify_all();
    }
}

/// The right to answer one request; see [`Places::take`].
pub struct Permit {
    places: Arc<Places>,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        match self.kind {
            Kind::Stream => state.streams -= 1,
            Kind::Short => state.shorts -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::time::Duration;

    fn socket() -> (Arc<Socket>, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        (Arc::new(ours), theirs)
    }

    #[test]
    fn streams_never_lock_out_short_requests() {
        let places = Places::new(2);
        let streams: Vec<_> = (0..2).map(|_| places.take(Kind::Stream).expect("room")).collect();
        assert!(places.take(Kind::Stream).is_none());
        let shorts: Vec<_> = (0..16).map(|_| places.take(Kind::Short).expect("room")).collect();
        assert!(places.take(Kind::Short).is_none());
        drop(streams);
        assert!(places.take(Kind::Short).is_some() && places.streams() == 0);
        drop(shorts);
    }

    #[test]
    fn the_oldest_unfinished_head_makes_room() {
        let places = Places::new(1);
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
        let places = Places::new(1);
        let (ours, _theirs) = socket();
        let place = places.admit(ours);
        assert!(!places.wait_empty(Instant::now() + Duration::from_millis(10)));
        drop(place);
        assert!(places.wait_empty(Instant::now()));
    }
}
