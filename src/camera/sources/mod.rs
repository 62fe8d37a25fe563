//! Cameras that are no V4L2 device: another server, a command, a recording. All of them are streams of bytes with pictures
//! in them, and one device stands for all.
//!
//! None has a size that could be asked for ([`Size::UNKNOWN`](crate::frame::Size::UNKNOWN)), and a still is a picture of
//! the stream, or comes from elsewhere ([`stills`]). Waiting for a picture is what reads the bytes, on the thread that
//! waits.

pub mod command;
mod device;
pub mod http;
pub mod relay;
pub mod replay;
pub mod splitter;
pub mod stills;

use self::command::CommandSource;
pub use self::device::without_credentials;
use self::http::{Basic, Url};
use self::relay::RelaySource;
use self::replay::PathSource;
use super::Source;

/// Where pictures come from, if not from a V4L2 device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Another server.
    Http(Url, Option<Basic>),
    /// The standard output of a command.
    Command(String),
    /// Standard input.
    Input,
}

impl Address {
    /// Reads a value of `--device` that names one; `None` for others.
    pub fn from_text(text: &str) -> Option<Result<Self, String>> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("exec", "") => Some(Err("expected exec:COMMAND, such as exec:rpicam-vid -t 0 --codec mjpeg -o -".into())),
            ("exec", command) => Some(Ok(Self::Command(command.into()))),
            ("-", "") => Some(Ok(Self::Input)),
            (scheme, rest) if rest.starts_with("//") => {
                Some(Url::parse(scheme, text).map(|(url, basic)| Self::Http(url, basic)))
            }
            _ => None,
        }
    }

    /// Uses this user and password for a server whose address has none.
    pub fn add_credentials(&mut self, user: &str, password: &str) {
        if let Self::Http(_, basic @ None) = self {
            *basic = Some(Basic::new(user, password));
        }
    }

    /// The camera there, not open yet.
    pub fn source(&self) -> Box<dyn Source> {
        match self {
            Self::Http(url, basic) => Box::new(RelaySource::new(url.clone(), basic.clone())),
            Self::Command(command) => Box::new(CommandSource::new(Some(command.clone()))),
            // It may be a file.
            Self::Input => Box::new(PathSource::new("/dev/stdin".into(), Box::new(CommandSource::new(None)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_cameras() {
        for (text, expected) in [
            ("exec:a b", Some(true)),
            ("exec:", Some(false)),
            ("-", Some(true)),
            ("http://host/", Some(true)),
            ("https://host/", Some(false)),
            ("rtsp://host/", Some(false)),
            ("auto", None),
            ("name:C920", None),
            ("/dev/video0", None),
            ("", None),
        ] {
            assert_eq!(Address::from_text(text).map(|address| address.is_ok()), expected, "{text}");
        }
    }
}
