//! What `/state` and `/metrics` show, and where it is counted.

use std::sync::Arc;
use std::time::Instant;

use crate::camera::capture::Camera;
use crate::http::endpoints::controls::ControlAccess;
use crate::http::server::limits::Limits;
use crate::hub::Hub;

/// Everything that counts something.
pub struct Sources<'a> {
    /// The newest frame, watchers and kept frames.
    pub hub: &'a Arc<Hub>,
    /// What the camera is doing.
    pub camera: &'a Camera,
    /// The viewers.
    pub limits: &'a Limits,
    /// What clients may do with the camera's controls.
    pub controls: ControlAccess,
    /// When the server started.
    pub started_at: Instant,
    /// Requests with a wrong credential so far.
    pub wrong_credentials: u64,
}
