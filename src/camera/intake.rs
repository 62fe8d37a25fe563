//! From a driver's buffer to a picture, or to a counted reason why there is none. The live stream, stills and
//! `--check` all judge their buffers here, so that a camera's quirks are known in one place.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log::{debug, warn};

use super::RawFrame;
use super::settle::{Known, Rule, Settling};
use crate::frame::{FrameInfo, Size, Stamp};
use crate::jpeg::{self, Fault, Orientation, Picture};
use crate::system::os;
use crate::system::sync::{Mutex, rank};

/// After so many pictures of one unexpected size, that size is taken as the truth.
const UNEXPECTED_SIZE_LIMIT: u32 = 10;
/// So many sound pictures in a row that are flagged or lack EOI are this camera's way.
const CARELESS_LIMIT: u32 = 10;
/// A driver completes buffers out of order by at most so many; a number further back is a new count.
const REORDERED: u32 = 4;
/// A live stream that has delivered pictures for this time counts as settled.
pub const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// A driver may stamp a picture this long before its stream started, as its exposure began then.
const EARLIEST_STAMP: Duration = Duration::from_secs(1);

/// Totals of the camera since the start of the program. Each counts events, for `/state` and `/metrics`.
#[derive(Default)]
pub struct Counters {
    /// Whole pictures given to viewers.
    pub frames: AtomicU64,
    /// Buffers that the driver flagged as damaged.
    pub flagged: AtomicU64,
    /// Pictures of another size than the stream's, as after a switch.
    pub wrong_size: AtomicU64,
    /// Broken pictures by what was wrong with them, in the order of [`Fault::ALL`].
    pub broken: [AtomicU64; Fault::ALL.len()],
    /// Pictures that came without Huffman tables and were given the standard ones.
    pub dht_inserted: AtomicU64,
    /// Pictures without EOI that were given one, as this camera never sends it.
    pub eoi_appended: AtomicU64,
    /// Flagged pictures taken all the same, as this camera's are always flagged.
    pub flags_ignored: AtomicU64,
    /// Whole pictures that viewers did not get because of `--max-fps`.
    pub thinned: AtomicU64,
    /// Frames that were lost before they reached the program, by the driver's own numbering.
    pub lost_by_driver: AtomicU64,
    /// Streams restarted because no picture came.
    pub restarts: AtomicU64,
    /// Times the camera was opened.
    pub opens: AtomicU64,
    /// Times the camera could not be opened, or failed.
    pub failures: AtomicU64,
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let broken: u64 = self.broken.iter().map(value).sum();
        write!(
            f,
            "pictures={} lost={} flagged={} broken={broken} wrong_size={} restarts={}",
            value(&self.frames),
            value(&self.lost_by_driver),
            value(&self.flagged),
            value(&self.wrong_size),
            value(&self.restarts)
        )
    }
}

/// A whole picture in a driver's buffer, judged.
pub struct Accepted<'a> {
    /// The JPEG, ready to be copied.
    pub picture: Picture<'a>,
    /// What is known of it. The sequence number is not set.
    pub info: FrameInfo,
}

/// Why a driver's buffer gave no picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The driver flagged it as damaged.
    Flagged,
    /// The driver handed it out behind a later one.
    OutOfOrder,
    /// It holds no whole JPEG.
    Broken(Fault),
    /// It has another size than the stream, as pictures left over from before a switch have.
    WrongSize(Size),
}

/// What pictures have taught about a camera, for all that judge its pictures.
pub type SharedTraits = Arc<Mutex<Traits, { rank::LAST }>>;

/// What pictures have taught about a camera. It outlives its streams, so that each lesson costs pictures only once.
#[derive(Debug, Default)]
pub struct Traits {
    /// Sizes that the driver names, and what the camera sends then.
    sizes: Vec<(Size, Size)>,
    /// Sound pictures in a row that were flagged or lacked EOI.
    careless: u32,
    /// How its pictures are to be turned, where that is not left to the camera. Nothing changes it.
    pub orientation: Option<Orientation>,
}

