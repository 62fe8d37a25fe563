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
    const QUALITY: u8 = 80;
    /// Luma steps between the darkest and the lightest grain.
    const GRAIN: u64 = 21;

    /// Draws what never changes. `fps` is shown on it.
    pub fn new(size: Size, fps: f64) -> Self {
        let layout = Layout::new(size);
        let mut random = Random(1);
        Self {
            background: background(&layout, fps),
            grain: (0..size.width as usize + 4096).map(|_| random.below(Self::GRAIN) as u8).collect(),
            clock_font: Font::new(layout.scale * CLOCK_UNIT, "0123456789:."),
            number_font: Font::new(layout.scale * NUMBER_UNIT, "0123456789"),
            sweep: Mask::rectangle(layout.scale * 10.0, layout.bars_height() as f32),
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
                // A little under, so that the next frames' grain does not lift them over it again.
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
        let Moment { number, exposed_at, tone } = moment;
        let comment = format!("framehub seq={number} mono_ns={}", exposed_at.mono.as_nanos());
        let mut head = SOI.to_vec();
        push_segment(&mut head, COM, comment.as_bytes());
        // The encoder's own SOI takes the place of the head's last two bytes, which are put back afterwards.
        jpeg.clear();
        jpeg.extend_from_slice(&head[..head.len() - SOI.len()]);
        let mut encoder = Encoder::new(&mut *jpeg, self.quality);
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        let hand = self.layout.hand(exposed_at);
        encoder.encode_image(Rows {
            picture: self,
            sprites: self.sprites(moment, &hand),
            tables: (tone != Tone::PLAIN).then(|| tone.tables()),
            number,
        })?;
        jpeg[..head.len()].copy_from_slice(&head);
        Ok(())
    }

    /// What moves.
    fn sprites<'a>(&'a self, moment: Moment, hand: &'a (Mask, [i32; 2])) -> Vec<Sprite<'a>> {
        let real = moment.exposed_at.real;
        let (hours, minutes, seconds) = (real.as_secs() / 3600 % 24, real.as_secs() / 60 % 60, real.as_secs() % 60);
        let clock = format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", real.subsec_millis());
        let number = (moment.number % 10_000_000).to_string();
        let crossed = (real.as_millis() % 2000) as f32 / 2000.0;
        let mut sprites = vec![
            Sprite { mask: &hand.0, at: hand.1, colour: RED },
            Sprite { mask: &self.sweep, at: self.layout.sweep(crossed), colour: WHITE },
        ];
        self.clock_font.write(&clock, self.layout.at(CLOCK_AT), &mut sprites);
        let number_at = [NUMBER_RIGHT[0] - NUMBER_UNIT * Font::units(&number), NUMBER_RIGHT[1]];
        self.number_font.write(&number, self.layout.at(number_at), &mut sprites);
        sprites
    }
}

/// A frame's rows, composed while the encoder reads them.
struct Rows<'a> {
    picture: &'a TestPicture,
    sprites: Vec<Sprite<'a>>,
    /// See [`Tone::tables`]; `None` where they would change nothing.
    tables: Option<[[u8; 256]; 2]>,
    number: u64,
}

impl ImageBuffer for Rows<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.picture.background.size.width as u16
    }

    fn height(&self) -> u16 {
        self.picture.background.size.height as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let picture = self.picture;
        let width = usize::from(self.width());
        let [luma, blue, red, _] = buffers;
        let starts = [luma.len(), blue.len(), red.len()];
        let [background, background_blue, background_red] = picture.background.row(y.into());
        let place = Random(self.number << 16 | u64::from(y)).below((picture.grain.len() - width) as u64) as usize;
        let grained = background.iter().zip(&picture.grain[place..place + width]);
        luma.extend(grained.map(|(&b, &g)| b.saturating_add(g).saturating_sub(TestPicture::GRAIN as u8 / 2)));
        blue.extend_from_slice(background_blue);
        red.extend_from_slice(background_red);
        let mut row = [&mut luma[starts[0]..], &mut blue[starts[1]..], &mut red[starts[2]..]];
        for sprite in &self.sprites {
            sprite.blend(y.into(), &mut row);
        }
        if let Some([luma, chroma]) = &self.tables {
            for (row, table) in row.iter_mut().zip([luma, chroma, chroma]) {
                row.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
            }
        }
    }
}

// ---- What is where, on a 640x480 picture ----

