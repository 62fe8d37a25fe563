//! `/state` and `/metrics`: one table of figures, shown as JSON under `framehub` and in Prometheus' text format 0.0.4.
//! docs/metrics.md lists every row, and a test compares it with the program. Neither URL opens the camera.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use self::Reading::{Count, Each, Info, Json, OneOf, Time, Times};
use crate::camera::session::{Phase, Session, Status};
use crate::camera::still::{BOUNDS, Histogram, Stills};
use crate::frame::Size;
use crate::http::response::Response;
use crate::http::server::client::{ClientStats, EndReason, Sent, Viewers};
use crate::http::server::limits::Limits;
use crate::hub::ring::SharedRing;
use crate::jpeg::Fault;
use crate::system::os;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the figures are read from.
pub struct Sources<'a> {
    /// Knows what the camera is doing; its hub has the newest frame.
    pub session: &'a Session,
    /// Takes the full-resolution pictures.
    pub stills: &'a Stills,
    /// Keeps every frame for a while.
    pub ring: &'a SharedRing,
    /// Counts the viewers.
    pub limits: &'a Limits,
    /// Every mode that a viewer can have.
    pub modes: &'a [&'static str],
    /// What clients may do with the camera's controls.
    pub controls: &'static str,
    /// Requests so far with a credential that is not valid.
    pub wrong_credentials: u64,
    /// When the server was started.
    pub started_at: Instant,
}

/// One row of the table. An empty path or name leaves it out of `/state` or `/metrics`.
struct Figure<'a> {
    /// Keys below `framehub`, joined by dots. A time whose path ends in `_ms` is in milliseconds there.
    path: &'static str,
    /// The metric's name. Prometheus' convention tells its type: only counters end in `_total`.
    name: &'static str,
    help: &'static str,
    reading: Reading<'a>,
}

