//! Rules case by case, with times of our own making; and what holds for any input.

use http::{HeaderName, Method, StatusCode};
use proptest::prelude::*;
use seaworthy_base::policy::Cache as Rule;

use super::directives::{Directives, split};
use super::*;

/// Some moment, in milliseconds; its HTTP date is [`DATE`].
const NOW: u64 = 1_763_000_000_000;
const DATE: &str = "Thu, 13 Nov 2025 02:13:20 GMT";
const LATER: &str = "Thu, 13 Nov 2025 02:14:20 GMT";

fn head(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), http::HeaderValue::from_static(value));
    }
    headers
}

fn kept_by(
    rule: &Rule,
    request: &[(&'static str, &'static str)],
    status: u16,
    response: &[(&'static str, &'static str)],
) -> Option<Arc<Kept>> {
    let request = head(request);
    let asked = asked(&Method::GET, &request);
    let status = StatusCode::from_u16(status).unwrap();
    may_keep(rule, asked, &request, (status, &head(response)), NOW).map(Arc::new)
}

fn kept(response: &[(&'static str, &'static str)]) -> Option<Arc<Kept>> {
    kept_by(&Rule::default(), &[], 200, response)
}

/// Seconds that an answer is fresh from when it came; none when it is not kept.
fn fresh_for(response: &[(&'static str, &'static str)]) -> Option<u64> {
    let kept = kept(response)?;
    (0..100_000).find(|second| !matches!(kept.usable(NOW + second * 1000), Use::Fresh(_)))
}

#[test]
fn how_long_an_answer_is_fresh() {
    for (expected, response) in [
        (Some(60), &[("cache-control", "max-age=60")][..]),
        (Some(60), &[("cache-control", "MAX-AGE=60, x")]),
        (Some(60), &[("cache-control", "max-age=60"), ("expires", DATE)]),
        (Some(90), &[("cache-control", "max-age=60, s-maxage=90")]),
        (Some(30), &[("cache-control", "max-age=60"), ("age", "30")]),
        (None, &[("cache-control", "max-age=60"), ("age", "0, 7200")]),
        (None, &[("cache-control", "max-age=60"), ("age", "0"), ("age", "0")]),
        (None, &[("cache-control", "max-age=60"), ("age", "7200")]),
        (None, &[("cache-control", "max-age=60"), ("age", "abc")]),
        (Some(60), &[("date", DATE), ("expires", LATER)]),
        // The clock of the application stands a minute behind: so old it may be.
        (None, &[("date", "Thu, 13 Nov 2025 02:12:20 GMT"), ("cache-control", "max-age=60")]),
        (Some(60), &[("date", LATER), ("cache-control", "max-age=60")]),
        (None, &[("expires", "0")]),
        (None, &[("expires", LATER), ("expires", LATER), ("date", DATE)]),
        (None, &[("cache-control", "max-age='60'")]),
        (None, &[("cache-control", "max-age=-60")]),
        (Some(1), &[("cache-control", "max-age=60, max-age=1")]),
        (Some(1), &[("cache-control", "x=\"max-age=60, y\", max-age=1")]),
        // Nothing is guessed.
        (None, &[("last-modified", "Thu, 13 Nov 2020 02:13:20 GMT")]),
        (None, &[]),
        (Some(0), &[("cache-control", "no-cache, max-age=60"), ("etag", "\"x\"")]),
        (None, &[("cache-control", "no-cache, max-age=60")]),
    ] {
        assert_eq!(fresh_for(response), expected, "{response:?}");
    }
}

