//! Delivery services.

use std::fmt;

use spread_wire::ServiceType;

/// How a message is delivered: one of six services, and whether the sender wants its own copy.
///
/// spec: group-semantics 1.2. All services but the first two share one total order over all groups.
///
/// ```
/// use spread::Service;
///
/// let service = Service::AGREED.self_discard();
/// assert!(service.is_self_discard());
/// assert_eq!(service.kind(), Service::AGREED);
/// assert_eq!(service.to_string(), "agreed, self-discard");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service(u32);

impl Service {
    /// May be lost, any order. Spread treats it as [`RELIABLE`](Self::RELIABLE).
    pub const UNRELIABLE: Self = Self(0x01);
    /// Not lost between connected daemons, any order.
    pub const RELIABLE: Self = Self(0x02);
    /// Messages of one sender in their order.
    pub const FIFO: Self = Self(0x04);
    /// An order that respects cause and effect.
    pub const CAUSAL: Self = Self(0x08);
    /// One total order for all receivers.
    pub const AGREED: Self = Self(0x10);
    /// The total order, and delivered only once every daemon of the membership has the message.
    pub const SAFE: Self = Self(0x20);

    /// The six services, weakest first.
    pub const ALL: [Self; 6] =
        [Self::UNRELIABLE, Self::RELIABLE, Self::FIFO, Self::CAUSAL, Self::AGREED, Self::SAFE];

    const SELF_DISCARD: u32 = 0x40;
    const KINDS: u32 = 0x3f;

    /// Gives the same service with the wish that the sender gets no copy.
    #[must_use]
    pub const fn self_discard(self) -> Self {
        Self(self.0 | Self::SELF_DISCARD)
    }

    /// Tells whether the sender gets no copy. The receivers of a message see this too.
    pub const fn is_self_discard(self) -> bool {
        self.0 & Self::SELF_DISCARD != 0
    }

    /// Gives the service alone, without the self-discard mark.
    #[must_use]
    pub const fn kind(self) -> Self {
        Self(self.0 & Self::KINDS)
    }

    /// Tells whether messages of this service are part of the total order (FIFO and stronger).
    pub const fn is_ordered(self) -> bool {
        self.0 & 0x3c != 0
    }

    /// Gives the bits as the protocol writes them (spec: client-protocol 3.3).
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Reads the service out of the type field of a message; `None` unless exactly one service bit is set.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if (bits & Self::KINDS).count_ones() == 1 {
            Some(Self(bits & (Self::KINDS | Self::SELF_DISCARD)))
        } else {
            None
        }
    }
}

impl From<Service> for ServiceType {
    fn from(service: Service) -> Self {
        Self(service.0)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind() {
            Self::UNRELIABLE => "unreliable",
            Self::RELIABLE => "reliable",
            Self::FIFO => "FIFO",
            Self::CAUSAL => "causal",
            Self::AGREED => "agreed",
            _ => "safe",
        })?;
        if self.is_self_discard() { f.write_str(", self-discard") } else { Ok(()) }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({self})")
    }
}
