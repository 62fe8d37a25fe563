//! A lost camera says so in the stream: what viewers get while there are no pictures, and who does not get it (issue 14).

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, is_one_whole_jpeg, request, request_with, wait_until};

const INTERVAL: Duration = Duration::from_secs(5);
/// What a busy machine may add to it.
const LATE: Duration = Duration::from_secs(2);

/// One part with its header.
struct Received {
    head: String,
    jpeg: Vec<u8>,
    at: Instant,
}

impl Received {
    fn is_no_signal(&self) -> bool {
        let lines: Vec<&str> = self.head.lines().collect();
        let is_marked = lines.contains(&"X-Framehub-No-Signal: 1");
        let has_time = lines.iter().any(|line| line.starts_with("X-Timestamp: "));
        assert!(is_marked != has_time, "either a time or the mark: {}", self.head);
        assert!(is_one_whole_jpeg(&self.jpeg), "{}", self.head);
        is_marked
    }

    /// Width and height, as SOF says.
    fn size(&self) -> (u16, u16) {
        let at = self.jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("SOF0");
        let number = |at: usize| u16::from_be_bytes([self.jpeg[at], self.jpeg[at + 1]]);
        (number(at + 7), number(at + 5))
    }

    /// The Exif segment.
    fn exif(&self) -> Option<&[u8]> {
        let at = self.jpeg.windows(6).position(|bytes| bytes == b"Exif\0\0")?;
        Some(&self.jpeg[at..at + 32])
    }
}

struct Viewer(BufReader<TcpStream>);

impl Viewer {
    fn open(server: &TestServer, target: &str) -> Self {
        let mut client = server.connect();
        assert_eq!(client.exchange(request("GET", target)).status, 200, "{target}");
        let mut viewer = Self(client.into_reader());
        assert_eq!(viewer.line(), "--boundarydonotcross");
        viewer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the stream goes on");
        line.strip_suffix("\r\n").expect("a line").to_owned()
    }

    fn next(&mut self) -> Received {
        let mut head = String::new();
        loop {
            match self.line() {
                line if line.is_empty() => break,
                line => head += &format!("{line}\n"),
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let mut jpeg = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut jpeg).expect("the stream goes on");
        assert_eq!([self.line(), self.line()], ["", "--boundarydonotcross"]);
        Received { head, jpeg, at: Instant::now() }
    }

    /// The first part that is, or is not, one without signal.
    fn next_that(&mut self, is_no_signal: bool) -> Received {
        loop {
            let part = self.next();
            if part.is_no_signal() == is_no_signal {
                return part;
            }
        }
    }

    /// Whether nothing comes within this time.
    fn is_silent_for(&mut self, time: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time)).expect("a time-out");
        let is_silent = self.0.fill_buf().is_err();
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).expect("a time-out");
        is_silent
    }
}

/// A file that a synthetic camera looks at, which is not there yet.
fn switch(folder: &tempfile::TempDir) -> (PathBuf, String) {
    let path = folder.path().join("switch");
    let text = path.display().to_string();
    (path, text)
}

#[track_caller]
fn assert_about(time: Duration, expected: Duration) {
    assert!(time + Duration::from_millis(200) >= expected && time <= expected + LATE, "{time:?}, not {expected:?}");
}

