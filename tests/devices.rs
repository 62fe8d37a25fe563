//! Devices that are no UVC cameras, under the real binary: encoders, outputs, loopbacks, grabbers and sensors with ranges of
//! sizes, unlisted sizes or no lists, nodes that never give a picture, and drivers that fail where no camera in the lab does.
//! A shim (shim/v4l2.c) stands in front of libc; what it is asked is in its folder's `calls`.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod support;

use std::fs;
use std::io::{self, BufRead};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, request, sys, wait_until};

const SIZES: [(u16, u16); 4] = [(320, 240), (640, 480), (1280, 720), (1640, 1232)];
/// A webcam in all but name.
const CAMERA: &str = "card Camera\ndriver shim\nbus usb-1\ncan capture\nformat MJPG\nrates 30 15\n\
    size 320x240\nsize 640x480\nsize 1280x720\ngrants 320x240\ngrants 640x480\ngrants 1280x720\n";

/// A folder that is /dev and /sys for framehub.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// With these nodes: a number and its facts, which shim/v4l2.c reads.
    fn new(nodes: &[(u32, &str)]) -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a folder") };
        for (width, height) in SIZES {
            let pixels: Vec<u8> = (0..u32::from(width) * u32::from(height)).map(|at| 90 + (at % 61) as u8).collect();
            jpeg_encoder::Encoder::new_file(world.path(&format!("{width}x{height}.jpg")), 70)
                .and_then(|encoder| encoder.encode(&pixels, width, height, jpeg_encoder::ColorType::Luma))
                .expect("a picture");
        }
        fs::create_dir_all(world.path("dev")).expect("a folder");
        nodes.iter().for_each(|(number, facts)| world.set(*number, facts));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set(&self, number: u32, facts: &str) {
        let file = self.path(&format!("dev/video{number}"));
        fs::write(file.with_extension("new"), facts).expect("a file");
        fs::rename(file.with_extension("new"), file).expect("one file system");
    }

    /// Plugs a node into a USB port, as sysfs shows it. One without is a platform device.
    fn plug(&self, number: u32, port: &str) {
        let interface = format!("sys/devices/shim/usb1/{port}/{port}:1.0");
        fs::create_dir_all(self.path(&interface)).expect("folders");
        for place in [format!("sys/dev/char/81:{number}"), format!("sys/class/video4linux/video{number}")] {
            fs::create_dir_all(self.path(&place)).expect("folders");
            let up = "../".repeat(place.split('/').count());
            symlink(format!("{up}{interface}"), self.path(&place).join("device")).expect("a link");
        }
    }

    /// The same for a camera of one model with this serial number, or with none.
    fn plug_usb(&self, number: u32, port: &str, serial: &str) {
        self.plug(number, port);
        for (fact, value) in [("idVendor", "0c45"), ("idProduct", "6366"), ("serial", serial)] {
            fs::write(self.path(&format!("sys/devices/shim/usb1/{port}/{fact}")), value).expect("a file");
        }
    }

    /// Takes a node away, as a plug that is pulled does.
    fn unplug(&self, number: u32) {
        fs::remove_file(self.path(&format!("dev/video{number}"))).expect("it was there");
        for place in [format!("sys/dev/char/81:{number}"), format!("sys/class/video4linux/video{number}")] {
            fs::remove_dir_all(self.path(&place)).expect("it was there");
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_framehub"));
        command.env("LD_PRELOAD", shim()).env("SHIM", self.folder.path());
        command
    }

    fn start(&self, args: &[&str]) -> TestServer {
        TestServer::spawn(self.command(), args)
    }

    /// Exit status and output of `--list` or `--check`.
    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command().args(args).output().expect("the binary runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(String::from).collect()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|line| line.contains(call)).count()
    }
}

/// The shim, built once with the linker's compiler, which cargo needs as well.
fn shim() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/v4l2.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim.so");
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if changed(&library) < changed(&source) {
        let mine = library.with_extension(format!("{}.{:?}", std::process::id(), thread::current().id()));
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&mine).arg(source);
        assert!(compiler.status().expect("cc is there").success());
        fs::rename(mine, &library).expect("one file system");
    }
    library
}

