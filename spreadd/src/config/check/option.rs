//! The values of options, and what they mean together.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use super::Checker;
use crate::config::client_words;
use crate::config::diagnostic::{ErrorClass, Problem, WarningClass};
use crate::config::model::IpVersion;
use crate::config::options::{
    AuthMethod, DEFAULT_ACCELERATED_WINDOW, DEFAULT_PERSONAL_WINDOW, DEFAULT_WINDOW, Policy, TimeStamp,
    Timeouts, not_honored,
};
use crate::config::parser::{OptionNode, Value};
use crate::config::words::nearest;

/// Largest window: Spread 5.0.1 keeps it in 16 signed bits.
const WINDOW_MAX: u32 = 32_767;
/// Longest `RuntimeDir`, in bytes.
const RUNTIME_DIR_MAX: usize = 4096;
/// Longest `DaemonUser` and `DaemonGroup`, in bytes.
const USER_MAX: usize = 32;
/// The nine timeouts in the order of [`Timeouts`].
const TIMEOUTS: [&str; 9] = [
    "TokenTimeout",
    "HurryTimeout",
    "AliveTimeout",
    "JoinTimeout",
    "RepTimeout",
    "SegTimeout",
    "GatherTimeout",
    "FormTimeout",
    "LookupTimeout",
];

impl<'a> Checker<'a> {
    pub(super) fn option(&mut self, node: &'a OptionNode<'a>) {
        let word = node.word.value;
        self.set.insert(word, node.word.span.clone());
        if let Some(reason) = not_honored(word, &node.value.value) {
            self.warn(WarningClass::NotHonored, &node.word.span, format!("`{word}` has no effect: {reason}"));
        }
        let span = &node.value.span;
        match (word, &node.value.value) {
            ("DebugFlags", Value::Flags(flags)) => self.options.debug_flags = Some(*flags),
            ("EventPriority", Value::Priority(priority)) => self.options.event_priority = Some(*priority),
            ("EventTimeStamp", Value::Bare) => self.time_format = Some(TimeStamp::DEFAULT_FORMAT.to_owned()),
            ("EventTimeStamp", Value::Str(text)) => self.time_format(text, span),
            ("EventPreciseTimeStamp", _) => self.precise = true,
            (_, Value::Listen(addr)) => self.options.metrics_address = Some(*addr),
            ("SocketPortReuse", Value::Reuse(reuse)) => self.options.socket_port_reuse = Some(*reuse),
            ("TlsClientRequired", Value::Bool(value)) => {
                self.options.clients.tls_client_required = Some(*value)
            }
            (_, Value::Number(number)) if client_words::NUMBERS.contains(&word) => {
                self.client_number(word, *number, span);
            }
            (_, Value::Str(text)) if client_words::TEXTS.contains(&word) => {
                self.client_text(word, text, span)
            }
            (_, Value::Bool(value)) => self.boolean(word, *value),
            (_, Value::Number(number)) => self.number(word, *number, span),
            (_, Value::Str(text)) => self.string(word, text, span),
            _ => {}
        }
    }

    fn boolean(&mut self, word: &str, value: bool) {
        let option = match word {
            "DangerousMonitor" => &mut self.options.dangerous_monitor,
            "AcceleratedRing" => &mut self.options.accelerated_ring,
            "WideAreaNetwork" => &mut self.options.wide_area_network,
            "ExcludeSegAddrsFromHash" => &mut self.options.exclude_segment_addresses,
            _ => &mut self.options.ignore_multicast_join_errors,
        };
        *option = Some(value);
    }

    fn number(&mut self, word: &str, number: u32, span: &Range<usize>) {
        let (min, max, expected) = match word {
            "Window" | "PersonalWindow" => (1, WINDOW_MAX, "1 to 32767"),
            "AcceleratedWindow" => (0, WINDOW_MAX, "0 to 32767"),
            _ => (1, u32::MAX, "at least 1"),
        };
        if !(min..=max).contains(&number) {
            let problem =
                Problem::new(ErrorClass::Value, span.clone(), format!("`{word}` cannot be {number}"));
            let problem = problem.label(format!("expected {expected}"));
            self.error(match word {
                "MaxSessionMessages" => problem.help("with 0 every client is cut off at its first message"),
                _ if number > max => {
                    problem.help("Spread 5 keeps it in 16 bits; a larger window stops the ring")
                }
                _ => problem,
            });
            return;
        }
        let window = u16::try_from(number).unwrap_or(u16::MAX);
        match word {
            "Window" => self.options.window = Some(window),
            "PersonalWindow" => self.options.personal_window = Some(window),
            "AcceleratedWindow" => self.options.accelerated_window = Some(window),
            "MaxSessionMessages" => self.options.max_session_messages = Some(number),
            _ => {
                if let Some(at) = TIMEOUTS.iter().position(|name| *name == word) {
                    self.timeouts[at] = Some(number);
                }
            }
        }
    }

