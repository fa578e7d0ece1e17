//! From a manifest's item to a worker's job: secrets resolved, paths found, stores named.
//!
//! Invariant: a job asks for the secrets of its own item and stores only. A path that is `shared` is found
//! where it outlives releases, any other in the project's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use seaworthy_backup::{Action, Folders, Item, Job, Rules, RunAs, Source, StoreAt, StorePlace};
use seaworthy_base::{Code, Fault};
use seaworthy_manifest::Site;
use seaworthy_manifest::site::EnvValue;
use seaworthy_manifest::site::backups::{self, Place};
use seaworthy_secrets::Secret;

use crate::databases;
use crate::platform::Platform;
use crate::site_secrets;
use crate::users;

/// The names that are meant: those given, else all with a `backup` (or simply all, for looking).
pub(super) fn items(
    site: &Site,
    given: &[String],
    only_declared: bool,
) -> Result<Vec<String>, Fault> {
    let all = &site.backups.items;
    if let Some(unknown) = given.iter().find(|name| !all.contains_key(*name)) {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        let fault = Fault::new(
            Code::NoSuchBackup,
            format!("site `{}` has nothing called `{unknown}` to back up", site.name),
        );
        return Err(if known.is_empty() {
            fault.next("add [database.main] or [files.uploads] to seaworthy.toml")
        } else {
            fault.because(format!("there are: {}", known.join(", ")))
        });
    }
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let chosen: Vec<String> = all
        .iter()
        .filter(|(_, item)| !only_declared || item.backup.is_some())
        .map(|(name, _)| name.clone())
        .collect();
    if chosen.is_empty() {
        return Err(Fault::new(Code::NoSuchBackup, format!("site `{}` declares nothing to back up", site.name))
            .next("add to seaworthy.toml, for example: [database.main]  url = \"secret:DATABASE_URL\"  backup = { at = \"02:00\" }"));
    }
    Ok(chosen)
}

/// The job for one item.
pub(super) fn job(
    platform: &Platform,
    project: &Path,
    site: &Site,
    item: &str,
    action: Action,
) -> Result<Job, Fault> {
    let described = site
        .backups
        .items
        .get(item)
        .ok_or_else(|| Fault::new(Code::NoSuchBackup, format!("there is no `{item}`")))?;
    let rules = described.backup.clone().unwrap_or_default();
    let named: Vec<(&String, Option<&backups::Store>)> =
        rules.to.iter().map(|name| (name, site.backups.stores.get(name))).collect();
    let mut wanted = Vec::new();
    let url = match &described.source {
        backups::Source::Postgres { url, .. }
        | backups::Source::Mysql { url, .. }
        | backups::Source::PostgresLog { url }
        | backups::Source::Redis { url } => Some(url),
        _ => None,
    };
    let of_stores = named
        .iter()
        .filter_map(|(_, store)| *store)
        .flat_map(|store| [&store.key, &store.secret])
        .flatten();
    let url = url.filter(|_| !described.managed);
    for value in url.into_iter().chain(of_stores) {
        if let EnvValue::Secret(name) = value {
            wanted.push(name.clone());
        }
    }
    let values = resolve(platform, project, site, &wanted)?;
    let mut from = source(platform, project, site, &described.source, &values);
    if described.managed {
        let own = databases::url_for_backups(platform, &site.name, item, described)?;
        if let Source::Postgres { url, .. }
        | Source::PostgresLog { url }
        | Source::Mysql { url, .. }
        | Source::Redis { url } = &mut from
        {
            *url = own;
        }
    }
    let user = if platform.root {
        Some(users::ensure(&users::site_user_name(&site.name), &platform.layout.data(&site.name))?)
    } else {
        None
    };
    let mut owner: Vec<String> = named
        .iter()
        .filter_map(|(_, store)| *store)
        .flat_map(|store| store.encrypt.clone())
        .collect();
    if owner.is_empty() {
        owner = super::owner(platform);
    }
    owner.sort();
    owner.dedup();
    Ok(Job {
        site: site.name.to_string(),
        item: Item {
            name: item.to_owned(),
            rules: for_worker(&rules, &from),
            log: rules.pitr.map(|_| format!("{item}.log")),
            source: from,
        },
        stores: named
            .into_iter()
            .map(|(name, store)| store_at(platform, name, store, &values))
            .collect(),
        folders: Folders { state: platform.layout.backups(), run: platform.layout.run.join("b") },
        run_as: user.map(|user| RunAs { uid: user.uid, gid: user.gid, groups: user.groups }),
        owner,
        patient: true,
        stall_ms: None,
        action,
    })
}

