//! Batches: received runs become zero-copy packets, packets to send become few large sends.
//!
//! ```text
//! in:   recvmmsg -> slab (64 KiB, many segments by UDP_GRO) -> opened in place -> Bytes slices of the slab
//! out:  packet -> sealed into the send buffer -> equal neighbours become one send (UDP_SEGMENT)
//! ```
//!
//! Per-packet kernel work is what limits throughput; segmentation offload is worth a factor of 10 and more
//! over batched single datagrams, batching the calls alone a tenth. spec: ring-protocol 6.2, 6.3, 7.1

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};
use spread_ring::{Class, Nanos, NodeSet, Transmit};

use super::seal::Sealer;
use super::stats::IoStats;
use super::sys::{self, Outgoing, RECV_BATCH, Received, SEND_BATCH, SLAB_LEN};
use super::transport::{Dest, Transport};

/// A run that fills less of its slab is copied out, so that a small packet kept for repair does not pin
/// 64 KiB.
const COPY_MAX: usize = SLAB_LEN / 4;

/// Slabs remembered for recycling while slices of them are alive. Beyond that a slab is freed by its last
/// slice instead of recycled.
const LENT_MAX: usize = 1024;

/// Slabs looked at for recycling before a new one is allocated.
const RECLAIM_TRIES: usize = 4;

/// Most bytes of sealed packets waiting to be sent.
const SEND_BYTES_MAX: usize = 256 << 10;

/// Most segments in one send: the limit of all kernels that know UDP_SEGMENT.
const SEGMENTS_MAX: usize = 64;

/// Most bytes in one send: the largest UDP payload over IPv4.
const RUN_BYTES_MAX: usize = 65_507;

/// How long segmentation stays off for a socket after a refusal.
const OFFLOAD_RETRY: Duration = Duration::from_secs(60);

/// Receive buffers. In steady state nothing is allocated: a slab comes back when its last slice is dropped.
struct Pool {
    free: Vec<BytesMut>,
    /// Empty handles of slabs whose content is out as slices, oldest first.
    lent: VecDeque<BytesMut>,
    allocated: u64,
}

impl Pool {
    fn take(&mut self) -> BytesMut {
        if let Some(slab) = self.free.pop() {
            return slab;
        }
        for _ in 0..RECLAIM_TRIES.min(self.lent.len()) {
            let Some(mut slab) = self.lent.pop_front() else { break };
            // Succeeds only if no slice is left.
            if slab.try_reclaim(SLAB_LEN) {
                return slab;
            }
            self.lent.push_back(slab);
        }
        self.allocated += 1;
        BytesMut::with_capacity(SLAB_LEN)
    }

    fn lend(&mut self, slab: BytesMut) {
        if self.lent.len() >= LENT_MAX {
            self.lent.pop_front();
        }
        self.lent.push_back(slab);
    }
}

/// The receiving side: slabs, and what the last read put into them.
pub(super) struct Intake {
    pool: Pool,
    slabs: Vec<BytesMut>,
    received: Vec<Received>,
    /// Collects packets of small runs.
    small: BytesMut,
}

impl Intake {
    pub(super) fn new() -> Self {
        let mut pool = Pool {
            free: Vec::with_capacity(RECV_BATCH),
            lent: VecDeque::with_capacity(LENT_MAX),
            allocated: 0,
        };
        let slabs = (0..RECV_BATCH).map(|_| pool.take()).collect();
        let small = pool.take();
        Self { pool, slabs, received: Vec::with_capacity(RECV_BATCH), small }
    }

    /// Reads up to `max` runs without blocking. Returns how many came.
    pub(super) fn read(&mut self, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        for slab in &mut self.slabs {
            slab.clear();
        }
        let max = max.min(self.slabs.len());
        sys::recv_batch(fd, &mut self.slabs[..max], &mut self.received)?;
        Ok(self.received.len())
    }

    /// The run at `index` of the last read, to be opened in place.
    pub(super) fn run(&mut self, index: usize) -> Option<(Received, &mut [u8])> {
        Some((*self.received.get(index)?, self.slabs.get_mut(index)?))
    }

    /// Hands out the parts of the run at `index` that `plain` names, in order, without copying if the run
    /// is large. What stands beside a range goes with it.
    pub(super) fn hand_out<A: Copy, B: Copy>(
        &mut self,
        index: usize,
        plain: &[(Range<usize>, A, B)],
        mut to: impl FnMut(Bytes, A, B),
    ) {
        let Some(slab) = self.slabs.get_mut(index) else { return };
        if slab.len() >= COPY_MAX {
            let whole = slab.split().freeze();
            let fresh = self.pool.take();
            self.pool.lend(std::mem::replace(slab, fresh));
            for (range, a, b) in plain {
                to(whole.slice(range.clone()), *a, *b);
            }
            return;
        }
        for (range, a, b) in plain {
            let packet = &slab[range.clone()];
            if self.small.capacity() < packet.len() {
                let fresh = self.pool.take();
                self.pool.lend(std::mem::replace(&mut self.small, fresh));
            }
            self.small.extend_from_slice(packet);
            to(self.small.split().freeze(), *a, *b);
        }
    }

