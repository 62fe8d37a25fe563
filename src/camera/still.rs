//! Full-resolution stills from the live camera: switch it, wait until the picture is right, copy one, let go.
//!
//! It happens on the client's own thread, behind the camera mutex. The way back is the capture thread's, which finds
//! the live stream missing as soon as the mutex is free: so the picture is sent while the camera switches back.
//! Requests that come while a still is being taken share it, if it was exposed after they asked, or the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::elsewhere::{self, Elsewhere};
pub use super::histogram::{BOUNDS, Histogram};
use super::intake::{Accepted, Intake, SETTLED_AFTER, count};
use super::session::{Locked, Session};
use super::settle::{Known, Rule};
use super::sharing::{Sharing, Turn};
use super::{CameraError, ErrorKind, Mode, Offer};
use crate::frame::{Frame, FrameInfo, Size};
use crate::hub::Wait;
use crate::jpeg;
use crate::system::os;
use crate::system::sync::{Mutex, rank};

/// The kernel zeroes buffers when it allocates them, which dominates a 4K switch: so as few as will do.
const STILL_BUFFERS: u32 = 2;
/// Longest wait for a picture before stop and deadline are looked at again.
const TICK: Duration = Duration::from_millis(250);
/// Somebody else's still, the switch itself, and a driver that takes its 6 s to fail: added to the deadline.
const MARGIN: Duration = Duration::from_secs(8);

/// How stills are taken.
#[derive(Debug, Clone, Copy)]
pub struct StillSettings {
    /// `None`: the largest that the camera offers.
    pub size: Option<Size>,
    /// `None`: the camera's own rate at that size.
    pub fps: Option<f64>,
    /// When the picture is right.
    pub rule: Rule,
    /// When to stop waiting for that, and respond with the newest whole picture.
    pub deadline: Duration,
    /// Least time between two switches.
    pub min_interval: Duration,
}

impl StillSettings {
    /// The mode to ask for of a camera with these offers.
    pub fn mode(&self, offers: &[Offer], is_bad: impl Fn(&Size) -> bool) -> Mode {
        let size = still_size(offers, self.size, is_bad);
        // Of a size that is not listed the rates of the others are known: a driver grants the nearest that it has.
        let listed = offers.iter().find(|offer| offer.size == size).or(offers.last());
        Mode { size, fps: self.fps.or_else(|| still_rate(listed.map_or(&[], |offer| &offer.fps))) }
    }
}

/// A still and how it came about.
#[derive(Debug, Clone)]
pub struct Still {
    /// The picture; its sequence number counts stills.
    pub frame: Arc<Frame>,
    /// Whether its picture was waited for and had settled within the deadline.
    pub is_settled: bool,
    /// The rule under which it was taken.
    pub rule: Rule,
    /// From the stop of the live stream to the first whole picture of the still's size; zero if there was no switch.
    pub switch: Duration,
}

/// Takes stills and shares them among the requests that come together.
pub struct Stills {
    session: Arc<Session>,
    settings: StillSettings,
    elsewhere: Option<Box<dyn Elsewhere>>,
    sharing: Sharing<Still>,
    state: Mutex<Progress, { rank::BRIEF }>,
    /// Stills taken with a switch.
    pub switches: AtomicU64,
    /// Requests that got a still, with or without a switch.
    pub answered: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Times from the stop of the live stream to the first whole picture of a still's size.
    pub switch_times: Histogram,
    /// Times from there to the settled picture.
    pub settle_times: Histogram,
}

#[derive(Default)]
struct Progress {
    switched_at: Option<Instant>,
    /// When the last settled live picture that was measured was exposed, and its mean luma.
    live_luma: Option<(Duration, f32)>,
    sizes: Sizes,
}

/// What was learned about one camera's still sizes.
#[derive(Default)]
struct Sizes {
    /// Card, USB id and serial number.
    camera: [String; 3],
    /// Sizes that gave no picture, or never settled.
    bad: Vec<Size>,
    /// The one of them that never settled, if the others have not failed in the same way.
    unsettled: Option<Size>,
    /// No size settles: what the camera sees moves, or flickers.
    is_unsteady: bool,
    /// The size of the last still if that went wrong, how often the camera had been opened by then, and how often in a row
    /// it went wrong.
    doubted: Option<(Size, u64, u32)>,
    /// Sizes that were asked for and gave the live stream's: no switch is needed for them.
    needless: Vec<Size>,
}

