//! What of the backups is due, and having it done.
//!
//! The decision is the backup crate's (`schedule`, pure); here are the facts it needs. Invariants: what was
//! missed is made up for once; at most [`SIDE_BY_SIDE`] workers of the clock at a time; a backup that is too
//! old, or never made, is a fault in `status` whatever the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_backup::History;
use seaworthy_backup::schedule::{self, Past, Rhythm};
use seaworthy_base::{Code, Fault, SiteName, Timestamp, format_duration};
use seaworthy_manifest::site::backups::{self, Rules};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::follow::Followers;
use super::{Action, Chosen, perform};
use crate::platform::Platform;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(15);
/// Workers of the clock at a time: a small server has other things to do.
const SIDE_BY_SIDE: usize = 2;
/// Stored content is looked at this often; what is read of it is decided by its age.
const VERIFY: Duration = Duration::from_secs(86_400);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Take,
    Verify,
    Drill,
}

/// What the clock remembers; losing it costs a verification more.
#[derive(Debug, Default)]
struct Memory {
    verified: BTreeMap<(SiteName, String), Timestamp>,
    drilled: BTreeMap<(SiteName, String), Timestamp>,
    under_way: BTreeSet<(SiteName, String)>,
}

/// Runs until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    let (done, mut ended) = mpsc::unbounded_channel::<(SiteName, String)>();
    let (mut memory, mut followers) = (Memory::default(), Followers::default());
    let mut changes = platform.changes.subscribe();
    loop {
        while let Ok(key) = ended.try_recv() {
            memory.under_way.remove(&key);
        }
        let sites = sites(&platform);
        followers.look(&platform, sites.iter().map(|(chosen, _)| chosen));
        look(&platform, &sites, &mut memory, &done);
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            key = ended.recv() => drop(key.map(|key| memory.under_way.remove(&key))),
            // A site came or went; a burst of changes is looked at once.
            _ = changes.changed() => tokio::time::sleep(Duration::from_millis(300)).await,
        }
        changes.mark_unchanged();
    }
}

fn look(
    platform: &Arc<Platform>,
    sites: &[(Chosen, Timestamp)],
    memory: &mut Memory,
    done: &mpsc::UnboundedSender<(SiteName, String)>,
) {
    for (chosen, since) in sites {
        let since = *since;
        let zone = schedule::zone(chosen.site.backups.zone.as_deref());
        for (item, described) in &chosen.site.backups.items {
            let Some(rules) = &described.backup else { continue };
            let key = (chosen.name.clone(), item.clone());
            let history = History::read(&platform.layout.backups(), chosen.name.as_str(), item);
            let now = Timestamp::now();
            platform.world().note(
                &chosen.name,
                &format!("age {item}"),
                overdue(item, rules, &history, since, now),
            );
            if memory.under_way.contains(&key) || memory.under_way.len() >= SIDE_BY_SIDE {
                continue;
            }
            let seed = seed(&key);
            let Some(task) = due(rules, &history, memory, &key, since, now, &zone, seed) else {
                continue;
            };
            match task {
                Task::Verify => drop(memory.verified.insert(key.clone(), now)),
                Task::Drill => drop(memory.drilled.insert(key.clone(), now)),
                Task::Take => {}
            }
            memory.under_way.insert(key.clone());
            start(platform, chosen, key, task, done.clone());
        }
    }
}

/// The sites that run, and since when their manifest holds.
fn sites(platform: &Platform) -> Vec<(Chosen, Timestamp)> {
    let applied: BTreeMap<SiteName, Timestamp> = platform
        .store()
        .sites()
        .unwrap_or_default()
        .into_iter()
        .map(|record| (record.name, record.applied))
        .collect();
    let world = platform.world();
    let running = world.sites.iter().filter(|(_, state)| {
        state.running && !world.closing && !state.applied.site.backups.items.is_empty()
    });
    running
        .map(|(name, state)| {
            let chosen = Chosen {
                name: name.clone(),
                project: state.project.clone(),
                site: state.applied.site.clone(),
            };
            (chosen, applied.get(name).copied().unwrap_or_else(Timestamp::now))
        })
        .collect()
}

