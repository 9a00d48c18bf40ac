//! The corners of the handshake.
//!
//! spec: client-protocol 2.2 to 2.10

use bytes::BytesMut;
use spread_wire::codes;
use spread_wire::handshake::{
    Accept, AuthChoice, HandshakeError, Hello, HelloError, MethodList, MethodName, RejectCode, Version,
};

fn hello(bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
    Hello::decode(&mut BytesMut::from(bytes))
}

fn version(major: i8, minor: i8, patch: i8) -> Version {
    Version { major, minor, patch }
}

#[test]
fn client_versions() {
    // (version bytes, supported, patch byte, authentication)
    for (major, minor, supported, patch, auth) in [
        (2, 9, false, false, false),
        (3, 0, false, false, false),
        (3, 1, true, false, false),
        (3, 14, true, false, false),
        (3, 15, true, true, false),
        (3, 16, true, true, true),
        (4, 0, true, true, true),
        (5, 0, true, true, true),
        (127, 127, true, true, true),
        (-128, 0, false, false, false),
        (5, -1, true, true, true),
    ] {
        let v = version(major, minor, 0);
        assert_eq!((v.is_supported(), v.has_patch(), v.has_auth()), (supported, patch, auth), "{v}");
        let two = [major.cast_unsigned(), minor.cast_unsigned()];
        let expected = if supported { Ok(None) } else { Err(HelloError::Version(v)) };
        assert_eq!(hello(&two), expected, "two bytes are enough to refuse {v}");
    }
    assert_eq!(HelloError::Version(version(2, 9, 0)).reject(), RejectCode::VERSION);
}

#[test]
fn flags_are_signed() {
    let flags = |flags| hello(&[5, 0, 1, flags, 0]).unwrap().map(|h| (h.membership, h.priority)).unwrap();
    assert_eq!(flags(0x01), (true, 0));
    assert_eq!(flags(0x11), (true, 1));
    assert_eq!(flags(0x0f), (true, 0), "bits 1 to 3 are ignored");
    assert_eq!(flags(0x10), (false, 1));
    assert_eq!(flags(0x81), (false, 0), "a negative byte has no membership");
}

#[test]
fn illegal_names_are_refused_as_soon_as_it_is_certain() {
    assert_eq!(hello(&[5, 0, 1, 0, 11]), Err(HelloError::NameLength(11)));
    assert_eq!(hello(&[5, 0, 1, 0, 0xff]), Err(HelloError::NameLength(0xff)));
    for name in [b"a#b", b"a b", b"a\xc3b", b"a\0b"] {
        let found = hello(&[&[5, 0, 1, 0, 3], &name[..]].concat());
        assert!(matches!(found, Err(HelloError::Name(_))), "{found:?}");
        assert_eq!(found.unwrap_err().reject(), RejectCode::ILLEGAL_NAME);
    }
}

#[test]
fn what_comes_with_the_hello_stays_for_the_next_unit() {
    let mut buf = BytesMut::from(&[5, 0, 1, 1, 3][..]);
    buf.extend_from_slice(b"raw");
    AuthChoice::new([MethodName::NULL]).encode(&mut buf);
    assert_eq!(Hello::decode(&mut buf).unwrap().unwrap().name.unwrap().as_str(), "raw");
    let choice = AuthChoice::decode(&mut buf).unwrap();
    assert_eq!(choice.methods().collect::<Vec<_>>(), [MethodName::NULL]);
    assert!(buf.is_empty());
}

#[test]
fn the_end_of_an_incomplete_hello() {
    assert_eq!(Hello::end(b""), None);
    assert_eq!(Hello::end(&[5]), None);
    assert_eq!(Hello::end(&[5, 0, 1, 1]), None);
    assert_eq!(Hello::end(&[3, 14, 1]), None);
    assert_eq!(Hello::end(&[3, 14, 1, 4]), Some(HelloError::Incomplete));
    assert_eq!(Hello::end(&[5, 0, 1, 1, 5, b'a']), Some(HelloError::Incomplete));
}

