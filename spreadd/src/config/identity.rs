//! Which entry of the file is this daemon.
//!
//! Source: `spec/daemon-config.md#6`.

use std::net::IpAddr;

use spread_wire::DaemonName;

use crate::config::diagnostic::{ConfigErrors, ErrorClass, Problem, Warning, WarningClass};
use crate::config::host::Host;
use crate::config::model::Config;
use crate::config::words::nearest;

/// The addresses of this host.
struct Local(Vec<IpAddr>);

impl Local {
    fn has(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    /// Also the loopback addresses that no interface lists: all of 127/8 belong to a host with one of them.
    fn can_bind(&self, ip: IpAddr) -> bool {
        let loopback = |ip: &IpAddr| ip.is_ipv4() && ip.is_loopback();
        self.has(ip) || (loopback(&ip) && self.0.iter().any(loopback))
    }
}

impl Config {
    /// Finds the entry of the daemon that runs here and gives its number: with `name` the entry of this name,
    /// otherwise the first one whose address is an address of this host. Adds warnings about its entry.
    ///
    /// # Errors
    /// [`ErrorClass::Identity`] if there is none, or if its address is not of this host.
    pub fn identify(&mut self, name: Option<DaemonName>, host: &dyn Host) -> Result<u16, ConfigErrors> {
        let local = match host.addresses() {
            Ok(addresses) => Local(addresses),
            Err(error) => {
                let message = format!("cannot find out the addresses of this host: {error}");
                return Err(self.error(Problem::nowhere(ErrorClass::Identity, message)));
            }
        };
        let found = match name {
            Some(name) => self.by_name(name)?,
            None => self.by_address(&local)?,
        };
        let number = usize::from(found);
        let places = self.places.get(number);
        let Some(((daemon, _, _), places)) = self.daemon(found).zip(places) else {
            return Err(self.error(Problem::nowhere(ErrorClass::Identity, "no such daemon")));
        };
        if !local.can_bind(daemon.address.ip) {
            let message = format!("{} is not an address of this host", daemon.address.ip);
            let problem = Problem::new(ErrorClass::Identity, places.address.clone(), message)
                .label(format!("the address of `{}`, which should run here", daemon.name))
                .help(format!("this host has {}", list(&local.0)));
            return Err(self.error(problem));
        }
        let mut warnings = Vec::new();
        let interfaces = daemon.interfaces.iter().flatten();
        for (at, (interface, span)) in interfaces.zip(&places.interfaces).enumerate() {
            let ip = interface.address.ip;
            let before = daemon.interfaces.iter().flatten().take(at);
            if before.zip(&places.interfaces).any(|(i, _)| i.address.ip == ip && i.uses == interface.uses) {
                let message = format!("interface {ip} is listed twice");
                let problem = Problem::new(ErrorClass::Consistency, span.clone(), message);
                return Err(self.error(problem.label("it can be bound only once")));
            }
            if !ip.is_unspecified() && !ip.is_multicast() && !local.can_bind(ip) {
                let message = format!("interface {ip} is not an address of this host");
                warnings.push(Warning::new(
                    &self.source,
                    WarningClass::InterfaceNotLocal,
                    span.start,
                    message,
                ));
            }
        }
        if let (Some((_, segment, _)), None) = (self.daemon(found), self.shared_address(found, host))
            && segment.daemons.len() > 1
            && let Some((address, place)) = self.segment_place(found)
            && !address.is_loopback()
        {
            let message = format!(
                "segment address {address} is neither multicast nor a broadcast address of this host; \
                 every daemon gets a copy of each packet instead"
            );
            warnings.push(Warning::new(&self.source, WarningClass::NotHonored, place, message));
        }
        self.warnings.extend(warnings);
        Ok(found)
    }

    /// The numbers of all entries that could be this daemon: those with an address of this host.
    ///
    /// # Errors
    /// The system's reason why the addresses of the host are not known.
    pub fn local_entries(&self, host: &dyn Host) -> std::io::Result<Vec<u16>> {
        let local = Local(host.addresses()?);
        Ok((0u16..).zip(self.daemons()).filter(|(_, d)| local.has(d.address.ip)).map(|(n, _)| n).collect())
    }

    fn error(&self, problem: Problem) -> ConfigErrors {
        ConfigErrors::one(self.source.clone(), problem)
    }

    fn by_name(&self, name: DaemonName) -> Result<u16, ConfigErrors> {
        if let Some((number, _)) = (0u16..).zip(self.daemons()).find(|(_, d)| d.name == name) {
            return Ok(number);
        }
        let names: Vec<String> = self.daemons().map(|d| d.name.to_string()).collect();
        let problem = Problem::nowhere(ErrorClass::Identity, format!("no daemon is called `{name}`"));
        let wrong = name.to_string();
        Err(self.error(match nearest(&wrong, names.iter().map(String::as_str)) {
            Some(near) if near.eq_ignore_ascii_case(&wrong) => {
                problem.help(format!("upper and lower case count: there is `{near}`"))
            }
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("the file has {}", list(&names))),
        }))
    }

    fn by_address(&self, local: &Local) -> Result<u16, ConfigErrors> {
        let entries = || (0u16..).zip(self.daemons());
        let listed = entries().find(|(_, d)| local.has(d.address.ip));
        let found = listed.or_else(|| entries().find(|(_, d)| local.can_bind(d.address.ip)));
        found.map(|(number, _)| number).ok_or_else(|| {
            let problem = Problem::nowhere(ErrorClass::Identity, "no daemon of the file is on this host");
            self.error(problem.help(format!("this host has {}", list(&local.0))))
        })
    }
}

/// At most ten of them.
fn list<T: ToString>(items: &[T]) -> String {
    const MAX: usize = 10;
    let mut texts: Vec<String> = items.iter().take(MAX).map(ToString::to_string).collect();
    if items.len() > MAX {
        texts.push(format!("and {} more", items.len() - MAX));
    }
    texts.join(", ")
}
