//! The synthetic camera's controls: one of each kind that the page can show, each with a visible effect.

use std::time::{Duration, Instant};

use super::super::control::{Control, ControlType, Controls, INACTIVE, WRITE_ONLY};
use super::super::error::{CameraError, ErrorKind};
use super::picture::{Effect, Tone};

// V4L2_CID_*
const BRIGHTNESS: u32 = 0x0098_0900;
const GAIN_AUTOMATIC: u32 = 0x0098_0912;
const GAIN: u32 = 0x0098_0913;
const COLOR_EFFECTS: u32 = 0x0098_091F;
const FLASH: u32 = 0x009C_0903;

/// How long a flash makes the picture white.
const FLASH_TIME: Duration = Duration::from_millis(200);
/// The gain that leaves the picture unchanged; automatic gain always chooses it.
const PLAIN_GAIN: i64 = 50;

/// Controls and their values. They start from the defaults each time the camera is opened, as after plugging it in.
pub(super) struct SyntheticControls {
    controls: Vec<Control>,
    flash_until: Option<Instant>,
}

impl Default for SyntheticControls {
    fn default() -> Self {
        let control = |id, label: &str, kind, [min, max, default]: [i64; 3], menu: &[(i64, &str)]| Control {
            id,
            label: label.into(),
            kind,
            min,
            max,
            step: 1,
            default,
            menu: menu.iter().map(|(value, name)| (*value, (*name).into())).collect(),
            flags: if kind == ControlType::Button { WRITE_ONLY } else { 0 },
            value: (kind != ControlType::Button).then_some(default),
        };
        let mut controls = Self {
            controls: vec![
                control(BRIGHTNESS, "Brightness", ControlType::Integer, [-64, 64, 0], &[]),
                control(GAIN_AUTOMATIC, "Gain, Automatic", ControlType::Boolean, [0, 1, 1], &[]),
                control(GAIN, "Gain", ControlType::Integer, [0, 100, PLAIN_GAIN], &[]),
                // V4L2's numbers; this camera lacks effect 2.
                control(
                    COLOR_EFFECTS,
                    "Color Effects",
                    ControlType::Menu,
                    [0, 3, 0],
                    &[(0, "None"), (1, "Black & White"), (3, "Negative")],
                ),
                control(FLASH, "Strobe", ControlType::Button, [0, 0, 0], &[]),
            ],
            flash_until: None,
        };
        controls.update_flags();
        controls
    }
}

impl SyntheticControls {
    /// The effect of the controls on a frame exposed now.
    pub(super) fn tone(&self) -> Tone {
        if self.flash_until.is_some_and(|until| Instant::now() < until) {
            return Tone { gain: 0.0, brightness: 255, effect: Effect::BlackAndWhite };
        }
        let gain = if self.get(GAIN_AUTOMATIC) == 1 { PLAIN_GAIN } else { self.get(GAIN) };
        Tone {
            gain: gain as f32 / PLAIN_GAIN as f32,
            brightness: self.get(BRIGHTNESS) as i16,
            effect: match self.get(COLOR_EFFECTS) {
                1 => Effect::BlackAndWhite,
                3 => Effect::Negative,
                _ => Effect::None,
            },
        }
    }

    fn get(&self, id: u32) -> i64 {
        self.controls.iter().find(|control| control.id == id).and_then(|control| control.value).unwrap_or_default()
    }

    /// Marks gain as inactive while automatic gain is on.
    fn update_flags(&mut self) {
        let is_automatic = self.get(GAIN_AUTOMATIC) == 1;
        for control in self.controls.iter_mut().filter(|control| control.id == GAIN) {
            control.flags = if is_automatic { INACTIVE } else { 0 };
        }
    }
}

impl Controls for SyntheticControls {
    fn next(&mut self, after: u32) -> Result<Option<Control>, CameraError> {
        Ok(self.controls.iter().find(|control| control.id > after).cloned())
    }

    fn set(&mut self, wanted: &Control, value: i64) -> Result<(), CameraError> {
        let Some(control) = self.controls.iter_mut().find(|control| control.id == wanted.id) else {
            return Err(CameraError::new(ErrorKind::Refused, "the synthetic camera has no such control"));
        };
        if control.flags & INACTIVE != 0 {
            let message = "the camera refused it: the control is inactive while gain_automatic is on";
            return Err(CameraError::new(ErrorKind::Refused, message));
        }
        match control.kind {
            ControlType::Button => self.flash_until = Some(Instant::now() + FLASH_TIME),
            _ => control.value = Some(value),
        }
        self.update_flags();
        Ok(())
    }
}
