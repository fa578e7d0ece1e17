//! The servers of managed databases: which of them run, with which logins, and when.
//!
//! A server is an instance like any other (a shim owns it, control's death does not touch it), but it belongs to
//! no release: it is started before a deployment migrates, stays through all of them, and ends after the last
//! program of its site. Room: `logins`. Invariants: a data folder is used by one server at a time; a URL that was made stays,
//! port included, because applications know it; data is never removed. Not here: how a server is made ready,
//! which is the backup crate's `managed`.

mod logins;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_backup::managed::{self, ServerKind};
use seaworthy_base::{Code, Fault, InstanceId, ServiceName, SiteName};
use seaworthy_manifest::Site;
use seaworthy_manifest::site::backups::{Item, Source, server_name};
use seaworthy_manifest::site::{EnvValue, LogRules, Restart};
use seaworthy_runtime::model::{Limits, Log, Ports, Probe, Say, Spec, Stop, User};
use seaworthy_secrets::Secret;
use seaworthy_sys::files::create_private_dir;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::logins::{administrator, secret, urls};
use crate::instances::store_fault;
use crate::platform::Platform;
use crate::release::{Reporter, disk_fault, hex};
use crate::specs::Values;
use crate::users;

/// A server that was cut off may have much of its log to read again before it takes anybody in.
const START: Duration = Duration::from_secs(10 * 60);
/// A clean shutdown writes what is in memory to the disk.
const STOP: Duration = Duration::from_secs(120);
/// Where it is kept which servers there are.
const SETTING: &str = "databases";

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Server {
    /// What of the manifest it is for, such as `database.main`.
    item: String,
    kind: ServerKind,
    /// The secret with the application's URL.
    secret: String,
    /// Hash of its specification.
    pub hash: String,
    /// Whether it should run whatever its site's programs do.
    pub wanted: bool,
}

/// The servers of all sites, by the names they have among the services.
pub(crate) type Servers = BTreeMap<SiteName, BTreeMap<ServiceName, Server>>;

/// The servers that a manifest asks for; the hash is not known yet.
fn asked(site: &Site) -> BTreeMap<ServiceName, Server> {
    let each = site.backups.managed().filter_map(|(item, described)| {
        let (kind, secret) = described_by(described)?;
        let server =
            Server { item: item.to_owned(), kind, secret, hash: String::new(), wanted: true };
        Some((server_name(item)?, server))
    });
    each.collect()
}

fn described_by(item: &Item) -> Option<(ServerKind, String)> {
    let (kind, url) = match &item.source {
        Source::Postgres { url, .. } | Source::PostgresLog { url } => (ServerKind::Postgres, url),
        Source::Mysql { url, .. } => (ServerKind::Mariadb, url),
        Source::Redis { url } => (ServerKind::Redis, url),
        Source::Sqlite { .. } | Source::Files { .. } => return None,
    };
    match url {
        EnvValue::Secret(name) => Some((kind, name.clone())),
        EnvValue::Text(_) => None,
    }
}

fn folder(platform: &Platform, site: &SiteName, server: &Server) -> PathBuf {
    platform.layout.databases(site).join(&server.item)
}

/// Looks whether the programs are here; and, unless it is only a look, makes what is missing of the logins.
pub(crate) fn prepare(platform: &Platform, site: &Site, only_look: bool) -> Result<(), Fault> {
    for server in asked(site).values() {
        server.kind.check(&folder(platform, &site.name, server))?;
        if !only_look {
            logins::make(platform, &site.name, server)?;
        }
    }
    Ok(())
}

/// The URLs for a site's applications. One that is not made yet stands in a plan as what it will be.
pub(crate) fn values(platform: &Platform, site: &Site) -> Result<Values, Fault> {
    let each = asked(site).into_values().map(|server| {
        let url = secret(platform, &site.name, &server.secret)?;
        Ok((server.secret, url.unwrap_or_else(|| Secret::new("made at the deployment".to_owned()))))
    });
    each.collect()
}

