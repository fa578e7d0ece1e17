//! Following a server's log: `pg_receivewal` writes it here as it is made, and every so often what is complete is
//! sealed, stored and read back.
//!
//! A replication slot keeps what was not received yet on the server, so that nothing is lost while we are away.
//! Invariants: a piece leaves this machine's folder only after a store has it; a fault is said and tried again, it
//! never ends the following; a connection on which nothing arrives though the server goes on is given up; it ends when
//! whoever asked for it goes away (the worker sees to that).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seaworthy_base::{Code, Fault, Timestamp};
use seaworthy_sys::files::create_private_dir;

use super::super::connect::{Connection, Tools};
use super::{FIRST, LAST, SEGMENT_SIZE, UNTIL, current, segment, segment_size};
use crate::model::{Job, Source};
use crate::records::Records;
use crate::seal::write_fault;
use crate::take;
use crate::tool::Running;
use crate::work::Work;

/// Pause after a fault.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a file that the server ended may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// The server goes on and nothing arrives for so long: the connection is dead, whatever it looks like.
const STALL: Duration = Duration::from_secs(300);
/// Nothing arrived for so long: there is nothing more.
const QUIET: Duration = Duration::from_secs(1);
/// Files in one set.
const MOST: usize = 64;

/// Follows for ever.
pub(crate) fn follow(work: &Work, every: Duration) -> Result<std::convert::Infallible, Fault> {
    let Source::PostgresLog { url } = &work.job.item.source else {
        return Err(Fault::new(Code::Internal, "only a PostgreSQL server's log can be followed"));
    };
    let connection = Connection::new(url)?;
    loop {
        let Err(fault) = receive(work, &connection, every);
        work.warn(fault);
        std::thread::park_timeout(AGAIN);
    }
}

/// Where the log of an item is received, of the user that tools run as.
pub(super) fn folder(job: &Job, item: &str) -> PathBuf {
    job.folders.state.join("log").join(format!("{}.{item}", job.site))
}

/// One connection, until it ends.
fn receive(
    work: &Work,
    connection: &Connection,
    every: Duration,
) -> Result<std::convert::Infallible, Fault> {
    let folder = folder(&work.job, &work.job.item.name);
    make(work, &folder)
        .map_err(|error| write_fault(format!("could not make `{}`", folder.display()), &error))?;
    // Under a name of its own: other work on the item removes what it takes for left over.
    let mut own = work.job.clone();
    own.item.name.push_str(".follow");
    let own = Work::new(own);
    own.tidy();
    let scratch = own.scratch()?;
    let tools = Tools::new(connection, &scratch, work)?;
    let mut session = tools.session(&connection.database())?;
    let (_, major) = session.version()?;
    let size = segment_size(&mut session)?;
    drop(session);
    let slot = hold(work, &tools, connection, major)?;
    let words =
        ["-D", &folder.display().to_string(), "--no-loop", "--no-password", "--slot", &slot];
    let mut tool = tools.tool("pg_receivewal", major, "")?.args(words).may_write(&folder);
    tool.silent = true;
    let mut receiver = tool.start(false)?;
    let (mut arrival, stall) = (Arrival::default(), work.patience(STALL));
    work.step("following the log");
    loop {
        let begun = Instant::now();
        while begun.elapsed() < every {
            if receiver.has_ended() {
                return Err(ended(receiver, connection));
            }
            std::thread::park_timeout(Duration::from_millis(100).min(every));
        }
        let (written, until) = switch(&tools, connection, &folder, size)?;
        if written.is_some_and(|written| arrival.late(&folder, size, written) >= stall) {
            let what = format!("the log of {} cannot be followed", connection.shown());
            return Err(Fault::new(Code::BackupSource, what).because(format!(
                "the server goes on, and nothing arrived for {} s: the connection was given up",
                stall.as_secs()
            )));
        }
        ship(work, &folder, size, until)?;
    }
}

/// What has arrived of a log, and since when it is no more though the server is ahead.
#[derive(Debug, Default)]
struct Arrival {
    /// The number of the file that is being received.
    reached: Option<u64>,
    /// What changes when some of it arrives.
    seen: State,
    since: Option<Instant>,
}

