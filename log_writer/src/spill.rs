//! Messages that wait on disk when the memory for them is full: a first-in-first-out file.
//!
//! The file has no name (it is removed as soon as it is open): after a crash its content is worthless, since what was
//! not acknowledged is sent again. It is made of segments, so that what was read gives its space back.
// spec: log_writer 5.4

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes};

use crate::queue::{Item, Message};

/// Bytes that are collected before they are written, and read at once.
const CHUNK: usize = 1 << 20;
/// Bytes of a segment.
const SEGMENT: u64 = 64 << 20;
/// Bytes of a record beside names and payload.
const HEAD: usize = 10;

/// The file.
#[derive(Debug)]
pub struct Spill {
    /// Name that the file has while it is opened.
    path: PathBuf,
    max_bytes: u64,
    segments: VecDeque<Segment>,
    /// Whole records that are not in a segment yet.
    tail: Vec<u8>,
    /// What is no message keeps its place by a mark.
    others: VecDeque<Item>,
    bytes: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    written: u64,
    read: u64,
}

impl Spill {
    /// A spill of at most `max_bytes`. Nothing is opened before it is needed.
    pub fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self {
            path,
            max_bytes,
            segments: VecDeque::new(),
            tail: Vec::new(),
            others: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends an item, or gives it back when there is no room.
    ///
    /// # Errors
    /// What the system said, with the item.
    pub fn push(&mut self, item: Item) -> Result<(), (Item, Option<io::Error>)> {
        let Item::Message(message) = &item else {
            self.others.push_back(item);
            self.tail.put_u8(0);
            self.bytes += 1;
            return Ok(());
        };
        let len = HEAD + message.sender.len() + message.group.len() + message.payload.len();
        if self.bytes + len as u64 > self.max_bytes {
            return Err((item, None));
        }
        if self.tail.len() + len > CHUNK
            && let Err(error) = self.write_tail()
        {
            return Err((item, Some(error)));
        }
        // Names of groups and senders have at most 32 bytes, payloads less than 4 GiB.
        self.tail.put_u8(if message.audit { 2 } else { 1 });
        self.tail.put_i16(message.mess_type);
        self.tail.put_u8(u8::try_from(message.sender.len()).unwrap_or(u8::MAX));
        self.tail.put_u16(u16::try_from(message.group.len()).unwrap_or(u16::MAX));
        self.tail.put_u32(u32::try_from(message.payload.len()).unwrap_or(u32::MAX));
        self.tail.extend_from_slice(&message.sender);
        self.tail.extend_from_slice(&message.group);
        self.tail.extend_from_slice(&message.payload);
        self.bytes += len as u64;
        Ok(())
    }

    /// Moves the collected records to a segment: all or, as far as readers can see, nothing.
    fn write_tail(&mut self) -> io::Result<()> {
        if self.segments.back().is_none_or(|s| s.written >= SEGMENT) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            // A left-over of a crash between the two calls.
            let _ = std::fs::remove_file(&self.path);
            let file = options.open(&self.path)?;
            std::fs::remove_file(&self.path)?;
            self.segments.push_back(Segment { file, written: 0, read: 0 });
        }
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        segment.file.write_all_at(&self.tail, segment.written)?;
        segment.written += self.tail.len() as u64;
        self.tail.clear();
        Ok(())
    }

