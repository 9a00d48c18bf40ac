//! Stages an installation tree from what a release build left in the target directory.
//!
//! | module | what |
//! |---|---|
//! | [`tree`] | where files go: prefix, staging directory, modes |
//! | [`c`] | C libraries with their names, headers, pkg-config |
//! | [`pages`] | man pages and completions, from the programs' own command lines |
//! | [`roff`] | documents in Markdown as man pages |
//!
//! `cargo xtask dist` builds everything and runs the program of this crate.
#![forbid(unsafe_code)]

pub mod c;
pub mod pages;
pub mod roff;
pub mod tree;
