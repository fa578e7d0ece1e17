//! What stands in a certificate: names, life, issuer, and whether its key belongs to it.
//!
//! Not here: whether anybody trusts it.

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use seaworthy_base::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::due::Held;

/// What is shown of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Names and life.
    pub held: Held,
    /// Who issued it: common name or organisation.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Nobody else stands behind it.
    pub self_signed: bool,
}

/// Reads the leaf of a chain (PEM).
pub fn read(chain_pem: &str) -> Result<Facts, String> {
    let der = leaf(chain_pem)?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| format!("it cannot be read: {error}"))?;
    let millis = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0) * 1000);
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().ok().flatten();
    let hosts = names.map(|names| {
        let each = names.value.general_names.iter();
        each.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .collect()
    });
    let issuer = certificate.issuer();
    let first = issuer.iter_organization().next().or_else(|| issuer.iter_common_name().next());
    let common = issuer.iter_common_name().next().or(first);
    Ok(Facts {
        held: Held {
            hosts: hosts.unwrap_or_default(),
            not_before: millis(validity.not_before.timestamp()),
            not_after: millis(validity.not_after.timestamp()),
        },
        issuer: common.and_then(|name| name.as_str().ok()).unwrap_or("nobody").to_owned(),
        serial: certificate.raw_serial_as_string().replace(':', ""),
        self_signed: certificate.issuer() == certificate.subject(),
    })
}

/// The leaf as it is.
pub fn leaf(chain_pem: &str) -> Result<CertificateDer<'static>, String> {
    let mut chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes());
    match chain.next() {
        Some(Ok(der)) => Ok(der),
        Some(Err(error)) => Err(format!("it is no PEM: {error}")),
        None => Err("no certificate stands in it".to_owned()),
    }
}

/// Why chain and key (both PEM) cannot be used together; nothing when they can.
pub fn mismatch(chain_pem: &str, key_pem: &str) -> Option<String> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = match chain {
        Ok(chain) if chain.is_empty() => return Some("no certificate stands in it".to_owned()),
        Ok(chain) => chain,
        Err(error) => return Some(format!("the certificate is no PEM: {error}")),
    };
    let key = match PrivateKeyDer::from_pem_slice(key_pem.as_bytes()) {
        Ok(key) => key,
        Err(error) => return Some(format!("the key is no PEM: {error}")),
    };
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).err().map(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the key belongs to another certificate".to_owned(),
        error => error.to_string(),
    })
}

/// Whether a certificate's name stands for a host.
pub fn covers(name: &str, host: &str) -> bool {
    if name == host {
        return true;
    }
    let parent = host.split_once('.').map(|(_, parent)| parent);
    name.strip_prefix("*.").is_some_and(|wild| parent == Some(wild))
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(four).to_string());
    }
    let sixteen = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(sixteen).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_life_and_issuer_are_read_and_a_foreign_key_is_told() {
        let names = ["a.example".to_owned(), "*.b.example".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let facts = read(&made.cert.pem()).unwrap();
        assert_eq!(facts.held.hosts, names);
        assert!(facts.self_signed && facts.held.not_before < facts.held.not_after);
        let key = made.signing_key.serialize_pem();
        assert_eq!(mismatch(&made.cert.pem(), &key), None);
        let other = rcgen::generate_simple_self_signed(["c.example".to_owned()]).unwrap();
        assert_eq!(
            mismatch(&other.cert.pem(), &key).as_deref(),
            Some("the key belongs to another certificate")
        );
        assert!(mismatch("rubbish", &key).is_some());
        assert!(read("rubbish").is_err());
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        assert!(covers("a.example", "a.example"));
        assert!(covers("*.example", "a.example"));
        assert!(!covers("*.example", "b.a.example"));
        assert!(!covers("*.example", "example"));
    }
}