/// Closes the camera if taking a still panics: nobody knows in what state the driver was left.
struct CloseOnPanic<'a>(&'a Session);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().close();
        }
    }
}

impl Stills {
    /// Creates what takes stills from this session's camera, or from elsewhere.
    pub fn new(session: Arc<Session>, settings: StillSettings, elsewhere: Option<Box<dyn Elsewhere>>) -> Arc<Self> {
        Arc::new(Self {
            session,
            settings,
            elsewhere,
            sharing: Sharing::new(),
            state: Mutex::default(),
            switches: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            switch_times: Histogram::default(),
            settle_times: Histogram::default(),
        })
    }

    /// Takes a still exposed after now, or at most `max_age` ago. `rule` overrides the settings' for this one. While it
    /// waits for its turn, `go_on` is called at least four times a second; `false` ends that.
    ///
    /// # Errors
    /// In words, when the camera cannot be had or sent no whole picture of the still's size in time. [`ErrorKind::Busy`]
    /// where the live stream has to run first, for longer than this request may wait.
    pub fn take(&self, max_age: Duration, rule: Option<Rule>, go_on: &dyn Fn() -> bool) -> Result<Still, CameraError> {
        let (asked, came_at) = (os::monotonic(), Instant::now());
        let not_before = asked.saturating_sub(max_age);
        let rule = rule.unwrap_or(self.settings.rule);
        let will_do = |still: &Still| still.frame.captured_at().mono > not_before && still.rule.satisfies(rule);
        let failures = self.session.failures();
        let may_wait = || {
            if !go_on() {
                return Err(failed("the client has left"));
            }
            let is_late = came_at.elapsed() >= self.settings.deadline * 2 + MARGIN;
            if is_late { Err(failed("other stills were taken until the time was over")) } else { Ok(()) }
        };
        let turn = self.sharing.turn(rule, &will_do, &|| self.not_before(came_at, failures), &may_wait)?;
        let taken = match turn {
            Turn::Done(still) => Ok(still),
            Turn::Own(attempt, rule) => {
                let _close = CloseOnPanic(&self.session);
                let taken = self.take_now(asked, rule);
                attempt.end(taken.clone());
                taken
            }
        };
        match &taken {
            Ok(_) => count(&self.answered),
            Err(error) => {
                count(&self.failures);
                warn!("still failed reason=\"{error}\"");
            }
        }
        taken
    }

    /// Sizes that failed or never settled with this camera, and are not tried again.
    pub fn ruled_out(&self) -> Vec<Size> {
        self.state.lock().sizes.bad.clone()
    }

    /// When the camera may be switched, if not now, for a request that came then, with so many failures before it.
    fn not_before(&self, came_at: Instant, failures: u64) -> Result<Option<Instant>, CameraError> {
        if self.session.is_stopping() {
            return Err(failed("the server is stopping"));
        }
        let now = Instant::now();
        let duty = self.session.still_not_before();
        if duty.is_some() && self.session.failures() != failures {
            return Err(failed(self.session.reason()));
        }
        if let Some(at) = duty.filter(|at| *at > came_at + self.settings.deadline) {
            return Err(busy(at - now));
        }
        let interval = self.state.lock().switched_at.map(|at| at + self.settings.min_interval);
        Ok(duty.max(interval.filter(|at| *at > now)))
    }

    fn take_now(&self, asked: Duration, rule: Rule) -> Result<Still, CameraError> {
        if let Some(elsewhere) = &self.elsewhere {
            let (frame, is_settled, switch) =
                elsewhere::take(elsewhere.as_ref(), &self.session, self.settings.deadline)?;
            if switch.is_some() {
                count(&self.switches);
                self.state.lock().switched_at = Some(Instant::now());
            }
            return Ok(Still { frame, is_settled, rule: Rule::Auto, switch: switch.unwrap_or_default() });
        }
        let known = self.known();
        let Some(mut locked) = self.session.lock_until(Instant::now() + self.settings.deadline) else {
            return Err(failed("the camera's driver does not answer"));
        };
        // Only now, so that a cold camera is opened for the still, not first for the live stream.
        let _watch = self.session.hub.watch();
        let Some(want) = self.mode(&mut locked)? else {
            drop(locked);
            return self.take_live(asked, rule);
        };
        let taken = self.switch_and_take(&mut locked, want, rule, known);
        if let Err(error) = &taken {
            // Otherwise the capture thread would wait for a stream that is not there.
            locked.abandon_still(error);
        }
        locked.unlock_fair();
        let mut state = self.state.lock();
        state.switched_at = Some(Instant::now());
        state.sizes.learn(want.size, &taken, self.session.counters.opens.load(Ordering::Relaxed));
        taken
    }

