//! A client that asks for a server name that is none, for tests. rustls' own would not: here it hashes another name
//! than the one that it was given, and whoever carries its bytes has to change that name to the same ([`rename`]).

use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::aws_lc_rs::{DEFAULT_CIPHER_SUITES, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, hash};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};

use crate::model::{Certificate, Keys};
use crate::tls::demanding::tests::Careless;
use crate::tls::transcript::with_hash;
use crate::tls::{Resolver, Settings};

/// What the client was given, and what it is to be changed to.
pub(crate) const HONEST: &str = "a.examplex443";
pub(crate) const SAID: &str = "a.example:443";

/// Puts one name of a hello (RFC 6066 § 3) in place of another; how often.
pub(crate) fn rename(bytes: &mut [u8], from: &str, to: &str) -> usize {
    let listed = |name: &str| [&[0, 0, name.len() as u8][..], name.as_bytes()].concat();
    let (from, to, mut count) = (listed(from), listed(to), 0);
    for at in 0..bytes.len().saturating_sub(from.len() - 1) {
        if bytes[at..].starts_with(&from) {
            bytes[at..at + from.len()].copy_from_slice(&to);
            count += 1;
        }
    }
    count
}

struct Lying(&'static dyn hash::Hash);
struct LyingSum(Box<dyn hash::Context>);

impl hash::Hash for Lying {
    fn start(&self) -> Box<dyn hash::Context> {
        Box::new(LyingSum(self.0.start()))
    }
    fn hash(&self, data: &[u8]) -> hash::Output {
        self.0.hash(data)
    }
    fn output_len(&self) -> usize {
        self.0.output_len()
    }
    fn algorithm(&self) -> hash::HashAlgorithm {
        self.0.algorithm()
    }
}

impl hash::Context for LyingSum {
    fn fork_finish(&self) -> hash::Output {
        self.0.fork_finish()
    }
    fn fork(&self) -> Box<dyn hash::Context> {
        Box::new(Self(self.0.fork()))
    }
    fn finish(self: Box<Self>) -> hash::Output {
        self.0.finish()
    }
    fn update(&mut self, data: &[u8]) {
        let mut data = data.to_vec();
        rename(&mut data, HONEST, SAID);
        self.0.update(&data);
    }
}

fn lying(suite: &SupportedCipherSuite) -> SupportedCipherSuite {
    with_hash(suite, |hash| Box::leak(Box::new(Lying(hash))))
}

/// A server, and a client that lies about the name.
pub(crate) struct Pair {
    pub(crate) server: Settings,
    pub(crate) client: ClientConfig,
}

/// A client whose first choice of a key exchange no server of ours has, so that it is asked a second time.
pub(crate) const ELSEWHERE: [&dyn SupportedKxGroup; 2] = [kx_group::MLKEM768, kx_group::X25519];

/// Both sides. The client knows this suite and these key exchanges only, and never learns which of them is liked.
pub(crate) fn pair(suite: &SupportedCipherSuite, groups: &[&'static dyn SupportedKxGroup]) -> Pair {
    let made = rcgen::generate_simple_self_signed([HONEST.to_owned()]).unwrap();
    let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    let certificate = Certificate { hosts: vec![HONEST.to_owned()], chain_pem, key_pem };
    let resolver = Arc::new(Resolver::default());
    let certificates = vec![certificate];
    resolver.swap(&Keys { version: 1, certificates, ..Keys::default() }).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = CryptoProvider {
        cipher_suites: vec![lying(suite)],
        kx_groups: groups.to_vec(),
        ..default_provider()
    };
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tickets = Careless { tickets: ClientSessionMemoryCache::new(8), learns: false };
    client.resumption = Resumption::store(Arc::new(tickets));
    Pair { server: Settings::new(resolver, Arc::default()), client }
}

/// The suites of a version that go with our certificate.
pub(crate) fn suites(
    of: &SupportedProtocolVersion,
) -> impl Iterator<Item = &'static SupportedCipherSuite> {
    DEFAULT_CIPHER_SUITES.iter().filter(move |suite| {
        suite.version() == of && !suite.suite().as_str().unwrap().contains("_RSA_")
    })
}
