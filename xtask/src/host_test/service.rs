//! Seaworthy as a service of the real systemd: installed, restarted, killed, stopped, removed, rebooted.
//!
//! Every step says what holds; the first that does not ends the run. Invariants: what is counted as refused was refused
//! by the kernel; the load asks all the while and is stopped before it is judged.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::commands;
use super::guest::{DISK, eventually, holds, said, told};

pub(super) const PROGRAM: &str = "/usr/local/bin/seaworthy";
/// The same, as another build.
const NEXT_PROGRAM: &str = "/usr/local/bin/seaworthy-next";
pub(super) const UNIT: &str = "seaworthy.service";
pub(super) const SCOPE: &str = "seaworthy-run.scope";
const PROJECT: &str = "/srv/guestbook";
const STATE: &str = "/var/lib/seaworthy";
/// How long a request may take: an emulated processor is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who runs.
#[derive(Debug, PartialEq, Eq)]
struct Pids {
    control: u32,
    edge: u32,
    applications: BTreeSet<u32>,
}

impl Pids {
    fn now() -> Result<Self> {
        let status: Value = serde_json::from_str(&told(PROGRAM, &["status", "--json"])?)?;
        let pid = |value: &Value| value.as_u64().and_then(|pid| u32::try_from(pid).ok());
        let services = status["sites"][0]["services"].as_array().cloned().unwrap_or_default();
        let instances = services.iter().filter_map(|service| service["instances"].as_array());
        let ready = instances.flatten().filter(|one| one["state"] == "ready");
        Ok(Self {
            control: pid(&status["control"]["pid"]).context("no control process")?,
            edge: pid(&status["edge"]["pid"]).context("no edge process")?,
            applications: ready.filter_map(|one| pid(&one["pid"])).collect(),
        })
    }

    /// Once both instances are ready again.
    fn settled() -> Result<Self> {
        eventually("two ready instances", || {
            Self::now().is_ok_and(|now| now.applications.len() == 2)
        })?;
        Self::now()
    }

    fn serves_as(&self, before: &Self) -> bool {
        self.edge == before.edge && self.applications == before.applications
    }
}

/// The control group of a process.
pub(super) fn group(pid: u32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text.trim().trim_start_matches("0::").to_owned())
}

/// A property of the unit.
fn property(name: &str) -> Result<String> {
    told("systemctl", &["show", "--value", "--property", name, UNIT])
}

/// One page over HTTPS, by curl: the certificate is ours.
fn page(path: &str) -> Result<String> {
    let ca = format!("{STATE}/ca.pem");
    let url = format!("https://guestbook.localhost{path}");
    let resolve = "guestbook.localhost:443:127.0.0.1";
    told("curl", &["-sS", "--fail", "-m", "30", "--cacert", &ca, "--resolve", resolve, &url])
}

/// Requests without end, each on a connection of its own, over plain HTTP and HTTPS.
struct Load {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start() -> Self {
        let (ended, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let asking = |ask: fn() -> Result<()>| {
            let (ended, answered) = (Arc::clone(&ended), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut errors = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    match ask() {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => errors.push(format!("{error:#}")),
                    }
                }
                errors
            })
        };
        let threads = vec![asking(redirect), asking(|| page("/api/health").map(drop))];
        Self { ended, answered, threads }
    }

    /// Waits until so many more were answered.
    fn flow(&self, more: u64) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("answers", || self.answered.load(Ordering::Relaxed) >= before + more)
    }

    /// How many were answered, and what became of the others.
    fn stop(self) -> (u64, Vec<String>) {
        self.ended.store(true, Ordering::Relaxed);
        let errors = self.threads.into_iter().flat_map(|one| one.join().unwrap_or_default());
        let errors = errors.collect();
        (self.answered.load(Ordering::Relaxed), errors)
    }
}

/// What plain HTTP answers: go to HTTPS.
fn redirect() -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => bail!("{REFUSED}"),
        other => other?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(b"GET /x HTTP/1.1\r\nHost: guestbook.localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let wanted = "https://guestbook.localhost/x";
    ensure!(text.starts_with("HTTP/1.1 30") && text.contains(wanted), "it answered {text:?}");
    Ok(())
}

