//! Tests of the engine as a whole: a network of values ([`net`]), and one engine alone whose surroundings
//! the test plays ([`lab`]).

mod basic;
mod chaos;
mod forming;
mod lab;
mod net;
mod rules;
