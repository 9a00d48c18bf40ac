//! The grammar of a `spreadlogd.conf`.
// spec: log_writer 2.2

use std::path::PathBuf;

use spread::GroupName;

use super::words::{GLOBAL, LOG, SPREAD, Word, is_keyword, near};
use super::{ConfFile, Note};
use crate::config::{LogConfig, SessionConfig};
use crate::output::Target;
use crate::route::{Matcher, Rewrite};

pub(super) struct Parser {
    pub(super) words: Vec<Word>,
    pub(super) at: usize,
    pub(super) last_line: usize,
    pub(super) ignore_unsupported: bool,
    pub(super) errors: Vec<Note>,
    pub(super) conf: ConfFile,
}

/// A `Spread` block while it is read.
struct Block {
    line: usize,
    port: Option<Word>,
    host: Option<Word>,
    logs: Vec<LogConfig>,
    said: bool,
}

impl Parser {
    pub(super) fn file(&mut self) {
        let mut spreads = 0;
        while let Some(word) = self.next_key() {
            match &*word.text {
                "Spread" if !word.quoted => {
                    spreads += 1;
                    self.spread(word.line);
                }
                key if !word.quoted && GLOBAL.contains(&key) => self.global(&word),
                "}" if !word.quoted => self.error(word.line, "this brace closes nothing"),
                _ => self.unknown(&word, "\"Spread\" or a global key"),
            }
        }
        if spreads == 0 {
            self.error(self.last_line, "there is no \"Spread\" block");
        }
    }

    fn global(&mut self, key: &Word) {
        match &*key.text {
            "BufferSize" => {
                let Some(value) = self.value(key) else { return };
                match value.text.parse::<u64>() {
                    Ok(n) if n <= 131_072 => {
                        self.warn(value.line, "BufferSize has no effect: no line is dropped for its size");
                    }
                    Ok(_) => {}
                    Err(_) => self.error(value.line, &format!("\"{}\" is not a number", value.text)),
                }
            }
            "ModuleDir" => {
                self.value(key);
                self.warn(key.line, "ModuleDir has no effect");
            }
            "LoadModule" => {
                let name = self.word(key);
                // The second word is optional; no key that may follow looks like it.
                if self
                    .peek()
                    .is_some_and(|w| !is_keyword(w) && !"{}".contains(&*w.text) && w.line == key.line)
                {
                    self.at += 1;
                }
                if name.is_some() {
                    self.unsupported(
                        key,
                        "C modules are not loaded; let a program join the same group instead",
                    );
                }
            }
            _ => {
                if self.word(key).is_some() {
                    let instead = "no interpreter is built in; write to a pipe (File = \"|command\"), or let a \
                                   program join the same group";
                    self.unsupported(key, instead);
                }
            }
        }
    }

    fn spread(&mut self, line: usize) {
        if !self.brace("{", "Spread") {
            return;
        }
        let mut block = Block { line, port: None, host: None, logs: Vec::new(), said: false };
        loop {
            let Some(word) = self.next_key() else {
                self.error(self.last_line, &format!("the block of line {line} is not closed"));
                break;
            };
            block.said |= word.text != "}";
            match &*word.text {
                "}" if !word.quoted => break,
                "Port" if !word.quoted => block.port = self.value(&word).or(block.port),
                "Host" if !word.quoted => block.host = self.value(&word).or(block.host),
                "Log" if !word.quoted => block.logs.extend(self.log(word.line)),
                key if !word.quoted && GLOBAL.contains(&key) => self.global(&word),
                _ => self.unknown(&word, "Port, Host, Log or }"),
            }
        }
        self.end_of_spread(block);
    }

