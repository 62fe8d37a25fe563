//! The synthetic camera's picture: drawn to judge latency by, textured like a webcam's, encoded once.
//!
//! A clock with milliseconds, the frame number, a hand that turns once a second and a bar that crosses the colour
//! bars in two, over a landscape with a sensor's grain. The landscape, panels and labels are drawn once for each
//! size; what moves is laid over the rows while the encoder reads them, so a frame costs little more than its
//! encoding. Everything on it follows from the frame's number and time: this file knows no clock and no camera.
//!
//! Each JPEG carries `framehub seq=N mono_ns=M` in a COM segment right after SOI: the number on the picture, and
//! CLOCK_MONOTONIC at its exposure.

use std::f32::consts::TAU;

use super::drawing::{Colour, Font, Mask, Planes, Random, Sprite, Texture, length, to_segment};
use jpeg_encoder::{Encoder, EncodingError, ImageBuffer, JpegColorType, SamplingFactor};

use crate::frame::{Size, Stamp};

/// What differs from one frame to the next.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Shown on the picture.
    pub number: u64,
    /// Shown too, as UTC.
    pub exposed_at: Stamp,
    /// What the camera's controls make of it.
    pub tone: Tone,
}

/// A change of luma and colour, as a camera's controls make it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tone {
    /// From 0.0, black, through 1.0, as it should be.
    pub gain: f32,
    /// Added to luma.
    pub brightness: i16,
    /// What is done to the colours.
    pub effect: Effect,
}

/// See [`Tone::effect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Takes the colours away.
    BlackAndWhite,
    /// Turns light and colours round.
    Negative,
}

impl Tone {
    /// Changes nothing.
    pub const PLAIN: Self = Self { gain: 1.0, brightness: 0, effect: Effect::None };

    /// What becomes of each value of luma, and of each of the two chroma.
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

/// The test picture at one size.
pub struct TestPicture {
    layout: Layout,
    background: Planes,
    /// Noise; each row of each frame takes its own from another place in here.
    grain: Vec<u8>,
    clock_font: Font,
    number_font: Font,
    sweep: Mask,
    quality: u8,
    length: Option<usize>,
    has_huffman_tables: bool,
    jpeg: Vec<u8>,
}

impl TestPicture {
    /// With this texture and grain gives a webcam's lengths: about 40, 100 and 220 kB at 480, 720 and 1080 rows.
    const QUALITY: u8 = 70;
    /// Luma steps from the darkest to the lightest grain.
    const GRAIN: u8 = 11;

    /// Draws what never changes. `fps` is shown on it.
    pub fn new(size: Size, fps: f64) -> Self {
        let layout = Layout::new(size);
        let mut random = Random(1);
        Self {
            background: background(&layout, fps),
            grain: (0..size.width as usize + 4096).map(|_| random.below(Self::GRAIN.into()) as u8).collect(),
            clock_font: Font::new(layout.scale * CLOCK_UNIT, "0123456789:."),
            number_font: Font::new(layout.scale * NUMBER_UNIT, "0123456789"),
            sweep: Mask::new([layout.scale * 10.0, layout.bars_height() as f32], 0.9, |_, _| -1.0),
            layout,
            quality: Self::QUALITY,
            length: None,
            has_huffman_tables: true,
            jpeg: Vec::new(),
        }
    }

    /// Makes each JPEG this many bytes long: by coarser encoding where it would be longer, by filler where shorter.
    pub fn set_length(&mut self, length: usize) {
        self.length = Some(length);
    }

    /// Leaves out the Huffman tables, as many webcams do.
    pub fn omit_huffman_tables(&mut self) {
        self.has_huffman_tables = false;
    }

    /// Draws and encodes one frame.
    pub fn encode(&mut self, moment: Moment) -> Result<&[u8], EncodingError> {
        let mut jpeg = std::mem::take(&mut self.jpeg);
        self.encode_into(&mut jpeg, moment)?;
        if let Some(length) = self.length {
            while jpeg.len() > length && self.quality > 1 {
                // A little lower, so that the next frames' grain does not make them too long again.
                let guess = usize::from(self.quality) * length * 9 / (jpeg.len() * 10);
                self.quality = guess.clamp(1, usize::from(self.quality) - 1) as u8;
                self.encode_into(&mut jpeg, moment)?;
            }
        }
        if !self.has_huffman_tables {
            jpeg = without_huffman_tables(&jpeg);
        }
        if let Some(length) = self.length {
            pad(&mut jpeg, length);
        }
        self.jpeg = jpeg;
        Ok(&self.jpeg)
    }

