//! What an authority is to find while it looks whether a name is ours.
//!
//! Worked out by whoever asks for a certificate, answered by the edge, and the same on both sides. Invariant: nothing
//! here prints a key.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A proof that a name is ours, as the edge is to answer it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// http-01: at `/.well-known/acme-challenge/<token>` on any host (RFC 8555 § 8.3).
    Http {
        /// The token.
        token: String,
        /// What is answered.
        answer: String,
    },
    /// tls-alpn-01: to a handshake for `acme-tls/1` (RFC 8737).
    TlsAlpn {
        /// The server name.
        host: String,
        /// The certificate (PEM).
        chain_pem: String,
        /// Its key (PEM).
        key_pem: String,
    },
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { token, .. } => write!(f, "Http({token})"),
            Self::TlsAlpn { host, .. } => write!(f, "TlsAlpn({host})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_other_versions_read_it_and_nobody_reads_a_key_in_a_log() {
        let [host, chain_pem, key_pem] = ["a.example", "chain", "secret"].map(str::to_owned);
        let shown = Shown::TlsAlpn { host, chain_pem, key_pem };
        let written = r#"{"tls_alpn":{"host":"a.example","chain_pem":"chain","key_pem":"secret"}}"#;
        assert_eq!(serde_json::to_string(&shown).unwrap(), written);
        assert_eq!(format!("{shown:?}"), "TlsAlpn(a.example)");
        let http: Shown = serde_json::from_str(r#"{"http":{"token":"t","answer":"a"}}"#).unwrap();
        assert_eq!(format!("{http:?}"), "Http(t)");
    }
}
