//! Files and folders: what is new goes into a tar of this run, what is unchanged is referred to.
//!
//! A set has a `tar` (content that was not there before, and nothing else) and an `index` (every entry, with the
//! set whose tar holds its content). Both walks, of the folders and of the index before, are in one order,
//! so that ten million files need no more memory than ten. Unchanged means: same size, times, inode. Invariants:
//! a set refers only to sets that every store has; a file that changed while it was read is told of and read
//! again next time. Rooms: `index` (the entries), `walk` (the folders), `names`
//! (what is in one), `bring` (restore and trial).

mod bring;
mod index;
mod names;
mod walk;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};
use sha2::{Digest, Sha256};

use self::index::{Entry, Kind, Reader, Writer};
use super::{Dump, Engine, Into, Parts, Placed, Trial};
use crate::facts::DatabaseFacts;
use crate::model::RestoreTarget;
use crate::seal::{Sealing, write_fault};
use crate::set::{Part, Set, SetId, hex};
use crate::work::Work;

/// The part with content.
pub(super) const TAR: &str = "files.tar.zst.age";
/// The part with every entry.
pub(crate) const INDEX: &str = "index.zst.age";
/// A set refers to so many others at most: then it begins anew, and the old ones can go.
const CHAIN: usize = 30;
/// Files that changed while they were read are named up to this many.
const NAMED: usize = 5;

/// Named trees.
#[derive(Debug)]
pub(crate) struct Files {
    trees: Vec<(String, PathBuf)>,
}

impl Files {
    pub(crate) fn new(trees: &[(String, PathBuf)]) -> Self {
        Self { trees: trees.to_vec() }
    }
}

/// A dump under way.
struct Run<'a> {
    work: &'a Work,
    tar: tar::Builder<Sealing>,
    index: Writer,
    previous: Option<Reader>,
    /// The set that the previous index belongs to.
    base: Option<SetId>,
    needs: BTreeSet<SetId>,
    facts: DatabaseFacts,
    done: u64,
    /// How many changed while they were read, and the first of them.
    changed: (u64, Vec<String>),
    skipped: u64,
}

impl Engine for Files {
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let failed = |error: io::Error| write_fault("could not write the backup of files", &error);
        let create =
            |file: &str| Sealing::create(&into.staging.join(file), into.recipients).map_err(failed);
        let base = into.base.filter(|base| base.needs.len() < CHAIN);
        let previous = base.and_then(|base| super::kept::open(work, base).map(Reader::new));
        let mut run = Run {
            work,
            tar: tar::Builder::new(create(TAR)?),
            index: Writer::new(create(INDEX)?),
            base: previous.as_ref().and(base).map(|base| base.id.clone()),
            previous,
            needs: BTreeSet::new(),
            facts: DatabaseFacts { name: "files".to_owned(), ..DatabaseFacts::default() },
            done: 0,
            changed: (0, Vec::new()),
            skipped: 0,
        };
        let mut trees = self.trees.clone();
        trees.sort_by(|one, other| Path::new(&one.0).cmp(Path::new(&other.0)));
        for (name, path) in &trees {
            work.step(format!("reading {name}"));
            walk::walk(name, path, into.staging, &mut |entry, at| run.add(entry, at))?;
        }
        run.finish().map_err(failed)
    }

    fn trial(&self, work: &Work, set: &Set, parts: &Parts) -> Result<Trial, Fault> {
        bring::trial(work, set, parts)
    }

    fn restore(
        &self,
        work: &Work,
        set: &Set,
        parts: &Parts,
        target: &RestoreTarget,
    ) -> Result<Placed, Fault> {
        bring::restore(work, set, parts, target, &self.trees)
    }
}

