//! `/stream`: the live picture as `multipart/x-mixed-replace`, the newest frame whenever the client is ready.

use std::time::{Duration, Instant};

use log::info;
use tiny_http::Method;

use super::App;
use super::connection::{Connection, Gone};
use super::head::Head;
use crate::hub::Wait;

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
/// Without a frame for so long, the client's socket is looked at: it may have left.
const LOOK: Duration = Duration::from_secs(1);

/// Streams until the client leaves, stalls, or the server stops.
pub fn serve(app: &App, connection: &Connection, request: &Head) {
    let head = head(app, request);
    if request.method == Method::Head {
        // Whether it arrives changes nothing.
        let _ = connection.send(&head);
        return;
    }
    let _watch = app.hub.watch();
    let began = Instant::now();
    info!("viewer came client={}", connection.peer());
    let (mut frames, mut bytes) = (0u64, 0u64);
    let end = run(app, connection, &head, |length| {
        frames += 1;
        bytes += length as u64;
    });
    let reason = end.map_or_else(Gone::reason, |()| "server stops");
    let seconds = began.elapsed().as_secs_f64();
    info!(
        "viewer left client={} reason=\"{reason}\" frames={frames} bytes={bytes} seconds={seconds:.1}",
        connection.peer()
    );
}

/// The head of the answer.
pub fn head(app: &App, request: &Head) -> Vec<u8> {
    let cors = app.gate.cors(request.field("Origin")).into_iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("{STATUS}{}{FIELDS}", cors.collect::<String>()).into_bytes()
}

fn run(app: &App, connection: &Connection, head: &[u8], mut sent: impl FnMut(usize)) -> Result<(), Gone> {
    connection.send_both(head, FIRST_BOUNDARY)?;
    let mut last = 0;
    loop {
        match app.hub.newer_than(last, Instant::now() + LOOK) {
            Wait::Frame(frame) => {
                last = frame.sequence();
                connection.send(frame.part())?;
                sent(frame.part().len());
            }
            Wait::Nothing if connection.has_left() => return Err(Gone::Left),
            Wait::Nothing => {}
            Wait::Closed => return connection.send(LAST_BOUNDARY),
        }
    }
}
