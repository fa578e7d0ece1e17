//! One request, from its head to its answer: host and path → route → action → headers → log.
//!
//! Deciding is plain code ([`find`], [`decide`]); only what goes to an instance waits ([`proxy`]), or is counted elsewhere. Invariants:
//! every answer carries the request's id and obeys its route's header rules, errors included; the path
//! that is routed is the path that goes upstream; on a TLS connection that was opened for one site no
//! other site is served.

mod cached;
mod events;
mod frames;
mod guarded;
mod health;
mod proxy;
mod record;
mod refusal;
mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{ACCEPT, ALT_SVC, CONNECTION, HOST, HeaderName, SET_COOKIE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Version};

pub(crate) use record::{Record, micros};
pub(crate) use refusal::{refused, turned_down};
pub(crate) use tunnel::Tunnel;

use crate::body::{ClientBody, ResponseBody};
use crate::candidate::Candidate;
use crate::forwarded;
use crate::gate::{self, Passage};
use crate::model::Action;
use crate::outgoing;
use crate::policy;
use crate::policy::lockout::Texts;
use crate::respond;
use crate::route::{self, CanonicalPath, CompiledRoute, CompiledSite, Found, Table};
use crate::shape;
use crate::static_files;
use crate::worker::Local;

/// The client's certificate (RFC 9440 § 2.2).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// What stands behind it (RFC 9440 § 2.3); never passed on.
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// Whether one was shown.
const X_CLIENT_VERIFIED: HeaderName = HeaderName::from_static("x-client-verified");

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.0 or 1.1: messages follow each other.
    Http1,
    /// Streams beside each other, over TCP.
    Http2,
    /// Streams beside each other, over QUIC.
    Http3,
}

/// Who is at the other end of the connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) protocol: Protocol,
    /// The name that was asked for in the TLS handshake, in its one spelling.
    pub(crate) server_name: Option<String>,
    /// The certificate that it showed, as a header (RFC 9440 § 2.2).
    pub(crate) certificate: Option<HeaderValue>,
    /// `peer` and `port` as headers, made once for the connection.
    pub(crate) peer_text: HeaderValue,
    pub(crate) port_text: HeaderValue,
    /// It is an application that calls others: where it came in.
    pub(crate) outgoing: Option<SocketAddr>,
}

impl Client {
    pub(crate) fn new(peer: IpAddr, port: u16, tls: bool) -> Self {
        let peer = peer.to_canonical();
        Self {
            peer,
            port,
            tls,
            protocol: Protocol::Http1,
            server_name: None,
            certificate: None,
            peer_text: forwarded::address_value(peer),
            port_text: HeaderValue::from(port),
            outgoing: None,
        }
    }
}

/// Status and cause; the cause is for the log only.
type Refusal = (StatusCode, String);

fn refuse<T>(status: StatusCode, cause: &str) -> Result<T, Refusal> {
    Err((status, cause.to_owned()))
}

fn bad(error: route::BadRequest) -> Refusal {
    (StatusCode::BAD_REQUEST, error.0.to_owned())
}

/// An answer of our own; none where the request's route leads to an instance.
type Decision = Option<Response<ResponseBody>>;

