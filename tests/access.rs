//! Who may look and who may change things: credentials, pages of other sites, names, proxies' word; and that no
//! secret is ever repeated.

mod support;

use std::fs;
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{Answer, EXIT_LIMIT, PATIENCE, TestServer, request, request_with};

/// Long and odd enough to be found wherever they should not be.
const FILE: &str = "# who may come in\n\
    read ann:pw-0f3a:of ann\n\
    control ben:pw-7b61 of ben\n\
    read token:tk-51d2+look/er==\n\
    token:tk-e94c-control\n";
const ANN: &str = "Basic YW5uOnB3LTBmM2E6b2YgYW5u";
const BEN: &str = "Basic YmVuOnB3LTdiNjEgb2YgYmVu";
/// Every form in which a secret of the file could leak.
const SECRETS: [&str; 9] = [
    "pw-0f3a",
    "pw-7b61",
    "tk-51d2",
    "tk-e94c",
    "YW5uOnB3LTBmM2E6b2YgYW5u",
    "YmVuOnB3LTdiNjEgb2YgYmVu",
    "%74k-e94c",
    "wrong-guess",
    "d3JvbmctZ3Vlc3M",
];

/// A server that knows the file's credentials and says everything that it ever says. Whatever the test did with it, no
/// secret is in its log at the end.
struct Guarded(TestServer);

impl Deref for Guarded {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.0
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut TestServer {
        &mut self.0
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert_no_secret(&self.log().join("\n"), "the log");
        }
    }
}

fn guarded(args: &[&str]) -> Guarded {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("credentials");
    fs::write(&path, FILE).expect("a file");
    let file = path.to_str().expect("a plain path");
    let options = ["--auth-file", file, "--log-level", "trace", "--size=320x240", "--still-size=640x480"];
    Guarded(TestServer::start(&[&options[..], args].concat()))
}

fn assert_no_secret(text: &str, whose: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} is in {whose}: {text}");
    }
}

