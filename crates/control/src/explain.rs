//! Why: the story of one request or one instance, from what is known and what was logged.
//!
//! Invariant: reads only; a log that is missing or cut off makes the story shorter, never an error.

mod access_log;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use seaworthy_api::model::{ExplainRequest, Explanation, VERSION};
use seaworthy_base::{ByteSize, Code, Fault, InstanceId, RequestId, Timestamp};

use seaworthy_edge::model::EdgeStatus;
use seaworthy_manifest::site::ServiceKind;
use seaworthy_runtime::model::Status;

use crate::outgoing;
use crate::platform::Platform;
use crate::status::{exit_words, state_word};
use crate::world::{Instance, World};

/// Lines of an instance's log that are shown.
const LINES: usize = 8;

/// Answers one question.
pub(crate) async fn explain(
    platform: &Arc<Platform>,
    question: &ExplainRequest,
) -> Result<Explanation, Fault> {
    match question {
        ExplainRequest::Request(id) => {
            let logs = platform.layout.edge_logs();
            let parsed: RequestId = id.parse().map_err(|error: seaworthy_base::ids::IdError| {
                Fault::new(Code::NoSuchRequest, error.to_string())
                    .next("the id is in the `X-Request-Id` header and on error pages")
            })?;
            let found = tokio::task::spawn_blocking(move || access_log::find(&logs, parsed))
                .await
                .ok()
                .flatten();
            let line = found.ok_or_else(|| {
                Fault::new(
                    Code::NoSuchRequest,
                    format!("request `{parsed}` is not in the access logs"),
                )
                .because(format!(
                    "it would have been served at {}, and logs are kept for a while only",
                    Timestamp(parsed.millis())
                ))
                .next("routes with `log = false` write no line")
            })?;
            Ok(about_request(platform, parsed, &line))
        }
        ExplainRequest::Instance(name) => {
            let edge = platform.edge.lock().await.status().await.unwrap_or_default();
            about_instance(platform, &edge, name)
        }
    }
}

