//! Pages of other origins, with everything that origins can be written like: over HTTP/1.1, HTTP/2 and HTTP/3.

use std::io::{Read, Write};

use seaworthy_testkit::{Client, Sandbox};

use crate::policy::{HOST, ask, clients, site};
use crate::sandbox;

const ROUTES: &str = r#"
[[route]]
paths = ["/*"]
to = "web"

[[route]]
paths = ["/api/*"]
cors = { origins = ["https://app.example", "http://app.example:8080"], credentials = true, headers = ["X-Key"], expose = ["X-Total"], max_age = "5m" }

[[route]]
paths = ["/api/item"]
methods = ["PATCH"]
cors = { origins = ["https://editor.example"], methods = ["PATCH"] }

[[route]]
paths = ["/api/closed"]
auth = { basic = "secret:STAFF" }

[[route]]
paths = ["/open"]
cors = { origins = ["*"] }
"#;

/// What is not `https://app.example`, though it may look like it.
const NOT_LISTED: [&str; 16] = [
    "null",
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example:8080",
    "https://app.example:443",
    "https://APP.example",
    "https://app.example.evil.example",
    "https://evilapp.example",
    "https://sub.app.example",
    "https://app.example@evil.example",
    "https://app.example/",
    "https://app.example, https://evil.example",
    "https://evil.example, https://app.example",
    "app.example",
    "*",
];

#[test]
fn only_what_is_listed_letter_by_letter_may_read_over_each_protocol() {
    let sandbox = sandbox();
    sandbox.up(&site(ROUTES).file(".env", "STAFF=ann:pw\n"));
    for (name, client) in clients(&sandbox) {
        readers(name, &client);
        preflights(name, &client);
        writers(name, &client);
    }
    sockets(&sandbox);
}

fn readers(name: &str, client: &Client) {
    for origin in ["https://app.example", "http://app.example:8080"] {
        // Refusals say it too: a page that may read answers may read why there is none.
        for (target, status) in [("/api/x", 200), ("/api/closed", 401)] {
            let answer = ask(client, "GET", target, &[("origin", origin)]);
            assert_eq!(answer.status, status, "{name}");
            assert_eq!(answer.all("access-control-allow-origin"), [origin], "{name} {target}");
            assert_eq!(answer.all("access-control-allow-credentials"), ["true"], "{name}");
            assert_eq!(answer.all("access-control-expose-headers"), ["X-Total"], "{name}");
            assert!(answer.all("vary").contains(&"Origin"), "{name} {target}");
        }
    }
    for origin in NOT_LISTED {
        for target in ["/api/x", "/api/closed"] {
            let answer = ask(client, "GET", target, &[("origin", origin)]);
            assert_eq!(answer.header("access-control-allow-origin"), None, "{name} {origin}");
            assert_eq!(answer.header("access-control-allow-credentials"), None, "{name} {origin}");
            assert!(answer.all("vary").contains(&"Origin"), "{name} {origin}");
        }
    }
    // Without an origin too, or a copy that was kept would be shown to those with one.
    assert!(ask(client, "GET", "/api/x", &[]).all("vary").contains(&"Origin"), "{name}");
    // Where the edge has no word of it, what the application says stays; where everybody may read, nobody's cookies do.
    assert_eq!(
        ask(client, "GET", "/own", &[("origin", "null")]).all("access-control-allow-origin"),
        ["*"]
    );
    let open = ask(client, "GET", "/open", &[("origin", "null")]);
    assert_eq!(open.all("access-control-allow-origin"), ["*"], "{name}");
    assert_eq!(open.header("access-control-allow-credentials"), None, "{name}");
    assert!(!open.all("vary").contains(&"Origin"), "{name}");
}

