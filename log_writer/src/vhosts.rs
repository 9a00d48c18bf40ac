//! A file for each virtual host: many files, a bounded number of them open.
// spec: log_writer L-23

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use crate::archive::Job;
use crate::index::{Event, Index};
use crate::output::{OpenOptionsOf, Output, Target, with_suffix};
use crate::repair::Torn;
use crate::rotate::Rotation;
use crate::route::{OpenError, RouterOptions, recorded};
use crate::state::State;

/// Most files that are open at once; the longest unused ones are closed for new ones.
pub const OPEN_MAX: usize = 1_000;
/// Most names; lines of more go to `_overflow`. Names come from clients when UseCanonicalName is off.
pub const VHOSTS_MAX: usize = 10_000;
/// Up to so many files are put on the disk one by one.
const SYNC_EACH_MAX: usize = 16;
/// Longest name of a virtual host.
const VHOST_BYTES_MAX: usize = 253;

/// A directory with a file for each virtual host.
#[derive(Debug)]
pub struct Vhosts {
    dir: PathBuf,
    /// Name -> place in `hosts`.
    places: FxHashMap<Box<[u8]>, usize>,
    hosts: Vec<Vhost>,
    open: usize,
    options: RouterOptions,
    plan: Option<Arc<Rotation>>,
    begin: Timestamp,
    /// One index for all files: it knows the numbers, not the bytes.
    index: Option<Index>,
    /// Lines since the last block of the index.
    lines: u64,
    clock: u64,
    name: Vec<u8>,
}

#[derive(Debug)]
struct Vhost {
    path: PathBuf,
    output: Option<Output>,
    used: u64,
    /// Length and inode when it was closed.
    last: Option<(u64, u64)>,
}