/// A value that a person gave: `secret:NAME`, or as it stands.
pub(super) fn given(
    platform: &Platform,
    project: &Path,
    site: &Site,
    text: &str,
) -> Result<String, Fault> {
    let Some(name) = text.strip_prefix("secret:") else { return Ok(text.to_owned()) };
    let values = resolve(platform, project, site, &[name.to_owned()])?;
    Ok(values.get(name).map(|value| value.expose().clone()).unwrap_or_default())
}

type Values = BTreeMap<String, Secret<String>>;

fn resolve(
    platform: &Platform,
    project: &Path,
    site: &Site,
    names: &[String],
) -> Result<Values, Fault> {
    let resolved = site_secrets::look_up(platform, project, site, names);
    resolved.map(|resolved| resolved.values).map_err(|faults| {
        faults
            .into_iter()
            .next()
            .unwrap_or_else(|| Fault::new(Code::SecretMissing, "a secret is missing"))
    })
}

fn value(value: &EnvValue, values: &Values) -> String {
    match value {
        EnvValue::Text(text) => text.clone(),
        EnvValue::Secret(name) => {
            values.get(name).map(|value| value.expose().clone()).unwrap_or_default()
        }
    }
}

fn source(
    platform: &Platform,
    project: &Path,
    site: &Site,
    source: &backups::Source,
    values: &Values,
) -> Source {
    match source {
        backups::Source::Postgres { url, databases } => {
            Source::Postgres { url: value(url, values), databases: databases.clone() }
        }
        backups::Source::Mysql { url, databases } => {
            Source::Mysql { url: value(url, values), databases: databases.clone() }
        }
        backups::Source::Redis { url } => Source::Redis { url: value(url, values) },
        backups::Source::PostgresLog { url } => Source::PostgresLog { url: value(url, values) },
        backups::Source::Sqlite { path } => {
            Source::Sqlite { path: place(platform, project, site, path) }
        }
        backups::Source::Files { paths } => Source::Files {
            trees: paths
                .iter()
                .map(|path| {
                    (
                        path.trim_start_matches("$DATA/").trim_matches('/').to_owned(),
                        place(platform, project, site, path),
                    )
                })
                .collect(),
        },
    }
}

/// Where a path of the manifest is.
fn place(platform: &Platform, project: &Path, site: &Site, path: &str) -> PathBuf {
    let data = platform.layout.data(&site.name);
    if let Some(rest) = path.strip_prefix("$DATA") {
        return data.join(rest.trim_start_matches('/'));
    }
    let shared = data.join("shared").join(path);
    // An absolute path replaces what it is joined to.
    if shared.exists() { shared } else { project.join(path) }
}

fn for_worker(rules: &backups::Rules, source: &Source) -> Rules {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    Rules {
        keep: rules.keep,
        sql: rules.drill_sql.clone(),
        rpo_ms: rules.rpo.map(millis),
        rto_ms: rules.rto.map(millis),
        window_ms: match source {
            Source::PostgresLog { .. } => rules.pitr.map(|pitr| millis(pitr.keep)),
            _ => None,
        },
    }
}

fn store_at(
    platform: &Platform,
    name: &str,
    store: Option<&backups::Store>,
    values: &Values,
) -> StoreAt {
    let secret = |text: &Option<EnvValue>| text.as_ref().map(|text| value(text, values));
    let place = match store.map(|store| (&store.place, store)) {
        None => StorePlace::Folder { path: platform.layout.backups().join("store") },
        Some((Place::Folder(path), _)) => StorePlace::Folder { path: PathBuf::from(path) },
        Some((Place::S3 { bucket, prefix, endpoint, region }, store)) => StorePlace::S3 {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            endpoint: endpoint.clone(),
            region: region.clone(),
            key: secret(&store.key).zip(secret(&store.secret)),
        },
        Some((Place::Sftp { host, port, user, path, host_key }, store)) => StorePlace::Sftp {
            host: host.clone(),
            port: *port,
            user: user.clone(),
            path: path.clone(),
            key: secret(&store.key),
            host_key: host_key.clone(),
        },
    };
    StoreAt { name: name.to_owned(), place }
}
