//! The picture that says why there is none: what viewers of the newest frame get while the camera sends nothing, so that
//! a frozen picture never looks live and proxies do not give the stream up.
//!
//! It never enters the hub, so nothing else sees it. It is drawn and encoded once for each text, on the thread of the
//! viewer that needs it first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ErrorKind;
use super::lettering;
use super::session::{Phase, Session, Status};
use crate::frame::{Frame, Pool, Size, Stamp};
use crate::hub::{Feed, FeedEnd, NewestFeed, Wait};
use crate::jpeg::encoder::{Encoder, Levels};
use crate::jpeg::{self, Orientation};
use crate::system::os;
use crate::system::sync::{Mutex, rank};

/// When there has been no live picture for this time it is sent, and again each time.
const INTERVAL: Duration = Duration::from_secs(5);
/// A camera that is slow by nature is silent when so many of its periods have passed.
const PERIODS: f64 = 3.0;
/// A larger picture is drawn at half its size: nobody has such a camera, but `--size` takes it.
const LARGEST: u64 = 4096 * 4096;
const QUALITY: u8 = 80;
const DARK: u8 = 40;
const WHITE: u8 = 235;
const NEUTRAL: u8 = 128;

/// Makes the picture, and keeps it as long as its text is true.
pub struct NoSignal {
    session: Arc<Session>,
    made: Mutex<Option<(Notice, Arc<Frame>)>, { rank::BRIEF }>,
    pool: Arc<Pool>,
}

/// What the picture says and how it looks.
#[derive(Debug, Clone, PartialEq)]
struct Notice {
    lines: [String; 3],
    /// As the camera's pictures, before they are turned.
    size: Size,
    orientation: Option<Orientation>,
}

impl NoSignal {
    /// Creates what says why this camera sends no pictures.
    pub fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self { session, made: Mutex::default(), pool: Arc::default() })
    }

    /// The picture for a viewer, if one is needed now.
    fn frame(&self) -> Option<Arc<Frame>> {
        let (since, what) = self.problem().filter(|(since, _)| os::monotonic() >= since.mono + INTERVAL)?;
        self.saying(since, what)
    }

    /// The picture for somebody who was to get one and cannot.
    pub fn instead(&self) -> Option<Arc<Frame>> {
        let now = Stamp { mono: os::monotonic(), real: os::realtime() };
        let (since, what) = self.problem().unwrap_or((now, "none came in time"));
        self.saying(since, what)
    }

    fn saying(&self, since: Stamp, what: &str) -> Option<Arc<Frame>> {
        let last = self.session.hub.newest();
        let size = last.as_ref().map_or(self.session.live_mode.size, |frame| frame.size());
        let orientation = match &last {
            Some(frame) => jpeg::orientation(frame.jpeg()),
            None => self.session.status().traits.lock().orientation,
        };
        let notice = Notice { lines: lines(what, since.real, os::realtime()), size: limited(size), orientation };
        let mut made = self.made.lock();
        if made.as_ref().is_none_or(|(known, _)| *known != notice) {
            let jpeg = notice.encode()?;
            *made = Some((notice.clone(), self.pool.placeholder(notice.size, &jpeg)));
        }
        made.as_ref().map(|(_, frame)| frame.clone())
    }

    /// What is wrong, and since when; `None` while pictures come, a still is taken, or the camera sleeps.
    fn problem(&self) -> Option<(Stamp, &'static str)> {
        let status = self.session.status();
        match status.phase {
            Phase::Asleep => None,
            Phase::Live if self.session.is_switching() => None,
            Phase::Live => {
                let last = self.session.hub.newest_captured()?.captured_at();
                let rate = self.session.rhythm().rate(last.mono);
                let rate = if rate > 0.0 { rate } else { status.mode?.fps.unwrap_or(1.0) };
                let silent = os::monotonic().saturating_sub(last.mono);
                is_overdue(silent, rate).then(|| (last, words(&status)))
            }
            Phase::Starting | Phase::Lost(_) => status.silence.map(|silence| (silence.since, words(&status))),
        }
    }
}

/// Whether a camera of this rate should have sent a picture by now.
fn is_overdue(silent: Duration, rate: f64) -> bool {
    silent.as_secs_f64() * rate > PERIODS
}

/// What is wrong with a camera that is silent, in as few words as large letters allow.
fn words(status: &Status) -> &'static str {
    match status.silence.and_then(|silence| silence.cause) {
        None if status.phase == Phase::Live => "camera sends no pictures",
        None => "camera is starting",
        Some(ErrorKind::Absent) if status.identity.is_some() => "camera unplugged",
        Some(ErrorKind::Absent) => "no camera found",
        Some(ErrorKind::Refused) => "camera cannot be used",
        Some(ErrorKind::Bandwidth) => "USB bus is too slow",
        Some(ErrorKind::Failed | ErrorKind::Busy(_)) => "camera sends no pictures",
    }
}

