//! `/snapshot`: one picture of the live stream's size, exposed after it was asked for.

use std::time::{Duration, Instant};

use super::App;
use super::answer::Answer;
use super::route::Query;
use crate::hub::Wait;
use crate::os;

/// Answered within 3 s, whatever the camera does.
const DEADLINE: Duration = Duration::from_millis(2800);

/// A picture taken after now, or with `max_age=MS` not longer ago than that; else 503 with the reason.
pub fn answer(app: &App, query: &Query<'_>) -> Answer {
    let asked = os::monotonic();
    let max_age = match query.get("max_age").map(|text| text.parse()) {
        None => Duration::ZERO,
        Some(Ok(millis)) => Duration::from_millis(millis),
        Some(Err(_)) => return Answer::text(400, "max_age is a number of milliseconds, such as max_age=500"),
    };
    let _watch = app.hub.watch();
    let failures = app.camera.failures();
    let deadline = Instant::now() + DEADLINE;
    // An attempt to get the camera that failed after we asked is answer enough.
    let go_on = || app.camera.failures() == failures;
    match app.hub.exposed_after(asked.saturating_sub(max_age), deadline, go_on) {
        Wait::Frame(frame) => Answer::picture(frame),
        Wait::Nothing => Answer::unavailable(format!("no picture: {}", app.camera.reason())),
        Wait::Closed => Answer::unavailable("no picture: the server is stopping"),
    }
}
