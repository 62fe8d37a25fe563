//! The test picture: colour bars with a camera's texture, a bar that crosses them in two seconds, and in large digits
//! the time and the number of the frame.
//!
//! What never changes is drawn once for each size; the digits are drawn again for each frame, and the moving bar while
//! the encoder reads the rows, so a frame costs little more than its encoding. Everything on it follows from the
//! frame's number and time: this file reads no clock and knows no camera.
//!
//! Each JPEG carries `framehub seq=N mono_ns=M` in a COM segment right after SOI: the number on the picture, and
//! CLOCK_MONOTONIC at its exposure.

use std::ops::Range;

use crate::camera::lettering;
use crate::frame::{Size, Stamp};
use crate::jpeg::encoder::{Encoder, Levels};

/// What differs from one frame to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Shown on the picture.
    pub(super) number: u64,
    /// Shown on the picture as UTC.
    pub(super) exposed_at: Stamp,
    /// Effect of the camera's controls.
    pub(super) tone: Tone,
}

/// A change of luma and colour, as a camera's controls make it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tone {
    /// Factor for luma and colour: 0.0 is black, 1.0 leaves them unchanged.
    pub(super) gain: f32,
    /// Added to luma.
    pub(super) brightness: i16,
    /// Change of the colours.
    pub(super) effect: Effect,
}

/// A change of the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    BlackAndWhite,
    Negative,
}

impl Tone {
    /// Changes nothing.
    const PLAIN: Self = Self { gain: 1.0, brightness: 0, effect: Effect::None };

    /// The new value for each value of luma, and for each value of the two colour differences.
    fn tables(self) -> [[u8; 256]; 2] {
        let luma = |value: usize| match self.effect {
            Effect::Negative => 255.0 - value as f32,
            _ => value as f32,
        };
        let colours = match self.effect {
            Effect::None => self.gain.min(1.0),
            Effect::BlackAndWhite => 0.0,
            Effect::Negative => -self.gain.min(1.0),
        };
        [
            std::array::from_fn(|value| (luma(value) * self.gain + f32::from(self.brightness)) as u8),
            std::array::from_fn(|value| (128.0 + (value as f32 - 128.0) * colours) as u8),
        ]
    }
}

/// White, yellow, cyan, green, magenta, red, blue and black at 75 %: luma, blue and red difference.
#[rustfmt::skip]
const BARS: [[u8; 3]; 8] = [
    [191, 128, 128], [169, 32, 144], [134, 160, 32], [112, 64, 48],
    [79, 192, 208], [57, 96, 224], [22, 224, 112], [10, 128, 128],
];
const WHITE: u8 = 240;
/// Luma of the band behind the digits.
const DARK: u8 = 40;
const NEUTRAL: u8 = 128;
/// Luma steps from the darkest to the lightest grain, which differs in each frame.
const GRAIN: u32 = 12;
/// Luma steps of the bars' texture, which stays.
const TEXTURE: f32 = 13.0;
/// With this texture and grain a JPEG is as long as a webcam's: about 40, 105 and 220 kB at 480, 720 and 1080 rows.
const QUALITY: u8 = 70;

/// The test picture at one size.
pub(super) struct TestPicture {
    size: Size,
    /// Pixels for each dot of the large digits.
    scale: f32,
    /// The rows of the dark band with the digits, from the left edge to the right.
    band: Range<usize>,
    label: String,
    /// The bars with their texture, and the band of the latest frame.
    luma: Vec<u8>,
    /// The bars' blue and red differences, the same in each row.
    colours: [Vec<u8>; 2],
    /// Noise. Each row of each frame uses a part of it that begins elsewhere.
    grain: Vec<u8>,
    quality: u8,
    length: Option<usize>,
    omits_huffman_tables: bool,
    encoded: Vec<u8>,
    jpeg: Vec<u8>,
}

