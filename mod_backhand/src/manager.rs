//! The process that announces this server and hears the others.
//!
//! One thread samples, announces and waits for the end; one per port receives; one more keeps the session with the
//! Spread daemon. All of them change the matrix under one lock, so the shared table has one writer at a time.
// spec: mod_backhand 5

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use backhand::announce::SIZE_MAX;
use backhand::matrix::{Config, SLOTS_MAX};
use backhand::sample::{self, Sampler};
use backhand::{Announcement, Destination, Matrix, Micros, Random, Refusal, ServerStat, Table, Via};
use httpd::Level;
use httpd::manager::{Manager, wait_for_end, workers};
use socket2::{Domain, Protocol, Socket, Type};

use crate::control;
use crate::module;
use crate::settings::{Category, Plan, log, micros};
use crate::shared;
use crate::spread_link::SpreadLink;

/// What the threads share.
pub(crate) struct Core {
    pub(crate) plan: Plan,
    pub(crate) table: &'static Table<SLOTS_MAX>,
    matrix: Mutex<Matrix>,
}

pub(crate) struct BackhandManager;

impl Manager for BackhandManager {
    fn run() {
        if let Some((plan, table)) = module::plan().zip(shared::table()) {
            Core::new(plan, table).run();
        }
    }

    fn stopping() {
        if let Some(table) = shared::table() {
            table.stopping.store(1, Relaxed);
        }
    }
}

impl Core {
    fn new(plan: Plan, table: &'static Table<SLOTS_MAX>) -> Self {
        let global = &plan.global;
        let config = Config {
            networks: global.networks.clone(),
            keys: global.keys.clone(),
            require_auth: global.require_auth.unwrap_or(!global.keys.is_empty()),
            slots: global.slots,
            server_timeout: micros(global.server_timeout),
            contacts: plan.contacts.clone(),
        };
        let mut matrix = Matrix::new(config);
        // A restart forgets nothing.
        for slot in (1..=u16::MAX).take(global.slots.saturating_sub(1)) {
            if let Some(row) = table.row(slot) {
                matrix.restore(slot, row);
            }
        }
        Self { plan, table, matrix: Mutex::new(matrix) }
    }

    fn run(self) {
        self.table.manager.store(std::process::id().into(), Relaxed);
        self.table.counters.manager_starts.fetch_add(1, Relaxed);
        self.write_pid();
        let speed = self.speed();
        let core = Arc::new(self);
        let outputs = core.open_sockets();
        let control = control::path(core.plan.arriba_file.as_deref());
        if let Some(path) = &control
            && let Err(error) = control::start(path, core.table)
        {
            core.log(
                Category::Manager,
                Level::Notice,
                &format!("no control socket {}: {error}", path.display()),
            );
        }
        let link = core.plan.global.group.as_ref().and_then(|group| SpreadLink::start(&core, group));
        let mut announcer = Announcer {
            sampler: Sampler::default(),
            stamp: Micros(0),
            quiet: 0,
            started: false,
            random: Random::new(sample::now().0 ^ u64::from(std::process::id())),
            speed,
            outputs,
            link,
            complained: false,
        };
        let mut wait = Duration::ZERO;
        while !wait_for_end(wait) {
            let begun = sample::now();
            announcer.announce(&core, false);
            let spent = Duration::from_micros(sample::now().since(begun).0);
            wait = announcer.jitter(core.plan.global.interval).saturating_sub(spent);
        }
        if core.table.stopping.load(Relaxed) != 0 {
            announcer.announce(&core, true);
            if let Some(path) = &control {
                // Nobody is left to tell. At a restart the socket is the new manager's.
                let _ = control::remove(path);
            }
        }
        if let Some(link) = &announcer.link {
            link.stop();
        }
        if let Some(file) = &core.plan.global.pid_file {
            // Nobody is left to tell.
            let _ = fs::remove_file(file);
        }
    }

    fn write_pid(&self) {
        if let Some(file) = &self.plan.global.pid_file
            && let Err(error) = fs::write(file, format!("{}\n", std::process::id()))
        {
            let text = format!("BackhandModeratorPIDFile {}: {error}", file.display());
            self.log(Category::Manager, Level::Error, &text);
        }
    }

    fn speed(&self) -> u32 {
        match (self.plan.global.arriba, &self.plan.arriba_file) {
            (Some(speed), _) => speed,
            (None, None) => sample::measure_arriba(),
            (None, Some(file)) => sample::arriba(file).unwrap_or_else(|(speed, error)| {
                let text = format!("the speed of this machine cannot be kept in {}: {error}", file.display());
                self.log(Category::Manager, Level::Notice, &text);
                speed
            }),
        }
    }

    pub(crate) fn log(&self, category: Category, level: Level, text: &str) {
        log(self.plan.log, category, level, text);
    }

