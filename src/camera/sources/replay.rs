//! A recording in place of a camera: a file of pictures, an AVI file, one picture, or a directory of them, in a loop.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::device::{Input, SourceDevice, Started, absent, failed};
use super::splitter::{LIMIT, Splitter};
use crate::camera::{CameraError, Device, Mode, RawFrame, Source};
use crate::jpeg;
use crate::system::os;

/// Pictures per second where neither the recording nor `--fps` says.
const FPS: f64 = 10.0;
/// A longer pause in a recording is cut short.
const PAUSE: Duration = Duration::from_secs(10);
/// Where the header of an AVI file ends at the latest.
const AVI_HEADER: u64 = 8 << 10;
const READ: usize = 64 << 10;

/// What a path leads to, looked at when it is opened: a recording, or else the camera whose node it is.
pub struct PathSource {
    path: PathBuf,
    camera: Box<dyn Source>,
}

impl PathSource {
    /// The recording or the camera at this path.
    pub fn new(path: PathBuf, camera: Box<dyn Source>) -> Self {
        Self { path, camera }
    }
}

impl Source for PathSource {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        let is_recording = fs::metadata(&self.path).is_ok_and(|found| found.is_file() || found.is_dir());
        if !is_recording {
            return self.camera.open();
        }
        // Whether it can be read is known before it is started.
        drop(Recording::open(&self.path)?);
        let card = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        let path = self.path.clone();
        let begin = move |want: Mode| -> Result<Started, CameraError> {
            let recording = Recording::open(&path)?;
            let fps = want.fps.or(recording.fps);
            Ok((fps, Box::new(Player { recording, fps, due: Instant::now(), is_loaded: false, last: None })))
        };
        Ok(SourceDevice::open([self.path.display().to_string(), card, "replay".into()], begin))
    }

    fn note_first_picture(&self) {
        self.camera.note_first_picture();
    }

    fn note_silence(&self) {
        self.camera.note_silence();
    }

    fn retry(&self, failures: u32) -> Duration {
        self.camera.retry(failures)
    }
}

/// Plays a recording.
struct Player {
    recording: Recording,
    fps: Option<f64>,
    due: Instant,
    /// The next picture has been read and is not due yet.
    is_loaded: bool,
    /// When the last picture was captured, as far as the recording says.
    last: Option<Duration>,
}

impl Input for Player {
    fn wait(&mut self, deadline: Instant) -> Result<bool, CameraError> {
        if !self.is_loaded {
            let captured_at = self.recording.load()?;
            let period = Duration::from_secs_f64(1.0 / self.fps.unwrap_or(FPS));
            let recorded = captured_at.zip(std::mem::replace(&mut self.last, captured_at));
            let recorded = recorded.and_then(|(now, last)| now.checked_sub(last)).map(|gap| gap.min(PAUSE));
            self.due += recorded.filter(|_| self.fps.is_none()).unwrap_or(period);
            if self.due.elapsed() > Duration::from_secs(1) {
                self.due = Instant::now();
            }
            self.is_loaded = true;
        }
        thread::sleep(self.due.min(deadline).saturating_duration_since(Instant::now()));
        self.is_loaded = self.due > Instant::now();
        Ok(!self.is_loaded)
    }

    fn picture(&self) -> RawFrame<'_> {
        let data = match &self.recording.medium {
            Medium::File { splitter, .. } => splitter.found(),
            Medium::Directory { picture, .. } => picture,
        };
        RawFrame { data, sequence: 0, is_flagged: false, exposed_at: Some(os::monotonic()), captured_real: None }
    }
}

struct Recording {
    path: PathBuf,
    /// Its rate, where it has one.
    fps: Option<f64>,
    medium: Medium,
}

enum Medium {
    File { file: File, splitter: Splitter, has_pictures: bool },
    Directory { rest: Vec<PathBuf>, picture: Vec<u8> },
}

