//! `--encode`: cameras without Motion-JPEG. The synthetic camera sends its bars in every raw format; each has to arrive in
//! the same colours.

mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, TestServer, wait_until};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

/// The test picture's bars: white, yellow, cyan, green, magenta, red, blue and black at 75 %.
const BARS: [[u8; 3]; 8] =
    [[191, 191, 191], [191, 191, 0], [0, 191, 191], [0, 191, 0], [191, 0, 191], [191, 0, 0], [0, 0, 191], [0, 0, 0]];

/// A decoded picture: red, green and blue of each pixel.
struct Rgb {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Rgb {
    fn decode(jpeg: &[u8]) -> Self {
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        let pixels = decoder.decode().expect("a JPEG");
        let (width, height) = decoder.dimensions().expect("a size");
        Self { width, height, pixels }
    }

    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The mean colour of a part of a bar that neither the moving bar nor the texture changes much.
    fn bar(&self, number: usize, rows: std::ops::Range<usize>) -> [i32; 3] {
        let middle = (2 * number + 1) * self.width / 16;
        let columns = middle - self.width / 64..middle + self.width / 64;
        let mut sums = [0; 3];
        let mut count = 0;
        for (x, y) in rows.flat_map(|y| columns.clone().map(move |x| (x, y))) {
            let pixel = &self.pixels[3 * (y * self.width + x)..][..3];
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += i32::from(*value));
            count += 1;
        }
        sums.map(|sum| sum / count)
    }
}

fn is_near(seen: [i32; 3], expected: [u8; 3]) -> bool {
    // Grain and texture make all of it a little lighter.
    seen.iter().zip(expected).all(|(seen, expected)| (seen - 6 - i32::from(expected)).abs() <= 14)
}

/// Bars that have their colours in some picture; a moving bar crosses one of them in each.
fn right_bars(server: &TestServer, is_grey: bool, rows: impl Fn(&Rgb) -> std::ops::Range<usize>) -> Vec<[i32; 3]> {
    let mut wrong = Vec::new();
    for _ in 0..3 {
        let picture = Rgb::decode(&server.get("/snapshot").body);
        let expected = BARS.map(|[r, g, b]| {
            let luma = (299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b)) / 1000;
            if is_grey { [luma as u8; 3] } else { [r, g, b] }
        });
        let bars: Vec<_> = (0..8).map(|number| picture.bar(number, rows(&picture))).collect();
        wrong = (0..8).filter(|number| !is_near(bars[*number], expected[*number])).map(|number| bars[number]).collect();
        if wrong.len() <= 1 {
            return Vec::new();
        }
    }
    wrong
}

#[test]
fn every_format_has_its_colours_at_even_and_odd_sizes() {
    for format in ["YUYV", "UYVY", "NV12", "YU12", "GREY", "RGB24", "BGR24"] {
        for size in ["320x240", "321x239"] {
            let device = format!("synthetic:raw={format}");
            let server = TestServer::start(&["--device", &device, "--size", size, "--encode", "90"]);
            let picture = Rgb::decode(&server.get("/snapshot").body);
            assert_eq!(format!("{}x{}", picture.width, picture.height), size, "{format}");
            // Above the digits, and the very last rows.
            for (name, rows) in [("top", 2..40), ("bottom", 200..238)] {
                let wrong = right_bars(&server, format == "GREY", |_| rows.clone());
                assert!(wrong.is_empty(), "{format} {size}, {name}: {wrong:?}");
            }
        }
    }
}

#[test]
fn without_the_option_the_refusal_names_it_and_its_cost() {
    let server = TestServer::start(&["--device", "synthetic:raw=UYVY"]);
    let refused = server.get("/snapshot");
    assert_eq!(refused.status, 503);
    let log = server.wait_log("camera lost", PATIENCE);
    for words in ["no Motion-JPEG", "UYVY", "--encode 80", "% of a processor", "--check"] {
        assert!(refused.text().contains(words), "{words} in {}", refused.text());
        assert!(log.contains(words), "{words} in {log}");
    }
    // It stays the same refusal, logged once.
    wait_until("a second attempt", PATIENCE, || server.get("/state").text().matches("\"failures\":1,").count() < 1);
    assert_eq!(server.log().iter().filter(|line| line.contains("camera lost")).count(), 1);
}

/// As the C920 has 2304x1536 in YUYV only.
#[test]
fn a_larger_raw_mode_is_for_stills_and_live_stays_motion_jpeg() {
    let device = "synthetic:sizes=320x240+640x480,raw=YUYV@1280x960";
    // Even where the raw size is asked for, live.
    let server = TestServer::start(&["--device", device, "--encode", "85", "--size", "1280x960"]);
    let is_cameras_own = |jpeg: &[u8]| jpeg.windows(13).any(|bytes| bytes == b"framehub seq=");
    let live = server.get("/snapshot").body;
    assert!(is_cameras_own(&live));
    assert_eq!(Rgb::decode(&live).size(), (640, 480));
    for _ in 0..2 {
        let still = server.get("/still");
        assert_eq!(still.status, 200, "{}", still.text());
        assert!(!is_cameras_own(&still.body));
        let picture = Rgb::decode(&still.body);
        assert_eq!(picture.size(), (1280, 960));
        assert!((0..8).filter(|bar| !is_near(picture.bar(*bar, 10..200), BARS[*bar])).count() <= 1);
        let live = server.get("/snapshot").body;
        assert!(is_cameras_own(&live), "back from the still");
    }
    let server = TestServer::start(&["--device", device]);
    assert_eq!(Rgb::decode(&server.get("/still").body).size(), (640, 480), "without --encode");
}

