//! The account.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::ensure;

use super::trouble::Trouble;
use crate::load::{Outcome, Verdict};

/// What `log_writer audit` said.
#[derive(Clone, Debug)]
pub struct Audit {
    /// It found nothing wrong.
    pub good: bool,
    /// Its words.
    pub said: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The clients' side.
    pub outcome: Outcome,
    /// Comparison of the clients' side with each writer's file.
    pub verdicts: Vec<Verdict>,
    /// Answered, but in none of the two files.
    pub in_none: Vec<u64>,
    /// Both files have the same bytes.
    pub identical: bool,
    /// Both files have the same lines, perhaps in another order.
    pub same_lines: bool,
    /// The writers' daemons were together all the time, so that the bytes must be the same.
    pub together: bool,
    /// Lines in the first file.
    pub lines: usize,
    /// Counters of the two servers.
    pub counters: Vec<BTreeMap<String, u64>>,
    /// How long the daemon was down.
    pub down: Duration,
    /// Time from the last answer until every line was confirmed.
    pub settling: Duration,
    /// What went wrong, and when.
    pub events: Vec<(Duration, Trouble)>,
    /// Journals that are left in the spools.
    pub journals: usize,
    /// What `log_writer audit` said of the two files.
    pub audit: Audit,
    /// What the servers' modules and the writers had to say.
    pub notes: Vec<String>,
}

impl Report {
    fn sum(&self, names: &[&str]) -> u64 {
        self.counters.iter().flat_map(|c| names.iter().filter_map(|n| c.get(*n))).sum()
    }

    /// Lines that the modules counted as dropped.
    pub fn dropped(&self) -> u64 {
        self.sum(&["DroppedQueueFull", "DroppedAtExit", "DroppedBadName"])
    }

    /// Lines whose fate the modules do not know.
    pub fn in_doubt(&self) -> u64 {
        self.sum(&["InDoubt"])
    }

    /// Lines that one log writer has, but not the other: a child ended while that one could not be reached.
    pub fn in_part(&self) -> u64 {
        self.sum(&["AcknowledgedInPart"])
    }

    fn told(&self) -> u64 {
        self.dropped() + self.in_doubt()
    }

    /// Holds the run against the promise.
    ///
    /// # Errors
    /// What was broken.
    pub fn check(&self) -> anyhow::Result<()> {
        let told_of_holes = self.told() + self.in_part();
        for (verdict, name) in self.verdicts.iter().zip(["first", "second"]) {
            ensure!(verdict.doubled.is_empty(), "doubled in the {name} file: {:?}", verdict.doubled);
            ensure!(verdict.strange.is_empty(), "in the {name} file, but never asked: {:?}", verdict.strange);
            let missing = verdict.missing.len() as u64;
            let told = self.told() + self.in_part();
            ensure!(
                missing <= told,
                "{missing} requests are not in the {name} file, but the modules count only {told} as dropped, in doubt \
                 or acknowledged in part: {:?}",
                &verdict.missing[..verdict.missing.len().min(20)]
            );
        }
        let none = self.in_none.len() as u64;
        ensure!(
            none <= self.told(),
            "{none} requests are in no file, but the modules count only {} as dropped or in doubt: {:?}",
            self.told(),
            &self.in_none[..self.in_none.len().min(20)]
        );
        ensure!(self.same_lines || self.in_part() > 0, "the two files have different lines");
        ensure!(self.journals == 0, "{} journals are left in the spools", self.journals);
        // Lines that the modules count as missing in one file are a hole there.
        ensure!(self.audit.good || told_of_holes > 0, "log_writer audit: {}", self.audit.said);
        ensure!(self.identical || !self.together, "the two files differ, but their daemons were together");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.outcome;
        let rate = o.answered.len() as f64 / o.took.as_secs_f64().max(0.001);
        writeln!(
            f,
            "requests answered      {:>8}  ({rate:.0}/s, slowest {:?})",
            o.answered.len(),
            o.slowest
        )?;
        writeln!(f, "connections that broke {:>8}", o.unsure.len())?;
        writeln!(f, "daemon down            {:>8.1} s", self.down.as_secs_f64())?;
        writeln!(f, "until all confirmed    {:>8.1} s", self.settling.as_secs_f64())?;
        writeln!(f, "lines in the file      {:>8}", self.lines)?;
        for (verdict, name) in self.verdicts.iter().zip(["first ", "second"]) {
            writeln!(
                f,
                "{name} writer          missing {}, doubled {}, strange {}",
                verdict.missing.len(),
                verdict.doubled.len(),
                verdict.strange.len()
            )?;
        }
        writeln!(f, "in none of the files   {:>8}", self.in_none.len())?;
        writeln!(f, "files identical        {:>8}", self.identical)?;
        writeln!(f, "audits without fault   {:>8}", self.audit.good)?;
        writeln!(f, "writers together       {:>8}", self.together)?;
        writeln!(f, "dropped (counted)      {:>8}", self.dropped())?;
        writeln!(f, "in doubt (counted)     {:>8}", self.in_doubt())?;
        writeln!(f, "waited on disk alone   {:>8}", self.sum(&["Spilled"]))?;
        writeln!(f, "handed on in the spool {:>8}", self.sum(&["Adopted"]))?;
        writeln!(f, "in one file (counted)  {:>8}", self.in_part())?;
        write!(f, "sent again (messages)  {:>8}", self.sum(&["Resent"]))
    }
}
