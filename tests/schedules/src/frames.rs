//! The hub, the ring and lock-step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use shuttle::thread;

use crate::frame::{Frame, FrameInfo, Size, Stamp};
use crate::hub::lockstep::LockstepGroup;
use crate::hub::ring::{RingSettings, SharedRing, Start};
use crate::hub::{Feed, FeedEnd, Hub, NewestFeed, Publisher, Wait};
use crate::{Property, far};

pub const ALL: &[Property] = &[
    Property { name: "a frame wakes every viewer, and each sees the newest", holds: viewers, timeouts: 0 },
    Property { name: "a frame that viewers do not get wakes a snapshot", holds: snapshot, timeouts: 0 },
    Property { name: "a closed hub ends every wait", holds: close, timeouts: 0 },
    Property { name: "demand wakes the camera", holds: demand, timeouts: 0 },
    Property { name: "the ring gives each frame, whole and in order", holds: ring, timeouts: 0 },
    Property {
        name: "the ring tells whoever falls behind, and is empty without readers",
        holds: small_ring,
        timeouts: 0,
    },
    Property { name: "lock-step goes on when a viewer leaves", holds: lockstep, timeouts: 0 },
    Property { name: "lock-step sends the same frames to all that stay", holds: same_frames, timeouts: 0 },
    Property { name: "lock-step ends with the hub", holds: lockstep_close, timeouts: 4 },
];

const BYTES: usize = 64;

/// Publishes frames, each of which consists of its number.
struct Camera {
    publisher: Publisher,
    made: u64,
    /// Number of the newest frame whose publication has ended.
    published: Arc<AtomicU64>,
}

impl Camera {
    fn new(hub: &Arc<Hub>, max_fps: Option<f64>) -> Self {
        let publisher = Publisher::new(hub.clone(), Arc::default(), max_fps);
        Self { publisher, made: 0, published: Arc::default() }
    }

    fn publish(&mut self) {
        self.made += 1;
        let time = Duration::from_secs(self.made);
        let captured_at = Stamp { mono: time, real: time };
        let info = FrameInfo { sequence: 0, captured_at, size: Size::new(16, 16), position: 0, is_settled: true };
        let number = self.made as u8;
        let made = self.publisher.make(info, BYTES, |out| out.resize(out.len() + BYTES, number));
        if self.publisher.publish(made) {
            self.published.store(self.made, SeqCst);
        }
    }
}

