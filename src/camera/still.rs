//! Full-resolution stills from the live camera: switch it, wait until the picture is right, copy one, let go.
//!
//! It happens on the client's own thread, behind the camera mutex. The way back is the capture thread's, which finds
//! the live stream missing as soon as the mutex is free: so the picture is sent while the camera switches back.
//! Requests that come while a still is being taken share it, if it was exposed after they asked, or the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::capture::{Camera, Slot, count, stamp};
use super::histogram::Histogram;
use super::settle::{Rule, Settling};
use super::{CameraError, Device, ErrorKind, Mode};
use crate::frame::{Frame, FrameInfo, Size};
use crate::hub::Wait;
use crate::{jpeg, system::os};

/// The kernel zeroes buffers when it allocates them, which dominates a 4K switch: so as few as will do.
const STILL_BUFFERS: u32 = 2;
/// Longest wait for a picture before stop and deadline are looked at again.
const TICK: Duration = Duration::from_millis(250);
/// Somebody else's still, the switch itself, and a driver that takes its 6 s to fail: added to the deadline.
const MARGIN: Duration = Duration::from_secs(8);
/// A live stream that has run so long has settled.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// How stills are taken.
#[derive(Debug, Clone, Copy)]
pub struct StillSettings {
    /// `None`: the largest that the camera offers.
    pub size: Option<Size>,
    /// `None`: the camera's own rate at that size.
    pub fps: Option<f64>,
    /// When the picture is right.
    pub rule: Rule,
    /// When to stop waiting for that, and answer with the newest whole picture.
    pub deadline: Duration,
    /// Least time between two switches.
    pub min_interval: Duration,
}

/// A still and how it came about.
#[derive(Debug, Clone)]
pub struct Still {
    /// The picture; its sequence number counts stills.
    pub frame: Arc<Frame>,
    /// Whether it had settled within the deadline.
    pub is_settled: bool,
    /// From the stop of the live stream to the first whole picture of the still's size; zero if there was no switch.
    pub switch: Duration,
}

/// What is known about this camera's stills, for deciding and for `/state`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Learned {
    /// Mean luma of the last picture that was right.
    pub luma: Option<f32>,
    /// Running mean of the time a switch takes, with its first whole picture.
    pub switch: Option<Duration>,
    /// Running mean of the time from there to the right picture.
    pub settle: Option<Duration>,
    /// How long the live stream was away for the last still; `None` before the first.
    pub pause: Option<Duration>,
}

/// Stills taken, being taken, and what they taught.
#[derive(Default)]
pub struct Stills {
    state: Mutex<State>,
    done: Condvar,
    /// Stills taken with a switch.
    pub switches: AtomicU64,
    /// Requests answered, with or without one.
    pub answered: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Times from the stop of the live stream to the first whole picture of a still's size.
    pub switch_times: Histogram,
    /// Times from there to the picture that was right.
    pub settle_times: Histogram,
}

#[derive(Default)]
struct State {
    is_busy: bool,
    /// Attempts that have ended.
    attempts: u64,
    failure: Option<CameraError>,
    newest: Option<Still>,
    switched_at: Option<Instant>,
    /// The camera that `learned` is about, by card and serial number.
    camera: String,
    learned: Learned,
}

/// Ends an attempt, whatever became of it, so that nobody waits for ever.
struct Attempt<'a> {
    stills: &'a Stills,
    outcome: Result<Still, CameraError>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.stills.state.lock();
        state.is_busy = false;
        state.attempts += 1;
        match &self.outcome {
            Ok(still) => {
                state.newest = Some(still.clone());
                state.failure = None;
            }
            Err(error) => state.failure = Some(error.clone()),
        }
        self.stills.done.notify_all();
    }
}

