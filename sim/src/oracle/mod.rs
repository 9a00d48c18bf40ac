//! The promises of Extended Virtual Synchrony, checked on the logs of a history (`ring-protocol` 1.2).
//!
//! | promise | checked here as |
//! |---|---|
//! | G1 | at most once at a process, in one configuration and at one place everywhere, by a member, submitted |
//! | G2 | places ascend; what a process delivers in a regular configuration is the beginning of all that anybody delivered of it |
//! | G3 | processes with the same transitional configuration delivered the same before and in it |
//! | G4 | a process delivers its own messages without a gap |
//! | G5 | whatever the originator had delivered or sent before comes before, also after gaps |
//! | G6 | follows from G3, G4 and G5; places agree with G2 |
//! | G7 | SAFE: all members of the configuration of delivery deliver it before they go on |
//! | G8 | SAFE in a regular configuration: all its members had installed it |
//! | G9 | identifiers, members, predecessors |
//!
//! G10, liveness, is observed while a history runs (`super::world`).

use std::fmt;

use rustc_hash::{FxHashMap, FxHashSet};
use spread_ring::{ConfId, Mid, Service};

use super::log::{Entry, Log, Msg, Place, Proc};

#[cfg(test)]
mod tests;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise, for instance `G7`.
    pub promise: &'static str,
    /// Who did what.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

fn violation<T>(promise: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { promise, what })
}

/// Checks the log of a whole history.
///
/// # Errors
///
/// The first broken promise.
pub fn check(log: &Log) -> Result<(), Violation> {
    let mut history = History::read(log)?;
    history.places_agree()?;
    history.regular_parts_are_prefixes()?;
    history.configurations_agree()?;
    history.together()?;
    history.streams_have_no_gaps()?;
    history.causality()?;
    history.safe()?;
    Ok(())
}

/// A delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Delivery {
    msg: Msg,
    place: Place,
    service: Service,
    order: u64,
}

/// The time that a process spent in one regular configuration and the transitional one after it.
#[derive(Debug)]
struct Stay {
    proc: Proc,
    conf: ConfId,
    members: Vec<Mid>,
    /// Order of the entry that installed it.
    installed: u64,
    /// In order; the first `regular` of them before the transitional configuration.
    deliveries: Vec<Delivery>,
    regular: usize,
    trans: Option<(ConfId, Vec<Mid>)>,
    /// The configuration that came after, if the process got so far.
    next: Option<ConfId>,
    /// How many messages of its own the process had delivered before it installed this configuration.
    own_before: u32,
    had: FxHashSet<Msg>,
}

impl Stay {
    fn in_regular(&self) -> &[Delivery] {
        &self.deliveries[..self.regular_len()]
    }

    fn in_trans(&self) -> &[Delivery] {
        &self.deliveries[self.regular_len()..]
    }

    fn regular_len(&self) -> usize {
        if self.trans.is_some() { self.regular } else { self.deliveries.len() }
    }
}

struct History<'a> {
    log: &'a Log,
    stays: Vec<Stay>,
    by_proc: Vec<Vec<usize>>,
    by_conf: FxHashMap<ConfId, Vec<usize>>,
    /// Configuration and place of each message that was delivered anywhere.
    placed: FxHashMap<Msg, (ConfId, Place)>,
    /// All places of a configuration at which something was delivered anywhere, ascending.
    order_of: FxHashMap<ConfId, Vec<Place>>,
    /// Order of the entry that submitted a message.
    submitted: FxHashMap<Msg, (u64, Service)>,
}

impl<'a> History<'a> {
    fn read(log: &'a Log) -> Result<Self, Violation> {
        let mut history = Self {
            log,
            stays: Vec::new(),
            by_proc: Vec::new(),
            by_conf: FxHashMap::default(),
            placed: FxHashMap::default(),
            order_of: FxHashMap::default(),
            submitted: FxHashMap::default(),
        };
        for proc in log.procs() {
            for line in &proc.lines {
                if let Entry::Submit { msg, service } = line.entry {
                    history.submitted.insert(msg, (line.order, service));
                }
            }
        }
        for index in 0..log.procs().len() {
            let proc = Proc(u32::try_from(index).unwrap_or(u32::MAX));
            let first = history.stays.len();
            history.read_proc(proc)?;
            history.by_proc.push((first..history.stays.len()).collect());
        }
        for (index, stay) in history.stays.iter().enumerate() {
            history.by_conf.entry(stay.conf).or_default().push(index);
        }
        Ok(history)
    }

    fn name(&self, proc: Proc) -> String {
        let mid = self.log.proc(proc).mid;
        format!("p{} ({} {:x})", proc.0, mid.node, mid.session)
    }

    fn stay_in(&self, proc: Proc, conf: ConfId) -> Option<&Stay> {
        self.by_proc.get(proc.index())?.iter().map(|i| &self.stays[*i]).find(|stay| stay.conf == conf)
    }

