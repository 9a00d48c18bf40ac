//! The escapes that the server writes into logged text.

use std::borrow::Cow;

use memchr::memchr;

/// Length of the escape at the head of `text` (which begins with a backslash), if it is one.
pub(crate) fn escape_len(text: &[u8]) -> Option<usize> {
    match text {
        [_, b'n' | b't' | b'r' | b'b' | b'v' | b'"' | b'\\', ..] => Some(2),
        [_, b'x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => Some(4),
        _ => None,
    }
}

/// Removes the escapes of logged text; borrows if there are none. What is no escape stays as it is.
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr(b'\\', text) else { return Cow::Borrowed(text) };
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let [byte, tail @ ..] = rest {
        if *byte != b'\\' {
            out.push(*byte);
            rest = tail;
            continue;
        }
        let Some(len) = escape_len(rest) else {
            out.push(b'\\');
            rest = tail;
            continue;
        };
        out.push(match rest[1] {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'v' => 11,
            b'x' => (hex(rest[2]) << 4) | hex(rest[3]),
            other => other,
        });
        rest = &rest[len..];
    }
    Cow::Owned(out)
}

/// Value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escape_is_removed_and_nothing_else() {
        let text = br#"a\n\t\r\b\v\"\\\xe2\x0Ab\q\x1"#;
        assert_eq!(unescape(text).as_ref(), b"a\n\t\r\x08\x0b\"\\\xe2\nb\\q\\x1");
    }

    #[test]
    fn text_without_escapes_is_borrowed() {
        assert!(matches!(unescape(b"GET / HTTP/1.1"), Cow::Borrowed(_)));
    }
}