/// The value of a figure.
enum Reading<'a> {
    /// A counter of ours.
    Count(&'a AtomicU64),
    /// Any JSON value. In `/metrics` a number, 0 or 1 for a boolean, and nothing for null.
    Json(Value),
    /// A time, in seconds.
    Time(Option<Duration>),
    /// A value for each value of this label: an object in `/state`.
    Each(&'static str, Vec<(&'static str, Value)>),
    /// The last of these words is true now: a string in `/state`; in `/metrics` 1 for it and 0 for all others.
    OneOf(&'static str, &'a [&'static str], &'static str),
    /// Texts, which `/metrics` shows as the labels of a 1.
    Info(Vec<(&'static str, String)>),
    /// How long something took; `/metrics` only.
    Times(&'a Histogram),
}

/// `/state`: uStreamer's shape first, for programs that know it, then all figures under `framehub`.
pub fn state(from: &Sources<'_>) -> Response {
    let mut ours = Value::Null;
    for figure in table(from).iter().filter(|figure| !figure.path.is_empty()) {
        let place = figure.path.split('.').fold(&mut ours, |value, key| &mut value[key]);
        *place = figure.reading.to_json(figure.path);
    }
    Response::json(&json!({"ok": true, "result": ustreamer(from, &ours), "framehub": ours}))
}

/// `/metrics`: all counters and gauges for Prometheus.
pub fn metrics(from: &Sources<'_>) -> Response {
    let mut text = String::new();
    for figure in table(from).iter().filter(|figure| !figure.name.is_empty()) {
        figure.write_to(&mut text);
    }
    Response::document("text/plain; version=0.0.4; charset=utf-8", text)
}

fn table<'a>(from: &'a Sources<'_>) -> Vec<Figure<'a>> {
    [server_and_camera(from), capture_and_stills(from), viewers(from)].into_iter().flatten().collect()
}

fn row<'a>(path: &'static str, name: &'static str, help: &'static str, reading: Reading<'a>) -> Figure<'a> {
    Figure { path, name, help, reading }
}

// A row of these three functions is one or two lines, so that they can be read as a table.

#[rustfmt::skip]
fn server_and_camera<'a>(from: &'a Sources<'_>) -> Vec<Figure<'a>> {
    let process = os::process();
    let status = from.session.status();
    let trouble = from.session.health_problem();
    let identity: Vec<_> = status.identity.iter().flat_map(|camera| [
        ("node", camera.node.clone()), ("card", camera.card.clone()), ("driver", camera.driver.clone()),
        ("bus", camera.bus.clone()), ("usb_id", camera.usb_id.clone()), ("serial", camera.serial.clone()),
    ]).collect();
    vec![
        row("version", "framehub_build_info",
            "Always 1; the label is framehub's version.", OneOf("version", &[VERSION], VERSION)),
        row("uptime_seconds", "framehub_uptime_seconds",
            "Time since the start.", Time(Some(from.started_at.elapsed()))),
        row("process.resident_bytes", "process_resident_memory_bytes",
            "Resident memory.", Json(json!(process.resident_bytes))),
        row("process.open_descriptors", "process_open_fds", "Open descriptors.", Json(json!(process.descriptors))),
        row("process.threads", "process_threads", "Threads.", Json(json!(process.threads))),
        row("healthy", "framehub_healthy",
            "1 while pictures can be had or the camera sleeps on purpose, as /healthz says.",
            Json(json!(trouble.is_none()))),
        row("trouble", "", "", Json(json!(trouble))),
        row("camera.phase", "framehub_camera_phase",
            "1 for what the camera is doing, 0 for the rest.", OneOf("phase", &Phase::NAMES, status.phase.name())),
        row("", "framehub_camera_info", "Always 1; the labels say which camera was opened last.",
            Info(identity.iter().filter(|(key, _)| *key != "bus").cloned().collect())),
        row("camera.identity", "", "", Info(identity)),
        row("camera.size", "", "", Json(json!(status.mode.map(|mode| mode.size.to_string())))),
        row("displayed", "", "", Json(displayed(&status))),
        row("camera.fps", "", "", Json(json!(status.mode.and_then(|mode| mode.fps)))),
        row("camera.controls", "", "", Json(json!(from.controls))),
        row("camera.open_seconds", "framehub_camera_open_seconds_total",
            "Time for which the camera was open.", Time(Some(status.open_for()))),
        row("camera.watchers", "framehub_camera_watchers",
            "Requests that want pictures now.", Json(json!(from.session.hub.watchers()))),
    ]
}

/// Size of the live picture as it is shown: width and height change places where the picture is turned on its side.
fn displayed(status: &Status) -> Value {
    let is_sideways = status.traits.lock().orientation.is_some_and(|orientation| orientation.is_sideways());
    let shown = |Size { width, height }| if is_sideways { (height, width) } else { (width, height) };
    json!(status.mode.map(|mode| shown(mode.size)).map(|(width, height)| json!({"width": width, "height": height})))
}

#[rustfmt::skip]
fn capture_and_stills<'a>(from: &'a Sources<'_>) -> Vec<Figure<'a>> {
    let rhythm = from.session.rhythm();
    let capture = &from.session.counters;
    let (stills, learned) = (from.stills, from.session.status().learned);
    let broken = Fault::ALL.iter().map(|fault| fault.name()).zip(&capture.broken);
    let broken = broken.chain([("flagged", &capture.flagged), ("wrong_size", &capture.wrong_size)]);
    vec![
        row("capture.fps", "framehub_capture_rate_hertz",
            "Pictures per second lately.", Json(json!(rhythm.rate(os::monotonic())))),
        row("capture.jitter_ms", "framehub_capture_jitter_seconds",
            "Standard deviation of the time between two pictures lately.", Time(Some(rhythm.jitter()))),
        row("capture.frames", "framehub_capture_frames_total", "Whole pictures.", Count(&capture.frames)),
        row("capture.dht_inserted", "framehub_capture_dht_inserted_total",
            "Pictures that came without Huffman tables.", Count(&capture.dht_inserted)),
        row("capture.eoi_appended", "framehub_capture_eoi_appended_total",
            "Pictures that came without their end, from a camera that never sends it.", Count(&capture.eoi_appended)),
        row("capture.flags_ignored", "framehub_capture_flags_ignored_total",
            "Whole pictures flagged as damaged, from a camera of which all are.", Count(&capture.flags_ignored)),
        row("capture.lost_by_driver", "framehub_capture_lost_frames_total",
            "Frames that the driver counted and never delivered.", Count(&capture.lost_by_driver)),
        row("capture.thinned", "framehub_capture_thinned_frames_total",
            "Whole pictures left out because of --max-fps.", Count(&capture.thinned)),
        row("capture.restarts", "framehub_capture_restarts_total",
            "Streams restarted because no picture came.", Count(&capture.restarts)),
        row("capture.opens", "framehub_camera_opens_total", "Times the camera was opened.", Count(&capture.opens)),
        row("capture.failures", "framehub_camera_failures_total",
            "Times the camera could not be opened or failed.", Count(&capture.failures)),
        row("capture.broken", "framehub_capture_broken_frames_total",
            "Pictures discarded, by what was wrong with them.",
            Each("cause", broken.map(|(cause, count)| (cause, json!(count.load(Relaxed)))).collect())),
        row("stills.answered", "framehub_stills_answered_total",
            "Full-resolution pictures sent to clients.", Count(&stills.answered)),
        row("stills.switches", "framehub_still_switches_total",
            "Times the camera was switched to full resolution.", Count(&stills.switches)),
        row("stills.failures", "framehub_still_failures_total",
            "Attempts that gave no full-resolution picture.", Count(&stills.failures)),
        row("", "framehub_still_switch_seconds",
            "Time from the stop of the live stream to a still's first whole picture.", Times(&stills.switch_times)),
        row("", "framehub_still_settle_seconds",
            "Time from a still's first whole picture to the one that had settled.", Times(&stills.settle_times)),
        row("stills.switch_ms", "", "", Time(learned.switch)),
        row("stills.settle_ms", "", "", Time(learned.settle)),
        row("stills.last_pause_ms", "", "", Time(learned.pause)),
        row("stills.luma", "", "", Json(json!(learned.luma))),
        row("stills.ruled_out", "", "", Json(stills.ruled_out().iter().map(|size| size.to_string()).collect())),
    ]
}

#[rustfmt::skip]
fn viewers<'a>(from: &'a Sources<'_>) -> Vec<Figure<'a>> {
    let viewers = from.limits.viewers();
    let by_mode = |value: fn(&Sent) -> u64| {
        Each("mode", from.modes.iter().map(|mode| (*mode, json!(value(&sent_in(mode, &viewers))))).collect())
    };
    let Viewers { present, left } = &viewers;
    let oldest = |mode: &str| {
        present.iter().filter(|client| client.mode == mode).filter_map(|client| client.age()).max()
    };
    let ages = from.modes.iter().map(|mode| (*mode, json!(oldest(mode).map(|age| age.as_secs_f64()))));
    let ended = EndReason::ALL.iter().zip(left.ended).map(|(end, count)| (end.name(), json!(count)));
    let sent = sum(left.by_mode.values().copied());
    let (frames, bytes) = from.ring.holds();
    vec![
        row("", "framehub_clients", "Viewers now.", Json(json!(present.len()))),
        row("clients", "", "", Json(present.iter().map(|client| viewer(client)).collect())),
        row("", "framehub_client_frames_total", "Frames sent to viewers, by mode.", by_mode(|sent| sent.frames)),
        row("", "framehub_client_bytes_total", "Bytes sent to viewers, by mode.", by_mode(|sent| sent.bytes)),
        row("", "framehub_client_skipped_frames_total",
            "Frames for which viewers were not ready, by mode.", by_mode(|sent| sent.skipped)),
        row("", "framehub_client_stalls_total",
            "Parts during which a viewer accepted nothing for a second, by mode.", by_mode(|sent| sent.stalls)),
        row("", "framehub_client_age_seconds",
            "Age of the last frame sent to the viewer that is furthest behind, by mode.", Each("mode", ages.collect())),
        row("ended", "framehub_clients_ended_total",
            "Viewers that have left, by the reason.", Each("reason", ended.collect())),
        row("", "framehub_sent_frames_total", "Frames sent to viewers that have left.", Json(json!(sent.frames))),
        row("", "framehub_sent_bytes_total", "Bytes sent to viewers that have left.", Json(json!(sent.bytes))),
        row("", "framehub_skipped_frames_total",
            "Frames for which viewers that have left were not ready.", Json(json!(sent.skipped))),
        row("", "framehub_stalls_total", "Stalls of viewers that have left.", Json(json!(sent.stalls))),
        row("ring.frames", "framehub_ring_frames", "Frames kept for ?mode=all and /clip.", Json(json!(frames))),
        row("ring.bytes", "framehub_ring_bytes", "Memory that these frames occupy.", Json(json!(bytes))),
        row("ring.limit_bytes", "", "", Json(json!(from.ring.settings.memory))),
        row("ring.replay_seconds", "", "", Time(from.ring.settings.replay)),
        row("response_bytes", "framehub_response_bytes",
            "Memory of pictures and other responses that are being sent.", Json(json!(from.limits.response_bytes()))),
        row("wrong_credentials", "framehub_wrong_credentials_total",
            "Requests with a credential that is not valid.", Json(json!(from.wrong_credentials))),
        row("client_panics", "framehub_client_panics_total",
            "Connections that ended because of a fault in framehub; 0 unless there is one.", Json(json!(from.limits.panics()))),
    ]
}

/// What all viewers in this mode were sent. It never falls: those that have left are included.
fn sent_in(mode: &str, viewers: &Viewers) -> Sent {
    let present = viewers.present.iter().filter(|client| client.mode == mode).map(|client| client.sent());
    sum(present.chain(viewers.left.by_mode.get(mode).copied()))
}

fn sum(all: impl Iterator<Item = Sent>) -> Sent {
    all.fold(Sent::default(), |mut sum, sent| {
        sum.add(&sent);
        sum
    })
}

/// One viewer in `framehub.clients`. Its rate is the mean since it came: a program that asks twice can work out how
/// it went in between.
fn viewer(client: &ClientStats) -> Value {
    let Sent { frames, bytes, skipped, stalls } = client.sent();
    let seconds = client.here_for().as_secs_f64();
    json!({
        "id": client.id,
        "address": client.peer,
        "user_agent": client.user_agent,
        "mode": client.mode,
        "seconds": seconds,
        "fps": frames as f64 / seconds.max(0.001),
        "frames": frames,
        "bytes": bytes,
        "skipped": skipped,
        "age_ms": client.age().map(milliseconds),
        "stalls": stalls,
    })
}

/// The part of `/state` that uStreamer has too, from our own figures.
fn ustreamer(from: &Sources<'_>, ours: &Value) -> Value {
    let mode = from.session.status().mode;
    let size = mode.map(|mode| mode.size).or_else(|| from.session.hub.newest().map(|frame| frame.size()));
    let whole = |number: &Value| number.as_f64().unwrap_or(0.0).round() as u64;
    let captured_fps = whole(&ours["capture"]["fps"]);
    let shown = |fps| {
        json!({
            "fps": fps, "extra_headers": false, "advance_headers": false, "dual_final_frames": false,
            "zero_data": false, "key": "0",
        })
    };
    let clients = ours["clients"].as_array().into_iter().flatten();
    let clients: Map<_, _> =
        clients.map(|client| (format!("{:x}", whole(&client["id"])), shown(whole(&client["fps"])))).collect();
    json!({
        // uStreamer's name for a camera's own JPEGs, passed on as they are.
        "encoder": {"type": "HW", "quality": 0},
        "source": {
            "resolution": {"width": size.map_or(0, |size| size.width), "height": size.map_or(0, |size| size.height)},
            "online": ours["camera"]["phase"] == "live",
            "desired_fps": whole(&ours["camera"]["fps"]),
            "captured_fps": captured_fps,
        },
        "stream": {"queued_fps": captured_fps, "clients": clients.len(), "clients_stat": clients},
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl Reading<'_> {
    fn to_json(&self, path: &str) -> Value {
        match self {
            Count(counter) => json!(counter.load(Relaxed)),
            Json(value) => value.clone(),
            Time(time) if path.ends_with("_ms") => json!(time.map(milliseconds)),
            Time(time) => json!(time.map(|time| time.as_secs_f64())),
            Each(_, values) => values.iter().map(|(key, value)| (*key, value.clone())).collect(),
            OneOf(_, _, word) => json!(word),
            Info(texts) if texts.is_empty() => Value::Null,
            Info(texts) => texts.iter().map(|(key, text)| (*key, text.as_str())).collect(),
            Times(_) => Value::Null,
        }
    }
}

// Writing to a String cannot fail.
impl Figure<'_> {
    /// Appends the metric with its HELP and TYPE; nothing, where it has no value now.
    fn write_to(&self, text: &mut String) {
        let Self { name, help, .. } = self;
        let kind = match self.reading {
            Times(_) => "histogram",
            _ if name.ends_with("_total") => "counter",
            _ => "gauge",
        };
        let head = text.len();
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let samples = text.len();
        match &self.reading {
            Count(counter) => sample(text, name, &[], counter.load(Relaxed) as f64),
            Json(value) => number(value).into_iter().for_each(|value| sample(text, name, &[], value)),
            Time(time) => time.iter().for_each(|time| sample(text, name, &[], time.as_secs_f64())),
            Each(label, values) => {
                let numbers = values.iter().filter_map(|(key, value)| Some((*key, number(value)?)));
                numbers.for_each(|(key, value)| sample(text, name, &[(label, key)], value));
            }
            OneOf(label, words, now) => {
                words.iter().for_each(|word| sample(text, name, &[(label, word)], f64::from(word == now)));
            }
            Info(texts) if texts.is_empty() => {}
            Info(texts) => {
                let labels: Vec<_> = texts.iter().map(|(key, text)| (*key, text.as_str())).collect();
                sample(text, name, &labels, 1.0);
            }
            Times(times) => histogram(text, name, times),
        }
        if text.len() == samples {
            text.truncate(head);
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_bool().map(f64::from))
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    text.push_str(name);
    for (index, (label, content)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        // A camera's name may contain any character.
        let content = content.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let _ = write!(text, "{label}=\"{content}\"");
    }
    let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

fn histogram(text: &mut String, name: &str, times: &Histogram) {
    let counts = times.cumulative();
    let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    let bucket = format!("{name}_bucket");
    bounds.zip(counts).for_each(|(bound, count)| sample(text, &bucket, &[("le", &bound)], count as f64));
    sample(text, &format!("{name}_sum"), &[], times.seconds());
    sample(text, &format!("{name}_count"), &[], counts[counts.len() - 1] as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reading looks like in `/state` and in `/metrics`.
    #[track_caller]
    fn assert_shown(path: &'static str, name: &'static str, reading: Reading<'_>, json: Value, text: &str) {
        let figure = row(path, name, "Help.", reading);
        assert_eq!(figure.reading.to_json(path), json);
        let mut page = String::new();
        figure.write_to(&mut page);
        assert_eq!(page, text);
    }

    #[test]
    fn each_kind_of_reading_is_shown_as_json_and_as_samples() {
        const GAUGE: &str = "# HELP b Help.\n# TYPE b gauge\n";
        let counter = AtomicU64::new(3);
        let total = "# HELP a_total Help.\n# TYPE a_total counter\na_total 3\n";
        assert_shown("a", "a_total", Count(&counter), json!(3), total);
        assert_shown("b", "b", Json(json!(0.5)), json!(0.5), &format!("{GAUGE}b 0.5\n"));
        assert_shown("b", "b", Json(json!(true)), json!(true), &format!("{GAUGE}b 1\n"));
        assert_shown("b", "b", Json(Value::Null), Value::Null, "");
        let time = || Time(Some(Duration::from_millis(1500)));
        assert_shown("b_seconds", "b", time(), json!(1.5), &format!("{GAUGE}b 1.5\n"));
        assert_shown("b_ms", "b", time(), json!(1500.0), &format!("{GAUGE}b 1.5\n"));
        assert_shown("b_ms", "b", Time(None), Value::Null, "");
        let each = Each("x", vec![("c", json!(7)), ("d", Value::Null)]);
        assert_shown("b", "b", each, json!({"c": 7, "d": null}), &format!("{GAUGE}b{{x=\"c\"}} 7\n"));
        let words = ["off", "on"];
        let both = format!("{GAUGE}b{{x=\"off\"}} 0\nb{{x=\"on\"}} 1\n");
        assert_shown("b", "b", OneOf("x", &words, words[1]), json!("on"), &both);
        let texts = vec![("y", "C:\\cam \"2\"\nü".to_owned()), ("z", String::new())];
        let escaped = format!("{GAUGE}b{{y=\"C:\\\\cam \\\"2\\\"\\nü\",z=\"\"}} 1\n");
        assert_shown("b", "b", Info(texts), json!({"y": "C:\\cam \"2\"\nü", "z": ""}), &escaped);
        assert_shown("b", "b", Info(vec![]), Value::Null, "");
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_a_sum_and_a_count() {
        let times = Histogram::default();
        [60, 300, 9000].iter().for_each(|millis| times.add(Duration::from_millis(*millis)));
        let mut page = String::new();
        histogram(&mut page, "h", &times);
        for line in [
            "h_bucket{le=\"0.1\"} 1\n",
            "h_bucket{le=\"0.5\"} 2\n",
            "h_bucket{le=\"+Inf\"} 3\n",
            "h_sum 9.36\n",
            "h_count 3\n",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }
}