    fn read_proc(&mut self, proc: Proc) -> Result<(), Violation> {
        let (log, me, name) = (self.log, self.log.proc(proc).mid, self.name(proc));
        let mut own = 0;
        let mut ever: FxHashSet<Msg> = FxHashSet::default();
        let mut current: Option<Stay> = None;
        for line in &log.proc(proc).lines {
            match &line.entry {
                Entry::Submit { .. } => {}
                Entry::Deliver { msg, place, service } => {
                    let Some(stay) = &mut current else {
                        return violation("G1", format!("{name} delivered {msg} in no configuration"));
                    };
                    match self.submitted.get(msg) {
                        None => return violation("G1", format!("{name} delivered {msg}, never submitted")),
                        Some((_, was)) if was != service => {
                            return violation(
                                "G1",
                                format!("{name} delivered {msg} as {service:?}, not {was:?}"),
                            );
                        }
                        Some((order, _)) if *order > line.order => {
                            return violation(
                                "G1",
                                format!("{name} delivered {msg} before it was submitted"),
                            );
                        }
                        Some(_) => {}
                    }
                    if !ever.insert(*msg) {
                        return violation("G1", format!("{name} delivered {msg} twice"));
                    }
                    own += u32::from(msg.by == proc);
                    stay.had.insert(*msg);
                    let delivery =
                        Delivery { msg: *msg, place: *place, service: *service, order: line.order };
                    stay.deliveries.push(delivery);
                }
                Entry::Transitional { id, members, of } => {
                    let Some(stay) = &mut current else {
                        return violation("G9", format!("{name} got transitional {id} in no configuration"));
                    };
                    if stay.conf != *of || stay.trans.is_some() {
                        let conf = stay.conf;
                        return violation(
                            "G9",
                            format!("{name} got transitional {id} of {of} while in {conf}"),
                        );
                    }
                    if !members.contains(&me) || members.iter().any(|m| !stay.members.contains(m)) {
                        return violation(
                            "G9",
                            format!("{name} got transitional {id} with members {members:?}"),
                        );
                    }
                    stay.regular = stay.deliveries.len();
                    stay.trans = Some((*id, members.clone()));
                }
                Entry::Regular { id, members } => {
                    let stay = self.installed(proc, &name, current.take(), *id, members, line.order, own)?;
                    current = Some(stay);
                }
            }
        }
        self.stays.extend(current);
        Ok(())
    }

    /// Ends the stay in `last` and begins that in `id`.
    #[allow(clippy::too_many_arguments, reason = "one step of read_proc, cut out for its length")]
    fn installed(
        &mut self,
        proc: Proc,
        name: &str,
        last: Option<Stay>,
        id: ConfId,
        members: &[Mid],
        order: u64,
        own_before: u32,
    ) -> Result<Stay, Violation> {
        let me = self.log.proc(proc).mid;
        let sorted = members.windows(2).all(|pair| pair[0].node < pair[1].node);
        if !members.contains(&me) || !sorted || members.first().is_none_or(|first| first.node != id.rep) {
            return violation("G9", format!("{name} installed {id} with members {members:?}"));
        }
        if !id.epoch.is_multiple_of(2) {
            return violation(
                "G9",
                format!("{name} installed the regular configuration {id} with an odd epoch"),
            );
        }
        match last {
            None if members.len() != 1 => {
                return violation("G9", format!("{name} began in {id} with members {members:?}"));
            }
            None => {}
            Some(mut last) => {
                let Some((trans, of_trans)) = &last.trans else {
                    return violation(
                        "G9",
                        format!("{name} installed {id} without a transitional configuration"),
                    );
                };
                let fits = trans.epoch + 1 == id.epoch && trans.nonce == id.nonce;
                if !fits || of_trans.iter().any(|m| !members.contains(m)) || last.conf.epoch >= id.epoch {
                    let conf = last.conf;
                    let what =
                        format!("{name} installed {id} after {conf} and transitional {trans} {of_trans:?}");
                    return violation("G9", what);
                }
                last.next = Some(id);
                self.stays.push(last);
            }
        }
        Ok(Stay {
            proc,
            conf: id,
            members: members.to_vec(),
            installed: order,
            deliveries: Vec::new(),
            regular: 0,
            trans: None,
            next: None,
            own_before,
            had: FxHashSet::default(),
        })
    }

