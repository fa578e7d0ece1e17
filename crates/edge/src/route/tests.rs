//! Rules of routing, case by case, and what holds for any input.

use proptest::prelude::*;
use seaworthy_base::policy as said;

use super::path::{CHARACTER, DOT_SEGMENT, ENCODED_SEPARATOR, ENCODING, NOT_A_PATH, TWO_SLASHES};
use super::*;
use crate::model::{Action, Config, Route, Settings, Site};

fn route(path: &str, action: Action) -> Route {
    Route {
        path: path.to_owned(),
        hosts: Vec::new(),
        methods: Vec::new(),
        action,
        settings: Settings::default(),
    }
}

fn to(path: &str, service: &str) -> Route {
    route(path, Action::Proxy(service.to_owned()))
}

fn site(name: &str, hosts: &[&str], routes: Vec<Route>) -> Site {
    Site {
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        https_port: Some(443),
        routes,
        ..Site::default()
    }
}

fn table(sites: Vec<Site>) -> Table {
    Table::build(&Config { version: 1, sites, ..Config::default() }).unwrap()
}

/// The pattern that answers, or `404`, `421`, `308 …`, `400`.
fn found(table: &Table, host: &str, method: &str, path: &str) -> String {
    let Ok(path) = CanonicalPath::parse(path) else { return "400".to_owned() };
    match table.find(host, &method.parse().unwrap(), &path) {
        Found::Route(_, route) => route.path.clone(),
        Found::RedirectHost(site) => format!("308 {}", site.canonical),
        Found::NoRoute(_) => "404".to_owned(),
        Found::NoMethod(_, allow) => format!("405 {allow}"),
        Found::NoSite => "421".to_owned(),
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let table = table(vec![site(
        "a",
        &["a.example"],
        vec![to("/api/health", "h"), to("/api/*", "api"), to("/*.png", "img"), to("/*", "web")],
    )]);
    for (path, expected) in [
        ("/api/health", "/api/health"),
        ("/api/x/y", "/api/*"),
        ("/x/y.png", "/*.png"),
        ("/", "/*"),
        ("/api", "/*"),
        ("/%61pi/x", "/api/*"),
    ] {
        assert_eq!(found(&table, "a.example", "GET", path), expected, "{path}");
    }
}

#[test]
fn hosts_are_exact_or_one_label_below_a_wildcard() {
    let mut single = to("/only", "one");
    single.hosts = vec!["b.w.example".to_owned()];
    let mut first = site(
        "a",
        &["a.example", "*.w.example", "127.0.0.1", "[::1]"],
        vec![single, to("/*", "web")],
    );
    first.redirect_hosts = vec!["www.a.example".to_owned()];
    let table = table(vec![first]);
    for (host, path, expected) in [
        ("a.example", "/", "/*"),
        ("127.0.0.1", "/", "/*"),
        ("[::1]", "/", "/*"),
        ("x.w.example", "/only", "/*"),
        ("b.w.example", "/only", "/only"),
        ("b.w.example", "/", "/*"),
        ("a.example", "/only", "/*"),
        ("www.a.example", "/x", "308 a.example"),
        ("y.x.w.example", "/", "421"),
        ("w.example", "/", "421"),
        ("other.example", "/", "421"),
        ("localhost", "/", "421"),
    ] {
        assert_eq!(found(&table, host, "GET", path), expected, "{host}{path}");
    }
}

#[test]
fn methods_are_part_of_a_route_and_get_includes_head() {
    let mut read = to("/x", "read");
    read.methods = vec!["GET".to_owned(), "PATCH".to_owned()];
    let mut write = to("/x*", "write");
    write.methods = vec!["PUT".to_owned(), "PATCH".to_owned()];
    let mut hidden = route("/x", Action::Block);
    hidden.methods = vec!["DELETE".to_owned()];
    let table = table(vec![site("a", &["a.example"], vec![hidden, read, write])]);
    assert_eq!(found(&table, "a.example", "HEAD", "/x"), "/x");
    // The narrower route is for other methods: the wider one answers.
    assert_eq!(found(&table, "a.example", "PUT", "/x"), "/x*");
    assert_eq!(found(&table, "a.example", "POST", "/x"), "405 GET, PATCH, HEAD, PUT");
    assert_eq!(found(&table, "a.example", "GET", "/xy"), "405 PUT, PATCH");
    assert_eq!(found(&table, "a.example", "GET", "/x;y"), "404");
    assert_eq!(found(&table, "a.example", "POST", "/y"), "404");
}

#[test]
fn a_block_cannot_be_walked_around_by_writing_the_path_differently() {
    let routes = vec![
        route("/admin*", Action::Block),
        route("/docs", Action::Block),
        route("/redoc/", Action::Block),
        route("/@fs/*", Action::Block),
        to("/*", "web"),
    ];
    let table = table(vec![site("a", &["a.example"], routes)]);
    let ways = [
        "/admin",
        "/admin/x",
        "/ADMIN",
        "/%61dmin",
        "/%41dmin",
        "//admin",
        "///admin/",
        "/admin;x",
        "/docs",
        "/docs/",
        "/redoc",
        "/ReDoc/",
        "/Docs",
        "/docs;a=b",
        "/docs;/",
        "/%64ocs",
        "/@fs/etc",
        "/%40fs/etc",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/..;/admin",
        "/./admin",
        "/x%2f..%2fadmin",
        "/x%5c..%5cadmin",
        "/x\\..\\admin",
        "/x/%252e%252e/admin",
        "/x/%25252e%25252e/admin",
        "/x/%c0%ae%c0%ae/admin",
        "/docs%00",
        "/docs%0a",
        "/docs%09",
        "/x/..%3b/admin",
    ];
    for path in ways {
        let result = found(&table, "a.example", "GET", path);
        assert_ne!(result, "/*", "{path}");
    }
    // What merging slashes or dropping parameters would bring to another route is not served at all.
    assert_eq!(found(&table, "a.example", "GET", "/docs;a=b"), "404");
    assert_eq!(found(&table, "a.example", "GET", "/x;a=b//y"), "/*");
}

/// With a limit, so that it guards.
fn guarding(path: &str, service: &str) -> Route {
    let mut guard = to(path, service);
    guard.settings.policy.limits = vec![said::Limit {
        name: path.to_owned(),
        rate: "1/s".parse().unwrap(),
        burst: None,
        by: said::Key::Ip,
        store: None,
    }];
    guard
}

#[test]
fn what_guards_a_path_guards_it_however_an_application_lets_it_be_written() {
    let mut posts = guarding("/login", "web");
    posts.methods = vec!["POST".to_owned()];
    let routes = vec![
        posts,
        guarding("/Account/", "web"),
        to("/LOGIN/own", "web"),
        guarding("/admin/*", "web"),
        guarding("/api/*", "api"),
        to("/open/*", "web"),
        to("/*", "web"),
    ];
    let table = table(vec![site("a", &["a.example"], routes)]);
    for (method, path, expected) in [
        ("POST", "/login", "/login"),
        ("POST", "/Login", "/login"),
        ("POST", "/LOGIN/", "/login"),
        ("POST", "/login/;x", "/login"),
        ("POST", "/login//", "/login"),
        ("POST", "/%4cogin", "/login"),
        ("GET", "/Login", "/*"),
        ("GET", "/login/", "/*"),
        ("GET", "/ACCOUNT", "/Account/"),
        ("GET", "/account", "/Account/"),
        ("GET", "/Admin/x", "/admin/*"),
        ("GET", "/admin", "/admin/*"),
        ("GET", "/ADMIN", "/admin/*"),
        // A route that names it so knows what it does.
        ("POST", "/LOGIN/own", "/LOGIN/own"),
        // Another application does not have the path.
        ("GET", "/API/x", "/*"),
        ("GET", "/Open/x", "/*"),
        ("GET", "/logins", "/*"),
    ] {
        assert_eq!(found(&table, "a.example", method, path), expected, "{method} {path}");
    }
}

#[test]
fn where_the_wider_route_demands_what_the_guard_does_not_the_odd_spelling_is_nobodys() {
    let mut open = guarding("/public/*", "web");
    let mut all = to("/*", "web");
    all.settings.policy.allow_from = vec!["10.0.0.0/8".to_owned()];
    let table_of = |open: &Route, all: &Route| {
        table(vec![site("a", &["a.example"], vec![open.clone(), all.clone()])])
    };
    let table = table_of(&open, &all);
    assert_eq!(found(&table, "a.example", "GET", "/public/x"), "/public/*");
    assert_eq!(found(&table, "a.example", "GET", "/Public/x"), "404");
    open.settings.policy.allow_from = all.settings.policy.allow_from.clone();
    assert_eq!(found(&table_of(&open, &all), "a.example", "GET", "/Public/x"), "/public/*");
    all.settings.body_limit = Some(10);
    open.settings.body_limit = Some(11);
    assert_eq!(found(&table_of(&open, &all), "a.example", "GET", "/Public/x"), "404");
}

#[test]
fn each_path_has_one_reading_or_none() {
    for (raw, canonical) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/%61%2D%7e", "/a-~"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a%20b%40", "/a%20b%40"),
        ("/a//b", "/a//b"),
        ("/a;b=c", "/a;b=c"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a/..b", "/a/..b"),
        ("/100%25", "/100%25"),
        ("/%2541", "/%2541"),
        ("/*", "/*"),
    ] {
        assert_eq!(CanonicalPath::parse(raw).unwrap().as_str(), canonical, "{raw}");
    }
    for (raw, error) in [
        ("", NOT_A_PATH),
        ("*", NOT_A_PATH),
        ("a", NOT_A_PATH),
        ("http://x/", NOT_A_PATH),
        ("/a?b", NOT_A_PATH),
        ("/a#b", NOT_A_PATH),
        ("/a b", CHARACTER),
        ("/a\tb", CHARACTER),
        ("/a\\b", CHARACTER),
        ("/é", CHARACTER),
        ("/%00", CHARACTER),
        ("/%0d%0aX:", CHARACTER),
        ("/%7F", CHARACTER),
        ("/%", ENCODING),
        ("/%4", ENCODING),
        ("/%zz", ENCODING),
        ("/%+1", ENCODING),
        ("/%ff", ENCODING),
        ("/%c0%af", ENCODING),
        ("/%e0%80%af", ENCODING),
        ("//a", TWO_SLASHES),
        ("////", TWO_SLASHES),
        ("/..", DOT_SEGMENT),
        ("/a/../b", DOT_SEGMENT),
        ("/a/.", DOT_SEGMENT),
        ("/%2E%2e/", DOT_SEGMENT),
        ("/.%2e/", DOT_SEGMENT),
        ("/..;a/b", DOT_SEGMENT),
        ("/..%3Ba/b", DOT_SEGMENT),
        ("/a%2Fb", ENCODED_SEPARATOR),
        ("/a%5cb", ENCODED_SEPARATOR),
        ("/%252e", ENCODED_SEPARATOR),
        ("/%252%65%252%65/admin", ENCODED_SEPARATOR),
        ("/a%25%32%66b", ENCODED_SEPARATOR),
        ("/%25252F", ENCODED_SEPARATOR),
        ("/%2500", ENCODED_SEPARATOR),
    ] {
        assert_eq!(CanonicalPath::parse(raw), Err(error), "{raw}");
    }
}

