//! Finds one request in the access logs, rotated and compressed ones too.
//!
//! The id of a request says when it began: files that were last written before are opened last. Invariant: a
//! file that disappears or ends in the middle (it is being compressed or pruned) is as good as empty.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use seaworthy_base::RequestId;

/// A log's time and the request's come from one clock, but a file is written some moments later.
const SLACK: Duration = Duration::from_secs(60);

/// The line of a request, as JSON.
pub(super) fn find(logs: &Path, id: RequestId) -> Option<serde_json::Value> {
    let begun = SystemTime::UNIX_EPOCH + Duration::from_millis(id.millis());
    let needle = id.to_string();
    let found = candidates(logs, begun).iter().find_map(|path| line_in(path, &needle));
    serde_json::from_slice(&found?).ok()
}

/// Files that were written to after the request began, the oldest of them first: it is the likeliest. Then
/// the others, the newest first: the clock may have been set back since.
fn candidates(logs: &Path, begun: SystemTime) -> Vec<PathBuf> {
    let entries = fs::read_dir(logs).into_iter().flatten().flatten();
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| entry.path().extension().is_none_or(|end| end != "tmp"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    let (before, after): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(written, _)| *written + SLACK < begun);
    after.into_iter().chain(before.into_iter().rev()).map(|(_, path)| path).collect()
}

fn line_in(path: &Path, needle: &str) -> Option<Vec<u8>> {
    let mut lines = open(path).ok()?;
    let mut line = Vec::new();
    loop {
        line.clear();
        // The end of a file that was cut off is an error of the decoder, and the end all the same.
        if lines.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        if memchr::memmem::find(&line, needle.as_bytes()).is_some() {
            return Some(line);
        }
    }
}

fn open(path: &Path) -> io::Result<BufReader<Box<dyn Read>>> {
    let file = File::open(path)?;
    let packed = path.extension().is_some_and(|end| end == "gz");
    let bytes: Box<dyn Read> =
        if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(BufReader::with_capacity(256 << 10, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: RequestId, path: &str) -> String {
        format!("{{\"id\":\"{id}\",\"path\":\"{path}\"}}\n")
    }

    #[test]
    fn a_request_is_found_in_the_current_a_rotated_and_a_compressed_file() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let id = |age: u64, sequence| RequestId::new(now as u64 - age, 1, 0, sequence, 7);
        let (new, rotated, packed) = (id(0, 1), id(1000, 2), id(2000, 3));
        let file = |name: &str| dir.path().join(name);
        fs::write(file("access.log"), line(new, "/new")).unwrap();
        fs::write(file("access.log.20261121-2"), line(rotated, "/rotated")).unwrap();
        fs::write(file("access.log.20261121-1"), line(packed, "/packed")).unwrap();
        seaworthy_sys::logfile::compress(&file("access.log.20261121-1")).unwrap();
        fs::write(file("access.log.20261121-3.gz"), b"not gzip at all").unwrap();
        for (id, path) in [(new, "/new"), (rotated, "/rotated"), (packed, "/packed")] {
            assert_eq!(find(dir.path(), id).unwrap()["path"], path);
        }
        assert!(find(dir.path(), id(3000, 4)).is_none());
    }

    #[test]
    fn files_that_ended_before_the_request_began_come_last() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let aged = |name: &str, seconds: u64| {
            let path = dir.path().join(name);
            fs::write(&path, "x").unwrap();
            let then = now - Duration::from_secs(seconds);
            File::open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        let (oldest, old, new) = (aged("c", 9000), aged("b", 7200), aged("a", 0));
        assert_eq!(candidates(dir.path(), now), [&new, &old, &oldest].map(Clone::clone));
        let begun = now - Duration::from_secs(7200);
        assert_eq!(candidates(dir.path(), begun), [&old, &new, &oldest].map(Clone::clone));
    }
}
