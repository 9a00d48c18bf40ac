//! Order and division of vs sets.
//!
//! spec: group-semantics 2.5, 2.8

use std::cmp::Ordering;

use spread_wire::{GroupId, GroupName};

use crate::exchange::Part;
use crate::mutation::{Rule, without};
use crate::table::Member;
use crate::types::{ConfigId, Nodes};

/// The sets of a view announced after a network change: the members by where they come from, each set in member
/// order. That is the daemon-view part (d, t) of the id that their group had, and the transitional configuration
/// in which their side left its last daemon view.
///
/// Two sides with the same of both were in one view and delivered the same in it, whatever happened to the
/// daemons in between without being announced: their members are one set. The id alone does not tell: a group
/// that a break leaves whole goes on counting in transition, and it may be whole for two sides if one of them
/// counted on daemons of the other that then did not come along. They delivered different messages, with the
/// signal at different places.
pub(crate) fn network_sets(mut parts: Vec<Part>) -> Vec<Vec<GroupName>> {
    // First an order that everybody gets whatever the arrival; the wrapped comparison is not transitive.
    let origin = |part: &Part| {
        let parted = if without(Rule::Parted) { ConfigId::default() } else { part.parted };
        let ConfigId { epoch, rep, nonce } = parted;
        (part.id.proc, part.id.time, epoch, rep, nonce)
    };
    parts.sort_by_key(origin);
    let mut merged: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match merged.last_mut() {
            Some(last) if origin(last) == origin(&part) || without(Rule::OwnSets) => {
                last.members.extend(part.members);
            }
            _ => merged.push(part),
        }
    }
    for i in 1..merged.len() {
        let mut at = i;
        while at > 0 && compare(merged[at].id, merged[at - 1].id) == Ordering::Less {
            merged.swap(at, at - 1);
            at -= 1;
        }
    }
    merged
        .into_iter()
        .map(|Part { mut members, .. }| {
            members.sort_unstable();
            members.dedup();
            members.into_iter().map(|(_, name)| name).collect()
        })
        .collect()
}

/// By the sign of the wrapped differences, first of d, then of t.
fn compare(a: GroupId, b: GroupId) -> Ordering {
    a.proc.wrapping_sub(b.proc).cmp(&0).then(a.time.wrapping_sub(b.time).cmp(&0))
}

/// The sets of an in-transition view: the survivors' members, then each departed daemon's, then the joiner
/// alone. A set that only the joiner was in stays, empty.
pub(crate) fn transition_sets(
    members: &[Member],
    survivors: Nodes,
    joiner: Option<&GroupName>,
) -> Vec<Vec<GroupName>> {
    let mut sets = Vec::new();
    // `None` stands for all survivors together. Members are in configuration order of their daemons.
    let mut key = None;
    let mut staying = Vec::new();
    let mut any_staying = false;
    for member in members {
        let set = if survivors.contains(member.node) {
            any_staying = true;
            &mut staying
        } else {
            if key != Some(member.node) {
                key = Some(member.node);
                sets.push(Vec::new());
            }
            let Some(last) = sets.last_mut() else { continue };
            last
        };
        if Some(&member.name) != joiner {
            set.push(member.name);
        }
    }
    if any_staying {
        sets.insert(0, staying);
    }
    sets.extend(joiner.map(|name| vec![*name]));
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> GroupName {
        let mut field = [0; 32];
        field[..text.len()].copy_from_slice(text.as_bytes());
        GroupName::from_field(field)
    }

    fn id(proc: u32, time: i32) -> GroupId {
        GroupId { proc: proc.cast_signed(), time, index: 1 }
    }

    fn part(id: GroupId, epoch: u64, members: &[(u16, &str)]) -> Part {
        let parted = ConfigId { epoch, ..ConfigId::default() };
        let members = members.iter().map(|(node, member)| (*node, name(member))).collect();
        Part { id, parted, changed: false, members }
    }

    #[test]
    fn sets_are_ordered_by_the_sign_of_the_wrapped_difference() {
        // Both numbers were recorded from a run of the original; spec: group-semantics 2.5.
        let parts = vec![part(id(11_282_039, 5), 7, &[(0, "a")]), part(id(4_157_588_601, 5), 7, &[(1, "b")])];
        assert_eq!(network_sets(parts), [[name("b")], [name("a")]]);
    }

    #[test]
    fn sides_of_one_view_are_one_set_in_member_order() {
        let parts = vec![
            part(id(1, 5), 7, &[(2, "a")]),
            part(id(1, 6), 7, &[(3, "d")]),
            part(id(1, 5), 7, &[(0, "z")]),
        ];
        assert_eq!(network_sets(parts), [vec![name("z"), name("a")], vec![name("d")]]);
    }

    #[test]
    fn sides_that_left_a_view_apart_are_two_sets_in_the_same_order_everywhere() {
        let (x, y) = (part(id(1, 5), 9, &[(0, "x")]), part(id(1, 5), 7, &[(1, "y")]));
        let sets = [vec![name("y")], vec![name("x")]];
        assert_eq!(network_sets(vec![x.clone(), y.clone()]), sets);
        assert_eq!(network_sets(vec![y, x]), sets);
    }

    #[test]
    fn a_joiner_leaves_an_empty_set_behind() {
        let member = |text, node| Member { name: name(text), node, local: None };
        let members = [member("a", 0), member("b", 1), member("d", 2), member("e", 3)];
        let sets = transition_sets(&members, Nodes::of(&[0, 1]), Some(&name("e")));
        assert_eq!(sets, [vec![name("a"), name("b")], vec![name("d")], vec![], vec![name("e")]]);
        let sets = transition_sets(&members[2..], Nodes::of(&[3]), Some(&name("e")));
        assert_eq!(sets, [vec![], vec![name("d")], vec![name("e")]]);
        assert_eq!(transition_sets(&members[..2], Nodes::of(&[2]), None), [[name("a")], [name("b")]]);
    }
}
