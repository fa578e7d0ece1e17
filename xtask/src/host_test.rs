//! The tests of limits on a real host: systemd, control groups version 2, root.
//!
//! Elsewhere the same tests run with what control groups there are and say `unproven here` where there
//! are none; here that is a failure. Invariant: a host that lacks something fails with a list of all of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::is_installed;
use crate::{cargo, run};

/// Runs the shim's tests of limits and stops in a scope that systemd delegates.
pub(crate) fn host_test() -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(|one| format!("  - {one}")).collect();
        bail!("limits cannot be proven on this host; it lacks:\n{}", list.join("\n"));
    }
    let tests = build()?;
    run(Command::new("systemd-run")
        .args(["--scope", "--collect", "--quiet", "-p", "Delegate=yes"])
        .arg(tests)
        .args(["limits::", "stops::", "--test-threads=1"])
        .env("SEAWORTHY_PROVE_LIMITS", "1"))
}

/// What this host lacks, in words.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        missing.push("root: run it with sudo".to_owned());
    }
    if !Path::new("/run/systemd/system").is_dir() {
        missing.push("systemd as the first process: /run/systemd/system is not there".to_owned());
    }
    if !is_installed("systemd-run") {
        missing.push("the program systemd-run".to_owned());
    }
    match std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        Err(_) => {
            missing.push(
                "control groups version 2 at /sys/fs/cgroup (not version 1, not hybrid)".to_owned(),
            );
        }
        Ok(there) => {
            for name in ["memory", "cpu", "pids"] {
                if !there.split_whitespace().any(|one| one == name) {
                    missing.push(format!("the controller `{name}` of control groups version 2"));
                }
            }
        }
    }
    missing
}

/// Builds the tests; returns their program.
fn build() -> Result<PathBuf> {
    let output = Command::new(cargo())
        .args(["test", "-p", "seaworthy-runtime", "--test", "shim", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("could not run cargo")?;
    if !output.status.success() {
        bail!("the tests could not be built");
    }
    let text = String::from_utf8(output.stdout).context("what cargo says")?;
    let program = text.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["name"] == "shim" && message["target"]["kind"][0] == "test";
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    });
    program.context("cargo names no program of the tests")
}
