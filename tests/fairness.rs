//! Viewers that cannot hurt each other: slow ones, silent ones, stalled ones, and five hundred at the same moment.

mod recorder;
mod support;

use std::fs;
use std::io::BufReader;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use recorder::{NARROW, Over, Parts, Seen, captured, duration, median};
use support::{
    Client, PATIENCE, SNAPSHOT_LIMIT, SlowReader, TestServer, is_long_run, narrow_connection, request, stalled_viewer,
    sys, wait_until,
};

const NO_PAUSE: Duration = Duration::ZERO;

/// These tests measure time: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Buffers of all TCP sockets of this machine, in KiB.
fn tcp_memory_kib() -> u64 {
    let sockstat = fs::read_to_string("/proc/net/sockstat").expect("sockstat");
    let line = sockstat.lines().find(|line| line.starts_with("TCP:")).expect("a line on TCP");
    let pages: u64 = line.rsplit(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4
}

/// What ten fast viewers and the machine saw for a time.
struct Watched {
    /// Frames a second, in the mean of the ten.
    rate: f64,
    /// Frames that the camera made, a second.
    captured: f64,
    /// In the median of many looks.
    tcp_kib: u64,
}

/// Frames, and for how many seconds of the camera's clock they were watched.
type ByClock = (Vec<Seen>, f64);

fn watch(viewers: &mut [Parts], time: Duration) -> Watched {
    let mut looks = Vec::new();
    let all: Vec<ByClock> = thread::scope(|scope| {
        let read = |viewer: &mut Parts| {
            let begin = viewer.next().expect("the stream goes on");
            let seen = viewer.take_for(time, NO_PAUSE);
            // By the camera's clock: no frame more or less for a viewer that is woken a little later.
            let last = seen.last().expect("frames").stamp.mono_ns;
            (seen, (last - begin.stamp.mono_ns) as f64 / 1e9)
        };
        let readers: Vec<_> = viewers.iter_mut().map(|viewer| scope.spawn(move || read(viewer))).collect();
        let start = Instant::now();
        while start.elapsed() < time {
            looks.push(tcp_memory_kib());
            thread::sleep(Duration::from_millis(50));
        }
        readers.into_iter().map(|reader| reader.join().expect("no panic")).collect()
    });
    looks.sort();
    let mean = |value: fn(&ByClock) -> f64| all.iter().map(value).sum::<f64>() / all.len() as f64;
    Watched {
        rate: mean(|(seen, seconds)| seen.len() as f64 / seconds),
        captured: mean(|(seen, seconds)| captured(seen) as f64 / seconds),
        tcp_kib: looks[looks.len() / 2],
    }
}

/// Ten fast viewers, then the same with one at 200 KB/s and one that never reads beside them: nobody notices. The one
/// at 200 KB/s sees pictures of 100 KB no older than 1.2 s; the one that never reads is dropped within 10 s.
///
/// The long run needs a quiet machine and allows a difference of 1 %. The short one cannot tell a camera that is held
/// up by viewers from one that is held up by the machine's other work: it allows half of the captured frames to be
/// missing, and 10 % of those that were captured. Either looks again, up to three times.
#[test]
fn slow_viewers_cost_the_fast_ones_nothing() {
    let _alone = alone();
    let (time, attempts) = (Duration::from_secs(if is_long_run() { 60 } else { 6 }), 3);
    let device = "synthetic:bytes=100000";
    let server = TestServer::start(&["--device", device, "--size", "1280x720", "--fps", "30"]);
    let mut viewers: Vec<Parts> = (0..10).map(|_| Parts::open(&server, "/stream")).collect();
    for attempt in 1..=attempts {
        let without = watch(&mut viewers, time);
        let over = Over::default();
        let (with, ages, dropped) = thread::scope(|scope| {
            let watching = over.when_dropped();
            let slow = scope.spawn(|| ages_at(&server, 200_000, &over));
            let silent = scope.spawn(|| time_until_dropped(&server));
            let with = watch(&mut viewers, time);
            drop(watching);
            (with, slow.join().expect("no panic"), silent.join().expect("no panic"))
        });
        let age = median(ages);
        let tcp_more = with.tcp_kib.saturating_sub(without.tcp_kib);
        let off = |without: f64, with: f64| (without - with) / without * 100.0;
        let (rate_off, captured_off) = (off(without.rate, with.rate), off(without.captured, with.captured));
        let share_off = off(without.rate / without.captured, with.rate / with.captured);
        let is_unhurt = match is_long_run() {
            true => rate_off.abs() < 1.0 && captured_off.abs() < 1.0,
            false => share_off < 10.0 && captured_off < 50.0,
        };
        eprintln!(
            "rate {:.2} without, {:.2} with: {rate_off:.2} %; captured {:.2} without, {:.2} with: {captured_off:.2} %; \
             pictures at 200 KB/s are {age:?} old in the median; TCP memory {} KiB without, {} with; dropped after \
             {dropped:?}",
            without.rate, with.rate, without.captured, with.captured, without.tcp_kib, with.tcp_kib
        );
        assert!(dropped < Duration::from_secs(10), "the one that never reads was dropped after {dropped:?}");
        if is_unhurt && tcp_more < 2_000 && age < Duration::from_millis(1_200) {
            return;
        }
        assert!(attempt < attempts, "not once in {attempts} attempts");
    }
}

/// How old the pictures are that a viewer with so many bytes a second gets.
fn ages_at(server: &TestServer, bytes_per_second: u32, over: &Over) -> Vec<Duration> {
    let reader = Parts::open(server, "/stream").into_reader();
    let mut parts = Parts::new(BufReader::with_capacity(4096, SlowReader::new(reader, bytes_per_second)));
    let mut ages = Vec::new();
    while !over.is() {
        ages.push(parts.next().expect("the stream goes on").age);
    }
    ages
}

fn times(server: &TestServer, event: &str) -> usize {
    server.log().iter().filter(|line| line.contains(event)).count()
}

fn time_until_dropped(server: &TestServer) -> Duration {
    let dropped = || times(server, "reason=\"stopped reading\"");
    let (before, came) = (dropped(), Instant::now());
    let silent = stalled_viewer(server.address());
    wait_until("the one that never reads is dropped", PATIENCE, || dropped() > before);
    drop(silent);
    came.elapsed()
}

/// A request that calls itself something.
fn request_as(user_agent: &str) -> String {
    format!("GET /stream HTTP/1.1\r\nHost: framehub.test\r\nUser-Agent: {user_agent}\r\n\r\n")
}

/// A viewer that asked for the stream and reads nothing of it.
fn stalled_client(server: &TestServer, user_agent: &str) -> TcpStream {
    let mut client = Client::over(narrow_connection(server.address(), NARROW));
    client.send(request_as(user_agent));
    client.into_socket()
}

/// When all viewers are there, one that has taken nothing for 2 s is evicted, an old connection of the same client
/// first. A viewer that takes frames stays.
#[test]
fn stalled_viewers_are_evicted_for_newcomers() {
    let _alone = alone();
    let server = TestServer::start(&["--fps", "30", "--max-clients", "3"]);
    let mut taking = Parts::open(&server, "/stream");
    let over = Over::default();
    thread::scope(|scope| {
        let coming = over.when_dropped();
        let taking = scope.spawn(|| {
            let mut frames = 0;
            while !over.is() {
                taking.next().expect("a viewer that takes frames is never evicted");
                frames += 1;
            }
            frames
        });
        // One after the other, since each one's thread takes its number: 3 is the same client's.
        let came = |count| wait_until("the viewer came", PATIENCE, || times(&server, "viewer came") == count);
        came(1);
        let _other = stalled_client(&server, "VLC/3");
        came(2);
        let _same_client = stalled_client(&server, "Safari/17");
        came(3);
        let come = |user_agent: &str| {
            let mut client = server.connect();
            let response = client.exchange(request_as(user_agent));
            (response, client)
        };
        come("Safari/17").0.assert_unavailable();
        assert_eq!(times(&server, "viewer left"), 0, "a pause is forgiven");
        thread::sleep(Duration::from_millis(3_500));

        let (response, _first) = come("Safari/17");
        assert_eq!(response.status, 200, "{}", response.head);
        let left = server.wait_log("another wanted the place", PATIENCE);
        assert!(left.contains("id=3 "), "the same client, which came third: {left}");
        let (response, _second) = come("Safari/17");
        assert_eq!(response.status, 200, "{}", response.head);
        wait_until("the other stalled viewer goes too", PATIENCE, || times(&server, "another wanted the place") == 2);
        come("Safari/17").0.assert_unavailable();
        drop(coming);
        assert!(taking.join().expect("it was never evicted") > 60);
    });
}

/// An address can have its own limit, which is off by default.
#[test]
fn one_address_can_be_kept_from_taking_every_permit() {
    let _alone = alone();
    let server = TestServer::start(&["--size", "320x240", "--max-clients-per-address", "2"]);
    let mut viewers: Vec<Parts> = (0..2).map(|_| Parts::open(&server, "/stream")).collect();
    let response = server.get("/stream");
    response.assert_unavailable();
    assert!(response.text().contains("--max-clients-per-address"), "{}", response.text());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&"127.0.0.2:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("another address");
    socket.connect(&server.address().into()).expect("the server accepts connections");
    let mut elsewhere = Client::over(socket.into());
    assert_eq!(elsewhere.exchange(request("GET", "/stream")).status, 200, "another address has its own");
    viewers.iter_mut().for_each(|viewer| _ = viewer.next().expect("a frame"));
}

/// 500 connect at once, half of them saying nothing, where there is room for 50 viewers and 50 are there: those lose
/// nothing, snapshots are answered, and afterwards all is as it was before.
#[test]
fn a_burst_of_connections_hurts_nobody() {
    let _alone = alone();
    sys::need_descriptors(2_000);
    let server = TestServer::start(&["--size", "320x240", "--fps", "15", "--max-clients", "50"]);
    let mut viewers: Vec<Parts> = (0..50).map(|_| Parts::open(&server, "/stream?mode=all")).collect();
    viewers.iter_mut().for_each(|viewer| _ = viewer.next().expect("a frame"));
    let before = server.footprint();
    let over = Over::default();
    thread::scope(|scope| {
        let bursting = over.when_dropped();
        let readers: Vec<_> = viewers
            .iter_mut()
            .map(|viewer| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    while !over.is() {
                        seen.push(viewer.next().expect("a viewer that is here stays"));
                    }
                    seen
                })
            })
            .collect();
        let burst: Vec<TcpStream> = (0..500).map(|number| connect_and_ask(&server, number)).collect();
        let rounds = if is_long_run() { 50 } else { 5 };
        for _ in 0..rounds {
            let start = Instant::now();
            assert_eq!(server.get("/snapshot").status, 200);
            assert!(start.elapsed() < SNAPSHOT_LIMIT, "a snapshot after {:?}", start.elapsed());
        }
        thread::sleep(duration(Duration::from_secs(20)));
        eprintln!("{:?} with the burst, {before:?} before", server.footprint());
        drop(burst);
        // The readers go on: it is their threads and descriptors that remain.
        server.wait_footprint(before, PATIENCE);
        drop(bursting);
        for (number, reader) in readers.into_iter().enumerate() {
            let seen = reader.join().expect("a viewer that is here stays");
            recorder::assert_no_gap(&format!("viewer {number}"), &recorder::numbers(&seen));
            let oldest = seen.iter().map(|frame| frame.age).max().expect("frames");
            assert!(oldest < Duration::from_secs(2), "viewer {number} saw a picture {oldest:?} old");
        }
    });
}

/// Every other one of them asks for a stream.
fn connect_and_ask(server: &TestServer, number: usize) -> TcpStream {
    let mut client = server.connect();
    if number.is_multiple_of(2) {
        // It may have been turned away before it could ask.
        let _ = client.try_send(request("GET", "/stream"));
    }
    client.into_socket()
}

/// What the process may not have is said at the start, with the words that help.
#[test]
fn the_start_says_which_limits_are_too_low() {
    for (ulimit, words) in [("-n 200", ["descriptors", "LimitNOFILE="]), ("-p 200", ["threads", "LimitNPROC="])] {
        let server = TestServer::start_with_ulimit(ulimit, &["--max-clients", "300"]);
        let line = server.wait_log(words[1], PATIENCE);
        assert!(line.contains(words[0]) && line.contains("only 200"), "{line}");
    }
}
