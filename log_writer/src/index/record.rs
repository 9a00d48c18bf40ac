//! Records of an index.

use bytes::Bytes;
use log_stream::SourceId;
use log_stream::sequencer::GapReason;

/// One record. Numbers of sources stand relative to the next expected one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A source; later records mean it by its place among the sources of the file, from 0.
    Source {
        /// Who.
        id: SourceId,
        /// Group of the lines.
        group: Bytes,
        /// Number of its first line in this file, as far as the writer is concerned.
        first: u64,
    },
    /// Lines with consecutive numbers.
    Lines {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
    },
    /// One numbered message of several lines, or of none.
    Multi {
        /// Place of the source.
        source: usize,
        /// The number.
        seq: u64,
        /// Lines.
        lines: u64,
    },
    /// Lines without numbers.
    Plain(u64),
    /// Numbers that arrived, but whose lines belong elsewhere by the configuration (match expressions).
    Elsewhere {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
    },
    /// Numbers that will never come.
    Gap {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
        /// Why.
        reason: GapReason,
    },
    /// Lines that came again and were left out.
    Duplicates {
        /// Place of the source.
        source: usize,
        /// First number.
        seq: u64,
        /// How many.
        count: u64,
    },
    /// A source ended.
    End {
        /// Place of the source.
        source: usize,
        /// Its last number.
        last: u64,
    },
    /// Something that happened to the writer.
    Event(Event),
}

/// What can happen to a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It began.
    Start,
    /// It ended in order.
    Stop,
    /// Its session with the daemon was lost: lines without numbers may be missing.
    SessionLost,
    /// It found the file longer than the index: lines before this have no numbers.
    Recovered,
    /// The file is complete: a new one follows.
    Sealed,
}

impl Event {
    pub(super) const ALL: [Self; 5] =
        [Self::Start, Self::Stop, Self::SessionLost, Self::Recovered, Self::Sealed];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::SessionLost => "session lost",
            Self::Recovered => "recovered",
            Self::Sealed => "sealed",
        }
    }
}
