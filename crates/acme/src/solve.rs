//! How a challenge is answered: by the edge (http-01, tls-alpn-01) or by a record in the DNS (dns-01).
//!
//! Invariant: what was put up is taken down again, whatever became of the order; an authority is called only
//! once every answer can be seen. Not here: who writes records (`rfc2136`, `route53`, a program of control's).

mod rfc2136;
mod route53;

use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use seaworthy_base::challenge::Shown;
use seaworthy_base::{Code, Fault};
use tokio::time::Instant;

use crate::client::Client;
use crate::dns;
use crate::model::{Challenge, Dns, Event, Job};
use crate::worker::Voice;

/// How often a record is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// One name's proof.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    /// The name, without `*.`.
    pub host: String,
    /// The challenge's token.
    pub token: String,
    /// What the authority expects (RFC 8555 § 8.1).
    pub key_authorization: String,
    /// Its SHA-256.
    pub digest: Vec<u8>,
    /// The digest as a TXT record carries it.
    pub txt: String,
}

/// Puts up all proofs and waits until they can be seen.
pub(crate) async fn put_up(
    job: &Job,
    client: &Client,
    voice: &Voice,
    proofs: &[Proof],
) -> Result<(), Fault> {
    if job.challenge != Challenge::Dns01 {
        let shown = proofs.iter().map(|proof| shown(job.challenge, proof));
        let challenges = shown.collect::<Result<Vec<_>, _>>()?;
        return voice.ask(&Event::Show { challenges }).await;
    }
    for proof in proofs {
        voice.step(format!("writing the TXT record of {}", record_name(&proof.host)));
        write(job, client, voice, proof, true).await?;
    }
    for proof in proofs {
        wait_for(job, client, voice, proof).await?;
    }
    Ok(())
}

/// Takes them down. A record that stays behind harms nobody and is said.
pub(crate) async fn take_down(job: &Job, client: &Client, voice: &Voice, proofs: &[Proof]) {
    if job.challenge != Challenge::Dns01 {
        if let Err(fault) = voice.ask(&Event::Show { challenges: Vec::new() }).await {
            voice.say(&Event::Warning { fault });
        }
        return;
    }
    for proof in proofs {
        if let Err(fault) = write(job, client, voice, proof, false).await {
            voice.say(&Event::Warning { fault });
        }
    }
}

/// The name of the record that proves a host.
pub(crate) fn record_name(host: &str) -> String {
    format!("_acme-challenge.{}", host.trim_start_matches("*."))
}

async fn write(
    job: &Job,
    client: &Client,
    voice: &Voice,
    proof: &Proof,
    there: bool,
) -> Result<(), Fault> {
    let name = record_name(&proof.host);
    let failed = |why: String| {
        let verb = if there { "written" } else { "removed" };
        Fault::new(Code::DnsUpdateFailed, format!("the TXT record of `{name}` could not be {verb}"))
            .because(why)
            .next("check `dns` in `[tls]`: server, key and zone")
    };
    match &job.dns {
        Some(Dns::Hook) => {
            let verb = if there { "present" } else { "cleanup" }.to_owned();
            let (name, value) = (format!("{name}."), proof.txt.clone());
            voice.ask(&Event::Hook { verb, name, value }).await
        }
        Some(Dns::Rfc2136 { server, zone, key, secret, algorithm }) => {
            let update = rfc2136::Update {
                zone: zone.as_deref(),
                key: key.as_deref().zip(secret.as_deref()),
                algorithm,
                name: &name,
                value: &proof.txt,
                there,
            };
            rfc2136::write(&client.resolver, server, &update).await.map_err(failed)
        }
        Some(Dns::Route53 { credentials, zone_id, region, endpoint }) => {
            let api = route53::Api { client, credentials, region, endpoint };
            let zone = zone_id.as_deref();
            route53::write(&api, zone, &name, &proof.txt, there).await.map_err(failed)
        }
        None => Err(Fault::new(Code::ManifestInvalid, "dns-01 needs `dns`")
            .next("[tls]  acme = { dns = { rfc2136 = { server = \"…\" } } }")),
    }
}

/// Waits until every server that an authority may ask has the record.
async fn wait_for(job: &Job, client: &Client, voice: &Voice, proof: &Proof) -> Result<(), Fault> {
    let name = record_name(&proof.host);
    let mut left: Vec<SocketAddr> = client.resolver.witnesses(&name).await;
    voice.step(format!("waiting until {} name servers have {name}", left.len()));
    let until = Instant::now() + Duration::from_millis(job.wait_ms);
    let mut seen = String::new();
    loop {
        let mut still = Vec::new();
        for server in left {
            match dns::txt(server, &name).await {
                Ok(values) if values.contains(&proof.txt) => {}
                Ok(values) => {
                    seen = format!("{server} has {} other values", values.len());
                    still.push(server);
                }
                Err(error) => {
                    seen = error.to_string();
                    still.push(server);
                }
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            let what = format!(
                "the TXT record of `{name}` was written, and {} of the zone's servers did not have it after {} s",
                still.len(),
                job.wait_ms / 1000
            );
            return Err(Fault::new(Code::DnsUpdateFailed, what)
                .seen(seen)
                .next(format!("dig +tcp TXT {name} @{}", still[0].ip()))
                .next("a slow provider: `dns = { …, wait = \"10m\" }`"));
        }
        left = still;
        tokio::time::sleep(LOOK).await;
    }
}

fn shown(challenge: Challenge, proof: &Proof) -> Result<Shown, Fault> {
    if challenge == Challenge::Http01 {
        let (token, answer) = (proof.token.clone(), proof.key_authorization.clone());
        return Ok(Shown::Http { token, answer });
    }
    tls_alpn(&proof.host, &proof.digest).map_err(|error| {
        Fault::new(Code::Internal, "could not make a challenge's certificate").because_of(&error)
    })
}

/// The certificate that proves a name in a handshake (RFC 8737 § 3).
pub(crate) fn tls_alpn(host: &str, digest: &[u8]) -> Result<Shown, rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Shown::TlsAlpn {
        host: host.to_owned(),
        chain_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}
