//! Removes releases that nobody needs any more.
//!
//! `deploy.keep` of them stay besides the one that serves, the newest first; one that failed is none of them.
//! Invariant: never one that is wanted or that an instance runs from, nor the last one that served before.

use std::sync::Arc;

use seaworthy_base::{ReleaseId, SiteName};
use seaworthy_state::{ReleaseRecord, ReleaseState};

use crate::platform::Platform;
use crate::release::files;

/// Removes old releases.
pub(super) fn prune(platform: &Arc<Platform>, name: &SiteName, keep: u16) {
    let Ok(releases) = platform.store().releases(name) else { return };
    let (wanted, running): (Vec<ReleaseId>, Vec<ReleaseId>) = {
        let world = platform.world();
        let site = world.sites.get(name);
        let own = world.instances.iter().filter(|(id, _)| &id.site == name);
        (
            site.into_iter().flat_map(|site| site.sides().map(|(_, one)| one.release)).collect(),
            own.map(|(_, one)| one.release).collect(),
        )
    };
    for old in unneeded(&releases, &wanted, &running, usize::from(keep)) {
        files::discard(&[old.dir.clone(), platform.layout.public(name, old.id)]);
        if old.state == ReleaseState::Failed {
            // Why it failed stays to be read.
            continue;
        }
        let gone = ReleaseRecord { state: ReleaseState::Retired, ..old.clone() };
        if let Err(error) = platform.store().put_release(&gone) {
            crate::say(&format!("could not record that a release was removed: {error}"));
        }
    }
}

/// Those of a site's releases (oldest first) that may go.
fn unneeded<'a>(
    releases: &'a [ReleaseRecord],
    wanted: &[ReleaseId],
    running: &[ReleaseId],
    keep: usize,
) -> Vec<&'a ReleaseRecord> {
    let there = |one: &&ReleaseRecord| one.state != ReleaseState::Retired;
    let others = releases.iter().rev().filter(there).filter(|one| !wanted.contains(&one.id));
    let (failed, whole): (Vec<_>, Vec<_>) =
        others.partition(|one| one.state == ReleaseState::Failed);
    let last_good = whole.iter().find(|one| one.state == ReleaseState::Live).map(|one| one.id);
    let stays = |one: &&ReleaseRecord| running.contains(&one.id) || last_good == Some(one.id);
    let left = keep.saturating_sub(whole.iter().copied().filter(stays).count());
    let old = whole.into_iter().filter(|one| !stays(one)).skip(left);
    old.chain(failed.into_iter().filter(|one| !running.contains(&one.id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use seaworthy_base::Timestamp;

    fn id(number: u32) -> ReleaseId {
        ReleaseId { number, digest: 1 }
    }

    #[test]
    fn so_many_are_kept_besides_what_serves_and_never_fewer_than_the_last_good_one() {
        use ReleaseState::{Built, Failed, Live, Retired};
        let states = [Retired, Live, Live, Built, Live, Failed, Live, Failed];
        let releases: Vec<ReleaseRecord> = (1..)
            .zip(states)
            .map(|(number, state)| ReleaseRecord {
                site: "a".parse().unwrap(),
                id: id(number),
                dir: "/none".into(),
                created: Timestamp(1),
                content_hash: String::new(),
                state,
                note: String::new(),
            })
            .collect();
        let gone = |running: &[u32], keep| {
            let running: Vec<ReleaseId> = running.iter().copied().map(id).collect();
            let all = unneeded(&releases, &[id(7)], &running, keep);
            all.iter().map(|one| one.id.number).collect::<Vec<_>>()
        };
        assert_eq!(gone(&[7], 1), [4, 3, 2, 8, 6]);
        assert_eq!(gone(&[7], 0), [4, 3, 2, 8, 6], "the last good one stays");
        assert_eq!(gone(&[7], 3), [2, 8, 6]);
        // One that still drains is one of those that are kept.
        assert_eq!(gone(&[7, 3], 2), [4, 2, 8, 6]);
        assert_eq!(gone(&[7, 6], 5), [8]);
    }
}