    fn encode_into(&self, jpeg: &mut Vec<u8>, moment: Moment) -> Result<(), EncodingError> {
        let comment = format!("framehub seq={} mono_ns={}", moment.number, moment.exposed_at.mono.as_nanos());
        let mut head = SOI.to_vec();
        push_segment(&mut head, COM, comment.as_bytes());
        // The encoder's own SOI takes the place of the head's last two bytes, which are put back afterwards.
        jpeg.clear();
        jpeg.extend_from_slice(&head[..head.len() - SOI.len()]);
        let mut encoder = Encoder::new(&mut *jpeg, self.quality);
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        let (hand, hand_at) = self.layout.hand(moment.exposed_at);
        let mut sprites = vec![Sprite { mask: &hand, at: hand_at, colour: RED }];
        self.add_moving(moment, &mut sprites);
        encoder.encode_image(Rows::new(self, moment, sprites))?;
        jpeg[..head.len()].copy_from_slice(&head);
        Ok(())
    }

    /// What moves, but for the hand.
    fn add_moving<'a>(&'a self, moment: Moment, sprites: &mut Vec<Sprite<'a>>) {
        let time = moment.exposed_at.real;
        let crossed = (time.as_millis() % 2000) as f32 / 2000.0;
        sprites.push(Sprite { mask: &self.sweep, at: self.layout.sweep(crossed), colour: WHITE });
        let (hours, minutes, seconds) = (time.as_secs() / 3600 % 24, time.as_secs() / 60 % 60, time.as_secs() % 60);
        let clock = format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", time.subsec_millis());
        sprites.extend(self.clock_font.sprites(&clock, self.layout.at(CLOCK_AT), WHITE));
        let number = (moment.number % 1_000_000).to_string();
        let number_at = [NUMBER_AT[0] - NUMBER_UNIT * Font::units(&number), NUMBER_AT[1]];
        sprites.extend(self.number_font.sprites(&number, self.layout.at(number_at), WHITE));
    }
}

/// A frame's rows, composed while the encoder reads them.
struct Rows<'a> {
    picture: &'a TestPicture,
    sprites: Vec<Sprite<'a>>,
    number: u64,
    /// See [`Tone::tables`]; `None` where they would change nothing.
    tables: Option<[[u8; 256]; 2]>,
}

impl<'a> Rows<'a> {
    fn new(picture: &'a TestPicture, moment: Moment, sprites: Vec<Sprite<'a>>) -> Self {
        let Moment { number, tone, .. } = moment;
        Self { picture, sprites, number, tables: (tone != Tone::PLAIN).then(|| tone.tables()) }
    }
}

impl ImageBuffer for Rows<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.picture.layout.size.width as u16
    }

    fn height(&self) -> u16 {
        self.picture.layout.size.height as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        const HALF_GRAIN: u8 = TestPicture::GRAIN / 2;
        let TestPicture { background, grain, .. } = self.picture;
        let width = usize::from(self.width());
        let offset = Random(self.number << 16 | u64::from(y)).below((grain.len() - width) as u64) as usize;
        let grain = &grain[offset..offset + width];
        for (plane, buffer) in buffers.iter_mut().take(3).enumerate() {
            let start = buffer.len();
            let row = background.row(plane, y.into());
            match plane {
                0 => buffer.extend(row.iter().zip(grain).map(|(b, g)| b.saturating_add(*g).saturating_sub(HALF_GRAIN))),
                _ => buffer.extend_from_slice(row),
            }
            let row = &mut buffer[start..];
            self.sprites.iter().for_each(|sprite| sprite.blend(plane, y.into(), row));
            if let Some(tables) = &self.tables {
                let table = &tables[plane.min(1)];
                row.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
            }
        }
    }
}

const WHITE: Colour = [245, 128, 128];
const GREY: Colour = [190, 128, 128];
const BLACK: Colour = [14, 128, 128];
const RED: Colour = [130, 90, 230];

// Places on a picture of 640x480.
const CLOCK_AT: [f32; 2] = [48.0, 111.0];
const CLOCK_UNIT: f32 = 9.4;
const DIAL_AT: [f32; 2] = [132.0, 288.0];
const DIAL_RADIUS: f32 = 86.0;
/// The right end.
const NUMBER_AT: [f32; 2] = [594.0, 284.0];
const NUMBER_UNIT: f32 = 10.2;

