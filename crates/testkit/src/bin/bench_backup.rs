//! Backups beside what people use: time, size and memory on real data.
//!
//! `cargo xtask bench backup` builds the release binary and runs this: a PostgreSQL server filled by pgbench is
//! dumped by `pg_dump -Fc -Z0` alone, by us, by `pg_dump | gzip` and into restic, in turns; a folder
//! of many files is backed up twice, by us and by restic. Figures are medians of the rounds; ratios are within
//! a round, because machines drift. Not here: pass or fail of a build; the bounds are printed beside the ratios.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a program for developers that prints what it found"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seaworthy_testkit::peers::{Place, Postgres, unprivileged};

/// What is measured.
struct Plan {
    binary: PathBuf,
    scale: u32,
    files: usize,
    rounds: usize,
}

/// One run: wall time, bytes that it left, most memory of one process.
#[derive(Clone, Copy, Default)]
struct Run {
    took: Duration,
    bytes: u64,
    memory: u64,
}

fn main() {
    let plan = plan();
    println!("pgbench scale {}, {} files, {} rounds", plan.scale, plan.files, plan.rounds);
    databases(&plan);
    folders(&plan);
}

fn plan() -> Plan {
    let mut plan = Plan { binary: "seaworthy".into(), scale: 150, files: 100_000, rounds: 3 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let number = || value.parse().unwrap_or_else(|_| panic!("{word} needs a number"));
        match word.as_str() {
            "--binary" => plan.binary = value.into(),
            "--scale" => plan.scale = number(),
            "--files" => plan.files = number() as usize,
            "--rounds" => plan.rounds = number() as usize,
            _ => panic!("--binary PATH, --scale N, --files N, --rounds N; not {word}"),
        }
    }
    plan
}

fn databases(plan: &Plan) {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE bench");
    let begun = Instant::now();
    server.pgbench("bench", plan.scale);
    let size = server.sql("bench", "SELECT pg_database_size('bench')").parse::<u64>().unwrap_or(0);
    println!("\nPostgreSQL: {} MB, filled in {:.0} s", size >> 20, begun.elapsed().as_secs_f64());
    let place = Place::new();
    let (mut alone, mut ours, mut gzip, mut restic) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let source =
        serde_json::json!({ "engine": "postgres", "url": server.url("bench"), "databases": null });
    for round in 0..plan.rounds {
        let out = |name: &str| place.path().join(format!("{name}{round}"));
        alone.push(shell(
            &server,
            &format!("pg_dump -Fc -Z0 bench > {}", out("alone").display()),
            &out("alone"),
        ));
        let job = job(
            place.path(),
            "database.bench",
            &source,
            &serde_json::json!({ "action": "take", "reason": "asked" }),
        );
        ours.push(worker(plan, &job, &place.path().join("store/bench/database.bench")));
        gzip.push(shell(
            &server,
            &format!("pg_dump bench | gzip > {}", out("gzip").display()),
            &out("gzip"),
        ));
        let repository = out("restic");
        shell(
            &server,
            &format!("RESTIC_PASSWORD=x restic -q init -r {}", repository.display()),
            &repository,
        );
        restic.push(shell(&server, &format!("pg_dump -Fc -Z0 bench | RESTIC_PASSWORD=x restic -q backup --no-cache --stdin -r {}", repository.display()), &repository));
        for name in ["alone", "gzip", "restic"] {
            let path = out(name);
            fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).ok();
        }
        fs::remove_dir_all(place.path().join("store")).ok();
        fs::remove_dir_all(place.path().join("state/records")).ok();
    }
    table(&[
        ("pg_dump -Fc -Z0", &alone),
        ("seaworthy", &ours),
        ("pg_dump | gzip", &gzip),
        ("pg_dump | restic", &restic),
    ]);
    bound(
        "wall time beside pg_dump -Fc -Z0",
        ratio(&ours, &alone, |run| run.took.as_secs_f64()),
        1.05,
    );
    bound("size beside pg_dump | gzip", ratio(&ours, &gzip, |run| run.bytes as f64), 1.0);
    bound("memory in MB", median(&ours, |run| run.memory as f64) / f64::from(1 << 20), 64.0);
}

