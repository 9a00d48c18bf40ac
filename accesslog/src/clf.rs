//! The three formats that everybody uses, by hand: they are most of all lines.
//!
//! ```text
//! common         = host SP ident SP user SP "[" time "]" SP quoted SP status SP size
//! combined       = common SP quoted SP quoted
//! vhost_combined = vhost ":" port SP combined
//! ```

use memchr::memmem;

use crate::scan::{Scan, body, host, is_vhost, number, size, status};
use crate::time::{CLF_LEN, parse_clf_time};
use crate::{Entry, LineError};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Common,
    Combined,
    VhostCombined,
}

/// Parses a line with its line feed.
pub(crate) fn parse(named: Named, line: &[u8]) -> Result<Entry<'_>, LineError> {
    let mut scan = Scan::new(body(line)?);
    let mut entry = Entry::default();
    if named == Named::VhostCombined {
        vhost(&mut scan, &mut entry)?;
        scan.space()?;
    }
    entry.host = host(scan.word())?;
    scan.space()?;
    entry.ident = dash(scan.word());
    scan.space()?;
    user_and_time(&mut scan, &mut entry)?;
    entry.request_raw = Some(scan.quoted()?);
    scan.space()?;
    entry.status = status(scan.word())?;
    scan.space()?;
    entry.bytes = size(scan.word())?;
    if named != Named::Common {
        scan.space()?;
        entry.referer_raw = Some(scan.quoted()?);
        scan.space()?;
        entry.user_agent_raw = Some(scan.quoted()?);
    }
    if scan.rest.is_empty() { Ok(entry) } else { Err(LineError::TrailingData) }
}

/// `-` is nothing.
pub(crate) fn dash(text: &[u8]) -> Option<&[u8]> {
    (text != b"-").then_some(text)
}

fn vhost<'a>(scan: &mut Scan<'a>, entry: &mut Entry<'a>) -> Result<(), LineError> {
    let word = scan.word();
    if word.is_empty() {
        return Err(LineError::BadSeparator);
    }
    // The port is what follows the last colon: the name may be an IPv6 address.
    let colon = memchr::memrchr(b':', word).ok_or(LineError::BadVhost)?;
    let (name, port) = (&word[..colon], &word[colon + 1..]);
    let port = number(port).and_then(|port| u16::try_from(port).ok());
    if !is_vhost(name) || port.is_none() {
        return Err(LineError::BadVhost);
    }
    entry.vhost = Some(name);
    entry.vhost_port = port;
    Ok(())
}

/// The user may contain spaces and brackets, but no bare quote. So the first `] "` of the line ends the time,
/// and the time has a fixed length.
fn user_and_time<'a>(scan: &mut Scan<'a>, entry: &mut Entry<'a>) -> Result<(), LineError> {
    let text = scan.rest;
    if !text.contains(&b'[') {
        return Err(LineError::MissingField);
    }
    // Nearly always the user is one word.
    let word = memchr::memchr(b' ', text).unwrap_or(text.len());
    let one_word = text.get(word + 2 + CLF_LEN..).is_some_and(|rest| rest.starts_with(b"] \""));
    let close =
        if one_word { word + 2 + CLF_LEN } else { memmem::find(text, b"] \"").ok_or(LineError::BadTime)? };
    let open = close.checked_sub(CLF_LEN + 1).ok_or(LineError::BadTime)?;
    let time = &text[open + 1..close];
    if text[open] != b'[' {
        return Err(LineError::BadTime);
    }
    let stamp = parse_clf_time(time).ok_or(LineError::BadTime)?;
    let user = match text[..open].split_last() {
        Some((b' ', user)) if !user.is_empty() => user,
        _ => return Err(LineError::BadSeparator),
    };
    entry.user = match user {
        b"-" => None,
        b"\"\"" => Some(b""),
        user => Some(user),
    };
    entry.time = Some(time);
    entry.time_us = stamp.unix.checked_mul(1_000_000);
    entry.utc_offset = Some(stamp.utc_offset);
    scan.take(close + 2);
    Ok(())
}