    fn string(&mut self, word: &str, text: &[u8], span: &Range<usize>) {
        match word {
            "ActiveIPVersion" => self.ip_version(text, span),
            "AccessControlPolicy" if text == b"PERMIT" => {
                self.options.access_control_policy = Some(Policy::Permit);
            }
            "AccessControlPolicy" if text == b"FILE" => {
                self.options.access_control_policy = Some(Policy::File);
            }
            "AccessControlPolicy" => {
                let message = format!("unknown access policy `{}`", String::from_utf8_lossy(text));
                let problem = Problem::new(ErrorClass::Value, span.clone(), message);
                self.error(problem.label("expected `PERMIT` or `FILE`"));
            }
            "AllowedAuthMethods" | "RequiredAuthMethods" => self.auth_methods(word, text, span),
            _ if text.is_empty() => {
                self.warn(WarningClass::EmptyValueIgnored, span, format!("empty `{word}` is ignored"));
            }
            "EventLogFile" => self.options.event_log_file = Some(path(text)),
            "RuntimeDir" => {
                if self.fits(word, text, RUNTIME_DIR_MAX, span) {
                    self.options.runtime_dir = Some(path(text));
                }
            }
            _ => {
                if self.fits(word, text, USER_MAX, span) {
                    let name = Some(OsString::from_vec(text.to_vec()));
                    match word {
                        "DaemonUser" => self.options.daemon_user = name,
                        _ => self.options.daemon_group = name,
                    }
                }
            }
        }
    }

    fn fits(&mut self, word: &str, text: &[u8], max: usize, span: &Range<usize>) -> bool {
        let fits = text.len() <= max;
        if !fits {
            let message = format!("`{word}` has {} bytes", text.len());
            let problem = Problem::new(ErrorClass::Limit, span.clone(), message);
            self.error(problem.label(format!("at most {max} are possible")));
        }
        fits
    }

