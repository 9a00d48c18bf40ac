//! For each body: what is written is read, every truncation is refused, and no flipped bit makes a check or
//! an accessor panic; what is still accepted then has the changed value, so that writing it gives the same
//! bytes (one encoding for each value).

#![allow(clippy::cast_possible_truncation, reason = "lengths in these tests are small")]

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::types::{Mid, NODES_MAX, Nanos, NodeId, NodeSet, Service};

const SERVICES: [Service; 5] =
    [Service::Reliable, Service::Fifo, Service::Causal, Service::Agreed, Service::Safe];

fn node() -> impl Strategy<Value = NodeId> {
    (0..NODES_MAX as u16).prop_map(NodeId)
}

/// Below the limit of sequence numbers, small and large ones.
fn seq() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..20, any::<u32>().prop_map(u64::from), (1u64 << 62)..(u64::MAX - (1 << 32))]
}

fn key() -> impl Strategy<Value = RingKey> {
    (seq(), any::<u32>()).prop_map(|(epoch, nonce)| RingKey { epoch, nonce })
}

fn conf() -> impl Strategy<Value = ConfId> {
    (seq(), node(), any::<u32>()).prop_map(|(epoch, rep, nonce)| ConfId { epoch, rep, nonce })
}

fn mid() -> impl Strategy<Value = Mid> {
    (node(), 1u64..).prop_map(|(node, session)| Mid { node, session })
}

fn hear() -> impl Strategy<Value = Vec<Heard>> {
    vec((mid(), any::<u16>(), 0u8..4), 0..20).prop_map(|list| {
        let list: Vec<_> = list.into_iter().map(|(mid, mtu, paths)| Heard { mid, mtu, paths }).collect();
        join::ascending_hear(&list)
    })
}

fn header() -> impl Strategy<Value = Header> {
    (1u8..10, any::<u32>(), any::<u64>(), any::<u64>(), node(), any::<u8>(), any::<u8>()).prop_map(
        |(kind, config_hash, session, counter, sender, key_id, flags)| Header {
            kind: Kind::from_u8(kind).unwrap(),
            config_hash,
            session,
            counter,
            sender,
            key_id,
            flags,
        },
    )
}

fn token() -> impl Strategy<Value = Token> {
    let request = (any::<u8>(), any::<u8>(), node(), seq(), 1u16..).prop_map(
        |(group, tries, requester, start, len)| Request { group, tries, requester, start: start.max(1), len },
    );
    let numbers = (key(), seq(), seq(), seq(), seq(), any::<u32>(), any::<u32>());
    let small = (any::<[u16; 5]>(), proptest::option::of(node()), node());
    (numbers, small, vec(request, 0..=REQUESTS_MAX)).prop_map(|(n, s, requests)| Token {
        ring: n.0,
        token_seq: n.1,
        seq: n.2,
        aru: n.3.min(n.2),
        safe: n.4.min(n.2),
        fcc: n.5,
        backlog: n.6,
        window: s.0[0],
        credit_now: s.0[1],
        credit_last: s.0[2],
        aru_id: s.1,
        last_sender: s.2,
        done_run: s.0[3],
        idle: s.0[4],
        requests: requests.into_iter().collect(),
    })
}

fn join() -> impl Strategy<Value = Join> {
    let lists = (btree_set(mid(), 0..20), any::<u32>(), hear());
    let head = (seq(), seq(), conf(), any::<u32>(), any::<u16>(), any::<bool>(), any::<u32>());
    (head, any::<[u8; 16]>(), lists).prop_map(|(h, hash, (proc, pick, hear))| {
        let proc: Vec<Mid> = proc.into_iter().collect();
        let fail = proc.iter().enumerate().filter(|(i, _)| pick >> i & 1 == 1).map(|(_, mid)| *mid).collect();
        let (epoch, seen, ring, join_no, rotations, leaving, features) = h;
        Join { epoch, seen, ring, join_no, rotations, leaving, features, hash, proc, fail, hear }
    })
}

