//! Stills that do not come from the camera's own stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;

use super::intake::{Accepted, Intake};
use super::session::Session;
use super::settle::{Known, Rule};
use super::{CameraError, ErrorKind, RawFrame};
use crate::frame::{Frame, Size};
use crate::system::os;

/// What takes stills in place of the camera's own stream.
pub trait Elsewhere: Send + Sync {
    /// Whether it needs the camera for itself: the live stream rests then.
    fn is_exclusive(&self) -> bool;

    /// Hands one picture to `sink`, by `deadline` and while `go_on` says so. Returns whether it had settled.
    fn take(
        &self,
        deadline: Instant,
        go_on: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(RawFrame<'_>),
    ) -> Result<bool, CameraError>;
}

/// Takes one still: the picture, whether it had settled, and if the live stream had to rest for it, for how long. The
/// capture thread starts that stream again, as after a switch.
///
/// # Errors
/// In words, when no whole picture came by the deadline.
pub fn take(
    elsewhere: &dyn Elsewhere,
    session: &Session,
    time: Duration,
) -> Result<(Arc<Frame>, bool, Option<Duration>), CameraError> {
    let failed = |why: &str| CameraError::new(ErrorKind::Failed, why);
    let began = Instant::now();
    let deadline = began + time;
    let lent = elsewhere.is_exclusive().then(|| session.lock_until(deadline));
    let lent = match lent {
        Some(None) => return Err(failed("the camera's driver does not answer")),
        Some(Some(mut locked)) => {
            locked.lend();
            Some(locked)
        }
        None => None,
    };
    let asked = os::monotonic();
    let traits = session.status().traits;
    let mut intake = Intake::new(Size::UNKNOWN, None, Rule::Drop(0), Known::default(), traits);
    let mut frame = None;
    let is_settled = elsewhere.take(deadline, &|| !session.is_stopping(), &mut |raw| {
        // Not before it was asked for. Where nobody says when, at once then, so that no later request shares it.
        let exposed_at = raw.exposed_at.filter(|_| raw.captured_real.is_some()).unwrap_or(asked);
        let raw = RawFrame { exposed_at: Some(exposed_at.max(asked)), ..raw };
        if let Ok(Accepted { picture, info }) = intake.accept(&raw, &session.counters) {
            frame = Some(session.pool.frame(info, picture.len(), |out| picture.append_to(out)));
        }
    })?;
    let frame = frame.ok_or_else(|| failed("what came is no whole JPEG"))?;
    let time = began.elapsed();
    info!("still taken size={} in={}ms settled={is_settled}", frame.size(), time.as_millis());
    Ok((frame, is_settled, lent.map(|_| time)))
}
