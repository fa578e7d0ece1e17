//! Makes a manifest true: read, compare, build what is new, try it, switch, watch, or go back.
//!
//! One way for `up`, `deploy` and `rollback`. Rooms: [`source`] (where files come from), [`prepare`] and
//! [`plan`] (what can be refused or foreseen), [`flow`] (the steps, journaled by [`run`]), [`build`] with
//! [`files`], [`gate`], [`watch`], [`settle`] (what is wanted, in the world and on the disk), [`back`]
//! (rollback; of the databases too: [`data_back`], [`bring_back`]), [`resume`] (what another control or a panic left), [`turn`] (one at a time). Invariant: everything that
//! can be refused is refused before anything changes.

mod back;
mod bring_back;
mod build;
mod data_back;
mod differences;
mod error_lines;
pub(crate) mod files;
mod flow;
mod gate;
mod output;
mod plan;
mod prepare;
mod prune;
mod restore_point;
mod resume;
mod run;
mod settle;
mod source;
mod turn;
mod views;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use seaworthy_api::model::{
    Applied as Outcome, ApplyRequest, Asker, OrderRequest, Progress, RollbackRequest, Source,
    VERSION,
};
use seaworthy_base::{Code, Fault, ReleaseId, SiteName, Timestamp};
use seaworthy_manifest::site::Tls;
use seaworthy_release::{Deployment, Strategy};
use tokio::sync::mpsc::UnboundedSender;

use crate::databases;
use crate::defect::caught;
use crate::platform::Platform;
use crate::world::Refused;
use back::Target;
use prepare::Prepared;
use run::Run;

pub(crate) use files::{disk_fault, hex};
pub(crate) use prepare::resolve_secrets;
pub(crate) use resume::resume;
pub(crate) use settle::record;
pub(crate) use turn::{Patience, Turn, Turns, Word, take as take_turn};
pub(crate) use views::releases;

/// Where progress goes.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(pub UnboundedSender<Progress>);

impl Reporter {
    fn say(&self, progress: Progress) {
        // Nobody may be reading any more; the work goes on.
        self.0.send(progress).ok();
    }

    pub(crate) fn step(&self, text: impl Into<String>) {
        self.say(Progress::Step { text: text.into() });
    }

    fn warn(&self, fault: Fault) {
        self.say(Progress::Warning { fault });
    }
}

/// Applies a project's files; the last thing reported is `Done` or `Failed`.
pub(crate) async fn apply(platform: &Arc<Platform>, request: ApplyRequest, report: &Reporter) {
    let begun = Instant::now();
    let done = caught(attempt(platform, &request, report)).await.unwrap_or_else(Err);
    tell(begun, done, report);
}

/// Goes back to an earlier release.
pub(crate) async fn rollback(
    platform: &Arc<Platform>,
    request: RollbackRequest,
    report: &Reporter,
) {
    let begun = Instant::now();
    let done = caught(go_back(platform, &request, report)).await.unwrap_or_else(Err);
    tell(begun, done, report);
}

fn tell(begun: Instant, result: Result<Outcome, Fault>, report: &Reporter) {
    match result {
        Ok(mut outcome) => {
            outcome.took_ms = begun.elapsed().as_millis() as u64;
            report.say(Progress::Done(outcome));
        }
        Err(fault) => report.say(Progress::Failed { fault }),
    }
}

/// Says a word to the deployment of a site that goes on.
pub(crate) fn order(platform: &Arc<Platform>, request: &OrderRequest) -> Result<String, Fault> {
    let nothing = || {
        let what = format!("no deployment of `{}` goes on", request.site);
        let next = format!("seaworthy releases {}   (how the last ones ended)", request.site);
        Fault::new(Code::NoSuchRelease, what).next(next)
    };
    let name: SiteName = request.site.parse().map_err(|_| nothing())?;
    let word = match request.word.as_str() {
        "promote" => Word::Promote,
        _ => Word::Abort(request.asker.who.clone()),
    };
    if !platform.turns.say(&name, word) {
        return Err(nothing());
    }
    platform.audit(&request.asker.who, &request.word, name.as_str(), "");
    Ok(name.to_string())
}

