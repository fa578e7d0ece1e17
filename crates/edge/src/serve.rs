//! One request, from its head to its answer: host and path → route → action → headers → log.
//!
//! Invariants: every answer carries the request's id, errors included; the path that is routed is the
//! path that goes upstream; an upgrade is passed on only after the instance agreed (101), and its
//! connection is never used for anything else.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, REFERER, UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use seaworthy_base::RequestId;

use crate::access_log::{self, Entry};
use crate::forwarded::{self, Context as Way};
use crate::model::Action;
use crate::respond::{self, Body, BodyError};
use crate::route::{self, CompiledRoute, CompiledSite, Found};
use crate::snapshot::{Instance, Shared};
use crate::static_files;
use crate::upstream::{self, InFlight};
use crate::worker::Local;

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) http2: bool,
}

/// What the log will say.
#[derive(Debug)]
struct Record {
    id: RequestId,
    begun: Instant,
    client: IpAddr,
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    http2: bool,
    tls: bool,
    agent: String,
    referer: String,
    site: Option<Arc<CompiledSite>>,
    route: Option<Arc<CompiledRoute>>,
    upstream: Option<Arc<str>>,
    upstream_ms: Option<f64>,
    retries: u32,
    cause: Option<String>,
    bytes_in: u64,
}

/// Answers one request.
pub(crate) async fn handle(
    local: Rc<Local>,
    client: Client,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let id = local.next_id();
    let text = |headers: &HeaderMap, name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    };
    let mut record = Record {
        id,
        begun: Instant::now(),
        client: client.peer,
        method: request.method().clone(),
        host: String::new(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        http2: client.http2,
        tls: client.tls,
        agent: text(request.headers(), USER_AGENT),
        referer: access_log::url_without_secrets(&text(request.headers(), REFERER)),
        site: None,
        route: None,
        upstream: None,
        upstream_ms: None,
        retries: 0,
        cause: None,
        bytes_in: length(request.headers()),
    };
    let accept = request.headers().get(ACCEPT).cloned();
    let mut response = match answer(&local, client, request, &mut record).await {
        Ok(response) => response,
        Err((status, cause)) => {
            if status.is_server_error() {
                local.shared.failed.fetch_add(1, Ordering::Relaxed);
            }
            record.cause = Some(cause);
            let mut response = respond::error(status, id, accept.as_ref());
            response.headers_mut().insert("x-request-id", id_value(id));
            // After a request that is not understood nothing on the connection can be trusted.
            if matches!(
                status,
                StatusCode::BAD_REQUEST
                    | StatusCode::PAYLOAD_TOO_LARGE
                    | StatusCode::METHOD_NOT_ALLOWED
            ) && !client.http2
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    if local.draining.get() && !client.http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    local.shared.requests.fetch_add(1, Ordering::Relaxed);
    let status = response.status().as_u16();
    Ok(response.map(|body| -> Body {
        Box::pin(Logged { body, bytes: 0, status, record: Some(record), local })
    }))
}

/// Logs what was refused before it became a request, and says what the client is told.
pub(crate) fn refused(
    shared: &Shared,
    id: RequestId,
    client: Client,
    status: StatusCode,
    cause: &str,
) -> String {
    let answer = respond::refusal(status, id);
    let (time, text) = access_log::stamp(id);
    shared.log.write(&Entry {
        time,
        id: text,
        site: "",
        client: client.peer.to_string(),
        method: "",
        host: "",
        path: String::new(),
        status: status.as_u16(),
        bytes_in: 0,
        bytes_out: answer.len() as u64,
        ms: 0.0,
        upstream: None,
        upstream_ms: None,
        proto: "HTTP/1.1",
        tls: client.tls,
        retries: 0,
        cause: Some(cause),
        agent: "",
        referer: "",
    });
    answer
}

type Refusal = (StatusCode, String);

fn bad(error: route::BadRequest) -> Refusal {
    (StatusCode::BAD_REQUEST, error.0.to_owned())
}

fn length(headers: &HeaderMap) -> u64 {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn id_value(id: RequestId) -> HeaderValue {
    HeaderValue::from_bytes(&id.encode()).unwrap_or(HeaderValue::from_static(""))
}

/// The one host of a request: the authority (HTTP/2, absolute form) and `Host` must not differ.
fn host_of(request: &Request<Incoming>) -> Result<String, Refusal> {
    let mut given = request.headers().get_all(HOST).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_some() {
        return Err((StatusCode::BAD_REQUEST, "two Host headers".to_owned()));
    }
    let header =
        first.map(|value| route::canonical_host(value.as_bytes())).transpose().map_err(bad)?;
    let authority = request
        .uri()
        .authority()
        .map(|authority| route::canonical_host(authority.as_str().as_bytes()))
        .transpose()
        .map_err(bad)?;
    match (authority, header) {
        (Some(authority), Some(header)) if authority != header => {
            Err((StatusCode::BAD_REQUEST, "the target and the Host header differ".to_owned()))
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err((StatusCode::BAD_REQUEST, "no Host header".to_owned())),
    }
}

async fn answer(
    local: &Rc<Local>,
    client: Client,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served".to_owned()));
    }
    let chunked_1_0 = request.version() == Version::HTTP_10
        && request.headers().contains_key(http::header::TRANSFER_ENCODING);
    if chunked_1_0 {
        return Err((StatusCode::BAD_REQUEST, "Transfer-Encoding with HTTP/1.0".to_owned()));
    }
    record.host = host_of(&request)?;
    route::check_path(&record.path).map_err(bad)?;
    let snapshot = local.current();
    let (site, found) = match snapshot.table.find(&record.host, request.method(), &record.path) {
        Found::NoSite => {
            return Err((StatusCode::MISDIRECTED_REQUEST, "no site serves this host".to_owned()));
        }
        Found::NoRoute(site) => {
            record.site = Some(site);
            return Err((StatusCode::NOT_FOUND, "no route matches".to_owned()));
        }
        Found::RedirectHost(site) => {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            let response = match site.https_port {
                Some(port) => respond::to_https(&site.canonical, port, target),
                None => respond::redirect(
                    StatusCode::PERMANENT_REDIRECT,
                    &format!("http://{}{target}", site.canonical),
                ),
            };
            record.site = Some(site);
            return Ok(response);
        }
        Found::Route(site, route) => (site, route),
    };
    record.client = forwarded::client_ip(client.peer, request.headers(), |ip| site.trusts(ip));
    (record.site, record.route) = (Some(Arc::clone(&site)), Some(Arc::clone(&found)));
    if let (false, Some(port)) = (client.tls, site.https_port) {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        return Ok(respond::to_https(&record.host, port, target));
    }
    if found.settings.body_limit.is_some_and(|limit| length(request.headers()) > limit) {
        return Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than the route's body_limit".to_owned(),
        ));
    }
    act(local, client, request, record, &found).await
}

async fn act(
    local: &Rc<Local>,
    client: Client,
    request: Request<Incoming>,
    record: &mut Record,
    route: &Arc<CompiledRoute>,
) -> Result<Response<Body>, Refusal> {
    let id = id_value(record.id);
    let host = record.host.clone();
    let way = |upgrade: bool| Way {
        client: record.client,
        tls: client.tls,
        host: &host,
        port: client.port,
        id: &id,
        upgrade,
    };
    let mut response = match &route.action {
        Action::Block => return Err((StatusCode::NOT_FOUND, "the route is blocked".to_owned())),
        Action::Redirect { to, status } => {
            let query = record.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
            let place = to.replace("$path", &record.path).replace("$query", &query);
            respond::redirect(
                StatusCode::from_u16(*status).unwrap_or(StatusCode::PERMANENT_REDIRECT),
                &place,
            )
        }
        Action::Respond { status, body, content_type } => {
            respond::fixed(*status, body, content_type)
        }
        Action::Static { root, spa, cache_control } => {
            let served = static_files::serve(
                root,
                *spa,
                cache_control,
                &record.path,
                request.method(),
                request.headers(),
            );
            served.map_err(|status| (status, "no such file".to_owned()))?
        }
        Action::Proxy(service) => {
            let service = service.clone();
            let upgrade = wants_upgrade(&request);
            let way = way(upgrade);
            return forward(local, &service, request, way, route, record).await;
        }
    };
    forwarded::finish(
        response.headers_mut(),
        &way(false),
        None,
        &route.response_rules,
        &route.cache_control,
        &record.path,
    );
    Ok(response)
}

fn wants_upgrade(request: &Request<Incoming>) -> bool {
    let connection =
        request.headers().get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asked = connection
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let protocol =
        request.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // h2c would hide requests from the routes.
    asked
        && request.version() == Version::HTTP_11
        && !protocol.is_empty()
        && !protocol.to_ascii_lowercase().contains("h2c")
}

async fn forward(
    local: &Rc<Local>,
    service: &str,
    mut request: Request<Incoming>,
    way: Way<'_>,
    route: &Arc<CompiledRoute>,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    let client_upgrade = way.upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let replayable = upstream::is_replayable(&parts.method, &body) && !way.upgrade;
    let host = parts.headers.get(HOST).cloned().or_else(|| {
        parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    });
    if parts.headers.get_all(http::header::COOKIE).iter().count() > 1 {
        join_cookies(&mut parts.headers);
    }
    forwarded::prepare(&mut parts.headers, &way, &route.request_rules);
    if let Some(host) = host {
        parts.headers.insert(HOST, host);
    }
    parts.version = Version::HTTP_11;
    parts.uri = parts
        .uri
        .path_and_query()
        .and_then(|target| target.as_str().parse().ok())
        .unwrap_or_default();
    let limit = route.settings.body_limit.unwrap_or(u64::MAX);
    let fault: Rc<Cell<Option<(StatusCode, &'static str)>>> = Rc::default();
    let body: Body = if body.is_end_stream() {
        respond::empty()
    } else {
        Box::pin(Limited { body, left: limit, fault: Rc::clone(&fault) })
    };
    let begun = Instant::now();
    let sent = upstream::send(
        local,
        service,
        &route.settings,
        Request::from_parts(parts, body),
        replayable,
    )
    .await;
    record.upstream_ms = Some(millis(begun));
    let answer = match sent {
        Ok(answer) => answer,
        Err(failure) => {
            record.upstream = failure.instance;
            // What the client sent was wrong, whatever the instance made of the part that it got.
            if let Some((status, cause)) = fault.get() {
                return Err((status, cause.to_owned()));
            }
            return Err((failure.status, failure.cause));
        }
    };
    record.retries = answer.retries;
    record.upstream = Some(Arc::clone(&answer.instance.name));
    let upstream::Answer { mut response, instance, guard, sender, .. } = answer;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_upgrade) = client_upgrade else {
            return Err((
                StatusCode::BAD_GATEWAY,
                "the instance switched protocols unasked".to_owned(),
            ));
        };
        let instance_upgrade = hyper::upgrade::on(&mut response);
        tunnel(local, client_upgrade, instance_upgrade, guard);
        forwarded::finish(
            response.headers_mut(),
            &way,
            Some(instance.address),
            &route.response_rules,
            &[],
            &record.path,
        );
        return Ok(response.map(|_| respond::empty()));
    }
    let plain = Way { upgrade: false, ..way };
    forwarded::finish(
        response.headers_mut(),
        &plain,
        Some(instance.address),
        &route.response_rules,
        &route.cache_control,
        &record.path,
    );
    Ok(response.map(|body| -> Body {
        Box::pin(FromInstance {
            body,
            rest: Some(Rest { sender, instance, local: Rc::clone(local), _guard: guard }),
        })
    }))
}

