//! The exchange of group tables after daemons met.
//!
//! Daemons that have the same table form a *side*. The first daemon of each side sends the side's table, in as
//! many pieces as it takes, and everybody collects them in the one order of the ring. The exchange is complete
//! when the tables of sides that make up the whole configuration are there: at the same place in the order
//! everywhere.
//!
//! A piece, after the 8-byte prefix of [`crate::payload`]; all words are little-endian:
//!
//! | size | field |
//! |---|---|
//! | 8, 2, 4 | the configuration: epoch, representative, nonce |
//! | 16 | the daemons of the side: bit n is node n |
//! | 8, 2, 4 | where the side was parted from others, [`Part::parted`]: epoch, representative, nonce |
//! | 4 | number of this piece, from 0 |
//! | 1 | bit 0: it is the last |
//! | ... | entries |
//!
//! An entry: length of the group name (1), name, group id (3 x 4), flags (1; bit 0: changed), number of members
//! (4), then each member: node (2), length of the private name (1), private name. A group whose members do not
//! fit has an entry in each of several pieces.
//!
//! A state message belongs to one configuration. One that is delivered in another is dropped: its daemon has
//! started again there.
//!
//! spec: group-semantics 4

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use spread_wire::limits::GROUP_FIELD;
use spread_wire::{GroupId, GroupName, PrivateGroup, PrivateName};

use crate::mutation::{Rule, without};
use crate::payload::{PREFIX, state_prefix};
use crate::table::{MEMBERSHIPS_MAX, Table};
use crate::types::{ConfigId, Daemon, Nodes, RingService, Submission};

/// Size at which a piece is closed. Small enough that other daemons get their turn in between.
const PIECE_BYTES: usize = 32 << 10;
/// Bytes of the largest member: a piece never exceeds [`PIECE_BYTES`].
const MEMBER_BYTES_MAX: usize = 2 + 1 + spread_wire::limits::PRIVATE_NAME_MAX;
/// Bytes of the largest entry without members.
const ENTRY_BYTES_MAX: usize = 1 + GROUP_FIELD + GroupId::SIZE + 1 + 4;
/// Memberships that are taken in one exchange; more are dropped and counted. Eight full tables.
const RECEIVED_MAX: usize = 8 * MEMBERSHIPS_MAX;

const FLAG_LAST: u8 = 1;
const FLAG_CHANGED: u8 = 1;

/// A group as one side knew it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) id: GroupId,
    /// The last transitional configuration that ended views on this side.
    pub(crate) parted: ConfigId,
    pub(crate) changed: bool,
    pub(crate) members: Vec<(u16, GroupName)>,
}

/// The table of a side, as far as it has arrived.
#[derive(Debug)]
struct Side {
    daemons: Nodes,
    parted: ConfigId,
    pieces: u32,
    groups: BTreeMap<GroupName, Part>,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    config: ConfigId,
    members: Nodes,
    /// The side of this daemon.
    own: Nodes,
    /// Where it was parted from others.
    parted: ConfigId,
    /// Sides whose table is complete, in the order of completion.
    complete: Vec<Side>,
    /// By sender: sides whose table is arriving.
    arriving: BTreeMap<u16, Side>,
    /// What this daemon has to send, if it speaks for its side.
    outgoing: Option<Cursor>,
    memberships: usize,
}

/// The place in the own table up to which pieces were made. The table does not change during an exchange.
#[derive(Debug)]
struct Cursor {
    names: std::vec::IntoIter<GroupName>,
    /// A group that is partly sent, and how many of its members are.
    current: Option<(GroupName, usize)>,
    piece: u32,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Taken; tables are still missing.
    Taken,
    /// Taken, and with it everything is there.
    Complete,
    /// Of another configuration.
    Stale,
    /// Not understood in whole or in part.
    Malformed,
}

