//! The client behind a proxy: `X-Forwarded-For`, from trusted proxies only.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::http::server::head::trim;

/// A trusted proxy: an address, a network such as `10.0.0.0/8`, or all peers of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// A network: its address, and the number of leading bits that count.
    Network(IpAddr, u32),
    /// All peers of a Unix socket.
    Unix,
}

impl Proxy {
    fn is(self, peer: Option<IpAddr>) -> bool {
        match (self, peer.map(|peer| peer.to_canonical())) {
            (Self::Unix, None) => true,
            (Self::Network(IpAddr::V4(network), bits), Some(IpAddr::V4(peer))) => {
                let differs = network.to_bits() ^ peer.to_bits();
                differs.leading_zeros() >= bits
            }
            (Self::Network(IpAddr::V6(network), bits), Some(IpAddr::V6(peer))) => {
                let differs = network.to_bits() ^ peer.to_bits();
                differs.leading_zeros() >= bits
            }
            _ => false,
        }
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok()).filter(|bits| *bits <= most)?;
            // ::ffff:10.0.0.0/104 is 10.0.0.0/8, and peers of a socket for both protocols have such addresses.
            Some(match (address.to_canonical(), address) {
                (v4 @ IpAddr::V4(_), IpAddr::V6(_)) if bits >= 96 => Self::Network(v4, bits - 96),
                _ => Self::Network(address, bits),
            })
        });
        parsed.ok_or_else(|| "invalid proxy: expected an address, a network such as 10.0.0.0/8, or unix".into())
    }
}

/// The client: the peer itself, or the one that trusted proxies name. `fields` are the values of `X-Forwarded-For` in
/// the order in which they were sent. Each proxy appends its own peer, so they are read from the end up to the first
/// address that is not trusted.
pub fn client(trusted: &[Proxy], peer: Option<IpAddr>, fields: &[&str]) -> Option<IpAddr> {
    let is_trusted = |peer| trusted.iter().any(|proxy| proxy.is(peer));
    let mut client = peer;
    for hop in fields.iter().rev().flat_map(|field| field.rsplit(',')) {
        let Some(named) = Some(trim(hop)).filter(|_| is_trusted(client)).and_then(address) else { break };
        client = Some(named);
    }
    client
}

/// Parses an address, to which some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    parsed.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "127.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.255.1.2", "11.0.0.0"),
            ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
        ] {
            let proxy: Proxy = network.parse().unwrap();
            assert!(proxy.is(inside.parse().ok()) && !proxy.is(outside.parse().ok()) && !proxy.is(None), "{network}");
        }
        assert!(Proxy::Unix.is(None) && !Proxy::Unix.is("127.0.0.1".parse().ok()));
        for wrong in ["", "proxy.local", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/", "10.0.0/8", "unix:/x"] {
            assert!(wrong.parse::<Proxy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let (near, far) = (Some("127.0.0.1"), Some("203.0.113.9"));
        for (trusted, peer, fields, expected) in [
            (&[][..], near, &["192.168.1.5"][..], near),
            (&["127.0.0.1"], near, &[], near),
            (&["127.0.0.1"], near, &["192.168.1.5"], Some("192.168.1.5")),
            (&["127.0.0.1"], far, &["192.168.1.5"], far),
            // What the client claimed itself stands in front of what the proxy added.
            (&["127.0.0.1"], near, &["6.6.6.6, 192.168.1.5"], Some("192.168.1.5")),
            (&["127.0.0.1"], near, &["6.6.6.6", "192.168.1.5"], Some("192.168.1.5")),
            (&["127.0.0.1", "10.0.0.0/8"], near, &["6.6.6.6,192.168.1.5, 10.1.1.1"], Some("192.168.1.5")),
            (&["127.0.0.1", "10.0.0.0/8"], near, &["10.1.1.1"], Some("10.1.1.1")),
            (&["127.0.0.1"], near, &["bogus"], near),
            (&["127.0.0.1"], near, &["", "  "], near),
            (&["127.0.0.1", "10.0.0.0/8"], near, &["6.6.6.6, bogus, 10.1.1.1"], Some("10.1.1.1")),
            (&["127.0.0.1"], near, &["192.168.1.5:4711"], Some("192.168.1.5")),
            (&["127.0.0.1"], near, &["[fd00::5]:4711"], Some("fd00::5")),
            (&["127.0.0.1"], near, &["[fd00::5]"], Some("fd00::5")),
            (&["127.0.0.1"], near, &["::ffff:192.168.1.5"], Some("192.168.1.5")),
            (&["unix"], None, &["192.168.1.5"], Some("192.168.1.5")),
            (&["unix"], near, &["192.168.1.5"], near),
            (&["127.0.0.1"], None, &["192.168.1.5"], None),
        ] {
            let trusted: Vec<Proxy> = trusted.iter().map(|text| text.parse().unwrap()).collect();
            let parse = |text: Option<&str>| text.map(|text| text.parse().unwrap());
            assert_eq!(client(&trusted, parse(peer), fields), parse(expected), "{trusted:?} {peer:?} {fields:?}");
        }
    }
}
