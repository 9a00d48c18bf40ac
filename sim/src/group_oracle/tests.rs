//! A correct history of four clients, and each property broken in it: the oracle must see every one.

use spread_ring::NodeId;
use spread_wire::{GroupId, PrivateGroup, ServiceType};

use super::super::group_log::{Place, Sent, View};
use super::*;

const A: usize = 0;
const B: usize = 1;
const D: usize = 2;
/// Did not ask for membership messages.
const Q: usize = 3;

fn g(name: &str) -> GroupName {
    GroupName::new(name.as_bytes()).unwrap()
}

fn name(client: usize) -> GroupName {
    let name = ["#a1#n1", "#b2#n2", "#d3#n3", "#q2#n2"][client];
    PrivateGroup::parse(name.as_bytes()).unwrap().as_group()
}

fn names(clients: &[usize]) -> Vec<GroupName> {
    clients.iter().map(|c| name(*c)).collect()
}

fn id(time: i32, index: i32) -> GroupId {
    GroupId { proc: 7, time, index }
}

fn view(group: &str, id: GroupId, cause: Cause, members: &[usize], sets: &[&[usize]], own: usize) -> Act {
    let sets = sets.iter().map(|set| names(set)).collect();
    Act::View(View { group: g(group), id, cause, members: names(members), sets, own, place: None })
}

struct Script {
    log: GroupLog,
}

impl Script {
    fn act(&mut self, client: usize, act: Act) {
        self.log.clients[client].acts.push(act);
    }

    fn all(&mut self, clients: &[usize], act: &Act) {
        clients.iter().for_each(|c| self.act(*c, act.clone()));
    }

    fn send(&mut self, by: usize, service: ServiceType, targets: &[GroupName]) -> MsgNo {
        let msg = MsgNo(u32::try_from(self.log.messages.len()).unwrap());
        let by_no = ClientNo(u32::try_from(by).unwrap());
        self.log.messages.push(Sent {
            by: by_no,
            service,
            targets: targets.to_vec(),
            message_type: 5,
            len: 9,
        });
        self.act(by, Act::Send(msg));
        msg
    }

    fn read(&mut self, clients: &[usize], msg: MsgNo) {
        let read = self.log.messages[msg.index()].clone();
        self.all(clients, &Act::Data { msg, read });
    }

    /// `by` sends and `clients` read.
    fn talk(&mut self, by: usize, service: ServiceType, group: &str, clients: &[usize]) -> MsgNo {
        let msg = self.send(by, service, &[g(group)]);
        self.read(clients, msg);
        msg
    }
}

const AGREED: ServiceType = ServiceType::AGREED;
const SAFE: ServiceType = ServiceType::SAFE;

/// The messages, by what they are for.
const M_OWN: MsgNo = MsgNo(0);
const M_NEXT: MsgNo = MsgNo(1);
const M_SAFE: MsgNo = MsgNo(2);
const M_DISCARD: MsgNo = MsgNo(3);
const M_TRANS: MsgNo = MsgNo(4);
const M_LOOSE: MsgNo = MsgNo(6);
const M_MERGED: MsgNo = MsgNo(7);
const M_LAST: MsgNo = MsgNo(8);

