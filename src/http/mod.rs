//! HTTP: from an accepted socket to an answer, one thread a connection.
//!
//! The accept loop and the request head are our own; `tiny_http` lends its vocabulary and prints ordinary answers.
//! Its `Server` must not face a network (ARCHITECTURE.md). Only this folder names it.

pub(crate) mod access;
mod endpoints;
mod response;
mod route;
pub(crate) mod server;

use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, warn};
use socket2::{SockAddr, Socket};
use tiny_http::{HTTPVersion, Method};

pub use self::access::Access;
pub use self::access::credentials::{Credentials, Right};
pub use self::access::forwarded::Proxy;
pub use self::access::origins::{Sites, parse_origin};
use self::access::{Gate, Refusal};
use self::endpoints::clip::ClipMemory;
pub use self::endpoints::controls::ControlAccess;
use self::endpoints::{clip, controls, metrics, octolapse, page, snapshot, state, still, stream};
use self::response::Answer;
use self::route::{Effect, Route};
pub use self::server::client::{ClientStats, End, Totals};
use self::server::connection::Connection;
use self::server::head::{Head, HeadError, Requests};
use self::server::limits::{Full, Place, Places, ViewerPermit};
pub use self::server::listener::{DEFAULT_ADDRESS, Listen, Listeners, Passed, clickable};
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
    clips: ClipMemory,
    settings: Settings,
    gate: Gate,
    started_at: Instant,
}

/// How clients are to be answered.
pub struct Settings {
    /// How many may look, and how they do if they do not say.
    pub admission: Admission,
    /// What clients may do with the camera's controls.
    pub controls: ControlAccess,
    /// The `Server` header; `None` for framehub's own.
    pub server_header: Option<String>,
    /// Who may come in.
    pub access: Access,
}

/// How many may look, and how they do if they do not say.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Most viewers at a time.
    pub max_clients: usize,
    /// Most of them from one address; `None` does not count them by address.
    pub max_per_address: Option<usize>,
    /// The mode of those who name none.
    pub mode: Mode,
}

impl App {
    /// An HTTP side for this hub and camera.
    pub fn new(hub: Arc<Hub>, camera: Arc<Camera>, mut settings: Settings) -> Arc<Self> {
        let gate = Gate::new(std::mem::take(&mut settings.access));
        let places = Places::new(settings.admission.max_clients, settings.admission.max_per_address);
        let clips = ClipMemory::new(hub.ring_holds().2);
        Arc::new(Self { hub, camera, places, clips, settings, gate, started_at: Instant::now() })
    }

    /// What is counted about every viewer that is here now.
    pub fn clients(&self) -> Vec<Arc<ClientStats>> {
        self.places.clients()
    }

    /// Sums over the viewers that have left.
    pub fn totals(&self) -> Totals {
        self.places.totals()
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
        let mut connection = match Connection::new(socket, address) {
            Ok(connection) => connection,
            // It was gone before its options could be set.
            Err(error) => return debug!("connection lost error=\"{error}\""),
        };
        let mut requests = Requests::new();
        loop {
            let request = requests.next(&connection).and_then(|head| Ok((requests.body(&head, &connection)?, head)));
            // Only now: one that owes us the rest of a body is as idle as one that owes us a head.
            place.end_head();
            let goes_on = match request {
                Ok((body, head)) => {
                    connection.speaks_for(self.gate.client(connection.address(), &head));
                    self.respond(&connection, &head, &body, &mut place)
                }
                Err(HeadError::Nothing) => return,
                Err(HeadError::Refused(status, why)) => {
                    debug!("request refused client={} status={status} reason=\"{why}\"", connection.peer());
                    // Whether it arrives changes nothing: the connection ends.
                    let answer = self.sign(Answer::text(status, why), None);
                    let _ = answer.send(&connection, &HTTPVersion(1, 1), false, false);
                    false
                }
            };
            // One that is only being seen out is as idle as one that owes us a head, and counts as such.
            place.begin_head();
            if !goes_on {
                return connection.linger();
            }
        }
    }

