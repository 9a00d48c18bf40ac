//! Every row of the header checks, each with the error it has.
//!
//! spec: client-protocol 4.1
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::BytesMut;
use spread_wire::{
    ByteOrder, Frame, FrameDecoder, FrameError, GroupName, Header, Hint, PrivateGroup, ServiceType, limits,
};

fn session() -> PrivateGroup {
    "#alice#d1".parse().unwrap()
}

fn field(name: &[u8]) -> GroupName {
    let mut field = [0; 32];
    field[..name.len()].copy_from_slice(name);
    GroupName::from_field(field)
}

fn header(order: ByteOrder) -> Header {
    Header {
        service: ServiceType::AGREED,
        sender: session().as_group(),
        num_groups: 1,
        hint: Hint::new(7, order),
        data_len: 3,
        order,
    }
}

/// What a daemon says to a header alone: `Ok(None)` if it waits for the body.
fn check(header: &Header) -> Result<Option<Frame>, FrameError> {
    check_bytes(&header.encode())
}

fn check_bytes(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    FrameDecoder::daemon(session()).decode(&mut BytesMut::from(bytes))
}

fn with(order: ByteOrder, change: impl FnOnce(&mut Header)) -> Result<Option<Frame>, FrameError> {
    let mut header = header(order);
    change(&mut header);
    check(&header)
}

const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];

#[test]
fn exactly_one_request_bit_is_legal() {
    for order in ORDERS {
        let nine = [0, 1, 2, 3, 4, 5, 16, 17, 18].map(|bit| ServiceType(1 << bit));
        for a in nine {
            assert_eq!(with(order, |h| h.service = a), Ok(None), "{a}");
            for b in nine.into_iter().filter(|b| *b != a) {
                assert_eq!(with(order, |h| h.service = a | b), Err(FrameError::SeveralRequests(a | b)));
            }
        }
        for none in [ServiceType(0), ServiceType::SELF_DISCARD, ServiceType::DROP_RECV] {
            assert_eq!(with(order, |h| h.service = none), Err(FrameError::NoRequest(none)));
        }
    }
}

#[test]
fn bits_of_daemons_are_refused_with_any_request() {
    for request in [ServiceType::FIFO, ServiceType::SAFE, ServiceType::JOIN, ServiceType::KILL] {
        let groups = request | ServiceType::GROUPS;
        assert_eq!(with(ByteOrder::Little, |h| h.service = groups), Err(FrameError::InternalBit(groups)));
        let reject = request | ServiceType::REJECT;
        assert_eq!(with(ByteOrder::Little, |h| h.service = reject), Err(FrameError::RejectBit(reject)));
        for bit in 8..14 {
            let membership = request | ServiceType(1 << bit);
            assert_eq!(
                with(ByteOrder::Little, |h| h.service = membership),
                Err(FrameError::MembershipBits(membership)),
            );
        }
    }
}

#[test]
fn unchecked_bits_pass() {
    let bits = [0x40, 0x4000, 0x8000, 0x10_0000, 0x20_0000, 0x80_0000, 0x100_0000, 0x7e00_0000];
    for order in ORDERS {
        for bits in bits {
            let service = ServiceType::FIFO | ServiceType(bits);
            assert_eq!(with(order, |h| h.service = service), Ok(None), "{service}");
        }
    }
}

#[test]
fn the_sender_is_the_private_group_of_the_session() {
    let malformed: [&[u8]; 7] =
        [b"", b"alice", b"#alice", b"##d1", b"#alice#", b"#abcdefghijk#d1", b"#al ice#d1"];
    for name in malformed {
        let sender = field(name);
        assert_eq!(with(ByteOrder::Little, |h| h.sender = sender), Err(FrameError::SenderForm(sender)));
    }
    for name in [b"#alice#d2".as_slice(), b"#alice#d1#", b"#alice#d", b"#alice#d1 "] {
        let sender = field(name);
        assert_eq!(with(ByteOrder::Little, |h| h.sender = sender), Err(FrameError::SenderDaemon(sender)));
    }
    let sender = field(b"#alicf#d1");
    assert_eq!(with(ByteOrder::Big, |h| h.sender = sender), Err(FrameError::SenderName(sender)));
}