fn about_request(platform: &Arc<Platform>, id: RequestId, line: &serde_json::Value) -> Explanation {
    let text = |name: &str| match &line[name] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let named = [
        "time",
        "site",
        "client",
        "method",
        "host",
        "path",
        "status",
        "proto",
        "in",
        "out",
        "ms",
        "upstream",
        "upstream_ms",
        "retries",
        "cause",
    ];
    let facts = named
        .iter()
        .map(|name| ((*name).to_owned(), text(name)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let (upstream, cause, status) = (text("upstream"), text("cause"), text("status"));
    let by =
        if upstream.is_empty() { "the edge itself".to_owned() } else { format!("`{upstream}`") };
    let summary = if cause.is_empty() {
        format!("{} {} was answered with {status} by {by}", text("method"), text("path"))
    } else {
        format!(
            "{} {} was answered with {status} by the edge: {cause}",
            text("method"),
            text("path")
        )
    };
    let instance: Option<InstanceId> = upstream.parse().ok();
    let evidence = instance
        .as_ref()
        .map(|instance| lines_around(platform, instance, id.millis()))
        .unwrap_or_default();
    let next = match &instance {
        Some(instance) => vec![format!(
            "seaworthy logs {} --service {} --since 15m",
            instance.site, instance.service
        )],
        None => vec!["seaworthy status".to_owned()],
    };
    Explanation { v: VERSION, subject: format!("request {id}"), summary, facts, evidence, next }
}

/// What an instance wrote around a moment: from half a second before to ten seconds after.
fn lines_around(platform: &Arc<Platform>, instance: &InstanceId, millis: u64) -> Vec<String> {
    let (from, to) =
        (Timestamp(millis.saturating_sub(500)).to_string(), Timestamp(millis + 10_000).to_string());
    let Ok(file) = fs::File::open(platform.layout.instance_log(instance)) else {
        return Vec::new();
    };
    let lines = BufReader::new(file)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned());
    lines
        .filter(|line| {
            line.get(..24).is_some_and(|time| time >= from.as_str() && time <= to.as_str())
        })
        .take(LINES)
        .collect()
}

/// `site`, `site/service`, `site/service/slot` or a whole instance id: the worst of what fits is explained.
fn about_instance(
    platform: &Arc<Platform>,
    edge: &EdgeStatus,
    name: &str,
) -> Result<Explanation, Fault> {
    let world = platform.world();
    let bare = name.split('@').next().unwrap_or(name);
    let fits = |id: &InstanceId| {
        let full = format!("{}/{}/{}", id.site, id.service, id.slot);
        id.to_string() == name
            || (!name.contains('@') && (full == bare || full.starts_with(&format!("{bare}/"))))
    };
    let mut found: Vec<(&InstanceId, &Instance)> =
        world.instances.iter().filter(|(id, _)| fits(id)).collect();
    found.sort_by_key(|(id, one)| {
        (
            one.is_ready() && one.status.as_ref().is_none_or(|status| status.fault.is_none()),
            std::cmp::Reverse(id.generation),
        )
    });
    let Some((id, one)) = found.first() else {
        if let Some(told) = about_upstreams(&world, edge, bare)
            .or_else(|| about_calls(edge, bare))
            .or_else(|| about_refused(&world, bare))
        {
            return Ok(told);
        }
        let known: Vec<String> = world.instances.keys().map(ToString::to_string).collect();
        let fault =
            Fault::new(Code::NoSuchInstance, format!("nothing that runs is called `{name}`"));
        let fault = if known.is_empty() {
            fault
        } else {
            fault.because(format!("there are: {}", known.join(", ")))
        };
        return Err(fault.next("seaworthy status"));
    };
    Ok(tell(platform, edge, id, one))
}

/// Servers that somebody else runs: what the edge has to do with each, and whether it leaves one out.
fn about_upstreams(world: &World, edge: &EdgeStatus, name: &str) -> Option<Explanation> {
    let (site, service) = name.split_once('/')?;
    let state = world.sites.get(&site.parse().ok()?)?;
    let description = state.applied.site.services.get(&service.parse().ok()?)?;
    let ServiceKind::Upstreams(urls) = &description.kind else { return None };
    let load = |url: &String| edge.instances.get(url);
    let word = |url: &String| match load(url) {
        None => "nothing was sent to it yet".to_owned(),
        Some(load) => load.out.as_ref().map_or_else(
            || format!("in rotation, {} answers, {} errors", load.answered, load.errors),
            |why| format!("left out: {why}"),
        ),
    };
    let out = urls.iter().filter(|url| load(url).is_some_and(|load| load.out.is_some())).count();
    Some(Explanation {
        v: VERSION,
        subject: format!("service {name}"),
        summary: format!("{} servers that somebody else runs, {out} of them left out", urls.len()),
        facts: urls.iter().map(|url| (url.clone(), word(url))).collect(),
        evidence: Vec::new(),
        next: vec!["seaworthy status".to_owned()],
    })
}

/// `site/outgoing.X`: how the calls to somebody else's server are.
fn about_calls(edge: &EdgeStatus, name: &str) -> Option<Explanation> {
    let one = edge.outgoing.iter().find(|one| outgoing::label(&one.site, &one.name) == name)?;
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    let summary = match (one.open_for, one.paused_for) {
        (Some(left), _) => format!("its circuit breaker is open for {}", seconds(left)),
        (None, Some(left)) => {
            format!("it asked to be left alone (`Retry-After`) for {} more", seconds(left))
        }
        (None, None) => format!("{} calls under way, {} wait", one.active, one.waiting),
    };
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut facts = vec![
        fact("to", one.to.clone()),
        fact("calls", one.calls.to_string()),
        fact("errors", one.errors.to_string()),
        fact("further tries", one.retries.to_string()),
        fact("refused here", one.refused.to_string()),
        fact("under way", one.active.to_string()),
        fact("waiting", one.waiting.to_string()),
    ];
    facts.extend(one.last_error.clone().map(|why| fact("last error", why)));
    let subject = format!("outgoing {name}");
    let next = vec![format!("seaworthy logs {} --access --since 15m", one.site)];
    Some(Explanation { v: VERSION, subject, summary, facts, evidence: Vec::new(), next })
}

/// Something that has no instance because its site is at fault: the site's story.
fn about_refused(world: &World, name: &str) -> Option<Explanation> {
    let site = name.split('/').next().and_then(|site| site.parse().ok())?;
    let fault = world.site_faults(&site).pop()?;
    let (state, release) = world.sites.get(&site).map_or(("never started", None), |site| {
        (if site.running { "running" } else { "stopped" }, Some(site.applied.release.to_string()))
    });
    let mut facts = vec![("state".to_owned(), state.to_owned())];
    facts.extend(release.map(|release| ("release".to_owned(), release)));
    facts.push(("code".to_owned(), fault.code.to_string()));
    let summary = [vec![fault.what], fault.causes].concat().join(": ");
    let subject = format!("site {site}");
    Some(Explanation {
        v: VERSION,
        subject,
        summary,
        facts,
        evidence: fault.evidence,
        next: fault.next,
    })
}

fn tell(
    platform: &Arc<Platform>,
    edge: &EdgeStatus,
    id: &InstanceId,
    one: &Instance,
) -> Explanation {
    let mut facts = vec![
        ("state".to_owned(), state_word(one).to_owned()),
        ("release".to_owned(), one.release.to_string()),
    ];
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| (name.to_owned(), value)))
    };
    let status = one.status.as_ref();
    fact("pid", status.and_then(|status| status.pid).map(|pid| pid.to_string()));
    fact("listens on", status.map(listens_on).filter(|places| !places.is_empty()));
    fact("started", status.and_then(|status| status.started).map(|at| at.to_string()));
    fact("restarts", status.map(|status| status.restarts.to_string()));
    fact(
        "last end",
        status
            .and_then(|status| status.last_exit.as_ref())
            .map(|exit| format!("{} ({} after {} ms)", exit_words(exit), exit.at, exit.ran_ms)),
    );
    fact(
        "memory",
        status.and_then(|status| status.memory).map(|bytes| ByteSize(bytes).rounded().to_string()),
    );
    let (left_out, breakers) = at_the_edge(edge, id);
    fact("left out", left_out.clone());
    fact("circuit breaker", breakers);
    let fault = status.and_then(|status| status.fault.clone());
    fact("code", fault.as_ref().map(|fault| fault.code.to_string()));
    let summary = match &fault {
        Some(fault) => [vec![fault.what.clone()], fault.causes.clone()].concat().join(": "),
        None if one.is_ready() => left_out.as_ref().map_or_else(
            || "it is ready and in rotation".to_owned(),
            |why| format!("it is ready, but the edge leaves it out: {why}"),
        ),
        None => format!("it is {}", state_word(one)),
    };
    let mut evidence = fault.as_ref().map(|fault| fault.evidence.clone()).unwrap_or_default();
    if evidence.is_empty() {
        evidence = last_lines(&platform.layout.instance_log(id));
    }
    let mut next = fault.map(|fault| fault.next).unwrap_or_default();
    if next.is_empty() {
        next.push(format!("seaworthy logs {} --service {} --follow", id.site, id.service));
    }
    Explanation { v: VERSION, subject: format!("instance {id}"), summary, facts, evidence, next }
}

