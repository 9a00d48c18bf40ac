//! The loop with a scripted engine and real sockets on loopback addresses of their own.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use crossbeam_channel::bounded;
use spread_ring::{Class, ConfId, NodeSet};

use super::super::batch::segments;
use super::super::header::HEADER_LEN;
use super::super::seal::tests::{keys, mid, plain, sealed};
use super::super::seal::{Aead, Checksum, Protection};
use super::super::sockets::SocketOptions;
use super::super::stats::DropReason;
use super::super::sys::{RECV_BATCH, wait_writable};
use super::super::transport::{Network, NodeAddr, SegmentAddr};
use super::*;

const HASH: [u8; 4] = [1, 2, 3, 4];
const DATA: u8 = 1;
const TOKEN: u8 = 2;
const PRESENCE: u8 = 8;

/// What the engine was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Packet(u8, Path, Vec<u8>),
    Timeout,
    Submit(Vec<u8>),
}

#[derive(Default)]
struct Script {
    /// Deliver each submission at once, as a ring of one member does.
    alone: bool,
    told: Vec<Told>,
    deadline: Option<Nanos>,
    room: usize,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    usable: Option<u64>,
    gone: bool,
    /// Emit this when a token comes.
    on_token: Vec<Transmit>,
}

impl Engine for Script {
    type Stats = ();
    fn handle_packet(&mut self, _now: Nanos, path: Path, _from: NodeId, plain: Bytes) {
        if plain[3] == TOKEN {
            self.transmits.extend(self.on_token.drain(..));
        }
        self.told.push(Told::Packet(plain[3], path, plain[HEADER_LEN..].to_vec()));
    }
    fn handle_timeout(&mut self, _now: Nanos) {
        self.deadline = None;
        self.told.push(Told::Timeout);
    }
    fn submit(&mut self, _now: Nanos, _service: Service, body: Body) -> Result<(), SubmitError> {
        if self.room == 0 {
            return Err(SubmitError::Full);
        }
        self.room -= 1;
        if self.alone {
            self.events.push_back(Event::Writable);
        }
        self.told.push(Told::Submit(body.to_bytes().to_vec()));
        Ok(())
    }
    fn leave(&mut self, _now: Nanos) {
        self.gone = true;
    }
    fn is_gone(&self) -> bool {
        self.gone
    }
    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    fn poll_timeout(&self) -> Option<Nanos> {
        self.deadline
    }
    fn poll_trace(&mut self) -> Option<String> {
        None
    }
    fn is_usable(&self, mid: Mid) -> bool {
        self.usable == Some(mid.session)
    }
    fn stats(&self) {}
}

#[derive(Default)]
struct Top {
    /// Answers to give, one for each event.
    echo: usize,
    waiting: VecDeque<Vec<u8>>,
    events: Vec<Event>,
    flushes: usize,
}

impl Upper for Top {
    fn handle_event(&mut self, event: Event) {
        self.events.push(event);
        if self.echo > 0 {
            self.echo -= 1;
            self.waiting.push_back(b"echo".to_vec());
        }
    }
    fn next_submission(&mut self) -> Option<(Service, Body)> {
        Some((Service::Agreed, Bytes::from(self.waiting.pop_front()?).into()))
    }
    fn flush(&mut self) {
        self.flushes += 1;
    }
    fn handle_foreign(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        _view: &dyn Fn() -> Option<View>,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        Some((from, datagram.iter().rev().copied().collect()))
    }
}

/// Two daemons: the driver under test is node 0, `peer` has the sockets of node 1.
struct Bench {
    driver: Driver<Script, Top>,
    commands: Sender<Command<(), Top>>,
    waker: Waker,
    peer: Sockets,
    peer_sealer: Box<dyn Sealer>,
    network: Network,
}

const PEER: u64 = 99;

