//! What the server says about itself: `/state` for programs that know uStreamer, `/metrics` for Prometheus,
//! `/healthz` for watchdogs. None of them opens the camera.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};
use support::{PATIENCE, TestServer, wait_until};

fn start(args: &[&str]) -> TestServer {
    TestServer::start(&[&["--size", "320x240"], args].concat())
}

#[track_caller]
fn state(server: &TestServer) -> Value {
    let answer = server.get("/state");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.expect_header("Content-Type"), "application/json");
    assert!(answer.expect_header("Cache-Control").contains("no-store"));
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[track_caller]
fn wait_health(server: &TestServer, status: u16) -> String {
    wait_until(&format!("/healthz says {status}"), PATIENCE, || server.get("/healthz").status == status);
    server.get("/healthz").text()
}

/// The types that its users, PiKVM among them, read without asking.
#[test]
fn state_has_ustreamers_shape() {
    let server = start(&["--fps", "20"]);
    let mut viewer = server.stream("/stream");
    (0..25).for_each(|_| _ = viewer.next_part());
    let state = state(&server);
    assert_eq!(state["ok"], true);
    let result = &state["result"];
    assert!(result["encoder"]["type"].is_string() && result["encoder"]["quality"].is_u64(), "{result}");
    let source = &result["source"];
    assert_eq!(source["resolution"], json!({"width": 320, "height": 240}));
    assert_eq!((&source["online"], &source["desired_fps"]), (&json!(true), &json!(20)));
    assert!((15..=25).contains(&source["captured_fps"].as_u64().expect("a whole number")), "{source}");
    assert!(result["stream"]["queued_fps"].is_u64() && result["stream"]["clients_stat"].is_object(), "{result}");
    assert_eq!(result["stream"]["clients"], 1);
    let client = result["stream"]["clients_stat"].as_object().and_then(|clients| clients.values().next()).expect("one");
    assert!(client["fps"].is_u64() && client["key"] == "0", "{client}");
    for flag in ["extra_headers", "advance_headers", "dual_final_frames", "zero_data"] {
        assert_eq!(client[flag], false, "{client}");
    }
}

