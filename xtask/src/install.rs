//! Installs what a command lacks, and says so.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A Debian package and a file or program by which its presence is seen.
pub(crate) type Package = (&'static str, &'static str);

/// To build and run Apache modules. `apache2-bin` is the server without Debian's site and service.
pub(crate) const APACHE: &[Package] = &[
    ("apache2-bin", "apache2"),
    ("apache2-dev", "apxs"),
    ("libclang-dev", "/usr/share/doc/libclang-dev"),
    ("gcc", "gcc"),
    ("libc6-dev", "/usr/include/stdio.h"),
    // A client that speaks HTTP/2.
    ("curl", "curl"),
];

/// To make hosts in network namespaces and cut the network between them.
pub(crate) const HOSTS: &[Package] = &[("iproute2", "ip"), ("nftables", "nft")];

/// The interpreter for the example in Python.
pub(crate) const PYTHON: &[Package] = &[("python3-minimal", "python3")];

/// The client library of Kafka, which has a mock broker.
pub(crate) const KAFKA: &[Package] = &[
    ("librdkafka-dev", "/usr/include/librdkafka/rdkafka.h"),
    ("pkg-config", "pkg-config"),
    ("gcc", "gcc"),
    ("libc6-dev", "/usr/include/stdio.h"),
];

/// A real server for `log_writer ship`.
pub(crate) const CLICKHOUSE: &[Package] = &[("clickhouse-server", "clickhouse-server")];

/// A browser for the test of the web page.
pub(crate) const BROWSER: &[Package] = &[("chromium", "chromium"), ("chromium-driver", "chromedriver")];

/// Apache, and other ways of its log to compare with.
pub(crate) const LOG_RIVALS: &[Package] = &[
    ("apache2-bin", "apache2"),
    ("apache2-dev", "apxs"),
    ("libclang-dev", "/usr/share/doc/libclang-dev"),
    ("gcc", "gcc"),
    ("libc6-dev", "/usr/include/stdio.h"),
    ("apache2-utils", "rotatelogs"),
    ("rsyslog", "rsyslogd"),
];

/// Log analyzers to compare with.
pub(crate) const RIVALS: &[Package] = &[("goaccess", "goaccess"), ("mawk", "mawk")];

/// Installs those of `packages` that are missing.
pub(crate) fn packages(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, sign)| !has(sign)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !has("apt-get") {
        bail!("these Debian packages (or what corresponds to them here) are needed: {}", missing.join(" "));
    }
    if !is_root() {
        bail!("please run: sudo apt-get install {}", missing.join(" "));
    }
    println!("xtask: installing {}", missing.join(" "));
    apt(&["-qq", "update"])?;
    apt(&[&["-qq", "-y", "--no-install-recommends", "install"], &missing[..]].concat())
}

/// Whether a program is on the path, or a file exists.
pub(crate) fn has(sign: &str) -> bool {
    if sign.starts_with('/') {
        return Path::new(sign).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // A user's path often lacks the folders of system programs; they can be run all the same.
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(sign).is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().context("apt-get could not be started")?;
    ensure!(status.success(), "apt-get {} failed", args.join(" "));
    Ok(())
}