    /// The mode to switch to; `None` where a live picture is as large.
    fn mode(&self, locked: &mut Locked<'_>) -> Result<Option<Mode>, CameraError> {
        let live = locked.live().map(|(_, live)| live.mode.size).or(self.session.status().mode.map(|mode| mode.size));
        let live = live.unwrap_or(self.session.live_mode.size);
        let device = locked.open()?;
        let offers = device.offers();
        let identity = device.identity();
        let mut state = self.state.lock();
        state.sizes.begin([&identity.card, &identity.usb_id, &identity.serial].map(String::clone));
        let want = self.settings.mode(&offers, |size| state.sizes.bad.contains(size));
        let is_fixed = matches!(offers[..], [Offer { size: Size::UNKNOWN, .. }]);
        // Without a list there is no other size to try.
        let is_vain = offers.is_empty() && state.sizes.bad.contains(&want.size);
        let is_needed = !is_fixed && !is_vain && want.size != live && !state.sizes.needless.contains(&want.size);
        Ok(is_needed.then_some(want))
    }

    /// Takes the picture and leaves the camera in the still's mode, with the capture thread's way back prepared.
    fn switch_and_take(
        &self,
        locked: &mut Locked<'_>,
        want: Mode,
        rule: Rule,
        known: Known,
    ) -> Result<Still, CameraError> {
        let began = Instant::now();
        let live = self.session.status().mode.map_or(self.session.live_mode.size, |mode| mode.size);
        let mode = locked.start_still(want, STILL_BUFFERS)?;
        count(&self.switches);
        debug!("switched to a still mode={mode} in={}ms", began.elapsed().as_millis());
        // A camera that is slow to begin with live is as slow to begin with a still.
        let first = self.session.status().learned.first.unwrap_or_default().min(MARGIN);
        let deadline = Instant::now() + self.settings.deadline + first;
        let readiness = locked.open()?.readiness();
        let mut intake = Intake::new(mode.size, locked.leftover(), rule, known, self.session.status().traits);
        let (mut switch, mut hook_calls) = (None, Some(0));
        let mut newest: Option<Still> = None;
        while !self.session.is_stopping() {
            // A slow camera's second picture is waited for, since its first one will not do.
            let extra = if newest.is_none() && switch.is_some() { self.settings.deadline } else { Duration::ZERO };
            let left = (deadline + extra).saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if !readiness.wait(left.min(TICK))? {
                continue;
            }
            let mut is_right = false;
            locked.open()?.take(&mut |raw| {
                let Ok(Accepted { picture, info }) = intake.accept(&raw, &self.session.counters) else { return };
                let switch = *switch.get_or_insert_with(|| began.elapsed());
                if !is_candidate(info.position, rule) {
                    return;
                }
                is_right = info.is_settled;
                let info = FrameInfo { sequence: self.switches.load(Ordering::Relaxed), ..info };
                let frame = self.session.pool.frame(info, picture.len(), |out| picture.append_to(out));
                newest = Some(Still { frame, is_settled: is_right && rule == Rule::Auto, rule, switch });
            })?;
            if let Some(calls) = hook_calls.filter(|calls| *calls < intake.pictures()) {
                hook_calls = locked.call_first_picture_hook(calls);
            }
            if is_right {
                break;
            }
        }
        if live == intake.size() {
            self.state.lock().sizes.needless.push(want.size);
        }
        let Some(still) = newest else {
            let waited = self.settings.deadline.as_secs_f64();
            let message = format!("the camera sent no whole picture of {} within {waited} s", mode.size);
            // Nothing at all: it cannot do this size. Damaged buffers are a failure that may pass.
            let kind = if intake.damaged() == 0 { ErrorKind::Refused } else { ErrorKind::Failed };
            return Err(CameraError::new(kind, message));
        };
        self.learn(&still, &intake, began.elapsed() - still.switch, known);
        Ok(still)
    }

    /// The still where the camera has no larger size than the live stream's: a fresh live picture, settled.
    fn take_live(&self, asked: Duration, rule: Rule) -> Result<Still, CameraError> {
        let deadline = self.settings.deadline;
        let take =
            |after, rule| settled_frame(&self.session, after, rule, deadline, Instant::now() + deadline, || true);
        let (mut frame, mut is_settled) = take(asked, rule)?;
        if !is_candidate(frame.position(), rule) {
            is_settled = false;
            frame = take(frame.captured_at().mono, Rule::Drop(0))?.0;
        }
        Ok(Still { frame, is_settled: is_settled && rule == Rule::Auto, rule, switch: Duration::ZERO })
    }

