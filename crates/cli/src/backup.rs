//! `backup`: asks control for backups, shows how it goes, and what came of it.
//!
//! Rooms: `arguments` (the grammar), `tables` (what people read). Invariants: whatever failed ends in exit code
//! 1, also when other items succeeded; the owner's key is shown once, by this process, and goes nowhere else;
//! a restore onto live data needs the item's name typed again.

pub(crate) mod arguments;
mod tables;

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use seaworthy_api::backup::{
    BackupAction, BackupKey, BackupProgress, BackupRequest, RestoreRequest,
};
use seaworthy_api::model::VERSION;
use seaworthy_api::{Client, Layout};
use seaworthy_backup::{Drilled, ItemReport, Pruned, Restored, SetId, Taken, Verified};
use seaworthy_base::{Code, Exit, Fault, Timestamp};
use serde::de::DeserializeOwned;

use self::arguments::{Backup, Restore, What};
use crate::platform::connect_or_start;
use crate::render::{self, Failure};

/// Does what is asked.
pub(crate) async fn backup(layout: &Layout, options: &Backup) -> Result<Exit, Failure> {
    let client = connect_or_start(layout).await?;
    let json = options.json;
    let (items, action) = match &options.what {
        What::Key { new } => return key(&client, *new, json).await,
        What::Now { items } => {
            ensure_key(&client, options).await?;
            (items.clone(), BackupAction::Now)
        }
        What::List { items, .. } => (items.clone(), BackupAction::List),
        What::Verify { items, full, id } => {
            (items.clone(), BackupAction::Verify { full: *full, id: id.clone() })
        }
        What::Drill { items, id, store } => {
            (items.clone(), BackupAction::Drill { id: id.clone(), store: store.clone() })
        }
        What::Prune { items, plan } => (items.clone(), BackupAction::Prune { plan_only: *plan }),
        What::Restore(restore) => (vec![restore.item.clone()], restore_action(restore)?),
    };
    let request =
        BackupRequest { project: project(options)?, site: options.site.clone(), items, action };
    let outcome = follow(&client, &request).await?;
    show(layout, options, &outcome)
}

/// The folder whose manifest counts, unless a site is named.
fn project(options: &Backup) -> Result<Option<PathBuf>, Failure> {
    if options.site.is_some() || !Path::new("seaworthy.toml").exists() {
        return Ok(None);
    }
    let here = std::env::current_dir()
        .map_err(|error| render::io_failure("could not find this folder", &error))?;
    Ok(Some(here))
}

/// What came of each item.
#[derive(Debug, Default)]
struct Outcome {
    done: Vec<serde_json::Value>,
    failed: Vec<Fault>,
}

async fn follow(client: &Client, request: &BackupRequest) -> Result<Outcome, Failure> {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let (mut outcome, mut item) = (Outcome::default(), String::new());
    let several = request.items.len() != 1;
    let ended: BackupProgress = client
        .follow("/v1/backup", request, |progress: &BackupProgress| match progress {
            BackupProgress::Item { item: name } => item.clone_from(name),
            BackupProgress::Step { text } => {
                let text = if several { format!("{item}: {text}") } else { text.clone() };
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(text.clone());
                if bar.is_hidden() && request.action != BackupAction::List {
                    render::talk(&text);
                }
            }
            BackupProgress::Moved { done, total } => moved(&bar, *done, *total),
            BackupProgress::Warning { fault } => bar.suspend(|| render::warn(fault)),
            BackupProgress::Done { report, .. } => outcome.done.push(report.clone()),
            BackupProgress::Failed { fault, .. } => outcome.failed.push(fault.clone()),
            BackupProgress::End => {}
        })
        .await?;
    bar.finish_and_clear();
    if ended != BackupProgress::End {
        return Err(Fault::new(Code::Internal, "control ended before the work was done")
            .next("seaworthy logs --control")
            .into());
    }
    Ok(outcome)
}