impl Arrival {
    /// How long the server has been ahead (it writes the file of that number) without anything arriving.
    fn late(&mut self, folder: &Path, size: u64, written: u64) -> Duration {
        let here = state(folder);
        let whole = here.iter().filter_map(|(name, _)| segment::number(name.to_str()?, size));
        let partial: State = here
            .iter()
            .filter(|(name, _)| name.to_string_lossy().ends_with(".partial"))
            .cloned()
            .collect();
        let begun = partial.iter().filter_map(|(name, _)| {
            segment::number(name.to_str()?.strip_suffix(".partial")?, size)
        });
        let newest = whole.map(|number| number + 1).chain(begun).max();
        // Where nothing has arrived yet, what is written now is what has to come.
        let reached = newest.max(self.reached).unwrap_or(written);
        if written <= reached || self.reached != Some(reached) || self.seen != partial {
            self.since = None;
        }
        (self.reached, self.seen) = (Some(reached), partial);
        self.since.get_or_insert_with(Instant::now).elapsed()
    }
}

/// Brings what the server has written up to now and nobody fetched yet: a restore to a moment ago does not wait
/// for the follower's next round, nor for a follower. Returns up to when that is.
pub(super) fn bring(work: &Work, connection: &Connection) -> Result<Timestamp, Fault> {
    let folder = folder(&work.job, &work.job.item.name);
    make(work, &folder)
        .map_err(|error| write_fault(format!("could not make `{}`", folder.display()), &error))?;
    let scratch = work.scratch()?;
    let tools = Tools::new(connection, &scratch, work)?;
    let mut session = tools.session(&connection.database())?;
    let (_, major) = session.version()?;
    let at = Timestamp::now();
    let position = session.one("SELECT to_json(pg_current_wal_flush_lsn())")?;
    drop(session);
    let slot = slot(&work.job);
    let endpos = format!("--endpos={}", position.as_str().unwrap_or_default());
    let words = [
        "-D",
        &folder.display().to_string(),
        "--no-loop",
        "--no-password",
        "--slot",
        &slot,
        &endpos,
    ];
    let tool = tools.tool("pg_receivewal", major, "")?.args(words).may_write(&folder);
    let mut receiver = Some(tool.start(false)?);
    // It ends when it has everything, and at once when a follower is at it. Where there is nothing to be had it
    // would wait for more, and so does a follower that has caught up.
    let (mut seen, mut changed) = (state(&folder), Instant::now());
    while changed.elapsed() < QUIET {
        if receiver.as_mut().is_some_and(Running::has_ended)
            && receiver.take().is_some_and(|one| one.finish(Code::BackupSource).is_ok())
        {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(50));
        let now = state(&folder);
        if now != seen {
            (seen, changed) = (now, Instant::now());
        }
    }
    Ok(at)
}

/// Files and when they changed.
type State = Vec<(std::ffi::OsString, Option<std::time::SystemTime>)>;

/// What changes when something arrives.
fn state(folder: &Path) -> State {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| {
        let changed = entry.metadata().and_then(|meta| meta.modified()).ok();
        (entry.file_name(), changed)
    };
    let mut all: Vec<_> = entries.map(one).collect();
    all.sort();
    all
}

/// When the last of what is here arrived.
pub(super) fn last_arrival(folder: &Path) -> Option<Timestamp> {
    let newest = state(folder).into_iter().filter_map(|(_, changed)| changed).max()?;
    let since = newest.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp(since.as_millis() as u64))
}

