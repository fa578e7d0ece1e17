//! Client side TLS that trusts one certificate authority and nothing else.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::SupportedKxGroup;
use rustls::{ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, RootCertStore};
pub use rustls::{NamedGroup as KeyExchange, ProtocolVersion as Version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A configuration that trusts the file's certificates and offers those protocols; no session is
/// resumed, so that each new connection is a full handshake.
pub fn client_config(ca: &Path, protocols: &[&str]) -> Arc<ClientConfig> {
    client_config_showing(ca, protocols, None)
}

/// What a handshake over TCP comes to, with a client that has these key exchanges, best first: version and exchange.
pub fn negotiated(
    address: SocketAddr,
    host: &str,
    ca: &Path,
    groups: &[NamedGroup],
) -> io::Result<(ProtocolVersion, NamedGroup)> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let of = |group: &NamedGroup| {
        let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS.iter();
        all.copied().find(|one| one.name() == *group)
    };
    provider.kx_groups = groups.iter().filter_map(of).collect();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots(ca))
        .with_no_client_auth();
    let name = host.to_owned().try_into().map_err(io::Error::other)?;
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(address)?;
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    let exchange = client.negotiated_key_exchange_group().map(SupportedKxGroup::name);
    client.protocol_version().zip(exchange).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// As [`client_config`], for a client that shows a certificate (chain, key; PEM files).
pub fn client_config_showing(
    ca: &Path,
    protocols: &[&str],
    shown: Option<(&Path, &Path)>,
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3");
    let builder = builder.with_root_certificates(roots(ca));
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

/// What the file holds.
fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .unwrap_or_else(|error| panic!("`{}` cannot be read: {error}", ca.display()));
    for certificate in certificates {
        roots
            .add(certificate.expect("the authority's file is PEM"))
            .expect("the authority's certificate is valid");
    }
    roots
}
