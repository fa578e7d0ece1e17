//! What only the edge's memory holds: certificates with their keys, secrets that routes name, challenges.
//!
//! Invariant: nothing here prints a key.

use std::collections::BTreeMap;

use seaworthy_base::challenge::Shown;
use serde::{Deserialize, Serialize};

use super::StoreAt;

/// Certificates and keys. Never logged, never written.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    /// Grows with each change.
    pub version: u64,
    /// Certificates; the last whose hosts match the server name is used, the first of all when none does.
    pub certificates: Vec<Certificate>,
    /// What every edge signs cookies with; one of its own where there is none.
    #[serde(default)]
    pub signing: Option<[u8; 16]>,
    /// Values of the secrets that routes name, by `site/NAME`.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Where edges of several servers count together, by `site/redis.X`.
    #[serde(default)]
    pub stores: BTreeMap<String, StoreAt>,
    /// What authorities are to find now.
    #[serde(default)]
    pub challenges: Vec<Shown>,
    /// Sites whose handshakes demand more than others.
    #[serde(default)]
    pub handshakes: Vec<Handshake>,
}

/// What is demanded of handshakes for these names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// Names, `*.x` allowed.
    pub hosts: Vec<String>,
    /// TLS 1.3 only.
    pub only_13: bool,
    /// Clients are asked for a certificate of these authorities (PEM).
    pub clients_pem: Option<String>,
    /// Who shows none is refused.
    pub require: bool,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys {{ version: {}, certificates: {} }}", self.version, self.certificates.len())
    }
}

/// One certificate with its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Certificate {
    /// Names it is for, `*.x` allowed.
    pub hosts: Vec<String>,
    /// Chain in PEM, leaf first.
    pub chain_pem: String,
    /// Private key in PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate {{ hosts: {:?}, .. }}", self.hosts)
    }
}
