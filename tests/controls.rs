//! The camera's controls over HTTP: they are listed, set, remembered, and checked before a driver could clamp them.
//! The pictures show whether a control was really set.

mod support;

use std::fs;
use std::time::{Duration, Instant};

// Used to measure pictures here; it is tested elsewhere.
use framehub::jpeg::mean_luma;
use serde_json::{Value, json};
use support::{PATIENCE, Response, SNAPSHOT_LIMIT, TestServer, request, wait_until};

/// Content types of a body.
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn start(args: &[&str]) -> TestServer {
    let args: Vec<&str> = [&["--size", "320x240"], args].concat();
    TestServer::start(&args)
}

#[track_caller]
fn post(server: &TestServer, target: &str, content_type: &str, body: &str) -> Response {
    server.connect().exchange(format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// All controls, from a response that must list them.
#[track_caller]
fn controls(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}{}", response.head, response.text());
    assert_eq!(response.expect_header("Content-Type"), JSON);
    serde_json::from_slice(&response.body).expect("a JSON list")
}

/// The present value of a control.
#[track_caller]
fn value(server: &TestServer, name: &str) -> Value {
    value_in(&controls(&server.get("/controls")), name)
}

#[track_caller]
fn value_in(controls: &[Value], name: &str) -> Value {
    controls.iter().find(|control| control["name"] == name).expect("the control")["value"].clone()
}

#[track_caller]
fn luma(server: &TestServer) -> f32 {
    mean_luma(&server.get("/snapshot").body).expect("a picture")
}

/// Waits until `holds` is true of the brightness of a stream's pictures.
#[track_caller]
fn wait_luma(server: &TestServer, holds: impl Fn(f32) -> bool) {
    let mut viewer = server.stream("/stream");
    wait_until("the picture's brightness changes", PATIENCE, || {
        mean_luma(&viewer.next_part().jpeg).is_some_and(&holds)
    });
}

fn times(server: &TestServer, event: &str) -> usize {
    server.log().iter().filter(|line| line.contains(event)).count()
}

#[track_caller]
fn wait_closed(server: &TestServer) {
    let is_closed = || times(server, "camera opened") == times(server, "camera closed");
    wait_until("the camera is closed", PATIENCE, is_closed);
}

#[test]
fn controls_are_listed() {
    let server = start(&[]);
    let response = server.get("/controls");
    assert_eq!(response.expect_header("Vary"), "Origin", "pages of the local network may read it");
    assert!(response.expect_header("Cache-Control").contains("no-store"));
    let controls = controls(&response);
    let brightness = json!({
        "name": "brightness", "label": "Brightness", "id": 9963776, "type": "integer",
        "min": -64, "max": 64, "step": 1, "default": 0, "value": 0, "flags": [],
    });
    assert_eq!(controls[0], brightness);
    let effects = controls.iter().find(|control| control["name"] == "color_effects").expect("a menu");
    let menu = json!([
        {"value": 0, "name": "None"}, {"value": 1, "name": "Black & White"}, {"value": 3, "name": "Negative"}
    ]);
    assert_eq!((&effects["type"], &effects["menu"]), (&json!("menu"), &menu));
    let flags = |name: &str| controls.iter().find(|control| control["name"] == name).expect("it")["flags"].clone();
    assert_eq!((flags("gain"), flags("strobe")), (json!(["inactive"]), json!(["write-only"])));
    assert_eq!(value_in(&controls, "strobe"), Value::Null);
}

#[test]
fn controls_are_set_by_json_form_and_query_and_the_picture_changes() {
    let server = start(&[]);
    let mut viewer = server.stream("/stream");
    let plain = mean_luma(&viewer.next_part().jpeg).expect("a picture");
    let before = viewer.next_part().stamp().seq;
    for (target, content_type, body, brightness) in [
        ("/controls", JSON, r#"{"brightness": 40}"#, 40),
        ("/controls", FORM, "brightness=-40", -40),
        ("/controls?brightness=0", FORM, "", 0),
        ("/controls?token=secret&brightness=40", "text/plain", "", 40),
        ("/controls", "text/plain", "{\"brightness\": \"-40\"}", -40),
    ] {
        let response = post(&server, target, content_type, body);
        assert_eq!(value_in(&controls(&response), "brightness"), brightness, "{target} {body}");
        assert_eq!(value(&server, "brightness"), brightness);
        let wanted = plain + brightness as f32;
        wait_until("the viewer's picture changes", PATIENCE, || {
            let luma = mean_luma(&viewer.next_part().jpeg).expect("a picture");
            // Dark and light areas are clipped.
            (luma - wanted).abs() < 15.0
        });
    }
    // The viewer's stream was never interrupted.
    assert!(viewer.next_part().stamp().seq > before);
    assert_eq!(times(&server, "camera opened"), 1, "{:?}", server.log());
    assert_eq!(times(&server, "streaming mode"), 1, "{:?}", server.log());
}

#[test]
fn invalid_requests_are_refused_and_the_response_says_what_is_expected() {
    let server = start(&[]);
    for (body, status, words) in [
        (r#"{"brightness": 65}"#, 400, "brightness takes -64 to 64; \"65\""),
        (r#"{"brightness": -65}"#, 400, "-64 to 64"),
        (r#"{"brightness": 1.5}"#, 400, "-64 to 64"),
        (r#"{"brightness": 1e99}"#, 400, "-64 to 64"),
        (r#"{"brightness": "light"}"#, 400, "\"light\""),
        (r#"{"brightness": null}"#, 400, "invalid value for brightness: expected a number, true, false or a string"),
        (r#"{"brightness": [1]}"#, 400, "invalid value for brightness"),
        (r#"{"color_effects": 2}"#, 400, "0 (None), 1 (Black & White) or 3 (Negative)"),
        (r#"{"gain_automatic": 2}"#, 400, "0 (off) or 1 (on)"),
        (r#"{"Brightness": 1}"#, 400, "this camera has brightness, gain_automatic"),
        (r#"{"focus_absolute": 1}"#, 400, "there is no control \"focus_absolute\""),
        (r#"{"brightness": 1, "zoom": 1}"#, 400, "there is no control \"zoom\""),
        (r#"{"gain": 1}"#, 409, "inactive while gain_automatic is on"),
        (r#"{"brightness": 1"#, 400, "line 1 column"),
        ("[1, 2]", 400, "JSON object"),
        ("{}", 400, "no control is named"),
        ("", 400, "no control is named"),
    ] {
        let response = post(&server, "/controls", JSON, body);
        assert_eq!(response.status, status, "{body}: {}", response.text());
        assert!(response.text().contains(words), "{body}: {}", response.text());
    }
    assert_eq!(value(&server, "brightness"), 0, "nothing was set");
    server.assert_answers();
}

/// Whatever is nested in a body, a client's small stack must hold: an overflow would end the whole server.
#[test]
fn deeply_nested_bodies_are_refused_and_the_server_lives() {
    const MOST: usize = 64 * 1024;
    let server = start(&[]);
    let open = |unit: &str, depth: usize| format!("{{\"brightness\": {}", unit.repeat(depth));
    for depth in [1, 100, 120, 127, 128, 129, 1000, 10_000, MOST] {
        for (unit, end) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let depth = depth.min((MOST - 100) / (unit.len() + end.len()));
            let whole = open(unit, depth) + "1" + &end.repeat(depth) + "}";
            for body in [unit.repeat(depth), open(unit, depth), whole] {
                let response = post(&server, "/controls", JSON, &body);
                let start = body.get(..40).unwrap_or(&body);
                assert_eq!(response.status, 400, "{start} … of {} bytes: {}", body.len(), response.text());
                assert!(response.text().len() < 300, "{start} …: {}", response.text());
            }
        }
    }
    assert_eq!(value(&server, "brightness"), 0, "nothing was set");
    server.assert_answers();
}

#[test]
fn other_methods_set_nothing() {
    let server = start(&[]);
    let mut client = server.connect();
    for method in ["GET", "HEAD"] {
        client.send(request(method, "/controls?brightness=30"));
        assert_eq!(client.try_response(method).expect("a response").status, 200);
    }
    client.send(request("HEAD", "/?action=command&id=9963776&group=1&value=30"));
    assert_eq!(client.try_response("HEAD").expect("a response").status, 405);
    assert_eq!(client.exchange(request("PUT", "/controls?brightness=30")).status, 405);
    assert_eq!(value(&server, "brightness"), 0);
}

#[test]
fn several_controls_are_set_at_once_in_any_order() {
    let server = start(&[]);
    // Gain can be set only while automatic gain is off; the order in the request does not matter.
    let response = post(&server, "/controls", FORM, "gain=20&color_effects=black+%26+white&gain_automatic=off");
    let controls = controls(&response);
    for (name, expected) in [("gain", 20), ("gain_automatic", 0), ("color_effects", 1)] {
        assert_eq!(value_in(&controls, name), expected, "{name}");
    }
    let gain = controls.iter().find(|control| control["name"] == "gain").expect("it");
    assert_eq!(gain["flags"], json!([]), "the response shows that it is active now");
}

#[test]
fn a_button_is_pressed() {
    let server = start(&[]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    assert_eq!(post(&server, "/controls", JSON, r#"{"strobe": 1}"#).status, 200);
    wait_until("the picture is white", PATIENCE, || {
        mean_luma(&viewer.next_part().jpeg).is_some_and(|luma| luma > 250.0)
    });
    wait_until("and no longer", PATIENCE, || mean_luma(&viewer.next_part().jpeg).is_some_and(|luma| luma < 200.0));
}

#[test]
fn reset_restores_the_values_of_the_command_line_and_the_cameras_defaults() {
    let server = start(&["--control", "brightness=-30"]);
    let body = r#"{"gain": 90, "gain_automatic": 0, "color_effects": 3}"#;
    assert_eq!(post(&server, "/controls", JSON, body).status, 200);
    for (name, expected) in [("brightness", -30), ("gain", 90), ("color_effects", 3)] {
        assert_eq!(value(&server, name), expected, "{name}");
    }
    let response = post(&server, "/controls?reset=1", JSON, r#"{"color_effects": 1}"#);
    let controls = controls(&response);
    for (name, expected) in [("brightness", -30), ("gain", 50), ("gain_automatic", 1), ("color_effects", 1)] {
        assert_eq!(value_in(&controls, name), expected, "{name}");
    }
}

/// The synthetic camera loses its values when it is closed, as a camera does without power.
#[test]
fn controls_are_restored_when_the_camera_is_closed_and_opened_again() {
    let server = start(&["--idle", "0.3"]);
    let plain = luma(&server);
    for brightness in [40, -40] {
        assert_eq!(post(&server, &format!("/controls?brightness={brightness}"), FORM, "").status, 200);
        wait_closed(&server);
        let opened = times(&server, "camera opened");
        let luma = luma(&server);
        assert!((luma - plain - brightness as f32).abs() < 15.0, "{plain}, then {luma} with {brightness}");
        assert_eq!(times(&server, "camera opened"), opened + 1);
    }
    // A reset value is not restored.
    assert_eq!(post(&server, "/controls?reset", FORM, "").status, 200);
    wait_closed(&server);
    assert!((luma(&server) - plain).abs() < 5.0);
}

#[test]
fn controls_are_restored_when_the_camera_is_unplugged_and_plugged_in_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let plug = directory.path().join("unplugged");
    let server = start(&["--device", &format!("synthetic:unplug_file={}", plug.display())]);
    let plain = luma(&server);
    assert_eq!(post(&server, "/controls", JSON, r#"{"brightness": 40, "gain_automatic": 0, "gain": 60}"#).status, 200);
    fs::write(&plug, "").expect("a file");
    server.wait_log("camera lost", PATIENCE);
    fs::remove_file(&plug).expect("the file");
    wait_luma(&server, |luma| luma > plain + 25.0);
    for (name, expected) in [("brightness", 40), ("gain_automatic", 0), ("gain", 60)] {
        assert_eq!(value(&server, name), expected, "{name}");
    }
}

#[test]
fn controls_are_set_at_start_and_invalid_ones_are_logged_once() {
    let args = ["--control", "brightness=40", "--control=gain_automatic=off", "--control=gain=30"];
    let wrong = ["--control", "focus=3", "--control", "color_effects=sepia", "--idle", "0.3"];
    let server = start(&[&args[..], &wrong[..]].concat());
    for (name, expected) in [("brightness", 40), ("gain_automatic", 0), ("gain", 30), ("color_effects", 0)] {
        assert_eq!(value(&server, name), expected, "{name}");
    }
    let line = server.wait_log("name=focus", PATIENCE);
    assert!(line.starts_with("warn ") && line.contains("this camera has brightness, gain_automatic, gain"), "{line}");
    let line = server.wait_log("name=color_effects", PATIENCE);
    assert!(line.starts_with("warn ") && line.contains("0 (None), 1 (Black & White) or 3 (Negative)"), "{line}");
    wait_closed(&server);
    let opened = times(&server, "camera opened");
    assert_eq!(value(&server, "brightness"), 40);
    assert!(times(&server, "camera opened") > opened);
    assert_eq!((times(&server, "name=focus"), times(&server, "name=color_effects")), (1, 1), "{:?}", server.log());
}

#[test]
fn the_controls_option_decides_what_clients_may_do() {
    for (access, read, write) in [("none", 403, 403), ("read", 200, 403), ("write", 200, 200)] {
        let server = start(&["--controls", access, "--control", "brightness=7"]);
        let got = server.get("/controls");
        let set = post(&server, "/controls?brightness=9", FORM, "");
        assert_eq!((got.status, set.status), (read, write), "{access}");
        for response in [got, set].iter().filter(|response| response.status == 403) {
            assert!(response.text().contains(&format!("--controls {access}")), "{}", response.text());
        }
    }
}

#[test]
fn a_sleeping_camera_is_opened_to_list_its_controls_and_closed_again() {
    let server = start(&["--idle", "0.3"]);
    // At start it was opened and closed once, to see whether it is there.
    server.wait_log("asleep until somebody looks", PATIENCE);
    wait_closed(&server);
    let opened = times(&server, "camera opened");
    assert_eq!(value(&server, "brightness"), 0);
    assert_eq!(times(&server, "camera opened"), opened + 1);
    wait_closed(&server);
}

#[test]
fn without_a_camera_controls_are_unavailable() {
    let server = start(&["--device", "/dev/no-such-camera", "--control", "brightness=1"]);
    for method in ["GET", "POST"] {
        let began = Instant::now();
        let response = server.connect().exchange(request(method, "/controls?brightness=3"));
        response.assert_unavailable();
        assert!(response.text().contains("/dev/no-such-camera"), "{}", response.text());
        assert!(began.elapsed() < SNAPSHOT_LIMIT, "{:?}", began.elapsed());
    }
}

/// A camera that hangs in its driver does not keep a client waiting.
#[test]
fn the_response_comes_in_time_while_the_camera_is_busy() {
    let server = start(&["--device", "synthetic:switch_ms=6000"]);
    let _viewer = server.stream("/stream");
    // The capture thread holds the camera from now on until it streams.
    server.wait_log("camera opened", PATIENCE);
    let began = Instant::now();
    let response = server.get("/controls");
    response.assert_unavailable();
    assert!(began.elapsed() < SNAPSHOT_LIMIT + Duration::from_millis(500), "{:?}", began.elapsed());
    server.assert_answers();
}

#[test]
fn many_clients_that_set_controls_at_once_all_get_a_response() {
    let server = start(&[]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let server = &server;
            scope.spawn(move || {
                for turn in 0..10 {
                    let response = post(server, &format!("/controls?brightness={}", client * turn), FORM, "");
                    assert_eq!(response.status, 200, "{}", response.text());
                }
            });
        }
    });
    viewer.next_part();
    let value = value(&server, "brightness").as_i64().expect("a number");
    assert!((0..=63).contains(&value) && times(&server, "camera opened") == 1);
}

#[test]
fn a_reset_goes_back_to_the_values_of_the_command_line() {
    let server = start(&["--idle", "0.3", "--control", "brightness=10", "--control", "color_effects=1"]);
    let all =
        |response: &Response| ["brightness", "gain", "color_effects"].map(|name| value_in(&controls(response), name));
    let set = post(&server, "/controls?brightness=-5&color_effects=3&gain_automatic=0&gain=7", FORM, "");
    assert_eq!(all(&set), [json!(-5), json!(7), json!(3)]);
    let given = [json!(10), json!(50), json!(1)];
    assert_eq!(all(&post(&server, "/controls?reset=1", FORM, "")), given);
    wait_closed(&server);
    assert_eq!(all(&server.get("/controls")), given, "and they are kept when the camera is opened again");
}
