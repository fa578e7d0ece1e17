//! One deployment of a site at a time: who has the turn, and how the others wait for it.
//!
//! The turn is a lock in memory and therefore cannot outlive the process that holds it; what outlives it
//! is the journal, which the next control reads (`resume`). Invariants: a turn ends when its holder is
//! dropped, however that comes about; whoever waits is told for whom.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seaworthy_api::model::Progress;
use seaworthy_base::{Code, Fault, SiteName};
use tokio::sync::watch;

use crate::platform::Platform;
use crate::release::Reporter;

/// What somebody says to a deployment that goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing yet.
    #[default]
    None,
    /// Go on from the pause.
    Promote,
    /// Stop, and take back what was done; by whom.
    Abort(String),
}

/// Who has which turn.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<SiteName, Taken>>);

#[derive(Debug)]
struct Taken {
    by: String,
    words: watch::Sender<Word>,
}

/// A turn; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    platform: Arc<Platform>,
    site: SiteName,
    /// What is said to it.
    pub words: watch::Receiver<Word>,
}

impl Turns {
    fn all(&self) -> MutexGuard<'_, BTreeMap<SiteName, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has the turn of a site.
    pub(crate) fn holder(&self, site: &SiteName) -> Option<String> {
        self.all().get(site).map(|taken| taken.by.clone())
    }

    /// The sites of which somebody has the turn.
    pub(crate) fn sites(&self) -> Vec<SiteName> {
        self.all().keys().cloned().collect()
    }

    /// Anybody who has a turn.
    pub(crate) fn any(&self) -> Option<String> {
        self.all().values().next().map(|taken| taken.by.clone())
    }

    /// Says a word to the deployment that goes on; whether there is one.
    pub(crate) fn say(&self, site: &SiteName, word: Word) -> bool {
        self.all().get(site).is_some_and(|taken| taken.words.send(word).is_ok())
    }
}

/// How long somebody waits for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// As long as somebody looks on: what has not begun does not begin behind the back of who gave it up.
    Watched,
    /// Until it comes.
    Endless,
}

/// Takes the turn of a site.
pub(crate) async fn take(
    platform: &Arc<Platform>,
    site: &SiteName,
    by: &str,
    patience: Patience,
    report: &Reporter,
) -> Result<Turn, Fault> {
    let mut changes = platform.changes.subscribe();
    let mut told = false;
    loop {
        if platform.world().closing {
            return Err(crate::lifecycle::ending());
        }
        let holder = {
            let mut all = platform.turns.all();
            let Some(taken) = all.get(site) else {
                let (sender, words) = watch::channel(Word::None);
                all.insert(site.clone(), Taken { by: by.to_owned(), words: sender });
                return Ok(Turn { platform: Arc::clone(platform), site: site.clone(), words });
            };
            taken.by.clone()
        };
        let busy = busy(site, &holder);
        let given_up = patience == Patience::Watched && report.0.is_closed();
        if patience == Patience::None || given_up {
            return Err(busy);
        }
        if !told {
            report.say(Progress::Step { text: format!("waiting: {}", busy.what) });
            told = true;
        }
        tokio::time::timeout(Duration::from_millis(200), changes.changed()).await.ok();
    }
}

fn busy(site: &SiteName, holder: &str) -> Fault {
    Fault::new(Code::DeployBusy, format!("{holder} is deploying `{site}`"))
        .next(format!("seaworthy status   (shows how far it is), or: seaworthy abort {site}"))
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.platform.turns.all().remove(&self.site);
        self.platform.changed();
    }
}
