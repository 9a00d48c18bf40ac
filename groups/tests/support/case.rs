//! Recorded group cases: reading them, and comparing what clients saw with what was recorded.
//!
//! The format is described in `tests/cases/group-cases/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use spread_wire::{Frame, GroupId, GroupName, Kind, Membership};

/// First line of a case.
#[derive(Debug, Deserialize)]
pub struct Scenario {
    pub name: String,
    pub determinism: String,
    #[serde(default)]
    pub fault_injection: bool,
    pub daemons: Vec<DaemonSpec>,
    pub clients: Vec<ClientSpec>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
pub struct DaemonSpec {
    pub name: String,
    pub virtual_id: u32,
}

#[derive(Debug, Deserialize)]
pub struct ClientSpec {
    pub private_group: String,
    pub daemon: String,
    pub membership_messages: bool,
    pub connects_before_step: u32,
}

#[derive(Debug, Deserialize)]
pub struct Step {
    pub step: u32,
    #[serde(rename = "do")]
    pub text: String,
    #[serde(default)]
    pub actions: Vec<Timed>,
}

/// An action and the pause before it.
#[derive(Debug, Deserialize)]
pub struct Timed {
    #[serde(default)]
    pub after_ms: u64,
    #[serde(flatten)]
    pub action: Action,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Action {
    Join {
        client: String,
        group: String,
    },
    Leave {
        client: String,
        group: String,
    },
    Multicast {
        client: String,
        service: Vec<String>,
        groups: Vec<String>,
        mess_type: i16,
        payload: String,
    },
    Disconnect {
        client: String,
    },
    CloseSocket {
        client: String,
    },
    KillDaemon {
        daemon: String,
    },
    StartDaemons {
        daemons: Vec<String>,
    },
    Partition {
        components: Vec<Vec<String>>,
        #[serde(default)]
        clear_drops: bool,
    },
    Heal,
    HealPartitionKeepDrops,
    DropTokenPackets {
        at: Vec<String>,
        source: Vec<String>,
    },
    DropDataPackets {
        at: Vec<String>,
        source: Vec<String>,
    },
    DropFirstDataPacket {
        at: Vec<String>,
        source: Vec<String>,
    },
    PassOneTokenThenDrop {
        at: Vec<String>,
        source: Vec<String>,
    },
}

/// The bits of a service given by names.
pub fn service_bits(names: &[String]) -> u32 {
    names.iter().fold(0, |bits, name| {
        bits | match name.as_str() {
            "UNRELIABLE" => 0x01,
            "RELIABLE" => 0x02,
            "FIFO" => 0x04,
            "CAUSAL" => 0x08,
            "AGREED" => 0x10,
            "SAFE" => 0x20,
            "SELF_DISCARD" => 0x40,
            other => panic!("unknown service {other}"),
        }
    })
}

#[derive(Deserialize)]
struct Line {
    client: String,
    step: u32,
    kind: String,
    #[serde(default)]
    service_bits: String,
    #[serde(default)]
    sender: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    mess_type: i16,
    #[serde(default)]
    payload: String,
    #[serde(default)]
    payload_len: usize,
    group_id: Option<LineId>,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    my_index: i32,
    #[serde(default)]
    vs_sets: Vec<Vec<String>>,
    #[serde(default)]
    my_vs_set: usize,
}

#[derive(Deserialize)]
struct LineId {
    proc: i64,
    index: i32,
    view: String,
}

/// A group id; `V` stands for (proc, time): a label in a recorded case, the pair itself in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id<V> {
    pub proc: i64,
    pub index: i32,
    pub view: V,
}

/// One delivery to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<V> {
    Data {
        bits: u32,
        sender: String,
        groups: Vec<String>,
        mess_type: i16,
        payload: String,
        len: usize,
    },
    View {
        bits: u32,
        group: String,
        id: Id<V>,
        members: Vec<String>,
        my_index: i32,
        sets: Vec<Vec<String>>,
        own_set: usize,
    },
    Transition {
        group: String,
        id: Id<V>,
    },
    SelfLeave {
        group: String,
    },
    Closed,
}

