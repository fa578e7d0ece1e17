//! What routes demand: read as written in the real manifests, added up along the wider routes, refused
//! with a reason.

use std::time::Duration;

use seaworthy_base::delivery::{Balance, Breaker, Delivery, Hold, Passive, Retry};
use seaworthy_base::policy::{Identity, Key, Limit, Refusal};
use seaworthy_base::{ByteSize, Rate};

use super::*;
use crate::site::Route;

const SERVICES: &str = "site = \"shop\"\ndomains = [\"a.localhost\"]\n[service.web]\nrun = \"x\"\n";

fn routes(text: &str) -> Vec<Route> {
    try_parse(&format!("{SERVICES}{text}")).map_err(|report| report.render(false)).unwrap().routes
}

fn limits(route: &Route) -> Vec<(String, Option<u32>, &Key)> {
    let shown = |limit: &Limit| limit.rate.to_string();
    route.settings.policy.limits.iter().map(|one| (shown(one), one.burst, &one.by)).collect()
}

#[test]
fn limits_add_up_and_names_are_shared() {
    let found = routes(
        "[limit.general]\nrate = \"100/m\"\nby = \"user\"\n[identity]\nuser = [\"cookie:session\", \"bearer\"]\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\nlimit = \"general\"\n\
         [[route]]\npaths = [\"/api/*\"]\nlimit = [\"10/s burst 20 by ip\", \"general\"]\n\
         [[route]]\npaths = [\"/api/login\"]\nlimit = \"300/5m by json:user.email burst 0\"\n\
         [[route]]\npaths = [\"/open\"]\nlimit = false\n",
    );
    let by_path = |path: &str| found.iter().find(|route| route.path == path).unwrap();
    let general = ("100/1m".to_owned(), None, &Key::User);
    assert_eq!(limits(by_path("/*")), std::slice::from_ref(&general));
    let api = ("10/1s".to_owned(), Some(20), &Key::Ip);
    assert_eq!(limits(by_path("/api/*")), [general.clone(), api.clone()]);
    let field = Key::Json("user.email".to_owned());
    let login = ("300/5m".to_owned(), Some(0), &field);
    assert_eq!(limits(by_path("/api/login")), [general, api, login]);
    assert_eq!(limits(by_path("/open")), []);
    // One limit, one name: what is inherited counts together with where it comes from.
    let name = |path: &str| by_path(path).settings.policy.limits[1].name.clone();
    assert_eq!(name("/api/*"), name("/api/login"));
}

#[test]
fn the_identity_of_a_site_is_read() {
    let text = format!(
        "{SERVICES}[identity]\nuser = [\"cookie:session\", \"bearer\", \"header:X-User\"]\n"
    );
    let site = try_parse(&text).unwrap();
    let header = Identity::Header("x-user".to_owned());
    let cookie = Identity::Cookie("session".to_owned());
    assert_eq!(site.identity, [cookie, Identity::Bearer, header]);
}

#[test]
fn the_routes_of_the_platform_manifest_mean_what_they_say() {
    let found = routes(
        "[[route]]\npaths = [\"/*\"]\nto = \"web\"\nlimit = [\"50/s burst 100 by site\", \"10/s burst 20 by ip\"]\n\
         [[route]]\npaths = [\"/trpc/health.*\"]\nlog = false\nallow_from = [\"127.0.0.1\", \"10.0.0.0/8\"]\n\
         [[route]]\npaths = [\"/trpc/*auth.*\", \"/api/auth/callback/*\"]\nblock = { query = [\"batch\"] }\nlimit = \"10/m burst 5 by ip\"\n\
         lockout = { failures = 5, within = \"15m\", for = \"15m\", by = [\"ip\", \"json:email\", \"form:email\"], match = [{ status = [401, 403] }, { status = [302], location = \"error=CredentialsSignin\" }] }\n",
    );
    let login = found.iter().find(|route| route.path == "/trpc/*auth.*").unwrap();
    let policy = &login.settings.policy;
    assert!(
        matches!(&login.action, RouteAction::Service { service, .. } if service.as_str() == "web")
    );
    assert_eq!(
        (policy.block_query.as_slice(), policy.limits.len()),
        (&["batch".to_owned()][..], 3)
    );
    let lockout = &policy.lockouts[0];
    assert_eq!(
        (lockout.failures, lockout.within.as_secs(), lockout.locked.as_secs()),
        (5, 900, 900)
    );
    assert_eq!(lockout.by.len(), 3);
    let location = Some("error=CredentialsSignin".to_owned());
    let second = Refusal { status: vec![302], location, body: None };
    assert_eq!(lockout.refusals[1], second);
    let health = found.iter().find(|route| route.path == "/trpc/health.*").unwrap();
    assert_eq!(health.settings.policy.allow_from, ["127.0.0.1", "10.0.0.0/8"]);
    assert!(!health.settings.log && health.settings.policy.csrf.is_some());
}

