//! Rules case by case, with times of our own making; and what holds for any input.

mod answers;

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
    let certificate = ("client-cert", ":AAAA:");
    for secret in [("authorization", "Bearer x"), ("cookie", "session=1"), certificate] {
        assert!(!keeps(&[secret], &[long]), "{secret:?}");
        assert!(keeps(&[secret], &[("cache-control", "public, max-age=60")]), "{secret:?}");
        assert!(keeps(&[secret], &[("cache-control", "s-maxage=60")]), "{secret:?}");
    }
    // It is for a password that "must revalidate" means that others may have it (RFC 9111 § 3.5).
    let checked = [("cache-control", "max-age=60, must-revalidate")];
    assert!(keeps(&[("authorization", "Bearer x")], &checked));
    assert!(!keeps(&[("cookie", "session=1")], &checked) && !keeps(&[certificate], &checked));
    assert!(!keeps(&[("cache-control", "no-store")], &[long]));
    assert!(!keeps(&[("range", "bytes=0-1")], &[long]));
    // By what only we tell the application of each client.
    for field in ["X-Forwarded-For", "x-real-ip", "X-Forwarded-Port", "X-Request-Id", "traceparent"]
    {
        assert!(!keeps(&[], &[long, ("vary", field)]), "{field}");
    }
    assert!(keeps(&[], &[long, ("vary", "X-Forwarded-Proto, X-Forwarded-Host")]));
    for of_who_asked in [206, 304, 412] {
        assert!(kept_by(&Rule::default(), &[], of_who_asked, &[long]).is_none(), "{of_who_asked}");
    }
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
    // Events have no end.
    for kind in ["text/event-stream", "Text/Event-Stream ; charset=utf-8"] {
        assert!(kept_by(&rule, &[], 200, &[("content-type", kind)]).is_none(), "{kind}");
    }
    let strict =
        kept_by(&rule, &[], 200, &[("cache-control", "max-age=1, must-revalidate")]).unwrap();
    assert!(matches!(strict.usable(NOW + 1000), Use::Stale(_)));
    assert!(!strict.serves_errors(NOW + 1000));
}

#[test]
fn what_is_written_wrongly_makes_nothing_fresher() {
    let rule = Rule { ttl: Some(std::time::Duration::from_secs(60)), ..Rule::default() };
    for said in [
        "no-store; no-cache",
        "max-age=9; no-store",
        "private; max-age=0",
        "private=",
        "private=true",
        "private=\"\"",
        "private=\"x-user",
        "public; private=\"x-user\"",
        "x=\"a;b\"; no-store",
    ] {
        assert!(kept_by(&rule, &[], 200, &[("cache-control", said)]).is_none(), "{said}");
    }
    for (said, fresh) in [
        ("no-cache=x", 0),
        ("max-age=9; must-revalidate", 0),
        ("public; max-age=9", 9),
        ("x=\"a; no-store\"", 60),
        ("private=\"x-user\"", 60),
    ] {
        let response = [("cache-control", said), ("etag", "\"x\"")];
        let given = kept_by(&rule, &[], 200, &response).unwrap();
        let is_fresh = |second: u64| matches!(given.usable(NOW + second * 1000), Use::Fresh(_));
        assert_eq!((0..100).find(|second| !is_fresh(*second)), Some(fresh), "{said}");
    }
    // What nobody may be given with credentials is not given for a word that is written wrongly.
    let who = [("authorization", "Bearer x")];
    assert!(kept_by(&rule, &who, 200, &[("cache-control", "x; public; max-age=9")]).is_none());
}

fn key(target: &str) -> Key {
    Key::for_tests(target)
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
    for other in [
        Key { host: "b.example".into(), ..key("/x") },
        Key { secure: false, ..key("/x") },
        Key { release: "r2".into(), ..key("/x") },
        Key { port: 1, ..key("/x") },
    ] {
        assert!(matches!(store.find(&other, &head(&request), NOW), Use::Nothing), "{other:?}");
    }
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
    // What strangers make long counts too: keys (each stands in two places), and what an answer varies by.
    let mut store = Store::new(1 << 20);
    let mut longest = 0;
    for n in 0..200 {
        let key = key(&format!("/{n}?{}", "x".repeat(16 << 10)));
        store.pass(&key, NOW);
        longest = longest.max(store.slots());
    }
    assert!(longest <= 32, "{longest} slots of 32 KiB");
    let varying = [("cache-control", "max-age=60"), ("vary", "x-long")];
    let long: &'static str = Box::leak("y".repeat(60 << 10).into());
    let mut store = Store::new(1 << 20);
    for n in 0..50 {
        let kept = kept_by(&Rule::default(), &[("x-long", long)], 200, &varying).unwrap();
        store.put(&key(&format!("/{n}")), kept);
    }
    assert!(store.slots() <= 18, "{} slots", store.slots());
    // Larger than everything: nothing is left, and nothing breaks.
    let mut store = Store::new(100_000);
    store.put(&key("/huge"), big(200_000));
    assert!(store.size() <= 100_000);
}

