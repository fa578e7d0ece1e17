//! `limits` and `cache`: what the edge counts and keeps.

use std::fmt::Write as _;
use std::time::Duration;

use seaworthy_api::Layout;
use seaworthy_api::model::{ClearRequest, Cleared, LimitsView, PurgeRequest};
use seaworthy_base::{Exit, format_duration};

use crate::args::{Cache, CacheWhat, Limits, LimitsWhat};
use crate::platform::connect;
use crate::render::{self, Failure};

/// `limits list`, `limits clear`.
pub(crate) async fn limits(layout: &Layout, options: &Limits) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    match &options.what {
        LimitsWhat::List(options) => {
            let view: LimitsView = client.get("/v1/limits").await?;
            if options.json {
                render::json(&view);
            } else if view.lockouts.is_empty() {
                render::talk("nobody is locked out");
            } else {
                render::print(&table(&view));
            }
        }
        LimitsWhat::Clear { who, site, .. } => {
            let request = ClearRequest { site: site.clone(), what: who.clone() };
            let Cleared { count } = client.post("/v1/limits/clear", &request).await?;
            render::talk(&match count {
                0 => "nobody was locked out by that name; what was counted is forgotten".to_owned(),
                1 => "1 lockout cleared".to_owned(),
                _ => format!("{count} lockouts cleared"),
            });
        }
    }
    Ok(Exit::Ok)
}

fn table(view: &LimitsView) -> String {
    let width = |of: fn(&seaworthy_api::model::LockoutView) -> &str, title: &str| {
        view.lockouts.iter().map(|one| of(one).len()).chain([title.len()]).max().unwrap_or(0)
    };
    let (who, site) = (width(|one| &one.what, "WHO"), width(|one| &one.site, "SITE"));
    let mut out = format!("{:<who$}  {:<site$}  {:<9}  RULE\n", "WHO", "SITE", "LEFT");
    for one in &view.lockouts {
        let left = format_duration(Duration::from_secs(one.left_seconds));
        let _infallible =
            writeln!(out, "{:<who$}  {:<site$}  {left:<9}  {}", one.what, one.site, one.rule);
    }
    out
}

/// `cache purge`.
pub(crate) async fn cache(layout: &Layout, options: &Cache) -> Result<Exit, Failure> {
    let CacheWhat::Purge { site, path } = &options.what;
    let request = PurgeRequest { site: site.clone(), path: path.clone() };
    let Cleared { count } = connect(layout).await?.post("/v1/cache/purge", &request).await?;
    render::talk(&match count {
        1 => "1 answer forgotten".to_owned(),
        _ => format!("{count} answers forgotten"),
    });
    Ok(Exit::Ok)
}
