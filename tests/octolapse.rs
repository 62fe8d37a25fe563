//! Octolapse sets the camera's controls before a print. These are its requests, as its `camera.py` sends them with
//! Python's requests library, and what it expects of the responses.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Response, TestServer};

/// Octolapse's timeout for its tests. Other requests have twice as long.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);

const AS_MJPG_STREAMER: [&str; 2] = ["--server-header", "MJPG-Streamer/0.2"];

fn start(args: &[&str]) -> TestServer {
    TestServer::start(&[&["--size", "320x240"], args].concat())
}

/// `requests.get(address + rest)`, with the address `http://HOST/webcam/` behind a proxy that removes `webcam`.
#[track_caller]
fn get(server: &TestServer, rest: &str) -> Response {
    let began = Instant::now();
    let response = server.connect().exchange(format!(
        "GET /{rest} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: python-requests/2.31.0\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
    ));
    assert!(began.elapsed() < TEST_TIMEOUT, "{rest}: {:?}", began.elapsed());
    response
}

/// Which server Octolapse believes this to be.
fn server_type(response: &Response) -> &str {
    let server = response.expect_header("Server");
    if server.starts_with("MJPG-Streamer") { "mjpg-streamer" } else { server }
}

/// Octolapse gives up setting controls unless the server is mjpg-streamer and the status 200.
#[track_caller]
fn assert_applied(response: &Response) {
    assert_eq!(server_type(response), "mjpg-streamer");
    assert_eq!(response.status, 200, "{}", response.text());
}

/// The list of controls, in order. Every field that Octolapse parses as a number must be one.
#[track_caller]
fn load_controls(server: &TestServer) -> Vec<Value> {
    let response = get(server, "input.json");
    assert_eq!(response.status, 200, "{}", response.text());
    let file: Value = serde_json::from_slice(&response.body).expect("JSON");
    let controls = file["controls"].as_array().expect("a list of controls").clone();
    assert!(!controls.is_empty(), "Octolapse wants at least one");
    for control in &controls {
        for key in ["name", "id", "type", "min", "max", "step", "default", "value", "dest", "flags", "group"] {
            assert!(control[key].is_string(), "{key} in {control}");
        }
        for key in ["id", "min", "max", "step", "value", "default"] {
            assert!(text(control, key).parse::<f64>().is_ok(), "{key} in {control}");
        }
        let has_menu = control["menu"].as_object().is_some_and(|menu| menu.values().all(Value::is_string));
        assert_eq!(has_menu, text(control, "type") == "3", "{control}");
    }
    controls
}

fn text<'a>(control: &'a Value, key: &str) -> &'a str {
    control[key].as_str().expect("a text")
}

/// Sets one control, as Octolapse does for each in turn.
#[track_caller]
fn apply(server: &TestServer, control: &Value, value: &str) -> Response {
    let (id, group) = (text(control, "id"), text(control, "group"));
    get(server, &format!("?action=command&dest=0&plugin=0&id={id}&group={group}&value={value}"))
}

fn find<'a>(controls: &'a [Value], name: &str) -> &'a Value {
    controls.iter().find(|control| control["name"] == name).expect("the control")
}

#[test]
fn octolapse_tests_the_camera() {
    let server = start(&AS_MJPG_STREAMER);
    let response = get(&server, "?action=snapshot");
    assert_applied(&response);
    assert!(response.expect_header("Content-Type").to_lowercase().contains("image/jpeg"));
    assert_applied(&get(&server, "?action=command&id=-1"));
}

#[test]
fn octolapse_applies_its_custom_image_preferences() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    assert_eq!(text(find(&controls, "Brightness"), "id"), "9963776", "V4L2's number in decimal");
    assert_eq!(find(&controls, "Color Effects")["menu"]["3"], "Negative");

    // One slider is moved; then all preferences are applied in order, controls that are inactive among them.
    assert_applied(&apply(&server, find(&controls, "Brightness"), "-30"));
    assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), "-30");
    for control in &controls {
        let value = match text(control, "name") {
            "Brightness" => "25",
            "Color Effects" => "1",
            _ => text(control, "value"),
        };
        assert_applied(&apply(&server, control, value));
    }
    let applied = load_controls(&server);
    let values = |names: &[&str]| names.iter().map(|name| text(find(&applied, name), "value").to_owned()).collect();
    let seen: Vec<String> = values(&["Brightness", "Gain, Automatic", "Gain", "Color Effects"]);
    assert_eq!(seen, ["25", "1", "50", "1"]);

    // "Load defaults" in its dialog.
    for control in &applied {
        assert_applied(&apply(&server, control, text(control, "default")));
    }
    assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), "0");
}

/// Python and JavaScript write some numbers with a decimal point; mjpg-streamer reads up to it.
#[test]
fn values_are_read_as_mjpg_streamer_reads_them() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    let brightness = find(&controls, "Brightness");
    for (value, seen) in [("12", "12"), ("12.0", "12"), ("-12.7", "-12"), ("", "0"), ("+5", "5")] {
        assert_applied(&apply(&server, brightness, &value.replace('+', "%2B")));
        assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), seen, "{value:?}");
    }
}

