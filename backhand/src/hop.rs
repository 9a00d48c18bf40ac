//! The header that marks a request sent from server to server: such a request is never sent on, so a loop is impossible.
//!
//! `Backhand-Hop: 1; from=10.0.5.10:80; t=1700000000000000; id=7; mac=0123...`; the last two only with a key.
// spec: mod_backhand 9.3

use std::io::Write;
use std::net::SocketAddr;

use arrayvec::ArrayVec;

use crate::address;
use crate::announce::Key;
use crate::stat::Micros;

/// Name of the header.
pub const HEADER: &str = "Backhand-Hop";
/// Largest difference of the clocks of two servers with keys.
const CLOCK_LIMIT: Micros = Micros::from_secs(30);
/// Longest value.
const LEN_MAX: usize = 200;
/// Bytes of the code that are sent.
const MAC: usize = 16;

/// What the code covers of a request.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Method.
    pub method: &'a [u8],
    /// `Host` header.
    pub host: &'a [u8],
    /// Path and query as sent.
    pub target: &'a [u8],
}

impl Signed<'_> {
    fn data(&self, from: SocketAddr, stamp: Micros) -> Vec<u8> {
        let head = format!("1\n{from}\n{}", stamp.0);
        [head.as_bytes(), self.method, self.host, self.target].join(&b'\n')
    }
}

/// A server that sends requests on, with the part of the header that is the same in all of them.
#[derive(Clone, Debug)]
pub struct Origin {
    from: SocketAddr,
    head: String,
}

impl Origin {
    /// The server whose announced contact this is.
    pub fn new(from: SocketAddr) -> Self {
        Self { from, head: format!("1; from={from}; t=") }
    }

    /// The value of the header for a request.
    pub fn header<'r>(
        &self,
        now: Micros,
        key: Option<&Key>,
        request: impl FnOnce() -> Signed<'r>,
    ) -> ArrayVec<u8, LEN_MAX> {
        let mut value = ArrayVec::new();
        // The longest address, time, number and code need 160 bytes.
        let _ = value.try_extend_from_slice(self.head.as_bytes());
        push_decimal(&mut value, now.0);
        if let Some(key) = key {
            let code = key.sign(&request().data(self.from, now));
            let _ = write!(value, "; id={}; mac={}", key.id, hex(&code));
        }
        value
    }
}

/// As the standard library writes it, but for every request.
fn push_decimal(text: &mut ArrayVec<u8, LEN_MAX>, mut number: u64) {
    let from = text.len();
    loop {
        #[allow(clippy::cast_possible_truncation, reason = "below 10")]
        let digit = b'0' + (number % 10) as u8;
        let full = text.try_push(digit).is_err();
        number /= 10;
        if number == 0 || full {
            break;
        }
    }
    text[from..].reverse();
}

fn hex(code: &[u8; 32]) -> String {
    code.iter().take(MAC).map(|b| format!("{b:02x}")).collect()
}

/// Who sent a request, as its header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender<'a> {
    /// The announced contact.
    pub contact: SocketAddr,
    /// The same, as it stands in the header.
    pub text: &'a [u8],
}

/// Who sent the request, if the header is believed. With keys the code must be right and fresh; without, the caller
/// says by `is_peer` whether the other end of the connection may be that server.
pub fn verify<'a, 'r>(
    value: &'a [u8],
    now: Micros,
    keys: &[Key],
    request: impl FnOnce() -> Signed<'r>,
    is_peer: impl FnOnce(SocketAddr) -> bool,
) -> Option<Sender<'a>> {
    if value.len() > LEN_MAX || !value.is_ascii() {
        return None;
    }
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let mut parts = value.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    if parts.next()? != b"1" {
        return None;
    }
    let (mut from, mut stamp, mut id, mut mac) = (None, None, None, None);
    for part in parts {
        let (name, value) = part.split_at_checked(part.iter().position(|b| *b == b'=')?)?;
        let value = value.get(1..)?;
        match name {
            b"from" => from = Some(Sender { contact: address::contact(value)?, text: value }),
            b"t" => stamp = Some(Micros(text(value)?.parse().ok()?)),
            b"id" => id = Some(text(value)?.parse::<u8>().ok()?),
            b"mac" => mac = Some(value),
            _ => {}
        }
    }
    let (from, stamp) = (from?, stamp?);
    if keys.is_empty() {
        return is_peer(from.contact).then_some(from);
    }
    if now.since(stamp) > CLOCK_LIMIT || stamp.since(now) > CLOCK_LIMIT {
        return None;
    }
    let (id, mac) = (id?, mac?);
    let data = request().data(from.contact, stamp);
    let good = keys.iter().filter(|key| key.id == id).any(|key| equal(hex(&key.sign(&data)).as_bytes(), mac));
    good.then_some(from)
}

