//! The header that every client understands: SOI, then JFIF or Exif, then the camera's own segments.
//!
//! Strict readers refuse a picture that begins with neither, and AVI1, which many webcams write, is neither. Exif also
//! says which way up a picture is shown, when it was taken, and by which camera.

use std::str::{self, FromStr};
use std::time::Duration;

use super::segments::*;

/// A JFIF segment: version 1.1, square pixels, no thumbnail.
pub(super) const JFIF: [u8; 18] = *b"\xFF\xE0\x00\x10JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00";

// TIFF's types and Exif's tags, as far as they are written here.
const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;
const MODEL: u16 = 0x0110;
const ORIENTATION: u16 = 0x0112;
const EXIF_IFD: u16 = 0x8769;
const EXIF_VERSION: u16 = 0x9000;
const TIME: u16 = 0x9003;
const TIME_OFFSET: u16 = 0x9011;
const TIME_FRACTION: u16 = 0x9291;

/// How a picture is to be turned for viewing: an Exif orientation, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation(u8);

/// A mirror, by the direction in which it moves pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// Left and right change places.
    Horizontal,
    /// Top and bottom change places.
    Vertical,
}

impl FromStr for Flip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "horizontal" => Ok(Self::Horizontal),
            "vertical" => Ok(Self::Vertical),
            _ => Err("expected horizontal or vertical".into()),
        }
    }
}

impl Orientation {
    /// The orientation of a picture that is to be flipped, and then rotated clockwise by so many degrees.
    pub fn new(flip: Option<Flip>, degrees: u16) -> Self {
        let quarters = usize::from(degrees / 90 % 4);
        Self(match flip {
            None => [1, 6, 3, 8][quarters],
            Some(Flip::Horizontal) => [2, 7, 4, 5][quarters],
            Some(Flip::Vertical) => [4, 5, 2, 7][quarters],
        })
    }

    /// Where a pixel of a picture of this width and height is seen: its column and row.
    pub fn shown_at(self, [x, y]: [u32; 2], [width, height]: [u32; 2]) -> [u32; 2] {
        let [from_right, from_bottom] = [width - 1 - x, height - 1 - y];
        match self.0 {
            2 => [from_right, y],
            3 => [from_right, from_bottom],
            4 => [x, from_bottom],
            5 => [y, x],
            6 => [from_bottom, x],
            7 => [from_bottom, from_right],
            8 => [y, from_right],
            _ => [x, y],
        }
    }

    /// Whether width and height change places.
    pub fn is_sideways(self) -> bool {
        self.0 >= 5
    }
}