#[test]
fn an_unplugged_camera_is_told_to_viewers_of_the_newest_frame_and_to_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plug, path) = switch(&folder);
    let device = format!("synthetic:unplug_file={path}");
    let server = TestServer::start(&["--device", &device, "--size", "320x240", "--replay", "20"]);
    let mut viewer = Viewer::open(&server, "/stream");
    let mut others = ["/stream?mode=all", "/stream?mode=lockstep", "/stream?no_signal=0"]
        .map(|target| (target, Viewer::open(&server, target)));
    let last = viewer.next();
    assert!(!last.is_no_signal());
    fs::write(&plug, "").expect("a file");
    let pulled = Instant::now();
    let readers = others.each_mut().map(|(_, viewer)| {
        // The pictures from before.
        while pulled.elapsed() < Duration::from_secs(1) && !viewer.is_silent_for(Duration::from_millis(300)) {
            assert!(!viewer.next().is_no_signal());
        }
        viewer
    });
    let first = viewer.next_that(true);
    assert_about(first.at - pulled, INTERVAL);
    assert_eq!(first.size(), (320, 240));
    assert!(first.exif().is_none());
    let frames = |text: &str| {
        let after = text.split("\"mode\":\"newest\"").next().expect("its client").rsplit("\"frames\":").next();
        after.and_then(|rest| rest.split(',').next()).and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    let sent = frames(&server.get("/state").text());
    let again = viewer.next();
    assert!(again.is_no_signal() && again.jpeg == first.jpeg, "the same picture again");
    assert_about(again.at - first.at, INTERVAL);
    assert_eq!(frames(&server.get("/state").text()), sent, "it is no frame of the camera");
    server.get("/snapshot").assert_unavailable();
    server.get("/still").assert_unavailable();
    for viewer in readers {
        assert!(viewer.is_silent_for(Duration::from_millis(100)));
    }
    let clip = server.get("/clip").body;
    assert!(!clip.windows(200).any(|bytes| bytes == &first.jpeg[first.jpeg.len() / 2..][..200]), "not in a clip");
    // A newcomer need not wait.
    let mut newcomer = Viewer::open(&server, "/stream?fps=5");
    let came = Instant::now();
    assert!(newcomer.next().is_no_signal());
    assert!(came.elapsed() < Duration::from_secs(1) + LATE, "{:?}", came.elapsed());
    fs::remove_file(&plug).expect("the camera is plugged in");
    let live = viewer.next_that(false);
    assert_eq!(live.size(), (320, 240));
    for (target, mut viewer) in others {
        assert!(!viewer.next().is_no_signal(), "{target}");
    }
}

#[test]
fn a_camera_that_was_never_there_or_starts_slowly_is_told_in_the_size_asked_for() {
    let cases: &[(&[&str], &str)] = &[
        (&["--device", "/dev/does-not-exist", "--size", "1280x720"], "/stream"),
        (&["--device", "/dev/null", "--size", "1280x720"], "/?action=stream"),
        (&["--device", "synthetic:first_ms=30000", "--size", "1280x720"], "/stream"),
        (&["--device", "synthetic:switch_ms=8000", "--size", "1280x720"], "/stream"),
        (&["--device", "/dev/does-not-exist", "--size", "1280x720", "--no-signal", "none"], "/stream?no_signal=1"),
    ];
    thread::scope(|scope| {
        for (args, target) in cases {
            scope.spawn(move || {
                let server = TestServer::start(args);
                let came = Instant::now();
                let part = Viewer::open(&server, target).next();
                assert!(part.is_no_signal() && part.size() == (1280, 720), "{args:?}");
                assert!(part.at - came < INTERVAL + LATE, "{args:?}: {:?}", part.at - came);
            });
        }
    });
}

#[test]
fn a_camera_that_stalls_is_told_and_one_that_is_slow_by_nature_is_not() {
    thread::scope(|scope| {
        for timeout in ["2", "60"] {
            scope.spawn(move || {
                let folder = tempfile::tempdir().expect("a folder");
                let (file, path) = switch(&folder);
                let device = format!("synthetic:stall_file={path}");
                let server = TestServer::start(&["--device", &device, "--size", "320x240", "--stall-timeout", timeout]);
                let mut viewer = Viewer::open(&server, "/stream");
                (0..10).for_each(|_| assert!(!viewer.next().is_no_signal()));
                fs::write(file, "").expect("a file");
                let stalled = Instant::now();
                let part = viewer.next_that(true);
                assert_about(part.at - stalled, INTERVAL);
            });
        }
        // Viewers that get a picture every 6.7 s.
        for (option, target) in [("0.15", "/stream"), ("30", "/stream?fps=0.15")] {
            scope.spawn(move || {
                let server = TestServer::start(&["--size", "320x240", "--max-fps", option]);
                let mut viewer = Viewer::open(&server, target);
                (0..2).for_each(|_| assert!(!viewer.next().is_no_signal()));
            });
        }
        // The camera takes three seconds to switch to a still, and three to come back.
        scope.spawn(|| {
            let server =
                TestServer::start(&["--device", "synthetic:switch_ms=3000", "--size", "320x240", "--idle", "0"]);
            server.wait_log("pictures are coming", PATIENCE);
            let mut viewer = Viewer::open(&server, "/stream");
            assert!(!viewer.next().is_no_signal());
            let mut client = server.connect();
            client.send(request("GET", "/still"));
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(8) {
                assert!(!viewer.next().is_no_signal(), "the last picture is sent again during a still");
            }
            assert_eq!(client.response().status, 200);
        });
    });
}

