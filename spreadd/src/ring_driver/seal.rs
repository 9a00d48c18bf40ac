//! What protects a packet on the wire: a checksum without a key, authenticated encryption with one.
//!
//! ```text
//! header (28, in clear) | body | CRC-32 of both (4)                                  without key
//! header (28, in clear) | encrypted body | tag over both (16)                        sealed
//! header (28, in clear) | body in clear  | tag over both (16)                        authenticated only
//! ```
//!
//! The key of a sender is `HKDF-SHA256(shared key, salt = cluster name, info = "spreadd ring 1" | node |
//! session)`; the nonce is 4 zero bytes and the counter. A session is random and lives as long as its
//! process, so no nonce is ever used twice and nothing needs to be stored. spec: ring-protocol 2.6

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use spread_ring::Mid;

use super::header::{self, AUTHENTICATED, HEADER_LEN, Header, SEALED};
use super::keys::{Cipher, Key, KeyRing};
use super::stats::DropReason;

/// Largest number of bytes that protection adds to a packet.
pub const TRAILER_MAX: usize = TAG_LEN;

const TAG_LEN: usize = 16;
const CRC_LEN: usize = 4;

/// Keys remembered per peer node: sessions times key ids, small numbers both.
const OPENERS_MAX: usize = 16;

const INFO: &[u8] = b"spreadd ring 1";

/// How packets are protected.
pub trait Sealer: Send {
    /// Bytes added behind the body.
    fn trailer_len(&self) -> usize;

    /// Completes a packet: header, body and room for the trailer. Every call uses a new counter. `false` if
    /// there is not even a header.
    #[must_use]
    fn seal(&mut self, packet: &mut [u8]) -> bool;

    /// Verifies a packet of the daemon process `from` and decrypts it in place. Returns the length without
    /// trailer.
    ///
    /// # Errors
    ///
    /// Why it is not acceptable; the content is unspecified then.
    fn open(&mut self, from: Mid, packet: &mut [u8]) -> Result<usize, DropReason>;

    /// Another configuration: the name of the cluster and the number of this process are others. The counter
    /// goes on.
    fn rename(&mut self, cluster: &[u8], me: Mid);

    /// Uses other keys from now on. `false` if this sealer has none.
    #[must_use]
    fn reload(&mut self, keys: KeyRing) -> bool;
}

/// Protection without a key: CRC-32.
#[derive(Debug, Default)]
pub struct Checksum {
    counter: u64,
}

impl Sealer for Checksum {
    fn trailer_len(&self) -> usize {
        CRC_LEN
    }

    fn seal(&mut self, packet: &mut [u8]) -> bool {
        let Some((content, trailer)) = packet.split_last_chunk_mut::<CRC_LEN>() else { return false };
        let Some(head) = content.first_chunk_mut() else { return false };
        self.counter += 1;
        header::finish(head, self.counter, 0, 0);
        *trailer = crc32fast::hash(content).to_le_bytes();
        true
    }

    fn open(&mut self, _from: Mid, packet: &mut [u8]) -> Result<usize, DropReason> {
        let (content, trailer) = packet.split_last_chunk::<CRC_LEN>().ok_or(DropReason::Short)?;
        let head = Header::of(content).ok_or(DropReason::Short)?;
        if head.key_id() != 0 || head.flags() & (SEALED | AUTHENTICATED) != 0 {
            return Err(DropReason::Key);
        }
        if crc32fast::hash(content).to_le_bytes() != *trailer {
            return Err(DropReason::Checksum);
        }
        Ok(content.len())
    }

    fn rename(&mut self, _cluster: &[u8], _me: Mid) {}

    fn reload(&mut self, _keys: KeyRing) -> bool {
        false
    }
}

/// Whether bodies are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// Encrypted and authenticated.
    #[default]
    Sealed,
    /// Readable by anybody, authenticated.
    AuthenticatedOnly,
}

/// A key for packets of one sender.
struct Opener {
    session: u64,
    id: u8,
    key: LessSafeKey,
}