/// What happens meanwhile.
type Change = dyn Fn(&Cache) -> usize;

#[test]
fn what_was_asked_for_before_a_purge_or_a_change_is_not_kept_after_it() {
    let answer = || (*kept(&[("cache-control", "max-age=60")]).unwrap()).clone();
    let cache = Cache::new();
    let usable =
        |target: &str| !matches!(cache.find(&key(target), &HeaderMap::new(), NOW), Use::Nothing);
    let changes: [(&Change, &str); 3] = [
        (&|cache| cache.purge("shop", None), "/a"),
        (&|cache| cache.purge("shop", Some("/b")), "/b"),
        (
            &|cache| {
                cache.invalidate(&key("/c"));
                1
            },
            "/c",
        ),
    ];
    for (change, target) in changes {
        let moment = cache.moment(&key(target));
        change(&cache);
        cache.keep(&key(target), answer(), moment);
        assert!(!usable(target), "{target}");
        cache.keep(&key(target), answer(), cache.moment(&key(target)));
        assert!(usable(target), "{target}");
    }
}

#[test]
fn an_answer_that_is_not_kept_takes_away_what_it_replaces_and_nothing_else() {
    let cache = Arc::new(Cache::new());
    let response = [("cache-control", "max-age=60"), ("vary", "Accept-Language")];
    for language in ["de", "en"] {
        let request: &[(&'static str, &'static str)] = &[("accept-language", language)];
        let kept = kept_by(&Rule::default(), request, 200, &response).unwrap();
        cache.keep(&key("/x"), (*kept).clone(), cache.moment(&key("/x")));
    }
    let finds = |language: &'static str| {
        let request = head(&[("accept-language", language)]);
        matches!(cache.find(&key("/x"), &request, NOW), Use::Fresh(_))
    };
    let Part::Leader(leader) = cache.join(&key("/x"), NOW) else { panic!("nobody else") };
    leader.pass(NOW);
    assert!(finds("de") && finds("en"));
    // For a while nobody waits for another one's.
    assert!(matches!(cache.join(&key("/x"), NOW + 9_999), Part::Alone));
    assert!(matches!(cache.join(&key("/x"), NOW + 10_000), Part::Leader(_)));
    cache.supersede(&key("/x"), &head(&[("accept-language", "en")]));
    assert!(finds("de") && !finds("en"));
}

#[test]
fn purging_takes_a_path_a_pattern_or_the_site() {
    let mut store = Store::new(1 << 20);
    for target in ["/a/1", "/a/2?x", "/b", "/%62?y"] {
        store.put(&key(target), kept(&[("cache-control", "max-age=60")]).unwrap());
    }
    assert_eq!(store.purge("other", None), 0);
    assert_eq!(store.purge("shop", Some("/a/2")), 1);
    assert_eq!(store.purge("shop", Some("/a/*")), 1);
    assert_eq!(store.purge("shop", Some("/b")), 2);
    assert_eq!(store.purge("shop", None), 0);
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
    let anybody = HeaderMap::new();
    let given = asked(&Method::GET, &anybody);
    let rule = Rule::default();
    let (fresh, fate) = refreshed(&rule, &old, (given, &anybody), &unchanged, NOW + 5000);
    let fresh = Arc::new(fresh);
    assert!(matches!(fresh.usable(NOW + 64_999), Use::Fresh(_)));
    assert_eq!(
        (&fresh.body[..], &fresh.headers["content-encoding"]),
        (&b"body"[..], &http::HeaderValue::from_static("gzip"))
    );
    assert_eq!(
        (&fresh.headers["x-old"], &fresh.headers["x-new"]),
        (&http::HeaderValue::from_static("1"), &http::HeaderValue::from_static("2"))
    );
    // The cookie is for who asked: what is kept stays without it.
    assert_eq!((fate, fresh.headers["set-cookie"].to_str().unwrap()), (Fate::Stay, "a=1"));
}

