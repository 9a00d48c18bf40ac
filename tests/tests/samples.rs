//! The usual situations, as whole configuration files, run by real daemons on hosts of their own: what the files of
//! Spread show works here too.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use spread::{Builder, GroupName, Message, Service};
use tests::netns::{Net, unavailable};
use tests::process::Process;
use tests::{bins, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// A sample on hosts: the daemons run as long as the value lives.
struct Sample {
    net: Net,
    dir: tempfile::TempDir,
    file: PathBuf,
    daemons: Vec<Process>,
}

impl Sample {
    /// Makes `hosts` hosts, prepares them with `ip -n HOST ...`, and starts these daemons, each on its host. None if
    /// there can be no hosts here.
    fn start(name: &str, hosts: u8, prepare: &[(usize, &str)], daemons: &[(usize, &str)]) -> Option<Self> {
        if let Some(reason) = unavailable() {
            assert!(std::env::var_os("CI").is_none(), "CI must be able to make hosts: {reason}");
            return None;
        }
        let net = Net::new(hosts).unwrap();
        for (host, args) in prepare {
            let mut command = Command::new("ip");
            command.args(["-n", net.host(*host).netns()]).args(args.split(' '));
            assert!(command.status().unwrap().success(), "{args}");
        }
        let program = bins::bin("spreadd", "spreadd").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases/samples").join(format!("{name}.conf"));
        let mut sample = Self { net, dir, file, daemons: Vec::new() };
        for (host, name) in daemons {
            let mut command = sample.net.host(*host).command(&program);
            command.arg("-n").arg(name).arg("-c").arg(&sample.file).arg("--no-local-socket");
            command.current_dir(sample.dir.path());
            let mut daemon = Process::start(name, sample.dir.path(), command).unwrap();
            daemon.wait_printed("Serving clients", LIMIT).unwrap();
            sample.daemons.push(daemon);
        }
        Some(sample)
    }

    /// Waits until the monitor, run on a host, hears of each daemon that all are together.
    fn together(&self, host: usize, count: usize) {
        let monitor = bins::bin("spreadd", "spmonitor").unwrap();
        wait::until("all daemons together", LIMIT, || {
            let mut command = self.net.host(host).command(&monitor);
            command.arg("-c").arg(&self.file).args(["--once", "--json", "--timeout", "500"]);
            let output = command.output().map_err(|error| error.to_string())?;
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
            let daemons = report["daemons"].as_array().ok_or("no daemons")?;
            let all = daemons.len() == count && daemons.iter().all(|d| d["status"]["num_procs"] == count);
            if all { Ok(()) } else { Err(report.to_string()) }
        })
        .unwrap();
    }

    /// Clients at these places (host, address) join a group and each sends a message to all.
    fn clients_talk(&self, places: &[(usize, &str)]) {
        let count = places.len();
        let clients: Vec<_> = places
            .iter()
            .map(|(host, address)| {
                let address = (*address).to_owned();
                let talk = move || {
                    let group: GroupName = "sample".parse().unwrap();
                    let builder = Builder::new(&address).unwrap().membership(true);
                    let mut client = builder.connect_blocking().unwrap();
                    client.join(group).unwrap();
                    let mut seen = 0;
                    while seen < count {
                        match client.receive_timeout(LIMIT).unwrap().expect("the others, and their messages")
                        {
                            Message::Membership(view) if view.members.len() == count => {
                                client.multicast(Service::SAFE, group, 1, address.clone()).unwrap();
                            }
                            Message::Data(_) => seen += 1,
                            _ => {}
                        }
                    }
                };
                self.net.host(*host).enter(talk).unwrap()
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

#[test]
fn single_host() {
    let Some(sample) = Sample::start("single-host", 1, &[], &[(0, "localhost")]) else { return };
    sample.together(0, 1);
    sample.clients_talk(&[(0, "4803@127.0.0.1"), (0, "4803@127.0.0.1")]);
}

#[test]
fn two_segments() {
    let prepare = [
        (0, "addr change 10.77.0.1/24 broadcast 10.77.0.255 dev eth0"),
        (1, "addr change 10.77.0.2/24 broadcast 10.77.0.255 dev eth0"),
        (2, "addr add 10.77.1.1/24 broadcast 10.77.1.255 dev eth0"),
        (3, "addr add 10.77.1.2/24 broadcast 10.77.1.255 dev eth0"),
    ];
    let daemons = [(0, "left1"), (1, "left2"), (2, "right1"), (3, "right2")];
    let Some(sample) = Sample::start("two-segments", 4, &prepare, &daemons) else { return };
    sample.together(3, 4);
    sample.clients_talk(&[
        (0, "4803@10.77.0.1"),
        (1, "4803@10.77.0.2"),
        (2, "4813@10.77.1.1"),
        (3, "4813@10.77.1.2"),
    ]);
}

#[test]
fn ipv6() {
    let prepare = [
        (0, "addr add fd77::1/64 dev eth0 nodad"),
        (1, "addr add fd77::2/64 dev eth0 nodad"),
        (2, "addr add fd77::3/64 dev eth0 nodad"),
    ];
    let Some(sample) = Sample::start("ipv6", 3, &prepare, &[(0, "six1"), (1, "six2"), (2, "six3")]) else {
        return;
    };
    sample.together(1, 3);
    sample.clients_talk(&[(0, "4803@fd77::1"), (1, "4803@fd77::2"), (2, "4803@fd77::3")]);
}

#[test]
fn multi_homed() {
    let prepare = [
        (0, "addr add 192.168.77.1/24 dev eth0"),
        (1, "addr add 192.168.77.2/24 dev eth0"),
        (2, "addr add 192.168.77.3/24 dev eth0"),
    ];
    let Some(sample) = Sample::start("multi-homed", 3, &prepare, &[(0, "front1"), (1, "front2")]) else {
        return;
    };
    sample.together(0, 2);
    // The third host has no daemon.
    sample.clients_talk(&[(2, "4803@192.168.77.1"), (2, "4803@192.168.77.2"), (1, "4803@127.0.0.1")]);
    for refused in ["10.77.0.1:4803", "10.77.0.2:4803"] {
        let connect = move || TcpStream::connect(refused).map(drop).map_err(|error| error.kind());
        let result = sample.net.host(2).enter(connect).unwrap().join().unwrap();
        assert_eq!(result, Err(std::io::ErrorKind::ConnectionRefused), "{refused}");
    }
}
