//! The recorded packets, and the checks in their order.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use spread_ring::{ConfId, Membership, Stats};

use super::super::packet::{HEADER_LEN, Request, Status};
use super::*;
use crate::config::{self, SystemHost};

macro_rules! case {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/monitor/", $name))
    };
}

/// Offset, two spaces, bytes.
fn hex(text: &str) -> Vec<u8> {
    let bytes = text.lines().filter_map(|line| line.split_once("  ")).flat_map(|(_, bytes)| bytes.split(' '));
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn condition() -> Condition {
    // As the engine of a formed ring says it.
    let config = spread_ring::RingConfig::new(NodeId(0), vec![0, 0, 1], [1; 16]);
    let boot = spread_ring::Boot { session: 1, epoch_min: 2, seed: [0; 32] };
    let ring = spread_ring::Ring::new(Arc::new(config), boot, spread_ring::Nanos(0)).unwrap();
    let mut condition = ring.condition();
    condition.members = NodeSet(0b111);
    condition.id = ConfId { epoch: 4, rep: NodeId(0), nonce: 1 };
    condition.state = Membership::Operational;
    condition.window = 160;
    condition
}

fn facts() -> Facts {
    Facts {
        uptime: Duration::from_secs(16),
        condition: condition(),
        ring: Stats { installs: 2, data_sent: 2, data_received: 6007, ..Stats::default() },
        transitional: false,
        synced: true,
        messages_delivered: 6000,
        sessions: 1,
        groups: 2,
    }
}

struct Bench {
    monitor: Monitor,
    stats: Arc<MonitorStats>,
    now: Instant,
}

impl Bench {
    fn new(text: &str, me: u16) -> Self {
        let config = config::parse("test.conf", text.as_bytes(), &SystemHost).unwrap();
        let stats = Arc::new(MonitorStats::default());
        let monitor = Monitor::new(Cluster::new(&config, me), true, Arc::clone(&stats));
        Self { monitor, stats, now: Instant::now() }
    }

    fn put(&mut self, from: &str, datagram: &[u8]) -> Action {
        self.monitor.handle(self.now, from.parse().unwrap(), datagram, facts)
    }

    /// Why nothing was done.
    fn refused(&mut self, from: &str, datagram: &[u8]) -> Refused {
        let before = Refused::ALL.map(|reason| self.stats.refused(reason));
        let action = self.put(from, datagram);
        assert!(matches!(action, Action::Nothing), "{action:?}");
        let changed = |reason: &Refused| self.stats.refused(*reason) == before[*reason as usize] + 1;
        Refused::ALL.into_iter().find(changed).expect("nothing was counted")
    }
}

/// Swaps every field of a packet: what a big-endian monitor sends.
fn swapped(packet: &[u8]) -> Vec<u8> {
    let mut out = packet.to_vec();
    let word = u32::from_le_bytes([out[0], out[1], out[2], out[3]]) & !0x8000_0080;
    out[..4].copy_from_slice(&word.to_be_bytes());
    out[4..32].chunks_mut(4).for_each(<[u8]>::reverse);
    out[32..].chunks_mut(2).for_each(<[u8]>::reverse);
    out
}

const MONITOR: &str = "127.0.0.1:4838";

#[test]
fn the_recorded_reply_is_read() {
    let bytes = hex(case!("status-reply.hex"));
    let packet = Packet::parse(&bytes).unwrap();
    let status = packet.status().unwrap();
    let json: serde_json::Value = serde_json::from_str(case!("status-reply.json")).unwrap();
    let wanted: BTreeMap<String, i64> = serde_json::from_value(json["status"].clone()).unwrap();
    let found: BTreeMap<String, i64> =
        status.fields().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(found, wanted);
    assert_eq!(u64::from(packet.daemon), json["header"]["proc_id"].as_u64().unwrap());
    assert_eq!(status.to_bytes(), bytes);
}

#[test]
fn the_recorded_request_is_answered_in_the_recorded_form() {
    let request = hex(case!("status-request.hex"));
    for request in [request.clone(), swapped(&request)] {
        let mut nb = Bench::new(case!("status.conf"), 1);
        // The reply goes to the port that the request names, not to the one it came from.
        let Action::Reply(to, bytes) = nb.put("127.0.0.1:9999", &request) else { panic!("no reply") };
        assert_eq!(to, MONITOR.parse().unwrap());
        let recorded = hex(case!("status-reply.hex"));
        assert_eq!(bytes[..HEADER_LEN], recorded[..HEADER_LEN]);
        let status = Packet::parse(&bytes).unwrap().status().unwrap();
        let was = Packet::parse(&recorded).unwrap().status().unwrap();
        let wanted = Status {
            // What the daemon of the test has not done.
            packet_delivered: 0,
            retrans: 0,
            u_retrans: 0,
            aru: 0,
            my_aru: 0,
            highest_seq: 0,
            token_hurry: 0,
            token_rounds: 0,
            personal_window: status.personal_window,
            accelerated_window: status.accelerated_window,
            ..was
        };
        assert_eq!(status, wanted);
        assert_eq!(nb.stats.accepted(Command::Status), 1);
    }
}

#[test]
fn the_recorded_commands_are_carried_out() {
    for swap in [false, true] {
        let order = |text: &str| if swap { swapped(&hex(text)) } else { hex(text) };
        let mut nc = Bench::new(case!("command.conf"), 2);
        let action = nc.put(MONITOR, &order(case!("command-flow-control.hex")));
        let Action::Windows(windows) = action else { panic!("{action:?}") };
        assert_eq!((windows.window, windows.personal, windows.accelerated), (Some(100), Some(20), Some(0)));

        let action = nc.put(MONITOR, &order(case!("command-partition.hex")));
        let Action::Admit(nodes) = action else { panic!("{action:?}") };
        assert_eq!(nodes, NodeSet::one(NodeId(2)));
        // The monitor sends everything twice.
        assert!(matches!(nc.put(MONITOR, &order(case!("command-partition.hex"))), Action::Nothing));
        let action = nc.put(MONITOR, &order(case!("command-partition-cancel.hex")));
        assert!(matches!(action, Action::Admit(ALL)), "{action:?}");

        assert!(matches!(nc.put(MONITOR, &order(case!("command-kill-nc.hex"))), Action::Stop));
        assert!(matches!(nc.put(MONITOR, &order(case!("command-reload.hex"))), Action::Reload));
        assert!(matches!(nc.put(MONITOR, &order(case!("command-reload.hex"))), Action::Nothing));
        nc.now += SAME_RELOAD;
        assert!(matches!(nc.put(MONITOR, &order(case!("command-reload.hex"))), Action::Reload));
        assert!(Refused::ALL.iter().all(|reason| nc.stats.refused(*reason) == 0));

        // The same packets mean other things to other daemons.
        let mut na = Bench::new(case!("command.conf"), 0);
        let action = na.put(MONITOR, &order(case!("command-flow-control.hex")));
        let Action::Windows(windows) = action else { panic!("{action:?}") };
        assert_eq!((windows.window, windows.personal, windows.accelerated), (Some(100), None, Some(0)));
        let action = na.put(MONITOR, &order(case!("command-kill-nc.hex")));
        let Action::Admit(nodes) = action else { panic!("{action:?}") };
        assert_eq!(nodes, NodeSet(0b011));
    }
}

#[test]
fn without_dangerous_monitor_only_status_and_reload_count() {
    let text = case!("command.conf").replace("DangerousMonitor = true", "");
    let mut nc = Bench::new(&text, 2);
    for command in
        [case!("command-flow-control.hex"), case!("command-partition.hex"), case!("command-kill-nc.hex")]
    {
        assert_eq!(nc.refused(MONITOR, &hex(command)), Refused::Dangerous);
    }
    assert!(matches!(nc.put(MONITOR, &hex(case!("command-reload.hex"))), Action::Reload));
    nc.monitor.may_reload = false;
    assert_eq!(nc.refused(MONITOR, &hex(case!("command-reload.hex"))), Refused::Reload);
}

#[test]
fn a_partition_ends_by_itself() {
    let mut nc = Bench::new(case!("command.conf"), 2);
    nc.put(MONITOR, &hex(case!("command-partition.hex")));
    assert!(nc.monitor.poll(nc.now + PARTITION_MAX / 2).is_none());
    // Said again, it lasts from then on.
    nc.now += PARTITION_MAX / 2;
    nc.put(MONITOR, &hex(case!("command-partition.hex")));
    assert!(nc.monitor.poll(nc.now + PARTITION_MAX / 2).is_none());
    assert!(matches!(nc.monitor.poll(nc.now + PARTITION_MAX), Some(Action::Admit(ALL))));
    assert!(nc.monitor.poll(nc.now + PARTITION_MAX).is_none());
}

fn request(command: Command, id: u32, numbers: &[i16]) -> Vec<u8> {
    Request { command, id, reply_port: 4838, hash: 824_181_397, numbers: numbers.to_vec() }.to_bytes()
}

#[test]
fn the_checks_are_made_in_their_order() {
    let mut nc = Bench::new(case!("command.conf"), 2);
    let good = request(Command::Status, 1, &[]);
    assert!(matches!(nc.put(MONITOR, &good), Action::Reply(..)));
    assert_eq!(nc.refused(MONITOR, &good[..39]), Refused::Malformed);
    assert_eq!(nc.refused(MONITOR, &[&good[..], &[0]].concat()), Refused::Malformed);
    let mut other = good.clone();
    other[28] ^= 1;
    assert_eq!(nc.refused(MONITOR, &other), Refused::Hash);
    assert_eq!(nc.refused(MONITOR, &request(Command::Status, 9, &[])), Refused::Unknown);
    assert_eq!(nc.refused("127.0.0.9:4838", &good), Refused::Source);
    assert_eq!(nc.refused("127.0.0.1:4838", &request(Command::Status, 2, &[])), Refused::Source);
    // The daemon to reply to is another one: the original replies there.
    let mut reflected = good.clone();
    reflected[8] = 2;
    assert_eq!(nc.refused(MONITOR, &reflected), Refused::Reflected);
    // A body that is announced does no harm.
    assert!(matches!(nc.put(MONITOR, &request(Command::Status, 1, &[1, 2, 3])), Action::Reply(..)));
    // Bits above the port are ignored.
    let mut high = good.clone();
    high[23] = 0x7f;
    assert!(matches!(nc.put(MONITOR, &high), Action::Reply(to, _) if to.port() == 4838));
}

#[test]
fn bodies_are_checked() {
    let mut nc = Bench::new(case!("command.conf"), 2);
    for short in [&[][..], &[0, 0]] {
        assert_eq!(nc.refused(MONITOR, &request(Command::Partition, 1, short)), Refused::Body);
    }
    assert!(matches!(
        nc.put(MONITOR, &request(Command::Partition, 1, &[0, 1, 1])),
        Action::Admit(NodeSet(0b110))
    ));
    let flow = |numbers: &[i16]| request(Command::FlowControl, 1, numbers);
    assert_eq!(nc.refused(MONITOR, &flow(&[0, 0, 0, 0, 9, 9])), Refused::Body);
    for numbers in [
        [1, 1, 1, 1, 0, 1, 9, 0],
        [1, 1, 1, 1, 1, -2, 9, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 9, 1, 8, 0],
    ] {
        assert_eq!(nc.refused(MONITOR, &flow(&numbers)), Refused::Value, "{numbers:?}");
    }
    // Nothing changes.
    assert!(matches!(nc.put(MONITOR, &flow(&[-1; 8])), Action::Nothing));
    let action = nc.put(MONITOR, &flow(&[-1, -1, -1, -1, 9, -1, -1, -1]));
    let Action::Windows(windows) = action else { panic!("{action:?}") };
    assert_eq!((windows.window, windows.personal, windows.accelerated), (None, Some(9), Some(0)));
}

proptest! {
    #[test]
    fn no_datagram_breaks_it(mut bytes: Vec<u8>, known: bool, command in 0usize..4) {
        if known {
            // Past the first checks.
            let command = [Command::Status, Command::Partition, Command::FlowControl, Command::Reload][command];
            let numbers: Vec<i16> = bytes.iter().map(|byte| i16::from(*byte) - 2).collect();
            bytes = request(command, 1, &numbers);
        }
        Bench::new(case!("command.conf"), 2).put(MONITOR, &bytes);
    }
}
