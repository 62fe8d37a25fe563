//! The connections and what each of them does. Pure, but for the eviction of a connection, which closes its socket.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{ClientStats, EndReason, Totals};
use super::connection::Link;
use super::memory::{Block, Memory};

/// A client whose socket has taken nothing for this time can be evicted.
const STALLED: Duration = Duration::from_secs(2);
/// A response that takes longer than this can be evicted when its memory is needed.
const LONG: Duration = Duration::from_secs(10);
/// An address can have so many unread responses before the oldest of them is evicted sooner than others'.
const UNREAD: usize = 16;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Head,
    Short,
    Queued,
    Waiting,
    Viewer,
    Closing,
    /// It was closed in favour of another; its thread has not ended yet.
    Evicted,
}

use State::{Closing, Evicted, Head, Queued, Short, Viewer, Waiting};

/// Why a connection may not do what it wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The connection was evicted itself.
    Evicted,
    /// Too many responses that nobody reads.
    Short,
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
            Self::Short => "too many responses are being sent",
            Self::Waiting => "too many requests wait for a picture already",
            Self::Viewers => "too many viewers (see --max-clients)",
            Self::Address => "too many viewers with your address (see --max-clients-per-address)",
        }
    }
}

/// Most connections in each state.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// In all that can be evicted at once.
    pub heads: usize,
    /// With a short response, or queued.
    pub short: usize,
    /// So many of `short` are for clients that have shown a credential.
    pub reserved: usize,
    /// With any of these.
    pub heads_and_short: usize,
    /// That wait for the camera.
    pub waiting: usize,
    /// That wait for a still, among them.
    pub stills: usize,
    pub viewers: usize,
    pub viewers_per_address: Option<usize>,
}

impl Caps {
    pub fn total(&self) -> usize {
        self.viewers + self.waiting + self.heads_and_short
    }
}

/// What clients have in common that share an address: IPv4 addresses as they are, IPv6 addresses without their last 64
/// bits, which everybody chooses, and 0 for all clients of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Address(u64);

impl From<Option<IpAddr>> for Address {
    fn from(address: Option<IpAddr>) -> Self {
        Self(match address {
            Some(IpAddr::V4(v4)) => u64::from(v4.to_bits()),
            Some(IpAddr::V6(v6)) => (v6.to_bits() >> 64) as u64,
            None => 0,
        })
    }
}

/// See the module above.
pub struct Occupancy {
    pub caps: Caps,
    pub entries: BTreeMap<u64, Entry>,
    /// What responses hold while they are sent.
    pub memory: Memory,
    /// Numbers connections, and orders their changes of state.
    next: u64,
    viewers_so_far: u64,
    pub totals: Totals,
    pub is_closing: bool,
    pub panics: u64,
}

/// One connection.
pub struct Entry {
    pub link: Arc<Link>,
    pub state: State,
    address: Address,
    /// Whether its last request had a credential.
    is_known: bool,
    /// Whether it waits for a still, or is queued for that.
    wants_still: bool,
    /// When the state was entered, by [`Occupancy::next`].
    entered: u64,
    /// Whether it has sent a request.
    pub has_asked: bool,
    /// Of a viewer.
    stats: Option<Arc<ClientStats>>,
    /// What its response holds, and since when.
    holds: Option<(Block, Instant)>,
}

impl Entry {
    /// How long the client has taken no byte, if that is long enough for an eviction.
    fn stalled_for(&self) -> Option<Duration> {
        Some(self.link.flow().stuck_for()).filter(|time| *time >= STALLED)
    }

    /// How long the client has taken no byte of a short response.
    fn unread_for(&self) -> Option<Duration> {
        Some(self.link.flow().stuck_for()).filter(|time| self.state == Short && !time.is_zero())
    }

    fn is_idle(&self) -> bool {
        matches!(self.state, Head | Closing)
    }
}

