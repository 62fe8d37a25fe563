//! What `/state` and `/metrics` show, and where it is counted.

use std::time::Instant;

use crate::camera::session::Session;
use crate::camera::still::Stills;
use crate::http::endpoints::controls::ControlAccess;
use crate::http::server::limits::Limits;
use crate::hub::ring::SharedRing;

/// Everything that counts something.
pub struct Sources<'a> {
    /// What the camera is doing, and its hub.
    pub session: &'a Session,
    /// Full-resolution pictures.
    pub stills: &'a Stills,
    /// Kept frames.
    pub ring: &'a SharedRing,
    /// The viewers.
    pub limits: &'a Limits,
    /// What clients may do with the camera's controls.
    pub controls: ControlAccess,
    /// When the server started.
    pub started_at: Instant,
    /// Requests with a wrong credential so far.
    pub wrong_credentials: u64,
}
