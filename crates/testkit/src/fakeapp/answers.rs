//! What the fake application answers to which path.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | a page |
//! | `/say?text=T` | `T`: a client can tell whether the answer was meant for it |
//! | `/health`, `/set-health?status=N` | the health of the flags, or as set |
//! | `/headers` | method, target and headers as they arrived, JSON |
//! | `/instance` | `{"instance":…,"pid":…}` |
//! | `/env?name=N` | a variable of the environment |
//! | `/echo` | the request's body, piece by piece as it arrives |
//! | `/bytes?n=N` | so many bytes |
//! | `/status?code=N`, `/redirect?to=U` | that status, 302 to there |
//! | `/sleep?ms=N`, `/slow-body?chunks=N&ms=N` | late, or drop by drop |
//! | `/events?count=N&ms=N` | server-sent events |
//! | `/ws` | a WebSocket that echoes |
//! | `/log?text=T&stream=stderr&times=N` | writes a line, N times |
//! | `/crash`, `/exit?code=N`, `/hang`, `/leak` | ends, stops answering, grows |

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::http::{Request, Wire};
use super::{App, complain, leak, say, streams};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PAGE: &str = "<!doctype html><title>fake</title><h1>fake application</h1>";

/// Answers one request; says whether the connection goes on.
pub(crate) fn answer(app: &App, request: &mut Request, wire: &mut Wire) -> io::Result<bool> {
    let number = |name: &str, default: u64| {
        request.query(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let pause = |name: &str, default: u64| Duration::from_millis(number(name, default));
    let ending = app.ending.load(Ordering::SeqCst);
    let extra = if ending { "connection: close\r\n" } else { "" };
    let path = request.path().to_owned();
    std::thread::sleep(app.options.think);
    if path != "/health" && is_broken(app) {
        wire.answer(500, TEXT, extra, b"broken as asked")?;
        return Ok(!ending);
    }
    match path.as_str() {
        "/" => wire.answer(200, "text/html; charset=utf-8", extra, PAGE.as_bytes())?,
        "/say" => {
            wire.answer(200, TEXT, extra, request.query("text").unwrap_or_default().as_bytes())?;
        }
        "/health" => {
            let body = app.health_body.lock().map(|body| body.clone()).unwrap_or_default();
            wire.answer(app.health_status.load(Ordering::SeqCst), JSON, extra, body.as_bytes())?;
        }
        "/set-health" => {
            app.health_status.store(number("status", 200) as u16, Ordering::SeqCst);
            wire.answer(200, TEXT, extra, b"set")?;
        }
        "/headers" => wire.answer(200, JSON, extra, &seen(request))?,
        "/instance" => wire.answer(200, JSON, extra, &whoami())?,
        "/env" => {
            let value = std::env::var(request.query("name").unwrap_or_default()).ok();
            wire.answer(200, JSON, extra, json!({ "value": value }).to_string().as_bytes())?;
        }
        "/bytes" => wire.answer(
            200,
            "application/octet-stream",
            extra,
            &vec![b'x'; number("n", 1024).min(1 << 30) as usize],
        )?,
        "/status" => {
            wire.answer(number("code", 200).clamp(200, 599) as u16, TEXT, extra, b"as asked")?;
        }
        "/redirect" => {
            let location = request.query("to").unwrap_or_default().replace(['\r', '\n'], "");
            wire.answer(302, TEXT, &format!("{extra}location: {location}\r\n"), b"")?;
        }
        "/sleep" => {
            std::thread::sleep(pause("ms", 1000));
            app.hang_if_asked();
            wire.answer(200, TEXT, extra, b"slept")?;
        }
        "/slow-body" => streams::drip(wire, number("chunks", 5), pause("ms", 100))?,
        "/events" => {
            return streams::events(
                wire,
                request.query("count").and_then(|text| text.parse().ok()),
                pause("ms", 100),
            )
            .map(|()| false);
        }
        "/echo" => streams::echo(request, wire)?,
        "/ws" => return streams::web_socket(app, request, wire).map(|()| false),
        "/log" => {
            let text = request.query("text").unwrap_or_default();
            for _ in 0..number("times", 1) {
                if request.query("stream").as_deref() == Some("stderr") {
                    complain(&text);
                } else {
                    say(&text);
                }
            }
            wire.answer(200, TEXT, extra, b"logged")?;
        }
        "/crash" => std::process::abort(),
        "/exit" => std::process::exit(number("code", 1) as i32),
        "/hang" => {
            wire.answer(200, TEXT, "connection: close\r\n", b"from now on nothing is answered")?;
            app.hung.store(true, Ordering::SeqCst);
        }
        "/leak" => {
            wire.answer(200, TEXT, extra, b"growing")?;
            let cap = app.options.leak_cap;
            std::thread::spawn(move || leak(cap));
        }
        _ => wire.answer(404, TEXT, extra, b"there is no such path")?,
    }
    Ok(!ending)
}

/// Whether it answered as many requests as it was told to before it breaks; checks of its health aside.
fn is_broken(app: &App) -> bool {
    app.options.broken_after.is_some_and(|good| app.answered.fetch_add(1, Ordering::SeqCst) >= good)
}

/// Who answers: the name that the supervisor gave, and the process.
pub(crate) fn whoami() -> Vec<u8> {
    let instance = std::env::var("INSTANCE").or_else(|_| std::env::var("SEAWORTHY_INSTANCE")).ok();
    json!({ "instance": instance, "pid": std::process::id() }).to_string().into_bytes()
}

/// Headers by name, each with all of its values in order.
fn seen(request: &Request) -> Vec<u8> {
    let mut headers = serde_json::Map::new();
    for (name, value) in &request.headers {
        let values = headers.entry(name.clone()).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
    json!({ "method": request.method, "target": request.target, "headers": headers })
        .to_string()
        .into_bytes()
}