impl Occupancy {
    pub fn new(caps: Caps, memory: usize) -> Self {
        Self {
            caps,
            entries: BTreeMap::new(),
            memory: Memory::with_room_for_small(memory),
            next: 0,
            viewers_so_far: 0,
            totals: Totals::default(),
            is_closing: false,
            panics: 0,
        }
    }

    pub fn count(&self, state: State) -> usize {
        self.number(|entry| entry.state == state)
    }

    fn number(&self, is: impl Fn(&Entry) -> bool) -> usize {
        self.entries.values().filter(|entry| is(entry)).count()
    }

    /// Connections that can be evicted at once.
    pub fn idle(&self) -> usize {
        self.number(Entry::is_idle)
    }

    /// Connections with a short response, or that will have one.
    fn short(&self) -> usize {
        self.count(Short) + self.count(Queued)
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Changes a connection's state; `false` for one that was evicted, which stays so.
    pub fn set(&mut self, id: u64, state: State) -> bool {
        let entered = self.ticket();
        let entry = self.entries.get_mut(&id).filter(|entry| entry.state != Evicted);
        entry.map(|entry| (entry.state, entry.entered) = (state, entered)).is_some()
    }

    /// Evicts the connection with the highest rank, among those that have one. Its permit is free at once; its thread ends
    /// a little later.
    fn evict<Rank: Ord>(&mut self, rank: impl Fn(&Entry) -> Option<Rank>) -> Option<()> {
        let ranked = self.entries.iter().filter_map(|(id, entry)| Some((rank(entry)?, *id)));
        let (_, id) = ranked.max_by(|(left, _), (right, _)| left.cmp(right))?;
        let entry = self.entries.get_mut(&id)?;
        if entry.state == Queued {
            // Nothing of its response has been sent.
            entry.link.refuse();
        }
        entry.state = Evicted;
        entry.link.evict();
        entry.link.turn.notify_one();
        // Now, since sums must not fall until the thread has ended.
        if let Some(stats) = entry.stats.take() {
            self.totals.add(&stats, EndReason::MadeRoom);
        }
        self.release(id);
        Some(())
    }

    /// How many of these connections each address has.
    fn shares(&self, is: impl Fn(&Entry) -> bool) -> BTreeMap<Address, usize> {
        let mut shares = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| is(entry)) {
            *shares.entry(entry.address).or_default() += 1;
        }
        shares
    }

    /// Evicts the oldest idle connection of the address that has most of them.
    pub fn evict_oldest_idle(&mut self) -> Option<()> {
        let shares = self.shares(Entry::is_idle);
        self.evict(|entry| entry.is_idle().then(|| (shares[&entry.address], Reverse(entry.entered))))
    }

    /// Evicts a short response that has not been read for long, or any of an address with many unread ones, or a queued
    /// request of the address that has most of them. A stranger's goes first, and for a stranger no other goes.
    fn evict_short(&mut self, for_known: bool) -> Option<()> {
        let may = |entry: &Entry| for_known || !entry.is_known;
        let stalled = |entry: &Entry| entry.stalled_for().filter(|_| entry.state == Short && may(entry));
        self.evict(|entry| Some((!entry.is_known, stalled(entry)?))).or_else(|| {
            let unread = self.shares(|entry| entry.unread_for().is_some());
            let has_many = |entry: &Entry| unread.get(&entry.address).is_some_and(|unread| *unread > UNREAD);
            self.evict(|entry| {
                entry.unread_for().filter(|_| has_many(entry) && may(entry)).map(|time| (!entry.is_known, time))
            })
        })
    }

    fn evict_queued(&mut self, for_known: bool) -> Option<()> {
        let is_victim = |entry: &Entry| entry.state == Queued && (for_known || !entry.is_known);
        let shares = self.shares(is_victim);
        self.evict(|entry| is_victim(entry).then(|| (!entry.is_known, shares[&entry.address], entry.entered)))
    }

