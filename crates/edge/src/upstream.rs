//! Towards the instances: choose one, connect or reuse, send, and try another where that is safe.
//!
//! Invariants: a request whose body was begun is never sent twice; trying again after something was sent
//! is bounded for each request and for the service ([`Budget`]), so that a struggling service is not given a
//! multiple of its load; over HTTP/1.1 a response's connection is driven by who reads it, so that a request
//! needs no second task. Rooms: [`choose`] and [`balance`] (which instance), [`sticky`], [`breaker`],
//! [`link`] (a connection), [`pool`] (idle ones), [`exchange`] (a request and its response on
//! it: [`sending`], [`response`]), [`http2`], [`flow`] (the body of either), [`check`]. Not here: headers, and what the
//! client is told.

mod balance;
mod breaker;
mod budget;
pub(crate) mod check;
mod choose;
mod exchange;
mod flow;
mod http2;
mod link;
mod pool;
mod response;
mod sending;
pub(crate) mod sticky;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Body as _;
use seaworthy_base::delivery::Delivery;
use tokio::time::Instant;

pub(crate) use breaker::{Breaker, Breakers};
pub(crate) use budget::Budget;
use exchange::{Exchange, Lost};
pub(crate) use flow::Flow;
pub(crate) use http2::Http2Links;
pub(crate) use pool::{Pool, Spill};
use sending::Sending;

use crate::body::{ClientBody, Progress, RequestBody};
use crate::instance::{Instance, Load, Service};
use crate::model::Settings;
use crate::outgoing::ClientTls;
use crate::watch::Alarm;
use crate::worker::Local;

/// An error counts as an answer that took so many microseconds: who fails fast must not look fast.
const PENALTY: u64 = 1_000_000;

/// Where a request is to go.
pub(crate) struct Aim<'a> {
    /// The key of its endpoints.
    pub(crate) service: &'a str,
    pub(crate) delivery: &'a Delivery,
    /// By what the balance chooses, where it does so by a hash.
    pub(crate) hash: u64,
    /// The tag of the instance that the visitor belongs to.
    pub(crate) wanted: Option<u64>,
    /// What it takes up while it waits; asked only then.
    pub(crate) size: &'a dyn Fn() -> u64,
    pub(crate) breaker: Option<&'a Arc<Breaker>>,
}

/// A request as it is to be sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) parts: &'a Parts,
    /// Writes its fields, but for those that frame the body.
    pub(crate) fields: &'a dyn Fn(&mut Vec<u8>),
    /// The same as a map.
    pub(crate) headers: &'a dyn Fn() -> HeaderMap,
    /// How far the body got, where there is one.
    pub(crate) progress: Option<&'a Progress>,
    /// It may be sent a second time.
    pub(crate) replayable: bool,
    /// When it began.
    pub(crate) begun: Instant,
    /// Whose it is; nobody's where it is our own.
    pub(crate) client: Option<IpAddr>,
    /// How a server outside is to prove who it is; instances need not.
    pub(crate) tls: Option<&'a ClientTls>,
}

/// Why no answer came.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) cause: String,
    pub(crate) instance: Option<Arc<str>>,
}

/// An answer, and where it came from.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<()>,
    /// When its head was there.
    pub(crate) at: Instant,
    /// The body comes from here.
    pub(crate) flow: Flow,
    pub(crate) instance: Arc<Instance>,
    pub(crate) guard: InFlight,
    pub(crate) retries: u32,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Load>);

impl InFlight {
    pub(crate) fn new(load: &Arc<Load>) -> Self {
        load.in_flight.add();
        Self(Arc::clone(load))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.sub();
    }
}

impl InFlight {
    /// The request became a connection of another protocol.
    pub(crate) fn into_tunnel(self) -> InTunnel {
        self.0.tunnels.add();
        InTunnel(Arc::clone(&self.0))
    }
}

/// Counts an upgraded connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct InTunnel(Arc<Load>);

impl InTunnel {
    /// What goes on with its instance.
    pub(crate) fn load(&self) -> Arc<Load> {
        Arc::clone(&self.0)
    }
}

impl Drop for InTunnel {
    fn drop(&mut self) {
        self.0.tunnels.sub();
    }
}

/// Whether a request may be sent twice: idempotent (RFC 9110 § 9.2.2) and without a body.
pub(crate) fn is_replayable(method: &Method, body: &ClientBody) -> bool {
    body.is_end_stream()
        && matches!(
            *method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        )
}

