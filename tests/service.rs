//! What a service manager relies on: notification, watchdog, reload, and sockets that it passes and keeps.

mod support;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{MaybeUninitSlice, MsgHdrMut, SockRef};
use support::{Client, EXIT_LIMIT, PATIENCE, TestServer, program, request, sys, wait_until};

/// A service manager's ear.
struct Ear {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Ear {
    fn new(socket: UnixDatagram) -> Ear {
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
        Ear { socket, heard: Vec::new() }
    }

    fn at(folder: &tempfile::TempDir) -> Ear {
        Ear::new(UnixDatagram::bind(folder.path().join("notify")).expect("a socket"))
    }

    /// The next message that contains `word`, and when it came.
    #[track_caller]
    fn wait(&mut self, word: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let Some(message) = self.next() else { continue };
            if message.contains(word) {
                return message;
            }
        }
        panic!("{word} was not heard, but {:?}", self.heard);
    }

    fn next(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        let message = String::from_utf8(buffer[..length].to_vec()).expect("text");
        self.heard.push(message.clone());
        Some(message)
    }
}

fn start(folder: &tempfile::TempDir, watchdog: Option<Duration>, args: &[&str]) -> TestServer {
    let mut command = program();
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    if let Some(limit) = watchdog {
        command.env("WATCHDOG_USEC", limit.as_micros().to_string());
    }
    TestServer::spawn(command, args)
}

/// A command that becomes framehub with this socket as its descriptor 3, as a service manager would start it.
fn with_passed(socket: &impl AsRawFd, name: &str) -> Command {
    let framehub = program();
    let fd = socket.as_raw_fd();
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("[ {fd} = 3 ] || exec 3<&{fd} {fd}<&-; LISTEN_PID=$$ exec \"$0\" \"$@\"")]);
    shell.arg(framehub.get_program()).args(framehub.get_args());
    shell.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    shell
}

/// A command that becomes framehub in its own network, prepared by `setup`; `None` where that is not allowed.
fn in_own_network(setup: &str) -> Option<Command> {
    let in_network = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
        command
    };
    let script = format!("{setup} && exec \"$0\" \"$@\"");
    let can =
        in_network(&format!("{setup} && true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    let framehub = program();
    let mut command = in_network(&script);
    command.arg(framehub.get_program()).args(framehub.get_args());
    can.then_some(command)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    SockRef::from(&listener).set_cloexec(false).expect("it can be passed");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

#[test]
fn tells_when_it_is_ready_how_it_is_and_when_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ear = Ear::at(&folder);
    let mut server = start(&folder, Some(Duration::from_secs(1)), &["--size", "320x240", "--idle", "0.2"]);
    assert!(ear.wait("READY=1").contains("STATUS="));
    let mut parts = server.stream("/stream");
    parts.next_part();
    let status = ear.wait("STATUS=live 320x240");
    assert!(status.ends_with("; viewers: 1"), "{status}");
    drop(parts);
    ear.wait("asleep");
    // Asleep on purpose is no reason to starve it.
    ear.wait("WATCHDOG=1");
    ear.wait("WATCHDOG=1");
    server.stop(libc::SIGTERM);
    ear.wait("STOPPING=1");
}

#[test]
fn feeds_no_watchdog_that_does_not_ask() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ear = Ear::at(&folder);
    let mut server = start(&folder, None, &[]);
    ear.wait("READY=1");
    server.stop(libc::SIGTERM);
    ear.wait("STOPPING=1");
    assert!(!ear.heard.iter().any(|message| message.contains("WATCHDOG")), "{:?}", ear.heard);
}

/// Nobody can connect to a Unix socket whose name is gone, so our own request fails, as it would in a server whose
/// accept loop hangs.
#[test]
fn starves_the_watchdog_when_its_own_request_is_not_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ear = Ear::at(&folder);
    let path = folder.path().join("http");
    let nameless = UnixListener::bind(&path).expect("a socket");
    SockRef::from(&nameless).set_cloexec(false).expect("it can be passed");
    let mut command = with_passed(&nameless, "http");
    std::fs::remove_file(path).expect("it was there");
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "400000");
    let mut server = TestServer::spawn(command, &["--listen", "127.0.0.1:0"]);
    server.wait_log("the watchdog is not fed", PATIENCE);
    server.stop(libc::SIGTERM);
    ear.wait("STOPPING=1");
    let fed = ear.heard.iter().filter(|message| message.contains("WATCHDOG")).count();
    assert_eq!(fed, 0, "{:?}", ear.heard);
}

