//! `to = "@health"`, end to end: one word for everybody, the details for who has the key, over each protocol, while
//! instances fail, while the site is closed, and within what its route demands.

use seaworthy_testkit::{Client, Response, Sandbox, Site, eventually};
use serde_json::Value;

use crate::{LIMIT, sandbox};

const HOST: &str = "shop.example";
const KEY: (&str, &str) = ("x-health-api-key", "a key of many letters");

/// Two instances, of which one that ended stays so.
fn site() -> Site {
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n\
         [service.web]\nrun = \"{{fakeapp}}\"\ninstances = 2\nrestart = {{ backoff_min = \"60s\", backoff_max = \"60s\" }}\n\
         health = {{ ready = {{ path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"5s\" }} }}\n\
         [health]\nkey = {{ header = \"X-Health-Api-Key\", value = \"secret:HEALTH_API_KEY\" }}\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n\
         [[route]]\npaths = [\"/api/health\"]\nto = \"@health\"\n\
         [[route]]\npaths = [\"/quiet\"]\nto = \"@health\"\nlog = false\n\
         [[route]]\npaths = [\"/limited\"]\nto = \"@health\"\nlimit = \"3/h by ip\"\n\
         [[route]]\npaths = [\"/elsewhere\"]\nto = \"@health\"\nallow_from = [\"192.0.2.0/24\"]\n"
    );
    Site::new("shop").manifest(&manifest).file(".env", &format!("HEALTH_API_KEY={:?}\n", KEY.1))
}

