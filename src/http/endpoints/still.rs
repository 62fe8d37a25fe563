//! `/still` (`/full_res`, `/snapshot?size=max`): one picture at full resolution, for which the camera is switched.

use std::time::Duration;

use super::snapshot::{max_age, settle};
use crate::camera::capture::Camera;
use crate::http::response::Response;
use crate::http::route::Query;
use crate::hub::Hub;

/// A still exposed after now, or with `max_age=MS` not longer ago than that; else 503 with the reason.
pub fn respond(camera: &Camera, query: &Query<'_>) -> Result<Response, Response> {
    let rule = settle(query)?;
    let still = camera
        .still(max_age(query)?, rule)
        .map_err(|error| Response::unavailable(format!("no full-resolution picture: {error}")))?;
    let size = still.frame.size();
    Ok(Response::picture(still.frame)
        .with("X-Frame-Size", size.to_string())
        .with("X-Settled", if still.is_settled { "1" } else { "0" })
        .with("X-Still-Switch-Ms", still.switch.as_millis().to_string()))
}

/// `/warm?for=10s`: opens the camera ahead of a still and keeps it open, so that the picture has settled by then.
pub fn warm(hub: &Hub, query: &Query<'_>) -> Result<Response, Response> {
    let text = query.get("for").unwrap_or_else(|| "10s".into());
    let seconds = text.strip_suffix('s').unwrap_or(&text).parse::<f64>().ok().filter(|s| (0.0..=3600.0).contains(s));
    let seconds = seconds.ok_or_else(|| Response::text(400, "for is a time of up to 3600 s, such as for=10s"))?;
    hub.keep_warm(Duration::from_secs_f64(seconds));
    Ok(Response::text(200, format!("the camera is kept warm for {seconds} s")))
}
