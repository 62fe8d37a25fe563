//! Every URL that framehub serves: [`Route::decode`] and its table test.

use tiny_http::Method;

use crate::system::percent::{bytes, decode};

/// What `+` stands for in a query.
const PLUS: u8 = b' ';

/// What a URL stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/`: the page with the live picture.
    Page,
    /// `/stream`, `/stream.mjpg`, `/?action=stream`; `/mjpg` (MJPGServer), `/mjpeg/1` (ESP32): the live stream.
    Stream,
    /// `/snapshot`, `/snapshot.jpg`, `/?action=snapshot`; `/jpg` (ESP32): one picture.
    Snapshot,
    /// `/clip`: the last seconds as one file.
    Clip,
    /// `/clip?format=json`: a list of the clip's frames.
    ClipIndex,
    /// `/still`, `/full_res` (MJPGServer), `/snapshot?size=max`: one picture at full resolution.
    Still,
    /// `/warm`: opens the camera ahead of a still.
    Warm,
    /// `/controls`: the camera's controls.
    Controls,
    /// `/input.json`, `/input_0.json`: the controls in mjpg-streamer's format.
    InputJson,
    /// `/program.json`: mjpg-streamer's list of plugins.
    ProgramJson,
    /// `/?action=command`: sets a control, as mjpg-streamer does.
    Command,
    /// `/state`: all figures as JSON.
    State,
    /// `/metrics`: all figures for Prometheus.
    Metrics,
    /// `/healthz`: whether pictures are available.
    Health,
    /// `/page.css`: the page's style.
    Style,
    /// `/page.js`: the page's script.
    Script,
    /// `/favicon.svg`, `/favicon.ico`: the icon. Browsers ask for the latter whatever the page says.
    Favicon,
    /// `/control.htm` and other pages of mjpg-streamer: what they did, `/` does.
    OldPage,
}

/// mjpg-streamer's pages, which people have bookmarks of.
const OLD_PAGES: &[&str] = &[
    "control.htm",
    "index.html",
    "javascript.html",
    "javascript_simple.html",
    "static.html",
    "static_simple.html",
    "stream.html",
    "stream_simple.html",
];

impl Route {
    /// Finds the route of a request target, which may be an absolute URI. Unknown parameters are ignored.
    pub fn decode(target: &str) -> Option<(Self, Query<'_>)> {
        let (path, query) = split(target)?;
        let query = Query(query);
        let route = match path.trim_start_matches('/') {
            "" => match query.get("action").as_deref() {
                None | Some("") => Self::Page,
                // mjpg-streamer's number of an input; there is one.
                Some("stream" | "stream_0") => Self::Stream,
                Some("snapshot" | "snapshot_0") => Self::Snapshot,
                Some("command") => Self::Command,
                Some(_) => return None,
            },
            "stream" | "stream.mjpg" | "mjpg" | "mjpeg/1" => Self::Stream,
            "snapshot" | "snapshot.jpg" | "jpg" => Self::Snapshot,
            "clip" if query.get("format").as_deref() == Some("json") => Self::ClipIndex,
            "clip" => Self::Clip,
            "still" | "full_res" => Self::Still,
            "warm" => Self::Warm,
            "controls" => Self::Controls,
            "input.json" | "input_0.json" => Self::InputJson,
            "program.json" => Self::ProgramJson,
            "state" => Self::State,
            "metrics" => Self::Metrics,
            "healthz" => Self::Health,
            "page.css" => Self::Style,
            "page.js" => Self::Script,
            "favicon.svg" | "favicon.ico" => Self::Favicon,
            page if OLD_PAGES.contains(&page) => Self::OldPage,
            _ => return None,
        };
        let is_still = route == Self::Snapshot && query.get("size").as_deref() == Some("max");
        Some((if is_still { Self::Still } else { route }, query))
    }

