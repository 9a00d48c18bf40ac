//! One engine under a microscope: a ring of real engines is formed, then the test plays all others by hand.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::api::{Event, Path};
use crate::config::RingConfig;
use crate::ring::Ring;
use crate::tests::net::{Net, ms};
use crate::types::{ConfId, Mid, Nanos, NodeId, Seq, Service};
use crate::wire::{
    Chunk, Commit, Content, Data, DataHead, Group, HopAck, Join, Kind, Packet, Request, Token,
};

pub(crate) struct Lab {
    pub(crate) ring: Ring,
    pub(crate) now: Nanos,
    pub(crate) mids: Vec<Mid>,
    join_no: u32,
    /// What the engine sent since it was asked last: kind of way, receivers, packet.
    pub(crate) out: Vec<(bool, Vec<u16>, Packet)>,
    pub(crate) events: Vec<Event>,
}

impl Lab {
    /// A formed ring of `n`, seen from node `me`.
    pub(crate) fn new(n: u16, me: usize) -> Self {
        Self::with(n, me, |_| {})
    }

    pub(crate) fn with(n: u16, me: usize, change: impl Fn(&mut RingConfig)) -> Self {
        let mut net = Net::with(n.into(), change);
        let all: Vec<u16> = (0..n).collect();
        net.settle(&all, ms(3000));
        net.run(ms(700));
        // A token that rests here would hide what a visit does.
        let mids = (0..usize::from(n)).map(|node| net.ring(node).me()).collect();
        let ring = net.rings[me].take().unwrap();
        let mut lab =
            Self { ring, now: net.now, mids, join_no: 1 << 20, out: Vec::new(), events: Vec::new() };
        lab.drain();
        lab.clear();
        lab
    }

    pub(crate) fn clear(&mut self) {
        self.out.clear();
        self.events.clear();
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.ring.poll_transmit() {
            let packet = Packet::check(&transmit.packet).unwrap();
            let to = transmit.to.iter().map(|node| node.0).collect();
            self.out.push((transmit.multicast, to, packet));
        }
        while let Some(event) = self.ring.poll_event() {
            self.events.push(event);
        }
        assert_eq!(self.ring.invariants(), Ok(()));
    }

    /// The body of a packet from `from`, delivered now.
    pub(crate) fn put(&mut self, from: u16, kind: Kind, write: impl FnOnce(&mut BytesMut)) {
        let packet = self.packet(from, kind, write);
        self.ring.handle_packet(self.now, Path::Unicast, NodeId(from), packet);
        self.drain();
    }

