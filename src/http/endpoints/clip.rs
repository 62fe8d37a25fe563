//! `/clip`: the replay as one file: JPEGs one after the other, which ffmpeg reads (docs/recording.md), or an AVI, which
//! players open.
//!
//! Frames that are being sent stay in memory although the ring has moved on. Clips therefore have their
//! own memory limit, as large as the ring's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::json;

use super::avi::{self, Avi};
use crate::frame::Frame;
use crate::http::exchange::Exchange;
use crate::http::response::{Response, with_capture};
use crate::http::route::Query;
use crate::http::server::client::{ClientStats, EndReason};
use crate::http::server::connection::SendError;
use crate::http::server::memory::{Block, Memory};
use crate::hub::Hub;
use crate::hub::pace::parse_time;
use crate::hub::ring::SharedRing;

/// The mode of a client that is sent a clip.
const MODE: &str = "clip";
/// A whole clip is sent within this time, and a second more for each [`LEAST_RATE`] bytes.
const PATIENCE: Duration = Duration::from_secs(30);
const LEAST_RATE: u64 = 32 * 1024;
/// A client that reads fewer bytes a second is evicted when another client's clip needs the memory.
const SLOW: u64 = 256 * 1024;

/// Describes the clip: its rate, and the number, time, size and length of each frame. `camera` is the camera's name.
pub fn index(ring: &SharedRing, query: &Query<'_>, camera: String) -> Response {
    Clip::from_query(ring, query, camera).map_or_else(|refusal| refusal, |clip| clip.index())
}

/// Sends the clip as a file. `camera` is the camera's name.
///
/// # Errors
/// The response that says why there is none.
pub fn respond(
    exchange: &Exchange<'_>,
    ring: &SharedRing,
    hub: &Hub,
    memory: &ClipMemory,
    camera: String,
) -> Result<(), Response> {
    let query = &exchange.query;
    let is_avi = match query.get("format").as_deref() {
        None | Some("mjpeg") => false,
        Some("avi") => true,
        Some(other) => {
            return Err(Response::text(400, format!("invalid format \"{other}\": expected mjpeg, avi or json")));
        }
    };
    let clip = Clip::from_query(ring, query, camera)?;
    let full = || Response::unavailable("too many clips are being sent: try again when one of them has ended");
    let shares = loop {
        match memory.take(&clip) {
            Some(shares) => break shares,
            None if exchange.permit.evict_slow_viewer(MODE, SLOW) => {}
            None => return Err(full()),
        }
    };
    let viewer = exchange.viewer(MODE)?;
    let lengths = clip.lengths();
    let container = Avi { lengths: &lengths, size: clip.first().size(), period: clip.period() };
    if is_avi && container.length().is_none() {
        return Err(Response::text(
            400,
            "more than the 4 GiB of an AVI: ask for less with last=, or leave out format=",
        ));
    }
    let end = match clip.send(exchange, viewer.stats(), &container, is_avi, shares) {
        Ok(()) => EndReason::Done,
        Err(_) if hub.is_closed() => EndReason::ServerStops,
        Err(error) => error.into(),
    };
    viewer.leave(end);
    Ok(())
}

/// Consecutive frames; at least one.
struct Clip {
    frames: Vec<Arc<Frame>>,
    camera: String,
}

impl Clip {
    /// Takes the frames of the last `last` seconds, or all that are kept. The error is the response for having none.
    fn from_query(ring: &SharedRing, query: &Query<'_>, camera: String) -> Result<Self, Response> {
        let last =
            query.get("last").map(|text| parse_time(&text)).transpose().map_err(|why| Response::text(400, why))?;
        let Some(frames) = ring.replay(last) else {
            return Err(Response::text(404, "no replay is kept: start framehub with --replay 20s"));
        };
        if frames.is_empty() {
            return Err(Response::unavailable("no pictures from that time: nobody was watching"));
        }
        Ok(Self { frames, camera })
    }

    /// What replaces the beginning of a frame's JPEG so that it says when it was taken, and where it goes on behind it.
    fn beginning(&self, frame: &Frame) -> (Vec<u8>, usize) {
        with_capture(frame, &self.camera)
    }

    /// The length of each picture in the file.
    fn lengths(&self) -> Vec<u32> {
        let length = |frame: &Arc<Frame>| {
            let (beginning, rest) = self.beginning(frame);
            (beginning.len() + frame.jpeg().len() - rest) as u32
        };
        self.frames.iter().map(length).collect()
    }

    /// The average time between two frames in microseconds; a second for a single frame.
    fn period(&self) -> u32 {
        (1e6 / self.fps()).round() as u32
    }

    /// The average number of frames per second.
    fn fps(&self) -> f64 {
        let span = self.last().captured_at().mono.saturating_sub(self.first().captured_at().mono).as_secs_f64();
        match self.frames.len() {
            1 => 1.0,
            frames => (frames - 1) as f64 / span.max(1e-3),
        }
    }

    fn first(&self) -> &Frame {
        &self.frames[0]
    }

    fn last(&self) -> &Frame {
        &self.frames[self.frames.len() - 1]
    }

