//! `/metrics`: all counters and gauges as Prometheus reads them, text format 0.0.4.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::camera::histogram::{BOUNDS, Histogram};
use crate::camera::session::Phase;
use crate::http::endpoints::figures::Sources;
use crate::http::response::Response;
use crate::http::server::client::{ClientStats, EndReason};
use crate::jpeg::Fault;
use crate::system::os;

/// Never opens the camera.
pub fn respond(sources: &Sources<'_>) -> Response {
    let mut page = Page::default();
    server(&mut page, sources);
    camera(&mut page, sources);
    capture(&mut page, sources);
    stills(&mut page, sources);
    clients(&mut page, sources);
    access(&mut page, sources);
    Response::metrics(page.text)
}

fn server(page: &mut Page, sources: &Sources<'_>) {
    page.family("framehub_build_info", "gauge", "Always 1; the version is the label.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.single(
        "framehub_uptime_seconds",
        "gauge",
        "Time since the start.",
        sources.started_at.elapsed().as_secs_f64(),
    );
    let process = os::process();
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        ("process_open_fds", "Open descriptors.", process.descriptors),
        ("process_threads", "Threads.", process.threads),
    ] {
        if let Some(value) = value {
            page.single(name, "gauge", help, value as f64);
        }
    }
}

fn camera(page: &mut Page, sources: &Sources<'_>) {
    let status = sources.session.status();
    let is_healthy = sources.session.health_problem().is_none();
    let help = "1 while pictures can be had or the camera sleeps on purpose, as /healthz says.";
    page.single("framehub_healthy", "gauge", help, f64::from(is_healthy));
    page.family("framehub_camera_phase", "gauge", "1 for what the camera is doing.");
    for phase in Phase::NAMES {
        page.sample(&[("phase", phase)], f64::from(phase == status.phase.name()));
    }
    if let Some(identity) = &status.identity {
        page.family("framehub_camera_info", "gauge", "Always 1; the labels say which camera was opened last.");
        page.sample(
            &[
                ("node", &identity.node),
                ("card", &identity.card),
                ("driver", &identity.driver),
                ("usb_id", &identity.usb_id),
                ("serial", &identity.serial),
            ],
            1.0,
        );
    }
    let help = "Time for which the camera was open.";
    page.single("framehub_camera_open_seconds_total", "counter", help, status.open_for().as_secs_f64());
    page.single(
        "framehub_camera_watchers",
        "gauge",
        "Requests that want pictures now.",
        sources.session.hub().watchers() as f64,
    );
}

fn capture(page: &mut Page, sources: &Sources<'_>) {
    let rhythm = sources.session.rhythm();
    let counters = sources.session.counters();
    let help = "Pictures per second lately.";
    page.single("framehub_capture_rate_hertz", "gauge", help, rhythm.rate(os::monotonic()));
    let help = "Standard deviation of the time between two pictures lately.";
    page.single("framehub_capture_jitter_seconds", "gauge", help, rhythm.jitter().as_secs_f64());
    for (name, help, counter) in [
        ("framehub_capture_frames_total", "Whole pictures.", &counters.frames),
        ("framehub_capture_dht_inserted_total", "Pictures that came without Huffman tables.", &counters.dht_inserted),
        (
            "framehub_capture_lost_frames_total",
            "Frames that the driver counted and never gave.",
            &counters.lost_by_driver,
        ),
        ("framehub_capture_thinned_frames_total", "Whole pictures left out for --max-fps.", &counters.thinned),
        ("framehub_capture_restarts_total", "Streams restarted since no picture came.", &counters.restarts),
        ("framehub_camera_opens_total", "Times the camera was opened.", &counters.opens),
        ("framehub_camera_failures_total", "Times the camera could not be opened or failed.", &counters.failures),
    ] {
        page.single(name, "counter", help, get(counter));
    }
    page.family(
        "framehub_capture_broken_frames_total",
        "counter",
        "Pictures thrown away, by what was wrong with them.",
    );
    for (fault, counter) in Fault::ALL.iter().zip(&counters.broken) {
        page.sample(&[("cause", fault.name())], get(counter));
    }
    page.sample(&[("cause", "flagged")], get(&counters.flagged));
    page.sample(&[("cause", "wrong_size")], get(&counters.wrong_size));
}

