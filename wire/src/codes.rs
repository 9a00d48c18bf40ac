//! Return codes of the client library; some of them travel on the wire as one signed byte.
//!
//! Source: `spec/client-protocol.md#7.2`.

/// The session is established.
pub const ACCEPT_SESSION: i32 = 1;
/// The connect string cannot be used.
pub const ILLEGAL_SPREAD: i32 = -1;
/// The socket could not be created or connected.
pub const COULD_NOT_CONNECT: i32 = -2;
/// Too many sessions.
pub const REJECT_QUOTA: i32 = -3;
/// No name was given; reserved.
pub const REJECT_NO_NAME: i32 = -4;
/// The private name was refused.
pub const REJECT_ILLEGAL_NAME: i32 = -5;
/// The private name is in use.
pub const REJECT_NOT_UNIQUE: i32 = -6;
/// The versions do not fit.
pub const REJECT_VERSION: i32 = -7;
/// The connection was lost, or the time limit passed while connecting.
pub const CONNECTION_CLOSED: i32 = -8;
/// Authentication failed.
pub const REJECT_AUTH: i32 = -9;
/// No such session in this process.
pub const ILLEGAL_SESSION: i32 = -11;
/// No service bit in a multicast call.
pub const ILLEGAL_SERVICE: i32 = -12;
/// Negative counts in a received header, or not a membership message.
pub const ILLEGAL_MESSAGE: i32 = -13;
/// The group name was refused by join or leave.
pub const ILLEGAL_GROUP: i32 = -14;
/// The receive buffer is too small.
pub const BUFFER_TOO_SHORT: i32 = -15;
/// The array for group names is too small.
pub const GROUPS_TOO_SHORT: i32 = -16;
/// Data and names together are too large.
pub const MESSAGE_TOO_LONG: i32 = -17;
/// The session failed earlier.
pub const NET_ERROR_ON_SESSION: i32 = -18;
/// Internal inconsistency.
pub const SP_BUG: i32 = -19;
/// Malformed time limit.
pub const ILLEGAL_TIME: i32 = -20;
