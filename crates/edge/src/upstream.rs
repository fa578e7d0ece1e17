//! Towards the instances: choose one, connect or reuse, send, and try another where that is safe.
//!
//! Invariants: a request whose body was begun is never sent twice; trying again after something was sent
//! is bounded for each request ([`RETRIES`]) and for the service ([`Budget`]), so that a struggling
//! service is not given a multiple of its load; a response's connection is driven by who reads it, so
//! that a request needs no second task. Rooms: [`choose`] (which instance), [`link`] (a connection),
//! [`pool`] (idle ones), [`exchange`] (a request and its response on it: [`sending`], [`response`]). Not here: headers, and what the client is told.

mod budget;
mod choose;
mod exchange;
mod link;
mod pool;
mod response;
mod sending;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Body as _;

pub(crate) use budget::Budget;
pub(crate) use exchange::Exchange;
use exchange::Lost;
pub(crate) use pool::{Pool, Spill};
use sending::Sending;

use crate::body::{ClientBody, Progress, RequestBody};
use crate::model::Settings;
use crate::snapshot::{Instance, Load};
use crate::watch::Alarm;
use crate::worker::Local;

/// Tries after the first, once something was sent.
const RETRIES: u32 = 2;

/// A request as it is to be sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) parts: &'a Parts,
    /// Writes its fields, but for those that frame the body.
    pub(crate) fields: &'a dyn Fn(&mut Vec<u8>),
    pub(crate) body: RequestBody,
    /// How far the body got, where there is one.
    pub(crate) progress: Option<&'a Progress>,
    /// It may be sent a second time.
    pub(crate) replayable: bool,
    /// When it began.
    pub(crate) begun: Instant,
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
    /// The body comes from here.
    pub(crate) exchange: Exchange,
    pub(crate) instance: Arc<Instance>,
    pub(crate) guard: InFlight,
    pub(crate) retries: u32,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Load>);

impl InFlight {
    fn new(load: &Arc<Load>) -> Self {
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
    service: &str,
    settings: &Settings,
    request: Outgoing<'_>,
) -> Result<Answer, Failure> {
    let Outgoing { begun, progress, replayable, .. } = request;
    let mut sending = Sending::new(request, local.rooms.head());
    let mut refused: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    loop {
        let (service, instance) = choose::choose(local, service, begun, &mut refused).await?;
        let guard = InFlight::new(&instance.load);
        let Ok((link, reused)) = link::get(local, &instance, settings, (replayable, begun)).await
        else {
            choose::take_out(local, &instance);
            refused.push(instance.address);
            continue;
        };
        let mut exchange = Exchange::new(link, sending);
        let failed =
            |status, cause| Failure { status, cause, instance: Some(Arc::clone(&instance.name)) };
        let asked = Instant::now();
        let count = |failed| instance.load.count(failed, asked.elapsed().as_micros() as u64);
        match head(local, &mut exchange, settings, progress).await {
            Ok(response) => {
                service.budget.credit();
                count(response.status().is_server_error());
                return Ok(Answer { response, exchange, instance, guard, retries });
            }
            Err(Broken::TimedOut(cause)) => {
                count(true);
                return Err(failed(StatusCode::GATEWAY_TIMEOUT, cause));
            }
            Err(Broken::Lost(Lost::Client(cause))) => {
                return Err(failed(StatusCode::BAD_REQUEST, cause));
            }
            Err(Broken::Lost(Lost::Instance(cause))) => {
                sending = exchange.into_sending();
                // What was not sent costs the service nothing, and a stale connection is nobody's fault.
                let free = !sending.has_begun() || reused;
                let again = (!sending.has_begun() || replayable)
                    && (free || (retries < RETRIES && service.budget.debit()))
                    && sending.restart();
                if !again {
                    count(true);
                    return Err(failed(StatusCode::BAD_GATEWAY, cause));
                }
                retries += 1;
                if !reused {
                    refused.push(instance.address);
                }
            }
        }
    }
}

/// How an exchange failed.
enum Broken {
    TimedOut(String),
    Lost(Lost),
}

/// Sends, and waits for the head of the response: while the body goes out, each piece within the idle
/// time; after it, the head within the response time.
async fn head(
    local: &Rc<Local>,
    exchange: &mut Exchange,
    settings: &Settings,
    progress: Option<&Progress>,
) -> Result<Response<()>, Broken> {
    let mut alarm = Alarm::new(&local.watch);
    let mut last = None;
    std::future::poll_fn(|context| {
        if let Poll::Ready(head) = exchange.poll_head(context) {
            return Poll::Ready(head.map_err(Broken::Lost));
        }
        let now = progress.map(Progress::seen);
        if now != last {
            alarm.clear();
            last = now;
        }
        let (limit, what) = if exchange.is_sent() {
            (settings.response_ms, "no answer")
        } else {
            let Some(idle) = settings.idle_ms else { return Poll::Pending };
            (idle, "nothing of the request was taken")
        };
        alarm
            .poll(context, Duration::from_millis(limit))
            .map(|()| Err(Broken::TimedOut(format!("{what} within {limit} ms"))))
    })
    .await
}