/// A viewer that reads all it gets: one who does not is sent away after some seconds.
fn watch(server: &TestServer) {
    let mut client = server.connect();
    client.send(request("GET", "/stream"));
    thread::spawn(move || io::copy(&mut client.into_reader(), &mut io::sink()));
}

fn size_of(server: &TestServer, target: &str) -> String {
    let response = server.get(target);
    assert_eq!(response.status, 200, "{target}: {}", response.text());
    // The frame header that jpeg_encoder writes: FFC0, two bytes of length, one of precision, height, width.
    let jpeg = &response.body;
    let header = jpeg.windows(2).position(|two| two == [0xFF, 0xC0]).expect("a frame header");
    let number = |at: usize| u16::from_be_bytes([jpeg[header + at], jpeg[header + at + 1]]);
    format!("{}x{}", number(7), number(5))
}

/// A Pi camera by bcm2835-v4l2: one stepwise range. A gadget: a continuous one. Both grant less than their maximum.
#[test]
fn a_range_of_sizes_gives_the_largest_that_is_granted() {
    for step in [2, 1] {
        let facts = format!(
            "card mmal\ndriver bcm2835 mmal\nbus platform\ncan capture\nformat JPEG\nformat MJPG\nrange 32x32 3280x2464 {step}\n\
             grants 640x480\ngrants 1640x1232\n"
        );
        let world = World::new(&[(0, &facts)]);
        let (status, list) = world.run(&["--list"]);
        assert!(status == Some(0) && list.contains("3280x2464"), "{list}");
        let (status, report) = world.run(&["--check", "--device", "/dev/video0"]);
        assert!(status == Some(0) && report.contains("1640x1232"), "{report}");
        let server = world.start(&["--device", "auto"]);
        assert_eq!(size_of(&server, "/snapshot"), "640x480");
        assert_eq!(size_of(&server, "/still"), "1640x1232");
        assert_eq!(size_of(&server, "/snapshot"), "640x480");
    }
}

/// No list at all: what S_FMT makes of a request for more than any camera has.
#[test]
fn without_lists_the_largest_size_is_what_the_driver_grants() {
    let facts = "card Grabber\ncan capture\nformat MJPG\nno-sizes 1\ngrants 640x480\ngrants 1280x720\n";
    let world = World::new(&[(0, facts)]);
    assert_eq!(world.run(&["--list"]).0, Some(0));
    let (status, report) = world.run(&["--check"]);
    assert!(status == Some(0) && report.contains("1280x720"), "{report}");
    let server = world.start(&["--device", "auto"]);
    assert_eq!(size_of(&server, "/still"), "1280x720");
    assert_eq!(size_of(&server, "/snapshot"), "640x480");
}

/// A size that is not listed is asked for all the same, and what the driver makes of it is compared with the live size.
#[test]
fn an_unlisted_size_of_stills_is_tried() {
    let facts = format!("{CAMERA}grants 1640x1232\n");
    let world = World::new(&[(0, &facts)]);
    let server = world.start(&["--device", "auto", "--still-size", "1640x1232"]);
    assert_eq!(size_of(&server, "/still"), "1640x1232");
    let rates = world.calls().into_iter().filter(|call| call.contains("S_PARM")).collect::<Vec<_>>();
    assert!(rates.iter().any(|call| call.ends_with("S_PARM 30000/1000")), "its fastest rate: {rates:?}");
    // The size asked for is compared with what the camera gives: its largest is live's, and needs no switch.
    let world = World::new(&[(0, CAMERA)]);
    let server = world.start(&["--device", "auto", "--size", "1640x1232"]);
    assert_eq!(size_of(&server, "/snapshot"), "1280x720");
    let starts = world.count("STREAMON");
    assert_eq!(size_of(&server, "/still"), "1280x720");
    assert_eq!(world.count("STREAMON"), starts, "{:?}", world.calls());
    // A listed one that the driver does not grant is the live size: switched to once, and never again.
    let world = World::new(&[(0, "card One\ncan capture\nformat MJPG\nsize 640x480\nsize 1280x720\ngrants 640x480\n")]);
    let server = world.start(&["--device", "auto"]);
    (0..3).for_each(|_| assert_eq!(size_of(&server, "/still"), "640x480"));
    assert_eq!(world.count("S_FMT 1280x720"), 1, "{:?}", world.calls());
}