/// Compares in a time that does not depend on where the first difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Micros = Micros(1_700_000_000_000_000);
    const REQUEST: Signed<'_> = Signed { method: b"GET", host: b"www.example.com", target: b"/a?b" };

    const FROM: &str = "10.0.5.10:80";

    fn sender<'a>() -> Option<Sender<'a>> {
        Some(Sender { contact: FROM.parse().unwrap(), text: FROM.as_bytes() })
    }

    fn make(key: Option<&Key>) -> String {
        String::from_utf8(Origin::new(FROM.parse().unwrap()).header(NOW, key, || REQUEST).to_vec()).unwrap()
    }

    #[test]
    fn a_signed_header_holds_for_its_request_and_time_only() {
        let key = Key::new(7, b"secret");
        let value = make(Some(&key));
        let check = |value: &str, now, request| {
            verify(value.as_bytes(), now, std::slice::from_ref(&key), || request, |_| true).map(|s| s.contact)
        };
        let good = sender().map(|s| s.contact);
        assert_eq!(check(&value, NOW, REQUEST), good);
        assert_eq!(check(&value, NOW.plus(Micros::from_secs(30)), REQUEST), good);
        assert_eq!(check(&value, NOW.plus(Micros::from_secs(31)), REQUEST), None);
        assert_eq!(check(&value, Micros(NOW.0 - 31_000_000), REQUEST), None);
        assert_eq!(check(&value, NOW, Signed { target: b"/a?c", ..REQUEST }), None);
        assert_eq!(check(&value, NOW, Signed { method: b"PUT", ..REQUEST }), None);
        assert_eq!(check(&value.replace("5.10", "5.11"), NOW, REQUEST), None);
        assert_eq!(check(&make(None), NOW, REQUEST), None);
        let other = Key::new(7, b"other");
        assert_eq!(verify(value.as_bytes(), NOW, &[other], || REQUEST, |_| true), None);
    }

    #[test]
    fn numbers_are_written_as_usual() {
        for number in [0, 9, 10, 1_700_000_000_000_000, u64::MAX] {
            let mut text = ArrayVec::new();
            push_decimal(&mut text, number);
            assert_eq!(text[..], *number.to_string().as_bytes());
        }
    }

    #[test]
    fn without_keys_the_other_end_must_be_the_server() {
        let value = make(None);
        assert_eq!(value, "1; from=10.0.5.10:80; t=1700000000000000");
        assert_eq!(
            verify(value.as_bytes(), Micros(0), &[], || REQUEST, |a| Some(a) == sender().map(|s| s.contact)),
            sender()
        );
        assert_eq!(verify(value.as_bytes(), NOW, &[], || REQUEST, |_| false), None);
        assert_eq!(verify(b"2; from=10.0.5.10:80; t=1", NOW, &[], || REQUEST, |_| true), None);
    }

    #[test]
    fn what_is_not_well_formed_is_not_believed() {
        for bad in [
            "1; from=10.0.5.10:80; t=now",
            "1; from=10.0.5.10:80; t=",
            "1; from=10.0.5.10:80; t=1; id=300",
            "1; from=10.0.5.10:80; t=1; more",
            "1; from=10.0.5.10:80; t=1; x=\u{e4}",
            "1; from=10.0.5.10; t=1",
            "1; from=10.0.5.10:80",
            "1; t=1",
        ] {
            assert_eq!(verify(bad.as_bytes(), NOW, &[], || REQUEST, |_| true), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "1; (from|t|id|mac)=.{0,20}") {
            let key = [Key::new(7, b"secret")];
            prop_assert_eq!(verify(&bytes, NOW, &key, || REQUEST, |_| true), None);
            prop_assert_eq!(verify(text.as_bytes(), NOW, &key, || REQUEST, |_| true), None);
        }
    }
}