impl TestPicture {
    /// Draws what never changes. `fps` is shown on it. With a `length` in bytes each JPEG is that long: encoded coarser
    /// where it would be longer, with filler where it would be shorter. Without Huffman tables it is like that of many
    /// webcams.
    pub(super) fn new(size: Size, fps: f64, length: Option<usize>, omits_huffman_tables: bool) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        // A line of twelve digits and two lines fit in, however wide or high the picture is.
        let scale = (size.width as f32 / 75.0).min(size.height as f32 / 44.0);
        let half = (11.0 * scale) as usize;
        let row = |plane: usize| (0..width).map(move |x| BARS[x * BARS.len() / width][plane]);
        // Numbers that look random and are the same everywhere (xorshift64).
        let mut state: u64 = 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        Self {
            size,
            scale,
            band: height / 2 - half..height / 2 + half,
            label: format!("{size}@{}", (fps * 100.0).round() / 100.0),
            luma: textured(&row(0).collect::<Vec<u8>>(), height, &mut random),
            colours: [row(1).collect(), row(2).collect()],
            grain: (0..width + 4096).map(|_| (random() % GRAIN) as u8).collect(),
            quality: QUALITY,
            length,
            omits_huffman_tables,
            encoded: Vec::new(),
            jpeg: Vec::new(),
        }
    }

    /// Draws and encodes one frame.
    pub(super) fn encode(&mut self, moment: Moment) -> &[u8] {
        self.draw_band(moment);
        let mut encoded = std::mem::take(&mut self.encoded);
        loop {
            encoded.clear();
            let (width, height) = (self.size.width as usize, self.size.height as u16);
            let mut encoder = Encoder::new(width as u16, height, self.quality, Levels::FULL, false);
            let drawn = Rows::new(self, moment);
            let mut planes = [const { Vec::new() }; 3];
            encoder.encode(&mut encoded, |first, rows, strip| {
                for y in 0..rows {
                    drawn.draw(first + y, &mut planes);
                    strip.luma[y * strip.stride..][..width].copy_from_slice(&planes[0]);
                    // Colours are the same in most rows: those of one row of two will do.
                    for (plane, row) in strip.chroma.iter_mut().zip(&planes[1..]).filter(|_| y % 2 == 0) {
                        let half = row.iter().step_by(2).copied();
                        plane[y / 2 * strip.stride / 2..].iter_mut().zip(half).for_each(|(to, value)| *to = value);
                    }
                }
            });
            // The stamp needs less than 100 bytes.
            match self.length {
                Some(length) if encoded.len() + 100 > length && self.quality > 1 => {
                    // A little lower, so that the next frames' grain does not make them too long again.
                    let guess = usize::from(self.quality) * length * 9 / (encoded.len() * 10);
                    self.quality = guess.clamp(1, usize::from(self.quality) - 1) as u8;
                }
                _ => break,
            }
        }
        self.encoded = encoded;
        self.add_segments(moment);
        &self.jpeg
    }

    /// Draws one frame and gives each of its rows: luma, blue and red differences.
    pub(super) fn rows(&mut self, moment: Moment, mut each: impl FnMut(usize, [&[u8]; 3])) {
        self.draw_band(moment);
        let rows = Rows::new(self, moment);
        let mut planes = [const { Vec::new() }; 3];
        for y in 0..self.size.height as usize {
            rows.draw(y, &mut planes);
            each(y, planes.each_ref().map(Vec::as_slice));
        }
    }

    /// Draws the time, the number and the label over those of the frame before.
    fn draw_band(&mut self, Moment { number, exposed_at, .. }: Moment) {
        let width = self.size.width as usize;
        let band = &mut self.luma[self.band.start * width..self.band.end * width];
        band.fill(DARK);
        let seconds = exposed_at.real.as_secs();
        let [hours, minutes, seconds] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
        let clock = format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", exposed_at.real.subsec_millis());
        let number = (number % 1_000_000).to_string();
        let texts = [
            (2.0, 2.0, 1.0, clock.as_str()),
            (2.0, 12.0, 1.0, &number),
            (41.0, 11.5, 0.36, "framehub, UTC"),
            (41.0, 16.0, 0.36, &self.label),
        ];
        for (x, y, scale, text) in texts {
            let at = [x, y].map(|dots| (dots * self.scale) as usize);
            lettering::draw(band, width, at, scale * self.scale, text, WHITE);
        }
    }

    /// Copies the encoded JPEG and adds the stamp and the filler. Without Huffman tables `AVI1` takes the place of
    /// `JFIF`, since such a JPEG relies on the standard tables of Motion-JPEG.
    fn add_segments(&mut self, moment: Moment) {
        let jpeg = &mut self.jpeg;
        jpeg.clear();
        jpeg.extend_from_slice(&SOI);
        let stamp = format!("framehub seq={} mono_ns={}", moment.number, moment.exposed_at.mono.as_nanos());
        push_segment(jpeg, COM, stamp.as_bytes());
        let mut rest = &self.encoded[SOI.len()..];
        while let [0xff, marker, high, low, ..] = *rest
            && marker != SOS
        {
            let (segment, behind) = rest.split_at(2 + usize::from(u16::from_be_bytes([high, low])));
            match marker {
                DHT if self.omits_huffman_tables => {}
                APP0 if self.omits_huffman_tables => push_segment(jpeg, APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0"),
                _ => jpeg.extend_from_slice(segment),
            }
            rest = behind;
        }
        // Up to three bytes may be missing, since no segment is shorter than four.
        while let Some(missing @ 4..) = self.length.and_then(|length| length.checked_sub(jpeg.len() + rest.len())) {
            push_segment(jpeg, COM, &vec![0; missing.min(LONGEST_SEGMENT) - 4]);
        }
        jpeg.extend_from_slice(rest);
    }
}

