//! The real binary as a child process.

use std::fs;
use std::io::{BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Client, Response, request};
use super::multipart::PartReader;
use super::{PATIENCE, sys, wait_until};

/// A framehub that listens and is killed when dropped. Its log goes into the test's output if the test fails.
pub struct TestServer {
    child: Child,
    log: Log,
    addresses: Vec<SocketAddr>,
    exit: Option<ExitStatus>,
}

/// What a process holds: for tests that want everything given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    pub threads: usize,
    pub descriptors: usize,
}

/// The binary under test: cargo's, or what `FRAMEHUB_RUN` names, such as `qemu-arm target/static/framehub-armv7`.
pub fn program() -> Command {
    let run = std::env::var("FRAMEHUB_RUN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_framehub").into());
    let mut words = run.split_whitespace();
    let mut command = Command::new(words.next().expect("FRAMEHUB_RUN names a program"));
    command.args(words);
    command
}

impl TestServer {
    /// Starts with these arguments, and `--device synthetic --listen 127.0.0.1:0` where they say nothing else.
    pub fn start(args: &[&str]) -> TestServer {
        TestServer::spawn(program(), args)
    }

    /// As `start`, but under `ulimit` with these words.
    pub fn start_with_ulimit(limits: &str, args: &[&str]) -> TestServer {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_framehub")]);
        TestServer::spawn(shell, args)
    }

    /// Runs a command that becomes framehub, and returns when it listens on every address asked for.
    pub fn spawn(mut command: Command, args: &[&str]) -> TestServer {
        let names = |option: &str| args.iter().filter(|arg| arg.split('=').next() == Some(option)).count();
        if names("--device") == 0 {
            command.args(["--device", "synthetic"]);
        }
        if names("--listen") == 0 {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(args);
        TestServer::launch(command, names("--listen").max(1))
    }

    /// Runs a command that has all its arguments, and returns when it listens in so many places.
    pub fn launch(mut command: Command, places: usize) -> TestServer {
        let (stderr, of_child) = UnixStream::pair().expect("two sockets");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(OwnedFd::from(of_child));
        let child = command.spawn().expect("the binary starts");
        let log = Log::collect(stderr);
        let mut server = TestServer { child, log, addresses: Vec::new(), exit: None };
        server.addresses = server.wait_for_addresses(places);
        server
    }

    fn wait_for_addresses(&self, wanted: usize) -> Vec<SocketAddr> {
        let found = self.log.wait(PATIENCE, |lines| {
            let is_place =
                |line: &&String| ["http://", "unix:"].iter().any(|kind| line.contains(&format!("listening on {kind}")));
            (lines.iter().filter(is_place).count() >= wanted)
                .then(|| lines.iter().filter_map(|line| listening_address(line)).collect())
        });
        found.unwrap_or_else(|| panic!("no {wanted} lines `listening on http://ADDR:PORT` or `listening on unix:PATH`"))
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// GET on its own connection.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.connect().exchange(request("GET", target))
    }

    /// Opens `target` as a stream.
    #[track_caller]
    pub fn stream(&self, target: &str) -> PartReader<BufReader<TcpStream>> {
        self.connect().stream(request("GET", target)).1
    }

    /// The server still takes and answers requests.
    #[track_caller]
    pub fn assert_answers(&self) {
        assert_eq!(self.get("/").status, 200, "the page is there");
    }

    /// Waits for a log line that contains `pattern` and returns it.
    #[track_caller]
    pub fn wait_log(&self, pattern: &str, deadline: Duration) -> String {
        let found = self.log.wait(deadline, |lines| lines.iter().find(|line| line.contains(pattern)).cloned());
        found.unwrap_or_else(|| panic!("no log line with {pattern:?} within {deadline:?}"))
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Sends a signal and returns how the process ended and how long that took.
    pub fn stop(&mut self, signal: i32) -> (ExitStatus, Duration) {
        let start = Instant::now();
        sys::send_signal(self.pid(), signal);
        let status = self.wait_exit(PATIENCE);
        (status, start.elapsed())
    }

    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                self.exit = Some(status);
                return status;
            }
            assert!(start.elapsed() < deadline, "the process still runs after {deadline:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn footprint(&self) -> Footprint {
        let entries = |folder| fs::read_dir(format!("/proc/{}/{folder}", self.pid())).map_or(0, Iterator::count);
        Footprint { threads: entries("task"), descriptors: entries("fd") }
    }

    /// Waits until no more threads and descriptors are held than `before`.
    #[track_caller]
    pub fn wait_footprint(&self, before: Footprint, deadline: Duration) {
        let start = Instant::now();
        loop {
            let now = self.footprint();
            if now.threads <= before.threads && now.descriptors <= before.descriptors {
                return;
            }
            assert!(start.elapsed() < deadline, "before {before:?}, {deadline:?} after the end still {now:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory now.
    pub fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most memory that was ever resident.
    pub fn peak_rss_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of a live process");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    }

    /// CPU time spent so far, user and system, to a hundredth of a second.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|&at| fields[at].parse::<u64>().expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid())).expect("the server is alive")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let died = self.exit.is_none() && matches!(self.child.try_wait(), Ok(Some(_)));
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = self.log.lines();
        let panicked = lines.iter().any(|line| line.contains("panicked at"));
        if thread::panicking() || died || panicked {
            eprintln!("--- log of framehub, its last 60 lines ---");
            lines.iter().rev().take(60).rev().for_each(|line| eprintln!("{line}"));
        }
        if !thread::panicking() {
            assert!(!died, "framehub ended in the middle of the test");
            assert!(!panicked, "a thread of framehub panicked");
        }
    }
}

/// `… listening on http://ADDR:PORT …`
fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on http://")?;
    let address = rest.split(|c: char| c.is_whitespace() || c == '/').next()?;
    Some(address.parse().unwrap_or_else(|_| panic!("not ADDR:PORT in {line:?}")))
}

/// The lines of stderr. What the server has written is here at once when somebody looks: a line that it logs before
/// it answers needs no waiting. Its own thread collects them as well, so that the server never waits for us.
#[derive(Clone)]
struct Log {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

struct Collected {
    stderr: UnixStream,
    /// What has no line end yet.
    rest: Vec<u8>,
    lines: Vec<String>,
}

impl Collected {
    /// Takes what was written by now; `true` when nothing more can come.
    fn take_written(&mut self) -> bool {
        // Where nothing more is here now, that is an error, and what came before it is in `rest`.
        let is_over = self.stderr.read_to_end(&mut self.rest).is_ok();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        is_over
    }
}

impl Log {
    fn collect(stderr: UnixStream) -> Log {
        stderr.set_nonblocking(true).expect("O_NONBLOCK can be set");
        let written = stderr.try_clone().expect("a second handle");
        let shared = Arc::new((Mutex::new(Collected { stderr, rest: Vec::new(), lines: Vec::new() }), Condvar::new()));
        let log = Log { shared };
        let collector = log.clone();
        thread::spawn(move || {
            let mut is_over = false;
            while !is_over {
                sys::wait_readable(std::slice::from_ref(&written), PATIENCE);
                is_over = collector.look().take_written();
                collector.shared.1.notify_all();
            }
        });
        log
    }

    fn look(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().expect("no panic under the lock")
    }

    fn lines(&self) -> Vec<String> {
        let mut log = self.look();
        log.take_written();
        log.lines.clone()
    }

    fn wait<T>(&self, deadline: Duration, find: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut log = self.look();
        loop {
            log.take_written();
            if let Some(found) = find(&log.lines) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            log = self.shared.1.wait_timeout(log, left).expect("no panic under the lock").0;
        }
    }
}
