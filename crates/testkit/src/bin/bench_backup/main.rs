//! Backups beside what people use: time, size and memory on real data.
//!
//! `cargo xtask bench backup` builds the release binary and runs this: a PostgreSQL server filled by pgbench is
//! dumped by `pg_dump -Fc -Z0` alone, by us, by `pg_dump | gzip`, into restic, and copied by pgBackRest, in turns;
//! a folder of many files is backed up twice, by us and by restic; a set of gigabytes is verified; one folder of
//! ever more files shows that memory stays; ever more tiny files in many folders show it of all that is done with a
//! backup. Figures are medians of the rounds; ratios are within a round, because
//! machines drift. Not here: pass or fail of a build; the bounds are printed beside the ratios.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::exit,
    reason = "a program for developers that prints what it found"
)]

mod databases;
mod folders;
mod measure;

use std::path::PathBuf;

/// What is measured.
struct Plan {
    binary: PathBuf,
    scale: u32,
    files: usize,
    /// Files in one folder, at most.
    flat: usize,
    /// Tiny files in many folders, at most.
    tiny: usize,
    /// Size of the set that is verified, in gigabytes.
    verify: usize,
    rounds: usize,
    /// Only this part.
    only: Option<String>,
}

/// A part of the bench.
type Part = fn(&Plan);

fn main() {
    let plan = plan();
    println!("pgbench scale {}, {} files, {} rounds", plan.scale, plan.files, plan.rounds);
    let parts: [(&str, Part); 5] = [
        ("database", databases::dumps),
        ("files", folders::unchanged),
        ("verify", folders::verified),
        ("flat", folders::flat),
        ("tiny", folders::tiny),
    ];
    for (name, part) in parts {
        if plan.only.as_deref().is_none_or(|only| only == name) {
            part(&plan);
        }
    }
}

const USAGE: &str = "\
Backups beside pg_dump, gzip, pgBackRest and restic.

  --binary PATH     the binary [seaworthy]
  --scale N         pgbench's scale; 150 is about 2 GB [150]
  --files N         files of a folder that is backed up again unchanged [100000]
  --flat N          files in one folder, at most [1000000]
  --tiny N          tiny files in many folders, at most [1000000]
  --verify N        size in GB of the set that is verified [5]
  --rounds N        rounds of each comparison [5]
  --only PART       database, files, verify, flat or tiny [all]";

/// Says what is wrong with the options, and ends.
fn refuse(why: &str) -> ! {
    eprintln!("{why}\n\n{USAGE}");
    std::process::exit(2)
}

fn plan() -> Plan {
    let mut plan = Plan {
        binary: "seaworthy".into(),
        scale: 150,
        files: 100_000,
        flat: 1_000_000,
        tiny: 1_000_000,
        verify: 5,
        rounds: 5,
        only: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" {
            println!("{USAGE}");
            std::process::exit(0);
        }
        let value = words.next().unwrap_or_else(|| refuse(&format!("{word} needs a value")));
        let number = || value.parse().unwrap_or_else(|_| refuse(&format!("{word} needs a number")));
        match word.as_str() {
            "--binary" => plan.binary = value.into(),
            "--scale" => plan.scale = number(),
            "--files" => plan.files = number() as usize,
            "--flat" => plan.flat = number() as usize,
            "--tiny" => plan.tiny = number() as usize,
            "--verify" => plan.verify = number() as usize,
            "--rounds" => plan.rounds = number() as usize,
            "--only" => plan.only = Some(value),
            _ => refuse(&format!("unknown option {word}")),
        }
    }
    plan
}
