//! Holds thousands of connections to a proxy, idle or slow on purpose, for `cargo xtask bench edge`.
//!
//! Prints `held N` once that many were opened (slow ones: tried), then reads lines: `quiet` and `go`, which it prints again
//! once slow ones are, or are not any more. When its input ends it prints how many were open at last and how many were
//! turned away. Not here: what it costs the proxy, which the bench reads.
#![expect(clippy::print_stdout, reason = "a program for developers that prints what it found")]

use std::io::BufRead as _;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use seaworthy_testkit::flags::{self, Flags};
use seaworthy_testkit::load::{Goal, Habit, Held};

const HELP: &str = "\
Holds connections until its input ends.

  --habit NAME     idle-http1, idle-http2 (both over TLS), slow-head, slow-body or slow-read
  --count N        connections [10000]
  --address IP:PORT
  --host NAME      asked for, and the name in TLS
  --path PATH      asked for [/]
  --authority PEM  to trust, for those over TLS";

/// For all of them to stand.
const LIMIT: Duration = Duration::from_secs(120);

struct Plan {
    held: Held,
    count: usize,
    idle: bool,
}

fn main() -> ExitCode {
    let plan = match flags::read(HELP, read) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(hold(plan))
}

async fn hold(plan: Plan) -> ExitCode {
    let counts = |held: &Held| {
        let counts = held.counts();
        (counts.open.load(Ordering::Relaxed), counts.turned_away.load(Ordering::Relaxed))
    };
    for number in 0..plan.count {
        tokio::spawn(plan.held.clone().live(number));
    }
    let begun = Instant::now();
    loop {
        let (open, turned_away) = counts(&plan.held);
        if open >= plan.count || (!plan.idle && open + turned_away >= plan.count) {
            break;
        }
        if begun.elapsed() > LIMIT || (plan.idle && turned_away > 0) {
            println!("only {open} of {} could be held, {turned_away} were turned away", plan.count);
            return ExitCode::FAILURE;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("held {}", counts(&plan.held).0);
    let held = plan.held.clone();
    let obey = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            held.keep_quiet(line == "quiet");
            println!("{line}");
        }
    };
    tokio::task::spawn_blocking(obey).await.ok();
    let (open, turned_away) = counts(&plan.held);
    println!("open {open} turned-away {turned_away}");
    ExitCode::SUCCESS
}

fn read(mut words: Flags) -> Result<Plan, String> {
    let (mut habit, mut count, mut address, mut host) = (None, 10_000, None, None);
    let (mut path, mut authority) = ("/".to_owned(), None);
    while let Some((flag, value)) = words.pair()? {
        match flag.as_str() {
            "--habit" => {
                let known = Habit::named(&value);
                habit = Some(known.ok_or_else(|| format!("there is no habit `{value}`"))?);
            }
            "--count" => count = flags::number(&value)?,
            "--address" => address = Some(flags::number(&value)?),
            "--host" => host = Some(value),
            "--path" => path = value,
            "--authority" => authority = Some(std::path::PathBuf::from(value)),
            _ => return flags::unknown(&flag),
        }
    }
    let habit = habit.ok_or("`--habit` is missing")?;
    let idle = matches!(habit, Habit::IdleHttp1 | Habit::IdleHttp2);
    if idle == authority.is_none() {
        return Err("idle connections need `--authority`, slow ones go without".to_owned());
    }
    let goal = Goal {
        address: address.ok_or("`--address` is missing")?,
        host: host.ok_or("`--host` is missing")?,
        path,
    };
    Ok(Plan { held: Held::new(goal, habit, authority.as_deref()), count, idle })
}