/// Scales places to a picture's size, centred.
struct Layout {
    size: Size,
    scale: f32,
}

impl Layout {
    fn new(size: Size) -> Self {
        Self { size, scale: (size.width as f32 / 640.0).min(size.height as f32 / 480.0) }
    }

    fn at(&self, [x, y]: [f32; 2]) -> [i32; 2] {
        let place = |v: f32, middle: f32, extent: u32| (extent as f32 / 2.0 + (v - middle) * self.scale).round() as i32;
        [place(x, 320.0, self.size.width), place(y, 240.0, self.size.height)]
    }

    fn bars_height(&self) -> u32 {
        self.size.height / 8
    }

    /// Of the bar that crosses the colour bars.
    fn sweep(&self, crossed: f32) -> [i32; 2] {
        [(self.size.width as f32 * crossed) as i32, (self.size.height - self.bars_height()) as i32]
    }

    /// The dial's hand and its place: upright at each full second.
    fn hand(&self, time: Stamp) -> (Mask, [i32; 2]) {
        let (sin, cos) = (TAU * time.real.subsec_micros() as f32 / 1e6).sin_cos();
        let (length, width) = (self.scale * (DIAL_RADIUS - 10.0), self.scale * 7.0);
        let tip = [length * sin, length * -cos];
        let tail = tip.map(|v| -0.15 * v);
        let low = [0, 1].map(|i| (tip[i].min(tail[i]) - width).floor());
        let size = [0, 1].map(|i| tip[i].max(tail[i]) + width - low[i]);
        let mask = Mask::new(size, 1.0, |x, y| to_segment([x + low[0], y + low[1]], tail, tip) - width / 2.0);
        let centre = self.at(DIAL_AT);
        (mask, [0, 1].map(|i| centre[i] + low[i] as i32))
    }
}

/// What never changes.
fn background(layout: &Layout, fps: f64) -> Planes {
    let mut planes = Planes::new(layout.size);
    draw_landscape(&mut planes);
    draw_colour_bars(&mut planes, layout.bars_height());
    let scale = layout.scale;
    for (at, size) in [([28.0, 74.0], [584.0, 108.0]), ([28.0, 196.0], [584.0, 184.0])] {
        let half = size.map(|v| v * scale / 2.0);
        let corner = 14.0 * scale;
        let mask = Mask::new(half.map(|v| 2.0 * v), 0.62, |x, y| {
            let beyond = |v: f32, half: f32| ((v - half).abs() - half + corner).max(0.0);
            length(beyond(x, half[0]), beyond(y, half[1])) - corner
        });
        planes.draw(&Sprite { mask: &mask, at: layout.at(at), colour: BLACK });
    }

    let radius = DIAL_RADIUS * scale;
    let dial = Mask::new([2.0 * radius + 2.0; 2], 1.0, |x, y| {
        let [x, y] = [x - radius - 1.0, y - radius - 1.0];
        let ring = (length(x, y) - radius + 2.0 * scale).abs() - 1.5 * scale;
        // The nearest of ten marks, 100 ms apart.
        let (sin, cos) = ((x.atan2(-y) / TAU * 10.0).round() / 10.0 * TAU).sin_cos();
        let [from, to] = [0.84, 0.94].map(|part| [part * radius * sin, part * radius * -cos]);
        ring.min(to_segment([x, y], from, to) - 2.0 * scale)
    });
    let at = layout.at(DIAL_AT).map(|v| v - radius as i32 - 1);
    planes.draw(&Sprite { mask: &dial, at, colour: GREY });

    let mode = format!("{} {} fps", layout.size, (fps * 100.0).round() / 100.0);
    let [mode_x, frame_x] = [610.0 - 3.4 * Font::units(&mode), NUMBER_AT[0] - 4.2 * Font::units("frame")];
    let labels: [(&str, f32, [f32; 2]); 4] = [
        ("framehub", 4.8, [31.0, 26.0]),
        (&mode, 3.4, [mode_x, 34.4]),
        ("UTC", 2.4, [48.0, 84.0]),
        ("frame", 4.2, [frame_x, 222.0]),
    ];
    for (text, unit, at) in labels {
        Font::new(scale * unit, text).sprites(text, layout.at(at), WHITE).for_each(|letter| planes.draw(&letter));
    }
    planes
}

