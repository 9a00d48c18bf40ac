//! mod_backhand in real Apaches.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backhand::{Key, Micros};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::apache::{Apache, Mpm, Setup, configtest, free_address};
use tests::backhand::{
    Answer, Does, Pretender, Stub, Webs, compile_c, compile_rust, counter, digest, get, load_modules, now,
    request, shipped, status, up,
};
use tests::cluster::Cluster;
use tests::netns::{self, Net};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(20);
const OTHERS: &str =
    "<Location /who>\n  Backhand byAge 2\n  Backhand removeSelf\n  BackhandExplain On\n</Location>\n";

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

fn no_lines(_: u8, _: &Path) -> String {
    String::new()
}

/// A server with one address to send requests to, and what it would do with them.
fn dry_run(lines: &str) -> Webs {
    let config = format!("<Location />\n{lines}BackhandDryRun On\n</Location>\n");
    Webs::start(1, Mpm::Event, |_, _| config.clone()).unwrap()
}

/// Whom a dry run would have chosen.
fn chosen(answer: &Answer) -> String {
    let text = answer.header("Backhand-Explain").unwrap_or_else(|| panic!("no explanation: {answer:?}"));
    let (_, end) = text.rsplit_once("-> ").unwrap();
    end.split(' ').next().unwrap().to_owned()
}

fn announce_until_up(webs: &Webs, pretenders: &[&Pretender], names: &[&str]) {
    wait::until(&format!("{names:?} up"), LIMIT, || {
        pretenders.iter().for_each(|p| p.announce(None).unwrap());
        let page = status(webs.web(1)).unwrap();
        let seen = up(&page);
        if seen.contains(&"www-1.test") && names.iter().all(|name| seen.contains(name)) {
            Ok(())
        } else {
            Err(page.to_string())
        }
    })
    .unwrap();
}

// ---- The examples of the paper ----

/// All lines of the paper's examples. `[ ... normal Apache configuration here ... ]` is what it says.
const PAPER: &str = "
MulticastStats 10.0.5.255:4445
MulticastStats 10.0.5.10 10.0.5.255:4445
MulticastStats 240.220.221.20:4445,3
MulticastStats 10.0.5.10 240.220.221.20:4445,3
AcceptStats 10.0.5.1
AcceptStats 10.0.5.128/25
UnixSocketDir /opt/apache/backhand
<Location /backhand/>
  SetHandler backhand-handler
</Location>
<Directory /data/docs>
  Require all granted
  Backhand byAge
  Backhand byRandom
</Directory>
<Files ~ \\.(pl|php)$>
  Backhand byAge
  BackhandFromSO libexec/byHostname.so byHostname app
  Backhand byRandom
  Backhand byLogWindow
  Backhand byLoad
</Files>
<Location /least>
Backhand byAge
Backhand byLoad
</Location>
<Location /alpha>
Backhand byAge 2
BackhandFromSO libexec/byHostname.so byHostname alpha
Backhand byRandom
Backhand byLogWindow
Backhand byLoad
</Location>
";

#[test]
fn the_lines_of_the_paper_pass_the_check_and_wrong_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    compile_c(&shipped("byHostname.c"), &dir.path().join("paper/libexec"), "byHostname").unwrap();
    let modules = load_modules().unwrap();
    let setup = |config: String| Setup {
        name: "paper".into(),
        listen: free_address().unwrap(),
        mpm: Mpm::Event,
        config,
    };
    let (accepted, words) = configtest(dir.path(), &setup(format!("{modules}{PAPER}"))).unwrap();
    assert!(accepted && words.contains("Syntax OK"), "{words}");

    for (line, part) in [
        ("Backhand byage", "there is no function \"byage\"; there are: HTTPRedirectToIP"),
        ("Backhand byAge soon", "\"soon\" is not a number of seconds"),
        ("Backhand byRandom 1", "takes no argument"),
        ("MulticastStats 10.0.5.255", "has no port"),
        ("MulticastStats 10.0.5.255:4445,0", "time to live"),
        ("AcceptStats 10.0.5.129/25", "meant is 10.0.5.128/25"),
        ("BackhandFromSO libexec/none.so f", "No such file"),
        ("BackhandFromSO libexec/byHostname.so none", "undefined symbol: none"),
        ("BackhandInterval 1ms", "out of range"),
        ("<Location /x>\nAcceptStats 10.0.5.1\n</Location>", "not allowed in <Location>"),
    ] {
        let (accepted, words) = configtest(dir.path(), &setup(format!("{modules}{line}"))).unwrap();
        assert!(!accepted && words.contains(part), "{line}: {words}");
    }
    // Code that others can change is not loaded.
    fs::set_permissions(dir.path().join("paper/libexec"), fs::Permissions::from_mode(0o777)).unwrap();
    let (accepted, words) = configtest(dir.path(), &setup(format!("{modules}{PAPER}"))).unwrap();
    assert!(!accepted && words.contains("can be written by group or others"), "{words}");
    // Without mod_proxy requests can only be redirected.
    let module = modules.lines().find(|line| line.contains("backhand_module")).unwrap();
    let (accepted, words) = configtest(dir.path(), &setup(format!("{module}\nBackhand byAge"))).unwrap();
    assert!(!accepted && words.contains("mod_proxy"), "{words}");
    let lines = format!("{module}\nBackhand byAge\nBackhand HTTPRedirectToName");
    let (accepted, words) = configtest(dir.path(), &setup(lines)).unwrap();
    assert!(accepted, "{words}");
}

