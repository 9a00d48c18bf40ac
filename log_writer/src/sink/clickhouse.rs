//! Rows for ClickHouse: JSON lines in the body of an HTTP request (`INSERT ... FORMAT JSONEachRow`).
//!
//! A batch that was answered with 200 is stored; one without an answer is sent again, so the table should remove
//! doubles by group, source and number (`ReplacingMergeTree`, see the reference).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;

use super::{Origin, Record, Sink};
use crate::format::Form;

/// Longest time for connecting, and between two pieces of an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest part of an answer that is shown.
const ANSWER_MAX: u64 = 4 << 10;

/// A table of a server.
#[derive(Debug)]
pub struct ClickHouse {
    /// `host:port`.
    address: String,
    /// `user:password` in Base64.
    authorization: Option<String>,
    path: String,
    form: Form,
    body: Vec<u8>,
}

impl ClickHouse {
    /// A sink for `http://[user:password@]host:port/?table=database.table`.
    ///
    /// # Errors
    /// When the address is of another form.
    pub fn new(url: &str, log_format: Option<&str>) -> anyhow::Result<Self> {
        let form = "http://[user:password@]host:port/?table=NAME is expected";
        let rest = url.strip_prefix("http://").with_context(|| format!("{url:?}: {form}"))?;
        let (server, query) = rest.split_once("/?").with_context(|| format!("{url:?}: {form}"))?;
        let (authorization, address) = match server.rsplit_once('@') {
            Some((user, address)) => (Some(base64::engine::general_purpose::STANDARD.encode(user)), address),
            None => (None, server),
        };
        let table = query.strip_prefix("table=").with_context(|| format!("{url:?}: {form}"))?;
        let named =
            !table.is_empty() && table.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
        ensure!(named, "{url:?}: a table name of letters, digits, '_' and '.' is expected");
        ensure!(
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()),
            "{url:?}: {form}"
        );
        let path = format!(
            "/?query=INSERT%20INTO%20{table}%20FORMAT%20JSONEachRow&input_format_skip_unknown_fields=1&wait_end_of_query=1"
        );
        let form = Form::parse("json", log_format).map_err(anyhow::Error::msg)?;
        Ok(Self { address: address.into(), authorization, path, form, body: Vec::new() })
    }

    fn post(&self) -> anyhow::Result<()> {
        let mut last = None;
        let addresses = self.address.to_socket_addrs().with_context(|| self.address.clone())?;
        let stream = addresses.into_iter().find_map(|a| match TcpStream::connect_timeout(&a, TIMEOUT) {
            Ok(stream) => Some(stream),
            Err(error) => {
                last = Some(error);
                None
            }
        });
        let mut stream = match (stream, last) {
            (Some(stream), _) => stream,
            (None, Some(error)) => {
                return Err(error).with_context(|| format!("cannot connect to {}", self.address));
            }
            (None, None) => bail!("{} has no address", self.address),
        };
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let authorization =
            self.authorization.as_ref().map(|a| format!("Authorization: Basic {a}\r\n")).unwrap_or_default();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.path,
            self.address,
            self.body.len()
        );
        stream.write_all(head.as_bytes()).context("the request was not taken")?;
        stream.write_all(&self.body).context("the rows were not taken")?;
        let mut answer = BufReader::new(stream.take(ANSWER_MAX));
        let mut status = String::new();
        answer.read_line(&mut status).context("no answer")?;
        if status.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        let mut text = Vec::new();
        // What can be read of the reason is enough.
        let _ = answer.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let reason = text.split("\r\n\r\n").nth(1).unwrap_or_default().trim();
        bail!("{} answered {:?}: {}", self.address, status.trim(), reason.escape_debug());
    }
}

impl Sink for ClickHouse {
    fn put(&mut self, record: &Record) -> anyhow::Result<()> {
        self.form.write(&record.line, record.origin.as_ref().map(Origin::of_line), &mut self.body);
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let result = if self.body.is_empty() { Ok(()) } else { self.post() };
        self.body.clear();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Requests = Vec<(String, Vec<u8>)>;

    /// A server that answers each request with the next status, and gives the requests.
    fn server(answers: &'static [&'static str]) -> (String, std::thread::JoinHandle<Requests>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let serve = move || {
            let request = |answer: &&str| {
                let (stream, _) = listener.accept().expect("accept");
                let mut input = BufReader::new(&stream);
                let (mut head, mut line) = (String::new(), String::new());
                while input.read_line(&mut line).expect("line") > 2 {
                    head.push_str(&std::mem::take(&mut line));
                }
                let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).expect("length");
                let mut body = vec![0; length.parse().expect("number")];
                input.read_exact(&mut body).expect("body");
                let text = "Code: 60. DB::Exception: no table";
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                // Who has read enough of it may close.
                let _ = (&stream).write_all(answer.as_bytes());
                (head, body)
            };
            answers.iter().map(request).collect()
        };
        (address, std::thread::spawn(serve))
    }

    #[test]
    fn rows_are_posted_and_an_error_is_told() {
        let (address, served) = server(&["404 Not Found", "200 OK"]);
        let mut sink =
            ClickHouse::new(&format!("http://u:p@{address}/?table=logs.access"), None).expect("good");
        let origin = Origin {
            group: bytes::Bytes::from_static(b"g"),
            source: log_stream::SourceId([1; 16]),
            seq: 7,
            part: 0,
        };
        let line = b"h - - [10/Oct/2000:13:55:36 -0700] \"GET /\" 200 5\n".to_vec();
        let record = Record { line, origin: Some(origin) };
        sink.commit().expect("nothing is nothing");
        sink.put(&record).expect("memory");
        let error = format!("{:#}", sink.commit().expect_err("refused"));
        assert!(error.contains("404 Not Found") && error.contains("no table"), "{error}");
        sink.put(&record).expect("memory");
        sink.put(&Record { origin: None, ..record }).expect("memory");
        sink.commit().expect("stored");
        let requests = served.join().expect("server");
        let (head, body) = &requests[1];
        assert!(
            head.starts_with("POST /?query=INSERT%20INTO%20logs.access%20FORMAT%20JSONEachRow&"),
            "{head}"
        );
        assert!(head.contains("Authorization: Basic dTpw\r\n"), "{head}");
        let rows: Vec<serde_json::Value> = body
            .split_inclusive(|b| *b == b'\n')
            .map(|row| serde_json::from_slice(row).expect("JSON"))
            .collect();
        assert_eq!((rows.len(), &rows[0]["seq"], rows[1].get("seq")), (2, &7.into(), None));
        sink.put(&Record { line: b"x\n".to_vec(), origin: None }).expect("memory");
        sink.commit().expect_err("nobody listens any more");
    }

    #[test]
    fn addresses_are_checked() {
        let sink = ClickHouse::new("http://u:p@h:8123/?table=logs.access", None).expect("good");
        assert_eq!((&*sink.address, sink.authorization.as_deref()), ("h:8123", Some("dTpw")));
        for wrong in
            ["h:8123", "http://h/?table=a", "http://h:1/", "http://h:1/?table=a;b", "https://h:1/?table=a"]
        {
            ClickHouse::new(wrong, None).expect_err(wrong);
        }
    }
}