/// Hills under an evening sky: smooth above and textured below, so that its JPEG is a camera's in length.
fn draw_landscape(planes: &mut Planes) {
    // The farthest first.
    const HILLS: [Colour; 3] = [[118, 134, 126], [92, 120, 118], [66, 108, 120]];
    let texture = Texture::new();
    let ridges = |x: u32| {
        let turn = x as f32 / planes.size.width as f32 * TAU;
        let wave = |waves: f32, shift: f32| (turn * waves + shift).sin();
        [
            0.46 + 0.05 * wave(0.8, 0.0) + 0.025 * wave(2.3, 1.0),
            0.60 + 0.06 * wave(0.6, 2.0) + 0.02 * wave(3.1, 0.0),
            0.78 + 0.05 * wave(0.9, 4.0) + 0.01 * wave(5.0, 0.0),
        ]
    };
    let ridges: Vec<_> = (0..planes.size.width).map(ridges).collect();
    for y in 0..planes.size.height as usize {
        let v = y as f32 / planes.size.height as f32;
        let sky = [95.0 + 210.0 * v, 168.0 - 130.0 * v, 106.0 + 85.0 * v];
        let [luma_row, blue_row, red_row] = planes.rows_mut(y);
        for (x, ridges) in ridges.iter().enumerate() {
            let hill = ridges.iter().rposition(|ridge| v > *ridge);
            let [luma, blue, red] = hill.map_or(sky, |hill| HILLS[hill].map(f32::from));
            let bump = hill.map_or(0.2, |hill| 0.5 + 0.25 * hill as f32) * texture.at(x, y, hill.unwrap_or(0));
            luma_row[x] = (luma + bump) as u8;
            blue_row[x] = (blue - 0.2 * bump) as u8;
            red_row[x] = (red + 0.1 * bump) as u8;
        }
    }
}

fn draw_colour_bars(planes: &mut Planes, height: u32) {
    // White, yellow, cyan, green, magenta, red, blue and black at 75 %.
    const BARS: [Colour; 8] = [
        [191, 128, 128],
        [169, 32, 144],
        [134, 160, 32],
        [112, 64, 48],
        [79, 192, 208],
        [57, 96, 224],
        [22, 224, 112],
        [10, 128, 128],
    ];
    let Size { width, height: bottom } = planes.size;
    for y in bottom - height..bottom {
        for (plane, row) in planes.rows_mut(y as usize).into_iter().enumerate() {
            row.iter_mut().enumerate().for_each(|(x, value)| *value = BARS[x * BARS.len() / width as usize][plane]);
        }
    }
}

const SOI: [u8; 2] = [0xff, 0xd8];
const COM: u8 = 0xfe;
const APP0: u8 = 0xe0;
const DHT: u8 = 0xc4;
const SOS: u8 = 0xda;

fn push_segment(jpeg: &mut Vec<u8>, marker: u8, body: &[u8]) {
    jpeg.extend_from_slice(&[0xff, marker]);
    jpeg.extend_from_slice(&(body.len() as u16 + 2).to_be_bytes());
    jpeg.extend_from_slice(body);
}

/// Where the segment that begins at `at` ends.
fn segment_end(jpeg: &[u8], at: usize) -> usize {
    at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]))
}

