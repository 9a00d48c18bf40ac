//! Directives and what they set.
// spec: mod_log_spread 2.1, 2.3

use std::path::PathBuf;
use std::time::Duration;

use httpd::{Directive, Params, Scope};
use log_stream::group::{BUCKETS_MAX, HostHash, Target};
use log_stream::line::{LINE_BYTES_DEFAULT, LINE_BYTES_MAX, LINE_BYTES_MIN};
use log_stream::{Acks, Audit, WhenFull, Wire};
use spread::{Address, Service};

use crate::module::LogSpread;

/// A daemon of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// As written.
    pub(crate) text: String,
    pub(crate) address: Address,
}

/// Settings of a server. Those with scope `Global` count only in the main server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) wire: Option<Wire>,
    /// Wire of single groups, over `wire`.
    pub(crate) wires: Vec<(Box<[u8]>, Wire)>,
    pub(crate) errors: Option<ErrorLog>,
    pub(crate) global: Global,
}

/// Where lines of the error log go beside the error log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorLog {
    /// As written: `$group`.
    pub(crate) name: Box<[u8]>,
    /// Most severe is 0; lines up to this level.
    pub(crate) level: u32,
    /// Lines a second from each child.
    pub(crate) rate: u32,
}

/// Lines on disk until they are confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spool {
    pub(crate) root: PathBuf,
    /// Most bytes of all children.
    pub(crate) bytes: u64,
}

/// Settings of the whole server.
#[derive(Clone, Debug)]
pub(crate) struct Global {
    pub(crate) service: Service,
    pub(crate) buckets: u32,
    pub(crate) hash: HostHash,
    pub(crate) queue_bytes: usize,
    pub(crate) max_wait: Duration,
    pub(crate) when_full: WhenFull,
    pub(crate) line_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) batch_wait: Duration,
    pub(crate) audit: Audit,
    pub(crate) acks: Acks,
    pub(crate) audit_suffix: Box<[u8]>,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    pub(crate) spool: Option<Spool>,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            service: Service::AGREED,
            buckets: 16,
            hash: HostHash::default(),
            queue_bytes: 4 << 20,
            max_wait: Duration::ZERO,
            when_full: WhenFull::default(),
            line_bytes: LINE_BYTES_DEFAULT,
            batch_bytes: 16_384,
            batch_wait: Duration::from_millis(5),
            audit: Audit::default(),
            acks: Acks::default(),
            audit_suffix: b"~"[..].into(),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            spool: None,
        }
    }
}

impl Settings {
    /// A virtual host over the main server.
    pub(crate) fn merge(base: &Self, over: &Self) -> Self {
        Self {
            daemons: if over.daemons.is_empty() { base.daemons.clone() } else { over.daemons.clone() },
            wire: over.wire.or(base.wire),
            wires: over.wires.iter().chain(&base.wires).cloned().collect(),
            errors: over.errors.clone().or_else(|| base.errors.clone()),
            global: base.global.clone(),
        }
    }

    /// Wire of a group (or of the prefix of a family).
    pub(crate) fn wire_of(&self, group: &[u8]) -> Wire {
        let own = self.wires.iter().find(|(name, _)| **name == *group);
        own.map_or(self.wire, |(_, wire)| Some(*wire)).unwrap_or_default()
    }
}

type Outcome = Result<(), String>;

pub(crate) static DAEMON: Directive<LogSpread> = Directive {
    name: c"SpreadDaemon",
    help: c"one or more daemons: 4803 for the local socket, 4803@host for another host; the first that answers is used",
    scope: Scope::Server,
    min: 1,
    max: 100,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        for word in words {
            let text = utf8(word)?;
            let address = text.parse().map_err(|e| format!("\"{text}\": {e}"))?;
            settings.daemons.push(Daemon { text: text.to_owned(), address });
        }
        Ok(())
    },
};

pub(crate) static WIRE: Directive<LogSpread> = Directive {
    name: c"SpreadLogWire",
    help: c"plain or framed, and optionally the $group that it is for",
    scope: Scope::Server,
    min: 1,
    max: 2,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        let wire = choice(words[0], &[("plain", Wire::Plain), ("framed", Wire::Framed)])?;
        let Some(group) = words.get(1) else {
            settings.wire = Some(wire);
            return Ok(());
        };
        let name = match Target::parse(group) {
            Some(Ok(Target::Group(name) | Target::Family(name))) => name,
            Some(Err(error)) => return Err(format!("\"{}\": {error}", String::from_utf8_lossy(group))),
            None => return Err(format!("\"{}\" must begin with $", String::from_utf8_lossy(group))),
        };
        settings.wires.insert(0, (name, wire));
        Ok(())
    },
};