#[test]
fn the_other_reading_drops_parameters_and_merges_slashes() {
    for (path, other) in [
        ("/a/b", None),
        ("/a;x/b", Some("/a/b")),
        ("/a//b", Some("/a/b")),
        ("/a/b//", Some("/a/b/")),
        ("/a;x", Some("/a")),
        ("/;x", Some("/")),
        ("/;x/a", Some("/a")),
        ("/a/;x/b", Some("/a/b")),
        ("/a;x/", Some("/a/")),
        ("/a/;x//b;y/", Some("/a/b/")),
    ] {
        assert_eq!(CanonicalPath::parse(path).unwrap().other_reading().as_deref(), other, "{path}");
    }
}

#[test]
fn each_host_has_one_spelling_or_none() {
    for (raw, host) in [
        ("A.Example", "a.example"),
        ("a.example.", "a.example"),
        ("a.example:443", "a.example"),
        ("a.example.:8443", "a.example"),
        ("a.example:", "a.example"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8443", "[::1]"),
        ("[0:0::1]", "[::1]"),
        ("a_b.example", "a_b.example"),
    ] {
        assert_eq!(canonical_host(raw.as_bytes()).as_deref(), Ok(host), "{raw}");
    }
    let long_label = "a".repeat(64);
    let long = ["abcdefgh"; 40].join(".");
    for raw in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a:b",
        "a:99999",
        "a:123456",
        "a:1:2",
        "a@b",
        "a/b",
        "a b",
        "a\\b",
        "a?b",
        "a#b",
        "ä",
        "[::1",
        "[::1]x",
        "[::1]:x",
        "[a]",
        "[]",
        "[fe80::1%25eth0]",
        "*.a",
        "a,b",
        "a%2eb",
        "::1",
        "a\0",
        "a\r\nb",
        long_label.as_str(),
        long.as_str(),
    ] {
        assert_eq!(
            canonical_host(raw.as_bytes()),
            Err(BadRequest("the host is malformed")),
            "{raw}"
        );
    }
    assert!(canonical_host(b"\xff\xfe").is_err());
}

