//! HTTP: from an accepted socket to a response, with one thread for each connection.
//!
//! The accept loop and the request head are our own. `tiny_http` provides types and prints ordinary responses; its
//! `Server` must not face a network (ARCHITECTURE.md). Only this folder uses it.

pub(crate) mod access;
pub(crate) mod delivery;
pub(crate) mod endpoints;
mod exchange;
mod response;
pub(crate) mod route;
pub(crate) mod server;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, warn};
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
use self::server::limits::{self, Limits, Permit};
pub use self::server::listener::{DEFAULT_ADDRESS, Listen, Listeners, Passed, lan_addresses};
use crate::camera::controls::Panel;
use crate::camera::no_signal::NoSignal;
use crate::camera::session::{Phase, Session};
use crate::camera::still::Stills;
use crate::hub::lockstep::LockstepGroup;
use crate::hub::ring::SharedRing;

/// When the server stops, clients that read within this time receive the end of their stream or response.
const GRACE: Duration = Duration::from_millis(400);
/// How long the server waits for threads whose sockets it has closed.
const FAREWELL: Duration = Duration::from_millis(200);

/// What all connections share.
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
    /// The picture that says why there is none.
    pub no_signal: Arc<NoSignal>,
}

/// Settings of the HTTP side.
pub struct Settings {
    /// Viewer limits and the default delivery mode.
    pub admission: Admission,
    /// What clients may do with the camera's controls.
    pub controls: ControlAccess,
    /// The `Server` header; `None` for framehub's own.
    pub server_header: Option<String>,
    /// Access control.
    pub access: Access,
}

/// Viewer limits and the default delivery mode.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Maximum number of viewers.
    pub max_clients: usize,
    /// Maximum number of viewers with one address; `None` for no such limit.
    pub max_per_address: Option<usize>,
    /// The mode of viewers that name none.
    pub mode: DeliveryMode,
    /// Whether viewers that do not say get a picture that says why there is none.
    pub has_no_signal: bool,
    /// Bytes of all responses that are being sent.
    pub response_memory: usize,
}

impl App {
    /// An HTTP side that serves from these parts.
    pub fn new(parts: Parts, mut settings: Settings) -> Arc<Self> {
        let gate = Gate::new(std::mem::take(&mut settings.access));
        let Admission { max_clients, max_per_address, response_memory, .. } = settings.admission;
        let has_known = gate.has_credentials();
        let limits = Limits::new(limits::Sizes { max_clients, max_per_address, has_known, response_memory });
        let clips = ClipMemory::new(parts.ring.settings.memory);
        Arc::new(Self { parts, limits, clips, settings, gate, started_at: Instant::now() })
    }

    /// How many viewers there are now.
    pub fn viewers(&self) -> usize {
        self.limits.viewers().present.len()
    }

    /// Serves the clients of these listeners until `stop` becomes readable or its other end is closed.
    pub fn serve(self: &Arc<Self>, listeners: &Listeners, stop: BorrowedFd<'_>) -> io::Result<()> {
        let app = self.clone();
        let serve = move |permit| app.serve_connection(&permit);
        listeners.serve(&self.limits, &Arc::new(serve), stop)
    }

    /// Maximum number of connections, each of which takes a descriptor and a thread.
    pub fn most_connections(&self) -> usize {
        self.limits.max_connections()
    }

    /// Ends all connections after the hub was closed. Clients that read receive the end of their response first.
    pub fn close(&self) {
        self.limits.close_idle();
        if !self.limits.wait_empty(Instant::now() + GRACE) {
            self.limits.close_all();
            if !self.limits.wait_empty(Instant::now() + FAREWELL) {
                warn!("some connections did not end in time");
            }
        }
    }

