//! Clients that take places and give nothing back: for each kind of them, whoever reads is served beside them, and nobody is
//! cut whose place nobody needs.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Client, PATIENCE, SNAPSHOT_LIMIT, TestServer, narrow_connection, request, request_with, sys, wait_until,
};

/// What the owner shows.
const KNOWN: (&str, &str) = ("Authorization", "Bearer T0ken");

/// A server where clients need a credential, with a picture that has settled.
fn guarded(args: &[&str]) -> TestServer {
    let mut command = support::program();
    command.env("FRAMEHUB_TOKEN", "T0ken");
    let server = TestServer::spawn(command, &[&["--size", "320x240"], args].concat());
    assert_eq!(server.connect().exchange(request_with("GET", "/snapshot", &[KNOWN])).status, 200);
    server
}

/// Connections that send this as long as it is taken, and read nothing.
fn unread(address: SocketAddr, count: usize, bytes: &str) -> Vec<TcpStream> {
    let one = |_| {
        let socket = narrow_connection(address, 4096);
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        let _ = (&socket).write(bytes.as_bytes());
        socket
    };
    (0..count).map(one).collect()
}

/// Connects from another address of the loopback network.
fn connect_from(address: &str, to: SocketAddr) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let from: SocketAddr = format!("{address}:0").parse().expect("an address");
    socket.bind(&from.into()).expect("all of 127.0.0.0/8 is ours");
    socket.connect(&to.into()).expect("the server accepts connections");
    Client::over(socket.into())
}

/// One request with its status and its time; an error is no status.
fn ask(mut client: Client, request: &str) -> (u16, Duration) {
    let start = Instant::now();
    let response = client.try_send(request).and_then(|()| client.try_response("GET"));
    (response.map_or(0, |response| response.status), start.elapsed())
}

/// Requests of every kind by clients that read no response, one kind after another: beside each of them the page, the
/// figures, snapshots and streams are served, at the attacker's address and at another one.
#[test]
fn unread_responses_keep_nobody_out() {
    sys::need_descriptors(1_000);
    let server = TestServer::start(&["--size", "320x240", "--replay", "2"]);
    assert_eq!(server.get("/snapshot").status, 200);
    let post = "POST /controls HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\nbrightness=1".to_owned();
    let kinds = [
        ("snapshots", 160, request("GET", "/snapshot").repeat(20)),
        ("stills", 160, request("GET", "/still").repeat(20)),
        ("the script", 160, request("GET", "/page.js").repeat(40)),
        ("404", 400, request("GET", "/nope").repeat(400)),
        ("heads", 400, request("HEAD", "/state").repeat(400)),
        ("controls", 160, post.repeat(400)),
        ("figures", 160, request("GET", "/state").repeat(200)),
        ("405", 160, request("DELETE", "/stream").repeat(400)),
        ("health", 160, request("GET", "/healthz").repeat(400)),
        ("a malformed one", 160, "GET / HTTP/9.9\r\n\r\n".to_owned()),
    ];
    for (kind, count, bytes) in kinds {
        let sockets = unread(server.address(), count, &bytes);
        for from in ["127.0.0.1", "127.0.0.2"] {
            for target in ["/", "/state", "/healthz", "/snapshot"] {
                let (status, time) = ask(connect_from(from, server.address()), &request("GET", target));
                assert_eq!(status, 200, "{target} from {from} beside unread {kind}, after {time:?}");
                assert!(time < SNAPSHOT_LIMIT, "{target} from {from} beside unread {kind}: {time:?}");
            }
        }
        server.stream("/stream").next_part();
        drop(sockets);
    }
}

