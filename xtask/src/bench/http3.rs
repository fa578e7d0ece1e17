//! `--case http3`: processor time for a request over HTTP/3, beside Caddy's.
//!
//! The load is our own (`http3_load` of the testkit), the same for both: no distribution has one. Printed, not judged:
//! there is no bound.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::peers::{Kind, Running, Stage};
use super::{build, median};
use crate::setup::{FOR_BENCH_HTTP3, setup};

/// As the case of HTTP/2.
const CONNECTIONS: &str = "16";
const STREAMS: &str = "8";

/// What one server did in one round.
struct Figures {
    rate: f64,
    cpu_us: f64,
    p99: String,
    rss_kib: u64,
}

/// Rounds of each in turn, then the median of the rounds' ratios.
pub(super) fn compare(stage: &Stage, rounds: usize, seconds: u32) -> Result<()> {
    setup(FOR_BENCH_HTTP3)?;
    let load = build("seaworthy-testkit", "http3_load")?;
    println!("\nhttp3: {CONNECTIONS} connections, {STREAMS} streams each, 190 bytes of JSON");
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let mut cpu = Vec::new();
        for kind in [Kind::Caddy, Kind::Seaworthy] {
            let running = stage.start_http3(kind)?;
            let one = measure(&load, &running, seconds)
                .with_context(|| format!("{} in case http3", kind.name()))?;
            println!(
                "  round {round}  {:<10} {:>8.0} req/s  cpu {:>7.1} us/req  p99 {:>9}  rss {:>6} KiB",
                kind.name(),
                one.rate,
                one.cpu_us,
                one.p99,
                one.rss_kib
            );
            cpu.push(one.cpu_us);
        }
        ratios.extend(cpu.first().zip(cpu.get(1)).map(|(caddy, ours)| ours / caddy));
    }
    println!("  cpu per request, seaworthy / caddy    {:>5.2}", median(ratios));
    Ok(())
}

fn measure(load: &std::path::Path, proxy: &Running, seconds: u32) -> Result<Figures> {
    run(load, proxy, 1)?;
    let before = proxy.cpu_ticks()?;
    let (answers, rate, p99) = run(load, proxy, seconds)?;
    let spent = proxy.cpu_ticks()? - before;
    // A tick is a hundredth of a second (USER_HZ) on every Linux that this runs on.
    let cpu_us = spent as f64 * 10_000.0 / answers;
    Ok(Figures { rate, cpu_us, p99, rss_kib: proxy.rss_kib()? })
}

/// Answers, answers in a second, 99th percentile.
fn run(load: &std::path::Path, proxy: &Running, seconds: u32) -> Result<(f64, f64, String)> {
    let output = Command::new("taskset")
        .args(["-c", "1"])
        .arg(load)
        .args([&format!("127.0.0.1:{}", proxy.https), "tls.localhost", CONNECTIONS, STREAMS])
        .arg(seconds.to_string())
        .output()
        .context("could not run http3_load")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let [answers, "answers", rate, "req/s", "p99", p99] = words.as_slice() else {
        bail!("http3_load printed {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    Ok((answers.parse()?, rate.parse()?, (*p99).to_owned()))
}
