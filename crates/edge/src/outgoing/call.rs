//! One call: its turn, the breaker, the try, the next try, and what the application gets.
//!
//! Invariants: nothing is made twice but what has no body and a method that may be repeated (RFC 9110 § 9.2.2), or was
//! not sent at all; a call that is refused here is marked as such (`Seaworthy-Outgoing`), so that the application does
//! not take it for an answer of the other side; an answer is passed on as it came, but for what is about the connection
//! and redirects within the other side's origin, which lead through here again.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, CONNECTION, HOST, HeaderName, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use tokio::time::Instant;

use super::Outlet;
use super::again;
use super::line::{NoTurn, Slot};
use crate::body::{ClientBody, Content, FromInstance, RequestBody, ResponseBody, Times};
use crate::forwarded::{encode_all, strip};
use crate::instance::Instance;
use crate::respond;
use crate::serve::{Client, Record};
use crate::upstream::{self, Asked, Failure, Flow, InFlight, Message};
use crate::watch::Alarm;
use crate::worker::Local;

/// Why a call was not made, on answers of our own.
const REASON: HeaderName = HeaderName::from_static("seaworthy-outgoing");
/// Of a name's addresses so many are tried.
const ADDRESSES: usize = 4;

/// An answer of our own.
struct Refused {
    status: StatusCode,
    cause: String,
    /// Milliseconds after which it may be tried again.
    wait: Option<u64>,
}

impl Refused {
    fn new(status: StatusCode, cause: impl Into<String>, wait: Option<u64>) -> Self {
        Self { status, cause: cause.into(), wait }
    }
}

/// An answer of the other side, from one of its addresses.
struct Answered {
    response: Response<()>,
    flow: Box<Flow>,
    instance: Arc<Instance>,
    guard: InFlight,
    slot: Slot,
}

/// Answers an application that came in at an address for calls.
pub(crate) async fn call(
    local: &Rc<Local>,
    client: &Client,
    address: SocketAddr,
    mut parts: Box<Parts>,
    body: ClientBody,
) -> Response<ResponseBody> {
    let mut record = Box::new(Record::new(local, client, &parts));
    // Keys of such calls stand in paths too.
    record.uri = Uri::from_static("/");
    let outlet = local.current().outlets.get(&address).map(Arc::clone);
    let result = if let Some(outlet) = outlet {
        record.caller = Some(Arc::clone(&outlet.site));
        record.upstream = Some(Arc::clone(&outlet.label));
        outlet.rules.to.authority().clone_into(&mut record.host);
        let result = match admit(&outlet, address, &mut parts) {
            Ok(()) => make(local, &outlet, &parts, body, &mut record).await,
            Err(refused) => Err(refused),
        };
        record.upstream_micros = Some(crate::serve::micros(record.begun));
        result.map(|answered| pass_back(local, &outlet, address, answered, record.begun))
    } else {
        let cause = "no `[outgoing.X]` of the manifest begins here any more";
        Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, cause, None))
    };
    let mut response = result.unwrap_or_else(|refused| {
        let answer = own_answer(&refused, &record);
        record.cause = Some(refused.cause);
        answer
    });
    if local.draining.get() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    record.status = response.status().as_u16();
    response.map(|body| body.logged(record))
}

/// Makes the head fit for the other side.
fn admit(outlet: &Outlet, address: SocketAddr, parts: &mut Parts) -> Result<(), Refused> {
    if parts.method == Method::CONNECT {
        let cause = "CONNECT is not served: the address stands for one server";
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, cause, None));
    }
    // A page in a browser that was told this address by its own name server says its own host here.
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let ours = [address.to_string(), format!("localhost:{}", address.port())];
    if host != outlet.rules.to.authority() && !ours.iter().any(|one| one == host) {
        let cause = "the call is for another host than this address stands for";
        return Err(Refused::new(StatusCode::MISDIRECTED_REQUEST, cause, None));
    }
    let ends_here =
        |name: &str| matches!(name, "expect" | "proxy-authorization" | "proxy-authenticate");
    strip(&mut parts.headers, false, ends_here);
    parts.headers.insert(HOST, outlet.host.clone());
    Ok(())
}