/// Answers one request.
pub(crate) async fn handle(
    local: Rc<Local>,
    client: Arc<Client>,
    parts: Box<Parts>,
    body: ClientBody,
) -> Response<ResponseBody> {
    // What few requests need is boxed: the others' futures need no room for it.
    if let Some(address) = client.outgoing {
        return Box::pin(outgoing::call(&local, &client, address, parts, body)).await;
    }
    let mut record = Box::new(Record::new(&local, &client, &parts));
    let accept = parts.headers.get(ACCEPT).cloned();
    let mut id =
        HeaderValue::from_bytes(&record.id.encode()).unwrap_or(HeaderValue::from_static(""));
    // It never comes again, so that no table of HTTP/2 need remember it.
    id.set_sensitive(client.protocol == Protocol::Http2);
    let result = answer(&local, &client, parts, body, &id, &mut record).await;
    let (mut response, from) = result.unwrap_or_else(|(status, cause)| {
        if status.is_server_error() {
            local.shared.failed.fetch_add(1, Ordering::Relaxed);
        }
        record.cause = Some(cause);
        (refusal::answer(&client, status, &record, accept.as_ref()), None)
    });
    let status = response.status();
    let upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
    let way = forwarded::Way {
        tls: record.secure,
        host: &record.host,
        port: record.port,
        id: &id,
        trace: None,
        upgrade,
    };
    let close =
        response.headers().get(CONNECTION).is_some_and(|value| from.is_none() && value == "close");
    forwarded::finish(
        response.headers_mut(),
        &way,
        from,
        status,
        record.route.as_deref(),
        &record.uri,
    );
    if !upgrade {
        policy::finish(response.headers_mut(), &mut record, status);
    }
    if let Some(other) = announced(&local, &client, &record) {
        response.headers_mut().insert(ALT_SVC, other.clone());
    }
    for cookie in [record.visit.take(), record.place.take()].into_iter().flatten() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    if client.protocol == Protocol::Http1 && !upgrade && (close || local.draining.get()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    local.shared.requests.add();
    record.status = status.as_u16();
    if let Some(attempt) = record.attempt.take() {
        attempt.settle(status, response.headers(), &Texts::default());
    }
    shape::shape(response, &mut record).map(|body| body.logged(record))
}

/// What a request is answered with, and the instance that it came from.
async fn answer(
    local: &Rc<Local>,
    client: &Arc<Client>,
    mut parts: Box<Parts>,
    body: ClientBody,
    id: &HeaderValue,
    record: &mut Record,
) -> Result<(Response<ResponseBody>, Option<SocketAddr>), Refusal> {
    if let Some(own) = admit(local, client, &mut parts, record).await? {
        return Ok((own, None));
    }
    if record.is_guarded() {
        return Box::pin(guarded::forward(local, client, *parts, body, id, record)).await;
    }
    proxy::forward(local, client, &mut parts, body, id, record).await
}

/// Whatever may answer before an instance is asked, one after the other.
async fn admit(
    local: &Rc<Local>,
    client: &Client,
    parts: &mut Parts,
    record: &mut Record,
) -> Result<Decision, Refusal> {
    if let Some(proof) = local.shared.challenges.answer(parts.uri.path()) {
        return Ok(Some(proof));
    }
    if let Some(closed) = pass_gate(local, client, parts, record).await? {
        return Ok(Some(closed));
    }
    if let Some(own) = find(local, client, parts, record)? {
        return Ok(Some(own));
    }
    decide(local, parts, record).await
}

/// That the site is served over HTTP/3 too (RFC 7838 § 3), for who came another way and not through a proxy,
/// which would take it for itself or pass it on to those who cannot reach us.
fn announced<'a>(local: &Local, client: &Client, record: &'a Record) -> Option<&'a HeaderValue> {
    let site = record.site.as_ref()?;
    let other = site.alt_svc.as_ref()?;
    let here = client.tls && client.protocol != Protocol::Http3;
    let on = here && local.shared.speaks_http3.load(Ordering::Relaxed);
    (on && !site.trusts(client.peer)).then_some(other)
}

