//! Random faults with a small oracle: order, same sets for those who go on together, own messages, and that
//! all settle in one ring once the faults end. The simulator of the `tests` crate looks closer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{RingConfig, Timers};
use crate::rng::Rng;
use crate::tests::env_number;
use crate::tests::net::{Net, Seen, ms};
use crate::types::{ConfId, Service};

/// Short times, so that much happens; the seed chooses limits and switches.
fn quick(cfg: &mut RingConfig, seed: u64) {
    if seed % 3 == 1 {
        cfg.limits.store_packets = 64;
        cfg.windows.window = Some(12);
        cfg.windows.personal = Some(6);
        cfg.windows.accelerated = Some((seed % 4) as u16);
    }
    if seed % 5 == 1 {
        cfg.packet_len_max = 400;
    }
    cfg.acks = [None, Some(false), Some(true)][(seed / 2 % 3) as usize];
    cfg.park = seed % 7 != 1;
    cfg.timers = Timers {
        token: ms(100),
        rto_max: ms(20),
        presence: ms(20),
        dead: ms(80),
        join: ms(5),
        consensus: ms(40),
        commit: ms(50),
        stable: Duration::from_nanos(1),
        ..Timers::lan()
    };
}

/// What one life of a node delivered in each regular configuration: in it and in the transitional one after.
#[derive(Default, Debug)]
struct Part {
    regular: Vec<Vec<u8>>,
    transitional: Vec<Vec<u8>>,
    next: Option<ConfId>,
}

fn parts(seen: &[Seen]) -> Vec<(ConfId, Part)> {
    let mut parts: Vec<(ConfId, Part)> = Vec::new();
    for event in seen {
        match event {
            Seen::Regular { id, .. } => parts.push((*id, Part::default())),
            Seen::Transitional { id, .. } => parts.last_mut().unwrap().1.next = Some(*id),
            Seen::Message { body, .. } => {
                let part = &mut parts.last_mut().unwrap().1;
                let list = if part.next.is_some() { &mut part.transitional } else { &mut part.regular };
                list.push(body.clone());
            }
        }
    }
    parts
}

fn check(lives: &[Vec<Seen>], seed: u64) {
    let mut by_conf: BTreeMap<ConfId, Vec<Part>> = BTreeMap::new();
    for life in lives {
        for (id, part) in parts(life) {
            by_conf.entry(id).or_default().push(part);
        }
    }
    for (id, list) in &by_conf {
        for a in list {
            for b in list {
                let n = a.regular.len().min(b.regular.len());
                assert_eq!(a.regular[..n], b.regular[..n], "seed {seed}: order differs in {id}");
                if a.next.is_some() && a.next == b.next {
                    assert_eq!(a.regular, b.regular, "seed {seed}: {id}");
                    assert_eq!(a.transitional, b.transitional, "seed {seed}: after {id}");
                }
            }
        }
    }
}

fn chaos(seed: u64, n: usize) {
    let mut rng = Rng::new([1; 32], seed);
    let mut net = Net::with(n, |cfg| quick(cfg, seed));
    net.rng = Rng::new([2; 32], seed);
    net.late = rng.next() % 3 * 20;
    net.duplicate = rng.next() % 2 * 30;
    let mut lives: Vec<Vec<Seen>> = Vec::new();
    let mut number = 0u32;
    let mut cuts = vec![false; n * n];
    for _ in 0..60 {
        net.loss = [0, 20, 100, 250][(rng.next() % 4) as usize];
        match rng.next() % 12 {
            0 | 1 => cuts = vec![false; n * n],
            2 | 3 => {
                let side = rng.next();
                for a in 0..n {
                    for b in 0..n {
                        cuts[a * n + b] = (side >> a) & 1 != (side >> b) & 1;
                    }
                }
            }
            6 if rng.next().is_multiple_of(4) => {
                let node = (rng.next() % n as u64) as usize;
                if net.rings[node].is_some() {
                    net.leave(node);
                }
            }
            4 => cuts[(rng.next() % (n * n) as u64) as usize] = true,
            5 => {
                let node = (rng.next() % n as u64) as usize;
                if net.rings[node].is_some() {
                    lives.push(net.seen[node].clone());
                    net.stop(node);
                } else {
                    net.start(node);
                }
            }
            _ => {}
        }
        let now = cuts.clone();
        net.filter = Box::new(move |hop| !now[hop.from * n + hop.to]);
        for _ in 0..rng.next() % 20 {
            let node = (rng.next() % n as u64) as usize;
            if !net.takes(node) {
                continue;
            }
            number += 1;
            let mut body = number.to_le_bytes().to_vec();
            body.resize(4 + (rng.next() % 4000) as usize, 0);
            let service = if rng.next().is_multiple_of(3) { Service::Safe } else { Service::Agreed };
            net.submit(node, service, &body);
        }
        net.run(Duration::from_micros(rng.next() % 60_000));
    }
    net.loss = 0;
    net.late = 0;
    net.filter = Box::new(|_| true);
    for node in 0..n {
        if !net.takes(node) {
            lives.push(net.seen[node].clone());
            net.start(node);
        }
    }
    let all: Vec<u16> = (0..n as u16).collect();
    // Penalties take up to 75 s.
    net.settle(&all, ms(90_000));
    let (count, before) = (net.seen.iter().map(Vec::len).sum::<usize>(), number);
    for node in 0..n {
        number += 1;
        net.submit(node, Service::Safe, &number.to_le_bytes());
    }
    net.run(ms(1000));
    let installs: Vec<usize> = (0..n).map(|node| net.count_regular(node)).collect();
    net.run(ms(1000));
    let later: Vec<usize> = (0..n).map(|node| net.count_regular(node)).collect();
    assert_eq!(installs, later, "seed {seed}: still forming");
    assert!(net.seen.iter().map(Vec::len).sum::<usize>() >= count + n * n, "seed {seed} {before}");
    for node in 0..n {
        lives.push(net.seen[node].clone());
    }
    check(&lives, seed);
}

#[test]
fn faults_never_break_the_order_and_all_settle() {
    let seeds: u64 = env_number("RING_SEEDS").unwrap_or(200);
    let only: Option<u64> = env_number("RING_SEED");
    for seed in only.map_or(0..seeds, |seed| seed..seed + 1) {
        chaos(seed, 2 + (seed % 6) as usize);
    }
}
