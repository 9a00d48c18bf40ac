//! Order and division of vs sets.
//!
//! spec: group-semantics 2.5, 2.8

use std::cmp::Ordering;

use spread_wire::{GroupId, GroupName};

use crate::mutation::{Rule, without};
use crate::table::Member;
use crate::types::Nodes;

/// The sets of a view announced after a network change: the members by the daemon-view part (d, t) of the id
/// that their group had, each set in member order.
///
/// Two sides that had the same (d, t) were in one view and delivered the same in it, whatever happened to the
/// daemons in between without being announced: their members are one set.
pub(crate) fn network_sets(mut parts: Vec<(GroupId, Vec<(u16, GroupName)>)>) -> Vec<Vec<GroupName>> {
    // First an order that everybody gets whatever the arrival; the wrapped comparison is not transitive.
    parts.sort_by_key(|(id, _)| (id.proc, id.time));
    let mut merged: Vec<(GroupId, Vec<(u16, GroupName)>)> = Vec::with_capacity(parts.len());
    for (id, members) in parts {
        match merged.last_mut() {
            Some((last, known)) if (last.proc, last.time) == (id.proc, id.time) || without(Rule::OwnSets) => {
                known.extend(members);
            }
            _ => merged.push((id, members)),
        }
    }
    for i in 1..merged.len() {
        let mut at = i;
        while at > 0 && compare(merged[at].0, merged[at - 1].0) == Ordering::Less {
            merged.swap(at, at - 1);
            at -= 1;
        }
    }
    merged
        .into_iter()
        .map(|(_, mut members)| {
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

    #[test]
    fn sets_are_ordered_by_the_sign_of_the_wrapped_difference() {
        // Both numbers were recorded from a run of the original; spec: group-semantics 2.5.
        let parts =
            vec![(id(11_282_039, 5), vec![(0, name("a"))]), (id(4_157_588_601, 5), vec![(1, name("b"))])];
        assert_eq!(network_sets(parts), [[name("b")], [name("a")]]);
    }

    #[test]
    fn sides_of_one_view_are_one_set_in_member_order() {
        let parts = vec![
            (id(1, 5), vec![(2, name("a"))]),
            (id(1, 6), vec![(3, name("d"))]),
            (id(1, 5), vec![(0, name("z"))]),
        ];
        assert_eq!(network_sets(parts), [vec![name("z"), name("a")], vec![name("d")]]);
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
