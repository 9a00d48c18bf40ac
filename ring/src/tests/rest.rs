//! Permanent faults: whatever is cut, the daemons come to rest in some rings, and those rings work.

use crate::rng::Rng;
use crate::tests::env_number;
use crate::tests::net::{Net, ms};
use crate::types::Service;

fn permanent(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new([6; 32], seed);
    let n = 3 + (seed % 4) as usize;
    let mut net = Net::new(n);
    net.rng = Rng::new([7; 32], seed);
    let all: Vec<u16> = (0..n as u16).collect();
    if seed.is_multiple_of(2) {
        net.settle(&all, ms(3000));
        net.run(ms(rng.next() % 15_000));
    }
    // Some links are cut, one way or both ways, for everything or for multicast or tokens only.
    let mut cuts = vec![0u8; n * n];
    for _ in 0..=rng.next() % (n as u64) {
        let (a, b) = ((rng.next() % n as u64) as usize, (rng.next() % n as u64) as usize);
        let kind = 1 + (rng.next() % 4) as u8;
        cuts[a * n + b] = kind;
        if rng.next().is_multiple_of(2) {
            cuts[b * n + a] = kind;
        }
    }
    net.loss = rng.next() % 3 * 10;
    let links = cuts.clone();
    net.filter = Box::new(move |hop| match links[hop.from * n + hop.to] {
        1 | 2 => false,
        3 => hop.path != crate::api::Path::Multicast,
        4 => hop.class != crate::api::Class::Token,
        _ => true,
    });
    net.run(ms(400_000));
    let before: Vec<usize> = (0..n).map(|node| net.count_regular(node)).collect();
    net.run(ms(60_000));
    let after: Vec<usize> = (0..n).map(|node| net.count_regular(node)).collect();
    let installs: usize = after.iter().sum::<usize>() - before.iter().sum::<usize>();
    let story = format!(
        "seed {seed}: {installs} installs in a minute, {before:?}, {:?}, cuts {cuts:?}",
        net.rings_now()
    );
    if installs > 0 {
        return Err(story);
    }
    for node in 0..n {
        net.submit(node, Service::Safe, &[node as u8]);
    }
    net.run(ms(2000));
    for node in 0..n {
        if !net.bodies(node).iter().any(|body| body[..] == [node as u8]) {
            return Err(format!("{story}: {node} does not deliver its own message"));
        }
    }
    Ok(())
}

#[test]
fn any_permanent_cuts_come_to_rest() {
    let seeds = env_number("RING_SEEDS").unwrap_or(24);
    let only = env_number("RING_SEED");
    let failed: Vec<String> =
        only.map_or(0..seeds, |seed| seed..seed + 1).filter_map(|seed| permanent(seed).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
