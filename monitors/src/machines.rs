//! The resources of the machines, as `mod_backhand` announces them over a Spread group.

use std::collections::BTreeMap;

use backhand::Announcement;

/// Resources of one machine, as its `mod_backhand` announces them.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Machine {
    /// Host name.
    pub name: String,
    /// Where it serves HTTP.
    pub contact: String,
    /// Milliseconds since 1970 of the last announcement.
    pub at_ms: i64,
    /// Milliseconds between its announcements.
    pub interval_ms: u32,
    /// Load average of one minute.
    pub load: f64,
    /// Percent of CPU time that is idle.
    pub cpu_idle: f64,
    /// Usable CPUs.
    pub cpus: u32,
    /// Installed memory in bytes.
    pub memory: u64,
    /// Available memory in bytes.
    pub memory_available: u64,
    /// Idle workers of its server.
    pub workers_idle: u32,
    /// All workers of its server.
    pub workers: u32,
    /// Speed of the machine.
    pub speed: u32,
    /// It ends soon and wants no more requests.
    pub draining: bool,
}

/// Machines that are remembered.
const MACHINES_MAX: usize = 256;

/// All machines that announce themselves; at most 256.
#[derive(Clone, Debug, Default)]
pub struct Machines(BTreeMap<String, Machine>);

impl Machines {
    /// Takes an announcement. One that cannot be understood changes nothing.
    pub fn handle(&mut self, now_ms: i64, payload: &[u8]) {
        let Ok((announced, _)) = Announcement::decode(payload, &[]) else { return };
        let stat = announced.stat;
        let name = stat.hostname.as_str().to_owned();
        let key = format!("{name} {}", stat.contact);
        if announced.goodbye {
            self.0.remove(&key);
            return;
        }
        if self.0.len() >= MACHINES_MAX && !self.0.contains_key(&key) {
            return;
        }
        let machine = Machine {
            name,
            contact: stat.contact.to_string(),
            at_ms: now_ms,
            interval_ms: announced.interval_ms,
            load: f64::from(stat.load) / 1000.0,
            cpu_idle: f64::from(stat.cpu) / 10.0,
            cpus: stat.ncpu,
            memory: stat.tmem,
            memory_available: stat.amem,
            workers_idle: stat.aservers,
            workers: stat.nservers,
            speed: stat.arriba,
            draining: announced.draining,
        };
        self.0.insert(key, machine);
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Machine> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use backhand::stat::{Micros, Name, ServerStat};

    use super::*;

    const NOW_MS: i64 = 971_211_336_500;

    #[test]
    fn machines_are_known_from_their_announcements_until_they_say_goodbye() {
        let mut machines = Machines::default();
        let stat = ServerStat {
            hostname: Name::new("web1").unwrap(),
            contact: "192.0.2.1:80".parse().unwrap(),
            load: 1500,
            cpu: 250,
            ncpu: 2,
            ..ServerStat::default()
        };
        let mut announced =
            Announcement { stamp: Micros(1), goodbye: false, draining: false, stat, interval_ms: 1000 };
        machines.handle(NOW_MS, &announced.encode(None));
        machines.handle(NOW_MS, b"BKHS nonsense");
        let seen: Vec<_> = machines.iter().map(|m| (m.load, m.cpu_idle, m.cpus, m.at_ms)).collect();
        assert_eq!(seen, [(1.5, 25.0, 2, NOW_MS)]);
        announced.goodbye = true;
        machines.handle(NOW_MS, &announced.encode(None));
        assert_eq!(machines.iter().count(), 0);
    }
}
