//! The async face against a daemon that is silent, stuck, broken or dead.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod script;

use std::future::poll_fn;
use std::pin::Pin;
use std::thread;
use std::time::Duration;

use futures_core::Stream;
use script::{LIMIT, Script, Session};
use spread::{
    Builder, ConnectError, Connection, GroupName, Message, ReceiveError, Reconnect, SendError, Service,
    ServiceType,
};
use spread_wire::build;
use spread_wire::handshake::RejectCode;
use tokio::time::timeout;

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn quick() -> Reconnect {
    Reconnect {
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(10),
        give_up_after: None,
    }
}

fn numbered(i: u32, len: usize) -> Vec<u8> {
    let mut data = vec![0; len.max(4)];
    data[..4].copy_from_slice(&i.to_le_bytes());
    data
}

fn number(data: &[u8]) -> u32 {
    u32::from_le_bytes(data[..4].try_into().unwrap())
}

/// A connection and the daemon's end of it.
async fn pair(script: Script, builder: Builder) -> (Script, Connection, Session) {
    let daemon = thread::spawn(move || {
        let session = script.accept();
        (script, session)
    });
    let connection = builder.connect().await.unwrap();
    let (script, session) = daemon.join().unwrap();
    (script, connection, session)
}

/// What the daemon gets until the client says goodbye or goes.
fn numbers_until_the_end(mut session: Session) -> thread::JoinHandle<(Vec<u32>, bool)> {
    thread::spawn(move || {
        let mut got = Vec::new();
        while let Some(frame) = session.next() {
            if frame.header.service == ServiceType::KILL {
                return (got, true);
            }
            got.push(number(frame.data_bytes()));
        }
        (got, false)
    })
}

#[tokio::test]
async fn requests_arrive_in_order_and_the_end_is_orderly() {
    let script = Script::new();
    let builder = script.builder().private_name("ann").unwrap();
    let (_script, connection, session) = pair(script, builder).await;
    assert_eq!(connection.private_group(), session.private);
    let daemon = numbers_until_the_end(session);
    let (sender, mut receiver) = connection.split();
    let other = sender.clone();
    for i in 0..1000 {
        let sender = if i % 2 == 0 { &sender } else { &other };
        sender.multicast(Service::AGREED, group("g"), 0, numbered(i, 100)).await.unwrap();
    }
    sender.disconnect().await.unwrap();
    assert!(matches!(receiver.receive().await, Err(ReceiveError::Closed)));
    let refused = other.multicast(Service::AGREED, group("g"), 0, "x").await;
    assert!(matches!(refused, Err(SendError::Closed)), "{refused:?}");
    let (got, killed) = daemon.join().unwrap();
    assert!(killed);
    assert!(got.into_iter().eq(0..1000));
}

#[tokio::test]
async fn a_silent_daemon_holds_nobody_longer_than_the_limit() {
    let script = Script::new();
    let error =
        script.builder().connect_timeout(Some(Duration::from_millis(50))).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let script = Script::new();
    let builder = script.builder();
    let daemon = thread::spawn(move || script.refuse(RejectCode::NOT_UNIQUE));
    assert_eq!(builder.connect().await.unwrap_err().code(), -6);
    daemon.join().unwrap();
}

/// The daemon does not read: sends wait when the queue is full, and a wait that is given up queues nothing.
#[tokio::test]
async fn back_pressure_is_felt_and_giving_up_loses_nothing() {
    let script = Script::new();
    let builder = script.builder().queue_bytes(100_000);
    let (_script, connection, session) = pair(script, builder).await;
    let (sender, _receiver) = connection.split();
    let mut count = 0;
    let short = Duration::from_millis(50);
    while let Ok(sent) =
        timeout(short, sender.multicast(Service::FIFO, group("g"), 0, numbered(count, 10_000))).await
    {
        sent.unwrap();
        count += 1;
    }
    assert!(count > 10);
    let full = sender.try_multicast(Service::FIFO, group("g"), 0, numbered(count, 10_000));
    assert!(matches!(full, Err(SendError::TimedOut)), "{full:?}");
    assert!(timeout(short, sender.flush()).await.is_err());
    let daemon = numbers_until_the_end(session);
    timeout(LIMIT, sender.flush()).await.unwrap().unwrap();
    sender.try_multicast(Service::FIFO, group("g"), 0, numbered(count, 10_000)).unwrap();
    sender.disconnect().await.unwrap();
    assert!(daemon.join().unwrap().0.into_iter().eq(0..=count));
}

#[tokio::test]
async fn a_receive_that_is_given_up_loses_nothing() {
    let script = Script::new();
    let builder = script.builder();
    let (_script, mut connection, mut session) = pair(script, builder).await;
    let leave = build::self_leave(&group("g"));
    for part in leave.chunks(7) {
        assert!(timeout(Duration::from_millis(1), connection.receive()).await.is_err());
        session.send(part);
    }
    let message = timeout(LIMIT, connection.receive()).await.unwrap().unwrap();
    assert!(matches!(message, Message::SelfLeave { .. }));
}

#[tokio::test]
async fn the_stream_ends_after_its_error() {
    let script = Script::new();
    let builder = script.builder();
    let (_script, mut connection, mut session) = pair(script, builder).await;
    session.send(&build::self_leave(&group("g")));
    drop(session);
    let mut items = Vec::new();
    while let Some(item) = poll_fn(|cx| Pin::new(&mut connection).poll_next(cx)).await {
        items.push(item);
    }
    assert!(matches!(items[..], [Ok(Message::SelfLeave { .. }), Err(ReceiveError::Closed)]), "{items:?}");
    let refused = connection.multicast(Service::FIFO, group("g"), 0, "x").await;
    assert!(matches!(refused, Err(SendError::Closed)), "{refused:?}");
}

