//! `cargo xtask bench edge`: CPU per request, memory and start, beside nginx and HAProxy; over HTTP/3, beside Caddy.
//!
//! Every proxy runs pinned to one core, the load and the upstream on another; all write an access log
//! and set the same forwarded headers. CPU is what the kernel accounts to the pids, divided by the
//! requests that were answered. Ours is the sum over every pid that `status --json` names. Invariants:
//! figures are compared within a round, because machines drift; a wrong answer or a failed request ends
//! the bench. Not here: pass or fail of a build; the bounds are printed beside the ratios.

mod certificate;
mod footprint;
mod http3;
mod load;
mod peers;
mod resumed;
mod scale;
mod slow;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{FOR_BENCH, setup};
use crate::{cargo, run};
use load::{Case, Figures};
use peers::{Kind, Running, Stage};

const USAGE: &str = "\
cargo xtask bench edge [--rounds N] [--seconds N] [--case NAME] [--binary PATH]

  --rounds N     rounds of each case; the median of the ratios is shown (3)
  --seconds N    of load for each proxy in a round (5)
  --case NAME    only this one: keep-alive, features, large, http2, http3, handshake, resumed,
                 resumed-1.2, resumed-hybrid, nonce, footprint, idle, routes, slow, certificate
  --binary PATH  measure this binary instead of building one in release mode";

struct Options {
    rounds: usize,
    seconds: u32,
    case: Option<String>,
    binary: Option<PathBuf>,
}

fn options(words: &[&str]) -> Result<Option<Options>> {
    let mut options = Options { rounds: 3, seconds: 5, case: None, binary: None };
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word {
            "--help" | "-h" => return Ok(None),
            "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
            "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
            "--case" => options.case = Some(value()?.to_owned()),
            "--binary" => options.binary = Some(value()?.into()),
            _ => bail!("unknown option {word}\n{USAGE}"),
        }
    }
    let known = |name: &str| {
        ["http3", "footprint", "nonce", "idle", "routes", "slow", "certificate"].contains(&name)
            || Case::ALL.iter().any(|one| one.name() == name)
            || resumed::VARIANTS.iter().any(|one| one.0 == name)
    };
    if let Some(name) = options.case.as_deref().filter(|name| !known(name)) {
        bail!("no case is called {name}\n{USAGE}");
    }
    Ok(Some(options))
}

/// Runs the cases and prints their tables.
pub(crate) fn edge(words: &[&str]) -> Result<()> {
    let Some(options) = options(words)? else {
        println!("{USAGE}");
        return Ok(());
    };
    setup(FOR_BENCH)?;
    let binary = match options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => build("seaworthy", "seaworthy")?,
    };
    let wanted = |name: &str| options.case.as_deref().is_none_or(|one| one == name);
    let stage = Stage::new(binary)?;
    let (rounds, seconds) = (options.rounds.max(1), options.seconds.max(1));
    for case in Case::ALL.into_iter().filter(|case| wanted(case.name())) {
        let contest = Contest {
            name: case.name(),
            title: case.title(),
            kinds: &Kind::ALL,
            bound: case.bound(),
        };
        let second = |_, proxy: &Running| load::second(proxy, case);
        contest.hold((rounds, seconds), |kind| stage.start(kind), second)?;
    }
    resumed::resumed(&stage, wanted, (rounds, seconds))?;
    if wanted("http3") {
        http3::http3(&stage, (rounds, seconds))?;
    }
    if wanted("nonce") {
        nonce(&stage, rounds, seconds)?;
    }
    if wanted("footprint") {
        footprint::print(&stage)?;
    }
    if wanted("idle") {
        scale::idle(&stage)?;
    }
    if wanted("routes") {
        scale::routes(&stage, rounds, seconds)?;
    }
    if wanted("slow") {
        slow::slow(&stage, (rounds, seconds))?;
    }
    if wanted("certificate") {
        certificate::certificate(&stage, rounds)?;
    }
    Ok(())
}