const CLOCK_UNIT: f32 = 9.4;
const CLOCK_AT: [f32; 2] = [48.0, 102.0];
const NUMBER_UNIT: f32 = 8.4;
const NUMBER_RIGHT: [f32; 2] = [594.0, 276.0];
const DIAL_AT: [f32; 2] = [132.0, 288.0];
const DIAL_RADIUS: f32 = 86.0;

/// A colour: luma, blue difference, red difference.
type Colour = [u8; 3];
const WHITE: Colour = [245, 128, 128];
const GREY: Colour = [190, 128, 128];
const BLACK: Colour = [14, 128, 128];
const RED: Colour = [130, 90, 230];

/// Places for a picture of 640x480, scaled to another's size and centred in it.
struct Layout {
    size: Size,
    scale: f32,
    origin: [f32; 2],
}

impl Layout {
    fn new(size: Size) -> Self {
        let [width, height] = [size.width as f32, size.height as f32];
        let scale = (width / 640.0).min(height / 480.0);
        Self { size, scale, origin: [(width - 640.0 * scale) / 2.0, (height - 480.0 * scale) / 2.0] }
    }

    fn at(&self, [x, y]: [f32; 2]) -> [i32; 2] {
        [self.origin[0] + x * self.scale, self.origin[1] + y * self.scale].map(|v| v.round() as i32)
    }

    fn bars_height(&self) -> u32 {
        self.size.height / 8
    }

    fn sweep(&self, crossed: f32) -> [i32; 2] {
        [(self.size.width as f32 * crossed) as i32, (self.size.height - self.bars_height()) as i32]
    }

    /// The hand of the dial and its place: twelve o'clock at each full second.
    fn hand(&self, time: Stamp) -> (Mask, [i32; 2]) {
        let (sin, cos) = (TAU * time.real.subsec_micros() as f32 / 1e6).sin_cos();
        let (tip, width) = (self.scale * (DIAL_RADIUS - 10.0), self.scale * 7.0);
        let from = [sin, -cos].map(|v| -0.15 * tip * v);
        let to = [sin * tip, -cos * tip];
        let low = [0, 1].map(|i| (from[i].min(to[i]) - width).floor());
        let high = [0, 1].map(|i| (from[i].max(to[i]) + width).ceil());
        let mask = Mask::new([high[0] - low[0], high[1] - low[1]], 1.0, |x, y| {
            to_segment([x + low[0], y + low[1]], from, to) - width / 2.0
        });
        let centre = self.at(DIAL_AT);
        (mask, [centre[0] + low[0] as i32, centre[1] + low[1] as i32])
    }
}

fn background(layout: &Layout, fps: f64) -> Planes {
    let mut planes = Planes::new(layout.size);
    planes.draw_landscape();
    planes.draw_colour_bars(layout.bars_height());
    let scale = layout.scale;
    let mut panel = |at: [f32; 2], size: [f32; 2]| {
        let [width, height] = size.map(|v| v * scale);
        let mask = Mask::new([width, height], 0.62, |x, y| {
            let corner = 14.0 * scale;
            let [dx, dy] =
                [(x - width / 2.0).abs() - width / 2.0 + corner, (y - height / 2.0).abs() - height / 2.0 + corner];
            dx.max(0.0).hypot(dy.max(0.0)) - corner
        });
        planes.draw(&Sprite { mask: &mask, at: layout.at(at), colour: BLACK });
    };
    panel([28.0, 76.0], [584.0, 108.0]);
    panel([28.0, 196.0], [584.0, 184.0]);

    let radius = DIAL_RADIUS * scale;
    let extent = 2.0 * radius + 2.0;
    let dial = Mask::new([extent, extent], 1.0, |x, y| {
        let [x, y] = [x - extent / 2.0, y - extent / 2.0];
        let distance = x.hypot(y);
        let ring = (distance - radius + 2.0 * scale).abs() - 1.5 * scale;
        // Ten marks, 100 ms apart.
        let turned = (x.atan2(-y) / TAU * 10.0).round() / 10.0 * TAU;
        let (sin, cos) = turned.sin_cos();
        let mark = |r: f32| [sin * r, -cos * r];
        ring.min(to_segment([x, y], mark(radius * 0.84), mark(radius * 0.94)) - 2.0 * scale)
    });
    let [x, y] = layout.at(DIAL_AT);
    let half = (extent / 2.0) as i32;
    planes.draw(&Sprite { mask: &dial, at: [x - half, y - half], colour: GREY });

    let mut label = |text: &str, unit: f32, at: [f32; 2], is_right: bool| {
        let font = Font::new(scale * unit, text);
        let x = at[0] - if is_right { unit * Font::units(text) } else { 0.0 };
        let mut sprites = Vec::new();
        font.write(text, layout.at([x, at[1]]), &mut sprites);
        sprites.iter().for_each(|sprite| planes.draw(sprite));
    };
    label("framehub", 5.4, [30.0, 24.0], false);
    label(&format!("{} {} fps", layout.size, (fps * 100.0).round() / 100.0), 4.2, [610.0, 30.0], true);
    label("UTC", 2.6, [48.0, 84.0], false);
    label("frame", 4.2, [NUMBER_RIGHT[0], 220.0], true);
    planes
}

