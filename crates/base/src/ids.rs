//! Identities that outlive a process: instances, releases, requests.
//!
//! Invariant: each prints to one line without spaces and parses back to itself; they stand in
//! logs, folders and the control protocol, so their form is settled (see `docs/decisions`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::names::{ServiceName, SiteName};

/// Why a text is no identity.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{given}` is no {kind}: it looks like `{example}`")]
pub struct IdError {
    /// The text as given, cut to 80 characters.
    pub given: String,
    /// Which identity was expected.
    pub kind: &'static str,
    /// How one looks.
    pub example: &'static str,
}

fn refuse(given: &str, kind: &'static str, example: &'static str) -> IdError {
    IdError { given: given.chars().take(80).collect(), kind, example }
}

/// One running copy of a service: `site/service/slot@generation`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    /// The site it belongs to.
    pub site: SiteName,
    /// The service it is a copy of.
    pub service: ServiceName,
    /// Which of the copies, from 0.
    pub slot: u16,
    /// Grows each time that the slot gets a new specification; never reused.
    pub generation: u32,
}

impl InstanceId {
    /// The name as one path component: `service.slot.generation`.
    pub fn file_name(&self) -> String {
        format!("{}.{}.{}", self.service, self.slot, self.generation)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}/{}@{}", self.site, self.service, self.slot, self.generation))
    }
}

impl FromStr for InstanceId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let mut parts = text.split('/');
            let (site, service) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let (slot, generation) = parts.next()?.split_once('@')?;
            let (slot, generation) = (slot.parse().ok()?, generation.parse().ok()?);
            parts.next().is_none().then_some(Self { site, service, slot, generation })
        };
        parse().ok_or_else(|| refuse(text, "instance", "shop/web/0@3"))
    }
}

impl TryFrom<String> for InstanceId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.to_string()
    }
}

/// A release of a site: `r42-1a2b3c4d`, a running number and the first 32 bits of its content's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId {
    /// Counts up within the site.
    pub number: u32,
    /// The first four bytes of the SHA-256 over source and build commands.
    pub digest: u32,
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("r{}-{:08x}", self.number, self.digest))
    }
}

impl FromStr for ReleaseId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (number, digest) = text.strip_prefix('r')?.split_once('-')?;
            let digest = (digest.len() == 8).then(|| u32::from_str_radix(digest, 16).ok())??;
            Some(Self { number: number.parse().ok()?, digest })
        };
        parse().ok_or_else(|| refuse(text, "release", "r42-1a2b3c4d"))
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        id.to_string()
    }
}

/// Crockford's base 32, as ULIDs use it.
const BASE32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// One request through the edge: a ULID (48 bits of milliseconds, then 80 bits) whose low part names
/// the edge process and the thread that served it, so that its log line is found without an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// Puts one together. `edge` and `thread` say who served it, `sequence` counts within the thread,
    /// `salt` makes ids of different machines differ.
    pub fn new(millis: u64, edge: u8, thread: u8, sequence: u32, salt: u32) -> Self {
        Self(
            (u128::from(millis & 0xffff_ffff_ffff) << 80)
                | (u128::from(edge) << 72)
                | (u128::from(thread) << 64)
                | (u128::from(sequence) << 32)
                | u128::from(salt),
        )
    }

    /// All of it as a number.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// When the request began, in milliseconds since 1970.
    pub fn millis(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// The number of the edge process that served it, modulo 256.
    pub fn edge(self) -> u8 {
        (self.0 >> 72) as u8
    }

    /// The thread of the edge that served it.
    pub fn thread(self) -> u8 {
        (self.0 >> 64) as u8
    }

    /// The 26 characters, without allocating.
    pub fn encode(self) -> [u8; 26] {
        let mut out = [0u8; 26];
        for (place, byte) in out.iter_mut().enumerate() {
            let shift = 5 * (25 - place);
            *byte = BASE32[((self.0 >> shift) & 31) as usize];
        }
        out
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.encode();
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for RequestId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || refuse(text, "request id", "01KAJ5Y6Q0000G000000NB5WZQ");
        if text.len() != 26 || !text.starts_with(['0', '1', '2', '3', '4', '5', '6', '7']) {
            return Err(bad());
        }
        let mut value = 0u128;
        for byte in text.bytes() {
            let digit =
                BASE32.iter().position(|b| *b == byte.to_ascii_uppercase()).ok_or_else(bad)?;
            value = (value << 5) | digit as u128;
        }
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_read_back_as_they_were_printed(a in any::<u64>(), b in any::<u32>(), c in any::<u32>(), slot in any::<u16>()) {
            let request = RequestId::new(a, 3, 1, b, c);
            prop_assert_eq!(request.to_string().parse(), Ok(request));
            prop_assert_eq!((request.millis(), request.edge(), request.thread()), (a & 0xffff_ffff_ffff, 3, 1));
            let release = ReleaseId { number: b, digest: c };
            prop_assert_eq!(release.to_string().parse(), Ok(release));
            let id = InstanceId { site: "s".parse().unwrap(), service: "web".parse().unwrap(), slot, generation: b };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in ["", "a/b", "a/b/0", "a/b/0@x", "a/b/0@1/2", "A/b/0@1"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
        for bad in ["", "r1", "r1-123", "1-12345678", "r1-1234567g"] {
            assert!(bad.parse::<ReleaseId>().is_err(), "{bad}");
        }
        assert!("zz".parse::<RequestId>().is_err());
    }
}