/// In what the kernel refused; curl says `(7)` and this too.
const REFUSED: &str = "Connection refused";

/// Does something under load. Nothing may fail, or, where what answers is killed, nothing be refused.
fn under_load(what: &str, only_refusals: bool, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let load = Load::start();
    load.flow(10)?;
    act()?;
    load.flow(10)?;
    let (answered, errors) = load.stop();
    let refused = errors.iter().filter(|error| {
        error.contains(REFUSED) || error.contains("(7)") || error.contains("Failed to connect")
    });
    let refused = refused.count();
    ensure!(refused == 0 && (only_refusals || errors.is_empty()), "{what}: {errors:#?}");
    holds(&format!("{what}: {answered} answered, 0 refused, {} cut", errors.len()));
    Ok(())
}

/// From nothing to a machine that may be rebooted.
pub(super) fn before_the_reboot(mark: &str) -> Result<()> {
    fs::copy(format!("{DISK}/seaworthy"), PROGRAM)?;
    told("cp", &["-r", &format!("{DISK}/guestbook"), PROJECT])?;
    installed_beside_what_runs()?;
    judged_by_systemd()?;
    told("systemctl", &["stop", UNIT])?;
    told(PROGRAM, &["up", PROJECT, "--detach"])?;
    ensure!(property("ActiveState")? == "active", "`up` did not start the unit");
    ensure!(page("/")?.contains("Guestbook"), "the page is another one");
    page("/api/health")?;
    holds("up: the stopped unit is started, the guestbook answers over HTTPS");
    placed()?;
    restarted()?;
    killed()?;
    commands::end_with_control()?;
    stuck()?;
    stopped()?;
    upgraded()?;
    ended_with_its_scope()?;
    removed_and_installed()?;
    fs::create_dir_all(mark)?;
    fs::copy("/proc/sys/kernel/random/boot_id", Path::new(mark).join("boot_id"))?;
    holds("reboot");
    Ok(())
}

/// Somebody tried it first, and then wants it as a service.
fn installed_beside_what_runs() -> Result<()> {
    told(PROGRAM, &["up", PROJECT, "--detach"])?;
    let before = Pids::settled()?;
    told(PROGRAM, &["install"])?;
    ensure!(property("ActiveState")? == "active", "the unit is not active");
    let after = Pids::settled()?;
    ensure!(after.serves_as(&before) && after.control != before.control, "{before:?} {after:?}");
    ensure!(property("MainPID")? == after.control.to_string(), "control is not the unit's process");
    let log = told(PROGRAM, &["logs", "--control"])?;
    ensure!(log.contains(&format!("owns {STATE}")), "what control says: {log}");
    told(PROGRAM, &["down", "--all"])?;
    let mut served = after.applications.iter().chain([&after.edge]);
    ensure!(!served.any(|pid| Path::new(&format!("/proc/{pid}")).exists()), "something still runs");
    holds("install: the unit is active, and takes over what ran before");
    Ok(())
}

