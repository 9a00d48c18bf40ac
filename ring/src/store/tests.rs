use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::types::{ConfId, NodeId, Service};
use crate::wire::{Chunk, DataHead, RingKey};

fn data(seq: Seq) -> Data {
    let head = DataHead {
        ring: RingKey { epoch: 2, nonce: 1 },
        seq,
        token_seq: 0,
        aru: 0,
        safe: 0,
        first_msg_no: 0,
        origin: NodeId(0),
        chunks: 1,
        has_safe: false,
    };
    let mut out = BytesMut::new();
    head.write(&mut out);
    Chunk::write_head(&mut out, Service::Agreed, true, true, 0, 0);
    Data::check(Bytes::from(out)).unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Seq),
    Release(Seq),
    Try(Seq),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..400u64).prop_map(Op::Insert),
        1 => (0..400u64).prop_map(Op::Release),
        1 => (1..400u64).prop_map(Op::Try),
    ]
}

proptest! {
    #[test]
    fn store_equals_a_map(start in prop_oneof![Just(0u64), Just((1 << 32) - 150), Just(1 << 63)],
                          ops in prop::collection::vec(op(), 0..600)) {
        let mut store = Store::new(128);
        store.skip_to(start);
        let mut held: BTreeSet<Seq> = BTreeSet::new();
        let mut tries: BTreeMap<Seq, u8> = BTreeMap::new();
        let mut released = start;
        for op in ops {
            match op {
                Op::Insert(seq) => {
                    let seq = start + seq;
                    let expected = if seq <= released || held.contains(&seq) {
                        Insert::Duplicate
                    } else if seq > released + 128 {
                        Insert::Full
                    } else {
                        held.insert(seq);
                        tries.remove(&seq);
                        Insert::New
                    };
                    prop_assert_eq!(store.insert(data(seq)), expected);
                }
                Op::Release(seq) => {
                    let aru = (released + 1..).find(|s| !held.contains(s)).unwrap() - 1;
                    released = released.max((start + seq).min(aru));
                    held.retain(|s| *s > released);
                    store.release(start + seq);
                }
                Op::Try(seq) => {
                    let seq = start + seq;
                    if seq > released && seq <= released + 128 && !held.contains(&seq) {
                        let count = tries.entry(seq).or_default();
                        prop_assert_eq!(store.count_try(seq), *count);
                        *count += 1;
                    }
                }
            }
            let aru = (released + 1..).find(|s| !held.contains(s)).unwrap() - 1;
            prop_assert_eq!((store.released(), store.aru()), (released, aru));
            prop_assert_eq!(store.held_in_slots(), held.len());
        }
        for seq in start + 1..start + 400 {
            prop_assert_eq!(store.have(seq), seq <= store.aru() || held.contains(&seq));
            prop_assert_eq!(store.get(seq).is_some(), held.contains(&seq));
        }
        let mut group = Group::new(ConfId::default());
        let base = store.aru();
        group.raise_base(base);
        store.report(&mut group);
        prop_assert!(group.held().eq(held.iter().copied().filter(|s| *s > base)));
    }
}

#[test]
fn capacity_is_a_power_of_two_that_a_bitmap_describes() {
    for (asked, capacity) in [(0, 64), (1000, 512), (8192, 8192), (1 << 20, BITMAP_BITS_MAX)] {
        assert_eq!(Store::new(asked).capacity(), capacity);
    }
}

#[test]
fn what_was_requested_and_came_is_not_counted_any_more() {
    let mut store = Store::new(64);
    assert_eq!((store.count_try(3), store.count_try(3), store.tries(3)), (0, 1, 2));
    store.insert(data(3));
    assert_eq!(store.tries(3), 0);
    store.count_try(2);
    store.reset_tries();
    assert_eq!(store.tries(2), 0);
}
