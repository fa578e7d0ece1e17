//! The guide's pages, run: each manifest is brought up, each request sent, each answer compared, over
//! HTTP/1.1, HTTP/2 and HTTP/3.
//!
//! A page's `toml` block is a manifest but for what all have (site, domains, the services `web` and `api`);
//! the `http` block after it lists requests: `[N ×] METHOD TARGET` (or a whole address), headers, a body that
//! begins with `{`, then `→ STATUS`, `→ Header: beginning of its value`, `→ no Header`, `→ body: text in it`.

use std::sync::OnceLock;

use seaworthy_testkit::peers::{Place, Redis, make_certificate};
use seaworthy_testkit::{Client, Response, Sandbox, Site};

use crate::sandbox;

/// Echoes; logs in who says `good`; has a page and a cookie.
const APP: &str = r#"
import json, os, socket
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import urlsplit

def call(address):
    way = HTTPConnection(urlsplit(address).netloc)
    way.request("GET", urlsplit(address).path + "/")
    answer = way.getresponse()
    return answer.status, answer.read().decode()

class App(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def log_message(self, *args): pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path, kind, status = self.path.split("?")[0], "application/json", 200
        seen = {"path": self.path, **{name.lower(): value for name, value in self.headers.items()}}
        text = json.dumps(seen)
        if path == "/login" and "good" not in body:
            status, text = 401, "{}"
        if path == "/fail":
            status = 500
        if path.startswith("/env/"):
            text = json.dumps(os.environ[path[5:]])
        if path.startswith("/call/"):
            status, text = call(os.environ[path[6:]])
        if path == "/page":
            kind, text = "text/html", "<!doctype html><script>a()</script>" + "<p>x</p>" * 100
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        if path == "/cookie":
            self.send_header("Set-Cookie", "session=1")
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = answer

class OnSocket(ThreadingHTTPServer):
    address_family, server_bind = socket.AF_UNIX, TCPServer.server_bind

if "SOCKET" in os.environ:
    OnSocket(os.environ["SOCKET"], App).serve_forever()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

const HOST: &str = "shop.example";

fn site(block: &str, counts: &str) -> Site {
    let service = |name: &str| {
        format!(
            "[service.{name}]\nrun = \"python3 server.py\"\nstop = {{ grace = \"2s\" }}\n\
             health = {{ ready = {{ path = \"/\", every = \"200ms\", timeout = \"2s\", failures = 3, start = \"5s\" }} }}\n"
        )
    };
    // A block with a `[listen]` of its own gets the test's ports in it.
    let http3 = if block.contains("http3 =") { "" } else { "http3 = true\n" };
    let listen = &format!("[listen]\nhttp = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:0\"\n{http3}");
    let (head, block) = if block.contains("[listen]\n") {
        ("", block.replace("[listen]\n", listen))
    } else {
        (listen.as_str(), block.to_owned())
    };
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"{HOST}\", \"*.{HOST}\"]\n{head}[tls]\nmode = \"internal\"\n{}{}{block}",
        service("web"),
        service("api"),
    );
    Site::new("shop")
        .manifest(&manifest)
        .file("server.py", APP)
        .file(
            ".env",
            &format!("STAFF=ann:pw\nHEALTH_API_KEY=a-key-for-the-monitor\nCOUNTS={counts}\n"),
        )
        .file("inner.pem", inner_authority())
        .file("public/index.html", "<p>page</p>")
        .file("public/assets/app.js", "let x = 1;")
        .file("public/assets/app.js.br", "packed")
}

/// Some authority, always the same: a file that changes makes a new release.
fn inner_authority() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Place::new();
        make_certificate(folder.path());
        std::fs::read_to_string(folder.path().join("root.pem")).unwrap()
    })
}

/// The manifests of a page, each with its requests.
fn examples(page: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    for part in page.split("\n```").skip(1).step_by(2) {
        let (kind, text) = part.split_once('\n').unwrap();
        if kind == "toml" {
            examples.push((format!("{text}\n"), String::new()));
        } else {
            assert_eq!(kind, "http", "an example of another kind");
            text.clone_into(&mut examples.last_mut().unwrap().1);
        }
    }
    examples
}