/// Where an instance can be reached.
fn listens_on(status: &Status) -> String {
    let socket = status.socket.iter().map(|path| format!("unix:{}", path.display()));
    let all = status.listening.values().map(ToString::to_string).chain(socket);
    all.collect::<Vec<_>>().join(", ")
}

/// Why the edge sends nothing to an instance, and how the circuit breakers of its service are.
fn at_the_edge(edge: &EdgeStatus, id: &InstanceId) -> (Option<String>, Option<String>) {
    let why = edge.instances.get(&id.to_string()).and_then(|load| load.out.clone());
    let service = format!("{}/{}", id.site, id.service);
    let named = format!("{service}:");
    let mine = edge
        .breakers
        .iter()
        .filter(|breaker| breaker.service == service || breaker.service.starts_with(&named));
    let words: Vec<String> = mine
        .filter(|breaker| breaker.trips > 0)
        .map(|breaker| {
            let now = match breaker.opens_in {
                None => "closed now".to_owned(),
                Some(0) => "trying now".to_owned(),
                Some(left) => format!("open for {} s more", left.div_ceil(1000)),
            };
            format!("opened {} times, {now}", breaker.trips)
        })
        .collect();
    (why, (!words.is_empty()).then(|| words.join("; ")))
}

fn last_lines(log: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8 << 10)))?;
        let mut tail = Vec::new();
        file.take(8 << 10).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
