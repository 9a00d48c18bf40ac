//! Nonsense from members, in every state: no panic, no growth without bound, and the ring works again after.

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::Path;
use crate::ring::Ring;
use crate::rng::Rng;
use crate::tests::env_number;
use crate::tests::net::{Net, ms};
use crate::types::{Mid, NodeId, Service};
use crate::wire::{FLAGS_AT, HEADER_LEN, Header, Kind};

const KINDS: [Kind; 9] = [
    Kind::Data,
    Kind::Token,
    Kind::TokenRequest,
    Kind::Ack,
    Kind::Join,
    Kind::Commit,
    Kind::HopAck,
    Kind::Presence,
    Kind::Fragment,
];

fn random(rng: &mut Rng, from: Mid) -> Bytes {
    let kind = KINDS[(rng.next() % 9) as usize];
    let hash = u32::from_le_bytes([7; 4]);
    let header = Header {
        kind,
        config_hash: hash,
        session: from.session,
        counter: 0,
        sender: from.node,
        key_id: 0,
        flags: 0,
    };
    let mut out = BytesMut::new();
    header.write(&mut out);
    for _ in 0..rng.next() % 200 {
        out.put_u8(if rng.next().is_multiple_of(3) { rng.next() as u8 } else { 0 });
    }
    out.freeze()
}

/// A packet that was sent, with some bytes of the body changed.
fn changed(rng: &mut Rng, packet: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(packet.as_ref());
    for _ in 0..=rng.next() % 4 {
        let at = HEADER_LEN + (rng.next() % (bytes.len() - HEADER_LEN) as u64) as usize;
        bytes[at] = match rng.next() % 4 {
            0 => bytes[at].wrapping_add(1),
            1 => bytes[at] ^ (1 << (rng.next() % 8)),
            2 => 0xff,
            _ => rng.next() as u8,
        };
    }
    bytes[FLAGS_AT] = 0;
    bytes.freeze()
}

fn hand_in(ring: &mut Ring, now: crate::types::Nanos, from: NodeId, packet: Bytes) {
    ring.handle_packet(now, Path::Unicast, from, packet);
    while ring.poll_transmit().is_some() {}
    while ring.poll_event().is_some() {}
}

fn fuzz(seed: u64) {
    let mut rng = Rng::new([5; 32], seed);
    let mut net = Net::new(3);
    net.hostile = true;
    let wire = std::rc::Rc::new(std::cell::RefCell::new(Vec::<(usize, Bytes)>::new()));
    let tap = wire.clone();
    net.filter = Box::new(move |hop| {
        let mut tap = tap.borrow_mut();
        if tap.len() < 400 {
            tap.push((hop.from, hop.packet.clone()));
        }
        true
    });
    // Different states: starting, forming, working, and after a crash.
    net.run(ms(rng.next() % 400));
    for round in 0..20u64 {
        if round % 7 == 3 {
            net.stop(2);
        }
        if round % 7 == 6 {
            net.start(2);
        }
        for node in 0..2 {
            net.submit(node, Service::Safe, &[1; 2000]);
        }
        net.run(ms(rng.next() % 150));
        let sent = std::mem::take(&mut *wire.borrow_mut());
        for _ in 0..60 {
            let from = if rng.next().is_multiple_of(2) { 1 } else { 2 };
            let Some(mid) = net.rings[from].as_ref().map(Ring::me) else { continue };
            let mine: Vec<&Bytes> = sent.iter().filter(|(f, _)| *f == from).map(|(_, p)| p).collect();
            let packet = match mine.get((rng.next() % 400) as usize % mine.len().max(1)) {
                Some(packet) if !rng.next().is_multiple_of(4) => changed(&mut rng, packet),
                _ => random(&mut rng, mid),
            };
            let now = net.now;
            hand_in(net.ring(0), now, mid.node, packet);
        }
        let ring = net.ring(0);
        assert!(ring.outq.len() < 100 && ring.events.len() < 100, "seed {seed}");
    }
    // Lies about epochs and orders are not forgotten, but a fresh daemon in place of the confused one and
    // peers that it confused must work again.
    for node in 0..3 {
        net.start(node);
    }
    net.settle(&[0, 1, 2], ms(20_000));
}

#[test]
fn nonsense_from_members_never_panics() {
    let seeds: u64 = env_number("RING_SEEDS").unwrap_or(60);
    for seed in 0..seeds {
        fuzz(seed);
    }
}