/// Makes the call, again where that is safe, until there is an answer to pass on.
async fn make(
    local: &Rc<Local>,
    outlet: &Arc<Outlet>,
    parts: &Parts,
    body: ClientBody,
    record: &mut Record,
) -> Result<Answered, Refused> {
    let kept = &outlet.kept;
    kept.calls.fetch_add(1, Ordering::Relaxed);
    let replayable = upstream::is_replayable(&parts.method, &body);
    let alarm = || Alarm::new(&local.watch);
    let (body, progress) = RequestBody::new(body, None, Some(outlet.rules.idle), alarm);
    let mut message = Message::Body(body);
    let rule = &outlet.rules.retry;
    let total = outlet.rules.total.and_then(|total| record.begun.checked_add(total));
    loop {
        let until = latest(total, outlet.rules.hold.age);
        let slot = turn(local, outlet, until).await?;
        let passage = match &outlet.breaker {
            Some(breaker) => {
                let now = local.shared.millis(Instant::now());
                Some(breaker.enter(now).ok_or_else(|| is_open(outlet, now))?)
            }
            None => None,
        };
        let request = upstream::Outgoing {
            parts,
            fields: &|out| encode_all(out, &parts.headers),
            headers: &|| parts.headers.clone(),
            progress: progress.as_deref(),
            replayable,
            begun: record.begun,
            client: None,
            tls: outlet.tls.as_deref(),
        };
        let asked = ask(local, outlet, &request, message).await;
        let (failed, pause, again) = weigh(local, outlet, (replayable, record.retries), &asked);
        let last = record.retries >= rule.times;
        let settled = local.shared.millis(Instant::now());
        let of_other_side = !matches!(&asked, Tried::Failed(None, failure) if failure.status == StatusCode::BAD_REQUEST);
        if let Some(passage) = passage.filter(|_| of_other_side) {
            passage.settle(failed, settled);
        }
        let ready = Instant::now() + pause.unwrap_or_default();
        let again = again && !last && latest(total, outlet.rules.hold.age) > ready;
        match asked {
            Tried::Answered(response, flow, instance, guard) if !again => {
                if failed {
                    note(outlet, &format!("it answered with {}", response.status().as_u16()));
                }
                return Ok(Answered { response, flow, instance, guard, slot });
            }
            Tried::Answered(..) => message = Message::Body(RequestBody::Empty),
            Tried::Failed(Some(next), _) if again => message = next,
            Tried::Failed(_, failure) => {
                if let Some((status, cause)) = progress.and_then(|progress| progress.fault()) {
                    return Err(Refused::new(status, cause, None));
                }
                note(outlet, &failure.cause);
                return Err(Refused::new(failure.status, failure.cause, None));
            }
        }
        // Others go on meanwhile, unless the other side asked all of us to wait.
        drop(slot);
        record.retries += 1;
        kept.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep_until(ready).await;
    }
}

/// By when something must have begun.
fn latest(total: Option<Instant>, age: Duration) -> Instant {
    let patient = Instant::now() + age;
    total.map_or(patient, |total| total.min(patient))
}

/// Its turn, or why it has none.
async fn turn(local: &Rc<Local>, outlet: &Outlet, until: Instant) -> Result<Slot, Refused> {
    let now = local.shared.millis(Instant::now());
    if outlet.breaker.as_ref().is_some_and(|breaker| breaker.closed_for(now).is_some()) {
        return Err(is_open(outlet, now));
    }
    let millis = |at| local.shared.millis(at);
    let entered = outlet.kept.line.enter(&outlet.rules.hold, until, millis).await;
    entered.map_err(|why| {
        let (cause, wait) = match why {
            NoTurn::Full => ("too many calls wait for their turn", 1000),
            NoTurn::TooLong(more) => ("the call would have waited for its turn for too long", more),
        };
        outlet.kept.refused.fetch_add(1, Ordering::Relaxed);
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, cause, Some(wait))
    })
}

fn is_open(outlet: &Outlet, now: u64) -> Refused {
    outlet.kept.refused.fetch_add(1, Ordering::Relaxed);
    let wait = outlet.breaker.as_ref().and_then(|breaker| breaker.closed_for(now));
    let cause = "the circuit breaker is open: too many of the last answers were errors";
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, cause, Some(wait.unwrap_or(1000)))
}

fn note(outlet: &Outlet, why: &str) {
    outlet.kept.errors.fetch_add(1, Ordering::Relaxed);
    outlet.kept.fail(why);
}

/// How a try went.
enum Tried {
    Answered(Response<()>, Box<Flow>, Arc<Instance>, InFlight),
    /// With what may be sent again.
    Failed(Option<Message>, Failure),
}

