//! Access-log lines as a numbered stream between web servers and the programs that write the unified log.
//!
//! A *source* is one child process of a web server. It numbers the lines of each group from 1. The numbers travel
//! either inside frames ([`frame`]) or, so that old subscribers see plain lines, beside them in an audit group.
//! A writer that knows the numbers drops duplicates, asks for what is missing and acknowledges what is durable.
//!
//! | module | job |
//! |---|---|
//! | [`frame`] | bytes of a frame, both ways |
//! | [`group`] | group names of the configuration, buckets for virtual hosts |
//! | [`line`](mod@line) | cutting over-long lines without breaking quotes or escapes |
//! | [`intake`] | the bounded queue between request threads and the sender |
//! | [`publisher`] | the sender's side as a state machine: windows, announcements, barriers, resending |
//! | [`sequencer`] | the writer's side as a state machine: order, duplicates, holes, acknowledgements |
//!
//! Nothing here opens a socket, reads a clock or starts a thread.
//!
//! # The conversation
//!
//! ```text
//! publisher                                                writer
//!    |  hello S, first F, next N      (audit group, or group)  |
//!    |-------------------------------------------------------->|  knows S: the next plain line of this sender is N
//!    |  line N, line N+1, ...         (group)                  |
//!    |-------------------------------------------------------->|  writes what it expects, drops what it has
//!    |  acknowledgement up to M       (private group of S)     |
//!    |<--------------------------------------------------------|  after the flush; says "resend" when it saw a hole
//!    |  gap a..b                      (audit group, or group)  |
//!    |-------------------------------------------------------->|  these will never come
//!    |  goodbye, last L                                        |
//!    |-------------------------------------------------------->|  forgets S
//! ```
//!
//! Who only listens (a monitor) may ask (private group of S) and is answered by a hello, at most one a second.
//!
//! A source is *loose* until a writer answers its hello: then a line counts as sent when the daemons have ordered it
//! (a barrier of the SAFE service to the own private group came back). From the first answer on it is *strict*:
//! a line is kept until a writer acknowledged it, and sent again after any loss. So lines given to a daemon that is
//! killed, or that is alone in its component, are not lost.

#![forbid(unsafe_code)]

pub mod frame;
pub mod group;
pub mod intake;
pub mod line;
pub mod publisher;
pub mod sequencer;

pub use frame::{Frame, FrameError, Kind, SourceId};
pub use intake::{GapWhy, Intake, Pushed, Record, WhenFull};
pub use publisher::{
    Acks, Audit, Publisher, PublisherConfig, Released, Service, StreamConfig, Transmit, Wire,
};
pub use sequencer::{Output, Sequencer};

/// Message type of plain lines that carry no number (what the older modules send).
// spec: mod_log_spread 4.2
pub const TYPE_PLAIN: i16 = 1;
/// Message type of frames.
// spec: mod_log_spread 4.2
pub const TYPE_FRAME: i16 = 2;
/// A strict source sends plain lines at most this far ahead of the first unacknowledged one, so that 14 bits of the
/// number are enough to tell earlier from later.
pub const PLAIN_WINDOW: u64 = 8_000;

/// Message type of a plain line of a strict source: the low 14 bits of its number, above the values that others use.
/// The whole number is known from the hello before it in the audit group. Old subscribers do not look at the type
/// and see a plain line.
pub fn numbered_type(seq: u64) -> i16 {
    0x4000 | i16::try_from(seq & 0x3fff).unwrap_or(0)
}

/// The number, nearest to `expected`, that a message type tells; `None` when it tells none.
pub fn number_of(mess_type: i16, expected: u64) -> Option<u64> {
    let low = u64::try_from(mess_type).ok().filter(|t| t & 0x4000 != 0)? & 0x3fff;
    let ahead = low.wrapping_sub(expected) & 0x3fff;
    Some(if ahead < 0x2000 {
        expected.saturating_add(ahead)
    } else {
        expected.saturating_sub(0x4000 - ahead)
    })
}

/// Longest message that is ever sent.
// spec: mod_log_spread M-7
pub const MESSAGE_BYTES_MAX: usize = 131_072;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_tell_the_nearest_number() {
        for expected in [1u64, 5, 8_000, 16_383, 16_384, 16_385, 1 << 40] {
            for seq in expected.saturating_sub(PLAIN_WINDOW).max(1)..expected + PLAIN_WINDOW {
                assert_eq!(number_of(numbered_type(seq), expected), Some(seq), "expected {expected}");
            }
        }
        assert_eq!(
            (number_of(TYPE_PLAIN, 1), number_of(TYPE_FRAME, 1), number_of(-1, 1)),
            (None, None, None)
        );
        assert_eq!(number_of(numbered_type(16_000), 1), Some(0), "before the first");
    }
}
