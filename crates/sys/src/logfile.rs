//! Log files that rotate: by size and by day, a bounded number kept, never a reason to stop.
//!
//! Invariants: the folder never holds more than `max_size` × (`keep` + 1) of this log; a line that cannot
//! be written (disk full, folder gone) is dropped and counted, and the count is written when writing
//! works again; whoever logs is never blocked or ended by it. Compression is done by a short-lived
//! process of the caller's, so that its memory does not stay with a process that lives for months.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Lines of a log pack eight- to twelvefold at any level; this one costs a third of the time of the usual 6.
const LEVEL: flate2::Compression = flate2::Compression::new(1);

/// The rules of one log.
#[derive(Debug, Clone)]
pub struct LogRules {
    /// The current file.
    pub path: PathBuf,
    /// Rotated at this size in bytes.
    pub max_size: u64,
    /// Rotated files kept.
    pub keep: u32,
    /// Days after which rotated files are removed.
    pub days: Option<u32>,
}

/// A log that is written to.
#[derive(Debug)]
pub struct RotatingLog {
    rules: LogRules,
    file: Option<File>,
    size: u64,
    day: u64,
    dropped: u64,
    dropped_since: u64,
}

impl RotatingLog {
    /// Opens or makes the file (0640). A file that cannot be opened now is tried again at each write.
    pub fn open(rules: LogRules) -> Self {
        let mut log =
            Self { rules, file: None, size: 0, day: today(), dropped: 0, dropped_since: 0 };
        log.reopen().ok();
        log
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(dir) = self.rules.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file =
            OpenOptions::new().create(true).append(true).mode(0o640).open(&self.rules.path)?;
        let meta = file.metadata()?;
        self.size = meta.len();
        self.day = if self.size == 0 { today() } else { meta.mtime().max(0) as u64 / 86_400 };
        self.file = Some(file);
        Ok(())
    }

    /// Lines dropped since it was opened.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes whole lines (`count` of them). Returns the file that was rotated away, to be compressed.
    pub fn write(&mut self, lines: &[u8], count: u64) -> Option<PathBuf> {
        let full = self.size > 0 && self.size + lines.len() as u64 > self.rules.max_size;
        let rotated =
            if full || (self.size > 0 && today() != self.day) { self.rotate() } else { None };
        if self.dropped_since > 0 {
            let note = format!(
                "{} sys {} log lines were dropped: they could not be written\n",
                crate_time(),
                self.dropped_since
            );
            if self.append(note.as_bytes()).is_ok() {
                self.dropped_since = 0;
            }
        }
        if self.append(lines).is_err() {
            self.dropped += count;
            self.dropped_since += count;
        }
        rotated
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let written = file.write_all(bytes);
        match written {
            Ok(()) => self.size += bytes.len() as u64,
            // The file may be half a line longer: start over from what is there.
            Err(_) => self.file = None,
        }
        written
    }

    fn rotate(&mut self) -> Option<PathBuf> {
        let newest = rotated(&self.rules.path).pop();
        let stamp = day_stamp(self.day);
        // A clock that was set back does not make the newest file look old.
        let (stamp, number) = match newest {
            Some(newest) if newest.day >= stamp => (newest.day, newest.number.checked_add(1)?),
            _ => (stamp, 1),
        };
        let target = beside(&self.rules.path, &format!(".{stamp}-{number}"));
        fs::rename(&self.rules.path, &target).ok()?;
        self.file = None;
        self.size = 0;
        self.day = today();
        prune(&self.rules);
        Some(target)
    }
}

/// A rotated log: one file, or two while it is being compressed. Ordered from the oldest on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rotated {
    /// As eight digits.
    day: String,
    number: u32,
    files: Vec<PathBuf>,
}

/// The rotated files of the log at `path`, oldest first.
fn rotated(path: &Path) -> Vec<Rotated> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let mut all: BTreeMap<(String, u32), Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some(rest) = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'))
        else {
            continue;
        };
        let stem = rest.strip_suffix(".tmp").unwrap_or(rest);
        let stem = stem.strip_suffix(".gz").unwrap_or(stem);
        if let Some((day, number)) = stem.split_once('-')
            && day.len() == 8
            && let Ok(number) = number.parse()
        {
            all.entry((day.to_owned(), number)).or_default().push(entry.path());
        }
    }
    all.into_iter().map(|((day, number), files)| Rotated { day, number, files }).collect()
}

