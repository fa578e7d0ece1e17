//! What is wrong with an instance, in words with evidence and the next command: a pure judgement.

use std::net::SocketAddr;

use seaworthy_base::{Code, Fault, InstanceId};

use crate::model::{ExitReason, ExitRecord, Ports, SocketRule};

/// What the shim knows when it judges.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) program: &'a str,
    pub(crate) last_end: Option<End<'a>>,
    pub(crate) running: bool,
    pub(crate) crash_loop: bool,
    pub(crate) restarts: u32,
    pub(crate) listening: &'a [SocketAddr],
    pub(crate) expected: Option<u16>,
    pub(crate) ports: &'a Ports,
    /// Whether its Unix socket takes connections.
    pub(crate) on_socket: bool,
    pub(crate) ready: bool,
    pub(crate) was_ready: bool,
    pub(crate) past_start: bool,
    pub(crate) probe_error: Option<&'a str>,
    pub(crate) memory_max: Option<u64>,
    pub(crate) log: Vec<String>,
}

/// How the program last ended, with what is left to show of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) exit: &'a ExitRecord,
    /// What we saw ourselves: a check's answer, memory, where a program was looked for.
    pub(crate) seen: &'a [String],
    /// Its last lines.
    pub(crate) words: &'a [String],
}

/// The worst that is wrong now; nothing when all is well.
pub(crate) fn judge(facts: &Facts<'_>) -> Option<Fault> {
    let mut fault = if facts.running { judge_running(facts)? } else { judge_ended(facts)? };
    if fault.evidence.is_empty() {
        fault.evidence.clone_from(&facts.log);
    }
    fault.next.push(format!("seaworthy logs {} --service {}", facts.id.site, facts.id.service));
    Some(fault)
}

/// The fault as lines of the instance's own log, where its last words stand already.
pub(crate) fn log_lines(fault: &Fault, id: &InstanceId, words: &[String]) -> Vec<String> {
    let mut lines = vec![format!("{} {}", fault.code, fault.what)];
    lines.extend(fault.causes.iter().map(|cause| format!("  caused by: {cause}")));
    let seen = fault.evidence.iter().filter(|line| !words.contains(line));
    lines.extend(seen.map(|line| format!("  | {line}")));
    let steps = fault.next.iter().filter(|step| !step.starts_with("seaworthy logs"));
    lines.extend(steps.map(|step| format!("  hint: {step}")));
    lines
        .push(format!("  hint: seaworthy explain instance {}/{}/{}", id.site, id.service, id.slot));
    lines
}

fn judge_ended(facts: &Facts<'_>) -> Option<Fault> {
    let End { exit, seen, words } = facts.last_end?;
    let name = format!("`{}`", facts.id);
    let fault = match &exit.reason {
        ExitReason::Asked => return None,
        ExitReason::CouldNotExec(what) => {
            let code = if ["the working folder", "the interpreter"]
                .iter()
                .any(|start| what.starts_with(start))
            {
                Code::FileMissing
            } else {
                Code::ProgramMissing
            };
            Fault::new(code, format!("{name} could not be started")).because(what.clone()).next(format!("check `run` of the service: is `{}` installed, executable and in PATH for its user?", facts.program))
        }
        ExitReason::OutOfMemory => {
            let limit =
                facts.memory_max.map_or(String::new(), |bytes| format!(" of {} MiB", bytes >> 20));
            Fault::new(Code::OutOfMemory, format!("{name} was ended: out of memory"))
                .because(format!("it used more than its limit{limit}"))
                .next("raise `memory` of the service in seaworthy.toml, or find what grows")
        }
        ExitReason::Hung => Fault::new(
            Code::Hung,
            format!("{name} was ended: it was alive but did not answer its liveness check"),
        )
        .because(seen.join(", "))
        .next("find what blocks it, or give it longer: `live` in `health` of the service"),
        ExitReason::Signal(signal) => {
            Fault::new(Code::Killed, format!("{name} was ended by {signal}"))
                .because("it crashed, or somebody sent it that signal")
        }
        ExitReason::Code(code) => {
            explain_code(Fault::new(Code::Exited, format!("{name} ended with code {code}")), words)
        }
    };
    let evidence = match exit.reason {
        ExitReason::CouldNotExec(_) => seen.to_vec(),
        ExitReason::Hung => [&[ran(exit)], words].concat(),
        _ => [seen, &[ran(exit)], words].concat(),
    };
    if !facts.crash_loop {
        return Some(Fault { evidence, ..fault });
    }
    let ends = facts.restarts + u32::from(!facts.running);
    let mut looped = Fault::new(
        Code::CrashLoop,
        format!("{name} is in a crash loop: it has ended {ends} times"),
    )
    .because(fault.what);
    looped.causes.extend(fault.causes);
    Some(Fault { next: fault.next, evidence, ..looped })
}

/// What the last lines of the log say about an end.
fn explain_code(fault: Fault, words: &[String]) -> Fault {
    let text = words.join("\n");
    let lower = text.to_ascii_lowercase();
    if let Some(name) = missing_variable(&text) {
        return fault.because(format!("the environment variable `{name}` is not set")).next(
            format!("add it: env = {{ {name} = \"…\" }} or secrets = [\"{name}\"] in the service"),
        );
    }
    if lower.contains("eaddrinuse") || lower.contains("address already in use") {
        return fault
            .because("the port that it wants is taken")
            .next("let it listen on $PORT, or say which port it insists on: port = 8000");
    }
    match words.last() {
        Some(line) => fault.because(format!("the last that it said: {line}")),
        None => fault.because("it said nothing"),
    }
}

