//! What is staged for an installation: pages that `man` shows without complaint, completions that the shells read, C libraries
//! that a program finds by pkg-config.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tests::bins;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn stage(built: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(bins::bin("dist", "dist").unwrap());
    command.arg("--built").arg(built).arg("--root").arg(root()).args(args);
    command.output().unwrap()
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program if this machine has it.
fn run_if_there(program: &str, args: &[&str], file: &Path) -> Option<Output> {
    match Command::new(program).args(args).arg(file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        output => Some(output.unwrap()),
    }
}

#[test]
fn pages_and_completions_are_read_without_complaint() {
    let dir = TempDir::new().unwrap();
    let destdir = dir.path().to_str().unwrap();
    let parts = ["man", "completions", "doc", "systemd"].map(|part| ["--part", part]).concat();
    let args = [&["--prefix", "/usr", "--destdir", destdir], &parts[..]].concat();
    let printed = good(stage(Path::new("/nowhere"), &args));
    let files: Vec<&Path> = printed.lines().map(Path::new).collect();
    assert!(files.iter().all(|file| file.starts_with(dir.path().join("usr")) && file.is_file()));
    for name in ["man1/spsend.1", "man8/spreadd.8", "man8/spreadd-status.8", "man5/spread.conf.5"] {
        assert!(files.iter().any(|file| file.ends_with(name)), "{name} is not in {printed}");
    }
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let complaint = if file.components().any(|part| part.as_os_str() == "man") {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.contains(".TH") && text.contains(".SH NAME"), "{name}");
            run_if_there("groff", &["-man", "-Tutf8", "-ww", "-z"], file)
        } else if file.components().any(|part| part.as_os_str() == "completions") {
            run_if_there("bash", &["-n"], file)
        } else if name.ends_with(".fish") {
            run_if_there("fish", &["-n"], file)
        } else if name.starts_with('_') {
            run_if_there("zsh", &["-n"], file)
        } else {
            None
        };
        if let Some(output) = complaint {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && text.is_empty(), "{name}: {text}");
        }
    }
}

/// A program is compiled with what pkg-config says of a staged tree, and runs.
#[test]
fn a_c_program_finds_the_libraries_by_pkg_config() {
    let core = bins::shared_library("spread-core", "spread_core").unwrap();
    for (package, name) in [("tspread-core", "tspread_core"), ("spread-full", "spread_full")] {
        bins::shared_library(package, name).unwrap();
    }
    let built = core.parent().unwrap();
    let dir = TempDir::new().unwrap();
    let prefix = dir.path().join("installed");
    good(stage(built, &["--part", "c", "--prefix", prefix.to_str().unwrap()]));
    // A second time: what is there is replaced.
    good(stage(built, &["--part", "c", "--prefix", prefix.to_str().unwrap()]));

    let source = dir.path().join("version.c");
    let text =
        "#include <fl.h>\nint main(void) { int a, b, c; SP_version(&a, &b, &c); return a == 5 ? 0 : 1; }\n";
    fs::write(&source, text).unwrap();
    for name in ["spread-core", "tspread-core", "spread"] {
        let file = prefix.join("lib/pkgconfig").join(format!("{name}.pc"));
        let flags = flags(&file);
        assert!(flags.contains(&format!("-l{name}")), "{flags:?}");
        let program = dir.path().join(name);
        let mut cc = Command::new("cc");
        cc.arg(&source).arg("-o").arg(&program).args(&flags);
        good(cc.output().unwrap());
        let status = Command::new(&program).env("LD_LIBRARY_PATH", prefix.join("lib")).status().unwrap();
        assert!(status.success(), "{name}");
    }
}

/// What pkg-config says, or would say.
fn flags(file: &Path) -> Vec<String> {
    let text = match Command::new("pkg-config").args(["--cflags", "--libs"]).arg(file).output() {
        Ok(output) => good(output),
        Err(_) => {
            let text = fs::read_to_string(file).unwrap();
            let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
            let line = format!("{} {}", value("Cflags: "), value("Libs: "));
            line.replace("${includedir}", &format!("{}/include", value("prefix=")))
                .replace("${libdir}", &value("libdir="))
        }
    };
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn what_is_missing_is_told() {
    let dir = TempDir::new().unwrap();
    let output = stage(Path::new("/nowhere"), &["--part", "c", "--prefix", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /nowhere/libspread_core.so"));
    let output = stage(Path::new("/nowhere"), &["--prefix", "here"]);
    assert_eq!(output.status.code(), Some(1));
}
