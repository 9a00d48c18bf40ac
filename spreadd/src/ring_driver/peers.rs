//! Who may speak: the checks of a datagram before its body is looked at.
//!
//! In this order: length, magic, version, configuration hash, source address belongs to the sender, session
//! known (a new one only in packets that introduce it, and only a few a second), verified, not a replay,
//! session usable. spec: ring-protocol 2.6
//!
//! A session is *known* once a packet of it was verified, and *usable* once the engine says so: when the
//! peer listed this process among those it hears. Recordings of earlier lives of a daemon can make sessions
//! known but not usable, so they can neither push out the true one nor bring data or tokens in.
//!
//! Difference from the design: a session that another one replaced is not refused for ever. A late packet
//! of a former life may have been taken for the newer one, and then the living daemon must get back; the
//! engine decides when. What protects against recordings is the replay window, whose end is remembered
//! when a session is forgotten.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use spread_ring::{Mid, Nanos, NodeId};

use super::header::{HEADER_LEN, Header, MAGIC, VERSION};
use super::replay::ReplayWindow;
use super::seal::Sealer;
use super::stats::DropReason;
use super::transport::Transport;

/// Sessions of one node with a replay window: the usable one and candidates.
const SESSIONS_MAX: usize = 5;

/// New sessions of a node that are taken in one [`NEW_PERIOD`].
const NEW_MAX: u32 = 4;

/// Packets of unknown sessions of a node that are verified in one [`NEW_PERIOD`]. Verifying one costs some
/// microseconds for its key, and a forger who knows the addresses can send many; the signs of life of a
/// restarted daemon must get through between them.
const TRIES_MAX: u32 = 100;

const NEW_PERIOD: Duration = Duration::from_secs(1);

/// Forgotten sessions per node of which the last counter is remembered.
const FORMER_MAX: usize = 1024;

struct Session {
    id: u64,
    usable: bool,
    window: ReplayWindow,
    last: Nanos,
}

#[derive(Default)]
struct Peer {
    sessions: Vec<Session>,
    /// Forgotten sessions and their highest counters.
    former: VecDeque<(u64, u64)>,
    period: Nanos,
    tries: u32,
    taken: u32,
}

/// A packet that passed all checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Header and body.
    pub(super) len: usize,
    /// Session of the sender.
    pub(super) session: u64,
    /// Whether the engine holds this session as usable. If not, ask it after handing the packet in.
    pub(super) usable: bool,
}

/// The sessions of all nodes.
pub(super) struct Peers {
    me: NodeId,
    hash: [u8; 4],
    peers: Vec<Peer>,
}

impl Peers {
    pub(super) fn new(me: NodeId, nodes: usize, hash: [u8; 4]) -> Self {
        Self { me, hash, peers: (0..nodes).map(|_| Peer::default()).collect() }
    }

    /// The number of this daemon.
    pub(super) fn me(&self) -> NodeId {
        self.me
    }

    /// Another configuration: other node numbers and another hash. What is known of a node goes with it, so that
    /// no recording of its packets passes.
    pub(super) fn renumber(&mut self, me: NodeId, nodes: usize, hash: [u8; 4], numbers: &[Option<NodeId>]) {
        let mut peers: Vec<Peer> = (0..nodes).map(|_| Peer::default()).collect();
        for (peer, number) in std::mem::take(&mut self.peers).into_iter().zip(numbers) {
            if let Some(slot) = number.and_then(|number| peers.get_mut(number.index())) {
                *slot = peer;
            }
        }
        *self = Self { me, hash, peers };
    }

    /// The node that a datagram's source address belongs to. Once per received run: all its segments have
    /// the same source.
    pub(super) fn source(
        &self,
        transport: &Transport,
        from: Option<SocketAddr>,
    ) -> Result<NodeId, DropReason> {
        let node = from.and_then(|from| transport.source(from)).ok_or(DropReason::Source)?;
        // A multicast of this daemon that came back.
        if node == self.me { Err(DropReason::Own) } else { Ok(node) }
    }

