//! Which line goes to which file, and in which form.
// spec: log_writer 3.2, 5.9

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};

use crate::config::{LogConfig, SessionConfig};
use crate::output::{OpenOptionsOf, Output, Target};
use crate::repair::Torn;
use crate::state::State;

/// Most files of virtual hosts that are open at once; the longest unused one is closed for a new one.
const OPEN_MAX: usize = 1_000;
/// Most names of virtual hosts; lines of more go to `_overflow`. Names come from clients when UseCanonicalName is off.
const VHOSTS_MAX: usize = 10_000;
/// Longest name of a virtual host.
const VHOST_BYTES_MAX: usize = 253;
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
    /// The writer's time, in a form of strftime that brings its own brackets. Two writers then differ.
    Format(String),
}

/// The routes of one session with their open outputs.
#[derive(Debug)]
pub struct Router {
    routes: BTreeMap<Bytes, Vec<Route>>,
    outputs: Vec<Output>,
    vhosts: BTreeMap<PathBuf, Vhost>,
    options: OpenOptionsOf,
    /// What is written must be on the disk before its file is closed.
    durable: bool,
    clock: u64,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Route {
    matches: Vec<Matcher>,
    rewrite: Rewrite,
    to: To,
}

#[derive(Clone, Debug)]
enum To {
    Output(usize),
    Vhosts(PathBuf),
    Nowhere,
}

#[derive(Debug)]
struct Vhost {
    output: Option<Output>,
    used: u64,
    /// Length and inode when it was closed.
    last: Option<(u64, u64)>,
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
        lock: bool,
        durable: bool,
        state: Option<&State>,
    ) -> Result<(Self, Vec<Torn>), OpenError> {
        let options = OpenOptionsOf { lock, no_links: false };
        let mut router = Self {
            routes: BTreeMap::new(),
            outputs: Vec::new(),
            vhosts: BTreeMap::new(),
            options: OpenOptionsOf { lock, no_links: true },
            durable,
            clock: 0,
            scratch: Vec::new(),
        };
        let mut torn = Vec::new();
        for log in &session.logs {
            let to = router.open_log(log, options, state, &mut torn)?;
            let route = Route { matches: log.matches.clone(), rewrite: log.rewrite.clone(), to };
            router.routes.entry(Bytes::copy_from_slice(log.group.as_bytes())).or_default().push(route);
        }
        Ok((router, torn))
    }

    fn open_log(
        &mut self,
        log: &LogConfig,
        options: OpenOptionsOf,
        state: Option<&State>,
        torn: &mut Vec<Torn>,
    ) -> Result<To, OpenError> {
        if let Some(dir) = &log.vhost_dir {
            std::fs::create_dir_all(dir)
                .map_err(|error| OpenError { target: dir.display().to_string(), error })?;
            for (path, (len, inode)) in state.iter().flat_map(|s| &s.files) {
                if path.parent() == Some(dir) && path.exists() {
                    self.repair_vhost(path, *len, *inode, torn)?;
                }
            }
            return Ok(To::Vhosts(dir.clone()));
        }
        let Some(target) = &log.target else { return Ok(To::Nowhere) };
        if let Some(index) = self.outputs.iter().position(|o| o.target() == target) {
            return Ok(To::Output(index));
        }
        let fail = |error| OpenError { target: target.to_string(), error };
        let mut output = Output::open(target.clone(), options).map_err(fail)?;
        let keep = recorded(state, target, &output);
        torn.extend(output.repair(keep).map_err(fail)?);
        self.outputs.push(output);
        Ok(To::Output(self.outputs.len() - 1))
    }

    /// Cuts a file that the state knows.
    fn repair_vhost(
        &mut self,
        path: &Path,
        len: u64,
        inode: u64,
        torn: &mut Vec<Torn>,
    ) -> Result<(), OpenError> {
        let target = Target::File(path.into());
        let fail = |error| OpenError { target: path.display().to_string(), error };
        let mut output = Output::open(target, self.options).map_err(fail)?;
        let keep = output.position().filter(|(now, ino)| *ino == inode && *now >= len).map(|_| len);
        torn.extend(output.repair(keep).map_err(fail)?);
        let last = output.position();
        self.vhosts.insert(path.into(), Vhost { output: None, used: 0, last });
        Ok(())
    }

