//! One health check, over TCP or a Unix socket: GET with exact rules, a connection, or a few words of another protocol.
//!
//! No redirects (a login page is no health), exact statuses, values inside the JSON answer, a bound on
//! time and size. Invariant: a check ends within its timeout whatever the program does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::model::{Probe, Say};
use crate::socket::Address;

/// The longest answer that is looked at, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Checks once; the error says in words what came instead.
pub(crate) fn check(probe: &Probe, address: &Address) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_millis(probe.timeout_ms);
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream =
        address.connect(left()).map_err(|error| format!("no connection to {address}: {error}"))?;
    if let Some(say) = &probe.say {
        stream.set_read_timeout(Some(left())).ok();
        return speak(&mut stream, say);
    }
    let Some(path) = &probe.path else { return Ok(()) };
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: */*\r\nUser-Agent: seaworthy-health\r\n",
        address.host()
    );
    for (name, value) in &probe.headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    let late = |_| format!("no answer to GET {path} within {} ms", probe.timeout_ms);
    stream
        .set_write_timeout(Some(left()))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .map_err(late)?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() < MAX_ANSWER && !complete(&answer) {
        stream.set_read_timeout(Some(left())).map_err(late)?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(piece.get(..n).unwrap_or_default()),
            Err(error)
                if error.kind() == std::io::ErrorKind::ConnectionReset && !answer.is_empty() =>
            {
                break;
            }
            Err(error)
                if Instant::now() >= deadline || error.kind() == std::io::ErrorKind::WouldBlock =>
            {
                return Err(late(error));
            }
            Err(error) => return Err(format!("the connection ended: {error}")),
        }
        if Instant::now() >= deadline {
            return Err(late(std::io::ErrorKind::TimedOut.into()));
        }
    }
    judge(probe, path, &answer)
}

/// Says the words and compares how the answer begins.
fn speak(stream: &mut TcpStream, say: &Say) -> Result<(), String> {
    let mut answer = vec![0; say.answer.len()];
    stream
        .write_all(&say.words)
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|error| format!("it takes connections and does not answer yet: {error}"))?;
    // What follows says why not, where the protocol has words for it; left unread it would be a reset there.
    let mut rest = [0; 512];
    let ready = answer == say.answer;
    stream.set_nonblocking(ready).ok();
    let got = stream.read(&mut rest).unwrap_or(0);
    if ready {
        return Ok(());
    }
    answer.extend_from_slice(rest.get(..got).unwrap_or_default());
    let text: String = String::from_utf8_lossy(&answer)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    Err(format!("it takes connections and is not ready: {}", text.trim()))
}

fn head(answer: &[u8]) -> Option<(u16, usize, Option<usize>, bool)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(end)) = response.parse(answer) else { return None };
    let find = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let length = find("content-length").and_then(|text| text.trim().parse().ok());
    let chunked =
        find("transfer-encoding").is_some_and(|text| text.to_ascii_lowercase().contains("chunked"));
    Some((response.code?, end, length, chunked))
}

/// Whether the whole answer is there, so that a server that keeps the connection open is not waited for.
fn complete(answer: &[u8]) -> bool {
    match head(answer) {
        Some((_, end, Some(length), _)) => answer.len() >= end + length,
        Some((_, _, None, true)) => answer.ends_with(b"0\r\n\r\n"),
        _ => false,
    }
}

fn judge(probe: &Probe, path: &str, answer: &[u8]) -> Result<(), String> {
    let Some((status, end, _, chunked)) = head(answer) else {
        return Err(format!("GET {path} was answered with something that is not HTTP"));
    };
    let expected = if probe.status.is_empty() {
        (200..300).contains(&status)
    } else {
        probe.status.contains(&status)
    };
    if !expected {
        let wanted = if probe.status.is_empty() {
            "200 to 299".to_owned()
        } else {
            probe.status.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
        };
        return Err(format!("GET {path} was answered with {status}, expected {wanted}"));
    }
    if probe.json.is_empty() {
        return Ok(());
    }
    let body = answer.get(end..).unwrap_or_default();
    let body = if chunked { dechunk(body) } else { body.to_vec() };
    let json: serde_json::Value = serde_json::from_slice(&body)
        .map_err(|_| format!("GET {path} was answered with something that is not JSON"))?;
    for (place, wanted) in &probe.json {
        let found = place.split('.').try_fold(&json, |value, key| match value {
            serde_json::Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            other => other.get(key),
        });
        if found != Some(wanted) {
            let found = found
                .map_or("nothing".to_owned(), |found| found.to_string().chars().take(80).collect());
            return Err(format!("GET {path}: `{place}` is {found}, expected {wanted}"));
        }
    }
    Ok(())
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(line) = body.windows(2).position(|pair| pair == b"\r\n") {
        let size =
            body.get(..line).and_then(|size| std::str::from_utf8(size).ok()).and_then(|size| {
                usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16).ok()
            });
        let Some(size) = size.filter(|size| *size > 0) else { break };
        let Some(chunk) = body.get(line + 2..).and_then(|rest| rest.get(..size)) else { break };
        out.extend_from_slice(chunk);
        body = body.get(line + 2 + size + 2..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn probe() -> Probe {
        Probe {
            path: Some("/h".to_owned()),
            say: None,
            status: vec![],
            json: [].into(),
            headers: [].into(),
            every_ms: 1000,
            timeout_ms: 300,
            failures: 3,
            start_ms: 1000,
        }
    }

    fn server(answer: &'static str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
            // Kept open: the check must not wait for the end.
            std::io::copy(&mut stream, &mut std::io::sink()).ok();
        });
        address
    }

    #[test]
    fn redirects_wrong_statuses_and_silence_are_no_health() {
        assert!(check(&probe(), &server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).is_ok());
        let error = check(&probe(), &server("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"))
            .unwrap_err();
        assert_eq!(error, "GET /h was answered with 302, expected 200 to 299");
        assert_eq!(check(&probe(), &server("")).unwrap_err(), "no answer to GET /h within 300 ms");
    }

    #[test]
    fn a_server_without_http_is_ready_when_its_answer_begins_as_it_should() {
        let say = Say { words: b"PING\r\n".to_vec(), answer: b"+PONG".to_vec() };
        let ping = Probe { path: None, say: Some(say), ..probe() };
        assert!(check(&ping, &server("+PONG\r\n")).is_ok());
        let error = check(&ping, &server("-LOADING the dataset\r\n")).unwrap_err();
        assert!(error.ends_with("-LOADING the dataset"), "{error}");
        assert!(check(&ping, &server("+PO")).is_err());
    }

    #[test]
    fn values_inside_the_json_answer_are_compared() {
        let inside = Probe { json: [("a.ready".to_owned(), true.into())].into(), ..probe() };
        assert!(check(&inside, &server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{\"a\":{\r\n\u{39}\r\n\"ready\":t\r\n5\r\nrue}}\r\n0\r\n\r\n")).is_ok());
        let error = check(
            &inside,
            &server("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"a\":{\"ready\":false}}"),
        )
        .unwrap_err();
        assert!(error.contains("not JSON") || error.contains("is false"), "{error}");
    }
}