    fn matrix(&self) -> MutexGuard<'_, Matrix> {
        self.matrix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an announcement.
    pub(crate) fn hear(&self, via: Via<'_>, bytes: &[u8]) {
        let counters = &self.table.counters;
        let mut matrix = self.matrix();
        match matrix.handle_announcement(sample::now(), via, bytes) {
            Ok(update) => {
                if let Some(row) = matrix.row(update.slot) {
                    self.table.publish(update.slot, &row, update.new);
                }
                counters.rx.fetch_add(1, Relaxed);
            }
            Err(refusal) => {
                let counter = match refusal {
                    Refusal::Own | Refusal::Old => &counters.rx_old,
                    Refusal::Acl => &counters.rx_acl,
                    Refusal::Mac => &counters.rx_mac,
                    Refusal::Full => &counters.rx_full,
                    Refusal::Rate => &counters.rx_rate,
                    _ => &counters.rx_bad,
                };
                let before = counter.fetch_add(1, Relaxed);
                let noteworthy = !matches!(refusal, Refusal::Own | Refusal::Old);
                if noteworthy && (before + 1).is_power_of_two() {
                    let text =
                        format!("announcement from {via:?} refused: {refusal} ({} so far)", before + 1);
                    self.log(Category::Net, Level::Notice, &text);
                }
            }
        }
    }

    /// The members of the group changed.
    pub(crate) fn members(&self, stayed: impl Fn(&str) -> bool) {
        let mut matrix = self.matrix();
        for slot in matrix.handle_members(sample::now(), stayed) {
            if let Some(row) = matrix.row(slot) {
                self.table.publish(slot, &row, false);
                let text = format!("{} has left the group", row.stat.hostname);
                self.log(Category::Net, Level::Info, &text);
            }
        }
    }

    fn open_sockets(self: &Arc<Self>) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut inputs: Vec<(SocketAddr, Socket)> = Vec::new();
        for (destination, contact) in self.plan.global.destinations.iter().zip(&self.plan.contacts) {
            match open_output(destination) {
                Ok(socket) => outputs.push(Output { socket, to: destination.dest, contact: *contact }),
                Err(error) => self.complain(destination, "cannot be sent to", &error),
            }
            if let Err(error) = open_input(destination, &mut inputs) {
                self.complain(destination, "cannot be heard", &error);
            }
        }
        for (local, socket) in inputs {
            let (core, port) = (Arc::clone(self), local.port());
            let name = format!("backhand-{port}");
            if let Err(error) = thread::Builder::new().name(name).spawn(move || core.receive(&socket.into()))
            {
                self.log(Category::Manager, Level::Error, &format!("no thread for port {port}: {error}"));
            }
        }
        outputs
    }

    fn complain(&self, destination: &Destination, what: &str, error: &std::io::Error) {
        let text = format!("MulticastStats {} {what}: {error}", destination.dest);
        self.log(Category::Net, Level::Error, &text);
    }

    fn receive(&self, socket: &UdpSocket) {
        // One byte more than allowed, so that longer ones are seen as such.
        let mut buffer = [0u8; SIZE_MAX + 1];
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((len, from)) => {
                    self.hear(Via::Udp(from.ip().to_canonical()), buffer.get(..len).unwrap_or_default());
                }
                Err(error) => {
                    // For example a network that is down. Not in a tight loop.
                    self.log(Category::Net, Level::Debug, &format!("receiving: {error}"));
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Where announcements are sent.
struct Output {
    socket: Socket,
    to: SocketAddr,
    contact: SocketAddr,
}

fn open_output(destination: &Destination) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination.dest), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = destination.interface {
        socket.bind(&SocketAddr::new(interface, 0).into())?;
    }
    let hops = destination.ttl.unwrap_or(1).into();
    match (destination.is_multicast(), destination.interface) {
        (false, _) if destination.dest.is_ipv4() => socket.set_broadcast(true)?,
        (false, _) => {}
        (true, Some(IpAddr::V6(interface))) => {
            socket.set_multicast_hops_v6(hops)?;
            socket.set_multicast_loop_v6(true)?;
            socket.set_multicast_if_v6(interface_index(interface)?)?;
        }
        (true, None) if destination.dest.is_ipv6() => {
            socket.set_multicast_hops_v6(hops)?;
            socket.set_multicast_loop_v6(true)?;
        }
        (true, interface) => {
            // The example of the paper is no multicast group for the kernel, but may be one for the network.
            socket.set_broadcast(true)?;
            socket.set_multicast_ttl_v4(hops)?;
            socket.set_multicast_loop_v4(true)?;
            if let Some(IpAddr::V4(interface)) = interface {
                socket.set_multicast_if_v4(&interface)?;
            }
        }
    }
    Ok(socket)
}

/// Number of the interface that has this address: what IPv6 names an interface by.
fn interface_index(addr: Ipv6Addr) -> std::io::Result<u32> {
    // Address, number, prefix length, scope, flags, name: all but the name in hexadecimal digits.
    let known = fs::read_to_string("/proc/net/if_inet6")?;
    let wanted = format!("{:032x}", u128::from(addr));
    let index = known.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == wanted).then(|| u32::from_str_radix(words.next()?, 16).ok())?
    });
    index.ok_or_else(|| std::io::Error::other(format!("no interface has the address {addr}")))
}