#[expect(clippy::too_many_arguments, reason = "the facts of one decision")]
fn due(
    rules: &Rules,
    history: &History,
    memory: &Memory,
    key: &(SiteName, String),
    since: Timestamp,
    now: Timestamp,
    zone: &jiff::tz::TimeZone,
    seed: u64,
) -> Option<Task> {
    let rhythm = match rules.rhythm {
        backups::Rhythm::At(minute) => Rhythm::At(minute),
        backups::Rhythm::Every(every) => Rhythm::Every(every.as_millis() as u64),
    };
    let past = Past { last: history.runs.last().map(|run| run.at), failures: history.failures() };
    if schedule::due_at(&rhythm, past, since, zone, seed) <= now {
        return Some(Task::Take);
    }
    let good = history.runs.iter().rev().find(|run| run.set.is_some())?;
    if let Some(every) = rules.drill {
        let last =
            history.drills.last().map(|drill| drill.at).max(memory.drilled.get(key).copied());
        let failures =
            history.drills.iter().rev().take_while(|drill| drill.fault.is_some()).count() as u32;
        // The first drill follows the first backup: until then nobody knows whether it can be restored.
        let due = match last {
            None => good.at,
            Some(_) => schedule::due_at(
                &Rhythm::Every(every.as_millis() as u64),
                Past { last, failures },
                since,
                zone,
                seed,
            ),
        };
        if due <= now {
            return Some(Task::Drill);
        }
    }
    let looked = memory.verified.get(key).copied();
    looked.is_none_or(|looked| now.since(looked) > VERIFY || looked > now).then_some(Task::Verify)
}