fn lines(what: &str, since: Duration, now: Duration) -> [String; 3] {
    let [(since, _), (now, _)] = [since, now].map(os::local_time);
    // As Exif writes it: 2026:11:25 14:03:10.
    let (date, time) = since.split_once(' ').unwrap_or_default();
    let since = match now.starts_with(date) {
        true => format!("since {time}"),
        false => format!("since {} {}", date.replace(':', "-"), time.get(..5).unwrap_or_default()),
    };
    ["No picture".into(), what.into(), since]
}

fn limited(size: Size) -> Size {
    match size.area() > LARGEST {
        true => limited(Size::new(size.width / 2, size.height / 2)),
        false => size,
    }
}

impl Notice {
    /// The JPEG, drawn so that it is upright when a viewer has turned it as it turns the camera's.
    fn encode(&self) -> Option<Vec<u8>> {
        let drawing = self.draw();
        let [width, height] = [self.size.width, self.size.height].map(|side| side.min(u16::MAX.into()) as u16);
        let mut encoded = Vec::new();
        // With colour differences, as the camera's pictures: a reader may take a grey picture for another stream.
        Encoder::new(width, height, QUALITY, Levels::FULL, false).encode(&mut encoded, |first, rows, strip| {
            for (y, row) in (first..).zip(strip.luma.chunks_exact_mut(strip.stride)).take(rows) {
                drawing.fill_row(y as u32, &mut row[..width.into()]);
            }
            strip.chroma.iter_mut().for_each(|plane| plane.fill(NEUTRAL));
        });
        let picture = jpeg::inspect(&encoded).ok()?;
        let picture = self.orientation.map_or(picture.clone(), |orientation| picture.turned(orientation));
        let mut jpeg = Vec::new();
        picture.append_to(&mut jpeg);
        Some(jpeg)
    }

    /// Draws the lines below each other, each as large as fits.
    fn draw(&self) -> Drawing {
        let is_sideways = self.orientation.is_some_and(Orientation::is_sideways);
        let Size { width, height } = self.size;
        let [width, height] = if is_sideways { [height, width] } else { [width, height] }.map(|side| side as usize);
        let fitting = |line: &String| 0.9 * width as f32 / lettering::width(line) as f32;
        let smallest = self.lines.iter().map(fitting).fold(f32::INFINITY, f32::min);
        let row = height as f32 / (self.lines.len() + 1) as f32;
        let mut luma = vec![DARK; width * height];
        for (number, line) in self.lines.iter().enumerate() {
            let scale = fitting(line).min(1.5 * smallest).min(0.9 * row / lettering::HEIGHT as f32);
            let left = (width as f32 - scale * lettering::width(line) as f32) / 2.0;
            let top = row * (number as f32 + 1.0) - scale * lettering::HEIGHT as f32 / 2.0;
            lettering::draw(&mut luma, width, [left as usize, top as usize], scale, line, WHITE);
        }
        Drawing { size: self.size, orientation: self.orientation, luma, width }
    }
}

/// A picture in grey as it is seen, which is encoded as the camera would have taken it.
struct Drawing {
    size: Size,
    orientation: Option<Orientation>,
    luma: Vec<u8>,
    /// Pixels in a row as it is seen.
    width: usize,
}

impl Drawing {
    /// Row `y` of the picture as the camera would have taken it.
    fn fill_row(&self, y: u32, row: &mut [u8]) {
        for (x, luma) in (0..).zip(row) {
            let turned = |orientation: Orientation| orientation.shown_at([x, y], [self.size.width, self.size.height]);
            let [x, y] = self.orientation.map_or([x, y], turned);
            *luma = self.luma[y as usize * self.width + x as usize];
        }
    }
}

/// The newest frame whenever the viewer is ready for one, and the picture that says why there is none.
pub struct NoSignalFeed {
    live: NewestFeed,
    source: Arc<NoSignal>,
    /// Not before then, whatever the camera does.
    due: Instant,
}

impl NoSignalFeed {
    /// Adds the picture to a feed of live ones.
    pub fn new(live: NewestFeed, source: Arc<NoSignal>) -> Self {
        Self { live, source, due: Instant::now() }
    }
}