    fn index(&self) -> Response {
        let lengths = self.lengths();
        let bytes: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
        let frame = |(frame, length): (&Arc<Frame>, &u32)| {
            json!({
                "seq": frame.sequence(),
                "time": frame.captured_at().real.as_secs_f64(),
                "width": frame.size().width,
                "height": frame.size().height,
                "bytes": length,
            })
        };
        let frames: Vec<_> = self.frames.iter().zip(&lengths).map(frame).collect();
        Response::json(&json!({"fps": self.fps(), "bytes": bytes, "frames": frames}))
    }

    fn send(
        mut self,
        exchange: &Exchange<'_>,
        stats: &ClientStats,
        container: &Avi<'_>,
        is_avi: bool,
        shares: Vec<Share<'_>>,
    ) -> Result<(), SendError> {
        let (media_type, ending, length) = match container.length().filter(|_| is_avi) {
            Some(length) => ("video/x-msvideo", "avi", length as usize),
            None => ("video/x-motion-jpeg", "mjpeg", container.lengths.iter().map(|length| *length as usize).sum()),
        };
        let name = format!("clip-{}.{ending}", file_time(self.first().captured_at().real));
        let response = Response::file(media_type, b"")
            .with("Cache-Control", "no-store")
            .with("Content-Disposition", format!("attachment; filename={name}"))
            .with("X-Frame-Rate", format!("{:.3}", self.fps()))
            .with("X-First-Frame-Seq", self.first().sequence().to_string())
            .with("X-Last-Frame-Seq", self.last().sequence().to_string());
        let response = exchange.add_common_headers(response);
        response.send_head(exchange.connection, &exchange.head.version, length)?;
        if exchange.is_head() {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(length as u64 / LEAST_RATE);
        // What comes before the next picture.
        let mut before = if is_avi { container.head() } else { vec![] };
        let frames = std::mem::take(&mut self.frames).into_iter().zip(shares);
        for ((frame, share), length) in frames.zip(container.lengths) {
            if is_avi {
                before.extend_from_slice(&avi::picture(*length));
            }
            let (beginning, rest) = self.beginning(&frame);
            before.extend_from_slice(&beginning);
            let rest = &frame.jpeg()[rest..];
            exchange.connection.send_both(&before, rest)?;
            stats.count(&frame, before.len() + rest.len());
            drop((frame, share));
            if Instant::now() > deadline {
                return Err(SendError::TooSlow);
            }
            before.clear();
            before.resize(if is_avi { (*length % 2) as usize } else { 0 }, 0);
        }
        if is_avi {
            before.extend(container.index());
            exchange.connection.send(&before)?;
        }
        Ok(())
    }
}

/// Limits the memory of all clips that are being sent. A frame that several of them share counts once.
pub struct ClipMemory(Mutex<Memory>);

impl ClipMemory {
    /// Allows `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Mutex::new(Memory::new(limit)))
    }

    /// Reserves the memory of this clip, a share for each frame; `None` if others use too much. A clip by itself may exceed
    /// the limit.
    fn take(&self, clip: &Clip) -> Option<Vec<Share<'_>>> {
        let blocks: Vec<Block> = clip.frames.iter().map(|frame| Block::from(&**frame)).collect();
        self.0.lock().take(&blocks).then(|| blocks.into_iter().map(|block| Share { memory: self, block }).collect())
    }
}

/// The memory of one frame, given back on drop.
struct Share<'a> {
    memory: &'a ClipMemory,
    block: Block,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.memory.0.lock().give(self.block);
    }
}

/// UTC as `20251120T233205Z`, so that files sort by time.
fn file_time(real: Duration) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // httpdate knows the calendar: "Thu, 20 Nov 2025 23:32:05 GMT".
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + real);
    let month = MONTHS.find(&date[8..11]).map_or(0, |at| at / 3 + 1);
    format!("{}{month:02}{}T{}Z", &date[12..16], &date[5..7], date[17..25].replace(':', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::test_frame;

    fn clip(frames: u64) -> Clip {
        let frames = (1..=frames).map(|number| test_frame(number, Duration::from_millis(number * 40), 1000));
        Clip { frames: frames.collect(), camera: String::new() }
    }

    #[test]
    fn a_clip_has_a_rate_and_a_length() {
        assert!((clip(101).fps() - 25.0).abs() < 1e-9);
        assert_eq!((clip(101).lengths(), clip(1).fps()), (vec![1000; 101], 1.0));
        assert_eq!((clip(101).period(), clip(1).period()), (40_000, 1_000_000));
    }

    #[test]
    fn clips_share_the_memory_and_give_it_back() {
        let (first, second, third) = (clip(10), clip(10), clip(10));
        let bytes: usize = first.frames.iter().map(|frame| frame.memory()).sum();
        let memory = ClipMemory::new(bytes * 2 + 1);
        let shares = [memory.take(&first).unwrap(), memory.take(&second).unwrap()];
        assert!(memory.take(&first).is_some(), "the same frames once more");
        assert!(memory.take(&third).is_none());
        let [mut shares, other] = shares;
        shares.truncate(5);
        assert!(memory.take(&third).is_none());
        shares.clear();
        assert!(memory.take(&third).is_some());
        drop(other);
        assert!(ClipMemory::new(1).take(&third).is_some(), "a clip by itself is always allowed");
    }

    #[test]
    fn file_names_have_the_date_in_utc() {
        for (seconds, name) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_763_681_525, "20251120T233205Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(file_time(Duration::from_secs(seconds)), name);
        }
    }
}
