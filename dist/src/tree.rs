//! The tree that is staged.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A place for an installation: files are written under `destdir`, and name each other under `prefix`.
#[derive(Debug)]
pub struct Tree {
    /// Put before the prefix, for packages; empty for an installation on this machine.
    pub destdir: PathBuf,
    /// Where it is installed, as `/usr/local`.
    pub prefix: PathBuf,
    /// Folder of libraries under the prefix, as `lib` or `lib/x86_64-linux-gnu`.
    pub libdir: PathBuf,
    /// Folder of Apache's modules; under the prefix, unless absolute.
    pub moduledir: PathBuf,
    /// Whether debug information is taken out of programs and libraries.
    pub strip: bool,
    /// What was written, as it is named after the installation.
    pub written: Vec<PathBuf>,
}

impl Tree {
    /// Gives the place of an installed file while it is staged.
    pub fn staged(&self, installed: &Path) -> PathBuf {
        match installed.strip_prefix("/") {
            Ok(relative) if !self.destdir.as_os_str().is_empty() => self.destdir.join(relative),
            _ => installed.to_owned(),
        }
    }

    /// Gives the name of a file after the installation; `path` is under the prefix unless absolute.
    pub fn installed(&self, path: impl AsRef<Path>) -> PathBuf {
        self.prefix.join(path)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(
        &mut self,
        path: impl AsRef<Path>,
        bytes: impl AsRef<[u8]>,
        mode: u32,
    ) -> anyhow::Result<()> {
        let to = self.place(path.as_ref())?;
        fs::write(&to, bytes)
            .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write {}", to.display()))
    }

    /// Copies a file.
    ///
    /// # Errors
    /// If it is not there or cannot be written.
    pub fn copy(&mut self, from: &Path, path: impl AsRef<Path>, mode: u32) -> anyhow::Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, bytes, mode)
    }

    /// Copies a program or library.
    ///
    /// # Errors
    /// As [`copy`](Self::copy); or `strip` is not there or fails.
    pub fn copy_binary(&mut self, from: &Path, path: impl AsRef<Path>, mode: u32) -> anyhow::Result<()> {
        self.copy(from, path.as_ref(), mode)?;
        if self.strip {
            let to = self.staged(&self.installed(path));
            let status = Command::new("strip").arg("--strip-debug").arg(&to).status();
            let status = status.context("cannot start `strip` (Debian: binutils)")?;
            ensure!(status.success(), "strip {} failed: {status}", to.display());
        }
        Ok(())
    }

    /// Makes a symbolic link beside its target.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn link(&mut self, target: &str, path: impl AsRef<Path>) -> anyhow::Result<()> {
        let to = self.place(path.as_ref())?;
        symlink(target, &to).with_context(|| format!("cannot link {}", to.display()))
    }

    /// Makes room for a file: its folder is there, and no older file of that name.
    fn place(&mut self, path: &Path) -> anyhow::Result<PathBuf> {
        let installed = self.installed(path);
        let to = self.staged(&installed);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        // Not written over: programs that run from it would end, and a link would be followed.
        match fs::remove_file(&to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", to.display()));
            }
            _ => {}
        }
        self.written.push(installed);
        Ok(to)
    }
}
