//! The capture thread: it opens the camera when somebody wants pictures, publishes every whole picture, restarts a
//! stream that stalls, reopens a camera that was unplugged, and closes it when nobody wants pictures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::intake::count;
use super::patience::Patience;
use super::session::{Locked, Phase, Session};
use super::{CameraError, ErrorKind};
use crate::hub::{Made, Publisher};
use crate::system::os;

/// Longest sleep of the capture thread, so that a stop or a stall is noticed.
const TICK: Duration = Duration::from_millis(250);
/// A camera that fails so often in a row before its first picture is left for another, where any will do.
const PATIENT_FAILURES: u32 = 6;
/// Time between attempts to open the camera while nobody does.
const RETRY_UNWATCHED: Duration = Duration::from_secs(10);
/// A camera that sends more than so many times the rate asked for ignores it: by what it grants before its first picture, and as
/// measured after so many.
const RATE_TOLERANCE: [(u32, f64); 3] = [(1, 1.02), (20, 1.2), (60, 1.05)];

/// How the capture thread works.
#[derive(Debug, Clone, Copy)]
pub struct CaptureSettings {
    /// Viewers get at most so many frames per second; `None` gives them all.
    pub max_fps: Option<f64>,
    /// The camera is closed when nobody has wanted pictures for this time; `None` keeps it open.
    pub idle: Option<Duration>,
    /// A shorter silence of the camera is never a stall.
    pub stall_timeout: Duration,
}

/// What the capture thread is needed for just now.
enum Need {
    /// Somebody wants pictures.
    Pictures,
    /// Nobody does, but the camera has not been found yet, or was lost.
    Probe,
    /// Nothing.
    Nothing,
}

/// The capture thread's own state.
pub struct Capture {
    session: Arc<Session>,
    publisher: Publisher,
    settings: CaptureSettings,
    patience: Patience,
    /// How often the camera has failed since its last whole picture.
    failures: u32,
}

impl Capture {
    /// Creates the state of a capture thread. It opens the camera once even if nobody wants pictures, so that the log
    /// says at the start what is there.
    pub fn new(session: Arc<Session>, settings: CaptureSettings) -> Self {
        let publisher = Publisher::new(session.hub.clone(), session.pool.clone(), settings.max_fps);
        let patience = Patience::new(settings.stall_timeout, session.source.longest_start());
        Self { session, publisher, settings, patience, failures: 0 }
    }

    /// Runs until the session is stopped; call [`Hub::close`](crate::hub::Hub::close) then too, which wakes it.
    ///
    /// A panic, which only a driver's nonsense or a defect can cause, is a failure of the camera like others: it is
    /// logged, the camera is closed and opened again.
    pub fn run(mut self) {
        while !self.session.is_stopping() {
            let done = catch_unwind(AssertUnwindSafe(|| self.iterate()));
            let done = done.unwrap_or_else(|_| {
                self.session.lock().close();
                let message = "the capture thread had an internal error (a panic); the camera will be opened again";
                Err(CameraError::new(ErrorKind::Failed, message))
            });
            if let Err(error) = done {
                self.failures += 1;
                if self.failures.is_multiple_of(PATIENT_FAILURES) && error.kind != ErrorKind::Absent {
                    self.session.source.note_silence();
                }
                let retry = self.session.source.retry(self.failures);
                self.session.mark_lost(&error, retry);
                self.back_off(retry);
            }
        }
        self.session.sleep();
    }

    fn iterate(&mut self) -> Result<(), CameraError> {
        self.session.note_iteration(true);
        if self.session.take_reopen_request() {
            self.session.lock().close();
        }
        match self.need() {
            Need::Pictures => self.step(),
            Need::Probe => self.session.probe(),
            Need::Nothing => {
                self.failures = 0;
                self.session.sleep();
                self.session.note_iteration(false);
                self.session.hub.wait_for_demand(None);
                Ok(())
            }
        }
    }

    fn need(&self) -> Need {
        let (Some(idle), Some(unwatched)) = (self.settings.idle, self.session.hub.unwatched_for()) else {
            return Need::Pictures;
        };
        let is_open = self.session.lock().is_open();
        match self.session.status().phase {
            Phase::Live | Phase::Starting if is_open && unwatched < idle => Need::Pictures,
            Phase::Starting | Phase::Lost(_) if !is_open => Need::Probe,
            _ => Need::Nothing,
        }
    }

