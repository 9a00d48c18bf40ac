//! The fields of one line.

use std::borrow::Cow;

use crate::escape::unescape;

/// The fields of one line, borrowed from it. What the format does not have is `None`; so is a `-`.
///
/// Texts are as logged, with the server's escapes; [`unescape`] removes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Client host or address (`%h`, `%a`). Empty if the format has none.
    pub host: &'a [u8],
    /// Virtual host (`%v`, `%V`).
    pub vhost: Option<&'a [u8]>,
    /// Port of the virtual host (`%p`).
    pub vhost_port: Option<u16>,
    /// Remote log name (`%l`).
    pub ident: Option<&'a [u8]>,
    /// User (`%u`), with escapes; an empty name is an empty text.
    pub user: Option<&'a [u8]>,
    /// Text of `%t` between the brackets.
    pub time: Option<&'a [u8]>,
    /// The best time of the record, in microseconds since 1970 UTC.
    pub time_us: Option<i64>,
    /// Seconds east of UTC in the text of the time.
    pub utc_offset: Option<i32>,
    /// First line of the request (`%r`), with escapes. `None` if the format has none; a request that the
    /// server did not read is `-`.
    pub request_raw: Option<&'a [u8]>,
    /// Status (`%s`, `%>s`).
    pub status: Option<u16>,
    /// Bytes of the response (`%b`, `%B`, `%O`).
    pub bytes: Option<u64>,
    /// Time taken, in microseconds (`%D`, `%T`, `%{ms}T`...).
    pub duration_us: Option<u64>,
    /// `%{Referer}i`, with escapes.
    pub referer_raw: Option<&'a [u8]>,
    /// `%{User-Agent}i`, with escapes.
    pub user_agent_raw: Option<&'a [u8]>,
    /// Method (`%m`), if it is logged apart from the request.
    pub method_raw: Option<&'a [u8]>,
    /// Path (`%U`), if it is logged apart from the request.
    pub path_raw: Option<&'a [u8]>,
}

/// A first line of a request in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// For example `GET`.
    pub method: Cow<'a, [u8]>,
    /// Path and query.
    pub target: Cow<'a, [u8]>,
    /// For example `HTTP/1.1`; `None` for HTTP/0.9.
    pub protocol: Option<Cow<'a, [u8]>>,
}

impl<'a> Entry<'a> {
    /// The first line of the request without escapes; `None` for `-`.
    pub fn request(&self) -> Option<Cow<'a, [u8]>> {
        text(self.request_raw?)
    }

    /// The user without escapes.
    pub fn user(&self) -> Option<Cow<'a, [u8]>> {
        self.user.map(unescape)
    }

    /// The referring page without escapes; `None` for `-`.
    pub fn referer(&self) -> Option<Cow<'a, [u8]>> {
        text(self.referer_raw?)
    }

    /// The client's program without escapes; `None` for `-`.
    pub fn user_agent(&self) -> Option<Cow<'a, [u8]>> {
        text(self.user_agent_raw?)
    }

    /// The parts of the request. `None` if it is not of the form `method target protocol` or, for HTTP/0.9,
    /// `method /target`: bad requests are logged too.
    pub fn request_line(&self) -> Option<RequestLine<'a>> {
        match self.request()? {
            Cow::Borrowed(request) => {
                let (method, target, protocol) = split(request)?;
                Some(RequestLine {
                    method: method.into(),
                    target: target.into(),
                    protocol: protocol.map(Cow::Borrowed),
                })
            }
            Cow::Owned(request) => {
                let (method, target, protocol) = split(&request)?;
                Some(RequestLine {
                    method: method.to_owned().into(),
                    target: target.to_owned().into(),
                    protocol: protocol.map(|p| p.to_owned().into()),
                })
            }
        }
    }
}

/// A logged text: `-` is none.
fn text(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    (raw != b"-").then(|| unescape(raw))
}

/// Method, target and protocol.
type Parts<'a> = (&'a [u8], &'a [u8], Option<&'a [u8]>);

fn split(request: &[u8]) -> Option<Parts<'_>> {
    let mut words = request.split(|&b| b == b' ');
    let (method, target, protocol) = (words.next()?, words.next()?, words.next());
    let good = is_token(method)
        && words.next().is_none()
        && match protocol {
            None => target.first() == Some(&b'/'),
            Some(protocol) => {
                !target.is_empty()
                    && matches!(protocol, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                        if major.is_ascii_digit() && minor.is_ascii_digit())
            }
        };
    good.then_some((method, target, protocol))
}

/// Token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let legal = |&b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.iter().all(legal)
}
