//! Instances that speak HTTP/2 without TLS, gRPC servers above all: one connection for each thread and
//! instance, many requests on it; trailers pass both ways.
//!
//! Invariants: a connection that ended, or leads to an instance that takes no more requests, is given no
//! new request; a request of which anything may have been sent is sent again only where that changes
//! nothing. Not here: which instance, headers' meaning.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustc_hash::FxHashMap;

use super::{Broken, Lost};
use crate::body::{Progress, RequestBody};
use crate::forwarded::lists;
use crate::instance::{Instance, Load};
use crate::model::Settings;
use crate::socket::Socket;
use crate::watch::{Alarm, within};
use crate::worker::Local;

/// Without any answer to a ping a connection is dead.
const PING: Duration = Duration::from_secs(20);

/// A connection, and what its instance has to do.
type Http2Link = (SendRequest<RequestBody>, Arc<Load>);

/// The connections of one thread, by the key of their instance.
#[derive(Debug, Default)]
pub(crate) struct Http2Links(RefCell<FxHashMap<usize, Http2Link>>);

impl Http2Links {
    /// Drops what ended, and what leads to instances that take no more requests.
    pub(crate) fn clean(&self) {
        let living = |sender: &SendRequest<RequestBody>, load: &Load| {
            !sender.is_closed() && !load.retired.load(Ordering::Relaxed)
        };
        self.0.borrow_mut().retain(|_, (sender, load)| living(sender, load));
    }
}

/// Runs what belongs to a connection on its thread.
#[derive(Debug, Clone, Copy)]
struct SameThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for SameThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A connection that takes requests; nothing where none can be had.
pub(super) async fn link(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    settings: &Settings,
) -> Option<SendRequest<RequestBody>> {
    let known = local.http2.0.borrow().get(&instance.key()).map(|(sender, _)| sender.clone());
    if let Some(mut sender) = known
        && sender.ready().await.is_ok()
    {
        return Some(sender);
    }
    let limit = Duration::from_millis(settings.connect_ms);
    let connect = async {
        let socket = Socket::connect(&instance.address).await.ok()?;
        let builder = Builder::new(SameThread)
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(3 * PING))
            .keep_alive_timeout(PING)
            .max_header_list_size(64 << 10)
            .clone();
        builder.handshake(TokioIo::new(socket)).await.ok()
    };
    let (sender, connection) = within(&local.watch, limit, connect).await??;
    instance.load.pooled.add();
    let load = Arc::clone(&instance.load);
    tokio::task::spawn_local(async move {
        connection.await.ok();
        load.pooled.sub();
    });
    let kept = (sender.clone(), Arc::clone(&instance.load));
    local.http2.0.borrow_mut().insert(instance.key(), kept);
    Some(sender)
}

/// A request as it goes to an instance. `headers` are fit for it already.
pub(super) fn request(
    parts: &http::request::Parts,
    mut headers: HeaderMap,
    body: RequestBody,
) -> Request<RequestBody> {
    let trailers = lists(&parts.headers, &TE, "trailers");
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
    if body.size_hint().exact().is_none() {
        headers.remove(CONTENT_LENGTH);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let host = headers.remove(HOST);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(target).build();
    *request.uri_mut() = uri.unwrap_or_else(|_| parts.uri.clone());
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    request
}

/// Sends, and waits for the head of the response; each piece of a body begins the time anew.
pub(super) async fn head(
    local: &Rc<Local>,
    mut sender: SendRequest<RequestBody>,
    request: Request<RequestBody>,
    settings: &Settings,
    (progress, mut total): (Option<&Progress>, super::Deadline),
) -> Result<Response<Incoming>, Broken> {
    let mut sent = std::pin::pin!(sender.send_request(request));
    let mut alarm = Alarm::new(&local.watch);
    let mut last = None;
    std::future::poll_fn(|context| {
        if let Poll::Ready(answer) = sent.as_mut().poll(context) {
            let lost = |error: hyper::Error| {
                let cause = format!("the connection ended before the answer: {error}");
                // What is wrong with a client's body is told by its progress.
                Broken::Lost(Lost::Instance(cause))
            };
            return Poll::Ready(answer.map_err(lost));
        }
        let now = progress.map(Progress::seen);
        if now != last {
            alarm.clear();
            last = now;
        }
        if let Poll::Ready(passed) = total.poll(context) {
            return Poll::Ready(Err(passed));
        }
        let limit = settings.response_ms;
        alarm
            .poll(context, Duration::from_millis(limit))
            .map(|()| Err(Broken::TimedOut(format!("no answer within {limit} ms"))))
    })
    .await
}
