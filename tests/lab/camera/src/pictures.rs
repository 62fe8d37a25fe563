//! The pictures that the camera shows: the lab's own camera has them made once by `rigcam gen`; those of a profile are
//! put together from pieces of any brightness, since nobody would wait for an emulated processor to encode 16 megapixels.

use crate::jpeg;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Length of the COM text that every MJPEG frame carries.
const COMMENT: usize = 112;
const PICTURES: usize = 4;
/// Sizes of the lab's own camera.
const MJPEG: [(u16, u16); 5] = [(320, 240), (640, 480), (1280, 720), (1920, 1080), (3840, 2160)];

/// One picture ready to send, with and without its DHT segments: the JPEG, and where its COM text begins.
pub struct Picture {
    /// See [`scan_sum`].
    pub sum: u32,
    pub full: (Vec<u8>, usize),
    pub no_dht: (Vec<u8>, usize),
}

/// The pictures of each MJPEG size; the last of each size is the dark one.
pub struct Library(HashMap<(u16, u16), Vec<Picture>>);

impl Library {
    pub fn load(dir: &Path) -> io::Result<Self> {
        let mut all = HashMap::new();
        for (w, h) in MJPEG {
            let mut list = Vec::new();
            for n in 0..=PICTURES {
                let jpeg = std::fs::read(dir.join(format!("{w}x{h}-{n}.jpg")))?;
                list.push(Picture {
                    sum: scan_sum(&jpeg),
                    full: jpeg::with_comment(&jpeg, COMMENT),
                    no_dht: jpeg::with_comment(&jpeg::without_dht(&jpeg), COMMENT),
                });
            }
            all.insert((w, h), list);
        }
        Ok(Library(all))
    }

    pub fn generate(dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        for (w, h) in MJPEG {
            for n in 0..=PICTURES {
                let data = jpeg::picture(w.into(), h.into(), n, n == PICTURES);
                std::fs::write(dir.join(format!("{w}x{h}-{n}.jpg")), data)?;
            }
        }
        Ok(())
    }

    /// What a frame of this number shows.
    pub fn picture(&self, size: (u16, u16), number: u64, is_dark: bool) -> &Picture {
        let set = &self.0[&size];
        &set[if is_dark { PICTURES } else { number as usize % PICTURES }]
    }
}

const MCU: (usize, usize) = (16, 8);
/// MCUs between two restart markers.
const RESTART: usize = 16;
/// Different pieces of a brightness.
const PIECES: usize = 8;
/// Pictures of more pixels are plainer, so that they come through a USB 2 link at their rate.
const PLAIN: usize = 2_500_000;

/// Puts pictures of any size and mean brightness together from coded pieces between restart markers.
#[derive(Default)]
pub struct Composer {
    /// By brightness, plainness, blur and MCUs.
    pieces: HashMap<(u8, bool, bool, usize), Vec<Vec<u8>>>,
}

impl Composer {
    /// A picture without a comment; an even `level` spares pieces. `stray` is the number of bytes in front of each restart marker that do not belong.
    pub fn picture(&mut self, (w, h): (u16, u16), number: u64, level: u8, is_blurred: bool, stray: usize) -> Vec<u8> {
        let (w, h) = (usize::from(w), usize::from(h));
        let is_plain = w * h > PLAIN;
        let quality = if is_plain { 50 } else { 70 };
        let mcus = w.div_ceil(MCU.0) * h.div_ceil(MCU.1);
        let mut out = jpeg::header(w, h, quality, RESTART as u16);
        for (at, first) in (0..mcus).step_by(RESTART).enumerate() {
            if at > 0 {
                out.extend([0x35, 0x00, 0x5a, 0x11].iter().take(stray));
                out.extend([0xff, 0xd0 + ((at - 1) % 8) as u8]);
            }
            let count = RESTART.min(mcus - first);
            let pieces = self.pieces.entry((level, is_plain, is_blurred, count)).or_insert_with(|| {
                let (waves, noise) = match (is_blurred, is_plain) {
                    (true, _) => (0.5, 0.1),
                    (_, true) => (0.5, 0.35),
                    _ => (0.6, 0.4),
                };
                let piece = |piece| jpeg::piece(count * MCU.0, MCU.1, piece, level, (waves, noise), quality);
                (0..PIECES).map(piece).collect()
            });
            out.extend(&pieces[(at + number as usize) % PIECES]);
        }
        out.extend([0xff, 0xd9]);
        out
    }
}

/// A picture with room for a comment; where that begins.
pub fn with_comment(jpeg: &[u8]) -> (Vec<u8>, usize) {
    jpeg::with_comment(jpeg, COMMENT)
}

/// Sum of the bytes behind the picture's SOS header and before its EOI (Adler-32, as zlib has it).
pub fn scan_sum(jpeg: &[u8]) -> u32 {
    let mut at = 2;
    while jpeg[at + 1] != 0xda {
        at += 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    }
    at += 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    let (mut a, mut b) = (1u32, 0u32);
    for chunk in jpeg[at..jpeg.len() - 2].chunks(5552) {
        for byte in chunk {
            a += u32::from(*byte);
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composed_pictures_have_a_camera_s_weight() {
        let mut composer = Composer::default();
        for (size, least, most) in [((640, 480), 0.08, 0.2), ((1920, 1080), 0.08, 0.2), ((4656, 3496), 0.03, 0.08)] {
            for level in [12, 128, 240] {
                let length = composer.picture(size, 0, level, false, 0).len() as f64;
                assert!(composer.picture(size, 0, level, true, 0).len() as f64 <= 0.8 * length || level != 128);
                let weight = length / (f64::from(size.0) * f64::from(size.1));
                assert!(level != 128 || (least..most).contains(&weight), "{size:?} at {level}: {weight} bytes a pixel");
                if let Ok(dir) = std::env::var("SAVE") {
                    let data = composer.picture(size, 0, level, false, 0);
                    std::fs::write(format!("{dir}/{}x{}-{level}.jpg", size.0, size.1), data).unwrap();
                }
            }
        }
    }
}
