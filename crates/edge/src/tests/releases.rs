//! What releases need of the edge: a candidate beside what serves, gates, counts by instance.

use std::sync::atomic::{AtomicUsize, Ordering};

use seaworthy_base::policy::{Cache, Policy};

use super::*;
use crate::model::{Candidate, Gate};

/// The site of the other tests, changed.
fn configure(edge: &Edge, site: Site) {
    edge.configure_site(Site { name: "shop".into(), hosts: vec!["a.example".into()], ..site });
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{headers}\r\n")
        .into_bytes()
}

fn respond(body: &str) -> Vec<Route> {
    let action =
        Action::Respond { status: 200, body: body.into(), content_type: "text/plain".into() };
    vec![route("*", action)]
}

fn with_candidate(share: u16) -> Site {
    beside(share, respond("old"), respond("new"))
}

/// Two releases, the second of which is being tried.
fn beside(share: u16, routes: Vec<Route>, next: Vec<Route>) -> Site {
    let (id, key, release) = ("x1".into(), "k3y".into(), Some("r2".into()));
    let candidate = Some(Candidate { id, key, share, release, routes: next });
    Site { routes, candidate, release: Some("r1".into()), ..Site::default() }
}

/// Answers that may be kept, each with its number.
fn counting() -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_, _, _| {
        let body = format!("<{}>", count.fetch_add(1, Ordering::Relaxed));
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    })
}

/// To the instance, and its answers are kept.
fn kept(path: &str, methods: &[&str]) -> Vec<Route> {
    let policy = Policy { cache: Some(Cache::default()), ..Policy::default() };
    let settings = Settings { policy, ..Settings::default() };
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    vec![Route { methods, settings, ..route(path, Action::Proxy("shop/web".into())) }]
}

/// The body of an answer.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body)
}

#[test]
fn what_is_kept_of_one_release_is_not_given_to_who_gets_another_and_a_probe_is_given_nothing_kept()
{
    let upstream = counting();
    let edge = Edge::start(kept("*", &[]), &[upstream.address]);
    let ask = |headers: &str| body(&edge.exchange(&get("/", headers))).to_owned();
    configure(&edge, beside(0, kept("*", &[]), kept("*", &[])));
    assert_eq!([ask(""), ask("")], ["<0>", "<0>"]);
    // Who tries the new one hears the new one, each time, and leaves nothing behind for the others.
    let key = "Seaworthy-Release: k3y\r\n";
    assert_eq!([ask(key), ask(key), ask("")], ["<1>", "<2>", "<0>"]);
    assert_eq!(ask("Seaworthy-Release: live\r\n"), "<3>");
    // All visitors get the new one: what they are given is kept for them, and for nobody else.
    configure(&edge, beside(10_000, kept("*", &[]), kept("*", &[])));
    assert_eq!([ask(""), ask("")], ["<4>", "<4>"]);
    configure(&edge, beside(0, kept("*", &[]), kept("*", &[])));
    assert_eq!(ask(""), "<0>");
    // It serves now.
    let live = Site { routes: kept("*", &[]), release: Some("r2".into()), ..Site::default() };
    configure(&edge, live);
    assert_eq!(ask(""), "<4>");
}

#[test]
fn a_change_by_another_route_forgets_what_is_kept_of_its_path() {
    let upstream = counting();
    let routes = || [kept("/api/*", &["GET"]), to_web()].concat();
    let edge = Edge::start(routes(), &[upstream.address]);
    configure(&edge, Site { routes: routes(), ..Site::default() });
    let ask = |method: &str| {
        let request = String::from_utf8(get("/api/x", "")).unwrap().replacen("GET", method, 1);
        body(&edge.exchange(request.as_bytes())).to_owned()
    };
    assert_eq!([ask("GET"), ask("GET"), ask("DELETE"), ask("GET")], ["<0>", "<0>", "<1>", "<2>"]);
}

