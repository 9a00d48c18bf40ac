//! What goes wrong, and when.

use std::fmt;
use std::time::Duration;

/// Something that goes wrong, or is done, while requests run. Hosts count from 0; servers are on 0 and 1, log writers
/// on 1 and 2.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Trouble {
    /// The daemon of a host is killed with SIGKILL.
    Kill(usize),
    /// It is started again.
    Start(usize),
    /// A host is cut off from the others.
    Cut(usize),
    /// Two hosts do not hear each other; the third one hears both.
    CutBetween(usize, usize),
    /// The network is whole again.
    Heal,
    /// A server restarts gracefully.
    Graceful(usize),
    /// A log writer (0 or 1) stands still.
    Freeze(usize),
    /// It goes on.
    Thaw(usize),
}

/// The daemon of the first server's host is killed after a third of the requests and started again after half.
pub fn one_kill() -> Vec<(u64, Trouble)> {
    vec![(33, Trouble::Kill(0)), (50, Trouble::Start(0))]
}

/// Everything in turn.
pub fn all_trouble() -> Vec<(u64, Trouble)> {
    use Trouble::{Cut, Freeze, Graceful, Heal, Kill, Start, Thaw};
    vec![
        (5, Kill(0)),
        (10, Start(0)),
        (15, Graceful(0)),
        (20, Freeze(0)),
        (30, Thaw(0)),
        (35, Cut(1)),
        (40, Graceful(1)),
        (45, Heal),
        (50, Kill(2)),
        (55, Start(2)),
        (60, Cut(2)),
        (65, Kill(1)),
        (70, Start(1)),
        (75, Heal),
        (80, Freeze(1)),
        (85, Kill(0)),
        (87, Start(0)),
        (90, Thaw(1)),
        (92, Graceful(0)),
    ]
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(host) => write!(f, "daemon of h{} killed", host + 1),
            Self::Start(host) => write!(f, "daemon of h{} started", host + 1),
            Self::Cut(host) => write!(f, "h{} cut off", host + 1),
            Self::CutBetween(a, b) => write!(f, "h{} and h{} cut from each other", a + 1, b + 1),
            Self::Heal => write!(f, "network whole"),
            Self::Graceful(server) => write!(f, "www{} restarts gracefully", server + 1),
            Self::Freeze(writer) => write!(f, "log writer {} stands still", writer + 1),
            Self::Thaw(writer) => write!(f, "log writer {} goes on", writer + 1),
        }
    }
}

/// A generator of random numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap_or(0)
    }

    fn time(&mut self, from: Duration, to: Duration) -> Duration {
        from + (to - from).mul_f64((self.roll() % 1_000) as f64 / 1_000.0)
    }
}

/// Trouble for so long, by chance: daemons are killed and started again, networks cut and healed, servers restarted
/// gracefully, log writers stopped for 20 s (a quarter of the whole when it is short). Everything is whole at the end.
pub fn random(seed: u64, length: Duration) -> Vec<(Duration, Trouble)> {
    let mut dice = Dice(seed);
    let second = Duration::from_secs(1);
    let mut plan = Vec::new();
    // Daemons and network: one thing after the other.
    let mut at = dice.time(second, 2 * second);
    while at + 8 * second < length {
        let back = at + dice.time(second / 2, 5 * second);
        let host = dice.below(3);
        let (begin, end) = match dice.below(3) {
            0 => (Trouble::Kill(host), Trouble::Start(host)),
            1 => (Trouble::Cut(host), Trouble::Heal),
            _ => (Trouble::CutBetween(host, (host + 1) % 3), Trouble::Heal),
        };
        plan.extend([(at, begin), (back, end)]);
        at = back + dice.time(second / 2, 4 * second);
    }
    // Restarts and log writers that stand still, at the same time as all that.
    let mut at = dice.time(2 * second, 4 * second);
    while at + 2 * second < length {
        plan.push((at, Trouble::Graceful(dice.below(2))));
        at += dice.time(4 * second, 15 * second);
    }
    let still = (20 * second).min(length / 4);
    let mut at = dice.time(second, 5 * second);
    while at + still + 2 * second < length {
        let writer = dice.below(2);
        plan.extend([(at, Trouble::Freeze(writer)), (at + still, Trouble::Thaw(writer))]);
        at += still + dice.time(10 * second, 40 * second);
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_mended() {
        for seed in 0..200 {
            let length = Duration::from_secs(10 + 2 * seed);
            let plan = random(seed, length);
            assert_eq!(plan, random(seed, length), "the same seed, the same plan");
            let (mut down, mut cut, mut still) = (0, 0, 0);
            for (at, trouble) in &plan {
                assert!(*at < length);
                match trouble {
                    Trouble::Kill(_) => down += 1,
                    Trouble::Start(_) => down -= 1,
                    Trouble::Cut(_) | Trouble::CutBetween(..) => cut = 1,
                    Trouble::Heal => cut = 0,
                    Trouble::Freeze(_) => still += 1,
                    Trouble::Thaw(_) => still -= 1,
                    Trouble::Graceful(_) => {}
                }
                assert!((0..=1).contains(&down) && (0..=1).contains(&still));
            }
            assert_eq!((down, cut, still), (0, 0, 0), "{plan:?}");
        }
    }
}
