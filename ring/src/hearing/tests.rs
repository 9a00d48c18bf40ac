use super::*;

const ME: Mid = Mid { node: NodeId(0), session: 1 };

fn mid(node: u16, session: u64) -> Mid {
    Mid { node: NodeId(node), session }
}

fn hearing(n: usize) -> Hearing {
    Hearing::new(&RingConfig::new(NodeId(0), vec![0; n], [0; 16]), ME)
}

fn at(ms: u64) -> Nanos {
    Nanos(1_000_000_000 + ms * 1_000_000)
}

fn heard(list: &[Mid]) -> Vec<Heard> {
    list.iter().map(|mid| Heard { mid: *mid, mtu: 1456, paths: 3 }).collect()
}

/// A presence by unicast and multicast.
fn sign(h: &mut Hearing, now: Nanos, from: Mid, list: &[Mid]) {
    if h.standing(now, from) == Standing::New {
        let _ = h.take_in(now, from, list.contains(&ME));
    }
    if h.current(from.node) == Some(from) {
        h.note_packet(now, from.node, Path::Multicast, Kind::Presence, 1456);
        h.note_packet(now, from.node, Path::Unicast, Kind::Presence, 1456);
        h.note_report(now, from.node, &heard(list));
    }
}

#[test]
fn a_session_is_usable_once_it_hears_me() {
    let mut h = hearing(3);
    sign(&mut h, at(0), mid(1, 5), &[]);
    assert_eq!(h.standing(at(0), mid(1, 5)), Standing::Heard);
    sign(&mut h, at(1), mid(1, 5), &[mid(0, 99)]);
    assert!(!h.is_usable(mid(1, 5)), "another life of mine");
    sign(&mut h, at(2), mid(1, 5), &[ME]);
    assert_eq!(h.standing(at(2), mid(1, 5)), Standing::Usable);
}

#[test]
fn a_living_session_is_replaced_only_by_one_that_hears_me() {
    let mut h = hearing(3);
    sign(&mut h, at(0), mid(1, 5), &[ME]);
    sign(&mut h, at(1), mid(1, 6), &[]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 5)), "a recording would look like this");
    sign(&mut h, at(2), mid(1, 6), &[ME]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 6)));
    assert!(h.is_superseded(mid(1, 5)));
    sign(&mut h, at(3), mid(1, 5), &[ME]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 6)), "late packets of the former life");
}

/// A late presence of the former life came after the first one of the next life and won; the living daemon
/// was refused for ever.
#[test]
fn a_wrong_guess_which_session_is_later_costs_t_dead() {
    let mut h = hearing(3);
    sign(&mut h, at(0), mid(1, 6), &[ME]);
    sign(&mut h, at(10), mid(1, 5), &[ME]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 5)));
    sign(&mut h, at(200), mid(1, 6), &[ME]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 5)));
    sign(&mut h, at(411), mid(1, 6), &[]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 5)), "it must hear me");
    sign(&mut h, at(412), mid(1, 6), &[ME]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 6)));
    assert!(!h.is_superseded(mid(1, 6)));
}

#[test]
fn new_sessions_of_a_node_are_limited() {
    let mut h = hearing(3);
    for session in 10..20 {
        sign(&mut h, at(0), mid(1, session), &[]);
    }
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 13)));
    sign(&mut h, at(1001), mid(1, 30), &[]);
    assert_eq!(h.current(NodeId(1)), Some(mid(1, 30)));
}

#[test]
fn superseded_sessions_are_bounded() {
    let mut h = hearing(2);
    for session in 1..5000 {
        sign(&mut h, at(session * 1000), mid(1, session), &[ME]);
    }
    assert_eq!(h.peers[1].superseded.len(), SUPERSEDED_MAX);
}

#[test]
fn a_chain_of_three_falls_into_a_pair_and_one() {
    // 1 and 2 do not hear each other.
    let mut h = hearing(3);
    sign(&mut h, at(0), mid(1, 5), &[ME]);
    sign(&mut h, at(0), mid(2, 6), &[ME]);
    let set: MidSet = [ME, mid(1, 5), mid(2, 6)].into_iter().collect();
    assert_eq!(h.outside_my_group(at(10), &set, &MidSet::default()), MidSet::one(mid(2, 6)));
    assert!(!h.can_merge(at(10), &[ME, mid(1, 5)], &[mid(2, 6)]));
    assert!(h.can_merge(at(10), &[ME], &[mid(2, 6)]));
    sign(&mut h, at(20), mid(1, 5), &[ME, mid(2, 6)]);
    assert!(!h.can_merge(at(20), &[ME, mid(1, 5)], &[mid(2, 6)]), "one way is not enough");
    sign(&mut h, at(20), mid(2, 6), &[ME, mid(1, 5)]);
    assert!(h.can_merge(at(20), &[ME, mid(1, 5)], &[mid(2, 6)]));
    assert!(h.outside_my_group(at(20), &set, &MidSet::default()).is_empty());
}

#[test]
fn stale_lists_exclude_nobody_and_admit_nobody() {
    let mut h = hearing(3);
    sign(&mut h, at(0), mid(1, 5), &[ME]);
    sign(&mut h, at(0), mid(2, 6), &[ME]);
    let set: MidSet = [ME, mid(1, 5), mid(2, 6)].into_iter().collect();
    sign(&mut h, at(260), mid(1, 5), &[ME]);
    assert!(h.outside_my_group(at(260), &set, &MidSet::default()).is_empty(), "unknown is not disconnected");
    assert!(!h.can_merge(at(260), &[ME], &[mid(2, 6)]));
}

