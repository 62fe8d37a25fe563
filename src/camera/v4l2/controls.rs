//! Controls through V4L2's extended control ioctls.
//!
//! `v4l` 0.14 has functions for this, but they panic at a control of a type that it does not know, and state a size
//! of 8 bytes for integers. Only its `ioctl` and its numbers are used.
#![allow(unsafe_code)]

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use v4l::device::Handle;
use v4l::v4l_sys::{V4L2_CTRL_FLAG_DISABLED, V4L2_CTRL_FLAG_NEXT_CTRL};
use v4l::v4l_sys::{v4l2_ext_control, v4l2_ext_controls, v4l2_query_ext_ctrl, v4l2_querymenu};
use v4l::v4l2::vidioc::{_IOC_TYPE, VIDIOC_G_EXT_CTRLS, VIDIOC_QUERY_EXT_CTRL, VIDIOC_QUERYMENU, VIDIOC_S_EXT_CTRLS};

use super::ioctl::{Plain, call};
use crate::camera::control::{Control, ControlType, Controls, INACTIVE, WRITE_ONLY};
use crate::camera::error::{CameraError, ErrorKind};

/// No menu is longer; a driver may state any maximum.
const MOST_ENTRIES: i64 = 256;

/// Numbers of the controls that every kind of camera may have: V4L2_CID_BRIGHTNESS to _ILLUMINATORS_1 …
const USER_CONTROLS: RangeInclusive<u32> = 0x0098_0900..=0x0098_0925;
/// … and V4L2_CID_EXPOSURE_AUTO to _CAMERA_SENSOR_ROTATION.
const CAMERA_CONTROLS: RangeInclusive<u32> = 0x009A_0901..=0x009A_0923;

/// The controls behind one descriptor.
pub struct V4l2Controls {
    handle: Arc<Handle>,
}

impl V4l2Controls {
    /// Those of an open device.
    pub fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// The description of a control of any type: the one with this number, or, with V4L2_CTRL_FLAG_NEXT_CTRL, the next.
    fn query(&self, id: u32) -> io::Result<v4l2_query_ext_ctrl> {
        let mut query = v4l2_query_ext_ctrl { id, ..Plain::zeroed() };
        // SAFETY: this ioctl takes this struct.
        unsafe { call(&self.handle, VIDIOC_QUERY_EXT_CTRL, &mut query) }?;
        Ok(query)
    }

    /// The entries of a menu; cameras leave some out.
    fn menu(&self, query: &v4l2_query_ext_ctrl, kind: ControlType) -> Vec<(i64, String)> {
        let last = query.maximum.min(query.minimum.saturating_add(MOST_ENTRIES));
        let entry = |index: i64| {
            let mut menu = v4l2_querymenu { id: query.id, index: u32::try_from(index).ok()?, ..Plain::zeroed() };
            // SAFETY: this ioctl takes this struct.
            unsafe { call(&self.handle, VIDIOC_QUERYMENU, &mut menu) }.ok()?;
            let entry = menu.__bindgen_anon_1;
            let name = match kind {
                // SAFETY: the driver filled the union's member of this type; any bytes are an integer.
                ControlType::IntegerMenu => unsafe { entry.value }.to_string(),
                // SAFETY: as above.
                _ => text(&unsafe { entry.name }),
            };
            Some((index, name))
        };
        (query.minimum..=last).filter_map(entry).collect()
    }

    /// Gets or sets the value of one control.
    fn value(&self, request: _IOC_TYPE, id: u32, kind: ControlType, value: i64) -> io::Result<i64> {
        let mut control = v4l2_ext_control { id, ..Plain::zeroed() };
        match kind {
            ControlType::Integer64 => control.__bindgen_anon_1.value64 = value,
            // A bitmask uses all 32 bits.
            _ => control.__bindgen_anon_1.value = value as i32,
        }
        let mut controls = v4l2_ext_controls { count: 1, controls: &raw mut control, ..Plain::zeroed() };
        // SAFETY: both ioctls take this struct; its one pointer is to `count` controls, alive during the call.
        unsafe { call(&self.handle, request, &mut controls) }?;
        let answer = control.__bindgen_anon_1;
        Ok(match kind {
            // SAFETY: any bytes are an integer, and the driver fills the member of this type.
            ControlType::Integer64 => unsafe { answer.value64 },
            // SAFETY: as above.
            ControlType::Bitmask => i64::from(unsafe { answer.value } as u32),
            // SAFETY: as above.
            _ => i64::from(unsafe { answer.value }),
        })
    }
}

