//! The program behind `cargo xtask dist`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use dist::tree::Tree;
use dist::{c, pages};

/// Stages an installation of what was built
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  cargo xtask dist --destdir stage --prefix /usr     for a package
  sudo cargo xtask dist                              into /usr/local
  cargo xtask dist --part c --prefix ~/spread        only the C libraries"
)]
struct Args {
    /// Where it will be installed
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Put before all names while files are written
    #[arg(long, value_name = "DIR")]
    destdir: Option<PathBuf>,
    /// Folder of libraries, under the prefix
    #[arg(long, value_name = "DIR", default_value = "lib")]
    libdir: PathBuf,
    /// Folder of Apache's modules, under the prefix unless absolute. Default: where `apxs` says, if that is under
    /// the prefix, or else lib/apache2/modules
    #[arg(long, value_name = "DIR")]
    moduledir: Option<PathBuf>,
    /// Take debug information out of programs and libraries
    #[arg(long)]
    strip: bool,
    /// Only these parts; may be repeated
    #[arg(long = "part", value_enum, value_name = "PART")]
    parts: Vec<Part>,
    /// Where cargo left what it built
    #[arg(long, value_name = "DIR")]
    built: PathBuf,
    /// Folder of the sources
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// spreadd, log_writer, the monitors and the tools
    Programs,
    /// C libraries, headers, pkg-config
    C,
    /// mod_log_spread and mod_backhand
    Apache,
    /// Man pages
    Man,
    /// Completions for bash, zsh and fish
    Completions,
    /// Services of systemd
    Systemd,
    /// Documents
    Doc,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dist: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if !args.prefix.is_absolute() {
        bail!("--prefix {}: an absolute path is needed", args.prefix.display());
    }
    let mut tree = Tree {
        destdir: args.destdir.clone().unwrap_or_default(),
        prefix: args.prefix.clone(),
        libdir: args.libdir.clone(),
        moduledir: args.moduledir.clone().unwrap_or_else(|| module_dir(&args.prefix)),
        strip: args.strip,
        written: Vec::new(),
    };
    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    for part in parts {
        match part {
            Part::Programs => {
                for name in pages::names() {
                    tree.copy_binary(&args.built.join(&name), Path::new("bin").join(&name), 0o755)?;
                }
            }
            Part::C => c::stage(&mut tree, &args.built, &args.root)?,
            Part::Apache => {
                for name in ["mod_log_spread", "mod_backhand"] {
                    let to = tree.moduledir.join(format!("{name}.so"));
                    tree.copy_binary(&args.built.join(format!("lib{name}.so")), to, 0o644)?;
                }
            }
            Part::Man => pages::stage_man(&mut tree, &args.root)?,
            Part::Completions => pages::stage_completions(&mut tree)?,
            Part::Systemd => systemd(&mut tree, &args.root)?,
            Part::Doc => documents(&mut tree, &args.root)?,
        }
    }
    for path in &tree.written {
        println!("{}", tree.staged(path).display());
    }
    Ok(())
}

/// Where this machine's Apache looks for modules, if an installation under the prefix may write there.
fn module_dir(prefix: &Path) -> PathBuf {
    let asked = Command::new("apxs").args(["-q", "LIBEXECDIR"]).output().ok();
    let text = asked.filter(|out| out.status.success()).and_then(|out| String::from_utf8(out.stdout).ok());
    text.map(|text| PathBuf::from(text.trim()))
        .filter(|dir| dir.starts_with(prefix))
        .unwrap_or_else(|| "lib/apache2/modules".into())
}

/// The services of `packaging/`, which are written for `/usr`.
fn systemd(tree: &mut Tree, root: &Path) -> anyhow::Result<()> {
    let bin = tree.installed("bin");
    for path in files(&root.join("packaging"))? {
        let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == "service")) else {
            continue;
        };
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = with_programs_in(&bin, text);
        tree.write(Path::new("lib/systemd/system").join(name), text, 0o644)?;
    }
    Ok(())
}

/// The text of a service with the programs where they are installed.
fn with_programs_in(bin: &Path, text: String) -> String {
    pages::names().iter().fold(text, |text, program| {
        let ours = bin.join(program).display().to_string();
        // Once for both places: the new name may end with one of them.
        text.replace(&format!("/usr/sbin/{program}"), &format!("/usr/bin/{program}"))
            .replace(&format!("/usr/bin/{program}"), &ours)
    })
}

fn documents(tree: &mut Tree, root: &Path) -> anyhow::Result<()> {
    let to = Path::new("share/doc/spread-rs");
    for name in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        tree.copy(&root.join(name), to.join(name), 0o644)?;
    }
    for dir in ["docs", "docs/reference", "docs/operate", "docs/internals", "docs/images"] {
        for path in files(&root.join(dir))? {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
            tree.copy(&path, to.join(relative), 0o644)?;
        }
    }
    Ok(())
}

/// The files of a folder, in the order of their names; none if it is not there.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_start_the_programs_of_this_prefix() {
        let text = "ExecStart=/usr/sbin/spreadd -c /etc/spread.conf\nExecStartPre=/usr/bin/spmonitor\n";
        for prefix in ["/usr", "/usr/local", "/opt/spread/usr"] {
            let bin = Path::new(prefix).join("bin");
            assert_eq!(
                with_programs_in(&bin, text.to_owned()),
                format!(
                    "ExecStart={prefix}/bin/spreadd -c /etc/spread.conf\nExecStartPre={prefix}/bin/spmonitor\n"
                )
            );
        }
    }
}
