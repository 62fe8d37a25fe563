//! Controls that are remembered and set.
//!
//! Values are checked here, before a driver sees them: uvcvideo clamps what is out of range and calls it a success.
//! What was set is remembered and set again after the first picture of each start, whatever value the driver believes
//! that the camera has: an unplugged camera forgets it, and so do some at each start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::Device;
use super::control::{Control, ControlValue, INACTIVE, READ_ONLY};
use super::error::{CameraError, ErrorKind};
use super::session::{FirstPictureHook, Session};
use crate::hub::Wait;
use crate::system::sync::{Mutex, rank};

/// Answered within 3 s, as a snapshot is, whatever the camera does.
const DEADLINE: Duration = Duration::from_millis(2800);
/// Pictures wait while remembered values are set: after this time the next picture comes first.
const RESTORE_SLICE: Duration = Duration::from_millis(300);
/// After so many pictures at the latest.
const RESTORE_PICTURES: u32 = 10;
/// A camera that needs this time at once hangs: nothing more is set.
const RESTORE_TIME: Duration = Duration::from_millis(1500);
/// More than any camera has; a driver that counts in circles ends here.
const MOST_CONTROLS: usize = 500;

/// Why controls could not be read or set, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlError {
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
    turn: Mutex<(), { rank::CHANGE }>,
}

/// What the controls are to be, whichever camera is opened.
#[derive(Default)]
pub struct Remembered {
    /// What a reset goes back to.
    given: Vec<ControlValue>,
    values: Mutex<Vec<RememberedValue>, { rank::KNOWN }>,
}

struct RememberedValue {
    wanted: ControlValue,
    /// It has been logged that the camera does not take it.
    is_known_bad: bool,
    /// What is left to do since the camera's stream started.
    todo: Todo,
}

#[derive(Default)]
enum Todo {
    #[default]
    Nothing,
    /// Find the control.
    Find,
    Set(Box<Control>, i64),
}

impl Remembered {
    /// Begins with these values, and goes back to them.
    pub fn new(given: Vec<ControlValue>) -> Arc<Self> {
        let remembered = Self { given, ..Self::default() };
        remembered.reset();
        Arc::new(remembered)
    }

    /// What a session is to call after a camera's first picture.
    pub fn hook(self: &Arc<Self>) -> FirstPictureHook {
        let remembered = self.clone();
        Box::new(move |device, calls| remembered.restore(device, calls))
    }

    fn is_empty(&self) -> bool {
        self.values.lock().is_empty()
    }

    fn remember(&self, wanted: ControlValue) {
        let mut values = self.values.lock();
        values.retain(|old| !old.wanted.is_for_same(&wanted));
        values.push(RememberedValue { wanted, is_known_bad: false, todo: Todo::Nothing });
    }

    fn reset(&self) {
        self.values.lock().clear();
        self.given.iter().for_each(|wanted| self.remember(wanted.clone()));
    }

    /// Sets an open camera to what is remembered, as far as there is time, or what was left of that after so many `calls`.
    /// Returns whether nothing is left. What the camera does not take is logged once.
    fn restore(&self, device: &mut dyn Device, calls: u32) -> bool {
        let mut values = self.values.lock();
        if calls == 0 {
            values.iter_mut().for_each(|value| value.todo = Todo::Find);
        }
        let began = Instant::now();
        let is_done = match restore_until(&mut values, device, began + RESTORE_SLICE) {
            Ok(is_done) => is_done,
            // Taking its pictures will fail too, and tell more.
            Err(error) => {
                warn!("controls not set reason=\"{error}\"");
                return true;
            }
        };
        if !is_done && calls < RESTORE_PICTURES && began.elapsed() < RESTORE_TIME {
            return false;
        }
        for value in values.iter_mut().filter(|value| !matches!(value.todo, Todo::Nothing)) {
            value.end(Some("the camera takes too long to set its controls".into()));
        }
        true
    }
}