    /// Checks a datagram that came from an address of `source` and opens it in place.
    pub(super) fn admit(
        &mut self,
        now: Nanos,
        source: NodeId,
        packet: &mut [u8],
        sealer: &mut dyn Sealer,
    ) -> Result<Admitted, DropReason> {
        if packet.len() < HEADER_LEN + sealer.trailer_len() {
            return Err(DropReason::Short);
        }
        let header = Header::of(packet).ok_or(DropReason::Short)?;
        if header.magic() != MAGIC {
            return Err(DropReason::Magic);
        }
        if header.version() != VERSION {
            return Err(DropReason::Version);
        }
        if header.hash() != self.hash {
            return Err(DropReason::Hash);
        }
        if header.sender() != source {
            return Err(DropReason::Sender);
        }
        let (session, counter, introduces) = (header.session(), header.counter(), header.introduces());
        let peer = self.peers.get_mut(source.index()).ok_or(DropReason::Sender)?;
        let known = peer.sessions.iter().position(|s| s.id == session);
        if known.is_none() {
            peer.may_introduce(now, session, introduces)?;
        }
        let len = sealer.open(Mid { node: source, session }, packet)?;
        let entry = match known {
            Some(index) => &mut peer.sessions[index],
            None => peer.introduce(session)?,
        };
        if !entry.window.is_new(counter) {
            return Err(DropReason::Replay);
        }
        entry.window.mark(counter);
        entry.last = now;
        if !entry.usable && !introduces {
            return Err(DropReason::NotUsable);
        }
        Ok(Admitted { len, session, usable: entry.usable })
    }

    /// The engine holds this session as the usable one of the node, in place of any other.
    pub(super) fn confirm(&mut self, node: NodeId, session: u64) {
        let Some(peer) = self.peers.get_mut(node.index()) else { return };
        if peer.sessions.iter().any(|s| s.id == session) {
            for entry in &mut peer.sessions {
                entry.usable = entry.id == session;
            }
        }
    }
}

impl Peer {
    /// Whether a packet of an unknown session is worth the cost of verifying it.
    fn may_introduce(&mut self, now: Nanos, session: u64, introduces: bool) -> Result<(), DropReason> {
        if session == 0 || !introduces {
            return Err(DropReason::Session);
        }
        if now.since(self.period) >= NEW_PERIOD {
            self.period = now;
            self.tries = 0;
            self.taken = 0;
        }
        if self.tries >= TRIES_MAX || self.taken >= NEW_MAX {
            return Err(DropReason::SessionRate);
        }
        self.tries += 1;
        Ok(())
    }

    /// Adds a verified session, in place of the candidate that was silent the longest if there are too many.
    fn introduce(&mut self, session: u64) -> Result<&mut Session, DropReason> {
        self.taken += 1;
        if self.sessions.len() >= SESSIONS_MAX {
            let oldest = (0..self.sessions.len())
                .filter(|i| !self.sessions[*i].usable)
                .min_by_key(|i| self.sessions[*i].last)
                .ok_or(DropReason::SessionRate)?;
            let forgotten = self.sessions.swap_remove(oldest);
            if self.former.len() >= FORMER_MAX {
                self.former.pop_front();
            }
            self.former.push_back((forgotten.id, forgotten.window.highest()));
        }
        let window = match self.former.iter().position(|(id, _)| *id == session) {
            Some(index) => {
                let (_, highest) = self.former.remove(index).unwrap_or_default();
                ReplayWindow::after(highest)
            }
            None => ReplayWindow::after(0),
        };
        self.sessions.push(Session { id: session, usable: false, window, last: Nanos(0) });
        self.sessions.last_mut().ok_or(DropReason::SessionRate)
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::{keys, mid, plain, sealed};
    use super::super::seal::{Aead, Checksum, Protection};
    use super::super::transport::tests::network;
    use super::*;

    const DATA: u8 = 1;
    const PRESENCE: u8 = 8;
    const ALICE: NodeId = NodeId(0);

    struct Bob {
        peers: Peers,
        sealer: Box<dyn Sealer>,
    }

    impl Bob {
        fn new() -> Self {
            let sealer = Aead::new(b"c", mid(1, 50), keys("1 HEX active"), Protection::Sealed);
            Self { peers: Peers::new(NodeId(1), 3, [1, 2, 3, 4]), sealer: Box::new(sealer) }
        }

        fn admit(&mut self, ms: u64, packet: &[u8]) -> Result<bool, DropReason> {
            let now = Nanos(ms * 1_000_000);
            self.peers.admit(now, ALICE, &mut packet.to_vec(), &mut *self.sealer).map(|a| a.usable)
        }
    }

    struct Alice {
        session: u64,
        sealer: Aead,
    }

    impl Alice {
        fn new(session: u64) -> Self {
            let sealer = Aead::new(b"c", mid(0, session), keys("1 HEX active"), Protection::Sealed);
            Self { session, sealer }
        }

        fn send(&mut self, packet_type: u8) -> Vec<u8> {
            sealed(&mut self.sealer, &plain(mid(0, self.session), packet_type, b"body"))
        }
    }

    #[test]
    fn the_cheap_checks_come_first_and_have_names() {
        let mut bob = Bob::new();
        let good = Alice::new(7).send(PRESENCE);
        let with = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            packet
        };
        assert_eq!(bob.admit(0, &good[..43]), Err(DropReason::Short));
        assert_eq!(bob.admit(0, &with(0, 0x80)), Err(DropReason::Magic));
        assert_eq!(bob.admit(0, &with(2, 2)), Err(DropReason::Version));
        assert_eq!(bob.admit(0, &with(4, 9)), Err(DropReason::Hash));
        assert_eq!(bob.admit(0, &with(24, 2)), Err(DropReason::Sender));
        assert_eq!(bob.admit(0, &with(3, DATA)), Err(DropReason::Session));
        assert_eq!(bob.admit(0, &with(30, 99)), Err(DropReason::Tag));
        assert_eq!(bob.admit(0, &good), Ok(false));
    }

