//! `/stream`: the live picture as `multipart/x-mixed-replace`. Where a viewer's next frame comes from is its [`Feed`]'s
//! matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;

use crate::camera::session::Session;
use crate::frame::{FIRST_BOUNDARY, Frame, LAST_BOUNDARY, MULTIPART_TYPE};
use crate::http::exchange::Exchange;
use crate::http::response::Response;
use crate::http::server::client::{ClientStats, EndReason};
use crate::http::server::connection::{Connection, SendError};
use crate::hub::{Feed, FeedEnd, Wait};

/// The head that every known client accepts: HTTP/1.0, so that nobody chunks it. The fields that say which
/// pages may read the stream stand between these two.
const STATUS: &str = "HTTP/1.0 200 OK\r\n";
const FIELDS: &str = "Cache-Control: no-store, no-cache, must-revalidate, max-age=0\r\n\
    Pragma: no-cache\r\n\
    X-Accel-Buffering: no\r\n\
    Connection: close\r\n";
/// Without a frame for this time, the client's socket is looked at: it may have left. A little under the second after
/// which a frame is repeated while the camera is away for a still.
const LOOK: Duration = Duration::from_millis(900);

/// Streams until the client leaves, stalls, falls behind, or the server stops. `feed` makes the viewer's feed; `mode` is
/// its name.
///
/// # Errors
/// The response that says why there is no stream.
pub fn respond(
    exchange: &Exchange<'_>,
    session: &Session,
    mode: &'static str,
    feed: impl FnOnce() -> Result<Box<dyn Feed>, String>,
) -> Result<(), Response> {
    if exchange.is_head() {
        // Whether it arrives changes nothing.
        let _ = exchange.connection.send(&head(exchange));
        return Ok(());
    }
    let mut feed = feed().map_err(|why| Response::text(400, why))?;
    let viewer = exchange.viewer(mode)?;
    let hub = &session.hub;
    let _watch = hub.watch();
    let end = match run(exchange, session, feed.as_mut(), viewer.stats()) {
        Ok(end) => end,
        Err(_) if hub.is_closed() => EndReason::ServerStops,
        Err(SendError::Stalled | SendError::TooSlow) if feed.send_limit().is_some() => EndReason::HeldUpOthers,
        Err(error) => error.into(),
    };
    // Viewers that wait for this one go on at once.
    drop(feed);
    viewer.leave(end);
    Ok(())
}

/// The response head.
fn head(exchange: &Exchange<'_>) -> Vec<u8> {
    let cors: String = exchange.cors.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{STATUS}{cors}{FIELDS}Content-Type: {MULTIPART_TYPE}\r\n\r\n").into_bytes()
}

fn run(
    exchange: &Exchange<'_>,
    session: &Session,
    feed: &mut dyn Feed,
    stats: &ClientStats,
) -> Result<EndReason, SendError> {
    let connection = exchange.connection;
    if let Some(limit) = feed.send_limit() {
        connection.set_send_timeout(limit);
    }
    connection.send_both(&head(exchange), FIRST_BOUNDARY)?;
    loop {
        let next = feed.next(Instant::now() + LOOK);
        stats.set_skipped(feed.skipped());
        match next {
            Ok(Wait::Frame(frame)) => send(connection, feed, &frame, stats)?,
            Ok(Wait::Nothing) if connection.has_left() => return Err(SendError::Left),
            Ok(Wait::Nothing) => {
                if let Some(frame) = frame_to_repeat(session, feed) {
                    send(connection, feed, &frame, stats)?;
                }
            }
            Ok(Wait::Closed) => {
                connection.send(LAST_BOUNDARY)?;
                return Ok(EndReason::ServerStops);
            }
            Err(end) => {
                let (reason, why) = match end {
                    FeedEnd::FellBehind(why) => (EndReason::FellBehind, why),
                    FeedEnd::HeldUpOthers(why) => (EndReason::HeldUpOthers, why),
                };
                info!("viewer cannot go on client={} id={} reason=\"{why}\"", stats.peer, stats.id);
                // Behind the last boundary a person finds it and a player does not (RFC 2046, "epilogue").
                connection.send_both(LAST_BOUNDARY, format!("{why}\r\n").as_bytes())?;
                return Ok(reason);
            }
        }
    }
}

fn send(connection: &Connection, feed: &dyn Feed, frame: &Frame, stats: &ClientStats) -> Result<(), SendError> {
    let part = if feed.is_numbered() { frame.numbered_part() } else { frame.part() };
    match feed.send_limit() {
        Some(limit) => connection.send_within(part, limit)?,
        None => connection.send(part)?,
    }
    stats.count(frame, part.len());
    Ok(())
}

/// The last frame, to be sent again while the camera is away for a still, so that a player does not give up. A viewer
/// that must see each gap is spared it.
fn frame_to_repeat(session: &Session, feed: &dyn Feed) -> Option<Arc<Frame>> {
    session.hub.newest().filter(|_| !feed.is_numbered() && session.is_switching())
}
