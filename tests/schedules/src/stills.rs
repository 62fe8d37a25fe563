//! One still for all requests that come together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use shuttle::thread;

use crate::Property;
use crate::camera::settle::Rule;
use crate::camera::sharing::{Sharing, Turn};
use crate::camera::{CameraError, ErrorKind};

pub const ALL: &[Property] = &[
    Property { name: "each request gets a still exposed after it came", holds: fresh, timeouts: 0 },
    Property {
        name: "a still that fails or ends unexpectedly lets the next request try",
        holds: failures,
        timeouts: 0,
    },
    Property { name: "a request whose client leaves holds up nobody", holds: leaving, timeouts: 0 },
    Property { name: "requests that wait end when the server stops", holds: stop, timeouts: 1 },
    Property { name: "requests that may not begin yet begin later", holds: not_before, timeouts: 1 },
];

fn error(message: &str) -> CameraError {
    CameraError::new(ErrorKind::Failed, message)
}

/// A camera that takes one still at a time, and its clock.
#[derive(Clone)]
struct Camera {
    sharing: Arc<Sharing<u64>>,
    clock: Arc<AtomicU64>,
    is_used: Arc<AtomicBool>,
    taken: Arc<AtomicU32>,
}

/// How an attempt ends.
#[derive(Clone, Copy)]
enum Outcome {
    Well,
    Failed,
    /// As by a panic.
    Dropped,
}

impl Camera {
    fn new() -> Self {
        Self {
            sharing: Arc::new(Sharing::new()),
            clock: Arc::default(),
            is_used: Arc::default(),
            taken: Arc::default(),
        }
    }

    /// One request; when its still was exposed.
    fn request(
        &self,
        rule: Rule,
        end: Outcome,
        not_before: &dyn Fn() -> Result<Option<Instant>, CameraError>,
        go_on: &dyn Fn() -> Result<(), CameraError>,
    ) -> Result<u64, CameraError> {
        let asked = self.clock.fetch_add(1, SeqCst);
        let (attempt, strictest) = match self.sharing.turn(rule, &|exposed| *exposed > asked, not_before, go_on)? {
            Turn::Done(exposed) => {
                assert!(exposed > asked, "a still from before");
                return Ok(exposed);
            }
            Turn::Own(attempt, strictest) => (attempt, strictest),
        };
        assert!(strictest.satisfies(rule));
        assert!(!self.is_used.swap(true, SeqCst), "two switch the camera");
        thread::yield_now();
        let exposed = self.clock.fetch_add(1, SeqCst) + 1;
        self.taken.fetch_add(1, SeqCst);
        thread::yield_now();
        self.is_used.store(false, SeqCst);
        match end {
            Outcome::Well => attempt.end(Ok(exposed)),
            Outcome::Failed => attempt.end(Err(error("no picture"))),
            Outcome::Dropped => {
                drop(attempt);
                return Err(error("dropped"));
            }
        }
        if matches!(end, Outcome::Well) { Ok(exposed) } else { Err(error("no picture")) }
    }

    fn spawn(&self, end: Outcome) -> thread::JoinHandle<Result<u64, CameraError>> {
        let camera = self.clone();
        thread::spawn(move || camera.request(Rule::Auto, end, &|| Ok(None), &|| Ok(())))
    }

    /// Nothing of the requests before is left.
    fn assert_at_rest(&self) {
        let still = self.request(Rule::Drop(0), Outcome::Well, &|| Ok(None), &|| Ok(()));
        assert!(still.is_ok(), "a later request gets none: {still:?}");
        let asked = self.clock.load(SeqCst);
        let turn = self.sharing.turn(Rule::Drop(0), &|exposed| *exposed > asked, &|| Ok(None), &|| Ok(()));
        let Ok(Turn::Own(attempt, rule)) = turn else { panic!("the turn was not given back") };
        assert_eq!(rule, Rule::Drop(0), "a request that has ended still counts");
        attempt.end(Ok(asked));
    }
}

fn fresh() {
    let camera = Camera::new();
    let requests: Vec<_> = (0..3).map(|_| camera.spawn(Outcome::Well)).collect();
    requests.into_iter().for_each(|request| assert!(request.join().expect("no panic").is_ok(), "no still"));
    assert!((1..=3).contains(&camera.taken.load(SeqCst)));
    camera.assert_at_rest();
}

fn failures() {
    let camera = Camera::new();
    let requests: Vec<_> = [Outcome::Failed, Outcome::Dropped, Outcome::Well].map(|end| camera.spawn(end)).into();
    // Each ends, with a still or with a failure that it has seen.
    requests.into_iter().for_each(|request| drop(request.join().expect("no panic")));
    camera.assert_at_rest();
}

fn leaving() {
    let camera = Camera::new();
    let left = camera.clone();
    let leaver = thread::spawn(move || {
        let may_wait = || Err(error("the client has left"));
        left.request(Rule::Drop(60), Outcome::Well, &|| Ok(None), &may_wait)
    });
    let requests: Vec<_> = (0..2).map(|_| camera.spawn(Outcome::Well)).collect();
    requests.into_iter().for_each(|request| assert!(request.join().expect("no panic").is_ok(), "no still"));
    drop(leaver.join().expect("no panic"));
    camera.assert_at_rest();
}

fn stop() {
    let camera = Camera::new();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let wait = |_| {
        let (camera, is_stopping) = (camera.clone(), is_stopping.clone());
        thread::spawn(move || {
            // The duty rule lets none of them begin.
            let not_before = || match is_stopping.load(SeqCst) {
                true => Err(error("the server is stopping")),
                false => Ok(Some(Instant::now())),
            };
            assert!(camera.request(Rule::Auto, Outcome::Well, &not_before, &|| Ok(())).is_err());
        })
    };
    let waiting: Vec<_> = (0..2).map(wait).collect();
    is_stopping.store(true, SeqCst);
    waiting.into_iter().for_each(|request| request.join().expect("no panic"));
    camera.assert_at_rest();
}

fn not_before() {
    let camera = Camera::new();
    let wait = |_| {
        let camera = camera.clone();
        thread::spawn(move || {
            let waits = AtomicU32::new(2);
            let not_before = || {
                let is_early = waits.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                Ok(is_early.then(Instant::now))
            };
            camera.request(Rule::Auto, Outcome::Well, &not_before, &|| Ok(())).expect("a still");
        })
    };
    let waiting: Vec<_> = (0..3).map(wait).collect();
    waiting.into_iter().for_each(|request| request.join().expect("no panic"));
    camera.assert_at_rest();
}
