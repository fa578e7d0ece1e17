//! What build commands and migrations print: all of it in the site's log of releases, the first of it on the
//! screen of who looks on.
//!
//! A build may print a gigabyte. Invariants: whoever prints faster than it is written waits; neither the log
//! nor what is on its way to a screen grows without end; what is not shown is said to be in the log.

use std::path::PathBuf;

use seaworthy_api::Layout;
use seaworthy_api::model::Progress;
use seaworthy_base::{ReleaseId, SiteName, Timestamp};
use seaworthy_sys::logfile::{LogRules, RotatingLog};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::commands::{self, Lines};
use crate::release::Reporter;

/// Bytes of one step that are shown.
const SHOWN: usize = 1 << 20;

/// The log of a site's builds and migrations.
pub(super) fn path(layout: &Layout, site: &SiteName) -> PathBuf {
    layout.site_logs(site).join("release.log")
}

/// A way for lines of a release's commands; what is awaited at the end, when the way was dropped.
pub(super) fn open(
    layout: &Layout,
    site: &SiteName,
    release: ReleaseId,
    report: &Reporter,
) -> (Lines, JoinHandle<()>) {
    let (sender, receiver) = commands::lines();
    let (path, report) = (path(layout, site), report.clone());
    (sender, tokio::task::spawn_blocking(move || write(path, release, &report, receiver)))
}

fn write(path: PathBuf, release: ReleaseId, report: &Reporter, mut lines: mpsc::Receiver<String>) {
    if let Some(dir) = path.parent()
        && let Err(error) = std::fs::create_dir_all(dir)
    {
        crate::say(&format!("could not make {}: {error}", dir.display()));
    }
    let more = format!("… the rest is in {}", path.display());
    let mut log = RotatingLog::open(LogRules { path, max_size: 10 << 20, keep: 5, days: None });
    let mut shown = 0;
    while let Some(line) = lines.blocking_recv() {
        log.write(format!("{} {release} {line}\n", Timestamp::now()).as_bytes(), 1);
        if shown > SHOWN {
            continue;
        }
        shown += line.len() + 1;
        let line = if shown > SHOWN { more.clone() } else { line };
        report.say(Progress::Output { line });
    }
}
