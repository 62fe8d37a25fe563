//! A device as a profile describes it: a text file of facts, one a line. The lab's README explains the format.

use crate::controls::Control;

/// How a device hangs on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// SuperSpeed in place of high speed.
    pub is_super: bool,
    /// Alternate settings of an isochronous endpoint, in bytes per microframe; none for a bulk endpoint.
    pub alternates: Vec<u32>,
}

impl Link {
    /// From words as `bulk`, `super`, or `isoc 192 384 2x640`, or `super isoc 1024 2048`.
    pub fn parse(words: &str) -> Result<Self, String> {
        let is_super = words.starts_with("super");
        let rest = words.trim_start_matches("super").trim();
        let sizes = match rest {
            "" | "bulk" => "",
            "isoc" => "512 1024 2x1024 3x1024",
            _ => rest.strip_prefix("isoc ").ok_or_else(|| format!("unknown link {words}"))?,
        };
        let size = |word: &str| {
            let (times, bytes) = word.split_once('x').unwrap_or(("1", word));
            Ok(number::<u32>(times)? * number::<u32>(bytes)?)
        };
        let alternates = sizes.split_whitespace().map(size).collect::<Result<_, String>>()?;
        Ok(Link { is_super, alternates })
    }
}

#[derive(Clone, Debug)]
pub struct Format {
    pub fourcc: [u8; 4],
    /// Index of the default frame, from 1.
    pub default: u8,
    pub frames: Vec<Size>,
}

impl Format {
    pub fn is_mjpeg(&self) -> bool {
        &self.fourcc == b"MJPG"
    }

    pub fn is_raw(&self) -> bool {
        matches!(&self.fourcc, b"YUY2" | b"NV12")
    }
}

/// One frame size of a format. Intervals are in units of 100 ns.
#[derive(Clone, Debug)]
pub struct Size {
    pub width: u16,
    pub height: u16,
    pub intervals: Vec<u32>,
    pub default: u32,
    /// Every interval between the two is possible.
    pub is_continuous: bool,
    /// dwMaxVideoFrameBufferSize of the descriptor.
    pub maxbuf: u32,
    /// dwMaxVideoFrameSize of the probe's response; that of some intervals is another.
    probe: u32,
    probes: Vec<(u32, u32)>,
}

#[derive(Clone, Debug)]
pub struct Profile {
    pub name: String,
    pub id: (u16, u16),
    pub device: u16,
    /// Manufacturer, product, serial number.
    pub strings: [Option<String>; 3],
    /// bcdUVC.
    pub uvc: u16,
    pub clock: u32,
    pub still_method: u8,
    pub link: Link,
    pub formats: Vec<Format>,
    /// Those of a second streaming interface, which is negotiated with and never sends a picture.
    pub second: Vec<Format>,
    /// An interrupt endpoint, by which the camera knows when it is opened and closed.
    pub has_status: bool,
    pub controls: Vec<Control>,
    /// Settings that the camera has from the start, as `set` takes them.
    pub behaviour: Vec<(String, i64)>,
}

pub fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

fn bcd(word: &str) -> Result<u16, String> {
    u16::from_str_radix(&word.replace('.', ""), 16).map_err(|_| format!("not a version: {word}"))
}

/// An interval from frames per second, or from `@` and units of 100 ns.
fn interval(word: &str) -> Result<u32, String> {
    match word.strip_prefix('@') {
        Some(units) => number(units),
        None => Ok((1e7 / number::<f64>(word)?) as u32),
    }
}

/// Bytes from a number, or from `2/px` or `2/px+589`.
fn bytes(word: &str, pixels: u32) -> Result<u32, String> {
    let Some((per_pixel, more)) = word.split_once("/px") else { return number(word) };
    let more = if more.is_empty() { 0 } else { number(more.trim_start_matches('+'))? };
    Ok((number::<f64>(per_pixel)? * f64::from(pixels)) as u32 + more)
}

impl Size {
    /// dwMaxVideoFrameSize of the probe's response at this interval.
    pub fn probe(&self, at: u32) -> u32 {
        self.probes.iter().find(|(interval, _)| *interval == at).map_or(self.probe, |(_, size)| *size)
    }

