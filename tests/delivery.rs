//! The three modes of delivery, each with its promise: the newest frame; every frame or an end that says where; the
//! same frames for all.
//!
//! With FRAMEHUB_LONG=1 the times are those of the promise, 10 minutes for `all`; otherwise a tenth of them.

mod recorder;
mod support;

use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use recorder::{Over, Parts, Seen, assert_no_gap, captured, duration, median, numbers};
use support::{EXIT_LIMIT, PATIENCE, TestServer, is_long_run, request, sys, wait_until};

const NO_PAUSE: Duration = Duration::ZERO;
/// Frames of 40 KB.
const CAMERA: &str = "synthetic:bytes=40000";

/// These tests measure time and memory: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn times(server: &TestServer, event: &str) -> usize {
    server.log().iter().filter(|line| line.contains(event)).count()
}

/// Most resident memory while `work` goes on, in KiB.
fn most_memory<T>(server: &TestServer, work: impl FnOnce() -> T) -> (u64, T) {
    let over = Over::default();
    thread::scope(|scope| {
        let working = over.when_dropped();
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !over.is() {
                most = most.max(server.rss_kib());
                thread::sleep(Duration::from_millis(100));
            }
            most
        });
        let result = work();
        drop(working);
        (watch.join().expect("no panic"), result)
    })
}

/// Four recorders: fast; with pauses; at 60 % of the rate, which ends when the ring has turned once; and one whose
/// single pause is too long for a connection. Nobody has a gap, and those that ended are told where.
#[test]
fn all_frames_or_an_end_that_says_where() {
    let _alone = alone();
    // A tenth of the memory for a tenth of the time. A recorder at 60 % falls behind by 12 frames of 40 KB a second.
    let mebibytes = if is_long_run() { 64 } else { 7 };
    let time = duration(Duration::from_secs(600));
    let memory = format!("{mebibytes}MiB");
    let server = TestServer::start(&["--device", CAMERA, "--fps", "30", "--all-frames-memory", &memory]);
    let open = |narrow: bool| match narrow {
        true => Parts::open_narrow(server.address(), "/stream?mode=all"),
        false => Parts::open(&server, "/stream?mode=all"),
    };
    let (mut fast, mut pausing, mut slow, mut silent) = (open(false), open(true), open(true), open(true));
    let start = Instant::now();
    let pauses = || {
        let mut seen = Vec::new();
        while start.elapsed() < time {
            seen.extend(pausing.take_for(duration(Duration::from_secs(30)), NO_PAUSE));
            thread::sleep(Duration::from_secs(3));
        }
        seen
    };
    let falls_behind = || {
        let (seen, end) = slow.take_to_end(time, Duration::from_secs(1) / 18);
        (seen, start.elapsed(), end.expect("the slow one's stream ends").to_string())
    };
    let goes_silent = || {
        let mut seen = silent.take_for(Duration::from_secs(2), NO_PAUSE);
        thread::sleep(Duration::from_secs(13));
        seen.extend(silent.take_for(time, NO_PAUSE));
        seen
    };
    let (most, (fast, pausing, slow, silent)) = most_memory(&server, || {
        thread::scope(|scope| {
            let (pausing, slow, silent) = (scope.spawn(pauses), scope.spawn(falls_behind), scope.spawn(goes_silent));
            let fast = fast.take_for(time, NO_PAUSE);
            let pausing = pausing.join().expect("the pausing reader does not panic");
            let slow = slow.join().expect("the slow reader does not panic");
            (fast, pausing, slow, silent.join().expect("the silent reader does not panic"))
        })
    });
    let (slow, slow_time, slow_end) = slow;
    for (who, seen) in [("fast", &fast), ("pausing", &pausing), ("slow", &slow), ("silent", &silent)] {
        let numbers = numbers(seen);
        assert_no_gap(who, &numbers);
        eprintln!("{who}: {} frames, {} to {}", numbers.len(), numbers[0], numbers[numbers.len() - 1]);
    }
    let rate = fast.len() as f64 / time.as_secs_f64();
    eprintln!("rate {rate:.2}, most resident {most} KiB, the slow one ended after {slow_time:?}: {slow_end}");
    assert_eq!(fast.len() as u64, captured(&fast), "every captured frame");
    assert!(pausing.len() * 10 > fast.len() * 9, "pauses cost nothing: {} of {}", pausing.len(), fast.len());
    assert!(most < mebibytes * 1024 + 16 * 1024, "{most} KiB resident with {mebibytes} MiB of frames");

    let last = slow[slow.len() - 1].number.expect("X-Frame-Seq");
    assert!(slow_end.contains(&format!("fell behind after frame {last}")), "{slow_end}");
    server.wait_log(&format!("fell behind after frame {last}"), PATIENCE);
    server.wait_log("mode=all reason=\"fell behind the ring", PATIENCE);
    assert!(silent.len() < 300, "it was evicted during its pause: {} frames", silent.len());
    server.wait_log("mode=all reason=\"stopped reading\"", PATIENCE);
}

