//! The way of a log line under test: Apache with mod_log_spread, daemons, log writers.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::apache::{Apache, Mpm, Setup, free_address};
use crate::cluster::Cluster;
use crate::netns::Host;
use crate::process::Process;
use crate::{bins, load, wait};

/// Where something runs: here, or on a host of a test network.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// On this machine.
    Here,
    /// On a host of its own.
    Host(&'a Host),
}

impl Place<'_> {
    /// A command that runs there.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Host(host) => host.command(program),
        }
    }

    /// Runs something there and waits for it.
    ///
    /// # Errors
    /// If the host cannot be entered, or the work panics.
    pub fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        match self {
            Self::Here => Ok(work()),
            Self::Host(host) => {
                host.enter(work)?.join().map_err(|_| anyhow::anyhow!("the work on {} panicked", host.netns()))
            }
        }
    }
}

/// Lines of an Apache configuration that load the module and the status page, which is not logged itself.
///
/// `log` is the text for `LOG` in `CustomLog LOG common`.
///
/// # Errors
/// If the module cannot be built.
pub fn config(daemons: &str, log: &str, more: &str) -> anyhow::Result<String> {
    let module = bins::shared_library("mod_log_spread", "mod_log_spread")?;
    Ok(format!(
        "LoadModule log_spread_module {}\n\
         LoadModule status_module /usr/lib/apache2/modules/mod_status.so\n\
         ExtendedStatus Off\n\
         <Location \"/status\">\nSetHandler server-status\n</Location>\n\
         LogLevel log_spread:info\n\
         SpreadDaemon {daemons}\n\
         CustomLog {log} common \"expr=%{{REQUEST_URI}} != '/status'\"\n\
         {more}\n",
        module.display()
    ))
}

/// An Apache with the module.
///
/// # Errors
/// If it does not start.
pub fn apache(dir: &Path, place: Place<'_>, setup: Setup) -> anyhow::Result<Apache> {
    let reachable = |address: SocketAddr| {
        place
            .run(move || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
            .unwrap_or(false)
    };
    Apache::start(dir, setup, |program| place.command(program), reachable)
}

/// One daemon on this machine.
///
/// # Errors
/// If it does not start.
pub fn daemon() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::on_loopback(1)?;
    cluster.start_all()?;
    Ok(cluster)
}

/// A web server on this machine, whose access log goes to the first daemon.
///
/// # Errors
/// As [`config`] and [`apache`]; or there is no free port.
pub fn www(cluster: &Cluster, mpm: Mpm, log: &str, more: &str) -> anyhow::Result<Apache> {
    let config = config(&cluster.connect_string(0), log, more)?;
    apache(cluster.dir(), Place::Here, setup("www", free_address()?, mpm, config))
}

/// A setup with few children, so that a test machine is enough.
pub fn setup(name: &str, listen: SocketAddr, mpm: Mpm, config: String) -> Setup {
    let children = match mpm {
        Mpm::Prefork => "StartServers 4\nMinSpareServers 2\nMaxSpareServers 6\nMaxRequestWorkers 12\n",
        Mpm::Event | Mpm::Worker => {
            "StartServers 2\nThreadsPerChild 8\nMinSpareThreads 8\nMaxSpareThreads 32\nMaxRequestWorkers 32\n"
        }
    };
    Setup { name: name.into(), listen, mpm, config: format!("{children}{config}") }
}

/// Counters of the module, from the status page.
///
/// # Errors
/// If the page does not come.
pub fn counters(place: Place<'_>, server: SocketAddr) -> anyhow::Result<BTreeMap<String, u64>> {
    let (status, page) = place.run(move || load::get(server, "/status?auto"))??;
    ensure!(status == 200, "the status page was answered with {status}");
    let rows = page.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("SpreadLog-")?.split_once(": ")?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Ok(rows.collect())
}

/// Waits until the server has logged `lines` lines and none is under way, and gives the counters then. An answer
/// reaches its client before its line is logged, so nothing under way alone does not mean that all is done.
///
/// # Errors
/// After `limit`.
pub fn settled(
    place: Place<'_>,
    server: SocketAddr,
    lines: u64,
    limit: Duration,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let logged = |counters: &BTreeMap<String, u64>| counters.get("Lines").is_some_and(|n| *n >= lines);
    wait::until("all lines to be confirmed", limit, || match counters(place, server) {
        // What ended children left in the spool is not under way, but must be taken over.
        Ok(counters)
            if counters.get("UnderWay") == Some(&0)
                && logged(&counters)
                && counters.get("Adopted") >= counters.get("Spooled") =>
        {
            Ok(counters)
        }
        Ok(counters) => Err(format!("{counters:?}")),
        Err(error) => Err(format!("{error:#}")),
    })
}

/// Makes requests (with ids that no test uses) until a log writer has acknowledged lines of the server.
///
/// # Errors
/// After `limit`.
pub fn warm_up(place: Place<'_>, server: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    wait::until("a log writer to answer", limit, || {
        let seen = place
            .run(move || load::get(server, "/index.html?warm-up"))
            .and_then(|answer| answer)
            .and_then(|_| counters(place, server));
        match seen {
            Ok(counters) if counters.get("Acknowledged").is_some_and(|n| *n > 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// A running `log_writer`.
#[derive(Debug)]
pub struct Writer {
    process: Process,
    output: PathBuf,
}

impl Writer {
    /// Starts a writer; what it prints goes to `<dir>/<name>.log`, the lines to `<dir>/<name>.access`. It writes from
    /// the moment on when [`joined`](Self::joined) is over.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(dir: &Path, place: Place<'_>, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let output = dir.join(format!("{name}.access"));
        let mut command = place.command(bins::bin("log_writer", "log_writer")?);
        command.args(["--log-level", "debug", "--fsync", "50ms"]);
        command.args(args).arg("--output").arg(&output);
        Ok(Self { process: Process::start(name, dir, command)?, output })
    }

    /// Starts a writer by a command that writes to `output`; what it prints goes to `<dir>/<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn of(dir: &Path, name: &str, command: Command, output: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { process: Process::start(name, dir, command)?, output })
    }

    /// Ends it in order, without a look at its file.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop_unread(self) -> anyhow::Result<()> {
        let (status, printed) = self.end()?;
        ensure!(status.success(), "log_writer ended with {status}: {printed}");
        Ok(())
    }

    /// Waits until it has joined its groups.
    ///
    /// # Errors
    /// After a time: what it printed.
    pub fn joined(mut self) -> anyhow::Result<Self> {
        self.process.wait_printed("Joined;", Duration::from_secs(30))?;
        Ok(self)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The file it writes.
    pub fn path(&self) -> &Path {
        &self.output
    }

    /// The file's content now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(&self) -> anyhow::Result<String> {
        let bytes = std::fs::read(&self.output).with_context(|| self.output.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Ends it in order; gives the content of its file and what it printed.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(self) -> anyhow::Result<(String, String)> {
        let output = self.output.clone();
        let printed = self.process.printed();
        let log = self.end()?;
        ensure!(log.0.success(), "log_writer ended with {}: {printed}", log.0);
        let bytes = std::fs::read(&output).with_context(|| output.display().to_string())?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), log.1))
    }

    /// Ends it with SIGTERM; gives its status and what it printed.
    ///
    /// # Errors
    /// If it does not end.
    pub fn end(mut self) -> anyhow::Result<(ExitStatus, String)> {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = self.process.wait_end(Duration::from_secs(20))?;
        Ok((status, self.process.printed()))
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(self) -> anyhow::Result<()> {
        self.process.kill()
    }
}