fn presence() -> impl Strategy<Value = Presence> {
    let states = [State::Operational, State::Gather, State::Commit, State::Recovery];
    let head = (seq(), seq(), proptest::option::of(conf()), 0usize..4, seq(), any::<[bool; 2]>());
    (head, any::<[u8; 16]>(), any::<u128>(), hear()).prop_map(move |(h, hash, members, hear)| {
        let ring = h.2.filter(|ring| ring.epoch != 0);
        Presence {
            epoch: h.0,
            seen: h.1,
            ring,
            state: states[h.3],
            token_seq: h.4,
            leaving: h.5[0],
            probe: h.5[1],
            hash,
            members: NodeSet(members),
            hear,
        }
    })
}

fn group() -> impl Strategy<Value = Group> {
    (conf(), seq(), btree_set(mid(), 0..6), vec(1u64..300, 0..40)).prop_map(|(ring, base, owed, held)| {
        let mut group = Group::new(ring);
        group.raise_base(base);
        held.iter().for_each(|above| assert!(group.insert(base + above)));
        group.obligations = owed.into_iter().collect();
        group
    })
}

fn commit() -> impl Strategy<Value = Commit> {
    let members = proptest::collection::btree_map(node(), (1u64.., any::<u8>()), 1..20);
    (seq(), any::<u32>(), any::<u16>(), any::<u16>(), members, vec(group(), 1..4)).prop_map(
        |(epoch, nonce, hop, done_run, members, mut groups)| {
            groups.truncate(members.len());
            let members: Vec<_> = members
                .into_iter()
                .map(|(node, (session, group))| CommitMember {
                    mid: Mid { node, session },
                    group: group % groups.len() as u8,
                })
                .collect();
            let ring = ConfId { epoch, rep: members[0].mid.node, nonce };
            let hop = hop % (2 * members.len() as u16 + 1);
            Commit { ring, hop, done_run, members, groups }
        },
    )
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    // Whole messages between an end and a beginning of longer ones.
    let whole = vec((1u8..6, vec(any::<u8>(), 0..50)), 0..10);
    let cut = proptest::option::of((1u8..6, vec(any::<u8>(), 1..50)));
    let head = (key(), seq(), seq(), seq(), seq(), any::<u32>(), node());
    (head, cut.clone(), whole, cut, 0usize..9).prop_filter_map("empty", |(h, end, whole, begin, pad)| {
        let chunks = usize::from(end.is_some()) + whole.len() + usize::from(begin.is_some());
        let services = end.iter().chain(&whole).chain(&begin).map(|(service, _)| *service);
        let head = DataHead {
            ring: h.0,
            seq: h.1.max(1),
            token_seq: h.2,
            aru: h.3,
            safe: h.4,
            first_msg_no: h.5,
            origin: h.6,
            chunks: chunks as u8,
            has_safe: services.max() == Some(5),
        };
        let mut out = Vec::new();
        head.write(&mut out);
        let mut put = |first, last, (service, bytes): &(u8, Vec<u8>)| {
            let service = SERVICES[usize::from(*service) - 1];
            Chunk::write_head(&mut out, service, first, last, bytes.len() as u16, bytes.len() as u32 + 9);
            out.extend_from_slice(bytes);
        };
        end.iter().for_each(|m| put(false, true, m));
        whole.iter().for_each(|m| put(true, true, m));
        begin.iter().for_each(|m| put(true, false, m));
        out.resize(out.len() + pad, 0);
        (chunks > 0).then_some(out)
    })
}

fn bytes(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    write(&mut out);
    out.freeze()
}

