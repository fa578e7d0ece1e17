//! JSON bodies: what stands under a field, wherever its path begins.
//!
//! Invariant: a text that is taken for JSON is read to its end or refused. Parsers differ in what they take
//! beyond the standard (`NaN`, comments, half a surrogate pair, UTF-16, no bound on depth), and behind what
//! we cannot read the account would stand uncounted.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::kind::Kind;
use super::{MAX_VALUES, Unreadable, malformed};
use crate::policy::keys::account;

const NOT_PLAIN: Unreadable =
    malformed("the body is to be looked into, and it is no JSON that all programs read alike");

/// The body without what may stand before a document, if anybody might take it for JSON: by its type, by how
/// it begins, or because it is in UTF-16 or UTF-32, which some detect.
pub(super) fn of<'a>(kind: &Kind, body: &'a [u8]) -> Option<&'a [u8]> {
    let text = body.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    let first = text.first()?;
    (kind.is_json() || matches!(first, b'{' | b'[' | b'/' | 0 | 0xfe | 0xff)).then_some(text)
}

/// Adds every value under a path.
///
/// # Errors
/// Not JSON, or not to its end.
pub(super) fn values(
    text: &[u8],
    path: &[String],
    found: &mut Vec<String>,
) -> Result<(), Unreadable> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let walk = Walk { path, at: &[], inside: false, found };
    let walked = walk.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    walked.map_err(|_not_json| NOT_PLAIN)
}

/// Walks a document.
struct Walk<'a> {
    path: &'a [String],
    /// The innermost keys on the way here, as many as the path has at most.
    at: &'a [String],
    /// Below the field: `{"email": {"$eq": "…"}}` is a value of it, too.
    inside: bool,
    found: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn keep(self, value: impl ToString) {
        if self.inside && self.found.len() <= MAX_VALUES {
            self.found.push(value.to_string());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        // `5.0` and `50e-1` are `5` to most.
        if value.fract() == 0.0 && value.abs() < 9e15 {
            self.keep(value as i64);
        } else {
            self.keep(value);
        }
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { path, at, inside, found } = self;
        while items.next_element_seed(Walk { path, at, inside, found: &mut *found })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { path, at, inside, found } = self;
        while let Some(key) = map.next_key::<String>()? {
            // As many of the outer ones as are still of use.
            let from = (at.len() + 1).saturating_sub(path.len()).min(at.len());
            let outer = at.get(from..).ok_or_else(|| A::Error::custom("no way here"))?;
            let inner = [outer, &[account(&key)]].concat();
            let inside = inside || inner.ends_with(path);
            map.next_value_seed(Walk { path, at: &inner, inside, found: &mut *found })?;
        }
        Ok(())
    }
}
