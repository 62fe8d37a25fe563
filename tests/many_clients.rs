//! Many viewers at once: each gets pictures, each costs one thread, and when they are gone so is what they cost.

mod support;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Client, Footprint, PATIENCE, SNAPSHOT_LIMIT, TestServer, crowd, is_long_run, request, request_with, storm_rounds,
    sys, wait_until,
};

/// Crowds share two cores badly: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// tiny_http's server answered 4 to 10 of ten, and about half of a hundred.
#[test]
fn a_hundred_at_the_same_moment_all_get_pictures() {
    let _alone = alone();
    for viewers in [10, 100] {
        let server = TestServer::start(&["--max-clients", "100"]);
        let start = Barrier::new(viewers);
        thread::scope(|scope| {
            for _ in 0..viewers {
                scope.spawn(|| {
                    start.wait();
                    let mut parts = server.stream("/stream");
                    let mut last = parts.next_part().stamp();
                    for _ in 0..10 {
                        let stamp = parts.next_part().stamp();
                        assert!(stamp.seq > last.seq);
                        last = stamp;
                    }
                });
            }
        });
    }
}

/// The default is 64 places for viewers. The next one is told to come again, and snapshots go on.
#[test]
fn a_full_server_refuses_viewers_and_serves_snapshots() {
    let _alone = alone();
    let server = TestServer::start(&["--size", "320x240", "--max-clients", "5"]);
    let mut viewers: Vec<_> = (0..5).map(|_| server.stream("/stream")).collect();
    viewers.iter_mut().for_each(|viewer| drop(viewer.next_part()));
    for target in ["/stream", "/?action=stream", "/mjpg"] {
        let origin = [("Origin", "http://printer.local")];
        let response = server.connect().exchange(request_with("GET", target, &origin));
        response.assert_unavailable();
        assert_eq!(response.expect_header("Access-Control-Allow-Origin"), "http://printer.local");
    }
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(server.get("/snapshot").status, 200);
        assert!(start.elapsed() < SNAPSHOT_LIMIT);
    }
    viewers.iter_mut().for_each(|viewer| drop(viewer.next_part()));
    viewers.pop();
    wait_until("the place is free again", Duration::from_secs(5), || {
        server.connect().exchange(request("GET", "/stream")).status == 200
    });
}

#[test]
fn the_default_is_64_viewers() {
    let _alone = alone();
    let server = TestServer::start(&["--size", "320x240"]);
    let viewers: Vec<_> = (0..64).map(|_| server.stream("/stream")).collect();
    server.get("/stream").assert_unavailable();
    drop(viewers);
}

/// 200 clients join at once, watch for a while or not at all, and leave in every manner there is.
#[test]
fn a_storm_of_joining_and_leaving_leaves_nothing() {
    let _alone = alone();
    sys::need_descriptors(1_000);
    let server = TestServer::start(&["--size", "320x240", "--max-clients", "250"]);
    let mut staying = server.stream("/stream");
    staying.next_part();
    let before = server.footprint();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let staying = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                staying.next_part();
            }
        });
        for _ in 0..storm_rounds() {
            thread::scope(|round| {
                for number in 0..200 {
                    round.spawn({
                        let server = &server;
                        move || join_and_leave(server, number)
                    });
                }
            });
        }
        stop.store(true, Ordering::Relaxed);
        staying.join().expect("the viewer that stays gets golden parts throughout");
    });
    server.wait_footprint(before, PATIENCE);
    assert_eq!(server.get("/snapshot").status, 200);
}

fn join_and_leave(server: &TestServer, number: usize) {
    let mut client = server.connect();
    match number % 6 {
        0 => client.reset(),
        1 => drop(client),
        2 => {
            client.send("GET /stream HTTP/1.1\r\nHo");
            drop(client);
        }
        3 => {
            client.send(request("GET", "/stream"));
            client.reset();
        }
        4 => {
            let (_, mut parts) = client.stream(request("GET", "/stream"));
            (0..5).for_each(|_| drop(parts.next_part()));
        }
        _ => {
            client.send(request("GET", "/stream"));
            assert_eq!(client.response().status, 200);
            client.reset();
        }
    }
}

