//! The project's chores: `setup`, `test`, `fuzz`, `host-test`, `tidy`, `gen [--check]`, `bench edge`,
//! `bench deploy`, `bench backup`, `soak`.
//!
//! Few dependencies, so that it builds in a moment. Not here: anything that a user of Seaworthy runs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod bench;
mod cache_tests;
mod generate;
mod host_test;
mod http2_tests;
mod http3_tests;
mod mysql_tests;
mod setup;
mod slow_tests;
mod tidy;
mod tls_tests;
mod trial;
mod upgrade_test;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
cargo xtask setup           install what the tests need
cargo xtask test            setup, then every test
cargo xtask host-test       limits and ends on a real host with systemd and control groups version 2
cargo xtask host-test --vm  the same in a virtual machine, and there systemd's part as well: install, restart, reboot
cargo xtask fuzz [SECONDS]  what reads bytes of strangers, for so long each (30)
cargo xtask tidy            what the compiler does not check: documentation, direction, dead paths
cargo xtask gen [--check]   the references under docs/reference
cargo xtask bench edge      us beside nginx and HAProxy (--help for its options)
cargo xtask bench deploy    releases, rollbacks and upgrades under load (--help for its options)
cargo xtask bench backup    dumps and folders beside pg_dump, gzip, pgBackRest and restic (--only, --rounds, …)
cargo xtask upgrade-test [COMMIT]  from the previous version's program and back (the last tag, or that commit)
cargo xtask cache-tests     the cache judged by http-cache-tests (needs npm and the network)
cargo xtask tls-tests       TLS judged by testssl.sh and sslyze: grade A, no serious finding (needs PyPI)
cargo xtask http2-tests     HTTP/2 judged by httpwg-cli: every case of RFC 9113 (needs crates.io)
cargo xtask http3-tests     HTTP/3 asked by an independent client, aioquic (needs PyPI)
cargo xtask mysql-tests     backups of MySQL's own server and tools (needs Debian's unstable packages: 70 MB)
cargo xtask slow-tests      slow clients judged by slowhttptest: available in all four of its modes
cargo xtask soak            minutes of mixed load while everything is killed (--help for its options)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["setup"] => setup::setup_for_tests(),
        ["test"] => setup::setup_for_tests().and_then(|()| test()),
        ["host-test"] => host_test::host_test(),
        ["host-test", "--vm"] => host_test::in_a_machine(),
        // By the machine that the line above starts.
        ["host-test-guest", shim] => host_test::guest(shim),
        ["fuzz"] => fuzz("30"),
        ["fuzz", seconds] => fuzz(seconds),
        ["tidy"] => tidy::tidy(),
        ["gen"] => generate::generate(false),
        ["gen", "--check"] => generate::generate(true),
        ["bench", "edge", ref options @ ..] => bench::edge(options),
        ["bench", "deploy", ref options @ ..] => setup::setup(setup::FOR_BENCH_DEPLOY)
            .and_then(|()| with_release("deploy_bench", options)),
        ["bench", "backup", ref options @ ..] => setup::setup(setup::FOR_BENCH_BACKUP)
            .and_then(|()| with_release("bench_backup", options)),
        ["soak", ref options @ ..] => with_release("soak", options),
        ["upgrade-test"] => upgrade_test::upgrade_test(None),
        ["upgrade-test", revision] => upgrade_test::upgrade_test(Some(revision)),
        ["tls-tests"] => tls_tests::tls_tests(),
        ["http2-tests"] => http2_tests::http2_tests(),
        ["http3-tests"] => http3_tests::http3_tests(),
        ["mysql-tests"] => mysql_tests::mysql_tests(),
        ["slow-tests"] => slow_tests::slow_tests(),
        ["cache-tests"] => cache_tests::cache_tests(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<()> {
    run(Command::new(cargo()).args(["test", "--workspace"]))
}

/// Fresh mutations of the corpus; says which input broke a rule.
fn fuzz(seconds: &str) -> Result<()> {
    let mut command = Command::new(cargo());
    // The whole workspace, as the tests build it: nothing is built anew.
    command.args(["test", "--workspace", "--lib", "fuzz::targets"]);
    run(command.env("SEAWORTHY_FUZZ_SECONDS", seconds))
}

/// Runs a program of the harness on the release binary; `soak --help` and the like say what can be asked.
fn with_release(name: &str, arguments: &[&str]) -> Result<()> {
    let build = ["build", "--release", "-p", "seaworthy", "-p", "seaworthy-testkit"];
    run(Command::new(cargo()).args(build))?;
    let release = tidy::metadata()?["target_directory"].as_str().map(std::path::PathBuf::from);
    let release = release.context("cargo names no target folder")?.join("release");
    let mut program = Command::new(release.join(name));
    run(program.arg("--binary").arg(release.join("seaworthy")).args(arguments))
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