impl Feed for NoSignalFeed {
    fn next(&mut self, deadline: Instant) -> Result<Wait, FeedEnd> {
        let is_due_first = self.due > Instant::now() && self.due < deadline;
        let mut wait = self.live.next(if is_due_first { self.due } else { deadline })?;
        if matches!(wait, Wait::Nothing) && Instant::now() >= self.due {
            wait = self.source.frame().map_or(Wait::Nothing, Wait::Frame);
        }
        if matches!(wait, Wait::Frame(_)) {
            self.due = Instant::now() + INTERVAL;
        }
        Ok(wait)
    }

    fn skipped(&self) -> u64 {
        self.live.skipped()
    }

    fn is_numbered(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::super::error::Silence;
    use super::*;
    use crate::jpeg::Flip;

    #[test]
    fn what_is_wrong_is_told_in_few_words() {
        let now = Stamp { mono: Duration::ZERO, real: Duration::ZERO };
        for (phase, cause, was_seen, expected) in [
            (Phase::Live, None, true, "camera sends no pictures"),
            (Phase::Starting, None, true, "camera is starting"),
            (Phase::Lost(String::new()), Some(ErrorKind::Absent), true, "camera unplugged"),
            (Phase::Lost(String::new()), Some(ErrorKind::Absent), false, "no camera found"),
            (Phase::Lost(String::new()), Some(ErrorKind::Refused), true, "camera cannot be used"),
            (Phase::Lost(String::new()), Some(ErrorKind::Bandwidth), true, "USB bus is too slow"),
            (Phase::Starting, Some(ErrorKind::Failed), true, "camera sends no pictures"),
        ] {
            let mut status = Status::default();
            status.silence = (phase != Phase::Live).then_some(Silence { since: now, cause });
            status.identity = was_seen.then(Identity::default);
            status.phase = phase;
            assert_eq!(words(&status), expected);
        }
    }

    #[test]
    fn the_date_is_told_on_other_days_only() {
        let real = |seconds| Duration::from_secs(seconds);
        let at = real(1_795_615_357);
        let (local, _) = os::local_time(at);
        assert_eq!(lines("x", at, at + real(1))[2], format!("since {}", &local[11..]));
        assert_eq!(
            lines("x", at, at + real(86_400))[2],
            format!("since {} {}", local[..10].replace(':', "-"), &local[11..16])
        );
    }

    #[test]
    fn a_slow_camera_is_not_overdue() {
        for (silent, rate, expected) in [(5.0, 30.0, true), (7.0, 0.15, false), (21.0, 0.15, true), (5.0, 0.5, false)] {
            assert_eq!(is_overdue(Duration::from_secs_f64(silent), rate), expected, "{silent} s at {rate}");
        }
    }

    #[test]
    fn it_is_upright_when_turned_as_the_cameras_pictures_are() {
        let lines = lines("camera unplugged", Duration::ZERO, Duration::ZERO);
        let drawing = |size, orientation| Notice { lines: lines.clone(), size, orientation }.draw();
        for flip in [None, Some(Flip::Horizontal), Some(Flip::Vertical)] {
            for degrees in [0, 90, 180, 270] {
                let orientation = Orientation::new(flip, degrees);
                let turned = drawing(Size::new(120, 80), Some(orientation));
                let shown = if orientation.is_sideways() { Size::new(80, 120) } else { Size::new(120, 80) };
                let upright = drawing(shown, None);
                assert!(upright.luma.iter().any(|luma| *luma > 200), "there are letters");
                for y in 0..80 {
                    let mut row = [0; 120];
                    turned.fill_row(y, &mut row);
                    for (x, luma) in row.iter().enumerate() {
                        let [x, y] = orientation.shown_at([x as u32, y], [120, 80]);
                        assert_eq!(*luma, upright.luma[(y * shown.width + x) as usize], "{flip:?} {degrees} {x} {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_size_can_be_encoded() {
        for (width, height) in [(16, 16), (17, 31), (320, 240), (3840, 16), (16, 2160), (1279, 721)] {
            for orientation in [None, Some(Orientation::new(Some(Flip::Vertical), 90))] {
                let size = Size::new(width, height);
                let notice =
                    Notice { lines: lines("no camera found", Duration::ZERO, Duration::ZERO), size, orientation };
                let jpeg = notice.encode().unwrap();
                let picture = jpeg::inspect(&jpeg).unwrap();
                assert_eq!((picture.width(), picture.height(), jpeg::orientation(&jpeg)), (width, height, orientation));
            }
        }
        assert_eq!(limited(Size::new(16384, 16384)), Size::new(4096, 4096));
        assert_eq!(limited(Size::new(3840, 2160)), Size::new(3840, 2160));
    }
}
