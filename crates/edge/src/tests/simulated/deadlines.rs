//! Who stands still is not waited for for ever, whichever side it is and over whichever protocol.

use std::time::Duration;

use hyper::body::Body as _;
use tokio::time::Instant;

use super::*;
use crate::h1::{IDLE_TIME, SEND_TIME};

/// How exact a deadline is: twice the tick of the alarms, and the millisecond of the clock.
const LATE: Duration = Duration::from_millis(201);

#[track_caller]
fn about(begun: Instant, expected: Duration) {
    let took = begun.elapsed();
    assert!(took >= expected && took <= expected + LATE, "{took:?} instead of {expected:?}");
}

pub(super) fn idle_of(idle: u64) -> Vec<Route> {
    let settings = Settings { idle_ms: Some(idle), ..Settings::default() };
    vec![Route { settings, ..route("*", Action::Proxy("shop/web".into())) }]
}

/// An instance that reads whatever comes and answers nothing.
pub(super) async fn silent() -> SocketAddr {
    let serve = |mut stream: Stream, _| async move { drop(rest(&mut stream).await) };
    instance(serve).await.0
}

/// One that sends half of an answer and stands still.
pub(super) async fn half() -> SocketAddr {
    let serve = |mut stream: Stream, _| async move {
        if head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await.ok();
            rest(&mut stream).await;
        }
    };
    instance(serve).await.0
}

/// One that answers with so many bytes.
pub(super) async fn large(size: usize) -> SocketAddr {
    let serve = move |mut stream: Stream, _| async move {
        while head(&mut stream).await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok();
            if stream.write_all(&vec![b'x'; size]).await.is_err() {
                return;
            }
        }
    };
    instance(serve).await.0
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhello";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

type Body = tokio::sync::mpsc::UnboundedSender<bytes::Bytes>;

async fn ask(
    client: &mut Http2,
    method: &str,
) -> (Body, Result<http::Response<hyper::body::Incoming>, hyper::Error>) {
    let (body, pieces) = tokio::sync::mpsc::unbounded_channel();
    let request = http::Request::builder().method(method).uri("https://a.example/");
    client.sender.ready().await.unwrap();
    if method == "POST" {
        body.send("hello".into()).unwrap();
    }
    let sent = client.sender.send_request(request.body(Pieces(pieces)).unwrap());
    (body, sent.await)
}

async fn frame(body: &mut hyper::body::Incoming) -> Option<Result<bytes::Bytes, hyper::Error>> {
    let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
    frame.await.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}

#[test]
fn a_request_whose_body_stands_still_is_answered_408() {
    simulate(async {
        let edge = Simulated::new(idle_of(7_000), &[silent().await]);
        let begun = Instant::now();
        let mut client = edge.client();
        client.write_all(POST).await.unwrap();
        assert_eq!(statuses(&rest(&mut client).await), ["408"]);
        about(begun, Duration::from_secs(7));
        // Each piece begins the time anew.
        let begun = Instant::now();
        let mut client = edge.client();
        client.write_all(POST).await.unwrap();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            client.write_all(b"x").await.unwrap();
        }
        assert_eq!(statuses(&rest(&mut client).await), ["408"]);
        about(begun, Duration::from_secs(31));
        let begun = Instant::now();
        let mut client = edge.http2(1 << 20).await;
        let (body, answer) = ask(&mut client, "POST").await;
        assert_eq!(answer.unwrap().status(), 408);
        about(begun, Duration::from_secs(7));
        drop(body);
    });
}