    /// Puts a message's lines into the buffers of their outputs. A missing line feed at the end is added.
    pub fn append(&mut self, group: &Bytes, payload: &[u8]) {
        self.clock += 1;
        let Some(routes) = self.routes.get(group) else { return };
        let simple = routes.iter().all(|r| r.matches.is_empty() && r.rewrite == Rewrite::Keep);
        for route in routes {
            if let (true, To::Output(index)) = (simple, &route.to) {
                append_line(&mut self.outputs[*index], payload);
                continue;
            }
            for line in payload.split_inclusive(|b| *b == b'\n') {
                if !route.matches.is_empty() && !route.matches.iter().any(|m| m.0.is_match(trimmed(line))) {
                    continue;
                }
                match &route.to {
                    To::Nowhere => {}
                    To::Output(index) => {
                        let line = rewritten(&route.rewrite, line, &mut self.scratch);
                        append_line(&mut self.outputs[*index], line);
                    }
                    To::Vhosts(dir) => {
                        let (name, rest) = vhost_of(line);
                        let path = vhost_path(&self.vhosts, dir, &name);
                        let line = rewritten(&route.rewrite, rest, &mut self.scratch);
                        let target = Target::File(path.clone());
                        let vhost =
                            self.vhosts.entry(path).or_insert(Vhost { output: None, used: 0, last: None });
                        vhost.used = self.clock;
                        // A file that cannot be opened keeps its lines and is tried again at the flush.
                        let output = vhost.output.get_or_insert_with(|| Output::lazy(target, self.options));
                        append_line(output, line);
                    }
                }
            }
        }
    }

    /// Bytes not written yet.
    pub fn pending(&self) -> usize {
        self.all().map(Output::pending).sum()
    }

