//! `/state`: what goes on, as JSON. First in uStreamer's shape, for programs that know that; all the rest is under
//! `framehub`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use super::App;
use super::answer::Answer;
use crate::camera::Identity;
use crate::camera::capture::Phase;
use crate::jpeg::Fault;
use crate::os;

/// Never opens the camera.
pub fn answer(app: &App) -> Answer {
    let status = app.camera.status();
    let mode = status.mode;
    let size = mode.map(|mode| mode.size).or_else(|| app.hub.newest().map(|frame| frame.size()));
    let captured_fps = app.camera.pace().rate(os::monotonic()).round() as u64;
    let trouble = app.camera.trouble();
    Answer::json(&json!({
        "ok": true,
        "result": {
            // uStreamer's name for a camera's own JPEGs, passed on as they are.
            "encoder": {"type": "HW", "quality": 0},
            "source": {
                "resolution": {
                    "width": size.map_or(0, |size| size.width),
                    "height": size.map_or(0, |size| size.height),
                },
                "online": status.phase == Phase::Live,
                "desired_fps": mode.and_then(|mode| mode.fps).unwrap_or(0.0).round() as u64,
                "captured_fps": captured_fps,
            },
            "stream": {
                "queued_fps": captured_fps,
                "clients": app.places.streams(),
                "clients_stat": {},
            },
        },
        "framehub": {
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": app.started_at.elapsed().as_secs_f64(),
            "healthy": trouble.is_none(),
            "trouble": trouble,
            "camera": {
                "phase": status.phase.name(),
                "identity": status.identity.as_ref().map(identity),
                "size": mode.map(|mode| mode.size.to_string()),
                "fps": mode.and_then(|mode| mode.fps),
                "open_seconds": status.open_for().as_secs_f64(),
                "watchers": app.hub.watchers(),
                "controls": app.controls.name(),
            },
            "capture": capture(app),
            // Stills (their number, switch and settling times) belong here.
            "clients": [],
            "wrong_credentials": app.gate.wrong(),
            "process": process(),
        },
    }))
}

fn identity(identity: &Identity) -> Value {
    json!({
        "node": identity.node,
        "card": identity.card,
        "driver": identity.driver,
        "bus": identity.bus,
        "usb_id": identity.usb_id,
        "serial": identity.serial,
    })
}

fn capture(app: &App) -> Value {
    let pace = app.camera.pace();
    let counters = app.camera.counters();
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut broken: Map<_, _> = Fault::ALL
        .iter()
        .zip(&counters.broken)
        .map(|(fault, count)| (fault.name().into(), get(count).into()))
        .collect();
    broken.insert("flagged".into(), get(&counters.flagged).into());
    broken.insert("wrong_size".into(), get(&counters.wrong_size).into());
    json!({
        "fps": pace.rate(os::monotonic()),
        "jitter_ms": pace.jitter().as_secs_f64() * 1000.0,
        "frames": get(&counters.frames),
        "broken": broken,
        "dht_inserted": get(&counters.dht_inserted),
        "lost_by_driver": get(&counters.lost_by_driver),
        "restarts": get(&counters.restarts),
        "opens": get(&counters.opens),
        "failures": get(&counters.failures),
    })
}

/// A machine without /proc shows no figures.
fn process() -> Value {
    let process = os::process();
    json!({
        "threads": process.threads,
        "resident_bytes": process.resident_bytes,
        "open_descriptors": process.descriptors,
    })
}
