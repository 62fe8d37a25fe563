//! What the fuzz targets in `fuzz` call: each input that a stranger, a camera or a command line can send, with what must be
//! true of it whatever the bytes are. Compiled only with `--cfg fuzzing`.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use socket2::SockAddr;

use crate::camera::capture::{Capture, CaptureSettings};
use crate::camera::control::ControlValue;
use crate::camera::controls::{Panel, Remembered};
use crate::camera::intake::{Counters, Intake};
use crate::camera::session::Session;
use crate::camera::settle::Known;
use crate::camera::sources::splitter::Splitter;
use crate::camera::synthetic::Synthetic;
use crate::camera::v4l2::{Choice, V4l2Source};
use crate::camera::{Device, Mode, Source};
use crate::cli::{Config, Exit, compat};
use crate::frame::Size;
use crate::http::access::credentials::Verdict;
use crate::http::delivery::{Delivery, DeliveryMode};
use crate::http::endpoints::{controls, octolapse};
use crate::http::route::{Query, Route};
use crate::http::server::connection::{Connection, Link};
use crate::http::server::head::{HeadError, Requests};
use crate::http::{Credentials, Right, parse_origin};
use crate::hub::{Hub, Wait};
use crate::jpeg::{self, Flip, Orientation};

const SECRET: &str = "S3cr3t-that-is-never-printed";

/// A picture that the scanner takes is whole when it has been mended, and stays so with other headers.
pub fn jpeg(data: &[u8]) {
    let luma = jpeg::mean_luma(data);
    assert!(luma.is_none_or(|luma| (0.0..=255.0).contains(&luma)));
    for (found, may_lack_eoi) in [(jpeg::inspect(data), false), (jpeg::inspect_without_eoi(data), true)] {
        let Ok(picture) = found else { continue };
        assert!(!picture.eoi_missing() || may_lack_eoi);
        let _ = picture.decodes();
        let turned = Orientation::new(data.first().filter(|byte| **byte & 1 == 1).map(|_| Flip::Horizontal), 90);
        let (width, height) = (picture.width(), picture.height());
        assert!(width > 0 && height > 0);
        let luma = picture.mean_luma();
        for picture in [picture.clone(), picture.turned(turned)] {
            let mut mended = Vec::new();
            picture.append_to(&mut mended);
            assert_eq!(mended.len(), picture.len());
            let again = jpeg::inspect(&mended).expect("a mended picture is whole");
            assert_eq!((again.width(), again.height()), (width, height));
            assert_eq!((again.len(), again.padding(), again.dht_missing()), (mended.len(), 0, false));
            assert_eq!(jpeg::mean_luma(&mended), luma);
        }
    }
}

/// A header with the time and the camera's name leaves a whole picture of the same size, whatever Exif stood there.
pub fn header(data: &[u8]) {
    let Ok(picture) = jpeg::inspect(data) else { return };
    let mut mended = Vec::new();
    picture.append_to(&mut mended);
    let name: String = String::from_utf8_lossy(data).chars().rev().take(24).collect();
    let offset = i32::from(data[0]) * 6 - 720;
    let capture = jpeg::Capture { camera: &name, time: "2026:11:25 14:03:10".into(), micros: 999_999, offset };
    let Some((header, rest)) = jpeg::with_capture(&mended, &capture) else { return };
    let whole = [&header, &mended[rest..]].concat();
    let again = jpeg::inspect(&whole).expect("a picture with another header is whole");
    assert_eq!((again.width(), again.height(), again.padding()), (picture.width(), picture.height(), 0));
    // A header that has become as long as a segment can be is left alone.
    if let Some((twice, rest)) = jpeg::with_capture(&whole, &capture) {
        assert!(jpeg::inspect(&[&twice, &whole[rest..]].concat()).is_ok());
    }
}

/// The requests of a connection are the same in whatever pieces they arrive.
pub fn requests(data: &[u8]) {
    let [piece, data @ ..] = data else { return };
    let whole = read_requests(|mut socket| drop(socket.write_all(data)), data.len());
    if piece % 4 == 0 {
        let send = |mut socket: UnixStream| {
            for piece in data.chunks(usize::from(*piece) + 1) {
                let _ = socket.write_all(piece);
                std::thread::yield_now();
            }
        };
        assert_eq!(whole, read_requests(send, usize::MAX), "in pieces of {} bytes", piece + 1);
    }
}