#[test]
fn bytes_after_the_name_of_the_sender_do_not_matter() {
    let mut bytes = header(ByteOrder::Little).encode();
    bytes[4 + 10..36].fill(0xee);
    assert_eq!(check_bytes(&bytes), Ok(None));
    // Byte 31 is forced to zero first: a longest name that fills the field to its end is still cut there.
    let longest: PrivateGroup = "#abcdefghij#abcdefghijklmnopqrs".parse().unwrap();
    let mut bytes =
        Header { sender: longest.as_group(), num_groups: 0, ..header(ByteOrder::Little) }.encode();
    bytes[35] = b'x';
    let mut buf = BytesMut::from(&bytes[..]);
    buf.extend_from_slice(b"abc");
    let frame = FrameDecoder::daemon(longest).decode(&mut buf).unwrap().unwrap();
    assert_eq!(frame.header.sender, longest.as_group());
    assert_eq!(frame.raw()[35], 0);
    // The other bytes after the first zero are passed on unchanged.
    let mut bytes = header(ByteOrder::Big).encode();
    bytes[14..35].fill(0xee);
    let mut buf = BytesMut::from(&bytes[..]);
    buf.extend_from_slice(&[0; 35]);
    let frame = FrameDecoder::daemon(session()).decode(&mut buf).unwrap().unwrap();
    assert_eq!(frame.raw()[14..35], [0xee; 21]);
}

#[test]
fn the_number_of_groups_is_limited() {
    for order in ORDERS {
        assert_eq!(with(order, |h| h.num_groups = 100), Ok(None));
        assert_eq!(with(order, |h| h.num_groups = 101), Err(FrameError::GroupCount(101)));
        assert_eq!(with(order, |h| h.num_groups = u32::MAX), Err(FrameError::GroupCount(-1)));
        assert_eq!(with(order, |h| h.num_groups = 1 << 31), Err(FrameError::GroupCount(i32::MIN)));
    }
}

#[test]
fn no_group_is_legal_but_for_join_and_leave() {
    for service in [ServiceType::JOIN, ServiceType::LEAVE] {
        let found = with(ByteOrder::Little, |h| (h.service, h.num_groups) = (service, 0));
        assert_eq!(found, Err(FrameError::NoGroup(service)));
    }
    for service in [ServiceType::KILL, ServiceType::AGREED] {
        let found = with(ByteOrder::Little, |h| (h.service, h.num_groups, h.data_len) = (service, 0, 0));
        assert!(matches!(found, Ok(Some(_))), "{service}");
    }
}

#[test]
fn the_hint_has_only_type_and_mark() {
    for (hint, legal) in [
        ([0x80, 0xff, 0xff, 0x80], true),
        ([0x00, 0xff, 0xff, 0x00], true),
        ([0x80, 0x34, 0x12, 0x00], true),
        ([0x00, 0x34, 0x12, 0x80], true),
        ([0x81, 0x34, 0x12, 0x80], false),
        ([0x00, 0x34, 0x12, 0x01], false),
        ([0x40, 0x00, 0x00, 0x00], false),
    ] {
        let expected = if legal { Ok(None) } else { Err(FrameError::HintBits(hint)) };
        assert_eq!(with(ByteOrder::Big, |h| h.hint = Hint(hint)), expected);
    }
}