/// A system without IPv6, or without its loopback interface, cannot ask some addresses. The server is well all the same,
/// and serves IPv4 where there is any.
#[test]
fn feeds_the_watchdog_where_an_address_cannot_be_asked() {
    let no_v6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    let lo = "ip link set lo up";
    for (setup, listen) in [
        (format!("{lo} && {no_v6}"), "[::]:8080"),
        (format!("{lo} && {no_v6}"), "0.0.0.0:8080"),
        ("true".into(), "[::]:8080"),
        ("true".into(), "0.0.0.0:8080"),
    ] {
        let Some(mut command) = in_own_network(&setup) else {
            eprintln!("not tested: no network of our own ({setup})");
            continue;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let mut ear = Ear::at(&folder);
        command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "400000");
        let server = TestServer::spawn(command, &["--listen", listen]);
        ear.wait("WATCHDOG=1");
        ear.wait("WATCHDOG=1");
        assert!(!server.log().iter().any(|line| line.contains("not fed")), "{setup}: {:?}", server.log());
    }
}

/// Its own request may be on the way when the end comes, and nobody accepts it any more.
#[test]
fn ends_in_time_although_its_own_request_gets_no_response() {
    let folder = tempfile::tempdir().expect("a folder");
    let _ear = Ear::at(&folder);
    let (listener, _) = listener();
    let mut command = with_passed(&listener, "framehub.socket");
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "400000");
    let mut server = TestServer::spawn(command, &["--listen", "127.0.0.1:0"]);
    listener.set_nonblocking(true).expect("O_NONBLOCK can be set");
    // It asks every 100 ms, and waits 2 s for a response. We are faster now and then.
    let start = Instant::now();
    let _held = loop {
        match listener.accept() {
            Ok(connection) => break connection,
            Err(_) => assert!(start.elapsed() < PATIENCE, "no request was taken"),
        }
    };
    let (status, took) = server.stop(libc::SIGTERM);
    assert!(status.success() && took < EXIT_LIMIT, "{status}, {took:?}");
}

/// A service manager that hangs does not make its services hang.
#[test]
fn ends_in_time_although_nobody_reads_its_notifications() {
    let folder = tempfile::tempdir().expect("a folder");
    let _ear = Ear::at(&folder);
    let mut server = start(&folder, Some(Duration::from_millis(8)), &[]);
    server.wait_log("the service manager does not listen", PATIENCE);
    server.assert_answers();
    let (status, took) = server.stop(libc::SIGTERM);
    assert!(status.success() && took < EXIT_LIMIT, "{status}, {took:?}");
}

#[test]
fn finds_a_notification_socket_without_a_file() {
    let name = format!("framehub-test-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).expect("a name");
    let mut ear = Ear::new(UnixDatagram::bind_addr(&address).expect("a socket"));
    let mut command = program();
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let _server = TestServer::spawn(command, &[]);
    ear.wait("READY=1");
}

#[test]
fn reload_reopens_the_camera_and_keeps_its_viewers() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ear = Ear::at(&folder);
    let server = start(&folder, None, &["--size", "320x240"]);
    let mut parts = server.stream("/stream");
    let before = parts.next_part().stamp().seq;
    ear.wait("READY=1");
    sys::send_signal(server.pid(), libc::SIGHUP);
    ear.wait("RELOADING=1\nMONOTONIC_USEC=");
    ear.wait("READY=1");
    server.wait_log("reloading", PATIENCE);
    let opened = || server.log().iter().filter(|line| line.contains("camera opened")).count();
    wait_until("the camera was opened again", PATIENCE, || opened() == 2);
    assert!((0..10).all(|_| parts.next_part().stamp().seq > before), "the same viewer goes on watching");
}

#[test]
fn serves_the_socket_that_a_socket_unit_passed_and_no_other() {
    let (listener, address) = listener();
    let mut command = with_passed(&listener, "framehub.socket");
    let mut child = command.args(["--device", "synthetic"]).stderr(Stdio::piped()).spawn().expect("it starts");
    let response = Client::connect(address).exchange(request("GET", "/"));
    sys::send_signal(child.id(), libc::SIGTERM);
    let mut log = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
    assert!(child.wait().expect("our child").success(), "{log}");
    assert_eq!(response.status, 200);
    assert_eq!(log.matches("listening on").count(), 1, "{log}");
}