async fn attempt(
    platform: &Arc<Platform>,
    request: &ApplyRequest,
    report: &Reporter,
) -> Result<Outcome, Fault> {
    let source = request.deploy.as_ref().map(|options| options.source.clone()).unwrap_or_default();
    let (layout, from) = (platform.layout.clone(), request.project.clone());
    let opened = tokio::task::spawn_blocking(move || source::open(&layout, &from, &source)).await;
    let files = opened.map_err(|error| Fault::new(Code::Internal, error.to_string()))??;
    let site = seaworthy_manifest::load(&files.dir).map_err(|problems| problems.to_fault())?;
    let name = site.name.clone();
    let project = project_of(platform, request, &name)?;
    prepare::refuse_conflicts(platform, &project, &site)?;
    let verb = if request.deploy.is_some() { "deploy" } else { "up" };
    let options = request.deploy.as_ref();
    let ready = |report: &Reporter| {
        databases::prepare(platform, &site, request.plan_only)?;
        prepare::prepare(platform, &project, &files.dir, site.clone(), options, report)
    };
    if request.plan_only {
        let prepared = ready(report)?;
        return Ok(outcome(platform, &prepared, None).await);
    }
    let no_wait = options.is_some_and(|options| options.no_wait);
    let patience = if no_wait { Patience::None } else { Patience::Watched };
    let turn = take_turn(platform, &name, &by(&request.asker), patience, report).await?;
    let was_running = is_running(platform, &name);
    let result = match ready(report) {
        Ok(prepared) => {
            carry_out(platform, turn, &prepared, verb, &files.words, &request.asker, report).await
        }
        Err(fault) => Err(fault),
    };
    remember(platform, &project, &name, verb, was_running, result.as_ref().err());
    result
}

/// The folder that a site belongs to; one that came as an archive only has a place of its own.
fn project_of(
    platform: &Arc<Platform>,
    request: &ApplyRequest,
    name: &SiteName,
) -> Result<PathBuf, Fault> {
    let archive = request.deploy.as_ref().is_some_and(|one| matches!(one.source, Source::Tar(_)));
    if !archive {
        return Ok(request.project.clone());
    }
    if let Some(site) = platform.world().sites.get(name) {
        return Ok(site.project.clone());
    }
    let own = platform.layout.state.join("sites").join(name.as_str()).join("project");
    std::fs::create_dir_all(&own)
        .map_err(|error| disk_fault(format!("could not make `{}`", own.display()), &error))?;
    Ok(own)
}

async fn go_back(
    platform: &Arc<Platform>,
    request: &RollbackRequest,
    report: &Reporter,
) -> Result<Outcome, Fault> {
    let unknown = || Fault::new(Code::NoSuchSite, format!("there is no site `{}`", request.site));
    let name: SiteName = request.site.parse().map_err(|_| unknown())?;
    let turn = if request.plan_only {
        None
    } else {
        let who = by(&request.asker);
        Some(take_turn(platform, &name, &who, Patience::Watched, report).await?)
    };
    let Target { applied, data, schema } = back::target(platform, &name, request)?;
    let project = platform.world().sites.get(&name).map(|site| site.project.clone());
    let project = project.ok_or_else(unknown)?;
    let mut prepared = prepare::again(platform, &project, applied, report)?;
    if data.is_some() {
        prepared.strategy = Strategy::Recreate;
    }
    prepared.data = data;
    let Some(turn) = turn else {
        let mut outcome = outcome(platform, &prepared, prepared.release).await;
        if let (Some(plan), Some(data)) = (&mut outcome.plan, &prepared.data) {
            plan.data = Some(data_back::plan(platform, &name, data, &schema, Timestamp::now()));
        }
        return Ok(outcome);
    };
    back::refuse_unconfirmed(&name, &prepared, request)?;
    back::announce(report, &prepared);
    carry_out(platform, turn, &prepared, "rollback", "", &request.asker, report).await
}

/// Who asks, for those who have to wait.
fn by(asker: &Asker) -> String {
    if asker.who.is_empty() { "somebody".to_owned() } else { asker.who.clone() }
}

fn is_running(platform: &Arc<Platform>, name: &SiteName) -> bool {
    platform.world().sites.get(name).is_some_and(|site| site.running)
}

