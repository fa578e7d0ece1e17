//! Logs that earlier generations of a slot left: bounded, however often an instance was replaced.
//!
//! A shim rotates its own log only, and each generation has a file of its own, so that lines of two
//! programs never mix. Invariants: what lives is never touched; the newest stays; all that is left of
//! dead generations of a slot is at most what one log may hold (`keep` + 1 files of `max_size`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use seaworthy_base::InstanceId;
use seaworthy_runtime::model::Log;

/// Removes what is too much, before `id` begins its log; `living` are the instances there are.
pub(crate) fn trim(id: &InstanceId, log: &Log, living: &[InstanceId]) {
    let Some(dir) = log.path.parent() else { return };
    let slot = format!("{}.{}.", id.service, id.slot);
    let lives = |name: &str| {
        let own = |one: &InstanceId| name.starts_with(&format!("{}.log", one.file_name()));
        living.iter().any(own) || own(id)
    };
    let most = u64::from(log.keep) + 1;
    let (mut files, mut bytes) = (0, 0);
    for (path, size) in newest_first(dir, &slot, lives) {
        (files, bytes) = (files + 1, bytes + size);
        if files > most || (files > 1 && bytes > log.max_size.saturating_mul(most)) {
            // A file that cannot be removed now is tried again with the next generation.
            fs::remove_file(path).ok();
        }
    }
}

fn newest_first(dir: &Path, prefix: &str, lives: impl Fn(&str) -> bool) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(SystemTime, PathBuf, u64)> = entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix) && !lives(name))
        })
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((meta.modified().ok()?, entry.path(), meta.len()))
        })
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, path, size)| (path, size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(generation: u32) -> InstanceId {
        InstanceId {
            site: "shop".parse().unwrap(),
            service: "web".parse().unwrap(),
            slot: 0,
            generation,
        }
    }

    #[test]
    fn dead_generations_keep_the_newest_files_within_the_bound_of_one_log() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, age: u64| {
            let path = dir.path().join(name);
            fs::write(&path, [b'x'; 100]).unwrap();
            let then = SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::open(&path).unwrap().set_modified(then).unwrap();
        };
        for generation in 1..=9 {
            file(&format!("web.0.{generation}.log"), 100 - generation);
        }
        file("web.0.8.log.20261121-1.gz", 99);
        file("web.1.1.log", 500);
        file("webs.0.1.log", 500);
        let log = Log { path: dir.path().join("web.0.10.log"), max_size: 100, keep: 2, days: None };
        trim(&id(10), &log, &[id(1)]);
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "web.0.1.log",
            "web.0.7.log",
            "web.0.8.log",
            "web.0.9.log",
            "web.1.1.log",
            "webs.0.1.log",
        ];
        assert_eq!(names, expected);
    }
}
