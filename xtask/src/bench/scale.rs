//! What many cost: idle connections, routes, and clients that are slow on purpose.
//!
//! The connections come from `hold` of the harness. Memory is what the proxy's processes hold resident, after less
//! before. Latency is of a steady load of 1,000 requests a second, as h2load logs each of them; with an open loop a
//! pause is not overlooked. Not here: the kernel's memory for sockets, which no proxy can save.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::load::{self, Case};
use super::median;
use super::peers::{Kind, Running, Stage, free_ports};
use crate::trial::target;
use crate::{cargo, run};

/// Connections.
const MANY: usize = 10_000;
/// A manifest of thousands of tables is taken for a mistake.
const HOSTS_OF_A_SITE: usize = 100;
/// After the last one stood: what was only needed to open them is given back.
const SETTLE: Duration = Duration::from_secs(5);

/// Many connections of a habit to one address of a proxy.
fn many(hold: &Path, habit: &str, port: u16, more: &[(&str, String)]) -> Result<Held> {
    let address = format!("127.0.0.1:{port}");
    let list = [("habit", habit.to_owned()), ("address", address)];
    Held::start(hold, MANY, &words(&[&list[..], more].concat()))
}

/// Connections held by a process of the harness, which ends with us.
pub(super) struct Held {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Held {
    pub(super) fn start(hold: &Path, count: usize, words: &[String]) -> Result<Self> {
        // Whatever else runs on that core goes first: what is measured is the proxy, not how busy its attackers are.
        // Niceness would not do: who is nice still keeps the core for some milliseconds once it has it.
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "taskset", "-c", "1"]).arg(hold).args(words);
        command.args(["--count", &count.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        if !line.starts_with("held ") {
            child.wait()?;
            bail!("hold {}: {line}", words.join(" "));
        }
        Ok(Self { child, output })
    }

    /// Lets go; what it counted.
    pub(super) fn end(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let mut counted = String::new();
        self.output.read_to_string(&mut counted)?;
        self.child.wait()?;
        Ok(counted.trim().to_owned())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program that holds them: it does little, so that a quick build of it will do.
pub(super) fn hold() -> Result<PathBuf> {
    run(Command::new(cargo()).args(["build", "-p", "seaworthy-testkit", "--bin", "hold"]))?;
    Ok(target()?.join("debug/hold"))
}

/// As a command line.
pub(super) fn words(list: &[(&str, String)]) -> Vec<String> {
    list.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]).collect()
}

fn verdict(ok: bool) -> &'static str {
    if ok { "met" } else { "NOT met" }
}

/// Memory of 10,000 idle connections over TLS.
pub(super) fn idle(stage: &Stage) -> Result<()> {
    println!("\nidle: {MANY} connections over TLS, each after one request");
    let hold = hold()?;
    for (habit, bound) in [("idle-http1", 16.0), ("idle-http2", 30.0)] {
        for kind in [Kind::Nginx, Kind::Seaworthy] {
            let running = stage.start(kind)?;
            let before = running.rss_kib()?;
            let authority = stage.authority(kind).display().to_string();
            let more = [("host", "tls.localhost".to_owned()), ("authority", authority)];
            let held = many(&hold, habit, running.https, &more)?;
            std::thread::sleep(SETTLE);
            let each = running.rss_kib()?.saturating_sub(before) as f64 / MANY as f64;
            println!(
                "  {habit}  {:<10} {each:>6.1} KiB each   from {before} KiB   {}{}",
                kind.name(),
                held.end()?,
                match kind {
                    Kind::Seaworthy => format!("   bound {bound:.0}: {}", verdict(each <= bound)),
                    _ => String::new(),
                }
            );
        }
    }
    Ok(())
}

/// CPU per request where the host is one of five, and one of five thousand.
pub(super) fn routes(stage: &Stage, rounds: usize, seconds: u32) -> Result<()> {
    println!("\nroutes: 10,000 over 5,000 hosts, beside 10 over 5");
    let few = with_routes(stage, "few", 5)?;
    let many = with_routes(stage, "many", 5_000)?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let of_few = load::measure(&few, Case::Routes(2), seconds)?;
        let of_many = load::measure(&many, Case::Routes(2_500), seconds)?;
        println!(
            "  round {round}  10 routes {:>6.1} us/req   10,000 routes {:>6.1} us/req   rss {} and {} KiB",
            of_few.cpu_us, of_many.cpu_us, of_few.rss_kib, of_many.rss_kib
        );
        ratios.push(of_many.cpu_us / of_few.cpu_us);
    }
    let ratio = median(ratios);
    println!(
        "  cpu per request, 10,000 / 10 routes {ratio:>5.2}   bound 1.10: {}",
        verdict(ratio <= 1.1)
    );
    Ok(())
}

