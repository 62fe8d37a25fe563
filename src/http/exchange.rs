//! One request and the ways to respond to it.

use std::time::Instant;

use tiny_http::Method;

use super::response::Response;
use super::route::Query;
use super::server::connection::Connection;
use super::server::head::Head;
use super::server::limits::{Permit, Viewer, Waiting};

/// A request that is being served.
pub struct Exchange<'a> {
    /// The connection on which it was sent.
    pub connection: &'a Connection,
    /// The request's head.
    pub head: &'a Head,
    /// The parameters of its URL.
    pub query: Query<'a>,
    /// The `Server` header; `None` for framehub's own.
    pub server_header: Option<&'a str>,
    /// Header fields that tell a browser which pages may read the response.
    pub cors: Vec<(&'static str, String)>,
    /// The connection's permit.
    pub permit: &'a Permit,
}

impl Exchange<'_> {
    /// Whether only the response's head is wanted.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::Head
    }

    /// Sends this response; `true` if the connection can take another request.
    pub fn respond(&self, response: Response) -> bool {
        let keep = self.head.keeps_alive();
        let response = self.add_common_headers(response);
        let held = response.block().map(|block| self.permit.hold(block));
        let response = match held {
            Some(None) => &self
                .add_common_headers(Response::unavailable("too many pictures are being sent (see --response-memory)")),
            _ => &response,
        };
        response.send(self.connection, &self.head.version, self.is_head(), keep).is_ok() && keep
    }

    /// Adds the header fields that every response has.
    pub fn add_common_headers(&self, response: Response) -> Response {
        let response = self.cors.iter().fold(response, |response, (name, value)| response.with(name, value));
        match self.server_header {
            Some(name) => response.with("Server", name),
            None => response,
        }
    }

    /// Makes the client a viewer in this mode.
    ///
    /// # Errors
    /// The response for having no room.
    pub fn viewer(&self, mode: &'static str) -> Result<Viewer<'_>, Response> {
        let user_agent = self.head.field("User-Agent").unwrap_or_default();
        let viewer = self.permit.view(self.connection.peer(), user_agent, mode);
        viewer.map_err(|full| Response::unavailable(full.reason()))
    }

    /// Waits until this request may wait for the camera, perhaps for a still.
    ///
    /// # Errors
    /// The response for not having a turn before `deadline`.
    pub fn wait(&self, deadline: Instant, wants_still: bool) -> Result<Waiting<'_>, Response> {
        // A client that has closed its end may still read, but others want the place.
        let waiting = self.permit.wait(deadline, wants_still, || !self.connection.has_left());
        waiting.map_err(|full| Response::unavailable(full.reason()))
    }

    /// Whether the client is still there, to be asked while it waits for the camera. One that has closed its end may still
    /// read: it counts as long as nobody else wants its place.
    pub fn is_waited_for(&self, waiting: &Waiting<'_>) -> bool {
        !(self.connection.is_broken() || self.connection.has_left() && waiting.is_in_demand())
    }
}
