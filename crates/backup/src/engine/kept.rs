//! What the next run of an item needs of this one, kept here: the index of files, the manifest of a base backup.
//!
//! A sealed part is kept as it is, beside the item's records. Invariant: what does not fit its checksum counts as not
//! there, and losing it costs a full backup, nothing else. Not here: what it says.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::keys;
use crate::open::{self, Plain};
use crate::set::{Part, Set};
use crate::work::Work;

/// The parts that are kept, by name.
const KEPT: [&str; 2] = [super::files::INDEX, super::postgres::log::MANIFEST];

fn part(set: &Set) -> Option<&Part> {
    set.parts.iter().find(|part| KEPT.contains(&part.file.as_str()))
}

fn folder(work: &Work) -> PathBuf {
    work.state().join("records").join(&work.job.site).join(&work.job.item.name).join("index")
}

/// Keeps what a set has of it for the next run; those of earlier sets go.
pub(crate) fn keep(work: &Work, set: &Set, staged: &Path) -> io::Result<()> {
    let Some(part) = part(set) else { return Ok(()) };
    let dir = folder(work);
    seaworthy_sys::files::create_private_dir(&dir, 0o700)?;
    for entry in fs::read_dir(&dir)?.flatten() {
        fs::remove_file(entry.path())?;
    }
    let (from, to) = (staged.join(&part.file), dir.join(set.id.as_str()));
    fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))
}

/// What was kept of a set.
pub(super) fn open(work: &Work, set: &Set) -> Option<Plain> {
    let path = folder(work).join(set.id.as_str());
    let identity = keys::drill_key(work.state()).ok()?;
    // A damaged copy must not decide what is backed up.
    let part = part(set)?;
    let found = crate::seal::digest(&mut File::open(&path).ok()?, |_| {}).ok()?;
    (found == (part.sha256.clone(), part.bytes)).then_some(())?;
    open::open(&path, &[identity]).ok()
}