fn preflights(name: &str, client: &Client) {
    let preflight = |target: &str, origin: &str, method: &str| {
        ask(
            client,
            "OPTIONS",
            target,
            &[
                ("origin", origin),
                ("access-control-request-method", method),
                ("access-control-request-headers", "x-key, x-evil"),
            ],
        )
    };
    // Also where a password is asked for: a preflight brings none.
    for target in ["/api/x", "/api/closed"] {
        let yes = preflight(target, "https://app.example", "DELETE");
        assert_eq!((yes.status, yes.body.len()), (204, 0), "{name} {target}");
        assert_eq!(yes.header("access-control-allow-methods"), Some("GET, HEAD, POST"), "{name}");
        assert_eq!(yes.header("access-control-allow-headers"), Some("X-Key"), "{name}");
        assert_eq!(yes.header("access-control-max-age"), Some("300"), "{name}");
        let vary = yes.all("vary").join(", ");
        for word in ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"] {
            assert!(vary.contains(word), "{name} {vary}");
        }
        for origin in NOT_LISTED {
            let no = preflight(target, origin, "POST");
            let told = [
                "access-control-allow-origin",
                "access-control-allow-methods",
                "access-control-allow-headers",
                "access-control-max-age",
            ];
            assert!(
                no.status == 403 && told.iter().all(|name| no.header(name).is_none()),
                "{name} {origin}"
            );
        }
    }
    // It asks for another method than its own, and that one's route answers.
    let yes = preflight("/api/item", "https://editor.example", "PATCH");
    assert_eq!(
        (yes.status, yes.header("access-control-allow-methods")),
        (204, Some("GET, HEAD, POST, PATCH")),
        "{name}"
    );
    assert_eq!(preflight("/api/item", "https://editor.example", "POST").status, 403, "{name}");
    assert_eq!(preflight("/api/item", "https://app.example", "POST").status, 204, "{name}");
    // What is no preflight is the application's.
    let options = ask(client, "OPTIONS", "/api/x", &[("origin", "https://app.example")]);
    assert_eq!(options.json()["method"], "OPTIONS", "{name}");
}

fn writers(name: &str, client: &Client) {
    let cookie = ("cookie", "session=1");
    let post = |target: &str, headers: &[(&str, &str)]| {
        ask(client, "POST", target, &[&[cookie], headers].concat()).status
    };
    for origin in NOT_LISTED {
        assert_eq!(post("/api/x", &[("origin", origin)]), 403, "{name} {origin}");
        assert_eq!(
            post("/x", &[("origin", origin), ("sec-fetch-site", "same-site")]),
            403,
            "{name} {origin}"
        );
    }
    assert_eq!(post("/api/x", &[("origin", "https://app.example")]), 200, "{name}");
    // Another name of the site is the site; another subdomain is not.
    let port = |host: &str| {
        let seen = ask(client, "GET", "/x", &[]).json();
        let own = seen["headers"]["host"].as_str().unwrap().to_owned();
        format!("https://{host}{}", own.strip_prefix(HOST).unwrap())
    };
    for (origin, status) in [
        (port(HOST), 200),
        (port(&format!("www.{HOST}")), 200),
        (port(&format!("blog.{HOST}")), 403),
        (format!("https://{HOST}:1"), 403),
    ] {
        let asked = post("/x", &[("origin", &origin), ("sec-fetch-site", "same-site")]);
        assert_eq!(asked, status, "{name} {origin}");
    }
    // No browser sent these.
    assert_eq!(post("/x", &[]), 200, "{name}");
    assert_eq!(post("/x", &[("sec-fetch-site", "none")]), 200, "{name}");
    for site in ["cross-site", "same-site", "Same-Origin", "same-origin, cross-site", ""] {
        assert_eq!(post("/x", &[("sec-fetch-site", site)]), 403, "{name} {site}");
    }
    // Reading changes nothing, and without a cookie there is nobody to be made to do anything.
    let evil = ("origin", "https://evil.example");
    assert_eq!(ask(client, "GET", "/x", &[cookie, evil]).status, 200, "{name}");
    assert_eq!(ask(client, "POST", "/x", &[evil]).status, 200, "{name}");
    for method in ["PUT", "DELETE", "POST"] {
        assert_eq!(ask(client, method, "/x", &[cookie, evil]).status, 403, "{name} {method}");
    }
}

/// A WebSocket that a foreign page opens with the visitor's cookies is refused before the application hears of it.
fn sockets(sandbox: &Sandbox) {
    let client = Client::https(sandbox.status().https(), HOST, &sandbox.ca());
    for (origin, expected) in [
        ("https://evil.example", "HTTP/1.1 403 "),
        ("null", "HTTP/1.1 403 "),
        ("https://shop.example", "HTTP/1.1 200 "),
    ] {
        let mut stream = client.connect().unwrap();
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: session=1\r\nOrigin: {origin}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 13];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{origin}");
    }
}
