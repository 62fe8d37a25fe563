//! Scans a camera's buffer for JPEG markers: finds the picture, and copies it as any client can show it.

use std::fmt;

const TEM: u8 = 0x01;
pub(super) const SOF0: u8 = 0xC0;
pub(super) const SOF1: u8 = 0xC1;
const SOF15: u8 = 0xCF;
pub(super) const DHT: u8 = 0xC4;
const JPG: u8 = 0xC8;
const DAC: u8 = 0xCC;
pub(super) const RST0: u8 = 0xD0;
pub(super) const RST7: u8 = 0xD7;
const SOI: u8 = 0xD8;
pub(super) const EOI: u8 = 0xD9;
pub(super) const SOS: u8 = 0xDA;
pub(super) const DQT: u8 = 0xDB;
pub(super) const DRI: u8 = 0xDD;
const APP0: u8 = 0xE0;
const APP15: u8 = 0xEF;
const COM: u8 = 0xFE;

/// One whole JPEG found in a camera's buffer, ready to be copied.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// From SOI to EOI.
    data: &'a [u8],
    /// Where the first SOS segment begins in `data`.
    sos: usize,
    width: u16,
    height: u16,
    dht_missing: bool,
    /// Bytes of the segments that `append_to` leaves out.
    left_out: usize,
    padding: usize,
}

/// Why a camera's buffer holds no whole JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The buffer has no bytes.
    Empty,
    /// It does not begin with SOI.
    NoStart,
    /// Before the scan stands something that is no marker segment.
    BadSegment,
    /// SOS came before any SOF.
    NoFrameHeader,
    /// SOF says that the picture has no width or no height.
    ZeroSize,
    /// EOI came before SOS, or straight after it.
    NoScan,
    /// The bytes ran out, or the next picture began, before EOI: a truncated picture.
    NoEnd,
}

/// Finds the picture in a camera's buffer.
///
/// Cheap: walks the marker segments up to SOS, then looks at the tail alone. Only if EOI is not there does it read
/// through the scan, to cut off what a camera left behind EOI.
pub fn inspect(data: &[u8]) -> Result<Picture<'_>, Fault> {
    let mut segments = Segments::new(data)?;
    let mut frame_header = None;
    let mut dht_seen = false;
    let mut left_out = 0;
    let sos = loop {
        let segment = segments.next()?;
        match segment.marker {
            SOS => break segment.start,
            EOI => return Err(Fault::NoScan),
            DHT => dht_seen = true,
            _ if segment.misleads_parsers() => left_out += segment.bytes.len(),
            marker if is_sof(marker) => frame_header = Some(FrameHeader::read(&segment)?),
            _ => {}
        }
    };
    let frame_header = frame_header.ok_or(Fault::NoFrameHeader)?;
    if frame_header.width == 0 || frame_header.height == 0 {
        return Err(Fault::ZeroSize);
    }
    let scan = segments.at;
    let end = end_at_tail(data, scan).or_else(|| end_by_scanning(data, scan)).ok_or(Fault::NoEnd)?;
    if end == scan + 2 {
        return Err(Fault::NoScan);
    }
    Ok(Picture {
        data: &data[..end],
        sos,
        width: frame_header.width,
        height: frame_header.height,
        // Progressive pictures have no standard tables, arithmetic-coded ones no tables at all.
        dht_missing: !dht_seen && matches!(frame_header.marker, SOF0 | SOF1),
        left_out,
        padding: data.len() - end,
    })
}