/// A driver that repeats its last size for ever does not hold anybody.
#[test]
fn endless_lists_end() {
    let world = World::new(&[(0, &format!("{CAMERA}endless 1\n"))]);
    let start = Instant::now();
    let (status, list) = world.run(&["--list"]);
    assert!(status == Some(0) && list.matches("1280x720").count() == 1, "{list}");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(size_of(&world.start(&["--device", "auto"]), "/still"), "1280x720");
}

/// What is around a camera on a board: codecs, outputs, a loopback, metadata, a multi-planar sensor.
#[test]
fn auto_skips_what_is_no_camera_and_each_is_refused_in_words() {
    let node = |card: &str, can: &str| {
        format!("card {card}\ndriver shim\ncan {can}\nformat MJPG\nsize 640x480\ngrants 640x480\n")
    };
    let others = [
        ("encoder", "m2m", "memory to memory"),
        ("decoder", "m2m-mplane", "memory to memory"),
        ("jpeg-codec", "capture output m2m", "memory to memory"),
        ("display", "output", "it is an output"),
        ("display-planes", "output-mplane", "it is an output"),
        ("sensor", "capture-mplane", "multi-planar"),
        ("metadata", "metadata", "metadata"),
    ];
    let mut nodes: Vec<(u32, String)> =
        others.iter().zip(0..).map(|((card, can, _), at)| (at, node(card, can))).collect();
    nodes.push((7, node("loopback", "capture output")));
    nodes.push((8, CAMERA.into()));
    let nodes: Vec<(u32, &str)> = nodes.iter().map(|(number, facts)| (*number, facts.as_str())).collect();
    let world = World::new(&nodes);
    let (status, list) = world.run(&["--list"]);
    assert_eq!(status, Some(0), "{list}");
    for (number, (card, _, words)) in others.iter().enumerate() {
        let line = list.lines().find(|line| line.contains(&format!("/dev/video{number}")));
        assert!(line.is_some_and(|line| line.contains(words)), "{card}: {words}: {list}");
        let (status, said) = world.run(&["--check", "--device", &format!("/dev/video{number}")]);
        assert!(status == Some(1) && said.contains(words), "{card}: {words}: {said}");
    }
    let server = world.start(&["--device", "auto"]);
    assert_eq!(size_of(&server, "/snapshot"), "640x480");
    assert!(server.wait_log("camera opened", PATIENCE).contains("device=/dev/video8"), "{:?}", server.log());
    assert!((0..8).all(|other| world.count(&format!("video{other} STREAMON")) == 0), "{:?}", world.calls());
    // A loopback is a camera for those that ask for it.
    for device in ["/dev/video7", "name:loopback"] {
        assert_eq!(size_of(&world.start(&["--device", device]), "/snapshot"), "640x480");
    }
}

/// A node that never gives a picture is left for another within 20 s, wherever it is plugged in, and is not forgotten.
#[test]
fn auto_moves_on_from_a_node_that_never_gives_a_picture() {
    let silent = format!("{CAMERA}silent 1\n").replace("card Camera", "card Silent");
    let silent = silent.as_str();
    // And from one that always fails to start, as if broken or used by another program.
    let [broken, busy] = [5, 16].map(|errno| format!("{CAMERA}fail STREAMON {errno}\n"));
    thread::scope(|scope| {
        scope.spawn(|| moves_on(silent, true));
        scope.spawn(|| moves_on(&broken, true));
        scope.spawn(|| moves_on(&busy, false));
        moves_on(silent, false);
    });
}

fn moves_on(silent: &str, has_ports: bool) {
    let world = World::new(&[(0, silent), (1, CAMERA)]);
    if has_ports {
        world.plug(0, "1-1");
        world.plug(1, "1-2");
    }
    let start = Instant::now();
    let server = world.start(&["--device", "auto"]);
    watch(&server);
    server.wait_log("pictures are coming", Duration::from_secs(20));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(server.log().iter().any(|line| line.contains("device=/dev/video1")), "{:?}", server.log());
    assert_eq!(server.get("/snapshot").status, 200);
}

