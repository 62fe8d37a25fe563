//! The camera is open for those who look and for nobody else: its light is off when nobody does.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, request, wait_until};

/// The light is on from here; merely looking at what is there, as at the start, does not turn it on.
const STREAMS: &str = "streaming mode=";
const CLOSED: &str = "camera closed";

fn times(server: &TestServer, event: &str) -> usize {
    server.log().iter().filter(|line| line.contains(event)).count()
}

/// The synthetic camera works for each picture, so a process that does nothing has no camera.
fn assert_at_rest(server: &TestServer) {
    let watch = Duration::from_secs(2);
    let before = server.cpu_time();
    thread::sleep(watch);
    let spent = server.cpu_time() - before;
    assert!(spent <= Duration::from_millis(20), "{spent:?} of CPU in {watch:?} although nobody looks");
}

#[test]
fn nobody_looks_so_it_stays_dark() {
    let server = TestServer::start(&[]);
    for target in ["/", "/healthz", "/favicon.ico", "/nowhere"] {
        server.get(target);
    }
    // Learning the head of a stream is not looking at it.
    let mut client = server.connect();
    client.send(request("HEAD", "/stream"));
    client.try_response("HEAD").expect("a response");
    assert_at_rest(&server);
    assert_eq!(times(&server, STREAMS), 0, "{:?}", server.log());
}

/// HEAD asks what GET would say, and does nothing.
#[test]
fn head_neither_opens_nor_switches_the_camera() {
    let server = TestServer::start(&["--size=320x240", "--still-size=640x480", "--replay=5"]);
    let mut client = server.connect();
    let mut heads = |expected: &[(&str, u16)]| {
        for (target, status) in expected {
            client.send(request("HEAD", target));
            let head = client.try_response("HEAD").expect("a response");
            assert_eq!(head.status, *status, "{target}: {}", head.head);
        }
    };
    let targets = ["/snapshot", "/?action=snapshot", "/still", "/full_res", "/snapshot?size=max", "/warm?for=60"];
    let targets =
        [&targets[..], &["/controls", "/controls?brightness=9", "/input.json", "/program.json", "/state"]].concat();
    server.wait_log("camera found", PATIENCE);
    heads(&targets.iter().map(|target| (*target, 200)).collect::<Vec<_>>());
    heads(&[("/clip", 503), ("/nowhere", 404)]);
    assert_at_rest(&server);
    assert_eq!((times(&server, STREAMS), times(&server, "camera opened")), (0, 0), "{:?}", server.log());

    let mut viewer = server.stream("/stream");
    viewer.next_part();
    heads(&[("/still", 200), ("/snapshot?size=max", 200), ("/warm", 200), ("/snapshot", 200), ("/clip", 200)]);
    drop(viewer);
    wait_until("the camera is closed, since nothing keeps it warm", PATIENCE, || times(&server, CLOSED) == 1);
    assert_eq!(times(&server, "still taken"), 0, "{:?}", server.log());
}

/// Nobody turns the light on for an hour; whoever needs more than a minute asks again.
#[test]
fn kept_warm_for_a_minute_at_most() {
    let server = TestServer::start(&["--size=320x240", "--idle=0.3"]);
    for (target, expected) in [
        ("/warm", "10 s"),
        ("/warm?for=2.5", "2.5 s"),
        ("/warm?for=60s", "60 s"),
        ("/warm?for=61", "60 s"),
        ("/warm?for=3600s", "60 s"),
        ("/warm?for=1e300", "60 s"),
    ] {
        let response = server.get(target);
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!((response.status, text), (200, format!("the camera is kept warm for {expected}\n")), "{target}");
    }
    for wrong in ["/warm?for=-1", "/warm?for=NaN", "/warm?for=", "/warm?for=long"] {
        assert_eq!(server.get(wrong).status, 400, "{wrong}");
    }
    let server = TestServer::start(&["--size=320x240", "--idle=0.3"]);
    server.get("/warm?for=1");
    let start = Instant::now();
    thread::sleep(Duration::from_millis(700));
    server.get("/warm?for=1");
    wait_until("the camera is closed", PATIENCE, || times(&server, CLOSED) == 1);
    assert!(start.elapsed() > Duration::from_millis(1_600), "renewed: {:?}", start.elapsed());
}

#[test]
fn started_once_for_three_at_the_same_moment() {
    let server = TestServer::start(&["--size", "320x240"]);
    thread::scope(|scope| {
        scope.spawn(|| server.stream("/stream").next_part());
        scope.spawn(|| server.stream("/stream").next_part());
        scope.spawn(|| assert_eq!(server.get("/snapshot").status, 200));
    });
    assert_eq!(times(&server, STREAMS), 1, "{:?}", server.log());
}

#[test]
fn closed_some_time_after_the_last_has_left() {
    let server = TestServer::start(&["--size", "320x240", "--idle", "1"]);
    for turn in 1..=2 {
        let mut viewer = server.stream("/stream");
        viewer.next_part();
        assert_eq!(server.get("/snapshot").status, 200);
        // A viewer that goes on watching keeps it open, however long ago the last request was.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1_500) {
            viewer.next_part();
        }
        assert_eq!((times(&server, STREAMS), times(&server, CLOSED)), (turn, turn - 1), "{:?}", server.log());
        let left = Instant::now();
        drop(viewer);
        wait_until("the camera is closed", PATIENCE, || times(&server, CLOSED) == turn);
        assert!(left.elapsed() > Duration::from_millis(900), "not before its second: {:?}", left.elapsed());
        assert!(left.elapsed() < Duration::from_secs(5), "not long after it: {:?}", left.elapsed());
        assert_at_rest(&server);
    }
}

/// A timelapse that asks again in time finds the camera open.
#[test]
fn kept_open_between_two_requests() {
    let server = TestServer::start(&["--size", "320x240", "--idle", "4"]);
    for _ in 0..3 {
        assert_eq!(server.get("/snapshot").status, 200);
        thread::sleep(Duration::from_millis(700));
    }
    assert_eq!((times(&server, STREAMS), times(&server, CLOSED)), (1, 0), "{:?}", server.log());
}

#[test]
fn idle_0_never_closes_it() {
    let server = TestServer::start(&["--size", "320x240", "--idle", "0"]);
    assert_eq!(server.get("/snapshot").status, 200);
    let before = server.cpu_time();
    thread::sleep(Duration::from_secs(3));
    assert!(server.cpu_time() > before, "it goes on taking pictures");
    assert_eq!((times(&server, STREAMS), times(&server, CLOSED)), (1, 0), "{:?}", server.log());
}
