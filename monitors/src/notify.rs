//! Looks at the alerts every second and tells who wants to know: log, webhook, command.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tracing::{info, warn};

use crate::alerts::{Alerts, Change, Rule, webhook_parts};
use crate::snapshot::Snapshot;
use crate::state::{ActiveAlert, Shared};
use crate::watch::now_ms;

/// Changes that wait to be told. A receiver that hangs must not make memory grow: beyond this they are only
/// logged.
const WAITING_MAX: usize = 100;
/// Longest time for a webhook or a command.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Starts the two threads: one looks, the other tells.
///
/// # Errors
/// If a thread cannot be started.
pub fn start(alerts: Alerts, state: Shared) -> std::io::Result<()> {
    let (changes, waiting) = sync_channel::<(Rule, Change)>(WAITING_MAX);
    thread::Builder::new().name("alerts".to_owned()).spawn(move || look(alerts, &state, &changes))?;
    thread::Builder::new().name("notify".to_owned()).spawn(move || {
        for (rule, change) in waiting {
            tell(&rule, &change);
        }
    })?;
    Ok(())
}

fn look(mut alerts: Alerts, state: &Shared, changes: &SyncSender<(Rule, Change)>) {
    loop {
        let shot = Snapshot::take(&mut state.lock(), None, now_ms(), 0);
        for (rule, change) in alerts.look(&shot) {
            match change.state {
                "begins" => warn!(alert = change.name, subject = change.subject, "{}", change.text),
                _ => info!(alert = change.name, subject = change.subject, "{}", change.text),
            }
            state.lock().notice(change.at_ms, format!("alert {}: {}", change.state, change.text));
            if changes.try_send((rule, change)).is_err() {
                warn!("Too many alerts wait for a slow webhook or command; this one is only logged.");
            }
        }
        let active = alerts.active().map(|(name, subject, text)| ActiveAlert {
            name: name.to_owned(),
            subject: subject.to_owned(),
            text: text.to_owned(),
        });
        let active = active.collect();
        state.lock().set_alerts(active);
        thread::sleep(Duration::from_secs(1));
    }
}

fn tell(rule: &Rule, change: &Change) {
    if let Some(url) = &rule.webhook
        && let Err(error) = post(url, change)
    {
        warn!(alert = change.name, "The webhook failed: {error:#}.");
    }
    if let Some(command) = &rule.command
        && let Err(error) = run(command, change)
    {
        warn!(alert = change.name, "The command failed: {error:#}.");
    }
}

/// One HTTP POST with the change as JSON. No library for this: one request, one status line.
fn post(url: &str, change: &Change) -> anyhow::Result<()> {
    let (host, path) = webhook_parts(url)?;
    let with_port = if host.rsplit(']').next().unwrap_or(host).contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let address = with_port.to_socket_addrs()?.next().with_context(|| format!("{host} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIME_MAX)?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    let body = serde_json::to_string(change)?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).context("no answer")?;
    let status = String::from_utf8_lossy(&head);
    ensure!(status.get(9..10) == Some("2"), "it answered {}", status.get(9..).unwrap_or_default());
    Ok(())
}

fn run(command: &[String], change: &Change) -> anyhow::Result<()> {
    let (program, args) = command.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command.env("ALERT_NAME", &change.name).env("ALERT_STATE", change.state);
    command.env("ALERT_SUBJECT", &change.subject).env("ALERT_TEXT", &change.text);
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > TIME_MAX => {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("{program} did not end within {TIME_MAX:?} and was killed");
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::io::BufReader;
    use std::net::TcpListener;

    use super::*;

    fn change() -> Change {
        Change { name: "n".into(), state: "begins", subject: "web1".into(), text: "t \"q\"".into(), at_ms: 5 }
    }

    #[test]
    fn a_webhook_gets_the_change_as_json_and_its_refusal_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let mut bodies = Vec::new();
            for status in ["200 OK", "500 No"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut len) = (String::new(), 0);
                while reader.read_line(&mut head).unwrap() > 2 {
                    if let Some(value) = head.lines().last().unwrap().strip_prefix("Content-Length: ") {
                        len = value.parse().unwrap();
                    }
                }
                let mut body = vec![0; len];
                reader.read_exact(&mut body).unwrap();
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
                bodies.push((head.lines().next().unwrap().to_owned(), String::from_utf8(body).unwrap()));
            }
            bodies
        });
        post(&url, &change()).unwrap();
        assert_eq!(post(&url, &change()).unwrap_err().to_string(), "it answered 500");
        let bodies = server.join().unwrap();
        let expected = r#"{"name":"n","state":"begins","subject":"web1","text":"t \"q\"","at_ms":5}"#;
        assert_eq!(bodies[0], ("POST /hook HTTP/1.1".to_owned(), expected.to_owned()));
    }

    #[test]
    fn a_command_gets_the_change_and_its_failure_is_reported() {
        let sh = |script: &str| ["sh", "-c", script].map(str::to_owned);
        run(&sh("test \"$ALERT_SUBJECT $ALERT_STATE\" = 'web1 begins'"), &change()).unwrap();
        let error = run(&sh("exit 3"), &change()).unwrap_err().to_string();
        assert_eq!(error, "sh ended with exit status: 3");
    }
}
