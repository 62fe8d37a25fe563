//! The synthetic camera: newcomers and nearly all tests use it, so it has to behave like a camera, and its stamps have
//! to be true.

mod support;

use support::{TestServer, stamp_of};

/// JPEGs are as long as a camera's, so that what is measured with them holds for cameras.
#[test]
fn pictures_weigh_what_a_cameras_weigh() {
    for (size, kilobytes) in [("640x480", 40), ("1280x720", 100), ("1920x1080", 220)] {
        let server = TestServer::start(&["--size", size]);
        let weight = server.stream("/stream").next_part().jpeg.len();
        let about = kilobytes * 700..kilobytes * 1_300;
        assert!(about.contains(&weight), "{size}: {weight} bytes, about {kilobytes} kB wanted");
    }
}

#[test]
fn every_picture_moves() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut parts = server.stream("/stream");
    let mut last = parts.next_part().jpeg;
    for _ in 0..20 {
        let jpeg = parts.next_part().jpeg;
        assert_ne!(without_stamp(&jpeg), without_stamp(&last));
        last = jpeg;
    }
}

/// The picture's data, behind the segment that differs in any case.
fn without_stamp(jpeg: &[u8]) -> &[u8] {
    let scan = jpeg.windows(2).position(|pair| pair == [0xFF, 0xDA]).expect("a start of scan");
    &jpeg[scan..]
}

/// Frames are due at the start plus whole periods, however late the one before it was: no drift. On a busy machine
/// frames come late, but the most punctual of each half tell where the beat is.
#[test]
fn pace_is_kept_by_absolute_deadlines() {
    let server = TestServer::start(&["--size", "320x240", "--fps", "25"]);
    let mut parts = server.stream("/stream");
    let period_ns = 40_000_000;
    let first = parts.next_part().stamp();
    let mut beat = || {
        let lateness = (0..60).map(|_| {
            let since_first = (parts.next_part().stamp().mono_ns - first.mono_ns) as i64;
            // Beats at which the machine had no time are left out, so the nearest beat is the one that counts.
            (since_first + period_ns / 2).rem_euclid(period_ns) - period_ns / 2
        });
        lateness.min().expect("60 of them")
    };
    let drift = beat().abs_diff(beat());
    assert!(drift < 5_000_000, "{drift} ns of drift within 60 frames");
}

#[test]
fn any_size_up_to_4k() {
    for size in ["16x16", "33x17", "160x120", "641x479", "3840x2160"] {
        let server = TestServer::start(&["--size", size, "--fps", "5"]);
        let part = server.stream("/stream").next_part();
        stamp_of(&part.jpeg).unwrap_or_else(|e| panic!("{size}: {e}"));
    }
}
