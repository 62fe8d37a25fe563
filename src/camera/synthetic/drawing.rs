//! Just enough drawing for the test picture: shapes with soft edges, laid over rows of luma and chroma.

use crate::frame::Size;

/// Luma, blue difference, red difference; the same order everywhere.
pub(super) type Colour = [u8; 3];

/// A picture. The colour differences have half the rows, since 4:2:0 uses no more.
pub(super) struct Planes {
    pub(super) size: Size,
    planes: [Vec<u8>; 3],
}

impl Planes {
    pub(super) fn new(size: Size) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        let chroma = vec![128; width * height.div_ceil(2)];
        Self { size, planes: [vec![0; width * height], chroma.clone(), chroma] }
    }

    pub(super) fn row(&self, plane: usize, y: usize) -> &[u8] {
        let (width, y) = (self.size.width as usize, if plane == 0 { y } else { y / 2 });
        &self.planes[plane][y * width..][..width]
    }

    pub(super) fn rows_mut(&mut self, y: usize) -> [&mut [u8]; 3] {
        let width = self.size.width as usize;
        let [luma, blue, red] = &mut self.planes;
        [&mut luma[y * width..][..width], &mut blue[y / 2 * width..][..width], &mut red[y / 2 * width..][..width]]
    }

    pub(super) fn draw(&mut self, sprite: &Sprite<'_>) {
        for y in 0..self.size.height as usize {
            // Chroma rows only once.
            let planes = if y % 2 == 0 { 3 } else { 1 };
            for (plane, row) in self.rows_mut(y).into_iter().enumerate().take(planes) {
                sprite.blend(plane, y, row);
            }
        }
    }
}

/// How much of a colour each pixel of a rectangle takes.
pub(super) struct Mask {
    width: usize,
    alpha: Vec<u8>,
}

impl Mask {
    /// From a shape, given as the distance in pixels from its edge, negative inside.
    pub(super) fn new(size: [f32; 2], opacity: f32, distance: impl Fn(f32, f32) -> f32) -> Self {
        let [width, height] = size.map(|v| v.ceil().max(1.0) as usize);
        let alpha = |i: usize| {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            ((0.5 - distance(x, y)).clamp(0.0, 1.0) * opacity * 255.0) as u8
        };
        Self { width, alpha: (0..width * height).map(alpha).collect() }
    }
}

/// A mask at its place, which may stand out of the picture on any side.
pub(super) struct Sprite<'a> {
    pub(super) mask: &'a Mask,
    pub(super) at: [i32; 2],
    pub(super) colour: Colour,
}

impl Sprite<'_> {
    /// Lays it over one row of one plane.
    pub(super) fn blend(&self, plane: usize, y: usize, row: &mut [u8]) {
        let [left, top] = self.at.map(|v| v as isize);
        let Some(line) = y.checked_add_signed(-top) else { return };
        let Some(alpha) = self.mask.alpha.chunks(self.mask.width).nth(line) else { return };
        let over = u32::from(self.colour[plane]);
        let under = row.iter_mut().skip(left.max(0) as usize);
        for (under, &alpha) in under.zip(alpha.iter().skip((-left).max(0) as usize)) {
            let alpha = u32::from(alpha);
            *under = ((u32::from(*under) * (255 - alpha) + over * alpha + 127) / 255) as u8;
        }
    }
}

/// Distance of a point from a line between two others.
pub(super) fn to_segment([x, y]: [f32; 2], [ax, ay]: [f32; 2], [bx, by]: [f32; 2]) -> f32 {
    let [dx, dy] = [bx - ax, by - ay];
    let along = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy).max(1e-6);
    let along = along.clamp(0.0, 1.0);
    length(x - ax - along * dx, y - ay - along * dy)
}

/// Not `hypot`, which guards against overflow at ten times the cost.
pub(super) fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// A letter's strokes on a grid: 4 wide, 6 down to the line, 2 below it. Each pair of digits is a point.
fn strokes(letter: char) -> &'static str {
    match letter {
        '0' => "20 30 41 45 36 16 05 01 10 20",
        '1' => "02 20 26/06 46",
        '2' => "01 10 30 41 42 06 46",
        '3' => "01 10 30 41 42 33 23/33 44 45 36 16 05",
        '4' => "36 30 04 44",
        '5' => "40 00 02 32 43 45 36 16 05",
        '6' => "41 30 10 01 05 16 36 45 44 33 13 04",
        '7' => "00 40 41 16",
        '8' => "23 13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33 23",
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
        'r' => "02 06/03 12 22",
        's' => "43 32 12 03 14 34 45 36 16 05",
        'u' => "02 05 16 36 45/42 46",
        'x' => "02 46/42 06",
        _ => "",
    }
}

