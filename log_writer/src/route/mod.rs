//! Which line goes to which file, and in which form.
// spec: log_writer 3.2, 5.9

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use log_stream::{Output as StreamEvent, SourceId};

pub(crate) use self::lines::time_of;
use self::lines::{Latest, append_line, rewritten, wanted};
pub use self::lines::{Matcher, Rewrite};
use self::slot::{Rotating, Slot, last_number, link};
use crate::archive::Job;
use crate::config::{LogConfig, SessionConfig};
use crate::format::{Form, Origin};
use crate::index::Event;
use crate::output::{OpenOptionsOf, Output, Target};
use crate::repair::Torn;
use crate::rotate::{NUMBERS_MAX, Rotation};
use crate::state::State;
use crate::vhosts::Vhosts;

mod lines;
mod slot;
#[cfg(test)]
mod tests;

/// (Group, source) -> the first number that is looked for, and those that were found.
pub type Written = BTreeMap<(Bytes, SourceId), (u64, BTreeSet<u64>)>;

/// How outputs are opened and kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouterOptions {
    /// Lock files.
    pub lock: bool,
    /// What is written must be on the disk before its file is closed.
    pub durable: bool,
    /// Keep audit indexes.
    pub index: bool,
    /// The time, for the names of files.
    pub now: Timestamp,
}

/// The routes of one session with their open outputs.
#[derive(Debug)]
pub struct Router {
    routes: BTreeMap<Bytes, Vec<Route>>,
    outputs: Vec<Slot>,
    vhosts: Vec<Vhosts>,
    options: RouterOptions,
    scratch: Vec<u8>,
    formed: Vec<u8>,
    sealed: Vec<Job>,
}

#[derive(Debug)]
struct Route {
    matches: Vec<Matcher>,
    rewrite: Rewrite,
    form: Form,
    to: To,
    latest: Latest,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Output(usize),
    Vhosts(usize),
    Nowhere,
}

/// An output that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {target}: {error}")]
pub struct OpenError {
    /// What was to be opened.
    pub target: String,
    /// Why it cannot be.
    #[source]
    pub error: io::Error,
}

impl Router {
    /// Opens all outputs and repairs the ends of files: a file that the state knows is cut to its recorded length,
    /// others to the last line feed.
    ///
    /// # Errors
    /// The first output that cannot be opened.
    pub fn open(
        session: &SessionConfig,
        options: RouterOptions,
        state: Option<&State>,
    ) -> Result<(Self, Vec<Torn>), OpenError> {
        let mut router = Self {
            routes: BTreeMap::new(),
            outputs: Vec::new(),
            vhosts: Vec::new(),
            options,
            scratch: Vec::new(),
            formed: Vec::new(),
            sealed: Vec::new(),
        };
        let mut torn = Vec::new();
        for log in &session.logs {
            let to = router.open_log(log, state, &mut torn)?;
            let group = Bytes::copy_from_slice(log.group.as_bytes());
            let routes = router.routes.entry(group).or_default();
            let mut matches = log.matches.clone();
            // A group twice to the same place is one route: a line is written once, if either wants it.
            if let Some(same) = routes.iter_mut().find(|r| r.to == to && r.rewrite == log.rewrite) {
                if same.matches.is_empty() || matches.is_empty() {
                    same.matches.clear();
                } else {
                    same.matches.append(&mut matches);
                }
                continue;
            }
            routes.push(Route {
                matches,
                rewrite: log.rewrite.clone(),
                form: log.form.clone(),
                to,
                latest: None,
            });
        }
        Ok((router, torn))
    }

    fn open_log(
        &mut self,
        log: &LogConfig,
        state: Option<&State>,
        torn: &mut Vec<Torn>,
    ) -> Result<To, OpenError> {
        let options = OpenOptionsOf { lock: self.options.lock, no_links: false };
        if let Some(dir) = &log.vhost_dir {
            if let Some(place) = self.vhosts.iter().position(|v| v.dir() == dir) {
                return Ok(To::Vhosts(place));
            }
            self.vhosts.push(Vhosts::open(dir, log.rotation.clone(), self.options, state, torn)?);
            return Ok(To::Vhosts(self.vhosts.len() - 1));
        }
        let Some(target) = &log.target else { return Ok(To::Nowhere) };
        let name = target.to_string();
        if let Some(place) = self.outputs.iter().position(|o| o.name == name) {
            return Ok(To::Output(place));
        }
        let (target, rotating) = match &log.rotation {
            Some(plan) => {
                let begin = plan.begin(self.options.now);
                let number = last_number(plan, begin);
                let current = plan.current(begin, number, "");
                self.seal_former(plan, &current, state, torn)?;
                let rotating = Rotating { plan: Arc::clone(plan), begin, number, failed: false };
                (Target::File(current), Some(rotating))
            }
            None => (target.clone(), None),
        };
        let fail = |error| OpenError { target: target.to_string(), error };
        let mut output = Output::open(target.clone(), options).map_err(fail)?;
        let keep = recorded(state, &target, &output);
        torn.extend(output.repair(keep).map_err(fail)?);
        if self.options.index {
            output.open_index().map_err(fail)?;
        }
        if let Some(index) = output.index() {
            index.event(Event::Start);
        }
        link(rotating.as_ref().map(|r| &r.plan), &target);
        self.outputs.push(Slot { name, output, rotating });
        Ok(To::Output(self.outputs.len() - 1))
    }