#[test]
fn stills_of_a_raw_camera_have_its_largest_size() {
    let device = "synthetic:sizes=320x240+1280x720,raw=NV12";
    let server = TestServer::start(&["--device", device, "--encode", "80", "--size", "320x240"]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    let still = server.get("/still");
    assert_eq!(Rgb::decode(&still.body).size(), (1280, 720));
    // The stream goes on.
    let live = (0..40).map(|_| viewer.next_part().jpeg).last().expect("40 parts");
    assert_eq!(Rgb::decode(&live).size(), (320, 240));
}

#[test]
fn one_thread_encodes_for_all_viewers_and_ends_with_the_stream() {
    let server = TestServer::start(&["--device", "synthetic:raw=YUYV", "--encode", "80", "--idle", "0.3"]);
    let encoders = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a process");
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "encode").count()
    };
    // The same picture has the same bytes for all, by its time.
    let parts: Vec<Vec<_>> = thread::scope(|scope| {
        let read = || {
            let mut viewer = server.stream("/stream");
            let parts = (0..30).map(|_| viewer.next_part()).map(|part| (part.captured_at, part.jpeg)).collect();
            assert_eq!(encoders(), 1);
            parts
        };
        let viewers: Vec<_> = (0..12).map(|_| scope.spawn(read)).collect();
        viewers.into_iter().map(|viewer| viewer.join().expect("a viewer")).collect()
    });
    let (first, others) = parts.split_first().expect("viewers");
    let mut shared = 0;
    for (captured_at, jpeg) in others.iter().flatten() {
        if let Some((_, same)) = first.iter().find(|(other, _)| other == captured_at) {
            assert!(same == jpeg, "encoded twice");
            shared += 1;
        }
    }
    assert!(shared > 0, "no picture reached two viewers");
    wait_until("the thread has ended", PATIENCE, || encoders() == 0);
}

#[test]
fn an_encoder_that_is_too_slow_lowers_the_rate_and_pictures_stay_new() {
    let args = [
        "--device",
        "synthetic:raw=YUYV",
        "--encode",
        "100",
        "--size",
        "2560x1440",
        "--fps",
        "120",
        "--stall-timeout",
        "30",
    ];
    let server = TestServer::start(&args);
    let mut viewer = server.stream("/stream");
    let mut ages = Vec::new();
    let began = Instant::now();
    for _ in 0..12 {
        let part = viewer.next_part();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        ages.push(now.saturating_sub(part.captured_at));
    }
    let each = began.elapsed() / 12;
    assert!(each > Duration::from_millis(10), "{each:?}: too fast for this test");
    // A queue would make each later than the one before it. To be taken, encoded and sent takes some of these times.
    let limit = each * 6 + Duration::from_millis(200);
    assert!(ages.iter().all(|age| *age < limit), "{ages:?}, one each {each:?}");
}

#[test]
fn unplugged_and_plugged_in_again() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("unplugged");
    let device = format!("synthetic:raw=YUYV,unplug_file={}", file.display());
    let server = TestServer::start(&["--device", &device, "--encode", "80"]);
    let mut viewer = server.stream("/stream");
    viewer.next_part();
    for round in 0..3 {
        fs::write(&file, "").expect("a file");
        wait_until("the camera is lost", PATIENCE, || server.get("/healthz").status == 503);
        assert!(server.get("/snapshot").text().contains("unplugged"), "round {round}");
        fs::remove_file(&file).expect("a file");
        wait_until("pictures again", PATIENCE, || server.get("/healthz").status == 200);
        viewer.next_part();
    }
}

#[test]
fn controls_are_the_cameras_own() {
    let server = TestServer::start(&["--device", "synthetic:raw=YUYV", "--encode", "80"]);
    let mean = || {
        let picture = Rgb::decode(&server.get("/snapshot").body);
        picture.pixels.iter().map(|value| u64::from(*value)).sum::<u64>() / picture.pixels.len() as u64
    };
    let before = mean();
    let set = server.get("/?action=command&dest=0&plugin=0&id=9963776&group=1&value=-40");
    assert_eq!(set.status, 200, "{}", set.text());
    wait_until("a darker picture", PATIENCE, || mean() + 15 < before);
}

#[test]
fn a_format_that_the_camera_lacks_is_named() {
    let server = TestServer::start(&["--device", "synthetic:raw=YUYV", "--encode", "80:NV12"]);
    let refused = server.get("/snapshot").text();
    assert!(refused.contains("does not offer NV12, only YUYV"), "{refused}");
}