    /// Serves one connection, on its own thread.
    fn serve_connection(&self, permit: &Permit) {
        let mut connection = match Connection::new(permit.link().clone()) {
            Ok(connection) => connection,
            // The client left before the options could be set.
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
                    permit.begin_response(connection.client(), false) && exchange.respond(Response::text(status, why))
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
        let is_known = self.gate.has_credentials() && matches!(admitted, Ok((_, false)));
        if !permit.begin_response(connection.client(), is_known) {
            return false;
        }
        match admitted {
            Ok((route, is_stranger)) => self.dispatch(&exchange, route, is_stranger, body),
            Err(response) => exchange.respond(response),
        }
    }

    /// Finds out what the request asks for, and whether it comes from a stranger, which has shown no credential.
    ///
    /// # Errors
    /// The response to a request that is refused.
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

    /// Responds to a request that is not refused; `true` if the connection can take another.
    fn dispatch(&self, exchange: &Exchange<'_>, route: Route, is_stranger: bool, body: &[u8]) -> bool {
        let query = &exchange.query;
        let Parts { session, stills, panel, ring, .. } = &self.parts;
        let response = match route {
            _ if exchange.is_head() && route.uses_camera() => Ok(self.head(route)),
            Route::Stream => match self.stream(exchange) {
                Ok(()) => return false,
                Err(refusal) => Err(refusal),
            },
            Route::Clip => match clip::respond(exchange, ring, &session.hub, &self.clips, picture::camera(session)) {
                Ok(()) => return false,
                Err(refusal) => Err(refusal),
            },
            Route::ClipIndex => Ok(clip::index(ring, query, picture::camera(session))),
            Route::Snapshot => picture::snapshot(exchange, session).map_err(|refusal| self.shown(exchange, refusal)),
            Route::Still => picture::still(exchange, session, stills),
            Route::Warm => picture::warm(&session.hub, query),
            Route::Page | Route::Style | Route::Script | Route::Favicon => {
                Ok(page::respond(route, self.gate.named_origins()))
            }
            Route::OldPage => Ok(page::redirect(&exchange.head.target)),
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
        let Parts { session, ring, lockstep, no_signal, .. } = &self.parts;
        let Admission { mode, has_no_signal, .. } = self.settings.admission;
        let delivery = Delivery::from_query(&exchange.query, mode, has_no_signal);
        let delivery = delivery.map_err(|why| Response::text(400, why))?;
        let sources = delivery::Sources { hub: &session.hub, ring, lockstep, no_signal };
        stream::respond(exchange, session, delivery.mode_name(), || delivery.feed(&sources))
    }

    /// This refusal for an `<img>`, which is the only one to name pictures first in `Accept`: it shows a picture whatever the
    /// status is, so it says why, and Fluidd's player, which never tries again after one that is not shown, goes on.
    fn shown(&self, exchange: &Exchange<'_>, refusal: Response) -> Response {
        let is_img = exchange.head.field("Accept").is_some_and(|accept| accept.starts_with("image/"));
        let is_wanted = delivery::wants_no_signal(&exchange.query, self.settings.admission.has_no_signal) == Ok(true);
        let shows = is_img && is_wanted && refusal.status == 503;
        match shows.then(|| self.parts.no_signal.instead()).flatten() {
            Some(frame) => refusal.showing(frame).with("X-Framehub-No-Signal", "1"),
            None => refusal,
        }
    }

    /// The response to HEAD where GET would use the camera: what is known without it.
    fn head(&self, route: Route) -> Response {
        let session = &self.parts.session;
        match (route, session.health_problem(), session.hub.newest_captured()) {
            (Route::Controls | Route::InputJson, ..) => Response::head_only("application/json"),
            (_, Some(why), _) => Response::unavailable(why),
            (Route::Snapshot, None, Some(frame)) => Response::picture(frame, &picture::camera(session)),
            (Route::Warm, ..) => Response::head_only("text/plain; charset=utf-8"),
            _ => Response::head_only("image/jpeg"),
        }
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

    /// The response to a request for something that is disabled.
    fn refuse(&self, route: Route, effect: Effect) -> Option<Response> {
        let changes = effect == Effect::Write;
        match route {
            Route::Controls => self.settings.controls.refuses(changes).map(|why| Response::text(403, why)),
            // mjpg-streamer's status when commands are disabled.
            Route::Command | Route::InputJson => {
                self.settings.controls.refuses(changes).map(|why| Response::text(501, why))
            }
            _ => None,
        }
    }

    /// 200 while pictures are available or the camera sleeps on purpose, else 503. Strangers are not told the reason.
    fn health(&self, is_stranger: bool) -> Response {
        match self.parts.session.health_problem() {
            Some(_) if is_stranger => {
                Response::unavailable("no pictures now: the reason is told to clients with a credential")
            }
            Some(why) => Response::unavailable(why),
            None if self.parts.session.status().phase == Phase::Asleep => {
                Response::text(200, "ok: the camera is asleep until somebody looks")
            }
            None => Response::text(200, "ok"),
        }
    }
}

/// The response to OPTIONS, which browsers send before a cross-origin request.
fn preflight(route: Route) -> Response {
    Response::text(200, route.methods())
        .with("Allow", route.methods())
        .with("Access-Control-Allow-Methods", route.methods())
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, Cache-Control, Pragma")
        .with("Access-Control-Max-Age", "86400")
}
