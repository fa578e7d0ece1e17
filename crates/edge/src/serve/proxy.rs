//! A request that goes to an instance, and what comes back.
//!
//! Invariants: an upgrade is passed on only after the instance agreed (101), and its connection is never
//! used for anything else; what the client sent wrongly is the client's fault, whatever the instance made
//! of the part that it got.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use seaworthy_base::delivery::Balance;
use tokio::time::Instant;

use super::tunnel::Tunnel;
use super::{Client, Record, Refusal, events, refuse};
use crate::body::{ClientBody, Content, FromInstance, Progress, RequestBody, ResponseBody, Times};
use crate::events::EventStream;
use crate::forwarded::{self, Way, lists};
use crate::model::{Action, Settings};
use crate::policy::keys::{Caller, Hasher, Keys};
use crate::trace;
use crate::upstream::{self, Aim, Answer, Outgoing, sticky};
use crate::watch::Alarm;
use crate::worker::Local;

/// Sends a request on, and gives the response with the address it came from.
pub(super) async fn forward(
    local: &Rc<Local>,
    client: &Client,
    parts: &mut Parts,
    body: ClientBody,
    id: &HeaderValue,
    record: &mut Record,
) -> Result<(Response<ResponseBody>, Option<SocketAddr>), Refusal> {
    let Some(route) = record.route.clone() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "a request without a route");
    };
    if route.action == Action::ClientEvents {
        let answer = Box::pin(events::take(local, parts, body, record)).await?;
        return Ok((answer, None));
    }
    let Action::Proxy(service) = &route.action else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the route leads to no service");
    };
    let upgrade = wants_upgrade(parts);
    let replayable = !upgrade && upstream::is_replayable(&parts.method, &body);
    let idle = route.settings.idle_ms.map(Duration::from_millis);
    record.trace = trace::kept(&mut parts.headers);
    let trace = record.trace.is_none().then(|| trace::fresh(record.id));
    let way = Way {
        tls: record.secure,
        host: &record.host,
        port: record.port,
        id,
        trace: trace.as_ref().map(<[u8; 55]>::as_slice),
        upgrade,
    };
    complete(parts);
    let (address, port) = told(client, record.client, record.port);
    let ruled = !route.request_rules.is_empty();
    let prepare = |headers: &mut HeaderMap| {
        let (address, port) = (address.clone(), port.clone());
        forwarded::prepare(headers, &way, address, port, &route.request_rules);
    };
    if ruled {
        prepare(&mut parts.headers);
    }
    let fields = |out: &mut Vec<u8>| {
        if ruled {
            forwarded::encode_all(out, &parts.headers);
        } else {
            forwarded::encode(out, &parts.headers, &way, &address, &port);
        }
    };
    let headers = || {
        let mut headers = parts.headers.clone();
        if !ruled {
            prepare(&mut headers);
        }
        headers
    };
    let delivery = &route.settings.delivery;
    let kept = delivery.sticky.then(|| local.shared.signing());
    let wanted = kept.and_then(|key| sticky::read(key, service, &parts.headers));
    let read = if let ClientBody::Read(bytes) = &body { bytes.len() } else { 0 };
    let aim = Aim {
        service,
        delivery,
        hash: hash(local, parts, record, &delivery.balance),
        wanted,
        size: &|| size(parts, read),
        breaker: route.breaker(&local.shared.breakers, service),
    };
    let (body, progress) = begin(local, body, &route.settings, upgrade).await?;
    let begun = record.begun;
    let request = Outgoing {
        parts,
        fields: &fields,
        headers: &headers,
        progress: progress.as_deref(),
        replayable,
        begun,
        client: Some(record.client),
        tls: None,
    };
    let sent = upstream::send(local, &aim, &route.settings, &request, body).await;
    let at = sent.as_ref().map_or_else(|_| Instant::now(), |answer| answer.at);
    record.upstream_micros = Some(at.saturating_duration_since(begun).as_micros() as u64);
    local.rooms.keep_fields(std::mem::take(&mut parts.headers));
    let answer = match sent {
        Ok(answer) => answer,
        Err(failure) => {
            record.upstream = failure.instance;
            // What the client sent wrongly is its own fault.
            let fault = progress.and_then(|progress| progress.fault());
            return fault.map_or(Err((failure.status, failure.cause)), |(status, cause)| {
                refuse(status, cause)
            });
        }
    };
    record.retries = answer.retries;
    record.upstream = Some(Arc::clone(&answer.instance.name));
    if let (Some(key), tag) = (kept, answer.instance.tag)
        && wanted != Some(tag)
    {
        record.place = sticky::cookie(key, service, tag, record.secure);
    }
    let times = Times { idle, end: delivery.total.and_then(|total| begun.checked_add(total)) };
    pass_back(local, answer, upgrade, times)
}

