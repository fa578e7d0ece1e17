//! The promise "nothing is dropped", at length: full mixed load while our own processes are killed.
//!
//! `cargo run --release -p seaworthy-testkit --bin soak -- --binary target/release/seaworthy`
//! puts 1,000 requests/s (keep-alive, new connections, HTTP/2) and 100 WebSockets on a site of two
//! instances, and in four phases of 60 s kills control, one instance and the edge ten times each, and
//! changes an unrelated route ten times. It prints the counts of each phase beside what is allowed, and
//! ends with 1 when something was dropped that must not be. A short run: `--seconds 6 --times 2 --rate 100
//! --web-sockets 10`.
//!
//! Not here: speed (that is `cargo xtask bench`); in a debug build the new edge's 300 ms are not asked for.
#![expect(
    clippy::print_stdout,
    clippy::panic,
    reason = "a program for developers that prints what it found"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use seaworthy_testkit::load::{Load, Report};
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

const LIMIT: Duration = Duration::from_secs(30);

/// How long, how hard, how often.
#[derive(Debug, Clone)]
struct Plan {
    binary: PathBuf,
    seconds: u64,
    rate: f64,
    web_sockets: usize,
    times: u32,
    phases: Vec<String>,
}

/// One kind of blow, and what it may cost.
struct Phase {
    name: &'static str,
    strike: fn(&Sandbox, u32),
    verdict: fn(&Report, u32) -> Vec<String>,
}

const PHASES: [Phase; 4] = [
    Phase { name: "control", strike: kill_control, verdict: nothing_lost },
    Phase { name: "instance", strike: kill_instance, verdict: only_in_flight_lost },
    Phase { name: "edge", strike: kill_edge, verdict: nobody_refused },
    Phase { name: "route", strike: change_route, verdict: nothing_lost },
];

fn main() -> ExitCode {
    let plan = match read_arguments() {
        Ok(plan) => plan,
        Err(error) => {
            println!("soak: {error}");
            return ExitCode::from(2);
        }
    };
    let sandbox = Sandbox::new(&plan.binary);
    sandbox.up(&site(0));
    let mut broken = 0;
    for phase in PHASES
        .iter()
        .filter(|phase| plan.phases.is_empty() || plan.phases.iter().any(|name| name == phase.name))
    {
        broken += run(&sandbox, &plan, phase);
    }
    sandbox.run(["down", "--all"]).success();
    sandbox.wait_for_silence(LIMIT);
    println!("{}", if broken == 0 { "PASS: nothing was dropped that must not be" } else { "FAIL" });
    ExitCode::from(u8::from(broken > 0))
}

fn read_arguments() -> Result<Plan, String> {
    let mut plan = Plan {
        binary: PathBuf::from("target/release/seaworthy"),
        seconds: 60,
        rate: 1000.0,
        web_sockets: 100,
        times: 10,
        phases: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("`{flag}` needs a value"))?;
        let bad = |_| format!("`{value}` is no number");
        match flag.as_str() {
            "--binary" => plan.binary = PathBuf::from(&value),
            "--seconds" => plan.seconds = value.parse().map_err(bad)?,
            "--rate" => plan.rate = value.parse().map_err(|_| format!("`{value}` is no number"))?,
            "--web-sockets" => plan.web_sockets = value.parse().map_err(bad)?,
            "--times" => plan.times = value.parse().map_err(bad)?,
            "--phase" => plan.phases.push(value),
            _ => return Err(format!("there is no flag `{flag}`")),
        }
    }
    if let Some(unknown) =
        plan.phases.iter().find(|name| PHASES.iter().all(|phase| phase.name != name.as_str()))
    {
        return Err(format!("there is no phase `{unknown}`: control, instance, edge, route"));
    }
    Ok(plan)
}

/// The site; `version` changes nothing but an unrelated route.
fn site(version: u32) -> Site {
    let route = format!(
        "[[route]]\npaths = [\"/version\"]\nrespond = {{ status = 200, body = \"{version}\" }}"
    );
    Site::new("soak").app("web", FakeApp::new().instances(2)).more(&route).route("/*", "web")
}

