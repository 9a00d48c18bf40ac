//! The client library over TLS: against a proxy that ends TLS, and against the daemon's own port.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use spread::blocking::Connection;
use spread::{Builder, ConnectError, Message, Reconnect, Service, TlsOptions};
use spreadd::{Daemon, Options};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

const LIMIT: Duration = Duration::from_secs(20);

/// An authority and certificates of it: for a daemon on 127.0.0.1 and `log1`, and for a client.
struct Authority {
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        for (file, names) in [("daemon", ["127.0.0.1", "log1"]), ("client", ["ann", "web1"])] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(names.map(str::to_owned)).unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap();
            fs::write(dir.path().join(format!("{file}.pem")), certificate.pem()).unwrap();
            fs::write(dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn trusted(&self) -> TlsOptions {
        TlsOptions::default().ca(self.file("ca.pem"))
    }

    fn server(&self, ask_clients: bool) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(self.file("daemon.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file("daemon.key")).unwrap();
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if ask_clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A daemon and its TLS port, or one in front of it.
struct Host {
    runtime: Runtime,
    daemon: Daemon,
    addr: SocketAddr,
    proxy: Option<tokio::task::JoinHandle<()>>,
}

impl Host {
    fn new(acceptor: TlsAcceptor) -> Self {
        let mut host = Self::start(|_| {});
        host.start_proxy(acceptor);
        host
    }

    /// The daemon's own port.
    fn own(authority: &Authority, client_required: bool, change: impl FnOnce(&mut Options)) -> Self {
        let mut host = Self::start(|options| {
            options.tls = Some(spreadd::TlsOptions {
                port: 0,
                listen: None,
                certificate: authority.file("daemon.pem"),
                key: authority.file("daemon.key"),
                client_ca: Some(authority.file("ca.pem")),
                client_required,
            });
            change(options);
        });
        host.addr = host.daemon.tls_addrs()[0];
        host
    }

    fn start(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::alone("d1".parse().unwrap(), 0);
        options.listen = vec!["127.0.0.1".parse().unwrap()];
        options.socket_dir = None;
        options.threads = 1;
        change(&mut options);
        let daemon = Daemon::start(options).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, daemon, addr: "127.0.0.1:0".parse().unwrap(), proxy: None }
    }

    fn start_proxy(&mut self, acceptor: TlsAcceptor) {
        let listener = self.runtime.block_on(TcpListener::bind(self.addr)).unwrap();
        self.addr = listener.local_addr().unwrap();
        let daemon = SocketAddr::from(([127, 0, 0, 1], self.daemon.port()));
        self.proxy = Some(self.runtime.spawn(async move {
            // Dropped with the task: all connections end.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut daemon = TcpStream::connect(daemon).await.unwrap();
                    // Ends when either side does.
                    let _ = copy_bidirectional(&mut client, &mut daemon).await;
                });
            }
        }));
    }

    fn stop_proxy(&mut self) {
        let proxy = self.proxy.take().unwrap();
        proxy.abort();
        assert!(self.runtime.block_on(proxy).unwrap_err().is_cancelled());
    }

    fn tls(&self, options: TlsOptions) -> Builder {
        Builder::new(&format!("tls://{}", self.addr)).unwrap().tls(options)
    }
}

/// More data both ways than all buffers hold, while the reader begins late: neither side stands still.
#[test]
fn much_data_both_ways_by_both_faces() {
    let authority = Authority::new();
    much_data(&Host::new(authority.server(false)), &authority);
    much_data(&Host::own(&authority, false, |_| {}), &authority);
}

