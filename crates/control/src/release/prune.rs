//! Removes releases that nobody needs any more.
//!
//! Invariant: never one that is wanted or that an instance runs from, nor the last one that served before.

use std::sync::Arc;

use seaworthy_base::{ReleaseId, SiteName};
use seaworthy_state::{ReleaseRecord, ReleaseState};

use crate::platform::Platform;
use crate::release::files;

/// Removes old releases: never one that is wanted or that an instance runs from.
pub(super) fn prune(platform: &Arc<Platform>, name: &SiteName, keep: u16) {
    let Ok(releases) = platform.store().releases(name) else { return };
    let in_use: Vec<ReleaseId> = {
        let world = platform.world();
        let wanted = world.sites.get(name);
        let wanted = wanted.into_iter().flat_map(|site| site.sides().map(|(_, one)| one.release));
        world
            .instances
            .iter()
            .filter(|(id, _)| &id.site == name)
            .map(|(_, one)| one.release)
            .chain(wanted)
            .collect()
    };
    let last_good = releases
        .iter()
        .rev()
        .find(|one| one.state == ReleaseState::Live && !in_use.contains(&one.id))
        .map(|one| one.id);
    let unused: Vec<_> = releases
        .iter()
        .filter(|one| one.state != ReleaseState::Retired)
        .filter(|one| !in_use.contains(&one.id) && last_good != Some(one.id))
        .collect();
    for old in unused.iter().take(unused.len().saturating_sub(usize::from(keep))) {
        let public = platform.layout.public(name, old.id);
        files::discard(&[old.dir.clone(), public]);
        let gone = ReleaseRecord { state: ReleaseState::Retired, ..(*old).clone() };
        if let Err(error) = platform.store().put_release(&gone) {
            crate::say(&format!("could not record that a release was removed: {error}"));
        }
    }
}
