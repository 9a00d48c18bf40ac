//! Requests on their way into the ring.
//!
//! A request waits in the queue, is given to the ring by [`take`](Queue::take), and from then on *under way*
//! until the ring delivers it. Messages of one daemon come back in the order they were given.
//!
//! When the ring forms a configuration whose members have to exchange their group tables first, what is still
//! under way was given out too early: the ring keeps such messages and sends them in the new configuration,
//! before everybody has the same table. Nobody delivers them there, because they carry the *generation* of the
//! old table, and [`renew`](Queue::renew) puts them back at the head of the queue to be given out again.
//! So each request is delivered once, in the order of its daemon, and always with one table at all daemons.
//!
//! A generation is the low half of the epoch of the configuration that began it. A daemon never uses one
//! twice, as epochs grow.
//!
//! spec: group-semantics 1.1, 4 R3

use std::collections::VecDeque;

use bytes::Bytes;
use spread_wire::GroupName;

use crate::payload;
use crate::types::{RingService, Submission};

/// Requests that may wait for their turn. The session layer stops reading from its clients at a much smaller
/// number ([`spread_wire::limits::INPUT_HIGH_WATER`]); this is the defined end if it does not.
pub const QUEUE_MESSAGES_MAX: usize = 1 << 16;

/// A request of a session of this daemon.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// A client's frame.
    Frame { service: RingService, raw: Bytes },
    /// The session ended without a request.
    Broken(GroupName),
}

impl Request {
    fn len(&self) -> usize {
        match self {
            Self::Frame { raw, .. } => raw.len(),
            Self::Broken(name) => name.as_field().len(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Request>,
    waiting_bytes: usize,
    /// What the ring will deliver back, in order. `None`: nothing has to be done for it any more.
    under_way: VecDeque<Option<Request>>,
}

impl Queue {
    /// Whether [`QUEUE_MESSAGES_MAX`] is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= QUEUE_MESSAGES_MAX
    }

    /// Number of waiting requests and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting_bytes)
    }

    /// Number of messages given to the ring and not delivered yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(crate) fn push(&mut self, request: Request) {
        self.waiting_bytes += request.len();
        self.waiting.push_back(request);
    }

    /// The next request, as a message of this generation.
    pub(crate) fn take(&mut self, generation: u32) -> Option<Submission> {
        let request = self.waiting.pop_front()?;
        self.waiting_bytes -= request.len();
        let submission = match &request {
            Request::Frame { service, raw } => {
                Submission { service: *service, head: payload::request_prefix(generation), body: raw.clone() }
            }
            // spec: group-semantics 1.2, "connection loss without disconnect request"
            Request::Broken(name) => Submission {
                service: RingService::Safe,
                head: payload::broken(generation, name),
                body: Bytes::new(),
            },
        };
        self.under_way.push_back(Some(request));
        Some(submission)
    }

    /// A message that is not a request was given to the ring.
    pub(crate) fn note_other(&mut self) {
        self.under_way.push_back(None);
    }

    /// The ring delivered the next message of this daemon.
    pub(crate) fn note_delivered(&mut self) {
        // An own message that was never given out can only be a forgery of somebody with the ring's key.
        self.under_way.pop_front();
    }

    /// A new generation begins: what is under way has to be given out again.
    pub(crate) fn renew(&mut self) {
        for request in self.under_way.iter_mut().rev().filter_map(Option::take) {
            self.waiting_bytes += request.len();
            self.waiting.push_front(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u8) -> Request {
        Request::Frame { service: RingService::Agreed, raw: Bytes::copy_from_slice(&[n; 4]) }
    }

    fn bodies(queue: &mut Queue, generation: u32) -> Vec<u8> {
        std::iter::from_fn(|| queue.take(generation)).map(|s| s.body[0]).collect()
    }

    #[test]
    fn renewed_requests_keep_their_order_and_come_before_waiting_ones() {
        let mut queue = Queue::default();
        (0..4).for_each(|n| queue.push(frame(n)));
        (0..3).for_each(|_| drop(queue.take(1)));
        queue.note_delivered();
        queue.renew();
        assert_eq!(queue.waiting(), (3, 12));
        assert_eq!(bodies(&mut queue, 2), [1, 2, 3]);
        // The two stale messages come back first and cost nothing.
        assert_eq!(queue.under_way(), 5);
        (0..2).for_each(|_| queue.note_delivered());
        queue.renew();
        assert_eq!(bodies(&mut queue, 3), [1, 2, 3]);
    }
}
