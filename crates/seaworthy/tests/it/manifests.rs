//! The routes of five real sites, as their manifests write them, each key on the wire over HTTP/1.1,
//! HTTP/2 and HTTP/3.

use std::process::Command;
use std::time::Instant;

use seaworthy_testkit::{Client, Response, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// Stands for each of the applications: logs in who says `good`, echoes everything else.
const APP: &str = r#"
import json, os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = threading.Event()

class App(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def log_message(self, *args): pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("latin-1")
        path = self.path.split("?")[0]
        extra = []
        if path == "/fail":
            return self.say(500, "")
        if path == "/api/sse/mail":
            return self.events()
        if path == "/api/go":
            asked.set()
        if "callback" in path and "good" not in body:
            return self.say(302, "", [("Location", "/signin?error=CredentialsSignin")])
        if ("login" in path or "signin" in path) and self.command == "POST" and "good" not in body:
            return self.say(401, "{}")
        if path == "/page":
            extra = [("Content-Type", "text/html"), ("Set-Cookie", "auth_token=1; Path=/; HttpOnly")]
            return self.say(200, "<script>1</script>", extra)
        if path == "/strict":
            extra = [("Content-Security-Policy", "default-src 'self'"), ("Strict-Transport-Security", "max-age=5")]
        self.say(200, json.dumps({"method": self.command, "path": self.path, "length": len(body),
                 "ip": self.headers.get("X-Forwarded-For"), "pid": os.getpid(),
                 "port": self.server.server_port}), extra)

    # The second event comes when somebody has seen the first.
    def events(self):
        asked.clear()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for text in ["one", "two"]:
            self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.flush()
            asked.wait(20)
        self.close_connection = True

    def say(self, status, text, extra=()):
        self.send_response(status)
        if not any(name == "Content-Type" for name, _ in extra):
            self.send_header("Content-Type", "application/json")
        for name, value in extra:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = answer

if "WS_PORT" in os.environ:
    second = ThreadingHTTPServer(("127.0.0.1", int(os.environ["WS_PORT"])), App)
    threading.Thread(target=second.serve_forever, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

/// A service that runs [`APP`].
fn service(name: &str, more: &str) -> String {
    format!(
        "[service.{name}]\nrun = \"python3 server.py\"\nstop = {{ grace = \"2s\" }}\n{more}\n\
         health = {{ ready = {{ path = \"/healthy\", every = \"200ms\", timeout = \"2s\", failures = 3, start = \"5s\" }} }}\n"
    )
}

/// A site on `domains` whose routes are those of a manifest.
fn up(sandbox: &Sandbox, domains: &[&str], services: &str, routes: &str) -> Site {
    let head = format!(
        "site = \"shop\"\ndomains = {domains:?}\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n{services}"
    );
    let site = Site::new("shop")
        .file("server.py", APP)
        .file(".env", "HEALTH_API_KEY=a-key-for-the-monitor\n")
        .file("dist/index.html", "<p>app</p>")
        .file("dist/assets/a.js", "1")
        .manifest(&format!("{head}{routes}"));
    sandbox.up(&site);
    site
}

/// Asks over each protocol, with nothing counted before.
fn over_each(sandbox: &Sandbox, host: &str, check: impl Fn(&str, &Client)) {
    for name in ["HTTP/1.1", "HTTP/2", "HTTP/3"] {
        sandbox.run(["restart", "--edge"]).success();
        sandbox.run(["limits", "clear", "--all"]).success();
        let (address, ca) = (sandbox.status().https(), sandbox.ca());
        let client = match name {
            "HTTP/2" => Client::over_http2(address, host, &ca),
            "HTTP/3" => Client::over_http3(address, host, &ca),
            _ => Client::https(address, host, &ca),
        };
        check(name, &client);
    }
}

fn get(client: &Client, target: &str) -> Response {
    client.send("GET", target, &[], b"").unwrap()
}

/// The statuses of so many equal requests.
fn statuses(
    client: &Client,
    count: usize,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Vec<u16> {
    (0..count)
        .map(|_| client.send(method, target, headers, body.as_bytes()).unwrap().status)
        .collect()
}

/// How many of so many requests at once pass.
fn passed(client: &Client, count: usize, target: &str) -> usize {
    statuses(client, count, "GET", target, &[], "").iter().filter(|status| **status == 200).count()
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Five wrong passwords, then the right one from the same address.
fn is_locked_out(
    client: &Client,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
    refusal: u16,
) {
    let wrong = statuses(client, 5, "POST", target, headers, body);
    assert_eq!(wrong, [refusal; 5], "{target}");
    let right = client.send("POST", target, headers, format!("{body} good").as_bytes()).unwrap();
    assert_eq!(right.status, 429, "{target}");
    assert!(right.header("retry-after").is_some());
}

#[test]
fn fingerflow() {
    let sandbox = sandbox();
    let services = service("backend", "")
        + "[service.frontend]\nstatic = \"dist\"\nspa = true\ncache_control = { \"/assets/*\" = \"public, max-age=31536000, immutable\", \"*.html\" = \"no-store\" }\n";
    up(&sandbox, &["fingerflow.example"], &services, include_str!("manifests/fingerflow.toml"));
    over_each(&sandbox, "fingerflow.example", |name, client| {
        let page = get(client, "/lessons/7");
        assert_eq!(
            (page.text().as_str(), page.header("cache-control")),
            ("<p>app</p>", Some("no-store")),
            "{name}"
        );
        assert_eq!(
            get(client, "/assets/a.js").header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        assert_eq!(get(client, "/health").json()["path"], "/health");
        for hidden in ["/docs", "/redoc", "/openapi.json"] {
            assert_eq!(get(client, hidden).status, 404, "{hidden}");
        }
        is_locked_out(client, "/auth/login", &JSON, "{\"email\": \"ann@x\"}", 401);
        // 100/m burst 50, of which seven went to /health and the log-in.
        let count = passed(client, 60, "/api/x");
        assert!((44..60).contains(&count), "{name}: {count}");
    });
}

#[test]
fn finia() {
    let sandbox = sandbox();
    let routes = include_str!("manifests/finia.toml")
        .replace("https://finia.example.com", "https://finia.example");
    up(&sandbox, &["finia.example"], &service("api", ""), &routes);
    let port = sandbox.status().https().port();
    over_each(&sandbox, "finia.example", |name, client| {
        let page = get(client, "/page");
        assert_eq!(page.all("x-frame-options"), ["SAMEORIGIN"], "{name}");
        assert_eq!(page.all("set-cookie"), ["auth_token=1; Path=/; HttpOnly; Secure"]);
        let big = vec![b'x'; 12 << 20];
        assert_eq!(client.send("POST", "/upload", &[], &big).unwrap().json()["length"], 12 << 20);
        let preflight =
            [("origin", "https://finia.example"), ("access-control-request-method", "DELETE")];
        let allowed = client.send("OPTIONS", "/api/x", &preflight, b"").unwrap();
        assert_eq!(
            allowed.header("access-control-allow-methods"),
            Some("GET, HEAD, POST, PUT, DELETE")
        );
        assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
        // From 127.0.0.1 the setup is open, from elsewhere it is not.
        assert_eq!(get(client, "/api/setup/database").status, 200);
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--interface",
            "127.0.0.2",
            "--cacert",
        ]);
        curl.arg(sandbox.ca()).args(["--resolve", &format!("finia.example:{port}:127.0.0.1")]);
        curl.arg(if name == "HTTP/2" { "--http2" } else { "--http1.1" });
        let said =
            curl.arg(format!("https://finia.example:{port}/api/setup/database")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "403");
        is_locked_out(client, "/api/auth/login", &JSON, "{\"username\": \"ann\"}", 401);
        // 10/s burst 20, of which nine are gone.
        let count = passed(client, 60, "/api/x");
        assert!((10..60).contains(&count), "{name}: {count}");
    });
}

#[test]
fn finito_mail() {
    let sandbox = sandbox();
    up(
        &sandbox,
        &["finito.example", "api.finito.example"],
        &(service("web", "") + KEY),
        include_str!("manifests/finito-mail.toml"),
    );
    over_each(&sandbox, "finito.example", |name, client| {
        let page = get(client, "/page");
        let csp = page.header("content-security-policy").unwrap();
        let nonce = csp.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(page.text(), format!("<script nonce=\"{nonce}\">1</script>"), "{name}");
        assert!(
            csp.contains("'strict-dynamic'") && csp.contains("frame-ancestors 'none'"),
            "{csp}"
        );
        for hidden in ["/auth/dev", "/auth/test"] {
            assert_eq!(get(client, hidden).status, 404);
        }
        let by = |user: &str, count, target| {
            let all = statuses(
                client,
                count,
                "GET",
                target,
                &[("cookie", &format!("session={user}"))],
                "",
            );
            all.iter().filter(|status| **status == 200).count()
        };
        // By user: 50 of one, with what was given back meanwhile (50 in a minute), and another one is not held up.
        let begun = Instant::now();
        let ann = by("ann", 55, "/api/emails/sync");
        let given_back = (begun.elapsed().as_secs_f64() * 50.0 / 60.0).ceil() as usize;
        assert!((50..=50 + given_back).contains(&ann), "{name}: {ann}, {given_back} given back");
        assert_eq!(by("bob", 1, "/api/emails/sync"), 1, "{name}");
        // Of ten a minute the two hidden ones have taken theirs.
        assert!((8..15).contains(&passed(client, 15, "/auth/x")));
        says_how_it_is(client);
        is_counted(&sandbox, client);
        stands_still_and_goes_on(&sandbox, client);
        opens(&sandbox, client);
    });
    // Of all that was asked, health is not logged.
    let log = || sandbox.run(["logs", "--access", "--tail", "10000"]).success().stdout();
    eventually("the log is written", LIMIT, || log().contains("/fail"));
    assert!(!log().contains("/api/health"));
}

const KEY: &str =
    "[health]\nkey = { header = \"x-health-api-key\", value = \"secret:HEALTH_API_KEY\" }\n";

/// One word for everybody, all for who has the key, twenty times a minute.
fn says_how_it_is(client: &Client) {
    let ask = |key| client.send("GET", "/api/health", &[("x-health-api-key", key)], b"").unwrap();
    let (told, wrong) = (ask("a-key-for-the-monitor"), ask("another"));
    let expected = serde_json::json!([{ "name": "web", "status": "healthy", "ready": 1 }]);
    assert_eq!((told.status, &told.json()["checks"]), (200, &expected));
    assert_eq!((wrong.status, wrong.text().as_str()), (200, "{\"status\":\"healthy\"}\n"));
    assert_eq!(wrong.header("cache-control"), Some("no-store"));
    assert!((20..25).contains(&(2 + passed(client, 23, "/api/health"))));
}

/// What a browser tells is counted, and nothing of who it was.
fn is_counted(sandbox: &Sandbox, client: &Client) {
    let tell = |body: &str| {
        let headers = [("content-type", "application/json"), ("cookie", "session=carol")];
        client.send("POST", "/api/logs/client-events", &headers, body.as_bytes()).unwrap().status
    };
    assert_eq!(tell("{\"events\":[],\"sessionId\":\"debug\",\"timestamp\":1642521600000}"), 204);
    let batch = "{\"events\":[{\"type\":\"sync\",\"duration\":12},{\"type\":\"sync\"}],\"sessionId\":\"carol\"}";
    assert_eq!((tell(batch), tell("[]"), tell(&"x".repeat(70_000))), (204, 400, 413));
    let status = sandbox.status();
    let told = &status.document()["edge"]["client_events"];
    let shop = told.as_object().unwrap().values().next().unwrap();
    assert_eq!((&shop["sync"]["count"], &shop["sync"]["sum"]), (&2.into(), &12.0.into()));
    assert!(!told.to_string().contains("carol"), "{told}");
}

/// An event arrives before the next one is made.
fn stands_still_and_goes_on(sandbox: &Sandbox, client: &Client) {
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let reader = Client::https(address, "finito.example", &ca);
    let mut events = reader.open("GET", "/api/sse/mail", &[], None).unwrap();
    assert_eq!(events.head().unwrap().status, 200);
    assert_eq!(events.piece().unwrap().as_deref(), Some(&b"data: one\n\n"[..]));
    // Of an address that has asked for much already; another user has counts of his own.
    let cookie = [("cookie", "session=eve")];
    assert_eq!(client.send("GET", "/api/go", &cookie, b"").unwrap().status, 200);
    assert_eq!(events.piece().unwrap().as_deref(), Some(&b"data: two\n\n"[..]));
}

/// Half of the last answers were errors: the circuit is broken, and `explain` says so.
fn opens(sandbox: &Sandbox, client: &Client) {
    let failed = statuses(client, 300, "GET", "/fail", &[], "");
    assert_eq!((failed[0], failed[299]), (500, 503));
    assert_eq!(get(client, "/page").status, 503);
    eventually("the breaker is known", LIMIT, || {
        let told = sandbox.run(["explain", "instance", "shop/web"]);
        told.stdout().contains("opened 1 times, open for")
    });
}

#[test]
fn platform() {
    let sandbox = sandbox();
    let ports = "ports = { http = \"PORT\", ws = \"WS_PORT\" }";
    let services = service("api", &format!("{ports}\ninstances = 2"));
    let routes = include_str!("manifests/platform.toml");
    up(&sandbox, &["api.platform.example"], &services, routes);
    over_each(&sandbox, "api.platform.example", |name, client| {
        let first = get(client, "/ws");
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let mine = || client.send("GET", "/ws", &[("cookie", &cookie)], b"").unwrap();
        for again in [mine(), mine(), mine()] {
            assert_eq!(again.json()["pid"], first.json()["pid"], "{name}");
            assert_eq!(again.header("set-cookie"), None);
        }
        // The other port, and the other routes go to all instances.
        let others: Vec<_> = (0..8).map(|_| get(client, "/x").json()).collect();
        assert!(others.iter().all(|other| other["port"] != first.json()["port"]), "{others:?}");
        assert!(others.iter().any(|other| other["pid"] != others[0]["pid"]), "{others:?}");
        assert_eq!(get(client, "/trpc/health.liveness").status, 200, "{name}");
        assert_eq!(get(client, "/trpc/auth.login?batch=1").status, 404);
        assert_eq!(get(client, "/trpc/user.get,auth.login?%62atch=1").status, 404);
        let form = [("content-type", "application/x-www-form-urlencoded")];
        is_locked_out(
            client,
            "/api/auth/callback/credentials",
            &form,
            "email=ann%40x&password=",
            302,
        );
        // 10/s burst 20: two dozen have passed by now, and how many may follow depends on how long they took.
        let count = passed(client, 60, "/x");
        assert!(count < 60, "{name}: {count}");
    });
}

#[test]
fn vaultr() {
    let sandbox = sandbox();
    up(&sandbox, &["vaultr.example"], &service("web", ""), include_str!("manifests/vaultr.toml"));
    over_each(&sandbox, "vaultr.example", |name, client| {
        let own = get(client, "/strict");
        assert_eq!(own.all("content-security-policy"), ["default-src 'self'"], "{name}");
        assert_eq!(own.all("strict-transport-security"), ["max-age=5"]);
        assert_eq!(own.all("x-content-type-options"), ["nosniff"]);
        assert_eq!(
            get(client, "/_next/static/x.js").header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        assert_eq!(get(client, "/api/x").header("cache-control"), Some("private, max-age=300"));
        is_locked_out(client, "/api/auth/login", &JSON, "{\"email\": \"ann@x\"}", 401);
        // An address that is locked out is out of all of the route.
        assert_eq!(get(client, "/api/auth/session").status, 429);
        sandbox.run(["limits", "clear", "127.0.0.1"]).success();
        // 20/m burst 10, of which five are gone.
        let count = passed(client, 20, "/api/auth/session");
        assert!((5..20).contains(&count), "{name}: {count}");
    });
}
