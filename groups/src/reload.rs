//! Another list of daemons while the engine runs.
//!
//! Node numbers are positions in the list, so daemons that stay may get other ones. Nothing else changes: the
//! table, the sessions and what waits for its turn stay as they are, and clients notice nothing.

use crate::groups::Groups;
use crate::types::{ConfigError, GroupsConfig, Nodes};

/// Why a list of daemons cannot take the place of the present one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The list contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This daemon would have another name: its sessions have names with the present one.
    #[error("the name of this daemon cannot change")]
    Renamed,
    /// The ring is being changed, or tables are being exchanged.
    #[error("the membership of the ring changes at this moment")]
    Unsettled,
    /// A daemon of the present configuration of the ring is not in the list, or two would be one.
    #[error("a daemon of the ring's configuration is not in the list")]
    Missing,
}

impl Groups {
    /// Takes another list of daemons. `numbers` are the new node numbers by old one, `None` for daemons that are
    /// not in the new list. To be called when the present configuration of the ring consists of daemons that
    /// stay, and all have the same table ([`Groups::is_synced`]); what the ring reports afterwards has the new
    /// numbers.
    ///
    /// # Errors
    /// [`ReconfigureError`]; nothing has changed then.
    pub fn reconfigure(
        &mut self,
        config: GroupsConfig,
        numbers: &[Option<u16>],
    ) -> Result<(), ReconfigureError> {
        config.check()?;
        let GroupsConfig { daemons, me } = config;
        if daemons.get(usize::from(me)).map(|d| d.name) != Some(self.name()) {
            return Err(ReconfigureError::Renamed);
        }
        let Some(mut present) = self.config.filter(|_| self.is_synced() && self.transition.is_none()) else {
            return Err(ReconfigureError::Unsettled);
        };
        let new = |node: u16| {
            let node = numbers.get(usize::from(node)).copied().flatten()?;
            (usize::from(node) < daemons.len()).then_some(node)
        };
        let old: Vec<u16> = (0..128).filter(|node| present.members.contains(*node)).collect();
        let members: Vec<u16> = old.iter().filter_map(|node| new(*node)).collect();
        let set = Nodes::of(&members);
        if members.len() != old.len() || set.len() != old.len() || new(self.me) != Some(me) {
            return Err(ReconfigureError::Missing);
        }
        present.members = set;
        present.id.rep = new(present.id.rep).unwrap_or(present.id.rep);
        // A group has members on daemons of the configuration only, and all of these have new numbers.
        self.table.renumber(|node| new(node).unwrap_or(node));
        self.config = Some(present);
        self.side = set;
        self.daemons = daemons;
        self.me = me;
        Ok(())
    }
}
