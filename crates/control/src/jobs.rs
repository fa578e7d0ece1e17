//! Jobs: what runs at its time, once at a time, with a limit, a log and a remembered result.
//!
//! Invariants: a job never overlaps itself, also not with a run that an earlier control began: whatever a
//! run started holds its lock (as standard input) until the last of it is gone; a run that was missed is
//! made up for once; jobs of a site that is down do not run. Not here: when (`schedule`, pure).

mod schedule;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use rustix::fs::FlockOperation;
use seaworthy_api::model::{JobView, Jobs, VERSION};
use seaworthy_base::{Code, Fault, SiteName, Timestamp};
use seaworthy_manifest::site::{Job, Service, ServiceKind, Tls, When, Work};
use seaworthy_sys::logfile::{LogRules, RotatingLog};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::commands::bounds::{self, Bounds, Limits};
use crate::commands::{self, Surroundings};
use crate::defect::caught;
use crate::platform::Platform;
use crate::probe::{self, Question};
use crate::specs::{self, Place, Values};
use crate::world::Applied;
use crate::{by_hand, users};

/// A look is taken at least this often: clocks jump.
const PULSE: Duration = Duration::from_secs(20);

/// What is known of a job's runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Past {
    /// Since when the job is known as it is.
    since: Timestamp,
    /// Its time, to notice that it was changed.
    when: When,
    /// The start of its last run.
    last: Option<Timestamp>,
    /// How long that took.
    took_ms: Option<u64>,
    /// How it went; none while it runs, and for ever when its control died.
    ok: Option<bool>,
    /// Why not.
    fault: Option<Fault>,
}

/// Jobs that run.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<BTreeSet<(SiteName, String)>>);

impl Running {
    fn begin(&self, key: &(SiteName, String)) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone())
    }

    fn end(&self, key: &(SiteName, String)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// A job of that site that runs.
    pub(crate) fn any_of(&self, site: &SiteName) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(of, _)| of == site).map(|(_, job)| job.clone())
    }

    fn has(&self, key: &(SiteName, String)) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

/// All that a run needs.
struct Ready {
    site: SiteName,
    job: Job,
    applied: Applied,
    values: Values,
    user: Option<seaworthy_runtime::model::User>,
    /// Its site's databases are being exchanged: what is due waits.
    exchanging: bool,
}

/// Runs jobs at their times until control ends.
pub(crate) async fn run(platform: Arc<Platform>) {
    let mut changes = platform.changes.subscribe();
    loop {
        let wait = start_due(&platform).min(PULSE);
        tokio::time::timeout(wait, changes.changed()).await.ok();
        // Instances say something all the time; a second is soon enough for jobs.
        tokio::time::sleep(Duration::from_secs(1).min(wait)).await;
    }
}

/// Starts what is due; says how long until the next one is.
fn start_due(platform: &Arc<Platform>) -> Duration {
    let (zone, now) = (TimeZone::system(), Timestamp::now());
    let mut soonest = PULSE;
    for ready in all(platform).into_iter().filter(|one| !one.exchanging) {
        let past = past(platform, &ready.site, &ready.job, now);
        let due = schedule::next(&ready.job.when, past.last.unwrap_or(past.since), &zone);
        let Some(due) = due else { continue };
        if due <= now {
            start(platform, ready);
        } else {
            soonest = soonest.min(Duration::from_millis(due.0 - now.0));
        }
    }
    soonest
}

/// The jobs of every site that runs.
fn all(platform: &Arc<Platform>) -> Vec<Ready> {
    let world = platform.world();
    let running = world.sites.iter().filter(|(_, site)| site.running && !world.closing);
    running
        .flat_map(|(name, site)| {
            let serving = site.serving();
            serving.site.jobs.iter().map(move |job| Ready {
                site: name.clone(),
                job: job.clone(),
                applied: serving.clone(),
                values: site.serving_values().clone(),
                user: site.user.clone(),
                exchanging: site.rollout.as_ref().is_some_and(|rollout| rollout.everything),
            })
        })
        .collect()
}

/// What is known of a job; a job that is new, or has another time, begins now.
fn past(platform: &Platform, site: &SiteName, job: &Job, now: Timestamp) -> Past {
    let kept = platform.store().job(site, &job.name).ok().flatten();
    let kept: Option<Past> = kept.and_then(|text| serde_json::from_str(&text).ok());
    if let Some(past) = kept.clone().filter(|past| past.when == job.when) {
        return past;
    }
    let fresh = Past {
        since: now,
        when: job.when.clone(),
        last: None,
        took_ms: kept.as_ref().and_then(|past| past.took_ms),
        ok: kept.as_ref().and_then(|past| past.ok),
        fault: kept.and_then(|past| past.fault),
    };
    keep(platform, site, &job.name, &fresh);
    fresh
}

