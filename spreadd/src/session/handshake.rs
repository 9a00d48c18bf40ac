//! The connect handshake, daemon side: from the first byte to an established session or a refusal.
//!
//! Partial input is collected until the time limits of [`Times`] pass; other connections are served meanwhile.
//!
//! spec: client-protocol 2, 12.1

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use spread_wire::handshake::{
    Accept, AuthChoice, Hello, MethodList, MethodName, Password, RejectCode, Version,
};
use spread_wire::{DaemonName, PrivateGroup};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::auth::{Auth, Method, Peer};
use super::brake::{Brake, Source};
use super::policy::{Access, Client};
use super::registry::Seat;

/// Bytes read at once. A client may send requests ahead, behind the authentication choice.
const READ_LEN: usize = 1024;

/// A refused client may send so many bytes more; they are thrown away so that the code reaches it.
const LINGER_BYTES_MAX: usize = 64 << 10;

/// Time limits of the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For the whole hello. spec: client-protocol 2.8
    pub(crate) hello: Duration,
    /// For what follows, up to the accept block.
    pub(crate) auth: Duration,
    /// For a refused client to close.
    pub(crate) linger: Duration,
}

/// What the handshake needs to know of the daemon.
pub(crate) struct Rules<'a> {
    pub(crate) daemon: DaemonName,
    pub(crate) access: &'a Access,
    pub(crate) times: Times,
    pub(crate) brake: &'a Brake,
    /// Whose wrong passwords are counted together with those of this client.
    pub(crate) source: Source,
}

/// A client that passed.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) client: Client,
    /// Whether it wants membership messages.
    pub(crate) membership: bool,
    /// Whether it wants to know where messages were dropped.
    pub(crate) gaps: bool,
    /// Must be sent before anything else.
    pub(crate) accept: BytesMut,
    /// What the client sent ahead.
    pub(crate) ahead: BytesMut,
}

/// A client that did not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// This code is to be sent.
    Refused(RejectCode),
    /// Gone, or too slow for the fixed part of the hello: closed without a byte.
    Gone,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        // Whatever the error, nothing can be told to this client any more.
        Self::Gone
    }
}

/// Runs the handshake. `certified` is the name of a certificate that the client has proved to be its own. On [`Failure::Refused`] the caller frees the seat and calls [`refuse`].
///
/// # Cancel safety
/// Dropping it drops the connection attempt, nothing else.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    peer: Peer,
    certified: Option<Arc<str>>,
    seat: &mut Seat,
    rules: &Rules<'_>,
) -> Result<Established, Failure> {
    let start = Instant::now();
    let mut buf = BytesMut::with_capacity(READ_LEN);
    let hello = read_hello(socket, &mut buf, start + rules.times.hello).await?;
    let name = match hello.name {
        Some(name) if seat.take_name(name) => name,
        Some(_) => return Err(Failure::Refused(RejectCode::NOT_UNIQUE)),
        None => seat.invent_name(),
    };
    let private = PrivateGroup::new(name, rules.daemon);
    let mut client = Client { private, user: certified, peer };
    let auth = rules.access.auth();
    let passes = if hello.version.has_auth() {
        let limit = Instant::now() + rules.times.auth;
        match timeout_at(limit, authenticate(socket, &mut buf, &auth, rules, &mut client)).await {
            Ok(result) => result?,
            Err(_) => false,
        }
    } else {
        auth.decide_old(peer)
    };
    if !passes || !rules.access.policy().connect(&client) {
        return Err(Failure::Refused(RejectCode::AUTH));
    }
    let accept = accept(&client.private, hello.version);
    Ok(Established { client, membership: hello.membership, gaps: hello.gaps, accept, ahead: buf })
}

async fn read_hello<S: AsyncRead + Unpin>(
    socket: &mut S,
    buf: &mut BytesMut,
    limit: Instant,
) -> Result<Hello, Failure> {
    loop {
        match Hello::decode(buf) {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) => {}
            Err(error) => return Err(Failure::Refused(error.reject())),
        }
        match timeout_at(limit, read_more(socket, buf)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => {
                let refused = Hello::end(buf).map(|error| Failure::Refused(error.reject()));
                return Err(refused.unwrap_or(Failure::Gone));
            }
            Ok(Err(error)) => return Err(error.into()),
        }
    }
}

/// Runs the chosen and the required methods. All are run, also after one has failed: what the client sends for
/// them is expected. spec: client-protocol 2.5
async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    buf: &mut BytesMut,
    auth: &Auth,
    rules: &Rules<'_>,
    client: &mut Client,
) -> Result<bool, Failure> {
    let choice = choose(socket, buf, auth).await?;
    let names: Vec<_> = choice.methods().collect();
    let Some(plan) = auth.plan(names.iter().map(MethodName::as_bytes)) else { return Ok(false) };
    let mut passes = true;
    for method in plan {
        passes &= match method {
            Method::Null => true,
            Method::Ip => auth.access.allows(client.peer),
            Method::Pword => password(socket, buf, auth, rules, client).await?,
        };
    }
    Ok(passes)
}

