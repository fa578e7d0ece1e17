//! What 10,000 clients that are slow on purpose do to the others.
//!
//! Two proxies of a kind run, one of which is attacked. In turn, for two seconds each, the attackers are quiet and a steady
//! load has the other one, and the attackers go on and the load has the attacked one: the machine may change its speed at
//! any moment, so what follows each other are compared, and the median of their ratios is shown. The load is 1,000
//! requests a second, as h2load logs each of them; with an open loop a pause is not overlooked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::median;
use super::peers::{Kind, Running, Stage};
use super::scale::{Held, MANY, hold, many, verdict};

/// At the most: how many times slower the others are, and MiB more.
const SLOWER: f64 = 2.0;
const MORE_MIB: f64 = 256.0;

/// A load's time, and what of it is not counted: all of its connections begin at once.
const TURN: Duration = Duration::from_secs(2);
const BEGINNING: Duration = Duration::from_millis(200);

/// Prints it for each way to be slow, and each of the proxies.
pub(super) fn slow(stage: &Stage, (rounds, seconds): (usize, u32)) -> Result<()> {
    println!("\nslow: 1,000 requests/s beside {MANY} clients that are slow on purpose");
    let hold = hold()?;
    let pairs = rounds * seconds as usize;
    for (habit, path) in [("slow-head", "/"), ("slow-body", "/upload"), ("slow-read", "/big")] {
        for kind in [Kind::Nginx, Kind::Seaworthy] {
            let attack = Attack::hold(stage, &hold, kind, (habit, path), pairs)
                .with_context(|| format!("{} and {habit}", kind.name()))?;
            println!("  {habit:<9}  {:<10} {}", kind.name(), attack.line(kind));
        }
    }
    Ok(())
}

/// What slow clients did to the others.
struct Attack {
    /// A turn without them, and the one with them behind it.
    pairs: Vec<(Turn, Turn)>,
    more_mib: f64,
    /// What became of the slow ones.
    counted: String,
}

impl Attack {
    fn hold(
        stage: &Stage,
        hold: &Path,
        kind: Kind,
        (habit, path): (&str, &str),
        count: usize,
    ) -> Result<Self> {
        let (attacked, other) = (stage.start(kind)?, stage.start_twin(kind)?);
        for running in [&attacked, &other] {
            steady(stage, running)?;
        }
        let before = attacked.rss_kib()?;
        let more = [("host", "plain.localhost".to_owned()), ("path", path.to_owned())];
        let mut held = many(hold, habit, attacked.http, &more)?;
        let (mut pairs, mut most) = (Vec::new(), 0);
        for _ in 0..count {
            let alone = turn(stage, &mut held, true, &other)?;
            let beside = turn(stage, &mut held, false, &attacked)?;
            pairs.push((alone, beside));
            most = most.max(attacked.rss_kib()?);
        }
        let more_mib = most.saturating_sub(before) as f64 / 1024.0;
        Ok(Self { pairs, more_mib, counted: held.end()? })
    }

    fn line(&self, kind: Kind) -> String {
        let of = |figure: fn(&(Turn, Turn)) -> f64| median(self.pairs.iter().map(figure).collect());
        let ratio = of(|(alone, beside)| beside.p99_us / alone.p99_us.max(1.0));
        let failed: usize =
            self.pairs.iter().map(|(alone, beside)| alone.failed + beside.failed).sum();
        let met = ratio <= SLOWER && self.more_mib <= MORE_MIB && failed == 0;
        let bound = match kind {
            Kind::Seaworthy => format!("   bounds {SLOWER} and {MORE_MIB}: {}", verdict(met)),
            _ => String::new(),
        };
        format!(
            "p99 {:>5.0} us alone, {:>5.0} us beside ({ratio:.1})   {failed} failed   +{:.0} MiB   {}{bound}",
            of(|(alone, _)| alone.p99_us),
            of(|(_, beside)| beside.p99_us),
            self.more_mib,
            self.counted,
        )
    }
}

/// What a steady load met.
struct Turn {
    p99_us: f64,
    failed: usize,
}

fn turn(stage: &Stage, held: &mut Held, quiet: bool, running: &Running) -> Result<Turn> {
    held.keep_quiet(quiet)?;
    steady(stage, running)
}

/// 1,000 requests a second over 20 connections.
fn steady(stage: &Stage, running: &Running) -> Result<Turn> {
    let log = stage.dir.join("steady.tsv");
    fs::remove_file(&log).ok();
    let output = Command::new("taskset")
        .args(["-c", "1", "h2load", "--h1", "-t1", "-c20", "--rps=50", "-D"])
        .arg(TURN.as_secs().to_string())
        .arg(format!("--connect-to=127.0.0.1:{}", running.http))
        .arg(format!("--log-file={}", log.display()))
        .arg("http://plain.localhost/")
        .output()?;
    if !output.status.success() {
        bail!("h2load: {}", String::from_utf8_lossy(&output.stderr));
    }
    let (mut times, mut failed, mut first) = (Vec::new(), 0, None);
    for line in fs::read_to_string(&log)?.lines() {
        // When it began and how long it took, in microseconds; status.
        let fields = line.split('\t').map(str::parse).collect::<Result<Vec<i64>, _>>();
        let Ok([begun, status, micros]) = fields.as_deref() else { bail!("h2load's log: {line}") };
        let since = begun - *first.get_or_insert(*begun);
        if since >= BEGINNING.as_micros() as i64 {
            times.push(*micros);
        }
        failed += usize::from(*status != 200);
    }
    if times.len() < 1_000 {
        bail!("only {} requests were answered in {TURN:?}", times.len());
    }
    times.sort_unstable();
    Ok(Turn { p99_us: times[times.len() * 99 / 100] as f64, failed })
}