#[allow(clippy::len_without_is_empty)] // A picture is never empty.
impl Picture<'_> {
    /// Width in pixels, from SOF.
    pub fn width(&self) -> u32 {
        self.width.into()
    }

    /// Height in pixels, from SOF.
    pub fn height(&self) -> u32 {
        self.height.into()
    }

    /// The camera left the Huffman tables out, as AVI's Motion-JPEG allows; `append_to` puts the standard ones in.
    pub fn dht_missing(&self) -> bool {
        self.dht_missing
    }

    /// How many bytes stood behind EOI and were cut off.
    pub fn padding(&self) -> usize {
        self.padding
    }

    /// How many bytes `append_to` writes: the picture's Content-Length.
    pub fn len(&self) -> usize {
        self.data.len() - self.left_out + if self.dht_missing { STANDARD_DHT.len() } else { 0 }
    }

    /// Appends the picture as a JPEG that any client can show: cut at EOI, with Huffman tables, without thumbnails.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        if !self.dht_missing && self.left_out == 0 {
            out.extend_from_slice(self.data);
            return;
        }
        out.reserve(self.len());
        let (header, rest) = self.data.split_at(self.sos);
        out.extend_from_slice(&[0xFF, SOI]);
        if let Ok(mut segments) = Segments::new(header) {
            while let Ok(segment) = segments.next() {
                if !segment.misleads_parsers() {
                    out.extend_from_slice(segment.bytes);
                }
            }
        }
        if self.dht_missing {
            out.extend_from_slice(&STANDARD_DHT);
        }
        out.extend_from_slice(rest);
    }
}

