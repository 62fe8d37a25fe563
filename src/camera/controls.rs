//! A camera's controls: brightness, focus, exposure and the like, under the names that `v4l2-ctl` gives them.
//!
//! Values are checked here, before a driver sees them: uvcvideo clamps what is out of range and calls it a success.
//! What was set is remembered and set again whenever the camera is opened, since an unplugged camera forgets it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::Mutex;

use super::session::{FirstPictureHook, Session};
use super::{CameraError, Device, ErrorKind};

/// Answered within 3 s, as a snapshot is, whatever the camera does.
const DEADLINE: Duration = Duration::from_millis(2800);
/// More than any camera has; a driver that counts in circles ends here.
const MOST_CONTROLS: usize = 500;

// V4L2_CTRL_FLAG_*, as far as they decide something here.
const READ_ONLY: u32 = 0x0004;
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
    pub kind: Kind,
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
pub enum Kind {
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

impl Kind {
    /// `None` for headings, texts and compound data, which nobody can set here.
    pub fn from_number(number: u32) -> Option<Self> {
        use Kind::*;
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

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether it keeps what it was set to. A button does not, nor does what moves something by a distance.
    fn keeps_values(&self) -> bool {
        self.kind != Kind::Button && !self.has(WRITE_ONLY | EXECUTE_ON_WRITE | READ_ONLY)
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

    fn takes(&self, value: i64) -> bool {
        match self.kind {
            Kind::Button => true,
            Kind::Bitmask => value & !self.max == 0,
            Kind::Menu | Kind::IntegerMenu => self.menu.iter().any(|(known, _)| *known == value),
            _ => (self.min..=self.max).contains(&value),
        }
    }

    /// The values that it takes, in words.
    pub fn range(&self) -> String {
        match self.kind {
            Kind::Button => "any value".into(),
            Kind::Boolean => "0 (off) or 1 (on)".into(),
            Kind::Bitmask => format!("any of the bits of {:#x}", self.max),
            Kind::Menu | Kind::IntegerMenu => {
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

/// Also of a number that JavaScript or Python wrote with a point: `10.0`.
fn whole_number(text: &str) -> Option<i64> {
    let number = || text.parse().ok().filter(|number: &f64| number.fract() == 0.0 && number.abs() < 1e15);
    text.parse().ok().or_else(|| number().map(|number| number as i64))
}

/// A control by name, and the value that somebody wants it to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// See [`Control::name`].
    pub name: String,
    /// See [`Control::parse`].
    pub value: String,
}

impl Wish {
    /// A wish from its two halves.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    fn among<'a>(&self, controls: &'a [Control]) -> Result<&'a Control, String> {
        controls.iter().find(|control| control.name() == self.name).ok_or_else(|| {
            let names: Vec<_> = controls.iter().map(Control::name).collect();
            let has = if names.is_empty() { "none".into() } else { names.join(", ") };
            format!("there is no control \"{}\"; this camera has {has}", self.name)
        })
    }
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok(Self::new(name.trim(), value)),
            _ => Err("expected NAME=VALUE, such as brightness=10".into()),
        }
    }
}

/// Why controls could not be read or set, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No such control, or it never takes this value.
    Wrong(String),
    /// The camera would not: it can only be read, or is held by another control, or the driver failed.
    Unwilling(String),
    /// There is no camera to ask.
    Absent(String),
}

/// Reads and sets the controls of a session's camera.
pub struct Panel {
    session: Arc<Session>,
    remembered: Arc<Remembered>,
    /// One request sets controls at a time, so that what is remembered is what was set last. Taken before the camera.
    turn: Mutex<()>,
}

/// What the controls are to be, whichever camera is opened.
#[derive(Default)]
pub struct Remembered {
    values: Mutex<Vec<RememberedValue>>,
}

struct RememberedValue {
    wish: Wish,
    /// It has been logged that the camera does not take it.
    is_known_bad: bool,
}

impl Remembered {
    /// Begins with these values.
    pub fn new(wishes: Vec<Wish>) -> Arc<Self> {
        let remembered = Self::default();
        wishes.into_iter().for_each(|wish| remembered.remember(wish));
        Arc::new(remembered)
    }

    /// What a session is to call after a camera's first picture: cameras forget their controls when they are unplugged,
    /// and some when a stream starts.
    pub fn hook(self: &Arc<Self>) -> FirstPictureHook {
        let remembered = self.clone();
        Box::new(move |device| remembered.restore(device))
    }