/// Recorders leave, and their memory is the system's again, whatever the size of the frames. Without the allocator's
/// thresholds fixed (system/os.rs) glibc keeps all of it.
#[test]
fn memory_of_an_ended_ring_is_given_back() {
    let _alone = alone();
    // Large frames are mapped one by one; small ones share a heap, which has to be trimmed.
    for (bytes, size, fps) in [("100000", "640x480", "60"), ("13000", "160x120", "120")] {
        let device = format!("synthetic:bytes={bytes}");
        let server = TestServer::start(&["--device", &device, "--size", size, "--fps", fps]);
        let mut viewer = Parts::open(&server, "/stream");
        viewer.take_for(Duration::from_secs(1), NO_PAUSE);
        let before = server.rss_kib();
        let mut recorder = Parts::open(&server, "/stream?mode=all");
        let frames = recorder.take_for(Duration::from_secs(6), NO_PAUSE).len() as u64;
        let filled = server.rss_kib();
        let kept = frames * bytes.parse::<u64>().expect("a number") / 1024;
        assert!(filled > before + kept / 2, "{before} KiB before, {filled} with a ring of about {kept}");
        drop(recorder);
        // The viewer goes on: frames are still made and let go of.
        viewer.take_for(Duration::from_secs(1), NO_PAUSE);
        wait_until("the memory is given back", Duration::from_secs(5), || {
            viewer.next().expect("the stream goes on");
            server.rss_kib() < before + kept / 5
        });
        eprintln!("frames of {bytes} bytes: {before} KiB before, {filled} with the ring, {} after", server.rss_kib());
    }
}

/// A client may begin in the past, as far as the ring reaches, and goes on into the present without a gap.
#[test]
fn all_frames_from_the_past() {
    let _alone = alone();
    let server = TestServer::start(&["--size", "320x240", "--fps", "30", "--replay", "3s", "--idle", "0"]);
    Parts::open(&server, "/stream").take_for(Duration::from_secs(4), NO_PAUSE);
    let read = |target: &str| Parts::open(&server, target).take_for(Duration::from_secs(1), NO_PAUSE);

    let oldest = read("/stream?mode=all&from=1");
    assert_no_gap("from=1", &numbers(&oldest));
    assert!((2.7..3.3).contains(&oldest[0].age.as_secs_f64()), "the ring reaches back {:?}", oldest[0].age);

    let seen = read("/stream?mode=all&last=2s");
    assert_no_gap("last=2s", &numbers(&seen));
    assert!((1.7..2.05).contains(&seen[0].age.as_secs_f64()), "its first frame is {:?} old", seen[0].age);
    assert!(seen[seen.len() - 1].age < Duration::from_millis(500), "and it reaches the present");

    let from = numbers(&seen)[10];
    let again = read(&format!("/stream?mode=all&from={from}"));
    assert_no_gap("from", &numbers(&again));
    assert_eq!((again[0].number, again[0].stamp), (Some(from), seen[10].stamp), "it begins with the frame asked for");

    let present = read("/stream?mode=all");
    assert!(present[0].age < Duration::from_millis(300), "without a wish it begins now: {:?}", present[0].age);

    for (target, words) in [
        ("/stream?mode=all&from=1000000", "restart"),
        ("/stream?mode=all&from=x", "X-Frame-Seq"),
        ("/stream?from=1", "mode=all"),
        ("/stream?mode=any", "lockstep"),
        ("/stream?fps=0", "0.1 to 1000"),
    ] {
        let response = server.get(target);
        assert_eq!(response.status, 400, "{target}");
        assert!(response.text().contains(words), "{target}: {}", response.text());
    }
}

