//! From the manifest's service to the specification that a shim gets.
//!
//! Invariants: the hash covers everything that a change of must restart an instance (program, limits,
//! content of its folder, values of its secrets) and nothing else (not the number of instances, not the
//! release's id); it is keyed, so that it tells nothing about a secret to who reads the state.

use std::collections::BTreeMap;
use std::path::Path;

use seaworthy_api::Layout;
use seaworthy_base::{InstanceId, ReleaseId, SiteName};
use seaworthy_manifest::site::{
    self, Command, EnvValue, Instances, PortUse, Process, Service, ServiceKind,
};
use seaworthy_runtime::model::{Limits, Log, Ports, Probe, Restart, SocketRule, Spec, Stop, User};
use seaworthy_secrets::Secret;
use sha2::{Digest, Sha256};

use crate::commands;
use crate::release;

/// Values of secrets by name.
pub(crate) type Values = BTreeMap<String, Secret<String>>;

/// Names of all secrets that a service needs.
pub(crate) fn secret_names(service: &Service) -> Vec<String> {
    let given = service.secrets.iter().map(|used| used.name.clone());
    let in_env = service.env.values().filter_map(|value| match value {
        EnvValue::Secret(name) => Some(name.clone()),
        EnvValue::Text(_) => None,
    });
    given.chain(in_env).collect()
}

/// How many instances a program has on a machine with `cores` cores.
pub(crate) fn count(process: &Process, cores: u16) -> u16 {
    match process.instances {
        Instances::Fixed(count) => count,
        Instances::Cores => cores,
        Instances::Auto(auto) => auto.min,
    }
}

/// Where a service of a site stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The map.
    pub layout: &'a Layout,
    /// The site.
    pub site: &'a SiteName,
    /// The release it runs from.
    pub release: ReleaseId,
}

/// The environment of a service's build and migration: that of its start, in one.
pub(crate) fn environment(
    service: &Service,
    place: Place<'_>,
    values: &Values,
) -> Vec<(String, String)> {
    let mut all: BTreeMap<_, _> = plain_environment(service, place).into_iter().collect();
    all.extend(secret_environment(service, values));
    all.into_iter().collect()
}

/// What is not secret of it: nothing is inherited but what is named here.
fn plain_environment(service: &Service, place: Place<'_>) -> Vec<(String, String)> {
    let data = place.layout.data(place.site).display().to_string();
    let release_id = place.release.to_string();
    let mut all = BTreeMap::new();
    let fallback = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    all.insert("PATH".to_owned(), std::env::var("PATH").unwrap_or_else(|_| fallback.to_owned()));
    for name in ["LANG", "TZ"] {
        if let Ok(value) = std::env::var(name) {
            all.insert(name.to_owned(), value);
        }
    }
    all.insert("HOME".to_owned(), data.clone());
    all.insert("DATA".to_owned(), data.clone());
    all.insert("RELEASE".to_owned(), release_id.clone());
    let names = [("DATA", data.as_str()), ("RELEASE", release_id.as_str())];
    for (name, value) in &service.env {
        if let EnvValue::Text(text) = value {
            all.insert(name.clone(), commands::replace(text, &names));
        }
    }
    all.into_iter().collect()
}

/// Its secrets, apart: in them nothing is replaced, here or in the shim.
fn secret_environment(service: &Service, values: &Values) -> Vec<(String, String)> {
    let in_env = service.env.iter().filter_map(|(name, value)| match value {
        EnvValue::Secret(secret) => Some((name, secret)),
        EnvValue::Text(_) => None,
    });
    let given = service.secrets.iter().filter(|used| !used.as_file);
    let all = in_env.chain(given.map(|used| (&used.name, &used.name)));
    all.filter_map(|(name, secret)| Some((name.clone(), values.get(secret)?.expose().clone())))
        .collect()
}