impl Fault {
    /// Every fault, for a table of counters.
    pub const ALL: [Fault; 7] = [
        Fault::Empty,
        Fault::NoStart,
        Fault::BadSegment,
        Fault::NoFrameHeader,
        Fault::ZeroSize,
        Fault::NoScan,
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
            Fault::NoEnd => "no_eoi",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Empty => "the buffer is empty",
            Fault::NoStart => "the data does not begin with SOI",
            Fault::BadSegment => "a segment of the header is malformed",
            Fault::NoFrameHeader => "SOS comes before any SOF",
            Fault::ZeroSize => "the picture has no width or no height",
            Fault::NoScan => "the picture has no scan data",
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
    start: usize,
    /// All of it: fill bytes, marker, length and payload.
    bytes: &'a [u8],
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
    fn misleads_parsers(&self) -> bool {
        matches!(self.marker, APP0..=APP15 | COM) && self.bytes.windows(2).any(|pair| matches!(pair, [0xFF, SOI | EOI]))
    }
}

/// What SOF says of the picture (B.2.2).
pub(super) struct FrameHeader<'a> {
    marker: u8,
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

/// Where the picture ends, if nothing but padding stands behind EOI: cameras pad with 00, some with D9 00.
fn end_at_tail(data: &[u8], scan: usize) -> Option<usize> {
    let last = scan + data[scan..].iter().rposition(|&byte| !matches!(byte, 0 | EOI))?;
    data[last..].starts_with(&[0xFF, EOI]).then_some(last + 2)
}

/// Where the picture ends, found the long way: through the entropy-coded data, and through the segments between the
/// scans of a progressive picture.
fn end_by_scanning(data: &[u8], scan: usize) -> Option<usize> {
    let mut at = scan;
    loop {
        at += data.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        at += match *data.get(at + 1)? {
            EOI => return Some(at + 2),
            SOI => return None,
            0xFF => 1,
            DHT | SOS..=DRI | APP0..=APP15 | COM => {
                let &[high, low] = data.get(at + 2..)?.first_chunk()?;
                2 + usize::from(u16::from_be_bytes([high, low]))
            }
            // A stuffed FF 00, a restart marker, or damage.
            _ => 2,
        };
    }
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

#[cfg(test)]
pub(super) mod tests {
    use std::ops::Range;

    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    use proptest::prelude::*;

    use super::super::mean_luma;
    use super::*;

    /// A picture with enough in it to fill its scan, encoded as `setup` says.
    pub(in crate::jpeg) fn encode(width: u16, height: u16, setup: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
        let pixels: Vec<u8> = (0..usize::from(width) * usize::from(height) * 3).map(|i| (i * i / 7) as u8).collect();
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 80);
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        setup(&mut encoder);
        encoder.encode(&pixels, width, height, ColorType::Ycbcr).unwrap();
        jpeg
    }

    fn plain() -> Vec<u8> {
        encode(40, 24, |_| ())
    }

    /// Where the first segment with this marker is.
    fn find(jpeg: &[u8], marker: u8) -> Range<usize> {
        let mut segments = Segments::new(jpeg).unwrap();
        let segment = std::iter::from_fn(|| segments.next().ok()).find(|segment| segment.marker == marker).unwrap();
        segment.start..segment.start + segment.bytes.len()
    }

    /// The picture less all its segments with this marker.
    pub(in crate::jpeg) fn without(jpeg: &[u8], marker: u8) -> Vec<u8> {
        let mut rest = jpeg.to_vec();
        let mut segments = Segments::new(jpeg).unwrap();
        let before_sos = std::iter::from_fn(|| segments.next().ok()).take_while(|segment| segment.marker != SOS);
        let found: Vec<_> = before_sos.filter(|segment| segment.marker == marker).collect();
        for segment in found.iter().rev() {
            rest.drain(segment.start..segment.start + segment.bytes.len());
        }
        rest
    }

    fn insert(jpeg: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        [&jpeg[..at], bytes, &jpeg[at..]].concat()
    }

    fn segment(marker: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = (payload.len() as u16 + 2).to_be_bytes();
        [&[0xFF, marker, high, low], payload].concat()
    }

    fn appended(picture: &Picture<'_>) -> Vec<u8> {
        let mut out = b"header".to_vec();
        picture.append_to(&mut out);
        assert_eq!(picture.len(), out.len() - 6, "len() must be what append_to writes");
        out.split_off(6)
    }

    #[test]
    fn whole_pictures() {
        let jpeg = plain();
        let padded = |tail: &[u8]| [&jpeg, tail].concat();
        let sos = find(&jpeg, SOS).start;
        let avi1 = segment(APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0");
        // The name, the data, the padding that it must report.
        let cases = [
            ("plain", jpeg.clone(), 0),
            ("progressive", encode(40, 24, |e| e.set_progressive(true)), 0),
            ("restart intervals", encode(40, 24, |e| e.set_restart_interval(1)), 0),
            ("one scan a component", encode(40, 24, |e| e.set_optimized_huffman_tables(true)), 0),
            ("a zero", padded(&[0]), 1),
            ("a page of zeros", padded(&[0; 4096]), 4096),
            ("D9 00", padded(&[EOI, 0]), 2),
            ("D9 00 again and again", padded(&[EOI, 0].repeat(99)), 198),
            // Where the tail is EOI, nobody looks for an earlier one.
            ("two EOIs", padded(&[0xFF, EOI]), 0),
            ("rubbish", padded(b"rubbish"), 7),
            ("rubbish and zeros", padded(b"rubbish\0\0"), 9),
            ("FF behind EOI", padded(&[0xFF; 100]), 100),
            ("half a next picture", padded(&jpeg[..sos + 40]), sos + 40),
            ("fill bytes before SOS", insert(&jpeg, sos, &[0xFF; 5]), 0),
            ("TEM", insert(&jpeg, sos, &[0xFF, TEM]), 0),
            ("AVI1", insert(&jpeg, 2, &avi1), 0),
            ("comment", insert(&jpeg, 2, &segment(COM, b"made by hand")), 0),
            ("largest segment", insert(&jpeg, 2, &segment(APP0 + 4, &[7; 65533])), 0),
        ];
        for (name, data, padding) in &cases {
            let picture = inspect(data).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!((picture.width(), picture.height()), (40, 24), "{name}");
            assert!(!picture.dht_missing(), "{name}");
            assert!(appended(&picture) == data[..data.len() - picture.padding()], "{name}: bytes changed");
            assert_eq!(picture.padding(), *padding, "{name}");
        }
    }

    #[test]
    fn progressive_pictures_are_cut_between_segments() {
        let jpeg = encode(40, 24, |e| e.set_progressive(true));
        let scan = find(&jpeg, SOS).end;
        let next = scan + jpeg[scan..].windows(2).position(|pair| pair == [0xFF, SOS]).unwrap();
        let data = insert(&jpeg, next, &segment(COM, &[0xFF, EOI]));
        let picture = inspect(&data).unwrap();
        assert_eq!(picture.padding(), 0);
        let with_rubbish = [&data[..], b"rubbish"].concat();
        assert_eq!(inspect(&with_rubbish).unwrap().padding(), 7);
    }

    #[test]
    fn missing_huffman_tables_are_put_in() {
        let jpeg = plain();
        let avi1 = insert(&without(&jpeg, DHT), 2, &segment(APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0"));
        let picture = inspect(&avi1).unwrap();
        assert!(picture.dht_missing());
        let mended = appended(&picture);
        assert_eq!(mended.len(), avi1.len() + 420);
        assert_eq!(find(&mended, DHT).end, find(&mended, SOS).start, "DHT belongs straight before SOS");
        assert!(!inspect(&mended).unwrap().dht_missing());
        assert!(mended.ends_with(&avi1[find(&avi1, SOS).start..]));
        // The encoder's own tables are the standard ones, so as many symbols must have come back.
        let tables = |jpeg: &[u8]| {
            let mut segments = Segments::new(jpeg).unwrap();
            let all = std::iter::from_fn(|| segments.next().ok()).take_while(|segment| segment.marker != SOS);
            let mut tables = Vec::new();
            for mut rest in all.filter(|segment| segment.marker == DHT).map(|segment| segment.payload) {
                while let [_, counts @ ..] = rest {
                    let size = 17 + counts[..16].iter().map(|&count| usize::from(count)).sum::<usize>();
                    tables.push(rest[..size].to_vec());
                    rest = &rest[size..];
                }
            }
            tables.sort();
            tables
        };
        assert_eq!(tables(&mended), tables(&jpeg));
    }

    #[test]
    fn progressive_and_arithmetic_pictures_get_no_standard_tables() {
        let mut jpeg = without(&plain(), DHT);
        let sof = find(&jpeg, SOF0).start;
        for marker in [0xC2, 0xC9, 0xCA] {
            jpeg[sof + 1] = marker;
            assert!(!inspect(&jpeg).unwrap().dht_missing(), "SOF{}", marker - SOF0);
        }
    }

    #[test]
    fn thumbnails_are_left_out() {
        let jpeg = plain();
        let thumbnail = encode(8, 8, |_| ());
        for (marker, payload) in [
            (APP0 + 1, [b"Exif\0\0", &thumbnail[..]].concat()),
            (APP15, vec![0xFF, SOI]),
            (APP0, vec![0xFF, EOI]),
            (COM, vec![0xFF, SOI]),
            // Its length is FF D8.
            (APP0 + 1, vec![0; 0xFFD8 - 2]),
        ] {
            let data = insert(&jpeg, find(&jpeg, DQT).start, &segment(marker, &payload));
            assert!(appended(&inspect(&data).unwrap()) == jpeg, "{marker:02X} with {} bytes", payload.len());
        }
        // Both kinds of mending at once.
        let data = insert(&without(&jpeg, DHT), 2, &segment(APP0 + 1, &thumbnail));
        let mended = appended(&inspect(&data).unwrap());
        assert_eq!(mended.len(), without(&jpeg, DHT).len() + 420);
        assert!(!inspect(&mended).unwrap().dht_missing());
    }

    #[test]
    fn faults() {
        let jpeg = plain();
        let (sof, sos) = (find(&jpeg, SOF0), find(&jpeg, SOS));
        let changed = |at: usize, bytes: &[u8]| {
            let mut data = jpeg.clone();
            data[at..at + bytes.len()].copy_from_slice(bytes);
            data
        };
        let end = jpeg.len() - 2;
        let cases = [
            ("nothing", vec![], Fault::Empty),
            ("one byte", vec![0xFF], Fault::NoStart),
            ("zeros", vec![0; 100], Fault::NoStart),
            ("garbage before SOI", insert(&jpeg, 0, &[0]), Fault::NoStart),
            ("only SOI", vec![0xFF, SOI], Fault::NoEnd),
            ("only fill bytes", [vec![0xFF, SOI], vec![0xFF; 100]].concat(), Fault::NoEnd),
            ("no marker where one must be", insert(&jpeg, sos.start, b"x"), Fault::BadSegment),
            ("second SOI", insert(&jpeg, 2, &[0xFF, SOI]), Fault::BadSegment),
            ("restart marker in the header", insert(&jpeg, 2, &[0xFF, RST0]), Fault::BadSegment),
            ("segment of length 1", insert(&jpeg, 2, &[0xFF, COM, 0, 1]), Fault::BadSegment),
            ("SOF too short for its components", changed(sof.start + 9, &[4]), Fault::BadSegment),
            ("SOF without components", changed(sof.start + 9, &[0]), Fault::BadSegment),
            ("SOF without anything", insert(&jpeg, 2, &segment(SOF0, &[])), Fault::BadSegment),
            ("no SOF", without(&jpeg, SOF0), Fault::NoFrameHeader),
            ("no height", changed(sof.start + 5, &[0, 0]), Fault::ZeroSize),
            ("no width", changed(sof.start + 7, &[0, 0]), Fault::ZeroSize),
            ("EOI instead of SOS", [&jpeg[..sos.start], &[0xFF, EOI]].concat(), Fault::NoScan),
            ("SOI and EOI", vec![0xFF, SOI, 0xFF, EOI], Fault::NoScan),
            ("nothing between SOS and EOI", [&jpeg[..sos.end], &[0xFF, EOI]].concat(), Fault::NoScan),
            ("no EOI", jpeg[..end].to_vec(), Fault::NoEnd),
            ("zeros for EOI", [&jpeg[..end], &[0; 50]].concat(), Fault::NoEnd),
            ("D9 without its FF", [&jpeg[..end], &[1, EOI]].concat(), Fault::NoEnd),
            ("stuffed FF before D9", [&jpeg[..end], &[0xFF, 0, EOI]].concat(), Fault::NoEnd),
            ("the next picture for EOI", [&jpeg[..end], &jpeg, b"x"].concat(), Fault::NoEnd),
        ];
        for (name, data, fault) in cases {
            assert_eq!(inspect(&data).map(|_| ()), Err(fault), "{name}");
        }
    }

    #[test]
    fn truncated_at_every_byte() {
        for jpeg in [plain(), encode(40, 24, |e| e.set_progressive(true))] {
            for end in 2..jpeg.len() {
                assert_eq!(inspect(&jpeg[..end]).map(|_| ()), Err(Fault::NoEnd), "{end} of {}", jpeg.len());
                mean_luma(&jpeg[..end]);
            }
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for (i, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(Fault::ALL.iter().position(|other| other.name() == fault.name()), Some(i));
            assert!(!fault.to_string().ends_with('.'));
        }
    }

    /// Where the picture ends, by the plainest means.
    fn naive_end(data: &[u8]) -> Option<usize> {
        let word = |at: usize| data.get(at..at + 2).map(|pair| usize::from(pair[0]) << 8 | usize::from(pair[1]));
        let mut at = 2;
        let mut has_sos = false;
        while !has_sos {
            match word(at)? {
                0xFFFF => at += 1,
                0xFF01 => at += 2,
                marker => {
                    has_sos = marker == 0xFFDA;
                    at += 2 + word(at + 2)?;
                }
            }
        }
        let is_padding = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0 || byte == 0xD9);
        let ends: Vec<usize> = (at + 2..=data.len()).filter(|&end| word(end - 2) == Some(0xFFD9)).collect();
        if let Some(&end) = ends.iter().find(|&&end| is_padding(&data[end..])) {
            return Some(end);
        }
        loop {
            match word(at)? {
                0xFFD9 => return Some(at + 2),
                0xFFD8 => return None,
                0xFFC4 | 0xFFDA..=0xFFDD | 0xFFE0..=0xFFEF | 0xFFFE => at += 2 + word(at + 2)?,
                0xFF00..=0xFFFE => at += 2,
                _ => at += 1,
            }
        }
    }

    /// The parts that pictures and their damage are made of.
    fn part() -> impl Strategy<Value = Vec<u8>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let markers = || prop_oneof![Just(0xFF), Just(0x00), Just(SOI), Just(EOI), Just(RST0), Just(SOS), any::<u8>()];
        prop_oneof![
            4 => (any::<u8>(), bytes()).prop_map(|(marker, payload)| segment(marker | 0xC0, &payload)),
            2 => bytes().prop_map(|payload| segment(DHT, &payload)),
            2 => (SOF0..=SOF15, any::<[u8; 9]>())
                .prop_map(|(marker, components)| segment(marker, &[&[8, 0, 9, 0, 9, 3], &components[..]].concat())),
            4 => Just(segment(SOS, &[1, 0, 0, 0, 63, 0])),
            2 => Just(vec![0xFF]),
            3 => bytes(),
            4 => proptest::collection::vec(markers(), 0..20),
            2 => Just(vec![0xFF, EOI]),
            1 => Just(vec![0; 9]),
        ]
    }

    /// What must hold whatever the bytes: no panic, and what was taken for a picture is one when it has been mended.
    fn check(data: &[u8]) -> Result<(), TestCaseError> {
        mean_luma(data);
        let picture = match inspect(data) {
            Ok(picture) => picture,
            Err(fault) => {
                prop_assert!(fault != Fault::NoEnd || naive_end(data).is_none());
                return Ok(());
            }
        };
        prop_assert_eq!(Some(data.len() - picture.padding()), naive_end(data));
        let mended = appended(&picture);
        let again = inspect(&mended).map_err(|fault| TestCaseError::fail(format!("mended: {fault}")))?;
        prop_assert_eq!((again.width(), again.height()), (picture.width(), picture.height()));
        prop_assert_eq!((again.padding(), again.dht_missing(), again.left_out), (0, false, 0));
        prop_assert!(appended(&again) == mended);
        prop_assert_eq!(mean_luma(&mended), mean_luma(data));
        Ok(())
    }

    // More cases: PROPTEST_CASES=100000 cargo test --release jpeg
    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_parts(parts in proptest::collection::vec(part(), 0..8)) {
            check(&[vec![0xFF, SOI], parts.concat()].concat())?;
        }

        #[test]
        fn likely_pictures(
            before in proptest::collection::vec(part(), 0..3),
            behind in proptest::collection::vec(part(), 0..5),
        ) {
            let (jpeg, header) = (plain(), find(&plain(), SOS));
            check(&[&jpeg[..header.start], &before.concat(), &jpeg[header], &behind.concat()].concat())?;
        }

        #[test]
        fn damaged_pictures(
            kind in 0..3,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), part()), 1..5),
        ) {
            let mut jpeg = match kind {
                0 => plain(),
                1 => encode(40, 24, |e| e.set_progressive(true)),
                _ => encode(40, 24, |e| e.set_restart_interval(2)),
            };
            for (at, part) in damage {
                let at = at.index(jpeg.len());
                let end = (at + part.len()).min(jpeg.len());
                jpeg.splice(at..end, part);
            }
            check(&jpeg)?;
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            check(&bytes)?;
        }
    }
}
