//! Waiting for a V4L2 device's pictures on its descriptor, with the camera mutex released.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use v4l::device::Handle;

use super::diagnose::explain;
use crate::camera::{CameraError, ErrorKind, Readiness};

/// Longest wait for those that poll when a stream ends, which wakes them.
const WAKING: Duration = Duration::from_secs(1);

/// Open while the device has buffers: whoever polls one without them begins to read it as a file, if the driver can do
/// that, and then its format cannot be set (seen with vivid; uvcvideo cannot).
#[derive(Clone, Default)]
pub struct Gate(Arc<RwLock<bool>>);

impl Gate {
    /// Lets nobody poll any more, and waits for those that do; or lets them poll.
    pub fn set_open(&self, is_open: bool) {
        // A driver that holds them longer has other faults, which are told elsewhere.
        self.0.try_write_for(WAKING).into_iter().for_each(|mut state| *state = is_open);
    }
}

/// Waits for pictures of one device.
pub struct Poll {
    /// The device.
    pub handle: Arc<Handle>,
    /// Whether it may be polled.
    pub gate: Gate,
}

impl Readiness for Poll {
    fn wait(&self, timeout: Duration) -> Result<bool, CameraError> {
        let is_open = self.gate.0.read();
        if !*is_open {
            return Err(CameraError::new(ErrorKind::Failed, "the camera is not streaming"));
        }
        let millis = timeout.as_millis().min(i32::MAX as u128) as i32;
        // An error state counts as ready: taking the picture then tells which error it is.
        match self.handle.poll(libc::POLLIN, millis) {
            Ok(ready) => Ok(ready > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(explain("cannot wait for", "the camera", &error)),
        }
    }
}