/// The folder a service works in.
pub(crate) fn folder(service: &Service, place: Place<'_>) -> std::path::PathBuf {
    let release = place.layout.release(place.site, place.release);
    let dir = Path::new(&service.dir)
        .components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)));
    dir.fold(release, |path, part| path.join(part))
}

/// The hash of a service's specification.
pub(crate) fn hash(service: &Service, content: &str, values: &Values, key: &str) -> String {
    let mut plain = service.clone();
    if let ServiceKind::Process(process) = &mut plain.kind {
        process.instances = Instances::Fixed(0);
        process.after.clear();
    }
    let mut hash = Sha256::new();
    hash.update(key.as_bytes());
    hash.update(serde_json::to_vec(&plain).unwrap_or_default());
    hash.update(content.as_bytes());
    for name in secret_names(service) {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(values.get(&name).map_or("", |value| value.expose().as_str()).as_bytes());
        hash.update([0]);
    }
    release::hex(&hash.finalize()[..16])
}

/// Puts a specification together. Every part comes from another place, hence the arguments. `edge_group` is the edge's,
/// where the edge runs as a user of its own.
#[expect(
    clippy::too_many_arguments,
    reason = "a struct of the same seven would only be taken apart again"
)]
pub(crate) fn build(
    id: &InstanceId,
    service: &Service,
    process: &Process,
    place: Place<'_>,
    values: &Values,
    (user, edge_group): (Option<User>, Option<u32>),
    hash: String,
) -> Spec {
    let owner = user.as_ref().map(|user| (user.uid, user.gid));
    let data = place.layout.data(place.site).display().to_string();
    let release_id = place.release.to_string();
    let names = [("DATA", data.as_str()), ("RELEASE", release_id.as_str())];
    let files = service.secrets.iter().filter(|used| used.as_file);
    let secret_files = files
        .filter_map(|used| Some((used.name.clone(), values.get(&used.name)?.expose().clone())))
        .collect();
    Spec {
        id: id.clone(),
        argv: commands::argv(&process.run, &names),
        dir: folder(service, place),
        environment: plain_environment(service, place),
        secret_environment: secret_environment(service, values),
        secret_files,
        user,
        ports: match &process.port {
            PortUse::Environment(ports) => Ports::Environment(ports.clone()),
            PortUse::Fixed(port) => Ports::Fixed(*port),
            PortUse::Socket(name) => Ports::Socket(SocketRule {
                folder: place.layout.sockets_of(id),
                name: name.clone(),
                owner,
                group: edge_group,
            }),
        },
        ready: probe(&process.health.ready),
        live: probe(&process.health.live),
        limits: Limits {
            memory_max: process.memory_max.map(|size| size.0),
            memory_restart: process.memory_restart.map(|size| size.0),
            cpu_millis: process.cpu_millis,
            nofile: process.nofile,
            processes: None,
        },
        restart: Restart {
            backoff_min_ms: millis(process.restart.backoff_min),
            backoff_max_ms: millis(process.restart.backoff_max),
            crashes: process.restart.crashes,
            within_ms: millis(process.restart.within),
        },
        stop: Stop { signal: process.stop.signal.clone(), grace_ms: millis(process.stop.grace) },
        log: Log {
            path: place.layout.instance_log(id),
            max_size: process.logs.max_size.0,
            keep: process.logs.keep,
            days: process.logs.days,
        },
        run_dir: place.layout.instance(id),
        hash,
    }
}

/// The words of a command, for people.
pub(crate) fn shown(command: &Command) -> String {
    match command {
        Command::Argv(words) => words.join(" "),
        Command::Shell(line) => line.clone(),
    }
}

fn probe(probe: &site::Probe) -> Probe {
    Probe {
        path: probe.path.clone(),
        say: None,
        status: probe.status.clone(),
        json: probe.json.clone(),
        headers: probe.headers.clone(),
        every_ms: millis(probe.every),
        timeout_ms: millis(probe.timeout),
        failures: probe.failures,
        start_ms: millis(probe.start),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
