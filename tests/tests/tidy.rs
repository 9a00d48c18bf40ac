//! The house itself: what the tree must not contain, links of the documents, dependencies of pure crates.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files of the tree: what git tracks, and what it would.
fn files() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let output = git.output().expect("git is needed to list the files");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<PathBuf> = names.lines().map(|name| root().join(name)).filter(|p| p.is_file()).collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    files
}

fn name_of(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|e| endings.iter().any(|known| e == *known))
}

#[test]
fn no_machine_paths_no_unfinished_work() {
    // In two halves, so that this file does not find itself.
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ign", "ore"),
        concat!("FIX", "ME"),
        concat!("index.crates", ".io"),
    ];
    let mut found = Vec::new();
    for path in files() {
        if !has_ending(&path, &["rs", "md", "toml", "sh", "conf", "c", "h", "html", "js", "css"]) {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for (number, line) in (1..).zip(text.lines()) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", name_of(&path)));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut broken = Vec::new();
    let mut links = 0;
    for path in files().iter().filter(|path| has_ending(path, &["md"])) {
        let text = fs::read_to_string(path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or(target);
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            links += 1;
            if !path.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", name_of(path)));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(links > 5, "only {links} links found");
}

/// Pure crates depend on almost nothing (docs/dependencies.md): the direct dependencies are these, and the
/// whole tree of a release build stays small.
#[test]
fn pure_crates_depend_on_almost_nothing() {
    let allowed = [
        "access-log",
        "arrayvec",
        "bytes",
        "hashbrown",
        "memchr",
        "mutation",
        "once_cell",
        "pin-project-lite",
        "proc-macro2",
        "quote",
        "rustc-hash",
        "spread-groups",
        "spread-ring",
        "spread-wire",
        "syn",
        "thiserror",
        "thiserror-impl",
        "tracing",
        "tracing-attributes",
        "tracing-core",
        "unicode-ident",
    ];
    for package in ["spread-wire", "spread-ring", "spread-groups", "access-log"] {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--package", package]);
        let output = cargo.current_dir(root()).output().unwrap();
        assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(crates.contains(package), "{crates:?}");
        let more: Vec<_> = crates.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(more.is_empty(), "{package} depends on {more:?}");
    }
}

/// Every pure crate forbids unsafe code and what a pure crate must not do.
#[test]
fn pure_crates_are_pure() {
    for dir in ["wire", "ring", "groups", "accesslog", "backhand"] {
        let lib = fs::read_to_string(root().join(dir).join("src/lib.rs")).unwrap();
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{dir}/src/lib.rs");
        let clippy = fs::read_to_string(root().join(dir).join("clippy.toml")).unwrap();
        for method in ["Instant::now", "SystemTime::now", "thread::spawn", "env::var", "HashMap"] {
            assert!(clippy.contains(method), "{dir}/clippy.toml does not disallow {method}");
        }
    }
}
