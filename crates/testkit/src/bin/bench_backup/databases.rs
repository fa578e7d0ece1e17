//! A PostgreSQL server that pgbench filled, dumped by everybody in turns.

use std::fs;
use std::path::Path;
use std::time::Instant;

use seaworthy_testkit::peers::{Place, Postgres, unprivileged};

use crate::Plan;
use crate::measure::{Run, bound, job, median, ratio, shell, table, worker};

/// All programs, in the order in which they take turns.
const NAMES: [&str; 5] =
    ["pg_dump -Fc -Z0", "seaworthy", "pg_dump | gzip", "pg_dump | restic", "pgbackrest, zst"];

pub(crate) fn dumps(plan: &Plan) {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE bench");
    let begun = Instant::now();
    server.pgbench("bench", plan.scale);
    // What the filling left to be written and cleaned is not to be done while somebody is measured.
    server.sql("bench", "VACUUM");
    server.sql("bench", "CHECKPOINT");
    let size = server.sql("bench", "SELECT pg_database_size('bench')").parse::<u64>().unwrap_or(0);
    println!("\nPostgreSQL: {} MB, filled in {:.0} s", size >> 20, begun.elapsed().as_secs_f64());
    let place = Place::new();
    let mut all: [Vec<Run>; 5] = Default::default();
    for round in 0..plan.rounds {
        for (name, runs) in NAMES.iter().zip(&mut all) {
            let out = place.path().join(format!("{round}-out"));
            let run = one(plan, name, &server, place.path(), &out);
            println!(
                "  round {round}  {name:<16} {:>6.2} s  {:>6.2} s of CPU",
                run.took.as_secs_f64(),
                run.cpu
            );
            runs.push(run);
            fs::remove_file(&out).or_else(|_| fs::remove_dir_all(&out)).ok();
        }
    }
    let rows: Vec<(&str, &[Run])> = NAMES.into_iter().zip(all.iter().map(Vec::as_slice)).collect();
    table(&rows);
    let [alone, ours, gzip, ..] = &all;
    let name = "wall time beside pg_dump -Fc -Z0";
    bound(name, ratio(ours, alone, |run| run.took.as_secs_f64()), 1.05);
    println!("CPU beside pg_dump -Fc -Z0: {:.2}", ratio(ours, alone, |run| run.cpu));
    bound("size beside pg_dump | gzip", ratio(ours, gzip, |run| run.bytes as f64), 1.0);
    bound("memory in MB", median(ours, |run| run.memory as f64) / f64::from(1 << 20), 64.0);
}

fn one(plan: &Plan, name: &str, server: &Postgres, place: &Path, out: &Path) -> Run {
    let host = server.folder().display().to_string();
    let variables = [
        ("PGUSER", "boss"),
        ("PGPASSWORD", "s3cr:t/@"),
        ("PGHOST", &host),
        ("RESTIC_PASSWORD", "x"),
    ];
    let pid = postmaster(server);
    let line = |line: &str| shell(line, &variables, out, pid);
    let to = out.display();
    match name {
        "pg_dump -Fc -Z0" => line(&format!("pg_dump -Fc -Z0 bench > {to}")),
        "pg_dump | gzip" => line(&format!("pg_dump bench | gzip > {to}")),
        "pg_dump | restic" => {
            line(&format!("restic -q init -r {to}"));
            line(&format!("pg_dump -Fc -Z0 bench | restic -q backup --no-cache --stdin -r {to}"))
        }
        "pgbackrest, zst" => {
            let (program, options) = pgbackrest(server, out);
            line(&format!("{program} {options} stanza-create"));
            // The server keeps no log: what is compared is the copying.
            line(&format!(
                "{program} {options} --repo1-retention-full=1 --no-archive-check --start-fast --type=full --compress-type=zst --process-max=1 backup"
            ))
        }
        _ => {
            let source = serde_json::json!({ "engine": "postgres", "url": server.url("bench"), "databases": null });
            let take = serde_json::json!({ "action": "take", "reason": "asked" });
            let job = job(place, "database.bench", &source, &take);
            let run = worker(&plan.binary, &job, &place.join("store/bench/database.bench"), pid);
            fs::remove_dir_all(place.join("store")).ok();
            fs::remove_dir_all(place.join("state/records")).ok();
            run
        }
    }
}

/// How pgBackRest is called, as the user that the server runs as.
fn pgbackrest(server: &Postgres, out: &Path) -> (String, String) {
    fs::create_dir_all(out).expect("a folder");
    let program = unprivileged().map_or("pgbackrest".to_owned(), |(uid, gid)| {
        std::os::unix::fs::chown(out, Some(uid), Some(gid)).expect("root gives folders away");
        format!("setpriv --reuid {uid} --regid {gid} --clear-groups pgbackrest")
    });
    let (folder, out) = (server.folder().display(), out.display());
    let options = format!(
        "--config=/dev/null --stanza=bench --pg1-path={folder}/data --pg1-socket-path={folder} --pg1-user=boss --repo1-path={out} --lock-path={out}/lock --log-path={out}/log --log-level-console=error --log-level-file=off"
    );
    (program, options)
}

fn postmaster(server: &Postgres) -> Option<u32> {
    let text = fs::read_to_string(server.folder().join("data/postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}
