//! Which instance gets a request, when one is left out, when a service is left alone, what waits.

use std::collections::BTreeSet;
use std::time::Duration;

use seaworthy_base::ByteSize;
use seaworthy_base::delivery::{Balance, Breaker, Delivery, Hold, Passive, Retry};
use seaworthy_base::policy::Key;
use tokio::time::Instant;

use super::*;
use crate::model::Check;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";

fn with(delivery: Delivery) -> Vec<Route> {
    let settings = Settings { delivery, ..Settings::default() };
    vec![Route { settings, ..route("*", Action::Proxy("shop/web".into())) }]
}

/// An instance that answers with a status and its number, or with what `answer` makes of the request.
async fn answering(number: usize, status: Rc<std::cell::Cell<u16>>) -> SocketAddr {
    let serve = move |mut stream: Stream, _| {
        let status = Rc::clone(&status);
        async move {
            while head(&mut stream).await.is_some() {
                // 0: it closes without an answer.
                if status.get() == 0 {
                    return;
                }
                let answer =
                    format!("HTTP/1.1 {} X\r\nContent-Length: 1\r\n\r\n{number}", status.get());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    instance(serve).await.0
}

fn status(status: u16) -> Rc<std::cell::Cell<u16>> {
    Rc::new(std::cell::Cell::new(status))
}

/// Which instance answered.
fn who(answer: &str) -> &str {
    answer.rsplit("\r\n\r\n").next().unwrap_or_default()
}

fn why_out(edge: &Simulated, address: SocketAddr) -> Option<String> {
    let status = edge.local.shared.status();
    status.instances.get(&format!("shop/web/{}@1", address.port()))?.out.clone()
}

#[test]
fn an_instance_that_does_not_answer_is_left_out_for_a_while_but_never_the_last() {
    simulate(async {
        let states = [status(0), status(200)];
        let all =
            [answering(0, Rc::clone(&states[0])).await, answering(1, Rc::clone(&states[1])).await];
        let passive =
            Passive { failures: 3, within: Duration::from_secs(10), out: Duration::from_secs(30) };
        let delivery = Delivery {
            balance: Balance::RoundRobin,
            passive: Some(passive),
            retry: Retry { times: 0 },
            ..Delivery::default()
        };
        let edge = Simulated::new(with(delivery), &all);
        let mut answers = Vec::new();
        for _ in 0..10 {
            answers.push(statuses(&edge.ask(GET).await).join(" "));
        }
        assert_eq!(answers.iter().filter(|one| *one == "502").count(), 3, "{answers:?}");
        let why = why_out(&edge, all[0]).unwrap();
        assert!(why.contains("left out for 30 s more"), "{why}");
        // Now the other one fails, and is the last.
        states[1].set(0);
        for _ in 0..5 {
            assert_eq!(statuses(&edge.ask(GET).await), ["502"]);
        }
        assert_eq!(why_out(&edge, all[1]), None);
        states.iter().for_each(|one| one.set(200));
        tokio::time::sleep(Duration::from_secs(31)).await;
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            seen.insert(who(&edge.ask(GET).await).to_owned());
        }
        assert_eq!(seen.len(), 2);
    });
}

#[test]
fn an_instance_that_fails_fast_does_not_look_fast() {
    simulate(async {
        let all = [answering(0, status(500)).await, answering(1, status(200)).await];
        let edge = Simulated::new(with(Delivery::default()), &all);
        let mut answers = Vec::new();
        for _ in 0..50 {
            answers.push(statuses(&edge.ask(GET).await).join(" "));
        }
        // Until each was asked once it is a toss.
        let late = answers.iter().skip(20).filter(|one| *one == "500").count();
        assert_eq!(late, 0, "{answers:?}");
    });
}

#[test]
fn a_breaker_opens_lets_nothing_through_and_closes_after_probes() {
    simulate(async {
        let state = status(500);
        let address = answering(0, Rc::clone(&state)).await;
        let breaker = Breaker { min_requests: 10, ..Breaker::default() };
        let delivery = Delivery { breaker: Some(breaker), ..Delivery::default() };
        let edge = Simulated::new(with(delivery), &[address]);
        let mut asked = Vec::new();
        for _ in 0..15 {
            asked.push(statuses(&edge.ask(GET).await).join(" "));
        }
        assert_eq!((&asked[9][..], &asked[10][..], &asked[14][..]), ("500", "503", "503"));
        let load =
            || edge.local.shared.status().instances.values().map(|one| one.answered).sum::<u64>();
        let told = edge.local.shared.status().breakers;
        assert!(told[0].trips == 1 && told[0].opens_in.is_some(), "{told:?}");
        assert_eq!(load(), 10);
        tokio::time::sleep(Duration::from_secs(31)).await;
        // Still broken: one probe, and it is open again.
        assert_eq!(statuses(&edge.ask(GET).await), ["500"]);
        assert_eq!(statuses(&edge.ask(GET).await), ["503"]);
        state.set(200);
        tokio::time::sleep(Duration::from_secs(31)).await;
        for _ in 0..5 {
            assert_eq!(statuses(&edge.ask(GET).await), ["200"]);
        }
        assert_eq!(edge.local.shared.status().breakers[0].opens_in, None);
    });
}

#[test]
fn requests_wait_for_an_instance_as_many_as_large_and_as_long_as_they_may() {
    simulate(async {
        let address = answering(0, status(200)).await;
        let hold = Hold { requests: 2, bytes: ByteSize(1000), age: Duration::from_secs(20) };
        let delivery = Delivery { hold, ..Delivery::default() };
        let edge = Simulated::new(with(delivery), &[]);
        let starting = || Endpoint { state: EndpointState::Starting, ..endpoint(address) };
        edge.place(vec![starting()]);
        let mut waiting: Vec<DuplexStream> = Vec::new();
        for _ in 0..2 {
            let mut client = edge.client();
            client.write_all(GET.as_bytes()).await.unwrap();
            waiting.push(client);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(statuses(&edge.ask(GET).await), ["503"]);
        edge.place(vec![endpoint(address)]);
        for client in &mut waiting {
            assert_eq!(statuses(&rest(client).await), ["200"]);
        }
        edge.place(vec![starting()]);
        let large = GET.replace("Host", &format!("X: {}\r\nHost", "x".repeat(1000)));
        let begun = Instant::now();
        assert_eq!(statuses(&edge.ask(&large).await), ["503"]);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert_eq!(statuses(&edge.ask(GET).await), ["503"]);
        assert!(begun.elapsed() >= Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(21), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_visitor_stays_with_an_instance_and_a_value_with_its_own() {
    simulate(async {
        let mut all = Vec::new();
        for number in 0..4 {
            all.push(answering(number, status(200)).await);
        }
        let edge = Simulated::new(with(Delivery { sticky: true, ..Delivery::default() }), &all);
        let first = edge.ask(GET).await;
        let line = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{line}");
        let cookie = line.split(';').next().unwrap();
        let again = GET.replace("Host", &format!("Cookie: a=b; {cookie}\r\nHost"));
        for _ in 0..20 {
            let answer = edge.ask(&again).await;
            assert_eq!(who(&answer), who(&first));
            assert!(!answer.contains("set-cookie"), "{answer}");
        }
        // A forged one is none: he gets a new one.
        let forged = again.replace(cookie, &format!("{}0", &cookie[..cookie.len() - 1]));
        let forged = if forged == again {
            again.replace(cookie, &format!("{}1", &cookie[..cookie.len() - 1]))
        } else {
            forged
        };
        assert!(edge.ask(&forged).await.contains("set-cookie"));
        let hash = Balance::Hash(Key::Header("x-tenant".to_owned()));
        let edge = Simulated::new(with(Delivery { balance: hash, ..Delivery::default() }), &all);
        let mut used = BTreeSet::new();
        for tenant in 0..40 {
            let request = GET.replace("Host", &format!("X-Tenant: {tenant}\r\nHost"));
            let one = who(&edge.ask(&request).await).to_owned();
            assert_eq!(one, who(&edge.ask(&request).await));
            used.insert(one);
        }
        assert_eq!(used.len(), 4);
    });
}

#[test]
fn a_request_and_its_answer_have_their_time_together() {
    simulate(async {
        // A piece each second, for ever.
        let serve = |mut stream: Stream, _| async move {
            if head(&mut stream).await.is_none() {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (address, _) = instance(serve).await;
        let total = Some(Duration::from_secs(10));
        let edge = Simulated::new(with(Delivery { total, ..Delivery::default() }), &[address]);
        let begun = Instant::now();
        let answer = edge.ask(GET).await;
        assert!(answer.matches("\r\nx\r\n").count() == 10, "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n") && begun.elapsed() < Duration::from_secs(11));
        // One that never begins.
        let silent = instance(|mut stream: Stream, _| async move { drop(rest(&mut stream).await) });
        edge.place(vec![endpoint(silent.await.0)]);
        assert_eq!(statuses(&edge.ask(GET).await), ["504"]);
    });
}

#[test]
fn a_foreign_instance_that_says_it_is_not_well_is_left_out_until_it_is() {
    simulate(async {
        let healthy = Rc::new(std::cell::Cell::new(true));
        let of_instance = Rc::clone(&healthy);
        let serve = move |mut stream: Stream, seen: Rc<RefCell<Vec<String>>>| {
            let healthy = Rc::clone(&of_instance);
            async move {
                while let Some(head) = head(&mut stream).await {
                    let health = format!("{{\"a\":{{\"ok\":{}}}}}", healthy.get());
                    let is_check = head.starts_with("GET /health ");
                    let body = if is_check { health } else { "0".to_owned() };
                    seen.borrow_mut().push(head);
                    let answer =
                        format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        };
        let (checked, seen) = instance(serve).await;
        let other = answering(1, status(200)).await;
        let edge = Simulated::new(
            with(Delivery { balance: Balance::RoundRobin, ..Delivery::default() }),
            &[],
        );
        let check = Check {
            path: Some("/health".to_owned()),
            json: [("a.ok".to_owned(), true.into())].into(),
            headers: vec![("x-key".to_owned(), "1".to_owned())],
            every_ms: 5_000,
            timeout_ms: 2_000,
            failures: 2,
            ..Check::default()
        };
        edge.place(vec![Endpoint { check: Some(check), ..endpoint(checked) }, endpoint(other)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = seen.borrow()[0].clone();
        assert!(
            asked.contains("\r\nx-key: 1\r\n") && asked.contains("seaworthy-health"),
            "{asked}"
        );
        healthy.set(false);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(why_out(&edge, checked), None);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(why_out(&edge, checked).as_deref(), Some("GET /health: `a.ok` is not true"));
        for _ in 0..6 {
            assert_eq!(who(&edge.ask(GET).await), "1");
        }
        healthy.set(true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(why_out(&edge, checked), None);
    });
}

#[test]
fn an_instance_is_not_asked_before_the_beginning_of_a_body_is_there() {
    simulate(async {
        let serve = |mut stream: Stream, seen: Rc<RefCell<Vec<String>>>| async move {
            while let Some(head) = head(&mut stream).await {
                seen.borrow_mut().push(head);
                let mut body = vec![0; 20_000];
                if stream.read_exact(&mut body[..10]).await.is_err() {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.ok();
            }
        };
        let (address, seen) = instance(serve).await;
        let edge = Simulated::new(to_web(), &[address]);
        let mut client = edge.client();
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n")
            .await
            .unwrap();
        for piece in [&b"0123"[..], b"4", b"5678"] {
            client.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(seen.borrow().len(), 0, "{piece:?}");
        }
        client.write_all(b"9").await.unwrap();
        assert!(head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(seen.borrow().len(), 1);
        // Of a long body only the beginning is waited for, of one without a length nothing.
        for (length, begun) in
            [("Content-Length: 20000", 16 << 10), ("Transfer-Encoding: chunked", 0)]
        {
            seen.borrow_mut().clear();
            let mut client = edge.client();
            let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{length}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&vec![b'x'; begun]).await.unwrap();
            while seen.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
}
