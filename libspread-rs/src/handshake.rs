//! The client's side of the connect handshake as a state machine without a socket.
//!
//! ```text
//! Hello --list--> Choice --(PWORD answers)--> Accept --> Established
//! ```
//!
//! Calling order: write [`Handshake::poll_transmit`] until it gives nothing, read, give what arrived to
//! [`Handshake::handle_input`], and again. Each unit leaves with one write, as Spread 5.0.1 needs it.
//!
//! Source: `spec/client-protocol.md#2`, `#12.2`.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use spread_wire::handshake::{Accept, AuthChoice, HandshakeError, Hello, MethodList, MethodName, Password};
use spread_wire::{PrivateGroup, PrivateName};

use crate::builder::{Auth, Config};
use crate::error::{ConnectError, Reject};

/// What the daemon says when it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Established {
    pub(crate) private_group: PrivateGroup,
    pub(crate) version: (u8, u8, u8),
}

#[derive(Debug)]
enum State {
    WaitList,
    /// Answers of the password method that are still to come, then the accept block.
    WaitAccept {
        answers: usize,
    },
}

/// One handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    auth: Vec<Auth>,
    priority: u8,
    state: State,
    output: VecDeque<BytesMut>,
}

impl Handshake {
    pub(crate) fn new(config: &Config) -> Self {
        let name: Option<PrivateName> = config.name;
        let priority = u8::from(config.priority);
        let mut hello = BytesMut::new();
        let gaps = config.gap_marks;
        Hello { gaps, ..Hello::new(name, config.membership, priority) }.encode(&mut hello);
        Self { auth: config.auth.clone(), priority, state: State::WaitList, output: VecDeque::from([hello]) }
    }

    /// Gives the next unit to be written.
    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.output.pop_front()
    }

    /// Takes what has arrived so far; units are removed from `input` when they are complete. Bytes behind the handshake
    /// stay there.
    pub(crate) fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<Established>, ConnectError> {
        loop {
            match &mut self.state {
                State::WaitList => {
                    let Some(list) = MethodList::decode(input).map_err(refused)? else { return Ok(None) };
                    self.choose(&list)?;
                }
                State::WaitAccept { answers } if *answers > 0 => match input.first() {
                    None => return Ok(None),
                    Some(&Password::GOOD) => {
                        input.advance(1);
                        *answers -= 1;
                    }
                    Some(&Password::BAD) => return Err(ConnectError::AuthFailed),
                    Some(&byte) => {
                        return Err(refused(HandshakeError::Rejected(spread_wire::handshake::RejectCode(
                            byte.cast_signed(),
                        ))));
                    }
                },
                State::WaitAccept { .. } => {
                    let Some(accept) = Accept::decode(input, self.priority).map_err(refused)? else {
                        return Ok(None);
                    };
                    let private_group = PrivateGroup::try_from(&accept.private_group).map_err(|error| {
                        let what = format!("private group {}: {error}", accept.private_group);
                        ConnectError::Protocol { what }
                    })?;
                    let version = accept.version;
                    // The wire layer lets no negative version pass.
                    let byte = |b: i8| b.unsigned_abs();
                    return Ok(Some(Established {
                        private_group,
                        version: (byte(version.major), byte(version.minor), byte(version.patch)),
                    }));
                }
            }
        }
    }

    fn choose(&mut self, list: &MethodList) -> Result<(), ConnectError> {
        let mut chosen = Vec::new();
        let mut answers = 0;
        let mut passwords = Vec::new();
        for auth in &self.auth {
            let method = match auth {
                Auth::Null => MethodName::NULL,
                Auth::Ip => MethodName::IP,
                Auth::Password { user, password } => {
                    let mut out = BytesMut::new();
                    Password::new(user.as_bytes(), password.as_bytes()).encode(&mut out);
                    passwords.push(out);
                    answers += 1;
                    MethodName::PWORD
                }
            };
            if !list.offers(&method) {
                let offered: Vec<_> = list.methods().map(|m| m.escape_ascii().to_string()).collect();
                return Err(ConnectError::AuthNotOffered {
                    method: auth.name().to_owned(),
                    offered: offered.join(" "),
                });
            }
            chosen.push(method);
        }
        let mut choice = BytesMut::new();
        AuthChoice::new(chosen).encode(&mut choice);
        self.output.push_back(choice);
        self.output.extend(passwords);
        self.state = State::WaitAccept { answers };
        Ok(())
    }
}

