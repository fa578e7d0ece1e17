//! Backups: from a site's manifest to jobs for workers, and what they say back.
//!
//! Control decides what is due and hands out jobs; a worker (a process of its own) does them, so that
//! nothing of a dump, a store or a key is in control's memory for longer than it takes to hand it over.
//! Rooms: `jobs` (manifest and secrets → jobs), `clock` (what is due), `follow` (logs of servers), `restore_points`
//! (before a migration). Invariants: one worker at a time on an
//! item (its lock sees to that, manual or scheduled); what failed stands in `status` until it succeeds.

mod clock;
mod follow;
mod jobs;
mod restore_points;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use seaworthy_api::backup::{
    BackupAction, BackupKey, BackupProgress, BackupRequest, RestoreRequest,
};
use seaworthy_api::model::VERSION;
use seaworthy_backup::{Action, Event, Job, RestoreTarget};
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_manifest::Site;
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::platform::Platform;
use crate::server::{Refusal, Shared, lines};
use crate::worker::Worker;

pub(crate) use clock::run as run_clock;
pub(crate) use restore_points::{
    bring_back, check, make as make_restore_points, of as restore_points_of,
};

/// Where the owner's recipients are kept.
const OWNER: &str = "backup-owner";

/// The routes of the control protocol.
pub(crate) fn routes() -> Router<Arc<Platform>> {
    Router::new()
        .route("/v1/backup", post(backup))
        .route("/v1/backup/key", get(key))
        .route("/v1/backup/key", post(put_key))
}

async fn backup(State(platform): Shared, Json(request): Json<BackupRequest>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Err(fault) = serve(&platform, &request, &sender).await {
            sender.send(BackupProgress::Failed { item: None, fault }).ok();
        }
        // Nobody may be reading any more; the work was done all the same.
        sender.send(BackupProgress::End).ok();
    });
    lines(receiver)
}

async fn key(State(platform): Shared) -> Json<BackupKey> {
    Json(BackupKey { v: VERSION, owner: owner(&platform) })
}

async fn put_key(
    State(platform): Shared,
    Json(key): Json<BackupKey>,
) -> Result<Json<BackupKey>, Refusal> {
    if let Some(bad) =
        key.owner.iter().find(|text| seaworthy_backup::recipient_problem(text).is_some())
    {
        return Err(Refusal(Fault::new(Code::BackupKey, format!("`{bad}` is no age recipient"))));
    }
    let text = serde_json::to_string(&key.owner).unwrap_or_default();
    platform
        .store()
        .put_setting(OWNER, &text)
        .map_err(|error| Refusal(crate::instances::store_fault(&error)))?;
    platform.event(
        None,
        None,
        "backup-key",
        &format!("backups are encrypted for {}", key.owner.join(", ")),
        None,
    );
    Ok(Json(key))
}

