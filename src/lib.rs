//! framehub: one Linux webcam, many viewers.
//!
//! ```text
//! main -> lib -> camera -> hub -> frame
//!            \-> http  -> hub, camera
//! ```
//!
//! | room | idea |
//! |---|---|
//! | [`config`] | the command line and the file, as typed and as checked |
//! | [`compat`] | the command lines of other programs, in our words |
//! | [`camera`] | what a camera is; V4L2, synthetic; the capture thread |
//! | [`frame`], [`jpeg`] | an immutable picture; a pure scanner for what cameras send |
//! | [`hub`] | the newest frame, the wake-up, who is watching |
//! | [`http`] | from an accepted socket to an answer |
//! | [`doctor`] | `--list` and `--check` |
//! | [`log`], [`os`] | small servants |
//!
//! ARCHITECTURE.md has a frame's way, a request's way and the invariants.

pub mod camera;
pub mod compat;
pub mod config;
pub mod doctor;
pub mod frame;
pub mod http;
pub mod hub;
pub mod jpeg;
pub mod log;
pub mod os;

use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use ::log::warn;

use self::camera::Source;
use self::camera::capture::{Camera, Settings};
use self::camera::v4l2::V4l2Source;
use self::config::{Config, DeviceArg};
use self::http::{App, Listeners};
use self::hub::Hub;

/// A capture thread that a driver holds (a STREAMON of 6 s) is left at exit after this time.
const CAPTURE_FAREWELL: Duration = Duration::from_millis(250);
/// Descriptors that are not clients': standard streams, listeners, camera, signals.
const OWN_DESCRIPTORS: usize = 32;

/// Serves until `stop` becomes readable or its other end is closed, then ends everything within a second.
///
/// # Errors
/// In words, when a thread cannot be made or waiting for clients fails.
pub fn run(config: Config, listeners: &Listeners, stop: BorrowedFd<'_>) -> Result<(), String> {
    let source = source(&config.device);
    let hub = Hub::new();
    let camera =
        Camera::new(source, Settings { live: config.live, idle: config.idle, still: config.still }, hub.clone());
    camera.remember(config.wishes);
    let app = App::new(hub.clone(), camera.clone(), config.http);
    provide_descriptors(app.most_connections() + OWN_DESCRIPTORS);

    let runner = camera.clone();
    let capture = thread::Builder::new()
        .name("capture".into())
        .spawn(move || runner.run())
        .map_err(|error| format!("cannot start the capture thread: {error}"))?;
    let served = listeners.serve(&app, stop).map_err(|error| format!("cannot wait for clients: {error}"));

    camera.stop();
    hub.close();
    app.close();
    let deadline = Instant::now() + CAPTURE_FAREWELL;
    while !capture.is_finished() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    match capture.is_finished().then(|| capture.join()) {
        Some(Ok(())) => {}
        Some(Err(_)) => warn!("the capture thread had panicked"),
        None => warn!("the camera's driver does not answer; leaving it"),
    }
    served
}

/// The chosen camera, not open yet.
pub fn source(device: &DeviceArg) -> Box<dyn Source> {
    match device {
        DeviceArg::Camera(choice) => Box::new(V4l2Source::new(choice.clone())),
        DeviceArg::Synthetic(synthetic) => Box::new(synthetic.clone()),
    }
}

fn provide_descriptors(wanted: usize) {
    match os::raise_descriptor_limit(wanted as u64) {
        Ok(limit) if limit < wanted as u64 => {
            warn!(
                "only {limit} descriptors allowed, {wanted} may be needed; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
            );
        }
        Ok(_) => {}
        Err(error) => warn!("cannot raise the limit on descriptors: {error}"),
    }
}
