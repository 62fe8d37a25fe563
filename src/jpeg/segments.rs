//! Markers and segments of a JPEG, and what can be wrong with them.

use std::fmt;

pub(super) const TEM: u8 = 0x01;
pub(super) const SOF0: u8 = 0xC0;
pub(super) const SOF1: u8 = 0xC1;
pub(super) const SOF15: u8 = 0xCF;
pub(super) const DHT: u8 = 0xC4;
pub(super) const JPG: u8 = 0xC8;
pub(super) const DAC: u8 = 0xCC;
pub(super) const RST0: u8 = 0xD0;
pub(super) const RST7: u8 = 0xD7;
pub(super) const SOI: u8 = 0xD8;
pub(super) const EOI: u8 = 0xD9;
pub(super) const SOS: u8 = 0xDA;
pub(super) const DQT: u8 = 0xDB;
pub(super) const DRI: u8 = 0xDD;
pub(super) const APP0: u8 = 0xE0;
pub(super) const APP15: u8 = 0xEF;
pub(super) const COM: u8 = 0xFE;

/// Why a camera's buffer holds no whole JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The buffer has no bytes.
    Empty,
    /// It has no SOI.
    NoStart,
    /// Before the scan stands something that is no marker segment.
    BadSegment,
    /// SOS came before any SOF.
    NoFrameHeader,
    /// SOF says that the picture has no width or no height.
    ZeroSize,
    /// EOI came before SOS, or straight after it.
    NoScan,
    /// In the scan stands a marker that cannot be there: the data are damaged, or are parts of two pictures.
    BadMarker,
    /// The bytes ran out, or the next picture began, before EOI: a truncated picture.
    NoEnd,
}

impl Fault {
    /// Every fault, for a table of counters.
    pub const ALL: [Fault; 8] = [
        Fault::Empty,
        Fault::NoStart,
        Fault::BadSegment,
        Fault::NoFrameHeader,
        Fault::ZeroSize,
        Fault::NoScan,
        Fault::BadMarker,
        Fault::NoEnd,
    ];

    /// The fault as a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Empty => "empty",
            Fault::NoStart => "no_soi",
            Fault::BadSegment => "bad_segment",
            Fault::NoFrameHeader => "no_sof",
            Fault::ZeroSize => "zero_size",
            Fault::NoScan => "no_scan",
            Fault::BadMarker => "bad_marker",
            Fault::NoEnd => "no_eoi",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Empty => "the buffer is empty",
            Fault::NoStart => "the data has no SOI",
            Fault::BadSegment => "a segment of the header is malformed",
            Fault::NoFrameHeader => "SOS comes before any SOF",
            Fault::ZeroSize => "the picture has no width or no height",
            Fault::NoScan => "the picture has no scan data",
            Fault::BadMarker => "a marker stands in the scan that cannot be there",
            Fault::NoEnd => "the picture is cut off before EOI",
        })
    }
}

impl std::error::Error for Fault {}

/// The marker segments of a JPEG, in order, up to wherever the caller stops (SOS or EOI).
pub(super) struct Segments<'a> {
    data: &'a [u8],
    /// Behind the segment returned last.
    pub(super) at: usize,
}

pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    pub(super) start: usize,
    /// All of it: fill bytes, marker, length and payload.
    pub(super) bytes: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl<'a> Segments<'a> {
    pub(super) fn new(data: &'a [u8]) -> Result<Self, Fault> {
        match data {
            [] => Err(Fault::Empty),
            [0xFF, SOI, ..] => Ok(Self { data, at: 2 }),
            _ => Err(Fault::NoStart),
        }
    }

    pub(super) fn next(&mut self) -> Result<Segment<'a>, Fault> {
        let (start, rest) = (self.at, &self.data[self.at..]);
        // Any number of fill bytes FF may stand before a marker (B.1.1.2).
        let fill = rest.iter().position(|&byte| byte != 0xFF).ok_or(Fault::NoEnd)?;
        let marker = rest[fill];
        let head = fill + 1;
        let end = match marker {
            _ if fill == 0 => return Err(Fault::BadSegment),
            TEM | EOI => head,
            SOF0..=SOF15 | SOS..=COM => {
                let &[high, low] = rest[head..].first_chunk().ok_or(Fault::NoEnd)?;
                let length = usize::from(u16::from_be_bytes([high, low]));
                if length < 2 {
                    return Err(Fault::BadSegment);
                }
                head + length
            }
            _ => return Err(Fault::BadSegment),
        };
        let bytes = rest.get(..end).ok_or(Fault::NoEnd)?;
        self.at += end;
        Ok(Segment { marker, start, bytes, payload: bytes.get(head + 2..).unwrap_or_default() })
    }
}

impl Segment<'_> {
    /// An EXIF thumbnail is a JPEG within the JPEG. Mainsail takes its SOI for the next picture's, Home Assistant
    /// its EOI for this picture's end, so such a segment is left out.
    pub(super) fn misleads_parsers(&self) -> bool {
        matches!(self.marker, APP0..=APP15 | COM) && self.bytes.windows(2).any(|pair| matches!(pair, [0xFF, SOI | EOI]))
    }
}

/// What SOF says of the picture (B.2.2).
pub(super) struct FrameHeader<'a> {
    pub(super) marker: u8,
    pub(super) precision: u8,
    pub(super) height: u16,
    pub(super) width: u16,
    /// Identifier, sampling factors and quantisation table of each component. Y comes first.
    pub(super) components: &'a [[u8; 3]],
}

impl<'a> FrameHeader<'a> {
    pub(super) fn read(segment: &Segment<'a>) -> Result<Self, Fault> {
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = segment.payload else {
            return Err(Fault::BadSegment);
        };
        let (components, _) = rest.as_chunks();
        let components = components.get(..count.into()).filter(|components| !components.is_empty());
        Ok(Self {
            marker: segment.marker,
            precision,
            height: u16::from_be_bytes([h1, h0]),
            width: u16::from_be_bytes([w1, w0]),
            components: components.ok_or(Fault::BadSegment)?,
        })
    }
}

pub(super) fn is_sof(marker: u8) -> bool {
    matches!(marker, SOF0..=SOF15) && !matches!(marker, DHT | JPG | DAC)
}

/// The Huffman tables of Motion-JPEG, those of annex K.3, as one DHT segment.
#[rustfmt::skip]
pub(super) static STANDARD_DHT: [u8; 420] = [
    0xFF, 0xC4, 0x01, 0xA2,
    // DC luma: class and identifier, codes of each length, symbols.
    0x00,
    0x00, 0x01, 0x05, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B,
    // DC chroma: class and identifier, codes of each length, symbols.
    0x01,
    0x00, 0x03, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B,
    // AC luma: class and identifier, codes of each length, symbols.
    0x10,
    0x00, 0x02, 0x01, 0x03, 0x03, 0x02, 0x04, 0x03, 0x05, 0x05, 0x04, 0x04, 0x00, 0x00, 0x01, 0x7D,
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
    0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72,
    0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
    0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3,
    0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
    // AC chroma: class and identifier, codes of each length, symbols.
    0x11,
    0x00, 0x02, 0x01, 0x02, 0x04, 0x04, 0x03, 0x04, 0x07, 0x05, 0x04, 0x04, 0x00, 0x01, 0x02, 0x77,
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
    0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0, 0x15, 0x62, 0x72, 0xD1,
    0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x35, 0x36,
    0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
    0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
    0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
    0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
    0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
];