    /// From words as `640x480 30,25,15 default 15 maxbuf 1048576 probe 302080 probe 153600@15`.
    fn parse(words: &[&str], maxbuf: &str) -> Result<Self, String> {
        let [size, rates, options @ ..] = words else { return Err(format!("size without rates: {words:?}")) };
        let (width, height) = size.split_once('x').ok_or_else(|| format!("unknown line: {words:?}"))?;
        let (width, height): (u16, u16) = (number(width)?, number(height)?);
        let pixels = u32::from(width) * u32::from(height);
        let is_continuous = rates.contains("..");
        let intervals = rates.replace("..", ",").split(',').map(interval).collect::<Result<Vec<u32>, _>>()?;
        let maxbuf = bytes(maxbuf, pixels)?;
        let mut found = Size {
            width,
            height,
            default: intervals[0],
            is_continuous,
            intervals,
            maxbuf,
            probe: maxbuf,
            probes: vec![],
        };
        for option in options.chunks(2) {
            match *option {
                ["default", rate] => found.default = interval(rate)?,
                ["maxbuf", size] => {
                    found.maxbuf = bytes(size, pixels)?;
                    found.probe = found.maxbuf;
                }
                ["probe", size] => match size.split_once('@') {
                    Some((size, rate)) => found.probes.push((interval(rate)?, bytes(size, pixels)?)),
                    None => found.probe = bytes(size, pixels)?,
                },
                _ => return Err(format!("unknown option of a size: {option:?}")),
            }
        }
        Ok(found)
    }
}

impl Profile {
    /// Reads a profile; the error names the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut profile = Profile {
            name: name.into(),
            id: (0, 0),
            device: 0x0100,
            strings: [None, None, None],
            uvc: 0x0100,
            clock: 48_000_000,
            still_method: 0,
            link: Link { is_super: false, alternates: Vec::new() },
            formats: Vec::new(),
            second: Vec::new(),
            has_status: false,
            controls: Vec::new(),
            behaviour: Vec::new(),
        };
        let mut maxbuf = "2/px".to_owned();
        for line in text.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if !line.is_empty() && !line.starts_with('#') {
                profile.take(line, &mut maxbuf).map_err(|why| format!("{name}: {line}: {why}"))?;
            }
        }
        if profile.formats.iter().any(|f| f.frames.is_empty()) || profile.formats.is_empty() {
            return Err(format!("{name}: a format without sizes"));
        }
        Ok(profile)
    }

    /// The lab's own camera.
    pub fn own() -> Self {
        Profile::parse("rig", include_str!("../../zoo/rig")).expect("the lab's own profile is sound")
    }

    fn take(&mut self, line: &str, maxbuf: &mut String) -> Result<(), String> {
        let (key, value) = line.split_once(' ').ok_or("one word only")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match key {
            "id" => {
                let (vendor, product) = value.trim().split_once(':').ok_or("no colon")?;
                let hex = |word| u16::from_str_radix(word, 16).map_err(|e| e.to_string());
                self.id = (hex(vendor)?, hex(product)?);
            }
            "device" => self.device = bcd(value.trim())?,
            "manufacturer" => self.strings[0] = Some(value.trim().into()),
            "product" => self.strings[1] = Some(value.trim().into()),
            "serial" => self.strings[2] = Some(value.trim().into()),
            "uvc" => self.uvc = bcd(value.trim())?,
            "clock" => self.clock = number(value.trim())?,
            "still-method" => self.still_method = number(value.trim())?,
            "link" => self.link = Link::parse(value.trim())?,
            "maxbuf" => *maxbuf = value.trim().into(),
            "format" => {
                let name = words[1].replace("YUYV", "YUY2");
                let fourcc = name.as_bytes().try_into().map_err(|_| "not a FourCC")?;
                let default = if let ["default", index] = words[2..] { number(index)? } else { 1 };
                self.formats.push(Format { fourcc, default, frames: Vec::new() });
            }
            "status" => self.has_status = value.trim() == "yes",
            "second" => {
                let [fourcc, size @ ..] = &words[1..] else { return Err("expected FORMAT SIZE RATES".into()) };
                let fourcc = fourcc.replace("YUYV", "YUY2").as_bytes().try_into().map_err(|_| "not a FourCC")?;
                self.second.push(Format { fourcc, default: 1, frames: vec![Size::parse(size, maxbuf)?] });
            }
            "control" => self.controls.push(Control::parse(&words[1..])?),
            "behaviour" => {
                for word in &words[1..] {
                    let (name, value) = word.split_once('=').ok_or("no =")?;
                    self.behaviour.push((name.into(), number(value)?));
                }
            }
            _ => {
                let size = Size::parse(&words, maxbuf)?;
                self.formats.last_mut().ok_or("a size before any format")?.frames.push(size);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_probe_says_may_depend_on_the_rate() {
        let words: Vec<&str> = "640x480 30,15,5 maxbuf 2/px probe 302080 probe 0@5".split(' ').collect();
        let size = Size::parse(&words, "1/px").unwrap();
        let answers = [30, 15, 5].map(|rate| size.probe(interval(&rate.to_string()).unwrap()));
        assert_eq!((size.maxbuf, answers), (614_400, [302_080, 302_080, 0]));
    }
}
