//! HTTP: from an accepted socket to an answer, one thread a connection.
//!
//! The accept loop and the request head are our own; `tiny_http` lends its vocabulary and prints ordinary answers.
//! Its `Server` must not face a network (ARCHITECTURE.md). Only this folder names it.

mod answer;
mod connection;
mod controls;
mod head;
mod listener;
mod metrics;
mod mjpg_streamer;
mod page;
mod places;
mod route;
mod snapshot;
mod state;
mod still;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use socket2::{SockAddr, Socket};
use tiny_http::{HTTPVersion, Method};

use self::answer::Answer;
use self::connection::Connection;
pub use self::controls::ControlAccess;
use self::head::{Head, HeadError, Requests};
pub use self::listener::{Listeners, clickable};
use self::places::{Kind, Place, Places};
use self::route::Route;
use crate::camera::capture::{Camera, Phase};
use crate::hub::Hub;

/// Streams end with a boundary and short answers are finished, if their clients read within this time.
const GRACE: Duration = Duration::from_millis(400);
/// For threads whose sockets were closed under them.
const FAREWELL: Duration = Duration::from_millis(200);

/// What every connection's thread shares.
pub struct App {
    /// Where the pictures come from.
    pub hub: Arc<Hub>,
    /// Whom to ask why there are none.
    pub camera: Arc<Camera>,
    places: Arc<Places>,
    settings: Settings,
    started_at: Instant,
}

/// How clients are to be answered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most streams at a time.
    pub max_clients: usize,
    /// What clients may do with the camera's controls.
    pub controls: ControlAccess,
    /// The `Server` header; `None` for framehub's own.
    pub server_header: Option<String>,
}

impl App {
    /// An HTTP side for this hub and camera.
    pub fn new(hub: Arc<Hub>, camera: Arc<Camera>, settings: Settings) -> Arc<Self> {
        let places = Places::new(settings.max_clients);
        Arc::new(Self { hub, camera, places, settings, started_at: Instant::now() })
    }

    /// The most descriptors and threads that clients can take.
    pub fn most_connections(&self) -> usize {
        self.places.most()
    }

    /// Ends all connections, the hub having been closed: politely for those who read, at once for the rest.
    pub fn close(&self) {
        self.places.close_waiting();
        if !self.places.wait_empty(Instant::now() + GRACE) {
            self.places.close_all();
            if !self.places.wait_empty(Instant::now() + FAREWELL) {
                warn!("some connections did not end in time");
            }
        }
    }

    /// A connection's thread.
    fn converse(&self, socket: Arc<Socket>, address: &SockAddr, mut place: Place) {
        let connection = match Connection::new(socket, address) {
            Ok(connection) => connection,
            // It was gone before its options could be set.
            Err(error) => return debug!("connection lost error=\"{error}\""),
        };
        let mut requests = Requests::new();
        loop {
            let head = requests.next(&connection);
            place.end_head();
            let goes_on = match head.and_then(|head| Ok((requests.body(&head, &connection)?, head))) {
                Ok((body, head)) => self.respond(&connection, &head, &body),
                Err(HeadError::Nothing) => return,
                Err(HeadError::Refused(status, why)) => {
                    debug!("request refused client={} status={status} reason=\"{why}\"", connection.peer());
                    // Whether it arrives changes nothing: the connection ends.
                    let _ = self.sign(Answer::text(status, why)).send(&connection, &HTTPVersion(1, 1), false, false);
                    false
                }
            };
            if !goes_on {
                return connection.linger();
            }
            place.begin_head();
        }
    }

    /// Answers one request; `true` if the connection can take another.
    fn respond(&self, connection: &Connection, head: &Head, body: &[u8]) -> bool {
        let is_head = head.method == Method::Head;
        let keep = head.keeps_alive();
        let say = |answer: Answer| self.sign(answer).send(connection, &head.version, is_head, keep).is_ok() && keep;
        let Some((route, query)) = Route::decode(&head.target) else {
            return say(Answer::text(404, "there is nothing here; / shows what there is"));
        };
        match &head.method {
            Method::Options => return say(preflight(route)),
            Method::NonStandard(_) => return say(Answer::text(501, "this method is not known here")),
            method if !route.methods().split(", ").any(|known| known == method.as_str()) => {
                return say(Answer::text(405, "this method is not for this URL").with("Allow", route.methods()));
            }
            _ => {}
        }
        if let Some(refusal) = self.refuse(route, &head.method) {
            return say(refusal);
        }
        let kind = if route == Route::Stream { Kind::Stream } else { Kind::Short };
        let Some(_permit) = self.places.take(kind) else {
            return say(Answer::unavailable("all places are taken (see --max-clients)"));
        };
        match route {
            Route::Stream => {
                stream::serve(self, connection, &head.method);
                false
            }
            Route::Snapshot => say(either(snapshot::answer(self, &query))),
            Route::Still => say(either(still::answer(self, &query))),
            Route::Warm => say(either(still::warm(self, &query))),
            Route::Page | Route::Style | Route::Script | Route::Favicon => say(page::answer(route)),
            Route::Controls => say(controls::answer(self, &head.method, &query, body)),
            Route::InputJson => say(mjpg_streamer::input(self)),
            Route::ProgramJson => say(mjpg_streamer::program(self)),
            Route::Command => say(mjpg_streamer::command(self, &query)),
            Route::State => say(state::answer(self)),
            Route::Metrics => say(metrics::answer(self)),
            Route::Health => say(self.health()),
        }
    }

    /// Why this client may not have what it asks for, if so: the one place for all such questions.
    fn refuse(&self, route: Route, method: &Method) -> Option<Answer> {
        let changes = route.changes_something(method);
        let access = self.settings.controls;
        match route {
            Route::Controls => access.refuses(changes).map(|why| Answer::text(403, why)),
            // What mjpg-streamer says when it is not to take commands.
            Route::Command | Route::InputJson => access.refuses(changes).map(|why| Answer::text(501, why)),
            _ => None,
        }
    }

    /// Puts our name, or the one that was asked for, on an answer.
    fn sign(&self, answer: Answer) -> Answer {
        match &self.settings.server_header {
            Some(name) => answer.with("Server", name),
            None => answer,
        }
    }

    /// 200 while pictures can be had, or the camera is asleep on purpose.
    fn health(&self) -> Answer {
        match self.camera.trouble() {
            Some(why) => Answer::unavailable(why),
            None if self.camera.status().phase == Phase::Asleep => {
                Answer::text(200, "ok: the camera is asleep until somebody looks")
            }
            None => Answer::text(200, "ok"),
        }
    }
}

/// What came first: the answer, or the reason why there is none.
fn either(answer: Result<Answer, Answer>) -> Answer {
    answer.unwrap_or_else(|refusal| refusal)
}

/// The answer to OPTIONS, a browser's question before a cross-origin request.
fn preflight(route: Route) -> Answer {
    Answer::text(200, route.methods())
        .with("Allow", route.methods())
        .with("Access-Control-Allow-Methods", route.methods())
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, Cache-Control, Pragma")
        .with("Access-Control-Max-Age", "86400")
}
