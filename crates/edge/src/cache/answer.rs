//! A kept answer as a response to one request: whole, a part of it, or "unchanged".

use http::header::{
    ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, DATE, ETAG,
    EXPIRES, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, RANGE, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::rules::{Kept, http_date};
use crate::body::{Content, ResponseBody};
use crate::static_files::{Range, date, is_as_demanded, range};

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What says something of a kept answer's bytes, and not of a refusal to send some of them.
const OF_THE_BYTES: [&str; 16] = [
    "cache-control",
    "cdn-cache-control",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-md5",
    "content-type",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "pragma",
    "repr-digest",
    "surrogate-control",
];

/// The headers that make an answer depend on what the client has.
pub(crate) fn conditions(headers: &HeaderMap) -> HeaderMap {
    let names = [IF_MATCH, IF_UNMODIFIED_SINCE, IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE, IF_RANGE];
    let mut given = HeaderMap::new();
    for name in names {
        // All lines: two ranges in two lines are not one.
        for value in headers.get_all(&name) {
            given.append(name.clone(), value.clone());
        }
    }
    given
}

/// Answers a request whose `conditions` these are.
pub(crate) fn answer(
    kept: &Kept,
    method: &Method,
    conditions: &HeaderMap,
    now: u64,
    how: &str,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(Content::Empty));
    let status = format!("seaworthy; {how}; ttl={}", kept.left_seconds(now));
    if is_unchanged(kept, conditions) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let told = [
            CACHE_CONTROL,
            CONTENT_LOCATION,
            DATE,
            ETAG,
            EXPIRES,
            VARY,
            LAST_MODIFIED,
            // Only from an answer that has just come, for who asked.
            SET_COOKIE,
        ];
        for name in told {
            for value in kept.headers.get_all(&name) {
                response.headers_mut().append(name.clone(), value.clone());
            }
        }
    } else {
        response = whole_or_part(kept, method, conditions);
    }
    let headers = response.headers_mut();
    headers.insert(AGE, HeaderValue::from(kept.age_seconds(now)));
    if let Ok(value) = HeaderValue::from_str(&status) {
        headers.insert(CACHE_STATUS, value);
    }
    response
}

fn whole_or_part(kept: &Kept, method: &Method, conditions: &HeaderMap) -> Response<ResponseBody> {
    let size = kept.body.len() as u64;
    let etag = kept.headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    // The application may have what is demanded, and is not asked: whoever goes on with something else gets the whole.
    let is_meant = is_as_demanded(conditions, etag, date(&kept.headers, &LAST_MODIFIED));
    let wanted = if kept.status == StatusCode::OK && *method == Method::GET && is_meant {
        range(conditions, etag, size)
    } else {
        Range::Whole
    };
    let (status, body, described) = match wanted {
        Range::Whole => (kept.status, kept.body.clone(), None),
        Range::Part(from, to) => (
            StatusCode::PARTIAL_CONTENT,
            kept.body.slice(from as usize..to as usize),
            Some(format!("bytes {from}-{}/{size}", to - 1)),
        ),
        Range::Impossible => (
            StatusCode::RANGE_NOT_SATISFIABLE,
            bytes::Bytes::new(),
            Some(format!("bytes */{size}")),
        ),
    };
    let length = body.len() as u64;
    let sent = if *method == Method::HEAD { Content::Empty } else { Content::Full(body) };
    let mut response = Response::new(ResponseBody::from(sent));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.clone_from(&kept.headers);
    if status == StatusCode::RANGE_NOT_SATISFIABLE && described.is_some() {
        // Above all not for how long it may be kept: others would get the refusal for the answer.
        OF_THE_BYTES.iter().for_each(|name| drop(headers.remove(*name)));
    }
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(range) = described.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(CONTENT_RANGE, range);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}

/// Whether the client has what we have (RFC 9110 § 13.2.2).
fn is_unchanged(kept: &Kept, conditions: &HeaderMap) -> bool {
    if kept.status != StatusCode::OK {
        return false;
    }
    if conditions.contains_key(IF_NONE_MATCH) {
        let Some(tag) = kept.headers.get(ETAG).and_then(|tag| tag.to_str().ok()) else {
            return false;
        };
        let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let lines =
            conditions.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = lines.flat_map(super::directives::split);
        return tags.any(|given| given == "*" || bare(given) == bare(tag));
    }
    let since = http_date(conditions, &IF_MODIFIED_SINCE);
    let changed =
        http_date(&kept.headers, &LAST_MODIFIED).or_else(|| http_date(&kept.headers, &DATE));
    since.zip(changed).is_some_and(|(since, changed)| changed <= since)
}

/// Says of an answer that was not kept before why it came.
pub(crate) fn mark(headers: &mut HeaderMap, stored: bool) {
    let text = if stored { "seaworthy; fwd=miss; stored" } else { "seaworthy; fwd=miss" };
    headers.insert(CACHE_STATUS, HeaderValue::from_static(text));
}