/// `height` times the same row, with a texture like that of paper: each pixel is similar to those left of it and above.
fn textured(row: &[u8], height: usize, mut random: impl FnMut() -> u32) -> Vec<u8> {
    let mut textures = vec![0.0; row.len()];
    let mut luma = Vec::with_capacity(row.len() * height);
    for _ in 0..height {
        let mut before = 0.0;
        for (texture, bar) in textures.iter_mut().zip(row) {
            let noise = random() as f32 / u32::MAX as f32 - 0.5;
            *texture = 0.49 * (*texture + before) + TEXTURE * noise;
            before = *texture;
            luma.push((f32::from(*bar) + *texture) as u8);
        }
    }
    luma
}

/// The rows of one frame, composed while the encoder reads them.
struct Rows<'a> {
    picture: &'a TestPicture,
    number: u64,
    /// Columns of the bar that crosses the picture.
    bar: Range<usize>,
    /// From [`Tone::tables`]; `None` where they would change nothing.
    tables: Option<[[u8; 256]; 2]>,
}

impl<'a> Rows<'a> {
    fn new(picture: &'a TestPicture, Moment { number, exposed_at, tone }: Moment) -> Self {
        let width = picture.size.width as usize;
        let left = width * (exposed_at.real.as_millis() % 2000) as usize / 2000;
        let bar = left..(left + width / 50 + 1).min(width);
        Self { picture, number, bar, tables: (tone != Tone::PLAIN).then(|| tone.tables()) }
    }

