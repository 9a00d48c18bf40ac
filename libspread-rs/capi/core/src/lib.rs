//! `libspread-core.so.3`: see the crate `spread-capi`.

pub use spread_capi::*;