fn number(frame: &Frame) -> u64 {
    let number = u64::from(frame.jpeg()[0]);
    assert!(frame.jpeg().iter().all(|byte| u64::from(*byte) == number), "a torn frame");
    number
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

fn viewers() {
    let hub = Hub::new(vec![]);
    let mut camera = Camera::new(&hub, None);
    let view = |_| {
        let (hub, published) = (hub.clone(), camera.published.clone());
        thread::spawn(move || {
            let mut feed = NewestFeed::new(hub, None);
            let (mut last, mut first, mut seen) = (0, 0, 0);
            while last < 3 {
                let newest = published.load(SeqCst);
                let Ok(Wait::Frame(frame)) = feed.next(far()) else { panic!("no frame") };
                assert!(frame.sequence() > last && frame.sequence() >= newest, "an old frame");
                assert_eq!(number(&frame), frame.sequence());
                last = frame.sequence();
                first = if first == 0 { last } else { first };
                seen += 1;
            }
            assert_eq!(seen + feed.skipped(), last - first + 1, "each frame is delivered or skipped");
        })
    };
    let threads = (0..2).map(view).collect();
    (0..3).for_each(|_| camera.publish());
    join(threads);
}

fn snapshot() {
    let hub = Hub::new(vec![]);
    // One frame in a hundred is for viewers.
    let mut camera = Camera::new(&hub, Some(0.01));
    let wait = |after: u64| {
        let hub = hub.clone();
        thread::spawn(move || match hub.exposed_after(Duration::from_secs(after), far(), || true) {
            Wait::Frame(frame) => assert!(number(&frame) > after, "it was exposed before"),
            other => panic!("{other:?}"),
        })
    };
    let threads = vec![wait(0), wait(2)];
    (0..3).for_each(|_| camera.publish());
    join(threads);
}

fn close() {
    let group = LockstepGroup::new(Duration::from_secs(3600));
    let ring = SharedRing::new(RingSettings { memory: 1 << 20, replay: None });
    let hub = Hub::new(vec![ring.clone(), group.clone()]);
    let mut camera = Camera::new(&hub, None);
    let newest = NewestFeed::new(hub.clone(), None);
    let all = ring.read_all(&hub, Start::Next).ok().expect("the next frame is no error");
    let feeds: [Box<dyn Feed>; 3] = [Box::new(newest), Box::new(all), Box::new(group.join_lockstep())];
    let mut threads: Vec<_> = feeds
        .into_iter()
        .map(|mut feed| {
            thread::spawn(move || while !matches!(feed.next(far()).expect("nobody falls behind"), Wait::Closed) {})
        })
        .collect();
    let waiting = hub.clone();
    threads.push(thread::spawn(move || {
        let end = waiting.exposed_after(Duration::from_secs(99), far(), || true);
        assert!(matches!(end, Wait::Closed));
    }));
    threads.push(thread::spawn(move || camera.publish()));
    hub.close();
    join(threads);
}

fn demand() {
    let hub = Hub::new(vec![]);
    let demanded = hub.clone();
    let camera = thread::spawn(move || {
        let (hub, mut camera) = (&demanded, Camera::new(&demanded, None));
        for _ in 0..2 {
            while hub.watchers() == 0 && !hub.is_closed() {
                hub.wait_for_demand(None);
            }
            camera.publish();
        }
    });
    let watched = hub.clone();
    let client = thread::spawn(move || {
        let _watch = watched.watch();
        assert!(matches!(watched.newer_than(0, far()), Wait::Frame(_)));
    });
    client.join().expect("no panic");
    hub.close();
    camera.join().expect("no panic");
}

fn ring() {
    let ring = SharedRing::new(RingSettings { memory: 1 << 20, replay: None });
    let hub = Hub::new(vec![ring.clone()]);
    let mut camera = Camera::new(&hub, None);
    let read = |_| {
        let (hub, ring, published) = (hub.clone(), ring.clone(), camera.published.clone());
        thread::spawn(move || {
            let before = published.load(SeqCst);
            let mut feed = ring.read_all(&hub, Start::Next).ok().expect("the next frame is no error");
            let after = published.load(SeqCst);
            let mut last = None;
            // A reader that came after the last frame would wait for ever.
            while last.unwrap_or(after) < 4 {
                let Ok(Wait::Frame(frame)) = feed.next(far()) else { panic!("no frame") };
                assert_eq!(number(&frame), frame.sequence());
                match last {
                    Some(last) => assert_eq!(frame.sequence(), last + 1, "a frame is missing"),
                    None => assert!((before + 1..=after + 2).contains(&frame.sequence()), "the first is not the next"),
                }
                last = Some(frame.sequence());
            }
        })
    };
    let threads = (0..2).map(read).collect();
    (0..5).for_each(|_| camera.publish());
    join(threads);
}

fn small_ring() {
    let ring = SharedRing::new(RingSettings { memory: 1000, replay: None });
    let hub = Hub::new(vec![ring.clone()]);
    let mut camera = Camera::new(&hub, None);
    let read = |frames: usize| {
        let mut feed = ring.read_all(&hub, Start::Next).ok().expect("the next frame is no error");
        thread::spawn(move || {
            let mut held = Vec::new();
            for _ in 0..frames {
                match feed.next(far()) {
                    Ok(Wait::Frame(frame)) => held.push(frame),
                    Err(FeedEnd::FellBehind(_)) => break,
                    other => panic!("{other:?}"),
                }
            }
            let numbers: Vec<_> = held.iter().map(|frame| number(frame)).collect();
            assert_eq!(numbers, (1..=held.len() as u64).collect::<Vec<_>>(), "each frame, as it was sent");
        })
    };
    let threads = vec![read(1), read(5)];
    (0..6).for_each(|_| camera.publish());
    join(threads);
    assert_eq!(ring.holds(), (0, 0), "nobody reads");
}

fn lockstep() {
    let group = LockstepGroup::new(Duration::from_secs(3600));
    let hub = Hub::new(vec![group.clone()]);
    let mut camera = Camera::new(&hub, None);
    let step = |frames: Option<usize>| {
        let mut member = group.join_lockstep();
        thread::spawn(move || {
            let mut sent = 0;
            let mut last = 0;
            while frames.map_or(last < 4, |frames| sent < frames) {
                let Ok(Wait::Frame(frame)) = member.next(far()) else { panic!("no frame") };
                assert!(frame.sequence() > last, "a frame twice");
                (sent, last) = (sent + 1, frame.sequence());
            }
        })
    };
    // One leaves while it is sent its first frame, and one before that.
    let threads = vec![step(None), step(Some(1)), step(Some(0)), step(None)];
    (0..4).for_each(|_| camera.publish());
    join(threads);
}

fn same_frames() {
    let group = LockstepGroup::new(Duration::from_secs(3600));
    let hub = Hub::new(vec![group.clone()]);
    let mut camera = Camera::new(&hub, None);
    let seen: [Arc<AtomicU64>; 2] = Default::default();
    let step = |seen: &Arc<AtomicU64>| {
        let (mut member, seen) = (group.join_lockstep(), seen.clone());
        thread::spawn(move || {
            loop {
                let Ok(Wait::Frame(frame)) = member.next(far()) else { panic!("no frame") };
                seen.fetch_or(1 << number(&frame), SeqCst);
                if frame.sequence() == 4 {
                    break;
                }
            }
        })
    };
    let mut threads: Vec<_> = seen.iter().map(step).collect();
    let (late, done) = (group.clone(), Arc::new(AtomicUsize::new(0)));
    let ends = done.clone();
    threads.push(thread::spawn(move || {
        let mut member = late.join_lockstep();
        // It may come too late for any frame, and wait until the hub is closed.
        assert!(matches!(member.next(far()), Ok(Wait::Frame(_) | Wait::Closed)));
        ends.store(1, SeqCst);
    }));
    (0..4).for_each(|_| camera.publish());
    let late = threads.pop();
    join(threads);
    hub.close();
    late.into_iter().for_each(|late| late.join().expect("no panic"));
    assert_eq!(seen[0].load(SeqCst), seen[1].load(SeqCst), "one got a frame that the other did not");
}

fn lockstep_close() {
    let group = LockstepGroup::new(Duration::from_secs(3600));
    let hub = Hub::new(vec![group.clone()]);
    let mut camera = Camera::new(&hub, None);
    let step = |_| {
        let mut member = group.join_lockstep();
        thread::spawn(move || while !matches!(member.next(far()), Ok(Wait::Closed)) {})
    };
    let mut threads: Vec<_> = (0..2).map(step).collect();
    threads.push(thread::spawn(move || (0..2).for_each(|_| camera.publish())));
    hub.close();
    join(threads);
}
