//! TLS towards servers outside: certificates are checked against the authorities that control names, always.
//!
//! Invariants: there is no way to leave the check out; the name that is checked is that of the manifest, not one that a
//! call brings along; what was agreed on with a server is used again for the next connection (RFC 8446 § 2.2).

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The authorities that were read last: mostly those of the system, a hundred and a half of them.
#[derive(Debug, Default)]
pub(super) struct Roots {
    pem: String,
    store: Option<Arc<RootCertStore>>,
}

impl Roots {
    /// The authorities of a text.
    pub(super) fn of(&mut self, pem: &str) -> Result<Arc<RootCertStore>, String> {
        if let Some(store) = self.store.as_ref().filter(|_| self.pem == pem) {
            return Ok(Arc::clone(store));
        }
        let mut store = RootCertStore::empty();
        let all = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        // The system's may hold one that is of no use.
        store.add_parsable_certificates(all);
        if store.is_empty() {
            return Err("there is no authority that may vouch for the other side".to_owned());
        }
        let store = Arc::new(store);
        (self.pem, self.store) = (pem.to_owned(), Some(Arc::clone(&store)));
        Ok(store)
    }
}

/// How connections to one server are made.
pub(crate) struct ClientTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({})", self.name.to_str())
    }
}

impl ClientTls {
    /// For a host, an IPv6 address in brackets. `protocols` are offered (ALPN, RFC 7301); none to a server of words that
    /// have no name there.
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        host: &str,
        protocols: &[&str],
    ) -> Result<Self, String> {
        let bare = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(bare).map_err(|error| error.to_string())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Agrees on keys with who can prove the name.
    pub(crate) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await.map_err(|error| {
            let name = self.name.to_str();
            io::Error::new(error.kind(), format!("no TLS connection with `{name}`: {error}"))
        })
    }
}
