//! What is sent again, how often, and what never is.

use super::*;

/// An instance that reads a head and closes, each time.
async fn deaf() -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    instance(|mut stream: Stream, seen| async move {
        if let Some(head) = head(&mut stream).await {
            seen.borrow_mut().push(head);
        }
    })
    .await
}

async fn answer(edge: &Simulated, request: &str) -> String {
    statuses(&edge.ask(request).await).join(" ")
}

fn request(method: &str) -> String {
    let body = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    format!("{method} / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{body}\r\n")
}

#[test]
fn a_request_that_may_have_been_carried_out_is_sent_again_only_where_that_changes_nothing() {
    simulate(async {
        let (address, seen) = deaf().await;
        let edge = Simulated::new(to_web(), &[address]);
        for (method, times) in [("GET", 3), ("PUT", 3), ("DELETE", 3), ("POST", 1), ("PATCH", 1)] {
            assert_eq!(answer(&edge, &request(method)).await, "502");
            assert_eq!(std::mem::take(&mut *seen.borrow_mut()).len(), times, "{method}");
        }
        let with_body =
            "PUT / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(answer(&edge, with_body).await, "502");
        assert_eq!(seen.borrow().len(), 1);
    });
}

#[test]
fn a_service_that_fails_is_not_given_a_multiple_of_its_load() {
    simulate(async {
        let (address, seen) = deaf().await;
        let edge = Simulated::new(to_web(), &[address]);
        for _ in 0..200 {
            assert_eq!(answer(&edge, &request("GET")).await, "502");
        }
        // The budget begins with a hundred.
        assert_eq!(seen.borrow().len(), 300);
    });
}

#[test]
fn a_body_is_not_given_to_a_connection_that_the_instance_has_closed() {
    simulate(async {
        let (address, seen) = instance(|mut stream: Stream, seen| async move {
            if let Some(head) = head(&mut stream).await {
                assert_eq!(&stream.read_u16().await.unwrap().to_be_bytes(), b"ok");
                seen.borrow_mut().push(head);
                // It does not say that it closes.
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        })
        .await;
        let edge = Simulated::new(to_web(), &[address]);
        let with_body =
            "PUT / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        for _ in 0..5 {
            assert_eq!(answer(&edge, with_body).await, "200");
        }
        assert_eq!(seen.borrow().len(), 5);
    });
}
