//! The lockouts on disk: one JSON line each, appended, read again by whoever shares the file.
//!
//! So a lockout holds for two edges at a time, and after a restart, a crash or a reboot. Invariants: a line
//! is written by one call at the end of the file, so that two writers do not mix (one that is written while
//! another process writes the file anew holds in its own process only); what cannot be read is
//! left out; the file holds keyed hashes, and the key, for its owner's eyes only. It is not waited for the
//! disk: a power cut may lose the last second's lockouts, a crash of the process loses none.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::policy::clock::unix_seconds;

/// Longer files are written anew when they are opened.
const MAX_LENGTH: u64 = 1 << 20;
/// A file in use is written anew when it has grown so much.
const GROWTH: u64 = 8 << 20;

/// One change. `until` 0: cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) key: u64,
    pub(super) until: u64,
    #[serde(default)]
    pub(super) ident: u64,
    #[serde(default)]
    pub(super) site: String,
    #[serde(default)]
    pub(super) lockout: String,
    #[serde(default)]
    pub(super) what: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    secret: (u64, u64),
}

/// The open file; none where it cannot be used.
#[derive(Debug)]
pub(super) struct Journal {
    file: Option<File>,
    path: PathBuf,
    /// Up to where it was read.
    read: u64,
    /// Longer than this it is written anew.
    most: u64,
    secret: (u64, u64),
}

impl Journal {
    /// Opens or makes the file, and gives the secret of its hashes.
    pub(super) fn open(path: &Path) -> (Self, (u64, u64)) {
        let fresh = (rand::random(), rand::random());
        let path = path.to_owned();
        let mut journal = Self { file: None, path, read: 0, most: GROWTH, secret: fresh };
        journal.reopen();
        let secret = journal.secret;
        (journal, secret)
    }

    /// Opens the file that is there now. Its secret is ours from then on.
    fn reopen(&mut self) {
        let Ok((file, secret, read)) = Self::try_open(&self.path, self.secret) else {
            self.file = None;
            return;
        };
        let length = file.metadata().map_or(0, |meta| meta.len());
        (self.file, self.read, self.most) = (Some(file), read, GROWTH.max(length * 2));
        self.secret = secret;
    }

    fn try_open(path: &Path, fresh: (u64, u64)) -> std::io::Result<(File, (u64, u64), u64)> {
        let head =
            |secret| Ok::<_, std::io::Error>(serde_json::to_string(&Head { secret })? + "\n");
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o600);
        match options.clone().create_new(true).open(path) {
            Ok(mut file) => {
                file.write_all(head(fresh)?.as_bytes())?;
                let read = file.metadata()?.len();
                return Ok((file, fresh, read));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let mut bytes = Vec::new();
        let mut file = options.open(path)?;
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        if !text.ends_with('\n') {
            // The rest of a line that was cut off must not swallow the next one.
            file.write_all(b"\n")?;
        }
        let known = text.lines().next().and_then(|line| serde_json::from_str::<Head>(line).ok());
        if let (Some(known), true) = (&known, (text.len() as u64) < MAX_LENGTH) {
            return Ok((
                file,
                known.secret,
                text.lines().next().map_or(0, |line| line.len() as u64 + 1),
            ));
        }
        // Too long, or not ours: what still holds is kept under the old secret.
        let secret = known.as_ref().map_or(fresh, |known| known.secret);
        let now = unix_seconds();
        let still = |line: &&str| {
            known.is_some()
                && serde_json::from_str::<Line>(line)
                    .is_ok_and(|line| line.until == 0 || line.until > now)
        };
        let kept: String =
            text.lines().skip(1).filter(still).flat_map(|line| [line, "\n"]).collect();
        let beside = path.with_extension("new");
        let mut made =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let head = head(secret)?;
        made.write_all(head.as_bytes())?;
        made.write_all(kept.as_bytes())?;
        made.sync_data()?;
        std::fs::rename(&beside, path)?;
        Ok((options.open(path)?, secret, head.len() as u64))
    }

    /// Appends one line.
    pub(super) fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        if let Ok(text) = serde_json::to_string(line) {
            // A full disk costs what would outlive the process, not the lockout itself.
            file.write_all((text + "\n").as_bytes()).ok();
        }
        if file.metadata().is_ok_and(|meta| meta.len() > self.most) {
            // What still holds is read again from its beginning.
            self.reopen();
        }
    }

    /// Another process may have written the file anew: then ours has no name any more.
    fn follow(&mut self) {
        let Some(file) = &self.file else { return };
        let named = std::fs::metadata(&self.path).map(|meta| meta.ino()).ok();
        let held = file.metadata().map(|meta| meta.ino()).ok();
        if named.is_some() && named != held {
            self.reopen();
        }
    }

    /// The lines that were written since, by whomever.
    pub(super) fn read(&mut self) -> Vec<Line> {
        self.follow();
        let Some(file) = &mut self.file else { return Vec::new() };
        let length = file.metadata().map_or(0, |meta| meta.size());
        if length <= self.read {
            return Vec::new();
        }
        let mut text = String::new();
        let read = file
            .seek(SeekFrom::Start(self.read))
            .and_then(|_| file.take(length - self.read).read_to_string(&mut text));
        if read.is_err() {
            return Vec::new();
        }
        // Half a line is read again when it is whole.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        self.read += whole as u64;
        text[..whole].lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_written_anew_is_followed_by_who_shares_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lockouts");
        let (mut one, secret) = Journal::open(&path);
        let (mut other, same) = Journal::open(&path);
        assert_eq!(secret, same);
        let line = |key, until| Line { key, until, what: "x".repeat(100), ..Line::default() };
        one.most = 2 << 20;
        for key in 0..20_000 {
            one.write(&line(key, 1));
        }
        // The past ones are gone.
        assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20);
        let far = unix_seconds() + 1000;
        one.write(&line(7_777_777, far));
        let seen = other.read();
        assert!(seen.contains(&line(7_777_777, far)), "{} lines", seen.len());
        other.write(&line(8_888_888, far));
        assert!(one.read().contains(&line(8_888_888, far)));
        assert_eq!(Journal::open(&path).1, secret);
    }
}
