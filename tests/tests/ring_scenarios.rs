//! Named troubles of rings with real daemons, each on a host of its own: daemons that stand still, links that
//! work one way only, other configurations, other versions, partitions that merge at the same moment.
//!
//! What the daemons must do in each is said at the test; `docs/internals/ring.md` has the rules behind it.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spread::blocking::Connection;
use spread::{GroupName, Message, Service};
use tests::cluster::Cluster;
use tests::netns::{BadLink, unavailable};
use tests::wait;

/// Longest time for daemons to settle; those that broke several rings wait before they join again.
const LIMIT: Duration = Duration::from_secs(90);

fn cluster(hosts: u8) -> Option<Cluster> {
    if let Some(reason) = unavailable() {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to make hosts: {reason}");
        return None;
    }
    Some(Cluster::on_hosts(hosts).unwrap())
}

fn group() -> GroupName {
    "scenario".parse().unwrap()
}

/// Connects and joins.
fn member(cluster: &Cluster, index: usize) -> Connection {
    let mut client = cluster.client(index, &format!("c{index}"), LIMIT).unwrap();
    client.join(group()).unwrap();
    client
}

/// Waits for the view with so many members.
fn sees_members(client: &mut Connection, count: usize) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.receive_timeout(left).unwrap() {
            Some(Message::Membership(view)) if view.members.len() == count => return,
            Some(_) => {}
            None => panic!("no view with {count} members"),
        }
    }
}

/// Payloads of the data messages up to the one that is `last`.
fn payloads(client: &mut Connection, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.receive_timeout(left).unwrap() {
            Some(Message::Data(data)) => {
                seen.push(String::from_utf8(data.payload().to_vec()).unwrap());
                if seen.last().is_some_and(|text| text == last) {
                    return seen;
                }
            }
            Some(_) => {}
            None => panic!("{last:?} did not come; seen: {seen:?}"),
        }
    }
}

fn installs(cluster: &Cluster, indices: &[usize]) -> u64 {
    indices
        .iter()
        .map(|index| cluster.status(*index).unwrap().counters["ring"]["configurations_installed"])
        .sum()
}

/// Waits until no ring has changed for `quiet`.
fn wait_rest(cluster: &Cluster, indices: &[usize], quiet: Duration) {
    let mut last = (installs(cluster, indices), Instant::now());
    wait::until("daemons at rest", LIMIT, || {
        let now = installs(cluster, indices);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() >= quiet { Ok(()) } else { Err(now) }
    })
    .unwrap();
}

fn printed(cluster: &mut Cluster, index: usize) -> String {
    cluster.daemon(index).unwrap().printed()
}

fn wait_printed(cluster: &mut Cluster, index: usize, text: &str) {
    cluster.daemon(index).unwrap().wait_printed(text, LIMIT).unwrap();
}

/// The daemon holds the token (it rests at the last sender) and has requests of its client that it did not send.
/// The others go on without it. When it runs again it may send some of them in the ring that is over, with the
/// token it still has: nobody else takes these, and its own clients get them in their transitional view. The
/// others go to all. So its client gets each once and in order, and all others get the same rest.
#[test]
fn a_daemon_that_was_stopped_with_the_token_and_unsent_messages_loses_none() {
    let Some(mut cluster) = cluster(3) else { return };
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let mut clients: Vec<_> = (0..3).map(|index| member(&cluster, index)).collect();
    for client in &mut clients {
        sees_members(client, 3);
    }
    let parked = |cluster: &Cluster| cluster.status(1).unwrap().counters["ring"]["token_parked"];
    let before = parked(&cluster);
    clients[1].multicast(Service::AGREED, group(), 1, "first").unwrap();
    wait::until(
        "the token to rest at h2",
        LIMIT,
        || if parked(&cluster) > before { Ok(()) } else { Err(()) },
    )
    .unwrap();
    cluster.daemon(1).unwrap().pause().unwrap();
    for i in 0..50 {
        clients[1].multicast(Service::AGREED, group(), 1, format!("h2 {i}")).unwrap();
    }
    cluster.wait_ring(&[0, 2], LIMIT).unwrap();
    for i in 0..50 {
        clients[0].multicast(Service::SAFE, group(), 1, format!("h1 {i}")).unwrap();
    }
    assert_eq!(payloads(&mut clients[2], "h1 49").len(), 51, "they do not wait for h2");
    cluster.daemon(1).unwrap().signal(Signal::SIGCONT).unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    clients[1].multicast(Service::AGREED, group(), 1, "end").unwrap();
    let own =
        |seen: &[String]| seen.iter().filter(|text| text.starts_with("h2")).cloned().collect::<Vec<_>>();
    let expected: Vec<String> = (0..50).map(|i| format!("h2 {i}")).collect();
    let first = payloads(&mut clients[0], "end");
    assert!(expected.ends_with(&own(&first)), "{first:?}");
    assert_eq!(own(&payloads(&mut clients[2], "end")), own(&first));
    assert_eq!(own(&payloads(&mut clients[1], "end")), expected, "its own client gets all");
    assert_eq!(first.iter().filter(|text| text.starts_with("h1")).count(), 50);
    wait_printed(&mut cluster, 1, "did not run for a while");
}

