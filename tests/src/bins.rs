//! Finds the programs under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, ensure};

/// When set, programs were built by the caller (`cargo xtask test` does) and are used as they are.
pub const BUILT: &str = "SPREAD_TESTS_BUILT";

/// Path of the binary `name` of package `package`, built if need be.
///
/// # Errors
/// If cargo cannot build it.
pub fn bin(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    build(package)?;
    existing(name)
}

/// Path of the shared library `lib<name>.so` of package `package`, built if need be.
///
/// # Errors
/// If cargo cannot build it.
pub fn shared_library(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    build(package)?;
    existing(&format!("lib{name}.so"))
}

/// Path of the example `name` of package `package`, built if need be.
///
/// # Errors
/// If cargo cannot build it.
pub fn example(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    cargo(package, &["--examples"])?;
    existing(&format!("examples/{name}"))
}

/// `target/<profile>/` of the running test.
fn profile_dir() -> anyhow::Result<PathBuf> {
    let exe = env::current_exe()?;
    let mut dir = exe.parent().context("the test program has no folder")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps has no parent")?;
    }
    Ok(dir.to_owned())
}

fn existing(file: &str) -> anyhow::Result<PathBuf> {
    let path = profile_dir()?.join(file);
    ensure!(path.exists(), "{} is not there; run `cargo build --workspace`", path.display());
    Ok(path)
}

fn build(package: &str) -> anyhow::Result<()> {
    cargo(package, &[])
}

fn cargo(package: &str, targets: &[&str]) -> anyhow::Result<()> {
    static DONE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let what = [&[package], targets].concat().join(" ");
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if env::var_os(BUILT).is_some() || done.contains(&what) {
        return Ok(());
    }
    let dir = profile_dir()?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package]).args(targets);
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    cargo.current_dir(root).env("CARGO_TARGET_DIR", dir.parent().context("no target folder")?);
    let status = cargo.status().context("cargo could not be started")?;
    ensure!(status.success(), "cargo could not build {package}");
    done.push(what);
    Ok(())
}
