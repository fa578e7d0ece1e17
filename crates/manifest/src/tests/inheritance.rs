//! What a narrower route keeps of the wider ones, whatever narrows it, and in whatever order they stand.

use std::collections::BTreeSet;

use super::*;
use crate::inherit::resolve;
use crate::inherit::width::{Pattern, Widths, path_covers};
use crate::route::{RawRoute, Said};
use crate::site::Route;
use seaworthy_base::ByteSize;

const SERVICES: &str = "site = \"shop\"\ndomains = [\"a.localhost\", \"b.localhost\"]\n[service.web]\nrun = \"x\"\n[service.api]\nrun = \"y\"\n";

fn routes(text: &str) -> Vec<Route> {
    try_parse(&format!("{SERVICES}{text}")).map_err(|report| report.render(false)).unwrap().routes
}

fn goes_to(route: &Route) -> &str {
    match &route.action {
        RouteAction::Service { service, .. } => service.as_str(),
        RouteAction::Block => "block",
        RouteAction::Health => "@health",
        RouteAction::ClientEvents => "@client-events",
        RouteAction::Redirect { .. } => "redirect",
        RouteAction::Respond { .. } => "respond",
    }
}

#[test]
fn a_route_that_narrows_hosts_or_methods_keeps_service_and_limits() {
    let wide = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\nbody_limit = \"1M\"\n";
    for narrow in [
        "paths = [\"/*\"]\nhosts = [\"a.localhost\"]",
        "paths = [\"/*\"]\nmethods = [\"POST\"]",
        "paths = [\"/api/*\"]\nhosts = [\"a.localhost\"]",
        "paths = [\"/api/*\"]\nmethods = [\"POST\"]\nhosts = [\"b.localhost\"]",
        "paths = [\"/%61pi/*\"]",
    ] {
        let found = routes(&format!("{wide}[[route]]\n{narrow}\nlog = false\n"));
        assert_eq!(found.len(), 2);
        assert_eq!(goes_to(&found[0]), "web", "{narrow}");
        assert_eq!(found[0].settings.body_limit, Some(ByteSize(1 << 20)), "{narrow}");
        assert!(!found[0].settings.log && found[1].settings.log, "{narrow}");
    }
}

#[test]
fn a_route_for_all_hosts_inherits_from_one_that_names_them_all() {
    let text = "[[route]]\npaths = [\"/*\"]\nhosts = [\"b.localhost\", \"a.localhost\"]\nto = \"web\"\n[[route]]\npaths = [\"/x\"]\n";
    assert_eq!(goes_to(&routes(text)[0]), "web");
    let text = "[[route]]\npaths = [\"/*\"]\nhosts = [\"a.localhost\"]\nto = \"web\"\n[[route]]\npaths = [\"/x\"]\n";
    let found = messages(&format!("{SERVICES}{text}"));
    assert_eq!(
        found,
        [
            "12:10 this path has nothing to serve: neither its route nor a wider one says where it goes"
        ]
    );
}

