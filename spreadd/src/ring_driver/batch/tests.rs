use std::cell::RefCell;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use spread_ring::NodeId;

use super::super::header::HEADER_LEN;
use super::super::seal::Checksum;
use super::super::seal::tests::{mid, plain};
use super::super::transport::tests::network;
use super::*;

/// A kernel that takes note, and answers as told.
#[derive(Default)]
struct Kernel {
    /// Datagrams taken, in order: class, destination port, body.
    sent: Vec<(Class, String, Vec<u8>)>,
    /// Segments of each message taken.
    runs: Vec<usize>,
    /// Answers to come: an error, or how many messages to take at most.
    script: VecDeque<Result<usize, i32>>,
    /// Error for every message with several segments.
    refuse_segments: Option<i32>,
}

impl SendCall for RefCell<Kernel> {
    fn send(&mut self, class: Class, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        let kernel = self.get_mut();
        let limit = match kernel.script.pop_front() {
            Some(Err(code)) => return Err(io::Error::from_raw_os_error(code)),
            Some(Ok(limit)) => limit,
            None => usize::MAX,
        };
        for (taken, message) in messages.iter().enumerate() {
            let parts: Vec<_> = segments(message.bytes.len(), message.segment_len.into()).collect();
            let refused = kernel.refuse_segments.filter(|_| parts.len() > 1);
            if taken == limit || refused.is_some() {
                return match refused {
                    Some(code) if taken == 0 => Err(io::Error::from_raw_os_error(code)),
                    _ => Ok(taken),
                };
            }
            kernel.runs.push(parts.len());
            let to = message.to.as_socket().unwrap().to_string();
            for part in parts {
                let packet = &message.bytes[part];
                let body = packet[HEADER_LEN..packet.len() - 4].to_vec();
                kernel.sent.push((class, to.clone(), body));
            }
        }
        Ok(messages.len())
    }
}

struct Bench {
    queue: SendQueue,
    transport: Transport,
    sealer: Checksum,
    kernel: RefCell<Kernel>,
    stats: IoStats,
}

impl Bench {
    fn new() -> Self {
        Self {
            queue: SendQueue::new(true),
            transport: Transport::new(&network(3, Some("239.1.2.3:4803")), NodeId(0)).unwrap(),
            sealer: Checksum::default(),
            kernel: RefCell::default(),
            stats: IoStats::default(),
        }
    }

    fn push(&mut self, to: &[u16], multicast: bool, class: Class, body: &[u8]) {
        let to = to.iter().copied().map(NodeId).collect();
        let packet = plain(mid(0, 1), 1, body).into();
        self.queue.push(&Transmit { to, multicast, class, packet }, &mut self.sealer);
    }

    fn flush(&mut self, seconds: u64) -> Flush {
        let now = Nanos(seconds * 1_000_000_000);
        self.queue.flush(now, &self.transport, &mut self.kernel, &mut self.stats)
    }

    fn bodies(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.kernel.get_mut().sent).into_iter().map(|(_, _, body)| body).collect()
    }

    fn runs(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.kernel.get_mut().runs)
    }
}

fn body(i: usize, len: usize) -> Vec<u8> {
    let mut body = vec![0; len];
    body[..8].copy_from_slice(&i.to_le_bytes());
    body
}

#[test]
fn equal_neighbours_become_one_send() {
    let mut bench = Bench::new();
    for i in 0..44 {
        bench.push(&[1, 2], true, Class::Data, &body(i, 1400));
    }
    bench.push(&[1, 2], true, Class::Data, &body(44, 100));
    bench.push(&[1, 2], true, Class::Data, &body(45, 100));
    bench.push(&[1], false, Class::Token, &body(46, 40));
    bench.push(&[1, 2], true, Class::Data, &body(47, 1400));
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.runs(), [45, 1, 1, 1]);
    let expected: Vec<_> = [1400; 44].into_iter().chain([100, 100, 40, 1400]).enumerate().collect();
    assert_eq!(bench.bodies(), expected.into_iter().map(|(i, len)| body(i, len)).collect::<Vec<_>>());
    assert_eq!(bench.stats.packets_sent, 48);
    assert_eq!(bench.stats.offload_packets, 45);
}