#[test]
fn choices_end_at_the_first_empty_slot() {
    let mut bytes = BytesMut::zeroed(90);
    assert_eq!(AuthChoice::decode(&mut bytes.clone()).unwrap().methods().count(), 0);
    bytes[..4].copy_from_slice(b"NULL");
    bytes[5..9].copy_from_slice(b"junk");
    bytes[60..62].copy_from_slice(b"IP");
    assert_eq!(
        AuthChoice::decode(&mut bytes.clone()).unwrap().methods().collect::<Vec<_>>(),
        [MethodName::NULL]
    );
    bytes[30..60].fill(b'x');
    let all = AuthChoice::decode(&mut bytes).unwrap();
    let names: Vec<_> = all.methods().map(|m| m.as_bytes().to_vec()).collect();
    assert_eq!(names, [b"NULL".to_vec(), vec![b'x'; 30], b"IP".to_vec()], "three slots are legal");
}

#[test]
fn method_lists() {
    let list = MethodList::new([MethodName::NULL, MethodName::IP]);
    let mut bytes = BytesMut::new();
    list.encode(&mut bytes);
    assert_eq!(&bytes[..], b"\x08NULL IP ");
    assert!(list.offers(&MethodName::IP) && !list.offers(&MethodName::PWORD));
    // The last space is optional for a client, and words must match as a whole.
    let list = MethodList::decode(&mut BytesMut::from(&b"\x06XNULL "[..])).unwrap().unwrap();
    assert!(!list.offers(&MethodName::NULL));
    let list = MethodList::decode(&mut BytesMut::from(&b"\x04NULL"[..])).unwrap().unwrap();
    assert!(list.offers(&MethodName::NULL));
    let empty = MethodList::decode(&mut BytesMut::from(&b"\0\xf7"[..])).unwrap().unwrap();
    assert!(empty.is_empty() && empty.methods().next().is_none());

    let refused = MethodList::decode(&mut BytesMut::from(&[0xf6][..])).unwrap_err();
    assert_eq!(refused.code(), -10, "unknown codes are passed on");
    let long = MethodList::decode(&mut BytesMut::from(&[91][..])).unwrap_err();
    assert_eq!(long.code(), codes::CONNECTION_CLOSED);
}

#[test]
fn accept_blocks() {
    let accept = |bytes: &[u8], priority| Accept::decode(&mut BytesMut::from(bytes), priority);
    let code = |bytes: &[u8], priority| accept(bytes, priority).unwrap_err().code();
    assert_eq!(code(&[0xf7], 0), codes::REJECT_AUTH, "one byte is enough");
    assert_eq!(code(&[0], 0), 0, "as a signed number, whatever it is");
    assert_eq!(code(&[7], 0), 7);
    assert_eq!(accept(&[1, 5, 0, 1], 0), Ok(None));
    assert_eq!(code(&[1, 0x80, 0, 1, 4], 0), codes::CONNECTION_CLOSED);
    assert_eq!(code(&[1, 5, 0x80, 1, 4], 0), codes::CONNECTION_CLOSED);
    assert_eq!(code(&[1, 5, 0, 0xff, 4], 0), codes::CONNECTION_CLOSED);
    assert_eq!(code(&[1, 5, 0, 1, 32], 0), codes::CONNECTION_CLOSED);
    assert_eq!(code(&[1, 5, 0, 1, 0x80], 0), codes::CONNECTION_CLOSED);
    assert_eq!(code(&[1, 2, 99, 1, 4], 0), codes::REJECT_VERSION);
    assert_eq!(code(&[1, 3, 7, 1, 4], 1), codes::REJECT_VERSION);
    assert_eq!(accept(&[1, 3, 7, 1, 4], 0), Ok(None));
    assert_eq!(accept(&[1, 3, 8, 1, 4], 1), Ok(None));
    let block = accept(b"\x01\x05\x00\x01\x05#a#d1", 0).unwrap().unwrap();
    assert_eq!(block.private_group.as_bytes(), b"#a#d1");
    assert_eq!(block.version, Version::CURRENT);
}

#[test]
fn errors_carry_the_code_of_the_c_library() {
    for (error, code) in [
        (HandshakeError::Rejected(RejectCode::QUOTA), -3),
        (HandshakeError::Rejected(RejectCode::NOT_UNIQUE), -6),
        (HandshakeError::Malformed("x"), -8),
        (HandshakeError::Version(Version::CURRENT), -7),
        (HandshakeError::Method, -9),
    ] {
        assert_eq!(error.code(), code);
    }
}