/// h1 does not hear h3, all other links work. A ring needs that all hear each other, so two daemons form one and
/// the third stays alone, for as long as it lasts: no daemon goes to and fro. Every log names the bad link.
#[test]
fn one_deaf_link_leaves_one_daemon_outside_and_is_named() {
    let Some(mut cluster) = cluster(3) else { return };
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let h3 = cluster.addr(2).to_string();
    cluster.net().unwrap().host(0).cut_from(&[h3]).unwrap();
    for index in 0..3 {
        wait_printed(&mut cluster, index, "Broken link: what h3 sends does not reach h1");
    }
    wait_rest(&cluster, &[0, 1, 2], Duration::from_secs(3));
    let mut rings: Vec<Vec<String>> =
        (0..3).map(|index| cluster.status(index).unwrap().ring.members).collect();
    rings.sort();
    rings.dedup();
    let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let possible = [[names(&["h1"]), names(&["h2", "h3"])], [names(&["h1", "h2"]), names(&["h3"])]];
    assert!(possible.iter().any(|ring| rings == *ring), "{rings:?}");
    let links = |cluster: &Cluster| {
        let links = cluster.status(1).unwrap().broken_links;
        links.into_iter().map(|link| (link.from, link.to)).collect::<Vec<_>>()
    };
    assert_eq!(links(&cluster), [("h3".to_owned(), "h1".to_owned())]);
    cluster.net().unwrap().heal().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    wait_printed(&mut cluster, 1, "What h3 sends reaches h1 again");
}

/// Nobody hears h1, which hears everybody: it stays alone, and knows why; the others go on.
#[test]
fn a_daemon_that_only_hears_stays_alone_and_says_so() {
    let Some(mut cluster) = cluster(3) else { return };
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let h1 = cluster.addr(0).to_string();
    for index in [1, 2] {
        cluster.net().unwrap().host(index).cut_from(std::slice::from_ref(&h1)).unwrap();
    }
    cluster.wait_ring(&[1, 2], LIMIT).unwrap();
    cluster.wait_ring(&[0], LIMIT).unwrap();
    wait_printed(&mut cluster, 0, "Broken link: what h1 sends does not reach h2");
    wait_printed(&mut cluster, 0, "Broken link: what h1 sends does not reach h3");
    wait_rest(&cluster, &[0, 1, 2], Duration::from_secs(3));
    cluster.net().unwrap().heal().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
}

/// Six daemons that start at the same moment come together without many detours.
#[test]
fn all_daemons_start_in_the_same_second() {
    let Some(mut cluster) = cluster(6) else { return };
    let all = [0, 1, 2, 3, 4, 5];
    cluster.start_all().unwrap();
    cluster.wait_ring(&all, LIMIT).unwrap();
    let most = all.map(|index| installs(&cluster, &[index])).into_iter().max().unwrap();
    // Itself, then the ring; a slow start of some means a few more on the way.
    assert!(most <= 8, "{most} configurations on the way to the first ring");
}