#[test]
fn broadcasts_are_accepted_from_the_addresses_of_the_paper() {
    if let Some(reason) = netns::unavailable() {
        println!("not run: {reason}");
        return;
    }
    let net = Net::new(4).unwrap();
    let dir = tempfile::Builder::new().prefix("backhand-net-").tempdir().unwrap();
    let modules = load_modules().unwrap();
    // 10.0.5.1 and the upper half of the network are accepted, 10.0.5.2 is not.
    let hosts = [("www", 10, "10.0.5.10 "), ("one", 1, ""), ("upper", 200, ""), ("lower", 2, "")];
    let mut apaches = Vec::new();
    for (host, (name, last, interface)) in net.hosts().iter().zip(hosts) {
        let addr = format!("10.0.5.{last}/24");
        let added =
            host.command("ip").args(["addr", "add", &addr, "brd", "+", "dev", "eth0"]).status().unwrap();
        assert!(added.success());
        let config = format!(
            "{modules}TypesConfig /dev/null\nBackhandArriba 1\nMulticastStats {interface}10.0.5.255:4445\n\
             MulticastStats {interface}240.220.221.20:4445,3\nAcceptStats 10.0.5.1\nAcceptStats 10.0.5.128/25\n\
             <Location /backhand/>\n  SetHandler backhand-handler\n</Location>\n"
        );
        let listen = SocketAddr::from((Ipv4Addr::new(10, 0, 5, last), 80));
        let setup = Setup { name: name.into(), listen, mpm: Mpm::Event, config };
        let reachable = |addr| host.enter(move || TcpStream::connect(addr).is_ok()).unwrap().join().unwrap();
        apaches.push(Apache::start(dir.path(), setup, |program| host.command(program), reachable).unwrap());
    }
    let address = apaches[0].address();
    wait::until("the accepted ones", LIMIT, || {
        let answer =
            net.host(0).enter(move || get(address, "/backhand/?json")).unwrap().join().unwrap().unwrap();
        let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let mut seen = up(&page);
        seen.sort_unstable();
        let refused = page["counters"]["rx_acl"].as_u64().unwrap();
        let contacts = page["servers"].to_string();
        let good = seen == ["one.test", "upper.test", "www.test"] && refused > 0;
        if good && contacts.contains("10.0.5.200:80") { Ok(()) } else { Err(page.to_string()) }
    })
    .unwrap();
    let log = apaches[0].error_log();
    assert!(log.contains("240.220.221.20:4445 is in the reserved range 240.0.0.0/4"), "{log}");
}

#[test]
fn a_folder_that_is_away_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "{}TypesConfig /dev/null\nMulticastStats 127.0.0.1 239.77.8.2:4445\nUnixSocketDir {}/none\n",
        load_modules().unwrap(),
        dir.path().display()
    );
    let setup = Setup { name: "web".into(), listen: free_address().unwrap(), mpm: Mpm::Event, config };
    let mut command = Command::new("apache2");
    // Writes the files; the lines themselves are good.
    assert!(configtest(dir.path(), &setup).unwrap().0);
    let output =
        command.arg("-f").arg(dir.path().join("web/httpd.conf")).arg("-DFOREGROUND").output().unwrap();
    let log = fs::read_to_string(dir.path().join("web/logs/error.log")).unwrap_or_default();
    assert!(!output.status.success() && log.contains("UnixSocketDir"), "{output:?}\n{log}");
}

