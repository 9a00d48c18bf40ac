//! What is done with complete files, in a thread of its own: compression, a program, then removal of the oldest.
// spec: log_writer L-19, L-20

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tracing::{error, info, warn};

use crate::output::with_suffix;
use crate::retention::remove_oldest;
use crate::rotate::{Archive, Rotation};

/// Most files that wait to be compressed; more are found at the next start.
const JOBS_MAX: usize = 65_536;
/// So often is looked for files that have become too old.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// A program that is run with a complete file must end in this time.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);
const PROGRAM_LOOK: Duration = Duration::from_millis(20);
/// Most directories that are looked into for old files.
const DIRS_MAX: usize = 10_000;

/// A complete file.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// Where it is.
    pub path: PathBuf,
    /// What is to be done.
    pub plan: Arc<Rotation>,
}

/// The thread.
#[derive(Debug)]
pub struct Archiver {
    jobs: Option<SyncSender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Archiver {
    /// Starts the thread. Files of these plans that an earlier run left are looked for; `current` ones are not
    /// touched.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(plans: Vec<(Arc<Rotation>, Vec<PathBuf>)>) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let work = move || {
            for (plan, current) in &plans {
                let current: BTreeSet<_> = current.iter().collect();
                for path in complete_files(plan).into_values().flatten() {
                    if plan.archive != Archive::Keep && !is_packed(&path) && !current.contains(&path) {
                        handle(&Job { path, plan: Arc::clone(plan) });
                    }
                }
            }
            run(&inbox, &plans.into_iter().map(|(plan, _)| plan).collect::<Vec<_>>());
        };
        let thread = thread::Builder::new().name("archive".into()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands a complete file over. Does not wait.
    pub fn take(&self, job: Job) {
        let Some(jobs) = &self.jobs else { return };
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                warn!(file = %job.path.display(), "Too many complete files wait; this one is left as it is until the next start.");
            }
        }
    }

    /// Waits until everything that was handed over is done.
    pub fn finish(mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; the files are still complete.
            let _ = thread.join();
        }
    }
}

fn run(inbox: &Receiver<Job>, plans: &[Arc<Rotation>]) {
    loop {
        // Files grow old also when no other is completed.
        plans.iter().for_each(|plan| remove_oldest(plan, SystemTime::now()));
        let looked = Instant::now();
        while let Some(rest) = LOOK_EVERY.checked_sub(looked.elapsed()) {
            match inbox.recv_timeout(rest) {
                Ok(job) => handle(&job),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn handle(job: &Job) {
    let mut file = job.path.clone();
    match pack(&job.path, job.plan.archive) {
        Ok(Some(packed)) => {
            info!(file = %packed.display(), "Complete file compressed.");
            file = packed;
        }
        Ok(None) => {}
        Err(error) => {
            error!(file = %job.path.display(), error = %format!("{error:#}"), "A complete file cannot be compressed; it is left as it is.");
        }
    }
    if let Some(program) = job.plan.on_complete.as_ref().filter(|_| file.is_file())
        && let Err(error) = run_program(program, &file, PROGRAM_LIMIT)
    {
        error!(program = %program.display(), file = %file.display(), %error, "The program for complete files failed.");
    }
    remove_oldest(&job.plan, SystemTime::now());
}

/// Runs a program with a file, without a shell; ended when it takes too long.
fn run_program(program: &Path, file: &Path, limit: Duration) -> io::Result<()> {
    let mut child = Command::new(program).arg(file).stdin(Stdio::null()).spawn()?;
    let begun = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(io::Error::other(status.to_string())),
            None if begun.elapsed() >= limit => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other(format!("it was ended after {limit:?}")));
            }
            None => thread::sleep(PROGRAM_LOOK),
        }
    }
}

/// Whether a complete file was compressed already.
pub(crate) fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gz" || e == "zst" || e == "parquet")
}