/// h3 has another file: one more daemon. It is refused, and each log says who it is and how to compare.
#[test]
fn a_daemon_with_another_configuration_is_refused_and_named() {
    let Some(mut cluster) = cluster(3) else { return };
    let other = cluster.dir().join("other.conf");
    let text = fs::read_to_string(cluster.conf()).unwrap();
    fs::write(&other, text.replace("    h3 ", "    h4 10.77.0.4\n    h3 ")).unwrap();
    cluster.start(0).unwrap();
    cluster.start(1).unwrap();
    cluster.start_with(2, &other, &[]).unwrap();
    cluster.wait_ring(&[0, 1], LIMIT).unwrap();
    wait_printed(&mut cluster, 0, "h3 has another configuration and is refused");
    wait_printed(&mut cluster, 2, "has another configuration and is refused");
    // Of one additional line only the daemon that has it can tell.
    wait_printed(&mut cluster, 2, "difference=\"h4 is missing there\"");
    let parts = |cluster: &mut Cluster, index: usize| {
        let log = printed(cluster, index);
        let (_, rest) = log.split_once("parts=\"").unwrap_or_else(|| panic!("no parts: {log}"));
        rest.split('"').next().unwrap().split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let [ours, theirs] = [0, 2].map(|index| parts(&mut cluster, index));
    let equal: Vec<bool> = ours.iter().zip(&theirs).map(|(a, b)| a == b).collect();
    assert_eq!(equal, [true, false, false, false, true], "{ours:?} {theirs:?}");
    let hash = |index: usize| cluster.status(index).unwrap().configuration_hash.unwrap();
    let (ours, theirs) = (hash(0)[..8].to_owned(), hash(2)[..8].to_owned());
    assert_ne!(ours, theirs);
    let log = printed(&mut cluster, 0);
    assert!(log.contains(&format!("daemon=h3 hash={theirs} ours={ours}")), "{log}");
    assert_eq!(cluster.status(2).unwrap().ring.members, ["h3"]);
    // The files are made equal: it takes part.
    cluster.stop(2).unwrap();
    cluster.start(2).unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
}

/// One daemon after the other is upgraded from a version without the optional abilities. The ring uses what all
/// members have, and clients of the others notice nothing but the member that comes and goes.
#[test]
fn a_rolling_upgrade_keeps_the_ring() {
    let Some(mut cluster) = cluster(3) else { return };
    let conf = cluster.conf();
    for index in 0..3 {
        cluster.start_with(index, &conf, &["--ring-features", "0"]).unwrap();
    }
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let features =
        |cluster: &Cluster| (0..3).map(|i| cluster.status(i).unwrap().ring.features).collect::<Vec<_>>();
    assert_eq!(features(&cluster), [0, 0, 0]);
    for index in 0..3 {
        let mut watcher = member(&cluster, (index + 1) % 3);
        watcher.multicast(Service::SAFE, group(), 1, "before").unwrap();
        cluster.stop(index).unwrap();
        cluster.start(index).unwrap();
        cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
        watcher.multicast(Service::SAFE, group(), 1, "after").unwrap();
        assert_eq!(payloads(&mut watcher, "after"), ["before", "after"]);
        if index < 2 {
            assert_eq!(features(&cluster), [0, 0, 0], "one daemon still has none");
        }
    }
    let all = features(&cluster);
    assert!(all[0] != 0 && all == [all[0]; 3], "{all:?}");
}

/// Two partitions merge while a third forms out of two daemons that were alone.
#[test]
fn two_partitions_merge_while_a_third_forms() {
    let Some(mut cluster) = cluster(6) else { return };
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2, 3, 4, 5], LIMIT).unwrap();
    let mut clients: Vec<_> = (0..6).map(|index| member(&cluster, index)).collect();
    for client in &mut clients {
        sees_members(client, 6);
    }
    let net = |cluster: &Cluster, parts: &[&[usize]]| cluster.net().unwrap().partition(parts).unwrap();
    net(&cluster, &[&[0, 1], &[2, 3], &[4], &[5]]);
    for ring in [&[0, 1][..], &[2, 3], &[4], &[5]] {
        cluster.wait_ring(ring, LIMIT).unwrap();
    }
    net(&cluster, &[&[0, 1, 2, 3], &[4, 5]]);
    cluster.wait_ring(&[0, 1, 2, 3], LIMIT).unwrap();
    cluster.wait_ring(&[4, 5], LIMIT).unwrap();
    for (index, count) in [(0, 4), (3, 4), (4, 2)] {
        sees_members(&mut clients[index], count);
    }
    cluster.net().unwrap().heal().unwrap();
    cluster.wait_ring(&[0, 1, 2, 3, 4, 5], LIMIT).unwrap();
    for client in &mut clients {
        sees_members(client, 6);
    }
    clients[5].multicast(Service::SAFE, group(), 1, "all").unwrap();
    for client in &mut clients {
        assert_eq!(payloads(client, "all"), ["all"]);
    }
}