/// Differs from item to item and is the same each day.
fn seed(key: &(SiteName, String)) -> u64 {
    let digest = Sha256::digest(format!("{}/{}", key.0, key.1).as_bytes());
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

fn start(
    platform: &Arc<Platform>,
    chosen: &Chosen,
    key: (SiteName, String),
    task: Task,
    done: mpsc::UnboundedSender<(SiteName, String)>,
) {
    let platform = Arc::clone(platform);
    let chosen = Chosen {
        name: chosen.name.clone(),
        project: chosen.project.clone(),
        site: chosen.site.clone(),
    };
    tokio::spawn(async move {
        // Nobody follows: what matters is in events and in `status`.
        let (to, mut from) = mpsc::unbounded_channel();
        tokio::spawn(async move { while from.recv().await.is_some() {} });
        let action = match task {
            Task::Take => Action::Take { reason: "schedule".to_owned() },
            Task::Verify => Action::Verify { full: false, set: None },
            Task::Drill => Action::Drill { set: None, store: None },
        };
        if let Err(fault) = perform(&platform, &chosen, &key.1, action, false, &to).await {
            crate::say(&format!("{}: {task:?} of {}: {fault}", key.0, key.1));
        }
        done.send(key).ok();
    });
}

/// What is wrong with the age of an item's newest good backup.
fn overdue(
    item: &str,
    rules: &Rules,
    history: &History,
    since: Timestamp,
    now: Timestamp,
) -> Option<Fault> {
    let period = match rules.rhythm {
        backups::Rhythm::At(_) => Duration::from_secs(86_400),
        backups::Rhythm::Every(every) => every,
    };
    // Without a declared limit: two runs in a row that did not happen.
    let limit = rules.rpo.unwrap_or(period * 2 + Duration::from_secs(3600));
    let newest = history.runs.iter().rev().find(|run| run.set.is_some()).map(|run| run.at);
    let age = now.since(newest.unwrap_or(since));
    if age <= limit {
        return None;
    }
    let shown =
        |duration: Duration| format_duration(Duration::from_secs(duration.as_secs() / 60 * 60));
    let what = match newest {
        Some(_) => format!("the newest backup of `{item}` is {} old", shown(age)),
        None => format!("`{item}` has no backup, {} after it was declared", shown(age)),
    };
    let limit = format!(
        "it may be {} old{}",
        shown(limit),
        if rules.rpo.is_some() { " (rpo)" } else { "" }
    );
    Some(
        Fault::new(Code::BackupOverdue, what)
            .because(limit)
            .next(format!("seaworthy backup now {item}")),
    )
}

/// The fault that a report tells of although the work was done.
pub(super) fn fault_in(kind: &str, report: &serde_json::Value) -> Option<Fault> {
    let read = |value: &serde_json::Value| serde_json::from_value::<Fault>(value.clone()).ok();
    match kind {
        "backup" => report["failed"].as_array()?.first().and_then(|failed| read(&failed["fault"])),
        "drill" => read(&report["drill"]["fault"]),
        "verify" => {
            let copies: Vec<&serde_json::Value> = report["copies"]
                .as_array()?
                .iter()
                .filter(|copy| copy[3]["state"] == "DAMAGED")
                .collect();
            let first = copies.first()?;
            let what =
                format!("backup {} in `{}` is damaged", first[0].as_str()?, first[1].as_str()?);
            Some(
                Fault::new(Code::BackupDamaged, what)
                    .because(first[3]["why"].as_str().unwrap_or_default())
                    .next(format!("seaworthy backup now {}", report["item"].as_str()?)),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use seaworthy_backup::{Run, SetId};

    use super::*;

    fn history(ages: &[u64], now: Timestamp) -> History {
        let run = |age: &u64| Run {
            at: Timestamp(now.0 - age * 1000),
            took_ms: 1,
            reason: "schedule".to_owned(),
            set: Some(SetId::new(Timestamp(now.0 - age * 1000), 0)),
            fault: None,
        };
        History { runs: ages.iter().map(run).collect(), drills: Vec::new() }
    }

    #[test]
    fn a_backup_older_than_its_limit_is_a_fault_and_so_is_one_that_was_never_made() {
        let now = Timestamp(1_800_000_000_000);
        let rules = Rules { rpo: Some(Duration::from_secs(3600)), ..Rules::default() };
        assert_eq!(overdue("x", &rules, &history(&[7000, 3000], now), now, now), None);
        let fault = overdue("database.main", &rules, &history(&[7200], now), now, now).unwrap();
        assert_eq!(
            fault.to_string(),
            "the newest backup of `database.main` is 2h old (SW-BAK-013): it may be 1h old (rpo)"
        );
        let never = overdue(
            "x",
            &Rules::default(),
            &History::default(),
            Timestamp(now.0 - 50 * 3_600_000),
            now,
        )
        .unwrap();
        assert!(never.what.contains("has no backup"), "{never}");
        assert_eq!(overdue("x", &Rules::default(), &History::default(), now, now), None);
    }

    #[test]
    fn the_first_drill_follows_the_first_backup_and_a_verification_comes_last() {
        let (now, key) =
            (Timestamp(1_800_000_000_000), ("shop".parse().unwrap(), "database.main".to_owned()));
        let rules =
            Rules { rhythm: backups::Rhythm::Every(Duration::from_secs(3600)), ..Rules::default() };
        let mut memory = Memory::default();
        let ask = |history: &History, memory: &Memory| {
            due(
                &rules,
                history,
                memory,
                &key,
                Timestamp(now.0 - 86_400_000),
                now,
                &jiff::tz::TimeZone::UTC,
                5,
            )
        };
        assert_eq!(ask(&History::default(), &memory), Some(Task::Take));
        assert_eq!(ask(&history(&[4000], now), &memory), Some(Task::Take));
        assert_eq!(ask(&history(&[60], now), &memory), Some(Task::Drill));
        memory.drilled.insert(key.clone(), now);
        assert_eq!(ask(&history(&[60], now), &memory), Some(Task::Verify));
        memory.verified.insert(key.clone(), now);
        assert_eq!(ask(&history(&[60], now), &memory), None);
    }
}