/// A platform with two routes for each of so many hosts, a hundred hosts to a site.
fn with_routes(stage: &Stage, name: &str, hosts: usize) -> Result<Running> {
    let [http] = free_ports()?;
    let platform = stage.platform(name)?;
    let begun = std::time::Instant::now();
    for (number, first) in (0..hosts).step_by(HOSTS_OF_A_SITE).enumerate() {
        let project = platform.dir.join(format!("site{number}"));
        fs::create_dir_all(&project)?;
        let hosts = first..hosts.min(first + HOSTS_OF_A_SITE);
        let manifest = site_of(&format!("{name}-{number}"), hosts, http, stage.upstream_port);
        fs::write(project.join("seaworthy.toml"), manifest)?;
        platform.up(&project)?;
    }
    println!("  up with {} routes took {} ms", hosts * 2, begun.elapsed().as_millis());
    Ok(Running::of_ours(http, platform))
}

fn site_of(name: &str, hosts: Range<usize>, http: u16, upstream: u16) -> String {
    let named: Vec<String> = hosts.map(|number| format!("\"h{number}.localhost\"")).collect();
    let mut manifest = format!(
        "site = \"{name}\"\ndomains = [{}]\n[listen]\nhttp = \"127.0.0.1:{http}\"\n[tls]\nmode = \"off\"\n\
         [service.app]\nupstreams = [\"http://127.0.0.1:{upstream}\"]\n",
        named.join(", "),
    );
    for host in named {
        for path in ["/api/*", "/*"] {
            manifest.push_str(&format!(
                "[[route]]\nhosts = [{host}]\npaths = [\"{path}\"]\nto = \"app\"\n"
            ));
        }
    }
    manifest
}

/// A steady load while 10,000 clients are slow on purpose, and without them: rounds of both, and their median.
pub(super) fn slow(stage: &Stage, rounds: usize) -> Result<()> {
    println!("\nslow: 1,000 requests/s beside {MANY} clients that are slow on purpose");
    let hold = hold()?;
    for (habit, path) in [("slow-head", "/"), ("slow-body", "/upload"), ("slow-read", "/big")] {
        for kind in [Kind::Nginx, Kind::Seaworthy] {
            let each = (0..rounds).map(|_| attack(stage, &hold, kind, (habit, path)));
            let each = each.collect::<Result<Vec<_>>>()?;
            let of = |figure: fn(&Attack) -> f64| median(each.iter().map(figure).collect());
            let ratio = of(Attack::ratio);
            let more = each.iter().map(|one| one.more_mib).fold(0.0, f64::max);
            let failed: u64 = each.iter().map(|one| one.alone.failed + one.beside.failed).sum();
            let bound = match kind {
                Kind::Seaworthy => format!(
                    "   bounds 2.0 and 256: {}",
                    verdict(ratio <= 2.0 && more <= 256.0 && failed == 0)
                ),
                _ => String::new(),
            };
            println!(
                "  {habit:<9}  {:<10} p99 {:>6.0} us alone, {:>6.0} us beside ({ratio:.1})   {failed} failed   \
                 +{more:.0} MiB   {}{bound}",
                kind.name(),
                of(|one| one.alone.p99_us as f64),
                of(|one| one.beside.p99_us as f64),
                each.last().map_or("", |last| &last.counted),
            );
        }
    }
    Ok(())
}

/// What slow clients did to the others.
struct Attack {
    alone: Steady,
    beside: Steady,
    more_mib: f64,
    /// What became of the slow ones.
    counted: String,
}

impl Attack {
    fn ratio(&self) -> f64 {
        self.beside.p99_us as f64 / self.alone.p99_us.max(1) as f64
    }
}

fn attack(stage: &Stage, hold: &Path, kind: Kind, (habit, path): (&str, &str)) -> Result<Attack> {
    let running = stage.start(kind)?;
    let alone = steady(stage, &running)?;
    let before = running.rss_kib()?;
    let more = [("host", "plain.localhost".to_owned()), ("path", path.to_owned())];
    let held = many(hold, habit, running.http, &more)?;
    let beside = steady(stage, &running)?;
    let more_mib = running.rss_kib()?.saturating_sub(before) as f64 / 1024.0;
    Ok(Attack { alone, beside, more_mib, counted: held.end()? })
}

/// What a steady load met.
struct Steady {
    p99_us: u64,
    failed: u64,
}

/// 1,000 requests a second for eight seconds, over 20 connections.
fn steady(stage: &Stage, running: &Running) -> Result<Steady> {
    let log = stage.dir.join("steady.tsv");
    fs::remove_file(&log).ok();
    let output = Command::new("taskset")
        .args(["-c", "1", "h2load", "--h1", "-t1", "-c20", "--rps=50", "-D", "8"])
        .arg(format!("--connect-to=127.0.0.1:{}", running.http))
        .arg(format!("--log-file={}", log.display()))
        .arg("http://plain.localhost/")
        .output()?;
    if !output.status.success() {
        bail!("h2load: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Start, status, microseconds.
    let (mut times, mut failed) = (Vec::new(), 0);
    for line in fs::read_to_string(&log)?.lines() {
        let mut fields = line.split('\t').skip(1);
        let status: i64 = fields.next().unwrap_or_default().parse().context("h2load's log")?;
        let micros: u64 = fields.next().unwrap_or_default().parse().context("h2load's log")?;
        times.push(micros);
        failed += u64::from(status != 200);
    }
    if times.len() < 5_000 {
        bail!("only {} requests were answered", times.len());
    }
    times.sort_unstable();
    Ok(Steady { p99_us: times[times.len() * 99 / 100], failed })
}