    /// Evicts a stalled viewer: an old connection of the newcomer's client first, then the one that has been stalled
    /// for the longest time.
    fn evict_stalled_viewer(&mut self, newcomer: &ClientStats, among: impl Fn(&ClientStats) -> bool) -> Option<()> {
        self.evict(|entry| {
            let stats = entry.stats.as_ref().filter(|stats| entry.state == Viewer && among(stats))?;
            Some((stats.is_same_client(newcomer), entry.stalled_for()?))
        })
    }

    /// Evicts the slowest viewer in this mode, among those that are sent fewer bytes a second.
    pub fn evict_slow_viewer(&mut self, mode: &str, bytes_per_second: u64) -> Option<()> {
        self.evict(|entry| {
            let stats = entry.stats.as_ref().filter(|stats| entry.state == Viewer && stats.mode == mode)?;
            let rate = stats.bytes() / stats.here_for().as_secs().max(1);
            (stats.here_for() >= LONG && rate < bytes_per_second).then_some(Reverse(rate))
        })
    }

    /// Makes room for one connection more that can be evicted at once, if it can be made.
    fn reserve(&mut self) -> Option<()> {
        if self.idle() >= self.caps.heads {
            self.evict_oldest_idle()?;
        }
        while self.idle() + self.short() >= self.caps.heads_and_short {
            self.evict_oldest_idle().or_else(|| self.evict_short(false))?;
        }
        Some(())
    }

    /// Takes a new connection in; `None` while there is no room.
    pub fn admit(&mut self, link: &Arc<Link>, address: Address) -> Option<u64> {
        self.reserve()?;
        if self.entries.len() >= self.caps.total() {
            return None;
        }
        let id = self.ticket();
        let entry = Entry {
            link: link.clone(),
            state: Head,
            address,
            is_known: false,
            wants_still: false,
            entered: id,
            has_asked: false,
            stats: None,
            holds: None,
        };
        self.entries.insert(id, entry);
        Some(id)
    }

    /// The connection owes a request, or is being closed. Where too many are, the oldest of them is evicted.
    pub fn set_idle(&mut self, id: u64, state: State) {
        if self.set(id, state) && self.idle() > self.caps.heads {
            self.evict_oldest_idle();
        }
    }