    fn end_of_spread(&mut self, block: Block) {
        if !block.said {
            return self.error(block.line, "the \"Spread\" block is empty");
        }
        if block.logs.is_empty() {
            self.warn(block.line, "the \"Spread\" block has no \"Log\": nothing is read from this daemon");
            return;
        }
        let port = block.port.as_ref().map_or("4803", |w| &w.text);
        let text = match &block.host {
            Some(host) => format!("{port}@{}", host.text),
            None => port.to_owned(),
        };
        let line = block.host.or(block.port).map_or(block.line, |w| w.line);
        match text.parse() {
            Ok(address) => match self.conf.sessions.iter_mut().find(|s| s.daemons[0].1 == address) {
                Some(session) => session.logs.extend(block.logs),
                None => self.conf.sessions.push(SessionConfig {
                    daemons: vec![(text, address)],
                    logs: block.logs,
                    state: None,
                }),
            },
            Err(error) => self.error(line, &format!("\"{text}\" is no daemon: {error}")),
        }
    }

    fn log(&mut self, line: usize) -> Option<LogConfig> {
        if !self.brace("{", "Log") {
            return None;
        }
        let mut group = None;
        let (mut target, mut vhost_dir, mut matches, mut rewrite) = (None, None, Vec::new(), Rewrite::Keep);
        loop {
            let Some(word) = self.next_key() else {
                self.error(self.last_line, &format!("the block of line {line} is not closed"));
                break;
            };
            match &*word.text {
                "}" if !word.quoted => break,
                "Group" if !word.quoted => group = self.group(&word).or(group),
                "File" if !word.quoted => {
                    target = self.value(&word).map(|w| Target::parse(&w.text)).or(target)
                }
                "VhostDir" if !word.quoted => {
                    vhost_dir = self.value(&word).map(|w| PathBuf::from(w.text)).or(vhost_dir);
                }
                "Match" if !word.quoted => matches.extend(self.matcher(&word)),
                "RewriteTimestamp" if !word.quoted => {
                    if let Some(value) = self.timestamp(&word) {
                        rewrite = value;
                        self.warn(word.line, "with RewriteTimestamp two writers do not write the same bytes");
                    }
                }
                key if !word.quoted && LOG.contains(&key) => {
                    if self.word(&word).is_some() {
                        let instead = "not supported; write to a pipe (File = \"|command\"), or let a program join \
                                       the same group";
                        self.unsupported(&word, instead);
                    }
                }
                _ => self.unknown(&word, "Group, File, Match, VhostDir, RewriteTimestamp or }"),
            }
        }
        let Some(group) = group else {
            if !self.errors.iter().any(|e| e.line >= line) {
                self.error(line, "the \"Log\" block has no \"Group\"");
            }
            return None;
        };
        Some(LogConfig { target, vhost_dir, matches, rewrite, ..LogConfig::new(group) })
    }

    fn group(&mut self, key: &Word) -> Option<GroupName> {
        let value = self.value(key)?;
        match value.text.parse() {
            Ok(group) => Some(group),
            Err(error) => {
                self.error(value.line, &format!("\"{}\" is no group name: {error}", value.text));
                None
            }
        }
    }

    fn matcher(&mut self, key: &Word) -> Option<Matcher> {
        let value = self.value(key)?;
        match Matcher::new(&value.text) {
            Ok(matcher) => Some(matcher),
            Err(error) => {
                self.error(value.line, &format!("\"{}\" is no expression: {error}", value.text));
                None
            }
        }
    }

    fn timestamp(&mut self, key: &Word) -> Option<Rewrite> {
        let common = |w: &Word| !w.quoted && w.text == "CommonLogFormat";
        self.equals(key)?;
        if self.peek().is_some_and(common) {
            self.at += 1;
            return Some(Rewrite::Common);
        }
        self.word(key).map(|w| Rewrite::Format(w.text))
    }

    /// The next word at the place of a key. `Key=value` becomes two words, `Key` and `=value`.
    fn next_key(&mut self) -> Option<Word> {
        let word = self.words.get(self.at)?.clone();
        if !word.quoted
            && let Some((key, rest)) = word.text.split_once('=')
            && !key.is_empty()
        {
            let key = Word { text: key.into(), ..word.clone() };
            self.words[self.at] = Word { text: format!("={rest}"), ..word };
            return Some(key);
        }
        self.at += 1;
        Some(word)
    }