/// Clients at 30, 10 and 3 frames a second get the same frames, 3 a second. When the slowest stalls, the others go
/// on within the patience, at the pace of the one at 10. A viewer in another mode notices nothing.
#[test]
fn lockstep_gives_all_the_same_frames() {
    let _alone = alone();
    let device = "synthetic:bytes=100000";
    let server = TestServer::start(&["--device", device, "--fps", "30", "--lockstep-patience", "2"]);
    let open = || Parts::open_narrow(server.address(), "/stream?mode=lockstep");
    let (mut fast, mut middle, mut slow) = (open(), open(), open());
    let together = Duration::from_secs(if is_long_run() { 60 } else { 10 });
    let apart = Duration::from_secs(8);
    let mut newest = Parts::open(&server, "/stream");
    let (fast, middle, slow, newest) = thread::scope(|scope| {
        let pace = |fps: u32| Duration::from_secs(1) / fps;
        let fast = scope.spawn(|| {
            let mut times = Vec::new();
            let start = Instant::now();
            let mut seen = Vec::new();
            while start.elapsed() < together + apart {
                seen.extend(fast.next());
                times.push(start.elapsed());
            }
            (seen, times)
        });
        let middle = scope.spawn(move || middle.take_for(together + apart, pace(10)));
        let newest = scope.spawn(move || newest.take_for(together + apart, NO_PAUSE));
        let seen = slow.take_for(together, pace(3));
        thread::sleep(apart);
        drop(slow);
        let fast = fast.join().expect("no panic");
        (fast, middle.join().expect("no panic"), seen, newest.join().expect("no panic"))
    });
    let (fast, times) = fast;
    let (fast, middle, slow) = (numbers(&fast), numbers(&middle), numbers(&slow));

    let begin = *fast[0..1].iter().chain(&middle[0..1]).chain(&slow[0..1]).max().expect("three");
    let since = |numbers: &[u64]| numbers.iter().copied().filter(|number| *number >= begin).collect::<Vec<_>>();
    let (fast_all, middle, slow) = (since(&fast), since(&middle), since(&slow));
    assert_eq!(fast_all[..slow.len()], slow[..], "fast and slow get the same");
    let both = fast_all.len().min(middle.len());
    assert_eq!(fast_all[..both], middle[..both], "fast and middle get the same");
    let rate = slow.len() as f64 / together.as_secs_f64();
    assert!((2.6..3.4).contains(&rate), "all at the pace of the slowest: {rate} a second");

    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let longest = gaps.iter().max().expect("many");
    assert!(*longest < Duration::from_millis(2_700), "the others went on after {longest:?}");
    assert!(*longest > Duration::from_millis(1_200), "the slow one was waited for: {longest:?}");
    let last_seconds = times.iter().filter(|time| **time > together + apart - Duration::from_secs(4)).count();
    assert!((30..=48).contains(&last_seconds), "then at 10 a second: {last_seconds} in 4 s");
    let (got, made) = (newest.len() as u64, captured(&newest));
    assert!(got * 10 > made * 9, "a viewer of the newest frame gets {got} of {made}");
    eprintln!("together {rate:.2} a second; longest wait {longest:?}; newest-mode viewer {got} of {made}");
    server.wait_log("mode=lockstep reason=\"held up the other", PATIENCE);
}

/// Twenty clients in each mode on one camera; each mode keeps its promise.
#[test]
fn three_modes_at_once() {
    let _alone = alone();
    let (size, time) = if is_long_run() { ("640x480", 60) } else { ("320x240", 6) };
    let server = TestServer::start(&["--size", size, "--fps", "30"]);
    let read = |mode: &str| {
        let target = format!("/stream?mode={mode}");
        let mut parts = Parts::open(&server, &target);
        move || parts.take_for(Duration::from_secs(time), NO_PAUSE)
    };
    let seen: Vec<_> = thread::scope(|scope| {
        let spawn = |mode: &'static str| {
            let readers: Vec<_> = (0..20).map(|_| scope.spawn(read(mode))).collect();
            (mode, readers)
        };
        let modes: Vec<_> = ["newest", "all", "lockstep"].map(spawn).into();
        let join = |(mode, readers): (_, Vec<thread::ScopedJoinHandle<'_, _>>)| {
            (mode, readers.into_iter().map(|reader| reader.join().expect("no panic")).collect::<Vec<_>>())
        };
        modes.into_iter().map(join).collect()
    });
    for (mode, clients) in &seen {
        let frames: Vec<usize> = clients.iter().map(Vec::len).collect();
        let ages = median(clients.iter().flatten().map(|frame| frame.age).collect());
        eprintln!("{mode}: {frames:?} frames, age in the median {ages:?}");
        let least = clients.iter().map(|client| client.len() as u64 * 100 / captured(client)).min().expect("twenty");
        assert!(least > 60, "{mode}: a client got {least} % of the frames");
        for (number, client) in clients.iter().enumerate() {
            match *mode {
                "all" => assert_no_gap(&format!("all {number}"), &numbers(client)),
                "lockstep" => assert_same_rounds(&numbers(client), &numbers(&clients[0])),
                _ => assert!(client.windows(2).all(|pair| pair[0].stamp.seq < pair[1].stamp.seq)),
            }
        }
    }
    assert_eq!((times(&server, "fell behind"), times(&server, "held up")), (0, 0));
}

