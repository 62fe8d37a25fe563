//! The pictures that the camera shows, made once by `rigcam gen`.

use crate::jpeg;
use crate::uvc::MJPEG;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Length of the COM text that every MJPEG frame carries.
const COMMENT: usize = 96;
const PICTURES: usize = 4;

/// One picture ready to send, with and without its DHT segments: the JPEG, and where its COM text begins.
pub struct Picture {
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
