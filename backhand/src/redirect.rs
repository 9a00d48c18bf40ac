//! Whether a client may be sent to another server, and under which name.
//!
//! A request for `www.example.com` that arrives at `www-3.example.com` may be sent to `www-5.example.com`. A request for
//! `www-3.example.com` itself is never sent away: the client was delivered here on purpose. As no announced name is
//! ever redirected, a redirect cannot loop, whatever the name service says.
// spec: mod_backhand 9.2

use std::net::IpAddr;

use crate::stat::ServerStat;

/// Whether a request for this host (as in its `Host` header, with or without port) may be redirected.
pub fn is_allowed<'a>(host: &str, mut announced: impl Iterator<Item = &'a str>) -> bool {
    let host = normal(host);
    !host.is_empty()
        && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
        && !announced.any(|name| normal(name) == host)
}

/// Lower case, without port and final dot.
fn normal(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(']') => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The authority of the new address, by name. Format: `%h` announced name, `%l` its first label, `%H` the host of the
/// request, `%D` that host without its first label. `None` if the result is no host name.
pub fn by_name(server: &ServerStat, format: Option<&str>, host: &str, default_port: u16) -> Option<String> {
    let (name, host) = (server.hostname.as_str(), normal(host));
    let mut text = String::new();
    let mut chars = format.unwrap_or("%h").chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('h')) => text.push_str(name),
            ('%', Some('l')) => text.push_str(name.split('.').next().unwrap_or_default()),
            ('%', Some('H')) => text.push_str(&host),
            ('%', Some('D')) => text.push_str(host.split_once('.').map_or("", |(_, rest)| rest)),
            (c, _) => text.push(c),
        }
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let good = !text.is_empty() && !text.starts_with('.') && text.bytes().all(legal);
    good.then(|| with_port(text, server.contact.port(), default_port))
}

/// The authority of the new address, by address.
pub fn by_ip(server: &ServerStat, default_port: u16) -> String {
    let host = match server.contact.ip() {
        IpAddr::V4(addr) => addr.to_string(),
        IpAddr::V6(addr) => format!("[{addr}]"),
    };
    with_port(host, server.contact.port(), default_port)
}

fn with_port(host: String, port: u16, default: u16) -> String {
    if port == default { host } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::Name;

    const NAMES: [&str; 2] = ["www-3.example.com", "www-5.example.com"];

    #[test]
    fn the_table_of_the_specification() {
        // spec: mod_backhand 9.2, 12 T14
        for (host, allowed) in [
            ("www.example.com", true),
            ("WWW.Example.com:8080", true),
            ("www-3.example.com", false),
            ("WWW-3.example.com.:80", false),
            ("www-5.example.com", false),
            ("10.0.5.13", false),
            ("10.0.5.13:80", false),
            ("[::1]:80", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(host, NAMES.into_iter()), allowed, "{host}");
        }
    }

    #[test]
    fn names_are_composed() {
        let stat = ServerStat {
            hostname: Name::new("www-5.dc2.internal").unwrap(),
            contact: "10.0.5.15:80".parse().unwrap(),
            ..ServerStat::default()
        };
        let by = |format| by_name(&stat, format, "www.example.com:80", 80);
        assert_eq!(by(None).unwrap(), "www-5.dc2.internal");
        assert_eq!(by(Some("%l.%D")).unwrap(), "www-5.example.com");
        assert_eq!(by(Some("x-%H")).unwrap(), "x-www.example.com");
        assert_eq!(by_name(&stat, None, "a", 443).unwrap(), "www-5.dc2.internal:80");
        assert_eq!(by_name(&stat, Some("%H"), "evil\r\nX: y", 80), None);
        assert_eq!(by_ip(&stat, 80), "10.0.5.15");
        assert_eq!(by_ip(&stat, 8080), "10.0.5.15:80");
    }
}
