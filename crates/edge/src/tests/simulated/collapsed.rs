//! One client fetches for many: what it does itself must not hold up the others.

use std::time::Duration;

use seaworthy_base::policy::{Cache, Policy};
use tokio::time::Instant;

use super::*;

fn cached() -> Vec<Route> {
    let policy = Policy { cache: Some(Cache::default()), ..Policy::default() };
    let settings = Settings { policy, response_ms: 60_000, ..Settings::default() };
    vec![Route { settings, ..route("*", Action::Proxy("shop/web".into())) }]
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
}

/// Answers after `wait` with a body of so many bytes that may be kept for a minute.
async fn answering(wait: Duration, length: usize) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    instance(move |mut stream: Stream, seen| async move {
        while let Some(head) = head(&mut stream).await {
            seen.borrow_mut().push(head);
            tokio::time::sleep(wait).await;
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            if stream.write_all(&vec![b'x'; length]).await.is_err() {
                return;
            }
        }
    })
    .await
}

const LARGE: usize = 1 << 20;

#[test]
fn who_reads_slowly_or_not_at_all_holds_up_nobody_who_wants_the_same() {
    simulate(async {
        let (address, seen) = answering(Duration::from_secs(1), LARGE).await;
        let edge = Simulated::new(cached(), &[address]);
        let begun = Instant::now();
        // It asks first and reads nothing of it; its pipe holds four KiB.
        let mut slow = edge.client();
        slow.write_all(get("/x").as_bytes()).await.unwrap();
        while seen.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (request, other) = (get("/x"), get("/x"));
        let (one, two) = tokio::join!(edge.ask(&request), edge.ask(&other));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        for answer in [&one, &two] {
            assert!(answer.contains("cache-status: seaworthy; hit"), "{}", &answer[..400]);
            assert_eq!(
                answer.matches('x').count()
                    - answer.split("\r\n\r\n").next().unwrap().matches('x').count(),
                LARGE
            );
        }
        assert_eq!(seen.borrow().len(), 1);
        // And it still gets the whole of it.
        let answer = rest(&mut slow).await;
        assert!(answer.contains("fwd=miss; stored") && answer.len() > LARGE, "{}", answer.len());
    });
}

#[test]
fn when_who_fetches_goes_away_one_of_the_others_does_it_for_all() {
    simulate(async {
        let (address, seen) = answering(Duration::from_secs(5), 10).await;
        let edge = Simulated::new(cached(), &[address]);
        // All over TLS: what came without is another answer.
        let Http2 { sender, .. } = edge.http2(1 << 20).await;
        let ask = || {
            let mut sender = sender.clone();
            let request = http::Request::get("https://a.example/x").body(none()).unwrap();
            let answer = async move { sender.send_request(request).await.unwrap().status() };
            tokio::task::spawn_local(answer)
        };
        let first = ask();
        while seen.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let others: Vec<_> = (0..10).map(|_| ask()).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Its stream is reset.
        first.abort();
        for other in others {
            assert_eq!(other.await.unwrap(), 200);
        }
        // The first one, whom nobody waited for any more, and one for the ten.
        assert_eq!(seen.borrow().len(), 2);
    });
}

#[test]
fn what_was_purged_while_it_was_fetched_is_not_kept() {
    simulate(async {
        let (address, seen) = answering(Duration::from_secs(5), 10).await;
        let edge = Rc::new(Simulated::new(cached(), &[address]));
        let of_task = Rc::clone(&edge);
        let first = tokio::task::spawn_local(async move { of_task.ask(&get("/x")).await });
        while seen.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        edge.local.shared.cache.purge("shop", Some("/x"));
        assert_eq!(statuses(&first.await.unwrap()), ["200"]);
        assert!(edge.ask(&get("/x")).await.contains("fwd=miss"));
        assert!(edge.ask(&get("/x")).await.contains("seaworthy; hit"));
        assert_eq!(seen.borrow().len(), 2);
    });
}

#[test]
fn what_cannot_be_kept_is_waited_for_once_and_then_asked_for_by_everybody() {
    simulate(async {
        let (address, seen) = answering(Duration::from_secs(5), 5 << 20).await;
        let edge = Rc::new(Simulated::new(cached(), &[address]));
        let begun = Instant::now();
        let all: Vec<_> = (0..5)
            .map(|_| {
                let edge = Rc::clone(&edge);
                tokio::task::spawn_local(async move { edge.ask(&get("/x")).await })
            })
            .collect();
        for one in all {
            assert!(one.await.unwrap().len() > 5 << 20);
        }
        // Not one after the other.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(seen.borrow().len(), 5);
    });
}

/// No body.
fn none() -> Pieces {
    let (_, receiver) = tokio::sync::mpsc::unbounded_channel();
    Pieces(receiver)
}
