//! Why a camera could not do what was asked, and since when it has sent no pictures.

use std::fmt;
use std::time::Duration;

use crate::frame::Stamp;

/// Why the camera could not do what was asked. The text says what was tried, on what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraError {
    /// What went wrong, for decisions.
    pub kind: ErrorKind,
    /// What went wrong, for people.
    pub message: String,
}

/// Kinds of failure that are treated differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such camera, or it is gone.
    Absent,
    /// It is there, but cannot be used as asked.
    Refused,
    /// The bus cannot carry it.
    Bandwidth,
    /// It was being used and failed.
    Failed,
    /// Others have it first, for this long.
    Busy(Duration),
}

/// A time in which pictures are wanted and none come.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// The last picture before it, or the moment when pictures were wanted.
    pub since: Stamp,
    /// Why the latest attempt to get pictures failed; `None` before it has.
    pub cause: Option<ErrorKind>,
}

impl CameraError {
    /// An error of this kind with its text.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for CameraError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CameraError {}
