//! What crosses crates: test hosts in network namespaces, processes under test, waiting for conditions.
//!
//! The tests themselves are in `tests/tests/`, fixtures in `tests/cases/`.

pub mod apache;
pub mod backhand;
pub mod bins;
pub mod browser;
pub mod cluster;
pub mod crowd;
pub mod fuzz_live;
pub mod load;
pub mod netns;
pub mod process;
pub mod soak;
pub mod survive;
pub mod wait;
pub mod watched;
pub mod weblog;
pub mod wire_client;
