//! Messages for Kafka, through librdkafka: one for each line, confirmed by all in-sync replicas.
//!
//! The key of a message is the source of its line, so the lines of a web-server process are in one partition, in their
//! order. The producer is idempotent: what the library sends again it does not double. What [`crate::ship`] sends again
//! (after a kill, or a batch that was not confirmed as a whole) is doubled, and can be told by key, group and number.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use tracing::{debug, info};

use super::{Options, Origin, Record, Sink};
use crate::format::Form;

/// What stands for the group of a line without a number.
const UNKNOWN: &[u8] = b"_unknown";
/// Longest name of a topic.
const TOPIC_MAX: usize = 249;
/// Longest time a message waits for its confirmation, unless the settings say otherwise.
const MESSAGE_TIMEOUT: &str = "30000";
/// Longest wait between two looks at the stop flag.
const POLL: Duration = Duration::from_millis(100);
/// Settings on which the promises rest, and the place that the command line has for the brokers.
const FIXED: [(&str, &str); 9] = [
    ("acks", "all"),
    ("request.required.acks", "all"),
    ("enable.idempotence", "true"),
    ("bootstrap.servers", "from --to"),
    ("metadata.broker.list", "from --to"),
    ("transactional.id", "unset"),
    ("test.mock.num.brokers", "unset"),
    ("delivery.report.only.error", "false"),
    ("enabled_events", "unset"),
];

/// A topic, or one for each group.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Topic {
    One(String),
    /// What stands before and behind the group.
    Group(String, String),
}

impl Topic {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let known = text.bytes().all(allowed) && !text.is_empty() && text != "." && text != "..";
        let topic = match text.split_once("%{group}") {
            None if known => Self::One(text.into()),
            Some((before, behind)) if before.bytes().chain(behind.bytes()).all(allowed) => {
                Self::Group(before.into(), behind.into())
            }
            _ => bail!(
                "{text:?}: a topic of letters, digits, '.', '_', '-', perhaps with %{{group}}, is expected"
            ),
        };
        ensure!(text.len() <= TOPIC_MAX, "{text:?}: a topic has at most {TOPIC_MAX} letters");
        Ok(topic)
    }

    /// The topic of a group. What is not allowed in a topic becomes `_`.
    fn of(&self, group: &[u8]) -> String {
        match self {
            Self::One(name) => name.clone(),
            Self::Group(before, behind) => {
                let group = group.iter().map(|b| if allowed(*b) { char::from(*b) } else { '_' });
                let mut name: String = before.chars().chain(group).chain(behind.chars()).collect();
                name.truncate(TOPIC_MAX);
                // A group "." alone would be no topic.
                if name.bytes().all(|b| b == b'.') { format!("_{name}") } else { name }
            }
        }
    }
}

fn allowed(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"._-".contains(&b)
}

/// What became of messages.
#[derive(Default, Debug)]
struct Reports {
    /// Messages that were reported, taken or not.
    done: u64,
    failed: u64,
    /// Why the first one failed.
    reason: Option<String>,
    /// The last trouble that the library told: it explains what a report calls "timed out".
    trouble: Option<String>,
}

/// Takes the library's reports.
#[derive(Default, Debug)]
struct Listener(Mutex<Reports>);

impl Listener {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Trouble is told through `error` and by reports.
        debug!(?level, facility, text, "librdkafka.");
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "Trouble with the brokers.");
        // "All brokers are down" follows the reason, and hides it.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.reports().trouble = Some(reason.into());
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut reports = self.reports();
        reports.done += 1;
        match result {
            Ok(_) => reports.trouble = None,
            Err((error, _)) => {
                reports.failed += 1;
                let reason =
                    || error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
                reports.reason.get_or_insert_with(reason);
            }
        }
    }
}

/// A topic of a cluster.
pub struct Kafka {
    config: ClientConfig,
    producer: BaseProducer<Listener>,
    topic: Topic,
    form: Form,
    stop: Arc<AtomicBool>,
    value: Vec<u8>,
    /// Messages that the library has taken; one report will come for each.
    sent: u64,
}