#[test]
fn what_is_somebodys_own_is_never_kept() {
    let long = ("cache-control", "max-age=60");
    let keeps = |request: &[(&'static str, &'static str)],
                 response: &[(&'static str, &'static str)]| {
        kept_by(&Rule::default(), request, 200, response).is_some()
    };
    assert!(keeps(&[], &[long]));
    assert!(!keeps(&[], &[("cache-control", "private, max-age=60")]));
    assert!(!keeps(&[], &[("cache-control", "no-store, max-age=60")]));
    assert!(!keeps(&[], &[long, ("set-cookie", "session=1")]));
    assert!(!keeps(&[], &[("cache-control", "public, max-age=60"), ("set-cookie", "session=1")]));
    assert!(!keeps(&[], &[long, ("vary", "*")]));
    assert!(!keeps(&[], &[long, ("vary", "accept, *")]));
    for secret in [("authorization", "Bearer x"), ("cookie", "session=1")] {
        assert!(!keeps(&[secret], &[long]), "{secret:?}");
        assert!(keeps(&[secret], &[("cache-control", "public, max-age=60")]), "{secret:?}");
        assert!(keeps(&[secret], &[("cache-control", "s-maxage=60")]), "{secret:?}");
    }
    assert!(!keeps(&[("cache-control", "no-store")], &[long]));
    assert!(!keeps(&[("range", "bytes=0-1")], &[long]));
    assert!(kept_by(&Rule::default(), &[], 206, &[long]).is_none());
    assert!(
        kept_by(&Rule::default(), &[], 599, &[("cache-control", "max-age=60, must-understand")])
            .is_none()
    );
}

#[test]
fn a_site_may_say_what_the_application_does_not() {
    let seconds = |n| Some(std::time::Duration::from_secs(n));
    let rule = Rule {
        ttl: seconds(60),
        stale_while_revalidate: seconds(10),
        stale_if_error: seconds(30),
        ..Rule::default()
    };
    let given = kept_by(&rule, &[], 200, &[]).unwrap();
    assert!(matches!(given.usable(NOW + 59_999), Use::Fresh(_)));
    assert!(matches!(given.usable(NOW + 69_999), Use::WhileFetching(_)));
    assert!(matches!(given.usable(NOW + 70_000), Use::Stale(_)));
    assert!(given.serves_errors(NOW + 89_999) && !given.serves_errors(NOW + 90_000));
    // An error says nothing of how long it lasts.
    assert!(kept_by(&rule, &[], 404, &[]).is_none());
    let strict =
        kept_by(&rule, &[], 200, &[("cache-control", "max-age=1, must-revalidate")]).unwrap();
    assert!(matches!(strict.usable(NOW + 1000), Use::Stale(_)));
    assert!(!strict.serves_errors(NOW + 1000));
}

fn key(target: &str) -> Key {
    Key { site: "shop".into(), secure: true, host: "a.example".into(), target: target.into() }
}

fn find(store: &mut Store, target: &str, request: &[(&'static str, &'static str)]) -> bool {
    matches!(store.find(&key(target), &head(request), NOW), Use::Fresh(_))
}

#[test]
fn an_answer_fits_only_requests_that_say_the_same() {
    let mut store = Store::new(1 << 20);
    let response = [("cache-control", "max-age=60"), ("vary", "Accept-Language, Accept-Encoding")];
    let request = [("accept-language", "de, en"), ("accept-encoding", "gzip, br")];
    store.put(&key("/x"), kept_by(&Rule::default(), &request, 200, &response).unwrap());
    assert!(find(&mut store, "/x", &request));
    // Written differently, meant the same.
    assert!(find(
        &mut store,
        "/x",
        &[("accept-language", "DE,en"), ("accept-encoding", "br;q=1,gzip")]
    ));
    assert!(!find(&mut store, "/x", &[("accept-language", "en"), ("accept-encoding", "gzip, br")]));
    assert!(!find(&mut store, "/x", &[("accept-language", "de, en")]));
    // An answer could be packed in a way that only the first one understands.
    let more = [("accept-language", "de, en"), ("accept-encoding", "gzip, br, deflate")];
    assert!(!find(&mut store, "/x", &more));
    assert!(!find(&mut store, "/x?y", &request));
    let other = Key { host: "b.example".into(), ..key("/x") };
    assert!(matches!(store.find(&other, &head(&request), NOW), Use::Nothing));
    let plain = Key { secure: false, ..key("/x") };
    assert!(matches!(store.find(&plain, &head(&request), NOW), Use::Nothing));
}

#[test]
fn the_memory_is_bounded_and_the_unused_goes_first() {
    let mut store = Store::new(100_000);
    let big = |n: usize| {
        Arc::new(
            (*kept(&[("cache-control", "max-age=60")]).unwrap())
                .clone()
                .with_body(vec![0; n].into()),
        )
    };
    for n in 0..8 {
        store.put(&key(&format!("/{n}")), big(10_000));
    }
    assert!(find(&mut store, "/0", &[]));
    for n in 8..10 {
        store.put(&key(&format!("/{n}")), big(10_000));
    }
    assert!(store.size() <= 100_000);
    assert!(find(&mut store, "/0", &[]) && !find(&mut store, "/1", &[]));
    // Larger than everything: nothing is left, and nothing breaks.
    store.put(&key("/huge"), big(200_000));
    assert!(store.size() <= 100_000);
}

