//! The command line: what it takes, what it says when it does not, and where it listens.

mod support;

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, EXIT_LIMIT, PATIENCE, TestServer, program, request, sys};

/// Runs framehub with arguments that should end it by itself.
#[track_caller]
fn run(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_framehub"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let start = Instant::now();
    while child.try_wait().expect("our own child").is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().expect("our own child");
            panic!("{args:?} still runs: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("our own child")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Each wrong use with what the complaint has to contain: the option's name, and what it takes.
#[test]
fn a_wrong_option_is_named_with_what_it_takes() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--size", "large"], &["--size", "large", "640x480"]),
        (&["--size", "640"], &["--size", "640x480"]),
        (&["--size", "0x480"], &["--size"]),
        (&["--size", "640x480x3"], &["--size"]),
        (&["--size=-640x480"], &["--size"]),
        (&["--size", "99999999999x1"], &["--size"]),
        (&["--fps", "fast"], &["invalid value \"fast\" for --fps: expected a number from 0.1 to 1000\n"]),
        (&["--fps", "0"], &["--fps"]),
        (&["--fps="], &["invalid value \"\" for --fps: expected a number"]),
        (&["--fps", "5", "--fps=6"], &["--fps is given more than once"]),
        (&["--list=1"], &["--list takes no value"]),
        (&["--listne", "127.0.0.1:0"], &["unknown option --listne, did you mean \"--listen\"?"]),
        (&["--fps", "-1"], &["--fps"]),
        (&["--fps", "NaN"], &["--fps"]),
        (&["--idle", "soon"], &["--idle", "soon", "second"]),
        (&["--idle", "-1"], &["--idle"]),
        (&["--max-clients", "many"], &["--max-clients", "many"]),
        (&["--max-clients", "-5"], &["--max-clients"]),
        (&["--log-level", "loud"], &["--log-level", "loud", "info"]),
        (&["--listen", "here"], &["--listen", "here", "0.0.0.0:8080"]),
        (&["--listen", "127.0.0.1"], &["--listen", ":PORT"]),
        (&["--listen", "127.0.0.1:99999"], &["--listen", ":PORT"]),
        (&["--listen", "::1:8080:x"], &["--listen"]),
        (&["--device", ""], &["--device"]),
        (&["--size"], &["--size"]),
        (&["--no-such-option"], &["--no-such-option"]),
        (&["--no-such-option=1"], &["--no-such-option"]),
        (&["unexpected"], &["unexpected"]),
    ];
    for (args, wanted) in cases {
        // Were the mistake overlooked, the server would start, on loopback only.
        let safe: &[&str] = &["--device=synthetic", "--listen=127.0.0.1:0"];
        let output = run(&[safe, *args].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        for word in *wanted {
            assert!(stderr.contains(word), "{args:?} should name {word:?}: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(stderr.starts_with("framehub: "), "{args:?}: {stderr}");
    }
}

#[test]
fn arguments_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
    let output = command.arg(std::ffi::OsStr::from_bytes(b"--size=\xFF")).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

#[test]
fn help_shows_every_option_and_its_default() {
    let long = run(&["--help"]);
    let help = text(&long.stdout);
    assert_eq!(long.status.code(), Some(0), "{help}");
    assert_eq!(help, text(&run(&["-h"]).stdout), "-h is --help");
    let defaults = [
        ("--device", "auto"),
        ("--listen", "0.0.0.0:8080"),
        ("--size", "640x480"),
        ("--fps", "camera"),
        ("--idle", "5"),
        ("--max-clients", "64"),
        ("--log-level", "info"),
    ];
    for (option, default) in defaults {
        let entry = help_entry(&help, option);
        assert!(entry.contains(default), "{option} shows its default {default}: {entry:?}");
    }
    assert!(help.contains("--version"), "{help}");
}

/// The text of one option: from its name to the next option.
fn help_entry(help: &str, option: &str) -> String {
    let is_start = |line: &&str| line.split_whitespace().any(|word| word.trim_end_matches(',') == option);
    let lines: Vec<&str> = help.lines().collect();
    let options = help.find("Options:").map_or(0, |at| help[..at].lines().count());
    let start = lines[options..].iter().position(is_start).unwrap_or_else(|| panic!("{option} in {help}")) + options;
    let is_next = |line: &&str| line.trim_start().starts_with('-');
    let end = lines[start + 1..].iter().position(is_next).map_or(lines.len(), |at| start + 1 + at);
    lines[start..end].join("\n")
}

#[test]
fn version() {
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("framehub {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn values_by_equals_sign() {
    let server = TestServer::start(&["--device=synthetic", "--listen=127.0.0.1:0", "--size=320x240", "--fps=10"]);
    let size = jpeg_size(&server.get("/snapshot").body);
    assert_eq!(size, (320, 240));
}

#[test]
fn size_is_the_pictures_size() {
    for (text, size) in [("640x480", (640, 480)), ("1280x720", (1280, 720)), ("322x242", (322, 242))] {
        let server = TestServer::start(&["--size", text]);
        assert_eq!(jpeg_size(&server.get("/snapshot").body), size);
    }
}

/// The default is 640x480.
#[test]
fn default_size() {
    let server = TestServer::start(&[]);
    assert_eq!(jpeg_size(&server.get("/snapshot").body), (640, 480));
}

/// Width and height from the baseline start-of-frame segment, found by walking the segments.
fn jpeg_size(jpeg: &[u8]) -> (u16, u16) {
    let mut at = 2;
    loop {
        let word = |at: usize| u16::from_be_bytes([jpeg[at], jpeg[at + 1]]);
        if (0xFFC0..=0xFFC2).contains(&word(at)) {
            return (word(at + 7), word(at + 5));
        }
        at += 2 + usize::from(word(at + 2));
    }
}

#[test]
fn a_taken_port_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("its address").to_string();
    let output = run(&["--device", "synthetic", "--listen", &address]);
    let stderr = text(&output.stderr);
    assert!(!output.status.success() && output.status.code().is_some(), "a failure, not a signal: {stderr}");
    assert!(stderr.contains(&address), "names the address {address}: {stderr}");
    assert!(says_taken(&stderr), "says why: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("listening on"), "{stderr}");
}

fn says_taken(text: &str) -> bool {
    text.contains("in use") || text.contains("another program listens there")
}

/// One of two addresses cannot be had: the start fails as a whole, rather than half.
#[test]
fn a_taken_port_among_several_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("its address").to_string();
    let output = run(&["--device", "synthetic", "--listen", "127.0.0.1:0", "--listen", &address]);
    let stderr = text(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.contains(&address) && says_taken(&stderr), "{stderr}");
}

#[test]
fn several_addresses_and_ipv6() {
    let args = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen=127.0.0.1:0", "--size", "320x240"];
    let server = TestServer::start(&args);
    assert_eq!(server.addresses().len(), 3);
    assert_eq!(server.addresses().iter().filter(|address| address.is_ipv6()).count(), 1);
    for &address in server.addresses() {
        assert_ne!(address.port(), 0, "the printed port is the real one");
        let mut client = Client::connect(address);
        assert_eq!(client.exchange(request("GET", "/snapshot")).status, 200, "{address}");
    }
}

/// A restart right after a stop finds its port free, although old connections are still in TIME_WAIT.
#[test]
fn a_restart_takes_the_same_port() {
    let mut server = TestServer::start(&["--size", "320x240"]);
    let address = server.address();
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    server.stop(libc::SIGTERM);
    viewer.read_to_end().expect("a proper end");
    let again = TestServer::start(&["--size", "320x240", "--listen", &address.to_string()]);
    assert_eq!(again.address(), address);
    again.assert_answers();
}

#[test]
fn log_levels() {
    for level in ["error", "warn", "info", "debug", "trace"] {
        // Even the quietest level says where it listens, or nobody could find it.
        let server = TestServer::start(&["--log-level", level]);
        server.assert_answers();
    }
}

/// A pipe that nobody reads.
fn unread_pipe() -> PipeWriter {
    pipe().expect("a pipe").1
}

/// `framehub --list | head -0`: nobody wants the rest.
#[test]
fn output_that_nobody_reads_is_no_failure() {
    for args in [&["--help"][..], &["--version"], &["--list"], &["--device=synthetic", "--check"]] {
        let output = program().args(args).stdout(unread_pipe()).stderr(Stdio::piped()).output().expect("it runs");
        let stderr = text(&output.stderr);
        assert!(output.status.success() && !stderr.contains("roken pipe") && !stderr.contains("panicked"), "{stderr}");
    }
    for args in [&["--no-such-option"][..], &["--listen=unix:/nonexistent/socket"]] {
        let status = program().args(args).stderr(unread_pipe()).status().expect("it runs");
        assert!(matches!(status.code(), Some(1 | 2)), "{args:?}: {status}");
    }
}

/// What cannot be written for another reason is a failure that is explained.
#[test]
fn output_that_does_not_fit_is_a_failure() {
    for args in [&["--help"][..], &["--list"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = program().args(args).stdout(full).stderr(Stdio::piped()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).starts_with("framehub: cannot write to stdout: No space left"), "{args:?}");
    }
}

/// A server whose stderr is this descriptor, and which logs as much as it can. Killed with the test.
struct Logging(Child);

impl Logging {
    fn to(stderr: impl Into<Stdio>, listen: &str) -> Logging {
        let mut command = program();
        command.args([
            "--device=synthetic",
            "--size=320x240",
            "--log-level=trace",
            "--max-clients=1000",
            "--listen",
            listen,
        ]);
        Logging(command.stderr(stderr).spawn().expect("it starts"))
    }

    fn assert_stops(&mut self) {
        let start = Instant::now();
        sys::send_signal(self.0.id(), libc::SIGTERM);
        while self.0.try_wait().expect("our own child").is_none() {
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(2));
        }
        assert!(start.elapsed() < EXIT_LIMIT, "it took {:?} to end", start.elapsed());
        assert!(self.0.wait().expect("our own child").success());
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `framehub 2>&1 | head -0`: the server goes on serving, and ends as it should.
#[test]
fn a_server_outlives_whoever_read_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let mut server = Logging::to(unread_pipe(), &format!("unix:{}", path.display()));
    support::wait_until("it listens", PATIENCE, || UnixStream::connect(&path).is_ok());
    for _ in 0..3 {
        let mut socket = UnixStream::connect(&path).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket.write_all(b"GET /snapshot HTTP/1.0\r\n\r\n").expect("a request");
        let mut response = Vec::new();
        socket.read_to_end(&mut response).expect("a response");
        assert!(response.starts_with(b"HTTP/1.0 200 OK\r\n"), "{}", String::from_utf8_lossy(&response));
    }
    server.assert_stops();
}

/// Where it listens, by the log's first line.
fn address(log: &mut impl BufRead) -> SocketAddr {
    let mut line = String::new();
    log.read_line(&mut line).expect("text");
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}"));
    address.parse().expect("an address")
}

/// Nobody reads the log although it is open: a stopped pager, a service manager that is stuck. Nothing waits for it, and
/// when it is read again it says what is missing.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (pipe_reader, pipe_writer) = pipe().expect("a pipe");
    sys::set_pipe_size(&pipe_writer, 4096);
    let (socket_reader, socket_writer) = UnixStream::pair().expect("two sockets");
    socket2::SockRef::from(&socket_writer).set_send_buffer_size(4096).expect("a small buffer");
    let logs: [(&str, OwnedFd, OwnedFd); 2] =
        [("pipe", pipe_reader.into(), pipe_writer.into()), ("socket", socket_reader.into(), socket_writer.into())];
    for (kind, reader, writer) in logs {
        // Others share it: what they write must not fail because of us.
        let shared = writer.try_clone().expect("a second handle");
        let mut server = Logging::to(writer, "127.0.0.1:0");
        let mut log = BufReader::with_capacity(128, PipeReader::from(reader));
        let address = address(&mut log);
        for turn in 0..300 {
            let mut client = Client::connect(address);
            if turn % 2 == 0 {
                client.stream(request("GET", "/stream")).1.next_part();
            } else {
                assert_eq!(client.exchange("GET / HTTP/9.9\r\nHost: x\r\n\r\n").status, 505, "{kind}");
            }
        }
        assert!(!sys::is_nonblocking(&shared), "{kind}: its flags are not only ours");
        drop(shared);
        // The lines that it took, then the count, then the lines that follow.
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = lines.clone();
        thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| collected.lock().unwrap().push(line)));
        let dropped = |line: &String| -> Option<u32> {
            line.strip_prefix("warn log: ")?.split_once(" log lines dropped: nobody read stderr")?.0.parse().ok()
        };
        support::wait_until("lines follow the count", PATIENCE, || {
            Client::connect(address).stream(request("GET", "/stream")).1.next_part();
            let lines = lines.lock().unwrap();
            let count = lines.iter().position(|line| dropped(line).is_some_and(|count| count > 100));
            count.is_some_and(|at| lines[at..].iter().any(|line| line.contains("viewer came")))
        });
        server.assert_stops();
        for line in &*lines.lock().unwrap() {
            let level = line.split(' ').next().unwrap_or_default();
            let is_whole = ["error", "warn", "info", "debug", "trace"].contains(&level) && line.contains(": ");
            assert!(is_whole, "{kind}: {line}");
        }
    }
}