fn make(work: &Work, folder: &Path) -> std::io::Result<()> {
    if let Some(parent) = folder.parent() {
        create_private_dir(parent, 0o711)?;
    }
    create_private_dir(folder, 0o700)?;
    match &work.job.run_as {
        Some(user) => std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// Has the server keep its log from now on until we have it; the slot by which it does.
pub(super) fn hold(
    work: &Work,
    tools: &Tools,
    connection: &Connection,
    major: u32,
) -> Result<String, Fault> {
    let slot = slot(&work.job);
    let words = ["--create-slot", "--if-not-exists", "--no-password", "--slot", &slot];
    let made = tools.tool("pg_receivewal", major, "")?.args(words).output(Code::BackupSource);
    made.map(|_| slot).map_err(|fault| told(fault, connection))
}

/// The slot's name: one for each item of each site, in letters that the server takes.
fn slot(job: &Job) -> String {
    let text = format!("seaworthy_{}_{}", job.site, job.item.name);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    text.chars().map(plain).take(63).collect()
}

fn ended(receiver: Running, connection: &Connection) -> Fault {
    let fault = receiver.finish(Code::BackupSource).err();
    told(
        fault.unwrap_or_else(|| Fault::new(Code::BackupSource, "`pg_receivewal` ended")),
        connection,
    )
}

fn told(fault: Fault, connection: &Connection) -> Fault {
    let line = fault.evidence.iter().find(|line| line.contains("rror:")).cloned();
    let cause = line.unwrap_or_else(|| fault.causes.join(": "));
    let lost = cause.contains("has already been removed");
    let mut told = Fault {
        what: format!("the log of {} cannot be followed", connection.shown()),
        causes: vec![cause.trim_start_matches("pg_receivewal: error: ").to_owned()],
        ..fault
    };
    if cause.contains("permission") || cause.contains("replication") && !lost {
        told = told
            .next("ALTER ROLE … REPLICATION, and wal_level = replica with a free max_wal_senders");
    }
    told
}

/// Lets the server end the file that it writes, and waits for it: the number of the file that it wrote, and when that
/// was. Nothing is ended where nothing was written since, and where we may not do so only full files go out.
fn switch(
    tools: &Tools,
    connection: &Connection,
    folder: &Path,
    size: u64,
) -> Result<(Option<u64>, Option<Timestamp>), Fault> {
    let at = Timestamp::now();
    let mut session = tools.session(&connection.database())?;
    let written = segment::number(&current(&mut session)?, size);
    let ended = match session.one("SELECT to_json(pg_walfile_name(pg_switch_wal()))") {
        Err(fault) if fault.causes.iter().any(|cause| cause.contains("permission denied")) => {
            return Ok((written, None));
        }
        other => other?,
    };
    let Some(number) = ended.as_str().and_then(|name| segment::number(name, size)) else {
        return Ok((written, None));
    };
    let begun = Instant::now();
    while begun.elapsed() < ARRIVAL {
        let newest = received(folder).iter().filter_map(|name| segment::number(name, size)).max();
        let waits = std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let partial =
                name.strip_suffix(".partial").and_then(|name| segment::number(name, size));
            partial.is_some_and(|partial| partial <= number)
        });
        if newest.is_some_and(|newest| newest >= number) || !waits {
            return Ok((written, Some(at)));
        }
        std::thread::park_timeout(Duration::from_millis(30));
    }
    Ok((written, None))
}

/// What is whole in the folder, in order.
pub(super) fn received(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| segment::is_whole(name))
        .collect();
    names.sort();
    names
}

/// Stores what is whole and forgets it here.
fn ship(work: &Work, folder: &Path, size: u64, until: Option<Timestamp>) -> Result<(), Fault> {
    let mut names = received(folder);
    let all = names.len() <= MOST;
    names.truncate(MOST);
    let Some(last) = names.iter().rfind(|name| segment::number(name, size).is_some()) else {
        return Ok(());
    };
    let job = &work.job;
    // Somebody is at work on it: the next round makes up for this one.
    let Ok(mut records) = Records::open(work.state(), &job.site, &job.item.name) else {
        return Ok(());
    };
    let written = std::fs::metadata(folder.join(last)).and_then(|meta| meta.modified());
    let written = written.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let written = Timestamp(written.map_or(0, |at| at.as_millis() as u64));
    let until = until.filter(|_| all).unwrap_or(written);
    let first = names.iter().find(|name| segment::number(name, size).is_some()).unwrap_or(last);
    let facts = BTreeMap::from([
        (FIRST.to_owned(), first.clone()),
        (LAST.to_owned(), last.clone()),
        (UNTIL.to_owned(), until.0.to_string()),
        (SEGMENT_SIZE.to_owned(), size.to_string()),
    ]);
    let mut job = job.clone();
    job.item.source =
        Source::Segments { folder: folder.to_path_buf(), names: names.clone(), facts };
    let taken = take::quietly(&Work::new(job), &mut records, "log")?;
    for name in &names {
        std::fs::remove_file(folder.join(name)).ok();
    }
    if let Some(fault) = take::missing_copies(&taken) {
        work.warn(fault);
    } else {
        work.step(format!("the log is stored up to {last}"));
    }
    Ok(())
}
