//! Which line goes to which file, and in which form.
// spec: log_writer 3.2, 5.9

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use log_stream::{Output as StreamEvent, SourceId};
use regex::bytes::{Regex, RegexBuilder};

use crate::archive::Job;
use crate::config::{LogConfig, SessionConfig};
use crate::format::{Form, Origin};
use crate::index::Event;
use crate::output::{OpenOptionsOf, Output, Target};
use crate::repair::Torn;
use crate::rotate::{NUMBERS_MAX, Rotation};
use crate::state::State;
use crate::vhosts::Vhosts;

/// Memory that a compiled expression may take.
const MATCHER_BYTES_MAX: usize = 1 << 20;

/// A match expression. Its time is linear in the length of the line, whatever the expression.
#[derive(Clone, Debug)]
pub struct Matcher(Regex);

impl Matcher {
    /// Compiles an expression (POSIX extended syntax; no back-references).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(expression: &str) -> Result<Self, String> {
        // POSIX expressions know nothing of Unicode: a dot is one byte.
        let built = RegexBuilder::new(expression).unicode(false).size_limit(MATCHER_BYTES_MAX).build();
        built.map(Self).map_err(|error| error.to_string().lines().last().unwrap_or("bad expression").into())
    }
}

/// What happens to the time in a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Rewrite {
    /// Nothing.
    #[default]
    Keep,
    /// The writer's time, in the form of the common log format. Two writers then differ.
    Common,
    /// The later one of the line's time and the time of the line written before: two writers agree.
    Monotone,
    /// The writer's time, in a form of strftime that brings its own brackets. Two writers then differ.
    Format(String),
}

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

/// An output whose file may be followed by another one.
#[derive(Debug)]
struct Slot {
    /// What was configured, to find it again.
    name: String,
    output: Output,
    rotating: Option<Rotating>,
}

#[derive(Debug)]
struct Rotating {
    plan: Arc<Rotation>,
    begin: Timestamp,
    /// Place of the file in its period.
    number: u32,
    /// The last attempt failed: not every line tries again.
    failed: bool,
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

fn wanted(matches: &[Matcher], line: &[u8]) -> bool {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    matches.is_empty() || matches.iter().any(|m| m.0.is_match(text))
}

impl Slot {
    /// Begins another file before a line that would make this one too large.
    fn make_room(&mut self, len: usize, sealed: &mut Vec<Job>) {
        let Some(Rotating { plan, number, failed: false, .. }) = &self.rotating else { return };
        let have = self.output.len();
        if have == 0 || plan.size.is_none_or(|size| have + len as u64 <= size) {
            return;
        }
        // The same size at the same line on every writer, so the files are the same too.
        let next = (number + 1).min(NUMBERS_MAX);
        if let Err(error) = self.begin_file(None, next, sealed) {
            let target = self.output.target();
            tracing::error!(%target, %error, "No new file could be begun; lines go on to the old one.");
            if let Some(rotating) = &mut self.rotating {
                rotating.failed = true;
            }
        }
    }

    fn next_period(&mut self, at: Timestamp, sealed: &mut Vec<Job>) -> io::Result<()> {
        let begin = self.rotating.as_ref().map(|r| r.plan.begin(at));
        self.begin_file(begin, 0, sealed).inspect_err(|_| {
            // Not again at every look at the clock: the next period is another chance.
            if let (Some(rotating), Some(begin)) = (&mut self.rotating, begin) {
                rotating.begin = begin;
            }
        })
    }