impl Exchange {
    /// The exchange that starts with the configuration `config`. `own` is the side of this daemon, whose table
    /// is `table`, parted from others in the transitional configuration `parted`.
    pub(crate) fn new(
        config: ConfigId,
        members: Nodes,
        own: Nodes,
        parted: ConfigId,
        me: u16,
        table: &Table,
    ) -> Self {
        let outgoing = (own.first() == Some(me)).then(|| Cursor {
            names: table.names(|_| true).into_iter(),
            current: None,
            piece: 0,
        });
        let (complete, arriving) = (Vec::new(), BTreeMap::new());
        Self { config, members, own, parted, complete, arriving, outgoing, memberships: 0 }
    }

    /// The next piece of the own table.
    pub(crate) fn poll_piece(&mut self, table: &Table, daemons: &[Daemon]) -> Option<Submission> {
        let cursor = self.outgoing.as_mut()?;
        let mut out = state_prefix(PIECE_BYTES);
        put_config(&mut out, self.config);
        out.put_u128_le(self.own.0);
        put_config(&mut out, self.parted);
        out.put_u32_le(cursor.piece);
        let flags_at = out.len();
        out.put_u8(0);
        cursor.fill(&mut out, table, daemons);
        cursor.piece += 1;
        if cursor.current.is_none() && cursor.names.len() == 0 {
            out[flags_at] = FLAG_LAST;
            self.outgoing = None;
        }
        Some(Submission { service: RingService::Agreed, head: out.freeze(), body: Bytes::new() })
    }

    /// A state message that the ring delivered from daemon `from`.
    pub(crate) fn receive(&mut self, from: u16, message: &[u8], daemons: &[Daemon]) -> Received {
        let mut input = Input(message.get(PREFIX..).unwrap_or_default());
        let Some((config, side, parted, piece, flags)) = input.piece_head() else {
            return Received::Malformed;
        };
        if config != self.config {
            return Received::Stale;
        }
        let covered = self.complete.iter().any(|s| s.daemons.contains(from));
        if !side.contains(from) || covered || side.and(self.members) != side {
            return Received::Malformed;
        }
        let entry = self.arriving.entry(from).or_insert_with(|| Side {
            daemons: side,
            parted,
            pieces: 0,
            groups: BTreeMap::new(),
        });
        if (entry.daemons, entry.parted, entry.pieces) != (side, parted, piece) {
            return Received::Malformed;
        }
        entry.pieces += 1;
        // This daemon has its own side's table already.
        let keep = side != self.own;
        let intact = input.entries(side, parted, daemons, |name, part| {
            self.memberships += part.members.len();
            if !keep {
                return true;
            }
            if self.memberships > RECEIVED_MAX {
                return false;
            }
            let known = entry.groups.entry(name).or_insert_with(|| Part { members: Vec::new(), ..part });
            known.members.extend_from_slice(&part.members);
            true
        });
        if flags & FLAG_LAST != 0
            && let Some(side) = self.arriving.remove(&from)
        {
            self.complete.push(side);
        }
        match (intact, self.is_complete()) {
            (_, true) => Received::Complete,
            (true, false) => Received::Taken,
            (false, false) => Received::Malformed,
        }
    }

    fn is_complete(&self) -> bool {
        if without(Rule::Tables) && !self.complete.is_empty() {
            return true;
        }
        self.complete.iter().fold(Nodes::EMPTY, |all, s| all.or(s.daemons)) == self.members
    }

    /// What the other sides know of each group, in byte order of the names.
    pub(crate) fn into_groups(self) -> BTreeMap<GroupName, Vec<Part>> {
        let mut groups: BTreeMap<GroupName, Vec<Part>> = BTreeMap::new();
        for side in self.complete.into_iter().filter(|s| s.daemons != self.own) {
            for (name, part) in side.groups.into_iter().filter(|(_, part)| !part.members.is_empty()) {
                groups.entry(name).or_default().push(part);
            }
        }
        groups
    }
}

