//! The tables of HPACK: the static one (RFC 7541 appendix A), and the one that grows as fields come.

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use super::{Broken, TABLE};
use crate::head::is_of_connection;

/// What an entry takes up besides its text (§ 4.1).
const OVERHEAD: usize = 32;

/// Fields that are no headers (RFC 9113 § 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::h2) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    /// Of responses, or of none that we know.
    Other,
}

/// Headers that the reader of a head has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::h2) enum Kind {
    Plain,
    Host,
    Cookie,
    ContentLength,
    Te,
    /// About one connection: forbidden (RFC 9113 § 8.2.2).
    Connection,
}

impl Kind {
    /// Of a header's name.
    pub(in crate::h2) fn of(name: &HeaderName) -> Self {
        match name.as_str() {
            "host" => Self::Host,
            "cookie" => Self::Cookie,
            "content-length" => Self::ContentLength,
            "te" => Self::Te,
            other if is_of_connection(other) => Self::Connection,
            _ => Self::Plain,
        }
    }
}

/// A field's name, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::h2) enum Name {
    Pseudo(Pseudo),
    Header(HeaderName, Kind),
    /// HTTP has no such name.
    Wrong,
}

impl Name {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            b":method" => Self::Pseudo(Pseudo::Method),
            b":scheme" => Self::Pseudo(Pseudo::Scheme),
            b":authority" => Self::Pseudo(Pseudo::Authority),
            b":path" => Self::Pseudo(Pseudo::Path),
            [b':', ..] => Self::Pseudo(Pseudo::Other),
            // Refuses upper case, too.
            _ => HeaderName::from_lowercase(bytes).map_or(Self::Wrong, |name| {
                let kind = Kind::of(&name);
                Self::Header(name, kind)
            }),
        }
    }
}

/// A field's value, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::h2) enum Value {
    /// Of what is no header.
    Raw(Bytes),
    Header(HeaderValue),
    /// HTTP allows no such value.
    Wrong,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::h2) struct Entry {
    pub(in crate::h2) name: Name,
    pub(in crate::h2) value: Value,
    name_length: usize,
    length: usize,
}

impl Entry {
    /// A field whose name was not named before.
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self::build(Name::of(name), name.len(), value)
    }

    /// Another field of the same name.
    pub(super) fn with_value(&self, value: &[u8]) -> Self {
        Self::build(self.name.clone(), self.name_length, value)
    }

    fn build(name: Name, name_length: usize, bytes: &[u8]) -> Self {
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        let value = match &name {
            _ if blank(bytes.first()) || blank(bytes.last()) => Value::Wrong,
            Name::Pseudo(_) => Value::Raw(Bytes::copy_from_slice(bytes)),
            Name::Header(..) if bytes.is_empty() => Value::Header(HeaderValue::from_static("")),
            Name::Header(..) => HeaderValue::from_bytes(bytes).map_or(Value::Wrong, Value::Header),
            Name::Wrong => Value::Wrong,
        };
        Self { name, value, name_length, length: bytes.len() }
    }

    /// Its place must not be found out: no table is to remember it (§ 7.1.3).
    pub(super) fn set_sensitive(&mut self) {
        if let Value::Header(value) = &mut self.value {
            value.set_sensitive(true);
        }
    }

    /// As RFC 7541 § 4.1 counts.
    pub(in crate::h2) fn size(&self) -> usize {
        self.name_length + self.length + OVERHEAD
    }
}

/// What the other side named, the newest first.
#[derive(Debug)]
pub(super) struct Dynamic {
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

impl Dynamic {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: TABLE }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.most.saturating_sub(size));
        // What is larger than the table empties it (§ 4.4).
        if size <= self.most {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    pub(super) fn resize(&mut self, most: usize) -> Result<(), Broken> {
        if most > TABLE {
            return Err(Broken("a table is larger than was allowed"));
        }
        self.most = most;
        self.shrink(most);
        Ok(())
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size();
        }
    }

    /// The field of an index, whichever table it is in.
    pub(super) fn get(&self, index: usize) -> Result<&Entry, Broken> {
        const NONE: Broken = Broken("no field has that index");
        let index = index.checked_sub(1).ok_or(NONE)?;
        let fixed =
            STATIC.get_or_init(|| FIXED.iter().map(|(name, value)| fixed(name, value)).collect());
        fixed.get(index).or_else(|| self.entries.get(index - FIXED.len())).ok_or(NONE)
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

/// Judged once.
static STATIC: OnceLock<Vec<Entry>> = OnceLock::new();

/// A field of the static table: its bytes are shared without counting.
fn fixed(name: &'static str, value: &'static str) -> Entry {
    let name_length = name.len();
    let name = Name::of(name.as_bytes());
    let of = match name {
        Name::Header(..) => Value::Header(HeaderValue::from_static(value)),
        Name::Pseudo(_) | Name::Wrong => Value::Raw(Bytes::from_static(value.as_bytes())),
    };
    Entry { name, value: of, name_length, length: value.len() }
}

/// RFC 7541 appendix A; the first has index 1.
pub(super) const FIXED: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
