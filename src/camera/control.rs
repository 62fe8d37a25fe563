//! One control of a camera, as it describes it: brightness, focus, exposure and the like, under the names that `v4l2-ctl`
//! gives them.

use std::str::FromStr;

use super::error::CameraError;

/// V4L2_CID_EXPOSURE_AUTO: a menu of automatic modes.
const EXPOSURE_AUTO: u32 = 0x009A_0901;

// V4L2_CTRL_FLAG_*, as far as they decide something here.
pub(super) const READ_ONLY: u32 = 0x0004;
pub(super) const INACTIVE: u32 = 0x0010;
pub(super) const WRITE_ONLY: u32 = 0x0040;
const EXECUTE_ON_WRITE: u32 = 0x0200;
/// The flags that tell people something.
const FLAGS: [(u32, &str); 6] = [
    (0x0002, "grabbed"),
    (READ_ONLY, "read-only"),
    (INACTIVE, "inactive"),
    (0x0020, "slider"),
    (WRITE_ONLY, "write-only"),
    (0x0080, "volatile"),
];

/// An open camera's controls, one at a time, so that nobody holds the camera through a whole list of them.
pub trait Controls {
    /// The control with the next higher number, with its value; `None` behind the last.
    fn next(&mut self, after: u32) -> Result<Option<Control>, CameraError>;

    /// Sets a control that can be set to a value in its range.
    fn set(&mut self, control: &Control, value: i64) -> Result<(), CameraError>;
}

/// One control, as the camera describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// V4L2's number.
    pub id: u32,
    /// The driver's name for it, such as `Power Line Frequency`.
    pub label: String,
    /// What values it has.
    pub kind: ControlType,
    /// Smallest value.
    pub min: i64,
    /// Largest value; the bits there are for a bitmask.
    pub max: i64,
    /// Between neighbouring values.
    pub step: u64,
    /// What the driver says a new camera has. Some name a value that is out of range.
    pub default: i64,
    /// A menu's entries. There may be gaps.
    pub menu: Vec<(i64, String)>,
    /// V4L2's flags.
    pub flags: u32,
    /// Its value now; `None` for buttons and what can only be written.
    pub value: Option<i64>,
}

/// What values a control has. The numbers are V4L2's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    /// A number.
    Integer = 1,
    /// 0 or 1.
    Boolean = 2,
    /// One of some names.
    Menu = 3,
    /// It has none and does something when it is set.
    Button = 4,
    /// A number of 64 bits.
    Integer64 = 5,
    /// Any of some bits.
    Bitmask = 8,
    /// One of some numbers.
    IntegerMenu = 9,
}

impl ControlType {
    /// `None` for headings, texts and compound data, which nobody can set here.
    pub fn from_number(number: u32) -> Option<Self> {
        use ControlType::*;
        [Integer, Boolean, Menu, Button, Integer64, Bitmask, IntegerMenu]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }

    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Menu => "menu",
            Self::Button => "button",
            Self::Integer64 => "integer64",
            Self::Bitmask => "bitmask",
            Self::IntegerMenu => "integer_menu",
        }
    }
}

impl Control {
    /// The name to set it by, as `v4l2-ctl` has it: `power_line_frequency`.
    pub fn name(&self) -> String {
        let words = self.label.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("_").to_ascii_lowercase();
        if name.is_empty() { format!("control_{:08x}", self.id) } else { name }
    }

    /// The names of its flags.
    pub fn flag_names(&self) -> Vec<&'static str> {
        FLAGS.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect()
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether it keeps what it was set to. A button does not, nor does what moves something by a distance.
    pub(super) fn keeps_values(&self) -> bool {
        self.kind != ControlType::Button && !self.has(WRITE_ONLY | EXECUTE_ON_WRITE | READ_ONLY)
    }