#[test]
fn the_key_leads_to_the_candidate_and_the_preview_address_gives_it_to_a_browser() {
    let edge = Edge::start(respond("old"), &[]);
    configure(&edge, with_candidate(0));
    assert!(edge.exchange(&get("/", "")).ends_with("old"));
    assert!(edge.exchange(&get("/", "Seaworthy-Release: k3y\r\n")).ends_with("new"));
    assert!(edge.exchange(&get("/", "Seaworthy-Release: wrong\r\n")).ends_with("old"));
    let answer = edge.exchange(&get("/.well-known/seaworthy/release/k3y", ""));
    assert!(
        answer.starts_with("HTTP/1.1 303") && answer.contains("set-cookie: seaworthy-release=k3y"),
        "{answer}"
    );
    assert!(edge.exchange(&get("/", "Cookie: seaworthy-release=k3y\r\n")).ends_with("new"));
    assert!(edge.exchange(&get("/.well-known/seaworthy/release/other", "")).ends_with("old"));
}

#[test]
fn a_share_of_the_visitors_gets_the_candidate_and_each_stays_with_what_it_got() {
    let edge = Edge::start(respond("old"), &[]);
    configure(&edge, with_candidate(5000));
    let answers: Vec<String> = (0..40).map(|_| edge.exchange(&get("/", ""))).collect();
    let new = answers.iter().filter(|answer| answer.ends_with("new")).count();
    // The chance of fewer than 5 or more than 35 of 40 at one half is below one in a million.
    assert!((5..=35).contains(&new), "{new} of 40");
    for answer in &answers[..6] {
        let cookie = answer.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
        let again = edge.exchange(&get("/", &format!("Cookie: {cookie}\r\n")));
        assert_eq!(again.ends_with("new"), answer.ends_with("new"));
        assert!(!again.contains("set-cookie"), "{again}");
    }
}

#[test]
fn a_hold_lets_requests_wait_until_it_ends_and_refuses_what_is_too_many() {
    let edge = Edge::start(respond("here"), &[]);
    let held = |until_ms, most| Site {
        routes: respond("here"),
        gate: Some(Gate::Hold { until_ms, most }),
        ..Site::default()
    };
    configure(&edge, held(u64::MAX / 2, 1));
    let mut waiting = edge.connect();
    waiting.write_all(&get("/", "")).unwrap();
    // The first one may not have arrived yet: one of both is refused, the other one waits.
    let mut second = edge.connect();
    second.write_all(&get("/", "")).unwrap();
    let mut answers = Vec::new();
    eventually("one of the two is refused", || edge.log().contains("too many requests wait"));
    // Routes change meanwhile; who waits still counts.
    configure(&edge, held(u64::MAX / 2, 1));
    assert!(edge.exchange(&get("/", "")).starts_with("HTTP/1.1 503"));
    edge.configure(respond("here"));
    for stream in [&mut waiting, &mut second] {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answers.push(answer);
    }
    answers.sort();
    assert!(
        answers[0].starts_with("HTTP/1.1 200") && answers[1].starts_with("HTTP/1.1 503"),
        "{answers:?}"
    );
    configure(&edge, held(1, 0));
    assert!(edge.exchange(&get("/", "")).ends_with("here"), "a hold whose time is over is none");
}

#[test]
fn maintenance_shows_its_page_to_all_but_those_who_may_pass() {
    let edge = Edge::start(respond("here"), &[]);
    let closed = |allow: &[&str]| Site {
        routes: respond("here"),
        gate: Some(Gate::Maintenance {
            page: "<p>back soon".into(),
            retry_after: 120,
            allow: allow.iter().map(|text| (*text).to_owned()).collect(),
        }),
        ..Site::default()
    };
    configure(&edge, closed(&[]));
    let answer = edge.exchange(&get("/", ""));
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("<p>back soon"), "{answer}");
    assert!(answer.contains("retry-after: 120"), "{answer}");
    configure(&edge, closed(&["127.0.0.0/8"]));
    assert!(edge.exchange(&get("/", "")).ends_with("here"));
}

#[test]
fn what_each_instance_answered_is_counted() {
    let upstream = Upstream::start(|_, _, request| {
        let status = if request.contains("/bad") { "500 No" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let edge = Edge::start(to_web(), &[upstream.address]);
    for path in ["/", "/bad", "/bad", "/"] {
        edge.exchange(&get(path, ""));
    }
    let status = edge.shared.status();
    let load = status.instances.values().next().unwrap();
    assert_eq!((load.answered, load.errors, load.times.iter().sum::<u64>()), (4, 2, 4));
}