    /// The methods that this route accepts, for `Allow`.
    pub fn methods(self) -> &'static str {
        match self {
            // mjpg-streamer clients on iOS open the stream with POST.
            Self::Stream | Self::Warm | Self::Controls => "GET, HEAD, POST, OPTIONS",
            // HEAD must not change anything.
            Self::Command => "GET, POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether no credential is needed: `/healthz` is for monitoring, browsers ask for the icon in any case, the page asks
    /// for its files, which are not secret, without the token in its own URL, and a redirect says nothing.
    pub fn is_public(self) -> bool {
        matches!(self, Self::Health | Self::Favicon | Self::Style | Self::Script | Self::OldPage)
    }

    /// Whether GET opens, switches or waits for the camera, which HEAD must not.
    pub fn uses_camera(self) -> bool {
        matches!(self, Self::Snapshot | Self::Still | Self::Warm | Self::Controls | Self::InputJson)
    }

    /// The effect of a request with this method.
    pub fn effect(self, method: &Method) -> Effect {
        match self {
            Self::Still | Self::Warm => Effect::Interrupt,
            Self::Command => Effect::Write,
            Self::Controls if *method == Method::Post => Effect::Write,
            _ => Effect::Read,
        }
    }
}

/// The effect of a request on the camera and on other clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None: it reads pictures or figures.
    Read,
    /// The camera does something for a moment, and other clients notice.
    Interrupt,
    /// Something stays different for all clients.
    Write,
}

/// Splits a target in origin form or absolute form into path and query.
fn split(target: &str) -> Option<(&str, &str)> {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find(['/', '?']).map_or("/", |start| &rest[start..])
        }
        _ => target,
    };
    let origin = origin.split_once('#').map_or(origin, |(before, _)| before);
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    (path.is_empty() || path.starts_with('/')).then_some((path, query))
}