    /// The value that a text means, if this control takes it: a number, a switch's `on`, a menu entry's name.
    pub fn parse(&self, text: &str) -> Result<i64, String> {
        let text = text.trim();
        let entry = |entry: &&(i64, String)| entry.1.eq_ignore_ascii_case(text);
        let number = match text.to_ascii_lowercase().as_str() {
            "true" | "on" => Some(1),
            "false" | "off" => Some(0),
            _ => whole_number(text).or_else(|| self.menu.iter().find(entry).map(|(value, _)| *value)),
        };
        match number {
            Some(value) if self.takes(value) => Ok(value),
            _ => Err(format!("{} takes {}; \"{text}\" was asked for", self.name(), self.range())),
        }
    }

    pub(super) fn takes(&self, value: i64) -> bool {
        match self.kind {
            ControlType::Button => true,
            ControlType::Bitmask => value & !self.max == 0,
            ControlType::Menu | ControlType::IntegerMenu => self.menu.iter().any(|(known, _)| *known == value),
            _ => (self.min..=self.max).contains(&value),
        }
    }

    /// When it is set, among several. An automatic mode that ends comes before what it held, even if the driver believes that
    /// it has ended already: the camera may have forgotten. One that begins comes last, since it makes others inactive.
    pub(super) fn turn(&self, value: i64) -> u8 {
        match (self.kind, value) {
            // V4L2_EXPOSURE_MANUAL and _SHUTTER_PRIORITY leave the time to the user.
            (ControlType::Menu, 0 | 3) if self.id == EXPOSURE_AUTO => 2,
            (ControlType::Boolean, 0) | (ControlType::Menu | ControlType::IntegerMenu, _) => 0,
            (ControlType::Boolean, _) => 2,
            _ => 1,
        }
    }

    /// The values that it takes, in words.
    pub fn range(&self) -> String {
        match self.kind {
            ControlType::Button => "any value".into(),
            ControlType::Boolean => "0 (off) or 1 (on)".into(),
            ControlType::Bitmask => format!("any of the bits of {:#x}", self.max),
            ControlType::Menu | ControlType::IntegerMenu => {
                let entries: Vec<_> = self.menu.iter().map(|(value, name)| format!("{value} ({name})")).collect();
                match entries.split_last() {
                    Some((last, [])) => last.clone(),
                    Some((last, others)) => format!("{} or {last}", others.join(", ")),
                    None => "no value at all".into(),
                }
            }
            _ if self.step > 1 => format!("{} to {} in steps of {}", self.min, self.max, self.step),
            _ => format!("{} to {}", self.min, self.max),
        }
    }
}

/// Standard numbers and names of webcams' controls, the name of Linux 6 first, then that of earlier kernels. A driver may
/// have another name for one of them.
const STANDARD: [(u32, &[&str]); 24] = [
    (0x0098_0900, &["brightness"]),
    (0x0098_0901, &["contrast"]),
    (0x0098_0902, &["saturation"]),
    (0x0098_0903, &["hue"]),
    (0x0098_090C, &["white_balance_automatic", "white_balance_temperature_auto"]),
    (0x0098_0910, &["gamma"]),
    (0x0098_0912, &["gain_automatic"]),
    (0x0098_0913, &["gain"]),
    (0x0098_0914, &["horizontal_flip"]),
    (0x0098_0915, &["vertical_flip"]),
    (0x0098_0918, &["power_line_frequency"]),
    (0x0098_0919, &["hue_automatic", "hue_auto"]),
    (0x0098_091A, &["white_balance_temperature"]),
    (0x0098_091B, &["sharpness"]),
    (0x0098_091C, &["backlight_compensation"]),
    (0x0098_091F, &["color_effects"]),
    (0x0098_0922, &["rotate"]),
    (EXPOSURE_AUTO, &["auto_exposure", "exposure_auto"]),
    (0x009A_0902, &["exposure_time_absolute", "exposure_absolute"]),
    (0x009A_0903, &["exposure_dynamic_framerate", "exposure_auto_priority"]),
    (0x009A_0908, &["pan_absolute"]),
    (0x009A_0909, &["tilt_absolute"]),
    (0x009A_090A, &["focus_absolute"]),
    (0x009A_090C, &["focus_automatic_continuous", "focus_auto"]),
];

