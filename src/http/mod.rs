//! HTTP: from an accepted socket to a response, one thread a connection.
//!
//! The accept loop and the request head are our own; `tiny_http` lends its vocabulary and prints ordinary responses.
//! Its `Server` must not face a network (ARCHITECTURE.md). Only this folder names it.

pub(crate) mod access;
mod delivery;
mod endpoints;
mod exchange;
mod response;
mod route;
pub(crate) mod server;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
use socket2::SockAddr;
use tiny_http::Method;

pub use self::access::Access;
pub use self::access::credentials::{Credentials, Right};
pub use self::access::forwarded::Proxy;
pub use self::access::origins::{Sites, parse_origin};
use self::access::{Gate, Refusal};
use self::delivery::Delivery;
pub use self::delivery::DeliveryMode;
use self::endpoints::clip::ClipMemory;
pub use self::endpoints::controls::ControlAccess;
use self::endpoints::{clip, controls, figures, octolapse, page, picture, stream};
use self::exchange::Exchange;
use self::response::Response;
use self::route::{Effect, Query, Route};
use self::server::connection::Connection;
use self::server::head::{Head, HeadError, Requests};
use self::server::limits::{Limits, Permit};
pub use self::server::listener::{DEFAULT_ADDRESS, Listen, Listeners, Passed, lan_addresses};
use crate::camera::controls::Panel;
use crate::camera::session::{Phase, Session};
use crate::camera::still::Stills;
use crate::hub::lockstep::LockstepGroup;
use crate::hub::ring::SharedRing;

/// Streams end with a boundary and short answers are finished, if their clients read within this time.
const GRACE: Duration = Duration::from_millis(400);
/// For threads whose sockets were closed under them.
const FAREWELL: Duration = Duration::from_millis(200);

/// What every connection's thread shares.
pub struct App {
    parts: Parts,
    limits: Arc<Limits>,
    clips: ClipMemory,
    settings: Settings,
    gate: Gate,
    started_at: Instant,
}

/// What requests are served from.
pub struct Parts {
    /// The camera and its hub.
    pub session: Arc<Session>,
    /// Full-resolution pictures.
    pub stills: Arc<Stills>,
    /// The camera's controls.
    pub panel: Arc<Panel>,
    /// All frames in order, and the replay.
    pub ring: Arc<SharedRing>,
    /// The viewers in lock-step.
    pub lockstep: Arc<LockstepGroup>,
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
    pub mode: DeliveryMode,
}

impl App {
    /// An HTTP side for these parts.
    pub fn new(parts: Parts, mut settings: Settings) -> Arc<Self> {
        let gate = Gate::new(std::mem::take(&mut settings.access));
        let limits = Limits::new(settings.admission.max_clients, settings.admission.max_per_address);
        let clips = ClipMemory::new(parts.ring.limit());
        Arc::new(Self { parts, limits, clips, settings, gate, started_at: Instant::now() })
    }

    /// How many viewers there are now.
    pub fn viewers(&self) -> usize {
        self.limits.viewers().present.len()
    }

    /// Serves those who connect to these listeners until `stop` becomes readable or is closed at its other end.
    pub fn serve(self: &Arc<Self>, listeners: &Listeners, stop: BorrowedFd<'_>) -> io::Result<()> {
        let app = self.clone();
        let serve = move |address: &_, permit| app.serve_connection(address, &permit);
        listeners.serve(&self.limits, &Arc::new(serve), stop)
    }

    /// The most descriptors and threads that clients can take.
    pub fn most_connections(&self) -> usize {
        self.limits.max_connections()
    }

    /// Ends all connections, the hub having been closed: politely for those who read, at once for the rest.
    pub fn close(&self) {
        self.limits.close_idle();
        if !self.limits.wait_empty(Instant::now() + GRACE) {
            self.limits.close_all();
            if !self.limits.wait_empty(Instant::now() + FAREWELL) {
                warn!("some connections did not end in time");
            }
        }
    }

    /// What a connection's thread does.
    fn serve_connection(&self, address: &SockAddr, permit: &Permit) {
        let mut connection = match Connection::new(permit.link().clone(), address) {
            Ok(connection) => connection,
            // It was gone before its options could be set.
            Err(error) => return debug!("connection lost error=\"{error}\""),
        };
        let mut requests = Requests::new();
        loop {
            let request = requests.next(&connection).and_then(|head| Ok((requests.body(&head, &connection)?, head)));
            let is_kept = match request {
                Ok((body, head)) => {
                    connection.set_client(self.gate.client(connection.address(), &head));
                    self.respond(&connection, permit, &head, &body)
                }
                Err(HeadError::Nothing) => return,
                Err(HeadError::Refused(status, why)) => {
                    let head = Head::unread();
                    debug!("request refused client={} status={status} reason=\"{why}\"", connection.peer());
                    let exchange = self.exchange(&connection, permit, &head);
                    permit.begin_response() && exchange.respond(Response::text(status, why))
                }
            };
            if !is_kept || !permit.expect_request() {
                permit.close();
                return connection.linger();
            }
        }
    }

    /// Responds to one request; `true` if the connection can take another.
    fn respond(&self, connection: &Connection, permit: &Permit, head: &Head, body: &[u8]) -> bool {
        let mut exchange = self.exchange(connection, permit, head);
        let admitted = self.admit(&mut exchange);
        if !permit.begin_response() {
            return false;
        }
        match admitted {
            Ok((route, is_stranger)) => self.dispatch(&exchange, route, is_stranger, body),
            Err(response) => exchange.respond(response),
        }
    }