/// A daemon that gets little processor time slows the ring and is kept, as long as it does something within the
/// token timeout. One that stands still is given up after that time, with the reason in the log, and the others
/// go on.
#[test]
fn a_slow_daemon_never_stops_the_others_for_longer_than_the_bound() {
    let Some(mut cluster) = cluster(3) else { return };
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let mut clients = [member(&cluster, 0), member(&cluster, 2)];
    for client in &mut clients {
        sees_members(client, 2);
    }
    let before = installs(&cluster, &[0]);
    let pid = cluster.daemon(1).unwrap().pid();
    let slow = thread::spawn(move || {
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            let stopped = Instant::now();
            nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
            // The slices are what is tested: three quarters of the time it does not run.
            thread::sleep(Duration::from_millis(45));
            nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
            longest = longest.max(stopped.elapsed());
            thread::sleep(Duration::from_millis(15));
        }
        longest
    });
    let [sender, receiver] = &mut clients;
    let (mut sent, mut worst) = (0, Duration::ZERO);
    while !slow.is_finished() {
        let begin = Instant::now();
        sender.multicast(Service::SAFE, group(), 1, format!("{sent}")).unwrap();
        payloads(receiver, &sent.to_string());
        worst = worst.max(begin.elapsed());
        sent += 1;
    }
    let longest = slow.join().unwrap();
    assert!(sent >= 5, "{sent} messages only");
    // A machine that itself stood still for so long proves nothing.
    if longest < Duration::from_millis(200) && worst < Duration::from_millis(400) {
        assert_eq!(installs(&cluster, &[0]), before, "a slow daemon is a member still");
    }
    let stopped = Instant::now();
    cluster.daemon(1).unwrap().pause().unwrap();
    sender.multicast(Service::SAFE, group(), 1, "without h2").unwrap();
    payloads(receiver, "without h2");
    let took = stopped.elapsed();
    // Token timeout 500 ms, then the forming; the rest is for a machine with other work.
    assert!(took < Duration::from_secs(5), "{took:?}");
    cluster.wait_ring(&[0, 2], LIMIT).unwrap();
    let changes = [0, 2].map(|index| cluster.status(index).unwrap().changes.pop().unwrap());
    // One of them misses the token, and may tell the other before that misses it too.
    assert!(changes.iter().any(|change| change.cause == "token_loss"), "{changes:?}");
    assert!(changes.iter().all(|change| change.lost == ["h2"]), "{changes:?}");
    let told = [0, 2].map(|index| printed(&mut cluster, index).contains("cause=\"token_loss\""));
    assert!(told.contains(&true));
    cluster.daemon(1).unwrap().signal(Signal::SIGCONT).unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
}

/// Everybody sends, on three hosts of which the last has a bad link. All messages come, at all hosts in one order,
/// and no daemon is given up.
fn works_over(link: BadLink) {
    let Some(mut cluster) = cluster(3) else { return };
    if let Some(reason) = cluster.net().unwrap().degrade(2, &link).unwrap() {
        println!("skipped: {reason}");
        return;
    }
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let mut clients: Vec<_> = (0..3).map(|index| member(&cluster, index)).collect();
    for client in &mut clients {
        sees_members(client, 3);
    }
    let before = installs(&cluster, &[0, 1, 2]);
    let over = Arc::new(AtomicBool::new(false));
    let watch = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                // Not for anything: how late does it wake up?
                thread::sleep(Duration::from_millis(10));
                longest = longest.max(begin.elapsed());
            }
            longest
        }
    });
    let count = 200;
    for i in 0..count {
        for (sender, client) in clients.iter_mut().enumerate() {
            let service = if i % 4 == 0 { Service::SAFE } else { Service::AGREED };
            client.multicast(service, group(), 1, format!("{sender} {i} {:>1000}", "")).unwrap();
        }
    }
    for (sender, client) in clients.iter_mut().enumerate() {
        client.multicast(Service::AGREED, group(), 1, format!("{sender} end")).unwrap();
    }
    let seen: Vec<Vec<String>> = clients
        .iter_mut()
        .map(|client| {
            let mut all = Vec::new();
            // Ends when the last of the three said so.
            while all.iter().filter(|text: &&String| text.ends_with("end")).count() < 3 {
                all.extend(next_payload(client));
            }
            all
        })
        .collect();
    over.store(true, Ordering::Relaxed);
    let stood_still = watch.join().unwrap();
    assert!(seen.iter().all(|list| *list == seen[0]), "one order");
    for sender in 0..3 {
        let begin = format!("{sender} ");
        let own = seen[0].iter().filter_map(|text| text.strip_prefix(&begin)).map(str::trim_end);
        let expected = (0..count).map(|i| i.to_string()).chain(["end".to_owned()]);
        assert!(own.eq(expected), "what {sender} sent, once each and in order");
    }
    // A machine that itself stood still for so long proves nothing.
    if stood_still < Duration::from_millis(200) {
        assert_eq!(installs(&cluster, &[0, 1, 2]), before, "no membership change");
    }
    let again: u64 =
        (0..3).map(|i| cluster.status(i).unwrap().counters["ring"]["retransmissions_sent"]).sum();
    assert!(again > 0, "nothing was lost on this link");
}