/// A hundred strangers that read nothing: whoever shows the credential is served, and so are strangers that read.
#[test]
fn strangers_keep_no_owner_out() {
    sys::need_descriptors(1_000);
    let server = guarded(&[]);
    let asks = [request("GET", "/page.js").repeat(40), request("GET", "/snapshot").repeat(400)];
    for (bytes, count) in asks.iter().flat_map(|bytes| [(bytes, 100), (bytes, 300)]) {
        let sockets = unread(server.address(), count, bytes);
        for _ in 0..6 {
            let (status, time) = ask(server.connect(), &request_with("GET", "/snapshot", &[KNOWN]));
            assert!(status == 200 && time < SNAPSHOT_LIMIT, "{status} after {time:?} beside {count}");
            let (status, time) = ask(server.connect(), &request("GET", "/page.css"));
            assert!(status == 200 && time < SNAPSHOT_LIMIT, "a stranger: {status} after {time:?} beside {count}");
        }
        drop(sockets);
    }
}

/// Strangers from many addresses, each with few connections: places are kept for whoever shows the credential.
#[test]
fn strangers_from_many_addresses_leave_places_to_the_owner() {
    sys::need_descriptors(1_000);
    let server = guarded(&[]);
    let bytes = request("GET", "/page.js").repeat(40);
    let sockets: Vec<Client> = (0..140)
        .map(|turn| {
            let mut client = connect_from(&format!("127.0.1.{}", turn / 10 + 1), server.address());
            client.socket().set_nonblocking(true).expect("a socket can be made non-blocking");
            let _ = client.try_send(&bytes);
            client
        })
        .collect();
    for _ in 0..6 {
        let (status, time) = ask(server.connect(), &request_with("GET", "/snapshot", &[KNOWN]));
        assert!(status == 200 && time < SNAPSHOT_LIMIT, "{status} after {time:?}");
    }
    drop(sockets);
}

/// A hundred requests wait for a camera that is silent: whatever needs no camera is served, and when their clients leave,
/// so does the waiting.
#[test]
fn those_who_wait_for_the_camera_hold_up_nobody() {
    sys::need_descriptors(1_000);
    let folder = tempfile::tempdir().expect("a folder");
    let stall = folder.path().join("stall");
    let device = format!("synthetic:stall_file={}", stall.display());
    let server = TestServer::start(&["--device", &device, "--size", "320x240"]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    let before = server.footprint();
    fs::write(&stall, "").expect("a file");
    let wait_for = |target: &str, count: usize| -> Vec<Client> {
        let ask = |_| {
            let mut client = server.connect();
            client.send(request("GET", target));
            client
        };
        (0..count).map(ask).collect()
    };
    for (target, places) in [("/snapshot", 16), ("/still", 8)] {
        let waiting = wait_for(target, 100);
        for other in ["/", "/state", "/page.js"] {
            let (status, time) = ask(server.connect(), &request("GET", other));
            assert!(status == 200 && time < Duration::from_secs(1), "{other} beside {target}: {status} after {time:?}");
        }
        drop(waiting);
        // Those that have left make room at once for others that want to wait.
        let others = wait_for(target, places);
        wait_until("the waiting of those that have left ends", Duration::from_secs(2), || {
            // And one that takes the still for all of them.
            server.footprint().threads <= before.threads + places + 1
        });
        drop(others);
        // One that has closed its end may still read: alone, it waits to the end.
        server.wait_footprint(before, PATIENCE);
    }
    drop(viewer);
}

/// A gap of 4 s, as of a phone that changes its access point, cuts no response, as long as nobody needs the place.
#[test]
fn a_gap_of_four_seconds_cuts_no_response() {
    let server = TestServer::start(&["--device", "synthetic:sizes=640x480,bytes=400000", "--fps", "5"]);
    assert_eq!(server.get("/snapshot").status, 200);
    let ask = |target: &str| {
        let socket = narrow_connection(server.address(), 8 * 1024);
        (&socket).write_all(request_with("GET", target, &[("Connection", "close")]).as_bytes()).expect("it is sent");
        socket
    };
    let targets = ["/snapshot", "/still", "/page.js", "/snapshot", "/snapshot?max_age=60000"];
    let sockets: Vec<TcpStream> = targets.iter().cycle().take(30).map(|target| ask(target)).collect();
    // Others come and go beside them, and need none of their places.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        server.assert_answers();
        thread::sleep(Duration::from_millis(100));
    }
    for (turn, mut socket) in sockets.into_iter().enumerate() {
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).expect("the response goes on");
        let text = String::from_utf8_lossy(&bytes);
        let (head, _) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "response {turn}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let body = bytes.len() - bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("its end") - 4;
        assert_eq!(body.to_string(), length, "response {turn} was cut");
    }
}