#[test]
fn what_an_unchanged_answer_says_of_who_asked_is_kept_for_nobody() {
    let given =
        [("cache-control", "max-age=1, private=\"x-who\""), ("etag", "\"x\""), ("x-who", "ann")];
    let old = (*kept(&given).unwrap()).clone().for_all();
    assert!(!old.headers.contains_key("x-who"));
    let anybody = HeaderMap::new();
    let asked = asked(&Method::GET, &anybody);
    let cache = Cache::new();
    for said in [
        // The old answer's word counts for as long as no other is said.
        &[("x-who", "bob"), ("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "1")][..],
        &[("x-who", "bob"), ("cache-control", "max-age=60, private=\"x-who\"")],
        &[("x-who", "bob"), ("cache-control", "max-age=60, no-cache=\"X-Other, X-Who\"")],
    ] {
        let (fresh, fate) = refreshed(&Rule::default(), &old, (asked, &anybody), &head(said), NOW);
        assert_eq!((fate, fresh.headers["x-who"].to_str().unwrap()), (Fate::Refresh, "bob"));
        cache.keep(&key("/x"), fresh, cache.moment(&key("/x")));
        let Use::Fresh(again) = cache.find(&key("/x"), &anybody, NOW) else { panic!("{said:?}") };
        for name in ["x-who", "x-hop", "keep-alive"] {
            assert!(!again.headers.contains_key(name), "{said:?}");
        }
    }
}

#[test]
fn what_an_unchanged_answer_turns_private_is_forgotten_and_what_is_said_to_one_is_kept_for_none() {
    let fate = |request: &[(&'static str, &'static str)], said: &[(&'static str, &'static str)]| {
        let old = (*kept(&[("cache-control", "max-age=1"), ("etag", "\"x\"")]).unwrap()).clone();
        let request = head(request);
        let given = asked(&Method::GET, &request);
        refreshed(&Rule::default(), &old, (given, &request), &head(said), NOW).1
    };
    let long = ("cache-control", "max-age=60");
    assert_eq!(fate(&[], &[long]), Fate::Refresh);
    assert_eq!(fate(&[], &[]), Fate::Refresh);
    for said in ["private", "no-store", "max-age=60, private", "no-store, max-age=60"] {
        assert_eq!(fate(&[], &[("cache-control", said)]), Fate::Forget, "{said}");
    }
    assert_eq!(fate(&[], &[long, ("vary", "Accept, *")]), Fate::Forget);
    assert_eq!(fate(&[], &[long, ("set-cookie", "a=1")]), Fate::Stay);
    for who in [("cookie", "session=ann"), ("authorization", "Bearer x")] {
        assert_eq!(fate(&[who], &[long]), Fate::Stay, "{who:?}");
        let public = ("cache-control", "public, max-age=60");
        assert_eq!(fate(&[who], &[public]), Fate::Refresh, "{who:?}");
    }
}

#[test]
fn an_unchanged_answer_that_varies_by_more_is_kept_for_less() {
    let mut store = Store::new(1 << 20);
    let old = (*kept(&[("cache-control", "max-age=1"), ("etag", "\"x\"")]).unwrap()).clone();
    let german = head(&[("accept-language", "de")]);
    let given = asked(&Method::GET, &german);
    let said = head(&[("cache-control", "max-age=60"), ("vary", "Accept-Language")]);
    let (fresh, fate) = refreshed(&Rule::default(), &old, (given, &german), &said, NOW);
    assert_eq!(fate, Fate::Refresh);
    store.put(&key("/x"), fresh.into());
    assert!(find(&mut store, "/x", &[("accept-language", "de")]));
    assert!(!find(&mut store, "/x", &[("accept-language", "en")]));
}

#[test]
fn packed_bytes_are_for_who_can_unpack_them_whatever_vary_says() {
    let mut store = Store::new(1 << 20);
    let response = [("cache-control", "max-age=60"), ("content-encoding", "gzip")];
    let gzip = [("accept-encoding", "gzip")];
    store.put(&key("/x"), kept_by(&Rule::default(), &gzip, 200, &response).unwrap());
    assert!(find(&mut store, "/x", &gzip));
    assert!(!find(&mut store, "/x", &[]) && !find(&mut store, "/x", &[("accept-encoding", "br")]));
}

#[test]
fn a_get_that_frameworks_take_for_another_method_is_neither_kept_nor_answered_from_here() {
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let request = head(&[(name, "POST")]);
        let given = asked(&Method::GET, &request);
        assert!(!given.may_use && !given.may_keep, "{name}");
        assert!(
            kept_by(&Rule::default(), &[(name, "POST")], 200, &[("cache-control", "max-age=60")])
                .is_none()
        );
    }
}

#[test]
fn one_asks_for_all_and_all_are_told() {
    let cache = Arc::new(Cache::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for is_through in [true, false] {
        let join = |target: &str| cache.join(&key(target), NOW);
        let Part::Leader(leader) = join("/x") else { panic!("the first one leads") };
        let Part::Follower(follower) = join("/x") else { panic!("the second one waits") };
        assert!(matches!(join("/y"), Part::Leader(_)));
        if is_through {
            leader.through();
        } else {
            drop(leader);
        }
        // Where it went away one of them takes its place.
        assert_eq!(runtime.block_on(follower.wait()), !is_through);
        assert!(matches!(join("/x"), Part::Leader(_)));
    }
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