/// Every test has loopback addresses of its own, so tests run side by side.
fn network(multicast: bool) -> Network {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let test = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let third = u8::try_from(process % 200 + 1).unwrap();
    let second = u8::try_from(process / 200 % 200 + 1).unwrap();
    let last = u8::try_from(test * 2 + 1).unwrap();
    let node =
        |last: u8| NodeAddr { segment: 0, addrs: vec![IpAddr::from([127, second, third, last])], port: 4803 };
    let group = SocketAddr::from(([239, second, third, last], 4803));
    Network {
        nodes: vec![node(last), node(last + 1)],
        segments: vec![SegmentAddr { multicast: multicast.then_some(group) }],
    }
}

impl Bench {
    fn with(network: Network, sealer: Box<dyn Sealer>, peer_sealer: Box<dyn Sealer>) -> Self {
        let options = SocketOptions::default();
        let (commands, inbox) = bounded(COMMANDS);
        let waker = Waker::new().unwrap();
        let me = NodeId(0);
        let driver = Driver::new(Parts {
            engine: Script { usable: Some(PEER), ..Script::default() },
            upper: Top::default(),
            sealer,
            peers: Peers::new(me, 2, HASH),
            transport: Transport::new(&network, me).unwrap(),
            sockets: Sockets::open(&network, me, &options).unwrap(),
            waker: waker.clone(),
            inbox,
            clock: Clock(Instant::now()),
            pause_min: Duration::from_millis(100),
            spin: Duration::ZERO,
            offload: true,
        });
        let peer = Sockets::open(&network, NodeId(1), &options).unwrap();
        let mut bench = Self { driver, commands, waker, peer, peer_sealer, network };
        // The peer introduces itself.
        bench.send(Class::Data, PRESENCE, b"hello");
        bench.turn_until(|told| told.len() == 1);
        bench.driver.engine.told.clear();
        bench
    }

    fn new() -> Self {
        Self::with(network(false), Box::new(Checksum::default()), Box::new(Checksum::default()))
    }

    /// The peer sends a packet.
    fn send(&mut self, class: Class, kind: u8, body: &[u8]) {
        let packet = sealed(&mut *self.peer_sealer, &plain(mid(1, PEER), kind, body));
        self.send_raw(class, &packet);
    }

    fn send_raw(&mut self, class: Class, packet: &[u8]) {
        let addr = &self.network.nodes[0];
        let port = addr.port + u16::from(class == Class::Token);
        let to = SocketAddr::new(addr.addrs[0], port).into();
        let segment_len = u16::try_from(packet.len()).unwrap();
        let message = super::super::sys::Outgoing { to: &to, bytes: packet, segment_len };
        assert_eq!(super::super::sys::send_batch(self.peer.output(class), &[message]).unwrap(), 1);
    }

    fn turn(&mut self) {
        let now = self.driver.clock.now();
        let now = self.driver.wait(now);
        self.driver.turn(now);
    }

    fn turn_until(&mut self, done: impl Fn(&[Told]) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done(&self.driver.engine.told) {
            assert!(Instant::now() < end, "the engine was told {:?}", self.driver.engine.told);
            let now = self.driver.clock.now();
            self.driver.engine.deadline.get_or_insert(now + Duration::from_millis(20));
            self.turn();
            self.driver.engine.told.retain(|told| *told != Told::Timeout);
        }
    }

    /// What the peer receives on a socket, without trailer, opened.
    fn receive(&mut self, class: Class, count: usize, from: Mid) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut intake = Intake::new();
        let end = Instant::now() + Duration::from_secs(10);
        while out.len() < count {
            assert!(Instant::now() < end, "{out:?}");
            let Ok(runs) = intake.read(self.peer.output(class), RECV_BATCH) else {
                wait_writable(self.peer.output(class), Duration::from_millis(1));
                continue;
            };
            for run in 0..runs {
                let (received, data) = intake.run(run).unwrap();
                for range in segments(received.len, received.segment_len) {
                    let packet = &mut data[range];
                    let len = self.peer_sealer.open(from, packet).unwrap();
                    out.push(packet[HEADER_LEN..len].to_vec());
                }
            }
        }
        out
    }
}

fn packet(kind: u8, body: &[u8]) -> Told {
    Told::Packet(kind, Path::Unicast, body.to_vec())
}

