//! Round trips of everything, every truncation, flipped bytes, and random bytes: nothing panics.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "helpers of tests")]

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use spread_wire::handshake::{
    Accept, AuthChoice, Hello, MethodList, MethodName, Password, UNIT_MAX, Version,
};
use spread_wire::{
    ByteOrder, Cause, Frame, FrameDecoder, GroupId, GroupName, Header, Hint, Kind, Membership,
    MembershipBody, PrivateGroup, PrivateName, ServiceType, build, limits,
};

fn order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
}

fn group() -> impl Strategy<Value = GroupName> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(GroupName::from_field),
        vec(0x24..=0x7eu8, 1..=31).prop_map(|b| GroupName::new(&b).unwrap()),
    ]
}

fn private() -> impl Strategy<Value = PrivateGroup> {
    (vec(0x24..=0x7eu8, 1..=10), vec(0x24..=0x7eu8, 1..=19)).prop_map(|(name, daemon)| {
        PrivateGroup::parse(&[&b"#"[..], &name, &b"#"[..], &daemon].concat()).unwrap()
    })
}

/// A whole frame of any type, as a client takes it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    (any::<u32>(), group(), any::<[u8; 4]>(), order(), vec(any::<[u8; 32]>(), 0..4), vec(any::<u8>(), 0..40))
        .prop_map(|(service, sender, hint, order, names, data)| {
            let service = ServiceType(service & !ServiceType::MARK);
            let header = Header {
                service,
                sender,
                num_groups: names.len() as u32,
                hint: Hint(hint),
                data_len: data.len() as u32,
                order,
            };
            let original = service.contains(ServiceType::REJECT).then_some(ServiceType::JOIN);
            let mut out = BytesMut::new();
            build::put_frame(&mut out, &header, original, names.iter(), data.len());
            out.extend_from_slice(&data);
            out.to_vec()
        })
}

/// A request that the daemon takes from the session `private`.
fn request(private: PrivateGroup) -> impl Strategy<Value = Vec<u8>> {
    let bit = prop_oneof![0..6u32, 16..19u32];
    (bit, any::<bool>(), any::<i16>(), order(), vec(any::<[u8; 32]>(), 1..=5), vec(any::<u8>(), 0..40))
        .prop_map(move |(bit, discard, message_type, order, names, data)| {
            let mut service = ServiceType(1 << bit);
            if discard {
                service |= ServiceType::SELF_DISCARD;
            }
            let header = Header {
                service,
                sender: private.as_group(),
                num_groups: names.len() as u32,
                hint: Hint::new(message_type, order),
                data_len: data.len() as u32,
                order,
            };
            let mut out = BytesMut::new();
            build::put_frame(&mut out, &header, None, names.iter(), 0);
            out.extend_from_slice(&data);
            out.to_vec()
        })
}

fn membership() -> impl Strategy<Value = Membership> {
    let cause =
        prop_oneof![Just(Cause::Join), Just(Cause::Leave), Just(Cause::Disconnect), Just(Cause::Network)];
    let id = any::<(i32, i32, i32)>().prop_map(|(proc, time, index)| GroupId { proc, time, index });
    (group(), cause, id, vec(group(), 0..5), vec(vec(group(), 0..4), 1..4))
        .prop_map(|(group, cause, id, members, sets)| Membership { group, cause, id, members, sets })
}

/// Everything an accessor can touch. The point is that nothing panics.
fn touch(frame: &Frame) {
    let header = &frame.header;
    assert_eq!(frame.groups().len(), header.num_groups as usize);
    assert_eq!(frame.data().len(), header.data_len as usize);
    assert_eq!(frame.head().len() + frame.data_bytes().len(), frame.raw().len());
    assert_eq!(frame.orig_type.is_some(), header.service.intersects(ServiceType::REJECT));
    let _ = (frame.first_group(), frame.message_type(), frame.kind(), GroupId::of_transition(frame));
    let _ = (format!("{frame:?}"), build::reject(frame));
    if let Ok(body) = MembershipBody::parse(frame) {
        assert_eq!(body.sets().count(), body.num_sets as usize);
        assert_eq!(body.own(), body.sets().nth(body.own_set).unwrap());
        let _ = (body.changed(), Membership::decode(frame).unwrap());
    }
}

/// Decodes all frames of a stream that may be anything.
fn drain(decoder: &mut FrameDecoder, bytes: &[u8]) {
    let mut buf = BytesMut::from(bytes);
    while let Ok(Some(frame)) = decoder.decode(&mut buf) {
        touch(&frame);
    }
    assert!(decoder.wanted(buf.len()) <= limits::RECEIVED_BODY_MAX + 52);
}

