//! Finds the picture in a camera's buffer, and copies it as any client can show it.

use super::header::{self, Orientation};
use super::luma;
use super::segments::*;

/// A camera's buffer is searched for at most so many beginnings of a picture.
const MOST_STARTS: usize = 100;

/// One whole JPEG found in a camera's buffer, ready to be copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture<'a> {
    /// From SOI to EOI.
    data: &'a [u8],
    /// Where the first SOS segment begins in `data`.
    sos: usize,
    width: u16,
    height: u16,
    dht_missing: bool,
    /// `data` ends where EOI should be; `append_to` appends it.
    eoi_missing: bool,
    /// What `append_to` writes in place of the beginning, and where `data` goes on behind it.
    header: Option<(Vec<u8>, usize)>,
    padding: usize,
}

/// Finds the one whole picture in a camera's buffer, whatever stands before and behind it. Of several it is the last,
/// which is the newest. With none, the fault is that of the first attempt.
pub fn inspect(data: &[u8]) -> Result<Picture<'_>, Fault> {
    search(data, false)
}

/// The same for a camera that sends no EOI: the scan ends where its last block does, and all its blocks must decode.
pub fn inspect_without_eoi(data: &[u8]) -> Result<Picture<'_>, Fault> {
    search(data, true)
}

fn search(data: &[u8], is_eoi_optional: bool) -> Result<Picture<'_>, Fault> {
    let mut best = Err(if data.is_empty() { Fault::Empty } else { Fault::NoStart });
    let mut at = 0;
    for _ in 0..MOST_STARTS {
        let Some(start) = find_pair(data, at, |byte, next| (byte == 0xFF) & (next == SOI)) else { break };
        let (found, end) = picture_at_start(&data[start..], is_eoi_optional);
        at = start + end;
        match found {
            Ok(picture) => best = Ok(Picture { padding: data.len() - picture.data.len(), ..picture }),
            Err(fault) if best == Err(Fault::NoStart) => best = Err(fault),
            Err(_) => {}
        }
    }
    best
}

/// The picture with which `data` begins, and where to search for the next one.
fn picture_at_start(data: &[u8], is_eoi_optional: bool) -> (Result<Picture<'_>, Fault>, usize) {
    let header = match Header::read(data) {
        Ok(header) => header,
        Err(fault) => return (Err(fault), 2),
    };
    let scan = header.scan;
    let (end, eoi_missing, next) = match end_of_scan(data, scan, header.has_one_scan) {
        Ok(end) => (end, false, end),
        Err((Fault::NoEnd, next)) if is_eoi_optional && header.has_one_scan => match luma::scan_end(&data[..next]) {
            Some(end) => (end, true, next),
            None => return (Err(Fault::NoEnd), next),
        },
        Err((fault, next)) => return (Err(fault), next),
    };
    if end <= scan + 2 {
        return (Err(Fault::NoScan), next);
    }
    (Ok(Picture { data: &data[..end], eoi_missing, ..header.picture }), next)
}

/// What stands before the entropy-coded data.
struct Header<'a> {
    /// Not yet with its end.
    picture: Picture<'a>,
    /// Where the entropy-coded data begin.
    scan: usize,
    /// Behind them comes nothing but EOI.
    has_one_scan: bool,
}

impl<'a> Header<'a> {
    fn read(data: &'a [u8]) -> Result<Self, Fault> {
        let mut segments = Segments::new(data)?;
        let mut frame_header = None;
        let mut dht_seen = false;
        let (sos, scan_components) = loop {
            let segment = segments.next()?;
            match segment.marker {
                SOS => break (segment.start, segment.payload.first().copied()),
                EOI => return Err(Fault::NoScan),
                DHT => dht_seen = true,
                marker if is_sof(marker) && frame_header.is_some() => return Err(Fault::BadSegment),
                marker if is_sof(marker) => frame_header = Some(FrameHeader::read(&segment)?),
                _ => {}
            }
        };
        let FrameHeader { marker, width, height, components, .. } = frame_header.ok_or(Fault::NoFrameHeader)?;
        if width == 0 || height == 0 {
            return Err(Fault::ZeroSize);
        }
        // Progressive pictures have no standard tables, arithmetic-coded ones no tables at all.
        let is_sequential = matches!(marker, SOF0 | SOF1);
        let dht_missing = !dht_seen && is_sequential;
        Ok(Self {
            picture: Picture {
                data,
                sos,
                width,
                height,
                dht_missing,
                eoi_missing: false,
                header: header::cleaned(data, sos, dht_missing, None),
                padding: 0,
            },
            scan: segments.at,
            has_one_scan: is_sequential && scan_components.map(usize::from) == Some(components.len()),
        })
    }
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

    /// The camera left EOI out; `append_to` appends it.
    pub fn eoi_missing(&self) -> bool {
        self.eoi_missing
    }

