//! From the rows of a raw picture to planes for the encoder.

use crate::camera::pixels::{Layout, PixelFormat};
use crate::jpeg::encoder::{Levels, Strip};

/// What the values in the planes mean that [`fill`] makes.
pub(super) fn levels(layout: &Layout) -> Levels {
    match (layout.is_limited, layout.format) {
        (false, _) => Levels::FULL,
        (true, PixelFormat::Rgb24 | PixelFormat::Bgr24) => Levels::LIMITED_RGB,
        (true, _) => Levels::LIMITED,
    }
}

/// Fills a strip with `rows` rows from row `first` on. The picture must be whole.
pub(super) fn fill(layout: &Layout, data: &[u8], first: usize, rows: usize, strip: &mut Strip) {
    let width = layout.size.width as usize;
    let stride = strip.stride;
    for (y, luma) in strip.luma.chunks_exact_mut(stride).take(rows).enumerate() {
        let row = &data[layout.row(first + y)..][..layout.format.row(width)];
        fill_luma(layout.format, row, &mut luma[..width]);
    }
    if layout.format == PixelFormat::Grey {
        return;
    }
    let [blue, red] = &mut strip.chroma;
    let chroma = blue.chunks_exact_mut(stride / 2).zip(red.chunks_exact_mut(stride / 2));
    for (y, (blue, red)) in chroma.take(rows.div_ceil(2)).enumerate() {
        let half = width.div_ceil(2);
        let (blue, red) = (&mut blue[..half], &mut red[..half]);
        // The upper of the two rows, and the lower one, where there is one.
        let upper = first + 2 * y;
        let lower = (upper + 1).min(first + rows - 1);
        let packed = |y: usize| &data[layout.row(y)..][..layout.format.row(width)];
        match layout.format {
            PixelFormat::Grey => {}
            PixelFormat::Nv12 => {
                let pairs = data[layout.chroma_row(1, upper / 2)..].chunks_exact(2);
                for ((blue, red), pair) in blue.iter_mut().zip(red).zip(pairs) {
                    (*blue, *red) = (pair[0], pair[1]);
                }
            }
            PixelFormat::Yu12 => {
                blue.copy_from_slice(&data[layout.chroma_row(1, upper / 2)..][..half]);
                red.copy_from_slice(&data[layout.chroma_row(2, upper / 2)..][..half]);
            }
            PixelFormat::Yuyv => average_pairs::<1>(packed(upper), packed(lower), blue, red),
            PixelFormat::Uyvy => average_pairs::<0>(packed(upper), packed(lower), blue, red),
            PixelFormat::Rgb24 => differences::<0, 2>(packed(upper), packed(lower), blue, red),
            PixelFormat::Bgr24 => differences::<2, 0>(packed(upper), packed(lower), blue, red),
        }
    }
    if layout.is_bt709 && !matches!(layout.format, PixelFormat::Rgb24 | PixelFormat::Bgr24) {
        to_bt601(strip, width, rows);
    }
}

fn fill_luma(format: PixelFormat, row: &[u8], luma: &mut [u8]) {
    match format {
        PixelFormat::Nv12 | PixelFormat::Yu12 | PixelFormat::Grey => luma.copy_from_slice(row),
        PixelFormat::Yuyv => luma.iter_mut().zip(row.chunks_exact(2)).for_each(|(luma, pair)| *luma = pair[0]),
        PixelFormat::Uyvy => luma.iter_mut().zip(row.chunks_exact(2)).for_each(|(luma, pair)| *luma = pair[1]),
        PixelFormat::Rgb24 => {
            luma.iter_mut().zip(row.chunks_exact(3)).for_each(|(out, p)| *out = mix(p[0], p[1], p[2]))
        }
        PixelFormat::Bgr24 => {
            luma.iter_mut().zip(row.chunks_exact(3)).for_each(|(out, p)| *out = mix(p[2], p[1], p[0]))
        }
    }
}

/// Luma of BT.601.
fn mix(red: u8, green: u8, blue: u8) -> u8 {
    ((77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue) + 128) >> 8) as u8
}

/// The mean of two rows' colour differences, which begin at byte `FIRST` of each four.
fn average_pairs<const FIRST: usize>(upper: &[u8], lower: &[u8], blue: &mut [u8], red: &mut [u8]) {
    let mean = |a: u8, b: u8| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    let rows = upper.chunks_exact(4).zip(lower.chunks_exact(4));
    for ((blue, red), (a, b)) in blue.iter_mut().zip(red).zip(rows) {
        *blue = mean(a[FIRST], b[FIRST]);
        *red = mean(a[FIRST + 2], b[FIRST + 2]);
    }
}

