//! A real Apache httpd: its own folder and configuration, started on a host or on loopback, ended cleanly.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::process::Process;
use crate::wait;

/// Multi-processing module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mpm {
    /// Threads, with idle connections on a thread of their own.
    Event,
    /// A process a connection.
    Prefork,
    /// Threads.
    Worker,
}

impl Mpm {
    fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Prefork => "prefork",
            Self::Worker => "worker",
        }
    }
}

/// What an Apache needs to know.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Name in messages and of log files.
    pub name: String,
    /// Where it listens; see [`free_address`] for loopback.
    pub listen: SocketAddr,
    /// Multi-processing module.
    pub mpm: Mpm,
    /// More lines of its configuration.
    pub config: String,
}

/// A running Apache. Dropping it kills it.
#[derive(Debug)]
pub struct Apache {
    setup: Setup,
    process: Process,
    root: PathBuf,
}

/// Folder of the distribution's modules.
const MODULES: &str = "/usr/lib/apache2/modules";

impl Apache {
    /// Writes the configuration into `<dir>/<name>/`, starts the server with `command` (which runs `apache2`
    /// where it shall run: see [`Host::command`](crate::netns::Host::command)) and waits until it has started and can
    /// be reached.
    ///
    /// # Errors
    /// If the configuration is refused, the server ends, or it does not answer: what it printed and logged.
    pub fn start(
        dir: &Path,
        setup: Setup,
        command: impl Fn(&str) -> Command,
        reachable: impl Fn(SocketAddr) -> bool,
    ) -> anyhow::Result<Self> {
        let root = dir.join(&setup.name);
        write_config(&root, &setup)?;
        let mut server = command("apache2");
        // In the foreground: the process that we started is the one that we end.
        server.arg("-f").arg(root.join("httpd.conf")).arg("-DFOREGROUND");
        let process = Process::start(&format!("{}-stdout", setup.name), dir, server)?;
        let mut apache = Self { setup, process, root };
        let Self { setup, process, root } = &mut apache;
        let (pid_file, pid) = (root.join("logs/pid"), process.pid().to_string());
        let started = wait::until(&format!("{} to answer", setup.name), Duration::from_secs(30), || {
            // An answer alone says little: the port is open before the modules have agreed to start, and somebody
            // else may have it. Its process id is written behind both.
            let ready =
                fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == pid) && reachable(setup.listen);
            match (process.ended(), ready) {
                (Some(status), _) => Ok(Err(status)),
                (None, true) => Ok(Ok(())),
                (None, false) => Err(process.printed()),
            }
        });
        let error = match started {
            Ok(Ok(())) => return Ok(apache),
            Ok(Err(status)) => {
                format!("{} ended with {status}: {}", apache.setup.name, apache.process.printed())
            }
            Err(error) => error.to_string(),
        };
        bail!("{error}; its error log: {}", apache.error_log())
    }

    /// As [`start`](Self::start) on this machine's loopback.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_here(dir: &Path, setup: Setup) -> anyhow::Result<Self> {
        Self::start(dir, setup, |program| Command::new(program), |addr| TcpStream::connect(addr).is_ok())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.setup.listen
    }

    /// Its folder: `htdocs/`, `logs/`, `httpd.conf`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Process id of the parent, which is that of its group of processes too.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// All of its error log.
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.root.join("logs/error.log")).unwrap_or_default()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `apachectl graceful`: new children with a new configuration, old ones end when they are done.
    ///
    /// # Errors
    /// If it has ended.
    pub fn graceful(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGUSR1)
    }

    /// Sends a signal to the parent process.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Ends it when the requests under way are done, as `apachectl graceful-stop` does, and waits.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop_gracefully(mut self, limit: Duration) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGWINCH)?;
        let status = self.process.wait_end(limit)?;
        ensure!(status.success(), "{} ended with {status}", self.setup.name);
        Ok(())
    }

    /// Ends it with SIGTERM and waits.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop(self, limit: Duration) -> anyhow::Result<()> {
        let name = self.setup.name;
        let status = self.process.stop(limit)?;
        ensure!(status.success(), "{name} ended with {status}");
        Ok(())
    }
}

/// What `apache2 -t` says of a configuration: whether it accepts it, and its words.
///
/// # Errors
/// If it cannot be started.
pub fn configtest(dir: &Path, setup: &Setup) -> anyhow::Result<(bool, String)> {
    let root = dir.join(&setup.name);
    write_config(&root, setup)?;
    let output = Command::new("apache2").arg("-t").arg("-f").arg(root.join("httpd.conf")).output()?;
    let words = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&words).into_owned()))
}

/// A loopback address with a free port.
///
/// # Errors
/// If there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0))?;
    Ok(listener.local_addr()?)
}

fn write_config(root: &Path, setup: &Setup) -> anyhow::Result<()> {
    for folder in ["htdocs", "logs"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("{}", root.display()))?;
    }
    // The children run as another user and must reach the documents, through every folder above them too.
    for folder in
        root.ancestors().take_while(|folder| folder.starts_with("/tmp") && *folder != Path::new("/tmp"))
    {
        let mut mode = fs::metadata(folder)?.permissions();
        mode.set_mode(mode.mode() | 0o055);
        fs::set_permissions(folder, mode)?;
    }
    let index = root.join("htdocs/index.html");
    if !index.exists() {
        fs::write(&index, "hello\n")?;
    }
    let conf = format!(
        "ServerRoot {root}\nDefaultRuntimeDir {root}/logs\nPidFile {root}/logs/pid\nListen {listen}\n\
         ServerName {name}.test\nErrorLog {root}/logs/error.log\nLogLevel warn\n\
         LoadModule mpm_{mpm}_module {MODULES}/mod_mpm_{mpm}.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         {user}DocumentRoot {root}/htdocs\n\
         LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b\" common\n\
         LogFormat \"%v:%p %h %l %u %t \\\"%r\\\" %>s %O \\\"%{{Referer}}i\\\" \\\"%{{User-Agent}}i\\\"\" vhost_combined\n\
         {more}\n",
        root = root.display(),
        listen = setup.listen,
        name = setup.name,
        mpm = setup.mpm.name(),
        user = if nix::unistd::Uid::effective().is_root() { "User www-data\nGroup www-data\n" } else { "" },
        more = setup.config,
    );
    fs::write(root.join("httpd.conf"), conf)?;
    Ok(())
}
