//! What a client is told that is refused, and what is written of it.
//!
//! Invariants: the client learns a status and the request's id, nothing of the cause; what was refused before it
//! became a request is logged, too. Not here: why something is refused.

use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body as _;
use seaworthy_base::RequestId;
use tokio::time::Instant;

use super::{Client, Protocol, Record};
use crate::access_log::Entry;
use crate::body::ResponseBody;
use crate::respond;
use crate::snapshot::Shared;
use crate::worker::Local;

/// The answer to a request that was refused.
pub(super) fn answer(
    client: &Client,
    status: StatusCode,
    record: &Record,
    accept: Option<&HeaderValue>,
) -> Response<ResponseBody> {
    let mut response = respond::error(status, record.id, accept);
    if status == StatusCode::SERVICE_UNAVAILABLE
        && let Some(wait) = closed_for(record)
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000).max(1)));
    }
    // After a request that is not understood nothing on the connection can be trusted.
    let ends = matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::METHOD_NOT_ALLOWED
    );
    if ends && client.protocol == Protocol::Http1 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// So many milliseconds the breaker of the request's route lets nothing through.
fn closed_for(record: &Record) -> Option<u64> {
    let now = record.local.shared.millis(Instant::now());
    record.route.as_ref()?.closed_for(now)
}

/// Logs what was refused before it became a request, and says what the client is told.
pub(crate) fn refused(
    shared: &Shared,
    id: RequestId,
    client: &Client,
    status: StatusCode,
    cause: &str,
) -> String {
    let answer = respond::refusal(status, id);
    note_refused(shared, id, client, status, (cause, answer.len()));
    answer
}

/// As [`refused`], where the connection goes on.
pub(crate) fn turned_down(
    local: &Local,
    client: &Client,
    status: StatusCode,
    cause: &str,
) -> Response<ResponseBody> {
    let id = local.next_id(Instant::now());
    let response = respond::error(status, id, None);
    let length = response.body().size_hint().lower() as usize;
    note_refused(&local.shared, id, client, status, (cause, length));
    response
}

fn note_refused(
    shared: &Shared,
    id: RequestId,
    client: &Client,
    status: StatusCode,
    (cause, length): (&str, usize),
) {
    shared.log.write(
        id.thread().into(),
        &Entry {
            id,
            site: "",
            client: client.peer,
            method: "",
            host: "",
            path: "",
            query: None,
            status: status.as_u16(),
            bytes_in: 0,
            bytes_out: length as u64,
            micros: 0,
            upstream: None,
            upstream_micros: None,
            protocol: client.protocol,
            tls: client.tls,
            retries: 0,
            trace: b"",
            cause: Some(cause),
            agent: b"",
            referer: b"",
        },
    );
}