/// Colour differences of the mean of four pixels, whose bytes `RED` and `BLUE` are red and blue.
fn differences<const RED: usize, const BLUE: usize>(upper: &[u8], lower: &[u8], blue: &mut [u8], red: &mut [u8]) {
    // The last pixel of an odd row stands for the one that it lacks.
    for ((blue, red), (a, b)) in blue.iter_mut().zip(red).zip(upper.chunks(6).zip(lower.chunks(6))) {
        let right = a.len() - 3;
        let sum = |at: usize| [a[at], a[right + at], b[at], b[right + at]].into_iter().map(i32::from).sum::<i32>();
        let (r, g, b) = (sum(RED), sum(1), sum(BLUE));
        // Four times the sum of 256ths, rounded.
        *blue = (((-43 * r - 85 * g + 128 * b + 512) >> 10) + 128).min(255) as u8;
        *red = (((128 * r - 107 * g - 21 * b + 512) >> 10) + 128).min(255) as u8;
    }
}

/// Makes colours of BT.601 of those of BT.709, in place.
fn to_bt601(strip: &mut Strip, width: usize, rows: usize) {
    let Strip { stride, luma, chroma: [blue, red] } = strip;
    for y in 0..rows.div_ceil(2) {
        for x in 0..width.div_ceil(2) {
            let at = y * *stride / 2 + x;
            let (b, r) = (i32::from(blue[at]) - 128, i32::from(red[at]) - 128);
            let added = (26 * b + 50 * r + 128) >> 8;
            for row in [2 * y, 2 * y + 1] {
                for value in &mut luma[row * *stride + 2 * x..][..2] {
                    *value = (i32::from(*value) + added).clamp(0, 255) as u8;
                }
            }
            blue[at] = (((253 * b - 28 * r + 128) >> 8) + 128).clamp(0, 255) as u8;
            red[at] = (((252 * r - 19 * b + 128) >> 8) + 128).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Size;

    /// Luma and colour differences of the test's picture, in blocks of 2x2 pixels, so that sampling changes nothing.
    fn at(x: usize, y: usize) -> [u8; 3] {
        let (x, y) = (x / 2, y / 2);
        [64 + ((x * 11 + y * 7) as u8 & 127), (100 + x * 3) as u8, (140 - y * 2) as u8]
    }

    /// The same as red, green and blue.
    fn rgb(x: usize, y: usize) -> [u8; 3] {
        let [luma, blue, red] = at(x, y).map(f32::from);
        let (b, r) = (blue - 128.0, red - 128.0);
        [luma + 1.402 * r, luma - 0.344_14 * b - 0.714_14 * r, luma + 1.772 * b]
            .map(|value| value.round().clamp(0.0, 255.0) as u8)
    }

    /// A raw picture, made pixel by pixel from what the kernel's documentation says of each format.
    fn picture(layout: &Layout) -> Vec<u8> {
        let (width, height) = (layout.size.width as usize, layout.size.height as usize);
        let mut data = vec![0xEE; layout.stride * height * 2 + 64];
        for (x, y) in (0..height).flat_map(|y| (0..width.next_multiple_of(2)).map(move |x| (x, y))) {
            let [luma, blue, red] = at(x.min(width - 1), y);
            let [r, g, b] = rgb(x, y);
            let line = y * layout.stride;
            let chroma = height * layout.stride;
            let mut put = |place: usize, value: u8| data[place] = value;
            match layout.format {
                PixelFormat::Grey if x < width => put(line + x, luma),
                PixelFormat::Rgb24 if x < width => {
                    [r, g, b].into_iter().zip(line + 3 * x..).for_each(|(value, at)| put(at, value))
                }
                PixelFormat::Bgr24 if x < width => {
                    [b, g, r].into_iter().zip(line + 3 * x..).for_each(|(value, at)| put(at, value))
                }
                PixelFormat::Yuyv => [luma, if x % 2 == 0 { blue } else { red }]
                    .into_iter()
                    .zip(line + 2 * x..)
                    .for_each(|(value, at)| put(at, value)),
                PixelFormat::Uyvy => [if x % 2 == 0 { blue } else { red }, luma]
                    .into_iter()
                    .zip(line + 2 * x..)
                    .for_each(|(value, at)| put(at, value)),
                PixelFormat::Nv12 => {
                    if x < width {
                        put(line + x, luma);
                    }
                    put(chroma + y / 2 * layout.stride + x, if x % 2 == 0 { blue } else { red });
                }
                PixelFormat::Yu12 => {
                    if x < width {
                        put(line + x, luma);
                    }
                    let (stride, rows) = (layout.stride.div_ceil(2), height.div_ceil(2));
                    put(chroma + y / 2 * stride + x / 2, blue);
                    put(chroma + (rows + y / 2) * stride + x / 2, red);
                }
                _ => {}
            }
        }
        data.truncate(layout.len());
        data
    }

    fn strip(width: usize, is_grey: bool) -> Strip {
        let stride = width.next_multiple_of(16);
        let half = if is_grey { 0 } else { stride * 4 };
        Strip { stride, luma: vec![0; stride * 16], chroma: [vec![0; half], vec![0; half]] }
    }

    #[test]
    fn every_format_size_and_padding_gives_the_same_planes() {
        for format in PixelFormat::ALL {
            for (width, height, padding) in
                [(32, 32, 0), (30, 20, 2), (33, 17, 0), (1, 1, 0), (7, 5, 32), (2, 33, 6), (17, 16, 1)]
            {
                let stride = format.row(width as usize) + padding;
                // A row of YU12 has twice as many bytes as a row of its colours, whatever the padding.
                let stride = if format == PixelFormat::Yu12 || format == PixelFormat::Nv12 {
                    stride.next_multiple_of(2)
                } else {
                    stride
                };
                let layout =
                    Layout { format, size: Size::new(width, height), stride, is_limited: false, is_bt709: false };
                let data = picture(&layout);
                let (width, height) = (width as usize, height as usize);
                for first in (0..height).step_by(16) {
                    let rows = 16.min(height - first);
                    let mut strip = strip(width, format == PixelFormat::Grey);
                    fill(&layout, &data, first, rows, &mut strip);
                    let tolerance = if matches!(format, PixelFormat::Rgb24 | PixelFormat::Bgr24) { 2 } else { 0 };
                    for (x, y) in (0..rows).flat_map(|y| (0..width).map(move |x| (x, y))) {
                        let expected = at(x, first + y);
                        let place = y / 2 * strip.stride / 2 + x / 2;
                        let mut seen = vec![strip.luma[y * strip.stride + x]];
                        if format != PixelFormat::Grey {
                            seen.extend([strip.chroma[0][place], strip.chroma[1][place]]);
                        }
                        for (seen, expected) in seen.iter().zip(expected) {
                            assert!(seen.abs_diff(expected) <= tolerance, "{layout:?} {x},{y}: {seen}, not {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn colours_of_bt709_become_those_of_bt601() {
        // Pure colours at 75 %, in both, of limited range.
        for (name, given, expected) in [
            ("white", [180, 128, 128], [180, 128, 128]),
            ("red", [51, 109, 212], [65, 100, 212]),
            ("green", [133, 63, 52], [112, 72, 58]),
            ("blue", [28, 212, 120], [35, 212, 114]),
        ] {
            let layout = Layout {
                format: PixelFormat::Yuyv,
                size: Size::new(4, 2),
                stride: 8,
                is_limited: true,
                is_bt709: true,
            };
            let [luma, blue, red] = given;
            let mut strip = strip(4, false);
            fill(&layout, &[luma, blue, luma, red].repeat(4), 0, 2, &mut strip);
            let seen = [strip.luma[strip.stride + 3], strip.chroma[0][1], strip.chroma[1][1]];
            assert!(seen.iter().zip(expected).all(|(seen, expected)| seen.abs_diff(expected) <= 2), "{name}: {seen:?}");
        }
    }

    #[test]
    fn white_and_black_of_rgb_keep_within_their_range() {
        // Luma and both colour differences of a picture of one colour.
        let planes = |colour: [u8; 3]| {
            let layout = Layout {
                format: PixelFormat::Rgb24,
                size: Size::new(2, 2),
                stride: 6,
                is_limited: false,
                is_bt709: false,
            };
            let mut strip = strip(2, false);
            fill(&layout, &colour.repeat(4), 0, 2, &mut strip);
            [strip.luma[0], strip.chroma[0][0], strip.chroma[1][0]]
        };
        for value in [0, 255] {
            assert_eq!(planes([value; 3]), [value, 128, 128]);
        }
        for (colour, expected) in [([255, 0, 0], [77, 85, 255]), ([0, 0, 255], [29, 255, 107])] {
            let seen = planes(colour);
            assert!(
                seen.iter().zip(expected).all(|(seen, expected)| seen.abs_diff(expected) <= 1),
                "{colour:?}: {seen:?}"
            );
        }
    }
}
