//! Clients that take stills leave at least half of the live picture to those that watch it.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer};

/// Needs 0.2 s for each switch, and its first ten pictures are dark.
const SLOW: &str = "synthetic:switch_ms=200,warmup=10,sizes=320x240+640x480";
const FPS: u32 = 30;
const PERIOD: Duration = Duration::from_millis(1000 / FPS as u64);

fn start(options: &[&str]) -> TestServer {
    TestServer::start(&[&["--device", SLOW, "--size=320x240", "--fps=30", "--idle=1"], options].concat())
}

/// When the pictures that a viewer got were taken, each counted once.
fn watch(server: &TestServer, is_over: &AtomicBool) -> Vec<Duration> {
    let mut viewer = server.stream("/stream");
    let mut times = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        times.push(Duration::from_nanos(viewer.next_part().stamp().mono_ns));
    }
    times.dedup();
    times
}

/// Clients that ask for these targets, again and again, for ten seconds in which somebody watches. Returns how many stills
/// they got. The live stream ran after each return for as long as it was away, and had at least half of its frames.
fn besiege(targets: &[&str], options: &[&str]) -> usize {
    let server = start(options);
    let (is_over, stills) = (AtomicBool::new(false), AtomicUsize::new(0));
    let times = thread::scope(|scope| {
        let viewer = scope.spawn(|| watch(&server, &is_over));
        server.wait_log("pictures are coming", PATIENCE);
        let begin = Instant::now();
        for target in targets {
            let (server, stills) = (&server, &stills);
            scope.spawn(move || {
                while begin.elapsed() < Duration::from_secs(10) {
                    let response = server.get(target);
                    assert!([200, 503].contains(&response.status), "{target}: {}", response.head);
                    stills.fetch_add(usize::from(response.status == 200), Ordering::SeqCst);
                }
            });
        }
        thread::sleep(Duration::from_secs(10));
        is_over.store(true, Ordering::SeqCst);
        viewer.join().expect("no panic")
    });
    let stills = stills.into_inner();
    let is_gap = |at: &usize| times[*at] - times[at - 1] > PERIOD * 4;
    let gaps: Vec<usize> = (1..times.len()).filter(is_gap).collect();
    eprintln!("{targets:?}: {stills} stills, {} interruptions, {} frames in 10 s", gaps.len(), times.len());
    assert!(gaps.len() >= 2, "the stills did not interrupt the stream");
    for pair in gaps.windows(2) {
        let (away, ran) = (times[pair[0]] - times[pair[0] - 1], times[pair[1] - 1] - times[pair[0]]);
        assert!(ran >= away, "away for {away:?}, then live for {ran:?} only");
    }
    // From one interruption to another, so that it does not matter in which of the two states the time ends.
    let (first, last) = (gaps[0], gaps[gaps.len() - 1]);
    let share = (last - first) as f64 / ((times[last - 1] - times[first - 1]).as_secs_f64() * f64::from(FPS));
    eprintln!("{:.0} % of the frames", share * 100.0);
    assert!(share > 0.5, "{:.0} % of the frames", share * 100.0);
    stills
}

#[test]
fn one_client_that_takes_still_after_still() {
    assert!(besiege(&["/still"], &[]) >= 3);
}

#[test]
fn several_clients_share_stills_and_none_of_them_starves() {
    let targets = ["/still", "/still?settle=0", "/full_res?settle=9", "/snapshot?size=max&settle=auto"];
    assert!(besiege(&[targets, targets].concat(), &[]) >= 16);
}

#[test]
fn clients_that_have_many_pictures_dropped() {
    besiege(&["/still?settle=60", "/still?settle=59"], &["--still-deadline=1"]);
}

/// What does not fit into the deadline is refused, with the time after which it is worth asking again.
#[test]
fn a_still_that_would_wait_too_long_is_told_when_to_ask_again() {
    let options = ["--still-deadline=1", "--still-settle=60"];
    let server = start(&options);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    assert_eq!(server.get("/still").status, 200);
    let asked = Instant::now();
    let refused = server.get("/still");
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert!(asked.elapsed() < Duration::from_millis(1_500), "{:?}", asked.elapsed());
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("viewers have the live picture"), "{text}");
    let wait: u64 = refused.expect_header("Retry-After").parse().expect("seconds");
    assert!((1..=3).contains(&wait), "{wait} s");
    assert_eq!(server.get("/still?max_age=60000").status, 200, "an earlier one is there for those that want it");
    thread::sleep(Duration::from_secs(wait));
    assert_eq!(server.get("/still").status, 200, "and then a new one");
}

/// Where nobody watches, and for a still now and then, nothing is slower than before.
#[test]
fn nobody_waits_for_viewers_that_are_not_there() {
    let server = start(&["--still-min-interval=0", "--still-settle=0"]);
    let time = |times: usize| {
        let begin = Instant::now();
        (0..times).for_each(|_| assert_eq!(server.get("/still").status, 200));
        begin.elapsed() / times as u32
    };
    time(1);
    let alone = time(5);
    assert!(alone < Duration::from_millis(900), "{alone:?} for a still");
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    thread::sleep(Duration::from_secs(2));
    let watched = time(1);
    assert!(watched < Duration::from_millis(900), "{watched:?} for a still now and then");
}

#[test]
fn wrong_rules_are_refused_with_the_range() {
    let server = start(&[]);
    for target in
        ["/still?settle=61", "/still?settle=1000", "/snapshot?settle=61", "/still?settle=-1", "/still?settle="]
    {
        let response = server.get(target);
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 400, "{target}: {text}");
        assert!(text.contains("expected auto, or a number of pictures from 0 to 60"), "{target}: {text}");
    }
    assert!(!server.log().iter().any(|line| line.contains("camera opened")), "and touch no camera");
}
