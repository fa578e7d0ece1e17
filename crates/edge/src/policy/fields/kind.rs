//! `Content-Type`, read strictly: what it is, its charset, its boundary.
//!
//! Invariant: a header that two programs could read in two ways (there are two of it, a parameter stands
//! there twice, a charset that names other bytes) is refused.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::{Unreadable, other_type};

const TWO: Unreadable = other_type("the body is to be looked into, and it has two types");
const UNCLEAR: Unreadable =
    other_type("the body is to be looked into, and its type can be read in several ways");
const CHARSET: Unreadable =
    other_type("the body is to be looked into, and it is in an unusual charset");

/// In what letters a form is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Charset {
    #[default]
    Utf8,
    Latin1,
}

impl Charset {
    fn named(name: &str) -> Result<Self, Unreadable> {
        match name.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" | "ascii" => Ok(Self::Utf8),
            "iso-8859-1" | "latin1" | "windows-1252" => Ok(Self::Latin1),
            _ => Err(CHARSET),
        }
    }

    /// Some programs obey a charset and others read UTF-8 whatever it says: only where both read the same is it read.
    pub(super) fn text(self, bytes: &[u8]) -> Result<String, Unreadable> {
        if self == Self::Latin1 && !bytes.is_ascii() {
            return Err(CHARSET);
        }
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// What a body says that it is.
#[derive(Debug, Default)]
pub(super) struct Kind {
    /// In lower case, without parameters.
    essence: String,
    pub(super) charset: Charset,
    boundary: Option<String>,
}

impl Kind {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Unreadable> {
        let mut given = headers.get_all(CONTENT_TYPE).iter();
        let Some(first) = given.next() else { return Ok(Self::default()) };
        if given.next().is_some() {
            return Err(TWO);
        }
        Self::read(first.to_str().map_err(|_not_ascii| UNCLEAR)?)
    }

    pub(super) fn read(text: &str) -> Result<Self, Unreadable> {
        let (essence, rest) = text.split_once(';').unwrap_or((text, ""));
        let mut kind = Self { essence: essence.trim().to_ascii_lowercase(), ..Self::default() };
        if kind.essence.contains(|c: char| !c.is_ascii_graphic() || ",\"=".contains(c)) {
            return Err(UNCLEAR);
        }
        let mut charsets = 0;
        for (name, value) in parameters(rest).ok_or(UNCLEAR)? {
            match name.as_str() {
                "charset" => {
                    kind.charset = Charset::named(value)?;
                    charsets += 1;
                }
                "boundary" if kind.boundary.is_none() => kind.boundary = Some(value.to_owned()),
                "boundary" => return Err(UNCLEAR),
                // `boundary*0`, `charset*`: few read them. `xboundary`: some look for the word, wherever it stands.
                other if other.contains('*') || kind.is_multipart() => return Err(UNCLEAR),
                _ => {}
            }
        }
        if charsets > 1 { Err(UNCLEAR) } else { Ok(kind) }
    }

    pub(super) fn is_json(&self) -> bool {
        self.essence.ends_with("/json") || self.essence.ends_with("+json")
    }

    pub(super) fn is_multipart(&self) -> bool {
        self.essence.starts_with("multipart/")
    }

    /// Whether its fields are pairs, or it is what programs take for such a form.
    pub(super) fn may_be_pairs(&self) -> bool {
        matches!(&*self.essence, "" | "text/plain" | "application/x-www-form-urlencoded")
    }

    /// What separates the parts of a form; none where the body is no such form.
    pub(super) fn boundary(&self) -> Result<Option<&str>, Unreadable> {
        if !self.is_multipart() {
            return Ok(None);
        }
        let boundary = self.boundary.as_deref().filter(|one| (1..=70).contains(&one.len()));
        match boundary {
            Some(boundary) if self.essence == "multipart/form-data" => Ok(Some(boundary)),
            _ => Err(UNCLEAR),
        }
    }
}

/// Parameters as all programs read them, names in lower case; nothing where they would not.
pub(super) fn parameters(mut rest: &str) -> Option<Vec<(String, &str)>> {
    let mut all = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some(all);
        }
        let (name, after) = rest.split_once('=')?;
        let is_quoted = after.starts_with('"');
        let value = if let Some(quoted) = after.strip_prefix('"') {
            let (value, after) = quoted.split_once('"')?;
            rest = after.trim_start_matches([' ', '\t']);
            if !(rest.is_empty() || rest.starts_with(';')) || value.contains('\\') {
                return None;
            }
            value
        } else {
            let (value, after) = after.split_once(';').unwrap_or((after, ""));
            rest = after;
            value.trim_end_matches([' ', '\t'])
        };
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic() && !"\";,".contains(c));
        let is_plain = !name.is_empty() && plain(name);
        let is_clear = value.chars().all(|c| !c.is_control());
        // An unquoted value is a token, and what boundaries are made of.
        if !is_plain || !is_clear || (!is_quoted && !plain(value)) {
            return None;
        }
        all.push((name.to_ascii_lowercase(), value));
    }
}
