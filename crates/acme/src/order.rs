//! An order from beginning to end: account, names proven, certificate; authority after authority.
//!
//! Invariants: an order that was about to be finished is taken up again with the key that it was begun with, so
//! that a crash costs no certificate; an authority that refused is said with how long it wants to be left
//! alone; challenges are taken down whatever happened. Not here: when this is done (`due`), how a challenge is
//! answered (`solve`).

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeStatus,
    ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use seaworthy_base::{Code, Fault, Timestamp};

use crate::client::{Client, ClientError};
use crate::directory::{Meta, host_of, printable};
use crate::due;
use crate::model::{Challenge, Directory, Event, Issued, Job, Pending, Refusal};
use crate::preflight;
use crate::solve::{self, Proof};
use crate::worker::Voice;
use crate::x509;

/// How long an authority may take to look at the proofs, and to issue.
const PATIENCE: Duration = Duration::from_secs(120);
/// Begun anew so many times for what a new try mends: a nonce that was refused, an account that is gone.
const TRIES: u32 = 5;
/// The library marks what an authority calls a problem by this.
const PROBLEM: &str = "urn:ietf:params:acme:error:";

/// A try with one authority.
struct Try<'a> {
    job: &'a Job,
    client: &'a Client,
    voice: &'a Voice,
    directory: &'a Directory,
    /// Leave the order unfinished.
    rehearse: bool,
}

/// What a try came to when it did not come to an end.
enum Stop {
    /// Try again: what was begun is known.
    Again(String),
    /// This authority does not issue.
    Refused(Box<Refusal>),
}

/// Gets a certificate from the first authority that gives one.
pub(crate) async fn obtain(job: &Job, client: &Client, voice: &Voice) -> Result<(), Fault> {
    preflight::look(job, client, voice).await?;
    each_authority(job, client, voice, false).await
}

/// Does all of it but the last step.
pub(crate) async fn rehearse(job: &Job, client: &Client, voice: &Voice) -> Result<(), Fault> {
    preflight::look(job, client, voice).await?;
    each_authority(job, client, voice, true).await
}

async fn each_authority(
    job: &Job,
    client: &Client,
    voice: &Voice,
    rehearse: bool,
) -> Result<(), Fault> {
    let mut last = None;
    for directory in &job.directories {
        voice.step(format!("asking {}", host_of(&directory.url)));
        let one = Try { job, client, voice, directory, rehearse };
        match one.run().await {
            Ok(Some(certificate)) => return voice.ask(&Event::Issued { certificate }).await,
            Ok(None) => return Ok(()),
            Err(refusal) => {
                voice.say(&Event::Refused { refusal: (*refusal).clone() });
                last = Some(refusal.fault);
            }
        }
    }
    Err(last
        .unwrap_or_else(|| Fault::new(Code::AuthorityRefused, "there is no authority to ask now")))
}