impl Run<'_> {
    /// Takes one entry of a folder.
    fn add(&mut self, mut entry: Entry, at: &Path) -> Result<(), Fault> {
        let failed = |error: io::Error| write_fault("could not write the backup of files", &error);
        match entry.kind {
            Kind::Other => {
                self.skipped += 1;
                return Ok(());
            }
            Kind::File => match self.known(&entry).map_err(failed)? {
                Some(known) => {
                    entry.sha256 = known.sha256;
                    entry.from = known.from.or_else(|| self.base.clone());
                    self.needs.extend(entry.from.clone());
                }
                None => self.read(&mut entry, at)?,
            },
            Kind::Folder | Kind::Link => {}
        }
        let kind = match entry.kind {
            Kind::File => "files",
            Kind::Folder => "folders",
            _ => "links",
        };
        *self.facts.rows.entry(kind.to_owned()).or_default() += 1;
        self.facts.bytes += entry.size;
        self.done += entry.size;
        self.work.moved(self.done, None);
        self.index.write(&entry).map_err(failed)
    }

    /// The entry of that path in the index before, if nothing about it changed.
    fn known(&mut self, entry: &Entry) -> io::Result<Option<Entry>> {
        let Some(previous) = &mut self.previous else { return Ok(None) };
        loop {
            let Some(known) = previous.peek()? else { return Ok(None) };
            match known.path().cmp(&entry.path()) {
                Ordering::Less => previous.skip(),
                Ordering::Greater => return Ok(None),
                Ordering::Equal => {
                    let same = known.kind == Kind::File
                        && known.size == entry.size
                        && known.times == entry.times
                        && known.sha256.is_some();
                    return Ok(same.then(|| known.clone()));
                }
            }
        }
    }

    /// Puts a file's content into the tar.
    fn read(&mut self, entry: &mut Entry, at: &Path) -> Result<(), Fault> {
        let mut file = match File::open(at) {
            Ok(file) => file,
            // Gone since the folder was listed: as if it had never been there, but told of.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note_change(entry);
                entry.size = 0;
                return self.append(entry, &mut io::empty()).map(drop);
            }
            Err(error) => {
                return Err(Fault::new(
                    Code::BackupSource,
                    format!("`{}` could not be read", at.display()),
                )
                .because(error.to_string()));
            }
        };
        let before = file.metadata().map(|meta| walk::times(&meta)).unwrap_or_default();
        let hash = self.append(entry, &mut file)?;
        let after =
            file.metadata().map(|meta| (walk::times(&meta), meta.size())).unwrap_or_default();
        if after == (before, entry.size) {
            entry.sha256 = Some(hash);
        } else {
            // Without a hash it is read again next time, whatever its times say.
            self.note_change(entry);
        }
        Ok(())
    }

    fn note_change(&mut self, entry: &Entry) {
        self.changed.0 += 1;
        if self.changed.1.len() < NAMED {
            self.changed.1.push(entry.path().display().to_string());
        }
    }

    fn append(&mut self, entry: &Entry, from: &mut dyn Read) -> Result<String, Fault> {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.size);
        header.set_mode(entry.mode);
        header.set_uid(u64::from(entry.owner.0));
        header.set_gid(u64::from(entry.owner.1));
        header.set_mtime((entry.times.0 / 1_000_000_000).max(0) as u64);
        header.set_entry_type(tar::EntryType::Regular);
        let mut exact = Exact { from, left: entry.size, hash: Sha256::new(), failed: None };
        let appended = self.tar.append_data(&mut header, entry.path(), &mut exact);
        if let Some(error) = exact.failed {
            return Err(Fault::new(
                Code::BackupSource,
                format!("`{}` could not be read", entry.path().display()),
            )
            .because(error.to_string()));
        }
        appended.map_err(|error| write_fault("could not write the backup of files", &error))?;
        Ok(hex(&exact.hash.finalize()))
    }

    fn finish(self) -> io::Result<Dump> {
        let tar: Part = self.tar.into_inner()?.finish(TAR, "files", "tar")?;
        let index = self.index.into_inner()?.finish(INDEX, "index", "index")?;
        let mut notes = Vec::new();
        let (changed, named) = self.changed;
        if changed > 0 {
            notes.push(format!(
                "{changed} files changed while they were read and are in it as they were seen: {}",
                named.join(", ")
            ));
        }
        if self.skipped > 0 {
            notes.push(format!("{} sockets, pipes and devices are not in it", self.skipped));
        }
        Ok(Dump {
            parts: vec![tar, index],
            databases: vec![self.facts],
            server: String::new(),
            tool: concat!("seaworthy ", env!("CARGO_PKG_VERSION")).to_owned(),
            doubts: Vec::new(),
            notes,
            needs: self.needs.into_iter().collect(),
        })
    }
}

/// Exactly so many bytes of a reader: a tar's header says before how long a file is. What is missing (the
/// file was cut meanwhile) is zero.
struct Exact<'a> {
    from: &'a mut dyn Read,
    left: u64,
    hash: Sha256,
    failed: Option<io::Error>,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let got = match self.from.read(buffer) {
            Ok(0) => {
                buffer.fill(0);
                buffer.len()
            }
            Ok(got) => got,
            Err(error) => {
                self.failed = Some(io::Error::new(error.kind(), error.to_string()));
                return Err(error);
            }
        };
        self.hash.update(buffer.get(..got).unwrap_or_default());
        self.left -= got as u64;
        Ok(got)
    }
}
