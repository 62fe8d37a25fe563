//! What the server reports about itself: `/state` for scripts and for programs that know uStreamer, `/metrics` for
//! Prometheus, `/healthz` for watchdogs. None of them opens the camera. docs/metrics.md lists every figure.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{PATIENCE, TestServer, wait_until};

fn start(args: &[&str]) -> TestServer {
    TestServer::start(&[&["--size", "320x240"], args].concat())
}

#[track_caller]
fn state(server: &TestServer) -> Value {
    let response = server.get("/state");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.expect_header("Content-Type"), "application/json");
    assert!(response.expect_header("Cache-Control").contains("no-store"));
    serde_json::from_slice(&response.body).expect("JSON")
}

#[track_caller]
fn wait_health(server: &TestServer, status: u16) -> String {
    wait_until(&format!("/healthz responds with {status}"), PATIENCE, || server.get("/healthz").status == status);
    server.get("/healthz").text()
}

/// Programs for uStreamer, PiKVM among them, rely on these types.
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
fn state_lists_each_viewer_and_metrics_have_sums_by_mode() {
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
    let before = metrics(&server);
    assert_eq!(metric(&before, "framehub_clients"), 2.0);
    let frames_in_all = |text: &str| metric(text, "framehub_client_frames_total{mode=\"all\"}");
    assert!(frames_in_all(&before) >= 10.0);
    assert!(metric(&before, "framehub_client_bytes_total{mode=\"newest\"}") >= 200_000.0);
    assert!(metric(&before, "framehub_client_age_seconds{mode=\"all\"}") < 2.0);
    assert!(!before.contains("127.0.0.1"), "labels for each viewer would be without limit:\n{before}");

    drop(second);
    let left = || state(&server)["framehub"]["ended"]["left"].clone();
    wait_until("the viewer that left is counted", PATIENCE, || left() == 1);
    let after = metrics(&server);
    assert_eq!(metric(&after, "framehub_clients"), 1.0);
    assert_eq!(metric(&after, "framehub_clients_ended_total{reason=\"left\"}"), 1.0);
    assert!(metric(&after, "framehub_sent_frames_total") >= 10.0);
    assert!(frames_in_all(&after) >= frames_in_all(&before), "a counter fell:\n{after}");
    assert!(!after.contains("framehub_client_age_seconds{mode=\"all\"}"), "nobody is left to have an age:\n{after}");
}

/// Prometheus takes a counter that falls for a restart of the server.
#[test]
fn sums_never_fall_while_viewers_come_and_go() {
    const VIEWERS: usize = 40;
    let server = start(&["--fps", "100"]);
    let sums = || {
        let text = server.get("/metrics").text();
        let figures = ["frames", "bytes", "skipped_frames", "stalls"];
        figures.map(|figure| metric(&text, &format!("framehub_client_{figure}_total{{mode=\"newest\"}}")))
    };
    let watch = || {
        for _ in 0..VIEWERS {
            let mut viewer = server.stream("/stream");
            (0..2).for_each(|_| _ = viewer.next_part());
        }
    };
    thread::scope(|scope| {
        let viewers = [scope.spawn(watch), scope.spawn(watch)];
        let mut before = sums();
        while viewers.iter().any(|viewer| !viewer.is_finished()) {
            let now = sums();
            assert!(now.iter().zip(before).all(|(now, before)| *now >= before), "{now:?} after {before:?}");
            before = now;
        }
    });
    wait_until("all are counted", PATIENCE, || sums()[0] >= 2.0 * 2.0 * VIEWERS as f64);
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
fn state_describes_camera_capture_and_process() {
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
    // A viewer waits all the time, so that the camera is tried every second.
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

    // The camera is present and streams, but sends no picture.
    fs::write(&stall, "").expect("a file");
    let reason = wait_health(&server, 503);
    assert!(reason.contains("stopped sending pictures"), "{reason}");
    // It stays unhealthy, however often the stream is restarted.
    for _ in 0..30 {
        assert_eq!(server.get("/healthz").status, 503);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(metric(&metrics(&server), "framehub_capture_restarts_total") >= 1.0);
    assert_eq!(metric(&metrics(&server), "framehub_healthy"), 0.0);
    fs::remove_file(&stall).expect("the file");
    wait_health(&server, 200);
}

/// A camera is healthy from its first picture on, and never if it sends none.
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
    let response = server.get("/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(response.expect_header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text();
    assert_eq!(lint(&text), Vec::<String>::new());
    text
}

/// The value of a sample, found by its name and labels as written.
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
    assert!(gone.is_empty(), "series that vanished: {gone:?}");
}

// ---- docs/metrics.md ----

/// The rows of the table in docs/metrics.md whose heading begins with this cell, as cells without backticks.
fn documented(heading: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let document = fs::read_to_string(path).expect("the document").replace('`', "");
    let table = document.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = table.map_while(|line| line.strip_prefix('|')?.strip_suffix('|').map(cells)).collect::<Vec<_>>();
    assert!(!rows.is_empty(), "docs/metrics.md has a table of {heading}");
    rows
}

/// A list in one cell.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The documented values of each label that cannot hold any text.
fn label_values() -> BTreeMap<String, BTreeSet<String>> {
    documented("label").into_iter().map(|row| (row[0].clone(), words(&row[1]))).collect()
}

/// A server that has a camera, a viewer and a still to tell of.
fn busy_server() -> (TestServer, impl Sized) {
    let server = start(&["--still-size", "640x480", "--replay", "5"]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    assert_eq!(server.get("/still").status, 200);
    (server, viewer)
}

/// Names, types, labels and helps are a promise to dashboards.
#[test]
fn metrics_are_those_of_the_documentation() {
    let (server, _viewer) = busy_server();
    let text = metrics(&server);
    let mut families: BTreeMap<String, (String, String, BTreeSet<String>)> = BTreeMap::new();
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            family = name.to_owned();
            families.entry(family.clone()).or_default().1 = help.to_owned();
        } else if let Some(kind) = line.strip_prefix(&format!("# TYPE {family} ")) {
            families.entry(family.clone()).or_default().0 = kind.to_owned();
        } else if let Some(start) = line.find('{') {
            for (label, value) in labels(&line[start..=line.rfind('}').expect("an end")]).expect("labels") {
                families.entry(family.clone()).or_default().2.insert(label.to_owned());
                values.entry(label.to_owned()).or_default().insert(value);
            }
        }
    }
    let wanted = documented("/state").into_iter().filter(|row| !row[1].is_empty());
    let wanted: BTreeMap<_, _> =
        wanted.map(|row| (row[1].clone(), (row[2].clone(), row[4].clone(), words(&row[3])))).collect();
    let differing = families.iter().filter(|(name, family)| wanted.get(*name) != Some(*family));
    assert_eq!(differing.collect::<Vec<_>>(), [], "not as docs/metrics.md says");
    assert_eq!(families.len(), wanted.len(), "docs/metrics.md has metrics that the program lacks");
    for (label, wanted) in label_values() {
        assert_eq!(values.remove(&label), Some(wanted), "values of {label}");
    }
    let any_text = ["card", "driver", "node", "serial", "usb_id", "version"];
    assert!(values.keys().eq(any_text), "labels whose values docs/metrics.md does not list: {values:?}");
}

