//! One HTTP/3 connection (RFC 9114): QUIC's streams become the requests that everything behind `serve` knows.
//!
//! Only the way in and out differs from HTTP/2: what a request may do is decided where it is decided for
//! all. Invariants: a connection is who its address was when it began (QUIC's migration is off, or somebody
//! could ask under another's address); nothing is answered that came before the end of the handshake; a client
//! that is told to go (GOAWAY) knows which of its requests were not looked at; patience is that of the other
//! protocols; whoever takes requests back faster than they are answered is sent away. Not here: who
//! listens ([`crate::quic`]), h3's side of the streams ([`transport`]).

mod body;
mod frames;
mod streams;
mod transport;

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use h3::server::{Connection, RequestResolver, RequestStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Body as _;
use quinn::crypto::rustls::HandshakeData;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

pub(crate) use self::body::Body;
use self::streams::{Open, Streams};
use self::transport::{Arrival, Door, Sending, Stopped, Transport};

use super::{HANDSHAKE, seat};
use crate::body::{ClientBody, ResponseBody};
use crate::floods::{Count, TAKEN_BACK};
use crate::h1::{HEAD_TIME, SEND_TIME, plain_length};
use crate::head::{self, Refusal, is_of_connection};
use crate::quic::Greeted;
use crate::route::canonical_host;
use crate::serve::{self, Client, Protocol};
use crate::tls;
use crate::watch::within;
use crate::worker::Local;

/// What is told to clients as the limit, and decoded at most: beyond it a stream is reset.
const LARGEST_DECODED: u64 = 128 << 10;
/// Given away at once: a client counts as taking something with each piece that left whole.
const PIECE: usize = 16 << 10;
/// More requests than a client sends before it hears that it should go.
const ON_THE_WAY: usize = 1 << 20;
/// How long a client has to hear it, at least.
const HEARING: Duration = Duration::from_millis(100);
/// How long a client that is told to go may take to do it once it has all its answers.
const LEAVING: Duration = Duration::from_secs(2);

type Http3 = Connection<Transport, Bytes>;

/// Serves a connection to its end. Errors of clients are theirs.
pub(crate) async fn serve(local: &Rc<Local>, greeted: Greeted) {
    let Greeted { incoming, port, shaking } = greeted;
    let peer = incoming.remote_address().ip();
    if local.current().table.is_announced(peer) {
        // Who speaks for others says so at the beginning of a connection, and over QUIC nobody can.
        return incoming.refuse();
    }
    let Ok(connecting) = incoming.accept() else { return };
    let Some(Ok(connection)) = within(&local.watch, HANDSHAKE, connecting).await else { return };
    drop(shaking);
    // Not before: until now anybody could have put that address on its packets.
    let Ok(_seat) = seat(local, peer) else {
        return connection.close(transport::code(Code::H3_EXCESSIVE_LOAD.value()), b"");
    };
    let client = Arc::new(client(&connection, peer, port));
    let door = Rc::new(Door::default());
    let mut builder = h3::server::builder();
    builder.max_field_section_size(LARGEST_DECODED).send_grease(false);
    let built = builder.build(Transport::new(connection.clone(), Rc::clone(&door)));
    let Some(Ok(http3)) = within(&local.watch, HANDSHAKE, built).await else { return };
    let room = Room {
        local: Rc::clone(local),
        client,
        streams: Streams::new(&local.watch),
        back: Rc::new(Back { count: RefCell::new(Count::new()), flood: Cell::new(false) }),
    };
    converse(&room, http3, &door, &connection).await;
}

/// Who is at the other end.
fn client(connection: &quinn::Connection, peer: IpAddr, port: u16) -> Client {
    let mut client = Client::new(peer, port, true);
    client.protocol = Protocol::Http3;
    let agreed = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let name = agreed.and_then(|agreed| agreed.server_name);
    client.server_name = name.and_then(|name| canonical_host(name.as_bytes()).ok());
    let shown = connection.peer_identity();
    let shown = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    client.certificate = tls::certificate_header(shown.as_ref().map(|shown| shown.as_slice()));
    client
}

/// What the requests of a connection have in common.
#[derive(Clone)]
struct Room {
    local: Rc<Local>,
    client: Arc<Client>,
    streams: Streams,
    back: Rc<Back>,
}

/// Requests that were taken back, less those that were answered since.
#[derive(Debug)]
struct Back {
    count: RefCell<Count>,
    /// They were too many too soon.
    flood: Cell<bool>,
}

impl Back {
    fn note(&self, answered: bool) {
        let mut count = self.count.borrow_mut();
        if answered {
            count.less(1);
        } else if count.is_too_much(TAKEN_BACK) {
            self.flood.set(true);
        }
    }
}

/// How far it is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    None,
    /// It was told to begin no more requests; those on their way are served until then.
    Said(Instant),
    /// No further requests are served.
    Meant,
}

