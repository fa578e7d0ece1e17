//! Instances behind a Unix socket, and such that speak HTTP/2 without TLS.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest, Response};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;

use super::*;
use crate::model::Check;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";

#[test]
fn an_instance_behind_a_unix_socket_is_reached_and_its_connections_are_used_again() {
    simulate(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let count = Rc::new(std::cell::Cell::new(0));
        let of_task = Rc::clone(&count);
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                of_task.set(of_task.get() + 1);
                tokio::task::spawn_local(async move {
                    while head(&mut stream).await.is_some() {
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .await
                            .unwrap();
                    }
                });
            }
        });
        let edge = Simulated::new(to_web(), &[]);
        let place = ([0, 0, 0, 0], 0).into();
        edge.place(vec![Endpoint { socket: Some(path), ..endpoint(place) }]);
        for _ in 0..5 {
            assert!(edge.ask(GET).await.ends_with("\r\n\r\nok"));
        }
        assert_eq!(count.get(), 1);
        drop(dir);
        // It is gone: said as of any other.
        edge.local.pool.close_idle();
    });
}

#[test]
fn a_proxy_header_tells_the_client_and_no_other_client_uses_its_connection() {
    simulate(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told: Rc<RefCell<Vec<Option<SocketAddr>>>> = Rc::default();
        let of_task = Rc::clone(&told);
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let told = Rc::clone(&of_task);
                tokio::task::spawn_local(async move {
                    let announced = crate::proxy_header::read(&mut stream).await.unwrap();
                    told.borrow_mut().push(announced);
                    while head(&mut stream).await.is_some() {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        let edge = Simulated::new(to_web(), &[]);
        edge.place(vec![Endpoint { proxy_header: true, ..endpoint(address) }]);
        for _ in 0..3 {
            assert!(edge.ask(GET).await.ends_with("\r\n\r\nok"));
        }
        let client = Some("192.0.2.1:0".parse().unwrap());
        assert_eq!(*told.borrow(), [client; 3]);
        // What the edge asks for itself says so.
        let check = Check {
            path: Some("/".into()),
            every_ms: 1_000,
            timeout_ms: 500,
            failures: 1,
            ..Check::default()
        };
        edge.place(vec![Endpoint { proxy_header: true, check: Some(check), ..endpoint(address) }]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(told.borrow().last(), Some(&None));
    });
}

/// Gives a request's body back piece by piece, and then trailers that say how many there were.
struct Echo {
    body: Incoming,
    count: usize,
    over: bool,
}

impl hyper::body::Body for Echo {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.over {
            return std::task::Poll::Ready(None);
        }
        let frame = std::task::ready!(std::pin::Pin::new(&mut self.body).poll_frame(context));
        std::task::Poll::Ready(Some(match frame {
            Some(Ok(frame)) => {
                let piece = frame.data_ref().is_some_and(|data| !data.is_empty());
                self.count += usize::from(piece);
                Ok(frame)
            }
            Some(Err(error)) => Err(error),
            None => {
                self.over = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("x-count", self.count.into());
                Ok(Frame::trailers(trailers))
            }
        }))
    }
}

#[test]
fn an_instance_of_http2_is_spoken_to_over_one_connection_with_bodies_and_trailers_both_ways() {
    simulate(async {
        let seen: Rc<RefCell<Vec<http::request::Parts>>> = Rc::default();
        let of_service = Rc::clone(&seen);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(std::cell::Cell::new(0));
        let of_task = Rc::clone(&connections);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                of_task.set(of_task.get() + 1);
                let seen = Rc::clone(&of_service);
                let service = service_fn(move |request: HttpRequest<Incoming>| {
                    let (parts, body) = request.into_parts();
                    seen.borrow_mut().push(parts);
                    async move {
                        Ok::<_, Infallible>(Response::new(Echo { body, count: 0, over: false }))
                    }
                });
                let stream = hyper_util::rt::TokioIo::new(stream);
                tokio::task::spawn_local(
                    hyper::server::conn::http2::Builder::new(Here)
                        .serve_connection(stream, service),
                );
            }
        });
        let edge = Simulated::new(to_web(), &[]);
        edge.place(vec![Endpoint { http2: true, ..endpoint(address) }]);
        let mut client = edge.http2(1 << 20).await;
        let (body, pieces) = tokio::sync::mpsc::unbounded_channel();
        let request = HttpRequest::post("https://a.example/pkg.Service/Method")
            .header("te", "trailers")
            .header("x-forwarded-for", "198.51.100.9")
            .header("content-type", "application/grpc");
        let answer = client.sender.send_request(request.body(Pieces(pieces)).unwrap());
        let mut answer = answer.await.unwrap();
        // A conversation: each piece comes back before the next one is sent.
        for text in ["one", "two", "three"] {
            body.send(text.into()).unwrap();
            let frame = next(answer.body_mut()).await.unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
        }
        drop(body);
        let trailers = next(answer.body_mut()).await.unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-count"]),
            (&"0".parse().unwrap(), &"3".parse().unwrap())
        );
        assert!(next(answer.body_mut()).await.is_none());
        let parts = seen.borrow_mut().pop().unwrap();
        let header =
            |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(parts.uri.authority().unwrap(), "a.example");
        assert_eq!(header("te").as_deref(), Some("trailers"));
        assert_eq!(header("x-forwarded-for").as_deref(), Some("192.0.2.1"));
        assert!(header("x-request-id").is_some() && header("connection").is_none());
        // A client of HTTP/1.1 gets the same without trailers.
        let post = "POST /y HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        let answer = edge.ask(post).await;
        assert!(statuses(&answer) == ["200"] && answer.contains("\r\n2\r\nok\r\n"), "{answer}");
        assert_eq!(connections.get(), 1);
        // Away from rotation its connection is closed.
        edge.place(Vec::new());
        edge.local.http2.clean();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(statuses(&edge.ask(GET).await), ["503"]);
        let pooled: u64 = edge.local.shared.status().instances.values().map(|one| one.pooled).sum();
        assert_eq!(pooled, 0);
    });
}

async fn next(body: &mut Incoming) -> Option<Frame<Bytes>> {
    let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context));
    frame.await.map(Result::unwrap)
}

#[test]
fn bodies_larger_than_every_window_go_both_ways_over_http2() {
    simulate(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: HttpRequest<Incoming>| async move {
                    let body = Echo { body: request.into_body(), count: 0, over: false };
                    Ok::<_, Infallible>(Response::new(body))
                });
                let stream = hyper_util::rt::TokioIo::new(stream);
                let server = hyper::server::conn::http2::Builder::new(Here);
                tokio::task::spawn_local(server.serve_connection(stream, service));
            }
        });
        let edge = Simulated::new(to_web(), &[]);
        edge.place(vec![Endpoint { http2: true, ..endpoint(address) }]);
        let mut client = edge.http2(1 << 16).await;
        let size = 5 << 20;
        for _ in 0..2 {
            let (body, pieces) = tokio::sync::mpsc::unbounded_channel();
            let request = HttpRequest::post("https://a.example/x").body(Pieces(pieces)).unwrap();
            body.send(vec![b'x'; size].into()).unwrap();
            drop(body);
            let mut answer = client.sender.send_request(request).await.unwrap();
            let mut left = size;
            while let Some(frame) = std::future::poll_fn(|context| {
                std::pin::Pin::new(answer.body_mut()).poll_frame(context)
            })
            .await
            {
                left -= frame.unwrap().data_ref().map_or(0, Bytes::len);
            }
            assert_eq!(left, 0);
        }
    });
}