#[test]
fn a_configuration_is_taken_whole_or_refused() {
    let build = |sites| {
        Table::build(&Config { version: 1, sites, ..Config::default() })
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let twice = vec![site("a", &["x.example"], vec![]), site("b", &["X.example"], vec![])];
    assert_eq!(build(twice), "host `x.example` belongs to `a` and to `b`");
    assert_eq!(build(vec![site("a", &[], vec![])]), "site `a` has no host");
    assert_eq!(build(vec![site("a", &["a b"], vec![])]), "site `a`: `a b` is no host");
    let mut bad = to("/*", "web");
    bad.settings.response_headers.set = vec![("Content-Length".to_owned(), "1".to_owned())];
    assert_eq!(
        build(vec![site("a", &["a"], vec![bad])]),
        "site `a`, route `/*`: header `Content-Length` cannot be set, added or removed"
    );
    let mut injected = to("/*", "web");
    injected.settings.response_headers.set = vec![("X-A".to_owned(), "a\r\nb: c".to_owned())];
    assert_eq!(
        build(vec![site("a", &["a"], vec![injected])]),
        "site `a`, route `/*`: header `X-A` cannot be set, added or removed"
    );
    let mut trusting = site("a", &["a"], vec![]);
    trusting.trusted_proxies = vec!["10.0.0.0/33".to_owned()];
    assert_eq!(build(vec![trusting]), "site `a`: a list of networks cannot be read");
}

#[test]
fn networks_contain_what_shares_their_prefix_mapped_addresses_too() {
    let contains =
        |network: &str, ip: &str| network.parse::<Network>().unwrap().contains(ip.parse().unwrap());
    assert!(contains("10.0.0.0/8", "10.255.0.1") && contains("10.1.2.3/8", "10.9.9.9"));
    assert!(!contains("10.0.0.0/8", "11.0.0.0") && !contains("10.0.0.0/8", "::a00:1"));
    assert!(
        contains("10.0.0.0/8", "::ffff:10.0.0.1") && contains("::ffff:10.0.0.0/104", "10.0.0.1")
    );
    assert!(
        contains("0.0.0.0/0", "1.2.3.4")
            && !contains("0.0.0.0/0", "::1")
            && contains("::/0", "::1")
    );
    assert!(contains("192.0.2.1", "192.0.2.1") && !contains("192.0.2.1", "192.0.2.2"));
    for bad in [
        "",
        "x",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/33",
        "::/129",
        "10.0.0/8",
        "::ffff:10.0.0.0/8",
        "1.2.3.4/8/8",
    ] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_canonical_path_reads_as_itself_and_holds_nothing_ambiguous(raw in "/([a-c.;/%*]|%2[0-9a-f]|%5c|%c3%a9|%25|\\.\\.){0,12}") {
        if let Ok(path) = CanonicalPath::parse(&raw) {
            let again = CanonicalPath::parse(path.as_str());
            prop_assert_eq!(again.as_ref().map(CanonicalPath::as_str), Ok(path.as_str()));
            let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
            prop_assert_eq!(slashes(path.decoded()), slashes(path.as_str()));
            prop_assert!(path.as_str().starts_with('/') && !path.as_str().starts_with("//"));
            prop_assert!(!path.decoded().contains(['\\', '\0']));
            for reading in [Some(path.decoded().to_owned()), path.other_reading()].into_iter().flatten() {
                prop_assert!(!reading.split('/').any(|segment| segment == ".." || segment == "."), "{}", reading);
            }
        }
    }

    #[test]
    fn no_input_makes_the_readers_panic(path in ".{0,60}", host in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,40}") {
        drop(CanonicalPath::parse(&path).map(|path| path.other_reading()));
        drop(canonical_host(&host));
        drop(text.parse::<Network>());
        prop_assert!(!matches(text.as_bytes(), path.as_bytes()) || text.contains('*') || text == path);
    }

    #[test]
    fn a_canonical_host_reads_as_itself(host in "[A-Za-z0-9_.\\[\\]:-]{0,40}") {
        if let Ok(name) = canonical_host(host.as_bytes()) {
            prop_assert_eq!(canonical_host(name.as_bytes()), Ok(name.clone()));
        }
    }

    #[test]
    fn patterns_agree_with_a_plain_recursive_reading(pattern in "[ab*]{0,8}", path in "[ab]{0,10}") {
        fn plain(pattern: &[u8], path: &[u8]) -> bool {
            match pattern.split_first() {
                None => path.is_empty(),
                Some((b'*', rest)) => (0..=path.len()).any(|taken| plain(rest, &path[taken..])),
                Some((byte, rest)) => path.first() == Some(byte) && plain(rest, &path[1..]),
            }
        }
        let expected = plain(pattern.as_bytes(), path.as_bytes());
        prop_assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), expected);
        prop_assert_eq!(pattern::Pattern::new(&pattern).matches(&path), expected);
    }

    /// A guard is never walked around: a path that an application which is blind to case, to a slash at the end,
    /// to doubled slashes and to parameters takes for the guarded one is not served by another route.
    #[test]
    fn no_spelling_walks_around_a_guard(case in any::<u32>(), tail in "(/|;[a-z]{1,3}|/;x){0,2}", encoded in 0usize..6) {
        let table = table(vec![site("a", &["a.example"], vec![guarding("/log/in", "web"), to("/*", "web")])]);
        let mut path: String = "/log/in"
            .chars()
            .enumerate()
            .map(|(at, c)| if case >> at & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        if let Some(byte) = path.as_bytes().get(encoded).copied().filter(|byte| *byte != b'/') {
            path.replace_range(encoded..=encoded, &format!("%{byte:02x}"));
        }
        path.push_str(&tail);
        prop_assert_ne!(found(&table, "a.example", "POST", &path), "/*", "{}", path);
    }
}
