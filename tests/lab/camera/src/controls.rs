//! The controls of a camera: the Camera Terminal's and the Processing Unit's, with their ways.

use crate::profile::number;

pub const CAMERA: u8 = 1;
pub const PROCESSING: u8 = 2;

/// V4L2 name, unit, selector, bit in bmControls, bytes of the whole request, offset of this value in it.
const KNOWN: [(&str, u8, u8, u8, u8, u8); 22] = [
    ("auto_exposure", CAMERA, 0x02, 1, 1, 0),
    ("exposure_dynamic_framerate", CAMERA, 0x03, 2, 1, 0),
    ("exposure_time_absolute", CAMERA, 0x04, 3, 4, 0),
    ("focus_absolute", CAMERA, 0x06, 5, 2, 0),
    ("focus_automatic_continuous", CAMERA, 0x08, 17, 1, 0),
    ("zoom_absolute", CAMERA, 0x0b, 9, 2, 0),
    ("pan_absolute", CAMERA, 0x0d, 11, 8, 0),
    ("tilt_absolute", CAMERA, 0x0d, 11, 8, 4),
    ("roll_absolute", CAMERA, 0x0f, 13, 2, 0),
    ("privacy", CAMERA, 0x11, 18, 1, 0),
    ("backlight_compensation", PROCESSING, 0x01, 8, 2, 0),
    ("brightness", PROCESSING, 0x02, 0, 2, 0),
    ("contrast", PROCESSING, 0x03, 1, 2, 0),
    ("gain", PROCESSING, 0x04, 9, 2, 0),
    ("power_line_frequency", PROCESSING, 0x05, 10, 1, 0),
    ("hue", PROCESSING, 0x06, 2, 2, 0),
    ("saturation", PROCESSING, 0x07, 3, 2, 0),
    ("sharpness", PROCESSING, 0x08, 4, 2, 0),
    ("gamma", PROCESSING, 0x09, 5, 2, 0),
    ("white_balance_temperature", PROCESSING, 0x0a, 6, 2, 0),
    ("white_balance_automatic", PROCESSING, 0x0b, 12, 1, 0),
    ("hue_automatic", PROCESSING, 0x10, 11, 1, 0),
];

/// The mode that locks a value, and the mode's value that leaves it free.
const LOCKS: [(&str, &str); 3] = [
    ("exposure_time_absolute", "auto_exposure"),
    ("focus_absolute", "focus_automatic_continuous"),
    ("white_balance_temperature", "white_balance_automatic"),
];

/// One control, in UVC's values.
#[derive(Clone, Debug)]
pub struct Control {
    pub name: &'static str,
    pub unit: u8,
    pub selector: u8,
    pub bit: u8,
    pub size: u8,
    offset: u8,
    min: i32,
    max: i32,
    step: i32,
    def: i32,
    pub cur: i32,
    /// The only values that the camera really takes.
    snap: Vec<i32>,
    /// It falls back to its default when the stream starts.
    forgets: bool,
    /// It takes every value and does nothing.
    is_deaf: bool,
    /// It wanders while its automatic mode is on.
    drifts: bool,
}

/// UVC's bit of an exposure mode of V4L2: 0 is automatic, 1 manual, 2 shutter priority, 3 aperture priority.
fn mode_bit(v4l2: i32) -> Result<i32, String> {
    [2, 1, 4, 8].get(v4l2 as usize).copied().ok_or_else(|| format!("no exposure mode {v4l2}"))
}

fn mode_of(bit: i32) -> i32 {
    [2, 1, 4, 8].iter().position(|known| *known == bit).map_or(-1, |mode| mode as i32)
}

