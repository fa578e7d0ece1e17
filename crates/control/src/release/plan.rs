//! What will happen, before it does: the strategy that memory allows, migrations, what going back takes.

use std::fs;

use seaworthy_api::model::Plan;
use seaworthy_release::Strategy;

use crate::release::prepare::Prepared;
use crate::specs;
use crate::world::World;

/// Memory that old and new side by side would need, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Bytes that the old instances use: the new ones will want as much.
    needed: u64,
    /// Bytes that can be had; none where that is not known.
    available: Option<u64>,
}

/// A reserve for everything else on the machine.
const RESERVE: u64 = 128 << 20;

/// Looks at what the programs that change use now.
pub(super) fn memory(world: &World, prepared: &Prepared) -> Memory {
    let site = world.sites.get(&prepared.site.name);
    let changes = |service: &seaworthy_base::ServiceName| {
        site.is_some_and(|site| site.applied.hashes.get(service) != prepared.hashes.get(service))
    };
    let own = world.instances.iter();
    let own = own.filter(|(id, _)| id.site == prepared.site.name && changes(&id.service));
    Memory {
        needed: own.filter_map(|(_, one)| one.status.as_ref()?.memory).sum(),
        available: available(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The strategy that fits, how many old instances are kept warm, and why that is not what was asked for.
pub(super) fn fit(strategy: Strategy, memory: Memory) -> (Strategy, u16, Option<String>) {
    let fits = memory.available.is_none_or(|available| memory.needed + RESERVE <= available);
    if fits || strategy == Strategy::Recreate {
        return (strategy, u16::MAX, None);
    }
    let mebibytes = |bytes: u64| bytes >> 20;
    let why = format!(
        "old and new side by side need {} MiB more and {} MiB can be had: slot by slot, one old instance is kept warm",
        mebibytes(memory.needed + RESERVE),
        mebibytes(memory.available.unwrap_or(0))
    );
    (Strategy::Rolling, 1, Some(why))
}

/// The plan in words. `start_ms`: how long the programs took to start when they last did.
pub(super) fn plan(world: &World, prepared: &Prepared, built: bool, start_ms: Option<u64>) -> Plan {
    let site = world.sites.get(&prepared.site.name).filter(|site| site.running);
    let how = match site {
        None => "first start".to_owned(),
        Some(_) if prepared.data.is_some() => {
            "everything ends, then the earlier release starts".to_owned()
        }
        Some(site) if site.applied.hashes == prepared.hashes && built => {
            "nothing to replace".to_owned()
        }
        Some(_) => prepared.strategy.word().to_owned(),
    };
    let migrations: Vec<String> = prepared
        .site
        .services
        .values()
        .filter(|_| !built)
        .flat_map(|service| {
            service.migrate.iter().map(|one| format!("{}: {}", service.name, specs::shown(one)))
        })
        .collect();
    let smoke = prepared.site.deploy.smoke.iter().map(|smoke| smoke.path.clone()).collect();
    let back = match (prepared.strategy, prepared.warm) {
        _ if site.is_none() => "it is the first that runs: there is nothing to go back to",
        _ if prepared.data.is_some() => {
            "a deployment makes and migrates the later release anew; the fresh backups stay"
        }
        (Strategy::Recreate, _) => "a rollback starts the old release again, while requests wait",
        (_, u16::MAX) => {
            "during the watch a rollback is a switch; later the old release is started again, without building"
        }
        _ => {
            "during the watch one old instance takes over at once, and the others are started again"
        }
    };
    Plan {
        how,
        why: prepared.why.clone(),
        restore_point: (!migrations.is_empty())
            .then(|| crate::release::restore_point::expected(&prepared.site, site.is_some())),
        migrations,
        smoke,
        watch_ms: if site.is_some() { prepared.watch.as_millis() as u64 } else { 0 },
        back: format!("{back}{}", started_in(prepared, start_ms.filter(|_| site.is_some()))),
        holds: prepared.strategy == Strategy::Recreate && site.is_some(),
        hold_ms: start_ms.filter(|_| prepared.strategy == Strategy::Recreate && site.is_some()),
        data: None,
    }
}

/// What a rollback will take, by what the last start took.
fn started_in(prepared: &Prepared, start_ms: Option<u64>) -> String {
    match start_ms {
        Some(start_ms) if prepared.data.is_none() => {
            format!(" (the last start took {:.1} s)", start_ms as f64 / 1000.0)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_memory_does_not_suffice_for_both_one_old_instance_stays_warm() {
        let memory = |needed: u64, available| Memory { needed: needed << 20, available };
        let enough = fit(Strategy::BlueGreen, memory(100, Some(1 << 30)));
        assert_eq!(enough, (Strategy::BlueGreen, u16::MAX, None));
        let (strategy, warm, why) = fit(Strategy::BlueGreen, memory(950, Some(1 << 30)));
        assert_eq!((strategy, warm), (Strategy::Rolling, 1));
        assert!(why.unwrap().contains("1078 MiB more and 1024 MiB"));
        assert_eq!(fit(Strategy::Canary, memory(1 << 20, None)).0, Strategy::Canary);
    }

    #[test]
    fn what_can_be_had_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available(""), None);
    }
}
