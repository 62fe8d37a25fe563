//! What every URL answers: the routes that are there, 404 for the rest, and what pages from elsewhere may read.

mod support;

use support::{TestServer, request, request_with};

#[test]
fn the_page() {
    let server = TestServer::start(&[]);
    let response = server.get("/");
    assert_eq!(response.status, 200);
    assert!(response.expect_header("Content-Type").starts_with("text/html"), "{}", response.head);
    let page = response.text();
    assert!(page.trim_start().to_ascii_lowercase().starts_with("<!doctype html>"), "a whole page");
    assert!(page.contains("stream"), "with the live picture");
    assert!(!page.contains("http://") && !page.contains("https://"), "that works without internet");
    assert_eq!(server.get("/?1700000000000").status, 200);
}

#[test]
fn health() {
    let server = TestServer::start(&[]);
    // While the camera is being started the response may be 503.
    assert_eq!(server.get("/snapshot").status, 200);
    let response = server.get("/healthz");
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.expect_header("Content-Type").starts_with("text/plain"), "{}", response.head);
    assert!(!response.body.is_empty());
}

/// Browsers ask for it unbidden; motion logged an error each time.
#[test]
fn favicon() {
    let server = TestServer::start(&[]);
    let response = server.get("/favicon.ico");
    match response.status {
        204 => assert!(response.body.is_empty()),
        200 => assert!(response.expect_header("Content-Type").starts_with("image/"), "{}", response.head),
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
        let response = client.exchange(request("GET", target));
        // `/?action=fly` has a parameter that means nothing to us: the page will do as well.
        let is_unknown_parameter = target.starts_with("/?") && response.status == 200;
        assert!(response.status == 404 || is_unknown_parameter, "{target}: {}", response.head);
        assert!(response.expect_header("Content-Type").starts_with("text/"), "{}", response.head);
        assert!(!response.body.is_empty(), "404 says so in words");
        assert!(!response.says_close(), "a wrong URL does not cost the connection: {}", response.head);
    }
}

/// Nothing a stranger put into a URL comes back where a browser would run it.
#[test]
fn not_found_does_not_echo_markup() {
    let server = TestServer::start(&[]);
    let response = server.get("/<script>alert(1)</script>");
    let is_html = response.header("Content-Type").is_some_and(|value| value.contains("html"));
    assert!(!(is_html && response.text().contains("<script>alert")), "{}", response.text());
}

#[test]
fn pages_of_the_local_network_may_read_every_response() {
    let server = TestServer::start(&["--size", "320x240"]);
    for target in ["/", "/snapshot", "/stream", "/healthz", "/favicon.ico", "/nowhere"] {
        for (origin, allowed) in
            [("http://printer.local", Some("http://printer.local")), ("https://elsewhere.example", None)]
        {
            let response = server.connect().exchange(request_with("GET", target, &[("Origin", origin)]));
            assert_eq!(response.header("Access-Control-Allow-Origin"), allowed, "{target}");
            assert_eq!(response.expect_header("Vary"), "Origin", "{target}");
        }
    }
}

#[test]
fn options_answers_a_preflight() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    for target in ["/snapshot", "/stream", "/?action=stream", "/", "*"] {
        let response = client.exchange(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: x\r\nOrigin: http://printer.local\r\n\
             Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-requested-with\r\n\r\n"
        ));
        assert_eq!(response.status, 200, "{target}: {}", response.head);
        assert_eq!(response.expect_header("Access-Control-Allow-Origin"), "http://printer.local");
        assert!(response.expect_header("Access-Control-Allow-Methods").contains("GET"), "{}", response.head);
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
        let head = client.try_response("HEAD").expect("a response");
        assert_eq!(head.status, got.status, "{target}");
        for name in ["Content-Type", "Content-Length", "Vary", "Cache-Control"] {
            assert_eq!(head.header(name), got.header(name), "{name} of {target}");
        }
    }
}

/// tiny_http's types print the responses, but nobody should look for its server's faults here.
#[test]
fn no_answer_claims_to_come_from_tiny_http() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    for target in ["/", "/snapshot", "/healthz", "/nowhere", "/stream"] {
        let response = client.exchange(request("GET", target));
        assert!(!response.head.to_ascii_lowercase().contains("tiny"), "{target}: {}", response.head);
    }
}
