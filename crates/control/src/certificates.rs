//! Certificates of sites: where they come from, what is kept of them, and how they reach the edge.
//!
//! Rooms: `kept` (files of mode 0600), `job` (a site → what a worker is to do), `conduct` (a worker at it), `clock`
//! (what is due), `own` (files that somebody else renews), `view` (what people see). Invariants: a site is served
//! from its first moment (our own authority stands in until the public one has issued); one worker at a time for a
//! site, whoever asks; what was issued is kept before it is served, and served at once; an old certificate is
//! served until a new one is there, and said to be old.

mod clock;
mod conduct;
mod job;
mod kept;
mod own;
mod view;

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use seaworthy_acme::x509;
use seaworthy_api::certificates::{
    CertificatesRequest, CertificatesView, RenewProgress, RenewRequest,
};
use seaworthy_base::{Code, Fault, SiteName, Timestamp};
use seaworthy_edge::model::{Certificate, Handshake};
use seaworthy_manifest::site::tls::Handshake as Demands;
use seaworthy_manifest::site::{Site, Tls};
use tokio::sync::mpsc;

use crate::authorities::{self, Of};
use crate::edge_config;
use crate::platform::Platform;
use crate::server::{Refusal, Shared, lines};

pub(crate) use clock::run as run_clock;
pub(crate) use kept::Certificates;

/// The routes of the control protocol.
pub(crate) fn routes() -> Router<Arc<Platform>> {
    Router::new().route("/v1/certificates", post(list)).route("/v1/certificates/renew", post(renew))
}

async fn list(
    State(platform): Shared,
    Json(request): Json<CertificatesRequest>,
) -> Result<Json<CertificatesView>, Refusal> {
    view::list(&platform, request.site.as_deref()).map(Json).map_err(Refusal)
}

async fn renew(State(platform): Shared, Json(request): Json<RenewRequest>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let outcome = renew_now(&platform, &request, &sender).await;
        if let Err(fault) = outcome {
            sender.send(RenewProgress::Failed { fault }).ok();
        }
        // Nobody may be reading any more; the work was done all the same.
        sender.send(RenewProgress::End).ok();
    });
    lines(receiver)
}

async fn renew_now(
    platform: &Arc<Platform>,
    request: &RenewRequest,
    to: &mpsc::UnboundedSender<RenewProgress>,
) -> Result<(), Fault> {
    let name = view::choose(platform, request.site.as_deref())?;
    let kind = if request.dry_run { "cert-rehearse" } else { "cert-renew" };
    platform.audit(&request.asker.who, kind, name.as_str(), "");
    if request.dry_run {
        conduct::rehearse(platform, &name, to).await?;
        to.send(RenewProgress::Rehearsed).ok();
        return Ok(());
    }
    conduct::obtain(platform, &name, to).await?;
    let view = view::list(platform, Some(name.as_str()))?;
    let found = view.certificates.into_iter().find(|one| one.source == "acme");
    if let Some(certificate) = found {
        to.send(RenewProgress::Done { certificate: Box::new(certificate) }).ok();
    }
    Ok(())
}

/// Before anything is published after a start: a site whose certificate or authorities cannot be read any more holds up no
/// other.
pub(crate) fn excuse_broken(platform: &Platform) {
    for (sides, project) in clock::sites(platform) {
        for site in &sides {
            own::excuse(platform, site, &project);
            authorities::excuse(platform, site, &project);
        }
    }
}

/// An edge took these: none of them is new any more.
pub(crate) fn are_given(platform: &Platform, certificates: &[Certificate]) {
    own::are_given(platform, certificates);
}

/// Everything that is shown for a site, the first one for whoever names none of its hosts.
pub(crate) fn of_site(
    platform: &Platform,
    site: &Site,
    project: &Path,
) -> Result<Vec<Certificate>, Fault> {
    let hosts = edge_config::certificate_hosts(site);
    match &site.tls {
        Tls::Off => Ok(Vec::new()),
        Tls::Internal => Ok(vec![internal(platform, &site.name, &hosts)?]),
        Tls::Files { cert, key } => {
            Ok(match own::read(platform, &site.name, project, cert, key)? {
                Some((chain_pem, key_pem)) => vec![Certificate { hosts, chain_pem, key_pem }],
                None => vec![internal(platform, &site.name, &hosts)?],
            })
        }
        Tls::Acme(_) => {
            let issued = platform.certificates.get(&site.name).certificate;
            let Some(issued) = issued else {
                return Ok(vec![internal(platform, &site.name, &hosts)?]);
            };
            let covers = |host: &String| issued.hosts.iter().any(|name| x509::covers(name, host));
            let (covered, rest): (Vec<_>, Vec<_>) = hosts.into_iter().partition(covers);
            let (chain_pem, key_pem) = (issued.chain_pem.clone(), issued.key_pem.clone());
            let mut all = vec![Certificate { hosts: covered, chain_pem, key_pem }];
            if !rest.is_empty() {
                all.push(internal(platform, &site.name, &rest)?);
            }
            Ok(all)
        }
    }
}

/// What sites demand of handshakes beyond the usual.
pub(crate) fn handshakes<'a>(
    platform: &Platform,
    sites: impl Iterator<Item = (&'a Site, &'a Path)>,
) -> Result<Vec<Handshake>, Fault> {
    let demanding = sites.filter(|(site, _)| site.handshake != Demands::default());
    let each = demanding.map(|(site, project)| {
        let clients = site.handshake.clients.as_ref();
        let pem = clients.map(|clients| {
            let named = (site.name.clone(), Of::Clients, clients.ca.clone());
            authorities::read(platform, project, &named)
        });
        Ok(Handshake {
            hosts: edge_config::certificate_hosts(site),
            only_13: site.handshake.only_13,
            clients_pem: pem.transpose()?,
            require: clients.is_some_and(|clients| clients.require),
        })
    });
    each.collect()
}

fn internal(platform: &Platform, site: &SiteName, hosts: &[String]) -> Result<Certificate, Fault> {
    platform.authority.leaf(site.as_str(), hosts, Timestamp::now()).map_err(|error| {
        let what = format!("could not make a certificate for site `{site}`");
        Fault::new(Code::Internal, what).because_of(&error)
    })
}
