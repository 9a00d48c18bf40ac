//! From the sockets to the engine.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use spread_ring::{Class, Mid, Nanos, NodeId};
use tracing::debug;

use super::super::batch::segments;
use super::super::blackbox::{Blackbox, What};
use super::super::header::{DATA, Header};
use super::super::peers::Peers;
use super::super::stats::{DropReason, IoStats};
use super::super::sys::RECV_BATCH;
use super::{Driver, Engine, HeldToken, Upper};
use crate::monitor::packet::is_monitor;

/// Data packets read behind a token before the token is handed in.
const DATA_BEFORE_TOKEN: usize = 128;

/// Datagrams of other protocols handed up in one round.
const FOREIGN_MAX: usize = 16;

/// How often a foreign configuration is told at most.
const FOREIGN_PERIOD: Duration = Duration::from_secs(1);

/// First bytes of packets of the monitor protocol, which shares the data port.
const FOREIGN_FIRST: u8 = 0x80;
const FOREIGN_SECOND: u8 = 0x81;

impl<E: Engine, U: Upper> Driver<E, U> {
    /// Reads each socket once: tokens first, so that all data sent before them are read after them.
    pub(super) fn round(&mut self, now: Nanos) {
        for index in 0..self.more.len() {
            if self.more[index] && self.sockets.inputs[index].class == Class::Token {
                self.read(now, index);
            }
        }
        for index in 0..self.more.len() {
            if self.sockets.inputs[index].class != Class::Data {
                continue;
            }
            if self.tokens.is_empty() {
                if self.more[index] {
                    self.read(now, index);
                }
            } else {
                // Also if the last wait saw nothing here: packets may have come since.
                let mut packets = 0;
                loop {
                    packets += self.read(now, index);
                    if !self.more[index] || packets >= DATA_BEFORE_TOKEN {
                        break;
                    }
                }
            }
        }
        if self.tokens.is_empty() {
            return;
        }
        // Before the visit, so that it can send them.
        self.submit(now);
        let mut tokens = std::mem::take(&mut self.tokens);
        for token in tokens.drain(..) {
            self.engine.handle_packet(now, token.path, token.from, token.plain);
            if !token.usable {
                confirm(&mut self.peers, &self.engine, token.from, token.session);
            }
        }
        self.tokens = tokens;
    }

    /// Reads a socket once and returns the number of packets. Data go to the engine, tokens wait.
    fn read(&mut self, now: Nanos, index: usize) -> usize {
        let input = &self.sockets.inputs[index];
        let runs = match self.intake.read(input.as_fd(), RECV_BATCH) {
            Ok(runs) => runs,
            Err(error) => {
                self.more[index] = error.kind() == io::ErrorKind::Interrupted;
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    self.stats.receive_errors += 1;
                    debug!(%error, "Receiving failed.");
                }
                return 0;
            }
        };
        self.more[index] = runs == RECV_BATCH;
        self.stats.receive_calls += 1;
        let mut answers = FOREIGN_MAX;
        let packets = (0..runs).map(|run| self.take_run(now, index, run, &mut answers)).sum();
        self.stats.packets_received += packets as u64;
        packets
    }

    /// Handles the datagrams of a run, all from one source, and returns their number.
    fn take_run(&mut self, now: Nanos, index: usize, run: usize, answers: &mut usize) -> usize {
        let Some((received, data)) = self.intake.run(run) else { return 0 };
        let input = &mut self.sockets.inputs[index];
        let (class, path) = (input.class, input.path);
        if let Some(dropped) = received.dropped {
            self.stats.socket_drops += u64::from(dropped.wrapping_sub(input.dropped));
            input.dropped = dropped;
        }
        self.stats.bytes_received += received.len as u64;
        if received.truncated || received.len == 0 {
            self.stats.drop(if received.truncated { DropReason::Truncated } else { DropReason::Short });
            return 1;
        }
        let packets = received.len.div_ceil(received.segment_len.max(1));
        if packets > 1 {
            self.stats.coalesced_receives += 1;
            self.stats.coalesced_packets += packets as u64;
        }
        if class == Class::Data && (matches!(data[0], FOREIGN_FIRST | FOREIGN_SECOND) || is_monitor(data)) {
            let engine = &self.engine;
            for range in segments(received.len, received.segment_len).take(*answers) {
                *answers -= 1;
                if let Some(from) = received.from
                    && let Some((to, answer)) =
                        self.upper.handle_foreign(from, &data[range], &|| engine.view())
                    && let Err(error) = self.sockets.reply(to, &answer)
                {
                    debug!(%to, %error, "An answer could not be sent.");
                }
            }
            return packets;
        }
        let source = match self.peers.source(&self.transport, received.from) {
            Ok(source) => source,
            Err(reason) => {
                for range in segments(received.len, received.segment_len) {
                    dropped(&mut self.stats, &mut self.blackbox, now, reason, None, range.len());
                }
                return packets;
            }
        };
        if !self.admitted.contains(source) {
            let reason = DropReason::Partition;
            for range in segments(received.len, received.segment_len) {
                dropped(&mut self.stats, &mut self.blackbox, now, reason, Some(source), range.len());
            }
            return packets;
        }
        self.ranges.clear();
        for range in segments(received.len, received.segment_len) {
            let packet = &mut data[range.clone()];
            let mark = Header::of(packet).map(|header| (header.packet_type(), header.counter()));
            match self.peers.admit(now, source, packet, &mut *self.sealer) {
                Ok(admitted) => {
                    let (kind, counter) = mark.unwrap_or_default();
                    if kind != DATA {
                        self.blackbox.note(now, What::Received(kind), Some(source), counter, 0);
                    }
                    let plain = range.start..range.start + admitted.len;
                    self.ranges.push((plain, admitted.session, admitted.usable));
                }
                Err(reason) => {
                    dropped(&mut self.stats, &mut self.blackbox, now, reason, Some(source), range.len());
                    if reason == DropReason::Hash
                        && self.foreign_at.is_none_or(|at| now.since(at) >= FOREIGN_PERIOD)
                        && let Some(header) = Header::of(packet)
                    {
                        self.foreign_at = Some(now);
                        self.upper.note_other_configuration(source, header.hash());
                    }
                }
            }
        }
        let (engine, peers, tokens) = (&mut self.engine, &mut self.peers, &mut self.tokens);
        self.intake.hand_out(run, &self.ranges, |plain, session, usable| match class {
            Class::Token => tokens.push(HeldToken { path, from: source, session, usable, plain }),
            Class::Data => {
                engine.handle_packet(now, path, source, plain);
                if !usable {
                    confirm(peers, engine, source, session);
                }
            }
        });
        packets
    }
}

/// Counts a dropped datagram, and notes some: a flood must not push everything else out of the black box.
fn dropped(
    stats: &mut IoStats,
    blackbox: &mut Blackbox,
    now: Nanos,
    reason: DropReason,
    source: Option<NodeId>,
    len: usize,
) {
    stats.drop(reason);
    if stats.dropped(reason).is_power_of_two() {
        blackbox.note(now, What::Dropped, source, reason as u64, len as u64);
    }
}

/// Learns whether the engine has found the session of a packet to be alive.
fn confirm<E: Engine>(peers: &mut Peers, engine: &E, node: NodeId, session: u64) {
    if engine.is_usable(Mid { node, session }) {
        peers.confirm(node, session);
    }
}
