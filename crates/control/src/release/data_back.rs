//! What a rollback does to the databases, decided before anything is done.
//!
//! Where the schema is another one than the release was made for, one of three ways is taken: the databases
//! stay (`--keep-schema`), each goes back to its backup from right before the first migration since
//! (`--with-database`), or every migration since is taken back by its own release's `migrate.down`. Invariants:
//! without a word and without `down` nothing is done; a migration that failed is not taken back by `down`,
//! nobody knows how far it came. Not here: doing it (`bring_back`).

use std::sync::Arc;

use seaworthy_api::model::{DataPlan, RestoredItem};
use seaworthy_base::{Code, Fault, ReleaseId, SiteName, Timestamp};
use seaworthy_manifest::Site;
use seaworthy_release::schema::{Migration, NONE};
use seaworthy_release::{DataBack, Ledger, Point, Way};

use crate::platform::Platform;
use crate::release::back;
use crate::specs;
use crate::world::Applied;

/// Back to the backups from before the first migration since that release.
pub(super) fn restore(name: &SiteName, back: &Applied, ledger: &Ledger) -> Result<DataBack, Fault> {
    let since = since(name, back, ledger)?;
    let points = earliest(since);
    let first = since.first().and_then(|one| one.release).map(|release| release.to_string());
    if since.first().is_some_and(|one| one.points.is_empty()) || points.is_empty() {
        let by = first.unwrap_or_default();
        let what = format!(
            "there is no backup of the databases of `{name}` from before `{by}` migrated them"
        );
        return Err(Fault::new(Code::NoSuchBackup, what)
            .because("no [database.X] of the site said `backup` then")
            .next(keep_schema(name, back.release))
            .next("seaworthy backup list   (other backups can be restored by hand)"));
    }
    Ok(data(back, ledger, since, Way::Restore(points)))
}

/// Back by `migrate.down`, where every migration since has one.
pub(super) fn down(
    platform: &Arc<Platform>,
    name: &SiteName,
    back: &Applied,
    ledger: &Ledger,
) -> Result<DataBack, Fault> {
    let ahead = || schema_ahead(name, back, ledger);
    let since = ledger.since(back.release).ok_or_else(ahead)?;
    for migration in since {
        let release = migration.release.filter(|_| migration.whole).ok_or_else(ahead)?;
        let Some(site) = manifest_of(platform, name, release) else { return Err(ahead()) };
        let mut migrating = site.services.values().filter(|one| !one.migrate.is_empty());
        if migrating.any(|service| service.migrate_down.is_empty()) {
            return Err(ahead());
        }
    }
    Ok(data(back, ledger, since, Way::Down))
}

/// The manifest that a release was made by.
pub(super) fn manifest_of(
    platform: &Platform,
    name: &SiteName,
    release: ReleaseId,
) -> Option<Site> {
    let deployments = back::deployments(platform, name).ok()?;
    let own = deployments.iter().filter(|one| one.release == Some(release));
    own.filter_map(|one| serde_json::from_str::<Applied>(&one.applied).ok())
        .map(|applied| applied.site)
        .next()
}

fn data(back: &Applied, ledger: &Ledger, since: &[Migration], way: Way) -> DataBack {
    DataBack {
        schema: ledger.of(back.release).unwrap_or(NONE).to_owned(),
        way,
        undone: since.iter().rev().filter_map(|one| one.release).collect(),
        done: Vec::new(),
    }
}

fn since<'a>(
    name: &SiteName,
    back: &Applied,
    ledger: &'a Ledger,
) -> Result<&'a [Migration], Fault> {
    ledger.since(back.release).ok_or_else(|| {
        let what = format!(
            "the databases of `{name}` no longer have the schema of release `{}`",
            back.release
        );
        Fault::new(Code::SchemaAhead, what)
            .because("a rollback took its migrations back; going forward again is a deployment")
            .next("seaworthy deploy")
    })
}

/// Of each item the first backup that was made in that time.
fn earliest(since: &[Migration]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for point in since.iter().flat_map(|one| &one.points) {
        if points.iter().all(|known| known.item != point.item) {
            points.push(point.clone());
        }
    }
    points
}

/// Nothing was migrated since: there is no restore point, and none is needed.
pub(super) fn nothing_since(name: &SiteName, back: &Applied) -> Fault {
    let what = format!("no migration of `{name}` ran since release `{}`", back.release);
    Fault::new(Code::NoSuchBackup, what)
        .because("the code alone can go back, and no backup was made for the way back of the data")
        .next(format!("seaworthy rollback {name} --to {}", back.release))
        .next("seaworthy backup list   (any backup can be restored by hand)")
}

fn schema_ahead(name: &SiteName, back: &Applied, ledger: &Ledger) -> Fault {
    let what =
        format!("the database of `{name}` was migrated since: its schema is `{}`", ledger.today());
    let fault = Fault::new(Code::SchemaAhead, what).because(format!(
        "release `{}` was made for schema `{}`",
        back.release,
        ledger.of(back.release).unwrap_or(NONE)
    ));
    let restorable = ledger.since(back.release).is_some_and(|since| !earliest(since).is_empty());
    let fault = fault.next(keep_schema(name, back.release));
    if restorable {
        fault.next(format!(
            "seaworthy rollback {name} --to {} --with-database   (says first what is lost)",
            back.release
        ))
    } else {
        fault
    }
}

fn keep_schema(name: &SiteName, release: ReleaseId) -> String {
    format!(
        "seaworthy rollback {name} --to {release} --keep-schema   (when the old code can work with the new schema)"
    )
}

/// For people, before they say yes. `today`: the schema that the databases have.
pub(super) fn plan(
    platform: &Platform,
    name: &SiteName,
    data: &DataBack,
    today: &str,
    now: Timestamp,
) -> DataPlan {
    let mut plan =
        DataPlan { from: today.to_owned(), schema: data.schema.clone(), ..DataPlan::default() };
    match &data.way {
        Way::Restore(points) => {
            plan.restored = points
                .iter()
                .map(|point| RestoredItem {
                    item: point.item.clone(),
                    backup: point.set.clone(),
                    at: point.at.to_string(),
                    loses_ms: now.since(point.at).as_millis() as u64,
                })
                .collect();
        }
        Way::Down => {
            let sites = data.undone.iter().filter_map(|one| manifest_of(platform, name, *one));
            plan.down = sites
                .flat_map(|site| site.services.into_values())
                .flat_map(|service| {
                    let shown = |one| format!("{}: {}", service.name, specs::shown(one));
                    service.migrate_down.iter().map(shown).collect::<Vec<_>>()
                })
                .collect();
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_database_the_backup_from_before_the_first_migration_counts() {
        let point = |item: &str, set: &str| Point {
            item: item.to_owned(),
            set: set.to_owned(),
            at: Timestamp(1),
        };
        let migration =
            |points| Migration { release: None, schema: String::new(), whole: true, points };
        let since = [
            migration(vec![point("database.main", "1")]),
            migration(vec![point("database.main", "2"), point("database.new", "2")]),
        ];
        let found = earliest(&since);
        assert_eq!(found, [point("database.main", "1"), point("database.new", "2")]);
    }
}
