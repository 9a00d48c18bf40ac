//! Several `spreadd` of one configuration: each on a host of its own (network namespaces), or all on loopback.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use spread::Builder;
use spread::blocking::Connection;
use spreadd::observe::{Snapshot, control};
use tempfile::TempDir;

use crate::bins;
use crate::netns::Net;
use crate::process::Process;
use crate::wait;

/// Daemons `h1`, `h2`, ... Dropping it ends them and removes their hosts and files.
#[derive(Debug)]
pub struct Cluster {
    // Declared before the hosts and the folder: processes must end before these go.
    daemons: Vec<Option<Process>>,
    net: Option<Net>,
    addrs: Vec<IpAddr>,
    port: u16,
    dir: TempDir,
    program: PathBuf,
}

impl Cluster {
    /// `count` hosts in network namespaces, no daemon started yet. Needs root.
    ///
    /// # Errors
    /// If the hosts cannot be made or the daemon cannot be built.
    pub fn on_hosts(count: u8) -> anyhow::Result<Self> {
        let net = Net::new(count)?;
        let addrs = net.hosts().iter().map(crate::netns::Host::addr).collect();
        Self::new(Some(net), addrs, 4803, "239.77.0.1")
    }

    /// `count` daemons on 127.0.0.1, 127.0.0.2, ... and a free port, none started yet.
    ///
    /// # Errors
    /// If no port is free or the daemon cannot be built.
    pub fn on_loopback(count: u8) -> anyhow::Result<Self> {
        let addrs: Vec<IpAddr> = (1..=count).map(|n| Ipv4Addr::new(127, 0, 0, n).into()).collect();
        let port = free_port(&addrs)?;
        Self::new(None, addrs, port, "127.0.0.255")
    }

    fn new(net: Option<Net>, addrs: Vec<IpAddr>, port: u16, segment: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("spread-cluster-").tempdir()?;
        let mut conf = format!("Spread_Segment {segment}:{port} {{\n");
        for (number, addr) in (1..).zip(&addrs) {
            conf.push_str(&format!("    h{number} {addr}\n"));
            fs::create_dir(dir.path().join(format!("h{number}")))?;
        }
        conf.push_str("}\n");
        fs::write(dir.path().join("spread.conf"), conf)?;
        let daemons = addrs.iter().map(|_| None).collect();
        Ok(Self { daemons, net, addrs, port, dir, program: bins::bin("spreadd", "spreadd")? })
    }

    /// Number of configured daemons.
    pub fn len(&self) -> usize {
        self.addrs.len()
    }

    /// Whether there are none. Never.
    pub fn is_empty(&self) -> bool {
        self.addrs.is_empty()
    }