    /// Whether the connection may send a response now. Clients that have shown a credential (`is_known`) come before
    /// strangers, who share what is left.
    pub fn begin_response(&mut self, id: u64, address: Address, is_known: bool) -> Result<(), Full> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.state != Evicted).ok_or(Full::Evicted)?;
        (entry.has_asked, entry.address, entry.is_known) = (true, address, is_known);
        let is_short = |entry: &Entry| matches!(entry.state, Short | Queued);
        let strangers = self.number(|entry| is_short(entry) && !entry.is_known);
        let has_room = self.short() < self.caps.short && (is_known || strangers + self.caps.reserved < self.caps.short);
        if !has_room {
            let evicted = self.evict_short(is_known).or_else(|| self.evict_queued(is_known));
            let is_strangers = |entry: &Entry| is_known && entry.state == Short && !entry.is_known;
            let evicted = evicted.or_else(|| self.evict(|entry| is_strangers(entry).then_some(Reverse(entry.entered))));
            evicted.ok_or(Full::Short)?;
        }
        self.set(id, Short);
        Ok(())
    }

    /// Queues the connection for a place among those that wait for the camera. It has one at once if there is one.
    pub fn queue(&mut self, id: u64, wants_still: bool) -> bool {
        self.entries.entry(id).and_modify(|entry| entry.wants_still = wants_still);
        let is_queued = self.set(id, Queued);
        self.admit_queued();
        is_queued
    }

    /// Lets those wait for the camera that are queued, while there is room: first those that have shown a credential, then
    /// those of the address of which the fewest wait, then the one that came first.
    pub fn admit_queued(&mut self) {
        while self.count(Waiting) < self.caps.waiting {
            let stills = self.number(|entry| entry.state == Waiting && entry.wants_still);
            let may = |entry: &Entry| entry.state == Queued && (!entry.wants_still || stills < self.caps.stills);
            let shares = self.shares(|entry| entry.state == Waiting);
            let rank = |entry: &Entry| (!entry.is_known, shares.get(&entry.address).copied(), entry.entered);
            let next = self.entries.iter().filter(|(_, entry)| may(entry)).min_by_key(|(_, entry)| rank(entry));
            let Some((id, link)) = next.map(|(id, entry)| (*id, entry.link.clone())) else { return };
            self.set(id, Waiting);
            link.turn.notify_one();
        }
    }

    /// The connection is sent a response, after it was queued or waited for the camera.
    pub fn end_waiting(&mut self, id: u64) {
        self.set(id, Short);
        self.admit_queued();
    }

    pub fn begin_viewing(
        &mut self,
        id: u64,
        peer: &str,
        user_agent: &str,
        mode: &'static str,
    ) -> Result<Arc<ClientStats>, Full> {
        let entry = self.entries.get(&id).filter(|entry| entry.state != Evicted);
        let link = entry.ok_or(Full::Evicted)?.link.clone();
        let stats = Arc::new(ClientStats::new(self.viewers_so_far + 1, link, peer, user_agent, mode));
        let has_address = |viewer: &ClientStats| viewer.peer == peer;
        let of_address = self.viewers().filter(|viewer| has_address(viewer)).count();
        if self.caps.viewers_per_address.is_some_and(|most| of_address >= most) {
            self.evict_stalled_viewer(&stats, has_address).ok_or(Full::Address)?;
        }
        if self.count(Viewer) >= self.caps.viewers {
            self.evict_stalled_viewer(&stats, |_| true).ok_or(Full::Viewers)?;
        }
        self.viewers_so_far += 1;
        self.set(id, Viewer);
        self.entries.entry(id).and_modify(|entry| entry.stats = Some(stats.clone()));
        Ok(stats)
    }

    pub fn end_viewing(&mut self, id: u64, end: EndReason) {
        // An evicted viewer has been counted already.
        if let Some(stats) = self.entries.get_mut(&id).and_then(|entry| entry.stats.take()) {
            self.totals.add(&stats, end);
            self.set_idle(id, Closing);
        }
    }

    pub fn viewers(&self) -> impl Iterator<Item = &Arc<ClientStats>> {
        self.entries.values().filter(|entry| entry.state == Viewer).filter_map(|entry| entry.stats.as_ref())
    }

    /// Counts what the connection's response holds. Where there is too much, responses are evicted that have been stalled, or
    /// sent for a long time; `false` if that is not enough.
    pub fn hold(&mut self, id: u64, block: Block) -> bool {
        while !self.memory.take(&[block]) {
            let evicted = self.evict(|entry| {
                let (_, since) = entry.holds.filter(|_| entry.state == Short)?;
                let time = entry.stalled_for().or_else(|| Some(since.elapsed()).filter(|time| *time >= LONG))?;
                Some((!entry.is_known, time))
            });
            if evicted.is_none() {
                return false;
            }
        }
        match self.entries.get_mut(&id).filter(|entry| entry.state != Evicted) {
            Some(entry) => entry.holds = Some((block, Instant::now())),
            None => self.memory.give(block),
        }
        true
    }

    /// The connection's response holds nothing any more.
    pub fn release(&mut self, id: u64) {
        if let Some((block, _)) = self.entries.get_mut(&id).and_then(|entry| entry.holds.take()) {
            self.memory.give(block);
        }
    }

    /// Forgets a connection whose thread has ended.
    pub fn remove(&mut self, id: u64) -> Option<Entry> {
        self.release(id);
        self.entries.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};

    fn link() -> Arc<Link> {
        let (ours, _theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = ours.peer_addr().unwrap();
        Link::new(ours, &address)
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let address = |text: &str| Address::from(Some(text.parse::<IpAddr>().unwrap()));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1:2:3"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(Address::from(None), Address::default());
    }

    /// What can happen to the connections. Numbers choose one of those that there are.
    #[derive(Debug, Clone)]
    enum Event {
        Admit(u64),
        Begin(usize, bool),
        Queue(usize, bool),
        EndWaiting(usize),
        View(usize),
        EndViewing(usize),
        Expect(usize),
        Close(usize),
        Stall(usize, u64),
        Hold(usize, usize),
        Remove(usize),
    }

    /// How long clients take nothing, in ms: far from what counts as stalled, since the clock runs on.
    const STALLS: [u64; 6] = [0, 1, 300, 600, 3000, 5000];

    fn event() -> impl Strategy<Value = Event> {
        let at = 0..64usize;
        prop_oneof![
            5 => (0..3u64).prop_map(Event::Admit),
            5 => (at.clone(), any::<bool>()).prop_map(|(at, known)| Event::Begin(at, known)),
            4 => (at.clone(), any::<bool>()).prop_map(|(at, still)| Event::Queue(at, still)),
            2 => at.clone().prop_map(Event::EndWaiting),
            3 => at.clone().prop_map(Event::View),
            1 => at.clone().prop_map(Event::EndViewing),
            2 => at.clone().prop_map(Event::Expect),
            1 => at.clone().prop_map(Event::Close),
            4 => (at.clone(), prop::sample::select(&STALLS)).prop_map(|(at, millis)| Event::Stall(at, millis)),
            2 => (at.clone(), 1..5usize).prop_map(|(at, block)| Event::Hold(at, block)),
            2 => at.prop_map(Event::Remove),
        ]
    }

    /// One connection as the naive model sees it.
    #[derive(Debug, Clone)]
    struct Known {
        id: u64,
        state: State,
        address: u64,
        is_known: bool,
        wants_still: bool,
        is_counted: bool,
        /// For how many ms the socket has taken nothing. No two stall for the same time.
        stuck: u64,
        holds: usize,
    }

    /// The connections in the order in which they entered their states.
    #[derive(Debug, Default)]
    struct Model(Vec<Known>);

    impl Model {
        fn count(&self, states: &[State]) -> usize {
            self.0.iter().filter(|known| states.contains(&known.state)).count()
        }

        fn find(&self, id: u64, states: &[State]) -> bool {
            self.0.iter().any(|known| known.id == id && states.contains(&known.state))
        }

        fn change(&mut self, id: u64, change: impl FnMut(&mut Known)) {
            self.0.iter_mut().filter(|known| known.id == id).for_each(change);
        }

        fn enter(&mut self, id: u64, state: State) {
            if let Some(at) = self.0.iter().position(|known| known.id == id && known.state != Evicted) {
                let known = Known { state, ..self.0.remove(at) };
                self.0.push(known);
            }
        }

        /// Evicts the first of these connections, sorted so that those to go first come first.
        fn evict(&mut self, mut victims: Vec<Known>, key: impl Fn(&Known) -> (bool, usize, u64)) -> bool {
            victims.sort_by_key(|known| Reverse(key(known)));
            let Some(id) = victims.first().map(|known| known.id) else { return false };
            self.enter(id, Evicted);
            self.change(id, |known| (known.is_counted, known.holds) = (false, 0));
            true
        }

        fn those(&self, is: impl Fn(&Known) -> bool) -> Vec<Known> {
            self.0.iter().filter(|known| is(known)).cloned().collect()
        }

        fn evict_idle(&mut self) -> bool {
            let idle = self.those(|known| matches!(known.state, Head | Closing));
            let share = |known: &Known| idle.iter().filter(|other| other.address == known.address).count();
            let age = |known: &Known| 1000 - idle.iter().position(|other| other.id == known.id).unwrap() as u64;
            self.evict(idle.clone(), |known| (false, share(known), age(known)))
        }

        fn evict_short(&mut self, for_known: bool) -> bool {
            let short = self.those(|known| known.state == Short);
            let may = |known: &&Known| for_known || !known.is_known;
            let stalled = short.iter().filter(may).filter(|known| known.stuck >= 2000).cloned().collect();
            let unread = |address| short.iter().filter(|known| known.stuck > 0 && known.address == address).count();
            let many = short.iter().filter(may).filter(|known| known.stuck > 0 && unread(known.address) > UNREAD);
            let many = many.cloned().collect();
            let key = |known: &Known| (!known.is_known, 0, known.stuck);
            self.evict(stalled, key) || self.evict(many, key)
        }

        fn evict_queued(&mut self, for_known: bool) -> bool {
            let queued = self.those(|known| known.state == Queued && (for_known || !known.is_known));
            let share = |known: &Known| queued.iter().filter(|other| other.address == known.address).count();
            let at = |known: &Known| queued.iter().position(|other| other.id == known.id).unwrap() as u64;
            self.evict(queued.clone(), |known| (!known.is_known, share(known), at(known)))
        }

        fn evict_viewer(&mut self, address: Option<u64>) -> bool {
            let is_it = |known: &Known| known.state == Viewer && known.stuck >= 2000;
            let viewers = self.those(|known| is_it(known) && address.is_none_or(|address| known.address == address));
            self.evict(viewers, |known| (false, 0, known.stuck))
        }

        fn admit_queued(&mut self) {
            while self.count(&[Waiting]) < CAPS.waiting {
                let waiting = self.those(|known| known.state == Waiting);
                let stills = waiting.iter().filter(|known| known.wants_still).count();
                let mut queued =
                    self.those(|known| known.state == Queued && (!known.wants_still || stills < CAPS.stills));
                let share = |known: &Known| waiting.iter().filter(|other| other.address == known.address).count();
                queued.sort_by_key(|known| (!known.is_known, share(known)));
                let Some(next) = queued.first() else { return };
                self.enter(next.id, Waiting);
            }
        }

        fn used(&self) -> usize {
            (1..5).filter(|block| self.0.iter().any(|known| known.holds == *block)).map(|block| block * 100).sum()
        }
    }

    const CAPS: Caps = Caps {
        heads: 22,
        short: 20,
        reserved: 2,
        heads_and_short: 23,
        waiting: 3,
        stills: 2,
        viewers: 3,
        viewers_per_address: Some(2),
    };
    const MEMORY: usize = 650;

    fn block(number: usize) -> Block {
        static BYTES: [u8; 2000] = [0; 2000];
        Block::from(&BYTES[number * 300..][..number * 100])
    }

    /// Does to both what happens, and compares what they say of it.
    fn step(
        (occupancy, model): (&mut Occupancy, &mut Model),
        links: &mut BTreeMap<u64, Arc<Link>>,
        began: Instant,
        event: &Event,
    ) {
        let id = |at: usize| model.0.get(at % model.0.len().max(1)).map_or(0, |known| known.id);
        match *event {
            Event::Admit(address) => admit(occupancy, model, links, address),
            Event::Begin(at, is_known) => {
                let id = id(at);
                if model.find(id, &[Head]) {
                    begin(occupancy, model, id, is_known);
                }
            }
            Event::Queue(at, wants_still) => {
                let id = id(at);
                if model.find(id, &[Short]) {
                    model.change(id, |known| known.wants_still = wants_still);
                    model.enter(id, Queued);
                    model.admit_queued();
                    assert!(occupancy.queue(id, wants_still));
                }
            }
            Event::EndWaiting(at) => end_waiting(occupancy, model, id(at)),
            Event::View(at) => {
                let id = id(at);
                if model.find(id, &[Short]) {
                    view(occupancy, model, id);
                }
            }
            Event::EndViewing(at) => {
                let id = id(at);
                if model.find(id, &[Viewer]) {
                    model.change(id, |known| known.is_counted = false);
                    set_idle(model, id, Closing);
                }
                occupancy.end_viewing(id, EndReason::Left);
            }
            Event::Expect(at) | Event::Close(at) => {
                let id = id(at);
                if model.find(id, &[Head, Short, Closing]) {
                    let state = if matches!(event, Event::Close(_)) { Closing } else { Head };
                    model.change(id, |known| known.holds = 0);
                    occupancy.release(id);
                    set_idle(model, id, state);
                    occupancy.set_idle(id, state);
                }
            }
            Event::Stall(at, millis) => {
                let id = id(at);
                let stuck = if millis == 0 { 0 } else { millis + 2 * id };
                model.change(id, |known| known.stuck = stuck);
                if let Some(link) = links.get(&id) {
                    match stuck {
                        0 => link.flow().drained(),
                        // All of them by the clock of the case's beginning, so that their order is theirs.
                        _ => link.flow().waits(Duration::from_millis(stuck) + began.elapsed()),
                    }
                }
            }
            Event::Hold(at, number) => {
                let id = id(at);
                if model.find(id, &[Short]) && model.0.iter().any(|known| known.id == id && known.holds == 0) {
                    hold(occupancy, model, id, number);
                }
            }
            Event::Remove(at) => {
                let id = id(at);
                end_waiting(occupancy, model, id);
                let known = model.0.iter().position(|known| known.id == id).map(|at| model.0.remove(at));
                let entry = occupancy.remove(id);
                assert_eq!(entry.map(|entry| entry.state), known.map(|known| known.state));
            }
        }
    }

    fn admit(occupancy: &mut Occupancy, model: &mut Model, links: &mut BTreeMap<u64, Arc<Link>>, address: u64) {
        let mut has_room = model.count(&[Head, Closing]) < CAPS.heads || model.evict_idle();
        while has_room && model.count(&[Head, Closing, Short, Queued]) >= CAPS.heads_and_short {
            has_room = model.evict_idle() || model.evict_short(false);
        }
        let link = link();
        let admitted = occupancy.admit(&link, Address(address));
        assert_eq!(admitted.is_some(), has_room && model.0.len() < CAPS.total());
        if let Some(id) = admitted {
            links.insert(id, link);
            let (is_known, wants_still, is_counted) = (false, false, false);
            model.0.push(Known { id, state: Head, address, is_known, wants_still, is_counted, stuck: 0, holds: 0 });
        }
    }

    fn begin(occupancy: &mut Occupancy, model: &mut Model, id: u64, is_known: bool) {
        model.change(id, |known| known.is_known = is_known);
        let address = model.those(|known| known.id == id)[0].address;
        let short = model.those(|known| matches!(known.state, Short | Queued));
        let strangers = short.iter().filter(|known| !known.is_known).count();
        let mut has_room = short.len() < CAPS.short && (is_known || strangers < CAPS.short - CAPS.reserved);
        if !has_room {
            let strangers = model.those(|known| is_known && known.state == Short && !known.is_known);
            let at = |known: &Known| 1000 - strangers.iter().position(|other| other.id == known.id).unwrap() as u64;
            has_room = model.evict_short(is_known)
                || model.evict_queued(is_known)
                || model.evict(strangers.clone(), |known| (false, 0, at(known)));
        }
        if has_room {
            model.enter(id, Short);
        }
        assert_eq!(occupancy.begin_response(id, Address(address), is_known).is_ok(), has_room);
    }

    fn set_idle(model: &mut Model, id: u64, state: State) {
        model.enter(id, state);
        if model.count(&[Head, Closing]) > CAPS.heads {
            model.evict_idle();
        }
    }

    fn view(occupancy: &mut Occupancy, model: &mut Model, id: u64) {
        let address = model.those(|known| known.id == id)[0].address;
        let of_address = model.those(|known| known.state == Viewer && known.address == address).len();
        let mut has_room = of_address < 2 || model.evict_viewer(Some(address));
        if has_room && model.count(&[Viewer]) >= CAPS.viewers {
            // All viewers have the same agent: those with the same address are the same client.
            has_room = model.evict_viewer(Some(address)) || model.evict_viewer(None);
        }
        if has_room {
            model.enter(id, Viewer);
            model.change(id, |known| known.is_counted = true);
        }
        assert_eq!(occupancy.begin_viewing(id, &address.to_string(), "", "newest").is_ok(), has_room);
    }

    fn end_waiting(occupancy: &mut Occupancy, model: &mut Model, id: u64) {
        if model.find(id, &[Waiting, Queued]) {
            model.enter(id, Short);
            model.admit_queued();
            occupancy.end_waiting(id);
        }
    }

    fn hold(occupancy: &mut Occupancy, model: &mut Model, id: u64, number: usize) {
        let fits = |model: &Model| {
            let others = model.used();
            let is_shared = model.0.iter().any(|known| known.holds == number);
            // All blocks are large: a quarter is kept for small ones.
            is_shared || others == 0 || others + number * 100 <= MEMORY / 4 * 3
        };
        let mut has_room = fits(model);
        while !has_room {
            let stalled = model.those(|known| known.holds > 0 && known.state == Short && known.stuck >= 2000);
            if !model.evict(stalled, |known| (!known.is_known, 0, known.stuck)) {
                break;
            }
            has_room = fits(model);
        }
        if has_room && model.find(id, &[Short]) {
            model.change(id, |known| known.holds = number);
        }
        assert_eq!(occupancy.hold(id, block(number)), has_room);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// No sequence of events leaks a place or gives one away twice, and the right ones are evicted.
        #[test]
        fn a_naive_model_agrees(events in prop::collection::vec(event(), 0..160)) {
            let (mut occupancy, mut model) = (Occupancy::new(CAPS, MEMORY), Model::default());
            let (mut links, began) = (BTreeMap::new(), Instant::now());
            for event in &events {
                step((&mut occupancy, &mut model), &mut links, began, event);
                let states: BTreeMap<_, _> = model.0.iter().map(|known| (known.id, known.state)).collect();
                let seen: BTreeMap<_, _> = occupancy.entries.iter().map(|(id, entry)| (*id, entry.state)).collect();
                prop_assert_eq!(&seen, &states, "after {:?}", event);
                for (id, link) in links.iter().filter(|(id, _)| states.contains_key(id)) {
                    prop_assert_eq!(link.is_evicted(), states[id] == Evicted);
                }
                let count = |states: &[State]| model.count(states);
                prop_assert!(seen.len() <= CAPS.total() && occupancy.viewers().count() <= CAPS.viewers);
                prop_assert_eq!(occupancy.viewers().count(), model.those(|known| known.is_counted).len());
                prop_assert!(count(&[Head, Closing]) <= CAPS.heads && count(&[Waiting]) <= CAPS.waiting);
                // Those that waited for the camera go back to their response, whoever came since.
                prop_assert!(count(&[Short, Queued]) <= CAPS.short + CAPS.waiting);
                let free = count(&[Waiting]) < CAPS.waiting;
                let stills = model.those(|known| known.state == Waiting && known.wants_still).len();
                prop_assert!(stills <= CAPS.stills);
                let may_go_on = |known: &Known| known.state == Queued && (!known.wants_still || stills < CAPS.stills);
                prop_assert!(!free || model.those(may_go_on).is_empty(), "a place is free, and one is queued for it");
                prop_assert_eq!(occupancy.memory.used(), model.used());
                prop_assert!(occupancy.memory.used() <= MEMORY);
            }
        }
    }
}
