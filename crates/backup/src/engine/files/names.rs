//! The names in one folder, in order, however many there are.
//!
//! Up to [`HELD`] are sorted in memory. Beyond that sorted runs go into a file without a name, and are merged as they
//! are asked for: a folder of ten million files needs little more memory than one of a hundred thousand. Invariant:
//! the order is that of bytes, whether or not names went through the file.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// So many names are sorted in memory: some megabytes.
pub(super) const HELD: usize = 100_000;
/// Fewer would be too many runs: each takes a buffer.
pub(super) const HELD_AT_LEAST: usize = 20_000;
/// Bytes of a run that are read at once.
const READ: usize = 16 << 10;

/// The names, in order.
#[derive(Debug)]
pub(super) enum Names {
    /// All of them, the first one last.
    Held(Vec<OsString>),
    /// Runs that are merged.
    Spilled(Merge),
}

impl Names {
    /// The names in a folder; what is too much for memory goes into a file in `scratch`.
    pub(super) fn of(folder: &Path, scratch: &Path, held: usize) -> io::Result<Self> {
        let mut names = Vec::new();
        let mut runs: Option<Runs> = None;
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name());
            if names.len() == held {
                let runs = match &mut runs {
                    Some(runs) => runs,
                    None => runs.insert(Runs::new(scratch)?),
                };
                runs.add(&mut names)?;
            }
        }
        match runs {
            None => {
                names.sort_unstable_by(|one, other| other.cmp(one));
                Ok(Self::Held(names))
            }
            Some(mut runs) => {
                runs.add(&mut names)?;
                Ok(Self::Spilled(runs.merge()?))
            }
        }
    }

    /// So many are in memory.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Held(names) => names.len(),
            Self::Spilled(_) => 0,
        }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> io::Result<Option<OsString>> {
        match self {
            Self::Held(names) => Ok(names.pop()),
            Self::Spilled(merge) => merge.next(),
        }
    }
}

/// Sorted runs in a file: each name behind its length in two bytes.
#[derive(Debug)]
struct Runs {
    file: io::BufWriter<File>,
    /// Where each run ends.
    ends: Vec<u64>,
}

impl Runs {
    fn new(scratch: &Path) -> io::Result<Self> {
        // The number keeps two folders apart that are open at once, one inside the other.
        let path = scratch.join(format!("names-{:016x}", rand::random::<u64>()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(path)?;
        Ok(Self { file: io::BufWriter::new(file), ends: Vec::new() })
    }

    fn add(&mut self, names: &mut Vec<OsString>) -> io::Result<()> {
        names.sort_unstable();
        let mut end = self.ends.last().copied().unwrap_or(0);
        for name in names.drain(..) {
            let length = u16::try_from(name.len()).map_err(io::Error::other)?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(name.as_bytes())?;
            end += 2 + u64::from(length);
        }
        self.ends.push(end);
        Ok(())
    }

    fn merge(self) -> io::Result<Merge> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let runs = starts.zip(self.ends.iter().copied());
        let mut merge = Merge {
            file,
            runs: runs.map(|(at, end)| Run { at, end, buffer: Vec::new(), used: 0 }).collect(),
            first: BinaryHeap::new(),
        };
        for run in 0..merge.runs.len() {
            merge.take_from(run)?;
        }
        Ok(merge)
    }
}

/// Runs and the first name of each that was not taken yet.
#[derive(Debug)]
pub(super) struct Merge {
    file: File,
    runs: Vec<Run>,
    first: BinaryHeap<Reverse<(OsString, usize)>>,
}

#[derive(Debug)]
struct Run {
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl Merge {
    fn next(&mut self) -> io::Result<Option<OsString>> {
        let Some(Reverse((name, run))) = self.first.pop() else { return Ok(None) };
        self.take_from(run)?;
        Ok(Some(name))
    }

    fn take_from(&mut self, number: usize) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(number) else { return Ok(()) };
        if let Some(name) = run.next(&self.file)? {
            self.first.push(Reverse((name, number)));
        }
        Ok(())
    }
}

impl Run {
    fn next(&mut self, file: &File) -> io::Result<Option<OsString>> {
        loop {
            let rest = self.buffer.get(self.used..).unwrap_or_default();
            if let Some((length, rest)) = rest.split_first_chunk()
                && let Some(name) = rest.get(..u16::from_le_bytes(*length).into())
            {
                self.used += 2 + name.len();
                return Ok(Some(OsStr::from_bytes(name).to_owned()));
            }
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(READ);
            if left == 0 {
                return Ok(None);
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let had = self.buffer.len();
            self.buffer.resize(had + left, 0);
            file.read_exact_at(self.buffer.get_mut(had..).unwrap_or_default(), self.at)?;
            self.at += left as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn all(folder: &Path, scratch: &Path, held: usize) -> Vec<OsString> {
        let mut names = Names::of(folder, scratch, held).unwrap();
        std::iter::from_fn(|| names.next().unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn names_come_in_the_order_of_their_bytes_however_few_are_held(names in prop::collection::btree_set(prop::collection::vec(1u8.., 1..60), 0..120), held in 1usize..130) {
            let names: Vec<OsString> = names.into_iter()
                .filter(|name| !name.contains(&b'/') && name != b"." && name != b"..")
                .map(OsString::from_vec)
                .collect();
            let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            for name in &names {
                fs::write(folder.path().join(name), "").unwrap();
            }
            prop_assert_eq!(all(folder.path(), scratch.path(), held), names);
            prop_assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn names_that_are_longer_together_than_what_is_read_at_once_survive() {
        let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names: Vec<OsString> = (0..300).map(|n| format!("{n:0250}").into()).collect();
        for name in &names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(all(folder.path(), scratch.path(), 100), names);
    }
}