#[test]
fn the_other_keys_are_read_and_cleared() {
    let found = routes(
        "[[route]]\npaths = [\"/*\"]\nto = \"web\"\ncsp = \"default-src 'self';\\n  script-src 'nonce'\"\n\
         cookies = { secure = true, same_site = \"lax\" }\ncompress = true\ncache = { ttl = \"1m\" }\nauth = { basic = \"secret:STAFF\" }\n\
         cors = { origins = [\"https://App.example:443\"], credentials = true, methods = [\"put\"], headers = [\"Authorization\"] }\n\
         csrf = { allow = [\"https://idp.example\"] }\nmaintenance = { retry_after = \"10m\", allow_from = [\"10.0.0.0/8\"] }\nrewrite = { strip = \"/api/\", prefix = \"/v2\" }\nlog = { sample = \"2.5%\" }\n\
         [[route]]\npaths = [\"/bare\"]\ncsp = false\ncookies = false\ncompress = false\ncache = false\nauth = false\ncors = false\ncsrf = false\nmaintenance = false\nrewrite = false\nlog = true\n",
    );
    let (bare, wide) = (&found[0].settings.policy, &found[1].settings.policy);
    assert_eq!(wide.csp.as_deref(), Some("default-src 'self'; script-src 'nonce'"));
    assert_eq!((wide.cookies.secure, wide.cookies.same_site.as_deref()), (true, Some("Lax")));
    assert_eq!(wide.cors.as_ref().unwrap().origins, ["https://app.example"]);
    assert_eq!(wide.cors.as_ref().unwrap().methods, ["PUT"]);
    assert_eq!(wide.csrf.as_ref().unwrap().allow, ["https://idp.example"]);
    assert_eq!(wide.auth.as_ref().unwrap().basic, "STAFF");
    assert_eq!(
        wide.rewrite.as_ref().map(|one| (one.strip.as_str(), one.prefix.as_str())),
        Some(("/api", "/v2"))
    );
    assert_eq!((wide.log_sample, bare.log_sample), (25, 1000));
    let nothing = seaworthy_base::policy::Policy { csrf: None, ..Default::default() };
    assert_eq!(*bare, nothing);
}

