//! One picture: `/snapshot` of the live stream's size, `/still` at full resolution, and `/warm` ahead of one.

use std::time::{Duration, Instant};

use crate::camera::session::Session;
use crate::camera::settle::Rule;
use crate::camera::still::{Stills, settled_frame};
use crate::http::exchange::Exchange;
use crate::http::response::Response;
use crate::http::route::Query;
use crate::hub::Hub;
use crate::system::os;

/// A snapshot is responded to within 3 s, whatever the camera does.
const DEADLINE: Duration = Duration::from_millis(2800);
/// How long a picture from a cold camera may take to settle, after the first one.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a still's request waits for its turn to wait for the camera.
const QUEUE: Duration = Duration::from_secs(5);

/// `/snapshot`: a picture exposed after now, or with `max_age=MS` at most that long ago.
///
/// # Errors
/// 503 with the reason; 400 for wrong parameters.
pub fn snapshot(exchange: &Exchange<'_>, session: &Session) -> Result<Response, Response> {
    let query = &exchange.query;
    let not_before = os::monotonic().saturating_sub(max_age(query)?);
    let rule = settle(query)?.unwrap_or(Rule::Auto);
    let hub = &session.hub;
    // A picture that is recent enough wakes no camera that sleeps.
    let is_asleep = session.live_for().is_none();
    if let Some(frame) = hub.newest_captured().filter(|frame| is_asleep && frame.captured_at().mono > not_before) {
        return Ok(Response::picture(frame, &camera(session)));
    }
    let deadline = Instant::now() + DEADLINE;
    let _waiting = exchange.wait(deadline)?;
    let _watch = hub.watch();
    let taken = settled_frame(session, not_before, rule, SETTLE, deadline);
    let (frame, _) = taken.map_err(|error| {
        // A still is over soon.
        Response::unavailable_for(if session.is_switching() { 1 } else { 2 }, format!("no picture: {error}"))
    })?;
    Ok(Response::picture(frame, &camera(session)))
}

/// `/still`: a full-resolution picture exposed after now, or with `max_age=MS` at most that long ago.
///
/// # Errors
/// 503 with the reason; 400 for wrong parameters.
pub fn still(exchange: &Exchange<'_>, session: &Session, stills: &Stills) -> Result<Response, Response> {
    let (rule, max_age) = (settle(&exchange.query)?, max_age(&exchange.query)?);
    let asked = Instant::now();
    let _waiting = exchange.wait(asked + QUEUE)?;
    let still = stills
        .take(max_age + asked.elapsed(), rule)
        .map_err(|error| Response::unavailable(format!("no full-resolution picture: {error}")))?;
    let size = still.frame.size();
    Ok(Response::picture(still.frame, &camera(session))
        .with("X-Frame-Size", size.to_string())
        .with("X-Settled", if still.is_settled { "1" } else { "0" })
        .with("X-Still-Switch-Ms", still.switch.as_millis().to_string()))
}

/// The name of the camera from which the pictures come.
pub fn camera(session: &Session) -> String {
    session.status().identity.map_or_else(String::new, |identity| identity.card)
}

/// `/warm?for=10s`: opens the camera ahead of a still and keeps it open, so that the picture has settled by then.
///
/// # Errors
/// 400 for a wrong time.
pub fn warm(hub: &Hub, query: &Query<'_>) -> Result<Response, Response> {
    let text = query.get("for").unwrap_or_else(|| "10s".into());
    let seconds = text.strip_suffix('s').unwrap_or(&text).parse::<f64>().ok().filter(|s| (0.0..=3600.0).contains(s));
    let invalid = || Response::text(400, format!("invalid for \"{text}\": expected at most 3600 s, such as for=10s"));
    let seconds = seconds.ok_or_else(invalid)?;
    hub.keep_warm(Duration::from_secs_f64(seconds));
    Ok(Response::text(200, format!("the camera is kept warm for {seconds} s")))
}

/// `max_age=MS`: how old a picture may be.
fn max_age(query: &Query<'_>) -> Result<Duration, Response> {
    let Some(text) = query.get("max_age") else { return Ok(Duration::ZERO) };
    let invalid = |_| format!("invalid max_age \"{text}\": expected a number of milliseconds, such as max_age=500");
    text.parse().map(Duration::from_millis).map_err(invalid).map_err(|why| Response::text(400, why))
}

/// `settle=0` takes the first whole picture, `settle=N` drops N first, `settle=auto` waits until the picture is settled.
fn settle(query: &Query<'_>) -> Result<Option<Rule>, Response> {
    let Some(text) = query.get("settle") else { return Ok(None) };
    let invalid = |_| Response::text(400, format!("invalid settle \"{text}\": expected auto, or a number of pictures"));
    text.parse().map(Some).map_err(invalid)
}