/// g = {a1, b2, d3}, q2 joins without a word, h = {a1}; n3 is cut off and comes back; b2 leaves h.
fn good() -> GroupLog {
    let client = |i: usize, node: usize| ClientLog {
        name: name(i),
        node,
        membership: i != Q,
        excused: false,
        acts: Vec::new(),
    };
    let clients = vec![client(A, 0), client(B, 1), client(D, 2), client(Q, 1)];
    let mut s = Script { log: GroupLog { clients, ..GroupLog::default() } };
    let (join, net) = (Cause::Join, Cause::Network);
    for c in [A, B, D, Q] {
        s.act(c, Act::JoinReq(g("g")));
    }
    s.all(&[A, B], &Act::JoinReq(g("h")));
    s.act(A, view("g", id(1, 1), join, &[A], &[&[A]], 0));
    s.all(&[A, B], &view("g", id(1, 2), join, &[A, B], &[&[B]], 0));
    s.all(&[A, B, D], &view("g", id(1, 3), join, &[A, B, D], &[&[D]], 0));
    s.all(&[A, B, D], &view("g", id(1, 4), join, &[A, B, Q, D], &[&[Q]], 0));
    s.act(A, view("h", id(1, 1), join, &[A], &[&[A]], 0));
    s.all(&[A, B], &view("h", id(1, 2), join, &[A, B], &[&[B]], 0));
    assert_eq!(s.talk(A, AGREED, "g", &[A, B, Q, D]), M_OWN);
    assert_eq!(s.talk(A, AGREED, "g", &[A, B, Q, D]), M_NEXT);
    assert_eq!(s.talk(B, SAFE, "g", &[A, B, Q, D]), M_SAFE);
    assert_eq!(s.talk(B, AGREED | ServiceType::SELF_DISCARD, "g", &[A, Q, D]), M_DISCARD);
    // n3 is cut off.
    let trans = |first: u16| ConfId { epoch: 5, rep: NodeId(first), nonce: 3 };
    s.all(&[A, B, Q], &Act::Broken(trans(0)));
    s.act(D, Act::Broken(trans(2)));
    s.all(&[A, B, D], &Act::Trans(g("g"), id(1, 4)));
    assert_eq!(s.talk(A, SAFE, "g", &[A, B, Q]), M_TRANS);
    s.all(&[A, B, Q], &Act::Together(trans(0)));
    s.act(D, Act::Together(trans(2)));
    s.all(&[A, B], &view("g", id(2, 1), net, &[A, B, Q], &[&[A, B, Q]], 0));
    s.act(D, view("g", id(3, 1), net, &[D], &[&[D]], 0));
    s.talk(D, AGREED, "g", &[D]);
    // n3 comes back.
    assert_eq!(s.talk(A, ServiceType::RELIABLE, "g", &[A, B, Q]), M_LOOSE);
    s.all(&[A, B, Q], &Act::Together(ConfId { epoch: 7, ..trans(0) }));
    s.act(D, Act::Together(ConfId { epoch: 7, ..trans(2) }));
    s.all(&[A, B], &view("g", id(4, 1), net, &[A, B, Q, D], &[&[A, B, Q], &[D]], 0));
    s.act(D, view("g", id(4, 1), net, &[A, B, Q, D], &[&[A, B, Q], &[D]], 1));
    assert_eq!(s.talk(D, AGREED, "g", &[A, B, Q, D]), M_MERGED);
    s.act(B, Act::LeaveReq(g("h")));
    s.act(B, Act::SelfLeave(g("h")));
    s.act(A, view("h", id(1, 3), Cause::Leave, &[A], &[&[B]], 0));
    s.log.rest = Some(vec![vec![0, 1, 2]]);
    s.log.after_rest = Some(M_LAST);
    assert_eq!(s.talk(A, AGREED, "g", &[A, B, Q, D]), M_LAST);
    s.log
}

#[test]
fn the_undamaged_history_is_accepted() {
    assert_eq!(check(&good()), Ok(()));
}

#[test]
fn a_history_that_was_stopped_is_accepted() {
    let mut log = good();
    log.rest = None;
    log.after_rest = None;
    // Nobody can be blamed for what it had no time to read.
    log.clients[Q].acts.truncate(1);
    remove(&mut log, B, M_LAST);
    assert_eq!(check(&log), Ok(()));
}

fn find(log: &GroupLog, client: usize, msg: MsgNo) -> usize {
    let is = |act: &Act| matches!(act, Act::Data { msg: m, .. } if *m == msg);
    log.clients[client].acts.iter().position(is).expect("the message is read")
}

