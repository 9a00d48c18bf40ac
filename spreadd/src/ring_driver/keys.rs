//! The key file.
//!
//! ```text
//! # id  32 bytes in hex                                                   words
//! 1     000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
//! 2     202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f  active
//! ```
//!
//! A daemon opens packets under any key of its file and seals with the active one. To change the key:
//! add the new line on all daemons and reload, move `active` on all and reload, remove the old line on
//! all and reload. spec: ring-protocol 2.6

use std::fs;
use std::io;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Longest key file in bytes.
const FILE_LEN_MAX: u64 = 64 << 10;

/// Cipher of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM; the default.
    #[default]
    Aes256Gcm,
    /// ChaCha20-Poly1305, for machines without AES instructions.
    ChaCha20Poly1305,
}

/// A shared key.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: u8,
    pub(super) cipher: Cipher,
    pub(super) secret: Zeroizing<[u8; 32]>,
}

/// The keys of a cluster, one of them active. Wiped from memory when dropped.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<Key>,
    active: usize,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("ids", &self.ids()).field("active", &self.active_id()).finish()
    }
}

/// Why a key file was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file could not be read.
    #[error("cannot read the key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anybody on this host could read the keys.
    #[error("the key file {} is open to all users; take the rights of others away (chmod o-rwx)", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
    },
    /// A line is not as it should be.
    #[error("key file, line {line}: {problem}")]
    Line {
        /// From 1.
        line: usize,
        /// What was expected.
        problem: &'static str,
    },
    /// Not exactly one key is active.
    #[error("{0} keys are marked active; mark exactly one")]
    Active(usize),
}

impl KeyRing {
    /// Reads a key file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`]: the file cannot be read, is open to all users of the host, or has a faulty line.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let read = |source| KeyFileError::Read { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.permissions().mode() & 0o007 != 0 {
            return Err(KeyFileError::Permissions { path: path.to_owned() });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(read)?;
        Self::parse(&text)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Line`] and [`KeyFileError::Active`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut keys: Vec<Key> = Vec::new();
        let mut active = None;
        let mut active_count = 0;
        for (line, content) in (1..).zip(text.lines()) {
            let fail = |problem| KeyFileError::Line { line, problem };
            let content = content.split('#').next().unwrap_or_default();
            let mut words = content.split_whitespace();
            let Some(id) = words.next() else { continue };
            let id = id.parse().ok().filter(|id| *id != 0).ok_or_else(|| fail("the id is not 1 to 255"))?;
            if keys.iter().any(|key| key.id == id) {
                return Err(fail("this id was used before"));
            }
            let secret = words
                .next()
                .and_then(parse_hex)
                .ok_or_else(|| fail("the key is not 64 hexadecimal digits"))?;
            let mut cipher = Cipher::default();
            for word in words {
                match word {
                    "active" => {
                        active = Some(keys.len());
                        active_count += 1;
                    }
                    "aes-256-gcm" => cipher = Cipher::Aes256Gcm,
                    "chacha20-poly1305" => cipher = Cipher::ChaCha20Poly1305,
                    _ => return Err(fail("known words are active, aes-256-gcm and chacha20-poly1305")),
                }
            }
            keys.push(Key { id, cipher, secret });
        }
        match active {
            Some(active) if active_count == 1 => Ok(Self { keys, active }),
            _ => Err(KeyFileError::Active(active_count)),
        }
    }

    /// The ids, in the order of the file.
    pub fn ids(&self) -> Vec<u8> {
        self.keys.iter().map(|key| key.id).collect()
    }

    /// The id of the key that packets are sealed with.
    pub fn active_id(&self) -> u8 {
        self.active().id
    }

    pub(super) fn active(&self) -> &Key {
        &self.keys[self.active]
    }

    pub(super) fn get(&self, id: u8) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
}

fn parse_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = Zeroizing::new([0; 32]);
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn reads_comments_words_and_both_ciphers() {
        let text =
            format!("# keys\n\n 1 {HEX} # old\n255\t{} active chacha20-poly1305\n", HEX.to_uppercase());
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!(ring.ids(), [1, 255]);
        assert_eq!(ring.active_id(), 255);
        assert_eq!(ring.active().cipher, Cipher::ChaCha20Poly1305);
        assert_eq!(ring.get(1).unwrap().secret[31], 31);
        assert!(ring.get(2).is_none());
    }

    #[test]
    fn faulty_lines_are_named() {
        for (text, expected) in [
            (format!("0 {HEX} active"), "key file, line 1: the id is not 1 to 255"),
            (format!("256 {HEX} active"), "key file, line 1: the id is not 1 to 255"),
            (format!("1 {HEX}\n1 {HEX} active"), "key file, line 2: this id was used before"),
            (format!("1 {}", &HEX[1..]), "key file, line 1: the key is not 64 hexadecimal digits"),
            (format!("1 +{}", &HEX[1..]), "key file, line 1: the key is not 64 hexadecimal digits"),
            ("\n\n1".to_owned(), "key file, line 3: the key is not 64 hexadecimal digits"),
            (
                format!("1 {HEX} activ"),
                "key file, line 1: known words are active, aes-256-gcm and chacha20-poly1305",
            ),
            (format!("1 {HEX}"), "0 keys are marked active; mark exactly one"),
            (format!("1 {HEX} active\n2 {HEX} active"), "2 keys are marked active; mark exactly one"),
            (String::new(), "0 keys are marked active; mark exactly one"),
        ] {
            assert_eq!(KeyRing::parse(&text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let ring = KeyRing::parse(&format!("7 {HEX} active")).unwrap();
        assert_eq!(format!("{ring:?}"), "KeyRing { ids: [7], active: 7 }");
    }

    #[test]
    fn a_file_open_to_all_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, format!("7 {HEX} active")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyRing::load(&path), Err(KeyFileError::Permissions { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(KeyRing::load(&path).unwrap().active_id(), 7);
    }
}
