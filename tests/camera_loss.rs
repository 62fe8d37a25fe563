//! No camera is no reason not to run: the server is up, says what is missing, and goes on looking.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::{PATIENCE, SNAPSHOT_LIMIT, TestServer, request, wait_until};

const MISSING: &str = "/dev/does-not-exist";

#[test]
fn the_server_is_up_and_says_so_in_words() {
    let server = TestServer::start(&["--device", MISSING]);
    assert_eq!(server.get("/").status, 200, "the page is there all the same");
    assert_eq!(server.get("/nowhere").status, 404);
    server.get("/snapshot").assert_unavailable();
    let line = server.wait_log(MISSING, PATIENCE);
    assert!(line.to_lowercase().contains("no such"), "the log says why: {line}");
    let health = server.get("/healthz");
    assert!([200, 503].contains(&health.status), "{}", health.head);
}

/// While nothing changes, nothing is logged, however often the camera is tried.
#[test]
fn a_missing_camera_is_logged_once() {
    let server = TestServer::start(&["--device", MISSING]);
    let _viewer = server.connect().stream(request("GET", "/stream"));
    server.get("/snapshot").assert_unavailable();
    let complaints = || server.log().iter().filter(|line| line.contains(MISSING)).count();
    let before = complaints();
    assert!(before <= 2, "one line at the start, one at the first try: {:?}", server.log());
    server.get("/snapshot").assert_unavailable();
    server.get("/snapshot").assert_unavailable();
    assert_eq!(complaints(), before, "{:?}", server.log());
}

/// What is there but is no camera is refused by words, too.
#[test]
fn what_is_no_camera_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("not-a-camera");
    fs::write(&file, "text").expect("a file");
    let loop_link = folder.path().join("loop");
    std::os::unix::fs::symlink(&loop_link, &loop_link).expect("a link");
    let folder = folder.path().to_path_buf();
    for device in [file.as_path(), loop_link.as_path(), folder.as_path(), "/dev/null".as_ref(), "/dev/full".as_ref()] {
        let device = device.to_str().expect("text");
        let server = TestServer::start(&["--device", device]);
        let start = Instant::now();
        let response = server.get("/snapshot");
        response.assert_unavailable();
        assert!(start.elapsed() <= SNAPSHOT_LIMIT, "{device}: {:?}", start.elapsed());
        assert!(response.text().contains(device), "{}", response.text());
        server.assert_answers();
    }
}

/// Trying again and again costs neither processor time nor descriptors.
#[test]
fn waiting_for_a_camera_is_idle() {
    let server = TestServer::start(&["--device", MISSING]);
    let mut viewers: Vec<_> = (0..5).map(|_| server.connect().stream(request("GET", "/stream")).1).collect();
    for viewer in &mut viewers {
        viewer.first_boundary().expect("the first boundary");
    }
    let (before, cpu) = (server.footprint(), server.cpu_time());
    let watch = Duration::from_secs(3);
    std::thread::sleep(watch);
    let spent = server.cpu_time() - cpu;
    assert!(spent < watch / 20, "{spent:?} of CPU in {watch:?} of waiting");
    // A descriptor may be open at the moment of a try.
    wait_until("the descriptors of tries are closed", PATIENCE, || {
        server.footprint().descriptors <= before.descriptors
    });
}

/// With nothing plugged in, `auto` says so and waits.
#[test]
fn auto_without_any_camera() {
    let has_nodes = fs::read_dir("/dev").is_ok_and(|mut nodes| {
        nodes.any(|node| node.is_ok_and(|node| node.file_name().to_string_lossy().starts_with("video")))
    });
    if has_nodes {
        eprintln!("skipped: this machine has a /dev/video*");
        return;
    }
    let server = TestServer::start(&["--device", "auto"]);
    let response = server.get("/snapshot");
    response.assert_unavailable();
    assert!(response.text().to_lowercase().contains("camera"), "{}", response.text());
    let said_so = |line: &String| line.to_lowercase().contains("no ") && line.to_lowercase().contains("camera");
    wait_until("the log says that there is no camera", PATIENCE, || server.log().iter().any(said_so));
}
