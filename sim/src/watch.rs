//! What every packet on the wire must satisfy, whoever sends it.

use std::hash::Hasher as _;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use spread_ring::wire::{Content, FLAG_RETRANSMISSION, HEADER_LEN, Heard, Packet, RingKey};
use spread_ring::{Mid, NodeId, NodeSet, Seq};

use super::oracle::Violation;
use super::plan::Moment;

/// Sees all packets of a history as they are sent.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Members of the rings that were installed.
    rings: FxHashMap<RingKey, NodeSet>,
    /// Packets of each ring: origin and a hash of the chunks. A number is given once (I13).
    numbers: FxHashMap<(RingKey, Seq), (NodeId, u64)>,
    /// Tokens of each ring: who forwarded it and a hash of it. One member at a time has the token (I5).
    tokens: FxHashMap<(RingKey, u64), (Mid, u64)>,
    /// Rings for which a token was sent.
    seen: FxHashSet<RingKey>,
}

impl Watch {
    /// A ring was installed by somebody.
    pub(super) fn installed(&mut self, ring: RingKey, members: NodeSet) {
        self.rings.insert(ring, members);
    }

    /// Number of rings for which a token was sent, installed or not.
    pub(super) fn rings_tried(&self) -> usize {
        self.seen.len()
    }

    /// Checks a packet of `sender` and says what can be struck at it.
    pub(super) fn packet(
        &mut self,
        sender: Mid,
        to: NodeSet,
        packet: &Bytes,
    ) -> Result<Option<Moment>, Violation> {
        let bad = |what: String| Violation { promise: "WIRE", what: format!("{sender:?} sends {what}") };
        let checked = Packet::check(packet).map_err(|err| bad(format!("a packet that is refused: {err}")))?;
        let header = checked.header;
        if header.sender != sender.node || header.session != sender.session || to.contains(sender.node) {
            return Err(bad(format!("{header:?} to {to:?}")));
        }
        Ok(match checked.content {
            Content::Data(data) => {
                let head = *data.head();
                let value = (head.origin, hash(data.chunk_bytes()));
                let known = *self.numbers.entry((head.ring, head.seq)).or_insert(value);
                if known != value {
                    return Err(bad(format!("another packet {} of {:?}", head.seq, head.ring)));
                }
                if head.aru < head.safe {
                    return Err(bad(format!("{head:?}")));
                }
                let again = header.flags & FLAG_RETRANSMISSION != 0;
                if !again && head.origin != sender.node {
                    return Err(bad(format!("a packet of {} that is not marked as sent again", head.origin)));
                }
                Some(if again { Moment::Retransmission } else { Moment::Data })
            }
            Content::Token(token) => {
                self.seen.insert(token.ring);
                let value = (sender, hash(&packet[HEADER_LEN..]));
                let known = *self.tokens.entry((token.ring, token.token_seq)).or_insert(value);
                if known != value {
                    let what = format!(
                        "token {} of {:?}, another was sent by {:?}",
                        token.token_seq, token.ring, known.0
                    );
                    return Err(bad(what));
                }
                match self.rings.get(&token.ring) {
                    None => Some(Moment::RecoveryToken),
                    Some(members) if to != NodeSet::one(successor(*members, sender.node)) => {
                        Some(Moment::Jump)
                    }
                    Some(_) => Some(Moment::Token),
                }
            }
            Content::TokenRequest(_) => Some(Moment::TokenRequest),
            Content::Join(_) => Some(Moment::Join),
            Content::Commit(commit) => {
                let second = usize::from(commit.hop) >= commit.members.len();
                Some(if second { Moment::CommitPass2 } else { Moment::CommitPass1 })
            }
            Content::HopAck(_) => Some(Moment::HopAck),
            Content::Ack(_) | Content::Presence(_) | Content::Fragment(_) => None,
        })
    }
}

/// A packet in short, for the trace.
pub(super) fn describe(packet: &Bytes) -> String {
    let Ok(Packet { header, content }) = Packet::check(packet) else { return "garbage".to_owned() };
    let mids = |list: &[Mid]| {
        let show: Vec<String> =
            list.iter().map(|m| format!("{}:{:04x}", m.node.0, m.session >> 48)).collect();
        show.join(" ")
    };
    let hear = |list: &[Heard]| mids(&list.iter().map(|h| h.mid).collect::<Vec<_>>());
    match content {
        Content::Data(data) => {
            let h = data.head();
            let again = if header.flags & FLAG_RETRANSMISSION != 0 { " again" } else { "" };
            format!("data{again} {} of {} ts={} aru={} safe={}", h.seq, h.origin, h.token_seq, h.aru, h.safe)
        }
        Content::Token(t) => format!(
            "token {:08x} ts={} seq={} aru={} safe={} done={} idle={} requests={:?}",
            t.ring.nonce,
            t.token_seq,
            t.seq,
            t.aru,
            t.safe,
            t.done_run,
            t.idle,
            t.requests
                .iter()
                .map(|r| (r.group, r.requester.0, r.start, r.end(), r.tries))
                .collect::<Vec<_>>()
        ),
        Content::TokenRequest(r) => format!("token request ts={}", r.token_seq),
        Content::Ack(a) => format!("ack aru={} safe={}", a.aru, a.safe),
        Content::Join(j) => format!(
            "join {} epoch={} rotations={}{} proc=[{}] fail=[{}] hear=[{}]",
            j.join_no,
            j.epoch,
            j.rotations,
            if j.leaving { " leaving" } else { "" },
            mids(&j.proc),
            mids(&j.fail),
            hear(&j.hear)
        ),
        Content::Commit(c) => {
            let members: Vec<Mid> = c.members.iter().map(|m| m.mid).collect();
            let groups: Vec<_> = c.groups.iter().map(|g| (g.ring.nonce, g.base(), g.high())).collect();
            format!("commit {} hop={} done={} [{}] {groups:x?}", c.ring, c.hop, c.done_run, mids(&members))
        }
        Content::HopAck(h) => format!("hop ack {} {:?}", h.hop, h.status),
        Content::Presence(p) => format!(
            "presence {:?} {} hear=[{}]",
            p.state,
            p.ring.map_or_else(String::new, |ring| format!("{ring} {:?}", p.members)),
            hear(&p.hear)
        ),
        Content::Fragment(f) => format!("fragment {} of {}", f.index, f.count),
    }
}

fn successor(members: NodeSet, node: NodeId) -> NodeId {
    members.iter().find(|m| *m > node).or_else(|| members.first()).unwrap_or(node)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}
