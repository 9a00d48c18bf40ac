//! Small histories: two to five daemons, tens to hundreds of messages, a few faults, short times.

use super::{Engine, Fault, GroupLoad, Load, MS, Moment, Plan, Strike, Timed, US, draw_ambush};
use crate::rng::Rng;

impl Plan {
    /// Draws a small history. Its time limits are short, so that a fault is noticed, answered and met by the next
    /// one within a few hundred milliseconds.
    pub fn small(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 9);
        let nodes = rng.pick(&[2, 3, 3, 3, 4, 4, 5]);
        let token_ms = rng.pick(&[60, 100, 100, 200, 300, 500]);
        let latency = rng.log_range(30 * US, 2 * MS).min(token_ms * MS / 100);
        let active = token_ms * rng.log_range(2, 8) * MS;
        let mut plan = Self {
            seed,
            nodes,
            active,
            liveness: rng.per_mille(350),
            latency,
            jitter: rng.below(latency) + 1,
            wakeup: rng.log_range(US, 200 * US),
            load: small_load(&mut rng, nodes, active),
            faults: Vec::new(),
            engine: Engine { token_ms, ..Engine::draw(&mut rng) },
            groups: rng.per_mille(300).then(|| GroupLoad {
                groups: usize::try_from(rng.range(1, 3)).unwrap_or(1),
                clients: rng.below(3),
                every: (active / rng.log_range(4, 60)).max(MS),
                burst: rng.log_range(1, 4),
                safe: rng.pick(&[0, 300, 1000]),
            }),
        };
        // Now and then more than the ring takes at once: requests wait while daemon views change. (A generator of its
        // own: seeds that failed once keep their history.)
        let mut rng_flood = Rng::new(seed, 11);
        if let Some(groups) = plan.groups.as_mut().filter(|_| rng_flood.per_mille(150)) {
            (groups.burst, groups.every) = (30, groups.every / 8 + 1);
            plan.load.total = 1000;
        }
        plan.draw_noise(&mut rng);
        for _ in 0..rng.range(1, 3) {
            plan.draw_event(&mut rng);
        }
        for _ in 0..rng.below(3) {
            let at = rng.below(active);
            let fault = draw_ambush(&mut rng, 12);
            plan.faults.push(Timed { at, until: active, stays: false, fault });
        }
        if plan.liveness && rng.per_mille(250) {
            plan.draw_lasting(&mut rng);
        }
        plan
    }

    /// Draws a small storm: data gets lost or comes late, most messages are SAFE, and recoveries are struck.
    pub fn small_storm(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 10);
        let nodes = rng.pick(&[2, 3, 3, 3, 4, 4, 5]);
        let token_ms = rng.pick(&[60, 60, 100, 200]);
        let latency = rng.log_range(30 * US, 300 * US);
        let active = token_ms * rng.log_range(3, 10) * MS;
        let mut plan = Self {
            seed,
            nodes,
            active,
            liveness: rng.per_mille(150),
            latency,
            jitter: latency / 2,
            wakeup: rng.log_range(US, 50 * US),
            load: Load { safe: rng.pick(&[500, 800, 1000]), ..small_load(&mut rng, nodes, active) },
            faults: Vec::new(),
            engine: Engine { token_ms, packet_len: 1456, ..Engine::draw(&mut rng) },
            groups: None,
        };
        let always = |fault| Timed { at: 0, until: active, stays: false, fault };
        if rng.per_mille(800) {
            plan.faults.push(always(Fault::DataLoss(rng.range(50, 500))));
        }
        if rng.per_mille(500) {
            plan.faults.push(always(Fault::Late(rng.range(50, 400), rng.range(1, 60) * MS, true)));
        }
        for _ in 0..rng.range(1, 4) {
            let (at, until) = plan.draw_span(&mut rng, 2 * MS, active);
            let (node, other) = (rng.index(nodes), rng.index(nodes));
            let fault = match rng.below(10) {
                0..5 => plan.draw_partition(&mut rng),
                5 => Fault::CutLink(node, other),
                6 => Fault::Deaf(node),
                7 => Fault::Mute(node),
                8 => Fault::Pause(node),
                _ => Fault::Crash(node),
            };
            plan.faults.push(Timed { at, until, stays: false, fault });
        }
        for _ in 0..rng.range(1, 5) {
            use Moment as M;
            use Strike as S;
            let moments = [
                M::CommitPass1,
                M::CommitPass2,
                M::RecoveryToken,
                M::RecoveryToken,
                M::Transitional,
                M::Install,
                M::Data,
                M::Retransmission,
                M::Retransmission,
                M::Token,
                M::SafeDelivery,
            ];
            let time = rng.log_range(MS, 2 * token_ms * MS);
            let strikes = [
                S::Lose,
                S::Isolate(time),
                S::Isolate(time),
                S::Mute(time),
                S::Deafen(time),
                S::Split(time),
                S::Pause(time),
                S::Crash(time),
                S::LoseAndCrash(time),
            ];
            let fault = Fault::Ambush(rng.pick(&moments), rng.range(1, 8), rng.pick(&strikes));
            plan.faults.push(Timed { at: rng.below(active), until: active, stays: false, fault });
        }
        plan
    }
}

fn small_load(rng: &mut Rng, nodes: usize, active: u64) -> Load {
    let len_max = rng.pick(&[100, 100, 100, 1000, 5_000, 20_000]);
    let total = rng.log_range(10, 300);
    let all = (1u64 << nodes) - 1;
    let burst = rng.log_range(1, 8);
    // All of the time has messages, mostly.
    let every = active * nodes as u64 * burst.div_ceil(2) / total;
    Load {
        every: rng.log_range((every / 4).max(1), every.max(1)),
        burst,
        safe: rng.pick(&[0, 50, 300, 500, 1000]),
        long: if len_max > 1000 { rng.log_range(1, 100) } else { 0 },
        len_max,
        senders: if rng.per_mille(700) { all } else { rng.range(1, all) },
        total,
    }
}