/// The body as it goes to the instance, with its progress where there is one; its beginning is there.
async fn begin(
    local: &Rc<Local>,
    body: ClientBody,
    settings: &Settings,
    upgrade: bool,
) -> Result<(RequestBody, Option<Rc<Progress>>), Refusal> {
    let idle = settings.idle_ms.map(Duration::from_millis);
    let alarm = || Alarm::of_client(&local.watch);
    let (mut body, progress) = RequestBody::new(body, settings.body_limit, idle, alarm);
    // Without an idle time the route streams.
    if idle.is_some() && !upgrade {
        body.begin().await.or_else(|(status, cause)| refuse(status, cause))?;
    }
    Ok((body, progress))
}

/// What the client is sent of an answer, and where it came from.
fn pass_back(
    local: &Rc<Local>,
    answer: Answer,
    upgrade: bool,
    times: Times,
) -> Result<(Response<ResponseBody>, Option<SocketAddr>), Refusal> {
    let Answer { response, flow, instance, guard, .. } = answer;
    let address = Some(instance.public_address());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some((instance, behind)) = flow.into_stream().filter(|_| upgrade) else {
            return refuse(StatusCode::BAD_GATEWAY, "the instance switched protocols unasked");
        };
        let shared = Arc::clone(&local.shared);
        let protocol = response.headers().get(UPGRADE).map(HeaderValue::as_bytes);
        let is_web_socket = protocol.is_some_and(|name| name.eq_ignore_ascii_case(b"websocket"));
        let tunnel = Tunnel { instance, behind, is_web_socket, shared, guard };
        let content = Content::Tunnel(Some(Box::new(tunnel)));
        return Ok((response.map(|()| ResponseBody::from(content)), address));
    }
    let events = is_event_stream(&response).then(|| EventStream::new(&instance, &local.shared));
    let mut body = Box::new(FromInstance::new(flow, instance, Rc::clone(local), guard, times));
    if let Some(events) = events {
        body.take_events(events);
    }
    Ok((response.map(|()| ResponseBody::from(Content::Instance(body))), address))
}

/// A stream of server-sent events that we can read: whoever compressed it has to end it.
fn is_event_stream(response: &Response<()>) -> bool {
    let headers = response.headers();
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
        && !headers.contains_key(CONTENT_ENCODING)
}

/// What the balance goes by, where that is a value of the request.
fn hash(local: &Local, parts: &Parts, record: &Record, balance: &Balance) -> u64 {
    let (Balance::Hash(key), Some(site)) = (balance, &record.site) else { return 0 };
    let caller = Caller { place: 0, ip: record.client, headers: &parts.headers, fields: None };
    let hasher = Hasher::keyed(local.shared.signing().0);
    Keys { caller, site, hasher }.by_head(0, key)
}

/// What a request takes up while it waits: its head, and so many bytes that were read of its body.
fn size(parts: &Parts, read: usize) -> u64 {
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 4);
    (fields.sum::<usize>() + parts.uri.path().len() + read) as u64
}

/// What HTTP/2 has elsewhere becomes a header, as HTTP/1.1 has it.
fn complete(parts: &mut Parts) {
    if parts.headers.get_all(COOKIE).iter().nth(1).is_some() {
        join_cookies(&mut parts.headers);
    }
    if !parts.headers.contains_key(HOST)
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
}

/// The client's address, and the port it came to, as the instance is told them.
fn told(client: &Client, ip: std::net::IpAddr, port: u16) -> (HeaderValue, HeaderValue) {
    let address =
        if ip == client.peer { client.peer_text.clone() } else { forwarded::address_value(ip) };
    let port = if port == client.port { client.port_text.clone() } else { port.into() };
    (address, port)
}

pub(super) fn wants_upgrade(parts: &Parts) -> bool {
    let Some(protocol) = parts.headers.get(UPGRADE) else { return false };
    let protocol = protocol.to_str().unwrap_or_default();
    // h2c would hide requests from the routes.
    parts.version == Version::HTTP_11
        && !protocol.is_empty()
        && !protocol.to_ascii_lowercase().contains("h2c")
        && lists(&parts.headers, &CONNECTION, "upgrade")
}

/// HTTP/2 may split a cookie header; HTTP/1.1 may not (RFC 9113 § 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}