#[test]
fn it_is_turned_as_the_pictures_are_and_can_be_switched_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plug, path) = switch(&folder);
    let device = format!("synthetic:unplug_file={path}");
    let server = TestServer::start(&["--device", &device, "--size", "320x240", "--rotate", "90"]);
    let none = TestServer::start(&["--device", &device, "--size", "320x240", "--no-signal", "none"]);
    let (mut viewer, mut other) = (Viewer::open(&server, "/stream"), Viewer::open(&none, "/stream"));
    let live = viewer.next();
    assert!(!other.next().is_no_signal());
    fs::write(&plug, "").expect("a file");
    let part = viewer.next_that(true);
    assert_eq!(part.size(), (320, 240), "as it was captured");
    assert!(part.exif().is_some() && part.exif() == live.exif(), "viewers turn both alike");
    while !other.is_silent_for(Duration::from_millis(500)) {
        assert!(!other.next().is_no_signal());
    }
    assert!(other.is_silent_for(Duration::from_secs(2)));
    let refused = server.get("/stream?no_signal=never");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("0 or 1"), "{}", refused.text());
    // Viewers that leave are noticed although nothing is sent.
    drop((viewer, other));
    for server in [server, none] {
        wait_until("nobody looks", PATIENCE, || server.get("/state").text().contains("\"clients\":0"));
    }
}

/// An `<img>` shows a picture whatever the status is, and says by `Accept` that it is one. Fluidd's player asks for one
/// snapshot after the other and stops for ever at one that is not shown.
#[test]
fn a_snapshot_that_cannot_be_had_is_a_picture_for_images_in_pages_and_a_text_for_programs() {
    const IMAGES: [&str; 3] = [
        "image/jxl,image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
        "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        "image/webp,image/avif,image/jxl,image/heic,video/*;q=0.8,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let (plug, path) = switch(&folder);
    let device = format!("synthetic:unplug_file={path},switch_ms=4000");
    let server = TestServer::start(&["--device", &device, "--size", "320x240", "--idle", "0"]);
    let none = TestServer::start(&["--device", &device, "--size", "320x240", "--no-signal", "none"]);
    let take = |server: &TestServer, target: &str, accept: &str| {
        let fields = [("Host", "cam.local:8080"), ("Origin", "http://mainsail.local"), ("Accept", accept)];
        server.connect().exchange(request_with("GET", target, &fields))
    };
    server.wait_log("pictures are coming", PATIENCE);
    let mut client = server.connect();
    client.send(request("GET", "/still"));
    wait_until("a snapshot is too late because of a still", PATIENCE, || {
        let response = take(&server, "/snapshot", IMAGES[0]);
        assert!(is_one_whole_jpeg(&response.body), "{}", response.head);
        response.status == 503
    });
    assert_eq!(client.response().status, 200);
    fs::write(&plug, "").expect("a file");
    take(&server, "/snapshot", "*/*").assert_unavailable();
    for accept in IMAGES {
        let response = take(&server, "/?action=snapshot&cacheBust=1", accept);
        assert_eq!((response.status, response.expect_header("Content-Type")), (503, "image/jpeg"), "{accept}");
        assert!(is_one_whole_jpeg(&response.body) && response.body.len() > 1000, "{}", response.body.len());
        assert_eq!(response.expect_header("X-Framehub-No-Signal"), "1");
        assert_eq!(
            response.expect_header("Access-Control-Allow-Origin"),
            "http://mainsail.local",
            "as crossorigin needs"
        );
        assert!(response.header("X-Timestamp").is_none() && !response.says_close(), "{}", response.head);
    }
    let address_bar =
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8";
    for (server, target, accept) in [
        (&server, "/snapshot", "*/*"),
        (&server, "/snapshot", address_bar),
        (&server, "/snapshot?no_signal=0", IMAGES[0]),
        (&server, "/still", IMAGES[0]),
        (&none, "/snapshot", IMAGES[0]),
    ] {
        take(server, target, accept).assert_unavailable();
    }
    server.get("/snapshot").assert_unavailable();
    fs::remove_file(&plug).expect("the camera is plugged in");
    wait_until("pictures come again", PATIENCE, || take(&server, "/snapshot", IMAGES[0]).status == 200);
}
