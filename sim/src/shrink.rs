//! Makes a failing history smaller.

use super::plan::Plan;
use super::world::{Failure, Options, run};

/// Leaves out faults, then messages, as long as a failure of the same promise stays. At most `runs` histories
/// are tried.
pub fn shrink(plan: &Plan, options: &Options, failure: &Failure, runs: usize) -> (Options, Failure) {
    let mut search = Search { plan, best: options.clone(), failure: failure.clone(), runs };
    search.faults();
    for percent in [1, 5, 20, 50] {
        let load = Some(percent);
        if search.keeps(Options { load, ..search.best.clone() }) {
            break;
        }
    }
    // With fewer messages more faults may be needless.
    search.faults();
    (search.best, search.failure)
}

struct Search<'a> {
    plan: &'a Plan,
    best: Options,
    failure: Failure,
    runs: usize,
}

impl Search<'_> {
    /// Halves, quarters, and so on down to single faults.
    fn faults(&mut self) {
        let mut size = self.plan.faults.len().div_ceil(2).max(1);
        loop {
            let left: Vec<usize> =
                (0..self.plan.faults.len()).filter(|i| !self.best.without.contains(i)).collect();
            for part in left.chunks(size) {
                let mut without = self.best.without.clone();
                without.extend_from_slice(part);
                without.sort_unstable();
                self.keeps(Options { without, ..self.best.clone() });
            }
            if size == 1 {
                break;
            }
            size = size.div_ceil(2);
        }
    }

    fn keeps(&mut self, options: Options) -> bool {
        if self.runs == 0 || options == self.best {
            return false;
        }
        self.runs -= 1;
        match run(self.plan, &options).failure {
            Some(failure) if failure.promise == self.failure.promise => {
                self.best = options;
                self.failure = failure;
                true
            }
            _ => false,
        }
    }
}
