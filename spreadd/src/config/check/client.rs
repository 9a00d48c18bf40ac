//! The values of our own words about clients.

use std::net::IpAddr;
use std::ops::Range;

use super::Checker;
use crate::config::diagnostic::{ErrorClass, Problem};
use crate::config::words::nearest;
use crate::session::SlowAction;

/// Most sessions: the slots of the daemon's table.
const SESSIONS_MAX: u32 = 65_536;
/// Fewest bytes that may wait for a client: one message of the largest size.
const SESSION_BYTES_MIN: u32 = 150_000;

impl Checker<'_> {
    pub(super) fn client_number(&mut self, word: &str, number: u32, span: &Range<usize>) {
        let (min, max) = match word {
            "MaxSessions" => (1, SESSIONS_MAX),
            "TlsPort" => (1, u32::from(u16::MAX)),
            _ => (SESSION_BYTES_MIN, u32::MAX),
        };
        if !(min..=max).contains(&number) {
            let problem =
                Problem::new(ErrorClass::Value, span.clone(), format!("`{word}` cannot be {number}"));
            let expected =
                if max == u32::MAX { format!("at least {min}") } else { format!("{min} to {max}") };
            return self.error(problem.label(format!("expected {expected}")));
        }
        let clients = &mut self.options.clients;
        match word {
            "MaxSessions" => clients.sessions_max = usize::try_from(number).ok(),
            "MaxSessionBytes" => clients.session_bytes_max = usize::try_from(number).ok(),
            "SpillBytes" => clients.spill_bytes_max = Some(number.into()),
            _ => clients.tls_port = u16::try_from(number).ok(),
        }
    }

    pub(super) fn client_text(&mut self, word: &str, text: &[u8], span: &Range<usize>) {
        let Ok(text) = str::from_utf8(text) else {
            let message = format!("`{word}` is not UTF-8");
            return self.error(Problem::new(ErrorClass::Value, span.clone(), message));
        };
        match word {
            "SlowClient" => {
                if let Some(action) = self.slow_action(text, span) {
                    self.options.clients.slow_client = Some(action);
                }
            }
            "SlowGroup" => {
                let words: Vec<_> = text.split_whitespace().collect();
                let [pattern, action] = words[..] else {
                    let problem =
                        Problem::new(ErrorClass::Value, span.clone(), "`SlowGroup` needs two words");
                    return self
                        .error(problem.help(
                            "write `SlowGroup = \"PATTERN ACTION\"`, as in \"metrics.* drop-oldest\"",
                        ));
                };
                if let Some(action) = self.slow_action(action, span) {
                    self.options.clients.slow_groups.push((pattern.to_owned(), action));
                }
            }
            "TlsAddress" => {
                let addrs: Result<Vec<IpAddr>, _> = text.split_whitespace().map(str::parse).collect();
                match addrs {
                    Ok(addrs) if !addrs.is_empty() => self.options.clients.tls_addresses = Some(addrs),
                    _ => {
                        let message = format!("`{text}` is no list of addresses");
                        let problem = Problem::new(ErrorClass::Value, span.clone(), message);
                        self.error(
                            problem.help("write one or several with blanks between, as in \"10.0.0.1 ::1\""),
                        );
                    }
                }
            }
            _ if text.is_empty() => {
                self.error(Problem::new(ErrorClass::Value, span.clone(), format!("`{word}` is empty")));
            }
            _ => {
                let clients = &mut self.options.clients;
                let path = match word {
                    "SpillDir" => &mut clients.spill_dir,
                    "TlsCertificate" => &mut clients.tls_certificate,
                    "TlsKey" => &mut clients.tls_key,
                    _ => &mut clients.tls_client_ca,
                };
                *path = Some(text.into());
            }
        }
    }

    fn slow_action(&mut self, text: &str, span: &Range<usize>) -> Option<SlowAction> {
        let found = SlowAction::WORDS.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words = SlowAction::WORDS.map(|(word, _)| word);
            let message = format!("`{text}` is nothing that can be done with slow clients");
            let problem = Problem::new(ErrorClass::Value, span.clone(), message);
            let problem = problem.label(format!("expected one of: {}", words.join(", ")));
            self.error(match nearest(text, words) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem,
            });
        }
        found.map(|(_, action)| *action)
    }

    /// What our own words mean together.
    pub(super) fn clients(&mut self) {
        let clients = &self.options.clients;
        let spills = clients.slow_client == Some(SlowAction::Spill)
            || clients.slow_groups.iter().any(|(_, action)| *action == SlowAction::Spill);
        let mut missing = None;
        if spills && clients.spill_dir.is_none() {
            missing = Some((&["SlowClient", "SlowGroup"][..], "spill", "SpillDir"));
        }
        if clients.tls_port.is_some() {
            if clients.tls_certificate.is_none() {
                missing = Some((&["TlsPort"][..], "TLS", "TlsCertificate"));
            } else if clients.tls_key.is_none() {
                missing = Some((&["TlsPort"][..], "TLS", "TlsKey"));
            }
        }
        if clients.tls_client_required == Some(true) && clients.tls_client_ca.is_none() {
            missing = Some((&["TlsClientRequired"][..], "a required certificate", "TlsClientCA"));
        }
        if let Some((words, what, word)) = missing
            && let Some(span) = self.last_of(words)
        {
            let problem = Problem::new(ErrorClass::Consistency, span, format!("{what} needs `{word}`"));
            self.error(problem.label(format!("`{word}` is not set")));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigErrors, SystemHost, parse};
    use crate::session::SlowAction;

    fn with(options: &str) -> Result<Config, ConfigErrors> {
        let text = format!("{options}\nSpread_Segment 127.0.0.255 {{ a 127.0.0.1 }}\n");
        parse("test.conf", text.as_bytes(), &SystemHost)
    }

    #[test]
    fn our_own_words_are_read() {
        let config = with(
            "MaxSessions = 20000 MaxSessionBytes = 1000000 SlowClient = spill SpillDir = \"/var/spill\"
             SpillBytes = 5000000 SlowGroup = \"m.* drop-oldest\" SlowGroup = \"x drop-newest\"",
        );
        let clients = config.unwrap().options.clients;
        assert_eq!((clients.sessions_max, clients.session_bytes_max), (Some(20_000), Some(1_000_000)));
        assert_eq!(
            (clients.slow_client, clients.spill_bytes_max),
            (Some(SlowAction::Spill), Some(5_000_000))
        );
        assert_eq!(clients.spill_dir, Some("/var/spill".into()));
        let groups = [("m.*".to_owned(), SlowAction::DropOldest), ("x".to_owned(), SlowAction::DropNewest)];
        assert_eq!(clients.slow_groups, groups);
        assert_eq!(with("").unwrap().options.clients, Default::default());
    }

    #[test]
    fn wrong_values_are_explained() {
        for (text, expected) in [
            ("MaxSessions = 0", "expected 1 to 65536"),
            ("MaxSessionBytes = 10", "expected at least 150000"),
            ("SlowClient = drop", "expected one of: disconnect, drop-oldest, drop-newest, spill"),
            ("SlowClient = drop-oldset", "did you mean `drop-oldest`?"),
            ("SlowGroup = \"m.*\"", "PATTERN ACTION"),
            ("SlowClient = spill", "`SpillDir` is not set"),
            ("TlsAddress = \"10.0.0\"", "no list of addresses"),
            ("TlsPort = 4804", "`TlsCertificate` is not set"),
            ("TlsClientRequired = yes", "`TlsClientCA` is not set"),
            ("SpillDir = \"\"", "`SpillDir` is empty"),
        ] {
            let shown = with(text).unwrap_err().render(false);
            assert!(shown.contains(expected), "{text}: {shown}");
        }
    }
}