fn points(stroke: &str) -> impl Iterator<Item = [f32; 2]> {
    stroke.as_bytes().chunks(3).map(|point| [point[0], point[1]].map(|digit| f32::from(digit - b'0')))
}

/// A stroke's points, each corner cut off close to its tip. A dot is twice the same point.
fn rounded(stroke: &str) -> Vec<[f32; 2]> {
    let points: Vec<_> = points(stroke).collect();
    let towards = |from: [f32; 2], to: [f32; 2]| {
        let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
        let part = 0.4 / dx.hypot(dy);
        [from[0] + part * dx, from[1] + part * dy]
    };
    let corners = points.windows(3).flat_map(|p| [towards(p[1], p[0]), towards(p[1], p[2])]);
    points.first().copied().into_iter().chain(corners).chain(points.last().copied()).collect()
}

/// The letters that are needed, at one size.
pub(super) struct Font {
    unit: f32,
    letters: Vec<(char, Mask)>,
}

impl Font {
    /// `unit` is a sixth of a digit's height, in pixels. Letters too small to be read are left out.
    pub(super) fn new(unit: f32, letters: &str) -> Self {
        let letters = if unit < 0.8 { "" } else { letters };
        Self { unit, letters: letters.chars().map(|letter| (letter, Self::letter(letter, unit))).collect() }
    }

    /// Drawn with a margin of one unit on each side.
    fn letter(letter: char, unit: f32) -> Mask {
        let lines: Vec<_> = strokes(letter)
            .split('/')
            .map(|stroke| rounded(stroke).iter().map(|point| point.map(|v| (v + 1.0) * unit)).collect::<Vec<_>>())
            .flat_map(|points| points.windows(2).map(|ends| (ends[0], ends[1])).collect::<Vec<_>>())
            .collect();
        Mask::new([Self::advance(letter) * unit, 10.0 * unit], 1.0, |x, y| {
            lines.iter().map(|&(a, b)| to_segment([x, y], a, b)).fold(f32::MAX, f32::min) - 0.5 * unit
        })
    }

    /// From one letter to the next, in units.
    fn advance(letter: char) -> f32 {
        let width = strokes(letter).split('/').flat_map(points).map(|[x, _]| x).fold(0.0, f32::max);
        width + if letter == ' ' { 4.0 } else { 2.0 }
    }

    /// Width of a text, in units.
    pub(super) fn units(text: &str) -> f32 {
        text.chars().map(Self::advance).sum::<f32>() - 2.0
    }

    /// A text's letters, the first one's top left corner at this place.
    pub(super) fn sprites(&self, text: &str, [x, y]: [i32; 2], colour: Colour) -> impl Iterator<Item = Sprite<'_>> {
        let mut right = x as f32 - self.unit;
        let top = (y as f32 - self.unit).round() as i32;
        text.chars().filter_map(move |letter| {
            let left = right.round() as i32;
            right += Self::advance(letter) * self.unit;
            let (_, mask) = self.letters.iter().find(|(known, _)| *known == letter)?;
            Some(Sprite { mask, at: [left, top], colour })
        })
    }
}

/// Seamless noise, as much of it coarse as fine, like surfaces in the open.
pub(super) struct Texture(Vec<f32>);

impl Texture {
    const SIDE: usize = 256;

    pub(super) fn new() -> Self {
        let mut sum = vec![0.0; Self::SIDE * Self::SIDE];
        for cells in [8, 16, 32, 64, 128] {
            let mut random = Random(cells as u64);
            let lattice: Vec<f32> = (0..cells * cells).map(|_| random.below(256) as f32 / 128.0 - 1.0).collect();
            let at = |i: usize, j: usize| lattice[j % cells * cells + i % cells];
            let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
            let step = Self::SIDE / cells;
            let ease = |v: usize| {
                let t = (v % step) as f32 / step as f32;
                t * t * (3.0 - 2.0 * t)
            };
            for (i, value) in sum.iter_mut().enumerate() {
                let (x, y) = (i % Self::SIDE, i / Self::SIDE);
                let (left, top) = (x / step, y / step);
                let upper = mix(at(left, top), at(left + 1, top), ease(x));
                let lower = mix(at(left, top + 1), at(left + 1, top + 1), ease(x));
                *value += 15.0 * mix(upper, lower, ease(y));
            }
        }
        Self(sum)
    }

    /// Another part of it for each `kind`.
    pub(super) fn at(&self, x: usize, y: usize, kind: usize) -> f32 {
        self.0[(y + 57 * kind) % Self::SIDE * Self::SIDE + (x + 101 * kind) % Self::SIDE]
    }
}

/// SplitMix64, so that the picture is the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}