    /// How many bytes stood before SOI and behind EOI and were cut off.
    pub fn padding(&self) -> usize {
        self.padding
    }

    /// Whether every block of the picture decodes. Slow: it reads every Huffman code. Only for baseline pictures.
    pub fn decodes(&self) -> bool {
        luma::scan_end(self.data).is_some()
    }

    /// Mean luma, as [`mean_luma`](super::mean_luma) measures it.
    pub fn mean_luma(&self) -> Option<f32> {
        luma::mean_luma(self.data)
    }

    /// The picture, to be turned for viewing in place of what it says itself.
    pub fn turned(self, orientation: Orientation) -> Self {
        let header = header::cleaned(self.data, self.sos, self.dht_missing, Some(orientation));
        Self { header, ..self }
    }

    /// How many bytes `append_to` writes: the picture's Content-Length.
    pub fn len(&self) -> usize {
        let (header, rest) = self.header.as_ref().map_or((0, 0), |(header, rest)| (header.len(), *rest));
        header + self.data.len() - rest + if self.eoi_missing { 2 } else { 0 }
    }

    /// Appends the picture as a JPEG that any client can show: with a header that strict readers accept and Huffman
    /// tables, cut at EOI. One that is so already is copied as it is.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        let (header, rest) = self.header.as_ref().map_or((&[][..], 0), |(header, rest)| (header, *rest));
        out.extend_from_slice(header);
        out.extend_from_slice(&self.data[rest..]);
        if self.eoi_missing {
            out.extend_from_slice(&[0xFF, EOI]);
        }
    }
}

/// Where the picture ends, behind EOI. SOI and EOI cannot stand in entropy-coded data, so the first marker there decides;
/// only where `has_one_scan` is false, segments may stand between the scans. With a fault comes where it was found.
fn end_of_scan(data: &[u8], scan: usize, has_one_scan: bool) -> Result<usize, (Fault, usize)> {
    let mut at = scan;
    loop {
        // Behind an FF of the data comes 00; restart markers belong there too.
        let begins_marker = |byte, next| (byte == 0xFF) & (next != 0) & (next & 0xF8 != RST0);
        at = find_pair(data, at, begins_marker).ok_or((Fault::NoEnd, data.len()))?;
        at += match data[at + 1] {
            EOI => return Ok(at + 2),
            SOI => return Err((Fault::NoEnd, at)),
            0xFF => 1,
            DHT | SOS..=DRI | APP0..=APP15 | COM if !has_one_scan => {
                let rest = data.get(at + 2..).and_then(|rest| rest.first_chunk());
                let length = rest.map(|length| usize::from(u16::from_be_bytes(*length)));
                2 + length.filter(|length| at + 2 + length <= data.len()).ok_or((Fault::NoEnd, data.len()))?
            }
            _ => return Err((Fault::BadMarker, at + 2)),
        };
    }
}

