//! When a picture is right: after a start or a switch, the first frames of real cameras are dark, green or half
//! exposed, for a time that no fixed count fits (mjpg-streamer and MJPGServer users found anything from 0 to 25).
//!
//! Pure: it is shown the size in bytes and the mean luma of one picture after the other.

use std::str::FromStr;

/// Pictures that have to agree.
const STEADY: usize = 3;
/// How much sizes in bytes may differ, as a part of the largest.
const BYTES_SPREAD: f32 = 0.15;
/// How much the mean luma may differ, in levels of 255.
const LUMA_SPREAD: f32 = 6.0;
/// Darker than this is no picture, where nothing better is known.
const LUMA_FLOOR: f32 = 24.0;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Steady over three pictures, and not darker than is known of this camera.
    Auto,
    /// So many pictures are dropped (MJPGServer's `stabPicCount`).
    Drop(u32),
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            count => match count.parse() {
                Ok(count @ 0..=1000) => Ok(Self::Drop(count)),
                _ => Err(format!("\"{text}\" is no rule; give auto, or a number of pictures to drop, 0 to 1000")),
            },
        }
    }
}

/// The pictures since the start, as far as they matter.
#[derive(Debug)]
pub struct Settling {
    rule: Rule,
    /// Mean luma below which nothing is settled.
    darkest: f32,
    last: Vec<(f32, f32)>,
    seen: u32,
}

impl Settling {
    /// Starts anew. `known` is the mean luma of this camera's last right picture.
    pub fn new(rule: Rule, known: Option<f32>) -> Self {
        Self { rule, darkest: known.map_or(LUMA_FLOOR, |luma| luma / 2.0), last: Vec::new(), seen: 0 }
    }

    /// Looks at the next picture; `true` if it is right. `luma` is only asked for where the rule needs it; a
    /// picture whose luma cannot be told (progressive JPEG) is judged by its size alone.
    pub fn look(&mut self, bytes: usize, luma: impl FnOnce() -> Option<f32>) -> bool {
        self.seen += 1;
        if let Rule::Drop(count) = self.rule {
            return self.seen > count;
        }
        if self.last.len() == STEADY {
            self.last.remove(0);
        }
        self.last.push((bytes as f32, luma().unwrap_or(255.0)));
        let spread = |pick: fn(&(f32, f32)) -> f32| {
            let values = self.last.iter().map(pick);
            let (low, high) = values.fold((f32::MAX, 0f32), |(low, high), value| (low.min(value), high.max(value)));
            (high - low, low, high)
        };
        let (bytes_spread, _, most_bytes) = spread(|picture| picture.0);
        let (luma_spread, darkest, _) = spread(|picture| picture.1);
        self.last.len() == STEADY
            && bytes_spread <= most_bytes * BYTES_SPREAD
            && luma_spread <= LUMA_SPREAD
            && darkest >= self.darkest
    }

    /// Pictures looked at.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Mean luma of the newest picture, where it was measured.
    pub fn luma(&self) -> Option<f32> {
        self.last.last().map(|picture| picture.1).filter(|_| self.rule == Rule::Auto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which picture (from 1) it settles; 0 if it does not.
    fn settles(rule: Rule, known: Option<f32>, pictures: &[(usize, f32)]) -> usize {
        let mut settling = Settling::new(rule, known);
        let found = pictures.iter().position(|(bytes, luma)| settling.look(*bytes, || Some(*luma)));
        found.map_or(0, |at| at + 1)
    }

    #[test]
    fn settles_when_steady_and_bright_enough() {
        let steady = [(40_000, 120.0); 5];
        let dark = [(9_000, 12.0); 5];
        let rising: Vec<_> = (0..12).map(|i| (20_000 + 1_000 * i.min(8), (10 * i.min(8)) as f32)).collect();
        for (known, pictures, at) in [
            (None, &steady[..], 3),
            (Some(130.0), &steady, 3),
            (Some(250.0), &steady, 0),
            (None, &dark, 0),
            (Some(20.0), &dark, 3),
            (None, &rising, 11),
        ] {
            assert_eq!(settles(Rule::Auto, known, pictures), at, "{known:?} {pictures:?}");
        }
        let dark_then_bright = [&[(9_000, 12.0); 15][..], &[(40_000, 120.0); 5]].concat();
        assert_eq!(settles(Rule::Auto, None, &dark_then_bright), 18);
        let flicker: Vec<_> = (0..30).map(|i| (40_000, if i % 2 == 0 { 100.0 } else { 140.0 })).collect();
        assert_eq!(settles(Rule::Auto, None, &flicker), 0);
    }

    #[test]
    fn a_fixed_count_drops_that_many() {
        let dark = [(9_000, 12.0); 5];
        assert_eq!(settles(Rule::Drop(0), None, &dark), 1);
        assert_eq!(settles(Rule::Drop(3), None, &dark), 4);
    }
}