/// Two cameras of one model with equal serial numbers, or with none: whoever watches one never gets to see the other, whether
/// it was there at the start or was plugged in later; the one that was pulled is known again, also at another port.
#[test]
fn a_camera_that_was_there_as_another_one_is_never_shown() {
    thread::scope(|scope| {
        for serial in ["", "SN0001"] {
            for is_late in [false, true] {
                scope.spawn(move || lookalikes(serial, is_late));
            }
        }
    });
}

fn lookalikes(serial: &str, is_late: bool) {
    let world = World::new(&[(0, CAMERA)]);
    let plug = |number, port| {
        world.set(number, CAMERA);
        world.plug_usb(number, port, serial);
    };
    plug(0, "1-1");
    if !is_late {
        plug(1, "1-2");
    }
    let server = world.start(&["--device", "auto"]);
    watch(&server);
    let come = |times| {
        let lines = || server.log().iter().filter(|line| line.contains("pictures are coming")).count();
        wait_until("pictures", PATIENCE, || lines() >= times);
    };
    come(1);
    if is_late {
        plug(1, "1-2");
        // It is looked for once a second.
        thread::sleep(Duration::from_secs(2));
    }
    world.unplug(0);
    server.wait_log("to come back", PATIENCE);
    wait_until("four attempts", PATIENCE, || world.count("video1 open") >= 4);
    assert_eq!(world.count("video1 STREAMON"), 0, "{serial:?} {is_late}: {:?}", server.log());
    plug(2, "1-1");
    come(2);
    world.unplug(2);
    plug(3, "1-3");
    come(3);
    assert_eq!(world.count("video1 STREAMON"), 0, "{serial:?} {is_late}: {:?}", server.log());
}

/// By node or link it is the same: these change places when cameras come back in another order.
#[test]
fn nodes_that_change_places_do_not_change_cameras() {
    let world = World::new(&[(0, CAMERA), (1, CAMERA)]);
    world.plug_usb(0, "1-1", "");
    world.plug_usb(1, "1-2", "");
    let server = world.start(&["--device", "/dev/video0"]);
    watch(&server);
    server.wait_log("pictures are coming", PATIENCE);
    world.unplug(0);
    world.unplug(1);
    server.wait_log("no such device", PATIENCE);
    let starts = world.count("STREAMON");
    let plug = |number, port| {
        world.plug_usb(number, port, "");
        world.set(number, CAMERA);
    };
    plug(0, "1-2");
    server.wait_log("/dev/video0 is another", PATIENCE);
    assert_eq!(world.count("STREAMON"), starts, "{:?}", server.log());
    plug(1, "1-1");
    wait_until("the camera", PATIENCE, || world.count("STREAMON") > starts);
    assert_eq!(world.count("video1 STREAMON"), 1, "{:?}", world.calls());
    // Another model at the same node is what the user put there.
    world.unplug(0);
    world.unplug(1);
    world.set(0, &CAMERA.replace("card Camera", "card Other"));
    wait_until("the other model", PATIENCE, || world.count("STREAMON") > starts + 1);
}

/// Containers give nodes other names: which camera a node is, its device number says.
#[test]
fn a_serial_number_is_found_by_device_number() {
    let world = World::new(&[(0, CAMERA), (1, CAMERA)]);
    world.plug_usb(0, "1-1", "first");
    world.plug_usb(1, "1-2", "second");
    fs::create_dir(world.path("minors")).expect("a folder");
    fs::write(world.path("minors/video0"), "1").expect("a file");
    fs::write(world.path("minors/video1"), "0").expect("a file");
    let server = world.start(&["--device", "serial:second"]);
    assert_eq!(size_of(&server, "/snapshot"), "640x480");
    assert!(server.wait_log("camera opened", PATIENCE).contains("device=/dev/video0"), "{:?}", server.log());
}