fn remove(log: &mut GroupLog, client: usize, msg: MsgNo) {
    let at = find(log, client, msg);
    log.clients[client].acts.remove(at);
}

fn views(log: &mut GroupLog, client: usize, id: GroupId) -> impl Iterator<Item = &mut View> {
    log.clients[client].acts.iter_mut().filter_map(move |act| match act {
        Act::View(view) if view.id == id && view.group == g("g") => Some(view),
        _ => None,
    })
}

fn position(log: &GroupLog, client: usize, act: impl Fn(&Act) -> bool) -> usize {
    log.clients[client].acts.iter().position(act).expect("it is there")
}

fn is_view(group: &'static str, wanted: GroupId) -> impl Fn(&Act) -> bool {
    move |act| matches!(act, Act::View(v) if v.group == g(group) && v.id == wanted)
}

fn breaks(promise: &str, damage: impl FnOnce(&mut GroupLog)) {
    let mut log = good();
    damage(&mut log);
    let found = check(&log).expect_err("the damage is seen");
    assert_eq!(found.promise, promise, "{found}");
}

#[test]
fn p1_another_type_word() {
    breaks("P1", |log| {
        let at = find(log, B, M_OWN);
        if let Act::Data { read, .. } = &mut log.clients[B].acts[at] {
            read.service = SAFE;
        }
    });
}

#[test]
fn p1_never_sent() {
    breaks("P1", |log| log.clients[A].acts.retain(|act| *act != Act::Send(M_NEXT)));
}

#[test]
fn p2_twice() {
    breaks("P2", |log| {
        let at = find(log, D, M_OWN);
        let act = log.clients[D].acts[at].clone();
        log.clients[D].acts.push(act);
    });
}

#[test]
fn p3_not_a_member_yet() {
    breaks("P3", |log| {
        let at = find(log, B, M_OWN);
        let act = log.clients[B].acts.remove(at);
        log.clients[B].acts.insert(0, act);
    });
}

#[test]
fn p3_never_asked() {
    breaks("P3", |log| log.clients[Q].acts.retain(|act| !matches!(act, Act::JoinReq(_))));
}

#[test]
fn p4_own_discard() {
    breaks("P4", |log| {
        let act = log.clients[A].acts[find(log, A, M_DISCARD)].clone();
        let at = find(log, B, M_SAFE);
        log.clients[B].acts.insert(at + 2, act);
    });
}

#[test]
fn p5_the_own_message_never_comes() {
    breaks("P5", |log| [A, B, Q, D].into_iter().for_each(|c| remove(log, c, M_NEXT)));
}

#[test]
fn p6_two_orders() {
    breaks("P6", |log| {
        let at = find(log, D, M_OWN);
        log.clients[D].acts.swap(at, at + 1);
    });
}

#[test]
fn p6_a_view_at_another_place() {
    breaks("P6", |log| {
        // b2 reads the message that d3 sent after the merge before the view of another group that a1 got first.
        let at = position(log, A, is_view("h", id(1, 2)));
        let act = log.clients[A].acts.remove(at);
        let at = find(log, A, M_SAFE);
        log.clients[A].acts.insert(at + 1, act);
    });
}

#[test]
fn p6_before_what_caused_it() {
    breaks("P6", |log| {
        // d3 had read the last message of a1 when it sent its own.
        let at = position(log, D, |act| *act == Act::Send(M_MERGED));
        let act = log.clients[D].acts.remove(at);
        log.clients[D].acts.push(act);
    });
}

#[test]
fn p7_a_gap() {
    breaks("P7", |log| remove(log, B, M_OWN));
}

#[test]
fn p8_not_in_the_own_view() {
    breaks("P8", |log| {
        for v in views(log, B, id(1, 3)) {
            v.members = names(&[A, D]);
        }
    });
}

#[test]
fn p9_enters_without_a_join() {
    breaks("P9", |log| {
        let at = position(log, D, is_view("g", id(1, 3)));
        log.clients[D].acts.remove(at);
    });
}