fn much_data(host: &Host, authority: &Authority) {
    const COUNT: i16 = 120;
    let body: Vec<u8> = (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect();

    let connection = host.tls(authority.trusted()).send_timeout(Some(LIMIT)).connect_blocking().unwrap();
    assert!(connection.address().to_string().starts_with("tls://127.0.0.1:"));
    let own = connection.private_group().as_group();
    let (mut sender, mut receiver) = connection.split();
    let expected = body.clone();
    let reader = thread::spawn(move || {
        for i in 0..COUNT {
            match receiver.receive_timeout(LIMIT).unwrap().expect("a message within the limit") {
                Message::Data(data) => {
                    assert_eq!(data.message_type(), i);
                    assert!(data.payload() == expected);
                }
                other => panic!("{other:?}"),
            }
        }
    });
    for i in 0..COUNT {
        sender.multicast(Service::AGREED, own, i, &body).unwrap();
    }
    reader.join().unwrap();
    sender.disconnect().unwrap();

    // One thread in both directions.
    let mut both = host.tls(authority.trusted()).connect_blocking().unwrap();
    let own = both.private_group().as_group();
    for i in 0..50 {
        both.enqueue(Service::FIFO, own, i, b"small").unwrap();
    }
    for i in 0..50 {
        let message = both.receive_timeout(LIMIT).unwrap().unwrap();
        assert!(matches!(message, Message::Data(data) if data.message_type() == i));
    }
    both.disconnect().unwrap();

    host.runtime.block_on(async {
        let connection = host.tls(authority.trusted()).connect().await.unwrap();
        let own = connection.private_group().as_group();
        let (sender, mut receiver) = connection.split();
        let writer = {
            let (sender, body) = (sender.clone(), body.clone());
            tokio::spawn(async move {
                for i in 0..COUNT {
                    sender.multicast(Service::AGREED, own, i, &body).await.unwrap();
                }
                sender.flush().await.unwrap();
            })
        };
        for i in 0..COUNT {
            match tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap() {
                Message::Data(data) => assert!(data.message_type() == i && data.payload() == body),
                other => panic!("{other:?}"),
            }
        }
        writer.await.unwrap();
        sender.disconnect().await.unwrap();
    });
}

#[test]
fn a_lost_tls_session_is_made_again() {
    let authority = Authority::new();
    let mut host = Host::new(authority.server(false));
    let policy = Reconnect {
        first_delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(50),
        give_up_after: Some(LIMIT),
    };
    let mut connection =
        host.tls(authority.trusted()).membership(true).reconnect(policy).connect_blocking().unwrap();
    connection.join("g".parse().unwrap()).unwrap();
    assert!(matches!(connection.receive().unwrap(), Message::Membership(_)));
    host.stop_proxy();
    host.start_proxy(authority.server(false));
    let message = connection.receive_timeout(LIMIT).unwrap().unwrap();
    assert!(matches!(message, Message::Reconnected(gap) if gap.rejoined.len() == 1));
    assert!(matches!(connection.receive_timeout(LIMIT).unwrap().unwrap(), Message::Membership(_)));
    connection.disconnect().unwrap();
}

/// The chain of an error as a user sees it.
fn text(error: &ConnectError) -> String {
    format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default())
}

#[test]
fn trust_is_checked_on_both_sides() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let host = Host::new(authority.server(false));
    let refused = |options: TlsOptions| {
        let error = host.tls(options.clone()).connect_blocking().unwrap_err();
        let of_task = host.runtime.block_on(host.tls(options).connect()).unwrap_err();
        assert_eq!(text(&error), text(&of_task));
        error
    };
    let error = refused(stranger.trusted());
    assert!(matches!(error, ConnectError::Tls { .. }) && text(&error).contains("certificate"), "{error:?}");
    let error = refused(authority.trusted().server_name("log2"));
    assert!(matches!(error, ConnectError::Tls { .. }) && text(&error).contains("log2"), "{error:?}");
    let error = refused(TlsOptions::default().ca("/nowhere/ca.pem"));
    assert!(text(&error).contains("/nowhere/ca.pem"), "{error:?}");
    let error =
        refused(authority.trusted().identity(authority.file("client.pem"), Path::new("/nowhere/key")));
    assert!(text(&error).contains("/nowhere/key"), "{error:?}");
    host.tls(authority.trusted().server_name("log1")).connect_blocking().unwrap().disconnect().unwrap();

    // A plain port does not speak TLS.
    let plain = format!("tls://127.0.0.1:{}", host.daemon.port());
    let builder = Builder::new(&plain).unwrap().tls(authority.trusted());
    let error = builder.connect_timeout(Some(LIMIT)).connect_blocking().unwrap_err();
    assert!(!matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    // A TLS port does not speak plainly.
    let builder = Builder::new(&format!("{}@127.0.0.1", host.addr.port())).unwrap();
    builder.connect_timeout(Some(LIMIT)).connect_blocking().unwrap_err();

    let asking = Host::new(authority.server(true));
    asking.tls(authority.trusted()).connect_blocking().unwrap_err();
    let wrong = authority.trusted().identity(stranger.file("client.pem"), stranger.file("client.key"));
    asking.tls(wrong).connect_blocking().unwrap_err();
    let good = authority.trusted().identity(authority.file("client.pem"), authority.file("client.key"));
    asking.tls(good.clone()).connect_blocking().unwrap().disconnect().unwrap();
    asking.runtime.block_on(async {
        asking.tls(good).connect().await.unwrap().disconnect().await.unwrap();
    });
}

