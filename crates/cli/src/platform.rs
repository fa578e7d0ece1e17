//! Verbs that ask control: status, down, restart; and starting control where there is none.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seaworthy_api::model::{
    CallView, DownRequest, EdgeView, GoingOn, InstanceView, PlatformStatus, RestartRequest,
    SiteStatus,
};
use seaworthy_api::{Client, ClientError, Layout};
use seaworthy_base::{ByteSize, Code, Exit, Fault, format_duration};
use seaworthy_sys::process::{Awaited, Lock};
use tokio::signal::unix::SignalKind;

use crate::args::{Down, Restart, Status};
use crate::progress::on;
use crate::render::{self, Failure, io_failure};

/// Control greets within this time; opening the state is quick, but adopted sites are published first.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs an asynchronous verb.
pub(crate) fn block_on(verb: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| io_failure("could not start the runtime", &error))?.block_on(verb)
}

/// A client whose peer is the control process of this state folder.
pub(crate) async fn connect(layout: &Layout) -> Result<Client, Failure> {
    let client = Client::new(&layout.control_socket());
    let hello = client.hello().await?;
    if hello.state != layout.state {
        let what = format!(
            "the control process {} owns `{}`, not `{}`",
            hello.pid,
            hello.state.display(),
            layout.state.display()
        );
        return Err(Fault::new(Code::WrongControl, what)
            .next("unset SEAWORTHY_RUN, or name the state folder: --state DIR")
            .into());
    }
    Ok(client)
}

/// As [`connect`]; a control process that is about to end is waited for.
async fn connect_once_ended(layout: &Layout) -> Result<Client, Failure> {
    let begun = Instant::now();
    loop {
        match connect(layout).await {
            Err(failure) if is_ending(&failure) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            other => return other,
        }
    }
}