/// The first place at or behind `at` where two bytes are like this. Written so that the compiler compares many at once,
/// since every scan is read.
#[inline]
pub fn find_pair(data: &[u8], mut at: usize, is_wanted: impl Fn(u8, u8) -> bool) -> Option<usize> {
    const CHUNK: usize = 64;
    while let Some(bytes) = data.get(at..at + CHUNK + 1) {
        let pairs = bytes[..CHUNK].iter().zip(&bytes[1..]);
        if pairs.fold(false, |found, (byte, next)| found | is_wanted(*byte, *next)) {
            break;
        }
        at += CHUNK;
    }
    Some(at + data.get(at..)?.windows(2).position(|pair| is_wanted(pair[0], pair[1]))?)
}

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
        let (sos, jfif) = (find(&jpeg, SOS).start, find(&jpeg, APP0).end);
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
            ("two EOIs", padded(&[0xFF, EOI]), 2),
            ("the stale tail of a longer picture", padded(&jpeg[sos + 50..]), jpeg.len() - sos - 50),
            ("rubbish", padded(b"rubbish"), 7),
            ("rubbish and zeros", padded(b"rubbish\0\0"), 9),
            ("FF behind EOI", padded(&[0xFF; 100]), 100),
            ("half a next picture", padded(&jpeg[..sos + 40]), sos + 40),
            ("fill bytes before EOI", insert(&jpeg, jpeg.len() - 2, &[0xFF; 9]), 0),
            ("fill bytes before SOS", insert(&jpeg, sos, &[0xFF; 5]), 0),
            ("TEM", insert(&jpeg, sos, &[0xFF, TEM]), 0),
            ("comment", insert(&jpeg, jfif, &segment(COM, b"made by hand")), 0),
            ("largest segment", insert(&jpeg, jfif, &segment(APP0 + 4, &[7; 65533])), 0),
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
    fn one_buffer_holds_what_it_likes_and_one_whole_picture_is_found() {
        let (jpeg, newer) = (plain(), encode(48, 16, |_| ()));
        let half = &jpeg[..find(&jpeg, SOS).end + 40];
        let exif = segment(APP0 + 1, &[b"Exif\0\0", &encode(8, 8, |_| ())[..]].concat());
        let (exif, exif_half) = (insert(&newer, 2, &exif), insert(half, 2, &exif));
        for (name, parts) in [
            ("stray bytes before SOI", [b"stray\xFF", &newer[..], b""]),
            ("zeros before SOI", [&[0; 700], &newer, b""]),
            ("doubled SOI", [&[0xFF, SOI], &newer, b""]),
            ("half a picture first", [half, &newer, b""]),
            ("half a header first", [&jpeg[..60], &newer, b""]),
            ("half a picture with a thumbnail first", [&exif_half, &newer, b""]),
            ("half a picture without its header first", [&half[200..], &newer, b""]),
            ("two whole pictures", [&jpeg, &newer, b""]),
            ("three whole pictures", [&jpeg, &jpeg, &newer]),
            ("a whole one and half a next", [&newer, half, b""]),
            ("a whole one, doubled EOI, and zeros", [&newer, &[0xFF, EOI, 0xFF, EOI], &[0; 999]]),
            ("a whole one between two halves", [half, &newer, half]),
        ] {
            let data = parts.concat();
            let picture = inspect(&data).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert!(appended(&picture) == newer, "{name}");
            assert_eq!(picture.padding(), data.len() - newer.len(), "{name}");
        }
        let picture = [half, &exif].concat();
        assert_eq!(inspect(&picture).map(|picture| picture.width()), Ok(48), "not the thumbnail");
        assert_eq!(inspect(&exif_half), Err(Fault::NoEnd), "the thumbnail of half a picture is no picture");
        assert_eq!(inspect(&[half, half].concat()), Err(Fault::NoEnd));
        // The next picture's SOI was lost, so a decoder would see two SOFs.
        assert_eq!(inspect(&[half, &newer[2..]].concat()), Err(Fault::BadMarker));
        assert_eq!(inspect(&[half, &[0xFF, TEM], &jpeg[500..]].concat()), Err(Fault::BadMarker));
    }

    #[test]
    fn stray_bytes_before_restart_markers_pass() {
        let jpeg = encode(64, 48, |e| e.set_restart_interval(1));
        let scan = find(&jpeg, SOS).end;
        let restarts: Vec<_> =
            (scan..jpeg.len() - 1).filter(|&at| jpeg[at] == 0xFF && matches!(jpeg[at + 1], RST0..=RST7)).collect();
        assert!(restarts.len() > 4);
        for stray in [&[0x5A][..], &[0, 0], &[0xD8, 0xD9, 7], &[1, 2, 0xFF, 0]] {
            let mut data = jpeg.clone();
            restarts.iter().rev().for_each(|&at| data = insert(&data, at, stray));
            let picture = inspect(&data).unwrap();
            assert!(appended(&picture) == data);
            assert!(picture.decodes(), "{stray:?}");
        }
    }

    #[test]
    fn a_scan_that_ends_early_does_not_decode_and_a_fault_has_its_place() {
        let jpeg = plain();
        let cut = [&jpeg[..jpeg.len() - 40], &[0xFF, EOI]].concat();
        assert!(inspect(&jpeg).unwrap().decodes() && !inspect(&cut).unwrap().decodes());
        assert_eq!(end_of_scan(&[1, 2, 3, 0xFF, 0x01, 4], 0, true), Err((Fault::BadMarker, 5)));
    }

    #[test]
    fn without_eoi_a_picture_ends_with_its_last_block() {
        let restarts = encode(64, 48, |e| e.set_restart_interval(2));
        let grey = {
            let mut out = Vec::new();
            let encoder = Encoder::new(&mut out, 80);
            encoder.encode(&[128; 64 * 48], 64, 48, ColorType::Luma).unwrap();
            out
        };
        for jpeg in [plain(), restarts, grey, without(&plain(), DHT)] {
            let open = &jpeg[..jpeg.len() - 2];
            let whole = appended(&inspect(&jpeg).unwrap());
            for tail in [&b""[..], &[0; 77], &[0xFF], b"a stale tail", &jpeg[..jpeg.len() / 2], &open[..40]] {
                let data = [b"x", open, tail].concat();
                assert_eq!(inspect(&data), Err(Fault::NoEnd));
                let picture = inspect_without_eoi(&data).unwrap();
                assert!(appended(&picture) == whole, "{tail:?}");
                assert!(picture.eoi_missing() && picture.decodes());
            }
            let cut = &jpeg[..jpeg.len() - 40];
            assert_eq!(inspect_without_eoi(cut), Err(Fault::NoEnd), "truncated");
            let newer = encode(48, 16, |_| ());
            let both = [open, &newer[..newer.len() - 2]].concat();
            assert_eq!(inspect_without_eoi(&both).map(|picture| picture.width()), Ok(48));
            assert_eq!(inspect_without_eoi(&[open, cut].concat()).map(|picture| picture.len()), Ok(whole.len()));
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
        assert_eq!(mended.len(), avi1.len() - 18 + 420);
        assert_eq!(find(&mended, DHT).end, find(&mended, DQT).start, "nothing changes from the first DQT on");
        assert!(!inspect(&mended).unwrap().dht_missing());
        assert!(mended.ends_with(&avi1[find(&avi1, DQT).start..]));
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
            ("no SOI", jpeg[2..].to_vec(), Fault::NoStart),
            ("only SOI", vec![0xFF, SOI], Fault::NoEnd),
            ("only fill bytes", [vec![0xFF, SOI], vec![0xFF; 100]].concat(), Fault::NoEnd),
            ("no marker where one must be", insert(&jpeg, sos.start, b"x"), Fault::BadSegment),
            ("SOI in the header", insert(&jpeg, sos.start, &[0xFF, SOI]), Fault::BadSegment),
            ("second SOF", insert(&jpeg, sos.start, &jpeg[sof.clone()]), Fault::BadSegment),
            ("a segment in the scan", insert(&jpeg, sos.end + 9, &segment(COM, b"")), Fault::BadMarker),
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
            ("the next picture for EOI", [&jpeg[..end], &jpeg[..end]].concat(), Fault::NoEnd),
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

    /// Where the picture that begins here ends, by the plainest means.
    fn naive_end(data: &[u8]) -> Option<usize> {
        let word = |at: usize| data.get(at..at + 2).map(|pair| usize::from(pair[0]) << 8 | usize::from(pair[1]));
        let mut at = 2;
        let (mut sof, mut sos) = (None, None);
        while sos.is_none() {
            match word(at)? {
                0xFFFF => at += 1,
                0xFF01 => at += 2,
                marker => {
                    match marker {
                        0xFFC0 | 0xFFC1 => sof = Some(data[at + 9]),
                        0xFFDA => sos = Some(data[at + 4]),
                        _ => {}
                    }
                    at += 2 + word(at + 2)?;
                }
            }
        }
        loop {
            match word(at)? {
                0xFFD9 => return Some(at + 2),
                0xFFC4 | 0xFFDA..=0xFFDD | 0xFFE0..=0xFFEF | 0xFFFE if sof != sos => at += 2 + word(at + 2)?,
                0xFF00 | 0xFFD0..=0xFFD7 => at += 2,
                0xFFFF => at += 1,
                0xFF01..=0xFFFE => return None,
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
        for (picture, may_lack_eoi) in [(inspect(data), false), (inspect_without_eoi(data), true)] {
            let Ok(picture) = picture else { continue };
            prop_assert!(may_lack_eoi || !picture.eoi_missing());
            if !picture.eoi_missing() {
                prop_assert_eq!(naive_end(picture.data), Some(picture.data.len()));
            }
            prop_assert!(data.windows(picture.data.len()).any(|part| part == picture.data));
            prop_assert_eq!(picture.padding(), data.len() - picture.data.len());
            let mended = appended(&picture);
            let again = inspect(&mended).map_err(|fault| TestCaseError::fail(format!("mended: {fault}")))?;
            prop_assert_eq!((again.width(), again.height()), (picture.width(), picture.height()));
            prop_assert_eq!((again.padding(), again.dht_missing(), again.header.is_none()), (0, false, true));
            prop_assert!(appended(&again) == mended);
            prop_assert_eq!(mean_luma(&mended), picture.mean_luma());
            prop_assert_eq!(again.decodes(), picture.decodes());
        }
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
        fn a_whole_picture_is_found_among_anything(
            before in proptest::collection::vec(part(), 0..4),
            behind in proptest::collection::vec(part(), 0..4),
        ) {
            // What is no beginning of a picture. What begins one that has an end is the newer picture.
            let clean = |parts: Vec<Vec<u8>>| {
                let mut bytes = parts.concat();
                (1..bytes.len()).for_each(|at| if bytes[at - 1..=at] == [0xFF, SOI] { bytes[at] = 0 });
                bytes
            };
            let jpeg = plain();
            let (before, behind) = (clean(before), clean(behind));
            let data = [&before[..], &jpeg, &behind].concat();
            prop_assert!(appended(&inspect(&data).unwrap()) == jpeg);
            let half = [&jpeg[..find(&jpeg, SOS).end + 30], &jpeg, &behind].concat();
            prop_assert!(appended(&inspect(&half).unwrap()) == jpeg);
            check(&data)?;
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            check(&bytes)?;
        }
    }
}
