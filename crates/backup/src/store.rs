//! Where sets lie: one trait, a folder, S3 and SFTP behind it.
//!
//! In each store a set is `SITE/ITEM/ID/`, its parts and, published last, its document. Invariants: a set
//! whose document is not there does not exist for anybody; removing takes the document first, so that a
//! removal that was cut off leaves no set that looks whole. Not here: keys, what is kept.

mod folder;
mod s3;
mod sftp;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_base::Fault;
use serde::{Deserialize, Serialize};

use crate::model::{StoreAt, StorePlace};
use crate::set::{Set, SetId};
use crate::work::Work;

/// A store that neither takes nor gives a byte for so long is given up.
const STALL: Duration = Duration::from_secs(120);

/// What a store says of a part without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Size in bytes.
    pub bytes: u64,
    /// What changes when the content does, as far as the store knows: time of change, inode, ETag.
    pub mark: String,
}

/// A place for sets of one item.
pub(crate) trait Store {
    /// The published sets, oldest first.
    fn sets(&mut self) -> Result<Vec<SetId>, Fault>;
    /// The bytes of a set's document.
    fn document(&mut self, id: &SetId) -> Result<Vec<u8>, Fault>;
    /// The stamp of each part; an absent one is left out.
    fn stamps(&mut self, set: &Set) -> Result<Vec<(String, Stamp)>, Fault>;
    /// Publishes a set whose parts lie in `staged`; `moved` hears of bytes.
    fn publish(
        &mut self,
        set: &Set,
        staged: &Path,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Fault>;
    /// Opens a part for reading.
    fn open(&mut self, set: &Set, file: &str) -> Result<Box<dyn Read>, Fault>;
    /// The part as a file of this machine, where it is one.
    fn local_file(&self, _set: &Set, _file: &str) -> Option<PathBuf> {
        None
    }
    /// Removes a set.
    fn remove(&mut self, id: &SetId) -> Result<(), Fault>;
    /// Removes what runs that were cut off left behind.
    fn tidy(&mut self) -> Result<(), Fault>;
}

/// The store, for the sets of the job's item.
pub(crate) fn connect(at: &StoreAt, work: &Work) -> Result<Box<dyn Store>, Fault> {
    let (site, item) = (&work.job.site, &work.job.item.name);
    match &at.place {
        StorePlace::Folder { path } => {
            let staging = work.state().join("staging");
            Ok(Box::new(folder::Folder::new(&at.name, path, site, item, staging)))
        }
        StorePlace::S3 { .. } => Ok(Box::new(s3::S3::new(&at.name, &at.place, site, item, work)?)),
        StorePlace::Sftp { .. } => {
            Ok(Box::new(sftp::SftpStore::connect(&at.name, &at.place, site, item, work)?))
        }
    }
}

/// Reads and checks a set's document.
pub(crate) fn read_set(store: &mut dyn Store, id: &SetId) -> Result<Set, Fault> {
    let set = Set::read(&store.document(id)?).map_err(|fault| Fault {
        what: format!("the document of backup {id} is damaged"),
        ..fault
    })?;
    if &set.id != id {
        return Err(Fault::new(
            seaworthy_base::Code::BackupDamaged,
            format!("backup {id} holds the document of {}", set.id),
        ));
    }
    Ok(set)
}
