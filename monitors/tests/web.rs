//! The HTTP server: users, TLS, wrong questions, history.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use access_log::Format;
use monitors::history::{History, Minute};
use monitors::state::{Bounds, Shared, State};
use monitors::web::{self, Options, Users};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

fn state() -> Shared {
    let mut state = State::new(Format::named("common").unwrap(), Bounds::default(), 0);
    let line = "192.0.2.4 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 5\n";
    state.handle_payload(971_211_340_000, &"web1".into(), line.as_bytes());
    Shared::new(state)
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, path: &str, more: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A TLS peer may close without goodbye once the answer is complete.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

async fn start(options: Options, tls: Option<tokio_rustls::TlsAcceptor>) -> std::net::SocketAddr {
    let listener = web::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(web::serve(listener, tls, web::router(state(), options), std::future::pending()));
    address
}

#[tokio::test]
async fn routes_answer_and_wrong_questions_are_explained() {
    let address = start(Options::default(), None).await;
    let get = async |path: &str| ask(TcpStream::connect(address).await.unwrap(), path, "").await;
    for path in [
        "/",
        "/assets/app.js",
        "/assets/app.css",
        "/assets/uplot.js",
        "/api/snapshot",
        "/api/tail",
        "/metrics",
    ] {
        let (status, answer) = get(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(answer.contains("content-security-policy"), "{path}");
    }
    let (status, answer) = get("/api/snapshot?filter=status%3Dabc").await;
    assert!(status == 400 && answer.contains("expected a status as"), "{answer}");
    let (status, answer) = get("/api/snapshot?over=5m").await;
    assert!(status == 400 && answer.contains("expected one of 1s, 10s, 1m, 1h, start"), "{answer}");
    let (status, answer) = get("/api/snapshot?over=1m").await;
    assert!(status == 200 && answer.contains("\"top_over\":\"1m\""), "{answer}");
    assert_eq!(get("/assets/../Cargo.toml").await.0, 404);
    assert_eq!(get("/nothing").await.0, 404);
    assert_eq!(get("/healthz").await.0, 503);
    assert_eq!(get("/api/history").await.0, 204);
    // The page needs nothing from elsewhere.
    let page = get("/").await.1;
    assert!(!page.contains("https://") && !page.contains("src=\"http"), "{page}");
}

#[tokio::test]
async fn without_a_right_password_nothing_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, format!("admin:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let options = Options { users: Some(Users::load(&file).unwrap()), history: None };
    let address = start(options, None).await;
    let get =
        async |path: &str, more: &str| ask(TcpStream::connect(address).await.unwrap(), path, more).await;
    for path in ["/", "/api/snapshot", "/api/stream", "/metrics", "/assets/app.js", "/nothing"] {
        let (status, answer) = get(path, "").await;
        assert!(status == 401 && answer.contains("www-authenticate: Basic"), "{path}: {answer}");
    }
    // admin:secret, then admin:wrong
    assert_eq!(get("/api/snapshot", "Authorization: Basic YWRtaW46c2VjcmV0\r\n").await.0, 200);
    assert_eq!(get("/api/snapshot", "Authorization: Basic YWRtaW46d3Jvbmc=\r\n").await.0, 401);
    assert_eq!(get("/healthz", "").await.0, 503);
}

#[tokio::test]
async fn the_page_over_tls_while_another_client_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let address = start(Options::default(), Some(web::acceptor(&cert, &key).unwrap())).await;

    let _stalls = TcpStream::connect(address).await.unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let (status, answer) = ask(stream, "/api/snapshot", "").await;
    assert!(status == 200 && answer.contains("\"web1\""), "{answer}");

    let error = web::acceptor(&key, &cert).err().unwrap().to_string();
    assert!(error.contains("cannot read a"), "{error}");
}

#[tokio::test]
async fn history_is_answered_by_range() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(&dir.path().join("h"), 30).unwrap();
    for second in [60, 120] {
        history.put(&Minute { second, ..Default::default() }).unwrap();
    }
    let address = start(Options { users: None, history: Some(history) }, None).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (status, answer) = ask(stream, "/api/history?from=100&to=200", "").await;
    assert!(
        status == 200 && answer.contains("\"second\":120") && !answer.contains("\"second\":60"),
        "{answer}"
    );
}