fn refused(error: HandshakeError) -> ConnectError {
    match error {
        HandshakeError::Rejected(code) => ConnectError::Rejected { reason: Reject::from_code(code.0) },
        HandshakeError::Version(version) => ConnectError::Version {
            major: version.major.unsigned_abs(),
            minor: version.minor.unsigned_abs(),
            patch: version.patch.unsigned_abs(),
        },
        other => ConnectError::Protocol { what: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;

    fn start(builder: Builder) -> (Handshake, Vec<u8>) {
        let mut handshake = Handshake::new(builder.config());
        let hello = handshake.poll_transmit().unwrap().to_vec();
        assert!(handshake.poll_transmit().is_none());
        (handshake, hello)
    }

    fn builder() -> Builder {
        Builder::new("4803").unwrap()
    }

    fn feed(handshake: &mut Handshake, bytes: &[u8]) -> Result<Option<Established>, ConnectError> {
        handshake.handle_input(&mut BytesMut::from(bytes))
    }

    const ACCEPT: &[u8] = b"\x01\x05\x00\x01\x10#alice#localhost";

    /// spec: client-protocol 11, the connect of `alice`.
    #[test]
    fn the_recorded_connect_is_byte_exact() {
        let (mut handshake, hello) = start(builder().private_name("alice").unwrap().membership(true));
        assert_eq!(hello, b"\x05\x00\x01\x01\x05alice");
        assert_eq!(feed(&mut handshake, b"\x05NULL ").unwrap(), None);
        let choice = handshake.poll_transmit().unwrap();
        assert_eq!(&choice[..5], b"NULL\0");
        assert_eq!(choice.len(), 90);
        assert!(choice[4..].iter().all(|b| *b == 0));
        let established = feed(&mut handshake, ACCEPT).unwrap().unwrap();
        assert_eq!(established.private_group.to_string(), "#alice#localhost");
        assert_eq!(established.version, (5, 0, 1));
    }

    #[test]
    fn one_byte_at_a_time_is_the_same_and_later_bytes_stay() {
        let (mut handshake, _) = start(builder());
        let mut all = b"\x05NULL ".to_vec();
        all.extend_from_slice(ACCEPT);
        all.extend_from_slice(b"rest");
        let mut input = BytesMut::new();
        let mut done = None;
        for byte in all {
            input.extend_from_slice(&[byte]);
            if done.is_none() {
                done = handshake.handle_input(&mut input).unwrap();
            }
        }
        assert!(done.is_some());
        assert_eq!(&input[..], b"rest");
    }

    /// spec: client-protocol 2.2, 2.7; c-api-cases CN35 to CN47.
    #[test]
    fn answers_map_to_the_codes_of_the_original() {
        let cases: [(&[u8], i32); 9] = [
            (b"\xfb", -5),
            (b"\xf6", -10),
            (b"\x5b", -8),
            (b"\x00", -9),
            (b"\x05NULL \xf7", -9),
            (b"\x05NULL \x01\x02\x09\x09\x10", -7),
            (b"\x05NULL \x01\x05\x80\x00\x10", -8),
            (b"\x05NULL \x01\x05\x00\x01\x20", -8),
            (b"\x03IP ", -9),
        ];
        for (answer, code) in cases {
            let (mut handshake, _) = start(builder());
            assert_eq!(feed(&mut handshake, answer).unwrap_err().code(), code, "{answer:x?}");
        }
        let (mut handshake, hello) = start(builder().priority(true).membership(true));
        assert_eq!(hello, b"\x05\x00\x01\x11\x00");
        let old = feed(&mut handshake, b"\x05NULL \x01\x03\x07\x00\x04").unwrap_err();
        assert!(matches!(old, ConnectError::Version { major: 3, minor: 7, patch: 0 }));
    }

    /// spec: client-protocol 2.6
    #[test]
    fn a_password_is_sent_after_the_choice_and_answered() {
        let auth = Auth::Password { user: "joe".into(), password: "secret".into() };
        assert!(!format!("{auth:?}").contains("secret"));
        let (mut handshake, _) = start(builder().auth([auth.clone()]));
        assert_eq!(feed(&mut handshake, b"\x0bNULL PWORD ").unwrap(), None);
        assert_eq!(&handshake.poll_transmit().unwrap()[..6], b"PWORD\0");
        let secret = handshake.poll_transmit().unwrap();
        assert_eq!(secret.len(), 40);
        assert_eq!(&secret[..4], b"joe\0");
        assert_eq!(&secret[32..], b"secret\0\0");
        assert_eq!(feed(&mut handshake, b"\x01").unwrap(), None);
        assert!(feed(&mut handshake, ACCEPT).unwrap().is_some());

        let (mut handshake, _) = start(builder().auth([auth]));
        feed(&mut handshake, b"\x06PWORD ").unwrap();
        assert!(matches!(feed(&mut handshake, b"\x00\xf7"), Err(ConnectError::AuthFailed)));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let (mut handshake, _) = start(builder());
            let _ = feed(&mut handshake, &bytes);
        }
    }
}
