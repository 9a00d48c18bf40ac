//! `log_writer ship`: follows the files of a writer and gives their lines to a sink, at least once, with resume.
//!
//! The position (which file, how far) is kept only after the sink has everything before it. Nothing is read behind the
//! length that the writer's state file records: the writer may cut that off again after a crash.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::archive::complete_files;
use crate::output::with_suffix;
use crate::rotate::Rotation;
use crate::sink::records::{first_line, is_same};
use crate::sink::{Records, Sink};
use crate::state::State;

/// First word of a position file.
const HEAD: &str = "log_writer position 1";
/// Time between two looks at a file that has no more lines.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pauses after a sink that fails.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The same trouble is written to the log at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// What is followed.
pub struct Ship {
    /// The names of the files, as the writer makes them.
    pub plan: Rotation,
    /// Where the position is kept.
    pub position: PathBuf,
    /// State file of the writer; if there is none, files are read to their ends.
    pub state: PathBuf,
    /// Most lines of a batch.
    pub batch: usize,
    /// Longest time that lines wait for others.
    pub wait: Duration,
    /// End when everything that is there was shipped.
    pub once: bool,
}

/// A place in the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Position {
    /// CRC-32 of the first line of the file.
    file: u32,
    offset: u64,
}

impl Ship {
    /// Ships until `stop`; returns how many lines.
    ///
    /// # Errors
    /// When files cannot be read or the position cannot be kept. A sink that fails is tried again for ever.
    pub fn run(&self, sink: &mut dyn Sink, stop: &AtomicBool) -> anyhow::Result<u64> {
        let mut position = self.load()?;
        let mut shipped = 0;
        // A file that is not there under its mark was packed since we read it, or before we could.
        let mut read_until = None;
        loop {
            let Some((path, last)) = self.next_file(position, &mut read_until)? else {
                if self.once || stop.load(Ordering::Relaxed) {
                    return Ok(shipped);
                }
                std::thread::sleep(LOOK_EVERY);
                continue;
            };
            let file = first_line(&path)?.context("a file without a line was chosen")?;
            let offset = position.filter(|p| p.file == file).map_or(0, |p| p.offset);
            let (count, end, written) = self.file(&path, file, offset, last, sink, stop)?;
            shipped += count;
            position = Some(Position { file, offset: end });
            read_until = Some(written);
            if stop.load(Ordering::Relaxed) || last && self.once {
                return Ok(shipped);
            }
        }
    }

