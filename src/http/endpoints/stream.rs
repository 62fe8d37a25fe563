//! `/stream`: the live picture as `multipart/x-mixed-replace`, or as `multipart/mixed` for scripts in WebKit. Where a
//! viewer's next frame comes from is its [`Feed`]'s matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;

use crate::camera::session::Session;
use crate::frame::{FIRST_BOUNDARY, Frame, LAST_BOUNDARY, MIXED_TYPE, REPLACE_TYPE};
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
    X-Content-Type-Options: nosniff\r\n\
    X-Accel-Buffering: no\r\n\
    Connection: close\r\n";
/// Where the media type was chosen by these fields of the request. The other one needs no such line: no cache may keep it.
const VARY: &str = "Vary: User-Agent, Accept\r\n";
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
    let head = head(exchange).map_err(|why| Response::text(400, why))?;
    if exchange.is_head() {
        // Whether it arrives changes nothing.
        let _ = exchange.connection.send(&head);
        return Ok(());
    }
    let mut feed = feed().map_err(|why| Response::text(400, why))?;
    let viewer = exchange.viewer(mode)?;
    let hub = &session.hub;
    let _view = hub.view();
    let end = match run(exchange, &head, session, feed.as_mut(), viewer.stats()) {
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

/// The response head, or in words what is wrong with `type=`.
fn head(exchange: &Exchange<'_>) -> Result<Vec<u8>, String> {
    let field = |name| exchange.head.field(name).unwrap_or_default();
    let (media_type, vary) = match exchange.query.get("type").as_deref() {
        None if is_webkit_script(field("User-Agent"), field("Accept")) => (MIXED_TYPE, VARY),
        None | Some("x-mixed-replace") => (REPLACE_TYPE, ""),
        Some("mixed") => (MIXED_TYPE, ""),
        Some(other) => return Err(format!("invalid type \"{other}\": expected mixed or x-mixed-replace")),
    };
    let cors: String = exchange.cors.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    Ok(format!("{STATUS}{vary}{cors}{FIELDS}Content-Type: {media_type}\r\n\r\n").into_bytes())
}

/// Whether this is `fetch` in WebKit, which fails on `multipart/x-mixed-replace`. `fetch` accepts anything by default; an
/// `<img>` and the address bar name what they want. Chromium calls itself WebKit too; all browsers on iOS are WebKit.
fn is_webkit_script(user_agent: &str, accept: &str) -> bool {
    let is_chromium = ["Chrome/", "Chromium/"].iter().any(|name| user_agent.contains(name));
    user_agent.contains("AppleWebKit/") && !is_chromium && accept == "*/*"
}

fn run(
    exchange: &Exchange<'_>,
    head: &[u8],
    session: &Session,
    feed: &mut dyn Feed,
    stats: &ClientStats,
) -> Result<EndReason, SendError> {
    let connection = exchange.connection;
    if let Some(limit) = feed.send_limit() {
        connection.set_send_timeout(limit);
    }
    connection.send_both(head, FIRST_BOUNDARY)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_in_webkit_are_known_by_agent_and_accept() {
        let mac = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)";
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)";
        let linux = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)";
        for (user_agent, is_webkit) in [
            (format!("{mac} Version/18.1 Safari/605.1.15"), true),
            (format!("{phone} Version/18.1 Mobile/15E148 Safari/604.1"), true),
            (format!("{phone} CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1"), true),
            (format!("{phone} FxiOS/132.0 Mobile/15E148 Safari/605.1.15"), true),
            (format!("{phone} EdgiOS/131.0.2903.48 Version/18.0 Mobile/15E148 Safari/604.1"), true),
            (mac.to_owned(), true),
            (format!("{linux} Version/18.0 Safari/605.1.15 Epiphany/605.1.15"), true),
            (format!("{linux} Chrome/131.0.0.0 Safari/537.36"), false),
            (format!("{linux} HeadlessChrome/131.0.0.0 Safari/537.36"), false),
            (format!("{linux} Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0"), false),
            (format!("{linux} Ubuntu Chromium/80.0.1 Safari/537.36"), false),
            (format!("{linux} QtWebEngine/6.8.0 Chrome/122.0.0.0 Safari/537.36"), false),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0".to_owned(), false),
            ("curl/8.10.1".to_owned(), false),
            (String::new(), false),
        ] {
            for (accept, is_script) in [
                ("*/*", true),
                ("image/webp,image/avif,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5", false),
                ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
                ("*/*;q=0.8", false),
                ("image/*, */*", false),
                ("", false),
            ] {
                assert_eq!(is_webkit_script(&user_agent, accept), is_webkit && is_script, "{user_agent} {accept}");
            }
        }
    }
}
