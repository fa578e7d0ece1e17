//! A scratch Redis: loads one RDB, listens on a Unix socket only, gone when it is dropped.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use seaworthy_base::{Code, Fault};

use super::FILE;
use super::connect::{databases, fields};
use super::wire::Wire;
use crate::engine::Parts;
use crate::seal::{pump, write_fault};
use crate::set::Set;
use crate::shut_in::ShutIn;
use crate::tool::{Running, Tool};
use crate::work::{Temporary, Work};

/// Loading takes a second for some hundred megabytes.
const START: Duration = Duration::from_secs(600);

/// A running scratch server with a dataset.
#[derive(Debug)]
pub(super) struct Scratch {
    running: Option<Running>,
    sockets: Temporary,
    _dir: Temporary,
}

impl Scratch {
    pub(super) fn start(work: &Work, set: &Set, parts: &Parts) -> Result<Self, Fault> {
        let (dir, sockets) = (work.scratch()?, work.sockets()?);
        work.need_space(dir.path(), set.plain_bytes(), "a drill")?;
        let failed = |error: std::io::Error| {
            write_fault("could not write the dataset for a scratch server", &error)
        };
        let path = dir.path().join("dump.rdb");
        let mut file = fs::File::create(&path).map_err(failed)?;
        pump(&mut parts.open(set.id.as_str(), FILE)?, &mut file, |_| {}).map_err(failed)?;
        if let Some(user) = &work.job.run_as {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).map_err(failed)?;
        }
        work.step("loading the dataset into a scratch server");
        let (socket, log) = (sockets.path().join("s"), dir.path().join("log"));
        let words = [
            "--port",
            "0",
            "--unixsocket",
            &socket.display().to_string(),
            "--dir",
            &dir.path().display().to_string(),
            "--dbfilename",
            "dump.rdb",
            "--save",
            "",
            "--appendonly",
            "no",
            "--logfile",
            &log.display().to_string(),
            "--databases",
            "1024",
        ];
        let server = Tool::new("redis-server", dir.path(), work.job.run_as.as_ref())
            .shut_in(ShutIn::within(&[dir.path(), sockets.path()]))
            .args(words);
        let answers = || Wire::connect(&socket).and_then(|mut wire| wire.text(&[b"PING"]));
        let running = server
            .start(false)
            .map_err(|fault| Fault { code: Code::BackupUnverified, ..fault })?
            .ready(START, Code::BackupUnverified, || answers().is_ok_and(|answer| answer == "PONG"))
            .map_err(|_| refused(set, &fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self { running: Some(running), sockets, _dir: dir })
    }

    /// A connection to it.
    pub(super) fn wire(&self) -> Result<Wire, Fault> {
        Wire::connect(&self.sockets.path().join("s")).map_err(|error| {
            Fault::new(Code::BackupUnverified, "the scratch server does not answer")
                .because(error.to_string())
        })
    }

    /// Keys, and those of them that expire.
    pub(super) fn counts(&self) -> Result<(u64, u64), Fault> {
        let about = self.wire()?.text(&[b"INFO", b"keyspace"]);
        let about = about.map_err(|error| {
            Fault::new(Code::BackupUnverified, "the scratch server does not answer")
                .because(error.to_string())
        })?;
        let all = databases(&fields(&about));
        Ok(all
            .values()
            .fold((0, 0), |(keys, expiring), (more, some)| (keys + more, expiring + some)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(Signal::KILL.as_raw(), Duration::from_secs(5));
        }
    }
}

/// A dataset of a later server, or one that needs a module that is not here, proves nothing about the backup.
fn refused(set: &Set, log: &str) -> Fault {
    let here = log.contains("RDB format version") || log.contains("odule");
    let code = if here { Code::BackupUnverified } else { Code::DrillFailed };
    let what = if here {
        "cannot be tried on this machine"
    } else {
        "could not be loaded into a scratch server"
    };
    let mut fault = Fault::new(code, format!("backup {} {what}", set.id))
        .because(format!("it is of Redis {}", set.server));
    fault.evidence = log.lines().rev().take(6).map(str::to_owned).collect();
    fault.evidence.reverse();
    fault
}