proptest! {
    #[test]
    fn header_round_trip(
        service in any::<u32>(), sender in group(), groups in 0..=i32::MAX as u32, hint in any::<[u8; 4]>(),
        data in 0..=i32::MAX as u32, order in order(),
    ) {
        let service = ServiceType(service & !ServiceType::MARK);
        let header = Header { service, sender, num_groups: groups, hint: Hint(hint), data_len: data, order };
        prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
    }

    #[test]
    fn hint_round_trip(message_type in any::<i16>(), order in order()) {
        let hint = Hint::new(message_type, order);
        prop_assert!(hint.is_legal());
        prop_assert_eq!((hint.message_type(), hint.order()), (message_type, order));
    }

    #[test]
    fn names_compare_like_their_bytes(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        let cut = |f: &[u8; 32]| f.iter().copied().take_while(|&b| b != 0).collect::<Vec<_>>();
        let (x, y) = (GroupName::from_field(a), GroupName::from_field(b));
        prop_assert_eq!(x.as_bytes(), &cut(&a)[..]);
        prop_assert_eq!(x.cmp(&y), cut(&a).cmp(&cut(&b)));
        prop_assert_eq!(x.is_empty(), cut(&a).is_empty());
    }

    #[test]
    fn private_group_round_trip(private in private()) {
        let group = private.as_group();
        prop_assert!(group.is_private());
        prop_assert_eq!(PrivateGroup::try_from(&group), Ok(private));
        prop_assert_eq!(private.to_string().parse(), Ok(private));
    }

    #[test]
    fn client_frames_round_trip_and_truncate(bytes in frame()) {
        let mut decoder = FrameDecoder::client();
        for end in 0..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..end]);
            prop_assert_eq!(FrameDecoder::client().decode(&mut buf), Ok(None));
            prop_assert_eq!(&buf[..], &bytes[..end], "nothing is taken");
            prop_assert!(Frame::parse(Bytes::copy_from_slice(&bytes[..end]), usize::MAX).is_err());
        }
        let mut buf = BytesMut::from(&bytes[..]);
        buf.extend_from_slice(b"next");
        let frame = decoder.decode(&mut buf).unwrap().unwrap();
        prop_assert_eq!(&buf[..], b"next");
        prop_assert_eq!(frame.raw(), &bytes);
        prop_assert_eq!(&Frame::parse(frame.raw().clone(), usize::MAX).unwrap(), &frame);
        touch(&frame);
        let mut again = BytesMut::new();
        build::put_frame(&mut again, &frame.header, frame.orig_type, frame.groups(), 0);
        again.extend_from_slice(&frame.data());
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn daemon_frames_truncate_and_normalize(
        (private, bytes) in private().prop_flat_map(|p| (Just(p), request(p))),
    ) {
        for end in 0..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..end]);
            prop_assert_eq!(FrameDecoder::daemon(private).decode(&mut buf), Ok(None));
            prop_assert_eq!(buf.len(), end, "nothing is taken");
        }
        let frame = FrameDecoder::daemon(private).decode(&mut BytesMut::from(&bytes[..])).unwrap().unwrap();
        touch(&frame);
        prop_assert_eq!(&frame.raw()[4..36], &bytes[4..36]);
        prop_assert_eq!(&frame.raw()[40..44], &bytes[40..44]);
        prop_assert_eq!(&frame.raw()[48..], &bytes[48..]);
        let as_delivered = Frame::parse(frame.raw().clone(), limits::BODY_MAX).unwrap();
        prop_assert_eq!(as_delivered.header, Header { order: ByteOrder::Little, ..frame.header });
        // Normalizing is done once: the result is a legal request that stays as it is.
        let mut buf = BytesMut::from(&frame.raw()[..]);
        let again = FrameDecoder::daemon(private).decode(&mut buf).unwrap().unwrap();
        prop_assert_eq!(again.raw(), frame.raw());
        // Byte by byte gives the same.
        let (mut decoder, mut buf) = (FrameDecoder::daemon(private), BytesMut::new());
        let mut slow = None;
        for byte in &bytes {
            buf.extend_from_slice(&[*byte]);
            slow = decoder.decode(&mut buf).unwrap();
        }
        prop_assert_eq!(slow, Some(frame));
    }

    #[test]
    fn flipped_bytes_do_not_panic(bytes in frame(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        drain(&mut FrameDecoder::client(), &bytes);
    }

    #[test]
    fn flipped_requests_do_not_panic(
        (private, bytes) in private().prop_flat_map(|p| (Just(p), request(p))),
        at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        drain(&mut FrameDecoder::daemon(private), &bytes);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300), private in private()) {
        drain(&mut FrameDecoder::client(), &bytes);
        drain(&mut FrameDecoder::daemon(private), &bytes);
        let buf = || BytesMut::from(&bytes[..]);
        let _ = (Hello::decode(&mut buf()), Hello::end(&bytes), MethodList::decode(&mut buf()));
        let _ = (AuthChoice::decode(&mut buf()), Accept::decode(&mut buf(), 1), Password::decode(&mut buf()));
        let _ = (PrivateGroup::parse(&bytes), GroupName::new(&bytes), MethodName::new(&bytes));
    }

    #[test]
    fn memberships_round_trip_truncate_and_flip(
        message in membership(), own in 0..4usize, order in order(), at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let raw = message.encode_in(own, order);
        let frame = FrameDecoder::client().decode(&mut BytesMut::from(&raw[..])).unwrap().unwrap();
        prop_assert_eq!(frame.kind(), Kind::Membership);
        let expected = if own < message.sets.len() { own } else { 0 };
        prop_assert_eq!(Membership::decode(&frame), Ok((message, expected)));

        // A body that is cut anywhere is refused.
        let names = raw.len() - frame.data().len();
        for cut in 1..=frame.data().len() {
            let len = frame.data().len() - cut;
            let header = Header { data_len: len as u32, ..frame.header };
            let short = [&header.encode()[..], &raw[48..names + len]].concat();
            let short = Frame::parse(short.into(), usize::MAX).unwrap();
            prop_assert!(MembershipBody::parse(&short).is_err(), "cut by {}", cut);
        }
        let mut flipped = raw.to_vec();
        let at = at.index(flipped.len());
        flipped[at] ^= flip;
        drain(&mut FrameDecoder::client(), &flipped);
    }

    #[test]
    fn hellos_round_trip_and_truncate(
        major in 3..=127i8, minor in 1..=127i8, patch in 0..=127i8, membership in any::<bool>(),
        gaps in any::<bool>(), priority in 0..8u8, name in proptest::option::of(vec(0x24..=0x7eu8, 1..=10)),
    ) {
        let mut version = Version { major, minor, patch };
        if !version.has_patch() {
            version.patch = 0;
        }
        let name = name.map(|n| PrivateName::new(&n).unwrap());
        // Bit 7 of the flags is the sign, which turns membership off.
        let hello = Hello { version, membership, gaps, priority, name };
        let mut bytes = BytesMut::new();
        hello.encode(&mut bytes);
        prop_assert!(bytes.len() <= UNIT_MAX);
        for end in 0..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..end]);
            prop_assert_eq!(Hello::decode(&mut buf), Ok(None));
            let fixed = if version.has_patch() { 5 } else { 4 };
            prop_assert_eq!(Hello::end(&buf).is_some(), end >= fixed, "only an incomplete name is answered");
        }
        let mut buf = bytes.clone();
        buf.extend_from_slice(b"ahead");
        prop_assert_eq!(Hello::decode(&mut buf), Ok(Some(hello)));
        prop_assert_eq!(&buf[..], b"ahead");
    }

    #[test]
    fn answers_round_trip_and_truncate(private in private(), words in vec("[A-Z]{1,29}", 0..=3)) {
        let methods: Vec<_> = words.iter().map(|w| MethodName::new(w.as_bytes()).unwrap()).collect();
        let (list, choice) = (MethodList::new(methods.clone()), AuthChoice::new(methods.clone()));
        prop_assert!(methods.iter().all(|m| list.offers(m)));
        prop_assert_eq!(choice.methods().collect::<Vec<_>>(), methods);

        let mut bytes = BytesMut::new();
        list.encode(&mut bytes);
        prop_assert!(bytes.len() <= UNIT_MAX);
        for end in 0..bytes.len() {
            prop_assert_eq!(MethodList::decode(&mut BytesMut::from(&bytes[..end])), Ok(None));
        }
        prop_assert_eq!(MethodList::decode(&mut bytes), Ok(Some(list)));

        let mut bytes = BytesMut::new();
        choice.encode(&mut bytes);
        for end in 0..bytes.len() {
            prop_assert_eq!(AuthChoice::decode(&mut BytesMut::from(&bytes[..end])), None);
        }
        prop_assert_eq!(AuthChoice::decode(&mut bytes), Some(choice));

        let accept = Accept::new(&private);
        let mut bytes = BytesMut::new();
        accept.encode(Version::CURRENT, &mut bytes);
        for end in 0..bytes.len() {
            prop_assert_eq!(Accept::decode(&mut BytesMut::from(&bytes[..end]), 7), Ok(None));
        }
        prop_assert_eq!(Accept::decode(&mut bytes, 7), Ok(Some(accept)));

        let (user, password) = (private.to_string(), PrivateName::new(b"secret").unwrap());
        let unit = Password::new(user.as_bytes(), password.as_bytes());
        let mut bytes = BytesMut::new();
        unit.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), 40);
        prop_assert_eq!(Password::decode(&mut BytesMut::from(&bytes[..39])), None);
        prop_assert_eq!(Password::decode(&mut bytes), Some(unit));
        prop_assert_eq!((unit.user(), unit.password()), (user.as_bytes(), password.as_bytes()));
    }
}