/// The frame as many webcams send it: `AVI1` for `JFIF`, and no DHT, the standard tables being taken for granted.
fn without_huffman_tables(jpeg: &[u8]) -> Vec<u8> {
    let mut out = SOI.to_vec();
    let mut at = SOI.len();
    while jpeg[at + 1] != SOS {
        let end = segment_end(jpeg, at);
        match jpeg[at + 1] {
            DHT => {}
            APP0 => push_segment(&mut out, APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0"),
            _ => out.extend_from_slice(&jpeg[at..end]),
        }
        at = end;
    }
    out.extend_from_slice(&jpeg[at..]);
    out
}

/// Lengthens a JPEG to `length` bytes with COM segments after its first one. Up to three bytes may be missing.
fn pad(jpeg: &mut Vec<u8>, length: usize) {
    const LONGEST: usize = 65_537;
    let mut filler = Vec::new();
    while let missing @ 4.. = length.saturating_sub(jpeg.len() + filler.len()) {
        push_segment(&mut filler, COM, &vec![0; missing.min(LONGEST) - 4]);
    }
    let at = segment_end(jpeg, SOI.len());
    jpeg.splice(at..at, filler);
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
            let end = segment_end(jpeg, at);
            found.push((jpeg[at + 1], &jpeg[at + 4..end]));
            at = end;
        }
        found
    }

    #[test]
    fn lengths_are_a_webcams() {
        for (width, height, wanted) in [(640, 480, 40_000), (1280, 720, 100_000), (1920, 1080, 220_000)] {
            let mut picture = TestPicture::new(Size::new(width, height), 30.0);
            for number in [1, 2, 1_000_000] {
                let length = picture.encode(moment(number)).unwrap().len();
                assert!(length.abs_diff(wanted) < wanted / 5, "{width}x{height}: {length} bytes");
            }
        }
    }

    #[test]
    fn every_size_can_be_drawn() {
        let odd = [(16, 16), (64, 48), (97, 61), (161, 119), (3840, 16), (16, 2160), (1279, 721)];
        let usual = [(160, 120), (320, 240), (800, 600), (2592, 1944), (3840, 2160)];
        for (width, height) in odd.into_iter().chain(usual) {
            let mut picture = TestPicture::new(Size::new(width, height), 29.97);
            // The hand in each quarter.
            for number in [0, 8, 15, 23] {
                let jpeg = picture.encode(moment(number)).unwrap();
                let (_, sof) = *segments(jpeg).iter().find(|(marker, _)| *marker == 0xc0).unwrap();
                let stated = [u16::from_be_bytes([sof[3], sof[4]]), u16::from_be_bytes([sof[1], sof[2]])];
                assert_eq!(stated.map(u32::from), [width, height]);
            }
        }
    }

    #[test]
    fn number_and_time_come_first() {
        let mut picture = TestPicture::new(Size::new(64, 48), 30.0);
        let jpeg = picture.encode(moment(42)).unwrap();
        let segments = segments(jpeg);
        assert_eq!(segments[0], (COM, &b"framehub seq=42 mono_ns=1399986000"[..]));
        assert_eq!((segments[1].0, &segments[1].1[..5]), (APP0, &b"JFIF\0"[..]));
        assert_eq!(segments.iter().filter(|(marker, _)| *marker == COM).count(), 1);
    }

    #[test]
    fn length_can_be_set_and_tables_left_out() {
        for length in [20_000, 100_000, 300_001] {
            let mut picture = TestPicture::new(Size::new(640, 480), 30.0);
            picture.set_length(length);
            picture.omit_huffman_tables();
            for number in 1..10 {
                let jpeg = picture.encode(moment(number)).unwrap();
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
        let picture = TestPicture::new(Size::new(640, 480), 30.0);
        let planes = |moment: Moment| {
            let mut sprites = Vec::new();
            picture.add_moving(moment, &mut sprites);
            let rows = Rows::new(&picture, moment, sprites);
            let mut buffers = Default::default();
            (0..480).for_each(|y| rows.fill_buffers(y, &mut buffers));
            buffers.map(|plane| plane.iter().map(|value| i32::from(*value)).collect::<Vec<_>>())
        };
        let luma = |moment| planes(moment)[0].clone();
        let toned = |tone: Tone| planes(Moment { tone, ..moment(1) });
        let mean = |values: &[i32]| values.iter().sum::<i32>() / values.len() as i32;
        let bright = luma(moment(1));
        // Grain alone changes no pixel by more than its own depth.
        let changed = bright.iter().zip(&luma(moment(2))).filter(|(a, b)| (*a - *b).abs() > 40).count();
        assert!(changed > 1000, "{changed} pixels changed");
        let dim = &toned(Tone { gain: 0.25, ..Tone::PLAIN })[0];
        assert!((mean(&bright) / 4).abs_diff(mean(dim)) < 3);
        assert_eq!(mean(&toned(Tone { gain: 0.0, ..Tone::PLAIN })[0]), 0);
        let lighter = &toned(Tone { brightness: 30, ..Tone::PLAIN })[0];
        assert!(mean(lighter).abs_diff(mean(&bright) + 30) < 5, "{} after {}", mean(lighter), mean(&bright));
        let [_, blue, red, _] = toned(Tone { effect: Effect::BlackAndWhite, ..Tone::PLAIN });
        assert!(blue.iter().chain(&red).all(|chroma| *chroma == 128));
        let negative = toned(Tone { effect: Effect::Negative, ..Tone::PLAIN });
        let plain = planes(moment(1));
        let is_opposite =
            |plane: usize, sum: i32| plain[plane].iter().zip(&negative[plane]).all(|(a, b)| (a + b).abs_diff(sum) <= 1);
        assert!(is_opposite(0, 255) && is_opposite(1, 256) && is_opposite(2, 256));
    }
}