/// A bus that is full, or a camera that another program streams: one line says so, until that changes.
#[test]
fn a_state_that_lasts_is_logged_once() {
    for (errno, words) in [(28, "bandwidth"), (16, "another program")] {
        let world = World::new(&[(0, &format!("{CAMERA}fail STREAMON {errno}\n"))]);
        let server = world.start(&["--device", "/dev/video0"]);
        watch(&server);
        wait_until("four attempts", PATIENCE, || world.count("STREAMON failed") >= 4);
        let lines = |words: &str| server.log().iter().filter(|line| line.contains(words)).count();
        assert_eq!((lines("camera opened"), lines("camera lost")), (1, 1), "{:?}", server.log());
        assert!(server.get("/healthz").text().contains(words), "{}", server.get("/healthz").text());
        // And again once it has been well in between.
        world.set(0, CAMERA);
        server.wait_log("pictures are coming", PATIENCE);
    }
}

/// Live goes on after a bus that has no room for a still; the advice is about stills.
#[test]
fn a_still_that_the_bus_cannot_carry_gets_advice_about_stills() {
    let world = World::new(&[(0, &format!("{CAMERA}fail STREAMON 28 9 1280\n"))]);
    let server = world.start(&["--device", "/dev/video0"]);
    assert_eq!(size_of(&server, "/snapshot"), "640x480");
    let refusal = server.get("/still");
    refusal.assert_unavailable();
    let text = refusal.text();
    assert!(text.contains("--still-size") && !text.contains(" --size"), "{text}");
    assert_eq!(size_of(&server, "/snapshot"), "640x480");
    // The next one is of the next size, which is live's.
    assert_eq!(size_of(&server, "/still"), "640x480");
    assert!(server.get("/state").text().contains("\"ruled_out\":[\"1280x720\"]"), "{}", server.get("/state").text());
    assert!(server.log().iter().any(|line| line.contains("stills of 1280x720 fail")), "{:?}", server.log());
}

/// v4l panics twice where STREAMOFF fails, which would end the process.
#[test]
fn a_driver_that_will_not_stop_ends_nothing() {
    for errno in [5, 22, 16] {
        let world = World::new(&[(0, &format!("{CAMERA}fail STREAMOFF {errno}\n"))]);
        let server = world.start(&["--device", "/dev/video0", "--idle", "0.5"]);
        assert_eq!(size_of(&server, "/snapshot"), "640x480");
        for _ in 0..2 {
            // Live cannot be stopped: the camera is closed and opened again.
            let _ = server.get("/still");
            wait_until("live pictures", PATIENCE, || server.get("/snapshot").status == 200);
        }
        assert!(!server.log().iter().any(|line| line.contains("panicked")), "{:?}", server.log());
    }
}

/// A driver that grants more buffers than asked for, or fewer: all of them are queued.
#[test]
fn all_buffers_that_are_granted_are_queued() {
    for buffers in [2, 3, 8, 31] {
        let world = World::new(&[(0, &format!("{CAMERA}buffers {buffers}\n"))]);
        let server = world.start(&["--device", "/dev/video0"]);
        assert_eq!(size_of(&server, "/snapshot"), "640x480");
        let missing = || (0..buffers).filter(|index| world.count(&format!("QBUF {index}")) == 0).count();
        assert_eq!(missing(), 0, "of {buffers}: {:?}", world.calls());
        assert_eq!(size_of(&server, "/still"), "1280x720");
    }
}

#[test]
fn refusals_have_the_right_words() {
    let world = World::new(&[(0, &format!("{CAMERA}fail open 1\n"))]);
    let (status, said) = world.run(&["--check", "--device", "/dev/video0"]);
    assert!(status == Some(1) && said.contains("DeviceAllow"), "{said}");
    // No rates to choose from: no error, and not "no V4L2 device".
    let world = World::new(&[(0, &format!("{CAMERA}fail S_PARM 25\n"))]);
    let server = world.start(&["--device", "/dev/video0", "--fps", "5"]);
    assert_eq!(size_of(&server, "/snapshot"), "640x480");
    let line = server.wait_log("has no frame rates to choose from", PATIENCE);
    assert!(line.contains("/dev/video0") && !line.contains("V4L2 device"), "{line}");
    assert_rate(&server, 5.0);
}