    pub(crate) fn packet(&self, from: u16, kind: Kind, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        let header = crate::wire::Header {
            kind,
            config_hash: u32::from_le_bytes([7; 4]),
            session: self.mids[usize::from(from)].session,
            counter: 0,
            sender: NodeId(from),
            key_id: 0,
            flags: 0,
        };
        let mut out = BytesMut::new();
        header.write(&mut out);
        write(&mut out);
        out.freeze()
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.ring.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.ring.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(crate) fn submit(&mut self, service: Service, body: &[u8]) {
        self.ring.submit(self.now, service, Bytes::copy_from_slice(body).into()).unwrap();
        self.drain();
    }

    /// A token of the present ring, newer than the last one.
    pub(crate) fn token(&self) -> Token {
        let conf = &self.ring.conf;
        Token {
            ring: conf.key,
            token_seq: conf.last_ts + u64::try_from(conf.len()).unwrap(),
            seq: conf.high,
            aru: conf.safe,
            safe: conf.safe,
            fcc: 0,
            backlog: 0,
            window: 100,
            credit_now: u16::MAX,
            credit_last: u16::MAX,
            aru_id: None,
            last_sender: NodeId(99),
            done_run: 9,
            idle: 0,
            requests: Default::default(),
        }
    }

    /// Hands in the token and returns it as it was sent on.
    pub(crate) fn visit(&mut self, from: u16, token: &Token) -> Token {
        self.out.clear();
        self.put(from, Kind::Token, |out| token.write(out));
        self.tokens().pop().expect("the token was sent on")
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        let token = |content: &Content| match content {
            Content::Token(token) => Some(token.as_ref().clone()),
            _ => None,
        };
        self.out.iter().filter_map(|(_, _, packet)| token(&packet.content)).collect()
    }

    /// A packet with one whole message.
    pub(crate) fn data(&mut self, from: u16, origin: u16, seq: Seq, service: Service, body: &[u8]) {
        let conf = &self.ring.conf;
        let head = self.head(conf.id, origin, seq, service);
        let data = chunk(head, service, body);
        self.put(from, Kind::Data, |out| out.extend_from_slice(data.body()));
    }

    pub(crate) fn head(&self, ring: ConfId, origin: u16, seq: Seq, service: Service) -> DataHead {
        DataHead {
            ring: ring.into(),
            seq,
            token_seq: 0,
            aru: 0,
            safe: 0,
            first_msg_no: 0,
            origin: NodeId(origin),
            chunks: 1,
            has_safe: service == Service::Safe,
        }
    }

    pub(crate) fn data_sent(&self) -> Vec<Data> {
        let data = |content: &Content| match content {
            Content::Data(data) => Some(data.clone()),
            _ => None,
        };
        self.out.iter().filter_map(|(_, _, packet)| data(&packet.content)).collect()
    }

    pub(crate) fn commits(&self) -> Vec<Commit> {
        let commit = |content: &Content| match content {
            Content::Commit(commit) => Some(commit.as_ref().clone()),
            _ => None,
        };
        self.out.iter().filter_map(|(_, _, packet)| commit(&packet.content)).collect()
    }

    pub(crate) fn hop_acks(&self) -> Vec<HopAck> {
        let ack = |content: &Content| match content {
            Content::HopAck(ack) => Some(*ack),
            _ => None,
        };
        self.out.iter().filter_map(|(_, _, packet)| ack(&packet.content)).collect()
    }

    /// A join of `from`, which hears everybody.
    pub(crate) fn join(&mut self, from: u16, proc: &[u16], fail: &[u16]) {
        let epoch = self.ring.epoch;
        self.join_with(from, proc, fail, |join| join.epoch = epoch);
    }

    pub(crate) fn join_with(
        &mut self,
        from: u16,
        proc: &[u16],
        fail: &[u16],
        change: impl FnOnce(&mut Join),
    ) {
        self.join_no += 1;
        let mids = |list: &[u16]| list.iter().map(|node| self.mids[usize::from(*node)]).collect();
        let mut join = Join {
            epoch: self.ring.epoch,
            seen: self.ring.seen,
            ring: self.ring.conf.id,
            join_no: self.join_no,
            rotations: 0,
            leaving: false,
            features: 0,
            hash: [7; 16],
            proc: mids(proc),
            fail: mids(fail),
            hear: self.mids.iter().map(|mid| crate::wire::Heard { mid: *mid, mtu: 1456, paths: 3 }).collect(),
        };
        change(&mut join);
        self.put(from, Kind::Join, |out| join.write(out));
    }

    /// A commit token of `members`, all from my ring, whose record holds `held` above `base`.
    pub(crate) fn commit(&self, members: &[u16], hop: u16, base: Seq, held: &[Seq]) -> Commit {
        let mut group = Group::new(self.ring.conf.id);
        group.raise_base(base);
        held.iter().for_each(|seq| assert!(group.insert(*seq)));
        let epoch = (self.ring.seen + 2) & !1;
        let member = |node: &u16| crate::wire::CommitMember { mid: self.mids[usize::from(*node)], group: 0 };
        Commit {
            ring: ConfId { epoch, rep: NodeId(members[0]), nonce: 77 },
            hop,
            done_run: 0,
            members: members.iter().map(member).collect(),
            groups: vec![group],
        }
    }

    pub(crate) fn put_commit(&mut self, from: u16, commit: &Commit) {
        self.put(from, Kind::Commit, |out| commit.write(out));
    }

    pub(crate) fn request(&self, requester: u16, start: Seq, len: u16, tries: u8) -> Request {
        Request { group: 0, tries, requester: NodeId(requester), start, len }
    }

    /// Delivered bodies, and `T` and `R` where a configuration begins.
    pub(crate) fn story(&self) -> Vec<String> {
        let line = |event: &Event| match event {
            Event::Deliver { body, .. } => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Event::Transitional { members, .. } => format!("T{}", members.len()),
            Event::Regular { members, .. } => format!("R{}", members.len()),
            Event::Writable => "W".to_owned(),
        };
        self.events.iter().map(line).collect()
    }
}

/// A data packet of one message.
pub(crate) fn chunk(head: DataHead, service: Service, body: &[u8]) -> Data {
    let mut out = BytesMut::new();
    head.write(&mut out);
    Chunk::write_head(&mut out, service, true, true, u16::try_from(body.len()).unwrap(), 0);
    out.extend_from_slice(body);
    Data::check(out.freeze()).unwrap()
}
