//! `deploy`, `promote`, `abort`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use seaworthy_api::Layout;
use seaworthy_api::model::{
    Applied, ApplyRequest, DeployOptions, OrderRequest, PlatformStatus, Source,
};
use seaworthy_base::{Code, Exit, Fault, format_duration};

use crate::args::Deploy;
use crate::platform::{connect, known_site};
use crate::progress::{self, Screen};
use crate::render::{self, Failure};
use crate::up::{absolute, apply, check_first, show_changes};

pub(crate) const GOES_ON: &str = "interrupted: it goes on in the background; `seaworthy status` shows how far it is, `seaworthy abort` takes it back";

/// Deploys a folder, a git reference or an archive.
pub(crate) async fn deploy(layout: &Layout, options: &Deploy) -> Result<Exit, Failure> {
    let source = match (&options.git, options.stdin) {
        (Some(reference), _) => Source::Git(reference.clone()),
        (None, true) => Source::Tar(receive(layout)?),
        (None, false) => Source::Folder,
    };
    let project = match source {
        Source::Tar(_) => PathBuf::new(),
        _ => absolute(&options.dir)?,
    };
    if source == Source::Folder {
        check_first(&project)?;
    }
    let request = ApplyRequest {
        project,
        plan_only: options.plan,
        deploy: Some(DeployOptions {
            source,
            strategy: options.strategy.clone(),
            watch: options.no_watch.then_some(false),
            pause: options.pause.then_some(true),
            no_wait: options.no_wait,
        }),
        asker: progress::asker(),
    };
    let screen = Screen::new();
    let work = apply(layout, &request, |progress| screen.show(progress));
    let Some(applied) = progress::follow(&screen, work, GOES_ON).await? else {
        return Ok(Exit::Interrupted);
    };
    if options.plan && !options.json {
        show_changes(&applied);
        show_plan(&applied);
    } else {
        announce(&applied, options.json);
    }
    Ok(Exit::Ok)
}

pub(crate) fn announce(applied: &Applied, json: bool) {
    if json {
        return render::json(applied);
    }
    let release = applied.release.as_deref().unwrap_or_default();
    let urls = applied.urls.join("  ");
    render::talk(&format!(
        "{} {release} serves after {} ms: {urls}",
        applied.site, applied.took_ms
    ));
}

pub(crate) fn show_plan(applied: &Applied) {
    let Some(plan) = &applied.plan else { return };
    let line = |name: &str, value: &str| render::print(&format!("{name:<14} {value}\n"));
    line("how", &plan.how);
    if let Some(why) = &plan.why {
        line("", why);
    }
    for migration in &plan.migrations {
        line("migration", migration);
    }
    if plan.migrations.is_empty() && plan.data.is_none() {
        line("migration", "none");
    }
    if let Some(point) = &plan.restore_point {
        line("restore point", point);
    }
    for smoke in &plan.smoke {
        line("tried", smoke);
    }
    if plan.watch_ms > 0 {
        let period = std::time::Duration::from_millis(plan.watch_ms);
        line("watched", &format_duration(period));
    }
    if plan.holds {
        let about = plan.hold_ms.map(|ms| format!(", about {:.1} s", ms as f64 / 1000.0));
        let text = "wait while the old release ends and the new one starts";
        line("requests", &format!("{text}{}", about.unwrap_or_default()));
    }
    line("back", &plan.back);
}

/// Keeps an archive from standard input where control finds it.
fn receive(layout: &Layout) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| {
        let what = "could not receive the archive on standard input";
        Failure::from(Fault::new(Code::SourceUnusable, what).because(error.to_string()))
    };
    seaworthy_control::prepare_folders(layout)?;
    let dir = layout.incoming();
    fs::create_dir_all(&dir).map_err(failed)?;
    let path = dir.join(format!("stdin-{}.tar", std::process::id()));
    let result = write_archive(&path);
    if result.is_err() {
        fs::remove_file(&path).ok();
    }
    result.map_err(failed).map(|()| path)
}

fn write_archive(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    let mut input = io::stdin().lock();
    let mut magic = [0; 2];
    let read = input.read(&mut magic)?;
    let start = io::Cursor::new(magic.get(..read).unwrap_or_default().to_vec());
    let mut whole = start.chain(input);
    if magic == [0x1f, 0x8b] {
        io::copy(&mut flate2::read::MultiGzDecoder::new(whole), &mut file)?;
    } else {
        io::copy(&mut whole, &mut file)?;
    }
    file.sync_all()
}

/// Says a word to the deployment that goes on.
pub(crate) async fn order(
    layout: &Layout,
    site: Option<&str>,
    word: &str,
) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let status: PlatformStatus = client.get("/v1/status").await?;
    let site = known_site(&status, site)?;
    let request = OrderRequest { site, word: word.to_owned(), asker: progress::asker() };
    let told: String = client.post("/v1/order", &request).await?;
    render::talk(&format!("told the deployment of {told}: {word}"));
    Ok(Exit::Ok)
}
