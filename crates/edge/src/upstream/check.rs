//! Health checks of instances that nobody else checks: servers that somebody else runs.
//!
//! GET, exact statuses, values within a JSON answer, no redirects (a page to log in is no health), a bound
//! on time and size. One thread asks for all. Invariants: a check ends within its time; as many failures in
//! a row as its rule says take an instance out, one success brings it back; what an instance does not say
//! is a failure. Programs that we run are checked by those who run them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tokio::time::Instant;

use super::{Broken, Flow, Lost, Message, Outgoing, over_http1, over_http2};
use crate::body::RequestBody;
use crate::forwarded::encode_all;
use crate::instance::Instance;
use crate::model::{Check, Settings};
use crate::socket::Socket;
use crate::watch::within;
use crate::worker::Local;

/// The longest answer that is looked at.
const MOST: usize = 64 << 10;

/// Sees to it that every instance that is to be checked is. Called when the instances have changed.
pub(crate) fn start(local: &Rc<Local>) {
    let snapshot = local.current();
    let all = snapshot.services.values().flat_map(|service| &service.ready);
    for instance in all.filter(|one| one.check.is_some()) {
        if local.checked.borrow_mut().insert(instance.key()) {
            tokio::task::spawn_local(run(Rc::clone(local), Arc::clone(instance)));
        }
    }
}

/// Checks one instance until it is gone.
async fn run(local: Rc<Local>, mut instance: Arc<Instance>) {
    let mut failures = 0;
    while let Some(check) = instance.check.clone() {
        let found = ask(&local, &instance, &check).await;
        failures = if found.is_ok() { 0 } else { failures + 1 };
        let now = local.shared.millis(Instant::now());
        match found {
            Ok(()) => instance.load.health.find(None, now),
            Err(why) if failures >= check.failures => instance.load.health.find(Some(why), now),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(check.every_ms)).await;
        // Its rule may be another one by now.
        let snapshot = local.current();
        let mut all = snapshot.services.values().flat_map(|service| &service.ready);
        let Some(again) = all.find(|one| one.key() == instance.key()) else { break };
        instance = Arc::clone(again);
    }
    local.checked.borrow_mut().remove(&instance.key());
}

/// Checks once; the error says in words what came instead.
async fn ask(local: &Rc<Local>, instance: &Arc<Instance>, check: &Check) -> Result<(), String> {
    let limit = Duration::from_millis(check.timeout_ms);
    let late = || format!("no answer to a health check within {} ms", check.timeout_ms);
    let Some(path) = &check.path else {
        let connected = within(&local.watch, limit, Socket::connect(&instance.address)).await;
        return match connected {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(format!("no connection: {error}")),
            None => Err(late()),
        };
    };
    let asked = within(&local.watch, limit, get(local, instance, path, &check.headers)).await;
    let (status, body) = asked.ok_or_else(late)??;
    judge(check, path, status, &body)
}

async fn get(
    local: &Rc<Local>,
    instance: &Arc<Instance>,
    path: &str,
    extra: &[(String, String)],
) -> Result<(StatusCode, BytesMut), String> {
    let request = Request::get(path).body(()).map_err(|error| error.to_string())?;
    let (parts, ()) = request.into_parts();
    let host = HeaderValue::from_str(&instance.public_address().to_string());
    let mut fields = HeaderMap::new();
    fields.insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
    fields.insert(USER_AGENT, HeaderValue::from_static("seaworthy-health"));
    fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
    for (name, value) in extra {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            fields.insert(name, value);
        }
    }
    let outgoing = Outgoing {
        parts: &parts,
        fields: &|out| encode_all(out, &fields),
        headers: &|| fields.clone(),
        progress: None,
        replayable: false,
        begun: Instant::now(),
        client: None,
        tls: None,
    };
    let (settings, message) = (Settings::default(), Message::Body(RequestBody::Empty));
    let tried = if instance.http2 {
        over_http2(local, instance, &settings, &outgoing, message).await
    } else {
        over_http1(local, instance, &settings, &outgoing, message).await
    };
    let Ok(tried) = tried else { return Err("it refused a connection".to_owned()) };
    let (response, mut flow) = tried.result.map_err(|broken| match broken {
        Broken::TimedOut(cause) | Broken::Lost(Lost::Client(cause) | Lost::Instance(cause)) => {
            cause
        }
    })?;
    let body = read(&mut flow).await?;
    if flow.is_over() {
        flow.finish(local, instance);
    }
    Ok((response.status(), body))
}

async fn read(flow: &mut Flow) -> Result<BytesMut, String> {
    let mut body = BytesMut::new();
    while body.len() < MOST {
        let frame = std::future::poll_fn(|context| flow.poll_frame(context)).await;
        let Some(frame) = frame else { break };
        let data = frame.map_err(|error| format!("the answer was cut off: {error}"))?.into_data();
        body.extend_from_slice(&data.unwrap_or_default());
    }
    Ok(body)
}

fn judge(check: &Check, path: &str, status: StatusCode, body: &[u8]) -> Result<(), String> {
    let expected = if check.status.is_empty() {
        status.is_success()
    } else {
        check.status.contains(&status.as_u16())
    };
    if !expected {
        return Err(format!("GET {path} was answered with {}", status.as_u16()));
    }
    if check.json.is_empty() {
        return Ok(());
    }
    let json: serde_json::Value = serde_json::from_slice(body)
        .map_err(|_| format!("GET {path} was answered with something that is not JSON"))?;
    for (place, wanted) in &check.json {
        let found = place.split('.').try_fold(&json, |value, key| match value {
            serde_json::Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            other => other.get(key),
        });
        if found != Some(wanted) {
            return Err(format!("GET {path}: `{place}` is not {wanted}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(check: &Check, status: u16, body: &str) -> Result<(), String> {
        judge(check, "/health", StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn only_the_status_and_the_values_that_are_asked_for_are_health() {
        let any = Check::default();
        assert_eq!(judged(&any, 204, ""), Ok(()));
        // A page to log in is no health.
        for status in [302, 401, 404, 500] {
            let why = judged(&any, status, "").unwrap_err();
            assert_eq!(why, format!("GET /health was answered with {status}"));
        }
        let exact = Check { status: vec![207], ..Check::default() };
        assert!(judged(&exact, 207, "").is_ok() && judged(&exact, 200, "").is_err());
        let json = [("db.0.state".to_owned(), "up".into()), ("ready".to_owned(), true.into())];
        let deep = Check { json: json.into(), ..Check::default() };
        assert_eq!(judged(&deep, 200, r#"{"db":[{"state":"up"}],"ready":true}"#), Ok(()));
        for (body, why) in [
            (r#"{"db":[{"state":"up"}],"ready":false}"#, "GET /health: `ready` is not true"),
            (r#"{"db":[],"ready":true}"#, "GET /health: `db.0.state` is not \"up\""),
            (r#"{"db":{"0":{"state":1}},"ready":true}"#, "GET /health: `db.0.state` is not \"up\""),
            // Longer than is read: what is cut off says nothing.
            (
                r#"{"ready":true,"db":[{"sta"#,
                "GET /health was answered with something that is not JSON",
            ),
            ("ok", "GET /health was answered with something that is not JSON"),
        ] {
            assert_eq!(judged(&deep, 200, body), Err(why.to_owned()), "{body}");
        }
    }
}