// ---- Planes, masks and sprites ----

/// Luma at full size, the colour differences with half the rows (4:2:0 uses no more).
struct Planes {
    size: Size,
    planes: [Vec<u8>; 3],
}

impl Planes {
    fn new(size: Size) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        let chroma = vec![128; width * height.div_ceil(2)];
        Self { size, planes: [vec![0; width * height], chroma.clone(), chroma] }
    }

    fn row(&self, y: usize) -> [&[u8]; 3] {
        let width = self.size.width as usize;
        let [luma, blue, red] = &self.planes;
        [&luma[y * width..][..width], &blue[y / 2 * width..][..width], &red[y / 2 * width..][..width]]
    }

    fn row_mut(&mut self, y: usize) -> [&mut [u8]; 3] {
        let width = self.size.width as usize;
        let [luma, blue, red] = &mut self.planes;
        [&mut luma[y * width..][..width], &mut blue[y / 2 * width..][..width], &mut red[y / 2 * width..][..width]]
    }

    fn draw(&mut self, sprite: &Sprite<'_>) {
        for y in 0..self.size.height as usize {
            let mut row = self.row_mut(y);
            if y % 2 == 0 {
                sprite.blend(y, &mut row);
            } else {
                sprite.blend(y, &mut row[..1]);
            }
        }
    }

    /// Hills under an evening sky: smooth above and textured below, so that its JPEG is a camera's in length.
    fn draw_landscape(&mut self) {
        let texture = Texture::new();
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        for x in 0..width {
            let u = x as f32 / width as f32 * TAU;
            // Three ridges, the farthest first, with the colour of the hill below each.
            let hills: [(f32, Colour); 3] = [
                (0.46 + 0.05 * (u * 0.8).sin() + 0.025 * (u * 2.3 + 1.0).sin(), [118, 134, 126]),
                (0.60 + 0.06 * (u * 0.6 + 2.0).sin() + 0.02 * (u * 3.1).sin(), [92, 120, 118]),
                (0.78 + 0.05 * (u * 0.9 + 4.0).sin() + 0.01 * (u * 5.0).sin(), [66, 108, 120]),
            ];
            for y in 0..height {
                let v = y as f32 / height as f32;
                let hill = hills.iter().rposition(|(ridge, _)| v > *ridge);
                let [luma, blue, red] = match hill {
                    Some(i) => hills[i].1.map(f32::from),
                    None => [95.0 + 210.0 * v, 168.0 - 130.0 * v, 106.0 + 85.0 * v],
                };
                let strength = [0.5, 0.8, 1.0][hill.unwrap_or(0)] * if hill.is_some() { 1.0 } else { 0.2 };
                let bump = texture.at(x, y, hill.unwrap_or(0)) * strength;
                let row = self.row_mut(y);
                row[0][x] = (luma + bump) as u8;
                if y % 2 == 0 {
                    row[1][x] = (blue - bump * 0.2) as u8;
                    row[2][x] = (red + bump * 0.1) as u8;
                }
            }
        }
    }

    fn draw_colour_bars(&mut self, height: u32) {
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
        let width = self.size.width as usize;
        for y in (self.size.height - height) as usize..self.size.height as usize {
            for (plane, row) in self.row_mut(y).into_iter().enumerate() {
                row.iter_mut().enumerate().for_each(|(x, pixel)| *pixel = BARS[x * BARS.len() / width][plane]);
            }
        }
    }
}

/// How much of a colour goes to each pixel of a rectangle.
struct Mask {
    width: usize,
    alpha: Vec<u8>,
}

