//! Reading files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::check::check;
use crate::config::diagnostic::{ConfigErrors, Source};
use crate::config::host::Host;
use crate::config::lexer::lex;
use crate::config::model::Config;
use crate::config::parser;

/// Largest file that is read, in bytes: 128 daemons with long entries fit many times.
pub const FILE_MAX: u64 = 1 << 20;

/// Where the file is looked for when none is given: the directory the daemon is started in, then the system's.
pub const SEARCH: [&str; 2] = ["./spread.conf", "/etc/spread.conf"];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{} is larger than {FILE_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file has errors.
    #[error(transparent)]
    Errors(#[from] ConfigErrors),
}

/// The first file of [`SEARCH`] that exists.
pub fn find() -> Option<PathBuf> {
    SEARCH.into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// Reads a `spread.conf`.
///
/// # Errors
/// [`LoadError`]; all errors of the file at once.
pub fn load(path: &Path, host: &dyn Host) -> Result<Config, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    Ok(parse(&path.display().to_string(), &bytes, host)?)
}

/// Reads the text of a `spread.conf`; `name` is what messages call it. Names of daemons without an address
/// are looked up with `host`.
///
/// # Errors
/// All errors of the file.
pub fn parse(name: &str, bytes: &[u8], host: &dyn Host) -> Result<Config, ConfigErrors> {
    let source = Source::new(name, bytes);
    let mut lexed = lex(bytes, &source);
    let (items, more) = parser::parse(&lexed.tokens, bytes);
    lexed.problems.append(more);
    check(&items, &source, bytes, host, lexed.problems, lexed.warnings)
        .map_err(|problems| ConfigErrors::new(source.clone(), problems))
}
