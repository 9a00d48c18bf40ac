//! The page of `spread-web` in a real browser, over real Apaches: its numbers are those of the unified log.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use access_log::Format;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::apache::{Apache, Mpm, free_address};
use tests::browser::Browser;
use tests::cluster::Cluster;
use tests::load::{self, Load};
use tests::process::Process;
use tests::weblog::{self, Place};
use tests::{bins, wait};

const FORMAT: &str = r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D"#;
const LIMIT: Duration = Duration::from_secs(60);

fn apache(cluster: &Cluster, name: &str, daemon: usize) -> Apache {
    let module = bins::shared_library("mod_log_spread", "mod_log_spread").unwrap();
    let config = format!(
        "LoadModule log_spread_module {}\nSpreadDaemon {}\nLogFormat \"{}\" demo\nCustomLog $site4 demo\n",
        module.display(),
        cluster.connect_string(daemon),
        FORMAT.replace('"', "\\\"")
    );
    let setup = weblog::setup(name, free_address().unwrap(), Mpm::Event, config);
    weblog::apache(cluster.dir(), Place::Here, setup).unwrap()
}

/// What the page shows, read from its elements.
fn shown(browser: &Browser) -> Value {
    let script = r##"
        const text = (selector) => [...document.querySelectorAll(selector)].map((e) => e.innerText.trim());
        return { last: state.shot?.last_second, filter: state.shot?.filter ?? "",
            tiles: Object.fromEntries([...document.querySelectorAll("#tiles .tile")].map((t) =>
                [t.querySelector("span").innerText, t.querySelector("b").innerText])),
            servers: [...document.querySelectorAll("#servers tbody tr")].map((r) => [...r.cells].map((c) => c.innerText.trim())),
            span: state.shot?.top_over, lists: Object.fromEntries(["path", "failed_path", "client"].map((kind) =>
                [kind, [...document.querySelectorAll(`#top-${kind} li`)].map((l) =>
                    [l.querySelector(".name").innerText.trim(), l.querySelector(".value").innerText.split(" ·")[0]])])),
            tail: text("#tail div").length, error: text("#filter-error").join(),
            status: text("#status-text").join() };
    "##;
    browser.run(script).unwrap()
}

fn number(text: &Value) -> u64 {
    text.as_str().unwrap_or("").replace(',', "").parse().unwrap_or(u64::MAX)
}

/// Requests by status class of the lines that name a second of `last - seconds + 1 ..= last`.
fn recount(log: &str, last: i64, seconds: i64) -> BTreeMap<u16, u64> {
    let format = Format::compile(FORMAT).unwrap();
    let mut classes = BTreeMap::new();
    for line in log.split_inclusive('\n') {
        let entry = format.parse(line.as_bytes()).unwrap();
        let second = entry.time_us.unwrap() / 1_000_000;
        if (last - seconds + 1..=last).contains(&second) {
            *classes.entry(entry.status.unwrap() / 100).or_default() += 1;
        }
    }
    classes
}

/// The lists of the page over the same seconds: value and count, the most frequent first, equal ones by name.
fn recount_lists(log: &str, last: i64, seconds: i64) -> BTreeMap<&'static str, Vec<(String, u64)>> {
    let format = Format::compile(FORMAT).unwrap();
    let mut counts = BTreeMap::from(["path", "failed_path", "client"].map(|kind| (kind, BTreeMap::new())));
    for line in log.split_inclusive('\n') {
        let entry = format.parse(line.as_bytes()).unwrap();
        if !(last - seconds + 1..=last).contains(&(entry.time_us.unwrap() / 1_000_000)) {
            continue;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let request = text(entry.request_raw.unwrap());
        let path = request.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
        let failed = entry.status.unwrap() >= 400;
        let client = Some(text(entry.host));
        let values =
            [("path", Some(path.clone())), ("failed_path", failed.then_some(path)), ("client", client)];
        for (kind, value) in values {
            if let Some(value) = value {
                *counts.get_mut(kind).unwrap().entry(value).or_default() += 1;
            }
        }
    }
    counts.into_iter().map(|(kind, values)| (kind, sorted(values.into_iter().collect()))).collect()
}

/// The page shows fifteen.
fn sorted(mut list: Vec<(String, u64)>) -> Vec<(String, u64)> {
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list.truncate(15);
    list
}

