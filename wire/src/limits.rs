//! Sizes and counts of the protocol.
//!
//! Source: `spec/client-protocol.md#7.1`.

/// Port of a segment that names none.
pub const DEFAULT_PORT: u16 = 4803;
/// Bytes of a name field on the wire, with room for a terminating zero.
pub const GROUP_FIELD: usize = 32;
/// Longest group name the client libraries accept, in bytes.
pub const GROUP_NAME_MAX: usize = 31;
/// Longest private name of a session, in bytes.
pub const PRIVATE_NAME_MAX: usize = 10;
/// Longest daemon name, in bytes.
pub const DAEMON_NAME_MAX: usize = 19;
/// Bytes of the message header.
pub const HEADER: usize = 48;
/// Bytes between header and names of a rejected message.
pub const REJECT_WORD: usize = 4;
/// Most group names in a message of a client.
pub const GROUPS_MAX: usize = 100;
/// Largest S (names and data together, in bytes) of a client's message that can be carried.
///
/// The header check of Spread 5.0.1 admits up to 143 952 and then aborts above this value; we refuse here.
pub const BODY_MAX: usize = 143_152;
/// Largest `data_len` in a client's header, before S is looked at.
pub const DATA_MAX: usize = 144_000;
/// Largest body that a client takes from a daemon, in bytes.
///
/// The protocol sets no limit; a membership message of 128 daemons with 997 sessions each, all of them in one
/// group and named twice, stays below it.
pub const RECEIVED_BODY_MAX: usize = 16 << 20;
/// Most scatter elements in a call of the C library.
pub const SCATTER_MAX: usize = 100;
/// Sessions of a Spread 5.0.1 daemon.
pub const SESSIONS_MAX: usize = 997;
/// Sessions of one process in the C library.
pub const PROCESS_SESSIONS_MAX: usize = 1024;
/// Slots of the authentication choice.
pub const AUTH_SLOTS: usize = 3;
/// Bytes of a slot of the authentication choice.
pub const AUTH_SLOT: usize = 30;
/// Bytes of the authentication choice, and most text bytes in the method list.
pub const AUTH_CHOICE: usize = AUTH_SLOTS * AUTH_SLOT;
/// Bytes of the user field of the `PWORD` exchange.
pub const PWORD_USER: usize = 32;
/// Bytes of the password field of the `PWORD` exchange.
pub const PWORD_PASSWORD: usize = 8;
/// Default of `MaxSessionMessages`: messages queued for a slow reader before it is dropped.
pub const SESSION_MESSAGES: u32 = 1000;
/// Messages waiting for the ring at which the daemon stops reading from its sessions.
pub const INPUT_HIGH_WATER: usize = 500;
/// Time a new connection has for its hello, in milliseconds.
pub const HELLO_TIMEOUT_MS: u64 = 1000;
/// Members of one group on one daemon.
pub const LOCAL_MEMBERS_MAX: usize = 3122;
/// Size the socket buffers are raised to, in bytes.
pub const SOCKET_BUFFER: usize = 200 << 10;
