//! URLs of databases, as applications write them.
//!
//! Own few lines because a database's URL is not a web address: hosts may be socket folders or lists, the
//! driver stands in the scheme (`postgresql+asyncpg://`), and parameters are whatever a library liked.
//! Invariant: no error shows the URL, it holds a password. Not here: which parameters an engine takes.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use seaworthy_base::{Code, Fault};

/// A URL taken apart, everything decoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct DatabaseUrl {
    /// Without the driver: `postgresql`.
    pub scheme: String,
    /// User.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Host, address or absolute socket folder.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// What follows the host's slash.
    pub database: Option<String>,
    /// Parameters.
    pub params: BTreeMap<String, String>,
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl DatabaseUrl {
    /// Where it points, without user and password.
    pub(crate) fn shown(&self) -> String {
        let host = self.host.as_deref().unwrap_or("localhost");
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        format!("{}://{host}{port}/{}", self.scheme, self.database.as_deref().unwrap_or_default())
    }
}

/// Takes a URL apart; `schemes` are those that are meant.
pub(crate) fn parse(text: &str, schemes: &[&str]) -> Result<DatabaseUrl, Fault> {
    let refuse = |why: &str| {
        let form = format!("{}://user:password@host:port/name", schemes.first().unwrap_or(&"url"));
        Fault::new(Code::BackupSource, "the database's URL cannot be used")
            .because(why)
            .next(format!("write it like {form}, with %-escapes for special characters"))
    };
    let (scheme, rest) = text.trim().split_once("://").ok_or_else(|| refuse("it has no `://`"))?;
    let scheme = scheme.split('+').next().unwrap_or(scheme).to_ascii_lowercase();
    if !schemes.contains(&scheme.as_str()) {
        return Err(refuse(&format!("it does not begin with {}", schemes.join(" or "))));
    }
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
        decoded.ok().filter(|text| !text.contains(['\0', '\n', '\r']))
    };
    let decode = |text: &str| decode(text).ok_or_else(|| refuse("a part of it is no text"));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may hold `/` and `@` unescaped: the last `@` before the query ends it.
    let (userinfo, hostpath) = match rest.rsplit_once('@') {
        Some((userinfo, hostpath)) => (Some(userinfo), hostpath),
        None => (None, rest),
    };
    let (authority, path) = hostpath.split_once('/').unwrap_or((hostpath, ""));
    let mut url = DatabaseUrl { scheme, ..DatabaseUrl::default() };
    if let Some(userinfo) = userinfo {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        url.user = Some(decode(user)?).filter(|user| !user.is_empty());
        url.password = password.map(decode).transpose()?.filter(|password| !password.is_empty());
    }
    let (host, port) = split_port(authority);
    url.host = Some(decode(host.trim_matches(['[', ']']))?).filter(|host| !host.is_empty());
    url.port = port.map(str::parse).transpose().map_err(|_| refuse("its port is no number"))?;
    url.database = Some(decode(path)?).filter(|name| !name.is_empty());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        url.params.insert(decode(name)?, decode(value)?);
    }
    Ok(url)
}

/// The port behind the last colon, unless that belongs to an IPv6 address or a list of hosts.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    if authority.contains(',') {
        return (authority, None);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && !port.is_empty() => (host, Some(port)),
        Some((host, "")) => (host, None),
        _ => (authority, None),
    }
}

/// Whether a name fits a pattern with `*` and `%` for any characters.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split(['*', '%']);
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_real_applications_are_understood() {
        let url = parse("postgresql+asyncpg://app:p%40ss/w@db.example.com:6543/shop?sslmode=require&schema=public", &["postgres", "postgresql"]).unwrap();
        assert_eq!(url.scheme, "postgresql");
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("app"), Some("p@ss/w")));
        assert_eq!((url.host.as_deref(), url.port), (Some("db.example.com"), Some(6543)));
        assert_eq!(url.database.as_deref(), Some("shop"));
        assert_eq!(url.params["schema"], "public");
        let socket = parse("postgres:///shop?host=/run/postgresql", &["postgres"]).unwrap();
        assert_eq!((socket.host, socket.params["host"].as_str()), (None, "/run/postgresql"));
        let six = parse("redis://[::1]:6380/2", &["redis"]).unwrap();
        assert_eq!((six.host.as_deref(), six.port), (Some("::1"), Some(6380)));
        let encoded = parse("postgresql://%2Frun%2Fpg/x", &["postgresql"]).unwrap();
        assert_eq!(encoded.host.as_deref(), Some("/run/pg"));
    }

    #[test]
    fn no_error_shows_the_password() {
        for bad in [
            "app:hunter2@host/x",
            "http://app:hunter2@h/x",
            "postgres://a:hunter2@h:port/x",
            "postgres://a:hunter2%00@h/x",
        ] {
            let fault = parse(bad, &["postgres"]).unwrap_err();
            assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
        }
        let url = parse("postgres://a:hunter2@h/x", &["postgres"]).unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    #[test]
    fn patterns_choose_databases() {
        assert!(fits("finiaDB_%", "finiaDB_17") && fits("*", "x") && fits("a*b*c", "a--b-c"));
        assert!(!fits("finiaDB_%", "other") && !fits("shop", "shop2") && !fits("a*b*c", "acb"));
        assert!(!fits("ab*ba", "aba"));
    }
}