impl Traits {
    /// Forgets what was learned: this is another camera.
    pub fn forget(&mut self) {
        *self = Self { orientation: self.orientation, ..Self::default() };
    }

    /// Size of the pictures that this camera sends where the driver says `said`.
    pub fn true_size(&self, said: Size) -> Size {
        self.sizes.iter().find(|(known, _)| *known == said).map_or(said, |(_, sent)| *sent)
    }
}

/// The check of one stream's buffers, from its start to its end.
pub struct Intake {
    traits: SharedTraits,
    /// What the driver says.
    said: Size,
    size: Size,
    /// CLOCK_MONOTONIC.
    started_at: Duration,
    driver_sequence: Option<u32>,
    /// The last time that the driver gave and that can be true.
    last_stamp: Duration,
    last_exposure: Duration,
    /// Pictures of this size may be left over from before a switch: it is never taken for the stream's.
    leftover: Option<Size>,
    unexpected: Option<(Size, u32)>,
    settling: Settling,
    is_settled: bool,
    /// A live stream counts as settled after a while, whatever its pictures look like.
    settles_by_itself: bool,
    first_exposure: Option<Duration>,
    position: u32,
    damaged: u32,
}

impl Intake {
    /// Begins with a stream whose pictures should have the size `said`. The stream before it had the size `leftover`, `rule`
    /// says when the picture has settled, and `known` is what is known of this camera's brightness.
    pub fn new(said: Size, leftover: Option<Size>, rule: Rule, known: Known, traits: SharedTraits) -> Self {
        let size = traits.lock().true_size(said);
        Self {
            traits,
            said,
            size,
            started_at: os::monotonic(),
            driver_sequence: None,
            last_stamp: Duration::ZERO,
            last_exposure: Duration::ZERO,
            leftover: leftover.filter(|leftover| *leftover != size && *leftover != said),
            unexpected: None,
            settling: Settling::new(rule, known),
            is_settled: false,
            settles_by_itself: false,
            first_exposure: None,
            position: 0,
            damaged: 0,
        }
    }

    /// The same for a live stream, which counts as settled after [`SETTLED_AFTER`].
    pub fn live(said: Size, leftover: Option<Size>, known: Known, traits: SharedTraits) -> Self {
        Self { settles_by_itself: true, ..Self::new(said, leftover, Rule::Auto, known, traits) }
    }

