//! TLS around the bytes of a session (feature `tls`).
//!
//! There is no socket and no runtime here: both faces give a [`Session`] a socket that never waits, and wait themselves
//! when it says `WouldBlock`. Inside is the plain protocol, on the wire TLS 1.2 or 1.3 without an application protocol name.

use std::fmt;
use std::io::{self, BufRead as _, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::session::lock;

/// Where systems keep the certificates of public authorities.
const SYSTEM_CA: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom to trust, and who this client is, on connections to `tls://` addresses.
///
/// The default takes each setting from the environment: `SPREAD_TLS_CA`, `SPREAD_TLS_CERT`, `SPREAD_TLS_KEY` and
/// `SPREAD_TLS_NAME`; without an authority the system's list is trusted. Files are PEM; they are read at each attempt to
/// connect, so that renewed ones are used without a restart.
///
/// ```no_run
/// use spread::{Builder, TlsOptions};
///
/// let tls = TlsOptions::default().ca("/etc/spread/ca.pem").identity("/etc/spread/me.pem", "/etc/spread/me.key");
/// let connection = Builder::new("tls://log.example.net:4843")?.tls(tls).connect_blocking()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct TlsOptions {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    name: Option<String>,
}

impl Default for TlsOptions {
    /// Takes the settings from the environment.
    fn default() -> Self {
        let file = |variable| std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self {
            ca: file("SPREAD_TLS_CA"),
            certificate: file("SPREAD_TLS_CERT"),
            key: file("SPREAD_TLS_KEY"),
            name: std::env::var("SPREAD_TLS_NAME").ok().filter(|name| !name.is_empty()),
        }
    }
}

impl TlsOptions {
    /// Trusts the authorities in this file and no others.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Shows the daemon a certificate (its file has the chain too, the client's own first) with its private key.
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some(certificate.into());
        self.key = Some(key.into());
        self
    }

    /// Expects this name in the certificate of the daemon instead of the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?);
        Ok(match (&self.certificate, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| TlsError::file("private key", key, error))?;
                builder.with_client_auth_cert(certificates(certificate)?, private)?
            }
            (certificate, _) => {
                return Err(TlsError::Half {
                    missing: if certificate.is_some() { "key" } else { "certificate" },
                });
            }
        })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca {
            for certificate in certificates(file)? {
                roots.add(certificate)?;
            }
            return Ok(roots);
        }
        let file =
            SYSTEM_CA.into_iter().map(Path::new).find(|file| file.exists()).ok_or(TlsError::NoRoots)?;
        // A system's list may have entries that mean nothing here.
        let (added, _) = roots.add_parsable_certificates(certificates(file)?);
        if added == 0 { Err(TlsError::NoRoots) } else { Ok(roots) }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::file("certificate", file, error))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { file: file.to_owned() });
    }
    Ok(chain)
}

/// What is wrong with the files or the settings of TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read a {what} from {}: {error}", file.display())]
    File { what: &'static str, file: PathBuf, error: String },
    #[error("{} has no certificate", file.display())]
    Empty { file: PathBuf },
    #[error("a certificate and a key are needed together; the {missing} is missing")]
    Half { missing: &'static str },
    #[error("no authority is trusted: name a file with its certificate (SPREAD_TLS_CA)")]
    NoRoots,
    #[error("{0:?} is no name of a host")]
    Name(String),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

impl TlsError {
    fn file(what: &'static str, file: &Path, error: rustls::pki_types::pem::Error) -> Self {
        Self::File { what, file: file.to_owned(), error: error.to_string() }
    }
}

/// The TLS side of one connection; its two halves use it at the same time.
pub(crate) struct Session(Mutex<ClientConnection>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(options: &TlsOptions, host: &str) -> Result<Self, TlsError> {
        let name = options.name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        let connection = ClientConnection::new(Arc::new(options.config()?), name)?;
        Ok(Self(Mutex::new(connection)))
    }

    /// Goes on with the handshake: whether it is done. `WouldBlock`: the socket must become readable first, or writable
    /// if [`is_writing`](Self::is_writing).
    pub(crate) fn handshake(&self, io: &mut (impl Read + Write)) -> io::Result<()> {
        let mut tls = lock(&self.0);
        loop {
            write_out(&mut tls, io)?;
            if !tls.is_handshaking() {
                return Ok(());
            }
            if read_in(&mut tls, io)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Gives arrived data to `take`, which says how much of it it took; 0 is the end.
    pub(crate) fn read(
        &self,
        io: &mut (impl Read + Write),
        take: impl FnOnce(&[u8]) -> usize,
    ) -> io::Result<usize> {
        let mut tls = lock(&self.0);
        loop {
            let mut reader = tls.reader();
            match reader.fill_buf() {
                Ok([]) => return Ok(0),
                Ok(data) => {
                    let n = take(data);
                    reader.consume(n);
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Frames have lengths, so an end without a farewell cuts nothing that would go unnoticed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            if read_in(&mut tls, io)? == 0 {
                return Ok(0);
            }
            // Answers of the protocol itself; what the socket does not take now goes before the next data.
            match write_out(&mut tls, io) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    /// Takes data to be written once all that was taken before is written. What was taken counts as written; see
    /// [`flush`](Self::flush).
    pub(crate) fn write(&self, io: &mut (impl Read + Write), data: &[u8]) -> io::Result<usize> {
        let mut tls = lock(&self.0);
        write_out(&mut tls, io)?;
        let n = tls.writer().write(data)?;
        match write_out(&mut tls, io) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(n),
        }
    }

    /// Writes what was taken.
    pub(crate) fn flush(&self, io: &mut (impl Read + Write)) -> io::Result<()> {
        write_out(&mut lock(&self.0), io)
    }

    /// Whether there is something for [`flush`](Self::flush).
    pub(crate) fn is_writing(&self) -> bool {
        lock(&self.0).wants_write()
    }

    /// Whether data has arrived that the socket does not show any more.
    pub(crate) fn has_data(&self) -> bool {
        matches!(lock(&self.0).reader().fill_buf(), Ok([_, ..]))
    }

    /// Says farewell, if the socket takes it.
    pub(crate) fn close(&self, io: &mut (impl Read + Write)) {
        let mut tls = lock(&self.0);
        tls.send_close_notify();
        // It ends either way.
        let _ = write_out(&mut tls, io);
    }
}

fn write_out(tls: &mut ClientConnection, io: &mut impl Write) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(io)? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// Reads once from the socket; 0 is the end.
fn read_in(tls: &mut ClientConnection, io: &mut (impl Read + Write)) -> io::Result<usize> {
    let n = tls.read_tls(io)?;
    if let Err(error) = tls.process_new_packets() {
        // The other side learns why, if the socket takes it.
        let _ = write_out(tls, io);
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(n)
}