/// What replaces the beginning of a camera's picture, and where the picture goes on behind it. `None` if it is fine as it
/// is. From there on, which is the first DQT, nothing is changed; where a segment behind it has to go, it is SOS.
pub(super) fn cleaned(
    data: &[u8],
    sos: usize,
    dht_missing: bool,
    orientation: Option<Orientation>,
) -> Option<(Vec<u8>, usize)> {
    let mut all = Segments::new(&data[..sos]).ok()?;
    let segments: Vec<_> = std::iter::from_fn(|| all.next().ok()).collect();
    let jfif = segments.iter().find(|segment| is_jfif(segment) && !segment.misleads_parsers());
    let exif = segments.iter().find_map(|segment| Exif::read(segment).map(|exif| (segment, exif)));
    let exif_is_fine = exif.as_ref().is_some_and(|(segment, _)| !segment.misleads_parsers());
    let begins_well = segments.first().is_some_and(|first| is_jfif(first) || Exif::read(first).is_some());
    let is_unwanted = |segment: &Segment<'_>| {
        segment.misleads_parsers()
            || segment.marker == APP0 && !is_jfif(segment) && !segment.payload.starts_with(b"JFXX\0")
    };
    if begins_well && !dht_missing && orientation.is_none() && !segments.iter().any(is_unwanted) {
        return None;
    }
    let dqt = segments.iter().find(|segment| segment.marker == DQT).map_or(sos, |segment| segment.start);
    let rest = if segments.iter().any(|segment| segment.start > dqt && is_unwanted(segment)) { sos } else { dqt };

    let mut out = Vec::with_capacity(rest + JFIF.len() + 64 + if dht_missing { STANDARD_DHT.len() } else { 0 });
    out.extend_from_slice(&[0xFF, SOI]);
    match jfif {
        Some(jfif) => out.extend_from_slice(jfif.bytes),
        None if exif_is_fine => {}
        None => out.extend_from_slice(&JFIF),
    }
    match (&exif, orientation) {
        (Some((segment, _)), None) if exif_is_fine => out.extend_from_slice(segment.bytes),
        (Some((_, exif)), Some(orientation)) if exif_is_fine => {
            let exif = exif.clone().turned(orientation).segment();
            out.extend(exif.unwrap_or_else(|| Exif::only(orientation)));
        }
        // Of what has to go, the orientation stays.
        (exif, wanted) => {
            let own = exif.as_ref().and_then(|(_, exif)| exif.orientation());
            out.extend(wanted.or(own).map(Exif::only).unwrap_or_default());
        }
    }
    let is_written = |segment: &Segment<'_>| is_jfif(segment) || Exif::read(segment).is_some();
    for segment in
        segments.iter().filter(|segment| segment.start < rest && !is_unwanted(segment) && !is_written(segment))
    {
        out.extend_from_slice(segment.bytes);
    }
    if dht_missing {
        out.extend_from_slice(&STANDARD_DHT);
    }
    Some((out, rest))
}

/// How a picture says that it is to be turned.
pub fn orientation(jpeg: &[u8]) -> Option<Orientation> {
    exif_of(jpeg)?.orientation()
}

fn exif_of(jpeg: &[u8]) -> Option<Exif> {
    let mut all = Segments::new(jpeg).ok()?;
    let mut header = std::iter::from_fn(|| all.next().ok()).take_while(|segment| segment.marker != SOS);
    header.find_map(|segment| Exif::read(&segment))
}

fn is_jfif(segment: &Segment<'_>) -> bool {
    let &[b'J', b'F', b'I', b'F', 0, _, _, _, _, _, _, _, width, height, ref thumbnail @ ..] = segment.payload else {
        return false;
    };
    segment.marker == APP0 && thumbnail.len() == 3 * usize::from(width) * usize::from(height)
}

/// When a picture was taken, and by which camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture<'a> {
    /// The camera's name.
    pub camera: &'a str,
    /// Local time, as Exif writes it: `2026:11:25 14:03:10`.
    pub time: String,
    /// Fraction of the second, in microseconds.
    pub micros: u32,
    /// Local time less UTC, in minutes.
    pub offset: i32,
}

/// What replaces the beginning of a picture so that it says when and by which camera it was taken, and where the picture
/// goes on behind it. What it says already is kept. `None` if there is nothing to add.
pub fn with_capture(jpeg: &[u8], capture: &Capture<'_>) -> Option<(Vec<u8>, usize)> {
    let mut all = Segments::new(jpeg).ok()?;
    let header: Vec<_> = std::iter::from_fn(|| all.next().ok()).take_while(|segment| segment.marker != SOS).collect();
    let found = header.iter().find_map(|segment| Some((segment.start, segment, Exif::read(segment)?)));
    let (start, rest, mut exif) = match (found, header.first()) {
        (Some((start, segment, exif)), _) => (start, start + segment.bytes.len(), exif),
        (None, Some(jfif)) if is_jfif(jfif) => (2 + jfif.bytes.len(), 2 + jfif.bytes.len(), Exif::new()),
        _ => (2, 2, Exif::new()),
    };
    let has = |directory: &[Entry], tag: u16| directory.iter().any(|entry| exif.number(&entry[..2]) == u32::from(tag));
    let has_time = has(&exif.photo, TIME);
    if has_time && has(&exif.main, MODEL) {
        return None;
    }
    let text = |text: &str| [text.as_bytes(), b"\0"].concat();
    let (sign, minutes) = (if capture.offset < 0 { '-' } else { '+' }, capture.offset.abs());
    exif.add(true, MODEL, ASCII, &text(capture.camera));
    if !has_time {
        exif.add(false, EXIF_VERSION, UNDEFINED, b"0232");
        exif.add(false, TIME, ASCII, &text(&capture.time));
        exif.add(false, TIME_OFFSET, ASCII, &text(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)));
        exif.add(false, TIME_FRACTION, ASCII, &text(&format!("{:06}", capture.micros)));
    }
    Some(([&jpeg[..start], &exif.segment()?].concat(), rest))
}