async fn converse(room: &Room, mut http3: Http3, door: &Door, connection: &quinn::Connection) {
    let local = &room.local;
    let mut farewell = Farewell::None;
    let mut idle = pin!(room.streams.idle());
    if local.draining.get() {
        farewell = say(&mut http3, connection).await;
    }
    loop {
        let heard = async {
            match farewell {
                Farewell::Said(until) => tokio::time::sleep_until(until).await,
                Farewell::Meant if !room.streams.are_open() => {}
                Farewell::None | Farewell::Meant => pending().await,
            }
        };
        tokio::select! {
            accepted = http3.accept() => {
                let Ok(Some(request)) = accepted else { break };
                let Some(arrival) = door.arrival() else { break };
                if room.back.flood.get() {
                    local.shared.flooded.fetch_add(1, Ordering::Relaxed);
                    let code = transport::code(Code::H3_EXCESSIVE_LOAD.value());
                    return connection.close(code, b"requests are taken back");
                }
                tokio::task::spawn_local(answer(room.clone(), request, arrival, room.streams.open()));
            }
            () = heard => match farewell {
                Farewell::Said(_) => {
                    door.close();
                    if http3.shutdown(1).await.is_err() { break }
                    farewell = Farewell::Meant;
                }
                Farewell::None | Farewell::Meant => {
                    // It goes by itself, or is sent away.
                    within(&local.watch, LEAVING, connection.closed()).await;
                    break;
                }
            },
            () = room.streams.ended(), if farewell == Farewell::Meant => {}
            () = local.drain.notified(), if farewell == Farewell::None => {
                farewell = say(&mut http3, connection).await;
            }
            () = idle.as_mut(), if farewell == Farewell::None => farewell = say(&mut http3, connection).await,
        }
    }
    connection.close(transport::code(Code::H3_NO_ERROR.value()), b"");
}

async fn say(http3: &mut Http3, connection: &quinn::Connection) -> Farewell {
    // A connection that is lost is noticed where requests are accepted.
    http3.shutdown(ON_THE_WAY).await.ok();
    Farewell::Said(Instant::now() + HEARING.max(connection.rtt() * 2))
}

/// Answers one request, unless its client loses interest.
async fn answer(
    room: Room,
    request: RequestResolver<Transport, Bytes>,
    arrival: Arrival,
    open: Open,
) {
    let Arrival { meter, mut stopped } = arrival;
    let (local, back) = (Rc::clone(&room.local), Rc::clone(&room.back));
    // Boxed: what a request needs is much, and most of its time a stream waits for its head.
    let work = Box::pin(async move {
        let resolved = within(&local.watch, HEAD_TIME, request.resolve_request()).await;
        let Some(Ok((request, stream))) = resolved else { return false };
        exchange(&room, request, stream, meter).await
    });
    let answered = tokio::select! {
        answered = work => answered,
        how = stopped.as_mut() => how == Stopped::Satisfied,
    };
    back.note(answered);
    drop(open);
}

/// Handles a request and sends the answer; says whether that came to its end.
async fn exchange(
    room: &Room,
    request: Request<()>,
    stream: RequestStream<transport::Stream, Bytes>,
    meter: transport::Meter,
) -> bool {
    let (mut sender, receiver) = stream.split();
    let local = &room.local;
    let length = match length(request.headers()) {
        Ok(length) if is_well_formed(&request) => length,
        _ => {
            sender.stop_stream(Code::H3_MESSAGE_ERROR);
            return false;
        }
    };
    meter.reset();
    let mut body = Body::new(receiver, meter, length);
    let method = request.method().clone();
    let refusal = refusal(&request);
    let has_no_body = length.is_none() && matches!(method, Method::GET | Method::HEAD);
    let begun = match has_no_body {
        _ if refusal.is_some() => Some(Ok(())),
        // Its end may be a packet behind; without it this would be an upload.
        true => within(&local.watch, HEAD_TIME, body.begin()).await,
        false => Some(body.look().await),
    };
    if !matches!(begun, Some(Ok(()))) {
        sender.stop_stream(Code::H3_MESSAGE_ERROR);
        return false;
    }
    let response = if let Some(Refusal { status, cause }) = refusal {
        local.shared.requests.add();
        serve::turned_down(local, &room.client, status, cause)
    } else {
        let body = if body.is_end_stream() {
            ClientBody::Empty
        } else {
            ClientBody::Http3(Box::new(body))
        };
        let parts = Box::new(request.into_parts().0);
        serve::handle(Rc::clone(local), Arc::clone(&room.client), parts, body).await
    };
    let sent = send(local, sender, response, method == Method::HEAD).await;
    sent.is_some()
}