    /// The file that was written last may belong to an earlier period: it is repaired like the current one.
    fn seal_former(
        &mut self,
        plan: &Arc<Rotation>,
        current: &Path,
        state: Option<&State>,
        torn: &mut Vec<Torn>,
    ) -> Result<(), OpenError> {
        let Ok(shape) = plan.complete_shape() else { return Ok(()) };
        let files = state.iter().flat_map(|s| s.files.keys());
        for path in files.filter(|p| *p != current && shape.is_match(p.as_os_str().as_encoded_bytes())) {
            if path.is_file() {
                let fail = |error| OpenError { target: path.display().to_string(), error };
                let options = OpenOptionsOf { lock: self.options.lock, no_links: false };
                let target = Target::File(path.clone());
                let mut output = Output::open(target.clone(), options).map_err(fail)?;
                let keep = recorded(state, &target, &output);
                torn.extend(output.repair(keep).map_err(fail)?);
                if self.options.index {
                    output.open_index().map_err(fail)?;
                }
                self.sealed.push(Job { path: path.clone(), plan: Arc::clone(plan) });
            }
        }
        Ok(())
    }

    /// Puts a message's lines into the buffers of their outputs. A missing line feed at the end is added. `origin` is
    /// the source of the message and its number.
    pub fn append(&mut self, group: &Bytes, payload: &[u8], origin: Option<(SourceId, u64)>) {
        let Some(routes) = self.routes.get_mut(group) else { return };
        let of_line = |part| origin.map(|(source, seq)| Origin { group, source, seq, part });
        for route in routes {
            let lines = match route.to {
                To::Nowhere => continue,
                To::Output(place) => {
                    let slot = &mut self.outputs[place];
                    let mut lines = 0;
                    if route.matches.is_empty() && route.rewrite == Rewrite::Keep && route.form.is_raw() {
                        let open = usize::from(!payload.ends_with(b"\n"));
                        slot.make_room(payload.len() + open, &mut self.sealed);
                        lines += append_line(slot.output.buffer(), payload);
                    } else {
                        for line in
                            payload.split_inclusive(|b| *b == b'\n').filter(|l| wanted(&route.matches, l))
                        {
                            let line = rewritten(&route.rewrite, &mut route.latest, line, &mut self.scratch);
                            self.formed.clear();
                            route.form.write(line, of_line(lines), &mut self.formed);
                            slot.make_room(self.formed.len(), &mut self.sealed);
                            slot.output.append(&self.formed);
                            lines += 1;
                        }
                    }
                    lines
                }
                To::Vhosts(place) => {
                    let mut lines = 0;
                    for line in payload.split_inclusive(|b| *b == b'\n').filter(|l| wanted(&route.matches, l))
                    {
                        let (buffer, rest) = self.vhosts[place].buffer(line);
                        let line = rewritten(&route.rewrite, &mut route.latest, rest, &mut self.scratch);
                        route.form.write(line, of_line(lines), buffer);
                        lines += 1;
                    }
                    self.vhosts[place].count(lines);
                    lines
                }
            };
            let index = match route.to {
                To::Output(place) => self.outputs[place].output.index(),
                To::Vhosts(place) => self.vhosts[place].index(),
                To::Nowhere => None,
            };
            let Some(index) = index else { continue };
            match origin {
                Some((source, seq)) if lines == 0 => index.elsewhere(group, source, seq),
                Some((source, seq)) => index.line(group, source, seq, lines),
                None => index.plain(lines),
            }
        }
    }

    /// Enters what is known about lines that were not written into the indexes of their group.
    pub fn note(&mut self, group: &Bytes, event: &StreamEvent) {
        let mut places: Vec<To> = self.routes.get(group).into_iter().flatten().map(|r| r.to).collect();
        places.dedup();
        for to in places {
            let index = match to {
                To::Output(place) => self.outputs[place].output.index(),
                To::Vhosts(place) => self.vhosts[place].index(),
                To::Nowhere => None,
            };
            let Some(index) = index else { continue };
            match event {
                StreamEvent::Duplicate { source, seq } => index.duplicate(group, *source, *seq),
                StreamEvent::Gap { source, from, to, reason, .. } => {
                    index.gap(group, *source, *from, *to, *reason);
                }
                StreamEvent::End { source, last, .. } => index.end(group, *source, *last),
                _ => {}
            }
        }
    }

    /// Enters what happened to the writer into all indexes.
    pub fn event(&mut self, event: Event) {
        let outputs = self.outputs.iter_mut().filter_map(|s| s.output.index());
        let vhosts = self.vhosts.iter_mut().filter_map(Vhosts::index);
        outputs.chain(vhosts).for_each(|index| index.event(event));
    }

