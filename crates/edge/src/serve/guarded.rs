//! The way to an instance where more is to be done than passing on: fields of the body are counted, the
//! answer may come from what is kept ([`cached`]), and its text says whether an attempt failed.
//!
//! Invariant: what was read of a body is passed on in full and in order; a body that cannot be read (too
//! long, compressed, not as all programs read it) does not get past a count.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body as _;

use super::{Client, Record, Refusal, cached, refuse};
use crate::body::{ClientBody, ResponseBody};
use crate::policy;
use crate::policy::fields::{self, Fields, Unreadable};
use crate::policy::stored::{self, Of};
use crate::shape;
use crate::watch::within_patience;
use crate::worker::Local;

type Answer = (Response<ResponseBody>, Option<SocketAddr>);

/// As [`super::proxy::forward`], with what the route's policy asks for around it.
pub(super) async fn forward(
    local: &Rc<Local>,
    client: &Arc<Client>,
    parts: Parts,
    mut body: ClientBody,
    id: &HeaderValue,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    let Some((site, route)) = record.site.clone().zip(record.route.clone()) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "a request without a route");
    };
    if route.policy.needs_body {
        let mut whole = Bytes::new();
        if !body.is_end_stream() {
            whole = read(local, &parts, &mut body, (record.idle(), fields::MAX_BODY)).await?;
            body = ClientBody::Read(whole.clone());
        }
        let (query, keys) = (parts.uri.query(), &route.policy.body_keys);
        let found = Fields::read(&parts.headers, query, &whole, keys);
        let found = found.or_else(|Unreadable { status, cause }| refuse(status, cause))?;
        if let Err(refused) = policy::admit_body(local, &parts, record, (&site, &route), &found) {
            return Ok((refused.answer(&parts, record), None));
        }
        let of = Of { site: &site, route: &route, parts: &parts, fields: Some(&found) };
        if let Err(refused) = stored::admit(local, record, of).await {
            return Ok((refused.answer(&parts, record), None));
        }
    }
    let (response, from) = cached::forward(local, client, parts, body, id, record).await?;
    let status = response.status();
    let Some(attempt) = record.attempt.take_if(|attempt| attempt.reads_answer(status)) else {
        return Ok((response, from));
    };
    Ok((shape::settle(response, attempt, &local.rooms), from))
}

/// A whole body that is short enough to be looked into; each piece within the time.
pub(super) async fn read(
    local: &Local,
    parts: &Parts,
    body: &mut ClientBody,
    (idle, most): (Option<Duration>, usize),
) -> Result<Bytes, Refusal> {
    if !fields::is_readable(&parts.headers) {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is to be looked into, and it is compressed",
        );
    }
    let mut whole = BytesMut::new();
    loop {
        let next =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
        let next = match idle {
            Some(idle) => within_patience(&local.watch, idle, next).await,
            None => Some(next.await),
        };
        match next {
            None => {
                return refuse(StatusCode::REQUEST_TIMEOUT, "the client sent nothing of the body");
            }
            Some(None) => return Ok(whole.freeze()),
            Some(Some(Err(_))) => return refuse(StatusCode::BAD_REQUEST, "the body was cut off"),
            Some(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_default();
                if whole.len() + data.len() > most {
                    return refuse(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "a body that is to be looked into has 64K at most",
                    );
                }
                whole.extend_from_slice(&data);
            }
        }
    }
}
