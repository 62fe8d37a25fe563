//! Which pages may make a browser do what here. Pure.
//!
//! A browser sends requests for any page that it shows, from inside the local network. Scripts of foreign pages cannot
//! read responses (CORS), and a foreign page can neither take a still nor change anything; a credential does not change
//! that, since browsers and proxies add credentials to requests that foreign pages make. And since a foreign page's own
//! name can be made to lead here (DNS rebinding), a request without a credential has to call this machine by a name
//! that nobody else can have.

use std::net::IpAddr;

use crate::http::route::Effect;
use crate::http::server::head::trim;

/// The longest name that the DNS has.
const NAME_LENGTH: usize = 253;

/// The pages and names that are trusted beside those of the local network.
#[derive(Debug, Clone, Default)]
pub struct Sites {
    /// Origins as [`parse_origin`] returns them. `*` lets all pages read; `none` trusts no other page by default.
    pub origins: Vec<String>,
    /// Names of this machine beside the obvious ones.
    pub hosts: Vec<String>,
}

/// Why a request is refused, and the option that would allow it, if there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Denial {
    pub why: String,
    pub option: Option<String>,
}

/// An origin as a browser sends it, `*`, or `none`.
pub fn parse_origin(text: &str) -> Result<String, String> {
    match text {
        "*" | "none" => Ok(text.into()),
        _ => match Origin::parse(text) {
            Some(origin) if text.matches(['/', '?', '#']).count() == 2 => Ok(origin.text),
            _ => Err("expected *, none, or an origin such as http://mainsail.local".into()),
        },
    }
}

impl Sites {
    /// What `Access-Control-Allow-Origin` says to a page of this origin, and whether that depends on the page.
    pub fn cors(&self, origin: Option<&str>, host: Option<&str>) -> (Option<String>, bool) {
        if self.has("*") {
            return (Some("*".into()), false);
        }
        let host = host.map(host_name).filter(|_| !self.has("none"));
        let allowed = origin.and_then(Origin::parse).filter(|origin| self.trusts(origin, host.as_deref()));
        (allowed.map(|origin| origin.text), true)
    }

    /// Checks the name by which a request without a credential calls this machine.
    ///
    /// # Errors
    /// When somebody else's name server may have made that name lead here.
    pub fn check_host(&self, effect: Effect, host: Option<&str>) -> Result<(), Denial> {
        let is_checked = effect != Effect::Read || !self.origins.is_empty() && !self.has("*");
        let Some(name) = host.map(host_name).filter(|name| is_checked && !self.is_ours(name)) else { return Ok(()) };
        if !is_name(&name) {
            return Err(Denial { why: "the Host header has no valid name".into(), option: None });
        }
        let why = format!("{name} is not known as a name of this machine");
        Err(Denial { why, option: Some(format!("--allow-host {name}")) })
    }

    /// Checks the page for which a browser sends a request. `field` finds a header field.
    ///
    /// # Errors
    /// When the request does more than read, and the page is foreign or not told.
    pub fn check_page<'a>(&self, effect: Effect, field: impl Fn(&str) -> Option<&'a str>) -> Result<(), Denial> {
        let fetch_site = field("Sec-Fetch-Site");
        // Browsers send this where they trust the connection; pages cannot forge it.
        if effect == Effect::Read || matches!(fetch_site, Some("same-origin" | "none")) {
            return Ok(());
        }
        let Some(source) = field("Origin").or(field("Referer")) else {
            let is_browser = field("User-Agent").is_some_and(|agent| agent.contains("Mozilla/"));
            // Without any of the three an interrupt cannot be told from that of wget.
            return match fetch_site.is_some() || effect == Effect::Write && is_browser {
                true => Err(Denial { why: "the browser names no page (Origin or Referer)".into(), option: None }),
                false => Ok(()),
            };
        };
        let Some(origin) = Origin::parse(source) else {
            return Err(Denial { why: "a page without an address can only read".into(), option: None });
        };
        if self.trusts(&origin, field("Host").map(host_name).as_deref()) {
            return Ok(());
        }
        let why = format!("pages of {} can only read", origin.text);
        Err(Denial { why, option: Some(format!("--allow-origin {}", origin.text)) })
    }

    fn has(&self, word: &str) -> bool {
        self.origins.iter().any(|known| known == word)
    }

    fn trusts(&self, origin: &Origin, host: Option<&str>) -> bool {
        let is_near = match origin.host.parse() {
            Ok(address) => is_private(address),
            Err(_) => self.is_ours(&origin.host),
        };
        host == Some(&origin.host) || is_near && !self.has("none") || self.has(&origin.text)
    }

    /// Whether this is an address, a name of the local network, or one of this machine's own.
    fn is_ours(&self, name: &str) -> bool {
        name.parse::<IpAddr>().is_ok() || is_local_name(name) || self.hosts.iter().any(|known| known == name)
    }
}