/// Protection with keys: AES-256-GCM or ChaCha20-Poly1305.
pub struct Aead {
    cluster: Vec<u8>,
    me: Mid,
    keys: KeyRing,
    protection: Protection,
    active: LessSafeKey,
    counter: u64,
    /// By node number. A vector per node, oldest first.
    openers: Vec<Vec<Opener>>,
}

impl std::fmt::Debug for Aead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aead")
            .field("keys", &self.keys)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

impl Aead {
    /// Protection for the daemon process `me` of the named cluster.
    pub fn new(cluster: &[u8], me: Mid, keys: KeyRing, protection: Protection) -> Self {
        let active = derive(cluster, me, keys.active());
        Self { cluster: cluster.to_vec(), me, keys, protection, active, counter: 0, openers: Vec::new() }
    }

    /// Finds or derives the key of a sender.
    fn opener(&mut self, from: Mid, id: u8) -> Option<&LessSafeKey> {
        let node = from.node.index();
        if node >= spread_ring::NODES_MAX {
            return None;
        }
        if self.openers.len() <= node {
            self.openers.resize_with(node + 1, Vec::new);
        }
        let list = &mut self.openers[node];
        let found = list.iter().position(|o| o.session == from.session && o.id == id);
        let index = match found {
            Some(index) => index,
            None => {
                let key = derive(&self.cluster, from, self.keys.get(id)?);
                if list.len() >= OPENERS_MAX {
                    list.remove(0);
                }
                list.push(Opener { session: from.session, id, key });
                list.len() - 1
            }
        };
        Some(&list[index].key)
    }
}

impl Sealer for Aead {
    fn trailer_len(&self) -> usize {
        TAG_LEN
    }

    fn seal(&mut self, packet: &mut [u8]) -> bool {
        let Some((content, trailer)) = packet.split_last_chunk_mut::<TAG_LEN>() else { return false };
        let Some((head, body)) = content.split_first_chunk_mut::<HEADER_LEN>() else { return false };
        self.counter += 1;
        let flags = match self.protection {
            Protection::Sealed => SEALED,
            Protection::AuthenticatedOnly => AUTHENTICATED,
        };
        header::finish(head, self.counter, self.keys.active_id(), flags);
        let nonce = nonce(self.counter);
        let tag = match self.protection {
            Protection::Sealed => self.active.seal_in_place_separate_tag(nonce, Aad::from(&*head), body),
            Protection::AuthenticatedOnly => {
                self.active.seal_in_place_separate_tag(nonce, Aad::from(&*content), &mut [])
            }
        };
        // Fails only for bodies of many gigabytes.
        let Ok(tag) = tag else { return false };
        trailer.copy_from_slice(tag.as_ref());
        true
    }

    fn open(&mut self, from: Mid, packet: &mut [u8]) -> Result<usize, DropReason> {
        if packet.len() < HEADER_LEN + TAG_LEN {
            return Err(DropReason::Short);
        }
        let head = Header::of(packet).ok_or(DropReason::Short)?;
        let (flags, counter) = (head.flags() & (SEALED | AUTHENTICATED), head.counter());
        let key = self.opener(from, head.key_id()).ok_or(DropReason::Key)?;
        let content_len = packet.len() - TAG_LEN;
        let opened = match flags {
            SEALED => {
                let (head, body) = packet.split_at_mut(HEADER_LEN);
                key.open_in_place(nonce(counter), Aad::from(&*head), body).is_ok()
            }
            AUTHENTICATED => {
                let (content, tag) = packet.split_at_mut(content_len);
                key.open_in_place(nonce(counter), Aad::from(&*content), tag).is_ok()
            }
            _ => return Err(DropReason::Key),
        };
        if opened { Ok(content_len) } else { Err(DropReason::Tag) }
    }

    fn rename(&mut self, cluster: &[u8], me: Mid) {
        self.cluster = cluster.to_vec();
        self.me = me;
        self.active = derive(&self.cluster, self.me, self.keys.active());
        self.openers.clear();
    }

