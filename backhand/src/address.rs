//! Addresses in headers, read as the standard library reads them, but at every request: the usual form first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An address without port.
pub fn ip(text: &[u8]) -> Option<IpAddr> {
    match ipv4(text) {
        Some((addr, [])) => Some(addr.into()),
        _ => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// An address with port.
pub fn contact(text: &[u8]) -> Option<SocketAddr> {
    if let Some((addr, [b':', port @ ..])) = ipv4(text)
        && let Some((port, [])) = number(port)
        && let Ok(port) = u16::try_from(port)
    {
        return Some((addr, port).into());
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Four numbers, and what follows.
fn ipv4(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let (mut octets, mut rest) = ([0u8; 4], text);
    for (place, octet) in octets.iter_mut().enumerate() {
        if place > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let value;
        (value, rest) = number(rest)?;
        *octet = u8::try_from(value).ok()?;
    }
    Some((octets.into(), rest))
}

/// Up to five digits without needless zeros, and what follows.
fn number(text: &[u8]) -> Option<(u32, &[u8])> {
    let (mut value, mut len) = (0, 0);
    while let Some(digit @ b'0'..=b'9') = text.get(len) {
        if len == 5 || (len == 1 && value == 0) {
            return None;
        }
        value = value * 10 + u32::from(digit - b'0');
        len += 1;
    }
    (len > 0).then(|| (value, &text[len..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the standard library alone.
    fn check(text: &str) {
        assert_eq!(ip(text.as_bytes()), text.parse().ok(), "{text}");
        assert_eq!(contact(text.as_bytes()), text.parse().ok(), "{text}");
    }

    #[test]
    fn odd_addresses_are_read_as_usual() {
        for text in [
            "",
            "1",
            "10.0.5.10",
            "10.0.5.10:80",
            "10.0.5.10:0",
            "10.0.5.10:00080",
            "10.0.5.10:65536",
            "10.0.5.10:",
            "10.0.5.010:80",
            "00.0.0.0",
            "0.0.0.0",
            "256.1.1.1",
            "10.0.5",
            "10.0.5.1.2",
            "10.0.5.10 ",
            "10.0.5.10:80x",
            "fd00::1",
            "[fd00::1]:80",
            "::ffff:10.0.5.10",
            "10.0.5.10:000000080",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn all_addresses_are_read_as_usual(text in "[0-9]{0,4}([.:][0-9]{0,6}){0,5}", addr in any::<SocketAddr>()) {
            check(&text);
            check(&addr.to_string());
            check(&addr.ip().to_string());
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let text = std::str::from_utf8(&bytes);
            prop_assert_eq!(ip(&bytes), text.ok().and_then(|t| t.parse().ok()));
            prop_assert_eq!(contact(&bytes), text.ok().and_then(|t| t.parse().ok()));
        }
    }
}