/// The exchange of the `PWORD` method. spec: client-protocol 2.6
async fn password<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    buf: &mut BytesMut,
    auth: &Auth,
    rules: &Rules<'_>,
    client: &mut Client,
) -> Result<bool, Failure> {
    let given = loop {
        if let Some(password) = Password::decode(buf) {
            break password;
        }
        if !read_more(socket, buf).await? {
            return Err(Failure::Refused(RejectCode::AUTH));
        }
    };
    let user = auth.passwords.check(given.user(), given.password(), rules.source, rules.brake).await;
    let answer = if user.is_some() { Password::GOOD } else { Password::BAD };
    socket.write_all(&[answer]).await?;
    let passes = user.is_some();
    client.user = user.or_else(|| client.user.take());
    Ok(passes)
}

/// Offers the methods and waits for the choice.
async fn choose<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    buf: &mut BytesMut,
    auth: &Auth,
) -> Result<AuthChoice, Failure> {
    let list =
        MethodList::new(auth.allowed.iter().filter_map(|method| MethodName::new(method.name().as_bytes())));
    let mut out = BytesMut::new();
    list.encode(&mut out);
    socket.write_all(&out).await?;
    if list.is_empty() {
        return Err(Failure::Refused(RejectCode::AUTH));
    }
    loop {
        if let Some(choice) = AuthChoice::decode(buf) {
            return Ok(choice);
        }
        if !read_more(socket, buf).await? {
            return Err(Failure::Refused(RejectCode::AUTH));
        }
    }
}

fn accept(private: &PrivateGroup, client: Version) -> BytesMut {
    let mut out = BytesMut::new();
    Accept::new(private).encode(client, &mut out);
    out
}

/// Appends what has arrived; false at the end of the stream.
async fn read_more<S: AsyncRead + Unpin>(socket: &mut S, buf: &mut BytesMut) -> io::Result<bool> {
    // Called only while a unit of the handshake is incomplete, so the buffer stays below two reads.
    buf.reserve(READ_LEN);
    Ok(socket.read_buf(buf).await? > 0)
}