/// Writes what was read again; `None` for padding, which has no value.
fn rewrite(content: &Content) -> Bytes {
    bytes(|out| match content {
        Content::Data(d) => {
            d.head().write(out);
            let chunks: Vec<_> = d.chunks().collect();
            assert_eq!(chunks.len(), usize::from(d.head().chunks));
            for (i, c) in chunks.iter().enumerate() {
                assert_eq!(d.chunks_from(i as u8).next().as_ref(), Some(c));
                let len = c.bytes.len() as u16;
                Chunk::write_head(out, c.service, c.first, c.last, len, c.total.unwrap_or(0));
                out.extend_from_slice(&c.bytes);
            }
            let pad = d.body().len() - out.len();
            out.resize(out.len() + pad, 0);
        }
        Content::Token(t) => t.write(out),
        Content::TokenRequest(t) => t.write(out),
        Content::Ack(a) => a.write(out),
        Content::Join(j) => j.write(out),
        Content::Commit(c) => c.write(out),
        Content::HopAck(h) => h.write(out),
        Content::Presence(p) => p.write(out),
        Content::Fragment(f) => f.write(out),
    })
}

/// All truncations and all single flipped bits of a body.
fn torture(kind: Kind, good: &Bytes) {
    let content = Content::check(kind, good.clone()).unwrap();
    assert_eq!(rewrite(&content), good);
    for len in 0..good.len() {
        if let Ok(content) = Content::check(kind, good.slice(..len)) {
            // Only what is not part of the value may be cut off: padding, or bytes of a fragment.
            let padding = matches!(kind, Kind::Data | Kind::Presence) && good[len..].iter().all(|b| *b == 0);
            assert!(padding || kind == Kind::Fragment, "{kind:?} cut to {len} of {}", good.len());
            assert_eq!(rewrite(&content), good[..len]);
        }
    }
    for bit in 0..8 * good.len() {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let bad = Bytes::from(bad);
        if let Ok(content) = Content::check(kind, bad.clone()) {
            let again = rewrite(&content);
            // A presence's padding is not part of its value.
            assert!(
                bad.starts_with(&again) && bad[again.len()..].iter().all(|b| *b == 0),
                "{kind:?} bit {bit}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn headers(header in header()) {
        let good = bytes(|out| header.write(out));
        prop_assert_eq!(good.len(), HEADER_LEN);
        prop_assert_eq!(Header::check(&good), Ok(header));
        for len in 0..HEADER_LEN {
            prop_assert!(Header::check(&good[..len]).is_err());
        }
        for bit in 0..8 * HEADER_LEN {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Header::check(&bad) {
                prop_assert_eq!(&bytes(|out| other.write(out))[..], &bad[..]);
            } else {
                prop_assert!(bit < 32 || (192..208).contains(&bit));
            }
        }
    }

    #[test]
    fn data_packets(good in data()) {
        torture(Kind::Data, &good.into());
    }

    #[test]
    fn tokens(token in token()) {
        let good = bytes(|out| token.write(out));
        prop_assert_eq!(good.len(), TOKEN_LEN_MIN + 16 * token.requests.len());
        prop_assert_eq!(Token::check(&good), Ok(token));
        torture(Kind::Token, &good);
    }

    #[test]
    fn short_packets(ring in key(), a in seq(), b in seq(), c in seq(), reject: bool) {
        let ack = Ack { ring, aru: a, safe: b, token_seq: c };
        let good = bytes(|out| ack.write(out));
        prop_assert_eq!((good.len(), Ack::check(&good)), (ACK_LEN, Ok(ack)));
        torture(Kind::Ack, &good);
        let status = if reject { HopStatus::Reject } else { HopStatus::Ok };
        let hop = HopAck { ring, hop: a, status };
        let good = bytes(|out| hop.write(out));
        prop_assert_eq!((good.len(), HopAck::check(&good)), (HOP_ACK_LEN, Ok(hop)));
        torture(Kind::HopAck, &good);
        let request = TokenRequest { ring, token_seq: b };
        let good = bytes(|out| request.write(out));
        prop_assert_eq!((good.len(), TokenRequest::check(&good)), (TOKEN_REQUEST_LEN, Ok(request)));
        torture(Kind::TokenRequest, &good);
    }

    #[test]
    fn joins(join in join()) {
        let good = bytes(|out| join.write(out));
        let entries = 10 * (join.proc.len() + join.fail.len()) + 13 * join.hear.len();
        prop_assert_eq!(good.len(), JOIN_LEN_MIN + entries);
        prop_assert_eq!(Join::check(&good), Ok(join.clone()));
        torture(Kind::Join, &good);
        // The order in the lists of the writer does not matter.
        let mut shuffled = join;
        shuffled.proc.reverse();
        shuffled.fail.reverse();
        shuffled.hear.reverse();
        prop_assert_eq!(bytes(|out| shuffled.write(out)), good);
    }

    #[test]
    fn presences(presence in presence(), pad in 0usize..40) {
        let good = bytes(|out| presence.write(out));
        let entries = 2 * presence.members.len() + 13 * presence.hear.len();
        prop_assert_eq!(good.len(), PRESENCE_LEN_MIN + entries);
        prop_assert_eq!(Presence::check(&good), Ok(presence.clone()));
        torture(Kind::Presence, &good);
        let mut padded = good.to_vec();
        padded.resize(padded.len() + pad, 0);
        prop_assert_eq!(Presence::check(&padded), Ok(presence));
        padded.push(1);
        prop_assert!(Presence::check(&padded).is_err());
    }

    #[test]
    fn commit_tokens(commit in commit()) {
        let good = bytes(|out| commit.write(out));
        prop_assert_eq!(Commit::check(&good), Ok(commit));
        torture(Kind::Commit, &good);
    }

    /// A group's record against a set of numbers.
    #[test]
    fn bitmaps(base in seq(), ops in vec((0u8..4, 0u64..600), 0..100)) {
        let mut group = Group::new(ConfId::default());
        let mut model = std::collections::BTreeSet::new();
        let mut low = 0;
        group.raise_base(base);
        low = low.max(base);
        for (op, n) in ops {
            if op == 0 {
                group.raise_base(base + n);
                low = low.max(base + n);
                model.retain(|seq| *seq > low);
            } else {
                prop_assert!(group.insert(base + n));
                if base + n > low {
                    model.insert(base + n);
                }
            }
            prop_assert_eq!(group.base(), low);
            prop_assert_eq!(group.high(), model.last().copied().unwrap_or(low));
            prop_assert!(group.held().eq(model.iter().copied()));
            prop_assert!((base..base + 700).all(|seq| group.has(seq) == model.contains(&seq)));
        }
        prop_assert!(!group.insert(low + BITMAP_BITS_MAX + 1));
        prop_assert!(group.insert(low + BITMAP_BITS_MAX));
    }

    /// Pieces in any order, with repetitions, give the control packet once.
    #[test]
    fn fragments(body in vec(any::<u8>(), 40..9000), room in 600usize..1400, order in any::<u64>(), id: u32) {
        let pieces = split(Kind::Commit, &body, id, room).unwrap();
        let mut line: Vec<_> = pieces.iter().chain(&pieces).cloned().collect();
        let len = line.len() as u64;
        for i in 0..line.len() {
            line.swap(i, (order.rotate_left(i as u32) % len) as usize);
        }
        for piece in &pieces {
            let good = bytes(|out| piece.write(out));
            prop_assert!(good.len() <= room);
            prop_assert_eq!(Fragment::check(good), Ok(piece.clone()));
        }
        torture(Kind::Fragment, &bytes(|out| Fragment { bytes: Bytes::from_static(b"xyz"), ..pieces[0].clone() }.write(out)));
        let mut reassembly = Reassembly::default();
        let mut seen = 0;
        let mut whole = Vec::new();
        for piece in line {
            if let Some((kind, bytes)) = reassembly.push(Nanos(5), piece) {
                prop_assert_eq!(kind, Kind::Commit);
                whole = bytes.to_vec();
                seen += 1;
            }
        }
        prop_assert!(seen == 1 || seen == 2);
        prop_assert_eq!(whole, body);
    }

    /// Arbitrary bytes after a valid header never panic, whatever is done with the result.
    #[test]
    fn arbitrary_bodies(header in header(), body in vec(any::<u8>(), 0..400)) {
        let packet = bytes(|out| { header.write(out); out.extend_from_slice(&body) });
        if let Ok(packet) = Packet::check(&packet) {
            rewrite(&packet.content);
        }
    }
}

fn piece(control_id: u32, index: u8, count: u8) -> Fragment {
    Fragment { control_id, index, count, bytes: vec![5, index].into() }
}

#[test]
fn a_newer_control_packet_replaces_an_older_one_and_not_the_reverse() {
    let mut r = Reassembly::default();
    assert_eq!(r.push(Nanos(0), piece(u32::MAX, 0, 2)), None);
    assert_eq!(r.push(Nanos(0), piece(0, 0, 2)), None, "0 follows the greatest number");
    assert_eq!(r.push(Nanos(0), piece(u32::MAX, 1, 2)), None);
    assert_eq!(r.push(Nanos(0), piece(0, 1, 2)).map(|(kind, _)| kind), Some(Kind::Join));
    assert_eq!(r.dropped(), 2);
}

#[test]
fn pieces_expire() {
    let mut r = Reassembly::default();
    r.push(Nanos(0), piece(1, 0, 2));
    let late = Nanos(0) + FRAGMENT_TIME_MAX + std::time::Duration::from_nanos(1);
    assert_eq!(r.push(late, piece(1, 1, 2)), None);
    assert!(r.push(late, piece(1, 0, 2)).is_some(), "the pieces of the second try are together");
}

#[test]
fn a_control_packet_of_another_kind_is_dropped() {
    let mut r = Reassembly::default();
    let data = |index| Fragment { bytes: Bytes::from_static(&[1, 1]), ..piece(1, index, 2) };
    assert_eq!(r.push(Nanos(0), data(0)), None);
    assert_eq!(r.push(Nanos(0), data(1)), None);
    assert_eq!(r.dropped(), 1);
}

#[test]
fn what_needs_too_many_pieces_is_not_cut() {
    assert!(split(Kind::Join, &[0; 20_000], 1, 1400).is_some());
    assert!(split(Kind::Join, &[0; 23_000], 1, 1400).is_none(), "17 pieces");
    assert!(split(Kind::Join, &[0; 40_000], 1, 9000).is_none(), "above the buffer");
    assert!(split(Kind::Join, &[0; 100], 1, FRAGMENT_LEN).is_none());
}

/// The table of the design, byte for byte.
#[test]
fn the_bytes_are_where_the_tables_say() {
    let header = Header {
        kind: Kind::Token,
        config_hash: 0x0403_0201,
        session: 0x1122_3344_5566_7788,
        counter: 0,
        sender: NodeId(3),
        key_id: 0,
        flags: FLAG_RETRANSMISSION,
    };
    let ring = RingKey { epoch: 0x10, nonce: 0x20 };
    let ack = Ack { ring, aru: 7, safe: 6, token_seq: 5 };
    let packet = bytes(|out| {
        Header { kind: Kind::Ack, ..header }.write(out);
        ack.write(out);
    });
    let want: [&[u8]; 12] = [
        b"\x53\x52\x01\x04",
        b"\x01\x02\x03\x04",
        b"\x88\x77\x66\x55\x44\x33\x22\x11",
        &[0; 8],
        b"\x03\x00",
        b"\x00",
        b"\x04",
        b"\x10\0\0\0\0\0\0\0",
        b"\x20\0\0\0",
        b"\x07\0\0\0\0\0\0\0",
        b"\x06\0\0\0\0\0\0\0",
        b"\x05\0\0\0\0\0\0\0",
    ];
    assert_eq!(packet, want.concat());
    let mut data = Vec::new();
    Chunk::write_head(&mut data, Service::Safe, true, false, 3, 300);
    assert_eq!(data, b"\x03\x00\x45\x00\x2c\x01\x00\x00");
}