/// Builds a program for release; where it lies.
fn build(package: &str, program: &str) -> Result<PathBuf> {
    run(Command::new(cargo()).args(["build", "--release", "-p", package, "--bin", program]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(std::path::absolute(target.join("release").join(program))?)
}

/// A load that several proxies get.
struct Contest<'a> {
    name: &'a str,
    title: &'a str,
    /// The last is ours.
    kinds: &'a [Kind],
    /// Our CPU per request over nginx's, at most.
    bound: Option<f64>,
}

impl Contest<'_> {
    /// All proxies run, and each in turn has the load for a second, so many seconds in each round. The machine may change
    /// its speed at any moment: seconds that follow each other are compared, and the median of their ratios is shown.
    fn hold(
        &self,
        (rounds, seconds): (usize, u32),
        start: impl Fn(Kind) -> Result<Running>,
        second: impl Fn(Kind, &Running) -> Result<Figures>,
    ) -> Result<()> {
        println!("\n{}", self.title);
        let second = |kind: Kind, running: &Running| {
            second(kind, running).with_context(|| format!("{} in case {}", kind.name(), self.name))
        };
        let mut proxies = Vec::new();
        for kind in self.kinds {
            let running = start(*kind)?;
            // The first is not counted.
            second(*kind, &running)?;
            proxies.push((*kind, running));
        }
        // By proxy, then by second.
        let mut all: Vec<Vec<Figures>> = proxies.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            for _ in 0..seconds {
                for ((kind, running), figures) in proxies.iter().zip(&mut all) {
                    figures.push(second(*kind, running)?);
                }
            }
            for ((kind, running), figures) in proxies.iter().zip(&all) {
                let of_round = &figures[figures.len() - seconds as usize..];
                println!("  round {round}  {:<10} {}", kind.name(), line(running, of_round)?);
            }
        }
        let Some(ours) = all.pop() else { return Ok(()) };
        for ((peer, _), theirs) in proxies.iter().zip(&all) {
            let ratio = median(ours.iter().zip(theirs).map(|(a, b)| a.cpu_us / b.cpu_us).collect());
            println!(
                "  cpu per request, seaworthy / {:<8} {ratio:>5.2}{}",
                peer.name(),
                self.verdict(*peer, ratio)
            );
        }
        Ok(())
    }

    fn verdict(&self, peer: Kind, ratio: f64) -> String {
        match (peer, self.bound) {
            (Kind::Nginx, Some(bound)) => {
                format!("   bound {bound:.2}: {}", if ratio <= bound { "met" } else { "NOT met" })
            }
            _ => String::new(),
        }
    }
}

/// What a proxy did in some seconds, as a line of the table.
fn line(running: &Running, seconds: &[Figures]) -> Result<String> {
    let of = |figure: fn(&Figures) -> f64| median(seconds.iter().map(figure).collect());
    Ok(format!(
        "{:>8.0} req/s  cpu {:>7.1} us/req  p99 {:>9}  rss {:>6} KiB",
        of(|one| one.rate),
        of(|one| one.cpu_us),
        seconds.last().map_or("", |last| &last.p99),
        running.rss_kib()?
    ))
}

/// What rewriting a page costs: the same page with and without, from the same process.
fn nonce(stage: &Stage, rounds: usize, seconds: u32) -> Result<()> {
    println!("\n{}", Case::Nonce.title());
    let running = stage.start(Kind::Seaworthy)?;
    load::warm(&running, Case::Page)?;
    load::warm(&running, Case::Nonce)?;
    let (mut plain, mut marked) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let before = plain.len();
        for _ in 0..seconds {
            plain.push(load::second(&running, Case::Page)?);
            marked.push(load::second(&running, Case::Nonce)?);
        }
        println!("  round {round}  as it is     {}", line(&running, &plain[before..])?);
        println!("  round {round}  with nonces  {}", line(&running, &marked[before..])?);
    }
    let ratios = marked.iter().zip(&plain).map(|(marked, plain)| marked.cpu_us / plain.cpu_us);
    let (ratio, bound) = (median(ratios.collect()), Case::Nonce.bound().unwrap_or_default());
    let met = if ratio <= bound { "met" } else { "NOT met" };
    println!("  cpu per request, with / without {ratio:>5.2}   bound {bound:.2}: {met}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