/// The owner's recipients, as far as there are any.
fn owner(platform: &Platform) -> Vec<String> {
    let text = platform.store().get_setting(OWNER).ok().flatten();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// A site whose backups are meant, with its folder.
#[derive(Debug, Clone)]
struct Chosen {
    name: SiteName,
    project: PathBuf,
    site: Site,
}

fn choose(platform: &Platform, request: &BackupRequest) -> Result<Chosen, Fault> {
    if let Some(project) = &request.project {
        let site = seaworthy_manifest::load(project).map_err(|problems| problems.to_fault())?;
        return Ok(Chosen { name: site.name.clone(), project: project.clone(), site });
    }
    let world = platform.world();
    let fits =
        |name: &&SiteName| request.site.as_ref().is_none_or(|wanted| wanted == name.as_str());
    let names: Vec<&SiteName> = world.sites.keys().filter(fits).collect();
    let [name] = names[..] else {
        let what = match &request.site {
            Some(wanted) => format!("there is no site `{wanted}`"),
            None if names.is_empty() => "there is no site yet".to_owned(),
            None => "there are several sites: say which".to_owned(),
        };
        return Err(Fault::new(Code::NoSuchSite, what)
            .next("--site NAME, or run it in the project's folder"));
    };
    let state =
        world.sites.get(name).ok_or_else(|| Fault::new(Code::NoSuchSite, "the site is gone"))?;
    Ok(Chosen {
        name: name.clone(),
        project: state.project.clone(),
        site: state.applied.site.clone(),
    })
}

/// Does what is asked, item after item; one that fails does not hold up the others.
async fn serve(
    platform: &Arc<Platform>,
    request: &BackupRequest,
    to: &UnboundedSender<BackupProgress>,
) -> Result<(), Fault> {
    let chosen = choose(platform, request)?;
    let items =
        jobs::items(&chosen.site, &request.items, matches!(request.action, BackupAction::Now))?;
    for item in items {
        to.send(BackupProgress::Item { item: item.clone() }).ok();
        let outcome = match action(platform, &chosen, &item, &request.action) {
            Ok(action) => perform(platform, &chosen, &item, action, true, to).await,
            Err(fault) => Err(fault),
        };
        let last = match outcome {
            Ok(report) => BackupProgress::Done { item, report },
            Err(fault) => BackupProgress::Failed { item: Some(item), fault },
        };
        to.send(last).ok();
    }
    Ok(())
}

/// The worker's action for what was asked.
fn action(
    platform: &Platform,
    chosen: &Chosen,
    item: &str,
    asked: &BackupAction,
) -> Result<Action, Fault> {
    Ok(match asked.clone() {
        BackupAction::Now => Action::Take { reason: "asked".to_owned() },
        BackupAction::List => Action::List,
        BackupAction::Verify { full, id } => Action::Verify { full, set: id },
        BackupAction::Drill { id, store } => Action::Drill { set: id, store },
        BackupAction::Prune { plan_only } => Action::Prune { plan_only },
        BackupAction::Restore(restore) => restore_action(platform, chosen, item, restore)?,
    })
}

fn restore_action(
    platform: &Platform,
    chosen: &Chosen,
    item: &str,
    restore: RestoreRequest,
) -> Result<Action, Fault> {
    let target = match (restore.to, restore.into) {
        (Some(to), _) => {
            RestoreTarget::To { url: jobs::given(platform, &chosen.project, &chosen.site, &to)? }
        }
        (None, Some(name)) => RestoreTarget::Into { name },
        (None, None) if restore.confirmed.as_deref() == Some(item) => RestoreTarget::InPlace,
        (None, None) => {
            return Err(Fault::new(
                Code::RestoreUnconfirmed,
                format!("restoring `{item}` in place replaces live data"),
            )
            .next(format!(
                "seaworthy backup restore {item} --yes {item}   (a fresh backup is made first)"
            ))
            .next(format!("seaworthy backup restore {item} --into NAME   restores beside it")));
        }
    };
    let identity = restore.identity.map(|path| {
        std::fs::read_to_string(&path).map_err(|error| {
            Fault::new(Code::BackupKey, format!("the key file `{}` cannot be read", path.display()))
                .because(error.to_string())
        })
    });
    Ok(Action::Restore {
        set: restore.id,
        at: restore.at,
        store: restore.store,
        target,
        identity: identity.transpose()?,
    })
}

/// Has a worker do one thing to one item, and notes what became of it.
async fn perform(
    platform: &Arc<Platform>,
    chosen: &Chosen,
    item: &str,
    action: Action,
    patient: bool,
    to: &UnboundedSender<BackupProgress>,
) -> Result<serde_json::Value, Fault> {
    let kind = match &action {
        Action::Take { .. } => "backup",
        Action::Drill { .. } => "drill",
        Action::Restore { .. } => "restore",
        Action::Verify { .. } => "verify",
        Action::Prune { .. } => "prune",
        Action::Follow { .. } => "follow",
        Action::List => "list",
    };
    let mut job = jobs::job(platform, &chosen.project, &chosen.site, item, action)?;
    job.patient = patient;
    let outcome = work(platform, &job, to).await;
    note(platform, &chosen.name, item, kind, &outcome);
    outcome
}

/// Events of what changed or failed, and the fault that `status` shows until it is mended.
fn note(
    platform: &Arc<Platform>,
    site: &SiteName,
    item: &str,
    kind: &str,
    outcome: &Result<serde_json::Value, Fault>,
) {
    if kind == "list" {
        return;
    }
    // A report can tell of a failure, too: a drill that found differences, a store without its copy.
    let fault = match outcome {
        Ok(report) => clock::fault_in(kind, report),
        // Somebody else is at work: nothing is wrong.
        Err(fault) if fault.code == Code::BackupBusy => return,
        Err(fault) => Some(fault.clone()),
    };
    match &fault {
        Some(fault) => platform.event(
            Some(site.as_str()),
            None,
            &format!("{kind}-failed"),
            &format!("{item}: {}", fault.what),
            Some(fault),
        ),
        None => platform.event(Some(site.as_str()), None, kind, item, None),
    }
    if matches!(kind, "backup" | "drill" | "verify") {
        platform.world().note(site, &format!("{kind} {item}"), fault);
        platform.changed();
    }
}

/// Runs a worker to its end.
async fn work(
    platform: &Arc<Platform>,
    job: &Job,
    to: &UnboundedSender<BackupProgress>,
) -> Result<serde_json::Value, Fault> {
    let mut worker = Worker::start(platform, "backup-worker", job).await?;
    let mut last = None;
    while let Some(event) = worker.next::<Event>().await? {
        let progress = match event {
            Event::Step { text } => BackupProgress::Step { text },
            Event::Moved { done, total } => BackupProgress::Moved { done, total },
            Event::Warning { fault } => BackupProgress::Warning { fault },
            Event::Done { report } => {
                last = Some(Ok(report));
                continue;
            }
            Event::Failed { fault } => {
                last = Some(Err(fault));
                continue;
            }
        };
        to.send(progress).ok();
    }
    let status = worker.end().await?;
    last.unwrap_or_else(|| {
        Err(Fault::new(Code::BackupFailed, "the work on a backup was cut off")
            .because(format!("the worker ended with {status}")))
    })
}
