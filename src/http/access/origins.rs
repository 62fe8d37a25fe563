//! Which pages may make a browser do what here. Pure.
//!
//! A browser sends requests for any page that it shows, and it does so from inside the house. Everybody may look
//! (CORS says so, unless `--allow-origin` says otherwise), but only a page of this machine, of the local network or
//! of an origin that was named may take a still or change something. And since a page's own name can be made to lead
//! here (DNS rebinding), a request that does such things has to call us by a name that nobody else can have.

use std::net::IpAddr;

use crate::http::route::Effect;

/// The pages and names that were allowed.
#[derive(Debug, Clone, Default)]
pub struct Sites {
    /// Origins such as `http://mainsail.local`; `*` is everybody, who then may look.
    pub origins: Vec<String>,
    /// Names of ours beside the obvious ones.
    pub hosts: Vec<String>,
}

/// An origin as a browser sends it, or `*`; or why it is none.
pub fn parse_origin(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let is_origin = lower.split_once("://").is_some_and(|(scheme, rest)| {
        matches!(scheme, "http" | "https") && !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ', ','])
    });
    match lower.as_str() {
        "*" | "none" => Ok(lower),
        _ if is_origin && lower.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(lower),
        _ => Err("invalid origin: expected *, none, or an origin such as http://mainsail.local".into()),
    }
}

impl Sites {
    /// What to say in `Access-Control-Allow-Origin` to a page of this origin, and whether that depends on it.
    pub fn cors(&self, origin: Option<&str>) -> (Option<&str>, bool) {
        if self.origins.iter().any(|known| known == "*") {
            return (Some("*"), false);
        }
        let named = origin.and_then(|origin| self.origins.iter().find(|known| known.eq_ignore_ascii_case(origin)));
        (named.map(String::as_str), true)
    }

    /// Why a request must not do what it would, if so. `field` finds a header field. Without credentials the name
    /// that it calls us by counts; where the request shows that its maker knows a secret, nothing is asked.
    pub fn refuses<'a>(
        &self,
        effect: Effect,
        has_credentials: bool,
        field: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<String> {
        if effect == Effect::Looks {
            return None;
        }
        let host = field("Host").map(host_name);
        if let Some(host) = host.as_deref().filter(|host| !has_credentials && !self.is_ours(host)) {
            return Some(format!(
                "requests that do more than look have to call this machine by its address or by a name of the local network, not by \"{host}\" (see --allow-host)"
            ));
        }
        // Browsers send this over https and to this machine itself; pages cannot forge it.
        let fetch_site = field("Sec-Fetch-Site");
        if matches!(fetch_site, Some("same-origin" | "none")) {
            return None;
        }
        let Some(source) = field("Origin").or(field("Referer")) else {
            let is_browser =
                fetch_site.is_some() || field("User-Agent").is_some_and(|agent| agent.contains("Mozilla/"));
            // An address that somebody typed: it asks for a page, and nothing but a picture comes of it.
            let is_typed = effect == Effect::Disturbs
                && fetch_site.is_none()
                && field("Accept").is_some_and(|accept| accept.contains("text/html"));
            let why = "a browser has to say for which page it asks (Origin or Referer)";
            return (is_browser && !is_typed).then(|| why.into());
        };
        let page = origin_host(source);
        let is_fine = page.as_deref().is_some_and(|page| self.trusts(source, page, host.as_deref()));
        let page = page.as_deref().unwrap_or("nowhere");
        (!is_fine).then(|| format!("pages of {page} may look, but do nothing else here (see --allow-origin)"))
    }

    /// Whether a name in `Host` cannot be one that somebody else's name server made up.
    fn is_ours(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok() || is_local_name(host) || self.hosts.iter().any(|known| known == host)
    }

