//! Several hosts on one machine: network namespaces on one bridge, cut and healed by nftables.
//!
//! Everything lives in namespaces of our own, also the bridge, so nothing of the machine's own network is
//! touched and parallel tests do not meet. Needs root, `ip` and `nft` (Debian: iproute2, nftables).

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Uid;

/// All namespaces of ours begin with this, followed by the process id of their owner.
const PREFIX: &str = "sprdtest";

/// Why hosts cannot be made here, or `None` if they can.
pub fn unavailable() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for program in ["ip", "nft"] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Some(format!("`{program}` is not installed"));
        }
    }
    None
}

/// Hosts that reach each other over one Ethernet segment.
#[derive(Debug)]
pub struct Net {
    switch: String,
    hosts: Vec<Host>,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    netns: String,
    addr: Ipv4Addr,
}

impl Net {
    /// Makes `count` hosts (1 to 200) with the addresses 10.77.0.1, 10.77.0.2, ... and loopback.
    ///
    /// # Errors
    /// If a command fails; what was made so far is removed.
    pub fn new(count: u8) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ensure!((1..=200).contains(&count), "1 to 200 hosts, not {count}");
        if let Some(reason) = unavailable() {
            bail!("{reason}");
        }
        remove_orphans();
        let base = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let switch = format!("{base}-sw");
        ip(&["netns", "add", &switch])?;
        // From here on the value exists, so that an error on the way removes what is there.
        let mut net = Self { switch, hosts: Vec::new() };
        // No spanning tree, and multicast flooded: the bridge is a plain cable.
        net.in_switch(&["link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0"])?;
        net.in_switch(&["link", "set", "br0", "up"])?;
        for number in 1..=count {
            net.add_host(&format!("{base}-h{number}"), number)?;
        }
        Ok(net)
    }

    fn add_host(&mut self, netns: &str, number: u8) -> anyhow::Result<()> {
        ip(&["netns", "add", netns])?;
        let addr = Ipv4Addr::new(10, 77, 0, number);
        self.hosts.push(Host { netns: netns.to_owned(), addr });
        let port = format!("p{number}");
        let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", netns];
        self.in_switch(&pair)?;
        self.in_switch(&["link", "set", &port, "master", "br0"])?;
        self.in_switch(&["link", "set", &port, "up"])?;
        let inside = |args: &[&str]| ip(&[&["-n", netns], args].concat());
        inside(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"])?;
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["route", "add", "default", "dev", "eth0"])
    }

    fn in_switch(&self, args: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.switch], args].concat())
    }

    /// The hosts in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Host number `index`, from 0.
    ///
    /// # Panics
    /// If there are fewer hosts.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// Splits the hosts (by index) into components that hear nothing of each other. A host in no component
    /// is alone.
    ///
    /// # Errors
    /// If nftables refuses.
    pub fn partition(&self, components: &[&[usize]]) -> anyhow::Result<()> {
        for (index, host) in self.hosts.iter().enumerate() {
            let own = components.iter().find(|c| c.contains(&index)).copied().unwrap_or(&[]);
            let cut: Vec<String> = (0..self.hosts.len())
                .filter(|other| *other != index && !own.contains(other))
                .map(|other| self.hosts[other].addr.to_string())
                .collect();
            host.cut_from(&cut)?;
        }
        Ok(())
    }

    /// Makes the link of host `index` a bad one in both directions. `Some`: why the kernel cannot do it, if it
    /// lacks what it takes; then the link is as it was.
    ///
    /// # Errors
    /// If `tc` or nftables refuse for another reason.
    pub fn degrade(&self, index: usize, link: &BadLink) -> anyhow::Result<Option<String>> {
        let host = self.host(index);
        let port = format!("p{}", index + 1);
        for (netns, dev) in [(host.netns(), "eth0"), (&self.switch, &port)] {
            let mut tc = Command::new("tc");
            tc.args(["-n", netns, "qdisc", "replace", "dev", dev, "root"]).args(link.qdisc());
            let output = tc.output().context("`tc` could not be started")?;
            let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            // Newer and older kernels.
            if ["qdisc kind is unknown", "No such file"].iter().any(|text| told.contains(text)) {
                return Ok(Some(format!("the kernel has no {}: {told}", link.qdisc()[0])));
            }
            ensure!(output.status.success(), "tc: {told}");
        }
        match link {
            BadLink::Narrow { lost, .. } => host.nft(&format!(
                "table inet loss {{\n chain input {{\n  type filter hook input priority 1;\n  iif \"eth0\" numgen \
                 random mod 1000 < {lost} drop\n }}\n}}\n"
            ))?,
            BadLink::Far { .. } => {}
        }
        Ok(None)
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// If nftables refuses.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.hosts.iter().try_for_each(|host| host.cut_from(&[]))
    }
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug)]
pub enum BadLink {
    /// It is slow and has a short queue, which overflows. Needs `sch_tbf`, which every kernel has.
    Narrow {
        /// Bits in a millisecond.
        kbit: u32,
        /// Of 1000 packets to the host so many are lost.
        lost: u32,
    },
    /// Packets take long, not always equally long, and some are lost. Needs `sch_netem`.
    Far {
        /// One way, in milliseconds.
        delay: u32,
        /// More or less by so many milliseconds: packets overtake each other.
        jitter: u32,
        /// Of 1000 packets in each direction so many are lost.
        lost: u32,
    },
}

