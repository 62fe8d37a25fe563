//! When a picture is right: after a start or a switch, the first frames of real cameras are dark, blown out, green or half
//! exposed, for a time that no fixed count fits (users of mjpg-streamer and MJPGServer found anything from 0 to 25).
//!
//! Pure: it is shown the time of exposure, the size in bytes and the mean luma of one picture after the other.
//! docs/settling.md has a table of exposure curves and what this rule makes of them.

use std::str::FromStr;
use std::time::Duration;

/// How long pictures have to agree.
const STEADY_FOR: Duration = Duration::from_millis(400);
/// How long they have to agree where they are far from what is known of this camera.
const STEADY_FOR_UNLIKELY: Duration = Duration::from_millis(1200);
/// How far from what is known is "far", as a part of it.
const UNLIKELY: f32 = 0.25;
/// At least so many pictures have to agree, or one less where they come slowly.
const STEADY_PICTURES: usize = 4;
/// The period above which pictures come slowly.
const SLOW_PERIOD: Duration = Duration::from_millis(150);
/// How much sizes in bytes may differ, as a part of the largest.
const BYTES_SPREAD: f32 = 0.15;
/// How much the mean luma may differ, in levels of 255, or as a part of it.
const LUMA_SPREAD: (f32, f32) = (6.0, 0.08);
/// How far the mean luma may move over the pictures that have to agree, by their trend. In levels, or as a part.
const LUMA_TREND: (f32, f32) = (2.1, 0.031);
/// How close to a recent live picture's luma a still's is right at once, as a part of it.
const NEAR: f32 = 0.10;
/// A darker picture than this is never settled, where nothing is known of this camera.
const LUMA_FLOOR: f32 = 24.0;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Until the picture is steady, and not darker than is known of this camera.
    Auto,
    /// Until so many pictures were dropped (MJPGServer's `stabPicCount`), whatever they look like.
    Drop(u32),
}

impl Rule {
    /// The rule whose pictures will do for both.
    pub fn stricter(self, other: Self) -> Self {
        if self.satisfies(other) { self } else { other }
    }

    /// Whether a picture that was taken under this rule will do for a request under `asked`.
    pub fn satisfies(self, asked: Self) -> bool {
        match (self, asked) {
            (Self::Drop(dropped), Self::Drop(wanted)) => dropped >= wanted,
            (Self::Auto, _) => true,
            (Self::Drop(_), Self::Auto) => false,
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            count => match count.parse() {
                Ok(count @ 0..=1000) => Ok(Self::Drop(count)),
                _ => Err("invalid rule: expected auto, or a number of pictures from 0 to 1000".into()),
            },
        }
    }
}

/// What is known of a camera's brightness before its stream starts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Known {
    /// Mean luma of a settled live picture that is less than 3 s old.
    pub live: Option<f32>,
    /// Mean luma of the last settled picture, however old.
    pub learned: Option<f32>,
}

impl Known {
    /// The brightness of live by a picture of this mean luma. A stream that `is_young` may have been taken for settled on its
    /// way: where that is near what was learned before, the way led there.
    pub fn live(luma: f32, is_young: bool, learned: Option<f32>) -> f32 {
        let is_near = |known: &f32| (luma - known).abs() <= known * UNLIKELY;
        learned.filter(|known| is_young && is_near(known)).unwrap_or(luma)
    }
}

/// The pictures since the start of a stream, as far as they matter.
#[derive(Debug)]
pub struct Settling {
    rule: Rule,
    known: Known,
    /// The newest pictures that may have to agree.
    last: Vec<Seen>,
    seen: u32,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    bytes: f32,
    /// `None` where it cannot be told (progressive JPEG).
    luma: Option<f32>,
}

impl Settling {
    /// Begins with a stream of a camera of which so much is known.
    pub fn new(rule: Rule, known: Known) -> Self {
        Self { rule, known, last: Vec::new(), seen: 0 }
    }

    /// Looks at the next picture, exposed `at` (CLOCK_MONOTONIC). Returns `true` if it is the one to take. `luma` is only
    /// asked for where the rule needs it; a picture whose luma cannot be told is judged by its size alone.
    pub fn look(&mut self, at: Duration, bytes: usize, luma: impl FnOnce() -> Option<f32>) -> bool {
        self.seen = self.seen.saturating_add(1);
        if let Rule::Drop(count) = self.rule {
            return self.seen > count;
        }
        self.last.push(Seen { at, bytes: bytes as f32, luma: luma() });
        self.forget();
        self.is_like_live() || self.is_steady()
    }

    /// Mean luma of the newest picture, where it was measured.
    pub fn luma(&self) -> Option<f32> {
        self.last.last().and_then(|picture| picture.luma)
    }