/// Deliveries by client, each with its step, in order.
pub type Log<V> = BTreeMap<String, Vec<(u32, Seen<V>)>>;

/// The folder of the recorded cases.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/group-cases")
}

/// Reads a case.
pub fn load(name: &str) -> (Scenario, Log<String>) {
    let path = folder().join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = text.lines();
    let scenario = serde_json::from_str(lines.next().expect("a first line")).expect("a scenario");
    let mut log = Log::new();
    for line in lines {
        let line: Line = serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e} in {line}"));
        let (client, step) = (line.client.clone(), line.step);
        log.entry(client).or_default().push((step, line.into_seen()));
    }
    (scenario, log)
}

impl Line {
    fn into_seen(self) -> Seen<String> {
        let bits = u32::from_str_radix(self.service_bits.trim_start_matches("0x"), 16).unwrap_or(0);
        let id = self.group_id.map(|id| Id { proc: id.proc, index: id.index, view: id.view });
        match (self.kind.as_str(), id) {
            ("data", None) => Seen::Data {
                bits,
                sender: self.sender,
                groups: self.groups,
                mess_type: self.mess_type,
                payload: self.payload,
                len: self.payload_len,
            },
            ("reg_memb", Some(id)) => {
                assert_eq!(self.groups, self.members);
                Seen::View {
                    bits,
                    group: self.sender,
                    id,
                    members: self.members,
                    my_index: self.my_index,
                    sets: self.vs_sets,
                    own_set: self.my_vs_set,
                }
            }
            ("transition", Some(id)) => Seen::Transition { group: self.sender, id },
            ("self_leave", None) => Seen::SelfLeave { group: self.sender },
            ("connection_closed", None) => Seen::Closed,
            (kind, _) => panic!("unknown kind {kind}"),
        }
    }
}

fn text(name: &GroupName) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

fn id(id: GroupId) -> Id<(i32, i32)> {
    Id { proc: i64::from(id.proc.cast_unsigned()), index: id.index, view: (id.proc, id.time) }
}

/// What the session with the private group `own` sees in a frame.
pub fn read(frame: &Frame, own: &str) -> Seen<(i32, i32)> {
    let bits = frame.header.service.0;
    let sender = text(&frame.header.sender);
    let groups: Vec<_> = frame.group_names().map(|g| text(&g)).collect();
    match frame.kind() {
        Kind::Data => {
            let data = frame.data_bytes();
            let payload = String::from_utf8_lossy(&data[..data.len().min(64)]).into_owned();
            Seen::Data { bits, sender, groups, mess_type: frame.message_type(), payload, len: data.len() }
        }
        Kind::Membership => {
            assert_eq!(frame.header.hint.0, [0x80, 0, 0, 0x80], "hint of a membership message");
            let (message, own_set) = Membership::decode(frame).expect("a membership body");
            let index = groups.iter().position(|g| g == own);
            Seen::View {
                bits,
                group: sender,
                id: id(message.id),
                my_index: index.map_or(-1, |i| i32::try_from(i).expect("few members")),
                members: groups,
                sets: message.sets.iter().map(|set| set.iter().map(text).collect()).collect(),
                own_set,
            }
        }
        Kind::Transition => {
            assert!(groups.is_empty() && frame.header.data_len == 12);
            Seen::Transition { group: sender, id: id(GroupId::of_transition(frame).expect("an id")) }
        }
        Kind::SelfLeave => {
            assert!(groups.is_empty() && frame.header.data_len == 0 && bits == 0x200);
            Seen::SelfLeave { group: sender }
        }
        other => panic!("{own} got a frame of kind {other:?}"),
    }
}

/// One-to-one renaming of view labels to pairs.
#[derive(Default)]
struct Renaming {
    pairs: BTreeMap<String, (i32, i32)>,
    used: BTreeSet<(i32, i32)>,
}

