//! A folder as a store: the local one, a second disk, a mounted share.
//!
//! A set is put together under a name that is no id, synced, and renamed: after a crash it is there whole or
//! not at all. Where staging is on the same file system parts are linked into the first store, not copied; no two
//! stores ever share a file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};
use seaworthy_sys::files::create_private_dir;

use super::{Stamp, Store};
use crate::seal::pump;
use crate::set::{DOCUMENT, Set, SetId};

/// Begins the names of sets that are being put together.
const PARTIAL: &str = ".partial-";

/// A folder.
#[derive(Debug)]
pub(crate) struct Folder {
    name: String,
    staging: PathBuf,
    root: PathBuf,
    dir: PathBuf,
}

impl Folder {
    /// `staging` is where parts lie that nobody else has yet.
    pub(crate) fn new(name: &str, root: &Path, site: &str, item: &str, staging: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            staging,
            root: root.to_path_buf(),
            dir: root.join(site).join(item),
        }
    }

    fn fault(&self, what: &str, error: &io::Error) -> Fault {
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let code = if full { Code::DiskFull } else { Code::BackupStore };
        let fault =
            Fault::new(code, format!("store `{}` ({}): {what}", self.name, self.root.display()))
                .because(error.to_string());
        if full {
            fault.next("df -h, then free some space; earlier backups are untouched")
        } else {
            fault.next(format!("ls -la {}", self.dir.display()))
        }
    }

    fn put_together(&self, set: &Set, staged: &Path, moved: &mut dyn FnMut(u64)) -> io::Result<()> {
        // Only the top is given away: that a share is not mounted must not look like an empty store.
        create_private_dir(&self.dir, 0o700)?;
        let draft = self.dir.join(format!("{PARTIAL}{}", set.id));
        if draft.exists() {
            fs::remove_dir_all(&draft)?;
        }
        create_private_dir(&draft, 0o700)?;
        for part in &set.parts {
            let (from, to) = (staged.join(&part.file), draft.join(&part.file));
            // Once only: two stores that share a file would share its damage.
            let alone = staged.starts_with(&self.staging) && fs::metadata(&from)?.nlink() == 1;
            if alone && fs::hard_link(&from, &to).is_ok() {
                moved(part.bytes);
                continue;
            }
            let mut source = File::open(&from)?;
            let mut target = private_file(&to)?;
            pump(&mut source, &mut target, |bytes| moved(bytes.len() as u64))?;
            target.sync_all()?;
        }
        let bytes = set.document().map_err(|fault| io::Error::other(fault.to_string()))?;
        let mut document = private_file(&draft.join(DOCUMENT))?;
        io::Write::write_all(&mut document, &bytes)?;
        document.sync_all()?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, self.dir.join(set.id.as_str()))?;
        File::open(&self.dir)?.sync_all()
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

impl Store for Folder {
    fn sets(&mut self) -> Result<Vec<SetId>, Fault> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| self.fault("it cannot be listed", &error))?,
        };
        let mut sets = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.fault("it cannot be listed", &error))?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<SetId>().ok());
            if let Some(id) = id
                && entry.path().join(DOCUMENT).is_file()
            {
                sets.push(id);
            }
        }
        sets.sort();
        Ok(sets)
    }

    fn document(&mut self, id: &SetId) -> Result<Vec<u8>, Fault> {
        let path = self.dir.join(id.as_str()).join(DOCUMENT);
        fs::read(&path).map_err(|error| self.fault(&format!("backup {id} cannot be read"), &error))
    }

    fn stamps(&mut self, set: &Set) -> Result<Vec<(String, Stamp)>, Fault> {
        let dir = self.dir.join(set.id.as_str());
        let stamp = |file: &String| {
            let meta = match fs::metadata(dir.join(file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                other => other.map_err(|error| self.fault("a part cannot be looked at", &error)),
            };
            // Not the time of the inode's change: unlinking the staged name changes it.
            Some(meta.map(|meta| {
                let mark = format!("{}.{:09}-{}", meta.mtime(), meta.mtime_nsec(), meta.ino());
                (file.clone(), Stamp { bytes: meta.len(), mark })
            }))
        };
        set.parts.iter().filter_map(|part| stamp(&part.file)).collect()
    }

    fn publish(
        &mut self,
        set: &Set,
        staged: &Path,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        self.put_together(set, staged, moved).map_err(|error| {
            fs::remove_dir_all(self.dir.join(format!("{PARTIAL}{}", set.id))).ok();
            self.fault(&format!("backup {} could not be written", set.id), &error)
        })
    }

    fn open(&mut self, set: &Set, file: &str) -> Result<Box<dyn Read>, Fault> {
        let path = self.dir.join(set.id.as_str()).join(file);
        let opened = File::open(&path).map_err(|error| {
            self.fault(&format!("`{file}` of backup {} cannot be read", set.id), &error)
        })?;
        Ok(Box::new(opened))
    }

    fn local_file(&self, set: &Set, file: &str) -> Option<PathBuf> {
        Some(self.dir.join(set.id.as_str()).join(file))
    }

    fn remove(&mut self, id: &SetId) -> Result<(), Fault> {
        let (dir, draft) = (self.dir.join(id.as_str()), self.dir.join(format!("{PARTIAL}{id}")));
        let removed = fs::rename(&dir, &draft).and_then(|()| fs::remove_dir_all(&draft));
        removed.map_err(|error| self.fault(&format!("backup {id} could not be removed"), &error))
    }

    fn tidy(&mut self) -> Result<(), Fault> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Ok(()) };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                fs::remove_dir_all(entry.path()).map_err(|error| {
                    self.fault("what a run left behind could not be removed", &error)
                })?;
            }
        }
        Ok(())
    }
}
