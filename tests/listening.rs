//! Where framehub listens beside TCP ports, and the file that tells it so.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{PATIENCE, TestServer, request_with};

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    (folder, path)
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// The whole response to a GET.
fn get(path: &Path, target: &str, fields: &[(&str, &str)]) -> String {
    let mut socket = UnixStream::connect(path).expect("the socket takes connections");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let fields = [fields, &[("Connection", "close")]].concat();
    socket.write_all(request_with("GET", target, &fields).as_bytes()).expect("a request");
    let mut response = Vec::new();
    socket.read_to_end(&mut response).expect("a response");
    String::from_utf8_lossy(&response).into_owned()
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
    command.args(["--device", "synthetic"]).args(args).output().expect("the binary runs")
}

#[test]
fn a_unix_socket_beside_a_port() {
    let (_folder, path) = folder();
    let mut server = TestServer::start(&["--listen", &unix(&path), "--listen", "127.0.0.1:0", "--size", "320x240"]);
    assert!(get(&path, "/snapshot", &[]).starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(server.get("/snapshot").status, 200);
    assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o777, 0o660, "the default mode");
    assert!(server.stop(libc::SIGTERM).0.success());
    assert!(!path.exists(), "it is gone with its server");
}

#[test]
fn its_mode_and_whom_a_proxy_there_speaks_for() {
    let (_folder, path) = folder();
    let server = TestServer::start(&["--listen", &unix(&path), "--socket-mode", "606", "--trusted-proxy=unix"]);
    assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o777, 0o606);
    let mut viewer = UnixStream::connect(&path).expect("the socket takes connections");
    viewer.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let request = request_with("GET", "/stream", &[("X-Forwarded-For", "203.0.113.9")]);
    viewer.write_all(request.as_bytes()).expect("a request");
    let mut start = [0; 4096];
    viewer.read_exact(&mut start).expect("the stream's start");
    server.wait_log("viewer came client=203.0.113.9", PATIENCE);
    // Without a proxy's word it is just the socket.
    let mut other = UnixStream::connect(&path).expect("the socket takes connections");
    other.write_all(request_with("GET", "/stream", &[]).as_bytes()).expect("a request");
    server.wait_log("viewer came client=unix", PATIENCE);
}

#[test]
fn what_a_crashed_server_left_is_taken_away_and_nothing_else() {
    let (folder, path) = folder();
    let mut crashed = TestServer::start(&["--listen", &unix(&path)]);
    crashed.stop(libc::SIGKILL);
    assert!(path.exists(), "a crash leaves the file");
    let server = TestServer::start(&["--listen", &unix(&path)]);
    assert!(get(&path, "/snapshot", &[]).starts_with("HTTP/1.1 200 OK\r\n"));

    let refused = |path: &Path, words: &str| {
        let output = run(&["--listen", &unix(path)]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && stderr.contains(&unix(path)) && stderr.contains(words), "{stderr}");
    };
    refused(&path, "another program listens there");
    assert!(get(&path, "/snapshot", &[]).starts_with("HTTP/1.1 200 OK\r\n"), "and it still does");
    let file = folder.path().join("file");
    fs::write(&file, "precious").expect("a file");
    refused(&file, "not a socket");
    assert_eq!(fs::read_to_string(&file).expect("the file"), "precious");
    refused(&folder.path().join("none/http.sock"), "No such file");
    drop(server);
    // Another program's socket, which is alive, is not ours to remove either.
    fs::remove_file(&path).expect("left by kill");
    let _theirs = UnixListener::bind(&path).expect("a socket");
    refused(&path, "another program listens there");
}

#[test]
fn wrong_places_are_named() {
    for (args, words) in [
        (&["--listen", "unix:"][..], "--listen"),
        (&["--listen", "localhost:8080"], "unix:PATH"),
        (&["--listen=127.0.0.1:0", "--socket-mode", "888"], "--socket-mode"),
        (&["--listen=127.0.0.1:0", "--socket-mode", "1777"], "--socket-mode"),
        (&["--listen=127.0.0.1:0", "--trusted-proxy", "proxy.local"], "--trusted-proxy"),
        (&["--listen=127.0.0.1:0", "--allow-origin", "mainsail.local"], "--allow-origin"),
        (&["--listen=127.0.0.1:0", "--allow-host", "http://x"], "--allow-host"),
    ] {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(words), "{args:?}: {stderr}");
    }
}

#[test]
fn options_from_a_file() {
    let (folder, path) = folder();
    let config = folder.path().join("framehub.json");
    let text = format!(
        "{{\"//\": \"the printer's camera\", \"device\": \"synthetic\", \"size\": \"320x240\", \"fps\": 10,\n\
         \"listen\": [\"127.0.0.1:0\", \"{}\"]}}",
        unix(&path)
    );
    fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("a plain path");
    let launch = |args: &[&str], places| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
        command.args(["--config", config]).args(args);
        TestServer::launch(command, places)
    };
    let size = |server: &TestServer| {
        let mut client = server.connect();
        client.exchange(request_with("GET", "/snapshot", &[]));
        let state = client.exchange(request_with("GET", "/state", &[])).text();
        if state.contains("320x240") { "320x240" } else { "another" }
    };
    let server = launch(&[], 2);
    assert_eq!(size(&server), "320x240");
    assert!(get(&path, "/snapshot", &[]).starts_with("HTTP/1.1 200 OK\r\n"));
    drop(server);
    // The command line counts more, a list's first value included.
    let server = launch(&["--size=640x480", "--listen", "127.0.0.1:0"], 1);
    assert_eq!(size(&server), "another");
    assert!(UnixStream::connect(&path).is_err(), "the file's places are not listened to");
}

#[test]
fn a_file_with_a_mistake_is_refused_with_a_suggestion() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("framehub.json");
    for (text, words) in [
        ("{\"sise\": \"320x240\"}", "did you mean \"size\"?"),
        ("{\"size\": \"320x240\"\n\"fps\": 3}", "line 2"),
        ("{\"size\": \"big\"}", "--size"),
        ("{\"fps\": [1, 2]}", "invalid value [1,2] for fps: expected a string or a number"),
    ] {
        fs::write(&config, text).expect("a file");
        let output = run(&["--listen=127.0.0.1:0", "--config", config.to_str().expect("a plain path")]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(words), "{text}: {stderr}");
    }
    let output = run(&["--config", "/nonexistent/framehub.json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/framehub.json"));
    let output = run(&["--listne", "127.0.0.1:0"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean \"--listen\"?"));
}
