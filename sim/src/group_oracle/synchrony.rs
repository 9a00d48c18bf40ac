//! P15, P18 to P22, P25: who delivers what in which view.

use super::{
    Cause, Check, ClientLog, ClientNo, FxHashMap, FxHashSet, GroupLog, GroupName, MsgNo, Period, Reading,
    ViewKey, clients, key_at, view_at, violation,
};
use spread_ring::ConfId;
use spread_wire::ServiceType;

pub(super) fn check(log: &GroupLog, readings: &[Reading]) -> Check {
    let synchrony = Synchrony::new(log, readings);
    synchrony.same_view()?;
    synchrony.same_set()?;
    synchrony.without_signal()?;
    synchrony.safe()
}

#[cfg(test)]
pub(super) fn safe_only(log: &GroupLog, readings: &[Reading]) -> Check {
    Synchrony::new(log, readings).safe()
}

struct Synchrony<'a> {
    log: &'a GroupLog,
    readings: &'a [Reading],
    by_name: FxHashMap<GroupName, ClientNo>,
    /// Period of a client in a base view.
    periods: FxHashMap<(ClientNo, ViewKey), &'a Period>,
}

impl<'a> Synchrony<'a> {
    fn new(log: &'a GroupLog, readings: &'a [Reading]) -> Self {
        let by_name = clients(log).map(|(no, client)| (client.name, no)).collect();
        let mut periods = FxHashMap::default();
        for ((no, client), reading) in clients(log).zip(readings) {
            for period in &reading.periods {
                periods.insert((no, key_at(client, period.at)), period);
            }
        }
        Self { log, readings, by_name, periods }
    }

    fn all(&self) -> impl Iterator<Item = (ClientNo, &'a ClientLog, &'a Period)> {
        let list = clients(self.log).zip(self.readings);
        list.flat_map(|((no, client), reading)| reading.periods.iter().map(move |p| (no, client, p)))
    }

    fn is_ordered(&self, msg: MsgNo) -> bool {
        self.log.messages[msg.index()].is_ordered()
    }

    /// P19. What a daemon delivers in transition may come after holes: a join or leave of a departed daemon may
    /// be missing there that others had. So it is compared among those who were in transition together.
    fn same_view(&self) -> Check {
        type Place = (MsgNo, GroupName, Option<ConfId>);
        let mut known: FxHashMap<Place, (ClientNo, ViewKey)> = FxHashMap::default();
        for (no, client, period) in self.all() {
            let here = key_at(client, period.at);
            for read in period.reads.iter().filter(|read| self.is_ordered(read.msg)) {
                let place = (read.msg, period.group, read.broken);
                let (other, there) = *known.entry(place).or_insert((no, here));
                if there != here {
                    let what = format!("{other} read {} in {there:?}, {no} in {here:?}", read.msg);
                    return violation("P19", what);
                }
            }
        }
        Ok(())
    }

    /// P20 and P25
    fn same_set(&self) -> Check {
        // By view, next view, and own set in a network view.
        type Step = (ViewKey, ViewKey, Option<usize>);
        let mut steps: FxHashMap<Step, (ClientNo, &Period)> = FxHashMap::default();
        for (no, client, period) in self.all() {
            let Some(next) = period.next else { continue };
            let (from, to) = (view_at(client, period.at), view_at(client, next));
            let network = to.cause == Cause::Network;
            let step = (from.key(), to.key(), network.then_some(to.own));
            let (other, first) = *steps.entry(step).or_insert((no, period));
            self.equal(other, first, no, period, step.0, true)?;
            if network && from.cause == Cause::Network {
                self.equal(other, first, no, period, step.0, false)?;
            }
        }
        Ok(())
    }

    fn equal(
        &self,
        a: ClientNo,
        left: &Period,
        b: ClientNo,
        right: &Period,
        view: ViewKey,
        ordered: bool,
    ) -> Check {
        let part = |period: &Period, trans: bool| -> FxHashSet<MsgNo> {
            let (before, after) = period.reads.split_at(period.before_trans);
            let reads = if trans { after } else { before };
            let messages = reads.iter().map(|read| read.msg).filter(|msg| self.is_ordered(*msg) == ordered);
            let of_either = |msg: &MsgNo| {
                let sent = &self.log.messages[msg.index()];
                !(sent.is_self_discard() && (sent.by == a || sent.by == b))
            };
            messages.filter(of_either).collect()
        };
        let promise = if ordered { "P20" } else { "P25" };
        for trans in [false, true] {
            // Loose messages: only the set counts, not where the signal was.
            let (l, r) = if ordered {
                (part(left, trans), part(right, trans))
            } else {
                let both = |p: &Period| part(p, false).union(&part(p, true)).copied().collect();
                (both(left), both(right))
            };
            if let Some(msg) = l.symmetric_difference(&r).min() {
                let when = if trans { "after the signal" } else { "before the signal" };
                let what = format!("{a} and {b} went together from {view:?}; only one read {msg} {when}");
                return violation(promise, what);
            }
        }
        Ok(())
    }