    /// What the request asks for, and whether it comes from a stranger to whom only that is open; or the response that
    /// it may not have it.
    fn admit<'a>(&self, exchange: &mut Exchange<'a>) -> Result<(Route, bool), Response> {
        let head = exchange.head;
        if head.method == Method::Options && head.target == "*" {
            return Err(preflight(Route::Page));
        }
        let Some((route, query)) = Route::decode(&head.target) else {
            return Err(Response::text(404, "not found: / shows what there is"));
        };
        exchange.query = query;
        match &head.method {
            Method::Options => return Err(preflight(route)),
            Method::NonStandard(_) => return Err(Response::text(501, "unknown method")),
            method if !route.methods().split(", ").any(|known| known == method.as_str()) => {
                let response = Response::text(405, "this URL does not take this method");
                return Err(response.with("Allow", route.methods()));
            }
            _ => {}
        }
        let is_stranger = match self.gate.admit(route, head, &query) {
            Ok(is_stranger) => is_stranger,
            Err(Refusal::Wrong(response)) => {
                self.gate.count_wrong(exchange.connection.peer());
                exchange.permit.pause(access::PENALTY);
                return Err(response);
            }
            Err(Refusal::Other(response)) => return Err(response),
        };
        match self.refuse(route, route.effect(&head.method)) {
            Some(refusal) => Err(refusal),
            None => Ok((route, is_stranger)),
        }
    }

    /// Responds to a request that may be fulfilled.
    fn dispatch(&self, exchange: &Exchange<'_>, route: Route, is_stranger: bool, body: &[u8]) -> bool {
        let query = &exchange.query;
        let Parts { session, stills, panel, ring, .. } = &self.parts;
        let response = match route {
            Route::Stream => match self.stream(exchange) {
                Ok(()) => return false,
                Err(refusal) => Err(refusal),
            },
            Route::Clip => match clip::respond(exchange, ring, session.hub(), &self.clips) {
                Ok(()) => return false,
                Err(refusal) => Err(refusal),
            },
            Route::ClipIndex => Ok(clip::index(ring, query)),
            Route::Snapshot => picture::snapshot(exchange, session),
            Route::Still => picture::still(exchange, stills),
            Route::Warm => picture::warm(session.hub(), query),
            Route::Page | Route::Style | Route::Script | Route::Favicon => Ok(page::respond(route)),
            Route::Controls => Ok(controls::respond(panel, &exchange.head.method, query, body)),
            Route::InputJson => Ok(octolapse::input(panel, session)),
            Route::ProgramJson => Ok(octolapse::program(session)),
            Route::Command => Ok(octolapse::command(panel, query)),
            Route::State => Ok(figures::state(&self.figures())),
            Route::Metrics => Ok(figures::metrics(&self.figures())),
            Route::Health => Ok(self.health(is_stranger)),
        };
        exchange.respond(response.unwrap_or_else(|refusal| refusal))
    }

    fn stream(&self, exchange: &Exchange<'_>) -> Result<(), Response> {
        let Parts { session, ring, lockstep, .. } = &self.parts;
        let delivery = Delivery::from_query(&exchange.query, self.settings.admission.mode);
        let delivery = delivery.map_err(|why| Response::text(400, why))?;
        let sources = delivery::Sources { hub: session.hub(), ring, lockstep };
        stream::respond(exchange, session, delivery.mode_name(), || delivery.feed(&sources))
    }

    fn exchange<'a>(&'a self, connection: &'a Connection, permit: &'a Permit, head: &'a Head) -> Exchange<'a> {
        Exchange {
            connection,
            permit,
            head,
            query: Query::new(""),
            server_header: self.settings.server_header.as_deref(),
            cors: self.gate.cors(head),
        }
    }

    fn figures(&self) -> figures::Sources<'_> {
        figures::Sources {
            session: &self.parts.session,
            stills: &self.parts.stills,
            ring: &self.parts.ring,
            limits: &self.limits,
            modes: &["newest", "all", "lockstep", "clip"],
            controls: self.settings.controls.name(),
            started_at: self.started_at,
            wrong_credentials: self.gate.wrong(),
        }
    }

    /// What nobody may have here.
    fn refuse(&self, route: Route, effect: Effect) -> Option<Response> {
        let changes = effect == Effect::Write;
        match route {
            Route::Controls => self.settings.controls.refuses(changes).map(|why| Response::text(403, why)),
            // What mjpg-streamer says when it is not to take commands.
            Route::Command | Route::InputJson => {
                self.settings.controls.refuses(changes).map(|why| Response::text(501, why))
            }
            _ => None,
        }
    }

    /// 200 while pictures can be had, or the camera is asleep on purpose. Strangers are not told why.
    fn health(&self, is_stranger: bool) -> Response {
        match self.parts.session.health_problem() {
            Some(_) if is_stranger => Response::unavailable("no pictures now; who may look is told why"),
            Some(why) => Response::unavailable(why),
            None if self.parts.session.status().phase == Phase::Asleep => {
                Response::text(200, "ok: the camera is asleep until somebody looks")
            }
            None => Response::text(200, "ok"),
        }
    }
}

/// The response to OPTIONS, a browser's question before a cross-origin request.
fn preflight(route: Route) -> Response {
    Response::text(200, route.methods())
        .with("Allow", route.methods())
        .with("Access-Control-Allow-Methods", route.methods())
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, Cache-Control, Pragma")
        .with("Access-Control-Max-Age", "86400")
}
