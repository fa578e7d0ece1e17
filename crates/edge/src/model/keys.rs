//! What only the edge's memory holds: certificates with their keys, secrets that routes name, challenges.
//!
//! Invariant: nothing here prints a key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StoreAt;

/// Certificates and keys. Never logged, never written.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    /// Grows with each change.
    pub version: u64,
    /// Certificates; the first whose hosts match the server name is used, the first of all when none does.
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
    pub challenges: Vec<Challenge>,
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

/// Proof that a name is ours, while an authority looks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Challenge {
    /// http-01: `/.well-known/acme-challenge/<token>` on any host (RFC 8555 § 8.3).
    Http {
        /// The token.
        token: String,
        /// What is answered.
        answer: String,
    },
    /// tls-alpn-01: a handshake for `acme-tls/1` (RFC 8737).
    TlsAlpn {
        /// The server name.
        host: String,
        /// Certificate in PEM.
        chain_pem: String,
        /// Private key in PEM.
        key_pem: String,
    },
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys {{ version: {}, certificates: {} }}", self.version, self.certificates.len())
    }
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http { token, .. } => write!(f, "Http({token})"),
            Self::TlsAlpn { host, .. } => write!(f, "TlsAlpn({host})"),
        }
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
