//! Towards the instances: choose one, connect or reuse, send, and try another where that is safe.
//!
//! Two random instances, the less busy one wins. Idle connections are kept at most four seconds: Node
//! closes its own after five, and a request must not meet that. Invariants: a request whose body was
//! begun is never sent twice; an instance that refuses a connection is out until it accepts one again;
//! while none is ready and one is being started, requests wait, bounded in number and time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::model::Settings;
use crate::respond::Body;
use crate::snapshot::{Instance, Load};
use crate::worker::Local;

/// Kept idle at most.
const IDLE: Duration = Duration::from_secs(4);
/// Kept for each instance and thread.
const MOST_IDLE: usize = 256;
/// Requests that wait at the same time.
const MOST_WAITING: u32 = 1000;
/// They wait this long.
const WAIT: Duration = Duration::from_secs(30);
/// Tries after the first.
const RETRIES: u32 = 2;

/// Why no answer came.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: http::StatusCode,
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
    pub(crate) sender: SendRequest<Body>,
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

#[derive(Debug)]
struct Idle {
    sender: Option<SendRequest<Body>>,
    since: Instant,
    load: Arc<Load>,
}

impl Idle {
    fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(SendRequest::is_closed)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.load.pooled.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Idle connections of one thread.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
}

impl Pool {
    fn take(&self, address: SocketAddr) -> Option<SendRequest<Body>> {
        let mut all = self.idle.borrow_mut();
        let list = all.get_mut(&address)?;
        list.retain(|idle| idle.since.elapsed() < IDLE && !idle.is_closed());
        let ready = list
            .iter()
            .rposition(|idle| idle.sender.as_ref().is_some_and(SendRequest::is_ready))?;
        list.swap_remove(ready).sender.take()
    }

    /// Keeps a connection whose response was read whole.
    pub(crate) fn put(&self, instance: &Instance, sender: SendRequest<Body>) {
        if instance.load.retired.load(Ordering::Relaxed) || sender.is_closed() {
            return;
        }
        let mut all = self.idle.borrow_mut();
        let list = all.entry(instance.address).or_default();
        if list.len() < MOST_IDLE {
            instance.load.pooled.fetch_add(1, Ordering::Relaxed);
            list.push(Idle {
                sender: Some(sender),
                since: Instant::now(),
                load: Arc::clone(&instance.load),
            });
        }
    }

    /// Closes what has been idle too long.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| idle.since.elapsed() < IDLE && !idle.is_closed());
            !list.is_empty()
        });
    }

    /// Closes connections to instances that take no more requests.
    pub(crate) fn close_retired(&self) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| !idle.load.retired.load(Ordering::Relaxed));
            !list.is_empty()
        });
    }
}

/// Sends a request to one of a service's instances.
pub(crate) async fn send(
    local: &Rc<Local>,
    service: &str,
    settings: &Settings,
    request: Request<Body>,
    replayable: bool,
) -> Result<Answer, Failure> {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    loop {
        let instance = choose(local, service, &tried).await?;
        let guard = InFlight::new(&instance.load);
        let failed = |status, cause: String| Failure {
            status,
            cause,
            instance: Some(Arc::clone(&instance.name)),
        };
        let again = retries < RETRIES;
        let (mut sender, reused) = match connection(local, &instance, settings).await {
            Ok(found) => found,
            Err(cause) if again => {
                tried.push(instance.address);
                retries += 1;
                drop((guard, cause));
                continue;
            }
            Err(cause) => return Err(failed(http::StatusCode::BAD_GATEWAY, cause)),
        };
        let outgoing =
            Request::from_parts(parts.clone(), body.take().unwrap_or_else(crate::respond::empty));
        let limit = Duration::from_millis(settings.response_ms);
        match tokio::time::timeout(limit, sender.try_send_request(outgoing)).await {
            Ok(Ok(response)) => return Ok(Answer { response, instance, guard, retries, sender }),
            Err(_) => {
                return Err(failed(
                    http::StatusCode::GATEWAY_TIMEOUT,
                    format!("no answer within {} ms", settings.response_ms),
                ));
            }
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                let safe = unsent.is_some() || replayable;
                let cause =
                    format!("the connection ended before the answer: {}", error.into_error());
                if !safe || !(again || reused) {
                    return Err(failed(http::StatusCode::BAD_GATEWAY, cause));
                }
                body = Some(unsent.map_or_else(crate::respond::empty, Request::into_body));
                retries += 1;
                if !reused {
                    tried.push(instance.address);
                }
            }
        }
    }
}

