//! Lines in an instance's log that tell of an error, by the words that applications use for them.
//!
//! Invariant: a log that is long is not read whole: what lies more than eight mebibytes back counts for
//! nothing. Not here: what follows from the number.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use memchr::memmem;

/// So much of a log is read, from its end.
const MOST: u64 = 8 << 20;

/// What error lines hold: levels as loggers print them, and how run-times announce an unhandled error.
const WORDS: [&[u8]; 9] = [
    b"ERROR",
    b"FATAL",
    b"CRITICAL",
    b"Traceback (most recent call last)",
    b"UnhandledPromiseRejection",
    b"panicked at",
    b"\"level\":\"error\"",
    b"\"level\":\"fatal\"",
    b"\"level\":50",
];

/// Whether a log holds all that was ever written to it: it is short, and none of it was rotated away.
pub(super) fn is_whole(log: &Path) -> bool {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return false };
    let rotated = |entry: std::fs::DirEntry| {
        let other = entry.file_name();
        other != name && other.as_encoded_bytes().starts_with(name.as_encoded_bytes())
    };
    let short = std::fs::metadata(log).is_ok_and(|meta| meta.len() <= MOST);
    short && !std::fs::read_dir(dir).into_iter().flatten().flatten().any(rotated)
}

/// How many lines tell of an error.
pub(super) fn count(log: &Path) -> u64 {
    let Ok(mut file) = File::open(log) else { return 0 };
    let length = file.metadata().map_or(0, |meta| meta.len());
    if file.seek(SeekFrom::Start(length.saturating_sub(MOST))).is_err() {
        return 0;
    }
    let lines = BufReader::with_capacity(64 << 10, file).split(b'\n').map_while(Result::ok);
    lines.filter(|line| WORDS.iter().any(|word| memmem::find(line, word).is_some())).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_unhandled_errors_count_and_words_in_passing_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let text = "t out {\"level\":50,\"msg\":\"x\"}\nt err ERROR no database\nt out 0 errors, all is well\nt err Traceback (most recent call last):\n";
        std::fs::write(&log, text).unwrap();
        assert_eq!(count(&log), 3);
        assert_eq!(count(&dir.path().join("none")), 0);
    }
}