    #[test]
    fn own_and_foreign_addresses_are_told_apart() {
        let transport = Transport::new(&network(3, None), NodeId(1)).unwrap();
        let peers = Peers::new(NodeId(1), 3, [0; 4]);
        let source = |text: &str| peers.source(&transport, Some(text.parse().unwrap()));
        assert_eq!(source("127.0.0.1:4804"), Ok(NodeId(0)));
        assert_eq!(source("127.0.0.2:4803"), Err(DropReason::Own));
        assert_eq!(source("127.0.0.1:9"), Err(DropReason::Source));
        assert_eq!(peers.source(&transport, None), Err(DropReason::Source));
    }

    #[test]
    fn data_pass_only_after_the_engine_confirmed_the_session() {
        let (mut bob, mut alice) = (Bob::new(), Alice::new(7));
        assert_eq!(bob.admit(0, &alice.send(DATA)), Err(DropReason::Session));
        assert_eq!(bob.admit(0, &alice.send(PRESENCE)), Ok(false));
        assert_eq!(bob.admit(0, &alice.send(DATA)), Err(DropReason::NotUsable));
        bob.peers.confirm(ALICE, 7);
        assert_eq!(bob.admit(0, &alice.send(DATA)), Ok(true));
    }

    #[test]
    fn a_packet_passes_once() {
        let (mut bob, mut alice) = (Bob::new(), Alice::new(7));
        let presence = alice.send(PRESENCE);
        assert_eq!(bob.admit(0, &presence), Ok(false));
        assert_eq!(bob.admit(0, &presence), Err(DropReason::Replay));
        bob.peers.confirm(ALICE, 7);
        let packets: Vec<_> = (0..100).map(|_| alice.send(DATA)).collect();
        for packet in packets.iter().rev() {
            assert_eq!(bob.admit(0, packet), Ok(true));
        }
        for packet in &packets {
            assert_eq!(bob.admit(0, packet), Err(DropReason::Replay));
        }
    }

