//! Cost of one message in the codec: `cargo bench -p spread-wire`.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spread_wire::{ByteOrder, FrameDecoder, GroupName, Header, Hint, PrivateGroup, ServiceType, build};

const FRAMES: usize = 256;

fn stream(order: ByteOrder, data_len: u32) -> BytesMut {
    let private: PrivateGroup = "#bench#host-1".parse().expect("legal");
    let group: GroupName = "web-logs".parse().expect("legal");
    let header = Header {
        service: ServiceType::AGREED,
        sender: private.as_group(),
        num_groups: 1,
        hint: Hint::new(1, order),
        data_len,
        order,
    };
    let mut out = BytesMut::new();
    for _ in 0..FRAMES {
        build::put_frame(&mut out, &header, None, [group.as_field()].into_iter(), 0);
        out.resize(out.len() + data_len as usize, b'x');
    }
    out
}

fn decode(c: &mut Criterion) {
    let private = "#bench#host-1".parse().expect("legal");
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, decoder, order) in [
        ("daemon", FrameDecoder::daemon(private), ByteOrder::Little),
        ("daemon_from_big_endian", FrameDecoder::daemon(private), ByteOrder::Big),
        ("client", FrameDecoder::client(), ByteOrder::Little),
    ] {
        let bytes = stream(order, 200);
        group.bench_function(name, |b| {
            b.iter_batched(
                || (decoder.clone(), bytes.clone()),
                |(mut decoder, mut buf)| {
                    while let Ok(Some(frame)) = decoder.decode(&mut buf) {
                        black_box((frame.first_group(), frame.data()));
                    }
                    buf
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let sender = "#bench#host-1".parse::<PrivateGroup>().expect("legal").as_group();
    let groups = ["web-logs".parse().expect("legal")];
    let mut out = BytesMut::with_capacity(1 << 16);
    c.bench_function("encode/multicast_head", |b| {
        b.iter(|| {
            out.clear();
            build::put_multicast(&mut out, ServiceType::AGREED, &sender, black_box(&groups), 1, 200, 0)
        });
    });
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