    /// Whether the client must have read everything of this view: it went on, or the history came to rest.
    fn is_done(&self, no: ClientNo, view: ViewKey) -> bool {
        let client = &self.log.clients[no.index()];
        if client.excused {
            return false;
        }
        self.log.rest.is_some() || self.periods.get(&(no, view)).is_some_and(|period| period.next.is_some())
    }

    /// P18, and P15, which asks for it where a signal is missing.
    fn without_signal(&self) -> Check {
        for (no, client, period) in self.all().filter(|(.., period)| !period.trans) {
            let Some(next) = period.next else { continue };
            let (from, to) = (view_at(client, period.at), view_at(client, next));
            if to.cause != Cause::Network {
                continue;
            }
            let lost = from.members.iter().any(|member| !to.own_set().contains(member));
            let promise = if lost { "P15" } else { "P18" };
            let view = from.key();
            for member in &from.members {
                let Some(other) = self.by_name.get(member).copied() else {
                    return violation("P8", format!("{no} has the unknown member {member} in {view:?}"));
                };
                if !self.log.clients[other.index()].membership || !self.is_done(other, view) {
                    continue;
                }
                let theirs = self.periods.get(&(other, view));
                let missing = period.reads.iter().map(|read| read.msg).find(|msg| {
                    let sent = &self.log.messages[msg.index()];
                    let own_discard = sent.is_self_discard() && sent.by == other;
                    let has = theirs.is_some_and(|theirs| theirs.reads.iter().any(|read| read.msg == *msg));
                    sent.is_ordered() && !own_discard && !has
                });
                if let Some(msg) = missing {
                    let what = format!(
                        "{no} went from {view:?} to {:?} without a signal; {other} did not read {msg} in it",
                        to.id
                    );
                    return violation(promise, what);
                }
            }
        }
        Ok(())
    }

    /// P21 and P22
    fn safe(&self) -> Check {
        let is_safe = |msg: MsgNo| self.log.messages[msg.index()].service.intersects(ServiceType::SAFE);
        for (no, client, period) in self.all() {
            let from = view_at(client, period.at);
            let view = from.key();
            let (before, after) = period.reads.split_at(period.before_trans);
            let before: Vec<MsgNo> = before.iter().map(|read| read.msg).filter(|msg| is_safe(*msg)).collect();
            for member in &from.members {
                if let Some(other) = self.by_name.get(member) {
                    self.has_all("P21", no, *other, &before, view, false)?;
                }
            }
            let Some(next) = period.next else { continue };
            let after: Vec<MsgNo> = after.iter().map(|read| read.msg).filter(|msg| is_safe(*msg)).collect();
            for member in view_at(client, next).own_set() {
                if let Some(other) = self.by_name.get(member).filter(|_| from.members.contains(member)) {
                    self.has_all("P22", no, *other, &after, view, true)?;
                }
            }
        }
        Ok(())
    }

    /// `other` reads all of `messages`, or is excused. `in_view`: in this view.
    fn has_all(
        &self,
        promise: &'static str,
        no: ClientNo,
        other: ClientNo,
        messages: &[MsgNo],
        view: ViewKey,
        in_view: bool,
    ) -> Check {
        let membership = self.log.clients[other.index()].membership;
        if !self.is_done(other, view) || (in_view && !membership) {
            return Ok(());
        }
        let theirs = self.periods.get(&(other, view));
        // It may have left in transition, and even have joined again.
        if in_view && theirs.is_none_or(|period| period.next.is_none()) {
            return Ok(());
        }
        let missing = messages.iter().find(|msg| {
            let sent = &self.log.messages[msg.index()];
            let own_discard = sent.is_self_discard() && sent.by == other;
            let has = if in_view {
                theirs.is_some_and(|theirs| theirs.reads.iter().any(|read| read.msg == **msg))
            } else {
                self.readings[other.index()].had.contains_key(msg)
            };
            !own_discard && !has
        });
        match missing {
            None => Ok(()),
            Some(msg) => {
                let what = format!("{no} read SAFE {msg} in {view:?}, {other} did not");
                violation(promise, what)
            }
        }
    }
}
