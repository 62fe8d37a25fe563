//! `/state`: what goes on, as JSON. First in uStreamer's shape, for programs that know that; all the rest is under
//! `framehub`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::camera::Identity;
use crate::camera::session::Phase;
use crate::http::endpoints::figures::Sources;
use crate::http::response::Response;
use crate::http::server::client::{ClientStats, EndReason};
use crate::jpeg::Fault;
use crate::system::os;

/// Never opens the camera.
pub fn respond(sources: &Sources<'_>) -> Response {
    let status = sources.session.status();
    let mode = status.mode;
    let size = mode.map(|mode| mode.size).or_else(|| sources.session.hub().newest().map(|frame| frame.size()));
    let captured_fps = sources.session.rhythm().rate(os::monotonic()).round() as u64;
    let trouble = sources.session.health_problem();
    let clients = sources.limits.clients();
    Response::json(&json!({
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
                "clients": clients.len(),
                "clients_stat": ustreamer_clients(&clients),
            },
        },
        "framehub": {
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": sources.started_at.elapsed().as_secs_f64(),
            "healthy": trouble.is_none(),
            "trouble": trouble,
            "camera": {
                "phase": status.phase.name(),
                "identity": status.identity.as_ref().map(identity),
                "size": mode.map(|mode| mode.size.to_string()),
                "fps": mode.and_then(|mode| mode.fps),
                "open_seconds": status.open_for().as_secs_f64(),
                "watchers": sources.session.hub().watchers(),
                "controls": sources.controls.name(),
            },
            "capture": capture(sources),
            "stills": stills(sources),
            "ring": ring(sources),
            "clients": clients.iter().map(client).collect::<Vec<_>>(),
            "ended": ended(sources),
            "wrong_credentials": sources.wrong_credentials,
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

fn capture(sources: &Sources<'_>) -> Value {
    let rhythm = sources.session.rhythm();
    let counters = sources.session.counters();
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut broken: Map<_, _> = Fault::ALL
        .iter()
        .zip(&counters.broken)
        .map(|(fault, count)| (fault.name().into(), get(count).into()))
        .collect();
    broken.insert("flagged".into(), get(&counters.flagged).into());
    broken.insert("wrong_size".into(), get(&counters.wrong_size).into());
    json!({
        "fps": rhythm.rate(os::monotonic()),
        "jitter_ms": rhythm.jitter().as_secs_f64() * 1000.0,
        "frames": get(&counters.frames),
        "broken": broken,
        "dht_inserted": get(&counters.dht_inserted),
        "thinned": get(&counters.thinned),
        "lost_by_driver": get(&counters.lost_by_driver),
        "restarts": get(&counters.restarts),
        "opens": get(&counters.opens),
        "failures": get(&counters.failures),
    })
}

fn stills(sources: &Sources<'_>) -> Value {
    let (stills, learned) = (sources.stills, sources.session.status().learned);
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1000.0);
    json!({
        "answered": get(&stills.answered),
        "switches": get(&stills.switches),
        "failures": get(&stills.failures),
        "switch_ms": millis(learned.switch),
        "settle_ms": millis(learned.settle),
        "last_pause_ms": millis(learned.pause),
        "luma": learned.luma,
    })
}

fn ring(sources: &Sources<'_>) -> Value {
    let ((frames, bytes), limit) = (sources.ring.holds(), sources.ring.limit());
    let replay = sources.ring.replay_time().map(|time| time.as_secs_f64());
    json!({"frames": frames, "bytes": bytes, "limit_bytes": limit, "replay_seconds": replay})
}

fn client(client: &Arc<ClientStats>) -> Value {
    json!({
        "id": client.id,
        "address": client.peer,
        "user_agent": client.user_agent,
        "mode": client.mode,
        "seconds": client.here_for().as_secs_f64(),
        "fps": mean_fps(client),
        "frames": client.frames(),
        "bytes": client.bytes(),
        "skipped": client.skipped(),
        "age_ms": client.age().map(|age| age.as_secs_f64() * 1000.0),
        "stalls": client.stalls(),
    })
}

/// Since it came: whoever asks twice can tell how it went in between.
fn mean_fps(client: &ClientStats) -> f64 {
    client.frames() as f64 / client.here_for().as_secs_f64().max(0.001)
}

fn ustreamer_clients(clients: &[Arc<ClientStats>]) -> Map<String, Value> {
    let client = |client: &Arc<ClientStats>| {
        let shown = json!({
            "fps": mean_fps(client).round() as u64,
            "extra_headers": false,
            "advance_headers": false,
            "dual_final_frames": false,
            "zero_data": false,
            "key": "0",
        });
        (format!("{:x}", client.id), shown)
    };
    clients.iter().map(client).collect()
}

fn ended(sources: &Sources<'_>) -> Map<String, Value> {
    let ended = sources.limits.totals().ended;
    EndReason::ALL.iter().zip(ended).map(|(end, count)| (end.name().into(), count.into())).collect()
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