fn folders(plan: &Plan) {
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
    let first = worker(plan, &take, &store);
    let again: Vec<Run> = (0..plan.rounds).map(|_| worker(plan, &take, &store)).collect();
    let verify = job(
        place.path(),
        "files.bench",
        &source,
        &serde_json::json!({ "action": "verify", "full": false, "set": null }),
    );
    let verified = worker(plan, &verify, &store);
    let repository = place.path().join("restic");
    let restic = |words: &str| {
        let begun = Instant::now();
        let line = format!("RESTIC_PASSWORD=x restic -q -r {} {words}", repository.display());
        run(Command::new("bash").args(["-c", &line]));
        Run { took: begun.elapsed(), bytes: size_of(&repository), memory: 0 }
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
    bound("verify of unchanged sets in seconds", verified.took.as_secs_f64(), 1.0);
}

/// A worker's job, as control would hand it over.
fn job(place: &Path, item: &str, source: &serde_json::Value, action: &serde_json::Value) -> String {
    let run_as = unprivileged()
        .map(|(uid, gid)| serde_json::json!({ "uid": uid, "gid": gid, "groups": [] }));
    let keep = serde_json::json!({ "last": 9, "hourly": 0, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 0 });
    serde_json::json!({
        "site": "bench",
        "item": { "name": item, "source": source, "rules": { "keep": keep, "sql": [], "rpo_ms": null, "rto_ms": null } },
        "stores": [{ "name": "local", "place": { "kind": "folder", "path": place.join("store") } }],
        "folders": { "state": place.join("state"), "run": place.join("r") },
        "run_as": run_as, "owner": [], "patient": false, "action": action,
    })
    .to_string()
}

/// Runs a worker to its end; its memory is the kernel's own high-water mark.
fn worker(plan: &Plan, job: &str, store: &Path) -> Run {
    let begun = Instant::now();
    let mut child = Command::new(&plan.binary)
        .arg("backup-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut stdin = child.stdin.take().expect("its input");
    std::io::Write::write_all(&mut stdin, format!("{job}\n").as_bytes()).expect("its job");
    let (mut memory, mut last) = (0, String::new());
    let events = std::io::BufReader::new(child.stdout.take().expect("its output"));
    for line in std::io::BufRead::lines(events).map_while(Result::ok) {
        memory = memory.max(high_water(child.id()));
        last = line;
    }
    child.wait().expect("its end");
    assert!(last.contains("\"done\""), "{last}");
    Run { took: begun.elapsed(), bytes: size_of(store), memory }
}

fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

/// A line of shell with the server's variables.
fn shell(server: &Postgres, line: &str, made: &Path) -> Run {
    let begun = Instant::now();
    let mut command = Command::new("bash");
    command
        .args(["-o", "pipefail", "-c", line])
        .envs([("PGUSER", "boss"), ("PGPASSWORD", "s3cr:t/@")]);
    run(command.env("PGHOST", server.folder()));
    Run { took: begun.elapsed(), bytes: size_of(made), memory: 0 }
}

fn run(command: &mut Command) {
    let status = command.status().expect("a program");
    assert!(status.success(), "{command:?} ended with {status}");
}

fn size_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_of(&entry.path())).sum()
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

fn ratio(ours: &[Run], theirs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

fn table(rows: &[(&str, &[Run])]) {
    println!("{:<24}{:>10}{:>12}{:>12}", "", "seconds", "MB stored", "MB memory");
    for (name, runs) in rows {
        let memory = median(runs, |run| run.memory as f64) / f64::from(1 << 20);
        let memory = if memory > 0.0 { format!("{memory:.0}") } else { String::new() };
        println!(
            "{name:<24}{:>10.2}{:>12.0}{memory:>12}",
            median(runs, |run| run.took.as_secs_f64()),
            median(runs, |run| run.bytes as f64) / f64::from(1 << 20)
        );
    }
}

fn bound(what: &str, is: f64, most: f64) {
    println!("{what}: {is:.2} (bound {most})");
}