/// What is read from a connection, in words. What has this length fits into the socket's buffer.
fn read_requests(send: impl FnOnce(UnixStream) + Send, length: usize) -> Vec<String> {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    // Keeps the connection open for responses to Expect, while the sender's end of it is closed.
    let kept = ours.try_clone().expect("a second handle");
    let send = move || {
        let end = ours.try_clone().expect("a third handle");
        send(ours);
        let _ = end.shutdown(std::net::Shutdown::Write);
    };
    let link = Link::new(OwnedFd::from(theirs).into(), &SockAddr::unix("peer").expect("a path"));
    let connection = Connection::new(link);
    let connection = connection.expect("options of a Unix socket");
    std::thread::scope(|scope| {
        if length <= 64 * 1024 {
            send();
        } else {
            scope.spawn(send);
        }
        let mut requests = Requests::new();
        let mut seen = Vec::new();
        loop {
            let request = requests.next(&connection).and_then(|head| Ok((requests.body(&head, &connection)?, head)));
            match request {
                Ok((body, head)) => {
                    assert!(head.target.len() <= 8192 && body.len() <= 65_536);
                    assert!(head.target.bytes().all(|byte| byte > b' ' && byte != 0x7F), "{:?}", head.target);
                    for name in ["Host", "Authorization", "Origin"] {
                        assert!(head.all(name).iter().all(|value| !value.contains(['\r', '\n', '\0'])));
                    }
                    seen.push(format!("{} {} {} {body:?}", head.method, head.target, head.keeps_alive()));
                }
                Err(HeadError::Nothing) => break,
                // One that is cut off may be refused for what it has, or for its end.
                Err(HeadError::Refused(status, _)) => {
                    assert!((400..=505).contains(&status));
                    break;
                }
            }
        }
        // Ends the sender, if it is still there.
        let _ = kept.shutdown(std::net::Shutdown::Both);
        seen
    })
}

/// A URL means what a slow and simple reader says that it means, and its parameters are taken or refused in words.
pub fn query(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else { return };
    let _ = parse_origin(target);
    let text = target.split_once('?').map_or(target, |(_, query)| query);
    let query = Query::new(text);
    // Only an action may be followed by a second question mark.
    let slow = text.split('&').flat_map(|pair| match pair.split_once('?') {
        Some((action, more)) if action.starts_with("action=") => vec![action, more],
        _ => vec![pair],
    });
    let slow: Vec<_> = slow.filter(|pair| !pair.is_empty()).map(slowly_decoded).collect();
    assert_eq!(query.pairs().collect::<Vec<_>>(), slow);
    // No name that is asked for has bytes that are not UTF-8.
    for (name, _) in slow.iter().filter(|(name, _)| !name.contains('\u{FFFD}')) {
        assert_eq!(query.get(name).as_ref(), slow.iter().find(|(other, _)| other == name).map(|(_, value)| value));
    }
    for mode in [DeliveryMode::Newest, DeliveryMode::All, DeliveryMode::Lockstep] {
        assert!(Delivery::from_query(&query, mode, true).err().is_none_or(|why| !why.is_empty()));
    }
    if let Some((route, _)) = Route::decode(target) {
        assert!(!route.methods().is_empty());
        for method in ["GET", "HEAD", "POST"] {
            let _ = route.effect(&method.parse().expect("a method"));
        }
    }
}