#[test]
fn runs_keep_the_limits_of_the_kernel() {
    let mut bench = Bench::new();
    for i in 0..200 {
        bench.push(&[1, 2], true, Class::Data, &body(i, 60));
    }
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.runs(), [64, 64, 64, 8]);
    for i in 0..20 {
        bench.push(&[1, 2], true, Class::Data, &body(i, 8900));
    }
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.runs(), [7, 7, 6]);
}

#[test]
fn copies_to_several_daemons_are_the_same_bytes_in_the_same_order() {
    let mut bench = Bench::new();
    for i in 0..10 {
        bench.push(&[1, 2], false, Class::Data, &body(i, 500));
    }
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.runs(), [10, 10]);
    let sent = std::mem::take(&mut bench.kernel.get_mut().sent);
    for (port, part) in ["127.0.0.2:4803", "127.0.0.3:4803"].iter().zip(sent.chunks(10)) {
        for (i, (_, to, sent)) in part.iter().enumerate() {
            assert_eq!((to.as_str(), sent), (*port, &body(i, 500)));
        }
    }
}

/// The kernel may accept segmentation and the device refuse it, also later than the first time.
#[test]
fn refused_segmentation_falls_back_to_single_datagrams_for_a_minute() {
    for code in [libc::EIO, libc::EINVAL] {
        let mut bench = Bench::new();
        let all = |bench: &mut Bench| {
            for i in 0..100 {
                bench.push(&[1, 2], true, Class::Data, &body(i, 1000));
            }
            bench.push(&[1], false, Class::Token, &body(100, 1000));
            for i in 101..130 {
                bench.push(&[1, 2], true, Class::Data, &body(i, 1000));
            }
        };
        let expected: Vec<_> = (0..130).map(|i| body(i, 1000)).collect();
        all(&mut bench);
        bench.flush(0);
        assert_eq!(bench.bodies(), expected);
        bench.runs();

        bench.kernel.get_mut().refuse_segments = Some(code);
        all(&mut bench);
        assert_eq!(bench.flush(1), Flush::Done);
        assert_eq!(bench.bodies(), expected, "order and content are kept");
        assert_eq!(bench.runs(), [1; 130]);
        assert_eq!(bench.stats.offload_refused, 1);
        assert!(!bench.queue.offload(Class::Data, Nanos(60 * 1_000_000_000)));
        assert!(bench.queue.offload(Class::Token, Nanos(0)), "the other socket is not concerned");

        // A minute later it is tried again, once.
        all(&mut bench);
        assert_eq!(bench.flush(62), Flush::Done);
        assert_eq!(bench.bodies(), expected);
        assert_eq!(bench.stats.offload_refused, 2);
        bench.runs();
        bench.kernel.get_mut().refuse_segments = None;
        all(&mut bench);
        assert_eq!(bench.flush(123), Flush::Done);
        assert_eq!(bench.bodies(), expected);
        assert_eq!(bench.runs(), [63, 37, 1, 29], "at most 65 507 bytes");
    }
}

#[test]
fn no_room_keeps_the_order() {
    for (code, first, second) in [
        (libc::EAGAIN, Flush::Blocked(Class::Token), Flush::Blocked(Class::Data)),
        (libc::ENOBUFS, Flush::NoBuffers, Flush::NoBuffers),
    ] {
        let mut bench = Bench::new();
        for i in 0..200 {
            let class = if i % 50 == 49 { Class::Token } else { Class::Data };
            bench.push(&[1], false, class, &body(i, 1000));
        }
        bench.kernel.get_mut().script.extend([Ok(1), Err(code), Ok(1), Ok(0), Err(code)]);
        assert_eq!(bench.flush(0), first);
        assert_eq!(bench.flush(0), second);
        assert_eq!(bench.flush(0), Flush::Done);
        assert_eq!(bench.bodies(), (0..200).map(|i| body(i, 1000)).collect::<Vec<_>>());
        assert_eq!(bench.stats.send_blocked, 2);
    }
}

#[test]
fn other_errors_lose_one_send_and_go_on() {
    let mut bench = Bench::new();
    for (i, to) in [[1], [2], [1]].iter().enumerate() {
        bench.push(to, false, Class::Data, &body(i, 100));
    }
    bench.kernel.get_mut().script.extend([Ok(1), Err(libc::EPERM)]);
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.bodies(), [body(0, 100), body(2, 100)]);
    assert_eq!((bench.stats.send_errors, bench.stats.send_error_last), (1, libc::EPERM));
}

