//! Which URL is what. Every address that framehub answers is in [`Route::decode`], and in one table test.

/// What a request asks for.
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
    /// `/clip?format=json`: what is in it.
    ClipIndex,
    /// `/still`, `/full_res` (MJPGServer), and `/snapshot?size=max`: one picture at full resolution.
    Still,
    /// `/warm`: keeps the camera ready for a still to come.
    Warm,
    /// `/healthz`: whether pictures can be had.
    Health,
    /// `/favicon.ico`: browsers ask, whatever the page says.
    Favicon,
}

impl Route {
    /// The route of a request target, which may be an absolute URI. `None` is 404. Unknown parameters are ignored.
    pub fn decode(target: &str) -> Option<(Self, Query<'_>)> {
        let (path, query) = split(target)?;
        let query = Query(query);
        let route = match path.trim_start_matches('/') {
            "" => match query.get("action").as_deref() {
                None | Some("") => Self::Page,
                Some("stream") => Self::Stream,
                Some("snapshot") => Self::Snapshot,
                Some(_) => return None,
            },
            "stream" | "stream.mjpg" | "mjpg" | "mjpeg/1" => Self::Stream,
            "snapshot" | "snapshot.jpg" | "jpg" => Self::Snapshot,
            "clip" if query.get("format").as_deref() == Some("json") => Self::ClipIndex,
            "clip" => Self::Clip,
            "still" | "full_res" => Self::Still,
            "warm" => Self::Warm,
            "healthz" => Self::Health,
            "favicon.ico" => Self::Favicon,
            _ => return None,
        };
        Some((route, query))
    }

    /// The methods that this route takes, for `Allow`.
    pub fn methods(self) -> &'static str {
        match self {
            // mjpg-streamer's clients on iOS open the stream with POST.
            Self::Stream | Self::Warm => "GET, HEAD, POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }
}

/// Path and query of a target in origin form or absolute form.
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

/// The parameters behind the `?`.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a str);

impl Query<'_> {
    /// The first parameter of this name, decoded; empty where it has no value.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }
}

/// Percent-decoding, `+` as a space; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        bytes.push(match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                rest = &tail[2..];
                (high * 16 + low) as u8
            }
            (b'+', ..) => b' ',
            _ => *byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
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
            ("/full_res?token=x", Some(Still)),
            ("/warm?for=10s", Some(Warm)),
            ("/healthz", Some(Health)),
            ("/favicon.ico", Some(Favicon)),
            ("/?action=take", None),
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
    }
}
