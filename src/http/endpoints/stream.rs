//! `/stream`: the live picture as `multipart/x-mixed-replace`, in one of three modes ([`Mode`]).

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;

use crate::camera::capture::Camera;
use crate::frame::Frame;
use crate::http::exchange::Exchange;
use crate::http::response::Response;
use crate::http::route::Query;
use crate::http::server::client::{ClientStats, EndReason};
use crate::http::server::connection::{Connection, SendError};
use crate::hub::pace::{Pace, parse_rate, parse_time};
use crate::hub::ring::{FellBehind, Start};
use crate::hub::{Hub, Reader, Stepper, Wait};
use crate::system::os;

/// The bytes that every known client accepts, contracts.md: HTTP/1.0, so that nobody chunks it; no dashes in the
/// boundary's declaration; the first boundary at once. Which pages may read it is said in between.
const STATUS: &str = "HTTP/1.0 200 OK\r\n";
const FIELDS: &str = "Cache-Control: no-store, no-cache, must-revalidate, max-age=0\r\n\
    Pragma: no-cache\r\n\
    X-Accel-Buffering: no\r\n\
    Connection: close\r\n\
    Content-Type: multipart/x-mixed-replace;boundary=boundarydonotcross\r\n\
    \r\n";
const FIRST_BOUNDARY: &[u8] = b"--boundarydonotcross\r\n";
/// After a whole part, which ended with a boundary that no part follows.
const LAST_BOUNDARY: &[u8] = b"\r\n--boundarydonotcross--\r\n";
/// Without a frame for so long, the client's socket is looked at: it may have left. A little under the second after
/// which a frame is repeated while the camera is away for a still.
const LOOK: Duration = Duration::from_millis(900);

/// What streams need of the server.
pub struct Streams<'a> {
    /// Where the frames come from.
    pub hub: &'a Arc<Hub>,
    /// Whether it is away for a still.
    pub camera: &'a Camera,
    /// The mode of those who name none.
    pub mode: Mode,
}

/// Streams until the client leaves, stalls, falls behind, or the server stops; or returns the response that says why
/// not.
pub fn respond(exchange: &Exchange<'_>, streams: &Streams<'_>) -> Result<(), Response> {
    let wish = Wish::from_query(&exchange.query, streams.mode).map_err(|why| Response::text(400, why))?;
    if exchange.is_head() {
        // Whether it arrives changes nothing.
        let _ = exchange.connection.send(&head(exchange));
        return Ok(());
    }
    let mode = wish.mode.name();
    let mut feed = wish.feed(streams.hub).map_err(|why| Response::text(400, why))?;
    let permit = exchange.viewer(mode)?;
    let _watch = streams.hub.watch();
    let end = match run(exchange, streams, &mut feed, permit.stats()) {
        Ok(end) => end,
        Err(gone) => end_of(streams.hub, permit.stats(), gone),
    };
    // The others in lock-step go on at once.
    drop(feed);
    permit.leave(end);
    Ok(())
}

/// Why a client that is gone really went.
pub fn end_of(hub: &Hub, stats: &ClientStats, gone: SendError) -> EndReason {
    match gone {
        _ if stats.was_evicted() => EndReason::MadeRoom,
        _ if hub.is_closed() => EndReason::ServerStops,
        SendError::Stalled | SendError::TooSlow if stats.mode == Mode::Lockstep.name() => EndReason::HeldUpOthers,
        SendError::Left => EndReason::Left,
        SendError::Stalled => EndReason::Stalled,
        SendError::TooSlow => EndReason::TooSlow,
    }
}

/// The head of the answer.
fn head(exchange: &Exchange<'_>) -> Vec<u8> {
    let cors = exchange.cors.iter().map(|(name, value)| {
        format!(
            "{name}: {value}
"
        )
    });
    format!("{STATUS}{}{FIELDS}", cors.collect::<String>()).into_bytes()
}