    fn reload(&mut self, keys: KeyRing) -> bool {
        // The counter goes on, whatever the keys: never the same nonce twice under one key, even if a key
        // is taken out and put back.
        self.active = derive(&self.cluster, self.me, keys.active());
        self.keys = keys;
        self.openers.clear();
        true
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn derive(cluster: &[u8], of: Mid, key: &Key) -> LessSafeKey {
    let algorithm: &'static aead::Algorithm = match key.cipher {
        Cipher::Aes256Gcm => &aead::AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, cluster).extract(&*key.secret);
    let (node, session) = (of.node.0.to_le_bytes(), of.session.to_le_bytes());
    let info = [INFO, &node, &session];
    let okm = prk.expand(&info, algorithm).expect("32 bytes are within the limit of HKDF");
    LessSafeKey::new(UnboundKey::from(okm))
}

#[cfg(test)]
pub(super) mod tests {
    use spread_ring::NodeId;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const HEX2: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    pub(in crate::ring_driver) fn keys(text: &str) -> KeyRing {
        KeyRing::parse(&text.replace("HEX2", HEX2).replace("HEX", HEX)).unwrap()
    }

    pub(in crate::ring_driver) fn mid(node: u16, session: u64) -> Mid {
        Mid { node: NodeId(node), session }
    }

    /// A packet as the engine makes it: header and body, without trailer.
    pub(in crate::ring_driver) fn plain(from: Mid, packet_type: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x53, 0x52, 1, packet_type, 1, 2, 3, 4];
        packet.extend(from.session.to_le_bytes());
        packet.extend([0; 8]);
        packet.extend(from.node.0.to_le_bytes());
        packet.extend([0, 0]);
        packet.extend(body);
        packet
    }

    pub(in crate::ring_driver) fn sealed(sealer: &mut dyn Sealer, plain: &[u8]) -> Vec<u8> {
        let mut packet = plain.to_vec();
        packet.resize(plain.len() + sealer.trailer_len(), 0);
        assert!(sealer.seal(&mut packet));
        packet
    }

    fn all() -> Vec<(Box<dyn Sealer>, Box<dyn Sealer>)> {
        let me = mid(3, 77);
        let aead = |text: &str, protection| -> (Box<dyn Sealer>, Box<dyn Sealer>) {
            (
                Box::new(Aead::new(b"c", me, keys(text), protection)),
                Box::new(Aead::new(b"c", mid(0, 1), keys(text), protection)),
            )
        };
        vec![
            (Box::new(Checksum::default()), Box::new(Checksum::default())),
            aead("1 HEX active", Protection::Sealed),
            aead("1 HEX active chacha20-poly1305", Protection::Sealed),
            aead("1 HEX active", Protection::AuthenticatedOnly),
        ]
    }

    #[test]
    fn opens_what_was_sealed_and_refuses_every_change() {
        for (mut alice, mut bob) in all() {
            let me = mid(3, 77);
            for body in [&b""[..], b"x", &[9; 1428]] {
                let plain = plain(me, 1, body);
                let packet = sealed(&mut *alice, &plain);
                let mut opened = packet.clone();
                let len = bob.open(me, &mut opened).unwrap();
                assert_eq!(&opened[HEADER_LEN..len], body);
                assert_eq!(opened[..16], plain[..16]);
                for at in 0..packet.len().min(80) {
                    let mut changed = packet.clone();
                    changed[at] ^= 0x10;
                    assert!(bob.open(me, &mut changed).is_err(), "byte {at} changed");
                }
                for len in 0..packet.len().min(80) {
                    assert!(bob.open(me, &mut packet[..len].to_vec()).is_err(), "cut to {len}");
                }
            }
        }
    }

    #[test]
    fn counters_grow_and_ciphertexts_differ() {
        let me = mid(3, 77);
        let mut alice = Aead::new(b"c", me, keys("1 HEX active"), Protection::Sealed);
        let plain = plain(me, 1, &[7; 64]);
        let (first, second) = (sealed(&mut alice, &plain), sealed(&mut alice, &plain));
        assert_eq!(Header::of(&first).unwrap().counter(), 1);
        assert_eq!(Header::of(&second).unwrap().counter(), 2);
        assert_ne!(first[HEADER_LEN..], second[HEADER_LEN..]);
        assert!(!first.windows(8).any(|w| w == [7; 8]));
    }