#[test]
fn every_credential_on_the_wire() {
    let server = guarded(&[]);
    let auth = |value: &'static str| vec![("Authorization", value)];
    let (wrong_user, wrong_token) = ("Basic YW5uOndyb25nLWd1ZXNz", "Bearer wrong-guess");
    /// A target, header fields, the status, and whether that was a guess.
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, u16, bool);
    let cases: Vec<Case> = vec![
        // None.
        ("/snapshot", vec![], 401, false),
        ("/snapshot?token=", vec![], 401, false),
        ("/snapshot?token", vec![], 401, false),
        ("/snapshot", auth(""), 401, false),
        ("/snapshot", auth("Bearer "), 401, true),
        ("/snapshot", auth("Basic YW5uOg=="), 401, true), // ann without a password
        // Right ones.
        ("/snapshot", auth(ANN), 200, false),
        ("/snapshot", auth(BEN), 200, false),
        ("/snapshot", auth("Bearer tk-e94c-control"), 200, false),
        ("/snapshot", auth("bearer tk-51d2+look/er=="), 200, false),
        ("/snapshot?token=tk-e94c-control", vec![], 200, false),
        ("/snapshot?x=1&token=tk-e94c-control&timestamp=2", vec![], 200, false),
        // Percent-encoded, in its name and in its value; + as it is and encoded.
        ("/snapshot?%74oken=%74k-e94c%2Dcontrol", vec![], 200, false),
        ("/snapshot?token=tk-51d2+look/er==", vec![], 200, false),
        ("/snapshot?token=tk-51d2%2Blook%2Fer%3D%3D", vec![], 200, false),
        ("/snapshot?token=tk-51d2%20look/er==", vec![], 200, false),
        ("/snapshot?token=%2574k-e94c-control", vec![], 401, true),
        ("/snapshot", auth("Bearer %74k-e94c-control"), 401, true),
        ("/snapshot", auth("Basic YW5uOnB3JTJEMGYzYTpvZiBhbm4="), 401, true), // pw%2D0f3a
        // Wrong ones, and such as are none.
        ("/snapshot", auth(wrong_user), 401, true),
        ("/snapshot", auth(wrong_token), 401, true),
        ("/snapshot", auth("Basic Og=="), 401, true),
        ("/snapshot", auth("Basic"), 401, true),
        ("/snapshot", auth("Basic !!!!"), 401, true),
        ("/snapshot", auth("Basic tk-e94c-control"), 401, true),
        ("/snapshot", auth("tk-e94c-control"), 401, true),
        ("/snapshot", auth("Digest username=\"ann\""), 401, true),
        ("/snapshot?token=wrong-guess", vec![], 401, true),
        ("/snapshot?token=tk-e94c-contro", vec![], 401, true),
        ("/snapshot?token=tk-e94c-controll", vec![], 401, true),
        ("/snapshot?token=TK-E94C-CONTROL", vec![], 401, true),
        ("/snapshot?Token=tk-e94c-control", vec![], 401, false),
        // A header of that name is none, as with MJPGServer.
        ("/snapshot", vec![("token", "tk-e94c-control")], 401, false),
        // Doubled; an empty one beside a right one is none.
        ("/snapshot?token=&token=tk-e94c-control", vec![], 200, false),
        ("/snapshot", vec![("Authorization", ANN), ("Authorization", BEN)], 200, false),
        ("/snapshot", vec![("Authorization", ANN), ("Authorization", wrong_token)], 401, true),
        ("/snapshot", vec![("Authorization", wrong_token), ("Authorization", ANN)], 401, true),
        ("/snapshot?token=tk-e94c-control&token=tk-e94c-control", vec![], 200, false),
        ("/snapshot?token=tk-e94c-control&token=wrong-guess", vec![], 401, true),
        ("/snapshot?token=wrong-guess&token=tk-e94c-control", vec![], 401, true),
        // In header and query: a proxy may use one of them for itself.
        ("/snapshot?token=tk-e94c-control", auth(wrong_user), 200, false),
        ("/snapshot?token=wrong-guess", auth(ANN), 200, false),
        ("/snapshot?token=wrong-guess", auth(wrong_token), 401, true),
        // Everywhere.
        ("/", vec![], 401, false),
        ("/", auth(ANN), 200, false),
        ("/stream", vec![], 401, false),
        ("/stream?token=wrong-guess", vec![], 401, true),
        ("/still", vec![], 401, false),
        ("/full_res?token=tk-51d2+look/er==", vec![], 200, false),
        ("/controls", vec![], 401, false),
        ("/state", vec![], 401, false),
        ("/metrics", vec![], 401, false),
        ("/input.json", vec![], 401, false),
        ("/program.json", vec![], 401, false),
        ("/warm", vec![], 401, false),
        ("/?action=command&id=-1", vec![], 401, false),
    ];
    let mut wrong = 0;
    for (target, fields, status, is_wrong) in &cases {
        let start = Instant::now();
        let answer = server.connect().exchange(request_with("GET", target, fields));
        let took = start.elapsed();
        assert_eq!(answer.status, *status, "{target} {fields:?}: {}", answer.text());
        if *status == 401 {
            let challenges = answer.headers("WWW-Authenticate");
            assert_eq!(challenges, ["Basic realm=\"framehub\", charset=\"UTF-8\"", "Bearer realm=\"framehub\""]);
        }
        assert!(!is_wrong || took >= Duration::from_millis(300), "{target} {fields:?} was refused after {took:?}");
        assert_no_secret(&answer.head, "an answer's head");
        assert_no_secret(&answer.text(), "an answer");
        wrong += u64::from(*is_wrong);
    }
    // A stream, with the token in its address.
    server.stream("/stream?token=tk-51d2+look/er==").next_part();
    // They were counted, and nothing repeats a secret.
    let figures = |target| server.connect().exchange(request_with("GET", target, &[("Authorization", ANN)])).text();
    assert!(
        figures("/metrics").contains(&format!("framehub_wrong_credentials_total {wrong}\n")),
        "{}",
        figures("/metrics")
    );
    for target in ["/", "/state", "/metrics", "/controls", "/input.json", "/program.json", "/?token=tk-e94c-control"] {
        assert_no_secret(&figures(target), target);
    }
    server.wait_log("wrong credential client=127.0.0.1", PATIENCE);
}