#[test]
fn late_icmp_answers_lose_nothing() {
    let mut bench = Bench::new();
    bench.push(&[1], false, Class::Data, &body(0, 100));
    bench.kernel.get_mut().script.extend([Err(libc::ECONNREFUSED), Err(libc::EINTR)]);
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.bodies(), [body(0, 100)]);
    assert_eq!(bench.stats.send_refused_late, 1);
}

#[test]
fn packets_that_are_too_long_do_not_take_others_with_them() {
    let mut bench = Bench::new();
    for i in 0..3 {
        bench.push(&[1], false, Class::Data, &body(i, 1000));
    }
    bench.kernel.get_mut().script.extend([Err(libc::EMSGSIZE), Ok(1), Err(libc::EMSGSIZE)]);
    assert_eq!(bench.flush(0), Flush::Done);
    assert_eq!(bench.bodies(), [body(0, 1000), body(2, 1000)]);
    assert!(bench.queue.offload(Class::Data, Nanos(0)));
}

#[test]
fn the_buffer_is_bounded() {
    let mut bench = Bench::new();
    let mut count = 0;
    while bench.queue.has_room(1400, &bench.sealer) {
        bench.push(&[1], false, Class::Data, &body(count, 1372));
        count += 1;
    }
    assert!(bench.queue.buf.len() <= SEND_BYTES_MAX);
    assert_eq!(bench.queue.abandon(), count as u64);
    assert!(bench.queue.has_room(1400, &bench.sealer));
}

fn pair() -> (UdpSocket, UdpSocket) {
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    let b = UdpSocket::bind("127.0.0.1:0").unwrap();
    (a, b)
}

fn read_all(intake: &mut Intake, from: &UdpSocket, count: usize) -> Vec<Bytes> {
    let mut out = Vec::new();
    while out.len() < count {
        let Ok(runs) = intake.read(from.as_fd(), RECV_BATCH) else {
            sys::wait_writable(from.as_fd(), Duration::from_millis(1));
            continue;
        };
        for i in 0..runs {
            let (received, data) = intake.run(i).unwrap();
            assert_eq!(received.len, data.len());
            let ranges: Vec<_> = segments(received.len, received.segment_len).map(|r| (r, (), ())).collect();
            intake.hand_out(i, &ranges, |packet, (), ()| out.push(packet));
        }
    }
    out
}

/// Through the real kernel: cut on the way out, coalesced on the way in, single where it must be.
#[test]
fn a_run_arrives_as_the_datagrams_it_was_made_of() {
    let (a, b) = pair();
    sys::set_option(b.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
    let to = b.local_addr().unwrap().into();
    let data: Vec<u8> = (0..44 * 1400 - 700u32).map(|i| (i / 7 % 251) as u8).collect();
    let message = Outgoing { to: &to, bytes: &data, segment_len: 1400 };
    let single = Outgoing { to: &to, bytes: &data[..33], segment_len: 33 };
    assert_eq!(sys::send_batch(a.as_fd(), &[message, single]).unwrap(), 2);
    let got = read_all(&mut Intake::new(), &b, 45);
    assert_eq!(got.len(), 45);
    for (packet, sent) in got.iter().zip(data.chunks(1400)) {
        assert_eq!(packet, sent);
    }
    assert_eq!(got[44], data[..33]);
}

#[test]
fn buffers_are_recycled_when_the_last_slice_is_gone() {
    let (a, b) = pair();
    sys::set_option(b.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
    let to = b.local_addr().unwrap().into();
    let data = vec![5; 40 * 1400];
    let mut intake = Intake::new();
    let mut held = VecDeque::new();
    let mut warm = 0;
    for round in 0..200 {
        let segment_len = if round % 3 == 0 { 100 } else { 1400 };
        let bytes = &data[..40 * usize::from(segment_len)];
        let message = Outgoing { to: &to, bytes, segment_len };
        assert_eq!(sys::send_batch(a.as_fd(), &[message]).unwrap(), 1);
        held.extend(read_all(&mut intake, &b, 40));
        // What a store of 400 packets would hold.
        while held.len() > 400 {
            held.pop_front();
        }
        if round == 50 {
            warm = intake.slabs_allocated();
        }
    }
    assert_eq!(intake.slabs_allocated(), warm);
    assert!(warm < 80, "{warm}");
}