#[test]
fn p10_different_members() {
    breaks("P10", |log| {
        // All that d3 says about itself is right.
        for v in views(log, D, id(4, 1)) {
            v.members = names(&[B, A, Q, D]);
        }
    });
}

#[test]
fn p10_different_members_after_a_join() {
    breaks("P10", |log| {
        for v in views(log, D, id(1, 3)) {
            v.members = names(&[B, A, D]);
        }
        for v in views(log, D, id(1, 4)) {
            v.members = names(&[B, A, Q, D]);
        }
    });
}

#[test]
fn p11_a_number_is_left_out() {
    breaks("P11", |log| {
        for c in [A, B, D] {
            for v in views(log, c, id(1, 4)) {
                v.id.index = 5;
            }
        }
    });
}

#[test]
fn p11_more_than_one_member_changes() {
    breaks("P11", |log| {
        for c in [A, B] {
            for v in views(log, c, id(1, 3)) {
                v.members = names(&[A, B, Q, D]);
            }
        }
    });
}

#[test]
fn p12_the_sets_are_not_the_members() {
    breaks("P12", |log| {
        for c in [A, B] {
            for v in views(log, c, id(2, 1)) {
                v.sets = vec![names(&[A, B])];
            }
        }
    });
}

#[test]
fn p12_somebody_new_in_the_own_set() {
    breaks("P12", |log| {
        for c in [A, B, D] {
            for v in views(log, c, id(4, 1)) {
                v.sets = vec![names(&[A, B, Q, D])];
                v.own = 0;
            }
        }
    });
}

#[test]
fn p12_a_wrong_counter() {
    breaks("P12", |log| {
        for c in [A, B] {
            for v in views(log, c, id(2, 1)) {
                v.id.index = 0;
            }
        }
    });
}

#[test]
fn p13_one_in_the_set_came_from_elsewhere() {
    breaks("P13", |log| {
        // b2 was with a1 before the merge, but the sets say otherwise.
        for (c, own) in [(A, 0), (B, 1), (D, 2)] {
            for v in views(log, c, id(4, 1)) {
                v.sets = vec![names(&[A, Q]), names(&[B]), names(&[D])];
                v.own = own;
            }
        }
    });
}

/// a1, b2 and d3 are in g; b2 gets the last of these views in transition and a1 before the break, which no id shows.
/// Then d3 is lost; `in_transition`: it leaves before.
fn apart(in_transition: bool) -> GroupLog {
    let mut log = good();
    log.clients.truncate(3);
    log.clients.iter_mut().for_each(|client| client.acts.clear());
    (log.messages, log.rest, log.after_rest) = (Vec::new(), None, None);
    let mut s = Script { log };
    s.all(&[A, B, D], &Act::JoinReq(g("g")));
    s.act(A, view("g", id(1, 1), Cause::Join, &[A], &[&[A]], 0));
    s.all(&[A, B], &view("g", id(1, 2), Cause::Join, &[A, B], &[&[B]], 0));
    let trans = ConfId { epoch: 5, rep: NodeId(0), nonce: 3 };
    let regular = Place { regular: (4, 2), broken: None };
    let broken = Place { broken: Some(trans), ..regular };
    let at = |act: Act, place: Place| match act {
        Act::View(view) => Act::View(View { place: Some(place), ..view }),
        other => other,
    };
    let third = view("g", id(1, 3), Cause::Join, &[A, B, D], &[&[D]], 0);
    s.all(&[A, D], &at(third.clone(), regular));
    s.act(B, Act::Broken(trans));
    s.act(B, at(third, broken));
    s.talk(D, AGREED, "g", &[A, D]);
    s.act(A, Act::Broken(trans));
    s.all(&[A, B], &Act::Trans(g("g"), id(1, 3)));
    if in_transition {
        s.all(&[A, B], &at(view("g", id(5, 2), Cause::Network, &[A, B], &[&[A, B]], 0), broken));
        s.all(&[A, B], &Act::Trans(g("g"), id(5, 2)));
    }
    s.all(&[A, B], &Act::Together(trans));
    s.all(&[A, B], &view("g", id(6, 1), Cause::Network, &[A, B], &[&[A, B]], 0));
    s.log
}

