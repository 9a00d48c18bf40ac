//! Flow control (`ring-protocol` 3.8). All of it lives in the token and in one ring's state.

use crate::config::RingConfig;
use crate::types::Seq;
use crate::wire::Token;

/// Longest send that the kernel cuts into packets (UDP segmentation offload).
const BURST_BYTES_MAX: usize = 65_507;
const BURST_PACKETS_MAX: usize = 64;
/// Bytes of a packet that the engine does not count: the trailing CRC or tag.
const TRAILER_MAX: usize = 16;
const WINDOW_MAX: u16 = 2048;
const WINDOW_START_MIN: u16 = 160;
const HOLD_ROTATIONS: u16 = 16;
const QUIET_ROTATIONS: u16 = 64;

/// My part of the windows, and the window control of the representative.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    personal: u16,
    /// The configuration gives the personal window. Otherwise a member that sends alone may fill the window.
    personal_fixed: bool,
    accelerated: Option<u16>,
    /// `None`: controlled by the representative.
    fixed: Option<u16>,
    window_min: u16,
    window_max: u16,
    store: u64,
    /// What I put into `fcc` and `backlog` at my last visit.
    sent_last: u32,
    backlog_last: u32,
    /// Representative: rotations to wait after the window shrank, rotations without repair, and the number
    /// given out at the last rotation.
    hold: u16,
    quiet: u16,
    seq_last: Seq,
    requests_last: usize,
}

impl Flow {
    pub(crate) fn new(cfg: &RingConfig, members: usize) -> Self {
        let n = u16::try_from(members).unwrap_or(u16::MAX);
        let store = cfg.limits.store_packets as u64;
        // The store must take two windows and something in between.
        let window_max = u16::try_from(store / 4).unwrap_or(u16::MAX).clamp(1, WINDOW_MAX);
        let fixed =
            cfg.windows.window.map(|w| w.clamp(1, u16::try_from(store / 4).unwrap_or(u16::MAX).max(1)));
        let burst = BURST_BYTES_MAX / (cfg.packet_len_max + TRAILER_MAX).max(1);
        let personal = u16::try_from(burst.clamp(1, BURST_PACKETS_MAX)).unwrap_or(1);
        let personal = cfg.windows.personal.unwrap_or(personal).max(1);
        Self {
            personal,
            personal_fixed: cfg.windows.personal.is_some(),
            accelerated: cfg.windows.accelerated,
            fixed,
            window_min: n.saturating_mul(4).min(window_max),
            window_max,
            store,
            sent_last: 0,
            backlog_last: 0,
            hold: 0,
            quiet: 0,
            seq_last: 0,
            requests_last: 0,
        }
    }

    /// The windows of this member: packets of one visit, and how many of them follow the token.
    pub(crate) fn own_windows(&self) -> (u16, Option<u16>) {
        (self.personal, self.accelerated)
    }

    /// Uses the windows of `cfg` from now on.
    pub(crate) fn set_windows(&mut self, cfg: &RingConfig) {
        let new = Self::new(cfg, 1);
        self.personal = new.personal;
        self.personal_fixed = new.personal_fixed;
        self.accelerated = new.accelerated;
        self.fixed = new.fixed;
    }

    /// The window of a new ring.
    pub(crate) fn window_start(&self, members: usize) -> u16 {
        let n = u16::try_from(members).unwrap_or(u16::MAX);
        let start = n.saturating_mul(44).max(WINDOW_START_MIN);
        self.fixed.unwrap_or_else(|| start.clamp(self.window_min, self.window_max))
    }

    /// How many of a visit's packets follow the token; without configuration, all.
    pub(crate) fn accelerated(&self) -> usize {
        self.accelerated.map_or(usize::MAX, usize::from)
    }

    /// At the beginning of a visit: takes back what I added at my previous one.
    pub(crate) fn begin(&self, token: &mut Token) {
        token.fcc = token.fcc.saturating_sub(self.sent_last);
    }

    /// How many packets may be sent again now: at most a window in a rotation.
    pub(crate) fn repairs(&self, token: &Token) -> usize {
        usize::from(token.window.max(self.window_min))
    }

    /// How many of the `mine` packets that wait here may be sent now, after `answered` repairs. `safe` is
    /// what I know to be safe.
    pub(crate) fn allowed(&self, token: &Token, safe: Seq, mine: usize, answered: usize) -> usize {
        let window = u64::from(token.window);
        if mine == 0 || token.seq.saturating_sub(safe) + 2 * window > self.store {
            return 0;
        }
        let mine = mine as u64;
        let others = u64::from(token.backlog.saturating_sub(self.backlog_last));
        let share = (window * mine / (others + mine).max(1)).max(1);
        let used = u64::from(token.fcc) + answered as u64;
        let mut room = window.saturating_sub(used);
        if room == 0 && answered as u64 >= window {
            // Repair never starves new work completely.
            room = 1;
        }
        let alone = others == 0 && !self.personal_fixed;
        let personal = if alone { window } else { self.personal.into() };
        let allowed = personal.min(room).min(share).min(token.credit_last.into());
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// At the end of a visit: adds what I sent and what waits. `free` is the number of packets that my store
    /// takes.
    pub(crate) fn end(&mut self, token: &mut Token, sent: usize, waiting: usize, free: u16) {
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        token.fcc = token.fcc.saturating_add(sent);
        token.backlog = token.backlog.saturating_sub(self.backlog_last).saturating_add(waiting);
        self.sent_last = sent;
        self.backlog_last = waiting;
        token.credit_now = token.credit_now.min(free);
    }

    /// Packets that my store takes beyond the two windows that may be under way. `released` is what was
    /// given up.
    pub(crate) fn free(&self, token: &Token, released: Seq) -> u16 {
        let used = token.seq.saturating_sub(released) + 2 * u64::from(token.window);
        u16::try_from(self.store.saturating_sub(used)).unwrap_or(u16::MAX)
    }

    /// The representative's part, once a rotation, before [`Flow::begin`].
    pub(crate) fn rotate(&mut self, token: &mut Token) {
        token.credit_last = token.credit_now;
        token.credit_now = u16::MAX;
        let sent = token.seq.saturating_sub(self.seq_last);
        self.seq_last = token.seq;
        // Without requests nothing was sent again: what is counted beyond the new packets is not true, and
        // nobody else would ever take it back.
        let quiet = token.requests.is_empty()
            && std::mem::replace(&mut self.requests_last, token.requests.len()) == 0;
        if quiet {
            token.fcc = token.fcc.min(u32::try_from(sent).unwrap_or(u32::MAX));
        }
        if let Some(fixed) = self.fixed {
            token.window = fixed;
            return;
        }
        let fcc = u64::from(token.fcc);
        let answered = fcc.saturating_sub(sent);
        self.quiet = if answered == 0 { self.quiet.saturating_add(1) } else { 0 };
        self.hold = self.hold.saturating_sub(1);
        let window = token.window.clamp(self.window_min, self.window_max);
        token.window = if answered * 50 > fcc && self.hold == 0 {
            self.hold = HOLD_ROTATIONS;
            (window / 4 * 3).max(self.window_min)
        } else if fcc * 5 > u64::from(window) * 4 && self.quiet >= QUIET_ROTATIONS && self.hold == 0 {
            window.saturating_add(16).min(self.window_max)
        } else {
            window
        };
    }
}

#[cfg(test)]
mod tests;