/// Whether a try failed, how long to wait before the next one, and whether there may be one. Takes note of what the
/// other side asks all calls for.
fn weigh(
    local: &Local,
    outlet: &Outlet,
    (replayable, tries): (bool, u32),
    asked: &Tried,
) -> (bool, Option<Duration>, bool) {
    let soon = || Some(again::pause(tries, rand::random()));
    match asked {
        Tried::Answered(response, ..) => {
            let status = response.status();
            let asked = again::asked_for(status, response.headers(), SystemTime::now());
            if let Some(asked) = asked {
                outlet.kept.line.pause(local.shared.millis(Instant::now() + asked));
            }
            let again = replayable && outlet.rules.retry.statuses.contains(&status.as_u16());
            (status.is_server_error(), asked.or_else(soon), again)
        }
        Tried::Failed(message, failure) => {
            (failure.status.is_server_error(), soon(), message.is_some())
        }
    }
}

/// One try at the first of the other side's addresses that takes a connection.
async fn ask(
    local: &Rc<Local>,
    outlet: &Outlet,
    request: &upstream::Outgoing<'_>,
    mut message: Message,
) -> Tried {
    let failed = |cause: String| Failure { status: StatusCode::BAD_GATEWAY, cause, instance: None };
    let service = local.current().services.get(&outlet.service).map(Arc::clone);
    let ready = service.as_ref().map_or(&[][..], |service| &service.ready);
    let mut why =
        format!("`{}` has no address: the name could not be resolved", outlet.rules.to.host);
    let first = outlet.kept.good.load(Ordering::Relaxed);
    for turn in 0..ready.len().min(ADDRESSES) {
        let place = first.wrapping_add(turn) % ready.len();
        let Some(instance) = ready.get(place) else { break };
        let guard = InFlight::new(&instance.load);
        match upstream::ask(local, instance, &outlet.settings, request, message).await {
            Asked::Answered(response, _)
                if response.status() == StatusCode::SWITCHING_PROTOCOLS =>
            {
                return Tried::Failed(None, failed("it switched protocols unasked".to_owned()));
            }
            Asked::Answered(response, flow) => {
                outlet.kept.good.store(place, Ordering::Relaxed);
                return Tried::Answered(response, flow, Arc::clone(instance), guard);
            }
            Asked::Lost(again, failure) => return Tried::Failed(again, failure),
            Asked::Unsent(unsent, cause) => (message, why) = (unsent, cause),
        }
    }
    Tried::Failed(Some(message), failed(why))
}

/// What the application gets of an answer.
fn pass_back(
    local: &Rc<Local>,
    outlet: &Outlet,
    address: SocketAddr,
    answered: Answered,
    begun: Instant,
) -> Response<ResponseBody> {
    let Answered { response, flow, instance, guard, slot } = answered;
    let (mut head, ()) = response.into_parts();
    strip(&mut head.headers, false, |_| false);
    if let Some(inside) = head.headers.get(LOCATION).and_then(|to| inside(outlet, address, to)) {
        head.headers.insert(LOCATION, inside);
    }
    let end = outlet.rules.total.and_then(|total| begun.checked_add(total));
    let times = Times { idle: Some(outlet.rules.idle), end };
    let body = FromInstance::new(*flow, instance, Rc::clone(local), guard, times).holding(slot);
    Response::from_parts(head, Content::Instance(Box::new(body)).into())
}

/// A redirect within the other side's origin, so that it is followed through here.
fn inside(outlet: &Outlet, address: SocketAddr, to: &HeaderValue) -> Option<HeaderValue> {
    let rest = to.to_str().ok()?.strip_prefix(&outlet.rules.to.origin())?;
    let stays = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    stays.then(|| HeaderValue::from_str(&format!("http://{address}{rest}")).ok()).flatten()
}

/// What the application gets instead of an answer.
fn own_answer(refused: &Refused, record: &Record) -> Response<ResponseBody> {
    let error = serde_json::json!({ "v": 1, "error": {
        "status": refused.status.as_u16(),
        "title": refused.status.canonical_reason().unwrap_or("Error"),
        "cause": refused.cause,
        "request_id": record.id.to_string(),
    } });
    let mut response =
        respond::fixed(refused.status.as_u16(), &format!("{error}\n"), "application/json");
    let headers = response.headers_mut();
    let reason = HeaderValue::from_str(&refused.cause);
    headers.insert(REASON, reason.unwrap_or(HeaderValue::from_static("refused")));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = refused.wait {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000).max(1)));
    }
    response
}
