//! A JPEG encoder: baseline, 4:2:0 or grey, with the standard Huffman tables.
//!
//! It takes planes of luma and colour differences, sixteen rows at a time, so that a camera's raw picture needs no detour
//! over RGB; a limited range of values costs nothing, since it is a factor of the quantization. The discrete cosine
//! transform is that of Arai, Agui and Nakajima in floating point, written so that the compiler makes vectors of it.

use super::segments::*;

/// Rows that are encoded at a time.
pub const STRIP: usize = 16;

/// How values stand for light: what is black, and the factors that make luma and colour differences 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    black: f32,
    luma: f32,
    chroma: f32,
}

impl Levels {
    /// 0 to 255, as in a JPEG.
    pub const FULL: Self = Self { black: 0.0, luma: 1.0, chroma: 1.0 };
    /// 16 to 235, and 16 to 240 for colour differences, as in video.
    pub const LIMITED: Self = Self { black: 16.0, luma: 255.0 / 219.0, chroma: 255.0 / 224.0 };
    /// Luma and colour differences that were calculated from red, green and blue of 16 to 235.
    pub const LIMITED_RGB: Self = Self { chroma: 255.0 / 219.0, ..Self::LIMITED };
}

/// Sixteen rows of a picture in planes. Rows of luma are `stride` bytes apart, those of the colour differences, which have
/// half as many values in both directions, half of it.
pub struct Strip {
    /// Not less than the width.
    pub stride: usize,
    /// Luma.
    pub luma: Vec<u8>,
    /// Blue and red difference.
    pub chroma: [Vec<u8>; 2],
}

/// Encodes pictures of one size.
pub struct Encoder {
    width: usize,
    height: usize,
    is_grey: bool,
    /// All that stands before the scan.
    head: Vec<u8>,
    strip: Strip,
    /// For luma and for colour differences.
    tables: [Tables; 2],
}

/// What one kind of plane is encoded with.
struct Tables {
    /// The value that is a zero of the transform.
    zero: f32,
    /// What each coefficient is multiplied by, in the transform's order.
    factors: [f32; 64],
    /// Code and length by number of bits.
    dc: [(u16, u8); 12],
    /// Code and length by zeroes before the coefficient (high four bits) and number of bits.
    ac: [(u16, u8); 256],
}

/// Annex K.1, for quality 50, in zigzag order.
#[rustfmt::skip]
const QUANTIZATION: [[u8; 64]; 2] = [[
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
    56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
], [
    17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
]];

/// Where the transform puts each coefficient of the zigzag order: columns first.
const ORDER: [u8; 64] = order();

const fn order() -> [u8; 64] {
    let mut order = [0; 64];
    let (mut index, mut diagonal) = (0, 0);
    while diagonal < 15 {
        let mut step = 0;
        while step <= diagonal {
            let (row, column) = if diagonal % 2 == 0 { (diagonal - step, step) } else { (step, diagonal - step) };
            if row < 8 && column < 8 {
                order[index] = (column * 8 + row) as u8;
                index += 1;
            }
            step += 1;
        }
        diagonal += 1;
    }
    order
}

/// What the transform's coefficients are too large by, in each direction.
const GAINS: [f64; 8] =
    [1.0, 1.387_039_845, 1.306_562_965, 1.175_875_602, 1.0, 0.785_694_958, 0.541_196_1, 0.275_899_379];

