//! Raw formats of a V4L2 device, and how their pixels lie in its buffers.
#![allow(unsafe_code)]

use std::io;

use v4l::FourCC;
use v4l::device::Handle;
use v4l::v4l_sys::{v4l2_format, v4l2_pix_format};
use v4l::v4l2::vidioc::VIDIOC_G_FMT;

use super::ioctl::{Plain, call};
use crate::camera::pixels::{Layout, PixelFormat};
use crate::frame::Size;

/// V4L2_BUF_TYPE_VIDEO_CAPTURE
const VIDEO_CAPTURE: u32 = 1;
// Of the enumerations v4l2_colorspace, v4l2_ycbcr_encoding and v4l2_quantization.
const COLORSPACE_REC709: u32 = 3;
const COLORSPACE_JPEG: u32 = 7;
const COLORSPACE_DCI_P3: u32 = 12;
const YCBCR_709: u32 = 2;
const FULL_RANGE: u32 = 1;
const LIMITED_RANGE: u32 = 2;

// SAFETY: integers, arrays and unions of integers, and pointers, which may be null.
unsafe impl Plain for v4l2_format {}
// SAFETY: integers, and a union of integers.
unsafe impl Plain for v4l2_pix_format {}

/// Those of the formats on offer that are raw and known.
pub fn formats(offered: &[FourCC]) -> Vec<PixelFormat> {
    PixelFormat::ALL.into_iter().filter(|format| offered.contains(&FourCC::new(format.fourcc()))).collect()
}

/// How the pixels lie of the format that was set.
///
/// # Errors
/// The system's.
pub fn layout(handle: &Handle, format: PixelFormat) -> io::Result<Layout> {
    let mut got = v4l2_format { type_: VIDEO_CAPTURE, ..Plain::zeroed() };
    // SAFETY: this ioctl takes this struct.
    unsafe { call(handle, VIDIOC_G_FMT, &mut got) }?;
    // SAFETY: the driver filled the union's member of this type; any bytes are integers.
    Ok(read(format, unsafe { &got.fmt.pix }))
}

/// What is not said has the meaning that V4L2 gives it by default.
fn read(format: PixelFormat, pix: &v4l2_pix_format) -> Layout {
    let is_rgb = matches!(format, PixelFormat::Rgb24 | PixelFormat::Bgr24);
    // SAFETY: both members are one integer.
    let encoding = unsafe { pix.__bindgen_anon_1.ycbcr_enc };
    Layout {
        format,
        size: Size::new(pix.width, pix.height),
        // Some drivers say nothing.
        stride: (pix.bytesperline as usize).max(format.row(pix.width as usize)),
        is_limited: match pix.quantization {
            FULL_RANGE => false,
            LIMITED_RANGE => true,
            // Grey pictures are those of a sensor, without any conversion.
            _ => !is_rgb && format != PixelFormat::Grey && pix.colorspace != COLORSPACE_JPEG,
        },
        is_bt709: match encoding {
            0 => matches!(pix.colorspace, COLORSPACE_REC709 | COLORSPACE_DCI_P3),
            encoding => encoding == YCBCR_709,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_words_become_a_layout() {
        use PixelFormat::{Grey, Rgb24, Yu12, Yuyv};
        const SRGB: u32 = 8;
        for (format, stride, colorspace, encoding, quantization, expected) in [
            (Yuyv, 0, SRGB, 0, 0, (200, true, false)),
            (Yuyv, 256, SRGB, 0, FULL_RANGE, (256, false, false)),
            (Yu12, 128, COLORSPACE_JPEG, 0, 0, (128, false, false)),
            (Yuyv, 200, COLORSPACE_REC709, 0, 0, (200, true, true)),
            (Yuyv, 200, SRGB, YCBCR_709, 0, (200, true, true)),
            (Yuyv, 200, COLORSPACE_REC709, 1, 0, (200, true, false)),
            (Rgb24, 300, SRGB, 0, 0, (300, false, false)),
            (Rgb24, 300, SRGB, 0, LIMITED_RANGE, (300, true, false)),
            (Grey, 100, SRGB, 0, 0, (100, false, false)),
        ] {
            let mut pix = v4l2_pix_format::zeroed();
            (pix.width, pix.height, pix.bytesperline) = (100, 50, stride);
            (pix.colorspace, pix.quantization, pix.__bindgen_anon_1.ycbcr_enc) = (colorspace, quantization, encoding);
            let Layout { stride, is_limited, is_bt709, .. } = read(format, &pix);
            assert_eq!((stride, is_limited, is_bt709), expected, "{format} {colorspace} {encoding} {quantization}");
        }
    }
}
