//! Stills that do not come from the camera's own stream: from another server, or from a command that has the camera to
//! itself for that time.

use std::time::{Duration, Instant};

use super::Address;
use super::command::Run;
use super::device::{Input, failed};
use super::http::{Basic, Url};
use super::relay::Relay;
use crate::camera::elsewhere::Elsewhere;
use crate::camera::{CameraError, RawFrame};

/// Longest wait before it is looked again whether to go on.
const TICK: Duration = Duration::from_millis(250);

/// What takes stills in place of the camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StillAddress {
    /// A server that sends one.
    Http(Url, Option<Basic>),
    /// A command that prints one, while the live stream rests.
    Command(String),
}

impl StillAddress {
    /// Reads a value of `--still-url`.
    ///
    /// # Errors
    /// What was expected.
    pub fn from_url(text: &str) -> Result<Self, String> {
        match Address::from_text(text) {
            Some(Ok(Address::Http(url, basic))) => Ok(Self::Http(url, basic)),
            Some(Err(why)) => Err(why),
            _ => Err("expected http://HOST[:PORT]/PATH".into()),
        }
    }

    /// Uses this user and password for a server whose address has none, if it is the server of the live stream too, or
    /// the only one.
    pub fn add_credentials(&mut self, user: &str, password: &str, live: Option<&Url>) {
        if let Self::Http(url, basic @ None) = self
            && live.is_none_or(|live| live.authority() == url.authority())
        {
            *basic = Some(Basic::new(user, password));
        }
    }
}

impl Elsewhere for StillAddress {
    fn is_exclusive(&self) -> bool {
        matches!(self, Self::Command(_))
    }

    fn take(
        &self,
        deadline: Instant,
        go_on: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(RawFrame<'_>),
    ) -> Result<bool, CameraError> {
        match self {
            Self::Http(url, basic) => {
                let mut relay = Relay::new(url.clone(), basic.clone(), None);
                first(&mut relay, deadline, go_on, sink)?;
                Ok(relay.is_settled)
            }
            Self::Command(command) => {
                first(&mut Run::start(command)?, deadline, go_on, sink)?;
                // It decides itself when the picture is right.
                Ok(true)
            }
        }
    }
}

fn first(
    input: &mut dyn Input,
    deadline: Instant,
    go_on: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(RawFrame<'_>),
) -> Result<(), CameraError> {
    while go_on() && Instant::now() < deadline {
        if input.wait(deadline.min(Instant::now() + TICK))? {
            sink(input.picture());
            return Ok(());
        }
    }
    Err(failed("no picture came within --still-deadline"))
}