fn millis(begun: Instant) -> f64 {
    (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// HTTP/2 may split a cookie header; HTTP/1.1 may not (RFC 9113 § 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> =
        headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(http::header::COOKIE, joined);
    }
}

/// Copies both ways until one side ends.
fn tunnel(
    local: &Rc<Local>,
    client: hyper::upgrade::OnUpgrade,
    instance: hyper::upgrade::OnUpgrade,
    guard: InFlight,
) {
    let local = Rc::clone(local);
    tokio::task::spawn_local(async move {
        let (Ok(client), Ok(instance)) = (client.await, instance.await) else { return };
        // Long-lived: it does not hold up the end of the instance's other work.
        drop(guard);
        local.shared.upgraded.fetch_add(1, Ordering::Relaxed);
        let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
        tokio::io::copy_bidirectional(&mut client, &mut instance).await.ok();
        local.shared.upgraded.fetch_sub(1, Ordering::Relaxed);
    });
}

/// A request's body that may not grow past its limit.
struct Limited {
    body: Incoming,
    left: u64,
    /// Why the request cannot be finished.
    fault: Rc<Cell<Option<(StatusCode, &'static str)>>>,
}

impl hyper::body::Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        Poll::Ready(match std::task::ready!(polled) {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                if size > self.left {
                    self.fault.set(Some((
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "the body is larger than the route's body_limit",
                    )));
                    return Poll::Ready(Some(Err(
                        "the body is larger than the route's body_limit".into(),
                    )));
                }
                self.left -= size;
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.fault.set(Some((
                    StatusCode::BAD_REQUEST,
                    "the body was cut off, or its chunks are not in order",
                )));
                Some(Err(error.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What is kept until an instance's response was read whole.
struct Rest {
    sender: SendRequest<Body>,
    instance: Arc<Instance>,
    local: Rc<Local>,
    _guard: InFlight,
}

/// An instance's response; at its end the connection goes back into the pool.
struct FromInstance {
    body: Incoming,
    rest: Option<Rest>,
}

impl FromInstance {
    fn finish(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.local.pool.put(&rest.instance, rest.sender);
        }
    }
}

impl Drop for FromInstance {
    fn drop(&mut self) {
        // hyper asks for no further frame when it has sent all it promised.
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}

impl hyper::body::Body for FromInstance {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if polled.is_none() {
            self.finish();
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response on its way to the client; the log line is written at its end, however it ends.
struct Logged {
    body: Body,
    bytes: u64,
    status: u16,
    record: Option<Record>,
    local: Rc<Local>,
}

impl hyper::body::Body for Logged {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = std::task::ready!(self.body.as_mut().poll_frame(context));
        if let Some(Ok(frame)) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        if record.route.as_ref().is_some_and(|route| !route.settings.log) {
            return;
        }
        let (time, id) = access_log::stamp(record.id);
        self.local.shared.log.write(&Entry {
            time,
            id,
            site: record.site.as_ref().map_or("", |site| &site.name),
            client: record.client.to_string(),
            method: record.method.as_str(),
            host: &record.host,
            path: access_log::without_secrets(&record.path, record.query.as_deref()),
            status: self.status,
            bytes_in: record.bytes_in,
            bytes_out: self.bytes,
            ms: millis(record.begun),
            upstream: record.upstream.as_deref(),
            upstream_ms: record.upstream_ms,
            proto: if record.http2 { "HTTP/2" } else { "HTTP/1.1" },
            tls: record.tls,
            retries: record.retries,
            cause: record.cause.as_deref(),
            agent: &record.agent,
            referer: &record.referer,
        });
    }
}
