//! What is different between what runs and what is asked for.

use std::sync::Arc;

use seaworthy_api::model::{Change, ChangeKind};
use seaworthy_release::Strategy;

use crate::platform::Platform;
use crate::release::prepare::Prepared;

/// What is different from what is applied now.
pub(super) fn differences(platform: &Arc<Platform>, prepared: &Prepared) -> Vec<Change> {
    let world = platform.world();
    let before =
        world.sites.get(&prepared.site.name).filter(|site| site.running).map(|site| &site.applied);
    let change =
        |kind, subject: String, detail: &str| Change { kind, subject, detail: detail.to_owned() };
    let replaced = match prepared.strategy {
        Strategy::Rolling => "replaced one by one",
        Strategy::BlueGreen => "replaced all at once",
        Strategy::Canary => "replaced for a growing share of the visitors",
        Strategy::Recreate => "ended, then started anew",
    };
    let mut changes = Vec::new();
    for (name, service) in &prepared.site.services {
        let subject = format!("service {name}");
        if prepared.data.is_some() {
            changes.push(change(
                ChangeKind::Change,
                subject,
                "ends before the databases go back, then starts",
            ));
            continue;
        }
        let old = before.and_then(|before| before.site.services.get(name).map(|old| (before, old)));
        changes.push(match old {
            None => change(ChangeKind::Add, subject, "new"),
            Some((before, old)) => {
                let same_content = before.content.get(name) == prepared.content.get(name);
                let same_hash = before.hashes.get(name) == prepared.hashes.get(name);
                match (old == service, same_content, same_hash) {
                    (true, true, true) => change(ChangeKind::Keep, subject, "untouched"),
                    (true, true, false) => {
                        let detail = format!("a secret changed: {replaced}");
                        change(ChangeKind::Change, subject, &detail)
                    }
                    (_, false, _) => {
                        let detail = format!("its files changed: {replaced}");
                        change(ChangeKind::Change, subject, &detail)
                    }
                    (false, true, true) => change(
                        ChangeKind::Change,
                        subject,
                        "number of instances or order changed: no restart",
                    ),
                    (false, true, false) => {
                        let detail = format!("its settings changed: {replaced}");
                        change(ChangeKind::Change, subject, &detail)
                    }
                }
            }
        });
    }
    if let Some(before) = before {
        let gone =
            before.site.services.keys().filter(|name| !prepared.site.services.contains_key(*name));
        changes.extend(gone.map(|name| {
            change(ChangeKind::Remove, format!("service {name}"), "drained, then stopped")
        }));
        if before.site.routes != prepared.site.routes {
            changes.push(change(
                ChangeKind::Change,
                "routes".to_owned(),
                "swapped without touching a connection",
            ));
        }
        if (&before.site.domains, &before.site.listen, &before.site.tls)
            != (&prepared.site.domains, &prepared.site.listen, &prepared.site.tls)
        {
            changes.push(change(
                ChangeKind::Change,
                "domains and listeners".to_owned(),
                "added before anything is closed",
            ));
        }
    }
    changes
}