fn transmit(class: Class, kind: u8, body: &[u8]) -> Transmit {
    let packet = plain(mid(0, 7), kind, body).into();
    Transmit { to: NodeSet::one(NodeId(1)), multicast: false, class, packet }
}

#[test]
fn input_comes_before_timers() {
    let mut bench = Bench::new();
    for i in 0..100 {
        bench.send(Class::Data, DATA, &[i; 10]);
    }
    // As after a pause: the deadline is long past, and everything is waiting in the sockets.
    bench.driver.engine.deadline = Some(Nanos(1));
    bench.turn();
    let expected: Vec<_> = (0..100).map(|i| packet(DATA, &[i; 10])).chain([Told::Timeout]).collect();
    assert_eq!(bench.driver.engine.told, expected);
}

#[test]
fn data_come_before_the_token_that_was_sent_behind_them() {
    let mut bench = Bench::new();
    for i in 0..50 {
        bench.send(Class::Data, DATA, &[i; 1000]);
    }
    bench.send(Class::Token, TOKEN, b"token");
    bench.turn();
    let expected: Vec<_> =
        (0..50).map(|i| packet(DATA, &[i; 1000])).chain([packet(TOKEN, b"token")]).collect();
    assert_eq!(bench.driver.engine.told, expected);
}

#[test]
fn submissions_are_there_when_the_token_is_handed_in() {
    let mut bench = Bench::new();
    bench.driver.engine.room = 10;
    bench.driver.upper.waiting.push_back(b"m".to_vec());
    bench.waker.wake();
    bench.send(Class::Token, TOKEN, b"token");
    bench.turn();
    assert_eq!(bench.driver.engine.told, [Told::Submit(b"m".to_vec()), packet(TOKEN, b"token")]);
}

#[test]
fn packets_leave_in_the_order_of_emission() {
    let mut bench = Bench::new();
    let data = |range: Range<u8>| range.map(|i| transmit(Class::Data, DATA, &[i; 1300]));
    bench.driver.engine.on_token =
        data(0..20).chain([transmit(Class::Token, TOKEN, b"passed on")]).chain(data(20..40)).collect();
    bench.send(Class::Token, TOKEN, b"token");
    bench.turn();
    let from = mid(0, 7);
    let got = bench.receive(Class::Data, 40, from);
    assert_eq!(got, (0..40).map(|i| vec![i; 1300]).collect::<Vec<_>>());
    assert_eq!(bench.receive(Class::Token, 1, from), [b"passed on"]);
    // The counters tell the order across the sockets: the token is the 21st packet.
    assert_eq!(bench.driver.stats.packets_sent, 41);
    assert_eq!(bench.driver.stats.offload_sends, 2);
}

#[test]
fn a_full_engine_holds_submissions_up_in_order() {
    let mut bench = Bench::new();
    bench.driver.upper.waiting.extend((0..6).map(|i| vec![i]));
    bench.driver.engine.room = 2;
    bench.waker.wake();
    bench.turn();
    let submitted = |range: Range<u8>| range.map(|i| Told::Submit(vec![i])).collect::<Vec<_>>();
    assert_eq!(bench.driver.engine.told, submitted(0..2));
    assert_eq!(bench.driver.stats.submit_full, 1);
    // Nothing is asked for until there is room, and one more wake-up changes nothing.
    bench.driver.engine.room = 100;
    bench.waker.wake();
    bench.turn();
    assert_eq!(bench.driver.upper.waiting.len(), 3);
    bench.driver.engine.events.push_back(Event::Writable);
    bench.waker.wake();
    bench.turn();
    assert_eq!(bench.driver.engine.told, submitted(0..6));
}

#[test]
fn more_submissions_than_one_turn_takes_need_no_second_wake_up() {
    let mut bench = Bench::new();
    bench.driver.upper.waiting.extend((0..2000u32).map(|i| i.to_le_bytes().to_vec()));
    bench.driver.engine.room = 5000;
    bench.waker.wake();
    bench.turn_until(|told| told.len() == 2000);
    assert!(bench.driver.stats.wakeups < 20);
}

