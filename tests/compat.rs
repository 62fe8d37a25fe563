//! Started in place of another program, with that program's command line and files.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Client, PATIENCE, TestServer, request, request_with, sys, wait_until};

/// A file of that name which is framehub.
fn named(folder: &Path, name: &str) -> Command {
    let path = folder.join(name);
    symlink(env!("CARGO_BIN_EXE_framehub"), &path).expect("a link");
    Command::new(path)
}

/// MJPGServer's sample with a port and a camera that are free for tests.
fn sample() -> String {
    r#"{
  "port": 0,
  "device": "synthetic",
  "daemonize": false,
  "logLevel": 0,
  "lowResWidth": 640,
  "lowResHeight": 480,
  "highResWidth": 1920,
  "highResHeight": 1080,
  "stabPicCount": 0,
  "closeDeviceTimeoutSec": 15,
  "securityToken": "verySecretToken"
}"#
    .into()
}

#[test]
fn crowsnest_starts_it_as_ustreamer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = named(folder.path(), "ustreamer");
    command.args(["--host", "127.0.0.1", "--port", "0", "--resolution", "320x240", "--desired-fps", "15"]);
    command.args(["--allow-origin", "*", "--static", "resources/ustreamer-www", "--device", "synthetic"]);
    command.args(["--device-timeout", "2", "--format", "MJPEG", "--encoder", "HW"]);
    let server = TestServer::launch(command, 1);
    assert!(server.address().ip().is_loopback());
    let line = server.wait_log("started as ustreamer", PATIENCE);
    for words in ["--size=320x240", "--fps=15", "--stall-timeout=2", "done anyway: --format", "not done: --static"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert_eq!(server.get("/snapshot").status, 200);
    server.stream("/stream").next_part();
    let state = server.get("/state").text();
    assert!(state.contains("\"captured_fps\"") && state.contains("\"width\":320"), "{state}");
}

#[test]
fn ustreamer_with_a_password_and_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("cam.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
    command.args([
        "--as",
        "ustreamer",
        "-d",
        "synthetic",
        "-r320x240",
        "--user=ann",
        "--passwd=S3cret",
        "--debug",
        "-D",
    ]);
    command.arg("--unix").arg(&socket).args(["-M", "600"]);
    let server = TestServer::launch(command, 1);
    assert!(server.addresses().is_empty() && socket.exists(), "the socket takes the port's place");
    let log = server.log().join("\n");
    assert!(log.contains("a user with a password") && !log.contains("S3cret") && !log.contains("YW5u"), "{log}");
}

/// What its unit file runs, with its sample; but for tests not on all addresses.
#[test]
fn mjpgserver_with_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    fs::write(&config, sample()).expect("a file");
    let mut command = named(folder.path(), "mjpgsrv");
    command.arg("-j").arg(&config).args(["--listen", "127.0.0.1"]);
    let server = TestServer::launch(command, 1);
    let line = server.wait_log("started as mjpgsrv", PATIENCE);
    assert!(line.starts_with("info") && line.ends_with("not done: nothing") && !line.contains("verySecret"), "{line}");
    for target in ["/mjpg", "/full_res", "/"] {
        assert_eq!(server.get(target).status, 401, "{target}");
        let with = format!("{target}?token=verySecretToken");
        assert_eq!(server.connect().exchange(request("GET", &with)).status, 200, "{target}");
    }
    assert_eq!(server.get("/full_res?token=verySecretToken").header("X-Frame-Size"), Some("1920x1080"));
    assert!(!server.log().join("\n").contains("verySecretToken"));
}

#[test]
fn mjpg_streamer_with_its_plugins() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = named(folder.path(), "mjpg_streamer");
    command.args(["-i", "input_uvc.so -d synthetic -r QVGA -f 10 -br 3"]);
    command.args(["-o", "output_http.so -p 0 -l 127.0.0.1 -w ./www -c ann:S3cret -n"]);
    let server = TestServer::launch(command, 1);
    let line = server.wait_log("started as mjpg_streamer", PATIENCE);
    assert!(line.contains("--control=brightness=3") && line.contains("not done: --www"), "{line}");
    assert!(line.starts_with("warn") && !line.contains("S3cret"), "{line}");
    let ask = |target: &str| {
        server.connect().exchange(request_with("GET", target, &[("Authorization", "Basic YW5uOlMzY3JldA==")]))
    };
    assert_eq!(server.get("/?action=snapshot").status, 401);
    assert_eq!(ask("/?action=snapshot").status, 200);
    assert_eq!(ask("/?action=command&id=-1").status, 501, "-n: no commands");
}

