//! Behind real proxies, with the snippets that packaging/ ships: under a sub-path, unbuffered, with credentials.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::{Client, PATIENCE, Part, TestServer, request_with, sys, wait_until};

#[derive(Clone, Copy, Debug, PartialEq)]
enum ProxyKind {
    Nginx,
    HaProxy,
}

/// A proxy in front of framehub, ended when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    /// Its files, as long as it runs.
    _folder: tempfile::TempDir,
}

/// What the shipped snippet says, with our addresses, and with the proxy asking for a password if `asks`.
fn snippet(kind: ProxyKind, upstream: &str, asks: bool) -> String {
    let path = match kind {
        ProxyKind::Nginx => "packaging/nginx/framehub.conf",
        ProxyKind::HaProxy => "packaging/haproxy/framehub.cfg",
    };
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a shipped file");
    assert_eq!(
        text.lines().filter(|line| line.contains("127.0.0.1:8080") && !line.starts_with('#')).count(),
        1,
        "{path}"
    );
    let text: String = text.lines().filter(|line| !line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
    let text = text.replace("127.0.0.1:8080", upstream);
    if asks { text.replace("#auth# ", "") } else { text }
}

impl Proxy {
    /// `upstream` as the proxy's language has it.
    fn start(kind: ProxyKind, upstream: &str, asks: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // The proxy gets a socket that listens already, as its stdin, so that nobody can take the port in between.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let text = snippet(kind, upstream, asks);
        let config = folder.path().join("config");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut command = match kind {
            ProxyKind::Nginx => {
                let password = at("password");
                fs::write(&password, "ann:{PLAIN}CHANGE-THIS\n").expect("a file");
                let text = text.replace("/etc/nginx/webcam.htpasswd", &password);
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .iter()
                    .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
                    .collect();
                // Its worker has to reach our files.
                let user = if sys::is_root() { "user root;" } else { "" };
                let whole = format!(
                    "daemon off; {user} pid {}; error_log stderr crit;\nevents {{}}\nhttp {{\n{temporary}\
                     server {{\nlisten {address};\n{text}}}\n}}\n",
                    at("pid")
                );
                fs::write(&config, whole).expect("a file");
                let mut command = Command::new(find("nginx", "nginx-light"));
                command.env("NGINX", "0;").arg("-c").arg(&config).arg("-e").arg("stderr").arg("-p").arg(folder.path());
                command
            }
            ProxyKind::HaProxy => {
                fs::write(&config, text.replace("bind :80", "bind fd@0")).expect("a file");
                let mut command = Command::new(find("haproxy", "haproxy"));
                command.arg("-db").arg("-f").arg(&config);
                command
            }
        };
        command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null());
        let child = command.spawn().expect("the proxy starts");
        let mut proxy = Self { child, address, _folder: folder };
        wait_until("the proxy answers", PATIENCE, || {
            assert!(proxy.child.try_wait().expect("our own child").is_none(), "the proxy ended, see above");
            proxy.get_as("/nothing-here", &[]).is_some()
        });
        proxy
    }

    fn get(&self, target: &str, fields: &[(&str, &str)]) -> support::Response {
        self.get_as(target, fields).expect("a response")
    }

    fn get_as(&self, target: &str, fields: &[(&str, &str)]) -> Option<support::Response> {
        let mut client = Client::connect(self.address);
        client.send(request_with("GET", target, fields));
        client.try_response("GET").ok()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx has a worker, which a killed master would leave behind.
        sys::send_signal(self.child.id(), libc::SIGTERM);
        let _ = self.child.wait();
    }
}

#[track_caller]
fn find(program: &str, package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{program} is not installed; scripts/test does that (Debian's package {package})"))
}

/// Everything that a page and a client need, through a proxy.
fn serves_under_a_sub_path(kind: ProxyKind, server: &TestServer, upstream: &str) {
    let proxy = Proxy::start(kind, upstream, false);
    let redirect = proxy.get("/webcam", &[]);
    assert!(redirect.status == 301 && redirect.expect_header("Location").ends_with("/webcam/"), "{}", redirect.head);
    let page = proxy.get("/webcam/", &[]);
    assert_eq!(page.status, 200);
    let page = page.text();
    for attribute in ["src=\"", "href=\""] {
        for link in page.split(attribute).skip(1) {
            assert!(!link.starts_with('/') && !link.starts_with("http"), "a link that leaves the sub-path: {link:.40}");
        }
    }
    for target in ["/webcam/snapshot", "/webcam/?action=snapshot", "/webcam/still", "/webcam/state"] {
        assert_eq!(proxy.get(target, &[]).status, 200, "{target}");
    }
    // From its page, which the browser knows by a name that the proxy has to hand on.
    let from = |host: &str| {
        let origin = format!("http://{host}");
        proxy.get("/webcam/still", &[("Host", host), ("Origin", &origin)]).status
    };
    assert_eq!((from("cam.example"), from("evil.example")), (200, 403));

    // A client that is not the proxy's own machine, and claims to be somebody else.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("another address of ours");
    socket.connect(&proxy.address.into()).expect("the proxy takes connections");
    let request = request_with("GET", "/webcam/?action=stream", &[("X-Forwarded-For", "203.0.113.9")]);
    let (response, mut parts) = Client::over(socket.into()).stream(request);
    server.wait_log("viewer came client=127.0.0.2", PATIENCE);
    assert!(response.expect_header("Content-Type").starts_with("multipart/x-mixed-replace"), "{}", response.head);
    // A picture of 10 kB or so would wait for others in a buffer, and come late.
    let mut ages: Vec<Duration> = (0..20).map(|_| age(&parts.next_part())).collect();
    ages.sort();
    assert!(ages[10] < Duration::from_millis(250), "pictures are late: {ages:?}");
}

/// How long ago the camera took it.
fn age(part: &Part) -> Duration {
    Duration::from_nanos(sys::monotonic_ns().saturating_sub(part.stamp().mono_ns))
}

/// A viewer whose link is slower than the camera sees fresh pictures all the same: nothing piles up in the proxy.
fn nothing_piles_up(kind: ProxyKind, upstream: &str) {
    let proxy = Proxy::start(kind, upstream, false);
    let (_, mut parts) = Client::connect(proxy.address).stream(request_with("GET", "/webcam/stream", &[]));
    parts.next_part();
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    while age(&parts.next_part()) > Duration::from_millis(500) {
        assert!(start.elapsed() < Duration::from_secs(2), "old pictures still come after {:?}", start.elapsed());
    }
}

/// framehub asks: the proxy passes question and response on.
fn passes_credentials_on(kind: ProxyKind) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("credentials");
    fs::write(&file, "ann:S3cret\ntoken:T0ken\n").expect("a file");
    let server = TestServer::start(&[
        "--auth-file",
        file.to_str().expect("a plain path"),
        "--size=320x240",
        "--still-size=640x480",
    ]);
    let proxy = Proxy::start(kind, &server.address().to_string(), false);
    let refused = proxy.get("/webcam/", &[]);
    assert_eq!((refused.status, refused.headers("WWW-Authenticate").len()), (401, 2), "{}", refused.head);
    assert_eq!(proxy.get("/webcam/snapshot", &[("Authorization", "Basic YW5uOndyb25n")]).status, 401);
    assert_eq!(proxy.get("/webcam/snapshot", &[("Authorization", "Basic YW5uOlMzY3JldA==")]).status, 200);
    assert_eq!(proxy.get("/webcam/snapshot", &[("Authorization", "Bearer T0ken")]).status, 200);
    assert_eq!(proxy.get("/webcam/snapshot?token=T0ken", &[]).status, 200);
    assert!(!server.log().join("\n").contains("S3cret"));
}