#[test]
fn who_may_look_may_not_change_anything() {
    let server = guarded(&[]);
    let post = |fields: &[(&str, &str)]| {
        let body = "{\"brightness\": 10}";
        let length = body.len().to_string();
        let fields = [fields, &[("Content-Length", &length)]].concat();
        server.connect().exchange(request_with("POST", "/controls", &fields) + body)
    };
    let reader = post(&[("Authorization", ANN)]);
    assert_eq!((reader.status, reader.header("WWW-Authenticate")), (403, None), "{}", reader.text());
    assert_eq!(post(&[]).status, 401);
    assert_eq!(post(&[("Authorization", BEN)]).status, 200);
    let get = |target: &str| server.get(target).status;
    assert_eq!(get("/controls?token=tk-51d2%2Blook/er=="), 200);
    assert_eq!(get("/still?token=tk-51d2%2Blook/er=="), 200);
    assert_eq!(get("/warm?for=1s&token=tk-51d2%2Blook/er=="), 200);
    assert_eq!(get("/?action=command&id=-1&token=tk-51d2%2Blook/er=="), 403);
    assert_eq!(get("/?action=command&id=-1&token=tk-e94c-control"), 200);
}

/// A machine that watches ours, and a browser's tab, get what they need; the reasons are for those who may look.
#[test]
fn health_and_icon_need_no_credential() {
    let server = guarded(&["--device", "/nonexistent/video0"]);
    // Somebody has to ask for the camera before it is found missing.
    assert_eq!(server.connect().exchange(request_with("GET", "/snapshot", &[("Authorization", ANN)])).status, 503);
    let health = |fields: &[(&str, &str)]| server.connect().exchange(request_with("GET", "/healthz", fields));
    let (stranger, reader) = (health(&[]), health(&[("Authorization", ANN)]));
    assert_eq!((stranger.status, reader.status), (503, 503));
    assert!(
        !stranger.text().contains("video0") && reader.text().contains("video0"),
        "{} {}",
        stranger.text(),
        reader.text()
    );
    let start = Instant::now();
    assert_eq!(health(&[("Authorization", "Bearer wrong-guess")]).status, 401, "it tells nobody which guess is right");
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(server.get("/favicon.ico").status, 200);
}

#[test]
fn secrets_come_from_the_environment_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
    command
        .env("FRAMEHUB_TOKEN", "tk-e94c-control")
        .env("FRAMEHUB_USER", "ann")
        .env("FRAMEHUB_PASSWORD", "pw-0f3a:of ann");
    let server = TestServer::spawn(command, &["--log-level", "trace"]);
    assert_eq!(server.get("/snapshot").status, 401);
    assert_eq!(server.get("/snapshot?token=tk-e94c-control").status, 200);
    assert_eq!(server.connect().exchange(request_with("GET", "/snapshot", &[("Authorization", ANN)])).status, 200);
    assert_no_secret(&server.log().join("\n"), "the log");
    for (name, value) in [("FRAMEHUB_TOKEN", ""), ("FRAMEHUB_USER", "ann"), ("FRAMEHUB_PASSWORD", "pw-0f3a")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
        let output =
            command.args(["--device=synthetic", "--listen=127.0.0.1:0"]).env(name, value).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(name), "{name}={value}: {stderr}");
        assert_no_secret(&stderr, "the complaint");
    }
}

/// The door is never open because of a mistake in the file.
#[test]
fn a_file_that_closes_nothing_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (content, words) in [
        (Some(""), "no credential"),
        (Some("# none\n"), "no credential"),
        (Some("ann:pw-0f3a\npw-7b61\n"), "line 2"),
        (Some("ann:\n"), "line 1"),
        (None, "No such file"),
    ] {
        let path = folder.path().join("credentials");
        let _ = fs::remove_file(&path);
        if let Some(content) = content {
            fs::write(&path, content).expect("a file");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
        command.args(["--device=synthetic", "--listen=127.0.0.1:0", "--auth-file"]).arg(&path);
        let output = command.output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{content:?}: {stderr}");
        assert!(stderr.contains("--auth-file") && stderr.contains(words), "{content:?}: {stderr}");
        assert_no_secret(&stderr, "the complaint");
    }
}

