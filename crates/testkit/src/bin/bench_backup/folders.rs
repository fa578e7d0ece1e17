//! Folders: many files that do not change, gigabytes that are verified, one folder of ever more files, tiny files
//! through all that is done with a backup.

use std::fs;
use std::io::Write;

use seaworthy_testkit::peers::Place;

use crate::Plan;
use crate::measure::{Run, bound, job, ratio, shell, table, worker};

pub(crate) fn unchanged(plan: &Plan) {
    let place = Place::new();
    let root = place.path().join("files");
    for n in 0..plan.files {
        let dir = root.join(format!("{:03}", n / 500));
        if n % 500 == 0 {
            fs::create_dir_all(&dir).expect("a folder");
        }
        fs::write(dir.join(format!("{n}")), format!("file {n}\n").repeat(20 + n % 200))
            .expect("a file");
    }
    println!("\n{} files", plan.files);
    let source = serde_json::json!({ "engine": "files", "trees": [["files", root]] });
    let take = job(
        place.path(),
        "files.bench",
        &source,
        &serde_json::json!({ "action": "take", "reason": "asked" }),
    );
    let store = place.path().join("store/bench/files.bench");
    let first = worker(&plan.binary, &take, &store, None);
    let again: Vec<Run> =
        (0..plan.rounds).map(|_| worker(&plan.binary, &take, &store, None)).collect();
    let verify = job(
        place.path(),
        "files.bench",
        &source,
        &serde_json::json!({ "action": "verify", "full": false, "set": null }),
    );
    let verified = worker(&plan.binary, &verify, &store, None);
    let repository = place.path().join("restic");
    let restic = |words: &str| {
        let line = format!("restic -q -r {} {words}", repository.display());
        shell(&line, &[("RESTIC_PASSWORD", "x")], &repository, None)
    };
    restic("init");
    let backup = format!("backup {}", root.display());
    let restic_first = restic(&backup);
    let restic_again: Vec<Run> = (0..plan.rounds).map(|_| restic(&backup)).collect();
    table(&[
        ("seaworthy, first", &[first]),
        ("restic, first", &[restic_first]),
        ("seaworthy, unchanged", &again),
        ("restic, unchanged", &restic_again),
        ("seaworthy verify", &[verified]),
    ]);
    bound(
        "unchanged, beside restic",
        ratio(&again, &restic_again, |run| run.took.as_secs_f64()),
        1.0,
    );
}

/// A set of gigabytes that nothing compresses, verified again.
pub(crate) fn verified(plan: &Plan) {
    let place = Place::new();
    let root = place.path().join("files");
    fs::create_dir_all(&root).expect("a folder");
    let mut file = fs::File::create(root.join("0")).expect("a file");
    let (mut noise, mut state) = (vec![0u8; 1 << 20], 1u64);
    for _ in 0..1024 {
        for word in noise.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&noise).expect("space");
    }
    // The same gigabyte under other names: a backup does not know.
    for n in 1..plan.verify {
        fs::hard_link(root.join("0"), root.join(format!("{n}"))).expect("a name");
    }
    println!("\na set of {} GB", plan.verify);
    let source = serde_json::json!({ "engine": "files", "trees": [["files", root]] });
    let store = place.path().join("store/bench/files.bench");
    let run = |action: serde_json::Value| {
        worker(&plan.binary, &job(place.path(), "files.bench", &source, &action), &store, None)
    };
    let first = run(serde_json::json!({ "action": "take", "reason": "asked" }));
    let verify =
        |full: bool| run(serde_json::json!({ "action": "verify", "full": full, "set": null }));
    let again: Vec<Run> = (0..plan.rounds).map(|_| verify(false)).collect();
    let full = verify(true);
    table(&[
        ("seaworthy, first", &[first]),
        ("verify, unchanged", &again),
        ("verify --full", &[full]),
    ]);
    let slowest = again.iter().map(|run| run.took.as_secs_f64()).fold(0.0, f64::max);
    bound("the slowest verify of the unchanged set in seconds", slowest, 1.0);
}

