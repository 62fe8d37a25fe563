//! Another server as a camera: in every dialect, with every fault, and one connection however many viewers there are.

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, program, request, wait_until};

/// How long a server may be away for its relay once it is back.
const BACK: Duration = Duration::from_secs(10);
const MULTIPART: &str = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n";

/// Some pictures of the synthetic camera.
fn pictures() -> Vec<Vec<u8>> {
    let camera = TestServer::start(&["--size", "160x120", "--fps", "60"]);
    let mut viewer = camera.stream("/stream");
    (0..5).map(|_| viewer.next_part().jpeg).collect()
}

/// A server that does what a test says with each connection.
struct Upstream {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    now: AtomicUsize,
    most: AtomicUsize,
    total: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

type Io = io::Result<()>;

impl Upstream {
    /// `serve` is given a connection with its number, from 0, and each request on it until it fails.
    fn start(serve: impl Fn(&mut TcpStream, usize, &str) -> Io + Send + Sync + 'static) -> Upstream {
        Upstream::at("127.0.0.1:0", serve)
    }

    fn at(address: &str, serve: impl Fn(&mut TcpStream, usize, &str) -> Io + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind(address).expect("a port");
        let upstream = Upstream { address: listener.local_addr().expect("an address"), seen: Arc::default() };
        let (seen, serve) = (upstream.seen.clone(), Arc::new(serve));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (seen, serve) = (seen.clone(), serve.clone());
                let number = seen.total.fetch_add(1, Ordering::SeqCst);
                let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
                seen.most.fetch_max(now, Ordering::SeqCst);
                thread::spawn(move || {
                    let _ = serve_all(socket, number, &seen, serve.as_ref());
                    seen.now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        upstream
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Relays `/`.
    fn relayed(&self, args: &[&str]) -> TestServer {
        let idle: &[&str] = if args.contains(&"--idle") { &[] } else { &["--idle", "0.3"] };
        TestServer::start(&[&["--device", &self.url("/")], idle, args].concat())
    }

    fn now(&self) -> usize {
        self.seen.now.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    fn total(&self) -> usize {
        self.seen.total.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().expect("no panic").clone()
    }
}

fn serve_all(
    mut socket: TcpStream,
    number: usize,
    seen: &Seen,
    serve: &dyn Fn(&mut TcpStream, usize, &str) -> Io,
) -> Io {
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(socket.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        seen.requests.lock().expect("no panic").push(head.clone());
        serve(&mut socket, number, &head)?;
    }
}

/// A part as most servers send it.
fn part(jpeg: &[u8]) -> Vec<u8> {
    let head = format!("--b\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
    [head.as_bytes(), jpeg, b"\r\n"].concat()
}

/// Time between two pictures at 20 fps.
const PERIOD: Duration = Duration::from_millis(50);

/// Sends parts, with this time between them, until the client leaves.
fn stream_every(period: Duration, socket: &mut TcpStream, parts: &[Vec<u8>]) -> Io {
    for part in parts.iter().cycle() {
        socket.write_all(part)?;
        thread::sleep(period);
    }
    Ok(())
}

fn stream(socket: &mut TcpStream, parts: &[Vec<u8>]) -> Io {
    stream_every(PERIOD, socket, parts)
}

/// A sound stream, as [`stream_every`].
fn good_every(period: Duration, socket: &mut TcpStream, pictures: &[Vec<u8>]) -> Io {
    socket.write_all(MULTIPART.as_bytes())?;
    stream_every(period, socket, &pictures.iter().map(|jpeg| part(jpeg)).collect::<Vec<_>>())
}

fn good(socket: &mut TcpStream, pictures: &[Vec<u8>]) -> Io {
    good_every(PERIOD, socket, pictures)
}

/// So many pictures reach a viewer, all of them bit by bit as they were sent.
#[track_caller]
fn assert_shows(name: &str, server: &TestServer, pictures: &[Vec<u8>], count: usize) {
    let mut viewer = server.stream("/stream?no_signal=0");
    for _ in 0..count {
        let shown = viewer.next_part().jpeg;
        assert!(pictures.contains(&shown), "{name}: another picture, of {} bytes", shown.len());
    }
}

fn chunked(bytes: &[u8], size: usize) -> Vec<u8> {
    let chunk = |chunk: &[u8]| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
    bytes.chunks(size).flat_map(chunk).collect()
}

#[test]
fn every_dialect_is_understood() {
    let pictures = pictures();
    let long = format!("X-Long: {}\r\n", "x".repeat(3000));
    let mixed = "multipart/x-mixed-replace";
    for (name, media_type, before, head, after) in [
        (
            "mjpg-streamer",
            format!("{mixed};boundary=boundarydonotcross"),
            "--boundarydonotcross\r\n",
            "Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\nX-Timestamp: 12.345678\r\n\r\n",
            "\r\n--boundarydonotcross\r\n",
        ),
        (
            "ustreamer",
            format!("{mixed};boundary=boundarydonotcross"),
            "--boundarydonotcross\r\n",
            "Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\nX-Timestamp: 1.5\r\nX-UStreamer-Online: true\r\n\r\n",
            "\r\n--boundarydonotcross\r\n",
        ),
        (
            "MJPGServer",
            format!("{mixed};boundary=--boundary"),
            "",
            "\r\n--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n",
            "",
        ),
        (
            "esp32",
            format!("{mixed}; boundary=123456789000000000000987654321"),
            "--123456789000000000000987654321\r\n",
            "Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n",
            "\r\n--123456789000000000000987654321\r\n",
        ),
        (
            "arkhipenko",
            format!("{mixed}; boundary=+++===123454321===+++"),
            "--+++===123454321===+++\r\n",
            "Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n",
            "\r\n--+++===123454321===+++\r\n",
        ),
        (
            "first boundary missing",
            format!("{mixed}; boundary=b"),
            "",
            "Content-Type: image/jpeg\r\nContent-Length: LENGTH\r\n\r\n",
            "\r\n--b\r\n",
        ),
        ("no length", format!("{mixed}; boundary=b"), "--b\r\n", "Content-Type: image/jpeg\r\n\r\n", "\r\n--b\r\n"),
        ("quotes and spaces", format!("{mixed}; boundary = \"a b\""), "--a b\r\n", "\r\n", "\r\n--a b\r\n"),
        (
            "bare LF",
            format!("{mixed}; boundary=b"),
            "--b\n",
            "content-type: image/jpeg\ncontent-length: LENGTH\n\n",
            "\n--b\n",
        ),
        (
            "long header",
            format!("{mixed}; boundary=b"),
            "--b\r\n",
            &format!("{long}{long}content-type:image/jpeg\r\n\r\n"),
            "\r\n--b\r\n",
        ),
        ("preamble", format!("{mixed}; boundary=b"), "A multipart message.\r\n\r\n--b\r\n", "\r\n", "\r\n--b\r\n"),
        (
            "zeros",
            format!("{mixed}; boundary=b"),
            "--b\r\n",
            "Content-Length: LENGTH\r\n\r\n",
            "\0\0\0\0\0\0\0\r\n--b\r\n",
        ),
        (
            "mixed",
            "multipart/mixed; boundary=b".into(),
            "--b\r\n",
            "Content-Type: image/jpeg; x=1\r\n\r\n",
            "\r\n--b\r\n",
        ),
        (
            "upper case",
            "Multipart/X-Mixed-Replace".into(),
            "--B\r\n",
            "CONTENT-TYPE: IMAGE/JPEG\r\n\r\n",
            "\r\n--B\r\n",
        ),
        ("back to back", "video/x-motion-jpeg".into(), "", "", ""),
        ("no type", String::new(), "", "", ""),
    ] {
        let parts: Vec<_> = pictures
            .iter()
            .map(|jpeg| [head.replace("LENGTH", &jpeg.len().to_string()).as_bytes(), jpeg, after.as_bytes()].concat())
            .collect();
        let media_type = if media_type.is_empty() { String::new() } else { format!("Content-Type: {media_type}\r\n") };
        let before = before.to_owned();
        // Plain with CRLF, and chunked in pieces that fit nothing, with a head of bare LF.
        for is_chunked in [false, true] {
            let head = match is_chunked {
                false => format!("HTTP/1.0 200 OK\r\n{media_type}\r\n"),
                true => format!("HTTP/1.1 200 OK\n{}transfer-encoding: Chunked\n\n", media_type.replace("\r\n", "\n")),
            };
            let wrap = |bytes: &[u8]| if is_chunked { chunked(bytes, 997) } else { bytes.to_vec() };
            let (before, parts) = (wrap(before.as_bytes()), parts.iter().map(|part| wrap(part)).collect::<Vec<_>>());
            let upstream = Upstream::start(move |socket, _, _| {
                socket.write_all(head.as_bytes())?;
                socket.write_all(&before)?;
                stream(socket, &parts)
            });
            let server = upstream.relayed(&[]);
            assert_shows(name, &server, &pictures, 6);
            assert_eq!(upstream.total(), 1, "{name}: over one connection");
        }
    }
}

/// What is wrong with the first connection, the reason that has to be told, and pictures from the second connection on
/// (or on the same one, where `goes_on`).
struct Trial {
    name: &'static str,
    bytes: Vec<u8>,
    stays_open: bool,
    told: &'static str,
}

#[test]
fn whatever_comes_framehub_stays_up_and_comes_back() {
    let pictures = pictures();
    let jpeg = &pictures[0];
    let multipart = |body: &[u8]| [MULTIPART.as_bytes(), body].concat();
    let with_head = |head: &str, body: &[u8]| [head.as_bytes(), body].concat();
    let trial = |name, bytes: Vec<u8>, stays_open, told| Trial { name, bytes, stays_open, told };
    let html = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    let trials = vec![
        trial("closed at once", vec![], false, "closed the connection"),
        trial("silence", vec![], true, "no response"),
        trial("silence behind the head", multipart(b""), true, "8 s"),
        trial("no HTTP", b"220 ready\r\n".to_vec(), true, "no HTTP response"),
        trial("HTML", html.into(), true, "text/html"),
        trial("HTML as a picture", html.replace("text/html", "image/jpeg").into(), true, "<html>"),
        trial("HTML as a stream", multipart(b"<html>no stream</html>"), false, "<html>no stream"),
        trial(
            "an empty picture",
            b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 0\r\n\r\n".to_vec(),
            true,
            "no picture",
        ),
        trial("404", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), true, "status 404"),
        trial(
            "503 with a reason",
            b"HTTP/1.1 503 X\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nno camera".to_vec(),
            true,
            "status 503: no camera",
        ),
        trial(
            "401",
            b"HTTP/1.1 401 X\r\nWWW-Authenticate: Digest realm=x\r\n\r\n".to_vec(),
            true,
            "FRAMEHUB_SOURCE_USER",
        ),
        trial("an endless head", with_head("HTTP/1.1 200 OK\r\nX: ", &vec![b'x'; 3_000_000]), true, "16 KiB"),
        trial(
            "an endless part header",
            multipart(&[b"--b\r\nX: ".to_vec(), vec![b'x'; 30_000_000]].concat()),
            true,
            "no picture in 8 s",
        ),
        trial(
            "a part of 100 MB",
            multipart(&[&part(jpeg)[..60], &jpeg[..900], &vec![b'x'; 100_000_000]].concat()),
            false,
            "ended",
        ),
        trial("zeros", multipart(&vec![0; 50_000_000]), false, "ended"),
        trial("a cut picture", multipart(&part(jpeg)[..900]), false, "ended the stream"),
        trial(
            "a wrong chunk",
            with_head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: image/jpeg\r\n\r\n", b"zz\r\n"),
            true,
            "size",
        ),
        trial(
            "cut in a chunk",
            with_head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: image/jpeg\r\n\r\n", b"ff\r\nab"),
            false,
            "broke off",
        ),
        trial(
            "no signal",
            multipart(&with_head("--b\r\nX-Framehub-No-Signal: 1\r\n\r\n", jpeg)),
            true,
            "sends no pictures",
        ),
        trial(
            "a redirect to HTTPS",
            b"HTTP/1.1 301 X\r\nLocation: https://u:secret@x/\r\n\r\n".to_vec(),
            true,
            "stunnel",
        ),
        trial("a redirect to nowhere", b"HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n".to_vec(), true, "status 302"),
    ];
    let threads: Vec<_> = trials
        .into_iter()
        .map(|Trial { name, bytes, stays_open, told }| {
            let pictures = pictures.clone();
            thread::spawn(move || {
                let shown = pictures.clone();
                let upstream = Upstream::start(move |socket, number, _| {
                    if number > 0 {
                        return good(socket, &pictures);
                    }
                    socket.write_all(&bytes)?;
                    if stays_open {
                        // Until the client leaves.
                        let _ = socket.read(&mut [0; 64]);
                    }
                    Err(io::ErrorKind::Other.into())
                });
                let server = upstream.relayed(&[]);
                let mut viewer = server.stream("/stream?no_signal=0");
                // The silence itself, and then the pause.
                server.wait_log(told, PATIENCE);
                let lost = Instant::now();
                assert!(shown.contains(&viewer.next_part().jpeg), "{name}");
                assert!(lost.elapsed() < BACK, "{name}: back after {:?}", lost.elapsed());
                assert!(server.peak_rss_kib() < 60_000, "{name}: {} KiB", server.peak_rss_kib());
                assert!(server.log().iter().all(|line| !line.contains("secret")), "{name}");
                assert_eq!(upstream.most(), 1, "{name}: one connection at a time");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a trial that ends well"));
}

/// Damage within a stream costs the damaged picture alone, on the same connection.
#[test]
fn damaged_pictures_are_left_out_and_the_others_are_not() {
    let pictures = pictures();
    let jpeg = &pictures[0];
    let half = &jpeg[..jpeg.len() / 2];
    let lie =
        |length: &str| [format!("--b\r\nContent-Length: {length}\r\n\r\n").as_bytes(), &pictures[1], b"\r\n"].concat();
    let damaged = [
        part(half),
        part(b""),
        part(b"<html>"),
        lie("5"),
        lie("99999999"),
        lie("-1"),
        lie("x"),
        part(&jpeg[..2]),
        part(&[0; 5000]),
    ];
    let parts: Vec<_> = damaged.iter().flat_map(|bad| [part(&pictures[2]), bad.clone()]).collect();
    let upstream = Upstream::start(move |socket, _, _| {
        socket.write_all(MULTIPART.as_bytes())?;
        stream(socket, &parts)
    });
    let server = upstream.relayed(&[]);
    assert_shows("damaged", &server, &pictures[1..3], 30);
    assert_eq!(upstream.total(), 1);
    server.wait_log("damaged or was cut", PATIENCE);
    assert!(server.get("/metrics").text().contains("framehub_"));
}

/// A server that takes one client, at 10 fps.
#[test]
fn fifty_viewers_are_one_client() {
    let pictures = pictures();
    let shown = pictures.clone();
    let upstream = Upstream::start(move |socket, _, _| good_every(Duration::from_millis(100), socket, &pictures));
    let server = upstream.relayed(&[]);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(upstream.total(), 0, "nobody watches yet");
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_shows("a viewer", &server, &shown, 20));
        }
    });
    assert_eq!(upstream.most(), 1);
    wait_until("nobody is left at the server", PATIENCE, || upstream.now() == 0);
    let total = upstream.total();
    thread::sleep(Duration::from_secs(2));
    assert_eq!((upstream.now(), upstream.total()), (0, total), "and nobody comes");
}

/// A picture is polled over one connection, at the rate asked for; over new ones where the server closes.
#[test]
fn a_picture_is_polled() {
    let pictures = pictures();
    for (name, fields, is_kept) in [
        ("kept", "HTTP/1.1 200 OK\r\nContent-Length: LENGTH\r\n", true),
        ("kept, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", true),
        ("closed", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: LENGTH\r\n", false),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: LENGTH\r\n", false),
        // ESP32: no length, and it closes some seconds later.
        ("neither length nor end", "HTTP/1.1 200 OK\r\nContent-disposition: inline; filename=capture.jpg\r\n", false),
    ] {
        let shown = pictures.clone();
        let (pictures, next) = (pictures.clone(), AtomicUsize::new(0));
        let upstream = Upstream::start(move |socket, _, _| {
            let jpeg = &pictures[next.fetch_add(1, Ordering::SeqCst) % pictures.len()];
            let head = fields.replace("LENGTH", &jpeg.len().to_string());
            socket.write_all(format!("{head}Content-type: image/jpeg\r\n\r\n").as_bytes())?;
            if head.contains("chunked") {
                socket.write_all(&[&chunked(jpeg, 500)[..], b"0\r\n\r\n"].concat())
            } else {
                socket.write_all(jpeg)
            }
        });
        let server = upstream.relayed(&["--fps", "10"]);
        let began = Instant::now();
        assert_shows(name, &server, &shown, 8);
        assert!(began.elapsed() > Duration::from_millis(550), "{name}: at the rate asked for");
        assert_eq!(upstream.total() == 1, is_kept, "{name}: {} connections", upstream.total());
        assert_eq!(upstream.most(), 1, "{name}");
    }
}

#[test]
fn redirects_are_followed_once_and_credentials_stay() {
    let pictures = pictures();
    let (to, shown) = (pictures.clone(), pictures.clone());
    let other = Upstream::start(move |socket, _, _| good(socket, &to));
    let target = other.url("/elsewhere");
    let upstream = Upstream::start(move |socket, _, head| {
        let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        match head.split(' ').nth(1) {
            Some("/stream") => good(socket, &pictures),
            Some("/here") => socket.write_all(redirect("stream").as_bytes()),
            Some("/there") => socket.write_all(redirect(&target).as_bytes()),
            _ => socket.write_all(redirect("/loop").as_bytes()),
        }
    });
    let url = |path: &str| upstream.url(path).replace("http://", "http://me:s%40cret@");
    let relay = |path: &str| TestServer::start(&["--device", &url(path)]);
    assert_shows("here", &relay("/here"), &shown, 3);
    assert_shows("there", &relay("/there"), &shown, 3);
    let lost = relay("/loop");
    assert!(lost.get("/snapshot").text().contains("redirects again"));
    // me:s@cret
    let credentials = "Authorization: Basic bWU6c0BjcmV0\r\n";
    assert!(upstream.requests().iter().all(|head| head.contains(credentials)), "{:?}", upstream.requests());
    assert!(other.requests().iter().all(|head| !head.contains("Authorization")), "not to another server");
}

/// User and password appear nowhere: neither in the log nor at any URL nor in `--check`.
#[test]
fn credentials_are_sent_and_never_shown() {
    let pictures = pictures();
    let shown = pictures.clone();
    let upstream =
        Upstream::start(move |socket, _, head| match head.contains("Authorization: Basic bWU6c2VjcmV0\r\n") {
            true => good(socket, &pictures),
            false => socket.write_all(b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n"),
        });
    let with_password = upstream.url("/?x=y").replace("http://", "http://me:secret@");
    let in_url = TestServer::start(&["--device", &with_password, "--log-level", "trace"]);
    in_url.wait_log("everybody on this machine can read the password", PATIENCE);
    let mut environment = program();
    environment.env("FRAMEHUB_SOURCE_USER", "me").env("FRAMEHUB_SOURCE_PASSWORD", "secret");
    let in_environment = TestServer::spawn(environment, &["--device", &upstream.url("/?x=y"), "--log-level", "trace"]);
    let without = TestServer::start(&["--device", &upstream.url("/"), "--log-level", "trace"]);
    assert!(without.get("/snapshot").text().contains("401"));
    for server in [in_url, in_environment] {
        assert_shows("credentials", &server, &shown, 3);
        for target in ["/state", "/metrics", "/", "/snapshot", "/controls"] {
            assert!(!String::from_utf8_lossy(&server.get(target).body).contains("secret"), "{target}");
        }
        assert!(server.get("/state").text().contains(&upstream.address.to_string()));
        assert!(
            server.log().iter().all(|line| !line.contains("secret") && !line.contains("bWU6")),
            "{:?}",
            server.log()
        );
    }
    let check = program().args(["--check", "--device", &with_password]).output().expect("the binary starts");
    let text = [check.stdout, check.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(check.status.success() && text.contains(" whole") && !text.contains("secret"), "{text}");
}

#[test]
fn what_cannot_be_reached_is_refused_with_the_remedy() {
    for (device, words) in [
        ("https://me:secret@cam/", "stunnel"),
        ("rtsp://me:secret@cam/", "exec:ffmpeg"),
        ("http://me:secret@cam:port/", "a port"),
        ("http://me:sec/ret@cam/", "%2F"),
        ("http://fd00::1/", "brackets"),
        ("exec:", "exec:COMMAND"),
    ] {
        let output = program().args(["--device", device]).output().expect("the binary starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words) && !text.contains("sec"), "{device}: {text}");
    }
    for (device, words) in [
        ("http://no-such-camera.local/", "/etc/hosts"),
        ("http://no-such-host.invalid/", "cannot find no-such-host.invalid"),
        ("http://127.0.0.1:1/", "cannot connect to 127.0.0.1:1"),
    ] {
        let server = TestServer::start(&["--device", device]);
        let _viewer = server.connect().stream(request("GET", "/stream"));
        server.wait_log(words, PATIENCE);
    }
}

#[test]
fn an_address_may_be_ipv6() {
    let pictures = pictures();
    let shown = pictures.clone();
    let upstream = Upstream::at("[::1]:0", move |socket, _, _| good(socket, &pictures));
    assert_shows("IPv6", &upstream.relayed(&[]), &shown, 3);
    let host = format!("Host: {}\r\n", upstream.address);
    assert!(upstream.requests()[0].contains(&host), "{:?}", upstream.requests());
}

/// The second framehub gives what the first one gives: the same pictures, the same stills, with their capture times.
#[test]
fn a_chain_of_two_passes_pictures_and_stills_on() {
    let first = TestServer::start(&["--size", "160x120", "--still-size", "640x480"]);
    let url = |path: &str| format!("http://{}{path}", first.address());
    let second = TestServer::start(&["--device", &url("/stream"), "--still-url", &url("/still")]);
    let mut viewer = second.stream("/stream?no_signal=0");
    for _ in 0..5 {
        let part = viewer.next_part();
        let age = part.stamp().mono_ns;
        let now = support::sys::monotonic_ns();
        let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
        let captured = real - Duration::from_nanos(now - age);
        assert!(captured.abs_diff(part.captured_at) < Duration::from_millis(50), "its capture time stays");
    }
    let still = second.get("/still");
    assert_eq!((still.status, still.expect_header("X-Frame-Size")), (200, "640x480"), "{}", still.head);
    // The first one's newest still, which it may give again.
    let same = first.get("/still?max_age=60000");
    assert!(same.body == still.body, "bit by bit: {} and {} bytes", same.body.len(), still.body.len());
    assert_eq!(same.expect_header("X-Timestamp"), still.expect_header("X-Timestamp"));
    assert_eq!(same.expect_header("Last-Modified"), still.expect_header("Last-Modified"));
    // Together they take few.
    let before = stills_of(&first);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert_eq!(second.get("/still").status, 200));
        }
    });
    let taken = stills_of(&first) - before;
    assert!(taken <= 4, "12 requests took {taken} stills of the first one");
    // A snapshot is exposed after it was asked for, through both.
    let asked = support::sys::monotonic_ns();
    let snapshot = second.get("/snapshot");
    assert!(support::stamp_of(&snapshot.body).expect("a stamp").mono_ns > asked);
}

fn stills_of(server: &TestServer) -> u64 {
    let metrics = server.get("/metrics").text();
    let line = metrics.lines().find(|line| line.starts_with("framehub_stills_answered_total")).expect("a figure");
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// Stills elsewhere while the stream goes on; a server that has none says why.
#[test]
fn stills_come_from_another_address() {
    let pictures = pictures();
    let large = TestServer::start(&["--size", "640x480"]).get("/snapshot").body;
    let (shown, still) = (pictures.clone(), large.clone());
    let upstream = Upstream::start(move |socket, _, head| match head.split(' ').nth(1) {
        Some("/capture") => {
            thread::sleep(Duration::from_millis(300));
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", large.len());
            socket.write_all(&[head.as_bytes(), &large].concat())
        }
        Some("/broken") => {
            socket.write_all(b"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nno flash")
        }
        _ => good(socket, &pictures),
    });
    let server = upstream.relayed(&["--still-url", &upstream.url("/capture")]);
    let mut viewer = server.stream("/stream?no_signal=0");
    viewer.next_part();
    let taken: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| server.get("/still"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a response")).collect()
    });
    for response in taken {
        assert_eq!((response.status, response.expect_header("X-Frame-Size")), (200, "640x480"));
        assert!(support::is_one_whole_jpeg(&response.body) && response.body.len() >= still.len());
    }
    let stills = upstream.requests().iter().filter(|head| head.contains("/capture")).count();
    assert!((1..=4).contains(&stills), "20 requests share them: {stills}");
    (0..4).for_each(|_| assert!(shown.contains(&viewer.next_part().jpeg), "the stream goes on"));
    let broken = TestServer::start(&["--still-url", &upstream.url("/broken")]);
    let refusal = broken.get("/still");
    refusal.assert_unavailable();
    assert!(refusal.text().contains("status 500: no flash"), "{}", refusal.text());
}

/// The ESP32's own server for a compressed day: chunked, one client at a time, pauses, and a reset at the second client
/// or in the middle of a picture, again and again.
#[test]
fn an_esp32_is_survived() {
    const BOUNDARY: &str = "\r\n--123456789000000000000987654321\r\n";
    let pictures = pictures();
    let shown = pictures.clone();
    let busy = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(move |socket, number, _| {
        let reset = |socket: &TcpStream| {
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
            Err(io::ErrorKind::Other.into())
        };
        if busy.fetch_add(1, Ordering::SeqCst) > 0 {
            busy.fetch_sub(1, Ordering::SeqCst);
            return reset(socket);
        }
        let serve = |socket: &mut TcpStream| -> Io {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=123456789000000000000987654321\r\n\
                        Transfer-Encoding: chunked\r\nAccess-Control-Allow-Origin: *\r\nX-Framerate: 60\r\n\r\n";
            socket.write_all(head.as_bytes())?;
            for (count, jpeg) in pictures.iter().cycle().enumerate() {
                let head = format!(
                    "Content-Type: image/jpeg\r\nContent-Length: {}\r\nX-Timestamp: {count}.000000\r\n\r\n",
                    jpeg.len()
                );
                socket.write_all(&chunked(BOUNDARY.as_bytes(), 100))?;
                socket.write_all(&chunked(head.as_bytes(), 200))?;
                // It sends what its buffer holds, with pauses where the air is busy.
                let body = chunked(jpeg, usize::MAX);
                let (now, later) = body.split_at(body.len() / 2);
                socket.write_all(now)?;
                thread::sleep(Duration::from_millis(if count % 7 == 3 { 200 } else { 10 }));
                if count > 10 + number % 5 && number % 3 != 2 {
                    return Err(io::ErrorKind::Other.into());
                }
                socket.write_all(later)?;
            }
            Ok(())
        };
        let done = serve(socket);
        busy.fetch_sub(1, Ordering::SeqCst);
        match number % 2 {
            0 => reset(socket),
            _ => done,
        }
    });
    let rounds = if support::is_long_run() { 200 } else { 6 };
    let server = upstream.relayed(&[]);
    let mut memory = 0;
    for round in 0..rounds {
        assert_shows("esp32", &server, &shown, 15);
        if round == 2 {
            memory = server.rss_kib();
        }
        if round % 2 == 0 {
            wait_until("it rests", PATIENCE, || upstream.now() == 0);
        }
    }
    assert!(server.rss_kib() < memory + 8_000 && server.peak_rss_kib() < 60_000, "{memory} then {}", server.rss_kib());
    assert_eq!(upstream.most(), 1, "never a second client");
}

/// The modes that keep every frame, replay and figures are the same as with a webcam.
#[test]
fn all_frames_replay_and_figures_are_as_with_a_webcam() {
    let pictures = pictures();
    let shown = pictures.clone();
    let upstream = Upstream::start(move |socket, _, _| good(socket, &pictures));
    let server = upstream.relayed(&["--replay", "5", "--idle", "0"]);
    assert_shows("newest", &server, &shown, 10);
    let clip = server.get("/clip");
    // They may say when they were taken; they are known by what their camera wrote into them.
    let stamps: Vec<_> = shown.iter().map(|jpeg| support::stamp_of(jpeg).expect("a stamp")).collect();
    let ends: Vec<_> = (2..=clip.body.len()).filter(|at| clip.body[at - 2..*at] == [0xFF, 0xD9]).collect();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let stamped = |(start, end): (usize, &usize)| support::stamp_of(&clip.body[start..*end]).expect("a stamp");
    assert!(starts.zip(&ends).map(stamped).all(|stamp| stamps.contains(&stamp)));
    assert!(ends.len() >= 8 && ends.last() == Some(&clip.body.len()), "{} pictures", ends.len());
    let mut all = server.connect();
    all.send(request("GET", "/stream?mode=all"));
    let mut bytes = vec![0; 20_000];
    all.into_reader().read_exact(&mut bytes).expect("a stream");
    assert!(String::from_utf8_lossy(&bytes).contains("X-Frame-Seq: "));
    assert!(server.get("/state").text().contains("160"));
    assert_eq!(server.get("/healthz").status, 200);
}

/// Pictures that are seconds apart are no stall, streamed or polled.
#[test]
fn a_slow_server_is_left_in_peace() {
    let pictures = pictures();
    let streamed = pictures.clone();
    let slow = Upstream::start(move |socket, _, _| good_every(Duration::from_secs(3), socket, &streamed));
    let shown = pictures.clone();
    let polled = Upstream::start(move |socket, _, _| {
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", pictures[0].len());
        socket.write_all(&[head.as_bytes(), &pictures[0]].concat())
    });
    let (streaming, polling) = (slow.relayed(&[]), polled.relayed(&["--fps", "0.3"]));
    thread::scope(|scope| {
        scope.spawn(|| assert_shows("streamed", &streaming, &shown, 4));
        scope.spawn(|| assert_shows("polled", &polling, &shown, 3));
    });
    assert_eq!((slow.total(), polled.total(), polled.requests().len()), (1, 1, 3), "{:?}", streaming.log());
}
