//! A program under test: started by us, watched by us, ended by us.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait;

/// A running program. Dropping it kills it and the programs it started.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `<dir>/<name>.log`, after what an earlier run of that name
    /// printed.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(name: &str, dir: &Path, mut command: Command) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // A group of its own: Apache ends its whole group, and Ctrl-C is for us, not for what we started.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("{name} could not be started: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// All it printed so far.
    pub fn printed(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until it has printed `text`.
    ///
    /// # Errors
    /// After `limit`, or when the program has ended without printing it: what it printed.
    pub fn wait_printed(&mut self, text: &str, limit: Duration) -> anyhow::Result<()> {
        let mut ended = false;
        wait::until(&format!("{text:?} from {}", self.name), limit, || {
            let printed = self.printed();
            if printed.contains(text) || ended {
                return Ok(());
            }
            ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            Err(printed)
        })?;
        if !self.printed().contains(text) {
            bail!("{} ended without printing {text:?}; it printed: {}", self.name, self.printed());
        }
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// Stops it with SIGSTOP and waits until all of its threads stand still; SIGCONT lets it go on.
    ///
    /// # Errors
    /// If it has ended, or still runs after 10 seconds.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.pid());
        wait::until(&format!("{} to stand still", self.name), Duration::from_secs(10), || {
            for task in fs::read_dir(&tasks).map_err(|error| error.to_string())?.flatten() {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // The state is the word behind the name, which ends with the last parenthesis.
                let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
                if state != Some('T') {
                    return Err(stat);
                }
            }
            Ok(())
        })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// After `limit`: what it printed.
    pub fn wait_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let (name, log) = (self.name.clone(), self.log.clone());
        wait::until(&format!("the end of {name}"), limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(fs::read_to_string(&log).unwrap_or_default()),
        })
    }

    /// Ends it with SIGTERM and waits for it.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(limit)
    }

    /// Ends it with SIGKILL and waits for it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills whatever is left of its group.
    fn kill_group(&self) {
        // Nothing can be done if the system refuses; mostly nothing is left.
        let _ = killpg(self.pid(), Signal::SIGKILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The program is ours and still running; nothing can be done if the system refuses.
            self.kill_group();
            let _ = self.child.wait();
        } else {
            self.kill_group();
        }
    }
}