    fn is_empty(&self) -> bool {
        self.values.lock().is_empty()
    }

    fn remember(&self, wish: Wish) {
        let mut values = self.values.lock();
        values.retain(|old| old.wish.name != wish.name);
        values.push(RememberedValue { wish, is_known_bad: false });
    }

    /// Sets an open camera to what is remembered. What it does not take is logged once.
    fn restore(&self, device: &mut dyn Device) {
        let mut values = self.values.lock();
        if values.is_empty() {
            return;
        }
        let listed = list(|after| device.controls().map_or(Ok(None), |controls| controls.next(after)));
        let controls = match listed {
            Ok(controls) => controls,
            // Taking its pictures will fail too, and tell more.
            Err(error) => return warn!("controls not set reason=\"{error}\""),
        };
        let mut wanted = Vec::new();
        let mut complaints = Vec::new();
        for RememberedValue { wish, .. } in values.iter() {
            match wish.among(&controls).and_then(|control| Ok((control, control.parse(&wish.value)?))) {
                Ok((control, value)) if control.value != Some(value) => wanted.push((control.clone(), value)),
                Ok(_) => {}
                Err(why) => complaints.push((wish.name.clone(), why)),
            }
        }
        let failed = set_all(wanted, |control, value| match device.controls() {
            Some(controls) => controls.set(control, value),
            None => Ok(()),
        });
        complaints.extend(failed.into_iter().map(|(control, error)| (control.name(), error.message)));
        for RememberedValue { wish, is_known_bad } in values.iter_mut() {
            let complaint = complaints.iter().find(|(name, _)| *name == wish.name);
            if let (Some((_, why)), false) = (complaint, *is_known_bad) {
                warn!("control not set name={} value=\"{}\" reason=\"{why}\"", wish.name, wish.value);
            }
            *is_known_bad = complaint.is_some();
        }
    }
}

impl Panel {
    /// Creates what reads and sets the controls of this session's camera.
    pub fn new(session: Arc<Session>, remembered: Arc<Remembered>) -> Arc<Self> {
        Arc::new(Self { session, remembered, turn: Mutex::default() })
    }

    /// All controls with their values. Opens the camera if nobody wants pictures.
    ///
    /// # Errors
    /// When the camera cannot be had, or does not describe its controls.
    pub fn controls(&self) -> Result<Vec<Control>, Refusal> {
        self.controls_by(Instant::now() + DEADLINE)
    }

    fn controls_by(&self, deadline: Instant) -> Result<Vec<Control>, Refusal> {
        // Kept open from the first control to the last.
        let _watch = self.session.hub().watch();
        if !self.remembered.is_empty() {
            // Remembered values are set with the first picture: before that a camera shows others. One that sends no
            // picture is asked all the same.
            let _ = self.session.hub().newer_than(0, deadline.min(Instant::now() + DEADLINE / 2));
        }
        let next = |after| {
            let next = |device: &mut dyn Device| device.controls().map_or(Ok(None), |controls| controls.next(after));
            self.session.with_device(deadline, next)
        };
        list(next).map_err(|error| match error.kind {
            ErrorKind::Absent => Refusal::Absent(error.message),
            _ => Refusal::Unwilling(error.message),
        })
    }

    /// Sets controls, all to their defaults first if `resets`, and returns all of them. Nothing is set if one of the
    /// wishes can never come true.
    ///
    /// # Errors
    /// When there is no such control or value, or the camera refused, or cannot be had.
    pub fn set(&self, wishes: &[Wish], resets: bool) -> Result<Vec<Control>, Refusal> {
        let deadline = Instant::now() + DEADLINE;
        let _watch = self.session.hub().watch();
        let Some(_turn) = self.turn.try_lock_until(deadline) else {
            return Err(Refusal::Unwilling("others are still setting the controls".into()));
        };
        let controls = self.controls_by(deadline)?;
        let mut wanted: Vec<(Control, i64)> = Vec::new();
        for wish in wishes {
            let control = wish.among(&controls).map_err(Refusal::Wrong)?;
            let value = control.parse(&wish.value).map_err(Refusal::Wrong)?;
            if control.has(READ_ONLY) {
                return Err(Refusal::Unwilling(format!("{} can only be read", control.name())));
            }
            wanted.retain(|(earlier, _)| earlier.id != control.id);
            wanted.push((control.clone(), value));
        }
        if resets {
            self.reset(&controls, deadline)?;
        }
        let failed = set_all(wanted, |control, value| {
            self.set_one(control, value, deadline, true)?;
            info!("control set name={} value={value}", control.name());
            Ok(())
        });
        match failed.into_iter().next() {
            Some((control, error)) => Err(refusal(&control, error)),
            None => self.controls_by(deadline),
        }
    }

