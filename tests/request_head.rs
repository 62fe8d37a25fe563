//! Requests as strangers send them. Right ones are answered, wrong ones are refused with the status that the HTTP
//! standard (RFC 9110, 9112) names, and after each the server is as it was. Where the standard leaves a choice the
//! test takes either response and says so.

mod support;

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, Response, TestServer, is_long_run, request};

/// Sends a request on its own connection, says that nothing follows, and returns the response, if any came.
fn ask(server: &TestServer, request: &[u8]) -> Option<Response> {
    let mut client = server.connect();
    // A server that has seen enough may hang up before we have sent it all.
    let _ = client.try_send(request);
    client.try_response("GET").ok()
}

/// The response is one of `statuses`, says that the connection ends, and nothing more comes.
#[track_caller]
fn assert_refused(server: &TestServer, what: &str, request: &[u8], statuses: &[u16]) -> Response {
    let mut client = server.connect();
    let _ = client.try_send(request);
    let response = client.try_response("GET").unwrap_or_else(|e| panic!("{what}: no response: {e}"));
    assert!(statuses.contains(&response.status), "{what}: {statuses:?} expected:\n{}", response.head);
    assert!(response.says_close(), "{what}: the connection ends after this:\n{}", response.head);
    assert_eq!(response.expect_header("Vary"), "Origin", "{what}");
    client.assert_closed();
    response
}

fn with_line(line: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: x\r\n", line, b"\r\n\r\n"].concat()
}

