//! Inside the virtual machine: started by its unit once in each boot, as root.
//!
//! Invariants: what was not reached has not passed; the machine powers off whatever comes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::service;
use crate::run;

/// How the machine's unit calls us.
pub(super) const ROLE: &str = "host-test-guest";
/// The last word when everything held.
pub(super) const PASSED: &str = "host-test: passed";
/// There from the first boot on.
const BEFORE: &str = "/var/lib/host-test";
/// Where the second disk is.
pub(super) const DISK: &str = "/opt";

/// One boot. `shim` is where the shim's tests look for their program.
pub(crate) fn guest(shim: &str) -> Result<()> {
    let again = Path::new(BEFORE).exists();
    let done = if again { service::after_the_reboot(BEFORE) } else { first(shim) };
    match done {
        Ok(()) if again => println!("{PASSED}"),
        Ok(()) => return run(Command::new("systemctl").arg("reboot")),
        Err(error) => {
            println!("FAILED {error:#}");
            // Without the kernel, which has much to say of every end for lack of memory.
            let of = ["--identifier=systemd", "--identifier=seaworthy"];
            show("journalctl", &[&["--boot", "--no-pager", "--lines=80"][..], &of].concat());
            show("systemd-cgls", &["--no-pager"]);
        }
    }
    run(Command::new("systemctl").arg("poweroff"))
}

fn first(shim: &str) -> Result<()> {
    let system = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let (systemd, _) = said("systemctl", &["--version"])?;
    println!("kernel {}, {}", system.trim(), systemd.lines().next().unwrap_or_default());
    super::demand()?;
    let shim = Path::new(shim);
    fs::create_dir_all(shim.parent().context("a program is in a folder")?)?;
    // Not copied: pages of a file that is not on the disk yet would count as the shim's own memory.
    std::os::unix::fs::symlink(format!("{DISK}/shim-under-test"), shim)?;
    super::limits(Path::new(&format!("{DISK}/shim")))?;
    service::before_the_reboot(BEFORE)
}

/// What a command says on standard output, and whether it ended well.
pub(super) fn said(program: &str, words: &[&str]) -> Result<(String, bool)> {
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("could not run {program}"))?;
    Ok((String::from_utf8_lossy(&output.stdout).trim().to_owned(), output.status.success()))
}

/// The same, for a command that has to end well.
pub(super) fn told(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("could not run {program}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {}", words.join(" "), output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// For people, whatever becomes of it.
fn show(program: &str, words: &[&str]) {
    if let Ok((text, _)) = said(program, words) {
        println!("--- {program}\n{text}");
    }
}

/// Waits until something is so.
pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > Duration::from_secs(120) {
            bail!("waited for: {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Says that something holds.
pub(super) fn holds(what: &str) {
    println!("ok  {what}");
}