fn stills(page: &mut Page, sources: &Sources<'_>) {
    let stills = sources.stills;
    for (name, help, counter) in [
        ("framehub_stills_answered_total", "Full-resolution pictures given to clients.", &stills.answered),
        ("framehub_still_switches_total", "Times the camera was switched for one.", &stills.switches),
        ("framehub_still_failures_total", "Attempts that gave no picture.", &stills.failures),
    ] {
        page.single(name, "counter", help, get(counter));
    }
    let help = "Time from the stop of the live stream to a still's first whole picture.";
    page.histogram("framehub_still_switch_seconds", help, &stills.switch_times);
    let help = "Time from a still's first whole picture to the one that was right.";
    page.histogram("framehub_still_settle_seconds", help, &stills.settle_times);
}

fn clients(page: &mut Page, sources: &Sources<'_>) {
    let clients = sources.limits.clients();
    page.single("framehub_clients", "gauge", "Viewers now.", clients.len() as f64);
    type Figure = fn(&ClientStats) -> Option<f64>;
    let families: [(&str, &str, &str, Figure); 5] = [
        (
            "framehub_client_frames_total",
            "counter",
            "Frames sent to a viewer who is here.",
            |c| Some(c.frames() as f64),
        ),
        ("framehub_client_bytes_total", "counter", "Bytes sent to a viewer who is here.", |c| Some(c.bytes() as f64)),
        ("framehub_client_skipped_frames_total", "counter", "Frames for which it was not ready.", |c| {
            Some(c.skipped() as f64)
        }),
        ("framehub_client_stalls_total", "counter", "Parts during which it took nothing for a second.", |c| {
            Some(c.stalls() as f64)
        }),
        // None before the first.
        ("framehub_client_age_seconds", "gauge", "Age of the last frame that it was sent.", |c| {
            c.age().map(|age| age.as_secs_f64())
        }),
    ];
    for (name, kind, help, figure) in families {
        page.family(name, kind, help);
        for client in &clients {
            let Some(value) = figure(client) else { continue };
            let id = client.id.to_string();
            page.sample(&[("id", &id), ("address", &client.peer), ("mode", client.mode)], value);
        }
    }
    let totals = sources.limits.totals();
    page.family("framehub_clients_ended_total", "counter", "Viewers that have left, by the reason.");
    for (end, count) in EndReason::ALL.iter().zip(totals.ended) {
        page.sample(&[("reason", end.name())], count as f64);
    }
    for (name, help, value) in [
        ("framehub_sent_frames_total", "Frames sent to viewers that have left.", totals.frames),
        ("framehub_sent_bytes_total", "Bytes sent to viewers that have left.", totals.bytes),
        ("framehub_skipped_frames_total", "Frames for which viewers that have left were not ready.", totals.skipped),
        ("framehub_stalls_total", "Stalls of viewers that have left.", totals.stalls),
    ] {
        page.single(name, "counter", help, value as f64);
    }
    let (frames, bytes) = sources.ring.holds();
    page.single("framehub_ring_frames", "gauge", "Frames kept for ?mode=all and /clip.", frames as f64);
    page.single("framehub_ring_bytes", "gauge", "Memory that they take.", bytes as f64);
}

fn access(page: &mut Page, sources: &Sources<'_>) {
    let help = "Requests with a credential that is none of ours.";
    page.single("framehub_wrong_credentials_total", "counter", help, sources.wrong_credentials as f64);
}

fn get(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

/// The page, one family of samples after the other.
#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

// Writing to a String cannot fail.
impl Page {
    /// Begins a family: its samples follow.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"{}\"", escape(text));
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of how long something took.
    fn histogram(&mut self, name: &'static str, help: &str, times: &Histogram) {
        self.family(name, "histogram", help);
        let counts = times.cumulated();
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let all = counts[counts.len() - 1];
        let _ = write!(self.text, "{name}_sum {}\n{name}_count {all}\n", times.seconds());
    }

    /// A family of one sample.
    fn single(&mut self, name: &'static str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }
}

/// What a camera or a client calls itself may hold anything.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_the_format_says() {
        let mut page = Page::default();
        page.single("a_total", "counter", "All of a.", 3.0);
        page.family("b", "gauge", "Some b.");
        page.sample(&[("x", "1"), ("y", "C:\\cam \"2\"\nü")], 0.125);
        let golden = "# HELP a_total All of a.\n# TYPE a_total counter\na_total 3\n# HELP b Some b.\n# TYPE b gauge\n\
                      b{x=\"1\",y=\"C:\\\\cam \\\"2\\\"\\nü\"} 0.125\n";
        assert_eq!(page.text, golden);
    }
}
