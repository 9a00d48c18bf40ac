//! The cost function of `byCost`: every resource has a cost exponential in its utilization; a request goes where the
//! cost grows least.
//!
//! `cost = kc * n^u_cpu + km * n^u_mem` with `n` servers, utilizations from 0 to 1, and `kc`, `km` the size of the
//! largest machine over that of this one.
// spec: mod_backhand 4.4

use crate::stat::ServerStat;

/// Weights of the two terms.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weights {
    /// Of the CPU.
    pub cpu: f64,
    /// Of memory.
    pub mem: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { cpu: 1.0, mem: 1.0 }
    }
}

/// Costs of the servers, in their order. `load` gives the load times 1000 with what is predicted.
#[allow(clippy::cast_precision_loss, reason = "amounts of memory and loads far below 2^53")]
pub fn costs(servers: &[(&ServerStat, i64)], weights: Weights) -> Vec<f64> {
    let n = servers.len().max(2) as f64;
    let cap = |s: &ServerStat| f64::from(s.ncpu.max(1)) * f64::from(s.arriba.max(1));
    let max = |f: &dyn Fn(&ServerStat) -> f64| servers.iter().map(|(s, _)| f(s)).fold(0.0, f64::max);
    let (cap_max, tmem_max) = (max(&cap), max(&|s| s.tmem as f64));
    let kc = |s: &ServerStat| cap_max / cap(s);
    let km = |s: &ServerStat| if s.tmem == 0 { 1.0 } else { tmem_max / s.tmem as f64 };
    let l = |s: &ServerStat, load: i64| kc(s) * load.max(0) as f64 / 1000.0;
    let highest =
        servers.iter().map(|(s, load)| (kc(s) * f64::from(s.load_hwm)).max(l(s, *load))).fold(1.0, f64::max);
    let scale = highest.log2().ceil().exp2();
    let cost = |(s, load): &(&ServerStat, i64)| {
        let u_cpu = l(s, *load) / scale;
        let u_mem = if s.tmem == 0 { 1.0 } else { (1.0 - s.amem as f64 / s.tmem as f64).clamp(0.0, 1.0) };
        weights.cpu * kc(s) * n.powf(u_cpu) + weights.mem * km(s) * n.powf(u_mem)
    };
    servers.iter().map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(ncpu: u32, arriba: u32, load: u32, load_hwm: u32, memory: (u64, u64)) -> ServerStat {
        ServerStat { ncpu, arriba, load, load_hwm, amem: memory.0, tmem: memory.1, ..ServerStat::default() }
    }

    fn check(set: &[ServerStat], expected: &[f64]) {
        let set: Vec<_> = set.iter().map(|s| (s, i64::from(s.load))).collect();
        let costs = costs(&set, Weights::default());
        assert_eq!(costs.len(), expected.len());
        for (cost, expected) in costs.iter().zip(expected) {
            assert!((cost - expected).abs() < 1e-6, "{costs:?}");
        }
    }

    #[test]
    fn the_examples_of_the_specification() {
        // spec: mod_backhand 4.4, 12 T8
        let a = [
            server(1, 100, 2000, 4, (50, 100)),
            server(1, 100, 1000, 4, (25, 100)),
            server(1, 100, 3000, 4, (75, 100)),
            server(1, 100, 500, 1, (10, 100)),
        ];
        check(&a, &[4.0, 4.242_641, 4.242_641, 4.671_409]);
        let b = [
            server(2, 200, 4000, 4, (500, 1000)),
            server(1, 100, 500, 1, (250, 500)),
            server(1, 200, 1000, 2, (250, 1000)),
        ];
        check(&b, &[4.732_051, 10.392_305, 5.743_609]);
        check(&[server(1, 100, 0, 1, (100, 100))], &[2.0]);
    }

    #[test]
    fn unreadable_memory_counts_as_full() {
        check(&[server(1, 1, 0, 1, (0, 0))], &[1.0 + 2.0]);
        assert!(costs(&[], Weights::default()).is_empty());
    }
}
