//! Commands of a deployment under the real systemd: where they stand, and that they end with control.
//!
//! The site that is deployed here never comes to anything: its build sleeps, with something in a session of its own.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guest::{eventually, holds, told};
use super::service::{PROGRAM, SCOPE, UNIT, group};

const PROJECT: &str = "/srv/slow";
const MANIFEST: &str = "site = \"slow\"\ndomains = [\"slow.localhost\"]\n\n[service.pages]\nbuild = { shell = \"setsid sleep 600 & sleep 600\" }\nstatic = \".\"\n\n[[route]]\npaths = [\"/*\"]\nto = \"pages\"\n\n[deploy]\nbuild_memory = \"200M\"\n";

/// The unit is restarted, and control killed, in the middle of a build.
pub(super) fn end_with_control() -> Result<()> {
    fs::create_dir_all(PROJECT)?;
    fs::write(format!("{PROJECT}/seaworthy.toml"), MANIFEST)?;
    let restart = ["systemctl", "restart", UNIT];
    let kill = ["systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT];
    for act in [&restart[..], &kill] {
        let deploy = Command::new(PROGRAM).args(["deploy", PROJECT]).stderr(Stdio::piped()).spawn();
        let deploy = deploy.context("could not start a deployment")?;
        eventually("a build that sleeps", || sleepers().is_ok_and(|all| all.len() == 2))?;
        for pid in sleepers()? {
            let group = group(pid)?;
            ensure!(group.contains(&format!("/{SCOPE}/seaworthy/slow.deployment.")), "{group}");
            let limit = fs::read_to_string(format!("/sys/fs/cgroup{group}/memory.max"))?;
            ensure!(limit.trim() == (200 << 20).to_string(), "a build has another limit: {limit}");
        }
        let (program, words) = act.split_first().context("a command")?;
        told(program, words)?;
        eventually("nothing of the build is left", || sleepers().is_ok_and(|all| all.is_empty()))?;
        eventually("the deployment has an ending", || last().is_ok_and(|one| one == "failed"))?;
        let output = deploy.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(words.contains("seaworthy status"), "who deployed is not told: {words}");
    }
    holds(
        "a build stands in the scope with its limit, and ends when control is restarted or killed",
    );
    Ok(())
}

fn sleepers() -> Result<Vec<u32>> {
    let sleeps = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == b"sleep\x00600\x00"
    };
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    Ok(pids.filter(sleeps).collect())
}

/// How the newest deployment ended.
fn last() -> Result<String> {
    let found: Value = serde_json::from_str(&told(PROGRAM, &["releases", "slow", "--json"])?)?;
    Ok(found["deployments"][0]["state"].as_str().unwrap_or_default().to_owned())
}