/// The proxy asks, and shows framehub a token that no client knows.
fn asks_itself(kind: ProxyKind) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
    command.env("FRAMEHUB_TOKEN", "TOKEN");
    let server = TestServer::spawn(command, &["--size=320x240", "--still-size=640x480"]);
    let proxy = Proxy::start(kind, &server.address().to_string(), true);
    assert_eq!(server.get("/snapshot").status, 401, "nobody passes the proxy by");
    assert_eq!(proxy.get("/webcam/snapshot", &[]).status, 401);
    assert_eq!(proxy.get("/webcam/snapshot", &[("Authorization", "Bearer TOKEN")]).status, 401, "a guess at the proxy");
    assert_eq!(proxy.get("/webcam/snapshot", &[("Authorization", "Basic YW5uOndyb25n")]).status, 401);
    let ann = [("Authorization", "Basic YW5uOkNIQU5HRS1USElT")];
    assert_eq!(proxy.get("/webcam/snapshot", &ann).status, 200);
    // The browser adds the password and the proxy the token, whatever page the request is made for.
    let post = |origin: &str| {
        let fields = [ann[0], ("Host", "cam.example"), ("Origin", origin), ("Content-Length", "18")];
        let mut client = Client::connect(proxy.address);
        client.send(request_with("POST", "/webcam/controls", &fields) + "{\"brightness\": 10}");
        client.try_response("POST").expect("a response").status
    };
    assert_eq!((post("https://evil.example"), post("null"), post("https://cam.example")), (403, 403, 200));
    let (_, mut parts) = Client::connect(proxy.address).stream(request_with("GET", "/webcam/stream", &ann));
    parts.next_part();
}

#[test]
fn nginx() {
    let server = TestServer::start(&[
        "--trusted-proxy=127.0.0.1",
        "--allow-host=cam.example",
        "--size=320x240",
        "--still-size=640x480",
    ]);
    serves_under_a_sub_path(ProxyKind::Nginx, &server, &server.address().to_string());
    nothing_piles_up(ProxyKind::Nginx, &server.address().to_string());
}

#[test]
fn haproxy() {
    let server = TestServer::start(&[
        "--trusted-proxy=127.0.0.1",
        "--allow-host=cam.example",
        "--size=320x240",
        "--still-size=640x480",
    ]);
    serves_under_a_sub_path(ProxyKind::HaProxy, &server, &server.address().to_string());
    nothing_piles_up(ProxyKind::HaProxy, &server.address().to_string());
}

#[test]
fn nginx_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let listen = format!("unix:{}", path.display());
    let args = ["--listen", &listen, "--trusted-proxy=unix", "--allow-host=cam.example"];
    let server = TestServer::start(&[&args[..], &["--size=320x240", "--still-size=640x480"]].concat());
    serves_under_a_sub_path(ProxyKind::Nginx, &server, &format!("unix:{}:", path.display()));
}

#[test]
fn haproxy_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let listen = format!("unix:{}", path.display());
    let args = ["--listen", &listen, "--trusted-proxy=unix", "--allow-host=cam.example"];
    let server = TestServer::start(&[&args[..], &["--size=320x240", "--still-size=640x480"]].concat());
    serves_under_a_sub_path(ProxyKind::HaProxy, &server, &format!("unix@{}", path.display()));
}

#[test]
fn nginx_with_credentials() {
    passes_credentials_on(ProxyKind::Nginx);
    asks_itself(ProxyKind::Nginx);
}

#[test]
fn haproxy_with_credentials() {
    passes_credentials_on(ProxyKind::HaProxy);
    asks_itself(ProxyKind::HaProxy);
}