impl RememberedValue {
    /// Notes what became of it at this start.
    fn end(&mut self, complaint: Option<String>) {
        self.todo = Todo::Nothing;
        let is_known_bad = std::mem::replace(&mut self.is_known_bad, complaint.is_some());
        if let (Some(why), false) = (complaint, is_known_bad) {
            warn!("control not set name={} value=\"{}\" reason=\"{why}\"", self.wanted.name, self.wanted.value);
        }
    }

    /// Its control, and the value as a number. Only what has no standard number is looked for among all controls, since
    /// describing one takes a webcam several transfers.
    fn find(&self, device: &mut dyn Device) -> Result<(Control, i64), CameraError> {
        let mut next = |after| device.controls().map_or(Ok(None), |controls| controls.next(after));
        let standard = self.wanted.id().and_then(|id| next(id - 1).ok()?.filter(|control| control.id == id));
        let found = match standard {
            Some(control) => vec![control],
            None => list(next)?,
        };
        let found =
            self.wanted.among(&found).and_then(|control| Ok((control.clone(), control.parse(&self.wanted.value)?)));
        found.map_err(|why| CameraError::new(ErrorKind::Refused, why))
    }
}

/// Finds controls and sets them until then, at least one. Returns whether all was done.
///
/// # Errors
/// [`ErrorKind::Absent`] if the camera is gone.
fn restore_until(
    values: &mut [RememberedValue],
    device: &mut dyn Device,
    deadline: Instant,
) -> Result<bool, CameraError> {
    let is_late = || Instant::now() >= deadline;
    for value in values.iter_mut().filter(|value| matches!(value.todo, Todo::Find)) {
        match value.find(device) {
            Ok((control, wanted)) => value.todo = Todo::Set(Box::new(control), wanted),
            Err(error) if error.kind == ErrorKind::Absent => return Err(error),
            Err(error) => value.end(Some(error.message)),
        }
        if is_late() {
            return Ok(false);
        }
    }
    let wanted = values.iter().filter_map(|value| match &value.todo {
        Todo::Set(control, value) => Some(((**control).clone(), *value)),
        _ => None,
    });
    let mut left = Vec::new();
    let failed = set_all(wanted.collect(), |control, value| {
        if is_late() {
            left.push(control.id);
            return Ok(());
        }
        device.controls().map_or(Ok(()), |controls| controls.set(control, value))
    });
    for value in values {
        let Todo::Set(control, _) = &value.todo else { continue };
        if !left.contains(&control.id) {
            let error = failed.iter().find(|(failed, _)| failed.id == control.id);
            value.end(error.map(|(_, error)| error.message.clone()));
        }
    }
    Ok(left.is_empty())
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
    pub fn controls(&self) -> Result<Vec<Control>, ControlError> {
        self.controls_by(Instant::now() + DEADLINE)
    }

    fn controls_by(&self, deadline: Instant) -> Result<Vec<Control>, ControlError> {
        // Kept open from the first control to the last.
        let _watch = self.session.hub.watch();
        if !self.remembered.is_empty() {
            // Remembered values are set with the first picture: before that a camera shows others. One that sends no
            // picture is asked all the same.
            let _ = self.session.hub.newer_than(0, deadline.min(Instant::now() + DEADLINE / 2));
        }
        let next = |after| {
            let next = |device: &mut dyn Device| device.controls().map_or(Ok(None), |controls| controls.next(after));
            self.session.with_device(deadline, next)
        };
        list(next).map_err(|error| match error.kind {
            ErrorKind::Absent => ControlError::Absent(error.message),
            _ => ControlError::Unwilling(error.message),
        })
    }

    /// Sets controls, after all others went back to what `--control` gave or else to their defaults if `resets`, and returns
    /// all of them. Nothing is set if one of these controls or values does not exist, or while another program streams
    /// from the camera. A control that cannot be set costs itself only.
    ///
    /// # Errors
    /// When there is no such control or value, or the camera refused, or cannot be had.
    pub fn set(&self, values: &[ControlValue], resets: bool) -> Result<Vec<Control>, ControlError> {
        let deadline = Instant::now() + DEADLINE;
        let _watch = self.session.hub.watch();
        let Some(_turn) = self.turn.try_lock_until(deadline) else {
            return Err(ControlError::Unwilling("others are still setting the controls".into()));
        };
        let controls = self.controls_by(deadline)?;
        let mut wanted: Vec<(Control, i64)> = Vec::new();
        for value in values {
            let control = value.among(&controls).map_err(ControlError::Wrong)?;
            let value = control.parse(&value.value).map_err(ControlError::Wrong)?;
            if control.has(READ_ONLY) {
                return Err(ControlError::Unwilling(format!("{} can only be read", control.name())));
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
            Some((control, error)) => Err(explain(&control, error)),
            None => self.controls_by(deadline),
        }
    }

    /// A control that is inactive now, or has the value already, may refuse; only an error of the others is one.
    fn reset(&self, controls: &[Control], deadline: Instant) -> Result<(), ControlError> {
        self.remembered.reset();
        let target = |control: &Control| Some((control.clone(), reset_target(control, &self.remembered.given)?));
        let failed = set_all(controls.iter().filter_map(target).collect(), |control, value| {
            let set = self.set_one(control, value, deadline, false);
            if control.has(INACTIVE) || control.value == Some(value) { set.or_else(unless_absent) } else { set }
        });
        info!("controls set to their defaults");
        failed.into_iter().next().map_or(Ok(()), |(control, error)| Err(explain(&control, error)))
    }

    /// Sets one control of the camera while it streams to us: a camera may belong to another program otherwise.
    fn set_one(&self, control: &Control, value: i64, deadline: Instant, is_kept: bool) -> Result<(), CameraError> {
        let (session, hub) = (&self.session, &self.session.hub);
        let absent = |why: String| CameraError::new(ErrorKind::Absent, why);
        let failures = session.failures();
        loop {
            let mut locked = session.lock_until(deadline).ok_or_else(|| absent("the camera is busy".into()))?;
            if let Some((device, _)) = locked.live() {
                device.controls().map_or(Ok(()), |controls| controls.set(control, value))?;
                // Under the camera mutex: whoever opens the camera next finds this remembered.
                if is_kept && control.keeps_values() {
                    self.remembered.remember(ControlValue::new(control.name(), value.to_string()));
                }
                return Ok(());
            }
            drop(locked);
            let newest = hub.newest_captured().map_or(Duration::ZERO, |frame| frame.captured_at().mono);
            match hub.exposed_after(newest, deadline, || session.failures() == failures) {
                Wait::Frame(_) => {}
                Wait::Closed => return Err(absent("the server is stopping".into())),
                Wait::Nothing => return Err(absent(session.reason())),
            }
        }
    }
}

/// What a reset sets a control to: the value given last, or its default. `None` where it takes neither, as drivers name defaults
/// out of range.
fn reset_target(control: &Control, given: &[ControlValue]) -> Option<i64> {
    let wanted = given.iter().rev().find(|value| value.among(std::slice::from_ref(control)).is_ok());
    let target = wanted.and_then(|value| control.parse(&value.value).ok()).unwrap_or(control.default);
    (control.keeps_values() && control.takes(target)).then_some(target)
}

fn unless_absent(error: CameraError) -> Result<(), CameraError> {
    if error.kind == ErrorKind::Absent { Err(error) } else { Ok(()) }
}

fn explain(control: &Control, error: CameraError) -> ControlError {
    match error.kind {
        ErrorKind::Absent => ControlError::Absent(error.message),
        _ => ControlError::Unwilling(format!("{}: {}", control.name(), error.message)),
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

/// Sets each and returns those that could not be set.
///
/// A switch or a menu may make another control inactive, or active: a focus follows its automatic. [`Control::turn`]
/// orders them, and what was refused is tried again for as long as others succeed.
fn set_all(
    mut wanted: Vec<(Control, i64)>,
    mut set: impl FnMut(&Control, i64) -> Result<(), CameraError>,
) -> Vec<(Control, CameraError)> {
    wanted.sort_by_key(|(control, value)| control.turn(*value));
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
    use super::super::control::{ControlType, Controls};
    use super::super::synthetic::Synthetic;
    use super::*;

    fn control(label: &str, kind: ControlType, min: i64, max: i64) -> Control {
        Control { id: 1, label: label.into(), kind, min, max, step: 1, default: 0, menu: vec![], flags: 0, value: None }
    }

    #[test]
    fn switches_off_then_numbers_then_switches_on_and_again_while_others_succeed() {
        let wanted = |id, kind, value| (Control { id, ..control("A", kind, 0, 9) }, value);
        // 5 works after 4, 4 after 3, 3 after 2; 6 never.
        let mut done = vec![];
        let numbers = [6, 5, 4, 3].map(|id| wanted(id, ControlType::Integer, 4));
        let switches = [wanted(7, ControlType::Boolean, 1), wanted(2, ControlType::Boolean, 0)];
        let failed = set_all(switches.into_iter().chain(numbers).collect(), |control, _| {
            if matches!(control.id, 2 | 7) || control.id != 6 && done.contains(&(control.id - 1)) {
                done.push(control.id);
                return Ok(());
            }
            Err(CameraError::new(ErrorKind::Refused, "inactive"))
        });
        assert_eq!((done, failed.len(), failed[0].0.id), (vec![2, 3, 7, 4, 5], 1, 6));
    }

    /// A camera whose driver believes that it has these values, while it has forgotten them, and that refuses some ids.
    struct Forgetful {
        controls: Vec<Control>,
        refuses: Vec<u32>,
        written: Vec<(u32, i64)>,
        pause: Duration,
    }

    impl Controls for Forgetful {
        fn next(&mut self, after: u32) -> Result<Option<Control>, CameraError> {
            Ok(self.controls.iter().find(|control| control.id > after).cloned())
        }

        fn set(&mut self, control: &Control, value: i64) -> Result<(), CameraError> {
            self.written.push((control.id, value));
            std::thread::sleep(self.pause);
            match self.refuses.contains(&control.id) {
                true => Err(CameraError::new(ErrorKind::Failed, "it stalled")),
                false => Ok(()),
            }
        }
    }

    impl Device for Forgetful {
        fn identity(&self) -> &super::super::Identity {
            unreachable!("not asked for")
        }

        fn offers(&self) -> Vec<super::super::Offer> {
            vec![]
        }

        fn start(&mut self, want: super::super::Mode, _buffers: u32) -> Result<super::super::Mode, CameraError> {
            Ok(want)
        }

        fn stop(&mut self) -> Result<(), CameraError> {
            Ok(())
        }

        fn readiness(&self) -> Arc<dyn super::super::Readiness> {
            unreachable!("not asked for")
        }

        fn take(&mut self, _sink: &mut dyn FnMut(super::super::RawFrame<'_>)) -> Result<(), CameraError> {
            Ok(())
        }

        fn controls(&mut self) -> Option<&mut dyn Controls> {
            Some(self)
        }
    }

    fn forgetful(pause: Duration) -> Forgetful {
        let [exposure, focus] = [(0x009A_0902, "Exposure (Absolute)"), (0x009A_090A, "Focus (absolute)")]
            .map(|(id, label)| Control { id, value: Some(5), ..control(label, ControlType::Integer, 0, 9) });
        let modes =
            Control { menu: vec![(1, "Manual".into()), (3, "Auto".into())], value: Some(1), ..exposure.clone() };
        let modes = Control { id: 0x009A_0901, kind: ControlType::Menu, label: "Exposure, Auto".into(), ..modes };
        let auto = Control { id: 0x009A_090C, kind: ControlType::Boolean, value: Some(0), ..focus.clone() };
        let auto = Control { label: "Focus, Auto".into(), max: 1, ..auto };
        Forgetful { controls: vec![modes, exposure, focus, auto], refuses: vec![], written: vec![], pause }
    }

    fn remembered() -> Arc<Remembered> {
        let given = [
            ("exposure_time_absolute", "5"),
            ("focus_absolute", "5"),
            ("auto_exposure", "1"),
            ("focus_automatic_continuous", "0"),
        ];
        Remembered::new(given.map(|(name, value)| ControlValue::new(name, value)).to_vec())
    }

    #[test]
    fn what_the_driver_believes_is_written_all_the_same_automatic_modes_first() {
        let mut camera = forgetful(Duration::ZERO);
        assert!(remembered().restore(&mut camera, 0));
        let all = [(0x009A_0901, 1), (0x009A_090C, 0), (0x009A_0902, 5), (0x009A_090A, 5)];
        assert_eq!(camera.written, all);
        // One that refuses costs itself only.
        let mut camera = Forgetful { refuses: vec![0x009A_0901], ..forgetful(Duration::ZERO) };
        let remembered = remembered();
        assert!(remembered.restore(&mut camera, 0));
        assert_eq!(camera.written[..4], all);
        let bad: Vec<_> = remembered.values.lock().iter().map(|value| value.is_known_bad).collect();
        assert_eq!(bad, [false, false, true, false]);
    }

    /// Defaults out of range (-8193 of 0 to 255), menus that lack their default, controls that hold no value.
    #[test]
    fn a_reset_leaves_out_what_a_control_does_not_take() {
        let menu = vec![(1, "Manual".into()), (3, "Auto".into())];
        let plain = Control { id: 0x009A_0901, ..control("Exposure, Auto", ControlType::Integer, 0, 255) };
        let menu = Control { kind: ControlType::Menu, menu, default: 2, ..plain.clone() };
        let given = [ControlValue::new("exposure_auto", "3"), ControlValue::new("hue", "7")];
        for (control, given, target) in [
            (Control { default: 9, ..plain.clone() }, &given[1..], Some(9)),
            (Control { default: -8193, ..plain.clone() }, &[], None),
            (Control { default: -8193, ..plain.clone() }, &given, Some(3)),
            (menu.clone(), &[], None),
            (menu.clone(), &given, Some(3)),
            (Control { menu: vec![], ..menu }, &given, None),
            (Control { flags: READ_ONLY, ..plain }, &[], None),
        ] {
            assert_eq!(reset_target(&control, given), target, "{control:?}");
        }
    }

    #[test]
    fn restoring_has_a_deadline() {
        let bad = |remembered: &Remembered| remembered.values.lock().iter().filter(|value| value.is_known_bad).count();
        // A slow camera goes on after the next pictures, and begins again at its next start.
        let (mut camera, slow) = (forgetful(Duration::from_millis(200)), remembered());
        for _ in 0..2 {
            camera.written.clear();
            assert!(!slow.restore(&mut camera, 0) && camera.written.len() <= 2, "pictures wait for 0.3 s");
            let calls = (1..10).find(|calls| slow.restore(&mut camera, *calls));
            assert!(calls.is_some() && camera.written.len() == 4 && bad(&slow) == 0, "{:?}", camera.written);
        }
        // For one that never comes to an end, and for one that hangs, it ends.
        let (mut camera, slow) = (forgetful(Duration::from_millis(400)), remembered());
        assert!(slow.restore(&mut camera, 0) || slow.restore(&mut camera, RESTORE_PICTURES));
        assert_eq!((camera.written.len(), bad(&slow)), (2, 2));
        let (mut camera, hung) = (forgetful(RESTORE_TIME), remembered());
        assert!(hung.restore(&mut camera, 0));
        assert_eq!((camera.written.len(), bad(&hung)), (1, 3));
    }

    #[test]
    fn a_list_ends_with_the_last_control_a_circle_or_an_error() {
        let one = |id| Ok(Some(Control { id, ..control("A", ControlType::Integer, 0, 1) }));
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
            panel.remember(ControlValue::new(name, value));
        }
        panel.remember(ControlValue::new("gain_automatic", "off"));
        panel.remember(ControlValue::new("brightness", "-20"));
        for _ in 0..2 {
            let mut device = Synthetic::default().open().unwrap();
            assert!(panel.restore(device.as_mut(), 0));
            let values = values(device.as_mut());
            for (name, value) in [("brightness", -20), ("gain_automatic", 0), ("gain", 80), ("color_effects", 0)] {
                assert!(values.contains(&(name.into(), Some(value))), "{name} in {values:?}");
            }
        }
        let bad: Vec<_> =
            panel.values.lock().iter().filter(|value| value.is_known_bad).map(|r| r.wanted.name.clone()).collect();
        assert_eq!(bad, ["focus_absolute", "color_effects"]);
    }
}