/// LISTEN_FDS may be wrong: what this process has opened itself is not what was passed.
#[test]
fn takes_no_socket_of_its_own_for_a_passed_one() {
    for (count, names) in
        [("9", None), ("9", Some("a:b")), ("4294967295", None), ("-1", None), ("x", None), ("0", None)]
    {
        let framehub = program();
        let mut shell = Command::new("sh");
        shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(framehub.get_program()).args(framehub.get_args());
        shell.env("LISTEN_FDS", count);
        if let Some(names) = names {
            shell.env("LISTEN_FDNAMES", names);
        }
        let mut server = TestServer::spawn(shell, &[]);
        server.assert_answers();
        let log = server.log();
        assert!(!log.iter().any(|line| line.contains("not a listening socket")), "{count}: {log:?}");
        assert_eq!(log.iter().any(|line| line.contains("LISTEN_FDS")), count != "0", "{count}: {log:?}");
        let (status, took) = server.stop(libc::SIGTERM);
        assert!(status.success() && took < EXIT_LIMIT, "{count}: {status}, {took:?}");
    }
}

#[test]
fn listens_besides_where_it_is_told_to() {
    let (listener, address) = listener();
    let server = TestServer::spawn(with_passed(&listener, "framehub.socket"), &["--listen", "127.0.0.1:0"]);
    server.wait_log(&format!("listening on http://{address}"), PATIENCE);
    server.assert_answers();
}

#[test]
fn takes_up_the_listening_socket_that_was_kept_for_it() {
    let (listener, address) = listener();
    // A client that came while nobody was there to response.
    let early = TcpStream::connect(address).expect("the kernel takes it");
    let server = TestServer::spawn(with_passed(&listener, "kept-listener"), &["--listen", &address.to_string()]);
    drop(listener);
    assert_eq!(Client::over(early).exchange(request("GET", "/")).status, 200);
    assert_eq!(server.addresses(), [address]);
}

/// As after a change of `--listen`: the old socket is in the manager's hands too, but must not go on taking
/// connections that nobody answers, nor stand in the way of a new one on its port.
#[test]
fn ends_a_kept_socket_that_it_no_longer_wants() {
    let (listener, address) = listener();
    let any = format!("0.0.0.0:{}", address.port());
    let server = TestServer::spawn(with_passed(&listener, "kept-listener"), &["--listen", &any]);
    server.assert_answers();
    assert!(listener.accept().is_err(), "the manager's copy has ended");
}

/// `[::]` alone takes IPv4 clients too; beside `0.0.0.0` on the same port it does not. A kept socket is of one kind.
#[test]
fn takes_up_no_kept_socket_of_the_other_kind() {
    for only_v6 in [true, false] {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
        socket.set_only_v6(only_v6).expect("it can be set");
        socket.set_reuse_address(true).expect("it can be set");
        socket.bind(&"[::]:0".parse::<SocketAddr>().expect("an address").into()).expect("a free port");
        socket.listen(16).expect("it listens");
        socket.set_cloexec(false).expect("it can be passed");
        let port = socket.local_addr().expect("its address").as_socket().expect("an IP address").port();
        let (v6, v4) = (format!("[::]:{port}"), format!("0.0.0.0:{port}"));
        let both = ["--listen", v6.as_str(), "--listen", v4.as_str()];
        let args = if only_v6 { &both[..2] } else { &both };
        let server = TestServer::spawn(with_passed(&socket, "kept-listener"), args);
        for ip in ["127.0.0.1", "[::1]"] {
            let address = format!("{ip}:{port}").parse().expect("an address");
            assert_eq!(Client::connect(address).exchange(request("GET", "/")).status, 200, "{ip}, {args:?}");
        }
        assert_eq!(server.addresses().len(), args.len() / 2);
    }
}

#[test]
fn gives_its_listening_sockets_into_keeping() {
    let folder = tempfile::tempdir().expect("a folder");
    let ear = Ear::at(&folder);
    let _server = start(&folder, None, &[]);
    let mut text = [std::mem::MaybeUninit::uninit(); 256];
    let mut control = [std::mem::MaybeUninit::uninit(); 256];
    let mut buffers = [MaybeUninitSlice::new(&mut text)];
    let mut message = MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
    let length = SockRef::from(&ear.socket).recvmsg(&mut message, 0).expect("a message");
    assert!(message.control_len() > 0, "with a descriptor");
    assert_eq!(length, "FDSTORE=1\nFDNAME=kept-listener".len());
}