/// The URL by which backups reach a managed server.
pub(crate) fn url_for_backups(
    platform: &Platform,
    site: &SiteName,
    item: &str,
    described: &Item,
) -> Result<String, Fault> {
    let (kind, own) = described_by(described)
        .ok_or_else(|| Fault::new(Code::Internal, format!("`{item}` has no server")))?;
    let server = item.strip_suffix(".log").unwrap_or(item);
    let name = if kind == ServerKind::Redis { own } else { administrator(server) };
    let url = secret(platform, site, &name)?.ok_or_else(|| {
        Fault::new(Code::SecretMissing, format!("`{item}` was never started"))
            .because(format!("its URL `{name}` is made at the first start"))
            .next("seaworthy up")
    })?;
    Ok(url.expose().clone())
}

/// Starts what a site asks for and does not run yet, and waits until all of it takes logins.
pub(crate) async fn start(
    platform: &Arc<Platform>,
    site: &Site,
    report: &Reporter,
) -> Result<(), Fault> {
    let mut all = asked(site);
    if all.is_empty() {
        return Ok(());
    }
    for server in all.values_mut() {
        server.hash = hash(platform, &site.name, server)?;
    }
    let names: BTreeSet<ServiceName> = all.keys().cloned().collect();
    platform.world().servers.entry(site.name.clone()).or_default().extend(all);
    record(platform)?;
    platform.changed();
    wait(platform, &site.name, &names, report).await
}

