//! `@health` in raw bytes: what everybody is told, what the key opens, and what of a site counts.

use super::*;
use crate::model::{Candidate, Gate, HeaderRules, HealthKey, Keys, StoreAt};
use seaworthy_base::delivery::{Breaker, Delivery};

/// A site that answers for itself, and leads elsewhere with everything else.
fn watched() -> Edge {
    watched_with(&[Upstream::echo().address])
}

fn watched_with(upstreams: &[SocketAddr]) -> Edge {
    let edge = Edge::start(routes(), upstreams);
    edge.configure_site(site());
    let secrets = BTreeMap::from([("shop/KEY".to_owned(), "k3y".to_owned())]);
    edge.say(&Request::Keys(Keys { version: 1, secrets, ..Keys::default() }), &[]);
    edge
}

fn routes() -> Vec<Route> {
    let web = Action::Proxy("shop/web".into());
    vec![route("/health", Action::Health), route("*", web)]
}

fn site() -> Site {
    Site {
        name: "shop".into(),
        hosts: vec!["a.example".into()],
        routes: routes(),
        health: Some(HealthKey { header: "x-key".into(), secret: "shop/KEY".into() }),
        release: Some("r42-1a2b3c4d".into()),
        ..Site::default()
    }
}

/// Status and body.
fn ask(edge: &Edge, headers: &str) -> (u16, String) {
    let answer = edge.exchange(&request("GET", "/health", headers));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn request(method: &str, path: &str, headers: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{headers}\r\n")
        .into_bytes()
}

fn details(edge: &Edge) -> (u16, serde_json::Value) {
    let (status, body) = ask(edge, "X-Key: k3y\r\n");
    (status, serde_json::from_str(&body).unwrap())
}

fn word(status: u16, word: &str) -> (u16, String) {
    (status, format!("{{\"status\":\"{word}\"}}\n"))
}

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn everybody_is_told_one_word_and_who_has_the_key_all() {
    let edge = watched();
    let plain = |headers: &str| {
        let answer = edge.exchange(&request("GET", "/health", headers)).to_ascii_lowercase();
        let lines = answer
            .lines()
            .filter(|line| !line.starts_with("x-request-id: ") && !line.starts_with("date: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let without = plain("");
    assert!(without.contains(&"cache-control: no-store".to_owned()), "{without:?}");
    assert!(without.contains(&"content-type: application/json".to_owned()), "{without:?}");
    assert_eq!(without.last().unwrap(), "{\"status\":\"healthy\"}");
    // Nothing tells a wrong key from none.
    for wrong in [
        "X-Key: k3\r\n",
        "X-Key: k3y0\r\n",
        "X-Key:\r\n",
        "X-Key: k3y\r\nX-Key: k3y\r\n",
        "X: k3y\r\n",
    ] {
        assert_eq!(plain(wrong), without, "{wrong}");
    }
    let (status, told) = details(&edge);
    assert_eq!(
        (status, &told["status"], &told["version"]),
        (200, &"healthy".into(), &"r42-1a2b3c4d".into())
    );
    assert!(
        told["uptime"].is_u64() && told["timestamp"].as_str().unwrap().ends_with('Z'),
        "{told}"
    );
    assert_eq!(
        told["checks"],
        serde_json::json!([{ "name": "web", "status": "healthy", "ready": 1 }])
    );
    // The log tells who watches it.
    assert!(edge.log().contains("the health key is wrong"), "{}", edge.log());
    // A key that nobody gave a value opens nothing, and neither does a header of a site without a key.
    edge.say(&Request::Keys(Keys { version: 2, ..Keys::default() }), &[]);
    assert_eq!(ask(&edge, "X-Key: k3y\r\n"), word(200, "healthy"));
    assert_eq!(ask(&edge, "X-Key:\r\n"), word(200, "healthy"));
    edge.configure_site(Site { health: None, ..site() });
    assert_eq!(ask(&edge, "X-Key: k3y\r\n"), word(200, "healthy"));
}

#[test]
fn it_is_asked_for_and_not_told_anything() {
    let edge = watched();
    let head = edge.exchange(&request("HEAD", "/health", ""));
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-length: 21\r\n"), "{head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = edge.exchange(&request(method, "/health", "Content-Length: 0\r\n"));
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("allow: get, head\r\n"), "{answer}");
    }
}

#[test]
fn an_instance_that_refuses_degrades_a_site_and_the_last_one_takes_it_down() {
    let (dead, living) = (nowhere(), Upstream::echo());
    let edge = watched_with(&[dead, living.address]);
    assert_eq!(ask(&edge, ""), word(200, "healthy"));
    eventually("the one that refuses was asked", || {
        edge.exchange(&request("GET", "/x", ""));
        ask(&edge, "") == word(200, "degraded")
    });
    let (_, told) = details(&edge);
    let check = &told["checks"][0];
    assert_eq!((&check["ready"], &check["status"]), (&1.into(), &"degraded".into()));
    let expected = format!("web/{}@1: it refused a connection", dead.port());
    assert_eq!(check["reason"], expected);
    edge.place(&[dead], EndpointState::Ready);
    edge.exchange(&request("GET", "/x", ""));
    assert_eq!(ask(&edge, ""), word(503, "unhealthy"));
    let reason = &details(&edge).1["checks"][0]["reason"];
    assert_eq!(*reason, format!("no instance is ready; {expected}"));
    edge.place(&[], EndpointState::Ready);
    assert_eq!(details(&edge).1["checks"][0]["reason"], "no instance is ready");
    edge.place(&[dead], EndpointState::Starting);
    assert_eq!(details(&edge).1["checks"][0]["reason"], "no instance is ready yet");
    assert!(edge.log().contains("unhealthy: web: no instance is ready"), "{}", edge.log());
}

#[test]
fn an_instance_that_control_misses_counts_whatever_requests_do() {
    let living = Upstream::echo();
    let edge = watched_with(&[living.address]);
    let missing = |state| Endpoint {
        state,
        out: Some("its health check fails".to_owned()),
        ..Endpoint::ready("shop/web/1@4".to_owned(), nowhere())
    };
    let place = |list: Vec<Endpoint>| {
        let services = BTreeMap::from([("shop/web".to_owned(), list)]);
        edge.say(&Request::Endpoints(Endpoints { version: 2, services }), &[]);
    };
    let well = Endpoint::ready("shop/web/0@4".to_owned(), living.address);
    for state in [EndpointState::Starting, EndpointState::Draining] {
        place(vec![well.clone(), missing(state)]);
        assert_eq!(ask(&edge, ""), word(200, "degraded"), "{state:?}");
        let reason = &details(&edge).1["checks"][0]["reason"];
        assert_eq!(*reason, "web/1@4: its health check fails");
        place(vec![missing(state)]);
        assert_eq!(ask(&edge, ""), word(503, "unhealthy"), "{state:?}");
        let reason = &details(&edge).1["checks"][0]["reason"];
        assert_eq!(*reason, "no instance is ready; web/1@4: its health check fails");
    }
    // One that comes or goes as it should is not missed.
    for state in [EndpointState::Starting, EndpointState::Draining] {
        place(vec![well.clone(), Endpoint { out: None, ..missing(state) }]);
        assert_eq!(ask(&edge, ""), word(200, "healthy"), "{state:?}");
    }
}

#[test]
fn an_open_breaker_and_a_store_that_is_gone_degrade() {
    let upstream =
        Upstream::start(|_, _, _| b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    let edge = watched_with(&[upstream.address]);
    let breaker = Breaker { min_requests: 2, ..Breaker::default() };
    let delivery = Delivery { breaker: Some(breaker), ..Delivery::default() };
    let settings = Settings { delivery, ..Settings::default() };
    let mut routes = routes();
    routes[1].settings = settings;
    edge.configure_site(Site { routes, ..site() });
    assert_eq!(ask(&edge, ""), word(200, "healthy"));
    for _ in 0..3 {
        edge.exchange(&request("GET", "/x", ""));
    }
    assert_eq!(ask(&edge, ""), word(200, "degraded"));
    let reason = details(&edge).1["checks"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("its circuit breaker is open for "), "{reason}");
    // Nobody told where the store is. That of another site is none of ours.
    edge.configure_site(site());
    edge.shared.breakers.close();
    let at = |name: &str| (name.to_owned(), StoreAt::parse("redis://127.0.0.1:9/0").unwrap());
    for (label, expected) in [("other/redis.x", "healthy"), ("shop/redis.counts", "degraded")] {
        let stores = BTreeMap::from([at(label)]);
        edge.say(&Request::Keys(Keys { version: 3, stores, ..Keys::default() }), &[]);
        edge.configure_site(site());
        eventually("it is known to be gone", || {
            edge.shared.stores.tell().iter().all(|store| store.gone.is_some())
        });
        assert_eq!(ask(&edge, ""), word(200, expected), "{label}");
    }
}

#[test]
fn a_closed_site_says_at_once_how_it_is() {
    let edge = watched();
    edge.configure_site(Site {
        gate: Some(Gate::Hold { until_ms: u64::MAX / 2, most: 0 }),
        ..site()
    });
    assert_eq!(ask(&edge, ""), word(200, "degraded"));
    assert!(edge.exchange(&request("GET", "/x", "")).starts_with("HTTP/1.1 503"));
    let closed = |allow: &[&str]| {
        let allow = allow.iter().map(|text| (*text).to_owned()).collect();
        Some(Gate::Maintenance { page: "<p>back soon".into(), retry_after: 120, allow })
    };
    edge.configure_site(Site { gate: closed(&[]), ..site() });
    let answer = edge.exchange(&request("GET", "/health", ""));
    assert!(answer.to_ascii_lowercase().contains("retry-after: 120\r\n"), "{answer}");
    assert_eq!(ask(&edge, ""), word(503, "unhealthy"));
    assert_eq!(details(&edge).1["checks"][1]["name"], "gate");
    // Who may come in is told how it would be for everybody.
    edge.configure_site(Site { gate: closed(&["127.0.0.0/8"]), ..site() });
    assert_eq!(ask(&edge, ""), word(200, "healthy"));
    // A release that is tried and uses the path for something else is closed like everything else.
    let web = vec![route("*", Action::Proxy("shop/web".into()))];
    let (id, key) = ("r2".into(), "n3w".into());
    let candidate = Some(Candidate { id, key, share: 0, release: None, routes: web });
    edge.configure_site(Site { gate: closed(&[]), candidate, ..site() });
    let answer = edge.exchange(&request("GET", "/health", "Seaworthy-Release: n3w\r\n"));
    assert!(answer.ends_with("<p>back soon"), "{answer}");
    let answer = edge.exchange(&request("GET", "/x", ""));
    assert!(answer.ends_with("<p>back soon"), "{answer}");
}

#[test]
fn nobody_keeps_the_answer_whatever_the_route_inherits() {
    let edge = watched();
    let kept = ("cache-control".to_owned(), "public, max-age=600".to_owned());
    let named = ("x-site".to_owned(), "shop".to_owned());
    let settings = Settings {
        cache_control: vec![("*".to_owned(), "public, max-age=600".to_owned())],
        response_headers: HeaderRules { set: vec![kept, named], ..HeaderRules::default() },
        ..Settings::default()
    };
    let routes = routes().into_iter().map(|one| Route { settings: settings.clone(), ..one });
    edge.configure_site(Site { routes: routes.collect(), ..site() });
    let lower = |path| edge.exchange(&request("GET", path, "")).to_ascii_lowercase();
    let (health, other) = (lower("/health"), lower("/x"));
    assert!(
        health.contains("cache-control: no-store\r\n") && !health.contains("max-age=600"),
        "{health}"
    );
    assert!(health.contains("x-site: shop\r\n"), "{health}");
    assert!(other.contains("cache-control: public, max-age=600\r\n"), "{other}");
}
