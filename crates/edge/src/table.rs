//! What is counted in one place for all threads, for the old and the new edge at once, and for the next one after a
//! crash: rates, failed attempts, open circuit breakers; and the secrets of tickets ([`secrets`]), for the same reason.
//!
//! The memory is made by control ([`create`]), which hands it to each edge and gets it back from the one that it
//! adopts; it is gone when the last of them is. Until it comes, and where none comes (an older control), an edge
//! counts alone. Invariants: a key takes 16 bytes and the table never grows ([`rows`]); keys are hashes with a secret
//! that lies in the table's head, so that all edges make the same; every single word may hold anything (an edge may
//! be killed at each step, or be somebody else's by then) and the worst that follows is that one key is counted anew
//! or waits as long as its own rule says. Not here: what the states mean, which those know who count.

mod rows;
mod secrets;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use seaworthy_sys::memory::{self, Region};

use crate::policy::keys::Hasher;
pub(crate) use rows::Rows;
pub(crate) use secrets::{SPAN, Secret, Secrets};

/// The first word: whose it is, and how it is laid out. Another layout gets another number.
const MAGIC: u64 = u64::from_le_bytes(*b"seacnt\x00\x01");
/// The head, in words: a page, of which the first three are used, and those of the secrets.
const HEAD: usize = 512;
/// Where in the head the secrets of tickets lie. In tables of earlier builds nothing does; some of them have words of
/// their own from the eighth on.
const SECRETS: usize = 24;
/// Words of a row: four keys with their states, a cache line.
const ROW: usize = 8;
/// 262,144 keys of rates in 4 MiB.
const LIMITS: usize = 65_536 * ROW;
/// 65,536 keys of failed attempts in 1 MiB.
const FAILURES: usize = 16_384 * ROW;
/// 256 breakers in a page.
const BREAKERS: usize = 64 * ROW;
/// All of it, in bytes.
const LENGTH: usize = (HEAD + LIMITS + FAILURES + BREAKERS) * 8;

/// The descriptor that every edge of a platform is handed.
pub fn create() -> io::Result<OwnedFd> {
    let head: [u64; 3] = [MAGIC, rand::random(), rand::random()];
    let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
    memory::create("seaworthy-counts", LENGTH, &bytes)
}

/// The memory, as soon as somebody counts or it was handed over.
#[derive(Debug, Default)]
pub(crate) struct Table {
    mapped: OnceLock<Option<Mapped>>,
    /// What was handed over, for the next control.
    given: OnceLock<OwnedFd>,
}

#[derive(Debug)]
struct Mapped {
    region: Region,
    hasher: Hasher,
}

impl Mapped {
    fn shared(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let region = Region::shared(fd, LENGTH)?;
        let head: Vec<u64> =
            region.words().iter().take(3).map(|word| word.load(Ordering::Relaxed)).collect();
        match head[..] {
            [MAGIC, one, other] => Ok(Self { region, hasher: Hasher { secret: (one, other) } }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the table is laid out otherwise")),
        }
    }

    fn own() -> Option<Self> {
        Some(Self { region: Region::anonymous(LENGTH).ok()?, hasher: Hasher::random() })
    }
}

impl Table {
    /// Counts in this memory from now on; only before anything was counted.
    pub(crate) fn take(&self, fd: OwnedFd) -> io::Result<()> {
        let mapped = Mapped::shared(std::os::fd::AsFd::as_fd(&fd))?;
        let late = |_| io::Error::new(io::ErrorKind::AlreadyExists, "it counts already");
        self.mapped.set(Some(mapped)).map_err(late)?;
        self.given.set(fd).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    /// The descriptor, if one was handed over.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.given.get().map(std::os::fd::AsFd::as_fd)
    }

    fn mapped(&self) -> Option<&Mapped> {
        self.mapped.get_or_init(Mapped::own).as_ref()
    }

    /// What keys are made with.
    pub(crate) fn hasher(&self) -> Hasher {
        self.mapped().map_or(Hasher { secret: (0, 0) }, |mapped| mapped.hasher)
    }

    fn words(&self, from: usize, length: usize) -> &[AtomicU64] {
        let words = self.mapped().and_then(|mapped| mapped.region.words().get(from..from + length));
        words.unwrap_or_default()
    }

    fn part(&self, from: usize, length: usize) -> Rows<'_> {
        Rows::new(self.words(from, length))
    }

    /// The secrets of spans of [`SPAN`] seconds since 1970; nothing where there is no memory.
    pub(crate) fn secrets(&self) -> Option<Secrets<'_>> {
        Secrets::new(self.words(SECRETS, secrets::WORDS))
    }

    /// Forgets secrets that are older than the span before, if anything was ever counted here.
    pub(crate) fn forget(&self, span: u64) {
        if self.mapped.get().is_some()
            && let Some(secrets) = self.secrets()
        {
            secrets.forget(span);
        }
    }

    /// Of rates.
    pub(crate) fn limits(&self) -> Rows<'_> {
        self.part(HEAD, LIMITS)
    }

    /// Of failed attempts.
    pub(crate) fn failures(&self) -> Rows<'_> {
        self.part(HEAD + LIMITS, FAILURES)
    }

    /// Of open circuit breakers.
    pub(crate) fn breakers(&self) -> Rows<'_> {
        self.part(HEAD + LIMITS + FAILURES, BREAKERS)
    }
}