fn keep(platform: &Platform, site: &SiteName, job: &str, past: &Past) {
    let text = serde_json::to_string(past).unwrap_or_default();
    if let Err(error) = platform.store().put_job(site, job, &text) {
        crate::say(&format!("could not keep the result of job {site}/{job}: {error}"));
    }
}

/// The lock of a job: held by everything that a run started, as standard input.
fn lock(platform: &Platform, site: &SiteName, job: &str) -> std::io::Result<Option<File>> {
    let dir: PathBuf = platform.layout.run.join("jobs");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{site}.{job}.lock"));
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(false).write(true).read(true).mode(0o600).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Starts a run in a task of its own; whether it did. One that still runs is left alone.
fn start(platform: &Arc<Platform>, ready: Ready) -> bool {
    let key = (ready.site.clone(), ready.job.name.clone());
    if !platform.jobs.begin(&key) {
        return false;
    }
    let lock = match lock(platform, &ready.site, &ready.job.name) {
        Ok(Some(lock)) => lock,
        other => {
            platform.jobs.end(&key);
            if let Err(error) = other {
                crate::say(&format!("job {}/{} has no lock: {error}", key.0, key.1));
            }
            return false;
        }
    };
    let platform = Arc::clone(platform);
    tokio::spawn(async move {
        let begun = Instant::now();
        let mut past = past(&platform, &ready.site, &ready.job, Timestamp::now());
        (past.last, past.ok, past.fault) = (Some(Timestamp::now()), None, None);
        keep(&platform, &ready.site, &ready.job.name, &past);
        let limit = ready.job.timeout;
        let done = tokio::time::timeout(limit, caught(perform(&platform, &ready, &lock))).await;
        let done = done.map(|done| done.unwrap_or_else(Err));
        let ended = done.is_ok();
        let fault = done.unwrap_or_else(|_| Err(too_long(&ready.job, limit))).err();
        if !ended {
            bounds::sweep(&platform, bounds::of_job(&key.0, &key.1)).await;
        }
        past.took_ms = Some(begun.elapsed().as_millis() as u64);
        past.ok = Some(fault.is_none());
        if let Some(fault) = &fault {
            let site = Some(ready.site.as_str());
            platform.event(site, None, "job-failed", &fault.what, Some(fault));
        }
        past.fault = fault;
        keep(&platform, &ready.site, &ready.job.name, &past);
        platform.jobs.end(&key);
        platform.changed();
    });
    true
}

fn too_long(job: &Job, limit: Duration) -> Fault {
    let what = format!("job `{}` did not end within {} s", job.name, limit.as_secs());
    Fault::new(Code::JobFailed, what).because("`timeout` of the job says so")
}

async fn perform(platform: &Arc<Platform>, ready: &Ready, lock: &File) -> Result<(), Fault> {
    match &ready.job.work {
        Work::Run { service, commands: list } => {
            let nothing =
                || Fault::new(Code::JobFailed, format!("there is no service `{service}`"));
            let described = ready.applied.site.services.get(service).ok_or_else(nothing)?;
            let layout = &platform.layout;
            let place = Place { layout, site: &ready.site, release: ready.applied.release };
            let environment = specs::environment(described, place, &ready.values);
            let dir = specs::folder(described, place);
            let user = match by_hand::own_user(described) {
                Some(name) if platform.root => Some(users::existing(&name)?),
                _ => ready.user.clone(),
            };
            let data = layout.data(&ready.site).display().to_string();
            let release = ready.applied.release.to_string();
            let (sender, receiver) = commands::lines();
            let log = tokio::task::spawn_blocking({
                let path = log_path(platform, ready);
                move || write_log(path, receiver)
            });
            let bounds = bounds_of(platform, ready, described);
            if let Some(missing) = &bounds.missing {
                crate::say(&format!("job {}/{}: {missing}", ready.site, ready.job.name));
            }
            let mut result = Ok(());
            for command in list {
                let argv = commands::argv(command, &[("DATA", &data), ("RELEASE", &release)]);
                let around = Surroundings {
                    dir: &dir,
                    environment: &environment,
                    user: user.as_ref(),
                    // The job's own limit is kept by who waits for all of it.
                    limit: Duration::MAX,
                    input: lock.try_clone().ok(),
                    bounds: Some(&bounds),
                };
                result = commands::run(&argv, &around, Code::JobFailed, &sender).await;
                if result.is_err() {
                    break;
                }
            }
            drop(sender);
            log.await.ok();
            let log = log_path(platform, ready);
            result.map_err(|fault| {
                fault.next(format!("less {}   (all that it printed)", log.display()))
            })
        }
        Work::Request { method, host, path, bearer } => {
            let host = host.clone().or_else(|| ready.applied.site.domains.first().cloned());
            let value = bearer.as_ref().and_then(|name| ready.values.get(name));
            let header = value
                .map(|value| ("authorization".to_owned(), format!("Bearer {}", value.expose())));
            request(platform, ready, method, &host.unwrap_or_default(), path, header).await
        }
    }
}

/// A job has the limits of its service, whose code it runs.
fn bounds_of(platform: &Platform, ready: &Ready, service: &Service) -> Bounds {
    let (memory, cpu_millis) = match &service.kind {
        ServiceKind::Process(process) => (process.memory_max, process.cpu_millis),
        _ => (None, None),
    };
    let limits = Limits { memory, cpu_millis, memory_key: "`memory` of its service" };
    Bounds::new(platform, &bounds::of_job(&ready.site, &ready.job.name), limits, false)
}

async fn request(
    platform: &Arc<Platform>,
    ready: &Ready,
    method: &str,
    host: &str,
    path: &str,
    header: Option<(String, String)>,
) -> Result<(), Fault> {
    let site = &ready.applied.site;
    let way = crate::serve::way_in(platform, site, host).await;
    let what = format!("`{method} {host}{path}` of job `{}` was not answered well", ready.job.name);
    let failed = |cause: &str| Fault::new(Code::JobFailed, what.clone()).because(cause);
    let Some((address, certificate)) = way else { return Err(failed("the site has no address")) };
    debug_assert!(certificate.is_some() || site.tls == Tls::Off);
    let question = Question {
        address,
        certificate,
        host: host.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        headers: header.into_iter().collect(),
        timeout_ms: ready.job.timeout.as_millis() as u64,
    };
    let answer = probe::ask(platform, &question).await.map_err(|cause| failed(&cause))?;
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    let fault = failed(&format!("the answer was {}", answer.status));
    Err(match answer.request_id {
        Some(id) => fault.next(format!("seaworthy explain request {id}")),
        None => fault,
    })
}

fn log_path(platform: &Platform, ready: &Ready) -> PathBuf {
    platform.layout.site_logs(&ready.site).join(format!("job-{}.log", ready.job.name))
}

fn write_log(path: PathBuf, mut lines: mpsc::Receiver<String>) {
    let mut log = RotatingLog::open(LogRules { path, max_size: 10 << 20, keep: 5, days: None });
    while let Some(line) = lines.blocking_recv() {
        log.write(format!("{} out {line}\n", Timestamp::now()).as_bytes(), 1);
    }
}

/// The jobs of a site, with their times and results.
pub(crate) fn list(platform: &Arc<Platform>, site: &str) -> Result<Jobs, Fault> {
    let (zone, now) = (TimeZone::system(), Timestamp::now());
    let known = platform.world().sites.keys().any(|name| name.as_str() == site);
    if !known {
        let fault = Fault::new(Code::NoSuchSite, format!("there is no site `{site}`"));
        return Err(fault.next("seaworthy status"));
    }
    let own = all(platform).into_iter().filter(|ready| ready.site.as_str() == site);
    let jobs = own.map(|ready| {
        let past = past(platform, &ready.site, &ready.job, now);
        let next = schedule::next(&ready.job.when, past.last.unwrap_or(past.since), &zone);
        let runs = platform.jobs.has(&(ready.site.clone(), ready.job.name.clone()));
        JobView {
            name: ready.job.name.clone(),
            when: words(&ready.job.when),
            next: next.map(|at| at.to_string()),
            last: past.last.map(|at| at.to_string()),
            took_ms: past.took_ms,
            state: match (runs, past.last, past.ok) {
                (true, ..) => "running",
                (false, None, _) => "never ran",
                (false, Some(_), Some(true)) => "ok",
                (false, Some(_), Some(false)) => "failed",
                (false, Some(_), None) => "unknown: control ended meanwhile",
            }
            .to_owned(),
            log: log_path(platform, &ready),
            fault: past.fault,
        }
    });
    Ok(Jobs { v: VERSION, site: site.to_owned(), jobs: jobs.collect() })
}

fn words(when: &When) -> String {
    match when {
        When::At(minute) => format!("at {:02}:{:02}", minute / 60, minute % 60),
        When::Every(period) => format!("every {}", seaworthy_base::format_duration(*period)),
        When::Cron(cron) => format!("cron {}", cron.text),
    }
}

/// Starts a job now, whatever its time.
pub(crate) fn start_now(platform: &Arc<Platform>, site: &str, job: &str) -> Result<(), Fault> {
    let mut all = all(platform).into_iter();
    let found = all.find(|ready| ready.site.as_str() == site && ready.job.name == job);
    let Some(ready) = found else {
        let what = format!("there is no job `{job}` in a running site `{site}`");
        return Err(Fault::new(Code::NoSuchJob, what).next(format!("seaworthy job list {site}")));
    };
    if start(platform, ready) {
        return Ok(());
    }
    Err(Fault::new(Code::JobFailed, format!("job `{job}` runs already"))
        .next(format!("seaworthy job list {site}")))
}
