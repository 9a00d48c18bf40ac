//! Optional abilities: a ring uses those that all of its members have, so that daemons of different versions can
//! form one, and a rolling upgrade needs no pause.
//!
//! Every join carries the abilities of its sender; they do not change while a process runs. What is not known of
//! a member counts as not there: at worst the ring does without, never does a member get what it does not
//! understand. Packets of another wire *version* ([`VERSION`](crate::wire::VERSION)) are refused altogether.

use crate::ring::Ring;
use crate::types::Mid;

/// Acks ([`Kind::Ack`](crate::wire::Kind::Ack)) make SAFE messages safe before the token is back.
pub const FEATURE_ACKS: u32 = 1 << 0;
/// The token of an idle ring rests, and comes when a member asks for it.
pub const FEATURE_PARK: u32 = 1 << 1;
/// All that this version knows.
pub const FEATURES: u32 = FEATURE_ACKS | FEATURE_PARK;

impl Ring {
    /// The `FEATURE_*` that all members of the configuration share.
    pub fn features(&self) -> u32 {
        self.conf.features
    }

    /// What these processes share, as far as known here.
    pub(crate) fn shared_features(&self, members: &[Mid]) -> u32 {
        let of = |mid: &Mid| if *mid == self.me { self.cfg.features } else { self.hearing.features(*mid) };
        members.iter().map(of).fold(FEATURES, |all, own| all & own)
    }
}
