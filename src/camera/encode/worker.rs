//! The thread that encodes one stream, and the newest picture, which it hands to whoever takes pictures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Condvar, Mutex};

use super::rows;
use crate::camera::pixels::{Layout, PixelFormat};
use crate::camera::{CameraError, Device, ErrorKind, Mode, RawFrame, Readiness};
use crate::frame::Size;
use crate::jpeg::encoder::Encoder;
use crate::system::sync::{self, rank};

/// Longest wait for a raw picture before the thread looks whether it is to end. The end of a stream wakes it, too.
const TICK: Duration = Duration::from_millis(250);
/// So many pictures are passed over for a newer one at a time: as many as a driver has buffers.
const MOST_WAITING: u32 = 4;
/// After so many pictures it is known whether the encoder keeps up.
const PACE_PICTURES: u32 = 60;

/// A device that the thread shares.
pub(super) type Shared = Arc<sync::Mutex<Box<dyn Device>, { rank::DEVICE }>>;

/// Encodes pictures of one layout.
pub(super) struct JpegEncoder {
    layout: Layout,
    encoder: Encoder,
}

impl JpegEncoder {
    pub(super) fn new(layout: Layout, quality: u8) -> Self {
        let Size { width, height } = layout.size;
        let is_grey = layout.format == PixelFormat::Grey;
        let side = |side: u32| side.clamp(1, u16::MAX.into()) as u16;
        Self { layout, encoder: Encoder::new(side(width), side(height), quality, rows::levels(&layout), is_grey) }
    }

    /// Replaces `jpeg` by the encoded picture. Of a picture that is not whole there is only the beginning of a JPEG, which
    /// is refused for what it is.
    pub(super) fn encode(&mut self, pixels: &[u8], jpeg: &mut Vec<u8>) {
        jpeg.clear();
        if pixels.len() < self.layout.len() {
            jpeg.extend_from_slice(self.encoder.head());
            return;
        }
        self.encoder.encode(jpeg, |first, rows, strip| rows::fill(&self.layout, pixels, first, rows, strip));
    }
}