fn clients(sandbox: &Sandbox) -> [(&'static str, Client); 3] {
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    [
        ("HTTP/1.1", Client::https(address, HOST, &ca)),
        ("HTTP/2", Client::over_http2(address, HOST, &ca)),
        ("HTTP/3", Client::over_http3(address, HOST, &ca)),
    ]
}

fn ask(client: &Client, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    client.send(method, target, headers, b"").unwrap()
}

/// What everybody is told.
fn word(client: &Client) -> (u16, String) {
    let answer = ask(client, "GET", "/api/health", &[]);
    (answer.status, answer.text())
}

fn is(client: &Client, status: u16, word_: &str) -> bool {
    word(client) == (status, format!("{{\"status\":\"{word_}\"}}\n"))
}

fn details(client: &Client) -> Value {
    ask(client, "GET", "/api/health", &[KEY]).json()
}

#[test]
fn everybody_is_told_one_word_and_who_has_the_key_all_within_what_the_route_demands() {
    let sandbox = sandbox();
    sandbox.up(&site());
    let release = sandbox.status().site("shop")["release"].as_str().unwrap().to_owned();
    for (name, client) in clients(&sandbox) {
        assert!(is(&client, 200, "healthy"), "{name}: {:?}", word(&client));
        let wrong = ask(&client, "GET", "/api/health", &[(KEY.0, "another key")]);
        assert_eq!((wrong.status, wrong.text()), word(&client), "{name}");
        assert_eq!(wrong.header("cache-control"), Some("no-store"));
        let told = details(&client);
        assert_eq!(
            (&told["status"], &told["version"]),
            (&"healthy".into(), &release.as_str().into())
        );
        let expected = serde_json::json!([{ "name": "web", "status": "healthy", "ready": 2 }]);
        assert_eq!(told["checks"], expected, "{name}");
        assert!(told["uptime"].is_u64(), "{told}");
        let head = ask(&client, "HEAD", "/api/health", &[]);
        assert_eq!((head.status, head.text().as_str()), (200, ""), "{name}");
        let post = ask(&client, "POST", "/api/health", &[]);
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")), "{name}");
        assert_eq!(ask(&client, "GET", "/elsewhere", &[KEY]).status, 403, "{name}");
        sandbox.run(["limits", "clear", "--all"]).success();
        let limited = [(); 4].map(|()| ask(&client, "GET", "/limited", &[]).status);
        assert_eq!(limited, [200, 200, 200, 429], "{name}");
        ask(&client, "GET", "/quiet", &[]);
    }
    ask(&clients(&sandbox)[0].1, "GET", "/last", &[]);
    let log = || sandbox.run(["logs", "--access", "--tail", "1000"]).success().stdout();
    eventually("the log is written", LIMIT, || log().contains("/last"));
    let log = log();
    assert!(log.contains("/api/health") && !log.contains("/quiet"), "{log}");
    assert!(!log.contains(KEY.1), "{log}");
}

/// Asks an instance itself to say of itself how it is.
fn set(sandbox: &Sandbox, slot: usize, status: u16) {
    let instance = &sandbox.status().instances("shop/web")[slot];
    let address = instance["listening"]["http"].as_str().unwrap().parse().unwrap();
    let set = Client::http(address, "localhost").get(&format!("/set-health?status={status}"));
    assert_eq!(set.status, 200);
}

#[test]
fn it_is_degraded_while_one_instance_is_out_and_unhealthy_while_nobody_serves() {
    let sandbox = sandbox();
    sandbox.up(&site());
    let clients = clients(&sandbox);
    let all = |what: &str, status, word: &str| {
        for (name, client) in &clients {
            eventually(&format!("{what} over {name}"), LIMIT, || is(client, status, word));
        }
        details(&clients[0].1)["checks"][0].clone()
    };
    set(&sandbox, 0, 503);
    let check = all("one is not ready", 200, "degraded");
    assert_eq!((&check["ready"], &check["status"]), (&1.into(), &"degraded".into()));
    let reason = check["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("web/0@") && reason.ends_with(": its health check fails"),
        "{reason}"
    );
    let [left] = sandbox.status().ready_pids("shop/web")[..] else { panic!("one is ready") };
    sandbox.kill_hard(left);
    let check = all("the other one was killed", 503, "unhealthy");
    let reason = check["reason"].as_str().unwrap();
    assert!(reason.starts_with("no instance is ready; "), "{reason}");
    eventually("it is known why", LIMIT, || {
        let check = details(&clients[0].1)["checks"][0].clone();
        check["reason"].as_str().is_some_and(|reason| reason.contains(": it ended by "))
    });
    let id =
        ask(&clients[0].1, "GET", "/api/health", &[]).header("x-request-id").unwrap().to_owned();
    eventually("it is explained", LIMIT, || {
        let told = sandbox.run(["explain", "request", &id]).stdout();
        told.contains("was answered with 503 by the edge: unhealthy: web: no instance is ready")
    });
    set(&sandbox, 0, 200);
    let check = all("the first one is well again", 200, "degraded");
    assert!(check["reason"].as_str().unwrap().starts_with("web/1@"), "{check}");
    sandbox.run(["restart", "shop"]).success();
    all("both are well", 200, "healthy");
}

#[test]
fn a_site_that_is_closed_by_hand_says_so_at_once() {
    let sandbox = sandbox();
    sandbox.up(&site());
    let clients = clients(&sandbox);
    sandbox.run(["hold", "shop", "--for", "10m"]).success();
    for (name, client) in &clients {
        assert!(is(client, 200, "degraded"), "{name}: {:?}", word(client));
        assert_eq!(
            details(client)["checks"][1]["reason"],
            "requests wait: the site is held by hand"
        );
    }
    sandbox.run(["hold", "shop", "--off"]).success();
    sandbox.run(["maintenance", "on", "shop"]).success();
    for (name, client) in &clients {
        assert!(is(client, 503, "unhealthy"), "{name}: {:?}", word(client));
        let answer = ask(client, "GET", "/api/health", &[]);
        assert_eq!(answer.header("retry-after"), Some("120"), "{name}");
        assert_eq!(ask(client, "GET", "/elsewhere", &[]).status, 403, "{name}");
        assert!(ask(client, "GET", "/say?text=x", &[]).text().contains("Back soon"), "{name}");
    }
    sandbox.run(["maintenance", "on", "shop", "--allow", "127.0.0.0/8"]).success();
    assert!(is(&clients[0].1, 200, "healthy"), "{:?}", word(&clients[0].1));
    sandbox.run(["maintenance", "off", "shop"]).success();
    assert!(is(&clients[0].1, 200, "healthy"));
}