impl Renaming {
    fn fits(&mut self, label: &str, pair: (i32, i32)) -> bool {
        match self.pairs.get(label) {
            Some(known) => *known == pair,
            None => {
                self.pairs.insert(label.to_owned(), pair);
                self.used.insert(pair)
            }
        }
    }

    fn same(&mut self, a: &Seen<String>, b: &Seen<(i32, i32)>) -> bool {
        use Seen::{Closed, Data, SelfLeave, Transition, View};
        let mut ids = |a: &Id<String>, b: &Id<(i32, i32)>| {
            a.proc == b.proc && a.index == b.index && self.fits(&a.view, b.view)
        };
        match (a, b) {
            (
                Data { bits, sender, groups, mess_type, payload, len },
                Data {
                    bits: bits2,
                    sender: sender2,
                    groups: groups2,
                    mess_type: type2,
                    payload: p2,
                    len: len2,
                },
            ) => {
                (bits, sender, groups, mess_type, payload, len) == (bits2, sender2, groups2, type2, p2, len2)
            }
            (
                View { bits, group, id, members, my_index, sets, own_set },
                View {
                    bits: bits2,
                    group: group2,
                    id: id2,
                    members: members2,
                    my_index: my_index2,
                    sets: sets2,
                    own_set: own_set2,
                },
            ) => {
                (bits, group, members, my_index, sets, own_set)
                    == (bits2, group2, members2, my_index2, sets2, own_set2)
                    && ids(id, id2)
            }
            (Transition { group, id }, Transition { group: group2, id: id2 }) => {
                group == group2 && ids(id, id2)
            }
            (SelfLeave { group }, SelfLeave { group: group2 }) => group == group2,
            (Closed, Closed) => true,
            _ => false,
        }
    }
}

/// Compares a run with the recorded case: per client and step, in order. View labels are matched by a
/// one-to-one renaming for the whole case. Data messages with a payload in `unplaced` must arrive in their
/// step, at any place in it.
pub fn compare(recorded: &Log<String>, run: &Log<(i32, i32)>, unplaced: &[&str]) -> Result<(), String> {
    let mut renaming = Renaming::default();
    let clients: BTreeSet<_> = recorded.keys().chain(run.keys()).collect();
    let empty_recorded = Vec::new();
    let empty_run = Vec::new();
    for client in clients {
        let mut wanted = recorded.get(client).unwrap_or(&empty_recorded).clone();
        let mut found = run.get(client).unwrap_or(&empty_run).clone();
        for payload in unplaced {
            let in_wanted = take_data(&mut wanted, payload);
            let in_found = take_data(&mut found, payload);
            if in_wanted != in_found {
                return Err(format!(
                    "{client}: {payload} in steps {in_wanted:?}, but in the run {in_found:?}"
                ));
            }
        }
        for i in 0..wanted.len().max(found.len()) {
            let same = match (wanted.get(i), found.get(i)) {
                (Some((step, a)), Some((step2, b))) => step == step2 && renaming.same(a, b),
                _ => false,
            };
            if !same {
                return Err(format!(
                    "{client}, delivery {}:\n recorded {:?}\n      run {:?}\n     then {:#?}\n  renamed {:?}",
                    i + 1,
                    wanted.get(i),
                    found.get(i),
                    found.iter().skip(i + 1).take(4).collect::<Vec<_>>(),
                    renaming.pairs,
                ));
            }
        }
    }
    Ok(())
}

/// Removes data messages with this payload; gives their steps.
fn take_data<V>(log: &mut Vec<(u32, Seen<V>)>, wanted: &str) -> Vec<u32> {
    let mut steps = Vec::new();
    log.retain(|(step, seen)| match seen {
        Seen::Data { payload, .. } if payload == wanted => {
            steps.push(*step);
            false
        }
        _ => true,
    });
    steps
}