fn run(
    exchange: &Exchange<'_>,
    streams: &Streams<'_>,
    feed: &mut Feed,
    stats: &ClientStats,
) -> Result<EndReason, SendError> {
    let connection = exchange.connection;
    if let Feed::Lockstep(stepper, _) = feed {
        connection.set_send_timeout(stepper.patience());
    }
    connection.send_both(&head(exchange), FIRST_BOUNDARY)?;
    loop {
        match feed.next(streams.hub, stats, Instant::now() + LOOK) {
            Ok(Wait::Frame(frame)) => feed.send(connection, &frame, stats)?,
            Ok(Wait::Nothing) if connection.has_left() => return Err(SendError::Left),
            Ok(Wait::Nothing) => repeat_while_away(streams, connection, feed, stats)?,
            Ok(Wait::Closed) => {
                connection.send(LAST_BOUNDARY)?;
                return Ok(EndReason::ServerStops);
            }
            Err((end, why)) => {
                info!("viewer cannot go on client={} id={} reason=\"{why}\"", stats.peer, stats.id);
                // Behind the last boundary a person finds it and a player does not (RFC 2046, "epilogue").
                connection.send_both(LAST_BOUNDARY, format!("{why}\r\n").as_bytes())?;
                return Ok(end);
            }
        }
    }
}

/// The last frame again, so that a player does not give up while the camera is away for a still. Recorders are
/// spared it.
fn repeat_while_away(
    streams: &Streams<'_>,
    connection: &Connection,
    feed: &Feed,
    stats: &ClientStats,
) -> Result<(), SendError> {
    match streams.hub.newest() {
        Some(frame) if matches!(feed, Feed::Newest { .. }) && streams.camera.is_switching() => {
            feed.send(connection, &frame, stats)
        }
        _ => Ok(()),
    }
}

/// How frames are chosen for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The newest one whenever the client is ready.
    #[default]
    Newest,
    /// Every one, in order.
    All,
    /// The same ones as all others in this mode; the slowest sets the pace.
    Lockstep,
}

impl Mode {
    /// As it is written in options, URLs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::All => "all",
            Self::Lockstep => "lockstep",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Newest, Self::All, Self::Lockstep].into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("invalid mode \"{text}\": expected newest, all or lockstep"))
    }
}

/// What a viewer asks for.
#[derive(Debug)]
struct Wish {
    mode: Mode,
    pace: Option<Pace>,
    start: Start,
}

impl Wish {
    /// Reads `mode`, `fps`, `from` and `last`. An error says in words what is wrong with them.
    fn from_query(query: &Query<'_>, default: Mode) -> Result<Self, String> {
        let mode = query.get("mode").map_or(Ok(default), |text| text.parse())?;
        let pace = query.get("fps").map(|text| parse_rate(&text).map(Pace::new)).transpose()?;
        let start = match (query.get("from"), query.get("last")) {
            (None, None) => None,
            (Some(text), None) => {
                let sequence = text.parse().map_err(|_| format!("\"{text}\" is no frame's number (X-Frame-Seq)"))?;
                Some(Start::At(sequence))
            }
            (None, Some(text)) => Some(Start::Since(os::monotonic().saturating_sub(parse_time(&text)?))),
            (Some(_), Some(_)) => return Err("give from or last, not both".into()),
        };
        if pace.is_some() && mode != Mode::Newest {
            return Err("fps thins a stream, so it goes with mode=newest only".into());
        }
        if start.is_some() && mode != Mode::All {
            return Err("from and last begin in the past, so they go with mode=all only".into());
        }
        Ok(Self { mode, pace, start: start.unwrap_or(Start::Next) })
    }

    /// Where its frames come from; an error in words, if it is to begin in the future.
    fn feed(self, hub: &Arc<Hub>) -> Result<Feed, String> {
        Ok(match self.mode {
            Mode::Newest => Feed::Newest { last: 0, pace: self.pace },
            Mode::All => Feed::All(hub.record(self.start).map_err(|newest| {
                format!("from lies ahead of the newest frame, {newest}; the server counts from 1 after a restart")
            })?),
            Mode::Lockstep => Feed::Lockstep(hub.step_in(), 0),
        })
    }
}

/// Where a viewer's frames come from.
enum Feed {
    /// The hub's newest.
    Newest {
        /// The last one seen.
        last: u64,
        /// Lets only some of them through.
        pace: Option<Pace>,
    },
    /// The ring.
    All(Reader),
    /// The lock-step group, and the last frame it gave.
    Lockstep(Stepper, u64),
}

