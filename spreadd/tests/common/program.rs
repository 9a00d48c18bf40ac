//! The program as a process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const LIMIT: Duration = Duration::from_secs(10);

pub fn spreadd(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spreadd"));
    command
        .current_dir(dir)
        .env_remove("SPREADD_LOG")
        .env_remove("SPREAD_SOCKET_DIR")
        .env_remove("NOTIFY_SOCKET");
    command
}

/// Runs the program, which must end by itself.
pub fn output(dir: &Path, args: &[&str]) -> (Output, String) {
    let mut command = spreadd(dir);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Only if it is still running; the status then fails the test.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    (output, text)
}

/// What the service manager is told.
pub struct Manager(UnixDatagram);

impl Manager {
    /// Starts `command` with its socket in `dir`.
    pub fn start(dir: &Path, mut command: Command) -> (Self, Running) {
        let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        command.env("NOTIFY_SOCKET", dir.join("notify")).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        (Self(socket), Running { child, log, seen: String::new() })
    }

    /// The next thing.
    pub fn told(&self) -> String {
        let mut text = [0; 1000];
        let len = self.0.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    }
}

/// A running daemon; killed when dropped.
pub struct Running {
    pub child: Child,
    pub log: BufReader<ChildStderr>,
    pub seen: String,
}

impl Running {
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command = spreadd(dir);
        command.args(args).arg("--socket-dir").arg(dir).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, seen: String::new() }
    }

    /// Reads the log up to the first line with `text` and returns that.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.log.read_line(&mut line).unwrap() > 0,
                "the log ended without {text:?}:\n{}",
                self.seen
            );
            self.seen.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn serving(dir: &Path, args: &[&str]) -> Self {
        let mut running = Self::start(dir, args);
        running.wait_for("Serving clients");
        running
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log.read_to_string(&mut self.seen).unwrap();
                return status.code().unwrap_or_else(|| panic!("{status}:\n{}", self.seen));
            }
            assert!(Instant::now() < deadline, "still running:\n{}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TCP port that is free, with the next one free for UDP.
pub fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < u16::MAX && std::net::UdpSocket::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