impl Mask {
    /// From a shape, given as the distance in pixels from its edge, negative inside.
    fn new(size: [f32; 2], opacity: f32, distance: impl Fn(f32, f32) -> f32) -> Self {
        let [width, height] = size.map(|v| v.ceil().max(0.0) as usize);
        let alpha = |i: usize| {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            ((0.5 - distance(x, y)).clamp(0.0, 1.0) * opacity * 255.0) as u8
        };
        Self { width, alpha: (0..width * height).map(alpha).collect() }
    }

    fn rectangle(width: f32, height: f32) -> Self {
        Self::new([width, height], 0.9, |_, _| -1.0)
    }
}

/// A mask at its place, in a colour.
struct Sprite<'a> {
    mask: &'a Mask,
    at: [i32; 2],
    colour: Colour,
}

impl Sprite<'_> {
    /// Lays it over one row of a picture, of which it may stand out on all sides.
    fn blend(&self, y: usize, row: &mut [&mut [u8]]) {
        let line = y as i64 - i64::from(self.at[1]);
        let Some(alpha) =
            usize::try_from(line).ok().and_then(|line| self.mask.alpha.chunks(self.mask.width.max(1)).nth(line))
        else {
            return;
        };
        let hidden = (-self.at[0]).max(0) as usize;
        let start = self.at[0].max(0) as usize;
        for (plane, &over) in row.iter_mut().zip(&self.colour) {
            for (under, &alpha) in plane.iter_mut().skip(start).zip(alpha.iter().skip(hidden)) {
                let (under_part, over_part) =
                    (u32::from(*under) * (255 - u32::from(alpha)), u32::from(over) * u32::from(alpha));
                *under = ((under_part + over_part + 127) / 255) as u8;
            }
        }
    }
}

fn to_segment([x, y]: [f32; 2], [ax, ay]: [f32; 2], [bx, by]: [f32; 2]) -> f32 {
    let [dx, dy] = [bx - ax, by - ay];
    let along = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy).max(1e-6);
    let along = along.clamp(0.0, 1.0);
    (x - ax - along * dx).hypot(y - ay - along * dy)
}

// ---- Letters ----

/// Strokes of a letter on a grid: 4 wide, 6 from the top to the line, 2 below. Each pair of digits is a point.
fn strokes(letter: char) -> &'static str {
    match letter {
        '0' => "10 30 41 45 36 16 05 01 10",
        '1' => "02 20 26/06 46",
        '2' => "01 10 30 41 42 06 46",
        '3' => "01 10 30 41 42 33 23/33 44 45 36 16 05",
        '4' => "36 30 04 44",
        '5' => "40 00 02 32 43 45 36 16 05",
        '6' => "41 30 10 01 05 16 36 45 44 33 13 04",
        '7' => "00 40 41 16",
        '8' => "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
        '9' => "42 33 13 02 01 10 30 41 45 36 16 05",
        ':' => "02/05",
        '.' => "06",
        'C' => "41 30 10 01 05 16 36 45",
        'T' => "00 40/20 26",
        'U' => "00 05 16 36 45 40",
        'a' => "12 32 43 46/44 14 05 16 36 45",
        'b' => "00 06/03 12 32 43 45 36 16 05",
        'e' => "04 44 43 32 12 03 05 16 36 45",
        'f' => "30 20 11 16/02 32",
        'h' => "00 06/03 12 32 43 46",
        'm' => "02 06/03 12 23 26/23 32 43 46",
        'p' => "02 08/03 12 32 43 45 36 16 05",
        'r' => "02 06/03 12 32",
        's' => "43 32 12 03 14 34 45 36 16 05",
        'u' => "02 05 16 36 45/42 46",
        'x' => "02 46/42 06",
        _ => "",
    }
}

fn points(stroke: &str) -> impl Iterator<Item = [f32; 2]> {
    stroke.split(' ').map(|point| [0, 1].map(|i| point.as_bytes().get(i).map_or(0.0, |digit| f32::from(digit - b'0'))))
}

/// The letters that are needed, at one size.
struct Font {
    unit: f32,
    letters: Vec<(char, Mask)>,
}

impl Font {
    /// Room round the grid for half a stroke.
    const MARGIN: f32 = 1.0;

    /// `unit` is a sixth of a digit's height, in pixels. Too small a one gives no letters at all.
    fn new(unit: f32, letters: &str) -> Self {
        let letters = if unit < 0.8 { "" } else { letters };
        Self { unit, letters: letters.chars().map(|letter| (letter, Self::draw(letter, unit))).collect() }
    }

