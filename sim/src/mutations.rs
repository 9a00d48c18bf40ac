//! Engines with one rule taken out: does anybody notice? (`cargo xtask sim --mutations`)

use std::time::{Duration, Instant};

use super::plan::Plan;
use super::world::{Failure, Options, run};

/// A rule of one of the two crates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Of `spread-ring`.
    Ring(spread_ring::mutation::Rule),
    /// Of `spread-groups`.
    Groups(spread_groups::mutation::Rule),
}

impl Mutation {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let ring = spread_ring::mutation::Rule::ALL.iter().copied().map(Self::Ring);
        ring.chain(spread_groups::mutation::Rule::ALL.iter().copied().map(Self::Groups))
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Ring(rule) => format!("{rule:?}"),
            Self::Groups(rule) => format!("groups::{rule:?}"),
        }
    }

    /// What happens without the rule.
    pub fn what(self) -> &'static str {
        match self {
            Self::Ring(rule) => rule.what(),
            Self::Groups(rule) => rule.what(),
        }
    }

    /// Whether random histories notice only after thousands of histories, or never: other rules cover for it. The
    /// test run does not ask for these; each has a test of its own, see `docs/internals/simulation.md`.
    pub fn is_rare(self) -> bool {
        RARE.contains(&self.name().as_str())
    }

    /// Takes it out of the engines of this thread as long as the result lives.
    pub fn take_out(self) -> TakenOut {
        match self {
            Self::Ring(rule) => spread_ring::mutation::take_out(Some(rule)),
            Self::Groups(rule) => spread_groups::mutation::take_out(Some(rule)),
        }
        TakenOut(())
    }
}

/// Puts the rules back when it is dropped.
#[derive(Debug)]
pub struct TakenOut(());

impl Drop for TakenOut {
    fn drop(&mut self) {
        spread_ring::mutation::take_out(None);
        spread_groups::mutation::take_out(None);
    }
}

/// See [`Mutation::is_rare`].
const RARE: &[&str] = &[
    "Freeze",
    "Obligations",
    "CommitFresh",
    "CommitMembers",
    "SessionCounts",
    "Consensus",
    "Superseded",
    "groups::Generation",
    "groups::Parted",
];
/// All others are found within so many histories, from seed 1.
pub const SEEDS_KNOWN: u64 = 400;

/// How a mutation was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Seed of the history that failed.
    pub seed: u64,
    /// How it failed.
    pub failure: Failure,
}

/// Runs histories until one fails: at most `seeds` and `time`. Returns how many were run.
pub fn hunt(
    mutation: Mutation,
    plan: impl Fn(u64) -> Plan,
    seeds: u64,
    time: Duration,
) -> (u64, Option<Found>) {
    let _out = mutation.take_out();
    let begin = Instant::now();
    for seed in 1..=seeds {
        if begin.elapsed() > time {
            return (seed - 1, None);
        }
        if let Some(failure) = run(&plan(seed), &Options::default()).failure {
            return (seed, Some(Found { seed, failure }));
        }
    }
    (seeds, None)
}
