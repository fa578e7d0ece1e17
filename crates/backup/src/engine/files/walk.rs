//! Walking a tree in the order of the index.
//!
//! Invariant: entries of a folder are sorted by name before any of them is entered, which is the order of
//! paths by components. Links are not followed; what vanishes under the walk is left out.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};

use super::index::{Entry, Kind, encode};

/// Calls `each` for the tree's root and everything below, with where it is.
pub(super) fn walk(
    name: &str,
    root: &Path,
    each: &mut dyn FnMut(Entry, &Path) -> Result<(), Fault>,
) -> Result<(), Fault> {
    // The root may be a link to where the content is: what is meant is the content.
    let meta = fs::metadata(root).map_err(|error| unreadable(root, &error))?;
    let mut open: Vec<(PathBuf, PathBuf, Option<Metadata>)> =
        vec![(PathBuf::from(name), root.to_path_buf(), Some(meta))];
    while let Some((path, at, meta)) = open.pop() {
        let meta = match meta.map_or_else(|| fs::symlink_metadata(&at), Ok) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|error| unreadable(&at, &error))?,
        };
        let entry = describe(&path, &at, &meta)?;
        let folder = entry.kind == Kind::Folder;
        each(entry, &at)?;
        if !folder {
            continue;
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&at).map_err(|error| unreadable(&at, &error))? {
            names.push(entry.map_err(|error| unreadable(&at, &error))?.file_name());
        }
        // The last one pushed is the first one taken.
        names.sort_unstable_by(|one, other| other.cmp(one));
        open.extend(names.into_iter().map(|name| (path.join(&name), at.join(&name), None)));
    }
    Ok(())
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
