//! A camera that does what a test says, and the camera faults of the list (faults.md, 1 to 19) that no emulated
//! webcam can be made to show. The others are in the camera lab, on the real driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::capture::{Capture, CaptureSettings};
use super::intake::Counters;
use super::session::{Phase, Session};
use super::settle::Rule;
use super::still::{StillSettings, Stills, settled_frame};
use super::{CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Readiness, Source};
use crate::frame::{Frame, Size};
use crate::hub::{Hub, Wait};
use crate::{jpeg as scanner, system::os};

const LIVE: Size = Size::new(64, 48);
const STILL: Size = Size::new(128, 96);
const PERIOD: Duration = Duration::from_millis(5);

/// What comes of waiting for, and taking, one picture.
enum Shot {
    Picture(Vec<u8>),
    Flagged(Vec<u8>),
    Numbered(Vec<u8>, u32),
    At(Vec<u8>, Option<Duration>),
    TakeFails(CameraError),
    WaitFails(CameraError),
    /// Fails only after some time.
    WaitFailsLate(Duration, CameraError),
    Silence,
}

/// The test's part: what `open` and `start` answer, by how often they were called, and what pictures come.
struct Script {
    open: fn(u32) -> Result<(), CameraError>,
    start: fn(u32, Mode) -> Result<Mode, CameraError>,
    shot: fn(Turn) -> Shot,
    /// The sizes that it lists.
    sizes: &'static [Size],
    /// The rate that is asked for.
    live_fps: f64,
}

/// Which picture is asked for.
#[derive(Clone, Copy)]
struct Turn {
    size: Size,
    /// Streams started so far.
    stream: u32,
    /// Picture of this stream, from 0.
    index: u32,
}

const GOOD: Script = Script {
    open: |_| Ok(()),
    start: |_, mode| Ok(mode),
    shot: |turn| Shot::Picture(jpeg(turn.size, 120)),
    sizes: &[LIVE, STILL],
    live_fps: 200.0,
};

#[derive(Default)]
struct Calls {
    opens: AtomicU32,
    closes: AtomicU32,
    starts: AtomicU32,
    waits: AtomicU32,
}

struct Scripted {
    script: Arc<Script>,
    calls: Arc<Calls>,
}

struct Opened {
    script: Arc<Script>,
    calls: Arc<Calls>,
    identity: Identity,
    stream: Option<Arc<Running>>,
}

struct Running {
    turn: Mutex<Turn>,
    next: Mutex<Option<Shot>>,
    script: Arc<Script>,
    calls: Arc<Calls>,
}

impl Source for Scripted {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        (self.script.open)(self.calls.opens.fetch_add(1, Ordering::SeqCst))?;
        let (script, calls) = (self.script.clone(), self.calls.clone());
        let identity = Identity { card: "scripted".into(), ..Identity::default() };
        Ok(Box::new(Opened { script, calls, identity, stream: None }))
    }
}

impl Device for Opened {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn offers(&self) -> Vec<Offer> {
        self.script.sizes.iter().map(|size| Offer { size: *size, fps: vec![200.0] }).collect()
    }

    fn start(&mut self, want: Mode, _buffers: u32) -> Result<Mode, CameraError> {
        self.stream = None;
        let stream = self.calls.starts.fetch_add(1, Ordering::SeqCst);
        let mode = (self.script.start)(stream, want)?;
        self.stream = Some(Arc::new(Running {
            turn: Mutex::new(Turn { size: mode.size, stream, index: 0 }),
            next: Mutex::new(None),
            script: self.script.clone(),
            calls: self.calls.clone(),
        }));
        Ok(mode)
    }

    fn stop(&mut self) -> Result<(), CameraError> {
        self.stream = None;
        Ok(())
    }

    fn readiness(&self) -> Arc<dyn Readiness> {
        self.stream.clone().expect("nothing waits for a stream that is not there")
    }