/// What systemd itself thinks of the unit.
fn judged_by_systemd() -> Result<()> {
    let file = format!("/etc/systemd/system/{UNIT}");
    let output = std::process::Command::new("systemd-analyze").args(["verify", &file]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // The manual is not part of what is copied.
    let about_us = errors.lines().filter(|line| line.contains(UNIT) && !line.contains("man "));
    let about_us: Vec<&str> = about_us.collect();
    ensure!(about_us.is_empty(), "systemd-analyze verify: {about_us:#?}");
    holds("systemd-analyze verify has nothing to say");
    let (security, _) = said("systemd-analyze", &["security", "--no-pager", UNIT])?;
    println!("{}", security.lines().last().unwrap_or_default());
    Ok(())
}

/// Who stands in which control group, and what guards are missing.
fn placed() -> Result<()> {
    let pids = Pids::settled()?;
    ensure!(
        group(pids.control)?.ends_with(&format!("/{UNIT}")),
        "control: {}",
        group(pids.control)?
    );
    let leaf = format!("/{SCOPE}/seaworthy-platform");
    ensure!(group(pids.edge)?.ends_with(&leaf), "edge: {}", group(pids.edge)?);
    for pid in &pids.applications {
        let group = group(*pid)?;
        ensure!(group.contains(&format!("/{SCOPE}/seaworthy/guestbook.")), "application: {group}");
        let limit = fs::read_to_string(format!("/sys/fs/cgroup{group}/pids.max"))?;
        ensure!(limit.trim().parse::<u64>().is_ok(), "an application has no limit: {limit}");
    }
    let status: Value = serde_json::from_str(&told(PROGRAM, &["status", "--json"])?)?;
    let guards = status["guards"].to_string();
    ensure!(!guards.contains("control") && !guards.contains("limited"), "guards: {guards}");
    holds("control is in the unit, edge and applications in the scope, with limits");
    println!("guards that this kernel does not give: {guards}");
    Ok(())
}

fn restarted() -> Result<()> {
    let before = Pids::settled()?;
    let listeners: u64 = property("NFileDescriptorStore")?.parse()?;
    ensure!(listeners >= 2, "systemd keeps {listeners} descriptors");
    holds(&format!("systemd keeps {listeners} listening sockets"));
    under_load("systemctl restart, three times", false, || {
        for _ in 0..3 {
            told("systemctl", &["restart", UNIT])?;
        }
        Ok(())
    })?;
    let after = Pids::settled()?;
    ensure!(after.serves_as(&before) && after.control != before.control, "{before:?} {after:?}");
    ensure!(property("NFileDescriptorStore")?.parse() == Ok(listeners), "it keeps others now");
    holds("edge and applications are the same processes");
    Ok(())
}

/// `kill -9`, in the order given and at once: the shell's own.
fn kill(pids: &[u32]) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    told("sh", &["-c", &format!("kill -9 {}", pids.join(" "))]).map(drop)
}

/// The processes of our program.
fn ours() -> Result<Vec<String>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let is_ours = |path: &Path| {
        let program = fs::read_link(path.join("exe"));
        program.is_ok_and(|program| [PROGRAM, NEXT_PROGRAM].map(Path::new).contains(&&*program))
    };
    let found = entries.map(|entry| entry.path()).filter(|path| is_ours(path));
    Ok(found.map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default()).collect())
}

fn killed() -> Result<()> {
    let before = Pids::settled()?;
    under_load("kill -9 of control", false, || {
        kill(&[before.control])?;
        eventually("another control", || Pids::now().is_ok_and(|now| now.control != before.control))
    })?;
    let before = Pids::settled()?;
    under_load("kill -9 of control and edge at once", true, || {
        kill(&[before.control, before.edge])?;
        eventually("another edge", || Pids::now().is_ok_and(|now| now.edge != before.edge))
    })?;
    let after = Pids::settled()?;
    ensure!(after.applications == before.applications, "{before:?} {after:?}");
    ensure!(group(after.edge)?.contains(SCOPE), "the new edge: {}", group(after.edge)?);
    holds("applications are the same processes");
    Ok(())
}

/// A control process that answers nobody any more.
fn stuck() -> Result<()> {
    let before = Pids::settled()?;
    // The unit's own two minutes are nothing to wait for; the rest of it is as it was written.
    let drop_in = format!("/run/systemd/system/{UNIT}.d");
    fs::create_dir_all(&drop_in)?;
    fs::write(format!("{drop_in}/watchdog.conf"), "[Service]\nWatchdogSec=10\n")?;
    told("systemctl", &["daemon-reload"])?;
    told("systemctl", &["restart", UNIT])?;
    let shortened = Pids::settled()?;
    under_load("control that is stuck", false, || {
        told("sh", &["-c", &format!("kill -STOP {}", shortened.control)])?;
        let ended = format!("/proc/{}", shortened.control);
        eventually("the watchdog to end it", || !Path::new(&ended).exists())
    })?;
    let after = Pids::settled()?;
    ensure!(after.serves_as(&before), "{before:?} {after:?}");
    fs::remove_dir_all(drop_in)?;
    told("systemctl", &["daemon-reload"])?;
    told("systemctl", &["restart", UNIT])?;
    Ok(())
}