    /// Writes everything that can be written.
    ///
    /// # Errors
    /// The outputs that failed, with the reason; what they did not take stays.
    pub fn flush(&mut self) -> Result<(), Vec<(Target, io::Error)>> {
        let outputs =
            self.outputs.iter_mut().chain(self.vhosts.values_mut().filter_map(|v| v.output.as_mut()));
        let failed: Vec<_> =
            outputs.filter_map(|o| o.flush().err().map(|error| (o.target().clone(), error))).collect();
        self.close_unused();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Puts everything written on the disk.
    ///
    /// # Errors
    /// The first output that failed.
    pub fn sync(&mut self) -> Result<(), (Target, io::Error)> {
        let outputs =
            self.outputs.iter_mut().chain(self.vhosts.values_mut().filter_map(|v| v.output.as_mut()));
        for output in outputs {
            output.sync().map_err(|error| (output.target().clone(), error))?;
        }
        Ok(())
    }

    /// Opens all files anew. Those that cannot be opened stay with the old file and are told.
    pub fn reopen(&mut self) -> Vec<(Target, io::Error)> {
        let outputs =
            self.outputs.iter_mut().chain(self.vhosts.values_mut().filter_map(|v| v.output.as_mut()));
        outputs.filter_map(|o| o.reopen().err().map(|error| (o.target().clone(), error))).collect()
    }

    /// Length and inode of each named file.
    pub fn files(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let outputs = self.outputs.iter().filter_map(|o| match o.target() {
            Target::File(path) => Some((path.clone(), o.position()?)),
            _ => None,
        });
        let position = |v: &Vhost| v.output.as_ref().map_or(v.last, Output::position);
        let vhosts = self.vhosts.iter().filter_map(|(path, v)| Some((path.clone(), position(v)?)));
        outputs.chain(vhosts).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().chain(self.vhosts.values().filter_map(|v| v.output.as_ref()))
    }

    fn close_unused(&mut self) {
        let open = self.vhosts.values().filter(|v| v.output.is_some()).count();
        if open <= OPEN_MAX {
            return;
        }
        // Some more than needed, so that the next name does not mean the same work again.
        let mut used: Vec<u64> =
            self.vhosts.values().filter(|v| v.output.is_some()).map(|v| v.used).collect();
        used.sort_unstable();
        let keep_from = used[open - OPEN_MAX / 10 * 9];
        for vhost in self.vhosts.values_mut().filter(|v| v.used < keep_from) {
            let Some(output) = vhost.output.as_mut().filter(|o| o.pending() == 0) else { continue };
            if self.durable && output.sync().is_err() {
                continue;
            }
            vhost.last = output.position();
            vhost.output = None;
        }
    }
}

/// Length to keep: what the state recorded, if it means this very file.
fn recorded(state: Option<&State>, target: &Target, output: &Output) -> Option<u64> {
    let Target::File(path) = target else { return None };
    let (len, inode) = state?.files.get(path)?;
    let (now, inode_now) = output.position()?;
    (inode_now == *inode && now >= *len).then_some(*len)
}

fn append_line(output: &mut Output, line: &[u8]) {
    output.append(line);
    if !line.ends_with(b"\n") {
        output.append(b"\n");
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// The first word as name of a virtual host, and the rest. A word that cannot be a host name is left in the line,
/// which goes to `_invalid`.
// spec: log_writer L-23
fn vhost_of(line: &[u8]) -> (String, &[u8]) {
    let invalid = || ("_invalid".to_owned(), line);
    let Some(space) = line.iter().position(|b| *b == b' ') else { return invalid() };
    let word = &line[..space];
    let good = (1..=VHOST_BYTES_MAX).contains(&word.len())
        && word.iter().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(b))
        && word != b"."
        && word != b"..";
    match std::str::from_utf8(word) {
        Ok(word) if good => (word.to_ascii_lowercase(), &line[space + 1..]),
        _ => invalid(),
    }
}

fn vhost_path(known: &BTreeMap<PathBuf, Vhost>, dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    if known.contains_key(&path) || known.len() < VHOSTS_MAX { path } else { dir.join("_overflow") }
}

/// The line with its time replaced, if that is wanted and the line has one.
fn rewritten<'a>(rewrite: &Rewrite, line: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let format = match rewrite {
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

/// Length of `[10/Oct/2000:13:55:36 -0700]`.
const TIME_BYTES: usize = 28;

/// Place of the bracket pair that holds the time: brackets around an address are not taken for it.
fn time_of(line: &[u8]) -> Option<usize> {
    let shape = b"[00/Aaa/0000:00:00:00 +0000]";
    line.windows(TIME_BYTES).position(|window| {
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

    const LINE: &[u8] = b"192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET /1 HTTP/1.1\" 200 5\n";

    fn log(group: &str, dir: &Path, file: Option<&str>) -> LogConfig {
        LogConfig {
            group: group.parse::<GroupName>().expect("group"),
            target: file.map(|f| Target::File(dir.join(f))),
            vhost_dir: None,
            matches: vec![],
            rewrite: Rewrite::Keep,
        }
    }

    fn router(logs: Vec<LogConfig>) -> Router {
        let session = SessionConfig { daemons: vec![], logs, state: None };
        Router::open(&session, true, false, None).expect("open").0
    }

    fn put(router: &mut Router, group: &'static str, payload: &[u8]) {
        router.append(&Bytes::from_static(group.as_bytes()), payload);
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
                r.append(&Bytes::from_static(b"a"), format!("h{} line\n", chunk * 1000 + i).as_bytes());
            }
            r.flush().expect("flush");
            assert!(r.all().count() <= OPEN_MAX);
        }
        assert_eq!(r.vhosts.len(), VHOSTS_MAX + 1);
        assert_eq!(read(dir.path(), "_overflow").lines().count(), 1000);
    }

    #[test]
    fn only_the_bracket_pair_with_the_time_is_rewritten() {
        let mut scratch = Vec::new();
        let line = [&b"[2001:db8::1] - - "[..], &LINE[14..]].concat();
        let new = rewritten(&Rewrite::Format("[%Y]".into()), &line, &mut scratch);
        let text = String::from_utf8_lossy(new);
        assert!(text.starts_with("[2001:db8::1] - - [2"), "{text}");
        assert!(text.ends_with("] \"GET /1 HTTP/1.1\" 200 5\n"), "{text}");
        let mut scratch = Vec::new();
        let common = rewritten(&Rewrite::Common, LINE, &mut scratch);
        assert_eq!(time_of(common), time_of(LINE), "{}", String::from_utf8_lossy(common));
        assert_ne!(common, LINE);
        assert_eq!(rewritten(&Rewrite::Common, b"no time\n", &mut Vec::new()), b"no time\n");
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
            Router::open(&session, true, true, Some(&state)).expect("open");
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
        let error = Router::open(&session, true, true, None).expect_err("no such place");
        assert!(error.to_string().starts_with("cannot open /proc/nothing/1: "), "{error}");
    }
}