async fn wait(
    platform: &Arc<Platform>,
    site: &SiteName,
    names: &BTreeSet<ServiceName>,
    report: &Reporter,
) -> Result<(), Fault> {
    let (mut changes, mut said, begun) =
        (platform.changes.subscribe(), BTreeSet::new(), tokio::time::Instant::now());
    loop {
        let (waits, fault) = look(platform, site, names);
        let Some(first) = waits.first() else { return Ok(()) };
        for name in waits.iter().filter(|name| said.insert((*name).clone())) {
            report.step(format!("starting the server `{name}`"));
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        if begun.elapsed() > START {
            let what = format!("the server `{first}` is not ready after {} s", START.as_secs());
            return Err(Fault::new(Code::ServerFailed, what)
                .next(format!("seaworthy logs {site} --service {first}")));
        }
        tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.ok();
    }
}

/// Which servers are not ready, and why one never will be.
fn look(
    platform: &Arc<Platform>,
    site: &SiteName,
    names: &BTreeSet<ServiceName>,
) -> (Vec<ServiceName>, Option<Fault>) {
    let world = platform.world();
    let (mut waits, mut fault) = (Vec::new(), None);
    for name in names.iter().filter(|name| !world.serves(site, name)) {
        waits.push(name.clone());
        let own = world.instances.iter().filter(|(id, _)| &id.site == site && &id.service == name);
        let hopeless = own.filter_map(|(_, one)| one.status.as_ref()).find(|status| {
            // It says itself what is wrong with it, and starting it again does not mend that.
            status.crash_loop || status.restarts > 2
        });
        if let Some(status) = hopeless {
            let seen = status.fault.clone();
            let seen = seen.unwrap_or_else(|| Fault::new(Code::ServerFailed, "it ends at once"));
            let what = format!("the server `{name}` does not come up: {}", seen.what);
            fault = Some(Fault { code: Code::ServerFailed, what, ..seen });
        }
    }
    (waits, fault)
}

/// After a deployment or a `down`: the servers are those of what is applied; none of a site that does not run.
pub(crate) fn settle(platform: &Arc<Platform>, site: &SiteName) {
    {
        let mut world = platform.world();
        let running = world.sites.get(site).filter(|state| state.running);
        let kept = running.map(|state| asked(&state.applied.site)).unwrap_or_default();
        let Some(servers) = world.servers.get_mut(site) else { return };
        for (name, server) in servers {
            server.wanted = kept.contains_key(name);
        }
    }
    if let Err(fault) = record(platform) {
        crate::say(&fault.to_string());
    }
    platform.changed();
}

fn record(platform: &Platform) -> Result<(), Fault> {
    let text = serde_json::to_string(&platform.world().servers).unwrap_or_default();
    platform.store().put_setting(SETTING, &text).map_err(|error| store_fault(&error))
}

/// What an earlier control knew.
pub(crate) fn resume(platform: &Platform) {
    let text = platform.store().get_setting(SETTING).ok().flatten();
    platform.world().servers =
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
}

fn hash(platform: &Platform, site: &SiteName, server: &Server) -> Result<String, Fault> {
    let mut hash = Sha256::new();
    let folder = folder(platform, site, server).display().to_string();
    let [one, other] = urls(platform, site, server)?;
    for text in [&platform.spec_key, server.kind.word(), &folder, &one, &other] {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    Ok(hex(&hash.finalize()[..16]))
}

/// What the shim of a server is told.
pub(crate) fn spec(platform: &Platform, id: &InstanceId, server: &Server) -> Result<Spec, Fault> {
    let [own, boss] = urls(platform, &id.site, server)?;
    let port = managed::port_of(&own).ok_or_else(|| {
        Fault::new(Code::SecretMissing, format!("`{}` names no port", server.secret))
    })?;
    let user = user(platform, &id.site)?;
    let folder = folder(platform, &id.site, server);
    make_folder(platform, &id.site, &folder, user.as_ref())
        .map_err(|error| disk_fault(format!("could not make `{}`", folder.display()), &error))?;
    let words = ["database-server", server.kind.word(), &folder.display().to_string()];
    let program = platform.program.display().to_string();
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let (restart, logs) = (Restart::default(), LogRules::default());
    Ok(Spec {
        id: id.clone(),
        argv: std::iter::once(program).chain(words.map(str::to_owned)).collect(),
        dir: folder,
        environment: vec![("PATH".to_owned(), path)],
        secret_environment: vec![
            (managed::APPLICATION.to_owned(), own),
            (managed::ADMINISTRATOR.to_owned(), boss),
        ],
        secret_files: Vec::new(),
        user,
        ports: Ports::Own(port),
        ready: Probe {
            say: server.kind.greeting().map(|(words, answer)| Say { words, answer }),
            ..connects()
        },
        // One whose sessions are all taken is not dead.
        live: connects(),
        limits: Limits::default(),
        restart: seaworthy_runtime::model::Restart {
            backoff_min_ms: restart.backoff_min.as_millis() as u64,
            backoff_max_ms: restart.backoff_max.as_millis() as u64,
            crashes: restart.crashes,
            within_ms: restart.within.as_millis() as u64,
        },
        stop: Stop {
            signal: server.kind.stop_signal().to_owned(),
            grace_ms: STOP.as_millis() as u64,
        },
        log: Log {
            path: platform.layout.instance_log(id),
            max_size: logs.max_size.0,
            keep: logs.keep,
            days: logs.days,
        },
        run_dir: platform.layout.instance(id),
        hash: server.hash.clone(),
    })
}

fn connects() -> Probe {
    Probe {
        path: None,
        say: None,
        status: Vec::new(),
        json: BTreeMap::new(),
        headers: BTreeMap::new(),
        every_ms: 10_000,
        timeout_ms: 6_000,
        failures: 6,
        start_ms: START.as_millis() as u64,
    }
}

fn user(platform: &Platform, site: &SiteName) -> Result<Option<User>, Fault> {
    let name = users::site_user_name(site);
    platform.root.then(|| users::ensure(&name, &platform.layout.data(site))).transpose()
}

fn make_folder(
    platform: &Platform,
    site: &SiteName,
    folder: &std::path::Path,
    user: Option<&User>,
) -> std::io::Result<()> {
    let parent = platform.layout.databases(site);
    for place in parent.ancestors().take(2).collect::<Vec<_>>().into_iter().rev() {
        create_private_dir(place, 0o711)?;
    }
    create_private_dir(folder, 0o700)?;
    let Some(user) = user else { return Ok(()) };
    std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid))
}