    /// Ends the file; the next one is of the period that begins at `begin` (`None`: of the same).
    fn begin_file(&mut self, begin: Option<Timestamp>, number: u32, sealed: &mut Vec<Job>) -> io::Result<()> {
        let Some(rotating) = &mut self.rotating else { return Ok(()) };
        self.output.flush()?;
        let plan = Arc::clone(&rotating.plan);
        let new_begin = begin.unwrap_or(rotating.begin);
        let next = plan.current(new_begin, number, "");
        let aside =
            (0..=NUMBERS_MAX).map_while(|n| plan.aside(rotating.begin, n)).find(|path| !is_taken(path));
        if aside.is_none() && self.output.target() == &Target::File(next.clone()) {
            // The name does not change with this period, or all numbers are used up.
            (rotating.begin, rotating.number) = (new_begin, number);
            return Ok(());
        }
        let path = self.output.rotate(next, aside.as_deref())?;
        (rotating.begin, rotating.number, rotating.failed) = (new_begin, number, false);
        link(Some(&plan), self.output.target());
        sealed.push(Job { path, plan });
        Ok(())
    }
}

/// Whether there is a file of this name, packed or not.
fn is_taken(path: &Path) -> bool {
    ["", ".gz", ".zst", ".parquet"].iter().any(|s| crate::output::with_suffix(path, s).exists())
}

/// The place of the last file of a period: writing goes on there.
fn last_number(plan: &Rotation, begin: Timestamp) -> u32 {
    if !plan.template.has_time() {
        return 0;
    }
    let name = |n| plan.current(begin, n, "");
    let last = (0..NUMBERS_MAX).take_while(|n| is_taken(&name(*n))).last().unwrap_or(0);
    // A packed file is complete.
    if is_taken(&name(last)) && !name(last).exists() { last + 1 } else { last }
}

/// Makes the symbolic link to the current file.
fn link(plan: Option<&Arc<Rotation>>, target: &Target) {
    let (Some(link), Target::File(path)) = (plan.and_then(|p| p.link.as_ref()), target) else { return };
    let to = match (path.file_name(), path.parent() == link.parent()) {
        (Some(name), true) => PathBuf::from(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
    };
    let new = crate::output::with_suffix(link, ".new");
    // What stands in the way may be a left-over; only links are replaced.
    let _ = std::fs::remove_file(&new);
    let other = link.symlink_metadata().is_ok_and(|m| !m.is_symlink());
    let made = match other {
        true => Err(io::Error::other("there is a file of this name that is no link")),
        false => std::os::unix::fs::symlink(&to, &new).and_then(|()| std::fs::rename(&new, link)),
    };
    if let Err(error) = made {
        tracing::warn!(link = %link.display(), %error, "The link to the current file cannot be made.");
    }
}

/// Length to keep: what the state recorded, if it means this very file.
pub(crate) fn recorded(state: Option<&State>, target: &Target, output: &Output) -> Option<u64> {
    let Target::File(path) = target else { return None };
    let (len, inode) = state?.files.get(path)?;
    let (now, inode_now) = output.position()?;
    (inode_now == *inode && now >= *len).then_some(*len)
}

/// Appends a message and returns its lines.
fn append_line(buffer: &mut Vec<u8>, payload: &[u8]) -> u64 {
    buffer.extend_from_slice(payload);
    // Nearly always one line with its end.
    match memchr::memchr(b'\n', payload) {
        Some(at) if at + 1 == payload.len() => 1,
        Some(_) => {
            let open = !payload.ends_with(b"\n");
            if open {
                buffer.push(b'\n');
            }
            memchr::memchr_iter(b'\n', payload).count() as u64 + u64::from(open)
        }
        None => {
            buffer.push(b'\n');
            1
        }
    }
}

/// Time and text of the latest line of a route.
type Latest = Option<(i64, [u8; TIME_BYTES])>;

/// The line with its time replaced, if that is wanted and the line has one.
fn rewritten<'a>(
    rewrite: &Rewrite,
    latest: &mut Latest,
    line: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> &'a [u8] {
    let format = match rewrite {
        Rewrite::Monotone => return monotone(latest, line, scratch),
        Rewrite::Keep => return line,
        Rewrite::Common => "[%d/%b/%Y:%H:%M:%S %z]",
        Rewrite::Format(format) => format,
    };
    let Some(at) = time_of(line) else { return line };
    let Ok(now) = jiff::fmt::strtime::format(format, &jiff::Zoned::now()) else { return line };
    scratch.clear();
    scratch.extend_from_slice(&line[..at]);
    scratch.extend_from_slice(now.as_bytes());
    scratch.extend_from_slice(&line[at + TIME_BYTES..]);
    scratch
}

/// The line, with the latest time before it if its own is earlier.
fn monotone<'a>(latest: &mut Latest, line: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let Some(at) = time_of(line) else { return line };
    let Some(text) = line.get(at..at + TIME_BYTES).and_then(|t| <[u8; TIME_BYTES]>::try_from(t).ok()) else {
        return line;
    };
    let Some(stamp) = access_log::parse_clf_time(&text[1..TIME_BYTES - 1]) else { return line };
    match latest {
        Some((unix, before)) if stamp.unix < *unix => {
            scratch.clear();
            scratch.extend_from_slice(line);
            scratch[at..at + TIME_BYTES].copy_from_slice(before);
            scratch
        }
        _ => {
            *latest = Some((stamp.unix, text));
            line
        }
    }
}

