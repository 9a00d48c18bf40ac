//! What routing a data message costs: header check, look-up of the targets, and the output to the session layer.
//! And what many groups cost when daemons part and meet.
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

/// Groups that a partition and a merge change.
const CHANGED: usize = 3_000;

/// Two daemons with one session each, both in all of many groups, are cut from each other and meet again.
fn partition_and_merge(c: &mut Criterion) {
    let daemons: Vec<_> =
        (0..2).map(|n| Daemon { name: format!("n{n}").parse().expect("a name"), id: n }).collect();
    let mut engines = [0u16, 1].map(|me| {
        let mut groups = Groups::new(GroupsConfig { daemons: daemons.clone(), me }).expect("a configuration");
        groups.handle_regular(ConfigId { epoch: 10, rep: me, nonce: 1 }, &[me]);
        let private = groups.connect(SessionId(1), "c".parse().expect("a name"), true).expect("a free name");
        for n in 0..CHANGED {
            let group = group(&format!("g{n}"));
            request(&mut groups, 1, &private, &build::join(&private.as_group(), &group));
        }
        while let Some(message) = groups.poll_submit() {
            groups.handle_deliver(me, &message.into_parts());
        }
        while groups.poll_output().is_some() {}
        groups
    });
    let mut epoch = 12;
    let mut configure = |engines: &mut [Groups; 2], together: bool| {
        epoch += 2;
        for (me, groups) in (0u16..).zip(engines.iter_mut()) {
            // After a merge the next transition is a break: each goes on alone.
            groups.handle_transitional(ConfigId { epoch: epoch - 1, rep: me, nonce: 1 }, &[me]);
            let members: &[u16] = if together { &[0, 1] } else { &[me] };
            groups.handle_regular(ConfigId { epoch, rep: members[0], nonce: 1 }, members);
        }
        let mut frames = 0;
        for sender in 0..2usize {
            while let Some(message) = engines[sender].poll_submit() {
                let parts = message.into_parts();
                for (me, groups) in engines.iter_mut().enumerate() {
                    if together || me == sender {
                        groups.handle_deliver(u16::try_from(sender).unwrap_or(0), &parts);
                    }
                }
            }
        }
        for groups in engines.iter_mut() {
            while groups.poll_output().is_some() {
                frames += 1;
            }
        }
        frames
    };
    configure(&mut engines, true);
    c.bench_function("3 000 groups are cut and merged, both daemons", |b| {
        b.iter(|| {
            assert_eq!(configure(&mut engines, false), 4 * CHANGED);
            assert_eq!(configure(&mut engines, true), 2 * CHANGED);
        });
    });
}

criterion_group!(benches, deliver, partition_and_merge);
criterion_main!(benches);