    #[test]
    fn a_forged_counter_does_not_move_the_window() {
        let (mut bob, mut alice) = (Bob::new(), Alice::new(7));
        assert_eq!(bob.admit(0, &alice.send(PRESENCE)), Ok(false));
        let mut forged = alice.send(PRESENCE);
        forged[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(bob.admit(0, &forged), Err(DropReason::Tag));
        assert_eq!(bob.admit(0, &alice.send(PRESENCE)), Ok(false));
    }

    #[test]
    fn without_a_key_the_window_holds_too() {
        let mut sealer = Checksum::default();
        let mut peers = Peers::new(NodeId(1), 3, [1, 2, 3, 4]);
        let mut packet = sealed(&mut sealer, &plain(mid(0, 7), PRESENCE, b"body"));
        let mut admit =
            |packet: &mut [u8]| peers.admit(Nanos(0), ALICE, packet, &mut Checksum::default()).map(|a| a.len);
        assert_eq!(admit(&mut packet), Ok(HEADER_LEN + 4));
        assert_eq!(admit(&mut packet), Err(DropReason::Replay));
        packet[30] ^= 1;
        assert_eq!(admit(&mut packet), Err(DropReason::Checksum));
    }

    #[test]
    fn a_recording_of_an_earlier_life_does_not_push_out_the_true_session() {
        let mut bob = Bob::new();
        let mut alice = Alice::new(7);
        bob.admit(0, &alice.send(PRESENCE)).unwrap();
        bob.peers.confirm(ALICE, 7);
        // More recorded sessions than there is room for, as fast as they are looked at.
        for i in 0..40 {
            let ms = 2000 + i * 300;
            let _ = bob.admit(ms, &Alice::new(100 + i).send(PRESENCE));
            assert_eq!(bob.admit(ms, &alice.send(DATA)), Ok(true));
        }
        assert!(bob.peers.peers[0].sessions.len() <= SESSIONS_MAX);
    }

    #[test]
    fn a_replaced_session_is_heard_but_brings_no_data() {
        let mut bob = Bob::new();
        let (mut first, mut second) = (Alice::new(7), Alice::new(8));
        let recorded = first.send(PRESENCE);
        bob.admit(0, &recorded).unwrap();
        bob.peers.confirm(ALICE, 7);
        bob.admit(0, &second.send(PRESENCE)).unwrap();
        assert_eq!(bob.admit(0, &first.send(DATA)), Ok(true));
        bob.peers.confirm(ALICE, 8);
        assert_eq!(bob.admit(5000, &recorded), Err(DropReason::Replay));
        assert_eq!(bob.admit(5000, &first.send(DATA)), Err(DropReason::NotUsable));
        assert_eq!(bob.admit(5000, &second.send(DATA)), Ok(true));
        // The engine may find that it was the living one after all.
        assert_eq!(bob.admit(5000, &first.send(PRESENCE)), Ok(false));
        bob.peers.confirm(ALICE, 7);
        assert_eq!(bob.admit(5000, &first.send(DATA)), Ok(true));
        assert_eq!(bob.admit(5000, &second.send(DATA)), Err(DropReason::NotUsable));
    }

    #[test]
    fn a_recording_of_a_forgotten_session_stays_a_replay() {
        let mut bob = Bob::new();
        let mut first = Alice::new(7);
        let recorded: Vec<_> = (0..5).map(|_| first.send(PRESENCE)).collect();
        for packet in &recorded[..4] {
            bob.admit(0, packet).unwrap();
        }
        for other in 0..10 {
            bob.admit(1000 + other * 500, &Alice::new(100 + other).send(PRESENCE)).unwrap();
        }
        assert!(bob.peers.peers[0].sessions.iter().all(|s| s.id != 7));
        for packet in &recorded[..4] {
            assert_eq!(bob.admit(9000, packet), Err(DropReason::Replay));
        }
        assert_eq!(bob.admit(9000, &recorded[4]), Ok(false));
    }

    #[test]
    fn forged_sessions_are_tried_a_hundred_times_a_second() {
        let mut bob = Bob::new();
        let mut forged = Alice::new(7).send(PRESENCE);
        forged[40] ^= 1;
        for session in 0..200u64 {
            forged[8..16].copy_from_slice(&(session + 1).to_le_bytes());
            let expected = if session < 100 { DropReason::Tag } else { DropReason::SessionRate };
            assert_eq!(bob.admit(5000, &forged), Err(expected));
        }
        assert_eq!(bob.admit(5999, &Alice::new(9).send(PRESENCE)), Err(DropReason::SessionRate));
        assert_eq!(bob.admit(6000, &Alice::new(9).send(PRESENCE)), Ok(false));
    }

    #[test]
    fn four_sessions_a_second_are_taken() {
        let mut bob = Bob::new();
        for session in 1..=10 {
            let expected = if session <= 4 { Ok(false) } else { Err(DropReason::SessionRate) };
            assert_eq!(bob.admit(5000, &Alice::new(session).send(PRESENCE)), expected);
        }
    }

    proptest::proptest! {
        /// Whatever the bytes, nothing passes and nothing breaks, and the true sender still gets through.
        #[test]
        fn nothing_forged_passes(
            rest in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200),
            prefix in 0usize..28,
            kind in 0u8..12,
        ) {
            let (mut bob, mut alice) = (Bob::new(), Alice::new(7));
            bob.admit(0, &alice.send(PRESENCE)).unwrap();
            let mut packet = alice.send(kind);
            packet.truncate(prefix);
            packet.extend(&rest);
            proptest::prop_assert!(bob.admit(1, &packet).is_err());
            proptest::prop_assert!(Checksum::default().open(mid(0, 7), &mut packet).is_err());
            proptest::prop_assert_eq!(bob.admit(2, &alice.send(PRESENCE)), Ok(false));
        }
    }

    #[test]
    fn remembered_sessions_are_bounded() {
        let mut bob = Bob::new();
        for session in 1..=1100u64 {
            bob.admit(session * 1000, &Alice::new(session).send(PRESENCE)).unwrap();
            bob.peers.confirm(ALICE, session);
        }
        assert_eq!(bob.peers.peers[0].former.len(), FORMER_MAX);
        assert_eq!(bob.peers.peers[0].sessions.len(), SESSIONS_MAX);
    }
}