/// Sends an answer whole, with the patience that all clients meet; resets it otherwise.
async fn send(
    local: &Rc<Local>,
    mut sender: RequestStream<Sending, Bytes>,
    response: Response<ResponseBody>,
    is_head: bool,
) -> Option<()> {
    let (mut parts, mut body) = response.into_parts();
    let bodiless = frame(&mut parts.headers, parts.status, is_head, &body);
    if !parts.headers.contains_key(DATE) {
        parts.headers.insert(DATE, local.date.value());
    }
    let head = Response::from_parts(parts, ());
    within(&local.watch, SEND_TIME, sender.send_response(head)).await?.ok()?;
    if !bodiless {
        pour(local, &mut sender, &mut body).await?;
    }
    // The log line and the connection to the instance wait for nobody's acknowledgement.
    drop(body);
    within(&local.watch, SEND_TIME, sender.finish()).await?.ok()
}

/// Sends a body and its trailers.
async fn pour(
    local: &Rc<Local>,
    sender: &mut RequestStream<Sending, Bytes>,
    body: &mut ResponseBody,
) -> Option<()> {
    loop {
        let next = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let Some(frame) = next.await else { return Some(()) };
        match frame.ok()?.into_data() {
            Ok(mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(PIECE.min(data.len()));
                    within(&local.watch, SEND_TIME, sender.send_data(piece)).await?.ok()?;
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                within(&local.watch, SEND_TIME, sender.send_trailers(trailers)).await?.ok()?;
            }
        }
    }
}

/// Says how long the body is, where that is known; whether none is sent.
fn frame(headers: &mut HeaderMap, status: StatusCode, is_head: bool, body: &ResponseBody) -> bool {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
        return true;
    }
    let exact = body.size_hint().exact();
    if is_head || status == StatusCode::NOT_MODIFIED {
        // What a GET would have: the instance knows, or the body that is not sent.
        if let Some(length) = exact.filter(|length| *length > 0) {
            headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        return true;
    }
    headers.remove(CONTENT_LENGTH);
    exact.into_iter().for_each(|length| drop(headers.insert(CONTENT_LENGTH, length.into())));
    exact == Some(0)
}

/// Whether fields may stand in a message of HTTP/3.
fn are_allowed(headers: &HeaderMap) -> bool {
    let te = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    !headers.keys().any(|name| is_of_connection(name.as_str()))
        && headers.get_all(TE).iter().all(te)
}

/// Whether a request is one (RFC 9114 § 4.3.1), as far as h3 does not look.
fn is_well_formed(request: &Request<()>) -> bool {
    let uri = request.uri();
    let has_target = uri.scheme_str() == Some("https") && !uri.path().is_empty();
    let is_connect = request.method() == Method::CONNECT;
    if request.method().as_str().len() > head::LONGEST_METHOD {
        return false;
    }
    let is_extended = request.extensions().get::<h3::ext::Protocol>().is_some();
    are_allowed(request.headers()) && (is_connect || has_target && !is_extended)
}

/// The length that a request announces, once (RFC 9114 § 4.1.2).
fn length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => plain_length(one.as_bytes()).map(Some).ok_or(()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// What is answered to a head that is more than any may be.
fn refusal(request: &Request<()>) -> Option<Refusal> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > head::LONGEST_TARGET {
        return Some(head::TARGET_TOO_LONG);
    }
    let (size, fields) = head::measure(request.headers());
    (size > head::LARGEST || fields > head::MOST_FIELDS).then_some(head::TOO_LARGE)
}
