//! Problems between sections are in the same report as all others, each at its own place.

use super::*;

#[test]
fn problems_between_sections_are_told_together_with_all_others() {
    let text = "site = \"shop\"\ndomains = [\"a.localhost\", \"A.localhost\"]\n\
        [service.web]\nrun = \"x\"\nmemory = \"12Q\"\nafter = [\"api\", \"dp\"]\n\
        [service.api]\nrun = \"y\"\nafter = [\"web\"]\n\
        [service.db]\nrn = \"z\"\n\
        [[route]]\npaths = [\"/*\"]\nto = \"wep\"\nlimits = \"1/s\"\n\
        [[route]]\npaths = [\"/x\", \"/%2A\"]\nto = \"web:ws\"\nhosts = [\"b.localhost\"]\n\
        [[route]]\npaths = [\"/y\", \"/*\"]\n";
    assert_eq!(
        messages(text),
        [
            "2:27 `a.localhost` stands twice, first in line 2",
            "5:10 `12Q` is no size: write it like `64K`, `500M`, `1G`",
            "6:17 it starts after `dp`, and there is no such service",
            "9:10 `after` goes in a circle: api → web → api",
            "10:1 service `db` has none of `run`, `static`, `upstreams`",
            "11:1 unknown key `rn` in `[service.db]`",
            "14:6 this route goes to `wep`, and there is no such service",
            "15:1 unknown key `limits` in `[[route]]`",
            "18:6 service `web` has no port `ws`",
            "19:10 `b.localhost` is none of the site's `domains`",
            "21:16 this path has a route already, in line 13",
        ]
    );
}

#[test]
fn the_caret_stands_under_the_value_that_is_wrong() {
    let text = format!("{GOOD}[[route]]\npaths = [\"/*\"]\nto = \"wep\"\n");
    let shown = try_parse(&text).unwrap_err().render(false);
    assert!(
        shown.contains("6 | to = \"wep\"\n  |      ^^^^^\nhelp: did you mean `web`?"),
        "{shown}"
    );
}

#[test]
fn what_could_not_be_read_is_not_said_to_be_missing() {
    let cases = [
        // The service is there, and wrong.
        "site = \"shop\"\n[service.web]\n[[route]]\npaths = [\"/*\"]\nto = \"web:ws\"\n",
        "site = \"shop\"\n[service.web]\nrun = \"x\"\nports = 5\n[[route]]\npaths = [\"/*\"]\nto = \"web:ws\"\n",
        "site = \"shop\"\n[service.Web]\nrun = \"x\"\n[[route]]\npaths = [\"/*\"]\nto = \"other\"\n",
        // The wider route is there, and wrong.
        "site = \"shop\"\n[service.web]\nrun = \"x\"\n[[route]]\npaths = [\"*\"]\nto = \"web\"\n[[route]]\npaths = [\"/x\"]\n",
        "site = \"shop\"\n[service.web]\nrun = \"x\"\n[[route]]\npaths = [\"/*\"]\nblock = 5\n[[route]]\npaths = [\"/x\"]\n",
        // So are the domains.
        "site = \"shop\"\ndomains = [\"a b\"]\n[service.web]\nrun = \"x\"\n[[route]]\npaths = [\"/*\"]\nhosts = [\"a.localhost\"]\nto = \"web\"\n",
        // A header that is not closed swallows a service.
        "site = \"shop\"\n[service.web\nrun = \"x\"\n[service.api]\nrun = \"y\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n",
    ];
    for text in cases {
        let found = messages(text);
        assert!(
            !found.iter().any(|line| [
                "no such service",
                "no port",
                "nothing to serve",
                "none of the site's"
            ]
            .iter()
            .any(|word| line.contains(word))),
            "{text}\n{found:?}"
        );
        assert!(!found.is_empty());
    }
}

#[test]
fn several_circles_are_told_once_each() {
    let service =
        |name: &str, after: &str| format!("[service.{name}]\nrun = \"x\"\nafter = [{after}]\n");
    let text = [
        "site = \"shop\"\n".to_owned(),
        service("a", "\"b\", \"a\""),
        service("b", "\"a\""),
        service("c", "\"d\", \"a\""),
        service("d", "\"c\""),
        "[[route]]\npaths = [\"/*\"]\nto = \"a\"\n".to_owned(),
    ]
    .concat();
    let found = messages(&text);
    let circles: Vec<&String> = found.iter().filter(|line| line.contains("circle")).collect();
    assert_eq!(circles.len(), 2, "{found:?}");
}

#[test]
fn two_services_may_insist_on_the_same_port() {
    // Each is given another one underneath; see `port` in the reference.
    let text = "site = \"shop\"\n[service.a]\nrun = \"x\"\nport = 8000\n[service.b]\nrun = \"x\"\nport = 8000\n[[route]]\npaths = [\"/*\"]\nto = \"a\"\n";
    assert!(try_parse(text).is_ok());
}
