//! Octolapse sets the camera's controls before a print. Its requests, as its `camera.py` sends them through Python's
//! requests, and what it demands of the answers.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Answer, TestServer};

/// Octolapse gives up its tests after this time, and other requests after twice as long.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);

const AS_MJPG_STREAMER: [&str; 2] = ["--server-header", "MJPG-Streamer/0.2"];

fn start(args: &[&str]) -> TestServer {
    TestServer::start(&[&["--size", "320x240"], args].concat())
}

/// `requests.get(address + rest)`, with the address `http://HOST/webcam/` behind a proxy that takes `webcam` away.
#[track_caller]
fn get(server: &TestServer, rest: &str) -> Answer {
    let began = Instant::now();
    let answer = server.connect().exchange(format!(
        "GET /{rest} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: python-requests/2.31.0\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
    ));
    assert!(began.elapsed() < TEST_TIMEOUT, "{rest}: {:?}", began.elapsed());
    answer
}

/// What Octolapse takes the server for.
fn server_type(answer: &Answer) -> &str {
    let server = answer.expect_header("Server");
    if server.starts_with("MJPG-Streamer") { "mjpg-streamer" } else { server }
}

/// Any answer but these words and 200 ends its attempt to set a control.
#[track_caller]
fn assert_applied(answer: &Answer) {
    assert_eq!(server_type(answer), "mjpg-streamer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Its list of controls, in order; all that it makes numbers of must be numbers.
#[track_caller]
fn load_controls(server: &TestServer) -> Vec<Value> {
    let answer = get(server, "input.json");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let file: Value = serde_json::from_slice(&answer.body).expect("JSON");
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

/// The request for one control, as it sends it for each in turn.
#[track_caller]
fn apply(server: &TestServer, control: &Value, value: &str) -> Answer {
    let (id, group) = (text(control, "id"), text(control, "group"));
    get(server, &format!("?action=command&dest=0&plugin=0&id={id}&group={group}&value={value}"))
}

fn find<'a>(controls: &'a [Value], name: &str) -> &'a Value {
    controls.iter().find(|control| control["name"] == name).expect("the control")
}

#[test]
fn its_test_of_the_camera() {
    let server = start(&AS_MJPG_STREAMER);
    let answer = get(&server, "?action=snapshot");
    assert_applied(&answer);
    assert!(answer.expect_header("Content-Type").to_lowercase().contains("image/jpeg"));
    assert_applied(&get(&server, "?action=command&id=-1"));
}

#[test]
fn its_custom_image_preferences() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    assert_eq!(text(find(&controls, "Brightness"), "id"), "9963776", "V4L2's number in decimal");
    assert_eq!(find(&controls, "Color Effects")["menu"]["3"], "Negative");

    // One slider moved, then all preferences applied in order, among them what the camera holds inactive.
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

    // Its "load defaults".
    for control in &applied {
        assert_applied(&apply(&server, control, text(control, "default")));
    }
    assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), "0");
}

/// Python and JavaScript write some numbers with a point; mjpg-streamer read up to it.
#[test]
fn values_as_it_may_write_them() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    let brightness = find(&controls, "Brightness");
    for (value, seen) in [("12", "12"), ("12.0", "12"), ("-12.7", "-12"), ("", "0"), ("+5", "5")] {
        assert_applied(&apply(&server, brightness, &value.replace('+', "%2B")));
        assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), seen, "{value:?}");
    }
}

/// Lists are compared with recorded ones, to show a page made for that camera: every key but value and flags, the
/// number of entries too. mjpg-streamer ends each list with a quality that no pass-through camera has.
#[test]
fn its_recorded_lists_have_a_last_entry() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    let last = controls.last().expect("one");
    assert_eq!((text(last, "name"), text(last, "id"), text(last, "group")), ("JPEG quality", "1", "3"));
    assert_applied(&apply(&server, last, "50"));
    let menu = find(&controls, "Color Effects")["menu"].as_object().expect("a menu");
    assert_eq!((menu.len(), &menu["2"]), (4, &Value::from("")), "gaps are listed");
}

#[test]
fn what_a_camera_would_not_do_is_no_broken_server() {
    let server = start(&AS_MJPG_STREAMER);
    let controls = load_controls(&server);
    let inactive = apply(&server, find(&controls, "Gain"), "10");
    assert_applied(&inactive);
    assert_eq!(inactive.text(), "9963795: -1\n");
    assert_eq!(apply(&server, find(&controls, "Brightness"), "10").text(), "9963776: 0\n");
}

#[test]
fn what_is_wrong_is_said() {
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
        let answer = get(&server, rest);
        assert_eq!(answer.status, 400, "{rest}: {}", answer.text());
        assert!(answer.text().contains(words), "{rest}: {}", answer.text());
    }
    assert_eq!(text(find(&load_controls(&server), "Brightness"), "value"), "0");
}

/// 501 is its sign for controls that are switched off; it says so to people.
#[test]
fn switched_off_is_501() {
    for (access, list) in [("none", 501), ("read", 200)] {
        let server = start(&[&AS_MJPG_STREAMER[..], &["--controls", access]].concat());
        for rest in ["?action=command&id=-1", "?action=command&dest=0&plugin=0&id=9963776&group=1&value=1"] {
            let answer = get(&server, rest);
            assert_eq!((server_type(&answer), answer.status), ("mjpg-streamer", 501), "{access} {rest}");
        }
        assert_eq!(get(&server, "input.json").status, list, "{access}");
        assert_eq!(get(&server, "?action=snapshot").status, 200, "pictures are no control");
    }
}

#[test]
fn our_own_name_is_not_one_it_knows() {
    let server = start(&[]);
    let answer = get(&server, "?action=snapshot");
    assert!(server_type(&answer).starts_with("framehub/"), "{}", answer.head);
}

/// Its session repeats a request on 500, 502 and 504, but not on 503.
#[test]
fn without_a_camera_it_is_told_at_once() {
    let server = start(&[&AS_MJPG_STREAMER[..], &["--device", "/dev/no-such-camera"]].concat());
    for rest in ["input.json", "?action=command&dest=0&plugin=0&id=9963776&group=1&value=1"] {
        get(&server, rest).assert_unavailable();
    }
    assert_applied(&get(&server, "?action=command&id=-1"));
}

/// Pages written for mjpg-streamer ask which inputs there are, and for each by its number.
#[test]
fn other_pages_of_mjpg_streamer() {
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
