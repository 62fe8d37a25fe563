//! framehub: one Linux webcam, many viewers.
//!
//! ```text
//! main -> lib -> camera -> hub -> frame
//!            \-> http  -> hub, camera
//! ```
//!
//! | room | idea |
//! |---|---|
//! | [`cli`] | the command line and the file, as typed and as checked; other programs' command lines |
//! | `camera` | what a camera is; V4L2, synthetic; other servers, commands, recordings; the capture thread |
//! | `frame`, [`jpeg`] | an immutable picture; a pure scanner for what cameras send |
//! | `hub` | the newest frame, the wake-up, the number of viewers; lock-step, thinning, the ring of the latest frames |
//! | [`http`] | from an accepted socket to a response |
//! | [`doctor`] | `--list` and `--check` |
//! | [`systemd`] | what a service manager is told, and the sockets that it holds |
//! | [`system`] | the operating system: clocks, poll, resources, the log |
//!
//! ARCHITECTURE.md has a frame's way, a request's way and the invariants.

pub(crate) mod camera;
pub mod cli;
pub mod doctor;
pub(crate) mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod http;
pub(crate) mod hub;
pub mod jpeg;
pub mod system;
pub mod systemd;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use ::log::{info, warn};

use self::camera::capture::Capture;
use self::camera::controls::{Panel, Remembered};
use self::camera::elsewhere::Elsewhere;
use self::camera::encode::{Encode, Encoding};
use self::camera::no_signal::NoSignal;
use self::camera::session::Session;
use self::camera::sources::replay::PathSource;
use self::camera::still::Stills;
use self::camera::v4l2::{Choice, V4l2Source};
use self::camera::{Mode, Source};
use self::cli::{Config, DeviceArg};
use self::http::{App, Listeners, Parts};
use self::hub::Hub;
use self::hub::lockstep::LockstepGroup;
use self::hub::ring::{RingSettings, SharedRing};
use self::systemd::{Manager, Watched};

/// A capture thread that a driver holds (a STREAMON of 6 s) is left at exit after this time.
const CAPTURE_FAREWELL: Duration = Duration::from_millis(250);

/// Serves until `stop` becomes readable or its other end is closed, then ends everything within a second. What can
/// be read from `reload` makes the camera open again.
///
/// # Errors
/// In words, when a thread cannot be made or waiting for clients fails.
pub fn run(
    config: Config,
    listeners: &Listeners,
    manager: &Manager,
    stop: BorrowedFd<'_>,
    reload: BorrowedFd<'_>,
) -> Result<(), String> {
    let source = source(&config.device, config.encode, config.live);
    let ring = SharedRing::new(config.ring);
    let lockstep = LockstepGroup::new(config.lockstep_timeout);
    let hub = Hub::new(vec![ring.clone(), lockstep.clone()]);
    let remembered = Remembered::new(config.control_values);
    let session = Session::new(source, config.live, hub.clone(), Some(remembered.hook()));
    session.status().traits.lock().orientation = config.orientation;
    let still_deadline = config.still.deadline;
    let elsewhere = config.still_address.map(|address| Box::new(address) as Box<dyn Elsewhere>);
    let stills = Stills::new(session.clone(), config.still, elsewhere);
    let panel = Panel::new(session.clone(), remembered);
    let no_signal = NoSignal::new(session.clone());
    let frame_memory = config.ring.memory + config.http.admission.response_memory;
    let app = App::new(Parts { session: session.clone(), stills, panel, ring, lockstep, no_signal }, config.http);
    system::resources::raise_limits(app.most_connections(), frame_memory);
    log_replay(&config.ring, &config.live);

    let capture = Capture::new(session.clone(), config.capture);
    let capture = thread::Builder::new()
        .name("capture".into())
        .spawn(move || capture.run())
        .map_err(|error| format!("cannot start the capture thread: {error}"))?;
    let (done, ended) = UnixStream::pair().map_err(|error| format!("cannot start the service thread: {error}"))?;
    let served = thread::scope(|scope| {
        let report = || {
            let viewers = || app.viewers();
            let watched = Watched { session: &session, still_deadline, listeners, viewers: &viewers };
            manager.run(&watched, reload, ended.as_fd());
        };
        thread::Builder::new()
            .name("service".into())
            .spawn_scoped(scope, report)
            .map_err(|error| format!("cannot start the service thread: {error}"))?;
        let served = app.serve(listeners, stop).map_err(|error| format!("cannot wait for clients: {error}"));
        drop(done);
        served
    });

    session.stop();
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

/// How long a replay can be is known only when pictures come (the hub says it then); until then, a guess.
fn log_replay(keep: &RingSettings, live: &Mode) {
    let Some(replay) = keep.replay else { return };
    // As webcams' pictures are: about 40, 110 and 240 kB at 480, 720 and 1080 lines.
    let picture = 8000.0 + 0.11 * live.size.area() as f64;
    let fps = live.fps.unwrap_or(30.0);
    info!(
        "replay seconds={} memory={}MiB fits=\"about {:.0} s of {} at {fps} frames per second\"",
        replay.as_secs_f64(),
        keep.memory >> 20,
        keep.memory as f64 / picture / fps,
        live.size
    );
}

/// The chosen camera, not open yet.
pub fn source(device: &DeviceArg, encode: Option<Encode>, live: Mode) -> Box<dyn Source> {
    let encoding = |source| Box::new(Encoding::new(source, encode, live));
    let camera = |choice: &Choice| encoding(Box::new(V4l2Source::new(choice.clone())));
    match device {
        DeviceArg::Camera(choice @ Choice::Path(path)) => Box::new(PathSource::new(path.clone(), camera(choice))),
        DeviceArg::Camera(choice) => camera(choice),
        DeviceArg::Other(address) => address.source(),
        DeviceArg::Synthetic(synthetic) => encoding(Box::new(synthetic.clone())),
    }
}