/// As `-b` and `daemonize` have it: the caller goes on when it listens, and the server lives without it.
#[test]
fn into_the_background() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    fs::write(&config, sample().replace("\"daemonize\": false", "\"daemonize\": true")).expect("a file");
    let mut command = named(folder.path(), "mjpgsrv");
    let output =
        command.arg("-j").arg(&config).args(["--listen", "127.0.0.1"]).stdin(Stdio::null()).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let server = Background::find(config.to_str().expect("a plain path"));
    assert!(output.status.success(), "{stderr}");
    let address = stderr.split("listening on http://").nth(1).and_then(|rest| rest.lines().next());
    let address = address.expect("an address").parse().expect("an address");
    assert_eq!(Client::connect(address).exchange(request("GET", "/snapshot?token=verySecretToken")).status, 200);
    sys::send_signal(server.0, libc::SIGTERM);
    wait_until("it ends when it is told to", PATIENCE, || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err()
    });
}

/// A server that is nobody's child, ended with the test.
struct Background(u32);

impl Background {
    /// The one that was started with this argument.
    fn find(argument: &str) -> Self {
        let pids = fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let has_it = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        };
        Self({ pids }.find(has_it).expect("it runs"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if fs::read_to_string(format!("/proc/{}/comm", self.0)).is_ok_and(|name| name.trim() == "mjpgsrv") {
            sys::send_signal(self.0, libc::SIGKILL);
        }
    }
}

/// A unit file for another version of the program starts framehub (issue 14).
#[test]
fn unknown_options_are_warnings() {
    for (program, expected, args) in [
        (
            "ustreamer",
            2,
            &["--host=127.0.0.1", "--port=0", "--device=synthetic", "--bogus", "S3cret", "--key=S3cret", "--idle", "0"]
                [..],
        ),
        (
            "ustreamer",
            1,
            &["-s127.0.0.1", "-p0", "-d", "synthetic", "-QS3cret", "-f", "0.5", "--format-swap-rgb", "-T"],
        ),
        ("mjpgsrv", 1, &["--listen", "127.0.0.1", "-p", "0", "-c", "synthetic", "--bogus=S3cret"]),
        (
            "mjpg_streamer",
            1,
            &["-i", "input_uvc.so -d synthetic -bogus S3cret", "-o", "output_http.so -p 0 -l 127.0.0.1"],
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
        let server = TestServer::launch(
            {
                command.args(["--as", program]).args(args);
                command
            },
            1,
        );
        assert_eq!(server.get("/snapshot").status, 200, "{args:?}");
        let log = server.log();
        let unknown = log.iter().filter(|line| line.starts_with("warn") && line.contains("unknown option -")).count();
        assert_eq!(unknown, expected, "{log:?}");
        assert!(!log.join("\n").contains("S3cret"), "{log:?}");
    }
}

#[test]
fn mistakes_end_the_start_and_name_the_program() {
    for (args, words) in [
        (
            &["--as", "ustreamer", "--device=synthetic", "--port", "0", "--resolution", "big"][..],
            &["started as ustreamer", "--size"][..],
        ),
        (&["--as", "ustreamer", "--host", "octopi.local"], &["started as ustreamer", "numeric address"]),
        (&["--as", "mjpgsrv", "-j", "/nonexistent.json"], &["as mjpgsrv", "/nonexistent.json"]),
        (&["--as", "mjpg_streamer", "-i", "input_raspicam.so"], &["as mjpg_streamer", "input_raspicam"]),
        (&["--as", "motion"], &["--as", "motion", "mjpgsrv"]),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_framehub")).args(args).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{args:?}: {stderr}");
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_framehub")).args(["--as=ustreamer", "--help"]).output().expect("it runs");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("--desired-fps, -f"));
}