/// V4L2's number of the control with this name.
fn id_of(name: &str) -> Option<u32> {
    STANDARD.iter().find(|(_, names)| names.contains(&name)).map(|(id, _)| *id)
}

/// Also of a number that JavaScript or Python wrote with a point: `10.0`.
fn whole_number(text: &str) -> Option<i64> {
    let number = || text.parse().ok().filter(|number: &f64| number.fract() == 0.0 && number.abs() < 1e15);
    text.parse().ok().or_else(|| number().map(|number| number as i64))
}

/// A value that a control is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlValue {
    /// See [`Control::name`].
    pub name: String,
    /// See [`Control::parse`].
    pub value: String,
}

impl ControlValue {
    /// A value for the control with this name.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    /// V4L2's number of the control that it is for, if its name is a standard one.
    pub(super) fn id(&self) -> Option<u32> {
        id_of(&self.name)
    }

    /// Whether both are for the same control. Old and new kernels have different names for some.
    pub(super) fn is_for_same(&self, other: &Self) -> bool {
        self.name == other.name || self.id().is_some_and(|id| other.id() == Some(id))
    }

    /// The control that it is for.
    ///
    /// # Errors
    /// When there is none, with the names of those that there are.
    pub(super) fn among<'a>(&self, controls: &'a [Control]) -> Result<&'a Control, String> {
        let id = self.id();
        controls.iter().find(|control| control.name() == self.name || id == Some(control.id)).ok_or_else(|| {
            let names: Vec<_> = controls.iter().map(Control::name).collect();
            let has = if names.is_empty() { "none".into() } else { names.join(", ") };
            format!("there is no control \"{}\"; this camera has {has}", self.name)
        })
    }
}