/// Every way of trust and of its lack, at the daemon's own port, for both faces alike.
#[test]
fn the_daemons_own_port_asks_for_certificates_as_configured() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let with = |authority: &Authority, of: &Authority| {
        authority.trusted().identity(of.file("client.pem"), of.file("client.key"))
    };
    let (good, wrong) = (with(&authority, &authority), with(&authority, &stranger));
    for required in [false, true] {
        let host = Host::own(&authority, required, |_| {});
        let connect = |options: &TlsOptions| {
            let builder = || host.tls(options.clone()).connect_timeout(Some(LIMIT));
            let by_call = builder().connect_blocking().map(|mut connection| {
                connection
                    .multicast(Service::AGREED, connection.private_group().as_group(), 1, b"to me")
                    .unwrap();
                assert!(matches!(connection.receive_timeout(LIMIT).unwrap(), Some(Message::Data(_))));
                connection.disconnect().unwrap();
            });
            let by_task = host.runtime.block_on(async {
                let mut connection = builder().connect().await?;
                let own = connection.private_group().as_group();
                connection.multicast(Service::AGREED, own, 1, b"to me").await.unwrap();
                let back = tokio::time::timeout(LIMIT, connection.receive()).await.unwrap();
                assert!(matches!(back.unwrap(), Message::Data(_)));
                connection.disconnect().await.unwrap();
                Ok::<_, ConnectError>(())
            });
            match (by_call, by_task) {
                (Ok(()), Ok(())) => None,
                (Err(one), Err(other)) => {
                    for error in [&one, &other] {
                        assert!(!matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
                    }
                    Some(text(&one))
                }
                (one, other) => panic!("the faces differ: {one:?} {other:?}"),
            }
        };
        assert_eq!(connect(&good), None);
        let refused = connect(&authority.trusted());
        assert_eq!(refused.is_some(), required, "without a certificate: {refused:?}");
        connect(&wrong).expect("a certificate of another authority is refused in any case");
        let refused = connect(&stranger.trusted()).expect("the daemon's certificate is of another authority");
        assert!(refused.contains("certificate"), "{refused}");
        assert_eq!(host.daemon.session_stats().sessions_total, if required { 2 } else { 4 });
    }
}

/// Clients of the TLS port, of both faces, and of the plain port are in one group; the name in the certificate is the
/// user of the rules.
#[test]
fn clients_over_tls_and_others_talk_to_each_other_under_the_rules() {
    let authority = Authority::new();
    let host = Host::own(&authority, false, |options| {
        let rules = "allow connect *\nallow join *\nallow send ann g\n";
        options.policy = Arc::new(spreadd::Rules::parse(rules).unwrap());
    });
    let identity = authority.trusted().identity(authority.file("client.pem"), authority.file("client.key"));
    let plain = Builder::new(&host.daemon.connect_string()).unwrap();
    let mut ann = host.tls(identity).membership(true).private_name("x").unwrap().connect_blocking().unwrap();
    let mut guest = plain.private_name("ann").unwrap().connect_blocking().unwrap();
    let group: spread::GroupName = "g".parse().unwrap();
    guest.join(group).unwrap();
    ann.join(group).unwrap();
    // The joins of different connections come in any order.
    let until_members = |count: usize, ann: &mut Connection| loop {
        match ann.receive_timeout(LIMIT).unwrap().expect("a view within the limit") {
            Message::Membership(view) if view.members.len() == count => return,
            Message::Membership(_) => {}
            other => panic!("{other:?}"),
        }
    };
    until_members(2, &mut ann);
    host.runtime.block_on(async {
        let (task, mut receiver) = host.tls(authority.trusted()).connect().await.unwrap().split();
        task.join(group).await.unwrap();
        task.flush().await.unwrap();
        tokio::task::block_in_place(|| until_members(3, &mut ann));
        ann.multicast(Service::AGREED, group, 7, b"from ann").unwrap();
        let back = tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap();
        assert!(matches!(&back, Message::Data(data) if data.payload() == b"from ann"), "{back:?}");
        // Without a certificate there is no name, whatever the private one is.
        task.multicast(Service::AGREED, group, 8, b"denied").await.unwrap();
        let back = tokio::time::timeout(LIMIT, receiver.receive()).await.unwrap().unwrap();
        assert!(matches!(back, Message::Reject(_)), "{back:?}");
        task.disconnect().await.unwrap();
    });
    let heard = guest.receive_timeout(LIMIT).unwrap();
    assert!(matches!(&heard, Some(Message::Data(data)) if data.payload() == b"from ann"), "{heard:?}");
    guest.multicast(Service::AGREED, group, 9, b"denied").unwrap();
    assert!(matches!(guest.receive_timeout(LIMIT).unwrap(), Some(Message::Reject(_))));
}