impl Try<'_> {
    async fn run(&self) -> Result<Option<Issued>, Box<Refusal>> {
        self.client.take_patience();
        let fits = |pending: &&Pending| {
            pending.directory == self.directory.url && pending.hosts == self.job.hosts
        };
        let mut pending = self.job.pending.as_ref().filter(fits).cloned();
        let mut credentials = self.job.accounts.get(&self.directory.url).cloned();
        let meta = self.meta().await?;
        preflight::may_issue(self.client, &self.job.hosts, &meta.identities)
            .await
            .map_err(|fault| self.refusal(fault))?;
        let mut why = String::new();
        for _ in 0..TRIES {
            match self.once(&meta, &mut pending, &mut credentials).await {
                Ok(issued) => return Ok(issued),
                Err(Stop::Again(reason)) => why = reason,
                Err(Stop::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(self.refusal(self.fault("did not get beyond its own protocol").because(why)))
    }

    /// What the authority says of itself; that it is one, and that it has what is wished for, is found out here, too.
    async fn meta(&self) -> Result<Meta, Box<Refusal>> {
        let meta = Meta::ask(self.client, &self.directory.url).await;
        let meta = meta.map_err(|fault| self.refusal(fault))?;
        let known = self.job.accounts.contains_key(&self.directory.url);
        if meta.bound && self.directory.eab.is_none() && !known {
            let fault = self.fault("takes only accounts that are bound to one of its own");
            return Err(self.refusal(fault.next(
                "[tls]  acme = { eab = { kid = \"…\", key = \"secret:EAB_KEY\" } }   (the authority's site shows both)",
            )));
        }
        match &self.job.profile {
            Some(wanted) if !meta.profiles.contains(wanted) => {
                Err(self.refusal(self.without_profile(wanted, &meta.profiles)))
            }
            _ => Ok(meta),
        }
    }

    /// A profile that is not offered may not be asked for (draft-ietf-acme-profiles-00 § 4), and one that was wished
    /// for is not left out in silence (docs/decisions/045).
    fn without_profile(&self, wanted: &str, offered: &[String]) -> Fault {
        let fault = self.fault(&format!("has no profile `{wanted}`"));
        let nearest = offered.iter().min_by_key(|one| strsim::damerau_levenshtein(wanted, one));
        match nearest {
            Some(nearest) => fault
                .because(format!("it offers {}", offered.join(", ")))
                .next(format!("[tls]  acme = {{ profile = \"{nearest}\" }}")),
            None => fault
                .because("it offers no profiles")
                .next("leave `profile` out of `acme` in `[tls]`"),
        }
    }

    async fn once(
        &self,
        meta: &Meta,
        pending: &mut Option<Pending>,
        credentials: &mut Option<serde_json::Value>,
    ) -> Result<Option<Issued>, Stop> {
        let account = self.account(meta, credentials).await?;
        let mut order = match self.order(&account, pending).await {
            Ok(order) => order,
            Err(error) => {
                if is_problem(&error, "accountDoesNotExist") {
                    // It was made at an authority that forgets: test servers do, and closed accounts are.
                    *credentials = None;
                    return Err(Stop::Again("the account is gone".to_owned()));
                }
                return Err(self.stop(error, "an order"));
            }
        };
        if order.state().status == OrderStatus::Pending {
            self.prove(&mut order).await?;
        }
        if self.rehearse {
            return Ok(None);
        }
        let key = self.finish(&mut order, pending).await?;
        self.voice.step("waiting for the certificate");
        let policy = RetryPolicy::default().timeout(PATIENCE);
        let chain_pem = match order.poll_certificate(&policy).await {
            Ok(chain) => chain,
            Err(error) => return Err(self.stop(error, "the certificate")),
        };
        if let Some(why) = x509::mismatch(&chain_pem, &key) {
            let fault = self.fault("sent something that is not our certificate").because(why);
            return Err(Stop::Refused(self.refusal(fault)));
        }
        Ok(Some(Issued {
            directory: self.directory.url.clone(),
            hosts: self.job.hosts.clone(),
            chain_pem,
            key_pem: key,
        }))
    }

    async fn account(
        &self,
        meta: &Meta,
        known: &mut Option<serde_json::Value>,
    ) -> Result<Account, Stop> {
        let builder = || Account::builder_with_http(Box::new(self.client.clone()));
        let read = known.clone().map(serde_json::from_value::<AccountCredentials>);
        if let Some(Ok(credentials)) = read {
            let account = builder().from_credentials(credentials).await;
            return account.map_err(|error| self.stop(error, "the account"));
        }
        let contact = self.job.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        // One of several authorities may not know the account that another one wants.
        let wanted_here = meta.bound || self.job.directories.len() == 1;
        let binding = if wanted_here { self.binding()? } else { None };
        let made = builder().create(&wanted, self.directory.url.clone(), binding.as_ref()).await;
        let (account, credentials) = made.map_err(|error| self.stop(error, "an account"))?;
        let text =
            serde_json::to_value(&credentials).map_err(|error| Stop::Again(error.to_string()))?;
        *known = Some(text.clone());
        let directory = self.directory.url.clone();
        let kept = self.voice.ask(&Event::Account { directory, credentials: text }).await;
        kept.map_err(|fault| Stop::Refused(self.refusal(fault)))?;
        Ok(account)
    }

    fn binding(&self) -> Result<Option<ExternalAccountKey>, Stop> {
        let Some((id, key)) = &self.directory.eab else { return Ok(None) };
        let key = BASE64_URL_SAFE_NO_PAD.decode(key.trim().trim_end_matches('='));
        let key = key.map_err(|_| {
            let fault = self.fault("cannot be asked: the key in `eab` is no base64url");
            Stop::Refused(self.refusal(fault))
        })?;
        Ok(Some(ExternalAccountKey::new(id.clone(), &key)))
    }

    /// The order that was begun, or a new one.
    async fn order(
        &self,
        account: &Account,
        pending: &mut Option<Pending>,
    ) -> Result<Order, Error> {
        if let Some(begun) = pending {
            match account.order(begun.url.clone()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        self.voice.step("going on with the order that was begun");
                        return Ok(order);
                    }
                    *pending = None;
                }
                Err(error) if is_problem(&error, "badNonce") => return Err(error),
                Err(_) => *pending = None,
            }
        }
        let names: Vec<Identifier> =
            self.job.hosts.iter().map(|host| Identifier::Dns(host.clone())).collect();
        let wanted = || {
            let order = NewOrder::new(&names);
            self.job.profile.iter().fold(order, |order, profile| order.profile(profile))
        };
        let before = self.job.replaces.as_ref();
        let before = before.filter(|(_, directory)| *directory == self.directory.url);
        let leaf = before.and_then(|(chain, _)| x509::leaf(chain).ok());
        let replaced = leaf.as_ref().and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        if let Some(replaced) = replaced {
            match account.new_order(&wanted().replaces(replaced)).await {
                // It knows no replacing, or this one was replaced already: an order like any other.
                Err(error) if is_about_this_order(&error) => {}
                made => return made,
            }
        }
        account.new_order(&wanted()).await
    }

    /// Proves every name that is not proven yet.
    async fn prove(&self, order: &mut Order) -> Result<(), Stop> {
        let proofs = self.proofs(order).await?;
        let hosts: Vec<&str> = proofs.iter().map(|proof| proof.host.as_str()).collect();
        if !hosts.is_empty() {
            let kind = self.job.challenge;
            self.voice.step(format!("proving {} by {kind}", hosts.join(", ")));
        }
        let shown = solve::put_up(self.job, self.client, self.voice, &proofs).await;
        let outcome = match shown {
            Ok(()) => self.validate(order).await,
            Err(fault) => Err(Stop::Refused(self.refusal(fault))),
        };
        solve::take_down(self.job, self.client, self.voice, &proofs).await;
        outcome
    }

    fn wanted(&self) -> ChallengeType {
        match self.job.challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Dns01 => ChallengeType::Dns01,
        }
    }

    async fn proofs(&self, order: &mut Order) -> Result<Vec<Proof>, Stop> {
        let mut proofs = Vec::new();
        let mut all = order.authorizations();
        while let Some(found) = all.next().await {
            let mut one = found.map_err(|error| self.stop(error, "an authorisation"))?;
            if one.status == AuthorizationStatus::Valid {
                continue;
            }
            let host = one.identifier().to_string();
            let Some(challenge) = one.challenge(self.wanted()) else {
                let what = format!("offers no {} for `{host}`", self.job.challenge);
                return Err(Stop::Refused(
                    self.refusal(
                        self.fault(&what).next("[tls]  acme = { challenge = \"dns-01\" }"),
                    ),
                ));
            };
            let authorization = challenge.key_authorization();
            proofs.push(Proof {
                host: host.trim_start_matches("*.").to_owned(),
                token: challenge.token.clone(),
                key_authorization: authorization.as_str().to_owned(),
                digest: authorization.digest().as_ref().to_vec(),
                txt: authorization.dns_value(),
            });
        }
        Ok(proofs)
    }

    async fn validate(&self, order: &mut Order) -> Result<(), Stop> {
        let mut all = order.authorizations();
        while let Some(found) = all.next().await {
            let mut one = found.map_err(|error| self.stop(error, "an authorisation"))?;
            if one.status == AuthorizationStatus::Valid {
                continue;
            }
            let Some(mut challenge) = one.challenge(self.wanted()) else { continue };
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await.map_err(|error| self.stop(error, "a challenge"))?;
            }
        }
        let policy = RetryPolicy::default().timeout(PATIENCE);
        match order.poll_ready(&policy).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid | OrderStatus::Processing) => Ok(()),
            Err(Error::Api(problem)) if problem.r#type.as_deref().is_some_and(is_nonce) => {
                Err(Stop::Again("a nonce was refused".to_owned()))
            }
            Ok(_) | Err(Error::Api(_)) => Err(self.unproven(order).await),
            Err(error) => Err(self.stop(error, "the authority's look at the proofs")),
        }
    }

    /// What the authority saw instead of the proofs.
    async fn unproven(&self, order: &mut Order) -> Stop {
        let mut seen = Vec::new();
        let mut all = order.authorizations();
        while let Some(found) = all.next().await {
            let Ok(mut one) = found else { continue };
            if one.refresh().await.is_err() {
                continue;
            }
            let host = one.identifier().to_string();
            for challenge in &one.challenges {
                if let Some(problem) = &challenge.error {
                    let detail = problem.detail.clone().unwrap_or_default();
                    seen.push(format!("{host}: {}", printable(&detail)));
                }
            }
        }
        let what = format!(
            "the authority {} could not see the proof that the names are ours",
            host_of(&self.directory.url)
        );
        let mut fault = Fault::new(Code::ChallengeFailed, what);
        for line in seen {
            fault = fault.because(line);
        }
        let way = match self.job.challenge {
            Challenge::Http01 => "port 80 of the names' addresses must lead here, from everywhere",
            Challenge::TlsAlpn01 => {
                "port 443 of the names' addresses must lead here, and TLS end here"
            }
            Challenge::Dns01 => "the zone's servers must all show the record",
        };
        Stop::Refused(self.refusal(fault.next(way).next("seaworthy cert renew --dry-run")))
    }

    /// Asks for the certificate, unless that was done before. Returns the key.
    async fn finish(
        &self,
        order: &mut Order,
        pending: &mut Option<Pending>,
    ) -> Result<String, Stop> {
        let refused = |fault: Fault| Stop::Refused(self.refusal(fault));
        if order.state().status != OrderStatus::Ready && pending.is_none() {
            order.refresh().await.map_err(|error| self.stop(error, "the order"))?;
        }
        let internal = |error: rcgen::Error| {
            refused(Fault::new(Code::Internal, "could not make a key").because_of(&error))
        };
        let begun = match pending.clone() {
            Some(begun) => begun,
            None => Pending {
                directory: self.directory.url.clone(),
                url: order.url().to_owned(),
                hosts: self.job.hosts.clone(),
                key_pem: KeyPair::generate().map_err(internal)?.serialize_pem(),
            },
        };
        if matches!(order.state().status, OrderStatus::Valid | OrderStatus::Processing) {
            return Ok(begun.key_pem);
        }
        self.voice.ask(&Event::Pending { order: begun.clone() }).await.map_err(refused)?;
        *pending = Some(begun.clone());
        let key = KeyPair::from_pem(&begun.key_pem).map_err(internal)?;
        let mut params = CertificateParams::new(self.job.hosts.clone()).map_err(internal)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(internal)?;
        order.finalize_csr(request.der()).await.map_err(|error| self.stop(error, "the order"))?;
        Ok(begun.key_pem)
    }

    fn fault(&self, what: &str) -> Fault {
        let host = host_of(&self.directory.url);
        Fault::new(Code::AuthorityRefused, format!("the authority {host} {what}"))
    }

    fn refusal(&self, fault: Fault) -> Box<Refusal> {
        let not_before = self.client.take_patience();
        Box::new(Refusal { directory: self.directory.url.clone(), fault, not_before })
    }

    /// What an error of the library means.
    fn stop(&self, error: Error, about: &str) -> Stop {
        if is_problem(&error, "badNonce") {
            return Stop::Again("a nonce was refused".to_owned());
        }
        let Error::Api(problem) = error else {
            let fault = Fault::new(
                Code::AuthorityUnreachable,
                format!("the authority {} did not give {about}", host_of(&self.directory.url)),
            );
            return Stop::Refused(self.refusal(fault.because_of(&error)));
        };
        let kind = problem.r#type.clone().unwrap_or_default();
        let mut refusal = self.refusal(
            self.fault(&format!("refused {about}"))
                .because(printable(problem.detail.as_deref().unwrap_or("it does not say why")))
                .seen(kind.clone()),
        );
        for sub in &problem.subproblems {
            let detail = printable(sub.detail.as_deref().unwrap_or_default());
            refusal.fault.causes.push(detail);
        }
        if let Some(profile) =
            self.job.profile.as_ref().filter(|_| kind.ends_with(":invalidProfile"))
        {
            let what = format!("choose another `profile` than `{profile}` for `acme` in `[tls]`");
            refusal.fault =
                refusal.fault.next(what).next(format!("curl -sS {}", self.directory.url));
        }
        if kind.ends_with(":rateLimited") && refusal.not_before.is_none() {
            let until = Timestamp(Timestamp::now().0 + due::LEFT_ALONE.as_millis() as u64);
            refusal.not_before = Some(until);
        }
        Stop::Refused(refusal)
    }
}

fn is_problem(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    problem.r#type.as_deref().and_then(|text| text.strip_prefix(PROBLEM)) == Some(kind)
}

/// Whether another order may be taken where this one was not: what is wrong with the nonce, the account, the profile or how
/// often we ask is wrong with any.
fn is_about_this_order(error: &Error) -> bool {
    let of_any = ["badNonce", "accountDoesNotExist", "rateLimited", "invalidProfile"];
    match error {
        Error::Api(_) => !of_any.iter().any(|kind| is_problem(error, kind)),
        Error::Unsupported(_) => true,
        // What it made is not what was asked for (RFC 9773 § 5); not when nobody answered.
        Error::Other(inner) => !inner.is::<ClientError>(),
        _ => false,
    }
}

fn is_nonce(kind: &str) -> bool {
    kind.strip_prefix(PROBLEM) == Some("badNonce")
}
