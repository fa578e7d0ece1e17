//! Handshakes that demand more than others: TLS 1.3 only, a certificate of the client's.
//!
//! Chosen by the server name, before the handshake goes on. Invariants: a ticket opens only what was demanded when
//! it was given out (each configuration seals with keys of its own, and a changed demand is another one); whoever
//! names no server or another one is not asked here, and is refused where a route demands it ([`crate::serve`]).

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest as _, Sha256};

use super::tickets::Tickets;
use super::{KeyError, Resolver, Terms, builder};
use crate::model::Handshake;
use crate::table::Table;

/// Configurations by server name.
#[derive(Default)]
pub(super) struct Demanding {
    made: Vec<(Handshake, Arc<Terms>)>,
    by_host: HashMap<String, Arc<Terms>>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, Arc<Terms>>,
}

impl Demanding {
    /// The configuration for a client that names such a server.
    pub(super) fn of(&self, hello: &ClientHello<'_>) -> Option<Arc<Terms>> {
        if self.made.is_empty() {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        let wild = || self.wildcards.get(name.split_once('.')?.1);
        self.by_host.get(&name).or_else(wild).map(Arc::clone)
    }

    /// All configurations.
    pub(super) fn all(&self) -> impl Iterator<Item = &Terms> {
        self.made.iter().map(|(_, terms)| &**terms)
    }

    /// Those of a new input; a demand that did not change keeps its configuration, and with it its tickets.
    pub(super) fn renewed(
        &self,
        resolver: &Arc<Resolver>,
        wanted: &[Handshake],
        table: &Arc<Table>,
    ) -> Result<Self, KeyError> {
        let mut all = Self::default();
        for handshake in wanted {
            let known = self.made.iter().find(|(known, _)| known == handshake);
            let config = match known {
                Some((_, config)) => Arc::clone(config),
                None => make(resolver, handshake, table).map_err(|why| KeyError {
                    hosts: handshake.hosts.join(", "),
                    why: format!("its clients' authorities: {why}"),
                })?,
            };
            for host in &handshake.hosts {
                let (into, name) = match host.strip_prefix("*.") {
                    Some(parent) => (&mut all.wildcards, parent),
                    None => (&mut all.by_host, host.as_str()),
                };
                into.insert(name.to_owned(), Arc::clone(&config));
            }
            all.made.push((handshake.clone(), config));
        }
        Ok(all)
    }
}

fn make(
    resolver: &Arc<Resolver>,
    handshake: &Handshake,
    table: &Arc<Table>,
) -> Result<Arc<Terms>, String> {
    let builder = if handshake.only_13 { builder(&[&TLS13]) } else { builder(&[&TLS13, &TLS12]) };
    let builder = match &handshake.clients_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = authorities(pem)?;
            let provider = Arc::new(aws_lc_rs::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if handshake.require { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::clone(resolver) as Arc<_>);
    config.ignore_client_order = true;
    // What is demanded is the purpose: the same of the next edge, and nobody else's.
    let demand = serde_json::to_vec(handshake).map_err(|error| error.to_string())?;
    let tickets = Tickets::new(Arc::clone(table), Sha256::digest(demand).to_vec());
    Ok(Terms::new(config, &tickets))
}

/// Authorities of clients; of a text with one that is none nothing is taken.
fn authorities(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let root = root.map_err(|error| error.to_string())?;
        roots.add(root).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(roots) }
}

/// Whether an edge takes these authorities (PEM) of clients, and why not.
pub fn judge_client_authorities(pem: &str) -> Result<(), String> {
    authorities(pem).map(drop)
}

/// The certificate that a client showed, as a header (RFC 9440 § 2.2).
pub(crate) fn certificate_header(shown: Option<&[CertificateDer<'_>]>) -> Option<HeaderValue> {
    let leaf = shown?.first()?;
    let text = format!(":{}:", BASE64_STANDARD.encode(leaf));
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
pub(crate) mod tests;