fn next_payload(client: &mut Connection) -> Option<String> {
    match client.receive_timeout(LIMIT).unwrap() {
        Some(Message::Data(data)) => Some(String::from_utf8(data.payload().to_vec()).unwrap()),
        Some(_) => None,
        None => panic!("nothing came any more"),
    }
}

#[test]
fn a_narrow_link_that_loses_packets_slows_the_ring_and_keeps_it() {
    works_over(BadLink::Narrow { kbit: 4000, lost: 20 });
}

#[test]
fn a_far_link_that_loses_packets_slows_the_ring_and_keeps_it() {
    works_over(BadLink::Far { delay: 20, jitter: 5, lost: 10 });
}

/// One of two clients of a daemon does not read. The other one, and those of other daemons, get everything without
/// a pause; the one that does not read is dropped, and the log says why.
#[test]
fn a_slow_client_is_dropped_and_nobody_waits_for_it() {
    let Some(mut cluster) = cluster(3) else { return };
    cluster.start_all().unwrap();
    cluster.wait_ring(&[0, 1, 2], LIMIT).unwrap();
    let mut slow = cluster.client(0, "slow", LIMIT).unwrap();
    slow.join(group()).unwrap();
    let mut readers = [member(&cluster, 0), member(&cluster, 1)];
    for client in &mut readers {
        sees_members(client, 3);
    }
    let read = [0, 1].map(|_| Arc::new(AtomicUsize::new(0)));
    let threads = readers.map({
        let mut counts = read.clone().into_iter();
        move |mut client| {
            let count = counts.next().unwrap();
            thread::spawn(move || {
                let (mut members, mut longest, mut last) = (3, Duration::ZERO, Instant::now());
                loop {
                    match client.receive_timeout(LIMIT).unwrap() {
                        Some(Message::Data(data)) => {
                            longest = longest.max(last.elapsed());
                            last = Instant::now();
                            if data.payload() == &b"end"[..] {
                                return (client, members, longest);
                            }
                            let no = usize::from_be_bytes(*data.payload().first_chunk().unwrap());
                            assert_eq!(no, count.fetch_add(1, Ordering::SeqCst), "the next message");
                        }
                        Some(Message::Membership(view)) => members = view.members.len(),
                        Some(_) => {}
                        None => panic!("nothing came any more"),
                    }
                }
            })
        }
    });
    let dropped = |cluster: &mut Cluster| {
        printed(cluster, 0).lines().find(|line| line.contains("Session dropped")).map(str::to_owned)
    };
    let mut sender = cluster.client(2, "sender", LIMIT).unwrap();
    let begin = Instant::now();
    let mut sent = 0_usize;
    let line = loop {
        if let Some(line) = dropped(&mut cluster) {
            break line;
        }
        assert!(begin.elapsed() < LIMIT, "not dropped after {sent} messages");
        for _ in 0..50 {
            let mut payload = vec![0; 8000];
            payload[..size_of::<usize>()].copy_from_slice(&sent.to_be_bytes());
            sender.multicast(Service::AGREED, group(), 1, payload).unwrap();
            sent += 1;
        }
        // Whoever reads never has more waiting than may wait, however slow the machine is.
        let behind = || read.iter().map(|count| sent - count.load(Ordering::SeqCst)).max().unwrap();
        wait::until("the readers", LIMIT, || if behind() < 200 { Ok(()) } else { Err(behind()) }).unwrap();
    };
    sender.multicast(Service::AGREED, group(), 1, "end").unwrap();
    for thread in threads {
        let (mut client, members, longest) = thread.join().unwrap();
        // Nobody waits for the slow one at all; the rest is for a machine with other work.
        assert!(longest < Duration::from_secs(3), "{longest:?} without a message");
        if members != 2 {
            sees_members(&mut client, 2);
        }
    }
    assert!(line.contains("client=#slow#h1") && line.contains("socket_full=true"), "{line}");
    // It reads what was on its way, and then the end.
    while let Ok(got) = slow.receive_timeout(LIMIT) {
        assert!(got.is_some(), "its connection stays open");
    }
    assert_eq!(cluster.status(0).unwrap().ring.members, ["h1", "h2", "h3"]);
}
