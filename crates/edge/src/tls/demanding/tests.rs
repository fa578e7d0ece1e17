//! Tickets of one site at another one, which demands more.

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;

use super::*;
use crate::model::{Certificate, Keys};
use crate::tls::{Settings, TlsStream};

/// A client's tickets, which it shows to everybody: whoever gave them out.
#[derive(Debug)]
pub(crate) struct Careless {
    pub(crate) tickets: ClientSessionMemoryCache,
    /// Whether it learns which key exchange a server likes.
    pub(crate) learns: bool,
}

fn anybody() -> ServerName<'static> {
    ServerName::try_from("anybody.example").unwrap()
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        if self.learns {
            self.tickets.set_kx_hint(anybody(), group);
        }
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.tickets.kx_hint(&anybody())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.tickets.set_tls12_session(anybody(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tickets.tls12_session(&anybody())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.tickets.remove_tls12_session(&anybody());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.insert_tls13_ticket(anybody(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.take_tls13_ticket(&anybody())
    }
}

/// `open.example`, which anybody may enter, and `closed.example`, which demands a certificate; and a client.
fn both(version: &'static SupportedProtocolVersion) -> (Settings, TlsConnector) {
    let names = ["open.example".to_owned(), "closed.example".to_owned()];
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    let resolver = Arc::new(Resolver::default());
    let settings = Settings::new(Arc::clone(&resolver), Arc::default());
    let demand = Handshake {
        hosts: vec!["closed.example".to_owned()],
        clients_pem: Some(chain_pem.clone()),
        require: true,
        ..Handshake::default()
    };
    let certificates = vec![Certificate { hosts: names.to_vec(), chain_pem, key_pem }];
    let keys = Keys { version: 1, certificates, handshakes: vec![demand], ..Keys::default() };
    settings.swap(&resolver, &keys).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tickets = Careless { tickets: ClientSessionMemoryCache::new(8), learns: true };
    client.resumption = Resumption::store(Arc::new(tickets));
    (settings, TlsConnector::from(Arc::new(client)))
}

/// One connection: how the server shook hands, where it did.
async fn visit(settings: &Settings, client: &TlsConnector, host: &str) -> Option<HandshakeKind> {
    let (near, far) = duplex(64 << 10);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let visitor = async {
        let Ok(mut stream) = client.connect(name, far).await else { return };
        // With the answer come the tickets.
        stream.read_to_end(&mut Vec::new()).await.ok();
    };
    let served = async {
        let mut stream = TlsStream::accept(near, settings).await.ok()?;
        stream.write_all(b"welcome").await.ok()?;
        stream.shutdown().await.ok()?;
        stream.session().handshake_kind()
    };
    tokio::join!(visitor, served).1
}

#[test]
fn a_ticket_of_one_site_is_no_way_past_the_demand_of_another() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for version in [&TLS13, &TLS12] {
        runtime.block_on(async {
            let (settings, client) = both(version);
            let first = visit(&settings, &client, "open.example").await;
            assert!(first.is_some_and(|kind| kind != HandshakeKind::Resumed), "{first:?}");
            let again = visit(&settings, &client, "open.example").await;
            assert_eq!(again, Some(HandshakeKind::Resumed), "the client has a ticket");
            assert_eq!(visit(&settings, &client, "closed.example").await, None);
        });
    }
}