    fn trusts(&self, source: &str, page: &str, host: Option<&str>) -> bool {
        let is_under = |known: &str| {
            let rest = source.get(..known.len()).filter(|start| start.eq_ignore_ascii_case(known));
            rest.is_some() && matches!(source.as_bytes().get(known.len()), None | Some(b'/'))
        };
        if host == Some(page) || self.origins.iter().any(|known| is_under(known)) {
            return true;
        }
        // Whoever serves a page in the local network could as well ask us directly, unless we are there for this
        // machine alone. (A proxy may have replaced the name by which we are called, as Mainsail's does.)
        let is_near = page.parse().map_or_else(|_| is_local_name(page), is_private);
        is_near && (is_loopback(page) || !host.is_some_and(is_loopback))
    }
}

/// The name or address in `Host`, without the port and the brackets.
pub fn host_name(field: &str) -> String {
    let name = match field.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => field.trim().split(':').next().unwrap_or_default(),
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn origin_host(source: &str) -> Option<String> {
    let (_, rest) = source.split_once("://")?;
    let name = host_name(rest.split(['/', '?', '#']).next()?);
    (!name.is_empty()).then_some(name)
}

/// Names that the public DNS does not give out.
fn is_local_name(name: &str) -> bool {
    let endings = [".localhost", ".local", ".lan", ".home.arpa"];
    !name.is_empty() && (!name.contains('.') || endings.iter().any(|ending| name.ends_with(ending)))
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::Effect::{Changes, Disturbs, Looks};
    use super::*;

    fn sites(origins: &[&str], hosts: &[&str]) -> Sites {
        let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        Sites { origins: owned(origins), hosts: owned(hosts) }
    }

    fn refuses(sites: &Sites, effect: Effect, has_credentials: bool, fields: &[(&'static str, &'static str)]) -> bool {
        let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        sites.refuses(effect, has_credentials, field).is_some()
    }

    #[test]
    fn names_by_which_we_may_be_called() {
        let sites = sites(&["*"], &["cam.example.org"]);
        for host in [
            "192.168.1.7",
            "192.168.1.7:8080",
            "8.8.8.8",
            "[fd00::1]:8080",
            "[::1]",
            "localhost:8080",
            "octopi",
            "OctoPi.LOCAL:80",
            "octopi.local.",
            "cam.lan",
            "cam.home.arpa",
            "Cam.Example.org:8080",
        ] {
            for effect in [Disturbs, Changes] {
                assert!(!refuses(&sites, effect, false, &[("Host", host)]), "{host}");
            }
        }
        for host in ["evil.example", "evil.example:8080", "192.168.1.7.evil.example", "local", "x.cam.example.org", ""]
        {
            // A name without a dot is nobody else's, "local" as well as "octopi".
            let expected = !matches!(host, "local");
            assert_eq!(refuses(&sites, Changes, false, &[("Host", host)]), expected, "{host}");
            assert!(!refuses(&sites, Looks, false, &[("Host", host)]), "everybody may look by {host}");
            assert!(!refuses(&sites, Changes, true, &[("Host", host)]), "with credentials {host} does not matter");
        }
        assert!(!refuses(&sites, Changes, false, &[]), "HTTP/1.0 needs no Host");
    }

    #[test]
    fn pages_that_may_do_more_than_look() {
        let sites = sites(&["*", "https://panel.example.org", "http://other.example:8081"], &[]);
        let (lan, here, name) = ("192.168.1.7:8080", "127.0.0.1:8080", "octopi.local:8080");
        for (host, origin, refused) in [
            (lan, "http://192.168.1.7:8080", false),
            (lan, "http://192.168.1.7", false),
            (name, "https://octopi.local", false),
            (here, "http://localhost:5000", false),
            (lan, "https://panel.example.org", false),
            (lan, "https://PANEL.example.org", false),
            (lan, "http://other.example:8081", false),
            (lan, "http://mainsail.local", false),
            (lan, "http://10.0.0.3:7125", false),
            ("mjpgstreamer1", "http://mainsail.local", false),
            (lan, "https://evil.example", true),
            (lan, "http://panel.example.org", true),
            (lan, "https://panel.example.org.evil.example", true),
            (lan, "https://panel.example.org:444", true),
            (lan, "http://other.example:80819", true),
            (lan, "http://other.example", true),
            (lan, "http://8.8.8.8", true),
            (lan, "null", true),
            (lan, "", true),
            (lan, "file://", true),
            (lan, "http://", true),
            (here, "http://192.168.1.66", true),
            (here, "http://mainsail.local", true),
            (here, "http://evil", true),
        ] {
            for effect in [Disturbs, Changes] {
                for has_credentials in [false, true] {
                    let is = |field| refuses(&sites, effect, has_credentials, &[("Host", host), (field, origin)]);
                    assert_eq!(is("Origin"), refused, "{host} {origin}");
                    assert_eq!(is("Referer"), refused, "{host} {origin}");
                }
            }
        }
        let page = ("Referer", "https://panel.example.org/cams/?token=x");
        assert!(!refuses(&sites, Changes, false, &[("Host", lan), page]), "a Referer has a path");
        let both = [("Host", lan), ("Origin", "https://evil.example"), ("Referer", "http://192.168.1.7/")];
        assert!(refuses(&sites, Changes, false, &both), "Origin counts first");
    }

    #[test]
    fn browsers_that_hide_their_page() {
        let sites = sites(&["*"], &[]);
        let (host, browser) = (("Host", "10.0.0.7"), ("User-Agent", "Mozilla/5.0 (X11; Linux)"));
        let (typed, image) = (("Accept", "text/html,application/xhtml+xml"), ("Accept", "image/avif,*/*"));
        let fetch = |site| ("Sec-Fetch-Site", site);
        for (effect, fields, refused) in [
            (Changes, &[host][..], false),
            (Changes, &[host, ("User-Agent", "python-requests/2.31")], false),
            (Disturbs, &[host, ("User-Agent", "Wget/1.21")], false),
            (Disturbs, &[host, browser, typed], false),
            (Disturbs, &[host, browser, image], true),
            (Disturbs, &[host, browser], true),
            (Changes, &[host, browser, typed], true),
            (Changes, &[host, browser, image], true),
            (Changes, &[host, browser, fetch("same-origin")], false),
            (Changes, &[host, browser, fetch("none")], false),
            (Disturbs, &[host, browser, typed, fetch("cross-site")], true),
            (Changes, &[host, fetch("same-site")], true),
            (Changes, &[host, ("Origin", "http://10.0.0.7"), fetch("cross-site")], false),
            (Looks, &[host, browser, image], false),
        ] {
            assert_eq!(refuses(&sites, effect, false, fields), refused, "{effect:?} {fields:?}");
        }
    }

    #[test]
    fn cors_follows_the_origins() {
        let page = Some("http://Mainsail.local");
        assert_eq!(sites(&["*"], &[]).cors(page), (Some("*"), false));
        assert_eq!(sites(&["http://mainsail.local"], &[]).cors(page), (Some("http://mainsail.local"), true));
        assert_eq!(sites(&["http://mainsail.local", "*"], &[]).cors(None), (Some("*"), false));
        assert_eq!(sites(&["http://mainsail.local"], &[]).cors(Some("http://x")), (None, true));
        assert_eq!(sites(&["http://mainsail.local"], &[]).cors(None), (None, true));
        assert_eq!(sites(&["none"], &[]).cors(page), (None, true));
    }

    #[test]
    fn origins_are_checked_when_given() {
        for text in ["*", "none", "http://mainsail.local", "https://x.example:8443", "http://[fd00::1]:80"] {
            assert_eq!(parse_origin(text).as_deref(), Ok(text));
        }
        assert_eq!(parse_origin("HTTP://Mainsail").as_deref(), Ok("http://mainsail"));
        for text in ["", "mainsail.local", "http://", "http://a/b", "ftp://a", "http://a b", "http://a\r\nX: y", "null"]
        {
            assert!(parse_origin(text).is_err(), "{text}");
        }
    }
}
