//! Which feed a viewer gets: the parameters `mode`, `fps`, `from`, `last` and `no_signal` of `/stream`. This is wiring: it
//! names the features that feed viewers.

use std::str::FromStr;
use std::sync::Arc;

use crate::camera::no_signal::{NoSignal, NoSignalFeed};
use crate::http::route::Query;
use crate::hub::lockstep::LockstepGroup;
use crate::hub::pace::{Pace, parse_rate, parse_time};
use crate::hub::ring::{SharedRing, Start};
use crate::hub::{Feed, Hub, NewestFeed};
use crate::system::os;

/// How frames are chosen for a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeliveryMode {
    /// The newest frame whenever the viewer is ready.
    #[default]
    Newest,
    /// Every frame, in order.
    All,
    /// The same frames as all others in this mode; the slowest sets the pace.
    Lockstep,
}

impl DeliveryMode {
    /// The mode's name in options, URLs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::All => "all",
            Self::Lockstep => "lockstep",
        }
    }
}

impl FromStr for DeliveryMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Newest, Self::All, Self::Lockstep].into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("invalid mode \"{text}\": expected newest, all or lockstep"))
    }
}

/// Where feeds get their frames.
pub struct Sources<'a> {
    /// The newest frame.
    pub hub: &'a Arc<Hub>,
    /// All frames in order.
    pub ring: &'a Arc<SharedRing>,
    /// The viewers in lock-step.
    pub lockstep: &'a Arc<LockstepGroup>,
    /// The picture that says why there is none.
    pub no_signal: &'a Arc<NoSignal>,
}

/// What a viewer asks for.
#[derive(Debug)]
pub struct Delivery {
    mode: DeliveryMode,
    pace: Option<Pace>,
    start: Start,
    has_no_signal: bool,
}

impl Delivery {
    /// Reads the parameters of a request. `mode` and `has_no_signal` are for viewers that do not say.
    ///
    /// # Errors
    /// In words, when they are invalid or contradict each other.
    pub fn from_query(query: &Query<'_>, mode: DeliveryMode, has_no_signal: bool) -> Result<Self, String> {
        let mode = query.get("mode").map_or(Ok(mode), |text| text.parse())?;
        let has_no_signal = wants_no_signal(query, has_no_signal)?;
        let pace = query.get("fps").map(|text| parse_rate(&text).map(Pace::new)).transpose()?;
        let start = match (query.get("from"), query.get("last")) {
            (None, None) => None,
            (Some(text), None) => {
                let invalid = |_| format!("invalid from \"{text}\": expected a frame's number (X-Frame-Seq)");
                Some(Start::At(text.parse().map_err(invalid)?))
            }
            (None, Some(text)) => Some(Start::Since(os::monotonic().saturating_sub(parse_time(&text)?))),
            (Some(_), Some(_)) => return Err("expected from or last, not both".into()),
        };
        if pace.is_some() && mode != DeliveryMode::Newest {
            return Err("fps thins a stream, so it goes with mode=newest only".into());
        }
        if start.is_some() && mode != DeliveryMode::All {
            return Err("from and last begin in the past, so they go with mode=all only".into());
        }
        Ok(Self { mode, pace, start: start.unwrap_or(Start::Next), has_no_signal })
    }

    /// The name of the mode.
    pub fn mode_name(&self) -> &'static str {
        self.mode.name()
    }

    /// The feed of this viewer.
    ///
    /// # Errors
    /// In words, when it is to begin in the future.
    pub fn feed(self, sources: &Sources<'_>) -> Result<Box<dyn Feed>, String> {
        let newest = |pace| NewestFeed::new(sources.hub.clone(), pace);
        Ok(match self.mode {
            DeliveryMode::Newest if self.has_no_signal => {
                Box::new(NoSignalFeed::new(newest(self.pace), sources.no_signal.clone()))
            }
            DeliveryMode::Newest => Box::new(newest(self.pace)),
            DeliveryMode::All => Box::new(sources.ring.read_all(sources.hub, self.start).map_err(|newest| {
                format!("from lies ahead of the newest frame, {newest}; the server counts from 1 after a restart")
            })?),
            DeliveryMode::Lockstep => Box::new(sources.lockstep.join_lockstep()),
        })
    }
}

/// Whether a client wants the picture that says why there is none; `default` is for those that do not say.
///
/// # Errors
/// In words, when the parameter is invalid.
pub fn wants_no_signal(query: &Query<'_>, default: bool) -> Result<bool, String> {
    match query.get("no_signal").as_deref() {
        None => Ok(default),
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(text) => Err(format!("invalid no_signal \"{text}\": expected 0 or 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route::Route;

    #[test]
    fn modes_have_names() {
        for mode in [DeliveryMode::Newest, DeliveryMode::All, DeliveryMode::Lockstep] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("latest".parse::<DeliveryMode>().unwrap_err().contains("lockstep"));
    }

    fn delivery(query: &str, default: DeliveryMode) -> Result<Delivery, String> {
        let target = format!("/stream?{query}");
        let (_, query) = Route::decode(&target).unwrap();
        Delivery::from_query(&query, default, true)
    }

    #[test]
    fn parameters_choose_mode_rate_and_start() {
        for (query, default, mode, is_thinned, start) in [
            ("", DeliveryMode::Newest, DeliveryMode::Newest, false, Start::Next),
            ("1700000000&bypassCache=1", DeliveryMode::All, DeliveryMode::All, false, Start::Next),
            ("mode=newest&fps=5", DeliveryMode::All, DeliveryMode::Newest, true, Start::Next),
            ("fps=0.5", DeliveryMode::Newest, DeliveryMode::Newest, true, Start::Next),
            ("mode=all&from=17", DeliveryMode::Newest, DeliveryMode::All, false, Start::At(17)),
            ("mode=lockstep", DeliveryMode::Newest, DeliveryMode::Lockstep, false, Start::Next),
        ] {
            let delivery = delivery(query, default).unwrap();
            assert_eq!((delivery.mode, delivery.pace.is_some(), delivery.start), (mode, is_thinned, start), "{query}");
        }
        assert!(matches!(delivery("mode=all&last=20s", DeliveryMode::Newest).unwrap().start, Start::Since(_)));
    }

    #[test]
    fn wrong_parameters_are_told_in_words() {
        for (query, words) in [
            ("mode=latest", "newest, all or lockstep"),
            ("mode=", "newest, all or lockstep"),
            ("fps=0", "0.1 to 1000"),
            ("fps=", "0.1 to 1000"),
            ("fps=fast", "0.1 to 1000"),
            ("mode=all&fps=5", "mode=newest"),
            ("mode=lockstep&fps=5", "mode=newest"),
            ("from=3", "mode=all"),
            ("last=3s", "mode=all"),
            ("mode=all&from=-3", "X-Frame-Seq"),
            ("mode=all&last=soon", "seconds"),
            ("mode=all&from=3&last=3s", "not both"),
            ("no_signal=none", "0 or 1"),
        ] {
            let why = delivery(query, DeliveryMode::Newest).unwrap_err();
            assert!(why.contains(words), "{query}: {why}");
        }
    }
}
