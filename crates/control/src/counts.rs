//! What the edge counts and keeps, seen and changed from outside: lockouts and kept answers.
//!
//! Only asks the edge: nothing of it is remembered here. Every living edge is asked to forget, a draining
//! one too; what holds is asked of the newest.

use std::sync::Arc;

use seaworthy_api::model::{ClearRequest, LockoutView, PurgeRequest};
use seaworthy_base::{Code, Fault};
use seaworthy_edge::model::{Reply, Request};

use crate::platform::Platform;

/// Who is locked out.
pub(crate) async fn lockouts(platform: &Arc<Platform>) -> Result<Vec<LockoutView>, Fault> {
    let replies = platform.edge.lock().await.ask_all(&Request::Lockouts).await?;
    let Some(Reply::Lockouts { held }) = replies.into_iter().next() else { return Ok(Vec::new()) };
    let view = |one: seaworthy_edge::model::LockedOut| LockoutView {
        site: one.site,
        rule: one.rule,
        what: one.what,
        left_seconds: one.left,
    };
    Ok(held.into_iter().map(view).collect())
}

/// Opens again; how many were locked out.
pub(crate) async fn clear(platform: &Arc<Platform>, request: ClearRequest) -> Result<u64, Fault> {
    known_site(platform, request.site.as_deref())?;
    let request = Request::ClearLockouts { site: request.site, what: request.what };
    count(platform, &request).await
}

/// Forgets kept answers; how many.
pub(crate) async fn purge(platform: &Arc<Platform>, request: PurgeRequest) -> Result<u64, Fault> {
    known_site(platform, Some(&request.site))?;
    count(platform, &Request::Purge { site: request.site, path: request.path }).await
}

async fn count(platform: &Arc<Platform>, request: &Request) -> Result<u64, Fault> {
    let replies = platform.edge.lock().await.ask_all(request).await?;
    let counts = replies.into_iter().map(|reply| match reply {
        Reply::Cleared { count } => count,
        _ => 0,
    });
    Ok(counts.max().unwrap_or(0))
}

fn known_site(platform: &Arc<Platform>, site: Option<&str>) -> Result<(), Fault> {
    let world = platform.world();
    let names: Vec<&str> = world.sites.keys().map(seaworthy_base::SiteName::as_str).collect();
    match site {
        Some(site) if !names.contains(&site) => {
            Err(Fault::new(Code::NoSuchSite, format!("there is no site `{site}`"))
                .because(format!("there are: {}", names.join(", ")))
                .next("seaworthy status"))
        }
        _ => Ok(()),
    }
}