impl Kafka {
    /// A sink for `HOST[:PORT],.../TOPIC`. Nothing is asked of the brokers yet.
    ///
    /// # Errors
    /// When the address or a setting is not understood.
    pub fn new(to: &str, options: &Options, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let form = "kafka:HOST[:PORT],.../TOPIC is expected";
        let (brokers, topic) = to.split_once('/').with_context(|| format!("kafka:{to}: {form}"))?;
        let good = |broker: &str| {
            let host = match broker.rsplit_once(':') {
                // An IPv6 address without a port ends with the bracket.
                Some((host, port)) if !broker.ends_with(']') => port.parse::<u16>().is_ok().then_some(host),
                _ => Some(broker),
            };
            host.is_some_and(|h| !h.is_empty() && h.bytes().all(|b| b.is_ascii_graphic()))
        };
        ensure!(brokers.split(',').all(good), "kafka:{to}: {form}");
        let topic = Topic::parse(topic)?;
        let format = options.format.as_deref().unwrap_or("json");
        let form = Form::parse(format, options.log_format.as_deref())
            .map_err(|error| anyhow::anyhow!("{format:?}: {error}"))?;
        let mut config = ClientConfig::new();
        config.set("client.id", "log_writer");
        config.set("message.timeout.ms", MESSAGE_TIMEOUT);
        // As the Java clients do: other producers of the topic put a source into the same partition.
        config.set("partitioner", "murmur2_random");
        if let Some(path) = &options.config {
            settings(path, &mut config)?;
        }
        config.set("bootstrap.servers", brokers);
        config.set("acks", "all");
        config.set("enable.idempotence", "true");
        let producer = config.create_with_context(Listener::default()).context("settings of Kafka")?;
        Ok(Self { config, producer, topic, form, stop, value: Vec::new(), sent: 0 })
    }

    /// Waits until there is a report for each message, and gives the reports.
    fn reports(&mut self) -> Reports {
        loop {
            let mut reports = self.producer.context().reports();
            if reports.done >= self.sent {
                self.sent = 0;
                let trouble = reports.trouble.clone();
                return std::mem::replace(&mut *reports, Reports { trouble, ..Reports::default() });
            }
            drop(reports);
            if self.stop.load(Ordering::Relaxed) {
                self.purge();
            }
            self.producer.poll(POLL);
        }
    }

    /// Takes back what is not confirmed; each such message is reported as failed.
    fn purge(&self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }

    /// After a failure: the producer may remember an error of the topic for minutes, and an idempotent one whose
    /// sequence is broken takes nothing any more.
    fn renew(&mut self) -> anyhow::Result<()> {
        self.producer = self.config.create_with_context(Listener::default()).context("settings of Kafka")?;
        Ok(())
    }
}

impl Sink for Kafka {
    fn put(&mut self, record: &Record) -> anyhow::Result<()> {
        self.value.clear();
        self.form.write(&record.line, record.origin.as_ref().map(Origin::of_line), &mut self.value);
        let value = self.value.strip_suffix(b"\n").unwrap_or(&self.value);
        let topic = self.topic.of(record.origin.as_ref().map_or(UNKNOWN, |o| &o.group));
        let key = record.origin.as_ref().map(|o| o.source.to_string());
        loop {
            let mut message = BaseRecord::to(&topic).payload(value);
            if let (Some(key), Some(origin)) = (&key, &record.origin) {
                let seq = origin.seq.to_string();
                let headers = OwnedHeaders::new_with_capacity(2)
                    .insert(Header { key: "group", value: Some(&origin.group[..]) })
                    .insert(Header { key: "seq", value: Some(&seq) });
                message = message.key(key).headers(headers);
            }
            let Err((error, _)) = self.producer.send(message) else {
                self.sent += 1;
                self.producer.poll(Duration::ZERO);
                return Ok(());
            };
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if full && !self.stop.load(Ordering::Relaxed) {
                self.producer.poll(POLL);
                continue;
            }
            self.purge();
            self.reports();
            self.renew()?;
            return Err(error).with_context(|| format!("a line for topic {topic} was not taken"));
        }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let sent = self.sent;
        let reports = self.reports();
        let Some(reason) = reports.reason else { return Ok(()) };
        self.renew()?;
        let trouble = reports.trouble.map(|t| format!(" (last trouble: {t})")).unwrap_or_default();
        bail!("{} of {sent} lines were not confirmed: {reason}{trouble}", reports.failed);
    }
}

