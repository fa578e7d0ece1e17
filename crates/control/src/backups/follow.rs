//! Following the logs of PostgreSQL servers: one worker for each, as long as its site runs.
//!
//! A worker that says what is wrong is ended and begun anew with a fresh job, since a password may have changed
//! meanwhile. Invariant: what is wrong with a log stands in `status` until the log was stored again. Not here:
//! receiving and storing, which the worker does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_api::backup::BackupProgress;
use seaworthy_backup::Action;
use seaworthy_base::{Fault, SiteName};
use seaworthy_manifest::site::backups::{Item, Source};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Chosen, jobs, work};
use crate::platform::Platform;

/// Pause before a worker that failed is begun anew.
const AGAIN: Duration = Duration::from_secs(5);

/// The workers that follow.
#[derive(Debug, Default)]
pub(super) struct Followers(BTreeMap<(SiteName, String), (Item, JoinHandle<()>)>);

impl Followers {
    /// Begins those that are missing, ends those that nobody asks for any more.
    pub(super) fn look<'a>(
        &mut self,
        platform: &Arc<Platform>,
        sites: impl Iterator<Item = &'a Chosen>,
    ) {
        let mut asked = BTreeSet::new();
        for chosen in sites {
            for (name, item) in &chosen.site.backups.items {
                if !matches!(item.source, Source::PostgresLog { .. }) {
                    continue;
                }
                let key = (chosen.name.clone(), name.clone());
                asked.insert(key.clone());
                let same = self
                    .0
                    .get(&key)
                    .is_some_and(|(known, task)| known == item && !task.is_finished());
                if !same {
                    let task =
                        tokio::spawn(follow(Arc::clone(platform), chosen.clone(), name.clone()));
                    // Its worker ends with it: nobody holds its standard input any more.
                    if let Some((_, old)) = self.0.insert(key, (item.clone(), task)) {
                        old.abort();
                    }
                }
            }
        }
        self.0.retain(|key, (_, task)| {
            let stays = asked.contains(key);
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

async fn follow(platform: Arc<Platform>, chosen: Chosen, item: String) {
    loop {
        let fault = once(&platform, &chosen, &item).await;
        crate::say(&format!("{}: following {item}: {fault}", chosen.name));
        note(&platform, &chosen, &item, Some(fault));
        tokio::time::sleep(AGAIN).await;
    }
}

/// Follows until something is wrong.
async fn once(platform: &Arc<Platform>, chosen: &Chosen, item: &str) -> Fault {
    let pitr = chosen.site.backups.items.get(item).and_then(|item| item.backup.as_ref()?.pitr);
    let every_ms = pitr.unwrap_or_default().every.as_millis() as u64;
    let action = Action::Follow { every_ms };
    let job = match jobs::job(platform, &chosen.project, &chosen.site, item, action) {
        Ok(job) => job,
        Err(fault) => return fault,
    };
    let (to, mut from) = mpsc::unbounded_channel();
    let mut working = std::pin::pin!(work(platform, &job, &to));
    loop {
        tokio::select! {
            ended = &mut working => {
                return ended.err().unwrap_or_else(|| {
                    Fault::new(seaworthy_base::Code::Internal, "the following ended without a word")
                });
            }
            said = from.recv() => match said {
                Some(BackupProgress::Warning { fault }) => return fault,
                Some(BackupProgress::Step { text }) if text.starts_with("the log is stored") => {
                    note(platform, chosen, item, None);
                }
                _ => {}
            },
        }
    }
}

fn note(platform: &Arc<Platform>, chosen: &Chosen, item: &str, fault: Option<Fault>) {
    platform.world().note(&chosen.name, &format!("log {item}"), fault);
    platform.changed();
}