/// One who guesses waits, but takes no place away: not even of a server that has room for one viewer.
#[test]
fn guesses_lock_out_nobody() {
    let server = guarded(&["--max-clients", "1"]);
    let address = server.address();
    let guess = move || {
        let mut client = support::Client::connect(address);
        (0..5).map(|_| client.exchange(request("GET", "/snapshot?token=wrong-guess")).status).collect::<Vec<_>>()
    };
    let guessers: Vec<_> = (0..60).map(|_| thread::spawn(guess)).collect();
    thread::sleep(Duration::from_millis(200));
    for _ in 0..3 {
        assert_eq!(server.get("/snapshot?token=tk-e94c-control").status, 200);
    }
    for guesser in guessers {
        assert_eq!(guesser.join().expect("a guesser"), [401; 5]);
    }
    let log = server.log();
    let told = log.iter().filter(|line| line.contains("wrong credential")).count();
    assert!((1..=20).contains(&told), "300 guesses are {told} lines");
}

#[test]
fn a_stop_does_not_wait_for_guessers() {
    let mut server = guarded(&[]);
    for _ in 0..20 {
        server.connect().send(request("GET", "/?token=wrong-guess"));
    }
    let (status, took) = server.stop(libc::SIGTERM);
    assert!(status.success() && took < EXIT_LIMIT, "{status} after {took:?}");
}

/// What a page learns of where it was asked from must not be our address with a token in it.
#[test]
fn no_referer_has_a_token() {
    let server = guarded(&[]);
    for target in
        ["/?token=tk-e94c-control", "/snapshot?token=tk-e94c-control", "/state?token=tk-e94c-control", "/nothing"]
    {
        assert_eq!(server.get(target).expect_header("Referrer-Policy"), "strict-origin", "{target}");
    }
}

#[test]
fn pages_that_may_read() {
    let ask = |server: &TestServer, target: &str, origin: Option<&str>| -> Answer {
        let fields: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
        server.connect().exchange(request_with("GET", target, &fields))
    };
    let (panel, other) = (Some("http://panel.local"), Some("http://other.example"));
    for target in ["/snapshot", "/stream", "/state", "/nothing"] {
        let open = TestServer::start(&[]);
        for origin in [None, panel, other] {
            let answer = ask(&open, target, origin);
            assert_eq!((answer.expect_header("Access-Control-Allow-Origin"), answer.header("Vary")), ("*", None));
        }
        let named =
            TestServer::start(&["--allow-origin", "http://panel.local", "--allow-origin=https://b.example:8443"]);
        for (origin, allowed) in [(None, None), (panel, panel), (other, None), (Some("HTTP://PANEL.local"), panel)] {
            let answer = ask(&named, target, origin);
            assert_eq!(answer.header("Access-Control-Allow-Origin"), allowed, "{target} {origin:?}");
            assert_eq!(answer.header("Vary"), Some("Origin"));
        }
        let closed = TestServer::start(&["--allow-origin", "none"]);
        assert_eq!(ask(&closed, target, panel).header("Access-Control-Allow-Origin"), None);
    }
}