/// A camera that has one rate only, whatever it is asked for: viewers get the rate that they asked for from the first picture.
#[test]
fn rates_hold_where_the_camera_ignores_them() {
    let world = World::new(&[(0, CAMERA)]);
    for rate in [2.5, 7.5, 25.0, 28.0] {
        assert_rate(&world.start(&["--device", "/dev/video0", "--fps", &rate.to_string()]), rate);
    }
}

/// The first frames come at this rate.
fn assert_rate(server: &TestServer, rate: f64) {
    let times: Vec<Duration> = times(server).take(9).collect();
    let measured = 8.0 / (times[8] - times[0]).as_secs_f64();
    assert!((0.8 * rate..1.15 * rate).contains(&measured), "{measured}, not {rate} per second: {:?}", server.log());
}

/// Stopped for seconds, as a board that swaps or a suspended process is: the driver's buffers keep their times.
#[test]
fn old_frames_keep_their_time() {
    let world = World::new(&[(0, CAMERA)]);
    let server = world.start(&["--device", "/dev/video0"]);
    let mut times = times(&server);
    times.nth(5);
    sys::send_signal(server.pid(), libc::SIGSTOP);
    // Parts that are on their way.
    thread::sleep(Duration::from_secs(7));
    let woken = now();
    sys::send_signal(server.pid(), libc::SIGCONT);
    let (mut last, mut old) = (Duration::ZERO, 0);
    loop {
        let time = times.next().expect("the stream goes on");
        assert!(time > last, "time goes on");
        last = time;
        if last >= woken {
            break;
        }
        old += usize::from(last + Duration::from_secs(6) < woken);
    }
    assert!(old >= 3, "{old} frames of the time before");
}

/// The times of all frames from now on.
fn times(server: &TestServer) -> impl Iterator<Item = Duration> + use<> {
    let mut client = server.connect();
    client.send(request("GET", "/stream?mode=all"));
    client.into_reader().split(b'\n').filter_map(|line| {
        let line = line.expect("the stream goes on");
        let time = line.strip_prefix(b"X-Timestamp: ")?.trim_ascii_end();
        let seconds: f64 = std::str::from_utf8(time).ok()?.parse().ok()?;
        Some(Duration::from_secs_f64(seconds))
    })
}

/// CLOCK_REALTIME.
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later than 1970")
}

/// One wrong time is replaced, and the next ones count again.
#[test]
fn a_wrong_time_does_not_stick() {
    for wrong in ["-600", "600", "3"] {
        let world = World::new(&[(0, &format!("{CAMERA}late 0.2\nstamp 10 {wrong}\n"))]);
        let server = world.start(&["--device", "/dev/video0"]);
        let ages: Vec<f64> = times(&server).take(45).map(|time| now().as_secs_f64() - time.as_secs_f64()).collect();
        assert!(ages.iter().all(|age| (0.0..5.0).contains(age)), "{wrong}: {ages:?}");
        assert!(ages[25..].iter().all(|age| *age > 0.199), "by the driver's times again: {wrong}: {ages:?}");
    }
}

/// What a camera does is learned from its pictures; no model or vendor is known in the product, only in the lab.
#[test]
fn no_quirk_is_keyed_to_a_model() {
    const NAMES: &[&str] = &[
        "logitech",
        "microsoft",
        "c270",
        "c310",
        "c525",
        "c615",
        "c910",
        "c920",
        "c922",
        "c930",
        "brio",
        "streamcam",
        "lifecam",
        "razer",
        "kiyo",
        "anker",
        "c200",
        "emeet",
        "s800",
        "elp",
        "3do",
        "imx298",
        "imx477",
        "arducam",
        "ms2109",
        "ms2130",
        "obsbot",
        "sonix",
        "chicony",
        "canyon",
        "elgato",
        "facecam",
        "u20cam",
        "bcm2835",
        "rkisp",
    ];
    let is_hex = |word: &str| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_usb_id =
        |word: &str| word.split_once(':').is_some_and(|(vendor, product)| is_hex(vendor) && is_hex(product));
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(&path).expect("a file")).to_lowercase();
            let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let words = product.split(|letter: char| !letter.is_alphanumeric() && letter != ':');
            let known = words.filter(|word| NAMES.contains(word) || is_usb_id(word));
            found.extend(known.map(|word| format!("{}: {word}", path.display())));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