impl Camera {
    /// A still exposed after now, or not longer than `max_age` ago. `rule` overrides the settings' for this one.
    ///
    /// # Errors
    /// In words, when the camera cannot be had or sent no whole picture of the still's size in time.
    pub fn still(&self, max_age: Duration, rule: Option<Rule>) -> Result<Still, CameraError> {
        let asked = os::monotonic();
        let not_before = asked.saturating_sub(max_age);
        let settings = self.settings.still;
        let deadline = Instant::now() + settings.deadline * 2 + MARGIN;
        let mut state = self.stills.state.lock();
        let mut seen = None;
        loop {
            if let Some(still) = state.newest.as_ref().filter(|still| still.frame.captured_at().mono > not_before) {
                count(&self.stills.answered);
                return Ok(still.clone());
            }
            // An attempt that began before we asked, and failed since, is answer enough.
            if let (Some(seen), Some(failure)) = (seen, &state.failure)
                && state.attempts != seen
            {
                return Err(failure.clone());
            }
            if self.is_stopping() {
                return Err(CameraError::new(ErrorKind::Failed, "the server is stopping"));
            }
            let wait = match state.switched_at {
                _ if state.is_busy => deadline,
                Some(at) if at.elapsed() < settings.min_interval => at + settings.min_interval,
                _ => break,
            };
            if state.is_busy {
                seen = Some(state.attempts);
            }
            if Instant::now() >= deadline {
                return Err(CameraError::new(ErrorKind::Failed, "other stills were taken until the time was over"));
            }
            self.stills.done.wait_until(&mut state, wait.min(deadline).min(Instant::now() + TICK));
        }
        state.is_busy = true;
        drop(state);
        let failed = CameraError::new(ErrorKind::Failed, "taking the still came to an unexpected end");
        let mut attempt = Attempt { stills: &self.stills, outcome: Err(failed) };
        attempt.outcome = self.take_still(asked, rule.unwrap_or(settings.rule));
        match &attempt.outcome {
            Ok(_) => count(&self.stills.answered),
            Err(error) => {
                count(&self.stills.failures);
                warn!("still failed reason=\"{error}\"");
            }
        }
        attempt.outcome.clone()
    }

    /// What stills have taught about this camera.
    pub fn learned(&self) -> Learned {
        self.stills.state.lock().learned
    }

    /// Totals since the start.
    pub fn stills(&self) -> &Stills {
        &self.stills
    }

    fn take_still(&self, asked: Duration, rule: Rule) -> Result<Still, CameraError> {
        let settings = self.settings.still;
        let known = self.known_luma();
        let lock_deadline = Instant::now() + settings.deadline;
        let Some(mut slot) = self.slot.try_lock_until(lock_deadline) else {
            return Err(CameraError::new(ErrorKind::Failed, "the camera's driver does not answer"));
        };
        // Only now, so that a cold camera is opened for the still, not first for the live stream.
        let _watch = self.hub.watch();
        let live = self.settings.live.size;
        let device = self.open(&mut slot)?;
        let Some(size) = still_size(device, settings.size).filter(|size| *size != live) else {
            drop(slot);
            return self.live_still(asked, rule, settings.deadline);
        };
        let began = Instant::now();
        let taken = self.switch_and_take(&mut slot, Mode { size, fps: settings.fps }, rule, known, began);
        if let Err(error) = &taken {
            // Without this the capture thread would wait for a stream that is not there.
            self.leave_still(&mut slot, error);
        }
        MutexGuard::unlock_fair(slot);
        self.stills.state.lock().switched_at = Some(Instant::now());
        taken
    }