    fn draw(letter: char, unit: f32) -> Mask {
        let mut segments = Vec::new();
        for stroke in strokes(letter).split('/').filter(|stroke| !stroke.is_empty()) {
            let points: Vec<_> = points(stroke).map(|point| point.map(|v| (v + Self::MARGIN) * unit)).collect();
            let ends = points.iter().skip(1).chain(points.last());
            segments.extend(points.iter().copied().zip(ends.copied()));
        }
        let size = [Self::grid_width(letter) + 2.0 * Self::MARGIN, 8.0 + 2.0 * Self::MARGIN].map(|v| v * unit);
        Mask::new(size, 1.0, |x, y| {
            let nearest = segments.iter().map(|&(a, b)| to_segment([x, y], a, b)).fold(f32::MAX, f32::min);
            nearest - 0.5 * unit
        })
    }

    fn grid_width(letter: char) -> f32 {
        strokes(letter).split('/').flat_map(points).map(|[x, _]| x).fold(0.0, f32::max)
    }

    /// Width of a text, in units.
    fn units(text: &str) -> f32 {
        text.chars().map(|letter| Self::grid_width(letter) + 2.0).sum::<f32>() - 2.0
    }

    /// Adds a text's letters, the first one's top left corner at this place.
    fn write<'a>(&'a self, text: &str, [x, y]: [i32; 2], sprites: &mut Vec<Sprite<'a>>) {
        let mut along = x as f32 - Self::MARGIN * self.unit;
        let top = y - (Self::MARGIN * self.unit).round() as i32;
        for letter in text.chars() {
            if let Some((_, mask)) = self.letters.iter().find(|(known, _)| *known == letter) {
                sprites.push(Sprite { mask, at: [along.round() as i32, top], colour: WHITE });
            }
            along += (Self::grid_width(letter) + 2.0) * self.unit;
        }
    }
}

// ---- Texture ----

/// Seamless noise with as much in coarse as in fine structure, as surfaces have.
struct Texture(Vec<f32>);

impl Texture {
    const SIDE: usize = 256;

    fn new() -> Self {
        let mut sum = vec![0.0; Self::SIDE * Self::SIDE];
        for cells in [8, 16, 32, 64, 128] {
            let mut random = Random(cells as u64);
            let lattice: Vec<f32> = (0..cells * cells).map(|_| random.below(256) as f32 / 128.0 - 1.0).collect();
            let at = |i: usize, j: usize| lattice[j % cells * cells + i % cells];
            let step = Self::SIDE / cells;
            for (i, value) in sum.iter_mut().enumerate() {
                let (x, y) = (i % Self::SIDE, i / Self::SIDE);
                let ease = |v: usize| {
                    let t = (v % step) as f32 / step as f32;
                    t * t * (3.0 - 2.0 * t)
                };
                let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
                let (left, top) = (x / step, y / step);
                let upper = mix(at(left, top), at(left + 1, top), ease(x));
                let lower = mix(at(left, top + 1), at(left + 1, top + 1), ease(x));
                *value += mix(upper, lower, ease(y)) * 12.0;
            }
        }
        Self(sum)
    }

    /// Another part of it for each `kind`.
    fn at(&self, x: usize, y: usize, kind: usize) -> f32 {
        self.0[(y + 57 * kind) % Self::SIDE * Self::SIDE + (x + 101 * kind) % Self::SIDE]
    }
}

/// SplitMix64: the same picture on each machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}

// ---- Segments ----

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

/// The frame as many webcams send it: `AVI1` for `JFIF`, and no DHT, the standard tables being taken for granted.
fn without_huffman_tables(jpeg: &[u8]) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    let mut at = 2;
    while jpeg[at + 1] != SOS {
        let next = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        match jpeg[at + 1] {
            DHT => {}
            APP0 => push_segment(&mut out, APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0"),
            _ => out.extend_from_slice(&jpeg[at..next]),
        }
        at = next;
    }
    out.extend_from_slice(&jpeg[at..]);
    out
}

/// Lengthens a JPEG to `length` bytes with COM segments after its first one; up to three bytes may be missing.
fn pad(jpeg: &mut Vec<u8>, length: usize) {
    const LARGEST: usize = 65_537;
    let mut filler = Vec::new();
    while let missing @ 4.. = length.saturating_sub(jpeg.len() + filler.len()) {
        push_segment(&mut filler, COM, &vec![0; missing.min(LARGEST) - 4]);
    }
    let first_end = 4 + usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]]));
    jpeg.splice(first_end..first_end, filler);
}