/// Compresses a file: into another one, which then takes its place. A crash leaves at least one of them whole.
///
/// # Errors
/// When it cannot be read, or the other cannot be written; the file is then left.
pub fn pack(path: &Path, archive: Archive) -> anyhow::Result<Option<PathBuf>> {
    if archive == Archive::Keep || !path.is_file() {
        return Ok(None);
    }
    let packed = with_suffix(path, archive.suffix());
    let part = with_suffix(&packed, ".tmp");
    let context = || format!("cannot write {}", part.display());
    let output = File::create(&part).with_context(context)?;
    let result = encode(path, &output, archive).and_then(|()| output.sync_all().with_context(context));
    if let Err(error) = result {
        // Nothing of it is wanted.
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    if let Ok(meta) = path.metadata() {
        // Modes of logs are narrow; if it cannot be kept, the one of a new file is.
        let _ = std::fs::set_permissions(&part, meta.permissions());
        if let Ok(time) = meta.modified() {
            let _ = output.set_modified(time);
        }
    }
    std::fs::rename(&part, &packed).with_context(|| format!("cannot rename to {}", packed.display()))?;
    sync_dir(&packed);
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(Some(packed))
}

fn sync_dir(path: &Path) {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // If the name is lost in a crash, the original is still there or comes back with it.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}

fn encode(path: &Path, output: &File, archive: Archive) -> anyhow::Result<()> {
    let input = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut input = BufReader::with_capacity(256 << 10, input);
    let mut output = io::BufWriter::with_capacity(256 << 10, output);
    match archive {
        Archive::Keep => {}
        Archive::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(&mut output, flate2::Compression::default());
            io::copy(&mut input, &mut gzip)?;
            gzip.finish()?;
        }
        Archive::Zstd => zstd_encode(&mut input, &mut output)?,
        Archive::Parquet => parquet_encode(path, &mut output)?,
    }
    Ok(output.flush()?)
}

#[cfg(feature = "zstd")]
fn zstd_encode(input: &mut impl io::Read, output: &mut impl Write) -> anyhow::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(output, 0)?;
    encoder.include_checksum(true)?;
    io::copy(input, &mut encoder)?;
    encoder.finish()?;
    Ok(())
}

#[cfg(not(feature = "zstd"))]
fn zstd_encode(_: &mut impl io::Read, _: &mut impl Write) -> anyhow::Result<()> {
    anyhow::bail!("this log_writer was built without the feature zstd")
}

#[cfg(feature = "parquet")]
fn parquet_encode(path: &Path, output: &mut (impl Write + Send)) -> anyhow::Result<()> {
    crate::sink::parquet::convert(path, output)
}

#[cfg(not(feature = "parquet"))]
fn parquet_encode(_: &Path, _: &mut impl Write) -> anyhow::Result<()> {
    anyhow::bail!("this log_writer was built without the feature parquet")
}