/// The files of the log at `path`, oldest first: rotated ones, packed (`.gz`) or not, and the current one.
pub fn history(path: &Path) -> Vec<PathBuf> {
    let one = |rotated: Rotated| {
        // While it is being packed there are two.
        rotated
            .files
            .into_iter()
            .filter(|path| path.extension().is_none_or(|end| end != "tmp"))
            .min()
    };
    let mut files: Vec<PathBuf> = rotated(path).into_iter().filter_map(one).collect();
    files.push(path.to_owned());
    files
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Removes rotated logs beyond the number and age kept.
pub fn prune(rules: &LogRules) {
    let rotated = rotated(&rules.path);
    let age = rules.days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
    let too_many = rotated.len().saturating_sub(rules.keep as usize);
    for (index, one) in rotated.iter().enumerate() {
        let is_old = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|meta| meta.modified());
            age.zip(modified.ok()).is_some_and(|(age, at)| at.elapsed().is_ok_and(|is| is > age))
        };
        if index < too_many || one.files.iter().any(is_old) {
            one.files.iter().for_each(|path| drop(fs::remove_file(path)));
        }
    }
}

/// Compresses a rotated file to `FILE.gz`, which is as old as it was, and removes it. A file that is
/// pruned meanwhile leaves nothing; a half-written result of a crash is overwritten or pruned.
pub fn compress(path: &Path) -> io::Result<()> {
    let mut source = File::open(path)?;
    let temporary = beside(path, ".gz.tmp");
    let packed = pack(&mut source, &temporary)
        .and_then(|()| if path.exists() { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) })
        .and_then(|()| fs::rename(&temporary, beside(path, ".gz")));
    if packed.is_err() {
        fs::remove_file(&temporary).ok();
    }
    packed.and_then(|()| fs::remove_file(path))
}

fn pack(source: &mut File, temporary: &Path) -> io::Result<()> {
    let target =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o640).open(temporary)?;
    let mut encoder = flate2::write::GzEncoder::new(target, LEVEL);
    io::copy(source, &mut encoder)?;
    let target = encoder.finish()?;
    target.set_modified(source.metadata()?.modified()?)?;
    target.sync_all()
}

fn today() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400
}

fn day_stamp(day: u64) -> String {
    let date = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(day as i64);
    format!("{:04}{:02}{:02}", date.year(), u8::from(date.month()), date.day())
}

fn crate_time() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn rules(dir: &Path) -> LogRules {
        LogRules { path: dir.join("a.log"), max_size: 100, keep: 3, days: None }
    }

    #[test]
    fn a_log_never_grows_past_its_bound_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RotatingLog::open(rules(dir.path()));
        for number in 0..200 {
            if let Some(rotated) = log.write(format!("line number {number:04}\n").as_bytes(), 1) {
                compress(&rotated).unwrap();
            }
        }
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.len() <= 5, "{names:?}");
        assert!(fs::read_to_string(dir.path().join("a.log")).unwrap().contains("0199"));
        let packed = names.iter().find(|name| name.contains(".gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(dir.path().join(packed)).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.starts_with("line number"));
    }

    #[test]
    fn a_file_that_is_being_compressed_counts_once_and_the_newest_stay() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["20300101-1.gz", "20300101-2", "20300101-2.gz.tmp", "20300101-10"];
        for name in names {
            fs::write(dir.path().join(format!("a.log.{name}")), "x").unwrap();
        }
        fs::write(dir.path().join("a.log.notes"), "not ours").unwrap();
        prune(&rules(dir.path()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
        // The clock was set back by years: what is rotated now is still the newest.
        let mut log = RotatingLog::open(rules(dir.path()));
        let line = [b'x'; 90];
        log.write(&line, 1);
        assert_eq!(log.write(&line, 1).unwrap(), dir.path().join("a.log.20300101-11"));
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let expected = [
            "a.log",
            "a.log.20300101-10",
            "a.log.20300101-11",
            "a.log.20300101-2",
            "a.log.20300101-2.gz.tmp",
            "a.log.notes",
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn what_was_pruned_while_it_was_compressed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("a.log.20300101-1");
        assert!(compress(&gone).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_said_later() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("logs");
        fs::write(&place, "in the way").unwrap();
        let mut log =
            RotatingLog::open(LogRules { path: place.join("a.log"), ..rules(dir.path()) });
        log.write(b"lost\n", 1);
        assert_eq!(log.dropped(), 1);
        fs::remove_file(&place).unwrap();
        log.write(b"kept\n", 1);
        let text = fs::read_to_string(place.join("a.log")).unwrap();
        assert!(text.contains("1 log lines were dropped") && text.ends_with("kept\n"), "{text}");
    }
}
