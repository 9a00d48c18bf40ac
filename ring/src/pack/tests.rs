#![allow(clippy::cast_possible_truncation, reason = "lengths in these tests are small")]

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::assemble::Assembler;
use crate::types::NodeId;
use crate::wire::{Data, DataHead, RingKey};

const SERVICES: [Service; 5] =
    [Service::Reliable, Service::Fifo, Service::Causal, Service::Agreed, Service::Safe];

fn packet(packer: &mut Packer, seq: u64, room: usize) -> Option<Data> {
    let mut chunks = BytesMut::new();
    let filled = packer.fill(room, &mut chunks)?;
    let mut body = BytesMut::new();
    let head = DataHead {
        ring: RingKey { epoch: 2, nonce: 7 },
        seq,
        token_seq: 1,
        aru: 0,
        safe: 0,
        first_msg_no: filled.first_msg_no,
        origin: NodeId(0),
        chunks: filled.chunks,
        has_safe: filled.has_safe,
    };
    head.write(&mut body);
    body.extend_from_slice(&chunks);
    Some(Data::check(body.freeze()).expect("the packer writes packets that pass the check"))
}

fn drain(packer: &mut Packer, room: usize) -> Vec<Data> {
    let mut seq = 0;
    std::iter::from_fn(|| {
        seq += 1;
        packet(packer, seq, room)
    })
    .collect()
}

fn assemble(packets: &[Data], to: &mut Assembler) -> Vec<(Service, Vec<u8>)> {
    let mut out = Vec::new();
    for packet in packets {
        for chunk in packet.chunks() {
            let whole = to.push(NodeId(0), chunk).expect("chunks continue each other");
            out.extend(whole.map(|(service, body)| (service, body.to_bytes().to_vec())));
        }
    }
    out
}

/// A message whose bytes tell their position, cut into parts.
fn body(len: usize, parts: usize, fill: u8) -> Body {
    let bytes: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i as u8)).collect();
    let bytes = Bytes::from(bytes);
    if parts <= 1 {
        return Body::One(bytes);
    }
    let size = len.div_ceil(parts).max(1);
    Body::Many((0..parts).map(|i| bytes.slice((i * size).min(len)..((i + 1) * size).min(len))).collect())
}

fn messages() -> impl Strategy<Value = Vec<(Service, Body)>> {
    let len = prop_oneof![3 => 0usize..40, 2 => 40usize..400, 1 => 400usize..5000];
    let message = (0usize..5, len, 1usize..5, any::<u8>());
    vec(message.prop_map(|(s, len, parts, fill)| (SERVICES[s], body(len, parts, fill))), 0..60)
}

fn plain(messages: &[(Service, Body)]) -> Vec<(Service, Vec<u8>)> {
    messages.iter().map(|(service, body)| (*service, body.to_bytes().to_vec())).collect()
}

