//! What is read of a request beside its session: bytes of the client, whatever they are.
// spec: mod_backhand 9

/// Path and query as received, without scheme and authority of the absolute form. `None` if it has no path.
#[inline]
pub fn target(unparsed: &[u8]) -> Option<&[u8]> {
    // Nearly all.
    if unparsed.starts_with(b"/") { Some(unparsed) } else { absolute(unparsed) }
}

fn absolute(unparsed: &[u8]) -> Option<&[u8]> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| unparsed.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let rest = unparsed.get(scheme?.len()..)?;
    rest.get(rest.iter().position(|b| *b == b'/')?..)
}

/// Methods that may be sent twice.
// spec: mod_backhand 9.4
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"PROPFIND")
}

/// Whether the values of these headers announce a body.
pub fn has_body(transfer_encoding: Option<&[u8]>, content_length: Option<&[u8]>) -> bool {
    transfer_encoding.is_some() || content_length.is_some_and(|len| len != b"0")
}

/// The last address of `X-Forwarded-For`: the one that the server before this one saw. Whether it is an address has to
/// be looked at.
// spec: mod_backhand 9.3
pub fn forwarded(header: &[u8]) -> &[u8] {
    header.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_what_follows_the_authority() {
        for (unparsed, expected) in [
            ("/a?b", Some("/a?b")),
            ("//a", Some("//a")),
            ("http://www.example.com/a?http://b/", Some("/a?http://b/")),
            ("HTTPS://www.example.com:8080/", Some("/")),
            ("http://www.example.com", None),
            ("ftp://www.example.com/a", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(target(unparsed.as_bytes()), expected.map(str::as_bytes), "{unparsed}");
        }
    }

    #[test]
    fn the_last_forwarded_address_counts() {
        for (header, expected) in
            [("192.0.2.1", "192.0.2.1"), ("10.0.0.1,\tfd00::1 ", "fd00::1"), ("a,", ""), ("", "")]
        {
            assert_eq!(forwarded(header.as_bytes()), expected.as_bytes(), "{header}");
        }
    }

    #[test]
    fn a_length_of_nothing_is_no_body() {
        assert!(!has_body(None, None) && !has_body(None, Some(b"0")));
        assert!(has_body(None, Some(b"00")) && has_body(Some(b"chunked"), Some(b"0")));
    }
}
