//! What the tests in this folder share: the real binary as a child process, a raw client that sees every byte,
//! a multipart reader that forgives nothing, and the counts of the short and the long run.
//!
//! Nothing here knows the library: the tests talk to framehub as the world does, by arguments, sockets, signals
//! and its log.

// Each file in tests/ is its own crate and uses only a part of this module.
#![allow(dead_code, unused_imports)]

mod http;
mod multipart;
mod server;
mod slow;
pub mod sys;

pub use http::{Client, Response, request, request_with};
pub use multipart::{
    Part, PartReader, STREAM_HEAD_LINES, Stamp, assert_capture_time, is_one_whole_jpeg, parse_timestamp, stamp_of,
};
pub use server::{Footprint, TestServer, program};
pub use slow::{SlowReader, narrow_connection, stalled_viewer};

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that should happen at once. Only a hang reaches it: the tests share two cores with
/// other work. Promises that name their own time are asserted by that time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The promise of `/snapshot`: a picture or a refusal within this time.
pub const SNAPSHOT_LIMIT: Duration = Duration::from_secs(3);

/// The promise of SIGTERM and SIGINT: the process is gone within this time.
pub const EXIT_LIMIT: Duration = Duration::from_secs(1);

/// True with `FRAMEHUB_LONG=1`: full counts. Otherwise about a tenth of them.
pub fn is_long_run() -> bool {
    std::env::var_os("FRAMEHUB_LONG").is_some_and(|value| value == "1")
}

fn count(long: usize, short: usize) -> usize {
    if is_long_run() { long } else { short }
}

/// Clients that send a request and reset the connection at once.
pub fn resets() -> usize {
    count(10_000, 1_000)
}

/// Viewers of the memory test.
pub fn crowd() -> usize {
    count(1_000, 100)
}

/// Rounds of the storm in which 200 clients join and leave.
pub fn storm_rounds() -> usize {
    count(10, 1)
}

/// Bytes of the endless header line.
pub fn flood_bytes() -> usize {
    count(200_000_000, 20_000_000)
}

/// Snapshots taken over one kept connection.
pub fn snapshots_in_a_row() -> usize {
    count(300, 30)
}

/// Looks again every 20 ms until `holds` does, or panics with `what` after `deadline`.
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "still not after {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
