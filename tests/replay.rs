//! A recording in place of a camera: what `/clip` and `/stream` give plays back, in a loop, at its rate.

mod support;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, request, stamp_of, wait_until};

fn play(path: &Path, args: &[&str]) -> TestServer {
    TestServer::start(&[&["--device", path.to_str().expect("text")], args].concat())
}

/// A clip of some seconds of the synthetic camera, and the JPEGs in it.
fn clip(folder: &Path) -> (std::path::PathBuf, Vec<Vec<u8>>) {
    let server = TestServer::start(&["--size", "160x120", "--fps", "30", "--replay", "5", "--idle", "0"]);
    let mut viewer = server.stream("/stream");
    let first = viewer.next_part().stamp().seq;
    while viewer.next_part().stamp().seq < first + 20 {}
    let clip = server.get("/clip");
    assert_eq!(clip.status, 200);
    let path = folder.join("clip.mjpeg");
    fs::write(&path, &clip.body).expect("a file");
    let ends: Vec<_> = (2..=clip.body.len()).filter(|at| clip.body[at - 2..*at] == [0xFF, 0xD9]).collect();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    (path, starts.zip(&ends).map(|(start, end)| clip.body[start..*end].to_vec()).collect())
}

/// Every picture, bit by bit, in order, the first again behind the last, and nothing else.
#[track_caller]
fn assert_plays(server: &TestServer, pictures: &[Vec<u8>]) {
    let mut viewer = server.stream("/stream");
    let mut next = || {
        let shown = viewer.next_part().jpeg;
        pictures.iter().position(|picture| *picture == shown).expect("a picture of the recording")
    };
    let (mut seen, mut last, mut neighbours, mut steps) = (vec![false; pictures.len()], next(), 0, 0);
    while seen.contains(&false) {
        let now = next();
        seen[now] = true;
        // A busy machine may show every other one.
        neighbours += usize::from(now == (last + 1) % pictures.len());
        (last, steps) = (now, steps + 1);
        assert!(steps < 500, "not all are shown");
    }
    assert!(neighbours * 2 > steps, "in order: {neighbours} of {steps}");
}

/// So many pictures take a second, as far as a busy machine lets them.
#[track_caller]
fn assert_takes_a_second(server: &TestServer, pictures: u32) {
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    let began = Instant::now();
    (0..pictures).for_each(|_| _ = viewer.next_part());
    let took = began.elapsed().as_secs_f64();
    assert!((0.6..4.0).contains(&took), "{pictures} pictures at {pictures} a second took {took} s");
}

#[test]
fn a_clip_plays_in_a_loop_picture_by_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, pictures) = clip(folder.path());
    assert!(pictures.len() >= 20);
    let server = play(&path, &["--fps", "50"]);
    assert_plays(&server, &pictures);
    let state = server.get("/state").text();
    assert!(state.contains("clip.mjpeg") && state.contains("160"), "{state}");
    // A still is a picture of the stream.
    let still = server.get("/still");
    assert!(still.status == 200 && pictures.iter().any(|picture| stamp_of(picture) == stamp_of(&still.body)));
}

/// `curl /stream > file` plays at the rate at which it was recorded, which only its capture times tell.
#[test]
fn a_recorded_stream_plays_at_its_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recording.multipart");
    let recorder = TestServer::start(&["--size", "160x120", "--fps", "5"]);
    let mut recorded = recorder.connect();
    recorded.send(request("GET", "/stream"));
    let mut bytes = vec![0; 60_000];
    recorded.into_reader().read_exact(&mut bytes).expect("a stream");
    fs::write(&path, &bytes).expect("a file");
    let server = play(&path, &[]);
    assert_takes_a_second(&server, 5);
}

