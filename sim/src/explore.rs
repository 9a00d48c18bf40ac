//! Exhaustive exploration: all that a few daemons can get into from a given beginning, with few faults.
//!
//! The real engines are steps of a search. From each state every move is tried: each packet at the head of a way
//! (from a daemon to another one) arrives, or is lost, doubled or held back, so that others overtake it; a daemon's
//! next timer fires; a daemon dies, starts again, or is cut off; a message is submitted. Each daemon has its own clock, which
//! only its timers move, so a timer may fire at any moment relative to all others. Faults and timers are bounded
//! by [`Bounds`], and so is the depth; within these bounds nothing is left out but orders that do not matter. States that are equal are visited
//! once (`Ring::fingerprint`). Signs of life do not arrive during the exploration, but for those from and to daemons
//! that were started again.
//!
//! What a daemon does depends on its own state and on what it gets, not on the others. So each step of an engine is
//! made once and remembered: all daemons together get into many more states than each of them does.
//!
//! At the end of each branch the network heals and time goes on in good order until everything has settled (G10),
//! and the logs of all daemons go through the oracle (G1 to G9).

mod settle;
mod start;
mod state;

use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;

use self::state::{Memo, Move, State};
use super::oracle::Violation;

pub use self::start::Start;

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Timers that fire, at each daemon.
    pub timers: u8,
    /// Packets that are lost.
    pub losses: u8,
    /// Packets that come twice.
    pub duplicates: u8,
    /// Packets that are overtaken.
    pub late: u8,
    /// Daemons that die.
    pub crashes: u8,
    /// Daemons that died and start again.
    pub restarts: u8,
    /// Daemons that are cut off from all others until the end.
    pub cuts: u8,
    /// Of moves whose order does not matter one order is tried only.
    pub reduced: bool,
    /// Moves of one branch.
    pub depth: usize,
    /// States that are visited.
    pub states: u64,
    /// Time that it takes.
    pub time: Duration,
    /// One of this many branches is followed until everything has settled; the logs of all are judged.
    pub settle_one_of: u64,
}

/// What an exploration came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states that were visited.
    pub states: u64,
    /// Moves that were made.
    pub moves: u64,
    /// Branches that ended because nothing was left to do.
    pub ends: u64,
    /// Branches that were followed until everything had settled.
    pub settled: u64,
    /// Branches that ended at the greatest depth.
    pub too_deep: u64,
    /// Number of moves of the longest branch.
    pub deepest: usize,
    /// Everything within the bounds of timers and faults was visited.
    pub complete: bool,
    /// The first promise that was broken, and the moves that led there.
    pub failure: Option<(Violation, Vec<String>)>,
}

struct Frame {
    state: State,
    moves: std::vec::IntoIter<Move>,
}

/// Visits all that can come of a beginning.
///
/// # Errors
///
/// The beginning itself fails.
pub fn explore(start: Start, bounds: &Bounds) -> Result<Report, Violation> {
    let begin = Instant::now();
    let first = start.state(bounds)?;
    let mut report = Report { complete: true, ..Report::default() };
    let mut memo = Memo::default();
    let mut seen = FxHashSet::default();
    seen.insert(first.hash());
    report.states = 1;
    let moves = first.moves().into_iter();
    let mut stack = vec![Frame { state: first, moves }];
    let mut path: Vec<Move> = Vec::new();
    while let Some(frame) = stack.last_mut() {
        let Some(next) = frame.moves.next() else {
            stack.pop();
            path.pop();
            continue;
        };
        report.moves += 1;
        path.push(next);
        let (state, failure) = match frame.state.after(next, &mut memo) {
            Ok(state) => (Some(state), None),
            Err(violation) => (None, Some(violation)),
        };
        let mut failure = failure;
        if let Some(state) = state {
            if !seen.insert(state.hash()) {
                path.pop();
                continue;
            }
            report.states += 1;
            report.deepest = report.deepest.max(path.len());
            let moves = state.moves();
            let too_deep = path.len() >= bounds.depth;
            if moves.is_empty() || too_deep {
                report.ends += u64::from(moves.is_empty());
                report.too_deep += u64::from(too_deep && !moves.is_empty());
                let follow = state.hash().is_multiple_of(bounds.settle_one_of.max(1));
                report.settled += u64::from(follow);
                failure = state.judge(follow).err();
                if failure.is_none() {
                    path.pop();
                    continue;
                }
            } else {
                stack.push(Frame { state, moves: moves.into_iter() });
            }
        }
        if let Some(violation) = failure {
            report.failure = Some((violation, story(start, bounds, &path)));
            report.complete = false;
            return Ok(report);
        }
        if report.states >= bounds.states || begin.elapsed() > bounds.time {
            report.complete = false;
            return Ok(report);
        }
    }
    report.complete = report.too_deep == 0;
    Ok(report)
}

/// The moves of a branch in words.
fn story(start: Start, bounds: &Bounds, path: &[Move]) -> Vec<String> {
    let Ok(mut state) = start.state(bounds) else { return Vec::new() };
    let mut lines = Vec::new();
    let mut memo = Memo::default();
    for step in path {
        lines.push(state.describe(*step));
        match state.after(*step, &mut memo) {
            Ok(next) => {
                lines.extend(next.news(&state));
                state = next;
            }
            Err(violation) => lines.push(violation.to_string()),
        }
    }
    lines
}