    /// A control that is inactive now may refuse; only an error of the others is one.
    fn reset(&self, controls: &[Control], deadline: Instant) -> Result<(), Refusal> {
        self.remembered.values.lock().clear();
        let is_off = |control: &&Control| {
            control.keeps_values() && control.takes(control.default) && control.value != Some(control.default)
        };
        let wanted = controls.iter().filter(is_off).map(|control| (control.clone(), control.default)).collect();
        let failed = set_all(wanted, |control, value| self.set_one(control, value, deadline, false));
        info!("controls set to their defaults");
        failed
            .into_iter()
            .find(|(control, _)| !control.has(INACTIVE))
            .map_or(Ok(()), |(control, error)| Err(refusal(&control, error)))
    }

    fn set_one(&self, control: &Control, value: i64, deadline: Instant, is_kept: bool) -> Result<(), CameraError> {
        self.session.with_device(deadline, |device| {
            device.controls().map_or(Ok(()), |controls| controls.set(control, value))?;
            // Under the camera mutex: whoever opens the camera next finds this remembered.
            if is_kept && control.keeps_values() {
                self.remembered.remember(Wish::new(control.name(), value.to_string()));
            }
            Ok(())
        })
    }
}

fn refusal(control: &Control, error: CameraError) -> Refusal {
    match error.kind {
        ErrorKind::Absent => Refusal::Absent(error.message),
        _ => Refusal::Unwilling(format!("{}: {}", control.name(), error.message)),
    }
}

/// All controls. One that the driver cannot describe ends the list, as it ends `v4l2-ctl`'s.
fn list(mut next: impl FnMut(u32) -> Result<Option<Control>, CameraError>) -> Result<Vec<Control>, CameraError> {
    let mut controls: Vec<Control> = Vec::new();
    while controls.len() < MOST_CONTROLS {
        let after = controls.last().map_or(0, |last| last.id);
        match next(after) {
            Ok(Some(control)) if control.id > after => controls.push(control),
            Ok(_) => break,
            Err(error) if controls.is_empty() || error.kind == ErrorKind::Absent => return Err(error),
            Err(_) => break,
        }
    }
    Ok(controls)
}

/// Sets each and answers with those that could not be.
///
/// A switch or a menu may make another control inactive, or active: a focus follows its automatic. So numbers come
/// first, while they are still active, then switches and menus, then what was inactive before; and what was refused
/// is tried again for as long as others succeed.
fn set_all(
    mut wanted: Vec<(Control, i64)>,
    mut set: impl FnMut(&Control, i64) -> Result<(), CameraError>,
) -> Vec<(Control, CameraError)> {
    wanted.sort_by_key(|(control, _)| match control.kind {
        _ if control.has(INACTIVE) => 2,
        Kind::Boolean | Kind::Menu | Kind::IntegerMenu => 1,
        _ => 0,
    });
    loop {
        let before = wanted.len();
        let mut failed = Vec::new();
        wanted.retain(|(control, value)| match set(control, *value) {
            Ok(()) => false,
            Err(error) => {
                failed.push((control.clone(), error));
                true
            }
        });
        if failed.is_empty() || failed.len() == before {
            return failed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::super::synthetic::Synthetic;
    use super::*;

    fn control(label: &str, kind: Kind, min: i64, max: i64) -> Control {
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
            assert_eq!(control(label, Kind::Integer, 0, 0).name(), name);
        }
    }

    #[test]
    fn values_are_taken_or_refused_with_the_range() {
        let integer = control("A", Kind::Integer, -64, 64);
        let steps = Control { step: 5, ..control("A", Kind::Integer, 0, 250) };
        let large = control("A", Kind::Integer64, i64::MIN, i64::MAX);
        let boolean = control("A", Kind::Boolean, 0, 1);
        let bits = control("A", Kind::Bitmask, 0, 0x8000_0005);
        let menu = vec![(0, "Disabled".into()), (1, "50 Hz".into()), (3, "Auto".into())];
        let menu = Control { menu, ..control("A", Kind::Menu, 0, 3) };
        let empty = control("A", Kind::IntegerMenu, 0, 3);
        let button = control("A", Kind::Button, 0, 0);
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
            (Kind::Integer, 0, true),
            (Kind::Menu, INACTIVE, true),
            (Kind::Button, 0, false),
            (Kind::Integer, WRITE_ONLY, false),
            (Kind::Integer, EXECUTE_ON_WRITE, false),
            (Kind::Integer, READ_ONLY, false),
        ] {
            assert_eq!(Control { flags, ..control("A", kind, 0, 1) }.keeps_values(), keeps, "{kind:?} {flags:#x}");
        }
    }

    #[test]
    fn numbers_then_switches_then_what_is_inactive_and_again_while_others_succeed() {
        let wanted = |id, kind, flags| (Control { id, flags, ..control("A", kind, 0, 9) }, i64::from(id));
        // 5 works after 4, 4 after 3, 3 after 2, which is active; 6 never.
        let mut done = vec![];
        let inactive = [6, 5, 4, 3].map(|id| wanted(id, Kind::Integer, INACTIVE));
        let active = [wanted(2, Kind::Boolean, 0), wanted(1, Kind::Integer, 0)];
        let failed = set_all(inactive.into_iter().chain(active).collect(), |control, value| {
            assert_eq!(i64::from(control.id), value);
            if control.id <= 2 || control.id != 6 && done.contains(&(control.id - 1)) {
                done.push(control.id);
                return Ok(());
            }
            Err(CameraError::new(ErrorKind::Refused, "inactive"))
        });
        assert_eq!((done, failed.len(), failed[0].0.id), (vec![1, 2, 3, 4, 5], 1, 6));
    }

    #[test]
    fn a_list_ends_with_the_last_control_a_circle_or_an_error() {
        let one = |id| Ok(Some(Control { id, ..control("A", Kind::Integer, 0, 1) }));
        let error = |kind| Err(CameraError::new(kind, "no"));
        let ids = |next: &dyn Fn(u32) -> Result<Option<Control>, CameraError>| {
            list(next).map(|controls| controls.iter().map(|control| control.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&|_| Ok(None)), Ok(vec![]));
        assert_eq!(ids(&|after| if after < 3 { one(after + 1) } else { Ok(None) }), Ok(vec![1, 2, 3]));
        assert_eq!(ids(&|_| one(7)), Ok(vec![7]));
        assert_eq!(ids(&|after| if after < 2 { one(after + 1) } else { error(ErrorKind::Failed) }), Ok(vec![1, 2]));
        assert!(ids(&|_| error(ErrorKind::Failed)).is_err());
        assert!(ids(&|after| if after < 2 { one(after + 1) } else { error(ErrorKind::Absent) }).is_err());
        assert_eq!(ids(&|after| one(after + 1)).map(|ids| ids.len()), Ok(MOST_CONTROLS));
    }

    fn values(device: &mut dyn Device) -> Vec<(String, Option<i64>)> {
        let controls = list(|after| device.controls().unwrap().next(after)).unwrap();
        controls.iter().map(|control| (control.name(), control.value)).collect()
    }

    #[test]
    fn every_opened_camera_is_set_to_what_is_remembered() {
        let panel = Remembered::default();
        for (name, value) in [("gain", "80"), ("brightness", "1"), ("focus_absolute", "3"), ("color_effects", "sepia")]
        {
            panel.remember(Wish::new(name, value));
        }
        panel.remember(Wish::new("gain_automatic", "off"));
        panel.remember(Wish::new("brightness", "-20"));
        for _ in 0..2 {
            let mut device = Synthetic::new().open().unwrap();
            panel.restore(device.as_mut());
            let values = values(device.as_mut());
            for (name, value) in [("brightness", -20), ("gain_automatic", 0), ("gain", 80), ("color_effects", 0)] {
                assert!(values.contains(&(name.into(), Some(value))), "{name} in {values:?}");
            }
        }
        let bad: Vec<_> =
            panel.values.lock().iter().filter(|wish| wish.is_known_bad).map(|r| r.wish.name.clone()).collect();
        assert_eq!(bad, ["focus_absolute", "color_effects"]);
    }
}