/// The parameters of a URL or a form.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Wraps what follows the `?` of a URL, or a form's body.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// All parameters and their values, decoded.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> + use<'a> {
        self.raw().map(|(key, value)| (decode(key, PLUS), decode(value, PLUS)))
    }

    /// The decoded value of the first parameter with this name; empty if it has none.
    pub fn get(&self, name: &str) -> Option<String> {
        self.all(name).next()
    }

    /// The decoded values of all parameters with this name. Nothing is decoded that need not be: a URL can have thousands
    /// of other parameters.
    pub fn all(&self, name: &str) -> impl Iterator<Item = String> {
        self.raw().filter(move |(key, _)| bytes(key, PLUS).eq(name.bytes())).map(|(_, value)| decode(value, PLUS))
    }

    fn raw(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        // A second question mark, as in `?action=stream?dummy=param.mjpg`, which people add for players. Elsewhere it is part
        // of a value.
        let is_doubled = |pair: &&str| pair.starts_with("action=");
        let pairs = self.0.split('&').flat_map(move |pair| pair.splitn(if is_doubled(&pair) { 2 } else { 1 }, '?'));
        let pairs = pairs.filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_url_and_many_that_are_none() {
        use Route::*;
        for (target, route) in [
            ("/", Some(Page)),
            ("/?", Some(Page)),
            ("/?1700000000", Some(Page)),
            ("/?action=stream", Some(Stream)),
            ("/?action=stream&1700000000", Some(Stream)),
            ("/?timestamp=1&action=snapshot", Some(Snapshot)),
            ("/?act%69on=sn%61pshot", Some(Snapshot)),
            ("//?action=stream", Some(Stream)),
            ("/?action=stream?dummy=param.mjpg", Some(Stream)),
            ("/?action=snapshot?1700000000", Some(Snapshot)),
            ("/?x=1&action=snapshot?size=max", Some(Still)),
            ("/?action=stream_0", Some(Stream)),
            ("/?action=stream_0?dummy=param.mjpg", Some(Stream)),
            ("/?action=snapshot_0&1", Some(Snapshot)),
            ("/?action=stream_1", None),
            ("/?action=snapshot_1", None),
            ("/?action=snapshot_00", None),
            ("/?action=stream_", None),
            ("/control.htm", Some(OldPage)),
            ("/stream_simple.html?x", Some(OldPage)),
            ("/control.html", None),
            ("http://cam.local:8080/stream?x=.mjpg", Some(Stream)),
            ("http://cam.local", Some(Page)),
            ("HTTP://cam.local?action=snapshot", Some(Snapshot)),
            ("/stream", Some(Stream)),
            ("/stream#top", Some(Stream)),
            ("/stream.mjpg?x=1", Some(Stream)),
            ("/mjpg", Some(Stream)),
            ("/mjpeg/1", Some(Stream)),
            ("/snapshot?bypassCache=1", Some(Snapshot)),
            ("/snapshot.jpg", Some(Snapshot)),
            ("/jpg", Some(Snapshot)),
            ("/clip?last=20s", Some(Clip)),
            ("/clip?last=20s&format=json", Some(ClipIndex)),
            ("/still", Some(Still)),
            ("/snapshot?size=max", Some(Still)),
            ("/?action=snapshot&size=max", Some(Still)),
            ("/snapshot?size=min", Some(Snapshot)),
            ("/stream?size=max", Some(Stream)),
            ("/full_res?token=x", Some(Still)),
            ("/warm?for=10s", Some(Warm)),
            ("/controls", Some(Controls)),
            ("/controls?brightness=1", Some(Controls)),
            ("/input.json", Some(InputJson)),
            ("/input_0.json", Some(InputJson)),
            ("/program.json", Some(ProgramJson)),
            ("/?action=command&id=-1", Some(Command)),
            ("/state", Some(State)),
            ("/metrics", Some(Metrics)),
            ("/healthz", Some(Health)),
            ("/page.css", Some(Style)),
            ("/page.js?token=x", Some(Script)),
            ("/page.html", None),
            ("/favicon.svg", Some(Favicon)),
            ("/favicon.ico", Some(Favicon)),
            ("/?action=take", None),
            ("/input_1.json", None),
            ("/controls/brightness", None),
            ("/stop", None),
            ("/nope", None),
            ("/Stream", None),
            ("/stream/", None),
            ("/stream%00", None),
            ("/%00", None),
            ("/../etc/passwd", None),
            ("/snapshot/../stream", None),
            ("/mjpeg/2", None),
            ("*", None),
            ("cam.local:443", None),
            ("https://cam.local/stream", None),
            ("ftp://cam.local/stream", None),
        ] {
            assert_eq!(Route::decode(target).map(|(route, _)| route), route, "{target}");
        }
    }

    #[test]
    fn parameters_are_found_and_decoded() {
        let query = Query("a=1&b=x%20y+z&c&d=%zz%4&a=2&=5&e=%c3%a4%ff");
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("x y z")),
            ("c", Some("")),
            ("d", Some("%zz%4")),
            ("e", Some("ä\u{fffd}")),
            ("f", None),
        ] {
            assert_eq!(query.get(name).as_deref(), value, "{name}");
        }
        assert_eq!(Query::new("action=stream?token=x?y&a=b?c").get("token").as_deref(), Some("x?y"));
        assert_eq!(Query::new("action=stream&a=b?c=d").get("a").as_deref(), Some("b?c=d"));
        let pairs: Vec<_> = Query::new("&a=1&&b=%20").pairs().collect();
        assert_eq!(pairs, [("a".into(), "1".into()), ("b".into(), " ".into())]);
    }

    #[test]
    fn what_each_route_accepts_needs_and_uses() {
        use Route::*;
        for (route, methods, is_public, uses_camera) in [
            (Page, "GET, HEAD, OPTIONS", false, false),
            (Stream, "GET, HEAD, POST, OPTIONS", false, false),
            (Snapshot, "GET, HEAD, OPTIONS", false, true),
            (Still, "GET, HEAD, OPTIONS", false, true),
            (Warm, "GET, HEAD, POST, OPTIONS", false, true),
            (Clip, "GET, HEAD, OPTIONS", false, false),
            (Controls, "GET, HEAD, POST, OPTIONS", false, true),
            (InputJson, "GET, HEAD, OPTIONS", false, true),
            (Command, "GET, POST, OPTIONS", false, false),
            (State, "GET, HEAD, OPTIONS", false, false),
            (Health, "GET, HEAD, OPTIONS", true, false),
            (Style, "GET, HEAD, OPTIONS", true, false),
            (OldPage, "GET, HEAD, OPTIONS", true, false),
        ] {
            let is = (route.methods(), route.is_public(), route.uses_camera());
            assert_eq!(is, (methods, is_public, uses_camera), "{route:?}");
        }
    }

    #[test]
    fn what_does_more_than_read() {
        for (target, method, effect) in [
            ("/controls", Method::Post, Effect::Write),
            ("/controls?brightness=1", Method::Get, Effect::Read),
            ("/?action=command&id=1", Method::Get, Effect::Write),
            ("/still", Method::Get, Effect::Interrupt),
            ("/full_res", Method::Head, Effect::Interrupt),
            ("/snapshot?size=max", Method::Get, Effect::Interrupt),
            ("/?action=snapshot&size=max", Method::Get, Effect::Interrupt),
            ("/warm", Method::Post, Effect::Interrupt),
            ("/snapshot", Method::Get, Effect::Read),
            ("/input.json", Method::Get, Effect::Read),
            ("/stream", Method::Post, Effect::Read),
            ("/state", Method::Get, Effect::Read),
        ] {
            let (route, _) = Route::decode(target).unwrap();
            assert_eq!(route.effect(&method), effect, "{method} {target}");
        }
    }
}
