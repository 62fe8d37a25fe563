//! The parts of framehub that wait for each other, in thousands of random orders of their threads' steps. It prints what
//! holds, and for what does not the schedule that shows it.
//!
//!     tests/schedules/run [--seconds N] [NAME...]

#![allow(dead_code, missing_docs)] // of framehub's files, only some of what they have is used here

use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

#[path = "../../../src/frame.rs"]
mod frame;
#[path = "../../../src/hub/mod.rs"]
mod hub;
#[path = "../../../src/system"]
mod system {
    pub mod os;
    #[path = "../../tests/schedules/src/sync.rs"]
    pub mod sync;
}
#[path = "../../../src/camera"]
mod camera {
    mod error;
    pub mod settle;
    pub mod sharing;
    pub use error::{CameraError, ErrorKind};
}

mod frames;
mod stills;

/// What must hold in every order of steps.
struct Property {
    name: &'static str,
    holds: fn(),
    /// One in so many waits times out; 0: none.
    timeouts: u32,
}

/// Far enough that nothing here is too late for it.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

fn explore(property: &Property, scheduler: impl Scheduler + 'static, time: Duration) -> usize {
    let mut config = Config::new();
    config.max_time = Some(time);
    config.silence_warnings = true;
    system::sync::TIMEOUTS.set(property.timeouts);
    Runner::new(scheduler, config).run(property.holds)
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut time = Duration::from_secs(2);
    if args.first().is_some_and(|arg| arg == "--seconds") {
        time = Duration::from_secs_f64(args.get(1).and_then(|arg| arg.parse().ok()).expect("--seconds takes a number"));
        args.drain(..2);
    }
    let wanted: Vec<_> = frames::ALL
        .iter()
        .chain(stills::ALL)
        .filter(|property| args.is_empty() || args.iter().any(|arg| property.name.contains(arg.as_str())))
        .collect();
    let mut failed = 0;
    for property in &wanted {
        let began = Instant::now();
        let explored = std::panic::catch_unwind(|| {
            explore(property, RandomScheduler::new(usize::MAX), time / 2)
                + explore(property, PctScheduler::new(3, usize::MAX), time / 2)
        });
        let took = began.elapsed().as_secs_f64();
        match explored {
            Ok(schedules) => println!("ok {}: {schedules} schedules in {took:.1} s", property.name),
            Err(_) => println!("FAILED {} after {took:.1} s", property.name),
        }
        failed += usize::from(explored.is_err());
    }
    println!("schedules: {} passed, {failed} failed", wanted.len() - failed);
    std::process::exit(i32::from(failed > 0 || wanted.is_empty()));
}