    /// What is known of this camera's brightness: from a settled live picture of a moment ago, and from earlier ones.
    fn known(&self) -> Known {
        let earliest = os::monotonic().saturating_sub(SETTLED_AFTER);
        let is_recent = |at: Duration| at > earliest;
        let frame = self.session.hub.newest_captured();
        let frame = frame.filter(|frame| frame.is_settled() && is_recent(frame.captured_at().mono));
        let measured = frame.and_then(|frame| Some((frame.captured_at().mono, jpeg::mean_luma(frame.jpeg())?)));
        let is_young = self.session.live_for().is_none_or(|time| time < SETTLED_AFTER);
        let learned = self.session.status().learned.luma;
        let measured = measured.map(|(at, luma)| (at, Known::live(luma, is_young, learned)));
        if let Some((_, luma)) = measured.filter(|_| !is_young) {
            self.session.learn(|learned| learned.luma = Some(luma));
        }
        let mut state = self.state.lock();
        state.live_luma = measured.or(state.live_luma);
        // Right after a still live has not settled again; what it showed before still holds.
        let live = state.live_luma.filter(|(at, _)| is_recent(*at)).map(|(_, luma)| luma);
        drop(state);
        Known { live, learned: self.session.status().learned.luma }
    }

    fn learn(&self, still: &Still, intake: &Intake, settle: Duration, known: Known) {
        info!(
            "still taken size={} switch={}ms settle={}ms settled={} frames={}",
            still.frame.size(),
            still.switch.as_millis(),
            settle.as_millis(),
            still.is_settled,
            intake.pictures()
        );
        self.switch_times.add(still.switch);
        self.settle_times.add(settle);
        let mean = |old: Option<Duration>, new: Duration| Some(old.map_or(new, |old| (old * 3 + new) / 4));
        self.session.learn(|learned| {
            learned.switch = mean(learned.switch, still.switch);
            learned.settle = mean(learned.settle, settle);
            // It falls only by a picture that was waited for to the deadline: where it is dark, the next still must not wait
            // in vain again. It rises only where live does not show what is right: stills in a row would raise it step by step.
            // What could not be measured teaches nothing.
            let measured = intake.settling().luma();
            let rises = known.live.is_none() && measured > learned.luma;
            if measured.is_some() && (rises || !still.is_settled) {
                learned.luma = measured;
            }
        });
    }
}

/// Waits for a live frame exposed after `not_before` whose picture has settled, for at most `settle_time` from the first
/// frame after that; `deadline` bounds it all. Returns the newest frame and whether it had settled.
///
/// # Errors
/// With the reason, when no whole picture came or the camera could not be had.
pub fn settled_frame(
    session: &Session,
    not_before: Duration,
    rule: Rule,
    settle_time: Duration,
    mut deadline: Instant,
    go_on: impl Fn() -> bool,
) -> Result<(Arc<Frame>, bool), CameraError> {
    let failures = session.failures();
    let (mut newest, mut is_judged): (Option<Arc<Frame>>, bool) = (None, false);
    loop {
        let after = newest.as_ref().map_or(not_before, |frame| frame.captured_at().mono);
        // An attempt to get the camera that failed after this request came fails it.
        let wait = session.hub.exposed_after(after, deadline, || session.failures() == failures && go_on());
        let frame = match (wait, newest.take()) {
            (Wait::Frame(frame), _) => {
                // The first picture of a stream may be damaged: it is only taken alone where no other comes by the deadline.
                let is_alone = frame.position() == 0 && rule == Rule::Auto;
                if !is_alone && !is_judged {
                    (is_judged, deadline) = (true, deadline.min(Instant::now() + settle_time));
                }
                frame
            }
            (_, Some(frame)) => return Ok((frame, false)),
            (Wait::Closed, None) => return Err(failed("the server is stopping")),
            (Wait::Nothing, None) => return Err(failed(session.reason())),
        };
        let has_settled = match rule {
            Rule::Auto => frame.is_settled(),
            Rule::Drop(count) => {
                frame.position() >= count || session.live_for().is_some_and(|time| time >= SETTLED_AFTER)
            }
        };
        if has_settled || Instant::now() >= deadline {
            return Ok((frame, has_settled));
        }
        newest = Some(frame);
    }
}