fn stopped() -> Result<()> {
    let before = Pids::settled()?;
    told("systemctl", &["stop", UNIT])?;
    ensure!(property("ActiveState")? == "inactive", "{}", property("ActiveState")?);
    ensure!(!Path::new(&format!("/proc/{}", before.control)).exists(), "control still runs");
    page("/api/health")?;
    told("systemctl", &["start", UNIT])?;
    let after = Pids::settled()?;
    ensure!(after.serves_as(&before), "{before:?} {after:?}");
    holds("stop: what is served goes on; start: it is taken over");
    Ok(())
}

/// Another build takes over, and is what systemd's next start comes to.
fn upgraded() -> Result<()> {
    let before = Pids::settled()?;
    fs::copy(PROGRAM, NEXT_PROGRAM)?;
    under_load("upgrade", false, || {
        told(NEXT_PROGRAM, &["upgrade"])?;
        eventually("another edge", || Pids::now().is_ok_and(|now| now.edge != before.edge))
    })?;
    let after = Pids::settled()?;
    ensure!(after.control == before.control, "the unit has another process");
    ensure!(after.applications == before.applications, "{before:?} {after:?}");
    under_load("systemctl restart after it", false, || {
        told("systemctl", &["restart", UNIT]).map(drop)
    })?;
    let last = Pids::settled()?;
    ensure!(last.serves_as(&after), "{after:?} {last:?}");
    let program = fs::read_link(format!("/proc/{}/exe", last.control))?;
    ensure!(program == Path::new(NEXT_PROGRAM), "control is {}", program.display());
    holds("the build that took over is the one that is started again");
    Ok(())
}

/// Somebody stops what serves, behind the back of control.
fn ended_with_its_scope() -> Result<()> {
    let before = Pids::settled()?;
    told("systemctl", &["stop", SCOPE])?;
    eventually("other processes", || {
        Pids::now().is_ok_and(|now| {
            now.edge != before.edge
                && now.applications.len() == 2
                && now.applications.is_disjoint(&before.applications)
        })
    })?;
    page("/api/health")?;
    placed()?;
    holds("systemctl stop of the scope: control brings all back");
    Ok(())
}

fn removed_and_installed() -> Result<()> {
    let before = Pids::settled()?;
    told(PROGRAM, &["install", "--remove"])?;
    ensure!(property("LoadState")? == "not-found", "the unit is {}", property("LoadState")?);
    page("/api/health")?;
    told(PROGRAM, &["install"])?;
    let after = Pids::settled()?;
    ensure!(after.serves_as(&before), "{before:?} {after:?}");
    holds("install --remove, and install again");
    Ok(())
}

/// The second boot: all is back by itself; and then nothing is left.
pub(super) fn after_the_reboot(mark: &str) -> Result<()> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let before = fs::read_to_string(Path::new(mark).join("boot_id"))?;
    ensure!(boot != before, "it is the same boot");
    Pids::settled()?;
    page("/api/health")?;
    placed()?;
    holds("after a reboot everything is back by itself");
    stopped_in_order()?;
    told(PROGRAM, &["down", "--all"])?;
    ensure!(property("NFileDescriptorStore")? == "0", "systemd keeps something");
    told(PROGRAM, &["install", "--remove"])?;
    eventually("the holder of the scope to end", || ours().is_ok_and(|left| left.is_empty()))?;
    ensure!(!Path::new("/etc/systemd/system").join(UNIT).exists(), "the unit's file is there");
    let (loaded, _) =
        said("systemctl", &["list-units", "--all", "--plain", "--no-legend", "seaworthy*"])?;
    ensure!(loaded.is_empty(), "still loaded: {loaded}");
    holds("down, install --remove: nothing is left");
    Ok(())
}

/// What the applications' logs tell of the end of the first boot.
fn stopped_in_order() -> Result<()> {
    let mut stopped = 0;
    for entry in fs::read_dir(format!("{STATE}/logs/guestbook"))? {
        let log = fs::read_to_string(entry?.path()).unwrap_or_default();
        ensure!(!log.contains("KILL"), "an application had to be killed:\n{log}");
        stopped += u32::from(log.contains("stopping"));
    }
    ensure!(stopped >= 2, "only {stopped} applications were asked to stop");
    holds("before the reboot applications were asked to stop, and did");
    Ok(())
}
