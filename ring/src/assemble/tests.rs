use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn chunk(first: bool, last: bool, total: u32, bytes: &'static [u8]) -> Chunk {
    Chunk {
        index: 0,
        service: Service::Agreed,
        first,
        last,
        total: first.then_some(total),
        bytes: Bytes::from_static(bytes),
    }
}

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

#[test]
fn originators_do_not_mix() {
    let mut asm = Assembler::new(2, 100);
    assert!(asm.push(A, chunk(true, false, 4, b"ab")).unwrap().is_none());
    assert!(asm.push(B, chunk(true, false, 4, b"xy")).unwrap().is_none());
    assert_eq!(asm.unfinished(), 2);
    let (_, a) = asm.push(A, chunk(false, true, 0, b"cd")).unwrap().expect("complete");
    let (_, b) = asm.push(B, chunk(false, true, 0, b"zz")).unwrap().expect("complete");
    assert_eq!((&a.to_bytes()[..], &b.to_bytes()[..]), (&b"abcd"[..], &b"xyzz"[..]));
}

#[test]
fn a_rest_without_a_beginning_is_refused() {
    let mut asm = Assembler::new(1, 100);
    assert_eq!(asm.push(A, chunk(false, true, 0, b"cd")).unwrap_err(), AssembleError::NotBegun { origin: A });
    asm.push(A, chunk(true, false, 4, b"ab")).unwrap();
    asm.reset();
    assert_eq!(asm.push(A, chunk(false, true, 0, b"cd")).unwrap_err(), AssembleError::NotBegun { origin: A });
    assert_eq!(asm.push(B, chunk(true, true, 1, b"x")).unwrap_err(), AssembleError::NotBegun { origin: B });
}

#[test]
fn a_beginning_replaces_an_unfinished_message() {
    let mut asm = Assembler::new(1, 100);
    asm.push(A, chunk(true, false, 4, b"ab")).unwrap();
    let (_, body) = asm.push(A, chunk(true, true, 2, b"xy")).unwrap().expect("complete");
    assert_eq!(&body.to_bytes()[..], b"xy");
    assert_eq!((asm.interrupted(), asm.unfinished()), (1, 0));
}

#[test]
fn wrong_lengths_are_refused() {
    let mut asm = Assembler::new(1, 5);
    let too_long = asm.push(A, chunk(true, false, 6, b"ab")).unwrap_err();
    assert_eq!(too_long, AssembleError::Length { origin: A, found: 6, expected: 5 });
    for (last, rest) in [(true, &b"c"[..]), (true, b"cde"), (false, b"cd"), (false, b"cde")] {
        asm.push(A, chunk(true, false, 4, b"ab")).unwrap();
        let found = 2 + rest.len();
        let err = asm.push(A, chunk(false, last, 0, rest)).unwrap_err();
        assert_eq!(err, AssembleError::Length { origin: A, found, expected: 4 });
        assert_eq!(asm.unfinished(), 0);
    }
    asm.push(A, chunk(true, false, 4, b"ab")).unwrap();
    let other = Chunk { service: Service::Safe, ..chunk(false, true, 0, b"cd") };
    assert!(asm.push(A, other).is_err(), "the service cannot change inside a message");
}

proptest! {
    /// Any sequence of chunks: no panic, and what comes out is at most what went in.
    #[test]
    fn arbitrary_chunks(ops in vec((0u16..3, any::<bool>(), any::<bool>(), 0u32..9, 0usize..5), 0..200)) {
        let mut asm = Assembler::new(2, 6);
        let (mut fed, mut got) = (0, 0);
        for (node, first, last, total, len) in ops {
            fed += len;
            let chunk = chunk(first, last, total, &b"abcde"[..len]);
            if let Ok(Some((_, body))) = asm.push(NodeId(node), chunk) {
                got += body.len();
            }
            prop_assert!(got <= fed && asm.unfinished() <= 2);
        }
    }
}