impl Controls for V4l2Controls {
    fn next(&mut self, mut after: u32) -> Result<Option<Control>, CameraError> {
        loop {
            let next = next_described(after, |id| self.query(id));
            let Some(query) = next.map_err(|error| explain("cannot list the controls", &error))? else {
                return Ok(None);
            };
            after = query.id;
            let Some(kind) = ControlType::from_number(query.type_) else { continue };
            if query.flags & V4L2_CTRL_FLAG_DISABLED != 0 || query.nr_of_dims > 0 {
                continue;
            }
            let menu = match kind {
                ControlType::Menu | ControlType::IntegerMenu => self.menu(&query, kind),
                _ => Vec::new(),
            };
            let is_readable = kind != ControlType::Button && query.flags & WRITE_ONLY == 0;
            let value = is_readable.then(|| self.value(VIDIOC_G_EXT_CTRLS, query.id, kind, 0).ok()).flatten();
            return Ok(Some(Control {
                id: query.id,
                label: text(&query.name.map(|byte| byte as u8)),
                kind,
                min: query.minimum,
                // A bitmask's 32 bits come sign-extended.
                max: if kind == ControlType::Bitmask { query.maximum & 0xFFFF_FFFF } else { query.maximum },
                step: query.step,
                default: if kind == ControlType::Bitmask {
                    query.default_value & 0xFFFF_FFFF
                } else {
                    query.default_value
                },
                menu,
                flags: query.flags,
                value,
            }));
        }
    }

    fn set(&mut self, control: &Control, value: i64) -> Result<(), CameraError> {
        let set = self.value(VIDIOC_S_EXT_CTRLS, control.id, control.kind, value);
        set.map(|_| ()).map_err(|error| match explain("the camera refused it", &error) {
            refused if refused.kind != ErrorKind::Absent && control.flags & INACTIVE != 0 => CameraError::new(
                ErrorKind::Refused,
                "the camera refused it: the control is inactive, so another one (its automatic?) holds it",
            ),
            other => other,
        })
    }
}

/// The description of the next control that can be described: one that cannot is left out. Where the driver
/// fails at the next one, it does not say which that is, so the numbers that webcams' controls have are tried in turn.
fn next_described(
    after: u32,
    query: impl Fn(u32) -> io::Result<v4l2_query_ext_ctrl>,
) -> io::Result<Option<v4l2_query_ext_ctrl>> {
    let standard = USER_CONTROLS.chain(CAMERA_CONTROLS).filter(|id| *id > after);
    // Behind these a driver may have its own.
    let others = after.max(*CAMERA_CONTROLS.end()) | V4L2_CTRL_FLAG_NEXT_CTRL;
    let mut failure = None;
    for id in [after | V4L2_CTRL_FLAG_NEXT_CTRL].into_iter().chain(standard).chain([others]) {
        match query(id) {
            // Not counted in a circle.
            Ok(query) => return Ok(Some(query).filter(|query| query.id > after)),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOTTY) => return Ok(None),
                Some(libc::ENODEV | libc::ENXIO) => return Err(error),
                // Behind the last one; but some drivers say the same of one that the camera does not describe.
                Some(libc::EINVAL) => {}
                _ => failure = Some(error),
            },
        }
    }
    match failure {
        // Not one can be described.
        Some(error) if after == 0 => Err(error),
        _ => Ok(None),
    }
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

fn explain(what: &str, error: &io::Error) -> CameraError {
    let (kind, why) = match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => (ErrorKind::Absent, "it is gone (unplugged?)".into()),
        Some(libc::EACCES) => (ErrorKind::Refused, "another control holds it, or it can only be read".into()),
        Some(libc::EBUSY) => (ErrorKind::Refused, "it cannot be set while the camera streams".into()),
        Some(libc::EINVAL | libc::ERANGE) => (ErrorKind::Refused, "the driver does not take this value".into()),
        _ => (ErrorKind::Failed, error.to_string().to_lowercase()),
    };
    CameraError::new(kind, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_that_cannot_be_described_is_left_out() {
        const ALL: [u32; 5] = [0x0098_0900, 0x0098_091A, 0x009A_0902, 0x009A_0903, 0x0A04_6D05];
        let listed = |bad: &[u32], errno: i32| {
            let query = |asked: u32| match ALL.iter().find(|id| match asked & V4L2_CTRL_FLAG_NEXT_CTRL {
                0 => **id == asked,
                flag => **id > asked & !flag,
            }) {
                None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                Some(id) if bad.contains(id) => Err(io::Error::from_raw_os_error(errno)),
                Some(id) => Ok(v4l2_query_ext_ctrl { id: *id, ..Plain::zeroed() }),
            };
            let mut ids = vec![];
            while let Some(query) = next_described(ids.last().copied().unwrap_or(0), query)? {
                ids.push(query.id);
            }
            Ok::<_, io::Error>(ids)
        };
        for errno in [libc::EIO, libc::EINVAL, libc::EPIPE, libc::EREMOTEIO] {
            for (at, bad) in ALL.iter().enumerate() {
                let others: Vec<_> = ALL.iter().filter(|id| *id != bad).copied().collect();
                assert_eq!(listed(&[*bad], errno).expect("a list"), others, "without {at}, errno {errno}");
            }
            assert_eq!(listed(&ALL[..4], errno).expect("a list"), ALL[4..]);
        }
        assert_eq!(listed(&[], 0).expect("a list"), ALL);
        assert!(listed(&ALL, libc::EIO).is_err(), "nothing can be described");
        assert!(listed(&ALL[2..], libc::ENODEV).is_err(), "it is gone");
        let circle = |_| Ok(v4l2_query_ext_ctrl { id: 7, ..Plain::zeroed() });
        assert!(next_described(7, circle).expect("an end").is_none());
    }
}
