//! Motion-JPEG in AVI, with an index behind the pictures: what goes around them. Pure.

use crate::frame::Size;

/// Bytes in front of the first picture's chunk.
const HEAD: usize = 224;
/// Bytes in front of each picture: its chunk's name and length.
pub const CHUNK: usize = 8;
const INDEX_ENTRY: usize = 16;
const HAS_INDEX: u32 = 0x10;
const IS_KEY_FRAME: u32 = 0x10;

/// What goes around pictures of these lengths.
pub struct Avi<'a> {
    /// Length of each picture.
    pub lengths: &'a [u32],
    /// Size of the first one.
    pub size: Size,
    /// Average time between two, in microseconds.
    pub period: u32,
}

impl Avi<'_> {
    /// Length of the file; `None` if that is more than AVI can say, which is 4 GiB.
    pub fn length(&self) -> Option<u32> {
        let index = (CHUNK + INDEX_ENTRY * self.lengths.len()) as u64;
        u32::try_from(HEAD as u64 + self.pictures() + index).ok()
    }

    /// Length of all chunks of pictures.
    fn pictures(&self) -> u64 {
        self.lengths.iter().map(|length| CHUNK as u64 + u64::from(length.next_multiple_of(2))).sum()
    }

    /// The bytes before the first picture's chunk.
    pub fn head(&self) -> Vec<u8> {
        let Size { width, height } = self.size;
        let (count, longest) = (self.lengths.len() as u32, self.lengths.iter().copied().max().unwrap_or(0));
        let per_second = (u64::from(longest) * 1_000_000 / u64::from(self.period.max(1))).min(u32::MAX.into()) as u32;
        let main = [self.period, per_second, 0, HAS_INDEX, count, 0, 1, longest, width, height, 0, 0, 0, 0];
        let corner = width & 0xFFFF | height << 16;
        let video = [0, 0, 0, self.period, 1_000_000, 0, count, longest, u32::MAX, 0, 0, corner];
        let format = [40, width, height, 1 | 24 << 16, u32::from_le_bytes(*b"MJPG"), width * height * 3, 0, 0, 0, 0];
        let stream = [chunk(b"strh", &[b"vidsMJPG", &bytes(&video)[..]].concat()), chunk(b"strf", &bytes(&format))];
        let stream = chunk(b"LIST", &[b"strl", &stream.concat()[..]].concat());
        let header = chunk(b"LIST", &[b"hdrl", &chunk(b"avih", &bytes(&main))[..], &stream].concat());
        let length = self.length().unwrap_or(u32::MAX) - CHUNK as u32;
        let pictures = 4 + self.pictures() as u32;
        let parts = [b"RIFF", &length.to_le_bytes()[..], b"AVI ", &header, b"LIST", &pictures.to_le_bytes(), b"movi"];
        parts.concat()
    }

    /// The index, which is behind the last picture's chunk.
    pub fn index(&self) -> Vec<u8> {
        let mut at = 4;
        let entry = |length: &u32| {
            let entry = [u32::from_le_bytes(*b"00dc"), IS_KEY_FRAME, at, *length];
            at += CHUNK as u32 + length.next_multiple_of(2);
            bytes(&entry)
        };
        chunk(b"idx1", &self.lengths.iter().flat_map(entry).collect::<Vec<u8>>())
    }
}

/// What stands before a picture: its chunk's name and length. Behind one of odd length stands a zero byte.
pub fn picture(length: u32) -> [u8; CHUNK] {
    let [a, b, c, d] = length.to_le_bytes();
    [b'0', b'0', b'd', b'c', a, b, c, d]
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [name, &(body.len() as u32).to_le_bytes()[..], body].concat()
}

fn bytes(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_known_ahead_and_true() {
        for lengths in [&[1000][..], &[1001, 1000, 3]] {
            let avi = Avi { lengths, size: Size::new(640, 480), period: 33_333 };
            let (head, index) = (avi.head(), avi.index());
            assert_eq!((head.len(), index.len()), (HEAD, CHUNK + INDEX_ENTRY * lengths.len()));
            let pictures: usize = lengths.iter().map(|length| CHUNK + length.next_multiple_of(2) as usize).sum();
            assert_eq!(avi.length(), Some((head.len() + pictures + index.len()) as u32));
        }
        let avi = Avi { lengths: &[1 << 30; 4], size: Size::new(640, 480), period: 33_333 };
        assert_eq!(avi.length(), None, "more than AVI can say");
    }
}