impl Encoder {
    /// For pictures of this size, at a quality from 1 to 100 on the IJG's scale.
    pub fn new(width: u16, height: u16, quality: u8, levels: Levels, is_grey: bool) -> Self {
        let percent = match u32::from(quality.clamp(1, 100)) {
            low @ ..50 => 5000 / low,
            high => 200 - 2 * high,
        };
        let divisors =
            QUANTIZATION.map(|table| table.map(|step| ((u32::from(step) * percent + 50) / 100).clamp(1, 255) as u8));
        let stride = usize::from(width).next_multiple_of(16);
        let planes = if is_grey { 1 } else { 2 };
        let mut head = vec![0xFF, SOI];
        head.extend_from_slice(&super::header::JFIF);
        for (identifier, table) in divisors.iter().enumerate().take(planes) {
            head.extend_from_slice(&[0xFF, DQT, 0, 67, identifier as u8]);
            head.extend_from_slice(table);
        }
        let components: &[[u8; 4]] =
            if is_grey { &[[1, 0x11, 0, 0]] } else { &[[1, 0x22, 0, 0], [2, 0x11, 1, 0x11], [3, 0x11, 1, 0x11]] };
        let count = components.len() as u8;
        let ([h1, h0], [w1, w0]) = (height.to_be_bytes(), width.to_be_bytes());
        head.extend_from_slice(&[0xFF, SOF0, 0, 8 + 3 * count, 8, h1, h0, w1, w0, count]);
        components.iter().for_each(|component| head.extend_from_slice(&component[..3]));
        head.extend_from_slice(&STANDARD_DHT);
        head.extend_from_slice(&[0xFF, SOS, 0, 6 + 2 * count, count]);
        components.iter().for_each(|[identifier, _, _, tables]| head.extend_from_slice(&[*identifier, *tables]));
        head.extend_from_slice(&[0, 63, 0]);
        let half = if is_grey { 0 } else { stride * STRIP / 4 };
        Self {
            width: width.into(),
            height: height.into(),
            is_grey,
            head,
            strip: Strip { stride, luma: vec![0; stride * STRIP], chroma: [vec![0; half], vec![0; half]] },
            tables: [
                Tables::new(0, &divisors[0], levels.black + 128.0 / levels.luma, levels.luma),
                Tables::new(1, &divisors[1], 128.0, levels.chroma),
            ],
        }
    }

    /// What every picture begins with, to its scan.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Appends one picture. `fill` is called with the number of the first row of each strip, and how many rows of luma are
    /// wanted; it fills as many values of each as the picture is wide.
    pub fn encode(&mut self, out: &mut Vec<u8>, mut fill: impl FnMut(usize, usize, &mut Strip)) {
        out.extend_from_slice(&self.head);
        let mut bits = Bits { out, held: 0, count: 0 };
        let mut last = [0; 3];
        for first in (0..self.height).step_by(STRIP) {
            let rows = STRIP.min(self.height - first);
            fill(first, rows, &mut self.strip);
            self.pad(rows);
            let Strip { stride, luma, chroma } = &self.strip;
            let [bright, coloured] = &self.tables;
            if self.is_grey {
                let across = self.width.div_ceil(8);
                for start in
                    (0..rows.div_ceil(8)).flat_map(|row| (0..across).map(move |column| row * 8 * stride + column * 8))
                {
                    bits.reserve(1);
                    bright.encode(&luma[start..], *stride, &mut last[0], &mut bits);
                }
                continue;
            }
            for x in (0..*stride).step_by(16) {
                bits.reserve(6);
                for start in [x, x + 8, x + 8 * stride, x + 8 * stride + 8] {
                    bright.encode(&luma[start..], *stride, &mut last[0], &mut bits);
                }
                for (plane, last) in chroma.iter().zip(&mut last[1..]) {
                    coloured.encode(&plane[x / 2..], stride / 2, last, &mut bits);
                }
            }
        }
        bits.finish();
        out.extend_from_slice(&[0xFF, EOI]);
    }

    /// Repeats the last column and the last row, as far as blocks go beyond the picture.
    fn pad(&mut self, rows: usize) {
        let Strip { stride, luma, chroma } = &mut self.strip;
        pad(luma, *stride, self.width, rows);
        for plane in chroma.iter_mut().filter(|plane| !plane.is_empty()) {
            pad(plane, *stride / 2, self.width.div_ceil(2), rows.div_ceil(2));
        }
    }
}

fn pad(plane: &mut [u8], stride: usize, width: usize, rows: usize) {
    if width < stride {
        for row in plane.chunks_exact_mut(stride).take(rows) {
            let last = row[width - 1];
            row[width..].fill(last);
        }
    }
    for start in (rows * stride..plane.len()).step_by(stride) {
        plane.copy_within(start - stride..start, start);
    }
}