/// A layer above that answers every event with a submission keeps the loop busy; the loop must neither
/// stay in one turn for ever nor sleep on what is left.
#[test]
fn events_left_at_the_end_of_a_turn_are_not_slept_on() {
    let mut bench = Bench::new();
    bench.driver.engine.alone = true;
    bench.driver.engine.room = 1000;
    bench.driver.upper.echo = 20;
    bench.driver.engine.events.push_back(Event::Writable);
    bench.driver.engine.deadline = Some(bench.driver.clock.now());
    bench.turn();
    assert_eq!(bench.driver.upper.events.len(), TURNS);
    bench.driver.engine.deadline = None;
    let begin = Instant::now();
    while bench.driver.upper.events.len() < 21 {
        bench.turn();
    }
    assert!(begin.elapsed() < WAIT_MAX / 2, "{:?}", begin.elapsed());
}

#[test]
fn sealed_packets_pass_and_forged_ones_do_not_disturb() {
    let text = "1 HEX active\n2 HEX2";
    let aead = |node, session, text: &str| {
        Box::new(Aead::new(b"c", mid(node, session), keys(text), Protection::Sealed))
    };
    let mut bench = Bench::with(network(false), aead(0, 7, text), aead(1, PEER, text));
    let good = sealed(&mut *bench.peer_sealer, &plain(mid(1, PEER), DATA, b"good"));
    let mut forged = good.clone();
    forged[16..24].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
    let mut wrong_key = Aead::new(b"c", mid(1, PEER), keys("1 HEX2 active"), Protection::Sealed);
    let wrong_key = sealed(&mut wrong_key, &plain(mid(1, PEER), DATA, b"wrong"));
    let clear = sealed(&mut Checksum::default(), &plain(mid(1, PEER), DATA, &[0; 30]));
    for raw in [&forged, &wrong_key, &clear, &good, &good] {
        bench.send_raw(Class::Data, raw);
    }
    bench.send(Class::Data, DATA, b"next");
    bench.turn_until(|told| told.len() >= 2);
    assert_eq!(bench.driver.engine.told, [packet(DATA, b"good"), packet(DATA, b"next")]);
    let drops = [DropReason::Tag, DropReason::Key, DropReason::Replay].map(|r| bench.driver.stats.dropped(r));
    assert_eq!(drops, [2, 1, 1]);

    // The driver changes the key; the peer knows both.
    bench.commands.send(Command::Keys(keys("1 HEX\n2 HEX2 active"))).unwrap();
    bench.driver.engine.transmits.push_back(transmit(Class::Data, DATA, b"under key 2"));
    bench.waker.wake();
    bench.turn();
    assert_eq!(bench.receive(Class::Data, 1, mid(0, 7)), [b"under key 2"]);
    bench.send(Class::Data, DATA, b"under key 1");
    bench.turn_until(|told| told.len() >= 3);
}

#[test]
fn multicasts_reach_daemons_of_this_host_and_come_back_to_nobody() {
    let mut bench = Bench::with(network(true), Box::new(Checksum::default()), Box::new(Checksum::default()));
    for i in 0..30 {
        bench
            .driver
            .engine
            .transmits
            .push_back(Transmit { multicast: true, ..transmit(Class::Data, DATA, &[i; 1000]) });
    }
    bench.driver.engine.deadline = Some(Nanos(1));
    bench.turn();
    let from_multicast = bench.peer.inputs.iter().position(|i| i.path == Path::Multicast).unwrap();
    bench.peer.inputs.swap(0, from_multicast);
    assert_eq!(bench.receive(Class::Data, 30, mid(0, 7)), (0..30).map(|i| vec![i; 1000]).collect::<Vec<_>>());
    bench.peer.inputs.swap(0, from_multicast);
    bench.driver.engine.told.clear();
    // The peer's multicast is known as such; the driver's own are dropped.
    let group = bench.network.segments[0].multicast.unwrap().into();
    let packet = sealed(&mut *bench.peer_sealer, &plain(mid(1, PEER), DATA, b"to all"));
    let message = super::super::sys::Outgoing { to: &group, bytes: &packet, segment_len: 1000 };
    super::super::sys::send_batch(bench.peer.output(Class::Data), &[message]).unwrap();
    bench.turn_until(|told| !told.is_empty());
    assert_eq!(bench.driver.engine.told, [Told::Packet(DATA, Path::Multicast, b"to all".to_vec())]);
    assert_eq!(bench.driver.stats.dropped(DropReason::Own), 30);
}