#[test]
fn malformed_heads_are_refused() {
    let server = TestServer::start(&[]);
    let cases: &[(&str, &[u8])] = &[
        ("no words", b"\r\n\r\n\r\n\r\nhello\r\n\r\n"),
        ("one word", b"GET\r\n\r\n"),
        ("no version (HTTP/0.9)", b"GET /\r\n\r\n"),
        ("a tab before the target", b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("NUL in the target", b"GET /a\0b HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("NUL in a value", &with_line(b"X-Note: a\0b")),
        ("NUL in a name", &with_line(b"X-No\0te: a")),
        ("non-ASCII name", &with_line("X-Größe: 1".as_bytes())),
        ("no colon", &with_line(b"X-Note")),
        ("space before the colon", &with_line(b"X-Note : 1")),
        ("empty name", &with_line(b": 1")),
        ("bare CR", &with_line(b"X-Note: a\rX-More: b")),
        ("a line before the first header", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
        ("random bytes", b"\x80\xff\x01\x02\x03\r\n\r\n"),
    ];
    for (what, request) in cases {
        assert_refused(&server, what, request, &[400]);
    }
    // What stands in the version's place is no version, hence 400; or it is one that we do not know, hence 505.
    for request in ["GET /a b HTTP/1.1", "GET / HTXP/1.1", "GET / HTTP/one", "GET / http/1.1"] {
        assert_refused(&server, request, format!("{request}\r\nHost: x\r\n\r\n").as_bytes(), &[400, 505]);
    }
    server.assert_answers();
}

/// RFC 9112, 3.2: a 1.1 request names its host, once.
#[test]
fn host_is_sent_once() {
    let server = TestServer::start(&[]);
    assert_refused(&server, "no Host", b"GET / HTTP/1.1\r\n\r\n", &[400]);
    assert_refused(&server, "two Hosts", &with_line(b"Host: y"), &[400]);
    // 1.0 did not have it yet.
    let response = ask(&server, b"GET / HTTP/1.0\r\n\r\n").expect("a response");
    assert_eq!(response.status, 200);
}

#[test]
fn unusual_heads_that_the_standard_allows() {
    let server = TestServer::start(&[]);
    let port = server.address().port();
    let cases: &[(&str, Vec<u8>)] = &[
        ("UTF-8 in a value (obs-text)", with_line("User-Agent: Köln/1.0 ☺".as_bytes())),
        ("Latin-1 in a value (obs-text)", with_line(b"User-Agent: K\xf6ln/1.0")),
        ("an empty value", with_line(b"X-Note:")),
        ("no space after the colon", with_line(b"X-Note:1")),
        ("spaces and tabs around a value", with_line(b"X-Note: \t 1 \t ")),
        ("an empty line before the request", [b"\r\n".as_slice(), &with_line(b"X: 1")].concat()),
        ("absolute URI", format!("GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()),
        ("absolute URI of a proxy's name", b"GET http://cam.local/?x=1 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("absolute URI without a path", b"GET http://cam.local HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a body with a GET", [&with_line(b"Content-Length: 5")[..], b"hello"].concat()),
        ("Expect on a GET", with_line(b"Expect: 100-continue")),
        ("an upgrade that we do not know", with_line(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c")),
        ("a range", with_line(b"Range: bytes=0-10")),
    ];
    for (what, request) in cases {
        let response = ask(&server, request).unwrap_or_else(|| panic!("{what}: no response"));
        assert_eq!(response.status, 200, "{what}: {}", response.head);
    }
}

/// Heads that the standard lets a server take or refuse: a bare LF ends a line (RFC 9112, 2.2), a folded line may be
/// unfolded (5.2). Either way the server goes on.
#[test]
fn heads_that_may_be_taken_or_refused() {
    let server = TestServer::start(&[]);
    let cases: &[(&str, &[u8])] = &[
        ("bare LF", b"GET / HTTP/1.1\nHost: x\n\n"),
        ("bare LF among CRLF", b"GET / HTTP/1.1\r\nHost: x\nX: 1\r\n\r\n"),
        ("obs-fold", &with_line(b"X-Note: a\r\n b")),
        ("obs-fold with a tab", &with_line(b"X-Note: a\r\n\tb")),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n"),
        ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: x\r\n\r\n"),
        ("two spaces", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("a lower-case method", b"get / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("a target without a slash", b"GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("an asterisk for a GET", b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("UTF-8 in the target", "GET /größe HTTP/1.1\r\nHost: x\r\n\r\n".as_bytes()),
        ("a fragment", b"GET /#top HTTP/1.1\r\nHost: x\r\n\r\n"),
    ];
    for (what, request) in cases {
        let response = ask(&server, request).unwrap_or_else(|| panic!("{what}: no response"));
        assert!([200, 400, 404, 405, 501, 505].contains(&response.status), "{what}: {}", response.head);
    }
    server.assert_answers();
}

/// Paths that look for a file system behind us. There is none: each is simply no route of ours.
#[test]
fn paths_out_of_the_tree_are_not_found() {
    let server = TestServer::start(&[]);
    for target in [
        "//nowhere",
        "///etc/passwd",
        "/..",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%00",
        "/snapshot%00.jpg",
        "/%",
        "/%zz",
        "/%ff%fe",
        "/\\..\\windows",
        "/./snapshot",
        "/snapshot/../nowhere",
    ] {
        let response =
            ask(&server, request("GET", target).as_bytes()).unwrap_or_else(|| panic!("{target}: no response"));
        // 400 for what is no valid target, 404 for a valid one that leads nowhere.
        assert!([400, 404].contains(&response.status), "{target}: {}", response.head);
    }
    // Slashes in a row may count as one: proxies with a sub-path produce them.
    for target in ["//", "//snapshot"] {
        let response =
            ask(&server, request("GET", target).as_bytes()).unwrap_or_else(|| panic!("{target}: no response"));
        assert!([200, 400, 404].contains(&response.status), "{target}: {}", response.head);
    }
    server.assert_answers();
}

#[test]
fn other_versions_are_refused() {
    let server = TestServer::start(&[]);
    for version in ["HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/0.9", "HTTP/9.9"] {
        let request = format!("GET / {version}\r\nHost: x\r\n\r\n");
        // `HTTP/2` is no version as the grammar of 1.1 writes it, so 400 is right as well.
        assert_refused(&server, version, request.as_bytes(), &[505, 400]);
    }
    let response = ask(&server, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n").expect("a response");
    assert_eq!(response.status, 505);
    assert_refused(&server, "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &[505, 400]);
}

/// The first bytes that a TLS client sends to a plain port: a ClientHello record.
#[test]
fn a_tls_hello_is_no_request() {
    let server = TestServer::start(&[]);
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, 0xC8, 0x01, 0x00, 0x00, 0xC4, 0x03, 0x03];
    hello.extend((0..194).map(|n: u8| n.wrapping_mul(37)));
    let mut client = server.connect();
    client.send(&hello);
    let start = Instant::now();
    let reply = client.drain();
    // Refused in words or closed without: what follows must not be mistaken for TLS.
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 400 ") || reply.starts_with(b"HTTP/1.0 400 "));
    assert!(start.elapsed() < Duration::from_secs(3), "at once, not at a time-out: {:?}", start.elapsed());
    server.assert_answers();
}

#[test]
fn methods() {
    let server = TestServer::start(&["--size", "320x240"]);
    for method in ["PUT", "DELETE", "PATCH", "POST"] {
        let mut client = server.connect();
        let response = client.exchange(format!("{method} /snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(response.status, 405, "{method}: {}", response.head);
        let allow = response.expect_header("Allow");
        assert!(allow.contains("GET") && allow.contains("HEAD"), "{method}: {allow}");
    }
    for method in ["BREW", "TRACE", "CONNECT", "PROPFIND", "get", "G!#$%&'*+.^_`|~ET"] {
        // 501 for a method we do not know, 405 for one we know and do not want, 400 for one of them on this target.
        let request = format!("{method} /snapshot HTTP/1.1\r\nHost: x\r\n\r\n");
        let response = ask(&server, request.as_bytes()).unwrap_or_else(|| panic!("{method}: no response"));
        assert!([501, 405, 400].contains(&response.status), "{method}: {}", response.head);
    }
    // A tunnel is no route of ours: 404 will do as well.
    let response = ask(&server, b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n").expect("a response");
    assert!([501, 405, 404, 400].contains(&response.status), "{}", response.head);
    let long_method = format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "A".repeat(1_000));
    let response = ask(&server, long_method.as_bytes()).expect("a response");
    assert!([501, 400, 405].contains(&response.status), "a method of 1,000 letters: {}", response.head);
}

#[test]
fn head_limits() {
    let server = TestServer::start(&[]);
    let padded = |padding: usize| with_line(format!("X-Padding: {}", "p".repeat(padding)).as_bytes());
    let empty = padded(0).len();
    let response = ask(&server, &padded(8 * 1024 - empty)).expect("a response");
    assert_eq!(response.status, 200, "8 KiB are taken: {}", response.head);
    assert_refused(&server, "8 KiB and a byte", &padded(8 * 1024 - empty + 1), &[431]);
    assert_refused(&server, "20 KB of one header", &padded(20_000), &[431]);

    let headers = |count: usize| -> Vec<u8> {
        let lines: String = (1..count).map(|n| format!("X-{n}: 1\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into_bytes()
    };
    let response = ask(&server, &headers(64)).expect("a response");
    assert_eq!(response.status, 200, "64 headers are taken: {}", response.head);
    assert_refused(&server, "65 headers", &headers(65), &[431]);
    assert_refused(&server, "1,000 headers", &headers(1_000), &[431]);

    // RFC 9110 has 414 for the target; a server that counts the whole head alike may say 431.
    let long = request("GET", &format!("/{}", "u".repeat(9_000)));
    assert_refused(&server, "a target of 9,000 bytes", long.as_bytes(), &[414, 431]);
    let response = ask(&server, request("GET", &format!("/?{}", "u".repeat(7_000))).as_bytes());
    assert_eq!(response.expect("a response").status, 200, "a long query is taken");
    server.assert_answers();
}

/// The time for a head is counted in all, so that a byte now and then does not prolong it.
#[test]
fn a_head_has_five_seconds() {
    let server = TestServer::start(&[]);
    let limits = Duration::from_secs(4)..Duration::from_secs(8);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.connect();
            let start = Instant::now();
            let reply = client.drain();
            // With not a byte of a request, 408 or plain silence are both right.
            assert!(reply.is_empty() || is_408(&reply), "{:?}", String::from_utf8_lossy(&reply));
            assert!(limits.contains(&start.elapsed()), "no request at all: {:?}", start.elapsed());
        });
        scope.spawn(|| {
            let mut client = server.connect();
            client.send("GET / HTTP/1.1\r\nHost: x\r\nX-");
            let start = Instant::now();
            assert!(is_408(&client.drain()), "half a head is answered with 408");
            assert!(limits.contains(&start.elapsed()), "half a head: {:?}", start.elapsed());
        });
        scope.spawn(|| {
            let (reply, took) = drip(&server, b"GET / HTTP/1.1\r\nHost: x\r\nX-Drip: ");
            assert!(is_408(&reply), "a dripped head is answered with 408: {:?}", String::from_utf8_lossy(&reply));
            assert!(limits.contains(&took), "a byte a second: {took:?}");
        });
        scope.spawn(|| {
            // Empty lines before a request are skipped, but not for ever.
            let (_, took) = drip(&server, b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n");
            assert!(took < limits.end, "an empty line every other second: {took:?}");
        });
        scope.spawn(|| {
            let mut client = server.connect();
            client.send("POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
            let start = Instant::now();
            let reply = client.drain();
            assert!(!reply.starts_with(b"HTTP/1.1 200") && !reply.starts_with(b"HTTP/1.0 200"), "not without its body");
            assert!(start.elapsed() < Duration::from_secs(12), "a body that never comes: {:?}", start.elapsed());
        });
    });
    server.assert_answers();
}

/// Sends a byte a second until the server has had enough; returns its last words and when they came.
fn drip(server: &TestServer, head: &[u8]) -> (Vec<u8>, Duration) {
    let mut client = server.connect();
    client.socket().set_read_timeout(Some(Duration::from_secs(1))).expect("time-outs can be set");
    let start = Instant::now();
    for byte in head {
        let mut reply = Vec::new();
        let mut buffer = [0; 1024];
        let _ = client.try_send([*byte]);
        // The pause of a second is the wait for a response.
        while let Ok(read) = client.socket().read(&mut buffer) {
            reply.extend_from_slice(&buffer[..read]);
            if read == 0 {
                return (reply, start.elapsed());
            }
        }
        if !reply.is_empty() {
            return (reply, start.elapsed());
        }
        assert!(start.elapsed() < support::PATIENCE, "the server still waits");
    }
    panic!("the server waited for the whole head");
}

fn is_408(reply: &[u8]) -> bool {
    reply.starts_with(b"HTTP/1.1 408 ") || reply.starts_with(b"HTTP/1.0 408 ")
}

/// Requests sent without waiting are answered in their order.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client = server.connect();
    let targets = [("/?first", 200), ("/nowhere", 404), ("/snapshot", 200), ("/", 200), ("/nothing", 404)];
    client.send(targets.map(|(target, _)| request("GET", target)).concat());
    for (target, status) in targets {
        assert_eq!(client.response().status, status, "{target}");
    }
    // Also when a request is cut in two by the network.
    client.send(request("GET", "/nowhere") + "GET /?se");
    assert_eq!(client.response().status, 404);
    client.send("cond HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

/// Requests whose end cannot be told for sure: what follows them must never be taken for a request.
#[test]
fn smuggled_requests_are_not_answered() {
    let server = TestServer::start(&["--size", "320x240"]);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let cases = [
        ("length and chunked", format!("Content-Length: {}\r\nTransfer-Encoding: chunked", smuggled.len())),
        ("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 0".into()),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {}", smuggled.len())),
        ("two lengths in one", format!("Content-Length: 0, {}", smuggled.len())),
        ("a signed length", "Content-Length: +0".into()),
        ("a negative length", "Content-Length: -1".into()),
        ("a length in hex", "Content-Length: 0x0".into()),
        ("a length in words", "Content-Length: none".into()),
        ("an empty length", "Content-Length:".into()),
        ("a length past all numbers", "Content-Length: 99999999999999999999999999".into()),
        ("chunked", "Transfer-Encoding: chunked".into()),
        ("chunked in disguise", "Transfer-Encoding: xchunked".into()),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".into()),
    ];
    for method in ["GET", "POST"] {
        for (what, headers) in &cases {
            let head = format!("{method} /stream.mjpg?{} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n", method.len());
            // 413 for a length that is too large, 411 or 501 for a coding that we do not decode, else 400.
            let request = format!("{head}0\r\n\r\n{smuggled}");
            assert_refused(&server, &format!("{method}, {what}"), request.as_bytes(), &[400, 411, 413, 501]);
        }
    }
    server.assert_answers();
}

/// A body is read and forgotten, or the connection ends: its bytes are never a request.
#[test]
fn bodies_are_ignored_safely() {
    let server = TestServer::start(&["--size", "320x240"]);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for (method, target) in [("POST", "/snapshot"), ("GET", "/?body"), ("PUT", "/nowhere"), ("OPTIONS", "/")] {
        let mut client = server.connect();
        let length = smuggled.len();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        client.send(head + smuggled + &request("GET", "/"));
        client.finish_sending();
        let first = client.response();
        assert!([200, 404, 405].contains(&first.status), "{method} {target}: {}", first.head);
        if first.says_close() {
            client.assert_closed();
        } else {
            assert_eq!(client.response().status, 200, "{method} {target}: the next request, not the body");
            client.assert_closed();
        }
    }
}

#[test]
fn body_limits() {
    let server = TestServer::start(&[]);
    let with_body = |length: u64| format!("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    let mut client = server.connect();
    client.send(with_body(64 * 1024));
    client.send(vec![b'b'; 64 * 1024]);
    let response = client.response();
    // The route decides: there is none, or none for a POST.
    assert!([404, 405].contains(&response.status), "64 KiB are taken: {}", response.head);
    for length in [64 * 1024 + 1, 200_000_000_000, u64::MAX] {
        for method in ["POST", "GET"] {
            let request = with_body(length).replacen("POST", method, 1);
            assert_refused(&server, &format!("{method} of {length} bytes"), request.as_bytes(), &[413]);
        }
    }
    // The body is on its way already when it is refused: the response still arrives, and is not cut off by a reset,
    // as it would be by closing a socket that holds unread bytes.
    let mut request = with_body(150_000).into_bytes();
    request.resize(request.len() + 150_000, b'b');
    let mut client = server.connect();
    client.send(&request);
    assert_eq!(client.response().status, 413);
    assert_eq!(client.socket().read(&mut [0; 1]).expect("the end, not a reset"), 0);
    server.assert_answers();
}

/// `Expect: 100-continue`, as curl sends it with larger bodies: an interim response, the final one, or a refusal.
#[test]
fn expect_continue() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    client.send("POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut first = [0; 12];
    client.socket().read_exact(&mut first).expect("a response before the body");
    let status = String::from_utf8_lossy(&first[9..]).into_owned();
    assert!(["100", "404", "405", "413", "417"].contains(&status.as_str()), "{status}");
    // RFC 9110, 10.1.1: a client that speaks 1.0 must not be sent an interim response.
    let mut client = server.connect();
    client.send("POST /nowhere HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    assert_ne!(client.response().status, 100);
}

/// A connection on which nothing is asked any more ends after 15 s; until then it is kept.
#[test]
fn an_idle_kept_connection_ends() {
    if !is_long_run() {
        eprintln!("skipped: 15 s of idleness belong to the long run (FRAMEHUB_LONG=1)");
        return;
    }
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.exchange(request("GET", "/")).status, 200);
    thread::sleep(Duration::from_secs(12));
    assert_eq!(client.exchange(request("GET", "/")).status, 200, "kept for 12 s");
    let start = Instant::now();
    client.assert_closed();
    let took = start.elapsed();
    assert!((Duration::from_secs(13)..Duration::from_secs(19)).contains(&took), "closed after {took:?}");
}

/// The second head on a kept connection has its five seconds, too.
#[test]
fn a_second_head_has_five_seconds() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.exchange(request("GET", "/")).status, 200);
    client.send("GET / HTTP/1.1\r\nHo");
    let start = Instant::now();
    assert!(is_408(&client.drain()), "half a head is answered with 408");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

/// A request in pieces is one request, wherever the network cuts it.
#[test]
fn a_request_in_pieces() {
    let server = TestServer::start(&[]);
    let whole = request("GET", "/");
    for cut in [1, 3, 4, 13, 20, whole.len() - 3, whole.len() - 2, whole.len() - 1] {
        let mut client = server.connect();
        client.send(&whole[..cut]);
        // Two packets, so that the server reads twice; if it should not, the test is merely easier.
        thread::sleep(Duration::from_millis(20));
        client.send(&whole[cut..]);
        assert_eq!(client.response().status, 200, "cut at {cut}");
    }
    let mut client: Client = server.connect();
    for byte in whole.bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().status, 200, "byte by byte");
}

/// Old clients send a line end behind a body. It is not the beginning of a request, and nobody is told 408 for it.
#[test]
fn line_ends_in_front_of_a_request_are_skipped() {
    let server = TestServer::start(&[]);
    for ends in ["\r\n", "\r\n\r\n\n"] {
        let mut client = server.connect();
        client.send(format!("{ends}{}", request("GET", "/")));
        assert_eq!(client.response().status, 200, "{ends:?} in front of the first request");
        client.send(format!("{}{ends}", request("GET", "/")));
        assert_eq!(client.response().status, 200);
        // Longer than a head may take from its first byte on.
        thread::sleep(Duration::from_secs(6));
        assert_eq!(client.exchange(request("GET", "/")).status, 200, "{ends:?} behind a request");
    }
    let mut endless = server.connect();
    while endless.try_send([b'\n'; 4096]).is_ok() {}
    let reply = String::from_utf8_lossy(&endless.drain()).into_owned();
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{reply}");
}

/// White space that is Unicode's and not HTTP's is part of a value.
#[test]
fn a_length_with_a_no_break_space_is_no_length() {
    let server = TestServer::start(&[]);
    for space in ["\u{a0}", "\u{85}", "\u{2003}", "\u{feff}"] {
        for value in [format!("3{space}"), format!("{space}3")] {
            let mut client = server.connect();
            client.send(format!("POST /controls HTTP/1.1\r\nHost: x\r\nContent-Length: {value}\r\n\r\na=1"));
            assert_eq!(client.response().status, 400, "{value:?}");
        }
    }
}

/// The processor time of so many requests.
fn cost(server: &TestServer, target: &str, turns: usize) -> Duration {
    let mut client = server.connect();
    let before = server.cpu_time();
    for _ in 0..turns {
        assert_eq!(client.exchange(request("GET", target)).status, 200);
    }
    server.cpu_time() - before
}

/// Thousands of parameters that nobody asks for cost little more than the bytes that they are.
#[test]
fn thousands_of_parameters_cost_little() {
    let server = TestServer::start(&["--device", "/dev/does-not-exist"]);
    let turns = 400;
    let plain = cost(&server, "/page.js", turns);
    for parameters in ["a&".repeat(3_900), "%61&".repeat(1_900), "t%6fk=1&".repeat(900)] {
        let many = cost(&server, &format!("/page.js?{parameters}"), turns);
        assert!(many < plain * 4 + Duration::from_millis(100), "{many:?} for {turns} requests, {plain:?} without");
    }
}

/// A client that half-closes after its request (as `nc` does) still gets its response.
#[test]
fn a_half_closed_connection_is_answered() {
    let server = TestServer::start(&["--size", "320x240"]);
    for target in ["/", "/snapshot"] {
        let mut client = server.connect();
        client.send(request("GET", target));
        client.finish_sending();
        assert_eq!(client.response().status, 200, "{target}");
        client.assert_closed();
    }
}