impl Feed {
    /// Waits until `deadline` for the next frame. An error is the end, and what to say about it.
    fn next(&mut self, hub: &Hub, stats: &ClientStats, deadline: Instant) -> Result<Wait, (EndReason, String)> {
        match self {
            Self::Newest { last, pace } => loop {
                let wait = hub.newer_than(*last, deadline);
                let Wait::Frame(frame) = &wait else { return Ok(wait) };
                let before = std::mem::replace(last, frame.sequence());
                stats.count_skipped(before, frame);
                if pace.as_mut().is_none_or(|pace| pace.takes(frame.captured_at().mono)) {
                    return Ok(wait);
                }
            },
            Self::All(reader) => reader.next(deadline).map_err(|lost| {
                let FellBehind { last, oldest } = lost;
                (EndReason::FellBehind, format!("fell behind after frame {last}: the ring begins at {oldest} now"))
            }),
            Self::Lockstep(stepper, last) => {
                let held_up = || (EndReason::HeldUpOthers, format!("held up the others with frame {last}"));
                let wait = stepper.next(deadline).ok_or_else(held_up)?;
                if let Wait::Frame(frame) = &wait {
                    let before = std::mem::replace(last, frame.sequence());
                    stats.count_skipped(before, frame);
                }
                Ok(wait)
            }
        }
    }

    fn send(&self, connection: &Connection, frame: &Frame, stats: &ClientStats) -> Result<(), SendError> {
        let part = match self {
            Self::Newest { .. } => frame.part(),
            Self::All(_) | Self::Lockstep(..) => frame.numbered_part(),
        };
        match self {
            Self::Lockstep(stepper, _) => connection.send_within(part, stepper.patience())?,
            Self::Newest { .. } | Self::All(_) => connection.send(part)?,
        }
        stats.count(frame, part.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route::Route;

    #[test]
    fn modes_have_names() {
        for mode in [Mode::Newest, Mode::All, Mode::Lockstep] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("latest".parse::<Mode>().unwrap_err().contains("lockstep"));
    }

    fn wish(query: &str, default: Mode) -> Result<Wish, String> {
        let target = format!("/stream?{query}");
        let (_, query) = Route::decode(&target).unwrap();
        Wish::from_query(&query, default)
    }

    #[test]
    fn parameters_choose_mode_rate_and_start() {
        for (query, default, mode, is_thinned, start) in [
            ("", Mode::Newest, Mode::Newest, false, Start::Next),
            ("1700000000&bypassCache=1", Mode::All, Mode::All, false, Start::Next),
            ("mode=newest&fps=5", Mode::All, Mode::Newest, true, Start::Next),
            ("fps=0.5", Mode::Newest, Mode::Newest, true, Start::Next),
            ("mode=all&from=17", Mode::Newest, Mode::All, false, Start::At(17)),
            ("mode=lockstep", Mode::Newest, Mode::Lockstep, false, Start::Next),
        ] {
            let wish = wish(query, default).unwrap();
            assert_eq!((wish.mode, wish.pace.is_some(), wish.start), (mode, is_thinned, start), "{query}");
        }
        assert!(matches!(wish("mode=all&last=20s", Mode::Newest).unwrap().start, Start::Since(_)));
    }

    #[test]
    fn wrong_parameters_are_told_in_words() {
        for (query, words) in [
            ("mode=latest", "newest, all or lockstep"),
            ("mode=", "newest, all or lockstep"),
            ("fps=0", "0.1 to 1000"),
            ("fps=", "0.1 to 1000"),
            ("fps=fast", "0.1 to 1000"),
            ("mode=all&fps=5", "mode=newest"),
            ("mode=lockstep&fps=5", "mode=newest"),
            ("from=3", "mode=all"),
            ("last=3s", "mode=all"),
            ("mode=all&from=-3", "X-Frame-Seq"),
            ("mode=all&last=soon", "seconds"),
            ("mode=all&from=3&last=3s", "not both"),
        ] {
            let why = wish(query, Mode::Newest).unwrap_err();
            assert!(why.contains(words), "{query}: {why}");
        }
    }
}
