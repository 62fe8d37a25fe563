//! The gate: what a request is asked before it is answered, in one place. The decisions themselves are made in
//! [`credentials`], [`origins`] and [`forwarded`], which know no requests.

pub mod credentials;
pub mod forwarded;
pub mod origins;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use log::{debug, warn};

use self::credentials::{Credentials, Right, Verdict};
use self::forwarded::Proxy;
use self::origins::Sites;
use crate::http::response::Response;
use crate::http::route::{Effect, Query};
use crate::http::server::head::Head;
use crate::system::os;

/// Who has a wrong credential waits so long. A server that stops waits a little longer.
pub const PENALTY: Duration = Duration::from_millis(300);

/// Who may come in, as configured.
#[derive(Default)]
pub struct Access {
    /// Who is known.
    pub credentials: Credentials,
    /// Which pages may do what, and what we may be called.
    pub sites: Sites,
    /// Who is believed about others.
    pub proxies: Vec<Proxy>,
}

/// See the module's documentation.
pub struct Gate {
    access: Access,
    wrong: AtomicU64,
    /// When a wrong credential was last logged, in s of CLOCK_MONOTONIC.
    told_at: AtomicU64,
}

/// What to say to somebody who does not get in.
pub enum Refusal {
    /// Showed no credential.
    Missing(Response),
    /// Showed one that is none of ours: to be said after a while only.
    Wrong(Response),
    /// Something else.
    Other(Response),
}

impl Gate {
    /// Nobody has come yet.
    pub fn new(access: Access) -> Self {
        Self { access, wrong: AtomicU64::new(0), told_at: AtomicU64::new(0) }
    }

    /// Who sends this request: whoever is at the other end, or for whom that one speaks.
    pub fn client(&self, peer: Option<IpAddr>, head: &Head) -> Option<IpAddr> {
        forwarded::client(&self.access.proxies, peer, &head.all("X-Forwarded-For"))
    }

    /// Whether a request with this effect may go on.
    pub fn admit(&self, effect: Effect, head: &Head, query: &Query<'_>) -> Result<(), Refusal> {
        let credentials = &self.access.credentials;
        let needed = if effect == Effect::Changes { Right::Control } else { Right::Read };
        let tokens: Vec<String> = query.pairs().filter(|(name, _)| name == "token").map(|(_, token)| token).collect();
        match credentials.judge(&head.all("Authorization"), &tokens, needed) {
            Verdict::Allowed { is_explicit: true } => return Ok(()),
            Verdict::Allowed { is_explicit: false } => {}
            Verdict::Missing => return Err(Refusal::Missing(self.unauthorized("credentials are needed here"))),
            Verdict::Wrong => return Err(Refusal::Wrong(self.unauthorized("these credentials are not known here"))),
            Verdict::ReadOnly => {
                let why = "these credentials are good to look, not to change anything";
                return Err(Refusal::Other(Response::text(403, why)));
            }
        }
        match self.access.sites.refuses(effect, !credentials.is_empty(), |name| head.field(name)) {
            Some(why) => {
                debug!("request refused reason=\"{why}\"");
                Err(Refusal::Other(Response::text(403, why)))
            }
            None => Ok(()),
        }
    }

    fn unauthorized(&self, why: &str) -> Response {
        let challenges = self.access.credentials.challenges();
        challenges.fold(Response::text(401, why), |answer, challenge| answer.with("WWW-Authenticate", challenge))
    }

    /// Counts a wrong credential, and logs one a second at the most.
    pub fn count_wrong(&self, client: &str) {
        let count = self.wrong.fetch_add(1, Relaxed) + 1;
        let now = os::monotonic().as_secs();
        if self.told_at.swap(now, Relaxed) != now {
            warn!("wrong credential client={client} so_far={count}");
        }
    }

    /// Wrong credentials so far.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    /// The fields that tell a browser whether a page of this origin may read the answer.
    pub fn cors(&self, origin: Option<&str>) -> Vec<(&'static str, &str)> {
        let (allowed, depends) = self.access.sites.cors(origin);
        let allowed = allowed.map(|origin| ("Access-Control-Allow-Origin", origin));
        allowed.into_iter().chain(depends.then_some(("Vary", "Origin"))).collect()
    }
}
