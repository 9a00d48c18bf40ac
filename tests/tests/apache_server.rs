//! The Apache under test itself.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tests::apache::{Apache, Mpm, Setup, configtest, free_address};

#[test]
fn each_mpm_serves_and_ends_and_a_bad_configuration_is_named() {
    for mpm in [Mpm::Event, Mpm::Prefork, Mpm::Worker] {
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup { name: "web".into(), listen: free_address().unwrap(), mpm, config: String::new() };
        let apache = Apache::start_here(dir.path(), setup.clone()).unwrap();
        let mut stream = TcpStream::connect(apache.address()).unwrap();
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello\n"), "{answer}");
        apache.stop(Duration::from_secs(20)).unwrap();

        let bad = Setup { config: "NoSuchDirective on".into(), ..setup };
        let (accepted, words) = configtest(dir.path(), &bad).unwrap();
        assert!(!accepted && words.contains("NoSuchDirective"), "{words}");
    }
}
