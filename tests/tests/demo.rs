//! What README promises: the demonstration runs, shows the log and the dashboard, and ends cleanly.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::process::Process;
use tests::wait;

#[test]
fn the_demonstration_runs_until_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    // The usual port may be in use on a developer's machine; any other does.
    command.args(["--listen", "127.0.0.1:0"]);
    let mut demo = Process::start("demo", dir.path(), command).unwrap();
    let limit = Duration::from_secs(90);
    demo.wait_printed("The three daemons form one ring", limit).unwrap();
    demo.wait_printed("Dashboard: http://127.0.0.1:", limit).unwrap();
    demo.wait_printed("GET /index.html HTTP/1.1\" 200", limit).unwrap();
    // Two thirds and more of the requests go to the Apache without slow downloads, though all get as many.
    let flows = |printed: &str| {
        let of = |line: &str, web: &str| -> Option<u64> {
            line.split(web).nth(1)?.trim().split(' ').next()?.parse().ok()
        };
        printed.lines().filter(|line| line.contains("served in this second")).any(|line| {
            let counts = ["web1 ", "web2 ", "web3 "].map(|web| of(line, web).unwrap_or(0));
            line.contains("(0 slow downloads)") && counts[2] > 10 && counts[2] > 2 * (counts[0] + counts[1])
        })
    };
    wait::until("requests to flow to the idle server", Duration::from_secs(15), || {
        if flows(&demo.printed()) { Ok(()) } else { Err(demo.printed()) }
    })
    .unwrap();
    demo.signal(Signal::SIGINT).unwrap();
    let status = demo.wait_end(limit).unwrap();
    let printed = demo.printed();
    assert!(status.success(), "{printed}");
    // Every request that was answered is in the unified log.
    let summary = printed.lines().last().unwrap();
    let numbers: Vec<u64> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() == 2 && numbers[0] == numbers[1] && numbers[0] > 0, "{summary}");
    let folder = printed.split("configuration: ").nth(1).and_then(|rest| rest.split('/').nth(2)).unwrap();
    assert!(!std::path::Path::new("/tmp").join(folder).exists(), "{folder} was left behind");
}