    #[test]
    fn the_engines_flags_stay() {
        let me = mid(3, 77);
        for (mut alice, mut bob) in all() {
            let mut plain = plain(me, 1, b"body");
            plain[27] = 0b100;
            let mut packet = sealed(&mut *alice, &plain);
            let len = bob.open(me, &mut packet).unwrap();
            assert_eq!(packet[27] & !3, 0b100);
            assert_eq!(&packet[HEADER_LEN..len], b"body");
        }
    }

    #[test]
    fn another_key_cluster_session_or_node_does_not_open() {
        let me = mid(3, 77);
        let mut alice = Aead::new(b"c", me, keys("1 HEX active"), Protection::Sealed);
        let packet = sealed(&mut alice, &plain(me, 1, b"body"));
        let open = |cluster: &[u8], text: &str, from| {
            Aead::new(cluster, mid(0, 1), keys(text), Protection::Sealed).open(from, &mut packet.clone())
        };
        assert_eq!(open(b"c", "1 HEX active", me), Ok(HEADER_LEN + 4));
        assert_eq!(open(b"c", "1 HEX2 active", me), Err(DropReason::Tag));
        assert_eq!(open(b"c", "2 HEX active", me), Err(DropReason::Key));
        assert_eq!(open(b"d", "1 HEX active", me), Err(DropReason::Tag));
        assert_eq!(open(b"c", "1 HEX active", mid(3, 78)), Err(DropReason::Tag));
        assert_eq!(open(b"c", "1 HEX active", mid(4, 77)), Err(DropReason::Tag));
    }

    #[test]
    fn no_mixture_of_with_and_without_key() {
        let me = mid(3, 77);
        let mut aead = Aead::new(b"c", me, keys("1 HEX active"), Protection::Sealed);
        let mut checksum = Checksum::default();
        let mut packet = sealed(&mut aead, &plain(me, 1, b"body"));
        assert_eq!(checksum.open(me, &mut packet), Err(DropReason::Key));
        let mut packet = sealed(&mut checksum, &plain(me, 1, &[0; 40]));
        assert_eq!(aead.open(me, &mut packet), Err(DropReason::Key));
    }

    #[test]
    fn a_key_is_changed_without_a_gap() {
        let (a, b) = (mid(0, 10), mid(1, 11));
        let step = |text| (keys(text), keys(text));
        let mut alice = Aead::new(b"c", a, keys("1 HEX active"), Protection::Sealed);
        let mut bob = Aead::new(b"c", b, keys("1 HEX active"), Protection::Sealed);
        let check = |alice: &mut Aead, bob: &mut Aead| {
            let mut packet = sealed(alice, &plain(a, 1, b"from a"));
            bob.open(a, &mut packet).unwrap();
            let mut packet = sealed(bob, &plain(b, 1, b"from b"));
            alice.open(b, &mut packet).unwrap();
        };
        check(&mut alice, &mut bob);
        for text in ["1 HEX active\n2 HEX2", "1 HEX\n2 HEX2 active", "2 HEX2 active"] {
            let (for_alice, for_bob) = step(text);
            assert!(alice.reload(for_alice));
            check(&mut alice, &mut bob);
            assert!(bob.reload(for_bob));
            check(&mut alice, &mut bob);
        }
        // The old key is gone.
        let mut late = Aead::new(b"c", a, keys("1 HEX active"), Protection::Sealed);
        let mut packet = sealed(&mut late, &plain(a, 1, b"late"));
        assert_eq!(bob.open(a, &mut packet), Err(DropReason::Key));
    }

    #[test]
    fn many_sessions_of_a_node_stay_bounded() {
        let mut bob = Aead::new(b"c", mid(1, 1), keys("1 HEX active"), Protection::Sealed);
        for session in 1..1000 {
            let from = mid(0, session);
            let mut alice = Aead::new(b"c", from, keys("1 HEX active"), Protection::Sealed);
            bob.open(from, &mut sealed(&mut alice, &plain(from, 8, b"p"))).unwrap();
        }
        assert_eq!(bob.openers[0].len(), OPENERS_MAX);
        assert!(bob.open(mid(u16::MAX, 1), &mut [0; 100]).is_err());
    }
}
