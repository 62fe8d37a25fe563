//! One picture: `/snapshot` of the live stream's size, `/still` at full resolution, and `/warm` ahead of one.

use std::time::{Duration, Instant};

use crate::camera::ErrorKind;
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
/// How long `/warm` keeps the camera open at most; it may be renewed.
const WARM: f64 = 60.0;
/// How many pictures a request may have dropped before its own at most, so that it does not hold the camera for long.
const MOST_DROPPED: u32 = 60;
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
    let waiting = exchange.wait(deadline, false)?;
    let _watch = hub.watch();
    let go_on = || exchange.is_waited_for(&waiting);
    let taken = settled_frame(session, not_before, rule, SETTLE, deadline, go_on);
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
    let waiting = exchange.wait(asked + QUEUE, true)?;
    let taken = stills.take(max_age + asked.elapsed(), rule, &|| exchange.is_waited_for(&waiting));
    let still = taken.map_err(|error| {
        let wait = if let ErrorKind::Busy(time) = error.kind { time.as_secs_f64().ceil() as u32 } else { 2 };
        Response::unavailable_for(wait.max(1), format!("no full-resolution picture: {error}"))
    })?;
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

/// `/warm?for=10s`: opens the camera ahead of a still and keeps it open, so that the picture has settled by then. Longer
/// times are cut to [`WARM`].
///
/// # Errors
/// 400 for a wrong time.
pub fn warm(hub: &Hub, query: &Query<'_>) -> Result<Response, Response> {
    let text = query.get("for").unwrap_or_else(|| "10s".into());
    let seconds = text.strip_suffix('s').unwrap_or(&text).parse::<f64>().ok().filter(|s| *s >= 0.0);
    let invalid =
        || Response::text(400, format!("invalid for \"{text}\": expected a number of seconds, such as for=10s"));
    let seconds = seconds.ok_or_else(invalid)?.min(WARM);
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
    let is_allowed = |rule: &Rule| !matches!(rule, Rule::Drop(count) if *count > MOST_DROPPED);
    let expected = format!("expected auto, or a number of pictures from 0 to {MOST_DROPPED}");
    let invalid = || Response::text(400, format!("invalid settle \"{text}\": {expected}"));
    text.parse().ok().filter(is_allowed).map(Some).ok_or_else(invalid)
}
