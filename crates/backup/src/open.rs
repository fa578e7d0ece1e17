//! Opening a sealed file: the counterpart of `seal`.
//!
//! Invariant: nothing is handed to a tool before the whole file was found to be what was written
//! ([`fetch`] compares size and SHA-256 first), so a damaged backup never reaches a server.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use age::x25519::Identity;
use seaworthy_base::{Code, Fault};

use crate::seal::{CHUNK, digest, pump, write_fault};
use crate::set::{Part, Set};
use crate::store::Store;

/// A stream of what was sealed.
pub(crate) type Plain =
    zstd::Decoder<'static, BufReader<age::stream::StreamReader<BufReader<File>>>>;

/// Opens a sealed file on the disk with any of the identities.
pub(crate) fn open(path: &Path, identities: &[Identity]) -> Result<Plain, Fault> {
    let failed = |error: &io::Error| {
        Fault::new(Code::BackupDamaged, format!("could not open `{}`", path.display()))
            .because(error.to_string())
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let decryptor =
        age::Decryptor::new_buffered(BufReader::with_capacity(CHUNK, file)).map_err(|error| {
            Fault::new(Code::BackupDamaged, format!("`{}` is no age file", path.display()))
                .because(error.to_string())
        })?;
    let all = identities.iter().map(|one| one as &dyn age::Identity);
    let reader = decryptor.decrypt(all).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys
        | age::DecryptError::KeyDecryptionFailed
        | age::DecryptError::DecryptionFailed => {
            Fault::new(Code::BackupKey, "this backup cannot be opened with the keys at hand")
                .because(error.to_string())
                .next("name the file with the owner's key: --identity FILE")
        }
        other => {
            Fault::new(Code::BackupDamaged, format!("`{}` cannot be decrypted", path.display()))
                .because(other.to_string())
        }
    })?;
    zstd::Decoder::with_buffer(BufReader::with_capacity(CHUNK, reader))
        .map_err(|error| failed(&error))
}

/// Brings a part here and proves that it is what was written: a file of its own below `scratch`, or the
/// store's own file where that is on this machine.
pub(crate) fn fetch(
    store: &mut dyn Store,
    set: &Set,
    part: &Part,
    scratch: &Path,
    mut moved: impl FnMut(u64),
) -> Result<PathBuf, Fault> {
    let damaged = |why: String| {
        Fault::new(Code::BackupDamaged, format!("`{}` of backup {} is damaged", part.file, set.id))
            .because(why)
    };
    let mut count = |bytes: &[u8]| moved(bytes.len() as u64);
    let (path, found) = if let Some(path) = store.local_file(set, &part.file) {
        let mut file = File::open(&path).map_err(|error| damaged(error.to_string()))?;
        let found = digest(&mut file, &mut count).map_err(|error| damaged(error.to_string()))?;
        (path, found)
    } else {
        let path = scratch.join(format!("{}-{}", set.id, part.file));
        let mut from = store.open(set, &part.file)?;
        let mut into = File::create(&path)
            .map_err(|error| write_fault("could not bring a backup here", &error))?;
        pump(&mut from, &mut into, &mut count)
            .map_err(|error| write_fault("could not bring a backup here", &error))?;
        let mut again = File::open(&path).map_err(|error| damaged(error.to_string()))?;
        let found = digest(&mut again, |_| {}).map_err(|error| damaged(error.to_string()))?;
        (path, found)
    };
    if found != (part.sha256.clone(), part.bytes) {
        return Err(damaged(format!(
            "{} bytes with SHA-256 {} were written, {} bytes with {} are there",
            part.bytes, part.sha256, found.1, found.0
        )));
    }
    Ok(path)
}

/// Feeds a stream to a tool; what the tool says about a broken pipe is better than what we could.
pub(crate) fn feed(
    from: &mut impl Read,
    into: &mut impl io::Write,
    moved: impl FnMut(&[u8]),
) -> io::Result<()> {
    match pump(from, into, moved) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map(drop),
    }
}