/// The one host of a request: the authority (HTTP/2, absolute form) and `Host` must not differ.
fn host_of(parts: &Parts) -> Result<String, Refusal> {
    let mut given = parts.headers.get_all(HOST).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_some() {
        return refuse(StatusCode::BAD_REQUEST, "two Host headers");
    }
    let header =
        first.map(|value| route::canonical_host(value.as_bytes())).transpose().map_err(bad)?;
    let authority = parts
        .uri
        .authority()
        .map(|authority| route::canonical_host(authority.as_str().as_bytes()))
        .transpose()
        .map_err(bad)?;
    match (authority, header) {
        (Some(authority), Some(header)) if authority != header => {
            refuse(StatusCode::BAD_REQUEST, "the target and the Host header differ")
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => refuse(StatusCode::BAD_REQUEST, "no Host header"),
    }
}

/// Path and query, as a redirect repeats them.
fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// A site that is closed for a while answers itself, or lets the request wait.
async fn pass_gate(
    local: &Rc<Local>,
    client: &Client,
    parts: &Parts,
    record: &mut Record,
) -> Result<Decision, Refusal> {
    let snapshot = local.current();
    if !snapshot.table.gated {
        return Ok(None);
    }
    let host = host_of(parts)?;
    let Some(site) = snapshot.table.site(&host) else { return Ok(None) };
    if site.gate.is_none() {
        return Ok(None);
    }
    // How a closed site is it says itself: who watches it must not wait.
    let path = CanonicalPath::parse(parts.uri.path());
    if path.is_ok_and(|path| snapshot.table.is_health(&host, &parts.method, &path)) {
        return Ok(None);
    }
    let ip = forwarded::client_ip(client.peer, &parts.headers, |ip| site.trusts(ip));
    let passage = gate::pass(local, &host, ip).await;
    if !matches!(passage, Passage::Open) {
        (record.client, record.site) = (ip, Some(Arc::clone(site)));
        record.host = host;
    }
    match passage {
        Passage::Open => Ok(None),
        Passage::Closed(answer) => Ok(Some(*answer)),
        Passage::Refused(status, cause) => refuse(status, cause),
    }
}

/// Site and route, and what they answer themselves; none where the route is to be gone.
fn find(
    local: &Local,
    client: &Client,
    parts: &mut Parts,
    record: &mut Record,
) -> Result<Decision, Refusal> {
    if parts.method == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served");
    }
    if parts.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        // Some servers take `post` for `POST`; routes and limits are for methods as they are spelt.
        return refuse(StatusCode::BAD_REQUEST, "a method in small letters");
    }
    if parts.version == Version::HTTP_10 && parts.headers.contains_key(TRANSFER_ENCODING) {
        return refuse(StatusCode::BAD_REQUEST, "Transfer-Encoding with HTTP/1.0");
    }
    record.host = host_of(parts)?;
    let path = CanonicalPath::parse(parts.uri.path()).map_err(bad)?;
    let snapshot = local.current();
    let table = &snapshot.table;
    let mut preview = None;
    let (tried, visit) = (&mut record.tried, &mut record.visit);
    let pick = |candidate: &Candidate| {
        preview = candidate.preview(parts, client.tls);
        let choice = candidate.choose(&parts.headers, || rand::random_range(0..u16::MAX));
        (*tried, *visit) = (choice.next, choice.cookie);
        choice.next
    };
    let announced = policy::cors::announced(&parts.method, &parts.headers);
    let found = table.find_with(&record.host, (&parts.method, announced.as_ref()), &path, pick);
    if preview.is_some() {
        return Ok(preview);
    }
    let (site, found) = match found {
        Found::NoSite => {
            return refuse(StatusCode::MISDIRECTED_REQUEST, "no site serves this host");
        }
        Found::NoRoute(site) => {
            know(client, parts, record, site);
            return refuse(StatusCode::NOT_FOUND, "no route matches");
        }
        Found::NoMethod(site, methods) => {
            know(client, parts, record, site);
            record.cause = Some("no route is for this method".to_owned());
            return Ok(Some(respond::not_allowed(&methods, record.id, parts.headers.get(ACCEPT))));
        }
        Found::RedirectHost(site) => {
            let response = match site.https_port {
                Some(port) => respond::to_https(&site.canonical, port, target(parts)),
                None => respond::redirect(
                    StatusCode::PERMANENT_REDIRECT,
                    &format!("http://{}{}", site.canonical, target(parts)),
                ),
            };
            know(client, parts, record, site);
            return Ok(Some(response));
        }
        Found::Route(site, route) => (site, route),
    };
    know(client, parts, record, Arc::clone(&site));
    if is_misdirected(table, client, &record.host) {
        return refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "the TLS connection was opened for a name of another site",
        );
    }
    if client.protocol == Protocol::Http3 && site.alt_svc.is_none() {
        return refuse(StatusCode::MISDIRECTED_REQUEST, "the site is not served over HTTP/3");
    }
    record.route = Some(Arc::clone(&found));
    if let (false, Some(port)) = (record.secure, site.https_port) {
        return Ok(Some(respond::to_https(&record.host, port, target(parts))));
    }
    if let Some(required) = site.clients {
        pass_certificate(client, required, parts)?;
    }
    record.note(parts, &found);
    Ok(None)
}