/// Where both were there, they got the same.
#[track_caller]
fn assert_same_rounds(one: &[u64], other: &[u64]) {
    let (begin, end) = (one[0].max(other[0]), one[one.len() - 1].min(other[other.len() - 1]));
    let part = |numbers: &[u64]| numbers.iter().copied().filter(|at| (begin..=end).contains(at)).collect::<Vec<_>>();
    assert_eq!(part(one), part(other));
}

/// Of 30 frames a second every third is every third, for one client or for all, and after a replug too.
#[test]
fn fewer_frames_are_spread_evenly() {
    let _alone = alone();
    let read = |server: &TestServer, target: &str| {
        let seen = Parts::open(server, target).take_for(Duration::from_secs(3), NO_PAUSE);
        steps(&seen)
    };
    let server = TestServer::start(&["--size", "320x240", "--fps", "30"]);
    assert_most(3, &read(&server, "/stream?fps=10"));
    assert_most(1, &read(&server, "/stream"));

    let folder = tempfile::tempdir().expect("a folder");
    let plug = folder.path().join("unplugged");
    let device = format!("synthetic:unplug_file={}", plug.display());
    let server = TestServer::start(&["--device", &device, "--size", "320x240", "--fps", "30", "--max-fps", "10"]);
    assert_most(3, &read(&server, "/stream"));
    let mut recorder = Parts::open(&server, "/stream?mode=all");
    let before = recorder.take_for(Duration::from_secs(1), NO_PAUSE);
    assert_no_gap("all of the limited", &numbers(&before));
    std::fs::write(&plug, "").expect("a file");
    server.wait_log("camera lost", PATIENCE);
    std::fs::remove_file(&plug).expect("a file");
    recorder.take_for(Duration::from_secs(2), NO_PAUSE);
    assert_most(3, &read(&server, "/stream"));
}

/// The time from each frame to the next, in periods of a camera at 30 frames a second.
fn steps(seen: &[Seen]) -> Vec<u64> {
    let period = 1_000_000_000 / 30;
    let step = |pair: &[Seen]| (pair[1].stamp.mono_ns - pair[0].stamp.mono_ns + period / 2) / period;
    seen.windows(2).map(step).collect()
}

/// Three of four, since a busy machine makes a frame late now and then.
#[track_caller]
fn assert_most(wanted: u64, steps: &[u64]) {
    let right = steps.iter().filter(|step| **step == wanted).count();
    assert!(steps.len() >= 20 && right * 4 >= steps.len() * 3, "most should be {wanted}: {steps:?}");
}

#[test]
fn the_default_mode_can_be_chosen() {
    let server = TestServer::start(&["--size", "320x240", "--mode", "all"]);
    assert!(Parts::open(&server, "/stream").next().expect("a frame").number.is_some());
    assert!(Parts::open(&server, "/stream?mode=newest").next().expect("a frame").number.is_none());
}

/// A frozen picture must not look live: what was captured before the camera fell asleep is not sent to a viewer that comes.
#[test]
fn a_stream_does_not_begin_with_an_old_picture() {
    let server = TestServer::start(&["--size", "320x240", "--idle", "0.5"]);
    Parts::open(&server, "/stream").next().expect("a frame");
    server.wait_log("camera closed", PATIENCE);
    thread::sleep(Duration::from_secs(2));
    let first = Parts::open(&server, "/stream").next().expect("a frame");
    assert!(first.age < Duration::from_millis(1_500), "its first picture is {:?} old", first.age);
}

