//! A real browser: headless Chromium driven through ChromeDriver by the WebDriver protocol (W3C).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::process::Process;

/// A browser with one window. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    session: String,
    port: u16,
    _driver: Process,
}

/// What no page of ours needs and what would reach out to the network.
const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
];

impl Browser {
    /// Starts a browser with a window of this size. `dir` takes its files.
    ///
    /// # Errors
    /// If Chromium or ChromeDriver (Debian: chromium, chromium-driver) do not start.
    pub fn start(dir: &Path, width: u32, height: u32) -> anyhow::Result<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", dir);
        let mut driver = Process::start("chromedriver", dir, command)?;
        driver.wait_printed("started successfully on port", Duration::from_secs(30))?;
        let printed = driver.printed();
        let port = printed.split("successfully on port ").nth(1).and_then(|rest| rest.split('.').next());
        let port = port.and_then(|port| port.trim().parse().ok()).with_context(|| printed.clone())?;
        let profile = dir.join("profile");
        fs::create_dir_all(&profile)?;
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
        flags.push(format!("--window-size={width},{height}"));
        flags.push(format!("--user-data-dir={}", profile.display()));
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self { session: String::new(), port, _driver: driver };
        let answer = browser.call("POST", "/session", &capabilities)?;
        browser.session = answer["sessionId"].as_str().context("no session")?.to_owned();
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Errors
    /// If the browser refuses.
    pub fn open(&self, url: &str) -> anyhow::Result<()> {
        self.post("url", &json!({ "url": url })).map(drop)
    }

    /// Runs the body of a function in the page and gives what it returns.
    ///
    /// # Errors
    /// If it throws.
    pub fn run(&self, script: &str) -> anyhow::Result<Value> {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Sets the size of the window.
    ///
    /// # Errors
    /// If the browser refuses.
    pub fn resize(&self, width: u32, height: u32) -> anyhow::Result<()> {
        self.post("window/rect", &json!({ "width": width, "height": height })).map(drop)
    }

    /// What the page and the browser wrote to the console since the last call.
    ///
    /// # Errors
    /// If the browser refuses.
    pub fn console(&self) -> anyhow::Result<Vec<String>> {
        let entries = self.post("se/log", &json!({ "type": "browser" }))?;
        let text = |entry: &Value| format!("{}: {}", entry["level"], entry["message"]);
        Ok(entries.as_array().map(|entries| entries.iter().map(text).collect()).unwrap_or_default())
    }

    /// A picture of the window as a PNG file.
    ///
    /// # Errors
    /// If the browser refuses or the file cannot be written.
    pub fn screenshot(&self, file: &Path) -> anyhow::Result<()> {
        let answer = self.call("GET", &format!("/session/{}/screenshot", self.session), &Value::Null)?;
        let base64 = answer.as_str().context("no picture")?;
        fs::write(file, decode_base64(base64).context("the picture is not in base64")?)?;
        Ok(())
    }

    fn post(&self, command: &str, body: &Value) -> anyhow::Result<Value> {
        self.call("POST", &format!("/session/{}/{command}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        let good = line.split(' ').nth(1) == Some("200");
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim_end().is_empty() {
                break;
            }
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        let mut answer: Value = serde_json::from_slice(&text)?;
        let value = answer["value"].take();
        ensure!(good, "{method} {path}: {}: {}", value["error"], value["message"]);
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium in order; if that fails, ChromeDriver's whole group is killed.
        let _ = self.call("DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let value = |c: u8| {
        Some(u32::from(match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let digits: Vec<u32> = text.bytes().filter(|&c| c != b'=').map(value).collect::<Option<_>>()?;
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let word = group.iter().fold(0, |word, digit| (word << 6) | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}
