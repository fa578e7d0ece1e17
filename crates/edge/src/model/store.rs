//! A Redis that edges of several servers count in, as control tells of it.
//!
//! Invariant: nothing here prints a password.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

/// How a Redis is reached; its addresses stand among the endpoints.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAt {
    /// `rediss`.
    pub tls: bool,
    /// Its name or address, for control that looks it up and for its certificate.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its Unix socket instead.
    pub socket: Option<PathBuf>,
    /// As whom.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<String>,
    /// Which of its databases.
    pub database: u32,
    /// The authorities (PEM) that may vouch for it, over TLS.
    pub roots_pem: Option<String>,
}

impl std::fmt::Debug for StoreAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreAt({}:{})", self.host, self.port)
    }
}

impl StoreAt {
    /// Reads `redis://user:password@host:port/database`, `rediss://…`, or with a path of a socket, its slashes encoded,
    /// in the host's place.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.trim().split_once("://")?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return None,
        };
        let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or(("", login)))
        {
            Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
            None => (String::new(), None),
        };
        let database = path.split(['?', '/']).next().unwrap_or_default();
        let database = if database.is_empty() { 0 } else { database.parse().ok()? };
        let of_all = Self {
            tls,
            user: Some(user).filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()),
            database,
            ..Self::default()
        };
        let whole = decoded(place)?;
        if whole.starts_with('/') {
            return (!tls).then(|| Self { socket: Some(whole.into()), ..of_all });
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (place, 6379),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        (!host.is_empty()).then_some(Self { host, port, ..of_all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_place_login_and_database_and_prints_no_password() {
        let at = StoreAt::parse("rediss://bob:s3cr%3At%2F%40@db.example.com:6380/2").unwrap();
        assert!(at.tls && at.host == "db.example.com" && at.port == 6380 && at.database == 2);
        assert_eq!((at.user.as_deref(), at.password.as_deref()), (Some("bob"), Some("s3cr:t/@")));
        assert!(!format!("{at:?}").contains("s3cr"));
        let at = StoreAt::parse("redis://:pw@%2Frun%2Fredis%2Fs/0").unwrap();
        assert_eq!((at.socket, at.user), (Some("/run/redis/s".into()), None));
        let at = StoreAt::parse("redis://[::1]").unwrap();
        assert_eq!((at.host.as_str(), at.port, at.password), ("::1", 6379, None));
        for bad in
            ["http://h", "redis://", "redis://h:x", "redis://h/one", "h:6379", "rediss://%2Fs"]
        {
            assert_eq!(StoreAt::parse(bad), None, "{bad}");
        }
    }
}
