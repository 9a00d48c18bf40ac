use super::*;

fn row(n: u64) -> Row {
    let n32 = u32::try_from(n % 1_000_000).unwrap();
    let stat = ServerStat {
        hostname: Name::new(&format!("{}-{n}.example.com", "w".repeat(usize::try_from(n % 60).unwrap())))
            .unwrap(),
        mtime: Micros(n + 1),
        contact: SocketAddr::new(
            if n.is_multiple_of(2) {
                IpAddr::from(n32.to_be_bytes())
            } else {
                Ipv6Addr::from(u128::from(n) << 90).into()
            },
            80,
        ),
        arriba: n32,
        aservers: n32,
        nservers: n32,
        load: n32,
        load_hwm: n32,
        cpu: n32,
        ncpu: n32,
        tmem: n,
        amem: n,
    };
    Row {
        stat,
        interval_ms: n32,
        flags: Flags { gone: n.is_multiple_of(2), spread: true, ..Flags::default() },
    }
}

#[test]
fn announced_addresses_are_known() {
    let table = Table::<4>::default();
    let mut row = row(7);
    for (slot, contact) in [(1, "10.0.5.13:80"), (3, "[fd77::2]:80")] {
        row.stat.contact = contact.parse().unwrap();
        table.publish(slot, &row, true);
    }
    for (addr, known) in [("10.0.5.13", true), ("fd77::2", true), ("10.0.5.14", false), ("0.0.0.0", false)] {
        assert_eq!(table.announces(addr.parse().unwrap()), known, "{addr}");
    }
}

#[test]
fn what_is_published_is_read() {
    let table = Table::<4>::default();
    assert!(table.snapshot(Micros(0)).slots.is_empty());
    table.publish(2, &row(7), true);
    table.publish(2, &row(8), false);
    let snapshot = table.snapshot(Micros(0));
    assert_eq!(snapshot.slots.len(), 3);
    assert!(snapshot.get(0).is_none());
    assert_eq!(snapshot.get(2).unwrap().stat, row(8).stat);
    assert_eq!(table.row(2), Some(row(8)));
    table.publish(4, &row(1), true);
    assert!(table.row(4).is_none());
}

#[test]
fn charges_are_settled_by_the_next_announcement() {
    let table = Table::<2>::default();
    table.publish(1, &row(1), true);
    table.begin(1);
    table.charge(1, 1000);
    table.charge(1, 500);
    let live = table.snapshot(Micros(0)).get(1).unwrap().live;
    assert_eq!((live.predicted_load, live.predicted_busy, live.in_flight), (1500, 2, 1));
    assert_eq!(table.classic()[1][CLASSIC_LOAD].load(Relaxed), 1501);
    table.publish(1, &row(1), false);
    let live = table.snapshot(Micros(0)).get(1).unwrap().live;
    assert_eq!((live.predicted_load, live.predicted_busy, live.in_flight_announced), (0, 0, 1));
    table.end(1, Micros(20), true);
    table.end(1, Micros(20), false);
    let server = *table.snapshot(Micros(0)).get(1).unwrap();
    assert_eq!((server.live.in_flight, server.sent, server.time_us), (0, 1, 20));
}

#[test]
fn what_stays_is_counted_and_is_under_way_only_if_that_is_asked_for() {
    let table = Table::<2>::default();
    let of = |name: &str| table.counts().iter().find(|(n, _)| *n == name).unwrap().1;
    table.stay();
    table.stay();
    table.counters.left.fetch_add(3, Relaxed);
    table.counters.returned.fetch_add(1, Relaxed);
    assert_eq!((of("decided"), of("local")), (5, 3));
    assert!(!table.counts_own());
    table.count_own();
    assert!(table.counts_own());
    assert_eq!(table.counters.list().len(), table.counts().len());
}

#[test]
fn a_view_shows_what_a_snapshot_shows() {
    let table = Table::<8>::default();
    for n in 0..6u16 {
        let mut row = row(u64::from(n));
        row.flags = Flags { gone: n == 1, draining: n == 2, ..Flags::default() };
        table.publish(n, &row, true);
    }
    table.suspect(3, Micros(20));
    table.charge(4, 7);
    let (view, snapshot) = (table.at(Micros(10)), table.snapshot(Micros(10)));
    assert_eq!(view.candidates()[..], [0, 4, 5]);
    assert_eq!(view.candidates(), snapshot.candidates());
    for slot in 0..9 {
        assert_eq!(view.figures(slot), snapshot.figures(slot), "{slot}");
        assert_eq!(view.stat(slot), snapshot.stat(slot), "{slot}");
        assert_eq!(view.mtime(slot), snapshot.mtime(slot), "{slot}");
        let name = snapshot.get(slot).map(|s| s.stat.hostname.as_bytes().to_vec()).unwrap_or_default();
        table.with_name(slot, |seen| assert_eq!(seen, name));
        assert_eq!(table.contact(slot), snapshot.get(slot).map(|s| s.stat.contact));
    }
}

#[test]
fn a_usual_request_needs_two_lines_of_the_cache_for_a_server() {
    use std::mem::offset_of;
    assert!(
        offset_of!(Slot, copies) == 64
            && size_of::<Slot>().is_multiple_of(64)
            && size_of::<Copy>().is_multiple_of(64)
    );
    let last = [FLAGS, IDLE, LOAD, CPU].into_iter().max().unwrap();
    assert!(offset_of!(Copy, words) + 8 * (last + 1) <= 64);
}

#[test]
fn the_c_record_has_the_documented_layout() {
    // spec: mod_backhand 3
    let table = Table::<2>::default();
    let mut row = row(3);
    row.stat.contact = "10.0.5.13:8080".parse().unwrap();
    row.stat.tmem = 8 << 30;
    row.stat.amem = 5;
    table.publish(1, &row, true);
    let bytes: Vec<u8> = table.classic()[1].iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).collect();
    assert_eq!(bytes.len(), 104);
    assert!(bytes.starts_with(b"www-3.example.com\0"));
    assert_eq!(bytes[50..56], [0x1f, 0x90, 10, 0, 5, 13]);
    assert_eq!(bytes[92..96], i32::MAX.to_ne_bytes());
    assert_eq!(bytes[96..100], 5u32.to_ne_bytes());
}

#[test]
fn readers_never_see_half_a_record() {
    let table = Table::<2>::default();
    table.publish(0, &row(0), true);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..200_000).for_each(|n| table.publish(0, &row(n), false)));
        let (mut read, mut absent) = (0, 0);
        while !writer.is_finished() {
            match table.row(0) {
                Some(seen) => assert_eq!(seen, row(seen.stat.tmem)),
                None => absent += 1,
            }
            read += 1;
        }
        assert!(read > absent, "{absent} of {read} reads gave up");
    });
}