#[test]
fn state_and_metrics_tell_of_each_viewer() {
    let server = start(&["--fps", "50"]);
    let request = "GET /stream HTTP/1.1\r\nHost: x\r\nUser-Agent: \"quoted\" \\ browser\r\n\r\n";
    let (_, mut first) = server.connect().stream(request);
    let mut second = server.connect();
    second.send("GET /stream?mode=all HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut second = second.into_reader();
    for _ in 0..20 {
        first.next_part();
        second.read_exact(&mut [0; 10_000]).expect("the stream goes on");
    }
    let clients = state(&server)["framehub"]["clients"].as_array().expect("a list").clone();
    assert_eq!(clients.len(), 2);
    for (client, mode, agent) in [(&clients[0], "newest", "\"quoted\" \\ browser"), (&clients[1], "all", "")] {
        assert_eq!((&client["mode"], &client["user_agent"]), (&json!(mode), &json!(agent)));
        assert_eq!(client["address"], "127.0.0.1");
        assert!(client["frames"].as_u64() >= Some(10) && client["bytes"].as_u64() >= Some(200_000), "{client}");
        assert!(client["fps"].as_f64() > Some(5.0) && client["seconds"].as_f64() > Some(0.3), "{client}");
        assert!(client["age_ms"].as_f64().is_some_and(|age| (0.0..2_000.0).contains(&age)), "{client}");
        assert!(client["skipped"].is_u64() && client["stalls"] == 0, "{client}");
    }
    let text = metrics(&server);
    assert_eq!(metric(&text, "framehub_clients"), 2.0);
    let labels = format!("{{id=\"{}\",address=\"127.0.0.1\",mode=\"all\"}}", clients[1]["id"]);
    assert!(metric(&text, &format!("framehub_client_frames_total{labels}")) >= 10.0);
    assert!(metric(&text, &format!("framehub_client_age_seconds{labels}")) < 2.0);

    drop(second);
    let left = || state(&server)["framehub"]["ended"]["left"].clone();
    wait_until("the one who left is counted as such", PATIENCE, || left() == 1);
    let text = metrics(&server);
    assert_eq!(metric(&text, "framehub_clients"), 1.0);
    assert_eq!(metric(&text, "framehub_clients_ended_total{reason=\"left\"}"), 1.0);
    assert!(metric(&text, "framehub_sent_frames_total") >= 10.0);
    assert!(!text.contains("mode=\"all\""), "series of viewers end with them:\n{text}");
}

#[test]
fn stills_are_counted_and_timed() {
    let server = start(&["--device", "synthetic:switch_ms=60", "--still-size", "640x480", "--still-settle", "2"]);
    let _viewer = server.stream("/stream");
    for _ in 0..2 {
        assert_eq!(server.get("/still").status, 200);
    }
    let stills = state(&server)["framehub"]["stills"].clone();
    let number = |key: &str| stills[key].as_f64().unwrap_or_else(|| panic!("{key} in {stills}"));
    assert_eq!((number("answered"), number("switches"), number("failures")), (2.0, 2.0, 0.0));
    assert!(number("switch_ms") >= 60.0 && number("settle_ms") > 0.0, "{stills}");
    let text = metrics(&server);
    assert_eq!(metric(&text, "framehub_still_switches_total"), 2.0);
    assert_eq!(metric(&text, "framehub_still_switch_seconds_count"), 2.0);
    assert_eq!(metric(&text, "framehub_still_switch_seconds_bucket{le=\"0.05\"}"), 0.0);
    assert_eq!(metric(&text, "framehub_still_switch_seconds_bucket{le=\"+Inf\"}"), 2.0);
    assert!(metric(&text, "framehub_still_switch_seconds_sum") >= 0.12, "{text}");
}

#[test]
fn state_tells_about_camera_capture_and_process() {
    let server = start(&["--device", "synthetic:dht=0", "--fps", "20", "--controls", "read"]);
    let mut viewer = server.stream("/stream");
    (0..30).for_each(|_| _ = viewer.next_part());
    let ours = state(&server)["framehub"].clone();
    assert_eq!(ours["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&ours["healthy"], &ours["trouble"]), (&json!(true), &Value::Null));
    let camera = &ours["camera"];
    assert_eq!(camera["identity"]["card"], "framehub test picture");
    for (key, value) in
        [("phase", json!("live")), ("size", json!("320x240")), ("fps", json!(20.0)), ("controls", json!("read"))]
    {
        assert_eq!(camera[key], value, "{camera}");
    }
    assert!(camera["open_seconds"].as_f64() > Some(0.5) && camera["watchers"] == 1, "{camera}");
    let capture = &ours["capture"];
    let frames = capture["frames"].as_u64().expect("a number");
    assert!(frames >= 30 && capture["dht_inserted"] == frames, "{capture}");
    assert!(capture["fps"].as_f64().is_some_and(|fps| (5.0..25.0).contains(&fps)), "{capture}");
    assert!(capture["jitter_ms"].as_f64().is_some_and(|jitter| jitter < 200.0), "{capture}");
    assert_eq!((&capture["opens"], &capture["failures"], &capture["restarts"]), (&json!(1), &json!(0), &json!(0)));
    assert!(capture["broken"].as_object().is_some_and(|causes| causes.values().all(|count| *count == 0)), "{capture}");
    let process = &ours["process"];
    assert!(process["threads"].as_u64() >= Some(3), "{process}");
    assert!(process["resident_bytes"].as_u64() > Some(1_000_000), "{process}");
    let descriptors = server.footprint().descriptors as u64;
    assert!(process["open_descriptors"].as_u64().is_some_and(|count| count.abs_diff(descriptors) <= 2), "{process}");
}

#[test]
fn a_sleeping_camera_is_left_asleep_and_is_healthy() {
    let server = start(&["--idle", "0.3"]);
    let phase = || state(&server)["framehub"]["camera"]["phase"].clone();
    wait_until("the camera sleeps", PATIENCE, || phase() == "asleep");
    for _ in 0..3 {
        let state = state(&server);
        assert_eq!(state["framehub"]["camera"]["phase"], "asleep");
        assert_eq!(
            (&state["result"]["source"]["online"], &state["result"]["source"]["captured_fps"]),
            (&json!(false), &json!(0))
        );
        assert_eq!(metric(&metrics(&server), "framehub_camera_phase{phase=\"asleep\"}"), 1.0);
        assert!(wait_health(&server, 200).contains("asleep"));
    }
    assert_eq!(server.log().iter().filter(|line| line.contains("camera opened")).count(), 0);
}

#[test]
fn health_follows_the_camera() {
    let directory = tempfile::tempdir().expect("a directory");
    let (plug, stall) = (directory.path().join("unplugged"), directory.path().join("stalled"));
    let device = format!("synthetic:unplug_file={},stall_file={}", plug.display(), stall.display());
    let server = start(&["--device", &device, "--idle", "0"]);
    // Somebody waits for pictures all the time, so that it is tried every second.
    let _viewer = server.stream("/stream");
    assert_eq!(wait_health(&server, 200), "ok\n");

    fs::write(&plug, "").expect("a file");
    let reason = wait_health(&server, 503);
    assert!(reason.contains("unplugged"), "{reason}");
    let state_says = state(&server)["framehub"].clone();
    assert!(state_says["healthy"] == false && reason.trim() == state_says["trouble"], "{reason}, but {state_says}");
    server.get("/healthz").assert_unavailable();
    fs::remove_file(&plug).expect("the file");
    wait_health(&server, 200);

    // The camera is there and streams, but no picture comes.
    fs::write(&stall, "").expect("a file");
    let reason = wait_health(&server, 503);
    assert!(reason.contains("stopped sending pictures"), "{reason}");
    // It stays so, however often the stream is restarted.
    for _ in 0..30 {
        assert_eq!(server.get("/healthz").status, 503);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(metric(&metrics(&server), "framehub_capture_restarts_total") >= 1.0);
    assert_eq!(metric(&metrics(&server), "framehub_healthy"), 0.0);
    fs::remove_file(&stall).expect("the file");
    wait_health(&server, 200);
}

/// Before its first picture a camera is not healthy yet, and one that never sends any will not be.
#[test]
fn health_waits_for_the_first_picture() {
    let server = start(&["--device", "synthetic:first_ms=1500"]);
    let _viewer = server.stream("/stream");
    let words = wait_health(&server, 503);
    assert!(words.contains("starting"), "{words}");
    wait_health(&server, 200);
}

#[test]
fn health_without_a_camera() {
    let server = start(&["--device", "/dev/no-such-camera"]);
    let health = || server.get("/healthz");
    wait_until("/healthz names it", PATIENCE, || {
        health().status == 503 && health().text().contains("/dev/no-such-camera")
    });
    let state = state(&server);
    assert_eq!(state["framehub"]["camera"]["identity"], Value::Null);
    assert!(state["framehub"]["capture"]["failures"].as_u64() >= Some(1), "{state}");
}

// ---- Metrics ----

#[track_caller]
fn metrics(server: &TestServer) -> String {
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.expect_header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text();
    assert_eq!(lint(&text), Vec::<String>::new());
    text
}

/// One sample's value, by name and labels as written.
#[track_caller]
fn metric(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
}

#[test]
fn metrics_are_well_formed_and_count() {
    let server = start(&["--device", "synthetic:dht=0"]);
    let before = metrics(&server);
    let mut viewer = server.stream("/stream");
    (0..30).for_each(|_| _ = viewer.next_part());
    let after = metrics(&server);
    let grown = |series: &str| metric(&after, series) - metric(&before, series);
    assert!(grown("framehub_capture_frames_total") >= 29.0, "{after}");
    assert!(grown("framehub_capture_dht_inserted_total") >= 29.0, "{after}");
    assert!(grown("framehub_camera_open_seconds_total") > 0.5, "{after}");
    assert_eq!(metric(&after, "framehub_clients"), 1.0);
    assert_eq!(metric(&after, "framehub_camera_phase{phase=\"live\"}"), 1.0);
    assert!((10.0..40.0).contains(&metric(&after, "framehub_capture_rate_hertz")), "{after}");
    assert_eq!(metric(&after, "framehub_capture_broken_frames_total{cause=\"no_eoi\"}"), 0.0);
    assert!(metric(&after, "process_resident_memory_bytes") > 1e6 && metric(&after, "process_threads") >= 3.0);
    assert_eq!(metric(&after, &format!("framehub_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    let keys = |text: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    let gone: Vec<_> = keys(&before).difference(&keys(&after)).cloned().collect();
    assert!(gone.is_empty(), "series that vanished while the camera stayed: {gone:?}");
}

#[test]
fn the_linter_finds_faults() {
    const HEAD: &str = "# HELP a_total A.\n# TYPE a_total counter\n";
    for (text, fault) in [
        ("", "ends"),
        ("a_total 1\n", "before its TYPE"),
        ("# TYPE a_total counter\na_total 1\n", "no HELP"),
        ("# HELP a_total \n# TYPE a_total counter\na_total 1\n", "empty HELP"),
        ("# HELP a A.\n# TYPE a counter\na 1\n", "_total"),
        ("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n", "_total"),
        ("# HELP a_milliseconds A.\n# TYPE a_milliseconds gauge\na_milliseconds 1\n", "base unit"),
        ("# HELP a_kilobytes_total A.\n# TYPE a_kilobytes_total counter\na_kilobytes_total 1\n", "base unit"),
        ("# HELP aB A.\n# TYPE aB gauge\naB 1\n", "name"),
        ("# HELP a:b A.\n# TYPE a:b gauge\na:b 1\n", "name"),
        ("# HELP a A.\n# TYPE a number\na 1\n", "type"),
        (&format!("{HEAD}a_total one\n"), "value"),
        (&format!("{HEAD}a_total 1"), "ends"),
        (&format!("{HEAD}a_total{{x=\"1\" 1\n"), "labels"),
        (&format!("{HEAD}a_total{{x=1}} 1\n"), "labels"),
        (&format!("{HEAD}a_total{{x=\"a\"b\"}} 1\n"), "labels"),
        (&format!("{HEAD}a_total{{x=\"\\z\"}} 1\n"), "labels"),
        (&format!("{HEAD}a_total{{__x=\"1\"}} 1\n"), "labels"),
        (&format!("{HEAD}a_total{{x=\"1\",x=\"2\"}} 1\n"), "labels"),
        (&format!("{HEAD}a_total -1\n"), "falls"),
        (&format!("{HEAD}a_total 1\na_total 1\n"), "twice"),
        (&format!("{HEAD}a_total 1\n{HEAD}a_total{{x=\"1\"}} 1\n"), "again"),
        (&format!("{HEAD}# HELP b B.\n# TYPE b gauge\nb 1\na_total 1\n"), "group"),
        (&format!("{HEAD}\na_total 1\n"), "empty line"),
        ("# HELP h_seconds H.\n# TYPE h_seconds histogram\nh_seconds 1\n", "buckets"),
        ("# HELP h_seconds H.\n# TYPE h_seconds gauge\nh_seconds_count 1\n", "before its TYPE"),
        ("# HELP a A.\n# TYPE a gauge\na NaN\n", "value"),
    ] {
        let found = lint(text);
        assert!(found.iter().any(|line| line.contains(fault)), "{fault} in\n{text}\n{found:?}");
    }
    let good = format!(
        "{HEAD}a_total{{x=\"a\\\\b\\\"c\\n{{}},=\",y=\"\"}} 1e3\n# HELP b_bytes B.\n# TYPE b_bytes gauge\nb_bytes -0.5\n"
    );
    assert_eq!(lint(&good), Vec::<String>::new());
}

/// What `promtool check metrics` finds fault with, and what would make Prometheus refuse the page.
fn lint(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut group = "";
    if !text.ends_with('\n') {
        faults.push("the page ends in the middle of a line".into());
    }
    for line in text.lines() {
        let mut fault = |what: &str| faults.push(format!("{what}: {line}"));
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            if helps.insert(name, help).is_some() {
                fault("HELP again");
            }
            if help.trim().is_empty() {
                fault("empty HELP");
            }
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if types.insert(name, kind).is_some() {
                fault("TYPE again");
            }
            group = name;
            lint_family(name, kind, helps.contains_key(name), fault);
        } else if line.is_empty() {
            fault("empty line");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            let name = key.split('{').next().unwrap_or_default();
            let suffix = name.strip_prefix(group).unwrap_or_default();
            let is_part = types.get(group) == Some(&"histogram") && ["_bucket", "_sum", "_count"].contains(&suffix);
            let family = if is_part { group } else { name };
            match types.get(family) {
                None => fault("a sample before its TYPE"),
                Some(_) if family != group => fault("a sample outside its group"),
                Some(&"histogram") if !is_part => fault("a histogram has buckets"),
                Some(kind) => match value.parse::<f64>() {
                    Ok(value) if *kind == "counter" && value < 0.0 => fault("a counter never falls"),
                    Ok(value) if value.is_finite() => {}
                    _ => fault("no value"),
                },
            }
            if !key[name.len()..].is_empty() && labels(&key[name.len()..]).is_none() {
                fault("wrong labels");
            }
            if !series.insert(key) {
                fault("a series twice");
            }
        }
    }
    faults
}

fn lint_family(name: &str, kind: &str, has_help: bool, mut fault: impl FnMut(&str)) {
    const NOT_BASE: [&str; 14] = [
        "milliseconds",
        "microseconds",
        "nanoseconds",
        "minutes",
        "hours",
        "days",
        "ms",
        "us",
        "ns",
        "kilobytes",
        "megabytes",
        "kb",
        "mb",
        "bits",
    ];
    if !has_help {
        fault("no HELP before");
    }
    if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
        fault("no such type");
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        fault("a wrong name");
    }
    if (kind == "counter") != name.ends_with("_total") {
        fault("counters, and only they, end in _total");
    }
    if name.split('_').any(|word| NOT_BASE.contains(&word)) {
        fault("not a base unit");
    }
}

/// `{name="value",…}`, taken apart; `None` if it is something else.
fn labels(text: &str) -> Option<BTreeMap<&str, String>> {
    let mut rest = text.strip_prefix('{')?;
    let mut found = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let is_good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    _ => return None,
                }),
                (_, other) => value.push(other),
            }
        };
        if !is_good || found.insert(name, value).is_some() {
            return None;
        }
        match &after[end + 1..] {
            "}" => return Some(found),
            more => rest = more.strip_prefix(',')?,
        }
    }
}
