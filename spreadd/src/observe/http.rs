//! The smallest HTTP server that a metrics collector and a health check need: GET and HEAD, one request a
//! connection, no bodies of requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::metrics;
use super::probe::{Detail, Probe};

/// Connections at once; further ones are closed at once.
const CONNECTIONS_MAX: usize = 16;
/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 8192;
/// Time for a request, and for its answer.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const INDEX: &str =
    "spreadd\n\n/metrics  Prometheus text\n/healthz  200 while the ring is in operation, else 503\n";

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, probe: Arc<Probe>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "Cannot accept a connection for the metrics; trying again.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let probe = Arc::clone(&probe);
        tokio::spawn(async move {
            match timeout(2 * TIME_MAX, converse(stream, probe)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "A request for the metrics failed."),
                Err(_) => debug!("A request for the metrics took too long."),
            }
            drop(permit);
        });
    }
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, probe: Arc<Probe>) -> io::Result<()> {
    let head = match timeout(TIME_MAX, read_head(&mut stream)).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => return Err(error),
        Err(_) => Err(Answer::text("408 Request Timeout", "no request came\n")),
    };
    let (answer, with_body) = match head.and_then(|head| target(&head)) {
        Ok((path, with_body)) => (answer(&path, probe).await, with_body),
        Err(answer) => (answer, true),
    };
    let Answer { status, content_type, body } = answer;
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        out.push_str(&body);
    }
    stream.write_all(out.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads up to the empty line. What is wrong with the request is the inner error.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<Vec<u8>, Answer>> {
    let mut head = Vec::with_capacity(512);
    loop {
        if head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n") {
            return Ok(Ok(head));
        }
        if head.len() >= HEAD_MAX {
            return Ok(Err(Answer::text("431 Request Header Fields Too Large", "the request is too long\n")));
        }
        let mut piece = [0; 1024];
        let len = stream.read(&mut piece).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..len]);
    }
}

/// The path that is asked for, and whether the answer gets a body.
fn target(head: &[u8]) -> Result<(String, bool), Answer> {
    let bad = || Answer::text("400 Bad Request", "this is no HTTP request\n");
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| bad())?;
    let mut words = line.split(' ');
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(bad());
    };
    if !version.starts_with("HTTP/1.") || words.next().is_some() {
        return Err(bad());
    }
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Err(Answer::text("405 Method Not Allowed", "only GET and HEAD\n")),
    };
    Ok((path.split('?').next().unwrap_or_default().to_owned(), with_body))
}

async fn answer(path: &str, probe: Arc<Probe>) -> Answer {
    match path {
        "/" => Answer::text("200 OK", INDEX),
        "/metrics" | "/healthz" => {
            // The ring thread is waited for: not on a thread that serves clients.
            let Ok(Some(look)) = tokio::task::spawn_blocking(move || probe.look(Detail::SUMS)).await else {
                return Answer::text("503 Service Unavailable", "the ring thread does not answer\n");
            };
            if path == "/metrics" {
                return Answer {
                    status: "200 OK",
                    content_type: metrics::CONTENT_TYPE,
                    body: metrics::render(&look),
                };
            }
            let (members, daemons) = (look.ring.outlook.members.len(), look.hub.names.len());
            if look.ring.outlook.operational {
                Answer::text("200 OK", format!("ok: {members} of {daemons} daemons in the ring\n"))
            } else {
                Answer::text("503 Service Unavailable", "the ring re-forms\n")
            }
        }
        _ => Answer::text("404 Not Found", "there are /metrics and /healthz\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &[u8]) -> &'static str {
        target(head).err().map_or("ok", |answer| answer.status)
    }

    #[test]
    fn request_lines_are_taken_or_refused() {
        assert_eq!(target(b"GET /metrics?x=1 HTTP/1.1\r\n\r\n").ok(), Some(("/metrics".to_owned(), true)));
        assert_eq!(target(b"HEAD / HTTP/1.0\r\n\r\n").ok(), Some(("/".to_owned(), false)));
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
        for bad in [
            &b""[..],
            b"GET\r\n",
            b"GET /\r\n",
            b"GET / FTP/1\r\n",
            b"GET / HTTP/1.1 x\r\n",
            b"\xff / HTTP/1.1",
        ] {
            assert_eq!(status(bad), "400 Bad Request", "{bad:?}");
        }
    }

    #[tokio::test]
    async fn heads_are_bounded() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let writing = tokio::spawn(async move {
            // Ends when the other side is dropped.
            while client.write_all(&[b'x'; 64]).await.is_ok() {}
        });
        let refused = read_head(&mut server).await.unwrap().unwrap_err();
        assert_eq!(refused.status, "431 Request Header Fields Too Large");
        drop(server);
        writing.await.unwrap();
    }
}
