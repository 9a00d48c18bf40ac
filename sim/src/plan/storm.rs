//! Storms: one broken recovery after the other.

use super::{Fault, Load, MS, Moment, Plan, Strike, Timed, US};
use crate::rng::Rng;

impl Plan {
    /// Draws a storm: few daemons with short time limits, much data loss, SAFE messages, and one broken recovery
    /// after the other. For what needs two or three rare things at once.
    pub fn storm(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 6);
        let nodes = usize::try_from(rng.range(3, 5)).unwrap_or(3);
        let latency = rng.log_range(30 * US, 300 * US);
        let active = rng.range(2000, 6000) * MS;
        let mut plan = Self {
            nodes,
            active,
            liveness: rng.per_mille(300),
            latency,
            jitter: latency / 2,
            wakeup: rng.log_range(US, 50 * US),
            load: Load {
                every: rng.log_range(500 * US, 10 * MS),
                burst: rng.range(1, 6),
                safe: rng.pick(&[500, 800, 1000]),
                long: rng.pick(&[0, 50]),
                len_max: 4000,
                senders: (1 << nodes) - 1,
                total: 4000,
            },
            faults: Vec::new(),
            groups: None,
            ..Self::long(seed)
        };
        plan.engine.token_ms = rng.pick(&[60, 100, 200]);
        plan.engine.packet_len = 1456;
        plan.draw_storm(&mut rng);
        plan
    }

    fn draw_storm(&mut self, rng: &mut Rng) {
        let always = |fault| Timed { at: 0, until: self.active, stays: false, fault };
        let mut faults = vec![always(Fault::DataLoss(rng.range(50, 500)))];
        if rng.per_mille(500) {
            faults.push(always(Fault::Late(rng.range(50, 300), rng.range(5, 60) * MS, true)));
        }
        if rng.per_mille(300) {
            faults.push(always(Fault::Loss(rng.range(5, 100))));
        }
        for _ in 0..rng.range(8, 30) {
            let (at, until) = self.draw_span(rng, 2 * MS, 800 * MS);
            let node = rng.index(self.nodes);
            let fault = match rng.below(10) {
                0..5 => self.draw_partition(rng),
                5 => Fault::CutLink(node, rng.index(self.nodes)),
                6 => Fault::Deaf(node),
                7 => Fault::Mute(node),
                8 => Fault::Pause(node),
                _ => Fault::Crash(node),
            };
            faults.push(Timed { at, until, stays: false, fault });
        }
        for _ in 0..rng.range(10, 40) {
            let at = rng.below(self.active);
            let moments = [
                Moment::CommitPass1,
                Moment::CommitPass2,
                Moment::RecoveryToken,
                Moment::RecoveryToken,
                Moment::RecoveryToken,
                Moment::Transitional,
                Moment::Install,
                Moment::Data,
            ];
            let time = rng.log_range(MS, 400 * MS);
            let strikes = [
                Strike::Lose,
                Strike::Isolate(time),
                Strike::Isolate(time),
                Strike::Mute(time),
                Strike::Deafen(time),
                Strike::Split(time),
                Strike::Pause(time),
                Strike::Crash(time),
            ];
            let fault = Fault::Ambush(rng.pick(&moments), rng.range(1, 8), rng.pick(&strikes));
            faults.push(Timed { at, until: self.active, stays: false, fault });
        }
        self.faults = faults;
    }
}
