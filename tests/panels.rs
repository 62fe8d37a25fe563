//! The requests of printer panels and their companions: Mainsail, Fluidd, Moonraker and moonraker-timelapse. Browsers
//! send them from the panel's page, so they are cross-origin requests.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Client, PATIENCE, Response, TestServer, is_one_whole_jpeg, request_with, wait_until};

/// What a browser adds when the page at mainsail.local asks the server on another port.
const BROWSER: [(&str, &str); 5] = [
    ("Host", "mainsail.local:8080"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    ),
    ("Origin", "http://mainsail.local"),
    ("Referer", "http://mainsail.local/"),
    ("Sec-Fetch-Site", "same-site"),
];

fn browser(target: &str) -> String {
    request_with("GET", target, &BROWSER)
}

#[track_caller]
fn assert_picture(response: &Response) {
    assert_eq!((response.status, response.expect_header("Content-Type")), (200, "image/jpeg"), "{}", response.text());
    assert!(is_one_whole_jpeg(&response.body));
}

/// For fetch, and for images with `crossorigin`.
#[track_caller]
fn assert_readable_by_the_panel(response: &Response) {
    assert_eq!(response.expect_header("Access-Control-Allow-Origin"), "http://mainsail.local", "{}", response.head);
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Reads a stream by the rules of Mainsail's player: a part has a `Content-Length`; the picture's first two bytes
/// arrive in one piece and occur nowhere else; the picture is shown when the byte after it has arrived.
fn shown_by_mainsail(mut reader: impl Read, pictures: usize) -> Vec<Vec<u8>> {
    let (mut shown, mut head, mut picture, mut length) = (Vec::new(), Vec::new(), Vec::new(), None);
    let mut piece = vec![0; 65_536];
    while shown.len() < pictures {
        let count = reader.read(&mut piece).expect("the stream goes on");
        assert!(count > 0, "the stream goes on");
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            let Some(wanted) = length else {
                let start = find(rest, b"\xff\xd8");
                head.extend_from_slice(&rest[..start.unwrap_or(rest.len())]);
                let Some(start) = start else { break };
                let text = String::from_utf8_lossy(&head).into_owned();
                let number = text.rsplit("Content-Length: ").next().and_then(|rest| rest.split("\r\n").next());
                length = Some(number.and_then(|number| number.parse::<usize>().ok()).expect("a length"));
                rest = &rest[start..];
                continue;
            };
            let more = rest.len().min(wanted - picture.len());
            picture.extend_from_slice(&rest[..more]);
            rest = &rest[more..];
            if picture.len() == wanted && !rest.is_empty() {
                shown.push(std::mem::take(&mut picture));
                head.clear();
                length = None;
            }
        }
    }
    shown
}

#[test]
fn mainsail_reads_the_stream() {
    let server = TestServer::start(&["--size", "320x240"]);
    // Mainsail reconnects every ten seconds. No viewer may be left over.
    for turn in 0..5 {
        let mut client = server.connect();
        let response = client.exchange(browser(&format!("/?action=stream&timestamp=176000000000{turn}")));
        assert_eq!(response.status, 200, "{}", response.head);
        assert_readable_by_the_panel(&response);
        let shown = shown_by_mainsail(client.into_reader(), 10);
        assert!(shown.iter().all(|picture| is_one_whole_jpeg(picture)));
    }
    wait_until("no viewer is left", PATIENCE, || server.get("/state").text().contains("\"clients\":0"));
}

/// Both show an `<img>` and load its next address when a picture has arrived, up to 15 times a second.
#[test]
fn mainsail_and_fluidd_load_one_snapshot_after_the_other() {
    let server = TestServer::start(&["--size", "320x240"]);
    let mut client: Client = server.connect();
    let response = client.exchange(browser("/?action=snapshot&bypassCache=1760000000000"));
    assert_picture(&response);
    assert_readable_by_the_panel(&response);
    let began = Instant::now();
    for turn in 0..15 {
        let name = ["bypassCache", "cacheBust"][turn % 2];
        let response = client.exchange(browser(&format!("/?action=snapshot&{name}=17600000000{turn}")));
        assert_picture(&response);
        assert_readable_by_the_panel(&response);
        assert!(!response.says_close(), "{}", response.head);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "15 pictures took {:?}", began.elapsed());
}

/// Moonraker's test of a webcam expects the whole response within one second, also from a camera that sleeps.
#[test]
fn moonraker_tests_the_snapshot() {
    let server = TestServer::start(&["--size", "320x240"]);
    let fields = [("Host", "127.0.0.1:8080"), ("Connection", "close"), ("Accept-Encoding", "gzip")];
    let began = Instant::now();
    let response = server.connect().exchange(request_with("GET", "/?action=snapshot", &fields));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_picture(&response);
}

/// moonraker-timelapse runs wget, ends it after two seconds, and keeps whatever came with status 200.
#[test]
fn moonraker_timelapse_fetches_a_frame() {
    let wget = |server: &TestServer, target: &str| {
        let fields = [
            ("Host", "localhost:8080"),
            ("User-Agent", "Wget/1.21.3"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "Keep-Alive"),
        ];
        let began = Instant::now();
        let response = server.connect().exchange(request_with("GET", target, &fields));
        assert!(began.elapsed() < Duration::from_secs(2), "{target}: {:?}", began.elapsed());
        response
    };
    // The synthetic camera draws each picture itself, which is slow at 4K in a debug build.
    let server = TestServer::start(&["--size", "320x240", "--still-size", "1280x720"]);
    let lost = TestServer::start(&["--device", "/dev/no-such-camera"]);
    for target in ["/?action=snapshot", "/snapshot", "/still"] {
        assert_picture(&wget(&server, target));
        wget(&lost, target).assert_unavailable();
    }
}

/// The line that `--check` prints registers the camera: Moonraker's API gets JSON with the addresses that a browser reaches.
#[test]
fn the_printed_line_registers_the_camera_with_moonraker() {
    let moonraker = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = moonraker.local_addr().expect("its address").to_string();
    let check = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
        command.args(["--check", "--device", "synthetic", "--size=160x120", "--still-size=160x120"]).args(args);
        String::from_utf8(command.output().expect("it runs").stdout).expect("text")
    };
    let printed = check(&["--listen", "192.0.2.7:8080", "--rotate", "90"]);
    assert!(printed.contains("set no rotation in OctoPrint"), "{printed}");
    assert!(!printed.contains("/?action=snapshot"), "{printed}");
    let line = printed.lines().find(|line| line.trim_start().starts_with("curl ")).expect("a line for curl");
    let line = line.replace("127.0.0.1:7125", &address);
    let curl = std::thread::spawn(move || Command::new("sh").args(["-c", &line]).output().expect("curl runs"));
    let (mut socket, _) = moonraker.accept().expect("curl comes");
    let mut request = String::new();
    let mut piece = [0; 4096];
    while !request.ends_with('}') {
        let count = socket.read(&mut piece).expect("a request");
        request.push_str(std::str::from_utf8(&piece[..count]).expect("text"));
        assert!(count > 0, "{request}");
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").expect("curl reads");
    assert!(curl.join().expect("curl ends").status.success());
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /server/webcams/item ") && head.contains("application/json"), "{head}");
    let item: serde_json::Value = serde_json::from_str(body).expect("JSON");
    for (key, value) in [
        ("name", "printer"),
        ("service", "mjpegstreamer-adaptive"),
        ("stream_url", "http://192.0.2.7:8080/?action=stream"),
        ("snapshot_url", "http://192.0.2.7:8080/snapshot"),
    ] {
        assert_eq!(item[key], value);
    }
}