/// The thread that encodes one stream. Dropping it waits for its end, which must have been asked for.
pub(super) struct Running {
    pub(super) pictures: Arc<Pictures>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(
        device: Shared,
        readiness: Arc<dyn Readiness>,
        layout: Layout,
        mode: Mode,
        quality: u8,
    ) -> Result<Self, CameraError> {
        let pictures = Arc::new(Pictures::default());
        let work = Work { device, readiness, layout, mode, pictures: pictures.clone() };
        let thread = thread::Builder::new().name("encode".into()).spawn(move || work.run(quality));
        let thread = thread.map_err(|error| {
            CameraError::new(ErrorKind::Failed, format!("cannot start the thread that encodes: {error}"))
        })?;
        Ok(Self { pictures, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.pictures.stop();
        // Its panics were caught.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The newest encoded picture, for the thread that takes it.
#[derive(Default)]
pub(super) struct Pictures {
    state: Mutex<Handover>,
    changed: Condvar,
}

#[derive(Default)]
struct Handover {
    newest: Option<Encoded>,
    /// Why no more pictures come.
    failure: Option<CameraError>,
    is_stopping: bool,
    /// A buffer to be used again.
    spare: Vec<u8>,
}

struct Encoded {
    jpeg: Vec<u8>,
    raw: Taken,
}

/// What is known of a raw picture without its bytes.
#[derive(Clone, Copy)]
struct Taken {
    sequence: u32,
    is_flagged: bool,
    exposed_at: Option<Duration>,
}

impl Pictures {
    fn lock(&self) -> parking_lot::MutexGuard<'_, Handover> {
        self.state.lock()
    }

    /// Asks the thread to end.
    pub(super) fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    fn publish(&self, jpeg: Vec<u8>, raw: Taken) -> Vec<u8> {
        let mut state = self.lock();
        let unused = state.newest.replace(Encoded { jpeg, raw });
        let spare = std::mem::take(&mut state.spare);
        self.changed.notify_all();
        unused.map_or(spare, |unused| unused.jpeg)
    }

    fn fail(&self, error: CameraError) {
        self.lock().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    pub(super) fn take(&self, sink: &mut dyn FnMut(RawFrame<'_>)) -> Result<(), CameraError> {
        let mut state = self.lock();
        let Some(Encoded { jpeg, raw }) = state.newest.take() else {
            return Err(state
                .failure
                .clone()
                .unwrap_or_else(|| CameraError::new(ErrorKind::Failed, "no picture is encoded yet")));
        };
        drop(state);
        let Taken { sequence, is_flagged, exposed_at } = raw;
        sink(RawFrame { data: &jpeg, sequence, is_flagged, exposed_at, captured_real: None });
        self.lock().spare = jpeg;
        Ok(())
    }
}

impl Readiness for Pictures {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if state.is_stopping {
                return Err(CameraError::new(ErrorKind::Failed, "the stream was stopped"));
            }
            if state.newest.is_some() {
                return Ok(true);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Ok(state.newest.is_some());
            }
        }
    }
}

/// What the thread works with.
struct Work {
    device: Shared,
    readiness: Arc<dyn Readiness>,
    layout: Layout,
    mode: Mode,
    pictures: Arc<Pictures>,
}

impl Work {
    fn run(self, quality: u8) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.encode_all(quality)));
        let error = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => CameraError::new(ErrorKind::Failed, "the thread that encodes had an internal error (a panic)"),
        };
        self.pictures.fail(error);
    }

    fn is_stopping(&self) -> bool {
        self.pictures.lock().is_stopping
    }

    fn encode_all(&self, quality: u8) -> Result<(), CameraError> {
        let mut encoder = JpegEncoder::new(self.layout, quality);
        let (mut pixels, mut jpeg) = (Vec::new(), Vec::new());
        let mut pace = Pace { began: Instant::now(), encoding: Duration::ZERO, encoded: 0, passed_over: 0 };
        while !self.is_stopping() {
            if !self.readiness.wait(TICK)? {
                continue;
            }
            let Some(mut raw) = self.take_newest(&mut pixels, &mut pace)? else { return Ok(()) };
            let began = Instant::now();
            if raw.is_flagged {
                jpeg.clear();
            } else {
                encoder.encode(&pixels, &mut jpeg);
            }
            pace.encoding += began.elapsed();
            pace.encoded += 1;
            // What was passed over is not lost by the driver.
            raw.sequence = raw.sequence.wrapping_sub(pace.passed_over);
            jpeg = self.pictures.publish(std::mem::take(&mut jpeg), raw);
            if pace.encoded == PACE_PICTURES {
                pace.report(self.mode);
            }
        }
        Ok(())
    }

    /// Copies the newest picture that the driver has, so that its buffer is free at once. `None` if the stream was stopped.
    fn take_newest(&self, pixels: &mut Vec<u8>, pace: &mut Pace) -> Result<Option<Taken>, CameraError> {
        let mut taken = None;
        for waiting in (0..=MOST_WAITING).rev() {
            let mut device = self.device.lock();
            if self.is_stopping() {
                return Ok(None);
            }
            let mut has_newer = false;
            device.take(&mut |raw| {
                has_newer = waiting > 0 && self.readiness.wait(Duration::ZERO).unwrap_or(false);
                if !has_newer {
                    pixels.clear();
                    pixels.extend_from_slice(raw.data);
                }
                taken = Some(Taken { sequence: raw.sequence, is_flagged: raw.is_flagged, exposed_at: raw.exposed_at });
            })?;
            if !has_newer {
                break;
            }
            pace.passed_over += 1;
        }
        Ok(taken)
    }
}

/// Whether the encoder keeps up with one stream.
struct Pace {
    began: Instant,
    encoding: Duration,
    encoded: u32,
    passed_over: u32,
}

impl Pace {
    fn report(&self, mode: Mode) {
        if self.passed_over * 10 <= self.encoded {
            return;
        }
        let millis = (self.encoding / self.encoded).as_millis();
        let rate = f64::from(self.encoded) / self.began.elapsed().as_secs_f64().max(0.001);
        warn!(
            "encoding takes {millis} ms for each picture of {mode}, longer than the camera: viewers get {rate:.1} frames per \
             second; a smaller --size, or a lower --fps, costs less"
        );
    }
}