#[test]
fn how_requests_reach_their_instances_is_read_inherited_and_cleared() {
    let found = routes(
        "[[route]]\npaths = [\"/*\"]\nto = \"web\"\nbalance = \"hash:header:X-Tenant\"\nsticky = \"cookie\"\n\
         passive = { failures = 5, within = \"30s\" }\nretry = { times = 1 }\nhold = { requests = 10, bytes = \"1M\", for = \"5s\" }\n\
         breaker = { errors = \"50%\", over = \"10s\", min_requests = 20, open = \"30s\" }\ntimeout = { send = \"9s\", total = \"1m\" }\n\
         [[route]]\npaths = [\"/narrow\"]\nbalance = \"least-conn\"\ntimeout = { connect = \"1s\" }\n\
         [[route]]\npaths = [\"/bare\"]\nbalance = false\nsticky = false\npassive = false\nretry = false\nbreaker = false\nhold = false\ntimeout = false\n",
    );
    let of = |path: &str| {
        found.iter().find(|route| route.path == path).unwrap().settings.delivery.clone()
    };
    let seconds = Duration::from_secs;
    let wide = Delivery {
        balance: Balance::Hash(Key::Header("x-tenant".to_owned())),
        sticky: true,
        passive: Some(Passive { failures: 5, within: seconds(30), out: seconds(30) }),
        retry: Retry { times: 1 },
        breaker: Some(Breaker::default()),
        hold: Hold { requests: 10, bytes: ByteSize(1 << 20), age: seconds(5) },
        send: Some(seconds(9)),
        total: Some(seconds(60)),
    };
    assert_eq!(of("/*"), wide);
    assert_eq!(of("/narrow"), Delivery { balance: Balance::LeastConn, ..wide });
    let nothing = Delivery {
        passive: None,
        retry: Retry { times: 0 },
        hold: Hold { requests: 0, ..Hold::default() },
        ..Delivery::default()
    };
    assert_eq!(of("/bare"), nothing);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    for (key, expected) in [
        (
            "limit = \"10 per second\"",
            "a limit begins with a rate, such as `10/s`, `5/m`, `300/5m`",
        ),
        ("limit = \"10/s bursts 3\"", "a limit is a rate, `burst N` and `by KEY`"),
        (
            "limit = \"10/s by moon\"",
            "a key is `ip`, `user`, `site`, `header:N`, `cookie:N`, `json:F` or `form:F`",
        ),
        ("limit = \"genral\"", "`genral` is no limit: there is no such `[limit.X]`"),
        (
            "lockout = { by = [\"site\"] }",
            "a lockout by `site` would let anybody lock out everybody",
        ),
        (
            "lockout = { match = [{ status = [503] }] }",
            "a 5xx never counts: it is the application's fault",
        ),
        ("lockout = { match = [{}] }", "this would count every answer as a failure"),
        (
            "cors = { origins = [\"*\"], credentials = true }",
            "`*` with `credentials` would let every page act as your users",
        ),
        (
            "cors = { origins = [\"example.com\"] }",
            "`example.com` is no origin, such as `https://app.example.com`",
        ),
        (
            "auth = { basic = \"hunter2\" }",
            "passwords do not belong into the manifest: this must be `secret:NAME`",
        ),
        ("allow_from = [\"10.0.0.0/33\"]", "this is no network, such as `10.0.0.0/8`"),
        ("allow_from = []", "there is no network in this list"),
        ("csp = \"\"", "this is no policy, such as `default-src 'self'`"),
        ("rewrite = { strip = \"/a/../b\" }", "this is no beginning of a path, such as `/api`"),
        ("cookies = { same_site = \"maybe\" }", "`same_site` is `strict`, `lax` or `none`"),
        ("log = { sample = \"200%\" }", "a sample is written `10%`, from 0.1% to 100%"),
        ("block = { query = [\"a=b\"] }", "`…` is no name of a query field"),
        (
            "balance = \"hash:json:a\"",
            "`balance` is `p2c`, `least-conn`, `round-robin` or `hash:KEY`, where the key is `ip`, `user`, `header:N` or `cookie:N`",
        ),
        ("sticky = \"ip\"", "`sticky` is `cookie`"),
        ("breaker = { errors = \"0%\" }", "a share of errors is written `10%`, from 0.1% to 100%"),
        ("passive = { within = \"0s\" }", "this time is from a millisecond to a day"),
    ] {
        let text = format!(
            "{SERVICES}[limit.general]\nrate = \"1/s\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n{key}\n"
        );
        let found = messages(&text);
        let said: Vec<&str> = found.iter().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(said, [expected], "{key}");
    }
    let rate: Rate = "1/s".parse().unwrap();
    assert_eq!(rate.to_string(), "1/1s");
}