#[tokio::test]
async fn unsent_messages_can_be_taken_back() {
    let script = Script::new();
    let builder = script.builder();
    let (_script, connection, mut session) = pair(script, builder).await;
    let (sender, mut receiver) = connection.split();
    let mut count = 0;
    while timeout(
        Duration::from_millis(30),
        sender.multicast(Service::FIFO, group("g"), 3, numbered(count, 5000)),
    )
    .await
    .is_ok()
    {
        count += 1;
    }
    assert!(sender.take_unsent().is_empty(), "the connection is still up");
    let got: Vec<u32> = session.read_some(100_000).iter().map(|f| number(f.data_bytes())).collect();
    drop(session);
    assert!(receiver.receive().await.is_err());
    assert!(sender.flush().await.is_err());
    let kept: Vec<u32> = sender.take_unsent().iter().map(|m| number(&m.data)).collect();
    assert!(kept[0] as usize >= got.len());
    assert!(kept.iter().copied().eq(kept[0]..count));
}

#[tokio::test]
async fn a_lost_session_is_made_again_and_the_gap_is_told() {
    let script = Script::new();
    let builder = script.builder().private_name("me").unwrap().reconnect(quick());
    let (script, mut connection, session) = pair(script, builder).await;
    connection.join(group("b")).await.unwrap();
    connection.join(group("c")).await.unwrap();
    connection.join(group("a")).await.unwrap();
    connection.leave(group("c")).await.unwrap();
    connection.sender().flush().await.unwrap();
    drop(session);
    let daemon = thread::spawn(move || {
        script.refuse(RejectCode::NOT_UNIQUE);
        let mut second = script.accept();
        let names: Vec<_> =
            (0..2).map(|_| second.next().unwrap().first_group().unwrap().to_string()).collect();
        second.send(&build::self_leave(&group("marker")));
        while second.next().unwrap().data_bytes() != b"after" {}
        (names, second)
    });
    let gap = match timeout(LIMIT, connection.receive()).await.unwrap().unwrap() {
        Message::Reconnected(gap) => gap,
        other => panic!("{other:?}"),
    };
    assert_eq!(gap.rejoined, [group("a"), group("b")]);
    assert_eq!((gap.attempts, gap.generation), (2, 1));
    assert!(matches!(connection.receive().await.unwrap(), Message::SelfLeave { .. }));
    connection.multicast(Service::FIFO, group("a"), 0, "after").await.unwrap();
    connection.sender().flush().await.unwrap();
    let (rejoined, _session) = daemon.join().unwrap();
    assert_eq!(rejoined, ["a", "b"]);
}

/// The daemon dies while the queue is full; a sender that nobody receives for gets over it.
#[tokio::test]
async fn queued_messages_are_sent_again_after_a_loss() {
    let script = Script::new();
    let builder = script.builder().reconnect(quick());
    let (script, connection, mut session) = pair(script, builder).await;
    let daemon = thread::spawn(move || {
        assert_eq!(number(session.next().unwrap().data_bytes()), 0);
        drop(session);
        numbers_until_the_end(script.accept()).join().unwrap()
    });
    let (sender, receiver) = connection.split();
    drop(receiver);
    for i in 0..1000 {
        let sent = sender.multicast(Service::FIFO, group("g"), 0, numbered(i, 5000));
        timeout(LIMIT, sent).await.unwrap().unwrap();
    }
    timeout(LIMIT, sender.flush()).await.unwrap().unwrap();
    assert!(sender.resent_total() > 0);
    sender.disconnect().await.unwrap();
    let (got, killed) = daemon.join().unwrap();
    assert!(killed);
    assert!(got[0] > 0);
    assert!(got.iter().copied().eq(got[0]..1000), "from {} on not all there", got[0]);
}

#[tokio::test]
async fn reconnecting_ends_when_the_daemon_refuses_for_good() {
    let script = Script::new();
    let builder = script.builder().reconnect(quick());
    let (script, mut connection, session) = pair(script, builder).await;
    drop(session);
    let daemon = thread::spawn(move || script.refuse(RejectCode::AUTH));
    let error = timeout(LIMIT, connection.receive()).await.unwrap().unwrap_err();
    assert!(matches!(error, ReceiveError::Reconnect(_)), "{error:?}");
    assert_eq!(error.code(), -9);
    let error = connection.multicast(Service::FIFO, group("g"), 0, "x").await.unwrap_err();
    assert!(matches!(error, SendError::Reconnect(_)), "{error:?}");
    daemon.join().unwrap();
}

#[tokio::test]
async fn dropping_all_halves_closes_the_session() {
    let script = Script::new();
    let builder = script.builder().reconnect(quick());
    let (_script, connection, mut session) = pair(script, builder).await;
    let (sender, receiver) = connection.split();
    drop(receiver);
    sender.multicast(Service::FIFO, group("g"), 0, "x").await.unwrap();
    sender.flush().await.unwrap();
    drop(sender);
    let daemon = thread::spawn(move || (session.next().is_some(), session.next().is_none()));
    // The driver's task runs while this one waits.
    let joined = tokio::task::spawn_blocking(move || daemon.join().unwrap()).await.unwrap();
    assert_eq!(joined, (true, true));
}