/// Sends a request to one of a service's instances.
pub(crate) async fn send(
    local: &Rc<Local>,
    aim: &Aim<'_>,
    settings: &Settings,
    request: &Outgoing<'_>,
    body: RequestBody,
) -> Result<Answer, Failure> {
    let Some(breaker) = aim.breaker else {
        return try_all(local, aim, settings, request, body).await;
    };
    let now = || local.shared.millis(Instant::now());
    let Some(passage) = breaker.enter(now()) else {
        return Err(Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            cause: "the circuit breaker is open: too many of the last answers were errors"
                .to_owned(),
            instance: None,
        });
    };
    let sent = try_all(local, aim, settings, request, body).await;
    let status = sent.as_ref().map_or_else(|failure| failure.status, |sent| sent.response.status());
    // What is wrong with the request says nothing of the service.
    if sent.is_ok() || status.is_server_error() {
        passage.settle(status.is_server_error(), now());
    }
    sent
}

/// A request between two tries.
pub(crate) enum Message {
    Body(RequestBody),
    Encoded(Box<Sending>),
}

/// How a try went.
struct Tried {
    result: Result<(Response<()>, Flow), Broken>,
    /// When that was known.
    at: Instant,
    /// What may be sent again.
    message: Option<Message>,
    /// It cost the service nothing, or is nobody's fault.
    free: bool,
    /// The connection had been used before.
    reused: bool,
}

async fn try_all(
    local: &Rc<Local>,
    aim: &Aim<'_>,
    settings: &Settings,
    request: &Outgoing<'_>,
    body: RequestBody,
) -> Result<Answer, Failure> {
    let mut message = Message::Body(body);
    let mut refused: Vec<usize> = Vec::new();
    let mut retries = 0;
    loop {
        let (service, instance) = choose::choose(local, aim, request.begun, &mut refused).await?;
        let guard = InFlight::new(&instance.load);
        let asked = Instant::now();
        let tried = if instance.http2 {
            // Boxed, as everything that is not on the usual way: a request holds its future's room until it ends.
            Box::pin(over_http2(local, &instance, settings, request, message)).await
        } else {
            over_http1(local, &instance, settings, request, message).await
        };
        let tried = match tried {
            Ok(tried) => tried,
            Err((unsent, _)) => {
                choose::take_out(local, &instance);
                refused.push(instance.key());
                message = unsent;
                continue;
            }
        };
        let failed =
            |status, cause| Failure { status, cause, instance: Some(Arc::clone(&instance.name)) };
        let note = |failed: bool, silent: bool| {
            let taken = tried.at.saturating_duration_since(asked);
            note(local, aim.delivery, (&service, &instance), (asked, taken), (failed, silent));
        };
        match tried.result {
            Ok((response, flow)) => {
                service.kept.budget.credit();
                note(response.status().is_server_error(), false);
                return Ok(Answer { response, at: tried.at, flow, instance, guard, retries });
            }
            Err(Broken::TimedOut(cause)) => {
                note(true, true);
                return Err(failed(StatusCode::GATEWAY_TIMEOUT, cause));
            }
            Err(Broken::Lost(Lost::Client(cause))) => {
                return Err(failed(StatusCode::BAD_REQUEST, cause));
            }
            Err(Broken::Lost(Lost::Instance(cause))) => {
                let again = tried.message.filter(|_| {
                    tried.free
                        || (retries < aim.delivery.retry.times && service.kept.budget.debit())
                });
                if !tried.free || again.is_none() {
                    note(true, !tried.reused);
                }
                let Some(again) = again else {
                    return Err(failed(StatusCode::BAD_GATEWAY, cause));
                };
                message = again;
                retries += 1;
                if !tried.reused {
                    refused.push(instance.key());
                }
            }
        }
    }
}

/// Counts how a try went; `silent`: there was no answer, and that is the instance's fault.
fn note(
    local: &Local,
    delivery: &Delivery,
    (service, instance): (&Service, &Instance),
    (asked, taken): (Instant, Duration),
    (failed, silent): (bool, bool),
) {
    let load = &instance.load;
    let micros = taken.as_micros() as u64;
    load.count(failed, micros);
    if service.ready.len() < 2 {
        return;
    }
    let now = local.shared.millis(asked) + micros / 1000;
    load.latency.note(if failed { micros.max(PENALTY) } else { micros }, now);
    if silent
        && let Some(rule) = &delivery.passive
        && load.health.fail(rule, now)
    {
        // The last one is never left out.
        let other =
            |one: &Arc<Instance>| !Arc::ptr_eq(&one.load, load) && !one.load.health.is_out(now);
        if service.ready.iter().any(other) {
            load.health.eject(rule, now);
        }
    }
}

/// How one try at a server outside went.
pub(crate) enum Asked {
    Answered(Response<()>, Box<Flow>),
    /// No connection was to be had: nothing was sent.
    Unsent(Message, String),
    /// No answer came; with what may be sent again.
    Lost(Option<Message>, Failure),
}