/// Complete files of a plan, oldest first: by virtual host, if files are split by it.
pub fn complete_files(plan: &Rotation) -> BTreeMap<Vec<u8>, Vec<PathBuf>> {
    let mut found: BTreeMap<Vec<u8>, Vec<(SystemTime, PathBuf)>> = BTreeMap::new();
    let Ok(shape) = plan.complete_shape() else { return BTreeMap::new() };
    let name = plan.template.fixed_dir();
    let mut dirs = vec![(name, plan.template.depth())];
    let mut seen = 0;
    while let Some((dir, depth)) = dirs.pop() {
        seen += 1;
        let entries = if seen <= DIRS_MAX { std::fs::read_dir(&dir).ok() } else { None };
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            // Not `entry.path()`: in the current directory the template has no `./` either.
            let path = if dir == Path::new("") || dir == Path::new(".") && !plan.template.begins_with_dot() {
                PathBuf::from(entry.file_name())
            } else {
                entry.path()
            };
            if kind.is_dir() && depth > 0 {
                dirs.push((path, depth - 1));
            } else if kind.is_file()
                && let Some(parts) = shape.captures(path.as_os_str().as_encoded_bytes())
                && let Ok(time) = entry.metadata().and_then(|m| m.modified())
            {
                let host = parts.get(1).map_or(Vec::new(), |m| m.as_bytes().to_vec());
                found.entry(host).or_default().push((time, path));
            }
        }
    }
    let sorted = found.into_iter().map(|(host, mut files)| {
        files.sort();
        (host, files.into_iter().map(|(_, path)| path).collect())
    });
    sorted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::Keep;
    use crate::rotate::Template;
    use std::io::Read;

    fn plan(dir: &Path, name: &str, archive: Archive, keep: Vec<Keep>) -> Arc<Rotation> {
        let template = Template::parse(&dir.join(name).display().to_string()).expect("template");
        Arc::new(Rotation { archive, keep, ..Rotation::new(template) })
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .expect("dir")
            .map(|e| e.expect("entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_complete_file_is_compressed_and_the_original_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let text = b"line\n".repeat(100_000);
        for (archive, name) in Archive::ALL.iter().map(|(_, a)| *a).zip(["k", "a", "b", "c"]) {
            let path = dir.path().join(name);
            std::fs::write(&path, &text).expect("write");
            let packed = pack(&path, archive).expect("packed");
            let Some(packed) = packed else {
                assert_eq!(archive, Archive::Keep);
                continue;
            };
            assert!(!path.exists());
            // Rows of Parquet are looked at where they are made.
            if archive != Archive::Parquet {
                let mut back = Vec::new();
                crate::audit::open::log(&packed).expect("open").read_to_end(&mut back).expect("read");
                assert!(back == text, "{archive:?}");
            }
        }
    }

    #[test]
    fn a_program_is_run_with_the_compressed_file() {
        let dir = tempfile::tempdir().expect("dir");
        let program = dir.path().join("program");
        // Written by another process: this one may fork while it has the file open, which then cannot be run.
        let make = |text: &str| {
            let script = "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"";
            let status = Command::new("sh").args(["-c", script, "sh"]).arg(&program).arg(text).status();
            assert!(status.expect("sh").success());
        };
        make("gunzip -c \"$1\" >\"$1.seen\"");
        // Nothing in a name is for a shell.
        let name = "a; echo $(x) 'b";
        let path = dir.path().join(name);
        std::fs::write(&path, "line\n").expect("write");
        let template = Template::parse(&path.display().to_string()).expect("template");
        let plan = Rotation {
            archive: Archive::Gzip,
            on_complete: Some(program.clone()),
            ..Rotation::new(template)
        };
        handle(&Job { path, plan: Arc::new(plan) });
        let seen = std::fs::read_to_string(dir.path().join(format!("{name}.gz.seen")));
        assert_eq!(seen.expect("the program ran"), "line\n");
        let (limit, file) = (Duration::from_secs(30), Path::new("x"));
        let error = run_program(Path::new("/bin/false"), file, limit).expect_err("fails").to_string();
        assert!(error.contains("exit status: 1"), "{error}");
        run_program(&dir.path().join("none"), file, limit).expect_err("not there");
        make("exec sleep 60");
        let begun = Instant::now();
        let error = run_program(&program, file, Duration::from_millis(50)).expect_err("too long").to_string();
        assert!(error.contains("ended after") && begun.elapsed() < limit, "{error}");
    }

    #[test]
    fn a_full_disk_leaves_the_original() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a");
        std::fs::write(&path, "x\n").expect("write");
        std::os::unix::fs::symlink("/dev/full", dir.path().join("a.gz.tmp")).expect("link");
        pack(&path, Archive::Gzip).expect_err("full");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn what_an_earlier_run_left_is_done_and_the_oldest_are_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let plan = plan(dir.path(), "a-%Y%m%d.log", Archive::Gzip, vec![Keep::Files(3)]);
        let now = SystemTime::now();
        for (age, name) in
            ["a-20260106.log", "a-20260105.log", "a-20260104.log.gz", "a-20260103.log.gz", "a-20260102.log"]
                .into_iter()
                .enumerate()
        {
            let file = File::create(dir.path().join(name)).expect("create");
            file.set_modified(now - Duration::from_secs(age as u64 * 86_400)).expect("time");
        }
        for other in ["a-2026.log", "b-20260101.log", "a-20260102.log.audit", "a-20260103.log.audit"] {
            File::create(dir.path().join(other)).expect("create");
        }
        let current = dir.path().join("a-20260106.log");
        Archiver::start(vec![(plan, vec![current])]).expect("thread").finish();
        assert_eq!(
            names(dir.path()),
            [
                "a-20260103.log.audit",
                "a-20260103.log.gz",
                "a-20260104.log.gz",
                "a-20260105.log.gz",
                "a-20260106.log",
                "a-2026.log",
                "b-20260101.log"
            ]
            .map(String::from)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
        );
    }
}
