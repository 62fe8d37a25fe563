//! The live stream: golden bytes on the wire, every picture once and in order, under all its names.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::{Footprint, STREAM_HEAD_LINES, TestServer, assert_capture_time, request, request_with};

#[test]
fn response_header_is_golden() {
    let server = TestServer::start(&[]);
    let (response, mut parts) = server.connect().stream(request("GET", "/stream"));
    let (status_line, rest) = response.head.split_once("\r\n").expect("a status line");
    assert!(["HTTP/1.0 200 OK", "HTTP/1.1 200 OK"].contains(&status_line), "{status_line}");
    assert_eq!(rest, STREAM_HEAD_LINES);
    parts.next_part();
}

#[test]
fn parts_are_golden_and_in_order() {
    let server = TestServer::start(&[]);
    let mut parts = server.stream("/stream");
    let mut last = parts.next_part();
    for _ in 0..30 {
        let part = parts.next_part();
        assert!(part.stamp().seq > last.stamp().seq, "{:?} after {:?}", part.stamp(), last.stamp());
        assert!(part.stamp().mono_ns > last.stamp().mono_ns);
        assert!(part.captured_at > last.captured_at);
        last = part;
    }
}

/// `fetch` in Safari fails on `multipart/x-mixed-replace`, so Mainsail's and Fluidd's players were black there (issue 14).
#[test]
fn safari_scripts_get_the_same_bytes_as_multipart_mixed() {
    let server = TestServer::start(&["--size", "320x240"]);
    let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) \
        Version/18.1 Safari/605.1.15";
    let chrome =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";
    let [replace, mixed] =
        ["x-mixed-replace", "mixed"].map(|kind| format!("multipart/{kind};boundary=boundarydonotcross"));
    for (target, user_agent, accept, media_type) in [
        ("/stream", safari, "*/*", &mixed),
        ("/?action=stream&cacheBust=1", safari, "*/*", &mixed),
        ("/stream", safari, "image/webp,image/*;q=0.8,*/*;q=0.5", &replace),
        ("/stream?type=mixed", safari, "image/webp,image/*;q=0.8,*/*;q=0.5", &mixed),
        ("/stream?type=x-mixed-replace", safari, "*/*", &replace),
        ("/stream", chrome, "*/*", &replace),
        ("/stream?type=mixed", chrome, "*/*", &mixed),
        ("/stream", "curl/8.10.1", "*/*", &replace),
    ] {
        for method in ["GET", "HEAD"] {
            let request = request_with(method, target, &[("User-Agent", user_agent), ("Accept", accept)]);
            let mut client = server.connect();
            client.send(request);
            let response = client.try_response(method).expect("a response");
            assert_eq!(response.expect_header("Content-Type"), media_type, "{target} {user_agent} {accept}");
            let is_chosen = !target.contains("type=") && *media_type == mixed;
            assert_eq!(response.head.contains("\r\nVary: User-Agent, Accept\r\n"), is_chosen, "{}", response.head);
        }
        let (_, mut parts) = server.connect().stream(request_with("GET", target, &[("User-Agent", user_agent)]));
        parts.next_part();
    }
    let refused = server.get("/stream?type=gif");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("mixed or x-mixed-replace"), "{}", refused.text());
}

/// A viewer that keeps up gets the camera's whole rate. 30 fps are asked for, since the synthetic camera keeps them
/// by absolute deadlines; a fifth is left to the machine that runs the tests.
#[test]
fn a_fast_viewer_gets_every_frame() {
    let server = TestServer::start(&["--size", "320x240", "--fps", "30"]);
    let mut parts = server.stream("/stream");
    let first = parts.next_part().stamp();
    let mut received = 0;
    let mut last = first;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        last = parts.next_part().stamp();
        received += 1;
    }
    let captured = last.seq - first.seq;
    assert!(captured >= 72, "{captured} frames captured in 3 s at 30 fps");
    assert!(received * 10 >= captured * 9, "{received} of {captured} frames received");
}