/// One client at a time reads a clip slowly, as if for hours: another one gets a clip soon, and the slow one's memory is
/// given back while it reads, and at the end all of it.
#[test]
fn a_slow_reader_of_a_clip_keeps_clips_from_nobody() {
    let args = ["--replay", "20", "--all-frames-memory", "4MiB", "--device", "synthetic:bytes=100000"];
    let server = TestServer::start(&[&args[..], &["--size", "640x480", "--fps", "30"]].concat());
    let mut parts = server.stream("/stream");
    (0..60).for_each(|_| drop(parts.next_part()));
    let viewer = thread::spawn(move || while parts.try_next().is_ok_and(|part| part.is_some()) {});
    let mut slow = narrow_connection(server.address(), 4096);
    slow.write_all(request("GET", "/clip").as_bytes()).expect("it is sent");
    let start = Instant::now();
    // So many bytes a second never stall, and would take minutes.
    let reader = thread::spawn(move || {
        let mut bytes = [0; 2048];
        let mut total = 0;
        while let Ok(got @ 1..) = slow.read(&mut bytes) {
            total += got;
            thread::sleep(Duration::from_millis(100));
        }
        total
    });
    // The ring holds other frames by then.
    thread::sleep(Duration::from_secs(3));
    wait_until("another client gets a clip", Duration::from_secs(12), || {
        let response = server.get("/clip?last=1");
        if response.status != 200 {
            response.assert_unavailable();
            thread::sleep(Duration::from_millis(200));
        }
        response.status == 200
    });
    eprintln!("the other one got its clip after {:?}", start.elapsed());
    let total = reader.join().expect("no panic");
    assert!(total < 3_000_000, "the slow one was evicted, after {total} bytes");
    assert_eq!(server.get("/clip").status, 200, "all of the memory was given back");
    drop(server);
    viewer.join().expect("no panic");
}

/// Eighty clients read pictures of 500 kB at 40 kB/s, each of them another picture: the memory stays within
/// `--response-memory`, the others are told to come again, small responses go on, and everything is given back.
#[test]
fn slow_readers_of_pictures_take_no_more_memory_than_allowed() {
    sys::need_descriptors(1_000);
    let args = ["--device", "synthetic:sizes=640x480,bytes=500000", "--size", "640x480", "--response-memory", "8MiB"];
    let server = TestServer::start(&args);
    let mut viewer = server.stream("/stream");
    (0..10).for_each(|_| drop(viewer.next_part()));
    let reader = thread::spawn(move || while viewer.try_next().is_ok_and(|part| part.is_some()) {});
    for target in ["/still", "/snapshot"] {
        assert_eq!(server.get(target).status, 200);
        let before = (server.footprint(), server.rss_kib());
        let mut most = 0;
        let mut sockets: Vec<TcpStream> = Vec::new();
        let mut heads = vec![Vec::new(); 80];
        let mut bytes = [0; 4000];
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(8) {
            if sockets.len() < 80 {
                let socket = narrow_connection(server.address(), 4096);
                (&socket).write_all(request("GET", target).as_bytes()).expect("it is sent");
                socket.set_nonblocking(true).expect("a socket can be made non-blocking");
                sockets.push(socket);
            }
            for (mut socket, head) in sockets.iter().zip(&mut heads) {
                if let (Ok(got), true) = (socket.read(&mut bytes), head.len() < 4000) {
                    head.extend_from_slice(&bytes[..got]);
                }
            }
            most = most.max(server.rss_kib());
            assert_eq!(server.get("/state").status, 200);
            thread::sleep(Duration::from_millis(60));
        }
        let starts = |head: &&Vec<u8>, status: &str| head.starts_with(format!("HTTP/1.1 {status} ").as_bytes());
        let served = heads.iter().filter(|head| starts(head, "200")).count();
        let refused: Vec<_> = heads.iter().filter(|head| starts(head, "503")).collect();
        eprintln!("{target}: {served} served, {} refused, {} KiB before, {most} at most", refused.len(), before.1);
        assert!(served >= 10 && refused.len() >= 20, "{served} served, {} refused", refused.len());
        for head in refused {
            let text = String::from_utf8_lossy(head);
            assert!(text.contains("Retry-After: ") && text.contains("--response-memory"), "{text}");
        }
        let grown = most.saturating_sub(before.1);
        assert!(grown < 8 * 1024 + 6 * 1024, "{grown} KiB more than before, with 8 MiB allowed");
        drop(sockets);
        server.wait_footprint(before.0, PATIENCE);
        assert!(server.get("/metrics").text().contains("framehub_response_bytes 0"), "all of it was given back");
        assert_eq!(server.get(target).status, 200);
    }
    drop(server);
    reader.join().expect("no panic");
}