    fn ip_version(&mut self, text: &[u8], span: &Range<usize>) {
        let version = match text {
            b"IPv4" => IpVersion::V4,
            b"IPv6" => IpVersion::V6,
            _ => {
                let text = String::from_utf8_lossy(text);
                let problem =
                    Problem::new(ErrorClass::Value, span.clone(), format!("unknown IP version `{text}`"))
                        .label("expected `IPv4` or `IPv6`");
                return self.error(match nearest(&text, ["IPv4", "IPv6"]) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem,
                });
            }
        };
        self.options.active_ip_version = Some(version);
        match &self.family {
            None => self.family = Some((version, span.clone())),
            Some((family, decided)) if *family != version => {
                let message =
                    format!("`ActiveIPVersion` is {version}, but the addresses so far are {family}");
                let problem = Problem::new(ErrorClass::Consistency, span.clone(), message)
                    .label("too late")
                    .other(decided.clone(), format!("{family} was decided here"))
                    .help("put `ActiveIPVersion` before the first segment");
                self.error(problem);
            }
            Some(_) => {}
        }
    }

    fn auth_methods(&mut self, word: &str, text: &[u8], span: &Range<usize>) {
        let cut = &text[..text.len().min(AuthMethod::LIST_MAX)];
        if cut.len() < text.len() {
            let message = format!("`{word}` is cut to {} bytes", AuthMethod::LIST_MAX);
            self.warn(WarningClass::ValueCut, span, message);
        }
        let mut found = Vec::new();
        for name in cut.split(|&b| b == b' ').filter(|name| !name.is_empty()) {
            match AuthMethod::WORDS.into_iter().find(|(w, _)| w.as_bytes() == name) {
                Some((_, method)) => found.push(method),
                None => {
                    let name = String::from_utf8_lossy(name);
                    let message = format!(
                        "`{name}` in `{word}` is not a method and is ignored; methods are NULL, IP and PWORD"
                    );
                    self.warn(WarningClass::UnknownAuthMethod, span, message);
                }
            }
        }
        let list = match word {
            "AllowedAuthMethods" => &mut self.options.allowed_auth_methods,
            _ => &mut self.options.required_auth_methods,
        };
        let list = list.get_or_insert_default();
        for method in found {
            if !list.contains(&method) {
                list.push(method);
            }
        }
    }

    fn time_format(&mut self, text: &[u8], span: &Range<usize>) {
        let mut format = String::from_utf8_lossy(text).into_owned();
        if format.len() > TimeStamp::FORMAT_MAX {
            let end = (0..=TimeStamp::FORMAT_MAX).rev().find(|at| format.is_char_boundary(*at));
            format.truncate(end.unwrap_or(0));
            let message = format!("time format is cut to {} bytes: `{format}`", TimeStamp::FORMAT_MAX);
            self.warn(WarningClass::ValueCut, span, message);
        }
        self.time_format = Some(format);
    }

    /// Whichever of the words stands last in the file.
    pub(super) fn last_of(&self, words: &[&str]) -> Option<Range<usize>> {
        words.iter().filter_map(|word| self.set.get(word)).max_by_key(|span| span.start).cloned()
    }

    pub(super) fn windows(&mut self) {
        let personal = self.options.personal_window.unwrap_or(DEFAULT_PERSONAL_WINDOW);
        let window = self.options.window.unwrap_or(DEFAULT_WINDOW);
        let accelerated = self.options.accelerated_window.unwrap_or(DEFAULT_ACCELERATED_WINDOW);
        if personal > window
            && let Some(span) = self.last_of(&["Window", "PersonalWindow"])
        {
            let message = format!("PersonalWindow ({personal}) is larger than Window ({window})");
            self.error(
                Problem::new(ErrorClass::Consistency, span, message)
                    .label("expected PersonalWindow <= Window")
                    .help("options that are not given count with their defaults, 20 and 160"),
            );
        }
        if self.options.accelerated_ring == Some(true)
            && accelerated > personal
            && let Some(span) = self.last_of(&["AcceleratedRing", "AcceleratedWindow", "PersonalWindow"])
        {
            let message =
                format!("AcceleratedWindow ({accelerated}) is larger than PersonalWindow ({personal})");
            self.error(
                Problem::new(ErrorClass::Consistency, span, message)
                    .label("expected AcceleratedWindow <= PersonalWindow")
                    .help("options that are not given count with their defaults, 15 and 20"),
            );
        }
    }

    pub(super) fn all_timeouts(&mut self) {
        let places = TIMEOUTS.map(|word| self.set.get(word).cloned());
        let Some(first) = places.iter().flatten().min_by_key(|span| span.start).cloned() else { return };
        if places.iter().zip(&self.timeouts).any(|(place, ms)| place.is_some() && ms.is_none()) {
            // A value was reported already; one error is enough.
            return;
        }
        let missing: Vec<&str> = TIMEOUTS.into_iter().filter(|word| !self.set.contains_key(word)).collect();
        if !missing.is_empty() {
            let problem =
                Problem::new(ErrorClass::Consistency, first, "some of the nine timeouts are missing")
                    .label("either all or none are given")
                    .help(format!("add {}", missing.join(", ")));
            return self.error(problem);
        }
        let ms = self.timeouts.map(|ms| Duration::from_millis(ms.unwrap_or(1).into()));
        let [token, hurry, alive, join, rep, seg, gather, form, lookup] = ms;
        self.options.timeouts = Some(Timeouts { token, hurry, alive, join, rep, seg, gather, form, lookup });
        let mut odd = |word: &str, rule: &str, broken: bool| {
            if broken && let Some(span) = self.set.get(word).cloned() {
                self.warn(WarningClass::TimeoutOrder, &span, format!("`{word}` should be {rule}"));
            }
        };
        odd("HurryTimeout", "shorter than `TokenTimeout`", hurry >= token);
        odd("GatherTimeout", "at least two `JoinTimeout`s long", gather < 2 * join);
        odd("FormTimeout", "at least two `JoinTimeout`s long", form < 2 * join);
        odd("LookupTimeout", "at least two `AliveTimeout`s long", lookup < 2 * alive);
    }

    pub(super) fn authentication(&mut self) {
        if self.options.allowed_auth().is_empty()
            && let Some(span) = self.last_of(&["AllowedAuthMethods", "RequiredAuthMethods"])
        {
            let message = "no authentication method is allowed, so nobody can connect; \
                 add `AllowedAuthMethods = \"NULL\"` or \"IP\"";
            self.warn(WarningClass::NobodyCanConnect, &span, message);
        }
    }
}

fn path(text: &[u8]) -> PathBuf {
    OsString::from_vec(text.to_vec()).into()
}
