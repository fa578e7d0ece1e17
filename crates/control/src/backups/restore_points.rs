//! Backups right before a migration, and the way back to them: what releases need of backups.
//!
//! Invariants: what was not made is said, never assumed; the way back is the restore that people ask for by
//! hand, a fresh backup before it included.

use std::path::Path;
use std::sync::Arc;

use seaworthy_api::backup::BackupProgress;
use seaworthy_backup::{Action, ItemReport, RestoreTarget, State, Taken};
use seaworthy_base::{Code, Fault};
use seaworthy_manifest::Site;
use seaworthy_manifest::site::backups::Source;
use seaworthy_release::Point;
use tokio::sync::mpsc;

use super::{Chosen, perform};
use crate::platform::Platform;

/// The databases of a site that are backed up before a migration.
pub(crate) fn of(site: &Site) -> impl Iterator<Item = &str> {
    let items = site.backups.items.iter();
    items
        .filter(|(name, item)| {
            let log = matches!(item.source, Source::PostgresLog { .. });
            name.starts_with("database.") && item.backup.is_some() && !log
        })
        .map(|(name, _)| name.as_str())
}

/// Backs up the databases of a site right before a migration changes them.
pub(crate) async fn make(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
) -> Result<Vec<Point>, Fault> {
    let mut made = Vec::new();
    for item in of(site) {
        let action = Action::Take { reason: "before-migration".to_owned() };
        let done = act(platform, project, site, item, action, |_| {}).await;
        let report = done.map_err(|fault| {
            let what = format!(
                "no restore point of `{item}` could be made before the migration: {}",
                fault.what
            );
            Fault { what, ..fault }.next(
                "nothing was migrated; mend this, or take `backup` out of the database's table",
            )
        })?;
        let taken: Taken = read(report)?;
        let set = taken.set.id.to_string();
        made.push(Point { item: item.to_owned(), set, at: taken.set.taken });
    }
    Ok(made)
}

/// Whether a restore point can be gone back to: some store has it, and its content is what was written. What
/// nobody knows is looked at now.
pub(crate) async fn check(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
    point: &Point,
) -> Result<(), Fault> {
    let list = || act(platform, project, site, &point.item, Action::List, |_| {});
    let mut copies = copies(list().await?, point)?;
    if !copies.is_empty() && copies.iter().all(|(_, state)| matches!(state, State::Unverified(_))) {
        let look = Action::Verify { full: true, set: Some(point.set.clone()) };
        act(platform, project, site, &point.item, look, |_| {}).await?;
        copies = self::copies(list().await?, point)?;
    }
    if copies.iter().any(|(_, state)| *state == State::Verified) {
        return Ok(());
    }
    let what = format!("the restore point {} of `{}` cannot be used", point.set, point.item);
    let fault = Fault::new(Code::NoSuchBackup, what);
    Err(if copies.is_empty() {
        fault.because("no store has it any more: `keep` says how long backups stay")
    } else {
        let said = |(store, state): &(String, State)| match state {
            State::Verified => String::new(),
            State::Unverified(why) => format!("{store}: UNVERIFIED, {why}"),
            State::Damaged(why) => format!("{store}: DAMAGED, {why}"),
        };
        copies.iter().map(said).fold(fault, Fault::because)
    }
    .next(format!("seaworthy backup list {}", point.item)))
}

/// The copies of a restore point, with what may be said of each.
fn copies(report: serde_json::Value, point: &Point) -> Result<Vec<(String, State)>, Fault> {
    let report: ItemReport = read(report)?;
    let found = report.sets.into_iter().find(|one| one.set.id.as_str() == point.set);
    Ok(found.map(|one| one.copies).unwrap_or_default())
}

/// Brings an item back in place; says the id of the fresh backup of what was there before.
pub(crate) async fn bring_back(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
    (item, set): (&str, &str),
    say: impl Fn(String) + Send + Sync + 'static,
) -> Result<Option<String>, Fault> {
    let action = Action::Restore {
        set: Some(set.to_owned()),
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    let report = act(platform, project, site, item, action, say).await?;
    Ok(report["safety"].as_str().map(str::to_owned))
}

async fn act(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
    item: &str,
    action: Action,
    say: impl Fn(String) + Send + Sync + 'static,
) -> Result<serde_json::Value, Fault> {
    let chosen =
        Chosen { name: site.name.clone(), project: project.to_path_buf(), site: site.clone() };
    let (to, mut from) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(progress) = from.recv().await {
            if let BackupProgress::Step { text } = progress {
                say(text);
            }
        }
    });
    perform(platform, &chosen, item, action, true, &to).await
}

fn read<T: serde::de::DeserializeOwned>(report: serde_json::Value) -> Result<T, Fault> {
    serde_json::from_value(report).map_err(|error| {
        Fault::new(Code::Internal, "a worker gave a report that this build does not know")
            .because(error.to_string())
    })
}