impl BadLink {
    fn qdisc(self) -> Vec<String> {
        let words = match self {
            Self::Narrow { kbit, .. } => format!("tbf rate {kbit}kbit burst 16kb limit 64kb"),
            Self::Far { delay, jitter, lost } => {
                let (percent, tenth) = (lost / 10, lost % 10);
                format!("netem delay {delay}ms {jitter}ms loss {percent}.{tenth}%")
            }
        };
        words.split(' ').map(str::to_owned).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = ip(&["netns", "del", &host.netns]);
        }
        let _ = ip(&["netns", "del", &self.switch]);
    }
}

impl Host {
    /// Its address on the segment.
    pub fn addr(&self) -> IpAddr {
        self.addr.into()
    }

    /// Name of its network namespace.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// A command that runs `program` on this host; the process has the id of the program itself.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(program);
        command
    }

    /// Runs `work` in a thread on this host: sockets it makes belong to the host.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    /// If `work` does.
    pub fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<thread::JoinHandle<T>> {
        let path = format!("/run/netns/{}", self.netns);
        let file = File::open(&path).with_context(|| path.clone())?;
        let (report, entered) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(self.netns.clone()).spawn(move || {
            let result = setns(&file, CloneFlags::CLONE_NEWNET);
            let ok = result.is_ok();
            let _ = report.send(result);
            ok.then(work)
        })?;
        entered.recv()?.with_context(|| format!("cannot enter {path}"))?;
        let joined = thread::spawn(move || match thread.join() {
            Ok(Some(value)) => value,
            Ok(None) => unreachable!("the thread reported that it entered"),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        Ok(joined)
    }

    /// Loads an nftables script on this host (`nft -f`): one atomic change.
    ///
    /// # Errors
    /// If nftables refuses.
    pub fn nft(&self, script: &str) -> anyhow::Result<()> {
        let mut command = self.command("nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no pipe to nft")?.write_all(script.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "nft: {}{script}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Drops everything that comes from these addresses, and nothing else.
    ///
    /// # Errors
    /// If nftables refuses.
    pub fn cut_from(&self, addrs: &[String]) -> anyhow::Result<()> {
        let rule = match addrs {
            [] => String::new(),
            _ => format!("ip saddr {{ {} }} drop", addrs.join(", ")),
        };
        self.nft(&format!(
            "add table inet cut\ndelete table inet cut\ntable inet cut {{\n chain input {{\n  type filter hook \
             input priority 0;\n  {rule}\n }}\n}}\n"
        ))
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).output().context("`ip` could not be started")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Removes the namespaces of owners that were killed before they could.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner.and_then(|pid| pid.parse::<u32>().ok())
            && !fs::exists(format!("/proc/{pid}")).unwrap_or(true)
        {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}
