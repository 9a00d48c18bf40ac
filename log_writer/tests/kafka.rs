//! `log_writer ship` to Kafka. The broker is librdkafka's own mock broker: it speaks the protocol over TCP, keeps what it
//! is given, and refuses when told so. It is no Kafka: replication and its own detection of doubles are not tested here.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log_stream::SourceId;
use log_writer::sink::kafka::Kafka;
use log_writer::sink::{Options, Origin, Record, Sink};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use common::{GROUP, LIMIT, Running, log, until};

mod common;

type Broker = MockCluster<'static, DefaultProducerContext>;

/// A message as a consumer sees it.
#[derive(Debug)]
struct Got {
    key: Option<String>,
    seq: Option<u64>,
    value: String,
}

/// Everything that is in a topic, each partition in its order.
fn all(broker: &Broker, topic: &str) -> Vec<Got> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
    let mut list = TopicPartitionList::new();
    let mut expected = 0;
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        expected += consumer.fetch_watermarks(topic, partition.id(), LIMIT).unwrap().1;
    }
    consumer.assign(&list).unwrap();
    let mut got = Vec::new();
    while i64::try_from(got.len()).unwrap() < expected {
        let message = consumer.poll(LIMIT).expect("a message in time").unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let seq = message.headers().into_iter().flat_map(Headers::iter).find(|h| h.key == "seq");
        got.push(Got {
            key: message.key().map(text),
            seq: seq.map(|h| text(h.value.unwrap()).parse().unwrap()),
            value: text(message.payload().unwrap()),
        });
    }
    got
}

fn record(source: u8, seq: u64) -> Record {
    let origin = Origin { group: GROUP, source: SourceId([source; 16]), seq, part: 0 };
    Record { line: format!("line {seq} of {source}\n").into_bytes(), origin: Some(origin) }
}

fn sink(broker: &str, topic: &str, settings: &str, stop: &Arc<AtomicBool>) -> Kafka {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings).unwrap();
    let options =
        Options { format: Some("raw".into()), config: Some(file.path().into()), ..Options::default() };
    Kafka::new(&format!("{broker}/{topic}"), &options, Arc::clone(stop)).unwrap()
}

/// Each number of each source once and in order.
fn assert_once_and_in_order(got: &[Got], source: u8, numbers: std::ops::RangeInclusive<u64>) {
    let key = SourceId([source; 16]).to_string();
    let seqs: Vec<u64> = got.iter().filter(|g| g.key.as_ref() == Some(&key)).filter_map(|g| g.seq).collect();
    assert_eq!(seqs, numbers.collect::<Vec<_>>(), "{source}");
}

#[test]
fn a_line_has_its_source_as_key_and_the_topic_of_its_group() {
    let broker = MockCluster::new(3).unwrap();
    let options = Options::default();
    let to = format!("{}/access.%{{group}}", broker.bootstrap_servers());
    let mut kafka = Kafka::new(&to, &options, Arc::default()).unwrap();
    kafka.commit().unwrap();
    let line = b"192.0.2.4 - bob [10/Oct/2000:13:55:36 -0700] \"GET /1 HTTP/1.1\" 200 5\n".to_vec();
    for source in 1..=3 {
        for seq in 1..=20 {
            kafka.put(&Record { line: line.clone(), ..record(source, seq) }).unwrap();
        }
    }
    kafka.put(&Record { line: b"plain\n".to_vec(), origin: None }).unwrap();
    kafka.commit().unwrap();
    let got = all(&broker, "access.site4");
    assert_eq!(got.len(), 60);
    (1..=3).for_each(|source| assert_once_and_in_order(&got, source, 1..=20));
    let value: serde_json::Value = serde_json::from_str(&got[0].value).unwrap();
    assert_eq!((&value["user"], &value["group"], &value["seq"]), (&"bob".into(), &"site4".into(), &1.into()));
    let plain = all(&broker, "access._unknown");
    assert_eq!((plain.len(), &plain[0].key, plain[0].seq), (1, &None, None));
    assert_eq!(plain[0].value, "{\"unparsed\":\"plain\"}");
}

