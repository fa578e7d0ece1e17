//! `@client-events`: what browsers tell is counted here and goes nowhere else.
//!
//! Invariant: a batch is read whole before anything of it counts, and is no larger than [`LARGEST`].

use http::header::{ALLOW, CACHE_CONTROL};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use super::{Record, Refusal, guarded, refuse};
use crate::body::{ClientBody, ResponseBody};
use crate::client_events::{LARGEST, NoBatch};
use crate::respond;
use crate::worker::Local;

/// Counts a batch: 204, whatever is in it.
pub(super) async fn take(
    local: &Local,
    parts: &Parts,
    mut body: ClientBody,
    record: &Record,
) -> Result<Response<ResponseBody>, Refusal> {
    if parts.method != Method::POST {
        let mut response = respond::fixed(405, "", "text/plain");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let idle = record.idle();
    let whole = guarded::read(local, parts, &mut body, (idle, LARGEST)).await?;
    let site = record.site.as_ref().map_or("", |site| &site.name);
    match local.shared.client_events.count(site, &whole) {
        Ok(()) => {
            let mut response = Response::new(respond::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
        Err(NoBatch::NotOne) => refuse(
            StatusCode::BAD_REQUEST,
            "the body is no batch of events: `{\"events\": [{\"type\": …}]}`",
        ),
        Err(NoBatch::TooMany) => {
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "a batch has 500 events at most")
        }
    }
}
