//! The pictures that a command writes to its standard output, and what becomes of the command.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, program, wait_until};

/// A folder with some pictures in it, `1.jpg` to `3.jpg`, and the large one of another camera, `still.jpg`.
struct Pictures {
    folder: tempfile::TempDir,
}

impl Pictures {
    fn new() -> Pictures {
        let folder = tempfile::tempdir().expect("a folder");
        let small = TestServer::start(&["--size", "160x120", "--still-size", "640x480"]);
        let mut viewer = small.stream("/stream");
        for number in 1..=3 {
            fs::write(folder.path().join(format!("{number}.jpg")), viewer.next_part().jpeg).expect("a file");
        }
        fs::write(folder.path().join("still.jpg"), small.get("/still").body).expect("a file");
        Pictures { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_default()
    }

    /// A camera at 20 fps that notes its process number in `pids`.
    fn camera(&self) -> String {
        let folder = self.folder.path().display();
        format!("cd {folder}; echo $$ >> pids; while :; do cat 1.jpg 2.jpg 3.jpg; sleep 0.15; done")
    }

    fn pids(&self) -> Vec<u32> {
        let pids = String::from_utf8(self.read("pids")).expect("text");
        pids.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
    }
}

fn start(command: &str, args: &[&str]) -> TestServer {
    let idle: &[&str] = if args.contains(&"--idle") { &[] } else { &["--idle", "0.3"] };
    TestServer::start(&[&["--device", &format!("exec:{command}")], idle, args].concat())
}

/// Whether a process lives; one that has ended and was not reaped does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// All that have this text in their command line.
fn with_text(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("a folder").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_text = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && String::from_utf8_lossy(&line).contains(text) && lives(*pid)
    };
    pids.filter(has_text).collect()
}

#[test]
fn it_runs_while_somebody_watches() {
    let pictures = Pictures::new();
    let server = start(&pictures.camera(), &[]);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(pictures.pids(), [], "nobody watches yet");
    let mut viewer = server.stream("/stream");
    for _ in 0..9 {
        let shown = viewer.next_part().jpeg;
        assert!((1..=3).any(|number| pictures.read(&format!("{number}.jpg")) == shown), "bit by bit");
    }
    let mut second = server.stream("/stream");
    second.next_part();
    let pids = pictures.pids();
    assert_eq!(pids.len(), 1, "one for all");
    assert!(server.get("/state").text().contains("160"));
    drop((viewer, second));
    wait_until("it is ended when nobody watches", PATIENCE, || !lives(pids[0]));
    wait_until("with its supervisor", PATIENCE, || with_text(&pictures.folder.path().display().to_string()).len() == 1);
    // And again.
    assert_eq!(server.get("/snapshot").status, 200);
    assert_eq!(pictures.pids().len(), 2);
}

