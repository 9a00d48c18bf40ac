//! The driver of the ring engine: sockets, protection of packets, batching, and the loop that owns them.
//!
//! The engine (`spread_ring::Ring`) decides; this module moves bytes. One thread owns everything here:
//!
//! ```text
//!   data socket, multicast socket, token socket          eventfd (submissions, commands)
//!                  | recvmmsg + UDP_GRO                      |
//!                  v                                         v
//!   checks, open in place, replay window  ---->  spread_ring::Ring  <---->  Upper (groups, sessions)
//!                                                    |
//!                  sendmmsg + UDP_SEGMENT  <----  sealed in order of emission
//! ```
//!
//! spec: ring-protocol 2.1, 2.6, 6.2, 6.3

#[doc(hidden)]
pub mod bare;
mod batch;
mod blackbox;
mod driver;
mod header;
mod keys;
mod order;
mod peers;
mod replay;
mod seal;
mod sockets;
mod stats;
mod sys;
mod thread;
mod transport;
mod waker;
mod watch;

pub use driver::Upper;
pub use keys::{Cipher, KeyFileError, KeyRing};
pub use order::{Order, Reconfiguration, View, check_network};
pub use seal::{Aead, Checksum, Protection, Sealer, TRAILER_MAX};
pub use sockets::{SocketError, SocketOptions, interface_mtu, packet_len_max};
pub use stats::{DropReason, IoStats};
pub(crate) use thread::outlook;
pub use thread::{Asker, DriverConfig, Handle, Report, StartError, new_boot, start};
pub use transport::{Network, NetworkError, NodeAddr, SegmentAddr};
pub use waker::Waker;
pub use watch::{CHANGES_MAX, Change, Link, Outlook};
