//! The keys of a service that is a program: how many run, under which limits, how they start and stop.
//!
//! Invariant: a number that was accepted here fits the type of the limit it becomes. Not here: the command
//! itself and `after`, which the caller reads, and whether the machine can grant the limits.

use toml::de::{DeTable, DeValue};

use super::health::read_health;
use crate::keys;
use crate::read::{Found, Reader, Value};
use crate::site::{Auto, Instances, LogRules, PortUse, Process, Restart, Stop};

pub(super) fn read_process(
    reader: &mut Reader<'_>,
    found: &Found<'_>,
    port: PortUse,
) -> Option<Process> {
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let (memory_max, memory_restart) =
        get("memory").map_or((None, None), |value| read_memory(reader, value));
    Some(Process {
        run: crate::site::Command::Argv(Vec::new()),
        instances: get("instances")
            .map_or(Instances::Fixed(1), |value| read_instances(reader, value)),
        port,
        health: read_health(reader, get("health")),
        after: Vec::new(),
        user: get("user").and_then(|value| reader.text(value)),
        memory_max,
        memory_restart,
        cpu_millis: get("cpu").and_then(|value| reader.cores(value)),
        nofile: get("nofile")
            .and_then(|value| reader.number(value, 16..=1 << 30))
            .map(|number| number as u64),
        restart: get("restart").map(|value| read_restart(reader, value)).unwrap_or_default(),
        stop: get("stop").map(|value| read_stop(reader, value)).unwrap_or_default(),
        logs: get("logs").map(|value| read_logs(reader, value)).unwrap_or_default(),
    })
}

fn read_instances(reader: &mut Reader<'_>, value: Value<'_>) -> Instances {
    match value.get_ref() {
        DeValue::String(text) if text == "cores" => Instances::Cores,
        DeValue::Table(table) => {
            read_auto(reader, value, table).map_or(Instances::Fixed(1), Instances::Auto)
        }
        _ => reader
            .number(value, 0..=1000)
            .map_or(Instances::Fixed(1), |count| Instances::Fixed(count as u16)),
    }
}

fn read_auto(reader: &mut Reader<'_>, value: Value<'_>, table: &DeTable<'_>) -> Option<Auto> {
    let found = reader.known(table, keys::AUTO, "`instances`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    let mut count = |key: &str| get(key).and_then(|value| reader.number(value, 1..=1000));
    let (min, max) = (count("min"), count("max"));
    let auto = Auto {
        min: min.unwrap_or(1) as u16,
        max: max.unwrap_or(0) as u16,
        cpu: get("cpu").and_then(|value| reader.share(value)),
        memory: get("memory").filter(|one| !is_share(one)).and_then(|one| reader.size(one)),
        memory_share: get("memory").filter(|one| is_share(one)).and_then(|one| reader.share(one)),
        rps: get("rps").and_then(|value| reader.number(value, 1..=1_000_000)).map(|one| one as u32),
    };
    let wrong = if !found.contains_key("max") {
        Some("`instances` has no `max`")
    } else if max.is_some_and(|max| min.is_some_and(|min| min > max)) {
        Some("`min` is more than `max`")
    } else if !["cpu", "memory", "rps"].iter().any(|key| found.contains_key(*key)) {
        Some("`instances` says how many, but not by what: `cpu`, `memory` or `rps`")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        let help = "instances = { min = 2, max = 8, cpu = \"70%\" }".to_owned();
        reader.problem(value.span(), wrong, Some(help));
        return None;
    }
    max.is_some().then_some(auto)
}

/// Whether it is written as a share.
fn is_share(value: Value<'_>) -> bool {
    value.get_ref().as_str().is_some_and(|text| text.trim_end().ends_with('%'))
}

fn read_memory(
    reader: &mut Reader<'_>,
    value: Value<'_>,
) -> (Option<seaworthy_base::ByteSize>, Option<seaworthy_base::ByteSize>) {
    let DeValue::Table(table) = value.get_ref() else { return (reader.size(value), None) };
    let keys = [
        keys::Key { name: "max", kind: keys::Kind::Size, doc: "" },
        keys::Key { name: "restart", kind: keys::Kind::Size, doc: "" },
    ];
    let found = reader.known(table, &keys, "`memory`");
    let mut size = |key: &str| found.get(key).and_then(|(_, value)| reader.size(value));
    let (max, restart) = (size("max"), size("restart"));
    if let (Some(max), Some(restart)) = (max, restart)
        && restart >= max
    {
        reader.problem(
            value.span(),
            "`restart` must be smaller than `max`: else the limit ends it first",
            None,
        );
    }
    (max, restart)
}

fn read_restart(reader: &mut Reader<'_>, value: Value<'_>) -> Restart {
    let mut restart = Restart::default();
    let Some(table) = reader.table(value) else { return restart };
    let found = reader.known(table, keys::RESTART, "`restart`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    for (key, into) in [
        ("backoff_min", &mut restart.backoff_min),
        ("backoff_max", &mut restart.backoff_max),
        ("within", &mut restart.within),
    ] {
        if let Some(duration) = get(key).and_then(|value| reader.duration(value)) {
            *into = duration;
        }
    }
    if let Some(crashes) = get("crashes").and_then(|value| reader.number(value, 1..=1000)) {
        restart.crashes = crashes as u32;
    }
    restart
}

fn read_stop(reader: &mut Reader<'_>, value: Value<'_>) -> Stop {
    let mut stop = Stop::default();
    let Some(table) = reader.table(value) else { return stop };
    let found = reader.known(table, keys::STOP, "`stop`");
    if let Some((_, value)) = found.get("signal")
        && let Some(signal) = reader.text(value)
    {
        let signal = signal.trim_start_matches("SIG").to_owned();
        if ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL"]
            .contains(&signal.as_str())
        {
            stop.signal = signal;
        } else {
            reader.problem(
                value.span(),
                "this is no signal to stop by: TERM, INT, QUIT, HUP, USR1, USR2, WINCH, KILL",
                None,
            );
        }
    }
    if let Some(grace) = found.get("grace").and_then(|(_, value)| reader.duration(value)) {
        stop.grace = grace;
    }
    stop
}

fn read_logs(reader: &mut Reader<'_>, value: Value<'_>) -> LogRules {
    let mut logs = LogRules::default();
    let Some(table) = reader.table(value) else { return logs };
    let found = reader.known(table, keys::LOGS, "`logs`");
    let get = |key: &str| found.get(key).map(|(_, value)| *value);
    if let Some(size) = get("max_size").and_then(|value| reader.size(value)) {
        logs.max_size = size;
    }
    if let Some(keep) = get("keep").and_then(|value| reader.number(value, 0..=10_000)) {
        logs.keep = keep as u32;
    }
    logs.days =
        get("days").and_then(|value| reader.number(value, 1..=3650)).map(|days| days as u32);
    logs
}
