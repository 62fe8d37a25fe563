//! `/clip`: the last seconds as a file that lacks no frame, and that one line of ffmpeg makes a video of.

mod recorder;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use recorder::{NARROW, Parts, assert_no_gap};
use support::{PATIENCE, Response, TestServer, is_long_run, is_one_whole_jpeg, request, stamp_of};

/// The clip's length in seconds: three in the short run.
fn seconds() -> u64 {
    if is_long_run() { 20 } else { 3 }
}

/// A server that has kept frames for longer than that.
fn recorded(args: &[&str]) -> TestServer {
    let replay = format!("{}s", seconds());
    let common = ["--size", "320x240", "--fps", "30", "--idle", "0", "--replay", &replay];
    let server = TestServer::start(&[&common, args].concat());
    Parts::open(&server, "/stream").take_for(Duration::from_secs(seconds() + 1), Duration::ZERO);
    server
}

/// The pictures in a file, split at EOI. The synthetic camera's pictures contain no other.
fn pictures(file: &[u8]) -> Vec<&[u8]> {
    let (mut pictures, mut start) = (Vec::new(), 0);
    for at in (2..=file.len()).filter(|at| file[at - 2..*at] == [0xFF, 0xD9]) {
        pictures.push(&file[start..at]);
        start = at;
    }
    assert_eq!(start, file.len(), "the file ends with the end of a picture");
    pictures
}

fn number<T: std::str::FromStr>(response: &Response, header: &str) -> T {
    response.expect_header(header).parse().unwrap_or_else(|_| panic!("{header} is a number: {}", response.head))
}

#[test]
fn a_clip_holds_every_frame_of_its_seconds() {
    let server = recorded(&[]);
    let target = format!("/clip?last={}s", seconds());
    let clip = server.get(&target);
    assert_eq!((clip.status, clip.expect_header("Content-Type")), (200, "video/x-motion-jpeg"), "{}", clip.head);
    let name = clip.expect_header("Content-Disposition");
    assert!(name.starts_with("attachment; filename=clip-20") && name.ends_with("Z.mjpeg"), "{name}");

    let pictures = pictures(&clip.body);
    assert!(pictures.iter().all(|picture| is_one_whole_jpeg(picture)));
    let camera: Vec<u64> = pictures.iter().map(|picture| stamp_of(picture).expect("a stamp").seq).collect();
    assert_no_gap("the clip", &camera);
    let wanted = seconds() * 30;
    assert!((wanted - 2..=wanted + 1).contains(&(camera.len() as u64)), "{} frames, not {wanted}", camera.len());
    let (first, last): (u64, u64) = (number(&clip, "X-First-Frame-Seq"), number(&clip, "X-Last-Frame-Seq"));
    assert_eq!(last - first + 1, camera.len() as u64);
    let rate: f64 = number(&clip, "X-Frame-Rate");
    assert!((29.5..30.5).contains(&rate), "{rate} frames per second");

    let index = server.get(&format!("{target}&format=json"));
    assert_eq!((index.status, index.expect_header("Content-Type")), (200, "application/json"));
    let text = index.text();
    assert!(text.contains("\"fps\":") && text.contains("\"frames\":["), "{text}");
    let frames: Vec<&str> = text.split("},{").collect();
    assert!(frames.len().abs_diff(camera.len()) <= 2, "{} frames in the index", frames.len());
    let facts = ["\"seq\":", "\"time\":", "\"bytes\":", "\"width\":320", "\"height\":240"];
    assert!(frames.iter().all(|frame| facts.iter().all(|fact| frame.contains(fact))), "{text}");

    let mut client = server.connect();
    client.send(request("HEAD", &target));
    let head = client.try_response("HEAD").expect("a response");
    assert!(number::<u64>(&head, "Content-Length") > 100_000, "{}", head.head);
}

/// A chunk of RIFF at the beginning of these bytes: its name, its content, and what is behind it.
fn chunk(bytes: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let length = number_at(bytes, 4);
    let end = 8 + length;
    (&bytes[..4], &bytes[8..end], &bytes[(end + length % 2).min(bytes.len())..])
}