    /// Judges a buffer and counts the outcome.
    pub fn accept<'a>(&mut self, raw: &RawFrame<'a>, counters: &Counters) -> Result<Accepted<'a>, Rejected> {
        let judged = self.check(raw, counters);
        match &judged {
            Ok(Accepted { picture, .. }) => {
                let mended = [
                    (picture.dht_missing(), &counters.dht_inserted),
                    (picture.eoi_missing(), &counters.eoi_appended),
                    (raw.is_flagged, &counters.flags_ignored),
                ];
                mended.iter().filter(|(is_so, _)| *is_so).for_each(|(_, counter)| count(counter));
            }
            Err(Rejected::OutOfOrder) => {}
            Err(Rejected::Flagged) => count(&counters.flagged),
            Err(Rejected::WrongSize(_)) => count(&counters.wrong_size),
            Err(Rejected::Broken(fault)) => {
                let at = Fault::ALL.iter().position(|known| known == fault).unwrap_or(0);
                count(&counters.broken[at]);
                debug!("broken picture bytes={} reason=\"{fault}\"", raw.data.len());
            }
        }
        judged
    }

    fn check<'a>(&mut self, raw: &RawFrame<'a>, counters: &Counters) -> Result<Accepted<'a>, Rejected> {
        let is_in_order = self.follow(raw, counters);
        self.damaged += u32::from(raw.is_flagged);
        if !is_in_order {
            return Err(if raw.is_flagged { Rejected::Flagged } else { Rejected::OutOfOrder });
        }
        let picture = self.find_picture(raw)?;
        let size = Size::new(picture.width(), picture.height());
        if self.said == Size::UNKNOWN {
            self.size = size;
        }
        if size != self.size && !self.is_true_size(size) {
            return Err(Rejected::WrongSize(size));
        }
        let orientation = self.traits.lock().orientation;
        let picture = match orientation {
            Some(orientation) => picture.turned(orientation),
            None => picture,
        };
        let captured_at = self.stamp(raw.exposed_at);
        let captured_at = Stamp { real: raw.captured_real.unwrap_or(captured_at.real), ..captured_at };
        let age = captured_at.mono.saturating_sub(*self.first_exposure.get_or_insert(captured_at.mono));
        self.is_settled |= self.settles_by_itself && age >= SETTLED_AFTER;
        if !self.is_settled {
            self.is_settled = self.settling.look(captured_at.mono, picture.len(), || picture.mean_luma());
        }
        let info = FrameInfo { sequence: 0, captured_at, size, position: self.position, is_settled: self.is_settled };
        self.position = self.position.saturating_add(1);
        Ok(Accepted { picture, info })
    }

    /// Size of the stream's pictures: what the driver said, or what the camera has been sending instead.
    pub fn size(&self) -> Size {
        self.size
    }

    /// How the stream's picture has been settling.
    pub fn settling(&self) -> &Settling {
        &self.settling
    }

    /// Number of buffers so far that the driver flagged as damaged.
    pub fn damaged(&self) -> u32 {
        self.damaged
    }

    /// Number of whole pictures so far.
    pub fn pictures(&self) -> u32 {
        self.position
    }

    /// Follows the driver's numbering and counts what it lost. Returns `false` for a buffer behind a later one: uvcvideo
    /// completes buffers in several threads. Such a buffer has been counted as lost, and nobody wants to see time go
    /// back. After a failed transfer uvcvideo returns flagged buffers numbered 0, which say nothing about the order.
    fn follow(&mut self, raw: &RawFrame<'_>, counters: &Counters) -> bool {
        let last = self.driver_sequence.unwrap_or(raw.sequence);
        let is_behind = raw.sequence < last && (raw.is_flagged || last - raw.sequence <= REORDERED);
        if !is_behind {
            self.driver_sequence = Some(raw.sequence);
            let lost = raw.sequence.saturating_sub(last).saturating_sub(1);
            counters.lost_by_driver.fetch_add(lost.into(), Ordering::Relaxed);
        }
        !is_behind
    }

    /// The picture in a buffer. Some cameras never send EOI, or have every buffer flagged: where that has been so for some
    /// pictures, all of whose blocks decode, neither is a fault any more.
    fn find_picture<'a>(&self, raw: &RawFrame<'a>) -> Result<Picture<'a>, Rejected> {
        let found = jpeg::inspect(raw.data);
        let mut traits = self.traits.lock();
        let is_known_careless = traits.careless >= CARELESS_LIMIT;
        let (rejected, sound) = match found {
            _ if raw.is_flagged => {
                let found = found.or_else(|_| jpeg::inspect_without_eoi(raw.data)).ok();
                (Rejected::Flagged, found.filter(|picture| picture.decodes()))
            }
            Err(Fault::NoEnd) => (Rejected::Broken(Fault::NoEnd), jpeg::inspect_without_eoi(raw.data).ok()),
            found => {
                if !is_known_careless {
                    traits.careless = 0;
                }
                return found.map_err(Rejected::Broken);
            }
        };
        if is_known_careless {
            return sound.ok_or(rejected);
        }
        traits.careless = if sound.is_some() { traits.careless + 1 } else { 0 };
        if traits.careless < CARELESS_LIMIT {
            return Err(rejected);
        }
        warn!("the camera's pictures are whole, but flagged as damaged or without their end (EOI); taking them");
        sound.ok_or(rejected)
    }

    /// Whether a size that was not asked for is what this camera really sends, not left over from before a switch.
    fn is_true_size(&mut self, size: Size) -> bool {
        if self.leftover == Some(size) {
            return false;
        }
        let seen = match self.unexpected {
            Some((same, seen)) if same == size => seen + 1,
            _ => 1,
        };
        self.unexpected = Some((size, seen));
        // The driver may be right in the end.
        if seen < UNEXPECTED_SIZE_LIMIT && size != self.said {
            return false;
        }
        warn!("the camera says {} but sends {size}; taking that", self.said);
        self.size = size;
        let sizes = &mut self.traits.lock().sizes;
        sizes.retain(|(said, _)| *said != self.said);
        sizes.push((self.said, size));
        true
    }

    /// The driver's time of exposure, where it can be true; else the time now. Frames may be old, after SIGSTOP for example,
    /// but not older than their stream. Times of one stream never go back.
    fn stamp(&mut self, exposed_at: Option<Duration>) -> Stamp {
        let now = os::monotonic();
        let earliest = self.started_at.saturating_sub(EARLIEST_STAMP).max(self.last_stamp);
        let is_plausible = |at: &Duration| *at > earliest && *at <= now;
        let stamp = exposed_at.filter(is_plausible);
        self.last_stamp = stamp.unwrap_or(self.last_stamp);
        let mono = stamp.unwrap_or(now).max(self.last_exposure + Duration::from_micros(1)).min(now);
        self.last_exposure = mono;
        Stamp { mono, real: os::realtime().saturating_sub(now - mono) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake() -> Intake {
        Intake::new(Size::new(16, 16), None, Rule::Drop(0), Known::default(), Arc::default())
    }

    fn sequence_numbers(numbers: &[(u32, bool)]) -> (u64, Vec<bool>) {
        let counters = Counters::default();
        let mut intake = intake();
        let order = numbers.iter().map(|&(sequence, is_flagged)| {
            let raw = RawFrame { data: &[], sequence, is_flagged, exposed_at: None, captured_real: None };
            intake.follow(&raw, &counters)
        });
        let order = order.collect();
        (counters.lost_by_driver.load(Ordering::Relaxed), order)
    }

    #[test]
    fn lost_frames_are_counted_by_the_drivers_numbering() {
        let good = |numbers: &[u32]| numbers.iter().map(|number| (*number, false)).collect::<Vec<_>>();
        for (numbers, lost) in [
            (good(&[5, 6, 7]), 0),
            (good(&[0, 3, 4]), 2),
            // A stream that counts from 0 again.
            (good(&[90, 0, 1]), 0),
            // Handed out late: it has been counted as lost.
            (good(&[1, 3, 2, 4]), 1),
            // A flagged buffer takes its place in the order.
            (vec![(1, false), (2, true), (3, false)], 0),
            (vec![(1, false), (3, true), (4, false)], 1),
            (vec![(0, true), (1, false)], 0),
            // A failed transfer: all buffers come back flagged and numbered 0.
            (vec![(70, false), (0, true), (0, true), (71, false)], 0),
            (vec![(70, false), (0, true), (0, true), (74, false)], 3),
        ] {
            assert_eq!(sequence_numbers(&numbers).0, lost, "{numbers:?}");
        }
        assert_eq!(sequence_numbers(&good(&[1, 3, 2, 4])).1, [true, true, false, true]);
    }

    /// After SIGSTOP, or a control that hung, the driver's buffers are old, and their stamps are right all the same.
    #[test]
    fn old_frames_keep_their_time_and_one_wrong_stamp_does_not_stick() {
        let mut intake = intake();
        let now = os::monotonic();
        let ago = |millis: u64| now.saturating_sub(Duration::from_millis(millis));
        intake.started_at = ago(20_000);
        for (name, given, expected) in [
            ("6 s old", Some(ago(6_000)), Some(ago(6_000))),
            ("the next one", Some(ago(5_967)), Some(ago(5_967))),
            ("older than the stream", Some(ago(60_000)), None),
            ("after a wrong one, which was taken for now", Some(ago(5_900)), None),
            ("in the future", Some(now + Duration::from_secs(60)), None),
        ] {
            let stamp = intake.stamp(given).mono;
            match expected {
                Some(expected) => assert_eq!(stamp, expected, "{name}"),
                None => assert!(stamp >= now, "{name}: {stamp:?}"),
            }
        }
        // As soon as the driver's times have caught up they count again.
        std::thread::sleep(Duration::from_millis(20));
        let soon = os::monotonic() - Duration::from_millis(5);
        assert_eq!(intake.stamp(Some(soon)).mono, soon);
    }
}