#[test]
fn monitor_packets_are_answered_and_rubbish_is_counted() {
    let mut bench = Bench::new();
    bench.send_raw(Class::Data, &[0x80, 1, 2, 3]);
    bench.send_raw(Class::Data, b"rubbish");
    bench.send_raw(Class::Data, &[0x53; 200]);
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = bench.network.nodes[0].clone();
    stranger.send_to(&[0x53; 60], (addr.addrs[0], addr.port)).unwrap();
    bench.send(Class::Data, DATA, b"good");
    bench.turn_until(|told| told.len() == 1);
    let drops =
        [DropReason::Short, DropReason::Magic, DropReason::Source].map(|r| bench.driver.stats.dropped(r));
    assert_eq!(drops, [1, 1, 1]);
    let mut answer = [0; 16];
    let socket = bench.peer.output(Class::Data).try_clone_to_owned().unwrap();
    let socket = std::net::UdpSocket::from(socket);
    let len = socket.recv(&mut answer).unwrap();
    assert_eq!(answer[..len], [3, 2, 1, 0x80]);

    // Two that the kernel gives as one run are two.
    let to = SocketAddr::new(addr.addrs[0], addr.port).into();
    let pair =
        super::super::sys::Outgoing { to: &to, bytes: &[0x81, 1, 2, 3, 0x81, 4, 5, 6], segment_len: 4 };
    super::super::sys::send_batch(bench.peer.output(Class::Data), &[pair]).unwrap();
    bench.send(Class::Data, DATA, b"good");
    bench.turn_until(|told| told.len() == 2);
    for expected in [[3, 2, 1, 0x81], [6, 5, 4, 0x81]] {
        let len = socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..len], expected);
    }
}

#[test]
fn events_go_up_in_order_and_are_flushed_once_per_batch() {
    let mut bench = Bench::new();
    let id = ConfId::default();
    let members = vec![mid(0, 7)];
    let deliver = |seq| Event::Deliver {
        seq,
        index: 0,
        sender: mid(0, 7),
        service: Service::Safe,
        body: Bytes::from_static(b"x").into(),
    };
    bench.driver.engine.events.extend([
        deliver(1),
        Event::Transitional { id, members: members.clone(), of: id },
        deliver(2),
        Event::Regular { id, members },
    ]);
    bench.driver.engine.deadline = Some(Nanos(1));
    bench.turn();
    let names: Vec<_> = bench
        .driver
        .upper
        .events
        .iter()
        .map(|event| match event {
            Event::Deliver { seq, .. } => format!("deliver {seq}"),
            Event::Transitional { .. } => "transitional".into(),
            Event::Regular { .. } => "regular".into(),
            Event::Writable => "writable".into(),
        })
        .collect();
    assert_eq!(names, ["deliver 1", "transitional", "deliver 2", "regular"]);
    assert_eq!(bench.driver.upper.flushes, 1);
    let dump = bench.driver.blackbox.dump();
    assert!(dump.contains("transitional node=n0 a=0 b=1"), "{dump}");
    assert!(dump.contains("received presence node=n1"), "{dump}");
}

#[test]
fn pauses_are_counted() {
    let mut bench = Bench::new();
    bench.driver.engine.deadline = Some(Nanos(1));
    bench.driver.clock = Clock(Instant::now() - Duration::from_secs(5));
    bench.turn();
    assert_eq!(bench.driver.stats.pauses, 1);
    bench.driver.engine.deadline = Some(bench.driver.clock.now() + Duration::from_millis(1));
    bench.turn();
    assert_eq!(bench.driver.stats.pauses, 1);
}

#[test]
fn leave_ends_the_loop() {
    let bench = Bench::new();
    bench.commands.send(Command::Leave).unwrap();
    bench.waker.wake();
    let top = bench.driver.run();
    assert!(top.events.is_empty());
}
