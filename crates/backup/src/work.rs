//! A job under way: its folders, and how it says how it goes.
//!
//! Invariants: what a run leaves behind when it is cut off lies under names of its own and is removed by
//! the next one (which holds the item's lock); a scratch folder belongs to the user that tools run as and
//! is closed to others. Not here: what is done.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::distr::{Alphanumeric, SampleString};
use seaworthy_base::{ByteSize, Code, Fault};
use seaworthy_sys::files::{available_bytes, create_private_dir};

use crate::model::{Event, Job};
use crate::records::Records;
use crate::seal::write_fault;

/// How often progress is said.
const EVERY: Duration = Duration::from_millis(200);
/// How long one run waits for another.
const PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// Never fill a disk beyond this: other things live there.
pub(crate) const RESERVE: u64 = 256 << 20;

/// A job under way.
#[derive(Debug)]
pub(crate) struct Work {
    /// What is to be done.
    pub job: Job,
    said: Cell<Option<Instant>>,
}

impl Work {
    pub(crate) fn new(job: Job) -> Self {
        Self { job, said: Cell::new(None) }
    }

    /// Says something. Nobody may be listening any more; the work goes on.
    #[expect(clippy::unused_self, reason = "only who does a job speaks for it")]
    pub(crate) fn say(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush()).ok();
    }

    /// A step begins.
    pub(crate) fn step(&self, text: impl Into<String>) {
        self.said.set(None);
        self.say(&Event::Step { text: text.into() });
    }

    /// How far the step is.
    pub(crate) fn moved(&self, done: u64, total: Option<u64>) {
        let now = Instant::now();
        if self.said.get().is_none_or(|said| now.duration_since(said) >= EVERY) {
            self.said.set(Some(now));
            self.say(&Event::Moved { done, total });
        }
    }

    /// Something that does not stop the work.
    pub(crate) fn warn(&self, fault: Fault) {
        self.say(&Event::Warning { fault });
    }

    /// The state folder of backups.
    pub(crate) fn state(&self) -> &Path {
        &self.job.folders.state
    }

    /// How long something may move nothing: what is usual for it, unless the job says otherwise.
    pub(crate) fn patience(&self, usual: Duration) -> Duration {
        self.job.stall_ms.map_or(usual, Duration::from_millis)
    }

    /// The item's records, held until they are dropped. A job that somebody waits for waits its turn.
    pub(crate) fn records(&self) -> Result<Records, Fault> {
        let open = || Records::open(self.state(), &self.job.site, &self.job.item.name);
        let (begun, mut said) = (Instant::now(), false);
        loop {
            match open() {
                Err(fault)
                    if fault.code == Code::BackupBusy
                        && self.job.patient
                        && begun.elapsed() < PATIENCE =>
                {
                    if !said {
                        self.step("waiting for another run on it to end");
                    }
                    said = true;
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    }

    /// Begins the names of this item's temporary folders.
    fn prefix(&self) -> String {
        format!("{}.{}.", self.job.site, self.job.item.name)
    }

    /// A folder of our own for what is being sealed.
    pub(crate) fn staging(&self) -> Result<Temporary, Fault> {
        self.temporary(&self.state().join("staging"), 0o700, false)
    }

    /// A folder for a scratch server and for files with credentials, of the user that tools run as.
    pub(crate) fn scratch(&self) -> Result<Temporary, Fault> {
        self.temporary(&self.state().join("scratch"), 0o711, true)
    }

    /// A folder of our own for what nobody else may see: keys.
    pub(crate) fn private(&self) -> Result<Temporary, Fault> {
        self.temporary(&self.state().join("scratch"), 0o711, false)
    }

    /// A folder with a short path, for sockets.
    pub(crate) fn sockets(&self) -> Result<Temporary, Fault> {
        self.temporary(&self.job.folders.run, 0o711, true)
    }

    fn temporary(&self, parent: &Path, mode: u32, given: bool) -> Result<Temporary, Fault> {
        let refused = |error: io::Error| {
            write_fault(format!("could not make a folder in `{}`", parent.display()), &error)
        };
        create_private_dir(parent, mode).map_err(refused)?;
        let random = Alphanumeric.sample_string(&mut rand::rng(), 6);
        let name = if parent == self.job.folders.run {
            random
        } else {
            format!("{}{random}", self.prefix())
        };
        let path = parent.join(name);
        create_private_dir(&path, 0o700).map_err(refused)?;
        if let (true, Some(user)) = (given, &self.job.run_as) {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).map_err(refused)?;
        }
        Ok(Temporary { path })
    }

    /// Removes what earlier runs of this item left behind; the caller holds its lock.
    pub(crate) fn tidy(&self) {
        let prefix = self.prefix();
        for parent in ["staging", "scratch"] {
            let Ok(entries) = fs::read_dir(self.state().join(parent)) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // The rest is six letters: `database.main` must not take `database.main.x` for its own.
                let ours = name.strip_prefix(&prefix).is_some_and(|rest| rest.len() == 6);
                if ours && let Err(error) = fs::remove_dir_all(entry.path()) {
                    self.warn(write_fault(
                        format!("could not remove `{}`", entry.path().display()),
                        &error,
                    ));
                }
            }
        }
    }

    /// Refuses when less than `needed` and a reserve are free where `path` is.
    #[expect(clippy::unused_self, reason = "only a job takes space")]
    pub(crate) fn need_space(&self, path: &Path, needed: u64, what: &str) -> Result<(), Fault> {
        let Ok(free) = available_bytes(path) else { return Ok(()) };
        if free >= needed.saturating_add(RESERVE) {
            return Ok(());
        }
        let (free, needed) = (ByteSize(free).rounded(), ByteSize(needed + RESERVE).rounded());
        Err(Fault::new(Code::DiskFull, format!("there is too little space for {what}"))
            .because(format!("about {needed} are needed in `{}`, {free} are free", path.display()))
            .next(format!("df -h {}", path.display())))
    }
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}
