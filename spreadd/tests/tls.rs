//! Clients over TLS, with and without certificates.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use common::{choice, group, hello, hello_gaps, options, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use spread_wire::handshake::{Accept, MethodList};
use spread_wire::{Frame, FrameDecoder, Gap, GroupName, Kind, ServiceType, build};
use spreadd::{Daemon, Rules, SlowAction, SlowRules, TlsOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const LIMIT: Duration = Duration::from_secs(10);

/// An authority, a certificate of the daemon and one of the client alice, as files in `dir`.
fn authority(dir: &Path) -> TlsOptions {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for name in ["localhost", "alice"] {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    TlsOptions {
        port: 0,
        listen: None,
        certificate: dir.join("localhost.pem"),
        key: dir.join("localhost.key"),
        client_ca: Some(dir.join("ca.pem")),
        client_required: false,
    }
}

fn connector(dir: &Path, user: Option<&str>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match user {
        None => builder.with_no_client_auth(),
        Some(user) => {
            let chain = vec![CertificateDer::from_pem_file(dir.join(format!("{user}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(dir.join(format!("{user}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

struct Client {
    stream: TlsStream<TcpStream>,
    buf: BytesMut,
    decoder: FrameDecoder,
    me: GroupName,
}

impl Client {
    /// The session, or what came instead.
    async fn connect(addr: SocketAddr, connector: &TlsConnector, hello: &[u8]) -> std::io::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(64 << 10)?;
        let stream = socket.connect(addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await?;
        let mut buf = BytesMut::new();
        stream.write_all(hello).await?;
        stream.flush().await?;
        while MethodList::decode(&mut buf).unwrap().is_none() {
            read(&mut stream, &mut buf).await?;
        }
        stream.write_all(&choice()).await?;
        stream.flush().await?;
        loop {
            match Accept::decode(&mut buf, 0) {
                Ok(Some(accept)) => {
                    let me = accept.private_group;
                    return Ok(Self { stream, buf, decoder: FrameDecoder::client(), me });
                }
                Ok(None) => read(&mut stream, &mut buf).await?,
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn frame(&mut self) -> std::io::Result<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buf).unwrap() {
                return Ok(frame);
            }
            read(&mut self.stream, &mut self.buf).await?;
        }
    }

    async fn join(&mut self, name: &str) -> Frame {
        let frame = build::join(&self.me, &group(name));
        self.send(&frame).await;
        self.frame().await.unwrap()
    }

    async fn multicast(&mut self, to: &str, data: &[u8]) {
        let mut out = BytesMut::new();
        build::put_multicast(&mut out, ServiceType::AGREED, &self.me, &[group(to)], 0, data.len(), 0)
            .unwrap();
        out.extend_from_slice(data);
        self.send(&out).await;
    }
}

/// Fails at the end of the stream, which must be an orderly one.
async fn read(stream: &mut TlsStream<TcpStream>, buf: &mut BytesMut) -> std::io::Result<()> {
    match timeout(LIMIT, stream.read_buf(buf)).await.expect("something comes")? {
        0 => Err(std::io::ErrorKind::BrokenPipe.into()),
        _ => Ok(()),
    }
}

fn start(tls: TlsOptions, change: impl FnOnce(&mut spreadd::Options)) -> Daemon {
    let mut options = options();
    options.tls = Some(tls);
    change(&mut options);
    Daemon::start(options).unwrap()
}

#[tokio::test]
async fn the_plain_protocol_runs_inside_tls() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(authority(dir.path()), |_| {});
    let addr = daemon.tls_addrs()[0];
    let connector = connector(dir.path(), None);
    let mut a = Client::connect(addr, &connector, &hello("a")).await.unwrap();
    assert_eq!(a.join("g").await.kind(), Kind::Membership);
    let mut plain = common::Client::connect(&daemon, "plain");
    plain.joined("g");
    assert_eq!(a.frame().await.unwrap().kind(), Kind::Membership);
    // Larger than the records and buffers of TLS.
    let large = vec![7; 140_000];
    a.multicast("g", &large).await;
    assert_eq!(plain.data()[..], large[..]);
    assert_eq!(a.frame().await.unwrap().data_bytes(), large);
    // Noise on the TLS port and an end within the handshake hurt nobody.
    for noise in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\x16\x03\x01", b""] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(noise).await.unwrap();
    }
    wait_until("the end of the noise", || daemon.session_stats().handshakes_broken_total == 3);
    let kill = build::kill(&a.me);
    a.send(&kill).await;
    let end = a.frame().await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::BrokenPipe, "the end is an orderly one of TLS: {end}");
    plain.sees_disconnect("a");
}

#[tokio::test]
async fn the_name_of_a_certificate_is_the_user_of_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(authority(dir.path()), |options| {
        options.policy = Arc::new(Rules::parse("allow connect *\nallow any alice").unwrap());
    });
    let addr = daemon.tls_addrs()[0];
    let mut alice = Client::connect(addr, &connector(dir.path(), Some("alice")), &hello("a")).await.unwrap();
    assert_eq!(alice.join("g").await.kind(), Kind::Membership);
    let mut guest = Client::connect(addr, &connector(dir.path(), None), &hello("alice")).await.unwrap();
    assert_eq!(guest.join("g").await.kind(), Kind::Reject);
}

#[tokio::test]
async fn a_required_certificate_is_required_and_certificates_can_be_exchanged() {
    let dir = tempfile::tempdir().unwrap();
    let mut tls = authority(dir.path());
    tls.client_required = true;
    let daemon = start(tls.clone(), |_| {});
    let addr = daemon.tls_addrs()[0];
    assert!(Client::connect(addr, &connector(dir.path(), None), &hello("a")).await.is_err());
    let with = connector(dir.path(), Some("alice"));
    let mut kept = Client::connect(addr, &with, &hello("a")).await.unwrap();
    // Another authority, other certificates.
    let other = tempfile::tempdir().unwrap();
    let new = authority(other.path());
    daemon.reload_tls(&new).unwrap();
    assert!(Client::connect(addr, &with, &hello("b")).await.is_err(), "not trusted any more");
    Client::connect(addr, &connector(other.path(), None), &hello("c")).await.unwrap();
    // A bad file changes nothing.
    fs::write(other.path().join("localhost.key"), "nothing").unwrap();
    let error = daemon.reload_tls(&new).unwrap_err().to_string();
    assert!(error.contains("private key") && error.contains("localhost.key"), "{error}");
    Client::connect(addr, &connector(other.path(), None), &hello("d")).await.unwrap();
    assert_eq!(kept.join("g").await.kind(), Kind::Membership, "an established session goes on");
}

#[tokio::test]
async fn a_client_over_tls_that_does_not_read_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(authority(dir.path()), |options| {
        options.limits.session_messages_max = 50;
        options.slow = SlowRules::new(SlowAction::DropOldest, []);
    });
    let mut slow = Client::connect(daemon.tls_addrs()[0], &connector(dir.path(), None), &hello_gaps("slow"))
        .await
        .unwrap();
    assert_eq!(slow.join("g").await.kind(), Kind::Membership);
    let mut sender = common::Client::connect(&daemon, "sender");
    sender.joined("g");
    for i in 0..1000u32 {
        let mut data = vec![7; 20_000];
        data[..4].copy_from_slice(&i.to_le_bytes());
        sender.multicast("g", &data);
        assert_eq!(sender.data()[..4], i.to_le_bytes());
    }
    let (mut got, mut missing) = (0, 0);
    loop {
        let frame = slow.frame().await.unwrap();
        if let Some(gap) = Gap::of(&frame) {
            missing += gap.messages;
        } else if frame.kind() == Kind::Data {
            got += 1;
            if frame.data_bytes()[..4] == 999u32.to_le_bytes() {
                break;
            }
        }
    }
    assert!(missing > 100, "{missing}");
    assert_eq!(got + missing, 1000);
}
