//! What routing a data message costs: header check, look-up of the targets, and the output to the session layer.
//!
//! `cargo bench -p spread-groups`
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use spread_groups::{ConfigId, Daemon, Groups, GroupsConfig, SessionId};
use spread_wire::{FrameDecoder, GroupName, PrivateGroup, ServiceType, build};

/// Members of the busy group on this daemon.
const MEMBERS: u64 = 8;
/// Other groups in the table.
const OTHERS: usize = 10_000;

fn group(name: &str) -> GroupName {
    GroupName::new(name.as_bytes()).expect("a group name")
}

fn request(groups: &mut Groups, session: u64, private: &PrivateGroup, bytes: &Bytes) {
    let mut buffer = BytesMut::from(&bytes[..]);
    let frame = FrameDecoder::daemon(*private).decode(&mut buffer).expect("legal").expect("complete");
    groups.request(SessionId(session), &frame).expect("accepted");
}

fn engine() -> (Groups, PrivateGroup) {
    let daemon = |n: i32| Daemon { name: format!("n{n}").parse().expect("a name"), id: n };
    let mut groups =
        Groups::new(GroupsConfig { daemons: (0..4).map(daemon).collect(), me: 0 }).expect("a configuration");
    groups.handle_regular(ConfigId { epoch: 10, rep: 0, nonce: 1 }, &[0]);
    let mut last = None;
    for n in 0..MEMBERS {
        let name = format!("c{n}").parse().expect("a name");
        let private = groups.connect(SessionId(n), name, true).expect("a free name");
        request(&mut groups, n, &private, &build::join(&private.as_group(), &group("busy")));
        request(&mut groups, n, &private, &build::join(&private.as_group(), &group(&format!("of{n}"))));
        last = Some(private);
    }
    let private = last.expect("a session");
    for n in 0..OTHERS {
        request(
            &mut groups,
            MEMBERS - 1,
            &private,
            &build::join(&private.as_group(), &group(&format!("x{n}"))),
        );
    }
    while let Some(message) = groups.poll_submit() {
        groups.handle_deliver(0, &message.into_parts());
        while groups.poll_output().is_some() {}
    }
    (groups, private)
}

fn deliver(c: &mut Criterion) {
    let (mut groups, private) = engine();
    let targets: [(&str, Vec<GroupName>); 4] = [
        ("one group, 8 local members", vec![group("busy")]),
        ("one group, no local member", vec![group("elsewhere")]),
        ("one private group", vec![private.as_group()]),
        ("8 groups", (0..MEMBERS).map(|n| group(&format!("of{n}"))).collect()),
    ];
    for (what, targets) in targets {
        let head =
            build::multicast(ServiceType::AGREED, &private.as_group(), &targets, 1, 200).expect("legal");
        request(&mut groups, MEMBERS - 1, &private, &Bytes::from([&head[..], &[7; 200]].concat()));
        let message = groups.poll_submit().expect("a message").into_parts();
        let whole = [Bytes::from(message.concat())];
        c.bench_function(what, |b| {
            b.iter(|| {
                groups.handle_deliver(1, black_box(&whole));
                black_box(groups.poll_output())
            });
        });
    }
}

criterion_group!(benches, deliver);
criterion_main!(benches);
