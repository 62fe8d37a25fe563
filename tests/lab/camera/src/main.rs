//! An emulated UVC webcam for machines without one; it runs in the lab's guest. See the lab's README.

mod camera;
mod clock;
mod controls;
mod jpeg;
mod pictures;
mod profile;
mod tuning;
mod uvc;
mod view;

use camera::Camera;
use clock::monotonic_ns;
use pictures::Library;
use profile::{Link, Profile};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: rigcam gen DIR | rigcam tsc-khz | rigcam serve DIR PORT bulk|isoc|super 0|1 | \
    rigcam view PORT COUNT PATH... | rigcam check PROFILE... | rigcam frames DIR PROFILE COUNT INTO [KEY=VALUE...]";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["gen", dir] => Library::generate(Path::new(dir)),
        ["tsc-khz"] => {
            println!("{}", tsc_khz());
            Ok(())
        }
        ["serve", dir, port, link, plug] => serve(dir, port, link, plug == "1"),
        ["check", ref files @ ..] => {
            files.iter().try_for_each(|file| profile(file).map(|_| ()).map_err(io::Error::other))
        }
        ["view", port, count, ref paths @ ..] => match count.parse() {
            Ok(count) => view::run(port, count, paths),
            Err(_) => Err(usage()),
        },
        ["frames", dir, file, count, into, ref settings @ ..] => match count.parse() {
            Ok(count) => frames(dir, file, count, Path::new(into), settings),
            Err(_) => Err(usage()),
        },
        _ => Err(usage()),
    };
    if let Err(e) = result {
        eprintln!("rigcam: {e}");
        std::process::exit(1);
    }
}

fn usage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, USAGE)
}

/// The host's TSC frequency, which the guest's is too. The guest is told,
/// because its own calibration fails when the host is busy.
#[cfg(target_arch = "x86_64")]
fn tsc_khz() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor.
    let read = || (unsafe { std::arch::x86_64::_rdtsc() }, monotonic_ns());
    let (tsc, ns) = read();
    thread::sleep(Duration::from_millis(50));
    let (tsc_end, ns_end) = read();
    (tsc_end - tsc) * 1_000_000 / (ns_end - ns)
}

/// Guests of other kinds need not know.
#[cfg(not(target_arch = "x86_64"))]
fn tsc_khz() -> u64 {
    0
}

/// Reads a profile; its name is its file's.
fn profile(file: &str) -> Result<Profile, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let profile = Profile::parse(file.rsplit('/').next().unwrap_or_default(), &text)?;
    tuning::Tuning::of(&profile.behaviour).map(|_| profile)
}

/// Writes the first frames of a camera in its smallest, its default and its largest MJPEG size, each size to a folder.
fn frames(dir: &str, file: &str, count: u64, into: &Path, settings: &[&str]) -> io::Result<()> {
    let device = profile(file).map_err(io::Error::other)?;
    let Some(format) = device.formats.iter().find(|format| format.is_mjpeg()).cloned() else { return Ok(()) };
    let pixels = |size: &&profile::Size| u32::from(size.width) * u32::from(size.height);
    let default = format.frames.get(usize::from(format.default).saturating_sub(1));
    let ends = [format.frames.iter().min_by_key(pixels), default, format.frames.iter().max_by_key(pixels)];
    let camera = Camera::new(Library::load(Path::new(dir))?, Profile::own());
    for size in ends.into_iter().flatten() {
        camera.become_device(device.clone()).map_err(io::Error::other)?;
        if set(&camera, &settings.join(" ")) != "ok" {
            return Err(usage());
        }
        let folder = into.join(format!("{}x{}", size.width, size.height));
        std::fs::create_dir_all(&folder)?;
        for (number, data) in camera.frames((size.width, size.height), count).iter().enumerate() {
            std::fs::write(folder.join(format!("{number:03}.jpg")), data)?;
        }
    }
    Ok(())
}

fn serve(dir: &str, port: &str, link: &str, plug: bool) -> io::Result<()> {
    let own = Profile { link: Link::parse(link).map_err(io::Error::other)?, ..Profile::own() };
    let camera = Camera::new(Library::load(Path::new(dir))?, own);
    if plug {
        camera.plug().map_err(io::Error::other)?;
    }
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for peer in listener.incoming() {
        let (peer, camera) = (peer?, camera.clone());
        thread::spawn(move || {
            let _ = serve_connection(peer, &camera);
        });
    }
    Ok(())
}

/// One command per connection: a line in, the answer out, then the end.
fn serve_connection(mut peer: TcpStream, camera: &Arc<Camera>) -> io::Result<()> {
    peer.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut line = String::new();
    BufReader::new(&peer).read_line(&mut line)?;
    let line = line.trim();
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let number = |default: f64| rest.trim().parse::<f64>().unwrap_or(default);
    let said = match verb {
        "ping" => "ok".into(),
        "time" => monotonic_ns().to_string(),
        "status" => {
            let state = camera.lock();
            format!("{} {}", state.line(), state.tuning.line())
        }
        "set" => set(camera, rest),
        "reset" => {
            camera.reset();
            "ok".into()
        }
        "stall" => {
            camera.lock().stall_until = Some(Instant::now() + Duration::from_secs_f64(number(1.0).clamp(0.0, 3600.0)));
            "ok".into()
        }
        "urberror" => {
            camera.lock().urb_errors = number(1.0) as u32;
            camera.wake();
            "ok".into()
        }
        "unplug" => {
            camera.unplug();
            "ok".into()
        }
        // From here on it is another device; plug it in.
        "profile" => profile(&format!("/zoo/{rest}"))
            .and_then(|profile| camera.become_device(profile))
            .map_or_else(|e| format!("error: {e}"), |()| "ok".into()),
        "plug" => camera.plug().map_or_else(|e| format!("error: {e}"), |()| "ok".into()),
        "replug" => {
            camera.unplug();
            thread::sleep(Duration::from_secs_f64(number(1.0).clamp(0.0, 60.0)));
            camera.plug().map_or_else(|e| format!("error: {e}"), |()| "ok".into())
        }
        "exec" => return exec(peer, rest),
        _ => "error: unknown command".into(),
    };
    writeln!(peer, "{said}")
}

fn set(camera: &Camera, words: &str) -> String {
    let mut state = camera.lock();
    for word in words.split_whitespace() {
        let done = word.split_once('=').and_then(|(k, v)| Some(state.tuning.set(k, v.parse().ok()?)));
        if done != Some(true) {
            return format!("error: bad setting {word}; known: {}", state.tuning.line());
        }
    }
    "ok".into()
}

/// Runs a shell command in the guest; output streams to the peer as it comes.
fn exec(mut peer: TcpStream, command: &str) -> io::Result<()> {
    use std::os::fd::OwnedFd;
    let out = |p: &TcpStream| p.try_clone().map(|p| Stdio::from(OwnedFd::from(p)));
    let status = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(out(&peer)?)
        .stderr(out(&peer)?)
        .status()?;
    let code = status.code().unwrap_or(255);
    writeln!(peer, "[exit {code}]")
}