/// A pooled connection, or a new one. The flag says which.
async fn connection(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
) -> Result<(SendRequest<Body>, bool), String> {
    if let Some(sender) = local.pool.take(instance.address) {
        return Ok((sender, true));
    }
    let limit = Duration::from_millis(settings.connect_ms);
    let stream = match tokio::time::timeout(limit, TcpStream::connect(instance.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            take_out(local, instance);
            return Err(format!("{} refused a connection: {error}", instance.address));
        }
        Err(_) => {
            return Err(format!(
                "no connection to {} within {} ms",
                instance.address, settings.connect_ms
            ));
        }
    };
    stream.set_nodelay(true).ok();
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::task::spawn_local(async move {
        // How it ended is told to who waits for an answer.
        connection.with_upgrades().await.ok();
    });
    Ok((sender, false))
}

/// Out of rotation until it accepts a connection again.
fn take_out(local: &Rc<Local>, instance: &Arc<Instance>) {
    if instance.load.out.swap(true, Ordering::Relaxed) {
        return;
    }
    let (local, instance) = (Rc::clone(local), Arc::clone(instance));
    tokio::task::spawn_local(async move {
        while !instance.load.retired.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if matches!(
                tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(instance.address))
                    .await,
                Ok(Ok(_))
            ) {
                break;
            }
        }
        instance.load.out.store(false, Ordering::Relaxed);
        local.swapped.notify_waiters();
    });
}

/// Two random ready instances, the less busy one; waits while one is being started.
async fn choose(
    local: &Rc<Local>,
    service: &str,
    tried: &[SocketAddr],
) -> Result<Arc<Instance>, Failure> {
    let begun = Instant::now();
    let unavailable = |cause: &str| Failure {
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        cause: cause.to_owned(),
        instance: None,
    };
    let mut waiting: Option<Waiting> = None;
    loop {
        let swapped = local.swapped.notified();
        let snapshot = local.current();
        let Some(found) = snapshot.services.get(service) else {
            return Err(unavailable("the service has no instance"));
        };
        let usable = |one: &&Arc<Instance>| {
            !one.load.out.load(Ordering::Relaxed) && !tried.contains(&one.address)
        };
        let candidates: Vec<&Arc<Instance>> = found.ready.iter().filter(usable).collect();
        // The last one that is out is tried all the same when nothing else is left.
        if let Some(instance) = two_choices(&candidates) {
            return Ok(Arc::clone(instance));
        }
        if !found.starting && found.ready.is_empty() {
            return Err(unavailable("no instance of the service runs"));
        }
        if begun.elapsed() > WAIT {
            return Err(unavailable("no instance became ready within 30 s"));
        }
        if waiting.is_none() {
            waiting =
                Some(Waiting::enter(local).ok_or_else(|| {
                    unavailable("too many requests wait for the service to start")
                })?);
        }
        tokio::time::timeout(Duration::from_millis(500), swapped).await.ok();
        if !tried.is_empty() && begun.elapsed() > Duration::from_secs(2) && !found.starting {
            return Err(unavailable("every instance refused the connection"));
        }
    }
}

fn two_choices<'a>(candidates: &[&'a Arc<Instance>]) -> Option<&'a Arc<Instance>> {
    let pick = || candidates.get(rand::random_range(0..candidates.len().max(1))).copied();
    match candidates {
        [] => None,
        [only] => Some(only),
        _ => {
            let (a, b) = (pick()?, pick()?);
            let busy = |one: &Arc<Instance>| one.load.in_flight.load(Ordering::Relaxed);
            Some(if busy(a) <= busy(b) { a } else { b })
        }
    }
}

/// A place among those that wait.
struct Waiting(Rc<Local>);

impl Waiting {
    fn enter(local: &Rc<Local>) -> Option<Self> {
        let before = local.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(Rc::clone(local));
        (before < MOST_WAITING).then_some(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a request may be sent twice: idempotent (RFC 9110 § 9.2.2) and without a body.
pub(crate) fn is_replayable(method: &http::Method, body: &Incoming) -> bool {
    body.is_end_stream()
        && matches!(
            *method,
            http::Method::GET
                | http::Method::HEAD
                | http::Method::OPTIONS
                | http::Method::PUT
                | http::Method::DELETE
        )
}
