//! Words of `POST /v1/certificates` and `POST /v1/certificates/renew`.
//!
//! A renewal answers with one [`RenewProgress`] a line, the last one is [`RenewProgress::End`]. Keys never
//! travel here.

use seaworthy_base::{Fault, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::Asker;

/// Certificates of one site, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesRequest {
    /// The site.
    pub site: Option<String>,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesView {
    /// Version of this document.
    pub v: u32,
    /// By site and kind.
    pub certificates: Vec<CertificateView>,
}

/// One certificate as it is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// The site.
    pub site: String,
    /// The names it is served for.
    pub hosts: Vec<String>,
    /// `acme`, `internal` or `files`.
    pub source: String,
    /// `valid`, `due` (it is being renewed, or will be tried again), `expired`, `waiting` (the first one is not
    /// there yet; our own authority stands in).
    pub state: String,
    /// Who issued it.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Good from here.
    pub not_before: Timestamp,
    /// To here.
    pub not_after: Timestamp,
    /// When it is renewed, or tried again.
    pub next: Option<Timestamp>,
    /// A page where its authority says why it wants it renewed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// Tries that failed since the last success.
    pub failures: u32,
    /// What is wrong.
    pub fault: Option<Fault>,
}

/// Get a certificate now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The site; not needed when there is one only.
    pub site: Option<String>,
    /// Prove the names, and leave the order unfinished.
    pub dry_run: bool,
    /// Who asks.
    pub asker: Asker,
}

/// How it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewProgress {
    /// A step.
    Step {
        /// Which.
        text: String,
    },
    /// Something is not right and does not hold it up.
    Warning {
        /// What.
        fault: Fault,
    },
    /// It was not had.
    Failed {
        /// Why.
        fault: Fault,
    },
    /// It was had; it is served.
    Done {
        /// It.
        certificate: Box<CertificateView>,
    },
    /// The names can be proven; nothing was changed.
    Rehearsed,
    /// The end.
    End,
}
