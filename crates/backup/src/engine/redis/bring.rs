//! Bringing a dataset back into a running server.
//!
//! The RDB is loaded into a scratch server, and its keys go from there to the target as RESTORE commands through
//! `redis-cli --pipe`. In place means: into database numbers that are empty, then SWAPDB, all in one transaction;
//! what was there is in those numbers afterwards. Invariant: no key of the target is overwritten.

use std::io::{self, Write};

use seaworthy_base::{Code, Fault};

use super::connect::{self, Client, databases, fields};
use super::server::Scratch;
use super::wire::{Answer, Wire, encode};
use crate::engine::{Parts, Placed};
use crate::model::RestoreTarget;
use crate::set::Set;
use crate::url::DatabaseUrl;
use crate::work::Work;

/// Keys that are asked for at a time.
const BATCH: &[u8] = b"500";

/// Restores.
pub(super) fn restore(
    work: &Work,
    set: &Set,
    parts: &Parts,
    target: &RestoreTarget,
    source: &DatabaseUrl,
) -> Result<Placed, Fault> {
    let url = match target {
        RestoreTarget::To { url } => connect::parse(url)?,
        _ => source.clone(),
    };
    let folder = work.scratch()?;
    let client = Client::new(&url, &folder, work);
    let there = databases(&client.about()?);
    let scratch = Scratch::start(work, set, parts)?;
    let failed = |error: io::Error| {
        Fault::new(Code::RestoreFailed, "the dataset could not be read back")
            .because(error.to_string())
    };
    let about = scratch.wire()?.text(&[b"INFO", b"keyspace"]).map_err(failed)?;
    let numbers: Vec<u32> = databases(&fields(&about)).into_keys().collect();
    let plan = plan(&client, target, &numbers, there.keys().copied().collect())?;
    work.step(format!("restoring {} databases into {}", plan.len(), client.shown()));
    for (from, to) in &plan {
        send(work, &mut scratch.wire()?, &client, *from, *to)?;
    }
    let mut before = None;
    if *target == RestoreTarget::InPlace {
        let swaps: Vec<(u32, u32)> = plan.iter().copied().filter(|(from, to)| from != to).collect();
        if !swaps.is_empty() {
            work.step("swapping databases");
            exchange(&client, &swaps)?;
            let numbers: Vec<String> = swaps
                .iter()
                .filter(|(from, _)| there.contains_key(from))
                .map(|(_, to)| to.to_string())
                .collect();
            before =
                (!numbers.is_empty()).then(|| format!("database number {}", numbers.join(", ")));
        }
    }
    Ok(Placed { to: client.shown().to_owned(), before })
}

/// Which number goes to which.
fn plan(
    client: &Client,
    target: &RestoreTarget,
    numbers: &[u32],
    taken: Vec<u32>,
) -> Result<Vec<(u32, u32)>, Fault> {
    let refuse = |what: String| {
        Fault::new(Code::RestoreUnconfirmed, what).because("a restore never writes over data")
    };
    match target {
        RestoreTarget::To { .. } => match numbers.iter().find(|number| taken.contains(number)) {
            Some(number) => {
                Err(refuse(format!("database number {number} of {} is not empty", client.shown()))
                    .next("restore to an empty server"))
            }
            None => Ok(numbers.iter().map(|number| (*number, *number)).collect()),
        },
        RestoreTarget::Into { name } => match (name.parse::<u32>(), numbers) {
            (Ok(to), [from]) if !taken.contains(&to) => Ok(vec![(*from, to)]),
            (Ok(_), []) => Ok(Vec::new()),
            (Ok(to), [_]) => Err(refuse(format!("database number {to} is not empty"))
                .next("name an empty one: --into NUMBER")),
            _ => Err(refuse("a Redis dataset goes into a database number".to_owned())
                .next("--into NUMBER, or to another server: --to URL")),
        },
        RestoreTarget::InPlace => {
            let most = client.run(&["CONFIG", "GET", "databases"]).ok();
            let most: u32 =
                most.and_then(|text| text.lines().last()?.trim().parse().ok()).unwrap_or(16);
            let mut free = (0..most)
                .rev()
                .filter(|number| !taken.contains(number) && !numbers.contains(number));
            let each = numbers.iter().map(|number| {
                // One that is empty needs no other.
                if !taken.contains(number) {
                    return Ok((*number, *number));
                }
                let to = free.next().ok_or_else(|| {
                    refuse(format!("{} has no empty database to restore into", client.shown())).next("raise `databases` in its configuration, or restore to another server: --to URL")
                })?;
                Ok((*number, to))
            });
            each.collect()
        }
    }
}

