//! Finds the pictures in a stream of bytes: multipart in every dialect, JPEGs back to back, an AVI file.
//!
//! A JPEG says itself where it ends, so its markers decide, not what stands between two pictures: first boundaries and
//! lengths may be missing or wrong, boundaries may be written with dashes, quotes or bare LF, zeros may follow a picture.
//! Of a part's header only the lines that say something about the picture are read.
//!
//! Pure: bytes in, pictures out, however the bytes are cut. What it holds is limited to [`LIMIT`] and what is pushed.

use std::ops::Range;
use std::time::Duration;

use crate::jpeg::find_pair;

/// The largest picture.
pub const LIMIT: usize = 16 << 20;
/// The part of a header that is searched: its last bytes.
const HEAD: usize = 8 << 10;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// Cuts a stream of bytes into pictures.
#[derive(Default)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Where the picture begins of which a part is here; equal to `at` between pictures.
    start: usize,
    /// What stands before this has been read. May lie behind the end, in a segment that has not come yet.
    at: usize,
    position: Position,
    /// Up to here SOI begins a picture only behind LF: it may be the thumbnail of a picture that was cut.
    doubtful: usize,
    /// The last bytes between two pictures: a part's header.
    head: Vec<u8>,
    /// What was found last.
    found: Range<usize>,
}

/// Where in the stream the splitter is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Between pictures.
    #[default]
    Between,
    /// In front of a marker. The last segment that was passed begins at `last`.
    Segments { last: usize },
    /// In entropy-coded data.
    Scan,
}

/// What one step of the splitter gives.
enum Step {
    Again,
    /// More bytes have to come.
    More,
    /// Where the picture begins and ends, and whether it is whole.
    Found(usize, usize, bool),
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// From SOI to EOI, or what came of a picture that was cut.
    pub data: &'a [u8],
    /// Whether it ends with EOI, all its segments in place.
    pub is_whole: bool,
    /// What the header in front of it says.
    pub head: Head,
}

/// What a part's header says about its picture.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// `X-Timestamp`: when it was captured, since the UNIX epoch.
    pub captured_at: Option<Duration>,
    /// `X-Framehub-No-Signal`: it only says that there is no picture.
    pub is_no_signal: bool,
}