/// P20 compares only what was read in a view that was got at one place. It need not do more: that members of one set
/// got their view at different places is refused, and also if another view came in between.
#[test]
fn p13_members_of_one_set_got_their_last_view_at_different_places() {
    for in_transition in [false, true] {
        assert_eq!(check(&apart(in_transition)).unwrap_err().promise, "P13");
    }
}

#[test]
fn p14_the_signal_of_another_view() {
    breaks("P14", |log| {
        let at = position(log, A, |act| matches!(act, Act::Trans(..)));
        log.clients[A].acts[at] = Act::Trans(g("g"), id(1, 3));
    });
}

#[test]
fn p14_two_signals() {
    breaks("P14", |log| {
        let at = position(log, A, |act| matches!(act, Act::Trans(..)));
        let act = log.clients[A].acts[at].clone();
        log.clients[A].acts.insert(at + 2, act);
    });
}

#[test]
fn p14_no_network_view_after_the_signal() {
    breaks("P14", |log| {
        let at = position(log, A, is_view("h", id(1, 3)));
        log.clients[A].acts.insert(at, Act::Trans(g("h"), id(1, 2)));
    });
}

#[test]
fn p15_members_are_lost_without_a_signal() {
    breaks("P15", |log| {
        for c in [A, B] {
            log.clients[c].acts.retain(|act| !matches!(act, Act::Trans(..)));
        }
    });
}

#[test]
fn p16_a_leave_that_nobody_asked_for() {
    breaks("P16", |log| log.clients[A].acts.push(Act::SelfLeave(g("h"))));
}

#[test]
fn p16_a_leave_of_somebody_outside() {
    breaks("P16", |log| {
        let at = position(log, B, |act| matches!(act, Act::SelfLeave(_)));
        log.clients[B].acts.insert(at, Act::SelfLeave(g("h")));
    });
}

#[test]
fn p16_a_leave_is_not_confirmed() {
    breaks("P16", |log| log.clients[B].acts.retain(|act| !matches!(act, Act::SelfLeave(_))));
}

#[test]
fn p17_signals_in_another_order() {
    breaks("P17", |log| {
        let at = position(log, A, |act| matches!(act, Act::Trans(..)));
        log.clients[A].acts.insert(at, Act::Trans(g("h"), id(1, 2)));
    });
}

#[test]
fn p18_a_member_misses_a_message_although_there_was_no_signal() {
    breaks("P18", |log| {
        // Between the split and the merge a1 and b2 lose nobody; b2 never reads a message that a1 read.
        let msg = MsgNo(u32::try_from(log.messages.len()).unwrap());
        let sent = Sent { by: ClientNo(0), service: AGREED, targets: vec![g("g")], message_type: 1, len: 9 };
        log.messages.push(sent.clone());
        let at = find(log, A, M_LOOSE);
        log.clients[A].acts.insert(at, Act::Data { msg, read: sent });
        log.clients[A].acts.insert(at, Act::Send(msg));
        // It does not even get the next view, so that nobody can be compared with it.
        let at = position(log, B, is_view("g", id(4, 1)));
        log.clients[B].acts.truncate(at);
    });
}

#[test]
fn p19_the_same_message_in_another_view() {
    breaks("P19", p19);
}

/// The shortest log that only P19 refuses: two views that are each seen by one client only.
fn p19(log: &mut GroupLog) {
    *log = GroupLog::default();
    let client =
        |i: usize| ClientLog { name: name(i), node: i, membership: true, excused: false, acts: Vec::new() };
    log.clients = vec![client(A), client(B)];
    let mut s = Script { log: std::mem::take(log) };
    s.all(&[A, B], &Act::JoinReq(g("g")));
    s.act(A, view("g", id(1, 1), Cause::Join, &[A], &[&[A]], 0));
    s.act(B, view("g", id(2, 1), Cause::Join, &[B], &[&[B]], 0));
    s.talk(A, AGREED, "g", &[A, B]);
    *log = s.log;
}

