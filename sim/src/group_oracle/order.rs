//! P6 and P7: one order for everything ordered.

use super::{
    Act, Check, ClientNo, FxHashMap, GroupLog, GroupName, MsgNo, Reading, ViewKey, clients, key_at, violation,
};

pub(super) fn check(log: &GroupLog, readings: &[Reading]) -> Check {
    one_order(log)?;
    no_gap(log, readings)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    Msg(MsgNo),
    View(ViewKey),
}

#[derive(Default)]
struct Graph {
    number: FxHashMap<Node, usize>,
    nodes: Vec<Node>,
    /// Edges, with the client in whose log they are.
    after: Vec<Vec<(usize, ClientNo)>>,
}

impl Graph {
    fn node(&mut self, node: Node) -> usize {
        *self.number.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.after.push(Vec::new());
            self.nodes.len() - 1
        })
    }

    fn edge(&mut self, from: Option<usize>, to: usize, by: ClientNo) {
        if let Some(from) = from.filter(|from| *from != to) {
            self.after[from].push((to, by));
        }
    }

    /// A cycle, if there is one.
    fn cycle(&self) -> Option<Vec<(Node, ClientNo)>> {
        let mut waits: Vec<usize> = vec![0; self.nodes.len()];
        self.after.iter().flatten().for_each(|(to, _)| waits[*to] += 1);
        let mut free: Vec<usize> = (0..self.nodes.len()).filter(|n| waits[*n] == 0).collect();
        let mut done = 0;
        while let Some(node) = free.pop() {
            done += 1;
            for (to, _) in &self.after[node] {
                waits[*to] -= 1;
                if waits[*to] == 0 {
                    free.push(*to);
                }
            }
        }
        if done == self.nodes.len() {
            return None;
        }
        // Whatever still waits has a predecessor that waits: going backwards ends in a circle. Forwards would
        // not, so turn the edges around.
        let mut before: Vec<Option<(usize, ClientNo)>> = vec![None; self.nodes.len()];
        for (from, edges) in self.after.iter().enumerate().filter(|(from, _)| waits[*from] > 0) {
            edges
                .iter()
                .filter(|(to, _)| waits[*to] > 0)
                .for_each(|(to, by)| before[*to] = Some((from, *by)));
        }
        let mut at = (0..self.nodes.len()).find(|n| waits[*n] > 0)?;
        for _ in 0..self.nodes.len() {
            at = before[at]?.0;
        }
        let (mut circle, start) = (Vec::new(), at);
        loop {
            let (from, by) = before[at]?;
            circle.push((self.nodes[at], by));
            at = from;
            if at == start {
                return Some(circle);
            }
        }
    }
}

/// P6
fn one_order(log: &GroupLog) -> Check {
    let mut graph = Graph::default();
    for (no, client) in clients(log) {
        let (mut last_read, mut last_sent) = (None, None);
        for act in &client.acts {
            match act {
                Act::Data { msg, read } if read.is_ordered() => {
                    let node = graph.node(Node::Msg(*msg));
                    graph.edge(last_read, node, no);
                    last_read = Some(node);
                }
                Act::View(view) => {
                    let node = graph.node(Node::View(view.key()));
                    graph.edge(last_read, node, no);
                    last_read = Some(node);
                }
                Act::Send(msg) if log.messages[msg.index()].is_ordered() => {
                    let node = graph.node(Node::Msg(*msg));
                    graph.edge(last_read, node, no);
                    graph.edge(last_sent, node, no);
                    last_sent = Some(node);
                }
                _ => {}
            }
        }
    }
    match graph.cycle() {
        None => Ok(()),
        Some(circle) => {
            let show = |(node, by): &(Node, ClientNo)| match node {
                Node::Msg(msg) => format!("{msg} (at {by})"),
                Node::View((group, id, _)) => {
                    format!("{group} {}.{}.{} (at {by})", id.proc, id.time, id.index)
                }
            };
            let list: Vec<String> = circle.iter().rev().take(12).map(show).collect();
            violation("P6", format!("a circle of {}: {}", circle.len(), list.join(" < ")))
        }
    }
}

/// P7
fn no_gap(log: &GroupLog, readings: &[Reading]) -> Check {
    // Position of each message among those of its sender.
    let mut position: FxHashMap<MsgNo, usize> = FxHashMap::default();
    for client in &log.clients {
        let sends =
            client.acts.iter().filter_map(|act| if let Act::Send(msg) = act { Some(*msg) } else { None });
        position.extend(sends.enumerate().map(|(i, msg)| (msg, i)));
    }
    // By base view and sender: what anybody read of it in this view, in the order of sending.
    let mut all: FxHashMap<(ViewKey, ClientNo), Vec<(usize, MsgNo)>> = FxHashMap::default();
    for (client, reading) in log.clients.iter().zip(readings) {
        for period in &reading.periods {
            let key = key_at(client, period.at);
            for read in period.reads.iter().filter(|read| log.messages[read.msg.index()].is_ordered()) {
                let by = log.messages[read.msg.index()].by;
                let at = position.get(&read.msg).copied().unwrap_or(usize::MAX);
                all.entry((key, by)).or_default().push((at, read.msg));
            }
        }
    }
    all.values_mut().for_each(|list| {
        list.sort_unstable();
        list.dedup();
    });
    for ((no, client), reading) in clients(log).zip(readings) {
        for period in &reading.periods {
            let key = key_at(client, period.at);
            let mut done: FxHashMap<ClientNo, usize> = FxHashMap::default();
            for read in period.reads.iter().filter(|read| log.messages[read.msg.index()].is_ordered()) {
                let by = log.messages[read.msg.index()].by;
                let Some(list) = all.get(&(key, by)) else { continue };
                // Everything of this sender up to this one must be there; look at each only once.
                let from = done.entry(by).or_default();
                let here = list.partition_point(|(at, _)| Some(at) < position.get(&read.msg));
                let missing = list[(*from).min(here)..here].iter().find(|(_, earlier)| {
                    let own_discard = by == no && log.messages[earlier.index()].is_self_discard();
                    !own_discard && reading.had.get(earlier).is_none_or(|at| *at > read.at)
                });
                if let Some((_, earlier)) = missing {
                    let group: GroupName = period.group;
                    let what = format!("{no} read {} of {by} to {group} without {earlier}", read.msg);
                    return violation("P7", what);
                }
                *from = here;
            }
        }
    }
    Ok(())
}
