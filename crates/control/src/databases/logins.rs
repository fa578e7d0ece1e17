//! Logins of managed databases: two URLs for each server, kept in the vault as any other secret.
//!
//! One is the application's, under the name that its manifest says; the other is the administrator's, by which
//! backups are made and restored. Invariant: neither leaves the vault but in a program's environment.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;
use rand::distr::{Alphanumeric, SampleString};
use seaworthy_backup::managed::{self, ServerKind};
use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_secrets::{Secret, SecretName};

use super::Server;
use crate::platform::Platform;

/// Ports of servers: below the kernel's ephemeral ports and above those that instances get.
const PORTS: std::ops::Range<u16> = 30_000..32_700;
/// Letters and digits of a password.
const PASSWORD: usize = 32;

/// The secret with the administrator's URL: `DATABASE_MAIN_ADMIN_URL`.
pub(super) fn administrator(item: &str) -> String {
    format!("{}_ADMIN_URL", item.to_ascii_uppercase().replace(['.', '-'], "_"))
}

pub(super) fn secret(
    platform: &Platform,
    site: &SiteName,
    name: &str,
) -> Result<Option<Secret<String>>, Fault> {
    let name: SecretName = name
        .parse()
        .map_err(|_| Fault::new(Code::SecretMissing, format!("`{name}` is no name of a secret")))?;
    platform.vault.get(site, &name).map_err(|error| {
        Fault::new(Code::SecretMissing, format!("the secret `{name}` cannot be read"))
            .because_of(&error)
    })
}

/// Makes those that are missing. What was made stays, port included: applications know it.
pub(super) fn make(platform: &Platform, site: &SiteName, server: &Server) -> Result<(), Fault> {
    let boss = administrator(&server.item);
    let (old, old_boss) = (secret(platform, site, &server.secret)?, secret(platform, site, &boss)?);
    let known =
        |url: &Option<Secret<String>>| url.as_ref().and_then(|url| managed::port_of(url.expose()));
    let port = known(&old).or_else(|| known(&old_boss)).or_else(free_port).ok_or_else(|| {
        Fault::new(Code::ServerFailed, "no port is free for a managed database")
            .because(format!("between {} and {} all are taken", PORTS.start, PORTS.end))
    })?;
    let name = site.as_str().replace('-', "_");
    let redis = server.kind == ServerKind::Redis;
    let user = if redis { "default" } else { &name };
    let missing = [
        (&server.secret, user, old.is_none()),
        (&boss, managed::ADMINISTRATOR_NAME, old_boss.is_none() && !redis),
    ];
    for (secret, user, _) in missing.into_iter().filter(|(.., missing)| *missing) {
        let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD);
        let url = Secret::new(server.kind.url(user, &password, port, &name));
        let secret: SecretName = secret.parse().map_err(|_| {
            Fault::new(Code::SecretMissing, format!("`{secret}` is no name of a secret"))
        })?;
        platform.vault.set(site, &secret, &url).map_err(|error| {
            Fault::new(Code::StateUnwritable, "the URL of a managed database could not be kept")
                .because_of(&error)
        })?;
    }
    Ok(())
}

fn free_port() -> Option<u16> {
    let mut random = rand::rng();
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..500).map(|_| random.random_range(PORTS)).find(free)
}

/// Both URLs of a server: the application's, the administrator's.
pub(super) fn urls(
    platform: &Platform,
    site: &SiteName,
    server: &Server,
) -> Result<[String; 2], Fault> {
    let missing = || {
        let what = format!("the URL of `{}` is gone", server.item);
        Fault::new(Code::SecretMissing, what).next("seaworthy deploy makes a new one")
    };
    let own = secret(platform, site, &server.secret)?.ok_or_else(missing)?.expose().clone();
    if server.kind == ServerKind::Redis {
        return Ok([own.clone(), own]);
    }
    let boss = secret(platform, site, &administrator(&server.item))?.ok_or_else(missing)?;
    Ok([own, boss.expose().clone()])
}