/// Without a camera no frame ever comes, so what arrives is what is flushed before the first one.
#[test]
fn header_and_first_boundary_do_not_wait_for_a_frame() {
    let server = TestServer::start(&["--device", "/dev/does-not-exist"]);
    let start = Instant::now();
    let (_, mut parts) = server.connect().stream(request("GET", "/stream"));
    parts.first_boundary().expect("the first boundary");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// One frame a second: whatever the server holds back until the next frame comes a second late.
#[test]
fn the_boundary_comes_with_its_part() {
    let server = TestServer::start(&["--size", "320x240", "--fps", "1"]);
    let mut parts = server.stream("/stream");
    parts.next_part();
    for _ in 0..2 {
        parts.wait_for_part();
        let begun = Instant::now();
        parts.next_part();
        assert!(begun.elapsed() < Duration::from_millis(500), "the boundary came {:?} late", begun.elapsed());
    }
}

#[test]
fn timestamp_is_the_capture_time() {
    let server = TestServer::start(&["--fps", "5"]);
    let mut parts = server.stream("/stream");
    for _ in 0..5 {
        let part = parts.next_part();
        assert_capture_time(part.captured_at, part.stamp());
    }
}

#[test]
fn every_name_of_the_stream_streams() {
    let server = TestServer::start(&["--size", "320x240"]);
    let targets = [
        "/stream",
        "/stream.mjpg",
        "/mjpg",
        "/mjpeg/1",
        "/?action=stream",
        // What players and pages add, and what nobody knows.
        "/stream?timestamp=1700000000000",
        "/?action=stream&1700000000000",
        "/?1700000000000&action=stream",
        "/stream?unknown=1&bypassCache=2&cacheBust=3&time=4&&=&x",
        "/stream?x=.mjpg",
        "/stream?",
    ];
    for target in targets {
        let (response, mut parts) = server.connect().stream(request("GET", target));
        assert!(response.head.ends_with(STREAM_HEAD_LINES), "{target}: {}", response.head);
        parts.next_part();
        parts.next_part();
    }
}

/// mjpg-streamer's NSURLSession case.
#[test]
fn post_streams_too() {
    let server = TestServer::start(&["--size", "320x240"]);
    let plain = "POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let with_body = "POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello=world";
    for request in [plain, with_body] {
        let (response, mut parts) = server.connect().stream(request);
        assert!(response.head.ends_with(STREAM_HEAD_LINES), "{}", response.head);
        parts.next_part();
        parts.next_part();
    }
}

#[test]
fn a_viewer_with_http_1_0_streams() {
    let server = TestServer::start(&["--size", "320x240"]);
    let (response, mut parts) = server.connect().stream("GET /stream HTTP/1.0\r\n\r\n");
    assert!(response.head.ends_with(STREAM_HEAD_LINES), "{}", response.head);
    parts.next_part();
}

/// What a viewer sends after its request does not disturb the stream.
#[test]
fn bytes_after_the_request_are_no_second_request() {
    let server = TestServer::start(&["--size", "320x240"]);
    let (_, mut parts) = server.connect().stream(request("GET", "/stream") + &request("GET", "/nowhere"));
    parts.next_part();
    let mut socket = parts.get_ref().get_ref().try_clone().expect("a second handle");
    socket.write_all(b"GET /snapshot HTTP/1.1\r\n\r\n").expect("the socket is open");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        parts.next_part();
    }
}

/// A HEAD request learns what a GET would be told, and no frame follows.
#[test]
fn head_of_the_stream() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    client.send(request("HEAD", "/stream"));
    let response = client.try_response("HEAD").expect("a response");
    assert_eq!(response.status, 200);
    assert!(response.head.ends_with(STREAM_HEAD_LINES), "{}", response.head);
    client.assert_closed();
}

/// A client that leaves is noticed, with a camera and without one, and gives back thread and descriptor.
#[test]
fn a_viewer_who_leaves_is_noticed() {
    for device in ["synthetic", "/dev/does-not-exist"] {
        let server = TestServer::start(&["--device", device, "--size", "320x240"]);
        let join = || {
            let (_, mut parts) = server.connect().stream(request("GET", "/stream"));
            parts.first_boundary().expect("the first boundary");
            parts
        };
        let staying = join();
        let leaving: Vec<_> = (0..5).map(|_| join()).collect();
        let with_all = server.footprint();
        drop(leaving);
        let without_five = Footprint { threads: with_all.threads - 5, descriptors: with_all.descriptors - 5 };
        server.wait_footprint(without_five, Duration::from_secs(5));
        drop(staying);
    }
}