/// Whose request it is, and how it came, as a proxy of the site tells it; what is refused is logged so, too.
fn know(client: &Client, parts: &Parts, record: &mut Record, site: Arc<CompiledSite>) {
    let trusts = |ip| site.trusts(ip);
    record.client = forwarded::client_ip(client.peer, &parts.headers, trusts);
    if trusts(client.peer) {
        (record.secure, record.port) =
            forwarded::public_way(&parts.headers, (client.tls, client.port));
    }
    record.site = Some(site);
}

/// What the route demands, and then does. Waits only for stores, where the route has any.
async fn decide(
    local: &Rc<Local>,
    parts: &mut Parts,
    record: &mut Record,
) -> Result<Decision, Refusal> {
    let Some((site, found)) = record.site.clone().zip(record.route.clone()) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "a request without a route");
    };
    let mut admitted = policy::admit_counts(local, parts, record, &site, &found);
    if admitted.is_ok() && found.policy.is_stored {
        let of = policy::stored::Of { site: &site, route: &found, parts, fields: None };
        admitted = policy::stored::admit(local, record, of).await;
    }
    let admitted = admitted.and_then(|()| policy::admit(local, parts, record, &site, &found));
    if let Err(refused) = admitted {
        return Ok(Some(refused.answer(parts, record)));
    }
    if found.settings.body_limit.is_some_and(|limit| record::length(&parts.headers) > limit) {
        return refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than the route's body_limit",
        );
    }
    policy::prepare(parts, &found);
    act(local, parts, record, (&site, &found))
}

/// Tells the instance which certificate the client showed, and nothing that the client says of it itself.
fn pass_certificate(client: &Client, required: bool, parts: &mut Parts) -> Result<(), Refusal> {
    if required && client.certificate.is_none() {
        // The handshake was for no name or another one: there nobody asked.
        return refuse(StatusCode::MISDIRECTED_REQUEST, "no client certificate was asked for");
    }
    parts.headers.remove(CLIENT_CERT);
    parts.headers.remove(CLIENT_CERT_CHAIN);
    let verified = if client.certificate.is_some() { "1" } else { "0" };
    parts.headers.insert(X_CLIENT_VERIFIED, HeaderValue::from_static(verified));
    if let Some(certificate) = &client.certificate {
        parts.headers.insert(CLIENT_CERT, certificate.clone());
    }
    Ok(())
}

/// Whether the connection was opened for another site's name: its certificate and its tickets are that
/// site's (RFC 9110 § 15.5.20). Without a name, or with one that nobody has, there is nothing to compare.
fn is_misdirected(table: &Table, client: &Client, host: &str) -> bool {
    client.server_name.as_deref().is_some_and(|name| name != host && !table.same_site(name, host))
}

fn act(
    local: &Local,
    parts: &Parts,
    record: &mut Record,
    (site, route): (&CompiledSite, &CompiledRoute),
) -> Result<Decision, Refusal> {
    let response = match &route.action {
        Action::Block => return refuse(StatusCode::NOT_FOUND, "the route is blocked"),
        Action::Redirect { to, status } => {
            let query = parts.uri.query().map_or(String::new(), |query| format!("?{query}"));
            let place = to.replace("$path", parts.uri.path()).replace("$query", &query);
            respond::redirect(
                StatusCode::from_u16(*status).unwrap_or(StatusCode::PERMANENT_REDIRECT),
                &place,
            )
        }
        Action::Respond { status, body, content_type } => {
            respond::fixed(*status, body, content_type)
        }
        Action::Static { root, spa, cache_control } => static_files::serve(
            root,
            *spa,
            cache_control,
            &parts.uri,
            &parts.method,
            &parts.headers,
        )
        .map_err(|status| (status, "no such file".to_owned()))?,
        Action::Health => match &site.health {
            Some(aggregate) => health::answer(local, parts, record, (site, aggregate)),
            None => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "nothing to look at"),
        },
        Action::Proxy(_) | Action::ClientEvents => return Ok(None),
    };
    Ok(Some(response))
}
