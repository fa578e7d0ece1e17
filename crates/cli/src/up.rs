//! `up` and `plan`: a folder's manifest made true, with progress; then its logs until Ctrl-C.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use seaworthy_api::Layout;
use seaworthy_api::model::{
    Applied, ApplyRequest, ChangeKind, DownRequest, PlatformStatus, Progress,
};
use seaworthy_base::{Code, Exit, Fault, SiteName};
use tokio::signal::unix::{Signal, SignalKind};

use crate::args::{Plan, Up};
use crate::logs::Follower;
use crate::platform::{PATIENCE, connect, connect_or_start, is_ending, is_gone};
use crate::progress::{self, Screen, on};
use crate::render::{self, Failure};

const GOES_ON: &str = "interrupted: it goes on in the background; `seaworthy status` shows it, `seaworthy down` stops it";

pub(crate) fn absolute(dir: &Path) -> Result<std::path::PathBuf, Failure> {
    dir.canonicalize().map_err(|error| {
        Fault::new(Code::ManifestMissing, format!("there is no folder `{}`", dir.display()))
            .because(error.to_string())
            .next("the same command with the project's folder, the one with `seaworthy.toml` in it")
            .into()
    })
}

/// A manifest with problems is shown with its carets before anything is started; the name of a good one's site.
pub(crate) fn check_first(dir: &Path) -> Result<SiteName, Failure> {
    match seaworthy_manifest::load(dir) {
        Ok(site) => Ok(site.name),
        Err(report) if report.code == Code::ManifestInvalid => {
            render::talk(report.render(render::color()).trim_end());
            let count = report.total();
            let count = render::counted(count, "problem");
            let what = format!("the manifest has {count}: nothing was changed");
            Err(Fault::new(Code::ManifestInvalid, what).into())
        }
        Err(report) => Err(report.to_fault().into()),
    }
}

/// Runs a folder.
pub(crate) async fn up(layout: &Layout, options: &Up) -> Result<Exit, Failure> {
    let project = absolute(&options.dir)?;
    let site = check_first(&project)?;
    // From here on: what the application says while it starts belongs to what is followed.
    let follower = Follower::from_now(layout, &site);
    let request =
        ApplyRequest { project, plan_only: false, deploy: None, asker: progress::asker() };
    let screen = Screen::new();
    // One for all that follows: what comes between two waits is found by the next.
    let mut interrupt = on(SignalKind::interrupt())?;
    let work = apply(layout, &request, |progress| screen.show(progress));
    let Some(applied) = progress::follow(&screen, work, GOES_ON).await? else {
        return Ok(Exit::Interrupted);
    };
    if options.json {
        render::json(&applied);
    } else {
        announce(&applied);
    }
    if options.detach {
        return Ok(Exit::Ok);
    }
    follow(layout, &applied, follower, &mut interrupt).await
}

/// Asks control, and asks the next one where the first was about to end: until something was begun
/// there is nothing that could be done twice.
pub(crate) async fn apply(
    layout: &Layout,
    request: &ApplyRequest,
    show: impl Fn(&Progress),
) -> Result<Progress, Failure> {
    let begun = Instant::now();
    loop {
        let client = connect_or_start(layout).await?;
        let started = Cell::new(false);
        let each = |progress: &Progress| {
            started.set(started.get() || matches!(progress, Progress::Step { .. }));
            show(progress);
        };
        let failure = match client.follow("/v1/apply", request, each).await {
            Ok(Progress::Failed { fault }) if fault.code == Code::ControlEnding => fault.into(),
            Ok(ended) => return Ok(ended),
            Err(error) => Failure::from(error),
        };
        if started.get() || !is_ending(&failure) || begun.elapsed() > PATIENCE {
            return Err(failure);
        }
    }
}

fn announce(applied: &Applied) {
    if let Some(ca) = &applied.ca {
        render::talk(&format!("certificate authority: {}   (seaworthy cert trust)", ca.display()));
    }
    let release = applied.release.as_deref().unwrap_or_default();
    let urls =
        if applied.urls.is_empty() { "no address".to_owned() } else { applied.urls.join("  ") };
    render::talk(&format!("{} {release} is up in {} ms: {urls}", applied.site, applied.took_ms));
}

/// Follows the logs; Ctrl-C stops the site, unless it ran before.
async fn follow(
    layout: &Layout,
    applied: &Applied,
    mut follower: Follower,
    interrupt: &mut Signal,
) -> Result<Exit, Failure> {
    render::talk(if applied.was_running {
        "following its logs; Ctrl-C leaves it running"
    } else {
        "following its logs; Ctrl-C stops it"
    });
    let mut terminate = on(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(200)) => follower.print_news(),
        }
        let still = match connect(layout).await {
            Ok(client) => client.get::<PlatformStatus>("/v1/status").await,
            // Control is being started again by its keeper; what it looks after goes on.
            Err(_) => continue,
        };
        match still {
            Ok(status)
                if !status.sites.iter().any(|site| site.name == applied.site && site.running) =>
            {
                render::talk(&format!("{} was stopped", applied.site));
                return Ok(Exit::Ok);
            }
            Err(error) if !is_gone(&error) => return Err(error.into()),
            _ => {}
        }
    }
    if applied.was_running {
        return Ok(Exit::Ok);
    }
    render::talk("stopping");
    let stopped: Vec<String> = connect(layout)
        .await?
        .post("/v1/down", &DownRequest { site: Some(applied.site.clone()) })
        .await?;
    follower.print_news();
    stopped.iter().for_each(|site| render::talk(&format!("{site} is down")));
    Ok(Exit::Ok)
}

/// Shows what `up` would change.
pub(crate) async fn plan(layout: &Layout, options: &Plan) -> Result<Exit, Failure> {
    let project = absolute(&options.dir)?;
    check_first(&project)?;
    let client = connect(layout).await?;
    let ended = client
        .follow(
            "/v1/apply",
            &ApplyRequest { project, plan_only: true, deploy: None, asker: progress::asker() },
            |_| {},
        )
        .await?;
    match ended {
        Progress::Done(applied) if options.json => render::json(&applied),
        Progress::Done(applied) => {
            show_changes(&applied);
        }
        Progress::Failed { fault } => return Err(fault.into()),
        _ => {}
    }
    Ok(Exit::Ok)
}

/// The differences, one a line.
pub(crate) fn show_changes(applied: &Applied) {
    for change in &applied.changes {
        let sign = match change.kind {
            ChangeKind::Add => '+',
            ChangeKind::Change => '~',
            ChangeKind::Remove => '-',
            ChangeKind::Keep => ' ',
        };
        render::print(&format!("{sign} {:<24} {}\n", change.subject, change.detail));
    }
}