    /// Folder of everything: `spread.conf`, logs, a folder per host. Removed at the end.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("spread.conf")
    }

    /// A folder of host `index` (from 0); the daemon's Unix socket is in it.
    pub fn host_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("h{}", index + 1))
    }

    /// Address of host `index`.
    pub fn addr(&self, index: usize) -> IpAddr {
        self.addrs[index]
    }

    /// Port of clients and data; the token's is the next one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How a client connects to the daemon of host `index`, from any host: `4803@10.77.0.1`.
    pub fn connect_string(&self, index: usize) -> String {
        format!("{}@{}", self.port, self.addrs[index])
    }

    /// The hosts, if these are network namespaces.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    /// A command that runs `program` on host `index`.
    pub fn command(&self, index: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.net {
            Some(net) => net.host(index).command(program),
            None => Command::new(program),
        }
    }

    /// Starts `program` on host `index` with these arguments; its output goes to `<dir>/<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(
        &self,
        index: usize,
        name: &str,
        program: impl AsRef<std::ffi::OsStr>,
        args: &[&str],
    ) -> anyhow::Result<Process> {
        let mut command = self.command(index, program);
        command.args(args).current_dir(self.host_dir(index));
        Process::start(name, self.dir.path(), command)
    }

    /// Starts the daemon of host `index` if it does not run.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, index: usize) -> anyhow::Result<()> {
        self.start_with(index, &self.conf(), &[])
    }

    /// The same with another configuration file, and with more arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with(&mut self, index: usize, conf: &Path, more: &[&str]) -> anyhow::Result<()> {
        if self.daemons[index].is_some() {
            return Ok(());
        }
        let (name, sockets) = (format!("h{}", index + 1), self.host_dir(index));
        let (conf, sockets) = (conf.to_string_lossy(), sockets.to_string_lossy());
        let args = [&["-n", &name, "-c", &conf, "--socket-dir", &sockets], more].concat();
        let process = self.spawn(index, &format!("spreadd-{name}"), &self.program, &args)?;
        self.daemons[index] = Some(process);
        Ok(())
    }

    /// Starts all daemons that do not run.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.len()).try_for_each(|index| self.start(index))
    }

    /// The running daemon of host `index`.
    ///
    /// # Errors
    /// If it was not started.
    pub fn daemon(&mut self, index: usize) -> anyhow::Result<&mut Process> {
        self.daemons[index].as_mut().with_context(|| format!("the daemon of h{} is not running", index + 1))
    }

    /// What the daemon of host `index` says about itself.
    ///
    /// # Errors
    /// If it does not run or does not answer.
    pub fn status(&self, index: usize) -> anyhow::Result<Snapshot> {
        let socket = control::path(&self.host_dir(index), self.port);
        Ok(serde_json::from_str(&control::ask(&socket, "status")?)?)
    }

    /// Waits until these daemons (by index, ascending) are together in one ring in operation, and nobody else is
    /// in it.
    ///
    /// # Errors
    /// After `limit`: what they said last.
    pub fn wait_ring(&self, members: &[usize], limit: Duration) -> anyhow::Result<()> {
        let names: Vec<String> = members.iter().map(|index| format!("h{}", index + 1)).collect();
        wait::until(&format!("a ring of {names:?}"), limit, || {
            let mut seen = Vec::new();
            for index in members {
                match self.status(*index) {
                    Ok(status) => seen.push((status.ring.id, status.ring.state, status.ring.members)),
                    Err(error) => return Err(format!("h{}: {error:#}", index + 1)),
                }
            }
            let one = |(id, state, members): &(String, String, Vec<String>)| {
                *id == seen[0].0 && state == "operational" && *members == names
            };
            if seen.iter().all(one) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
    }

    /// A client of the daemon of host `index`, on that host; waits for the daemon to serve.
    ///
    /// # Errors
    /// If it cannot connect within `limit`.
    pub fn client(&self, index: usize, name: &str, limit: Duration) -> anyhow::Result<Connection> {
        let builder = Builder::new(&self.connect_string(index))?.private_name(name)?.membership(true);
        wait::until(&format!("a connection to h{}", index + 1), limit, || {
            let connect = {
                let builder = builder.clone();
                move || builder.connect_blocking().map_err(|error| error.to_string())
            };
            match &self.net {
                Some(net) => match net.host(index).enter(connect).map(thread::JoinHandle::join) {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err("the connecting thread failed".to_owned()),
                    Err(error) => Err(error.to_string()),
                },
                None => connect(),
            }
        })
    }

    /// Kills the daemon of host `index` with SIGKILL.
    ///
    /// # Errors
    /// If it was not started.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        self.daemon(index)?;
        self.daemons[index].take().map_or(Ok(()), Process::kill)
    }

    /// Ends the daemon of host `index` with SIGTERM.
    ///
    /// # Errors
    /// If it was not started or does not end.
    pub fn stop(&mut self, index: usize) -> anyhow::Result<()> {
        self.daemon(index)?;
        let Some(process) = self.daemons[index].take() else { return Ok(()) };
        let status = process.stop(Duration::from_secs(10))?;
        ensure!(status.success(), "spreadd ended with {status}");
        Ok(())
    }
}

/// A port that is free for TCP and UDP on all of `addrs`, as is the next one for UDP.
fn free_port(addrs: &[IpAddr]) -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = TcpListener::bind((addrs[0], 0))?.local_addr()?.port();
        let Some(next) = port.checked_add(1) else { continue };
        let free = addrs.iter().all(|&addr| {
            TcpListener::bind((addr, port)).is_ok()
                && UdpSocket::bind((addr, port)).is_ok()
                && UdpSocket::bind((addr, next)).is_ok()
        });
        if free {
            return Ok(port);
        }
    }
    bail!("no free port on {addrs:?}")
}
