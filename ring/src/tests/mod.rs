//! Tests of the engine as a whole, in a network of values.

mod basic;
mod chaos;
mod net;
