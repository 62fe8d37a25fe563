//! What every URL answers: the routes that are there, 404 for the rest, and what pages from elsewhere may read.

mod support;

use support::{TestServer, request, request_with};

#[test]
fn the_page() {
    let server = TestServer::start(&[]);
    let answer = server.get("/");
    assert_eq!(answer.status, 200);
    assert!(answer.expect_header("Content-Type").starts_with("text/html"), "{}", answer.head);
    let page = answer.text();
    assert!(page.trim_start().to_ascii_lowercase().starts_with("<!doctype html>"), "a whole page");
    assert!(page.contains("stream"), "with the live picture");
    assert!(!page.contains("http://") && !page.contains("https://"), "that works without internet");
    assert_eq!(server.get("/?1700000000000").status, 200);
}

#[test]
fn health() {
    let server = TestServer::start(&[]);
    // While the camera is being started the answer may be 503.
    assert_eq!(server.get("/snapshot").status, 200);
    let answer = server.get("/healthz");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.expect_header("Content-Type").starts_with("text/plain"), "{}", answer.head);
    assert!(!answer.body.is_empty());
}

/// Browsers ask for it unbidden; motion logged an error each time.
#[test]
fn favicon() {
    let server = TestServer::start(&[]);
    let answer = server.get("/favicon.ico");
    match answer.status {
        204 => assert!(answer.body.is_empty()),
        200 => assert!(answer.expect_header("Content-Type").starts_with("image/"), "{}", answer.head),
        other => panic!("{other} for /favicon.ico"),
    }
}

#[test]
fn not_found() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    for target in [
        "/nowhere",
        "/index.php",
        "/stream/",
        "/stream/more",
        "/streams",
        "/STREAM",
        "/snapshot.jpeg2",
        "/mjpeg",
        "/mjpeg/2",
        "/mjpeg/1/2",
        "/stop",
        "/favicon.ico/x",
        "/nowhere?action=stream",
        "/nowhere/stream",
        "/?action=fly",
        "/;stream",
        "/:",
        "/*",
    ] {
        let answer = client.exchange(request("GET", target));
        // `/?action=fly` has a parameter that means nothing to us: the page will do as well.
        let is_unknown_parameter = target.starts_with("/?") && answer.status == 200;
        assert!(answer.status == 404 || is_unknown_parameter, "{target}: {}", answer.head);
        assert!(answer.expect_header("Content-Type").starts_with("text/"), "{}", answer.head);
        assert!(!answer.body.is_empty(), "404 says so in words");
        assert!(!answer.says_close(), "a wrong URL does not cost the connection: {}", answer.head);
    }
}

/// Nothing a stranger put into a URL comes back where a browser would run it.
#[test]
fn not_found_does_not_echo_markup() {
    let server = TestServer::start(&[]);
    let answer = server.get("/<script>alert(1)</script>");
    let is_html = answer.header("Content-Type").is_some_and(|value| value.contains("html"));
    assert!(!(is_html && answer.text().contains("<script>alert")), "{}", answer.text());
}

#[test]
fn pages_of_the_local_network_may_read_every_response() {
    let server = TestServer::start(&["--size", "320x240"]);
    for target in ["/", "/snapshot", "/stream", "/healthz", "/favicon.ico", "/nowhere"] {
        for (origin, allowed) in
            [("http://printer.local", Some("http://printer.local")), ("https://elsewhere.example", None)]
        {
            let answer = server.connect().exchange(request_with("GET", target, &[("Origin", origin)]));
            assert_eq!(answer.header("Access-Control-Allow-Origin"), allowed, "{target}");
            assert_eq!(answer.expect_header("Vary"), "Origin", "{target}");
        }
    }
}

#[test]
fn options_answers_a_preflight() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    for target in ["/snapshot", "/stream", "/?action=stream", "/", "*"] {
        let answer = client.exchange(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: x\r\nOrigin: http://printer.local\r\n\
             Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-requested-with\r\n\r\n"
        ));
        assert_eq!(answer.status, 200, "{target}: {}", answer.head);
        assert_eq!(answer.expect_header("Access-Control-Allow-Origin"), "http://printer.local");
        assert!(answer.expect_header("Access-Control-Allow-Methods").contains("GET"), "{}", answer.head);
    }
    assert_eq!(client.exchange(request("GET", "/snapshot")).status, 200, "the connection is still in step");
}

#[test]
fn head_mirrors_get() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    for target in ["/", "/healthz", "/favicon.ico", "/nowhere"] {
        let got = client.exchange(request("GET", target));
        client.send(request("HEAD", target));
        let head = client.try_answer("HEAD").expect("an answer");
        assert_eq!(head.status, got.status, "{target}");
        for name in ["Content-Type", "Content-Length", "Vary", "Cache-Control"] {
            assert_eq!(head.header(name), got.header(name), "{name} of {target}");
        }
    }
}

/// tiny_http's types print the answers, but nobody should look for its server's faults here.
#[test]
fn no_answer_claims_to_come_from_tiny_http() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    for target in ["/", "/snapshot", "/healthz", "/nowhere", "/stream"] {
        let answer = client.exchange(request("GET", target));
        assert!(!answer.head.to_ascii_lowercase().contains("tiny"), "{target}: {}", answer.head);
    }
}