/// One socket for each port and family, in all the groups of that port.
fn open_input(destination: &Destination, inputs: &mut Vec<(SocketAddr, Socket)>) -> std::io::Result<()> {
    let any: IpAddr = match destination.dest {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = SocketAddr::new(any, destination.dest.port());
    let socket = match inputs.iter().position(|(known, _)| *known == local) {
        Some(known) => &inputs[known].1,
        None => {
            let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            if local.is_ipv6() {
                // The other family may have this port for itself.
                socket.set_only_v6(true)?;
            }
            socket.bind(&local.into())?;
            inputs.push((local, socket));
            &inputs[inputs.len() - 1].1
        }
    };
    if destination.is_multicast() {
        match (destination.dest.ip(), destination.interface) {
            (IpAddr::V4(group), Some(IpAddr::V4(interface))) => {
                socket.join_multicast_v4(&group, &interface)?
            }
            (IpAddr::V4(group), _) => socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?,
            (IpAddr::V6(group), Some(IpAddr::V6(interface))) => {
                socket.join_multicast_v6(&group, interface_index(interface)?)?;
            }
            (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, 0)?,
        }
    }
    Ok(())
}

/// The address that the system would use towards `to`.
pub(crate) fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    if to.is_ipv4() {
        socket.set_broadcast(true).ok()?;
    }
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|addr| !addr.is_unspecified())
}

struct Announcer {
    sampler: Sampler,
    stamp: Micros,
    /// Samples in a row without a busy worker.
    quiet: u32,
    /// There have been workers.
    started: bool,
    random: Random,
    speed: u32,
    outputs: Vec<Output>,
    link: Option<SpreadLink>,
    complained: bool,
}

impl Announcer {
    /// Within 5 % of the interval, so that servers do not fall into step.
    fn jitter(&mut self, interval: Duration) -> Duration {
        let part = u32::try_from(self.random.below(1001)).unwrap_or(500);
        interval * (9500 + part) / 10_000
    }

    fn announce(&mut self, core: &Core, goodbye: bool) {
        let now = sample::now();
        let stat = self.sample(core);
        let interval_ms = u32::try_from(core.plan.global.interval.as_millis()).unwrap_or(u32::MAX);
        {
            let mut matrix = core.matrix();
            matrix.handle_own(now, stat, interval_ms);
            if let Some(row) = matrix.row(0) {
                core.table.publish(0, &row, false);
            }
        }
        core.table.heartbeat.store(now.0, Relaxed);
        self.stamp = now.max(self.stamp.plus(Micros(1)));
        let key = core.plan.global.keys.first();
        // All children end: the server stops gracefully, and wants no more requests. Before the first sample nothing
        // is known.
        let draining = self.started && stat.nservers == 0;
        let mut message = Announcement { stamp: self.stamp, goodbye, draining, stat, interval_ms };
        for output in &self.outputs {
            message.stat.contact = output.contact;
            let sent = output.socket.send_to(&message.encode(key), &output.to.into());
            count(core, &mut self.complained, sent.map_err(|e| format!("to {}: {e}", output.to)));
        }
        if let Some(link) = &self.link {
            message.stat.contact = stat.contact;
            if let Some(sent) = link.send(&message.encode(key)) {
                count(core, &mut self.complained, sent.map(|()| 0));
            }
        }
    }

    fn sample(&mut self, core: &Core) -> ServerStat {
        let load_max = core.table.load_max.load(Relaxed);
        let mut stat = self.sampler.sample(u32::try_from(load_max).unwrap_or(u32::MAX));
        core.table.load_max.fetch_max(stat.load.into(), Relaxed);
        stat.hostname = core.plan.hostname;
        stat.contact = core.plan.contacts.first().copied().unwrap_or(stat.contact);
        stat.arriba = self.speed;
        if let Some(workers) = workers() {
            stat.aservers = workers.idle;
            stat.nservers = workers.idle + workers.busy;
            self.started |= stat.nservers > 0;
            self.quiet = if workers.busy == 0 { self.quiet + 1 } else { 0 };
            // Nothing is under way: what is counted was left by children that died.
            if self.quiet >= 2 {
                core.table.clear_in_flight();
            }
        }
        stat
    }
}

fn count(core: &Core, complained: &mut bool, sent: Result<usize, String>) {
    match sent {
        Ok(_) => {
            core.table.counters.tx.fetch_add(1, Relaxed);
        }
        Err(error) => {
            core.table.counters.tx_failed.fetch_add(1, Relaxed);
            if !std::mem::replace(complained, true) {
                let text = format!("an announcement could not be sent {error}; more are counted only");
                core.log(Category::Net, Level::Warning, &text);
            }
        }
    }
}