#[test]
fn the_data_length_and_the_sum_are_limited() {
    let len = |groups, data| with(ByteOrder::Little, |h| (h.num_groups, h.data_len) = (groups, data));
    assert_eq!(len(1, 143_120), Ok(None));
    assert_eq!(len(1, 143_121), Err(FrameError::TooLong { bytes: 143_153, max: limits::BODY_MAX }));
    assert_eq!(len(1, 143_920), Err(FrameError::TooLong { bytes: 143_952, max: limits::BODY_MAX }));
    assert_eq!(len(0, 144_000), Err(FrameError::TooLong { bytes: 144_000, max: limits::BODY_MAX }));
    assert_eq!(len(0, 144_001), Err(FrameError::DataLength(144_001)));
    assert_eq!(len(0, u32::MAX), Err(FrameError::DataLength(-1)));
    assert_eq!(len(100, 143_152 - 3200), Ok(None));
    assert_eq!(len(100, 143_153 - 3200), Err(FrameError::TooLong { bytes: 143_153, max: limits::BODY_MAX }));
}

#[test]
fn one_mark_bit_alone_reads_as_the_other_order() {
    // spec: client-protocol 3.2: the fields get swapped, and the message normally fails.
    for byte in [0, 3] {
        let mut bytes = header(ByteOrder::Little).encode();
        bytes[byte] &= 0x7f;
        assert!(check_bytes(&bytes).is_err());
        let mut bytes = header(ByteOrder::Big).encode();
        bytes[byte] |= 0x80;
        assert_eq!(check_bytes(&bytes), Ok(None));
    }
}

#[test]
fn a_client_takes_what_a_daemon_may_send() {
    let client = |header: Header| FrameDecoder::client().decode(&mut BytesMut::from(&header.encode()[..]));
    let base = header(ByteOrder::Big);
    assert_eq!(client(Header { num_groups: 5000, ..base }), Ok(None), "no limit of 100 names");
    assert_eq!(client(Header { num_groups: 1 << 31, ..base }), Err(FrameError::GroupCount(i32::MIN)));
    assert_eq!(client(Header { data_len: u32::MAX, ..base }), Err(FrameError::DataLength(-1)));
    let found = client(Header { num_groups: i32::MAX.cast_unsigned(), ..base });
    assert!(matches!(found, Err(FrameError::TooLong { max: limits::RECEIVED_BODY_MAX, .. })));
}

#[test]
fn a_header_alone_reserves_little() {
    let mut decoder = FrameDecoder::client();
    let huge = Header { data_len: 16_000_000, ..header(ByteOrder::Little) };
    let mut buf = BytesMut::from(&huge.encode()[..]);
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    assert!(buf.capacity() < 40_000, "{} bytes for a header", buf.capacity());
    assert_eq!(decoder.wanted(buf.len()), 16_000_000 + 32);
    assert_eq!(decoder.pending(), Some(&huge));
}

#[test]
fn wanted_never_reads_beyond_the_frame() {
    let mut decoder = FrameDecoder::client();
    let mut stream = BytesMut::new();
    for _ in 0..3 {
        stream.extend_from_slice(&header(ByteOrder::Big).encode());
        stream.extend_from_slice(&[b'x'; 35]);
    }
    let (mut buf, mut frames) = (BytesMut::new(), 0);
    loop {
        match decoder.decode(&mut buf).unwrap() {
            Some(_) => {
                frames += 1;
                assert!(buf.is_empty());
            }
            None if stream.is_empty() => break,
            None => {
                let wanted = decoder.wanted(buf.len());
                assert!(wanted > 0);
                buf.extend_from_slice(&stream.split_to(wanted));
            }
        }
    }
    assert_eq!(frames, 3);
}

#[test]
fn daemons_with_unusual_names_are_served() {
    for daemon in ["nœud-é", "on call", "a#b"] {
        let private = PrivateGroup::new("alice".parse().unwrap(), daemon.parse().unwrap());
        assert_eq!(PrivateGroup::try_from(&private.as_group()), Ok(private));
        let bytes =
            Header { sender: private.as_group(), num_groups: 0, data_len: 0, ..header(ByteOrder::Big) }
                .encode();
        let frame = FrameDecoder::daemon(private).decode(&mut BytesMut::from(&bytes[..])).unwrap();
        assert_eq!(frame.unwrap().header.sender, private.as_group());
    }
}
