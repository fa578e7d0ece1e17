//! TLS by rustls: certificates by server name, swapped while connections stay, and the stream of a
//! connection ([`stream`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use quinn_proto::crypto::rustls::QuicServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ConfigBuilder, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, WantsVerifier,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use seaworthy_base::challenge::Shown;
use thiserror::Error;

use crate::model::Keys;
use crate::table::Table;

mod demanding;
#[cfg(test)]
pub(crate) mod fuzz;
mod misnamed;
mod opening;
mod quic;
mod stream;
mod tickets;
mod transcript;

use demanding::Demanding;
pub(crate) use demanding::certificate_header;
pub use demanding::judge_client_authorities;
use misnamed::Misnamed;
pub(crate) use quic::Choosing;
pub(crate) use stream::TlsStream;
use tickets::Tickets;

/// Why certificates were not taken; the old ones stay.
#[derive(Debug, Error)]
#[error("the certificate for {hosts} cannot be used: {why}")]
pub(crate) struct KeyError {
    hosts: String,
    why: String,
}

#[derive(Default)]
struct Certificates {
    by_host: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*.`, which stands for exactly one label (RFC 6125 § 6.4.3).
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
    /// What an authority is to see, by server name.
    challenges: HashMap<String, Arc<CertifiedKey>>,
}

/// The protocol of an authority that looks at a challenge (RFC 8737 § 4).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Finds the certificate of a server name.
#[derive(Default)]
pub(crate) struct Resolver {
    current: RwLock<Arc<Certificates>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// Takes new certificates, all or none.
    pub(crate) fn swap(&self, keys: &Keys) -> Result<(), KeyError> {
        let mut all = Certificates::default();
        for certificate in &keys.certificates {
            let certified = certified(&certificate.chain_pem, &certificate.key_pem);
            let certified =
                certified.map_err(|why| KeyError { hosts: certificate.hosts.join(", "), why })?;
            for host in &certificate.hosts {
                let (all, name) = match host.strip_prefix("*.") {
                    Some(parent) => (&mut all.wildcards, parent),
                    None => (&mut all.by_host, host.as_str()),
                };
                all.insert(name.to_owned(), Arc::clone(&certified));
            }
            all.first.get_or_insert(certified);
        }
        for challenge in &keys.challenges {
            let Shown::TlsAlpn { host, chain_pem, key_pem } = challenge else { continue };
            let shown = shown(chain_pem, key_pem);
            let shown = shown.map_err(|why| KeyError { hosts: host.clone(), why })?;
            all.challenges.insert(host.clone(), shown);
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        Ok(())
    }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parsed(chain_pem: &str, key_pem: &str) -> Result<Pair, String> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    Ok((chain, key.map_err(|error| error.to_string())?))
}

/// A pair that belongs together.
fn certified(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, String> {
    let (chain, key) = parsed(chain_pem, key_pem)?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    certified.map(Arc::new).map_err(|error| error.to_string())
}

/// A challenge's pair. Its critical extension is what nobody but an authority understands, and so whether the
/// key belongs to it cannot be asked here.
fn shown(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, String> {
    let (chain, key) = parsed(chain_pem, key_pem)?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

impl Certificates {
    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wild = || self.wildcards.get(name.split_once('.')?.1);
        self.by_host.get(name).or_else(wild)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let looks = hello.alpn().is_some_and(|mut offered| offered.any(|one| one == ACME_TLS));
        if looks {
            // Nobody else offers it. Where nothing is to be seen the handshake fails.
            let name = hello.server_name()?.to_ascii_lowercase();
            return all.challenges.get(&name).map(Arc::clone);
        }
        let Some(name) = hello.server_name() else { return all.first.clone() };
        all.named(&name.to_ascii_lowercase()).or(all.first.as_ref()).map(Arc::clone)
    }
}

/// What a handshake may agree on, over TCP or over QUIC.
pub(crate) struct Terms {
    tcp: Arc<ServerConfig>,
    /// The same for QUIC, once anybody asked.
    quic: OnceLock<Option<Arc<QuicServerConfig>>>,
    tickets: Arc<Tickets>,
}

impl Terms {
    /// What all have in common is added.
    fn new(mut tcp: ServerConfig, tickets: &Arc<Tickets>) -> Arc<Self> {
        tcp.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS.to_vec()];
        tcp.ticketer = Arc::<Tickets>::clone(tickets);
        // One is enough to come back with; each is sealed and sent before anybody asked for it.
        tcp.send_tls13_tickets = 1;
        Arc::new(Self { tcp: Arc::new(tcp), quic: OnceLock::new(), tickets: Arc::clone(tickets) })
    }

    /// The same certificates, demands and tickets; of the versions 1.3, of the protocols HTTP/3, and nothing
    /// that was sent before the handshake's end (RFC 9001 § 4.6.1): it could be sent again by somebody else.
    fn quic(&self) -> Option<Arc<QuicServerConfig>> {
        let made = self.quic.get_or_init(|| {
            let mut config = ServerConfig::clone(&self.tcp);
            config.alpn_protocols = vec![b"h3".to_vec()];
            config.max_early_data_size = 0;
            QuicServerConfig::try_from(config).ok().map(Arc::new)
        });
        made.clone()
    }
}

/// What connections are agreed on with, for all threads.
pub(crate) struct Settings {
    /// The cheapest suite that both sides know.
    usual: Arc<Terms>,
    /// The suite that the client likes best.
    by_client: Arc<Terms>,
    /// Those of names that demand more.
    demanding: RwLock<Demanding>,
    /// Handshakes that asked for a server name that is none.
    misnamed: AtomicU64,
    /// Where the secrets of tickets lie.
    table: Arc<Table>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings")
    }
}

impl Settings {
    /// TLS 1.2 and 1.3, post-quantum key exchange first, HTTP/2 and HTTP/1.1.
    pub(crate) fn new(resolver: Arc<Resolver>, table: Arc<Table>) -> Self {
        let tickets = Tickets::new(Arc::clone(&table), Vec::new());
        let make = |ignore_client_order| {
            let builder = builder(&[&TLS13, &TLS12]).with_no_client_auth();
            let mut config = builder.with_cert_resolver(Arc::clone(&resolver) as Arc<_>);
            config.ignore_client_order = ignore_client_order;
            Terms::new(config, &tickets)
        };
        Self {
            usual: make(true),
            by_client: make(false),
            demanding: RwLock::default(),
            misnamed: AtomicU64::new(0),
            table,
        }
    }

    /// Counts a hello with a server name that is none.
    fn note(&self, misnamed: Option<&Arc<Misnamed>>) {
        if misnamed.is_some() {
            self.misnamed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Handshakes that asked for a server name that is none, since the process began.
    pub(crate) fn misnamed(&self) -> u64 {
        self.misnamed.load(Ordering::Relaxed)
    }

    /// Forgets what sealed tickets that are opened no more. Called all the time, since perhaps nobody comes any more.
    pub(crate) fn forget(&self) {
        let span = tickets::span();
        self.table.forget(span);
        self.usual.tickets.forget(span);
        let demanding = self.demanding.read().unwrap_or_else(PoisonError::into_inner);
        demanding.all().for_each(|terms| terms.tickets.forget(span));
    }

    /// Takes new certificates and demands, all or none.
    pub(crate) fn swap(&self, resolver: &Arc<Resolver>, keys: &Keys) -> Result<(), KeyError> {
        let before = self.demanding.read().unwrap_or_else(PoisonError::into_inner);
        let demanding = before.renewed(resolver, &keys.handshakes, &self.table)?;
        drop(before);
        resolver.swap(keys)?;
        *self.demanding.write().unwrap_or_else(PoisonError::into_inner) = demanding;
        Ok(())
    }

    /// Those for a client. One that puts ChaCha20 first has no AES in its hardware and gets its way; of the
    /// AES suites all others get the one of 128 bits: keys and certificates are of that strength too, and
    /// SHA-256 is in hardware where SHA-384 is not (docs/decisions/013).
    fn of(&self, hello: &ClientHello<'_>) -> Arc<Terms> {
        let demanding = self.demanding.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(terms) = demanding.of(hello) {
            return terms;
        }
        drop(demanding);
        let mut suites = hello.cipher_suites().iter().filter(|suite| suite.as_str().is_some());
        let first = suites.next().and_then(rustls::CipherSuite::as_str);
        let is_chacha = first.is_some_and(|name| name.contains("CHACHA20"));
        Arc::clone(if is_chacha { &self.by_client } else { &self.usual })
    }
}

fn builder(
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = transcript::suites();
    let is_large = |suite: &SupportedCipherSuite| {
        suite.suite().as_str().is_some_and(|name| name.contains("AES_256"))
    };
    // What is left in its order: AES with 128 bits, ChaCha20.
    provider.cipher_suites.sort_by_key(is_large);
    #[expect(
        clippy::expect_used,
        reason = "the provider's own versions are valid for it; there is no input here"
    )]
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("versions of the provider")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Certificate;

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let certificate = |host: &str| {
            let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
            let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
            Certificate { hosts: vec![host.to_owned()], chain_pem, key_pem }
        };
        let resolver = Resolver::default();
        let certificates = vec![certificate("a.example"), certificate("*.b.example")];
        resolver.swap(&Keys { version: 1, certificates, ..Keys::default() }).unwrap();
        let all = Arc::clone(&resolver.current.read().unwrap());
        for (name, found) in [
            ("a.example", true),
            ("x.b.example", true),
            ("y.x.b.example", false),
            ("b.example", false),
            ("x.a.example", false),
        ] {
            assert_eq!(all.named(name).is_some(), found, "{name}");
        }
    }
}
