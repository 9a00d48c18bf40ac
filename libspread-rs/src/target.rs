//! What a message can be sent to.

use spread_wire::GroupName;

/// The groups a message goes to: a [`GroupName`] or a list of up to 100.
///
/// Private groups are group names too, see [`PrivateGroup::as_group`](crate::PrivateGroup::as_group).
pub trait Targets {
    /// Gives the names.
    fn names(&self) -> &[GroupName];
}

impl Targets for GroupName {
    fn names(&self) -> &[GroupName] {
        std::slice::from_ref(self)
    }
}

impl Targets for [GroupName] {
    fn names(&self) -> &[GroupName] {
        self
    }
}

impl<const N: usize> Targets for [GroupName; N] {
    fn names(&self) -> &[GroupName] {
        self
    }
}

impl Targets for Vec<GroupName> {
    fn names(&self) -> &[GroupName] {
        self
    }
}

impl<T: Targets + ?Sized> Targets for &T {
    fn names(&self) -> &[GroupName] {
        (**self).names()
    }
}
