//! Whoever means harm, or is merely broken, takes nothing away for good: no thread, no descriptor, no memory, and
//! nobody else's response. These are the inputs that ended or crippled tiny_http's server.

mod support;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Client, Footprint, PATIENCE, SNAPSHOT_LIMIT, TestServer, flood_bytes, narrow_connection, request, request_with,
    resets, sys, wait_until,
};

/// A server with one viewer, so that the camera and its thread are there before anything is counted.
fn watched_server(args: &[&str]) -> (TestServer, Viewer) {
    let server = TestServer::start(&[&["--size", "320x240"], args].concat());
    let viewer = Viewer::watch(&server);
    (server, viewer)
}

/// A viewer on its own thread, which has to get frames without a long gap to the end of the test.
struct Viewer {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<thread::JoinHandle<Duration>>,
}

impl Viewer {
    fn watch(server: &TestServer) -> Viewer {
        let mut parts = server.stream("/stream");
        parts.next_part();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let watch = move || {
            let mut longest = Duration::ZERO;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let start = Instant::now();
                parts.next_part();
                longest = longest.max(start.elapsed());
            }
            longest
        };
        Viewer { stop, thread: Some(thread::spawn(watch)) }
    }

    /// Ends it and returns the longest time without a frame.
    fn finish(mut self) -> Duration {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().expect("still there").join().expect("the viewer got golden parts to the end")
    }
}

#[test]
fn http_2_0_fifty_times_leaves_nothing() {
    let (server, _viewer) = watched_server(&[]);
    let before = server.footprint();
    let mut clients: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        let response = client.exchange("GET / HTTP/2.0\r\nHost: x\r\n\r\n");
        assert_eq!(response.status, 505);
    }
    // We keep our ends open: the server is the one that closes.
    server.wait_footprint(before, PATIENCE);
    server.assert_answers();
}

#[test]
fn twenty_bursts_of_eight_are_all_answered() {
    let server = TestServer::start(&[]);
    let mut answered = 0;
    for _ in 0..20 {
        let mut burst: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        for _ in 0..2 {
            burst.iter_mut().for_each(|client| client.send(request("GET", "/")));
            answered += burst.iter_mut().map(|client| client.response().status).filter(|&status| status == 200).count();
        }
    }
    assert_eq!(answered, 20 * 8 * 2);
}

/// As above, but nobody leaves: 160 kept connections at once.
#[test]
fn bursts_of_kept_connections_are_all_answered() {
    let server = TestServer::start(&[]);
    let mut kept: Vec<Client> = Vec::new();
    for _ in 0..20 {
        let mut burst: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        burst.iter_mut().for_each(|client| client.send(request("GET", "/")));
        assert!(burst.iter_mut().all(|client| client.response().status == 200), "with {} kept ones", kept.len());
        kept.extend(burst);
    }
    // The first of them may have been closed in favour of newcomers, but not with so few.
    assert_eq!(kept[0].exchange(request("GET", "/")).status, 200);
}

#[test]
fn resets_after_the_request_leave_nothing() {
    let (server, viewer) = watched_server(&[]);
    let before = server.footprint();
    let targets = ["/snapshot", "/stream", "/", "/nowhere"];
    let mut rss = 0;
    for turn in 0..resets() {
        // The first hundred grow the pools of memory that the others use again.
        if turn == 100 {
            rss = server.rss_kib();
        }
        let mut client = server.connect();
        let _ = client.try_send(request("GET", targets[turn % targets.len()]));
        client.reset();
    }
    server.wait_footprint(before, PATIENCE);
    let grown = server.rss_kib().saturating_sub(rss);
    assert!(grown < 6 * 1024, "{} resets left {grown} KiB behind", resets());
    let start = Instant::now();
    assert_eq!(server.get("/snapshot").status, 200);
    assert!(start.elapsed() < SNAPSHOT_LIMIT);
    viewer.finish();
}

/// Resets in the middle of a response, when the server is inside a write.
#[test]
fn resets_within_the_stream_leave_nothing() {
    let (server, viewer) = watched_server(&[]);
    let before = server.footprint();
    for _ in 0..resets() / 20 {
        let mut client = server.connect();
        client.send(request("GET", "/stream"));
        client.response();
        client.reset();
    }
    server.wait_footprint(before, PATIENCE);
    viewer.finish();
}