#[expect(clippy::too_many_arguments, reason = "what a deployment is, once")]
async fn carry_out(
    platform: &Arc<Platform>,
    turn: Turn,
    prepared: &Prepared,
    verb: &str,
    source: &str,
    asker: &Asker,
    report: &Reporter,
) -> Result<Outcome, Fault> {
    let name = &prepared.site.name;
    let mut outcome = outcome(platform, prepared, None).await;
    let from = platform.world().sites.get(name).map(|site| site.applied.release);
    let record = Deployment {
        number: 0,
        site: name.clone(),
        verb: verb.to_owned(),
        source: source.to_owned(),
        release: None,
        from,
        strategy: prepared.strategy,
        owner: run::owner(platform, &by(asker), asker.process),
        lease_until: Timestamp::now(),
        began: Timestamp::now(),
        steps: Vec::new(),
        ending: None,
        fault: None,
        points: Vec::new(),
        data: prepared.data.clone(),
        secrets: prepared.secrets.clone(),
        applied: String::new(),
    };
    let run = Run::open(platform, turn, record, report)?;
    let subject = format!("{name} deployment {}", run.record().number);
    platform.audit(&by(asker), verb, &subject, source);
    let done = match caught(flow::go(&run, prepared)).await {
        Ok(done) => done,
        Err(defect) => Box::pin(resume::after_defect(&run, defect)).await,
    };
    run.sweep().await;
    databases::settle(platform, name);
    let how = done.as_ref().map_or_else(ToString::to_string, ToString::to_string);
    platform.audit(&by(asker), &format!("{verb}-ended"), &subject, &how);
    outcome.release = Some(done?.to_string());
    outcome.urls = crate::status::urls(platform, name).await;
    Ok(outcome)
}

/// What is known before anything is done; complete but for the release.
async fn outcome(
    platform: &Arc<Platform>,
    prepared: &Prepared,
    release: Option<ReleaseId>,
) -> Outcome {
    let name = &prepared.site.name;
    let built = build::find(platform, prepared).is_some();
    let serving = platform.world().sites.get(name).map(|site| site.applied.release);
    let start_ms = back::last_start(platform, name);
    let plan = plan::plan(&platform.world(), prepared, built, start_ms);
    Outcome {
        v: VERSION,
        site: name.to_string(),
        release: release.or(serving).map(|release| release.to_string()),
        urls: crate::status::urls(platform, name).await,
        ca: (prepared.site.tls == Tls::Internal).then(|| platform.layout.ca()),
        changes: differences::differences(platform, prepared),
        plan: Some(Box::new(plan)),
        was_running: is_running(platform, name),
        took_ms: 0,
    }
}

/// Keeps why a site is not what its folder says, for those who ask later. A first start that failed is
/// not kept: its instances are there and say it themselves.
fn remember(
    platform: &Arc<Platform>,
    project: &Path,
    name: &SiteName,
    verb: &str,
    was_running: bool,
    fault: Option<&Fault>,
) {
    let kept = was_running || !platform.world().sites.get(name).is_some_and(|site| site.running);
    let refused = fault.filter(|_| kept).map(|fault| {
        let what = format!("the last `{verb}` was not done: {}", fault.what);
        let fault = Fault { what, ..fault.clone() };
        Refused {
            project: project.to_path_buf(),
            fault: fault.next(format!("seaworthy {verb} {}", project.display())),
        }
    });
    if let Some(Refused { fault, .. }) = &refused {
        platform.event(Some(name.as_str()), None, "up-refused", &fault.what, Some(fault));
    }
    keep_refused(platform, name, refused);
}

/// Keeps or forgets a refused `up`, in memory and in the store.
pub(crate) fn keep_refused(platform: &Arc<Platform>, name: &SiteName, refused: Option<Refused>) {
    let text = {
        let mut world = platform.world();
        match refused {
            Some(refused) => drop(world.refused.insert(name.clone(), refused)),
            None if world.refused.remove(name).is_none() => return,
            None => {}
        }
        serde_json::to_string(&world.refused).unwrap_or_default()
    };
    if let Err(error) = platform.store().put_setting("refused", &text) {
        crate::say(&format!("could not record why `up` of {name} was refused: {error}"));
    }
}
