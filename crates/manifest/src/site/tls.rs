//! How a site's certificates come about, and what is demanded of handshakes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Command, EnvValue};

/// How the site's certificates come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Tls {
    /// Our own certificate authority, for laptops and tests.
    Internal,
    /// Certificate and key from files (PEM), absolute or inside the project.
    Files {
        /// The chain, leaf first.
        cert: String,
        /// The private key.
        key: String,
    },
    /// A public authority (RFC 8555).
    Acme(Box<Acme>),
    /// No TLS here: another terminator stands in front.
    Off,
}

/// `tls.acme`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acme {
    /// Where the authority writes to.
    pub email: Option<String>,
    /// URLs of directories, in order.
    pub directories: Vec<String>,
    /// `http-01`, `tls-alpn-01` or `dns-01`.
    pub challenge: String,
    /// Who writes TXT records.
    pub dns: Option<Dns>,
    /// How long a record may take to be seen.
    pub wait: Duration,
    /// The authority's profile.
    pub profile: Option<String>,
    /// Key id and key of an account that exists with the authority.
    pub eab: Option<(String, EnvValue)>,
    /// File with roots.
    pub ca: Option<String>,
    /// Name servers to ask.
    pub resolvers: Vec<SocketAddr>,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            email: None,
            directories: vec!["https://acme-v02.api.letsencrypt.org/directory".to_owned()],
            challenge: "http-01".to_owned(),
            dns: None,
            wait: Duration::from_secs(120),
            profile: None,
            eab: None,
            ca: None,
            resolvers: Vec::new(),
        }
    }
}

/// Who writes TXT records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dns {
    /// Dynamic updates (RFC 2136).
    Rfc2136 {
        /// `host:port`.
        server: String,
        /// The zone.
        zone: Option<String>,
        /// Name and value of the TSIG key.
        key: Option<(String, EnvValue)>,
        /// `hmac-sha256` and the like.
        algorithm: String,
    },
    /// Amazon Route 53.
    Route53 {
        /// Access key.
        key: EnvValue,
        /// Secret key.
        secret: EnvValue,
        /// Id of the hosted zone.
        zone: Option<String>,
        /// For signatures.
        region: String,
        /// Where the API is.
        endpoint: String,
    },
    /// A program.
    Exec {
        /// It, to which `present NAME. VALUE` is added.
        command: Command,
        /// Its environment, beyond the usual names.
        env: BTreeMap<String, EnvValue>,
    },
}

impl Acme {
    /// The secrets that it names.
    pub fn secret_names(&self) -> Vec<String> {
        let mut values: Vec<&EnvValue> = self.eab.iter().map(|(_, key)| key).collect();
        match &self.dns {
            Some(Dns::Rfc2136 { key, .. }) => values.extend(key.iter().map(|(_, secret)| secret)),
            Some(Dns::Route53 { key, secret, .. }) => values.extend([key, secret]),
            Some(Dns::Exec { env, .. }) => values.extend(env.values()),
            None => {}
        }
        let names = values.into_iter().filter_map(|value| match value {
            EnvValue::Secret(name) => Some(name.clone()),
            EnvValue::Text(_) => None,
        });
        names.collect()
    }
}

/// What is demanded of handshakes, whatever the certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handshake {
    /// TLS 1.3 only.
    pub only_13: bool,
    /// Certificates that clients show.
    pub clients: Option<Clients>,
}

/// `tls.clients`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// File with the authorities (PEM).
    pub ca: String,
    /// Refuse whoever shows none.
    pub require: bool,
}