/// Scheme, host and port of a page.
struct Origin {
    /// As browsers write it: in lower case, without the scheme's own port.
    text: String,
    host: String,
}

impl Origin {
    /// From `Origin` or `Referer`; `None` where there is no such page, as with `null`.
    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let default_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        let host = host_name(authority);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if !(is_name(&host) || host.parse::<IpAddr>().is_ok()) || !authority.bytes().all(is_plain) {
            return None;
        }
        let text = format!("{scheme}://{}", authority.strip_suffix(default_port).unwrap_or(authority));
        Some(Self { text, host })
    }
}

/// The name or address in `Host`, without the port and the brackets.
fn host_name(field: &str) -> String {
    let name = match trim(field).strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => trim(field).split(':').next().unwrap_or_default(),
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=NAME_LENGTH).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Whether the public DNS has no such name.
fn is_local_name(name: &str) -> bool {
    let endings = [".localhost", ".local", ".lan", ".home.arpa", ".internal", ".home", ".localdomain"];
    is_name(name) && (!name.contains('.') || endings.iter().any(|ending| name.ends_with(ending)))
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::Effect::{Interrupt, Read, Write};
    use super::*;

    const NAMED: &str = "https://panel.example";

    fn sites(origins: &[&str]) -> Sites {
        let hosts = vec!["cam.example.org".into(), "octopi".into()];
        Sites { origins: origins.iter().map(|text| text.to_string()).collect(), hosts }
    }

    /// Without `--allow-origin`, and with `*`, `none` and a named one.
    fn policies() -> [Sites; 4] {
        [sites(&[]), sites(&["*"]), sites(&["none"]), sites(&[NAMED])]
    }

    fn check(sites: &Sites, effect: Effect, fields: &[(&str, &str)]) -> Result<(), Denial> {
        let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        sites.check_page(effect, field)
    }

    /// Header fields, and what each of the four policies says to an interrupt and to a write: `y` for yes, `n` for no.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

    #[test]
    fn pages_that_may_do_more_than_read() {
        let (origin, referer) = (|page| ("Origin", page), |page| ("Referer", page));
        let (fetch, firefox) = (|site| ("Sec-Fetch-Site", site), ("User-Agent", "Mozilla/5.0 (X11; Linux)"));
        let cases: &[Case<'_>] = &[
            // No browser, or one that names no page.
            (&[], "yyyy", "yyyy"),
            (&[("User-Agent", "python-requests/2.31")], "yyyy", "yyyy"),
            (&[firefox], "yyyy", "nnnn"),
            (&[firefox, fetch("same-origin")], "yyyy", "yyyy"),
            (&[firefox, fetch("none")], "yyyy", "yyyy"),
            (&[firefox, fetch("cross-site")], "nnnn", "nnnn"),
            (&[firefox, fetch("same-site")], "nnnn", "nnnn"),
            (&[fetch("cross-site")], "nnnn", "nnnn"),
            // This host, whatever the port.
            (&[origin("http://192.0.2.7:8080")], "yyyy", "yyyy"),
            (&[origin("https://192.0.2.7")], "yyyy", "yyyy"),
            (&[referer("http://192.0.2.7:5000/cams/")], "yyyy", "yyyy"),
            (&[origin("http://192.0.2.7"), fetch("cross-site")], "yyyy", "yyyy"),
            // The local network, and this machine's names.
            (&[origin("http://192.168.1.66")], "yyny", "yyny"),
            (&[origin("http://10.0.0.3:7125")], "yyny", "yyny"),
            (&[origin("http://172.16.0.1")], "yyny", "yyny"),
            (&[origin("http://169.254.3.4")], "yyny", "yyny"),
            (&[origin("http://127.0.0.1:5000")], "yyny", "yyny"),
            (&[origin("http://[fd00::1]:80")], "yyny", "yyny"),
            (&[origin("http://[fe80::1]")], "yyny", "yyny"),
            (&[origin("http://[::1]:3000")], "yyny", "yyny"),
            (&[origin("http://[::ffff:10.0.0.1]")], "yyny", "yyny"),
            (&[origin("http://localhost:5000")], "yyny", "yyny"),
            (&[origin("http://mainsail")], "yyny", "yyny"),
            (&[origin("http://Mainsail.LOCAL.")], "yyny", "yyny"),
            (&[origin("http://a.b.lan")], "yyny", "yyny"),
            (&[origin("http://a.home.arpa")], "yyny", "yyny"),
            (&[origin("http://a.internal")], "yyny", "yyny"),
            (&[origin("http://a.home")], "yyny", "yyny"),
            (&[origin("http://a.localdomain")], "yyny", "yyny"),
            (&[origin("http://a.localhost")], "yyny", "yyny"),
            (&[origin("https://cam.example.org:8443")], "yyny", "yyny"),
            (&[referer("http://mainsail.local/#/dashboard")], "yyny", "yyny"),
            (&[origin("http://mainsail.local"), fetch("cross-site")], "yyny", "yyny"),
            // The named one.
            (&[origin(NAMED)], "nnny", "nnny"),
            (&[origin("HTTPS://Panel.example:443")], "nnny", "nnny"),
            (&[referer("https://panel.example/cams/?token=x")], "nnny", "nnny"),
            (&[origin(NAMED), fetch("cross-site")], "nnny", "nnny"),
            // Foreign ones.
            (&[origin("http://panel.example")], "nnnn", "nnnn"),
            (&[origin("https://panel.example:444")], "nnnn", "nnnn"),
            (&[origin("https://panel.example.evil.example")], "nnnn", "nnnn"),
            (&[origin("https://evil.example")], "nnnn", "nnnn"),
            (&[origin("https://evil.example"), firefox, fetch("cross-site")], "nnnn", "nnnn"),
            (&[referer("http://evil.example/192.168.1.7/")], "nnnn", "nnnn"),
            (&[referer("http://192.168.1.7@evil.example/")], "nnnn", "nnnn"),
            (&[referer("http://evil.example\\@192.168.1.7/")], "nnnn", "nnnn"),
            (&[origin("http://192.168.1.7.evil.example")], "nnnn", "nnnn"),
            (&[origin("http://8.8.8.8")], "nnnn", "nnnn"),
            (&[origin("http://172.32.0.1")], "nnnn", "nnnn"),
            (&[origin("http://[2001:db8::1]")], "nnnn", "nnnn"),
            (&[origin("http://evillocal.example")], "nnnn", "nnnn"),
            (&[origin("http://local.")], "yyny", "yyny"),
            // None that could be named.
            (&[origin("null")], "nnnn", "nnnn"),
            (&[origin("")], "nnnn", "nnnn"),
            (&[origin("file://")], "nnnn", "nnnn"),
            (&[origin("http://")], "nnnn", "nnnn"),
            (&[origin("http://a:\"b")], "nnnn", "nnnn"),
            (&[origin("moz-extension://local")], "nnnn", "nnnn"),
            // Origin counts more than Referer.
            (&[origin("https://evil.example"), referer("http://192.0.2.7/")], "nnnn", "nnnn"),
            (&[origin("http://192.0.2.7"), referer("http://evil.example/")], "yyyy", "yyyy"),
        ];
        for (fields, interrupts, writes) in cases {
            let fields = [fields, &[("Host", "192.0.2.7:8080")][..]].concat();
            for (at, sites) in policies().iter().enumerate() {
                for (effect, expected) in [(Interrupt, interrupts), (Write, writes)] {
                    let is_allowed = check(sites, effect, &fields).is_ok();
                    assert_eq!(is_allowed, &expected[at..=at] == "y", "{effect:?} {fields:?} {:?}", sites.origins);
                }
                assert_eq!(check(sites, Read, &fields), Ok(()), "{fields:?}");
            }
        }
    }

    #[test]
    fn names_by_which_this_machine_may_be_called() {
        for host in [
            "192.168.1.7",
            "192.168.1.7:8080",
            "8.8.8.8",
            "[fd00::1]:8080",
            "[::1]",
            "localhost:8080",
            "octopi",
            "local",
            "OctoPi.LOCAL:80",
            "octopi.local.",
            "cam.lan",
            "cam.home.arpa",
            "cam.internal:80",
            "cam.home",
            "cam.localdomain",
            "Cam.Example.org:8080",
        ] {
            for (sites, effect) in
                policies().iter().flat_map(|sites| [Read, Interrupt, Write].map(|kind| (sites, kind)))
            {
                assert_eq!(sites.check_host(effect, Some(host)), Ok(()), "{host}");
            }
        }
        for host in
            ["evil.example", "evil.example:8080", "192.168.1.7.evil.example", "x.cam.example.org", "", "[x", "a/b.c"]
        {
            for effect in [Interrupt, Write] {
                assert!(policies().iter().all(|sites| sites.check_host(effect, Some(host)).is_err()), "{host}");
            }
            let reads = policies().map(|sites| sites.check_host(Read, Some(host)).is_ok());
            assert_eq!(reads, [true, true, false, false], "{host}");
        }
        assert!(policies().iter().all(|sites| sites.check_host(Write, None).is_ok()), "HTTP/1.0 needs no Host");
        assert!(sites(&["*", NAMED]).check_host(Read, Some("evil.example")).is_ok(), "all pages may read");
    }

    #[test]
    fn refusals_name_the_option_that_would_allow_it() {
        let option = |refused: Result<(), Denial>| refused.unwrap_err().option;
        let open = sites(&[]);
        let page = |text| option(check(&open, Write, &[("Origin", text), ("Host", "10.0.0.7")]));
        for (origin, allowed) in [
            ("https://Evil.example", Some("--allow-origin https://evil.example")),
            ("http://evil.example:8080/a?b#c", Some("--allow-origin http://evil.example:8080")),
            ("http://[2001:db8::1]:80", Some("--allow-origin http://[2001:db8::1]")),
            ("null", None),
        ] {
            assert_eq!(page(origin).as_deref(), allowed);
            if let Some(named) = allowed.and_then(|text| text.strip_prefix("--allow-origin ")) {
                let named = sites(&[&parse_origin(named).unwrap()]);
                assert_eq!(check(&named, Write, &[("Origin", origin), ("Host", "10.0.0.7")]), Ok(()));
            }
        }
        let host = |text| option(open.check_host(Write, Some(text)));
        assert_eq!(host("Evil.example:8080").as_deref(), Some("--allow-host evil.example"));
        assert_eq!(host("a\"b.example"), None, "nothing is repeated that is no name");
        assert_eq!(host(&format!("{}.example", "a".repeat(300))), None);
        assert_eq!(option(check(&open, Write, &[("User-Agent", "Mozilla/5.0")])), None);
    }

    /// To a page of each origin: without `--allow-origin`, and with `*`, `none` and a named one.
    #[test]
    fn pages_whose_scripts_may_read() {
        for (origin, expected) in [
            (None, [None, Some("*"), None, None]),
            (Some("https://evil.example"), [None, Some("*"), None, None]),
            (Some("null"), [None, Some("*"), None, None]),
            (Some(NAMED), [None, Some("*"), None, Some(NAMED)]),
            (
                Some("http://192.0.2.7:5000"),
                [Some("http://192.0.2.7:5000"), Some("*"), None, Some("http://192.0.2.7:5000")],
            ),
            (
                Some("http://Mainsail.local"),
                [Some("http://mainsail.local"), Some("*"), None, Some("http://mainsail.local")],
            ),
        ] {
            for (sites, allowed) in policies().iter().zip(expected) {
                let cors = sites.cors(origin, Some("192.0.2.7:8080"));
                assert_eq!(cors, (allowed.map(String::from), allowed != Some("*")), "{origin:?} {:?}", sites.origins);
            }
        }
        assert_eq!(sites(&[NAMED, "*"]).cors(None, None), (Some("*".into()), false));
        assert_eq!(sites(&["none", NAMED]).cors(Some(NAMED), None), (Some(NAMED.into()), true));
    }

    #[test]
    fn origins_are_checked_when_given() {
        for text in ["*", "none", "http://mainsail.local", "https://x.example:8443", "http://[fd00::1]:8080"] {
            assert_eq!(parse_origin(text).as_deref(), Ok(text));
        }
        assert_eq!(parse_origin("HTTP://Mainsail:80").as_deref(), Ok("http://mainsail"));
        for text in [
            "",
            "mainsail.local",
            "http://",
            "http://a/",
            "http://a/b",
            "http://a?b",
            "ftp://a",
            "http://a b",
            "http://a@b",
            "http://a\r\nX: y",
            "null",
            "http://a,http://b",
        ] {
            assert!(parse_origin(text).is_err(), "{text}");
        }
    }
}
