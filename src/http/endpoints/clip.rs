//! `/clip`: the replay as one file of JPEGs behind each other, as ffmpeg reads them (docs/recording.md).
//!
//! What is being sent stays in memory although the ring has moved on, so clips have a budget of their own, as large
//! as the ring's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::stream::end_of;
use crate::frame::Frame;
use crate::http::exchange::Exchange;
use crate::http::response::Response;
use crate::http::route::Query;
use crate::http::server::client::{ClientStats, EndReason};
use crate::http::server::connection::SendError;
use crate::hub::Hub;
use crate::hub::pace::parse_time;
use crate::hub::ring::SharedRing;

/// What is in the clip: its rate, and each frame's number, time, size and length.
pub fn index(ring: &SharedRing, query: &Query<'_>) -> Response {
    Clip::from_query(ring, query).map_or_else(|refusal| refusal, |clip| clip.index())
}

/// Sends the clip as a file; or returns the response that says why not.
pub fn respond(exchange: &Exchange<'_>, ring: &SharedRing, hub: &Hub, memory: &ClipMemory) -> Result<(), Response> {
    let query = &exchange.query;
    if query.get("format").is_some_and(|format| format != "mjpeg") {
        return Err(Response::text(400, "format is mjpeg or json; ffmpeg makes other videos of it"));
    }
    let clip = Clip::from_query(ring, query)?;
    let _room = memory.take(&clip).ok_or_else(|| Response::unavailable("other clips are being sent just now"))?;
    let permit = exchange.viewer("clip")?;
    let end = match clip.send(exchange, permit.stats()) {
        Ok(()) => EndReason::Done,
        Err(gone) => end_of(hub, permit.stats(), gone),
    };
    permit.leave(end);
    Ok(())
}

/// Some seconds of pictures; at least one.
pub struct Clip {
    frames: Vec<Arc<Frame>>,
}

impl Clip {
    /// The kept frames of the last so many seconds, or all of them. An error is the answer, if there are none.
    fn from_query(ring: &SharedRing, query: &Query<'_>) -> Result<Self, Response> {
        let last =
            query.get("last").map(|text| parse_time(&text)).transpose().map_err(|why| Response::text(400, why))?;
        let Some(frames) = ring.replay(last) else {
            return Err(Response::text(404, "no replay is kept; start framehub with --replay 20s"));
        };
        if frames.is_empty() {
            return Err(Response::unavailable("there are no pictures of that time: nobody was looking"));
        }
        Ok(Self { frames })
    }

    /// Length of the file.
    fn bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.jpeg().len()).sum()
    }

    /// Frames per second, in the mean.
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
        let frame = |frame: &Arc<Frame>| {
            json!({
                "seq": frame.sequence(),
                "time": frame.captured_at().real.as_secs_f64(),
                "width": frame.size().width,
                "height": frame.size().height,
                "bytes": frame.jpeg().len(),
            })
        };
        let frames: Vec<_> = self.frames.iter().map(frame).collect();
        Response::json(&json!({"fps": self.fps(), "bytes": self.bytes(), "frames": frames}))
    }

    fn send(self, exchange: &Exchange<'_>, stats: &ClientStats) -> Result<(), SendError> {
        let name = format!("clip-{}.mjpeg", file_time(self.first().captured_at().real));
        let response = Response::file("video/x-motion-jpeg", b"")
            .with("Cache-Control", "no-store")
            .with("Content-Disposition", format!("attachment; filename={name}"))
            .with("X-Frame-Rate", format!("{:.3}", self.fps()))
            .with("X-First-Frame-Seq", self.first().sequence().to_string())
            .with("X-Last-Frame-Seq", self.last().sequence().to_string());
        let response = exchange.add_common_headers(response);
        response.send_head(exchange.connection, &exchange.head.version, self.bytes())?;
        if exchange.is_head() {
            return Ok(());
        }
        for frame in self.frames {
            exchange.connection.send(frame.jpeg())?;
            stats.count(&frame, frame.jpeg().len());
        }
        Ok(())
    }

    /// Memory that it keeps from being used again.
    fn memory(&self) -> usize {
        self.frames.iter().map(|frame| frame.memory()).sum()
    }
}

/// How much memory the clips that are being sent may hold.
pub struct ClipMemory {
    limit: usize,
    used: AtomicUsize,
}

impl ClipMemory {
    /// So many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Room for this clip, until it is dropped; one clip is always taken.
    pub fn take(&self, clip: &Clip) -> Option<ClipRoom<'_>> {
        let bytes = clip.memory();
        let more = |used: usize| (used == 0 || used + bytes <= self.limit).then_some(used + bytes);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(ClipRoom { memory: self, bytes })
    }
}

/// See [`ClipMemory::take`].
pub struct ClipRoom<'a> {
    memory: &'a ClipMemory,
    bytes: usize,
}

impl Drop for ClipRoom<'_> {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// UTC as `20251120T233205Z`, which sorts.
fn file_time(real: Duration) -> String {
    let (days, second) = (real.as_secs() / 86_400, real.as_secs() % 86_400);
    // Days to a date, by eras of 400 years that begin in March (Howard Hinnant, "chrono-compatible algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::test_frame;

    fn clip(frames: u64) -> Clip {
        let frames = (1..=frames).map(|number| test_frame(number, Duration::from_millis(number * 40), 1000));
        Clip { frames: frames.collect() }
    }

    #[test]
    fn rates_and_lengths() {
        assert!((clip(101).fps() - 25.0).abs() < 1e-9);
        assert_eq!((clip(101).bytes(), clip(1).fps()), (101_000, 1.0));
    }

    #[test]
    fn clips_share_their_memory_and_give_it_back() {
        let clip = clip(10);
        let memory = ClipMemory::new(clip.memory() * 2 + 1);
        let first = memory.take(&clip);
        let second = memory.take(&clip);
        assert!(first.is_some() && second.is_some() && memory.take(&clip).is_none());
        drop(first);
        assert!(memory.take(&clip).is_some());
        assert!(ClipMemory::new(1).take(&clip).is_some(), "a first one is always taken");
    }

    #[test]
    fn file_times() {
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
