//! Snapshots: a picture exposed after the request, quickly, with its time and number; or a refusal in words.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::{
    Client, Response, SNAPSHOT_LIMIT, Stamp, TestServer, assert_capture_time, is_one_whole_jpeg, parse_timestamp,
    request, snapshots_in_a_row, stamp_of, sys,
};

/// Checks everything a snapshot promises on any response, and returns the picture's own stamp.
#[track_caller]
fn check_picture(response: &Response) -> Stamp {
    assert_eq!(response.status, 200, "{} {}", response.head, response.text());
    assert_eq!(response.expect_header("Content-Type"), "image/jpeg");
    assert_eq!(response.expect_header("Vary"), "Origin");
    assert!(response.expect_header("Cache-Control").contains("no-store"));
    assert_eq!(response.expect_header("Content-Length"), response.body.len().to_string());
    assert!(is_one_whole_jpeg(&response.body), "the body is one whole JPEG");
    response.expect_header("X-Frame-Seq").parse::<u64>().expect("X-Frame-Seq is a number");
    stamp_of(&response.body).expect("the synthetic camera's stamp")
}

/// Takes a snapshot as a client with a clock: exposed after the request, in time, and with the right timestamp.
#[track_caller]
fn take(client: &mut Client, target: &str) -> (Response, Stamp) {
    let (start, before) = (Instant::now(), sys::monotonic_ns());
    let response = client.exchange(request("GET", target));
    let took = start.elapsed();
    let stamp = check_picture(&response);
    assert!(stamp.mono_ns > before, "{target}: exposed {} ns before the request", before - stamp.mono_ns);
    assert!(took <= SNAPSHOT_LIMIT, "{target} took {took:?}");
    assert_timestamp_is_capture_time(&response, stamp);
    (response, stamp)
}

#[track_caller]
fn assert_timestamp_is_capture_time(response: &Response, stamp: Stamp) {
    let header = response.expect_header("X-Timestamp");
    assert_capture_time(parse_timestamp(header).expect("seconds with microseconds"), stamp);
}

#[test]
fn exposed_after_the_request_from_a_cold_camera() {
    for _ in 0..3 {
        let server = TestServer::start(&[]);
        take(&mut server.connect(), "/snapshot");
        // Of the camera that is open now, without time to settle: the newest picture is from before the request.
        take(&mut server.connect(), "/snapshot?settle=0");
    }
}

#[test]
fn exposed_after_the_request_while_others_watch() {
    let server = TestServer::start(&["--fps", "10"]);
    let mut viewer = server.stream("/stream");
    for _ in 0..10 {
        // A frame has just been published, so a stale response would be at hand.
        viewer.next_part();
        take(&mut server.connect(), "/snapshot?settle=0");
    }
}

#[test]
fn many_over_one_kept_connection() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    let (mut last, mut last_header) = (None, 0);
    for turn in 0..snapshots_in_a_row() {
        // Mainsail's adaptive mode asks like this, one after the other.
        let (response, stamp) = take(&mut client, &format!("/snapshot?bypassCache={turn}"));
        assert!(!response.says_close(), "{}", response.head);
        let header: u64 = response.expect_header("X-Frame-Seq").parse().expect("a number");
        assert!(last < Some(stamp.seq) && (turn == 0 || header > last_header), "a newer picture each time");
        (last, last_header) = (Some(stamp.seq), header);
    }
}

#[test]
fn every_name_of_the_snapshot() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    for target in [
        "/snapshot",
        "/snapshot.jpg",
        "/jpg",
        "/?action=snapshot",
        "/?action=snapshot&timestamp=1700000000000",
        "/?action=snapshot&1700000000000",
        "/snapshot?time=1&bypassCache=2&cacheBust=3&unknown",
        "/snapshot?&&=&",
        "/snapshot?",
    ] {
        take(&mut client, target);
    }
}

/// While a still takes longer than a silent camera may, the server is healthy, and a snapshot is told soon why it gets none.
#[test]
fn a_long_still_is_no_fault_of_the_camera() {
    let server = TestServer::start(&["--still-settle=1000", "--still-deadline=17"]);
    take(&mut server.connect(), "/snapshot");
    thread::scope(|scope| {
        let start = Instant::now();
        let still = scope.spawn(|| server.connect().exchange(request("GET", "/still")));
        let mut refusals = 0;
        while !still.is_finished() {
            let (asked, refusal) = (Instant::now(), server.get("/snapshot?settle=0"));
            let health = server.get("/healthz");
            assert_eq!(health.status, 200, "after {:?}: {}", start.elapsed(), health.text());
            if refusal.status == 503 {
                refusals += 1;
                assert_eq!(refusal.expect_header("Retry-After"), "1");
                assert!(refusal.text().contains("a full-resolution still is being taken"), "{}", refusal.text());
                assert!((2.7..SNAPSHOT_LIMIT.as_secs_f64()).contains(&asked.elapsed().as_secs_f64()));
            }
        }
        assert!(refusals >= 5 && start.elapsed() > Duration::from_secs(16), "{refusals} in {:?}", start.elapsed());
        let still = still.join().expect("a response");
        assert_eq!((still.status, still.expect_header("X-Settled")), (200, "0"));
    });
}