    /// Takes some items, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read. What was in it is lost then; numbered sources send it again.
    pub fn take(&mut self) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        if self.segments.is_empty() {
            let tail = Bytes::from(std::mem::take(&mut self.tail));
            self.bytes = 0;
            self.parse(tail, &mut items);
            return Ok(items);
        }
        let Some(segment) = self.segments.front_mut() else { return Ok(items) };
        let want = usize::try_from(segment.written - segment.read).unwrap_or(CHUNK).min(CHUNK);
        let mut buf = vec![0; want];
        segment.file.read_exact_at(&mut buf, segment.read)?;
        let used = self.parse(Bytes::from(buf), &mut items) as u64;
        self.bytes = self.bytes.saturating_sub(used);
        if let Some(segment) = self.segments.front_mut() {
            segment.read += used;
            if segment.read >= segment.written {
                // The last one is kept no longer either: a new one costs little.
                self.segments.pop_front();
            }
        }
        Ok(items)
    }

    /// Forgets everything; gives what is no message.
    pub fn clear(&mut self) -> Vec<Item> {
        self.segments.clear();
        self.tail.clear();
        self.bytes = 0;
        self.others.drain(..).collect()
    }

    /// Takes whole records; returns how many bytes they had.
    fn parse(&mut self, mut bytes: Bytes, items: &mut Vec<Item>) -> usize {
        let len = bytes.len();
        while let Some(kind) = bytes.first().copied() {
            if kind == 0 {
                bytes.advance(1);
                items.extend(self.others.pop_front());
                continue;
            }
            let mut head = &bytes[..];
            if head.len() < HEAD {
                break;
            }
            head.advance(1);
            let mess_type = head.get_i16();
            let (sender, group) = (usize::from(head.get_u8()), usize::from(head.get_u16()));
            let payload = head.get_u32() as usize;
            if head.len() < sender + group + payload {
                break;
            }
            bytes.advance(HEAD);
            let sender = bytes.split_to(sender);
            let group = bytes.split_to(group);
            let payload = bytes.split_to(payload);
            items.push(Item::Message(Message { sender, group, audit: kind == 2, mess_type, payload }));
        }
        len - bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u64, len: usize) -> Item {
        let mut payload = n.to_be_bytes().to_vec();
        payload.resize(8 + len, b'x');
        Item::Message(Message {
            sender: Bytes::from_static(b"#a#b"),
            group: Bytes::from_static(b"site4"),
            audit: n % 2 == 1,
            mess_type: i16::try_from(n % 7).expect("small"),
            payload: payload.into(),
        })
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let dir = tempfile::tempdir().expect("dir");
        let mut spill = Spill::new(dir.path().join("s"), 1 << 30);
        let (mut next, mut seen, mut lost) = (0, 0, 0);
        for round in 0..40 {
            for _ in 0..400 {
                spill.push(message(next, 10_000)).expect("room");
                next += 1;
            }
            spill.push(Item::Lost).expect("room");
            assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 0, "the file has no name");
            // At first more comes than is taken.
            for _ in 0..if round < 20 { 2 } else { 9 } {
                for item in spill.take().expect("readable") {
                    match item {
                        Item::Message(m) => {
                            assert_eq!(m.payload[..8], u64::to_be_bytes(seen));
                            assert_eq!((m.audit, i16::try_from(seen % 7)), (seen % 2 == 1, Ok(m.mess_type)));
                            seen += 1;
                        }
                        _ => {
                            lost += 1;
                            assert_eq!(seen, lost * 400);
                        }
                    }
                }
            }
        }
        assert_eq!((seen, lost, spill.bytes()), (next, 40, 0));
    }

    #[test]
    fn room_is_bounded() {
        let dir = tempfile::tempdir().expect("dir");
        let mut spill = Spill::new(dir.path().join("s"), 100_000);
        let taken = (0..100).take_while(|n| spill.push(message(*n, 5_000)).is_ok()).count();
        assert_eq!(taken, 19);
        spill.push(Item::Lost).expect("a mark always fits");
        assert_eq!(spill.clear().len(), 1);
        spill.push(message(1, 5_000)).expect("room again");
    }

    #[test]
    fn a_disk_that_takes_nothing_gives_the_item_back() {
        let mut spill = Spill::new("/proc/nothing/s".into(), 1 << 30);
        let mut given_back = None;
        for n in 0..10_000 {
            if let Err((item, error)) = spill.push(message(n, 1_000)) {
                given_back = Some((n, item, error.expect("a reason")));
                break;
            }
        }
        let (n, item, _) = given_back.expect("memory is bounded");
        assert!(matches!(item, Item::Message(m) if m.payload[..8] == n.to_be_bytes()));
        assert_eq!(spill.take().expect("from memory").len() as u64, n);
    }
}