    fn peek(&self) -> Option<&Word> {
        self.words.get(self.at)
    }

    /// Takes the equals sign after a key. `=value` leaves `value`.
    fn equals(&mut self, key: &Word) -> Option<()> {
        match self.words.get_mut(self.at) {
            Some(word) if !word.quoted && word.text == "=" => {
                self.at += 1;
                Some(())
            }
            Some(word) if !word.quoted && word.text.starts_with('=') => {
                word.text.remove(0);
                Some(())
            }
            found => {
                let found = found.map_or_else(|| "the end of the file".into(), |w| format!("\"{}\"", w.text));
                self.error(
                    key.line,
                    &format!("\"{}\" needs \" = \" and a value, but {found} follows", key.text),
                );
                None
            }
        }
    }

    fn value(&mut self, key: &Word) -> Option<Word> {
        self.equals(key)?;
        self.word(key)
    }

    /// A plain or quoted word that is no keyword.
    fn word(&mut self, key: &Word) -> Option<Word> {
        match self.words.get(self.at) {
            Some(word) if word.quoted || !(is_keyword(word) || "{}".contains(&*word.text)) => {
                self.at += 1;
                Some(word.clone())
            }
            Some(word) if is_keyword(word) => {
                let text =
                    format!("\"{}\" is a keyword; as a value of {} write it in quotes", word.text, key.text);
                let line = word.line;
                self.at += 1;
                self.error(line, &text);
                None
            }
            _ => {
                self.error(key.line, &format!("\"{}\" has no value", key.text));
                None
            }
        }
    }

    fn brace(&mut self, brace: &str, after: &str) -> bool {
        match self.words.get(self.at) {
            Some(word) if !word.quoted && word.text == brace => {
                self.at += 1;
                true
            }
            found => {
                let line = found.map_or(self.last_line, |w| w.line);
                self.error(line, &format!("\"{after}\" needs a \"{brace}\""));
                false
            }
        }
    }

    fn unknown(&mut self, word: &Word, wanted: &str) {
        let near = GLOBAL.iter().chain(&LOG).chain(&SPREAD).chain(&["Spread"]).find(|k| near(k, &word.text));
        let hint = near.map(|k| format!("; did you mean \"{k}\"?")).unwrap_or_default();
        self.error(
            word.line,
            &format!("\"{}\" is not understood here: {wanted} can stand here{hint}", word.text),
        );
        // One error a place: the value of an unknown key is no error of its own.
        if self.peek().is_some_and(|w| !w.quoted && w.text.starts_with('=')) {
            let alone = self.peek().is_some_and(|w| w.text == "=");
            self.at += if alone { 2 } else { 1 };
        }
    }

    fn unsupported(&mut self, key: &Word, instead: &str) {
        let text = format!("{}: {instead}", key.text);
        if self.ignore_unsupported { self.warn(key.line, &text) } else { self.error(key.line, &text) }
    }

    fn warn(&mut self, line: usize, text: &str) {
        self.conf.warnings.push(Note { line, text: text.into() });
    }

    fn error(&mut self, line: usize, text: &str) {
        self.errors.push(Note { line, text: text.into() });
    }

    /// A file fed by two sessions would have no order that is the same elsewhere.
    // spec: log_writer L-5
    pub(super) fn check(&mut self) {
        let mut files: Vec<(usize, Target)> = Vec::new();
        for (i, session) in self.conf.sessions.iter().enumerate() {
            for log in &session.logs {
                let target = match (&log.vhost_dir, &log.target) {
                    (Some(dir), _) => Target::File(dir.clone()),
                    (None, Some(target)) => target.clone(),
                    (None, None) => continue,
                };
                if files.iter().any(|(other, t)| *other != i && *t == target) {
                    let text =
                        format!("{target} is fed by two daemons: its lines would have no common order");
                    self.errors.push(Note { line: self.last_line, text });
                }
                files.push((i, target));
            }
        }
    }
}
