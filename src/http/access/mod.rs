//! Access control: which requests may go on. The decisions are made in [`credentials`], [`origins`] and [`forwarded`],
//! which know no requests; here they are applied to one.

pub mod credentials;
pub mod forwarded;
pub mod origins;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use log::warn;
use parking_lot::Mutex;

use self::credentials::{Credentials, Right, Verdict};
use self::forwarded::Proxy;
use self::origins::Sites;
use crate::http::response::Response;
use crate::http::route::{Effect, Query, Route};
use crate::http::server::head::Head;
use crate::system::os;

/// Delay before a wrong credential is rejected. A server that stops waits a little longer.
pub const PENALTY: Duration = Duration::from_millis(300);
/// So many refused names are logged; a stranger can make up more.
const LOGGED_NAMES: usize = 64;

/// Access control as configured.
#[derive(Default)]
pub struct Access {
    /// The known credentials.
    pub credentials: Credentials,
    /// Which pages may do what, and by which names this machine may be called.
    pub sites: Sites,
    /// Proxies whose word about their clients is believed.
    pub proxies: Vec<Proxy>,
}

/// Decides which requests may go on, and counts and logs those that may not.
pub struct Gate {
    access: Access,
    wrong: AtomicU64,
    /// When a wrong credential was last logged, in s of CLOCK_MONOTONIC.
    logged_at: AtomicU64,
    /// The options that would have allowed a request, each of which is logged once.
    options: Mutex<BTreeSet<String>>,
}

/// Why a request may not go on.
pub enum Refusal {
    /// It has a credential that is not valid. The response is to be sent after [`PENALTY`].
    Wrong(Response),
    /// Anything else.
    Other(Response),
}

impl Gate {
    /// A gate that has seen no request.
    pub fn new(mut access: Access) -> Self {
        access.sites.hosts.extend(own_names());
        Self { access, wrong: AtomicU64::new(0), logged_at: AtomicU64::new(0), options: Mutex::default() }
    }

    /// The client that sent this request: the one at the other end, or the one that a trusted proxy names.
    pub fn client(&self, peer: Option<IpAddr>, head: &Head) -> Option<IpAddr> {
        forwarded::client(&self.access.proxies, peer, &head.all("X-Forwarded-For"))
    }

    /// Whether this request may go on, and if so, whether it comes from a stranger: one without the credential that
    /// other URLs need.
    pub fn admit(&self, route: Route, head: &Head, query: &Query<'_>) -> Result<bool, Refusal> {
        let effect = route.effect(&head.method);
        let credentials = &self.access.credentials;
        let needed = if effect == Effect::Write { Right::Control } else { Right::Read };
        let tokens: Vec<String> = query.all("token").collect();
        match credentials.check(&head.all("Authorization"), &tokens, needed) {
            Verdict::Allowed => {}
            Verdict::Missing if route.is_public() => return Ok(true),
            Verdict::Missing => return Err(Refusal::Other(self.unauthorized("credentials are required"))),
            Verdict::Wrong => return Err(Refusal::Wrong(self.unauthorized("invalid credentials"))),
            Verdict::ReadOnly => {
                return Err(Refusal::Other(Response::text(403, "these credentials only allow reading")));
            }
        }
        let sites = &self.access.sites;
        let named = match credentials.is_empty() && route != Route::Health {
            true => sites.check_host(effect, head.field("Host")),
            false => Ok(()),
        };
        let refused = named.and_then(|()| sites.check_page(effect, |name| head.field(name)));
        refused.map_err(|refusal| Refusal::Other(self.forbidden(refusal))).map(|()| false)
    }

    fn unauthorized(&self, why: &str) -> Response {
        let challenges = self.access.credentials.challenges();
        challenges.fold(Response::text(401, why), |response, challenge| response.with("WWW-Authenticate", challenge))
    }

    fn forbidden(&self, denial: origins::Denial) -> Response {
        let origins::Denial { why, option } = denial;
        let Some(option) = option else { return Response::text(403, why) };
        let is_new = {
            let mut options = self.options.lock();
            options.len() < LOGGED_NAMES && options.insert(option.clone())
        };
        if is_new {
            warn!("request refused reason=\"{why}\" option=\"{option}\"");
        }
        Response::text(403, format!("{why}; start framehub with {option} to allow this"))
    }

    /// The origins that `--allow-origin` names.
    pub fn named_origins(&self) -> impl Iterator<Item = String> {
        self.access.sites.origins.iter().filter(|origin| origin.contains("://")).cloned()
    }

    /// Whether clients need a credential.
    pub fn has_credentials(&self) -> bool {
        !self.access.credentials.is_empty()
    }

    /// Counts a wrong credential, and logs at most one a second.
    pub fn count_wrong(&self, client: &str) {
        let count = self.wrong.fetch_add(1, Relaxed) + 1;
        let now = os::monotonic().as_secs();
        if self.logged_at.swap(now, Relaxed) != now {
            warn!("wrong credential client={client} so_far={count}");
        }
    }

    /// Wrong credentials so far.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    /// The fields that tell a browser whether the page that sent this request may read the response.
    pub fn cors(&self, head: &Head) -> Vec<(&'static str, String)> {
        let (allowed, depends) = self.access.sites.cors(head.field("Origin"), head.field("Host"));
        let allowed = allowed.map(|origin| ("Access-Control-Allow-Origin", origin));
        allowed.into_iter().chain(depends.then(|| ("Vary", "Origin".into()))).collect()
    }
}

/// The name of this machine, with and without its domain.
fn own_names() -> Vec<String> {
    // A machine without /proc has no name.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_ascii_lowercase();
    let short = name.split('.').next().unwrap_or_default().to_owned();
    [name, short].into_iter().filter(|name| !name.is_empty()).collect()
}