impl Tables {
    fn new(identifier: u8, divisors: &[u8; 64], zero: f32, scale: f32) -> Self {
        let mut factors = [0.0; 64];
        for (&at, &divisor) in ORDER.iter().zip(divisors) {
            let at = usize::from(at);
            let gain = 8.0 * GAINS[at / 8] * GAINS[at % 8] * f64::from(divisor);
            factors[at] = (f64::from(scale) / gain) as f32;
        }
        let mut tables = Self { zero, factors, dc: [(0, 0); 12], ac: [(0, 0); 256] };
        let mut rest = &STANDARD_DHT[4..];
        while let [class, body @ ..] = rest
            && let Some((lengths, symbols)) = body.split_at_checked(16)
        {
            let (mut code, mut used) = (0, 0);
            for (length, &count) in (1..).zip(lengths) {
                for &symbol in &symbols[used..][..count.into()] {
                    match class {
                        class if class & 15 != identifier => {}
                        0 | 1 => tables.dc[usize::from(symbol)] = (code, length),
                        _ => tables.ac[usize::from(symbol)] = (code, length),
                    }
                    code += 1;
                }
                used += usize::from(count);
                code <<= 1;
            }
            rest = &symbols[used..];
        }
        tables
    }

    /// Encodes the block of 8x8 values with which `plane` begins.
    fn encode(&self, plane: &[u8], stride: usize, last: &mut i32, bits: &mut Bits<'_>) {
        let coefficients = self.transform(plane, stride);
        let dc = i32::from(coefficients[0]);
        let difference = dc - std::mem::replace(last, dc);
        let size = 32 - difference.unsigned_abs().leading_zeros();
        bits.put(self.dc[size as usize], difference, size);
        // The first place is the DC coefficient's, which is no zero before others.
        let mut run = -1;
        for (places, first) in ORDER.chunks_exact(4).zip([true].into_iter().chain([false; 15])) {
            let mut four = [0; 4];
            for (value, place) in four.iter_mut().zip(places) {
                *value = coefficients[usize::from(*place)];
            }
            if first {
                four[0] = 0;
            }
            if four == [0; 4] {
                run += 4;
                continue;
            }
            for value in four {
                if value == 0 {
                    run += 1;
                    continue;
                }
                while run >= 16 {
                    bits.put(self.ac[0xF0], 0, 0);
                    run -= 16;
                }
                let value = i32::from(value);
                let size = 32 - value.unsigned_abs().leading_zeros();
                bits.put(self.ac[(run as usize) << 4 | size as usize], value, size);
                run = 0;
            }
        }
        if run > 0 {
            bits.put(self.ac[0], 0, 0);
        }
    }

    /// The quantized coefficients of a block, columns first.
    fn transform(&self, plane: &[u8], stride: usize) -> [i16; 64] {
        let mut block = [[0.0; 8]; 8];
        for (y, row) in block.iter_mut().enumerate() {
            for (value, sample) in row.iter_mut().zip(&plane[y * stride..][..8]) {
                *value = f32::from(*sample) - self.zero;
            }
        }
        transform_columns(&mut block);
        let mut turned = [[0.0; 8]; 8];
        for (y, row) in block.iter().enumerate() {
            for (x, value) in row.iter().enumerate() {
                turned[x][y] = *value;
            }
        }
        transform_columns(&mut turned);
        let mut out = [0; 64];
        for ((out, value), factor) in out.iter_mut().zip(turned.as_flattened()).zip(&self.factors) {
            // Adding this leaves the number, rounded, in the lowest bits; quicker than a conversion.
            let rounded = (value * factor + 12_582_912.0).to_bits() as i16;
            // No code is longer. Only values beyond the limited range could need one.
            *out = rounded.clamp(-1023, 1023);
        }
        out
    }
}

/// The transform of all eight columns.
fn transform_columns(block: &mut [[f32; 8]; 8]) {
    // By index, since only so all columns are calculated at a time.
    #[expect(clippy::needless_range_loop)]
    for x in 0..8 {
        let d: [f32; 8] = std::array::from_fn(|y| block[y][x]);
        let (sum, difference) = (
            [d[0] + d[7], d[1] + d[6], d[2] + d[5], d[3] + d[4]],
            [d[3] - d[4], d[2] - d[5], d[1] - d[6], d[0] - d[7]],
        );
        let (outer, inner) = ((sum[0] + sum[3], sum[0] - sum[3]), (sum[1] + sum[2], sum[1] - sum[2]));
        let turn = (inner.1 + outer.1) * 0.707_106_77;
        let [a, b, c] = [difference[0] + difference[1], difference[1] + difference[2], difference[2] + difference[3]];
        let z5 = (a - c) * 0.382_683_43;
        let (z2, z4, z3) = (0.541_196_1 * a + z5, 1.306_563 * c + z5, b * 0.707_106_77);
        let (z11, z13) = (difference[3] + z3, difference[3] - z3);
        let transformed = [
            outer.0 + inner.0,
            z11 + z4,
            outer.1 + turn,
            z13 - z2,
            outer.0 - inner.0,
            z13 + z2,
            outer.1 - turn,
            z11 - z4,
        ];
        for (y, value) in transformed.into_iter().enumerate() {
            block[y][x] = value;
        }
    }
}

