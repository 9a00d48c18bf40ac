//! The Apache under test itself.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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

#[test]
fn a_server_that_ends_has_not_started_whoever_answers_at_its_address() {
    let dir = tempfile::tempdir().unwrap();
    // Somebody else answers.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = |name: &str, listen, config: &str| Setup {
        name: name.into(),
        listen,
        mpm: Mpm::Event,
        config: config.into(),
    };
    let taken = setup("taken", other.local_addr().unwrap(), "");
    let error = Apache::start_here(dir.path(), taken).unwrap_err().to_string();
    assert!(error.contains("taken ended with") && error.contains("could not bind"), "{error}");
    // The port is open for a moment: the log is opened, and refused, after the port.
    let refused = setup("refused", free_address().unwrap(), "CustomLog /nowhere/access.log common\n");
    let error = Apache::start_here(dir.path(), refused).unwrap_err().to_string();
    assert!(error.contains("refused ended with") && error.contains("/nowhere/access.log"), "{error}");
}