    /// G1 and G2: one place for a message, one message at a place, ascending at each process.
    fn places_agree(&mut self) -> Result<(), Violation> {
        let mut at: FxHashMap<(ConfId, Place), Msg> = FxHashMap::default();
        for stay in &self.stays {
            let mut last = None;
            for d in &stay.deliveries {
                let here = (stay.conf, d.place);
                let there = *self.placed.entry(d.msg).or_insert(here);
                if there != here {
                    let promise = if there.0 == here.0 { "G2" } else { "G1" };
                    let name = self.name(stay.proc);
                    let what = format!("{name} delivered {} at {here:?}, another one at {there:?}", d.msg);
                    return violation(promise, what);
                }
                let msg = *at.entry(here).or_insert(d.msg);
                if msg != d.msg {
                    return violation("G2", format!("{msg} and {} are both at {here:?}", d.msg));
                }
                if last.is_some_and(|last| last >= d.place) {
                    let name = self.name(stay.proc);
                    return violation("G2", format!("{name} delivered {} at {here:?} after {last:?}", d.msg));
                }
                last = Some(d.place);
            }
        }
        for (conf, place) in self.placed.values() {
            self.order_of.entry(*conf).or_default().push(*place);
        }
        self.order_of.values_mut().for_each(|places| places.sort_unstable());
        Ok(())
    }

    /// G2: no gaps in a regular configuration.
    fn regular_parts_are_prefixes(&self) -> Result<(), Violation> {
        for stay in &self.stays {
            let Some(all) = self.order_of.get(&stay.conf) else { continue };
            for (d, place) in stay.in_regular().iter().zip(all) {
                if d.place != *place {
                    let (name, conf) = (self.name(stay.proc), stay.conf);
                    let what = format!("{name} delivered {} in {conf} without the one at {place:?}", d.msg);
                    return violation("G2", what);
                }
            }
        }
        Ok(())
    }

    /// G9 across processes.
    fn configurations_agree(&self) -> Result<(), Violation> {
        let mut trans_of: FxHashMap<ConfId, (ConfId, &[Mid])> = FxHashMap::default();
        for stay in &self.stays {
            if let Some((id, members)) = &stay.trans {
                let known = trans_of.entry(*id).or_insert((stay.conf, members));
                if *known != (stay.conf, members) {
                    let name = self.name(stay.proc);
                    let what = format!("{name} got transitional {id} {members:?}, others {known:?}");
                    return violation("G9", what);
                }
            }
        }
        for (conf, stays) in &self.by_conf {
            let first = &self.stays[stays[0]];
            for stay in stays.iter().map(|i| &self.stays[*i]) {
                if stay.members != first.members {
                    let (name, other) = (self.name(stay.proc), self.name(first.proc));
                    let what = format!("{name} and {other} have different members in {conf}");
                    return violation("G9", what);
                }
            }
            for mid in &first.members {
                if self.log.find(*mid).is_none() {
                    return violation("G9", format!("{conf} has the member {mid:?}, which never started"));
                }
            }
        }
        Ok(())
    }

    /// G3, and that a transitional configuration holds exactly those who go on together.
    fn together(&self) -> Result<(), Violation> {
        // By next regular configuration: who came from where.
        let mut came: FxHashMap<ConfId, Vec<&Stay>> = FxHashMap::default();
        for stay in &self.stays {
            if let Some(next) = stay.next {
                came.entry(next).or_default().push(stay);
            }
        }
        for (next, stays) in &came {
            for a in stays {
                let Some((id_a, members_a)) = &a.trans else { continue };
                for b in stays {
                    let Some((id_b, _)) = &b.trans else { continue };
                    let (name_a, name_b) = (self.name(a.proc), self.name(b.proc));
                    let inside = members_a.contains(&self.log.proc(b.proc).mid);
                    if (a.conf == b.conf) != inside || (id_a == id_b) != inside {
                        let (ca, cb) = (a.conf, b.conf);
                        let what = format!(
                            "{name_a} came to {next} from {ca} over {id_a} {members_a:?}, {name_b} from {cb} over {id_b}"
                        );
                        return violation("G9", what);
                    }
                }
            }
        }
        // A process that has its transitional configuration has finished the regular one, also if it never
        // got to the next.
        let mut by_trans: FxHashMap<ConfId, Vec<&Stay>> = FxHashMap::default();
        for stay in &self.stays {
            if let Some((id, _)) = &stay.trans {
                by_trans.entry(*id).or_default().push(stay);
            }
        }
        for (id, stays) in &by_trans {
            for pair in stays.windows(2) {
                let (a, b) = (pair[0], pair[1]);
                self.same(a, b, *id, a.in_regular(), b.in_regular())?;
            }
            let done: Vec<&&Stay> = stays.iter().filter(|stay| stay.next.is_some()).collect();
            for pair in done.windows(2) {
                let (a, b) = (pair[0], pair[1]);
                self.same(a, b, *id, a.in_trans(), b.in_trans())?;
            }
        }
        Ok(())
    }