impl Cursor {
    /// Appends entries until the piece is full or the table is at its end.
    fn fill(&mut self, out: &mut BytesMut, table: &Table, daemons: &[Daemon]) {
        while out.len() + ENTRY_BYTES_MAX + MEMBER_BYTES_MAX <= PIECE_BYTES {
            let Some((name, sent)) = self.current.take().or_else(|| self.names.next().map(|n| (n, 0))) else {
                return;
            };
            let Some(group) = table.get(&name) else { continue };
            put_name(out, name.as_bytes());
            out.put_slice(&group.id.encode(spread_wire::ByteOrder::Little));
            out.put_u8(if group.changed { FLAG_CHANGED } else { 0 });
            let count_at = out.len();
            out.put_u32_le(0);
            let mut count = 0u32;
            for member in group.members().iter().skip(sent) {
                if out.len() + MEMBER_BYTES_MAX > PIECE_BYTES {
                    self.current = Some((name, sent + count as usize));
                    break;
                }
                out.put_u16_le(member.node);
                put_name(out, private_name(&member.name, member.node, daemons));
                count += 1;
            }
            out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        }
    }
}

fn put_config(out: &mut BytesMut, id: ConfigId) {
    out.put_u64_le(id.epoch);
    out.put_u16_le(id.rep);
    out.put_u32_le(id.nonce);
}

/// Appends a length and that many bytes; names have at most 32.
fn put_name(out: &mut BytesMut, name: &[u8]) {
    out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.put_slice(name);
}

/// The part `name` of `#name#daemon`. Members have this form.
fn private_name<'a>(group: &'a GroupName, node: u16, daemons: &[Daemon]) -> &'a [u8] {
    let daemon_len = daemons.get(usize::from(node)).map_or(0, |d| d.name.as_bytes().len());
    let bytes = group.as_bytes();
    bytes.get(1..bytes.len().saturating_sub(daemon_len + 1)).unwrap_or_default()
}

/// Bytes of a state message that are still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let [len] = self.array()?;
        let (name, rest) = self.0.split_at_checked(usize::from(len))?;
        self.0 = rest;
        Some(name)
    }

    fn config(&mut self) -> Option<ConfigId> {
        Some(ConfigId {
            epoch: u64::from_le_bytes(self.array()?),
            rep: u16::from_le_bytes(self.array()?),
            nonce: u32::from_le_bytes(self.array()?),
        })
    }

    /// Configuration, side, where it was parted, number, flags.
    fn piece_head(&mut self) -> Option<(ConfigId, Nodes, ConfigId, u32, u8)> {
        let config = self.config()?;
        let side = Nodes(u128::from_le_bytes(self.array()?));
        let parted = self.config()?;
        let piece = u32::from_le_bytes(self.array()?);
        let [flags] = self.array()?;
        Some((config, side, parted, piece, flags))
    }

    /// Gives all entries to `take` until it refuses one. False if an entry was refused or not understood;
    /// what came before it was taken, and members that cannot be on this side were left out.
    fn entries(
        &mut self,
        side: Nodes,
        parted: ConfigId,
        daemons: &[Daemon],
        mut take: impl FnMut(GroupName, Part) -> bool,
    ) -> bool {
        let mut intact = true;
        while !self.0.is_empty() {
            let Some((name, part, all)) = self.entry(side, parted, daemons) else { return false };
            intact &= all;
            if !take(name, part) {
                return false;
            }
        }
        intact
    }

    fn entry(
        &mut self,
        side: Nodes,
        parted: ConfigId,
        daemons: &[Daemon],
    ) -> Option<(GroupName, Part, bool)> {
        let name = self.name()?;
        let mut field = [0; GROUP_FIELD];
        field.get_mut(..name.len())?.copy_from_slice(name);
        let id = GroupId::decode(self.array()?, spread_wire::ByteOrder::Little);
        let [flags] = self.array()?;
        let count = u32::from_le_bytes(self.array()?);
        let mut members = Vec::new();
        let mut all = true;
        // Each member takes bytes, so the loop is bounded by the message, whatever the count says.
        for _ in 0..count {
            let node = u16::from_le_bytes(self.array()?);
            let name = self.name()?;
            let daemon = daemons.get(usize::from(node)).filter(|_| side.contains(node));
            match (daemon, PrivateName::new(name)) {
                (Some(daemon), Ok(name)) => {
                    members.push((node, PrivateGroup::new(name, daemon.name).as_group()));
                }
                _ => all = false,
            }
        }
        let changed = flags & FLAG_CHANGED != 0;
        Some((GroupName::from_field(field), Part { id, parted, changed, members }, all))
    }
}
