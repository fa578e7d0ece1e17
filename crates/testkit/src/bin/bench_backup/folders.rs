//! Folders: many files that do not change, gigabytes that are verified, one folder of ever more files.

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