    fn same(
        &self,
        a: &Stay,
        b: &Stay,
        id: ConfId,
        left: &[Delivery],
        right: &[Delivery],
    ) -> Result<(), Violation> {
        let differ = |i: &usize| left.get(*i).map(|d| d.msg) != right.get(*i).map(|d| d.msg);
        let Some(i) = (0..left.len().max(right.len())).find(differ) else { return Ok(()) };
        let show = |d: Option<&Delivery>| {
            d.map_or_else(|| "nothing".to_owned(), |d| format!("{} at {:?}", d.msg, d.place))
        };
        let (name_a, name_b, conf) = (self.name(a.proc), self.name(b.proc), a.conf);
        let (l, r) = (show(left.get(i)), show(right.get(i)));
        let what = format!("{name_a} and {name_b} went together over {id} from {conf}; {l} against {r}");
        violation("G3", what)
    }

    /// G4 and the part of G5 about one sender: the messages of an originator come in its order, from the
    /// first one that it had not delivered before the configuration, without gaps.
    fn streams_have_no_gaps(&self) -> Result<(), Violation> {
        for stay in &self.stays {
            let mut next: FxHashMap<Proc, u32> = FxHashMap::default();
            for d in &stay.deliveries {
                let by = d.msg.by;
                let name = self.name(stay.proc);
                let Some(theirs) = self.stay_in(by, stay.conf) else {
                    let (conf, msg) = (stay.conf, d.msg);
                    let what = format!("{name} delivered {msg} in {conf}, which its sender never installed");
                    return violation("G1", what);
                };
                let expected = next.entry(by).or_insert(theirs.own_before + 1);
                if d.msg.no != *expected {
                    let promise = if by == stay.proc { "G4" } else { "G5" };
                    let (conf, msg) = (stay.conf, d.msg);
                    let what =
                        format!("{name} delivered {msg} in {conf} where p{}#{expected} was next", by.0);
                    return violation(promise, what);
                }
                *expected += 1;
            }
        }
        Ok(())
    }

    /// G5: what the originator had delivered in the configuration before it submitted the message.
    fn causality(&self) -> Result<(), Violation> {
        for stay in &self.stays {
            let Some(all) = self.order_of.get(&stay.conf) else { continue };
            for (i, d) in stay.deliveries.iter().enumerate() {
                let (Some((submitted, _)), Some(theirs)) =
                    (self.submitted.get(&d.msg), self.stay_in(d.msg.by, stay.conf))
                else {
                    continue;
                };
                let had = theirs.in_regular().partition_point(|theirs| theirs.order < *submitted);
                let Some(last) = had.checked_sub(1).map(|i| theirs.deliveries[i].place) else { continue };
                let mine = stay.deliveries[..i].partition_point(|mine| mine.place <= last);
                let everywhere = all.partition_point(|place| *place <= last);
                if mine != everywhere {
                    let (name, conf) = (self.name(stay.proc), stay.conf);
                    let missing = everywhere - mine.min(everywhere);
                    let what = format!(
                        "{name} delivered {} in {conf} without {missing} messages that its sender had delivered",
                        d.msg
                    );
                    return violation("G5", what);
                }
            }
        }
        Ok(())
    }

    /// G7 and G8.
    fn safe(&self) -> Result<(), Violation> {
        for stay in &self.stays {
            let trans = stay.trans.as_ref().map_or(&[][..], |(_, members)| members);
            let parts = [(stay.in_regular(), &stay.members[..], true), (stay.in_trans(), trans, false)];
            for (deliveries, members, regular) in parts {
                let safe: Vec<&Delivery> = deliveries.iter().filter(|d| d.service == Service::Safe).collect();
                if safe.is_empty() {
                    continue;
                }
                for mid in members {
                    self.safe_at(stay, &safe, *mid, regular)?;
                }
            }
        }
        Ok(())
    }

    fn safe_at(&self, stay: &Stay, safe: &[&Delivery], mid: Mid, regular: bool) -> Result<(), Violation> {
        let name = self.name(stay.proc);
        let theirs = self.log.find(mid).and_then(|proc| self.stay_in(proc, stay.conf));
        let late = |theirs: &Stay| safe.first().is_some_and(|d| d.order < theirs.installed);
        if regular && theirs.is_none_or(late) {
            let (msg, conf) = (safe[0].msg, stay.conf);
            let what = format!("{name} delivered SAFE {msg} in {conf} before {mid:?} installed it");
            return violation("G8", what);
        }
        let Some(theirs) = theirs.filter(|theirs| theirs.next.is_some()) else { return Ok(()) };
        if let Some(d) = safe.iter().find(|d| !theirs.had.contains(&d.msg)) {
            let (other, conf, msg) = (self.name(theirs.proc), stay.conf, d.msg);
            let how = if regular { "in" } else { "in the transitional configuration after" };
            let what = format!("{name} delivered SAFE {msg} {how} {conf}, {other} went on without it");
            return violation("G7", what);
        }
        Ok(())
    }
}