/// Load for the phase's time with the blows spread over it; prints the counts, returns how many promises broke.
fn run(sandbox: &Sandbox, plan: &Plan, phase: &Phase) -> usize {
    let length = Duration::from_secs(plan.seconds);
    println!(
        "== {}: {} s, {} requests/s, {} WebSockets, {} times",
        phase.name, plan.seconds, plan.rate, plan.web_sockets, plan.times
    );
    let before = sandbox.wait_ready("soak/web", 2, LIMIT);
    let load = Load::new(sandbox.target(&site(0))).mixed(plan.rate).web_sockets(plan.web_sockets);
    let running = load.start(length.max(Duration::from_secs(5)) * 4);
    let begun = Instant::now();
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    for time in 0..plan.times {
        let due = length * (time + 1) / (plan.times + 1);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        (phase.strike)(sandbox, time + 1);
    }
    std::thread::sleep(length.saturating_sub(begun.elapsed()));
    let report = running.stop();
    print!("{report}");
    let mut broken = (phase.verdict)(&report, plan.times);
    if matches!(phase.name, "control" | "edge" | "route")
        && sandbox.wait_ready("soak/web", 2, LIMIT) != before
    {
        broken.push("the instances are not the same processes as before".to_owned());
    }
    for line in &broken {
        println!("BROKEN: {line}");
    }
    broken.len()
}

fn kill_control(sandbox: &Sandbox, _: u32) {
    let before = sandbox.status().control_pid();
    sandbox.kill_hard(before);
    eventually("the next control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != before)
    });
}

fn kill_instance(sandbox: &Sandbox, _: u32) {
    let before = sandbox.wait_ready("soak/web", 2, LIMIT);
    sandbox.kill_hard(before[0]);
    eventually_some("two instances again", LIMIT, || {
        Some(sandbox.try_status()?.ready_pids("soak/web"))
            .filter(|pids| pids.len() == 2 && !pids.contains(&before[0]))
    });
}

fn kill_edge(sandbox: &Sandbox, _: u32) {
    let before = sandbox.status().edge_pid().unwrap_or_else(|| panic!("there is no edge"));
    sandbox.kill_hard(before);
    eventually("a new edge", LIMIT, || {
        sandbox
            .try_status()
            .is_some_and(|status| status.edge_pid().is_some_and(|pid| pid != before))
    });
}

fn change_route(sandbox: &Sandbox, time: u32) {
    sandbox.up(&site(time));
    let seen = sandbox.https(&site(time)).get("/version").text();
    assert_eq!(seen, time.to_string(), "the changed route is served");
}

fn nothing_lost(report: &Report, _: u32) -> Vec<String> {
    let (requests, sockets) = (report.failures(), report.web_sockets_broken());
    let mut broken = Vec::new();
    if report.ok() == 0 {
        broken.push("there was no load".to_owned());
    }
    if requests > 0 || sockets > 0 {
        broken.push(format!(
            "{requests} requests failed and {sockets} WebSockets broke; 0 and 0 are allowed"
        ));
    }
    broken
}

/// A killed instance takes the answers it was giving and the WebSockets it held with it, nothing else.
fn only_in_flight_lost(report: &Report, times: u32) -> Vec<String> {
    let allowed = u64::from(times) * 10;
    let mut broken = Vec::new();
    if report.refused() > 0 {
        broken.push(format!("{} connections were refused", report.refused()));
    }
    if report.failures() > allowed {
        broken.push(format!(
            "{} requests failed; what {times} killed instances were answering is at most {allowed}",
            report.failures()
        ));
    }
    broken
}

/// A killed edge breaks the connections it held; the sockets go on, so nobody is refused.
fn nobody_refused(report: &Report, _: u32) -> Vec<String> {
    let mut broken = Vec::new();
    if report.refused() > 0 {
        broken.push(format!("{} connections were refused", report.refused()));
    }
    let wrong: u64 =
        report.requests.iter().map(|counts| counts.lost + counts.wrong.values().sum::<u64>()).sum();
    if wrong > 0 {
        broken.push(format!("{wrong} requests were lost or answered wrongly, not merely cut off"));
    }
    if !cfg!(debug_assertions) && report.worst_gap > Duration::from_millis(300) {
        broken.push(format!(
            "nothing was answered for {} ms; 300 are allowed",
            report.worst_gap.as_millis()
        ));
    }
    broken
}