/// A header line that never ends costs the memory of one head, not its own length.
#[test]
fn an_endless_header_line_costs_no_memory() {
    let (server, _viewer) = watched_server(&[]);
    let before = (server.footprint(), server.peak_rss_kib());
    let endless: [(&str, &[u8]); 4] = [
        ("GET /", &[b'u'; 65_536]),
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Endless: ", &[b'h'; 65_536]),
        ("GET / HTTP/1.1\r\nHost: x\r\n", &b"X-Many: 1\r\n".repeat(6_000)),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000000\r\n\r\n", &[b'b'; 65_536]),
    ];
    for (start, chunk) in endless {
        let mut client = server.connect();
        client.send(start);
        let started = Instant::now();
        // Until it is hung up on, which should be soon.
        let chunks = flood_bytes() / chunk.len();
        let sent = (0..chunks).take_while(|_| client.try_send(chunk).is_ok()).count();
        assert!(sent < chunks, "{start:?}: all {} bytes were taken", flood_bytes());
        assert!(started.elapsed() < Duration::from_secs(10), "{start:?}: {:?}", started.elapsed());
    }
    let grown = server.peak_rss_kib() - before.1;
    assert!(grown < 4 * 1024, "the peak of resident memory grew by {grown} KiB");
    server.wait_footprint(before.0, PATIENCE);
    server.assert_answers();
}

/// More connects that say nothing than there are permits for them: everybody else is served.
#[test]
fn silent_connects_lock_nobody_out() {
    sys::need_descriptors(1_000);
    let (server, viewer) = watched_server(&[]);
    let before = server.footprint();
    let silent: Vec<TcpStream> = (0..400).map(|_| server.connect().into_socket()).collect();
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(server.get("/snapshot").status, 200);
        assert!(start.elapsed() < SNAPSHOT_LIMIT, "{:?}", start.elapsed());
    }
    let footprint = server.footprint();
    let most = Footprint { threads: before.threads + 256 + 8, descriptors: before.descriptors + 256 + 8 };
    let is_bounded = footprint.threads <= most.threads && footprint.descriptors <= most.descriptors;
    assert!(is_bounded, "256 unfinished heads at most: {footprint:?}");
    let mut newcomer = server.stream("/stream");
    newcomer.next_part();
    drop(newcomer);
    // They are still connected on our side: time, not our leaving, ends them.
    server.wait_footprint(before, PATIENCE);
    drop(silent);
    let longest = viewer.finish();
    assert!(longest < Duration::from_secs(2), "the viewer waited {longest:?} for a frame");
}

/// Connections that were refused, or that owe a body, are connections like others: there is a bound on all of them
/// together, and viewers and snapshots keep their places.
#[test]
fn refused_and_unfinished_requests_are_bounded_too() {
    sys::need_descriptors(2_000);
    let half_body = "POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    for request in ["GET / HTTP/2.0\r\nHost: x\r\n\r\n", half_body] {
        let (server, viewer) = watched_server(&["--max-clients", "64"]);
        let before = server.footprint();
        let mut clients = Vec::new();
        for turn in 0..1_000 {
            let mut client = server.connect();
            let _ = client.try_send(request);
            clients.push(client);
            if turn % 20 == 0 {
                // 64 viewers, 16 short requests, 256 heads, and some whose end has not been noticed yet.
                let is_bounded = || server.footprint().threads <= 64 + 16 + 256 + 40;
                // In no more time than a thread needs to end: without a bound, they would end after some seconds too.
                wait_until("those that were closed have ended", Duration::from_millis(500), is_bounded);
            }
        }
        let start = Instant::now();
        assert_eq!(server.get("/snapshot").status, 200);
        assert!(start.elapsed() < SNAPSHOT_LIMIT, "{:?}", start.elapsed());
        server.wait_footprint(before, PATIENCE);
        viewer.finish();
    }
}