/// Reads `name=value` lines into the configuration.
fn settings(path: &Path, config: &mut ClientConfig) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{}:{number}", path.display());
        let (name, value) =
            line.split_once('=').with_context(|| format!("{place}: NAME=VALUE is expected"))?;
        let (name, value) = (name.trim(), value.trim());
        if let Some((_, fixed)) = FIXED.iter().find(|(fixed, _)| *fixed == name) {
            bail!("{place}: {name} cannot be set, it is {fixed}");
        }
        let mut alone = ClientConfig::new();
        alone.set(name, value);
        match alone.create_native_config() {
            Err(KafkaError::ClientConfig(_, reason, ..)) => bail!("{place}: {name}: {reason}"),
            Err(error) => return Err(error).context(place),
            Ok(_) => {}
        }
        config.set(name, value);
    }
    info!(file = %path.display(), "Settings of librdkafka were read.");
    Ok(())
}

// What needs a broker is in `tests/kafka.rs`.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_of_allowed_letters_only() {
        let topic = |text| Topic::parse(text).expect("good");
        assert_eq!(topic("access").of(b"g"), "access");
        assert_eq!(topic("log.%{group}-v1").of(b"site 4/\xff"), "log.site_4__-v1");
        assert_eq!(topic("%{group}").of(b".."), "_..");
        assert_eq!(topic("%{group}").of(&[b'g'; 300]).len(), TOPIC_MAX);
        for wrong in ["", ".", "..", "a b", "a/b", "%{vhost}", "%{group}%{group}", &"x".repeat(250)] {
            Topic::parse(wrong).expect_err(wrong);
        }
    }

    fn open(to: &str, config: Option<&Path>) -> anyhow::Result<Kafka> {
        let options = Options { config: config.map(Path::to_owned), ..Options::default() };
        Kafka::new(to, &options, Arc::default())
    }

    #[test]
    fn addresses_are_checked() {
        for good in ["h/t", "h:9092/t", "h:1,[::1]:2,[::1]/t-%{group}"] {
            open(good, None).map(drop).expect(good);
        }
        for wrong in ["h", "/t", "h:/t", "h:x/t", "h,/t", ":1/t", "h:70000/t", "h/", "h/a/b"] {
            let error = open(wrong, None).map(drop).expect_err(wrong).to_string();
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn settings_are_read_and_wrong_ones_named_with_their_line() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let try_with = |text: &str| {
            std::fs::write(file.path(), text).expect("write");
            open("h/t", Some(file.path())).map(|kafka| kafka.config)
        };
        let config = try_with("# comment\n\n compression.type = gzip\nsasl.password=a=b\n").expect("good");
        assert_eq!(
            (config.get("compression.type"), config.get("sasl.password")),
            (Some("gzip"), Some("a=b"))
        );
        for (wrong, what) in [
            ("a\n", ":1: NAME=VALUE"),
            ("\nno.such.thing=1\n", ":2: no.such.thing: No such configuration property"),
            ("compression.type=best\n", ":1: compression.type: Invalid value"),
            ("acks=1\n", ":1: acks cannot be set, it is all"),
            ("enable.idempotence=false\n", "cannot be set"),
            ("linger.ms=1\0\n", ":1"),
            // Refused by the library as a whole.
            ("max.in.flight=9\n", "max.in.flight"),
        ] {
            let error = format!("{:#}", try_with(wrong).map(drop).expect_err(wrong));
            assert!(error.contains(what), "{wrong:?}: {error}");
        }
    }
}
