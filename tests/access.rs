//! Access control, for reading and for changes: credentials, pages of other sites, names, proxies' word; and that no
//! secret is ever repeated.

mod support;

use std::fs;
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{EXIT_LIMIT, PATIENCE, Response, TestServer, program, request, request_with};

/// Long and odd enough to be found wherever they should not be.
const FILE: &str = "# people with access\n\
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
        let response = server.connect().exchange(request_with("GET", target, fields));
        let took = start.elapsed();
        assert_eq!(response.status, *status, "{target} {fields:?}: {}", response.text());
        if *status == 401 {
            let challenges = response.headers("WWW-Authenticate");
            assert_eq!(challenges, ["Basic realm=\"framehub\", charset=\"UTF-8\"", "Bearer realm=\"framehub\""]);
        }
        assert!(!is_wrong || took >= Duration::from_millis(300), "{target} {fields:?} was refused after {took:?}");
        assert_no_secret(&response.head, "a response's head");
        assert_no_secret(&response.text(), "a response");
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

/// A machine that watches ours, and a browser's tab, get what they need; the reasons are for those with a credential.
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

/// A client that guesses waits, but takes no permit away: not even of a server that has room for one viewer.
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
fn pages_whose_scripts_may_read() {
    let ask = |server: &TestServer, target: &str, origin: Option<&str>| -> Response {
        let fields: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
        server.connect().exchange(request_with("GET", target, &fields))
    };
    let (panel, other) = (Some("https://panel.example"), Some("http://other.example"));
    let local = Some("http://mainsail.local");
    let default = TestServer::start(&[]);
    let open = TestServer::start(&["--allow-origin", "*"]);
    let closed = TestServer::start(&["--allow-origin", "none"]);
    let named =
        TestServer::start(&["--allow-origin", "https://panel.example", "--allow-origin=https://b.example:8443"]);
    let mut ustreamer = program();
    ustreamer.args(["--as", "ustreamer", "--host=127.0.0.1", "--port=0", "--device=synthetic", "--allow-origin", "*"]);
    let ustreamer = TestServer::launch(ustreamer, 1);
    for target in ["/snapshot", "/stream", "/state", "/nothing"] {
        for origin in [None, panel, other, local] {
            for server in [&open, &ustreamer] {
                let response = ask(server, target, origin);
                assert_eq!(
                    (response.expect_header("Access-Control-Allow-Origin"), response.header("Vary")),
                    ("*", None)
                );
            }
        }
        for (origin, by_default, by_name) in [
            (None, None, None),
            (panel, None, panel),
            (Some("HTTPS://PANEL.example"), None, panel),
            (other, None, None),
            (local, local, local),
            (Some("null"), None, None),
        ] {
            for (server, allowed) in [(&default, by_default), (&closed, None), (&named, by_name)] {
                let response = ask(server, target, origin);
                assert_eq!(response.header("Access-Control-Allow-Origin"), allowed, "{target} {origin:?}");
                assert_eq!(response.header("Vary"), Some("Origin"));
            }
        }
    }
}

/// A header field, and what becomes of a request that has it under each of four policies: without `--allow-origin`,
/// with `*`, with `none`, with a named origin. `y` is 200 and `n` is 403, for an interrupt and for a write.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

