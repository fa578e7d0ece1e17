//! From a site's `[tls]` to a worker's job: secrets resolved, files read, names of this server's ports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_acme::due;
use seaworthy_acme::{Action, Challenge, Directory, Dns, Job, Ways};
use seaworthy_base::{Code, Fault, ReleaseId, SiteName, Timestamp, format_duration};
use seaworthy_manifest::site::tls::{Acme, Dns as Written};
use seaworthy_manifest::site::{EnvValue, Site, Tls};
use seaworthy_runtime::model::User;

use crate::platform::Platform;
use crate::specs::Values;

/// The directory in which names are proven without cost, by the one that issues.
const REHEARSALS: [(&str, &str); 1] = [(
    "https://acme-v02.api.letsencrypt.org/directory",
    "https://acme-staging-v02.api.letsencrypt.org/directory",
)];

/// A site as it serves, with what its `[tls]` needs.
pub(super) struct Subject {
    pub site: Site,
    pub acme: Acme,
    pub release: ReleaseId,
    pub user: Option<User>,
    pub values: Values,
    project: PathBuf,
}

impl Subject {
    /// The site of that name.
    pub(super) fn find(platform: &Platform, name: &SiteName) -> Result<Self, Fault> {
        let world = platform.world();
        let state = world.sites.get(name).filter(|state| state.running).ok_or_else(|| {
            Fault::new(Code::NoSuchSite, format!("site `{name}` does not run"))
                .next("seaworthy status")
        })?;
        let serving = state.serving();
        let Tls::Acme(acme) = &serving.site.tls else {
            let what = format!("site `{name}` does not get its certificate from an authority");
            return Err(Fault::new(Code::NoCertificate, what).next("seaworthy cert list"));
        };
        Ok(Self {
            acme: (**acme).clone(),
            site: serving.site.clone(),
            release: serving.release,
            user: state.user.clone(),
            values: state.serving_values().clone(),
            project: state.project.clone(),
        })
    }

    pub(super) fn value(&self, value: &EnvValue) -> Result<String, Fault> {
        match value {
            EnvValue::Text(text) => Ok(text.clone()),
            EnvValue::Secret(name) => {
                self.values.get(name).map(|value| value.expose().clone()).ok_or_else(|| {
                    Fault::new(Code::SecretMissing, format!("secret `{name}` has no value"))
                        .because("`[tls]` needs it")
                        .next(format!("seaworthy secrets set {name}"))
                })
            }
        }
    }

    /// The job, for the directories that may be asked now.
    pub(super) async fn job(&self, platform: &Arc<Platform>, action: Action) -> Result<Job, Fault> {
        let acme = &self.acme;
        let kept = platform.certificates.get(&self.site.name);
        let eab = match &acme.eab {
            Some((kid, key)) => Some((kid.clone(), self.value(key)?)),
            None => None,
        };
        let all: Vec<&str> = acme.directories.iter().map(String::as_str).collect();
        let now = Timestamp::now();
        let urls = match action {
            Action::Rehearse => all.iter().take(1).map(|url| rehearsal(url)).collect(),
            _ => due::askable(&all, &kept.past, now),
        };
        if urls.is_empty() && action == Action::Obtain {
            return Err(patience(&kept.past, now));
        }
        let directories =
            urls.into_iter().map(|url| Directory { url: url.to_owned(), eab: eab.clone() });
        let replaced = kept.certificate.as_ref();
        Ok(Job {
            site: self.site.name.to_string(),
            hosts: self.site.public_names(),
            directories: directories.collect(),
            email: acme.email.clone(),
            profile: acme.profile.clone(),
            challenge: match acme.challenge.as_str() {
                "tls-alpn-01" => Challenge::TlsAlpn01,
                "dns-01" => Challenge::Dns01,
                _ => Challenge::Http01,
            },
            dns: acme.dns.as_ref().map(|dns| self.dns(dns)).transpose()?,
            wait_ms: acme.wait.as_millis() as u64,
            roots_pem: acme.ca.as_ref().map(|ca| roots(&self.project, ca)).transpose()?,
            resolvers: acme.resolvers.clone(),
            accounts: platform.certificates.accounts(acme.email.as_deref()),
            pending: if action == Action::Obtain { kept.pending } else { None },
            replaces: replaced.map(|one| (one.chain_pem.clone(), one.directory.clone())),
            ways: ways(platform).await,
            user: platform.worker_user.as_ref().map(|user| (user.uid, user.gid)),
            action,
        })
    }

    fn dns(&self, dns: &Written) -> Result<Dns, Fault> {
        Ok(match dns {
            Written::Rfc2136 { server, zone, key, algorithm } => Dns::Rfc2136 {
                server: server.clone(),
                zone: zone.clone(),
                key: key.as_ref().map(|(name, _)| name.clone()),
                secret: key.as_ref().map(|(_, secret)| self.value(secret)).transpose()?,
                algorithm: algorithm.clone(),
            },
            Written::Route53 { key, secret, zone, region, endpoint } => Dns::Route53 {
                credentials: (self.value(key)?, self.value(secret)?),
                zone_id: zone.clone(),
                region: region.clone(),
                endpoint: endpoint.clone(),
            },
            Written::Exec { .. } => Dns::Hook,
        })
    }
}

/// Each authority said when it may be asked again.
fn patience(past: &due::Past, now: Timestamp) -> Fault {
    let left = past.not_before.values().map(|until| until.since(now)).min().unwrap_or_default();
    let left = format_duration(Duration::from_secs(left.as_secs() / 60 * 60 + 60));
    Fault::new(Code::AuthorityRefused, "no authority may be asked for a certificate now")
        .because(format!("it asked for patience, for {left} more: rate limits, or no time for us"))
        .next("seaworthy cert list")
        .next("name another authority in `directories` of `acme` in `[tls]`")
}

fn rehearsal(url: &str) -> &str {
    let found = REHEARSALS.iter().find(|(real, _)| *real == url);
    found.map_or(url, |(_, staging)| staging)
}

fn roots(project: &Path, file: &str) -> Result<String, Fault> {
    std::fs::read_to_string(project.join(file)).map_err(|error| {
        let what = format!("could not read `{file}`, which `ca` of `[tls]` names");
        Fault::new(Code::FileMissing, what)
            .because(error.to_string())
            .next(format!("ls -l {}", project.join(file).display()))
    })
}

async fn ways(platform: &Arc<Platform>) -> Ways {
    let addresses: BTreeMap<_, _> = platform.edge.lock().await.addresses();
    let ports = |tls: bool| {
        let mut ports: Vec<u16> = addresses
            .iter()
            .filter(|(_, is)| **is == tls)
            .map(|(address, _)| address.port())
            .collect();
        ports.dedup();
        ports
    };
    Ways { http: ports(false), https: ports(true) }
}
