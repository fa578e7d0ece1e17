//! A set: what one backup of one item consists of, and the document that lies beside its parts.
//!
//! The document (`set.json`) is published last, so its presence means that the set is whole. Invariants: it
//! is written in one canonical form and sealed with a checksum over itself, so that any changed byte is
//! seen; ids sort by the order in which sets were made, whatever the clock did. Not here: the parts' content.

use std::fmt;
use std::str::FromStr;

use seaworthy_base::{Code, Fault, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::facts::DatabaseFacts;

/// The document's name inside a set.
pub(crate) const DOCUMENT: &str = "set.json";

/// Version of the document.
const VERSION: u32 = 1;

/// The name of a set: `20261121T081500Z-3f9a`, its moment in UTC and four random digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetId(String);

impl SetId {
    /// A new one for that moment.
    pub fn new(at: Timestamp, random: u16) -> Self {
        let (year, month, day, hour, minute, second, _) = at.civil();
        Self(format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{random:04x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SetId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let shape = b"dddddddd.dddddd.-xxxx";
        let fits = text.len() == shape.len()
            && text.bytes().zip(shape).enumerate().all(|(at, (byte, kind))| match kind {
                b'd' => byte.is_ascii_digit(),
                b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                b'-' => byte == b'-',
                _ => byte == if at == 8 { b'T' } else { b'Z' },
            });
        if fits { Ok(Self(text.to_owned())) } else { Err(format!("`{text}` is no id of a backup")) }
    }
}

impl TryFrom<String> for SetId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SetId> for String {
    fn from(id: SetId) -> Self {
        id.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One file of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the set.
    pub file: String,
    /// What it holds: a database's name, `roles`, `files`.
    pub holds: String,
    /// What comes out when it is opened: `pg_dump -Fc`, `sql`, `rdb`, `sqlite`, `tar`.
    pub format: String,
    /// Size of that.
    pub plain_bytes: u64,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Set {
    /// Version of the document.
    pub v: u32,
    /// SHA-256 of the document with this field empty.
    pub seal: String,
    /// Its name.
    pub id: SetId,
    /// The site.
    pub site: String,
    /// The item, such as `database.main`.
    pub item: String,
    /// `postgres`, `mysql`, `sqlite`, `redis`, `files`.
    pub engine: String,
    /// When the content was what is in it.
    pub taken: Timestamp,
    /// How long it took.
    pub took_ms: u64,
    /// Why it was made.
    pub reason: String,
    /// Version of the server, as it says it.
    pub server: String,
    /// Version of the tool.
    pub tool: String,
    /// Who can open it.
    pub recipients: Vec<String>,
    /// The files.
    pub parts: Vec<Part>,
    /// What was in the databases at that moment.
    pub databases: Vec<DatabaseFacts>,
    /// Sets without which this one cannot be restored.
    pub needs: Vec<SetId>,
    /// What the tools said that is not as it should be: such a set is not called good before a drill.
    pub doubts: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Set {
    /// The document's bytes, sealed.
    pub fn document(&self) -> Result<Vec<u8>, Fault> {
        let failed = |error: serde_json::Error| {
            Fault::new(Code::Internal, "could not write a set's document")
                .because(error.to_string())
        };
        let open = Self { v: VERSION, seal: String::new(), ..self.clone() };
        let bytes = serde_json::to_vec_pretty(&open).map_err(failed)?;
        let sealed = Self { seal: hex(&Sha256::digest(&bytes)), ..open };
        serde_json::to_vec_pretty(&sealed).map_err(failed)
    }

    /// Reads a document; one that was changed in any byte is refused.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let damaged = |why: String| {
            Fault::new(Code::BackupDamaged, format!("a `{DOCUMENT}` is damaged")).because(why)
        };
        let set: Self =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if set.v > VERSION {
            return Err(damaged(format!("version {} is later than this build knows", set.v)));
        }
        if set.document()? != bytes {
            return Err(damaged("it does not fit its own checksum".to_owned()));
        }
        Ok(set)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Bytes of all parts when opened.
    pub fn plain_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.plain_bytes).sum()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// The moment that a new set gets: now, or just after the newest one when the clock was set back.
pub(crate) fn next_moment(now: Timestamp, newest: Option<Timestamp>) -> Timestamp {
    match newest {
        // A whole second: ids have no finer grain.
        Some(newest) if now.0 / 1000 <= newest.0 / 1000 => Timestamp((newest.0 / 1000 + 1) * 1000),
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn example() -> Set {
        Set {
            v: 1,
            seal: String::new(),
            id: SetId::new(Timestamp(1_800_000_000_000), 7),
            site: "shop".to_owned(),
            item: "database.main".to_owned(),
            engine: "postgres".to_owned(),
            taken: Timestamp(1_800_000_000_000),
            took_ms: 12,
            reason: "asked".to_owned(),
            server: "15.1".to_owned(),
            tool: "15.1".to_owned(),
            recipients: vec!["age1x".to_owned()],
            parts: Vec::new(),
            databases: Vec::new(),
            needs: Vec::new(),
            doubts: Vec::new(),
            notes: vec!["line\nbreak".to_owned()],
        }
    }

    #[test]
    fn any_changed_byte_of_a_document_is_seen() {
        let bytes = example().document().unwrap();
        assert_eq!(Set::read(&bytes).unwrap().id, example().id);
        for at in 0..bytes.len() {
            for change in [1u8, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                assert!(Set::read(&changed).is_err(), "byte {at} xor {change:#x}");
            }
            assert!(Set::read(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn ids_sort_by_the_order_in_which_sets_were_made_even_when_the_clock_is_set_back() {
        let newest = Timestamp(1_800_000_000_500);
        let next = next_moment(Timestamp(1_700_000_000_000), Some(newest));
        assert!(SetId::new(next, 0) > SetId::new(newest, 0xffff));
        let same_second = next_moment(Timestamp(newest.0 + 100), Some(newest));
        assert!(SetId::new(same_second, 0) > SetId::new(newest, 0xffff));
        assert_eq!(next_moment(Timestamp(newest.0 + 5000), Some(newest)).0, newest.0 + 5000);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        assert!("20261121T081500Z-3f9a".parse::<SetId>().is_ok());
        for bad in
            ["", "20261121T081500Z-3f9A", "../x", "20261121T081500Z-3f9a/", "2026112XT081500Z-3f9a"]
        {
            assert!(bad.parse::<SetId>().is_err(), "{bad}");
        }
    }
}
