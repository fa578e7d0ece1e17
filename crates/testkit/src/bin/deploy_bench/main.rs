//! The promise "nothing is dropped", counted for releases: deployments, rollbacks and upgrades under load.
//!
//! `cargo xtask bench deploy` builds the release binary and runs this: mixed load (keep-alive, new
//! connections, HTTP/2) and WebSockets on a site of two instances, while each strategy deploys, the last
//! release is rolled back to, a broken one is taken back by itself, and another build takes over. Printed are
//! the counts of each phase, how long a deployment took beyond the application's own start, how long the
//! switch itself took, and the way back after a breach. Beside it, under the same load, what people do
//! otherwise (`usual`). It ends with 1 when something of ours was dropped or a bound does not hold.
//!
//! WebSockets on instances that go are told so (1001) and open again; they are counted apart.
#![expect(
    clippy::print_stdout,
    clippy::panic,
    reason = "a program for developers that prints what it found"
)]

mod usual;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use seaworthy_testkit::flags::{self, Flags};
use seaworthy_testkit::load::{Counts, Load, Report};
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
/// Beyond the application's own start, in milliseconds.
const OVERHEAD: u64 = 500;
/// The longest switch itself, in milliseconds.
const SWITCH: f64 = 10.0;
/// From a breach to the old release, in milliseconds.
const BACK: u64 = 1000;

const HELP: &str = "\
Puts mixed load on a site while releases, rollbacks and upgrades take place.

  --binary PATH      the binary [target/release/seaworthy]
  --times N          deployments by each strategy, every second one a rollback [50]
  --upgrades N       upgrades [20]
  --rate N           requests a second [1000]
  --web-sockets N    open at once [100]
  --strategy NAME    rolling, blue-green, canary or recreate; may be repeated [all]
  --beside NAME      nginx, pm2 or none; may be repeated [all]
  --short yes        4 deployments, 2 upgrades, 100 requests a second, 10 WebSockets, nothing beside

Ends with 0 when nothing was dropped and every bound held, 1 when not, 2 when it could not begin.";

#[derive(Debug)]
struct Plan {
    binary: PathBuf,
    times: u32,
    upgrades: u32,
    rate: f64,
    web_sockets: usize,
    strategies: Vec<String>,
    beside: Vec<String>,
}

/// What a phase came to.
struct Row {
    name: String,
    report: Report,
    overhead_ms: Vec<u64>,
    switch_ms: Vec<f64>,
    /// Ours: what it lost breaks the promise.
    promised: bool,
    /// Answers that the application itself gave wrong, as it was asked to.
    broken_on_purpose: bool,
}

impl Row {
    fn new(name: &str, report: Report) -> Self {
        Self {
            name: name.to_owned(),
            report,
            overhead_ms: Vec::new(),
            switch_ms: Vec::new(),
            promised: true,
            broken_on_purpose: false,
        }
    }

    /// Requests that nobody answered, and WebSockets that were cut; of ours that breaks the promise.
    fn dropped(&self) -> u64 {
        let wrong: u64 = self.report.requests.iter().flat_map(|counts| counts.wrong.values()).sum();
        let meant = if self.broken_on_purpose { wrong } else { 0 };
        self.report.failures() - meant + self.report.web_sockets_dropped()
    }
}

fn main() -> ExitCode {
    let plan = match flags::read(HELP, read) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let sandbox = Sandbox::new(&plan.binary);
    sandbox.up(&site("first", "rolling"));
    let mut rows: Vec<Row> =
        plan.strategies.iter().map(|strategy| deployments(&sandbox, &plan, strategy)).collect();
    if plan.upgrades > 0 {
        rows.push(upgrades(&sandbox, &plan));
    }
    rows.push(taken_back(&sandbox, &plan));
    sandbox.run(["down", "--all"]).success();
    if plan.beside.iter().any(|name| name == "nginx") {
        rows.push(usual::nginx(&plan));
    }
    if plan.beside.iter().any(|name| name == "pm2") {
        rows.push(usual::pm2(&plan));
    }
    let broken = summary(&rows);
    println!("{}", if broken { "FAIL" } else { "PASS" });
    ExitCode::from(u8::from(broken))
}