/// Pages of other sites, and sites whose name was made to lead here, can look; they cannot take stills, warm the
/// camera or set controls.
#[test]
fn pages_that_may_do_more_than_look() {
    let server = TestServer::start(&[
        "--still-size=640x480",
        "--allow-origin=*",
        "--allow-origin=https://panel.example",
        "--allow-host=cam.example",
    ]);
    let body = "{\"brightness\": 10}";
    let requests: [(&str, &str, &str); 6] = [
        ("GET", "/still?max_age=600000", ""),
        ("GET", "/snapshot?size=max&max_age=600000", ""),
        ("GET", "/warm?for=1s", ""),
        ("POST", "/warm?for=1s", ""),
        ("POST", "/controls", body),
        ("GET", "/?action=command&id=-1", ""),
    ];
    let host = server.address().to_string();
    let lan = "192.168.1.7:8080";
    let own = format!("http://{host}");
    let cases: Vec<(Vec<(&str, &str)>, bool)> = vec![
        (vec![("Host", &host)], true),
        (vec![("Host", "localhost")], true),
        (vec![("Host", "octopi")], true),
        (vec![("Host", "octopi.local:8080")], true),
        (vec![("Host", "cam.lan")], true),
        (vec![("Host", "cam.home.arpa")], true),
        (vec![("Host", "[fd00::1]:8080")], true),
        (vec![("Host", "cam.example:8080")], true),
        (vec![("Host", "evil.example")], false),
        (vec![("Host", "evil.example:8080")], false),
        (vec![("Host", "192.168.1.7.evil.example")], false),
        (vec![("Host", &host), ("Origin", &own)], true),
        (vec![("Host", &host), ("Referer", &own)], true),
        (vec![("Host", lan), ("Origin", "http://192.168.1.7")], true),
        (vec![("Host", lan), ("Origin", "https://panel.example")], true),
        (vec![("Host", lan), ("Origin", "http://mainsail.local")], true),
        (vec![("Host", lan), ("Origin", "http://evil.example")], false),
        (vec![("Host", lan), ("Origin", "null")], false),
        (vec![("Host", lan), ("Referer", "http://evil.example/page")], false),
        (vec![("Host", lan), ("Sec-Fetch-Site", "cross-site")], false),
        (vec![("Host", lan), ("User-Agent", "Mozilla/5.0"), ("Accept", "image/*")], false),
        (vec![("Host", &host), ("Origin", "http://192.168.1.66")], false),
        // DNS rebinding: the page's own name leads here, so its origin is ours.
        (vec![("Host", "evil.example"), ("Origin", "http://evil.example")], false),
        (vec![("Host", "evil.example"), ("Sec-Fetch-Site", "same-origin")], false),
    ];
    for (fields, allowed) in cases {
        for (method, target, body) in requests {
            let length = body.len().to_string();
            let fields = [&fields[..], &[("Content-Length", &length)]].concat();
            let answer = server.connect().exchange(request_with(method, target, &fields) + body);
            let expected = if allowed { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{method} {target} {fields:?}: {}", answer.text());
        }
        assert_eq!(server.connect().exchange(request_with("GET", "/snapshot", &fields)).status, 200, "{fields:?}");
    }
}

/// A browser adds the password that it knows to requests that other sites' pages make; it adds no token.
#[test]
fn a_password_alone_does_not_open_the_door_to_pages() {
    let server = guarded(&[]);
    let ask =
        |target: &str, fields: &[(&str, &str)]| server.connect().exchange(request_with("GET", target, fields)).status;
    let (evil, ben) = (("Origin", "http://evil.example"), ("Authorization", BEN));
    assert_eq!(ask("/still", &[evil, ben]), 403);
    assert_eq!(ask("/?action=command&id=-1", &[evil, ben]), 403);
    assert_eq!(ask("/?action=command&id=-1&token=wrong-guess", &[evil, ben]), 403);
    assert_eq!(ask("/?action=command&id=-1&token=tk-e94c-control", &[evil]), 200);
    assert_eq!(ask("/?action=command&id=-1", &[evil, ("Authorization", "Bearer tk-e94c-control")]), 200);
    assert_eq!(ask("/still", &[ben, ("Host", "cam.example")]), 200, "no name that leads here has our password");
}

#[test]
fn only_trusted_proxies_speak_for_others() {
    let come = |args: &[&str], forwarded: &str| {
        let server = TestServer::start(args);
        let request = request_with("GET", "/stream", &[("X-Forwarded-For", forwarded)]);
        server.connect().stream(request).1.next_part();
        let line = server.wait_log("viewer came", PATIENCE);
        line.split("client=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a client").to_owned()
    };
    assert_eq!(come(&[], "203.0.113.9"), "127.0.0.1");
    assert_eq!(come(&["--trusted-proxy", "10.0.0.0/8"], "203.0.113.9"), "127.0.0.1");
    assert_eq!(come(&["--trusted-proxy", "127.0.0.0/8"], "203.0.113.9"), "203.0.113.9");
    assert_eq!(come(&["--trusted-proxy", "127.0.0.1"], "6.6.6.6, 203.0.113.9"), "203.0.113.9");
    assert_eq!(come(&["--trusted-proxy=unix", "--trusted-proxy=127.0.0.1"], "bogus"), "127.0.0.1");
}