pub(crate) static SERVICE: Directive<LogSpread> = Directive {
    name: c"SpreadLogService",
    help: c"fifo, agreed or safe",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        let services = [("fifo", Service::FIFO), ("agreed", Service::AGREED), ("safe", Service::SAFE)];
        settings.global.service = choice(words[0], &services)?;
        Ok(())
    },
};

pub(crate) static BUCKETS: Directive<LogSpread> = Directive {
    name: c"SpreadLogVhostBuckets",
    help: c"the number of groups behind $#prefix, 1 to 10000",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.buckets = number(words[0], 1, u64::from(BUCKETS_MAX))?;
        Ok(())
    },
};

pub(crate) static HASH: Directive<LogSpread> = Directive {
    name: c"SpreadLogVhostHash",
    help: c"legacy or fnv1a",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.hash = choice(words[0], &[("legacy", HostHash::Legacy), ("fnv1a", HostHash::Fnv1a)])?;
        Ok(())
    },
};

pub(crate) static QUEUE: Directive<LogSpread> = Directive {
    name: c"SpreadLogQueue",
    help: c"the memory of the queue of each child, for example 4M; 256K to 1G",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.queue_bytes = size(words[0], 256 << 10, 1 << 30)?;
        Ok(())
    },
};

pub(crate) static MAX_WAIT: Directive<LogSpread> = Directive {
    name: c"SpreadLogMaxWait",
    help: c"the longest time in milliseconds that a request may wait for room in the queue; 0 to 60000",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.max_wait = Duration::from_millis(number(words[0], 0, 60_000)?);
        Ok(())
    },
};

pub(crate) static WHEN_FULL: Directive<LogSpread> = Directive {
    name: c"SpreadLogWhenFull",
    help: c"drop-newest or drop-oldest",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        let ways = [("drop-newest", WhenFull::DropNewest), ("drop-oldest", WhenFull::DropOldest)];
        settings.global.when_full = choice(words[0], &ways)?;
        Ok(())
    },
};

pub(crate) static MAX_LINE: Directive<LogSpread> = Directive {
    name: c"SpreadLogMaxLine",
    help: c"the longest line in bytes; longer ones are cut. 256 to 131008",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.line_bytes = size(words[0], LINE_BYTES_MIN as u64, LINE_BYTES_MAX as u64)?;
        Ok(())
    },
};

pub(crate) static BATCH: Directive<LogSpread> = Directive {
    name: c"SpreadLogBatch",
    help: c"the most bytes of lines in one frame and the longest wait for more lines in milliseconds",
    scope: Scope::Global,
    min: 2,
    max: 2,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.batch_bytes = size(words[0], 0, LINE_BYTES_MAX as u64)?;
        settings.global.batch_wait = Duration::from_millis(number(words[1], 0, 1_000)?);
        Ok(())
    },
};

pub(crate) static AUDIT: Directive<LogSpread> = Directive {
    name: c"SpreadLogAudit",
    help: c"on, off or auto, and optionally the suffix of the audit group (~)",
    scope: Scope::Global,
    min: 1,
    max: 2,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.audit =
            choice(words[0], &[("on", Audit::On), ("off", Audit::Off), ("auto", Audit::Auto)])?;
        if let Some(suffix) = words.get(1) {
            if !(1..=8).contains(&suffix.len())
                || !matches!(Target::parse(&[b"$", *suffix].concat()), Some(Ok(_)))
            {
                return Err(format!("\"{}\" cannot end a group name", String::from_utf8_lossy(suffix)));
            }
            settings.global.audit_suffix = (*suffix).into();
        }
        Ok(())
    },
};

pub(crate) static ACKS: Directive<LogSpread> = Directive {
    name: c"SpreadLogAcks",
    help: c"all, or the number of log writers that must have acknowledged a line, 1 to 16",
    scope: Scope::Global,
    min: 1,
    max: 1,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        settings.global.acks = match words[0] {
            word if word.eq_ignore_ascii_case(b"all") => Acks::All,
            word => Acks::Count(number(word, 1, 16).map_err(|e| format!("{e}, nor \"all\""))?),
        };
        Ok(())
    },
};