    fn take(&mut self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let stream = self.stream.as_ref().expect("streaming");
        let sequence = stream.turn.lock().index;
        let raw = |data, exposed_at| RawFrame { data, sequence, is_flagged: false, exposed_at, captured_real: None };
        match stream.next.lock().take() {
            Some(Shot::Picture(data)) => sink(raw(&data, Some(os::monotonic()))),
            Some(Shot::Numbered(data, sequence)) => sink(RawFrame { sequence, ..raw(&data, Some(os::monotonic())) }),
            Some(Shot::At(data, exposed_at)) => sink(raw(&data, exposed_at)),
            Some(Shot::Flagged(data)) => sink(RawFrame { is_flagged: true, ..raw(&data, Some(os::monotonic())) }),
            Some(Shot::TakeFails(error)) => return Err(error),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.calls.closes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Readiness for Running {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        self.calls.waits.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.turn.lock();
        let shot = (self.script.shot)(*turn);
        turn.index += 1;
        match shot {
            Shot::Silence => std::thread::sleep(timeout),
            Shot::WaitFails(error) => return Err(error),
            Shot::WaitFailsLate(time, error) => {
                drop(turn);
                std::thread::sleep(time);
                return Err(error);
            }
            shot => {
                std::thread::sleep(PERIOD);
                *self.next.lock() = Some(shot);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A grey picture of one brightness.
fn jpeg(size: Size, luma: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let pixels = vec![luma; size.area() as usize];
    jpeg_encoder::Encoder::new(&mut out, 80)
        .encode(&pixels, size.width as u16, size.height as u16, jpeg_encoder::ColorType::Luma)
        .unwrap();
    out
}

/// The real capture thread on a scripted camera, with one viewer.
struct Stage {
    session: Arc<Session>,
    stills: Arc<Stills>,
    hub: Arc<Hub>,
    calls: Arc<Calls>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stage {
    fn new(script: Script) -> Self {
        Self::limited(script, None)
    }

    /// With so many frames per second for viewers.
    fn limited(script: Script, max_fps: Option<f64>) -> Self {
        let calls = Arc::new(Calls::default());
        let still = StillSettings {
            size: None,
            fps: None,
            rule: Rule::Auto,
            deadline: Duration::from_secs(1),
            min_interval: Duration::ZERO,
        };
        let hub = Hub::new(vec![]);
        let live = Mode { size: LIVE, fps: Some(script.live_fps) };
        let source = Scripted { script: Arc::new(script), calls: calls.clone() };
        let session = Session::new(Box::new(source), live, hub.clone(), None);
        let stills = Stills::new(session.clone(), still, None);
        let capture = Capture::new(
            session.clone(),
            CaptureSettings { max_fps, idle: None, stall_timeout: Duration::from_secs(2) },
        );
        let watch = hub.watch();
        let thread = std::thread::spawn(move || {
            let _watch = watch;
            capture.run();
        });
        Self { session, stills, hub, calls, thread: Some(thread) }
    }

    fn counters(&self) -> &Counters {
        &self.session.counters
    }

    /// A live picture newer than all there were, within 8 s.
    fn live(&self) -> Arc<Frame> {
        let after = self.hub.newest().map_or(0, |frame| frame.sequence());
        match self.hub.newer_than(after, Instant::now() + Duration::from_secs(8)) {
            Wait::Frame(frame) => frame,
            end => panic!("{end:?}: {}", self.session.reason()),
        }
    }

    fn still(&self) -> Result<super::still::Still, CameraError> {
        self.stills.take(Duration::ZERO, None, &|| true)
    }

    fn opens(&self) -> u32 {
        self.calls.opens.load(Ordering::SeqCst)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.session.stop();
        self.hub.close();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the capture thread never panics");
        }
        if !std::thread::panicking() {
            let closed = self.calls.closes.load(Ordering::SeqCst);
            assert!(closed <= self.opens(), "each camera is closed once");
        }
    }
}

fn gone() -> CameraError {
    CameraError::new(ErrorKind::Absent, "the camera is gone")
}

fn failed() -> CameraError {
    CameraError::new(ErrorKind::Failed, "it failed")
}

#[test]
fn fault_1_a_camera_that_cannot_be_opened_is_tried_again() {
    let stage = Stage::new(Script { open: |n| if n < 2 { Err(gone()) } else { Ok(()) }, ..GOOD });
    assert_eq!(stage.live().size(), LIVE);
    assert_eq!(stage.opens(), 3);
    assert_eq!(stage.session.failures(), 2);
}

#[test]
fn fault_2_unplugged_while_streaming_closes_at_once_and_comes_back() {
    let shot = |turn: Turn| match (turn.stream, turn.index) {
        (0, 5..) => Shot::TakeFails(gone()),
        _ => (GOOD.shot)(turn),
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    while stage.session.failures() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(stage.calls.closes.load(Ordering::SeqCst), 1, "closed before the next attempt");
    assert!(stage.session.reason().contains("gone"), "{}", stage.session.reason());
    stage.live();
    assert_eq!((stage.opens(), stage.session.status().phase), (2, Phase::Live));
}

#[test]
fn fault_3_a_stall_restarts_the_stream_without_closing() {
    let shot = |turn: Turn| if turn.stream == 0 && turn.index >= 5 { Shot::Silence } else { (GOOD.shot)(turn) };
    let stage = Stage::new(Script { shot, ..GOOD });
    while stage.counters().restarts.load(Ordering::SeqCst) == 0 {
        stage.live();
    }
    stage.live();
    assert_eq!(stage.opens(), 1);
}

/// Exposures that are longer than a stall of a fast camera, told to do 200 frames per second: at night from the start, and set
/// by hand while it runs. Such a camera was restarted after each picture, so that nobody learned how far apart they are.
#[test]
fn long_exposures_are_restarted_once_at_most() {
    /// A picture each 2.5 s.
    fn slow(turn: Turn) -> Shot {
        if turn.index % 11 == 10 { (GOOD.shot)(turn) } else { Shot::Silence }
    }
    let by_hand = |turn: Turn| if turn.stream == 0 && turn.index < 30 { (GOOD.shot)(turn) } else { slow(turn) };
    let restarts = |shot, pictures| {
        let stage = Stage::new(Script { shot, ..GOOD });
        (0..pictures).for_each(|_| _ = stage.live());
        (stage.counters().restarts.load(Ordering::SeqCst), stage.opens())
    };
    std::thread::scope(|scope| {
        let at_night = scope.spawn(|| restarts(slow, 4));
        assert_eq!(restarts(by_hand, 34), (1, 1), "set by hand");
        assert_eq!(at_night.join().unwrap(), (0, 1), "at night");
    });
}

#[test]
fn fault_4_an_error_storm_is_no_busy_loop() {
    let stage = Stage::new(Script { shot: |_| Shot::WaitFails(failed()), ..GOOD });
    std::thread::sleep(Duration::from_millis(1500));
    assert!(stage.calls.waits.load(Ordering::SeqCst) <= 3, "once a second");
}

#[test]
fn faults_6_to_8_broken_pictures_are_counted_never_shown() {
    let shot = |turn: Turn| {
        let good = jpeg(turn.size, 120);
        match turn.index {
            0 => Shot::Flagged(good),
            1 => Shot::Picture(vec![]),
            2 => Shot::Picture(vec![0xff]),
            3 => Shot::Picture(good[..good.len() / 2].to_vec()),
            4 => Shot::Picture([b"garbage", good.as_slice()].concat()),
            5 => Shot::Picture([good.as_slice(), &[0; 100]].concat()),
            _ => Shot::Picture(good),
        }
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    let frame = stage.live();
    assert_eq!(frame.jpeg(), jpeg(LIVE, 120), "padding cut off, nothing broken before it");
    let counters = stage.counters();
    let broken: u64 = counters.broken.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    assert_eq!((counters.flagged.load(Ordering::SeqCst), broken), (1, 3));
}

#[test]
fn fault_9_pictures_left_over_from_before_a_switch_are_not_taken() {
    let shot = |turn: Turn| match (turn.size, turn.index) {
        (STILL, 0..4) => Shot::Picture(jpeg(LIVE, 120)),
        (LIVE, 0..2) if turn.stream > 0 => Shot::Picture(jpeg(STILL, 120)),
        _ => (GOOD.shot)(turn),
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    assert_eq!(stage.still().unwrap().frame.size(), STILL);
    for _ in 0..10 {
        assert_eq!(stage.live().size(), LIVE);
    }
    assert_eq!(stage.counters().wrong_size.load(Ordering::SeqCst), 6);
}

#[test]
fn fault_10_a_coerced_size_is_taken_as_it_is() {
    let start = |_, mode: Mode| Ok(Mode { size: if mode.size == LIVE { Size::new(80, 64) } else { STILL }, ..mode });
    let stage = Stage::new(Script { start, ..GOOD });
    assert_eq!(stage.live().size(), Size::new(80, 64));
    assert_eq!(stage.session.status().mode.map(|mode| mode.size), Some(Size::new(80, 64)));
}

#[test]
fn a_camera_that_sends_another_size_than_it_says_is_believed_after_ten() {
    let stage = Stage::new(Script { shot: |_| Shot::Picture(jpeg(Size::new(64, 40), 120)), ..GOOD });
    assert_eq!(stage.live().size(), Size::new(64, 40));
}

/// A camera that crops 64x48 to 64x40, and 128x96 to 128x80.
#[test]
fn sizes_that_a_camera_really_sends_are_learned_once_for_live_and_stills() {
    let crop = |size: Size| Size::new(size.width, size.height * 5 / 6);
    let shot = |turn: Turn| Shot::Picture(jpeg(Size::new(turn.size.width, turn.size.height * 5 / 6), 120));
    let stage = Stage::new(Script { shot, ..GOOD });
    let wrong = || stage.counters().wrong_size.load(Ordering::SeqCst);
    assert_eq!(stage.live().size(), crop(LIVE));
    let mode = || stage.session.status().mode.map(|mode| mode.size);
    assert_eq!((mode(), wrong()), (Some(crop(LIVE)), 9));
    assert_eq!(stage.still().map(|still| still.frame.size()), Ok(crop(STILL)));
    assert_eq!(stage.live().size(), crop(LIVE));
    assert_eq!((mode(), wrong()), (Some(crop(LIVE)), 18), "the way back costs nothing");
    for _ in 0..3 {
        stage.session.reopen();
        let opens = stage.opens();
        while stage.opens() == opens {
            stage.live();
        }
        assert_eq!(stage.live().size(), crop(LIVE));
        assert_eq!(stage.still().map(|still| still.frame.size()), Ok(crop(STILL)));
    }
    assert_eq!(wrong(), 18, "neither does an opening, nor another still");
}

#[test]
fn a_camera_that_sends_the_right_size_in_the_end_is_believed_at_once() {
    let shot = |turn: Turn| Shot::Picture(jpeg(if turn.stream == 0 { Size::new(64, 40) } else { turn.size }, 120));
    let stage = Stage::new(Script { shot, ..GOOD });
    assert_eq!(stage.live().size(), Size::new(64, 40));
    stage.still().unwrap();
    while stage.live().size() != LIVE {}
    assert_eq!(stage.counters().wrong_size.load(Ordering::SeqCst), 9);
}

#[test]
fn pictures_that_always_lack_their_end_or_are_always_flagged_are_taken_after_ten() {
    fn open_ended(turn: Turn) -> Vec<u8> {
        let mut jpeg = jpeg(turn.size, 120);
        jpeg.truncate(jpeg.len() - 2);
        jpeg
    }
    fn cut(size: Size) -> Vec<u8> {
        let jpeg = jpeg(size, 200);
        jpeg[..jpeg.len() - 8].to_vec()
    }
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::SeqCst);
    let shots: [fn(Turn) -> Shot; 3] = [
        |turn| Shot::Picture(open_ended(turn)),
        |turn| Shot::Flagged(jpeg(turn.size, 120)),
        |turn| Shot::Flagged(open_ended(turn)),
    ];
    for (shot, (lacks_eoi, is_flagged)) in shots.into_iter().zip([(true, false), (false, true), (true, true)]) {
        let stage = Stage::new(Script { shot, ..GOOD });
        assert_eq!(stage.live().jpeg(), jpeg(LIVE, 120));
        let counters = stage.counters();
        let broken = || load(&counters.flagged) + counters.broken.iter().map(load).sum::<u64>();
        assert_eq!(broken(), 9);
        assert_eq!(stage.still().unwrap().frame.jpeg(), jpeg(STILL, 120));
        stage.live();
        assert_eq!(broken(), 9, "learned once");
        assert_eq!((load(&counters.eoi_appended) > 2, load(&counters.flags_ignored) > 2), (lacks_eoi, is_flagged));
    }
    // Nine in a row, and pictures that end half way, are no habit.
    assert!(scanner::inspect_without_eoi(&cut(LIVE)).is_err());
    let shots: [fn(Turn) -> Shot; 3] = [
        |turn| match turn.index % 10 {
            9 => Shot::Picture(jpeg(turn.size, 120)),
            _ => Shot::Flagged(jpeg(turn.size, 200)),
        },
        |turn| match turn.index % 10 {
            9 => Shot::Picture(jpeg(turn.size, 120)),
            _ => Shot::Picture(cut(turn.size)),
        },
        |turn| match turn.index {
            30.. => Shot::Picture(jpeg(turn.size, 120)),
            _ => Shot::Flagged(cut(turn.size)),
        },
    ];
    for shot in shots {
        let stage = Stage::new(Script { shot, ..GOOD });
        for _ in 0..3 {
            assert_eq!(stage.live().jpeg(), jpeg(LIVE, 120));
        }
    }
}

#[test]
fn the_first_picture_after_a_start_is_no_still_unless_it_is_asked_for() {
    let shot = |turn: Turn| Shot::Picture(jpeg(turn.size, if turn.index == 0 { 30 } else { 120 }));
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    let take = |rule| stage.stills.take(Duration::ZERO, rule, &|| true).unwrap().frame.jpeg() == jpeg(STILL, 120);
    assert!(take(None) && take(Some(Rule::Drop(1))) && !take(Some(Rule::Drop(0))));
    drop(stage);

    // Where the second one comes behind the deadline of 1 s, it is waited for.
    let shot = |turn: Turn| match (turn.size, turn.index) {
        // Each silence takes up to 250 ms.
        (STILL, 1..=4) => Shot::Silence,
        (STILL, index) => Shot::Picture(jpeg(turn.size, if index == 0 { 30 } else { 120 })),
        _ => (GOOD.shot)(turn),
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    let still = stage.still().unwrap();
    assert!(still.frame.jpeg() == jpeg(STILL, 120) && !still.is_settled);
}

#[test]
fn faults_11_to_13_a_still_that_fails_half_way_gives_the_stream_back() {
    let busy = |n, mode: Mode| if mode.size == STILL { Err(failed()) } else { (GOOD.start)(n, mode) };
    let no_way_back = |n, mode: Mode| if n == 2 { Err(failed()) } else { Ok(mode) };
    let silent = |turn: Turn| if turn.size == STILL { Shot::Silence } else { (GOOD.shot)(turn) };
    let dead = |turn: Turn| if turn.size == STILL { Shot::WaitFails(failed()) } else { (GOOD.shot)(turn) };
    for (script, succeeds) in [
        (Script { start: busy, ..GOOD }, false),
        (Script { start: no_way_back, ..GOOD }, true),
        (Script { shot: silent, ..GOOD }, false),
        (Script { shot: dead, ..GOOD }, false),
    ] {
        let stage = Stage::new(script);
        stage.live();
        let still = stage.still();
        assert_eq!(still.is_ok(), succeeds, "{still:?}");
        assert_eq!(stage.live().size(), LIVE);
        assert!(!stage.session.is_switching());
    }
}

#[test]
fn fault_14_unplugged_at_each_step_of_a_still_ends_with_pictures() {
    let starting = |n, mode: Mode| if n == 1 && mode.size == STILL { Err(gone()) } else { Ok(mode) };
    let before_first = |turn: Turn| if turn.stream == 1 { Shot::TakeFails(gone()) } else { (GOOD.shot)(turn) };
    let settling = |turn: Turn| match (turn.stream, turn.index) {
        (1, 2..) => Shot::TakeFails(gone()),
        _ => (GOOD.shot)(turn),
    };
    let way_back = |n, mode: Mode| if n == 2 { Err(gone()) } else { Ok(mode) };
    for (name, script, succeeds) in [
        ("starting", Script { start: starting, ..GOOD }, false),
        ("before the first", Script { shot: before_first, ..GOOD }, false),
        ("settling", Script { shot: settling, ..GOOD }, false),
        ("way back", Script { start: way_back, ..GOOD }, true),
    ] {
        let stage = Stage::new(script);
        stage.live();
        assert_eq!(stage.still().is_ok(), succeeds, "{name}");
        assert_eq!(stage.live().size(), LIVE, "{name}");
        assert_eq!(stage.opens(), 2, "{name}: closed when it was gone");
        assert_eq!(stage.still().map(|still| still.frame.size()), Ok(STILL), "{name}: and stills again");
    }
}

#[test]
fn fault_16_times_that_cannot_be_true_are_replaced_and_never_go_back() {
    let shot = |turn: Turn| {
        let at = match turn.index % 4 {
            0 => None,
            1 => Some(os::realtime()),
            2 => Some(Duration::from_secs(1)),
            _ => Some(os::monotonic()),
        };
        Shot::At(jpeg(turn.size, 120), at)
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    let mut last = Duration::ZERO;
    for _ in 0..12 {
        let before = os::monotonic().saturating_sub(Duration::from_secs(1));
        let captured_at = stage.live().captured_at();
        assert!(captured_at.mono > last && captured_at.mono > before, "{captured_at:?}");
        let off = (os::realtime() - captured_at.real).abs_diff(os::monotonic() - captured_at.mono);
        assert!(off < Duration::from_millis(50), "{off:?}");
        last = captured_at.mono;
    }
}

/// Seen in the lab on a busy machine: "frame 332 after frame 333".
#[test]
fn pictures_that_the_driver_hands_out_late_are_not_shown() {
    let shot = |turn: Turn| {
        // 0 1 3 2 4 6 5 7 ...: every third pair is swapped; the picture's brightness is its number.
        let number = match turn.index % 3 {
            1 => turn.index + 1,
            2 => turn.index - 1,
            _ => turn.index,
        };
        Shot::Numbered(jpeg(turn.size, (number % 200) as u8), number)
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    let mut last = -1.0;
    for _ in 0..15 {
        let luma = scanner::mean_luma(stage.live().jpeg()).unwrap();
        assert!(luma >= last, "{luma} after {last}");
        last = luma;
    }
    assert!(stage.counters().lost_by_driver.load(Ordering::SeqCst) >= 4);
}

#[test]
fn twenty_stills_at_once_make_one_or_two_switches() {
    let stage = Stage::new(GOOD);
    stage.live();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| (os::monotonic(), stage.still()))).collect();
        for answer in asked {
            let (asked, still) = answer.join().unwrap();
            assert!(still.unwrap().frame.captured_at().mono > asked);
        }
    });
    let stills = &stage.stills;
    let switches = stills.switches.load(Ordering::SeqCst);
    assert!((1..=2).contains(&switches), "{switches}");
    assert_eq!(stills.answered.load(Ordering::SeqCst), 20);
}

#[test]
fn a_still_settles_by_measurement_or_says_that_it_did_not() {
    let warming = |turn: Turn| {
        let luma = if turn.size == STILL && turn.index < 12 { 4 } else { 120 };
        Shot::Picture(jpeg(turn.size, luma))
    };
    let stage = Stage::new(Script { shot: warming, ..GOOD });
    stage.live();
    let still = stage.still().unwrap();
    assert!(still.is_settled && still.frame.jpeg() == jpeg(STILL, 120));
    let first = stage.stills.take(Duration::ZERO, Some(Rule::Drop(0)), &|| true).unwrap();
    assert!(!first.is_settled && first.frame.jpeg() == jpeg(STILL, 4), "settle=0 takes the first whole one");
    drop(stage);

    let flickering = |turn: Turn| Shot::Picture(jpeg(turn.size, if turn.index.is_multiple_of(2) { 60 } else { 180 }));
    let stage = Stage::new(Script { shot: flickering, ..GOOD });
    stage.live();
    assert!(!stage.still().unwrap().is_settled, "answered at the deadline all the same");
}

/// Some cameras need seconds for their first picture: the deadline of 1 s counts from when it is due.
#[test]
fn a_still_of_a_camera_that_is_slow_to_start_succeeds() {
    let slow = |turn: Turn| if turn.index < 5 { Shot::Silence } else { (GOOD.shot)(turn) };
    let stage = Stage::new(Script { shot: slow, ..GOOD });
    stage.live();
    assert!(stage.still().is_ok_and(|still| still.frame.size() == STILL && still.switch > Duration::from_secs(1)));
}

/// The deadline is looked at while buffers are ready all the time, too.
#[test]
fn a_still_ends_at_its_deadline_though_no_buffer_is_ever_whole() {
    let broken = |turn: Turn| if turn.size == STILL { Shot::Flagged(vec![0xff]) } else { (GOOD.shot)(turn) };
    let stage = Stage::new(Script { shot: broken, ..GOOD });
    stage.live();
    let began = Instant::now();
    assert!(stage.still().is_err_and(|error| error.message.contains("no whole picture")));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?} for a deadline of 1 s", began.elapsed());
}

/// The first picture may be damaged. Where the second one comes later than pictures have time to settle, it is waited for.
#[test]
fn a_cold_snapshot_of_a_slow_camera_is_not_its_first_picture() {
    let slow = |turn: Turn| match turn.index {
        0 => Shot::Picture(jpeg(turn.size, 30)),
        // Each silence takes up to 250 ms.
        1..=6 => Shot::Silence,
        _ => Shot::Picture(jpeg(turn.size, 120)),
    };
    let stage = Stage::new(Script { shot: slow, ..GOOD });
    let (asked, settle) = (os::monotonic(), Duration::from_millis(300));
    let snapshot =
        |deadline| settled_frame(&stage.session, asked, Rule::Auto, settle, Instant::now() + deadline, || true);
    assert_eq!(snapshot(Duration::from_millis(400)).unwrap().0.jpeg(), jpeg(LIVE, 30), "where no other comes");
    assert_eq!(snapshot(Duration::from_secs(8)).unwrap().0.jpeg(), jpeg(LIVE, 120));
}

#[test]
fn a_cold_snapshot_waits_for_light_and_the_live_stream_does_not() {
    let warming = |turn: Turn| Shot::Picture(jpeg(turn.size, if turn.index < 12 { 4 } else { 120 }));
    let stage = Stage::new(Script { shot: warming, ..GOOD });
    let asked = os::monotonic();
    let deadline = Instant::now() + Duration::from_secs(3);
    let (frame, is_settled) =
        settled_frame(&stage.session, asked, Rule::Auto, Duration::from_secs(1), deadline, || true).unwrap();
    assert!(is_settled && frame.jpeg() == jpeg(LIVE, 120));
    assert!(frame.sequence() > 12, "the dark ones were published");
}

#[test]
fn a_still_on_a_vanished_camera_closes_it_in_the_books_too() {
    let shot = |turn: Turn| if turn.size == STILL { Shot::TakeFails(gone()) } else { (GOOD.shot)(turn) };
    let open = |n| if n == 0 { Ok(()) } else { Err(gone()) };
    let stage = Stage::new(Script { open, shot, ..GOOD });
    stage.live();
    std::thread::sleep(Duration::from_millis(50));
    let before = stage.session.status().open_for();
    assert!(stage.still().is_err());
    let after = stage.session.status().open_for();
    assert!(after >= before, "a counter never runs backwards: {after:?} after {before:?}");
    let soon = Instant::now() + Duration::from_millis(50);
    assert!(matches!(stage.hub.newer_than(0, soon), Wait::Nothing), "its last picture is not shown to newcomers");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(stage.session.status().open_for(), after, "it is closed");
}

/// A live picture that was taken before the still began may be published after that: it does not end the absence.
#[test]
fn the_live_stream_is_away_until_a_picture_comes_after_the_still() {
    let stage = Stage::new(GOOD);
    for _ in 0..40 {
        stage.live();
        let still = stage.stills.take(Duration::ZERO, Some(Rule::Drop(3)), &|| true).unwrap();
        let after = os::monotonic();
        while stage.live().captured_at().mono < after {}
        let pause = stage.session.status().learned.pause.unwrap();
        assert!(pause >= still.switch, "{pause:?} for a still that took {:?}", still.switch);
    }
}

#[test]
fn a_panic_on_the_capture_thread_is_a_failure_of_the_camera_and_pictures_come_back() {
    let shot = |turn: Turn| match (turn.stream, turn.index) {
        (0, 5) => panic!("planted: a driver's answer that makes no sense"),
        _ => (GOOD.shot)(turn),
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    while stage.session.failures() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let problem = stage.session.health_problem().unwrap();
    assert!(problem.contains("internal error"), "/healthz says so: {problem}");
    stage.live();
    assert_eq!((stage.opens(), stage.session.health_problem()), (2, None));
}

/// The same on the thread of the client that takes a still.
#[test]
fn a_panic_while_a_still_is_taken_closes_the_camera_and_harms_nobody_else() {
    let shot = |turn: Turn| match (turn.size, turn.stream) {
        (STILL, 1) => panic!("planted: a driver's answer that makes no sense"),
        _ => (GOOD.shot)(turn),
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    std::thread::scope(|scope| assert!(scope.spawn(|| stage.still()).join().is_err(), "it panics"));
    assert_eq!(stage.live().size(), LIVE);
    assert_eq!(stage.still().map(|still| still.frame.size()), Ok(STILL), "and stills again");
}

#[test]
fn a_rate_limit_leaves_snapshots_and_settling_alone() {
    let stage = Stage::limited(GOOD, Some(0.2));
    stage.live();
    for _ in 0..10 {
        let asked = os::monotonic();
        let deadline = Instant::now() + Duration::from_secs(2);
        let (frame, _) =
            settled_frame(&stage.session, asked, Rule::Auto, Duration::from_secs(1), deadline, || true).unwrap();
        assert!(frame.captured_at().mono > asked);
        assert_eq!(frame.sequence(), 1, "viewers got one frame");
    }
    assert!(stage.counters().thinned.load(Ordering::SeqCst) >= 10);
}

/// A camera that cannot do its largest size costs one outage, not one for each still.
#[test]
fn a_still_size_that_gives_nothing_is_not_tried_again() {
    const LARGEST: Size = Size::new(256, 192);
    let shot = |turn: Turn| if turn.size == LARGEST { Shot::Silence } else { (GOOD.shot)(turn) };
    let stage = Stage::new(Script { shot, sizes: &[LIVE, LARGEST, STILL], ..GOOD });
    stage.live();
    assert!(stage.still().is_err(), "it has to be tried once");
    assert_eq!(stage.still().map(|still| still.frame.size()), Ok(STILL));
    assert_eq!(stage.still().map(|still| still.frame.size()), Ok(STILL));
}

/// One size that never settles is left for the next; where none does, the scene is to blame, and stills stay as large as they were.
#[test]
fn a_size_that_never_settles_is_left_unless_none_settles() {
    const LARGEST: Size = Size::new(256, 192);
    fn flicker(turn: Turn) -> Shot {
        Shot::Picture(jpeg(turn.size, if turn.index.is_multiple_of(2) { 110 } else { 135 }))
    }
    let sizes = &[LIVE, STILL, LARGEST];
    let largest = |turn: Turn| if turn.size == LARGEST { flicker(turn) } else { (GOOD.shot)(turn) };
    let stage = Stage::new(Script { shot: largest, sizes, ..GOOD });
    stage.live();
    let still = |stage: &Stage| stage.still().map(|still| (still.frame.size(), still.is_settled)).unwrap();
    for expected in [(LARGEST, false), (LARGEST, false), (STILL, true), (STILL, true)] {
        assert_eq!(still(&stage), expected);
    }
    assert_eq!(stage.stills.ruled_out(), [LARGEST]);
    drop(stage);
    let all = |turn: Turn| if turn.size == LIVE { (GOOD.shot)(turn) } else { flicker(turn) };
    let stage = Stage::new(Script { shot: all, sizes, ..GOOD });
    stage.live();
    for expected in [LARGEST, LARGEST, STILL, STILL, LARGEST, LARGEST, LARGEST, LARGEST] {
        assert_eq!(still(&stage), (expected, false));
    }
    assert_eq!(stage.stills.ruled_out(), []);
}

/// A driver without a list of sizes that refuses what it does not have costs one outage.
#[test]
fn without_a_list_a_size_that_is_refused_is_not_asked_for_again() {
    let refuses =
        |_, mode: Mode| if mode.size == LIVE { Ok(mode) } else { Err(CameraError::new(ErrorKind::Refused, "no")) };
    let stage = Stage::new(Script { start: refuses, sizes: &[], ..GOOD });
    stage.live();
    assert!(stage.still().is_err());
    for _ in 0..2 {
        assert_eq!(stage.still().map(|still| still.frame.size()), Ok(LIVE));
    }
    assert_eq!(stage.stills.switches.load(Ordering::SeqCst), 0);
}

/// In the lab, a camera whose exposure comes from bright: each still was up to 10 % brighter than the one before it.
#[test]
fn stills_in_a_row_do_not_raise_what_is_right() {
    let shot = |turn: Turn| Shot::Picture(jpeg(turn.size, if turn.size == STILL { 128 } else { 120 }));
    let stage = Stage::new(Script { shot, ..GOOD });
    let luma = || stage.session.status().learned.luma.unwrap().round();
    stage.session.learn(|learned| learned.luma = Some(120.0));
    while !stage.live().is_settled() {}
    assert!(stage.still().unwrap().is_settled);
    assert_eq!(luma(), 120.0);
}

#[test]
fn a_failure_that_may_pass_does_not_rule_a_size_out() {
    let fails_once = |n, mode: Mode| if n == 1 { Err(failed()) } else { Ok(mode) };
    let stage = Stage::new(Script { start: fails_once, ..GOOD });
    stage.live();
    assert!(stage.still().is_err());
    assert_eq!(stage.still().map(|still| still.frame.size()), Ok(STILL));
}

/// One listed range, or no list: the size is found by asking for it.
#[test]
fn still_sizes_without_a_list_are_tried() {
    let grants =
        |_, mode: Mode| Ok(Mode { size: if mode.size.area() > STILL.area() { STILL } else { mode.size }, ..mode });
    for sizes in [&[][..], &[STILL]] {
        let stage = Stage::new(Script { start: grants, sizes, ..GOOD });
        stage.live();
        assert_eq!(stage.still().map(|still| still.frame.size()), Ok(STILL), "{sizes:?}");
    }
}

#[test]
fn a_camera_whose_largest_size_is_the_live_one_is_switched_once_at_most() {
    let only_one = |_, mode: Mode| Ok(Mode { size: LIVE, ..mode });
    let stage = Stage::new(Script { start: only_one, sizes: &[], ..GOOD });
    stage.live();
    for _ in 0..3 {
        assert_eq!(stage.still().map(|still| still.frame.size()), Ok(LIVE));
    }
    assert_eq!(stage.stills.switches.load(Ordering::SeqCst), 1);
}

#[test]
fn viewers_are_held_to_a_rate_that_the_camera_ignores() {
    let stage = Stage::new(Script { live_fps: 20.0, ..GOOD });
    while stage.counters().thinned.load(Ordering::SeqCst) == 0 {
        stage.live();
    }
    let first = stage.live();
    (0..20).for_each(|_| _ = stage.live());
    let rate = 20.0 / (stage.hub.newest().unwrap().captured_at().mono - first.captured_at().mono).as_secs_f64();
    assert!(rate < 24.0, "{rate} frames per second");
}

/// What the driver grants is known before the first picture: so is that viewers have to be held to the rate.
#[test]
fn viewers_are_held_to_their_rate_from_the_start_where_the_camera_grants_a_higher_one() {
    let start = |_, mode: Mode| Ok(Mode { fps: mode.fps.map(|fps| fps * 1.1), ..mode });
    let stage = Stage::new(Script { start, live_fps: 20.0, ..GOOD });
    stage.live();
    let (first, second) = (stage.live(), stage.live());
    let gap = second.captured_at().mono - first.captured_at().mono;
    assert!(gap > Duration::from_millis(35), "{gap:?} at 20 frames per second");
}

/// The capture thread waits for pictures without the camera. What it hears about a stream that is over is of no interest.
#[test]
fn an_error_of_a_stream_that_is_over_does_not_close_what_a_still_just_used() {
    let shot = |turn: Turn| match (turn.stream, turn.index) {
        (0, 3) => Shot::WaitFailsLate(Duration::from_millis(400), failed()),
        _ => (GOOD.shot)(turn),
    };
    let stage = Stage::new(Script { shot, ..GOOD });
    stage.live();
    while stage.calls.waits.load(Ordering::SeqCst) < 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(
        stage.stills.take(Duration::ZERO, Some(Rule::Drop(0)), &|| true).map(|still| still.frame.size()),
        Ok(STILL)
    );
    stage.live();
    assert_eq!((stage.opens(), stage.session.failures()), (1, 0));
}

#[test]
fn health_is_good_while_a_still_is_taken_and_snapshots_are_told_of_it() {
    let slow = |turn: Turn| if turn.size == STILL { Shot::Silence } else { (GOOD.shot)(turn) };
    let stage = Stage::new(Script { shot: slow, ..GOOD });
    stage.live();
    std::thread::scope(|scope| {
        let still = scope.spawn(|| stage.still());
        while !stage.session.is_switching() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(stage.session.health_problem(), None);
        assert!(stage.session.reason().contains("still is being taken"), "{}", stage.session.reason());
        assert!(still.join().unwrap().is_err());
    });
}