    /// Publishes one picture, or waits one tick without any. After an error the camera is closed.
    fn step(&mut self) -> Result<(), CameraError> {
        let session = self.session.clone();
        let (readiness, generation) = {
            let mut locked = session.lock();
            let readiness = locked.go_live().inspect_err(|_| _ = locked.close())?;
            (readiness, locked.generation())
        };
        let waited = readiness.wait(TICK);
        // The descriptor must not outlive the camera: while it is open, a replugged one gets another node.
        drop(readiness);
        let mut locked = session.lock();
        // Somebody else has used the camera since: what came of waiting is of no interest.
        if locked.generation() != generation {
            return Ok(());
        }
        let taken = waited.and_then(|is_ready| if is_ready { self.take(&mut locked) } else { Ok(None) });
        let made = match taken {
            Ok(Some(made)) => made,
            Ok(None) => return self.watch_for_stall(&mut locked).inspect_err(|_| _ = locked.close()),
            Err(error) => {
                locked.close();
                return Err(error);
            }
        };
        drop(locked);
        // Without the camera mutex, and last, so that whoever is woken finds the camera as it is.
        let counters = &session.counters;
        count(if self.publisher.publish(made) { &counters.frames } else { &counters.thinned });
        Ok(())
    }

    /// Takes the picture that is ready; `None` if it is not whole. This is the one copy that a picture sees.
    fn take(&mut self, locked: &mut Locked<'_>) -> Result<Option<Made>, CameraError> {
        let Some((device, live)) = locked.live() else { return Ok(None) };
        let (publisher, counters) = (&mut self.publisher, &self.session.counters);
        let mut taken = None;
        device.take(&mut |raw| {
            let Ok(accepted) = live.intake.accept(&raw, counters) else { return };
            let picture = accepted.picture;
            taken = Some(publisher.make(accepted.info, picture.len(), |out| picture.append_to(out)));
        })?;
        let Some(made) = taken else { return Ok(None) };
        self.failures = 0;
        let silent = std::mem::replace(&mut live.alive_at, Instant::now()).elapsed();
        let pictures = live.intake.pictures();
        live.mode.size = live.intake.size();
        let mode = live.mode;
        let is_first = pictures == 1;
        if is_first {
            self.patience.note_first(silent);
            self.session.learn(|learned| learned.first = Some(silent));
        } else {
            self.patience.note_gap(silent);
        }
        if let Some(calls) = live.hook_calls {
            let calls = locked.call_first_picture_hook(calls);
            locked.live().into_iter().for_each(|(_, live)| live.hook_calls = calls);
        }
        locked.note_live_picture(made.frame.captured_at().mono, is_first, mode);
        if let Some((_, tolerance)) = RATE_TOLERANCE.iter().find(|(after, _)| *after == pictures) {
            self.hold_to_rate(is_first.then_some(mode.fps), *tolerance);
        }
        Ok(Some(made))
    }

    /// Thins viewers to the rate that was asked for, where the camera has `granted` another or none, or sends faster all the same.
    fn hold_to_rate(&mut self, granted: Option<Option<f64>>, tolerance: f64) {
        let Some(asked) = self.session.live_mode.fps else { return };
        let rate = match granted {
            // The log has it that there are no rates.
            Some(None) => {
                self.publisher.limit_to(asked);
                return;
            }
            Some(Some(granted)) => granted,
            None => self.session.rhythm().rate(os::monotonic()),
        };
        if rate > asked * tolerance && self.publisher.limit_to(asked) {
            info!("the camera ignores --fps {asked} and sends {rate:.1} frames per second; viewers get {asked}");
        }
    }

    fn watch_for_stall(&mut self, locked: &mut Locked<'_>) -> Result<(), CameraError> {
        let Some((_, live)) = locked.live() else { return Ok(()) };
        let interval = live.mode.fps.map(|fps| Duration::from_secs_f64(1.0 / fps.max(0.01)));
        let silent = live.alive_at.elapsed();
        let has_pictures = live.intake.pictures() > 0;
        // A camera that is slow to switch to a still is as slow to come back.
        let switch = self.session.status().learned.switch.filter(|_| !has_pictures);
        let switch = switch.map_or(Duration::ZERO, |time| time * 2 + self.settings.stall_timeout);
        if silent < self.patience.limit(interval, has_pictures).max(switch) {
            return Ok(());
        }
        self.patience.note_stall();
        let silent = silent.as_secs_f64();
        if !has_pictures {
            self.session.source.note_silence();
            let message = format!("the camera streams, but sent no whole picture in {silent:.1} s");
            return Err(CameraError::new(ErrorKind::Failed, message));
        }
        warn!("no whole picture for {silent:.1} s; restarting the stream");
        count(&self.session.counters.restarts);
        locked.note_problem(format!(
            "the camera stopped sending pictures {silent:.1} s ago; its stream is being restarted"
        ));
        locked.restart_live()
    }

    fn back_off(&self, watched: Duration) {
        let began = Instant::now();
        while !self.session.is_stopping() && !self.session.is_reopen_requested() {
            let pause = if self.session.hub.watchers() > 0 { watched } else { RETRY_UNWATCHED };
            let Some(left) = pause.checked_sub(began.elapsed()) else { return };
            self.session.hub.wait_for_demand(Some(left));
        }
    }
}
