//! The promise "nothing is dropped", at length: full mixed load while our own processes are killed.
//!
//! `cargo xtask soak` builds the release binary and runs this: 1,000 requests/s (keep-alive, new
//! connections, HTTP/2) and 100 WebSockets on a site of two instances, and in five phases of 60 s control,
//! one instance and the edge are killed ten times each, an unrelated route is changed ten times, and all that
//! can be changed beside the load is. A thousand changes beside a thousand WebSockets:
//! `--phase changes --times 1000 --web-sockets 1000`. It
//! prints the counts of each phase, then a summary with what must hold, and ends with 1 when something
//! does not. A short run: `--seconds 6 --times 2 --rate 100 --web-sockets 10`.
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

use seaworthy_testkit::flags::{self, Flags};
use seaworthy_testkit::load::{Counts, Load, Report};
use seaworthy_testkit::{Changes, FakeApp, Sandbox, Site, eventually, eventually_some};

const LIMIT: Duration = Duration::from_secs(30);
/// What a blow takes at the longest, seen to its end.
const BLOW: Duration = Duration::from_secs(5);

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
    strike: Strike,
    promises: fn(&Report, &Plan) -> Vec<Promise>,
}

/// What happens at a moment; the changes know how many there were.
type Strike = fn(&Sandbox, &mut Changes, u32);

/// Something that must hold, and whether it did.
struct Promise {
    holds: bool,
    what: String,
}

/// What a phase came to.
struct Row {
    name: &'static str,
    report: Report,
    promises: Vec<Promise>,
}

const PHASES: [Phase; 5] = [
    Phase { name: "control", strike: kill_control, promises: nothing_is_lost },
    Phase { name: "instance", strike: kill_instance, promises: only_what_was_under_way_is_lost },
    Phase { name: "edge", strike: kill_edge, promises: nobody_is_refused },
    Phase { name: "route", strike: change_route, promises: nothing_is_lost },
    Phase { name: "changes", strike: change_something, promises: nothing_is_lost },
];

const HELP: &str = "\
Puts mixed load on a site while control, an instance or the edge are killed, or a route is changed.

  --binary PATH      the binary [target/release/seaworthy]
  --seconds N        of each phase [60]
  --rate N           requests a second: 7 of 10 keep-alive, 1 new connections, 2 HTTP/2 [1000]
  --web-sockets N    open at once, each echoing four times a second [100]
  --times N          kills or changes in each phase [10]
  --phase NAME       control, instance, edge, route or changes; may be repeated [all]

Ends with 0 when every promise held, 1 when one did not, 2 when it could not begin.";

fn main() -> ExitCode {
    let plan = match flags::read(HELP, read) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let sandbox = Sandbox::new(&plan.binary);
    sandbox.up(&site(0));
    let chosen = |phase: &&Phase| {
        plan.phases.is_empty() || plan.phases.iter().any(|name| name == phase.name)
    };
    let rows: Vec<Row> =
        PHASES.iter().filter(chosen).map(|phase| run(&sandbox, &plan, phase)).collect();
    sandbox.run(["down", "--all"]).success();
    sandbox.wait_for_silence(LIMIT);
    summary(&rows);
    let broken = rows.iter().flat_map(|row| &row.promises).any(|promise| !promise.holds);
    println!("{}", if broken { "FAIL" } else { "PASS: nothing was dropped that must not be" });
    ExitCode::from(u8::from(broken))
}

fn summary(rows: &[Row]) {
    println!("\n== summary");
    println!(
        "{:<10}{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>8}",
        "phase",
        "requests",
        "ok",
        "reset",
        "refused",
        "wrong",
        "lost",
        "WS opened",
        "WS ended",
        "gap ms"
    );
    for Row { name, report, .. } in rows {
        let sum = |each: fn(&Counts) -> u64| report.requests.iter().map(each).sum::<u64>();
        println!(
            "{name:<10}{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>8}",
            sum(|counts| counts.issued),
            report.ok(),
            sum(|counts| counts.reset),
            report.refused(),
            sum(|counts| counts.wrong.values().sum()),
            sum(|counts| counts.lost),
            report.web_sockets.opened,
            report.web_sockets_broken(),
            report.worst_gap.as_millis(),
        );
    }
    for Row { name, promises, .. } in rows {
        for Promise { holds, what } in promises {
            println!("{:<8}{name}: {what}", if *holds { "held" } else { "BROKEN" });
        }
    }
}