#[test]
fn without_unicast_no_merge() {
    let mut h = hearing(2);
    let _ = h.take_in(at(0), mid(1, 5), true);
    h.note_packet(at(0), NodeId(1), Path::Multicast, Kind::Presence, 100);
    h.note_report(at(0), NodeId(1), &heard(&[ME]));
    assert!(!h.can_merge(at(1), &[ME], &[mid(1, 5)]), "the token would not pass");
    h.note_packet(at(1), NodeId(1), Path::Unicast, Kind::Join, 100);
    assert!(!h.can_merge(at(1), &[ME], &[mid(1, 5)]), "another port");
    h.note_packet(at(1), NodeId(1), Path::Unicast, Kind::Presence, 100);
    assert!(h.can_merge(at(1), &[ME], &[mid(1, 5)]));
}

#[test]
fn links_are_as_good_as_the_worst_pair() {
    let mut h = hearing(3);
    let (a, b) = (mid(1, 5), mid(2, 6));
    sign(&mut h, at(0), a, &[ME, b]);
    sign(&mut h, at(0), b, &[ME, a]);
    assert_eq!(h.links(at(1), &[ME, a, b]), Links { multicast: true, packet_len: 1456 });
    let one = |mid, mtu, paths| Heard { mid, mtu, paths };
    h.note_report(at(2), a.node, &[one(ME, 1456, 3), one(b, 1200, PATH_UNICAST)]);
    assert_eq!(h.links(at(3), &[ME, a, b]), Links { multicast: false, packet_len: 1200 });
    assert_eq!(h.links(at(3), &[ME, b]), Links { multicast: true, packet_len: 1456 });
    h.note_report(at(4), a.node, &[one(ME, 1456, 3), one(b, 60, 3)]);
    assert_eq!(h.links(at(5), &[ME, a, b]).packet_len, PACKET_LEN_SAFE, "not without end");
}

#[test]
fn penalties_double_and_halve() {
    let mut h = hearing(2);
    let mut rng = Rng::new([0; 32], 1);
    let level = |h: &Hearing| h.peers[1].penalty.level.as_secs();
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        h.punish(at(0), NodeId(1), &mut rng);
        assert_eq!(level(&h), expected);
    }
    assert!(h.in_penalty(at(59_000), NodeId(1)));
    assert!(!h.in_penalty(at(76_000), NodeId(1)));
    let until = h.peers[1].penalty.until;
    h.punish(until + Duration::from_secs(125), NodeId(1), &mut rng);
    assert_eq!(level(&h), 30, "halved twice, doubled once");
}

#[test]
fn silent_nodes_are_probed_more_and_more_rarely() {
    let mut h = hearing(3);
    h.segments = vec![0, 0, 1];
    let mut probes = Vec::new();
    for tick in 0..1200 {
        let to = h.presence_targets(at(tick * 100), true);
        assert!(to.contains(NodeId(1)), "multicast in the own segment costs nothing");
        if to.contains(NodeId(2)) {
            probes.push(tick / 10);
        }
    }
    assert_eq!(probes, [0, 1, 3, 7, 15, 31, 61, 91]);
    sign(&mut h, at(120_000), mid(2, 6), &[]);
    assert!(h.presence_targets(at(120_001), false).contains(NodeId(2)));
}

#[test]
fn old_joins_do_not_count_unless_nothing_newer_came_for_long() {
    let mut h = hearing(2);
    sign(&mut h, at(0), mid(1, 5), &[ME]);
    assert!(h.is_newest_join(at(0), NodeId(1), u32::MAX));
    assert!(!h.is_newest_join(at(1), NodeId(1), u32::MAX));
    assert!(h.is_newest_join(at(2), NodeId(1), 3), "around the wrap");
    assert!(!h.is_newest_join(at(3), NodeId(1), u32::MAX));
    assert!(h.is_newest_join(at(4), NodeId(1), 1 << 30), "a wrong one");
    assert!(!h.is_newest_join(at(400), NodeId(1), 4));
    assert!(h.is_newest_join(at(405), NodeId(1), 5));
}

/// 0 died a moment ago and came back; 2 noticed, 1 (me, here node 0 of the test plays that part) did not yet.
/// The living were divided by the dead.
#[test]
fn a_restart_that_only_others_noticed_divides_nobody() {
    let mut h = hearing(3);
    let (dead, again, mate) = (mid(1, 5), mid(1, 6), mid(2, 7));
    sign(&mut h, at(0), dead, &[ME, mate]);
    sign(&mut h, at(0), mate, &[ME, dead]);
    sign(&mut h, at(50), mate, &[ME, again]);
    let set: MidSet = [ME, dead, mate].into_iter().collect();
    assert!(h.outside_my_group(at(60), &set, &MidSet::default()).is_empty());
    // If it is only not heard by the other one, the pair is apart for all that is known.
    sign(&mut h, at(70), mate, &[ME]);
    assert_eq!(h.outside_my_group(at(80), &set, &MidSet::default()), MidSet::one(mate));
    assert!(h.outside_my_group(at(80), &set, &MidSet::one(dead)).is_empty());
}