fn moved(bar: &ProgressBar, done: u64, total: Option<u64>) {
    let template = "{spinner} {msg}  {bytes}/{total_bytes}  {bytes_per_sec}  {bar:20}";
    match total.filter(|total| *total >= done) {
        Some(total) if bar.length() != Some(total) => {
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_length(total);
            bar.reset_eta();
        }
        Some(_) => {}
        None => bar.set_style(
            ProgressStyle::with_template("{spinner} {msg}  {bytes}  {bytes_per_sec}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        ),
    }
    bar.set_position(done);
}

fn show(layout: &Layout, options: &Backup, outcome: &Outcome) -> Result<Exit, Failure> {
    let mut faults = outcome.failed.clone();
    if options.json {
        render::json(
            &serde_json::json!({ "v": VERSION, "items": outcome.done, "failed": outcome.failed }),
        );
    }
    let text = match &options.what {
        What::Now { .. } => each(outcome, |taken: &Taken| {
            faults.extend(taken.failed.iter().map(|failed| failed.fault.clone()));
            tables::taken(taken)
        })?,
        What::List { items, how } => list(layout, outcome, items, *how, &mut faults)?,
        What::Verify { .. } => {
            each(outcome, |verified: &Verified| tables::verified(verified, &mut faults))?
        }
        What::Drill { .. } => each(outcome, |drilled: &Drilled| {
            faults.extend(drilled.drill.fault.clone());
            tables::drilled(drilled)
        })?,
        What::Prune { .. } => each(outcome, tables::pruned as fn(&Pruned) -> String)?,
        What::Restore(_) => each(outcome, tables::restored as fn(&Restored) -> String)?,
        What::Key { .. } => String::new(),
    };
    if !options.json {
        render::print(&text);
    }
    let Some(last) = faults.pop() else { return Ok(Exit::Ok) };
    for fault in faults {
        render::fail(&fault.into());
    }
    Err(last.into())
}

fn list(
    layout: &Layout,
    outcome: &Outcome,
    items: &[String],
    how: bool,
    faults: &mut Vec<Fault>,
) -> Result<String, Failure> {
    let reports = read::<ItemReport>(outcome)?;
    faults.extend(
        reports.iter().flat_map(|report| &report.failed).map(|failed| failed.fault.clone()),
    );
    Ok(match (how, items.len()) {
        (true, _) => reports
            .iter()
            .map(|report| tables::how(report, &layout.backups().join("store")))
            .collect(),
        (false, 1) => reports.iter().map(tables::sets).collect(),
        _ => tables::items(&reports),
    })
}

fn read<T: DeserializeOwned>(outcome: &Outcome) -> Result<Vec<T>, Failure> {
    let read = |value: &serde_json::Value| {
        serde_json::from_value(value.clone()).map_err(|error| {
            Fault::new(Code::Internal, "control gave a report that this build does not know")
                .because(error.to_string())
                .into()
        })
    };
    outcome.done.iter().map(read).collect()
}

fn each<T: DeserializeOwned>(
    outcome: &Outcome,
    show: impl FnMut(&T) -> String,
) -> Result<String, Failure> {
    Ok(read::<T>(outcome)?.iter().map(show).collect())
}

/// A key for the owner at first use: made here, shown once, its public half handed to control.
async fn ensure_key(client: &Client, options: &Backup) -> Result<(), Failure> {
    let declared = project(options)?.and_then(|project| seaworthy_manifest::load(&project).ok());
    let declared = declared
        .is_some_and(|site| site.backups.stores.values().any(|store| !store.encrypt.is_empty()));
    let known: BackupKey = client.get("/v1/backup/key").await?;
    if known.owner.is_empty() && !declared {
        make_key(client).await?;
    }
    Ok(())
}

async fn make_key(client: &Client) -> Result<BackupKey, Failure> {
    let made = seaworthy_backup::make_owner_key();
    let key: BackupKey = client
        .post("/v1/backup/key", &BackupKey { v: VERSION, owner: vec![made.recipient] })
        .await?;
    render::talk(&format!(
        "This key opens your backups when this server is lost. It is shown once and kept nowhere:\n\n  {}\n\nPut it into a password manager, as a file such as backup-key.txt.\n",
        made.identity
    ));
    Ok(key)
}

async fn key(client: &Client, new: bool, json: bool) -> Result<Exit, Failure> {
    let key = if new { make_key(client).await? } else { client.get("/v1/backup/key").await? };
    if json {
        render::json(&key);
    } else if key.owner.is_empty() {
        render::talk(
            "there is no owner's key yet: only this server can open its backups\nnext: seaworthy backup key --new",
        );
    } else {
        key.owner.iter().for_each(|recipient| render::print(&format!("{recipient}\n")));
    }
    Ok(Exit::Ok)
}

fn restore_action(options: &Restore) -> Result<BackupAction, Failure> {
    let identity = options.identity.as_ref().map(std::path::absolute).transpose();
    let identity =
        identity.map_err(|error| render::io_failure("could not find the key file", &error))?;
    let mut restore = RestoreRequest {
        store: options.store.clone(),
        into: options.into.clone(),
        to: options.to.clone(),
        identity,
        confirmed: options.yes.clone(),
        ..RestoreRequest::default()
    };
    match options.at.as_deref() {
        None => {}
        Some(text) if text.parse::<SetId>().is_ok() => restore.id = Some(text.to_owned()),
        Some(text) => restore.at = Some(time(text)?),
    }
    let in_place = restore.into.is_none() && restore.to.is_none();
    if in_place && restore.confirmed.is_none() && std::io::stdin().is_terminal() {
        restore.confirmed = Some(confirm(&options.item)?);
    }
    Ok(BackupAction::Restore(restore))
}

fn confirm(item: &str) -> Result<String, Failure> {
    render::talk(&format!(
        "This replaces the live `{item}`. A fresh backup of it is made first.\nType its name to go on:"
    ));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| render::io_failure("could not read the answer", &error))?;
    Ok(line.trim().to_owned())
}

/// A moment as people write it: with its zone, or in the machine's.
fn time(text: &str) -> Result<Timestamp, Failure> {
    let instant = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp())
    });
    instant.map(|at| Timestamp(at.as_millisecond().max(0) as u64)).ok_or_else(|| {
        Fault::new(Code::NoSuchBackup, format!("`{text}` is neither an id of a backup nor a time"))
            .next("seaworthy backup list ITEM   shows the ids")
            .next("write a time like `2026-11-21 08:15` or `2026-11-21T08:15:00Z`")
            .into()
    })
}
