//! The index: one JSON object a line for every entry, in the order of paths.
//!
//! Paths are bytes to Linux; those that are no text are written with their odd bytes as private characters, so
//! that any name survives, a line end too. Invariant: the order is that of [`Path`]'s components, which is
//! the order in which a sorted walk meets them.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::open::Plain;
use crate::seal::Sealing;
use crate::set::SetId;

/// Bytes that are no UTF-8 become these characters plus the byte (a private use area).
const ODD: u32 = 0xf_0000;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// Socket, pipe, device: not backed up.
    Other,
}

/// One entry. Short names: there may be millions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Path, see [`encode`].
    #[serde(rename = "p")]
    pub name: String,
    #[serde(rename = "k")]
    pub kind: Kind,
    #[serde(rename = "m")]
    pub mode: u32,
    /// User and group.
    #[serde(rename = "o")]
    pub owner: (u32, u32),
    /// Modified and changed in nanoseconds, inode.
    #[serde(rename = "t")]
    pub times: (i64, i64, u64),
    #[serde(rename = "s", default)]
    pub size: u64,
    /// Of a file's content; none when it changed while it was read.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The set whose tar holds the content; this one when absent.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SetId>,
    /// Target of a link.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl Entry {
    /// Its path.
    pub(crate) fn path(&self) -> PathBuf {
        decode(&self.name)
    }
}

/// A path as text that holds every byte.
pub(crate) fn encode(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        // A character that is one of ours already is taken apart as well.
        for c in chunk.valid().chars() {
            if (ODD..ODD + 256).contains(&u32::from(c)) {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes)
                    .bytes()
                    .for_each(|byte| text.extend(char::from_u32(ODD + u32::from(byte))));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend(char::from_u32(ODD + u32::from(*byte))));
    }
    text
}

/// The counterpart of [`encode`].
pub(crate) fn decode(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c).checked_sub(ODD) {
            Some(byte) if byte < 256 => bytes.push(byte as u8),
            _ => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    OsString::from_vec(bytes).into()
}

/// Writes an index.
pub(super) struct Writer {
    into: Sealing,
    line: Vec<u8>,
}

impl Writer {
    pub(super) fn new(into: Sealing) -> Self {
        Self { into, line: Vec::new() }
    }

    pub(super) fn write(&mut self, entry: &Entry) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, entry)?;
        self.line.push(b'\n');
        self.into.write_all(&self.line)
    }

    #[expect(clippy::unnecessary_wraps, reason = "beside the tar's, which can fail")]
    pub(super) fn into_inner(self) -> io::Result<Sealing> {
        Ok(self.into)
    }
}

/// Reads an index.
pub(super) struct Reader {
    lines: BufReader<Plain>,
    next: Option<Entry>,
}

impl Reader {
    pub(super) fn new(plain: Plain) -> Self {
        Self { lines: BufReader::with_capacity(64 << 10, plain), next: None }
    }

    /// The next entry, without taking it.
    pub(super) fn peek(&mut self) -> io::Result<Option<&Entry>> {
        if self.next.is_none() {
            self.next = self.read()?;
        }
        Ok(self.next.as_ref())
    }

    /// Takes the entry that was looked at.
    pub(super) fn skip(&mut self) {
        self.next = None;
    }

    fn read(&mut self) -> io::Result<Option<Entry>> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }
}

impl Iterator for Reader {
    type Item = io::Result<Entry>;
    fn next(&mut self) -> Option<io::Result<Entry>> {
        self.next.take().map(Ok).or_else(|| self.read().transpose())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_name_survives(bytes in prop::collection::vec(1u8.., 1..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            let back = decode(&encode(&path));
            prop_assert_eq!(back.as_os_str(), path.as_os_str());
        }

        #[test]
        fn characters_that_stand_for_bytes_survive_as_characters(text in "[\u{f0000}-\u{f00ff}a]{1,10}") {
            let back = decode(&encode(Path::new(&text)));
            prop_assert_eq!(back.to_str(), Some(text.as_str()));
        }
    }
}
