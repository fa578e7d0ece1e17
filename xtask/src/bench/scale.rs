//! What many cost: idle connections and routes.
//!
//! The connections come from `hold` of the harness. Memory is what the proxy's processes hold resident, after less
//! before. Not here: clients that are slow on purpose ([`super::slow`]); the kernel's memory for sockets, which no proxy
//! can save.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
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
pub(super) const MANY: usize = 10_000;
/// A manifest of thousands of tables is taken for a mistake.
const HOSTS_OF_A_SITE: usize = 100;
/// After the last one stood: what was only needed to open them is given back.
const SETTLE: Duration = Duration::from_secs(5);

/// Many connections of a habit to one address of a proxy.
pub(super) fn many(hold: &Path, habit: &str, port: u16, more: &[(&str, String)]) -> Result<Held> {
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

    /// Tells slow ones to do nothing for a while, or to go on.
    pub(super) fn keep_quiet(&mut self, quiet: bool) -> Result<()> {
        let word = if quiet { "quiet\n" } else { "go\n" };
        self.child.stdin.as_mut().context("no input")?.write_all(word.as_bytes())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line != word {
            bail!("hold was told {word:?} and says {line:?}");
        }
        Ok(())
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

pub(super) fn verdict(ok: bool) -> &'static str {
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
    let (few_case, many_case) = (Case::Routes(2), Case::Routes(2_500));
    load::warm(&few, few_case)?;
    load::warm(&many, many_case)?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
        // Second by second in turn: the machine may change its speed at any moment.
        for _ in 0..seconds {
            let (less, more) = (load::second(&few, few_case)?, load::second(&many, many_case)?);
            ratios.push(more.cpu_us / less.cpu_us);
            of_few.push(less.cpu_us);
            of_many.push(more.cpu_us);
        }
        println!(
            "  round {round}  10 routes {:>6.1} us/req   10,000 routes {:>6.1} us/req   rss {} and {} KiB",
            median(of_few),
            median(of_many),
            few.rss_kib()?,
            many.rss_kib()?
        );
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