/// At one frame a second a new picture takes up to a second, and the newest is there at once. (`settle=0`, since a
/// camera that was just opened is given time to find the right brightness.)
#[test]
fn max_age_takes_a_recent_picture() {
    let server = TestServer::start(&["--size", "320x240", "--fps", "1"]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    for _ in 0..2 {
        let newest = viewer.next_part().stamp();
        // So that the time of capture and that of the response differ.
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        let response = server.get("/snapshot?max_age=5000&settle=0");
        assert!(start.elapsed() < Duration::from_millis(600), "took {:?}", start.elapsed());
        let stamp = check_picture(&response);
        assert_eq!(stamp, newest, "the picture that was there");
        assert_timestamp_is_capture_time(&response, stamp);
    }
    // Too old for this one: half a frame period after the newest picture, only the next one will do.
    let newest = viewer.next_part().stamp();
    thread::sleep(Duration::from_millis(500));
    let before = sys::monotonic_ns();
    let stamp = check_picture(&server.get("/snapshot?max_age=100&settle=0"));
    assert!(stamp.seq > newest.seq && stamp.mono_ns >= before - 100_000_000, "at most 100 ms old");
    take(&mut server.connect(), "/snapshot?max_age=0");
}

/// The camera is slower than the promise: a refusal in time, not a picture too late.
#[test]
fn never_later_than_three_seconds() {
    let server = TestServer::start(&["--device", "/dev/does-not-exist"]);
    let mut client = server.connect();
    for target in ["/snapshot", "/?action=snapshot", "/snapshot?max_age=1000"] {
        let start = Instant::now();
        let response = client.exchange(request("GET", target));
        assert!(start.elapsed() <= SNAPSHOT_LIMIT, "{target} took {:?}", start.elapsed());
        response.assert_unavailable();
        assert!(response.text().contains("/dev/does-not-exist"), "the reason names the device: {:?}", response.text());
        assert_eq!(response.expect_header("Vary"), "Origin");
        if response.says_close() {
            client = server.connect();
        }
    }
}

#[test]
fn head_mirrors_get() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    let names = |response: &Response| response.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let got = client.exchange(request("GET", "/snapshot"));
    client.send(request("HEAD", "/snapshot"));
    let head = client.try_response("HEAD").expect("a response");
    assert_eq!(head.status, 200);
    assert_eq!(names(&head), names(&got));
    assert_eq!(head.expect_header("Content-Type"), "image/jpeg");
    let length: usize = head.expect_header("Content-Length").parse().expect("a number");
    assert!(length > 5_000, "the length of a picture, {length}");
    // The connection is still in step: no body came with the HEAD.
    take(&mut client, "/snapshot");
}

#[test]
fn connection_close_is_honoured() {
    let server = TestServer::start(&["--size", "320x240"]);
    for header in [
        "Connection: close",
        "connection: Close",
        "Connection: keep-alive, close",
        "Connection: keep-alive\r\nConnection: close",
    ] {
        let mut client = server.connect();
        let response = client.exchange(format!("GET /snapshot HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n"));
        check_picture(&response);
        assert!(response.says_close(), "{header}: {}", response.head);
        client.assert_closed();
    }
}

#[test]
fn http_1_0_closes() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    check_picture(&client.exchange("GET /snapshot HTTP/1.0\r\n\r\n"));
    client.assert_closed();
}

/// A picture leaves the wire unchunked, whatever the client would accept.
#[test]
fn never_chunked() {
    let server = TestServer::start(&["--size", "1280x720"]);
    let mut client = server.connect();
    let response = client.exchange("GET /snapshot HTTP/1.1\r\nHost: x\r\nTE: chunked, trailers\r\n\r\n");
    check_picture(&response);
    assert!(response.body.len() > 32 * 1024, "above the size from which tiny_http would chunk");
}

/// Several at once on a cold camera, each with its own request time.
#[test]
fn several_at_once() {
    let server = TestServer::start(&[]);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| take(&mut server.connect(), "/snapshot"));
        }
    });
}

/// A client that takes its picture slowly still gets it whole.
#[test]
fn a_slow_client_gets_it_whole() {
    use std::io::Read;
    let server = TestServer::start(&["--size", "1280x720"]);
    let mut client = Client::over(support::narrow_connection(server.address(), 16 * 1024));
    client.send("GET /snapshot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut bytes = Vec::new();
    support::SlowReader::new(client.into_socket(), 50_000).read_to_end(&mut bytes).expect("the whole response");
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let (head, body) = (String::from_utf8_lossy(&bytes[..head]), &bytes[head..]);
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{} bytes came:\n{head}", body.len());
    assert!(is_one_whole_jpeg(body), "{} bytes", body.len());
}
