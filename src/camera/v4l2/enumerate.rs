//! What a device says that it is and offers: capabilities, formats, sizes and rates. Drivers' lists are unsorted, doubled,
//! stepwise or missing, and one that repeats an entry for ever took `v4l`'s loops all memory: these have limits.
#![allow(unsafe_code)]

use std::io;

use v4l::FourCC;
use v4l::device::Handle;
use v4l::v4l_sys::{
    V4L2_CAP_VIDEO_CAPTURE, V4L2_CAP_VIDEO_CAPTURE_MPLANE, V4L2_CAP_VIDEO_M2M, V4L2_CAP_VIDEO_M2M_MPLANE,
    V4L2_CAP_VIDEO_OUTPUT, V4L2_CAP_VIDEO_OUTPUT_MPLANE, v4l2_capability, v4l2_fmtdesc, v4l2_fract, v4l2_frmivalenum,
    v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_DISCRETE as DISCRETE_INTERVAL, v4l2_frmsizeenum,
    v4l2_frmsizetypes_V4L2_FRMSIZE_TYPE_DISCRETE as DISCRETE_SIZE,
};
use v4l::v4l2::vidioc::{
    _IOC_TYPE, VIDIOC_ENUM_FMT, VIDIOC_ENUM_FRAMEINTERVALS, VIDIOC_ENUM_FRAMESIZES, VIDIOC_QUERYCAP,
};

use super::ioctl::{Plain, call};
use crate::camera::Offer;
use crate::frame::Size;

/// More entries than any list has.
const MAX_ENTRIES: u32 = 256;
/// V4L2_CAP_DEVICE_CAPS: `device_caps` says what this node can do, `capabilities` what all nodes of the device can.
const DEVICE_CAPS: u32 = 0x8000_0000;
const MAX_FORMATS: usize = 64;
/// V4L2_BUF_TYPE_VIDEO_CAPTURE
const VIDEO_CAPTURE: u32 = 1;

/// Which device a node belongs to, and what it can do.
pub struct Capabilities {
    /// The driver's name.
    pub driver: String,
    /// The card's name.
    pub card: String,
    /// Where it is plugged in.
    pub bus: String,
    flags: u32,
}

impl Capabilities {
    /// Asks a device (VIDIOC_QUERYCAP).
    ///
    /// # Errors
    /// The system's.
    pub fn read(handle: &Handle) -> io::Result<Self> {
        let mut caps = v4l2_capability::zeroed();
        // SAFETY: this ioctl takes this struct.
        unsafe { call(handle, VIDIOC_QUERYCAP, &mut caps) }?;
        let flags = if caps.capabilities & DEVICE_CAPS != 0 { caps.device_caps } else { caps.capabilities };
        Ok(Self { driver: text(&caps.driver), card: text(&caps.card), bus: text(&caps.bus_info), flags })
    }

    /// Whether it is an output, too: a loopback, which has pictures only while another program feeds it.
    pub fn is_loopback(&self) -> bool {
        self.flags & V4L2_CAP_VIDEO_OUTPUT != 0
    }

    /// Why this node is no camera, if it is none.
    pub fn is_no_camera(&self) -> Option<&'static str> {
        let has = |flags: u32| self.flags & flags != 0;
        if has(V4L2_CAP_VIDEO_M2M | V4L2_CAP_VIDEO_M2M_MPLANE) {
            Some("it is an encoder or decoder (memory to memory), not a camera")
        } else if has(V4L2_CAP_VIDEO_CAPTURE) {
            None
        } else if has(V4L2_CAP_VIDEO_CAPTURE_MPLANE) {
            Some("it captures to several planes (multi-planar API), which framehub does not support")
        } else if has(V4L2_CAP_VIDEO_OUTPUT | V4L2_CAP_VIDEO_OUTPUT_MPLANE) {
            Some("it is an output, not a camera")
        } else {
            Some("it is no capture node (metadata, for example)")
        }
    }
}

/// The entries of a driver's list, up to its end or a limit. `blank` makes the entry of an index, for the driver to fill.
///
/// # Safety
/// `request` must be an ioctl that takes a `T`.
unsafe fn entries<T: Plain>(handle: &Handle, request: _IOC_TYPE, blank: impl Fn(u32) -> T) -> impl Iterator<Item = T> {
    (0..MAX_ENTRIES).map_while(move |index| {
        let mut entry = blank(index);
        // SAFETY: as the caller promises.
        unsafe { call(handle, request, &mut entry) }.ok().map(|()| entry)
    })
}