#[test]
fn the_directory_of_the_paper_is_served_by_all_at_random() {
    let webs = Webs::start(3, Mpm::Event, |_, root| {
        format!(
            "<Directory {}/htdocs>\n  Backhand byAge\n  Backhand byRandom\n</Directory>\n",
            root.display()
        )
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    let mut served = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..90 {
        let answer = get(webs.web(1).address(), "/who").unwrap();
        assert_eq!(answer.status, 200);
        *served.entry(answer.body).or_default() += 1;
    }
    // Each has 30 on average; 10 or fewer happens once in 10^5 runs.
    assert!(served.len() == 3 && served.values().all(|n| *n > 10), "{served:?}");
}

#[test]
fn scripts_of_the_paper_go_to_the_application_servers() {
    let dir = tempfile::tempdir().unwrap();
    let object = compile_c(&shipped("byHostname.c"), dir.path(), "byHostname").unwrap();
    let webs = Webs::start(3, Mpm::Event, |n, root| {
        fs::create_dir_all(root.join("libexec")).unwrap();
        fs::copy(&object, root.join("libexec/byHostname.so")).unwrap();
        fs::write(root.join("htdocs/x.php"), format!("{n}\n")).unwrap();
        let name = if n == 1 { "" } else { "BackhandHostname app-2.example.com\n" };
        let name = name.replace('2', &n.to_string());
        format!(
            "{name}<Files ~ \\.(pl|php)$>\n  Backhand byAge\n  BackhandFromSO libexec/byHostname.so byHostname app\n  \
             Backhand byRandom\n  Backhand byLogWindow\n  Backhand byLoad\n</Files>\n"
        )
    })
    .unwrap();
    webs.wait_up(1, &["www-1.test", "app-2.example.com", "app-3.example.com"]).unwrap();
    let seen: BTreeSet<String> =
        (0..40).map(|_| get(webs.web(1).address(), "/x.php").unwrap().body).collect();
    assert_eq!(seen, BTreeSet::from(["2\n".to_owned(), "3\n".to_owned()]));
    assert_eq!(get(webs.web(1).address(), "/who").unwrap().body, "www-1\n");
    // The object is opened anew at a graceful restart, and the matrix stays.
    webs.web(1).graceful().unwrap();
    wait::until("a new generation", LIMIT, || {
        let page = status(webs.web(1)).unwrap();
        if page["counters"]["manager_starts"] == 2 { Ok(()) } else { Err(page.to_string()) }
    })
    .unwrap();
    assert_ne!(get(webs.web(1).address(), "/x.php").unwrap().body, "1\n");
}

#[test]
fn the_least_loaded_server_with_fresh_information_is_chosen() {
    let webs = dry_run("Backhand byAge\nBackhand byLoad\n");
    let mut pretenders: Vec<Pretender> = [(11, 500_000), (12, 0), (13, 900_000)]
        .iter()
        .map(|&(last, load)| {
            let mut p = Pretender::new(&webs, ip(last), 80, &format!("p-{last}")).unwrap();
            p.stat.load = load;
            p
        })
        .collect();
    let all: Vec<&Pretender> = pretenders.iter().collect();
    announce_until_up(&webs, &all, &["p-11", "p-12", "p-13"]);
    let answer = get(webs.web(1).address(), "/who").unwrap();
    // Nothing is changed for the client of a dry run.
    assert_eq!((answer.status, &*answer.body), (200, "www-1\n"));
    let choice = chosen(&answer);
    assert!(["p-12", "local:"].contains(&&*choice), "{answer:?}");
    assert!(answer.head.contains("byLoad: "), "{answer:?}");
    // Stale information is not used, however good: only the first two are fresh.
    pretenders[1].stat.load = 999_000;
    pretenders[2].stat.load = 0;
    let both: Vec<&Pretender> = pretenders.iter().take(2).collect();
    wait::until("the third to become stale", LIMIT, || {
        both.iter().for_each(|p| p.announce(None).unwrap());
        let answer = get(webs.web(1).address(), "/who").unwrap();
        let explanation = answer.header("Backhand-Explain").unwrap().to_owned();
        let fresh = explanation.split("; ").find(|step| step.starts_with("byAge:")).unwrap().to_owned();
        if !fresh.contains("p-13") && fresh.contains("p-12") { Ok(()) } else { Err(explanation) }
    })
    .unwrap();
}

#[test]
fn the_window_of_the_paper_keeps_load_off_the_busiest() {
    let dir = tempfile::tempdir().unwrap();
    for object in [
        compile_c(&shipped("byHostname.c"), dir.path(), "c").unwrap(),
        compile_rust(&shipped("by_hostname.rs"), dir.path(), "rust").unwrap(),
    ] {
        let webs = dry_run(&format!(
            "Backhand byAge 2\nBackhandFromSO {} byHostname alpha\nBackhand byRandom\nBackhand byLogWindow\n\
             Backhand byLoad\n",
            object.display()
        ));
        let pretenders: Vec<Pretender> = (1..=4)
            .map(|n| {
                let mut p = Pretender::new(&webs, ip(20 + n), 80, &format!("alpha-{n}")).unwrap();
                p.stat.load = u32::from(n) * 1000;
                p
            })
            .chain([Pretender::new(&webs, ip(30), 80, "beta-1").unwrap()])
            .collect();
        let all: Vec<&Pretender> = pretenders.iter().collect();
        announce_until_up(&webs, &all, &["alpha-1", "alpha-4", "beta-1"]);
        let seen: BTreeSet<String> = (0..60)
            .map(|_| {
                all.iter().for_each(|p| p.announce(None).unwrap());
                chosen(&get(webs.web(1).address(), "/who").unwrap())
            })
            .collect();
        // Two of four at random, the better of them: each but the worst.
        let wanted = ["alpha-1", "alpha-2", "alpha-3"].map(str::to_owned);
        assert_eq!(seen, BTreeSet::from(wanted), "{}", webs.web(1).error_log());
    }
}

// ---- Reallocation ----

#[test]
fn requests_are_proxied_once_and_never_back() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        // With a key: on loopback all connections come from 127.0.0.1, whoever makes them.
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "secret\n").unwrap();
        let config = format!("BackhandStatsKey 1 {}\n{OTHERS}", file.display());
        let webs = Webs::start(2, mpm, |_, _| config.clone()).unwrap();
        webs.wait_all_up().unwrap();
        // Each thinks the other one is best.
        let answer = get(webs.web(1).address(), "/who").unwrap();
        assert_eq!(
            (answer.status, &*answer.body),
            (200, "www-2\n"),
            "{answer:?}\n{}",
            webs.web(1).error_log()
        );
        assert!(answer.header("Backhand-Explain").unwrap().contains("-> www-2.test by proxy"), "{answer:?}");
        assert_eq!(get(webs.web(2).address(), "/who").unwrap().body, "www-1\n");
        for n in [1, 2] {
            // The answer is at the client before it is counted.
            wait::until("the counters", LIMIT, || {
                let seen = ["hop_in", "proxied"].map(|name| counter(webs.web(n), name).unwrap());
                if seen == [1, 1] { Ok(()) } else { Err(seen) }
            })
            .unwrap();
        }
        // Outside of the chain's context nothing is decided, and upgrades stay here.
        assert_eq!(get(webs.web(1).address(), "/index.html").unwrap().body, "hello\n");
        let head = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(request(None, webs.web(1).address(), head, b"").unwrap().body, "www-1\n");
        assert_eq!(counter(webs.web(1), "decided").unwrap(), 1);
        // A header that nobody believes does not make a request travel.
        let head = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\nBackhand-Hop: 1; from=127.0.0.2:80; t=1\r\n\
                    X-Forwarded-For: 192.0.2.1\r\n\r\n";
        assert_eq!(request(Some(ip(9)), webs.web(1).address(), head, b"").unwrap().body, "www-1\n");
        assert_eq!(counter(webs.web(1), "hop_forged").unwrap(), 1);
    }
}

