//! The tests of a real host: systemd, control groups version 2, root.
//!
//! Elsewhere the same tests run with what control groups there are and say `unproven here` where there
//! are none; here that is a failure. `host-test` proves limits and ends on this very host; `host-test --vm` does so
//! in a virtual machine (`vm`, `image`), and there installs Seaworthy as well, restarts it, kills it and reboots
//! (`guest`, `service`): nothing that anybody would want done to their own machine. Invariant: a host that lacks
//! something fails with a list of all of it.

mod commands;
mod guest;
mod image;
mod service;
mod vm;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::is_installed;
use crate::{cargo, run};

pub(crate) use guest::guest;
pub(crate) use vm::in_a_machine;

/// Runs the shim's tests of what the host has a part in, in a scope that systemd delegates.
pub(crate) fn host_test() -> Result<()> {
    demand()?;
    limits(&built("test", "shim", &["test", "-p", "seaworthy-runtime", "--test", "shim"])?)
}

/// Ends with a list of what this host lacks, if that is anything.
fn demand() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(|one| format!("  - {one}")).collect();
    bail!(
        "limits cannot be proven on this host; it lacks:\n{}\nA virtual machine has it all: cargo xtask host-test --vm",
        list.join("\n")
    )
}

/// Runs a program of those tests, one after the other: they measure.
fn limits(tests: &Path) -> Result<()> {
    run(Command::new("systemd-run")
        .args(["--scope", "--collect", "--quiet", "-p", "Delegate=yes"])
        .arg(tests)
        .args(["limits::", "stops::", "ends::", "--test-threads=1"])
        .env("SEAWORTHY_PROVE_LIMITS", "1"))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// What this host lacks, in words.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !is_root() {
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

/// Builds something; returns the program of that kind (`bin`, `test`) and name.
fn built(kind: &str, name: &str, words: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    command.args(words).args(if words[0] == "test" { &["--no-run"][..] } else { &[] });
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("could not run cargo")?;
    if !output.status.success() {
        bail!("`{name}` could not be built");
    }
    let text = String::from_utf8(output.stdout).context("what cargo says")?;
    let program = text.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let is_it = target["name"] == name && target["kind"][0] == kind;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    program.with_context(|| format!("cargo names no program `{name}`"))
}
