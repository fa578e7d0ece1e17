//! Memory as words that may be shared: with other processes, by a descriptor, or with nobody.
//!
//! Invariants: a region is as long as it says for as long as it is mapped (the descriptor is sealed against
//! shrinking, or it is not taken); words are read and written by atomic operations only, so that another process may
//! do the same at any moment; pages that nobody touched cost nothing. Not here: what the words mean.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};

/// Words that live until it is dropped.
#[derive(Debug)]
pub struct Region {
    start: NonNull<AtomicU64>,
    /// In words.
    length: usize,
}

// SAFETY: all access goes through atomic operations, which any thread may do at any time.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Memory without a name in any folder, of so many bytes, all zero, that can neither grow nor shrink; `begin` stands at
/// its beginning.
pub fn create(name: &str, bytes: usize, begin: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 nobody can say that it is no program.
    let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))?;
    ftruncate(&fd, bytes as u64)?;
    let written = rustix::io::pwrite(&fd, begin, 0)?;
    if written != begin.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

impl Region {
    /// Memory of this process alone.
    pub fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1)
    }

    /// Memory that everybody sees who has the descriptor; it must be sealed, and exactly so long.
    pub fn shared(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if !fcntl_get_seals(fd)?.contains(SealFlags::SHRINK) {
            return Err(wrong("the memory is not sealed"));
        }
        if usize::try_from(fstat(fd)?.st_size) != Ok(bytes) {
            return Err(wrong("the memory has another length"));
        }
        Self::map(bytes, libc::MAP_SHARED, fd.as_raw_fd())
    }

    fn map(bytes: usize, flags: i32, fd: i32) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice takes nothing from anybody; errors are looked at.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<AtomicU64>());
        let start = start.ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, length: bytes / size_of::<AtomicU64>() })
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, so long, zero or written by atomic stores of the same size, stays until
        // `self` is dropped, and cannot shrink underneath (private, or sealed).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no reference into it outlives `self`.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length * size_of::<AtomicU64>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_descriptor_are_one_memory_and_others_are_not_taken() {
        let fd = create("test", 8192, &7_u64.to_ne_bytes()).unwrap();
        let (one, other) =
            (Region::shared(fd.as_fd(), 8192).unwrap(), Region::shared(fd.as_fd(), 8192).unwrap());
        assert_eq!(other.words()[0].load(Ordering::Relaxed), 7);
        one.words()[1023].store(9, Ordering::Relaxed);
        assert_eq!(other.words()[1023].load(Ordering::Relaxed), 9);
        assert!(Region::shared(fd.as_fd(), 4096).is_err());
        assert!(ftruncate(&fd, 0).is_err());
        let loose = rustix::fs::memfd_create("loose", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&loose, 8192).unwrap();
        assert!(Region::shared(loose.as_fd(), 8192).is_err());
        let alone = Region::anonymous(4096).unwrap();
        assert_eq!(alone.words().len(), 512);
        assert_eq!(alone.words()[511].load(Ordering::Relaxed), 0);
    }
}