/// Sends every key of one database.
fn send(work: &Work, wire: &mut Wire, client: &Client, from: u32, to: u32) -> Result<(), Fault> {
    let failed = |error: io::Error| {
        Fault::new(Code::RestoreFailed, "the dataset could not be sent").because(error.to_string())
    };
    let mut running = client.tool()?.args(["--pipe"]).start(true)?;
    let mut stdin = running.stdin.take();
    let sent = stdin.as_mut().map_or(Ok(0), |stdin| stream(work, wire, stdin, from, to));
    drop(stdin);
    let mut said = String::new();
    io::Read::read_to_string(&mut running.output()?, &mut said).map_err(failed)?;
    running.finish(Code::RestoreFailed).map_err(|fault| fault.seen(said.trim().to_owned()))?;
    let count = sent.map_err(failed)?;
    // One answer for the SELECT, one for each key.
    let all = said.contains("errors: 0,") && said.contains(&format!("replies: {}", count + 1));
    if all {
        Ok(())
    } else {
        Err(Fault::new(Code::RestoreFailed, "the server did not take every key")
            .seen(said.trim().to_owned()))
    }
}

fn stream(
    work: &Work,
    wire: &mut Wire,
    into: &mut impl Write,
    from: u32,
    to: u32,
) -> io::Result<u64> {
    wire.ask(&[b"SELECT", from.to_string().as_bytes()])?;
    into.write_all(&encode(&[b"SELECT", to.to_string().as_bytes()]))?;
    let (mut cursor, mut count, mut bytes) = (b"0".to_vec(), 0, 0);
    loop {
        let Answer::List(mut page) = wire.ask(&[b"SCAN", &cursor, b"COUNT", BATCH])? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (Some(Answer::List(keys)), Some(next)) = (page.pop(), page.pop()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let keys: Vec<Vec<u8>> = keys.into_iter().map(Answer::bytes).collect();
        for key in &keys {
            let left = wire.text(&[b"PTTL", key])?;
            let Answer::Bytes(value) = wire.ask(&[b"DUMP", key])? else { continue };
            // -1 is for ever; 0 and -2 are gone in this very moment.
            let left = match left.as_str() {
                "-1" => "0".to_owned(),
                "0" | "-2" => continue,
                left => left.to_owned(),
            };
            bytes += value.len() as u64;
            into.write_all(&encode(&[b"RESTORE", key, left.as_bytes(), &value]))?;
            count += 1;
        }
        work.moved(bytes, None);
        cursor = next.bytes();
        if cursor == b"0" {
            return Ok(count);
        }
    }
}

/// Lets numbers change places, all at once.
fn exchange(client: &Client, swaps: &[(u32, u32)]) -> Result<(), Fault> {
    let mut running = client.tool()?.start(true)?;
    let mut text = "MULTI\n".to_owned();
    swaps.iter().for_each(|(one, other)| text.push_str(&format!("SWAPDB {one} {other}\n")));
    text.push_str("EXEC\n");
    if let Some(stdin) = running.stdin.as_mut() {
        stdin.write_all(text.as_bytes()).map_err(|error| {
            Fault::new(Code::RestoreFailed, "the databases could not be swapped")
                .because(error.to_string())
        })?;
    }
    drop(running.stdin.take());
    let mut said = String::new();
    io::Read::read_to_string(&mut running.output()?, &mut said).ok();
    running.finish(Code::RestoreFailed)?;
    let done = said.lines().filter(|line| line.trim() == "OK").count();
    // MULTI answers OK, then each swap does.
    if done == swaps.len() + 1 {
        Ok(())
    } else {
        Err(Fault::new(Code::RestoreFailed, "the databases could not be swapped")
            .seen(said.trim().to_owned()))
    }
}