#[test]
fn what_brokers_refuse_for_a_while_arrives_once_and_in_order() {
    let broker = MockCluster::new(1).unwrap();
    let mut kafka = sink(&broker.bootstrap_servers(), "t", "retry.backoff.ms=10\n", &Arc::default());
    broker.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            // Closes the connection.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        ],
    );
    for seq in 1..=500 {
        kafka.put(&record(1, seq)).unwrap();
        kafka.put(&record(2, seq)).unwrap();
    }
    kafka.commit().unwrap();
    let got = all(&broker, "t");
    assert_eq!(got.len(), 1000);
    assert_once_and_in_order(&got, 1, 1..=500);
    assert_once_and_in_order(&got, 2, 1..=500);
    assert_eq!(got.iter().filter(|g| g.value == "line 7 of 2").count(), 1);
}

#[test]
fn a_refusal_is_told_and_the_batch_can_be_put_again() {
    let broker = MockCluster::new(1).unwrap();
    let mut kafka = sink(&broker.bootstrap_servers(), "t", "", &Arc::default());
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    broker.request_errors(RDKafkaApiKey::Produce, &refusals);
    kafka.put(&record(1, 1)).unwrap();
    let error = kafka.commit().unwrap_err().to_string();
    assert!(error.contains("1 of 1 lines were not confirmed") && error.contains("authorization"), "{error}");
    kafka.put(&record(1, 1)).unwrap();
    kafka.commit().unwrap();
    assert_once_and_in_order(&all(&broker, "t"), 1, 1..=1);
}

#[test]
fn a_broker_that_is_down_is_told_and_used_when_it_is_back() {
    let broker = MockCluster::new(1).unwrap();
    let settings = "message.timeout.ms=1500\nreconnect.backoff.ms=10\nreconnect.backoff.max.ms=100\n";
    let mut kafka = sink(&broker.bootstrap_servers(), "t", settings, &Arc::default());
    kafka.put(&record(1, 1)).unwrap();
    kafka.commit().unwrap();
    broker.broker_down(-1).unwrap();
    for seq in 2..=9 {
        kafka.put(&record(1, seq)).unwrap();
    }
    let error = kafka.commit().unwrap_err().to_string();
    assert!(error.contains("timed out") && error.contains("last trouble: "), "{error}");
    broker.broker_up(-1).unwrap();
    until("confirmation", || {
        (2..=9).for_each(|seq| kafka.put(&record(1, seq)).unwrap());
        kafka.commit().is_ok()
    });
    let got = all(&broker, "t");
    let mut seqs: Vec<u64> = got.iter().filter_map(|g| g.seq).collect();
    seqs.dedup();
    assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_sink_that_waits_ends_when_told() {
    // Nobody accepts, and the default of 30 s is far.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut kafka = sink(&nobody.local_addr().unwrap().to_string(), "t", "", &stop);
    kafka.put(&record(1, 1)).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
        kafka.commit().unwrap_err();
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

fn ship(log: &Path, broker: &Broker, more: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_log_writer"));
    let to = format!("kafka:{}/%{{group}}", broker.bootstrap_servers());
    command.arg("ship").arg(log).args(["--to", &to, "--batch", "100", "--wait", "10ms"]).args(more);
    Running(command.stdin(Stdio::null()).spawn().unwrap())
}

#[test]
fn after_a_kill_it_goes_on_where_it_was() {
    const LINES: u64 = 5_000;
    let broker = MockCluster::new(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path(), LINES, |seq| format!("line {seq}\n"));
    let position = dir.path().join("access.log.shipped");
    // So that it is under way for a while.
    broker.broker_round_trip_time(-1, Duration::from_millis(20)).unwrap();
    for _ in 0..3 {
        let before = std::fs::read_to_string(&position).unwrap_or_default();
        let running = ship(&log, &broker, &[]);
        until("progress", || std::fs::read_to_string(&position).is_ok_and(|p| p != before));
        // With SIGKILL, in the middle of a batch.
        drop(running);
    }
    broker.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    let mut rest = ship(&log, &broker, &["--once"]);
    assert!(rest.0.wait().unwrap().success());
    let end = std::fs::read_to_string(&position).unwrap();
    let len = log.metadata().unwrap().len().to_string();
    assert_eq!(end.split_whitespace().last(), Some(&*len));
    let got = all(&broker, "site4");
    let mut seqs: Vec<u64> = got.iter().filter_map(|g| g.seq).collect();
    // At least once: a kill doubles a batch at most.
    let doubled = seqs.len() as u64 - LINES;
    assert!(doubled <= 300, "{doubled}");
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs, (1..=LINES).collect::<Vec<_>>());
    let mut again = ship(&log, &broker, &["--once"]);
    assert!(again.0.wait().unwrap().success());
    assert_eq!(all(&broker, "site4").len(), got.len());
}