/// Two hundred join and leave in every mode and manner; a viewer that stays in lockstep is not held up by those that left.
#[test]
fn a_storm_in_all_modes_leaves_nothing() {
    let _alone = alone();
    sys::need_descriptors(1_000);
    let server = TestServer::start(&["--size", "320x240", "--fps", "30", "--max-clients", "250"]);
    let mut staying = Parts::open(&server, "/stream?mode=lockstep");
    staying.next().expect("a frame");
    let before = server.footprint();
    let over = Over::default();
    thread::scope(|scope| {
        let storming = over.when_dropped();
        let staying = scope.spawn(|| {
            let mut frames = 0;
            while !over.is() {
                staying.next().expect("a viewer that stays goes on");
                frames += 1;
            }
            frames
        });
        let join_and_leave = |number: usize| {
            let server = &server;
            move || {
                let target = format!("/stream?mode={}", ["newest", "all", "lockstep"][number % 3]);
                let mut client = server.connect();
                client.send(request("GET", &target));
                match number % 4 {
                    0 => client.reset(),
                    1 => drop(client),
                    _ => {
                        assert_eq!(client.response().status, 200);
                        Parts::new(client.into_reader()).take_for(Duration::from_millis(500), NO_PAUSE);
                    }
                }
            }
        };
        let storm: Vec<_> = (0..200).map(|number| scope.spawn(join_and_leave(number))).collect();
        storm.into_iter().for_each(|client| client.join().expect("no panic"));
        server.wait_footprint(before, PATIENCE);
        thread::sleep(Duration::from_secs(1));
        drop(storming);
        let frames = staying.join().expect("a viewer that stays goes on");
        assert!(frames > 20, "the viewer that stays gets {frames} frames");
    });
    assert_eq!(times(&server, "held up"), 0, "no viewer that left was waited for");
}

/// SIGTERM with a recorder that is far behind and a lock-step client that stalls: both modes end in time and properly.
#[test]
fn every_mode_ends_with_the_server() {
    let mut server = TestServer::start(&["--device", CAMERA, "--fps", "30"]);
    let mut clients: Vec<Parts> =
        ["all", "lockstep", "newest"].map(|mode| Parts::open(&server, &format!("/stream?mode={mode}"))).into();
    clients.iter_mut().for_each(|client| _ = client.next().expect("a frame"));
    let _behind = Parts::open_narrow(server.address(), "/stream?mode=all");
    let _stalled = Parts::open_narrow(server.address(), "/stream?mode=lockstep");
    thread::scope(|scope| {
        let ends: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(|| client.take_to_end(PATIENCE, NO_PAUSE).1.map(|end| end.to_string())))
            .collect();
        thread::sleep(Duration::from_millis(1_500));
        let (status, time) = server.stop(libc::SIGTERM);
        assert!(status.success() && time < EXIT_LIMIT, "{status} after {time:?}");
        for end in ends {
            assert_eq!(end.join().expect("no panic").as_deref(), Some("ended: "), "the closing boundary, then nothing");
        }
    });
}

/// While the camera is away for a still, viewers of the newest frame get their last one again at least every second,
/// so that players do not give up. Recorders and lock-step clients are spared it.
#[test]
fn only_viewers_of_the_newest_get_their_last_frame_again() {
    let device = "synthetic:switch_ms=1500,sizes=320x240+640x480";
    let server = TestServer::start(&["--device", device, "--size", "320x240", "--fps", "15"]);
    let over = Over::default();
    let read = |mode: &str| {
        let mut parts = Parts::open(&server, &format!("/stream?mode={mode}"));
        let over = &over;
        move || {
            let mut seen = Vec::new();
            while !over.is() {
                seen.push((parts.next().expect("the stream goes on"), Instant::now()));
            }
            seen
        }
    };
    thread::scope(|scope| {
        let watching = over.when_dropped();
        let [newest, all, lockstep] = ["newest", "all", "lockstep"].map(|mode| scope.spawn(read(mode)));
        server.wait_log("pictures are coming", PATIENCE);
        thread::sleep(Duration::from_millis(500));
        let still = server.get("/still");
        assert_eq!((still.status, still.header("X-Frame-Size")), (200, Some("640x480")), "{}", still.head);
        thread::sleep(Duration::from_secs(3));
        drop(watching);
        let newest = newest.join().expect("no panic");
        let again = newest.windows(2).filter(|pair| pair[0].0.stamp == pair[1].0.stamp).count();
        let waits = newest.windows(2).map(|pair| pair[1].1 - pair[0].1);
        let longest = waits.max().expect("frames");
        eprintln!("{again} frames came again, the longest wait was {longest:?}");
        assert!((2..=6).contains(&again), "in about three seconds {again} frames came again");
        assert!(longest < Duration::from_millis(1_300), "the longest wait was {longest:?}");
        for (mode, seen) in [("all", all), ("lockstep", lockstep)] {
            let seen: Vec<Seen> = seen.join().expect("no panic").into_iter().map(|(seen, _)| seen).collect();
            assert!(seen.windows(2).all(|pair| pair[0].number < pair[1].number), "{mode}: none comes twice");
        }
    });
}