/// An AVI file says its rate itself.
#[test]
fn an_avi_file_plays_at_its_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, pictures) = clip(folder.path());
    let mut avi = b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrlavih\x38\0\0\0".to_vec();
    avi.extend([0; 56]);
    avi.extend(b"LIST\0\0\0\0strlstrh\x38\0\0\0vidsMJPG");
    avi.extend([0; 12]);
    avi.extend([1u32, 4].iter().flat_map(|number| number.to_le_bytes()));
    avi.extend([0; 28]);
    for picture in &pictures {
        avi.extend(b"00dc");
        avi.extend((picture.len() as u32).to_le_bytes());
        avi.extend(picture);
        avi.resize(avi.len().next_multiple_of(2), 0);
    }
    let path = folder.path().join("clip.AVI");
    fs::write(&path, &avi).expect("a file");
    let server = play(&path, &[]);
    assert_takes_a_second(&server, 4);
    let fast = play(&path, &["--fps", "100"]);
    assert_plays(&fast, &pictures);
}

/// What `/clip?format=avi` writes plays back, too, every picture of it, at its own rate.
#[test]
fn an_avi_clip_plays_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = TestServer::start(&["--size", "160x120", "--fps", "5", "--replay", "5", "--idle", "0"]);
    let mut viewer = server.stream("/stream");
    let mut recorded: Vec<u64> = (0..8).map(|_| viewer.next_part().stamp().seq).collect();
    let clip = server.get("/clip?format=avi");
    assert_eq!((clip.status, &clip.body[..4]), (200, &b"RIFF"[..]));
    let path = folder.path().join("clip.avi");
    fs::write(&path, &clip.body).expect("a file");
    let server = play(&path, &[]);
    assert_takes_a_second(&server, 5);
    let mut viewer = server.stream("/stream");
    // Three rounds: a busy machine may leave some out.
    for _ in 0..3 * recorded.len() {
        let shown = viewer.next_part().stamp().seq;
        recorded.retain(|picture| *picture != shown);
    }
    assert!(recorded.len() <= 1, "never shown: {recorded:?}");
}

/// A directory of pictures, in the order of their names, whatever else is in it and whatever their sizes are.
#[test]
fn a_directory_plays_in_the_order_of_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (clip, mut pictures) = clip(folder.path());
    let other = TestServer::start(&["--size", "320x240"]).get("/snapshot").body;
    pictures.truncate(3);
    pictures.insert(1, other);
    let directory = folder.path().join("pictures");
    fs::create_dir(&directory).expect("a folder");
    for (number, picture) in pictures.iter().enumerate() {
        fs::write(directory.join(format!("{number:03}.{}", ["jpg", "JPEG"][number % 2])), picture).expect("a file");
    }
    fs::write(directory.join("000.txt"), "no picture").expect("a file");
    let server = play(&directory, &["--fps", "20"]);
    assert_plays(&server, &pictures);
    drop(server);
    // One picture alone, and a file without an end of a name.
    for (name, picture) in [("still.jpg", &pictures[0]), ("picture", &pictures[2])] {
        let path = folder.path().join(name);
        fs::write(&path, picture).expect("a file");
        assert_plays(&play(&path, &["--fps", "20"]), std::slice::from_ref(picture));
    }
    drop(clip);
}

/// What is absent is a camera that is not there yet; what is no recording is refused in words; both are looked at again.
#[test]
fn a_recording_may_come_later_and_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let (clip, pictures) = clip(folder.path());
    let path = folder.path().join("later.mjpeg");
    let server = play(&path, &["--fps", "20", "--idle", "0.2"]);
    let response = server.get("/snapshot");
    response.assert_unavailable();
    assert!(response.text().contains("later.mjpeg"), "{}", response.text());
    fs::write(&path, "<html>no recording</html>").expect("a file");
    wait_until("the refusal is told", PATIENCE, || server.get("/snapshot").text().contains("no JPEG"));
    fs::copy(&clip, &path).expect("a file");
    wait_until("the recording plays", PATIENCE, || server.get("/snapshot").status == 200);
    // Another file under the same name plays from the next opening on.
    wait_until("it is closed", PATIENCE, || server.get("/state").text().contains("asleep"));
    fs::write(&path, &pictures[0]).expect("a file");
    wait_until("the other one plays", PATIENCE, || {
        let shown = server.stream("/stream").next_part();
        shown.jpeg == pictures[0] && server.stream("/stream").next_part().jpeg == pictures[0]
    });
    // Memory does not grow with the file.
    assert!(server.peak_rss_kib() < 60_000, "{} KiB", server.peak_rss_kib());
    assert!(server.cpu_time() < Duration::from_secs(5));
}
