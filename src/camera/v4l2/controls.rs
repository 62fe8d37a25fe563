//! Controls through V4L2's extended control ioctls.
//!
//! `v4l` 0.14 has functions for this, but they panic at a control of a type that it does not know, and state a size
//! of 8 bytes for integers. Only its `ioctl` and its numbers are used.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;

use v4l::device::Handle;
use v4l::v4l_sys::{V4L2_CTRL_FLAG_DISABLED, V4L2_CTRL_FLAG_NEXT_CTRL};
use v4l::v4l_sys::{v4l2_ext_control, v4l2_ext_controls, v4l2_query_ext_ctrl, v4l2_querymenu};
use v4l::v4l2::vidioc::{_IOC_TYPE, VIDIOC_G_EXT_CTRLS, VIDIOC_QUERY_EXT_CTRL, VIDIOC_QUERYMENU, VIDIOC_S_EXT_CTRLS};

use super::ioctl::{Plain, call};
use crate::camera::controls::{Control, Controls, INACTIVE, Kind, WRITE_ONLY};
use crate::camera::{CameraError, ErrorKind};

/// No menu is longer; a driver may state any maximum.
const MOST_ENTRIES: i64 = 256;

/// The controls behind one descriptor.
pub struct V4l2Controls {
    handle: Arc<Handle>,
}

impl V4l2Controls {
    /// Those of an open device.
    pub fn new(handle: Arc<Handle>) -> Self {
        Self { handle }
    }

    /// The description of the control with the next higher number, of any type.
    fn query_next(&self, after: u32) -> io::Result<v4l2_query_ext_ctrl> {
        let mut query = v4l2_query_ext_ctrl { id: after | V4L2_CTRL_FLAG_NEXT_CTRL, ..Plain::zeroed() };
        // SAFETY: this ioctl takes this struct.
        unsafe { call(&self.handle, VIDIOC_QUERY_EXT_CTRL, &mut query) }?;
        Ok(query)
    }

    /// The entries of a menu; cameras leave some out.
    fn menu(&self, query: &v4l2_query_ext_ctrl, kind: Kind) -> Vec<(i64, String)> {
        let last = query.maximum.min(query.minimum.saturating_add(MOST_ENTRIES));
        let entry = |index: i64| {
            let mut menu = v4l2_querymenu { id: query.id, index: u32::try_from(index).ok()?, ..Plain::zeroed() };
            // SAFETY: this ioctl takes this struct.
            unsafe { call(&self.handle, VIDIOC_QUERYMENU, &mut menu) }.ok()?;
            let entry = menu.__bindgen_anon_1;
            let name = match kind {
                // SAFETY: the driver filled the union's member of this type; any bytes are an integer.
                Kind::IntegerMenu => unsafe { entry.value }.to_string(),
                // SAFETY: as above.
                _ => text(&unsafe { entry.name }),
            };
            Some((index, name))
        };
        (query.minimum..=last).filter_map(entry).collect()
    }

    /// Gets or sets the value of one control.
    fn value(&self, request: _IOC_TYPE, id: u32, kind: Kind, value: i64) -> io::Result<i64> {
        let mut control = v4l2_ext_control { id, ..Plain::zeroed() };
        match kind {
            Kind::Integer64 => control.__bindgen_anon_1.value64 = value,
            // A bitmask uses all 32 bits.
            _ => control.__bindgen_anon_1.value = value as i32,
        }
        let mut controls = v4l2_ext_controls { count: 1, controls: &raw mut control, ..Plain::zeroed() };
        // SAFETY: both ioctls take this struct; its one pointer is to `count` controls, alive during the call.
        unsafe { call(&self.handle, request, &mut controls) }?;
        let answer = control.__bindgen_anon_1;
        Ok(match kind {
            // SAFETY: any bytes are an integer, and the driver fills the member of this type.
            Kind::Integer64 => unsafe { answer.value64 },
            // SAFETY: as above.
            Kind::Bitmask => i64::from(unsafe { answer.value } as u32),
            // SAFETY: as above.
            _ => i64::from(unsafe { answer.value }),
        })
    }
}

impl Controls for V4l2Controls {
    fn next(&mut self, mut after: u32) -> Result<Option<Control>, CameraError> {
        loop {
            let query = match self.query_next(after) {
                Ok(query) if query.id > after => query,
                // Counted in a circle.
                Ok(_) => return Ok(None),
                // Behind the last one; or the driver has no controls at all.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => return Ok(None),
                Err(error) => return Err(explain("cannot list the controls", &error)),
            };
            after = query.id;
            let Some(kind) = Kind::from_number(query.type_) else { continue };
            if query.flags & V4L2_CTRL_FLAG_DISABLED != 0 || query.nr_of_dims > 0 {
                continue;
            }
            let menu = match kind {
                Kind::Menu | Kind::IntegerMenu => self.menu(&query, kind),
                _ => Vec::new(),
            };
            let is_readable = kind != Kind::Button && query.flags & WRITE_ONLY == 0;
            let value = is_readable.then(|| self.value(VIDIOC_G_EXT_CTRLS, query.id, kind, 0).ok()).flatten();
            return Ok(Some(Control {
                id: query.id,
                label: text(&query.name.map(|byte| byte as u8)),
                kind,
                min: query.minimum,
                // A bitmask's 32 bits come sign-extended.
                max: if kind == Kind::Bitmask { query.maximum & 0xFFFF_FFFF } else { query.maximum },
                step: query.step,
                default: if kind == Kind::Bitmask { query.default_value & 0xFFFF_FFFF } else { query.default_value },
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