#[test]
fn an_answer_that_does_not_begin_is_504_and_one_that_stands_still_is_cut() {
    simulate(async {
        let edge = Simulated::new(idle_of(7_000), &[silent().await]);
        let begun = Instant::now();
        let mut client = edge.client();
        client.write_all(GET).await.unwrap();
        assert!(head(&mut client).await.unwrap().starts_with("HTTP/1.1 504 "));
        about(begun, Duration::from_secs(60));
        let edge = Simulated::new(idle_of(7_000), &[half().await]);
        let begun = Instant::now();
        let mut client = edge.client();
        client.write_all(GET).await.unwrap();
        assert!(rest(&mut client).await.ends_with("\r\n\r\nhello"));
        about(begun, Duration::from_secs(7));
        let begun = Instant::now();
        let mut client = edge.http2(1 << 20).await;
        let mut answer = ask(&mut client, "GET").await.1.unwrap();
        assert_eq!(frame(answer.body_mut()).await.unwrap().unwrap(), "hello");
        assert!(frame(answer.body_mut()).await.unwrap().is_err());
        about(begun, Duration::from_secs(7));
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    simulate(async {
        let size = 8 << 20;
        let edge = Simulated::new(to_web(), &[large(size).await]);
        let begun = Instant::now();
        let mut client = edge.client();
        client.write_all(GET).await.unwrap();
        let load =
            || edge.local.shared.status().instances.values().map(|one| one.in_flight).sum::<u64>();
        while load() != 0 || begun.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        about(begun, SEND_TIME);
        assert!(rest(&mut client).await.len() < size);
    });
}

#[test]
fn a_stream_whose_client_takes_nothing_is_reset_and_the_others_go_on() {
    simulate(async {
        let size = 8 << 20;
        let edge = Simulated::new(to_web(), &[large(size).await]);
        let begun = Instant::now();
        let mut client = edge.http2(64 << 10).await;
        let mut slow = ask(&mut client, "GET").await.1.unwrap();
        let mut read = 0;
        let mut brisk = ask(&mut client, "GET").await.1.unwrap();
        while let Some(piece) = frame(brisk.body_mut()).await {
            read += piece.unwrap().len();
        }
        assert_eq!(read, size);
        tokio::time::sleep(SEND_TIME + LATE).await;
        let mut cut = 0;
        let error = loop {
            match frame(slow.body_mut()).await {
                Some(Ok(piece)) => cut += piece.len(),
                Some(Err(error)) => break error,
                None => panic!("it came whole"),
            }
        };
        assert!(cut <= 64 << 10 && error.to_string().contains("error"), "{cut} {error}");
        about(begun, SEND_TIME);
        assert_eq!(ask(&mut client, "GET").await.1.unwrap().status(), 200);
    });
}

#[test]
fn a_head_that_drips_and_a_handshake_that_does_not_go_on_are_ended() {
    simulate(async {
        let edge = Simulated::new(to_web(), &[silent().await]);
        let begun = Instant::now();
        let client = edge.client();
        let (mut reader, mut writer) = tokio::io::split(client);
        tokio::task::spawn_local(async move {
            // Each byte comes long before anybody gives up on the next one.
            for byte in GET.iter().cycle().filter(|byte| **byte != b'\n') {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        assert_eq!(statuses(&rest(&mut reader).await), ["408"]);
        // From the first byte, and what is closed is listened to for two seconds more.
        let took = begun.elapsed();
        assert!((16..19).contains(&took.as_secs()), "{took:?}");
        for hello in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = Stream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, peer) = listener.accept().await.unwrap();
            let local = Rc::clone(&edge.local);
            tokio::task::spawn_local(async move {
                let at = ([127, 0, 0, 1], 443).into();
                crate::conn::serve(&local, accepted.into_std().unwrap(), peer, (at, true, false))
                    .await;
            });
            client.write_all(hello).await.unwrap();
            let begun = Instant::now();
            rest(&mut client).await;
            let took = begun.elapsed();
            assert!(took <= Duration::from_secs(10) + LATE, "{took:?} {hello:?}");
        }
    });
}

#[test]
fn a_client_that_takes_little_but_goes_on_is_served_to_the_end() {
    simulate(async {
        let size = 1 << 20;
        let edge = Simulated::new(to_web(), &[large(size).await]);
        let mut client = edge.http2(64 << 10).await;
        let mut answer = ask(&mut client, "GET").await.1.unwrap();
        let (begun, mut read) = (Instant::now(), 0);
        // Of a window of 64 KiB the client gives back half when it has taken that, however small the
        // pieces are it comes in: every 20 s.
        let mut rested = 0;
        while let Some(piece) = frame(answer.body_mut()).await {
            read += piece.unwrap().len();
            while rested + (16 << 10) <= read {
                rested += 16 << 10;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        }
        assert!(read == size && begun.elapsed() > 4 * SEND_TIME, "{read} {:?}", begun.elapsed());
    });
}

#[test]
fn a_connection_on_which_nothing_is_asked_ends() {
    simulate(async {
        let edge = Simulated::new(to_web(), &[large(1).await]);
        let begun = Instant::now();
        let mut client = edge.client();
        client.write_all(GET).await.unwrap();
        rest(&mut client).await;
        about(begun, IDLE_TIME);
        let begun = Instant::now();
        let mut client = edge.http2(1 << 20).await;
        tokio::time::sleep(Duration::from_secs(70)).await;
        let mut answer = ask(&mut client, "GET").await.1.unwrap();
        while frame(answer.body_mut()).await.is_some() {}
        client.over.notified().await;
        about(begun, Duration::from_secs(70) + IDLE_TIME);
    });
}