/// Every combination of header fields, kind of request, credential and `--allow-origin`: what the rule allows, no matter
/// which client shows which credential.
#[test]
fn a_foreign_page_can_only_read() {
    let browser = ("User-Agent", "Mozilla/5.0");
    let cases: &[Case] = &[
        (&[], "yyyy", "yyyy"),
        (&[browser], "yyyy", "nnnn"),
        (&[browser, ("Sec-Fetch-Site", "same-origin")], "yyyy", "yyyy"),
        (&[browser, ("Sec-Fetch-Site", "none")], "yyyy", "yyyy"),
        (&[browser, ("Sec-Fetch-Site", "cross-site")], "nnnn", "nnnn"),
        (&[("Origin", "http://127.0.0.1:5000")], "yyyy", "yyyy"),
        (&[("Referer", "http://127.0.0.1/")], "yyyy", "yyyy"),
        (&[("Origin", "http://192.168.1.66")], "yyny", "yyny"),
        (&[("Origin", "http://mainsail.local"), ("Sec-Fetch-Site", "cross-site")], "yyny", "yyny"),
        (&[("Referer", "http://mainsail/#/")], "yyny", "yyny"),
        (&[("Origin", "https://panel.example")], "nnny", "nnny"),
        (&[("Referer", "https://panel.example/cams")], "nnny", "nnny"),
        (&[("Origin", "http://evil.example")], "nnnn", "nnnn"),
        (&[browser, ("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")], "nnnn", "nnnn"),
        (&[("Referer", "http://evil.example/page")], "nnnn", "nnnn"),
        (&[("Origin", "null")], "nnnn", "nnnn"),
    ];
    let body = "{\"brightness\": 10}";
    let reads = [("GET", "/snapshot", ""), ("GET", "/state", ""), ("GET", "/controls", "")];
    let interrupts =
        [("GET", "/still?max_age=600000", ""), ("GET", "/snapshot?size=max&max_age=600000", ""), ("POST", "/warm", "")];
    let writes = [("POST", "/controls", body), ("GET", "/?action=command&id=-1", "")];
    for (at, allow) in
        [&[][..], &["--allow-origin=*"], &["--allow-origin=none"], &["--allow-origin=https://panel.example"]]
            .into_iter()
            .enumerate()
    {
        let (open, closed) = (TestServer::start(&[&["--still-size=640x480"], allow].concat()), guarded(allow));
        let shown = [("Authorization", BEN), ("Authorization", "Bearer tk-e94c-control")];
        let clients = [(&open, None), (&*closed, Some(shown[0])), (&*closed, Some(shown[1]))];
        for ((server, credential), (fields, interrupt, write)) in
            clients.into_iter().flat_map(|client| cases.iter().map(move |case| (client, *case)))
        {
            let fields: Vec<_> = [("Host", "127.0.0.1")].into_iter().chain(credential).chain(fields.to_vec()).collect();
            for (requests, expected) in [(&reads[..], "yyyy"), (&interrupts, interrupt), (&writes, write)] {
                for (method, target, body) in requests {
                    let length = body.len().to_string();
                    let fields = [&fields[..], &[("Content-Length", &length)]].concat();
                    let response = server.connect().exchange(request_with(method, target, &fields) + body);
                    let status = if &expected[at..=at] == "y" { 200 } else { 403 };
                    assert_eq!(response.status, status, "{method} {target} {fields:?} {allow:?}: {}", response.text());
                }
            }
        }
    }
}

/// Names that can be made to lead here by somebody else's name server (DNS rebinding).
#[test]
fn names_by_which_a_request_without_a_credential_may_call_this_machine() {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let servers = [&[][..], &["--allow-origin=*"], &["--allow-origin=none"], &["--allow-origin=https://panel.example"]]
        .map(|allow| TestServer::start(&[&["--still-size=640x480", "--allow-host=cam.example"], allow].concat()));
    let (ours, theirs) = ("yyyy", "yynn");
    for (host, reads) in [
        ("127.0.0.1:8080", ours),
        ("localhost", ours),
        ("octopi", ours),
        ("octopi.local:8080", ours),
        ("cam.lan", ours),
        ("cam.home.arpa", ours),
        ("cam.internal", ours),
        ("[fd00::1]:8080", ours),
        ("cam.example:8080", ours),
        (hostname.trim(), ours),
        ("evil.example", theirs),
        ("evil.example:8080", theirs),
        ("192.168.1.7.evil.example", theirs),
    ] {
        for (at, server) in servers.iter().enumerate() {
            // A page whose own name leads here asks for its own origin.
            for own in [&[][..], &[("Origin", "http://evil.example")], &[("Sec-Fetch-Site", "same-origin")]] {
                let fields = [&[("Host", host)], own].concat();
                let ask = |target: &str| server.connect().exchange(request_with("GET", target, &fields)).status;
                let read = if &reads[at..=at] == "y" { 200 } else { 403 };
                assert_eq!((ask("/snapshot"), ask("/state")), (read, read), "{fields:?} {at}");
                assert_eq!(ask("/healthz"), 200, "machines ask that by any name");
                let is_ours = reads == ours && !own.contains(&("Origin", "http://evil.example"));
                let more = if is_ours { 200 } else { 403 };
                assert_eq!((ask("/still?max_age=600000"), ask("/warm")), (more, more), "{fields:?} {at}");
                assert_eq!(ask("/?action=command&id=-1"), more, "{fields:?} {at}");
            }
        }
    }
    // A credential is a secret that no name has.
    let guarded = guarded(&["--allow-origin=none"]);
    let fields = [("Authorization", BEN), ("Host", "cam.example")];
    assert_eq!(guarded.connect().exchange(request_with("GET", "/still", &fields)).status, 200);
}

