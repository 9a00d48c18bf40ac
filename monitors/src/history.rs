//! What happened earlier: the figures of each minute in a file, so that they outlive the program.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use redb::{Database, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::snapshot::Snapshot;
use crate::state::Shared;
use crate::watch::now_ms;

/// Minute since 1970 to its figures as JSON.
const MINUTES: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("minutes");
/// Most minutes that one answer has: a week.
const ANSWER_MAX: usize = 7 * 24 * 60;
/// A minute is written so many seconds after its end: late lines are mostly in by then.
const LATE: i64 = 10;

/// Figures of one minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Its first second, since 1970.
    pub second: i64,
    /// By server.
    pub servers: BTreeMap<String, MinuteFigures>,
}

/// Figures of one server in one minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MinuteFigures {
    /// Requests.
    pub requests: u64,
    /// Bytes of the responses.
    pub bytes: u64,
    /// Without a status from 100 to 599, then 1xx to 5xx.
    pub classes: [u64; 6],
    /// The duration that 95 % did not exceed, in microseconds.
    pub p95: Option<u64>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct History {
    database: Arc<Database>,
    minutes_max: i64,
}

impl History {
    /// Opens or makes the file; minutes older than `days` are removed.
    ///
    /// # Errors
    /// If the file cannot be used, for example because another program has it open.
    pub fn open(path: &Path, days: u32) -> anyhow::Result<Self> {
        let database = Database::create(path).with_context(|| format!("cannot open {}", path.display()))?;
        let write = database.begin_write()?;
        write.open_table(MINUTES)?;
        write.commit()?;
        Ok(Self { database: Arc::new(database), minutes_max: i64::from(days.max(1)) * 24 * 60 })
    }

    /// Keeps a minute and removes those that are too old.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn put(&self, minute: &Minute) -> anyhow::Result<()> {
        let number = minute.second.div_euclid(60);
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(MINUTES)?;
            table.insert(number, serde_json::to_vec(minute)?.as_slice())?;
            table.retain_in(..number - self.minutes_max, |_, _| false)?;
        }
        write.commit()?;
        Ok(())
    }

    /// The minutes that begin from second `from` on and before `to`, the oldest first, a week at most.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn range(&self, from: i64, to: i64) -> anyhow::Result<Vec<Minute>> {
        let table = self.database.begin_read()?.open_table(MINUTES)?;
        let first = from.div_euclid(60) + i64::from(from.rem_euclid(60) > 0);
        let end = to.div_euclid(60) + i64::from(to.rem_euclid(60) > 0);
        let mut minutes = Vec::new();
        for row in table.range(first..end.max(first))?.take(ANSWER_MAX) {
            minutes.push(serde_json::from_slice(row?.1.value())?);
        }
        Ok(minutes)
    }

    /// Writes each minute when it is over, in a thread of its own.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(&self, state: Shared) -> std::io::Result<()> {
        let history = self.clone();
        let mut next = now_ms().div_euclid(60_000) + 1;
        thread::Builder::new().name("history".to_owned()).spawn(move || {
            loop {
                let ready_ms = next * 60_000 + LATE * 1000;
                let wait = u64::try_from(ready_ms - now_ms()).unwrap_or(0);
                thread::sleep(Duration::from_millis(wait));
                let minute = of_minute(&mut state.lock(), next - 1);
                if let Err(error) = history.put(&minute) {
                    warn!("The history cannot be written: {error:#}.");
                }
                next += 1;
            }
        })?;
        Ok(())
    }
}

/// The figures of minute `number` since 1970.
fn of_minute(state: &mut crate::state::State, number: i64) -> Minute {
    // The snapshot of its last second: its window of a minute is this minute.
    let last = (number + 1) * 60 - 1;
    let shot = Snapshot::ending_with(state, None, now_ms(), last, 0);
    let servers = shot.servers.into_iter().filter_map(|server| {
        let w = server.windows.get("1m")?;
        let p95 = server.latency.get("1m").and_then(|latency| latency.p95);
        let figures = MinuteFigures { requests: w.requests, bytes: w.bytes, classes: w.classes, p95 };
        (w.requests > 0).then_some((server.name, figures))
    });
    Minute { second: number * 60, servers: servers.collect() }
}

#[cfg(test)]
mod tests {
    use access_log::Format;

    use super::*;
    use crate::state::{Bounds, State};

    #[test]
    fn minutes_outlive_the_program_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.redb");
        let mut state = State::new(Format::named("common").unwrap(), Bounds::default(), 0);
        for second in [10, 59] {
            let line = format!("192.0.2.4 - - [10/Oct/2000:13:55:{second} -0700] \"GET / HTTP/1.1\" 200 5\n");
            state.handle_payload(971_211_420_000, &"web1".into(), line.as_bytes());
        }
        // 13:55 -0700 is the minute that begins at second 971211300.
        let minute = of_minute(&mut state, 971_211_300 / 60);
        let figures = &minute.servers["web1"];
        assert_eq!((figures.requests, figures.bytes, figures.classes[2]), (2, 10, 2));
        {
            let history = History::open(&path, 1).unwrap();
            history.put(&minute).unwrap();
        }
        let history = History::open(&path, 1).unwrap();
        let range = |from, to| history.range(from, to).unwrap();
        assert_eq!(range(971_211_300, 971_211_301), std::slice::from_ref(&minute));
        assert_eq!(range(971_211_301, i64::MAX / 2), []);
        let later = Minute { second: minute.second + 24 * 3600 + 60, ..Minute::default() };
        history.put(&later).unwrap();
        assert_eq!(range(0, i64::MAX / 2), [later]);
        assert!(format!("{:#}", History::open(&path, 1).unwrap_err()).contains("cannot open"));
    }
}
