//! `--case http3`: processor time for a request over HTTP/3, beside Caddy's.
//!
//! The load is our own (`http3_load` of the testkit), the same for both: no distribution has one. Printed, not judged:
//! there is no bound.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::load::{Figures, cpu_us};
use super::peers::{Kind, Running, Stage};
use super::{Contest, build};
use crate::setup::{FOR_BENCH_HTTP3, setup};

/// As the case of HTTP/2.
const CONNECTIONS: &str = "16";
const STREAMS: &str = "8";

/// Beside Caddy.
pub(super) fn http3(stage: &Stage, rounds: (usize, u32)) -> Result<()> {
    setup(FOR_BENCH_HTTP3)?;
    let load = build("seaworthy-testkit", "http3_load")?;
    let title =
        format!("http3: {CONNECTIONS} connections, {STREAMS} streams each, 190 bytes of JSON");
    let kinds = [Kind::Caddy, Kind::Seaworthy];
    let contest = Contest { name: "http3", title: &title, kinds: &kinds, bound: None };
    contest.hold(rounds, |kind| stage.start_http3(kind), |_, proxy| second(&load, proxy))
}

fn second(load: &Path, proxy: &Running) -> Result<Figures> {
    let before = proxy.cpu_ticks()?;
    let (answers, rate, p99) = run(load, proxy)?;
    let spent = proxy.cpu_ticks()? - before;
    Ok(Figures { rate, cpu_us: cpu_us(spent, answers), p99 })
}

/// Answers, answers in a second, 99th percentile.
fn run(load: &Path, proxy: &Running) -> Result<(u64, f64, String)> {
    let output = Command::new("taskset")
        .args(["-c", "1"])
        .arg(load)
        .args([&format!("127.0.0.1:{}", proxy.https), "tls.localhost", CONNECTIONS, STREAMS, "1"])
        .output()
        .context("could not run http3_load")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let [answers, "answers", rate, "req/s", "p99", p99] = words.as_slice() else {
        bail!("http3_load printed {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    Ok((answers.parse()?, rate.parse()?, (*p99).to_owned()))
}