fn slowly_decoded(pair: &str) -> (String, String) {
    let text = |part: &[u8]| {
        let mut out = Vec::new();
        let mut at = 0;
        while at < part.len() {
            let hex = part.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            let hex = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
            match (part[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(byte)) => {
                    out.push(byte);
                    at += 2;
                }
                (b'+', _) => out.push(b' '),
                (byte, _) => out.push(byte),
            }
            at += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let bytes = pair.as_bytes();
    let equals = bytes.iter().position(|byte| *byte == b'=');
    (text(&bytes[..equals.unwrap_or(bytes.len())]), text(equals.map_or(&[], |at| &bytes[at + 1..])))
}

/// Whoever is in the file gets in, nobody else does, and no error repeats the file.
pub fn credentials(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut known = Credentials::default();
    let read = known.add_file(text);
    // A byte order mark is no part of the first name.
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    match &read {
        Err(why) => {
            assert!(!why.contains(SECRET));
            return;
        }
        Ok(()) => assert!(!known.is_empty()),
    }
    let none = known.check(&[], &[], Right::Read);
    assert_eq!(none, Verdict::Missing);
    let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let entries = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut rights: BTreeMap<String, bool> = BTreeMap::new();
    for line in entries {
        let (right, rest) = line.split_once([' ', '\t']).unwrap_or(("", line));
        let (control, rest) = match right {
            "read" => (false, rest.trim_start()),
            "control" => (true, rest.trim_start()),
            _ => (true, line),
        };
        let (user, password) = rest.split_once(':').expect("the file was taken");
        if user != "token" {
            *rights.entry(basic(user, password)).or_default() |= control;
        }
    }
    for (field, control) in &rights {
        assert_eq!(known.check(&[field], &[], Right::Read), Verdict::Allowed, "{field}");
        let write = known.check(&[field], &[], Right::Control);
        assert_eq!(write, if *control { Verdict::Allowed } else { Verdict::ReadOnly }, "{field}");
    }
    let stranger = basic("nobody-of-the-file", SECRET);
    if !rights.contains_key(&stranger) {
        assert_eq!(known.check(&[&stranger], &[], Right::Read), Verdict::Wrong);
    }
    let _ = known.check(&[text], &[text.to_owned()], Right::Control);
}

/// A command line is taken or refused in words, and no word of either is a secret. Arguments are separated by line ends.
pub fn command_line(data: &[u8]) {
    let [program, data @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Nothing is read from outside the working directory.
    if text.contains('/') || text.contains(SECRET) {
        return;
    }
    let (program, secret): (_, &[&str]) = match program % 8 {
        0 => ("framehub", &[]),
        1 => ("ustreamer", &[]),
        2 => ("mjpgsrv", &[]),
        3 => ("mjpg_streamer", &[]),
        4 => ("ustreamer", &["--user", "me", "--passwd", SECRET]),
        5 => ("mjpg_streamer", &["-o", "output_http.so -p 8080 -c me:S3cr3t-that-is-never-printed"]),
        6 => ("framehub", &["--password=S3cr3t-that-is-never-printed"]),
        _ => ("mjpg_streamer", &["-o", "output_http.so -c S3cr3t-that-is-never-printed"]),
    };
    let args = secret.iter().map(|arg| (*arg).to_owned()).chain(text.split('\n').map(str::to_owned));
    let args: Vec<String> = args.collect();
    let read = match compat::translate(program, &args) {
        Ok(None) => Config::from_args(&args),
        Ok(Some(config)) => Ok(config),
        Err(exit) => Err(exit),
    };
    let printed = match read {
        Ok(config) => format!("{:?}", config.notes),
        Err(Exit::Asked(text) | Exit::Wrong(text)) => text,
    };
    assert!(!printed.contains(SECRET), "{program} {args:?} prints {printed:?}");
}

/// A JSON configuration file is taken or refused in words.
pub fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let usage = "Usage: framehub [--config <path>] [--size <wxh>] [--fps <n>] [--listen <addr:port...>] \
        [--control <name=value...>] [--list] [-V]\n";
    if let Ok(options) = crate::cli::file::options(text, &[], usage) {
        assert!(options.len().is_multiple_of(2));
        assert!(options.iter().step_by(2).all(|option| option.starts_with("--")));
    }
}

/// The controls of a synthetic camera.
pub struct Controls(Arc<Panel>);

impl Default for Controls {
    fn default() -> Self {
        let mode = Mode { size: Size::new(64, 48), fps: None };
        let remembered = Remembered::new(vec![ControlValue::new("brightness", "10")]);
        let hub = Hub::new(Vec::new());
        let session = Session::new(Box::new(Synthetic::default()), mode, hub.clone(), Some(remembered.hook()));
        let settings = CaptureSettings { max_fps: None, idle: None, stall_timeout: Duration::from_secs(2) };
        let capture = Capture::new(session.clone(), settings);
        std::thread::spawn(move || capture.run());
        // A picture comes, so that the camera is live from here on.
        assert!(matches!(hub.newer_than(0, Instant::now() + Duration::from_secs(5)), Wait::Frame(_)));
        Self(Panel::new(session, remembered))
    }
}

impl Controls {
    /// Sets them by JSON, a form or a query, and by mjpg-streamer's command. The query is the first line.
    pub fn update(&self, data: &[u8]) {
        let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
        let (query, body) = (&data[..split], data.get(split + 1..).unwrap_or_default());
        let query = String::from_utf8_lossy(query);
        let query = Query::new(&query);
        drop(controls::respond(&self.0, &"POST".parse().expect("a method"), &query, body));
        drop(octolapse::command(&self.0, &query));
    }
}

/// A camera behind this node is listed, set and read to its end, whatever its driver writes into the structs.
pub fn device(node: &Path, buffers: u32) {
    let source = V4l2Source::new(Choice::Path(node.to_owned()));
    let Ok(mut device) = source.open() else { return };
    let offers = device.offers();
    assert!(offers.len() <= 256 && offers.iter().all(|offer| offer.size.area() > 0));
    assert!(offers.iter().flat_map(|offer| &offer.fps).all(|fps| fps.is_finite() && *fps > 0.0));
    list_controls(device.as_mut());
    let fps = Some(30.0).filter(|_| buffers.is_multiple_of(2));
    for size in [Size::new(64, 48), Size::new(640, 480)] {
        let Ok(mode) = device.start(Mode { size, fps }, buffers) else { continue };
        let readiness = device.readiness();
        let mut intake = Intake::live(mode.size, None, Known::default(), Arc::default());
        let counters = Counters::default();
        for _ in 0..24 {
            if !readiness.wait(Duration::ZERO).is_ok_and(|is_ready| is_ready) {
                break;
            }
            let taken = device.take(&mut |raw| {
                let mut out = Vec::new();
                if let Ok(accepted) = intake.accept(&raw, &counters) {
                    accepted.picture.append_to(&mut out);
                    assert_eq!(out.len(), accepted.picture.len());
                }
            });
            if taken.is_err() {
                break;
            }
        }
        let _ = device.stop();
    }
}

fn list_controls(device: &mut dyn Device) {
    let Some(controls) = device.controls() else { return };
    let mut after = 0;
    for _ in 0..64 {
        let Ok(Some(control)) = controls.next(after) else { break };
        assert!(control.id > after, "the list goes on");
        after = control.id;
        let _ = (control.name(), control.range(), control.flag_names());
        for text in ["0", "-1", "1", "on", "9223372036854775807"] {
            if let Ok(value) = control.parse(text) {
                let _ = controls.set(&control, value);
            }
        }
    }
}

/// Whatever a server or a command sends, and however it is cut: what is found is what a search of the whole finds, and
/// a clean picture in a part behind it is found in the end.
pub fn splitter(data: &[u8]) {
    static CLEAN: &[u8] = include_bytes!("../fuzz/seeds/jpeg/small.jpg");
    let Some((&piece, stream)) = data.split_first() else { return };
    let mut stream = stream.to_vec();
    // As many as the length of a segment that was cut can claim.
    while stream.len() < data.len() + (70 << 10) {
        stream.extend_from_slice(b"\r\n--b\r\n\r\n");
        stream.extend_from_slice(CLEAN);
    }
    let (mut splitter, mut whole) = (Splitter::default(), Vec::new());
    let (mut rest, mut turn) = (&stream[..], 1);
    while !rest.is_empty() {
        let length = if piece == 0 { rest.len() } else { usize::from(piece) * turn % 5000 + 1 };
        let (now, later) = rest.split_at(length.min(rest.len()));
        splitter.push(now);
        while let Some(found) = splitter.next() {
            if found.is_whole {
                whole.push(found.data.to_vec());
            }
        }
        (rest, turn) = (later, turn + 1);
    }
    assert_eq!(whole, pictures_in(&stream));
    assert!(whole.iter().any(|jpeg| jpeg == CLEAN));
}

/// The whole pictures in a stream of bytes, by a walk through all of them at once.
fn pictures_in(data: &[u8]) -> Vec<&[u8]> {
    let (mut pictures, mut from, mut doubtful) = (Vec::new(), 0, 0);
    'pictures: loop {
        let begins = |at: &usize| {
            data[*at..].starts_with(&[0xFF, 0xD8, 0xFF]) && (*at >= doubtful || *at > 0 && data[*at - 1] == b'\n')
        };
        let Some(mut start) = (from..data.len()).find(begins) else { return pictures };
        let (mut at, mut last, mut is_scan) = (start + 2, start + 2, false);
        loop {
            let (Some(&byte), Some(&marker)) = (data.get(at), data.get(at + 1)) else { return pictures };
            match marker {
                _ if byte != 0xFF && is_scan => at += 1,
                0 | 0xD0..=0xD7 if is_scan => at += 2,
                0xD9 if is_scan => {
                    pictures.push(&data[start..at + 2]);
                    (from, doubtful) = (at + 2, 0);
                    continue 'pictures;
                }
                0xD8 if is_scan => {
                    (from, doubtful) = (at, 0);
                    continue 'pictures;
                }
                0xFF if byte == 0xFF => at += 1,
                0xD8 if byte == 0xFF => (start, at, last) = (at, at + 2, at + 2),
                0x01 | 0xD0..=0xD7 if byte == 0xFF && !is_scan => at += 2,
                _ if byte == 0xFF && is_scan => (is_scan, last) = (false, at),
                _ => {
                    let length =
                        data.get(at + 2..at + 4).map(|bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]));
                    let is_segment = byte == 0xFF && !matches!(marker, 0 | 0xD9);
                    match length {
                        None if is_segment => return pictures,
                        Some(length @ 2..) if is_segment => {
                            (is_scan, last) = (marker == 0xDA, if marker == 0xDA { last } else { at });
                            at += 2 + length;
                        }
                        _ => {
                            let claims = data.get(last + 1).is_some_and(|marker| marker & 0xF0 == 0xE0);
                            (from, doubtful) = (last + 2, if claims { at } else { 0 });
                            continue 'pictures;
                        }
                    }
                }
            }
        }
    }
}