impl Control {
    /// From words as `brightness -64 64 1 0 now 5`, `white_balance_automatic bool 1` or `auto_exposure menu 1,3 3`.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let name = words.first().ok_or("a control without name")?;
        let known = KNOWN.iter().find(|known| known.0 == *name).ok_or_else(|| format!("unknown control {name}"))?;
        let &(name, unit, selector, bit, size, offset) = known;
        let (range, options) = match words[1..] {
            ["bool", def, ref rest @ ..] => ([0, 1, 1, number(def)?], rest),
            ["menu", entries, def, ref rest @ ..] => {
                let bits = entries.split(',').map(|entry| mode_bit(number(entry)?));
                let mask = bits.sum::<Result<i32, String>>()?;
                ([1, 8, mask, mode_bit(number(def)?)?], rest)
            }
            [min, max, step, def, ref rest @ ..] => ([number(min)?, number(max)?, number(step)?, number(def)?], rest),
            _ => return Err("expected MIN MAX STEP DEFAULT, bool DEFAULT or menu LIST DEFAULT".into()),
        };
        let [min, max, step, def] = range;
        let mut control = Control {
            name,
            unit,
            selector,
            bit,
            size,
            offset,
            min,
            max,
            step,
            def,
            cur: def,
            snap: Vec::new(),
            forgets: false,
            is_deaf: false,
            drifts: false,
        };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut argument = || options.next().copied().ok_or("an option without value");
            match *option {
                "now" if name == "auto_exposure" => control.cur = mode_bit(number(argument()?)?)?,
                "now" => control.cur = number(argument()?)?,
                "snap" => control.snap = argument()?.split(',').map(number).collect::<Result<_, _>>()?,
                "forgets" => control.forgets = true,
                "deaf" => control.is_deaf = true,
                "drifts" => control.drifts = true,
                _ => return Err(format!("unknown option {option}")),
            }
        }
        Ok(control)
    }

    /// The value as V4L2 shows it.
    pub fn v4l2_value(&self) -> i32 {
        if self.name == "auto_exposure" { mode_of(self.cur) } else { self.cur }
    }

    pub fn default(&self) -> i32 {
        self.def
    }

    fn accepts(&self, value: i32) -> bool {
        match self.name {
            "auto_exposure" => value.count_ones() == 1 && value & self.step != 0,
            _ => (self.min..=self.max).contains(&value),
        }
    }

    fn put(&mut self, value: i32) {
        let nearest = self.snap.iter().min_by_key(|snapped| snapped.abs_diff(value));
        if !self.is_deaf {
            self.cur = *nearest.unwrap_or(&value);
        }
    }

    fn read(&self, data: &[u8]) -> i32 {
        let part = &data[usize::from(self.offset)..];
        let is_signed = matches!(self.name, "brightness" | "hue" | "roll_absolute");
        match self.size {
            1 => i32::from(part[0]),
            2 if is_signed => i32::from(i16::from_le_bytes([part[0], part[1]])),
            2 => i32::from(u16::from_le_bytes([part[0], part[1]])),
            _ => i32::from_le_bytes([part[0], part[1], part[2], part[3]]),
        }
    }

    fn write(&self, value: i32, data: &mut [u8]) {
        let at = usize::from(self.offset);
        let bytes = usize::from(self.size.min(4));
        data[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

/// All controls of a camera.
#[derive(Clone, Debug)]
pub struct Controls(pub Vec<Control>);

impl Controls {
    pub fn value(&self, name: &str) -> Option<i32> {
        self.0.iter().find(|control| control.name == name).map(Control::v4l2_value)
    }

    /// Whether a mode that is on takes care of this value.
    fn is_locked(&self, name: &str) -> bool {
        let Some((_, mode)) = LOCKS.iter().find(|lock| lock.0 == name) else { return false };
        match (*mode, self.value(mode)) {
            (_, None) => false,
            ("auto_exposure", Some(value)) => value != 1 && value != 2,
            (_, Some(value)) => value != 0,
        }
    }

    /// Bits of bmControls of a unit.
    pub fn mask(&self, unit: u8) -> u32 {
        self.0.iter().filter(|control| control.unit == unit).fold(0, |mask, control| mask | 1 << control.bit)
    }

    /// What the camera forgets when its stream starts.
    pub fn forget(&mut self) {
        self.0.iter_mut().filter(|control| control.forgets).for_each(|control| control.cur = control.def);
    }

    /// A request to a unit; an error is a stall. With `stalls` values cannot be set while their mode locks them.
    pub fn request(&mut self, unit: u8, request: u8, selector: u8, data: &[u8], stalls: bool) -> Result<Vec<u8>, ()> {
        let mine = |control: &Control| control.unit == unit && control.selector == selector;
        let indices: Vec<usize> = (0..self.0.len()).filter(|at| mine(&self.0[*at])).collect();
        let size = self.0[*indices.first().ok_or(())?].size;
        if request == 0x85 {
            return Ok(vec![size, 0]);
        }
        if request == 0x86 {
            return Ok(vec![3]);
        }
        if request == 1 {
            let is_right = |control: &Control| control.accepts(control.read(data));
            let is_locked = stalls && self.is_locked(self.0[indices[0]].name);
            if data.len() != usize::from(size) || is_locked || !indices.iter().all(|at| is_right(&self.0[*at])) {
                return Err(());
            }
            indices.iter().for_each(|at| {
                let value = self.0[*at].read(data);
                self.0[*at].put(value);
            });
            return Ok(vec![]);
        }
        let mut response = vec![0; usize::from(size)];
        for at in indices {
            let is_locked = self.is_locked(self.0[at].name);
            let control = &mut self.0[at];
            if control.drifts && is_locked && request == 0x81 {
                control.cur =
                    if control.cur + control.step > control.max { control.min } else { control.cur + control.step };
            }
            let value = match request {
                0x81 => control.cur,
                0x82 => control.min,
                0x83 => control.max,
                0x84 => control.step,
                0x87 => control.def,
                _ => return Err(()),
            };
            control.write(value, &mut response);
        }
        Ok(response)
    }
}
