//! What the tests of this folder share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

pub(crate) mod bus;
pub(crate) mod case;
pub(crate) mod oracle;