pub(crate) static RETRY: Directive<LogSpread> = Directive {
    name: c"SpreadLogRetry",
    help: c"the shortest and the longest pause between two attempts to connect, in milliseconds",
    scope: Scope::Global,
    min: 2,
    max: 2,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        let min: u64 = number(words[0], 1, 600_000)?;
        let max: u64 = number(words[1], 1, 600_000)?;
        if max < min {
            return Err(format!("the longest pause ({max} ms) is below the shortest ({min} ms)"));
        }
        settings.global.retry_min = Duration::from_millis(min);
        settings.global.retry_max = Duration::from_millis(max);
        Ok(())
    },
};

pub(crate) static SPOOL: Directive<LogSpread> = Directive {
    name: c"SpreadLogSpool",
    help: c"off, or a folder for lines that are not confirmed yet, and optionally its most bytes, for example 1G",
    scope: Scope::Global,
    min: 1,
    max: 2,
    set: |settings, params: &Params<'_>, words| -> Outcome {
        if words.len() == 1 && words[0].eq_ignore_ascii_case(b"off") {
            settings.global.spool = None;
            return Ok(());
        }
        let root = params
            .path(words[0])
            .ok_or_else(|| format!("\"{}\" is no path", String::from_utf8_lossy(words[0])))?;
        let bytes = words.get(1).map_or(Ok(1 << 30), |word| size(word, 1 << 20, 1 << 50))?;
        settings.global.spool = Some(Spool { root, bytes: bytes as u64 });
        Ok(())
    },
};

/// Levels of the error log, the most severe first.
pub(crate) const LEVELS: [&str; 16] = [
    "emerg", "alert", "crit", "error", "warn", "notice", "info", "debug", "trace1", "trace2", "trace3",
    "trace4", "trace5", "trace6", "trace7", "trace8",
];

pub(crate) static ERROR_LOG: Directive<LogSpread> = Directive {
    name: c"SpreadErrorLog",
    help: c"a $group for lines of the error log, and optionally the least severe level (trace8: all that is logged) and \
            the most lines a second of each child (100)",
    scope: Scope::Server,
    min: 1,
    max: 3,
    set: |settings, _: &Params<'_>, words| -> Outcome {
        match Target::parse(words[0]) {
            Some(Ok(Target::Group(_))) => {}
            Some(Err(error)) => return Err(format!("\"{}\": {error}", String::from_utf8_lossy(words[0]))),
            Some(Ok(Target::Family(_))) | None => {
                return Err(format!("\"{}\" is no $group", String::from_utf8_lossy(words[0])));
            }
        }
        let levels: Vec<(&str, u32)> = LEVELS.into_iter().zip(0..).collect();
        let level = words.get(1).map_or(Ok(15), |word| choice(word, &levels))?;
        let rate = words.get(2).map_or(Ok(100), |word| number(word, 1, 1_000_000))?;
        settings.errors = Some(ErrorLog { name: words[0].into(), level, rate });
        Ok(())
    },
};

fn utf8(word: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(word).map_err(|_| format!("\"{}\" is not UTF-8", String::from_utf8_lossy(word)))
}

fn choice<T: Copy>(word: &[u8], choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("\"{}\" is not one of: {}", String::from_utf8_lossy(word), names.join(", "))
    })
}

fn number<T: TryFrom<u64>>(word: &[u8], min: u64, max: u64) -> Result<T, String> {
    let value = utf8(word)?.parse::<u64>().ok().filter(|n| (min..=max).contains(n));
    value
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| format!("\"{}\" is not a number from {min} to {max}", String::from_utf8_lossy(word)))
}

/// Bytes, with an optional `K`, `M`, `G` or `T`.
fn size(word: &[u8], min: u64, max: u64) -> Result<usize, String> {
    let text = utf8(word)?;
    let (digits, factor) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        Some(b'T') => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1),
    };
    let value =
        digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| (min..=max).contains(n));
    value.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
        format!("\"{text}\" is not a size from {min} to {max} bytes (K, M, G, T can follow a number)")
    })
}
