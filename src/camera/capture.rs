//! The capture thread: it opens the camera when somebody wants pictures, publishes every whole picture, restarts a
//! stream that stalls, reopens a camera that was unplugged, and closes it when nobody wants pictures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::intake::count;
use super::session::{Locked, Phase, Session};
use super::{CameraError, ErrorKind};
use crate::hub::{Made, Publisher};

/// Longest sleep of the capture thread, so that a stop or a stall is noticed.
const TICK: Duration = Duration::from_millis(250);
/// Time between attempts to open the camera while somebody waits.
const RETRY: Duration = Duration::from_secs(1);
/// Time between attempts to open the camera while nobody does.
const RETRY_UNWATCHED: Duration = Duration::from_secs(10);
/// No whole picture for this long, or for ten periods, is a stall.
const STALL: Duration = Duration::from_secs(2);
/// A camera that never sends a first picture in time is given twice as long each time, up to this.
const STALL_MAX: Duration = Duration::from_secs(16);

/// What the capture thread is needed for just now.
enum Need {
    /// Somebody wants pictures.
    Pictures,
    /// Nobody does, but it is not known whether there is a camera.
    Probe,
    /// Nothing.
    Nothing,
}

/// The capture thread's own state.
pub struct Capture {
    session: Arc<Session>,
    publisher: Publisher,
    /// The camera is closed when nobody has wanted pictures for so long; `None` keeps it open.
    idle: Option<Duration>,
    /// How long the camera may be silent.
    patience: Duration,
}

impl Capture {
    /// Creates the state of a capture thread. It opens the camera once even if nobody wants pictures, so that the log
    /// says at the start what is there.
    pub fn new(session: Arc<Session>, max_fps: Option<f64>, idle: Option<Duration>) -> Self {
        let publisher = Publisher::new(session.hub().clone(), session.pool().clone(), max_fps);
        Self { session, publisher, idle, patience: STALL }
    }

    /// Runs until the session is stopped; call [`Hub::close`](crate::hub::Hub::close) then too, which wakes it.
    ///
    /// A panic, which only a driver's nonsense or a defect can cause, is a failure of the camera like others: it is
    /// logged, the camera is closed and opened again.
    pub fn run(mut self) {
        while !self.session.is_stopping() {
            let done = catch_unwind(AssertUnwindSafe(|| self.iterate()));
            let done = done.unwrap_or_else(|_| {
                let message = "the capture thread had an internal error (a panic); the camera is opened again";
                Err(CameraError::new(ErrorKind::Failed, message))
            });
            if let Err(error) = done {
                self.session.mark_lost(&error, RETRY);
                self.back_off();
            }
        }
        self.session.sleep();
    }

    fn iterate(&mut self) -> Result<(), CameraError> {
        self.session.note_iteration(true);
        if self.session.is_reopening(true) {
            self.session.lock().close();
        }
        match self.need() {
            Need::Pictures => self.step(),
            Need::Probe => self.session.probe(),
            Need::Nothing => {
                self.session.sleep();
                self.session.note_iteration(false);
                self.session.hub().wait_for_demand(None);
                Ok(())
            }
        }
    }

    fn need(&self) -> Need {
        let (Some(idle), Some(unwatched)) = (self.idle, self.session.hub().unwatched_for()) else {
            return Need::Pictures;
        };
        let is_open = self.session.lock().is_open();
        match self.session.status().phase {
            Phase::Live | Phase::Starting if is_open && unwatched < idle => Need::Pictures,
            Phase::Starting | Phase::Lost(_) if !is_open => Need::Probe,
            _ => Need::Nothing,
        }
    }

    /// Publishes one picture, or waits one tick without any.
    fn step(&mut self) -> Result<(), CameraError> {
        let (readiness, generation) = {
            let mut locked = self.session.lock();
            (locked.go_live()?, locked.generation())
        };
        let waited = readiness.wait(TICK);
        // The descriptor must not outlive the camera: while it is open, a replugged one gets another node.
        drop(readiness);
        let session = self.session.clone();
        let mut locked = session.lock();
        if locked.generation() != generation {
            return Ok(());
        }
        let made = if waited? { self.take(&mut locked)? } else { None };
        let Some(made) = made else {
            return self.watch_for_stall(&mut locked);
        };
        drop(locked);
        self.patience = STALL;
        // Without the camera mutex, and last, so that whoever is woken finds the camera as it is.
        let counters = self.session.counters();
        count(if self.publisher.publish(made) { &counters.frames } else { &counters.thinned });
        Ok(())
    }

    /// Takes the picture that is ready; `None` if it is not whole. This is the one copy that a picture sees.
    fn take(&mut self, locked: &mut Locked<'_>) -> Result<Option<Made>, CameraError> {
        let Some((device, live)) = locked.live() else { return Ok(None) };
        let (publisher, counters) = (&mut self.publisher, self.session.counters());
        let mut taken = None;
        device.take(&mut |raw| {
            let Ok(accepted) = live.intake.accept(&raw, counters) else { return };
            let picture = accepted.picture;
            taken = Some(publisher.make(accepted.info, picture.len(), |out| picture.append_to(out)));
            live.alive_at = Instant::now();
            live.mode.size = live.intake.size();
        })?;
        let Some(made) = taken else { return Ok(None) };
        let is_first = live.intake.pictures() == 1;
        if is_first {
            locked.call_first_picture_hook();
        }
        locked.note_live_picture(made.captured_at().mono);
        Ok(Some(made))
    }

    fn watch_for_stall(&mut self, locked: &mut Locked<'_>) -> Result<(), CameraError> {
        let Some((_, live)) = locked.live() else { return Ok(()) };
        let periods = live.mode.fps.map_or(Duration::ZERO, |fps| Duration::from_secs_f64(10.0 / fps.max(0.1)));
        let silent = live.alive_at.elapsed();
        let has_pictures = live.intake.pictures() > 0;
        // A camera that is slow to switch to a still is as slow to come back.
        let switch = if has_pictures { None } else { self.session.status().learned.switch };
        let switch = switch.map_or(Duration::ZERO, |time| time * 2 + STALL);
        if silent < periods.max(self.patience).max(switch) {
            return Ok(());
        }
        let silent = silent.as_secs_f64();
        if !has_pictures {
            self.patience = (self.patience * 2).min(STALL_MAX);
            let message = format!("the camera streams, but sent no whole picture in {silent:.1} s");
            return Err(CameraError::new(ErrorKind::Failed, message));
        }
        warn!("no whole picture for {silent:.1} s; restarting the stream");
        count(&self.session.counters().restarts);
        locked.note_problem(format!(
            "the camera stopped sending pictures {silent:.1} s ago; its stream is being restarted"
        ));
        locked.restart_live()
    }

    fn back_off(&self) {
        let began = Instant::now();
        while !self.session.is_stopping() && !self.session.is_reopening(false) {
            let pause = if self.session.hub().watchers() > 0 { RETRY } else { RETRY_UNWATCHED };
            let Some(left) = pause.checked_sub(began.elapsed()) else { return };
            self.session.hub().wait_for_demand(Some(left));
        }
    }
}