    /// The picture, with the camera left in the still's mode and the capture thread's way back prepared.
    fn switch_and_take(
        &self,
        slot: &mut Slot,
        want: Mode,
        rule: Rule,
        known: Option<f32>,
        began: Instant,
    ) -> Result<Still, CameraError> {
        self.suspend_live(slot);
        let Some(device) = slot.device.as_mut() else {
            return Err(CameraError::new(ErrorKind::Failed, "the camera was closed"));
        };
        let mode = device.start(want, STILL_BUFFERS)?;
        count(&self.stills.switches);
        debug!("switched to a still mode={mode} in={}ms", began.elapsed().as_millis());
        let deadline = Instant::now() + self.settings.still.deadline;
        let readiness = device.readiness();
        let mut settling = Settling::new(rule, known);
        let mut newest: Option<Still> = None;
        let mut switch = None;
        let number = self.stills.switches.load(Ordering::Relaxed);
        while Instant::now() < deadline && !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if !readiness.wait(left.min(TICK))? {
                continue;
            }
            device.take(&mut |raw| {
                let Some((picture, seen)) = self.inspect(&raw) else { return };
                if seen != mode.size {
                    // Left over from before the switch (MJPGServer's sources leaked such frames).
                    return count(&self.counters().wrong_size);
                }
                let switch = *switch.get_or_insert_with(|| began.elapsed());
                let info =
                    FrameInfo { sequence: number, captured_at: stamp(raw.exposed_at, Duration::ZERO), size: seen };
                let is_settled = settling.look(picture.len(), || jpeg::mean_luma(raw.data));
                let frame = self.pool.frame(info, picture.len(), |out| picture.append_to(out));
                newest = Some(Still { frame, is_settled, switch });
            })?;
            if newest.as_ref().is_some_and(|still| still.is_settled) {
                break;
            }
        }
        let Some(still) = newest else {
            let waited = self.settings.still.deadline.as_secs_f64();
            let message = format!("the camera sent no whole picture of {} within {waited} s", mode.size);
            return Err(CameraError::new(ErrorKind::Failed, message));
        };
        self.learn(&still, &settling, began);
        Ok(still)
    }

    /// The live stream is away; what waits for its pictures must not take a still's.
    fn suspend_live(&self, slot: &mut Slot) {
        slot.live = None;
        slot.generation += 1;
        self.live_is_away();
    }

    /// After a failure: a camera that is gone is closed, so that it comes back under its own node.
    fn leave_still(&self, slot: &mut Slot, error: &CameraError) {
        slot.live = None;
        slot.generation += 1;
        let stopped = slot.device.as_mut().map_or(Ok(()), |device| device.stop());
        if error.kind == ErrorKind::Absent || stopped.is_err() {
            slot.device = None;
        }
    }

    /// The still where the camera has no larger size than the live stream's: a fresh live picture, settled.
    fn live_still(&self, asked: Duration, rule: Rule, deadline: Duration) -> Result<Still, CameraError> {
        let (frame, is_settled) = self.settled_frame(asked, rule, deadline, Instant::now() + deadline)?;
        Ok(Still { frame, is_settled, switch: Duration::ZERO })
    }

    /// A live frame exposed after `not_before`. If the stream has only just started, the picture is waited for to
    /// settle, for `settle_time` from its first frame; `deadline` bounds it all. Says whether it had settled.
    ///
    /// # Errors
    /// With the reason, when no whole picture came or the camera could not be had.
    pub fn settled_frame(
        &self,
        not_before: Duration,
        rule: Rule,
        settle_time: Duration,
        mut deadline: Instant,
    ) -> Result<(Arc<Frame>, bool), CameraError> {
        let known = self.stills.state.lock().learned.luma;
        let failures = self.failures();
        let mut settling = Settling::new(rule, known);
        let mut newest: Option<Arc<Frame>> = None;
        loop {
            let after = newest.as_ref().map_or(not_before, |frame| frame.captured_at().mono);
            // An attempt to get the camera that failed after we asked is answer enough.
            let wait = self.hub.exposed_after(after, deadline, || self.failures() == failures);
            let frame = match (wait, newest.take()) {
                (Wait::Frame(frame), earlier) => {
                    if earlier.is_none() {
                        deadline = deadline.min(Instant::now() + settle_time);
                    }
                    frame
                }
                (_, Some(frame)) => return Ok((frame, false)),
                (Wait::Closed, None) => return Err(CameraError::new(ErrorKind::Failed, "the server is stopping")),
                (Wait::Nothing, None) => return Err(CameraError::new(ErrorKind::Failed, self.reason())),
            };
            let has_run = self.live_for().is_some_and(|time| time >= SETTLED_AFTER);
            if has_run || settling.look(frame.jpeg().len(), || jpeg::mean_luma(frame.jpeg())) {
                return Ok((frame, true));
            }
            newest = Some(frame);
        }
    }

    /// Mean luma that a right picture of this camera has: the live picture's, or the last right one's.
    fn known_luma(&self) -> Option<f32> {
        let has_settled = self.live_for().is_some_and(|time| time >= SETTLED_AFTER);
        let live = self.hub.newest().filter(|_| has_settled).and_then(|frame| jpeg::mean_luma(frame.jpeg()));
        let identity = self.status().identity.unwrap_or_default();
        let camera = format!("{} {} {}", identity.card, identity.usb_id, identity.serial);
        let mut state = self.stills.state.lock();
        if state.camera != camera {
            state.camera = camera;
            state.learned = Learned::default();
        }
        live.or(state.learned.luma)
    }

    fn learn(&self, still: &Still, settling: &Settling, began: Instant) {
        let settle = began.elapsed() - still.switch;
        info!(
            "still taken size={} switch={}ms settle={}ms settled={} frames={}",
            still.frame.size(),
            still.switch.as_millis(),
            settle.as_millis(),
            still.is_settled,
            settling.seen()
        );
        self.stills.switch_times.add(still.switch);
        self.stills.settle_times.add(settle);
        let mean = |old: Option<Duration>, new: Duration| Some(old.map_or(new, |old| (old * 3 + new) / 4));
        let mut state = self.stills.state.lock();
        let learned = &mut state.learned;
        learned.switch = mean(learned.switch, still.switch);
        learned.settle = mean(learned.settle, settle);
        // Even one that did not settle: where it is dark, the next still must not wait in vain again.
        learned.luma = settling.luma().or(learned.luma);
    }

    /// The live stream is back: how long it was away.
    pub(super) fn learn_pause(&self, pause: Duration) {
        self.stills.state.lock().learned.pause = Some(pause);
    }
}

/// The size to ask for; `None` where the camera offers just one, or does not say.
pub fn still_size(device: &dyn Device, wanted: Option<Size>) -> Option<Size> {
    let offers = device.offers();
    let largest = offers.iter().map(|offer| offer.size).max_by_key(|size| size.area())?;
    let size = wanted.unwrap_or(largest);
    (offers.len() > 1 || size != largest).then_some(size)
}