impl Splitter {
    /// Takes the next bytes of the stream. Call [`Splitter::next`] until it finds nothing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.drop_read();
        self.buffer.extend_from_slice(bytes);
    }

    /// The next picture, or what came of one. It stays in place until the next call of [`Splitter::push`].
    #[allow(clippy::should_implement_trait)] // It lends what it finds.
    pub fn next(&mut self) -> Option<Found<'_>> {
        let (start, end, is_whole) = loop {
            let step = match self.position {
                Position::Between => self.find_start(),
                Position::Segments { last } => self.pass_segment(last),
                Position::Scan => self.find_end(),
            };
            match step {
                Step::Again => {}
                Step::Found(start, end, is_whole) => break (start, end, is_whole),
                Step::More if self.buffer.len() - self.start <= LIMIT => return None,
                Step::More => {
                    let start = self.start;
                    self.leave(self.buffer.len());
                    break (start, start + LIMIT, false);
                }
            }
        };
        let head = read_head(&self.head);
        self.head.clear();
        if !is_whole {
            // A picture that was cut is followed by the next one's header at once.
            self.head.extend_from_slice(&self.buffer[end.saturating_sub(HEAD).max(start)..end]);
        }
        self.found = start..end;
        Some(Found { data: self.found(), is_whole, head })
    }

    /// What was found last, from then to the next call of [`Splitter::push`].
    pub fn found(&self) -> &[u8] {
        &self.buffer[self.found.clone()]
    }

    /// The first line of the last bytes that were no picture, for an error message.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.head[..self.head.len().min(400)]).into_owned();
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        line.chars().filter(|letter| !letter.is_control()).take(80).collect()
    }

    fn drop_read(&mut self) {
        let read = self.start;
        self.found = 0..0;
        self.buffer.drain(..read);
        self.start -= read;
        self.at -= read;
        self.doubtful = self.doubtful.saturating_sub(read);
        if let Position::Segments { last } = &mut self.position {
            *last -= read;
        }
        if self.buffer.capacity() > 1 << 20 && self.buffer.len() < 1 << 16 {
            self.buffer.shrink_to(1 << 16);
        }
    }

    /// Goes on to the next SOI, which another marker follows.
    fn find_start(&mut self) -> Step {
        let mut found = self.at;
        let is_known = loop {
            let Some(at) = find_pair(&self.buffer, found, |byte, next| (byte == 0xFF) & (next == SOI)) else {
                // The last byte may be the first one of a marker.
                let half = usize::from(self.buffer.last() == Some(&0xFF));
                found = found.max(self.buffer.len() - half);
                break false;
            };
            found = at;
            let Some(next) = self.buffer.get(at + 2) else { break false };
            let before = self.buffer[..at].last().or(self.head.last());
            let is_thumbnail = at < self.doubtful && before != Some(&b'\n');
            if *next == 0xFF && !is_thumbnail {
                break true;
            }
            found += 2;
        };
        self.head.extend_from_slice(&self.buffer[self.at.max(found.saturating_sub(HEAD))..found]);
        self.head.drain(..self.head.len().saturating_sub(HEAD));
        (self.start, self.at) = (found, found);
        if !is_known {
            return Step::More;
        }
        self.at += 2;
        self.position = Position::Segments { last: self.at };
        Step::Again
    }

    /// Passes one marker with its segment.
    fn pass_segment(&mut self, last: usize) -> Step {
        let Some(&byte) = self.buffer.get(self.at) else { return Step::More };
        if byte != 0xFF {
            return self.give_up(last);
        }
        let Some(&marker) = self.buffer.get(self.at + 1) else { return Step::More };
        match marker {
            0xFF => self.at += 1,
            0x01 | 0xD0..=0xD7 => self.at += 2,
            // Doubled: the second one begins the picture.
            SOI => {
                (self.start, self.at) = (self.at, self.at + 2);
                self.position = Position::Segments { last: self.at };
            }
            0x00 | EOI => return self.give_up(last),
            _ => {
                let Some(length) = self.buffer.get(self.at + 2..self.at + 4) else { return Step::More };
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                if length < 2 {
                    return self.give_up(last);
                }
                self.position = if marker == SOS { Position::Scan } else { Position::Segments { last: self.at } };
                self.at += 2 + length;
            }
        }
        Step::Again
    }

    /// Goes on to the marker that ends the entropy-coded data.
    fn find_end(&mut self) -> Step {
        let ends = |byte, next| (byte == 0xFF) & (next != 0) & (next & 0xF8 != 0xD0);
        let Some(at) = find_pair(&self.buffer, self.at, ends) else {
            self.at = self.at.max(self.buffer.len().saturating_sub(1));
            return Step::More;
        };
        let start = self.start;
        let (end, is_whole) = match self.buffer[at + 1] {
            EOI => (at + 2, true),
            SOI => (at, false),
            0xFF => {
                self.at = at + 1;
                return Step::Again;
            }
            _ => {
                (self.at, self.position) = (at, Position::Segments { last: at });
                return Step::Again;
            }
        };
        self.leave(end);
        Step::Found(start, end, is_whole)
    }

    /// Gives up a picture with a wrong segment: what came of it, up to where the next one may begin. Its last segment may
    /// have been cut, so that the next picture begins within what its length claims.
    fn give_up(&mut self, last: usize) -> Step {
        let (start, end) = (self.start, self.at.min(self.buffer.len()));
        let is_application = self.buffer.get(last + 1).is_some_and(|marker| marker & 0xF0 == 0xE0);
        self.leave((last + 2).min(end));
        self.doubtful = if is_application { end } else { 0 };
        let next = find_pair(&self.buffer[..end], self.at, |byte, next| (byte == 0xFF) & (next == SOI));
        Step::Found(start, next.unwrap_or(end), false)
    }

    /// The stream goes on at `at`, between pictures.
    fn leave(&mut self, at: usize) {
        (self.start, self.at, self.position, self.doubtful) = (at, at, Position::Between, 0);
    }
}

/// The lines of a part's header that matter, the last of each.
pub fn read_head(head: &[u8]) -> Head {
    let mut read = Head::default();
    for line in head.split(|byte| *byte == b'\n') {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            continue;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "x-timestamp" => read.captured_at = timestamp(value.trim()),
            "x-framehub-no-signal" => read.is_no_signal = value.trim() == "1",
            _ => {}
        }
    }
    read
}

