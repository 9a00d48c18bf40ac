//! The bytes of simulated messages: each tells who it is, and every byte can be checked.

use bytes::{BufMut, Bytes, BytesMut};
use spread_ring::{Body, Service};

use super::log::{Msg, Proc};
use super::rng::mix;

/// Shortest message.
pub(super) const LEN_MIN: usize = 16;

/// The head of a message of another layer: `len` bytes follow, which that layer checks itself.
pub(super) fn head(msg: Msg, service: Service, len: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(LEN_MIN);
    put_head(&mut out, msg, service, len);
    out.freeze()
}

/// Takes the head off a message of another layer.
pub(super) fn split(body: &Body) -> Result<(Msg, Service, Vec<Bytes>), String> {
    let mut head = Vec::with_capacity(LEN_MIN);
    let mut rest = Vec::new();
    for part in body.parts() {
        let take = (LEN_MIN - head.len()).min(part.len());
        head.extend_from_slice(&part[..take]);
        if take < part.len() {
            rest.push(part.slice(take..));
        }
    }
    let (msg, service, len) = read_head(&head)?;
    let found: usize = rest.iter().map(Bytes::len).sum();
    if found != len {
        return Err(format!("{msg} has {found} bytes, {len} were submitted"));
    }
    Ok((msg, service, rest))
}

fn put_head(out: &mut BytesMut, msg: Msg, service: Service, len: usize) {
    out.put_u32_le(msg.by.0);
    out.put_u32_le(msg.no);
    out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
    out.put_u32_le(u32::from(service as u8));
}

fn read_head(bytes: &[u8]) -> Result<(Msg, Service, usize), String> {
    let word = |i: usize| bytes.get(4 * i..4 * i + 4)?.try_into().ok().map(u32::from_le_bytes);
    let (Some(by), Some(no), Some(len), Some(service)) = (word(0), word(1), word(2), word(3)) else {
        return Err(format!("a message of {} bytes", bytes.len()));
    };
    let msg = Msg { by: Proc(by), no };
    let services = [Service::Reliable, Service::Fifo, Service::Causal, Service::Agreed, Service::Safe];
    let Some(service) = services.into_iter().find(|s| u32::from(*s as u8) == service) else {
        return Err(format!("a message of service {service}"));
    };
    Ok((msg, service, usize::try_from(len).unwrap_or(usize::MAX)))
}

/// A message of `len` bytes (at least [`LEN_MIN`]), cut into `parts`.
pub(super) fn write(msg: Msg, service: Service, len: usize, parts: usize) -> Body {
    let len = len.max(LEN_MIN);
    let mut out = BytesMut::with_capacity(len + 8);
    put_head(&mut out, msg, service, len);
    let key = key(msg);
    let mut word = 0u64;
    while out.len() < len {
        out.put_u64_le(mix(key.wrapping_add(word)));
        word += 1;
    }
    out.truncate(len);
    let whole = out.freeze();
    if parts <= 1 {
        return Body::One(whole);
    }
    let size = len.div_ceil(parts);
    Body::Many((0..parts).map(|i| whole.slice((i * size).min(len)..((i + 1) * size).min(len))).collect())
}

/// Reads a message and checks every byte of it.
pub(super) fn read(body: &Body) -> Result<(Msg, Service), String> {
    let whole: Bytes = body.to_bytes();
    let (msg, service, len) = read_head(&whole)?;
    if len != whole.len() {
        return Err(format!("{msg} has {} bytes, {len} were submitted", whole.len()));
    }
    let key = key(msg);
    let same = whole[LEN_MIN..].chunks(8).zip(0u64..).all(|(chunk, i)| {
        let want = mix(key.wrapping_add(i)).to_le_bytes();
        chunk == &want[..chunk.len()]
    });
    if same { Ok((msg, service)) } else { Err(format!("{msg} has other bytes than were submitted")) }
}

fn key(msg: Msg) -> u64 {
    mix(u64::from(msg.by.0) << 32 | u64::from(msg.no))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let msg = Msg { by: Proc(3), no: 70_000 };
        for len in [16, 17, 24, 100, 3001] {
            for parts in 1..4 {
                let body = write(msg, Service::Safe, len, parts);
                assert_eq!(body.len(), len);
                assert_eq!(read(&body), Ok((msg, Service::Safe)));
                let mut bytes = body.to_bytes().to_vec();
                for i in 0..len.min(60) {
                    bytes[i] ^= 0x10;
                    assert_ne!(
                        read(&Bytes::from(bytes.clone()).into()),
                        Ok((msg, Service::Safe)),
                        "byte {i}"
                    );
                    bytes[i] ^= 0x10;
                }
            }
        }
    }
}
