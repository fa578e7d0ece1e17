//! What routes demand and add, on the wire, over HTTP/1.1, HTTP/2 and HTTP/3 alike: one site, one application.

use std::io::Read as _;

use seaworthy_testkit::{Client, Response, Sandbox, Site};

use crate::sandbox;

/// Says what it was asked, refuses wrong passwords, packs its pages.
const APP: &str = r#"
import gzip, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!doctype html><title>t</title><style>a{}</style><script src=a.js></script><p>" + b"x" * 3000

class App(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def log_message(self, *args): pass

    def say(self, status, body, kind="application/json", extra=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in extra:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path.startswith("/login"):
            text = body.decode()
            if "boom" in text:
                return self.say(503, b"{}")
            return self.say(200 if "good" in text else 401, b"{}")
        if path == "/page":
            return self.say(200, PAGE, "text/html; charset=utf-8", [("ETag", '"p"')])
        if path == "/packed":
            return self.say(200, gzip.compress(PAGE), "text/html", [("Content-Encoding", "gzip")])
        if path.startswith("/packed/"):
            body = bytes.fromhex(open(path[8:] + ".hex").read())
            return self.say(200, body, "text/html", [("Content-Encoding", path[8:])])
        if path == "/own":
            return self.say(200, b"{}", extra=[
                ("X-Frame-Options", "SAMEORIGIN"), ("Referrer-Policy", "no-referrer"),
                ("Content-Security-Policy", "default-src 'self'; frame-ancestors 'self'"),
                ("Strict-Transport-Security", "max-age=1"), ("Access-Control-Allow-Origin", "*"),
                ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Secure; HttpOnly")])
        seen = {"method": self.command, "path": self.path, "body": body.decode("latin-1"),
                "headers": {k.lower(): v for k, v in self.headers.items()}}
        self.say(200, json.dumps(seen).encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_HEAD = answer

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

pub(crate) const HOST: &str = "shop.example";

/// A site at `shop.example` with these routes beside `/*`.
pub(crate) fn site(routes: &str) -> Site {
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"{HOST}\", \"www.{HOST}\"]\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n\
         [service.web]\nrun = \"python3 server.py\"\nstop = {{ grace = \"2s\" }}\n\
         health = {{ ready = {{ path = \"/\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"5s\" }} }}\n\
         [service.files]\nstatic = \"public\"\nspa = true\n{routes}"
    );
    Site::new("shop")
        .manifest(&manifest)
        .file("server.py", APP)
        .file("public/index.html", "<p>one page</p>")
}

/// The protocols, each with a client.
pub(crate) fn clients(sandbox: &Sandbox) -> [(&'static str, Client); 3] {
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    [
        ("h1", Client::https(address, HOST, &ca)),
        ("h2", Client::over_http2(address, HOST, &ca)),
        ("h3", Client::over_http3(address, HOST, &ca)),
    ]
}

pub(crate) fn ask(
    client: &Client,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Response {
    client.send(method, target, headers, b"").unwrap()
}

const ROUTES: &str = r#"
[[route]]
paths = ["/*"]
to = "web"
cookies = { secure = true, http_only = true }

[[route]]
paths = ["/files/*"]
to = "files"
rewrite = { strip = "/files" }

[[route]]
paths = ["/read"]
methods = ["GET", "PUT"]
respond = { body = "read" }

[[route]]
paths = ["/only"]
methods = ["PATCH"]
respond = { status = 201 }
to = false

[[route]]
paths = ["/inside/*"]
allow_from = ["10.0.0.0/8"]

[[route]]
paths = ["/outside/*"]
deny_from = ["10.0.0.0/8"]
block = { query = ["batch"] }

[[route]]
paths = ["/closed/*"]
maintenance = { body = "<h1>soon</h1>", retry_after = "10m", allow_from = ["10.0.0.0/8"] }

[[route]]
paths = ["/v1/*"]
rewrite = { strip = "/v1", prefix = "/api" }

[[route]]
paths = ["/api/*"]
cors = { origins = ["https://app.example"], credentials = true, methods = ["PUT"], headers = ["Authorization"], expose = ["X-Total"], max_age = "5m" }
csrf = { allow = ["https://idp.example"] }

[[route]]
paths = ["/staff/*"]
auth = { basic = "secret:STAFF" }

[[route]]
paths = ["/page", "/packed", "/packed/*"]
csp = "script-src 'nonce' 'strict-dynamic'; style-src 'nonce'"
compress = true

[[route]]
paths = ["/quiet"]
log = false

[[route]]
paths = ["/sampled"]
log = { sample = "0.1%" }

[[route]]
paths = ["/framed"]
response_headers = { set = { X-Frame-Options = "SAMEORIGIN" }, remove = ["Permissions-Policy"] }
"#;

#[test]
fn each_policy_key_does_on_the_wire_what_it_says() {
    let sandbox = sandbox();
    let site = site(ROUTES)
        .file(".env", "STAFF=ann:pw\n")
        .file("br.hex", &hex(&packed("br")))
        .file("zstd.hex", &hex(&packed("zstd")))
        .file("public/app.js", &"let x = 1;\n".repeat(400))
        .file("public/dir/index.html", "dir");
    sandbox.up(&site);
    for (name, client) in clients(&sandbox) {
        routing(name, &client);
        doors(name, &client);
        browsers(name, &client);
        pages(name, &client);
    }
    over_plain_http(&sandbox);
    logs(&sandbox);
}

/// What is written of requests, and what is not.
fn logs(sandbox: &Sandbox) {
    let (_, client) = &clients(sandbox)[0];
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let secret = [
        ("traceparent", trace),
        ("authorization", "Bearer hunter2"),
        ("cookie", "session=hunter2"),
    ];
    let seen = ask(client, "GET", "/traced?token=hunter2&x=1", &secret).json();
    assert_eq!(seen["headers"]["traceparent"], trace);
    let fresh = ask(client, "GET", "/quiet", &[]);
    let made = fresh.json()["headers"]["traceparent"].as_str().unwrap().to_owned();
    assert!(made.len() == 55 && made.ends_with("-00"), "{made}");
    (0..20).for_each(|_| drop(ask(client, "GET", "/sampled", &[])));
    ask(client, "GET", "/last", &[]);
    let shown = |format: &str| {
        let words = ["logs", "--access", "--tail", "1000", "--format", format];
        sandbox.run(words).success().raw_stdout().to_owned()
    };
    seaworthy_testkit::eventually("the log is written", crate::LIMIT, || {
        shown("json").contains("/last")
    });
    let json = shown("json");
    assert!(json.contains("\"trace\":\"4bf92f3577b34da6a3ce929d0e0e4736\""), "{json}");
    assert!(!json.contains("hunter2") && !json.contains("/quiet"), "{json}");
    assert!(json.matches("/sampled").count() < 20);
    assert!(shown("combined").contains("\"GET /traced?token=…&x=1 HTTP/1.1\" 200 "));
}

fn routing(name: &str, client: &Client) {
    let get = |target| ask(client, "GET", target, &[]);
    assert_eq!(get("/read").text(), "read", "{name}");
    assert_eq!(ask(client, "PUT", "/read", &[]).text(), "read");
    // Another method of the same path is the wider route's.
    assert_eq!(ask(client, "POST", "/read", &[]).json()["method"], "POST");
    assert_eq!(get("/v1/x?y=1").json()["path"], "/api/x?y=1");
    assert_eq!(get("/v1").json()["path"], "/v1");
    let files = ask(client, "GET", "/files/app.js", &[("accept-encoding", "gzip")]);
    assert_eq!(files.header("content-encoding"), Some("gzip"), "{name}");
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&files.body[..]).read_to_string(&mut plain).unwrap();
    assert_eq!(plain.len(), 4400);
    assert_eq!(get("/files/users/7").text(), "<p>one page</p>");
    assert_eq!(get("/files/gone.js/").status, 404);
    assert_eq!(ask(client, "DELETE", "/files/app.js", &[]).header("allow"), Some("GET, HEAD"));
}

fn doors(name: &str, client: &Client) {
    let status = |method: &str, target: &str, headers: &[(&str, &str)]| {
        ask(client, method, target, headers).status
    };
    assert_eq!(status("GET", "/inside/x", &[("x-forwarded-for", "10.0.0.1")]), 403, "{name}");
    assert_eq!(status("GET", "/outside/x", &[]), 200);
    assert_eq!(status("GET", "/outside/x?b%61tch=1", &[]), 404);
    let closed = ask(client, "GET", "/closed/x", &[]);
    assert_eq!((closed.status, closed.header("retry-after")), (503, Some("600")));
    assert_eq!(
        (closed.text().as_str(), closed.header("content-type")),
        ("<h1>soon</h1>", Some("text/html; charset=utf-8"))
    );
    let staff = ask(client, "GET", "/staff/x", &[]);
    assert_eq!(staff.status, 401);
    assert!(staff.header("www-authenticate").unwrap().starts_with("Basic realm=\"shop"));
    // ann:pw, and ann:no
    assert_eq!(status("GET", "/staff/x", &[("authorization", "Basic YW5uOm5v")]), 401);
    let seen = ask(client, "GET", "/staff/x", &[("authorization", "Basic YW5uOnB3")]).json();
    assert!(seen["headers"].get("authorization").is_none(), "{seen}");
}

fn browsers(name: &str, client: &Client) {
    let preflight = [("origin", "https://app.example"), ("access-control-request-method", "PUT")];
    let yes = ask(client, "OPTIONS", "/api/x", &preflight);
    assert_eq!(
        (yes.status, yes.header("access-control-allow-origin")),
        (204, Some("https://app.example")),
        "{name}"
    );
    assert_eq!(yes.header("access-control-allow-methods"), Some("GET, HEAD, POST, PUT"));
    assert_eq!(yes.header("access-control-max-age"), Some("300"));
    assert!(yes.all("vary").join(", ").contains("Origin"), "{yes:?}");
    let no = ask(
        client,
        "OPTIONS",
        "/api/x",
        &[("origin", "https://evil.example"), ("access-control-request-method", "PUT")],
    );
    assert_eq!((no.status, no.header("access-control-allow-origin")), (403, None));
    let read = ask(client, "GET", "/api/x", &[("origin", "https://app.example")]);
    assert_eq!(
        (
            read.header("access-control-allow-credentials"),
            read.header("access-control-expose-headers")
        ),
        (Some("true"), Some("X-Total"))
    );
    let cookie = ("cookie", "session=1");
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("https://idp.example", 200),
        ("https://app.example", 200),
    ] {
        let answer = ask(client, "POST", "/api/x", &[cookie, ("origin", origin)]);
        assert_eq!(answer.status, status, "{name} {origin}");
    }
    let own = ask(client, "POST", "/x", &[cookie, ("sec-fetch-site", "same-origin")]);
    assert_eq!(own.status, 200);
    assert_eq!(ask(client, "POST", "/x", &[cookie, ("sec-fetch-site", "cross-site")]).status, 403);
    let own = ask(client, "GET", "/own", &[]);
    for (header, value) in [
        ("x-frame-options", "SAMEORIGIN"),
        ("referrer-policy", "no-referrer"),
        ("strict-transport-security", "max-age=1"),
        ("x-content-type-options", "nosniff"),
        ("permissions-policy", "geolocation=(), microphone=(), camera=()"),
    ] {
        assert_eq!(own.all(header), [value], "{name} {header}");
    }
    assert_eq!(own.all("set-cookie"), ["a=1; Path=/; Secure; HttpOnly", "b=2; Secure; HttpOnly"]);
    let framed = ask(client, "GET", "/framed", &[]);
    assert_eq!(
        (framed.header("x-frame-options"), framed.header("permissions-policy")),
        (Some("SAMEORIGIN"), None)
    );
    // Errors and redirects have the profile too.
    for (target, status) in [("/inside/x", 403), ("/files/none.js", 404), ("/files/dir", 308)] {
        let answer = ask(client, "GET", target, &[]);
        assert_eq!(answer.status, status);
        assert_eq!(
            answer.all("strict-transport-security"),
            ["max-age=31536000; includeSubDomains"],
            "{name} {target}"
        );
        assert_eq!(answer.all("x-frame-options"), ["DENY"], "{target}");
    }
}

/// The application's page as it would pack it.
fn packed(coding: &str) -> Vec<u8> {
    let page = format!(
        "<!doctype html><title>t</title><style>a{{}}</style><script src=a.js></script><p>{}",
        "x".repeat(3000)
    );
    if coding == "zstd" {
        return zstd::encode_all(page.as_bytes(), 3).unwrap();
    }
    let mut packed = Vec::new();
    let options = brotli::enc::BrotliEncoderParams::default();
    brotli::BrotliCompress(&mut page.as_bytes(), &mut packed, &options).unwrap();
    packed
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The nonce of a policy, which must stand on script and style of the page.
fn nonce(name: &str, answer: &Response, page: &str) -> String {
    let csp = answer.header("content-security-policy").unwrap();
    let nonce = csp.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert_eq!(
        csp,
        format!(
            "script-src 'nonce-{nonce}' 'strict-dynamic'; style-src 'nonce-{nonce}'; frame-ancestors 'none'"
        )
    );
    assert!(nonce.len() >= 22, "{nonce}");
    for element in
        [format!("<style nonce=\"{nonce}\">"), format!("<script nonce=\"{nonce}\" src=a.js>")]
    {
        assert!(page.contains(&element), "{name}: {element} in {}", &page[..200]);
    }
    nonce
}

fn pages(name: &str, client: &Client) {
    let first = ask(client, "GET", "/page", &[]);
    assert_eq!(first.header("etag"), Some("W/\"p\""));
    let one = nonce(name, &first, &first.text());
    let packed = ask(client, "GET", "/page", &[("accept-encoding", "gzip")]);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.all("vary").contains(&"Accept-Encoding"));
    let unpack = |body: &[u8]| {
        let mut page = String::new();
        flate2::read::GzDecoder::new(body).read_to_string(&mut page).unwrap();
        page
    };
    assert_ne!(nonce(name, &packed, &unpack(&packed.body)), one);
    // Packed by the application already: taken apart and put together again.
    let packed = ask(client, "GET", "/packed", &[("accept-encoding", "gzip")]);
    assert_eq!(packed.all("content-encoding"), ["gzip"]);
    nonce(name, &packed, &unpack(&packed.body));
    for coding in ["br", "zstd"] {
        let target = format!("/packed/{coding}");
        let packed = ask(client, "GET", &target, &[("accept-encoding", coding)]);
        assert_eq!(packed.all("content-encoding"), [coding], "{name}");
        let mut page = Vec::new();
        if coding == "br" {
            brotli::BrotliDecompress(&mut &packed.body[..], &mut page).unwrap();
        } else {
            page = zstd::decode_all(&packed.body[..]).unwrap();
        }
        nonce(name, &packed, &String::from_utf8(page).unwrap());
    }
    let head = ask(client, "HEAD", "/page", &[("accept-encoding", "br")]);
    assert_eq!((head.header("content-encoding"), head.body.len()), (Some("br"), 0));
}

fn over_plain_http(sandbox: &Sandbox) {
    let plain = Client::http(sandbox.status().http(), HOST);
    let answer = plain.get("/x?y");
    assert_eq!(answer.status, 308);
    assert!(answer.header("location").unwrap().starts_with("https://shop.example"));
    assert_eq!(answer.header("strict-transport-security"), None);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn limits_and_lockouts_count_over_all_connections_and_protocols() {
    let sandbox = sandbox();
    let login = |path: &str| {
        format!(
            "[[route]]\npaths = [\"{path}\"]\nlockout = {{ failures = 3, within = \"15m\", for = \"15m\", by = [\"ip\", \"json:email\"], match = [{{ status = [401] }}] }}\n"
        )
    };
    let routes = format!(
        "[limit.shared]\nrate = \"3/h\"\nby = \"user\"\n[identity]\nuser = [\"cookie:session\"]\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n\
         [[route]]\npaths = [\"/burst\"]\nlimit = \"1/h burst 4 by ip\"\n\
         [[route]]\npaths = [\"/a\", \"/b\"]\nlimit = \"shared\"\n{}{}{}",
        login("/login"),
        login("/login/at-once"),
        login("/login/broken"),
    );
    sandbox.up(&site(&routes));
    let [(_, h1), (_, h2), (_, h3)] = clients(&sandbox);
    // Five at once and no more, whatever they come over.
    let mut statuses: Vec<u16> =
        h2.at_once(2, "GET", "/burst", &[], b"").unwrap().iter().map(|one| one.status).collect();
    let over_http3 = h3.at_once(2, "GET", "/burst", &[], b"").unwrap();
    statuses.extend(over_http3.iter().map(|one| one.status));
    statuses.extend((0..4).map(|_| ask(&h1, "GET", "/burst", &[]).status));
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(ask(&h2, "GET", "/burst", &[]).status, 429);
    let refused = ask(&h3, "GET", "/burst", &[]);
    assert_eq!(refused.header("ratelimit-policy"), Some("\"/burst 1/h burst 4 by ip\";q=1;w=3600"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    // One count for two routes, by user.
    let by = |user: &str, target: &str| {
        ask(&h1, "GET", target, &[("cookie", &format!("session={user}"))]).status
    };
    let asked =
        [by("ann", "/a"), by("ann", "/b"), by("ann", "/a"), by("ann", "/b"), by("bob", "/a")];
    assert_eq!(asked, [200, 200, 200, 429, 200]);

    let log_in = |client: &Client, path: &str, email: &str, password: &str| {
        let body = format!("{{\"email\":\"{email}\",\"password\":\"{password}\"}}");
        let answer =
            client.send("POST", path, &[("content-type", "application/json")], body.as_bytes());
        answer.unwrap().status
    };
    // An application that fails counts for nothing.
    let broken: Vec<u16> = (0..6).map(|_| log_in(&h1, "/login/broken", "ann@x", "boom")).collect();
    assert_eq!(broken, [503; 6]);
    assert_eq!(log_in(&h1, "/login", "ann@x", "no"), 401);
    assert_eq!(log_in(&h2, "/login", " ANN@x ", "no"), 401);
    assert_eq!(log_in(&h1, "/login", "ann@x", "good"), 200);
    assert_eq!(log_in(&h3, "/login", "bob@x", "no"), 401);
    // The address has failed three times.
    assert_eq!(log_in(&h1, "/login", "carol@x", "good"), 429);
    // Twenty guesses at once are three.
    let body = b"{\"email\":\"dave@x\"}";
    let mut answers = h2.at_once(10, "POST", "/login/at-once", &[], body).unwrap();
    answers.extend(h3.at_once(10, "POST", "/login/at-once", &[], body).unwrap());
    let passed = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(passed, 3, "{:?}", answers.iter().map(|one| one.status).collect::<Vec<_>>());
    // It holds when the edge is killed.
    sandbox.kill_hard(sandbox.status().edge_pid().unwrap());
    seaworthy_testkit::eventually("an edge serves again", crate::LIMIT, || {
        h1.try_get("/x").is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(log_in(&h1, "/login", "carol@x", "good"), 429);
    let listed = sandbox.run(["limits", "list"]);
    let shown = listed.success().raw_stdout();
    assert!(shown.starts_with("WHO "), "{shown}");
    assert!(shown.contains("127.0.0.1") && shown.contains("/login lockout 3/900s"), "{shown}");
    sandbox.run(["limits", "clear", "127.0.0.1"]).success();
    assert_eq!(log_in(&h1, "/login", "carol@x", "good"), 200);
    let packed = h1.send("POST", "/login/broken", &[("content-encoding", "gzip")], b"x").unwrap();
    assert_eq!(packed.status, 415);
    assert_eq!(h1.send("POST", "/login/broken", &[], &vec![b' '; 70_000]).unwrap().status, 413);
}
