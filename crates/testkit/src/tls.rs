//! Client side TLS that trusts one certificate authority and nothing else.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A configuration that trusts the file's certificates and offers those protocols; no session is
/// resumed, so that each new connection is a full handshake.
pub fn client_config(ca: &Path, protocols: &[&str]) -> Arc<ClientConfig> {
    client_config_showing(ca, protocols, None)
}

/// As [`client_config`], for a client that shows a certificate (chain, key; PEM files).
pub fn client_config_showing(
    ca: &Path,
    protocols: &[&str],
    shown: Option<(&Path, &Path)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .unwrap_or_else(|error| panic!("`{}` cannot be read: {error}", ca.display()));
    for certificate in certificates {
        roots
            .add(certificate.expect("the authority's file is PEM"))
            .expect("the authority's certificate is valid");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3");
    let builder = builder.with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_file_iter(chain).expect("the chain can be read");
            let chain = chain.collect::<Result<_, _>>().expect("the chain is PEM");
            let key = PrivateKeyDer::from_pem_file(key).expect("the key is PEM");
            builder.with_client_auth_cert(chain, key).expect("they belong together")
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
