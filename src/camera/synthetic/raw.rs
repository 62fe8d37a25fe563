//! The test picture as a camera without Motion-JPEG sends it.

use super::picture::{Moment, TestPicture};
use crate::camera::pixels::{Layout, PixelFormat};
use crate::frame::Size;

/// Rows are longer than the picture is wide, as some drivers have them.
const PADDING: usize = 16;

/// How the pictures lie.
pub(super) fn layout(format: PixelFormat, size: Size) -> Layout {
    let stride = (format.row(size.width as usize) + PADDING).next_multiple_of(2);
    Layout { format, size, stride, is_limited: false, is_bt709: false }
}

/// Draws one frame.
pub(super) fn draw(picture: &mut TestPicture, layout: &Layout, moment: Moment) -> Vec<u8> {
    let mut out = vec![0x55; layout.len()];
    picture.rows(moment, |y, row| draw_row(layout, y, row, &mut out));
    out
}

/// Of the colour differences of two rows those of the upper one are taken.
fn draw_row(layout: &Layout, y: usize, [luma, blue, red]: [&[u8]; 3], out: &mut [u8]) {
    let width = luma.len();
    let last = width - 1;
    let at = layout.row(y);
    match layout.format {
        PixelFormat::Grey => out[at..][..width].copy_from_slice(luma),
        PixelFormat::Nv12 | PixelFormat::Yu12 => {
            out[at..][..width].copy_from_slice(luma);
            let is_upper = y.is_multiple_of(2);
            for x in (0..width.div_ceil(2)).filter(|_| is_upper) {
                let [first, second] = match layout.format {
                    PixelFormat::Nv12 => [0, 1].map(|plane| layout.chroma_row(1, y / 2) + 2 * x + plane),
                    _ => [1, 2].map(|plane| layout.chroma_row(plane, y / 2) + x),
                };
                (out[first], out[second]) = (blue[2 * x], red[2 * x]);
            }
        }
        PixelFormat::Yuyv | PixelFormat::Uyvy => {
            for (x, four) in out[at..][..layout.format.row(width)].chunks_exact_mut(4).enumerate() {
                let (left, right) = (2 * x, (2 * x + 1).min(last));
                let values = [luma[left], blue[left], luma[right], red[left]];
                let order = if layout.format == PixelFormat::Yuyv { [0, 1, 2, 3] } else { [1, 0, 3, 2] };
                order.iter().zip(four).for_each(|(from, to)| *to = values[*from]);
            }
        }
        PixelFormat::Rgb24 | PixelFormat::Bgr24 => {
            for (x, pixel) in out[at..][..3 * width].chunks_exact_mut(3).enumerate() {
                let [y, b, r] = [luma[x], blue[x], red[x]].map(f32::from);
                let (b, r) = (b - 128.0, r - 128.0);
                let colours =
                    [y + 1.402 * r, y - 0.344 * b - 0.714 * r, y + 1.772 * b].map(|value| value.round() as u8);
                pixel.copy_from_slice(&colours);
                if layout.format == PixelFormat::Bgr24 {
                    pixel.reverse();
                }
            }
        }
    }
}
