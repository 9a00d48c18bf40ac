//! What is done with messages for a client that does not read them.
//!
//! Each frame has an action, chosen by the groups it is sent to. Only data is ever dropped: a client that misses
//! a membership message would be wrong about its groups from then on.

use bytes::Bytes;
use spread_wire::limits::{GROUP_FIELD, HEADER};
use spread_wire::{ByteOrder, GroupName, ServiceType};

use super::rules::Glob;

/// What happens to a message when too many wait for its receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlowAction {
    /// The client is disconnected, as Spread 5 does it.
    #[default]
    Disconnect,
    /// The oldest messages are dropped.
    DropOldest,
    /// New messages are dropped.
    DropNewest,
    /// Messages wait on disk; when that is full the client is disconnected.
    Spill,
}

impl SlowAction {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("disconnect", Self::Disconnect),
        ("drop-oldest", Self::DropOldest),
        ("drop-newest", Self::DropNewest),
        ("spill", Self::Spill),
    ];
}

/// Which action holds for which message.
#[derive(Clone, Debug, Default)]
pub struct SlowRules {
    default: SlowAction,
    groups: Vec<(Glob, SlowAction)>,
}

impl SlowRules {
    /// `default` for all messages, but for those to a group that a pattern of `groups` fits the action of the first
    /// such pattern. In a pattern `*` stands for any text.
    pub fn new<'a>(default: SlowAction, groups: impl IntoIterator<Item = (&'a str, SlowAction)>) -> Self {
        let groups = groups.into_iter().map(|(pattern, action)| (Glob::new(pattern), action)).collect();
        Self { default, groups }
    }

    /// Whether every message has [`SlowAction::Disconnect`].
    pub fn is_plain(&self) -> bool {
        self.actions().all(|action| action == SlowAction::Disconnect)
    }

    /// Whether some message may be written to disk.
    pub(crate) fn may_spill(&self) -> bool {
        self.actions().any(|action| action == SlowAction::Spill)
    }

    fn actions(&self) -> impl Iterator<Item = SlowAction> + '_ {
        std::iter::once(self.default).chain(self.groups.iter().map(|(_, action)| *action))
    }

    /// The action for a frame that begins with `head`: header and names, as the group engine writes them.
    pub(crate) fn action(&self, head: &Bytes) -> SlowAction {
        let keeps = match self.default {
            SlowAction::Spill => SlowAction::Spill,
            _ => SlowAction::Disconnect,
        };
        let word = |at: usize| head.get(at..at + 4)?.try_into().ok();
        let Some(service) = word(0).map(|word| ServiceType::from_word(word, ByteOrder::of_word(word))) else {
            return keeps;
        };
        if !service.is_regular() || service.intersects(ServiceType::REJECT) {
            return keeps;
        }
        if self.groups.is_empty() {
            return self.default;
        }
        let count = word(36).map_or(0, u32::from_le_bytes) as usize;
        let names = head.get(HEADER..).unwrap_or_default().as_chunks::<GROUP_FIELD>().0;
        let names: Vec<_> = names.iter().take(count).map(|field| GroupName::from_field(*field)).collect();
        let found =
            self.groups.iter().find(|(glob, _)| names.iter().any(|name| glob.matches(name.as_bytes())));
        found.map_or(self.default, |(_, action)| *action)
    }
}

#[cfg(test)]
mod tests {
    use spread_wire::{Hint, PrivateGroup, build};

    use super::*;

    fn group(name: &str) -> GroupName {
        GroupName::new(name.as_bytes()).unwrap()
    }

    fn data(groups: &[&str]) -> Bytes {
        let groups: Vec<_> = groups.iter().map(|name| group(name)).collect();
        build::multicast(
            ServiceType::AGREED,
            &PrivateGroup::parse(b"#a#d").unwrap().as_group(),
            &groups,
            0,
            3,
        )
        .unwrap()
    }

    #[test]
    fn the_first_pattern_that_fits_a_group_decides() {
        use SlowAction::{Disconnect, DropNewest, DropOldest, Spill};
        let rules = SlowRules::new(Disconnect, [("log.*", Spill), ("*.x", DropNewest), ("m", DropOldest)]);
        for (groups, action) in [
            (&["log.a"][..], Spill),
            (&["other"], Disconnect),
            (&["m", "other"], DropOldest),
            (&["m", "b.x"], DropNewest),
            (&[], Disconnect),
        ] {
            assert_eq!(rules.action(&data(groups)), action, "{groups:?}");
        }
        assert!(!rules.is_plain() && rules.may_spill());
        assert!(SlowRules::default().is_plain());
    }

    #[test]
    fn only_data_is_dropped() {
        let header = |service| {
            let (order, hint) = (ByteOrder::Little, Hint::new(0, ByteOrder::Little));
            let header =
                spread_wire::Header { service, sender: group("g"), num_groups: 0, hint, data_len: 0, order };
            Bytes::copy_from_slice(&header.encode())
        };
        let rules = SlowRules::new(SlowAction::DropOldest, []);
        assert_eq!(rules.action(&header(ServiceType::FIFO)), SlowAction::DropOldest);
        for service in [
            ServiceType::REG_MEMB,
            ServiceType::TRANSITION,
            ServiceType::CAUSED_BY_LEAVE,
            ServiceType::REJECT,
        ] {
            assert_eq!(rules.action(&header(service)), SlowAction::Disconnect, "{service}");
        }
        let rules = SlowRules::new(SlowAction::Spill, []);
        assert_eq!(rules.action(&header(ServiceType::REG_MEMB)), SlowAction::Spill);
        assert_eq!(rules.action(&Bytes::new()), SlowAction::Spill);
    }
}
