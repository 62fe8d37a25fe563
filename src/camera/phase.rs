//! What a camera is doing, and what has been learned about it.

use std::time::Duration;

/// What the camera is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nobody wants pictures; the camera is closed on purpose.
    Asleep,
    /// Opened or about to be; no picture yet.
    #[default]
    Starting,
    /// Pictures come.
    Live,
    /// No pictures can be had; the text says why and what to do.
    Lost(String),
}

impl Phase {
    /// The names of all phases; see [`Phase::name`].
    pub const NAMES: [&str; 4] = ["asleep", "starting", "live", "lost"];

    /// One word, for programs.
    pub fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Asleep => 0,
            Self::Starting => 1,
            Self::Live => 2,
            Self::Lost(_) => 3,
        }]
    }
}

/// What is known about a camera from its pictures and stills, for decisions and for `/state`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Learned {
    /// Mean luma of the last settled picture.
    pub luma: Option<f32>,
    /// How long the live stream took for its first picture when it was started last.
    pub first: Option<Duration>,
    /// Running mean of the time that a switch takes, with its first whole picture.
    pub switch: Option<Duration>,
    /// Running mean of the time from there to the settled picture.
    pub settle: Option<Duration>,
    /// How long the live stream was away for the last still; `None` before the first.
    pub pause: Option<Duration>,
}