/// Sends the code and closes. Reads what the client still sends, so that the close does not turn into a reset
/// that overtakes the code (spec: client-protocol 2.7).
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, code: RejectCode, times: Times) {
    let closing = async {
        socket.write_all(&[code.to_byte()]).await?;
        socket.shutdown().await?;
        let mut scrap = [0; READ_LEN];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match socket.read(&mut scrap).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // Errors and slowness are the client's loss: it is refused anyway.
    let _ = timeout(times.linger, closing).await;
}

#[cfg(test)]
mod tests {
    use spread_wire::PrivateName;

    use super::super::auth::{Method, Methods};
    use super::super::passwords::Passwords;
    use super::super::policy::Permit;
    use super::super::registry::Registry;
    use super::*;

    const TIMES: Times = Times {
        hello: Duration::from_millis(1000),
        auth: Duration::from_secs(10),
        linger: Duration::from_secs(1),
    };

    const CHOICE_NULL: &[u8; 90] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    /// Runs the handshake against a client that sends `input` and then either closes or waits.
    async fn run_with(auth: &Auth, input: &[u8], close: bool) -> (Result<Established, Failure>, Vec<u8>) {
        let registry = Arc::new(Registry::new(10));
        let mut taken = registry.admit().unwrap();
        assert!(taken.take_name(PrivateName::new(b"taken").unwrap()));
        let mut seat = registry.admit().unwrap();
        let (mut near, mut far) = tokio::io::duplex(4096);
        far.write_all(input).await.unwrap();
        if close {
            far.shutdown().await.unwrap();
        }
        let daemon = DaemonName::new(b"localhost").unwrap();
        let access = Access::new(auth.clone(), Arc::new(Permit));
        let brake = Brake::default();
        let source = Source::new(Peer::Local, 0);
        let rules = Rules { daemon, access: &access, times: TIMES, brake: &brake, source };
        let result = run(&mut near, Peer::Local, None, &mut seat, &rules).await;
        drop(near);
        let mut answer = Vec::new();
        far.read_to_end(&mut answer).await.unwrap();
        (result, answer)
    }

    #[tokio::test(start_paused = true)]
    async fn partial_hello_is_judged_when_its_time_is_over() {
        let auth = Auth::default();
        for (input, expected) in [
            (&b""[..], Failure::Gone),
            (b"\x05\0\x01\x01", Failure::Gone),
            (b"\x05\0\x01\x01\x05ali", Failure::Refused(RejectCode::ILLEGAL_NAME)),
            (b"\x05\0\x01\x01\x05", Failure::Refused(RejectCode::ILLEGAL_NAME)),
        ] {
            for close in [false, true] {
                let (result, answer) = run_with(&auth, input, close).await;
                assert_eq!(result.unwrap_err(), expected, "{input:?} {close}");
                assert!(answer.is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_have_their_codes() {
        let auth = Auth::default();
        let long_choice = [b"\x05\0\x01\x01\x03abc".as_slice(), &[b'x'; 90]].concat();
        for (input, code) in [
            (&b"\x02\x09\0\0"[..], RejectCode::VERSION),
            (b"\x80\0\0\0\0", RejectCode::VERSION),
            (b"\x05\0\x01\x01\x0bsomebodyxyz", RejectCode::ILLEGAL_NAME),
            (b"\x05\0\x01\x01\x03a#b", RejectCode::ILLEGAL_NAME),
            (b"\x05\0\x01\x01\x05taken", RejectCode::NOT_UNIQUE),
            (b"\x05\0\x01\x01\x03abc", RejectCode::AUTH),
            (&long_choice, RejectCode::AUTH),
        ] {
            let (result, _) = run_with(&auth, input, false).await;
            assert_eq!(result.unwrap_err(), Failure::Refused(code), "{input:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_offer_is_sent_before_the_refusal() {
        let auth = Auth { allowed: Methods::NONE, ..Auth::default() };
        let (result, answer) = run_with(&auth, b"\x05\0\x01\x01\x03abc", false).await;
        assert_eq!(result.unwrap_err(), Failure::Refused(RejectCode::AUTH));
        assert_eq!(answer, b"\0");
    }

    #[tokio::test(start_paused = true)]
    async fn everything_at_once_and_requests_ahead() {
        let auth = Auth { allowed: Methods::one(Method::Null).with(Method::Ip), ..Auth::default() };
        let input = [b"\x05\0\x01\x01\x05alice".as_slice(), CHOICE_NULL, b"ahead"].concat();
        let (result, answer) = run_with(&auth, &input, false).await;
        let session = result.unwrap();
        assert_eq!(answer, b"\x08NULL IP ");
        assert!(session.membership);
        assert_eq!(&session.accept[..], b"\x01\x05\0\x01\x10#alice#localhost");
        assert_eq!(&session.ahead[..], b"ahead");
    }

    #[tokio::test(start_paused = true)]
    async fn old_clients_have_no_authentication_and_older_ones_no_patch_byte() {
        let auth = Auth::default();
        let (result, answer) = run_with(&auth, b"\x03\x0e\x01\x03old", false).await;
        assert_eq!(&result.unwrap().accept[..], b"\x01\x05\0\x0e#old#localhost");
        assert!(answer.is_empty());
        let (result, _) = run_with(&auth, b"\x03\x0f\0\x81\x03old", false).await;
        let session = result.unwrap();
        assert_eq!(&session.accept[..], b"\x01\x05\0\x01\x0e#old#localhost");
        assert!(!session.membership, "the flags byte is signed");
    }

    #[tokio::test(start_paused = true)]
    async fn passwords_are_asked_for_when_chosen_or_required() {
        let passwords = Passwords::parse("alice:abgOeLfPimXQo").unwrap();
        let pword = Methods::one(Method::Pword);
        let chosen = Auth { allowed: pword, passwords: passwords.clone(), ..Auth::default() };
        let required = Auth { required: pword, passwords, ..Auth::default() };
        let with = |choice: &[u8], user: &[u8], password: &[u8]| {
            let mut bytes = BytesMut::from(&b"\x05\0\x01\0\x02me"[..]);
            AuthChoice::new([MethodName::new(choice).unwrap()]).encode(&mut bytes);
            Password::new(user, password).encode(&mut bytes);
            bytes.extend_from_slice(b"ahead");
            bytes
        };
        for (auth, choice, list) in
            [(&chosen, &b"PWORD"[..], &b"\x06PWORD "[..]), (&required, b"NULL", b"\x05NULL ")]
        {
            let (result, answer) = run_with(auth, &with(choice, b"alice", b"test"), false).await;
            let session = result.unwrap();
            assert_eq!(answer, [list, b"\x01"].concat());
            assert_eq!(session.client.user.as_deref(), Some("alice"));
            assert_eq!(&session.ahead[..], b"ahead");
            let (result, answer) = run_with(auth, &with(choice, b"alice", b"wrong"), false).await;
            assert_eq!(result.unwrap_err(), Failure::Refused(RejectCode::AUTH));
            assert_eq!(answer, [list, b"\0"].concat());
        }
        // Neither silence nor an end gets past it.
        let silent = &with(b"NULL", b"alice", b"test")[..97];
        for close in [false, true] {
            let (result, _) = run_with(&required, silent, close).await;
            assert_eq!(result.unwrap_err(), Failure::Refused(RejectCode::AUTH));
        }
    }
}