/// Length of `[10/Oct/2000:13:55:36 -0700]`.
const TIME_BYTES: usize = 28;

/// Place of the bracket pair that holds the time: brackets around an address are not taken for it.
pub(crate) fn time_of(line: &[u8]) -> Option<usize> {
    let shape = b"[00/Aaa/0000:00:00:00 +0000]";
    memchr::memchr_iter(b'[', line).find(|at| {
        let Some(window) = line.get(*at..at + TIME_BYTES) else { return false };
        window.iter().zip(shape).all(|(b, want)| match want {
            b'0' => b.is_ascii_digit(),
            b'A' => b.is_ascii_uppercase(),
            b'a' => b.is_ascii_lowercase(),
            b'+' => *b == b'+' || *b == b'-',
            want => b == want,
        })
    })
}

#[cfg(test)]
mod tests {
    use spread::GroupName;

    use super::*;
    use crate::vhosts::{OPEN_MAX, VHOSTS_MAX};

    const LINE: &[u8] = b"192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /1 HTTP/1.1\" 200 5\n";

    fn log(group: &str, dir: &Path, file: Option<&str>) -> LogConfig {
        LogConfig {
            target: file.map(|f| Target::File(dir.join(f))),
            ..LogConfig::new(group.parse::<GroupName>().expect("group"))
        }
    }

    const OPTIONS: RouterOptions =
        RouterOptions { lock: true, durable: false, index: false, now: Timestamp::UNIX_EPOCH };

    fn router(logs: Vec<LogConfig>) -> Router {
        let session = SessionConfig { daemons: vec![], logs, state: None };
        Router::open(&session, OPTIONS, None).expect("open").0
    }

    fn put(router: &mut Router, group: &'static str, payload: &[u8]) {
        router.append(&Bytes::from_static(group.as_bytes()), payload, None);
        router.flush().expect("flush");
    }

    fn read(dir: &Path, name: &str) -> String {
        String::from_utf8(std::fs::read(dir.join(name)).expect(name)).expect("text")
    }

    #[test]
    fn groups_have_their_files_and_share_one() {
        let dir = tempfile::tempdir().expect("dir");
        let dir = dir.path();
        let mut r =
            router(vec![log("a", dir, Some("1")), log("b", dir, Some("2")), log("c", dir, Some("1"))]);
        for group in ["a", "b", "c", "other"] {
            put(&mut r, group, format!("{group}\n").as_bytes());
        }
        put(&mut r, "a", b"no feed");
        assert_eq!(read(dir, "1"), "a\nc\nno feed\n");
        assert_eq!(read(dir, "2"), "b\n");
    }

    #[test]
    fn recorded_messages_give_their_lines() {
        // spec: log-cases/streams.jsonl; a character of a text is a byte.
        let mut seen = 0;
        for line in include_str!("../cases/streams.jsonl").lines() {
            let case: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let (true, Some(raw)) = (case["kind"] == "message", case["raw"].as_str()) else { continue };
            let raw: Vec<u8> = raw.chars().map(|c| u8::try_from(c).expect("a byte")).collect();
            let dir = tempfile::tempdir().expect("dir");
            let mut r = router(vec![log("a", dir.path(), Some("1"))]);
            if !raw.is_empty() {
                put(&mut r, "a", &raw);
            }
            let written = std::fs::read(dir.path().join("1")).expect("read");
            let lines = written.iter().filter(|b| **b == b'\n').count();
            assert_eq!(Some(lines as u64), case["expect"]["lines_written"].as_u64(), "{}", case["id"]);
            assert!(written.is_empty() || written.ends_with(b"\n"));
            seen += 1;
        }
        assert!(seen > 2, "{seen} cases");
    }

    #[test]
    fn any_match_is_enough() {
        let dir = tempfile::tempdir().expect("dir");
        let dir = dir.path();
        let matches = ["^G[A-Z]T", "x{2}$"].map(|m| Matcher::new(m).expect("good")).to_vec();
        let mut r = router(vec![LogConfig { matches, ..log("a", dir, Some("1")) }]);
        put(&mut r, "a", b"GET\nPUT\nxx\nx\n");
        assert_eq!(read(dir, "1"), "GET\nxx\n");
        Matcher::new("(a)\\1").expect_err("back-references are refused");
        Matcher::new("(").expect_err("broken");
    }