    /// Forgets the pictures that are too old to matter.
    fn forget(&mut self) {
        let Some(newest) = self.last.last().map(|picture| picture.at) else { return };
        let is_old = |picture: &Seen| newest.saturating_sub(picture.at) > STEADY_FOR_UNLIKELY;
        let old = self.last.iter().take_while(|picture| is_old(picture)).count();
        // The last of the old ones may begin a run that is long enough, and a run has so many pictures.
        let surplus = old.saturating_sub(1).min(self.last.len().saturating_sub(STEADY_PICTURES));
        self.last.drain(..surplus);
    }

    /// Whether this is the second or a later picture, as bright as live was a moment ago, and as sharp as the one before:
    /// a focus that hunts after the switch shows in the size.
    fn is_like_live(&self) -> bool {
        let (Some(live), [.., before, newest]) = (self.known.live, self.last.as_slice()) else { return false };
        newest.luma.is_some_and(|luma| (luma - live).abs() <= live * NEAR) && is_level(&[*before, *newest])
    }

    /// Whether the pictures have agreed for long enough, without a trend, and are not too dark.
    fn is_steady(&self) -> bool {
        let all = &self.last;
        let Some(newest) = all.last() else { return false };
        let period = all.len().checked_sub(2).map_or(Duration::ZERO, |at| newest.at.saturating_sub(all[at].at));
        let fewest = if period > SLOW_PERIOD { STEADY_PICTURES - 1 } else { STEADY_PICTURES };
        let time =
            if newest.luma.is_some_and(|luma| self.is_unlikely(luma)) { STEADY_FOR_UNLIKELY } else { STEADY_FOR };
        // The shortest run of pictures that is long enough.
        let long_enough = |from: &usize| all.len() - from >= fewest && newest.at.saturating_sub(all[*from].at) >= time;
        let Some(from) = (0..all.len()).rev().find(long_enough) else { return false };
        let run = &all[from..];
        is_level(run)
            && !has_trend(run)
            && run.iter().all(|picture| picture.luma.is_none_or(|luma| luma >= self.floor()))
    }

    fn is_unlikely(&self, luma: f32) -> bool {
        self.known.live.or(self.known.learned).is_some_and(|known| (luma - known).abs() > known * UNLIKELY)
    }

    /// Mean luma below which nothing is settled.
    fn floor(&self) -> f32 {
        self.known.live.or(self.known.learned).map_or(LUMA_FLOOR, |known| known / 2.0)
    }
}

/// Whether pictures are alike in size and brightness.
fn is_level(run: &[Seen]) -> bool {
    let (fewest, most) = extremes(run.iter().map(|picture| picture.bytes));
    let (darkest, brightest) = extremes(run.iter().filter_map(|picture| picture.luma));
    most - fewest <= most * BYTES_SPREAD && brightest - darkest <= LUMA_SPREAD.0.max(brightest * LUMA_SPREAD.1)
}

