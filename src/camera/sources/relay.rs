//! Pictures from another server: a stream, or one picture that is requested again and again.
//!
//! One connection, as long as somebody wants pictures. The response's type says which of the two it is.

use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::device::{Arrivals, Backoff, Input, SourceDevice, Started, failed};
use super::http::{Basic, Progress, Response, Url};
use crate::camera::{CameraError, Device, Mode, RawFrame, Source};

/// Requests per second for a picture where `--fps` does not say.
const POLLS: f64 = 5.0;
/// A connection on which nothing comes for this time, or no first picture, is given up, unless pictures are expected more
/// rarely. Less than the capture thread's patience, which knows less of the reason.
const SILENCE: Duration = Duration::from_secs(8);

/// Another server.
pub struct RelaySource {
    url: Url,
    basic: Option<Basic>,
    backoff: Arc<Backoff>,
}

impl RelaySource {
    /// The pictures at this address.
    pub fn new(url: Url, basic: Option<Basic>) -> Self {
        Self { url, basic, backoff: Arc::default() }
    }
}

impl Source for RelaySource {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        let (url, basic, backoff) = (self.url.clone(), self.basic.clone(), self.backoff.clone());
        let identity = [self.url.to_string(), self.url.authority(), "relay".into()];
        let begin = move |want: Mode| {
            backoff.begin();
            Ok::<Started, _>((want.fps, Box::new(Relay::new(url.clone(), basic.clone(), want.fps))))
        };
        Ok(SourceDevice::open(identity, begin))
    }

    fn retry(&self, failures: u32) -> Duration {
        self.backoff.left(failures)
    }
}

/// The pictures of one server, from the first request to the close of the connection.
pub struct Relay {
    url: Url,
    basic: Option<Basic>,
    /// Between two requests for a picture.
    period: Duration,
    silence: Duration,
    due: Instant,
    response: Option<Response>,
    /// The connection, between two requests.
    kept: Option<TcpStream>,
    /// When something came last.
    heard_at: Instant,
    /// When the first byte of this response came, as long as no picture did.
    waiting_since: Option<Instant>,
    arrivals: Arrivals,
    /// Whether the picture has settled, unless another framehub says that it has not.
    pub is_settled: bool,
}

impl Relay {
    /// Nothing is requested yet.
    pub fn new(url: Url, basic: Option<Basic>, fps: Option<f64>) -> Self {
        let period = Duration::from_secs_f64(1.0 / fps.unwrap_or(POLLS));
        let now = Instant::now();
        Self {
            arrivals: Arrivals::new(&url.to_string()),
            url,
            basic,
            period,
            silence: SILENCE.max(period * 3),
            due: now,
            response: None,
            kept: None,
            heard_at: now,
            waiting_since: None,
            is_settled: true,
        }
    }

    fn request(&mut self) -> Result<(), CameraError> {
        let response = Response::request(&self.url, self.basic.as_ref(), self.kept.take())?;
        let media_type = response.meta.media_type.as_str();
        if media_type.starts_with("text/") || media_type.contains("json") || media_type.ends_with("xml") {
            return Err(failed(format!(
                "{} is {media_type}, no picture: expected the address of a stream (multipart) or of a JPEG",
                self.url
            )));
        }
        self.arrivals.begin(response.meta.head);
        self.is_settled = response.meta.is_settled;
        self.response = Some(response);
        self.heard_at = Instant::now();
        self.waiting_since = Some(self.heard_at);
        Ok(())
    }

    /// Whether the response is one picture. Where its type does not say, one with a length is.
    fn is_single(&self) -> bool {
        let Some(Response { meta, .. }) = &self.response else { return false };
        match meta.media_type.split('/').next() {
            Some("multipart" | "video") => false,
            Some("image") => true,
            _ => meta.content_length.is_some(),
        }
    }

    /// A picture has come. Its response is over where it is the only one.
    fn arrived(&mut self) {
        self.waiting_since = None;
        if !self.is_single() {
            return;
        }
        self.kept = self.response.take().and_then(Response::keep);
        self.due = (self.due + self.period).max(Instant::now());
    }

    /// Why there is no picture in what came.
    fn no_picture(&self, what: &str) -> CameraError {
        let excerpt = self.arrivals.splitter.excerpt();
        let came = if self.waiting_since.is_none() || excerpt.is_empty() {
            String::new()
        } else {
            format!("; what came is no JPEG: \"{excerpt}\"")
        };
        failed(format!("{} {what}{came}", self.url))
    }

    /// Reads what comes by `deadline`; `false` if nothing did.
    fn read(&mut self, deadline: Instant) -> Result<bool, CameraError> {
        let Some(response) = &mut self.response else { return Ok(false) };
        let progress = response.read(deadline, |bytes| self.arrivals.splitter.push(bytes));
        let progress = progress.map_err(|error| self.no_picture(&format!("broke off: {error}")))?;
        match progress {
            Progress::Some => self.heard_at = Instant::now(),
            Progress::End if self.is_single() => return Err(self.no_picture("has no picture")),
            Progress::End => return Err(self.no_picture("has ended the stream")),
            Progress::Nothing if self.heard_at.elapsed() > self.silence => {
                return Err(self.no_picture(&format!("has sent nothing for {} s", self.silence.as_secs())));
            }
            Progress::Nothing => {}
        }
        if self.waiting_since.is_some_and(|since| since.elapsed() > self.silence) {
            return Err(self.no_picture(&format!("has sent no picture in {} s", self.silence.as_secs())));
        }
        Ok(progress == Progress::Some)
    }
}

impl Input for Relay {
    fn wait(&mut self, deadline: Instant) -> Result<bool, CameraError> {
        loop {
            if self.response.is_none() {
                thread::sleep(self.due.min(deadline).saturating_duration_since(Instant::now()));
                if self.due > Instant::now() {
                    return Ok(false);
                }
                self.request()?;
            }
            if self.arrivals.next()? {
                self.arrived();
                return Ok(true);
            }
            if !self.read(deadline)? {
                return Ok(false);
            }
        }
    }

    fn picture(&self) -> RawFrame<'_> {
        self.arrivals.picture()
    }
}