/// Connects, starting control first when nobody answers.
pub(crate) async fn connect_or_start(layout: &Layout) -> Result<Client, Failure> {
    let begun = Instant::now();
    match connect_once_ended(layout).await {
        Err(failure) if failure.fault.code == Code::ControlNotRunning => {}
        other => return other,
    }
    seaworthy_control::prepare_folders(layout)?;
    let mut keeper =
        if crate::install::start(layout)? { None } else { Some(start_keeper(layout)?) };
    loop {
        match connect(layout).await {
            Err(failure)
                if failure.fault.code == Code::ControlNotRunning || is_ending(&failure) => {}
            other => return other,
        }
        let ended = keeper.as_mut().and_then(|keeper| keeper.try_wait().ok().flatten());
        if ended.is_some() || begun.elapsed() > PATIENCE {
            let mut fault =
                Fault::new(Code::ControlNotRunning, "the control process did not come up");
            let log = std::fs::read_to_string(layout.control_log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            fault.evidence = lines[lines.len().saturating_sub(5)..]
                .iter()
                .map(|line| (*line).to_owned())
                .collect();
            return Err(Failure {
                fault: fault.next("seaworthy logs --control"),
                exit: Exit::UserFixable,
            });
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

fn start_keeper(layout: &Layout) -> Result<std::process::Child, Failure> {
    let failed = |error: std::io::Error| io_failure("could not start the control process", &error);
    let program = std::env::current_exe().map_err(failed)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(layout.control_log())
        .map_err(failed)?;
    let mut command = Command::new(program);
    command
        .arg("control")
        .arg("--keep")
        .arg("--state")
        .arg(&layout.state)
        .env("SEAWORTHY_RUN", &layout.run);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
    command.spawn().map_err(failed)
}

/// Stops sites.
pub(crate) async fn down(layout: &Layout, options: &Down) -> Result<Exit, Failure> {
    let client = match connect_once_ended(layout).await {
        Ok(client) => client,
        Err(failure) if options.all && failure.fault.code == Code::ControlNotRunning => {
            if !goes_on(layout) {
                render::talk("nothing runs");
                return Ok(Exit::Ok);
            }
            // What runs without a control process is ended by one, in order.
            connect_or_start(layout).await?
        }
        Err(failure) => return Err(failure),
    };
    let platform: PlatformStatus = client.get("/v1/status").await?;
    let site = match (&options.site, options.all) {
        (Some(site), _) => Some(site.clone()),
        (None, true) => None,
        (None, false) => Some(known_site(&platform, None)?),
    };
    let control = &platform.control;
    let ours =
        options.all.then(|| [Some(control.pid), control.keeper].map(|pid| pid.map(Awaited::new)));
    let stopped: Vec<String> = client.post("/v1/down", &DownRequest { site }).await?;
    stopped.iter().for_each(|site| render::talk(&format!("{site} is down")));
    // Under systemd, which starts it again at once, control is no business of ours.
    if let (Some(ours), true) = (ours, control.keeper.is_some()) {
        let ended = ours.iter().flatten().all(|process| process.wait(PATIENCE));
        if !ended {
            let what = "the sites are down, but the control process did not end";
            return Err(Fault::new(Code::Internal, what).next("seaworthy logs --control").into());
        }
    }
    Ok(Exit::Ok)
}

/// Whether an instance or an edge lives, though control does not: a shim holds its lock for life, an edge answers.
fn goes_on(layout: &Layout) -> bool {
    let within = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut instances = within(&layout.instances()).into_iter().flat_map(|site| within(&site));
    let is_edge = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(b"edge-") && UnixStream::connect(path).is_ok()
    };
    instances.any(|one| Lock::is_locked(&one.join("lock")).unwrap_or(false))
        || within(&layout.run).iter().any(|path| is_edge(path))
}

/// The site that is named, or the only one that runs.
pub(crate) fn known_site(status: &PlatformStatus, named: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let running: Vec<&SiteStatus> = status.sites.iter().filter(|site| site.running).collect();
    match running[..] {
        [only] => Ok(only.name.clone()),
        [] => Err(Fault::new(Code::NoSuchSite, "no site runs").next("seaworthy up DIR").into()),
        _ => {
            let names: Vec<&str> = running.iter().map(|site| site.name.as_str()).collect();
            Err(Fault::new(Code::NoSuchSite, "several sites run: say which")
                .because(names.join(", "))
                .next("the same command with the site's name")
                .into())
        }
    }
}

/// Restarts.
pub(crate) async fn restart(layout: &Layout, options: &Restart) -> Result<Exit, Failure> {
    let client = connect(layout).await?;
    let target = options.target.clone().unwrap_or_else(|| "edge".to_owned());
    let restarted: Vec<String> = client.post("/v1/restart", &RestartRequest { target }).await?;
    restarted.iter().for_each(|name| render::talk(&format!("{name} restarted")));
    Ok(Exit::Ok)
}

/// What runs, and what is wrong.
pub(crate) async fn status(layout: &Layout, options: &Status) -> Result<Exit, Failure> {
    if options.watch {
        return watch(layout, options).await;
    }
    let status: PlatformStatus = connect(layout).await?.get("/v1/status").await?;
    if options.json {
        render::json(&status);
    } else {
        render::print(&show(&status));
    }
    Ok(Exit::Ok)
}

/// Shows it whenever it changed: anew on a terminal, one after the other elsewhere.
async fn watch(layout: &Layout, options: &Status) -> Result<Exit, Failure> {
    let clear = std::io::stdout().is_terminal() && !options.json;
    let mut shown = String::new();
    let mut interrupt = on(SignalKind::interrupt())?;
    loop {
        // A control that is being replaced answers again in a moment; what was shown stays.
        let text = match connect(layout).await {
            Ok(client) => match client.get::<PlatformStatus>("/v1/status").await {
                Ok(status) if options.json => {
                    serde_json::to_string(&status).unwrap_or_default() + "\n"
                }
                Ok(status) => show(&status),
                Err(_) => shown.clone(),
            },
            Err(failure) if shown.is_empty() => return Err(failure),
            Err(_) => shown.clone(),
        };
        if text != shown {
            if clear {
                render::print("\x1b[2J\x1b[H");
            }
            render::print(&text);
            shown = text;
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(Exit::Ok),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// How the calls to somebody else's server are, in a line.
fn calls(one: &CallView) -> String {
    let time = |ms: u64| format_duration(Duration::from_secs(ms.div_ceil(1000)));
    let state = match (one.open_ms, one.paused_ms) {
        (Some(left), _) => format!("left alone for {}: circuit breaker open", time(left)),
        (None, Some(left)) => format!("asked to be left alone for {}", time(left)),
        (None, None) if one.active + one.waiting > 0 => {
            format!("{} calls under way, {} wait", one.active, one.waiting)
        }
        (None, None) => format!("{} calls", one.calls),
    };
    let errors = if one.errors + one.refused > 0 {
        format!(", {} errors, {} refused", one.errors, one.refused)
    } else {
        String::new()
    };
    format!("  outgoing {:<7} {}  {state}{errors}\n", one.name, one.to)
}

/// What a deployment is at that replaces nothing yet.
fn going_on(one: &GoingOn) -> String {
    let time = format_duration(Duration::from_secs(one.for_ms / 1000));
    format!("{} {} for {}: {}, since {time}", one.verb, one.number, one.who, one.step)
}

fn show(status: &PlatformStatus) -> String {
    let mut out = String::new();
    for site in &status.sites {
        let state = match (site.running, &site.release) {
            (true, _) => site.urls.first().map_or("running", String::as_str),
            (false, Some(_)) => "stopped",
            (false, None) => "never started",
        };
        let release = site.release.as_deref().unwrap_or_default();
        let _infallible =
            writeln!(out, "{}", format!("{}  {state}  {release}", site.name).trim_end());
        for one in &site.outgoing {
            out.push_str(&calls(one));
        }
        if let Some(closed) = &site.closed {
            let _infallible = writeln!(out, "  {closed}");
        }
        if let Some(rollout) = &site.rollout {
            let share = rollout.share.map(|share| format!(" ({share} %)")).unwrap_or_default();
            let _infallible = writeln!(
                out,
                "  deploying        {} ({}) for {}: {}{share}",
                rollout.release, rollout.strategy, rollout.who, rollout.step
            );
            if let Some(preview) = &rollout.preview {
                let _infallible = writeln!(out, "  preview          {preview}");
            }
        }
        for one in status.deployments.iter().filter(|one| one.site == site.name) {
            let _infallible = writeln!(out, "  deploying        {}", going_on(one));
        }
        for fault in &site.faults {
            out.push_str(&render::fault_lines(fault, "  "));
        }
        for service in &site.services {
            let counts = if matches!(service.kind.as_str(), "process" | "database") {
                let why = service.scale.as_ref().map(|why| format!("  ({why})"));
                format!("{}/{} ready{}", service.ready, service.wanted, why.unwrap_or_default())
            } else {
                service.kind.clone()
            };
            let _infallible = writeln!(out, "  {:<16} {counts}", service.name);
            for instance in &service.instances {
                out.push_str(&instance_lines(instance));
            }
        }
        out.push('\n');
    }
    let known = |one: &&GoingOn| status.sites.iter().any(|site| site.name == one.site);
    for one in status.deployments.iter().filter(|one| !known(one)) {
        let _infallible = writeln!(out, "{}  first deployment\n  {}\n", one.site, going_on(one));
    }
    if status.sites.is_empty() {
        out.push_str("no site runs\n\n");
    }
    let edge = status.edge.pid.map_or_else(
        || "not running".to_owned(),
        |pid| {
            format!(
                "pid {pid}, {} connections, {} requests",
                status.edge.connections, status.edge.requests
            )
        },
    );
    let _infallible = writeln!(out, "edge     {edge}");
    if !status.edge.http3.is_empty() {
        let all: Vec<String> = status.edge.http3.iter().map(ToString::to_string).collect();
        let _infallible = writeln!(out, "http3    UDP {} (experimental)", all.join(", "));
    }
    let _infallible = writeln!(
        out,
        "control  pid {}, up {}",
        status.control.pid,
        format_duration(Duration::from_secs(status.control.uptime_ms / 1000))
    );
    for note in sent_away(&status.edge).into_iter().chain(status.guards.clone()) {
        let _infallible = writeln!(out, "note     {note}");
    }
    out
}

/// What clients met that came in crowds, or asked for what is no name.
fn sent_away(edge: &EdgeView) -> Vec<String> {
    let made_room = (edge.made_room > 0).then(|| {
        format!(
            "open files ran short: {} connections that only waited for their clients were ended; a higher \
             LimitNOFILE (systemd) or `ulimit -n` allows more",
            edge.made_room
        )
    });
    let turned_away = (edge.turned_away > 0).then(|| {
        format!(
            "{} connections were turned away, since their addresses held as many as one may \
             (`connections_per_address` under [listen])",
            edge.turned_away
        )
    });
    let misnamed = (edge.misnamed > 0).then(|| {
        format!(
            "{} TLS handshakes asked for a server name that is none (one with a port, for example) and were served \
             as if they had sent none; the first certificate is shown to them",
            edge.misnamed
        )
    });
    let flooded = (edge.flooded > 0).then(|| {
        format!(
            "{} connections over HTTP/2 or HTTP/3 were ended, since their clients flooded them with frames or took back \
             what they asked for; `deny_from` under [[route]] keeps an address away",
            edge.flooded
        )
    });
    made_room.into_iter().chain(turned_away).chain(misnamed).chain(flooded).collect()
}

fn instance_lines(instance: &InstanceView) -> String {
    let style = render::state_style(&instance.state);
    let short = instance.id.splitn(3, '/').nth(2).unwrap_or(&instance.id);
    let address = instance.listening.values().next().map(ToString::to_string).unwrap_or_default();
    let mut facts = Vec::new();
    facts.extend(instance.pid.map(|pid| format!("pid {pid}")));
    facts.extend(Some(address).filter(|address| !address.is_empty()));
    facts.extend(
        instance
            .uptime_ms
            .map(|ms| format!("up {}", format_duration(Duration::from_secs(ms / 1000)))),
    );
    facts.extend(instance.memory.map(|bytes| ByteSize(bytes).rounded().to_string()));
    if instance.restarts > 0 {
        let last = instance.last_exit.as_deref().unwrap_or("unknown end");
        facts.push(format!("restarts {} ({last})", instance.restarts));
    }
    if instance.log_dropped > 0 {
        facts.push(format!("{} log lines dropped", instance.log_dropped));
    }
    let mut out = format!("    {short:<8} {style}{}{style:#}", instance.state);
    facts.iter().for_each(|fact| out.push_str(&format!("  {fact}")));
    out.push('\n');
    if let Some(fault) = &instance.fault {
        out.push_str(&render::fault_lines(fault, "      "));
    }
    out
}

/// Whether control is on its way out: it said so, or left in the middle of its answer.
pub(crate) fn is_ending(failure: &Failure) -> bool {
    matches!(failure.fault.code, Code::ControlEnding | Code::ControlCutOff)
}

/// Whether an error says that nobody answers.
pub(crate) fn is_gone(error: &ClientError) -> bool {
    matches!(error, ClientError::NotRunning { .. } | ClientError::CutOff { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_says_that_crowds_were_sent_away_and_what_allows_more() {
        assert!(sent_away(&EdgeView::default()).is_empty());
        let edge = EdgeView {
            made_room: 32,
            turned_away: 7,
            misnamed: 3,
            flooded: 5,
            ..EdgeView::default()
        };
        let notes = sent_away(&edge);
        assert!(notes[0].contains("32 connections") && notes[0].contains("LimitNOFILE"));
        assert!(notes[2].contains("3 TLS handshakes"));
        assert!(notes[3].contains("5 connections over HTTP/2"));
        assert!(notes[1].contains("7 connections") && notes[1].contains("connections_per_address"));
    }
}