/// One try at a server outside.
pub(crate) async fn ask(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
    request: &Outgoing<'_>,
    message: Message,
) -> Asked {
    let tried = match over_http1(local, instance, settings, request, message).await {
        Ok(tried) => tried,
        Err((unsent, why)) => return Asked::Unsent(unsent, why),
    };
    let (status, cause) = match tried.result {
        Ok((response, flow)) => return Asked::Answered(response, Box::new(flow)),
        Err(Broken::TimedOut(cause)) => (StatusCode::GATEWAY_TIMEOUT, cause),
        Err(Broken::Lost(Lost::Client(cause))) => (StatusCode::BAD_REQUEST, cause),
        Err(Broken::Lost(Lost::Instance(cause))) => (StatusCode::BAD_GATEWAY, cause),
    };
    let again = tried.message.filter(|_| status == StatusCode::BAD_GATEWAY);
    Asked::Lost(again, Failure { status, cause, instance: None })
}

/// One try over HTTP/1.1; the message comes back where no connection was to be had.
async fn over_http1(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
    request: &Outgoing<'_>,
    message: Message,
) -> Result<Tried, (Message, String)> {
    let (link, reused) = match link::get(local, instance, settings, request).await {
        Ok(found) => found,
        Err(why) => return Err((message, why)),
    };
    let sending = match message {
        Message::Encoded(sending) => *sending,
        Message::Body(body) => Sending::new(request, body, local.rooms.head()),
    };
    let mut exchange = Box::new(Exchange::new(link, sending));
    let head = head(local, &mut exchange, settings, request).await;
    let broken = match head {
        Ok(response) => {
            let at = exchange.heard();
            let result = Ok((response, Flow::Http1(exchange)));
            return Ok(Tried { result, at, message: None, free: false, reused });
        }
        Err(broken) => broken,
    };
    let mut sending = exchange.into_sending();
    let begun = sending.has_begun();
    let may = (!begun || request.replayable) && sending.restart();
    let message = may.then(|| Message::Encoded(Box::new(sending)));
    Ok(Tried { result: Err(broken), at: Instant::now(), message, free: !begun || reused, reused })
}

/// One try over HTTP/2.
async fn over_http2(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
    request: &Outgoing<'_>,
    message: Message,
) -> Result<Tried, (Message, String)> {
    let Some(sender) = http2::link(local, instance, settings).await else {
        return Err((message, "no connection was to be had".to_owned()));
    };
    let body = match message {
        Message::Encoded(sending) => sending.into_body(),
        Message::Body(body) => body,
    };
    let whole = matches!(body, RequestBody::Empty);
    let outgoing = http2::request(request.parts, (request.headers)(), body);
    let total = Deadline::new(local, settings, request.begun);
    let head = http2::head(local, sender, outgoing, settings, (request.progress, total)).await;
    let again = (whole && request.replayable).then_some(Message::Body(RequestBody::Empty));
    let result = head.map(|response| {
        let (parts, body) = response.into_parts();
        (Response::from_parts(parts, ()), Flow::Http2(body))
    });
    Ok(Tried { result, at: Instant::now(), message: again, free: false, reused: false })
}

/// How an exchange failed.
enum Broken {
    TimedOut(String),
    Lost(Lost),
}

/// The end of the time that a request and its answer have together.
struct Deadline {
    alarm: Alarm,
    total: Option<Duration>,
    begun: Instant,
}

impl Deadline {
    fn new(local: &Local, settings: &Settings, begun: Instant) -> Self {
        Self { alarm: Alarm::new(&local.watch), total: settings.delivery.total, begun }
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<Broken> {
        let Some(total) = self.total else { return Poll::Pending };
        let left = total.saturating_sub(self.begun.elapsed());
        self.alarm.poll(context, left).map(|()| {
            Broken::TimedOut(format!("no answer within the total of {} ms", total.as_millis()))
        })
    }
}

/// Sends, and waits for the head of the response: while the body goes out, each piece within the time for
/// sending; after it, the head within the response time.
async fn head(
    local: &Rc<Local>,
    exchange: &mut Exchange,
    settings: &Settings,
    request: &Outgoing<'_>,
) -> Result<Response<()>, Broken> {
    let mut alarm = Alarm::new(&local.watch);
    let mut total = Deadline::new(local, settings, request.begun);
    let sending = settings.delivery.send.map(|time| time.as_millis() as u64).or(settings.idle_ms);
    let mut last = None;
    std::future::poll_fn(|context| {
        if let Poll::Ready(head) = exchange.poll_head(context, &local.rooms) {
            return Poll::Ready(head.map_err(Broken::Lost));
        }
        if let Poll::Ready(passed) = total.poll(context) {
            return Poll::Ready(Err(passed));
        }
        let now = Some((request.progress.map(Progress::seen), exchange.is_sent()));
        if now != last {
            alarm.clear();
            last = now;
        }
        let (limit, what) = if exchange.is_sent() {
            (settings.response_ms, "no answer")
        } else {
            let Some(sending) = sending else { return Poll::Pending };
            (sending, "nothing of the request was taken")
        };
        alarm
            .poll(context, Duration::from_millis(limit))
            .map(|()| Err(Broken::TimedOut(format!("{what} within {limit} ms"))))
    })
    .await
}