#[test]
fn p20_one_read_more_before_the_signal() {
    breaks("P20", |log| {
        // The last message before the signal: no gap in anybody's stream.
        remove(log, B, M_SAFE);
        remove(log, A, M_DISCARD);
        remove(log, D, M_DISCARD);
        remove(log, Q, M_DISCARD);
        log.clients[B].acts.retain(|act| *act != Act::Send(M_DISCARD));
        // Its own message: but not to be blamed for that (P5).
        log.clients[B].acts.retain(|act| *act != Act::Send(M_SAFE));
        log.messages[M_SAFE.index()].by = ClientNo(2);
        for c in [A, Q, D] {
            let at = find(log, c, M_SAFE);
            if let Act::Data { read, .. } = &mut log.clients[c].acts[at] {
                read.by = ClientNo(2);
            }
        }
        let at = find(log, D, M_SAFE);
        log.clients[D].acts.insert(at, Act::Send(M_SAFE));
    });
}

#[test]
fn p20_the_signal_at_another_place() {
    breaks("P20", |log| {
        let (signal, read) = (position(log, B, |act| matches!(act, Act::Trans(..))), find(log, B, M_TRANS));
        log.clients[B].acts.swap(signal, read);
    });
}

#[test]
fn p21_a_client_without_membership_messages_misses_a_safe_one() {
    breaks("P21", |log| remove(log, Q, M_SAFE));
}

#[test]
fn p21_a_member_elsewhere_misses_a_safe_one() {
    breaks("P21", |log| {
        remove(log, D, M_SAFE);
        remove(log, D, M_DISCARD);
    });
}

#[test]
fn p22_one_of_the_own_set_misses_a_safe_one_in_transition() {
    let mut log = good();
    remove(&mut log, B, M_TRANS);
    let readings: Vec<Reading> = log.clients.iter().map(Reading::of).collect();
    // P20 says so first; P22 must see it by itself.
    assert_eq!(synchrony::check(&log, &readings).unwrap_err().promise, "P20");
    assert_eq!(synchrony::safe_only(&log, &readings).unwrap_err().promise, "P22");
}

#[test]
fn p23_another_last_view() {
    breaks("P23", |log| {
        // d3 never gets the view after the merge, and reads nothing of that time.
        let at = position(log, D, is_view("g", id(4, 1)));
        log.clients[D].acts.truncate(at);
        [A, B, Q].into_iter().for_each(|c| remove(log, c, M_MERGED));
    });
}

#[test]
fn p23_a_member_that_is_not_wanted() {
    breaks("P23", |log| {
        log.clients[Q].acts.push(Act::LeaveReq(g("g")));
    });
}

#[test]
fn p24_the_last_message_is_missing() {
    breaks("P24", |log| remove(log, D, M_LAST));
}

#[test]
fn p25_a_loose_message_at_one_of_two() {
    breaks("P25", |log| remove(log, B, M_LOOSE));
}

#[test]
fn p26_a_view_that_was_not_asked_for() {
    breaks("P26", |log| {
        let act = view("g", id(1, 4), Cause::Join, &[A, B, Q, D], &[&[Q]], 0);
        log.clients[Q].acts.insert(1, act);
    });
}

#[test]
fn p27_somebody_is_back() {
    breaks("P27", |log| {
        for (index, cause, members) in
            [(4, Cause::Join, &[A, D][..]), (5, Cause::Disconnect, &[A]), (6, Cause::Join, &[A, D])]
        {
            log.clients[A].acts.push(view("h", id(1, index), cause, members, &[&[D]], 0));
        }
    });
}
