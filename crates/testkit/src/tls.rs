//! Client side TLS that trusts one certificate authority and nothing else.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion,
};
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
    let mut provider = default_provider();
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
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
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
    config.alpn_protocols = named(protocols);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// How a client comes back with a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comeback {
    /// TLS 1.3 with an exchange by X25519, which every server knows.
    Tls13,
    /// The same with X25519MLKEM768 first, as today's browsers offer it.
    Tls13Hybrid,
    /// TLS 1.2 (RFC 5077).
    Tls12,
}

impl Comeback {
    /// By the name that programs know it by.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "1.3" => Some(Self::Tls13),
            "1.3-hybrid" => Some(Self::Tls13Hybrid),
            "1.2" => Some(Self::Tls12),
            _ => None,
        }
    }

    fn version(self) -> &'static SupportedProtocolVersion {
        if self == Self::Tls12 { &TLS12 } else { &TLS13 }
    }

    fn groups(self) -> Vec<&'static dyn SupportedKxGroup> {
        match self {
            Self::Tls13Hybrid => vec![kx_group::X25519MLKEM768, kx_group::X25519],
            Self::Tls13 => vec![kx_group::X25519],
            // Here the list is of the curves of certificates, too (RFC 8422 § 5.1.1).
            Self::Tls12 => vec![kx_group::X25519, kx_group::SECP256R1],
        }
    }
}

/// As [`client_config`], for a client that keeps tickets and comes back with them. Of the suites it puts AES with 128
/// bits first, as browsers do.
pub fn resuming_config(ca: &Path, protocols: &[&str], comeback: Comeback) -> ClientConfig {
    let mut provider = CryptoProvider { kx_groups: comeback.groups(), ..default_provider() };
    provider
        .cipher_suites
        .sort_by_key(|suite| !suite.suite().as_str().is_some_and(|name| name.contains("AES_128")));
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[comeback.version()])
        .expect("the provider knows TLS 1.2 and 1.3")
        .with_root_certificates(roots(ca))
        .with_no_client_auth();
    config.alpn_protocols = named(protocols);
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

fn named(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
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