/// One thread and little memory for each of 1,000 viewers of 20 KB frames at 30 fps: under 40 MB in the long run.
/// The short run has a tenth of the viewers and the same bound for each: 32 KiB, and 2 MB for all of them.
#[test]
fn a_crowd_costs_a_thread_each_and_little_memory() {
    let _alone = alone();
    let viewers = crowd();
    sys::need_descriptors(viewers as u64 + 100);
    let most = viewers.to_string();
    let server = TestServer::start(&["--size", "448x336", "--fps", "30", "--max-clients", &most]);
    let picture = server.get("/snapshot?max_age=60000").body.len();
    assert!((12_000..30_000).contains(&picture), "a picture of about 20 KB: {picture}");
    let (before, rss_before) = (server.footprint(), server.rss_kib());
    let sockets: Vec<TcpStream> = (0..viewers).map(|_| open_stream(&server)).collect();
    let frames_each = if is_long_run() { 30 } else { 60 };
    let shares = read_all_until_each_has(&sockets, frames_each * picture);
    let (footprint, rss) = (server.footprint(), server.rss_kib());
    eprintln!("{viewers} viewers: {footprint:?}, {rss} KiB resident, shares {shares:?}");
    assert!(footprint.threads <= before.threads + viewers + 2, "a thread for each viewer: {footprint:?}");
    assert!(footprint.threads >= viewers, "all are connected: {footprint:?}");
    let grown = rss.saturating_sub(rss_before);
    assert!(grown < viewers as u64 * 32 + 2_000, "{grown} KiB more with {viewers} viewers");
    assert!(rss < 40_000, "{rss} KiB resident with {viewers} viewers");
    drop(sockets);
    server.wait_footprint(Footprint { threads: before.threads + 1, ..before }, PATIENCE);
}

fn open_stream(server: &TestServer) -> TcpStream {
    let mut client = server.connect();
    client.send(request("GET", "/stream"));
    let socket = client.into_socket();
    socket.set_nonblocking(true).expect("a socket can be made non-blocking");
    socket
}

/// Reads from all of them, as they come, until each has `wanted` bytes. Returns the smallest and largest share.
fn read_all_until_each_has(sockets: &[TcpStream], wanted: usize) -> (usize, usize) {
    use std::io::Read;
    let mut shares = vec![0; sockets.len()];
    let mut buffer = vec![0; 256 * 1024];
    let start = Instant::now();
    while shares.iter().any(|&share| share < wanted) {
        for at in sys::wait_readable(sockets, Duration::from_secs(1)) {
            match (&sockets[at]).read(&mut buffer) {
                Ok(0) => panic!("viewer {at} was closed after {} bytes", shares[at]),
                Ok(read) => shares[at] += read,
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock, "viewer {at}"),
            }
        }
        assert!(start.elapsed() < 6 * PATIENCE, "a viewer starves: {:?} of {wanted} bytes", shares.iter().min());
    }
    (shares.iter().copied().min().unwrap_or(0), shares.iter().copied().max().unwrap_or(0))
}

/// Viewers and requests beyond every budget at once: each is served or refused in words, none is left hanging.
#[test]
fn nobody_is_left_without_an_answer() {
    let _alone = alone();
    let server = TestServer::start(&["--size", "320x240", "--max-clients", "10"]);
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(request("GET", if number % 2 == 0 { "/stream" } else { "/snapshot" }));
    }
    let mut streams = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        let response = client.response();
        match response.status {
            200 => streams += usize::from(number % 2 == 0),
            _ => response.assert_unavailable(),
        }
    }
    assert_eq!(streams, 10, "every place is taken, and none twice");
    drop(clients);
}