/// Each refusal names the option that would allow the request, and the log does so once.
#[test]
fn refusals_name_the_option_that_would_allow_it() {
    let body_of = |server: &TestServer, fields: &[(&str, &str)]| {
        let response = server.connect().exchange(request_with("GET", "/still", fields));
        assert_eq!(response.status, 403, "{}", response.text());
        response.text()
    };
    let server = TestServer::start(&[]);
    for _ in 0..3 {
        let page = body_of(&server, &[("Origin", "https://panel.example:8443")]);
        assert!(page.contains("--allow-origin https://panel.example:8443 "), "{page}");
        let name = body_of(&server, &[("Host", "cam.example:8080")]);
        assert!(name.contains("--allow-host cam.example "), "{name}");
        let hidden = body_of(&server, &[("Sec-Fetch-Site", "cross-site")]);
        assert!(hidden.contains("Origin") && !hidden.contains("--"), "{hidden}");
    }
    server.wait_log("option=\"--allow-host cam.example\"", PATIENCE);
    let log = server.log();
    for option in ["--allow-origin https://panel.example:8443\"", "--allow-host cam.example\""] {
        assert_eq!(log.iter().filter(|line| line.contains(option)).count(), 1, "{option} in {log:#?}");
    }
    // What the log proposes is what is needed.
    let server = TestServer::start(&["--allow-origin", "https://panel.example:8443", "--allow-host", "cam.example"]);
    let fields = [("Host", "cam.example:8080"), ("Origin", "https://panel.example:8443")];
    assert_eq!(server.connect().exchange(request_with("GET", "/still", &fields)).status, 200);
}

/// The log does not grow with the names that a stranger makes up.
#[test]
fn made_up_names_do_not_fill_the_log() {
    let server = TestServer::start(&[]);
    let mut client = server.connect();
    for number in 0..300 {
        let origin = format!("https://evil{number}.example");
        assert_eq!(client.exchange(request_with("GET", "/still", &[("Origin", &origin)])).status, 403);
    }
    let lines = server.log().iter().filter(|line| line.contains("request refused")).count();
    assert!(lines <= 100, "{lines} lines");
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

/// A page of somebody else's must not lay framehub's page under what people click on, nor a browser guess what a
/// response is: neither an error's nor a stream's.
#[test]
fn the_page_is_framed_by_named_pages_only_and_types_are_not_guessed() {
    let server =
        TestServer::start(&["--size", "320x240", "--allow-origin", "https://panel.example", "--allow-origin", "*"]);
    let policy = server.get("/").expect_header("Content-Security-Policy").to_owned();
    for part in ["frame-ancestors 'self' https://panel.example", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.split(';').any(|directive| directive.trim() == part), "{part} in {policy}");
    }
    for sent in [
        request("GET", "/"),
        request("GET", "/page.css"),
        request("GET", "/snapshot"),
        request("GET", "/stream"),
        request("GET", "/state"),
        request("GET", "/metrics"),
        request("GET", "/nowhere"),
        request("DELETE", "/"),
        request("OPTIONS", "/still"),
        request("GET", "/clip"),
        "GET / HTTP/2.0\r\n\r\n".into(),
    ] {
        let response = server.connect().exchange(&sent);
        assert_eq!(response.expect_header("X-Content-Type-Options"), "nosniff", "{sent}");
    }
    let plain = TestServer::start(&[]);
    let policy = plain.get("/").expect_header("Content-Security-Policy").to_owned();
    assert!(policy.ends_with("frame-ancestors 'self'"), "{policy}");
}