    /// Bytes not written yet.
    pub fn pending(&self) -> usize {
        let outputs = self.outputs.iter().map(|s| s.output.pending());
        outputs.chain(self.vhosts.iter().map(Vhosts::pending)).sum()
    }

    /// Writes everything that can be written.
    ///
    /// # Errors
    /// The outputs that failed, with the reason; what they did not take stays.
    pub fn flush(&mut self) -> Result<(), Vec<(Target, io::Error)>> {
        let mut failed = Vec::new();
        for slot in &mut self.outputs {
            match slot.output.flush() {
                Ok(()) => {
                    if let Some(rotating) = &mut slot.rotating {
                        rotating.failed = false;
                    }
                }
                Err(error) => failed.push((slot.output.target().clone(), error)),
            }
        }
        for vhosts in &mut self.vhosts {
            vhosts.flush(&mut failed);
        }
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Puts everything written on the disk.
    ///
    /// # Errors
    /// The first output that failed.
    pub fn sync(&mut self) -> Result<(), (Target, io::Error)> {
        for slot in &mut self.outputs {
            slot.output.sync().map_err(|error| (slot.output.target().clone(), error))?;
        }
        self.vhosts.iter_mut().try_for_each(Vhosts::sync)
    }

    /// Opens all files anew. Those that cannot be opened stay with the old file and are told.
    pub fn reopen(&mut self) -> Vec<(Target, io::Error)> {
        let mut failed = Vec::new();
        for slot in &mut self.outputs {
            if let Err(error) = slot.output.reopen() {
                failed.push((slot.output.target().clone(), error));
            }
        }
        for vhosts in &mut self.vhosts {
            vhosts.reopen(&mut failed);
        }
        failed
    }

    /// When the next period of a file begins.
    pub fn next_rotation(&self) -> Option<Timestamp> {
        let outputs = self.outputs.iter().filter_map(|s| s.rotating.as_ref());
        let outputs = outputs.filter_map(|r| r.plan.next(r.begin));
        outputs.chain(self.vhosts.iter().filter_map(Vhosts::next_rotation)).min()
    }

    /// Begins new files where a period begins not later than `at`. Everything must be written. Returns how many, and
    /// those that could not be begun: they stay with the old file, until the next period. `forced`: also in the middle
    /// of a period.
    pub fn rotate(&mut self, at: Timestamp, forced: bool) -> (usize, Vec<(Target, io::Error)>) {
        let (mut done, mut failed) = (0, Vec::new());
        for slot in &mut self.outputs {
            let due =
                slot.rotating.as_ref().and_then(|r| r.plan.next(r.begin)).is_some_and(|next| next <= at);
            let result = match (due, &slot.rotating) {
                (true, _) => slot.next_period(at, &mut self.sealed),
                (false, Some(r)) if forced && !slot.output.is_empty() => {
                    let next = (r.number + 1).min(NUMBERS_MAX);
                    slot.begin_file(None, next, &mut self.sealed)
                }
                _ => continue,
            };
            match result {
                Ok(()) => done += 1,
                Err(error) => failed.push((slot.output.target().clone(), error)),
            }
        }
        for vhosts in &mut self.vhosts {
            if vhosts.next_rotation().is_some_and(|next| next <= at) {
                vhosts.rotate(at, &mut self.sealed, &mut failed);
                done += 1;
            }
        }
        (done, failed)
    }

    /// Files that are complete since the last call.
    pub fn take_sealed(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.sealed)
    }

    /// All plans of rotation with the files that are being written.
    pub fn plans(&self) -> Vec<(Arc<Rotation>, Vec<PathBuf>)> {
        let outputs = self.outputs.iter().filter_map(|s| {
            let Target::File(path) = s.output.target() else { return None };
            Some((Arc::clone(&s.rotating.as_ref()?.plan), vec![path.clone()]))
        });
        outputs.chain(self.vhosts.iter().filter_map(Vhosts::plan)).collect()
    }

    /// Length and inode of each named file.
    pub fn files(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let outputs = self.outputs.iter().filter_map(|s| match s.output.target() {
            Target::File(path) => Some((path.clone(), s.output.position()?)),
            _ => None,
        });
        outputs.chain(self.vhosts.iter().flat_map(Vhosts::files)).collect()
    }

    /// Numbers behind these positions that are in the files already.
    pub fn written_behind(&self, positions: &[(Bytes, SourceId, u64)]) -> Written {
        let mut found: Written = positions
            .iter()
            .map(|(group, id, next)| ((group.clone(), *id), (*next, BTreeSet::new())))
            .collect();
        for slot in &self.outputs {
            slot.output.written_behind(&mut found);
        }
        found
    }

    /// How many files the state has to name.
    pub fn file_count(&self) -> usize {
        self.outputs.len() + self.vhosts.iter().map(Vhosts::len).sum::<usize>()
    }
}

/// Length to keep: what the state recorded, if it means this very file.
pub(crate) fn recorded(state: Option<&State>, target: &Target, output: &Output) -> Option<u64> {
    let Target::File(path) = target else { return None };
    let (len, inode) = state?.files.get(path)?;
    let (now, inode_now) = output.position()?;
    (inode_now == *inode && now >= *len).then_some(*len)
}