proptest! {
    #[test]
    fn what_is_packed_is_assembled(messages in messages(), room in 9usize..1500) {
        let mut packer = Packer::new(&Limits::default());
        for (service, body) in &messages {
            packer.push(*service, body.clone()).unwrap();
        }
        let packets = drain(&mut packer, room);
        prop_assert!(packer.is_empty());
        prop_assert_eq!(packer.bytes_waiting(), 0);
        let mut begun = 0u32;
        for (i, packet) in packets.iter().enumerate() {
            // All but the last have exactly the same size.
            if i + 1 < packets.len() {
                prop_assert_eq!(packet.chunk_bytes().len(), room);
            } else {
                prop_assert!(packet.chunk_bytes().len() <= room);
            }
            prop_assert_eq!(packet.head().first_msg_no, begun);
            begun += packet.chunks().filter(|chunk| chunk.first).count() as u32;
        }
        let mut assembler = Assembler::new(1, 16 << 20);
        prop_assert_eq!(assemble(&packets, &mut assembler), plain(&messages));
        prop_assert_eq!((assembler.unfinished(), assembler.interrupted()), (0, 0));
    }

    /// A membership change after any number of packets: complete messages were sent, the unfinished one and
    /// the rest follow in the next ring, nothing is lost and nothing comes twice.
    #[test]
    fn an_unfinished_message_starts_again(messages in messages(), room in 9usize..600, cut in 0usize..40) {
        let mut packer = Packer::new(&Limits::default());
        for (service, body) in &messages {
            packer.push(*service, body.clone()).unwrap();
        }
        let before: Vec<_> = (0..cut).map_while(|i| packet(&mut packer, i as u64 + 1, room)).collect();
        let mut assembler = Assembler::new(1, 16 << 20);
        let mut got = assemble(&before, &mut assembler);
        prop_assert_eq!(assembler.unfinished() == 1, packer.is_mid_message());
        assembler.reset();
        packer.rewind();
        packer.rewind();
        prop_assert_eq!(packer.len(), messages.len() - got.len());
        let after = drain(&mut packer, room);
        got.extend(assemble(&after, &mut assembler));
        prop_assert_eq!(got, plain(&messages));
    }

    /// The estimate is what is really needed, but for the totals and the padding.
    #[test]
    fn the_estimate_of_packets_is_close(messages in messages(), room in 64usize..1500) {
        let mut packer = Packer::new(&Limits::default());
        for (service, body) in &messages {
            packer.push(*service, body.clone()).unwrap();
        }
        let estimate = packer.packets(room);
        let needed = drain(&mut packer, room).len();
        prop_assert_eq!(estimate == 0, needed == 0);
        prop_assert!(estimate <= needed && needed <= 2 * estimate + 1, "{} for {}", estimate, needed);
    }

    /// Messages taken whole and messages packed may alternate; limits follow.
    #[test]
    fn the_byte_count_never_drifts(messages in messages(), room in 9usize..300, ops in vec(0u8..4, 0..80)) {
        let mut packer = Packer::new(&Limits::default());
        for (service, body) in &messages {
            packer.push(*service, body.clone()).unwrap();
        }
        let mut out = BytesMut::new();
        for op in ops {
            match op {
                0 => { packer.pop(); }
                1 => packer.rewind(),
                _ => { out.clear(); packer.fill(room, &mut out); }
            }
            prop_assert!(packer.bytes_waiting() <= messages.iter().map(|(_, b)| b.len()).sum());
            prop_assert_eq!(packer.is_empty(), packer.packets(room) == 0);
        }
        while packer.pop().is_some() {}
        prop_assert_eq!((packer.bytes_waiting(), packer.len()), (0, 0));
    }
}

/// Every length around the ends of packets: the place where a head or a total does or does not fit.
#[test]
fn every_cut_point() {
    for room in 9..40 {
        for first in 0..90 {
            for second in 0..20 {
                let mut packer = Packer::new(&Limits::default());
                let messages = [
                    (Service::Agreed, body(first, 2, 1)),
                    (Service::Safe, body(second, 1, 100)),
                    (Service::Fifo, body(30, 3, 200)),
                ];
                for (service, body) in &messages {
                    packer.push(*service, body.clone()).unwrap();
                }
                let packets = drain(&mut packer, room);
                let full = packets.iter().rev().skip(1).all(|p| p.chunk_bytes().len() == room);
                assert!(full, "room {room}, lengths {first} and {second}");
                assert_eq!(assemble(&packets, &mut Assembler::new(1, 1 << 20)), plain(&messages));
            }
        }
    }
}

#[test]
fn a_packet_has_at_most_255_chunks() {
    let mut packer = Packer::new(&Limits::default());
    for _ in 0..600 {
        packer.push(Service::Agreed, body(0, 1, 0)).unwrap();
    }
    let packets = drain(&mut packer, 8000);
    assert_eq!(packets.iter().map(|p| p.head().chunks).collect::<Vec<_>>(), [255, 255, 90]);
    assert_eq!(assemble(&packets, &mut Assembler::new(1, 1 << 20)).len(), 600);
}

#[test]
fn a_full_queue_refuses_and_takes_again() {
    let limits =
        Limits { submit_count_max: 3, submit_bytes_max: 100, message_len_max: 150, ..Limits::default() };
    let mut packer = Packer::new(&limits);
    let mut push = |len| packer.push(Service::Agreed, body(len, 1, 0));
    assert_eq!(push(151), Err(SubmitError::TooLarge { len: 151, max: 150 }));
    assert_eq!(push(99), Ok(()));
    assert_eq!(push(150), Ok(()));
    assert_eq!(push(0), Err(SubmitError::Full));
    assert!(!packer.has_room());
    assert!(packer.fill(64, &mut BytesMut::new()).is_some());
    assert!(!packer.has_room(), "a message counts until its last byte is in a packet");
    while packer.fill(64, &mut BytesMut::new()).is_some() {}
    assert!(packer.has_room());
}

#[test]
fn too_little_room_writes_nothing() {
    let mut packer = Packer::new(&Limits::default());
    packer.push(Service::Agreed, body(10, 1, 0)).unwrap();
    let mut out = BytesMut::new();
    assert_eq!(packer.fill(8, &mut out), None);
    assert!(out.is_empty());
}
