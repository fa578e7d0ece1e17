//! A deployment that goes on, and a site that is closed, as `status` shows them.

use std::sync::Arc;

use seaworthy_api::model::{GoingOn, RolloutView};
use seaworthy_base::{SiteName, Timestamp};
use seaworthy_edge::model::Gate;
use seaworthy_release::{Deployment, Phase, Step};

use super::urls;
use crate::platform::Platform;
use crate::world::SiteState;

/// How a site is closed, in a word.
pub(super) fn closed_word(gate: &Gate) -> &'static str {
    match gate {
        Gate::Hold { .. } => "held",
        Gate::Maintenance { .. } => "maintenance",
    }
}

pub(super) fn view(
    platform: &Platform,
    name: &SiteName,
    site: &SiteState,
    urls: &[String],
) -> Option<RolloutView> {
    let rollout = site.rollout.as_ref()?;
    let (step, share) = match rollout.phase {
        Phase::Start { .. } => ("starting", None),
        Phase::Canary { share } => ("canary", Some(f64::from(share) / 100.0)),
        Phase::Rolling => ("rolling", None),
        Phase::Stop => ("ending the old release", None),
        Phase::Switched => ("watched", None),
        Phase::Back => ("going back", None),
    };
    let previewed = matches!(rollout.phase, Phase::Start { .. } | Phase::Canary { .. });
    Some(RolloutView {
        deployment: rollout.deployment,
        release: rollout.next.release.to_string(),
        strategy: rollout.strategy.word().to_owned(),
        step: step.to_owned(),
        who: platform.turns.holder(name).unwrap_or_default(),
        share,
        preview: urls.first().filter(|_| previewed).map(|url| preview(url, &rollout.key)),
    })
}

/// Deployments that check, build or migrate, by their journals: the world knows nothing of them yet.
pub(super) fn going_on(platform: &Platform) -> Vec<GoingOn> {
    let mut all = Vec::new();
    for site in platform.turns.sites() {
        let newest = platform.store().deployments(&site, 1).unwrap_or_default();
        let newest = newest.first().and_then(|text| serde_json::from_str::<Deployment>(text).ok());
        let replaces = platform.world().sites.get(&site).is_some_and(|one| one.rollout.is_some());
        let Some(one) = newest.filter(|one| one.ending.is_none() && !replaces) else { continue };
        let since = one.steps.last().map_or(one.began, |step| step.began);
        all.push(GoingOn {
            site: site.to_string(),
            number: one.number,
            verb: one.verb.clone(),
            step: one.open_step().map_or("begun", Step::word).to_owned(),
            for_ms: Timestamp::now().0.saturating_sub(since.0),
            who: one.owner.who,
        });
    }
    all
}

/// The address that leads a browser to a release that is tried.
fn preview(url: &str, key: &str) -> String {
    format!("{url}/.well-known/seaworthy/release/{key}")
}

/// The addresses at which a site's new release can be looked at.
pub(crate) async fn previews(platform: &Arc<Platform>, name: &SiteName) -> Vec<String> {
    let key = platform
        .world()
        .sites
        .get(name)
        .and_then(|site| site.rollout.as_ref().map(|rollout| rollout.key.clone()));
    let Some(key) = key else { return Vec::new() };
    urls(platform, name).await.first().map(|url| preview(url, &key)).into_iter().collect()
}