/// Octolapse compares lists with recorded ones, to show a page made for that camera: every key except value and flags,
/// and the number of entries. mjpg-streamer ends each list with a JPEG quality, which our camera does not have.
#[test]
fn the_list_ends_as_octolapses_recorded_lists_do() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    let last = controls.last().expect("one");
    assert_eq!((text(last, "name"), text(last, "id"), text(last, "group")), ("JPEG quality", "1", "3"));
    assert_applied(&apply(&server, last, "50"));
    let menu = find(&controls, "Color Effects")["menu"].as_object().expect("a menu");
    assert_eq!((menu.len(), &menu["2"]), (4, &Value::from("")), "gaps are listed");
}

#[test]
fn a_control_that_the_camera_refuses_is_no_server_failure() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    let inactive = apply(&server, find(&controls, "Gain"), "10");
    assert_applied(&inactive);
    assert_eq!(inactive.text(), "9963795: -1\n");
    assert_eq!(apply(&server, find(&controls, "Brightness"), "10").text(), "9963776: 0\n");
}

#[test]
fn invalid_commands_are_refused_and_the_response_says_why() {
    let server = start(&AS_MJPG_STREAMER);
    for (rest, words) in [
        ("?action=command&dest=0&plugin=0&id=9963776&group=1&value=65", "-64 to 64"),
        ("?action=command&dest=0&plugin=0&id=9963776&group=1&value=light", "-64 to 64"),
        ("?action=command&dest=0&plugin=0&id=4711&group=1&value=1", "no control 4711"),
        ("?action=command&dest=0&plugin=0&id=brightness&group=1&value=1", "number of a control"),
        ("?action=command&value=1", "number of a control"),
        ("?action=command&dest=0&plugin=0&id=9963776&group=2&value=1", "group=1"),
        ("?action=command&dest=1&plugin=0&id=9963776&group=1&value=1", "dest=0"),
        ("?action=command&dest=0&plugin=1&id=9963776&group=1&value=1", "plugin=0"),
        ("?action=command&dest=0&plugin=0&id=99999999999999999999&group=1&value=1", "number of a control"),
    ] {
        let response = get(&server, rest);
        assert_eq!(response.status, 400, "{rest}: {}", response.text());
        assert!(response.text().contains(words), "{rest}: {}", response.text());
    }
    assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), "0");
}

/// Octolapse understands 501 as controls that are disabled, and tells its user.
#[test]
fn disabled_controls_are_501() {
    for (access, list) in [("none", 501), ("read", 200)] {
        let server = start(&[&AS_MJPG_STREAMER[..], &["--controls", access]].concat());
        for rest in ["?action=command&id=-1", "?action=command&dest=0&plugin=0&id=9963776&group=1&value=1"] {
            let response = get(&server, rest);
            assert_eq!((server_type(&response), response.status), ("mjpg-streamer", 501), "{access} {rest}");
        }
        assert_eq!(get(&server, "input.json").status, list, "{access}");
        assert_eq!(get(&server, "?action=snapshot").status, 200, "pictures are not affected");
    }
}

#[test]
fn without_the_option_the_server_is_framehub() {
    let server = start(&[]);
    let response = get(&server, "?action=snapshot");
    assert!(server_type(&response).starts_with("framehub/"), "{}", response.head);
}

/// Its session repeats a request on 500, 502 and 504, but not on 503.
#[test]
fn without_a_camera_the_response_is_503_at_once() {
    let server = start(&[&AS_MJPG_STREAMER[..], &["--device", "/dev/no-such-camera"]].concat());
    for rest in ["input.json", "?action=command&dest=0&plugin=0&id=9963776&group=1&value=1"] {
        get(&server, rest).assert_unavailable();
    }
    assert_applied(&get(&server, "?action=command&id=-1"));
}

/// Pages written for mjpg-streamer ask for the list of inputs, and then for each by its number.
#[test]
fn other_pages_for_mjpg_streamer_find_one_input() {
    let server = start(&AS_MJPG_STREAMER);
    let program: Value = serde_json::from_slice(&get(&server, "program.json").body).expect("JSON");
    assert_eq!(program["inputs"].as_array().map(Vec::len), Some(1));
    assert_eq!((&program["inputs"][0]["id"], &program["outputs"][0]["id"]), (&Value::from("0"), &Value::from("0")));
    let input: Value = serde_json::from_slice(&get(&server, "input_0.json").body).expect("JSON");
    let format = &input["formats"][0];
    assert_eq!((&format["name"], &format["current"]), (&Value::from("Motion-JPEG"), &Value::from("true")));
    let current = format["currentResolution"].as_str().expect("a text");
    assert_eq!(format["resolutions"][current], "320x240");
    assert_eq!(get(&server, "input_1.json").status, 404);
}