fn number_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// It opens by a double click: an AVI whose index, lengths and rate are right, with the pictures of the other format.
#[test]
fn a_clip_as_avi_holds_the_same_pictures_and_every_player_reads_it() {
    let server = recorded(&["--rotate", "180"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, avi) = (server.get("/clip"), server.get("/clip?format=avi"));
    assert_eq!((avi.status, avi.expect_header("Content-Type")), (200, "video/x-msvideo"), "{}", avi.head);
    assert!(avi.expect_header("Content-Disposition").ends_with("Z.avi"), "{}", avi.head);
    // The camera goes on between the two requests.
    let [first, last] = ["X-First-Frame-Seq", "X-Last-Frame-Seq"].map(|name| number::<usize>(&avi, name));
    let (count, moved) = (last - first + 1, first - number::<usize>(&plain, "X-First-Frame-Seq"));
    let expected = &pictures(&plain.body)[moved..];
    // 2026:11:25 14:03:10 and a zero byte.
    let is_time = |bytes: &[u8]| [4, 7, 13, 16, 19].map(|at| bytes[at]) == *b"::::\0";
    let has_time = |picture: &&[u8]| picture[..400].windows(20).any(is_time);
    assert!(expected.len() > 60 && expected.iter().all(has_time), "a time in each");

    let (name, riff, rest) = chunk(&avi.body);
    assert!(name == b"RIFF" && rest.is_empty() && &riff[..4] == b"AVI ");
    let (name, header, rest) = chunk(&riff[4..]);
    assert!(name == b"LIST" && &header[..4] == b"hdrl");
    let (_, main, streams) = chunk(&header[4..]);
    let (_, stream, _) = chunk(streams);
    let (_, video, format) = chunk(&stream[4..]);
    let (_, format, _) = chunk(format);
    let (name, movi, rest) = chunk(rest);
    assert!(name == b"LIST" && &movi[..4] == b"movi");
    let (name, index, rest) = chunk(rest);
    assert!(name == b"idx1" && rest.is_empty() && index.len() == 16 * count);
    assert_eq!([number_at(main, 16), number_at(video, 32)], [count; 2]);
    assert_eq!(
        [number_at(main, 32), number_at(main, 36), number_at(format, 4), number_at(format, 8)],
        [320, 240, 320, 240]
    );
    assert_eq!((&video[..8], &format[16..20]), (&b"vidsMJPG"[..], &b"MJPG"[..]));
    let rate: f64 = number(&avi, "X-Frame-Rate");
    let stated = number_at(video, 24) as f64 / number_at(video, 20) as f64;
    assert!((stated - rate).abs() < 0.01 && (1e6 / number_at(main, 0) as f64 - rate).abs() < 0.01, "{stated} {rate}");
    let mut chunks = &movi[4..];
    for (number, entry) in index.chunks(16).enumerate() {
        let at = movi.len() - chunks.len();
        let (name, picture, behind) = chunk(chunks);
        assert!(name == b"00dc" && expected.get(number).is_none_or(|expected| *expected == picture), "bit by bit");
        assert_eq!((&entry[..4], number_at(entry, 8), number_at(entry, 12)), (&b"00dc"[..], at, picture.len()));
        assert_eq!(number_at(entry, 4), 0x10, "a key frame");
        chunks = behind;
    }
    assert!(chunks.is_empty());

    fs::write(folder.path().join("clip.avi"), &avi.body).expect("a file");
    let run = |command: &[&str]| {
        let output = Command::new(command[0]).args(&command[1..]).current_dir(folder.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{command:?} (scripts/install-packages): {error}"));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {errors}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), errors)
    };
    let fields = "format=format_name,duration:stream=codec_name,avg_frame_rate,nb_read_frames";
    let (found, errors) =
        run(&["ffprobe", "-v", "warning", "-count_frames", "-show_entries", fields, "-of", "default", "clip.avi"]);
    assert_eq!(errors, "");
    for line in ["codec_name=mjpeg".to_owned(), "format_name=avi".into(), format!("nb_read_frames={count}")] {
        assert!(found.contains(&line), "{line}: {found}");
    }
    let duration: f64 = found
        .split("duration=")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .and_then(|text| text.parse().ok())
        .expect("a duration");
    assert!((duration - count as f64 / rate).abs() < 0.05, "{duration} s");
    // ffmpeg takes the pictures out again as they are.
    run(&["ffmpeg", "-v", "error", "-i", "clip.avi", "-c", "copy", "-f", "image2", "%d.jpg"]);
    for (number, expected) in expected.iter().enumerate() {
        let copied = fs::read(folder.path().join(format!("{}.jpg", number + 1))).expect("a picture");
        assert!(copied == *expected, "picture {number}");
    }
    // Seeking uses the index.
    run(&["ffmpeg", "-v", "error", "-xerror", "-ss", "1", "-i", "clip.avi", "-frames:v", "1", "-f", "null", "-"]);
}

/// The lines in docs/recording.md, as they stand there.
#[test]
fn the_documented_line_makes_a_video_of_the_right_length() {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recording.md")).expect("the docs");
    let blocks = docs.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.filter(|block| block.contains("clip.mp4")).last().expect("a block of commands");
    let server = recorded(&[]);
    let script =
        lines.replace("ADDRESS:8080", &server.address().to_string()).replace("20s", &format!("{}s", seconds()));
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new("sh").args(["-eu", "-c", &script]).current_dir(folder.path()).output().expect("sh runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl and ffmpeg are needed (scripts/install-packages): {errors}");
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", "clip.mp4"])
        .current_dir(folder.path())
        .output()
        .expect("ffprobe runs");
    let length: f64 = String::from_utf8_lossy(&probe.stdout).trim().parse().expect("a number of seconds");
    assert!((length - seconds() as f64).abs() < 0.15, "the video is {length} s long, not {}", seconds());
    eprintln!("the video is {length} s long");
}

#[test]
fn without_a_replay_and_for_invalid_parameters_the_response_says_why() {
    let server = TestServer::start(&["--size", "320x240"]);
    let response = server.get("/clip?last=5s");
    assert_eq!(response.status, 404);
    assert!(response.text().contains("--replay"), "{}", response.text());

    let server = TestServer::start(&["--size", "320x240", "--replay", "1", "--idle", "0.3"]);
    for (target, words) in [("/clip?last=soon", "seconds"), ("/clip?format=mp4", "mjpeg, avi or json")] {
        let response = server.get(target);
        assert_eq!(response.status, 400, "{target}");
        assert!(response.text().contains(words), "{target}: {}", response.text());
    }
}

/// A replay keeps the frames that others watch. It neither opens the camera nor keeps it open.
#[test]
fn a_replay_does_not_wake_the_camera() {
    let server = TestServer::start(&["--size", "320x240", "--replay", "2", "--idle", "0.3"]);
    let opened = || server.log().iter().filter(|line| line.contains("camera opened")).count();
    Parts::open(&server, "/stream").take_for(Duration::from_secs(1), Duration::ZERO);
    server.wait_log("camera closed", PATIENCE);
    let before = opened();
    assert_eq!(server.get("/clip?last=2s").status, 200, "the newest frames are kept");
    thread::sleep(Duration::from_millis(2_200));
    server.get("/clip?last=2s").assert_unavailable();
    assert_eq!(opened(), before, "the camera was not opened");
}

/// The memory limit takes precedence over the seconds, and the log says at start how many seconds fit.
#[test]
fn the_log_says_how_many_seconds_fit() {
    let server = TestServer::start(&["--device", "synthetic:bytes=40000", "--idle", "0", "--replay", "20s"]);
    server.wait_log("replay seconds=20 memory=64MiB fits=\"about", PATIENCE);
    let line = server.wait_log("the replay of 20 s fits", PATIENCE);
    let fit = line.split("about ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    let fit: u64 = fit.parse().expect("a number");
    assert!((40..110).contains(&fit), "about 1.2 MB a second: {line}");

    let memory = ["--all-frames-memory", "2MiB", "--device", "synthetic:bytes=40000"];
    let server = TestServer::start(&[&memory[..], &["--idle", "0", "--replay", "20s"]].concat());
    let line = server.wait_log("room for", PATIENCE);
    assert!(line.contains("--all-frames-memory") && line.contains("not for 20 s"), "{line}");
    thread::sleep(Duration::from_secs(3));
    let clip = server.get("/clip");
    let frames = number::<u64>(&clip, "X-Last-Frame-Seq") - number::<u64>(&clip, "X-First-Frame-Seq") + 1;
    assert!((35..=52).contains(&frames), "2 MiB hold {frames} frames of 40 KB");
}

/// A slow download stays complete although the ring moves on. It counts as a viewer.
#[test]
fn a_slow_download_is_complete() {
    let server = recorded(&["--max-clients", "1"]);
    server.wait_log("viewer left", PATIENCE);
    let mut client = support::Client::over(support::narrow_connection(server.address(), NARROW));
    client.send(request("GET", "/clip"));
    server.wait_log("mode=clip", PATIENCE);
    assert_eq!(server.get("/stream").status, 503, "the download counts as a viewer");
    assert_eq!(server.get("/snapshot").status, 200, "snapshots have their own limit");
    thread::sleep(Duration::from_secs(seconds().min(6)));
    let clip = client.response();
    let camera: Vec<u64> = pictures(&clip.body).iter().map(|jpeg| stamp_of(jpeg).expect("a stamp").seq).collect();
    assert_no_gap("the clip", &camera);
    server.wait_log("mode=clip reason=\"has all it asked for\"", PATIENCE);
}