    /// The file to go on with, and whether it is the newest one.
    fn next_file(
        &self,
        position: Option<Position>,
        read_until: &mut Option<SystemTime>,
    ) -> anyhow::Result<Option<(PathBuf, bool)>> {
        let files = self.files();
        let mut marks = Vec::new();
        for path in &files {
            let mark = match first_line(path) {
                Ok(mark) => mark,
                // It was renamed or compressed meanwhile: the next look will see it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            };
            marks.push(mark);
        }
        let known = position.and_then(|p| marks.iter().rposition(|m| *m == Some(p.file)).map(|at| (p, at)));
        let start = match (position, known) {
            (None, _) => 0,
            (Some(p), Some((_, at))) => {
                let done = at + 1 < files.len() && self.is_read(&files[at], p.offset)?;
                if done { at + 1 } else { at }
            }
            (Some(_), None) => {
                let since = match *read_until {
                    Some(time) => time,
                    None => {
                        let time = self.position.metadata().and_then(|m| m.modified())?;
                        *read_until = Some(time);
                        warn!(
                            "The file of the last position is gone: going on with the next one; lines may be missing \
                             or doubled."
                        );
                        time
                    }
                };
                let newer =
                    |path: &PathBuf| path.metadata().and_then(|m| m.modified()).is_ok_and(|t| t >= since);
                files.iter().position(newer).unwrap_or(files.len())
            }
        };
        let with_line = (start..files.len()).find(|at| marks[*at].is_some());
        Ok(with_line.map(|at| (files[at].clone(), at + 1 == files.len())))
    }

    fn is_read(&self, path: &Path, offset: u64) -> anyhow::Result<bool> {
        let mut records = Records::open(path)?;
        Ok(records.skip_to(offset)? && records.next_line()?.is_none())
    }

    /// Oldest first, the current one last.
    fn files(&self) -> Vec<PathBuf> {
        let text = |path: &PathBuf| path.extension().is_none_or(|e| e != "parquet");
        let mut files: Vec<PathBuf> =
            complete_files(&self.plan).into_values().flatten().filter(text).collect();
        if !self.plan.template.has_time() {
            let current = self.plan.current(jiff::Timestamp::UNIX_EPOCH, 0, "");
            if current.is_file() {
                files.push(current);
            }
        }
        files
    }

    /// Ships one file; returns the lines, the position at its end and when it was last written.
    fn file(
        &self,
        path: &Path,
        mark: u32,
        offset: u64,
        last: bool,
        sink: &mut dyn Sink,
        stop: &AtomicBool,
    ) -> anyhow::Result<(u64, u64, SystemTime)> {
        let context = || format!("cannot read {}", path.display());
        let open = File::open(path).with_context(context)?;
        let mut records = Records::open(path).with_context(context)?;
        if !records.skip_to(offset).with_context(context)? {
            bail!("{} is shorter than the position {offset}", path.display());
        }
        let written = || open.metadata().and_then(|m| m.modified()).with_context(context);
        info!(file = %path.display(), offset, "Shipping.");
        let (mut count, mut last) = (0, last);
        records.limit(offset);
        let mut batch = Vec::new();
        let mut since = Instant::now();
        loop {
            let mut record = records.next_line().with_context(context)?;
            if record.is_none() {
                // Only then is it worth a look at the state.
                records.limit(if last { self.durable(path) } else { u64::MAX });
                record = records.next_line().with_context(context)?;
            }
            let end = record.is_none();
            if batch.is_empty() {
                since = Instant::now();
            }
            batch.extend(record);
            if batch.len() >= self.batch
                || end && !batch.is_empty() && (self.once || !last || since.elapsed() >= self.wait)
            {
                if !self.deliver(sink, &batch, stop) {
                    return Ok((count, offset, written()?));
                }
                count += batch.len() as u64;
                batch.clear();
                self.save(Position { file: mark, offset: records.position() })?;
            }
            if !end {
                continue;
            }
            if batch.is_empty() && (!last || self.once) || stop.load(Ordering::Relaxed) {
                // Lines that wait in a batch are behind the position.
                return Ok((count, records.position(), written()?));
            }
            let followed =
                || !is_same(path, &open) || self.files().last().is_some_and(|newest| newest != path);
            if last && followed() {
                // Another file follows: what is left in this one is complete.
                last = false;
                continue;
            }
            std::thread::sleep(LOOK_EVERY.min(self.wait));
        }
    }

    /// How much of a file the writer will not take back.
    fn durable(&self, path: &Path) -> u64 {
        match State::load(&self.state) {
            Ok(Some(state)) => state.files.get(path).map_or(u64::MAX, |(len, _)| *len),
            _ => u64::MAX,
        }
    }

    /// Gives a batch to the sink, again and again; false when the program ends first.
    fn deliver(&self, sink: &mut dyn Sink, batch: &[crate::sink::Record], stop: &AtomicBool) -> bool {
        let (mut pause, mut told) = (PAUSE_MIN, None::<Instant>);
        loop {
            let result = batch.iter().try_for_each(|record| sink.put(record)).and_then(|()| sink.commit());
            let Err(error) = result else {
                if told.is_some() {
                    info!("The sink takes lines again.");
                }
                return true;
            };
            if told.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                told = Some(Instant::now());
                warn!(error = %format!("{error:#}"), lines = batch.len(), "The sink takes nothing; trying again.");
            }
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if stop.load(Ordering::Relaxed) {
                    return false;
                }
                std::thread::sleep(LOOK_EVERY.min(pause));
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn load(&self) -> anyhow::Result<Option<Position>> {
        let text = match std::fs::read_to_string(&self.position) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.position.display()));
            }
        };
        let parsed = text.strip_prefix(HEAD).and_then(|rest| {
            let (file, offset) = rest.trim().split_once(' ')?;
            Some(Position { file: file.parse().ok()?, offset: offset.parse().ok()? })
        });
        match parsed {
            Some(position) => Ok(Some(position)),
            None => bail!(
                "{} is no position; move it away to begin with the oldest file",
                self.position.display()
            ),
        }
    }

    fn save(&self, position: Position) -> anyhow::Result<()> {
        let new = with_suffix(&self.position, ".new");
        let context = || format!("cannot write {}", new.display());
        let mut file = File::create(&new).with_context(context)?;
        writeln!(file, "{HEAD}\n{} {}", position.file, position.offset).with_context(context)?;
        file.sync_data().with_context(context)?;
        std::fs::rename(&new, &self.position).with_context(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::pack;
    use crate::rotate::{Archive, Template};
    use crate::sink::Record;

    /// A sink that fails now and then.
    #[derive(Default)]
    struct Table {
        rows: Vec<String>,
        pending: Vec<String>,
        commits: u32,
        fail_every: u32,
    }

    impl Sink for Table {
        fn put(&mut self, record: &Record) -> anyhow::Result<()> {
            self.pending.push(String::from_utf8_lossy(&record.line).trim().to_owned());
            Ok(())
        }

        fn commit(&mut self) -> anyhow::Result<()> {
            self.commits += 1;
            if self.fail_every > 0 && self.commits.is_multiple_of(self.fail_every) {
                self.pending.clear();
                bail!("not now");
            }
            self.rows.append(&mut self.pending);
            Ok(())
        }
    }

    fn ship(dir: &Path, template: &str) -> Ship {
        let template = Template::parse(&dir.join(template).display().to_string()).expect("template");
        Ship {
            plan: Rotation::new(template),
            position: dir.join("position"),
            state: dir.join("state"),
            batch: 3,
            wait: Duration::from_millis(10),
            once: true,
        }
    }

    fn put(path: &Path, lines: std::ops::Range<u32>) {
        let text: String = lines.map(|n| format!("{n}\n")).collect();
        crate::repair::append(path, text.as_bytes()).expect("append");
        // Files are told apart in time.
        std::thread::sleep(Duration::from_millis(15));
    }

    fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| n.to_string()).collect()
    }

    #[test]
    fn lines_go_once_over_restarts_failures_renames_and_compression() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        let ship = ship(dir.path(), "a.log");
        let mut table = Table { fail_every: 3, ..Table::default() };
        let stop = AtomicBool::new(false);
        assert_eq!(ship.run(&mut table, &stop).expect("nothing yet"), 0);
        put(&path, 0..7);
        assert_eq!(ship.run(&mut table, &stop).expect("ship"), 7);
        put(&path, 7..10);
        let aside = dir.path().join("a.log-20260101-000000");
        std::fs::rename(&path, &aside).expect("rename");
        put(&path, 10..12);
        assert_eq!(ship.run(&mut table, &stop).expect("ship"), 5);
        pack(&aside, Archive::Gzip).expect("pack");
        put(&path, 12..14);
        ship.run(&mut table, &stop).expect("ship");
        assert_eq!(table.rows, numbers(0..14));
    }

    #[test]
    fn what_was_packed_into_another_form_since_is_left() {
        let dir = tempfile::tempdir().expect("dir");
        let path = |name: &str| dir.path().join(name);
        let ship = ship(dir.path(), "a-%Y%m%d.log");
        let (mut table, stop) = (Table::default(), AtomicBool::new(false));
        put(&path("a-20260101.log"), 0..5);
        ship.run(&mut table, &stop).expect("ship");
        std::fs::rename(path("a-20260101.log"), path("a-20260101.log.parquet")).expect("rename");
        ship.run(&mut table, &stop).expect("nothing new");
        put(&path("a-20260102.log"), 5..8);
        ship.run(&mut table, &stop).expect("ship");
        assert_eq!(table.rows, numbers(0..8));
    }

    #[test]
    fn nothing_is_read_that_the_writer_may_take_back() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a-20260101.log");
        let ship = ship(dir.path(), "a-%Y%m%d.log");
        let (mut table, stop) = (Table::default(), AtomicBool::new(false));
        put(&path, 0..5);
        let state = State { files: [(path, (6, 1))].into(), ..State::default() };
        state.save(&ship.state, false).expect("state");
        ship.run(&mut table, &stop).expect("ship");
        assert_eq!(table.rows, numbers(0..3));
        // Another file follows: the former is complete.
        put(&dir.path().join("a-20260102.log"), 5..6);
        ship.run(&mut table, &stop).expect("ship");
        assert_eq!(table.rows, numbers(0..6));
    }

    #[test]
    fn a_lost_file_is_told_and_a_wrong_position_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let ship = ship(dir.path(), "a.log");
        let (mut table, stop) = (Table::default(), AtomicBool::new(false));
        put(&dir.path().join("a.log"), 0..2);
        ship.save(Position { file: 1, offset: 7 }).expect("save");
        put(&dir.path().join("a.log"), 2..4);
        ship.run(&mut table, &stop).expect("ship");
        assert_eq!(table.rows, numbers(0..4));
        std::fs::write(&ship.position, "something").expect("write");
        assert!(ship.run(&mut table, &stop).expect_err("wrong").to_string().contains("is no position"));
    }
}