fn read(mut flags: Flags) -> Result<Plan, String> {
    let mut plan = Plan {
        binary: PathBuf::from("target/release/seaworthy"),
        seconds: 60,
        rate: 1000.0,
        web_sockets: 100,
        times: 10,
        phases: Vec::new(),
    };
    while let Some((flag, value)) = flags.pair()? {
        match flag.as_str() {
            "--binary" => plan.binary = PathBuf::from(&value),
            "--seconds" => plan.seconds = flags::number(&value)?,
            "--rate" => plan.rate = flags::number(&value)?,
            "--web-sockets" => plan.web_sockets = flags::number(&value)?,
            "--times" => plan.times = flags::number(&value)?,
            "--phase" => plan.phases.push(value),
            _ => return flags::unknown(&flag),
        }
    }
    if let Some(unknown) =
        plan.phases.iter().find(|name| PHASES.iter().all(|phase| phase.name != name.as_str()))
    {
        return Err(format!(
            "there is no phase `{unknown}`: control, instance, edge, route, changes"
        ));
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

/// Load for the phase's time with the blows spread over it; prints the counts.
fn run(sandbox: &Sandbox, plan: &Plan, phase: &Phase) -> Row {
    let length = Duration::from_secs(plan.seconds);
    println!(
        "== {}: {} s, {} requests/s, {} WebSockets, {} times",
        phase.name, plan.seconds, plan.rate, plan.web_sockets, plan.times
    );
    let before = sandbox.wait_ready("soak/web", 2, LIMIT);
    let address = sandbox.status().https();
    let load = Load::new(sandbox.target(&site(0))).mixed(plan.rate).web_sockets(plan.web_sockets);
    // Each blow takes its time, too; the load ends when it is told to.
    let longest = length.max(Duration::from_secs(5)) * 4 + BLOW * plan.times;
    let running = load.start(longest);
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    eventually("the WebSockets echo", LIMIT, || {
        running.so_far().web_sockets.echoes >= plan.web_sockets as u64
    });
    let mut changes = Changes::beside(site(0));
    let begun = Instant::now();
    for time in 0..plan.times {
        let due = length * (time + 1) / (plan.times + 1);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        (phase.strike)(sandbox, &mut changes, time + 1);
    }
    std::thread::sleep(length.saturating_sub(begun.elapsed()));
    let report = running.stop();
    print!("{report}");
    let mut promises = (phase.promises)(&report, plan);
    let mut promise =
        |holds: bool, what: &str| promises.push(Promise { holds, what: what.to_owned() });
    promise(report.ok() > 0, "there was load");
    promise(begun.elapsed() < longest, &format!("it went on through all of {} blows", plan.times));
    let after = sandbox.wait_ready("soak/web", 2, LIMIT);
    if phase.name == "instance" {
        promise(true, "two instances are ready again, by themselves");
    } else {
        promise(after == before, "the instances are the same processes as before");
    }
    promise(sandbox.status().https() == address, "the edge listens where it did");
    Row { name: phase.name, report, promises }
}

fn kill_control(sandbox: &Sandbox, _: &mut Changes, _: u32) {
    let before = sandbox.status().control_pid();
    sandbox.kill_hard(before);
    eventually("the next control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != before)
    });
}

fn kill_instance(sandbox: &Sandbox, _: &mut Changes, _: u32) {
    let before = sandbox.wait_ready("soak/web", 2, LIMIT);
    sandbox.kill_hard(before[0]);
    eventually_some("two instances again", LIMIT, || {
        Some(sandbox.try_status()?.ready_pids("soak/web"))
            .filter(|pids| pids.len() == 2 && !pids.contains(&before[0]))
    });
}

fn kill_edge(sandbox: &Sandbox, _: &mut Changes, _: u32) {
    let before = sandbox.status().edge_pid().unwrap_or_else(|| panic!("there is no edge"));
    sandbox.kill_hard(before);
    eventually("a new edge", LIMIT, || {
        sandbox
            .try_status()
            .is_some_and(|status| status.edge_pid().is_some_and(|pid| pid != before))
    });
}

fn change_route(sandbox: &Sandbox, _: &mut Changes, time: u32) {
    sandbox.up(&site(time));
    let seen = sandbox.https(&site(time)).get("/version").text();
    assert_eq!(seen, time.to_string(), "the changed route is served");
}

fn change_something(sandbox: &Sandbox, changes: &mut Changes, _: u32) {
    changes.make(sandbox);
}

fn promise(holds: bool, what: String) -> Promise {
    Promise { holds, what }
}

fn nothing_is_lost(report: &Report, _: &Plan) -> Vec<Promise> {
    let (requests, sockets) = (report.failures(), report.web_sockets_broken());
    vec![
        promise(requests == 0, format!("no request failed ({requests} did)")),
        promise(sockets == 0, format!("every WebSocket stayed open ({sockets} did not)")),
    ]
}

/// A killed instance takes the answers it was giving and the WebSockets it held with it, nothing else.
fn only_what_was_under_way_is_lost(report: &Report, plan: &Plan) -> Vec<Promise> {
    // Half of the load goes to each, and an answer takes well under 10 ms.
    let each = (plan.rate / 2.0 * 0.01).ceil() as u64;
    let allowed = u64::from(plan.times) * each.max(1);
    let (failed, sockets) = (report.failures(), &report.web_sockets);
    let unserved = sockets.not_upgraded + sockets.wrong + sockets.lost;
    vec![
        no_refusal(report),
        promise(failed <= allowed, format!("at most {allowed} requests failed ({failed} did)")),
        promise(
            unserved == 0,
            format!(
                "WebSockets that ended with their instance ({}) were open again at once",
                sockets.reset
            ),
        ),
    ]
}

/// A killed edge breaks the connections it held; the sockets go on, so nobody is refused.
fn nobody_is_refused(report: &Report, _: &Plan) -> Vec<Promise> {
    let wrong: u64 =
        report.requests.iter().map(|counts| counts.lost + counts.wrong.values().sum::<u64>()).sum();
    let gap = report.worst_gap.as_millis();
    let mut promises = vec![
        no_refusal(report),
        promise(
            wrong == 0,
            format!("no request was lost or answered wrongly, only cut off ({wrong} were)"),
        ),
    ];
    if !cfg!(debug_assertions) {
        let what = format!("a new edge serves within 300 ms (nothing was answered for {gap} ms)");
        promises.push(promise(gap <= 300, what));
    }
    promises
}

fn no_refusal(report: &Report) -> Promise {
    let refused = report.refused();
    promise(refused == 0, format!("no connection was refused ({refused} were)"))
}