/// One folder with a tenth of the files, then with all of them: time grows with them, memory does not.
pub(crate) fn flat(plan: &Plan) {
    let place = Place::new();
    let root = place.path().join("files");
    fs::create_dir_all(&root).expect("a folder");
    println!("\nfiles in one folder");
    let source = serde_json::json!({ "engine": "files", "trees": [["files", root]] });
    let mut made = 0;
    for files in [plan.flat / 10, plan.flat] {
        // Names are what counts; a file system has more room for them than for files.
        let file = |n: usize| root.join(format!("{n:08}-some-name"));
        for n in made..files {
            let first = n - n % 50_000;
            if n == first {
                fs::write(file(n), format!("tiny {n}\n")).expect("a file");
            } else {
                fs::hard_link(file(first), file(n)).expect("a name");
            }
        }
        made = files;
        fs::remove_dir_all(place.path().join("store")).ok();
        fs::remove_dir_all(place.path().join("state")).ok();
        let take = serde_json::json!({ "action": "take", "reason": "asked" });
        let take = job(place.path(), "files.flat", &source, &take);
        let store = place.path().join("store/bench/files.flat");
        let (first, again) =
            (worker(&plan.binary, &take, &store, None), worker(&plan.binary, &take, &store, None));
        println!("{files} files");
        table(&[("seaworthy, first", &[first]), ("seaworthy, unchanged", &[again])]);
        let memory = first.memory.max(again.memory) as f64 / f64::from(1 << 20);
        bound("memory in MB", memory, 64.0);
    }
}

/// A tenth of the files, then all of them, ten in each folder: taken, taken again, verified, pruned, lost, drilled and
/// restored. Time grows with them, memory does not.
pub(crate) fn tiny(plan: &Plan) {
    for files in [plan.tiny / 10, plan.tiny] {
        let place = Place::new();
        let root = place.path().join("files");
        for n in 0..files {
            let dir = root.join(format!("{:04}/{:03}", n / 10_000, n / 10 % 1000));
            if n % 10 == 0 {
                fs::create_dir_all(&dir).expect("a folder");
            }
            fs::write(dir.join(format!("{n:08}-some-name")), format!("{n}\n")).expect("a file");
        }
        println!("\n{files} tiny files in {} folders", files / 10);
        let source = serde_json::json!({ "engine": "files", "trees": [["files", root]] });
        let store = place.path().join("store/bench/files.tiny");
        let run = |action: serde_json::Value| {
            worker(&plan.binary, &job(place.path(), "files.tiny", &source, &action), &store, None)
        };
        let take = || run(serde_json::json!({ "action": "take", "reason": "asked" }));
        let (first, again) = (take(), take());
        let verified = run(serde_json::json!({ "action": "verify", "full": true, "set": null }));
        let pruned = run(serde_json::json!({ "action": "prune", "plan_only": false }));
        // Room for what comes back.
        fs::remove_dir_all(&root).expect("they go");
        let drilled = run(serde_json::json!({ "action": "drill", "set": null, "store": null }));
        let target = serde_json::json!({ "target": "to", "url": place.path().join("restored") });
        let restored = run(serde_json::json!({
            "action": "restore", "set": null, "at": null, "store": null, "target": target, "identity": null
        }));
        let rows: [(&str, &[Run]); 6] = [
            ("seaworthy, first", &[first]),
            ("seaworthy, unchanged", &[again]),
            ("verify --full", &[verified]),
            ("prune", &[pruned]),
            ("drill", &[drilled]),
            ("restore", &[restored]),
        ];
        table(&rows);
        for (name, runs) in
            rows.iter().filter(|(name, _)| !matches!(*name, "prune" | "verify --full"))
        {
            let took = runs.first().map_or(0.0, |run| run.took.as_secs_f64());
            println!("{name}: {:.0} files a second", files as f64 / took);
        }
        let most = rows.iter().flat_map(|(_, runs)| *runs).map(|run| run.memory).max();
        bound("memory in MB", most.unwrap_or(0) as f64 / f64::from(1 << 20), 64.0);
    }
}