/// The pixel formats on offer, in the driver's order.
pub fn formats(handle: &Handle) -> Vec<FourCC> {
    let mut formats = Vec::new();
    let blank = |index| v4l2_fmtdesc { index, type_: VIDEO_CAPTURE, ..Plain::zeroed() };
    // SAFETY: this ioctl takes this struct.
    for format in unsafe { entries(handle, VIDIOC_ENUM_FMT, blank) }.take(MAX_FORMATS) {
        let fourcc = FourCC::from(format.pixelformat);
        // Listed twice by some; one that repeats an entry for ever ends at the limit.
        if !formats.contains(&fourcc) {
            formats.push(fourcc);
        }
    }
    formats
}

/// The sizes on offer for a format, each with its rates.
pub fn offers(handle: &Handle, format: FourCC) -> Vec<Offer> {
    sizes(handle, format).into_iter().map(|size| Offer { size, fps: rates(handle, format, size) }).collect()
}

/// The sizes on offer for a format, from small to large, each once. Of a range only the largest; none where the driver does
/// not say.
pub fn sizes(handle: &Handle, format: FourCC) -> Vec<Size> {
    let mut sizes = Vec::new();
    let blank = |index| v4l2_frmsizeenum { index, pixel_format: format.into(), ..Plain::zeroed() };
    // SAFETY: this ioctl takes this struct.
    for entry in unsafe { entries(handle, VIDIOC_ENUM_FRAMESIZES, blank) } {
        let size = entry.__bindgen_anon_1;
        if entry.type_ == DISCRETE_SIZE {
            // SAFETY: the driver filled the union's member of this type; any bytes are integers.
            let size = unsafe { size.discrete };
            sizes.push(Size::new(size.width, size.height));
        } else {
            // SAFETY: as above.
            let range = unsafe { size.stepwise };
            sizes.push(Size::new(range.max_width, range.max_height));
            break;
        }
    }
    sizes.retain(|size| size.width > 0 && size.height > 0);
    sizes.sort_by_key(|size| (size.area(), size.width));
    sizes.dedup();
    sizes
}

/// The rates on offer for a size in frames per second, fastest first, each once.
pub fn rates(handle: &Handle, format: FourCC, size: Size) -> Vec<f64> {
    let mut rates = Vec::new();
    let mut add = |interval: v4l2_fract| {
        if interval.numerator > 0 && interval.denominator > 0 {
            rates.push(f64::from(interval.denominator) / f64::from(interval.numerator));
        }
    };
    let Size { width, height } = size;
    let blank = |index| v4l2_frmivalenum { index, pixel_format: format.into(), width, height, ..Plain::zeroed() };
    // SAFETY: this ioctl takes this struct.
    for entry in unsafe { entries(handle, VIDIOC_ENUM_FRAMEINTERVALS, blank) } {
        let interval = entry.__bindgen_anon_1;
        if entry.type_ == DISCRETE_INTERVAL {
            // SAFETY: the driver filled the union's member of this type; any bytes are integers.
            add(unsafe { interval.discrete });
        } else {
            // SAFETY: as above.
            let range = unsafe { interval.stepwise };
            add(range.min);
            add(range.max);
            break;
        }
    }
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.dedup();
    rates
}

/// Text up to the first NUL; what is cut inside a character is replaced.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capture_nodes_are_cameras() {
        for (flags, words, is_loopback) in [
            (V4L2_CAP_VIDEO_CAPTURE, None, false),
            (V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_VIDEO_OUTPUT, None, true),
            (V4L2_CAP_VIDEO_M2M, Some("encoder"), false),
            (V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_VIDEO_M2M, Some("encoder"), false),
            (V4L2_CAP_VIDEO_M2M_MPLANE, Some("encoder"), false),
            (V4L2_CAP_VIDEO_CAPTURE_MPLANE, Some("planes"), false),
            (V4L2_CAP_VIDEO_OUTPUT, Some("output"), true),
            (0, Some("metadata"), false),
        ] {
            let text = String::new;
            let capabilities = Capabilities { driver: text(), card: text(), bus: text(), flags };
            let why = capabilities.is_no_camera();
            assert_eq!(why.is_some(), words.is_some(), "{flags:#x}");
            assert!(why.unwrap_or_default().contains(words.unwrap_or_default()), "{flags:#x}: {why:?}");
            assert_eq!(capabilities.is_loopback(), is_loopback, "{flags:#x}");
        }
    }
}