    /// Slabs allocated since the start.
    pub(super) fn slabs_allocated(&self) -> u64 {
        self.pool.allocated
    }
}

/// The offsets of the datagrams in a run of `len` bytes.
pub(super) fn segments(len: usize, segment_len: usize) -> impl Iterator<Item = Range<usize>> {
    let step = segment_len.max(1);
    (0..len).step_by(step).map(move |start| start..(start + step).min(len))
}

/// The two sending sockets, as a function. A parameter so that tests can refuse what a kernel may refuse.
pub(super) trait SendCall {
    /// As [`sys::send_batch`], on the socket of `class`.
    fn send(&mut self, class: Class, messages: &[Outgoing<'_>]) -> io::Result<usize>;
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Route {
    to: NodeSet,
    multicast: bool,
    class: Class,
}

/// A sealed packet in the send buffer.
struct Item {
    start: usize,
    len: usize,
    route: Route,
}

/// One send that the kernel has not taken yet.
#[derive(Clone, Copy)]
struct Pending {
    class: Class,
    dest: Dest,
    start: usize,
    len: usize,
    segment_len: u16,
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// All is sent.
    Done,
    /// The socket of this class takes no more now; the rest keeps its order.
    Blocked(Class),
    /// The kernel is out of buffers; the rest keeps its order, and the socket may claim to be writable.
    NoBuffers,
}

/// The sending side: sealed packets in the order of emission, across both sockets.
pub(super) struct SendQueue {
    buf: Vec<u8>,
    items: Vec<Item>,
    pending: VecDeque<Pending>,
    dests: Vec<Dest>,
    /// Per socket: use segmentation from this time on; `None`: never.
    offload_from: [Option<Nanos>; 2],
}

fn class_index(class: Class) -> usize {
    match class {
        Class::Data => 0,
        Class::Token => 1,
    }
}

impl SendQueue {
    /// `offload`: whether to try segmentation at all.
    pub(super) fn new(offload: bool) -> Self {
        Self {
            buf: Vec::with_capacity(SEND_BYTES_MAX),
            items: Vec::with_capacity(1024),
            pending: VecDeque::with_capacity(1024),
            dests: Vec::with_capacity(spread_ring::NODES_MAX),
            offload_from: [offload.then_some(Nanos(0)); 2],
        }
    }

    /// Whether the packet fits; if not, flush first.
    pub(super) fn has_room(&self, packet_len: usize, sealer: &dyn Sealer) -> bool {
        self.buf.is_empty() || self.buf.len() + packet_len + sealer.trailer_len() <= SEND_BYTES_MAX
    }

    /// Seals a copy of the packet into the buffer.
    pub(super) fn push(&mut self, transmit: &Transmit, sealer: &mut dyn Sealer) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&transmit.packet);
        self.buf.resize(self.buf.len() + sealer.trailer_len(), 0);
        if !sealer.seal(&mut self.buf[start..]) {
            // Only a packet shorter than a header; the engine emits none.
            debug_assert!(false, "packet without header");
            self.buf.truncate(start);
            return;
        }
        let route = Route { to: transmit.to, multicast: transmit.multicast, class: transmit.class };
        self.items.push(Item { start, len: self.buf.len() - start, route });
    }

    /// Sends what the kernel takes, in order.
    pub(super) fn flush(
        &mut self,
        now: Nanos,
        transport: &Transport,
        call: &mut impl SendCall,
        stats: &mut IoStats,
    ) -> Flush {
        self.expand(now, transport);
        let mut refused = 0;
        while let Some(&front) = self.pending.front() {
            let mut batch = ArrayVec::<_, SEND_BATCH>::new();
            batch.push(outgoing(&front, transport, &self.buf));
            for next in self.pending.iter().skip(1).take_while(|p| p.class == front.class) {
                if batch.len() == SEND_BATCH {
                    break;
                }
                batch.push(outgoing(next, transport, &self.buf));
            }
            let result = call.send(front.class, &batch);
            drop(batch);
            match result {
                Ok(n) => {
                    refused = 0;
                    stats.send_calls += 1;
                    for sent in self.pending.drain(..n.min(self.pending.len())) {
                        let packets = sent.len.div_ceil(usize::from(sent.segment_len).max(1)) as u64;
                        stats.packets_sent += packets;
                        stats.bytes_sent += sent.len as u64;
                        if packets > 1 {
                            stats.offload_sends += 1;
                            stats.offload_packets += packets;
                        }
                    }
                }
                Err(error) => {
                    refused += 1;
                    if let Some(blocked) = self.refused(now, front, refused, &error, stats) {
                        return blocked;
                    }
                }
            }
        }
        self.buf.clear();
        Flush::Done
    }

    /// Forgets what is still waiting; it is lost as on a bad wire. Returns the number of packets.
    pub(super) fn abandon(&mut self) -> u64 {
        let lost = self
            .pending
            .drain(..)
            .map(|p| p.len.div_ceil(usize::from(p.segment_len).max(1)) as u64)
            .sum::<u64>()
            + self.items.drain(..).map(|_| 1).sum::<u64>();
        self.buf.clear();
        lost
    }

    /// Whether segmentation is in use for both sockets at `now`.
    #[cfg(test)]
    fn offload(&self, class: Class, now: Nanos) -> bool {
        self.offload_from[class_index(class)].is_some_and(|from| now >= from)
    }

    /// Decides about the first waiting send after an error.
    fn refused(
        &mut self,
        now: Nanos,
        front: Pending,
        times: u32,
        error: &io::Error,
        stats: &mut IoStats,
    ) -> Option<Flush> {
        let segmented = front.len > usize::from(front.segment_len);
        match error.raw_os_error() {
            Some(libc::EAGAIN) => {
                stats.send_blocked += 1;
                return Some(Flush::Blocked(front.class));
            }
            Some(libc::ENOBUFS | libc::ENOMEM) => {
                stats.send_blocked += 1;
                return Some(Flush::NoBuffers);
            }
            Some(libc::EINTR) => {}
            // EIO: the device does not do checksums; EINVAL: the kernel or the route does not do
            // segmentation. Either may come later than the first send: routes change.
            Some(libc::EIO | libc::EINVAL) if segmented => {
                stats.offload_refused += 1;
                self.offload_from[class_index(front.class)] = Some(now + OFFLOAD_RETRY);
                self.split_class(front.class);
            }
            // Some segment is longer than the path allows; find out which by sending them singly.
            Some(libc::EMSGSIZE) if segmented => self.split_front(),
            // A late ICMP answer to an earlier packet; this one was not tried.
            Some(libc::ECONNREFUSED) if times < 3 => stats.send_refused_late += 1,
            code => {
                stats.send_errors += 1;
                stats.send_error_last = code.unwrap_or(0);
                self.pending.pop_front();
            }
        }
        None
    }

    /// Turns packets into sends.
    fn expand(&mut self, now: Nanos, transport: &Transport) {
        let mut rest = self.items.as_slice();
        while let Some((first, others)) = rest.split_first() {
            let offload = self.offload_from[class_index(first.route.class)].is_some_and(|from| now >= from);
            let mut len = first.len;
            let mut count = 1;
            if offload {
                for next in others {
                    if next.route != first.route
                        || next.len > first.len
                        || count == SEGMENTS_MAX
                        || len + next.len > RUN_BYTES_MAX
                    {
                        break;
                    }
                    len += next.len;
                    count += 1;
                    if next.len < first.len {
                        break;
                    }
                }
            }
            self.dests.clear();
            transport.expand(first.route.to, first.route.multicast, first.route.class, &mut self.dests);
            for &dest in &self.dests {
                self.pending.push_back(Pending {
                    class: first.route.class,
                    dest,
                    start: first.start,
                    len,
                    segment_len: u16::try_from(first.len).unwrap_or(u16::MAX),
                });
            }
            rest = &rest[count..];
        }
        self.items.clear();
    }

    /// Cuts the first send into single datagrams.
    fn split_front(&mut self) {
        if let Some(run) = self.pending.pop_front() {
            for part in singles(run).rev() {
                self.pending.push_front(part);
            }
        }
    }

    /// Cuts all sends of a class into single datagrams.
    fn split_class(&mut self, class: Class) {
        for _ in 0..self.pending.len() {
            let Some(run) = self.pending.pop_front() else { break };
            if run.class == class {
                self.pending.extend(singles(run));
            } else {
                self.pending.push_back(run);
            }
        }
    }
}

fn singles(run: Pending) -> impl DoubleEndedIterator<Item = Pending> {
    let step = usize::from(run.segment_len).max(1);
    let count = run.len.div_ceil(step);
    (0..count).map(move |i| {
        let start = i * step;
        let len = step.min(run.len - start);
        Pending { start: run.start + start, len, segment_len: u16::try_from(len).unwrap_or(u16::MAX), ..run }
    })
}

fn outgoing<'a>(pending: &Pending, transport: &'a Transport, buf: &'a [u8]) -> Outgoing<'a> {
    Outgoing {
        to: transport.addr(pending.dest),
        bytes: &buf[pending.start..pending.start + pending.len],
        segment_len: pending.segment_len,
    }
}

#[cfg(test)]
mod tests {
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
                let ranges: Vec<_> =
                    segments(received.len, received.segment_len).map(|r| (r, (), ())).collect();
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
}
