//! The sessions of this daemon.

use rustc_hash::FxHashMap;
use spread_wire::GroupName;

use crate::table::Local;
use crate::types::{ConnectError, Recipients, SessionId};

#[derive(Debug)]
pub(crate) struct Session {
    /// Its private group.
    pub(crate) name: GroupName,
    /// Whether it asked for membership messages.
    pub(crate) membership: bool,
    /// Its disconnect is on its way.
    pub(crate) closing: bool,
    /// This session alone.
    pub(crate) alone: Recipients,
}

/// Names are unique. A session and its name stay until its disconnect is delivered.
///
/// spec: client-protocol 2.3, 6.3
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: FxHashMap<SessionId, Session>,
    names: FxHashMap<GroupName, SessionId>,
}

impl Registry {
    pub(crate) fn insert(
        &mut self,
        id: SessionId,
        name: GroupName,
        membership: bool,
    ) -> Result<(), ConnectError> {
        if self.names.contains_key(&name) {
            return Err(ConnectError::NameInUse);
        }
        if self.sessions.contains_key(&id) {
            return Err(ConnectError::SessionInUse);
        }
        self.names.insert(name, id);
        let alone = Recipients::new(&[id]);
        self.sessions.insert(id, Session { name, membership, closing: false, alone });
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub(crate) fn contains_name(&self, name: &GroupName) -> bool {
        self.names.contains_key(name)
    }

    /// The session with this private group.
    #[inline]
    pub(crate) fn id(&self, name: &GroupName) -> Option<SessionId> {
        self.names.get(name).copied()
    }

    /// The session with this private group, as the receiver of a message.
    #[inline]
    pub(crate) fn alone(&self, name: &GroupName) -> Option<&Recipients> {
        self.sessions.get(self.names.get(name)?).map(|s| &s.alone)
    }

    /// The session with this private group, as a member.
    pub(crate) fn local(&self, name: &GroupName) -> Option<Local> {
        let session = self.id(name)?;
        Some(Local { session, membership: self.get(session)?.membership })
    }

    pub(crate) fn remove(&mut self, name: &GroupName) -> Option<SessionId> {
        let id = self.names.remove(name)?;
        self.sessions.remove(&id);
        Some(id)
    }
}