fn read(mut flags: Flags) -> Result<Plan, String> {
    let mut plan = Plan {
        binary: PathBuf::from("target/release/seaworthy"),
        times: 50,
        upgrades: 20,
        rate: 1000.0,
        web_sockets: 100,
        strategies: Vec::new(),
        beside: Vec::new(),
    };
    while let Some((flag, value)) = flags.pair()? {
        match flag.as_str() {
            "--binary" => plan.binary = PathBuf::from(&value),
            "--times" => plan.times = flags::number(&value)?,
            "--upgrades" => plan.upgrades = flags::number(&value)?,
            "--rate" => plan.rate = flags::number(&value)?,
            "--web-sockets" => plan.web_sockets = flags::number(&value)?,
            "--strategy" => plan.strategies.push(value),
            "--beside" => plan.beside.push(value),
            "--short" => {
                (plan.times, plan.upgrades, plan.rate, plan.web_sockets) = (4, 2, 100.0, 10);
                plan.beside = vec!["none".to_owned()];
            }
            _ => return flags::unknown(&flag),
        }
    }
    if plan.strategies.is_empty() {
        plan.strategies = ["rolling", "blue-green", "canary", "recreate"].map(str::to_owned).into();
    }
    if plan.beside.is_empty() {
        plan.beside = ["nginx", "pm2"].map(str::to_owned).into();
    }
    Ok(plan)
}

fn site(level: &str, strategy: &str) -> Site {
    let web = FakeApp::new().instances(2).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    let deploy = format!(
        "[deploy]\nstrategy = \"{strategy}\"\nwatch = false\nsockets = \"2s\"\ncanary = {{ steps = [\"10%\", \"50%\"], for = \"200ms\" }}"
    );
    Site::new("bench").app("web", web).more(&deploy)
}

fn deployments(sandbox: &Sandbox, plan: &Plan, strategy: &str) -> Row {
    println!("== {strategy}: {} times at {} requests/s", plan.times, plan.rate);
    let target = sandbox.target(&site("", strategy));
    let load = Load::new(target).mixed(plan.rate).web_sockets(plan.web_sockets);
    let running = load.start(Duration::from_secs(3600));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    let (mut overhead_ms, mut switch_ms) = (Vec::new(), Vec::new());
    for time in 0..plan.times {
        if time % 2 == 1 {
            sandbox.run(["rollback", "bench"]).success();
        } else {
            let project = sandbox.write(&site(&format!("{strategy}-{time}"), strategy));
            sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
        }
        let (overhead, switch) = cost(&last(sandbox), strategy);
        overhead_ms.push(overhead);
        switch_ms.extend(switch);
    }
    let report = running.stop();
    print!("{report}");
    Row { overhead_ms, switch_ms, ..Row::new(strategy, report) }
}

fn last(sandbox: &Sandbox) -> Value {
    let output = sandbox.run(["releases", "bench", "--json"]);
    let found: Value = serde_json::from_str(output.raw_stdout())
        .unwrap_or_else(|error| panic!("`releases --json` is no JSON: {error}"));
    found["deployments"][0].clone()
}

/// Milliseconds beyond the steps in which the application starts (or a share is tried for its time), and
/// those that the edge took to send everybody to the new instances.
fn cost(deployment: &Value, strategy: &str) -> (u64, Option<f64>) {
    let steps = deployment["steps"].as_array().cloned().unwrap_or_default();
    let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let each = steps.iter().filter(|step| step[0].as_str().is_some_and(wanted));
        each.filter_map(|step| step[1].as_u64()).sum()
    };
    // Where slots change over one after the other, or nothing runs before the switch, it is a start too.
    let starts_in_switch = matches!(strategy, "rolling" | "recreate");
    let own =
        sum(&|step| step == "start" || step == "canary" || (starts_in_switch && step == "switch"));
    let notes = deployment["notes"].as_array().cloned().unwrap_or_default();
    let noted = notes.iter().find(|note| note[0] == "switch").and_then(|note| note[1].as_str());
    let switch = noted.and_then(|text| text.strip_suffix(" ms")?.parse().ok());
    (sum(&|_| true) - own, switch)
}

