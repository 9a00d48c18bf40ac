//! `log_writer ship` to a real ClickHouse server, with the table of the documentation.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{LIMIT, Running, log, until};

mod common;

const LINES: u64 = 25_000;
/// Where Debian has the server.
const PROGRAM: &str = "/usr/sbin/clickhouse-server";

struct Server {
    address: String,
    dir: tempfile::TempDir,
    running: Option<Running>,
}

impl Server {
    fn new() -> Self {
        assert!(Path::new(PROGRAM).exists(), "no {PROGRAM}: cargo xtask test-sinks installs it");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let users = "<yandex><profiles><default/></profiles><quotas><default/></quotas><users><bill>\
            <password>word</password><networks><ip>127.0.0.1</ip></networks>\
            <profile>default</profile><quota>default</quota></bill></users></yandex>";
        std::fs::write(dir.path().join("users.xml"), users).unwrap();
        let config = format!(
            "<yandex><logger><level>warning</level><console>1</console></logger><http_port>{port}</http_port>\
             <listen_host>127.0.0.1</listen_host><path>{dir}/data/</path><tmp_path>{dir}/tmp/</tmp_path>\
             <users_config>{dir}/users.xml</users_config><default_profile>default</default_profile>\
             <default_database>default</default_database><mark_cache_size>5368709120</mark_cache_size></yandex>",
            port = address.port(),
            dir = dir.path().display()
        );
        std::fs::write(dir.path().join("config.xml"), config).unwrap();
        Self { address: address.to_string(), dir, running: None }
    }

    fn start(&mut self) {
        let out = std::fs::File::create(self.dir.path().join("out")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg(format!("--config-file={}/config.xml", self.dir.path().display()));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        self.running = Some(Running(command.spawn().unwrap()));
        until("ClickHouse", || TcpStream::connect(&self.address).is_ok());
    }

    /// The server's answer to a statement.
    fn ask(&self, sql: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head = "POST / HTTP/1.0\r\nX-ClickHouse-User: bill\r\nX-ClickHouse-Key: word\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{sql}", sql.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{sql}: {answer}");
        body.trim().to_owned()
    }

    fn ship(&self, log: &Path, table: &str) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_log_writer"));
        let to = format!("clickhouse:http://bill:word@{}/?table={table}", self.address);
        command.arg("ship").arg(log).args(["--to", &to, "--batch", "1000", "--once"]);
        command.stdin(Stdio::null()).stderr(std::fs::File::create(self.dir.path().join("ship")).unwrap());
        Running(command.spawn().unwrap())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("ship")).unwrap()
    }
}

/// The statement of the documentation that makes the table.
fn documented_table() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/log_writer.md");
    let text = std::fs::read_to_string(page).unwrap();
    let sql = text.split("```sql").nth(1).expect("a statement").split("```").next().unwrap();
    sql.trim().trim_end_matches(';').to_owned()
}

#[test]
fn every_line_is_in_the_table_once_after_kills_of_both_and_the_merge() {
    let mut server = Server::new();
    server.start();
    server.ask("create database logs");
    let log = log(server.dir.path(), LINES, |seq| {
        format!(
            "192.0.2.4 - bob [10/Oct/2000:13:55:36 -0700] \"GET /{seq} HTTP/1.1\" 200 {seq} \"-\" \"a\\\"b\"\n"
        )
    });
    // The table is not there yet: the reason is told, and nothing is lost.
    let mut running = server.ship(&log, "logs.access");
    until("a refusal", || server.said().contains("exist"));
    server.ask(&documented_table());
    let count = || server.ask("select count() from logs.access").parse::<u64>().unwrap();
    until("rows", || count() > 0);
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    drop(running);
    let mut running = server.ship(&log, "logs.access");
    let before = count();
    until("more rows, or all", || count() > before.min(LINES - 1));
    // With SIGKILL.
    server.running = None;
    std::thread::sleep(Duration::from_millis(100));
    server.start();
    assert!(running.0.wait().unwrap().success(), "{}", server.said());
    server.ask("optimize table logs.access final");
    let sums = "select count(), uniqExact(seq), sum(bytes), min(user), max(status), max(time_us), min(user_agent) \
                from logs.access where group = 'site4' and source = '09090909090909090909090909090909'";
    let expected = format!("{LINES}\t{LINES}\t{}\tbob\t200\t971211336000000\ta\"b", LINES * (LINES + 1) / 2);
    assert_eq!(server.ask(sums), expected);
}