#[test]
fn no_process_of_it_outlives_framehub() {
    for (signal, name, wrap) in [
        (9, "plain", "CAMERA"),
        (9, "ignores SIGTERM", "trap '' TERM HUP INT; CAMERA"),
        (9, "a pipeline", "(CAMERA) | cat | cat"),
        (9, "in the background", "(CAMERA) & (CAMERA) & wait"),
        (9, "in its own session", "setsid sh -c 'echo $$ >> FOLDER/pids; sleep 1000' & CAMERA"),
        (15, "asked to end", "trap '' TERM; CAMERA"),
        (2, "interrupted", "(CAMERA) | cat"),
    ] {
        let pictures = Pictures::new();
        let folder = pictures.folder.path().display().to_string();
        let camera = wrap.replace("CAMERA", &pictures.camera()).replace("FOLDER", &folder);
        let mut server = start(&camera, &[]);
        server.stream("/stream").next_part();
        wait_until("it runs", PATIENCE, || !pictures.pids().is_empty());
        server.stop(signal);
        wait_until(&format!("{name}: nothing is left"), PATIENCE, || with_text(&folder).is_empty());
        let left: Vec<_> = pictures.pids().into_iter().filter(|pid| lives(*pid)).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

/// SIGTERM first; what ignores it is killed after 2 s, and the next run waits for that.
#[test]
fn a_command_that_ignores_sigterm_is_killed_before_it_runs_again() {
    let pictures = Pictures::new();
    let server = start(&format!("trap '' TERM; {}", pictures.camera()), &[]);
    server.stream("/stream").next_part();
    wait_until("it is closed", PATIENCE, || server.get("/state").text().contains("asleep"));
    let first = pictures.pids()[0];
    wait_until("it runs again", PATIENCE, || server.get("/snapshot").status == 200);
    assert!(!lives(first) && pictures.pids().len() == 2, "one at a time");
}

#[test]
fn a_command_that_ends_is_told_and_started_again() {
    let pictures = Pictures::new();
    let folder = pictures.folder.path().display().to_string();
    let server =
        start(&format!("cd {folder}; echo $$ >> pids; echo 'no camera at rtsp://me:secret@host/' >&2; exit 3"), &[]);
    let _viewer = server.connect().stream(support::request("GET", "/stream"));
    let line = server.wait_log("exit status 3", PATIENCE);
    assert!(line.contains("no camera at rtsp://***@host/"), "{line}");
    let began = Instant::now();
    wait_until("it is tried again", PATIENCE, || pictures.pids().len() >= 3);
    assert!(began.elapsed() > Duration::from_secs(2), "with growing pauses");
    assert!(server.get("/snapshot").text().contains("exit status 3"));
    drop(server);
    // One that cannot be found, one that is killed, and one that says nothing.
    for (command, words) in
        [("no-such-command-here", "not found"), ("kill -9 $$", "signal 9"), ("true", "exit status 0")]
    {
        let server = start(command, &[]);
        let refusal = server.get("/snapshot");
        refusal.assert_unavailable();
        assert!(refusal.text().contains(words), "{command}: {}", refusal.text());
        assert!(server.log().iter().all(|line| !line.contains("secret")));
    }
}

/// It may hang again and again: the next run may not, and has its turn soon.
#[test]
fn a_command_that_hangs_is_started_again_and_again() {
    let pictures = Pictures::new();
    let folder = pictures.folder.path().display().to_string();
    let hang = format!("cd {folder}; date +%s >> starts; [ $(wc -l < starts) -gt 3 ] || exec sleep 1000");
    let server = start(&format!("{hang}; {}", pictures.camera()), &[]);
    let _viewer = server.connect().stream(support::request("GET", "/stream"));
    let starts = || -> Vec<u64> {
        let starts = String::from_utf8(pictures.read("starts")).expect("text");
        starts.split_whitespace().map(|second| second.parse().expect("a number")).collect()
    };
    wait_until("the fourth run", PATIENCE * 4, || starts().len() == 4);
    wait_until("its pictures", PATIENCE, || server.get("/snapshot").status == 200);
    let pauses: Vec<u64> = starts().windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Eight seconds for its first picture, one until the next run, and some for a busy machine.
    assert!(pauses.iter().all(|pause| *pause <= 15), "{pauses:?}");
}

/// Pictures until the end come through; then it starts again.
#[test]
fn a_command_that_crashes_now_and_then_goes_on() {
    let pictures = Pictures::new();
    let folder = pictures.folder.path().display().to_string();
    let server =
        start(&format!("cd {folder}; for n in 1 2 3; do cat $n.jpg; sleep 0.1; done; head -c 999 1.jpg; exit 1"), &[]);
    let mut viewer = server.stream("/stream?no_signal=0");
    (0..9).for_each(|_| _ = viewer.next_part());
    assert!(server.log().iter().any(|line| line.contains("exit status 1")));
}

/// A chatty command does not fill the log, and what it writes reaches nobody else.
#[test]
fn its_error_output_is_in_the_log_and_limited() {
    let pictures = Pictures::new();
    let command = format!("(while :; do echo a line of it >&2; done) & {}", pictures.camera());
    let server = start(&command, &[]);
    let mut viewer = server.stream("/stream");
    (0..9).for_each(|_| _ = viewer.next_part());
    let lines = server.log().iter().filter(|line| line.contains("command: a line of it")).count();
    assert!((1..=60).contains(&lines), "{lines}");
    assert!(server.peak_rss_kib() < 60_000);
}

#[test]
fn garbage_of_a_command_is_passed_over() {
    let pictures = Pictures::new();
    for (name, garbage) in [
        ("zeros", "head -c 100000000 /dev/zero"),
        ("noise", "head -c 3000000 /dev/urandom"),
        ("text", "seq 1 200000"),
        ("an endless picture", "cat 1.jpg | head -c 3000; tr '\\0' 'x' < /dev/zero | head -c 100000000"),
        ("SOI", "yes \"$(printf '\\377\\330\\377')\" | head -c 3000000"),
    ] {
        let camera = pictures.camera();
        let server = start(&format!("cd {}; {garbage}; {camera}", pictures.folder.path().display()), &[]);
        let mut viewer = server.stream("/stream?no_signal=0");
        for _ in 0..6 {
            let shown = viewer.next_part().jpeg;
            assert!((1..=3).any(|number| pictures.read(&format!("{number}.jpg")) == shown), "{name}");
        }
        assert!(server.peak_rss_kib() < 60_000, "{name}: {} KiB", server.peak_rss_kib());
    }
}

/// It gets neither our credentials nor our sockets.
#[test]
fn it_sees_nothing_of_framehubs() {
    let pictures = Pictures::new();
    let folder = pictures.folder.path().display().to_string();
    let command = format!("cd {folder}; env > env; ls -l /proc/self/fd > fds; {}", pictures.camera());
    let mut with_secrets = program();
    with_secrets.env("FRAMEHUB_TOKEN", "secret-token").env("FRAMEHUB_SOURCE_USER", "me");
    with_secrets.env("FRAMEHUB_SOURCE_PASSWORD", "secret");
    let server = TestServer::spawn(with_secrets, &["--device", &format!("exec:{command}")]);
    let mut viewer = server.connect();
    viewer.send(support::request("GET", "/snapshot?token=secret-token"));
    assert_eq!(viewer.response().status, 200);
    let env = String::from_utf8(pictures.read("env")).expect("text");
    assert!(!env.contains("FRAMEHUB") && !env.contains("secret"), "{env}");
    let fds = String::from_utf8(pictures.read("fds")).expect("text");
    assert!(fds.contains("pipe:") && !fds.contains("socket:"), "{fds}");
}

#[test]
fn a_still_command_has_the_camera_to_itself() {
    let pictures = Pictures::new();
    let folder = pictures.folder.path().display().to_string();
    let still = format!(
        "cd {folder}; kill -0 $(tail -n 1 pids) 2> /dev/null && echo busy >> busy; echo x >> stills; sleep 0.3; cat still.jpg"
    );
    let server = start(&pictures.camera(), &["--still-command", &still, "--idle", "30"]);
    let mut viewer = server.stream("/stream?no_signal=0");
    viewer.next_part();
    let taken: Vec<_> = thread::scope(|scope| {
        let take = || scope.spawn(|| server.get("/still"));
        let threads: Vec<_> = (0..8).map(|_| take()).collect();
        threads.into_iter().map(|thread| thread.join().expect("a response")).collect()
    });
    for response in &taken {
        assert_eq!((response.status, response.expect_header("X-Frame-Size")), (200, "640x480"), "{}", response.head);
        assert_eq!(response.body, pictures.read("still.jpg"), "bit by bit");
    }
    let runs = pictures.read("stills").len() / 2;
    assert!((1..=3).contains(&runs), "requests that come together share it: {runs}");
    assert!(pictures.read("busy").is_empty(), "live had ended");
    (0..6).for_each(|_| _ = viewer.next_part());
    // One that fails says why, and live goes on.
    drop(viewer);
    drop(server);
    let server = start(&pictures.camera(), &["--still-command", "echo no film >&2; exit 5", "--idle", "30"]);
    let mut viewer = server.stream("/stream?no_signal=0");
    viewer.next_part();
    let refusal = server.get("/still");
    refusal.assert_unavailable();
    assert!(refusal.text().contains("no film"), "{}", refusal.text());
    (0..6).for_each(|_| _ = viewer.next_part());
    // A still alone opens no live stream.
    let runs = pictures.pids().len();
    drop((viewer, server));
    let still = format!("cat {}", pictures.path("still.jpg").display());
    let server = start(&pictures.camera(), &["--still-command", &still]);
    assert_eq!(server.get("/still").body, pictures.read("still.jpg"));
    assert_eq!(pictures.pids().len(), runs);
}

#[test]
fn standard_input_is_a_camera() {
    let pictures = Pictures::new();
    let path = |name: &str| pictures.path(name).display().to_string();
    // The writer ends once nobody reads: its next picture has nowhere to go.
    let writer = pictures.camera().replace("cat 1.jpg 2.jpg 3.jpg", "cat 1.jpg 2.jpg 3.jpg || exit");
    let script = format!("mkfifo {0}; ({writer}) > {0} & exec \"$0\" \"$@\" < {0}", path("in"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_framehub")]);
    let server = TestServer::spawn(shell, &["--device", "-", "--idle", "0.3"]);
    for _ in 0..2 {
        let mut viewer = server.stream("/stream?no_signal=0");
        for _ in 0..6 {
            let shown = viewer.next_part().jpeg;
            assert!((1..=3).any(|number| pictures.read(&format!("{number}.jpg")) == shown));
        }
        drop(viewer);
        wait_until("it is closed", PATIENCE, || server.get("/state").text().contains("asleep"));
    }
    drop(server);
    wait_until("the writer ends too", PATIENCE, || with_text(&pictures.folder.path().display().to_string()).is_empty());
    // A file is a recording; what has ended is told.
    for (redirect, words) in [("< /dev/null", "has ended"), (&*format!("< {}", path("1.jpg")), "")] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirect}"), env!("CARGO_BIN_EXE_framehub")]);
        let server = TestServer::spawn(shell, &["--device", "-"]);
        let snapshot = server.get("/snapshot");
        match words {
            "" => assert!(snapshot.status == 200 && snapshot.body.len() > 1000, "{}", snapshot.text()),
            words => assert!(snapshot.text().contains(words), "{}", snapshot.text()),
        }
    }
}

/// `--check` examines a command and a still's command like a camera.
#[test]
fn it_can_be_examined() {
    let pictures = Pictures::new();
    let (camera, still) =
        (format!("exec:{}", pictures.camera()), format!("cat {}", pictures.path("still.jpg").display()));
    for (still, words) in [(still.as_str(), "still 640x480: in "), ("echo no film >&2", "no film")] {
        let output =
            program().args(["--check", "--device", &camera, "--still-command", still]).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), words.starts_with("still"), "{text}");
        assert!(text.contains(words) && !text.contains("0x0"), "{text}");
        assert!(text.contains("160x120") || !output.status.success(), "{text}");
    }
}