/// The smallest and the largest; of no values, such that their difference is below all others.
fn extremes(values: impl Iterator<Item = f32>) -> (f32, f32) {
    values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// Whether these pictures become brighter or darker: a slow ramp is steady over any short time, but it goes somewhere.
/// The line through them that fits best (least squares) must be level, so that flicker alone is no trend.
fn has_trend(run: &[Seen]) -> bool {
    let Some(start) = run.first().map(|picture| picture.at) else { return false };
    let points = || run.iter().filter_map(|picture| Some(((picture.at - start).as_secs_f32(), picture.luma?)));
    let count = points().count().max(1) as f32;
    let mean = |pick: fn((f32, f32)) -> f32| points().map(pick).sum::<f32>() / count;
    let (mean_time, mean_luma) = (mean(|point| point.0), mean(|point| point.1));
    let variance: f32 = points().map(|(time, _)| (time - mean_time).powi(2)).sum();
    let covariance: f32 = points().map(|(time, luma)| (time - mean_time) * (luma - mean_luma)).sum();
    let time = run.last().map_or(0.0, |picture| (picture.at - start).as_secs_f32());
    let change = if variance > 0.0 { covariance / variance * time } else { 0.0 };
    change.abs() > LUMA_TREND.0.max(mean_luma * LUMA_TREND.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DARK: Known = Known { live: None, learned: None };

    /// At which picture (from 1) of a 30 fps stream it settles; 0 if it does not.
    fn settles(rule: Rule, known: Known, pictures: &[(usize, f32)]) -> usize {
        let mut settling = Settling::new(rule, known);
        let at = |number: usize| Duration::from_millis(number as u64 * 1000 / 30);
        let look = |(number, (bytes, luma)): (usize, &(usize, f32))| settling.look(at(number), *bytes, || Some(*luma));
        pictures.iter().enumerate().map(look).position(|is_settled| is_settled).map_or(0, |at| at + 1)
    }

    #[test]
    fn settles_when_steady_for_long_enough_and_bright_enough() {
        let steady = [(40_000, 120.0); 60];
        let dark = [(9_000, 12.0); 60];
        let learned = |luma| Known { live: None, learned: Some(luma) };
        let live = |luma| Known { live: Some(luma), learned: None };
        for (known, pictures, at) in [
            (DARK, &steady, 13),
            (learned(130.0), &steady, 13),
            // Far from what is known: it has to be steady for longer.
            (learned(200.0), &steady, 37),
            (learned(250.0), &steady, 0),
            (DARK, &dark, 0),
            (learned(13.0), &dark, 13),
            // As bright as live a moment ago: the second picture.
            (live(125.0), &steady, 2),
            (live(140.0), &steady, 13),
        ] {
            assert_eq!(settles(Rule::Auto, known, pictures), at, "{known:?}");
        }
        let dark_then_bright = [&[(9_000, 12.0); 15][..], &[(40_000, 120.0); 30]].concat();
        assert_eq!(settles(Rule::Auto, DARK, &dark_then_bright), 28);
        assert_eq!(settles(Rule::Auto, live(120.0), &dark_then_bright), 17);
        let flicker: Vec<_> = (0..150).map(|i| (40_000, if i % 2 == 0 { 100.0 } else { 140.0 })).collect();
        assert_eq!(settles(Rule::Auto, DARK, &flicker), 0);
        let hunting: Vec<_> = (0..30).map(|i| (if i % 6 < 3 { 30_000 } else { 40_000 }, 120.0)).collect();
        assert!(settles(Rule::Auto, live(120.0), &hunting) <= 2, "two pictures alike are enough beside live");
        assert_eq!(settles(Rule::Auto, DARK, &hunting), 0, "sharpness still changes");
    }

    /// Stills in a row, in the lab: live was taken for settled at 119 of 127, and 112 is near that.
    #[test]
    fn a_live_stream_that_has_just_settled_does_not_lower_what_is_known() {
        for (luma, is_young, learned, live) in [
            (119.0, true, Some(127.0), 127.0),
            (119.0, false, Some(127.0), 119.0),
            (119.0, true, None, 119.0),
            // The light has changed.
            (80.0, true, Some(127.0), 80.0),
        ] {
            assert_eq!(Known::live(luma, is_young, learned), live, "{luma} {is_young} {learned:?}");
        }
    }

    #[test]
    fn slow_cameras_need_three_pictures_and_others_the_time_of_four() {
        let at = |period: u64, first: (usize, f32)| {
            let mut settling = Settling::new(Rule::Auto, DARK);
            let look = |number: u64| {
                let (bytes, luma) = if number == 0 { first } else { (40_000, 120.0) };
                settling.look(Duration::from_millis(5000 + number * period), bytes, || Some(luma))
            };
            (0..60).position(look).map_or(0, |at| at + 1)
        };
        for (period, dark_first, expected) in [
            (33, false, 14),
            (100, false, 5),
            (140, false, 4),
            (150, false, 4),
            (200, false, 3),
            (1000, false, 3),
            (500, true, 4),
        ] {
            let first = if dark_first { (9_000, 12.0) } else { (40_000, 120.0) };
            assert_eq!(at(period, first), expected, "every {period} ms");
        }
        let unlikely = Known { live: None, learned: Some(160.0) };
        assert_eq!(settles(Rule::Auto, unlikely, &[(40_000, 120.0); 60]), 13, "a quarter is not far");
    }

    #[test]
    fn old_pictures_are_forgotten_and_the_newest_luma_is_known() {
        let mut settling = Settling::new(Rule::Auto, DARK);
        assert_eq!(settling.luma(), None);
        for number in 0..1000 {
            let luma = [60.0, 180.0][number % 2];
            assert!(!settling.look(Duration::from_millis(number as u64 * 33), 40_000, || Some(luma)));
            assert_eq!(settling.luma(), Some(luma));
            assert!(settling.last.len() <= 40, "{} pictures are kept", settling.last.len());
        }
    }

    /// Any ramp is steady over three pictures if it is slow enough.
    #[test]
    fn a_slow_ramp_has_not_settled() {
        let ramp = |per_second: f32| -> Vec<_> {
            (0..150).map(|i| (40_000, (30.0 + per_second * i as f32 / 30.0).min(120.0))).collect()
        };
        for per_second in [20.0_f32, 40.0, 60.0, 90.0] {
            let top = (90.0 / per_second * 30.0) as usize;
            let at = settles(Rule::Auto, DARK, &ramp(per_second));
            assert!(at >= top && at <= top + 14, "{per_second} levels a second: at picture {at}, top at {top}");
        }
    }

    #[test]
    fn a_fixed_count_drops_that_many() {
        let dark = [(9_000, 12.0); 5];
        assert_eq!(settles(Rule::Drop(0), DARK, &dark), 1);
        assert_eq!(settles(Rule::Drop(3), DARK, &dark), 4);
    }

    #[test]
    fn a_picture_is_shared_only_by_requests_that_it_satisfies() {
        for (taken, asked, is_enough) in [
            (Rule::Auto, Rule::Auto, true),
            (Rule::Auto, Rule::Drop(9), true),
            (Rule::Drop(0), Rule::Auto, false),
            (Rule::Drop(0), Rule::Drop(0), true),
            (Rule::Drop(0), Rule::Drop(1), false),
            (Rule::Drop(5), Rule::Drop(1), true),
        ] {
            assert_eq!(taken.satisfies(asked), is_enough, "{taken:?} for {asked:?}");
        }
    }

    /// An exposure that goes from one brightness to another, in virtual time.
    struct Curve {
        from: f32,
        to: f32,
        is_linear: bool,
        /// Time constant, or the time of a linear ramp, in s.
        time: f32,
        fps: f32,
        /// Mains flicker and a moving head, in levels.
        noise: f32,
    }

    impl Curve {
        fn luma(&self, seconds: f32) -> f32 {
            let left = if self.is_linear { (1.0 - seconds / self.time).max(0.0) } else { (-seconds / self.time).exp() };
            // 100 Hz seen at the camera's rate, and something that goes to and fro once in 1.7 s.
            let flicker = (seconds * 100.0 * std::f32::consts::TAU).sin() * 0.6;
            let head = (seconds / 1.7 * std::f32::consts::TAU).sin() * 0.4;
            (self.to + (self.from - self.to) * left + self.noise * (flicker + head)).clamp(0.0, 255.0)
        }

        /// The luma of the picture taken within 5 s, whether it had settled, and the wait beyond that of somebody that knows
        /// the final brightness, in s.
        fn still(&self, known: Known) -> (f32, bool, f32) {
            let mut settling = Settling::new(Rule::Auto, known);
            let mut oracle = None;
            let mut number = 0.0;
            loop {
                number += 1.0;
                let seconds = number / self.fps;
                let luma = self.luma(seconds);
                if (luma - self.to).abs() <= self.to * 0.1 {
                    oracle = oracle.or(Some(seconds));
                }
                let bytes = (20_000.0 + 100.0 * luma) as usize;
                let is_settled = settling.look(Duration::from_secs_f32(seconds), bytes, || Some(luma));
                if is_settled || seconds + 1.0 / self.fps > 5.0 {
                    return (luma, is_settled, seconds - oracle.unwrap_or(seconds));
                }
            }
        }
    }

    /// The matrix of docs/settling.md, which is printed here: `cargo test settling_matrix -- --nocapture`.
    #[test]
    fn settling_matrix() {
        let mut table = String::from(
            "| curve | fps | right or said not to be | median extra wait | worst settled error |\n|---|---|---|---|---|\n",
        );
        let (mut all_good, mut all_stills, mut all_waits) = (0, 0, Vec::new());
        for (name, from, is_linear) in [
            ("exponential from dark", 5.0, false),
            ("exponential from bright", 250.0, false),
            ("linear from dark", 5.0, true),
            ("linear from bright", 250.0, true),
        ] {
            for fps in [30.0, 15.0, 7.5, 1.0] {
                let (mut good, mut stills, mut waits, mut worst) = (0, 0, Vec::new(), 0f32);
                for time in [0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5] {
                    for noise in [0.0, 1.5, 3.0] {
                        for to in [70.0, 120.0, 160.0] {
                            for known in [
                                DARK,
                                Known { live: Some(to), learned: Some(to) },
                                Known { live: None, learned: Some(to) },
                            ] {
                                let curve = Curve { from, to, is_linear, time, fps, noise };
                                let (luma, is_settled, wait) = curve.still(known);
                                let error = (luma - to).abs() / to;
                                good += usize::from(error <= 0.1 || !is_settled);
                                stills += 1;
                                waits.push(wait);
                                if is_settled {
                                    worst = worst.max(error);
                                }
                            }
                        }
                    }
                }
                waits.sort_by(f32::total_cmp);
                let median = waits[waits.len() / 2];
                table += &format!("| {name} | {fps} | {good} of {stills} | {median:.2} s | {:.0} % |\n", worst * 100.0);
                (all_good, all_stills) = (all_good + good, all_stills + stills);
                all_waits.extend(waits);
            }
        }
        all_waits.sort_by(f32::total_cmp);
        let median = all_waits[all_waits.len() / 2];
        table += &format!("| all | | {all_good} of {all_stills} | {median:.2} s | |\n");
        println!("{table}");
        assert!(include_str!("../../docs/settling.md").contains(&table), "docs/settling.md has another table");
        assert!(all_good * 100 >= all_stills * 95, "{all_good} of {all_stills}");
        assert!(median < 0.5, "{median} s");
    }
}