impl Recording {
    fn open(path: &Path) -> Result<Self, CameraError> {
        let cannot = |error| cannot_read(path, &error);
        let (fps, medium) = if fs::metadata(path).map_err(cannot)?.is_dir() {
            (None, Medium::Directory { rest: pictures(path)?, picture: Vec::new() })
        } else {
            let mut file = File::open(path).map_err(cannot)?;
            let mut header = Vec::new();
            (&mut file).take(AVI_HEADER).read_to_end(&mut header).map_err(cannot)?;
            file.rewind().map_err(cannot)?;
            let medium = Medium::File { file, splitter: Splitter::default(), has_pictures: false };
            (avi_rate(&header), medium)
        };
        Ok(Self { path: path.into(), fps, medium })
    }

    /// Reads the next picture, the first again behind the last. Returns when it was captured, where that is recorded.
    fn load(&mut self) -> Result<Option<Duration>, CameraError> {
        let path = &self.path;
        let cannot = |error| cannot_read(path, &error);
        match &mut self.medium {
            Medium::File { file, splitter, has_pictures } => loop {
                while let Some(found) = splitter.next() {
                    if found.is_whole {
                        *has_pictures = true;
                        return Ok(found.head.captured_at.or_else(|| jpeg::captured_at(found.data)));
                    }
                }
                let mut bytes = vec![0; READ];
                let length = file.read(&mut bytes).map_err(cannot)?;
                splitter.push(&bytes[..length]);
                if length == 0 {
                    if !*has_pictures {
                        return Err(failed(format!("{} has no JPEG in it; expected Motion-JPEG", path.display())));
                    }
                    file.rewind().map_err(cannot)?;
                    (*splitter, *has_pictures) = (Splitter::default(), false);
                }
            },
            Medium::Directory { rest, picture } => {
                if rest.is_empty() {
                    *rest = pictures(path)?;
                }
                let Some(next) = rest.pop() else { return Ok(None) };
                picture.clear();
                // One that was deleted since is an empty picture, which is counted as such.
                match File::open(&next) {
                    Ok(file) => _ = file.take(LIMIT as u64).read_to_end(picture).map_err(|e| cannot_read(&next, &e))?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(cannot_read(&next, &error)),
                }
                Ok(None)
            }
        }
    }
}

fn cannot_read(path: &Path, error: &std::io::Error) -> CameraError {
    absent(format!("cannot read {}: {error}", path.display()))
}

/// The pictures in a directory, the first by name at the end.
fn pictures(directory: &Path) -> Result<Vec<PathBuf>, CameraError> {
    let entries = fs::read_dir(directory).map_err(|error| cannot_read(directory, &error))?;
    let is_jpeg = |path: &PathBuf| {
        path.extension().is_some_and(|end| end.eq_ignore_ascii_case("jpg") || end.eq_ignore_ascii_case("jpeg"))
    };
    let mut pictures: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_jpeg).collect();
    if pictures.is_empty() {
        return Err(absent(format!("{} has no pictures in it; expected *.jpg or *.jpeg", directory.display())));
    }
    pictures.sort_by(|a, b| b.cmp(a));
    Ok(pictures)
}

/// Pictures per second of an AVI file, from the header of its video stream.
fn avi_rate(header: &[u8]) -> Option<f64> {
    if header.get(..4)? != b"RIFF" || header.get(8..12)? != b"AVI " {
        return None;
    }
    let stream = header.windows(12).position(|bytes| bytes.starts_with(b"strh") && bytes.ends_with(b"vids"))?;
    let number = |at| Some(u32::from_le_bytes(*header.get(stream + 8 + at..)?.first_chunk()?));
    let (scale, rate) = (number(20)?, number(24)?);
    Some(f64::from(rate) / f64::from(scale)).filter(|fps| (0.01..=1000.0).contains(fps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_an_avi_file_is_that_of_its_video() {
        let mut header = b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrlavih".to_vec();
        for kind in [b"auds", b"vids"] {
            header.extend_from_slice(b"strh\x38\0\0\0");
            header.extend_from_slice(kind);
            header.extend_from_slice(&[0; 16]);
            [1001u32, 30_000].iter().for_each(|number| header.extend_from_slice(&number.to_le_bytes()));
        }
        let rate = avi_rate(&header).unwrap();
        assert!((rate - 29.97).abs() < 0.01, "{rate}");
        header.truncate(header.len() - 1);
        assert_eq!((avi_rate(&header), avi_rate(b"RIFF"), avi_rate(&[])), (None, None, None));
    }
}