    #[test]
    fn virtual_hosts_have_files_and_bad_names_stay_inside() {
        let dir = tempfile::tempdir().expect("dir");
        let base = dir.path();
        let vhosts = base.join("vhosts");
        let mut r = router(vec![LogConfig { vhost_dir: Some(vhosts.clone()), ..log("a", base, None) }]);
        put(&mut r, "a", b"WWW.example.com 1 2\n../evil 3\n.. 4\n/etc/x 5\nnospace\n\nwww.example.com 6\n");
        put(&mut r, "a", &[&b"x".repeat(300)[..], b" 7\n"].concat());
        assert_eq!(read(&vhosts, "www.example.com"), "1 2\n6\n");
        let long = "x".repeat(300);
        assert_eq!(read(&vhosts, "_invalid"), format!("../evil 3\n.. 4\n/etc/x 5\nnospace\n\n{long} 7\n"));
        assert_eq!(std::fs::read_dir(base).expect("dir").count(), 1);
        assert_eq!(std::fs::read_dir(&vhosts).expect("dir").count(), 2);
    }

    #[test]
    fn open_files_and_names_are_bounded() {
        let dir = tempfile::tempdir().expect("dir");
        let mut r =
            router(vec![LogConfig { vhost_dir: Some(dir.path().into()), ..log("a", dir.path(), None) }]);
        for chunk in 0..11 {
            for i in 0..1000 {
                r.append(&Bytes::from_static(b"a"), format!("h{} line\n", chunk * 1000 + i).as_bytes(), None);
            }
            r.flush().expect("flush");
            assert!(r.vhosts[0].open_count() <= OPEN_MAX);
        }
        assert_eq!(r.file_count(), VHOSTS_MAX + 1);
        assert_eq!(read(dir.path(), "_overflow").lines().count(), 1000);
    }

    #[test]
    fn only_the_bracket_pair_with_the_time_is_rewritten() {
        let mut scratch = Vec::new();
        let line = [&b"[2001:db8::1] - - "[..], &LINE[14..]].concat();
        let new = rewritten(&Rewrite::Format("[%Y]".into()), &mut None, &line, &mut scratch);
        let text = String::from_utf8_lossy(new);
        assert!(text.starts_with("[2001:db8::1] - - [2"), "{text}");
        assert!(text.ends_with("] \"GET /1 HTTP/1.1\" 200 5\n"), "{text}");
        let mut scratch = Vec::new();
        let common = rewritten(&Rewrite::Common, &mut None, LINE, &mut scratch);
        assert_eq!(time_of(common), time_of(LINE), "{}", String::from_utf8_lossy(common));
        assert_ne!(common, LINE);
        assert_eq!(rewritten(&Rewrite::Common, &mut None, b"no time\n", &mut Vec::new()), b"no time\n");
    }

    #[test]
    fn monotone_times_never_go_back() {
        let dir = tempfile::tempdir().expect("dir");
        let rewrite = Rewrite::Monotone;
        let mut r = router(vec![LogConfig { rewrite, ..log("a", dir.path(), Some("1")) }]);
        let line = |s: u32| format!("h [10/Oct/2000:13:55:{s:02} -0700] {s}\n");
        put(&mut r, "a", [line(5), line(3), "x\n".into(), line(7)].concat().as_bytes());
        assert_eq!(
            read(dir.path(), "1"),
            [line(5), line(3).replace(":03", ":05"), "x\n".into(), line(7)].concat()
        );
    }

