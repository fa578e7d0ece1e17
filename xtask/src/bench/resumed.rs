//! `--case resumed` and its variants: a new connection for each request, with a session that is resumed.
//!
//! The load is our own (`resumed_load` of the testkit), the same for all: `wrk` shakes hands in full each time. nginx gives
//! out tickets as it does by default and keeps no store of sessions beside them, which is the cheapest that it can be
//! told to. Invariants: a handshake that was not resumed ends the bench; the full ones, by which each connection first
//! gets a ticket, are not in the figures. Both sides exchange keys by X25519 where there is a bound: nginx 1.22 knows
//! no other that browsers offer. With the exchange of today's browsers we do more than it (ML-KEM), which is printed
//! and not judged.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::load::{Figures, cpu_us};
use super::peers::{Kind, Running, Stage};
use super::{Contest, build};

/// At a time.
const CONNECTIONS: &str = "64";

/// Name, how `resumed_load` knows it, what it is, our CPU over nginx's at most.
type Variant = (&'static str, &'static str, &'static str, Option<f64>);

/// All of them.
pub(super) const VARIANTS: [Variant; 3] = [
    ("resumed", "1.3", "TLS 1.3, X25519", Some(1.0)),
    ("resumed-1.2", "1.2", "TLS 1.2", Some(1.0)),
    ("resumed-hybrid", "1.3-hybrid", "TLS 1.3, offered as browsers do: X25519MLKEM768 first", None),
];

/// The variants that are wanted, each beside the others.
pub(super) fn resumed(
    stage: &Stage,
    wanted: impl Fn(&str) -> bool,
    rounds: (usize, u32),
) -> Result<()> {
    let variants: Vec<Variant> = VARIANTS.into_iter().filter(|one| wanted(one.0)).collect();
    if variants.is_empty() {
        return Ok(());
    }
    let load = build("seaworthy-testkit", "resumed_load")?;
    for (name, comeback, what, bound) in variants {
        let title = format!("{name}: a resumed TLS handshake for each request, {what}");
        let contest = Contest { name, title: &title, kinds: &Kind::ALL, bound };
        let second = |kind, proxy: &Running| run(&load, comeback, proxy, &stage.authority(kind));
        contest.hold(rounds, |kind| stage.start(kind), second)?;
    }
    Ok(())
}

/// A second of load.
fn run(load: &Path, comeback: &str, proxy: &Running, authority: &Path) -> Result<Figures> {
    let mut child = Command::new("taskset")
        .args(["-c", "1"])
        .arg(load)
        .args(["--as", comeback, "--host", "tls.localhost", "--count", CONNECTIONS])
        .args(["--address", &format!("127.0.0.1:{}", proxy.https)])
        .args(["--seconds", "1", "--authority"])
        .arg(authority)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not run resumed_load")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut text = String::new();
    output.read_line(&mut text)?;
    // What it took to get the first tickets is not counted.
    let before = proxy.cpu_ticks()?;
    drop(child.stdin.take());
    output.read_to_string(&mut text)?;
    let spent = proxy.cpu_ticks()? - before;
    let ended = child.wait()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["primed", answers, "answers", rate, "req/s", "p99", p99] = words.as_slice() else {
        bail!("resumed_load ended with {ended}: {text}");
    };
    Ok(Figures {
        rate: rate.parse()?,
        cpu_us: cpu_us(spent, answers.parse()?),
        p99: (*p99).to_owned(),
    })
}
