//! Walking a tree in the order of the index.
//!
//! Invariants: entries of a folder are sorted by name before any of them is entered, which is the order of
//! paths by components; memory depends neither on how many there are nor on how many are in one folder (`names`).
//! Links are not followed; what vanishes under the walk is left out.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};

use super::index::{Entry, Kind, encode};
use super::names::{HELD, HELD_AT_LEAST, Names};

/// A folder that the walk is in.
struct Open {
    path: PathBuf,
    at: PathBuf,
    names: Names,
}

/// Calls `each` for the tree's root and everything below, with where it is. `scratch` is for folders with more names
/// than memory should hold.
pub(super) fn walk(
    name: &str,
    root: &Path,
    scratch: &Path,
    each: &mut dyn FnMut(Entry, &Path) -> Result<(), Fault>,
) -> Result<(), Fault> {
    // The root may be a link to where the content is: what is meant is the content.
    let meta = fs::metadata(root).map_err(|error| unreadable(root, &error))?;
    let mut open: Vec<Open> = Vec::new();
    let mut here = Some((PathBuf::from(name), root.to_path_buf(), meta));
    loop {
        if let Some((path, at, meta)) = here.take() {
            let entry = describe(&path, &at, &meta)?;
            let folder = entry.kind == Kind::Folder;
            each(entry, &at)?;
            if folder {
                // Of all folders that are open together: one may be in the other.
                let held: usize = open.iter().map(|one| one.names.held()).sum();
                match Names::of(&at, scratch, HELD.saturating_sub(held).max(HELD_AT_LEAST)) {
                    Ok(names) => open.push(Open { path, at, names }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(unreadable(&at, &error)),
                }
            }
        }
        let Some(last) = open.last_mut() else { return Ok(()) };
        let Some(name) = last.names.next().map_err(|error| unreadable(&last.at, &error))? else {
            open.pop();
            continue;
        };
        let at = last.at.join(&name);
        match fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&at, &error)),
            Ok(meta) => here = Some((last.path.join(&name), at, meta)),
        }
    }
}

fn unreadable(at: &Path, error: &io::Error) -> Fault {
    Fault::new(Code::BackupSource, format!("`{}` could not be read", at.display()))
        .because(error.to_string())
}

fn describe(path: &Path, at: &Path, meta: &Metadata) -> Result<Entry, Fault> {
    let kind = match meta.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Folder,
        kind if kind.is_symlink() => Kind::Link,
        kind => {
            debug_assert!(
                kind.is_socket()
                    || kind.is_fifo()
                    || kind.is_block_device()
                    || kind.is_char_device(),
                "Linux has no other kinds"
            );
            Kind::Other
        }
    };
    let link = (kind == Kind::Link)
        .then(|| fs::read_link(at))
        .transpose()
        .map_err(|error| unreadable(at, &error))?;
    Ok(Entry {
        name: encode(path),
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        times: times(meta),
        size: if kind == Kind::File { meta.size() } else { 0 },
        sha256: None,
        from: None,
        link: link.map(|target| encode(&target)),
    })
}

/// What changes whenever content does: times of change in nanoseconds, and the inode.
pub(super) fn times(meta: &Metadata) -> (i64, i64, u64) {
    let nanos =
        |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    (nanos(meta.mtime(), meta.mtime_nsec()), nanos(meta.ctime(), meta.ctime_nsec()), meta.ino())
}