/// Silent connects use up the descriptors: each newcomer takes the place of the oldest of them, and is served.
#[test]
fn silent_connects_that_use_up_the_descriptors_keep_nobody_out() {
    serves_beside_silent_connects(&TestServer::start_with_ulimit("-n 60", &["--size", "320x240"]));
}

/// The same with threads.
#[test]
fn silent_connects_that_use_up_the_threads_keep_nobody_out() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // Nobody else's: the limit counts all threads of a user. It does not bind root.
    const USER: u32 = 65_533;
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("framehub");
    fs::copy(env!("CARGO_BIN_EXE_framehub"), &copy).expect("the binary can be copied");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let others = if sys::is_root() { 0 } else { sys::threads_of_user() };
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("ulimit -u {} && exec \"$0\" \"$@\"", others + 40)]).arg(copy);
    if sys::is_root() {
        shell.uid(USER).gid(USER);
    }
    serves_beside_silent_connects(&TestServer::spawn(shell, &["--size", "320x240"]));
}

fn serves_beside_silent_connects(server: &TestServer) {
    sys::need_descriptors(1_000);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    assert_eq!(server.get("/snapshot").status, 200);
    let before = server.footprint();
    let silent: Vec<TcpStream> = (0..300).map(|_| server.connect().into_socket()).collect();
    for turn in 0..10 {
        let (status, time) = ask(server.connect(), &request("GET", "/snapshot"));
        assert!(status == 200 && time < SNAPSHOT_LIMIT, "snapshot {turn}: {status} after {time:?}");
        viewer.next_part();
    }
    server.stream("/stream").next_part();
    drop(silent);
    server.wait_footprint(before, PATIENCE);
}

/// With too little address space for all connections framehub says so, takes fewer, and is there afterwards.
#[test]
fn too_little_address_space_ends_nothing() {
    sys::need_descriptors(1_000);
    for limit in ["-v 64000", "-v 56000", "-v 50000"] {
        let server = TestServer::start_with_ulimit(limit, &["--size", "320x240"]);
        server.wait_log("address space", PATIENCE);
        let mut viewer = server.stream("/stream");
        viewer.next_part();
        for target in ["", "/page.js", "/snapshot", "/state"] {
            let bytes = if target.is_empty() { String::new() } else { request("GET", target).repeat(50) };
            let sockets = unread(server.address(), 400, &bytes);
            (0..10).for_each(|_| drop(viewer.next_part()));
            drop(sockets);
        }
        let is_served = || ask(server.connect(), &request("GET", "/snapshot")).0 == 200;
        wait_until("a snapshot is served again", PATIENCE, is_served);
    }
}