impl Vhosts {
    /// Opens a directory and repairs the files that the state knows.
    ///
    /// # Errors
    /// When it cannot be made, or a file cannot be repaired.
    pub fn open(
        dir: &Path,
        plan: Option<Arc<Rotation>>,
        options: RouterOptions,
        state: Option<&State>,
        torn: &mut Vec<Torn>,
    ) -> Result<Self, OpenError> {
        let fail = |error| OpenError { target: dir.display().to_string(), error };
        std::fs::create_dir_all(dir).map_err(fail)?;
        let begin = plan.as_ref().map_or(options.now, |p| p.begin(options.now));
        let index = match options.index {
            true => {
                // Lines behind the recorded length come again.
                let path = Index::path_of(dir);
                if let Some((len, inode)) = state.and_then(|s| s.files.get(&path))
                    && path.metadata().is_ok_and(|m| m.ino() == *inode && m.len() > *len)
                {
                    OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(*len)).map_err(fail)?;
                }
                Some(open_index(dir, false).map_err(fail)?)
            }
            false => None,
        };
        let mut vhosts = Self {
            dir: dir.into(),
            places: FxHashMap::default(),
            hosts: Vec::new(),
            open: 0,
            options,
            plan,
            begin,
            index,
            lines: 0,
            clock: 0,
            name: Vec::new(),
        };
        if let Some(index) = &mut vhosts.index {
            index.event(Event::Start);
        }
        for path in state.iter().flat_map(|s| s.files.keys()).filter(|p| p.starts_with(dir) && p.is_file()) {
            let fail = |error| OpenError { target: path.display().to_string(), error };
            let mut output = Output::open(Target::File(path.clone()), vhosts.file_options()).map_err(fail)?;
            let keep = recorded(state, output.target(), &output);
            torn.extend(output.repair(keep).map_err(fail)?);
            vhosts.remember(path, output.position());
        }
        Ok(vhosts)
    }

    /// A file that was there before: its position is kept in the state until it is written again.
    fn remember(&mut self, path: &Path, last: Option<(u64, u64)>) {
        // Names of rotated files are not looked at again; those of this period are made anew from the host.
        let Some(name) = path.file_name().filter(|_| self.plan.is_none()) else { return };
        self.name.clear();
        self.name.extend_from_slice(name.as_encoded_bytes());
        self.enter(Vhost { path: path.into(), output: None, used: 0, last });
    }

    /// Enters a host under the name that was looked for; gives its place.
    fn enter(&mut self, vhost: Vhost) -> usize {
        self.hosts.push(vhost);
        let place = self.hosts.len() - 1;
        self.places.insert(self.name.as_slice().into(), place);
        place
    }

    fn file_options(&self) -> OpenOptionsOf {
        OpenOptionsOf { lock: self.options.lock, no_links: true }
    }

    /// The directory.
    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    /// The index of all files.
    pub fn index(&mut self) -> Option<&mut Index> {
        self.index.as_mut()
    }

    /// Where a line belongs, and what of it is written.
    pub fn buffer<'a>(&mut self, line: &'a [u8]) -> (&mut Vec<u8>, &'a [u8]) {
        self.clock += 1;
        let rest = vhost_of(line, &mut self.name);
        if self.places.len() >= VHOSTS_MAX && !self.places.contains_key(&*self.name) {
            self.name.clear();
            self.name.extend_from_slice(b"_overflow");
        }
        let options = self.file_options();
        let place = match self.places.get(&*self.name) {
            Some(place) => *place,
            None => {
                let name = String::from_utf8_lossy(&self.name);
                let path = match &self.plan {
                    Some(plan) => plan.current(self.begin, 0, &name),
                    None => self.dir.join(&*name),
                };
                self.enter(Vhost { path, output: None, used: 0, last: None })
            }
        };
        let vhost = &mut self.hosts[place];
        vhost.used = self.clock;
        if vhost.output.is_none() {
            self.open += 1;
        }
        // A file that cannot be opened keeps its lines and is tried again at the flush.
        let target = || Target::File(vhost.path.clone());
        (vhost.output.get_or_insert_with(|| Output::lazy(target(), options)).buffer(), rest)
    }

    /// Lines were put into buffers.
    pub fn count(&mut self, lines: u64) {
        self.lines += lines;
    }

    fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        self.hosts.iter_mut().filter_map(|v| v.output.as_mut())
    }

    /// Bytes not written yet.
    pub fn pending(&self) -> usize {
        self.hosts.iter().filter_map(|v| v.output.as_ref()).map(Output::pending).sum()
    }

    /// Writes everything that can be written; tells what failed.
    pub fn flush(&mut self, failed: &mut Vec<(Target, io::Error)>) {
        let before = failed.len();
        for output in self.outputs() {
            if let Err(error) = output.flush() {
                failed.push((output.target().clone(), error));
            }
        }
        if failed.len() == before
            && let Some(index) = &mut self.index
        {
            let lines = std::mem::take(&mut self.lines);
            if let Err(error) = index.flush(0, 0, lines) {
                failed.push((Target::File(index.path().into()), error));
            }
        }
        self.close_unused();
    }

    /// Puts everything written on the disk.
    ///
    /// # Errors
    /// The first file that failed.
    pub fn sync(&mut self) -> Result<(), (Target, io::Error)> {
        if self.outputs().filter(|o| o.is_dirty()).count() > SYNC_EACH_MAX {
            // One call for the whole file system costs less than one for each of many files.
            let dir = || Target::File(self.dir.clone());
            let file = File::open(&self.dir).map_err(|error| (dir(), error))?;
            nix::unistd::syncfs(file).map_err(|errno| (dir(), errno.into()))?;
            self.outputs().for_each(Output::synced);
        } else {
            for output in self.outputs() {
                output.sync().map_err(|error| (output.target().clone(), error))?;
            }
        }
        let Some(index) = &mut self.index else { return Ok(()) };
        index.sync().map_err(|error| (Target::File(index.path().into()), error))
    }

    /// Opens all files anew; tells those that cannot be opened.
    pub fn reopen(&mut self, failed: &mut Vec<(Target, io::Error)>) {
        for output in self.outputs() {
            if let Err(error) = output.reopen() {
                failed.push((output.target().clone(), error));
            }
        }
        if let Some(index) = self.index.as_ref().filter(|i| !i.is_at_its_path()) {
            match open_index(&self.dir, false) {
                Ok(new) => self.index = Some(new),
                Err(error) => failed.push((Target::File(index.path().into()), error)),
            }
        }
    }

    /// When the next period begins.
    pub fn next_rotation(&self) -> Option<Timestamp> {
        self.plan.as_ref()?.next(self.begin)
    }

    /// Ends all files; those of the new period are begun with their first lines.
    pub fn rotate(&mut self, at: Timestamp, sealed: &mut Vec<Job>, failed: &mut Vec<(Target, io::Error)>) {
        let Some(plan) = self.plan.clone() else { return };
        if let Err(error) = self.sync() {
            // The system keeps what it took; the files are complete.
            failed.push(error);
        }
        let begin = plan.begin(at);
        let changes = plan.current(begin, 0, "x") != plan.current(self.begin, 0, "x");
        let stamp = self.begin.as_second();
        self.begin = begin;
        if !changes {
            return;
        }
        self.places.clear();
        for vhost in self.hosts.drain(..) {
            sealed.push(Job { path: vhost.path, plan: Arc::clone(&plan) });
        }
        self.open = 0;
        if let Some(index) = &mut self.index {
            index.event(Event::Sealed);
            let lines = std::mem::take(&mut self.lines);
            let name = Index::path_of(&with_suffix(&self.dir, &format!(".{stamp}")));
            let ended = index.flush(0, 0, lines).and_then(|()| index.sync());
            match ended
                .and_then(|()| std::fs::rename(index.path(), &name))
                .and_then(|()| open_index(&self.dir, false))
            {
                Ok(new) => *index = new,
                Err(error) => failed.push((Target::File(index.path().into()), error)),
            }
        }
    }

    /// The plan of rotation, and the files that are being written.
    pub fn plan(&self) -> Option<(Arc<Rotation>, Vec<PathBuf>)> {
        let current = self.hosts.iter().map(|v| v.path.clone()).collect();
        Some((Arc::clone(self.plan.as_ref()?), current))
    }

    /// Length and inode of each file.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, (u64, u64))> + '_ {
        let position = |v: &Vhost| v.output.as_ref().map_or(v.last, Output::position);
        let hosts = self.hosts.iter().filter_map(move |v| Some((v.path.clone(), position(v)?)));
        hosts.chain(self.index.iter().map(|index| (index.path().to_path_buf(), index.position())))
    }

    /// Known hosts.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// True when no host is known.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Files that are open.
    pub fn open_count(&self) -> usize {
        self.open
    }

    fn close_unused(&mut self) {
        if self.open <= OPEN_MAX {
            return;
        }
        if self.options.durable && self.sync().is_err() {
            return;
        }
        // Some more than needed, so that the next name does not mean the same work again.
        let mut used: Vec<u64> = self.hosts.iter().filter(|v| v.output.is_some()).map(|v| v.used).collect();
        used.sort_unstable();
        let keep_from = used[used.len() - OPEN_MAX / 10 * 9];
        for vhost in self.hosts.iter_mut().filter(|v| v.used < keep_from) {
            let Some(output) = vhost.output.as_ref().filter(|o| o.pending() == 0) else { continue };
            vhost.last = output.position();
            vhost.output = None;
            self.open -= 1;
        }
    }
}

fn open_index(dir: &Path, no_links: bool) -> io::Result<Index> {
    Index::open(Index::path_of(dir), 0, no_links, |_| Ok((0, 0)))
}

/// The first word as name of a virtual host; returns the rest of the line. A word that cannot be a host name is left
/// in the line, which goes to `_invalid`.
fn vhost_of<'a>(line: &'a [u8], name: &mut Vec<u8>) -> &'a [u8] {
    name.clear();
    let word = memchr::memchr(b' ', line).map(|space| &line[..space]);
    let good = |word: &&[u8]| {
        (1..=VHOST_BYTES_MAX).contains(&word.len())
            && word.iter().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(b))
            && *word != b"."
            && *word != b".."
    };
    match word.filter(good) {
        Some(word) => {
            name.extend(word.iter().map(u8::to_ascii_lowercase));
            &line[word.len() + 1..]
        }
        None => {
            name.extend_from_slice(b"_invalid");
            line
        }
    }
}