/// The lists as the page shows them.
fn lists(seen: &Value) -> BTreeMap<&'static str, Vec<(String, u64)>> {
    let rows = |kind: &'static str| {
        let rows = seen["lists"][kind].as_array().cloned().unwrap_or_default();
        let row = |row: &Value| (row[0].as_str().unwrap_or("").to_owned(), number(&row[1]));
        (kind, sorted(rows.iter().map(row).collect()))
    };
    ["path", "failed_path", "client"].map(rows).into()
}

#[test]
fn the_page_shows_what_the_unified_log_says() {
    let mut cluster = Cluster::on_loopback(2).unwrap();
    cluster.start_all().unwrap();
    for index in 0..2 {
        cluster.daemon(index).unwrap().wait_printed("daemons=2", LIMIT).unwrap();
    }
    let log = cluster.dir().join("access.log");
    let mut writer = Command::new(bins::bin("log_writer", "log_writer").unwrap());
    writer.args(["-s", &cluster.connect_string(1), "--group", "site4", "--output"]).arg(&log);
    let mut writer = Process::start("log_writer", cluster.dir(), writer).unwrap();
    let mut web = Command::new(bins::bin("monitors", "spread-web").unwrap());
    web.args(["-s", &cluster.connect_string(0), "--group", "$site4", "--format", FORMAT]);
    let mut web = Process::start("spread-web", cluster.dir(), {
        web.args(["--listen", "127.0.0.1:0"]);
        web
    })
    .unwrap();
    web.wait_printed("The page is at http://", LIMIT).unwrap();
    let printed = web.printed();
    let page = printed.split("The page is at ").nth(1).unwrap().split("/.").next().unwrap().to_owned();
    let apaches = [apache(&cluster, "web1", 0), apache(&cluster, "web2", 1)];
    let servers: Vec<SocketAddr> = apaches.iter().map(Apache::address).collect();

    let browser = Browser::start(cluster.dir(), 1400, 1700).unwrap();
    browser.open(&page).unwrap();
    Load::new(&servers, 2, 300).run(&AtomicU64::new(0)).unwrap();
    for n in 0..40 {
        load::get(servers[n % 2], &format!("/missing-{}", n % 4)).unwrap();
    }
    let answered = 340;
    wait::until("the unified log", LIMIT, || {
        let lines = fs::read_to_string(&log).unwrap_or_default().lines().count();
        if lines == answered { Ok(()) } else { Err(lines) }
    })
    .unwrap();
    // All windows but the last second's are complete once the figures end after the last line.
    let seen = wait::until("the page", LIMIT, || {
        let seen = shown(&browser);
        if number(&seen["tiles"]["since start"]) == answered as u64 { Ok(seen) } else { Err(seen) }
    })
    .unwrap();
    browser.run("document.querySelector('input[value=\"1m\"]').click()").unwrap();
    let all = fs::read_to_string(&log).unwrap();
    let minute = wait::until("the minute", LIMIT, || {
        let minute = shown(&browser);
        let last = minute["last"].as_i64().unwrap_or(0);
        // The unified log is complete, so these are the numbers whatever the moment.
        let exact = recount(&all, last, 60);
        let same = (2..=5).all(|class: u16| {
            number(&minute["tiles"][format!("{class}xx")]) == exact.get(&class).copied().unwrap_or(0)
        });
        if same && exact.values().sum::<u64>() == answered as u64 { Ok(minute) } else { Err((minute, exact)) }
    })
    .unwrap();
    // The lists too, whenever one looks: here while the requests slide out of the ten seconds.
    for (span, seconds) in [("1m", 60), ("10s", 10)] {
        browser.run(&format!("document.querySelector('input[value=\"{span}\"]').click()")).unwrap();
        let mut seen = wait::until("the lists of the window", LIMIT, || {
            let seen = shown(&browser);
            if seen["span"] == span { Ok(seen) } else { Err(seen) }
        })
        .unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let exact = recount_lists(&all, seen["last"].as_i64().unwrap(), seconds);
            assert_eq!(lists(&seen), exact, "{span}: {seen}");
            let empty = exact.values().all(Vec::is_empty);
            assert!(!empty || span == "10s", "the requests are a minute old");
            if empty || span == "1m" {
                break;
            }
            let before = seen["last"].clone();
            seen = wait::until("the next second", LIMIT, || {
                let seen = shown(&browser);
                if seen["last"] == before { Err(seen) } else { Ok(seen) }
            })
            .unwrap();
            assert!(Instant::now() < deadline, "the requests stay: {seen}");
        }
    }
    browser.run("document.querySelector('input[value=\"1m\"]').click()").unwrap();
    let names: Vec<&str> =
        minute["servers"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap()).collect();
    assert_eq!(names, ["h1", "h2"], "{minute}");
    assert!(seen["tail"].as_u64().unwrap() > 0, "{seen}");
    assert!(seen["status"].as_str().unwrap().starts_with("live from"), "{seen}");

    // One filter narrows everything; a wrong one is explained and changes nothing.
    browser.run("applyFilter('status=404 and server=h1')").unwrap();
    wait::until("the filtered page", LIMIT, || {
        let seen = shown(&browser);
        if number(&seen["tiles"]["since start"]) == 20 && seen["filter"] == "status=404 and server=h1" {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .unwrap();
    browser.run("applyFilter('status=abc')").unwrap();
    wait::until("the explanation", LIMIT, || {
        let seen = shown(&browser);
        let error = seen["error"].as_str().unwrap_or("");
        if error.contains("expected a status as `404` or a class as `5xx`") { Ok(()) } else { Err(seen) }
    })
    .unwrap();

    // Usable on a phone: nothing is wider than the window but what scrolls by itself.
    browser.resize(400, 900).unwrap();
    // The charts follow the window when the browser tells them of its new size.
    wait::until("a page as narrow as a phone", LIMIT, || {
        let wide = browser.run("const w = document.documentElement.clientWidth; return [...document.querySelectorAll('body *')].filter((e) => \
              e.getBoundingClientRect().right > w + 1 && !e.closest('.scroll, .tail, .hidden, .skip')).map((e) => e.outerHTML.slice(0, 100))").unwrap();
        if wide == serde_json::json!([]) { Ok(()) } else { Err(wide) }
    })
    .unwrap();
    accessible(&browser);
    // The wrong filter above was answered with 400, which a browser reports by itself.
    let console: Vec<String> =
        browser.console().unwrap().into_iter().filter(|line| !line.contains("400 (Bad Request)")).collect();
    assert!(console.is_empty(), "{console:#?}");

    drop(browser);
    for process in [&mut web, &mut writer] {
        process.signal(Signal::SIGTERM).unwrap();
        assert!(process.wait_end(LIMIT).unwrap().success(), "{}", process.printed());
    }
    for apache in apaches {
        apache.stop(LIMIT).unwrap();
    }
}

/// What a page must have for who cannot see it or has no mouse: names of all controls, one main heading, no
/// skipped levels, labels of tables, text that stands out from its ground.
fn accessible(browser: &Browser) {
    let problems = browser
        .run(
            r#"
        const problems = [];
        const name = (e) => (e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText
            || (e.getAttribute("aria-labelledby") && document.getElementById(e.getAttribute("aria-labelledby"))?.innerText) || "").trim();
        for (const e of document.querySelectorAll("button, input, select, a[href]")) if (!name(e)) problems.push(`no name: ${e.outerHTML}`);
        for (const e of document.querySelectorAll("section, [role=region]")) if (!name(e)) problems.push(`no label: ${e.id}`);
        if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
        if (!document.documentElement.lang) problems.push("no language");
        for (const e of document.querySelectorAll("[id]")) if (document.querySelectorAll(`[id="${e.id}"]`).length > 1) problems.push(`twice: ${e.id}`);
        const rgb = (c) => c.match(/[\d.]+/g).map(Number);
        const lum = (c) => { const [r, g, b] = rgb(c).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (rgb(c)[3] === undefined || rgb(c)[3] > 0.9) return c; } return "rgb(255, 255, 255)"; };
        for (const theme of ["light", "dark"]) {
            setTheme(theme);
            for (const e of document.querySelectorAll("body *")) {
                if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.offsetParent || e.closest(".u-wrap, .hidden")) continue;
                const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))].sort((x, y) => y - x);
                const contrast = (a + 0.05) / (b + 0.05);
                if (contrast < 4.5) problems.push(`${theme} contrast ${contrast.toFixed(2)}: <${e.tagName} class="${e.className}"> ${e.innerText.slice(0, 30)}`);
            }
        }
        return [...new Set(problems)].slice(0, 20);
    "#,
        )
        .unwrap();
    assert_eq!(problems, serde_json::json!([]), "{problems:#}");
}