fn upgrades(sandbox: &Sandbox, plan: &Plan) -> Row {
    println!("== upgrade: {} times at {} requests/s", plan.upgrades, plan.rate);
    let first = sandbox.folder().join("bin/seaworthy");
    let second = sandbox.folder().join("bin/seaworthy-next");
    if let Err(error) = std::fs::copy(&first, &second) {
        panic!("the second build cannot be made: {error}");
    }
    let load = Load::new(sandbox.target(&site("", ""))).mixed(plan.rate);
    let running = load.web_sockets(plan.web_sockets).start(Duration::from_secs(3600));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    let before = sandbox.wait_ready("bench/web", 2, LIMIT);
    for time in 0..plan.upgrades {
        let next = if time % 2 == 0 { &second } else { &first };
        sandbox.run(["upgrade".as_ref(), next.as_os_str()]).success();
    }
    assert_eq!(sandbox.wait_ready("bench/web", 2, LIMIT), before, "applications were touched");
    let report = running.stop();
    print!("{report}");
    Row::new("upgrade", report)
}

/// Releases that fail after a few answers: how long from the breach until the old one serves.
fn taken_back(sandbox: &Sandbox, plan: &Plan) -> Row {
    let times = plan.times.min(10);
    println!("== taken back: {times} times at {} requests/s", plan.rate);
    sandbox.up(&site("good", "blue-green"));
    let load = Load::new(sandbox.target(&site("", ""))).mixed(plan.rate);
    let running = load.web_sockets(plan.web_sockets).start(Duration::from_secs(3600));
    eventually("load flows", LIMIT, || running.so_far().ok() > 2000.min(plan.rate as u64 * 10));
    let mut overhead_ms = Vec::new();
    for time in 0..times {
        let web = FakeApp::new()
            .instances(2)
            .broken_after(50)
            .key(&format!("env = {{ LEVEL = \"bad-{time}\" }}"));
        let deploy =
            "[deploy]\nstrategy = \"blue-green\"\nwatch = { for = \"60s\" }\nsockets = \"2s\"";
        let project = sandbox.write(&Site::new("bench").app("web", web).more(deploy));
        sandbox.run(["deploy".as_ref(), project.as_os_str()]).code(1).says(["SW-REL-005"]);
        let steps = last(sandbox)["steps"].as_array().cloned().unwrap_or_default();
        let back = steps.iter().find(|step| step[0] == "go-back").and_then(|step| step[1].as_u64());
        overhead_ms.extend(back);
        let good = running.so_far().ok();
        eventually("the old one serves", LIMIT, || running.so_far().ok() > good + 50);
    }
    let report = running.stop();
    print!("{report}");
    Row { overhead_ms, broken_on_purpose: true, ..Row::new("taken back", report) }
}

fn summary(rows: &[Row]) -> bool {
    println!(
        "\n{:<12}{:>9}{:>9}{:>8}{:>7}{:>7}{:>7}{:>9}{:>9}{:>7}{:>18}{:>18}",
        "phase",
        "requests",
        "ok",
        "refused",
        "reset",
        "wrong",
        "lost",
        "WS open",
        "WS 1001",
        "WS cut",
        "overhead ms",
        "switch ms"
    );
    let mut broken = false;
    for row in rows {
        let sum = |each: fn(&Counts) -> u64| row.report.requests.iter().map(each).sum::<u64>();
        let mut overhead = row.overhead_ms.clone();
        overhead.sort_unstable();
        let mut switch = row.switch_ms.clone();
        switch.sort_by(f64::total_cmp);
        let middle = |values: &[u64]| values.get(values.len() / 2).copied().unwrap_or(0);
        let switch_middle = switch.get(switch.len() / 2).copied();
        println!(
            "{:<12}{:>9}{:>9}{:>8}{:>7}{:>7}{:>7}{:>9}{:>9}{:>7}{:>18}{:>18}",
            row.name,
            sum(|counts| counts.issued),
            row.report.ok(),
            row.report.refused(),
            sum(|counts| counts.reset),
            sum(|counts| counts.wrong.values().sum()),
            sum(|counts| counts.lost),
            row.report.web_sockets.opened,
            row.report.web_sockets.closed.get(&1001).copied().unwrap_or_default(),
            row.report.web_sockets_dropped(),
            format!("{} (max {})", middle(&overhead), overhead.last().copied().unwrap_or(0)),
            switch_middle.map_or_else(
                || "-".to_owned(),
                |middle| format!("{middle} (max {})", switch.last().copied().unwrap_or(0.0))
            ),
        );
        let most = if row.broken_on_purpose { BACK } else { OVERHEAD };
        let bound = !cfg!(debug_assertions)
            && (middle(&overhead) > most || switch.last().is_some_and(|ms| *ms > SWITCH));
        broken |= row.promised && (row.dropped() > 0 || row.report.ok() == 0 || bound);
    }
    broken
}