/// The places of all values below `value`: names joined by dots, a list's elements by those of the first.
fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| leaves(value, &format!("{path}.{key}"), found)),
        Value::Array(elements) if !elements.is_empty() => leaves(&elements[0], path, found),
        _ => _ = found.insert(path.trim_start_matches('.').to_owned()),
    }
}

#[test]
fn state_is_that_of_the_documentation() {
    let (server, _viewer) = busy_server();
    let mut state = state(&server);
    let statistics = state["result"]["stream"]["clients_stat"].as_object_mut().expect("an object");
    let client = statistics.values().next().expect("a viewer").clone();
    *statistics = [("ID".to_owned(), client)].into_iter().collect();
    let mut found = BTreeSet::new();
    leaves(&state, "", &mut found);

    let label_values = label_values();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for row in documented("/state").into_iter().filter(|row| !row[0].is_empty()) {
        let path = format!("framehub.{}", row[0]);
        match path.rsplit_once('.') {
            Some((path, "CAUSE" | "REASON")) => {
                wanted.extend(label_values[&row[3]].iter().map(|v| format!("{path}.{v}")))
            }
            _ if path == "framehub.clients" => {
                wanted.extend(documented("viewer's field").iter().map(|row| format!("{path}.{}", row[0])));
            }
            _ => _ = wanted.insert(path),
        }
    }
    wanted.extend(documented("field").into_iter().map(|mut row| row.swap_remove(0)));
    let undocumented: Vec<_> = found.difference(&wanted).collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(undocumented.is_empty() && missing.is_empty(), "undocumented {undocumented:?}, missing {missing:?}");
}

/// One table feeds both, so that a figure cannot have two values.
#[test]
fn state_and_metrics_agree() {
    let server = start(&["--device", "synthetic:dht=0", "--still-size", "640x480", "--max-fps", "10", "--idle", "0.3"]);
    let mut viewer = server.stream("/stream");
    (0..3).for_each(|_| _ = viewer.next_part());
    assert_eq!(server.get("/still").status, 200);
    drop(viewer);
    wait_until("the camera sleeps", PATIENCE, || state(&server)["framehub"]["camera"]["phase"] == "asleep");
    let (state, text) = (state(&server)["framehub"].clone(), metrics(&server));
    let mut compared = 0;
    for row in documented("/state") {
        let (path, name, label) = (&row[0], &row[1], &row[3]);
        // The values of these change from one request to the next.
        let is_moving = name.starts_with("process_") || ["uptime_seconds", "capture.fps"].contains(&path.as_str());
        if path.is_empty() || name.is_empty() || is_moving {
            continue;
        }
        let keys = path.split('.').filter(|key| !["CAUSE", "REASON"].contains(key));
        let value = keys.fold(&state, |value, key| &value[key]);
        let series = |label_value: &str| metric(&text, &format!("{name}{{{label}=\"{label_value}\"}}"));
        let pairs = match value {
            Value::String(word) => vec![(1.0, series(word))],
            Value::Object(counts) => counts.iter().map(|(key, count)| (count.as_f64().unwrap(), series(key))).collect(),
            Value::Bool(is_so) => vec![(f64::from(*is_so), metric(&text, name))],
            Value::Number(number) => {
                let unit = if path.ends_with("_ms") { 1000.0 } else { 1.0 };
                vec![(number.as_f64().unwrap() / unit, metric(&text, name))]
            }
            other => panic!("{path} is {other}"),
        };
        for (ours, theirs) in pairs {
            compared += 1;
            assert!((ours - theirs).abs() <= 1e-6, "{path} is {ours}, {name} is {theirs}");
        }
    }
    assert!(compared > 30, "{compared} values were compared");
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

/// Returns what `promtool check metrics` complains about and what makes Prometheus refuse the page.
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

/// Parses `{name="value",…}`; `None` if it is something else.
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