    /// Answers one request; `true` if the connection can take another.
    fn respond(&self, connection: &Connection, head: &Head, body: &[u8], place: &mut Place) -> bool {
        let is_head = head.method == Method::Head;
        let keep = head.keeps_alive();
        let say = |answer: Answer| {
            self.sign(answer, head.field("Origin")).send(connection, &head.version, is_head, keep).is_ok() && keep
        };
        if head.method == Method::Options && head.target == "*" {
            return say(preflight(Route::Page));
        }
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
        let effect = route.effect(&head.method);
        let refusal = self.gate.admit(effect, head, &query).err();
        let is_stranger = refusal.is_some();
        match refusal {
            Some(Refusal::Wrong(answer)) => {
                self.gate.count_wrong(connection.peer());
                // Who waits here is as idle as one who owes us a head, and as easily pushed out.
                place.begin_head();
                thread::sleep(access::PENALTY);
                place.end_head();
                return say(answer);
            }
            // What machines ask to find out whether we are well, browsers in any case, and our page without the token
            // that is in its own address. The page's files are no secret.
            Some(Refusal::Missing(_))
                if matches!(route, Route::Health | Route::Favicon | Route::Style | Route::Script) => {}
            Some(Refusal::Missing(answer) | Refusal::Other(answer)) => return say(answer),
            None => {}
        }
        if let Some(refusal) = self.refuse(route, effect) {
            return say(refusal);
        }
        match route {
            Route::Stream => return stream::answer(self, connection, head, &query).is_some_and(say),
            Route::Clip => return clip::answer(self, connection, head, &query).is_some_and(say),
            _ => {}
        }
        let Some(_permit) = self.places.take_short() else {
            return say(Answer::unavailable(Full::House.reason()));
        };
        match route {
            // Answered above: viewers have places of their own.
            Route::Stream | Route::Clip => false,
            Route::ClipIndex => say(clip::index(self, &query)),
            Route::Snapshot => say(either(snapshot::answer(self, &query))),
            Route::Still => say(either(still::answer(self, &query))),
            Route::Warm => say(either(still::warm(self, &query))),
            Route::Page | Route::Style | Route::Script | Route::Favicon => say(page::answer(route)),
            Route::Controls => say(controls::answer(self, &head.method, &query, body)),
            Route::InputJson => say(octolapse::input(self)),
            Route::ProgramJson => say(octolapse::program(self)),
            Route::Command => say(octolapse::command(self, &query)),
            Route::State => say(state::answer(self)),
            Route::Metrics => say(metrics::answer(self)),
            Route::Health => say(self.health(is_stranger)),
        }
    }

    /// What nobody may have here.
    fn refuse(&self, route: Route, effect: Effect) -> Option<Answer> {
        let changes = effect == Effect::Changes;
        match route {
            Route::Controls => self.settings.controls.refuses(changes).map(|why| Answer::text(403, why)),
            // What mjpg-streamer says when it is not to take commands.
            Route::Command | Route::InputJson => {
                self.settings.controls.refuses(changes).map(|why| Answer::text(501, why))
            }
            _ => None,
        }
    }

    /// Puts on an answer who we are, or who we were told to be, and which pages may read it.
    fn sign(&self, answer: Answer, origin: Option<&str>) -> Answer {
        let answer = match &self.settings.server_header {
            Some(name) => answer.with("Server", name),
            None => answer,
        };
        self.gate.cors(origin).into_iter().fold(answer, |answer, (name, value)| answer.with(name, value))
    }

    /// A viewer's place, or the answer that there is none.
    fn place_for(&self, connection: &Connection, head: &Head, mode: &'static str) -> Result<ViewerPermit, Answer> {
        let user_agent = head.field("User-Agent").unwrap_or_default();
        let place = self.places.take_viewer(connection, user_agent, mode);
        place.map_err(|full| Answer::unavailable(full.reason()))
    }

    /// 200 while pictures can be had, or the camera is asleep on purpose. Strangers are not told why.
    fn health(&self, is_stranger: bool) -> Answer {
        match self.camera.trouble() {
            Some(_) if is_stranger => Answer::unavailable("no pictures now; who may look is told why"),
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

/// How frames are chosen for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The newest one whenever the client is ready.
    #[default]
    Newest,
    /// Every one, in order.
    All,
    /// The same ones as all others in this mode; the slowest sets the pace.
    Lockstep,
}

impl Mode {
    /// As it is written in options, URLs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::All => "all",
            Self::Lockstep => "lockstep",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Newest, Self::All, Self::Lockstep].into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("\"{text}\" is no mode; give newest, all or lockstep"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in [Mode::Newest, Mode::All, Mode::Lockstep] {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert!("latest".parse::<Mode>().unwrap_err().contains("lockstep"));
    }
}
