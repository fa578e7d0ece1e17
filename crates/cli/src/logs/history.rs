//! Lines of logs from before: out of the current file and those that were rotated away, packed or not.
//!
//! Invariants: of all lines only those that are shown are held in memory, and without a limit to their number
//! none; lines of one log keep their order, whatever the clock did; a file that goes away or ends in the
//! middle (it is being packed or pruned) is as good as over.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use seaworthy_sys::logfile;

/// Lines are as old as they say; the file around them may be written some moments later.
const SLACK: Duration = Duration::from_secs(60);

/// What of a log is wanted.
#[derive(Debug)]
pub(crate) struct Span {
    /// Nothing that is older, roughly: files that end before are not opened.
    pub(crate) since: Option<SystemTime>,
    /// The newest lines only.
    pub(crate) tail: Option<usize>,
}

/// Whole lines of the log at `path`, oldest first, as `take` shows them; those that it does not take do not
/// count. `until`: so many bytes of the current file; who follows it goes on from there.
pub(crate) fn lines<'a>(
    path: &Path,
    until: u64,
    span: &Span,
    take: impl Fn(&str) -> Option<String> + 'a,
) -> Box<dyn Iterator<Item = String> + 'a> {
    let mut files = logfile::history(path);
    files.retain(|file| span.since.is_none_or(|since| ends_after(file, since)));
    let current = path.to_owned();
    let of_one = move |file: PathBuf| {
        let limit = if file == current { until } else { u64::MAX };
        of_file(&file, limit)
    };
    let Some(tail) = span.tail else {
        return Box::new(files.into_iter().flat_map(of_one).filter_map(move |line| take(&line)));
    };
    let mut newest: VecDeque<String> = VecDeque::new();
    for file in files.iter().rev() {
        let room = tail - newest.len();
        let mut of_this = VecDeque::new();
        for line in of_one(file.clone()).filter_map(|line| take(&line)) {
            of_this.push_back(line);
            if of_this.len() > room {
                of_this.pop_front();
            }
        }
        of_this.append(&mut newest);
        newest = of_this;
        if newest.len() == tail {
            break;
        }
    }
    Box::new(newest.into_iter())
}

fn ends_after(file: &Path, since: SystemTime) -> bool {
    let written = fs::metadata(file).and_then(|meta| meta.modified());
    written.is_ok_and(|written| written + SLACK >= since)
}

fn of_file(path: &Path, limit: u64) -> impl Iterator<Item = String> + use<> {
    let packed = path.extension().is_some_and(|end| end == "gz");
    let opened = File::open(path).ok().map(|file| -> Box<dyn Read> {
        if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file.take(limit)) }
    });
    let mut reader = opened.map(|file| BufReader::with_capacity(64 << 10, file));
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        reader.as_mut()?.read_until(b'\n', &mut line).ok()?;
        // What has no end yet is not a line.
        line.pop().filter(|last| *last == b'\n')?;
        Some(String::from_utf8_lossy(&line).into_owned())
    })
}

/// Merges lines that begin with an RFC 3339 time, each with the name of its source.
pub(crate) fn merge<'a>(
    sources: Vec<(String, Box<dyn Iterator<Item = String> + 'a>)>,
) -> impl Iterator<Item = (String, String)> {
    let mut sources: Vec<_> =
        sources.into_iter().map(|(name, lines)| (name, lines.peekable())).collect();
    std::iter::from_fn(move || {
        let time = |line: &String| line.get(..24).unwrap_or(line).to_owned();
        let heads = sources.iter_mut().enumerate();
        let oldest =
            heads.filter_map(|(place, (_, lines))| Some((time(lines.peek()?), place))).min()?.1;
        let (name, lines) = sources.get_mut(oldest)?;
        Some((lines.next()?, name.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn pack(path: &Path, text: &str) {
        let file = File::create(path).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }

    #[test]
    fn what_was_rotated_away_comes_first_and_a_line_without_an_end_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("web.log");
        pack(&dir.path().join("web.log.20260101-1.gz"), "one\ntwo\n");
        fs::write(dir.path().join("web.log.20260101-2"), "three\n").unwrap();
        fs::write(dir.path().join("web.log.20260101-2.gz.tmp"), "half").unwrap();
        fs::write(&log, "four\nfi").unwrap();
        let shown = |tail: Option<usize>, wanted: &str| {
            let take = |line: &str| line.contains(wanted).then(|| line.to_owned());
            lines(&log, u64::MAX, &Span { since: None, tail }, take).collect::<Vec<_>>()
        };
        assert_eq!(shown(None, ""), ["one", "two", "three", "four"]);
        assert_eq!(shown(Some(3), ""), ["two", "three", "four"]);
        assert_eq!(shown(Some(1), "o"), ["four"]);
        assert_eq!(shown(Some(9), "e"), ["one", "three"]);
        assert!(shown(Some(0), "").is_empty());
        let all = Span { since: None, tail: None };
        assert_eq!(lines(&log, 0, &all, |line| Some(line.to_owned())).count(), 3);
        let future = SystemTime::now() + Duration::from_secs(3600);
        let span = Span { since: Some(future), tail: None };
        assert_eq!(lines(&log, u64::MAX, &span, |line| Some(line.to_owned())).count(), 0);
    }

    #[test]
    fn lines_are_merged_by_time_and_keep_the_order_of_their_own_log() {
        let at = |second: u32, text: &str| format!("2026-01-01T00:00:{second:02}.000Z {text}");
        let source =
            |name: &str, lines: Vec<String>| -> (String, Box<dyn Iterator<Item = String>>) {
                (name.to_owned(), Box::new(lines.into_iter()))
            };
        let merged = merge(vec![
            source("a", vec![at(1, "a1"), at(9, "a2"), at(5, "set back")]),
            source("b", vec![at(2, "b1"), at(9, "b2")]),
        ]);
        let texts: Vec<String> =
            merged.map(|(line, name)| format!("{name} {}", &line[25..])).collect();
        assert_eq!(texts, ["a a1", "b b1", "a a2", "a set back", "b b2"]);
    }
}
