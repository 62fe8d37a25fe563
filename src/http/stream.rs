//! `/stream`: the live picture as `multipart/x-mixed-replace`, the newest frame whenever the client is ready.

use std::time::{Duration, Instant};

use log::info;
use tiny_http::Method;

use super::App;
use super::connection::{Connection, Gone};
use crate::hub::Wait;

/// The bytes that every known client accepts, contracts.md: HTTP/1.0, so that nobody chunks it; no dashes in the
/// boundary's declaration; the first boundary at once.
const HEAD: &[u8] = b"HTTP/1.0 200 OK\r\n\
    Access-Control-Allow-Origin: *\r\n\
    Cache-Control: no-store, no-cache, must-revalidate, max-age=0\r\n\
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
pub fn serve(app: &App, connection: &Connection, method: &Method) {
    if *method == Method::Head {
        // Whether it arrives changes nothing.
        let _ = connection.send(HEAD);
        return;
    }
    let _watch = app.hub.watch();
    let began = Instant::now();
    info!("viewer came client={}", connection.peer());
    let (mut frames, mut bytes) = (0u64, 0u64);
    let end = run(app, connection, |length| {
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

fn run(app: &App, connection: &Connection, mut sent: impl FnMut(usize)) -> Result<(), Gone> {
    connection.send_both(HEAD, FIRST_BOUNDARY)?;
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
