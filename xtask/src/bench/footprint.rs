//! Memory of an idle platform, and how long `up` takes.
//!
//! The guestbook is brought up twice, so that the second start is warm. Memory is read a moment after
//! the first page was served.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::peers::{Platform, Stage, free_ports, kib_of, rss_kib};

/// After `up`, before memory is read.
const IDLE: Duration = Duration::from_secs(2);

/// Prints memory and start of the guestbook.
pub(super) fn print(stage: &Stage) -> Result<()> {
    println!("\nfootprint: examples/guestbook, two instances");
    let platform = stage.platform("guestbook")?;
    let project = platform_copy(stage, Path::new("examples/guestbook"))?;
    up(stage, &platform, &project)?;
    platform.command(&["down", "--all"]).output()?;
    let (took, after) = up(stage, &platform, &project)?;
    println!("  up, from the command to its end            {:>7} ms", took.as_millis());
    println!(
        "  first https 200, after the last instance was listening {:>5} ms   bound 1000: {}",
        after.as_millis(),
        if after <= Duration::from_secs(1) { "met" } else { "NOT met" }
    );
    // Idle is what lasts: two seconds later each role has given back what only the start needed.
    std::thread::sleep(IDLE);
    memory(&platform)
}

/// A copy with free ports; the original stays as it is.
fn platform_copy(stage: &Stage, example: &Path) -> Result<PathBuf> {
    let project = stage.dir.join("guestbook-project");
    let output = Command::new("cp").arg("-r").arg(example).arg(&project).output()?;
    if !output.status.success() {
        bail!("cp: {}", String::from_utf8_lossy(&output.stderr));
    }
    let [http, https] = free_ports()?;
    let file = project.join("seaworthy.toml");
    let listen = format!(
        "[listen]\nhttp = \"127.0.0.1:{http}\"\nhttps = \"127.0.0.1:{https}\"\n\n[service.pages]"
    );
    let text = fs::read_to_string(&file)?.replacen("[service.pages]", &listen, 1);
    fs::write(file, text)?;
    Ok(project)
}

/// Brings it up and asks for a page; how long the verb took, and from listening to the page.
fn up(stage: &Stage, platform: &Platform, project: &Path) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let mut verb = platform.command(&["up", "--detach"]).arg(project).spawn()?;
    let listening = listening_since(platform, &mut verb)?;
    if !verb.wait()?.success() {
        bail!("up failed");
    }
    let took = begun.elapsed();
    let status = platform.status()?;
    let url = status["sites"][0]["urls"][0].as_str().context("no url")?.to_owned();
    let authority = stage.dir.join("guestbook/state/ca.pem");
    let answer = Command::new("curl")
        .args(["-fsS", "-o", "/dev/null", "--cacert"])
        .arg(authority)
        .arg(format!("{url}/api/health"))
        .status()?;
    if !answer.success() {
        bail!("{url} did not answer 200");
    }
    Ok((took, listening.elapsed()))
}

/// When an instance was first seen to accept a connection; asked for until the verb ends.
fn listening_since(platform: &Platform, verb: &mut Child) -> Result<Instant> {
    loop {
        let listening = platform.status().is_ok_and(|status| {
            instances(&status).iter().any(|instance| {
                let addresses = instance["listening"].as_object().cloned().unwrap_or_default();
                addresses
                    .values()
                    .filter_map(|address| address.as_str()?.parse().ok())
                    .any(|address: SocketAddr| TcpStream::connect(address).is_ok())
            })
        });
        if listening || verb.try_wait()?.is_some() {
            return Ok(Instant::now());
        }
    }
}

fn instances(status: &Value) -> Vec<Value> {
    let services = status["sites"][0]["services"].as_array().into_iter().flatten();
    services.flat_map(|one| one["instances"].as_array().cloned().unwrap_or_default()).collect()
}

fn memory(platform: &Platform) -> Result<()> {
    let status = platform.status()?;
    let pids = platform.pids()?;
    for (name, pid) in ["control", "keeper", "edge"].iter().zip(&pids) {
        println!("  {name:<8} rss {:>6} KiB   private {:>6} KiB", rss_kib(*pid), private(*pid));
    }
    let sum = rss_kib(pids[0]) + pids.last().map_or(0, |edge| rss_kib(*edge));
    println!(
        "  control + edge                             {sum:>7} KiB   bound 25600: {}",
        if sum <= 25_600 { "met" } else { "NOT met" }
    );
    let shims: Vec<u64> =
        instances(&status).iter().filter_map(|one| one["shim_pid"].as_u64()).collect();
    let most = shims.iter().map(|pid| private(*pid)).max().context("status names no shim")?;
    println!(
        "  a shim, private dirty, the larger of {}     {most:>7} KiB   bound 1024: {}",
        shims.len(),
        if most <= 1024 { "met" } else { "NOT met" }
    );
    Ok(())
}

fn private(pid: u64) -> u64 {
    kib_of(&format!("/proc/{pid}/smaps_rollup"), "Private_Dirty:")
}
