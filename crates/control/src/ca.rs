//! Our own certificate authority, for laptops, tests and names that no public authority signs.
//!
//! The root is made once and lives ten years; its key never leaves control. Each site gets one leaf for
//! all its names, good for 90 days and made anew in the last third of its life. Only the root's certificate is
//! readable by others (`ca.pem`); keys reach the edge over the control link and stand in no file but 0600.
//! Not here: public certificates (ACME).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use seaworthy_base::Timestamp;
use seaworthy_edge::model::Certificate;
use seaworthy_sys::files::{create_private_dir, write_atomically};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A leaf's life.
const LEAF: Duration = Duration::from_secs(90 * 86_400);
/// A root's life.
const ROOT: Duration = Duration::from_secs(3650 * 86_400);

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub(crate) enum CaError {
    /// A file could not be read or written.
    #[error("could not use `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The library refused: a name that is no name, a broken key.
    #[error("could not make a certificate for `{names}`")]
    Make {
        /// For whom.
        names: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// The authority of one platform.
#[derive(Debug)]
pub(crate) struct Authority {
    certs: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

/// What is kept of a leaf, in one file of mode 0600.
#[derive(Serialize, Deserialize)]
struct Leaf {
    hosts: Vec<String>,
    made: Timestamp,
    chain_pem: String,
    key_pem: String,
}

impl Authority {
    /// Opens the authority in `certs`, making root and key at first use; publishes the root as `public`.
    pub(crate) fn open(certs: &Path, public: &Path) -> Result<Self, CaError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| CaError::File { path, source }
        };
        create_private_dir(certs, 0o700).map_err(at(certs))?;
        let (key_path, root_path) = (certs.join("ca.key"), certs.join("ca.pem"));
        if !key_path.exists() || !root_path.exists() {
            let (root, key) = make_root("Seaworthy local authority")
                .map_err(|source| CaError::Make { names: "the root".to_owned(), source })?;
            write_atomically(&root_path, root.as_bytes(), 0o600).map_err(at(&root_path))?;
            write_atomically(&key_path, key.as_bytes(), 0o600).map_err(at(&key_path))?;
        }
        let root_pem = fs::read_to_string(&root_path).map_err(at(&root_path))?;
        let key_pem = fs::read_to_string(&key_path).map_err(at(&key_path))?;
        let broken = |source| CaError::Make { names: root_path.display().to_string(), source };
        let key = KeyPair::from_pem(&key_pem).map_err(broken)?;
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key).map_err(broken)?;
        if fs::read_to_string(public).ok().as_deref() != Some(root_pem.as_str()) {
            write_atomically(public, root_pem.as_bytes(), 0o644).map_err(at(public))?;
        }
        Ok(Self { certs: certs.to_path_buf(), issuer, root_pem })
    }

    /// The leaf of a site: the one there is while it fits and has a third of its life left, a new one otherwise.
    pub(crate) fn leaf(
        &self,
        site: &str,
        hosts: &[String],
        now: Timestamp,
    ) -> Result<Certificate, CaError> {
        let path = self.certs.join(format!("{site}.json"));
        let kept =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Leaf>(&bytes).ok());
        let fits = |leaf: &Leaf| {
            leaf.hosts == hosts
                && now.since(leaf.made) < LEAF * 2 / 3
                && leaf.chain_pem.ends_with(&self.root_pem)
        };
        let leaf = if let Some(leaf) = kept.filter(fits) {
            leaf
        } else {
            let leaf = self
                .make_leaf(hosts, now)
                .map_err(|source| CaError::Make { names: hosts.join(", "), source })?;
            let bytes = serde_json::to_vec(&leaf).unwrap_or_default();
            write_atomically(&path, &bytes, 0o600)
                .map_err(|source| CaError::File { path, source })?;
            leaf
        };
        Ok(Certificate { hosts: leaf.hosts, chain_pem: leaf.chain_pem, key_pem: leaf.key_pem })
    }

    fn make_leaf(&self, hosts: &[String], now: Timestamp) -> Result<Leaf, rcgen::Error> {
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params
            .distinguished_name
            .push(DnType::CommonName, hosts.first().map_or("site", String::as_str));
        validity(&mut params, LEAF);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain_pem = format!("{}{}", certificate.pem(), self.root_pem);
        Ok(Leaf { hosts: hosts.to_vec(), made: now, chain_pem, key_pem: key.serialize_pem() })
    }
}

/// An authority (PEM) of which nobody has a certificate: its key is gone once it is made.
pub(crate) fn of_nobody() -> Result<String, CaError> {
    let made = make_root("nobody");
    made.map(|(root, _)| root)
        .map_err(|source| CaError::Make { names: "nobody".to_owned(), source })
}

fn make_root(name: &str) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, ROOT);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// From an hour ago, so that a clock a little behind does not refuse it.
fn validity(params: &mut CertificateParams, life: Duration) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - Duration::from_secs(3600);
    params.not_after = now + life;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_made_once_and_a_leaf_anew_only_when_it_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let (certs, public) = (dir.path().join("certs"), dir.path().join("ca.pem"));
        let now = Timestamp::now();
        let hosts = vec!["a.localhost".to_owned(), "127.0.0.1".to_owned()];
        let first = Authority::open(&certs, &public).unwrap().leaf("a", &hosts, now).unwrap();
        let root = fs::read_to_string(&public).unwrap();
        let authority = Authority::open(&certs, &public).unwrap();
        assert_eq!(fs::read_to_string(&public).unwrap(), root);
        assert_eq!(authority.leaf("a", &hosts, now).unwrap().chain_pem, first.chain_pem);
        let later = Timestamp(now.0 + 61 * 86_400_000);
        assert_ne!(authority.leaf("a", &hosts, later).unwrap().chain_pem, first.chain_pem);
        let other = vec!["b.localhost".to_owned()];
        assert_eq!(authority.leaf("a", &other, later).unwrap().hosts, other);
    }
}
