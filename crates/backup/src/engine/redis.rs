//! Redis and Valkey: the RDB that the server sends to a replica, checked before it is sealed.
//!
//! `redis-cli --rdb` fetches it over the wire (no access to the server's disk is needed), `redis-check-rdb` reads
//! it to its end and counts. Keys that expire are counted apart: between a dump and a drill some are gone. Rooms:
//! `connect` (how the client reaches a server), `server` (a scratch server), `wire` (its protocol), `bring`.

mod bring;
mod connect;
mod server;
mod wire;

use std::fs::File;
use std::io;

use seaworthy_base::{Code, Fault};

use self::connect::Client;
use super::{Dump, Engine, Into, Parts, Placed, Trial};
use crate::facts::{DatabaseFacts, differences};
use crate::judge;
use crate::model::{RestoreTarget, RunAs};
use crate::seal::{pump, write_fault};
use crate::set::Set;
use crate::shut_in::ShutIn;
use crate::tool::Tool;
use crate::url::DatabaseUrl;
use crate::work::{Temporary, Work};

/// The part.
pub(super) const FILE: &str = "dump.rdb.zst.age";
/// What is compared exactly.
const LASTING: &str = "keys that do not expire";

/// A server.
#[derive(Debug)]
pub(crate) struct Redis {
    url: DatabaseUrl,
}

impl Redis {
    pub(crate) fn new(url: &str) -> Result<Self, Fault> {
        Ok(Self { url: connect::parse(url)? })
    }
}

impl Engine for Redis {
    fn dump(&self, work: &Work, into: &Into<'_>) -> Result<Dump, Fault> {
        let scratch = work.scratch()?;
        let client = Client::new(&self.url, &scratch, work);
        let about = client.about()?;
        let used: u64 = about.get("used_memory").and_then(|text| text.parse().ok()).unwrap_or(0);
        work.need_space(scratch.path(), used, "a copy of the dataset")?;
        work.step(format!("fetching the dataset of {}", client.shown()));
        let plain = scratch.path().join("dump.rdb");
        let doubts = fetch(work, &client, &plain, used)?;
        let mut facts = check(&scratch, work.job.run_as.as_ref())?;
        facts.position = about.get("master_repl_offset").cloned().unwrap_or_default();
        facts.bytes = used;
        let failed = |error: io::Error| write_fault("could not write the dataset", &error);
        let mut plain = File::open(&plain).map_err(failed)?;
        let part = into.seal(&mut plain, FILE, "dataset", "rdb")?;
        let server = about
            .get("valkey_version")
            .or_else(|| about.get("redis_version"))
            .cloned()
            .unwrap_or_default();
        let tool = client.tool()?.args(["--version"]).output(Code::BackupTool)?.trim().to_owned();
        Ok(Dump {
            parts: vec![part],
            databases: vec![facts],
            server,
            tool,
            doubts,
            ..Dump::default()
        })
    }

    fn trial(&self, work: &Work, set: &Set, parts: &Parts) -> Result<Trial, Fault> {
        let server = server::Scratch::start(work, set, parts)?;
        let mut trial = Trial::default();
        for saved in &set.databases {
            let mut found = DatabaseFacts { name: saved.name.clone(), ..DatabaseFacts::default() };
            let (keys, expiring) = server.counts()?;
            found.rows.insert(LASTING.to_owned(), keys.saturating_sub(expiring));
            trial.rows += keys;
            trial.differences.extend(differences(saved, &found));
        }
        Ok(trial)
    }

    fn restore(
        &self,
        work: &Work,
        set: &Set,
        parts: &Parts,
        target: &RestoreTarget,
    ) -> Result<Placed, Fault> {
        bring::restore(work, set, parts, target, &self.url)
    }
}

/// Fetches the dataset into a file; what the client says that is not its usual talk is a doubt.
fn fetch(
    work: &Work,
    client: &Client,
    to: &std::path::Path,
    total: u64,
) -> Result<Vec<String>, Fault> {
    let failed = |error: io::Error| write_fault("could not write the dataset", &error);
    let mut running = client.tool()?.args(["--rdb", "-"]).start(false)?;
    let mut file = File::create(to).map_err(failed)?;
    if let Some(user) = &work.job.run_as {
        std::os::unix::fs::chown(to, Some(user.uid), Some(user.gid)).map_err(failed)?;
    }
    let mut done = 0;
    pump(&mut running.output()?, &mut file, |bytes| {
        done += bytes.len() as u64;
        work.moved(done, Some(total));
    })
    .map_err(failed)?;
    let said = running.finish(Code::BackupSource)?;
    let usual = |line: &String| {
        line.contains("SYNC sent to master")
            || line.contains("Transfer finished")
            || line.contains("REPLCONF")
            || line.contains("sending")
    };
    Ok(judge::doubts(&said).into_iter().filter(|line| !usual(line)).collect())
}

/// Reads the whole file as the server would, and counts.
fn check(scratch: &Temporary, run_as: Option<&RunAs>) -> Result<DatabaseFacts, Fault> {
    let path = scratch.path().join("dump.rdb");
    let said = Tool::new("redis-check-rdb", scratch.path(), run_as)
        .args([path.display().to_string()])
        .shut_in(ShutIn::with(vec![path]))
        .output(Code::BackupFailed)?;
    let count = |what: &str| {
        let line = said.lines().find_map(|line| {
            line.strip_prefix("[info] ")?.strip_suffix(what)?.trim().parse::<u64>().ok()
        });
        line.ok_or_else(|| {
            Fault::new(Code::BackupFailed, "the dataset could not be counted")
                .because(format!("`redis-check-rdb` says nothing of `{}`", what.trim()))
        })
    };
    if !said.contains("RDB looks OK") {
        let mut fault =
            Fault::new(Code::BackupFailed, "the dataset that the server sent is damaged");
        fault.evidence = said.lines().rev().take(5).map(str::to_owned).collect();
        return Err(fault);
    }
    let (keys, expiring) = (count(" keys read")?, count(" expires")?);
    let mut facts = DatabaseFacts { name: "dataset".to_owned(), ..DatabaseFacts::default() };
    facts.rows.insert(LASTING.to_owned(), keys.saturating_sub(expiring));
    Ok(facts)
}
