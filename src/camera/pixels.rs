//! Raw pictures: the formats of pixels that are known here, and how pixels lie in a driver's buffer.

use std::fmt;
use std::str::FromStr;

use crate::frame::Size;

/// A format of pixels. Those that are cheaper to read come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PixelFormat {
    /// A plane of luma, and one of both colour differences for every second pixel of every second row.
    Nv12,
    /// The same, with a plane for each colour difference, blue first.
    Yu12,
    /// Two pixels in four bytes: luma, blue difference, luma, red difference.
    Yuyv,
    /// The same, colour differences first.
    Uyvy,
    /// Red, green, blue.
    Rgb24,
    /// Blue, green, red.
    Bgr24,
    /// Luma alone.
    Grey,
}

impl PixelFormat {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Nv12, Self::Yu12, Self::Yuyv, Self::Uyvy, Self::Rgb24, Self::Bgr24, Self::Grey];

    /// The names of all.
    pub fn names() -> String {
        Self::ALL.map(|format| format.to_string()).join(", ")
    }

    /// V4L2's four characters.
    pub fn fourcc(self) -> &'static [u8; 4] {
        match self {
            Self::Nv12 => b"NV12",
            Self::Yu12 => b"YU12",
            Self::Yuyv => b"YUYV",
            Self::Uyvy => b"UYVY",
            Self::Rgb24 => b"RGB3",
            Self::Bgr24 => b"BGR3",
            Self::Grey => b"GREY",
        }
    }

    /// Bytes that a row of so many pixels needs in the first, or only, plane.
    pub fn row(self, width: usize) -> usize {
        match self {
            Self::Nv12 | Self::Yu12 | Self::Grey => width,
            Self::Yuyv | Self::Uyvy => width.div_ceil(2) * 4,
            Self::Rgb24 | Self::Bgr24 => width * 3,
        }
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nv12 => "NV12",
            Self::Yu12 => "YU12",
            Self::Yuyv => "YUYV",
            Self::Uyvy => "UYVY",
            Self::Rgb24 => "RGB24",
            Self::Bgr24 => "BGR24",
            Self::Grey => "GREY",
        })
    }
}

impl FromStr for PixelFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_named = |format: &Self| format.to_string() == text || text.as_bytes() == format.fourcc();
        Self::ALL.into_iter().find(is_named).ok_or_else(|| format!("expected one of {}", Self::names()))
    }
}

/// How the pixels of one stream lie in its buffers, and what their values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The format.
    pub format: PixelFormat,
    /// Frame size.
    pub size: Size,
    /// Bytes from one row to the next in the first, or only, plane.
    pub stride: usize,
    /// Black is 16 and white 235, as in video; otherwise 0 and 255, as in a JPEG.
    pub is_limited: bool,
    /// Colour differences are those of BT.709, not those of BT.601, which a JPEG has.
    pub is_bt709: bool,
}

impl Layout {
    /// Where a row of the first plane begins.
    pub fn row(&self, y: usize) -> usize {
        y * self.stride
    }

    /// Where a row of the colour differences begins that have planes: of plane 1, or of plane 2 of YU12.
    pub fn chroma_row(&self, plane: usize, y: usize) -> usize {
        let (height, luma) = (self.size.height as usize, self.row(self.size.height as usize));
        match self.format {
            PixelFormat::Yu12 => luma + ((plane - 1) * height.div_ceil(2) + y) * self.stride.div_ceil(2),
            _ => luma + y * self.stride,
        }
    }

    /// Bytes of a whole picture, without what follows its last pixel.
    pub fn len(&self) -> usize {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let last = height.div_ceil(2).saturating_sub(1);
        match self.format {
            PixelFormat::Nv12 => self.chroma_row(1, last) + width.next_multiple_of(2),
            PixelFormat::Yu12 => self.chroma_row(2, last) + width.div_ceil(2),
            format => self.row(height.saturating_sub(1)) + format.row(width),
        }
    }
}