    /// Replaces the planes by one row: luma, blue and red differences.
    fn draw(&self, y: usize, planes: &mut [Vec<u8>; 3]) {
        let TestPicture { luma, colours, grain, band, .. } = self.picture;
        let width = self.picture.size.width as usize;
        let random = (self.number << 16 | y as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let grain = &grain[(random >> 52) as usize..][..width];
        for (plane, buffer) in planes.iter_mut().enumerate() {
            buffer.clear();
            match plane {
                0 => {
                    buffer.extend(luma[y * width..].iter().zip(grain).map(|(luma, grain)| luma.saturating_add(*grain)))
                }
                _ if band.contains(&y) => buffer.resize(width, NEUTRAL),
                _ => buffer.extend_from_slice(&colours[plane - 1]),
            }
            let row = buffer.as_mut_slice();
            if !band.contains(&y) {
                row[self.bar.clone()].fill(if plane == 0 { WHITE } else { NEUTRAL });
            }
            if let Some(tables) = &self.tables {
                let table = &tables[plane.min(1)];
                row.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
            }
        }
    }
}

const SOI: [u8; 2] = [0xff, 0xd8];
const COM: u8 = 0xfe;
const APP0: u8 = 0xe0;
const DHT: u8 = 0xc4;
const SOS: u8 = 0xda;
/// Bytes of a segment with its marker.
const LONGEST_SEGMENT: usize = 65_537;

fn push_segment(jpeg: &mut Vec<u8>, marker: u8, body: &[u8]) {
    jpeg.extend_from_slice(&[0xff, marker]);
    jpeg.extend_from_slice(&(body.len() as u16 + 2).to_be_bytes());
    jpeg.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn moment(number: u64) -> Moment {
        let stamp = Stamp {
            mono: Duration::from_micros(number * 33_333),
            real: Duration::from_micros(1_763_680_000_000_000 + number * 33_333),
        };
        Moment { number, exposed_at: stamp, tone: Tone::PLAIN }
    }

    /// Markers with their segments' bodies, as far as SOS.
    fn segments(jpeg: &[u8]) -> Vec<(u8, &[u8])> {
        assert_eq!((&jpeg[..2], &jpeg[jpeg.len() - 2..]), (&b"\xff\xd8"[..], &b"\xff\xd9"[..]));
        let (mut found, mut at) = (Vec::new(), 2);
        while found.last().is_none_or(|(marker, _)| *marker != SOS) {
            assert_eq!(jpeg[at], 0xff);
            let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            found.push((jpeg[at + 1], &jpeg[at + 4..end]));
            at = end;
        }
        found
    }

    #[test]
    fn lengths_are_a_webcams() {
        for (width, height, wanted) in [(640, 480, 40_000), (1280, 720, 100_000), (1920, 1080, 220_000)] {
            let mut picture = TestPicture::new(Size::new(width, height), 30.0, None, false);
            for number in [1, 2, 1_000_000] {
                let length = picture.encode(moment(number)).len();
                assert!(length.abs_diff(wanted) < wanted / 5, "{width}x{height}: {length} bytes");
            }
        }
    }

    #[test]
    fn every_size_can_be_drawn() {
        let odd = [(16, 16), (64, 48), (97, 61), (161, 119), (3840, 16), (16, 2160), (1279, 721)];
        let usual = [(160, 120), (320, 240), (800, 600), (2592, 1944), (3840, 2160)];
        for (width, height) in odd.into_iter().chain(usual) {
            let mut picture = TestPicture::new(Size::new(width, height), 29.97, None, false);
            // The hand in each quarter.
            for number in [0, 8, 15, 23] {
                let jpeg = picture.encode(moment(number));
                let (_, sof) = *segments(jpeg).iter().find(|(marker, _)| *marker == 0xc0).unwrap();
                let stated = [u16::from_be_bytes([sof[3], sof[4]]), u16::from_be_bytes([sof[1], sof[2]])];
                assert_eq!(stated.map(u32::from), [width, height]);
            }
        }
    }

    #[test]
    fn number_and_time_come_first() {
        let mut picture = TestPicture::new(Size::new(64, 48), 30.0, None, false);
        let jpeg = picture.encode(moment(42));
        let segments = segments(jpeg);
        assert_eq!(segments[0], (COM, &b"framehub seq=42 mono_ns=1399986000"[..]));
        assert_eq!((segments[1].0, &segments[1].1[..5]), (APP0, &b"JFIF\0"[..]));
        assert_eq!(segments.iter().filter(|(marker, _)| *marker == COM).count(), 1);
    }

    #[test]
    fn length_can_be_set_and_tables_left_out() {
        for length in [20_000, 100_000, 300_001] {
            let mut picture = TestPicture::new(Size::new(640, 480), 30.0, Some(length), true);
            for number in 1..10 {
                let jpeg = picture.encode(moment(number));
                assert!((length - 3..=length).contains(&jpeg.len()), "{} instead of {length}", jpeg.len());
                let segments = segments(jpeg);
                assert!(segments[0].1.starts_with(b"framehub seq="));
                assert!(segments.iter().any(|(marker, body)| *marker == APP0 && body.starts_with(b"AVI1")));
                assert!(segments.iter().all(|(marker, _)| *marker != DHT));
            }
        }
    }

    #[test]
    fn something_moves_and_tones_are_seen() {
        let planes = |moment: Moment| {
            let mut picture = TestPicture::new(Size::new(640, 480), 30.0, None, false);
            let mut all = [const { Vec::new() }; 3];
            picture
                .rows(moment, |_, row| all.iter_mut().zip(row).for_each(|(plane, row)| plane.extend_from_slice(row)));
            all.map(|plane| plane.iter().map(|value| i32::from(*value)).collect::<Vec<_>>())
        };
        let rows = |range: Range<usize>, moment| planes(moment)[0][range.start * 640..range.end * 640].to_vec();
        let luma = |moment| rows(0..480, moment);
        let toned = |tone: Tone| planes(Moment { tone, ..moment(1) });
        let mean = |values: &[i32]| values.iter().sum::<i32>() / values.len() as i32;
        let bright = luma(moment(1));
        // Grain alone changes no pixel by more than its own depth.
        for (name, range) in [("bar above", 0..140), ("time", 150..240), ("number", 242..330), ("bar below", 340..480)]
        {
            let [before, after] = [1, 2].map(|number| rows(range.clone(), moment(number)));
            let changed = before.iter().zip(&after).filter(|(a, b)| (*a - *b).abs() > 40).count();
            assert!(changed > 500, "{name}: {changed} pixels changed");
        }
        let dim = &toned(Tone { gain: 0.25, ..Tone::PLAIN })[0];
        assert!((mean(&bright) / 4).abs_diff(mean(dim)) < 3);
        assert_eq!(mean(&toned(Tone { gain: 0.0, ..Tone::PLAIN })[0]), 0);
        let lighter = &toned(Tone { brightness: 30, ..Tone::PLAIN })[0];
        assert!(mean(lighter).abs_diff(mean(&bright) + 30) < 5, "{} after {}", mean(lighter), mean(&bright));
        let [_, blue, red] = toned(Tone { effect: Effect::BlackAndWhite, ..Tone::PLAIN });
        assert!(blue.iter().chain(&red).all(|chroma| *chroma == 128));
        let negative = toned(Tone { effect: Effect::Negative, ..Tone::PLAIN });
        let plain = planes(moment(1));
        let is_opposite =
            |plane: usize, sum: i32| plain[plane].iter().zip(&negative[plane]).all(|(a, b)| (a + b).abs_diff(sum) <= 1);
        assert!(is_opposite(0, 255) && is_opposite(1, 256) && is_opposite(2, 256));
    }
}