impl FromStr for ControlValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok(Self::new(name.trim(), value)),
            _ => Err("expected NAME=VALUE, such as brightness=10".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(label: &str, kind: ControlType, min: i64, max: i64) -> Control {
        Control { id: 1, label: label.into(), kind, min, max, step: 1, default: 0, menu: vec![], flags: 0, value: None }
    }

    #[test]
    fn names_are_those_of_v4l2_ctl() {
        for (label, name) in [
            ("Brightness", "brightness"),
            ("White Balance Temperature, Auto", "white_balance_temperature_auto"),
            ("Focus (absolute)", "focus_absolute"),
            ("Exposure, Dynamic Framerate", "exposure_dynamic_framerate"),
            ("  LED1  Mode ", "led1_mode"),
            ("Ä", "control_00000001"),
        ] {
            assert_eq!(control(label, ControlType::Integer, 0, 0).name(), name);
        }
    }

    #[test]
    fn values_are_taken_or_refused_with_the_range() {
        let integer = control("A", ControlType::Integer, -64, 64);
        let steps = Control { step: 5, ..control("A", ControlType::Integer, 0, 250) };
        let large = control("A", ControlType::Integer64, i64::MIN, i64::MAX);
        let boolean = control("A", ControlType::Boolean, 0, 1);
        let bits = control("A", ControlType::Bitmask, 0, 0x8000_0005);
        let menu = vec![(0, "Disabled".into()), (1, "50 Hz".into()), (3, "Auto".into())];
        let menu = Control { menu, ..control("A", ControlType::Menu, 0, 3) };
        let empty = control("A", ControlType::IntegerMenu, 0, 3);
        let button = control("A", ControlType::Button, 0, 0);
        for (control, text, expected) in [
            (&integer, "-64", Ok(-64)),
            (&integer, " 64 ", Ok(64)),
            (&integer, "10.0", Ok(10)),
            (&integer, "65", Err("-64 to 64")),
            (&integer, "1.5", Err("-64 to 64")),
            (&integer, "", Err("-64 to 64")),
            (&integer, "bright", Err("\"bright\"")),
            (&integer, "1e300", Err("-64 to 64")),
            (&integer, "99999999999999999999", Err("-64 to 64")),
            (&integer, "NaN", Err("-64 to 64")),
            (&steps, "7", Ok(7)),
            (&steps, "251", Err("0 to 250 in steps of 5")),
            (&large, "-9223372036854775808", Ok(i64::MIN)),
            (&boolean, "1", Ok(1)),
            (&boolean, "On", Ok(1)),
            (&boolean, "false", Ok(0)),
            (&boolean, "2", Err("0 (off) or 1 (on)")),
            (&bits, "2147483653", Ok(0x8000_0005)),
            (&bits, "2", Err("bits of 0x80000005")),
            (&bits, "-1", Err("bits of 0x80000005")),
            (&menu, "3", Ok(3)),
            (&menu, "50 hz", Ok(1)),
            (&menu, "2", Err("0 (Disabled), 1 (50 Hz) or 3 (Auto)")),
            (&menu, "60 Hz", Err("0 (Disabled), 1 (50 Hz) or 3 (Auto)")),
            (&empty, "0", Err("no value at all")),
            (&button, "0", Ok(0)),
            (&button, "true", Ok(1)),
        ] {
            match (control.parse(text), expected) {
                (Ok(value), Ok(known)) => assert_eq!(value, known, "{text}"),
                (Err(why), Err(words)) => assert!(why.contains(words) && why.starts_with("a takes"), "{why}"),
                (found, _) => panic!("{:?} {text:?}: {found:?}", control.kind),
            }
        }
    }

    #[test]
    fn what_must_not_be_done_twice_is_not_remembered() {
        for (kind, flags, keeps) in [
            (ControlType::Integer, 0, true),
            (ControlType::Menu, INACTIVE, true),
            (ControlType::Button, 0, false),
            (ControlType::Integer, WRITE_ONLY, false),
            (ControlType::Integer, EXECUTE_ON_WRITE, false),
            (ControlType::Integer, READ_ONLY, false),
        ] {
            assert_eq!(Control { flags, ..control("A", kind, 0, 1) }.keeps_values(), keeps, "{kind:?} {flags:#x}");
        }
    }

    #[test]
    fn old_and_new_names_are_one_control_by_its_number() {
        for (id, names) in STANDARD {
            let values = || names.iter().map(|name| ControlValue::new(*name, "1"));
            assert!(values().all(|value| values().all(|other| value.is_for_same(&other))));
            for label in names.iter().chain(&["Some Driver's Own Name"]) {
                let control = Control { id, ..control(label, ControlType::Integer, 0, 9) };
                for value in values() {
                    assert_eq!(value.among(std::slice::from_ref(&control)), Ok(&control));
                }
            }
            let other = [control("LED1 Mode", ControlType::Integer, 0, 9)];
            assert!(values().all(|value| value.among(&other).is_err()));
        }
        let [gain, hue] = ["gain", "hue"].map(|name| ControlValue::new(name, "1"));
        assert!(!gain.is_for_same(&hue) && gain.is_for_same(&gain));
    }

    #[test]
    fn automatic_modes_end_first_and_begin_last() {
        let id = |id, kind| Control { id, ..control("A", kind, 0, 3) };
        for (control, value, turn) in [
            (id(EXPOSURE_AUTO, ControlType::Menu), 1, 0),
            (id(EXPOSURE_AUTO, ControlType::Menu), 2, 0),
            (id(EXPOSURE_AUTO, ControlType::Menu), 3, 2),
            (id(EXPOSURE_AUTO, ControlType::Menu), 0, 2),
            (id(1, ControlType::Menu), 3, 0),
            (id(1, ControlType::Boolean), 0, 0),
            (id(1, ControlType::Integer), 0, 1),
            (id(1, ControlType::Bitmask), 0, 1),
            (id(1, ControlType::Boolean), 1, 2),
        ] {
            assert_eq!(control.turn(value), turn, "{control:?} {value}");
        }
    }
}