#[test]
fn a_cleared_block_serves_what_lies_beneath() {
    let text = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[[route]]\npaths = [\"/admin/*\"]\nblock = true\n[[route]]\npaths = [\"/admin/open/*\"]\nblock = false\n[[route]]\npaths = [\"/admin/x\"]\nlog = false\n";
    let found = routes(text);
    let ways: Vec<(&str, &str)> =
        found.iter().map(|route| (route.path.as_str(), goes_to(route))).collect();
    assert_eq!(
        ways,
        [("/admin/x", "block"), ("/admin/open/*", "web"), ("/admin/*", "block"), ("/*", "web")]
    );
    let cleared =
        "[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[[route]]\npaths = [\"/x\"]\nto = false\n";
    assert_eq!(messages(&format!("{SERVICES}{cleared}")).len(), 1);
}

#[test]
fn an_action_that_could_not_be_read_is_told_once() {
    let text = "[[route]]\npaths = [\"/*\"]\nto = \"@metrics\"\n[[route]]\npaths = [\"/x\"]\n";
    let found = messages(&format!("{SERVICES}{text}"));
    assert_eq!(found, ["9:6 planned: `@metrics` is not built yet"]);
}

#[test]
fn priority_decides_who_wins_and_not_who_inherits() {
    let text = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\npriority = 5\nbody_limit = \"1M\"\n[[route]]\npaths = [\"/api/*\"]\nto = \"api\"\nbody_limit = \"2M\"\n[[route]]\npaths = [\"/api/x\"]\npriority = 9\n";
    let found = routes(text);
    assert_eq!((found[0].path.as_str(), goes_to(&found[0])), ("/api/x", "api"));
    assert_eq!(found[0].settings.body_limit, Some(ByteSize(2 << 20)));
    assert_eq!(found[1].path, "/*");
}

#[test]
fn a_narrower_set_replaces_a_wider_add() {
    let text = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\nresponse_headers = { add = { X-A = \"1\" } }\n[[route]]\npaths = [\"/x\"]\nresponse_headers = { set = { X-A = \"2\" } }\n";
    let headers = &routes(text)[0].settings.response_headers;
    assert!(headers.add.is_empty() && headers.set["x-a"] == "2", "{headers:?}");
}

// A model of the edge, for a site that serves `*.x` and `y`.

const DOMAINS: [&str; 2] = ["*.x", "y"];
const HOSTS: [&str; 4] = ["*.x", "a.x", "b.x", "y"];
const METHODS: [&str; 4] = ["GET", "HEAD", "POST", "PUT"];

fn domains() -> Vec<String> {
    DOMAINS.map(str::to_owned).to_vec()
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        Some((byte, rest)) => {
            text.split_first().is_some_and(|(t, tail)| t == byte && glob(rest, tail))
        }
    }
}

fn serves(route: &RawRoute, path_pattern: &str, request: (&str, &str, &str)) -> bool {
    let (host, method, path) = request;
    let host_fits = |one: &String| {
        one == host
            || one
                .strip_prefix("*.")
                .is_some_and(|tail| host.split_once('.').is_some_and(|(_, rest)| rest == tail))
    };
    let methods = &route.methods;
    (route.hosts.is_empty() || route.hosts.iter().any(host_fits))
        && (methods.is_empty()
            || methods.iter().any(|one| one == method || (method == "HEAD" && one == "GET")))
        && glob(path_pattern.as_bytes(), path.as_bytes())
}

fn some_routes() -> impl Strategy<Value = Vec<RawRoute>> {
    let some = |from: &'static [&'static str]| {
        proptest::collection::btree_set(proptest::sample::select(from), 0..3)
            .prop_map(|set| set.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let route = (
        proptest::collection::btree_set("/[ab*]{0,4}", 1..3),
        some(&HOSTS),
        some(&METHODS),
        0..2i64,
        proptest::option::of(0..3u8),
        0..9u64,
    );
    let route = route.prop_map(|(paths, hosts, methods, priority, action, limit)| RawRoute {
        paths: paths.into_iter().collect(),
        hosts,
        methods,
        priority,
        action: action.map(|n| RouteAction::Redirect { to: format!("/{n}"), status: 308 }),
        body_limit: if limit < 4 { Said::Nothing } else { Said::Is(ByteSize(limit)) },
        ..RawRoute::default()
    });
    proptest::collection::vec(route, 1..6)
}

fn some_request() -> impl Strategy<Value = (&'static str, &'static str, String)> {
    (
        proptest::sample::select(&["a.x", "b.x", "c.x", "y"][..]),
        proptest::sample::select(&METHODS[..]),
        "/[abc]{0,4}",
    )
}

/// Leaves out routes that are for the same requests as an earlier one: they are refused by the checks.
fn without_doubles(routes: Vec<RawRoute>) -> Vec<RawRoute> {
    let mut kept: Vec<RawRoute> = Vec::new();
    for mut route in routes {
        let mut paths = BTreeSet::new();
        for path in std::mem::take(&mut route.paths) {
            route.paths = vec![path.clone()];
            let both = [&kept[..], std::slice::from_ref(&route)].concat();
            let widths = Widths::new(&both, &domains());
            let own = |one: &&Pattern| one.route == kept.len();
            let new = widths.patterns.iter().find(own).unwrap();
            let double = widths.patterns.iter().any(|old| {
                old.route != new.route && widths.covers(old, new) && widths.covers(new, old)
            });
            if !double {
                paths.insert(path);
            }
        }
        route.paths = paths.into_iter().collect();
        kept.push(route);
    }
    kept
}

proptest! {
    #[test]
    fn a_wider_pattern_matches_all_that_the_narrower_one_matches(wide in "/[ab*]{0,5}", narrow in "/[ab*]{0,5}", fill in "[abc/]{0,3}") {
        let text = narrow.replace('*', &fill);
        if path_covers(&wide, &narrow) {
            prop_assert!(glob(wide.as_bytes(), text.as_bytes()), "{} {} {}", wide, narrow, text);
        } else {
            // A letter that no pattern has stands for any other.
            let text = narrow.replace('*', "z");
            prop_assert!(!glob(wide.as_bytes(), text.as_bytes()), "{} {}", wide, narrow);
        }
    }

    #[test]
    fn every_request_of_the_narrower_route_is_one_of_the_wider(routes in some_routes(), requests in proptest::collection::vec(some_request(), 30)) {
        let widths = Widths::new(&routes, &domains());
        for (wide, narrow) in widths.patterns.iter().flat_map(|a| widths.patterns.iter().map(move |b| (a, b))) {
            if !widths.covers(wide, narrow) { continue }
            for (host, method, path) in &requests {
                let serves = |one: &Pattern| serves(&routes[one.route], &routes[one.route].paths[one.at], (host, method, path));
                prop_assert!(!serves(narrow) || serves(wide), "{:?} {:?} {} {} {}", wide, narrow, host, method, path);
            }
        }
    }

    #[test]
    fn a_route_never_wins_over_one_that_it_covers(routes in some_routes()) {
        let widths = Widths::new(&routes, &domains());
        for (at, first) in widths.patterns.iter().enumerate() {
            for later in &widths.patterns[at + 1..] {
                let wrong = widths.covers(first, later) && !widths.covers(later, first) && routes[first.route].priority <= routes[later.route].priority;
                prop_assert!(!wrong, "{:?} wins over {:?}", first, later);
            }
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter(routes in some_routes().prop_map(without_doubles), turn in 0usize..6, back: bool) {
        let mut other = routes.clone();
        other.rotate_left(turn % routes.len());
        if back { other.reverse(); }
        let none = std::collections::BTreeMap::new();
        prop_assert_eq!(resolve(&routes, &domains(), &none), resolve(&other, &domains(), &none));
    }
}