/// Writes bits, and a zero behind each FF.
struct Bits<'a> {
    out: &'a mut Vec<u8>,
    /// The lowest `count` bits, fewer than 32, are not written yet.
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// Makes room for blocks, so that it need not be made for each word.
    fn reserve(&mut self, blocks: usize) {
        self.out.reserve(blocks * 512);
    }

    /// A code, and behind it the lowest `size` bits of a value; of a negative value, less one.
    fn put(&mut self, (code, length): (u16, u8), value: i32, size: u32) {
        let value = (value + (value >> 31)) as u32 & ((1 << size) - 1);
        self.held = self.held << (u32::from(length) + size) | u64::from(u32::from(code) << size | value);
        self.count += u32::from(length) + size;
        if self.count >= 32 {
            self.count -= 32;
            self.write((self.held >> self.count) as u32);
        }
    }

    fn write(&mut self, word: u32) {
        let bytes = word.to_be_bytes();
        // No byte has its highest bit and loses it by adding one.
        if word & !word.wrapping_add(0x0101_0101) & 0x8080_8080 == 0 {
            self.out.extend_from_slice(&bytes);
        } else {
            bytes.iter().for_each(|byte| self.push(*byte));
        }
    }

    fn push(&mut self, byte: u8) {
        self.out.push(byte);
        if byte == 0xFF {
            self.out.push(0);
        }
    }

    /// Fills the last byte with ones.
    fn finish(mut self) {
        let free = (8 - self.count % 8) % 8;
        self.held = self.held << free | ((1 << free) - 1);
        self.count += free;
        while self.count > 0 {
            self.count -= 8;
            self.push((self.held >> self.count) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jpeg::inspect;
    use proptest::prelude::*;
    use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

    /// A picture in planes of full size: luma and, unless it is grey, both colour differences.
    fn encoded(
        size: [u16; 2],
        quality: u8,
        levels: Levels,
        is_grey: bool,
        at: impl Fn(usize, usize) -> [u8; 3],
    ) -> Vec<u8> {
        let [width, height] = size;
        let mut out = Vec::new();
        Encoder::new(width, height, quality, levels, is_grey).encode(&mut out, |first, rows, strip| {
            for y in 0..rows {
                for x in 0..usize::from(width) {
                    let [luma, blue, red] = at(x, first + y);
                    strip.luma[y * strip.stride + x] = luma;
                    if !is_grey {
                        let at = y / 2 * strip.stride / 2 + x / 2;
                        (strip.chroma[0][at], strip.chroma[1][at]) = (blue, red);
                    }
                }
            }
        });
        out
    }

    /// As another decoder sees it: luma and colour differences of each pixel.
    fn decoded(jpeg: &[u8], is_grey: bool) -> (Vec<u8>, [u16; 2]) {
        let space = if is_grey { ColorSpace::Luma } else { ColorSpace::YCbCr };
        let options = DecoderOptions::default().jpeg_set_out_colorspace(space);
        let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        let pixels = decoder.decode().unwrap();
        let (width, height) = decoder.dimensions().unwrap();
        (pixels, [width as u16, height as u16])
    }

    #[test]
    fn the_order_is_zigzag() {
        // Annex A, figure A.6, columns first.
        assert_eq!(ORDER[..10], [0, 8, 1, 2, 9, 16, 24, 17, 10, 3]);
        assert_eq!(ORDER[61..], [62, 55, 63]);
        assert_eq!(ORDER.iter().fold(0_u64, |seen, place| seen | 1 << place), u64::MAX);
    }

    #[test]
    fn limited_levels_become_those_of_a_jpeg() {
        for (levels, given, expected) in [
            (Levels::FULL, [200, 90, 160], [200, 90, 160]),
            (Levels::LIMITED, [16, 128, 128], [0, 128, 128]),
            (Levels::LIMITED, [235, 128, 128], [255, 128, 128]),
            (Levels::LIMITED, [126, 16, 240], [128, 0, 255]),
            (Levels::LIMITED_RGB, [126, 72, 184], [128, 63, 193]),
            // Brighter than white is white.
            (Levels::LIMITED, [255, 128, 128], [255, 128, 128]),
        ] {
            let (pixels, _) = decoded(&encoded([16, 16], 95, levels, false, |_, _| given), false);
            for (seen, expected) in pixels.iter().zip(expected.iter().cycle()) {
                assert!(seen.abs_diff(*expected) <= 2, "{levels:?} {given:?}: {seen}, not {expected}");
            }
        }
    }

    #[test]
    fn what_compresses_badly_is_whole_and_right_at_the_highest_quality() {
        // Black and white in all patterns: the largest coefficients, and bytes of FF.
        for period in [1, 2, 3, 8] {
            let at = |x: usize, y: usize| {
                if (x / period + y / period).is_multiple_of(2) { [255, 0, 255] } else { [0, 255, 0] }
            };
            for levels in [Levels::FULL, Levels::LIMITED] {
                let jpeg = encoded([64, 48], 100, levels, true, at);
                let (pixels, _) = decoded(&jpeg, true);
                assert_eq!(inspect(&jpeg).unwrap().len(), jpeg.len());
                let errors = (0..48 * 64).filter(|at_| pixels[*at_].abs_diff(at(at_ % 64, at_ / 64)[0]) > 12).count();
                assert!(levels == Levels::LIMITED || errors == 0, "{errors} wrong pixels of period {period}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_picture_is_what_went_in(
            width in 1_u16..70, height in 1_u16..70, quality in 60_u8..=100, is_grey: bool, seed: u32,
        ) {
            // Slopes, so that neither quantization nor sampling changes much, with one step.
            let [a, b, c] = [seed & 3, seed >> 2 & 3, seed >> 4 & 3].map(|factor| factor as usize);
            let at = |x: usize, y: usize| {
                [x * a / 2 + y * b / 2 + if x > 20 { 60 } else { 0 }, 100 + x / 2 * c / 4, 150 - y / 2 * a / 4]
                    .map(|value| value.min(255) as u8)
            };
            let jpeg = encoded([width, height], quality, Levels::FULL, is_grey, at);
            prop_assert_eq!(inspect(&jpeg).map(|picture| (picture.width(), picture.height())), Ok((width.into(), height.into())));
            let (pixels, size) = decoded(&jpeg, is_grey);
            prop_assert_eq!(size, [width, height]);
            let planes = if is_grey { 1 } else { 3 };
            for (number, pixel) in pixels.chunks_exact(planes).enumerate() {
                let (x, y) = (number % usize::from(width), number / usize::from(width));
                let expected = at(x, y);
                // The step rings.
                for plane in (0..planes).filter(|_| !(10..30).contains(&x)) {
                    prop_assert!(pixel[plane].abs_diff(expected[plane]) <= 14, "{x},{y}: {pixel:?}, not {expected:?}");
                }
            }
        }
    }

    /// The kept crate for this at the same quality makes the same pictures.
    #[test]
    fn pictures_are_those_of_another_encoder() {
        use jpeg_encoder::{ColorType, SamplingFactor};
        let at = |x: usize, y: usize| [(x * 7 + y * 3) as u8, (x / 4 * 5) as u8 | 64, (y / 4 * 9) as u8 & 191];
        let (width, height) = (64, 48);
        let pixels: Vec<u8> =
            (0..width * height).flat_map(|number| at((number % width) & !1, (number / width) & !1)).collect();
        for quality in [10, 50, 80, 95] {
            let mut theirs = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut theirs, quality);
            encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
            encoder.encode(&pixels, width as u16, height as u16, ColorType::Ycbcr).unwrap();
            let ours = encoded([width as u16, height as u16], quality, Levels::FULL, false, |x, y| at(x & !1, y & !1));
            let (ours, theirs) = (decoded(&ours, false).0, decoded(&theirs, false).0);
            let difference: u32 = ours.iter().zip(&theirs).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let mean = f64::from(difference) / ours.len() as f64;
            assert!(mean < 0.8, "quality {quality}: {mean} on average");
        }
    }
}