/// `1763680000.123456` in seconds.
fn timestamp(text: &str) -> Option<Duration> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Duration::new(seconds.parse().ok()?, format!("{fraction:0<9}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use jpeg_encoder::{ColorType, Encoder};
    use proptest::prelude::*;

    use super::*;

    fn picture(number: u8, setup: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
        let pixels: Vec<u8> = (0..32 * 24 * 3usize).map(|i| (i * (i / 7 + usize::from(number))) as u8).collect();
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 80);
        setup(&mut encoder);
        encoder.encode(&pixels, 32, 24, ColorType::Ycbcr).unwrap();
        jpeg
    }

    fn plain(number: u8) -> Vec<u8> {
        picture(number, |_| ())
    }

    /// A picture with a whole picture in its APP1.
    fn with_thumbnail() -> Vec<u8> {
        let (jpeg, thumbnail) = (plain(1), plain(9));
        let length = (thumbnail.len() + 8) as u16;
        [&[0xFF, SOI, 0xFF, 0xE1], &length.to_be_bytes()[..], b"Exif\0\0", &thumbnail, &jpeg[2..]].concat()
    }

    /// What is found in bytes that come in pieces of this size: whole pictures and others.
    fn split(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut splitter = Splitter::default();
        let (mut whole, mut cut) = (Vec::new(), Vec::new());
        for bytes in stream.chunks(piece.max(1)) {
            splitter.push(bytes);
            while let Some(found) = splitter.next() {
                if found.is_whole { &mut whole } else { &mut cut }.push(found.data.to_vec());
            }
        }
        (whole, cut)
    }

    fn part(head: &str, jpeg: &[u8], tail: &str) -> Vec<u8> {
        [head.as_bytes(), jpeg, tail.as_bytes()].concat()
    }

    #[test]
    fn every_dialect_gives_the_same_pictures() {
        let pictures = [
            plain(1),
            with_thumbnail(),
            picture(2, |encoder| encoder.set_progressive(true)),
            picture(3, |encoder| encoder.set_restart_interval(1)),
            picture(4, |encoder| encoder.set_optimized_huffman_tables(true)),
            plain(5),
        ];
        let long = format!("X-Long: {}\r\n", "x".repeat(5000));
        for (name, preamble, head, tail) in [
            ("framehub", "--b\r\n", "Content-Type: image/jpeg\r\nContent-Length: 1\r\n\r\n", "\r\n--b\r\n"),
            ("esp32", "", "\r\n--123456789000000000000987654321\r\nContent-Type: image/jpeg\r\n\r\n", ""),
            ("arkhipenko", "", "--+++===123454321===+++\r\nContent-Type: image/jpeg\r\n\r\n", "\r\n"),
            ("no first boundary", "", "Content-Type: image/jpeg\r\n\r\n", "\r\n--b\r\n"),
            ("dashes in the boundary", "", "----boundary\r\n\r\n", "\r\n"),
            ("bare LF", "--b\n", "content-type: image/jpeg\n\n", "\n--b\n"),
            ("long header", "--b\r\n", &long, "\r\n\r\n--b\r\n"),
            ("preamble", "This is multipart.\r\n\r\n--b\r\n", "\r\n", "\r\n--b\r\n"),
            ("zeros", "--b\r\n", "\r\n", "\0\0\0\0\r\n--b\r\n"),
            ("back to back", "", "", ""),
            ("AVI", "RIFF\x10\0\0\0AVI LIST", "00dc\x10\0\0\0", "\0"),
        ] {
            let mut stream = preamble.as_bytes().to_vec();
            pictures.iter().for_each(|jpeg| stream.extend(part(head, jpeg, tail)));
            for piece in [1, 2, 3, 7, 1000, stream.len()] {
                assert!(split(&stream, piece).0 == pictures, "{name} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_is_damaged_is_no_whole_picture_and_costs_no_other_one() {
        let (a, b, thumbnail) = (plain(1), plain(2), with_thumbnail());
        let sos = a.windows(2).position(|pair| pair == [0xFF, SOS]).unwrap();
        let next = "\r\n--b\r\nX-Timestamp: 1763680000.5\r\n\r\n";
        let mut wrong_length = a.clone();
        wrong_length[4..6].copy_from_slice(&[0xFF, 0xFF]);
        for (name, damaged) in [
            ("cut in its data", a[..a.len() - 9].to_vec()),
            ("cut behind an FF", [&a[..a.len() - 9], &[0xFF]].concat()),
            ("cut in a segment", a[..sos - 20].to_vec()),
            ("cut at a marker", a[..sos].to_vec()),
            ("cut in SOS", a[..sos + 5].to_vec()),
            ("only SOI", a[..2].to_vec()),
            ("a wrong length of a segment", wrong_length),
            ("cut behind its thumbnail", thumbnail[..plain(9).len() + 12].to_vec()),
            ("HTML", b"<html>\xFF\xD8</html>".to_vec()),
            ("nothing", Vec::new()),
            ("no scan", [&a[..sos], &[0xFF, EOI]].concat()),
        ] {
            // As many pictures behind it as its wrong length could claim.
            let mut stream = part("", &damaged, next);
            (0..99).for_each(|_| stream.extend(part("", &b, next)));
            for piece in [1, 5, 4096] {
                let (whole, cut) = split(&stream, piece);
                assert!(whole.len() == 99 && whole.iter().all(|jpeg| *jpeg == b), "{name} in pieces of {piece}");
                assert!(cut.len() <= 2 && cut.iter().all(|cut| crate::jpeg::inspect(cut).is_err()), "{name}");
            }
        }
    }

    #[test]
    fn the_header_tells_of_its_own_picture() {
        let mut splitter = Splitter::default();
        let jpeg = plain(1);
        let mut stream = String::new();
        write!(stream, "--b\r\nx-timestamp:1763680000.123456\r\n\r\n").unwrap();
        splitter.push(&part(&stream, &jpeg, "\r\n--b\r\nX-Framehub-No-Signal: 1\r\n\r\n"));
        let captured_at = Some(Duration::new(1_763_680_000, 123_456_000));
        assert_eq!(splitter.next().unwrap().head, Head { captured_at, is_no_signal: false });
        // The next one is cut, and the header of the one behind it follows at once.
        splitter.push(&part("", &jpeg[..jpeg.len() - 9], "\r\n--b\r\nX-Timestamp: 2.5\r\n\r\n"));
        splitter.push(&jpeg);
        let found = splitter.next().unwrap();
        assert_eq!((found.is_whole, found.head), (false, Head { captured_at: None, is_no_signal: true }));
        let captured_at = Some(Duration::from_millis(2500));
        assert_eq!(splitter.next().unwrap().head, Head { captured_at, is_no_signal: false });
        splitter.push(&jpeg);
        assert_eq!(splitter.next().unwrap().head, Head::default());
        for (text, time) in [("7", Some(7000)), ("7.25", Some(7250)), ("7.2.5", None), ("-7", None), ("", None)] {
            assert_eq!(timestamp(text), time.map(Duration::from_millis), "{text}");
        }
    }

    /// 100 MB of anything take no more memory than one picture may, and the next picture is found.
    #[test]
    fn endless_bytes_are_passed_over() {
        let jpeg = plain(1);
        let sos = jpeg.windows(2).position(|pair| pair == [0xFF, SOS]).unwrap();
        for (name, begin, filler) in [
            ("a header", &b"X-Long: "[..], [b'x'; 100_000]),
            ("zeros", &[], [0; 100_000]),
            ("a picture", &jpeg[..sos + 40], [0x55; 100_000]),
        ] {
            let mut splitter = Splitter::default();
            splitter.push(begin);
            let mut cut = 0;
            for _ in 0..1000 {
                splitter.push(&filler);
                while let Some(found) = splitter.next() {
                    assert!(!found.is_whole);
                    cut += 1;
                }
                assert!(splitter.buffer.len() <= LIMIT + 100_000 && splitter.head.len() <= HEAD, "{name}");
            }
            assert_eq!(cut, usize::from(name == "a picture"), "{name}");
            splitter.push(&jpeg);
            assert!(splitter.next().is_some_and(|found| found.is_whole && found.data == jpeg), "{name}");
        }
    }

    proptest! {
        /// However the bytes are cut, the same is found; and a clean picture between texts is found as it is.
        #[test]
        fn pieces_do_not_matter(
            tokens in prop::collection::vec((0..9usize, any::<u8>()), 0..60),
            pieces in prop::collection::vec(1..200usize, 1..9),
        ) {
            let clean = plain(3);
            let bytes = [&[0xFF][..], &[SOI], &[EOI], &[SOS, 0, 4], &[0xE1, 0, 9], b"\n", &[0, 0], b"--b\r\n", &clean];
            let mut stream = Vec::new();
            for (token, other) in tokens {
                stream.extend_from_slice(bytes[token]);
                stream.push(other);
            }
            stream.extend(part("\r\n--b\r\n\r\n", &clean, "\r\n"));
            let at_once = split(&stream, stream.len());
            let mut splitter = Splitter::default();
            let (mut whole, mut rest, mut turn) = (Vec::new(), &stream[..], 0);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(pieces[turn % pieces.len()].min(rest.len()));
                splitter.push(now);
                while let Some(found) = splitter.next() {
                    if found.is_whole {
                        whole.push(found.data.to_vec());
                    }
                }
                (rest, turn) = (later, turn + 1);
            }
            prop_assert_eq!(whole, at_once.0);
        }
    }
}