/// Sends one request as often as it says, and compares each answer.
fn exchange(client_of: impl Fn(&str) -> Client, example: &str) {
    let mut lines = example.lines();
    let first = lines.next().unwrap();
    let (times, first) = match first.split_once(" × ") {
        Some((times, rest)) => (times.parse().unwrap(), rest),
        None => (1, first),
    };
    let (method, target) = first.split_once(' ').unwrap();
    let (host, target) = target
        .strip_prefix("https://")
        .map_or((HOST, target), |address| address.split_at(address.find('/').unwrap()));
    let client = client_of(host);
    let (mut headers, mut body, mut expected) = (Vec::new(), "", Vec::new());
    for line in lines {
        if let Some(answer) = line.strip_prefix("→ ") {
            expected.push(answer);
        } else if line.starts_with('{') {
            body = line;
        } else {
            headers.push(line.split_once(": ").unwrap());
        }
    }
    assert!(!expected.is_empty(), "nothing is expected of: {example}");
    for _ in 0..times {
        let answer = client.send(method, target, &headers, body.as_bytes()).unwrap();
        expected.iter().for_each(|line| compare(line, &answer, example));
    }
}

fn compare(expected: &str, answer: &Response, example: &str) {
    let told =
        || format!("{example}\n\n{} {:#?}\n{}", answer.status, answer.headers, answer.text());
    if let Ok(status) = expected.parse::<u16>() {
        assert_eq!(answer.status, status, "{}", told());
    } else if let Some(name) = expected.strip_prefix("no ") {
        assert_eq!(answer.header(&name.to_ascii_lowercase()), None, "{}", told());
    } else if let Some(text) = expected.strip_prefix("body: ") {
        assert!(answer.text().contains(text), "{}", told());
    } else {
        let (name, value) = expected.split_once(": ").unwrap();
        let all = answer.all(&name.to_ascii_lowercase());
        assert!(all.iter().any(|one| one.starts_with(value)), "{expected}: {}", told());
    }
}

fn run(page: &str) {
    let sandbox: Sandbox = sandbox();
    let examples = examples(page);
    assert!(examples.len() > 2);
    let redis = page.contains("[redis.").then(Redis::on_tcp);
    let counts = redis.as_ref().map(Redis::tcp_url).unwrap_or_default();
    for (manifest, requests) in examples {
        sandbox.up(&site(&manifest, &counts));
        for protocol in 1..=3 {
            // Nothing is counted, locked out or kept from before.
            sandbox.run(["restart", "--edge"]).success();
            sandbox.run(["limits", "clear", "--all"]).success();
            let (address, ca) = (sandbox.status().https(), sandbox.ca());
            let client_of = |host: &str| match protocol {
                1 => Client::https(address, host, &ca),
                2 => Client::over_http2(address, host, &ca),
                _ => Client::over_http3(address, host, &ca),
            };
            requests.trim().split("\n\n").for_each(|example| exchange(client_of, example));
        }
    }
}

#[test]
fn routing() {
    run(include_str!("../../../../docs/guide/routing.md"));
}

#[test]
fn health() {
    run(include_str!("../../../../docs/guide/health.md"));
}

#[test]
fn http3() {
    run(include_str!("../../../../docs/guide/http3.md"));
}

#[test]
fn balancing() {
    run(include_str!("../../../../docs/guide/balancing.md"));
}

#[test]
fn limits() {
    run(include_str!("../../../../docs/guide/limits.md"));
}

#[test]
fn outgoing() {
    run(include_str!("../../../../docs/guide/outgoing.md"));
}

#[test]
fn sockets() {
    run(include_str!("../../../../docs/guide/sockets.md"));
}

#[test]
fn browser() {
    run(include_str!("../../../../docs/guide/browser.md"));
}

#[test]
fn caching() {
    run(include_str!("../../../../docs/guide/caching.md"));
}
