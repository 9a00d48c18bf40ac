use proptest::prelude::*;

use super::*;
use crate::types::NodeId;
use crate::wire::{Request, RingKey};

fn cfg() -> RingConfig {
    RingConfig::new(NodeId(0), vec![0; 4], [0; 16])
}

fn token(window: u16) -> Token {
    Token {
        ring: RingKey::default(),
        token_seq: 1,
        seq: 0,
        aru: 0,
        safe: 0,
        fcc: 0,
        backlog: 0,
        window,
        credit_now: u16::MAX,
        credit_last: u16::MAX,
        aru_id: None,
        last_sender: NodeId(0),
        done_run: 0,
        idle: 0,
        requests: Default::default(),
    }
}

#[test]
fn windows_follow_the_configuration_or_the_size_of_the_ring() {
    let flow = Flow::new(&cfg(), 4);
    assert_eq!((flow.personal, flow.accelerated()), (44, usize::MAX));
    assert_eq!((flow.window_start(2), flow.window_start(4), flow.window_start(100)), (160, 176, 2048));
    let mut cfg = cfg();
    cfg.windows.window = Some(30);
    cfg.windows.personal = Some(7);
    cfg.windows.accelerated = Some(3);
    let mut flow = Flow::new(&cfg, 4);
    assert_eq!((flow.window_start(4), flow.personal, flow.accelerated()), (30, 7, 3));
    let mut t = token(99);
    flow.rotate(&mut t);
    assert_eq!(t.window, 30);
}

#[test]
fn the_window_shrinks_with_repair_and_grows_without() {
    let mut flow = Flow::new(&cfg(), 4);
    let mut t = token(160);
    t.requests.push(Request { group: 0, tries: 0, requester: NodeId(1), start: 1, len: 1 });
    (t.seq, t.fcc) = (100, 110);
    flow.rotate(&mut t);
    assert_eq!(t.window, 120, "10 of 110 packets were repairs");
    (t.seq, t.fcc) = (200, 110);
    flow.rotate(&mut t);
    assert_eq!(t.window, 120, "not again at once");
    for _ in 0..QUIET_ROTATIONS {
        t.seq += 110;
        t.fcc = 110;
        flow.rotate(&mut t);
    }
    assert_eq!(t.window, 136);
    t.fcc = 10;
    t.seq += 10;
    flow.rotate(&mut t);
    assert_eq!(t.window, 136, "not full: no reason to grow");
}

/// A wrong count in the token stopped all senders for ever.
#[test]
fn what_nobody_sent_is_not_counted_for_ever() {
    let mut flow = Flow::new(&cfg(), 4);
    let mut t = token(160);
    (t.seq, t.fcc) = (100, 60_000);
    flow.rotate(&mut t);
    assert_eq!(t.fcc, 100);
    t.requests.push(Request { group: 0, tries: 0, requester: NodeId(1), start: 1, len: 1 });
    (t.seq, t.fcc) = (200, 120);
    flow.rotate(&mut t);
    assert_eq!(t.fcc, 120, "repairs count too");
}

#[test]
fn credit_is_the_least_of_the_last_rotation() {
    let mut flow = Flow::new(&cfg(), 4);
    let mut t = token(160);
    flow.end(&mut t, 0, 0, 500);
    flow.end(&mut t, 0, 0, 900);
    flow.rotate(&mut t);
    assert_eq!((t.credit_last, t.credit_now), (500, u16::MAX));
}

#[test]
fn shares_are_fair() {
    let flow = Flow::new(&cfg(), 4);
    let mut t = token(40);
    t.backlog = 300;
    assert_eq!(flow.allowed(&t, 0, 100, 0), 10, "a quarter of what waits, a quarter of the window");
    assert_eq!(flow.allowed(&t, 0, 1, 0), 1, "at least one");
    t.backlog = 0;
    assert_eq!(flow.allowed(&t, 0, 100, 0), 40);
    t.window = 160;
    assert_eq!(flow.allowed(&t, 0, 1000, 0), 160, "who sends alone fills the window");
    t.backlog = 100;
    assert_eq!(flow.allowed(&t, 0, 1000, 0), 44, "beside others one burst at a time");
    (t.backlog, t.window) = (0, 40);
    assert_eq!(flow.allowed(&t, 0, 100, 40), 1, "repair never starves new work");
    t.fcc = 40;
    assert_eq!(flow.allowed(&t, 0, 100, 0), 0);
    t.seq = 8192;
    t.fcc = 0;
    assert_eq!(flow.allowed(&t, 50, 100, 0), 0, "the store is full");
}

proptest! {
    /// Members with any load never exceed the window by more than what repair allows, and never the store.
    #[test]
    fn the_window_and_the_store_hold(loads in prop::collection::vec(0..500usize, 40..200), store in 256..2048usize) {
        let mut cfg = cfg();
        cfg.limits.store_packets = store;
        let mut flows: Vec<Flow> = (0..4).map(|_| Flow::new(&cfg, 4)).collect();
        let mut t = token(flows[0].window_start(4));
        let mut waiting = [0usize; 4];
        let mut safe = 0;
        for (visit, load) in loads.into_iter().enumerate() {
            let at = visit % 4;
            if at == 0 {
                flows[0].rotate(&mut t);
                // Safe lags a few rotations.
                safe = t.seq.saturating_sub(3 * u64::from(t.window));
            }
            waiting[at] += load;
            flows[at].begin(&mut t);
            let allowed = flows[at].allowed(&t, safe, waiting[at], 0);
            prop_assert!(allowed <= usize::from(t.window) && u32::from(t.window) >= t.fcc);
            let sent = allowed.min(waiting[at]);
            waiting[at] -= sent;
            t.seq += sent as u64;
            let free = flows[at].free(&t, safe);
            flows[at].end(&mut t, sent, waiting[at], free);
            prop_assert!(t.fcc <= u32::from(t.window));
            prop_assert!(t.seq - safe <= store as u64, "{} packets are not safe", t.seq - safe);
            prop_assert_eq!(t.backlog as usize, waiting.iter().sum::<usize>());
        }
    }
}
