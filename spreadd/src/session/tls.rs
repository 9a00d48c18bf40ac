//! TLS for remote clients: the plain protocol inside TLS, on a port of its own (feature `tls`).
//!
//! The name in a client's certificate is the user of the access rules. Certificates can be exchanged while the daemon
//! runs: each connection takes the newest ones.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Certificates and keys: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// Port for clients over TLS; 0 takes a free one.
    pub port: u16,
    /// Where; empty: all addresses of the host. `None`: the addresses of the plain port.
    pub listen: Option<Vec<IpAddr>>,
    /// The chain of certificates of the daemon, its own first.
    pub certificate: PathBuf,
    /// The private key of the first certificate.
    pub key: PathBuf,
    /// Authorities whose client certificates are taken. `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// A client without a certificate is refused.
    pub client_required: bool,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or has nothing of the kind.
    #[error("cannot read a {what} from {}: {reason}", file.display())]
    File {
        /// What it should have.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificates and keys do not fit together.
    #[error("{} and {} cannot be used: {reason}", certificate.display(), key.display())]
    Unfit {
        /// The file with the certificates.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// This program was built without TLS.
    #[error("TlsPort is set, but this spreadd was built without TLS (cargo feature `tls`)")]
    NotBuilt,
}

pub(crate) use imp::{Acceptor, accept_tls};

#[cfg(feature = "tls")]
mod imp {
    use std::io;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::{PoisonError, RwLock};

    use tokio::io::{ReadHalf, WriteHalf};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig};
    use tokio_rustls::server::TlsStream;
    use tracing::debug;

    use super::super::serve::{Shared, Transport, accept_failed, greet, peer_of};
    use super::*;

    /// The newest certificates.
    #[derive(Debug)]
    pub(crate) struct Acceptor(RwLock<Arc<ServerConfig>>);

    impl Acceptor {
        pub(crate) fn new(options: &TlsOptions) -> Result<Self, TlsError> {
            Ok(Self(RwLock::new(config(options)?)))
        }

        /// Reads the files again. If they are not good nothing changes.
        pub(crate) fn reload(&self, options: &TlsOptions) -> Result<(), TlsError> {
            let config = config(options)?;
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
            Ok(())
        }

        fn current(&self) -> TlsAcceptor {
            TlsAcceptor::from(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
        }
    }

    fn config(options: &TlsOptions) -> Result<Arc<ServerConfig>, TlsError> {
        let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|error| TlsError::File {
            what: "private key",
            file: options.key.clone(),
            reason: error.to_string(),
        })?;
        let chain = certificates(&options.certificate)?;
        let unfit = |reason: String| TlsError::Unfit {
            certificate: options.certificate.clone(),
            key: options.key.clone(),
            reason,
        };
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(error.to_string()))?;
        let builder = match &options.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let bad = |reason: String| TlsError::File { what: "certificate", file: file.clone(), reason };
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file)? {
                    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier =
                    if options.client_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| bad(error.to_string()))?)
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| unfit(error.to_string()))?;
        Ok(Arc::new(config))
    }

    fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bad = |reason: String| TlsError::File { what: "certificate", file: file.to_owned(), reason };
        let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let all = all.map_err(|error| bad(error.to_string()))?;
        if all.is_empty() { Err(bad("there is none".to_owned())) } else { Ok(all) }
    }

    /// Accepts clients over TLS for ever.
    pub(crate) async fn accept_tls(listener: TcpListener, acceptor: Arc<Acceptor>, shared: Arc<Shared>) {
        loop {
            match listener.accept().await {
                Ok((stream, addr)) => {
                    tokio::spawn(shake_hands(stream, addr, acceptor.current(), Arc::clone(&shared)));
                }
                Err(error) => accept_failed(&error, &shared).await,
            }
        }
    }

    async fn shake_hands(stream: TcpStream, addr: SocketAddr, acceptor: TlsAcceptor, shared: Arc<Shared>) {
        let peer = peer_of(addr);
        shared.counters.connections_total.add(1);
        if let Err(error) = stream.prepare() {
            debug!(%peer, %error, "Cannot set the options of a client's socket.");
        }
        let Some(mut seat) = shared.registry.admit() else {
            // Nothing can be said before the handshake, which is what there is no place for.
            shared.counters.refused_quota_total.add(1);
            return;
        };
        seat.peer = Some(peer);
        let stream = match timeout(shared.times.auth, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            result => {
                shared.counters.handshakes_broken_total.add(1);
                match result {
                    Ok(Err(error)) => debug!(%peer, %error, "A TLS handshake failed."),
                    _ => debug!(%peer, "A TLS handshake took too long."),
                }
                return;
            }
        };
        let certified = stream.get_ref().1.peer_certificates().and_then(|chain| name_of(chain.first()?));
        greet(stream, peer, certified, seat, shared).await;
    }

    /// The first DNS name of a certificate that was verified.
    fn name_of(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        certificate.valid_dns_names().find(|name| !name.contains('*')).map(Arc::from)
    }

    impl Transport for TlsStream<TcpStream> {
        type Read = ReadHalf<Self>;
        type Write = WriteHalf<Self>;
        const FAREWELL: bool = true;

        fn prepare(&self) -> io::Result<()> {
            Ok(())
        }

        fn split(self) -> (Self::Read, Self::Write) {
            tokio::io::split(self)
        }
    }
}

/// Without the feature: asking for TLS is an error at the start.
#[cfg(not(feature = "tls"))]
mod imp {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Acceptor;

    impl Acceptor {
        pub(crate) fn new(_options: &TlsOptions) -> Result<Self, TlsError> {
            Err(TlsError::NotBuilt)
        }

        pub(crate) fn reload(&self, _options: &TlsOptions) -> Result<(), TlsError> {
            Err(TlsError::NotBuilt)
        }
    }

    pub(crate) async fn accept_tls(
        _listener: tokio::net::TcpListener,
        _acceptor: Arc<Acceptor>,
        _shared: Arc<super::super::Shared>,
    ) {
    }
}
