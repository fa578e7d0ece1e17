//! Towards the instances: choose one, connect or reuse, send, and try another where that is safe.
//!
//! Invariants: a request whose body was begun is never sent twice; trying again after something was sent
//! is bounded for each request ([`RETRIES`]) and for the service ([`Budget`]), so that a struggling
//! service is not given a multiple of its load; a response's connection is driven by who reads it, so
//! that a request needs no second task. Rooms: [`choose`] (which instance), [`link`] (a connection),
//! [`pool`] (idle ones). Not here: headers, and what the client is told.

mod budget;
mod choose;
mod link;
mod pool;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};

pub(crate) use budget::Budget;
pub(crate) use link::Link;
pub(crate) use pool::Pool;

use crate::body::{Progress, RequestBody};
use crate::model::Settings;
use crate::snapshot::{Instance, Load};
use crate::watch::Alarm;
use crate::worker::Local;

/// Tries after the first, once something was sent.
const RETRIES: u32 = 2;

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
    pub(crate) response: Response<Incoming>,
    pub(crate) instance: Arc<Instance>,
    pub(crate) guard: InFlight,
    pub(crate) retries: u32,
    /// Goes back into the pool when the response is read whole.
    pub(crate) link: Link,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Load>);

impl InFlight {
    fn new(load: &Arc<Load>) -> Self {
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a request may be sent twice: idempotent (RFC 9110 § 9.2.2) and without a body.
pub(crate) fn is_replayable(method: &Method, body: &Incoming) -> bool {
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
    request: Request<RequestBody>,
    progress: Option<&Progress>,
    replayable: bool,
) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let mut request = Some(request);
    let mut refused: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    loop {
        let instance = choose::choose(local, service, begun, &mut refused).await?;
        let guard = InFlight::new(&instance.load);
        let Ok((mut link, reused)) = link::get(local, &instance, settings).await else {
            choose::take_out(local, &instance);
            refused.push(instance.address);
            continue;
        };
        let Some(outgoing) = request.take() else { return Err(lost(&instance)) };
        let copy = replayable.then(|| copy_of(&outgoing));
        let asked = Instant::now();
        let count = |failed| instance.load.count(failed, asked.elapsed().as_micros() as u64);
        match exchange(local, &mut link, outgoing, settings, progress).await {
            Ok(response) => {
                local.credit(service);
                count(response.status().is_server_error());
                return Ok(Answer { response, instance, guard, retries, link });
            }
            Err(Broken::TimedOut(cause)) => {
                count(true);
                return Err(Failure {
                    status: StatusCode::GATEWAY_TIMEOUT,
                    cause,
                    instance: Some(Arc::clone(&instance.name)),
                });
            }
            Err(Broken::Ended(unsent, cause)) => {
                // What was not sent costs the service nothing, and a stale connection is nobody's fault.
                let free = unsent.is_some() || reused;
                let allowed = free || (retries < RETRIES && local.debit(service));
                request = unsent.map(|request| *request).or(copy).filter(|_| allowed);
                if request.is_none() {
                    count(true);
                    return Err(Failure {
                        status: StatusCode::BAD_GATEWAY,
                        cause,
                        instance: Some(Arc::clone(&instance.name)),
                    });
                }
                retries += 1;
                if !reused {
                    refused.push(instance.address);
                }
            }
        }
    }
}

fn lost(instance: &Instance) -> Failure {
    Failure {
        status: StatusCode::BAD_GATEWAY,
        cause: "the request was sent and cannot be repeated".to_owned(),
        instance: Some(Arc::clone(&instance.name)),
    }
}

/// A copy to be sent again; only of requests without a body.
fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// How an exchange failed.
enum Broken {
    TimedOut(String),
    /// The connection ended; the request comes back where nothing of it was sent.
    Ended(Option<Box<Request<RequestBody>>>, String),
}

/// Sends, and waits for the head of the response: while the body goes out, each piece within the idle
/// time; after it, the head within the response time.
async fn exchange(
    local: &Rc<Local>,
    link: &mut Link,
    request: Request<RequestBody>,
    settings: &Settings,
    progress: Option<&Progress>,
) -> Result<Response<Incoming>, Broken> {
    let mut sent = std::pin::pin!(link.send(request));
    let mut alarm = Alarm::new(&local.watch);
    let mut last = None;
    std::future::poll_fn(|context| {
        let mut polled = sent.as_mut().poll(context);
        if polled.is_pending() {
            link.drive(context);
            polled = sent.as_mut().poll(context);
        }
        match polled {
            Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let cause =
                    format!("the connection ended before the answer: {}", error.into_error());
                return Poll::Ready(Err(Broken::Ended(unsent, cause)));
            }
            Poll::Pending => {}
        }
        let now = progress.map(Progress::seen);
        if now != last {
            alarm.clear();
            last = now;
        }
        let uploading = progress.is_some_and(|progress| !progress.is_done());
        let (limit, what) = if uploading {
            let Some(idle) = settings.idle_ms else { return Poll::Pending };
            (idle, "nothing of the request was taken")
        } else {
            (settings.response_ms, "no answer")
        };
        alarm
            .poll(context, Duration::from_millis(limit))
            .map(|()| Err(Broken::TimedOut(format!("{what} within {limit} ms"))))
    })
    .await
}
