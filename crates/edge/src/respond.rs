//! Answers of the edge itself: errors with a request id and nothing internal, redirects, fixed answers.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use seaworthy_base::RequestId;

use crate::body::{Content, ResponseBody as Body};
use crate::policy::headers::all_lines;

/// An error for a client: a page, or JSON when it asks for that.
pub(crate) fn error(
    status: StatusCode,
    id: RequestId,
    accept: Option<&HeaderValue>,
) -> Response<Body> {
    let json = accept
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("json") && !accept.contains("html"));
    let (kind, body) = error_text(status, id, json);
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// 405 with the methods that there are.
pub(crate) fn not_allowed(
    methods: &str,
    id: RequestId,
    accept: Option<&HeaderValue>,
) -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, id, accept);
    let methods = HeaderValue::from_str(methods).unwrap_or(HeaderValue::from_static("GET, HEAD"));
    response.headers_mut().insert(ALLOW, methods);
    response
}

/// Its type and text.
fn error_text(status: StatusCode, id: RequestId, json: bool) -> (&'static str, String) {
    let title = status.canonical_reason().unwrap_or("Error");
    if json {
        let text = format!(
            "{{\"v\":1,\"error\":{{\"status\":{},\"title\":\"{title}\",\"request_id\":\"{id}\"}}}}\n",
            status.as_u16()
        );
        return ("application/json", text);
    }
    ("text/html; charset=utf-8", page(status, title, id))
}

/// The last answer on a connection, as bytes: to what was refused before it became a request.
pub(crate) fn refusal(status: StatusCode, id: RequestId) -> String {
    let (kind, body) = error_text(status, id, false);
    let title = status.canonical_reason().unwrap_or("Error");
    format!(
        "HTTP/1.1 {} {title}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\ncache-control: no-store\r\nx-request-id: {id}\r\n{}connection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
        all_lines(),
    )
}

fn page(status: StatusCode, title: &str, id: RequestId) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{code} {title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;margin:0}}\
         main{{text-align:center;padding:2rem}}h1{{font-size:4rem;margin:0;font-weight:300}}p{{opacity:.7}}code{{font-size:.85em}}</style>\
         <main><h1>{code}</h1><p>{title}</p><p><code>{id}</code></p></main></html>\n",
        code = status.as_u16()
    )
}

/// A body in memory.
fn full(text: String) -> Body {
    Content::Full(text.into()).into()
}

/// No body.
pub(crate) fn empty() -> Body {
    Content::Empty.into()
}

/// A redirect. A place that cannot be a header becomes the root.
pub(crate) fn redirect(status: StatusCode, place: &str) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    let place = HeaderValue::from_str(place).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, place);
    response
}

/// The same host, path and query over HTTPS (308 keeps the method).
pub(crate) fn to_https(host: &str, port: u16, target: &str) -> Response<Body> {
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    redirect(StatusCode::PERMANENT_REDIRECT, &format!("https://{host}{port}{target}"))
}

/// A fixed answer.
pub(crate) fn fixed(status: u16, body: &str, content_type: &str) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if let Ok(kind) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
