//! What control gives a worker and what comes back: one job, events, and answers to some of them.
//!
//! Why answers: a worker may not run programs, write files or reach the edge. Whatever has to be done here it
//! asks control for, and waits. Invariant: what must survive a crash (an account, an order with its key) is
//! handed over and acknowledged before the step that makes it matter.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use seaworthy_base::challenge::Shown;
use seaworthy_base::{Fault, Timestamp};
use serde::{Deserialize, Serialize};

/// How it is proven that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Challenge {
    /// A file over plain HTTP, port 80 (RFC 8555 § 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate in a handshake, port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record (RFC 8555 § 8.4); the only one for `*.name`.
    #[serde(rename = "dns-01")]
    Dns01,
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        })
    }
}

/// An authority's entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its URL.
    pub url: String,
    /// Binding to an account that exists with the authority: key id and key (base64url).
    pub eab: Option<(String, String)>,
}

/// Who writes TXT records.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dns {
    /// Dynamic updates (RFC 2136), signed (RFC 8945).
    Rfc2136 {
        /// The primary server, `host:port`.
        server: String,
        /// The zone; found by asking for its SOA when absent.
        zone: Option<String>,
        /// Name of the key; unsigned without.
        key: Option<String>,
        /// The key, base64.
        secret: Option<String>,
        /// `hmac-sha256`, `hmac-sha384` or `hmac-sha512`.
        algorithm: String,
    },
    /// Amazon Route 53.
    Route53 {
        /// Access key and secret key.
        credentials: (String, String),
        /// The hosted zone; found by name when absent.
        zone_id: Option<String>,
        /// For signatures.
        region: String,
        /// Where the API is.
        endpoint: String,
    },
    /// A program that control runs, called as lego's `exec` provider calls it.
    Hook,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rfc2136 { .. } => "Rfc2136",
            Self::Route53 { .. } => "Route53",
            Self::Hook => "Hook",
        })
    }
}

/// An order that was begun, with the key that its certificate will be for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The directory it was begun with.
    pub directory: String,
    /// The order.
    pub url: String,
    /// The names.
    pub hosts: Vec<String>,
    /// The private key (PEM).
    pub key_pem: String,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({})", self.url)
    }
}

/// A certificate that was issued.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// By whom.
    pub directory: String,
    /// Its names.
    pub hosts: Vec<String>,
    /// Chain (PEM), leaf first.
    pub chain_pem: String,
    /// Private key (PEM).
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({:?} by {})", self.hosts, self.directory)
    }
}

/// When an authority suggests that a certificate be renewed (RFC 9773).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From here.
    pub start: Timestamp,
    /// To here.
    pub end: Timestamp,
    /// When to ask again.
    pub ask_again: Timestamp,
    /// A page of the authority that says why, for people; what [`is_link`](crate::is_link) refuses is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A certificate.
    Obtain,
    /// Everything but the certificate: the names are proven, the order is left unfinished.
    Rehearse,
    /// When the certificate should be renewed.
    AskWindow {
        /// By whom it was issued.
        directory: String,
        /// Chain (PEM).
        chain_pem: String,
    },
}

/// Where visitors come in, for looking at it before an authority does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Ports of plain HTTP.
    pub http: Vec<u16>,
    /// Ports of TLS.
    pub https: Vec<u16>,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The site.
    pub site: String,
    /// The names; `*.x` allowed with dns-01.
    pub hosts: Vec<String>,
    /// What to do.
    pub action: Action,
    /// Whom to ask, in this order.
    pub directories: Vec<Directory>,
    /// For the authority's mails.
    pub email: Option<String>,
    /// The authority's profile.
    pub profile: Option<String>,
    /// How names are proven.
    pub challenge: Challenge,
    /// Who writes TXT records.
    pub dns: Option<Dns>,
    /// How long a TXT record may take to be seen everywhere.
    pub wait_ms: u64,
    /// Certificates (PEM) that are trusted besides the system's.
    pub roots_pem: Option<String>,
    /// Servers that names are asked of; the system's when empty.
    pub resolvers: Vec<SocketAddr>,
    /// Accounts, by directory.
    pub accounts: BTreeMap<String, serde_json::Value>,
    /// An order that an earlier worker did not finish.
    pub pending: Option<Pending>,
    /// Chain (PEM) of the certificate that this one follows, and who issued it.
    pub replaces: Option<(String, String)>,
    /// Where visitors come in.
    pub ways: Ways,
    /// User and group to become.
    pub user: Option<(u32, u32)>,
}

/// An authority that did not issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which.
    pub directory: String,
    /// Why.
    pub fault: Fault,
    /// Not to be asked again before.
    pub not_before: Option<Timestamp>,
}

/// What a worker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A step begins.
    Step {
        /// Which.
        text: String,
    },
    /// Something that is not right and does not hold up.
    Warning {
        /// What.
        fault: Fault,
    },
    /// An account was made: to be kept. Answered.
    Account {
        /// The directory.
        directory: String,
        /// Its credentials.
        credentials: serde_json::Value,
    },
    /// These challenges are to be answered by the edge, and no others. Answered.
    Show {
        /// Which.
        challenges: Vec<Shown>,
    },
    /// A program is to write (`present`) or remove (`cleanup`) a TXT record. Answered.
    Hook {
        /// `present` or `cleanup`.
        verb: String,
        /// `_acme-challenge.name.`, with the dot.
        name: String,
        /// The record's value.
        value: String,
    },
    /// An order is about to be finished: to be kept. Answered.
    Pending {
        /// The order.
        order: Pending,
    },
    /// An authority did not issue; the next one is asked.
    Refused {
        /// Which, and why.
        refusal: Refusal,
    },
    /// Here is the certificate. Answered.
    Issued {
        /// It.
        certificate: Issued,
    },
    /// When to renew.
    Window {
        /// None: this authority does not say.
        window: Option<Window>,
    },
    /// The end: it was done.
    Done,
    /// The end: it was not.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// What control answers to an event that waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is so.
    Done,
    /// It is not.
    Failed {
        /// Why.
        fault: Fault,
    },
}
