//! `/snapshot`: one picture of the live stream's size, exposed after it was asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::camera::capture::Camera;
use crate::camera::settle::Rule;
use crate::http::response::Response;
use crate::http::route::Query;
use crate::hub::Hub;
use crate::system::os;

/// Answered within 3 s, whatever the camera does.
const DEADLINE: Duration = Duration::from_millis(2800);
/// The most that a picture from a cold camera is waited for to settle, after the first one.
const SETTLE: Duration = Duration::from_secs(1);

/// A picture taken after now, or with `max_age=MS` not longer ago than that; else 503 with the reason.
pub fn respond(hub: &Arc<Hub>, camera: &Camera, query: &Query<'_>) -> Result<Response, Response> {
    let not_before = os::monotonic().saturating_sub(max_age(query)?);
    let rule = settle(query)?.unwrap_or(Rule::Auto);
    // One that is recent enough wakes no camera that sleeps.
    let is_asleep = camera.live_for().is_none();
    if let Some(frame) = hub.newest().filter(|frame| is_asleep && frame.captured_at().mono > not_before) {
        return Ok(Response::picture(frame));
    }
    let _watch = hub.watch();
    let deadline = Instant::now() + DEADLINE;
    let taken = camera.settled_frame(not_before, rule, SETTLE, deadline);
    let (frame, _) = taken.map_err(|error| Response::unavailable(format!("no picture: {error}")))?;
    Ok(Response::picture(frame))
}

/// `max_age=MS`: how old a picture may be.
pub fn max_age(query: &Query<'_>) -> Result<Duration, Response> {
    let Some(text) = query.get("max_age") else { return Ok(Duration::ZERO) };
    let millis =
        text.parse().map_err(|_| Response::text(400, "max_age is a number of milliseconds, such as max_age=500"));
    millis.map(Duration::from_millis)
}

/// `settle=0` takes the first whole picture, `settle=N` drops N first, `settle=auto` waits until it is right.
pub fn settle(query: &Query<'_>) -> Result<Option<Rule>, Response> {
    let Some(text) = query.get("settle") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Response::text(400, "settle is auto, or a number of pictures to drop"))
}