#[test]
fn purging_takes_a_path_a_pattern_or_the_site() {
    let mut store = Store::new(1 << 20);
    for target in ["/a/1", "/a/2?x", "/b"] {
        store.put(&key(target), kept(&[("cache-control", "max-age=60")]).unwrap());
    }
    assert_eq!(store.purge("other", None), 0);
    assert_eq!(store.purge("shop", Some("/a/2")), 1);
    assert_eq!(store.purge("shop", Some("/a/*")), 1);
    assert_eq!(store.purge("shop", None), 1);
}

#[test]
fn unchanged_means_new_times_and_headers_and_the_old_body() {
    let response = [
        ("cache-control", "max-age=1"),
        ("etag", "\"x\""),
        ("content-encoding", "gzip"),
        ("x-old", "1"),
    ];
    let old = (*kept(&response).unwrap()).clone().with_body("body".into());
    let unchanged = head(&[
        ("cache-control", "max-age=60"),
        ("x-new", "2"),
        ("content-encoding", "br"),
        ("set-cookie", "a=1"),
    ]);
    let fresh = Arc::new(refreshed(&Rule::default(), &old, &unchanged, NOW + 5000));
    assert!(matches!(fresh.usable(NOW + 64_999), Use::Fresh(_)));
    assert_eq!(
        (&fresh.body[..], &fresh.headers["content-encoding"]),
        (&b"body"[..], &http::HeaderValue::from_static("gzip"))
    );
    assert_eq!(
        (&fresh.headers["x-old"], &fresh.headers["x-new"]),
        (&http::HeaderValue::from_static("1"), &http::HeaderValue::from_static("2"))
    );
    assert!(!fresh.headers.contains_key("set-cookie"));
}

#[test]
fn the_client_gets_the_whole_a_part_or_nothing_new() {
    let given = (*kept(&[("cache-control", "max-age=60"), ("etag", "W/\"x\""), ("x", "1")])
        .unwrap())
    .clone()
    .with_body("0123456789".into());
    let ask = |pairs: &[(&'static str, &'static str)]| {
        answer(&given, &Method::GET, &conditions(&head(pairs)), NOW + 3000, "hit")
    };
    let whole = ask(&[]);
    assert_eq!(
        (whole.status().as_u16(), &whole.headers()["age"]),
        (200, &http::HeaderValue::from_static("3"))
    );
    assert_eq!(whole.headers()["cache-status"], "seaworthy; hit; ttl=57");
    let unchanged = ask(&[("if-none-match", "\"y\", \"x\"")]);
    assert_eq!((unchanged.status().as_u16(), unchanged.headers().get("x")), (304, None));
    assert_eq!(unchanged.headers()["etag"], "W/\"x\"");
    let part = ask(&[("range", "bytes=2-4")]);
    assert_eq!(
        (part.status().as_u16(), &part.headers()["content-range"]),
        (206, &http::HeaderValue::from_static("bytes 2-4/10"))
    );
    assert_eq!(ask(&[("range", "bytes=20-")]).status().as_u16(), 416);
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", "\"other\"")]).status().as_u16(), 200);
}

#[test]
fn one_asks_for_all_and_all_are_told() {
    let cache = Arc::new(Cache::new());
    let Flight::Leader(leader) = cache.join(&key("/x")) else { panic!("the first one leads") };
    let Flight::Follower(told) = cache.join(&key("/x")) else { panic!("the second one waits") };
    assert!(matches!(cache.join(&key("/y")), Flight::Leader(_)));
    drop(leader);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(told);
    assert!(matches!(cache.join(&key("/x")), Flight::Leader(_)));
}

proptest! {
    #[test]
    fn no_directive_makes_the_reader_panic_or_fresher(text in "[ -~]{0,60}") {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", text.parse().unwrap());
        let said = Directives::read(&headers);
        prop_assert!(said.max_age.is_none_or(|age| age <= 1 << 31));
        prop_assert!(split(&text).iter().all(|member| !member.is_empty()));
    }
}
