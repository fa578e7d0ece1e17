//! One run of one program: how long, how much processor, how much memory, how many bytes it left.
//!
//! Invariants: a run that fails ends the bench; the processor's time of a server that works for a program counts as
//! the program's. Not here: what is run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seaworthy_testkit::peers::unprivileged;

/// One run: wall time, the processor's time, bytes that it left, most memory of one process.
#[derive(Clone, Copy, Default)]
pub(crate) struct Run {
    pub took: Duration,
    pub cpu: f64,
    pub bytes: u64,
    pub memory: u64,
}

/// The processor's time in seconds: of our children that have ended, and of a server with its processes.
fn cpu(server: Option<u32>) -> f64 {
    let ticks = |fields: &[&str], which: std::ops::Range<usize>| -> u64 {
        let fields = fields.get(which).unwrap_or_default();
        fields.iter().map(|field| field.parse::<u64>().unwrap_or(0)).sum()
    };
    // From the third field on: the name before it may hold anything.
    let read = |name: &str, of: &dyn Fn(&[&str]) -> u64| {
        let text = fs::read_to_string(format!("/proc/{name}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        of(&fields)
    };
    let mut all = read("self", &|fields| ticks(fields, 13..15));
    if let Some(server) = server {
        all += read(&server.to_string(), &|fields| ticks(fields, 11..15));
        let parent = server.to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                all += read(&name, &|fields| {
                    if fields.get(1) == Some(&parent.as_str()) { ticks(fields, 11..13) } else { 0 }
                });
            }
        }
    }
    all as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Measures something that may make a server work, too, and what it left at `made`.
fn measured(server: Option<u32>, made: &Path, work: impl FnOnce() -> u64) -> Run {
    let (before, begun) = (cpu(server), Instant::now());
    let memory = work();
    let took = begun.elapsed();
    Run { took, cpu: cpu(server) - before, bytes: size_of(made), memory }
}

/// A worker's job, as control would hand it over.
pub(crate) fn job(
    place: &Path,
    item: &str,
    source: &serde_json::Value,
    action: &serde_json::Value,
) -> String {
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
pub(crate) fn worker(binary: &Path, job: &str, store: &Path, server: Option<u32>) -> Run {
    measured(server, store, || work(binary, job))
}

fn work(binary: &Path, job: &str) -> u64 {
    let mut child = Command::new(binary)
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
    memory
}

fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

/// A line of shell, with variables.
pub(crate) fn shell(
    line: &str,
    variables: &[(&str, &str)],
    made: &Path,
    server: Option<u32>,
) -> Run {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", line]).envs(variables.iter().copied());
    measured(server, made, || {
        let status = command.status().expect("a program");
        assert!(status.success(), "{command:?} ended with {status}");
        0
    })
}

fn size_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_of(&entry.path())).sum()
}

pub(crate) fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

pub(crate) fn ratio(ours: &[Run], theirs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

pub(crate) fn table(rows: &[(&str, &[Run])]) {
    println!("{:<24}{:>10}{:>10}{:>12}{:>12}", "", "seconds", "of CPU", "MB stored", "MB memory");
    for (name, runs) in rows {
        let memory = median(runs, |run| run.memory as f64) / f64::from(1 << 20);
        let memory = if memory > 0.0 { format!("{memory:.0}") } else { String::new() };
        println!(
            "{name:<24}{:>10.2}{:>10.2}{:>12.0}{memory:>12}",
            median(runs, |run| run.took.as_secs_f64()),
            median(runs, |run| run.cpu),
            median(runs, |run| run.bytes as f64) / f64::from(1 << 20)
        );
    }
}

pub(crate) fn bound(what: &str, is: f64, most: f64) {
    println!("{what}: {is:.2} (bound {most})");
}
