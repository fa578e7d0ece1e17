//! Sealing: what a tool streams becomes a file, compressed (zstd), encrypted (age), counted and hashed.
//!
//! The file opens without us: `age -d -i KEY FILE | zstd -d`. Where there are cores to spare zstd
//! compresses in a thread of its own. Invariants: memory does not depend on the length of the stream; a
//! file is synced before its hash is handed out. Not here: where the file goes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use age::x25519::Recipient;
use seaworthy_base::{Code, Fault};
use sha2::{Digest, Sha256};

use crate::set::{Part, hex};

/// zstd's level: faster than a dump on one core, and smaller than gzip's default.
const LEVEL: i32 = 3;
/// With more cores than this one of them compresses beside us; with fewer it would only take turns with the
/// server and its dump.
const FEW_CORES: usize = 2;
/// Bytes that one thread compresses at a time: bounds memory (zstd keeps a few of these).
const JOB: u32 = 1 << 20;
/// Bytes read at once.
pub(crate) const CHUNK: usize = 256 << 10;

/// Counts and hashes what goes to the file.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..done).unwrap_or_default());
        self.bytes += done as u64;
        Ok(done)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Sealed = age::stream::StreamWriter<Hashed<io::BufWriter<File>>>;

/// A sealed file that is being written.
pub(crate) struct Sealing {
    encoder: zstd::Encoder<'static, Sealed>,
    plain: u64,
    file: File,
}

impl Sealing {
    /// Begins a file, which must not exist.
    pub(crate) fn create(path: &Path, recipients: &[Recipient]) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let hashed = Hashed {
            inner: io::BufWriter::with_capacity(CHUNK, file.try_clone()?),
            hash: Sha256::new(),
            bytes: 0,
        };
        let recipients = recipients.iter().map(|one| one as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let mut encoder = zstd::Encoder::new(encryptor.wrap_output(hashed)?, LEVEL)?;
        encoder.include_checksum(true)?;
        if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > FEW_CORES) {
            encoder.multithread(1)?;
            encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(JOB))?;
        }
        Ok(Self { encoder, plain: 0, file })
    }

    /// Ends it: everything is on the disk when this returns.
    pub(crate) fn finish(self, file: &str, holds: &str, format: &str) -> io::Result<Part> {
        let mut hashed = self.encoder.finish()?.finish()?;
        hashed.flush()?;
        self.file.sync_all()?;
        Ok(Part {
            file: file.to_owned(),
            holds: holds.to_owned(),
            format: format.to_owned(),
            plain_bytes: self.plain,
            bytes: hashed.bytes,
            sha256: hex(&hashed.hash.finalize()),
        })
    }
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.encoder.write(bytes)?;
        self.plain += done as u64;
        Ok(done)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Copies a stream into a sealed file; `moved` hears of every chunk and sees its bytes.
pub(crate) fn pump(
    from: &mut impl Read,
    into: &mut impl Write,
    mut moved: impl FnMut(&[u8]),
) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let bytes = buffer.get(..got).unwrap_or_default();
        into.write_all(bytes)?;
        total += got as u64;
        moved(bytes);
    }
}

/// The SHA-256 and size of what a reader yields.
pub(crate) fn digest(from: &mut impl Read, moved: impl FnMut(&[u8])) -> io::Result<(String, u64)> {
    let mut hashed = Hashed { inner: io::sink(), hash: Sha256::new(), bytes: 0 };
    pump(from, &mut hashed, moved)?;
    Ok((hex(&hashed.hash.finalize()), hashed.bytes))
}

/// An I/O error of ours while writing a backup; a full disk has a code of its own.
pub(crate) fn write_fault(what: impl Into<String>, error: &io::Error) -> Fault {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let fault = Fault::new(if full { Code::DiskFull } else { Code::BackupFailed }, what)
        .because(error.to_string());
    if full {
        fault.next("df -h, then free some space; earlier backups are untouched")
    } else {
        fault
    }
}