fn failed(why: impl Into<String>) -> CameraError {
    CameraError::new(ErrorKind::Failed, why)
}

/// Why a still has to wait for longer than its request may.
fn busy(time: Duration) -> CameraError {
    let seconds = time.as_secs_f64();
    let why = format!(
        "viewers have the live picture for another {seconds:.1} s first, as long as it was away for the last still; \
        max_age=MS accepts a still that was taken before"
    );
    CameraError::new(ErrorKind::Busy(time), why)
}

impl Sizes {
    /// Forgets everything if this is another camera.
    fn begin(&mut self, camera: [String; 3]) {
        if self.camera != camera {
            *self = Self { camera, ..Self::default() };
        }
    }

    /// Notes what became of a still of this size. One that the camera cannot do is not tried again, since each attempt costs
    /// everybody seconds of the live picture. A failure that may pass counts the third time in a row, a picture that did not
    /// settle the second time, if the camera was not opened in between (`opens`). Where a smaller size does not settle either, it
    /// is not the size.
    fn learn(&mut self, size: Size, taken: &Result<Still, CameraError>, opens: u64) {
        let before = self.doubted.take().filter(|doubt| (doubt.0, doubt.1) == (size, opens)).map_or(0, |doubt| doubt.2);
        let is_bad = match taken {
            Err(error) if error.kind == ErrorKind::Absent => false,
            Err(error) if matches!(error.kind, ErrorKind::Refused | ErrorKind::Bandwidth) => true,
            Ok(still) if still.is_settled || still.rule != Rule::Auto => {
                self.is_unsteady &= !still.is_settled;
                false
            }
            _ => {
                self.doubted = Some((size, opens, before + 1));
                before + 1 >= if taken.is_ok() { 2 } else { 3 }
            }
        };
        if is_bad && taken.is_ok() {
            let earlier = self.unsettled.replace(size).filter(|earlier| *earlier != size);
            if earlier.is_some() || self.is_unsteady {
                (self.unsettled, self.is_unsteady) = (None, true);
                self.bad.retain(|bad| Some(*bad) != earlier);
                return;
            }
        }
        if is_bad && !self.bad.contains(&size) {
            warn!("stills of {size} fail or never settle with this camera; the next smaller size is tried from now on");
            self.doubted = None;
            self.bad.push(size);
        }
    }
}

/// Whether the picture at this position of its stream can be a still: the first one after a start may be damaged, so it is
/// only taken by a rule that asks for it.
fn is_candidate(position: u32, rule: Rule) -> bool {
    position > 0 || rule == Rule::Drop(0)
}

/// The size to ask for. Without a list of sizes that is more than any camera has: it grants its largest.
fn still_size(offers: &[Offer], wanted: Option<Size>, is_bad: impl Fn(&Size) -> bool) -> Size {
    const MORE_THAN_ANY: Size = Size::new(16_384, 16_384);
    let listed = || offers.iter().map(|offer| offer.size);
    if let Some(wanted) = wanted.filter(|wanted| !is_bad(wanted)) {
        return wanted;
    }
    let limit = wanted.map_or(u64::MAX, |wanted| wanted.area());
    let good = listed().filter(|size| !is_bad(size) && size.area() <= limit).max_by_key(|size| size.area());
    // Where all have failed, they are tried once more.
    good.or_else(|| listed().max_by_key(|size| size.area())).unwrap_or(wanted.unwrap_or(MORE_THAN_ANY))
}

/// The rate to ask for: the fastest one, since a camera's own may be its slowest, but not more than leaves time to expose.
fn still_rate(rates: &[f64]) -> Option<f64> {
    let fastest = |rates: &mut dyn Iterator<Item = f64>| rates.max_by(f64::total_cmp);
    fastest(&mut rates.iter().copied().filter(|fps| *fps <= 30.5))
        .or_else(|| rates.iter().copied().min_by(f64::total_cmp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stills_ask_for_the_fastest_rate_that_leaves_time_to_expose() {
        for (rates, rate) in [
            (&[10.0, 5.0][..], Some(10.0)),
            // In the driver's order, which is any.
            (&[5.0, 15.0, 10.0], Some(15.0)),
            (&[120.0, 60.0, 30.0, 15.0], Some(30.0)),
            (&[90.0, 60.0], Some(60.0)),
            (&[2.0], Some(2.0)),
            (&[], None),
        ] {
            assert_eq!(still_rate(rates), rate, "{rates:?}");
        }
    }
}
