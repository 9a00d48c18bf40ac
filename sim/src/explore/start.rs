//! Where an exploration begins.

use std::sync::Arc;
use std::time::Duration;

use spread_ring::{Boot, Nanos, NodeId, Ring, RingConfig, Service};

use super::Bounds;
use super::state::{State, Step};
use crate::oracle::Violation;

/// What the clocks show at the begin.
pub(super) const CLOCK: u64 = 1_000_000_000;

/// A beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Two daemons that were just started.
    Boot,
    /// A ring of two that rests; one message each will be submitted, one of them SAFE.
    Two,
    /// A ring of three that rests; a SAFE message will be submitted at the second daemon.
    Three,
    /// Three daemons, of which the third died: its message reached nobody, and a later SAFE one of the first did not
    /// reach the second. These two begin to form a ring.
    Hole,
    /// A ring of two and a daemon alone, which have just found each other.
    Merge,
}

impl Start {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Boot, Self::Two, Self::Three, Self::Hole, Self::Merge];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Two => "two",
            Self::Three => "three",
            Self::Hole => "hole",
            Self::Merge => "merge",
        }
    }

    fn nodes(self) -> usize {
        match self {
            Self::Boot | Self::Two => 2,
            Self::Three | Self::Hole | Self::Merge => 3,
        }
    }

    pub(super) fn state(self, bounds: &Bounds) -> Step<State> {
        let n = self.nodes();
        let mut state = State::new((0..n).map(|at| ring(n, at, 0)).collect::<Result<_, _>>()?)?;
        let whole = |state: &State| {
            let rings = state.nodes.iter().flatten();
            rings.clone().all(|node| node.ring.is_operational() && node.conf.1.len() == n)
        };
        let limit = 30_000_000_000;
        let plan: &[(usize, Service)] = match self {
            Self::Boot => {
                // Up to the first joins: everybody was heard.
                state.run(limit, |state| state.ways.values().flatten().any(is_join))?;
                &[]
            }
            Self::Two => &[(0, Service::Agreed), (1, Service::Safe)],
            Self::Three => &[(1, Service::Safe)],
            Self::Hole | Self::Merge => &[],
        };
        if matches!(self, Self::Two | Self::Three | Self::Hole) {
            if !state.run(limit, whole)? {
                return Err(Violation { promise: "G10", what: "no ring to begin with".to_owned() });
            }
            // The token comes to rest.
            state.run(50_000_000, |_| false)?;
        }
        match self {
            Self::Hole => {
                // Its token gets out, its packet does not.
                state.submit(2, Service::Agreed)?;
                lose_data_of(&mut state, 2, limit)?;
                state.submit(0, Service::Safe)?;
                lose_data_of(&mut state, 0, limit)?;
                state.crash(2);
                let commits = |state: &State| state.ways.values().flatten().any(is_commit);
                if !state.run(limit, commits)? {
                    return Err(Violation { promise: "G10", what: "nobody forms a ring".to_owned() });
                }
            }
            Self::Merge => {
                state.cut = 1 << 2;
                let pair = |state: &State| {
                    let mut pair = state.nodes.iter().flatten().take(2);
                    pair.all(|node| node.ring.is_operational() && node.conf.1.len() == 2)
                };
                state.run(limit, pair)?;
                state.run(1_000_000_000, |_| false)?;
                state.cut = 0;
                state.run(limit, |state| state.ways.values().flatten().any(is_join))?;
            }
            _ => {}
        }
        state.begin(bounds, plan);
        Ok(state)
    }
}

fn is_kind(flying: &super::state::Flying, kind: spread_ring::wire::Kind) -> bool {
    flying.packet.get(3).copied() == Some(kind as u8)
}

fn is_join(flying: &super::state::Flying) -> bool {
    is_kind(flying, spread_ring::wire::Kind::Join)
}

fn is_commit(flying: &super::state::Flying) -> bool {
    is_kind(flying, spread_ring::wire::Kind::Commit)
}

fn is_data(flying: &super::state::Flying) -> bool {
    is_kind(flying, spread_ring::wire::Kind::Data)
}

/// Goes on until a node sends data; these packets are lost.
fn lose_data_of(state: &mut State, node: u8, limit: u64) -> Step<()> {
    let sends = |state: &State| state.ways.iter().any(|(way, q)| way.0 == node && q.iter().any(is_data));
    state.run(limit, sends)?;
    state.ways.iter_mut().filter(|(way, _)| way.0 == node).for_each(|(_, q)| q.retain(|f| !is_data(f)));
    Ok(())
}

/// A daemon whose times are such that each limit passes after few timers, and signs of life are rare.
/// `life`: how many processes were started before it, or 0.
pub(super) fn ring(nodes: usize, at: usize, life: u64) -> Result<Ring, Violation> {
    let me = NodeId(u16::try_from(at).unwrap_or(0));
    let mut cfg = RingConfig::new(me, vec![0; nodes], [0x5a; 16]);
    let ms = Duration::from_millis;
    let t = &mut cfg.timers;
    (t.token, t.presence, t.dead) = (ms(500), ms(2000), ms(8000));
    (t.join, t.consensus, t.commit) = (ms(250), ms(200), ms(300));
    (t.rto_min, t.rto_max) = (ms(300), ms(300));
    cfg.acks = Some(false);
    let mut seed = [7; 32];
    seed[0] = u8::try_from(at).unwrap_or(0);
    seed[1] = u8::try_from(life).unwrap_or(u8::MAX);
    let boot = Boot { session: 0x1111 * (at as u64 + 1) + (life << 16), epoch_min: 2, seed };
    Ring::new(Arc::new(cfg), boot, Nanos(CLOCK))
        .map_err(|err| Violation { promise: "PANIC", what: format!("the configuration is refused: {err}") })
}