/// A connection is counted from accept to close, whatever it is sent: requests of every kind, pipelined by clients that
/// read no response. The bound on all connections holds, and whoever reads is served beside them.
#[test]
fn unread_responses_of_every_kind_are_bounded() {
    sys::need_descriptors(2_000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
    command.env("FRAMEHUB_TOKEN", "T0ken");
    let server = TestServer::spawn(command, &["--size", "320x240", "--max-clients", "10"]);
    let known = ("Authorization", "Bearer T0ken");
    assert_eq!(server.connect().exchange(request_with("GET", "/snapshot", &[known])).status, 200);
    let before = server.footprint();
    let foreign = [known, ("Origin", "http://evil.example")];
    let requests = [
        request("GET", "/nope"),
        request("DELETE", "/snapshot"),
        request("BREW", "/"),
        request("OPTIONS", "/snapshot"),
        request("GET", "/snapshot"),
        request("GET", "/page.js"),
        request("GET", "/healthz"),
        request_with("GET", "/", &[known]),
        request_with("GET", "/state", &[known]),
        request_with("GET", "/clip", &[known]),
        request_with("GET", "/still", &foreign),
        request_with("GET", "/stream?mode=none", &[known]),
    ];
    // 10 viewers, 16 short responses, 16 that wait, 256 heads; and one that is just being accepted or has just ended.
    let most = 10 + 16 + 16 + 256 + 1;
    let most = Footprint { threads: before.threads + most, descriptors: before.descriptors + most };
    let mut unread = Vec::new();
    for turn in 0..700 {
        let socket = narrow_connection(server.address(), 4 * 1024);
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        // As much as is taken: the server stops reading when its responses are not read.
        let _ = (&socket).write(requests[turn % requests.len()].repeat(500).as_bytes());
        unread.push(socket);
        if turn % 50 == 49 {
            let footprint = server.footprint();
            assert!(footprint.threads <= most.threads, "{footprint:?} after {turn} connections, at most {most:?}");
            assert!(footprint.descriptors <= most.descriptors, "{footprint:?} after {turn} connections");
        }
    }
    wait_until("one that reads is served", Duration::from_secs(4), || {
        let mut client = server.connect();
        client.try_send(request_with("GET", "/snapshot", &[known])).is_ok()
            && client.try_response("GET").is_ok_and(|response| response.status == 200)
    });
    // Their time, not our leaving, ends them.
    server.wait_footprint(before, PATIENCE);
    drop(unread);
    assert_eq!(server.connect().exchange(request_with("GET", "/snapshot", &[known])).status, 200);
}

/// The oldest silent connection makes room for the newest, and the youngest stay.
#[test]
fn the_oldest_silent_connect_goes_first() {
    sys::need_descriptors(1_000);
    let server = TestServer::start(&[]);
    let silent: Vec<TcpStream> = (0..300).map(|_| server.connect().into_socket()).collect();
    let oldest = &silent[..20];
    wait_until("the oldest are closed", Duration::from_secs(3), || {
        sys::wait_readable(oldest, Duration::ZERO).len() == oldest.len()
    });
    // The youngest still has its time to ask.
    let mut youngest = Client::over(silent.into_iter().next_back().expect("300 of them"));
    assert_eq!(youngest.exchange(request("GET", "/")).status, 200);
}

/// Without a descriptor to spare nothing can be accepted; when there is one again, everything goes on.
#[test]
fn descriptors_run_out_and_come_back() {
    let (server, viewer) = watched_server(&[]);
    let before = server.footprint();
    sys::limit_descriptors(server.pid(), before.descriptors as u64 + 6);
    let crowd = crowd(server.address(), 60);
    let cpu = server.cpu_time();
    let watch = Duration::from_secs(2);
    thread::sleep(watch);
    let spent = server.cpu_time() - cpu;
    assert!(spent < watch / 2, "no busy loop: {spent:?} of CPU in {watch:?}");
    drop(crowd);
    assert_recovers(&server);
    server.wait_footprint(before, PATIENCE);
    viewer.finish();
}

/// The same with the limit there from the start, as a service manager sets it.
#[test]
fn a_low_descriptor_limit_at_the_start() {
    let server = TestServer::start_with_ulimit("-n 40", &["--size", "320x240"]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    let crowd = crowd(server.address(), 100);
    for _ in 0..10 {
        viewer.next_part();
    }
    drop(crowd);
    assert_recovers(&server);
    viewer.next_part();
}

/// Viewers and silent connects, as many as asked for, of which the server may not even accept the last.
fn crowd(address: SocketAddr, size: usize) -> Vec<Client> {
    let join = |turn: usize| {
        let mut client = Client::connect(address);
        if turn.is_multiple_of(2) {
            let _ = client.try_send(request("GET", "/stream"));
        }
        client
    };
    (0..size).map(join).collect()
}

/// Snapshots are answered again, after refusals at first perhaps.
#[track_caller]
fn assert_recovers(server: &TestServer) {
    wait_until("a snapshot is answered again", PATIENCE, || {
        let mut client = server.connect();
        client.try_send(request("GET", "/snapshot")).is_ok()
            && client.try_response("GET").is_ok_and(|response| response.status == 200)
    });
}

/// Whoever the limit on threads binds: not root.
const NOBODY: u32 = 65_534;

/// No thread can be made for a connection: it is told so by 503, and the next one is served when threads are back.
#[test]
fn threads_run_out_and_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = TestServer::spawn(unprivileged(folder.path()), &["--size", "320x240"]);
    let viewer = Viewer::watch(&server);
    server.assert_answers();
    let before = server.footprint();
    sys::forbid_threads(server.pid(), NOBODY, true);
    for turn in 0..20 {
        let mut client = server.connect();
        // The refusal may come before the request has been sent.
        let _ = client.try_send(request("GET", "/snapshot"));
        let response = client.try_response("GET").unwrap_or_else(|e| panic!("connection {turn}: no response: {e}"));
        response.assert_unavailable();
        client.assert_closed();
    }
    sys::forbid_threads(server.pid(), NOBODY, false);
    assert_eq!(server.get("/snapshot").status, 200);
    server.wait_footprint(before, PATIENCE);
    viewer.finish();
}

/// A command for framehub as a user whom the limit on threads binds. It does not bind root, so root becomes
/// nobody, who may not be able to reach the build folder: hence the copy.
fn unprivileged(folder: &std::path::Path) -> Command {
    if !sys::is_root() {
        return Command::new(env!("CARGO_BIN_EXE_framehub"));
    }
    let copy = folder.join("framehub");
    fs::copy(env!("CARGO_BIN_EXE_framehub"), &copy).expect("the binary can be copied");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("our own folder");
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command
}