fn ran(exit: &ExitRecord) -> String {
    let listened = if exit.listened { "" } else { " and never listened" };
    format!("it ran for {} ms{listened}", exit.ran_ms)
}

/// The name in a complaint about a missing variable, as the common languages write it.
fn missing_variable(log: &str) -> Option<String> {
    let is_name = |text: &str| {
        text.len() > 1
            && text
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let complaint = |line: &&str| {
        let lower = line.to_ascii_lowercase();
        lower.contains("keyerror")
            || (["environment variable", "env var", "missing", "not set", "required", "undefined"]
                .iter()
                .any(|word| lower.contains(word)))
    };
    log.lines().rev().filter(complaint).find_map(|line| {
        line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .find(|word| {
                is_name(word) && word.contains('_') || (line.contains("KeyError") && is_name(word))
            })
            .map(str::to_owned)
    })
}

fn judge_running(facts: &Facts<'_>) -> Option<Fault> {
    let name = format!("`{}`", facts.id);
    let expected = facts.expected;
    let on_port = |address: &&SocketAddr| expected.is_none_or(|port| address.port() == port);
    if let Some(open) =
        facts.listening.iter().find(|address| !address.ip().to_canonical().is_loopback())
    {
        return Some(
            Fault::new(
                Code::OtherAddress,
                format!("{name} listens on `{open}`: it can be reached past the edge"),
            )
            .because("it binds an address that others can reach instead of loopback only")
            .seen(format!("it listens on {}", shown(facts.listening)))
            .next("let it listen on 127.0.0.1 (often an option such as --host 127.0.0.1)"),
        );
    }
    if facts.ready {
        return None;
    }
    if let Ports::Socket(rule) = facts.ports
        && !facts.on_socket
        && (!facts.listening.is_empty() || facts.past_start)
    {
        return Some(not_on_its_socket(facts, rule));
    }
    let nowhere = facts.listening.is_empty() && !facts.on_socket;
    if !facts.listening.is_empty() && facts.listening.iter().find(on_port).is_none() {
        let wanted = expected.unwrap_or_default();
        let found = facts.listening.first().map_or(0, SocketAddr::port);
        return Some(
            Fault::new(
                Code::WrongPort,
                format!("{name} listens on the wrong port: {found} instead of {wanted}"),
            )
            .because("it does not listen where PORT says")
            .seen(format!("it was given PORT={wanted} and listens on {}", shown(facts.listening)))
            .next(format!("let it listen on $PORT, or say that it insists: port = {found}")),
        );
    }
    if nowhere && facts.past_start {
        let wanted = match facts.ports {
            Ports::Fixed(port) | Ports::Own(port) => format!("port {port}"),
            Ports::Environment(_) | Ports::Socket(_) => {
                format!("PORT={}", expected.unwrap_or_default())
            }
        };
        return Some(Fault::new(Code::NeverListened, format!("{name} runs but does not listen anywhere")).because(format!("it was given {wanted}")).next("check that `run` starts a server in the foreground that listens on 127.0.0.1:$PORT"));
    }
    // Until it is ready again, why it is being started again is what people want to know.
    let waits = !facts.was_ready && (facts.crash_loop || !facts.past_start);
    if let (Some(fault), true) = (judge_ended(facts), waits) {
        return Some(fault);
    }
    let error = facts.probe_error.filter(|_| facts.past_start && !nowhere)?;
    Some(
        Fault::new(Code::NotReady, format!("{name} is not ready"))
            .because(error.to_owned())
            .next("check `health` of the service, or what its health check depends on"),
    )
}

/// A program that was told to listen on a Unix socket and does not.
fn not_on_its_socket(facts: &Facts<'_>, rule: &SocketRule) -> Fault {
    let name = format!("`{}`", facts.id);
    let wanted = format!("it was given SOCKET={}", rule.path().display());
    let advice = "let it listen on $SOCKET, such as: --bind unix:$SOCKET";
    let Some(found) = facts.listening.first() else {
        return Fault::new(
            Code::NeverListened,
            format!("{name} runs but does not listen on its socket"),
        )
        .because(wanted)
        .next(advice);
    };
    Fault::new(
        Code::WrongPort,
        format!("{name} listens on the wrong place: {found} instead of its Unix socket"),
    )
    .because("it does not listen where SOCKET says")
    .seen(format!("{wanted} and listens on {}", shown(facts.listening)))
    .next(format!("{advice}; or leave out `socket` and let it listen on $PORT"))
}

fn shown(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An end in words.
pub(crate) fn reason(reason: &ExitReason) -> String {
    match reason {
        ExitReason::Code(code) => format!("it ended with code {code}"),
        ExitReason::Signal(signal) => format!("it was ended by {signal}"),
        ExitReason::OutOfMemory => "it was ended: out of memory".to_owned(),
        ExitReason::Hung => "it was restarted because it hung".to_owned(),
        ExitReason::CouldNotExec(what) => format!("it could not be executed: {what}"),
        ExitReason::Asked => "it was stopped as asked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_variable_is_named_from_the_log() {
        assert_eq!(
            missing_variable("Traceback\nKeyError: 'DATABASE_URL'").as_deref(),
            Some("DATABASE_URL")
        );
        assert_eq!(
            missing_variable("Error: Missing required environment variable SECRET_KEY").as_deref(),
            Some("SECRET_KEY")
        );
        assert_eq!(missing_variable("all is well"), None);
    }
}