/// When a picture was taken, as its Exif header says to a fraction of a second: since the beginning of its month, by the local
/// time of that place. For differences.
pub fn captured_at(jpeg: &[u8]) -> Option<Duration> {
    let exif = exif_of(jpeg)?;
    let text = |tag: u16| {
        let entry = exif.photo.iter().find(|entry| exif.number(&entry[..2]) == u32::from(tag))?;
        let at = exif.number(&entry[8..]) as usize;
        let text = exif.tiff.get(at..at.checked_add(exif.number(&entry[4..8]) as usize)?)?;
        str::from_utf8(text).ok()?.strip_suffix('\0')
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let (time, fraction) = (text(TIME)?, text(TIME_FRACTION)?);
    let [day, hour, minute, second] = [8..10, 11..13, 14..16, 17..19].map(|at| time.get(at).and_then(number));
    let seconds = ((day? * 24 + hour?) * 60 + minute?) * 60 + second?;
    Some(Duration::from_secs(seconds) + Duration::from_micros(number(fraction).filter(|_| fraction.len() == 6)?))
}

/// An Exif segment, taken apart: TIFF with a main directory, and one for the photo.
#[derive(Clone)]
struct Exif {
    /// Everything; directories that are written again are appended, so that all offsets stay right.
    tiff: Vec<u8>,
    is_little_endian: bool,
    main: Vec<Entry>,
    photo: Vec<Entry>,
    /// Offset of the thumbnail's directory.
    next: [u8; 4],
}

/// Tag, type, number of values, and the value or its offset.
type Entry = [u8; 12];

impl Exif {
    fn new() -> Self {
        let tiff = b"MM\0\x2A\0\0\0\x08".to_vec();
        Self { tiff, is_little_endian: false, main: vec![], photo: vec![], next: [0; 4] }
    }

    /// A segment that says nothing but the orientation, of 36 bytes.
    fn only(orientation: Orientation) -> Vec<u8> {
        Self::new().turned(orientation).segment().unwrap_or_default()
    }

    /// `None` unless the segment is Exif and can be read.
    fn read(segment: &Segment<'_>) -> Option<Self> {
        let tiff = segment.payload.strip_prefix(b"Exif\0\0").filter(|_| segment.marker == APP0 + 1)?;
        let is_little_endian = match tiff.first_chunk()? {
            b"II\x2A\0" => true,
            b"MM\0\x2A" => false,
            _ => return None,
        };
        let mut exif = Self { tiff: tiff.to_vec(), is_little_endian, ..Self::new() };
        (exif.main, exif.next) = exif.directory(exif.number(tiff.get(4..8)?))?;
        if let Some(photo) = exif.main.iter().find(|entry| exif.number(&entry[..2]) == u32::from(EXIF_IFD)) {
            (exif.photo, _) = exif.directory(exif.number(&photo[8..]))?;
        }
        Some(exif)
    }

    fn directory(&self, offset: u32) -> Option<(Vec<Entry>, [u8; 4])> {
        let bytes = self.tiff.get(usize::try_from(offset).ok()?..)?;
        let end = 2 + 12 * self.number(bytes.get(..2)?) as usize;
        let entries = bytes.get(2..end)?.as_chunks().0.to_vec();
        Some((entries, bytes.get(end..end + 4)?.try_into().ok()?))
    }

    /// An integer of these two or four bytes.
    fn number(&self, bytes: &[u8]) -> u32 {
        let add = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        if self.is_little_endian { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    }

    /// The last `length` bytes of a number, in the order of this segment.
    fn bytes(&self, number: u32, length: usize) -> Vec<u8> {
        match self.is_little_endian {
            true => number.to_le_bytes()[..length].to_vec(),
            false => number.to_be_bytes()[4 - length..].to_vec(),
        }
    }

    fn orientation(&self) -> Option<Orientation> {
        let entry = self.main.iter().find(|entry| self.number(&entry[..2]) == u32::from(ORIENTATION))?;
        u8::try_from(self.number(&entry[8..10])).ok().filter(|value| (1..=8).contains(value)).map(Orientation)
    }

    /// With this orientation in place of any other.
    fn turned(mut self, orientation: Orientation) -> Self {
        let head = [self.bytes(ORIENTATION.into(), 2), self.bytes(SHORT.into(), 2)].concat();
        let value = self.bytes(orientation.0.into(), 2);
        let known = self.main.iter().position(|entry| entry[..4] == head);
        let at = known.map(|number| self.number(&self.tiff[4..8]) as usize + 2 + 12 * number + 8);
        match (known, at.and_then(|at| self.tiff.get_mut(at..at + 2))) {
            // In its place, nothing is written again.
            (Some(number), Some(place)) => {
                place.copy_from_slice(&value);
                self.main[number][8..10].copy_from_slice(&value);
            }
            _ => {
                self.main.retain(|entry| entry[..2] != head[..2]);
                self.add(true, ORIENTATION, SHORT, &value);
            }
        }
        self
    }

    /// Adds a value to the main directory, or else to the photo's, unless the tag is there already.
    fn add(&mut self, is_main: bool, tag: u16, kind: u16, value: &[u8]) {
        let count = if kind == SHORT || kind == LONG { 1 } else { value.len() as u32 };
        let mut entry = [self.bytes(tag.into(), 2), self.bytes(kind.into(), 2), self.bytes(count, 4)].concat();
        match value.len() {
            0..=4 => entry.extend_from_slice(value),
            _ => {
                self.align();
                entry.extend(self.bytes(self.tiff.len() as u32, 4));
                self.tiff.extend_from_slice(value);
            }
        }
        entry.resize(12, 0);
        let directory = if is_main { &mut self.main } else { &mut self.photo };
        if !directory.iter().any(|known| known[..2] == entry[..2]) {
            directory.extend(entry.first_chunk::<12>());
        }
    }

    /// Offsets are even.
    fn align(&mut self) {
        self.tiff.resize(self.tiff.len().next_multiple_of(2), 0);
    }

    /// The whole segment, with directories that have changed written again; `None` if it is too long, or would mislead parsers.
    fn segment(mut self) -> Option<Vec<u8>> {
        let says = |exif: &Self, offset: &[u8], entries: &[Entry]| {
            exif.directory(exif.number(offset)).is_some_and(|(known, _)| known == entries)
        };
        let tag = self.bytes(EXIF_IFD.into(), 2);
        let photo = self.main.iter().find(|entry| entry[..2] == tag);
        if !self.photo.is_empty() && !photo.is_some_and(|entry| says(&self, &entry[8..], &self.photo)) {
            self.main.retain(|entry| entry[..2] != tag);
            let offset = self.write(&self.photo.clone(), [0; 4]);
            self.add(true, EXIF_IFD, LONG, &offset);
        }
        if !says(&self, &self.tiff[4..8], &self.main) {
            let offset = self.write(&self.main.clone(), self.next);
            self.tiff[4..8].copy_from_slice(&offset);
        }
        let length = u16::try_from(2 + 6 + self.tiff.len()).ok()?.to_be_bytes();
        let segment = [&[0xFF, APP0 + 1, length[0], length[1]], &b"Exif\0\0"[..], &self.tiff].concat();
        let is_fine = !segment.windows(2).any(|pair| matches!(pair, [0xFF, SOI | EOI]));
        is_fine.then_some(segment)
    }

    /// Appends a directory, sorted by tag as TIFF wants it, and returns its offset.
    fn write(&mut self, entries: &[Entry], next: [u8; 4]) -> Vec<u8> {
        let mut entries = entries.to_vec();
        entries.sort_by_key(|entry| self.number(&entry[..2]));
        self.align();
        let offset = self.bytes(self.tiff.len() as u32, 4);
        let count = self.bytes(entries.len() as u32, 2);
        self.tiff.extend([&count, entries.as_flattened(), &next].concat());
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::super::scanner::inspect;
    use super::super::scanner::tests::{encode, without};
    use super::*;

    fn plain() -> Vec<u8> {
        encode(40, 24, |_| ())
    }

    fn segment(marker: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = (payload.len() as u16 + 2).to_be_bytes();
        [&[0xFF, marker, high, low], payload].concat()
    }

    /// Where the first DQT begins.
    fn dqt(jpeg: &[u8]) -> usize {
        let mut segments = Segments::new(jpeg).unwrap();
        std::iter::from_fn(|| segments.next().ok()).find(|segment| segment.marker == DQT).unwrap().start
    }

    /// The picture with these segments in place of its JFIF.
    fn with_header(segments: &[&[u8]]) -> Vec<u8> {
        [&[0xFF, SOI], segments.concat().as_slice(), &without(&plain(), APP0)[2..]].concat()
    }

    fn served(jpeg: &[u8], orientation: Option<Orientation>) -> Vec<u8> {
        let picture = inspect(jpeg).unwrap();
        let picture = orientation.map_or(picture.clone(), |orientation| picture.turned(orientation));
        let mut out = Vec::new();
        picture.append_to(&mut out);
        assert_eq!(out.len(), picture.len());
        assert!(inspect(&out).is_ok());
        out
    }

    /// A camera's Exif: its maker's name, and an orientation. `II` is little-endian.
    fn cameras_exif(orientation: u8, is_little_endian: bool) -> Vec<u8> {
        let tiff = if is_little_endian { b"II\x2A\0\x08\0\0\0" } else { b"MM\0\x2A\0\0\0\x08" };
        let exif = Exif { tiff: tiff.to_vec(), is_little_endian, ..Exif::new() };
        let mut exif = exif.turned(Orientation(orientation));
        exif.add(true, 0x010F, ASCII, b"A maker\0");
        exif.segment().unwrap()
    }

    #[test]
    fn every_picture_begins_with_jfif_or_exif_and_is_the_same_from_dqt_on() {
        let avi1 = segment(APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0");
        let bad_jfif = segment(APP0, b"JFIF\0\x01\x01\0\0\x01\0\x01\x09\x09");
        let comment = segment(COM, b"made by hand");
        let exif = cameras_exif(6, true);
        let bad_exif = segment(APP0 + 1, b"Exif\0\0XX\0\0");
        for (name, given, served_header) in [
            ("JFIF", vec![&JFIF[..]], vec![&JFIF[..]]),
            ("Exif", vec![&exif], vec![&exif]),
            ("Exif and JFIF", vec![&exif, &JFIF], vec![&exif, &JFIF]),
            ("JFIF, a comment and Exif", vec![&JFIF, &comment, &exif], vec![&JFIF, &comment, &exif]),
            ("nothing", vec![], vec![&JFIF]),
            ("AVI1", vec![&avi1], vec![&JFIF]),
            ("AVI1 and a comment", vec![&avi1, &comment], vec![&JFIF, &comment]),
            ("AVI1 and Exif", vec![&avi1, &exif], vec![&exif]),
            ("AVI1 and JFIF", vec![&avi1, &JFIF], vec![&JFIF]),
            ("damaged JFIF", vec![&bad_jfif], vec![&JFIF]),
            ("damaged Exif", vec![&bad_exif], vec![&JFIF, &bad_exif]),
            ("a comment and JFIF", vec![&comment, &JFIF], vec![&JFIF, &comment]),
        ] {
            let (given, expected) = (with_header(&given), with_header(&served_header));
            assert!(served(&given, None) == expected, "{name}");
            assert!(served(&expected, None) == expected, "{name}: again");
            let bare = without(&given, DHT);
            let mended = served(&bare, None);
            assert!(mended.ends_with(&bare[dqt(&bare)..]), "{name}: the same from DQT on");
            assert_eq!(mended.len(), without(&expected, DHT).len() + STANDARD_DHT.len(), "{name}");
        }
    }

    #[test]
    fn an_exif_segment_with_a_thumbnail_goes_and_its_orientation_stays() {
        let exif = Exif { tiff: [&b"MM\0\x2A\0\0\0\x08"[..], &plain()].concat(), ..Exif::new() };
        let turned = exif.turned(Orientation(8));
        assert!(turned.clone().segment().is_none(), "it would mislead parsers");
        let mut exif = turned;
        let offset = exif.write(&exif.main.clone(), [0; 4]);
        exif.tiff[4..8].copy_from_slice(&offset);
        let given = with_header(&[&segment(APP0 + 1, &[b"Exif\0\0", &exif.tiff[..]].concat())]);
        let expected = |value| with_header(&[&JFIF, &Exif::only(Orientation(value))]);
        assert!(served(&given, None) == expected(8));
        assert!(served(&given, Some(Orientation(3))) == expected(3));
    }

    /// The picture's corners by the definition of each orientation: where its rows and columns begin.
    #[test]
    fn orientations_are_flips_and_rotations() {
        type Grid = [[u8; 2]; 2];
        let rotate = |[[a, b], [c, d]]: Grid| [[c, a], [d, b]];
        let flip = |[[a, b], [c, d]]: Grid| [[b, a], [d, c]];
        let flop = |[[a, b], [c, d]]: Grid| [[c, d], [a, b]];
        let start = [[1, 2], [3, 4]];
        // TIFF 6.0, tag 274: what row 0 and column 0 are.
        let shown: [Grid; 8] = [
            start,
            [[2, 1], [4, 3]],
            [[4, 3], [2, 1]],
            [[3, 4], [1, 2]],
            [[1, 3], [2, 4]],
            [[3, 1], [4, 2]],
            [[4, 2], [3, 1]],
            [[2, 4], [1, 3]],
        ];
        for how in [None, Some(Flip::Horizontal), Some(Flip::Vertical)] {
            for quarters in 0..4 {
                let flipped = match how {
                    None => start,
                    Some(Flip::Horizontal) => flip(start),
                    Some(Flip::Vertical) => flop(start),
                };
                let expected = (0..quarters).fold(flipped, |grid, _| rotate(grid));
                let orientation = Orientation::new(how, quarters * 90);
                assert_eq!(shown[usize::from(orientation.0) - 1], expected, "{how:?} {quarters}");
                for (x, y) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let [column, row] = orientation.shown_at([x, y], [2, 2]).map(|at| at as usize);
                    assert_eq!(expected[row][column], start[y as usize][x as usize], "{how:?} {quarters}");
                }
                assert_eq!(orientation.is_sideways(), quarters % 2 == 1);
            }
        }
    }

    #[test]
    fn an_orientation_costs_36_bytes_and_replaces_the_cameras_own() {
        let jpeg = with_header(&[&JFIF]);
        for value in 1..=8 {
            let turned = served(&jpeg, Some(Orientation(value)));
            assert_eq!(turned.len(), jpeg.len() + 36);
            assert_eq!(orientation(&turned), Some(Orientation(value)));
            for is_little_endian in [true, false] {
                let camera = with_header(&[&cameras_exif(6, is_little_endian)]);
                assert!(served(&camera, None) == camera, "without the options its own stays");
                let exif = exif_of(&served(&camera, Some(Orientation(value)))).unwrap();
                assert_eq!(exif.orientation(), Some(Orientation(value)));
                assert!(exif.tiff.windows(7).any(|window| window == b"A maker"), "the rest is kept");
                assert_eq!(exif.main.len(), 2);
            }
        }
    }

    /// What a frame grows by at most: JFIF and an orientation, and the tables where they are missing.
    #[test]
    fn a_frame_grows_by_at_most_54_bytes_and_420_for_missing_tables() {
        let avi1 = segment(APP0, b"AVI1\0\0\0\0\0\0\0\0\0\0");
        let (comment, bad_exif) = (segment(COM, b"made by hand"), segment(APP0 + 1, b"Exif\0\0XX\0\0"));
        let [little, big] = [true, false].map(|is_little_endian| {
            // As cameras write it: many tags, and a directory for the photo.
            let segment = cameras_exif(6, is_little_endian);
            let mut exif = Exif::read(&Segments::new(&with_header(&[&segment])).unwrap().next().unwrap()).unwrap();
            (0x0110..0x0118).filter(|tag| *tag != ORIENTATION).for_each(|tag| exif.add(true, tag, ASCII, b"text\0"));
            exif.add(false, TIME, ASCII, b"2026:11:25 14:03:10\0");
            exif.segment().unwrap()
        });
        let exif: [&[u8]; 2] = [&little, &big];
        let headers: [&[&[u8]]; 10] = [
            &[],
            &[&JFIF],
            &[&avi1],
            &[&comment],
            &[&bad_exif],
            &[&avi1, &comment, &bad_exif],
            &exif[..1],
            &exif[1..],
            &[&JFIF, &little],
            &[&avi1, &big],
        ];
        for header in headers {
            let whole = with_header(header);
            for (given, most) in [(whole.clone(), 54), (without(&whole, DHT), 54 + 420)] {
                for orientation in [None, Some(Orientation(6))] {
                    let grown = served(&given, orientation).len().saturating_sub(given.len());
                    assert!(grown <= most, "{grown} bytes, not {most}: {header:02x?} {orientation:?}");
                }
            }
        }
        assert_eq!(served(&with_header(&[]), Some(Orientation(6))).len() - with_header(&[]).len(), 54);
    }

    #[test]
    fn snapshots_say_when_and_by_which_camera_they_were_taken() {
        let capture = Capture { camera: "A camera", time: "2026:11:25 14:03:10".into(), micros: 42, offset: -570 };
        let dated = |jpeg: &[u8]| {
            let (start, rest) = with_capture(jpeg, &capture).unwrap();
            [&start, &jpeg[rest..]].concat()
        };
        let exif = cameras_exif(6, true);
        let comment = segment(COM, b"made by hand");
        for header in [vec![&JFIF[..]], vec![&exif], vec![&JFIF, &comment, &exif], vec![&comment]] {
            let jpeg = with_header(&header);
            let dated = dated(&jpeg);
            assert!(inspect(&dated).is_ok() && dated.ends_with(&jpeg[dqt(&jpeg)..]));
            let exif = exif_of(&dated).unwrap();
            for text in [&b"A camera\0"[..], b"2026:11:25 14:03:10\0", b"000042\0", b"-09:30\0"] {
                assert!(exif.tiff.windows(text.len()).any(|window| window == text));
            }
            assert_eq!(exif.orientation(), exif_of(&jpeg).and_then(|exif| exif.orientation()));
            let time = Duration::from_secs(((25 * 24 + 14) * 60 + 3) * 60 + 10) + Duration::from_micros(42);
            assert_eq!((captured_at(&dated), captured_at(&jpeg)), (Some(time), None));
            let later = Capture { time: "2027:01:01 00:00:00".into(), ..capture.clone() };
            assert!(with_capture(&dated, &later).is_none(), "what it says already is kept, as a relay has to");
        }
    }

    #[test]
    fn exif_that_is_cut_off_is_no_exif() {
        let exif = cameras_exif(6, true);
        for end in 4..exif.len() {
            let jpeg = with_header(&[&segment(APP0 + 1, &exif[4..end])]);
            let served = served(&jpeg, Some(Orientation(6)));
            assert_eq!(exif_of(&served).unwrap().orientation(), Some(Orientation(6)), "{end}");
            with_capture(&jpeg, &Capture { camera: "", time: String::new(), micros: 0, offset: 0 });
        }
    }
}
