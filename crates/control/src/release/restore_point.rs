//! The databases' state before a migration: the seam between releases and backups.
//!
//! A release asks for a restore point right before its first migration, and notes in its journal what came
//! of it. Invariants: what was not made is said in so many words, a release never claims a safety that is
//! not there; a restore point that was declared and cannot be made stops the release before the migration.
//! Not here: the way back to one (`data_back`).

use std::path::Path;
use std::sync::Arc;

use seaworthy_base::Fault;
use seaworthy_manifest::Site;
use seaworthy_release::Point;

use crate::backups;
use crate::platform::Platform;

/// What will come of it, for the plan. `serves`: the site was released before.
pub(crate) fn expected(site: &Site, serves: bool) -> String {
    let declared: Vec<&str> = backups::restore_points_of(site).collect();
    if !serves {
        "nothing to lose yet: the site never served".to_owned()
    } else if declared.is_empty() {
        "no restore point: no [database.X] of the site says `backup`, only the code can go back"
            .to_owned()
    } else {
        format!("a backup of {}", declared.join(", "))
    }
}

/// Makes one of every database that the site declares.
pub(crate) async fn make(
    platform: &Arc<Platform>,
    project: &Path,
    site: &Site,
) -> Result<Vec<Point>, Fault> {
    let serves = platform.world().sites.contains_key(&site.name);
    if !serves {
        return Ok(Vec::new());
    }
    backups::make_restore_points(platform, project, site).await
}

/// What was made, in words; none when there was nothing to make.
pub(crate) fn words(points: &[Point]) -> Option<String> {
    let each = |point: &Point| format!("restore point of {}: {}", point.item, point.set);
    (!points.is_empty()).then(|| points.iter().map(each).collect::<Vec<_>>().join(", "))
}
