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
mod tests;
