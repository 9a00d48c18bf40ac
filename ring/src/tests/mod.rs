//! Tests of the engine as a whole: a network of values ([`net`]), and one engine alone whose surroundings
//! the test plays ([`lab`]).

#![allow(clippy::cast_possible_truncation, reason = "small numbers of tests")]

mod abilities;
mod basic;
mod chaos;
mod covered;
mod faults;
mod forming;
mod fuzz;
mod lab;
mod large;
mod links;
mod net;
mod reload;
mod rest;
mod rules;

/// A number from the environment, to run a test longer or to repeat one of its seeds.
#[allow(clippy::disallowed_methods, reason = "a test, not the engine")]
fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