    #[test]
    fn size_and_period_begin_new_files() {
        let dir = tempfile::tempdir().expect("dir");
        let name = |n: &str| dir.path().join(n).display().to_string();
        for template in ["a.log", "b-%F.log"] {
            let template = crate::rotate::Template::parse(&name(template)).expect("template");
            let mut plan = Rotation::new(template);
            plan.every = Some(crate::rotate::Period::Days(1));
            plan.size = Some(6);
            plan.link = Some(dir.path().join("link"));
            let rotation = Some(Arc::new(plan));
            let log = LogConfig { rotation, ..log("a", dir.path(), Some("a.log")) };
            let mut r = router(vec![log]);
            put(&mut r, "a", b"1\n");
            put(&mut r, "a", b"2\n");
            put(&mut r, "a", b"345\n");
            let day = Timestamp::from_second(86_400).expect("time");
            assert_eq!(r.next_rotation(), Some(day));
            assert_eq!(r.rotate(day, false).0, 1);
            assert_eq!(r.rotate(day, false).0, 0, "once is enough");
            put(&mut r, "a", b"6\n");
            assert_eq!(r.take_sealed().len(), 2);
            assert_eq!(r.rotate(day, true).0, 1, "in the middle of a period");
            assert_eq!(r.rotate(day, true).0, 0, "an empty file is enough");
        }
        let wanted = [
            ("a.log", ""),
            ("a.log-19700102-000000", "6\n"),
            ("a.log-19700101-000000", "1\n2\n"),
            ("a.log-19700101-000000.1", "345\n"),
            ("b-1970-01-01.log", "1\n2\n"),
            ("b-1970-01-01.log.1", "345\n"),
            ("b-1970-01-02.log", "6\n"),
            ("b-1970-01-02.log.1", ""),
            ("link", ""),
        ];
        for (name, text) in wanted {
            assert_eq!(read(dir.path(), name), text, "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), wanted.len());
    }

    #[test]
    fn virtual_hosts_have_a_file_for_each_period() {
        let dir = tempfile::tempdir().expect("dir");
        let template = dir.path().join("v/%{vhost}-%F").display().to_string();
        let plan = Rotation::new(crate::rotate::Template::parse(&template).expect("template"));
        let log = LogConfig {
            rotation: Some(Arc::new(plan)),
            vhost_dir: Some(dir.path().join("v")),
            ..log("a", dir.path(), None)
        };
        let session = SessionConfig { daemons: vec![], logs: vec![log], state: None };
        let options = RouterOptions { index: true, ..OPTIONS };
        let mut r = Router::open(&session, options, None).expect("open").0;
        put(&mut r, "a", b"h1 1\nh2 2\n");
        r.rotate(Timestamp::from_second(86_400).expect("time"), false);
        put(&mut r, "a", b"h1 3\n");
        let dir = dir.path();
        for (name, text) in [("h1-1970-01-01", "1\n"), ("h2-1970-01-01", "2\n"), ("h1-1970-01-02", "3\n")] {
            assert_eq!(read(&dir.join("v"), name), text);
        }
        assert_eq!(r.take_sealed().len(), 2);
        let audit = crate::audit::Audit::of(&[dir.join("v")]).expect("audit");
        assert_eq!((audit.files[0].lines, audit.files[0].problems.len()), (3, 0), "{audit:?}");
        assert!(dir.join("v.0.audit").exists() && dir.join("v.audit").exists());
    }

    #[test]
    fn the_same_group_and_file_twice_is_one_route() {
        let dir = tempfile::tempdir().expect("dir");
        let matching = |m: &str| LogConfig {
            matches: vec![Matcher::new(m).expect("good")],
            ..log("a", dir.path(), Some("1"))
        };
        let mut r = router(vec![matching("x"), matching("y")]);
        put(&mut r, "a", b"xy\ny\nz\n");
        assert_eq!(read(dir.path(), "1"), "xy\ny\n");
    }

    #[test]
    fn a_known_file_is_cut_to_the_recorded_length_another_to_its_last_line() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("1");
        std::fs::write(&path, b"a\nb\nc").expect("write");
        let (_, inode) = {
            let output =
                Output::open(Target::File(path.clone()), OpenOptionsOf { lock: false, no_links: false });
            output.expect("open").position().expect("file")
        };
        let session =
            SessionConfig { daemons: vec![], logs: vec![log("a", dir.path(), Some("1"))], state: None };
        for (recorded, left) in [((2, inode + 1), "a\nb\n"), ((2, inode), "a\n"), ((9, inode), "a\n")] {
            let state = State { files: [(path.clone(), recorded)].into(), ..State::default() };
            Router::open(&session, OPTIONS, Some(&state)).expect("open");
            assert_eq!(read(dir.path(), "1"), left);
        }
    }

    #[test]
    fn an_output_that_cannot_be_opened_is_named() {
        let session = SessionConfig {
            daemons: vec![],
            logs: vec![log("a", Path::new("/proc/nothing"), Some("1"))],
            state: None,
        };
        let error = Router::open(&session, OPTIONS, None).expect_err("no such place");
        assert!(error.to_string().starts_with("cannot open /proc/nothing/1: "), "{error}");
    }
}