#[test]
fn redirects_follow_the_naming_rules() {
    let chain =
        "<Location /who>\nBackhand byAge 2\nBackhand removeSelf\nBackhand HTTPRedirectToName\n</Location>\n";
    let webs = Webs::start(2, Mpm::Event, |_, _| chain.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let web = webs.web(1).address();
    let ask = |method: &str, host: &str| {
        let head = format!(
            "{method} /who?a=%2F HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        request(None, web, &head, b"").unwrap()
    };
    let answer = ask("GET", "www.example.com");
    let wanted = format!("http://www-2.test:{}/who?a=%2F", web.port());
    assert_eq!((answer.status, answer.header("Location")), (302, Some(&*wanted)), "{answer:?}");
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    // Delivered here on purpose.
    for host in ["www-1.test", "WWW-2.test.:80", "127.0.0.1"] {
        let answer = ask("GET", host);
        assert_eq!((answer.status, &*answer.body), (200, "www-1\n"), "{host}");
    }
    // A body would be lost: other methods are proxied.
    let answer = ask("POST", "www.example.com");
    assert!(answer.body.ends_with("www-2\n") || answer.status == 405, "{answer:?}");
    wait::until("the counters", LIMIT, || {
        let seen = ["redirected", "proxied"].map(|name| counter(webs.web(1), name).unwrap());
        if seen == [1, 1] { Ok(()) } else { Err(seen) }
    })
    .unwrap();
}

#[test]
fn the_client_keeps_its_address() {
    let rule =
        "<Location /who>\n  Require ip 127.0.0.9\n</Location>\nCustomLog {root}/logs/access.log \"%a\"\n";
    let webs = Webs::start(2, Mpm::Event, |n, root| {
        if n == 1 { OTHERS.to_owned() } else { rule.replace("{root}", &root.to_string_lossy()) }
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    let head = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 127.0.0.9\r\n\r\n";
    assert_eq!(request(Some(ip(9)), webs.web(1).address(), head, b"").unwrap().status, 200);
    // What another client claims to be is not believed.
    assert_eq!(request(Some(ip(8)), webs.web(1).address(), head, b"").unwrap().status, 403);
    let log = webs.web(2).root().join("logs/access.log");
    wait::until("both clients in the log", LIMIT, || {
        let lines = fs::read_to_string(&log).unwrap_or_default();
        if lines.contains("127.0.0.9\n") && lines.contains("127.0.0.8\n") { Ok(()) } else { Err(lines) }
    })
    .unwrap();
}

#[test]
fn targets_and_bodies_arrive_unchanged_after_a_dead_candidate() {
    let chain = "<Location />\nBackhand byAge 60\nBackhand removeSelf\nBackhand byLoad\n</Location>\n\
                 BackhandDownTime 0s\n";
    let webs = Webs::start(1, Mpm::Event, |_, _| chain.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let stub = Stub::start(ip(12), Does::Echo).unwrap();
    // The first candidate has nobody at its port.
    let dead = Pretender::new(&webs, ip(11), free_address().unwrap().port(), "dead").unwrap();
    let mut alive = Pretender::new(&webs, ip(12), stub.port(), "alive").unwrap();
    alive.stat.load = 1;
    announce_until_up(&webs, &[&dead, &alive], &["dead", "alive"]);
    let web = webs.web(1).address();
    let none = digest(b"");
    for (target, sent) in [
        ("/x%20y?q=%2F", "/x%20y?q=%2F"),
        ("/x/../x//f", "/x/../x//f"),
        ("http://www.example.com/x?1", "/x?1"),
        ("HTTP://www.example.com:81/x", "/x"),
    ] {
        let answer = get(web, target).unwrap();
        assert_eq!(answer.body, format!("GET {sent} HTTP/1.1 hop 1 {none}\n"), "{}", webs.web(1).error_log());
    }
    let body: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0]).collect();
    let head =
        format!("POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let wanted = format!("POST /x HTTP/1.1 hop 1 {}\n", digest(&body));
    assert_eq!(request(None, web, &head, &body).unwrap().body, wanted);
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(request(None, web, head, &chunked(&body)).unwrap().body, wanted);
    assert!(counter(webs.web(1), "retried").unwrap() >= 6);
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(7000) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

#[test]
fn with_all_candidates_dead_the_local_handler_gets_the_whole_body() {
    let webs = Webs::start(1, Mpm::Prefork, |_, root| {
        let script = root.join("htdocs/sum.cgi");
        fs::write(&script, "#!/bin/sh\necho 'Content-Type: text/plain'\necho\nmd5sum\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        "LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so\n<Files sum.cgi>\nOptions +ExecCGI\n\
         SetHandler cgi-script\nBackhand byAge 60\nBackhand removeSelf\n</Files>\n\
         <Files who>\nBackhand byAge 60\nBackhand removeSelf\nBackhandFallback error\n</Files>\nBackhandDownTime 0s\n"
            .to_owned()
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    let dead = Pretender::new(&webs, ip(11), free_address().unwrap().port(), "dead").unwrap();
    announce_until_up(&webs, &[&dead], &["dead"]);
    let web = webs.web(1).address();
    let body: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0]).collect();
    let file = webs.dir().join("body");
    for body in [&body[..], b"abc", b""] {
        fs::write(&file, body).unwrap();
        let sum = Command::new("md5sum").stdin(fs::File::open(&file).unwrap()).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let head = format!(
            "POST /sum.cgi HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = request(None, web, &head, body).unwrap();
        assert!(answer.body.contains(&sum), "{} bytes: {answer:?}\n{}", body.len(), webs.web(1).error_log());
        let head =
            "POST /sum.cgi HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = request(None, web, head, &chunked(body)).unwrap();
        assert!(answer.body.contains(&sum), "{} bytes chunked: {answer:?}", body.len());
    }
    assert_eq!(get(web, "/who").unwrap().status, 503);
    assert_eq!(counter(webs.web(1), "failed").unwrap(), 7);
}

#[test]
fn a_server_that_closes_without_an_answer_is_replaced_if_that_is_safe() {
    let chain = "<Location /who>\nBackhand byAge 60\nBackhand removeSelf\n</Location>\nBackhandDownTime 0s\n";
    let webs = Webs::start(1, Mpm::Event, |_, _| chain.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let stub = Stub::start(ip(12), Does::Close).unwrap();
    let rude = Pretender::new(&webs, ip(12), stub.port(), "rude").unwrap();
    announce_until_up(&webs, &[&rude], &["rude"]);
    let web = webs.web(1).address();
    // Several on one connection: mod_proxy treats later ones differently.
    let mut stream = BufReader::new(TcpStream::connect(web).unwrap());
    for _ in 0..3 {
        assert_eq!(ask_again(&mut stream, "/who"), "www-1\n", "{}", webs.web(1).error_log());
    }
    let head = "POST /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(request(None, web, head, b"abc").unwrap().status, 502);
}

/// One more request on a connection that stays open.
fn ask_again(stream: &mut BufReader<TcpStream>, target: &str) -> String {
    stream.get_mut().set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the connection was closed");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn the_chosen_server_is_killed_in_the_middle_of_a_connection() {
    let mut webs = Webs::start(3, Mpm::Event, |_, _| OTHERS.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let mut stream = BufReader::new(TcpStream::connect(webs.web(1).address()).unwrap());
    let first = ask_again(&mut stream, "/who");
    let (dead, left) = if first == "www-2\n" { (2, "www-3\n") } else { (3, "www-2\n") };
    webs.kill(dead);
    // The next candidate answers; without a fresh one this server does.
    for _ in 0..5 {
        let body = ask_again(&mut stream, "/who");
        assert!(body == left || body == "www-1\n", "{body} after {first}\n{}", webs.web(1).error_log());
    }
    webs.kill(5 - dead);
    assert_eq!(ask_again(&mut stream, "/who"), "www-1\n");
}

#[test]
fn a_client_that_sends_its_headers_slowly_does_not_make_old_information_fresh() {
    let chain = "<Location /who>\nBackhand byAge 1\nBackhand removeSelf\n</Location>\n";
    let mut webs = Webs::start(2, Mpm::Event, |_, _| chain.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let mut stream = BufReader::new(TcpStream::connect(webs.web(1).address()).unwrap());
    stream.get_mut().write_all(b"GET /who HTTP/1.1\r\n").unwrap();
    let own = |field: &str| status(webs.web(1)).unwrap()["servers"][0][field].as_i64().unwrap();
    wait::until("a worker that waits for the headers", LIMIT, || match (own("nservers"), own("aservers")) {
        (all, idle) if idle < all => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .unwrap();
    webs.kill(2);
    wait::until("old information", LIMIT, || {
        match status(webs.web(1)).unwrap()["servers"][1]["age_ms"].as_u64().unwrap() {
            1300.. => Ok(()),
            age => Err(format!("{age} ms")),
        }
    })
    .unwrap();
    stream.get_mut().write_all(b"Host: www.example.com\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("www-1\n"), "{answer}");
    let count = |name| counter(webs.web(1), name).unwrap();
    assert_eq!((count("decided"), count("local"), count("failed")), (1, 1, 0));
}

#[test]
fn connections_to_other_servers_stay_open() {
    for (pools, most) in [("On", 20), ("Off", 200)] {
        let chain = format!(
            "<Location /who>\nBackhand byAge 60\nBackhand removeSelf\n</Location>\n\
                             BackhandConnectionPools {pools}\n"
        );
        let webs = Webs::start(1, Mpm::Event, |_, _| chain.clone()).unwrap();
        webs.wait_all_up().unwrap();
        let stub = Stub::start(ip(12), Does::Echo).unwrap();
        let peer = Pretender::new(&webs, ip(12), stub.port(), "peer").unwrap();
        announce_until_up(&webs, &[&peer], &["peer"]);
        let mut stream = BufReader::new(TcpStream::connect(webs.web(1).address()).unwrap());
        for n in 0..200 {
            // A client that closes after each request does not close the connection between the servers.
            let body = if n % 2 == 0 {
                ask_again(&mut stream, "/who")
            } else {
                get(webs.web(1).address(), "/who").unwrap().body
            };
            assert!(body.starts_with("GET /who"), "{body}");
            if n % 90 == 89 {
                stream = BufReader::new(TcpStream::connect(webs.web(1).address()).unwrap());
            }
        }
        let connections = stub.connections();
        assert!(connections <= most && (pools == "On" || connections == 200), "{pools}: {connections}");
    }
}

// ---- Statistics ----

#[test]
fn forged_announcements_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    fs::write(&file, "secret of the cluster\n").unwrap();
    let key = Key::new(7, b"secret of the cluster");
    let line = format!("BackhandStatsKey 7 {}\n", file.display());
    let webs = Webs::start(2, Mpm::Event, |_, _| format!("{line}{OTHERS}")).unwrap();
    webs.wait_all_up().unwrap();
    let count = |name: &str| counter(webs.web(1), name).unwrap();
    let refused = |name: &str, act: &dyn Fn()| {
        let before = count(name);
        act();
        wait::until(name, LIMIT, || if count(name) > before { Ok(()) } else { Err(before) }).unwrap();
    };
    let outside = Pretender::new(&webs, Ipv4Addr::new(127, 0, 1, 5), 80, "outside").unwrap();
    refused("rx_acl", &|| outside.announce(Some(&key)).unwrap());
    let inside = Pretender::new(&webs, ip(15), 80, "inside").unwrap();
    refused("rx_mac", &|| inside.announce(None).unwrap());
    refused("rx_mac", &|| inside.announce(Some(&Key::new(7, b"guess"))).unwrap());
    // A clock that differs by more than a replay may.
    refused("rx_mac", &|| inside.announce_at(Micros(now().0 - 40_000_000), Some(&key)).unwrap());
    let mut liar = Pretender::new(&webs, ip(16), 80, "liar").unwrap();
    liar.stat.contact = "192.0.2.1:80".parse().unwrap();
    refused("rx_acl", &|| liar.announce(Some(&key)).unwrap());
    webs.wait_up(1, &["www-1.test", "www-2.test"]).unwrap();
    // Requests with the key still travel, and a clock that differs a little is no matter.
    assert_eq!(get(webs.web(1).address(), "/who").unwrap().body, "www-2\n");
    inside.announce_at(Micros(now().0 - 20_000_000), Some(&key)).unwrap();
    webs.wait_up(1, &["inside", "www-1.test", "www-2.test"]).unwrap();
}

#[test]
fn clocks_of_hosts_may_differ_by_years() {
    let webs = Webs::start(1, Mpm::Event, no_lines).unwrap();
    webs.wait_all_up().unwrap();
    let old = Pretender::new(&webs, ip(15), 80, "old").unwrap();
    let young = Pretender::new(&webs, ip(16), 80, "young").unwrap();
    for n in 1..=3 {
        old.announce_at(Micros(n), None).unwrap();
        young.announce_at(Micros(now().0 * 2 + n), None).unwrap();
    }
    webs.wait_up(1, &["old", "www-1.test", "young"]).unwrap();
}

#[test]
fn the_manager_is_started_again() {
    let webs = Webs::start(2, Mpm::Event, |_, root| {
        format!("{OTHERS}BackhandModeratorPIDFile {}/sockets/pid\n", root.display())
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    let pid = || status(webs.web(1)).unwrap()["manager"].as_i64().unwrap();
    let before = pid();
    let file = webs.web(1).root().join("sockets/pid");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), before.to_string());
    kill(Pid::from_raw(i32::try_from(before).unwrap()), Signal::SIGKILL).unwrap();
    wait::until("a new manager", LIMIT, || {
        // Requests are served all the time.
        assert_eq!(get(webs.web(1).address(), "/who").unwrap().status, 200);
        let now = pid();
        if now != before { Ok(()) } else { Err(now) }
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    assert_eq!(counter(webs.web(1), "manager_restarts").unwrap(), 1);
    assert_eq!(get(webs.web(1).address(), "/who").unwrap().body, "www-2\n");
}

#[test]
fn a_server_that_stops_gracefully_is_no_candidate() {
    let webs = Webs::start(2, Mpm::Event, |_, _| OTHERS.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    // A request under way keeps it alive.
    let mut slow = TcpStream::connect(webs.web(2).address()).unwrap();
    slow.write_all(b"GET /who HTTP/1.1\r\n").unwrap();
    wait::until("the request to be under way", LIMIT, || {
        let page = status(webs.web(2)).unwrap();
        let own = &page["servers"][0];
        let busy = own["nservers"].as_u64().unwrap() - own["aservers"].as_u64().unwrap();
        if busy > 0 { Ok(()) } else { Err(page.to_string()) }
    })
    .unwrap();
    webs.web(2).signal(Signal::SIGWINCH).unwrap();
    wait::until("www-2 draining", LIMIT, || {
        let page = status(webs.web(1)).unwrap();
        let servers = page["servers"].as_array().unwrap();
        let draining = servers.iter().any(|s| s["hostname"] == "www-2.test" && s["state"] == "draining");
        if draining { Ok(()) } else { Err(page.to_string()) }
    })
    .unwrap();
    assert_eq!(get(webs.web(1).address(), "/who").unwrap().body, "www-1\n");
    slow.write_all(b"Host: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("www-1\n") || answer.ends_with("www-2\n"), "{answer}");
    // With a goodbye it is gone, long before its record is old.
    wait::until("www-2 gone", LIMIT, || {
        let page = status(webs.web(1)).unwrap();
        let servers = page["servers"].as_array().unwrap();
        let gone = servers.iter().any(|s| s["hostname"] == "www-2.test" && s["state"] == "gone");
        if gone { Ok(()) } else { Err(page.to_string()) }
    })
    .unwrap();
}

#[test]
fn graceful_restarts_fail_no_request() {
    let webs = Webs::start(2, Mpm::Event, |_, _| OTHERS.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let (stop, web) = (AtomicBool::new(false), webs.web(1).address());
    let done = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = get(web, "/who").unwrap();
                        assert_eq!(answer.status, 200, "{answer:?}");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for starts in 2..=3 {
            // Requests before and after each restart, however fast it is.
            let wanted = done.load(Ordering::Relaxed) + 10;
            let answered = || done.load(Ordering::Relaxed);
            wait::until("requests", LIMIT, || if answered() >= wanted { Ok(()) } else { Err(answered()) })
                .unwrap();
            webs.web(1).graceful().unwrap();
            wait::until("a new manager", LIMIT, || {
                let page = status(webs.web(1)).unwrap();
                if page["counters"]["manager_starts"] == starts { Ok(()) } else { Err(page.to_string()) }
            })
            .unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    webs.wait_all_up().unwrap();
}

#[test]
fn statistics_travel_over_a_spread_group() {
    let mut cluster = Cluster::on_loopback(1).unwrap();
    cluster.start_all().unwrap();
    let daemon = cluster.connect_string(0);
    let stats = |addr: Ipv4Addr, _| {
        format!("BackhandContact {addr}\nBackhandStatsGroup backhand\nBackhandSpreadDaemon {daemon}\n")
    };
    let mut webs = Webs::start_with(3, Mpm::Event, stats, |_, _| OTHERS.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    assert_ne!(get(webs.web(1).address(), "/who").unwrap().body, "www-1\n");
    let page = status(webs.web(1)).unwrap();
    assert_eq!(page["servers"][1]["via"], "spread", "{page}");
    // Who leaves the group is gone at once, long before its record is old.
    webs.kill(3);
    wait::until("www-3 gone", Duration::from_secs(5), || {
        let page = status(webs.web(1)).unwrap();
        let servers = page["servers"].as_array().unwrap();
        let gone =
            servers.iter().find(|s| s["hostname"] == "www-3.test").is_some_and(|s| s["state"] == "gone");
        if gone { Ok(()) } else { Err(page.to_string()) }
    })
    .unwrap();
    // Without the daemon the information ages, and requests are served here.
    cluster.kill(0).unwrap();
    wait::until("local service", LIMIT, || {
        let body = get(webs.web(1).address(), "/who").unwrap().body;
        if body == "www-1\n" { Ok(()) } else { Err(body) }
    })
    .unwrap();
    cluster.start(0).unwrap();
    wait::until("service by the other one", Duration::from_secs(60), || {
        let body = get(webs.web(1).address(), "/who").unwrap().body;
        if body == "www-2\n" { Ok(()) } else { Err(body) }
    })
    .unwrap();
}

// ---- Functions of others, pages ----

#[test]
fn a_candidacy_object_that_errs_does_not_take_the_server_down() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("mad.c");
    fs::write(
        &source,
        "#include \"mod_backhand.h\"\n\
         int many(request_rec *r, int *servers, int *n, char *arg)\n\
         { int i; (void)r; (void)arg; for (i = 0; i < 1000; i++) servers[i] = i; return *n = 1000; }\n\
         int wrong(request_rec *r, int *servers, int *n, char *arg)\n\
         { (void)r; (void)arg; servers[0] = 77; return *n = 1; }\n\
         int minus(request_rec *r, int *servers, int *n, char *arg)\n\
         { (void)r; (void)arg; (void)servers; *n = -5; return -1; }\n\
         int twice(request_rec *r, int *servers, int *n, char *arg)\n\
         { (void)r; (void)arg; servers[1] = servers[0]; backhand_set_method(r, 2); return *n = 2; }\n\
         int crash(request_rec *r, int *servers, int *n, char *arg)\n\
         { (void)r; (void)arg; (void)servers; (void)n; *(volatile int *)8 = 1; return 0; }\n",
    )
    .unwrap();
    let object = compile_c(&source, dir.path(), "mad").unwrap();
    let config: String = ["many", "wrong", "minus", "twice", "crash"]
        .iter()
        .map(|f| {
            let object = object.display();
            format!("<Location /who/{f}>\nBackhand removeSelf\nBackhandFromSO {object} {f}\nBackhandDryRun On\n</Location>\n")
        })
        .collect();
    let webs = Webs::start(2, Mpm::Event, |_, _| config.clone()).unwrap();
    webs.wait_all_up().unwrap();
    let web = webs.web(1).address();
    for (function, error) in [("many", "1000 servers"), ("wrong", "server 77"), ("minus", "returned -1")] {
        let answer = get(web, &format!("/who/{function}")).unwrap();
        let explanation = answer.header("Backhand-Explain").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(
            explanation.contains(error) || (function == "many" && explanation.contains("which there is not")),
            "{explanation}"
        );
        assert!(explanation.ends_with("-> www-2.test by proxy"), "{explanation}");
    }
    let answer = get(web, "/who/twice").unwrap();
    let explanation = answer.header("Backhand-Explain").unwrap();
    assert!(
        explanation.ends_with("twice: www-2.test; -> www-2.test by redirect by address"),
        "{explanation}"
    );
    assert_eq!(counter(webs.web(1), "external_errors").unwrap(), 3);
    assert!(webs.web(1).error_log().contains("its result is ignored"));
    // A fault ends the child that has it; the server starts another one and goes on.
    assert!(get(web, "/who/crash").is_err());
    wait::until("service after a crash", LIMIT, || get(web, "/who").map_err(|e| e.to_string())).unwrap();
    assert_eq!(status(webs.web(1)).unwrap()["counters"]["manager_starts"], 1);
}

#[test]
fn the_page_shows_the_matrix() {
    let config = "Backhand byAge\n<Location /backhand/closed>\nRequire ip 192.0.2.1\n</Location>\n\
                  <Files ~ \\.txt$>\nBackhand byAge 7\nBackhand byCPU\n</Files>\n";
    let webs = Webs::start(2, Mpm::Event, |_, _| config.to_owned()).unwrap();
    webs.wait_all_up().unwrap();
    let web = webs.web(1).address();
    let page = get(web, "/backhand/?refresh=3").unwrap();
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("Cache-Control"), Some("no-store"));
    for part in [
        "www-1.test",
        "www-2.test",
        "content=\"3\"",
        "Chain outside of sections: byAge",
        "<button type=\"button\">load</button>",
    ] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    for (path, chain) in
        [("/x.txt", "Chain /x.txt: byAge 7, byCPU"), ("/who", "Chain /who: byAge"), ("x", "Chain x: none")]
    {
        let page = get(web, &format!("/backhand/?uri={path}")).unwrap();
        assert!(page.body.contains(&format!("{chain}<")), "{path}: {}", page.body);
    }
    let head = "GET /backhand/ HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
    let json = request(None, web, head, b"").unwrap();
    assert_eq!(json.header("Content-Type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!((&json["v"], &json["interval_ms"]), (&1.into(), &200.into()));
    let own = &json["servers"][0];
    assert_eq!((&own["self"], &own["via"], &own["arriba"]), (&true.into(), &"self".into(), &100.into()));
    assert!(own["nservers"].as_u64().unwrap() > 0 && own["tmem"].as_u64().unwrap() > 0, "{own}");
    let head = "POST /backhand/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(request(None, web, head, b"").unwrap().status, 405);
    assert_eq!(get(web, "/backhand/closed").unwrap().status, 403);
}

/// What a client and a server must not notice: the MPM, HTTP/2 at the front, big bodies both ways, upgrades.
fn everything_passes(mpm: Mpm) {
    let webs = Webs::start(2, mpm, |n, root| {
        let echo = root.join("echo.cgi");
        fs::write(&echo, "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\ncksum\n").unwrap();
        fs::set_permissions(&echo, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("htdocs/large"), vec![b'x'; 5_000_000]).unwrap();
        let chain =
            if n == 1 { "<Location />\nBackhand byAge 2\nBackhand removeSelf\n</Location>\n" } else { "" };
        // mod_http2 and prefork do not go together.
        let h2 = if mpm == Mpm::Prefork {
            ""
        } else {
            "LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so\nProtocols h2c http/1.1\n"
        };
        format!(
            "LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so\n{h2}{chain}\
             ScriptAlias /echo {}\n<Location /echo>\nRequire all granted\n</Location>\n\
             <Location /backhand/>\nBackhand off\n</Location>\n",
            echo.display()
        )
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    let front = webs.web(1).address();
    let curl = |args: &[&str], path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "20"]).args(args).arg(format!("http://{front}{path}"));
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let body = webs.dir().join("body");
    fs::write(&body, vec![b'y'; 1_000_000]).unwrap();
    let upload = format!("@{}", body.display());
    let versions: &[&[&str]] =
        if mpm == Mpm::Prefork { &[&["--http1.1"]] } else { &[&["--http1.1"], &["--http2-prior-knowledge"]] };
    let mut proxied = 0;
    for version in versions {
        assert_eq!(curl(version, "/who"), b"www-2\n", "{version:?}");
        assert_eq!(curl(version, "/large").len(), 5_000_000, "{version:?}");
        for chunked in [&[][..], &["-H", "Transfer-Encoding: chunked"][..]] {
            // HTTP/2 has no chunks, and curl says so itself.
            if !chunked.is_empty() && version[0] != "--http1.1" {
                continue;
            }
            let args = [version, &["--data-binary", upload.as_str(), "-H", "Expect:"][..], chunked].concat();
            let answer = String::from_utf8(curl(&args, "/echo")).unwrap();
            assert!(answer.ends_with(" 1000000\n"), "{args:?}: {answer}");
            proxied += 1;
        }
        proxied += 2;
    }
    assert_eq!(counter(webs.web(1), "proxied").unwrap(), proxied);
    // An upgrade is never passed on: this server answers, and the connection goes on as it was.
    let head = "GET /who HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
                GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = request(None, front, head, b"").unwrap();
    assert_eq!(answers.status, 200, "{answers:?}");
    assert!(answers.body.starts_with("www-1\n") && answers.body.ends_with("www-2\n"), "{answers:?}");
    assert_eq!(counter(webs.web(1), "proxied").unwrap(), proxied + 1);
}

#[test]
fn everything_passes_with_worker_and_http2() {
    everything_passes(Mpm::Worker);
}

#[test]
fn everything_passes_with_event_and_http2() {
    everything_passes(Mpm::Event);
}

#[test]
fn everything_passes_with_prefork() {
    everything_passes(Mpm::Prefork);
}

#[test]
fn the_control_socket_answers_and_goes_with_the_server() {
    let mut webs = Webs::start(2, Mpm::Event, no_lines).unwrap();
    webs.wait_all_up().unwrap();
    let path = webs.dir().join("www-1/sockets/mod_backhand-control");
    let ask = || -> anyhow::Result<serde_json::Value> {
        let mut text = String::new();
        UnixStream::connect(&path)?.read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    };
    let mut names = up(&ask().unwrap()).into_iter().map(str::to_owned).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["www-1.test", "www-2.test"]);
    let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // The next manager has it too.
    webs.web(1).graceful().unwrap();
    wait::until("the new manager", LIMIT, || match ask() {
        Ok(page) if page["counters"]["manager_starts"] == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    webs.stop(1, LIMIT).unwrap();
    wait::until("the socket to go", LIMIT, || if path.exists() { Err(()) } else { Ok(()) }).unwrap();
}

#[test]
fn servers_announce_themselves_and_proxy_over_ipv6() {
    if let Some(reason) = netns::unavailable() {
        println!("not run: {reason}");
        return;
    }
    let net = Net::new(2).unwrap();
    let dir = tempfile::Builder::new().prefix("backhand-v6-").tempdir().unwrap();
    let start = |n: usize| {
        let (host, addr) = (net.host(n), format!("fd77::{}", n + 1));
        let prefix = format!("{addr}/64");
        // Without waiting whether somebody else has the address.
        let added =
            host.command("ip").args(["addr", "add", &prefix, "dev", "eth0", "nodad"]).status().unwrap();
        assert!(added.success());
        let config = format!(
            "{}TypesConfig /dev/null\nBackhandHostname www-{n}.test\nBackhandInterval 200ms\nBackhandArriba 100\n\
             MulticastStats {addr} [ff05::77]:4445,3\nAcceptStats fd77::/64\n\
             <Location /backhand/>\nSetHandler backhand-handler\n</Location>\n{OTHERS}",
            load_modules().unwrap(),
        );
        let listen = SocketAddr::new(addr.parse().unwrap(), 80);
        let setup = Setup { name: format!("www-{n}"), listen, mpm: Mpm::Event, config };
        let reachable = |addr| host.enter(move || TcpStream::connect(addr).is_ok()).unwrap().join().unwrap();
        let apache = Apache::start(dir.path(), setup, |program| host.command(program), reachable).unwrap();
        fs::write(apache.root().join("htdocs/who"), format!("www-{n}\n")).unwrap();
        apache
    };
    let ask = |n: usize, address: SocketAddr, target: &'static str| {
        net.host(n).enter(move || get(address, target)).unwrap().join().unwrap()
    };
    let apaches = [start(0), start(1)];
    let page = |n: usize| -> serde_json::Value {
        serde_json::from_str(&ask(n, apaches[n].address(), "/backhand/?json").unwrap().body).unwrap()
    };
    // Each must know the other one: who is asked must know who asks.
    wait::until("both to know both", LIMIT, || {
        let pages = [page(0), page(1)];
        if pages.iter().all(|page| up(page).len() == 2) { Ok(()) } else { Err(pages) }
    })
    .unwrap();
    assert_eq!(ask(0, apaches[0].address(), "/who").unwrap().body, "www-1\n");
    let seen = page(0);
    let mut contacts = seen["servers"].as_array().unwrap().iter().map(|s| s["contact"].as_str().unwrap());
    assert!(contacts.any(|contact| contact == "[fd77::2]:80"), "{seen}");
    // The other one believed the hop: the connection came from an address that is announced.
    let seen = page(1);
    assert!(seen["counters"]["hop_in"].as_u64().unwrap() > 0, "{seen}");
    assert_eq!(seen["counters"]["hop_forged"], 0, "{seen}");
}

#[test]
fn decisions_go_to_the_access_log() {
    let webs = Webs::start(2, Mpm::Event, |n, root| {
        let format = "\"%U [%{Backhand-Explain}n] to=%{BACKHAND_TO}e method=%{BACKHAND_METHOD}e would=%{BACKHAND_WOULD}e\"";
        if n == 1 {
            let root = root.display();
            format!("CustomLog {root}/logs/access.log {format}\n{OTHERS}<Location /who/dry>\nBackhandDryRun On\n</Location>\n")
        } else {
            String::new()
        }
    })
    .unwrap();
    webs.wait_all_up().unwrap();
    get(webs.web(1).address(), "/who").unwrap();
    get(webs.web(1).address(), "/who/dry").unwrap();
    let log = webs.web(1).root().join("logs/access.log");
    wait::until("both lines", LIMIT, || {
        let lines = fs::read_to_string(&log).unwrap_or_default();
        let proxied = lines.contains("-> www-2.test by proxy] to=www-2.test method=proxy would=-");
        let dry = lines.contains("-> www-2.test by proxy] to=- method=local would=www-2.test");
        if proxied && dry { Ok(()) } else { Err(lines) }
    })
    .unwrap();
}
