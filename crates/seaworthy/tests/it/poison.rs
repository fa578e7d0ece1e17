//! A cache that somebody tries to fill with answers for others, to empty, or to hold up: over HTTP/1.1, HTTP/2 and HTTP/3.

use std::io::{Read, Write};
use std::path::Path;

use seaworthy_testkit::peers::{Place, make_certificate};
use seaworthy_testkit::{Client, Response, Sandbox, Site, eventually};

use crate::policy::{HOST, ask, clients};
use crate::{LIMIT, sandbox};

/// Repeats all that it was told in pages that may be kept, and counts how often it was asked for which path.
const APP: &str = r#"
import json, os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock, counts = threading.Lock(), {}

class App(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def log_message(self, *args): pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = self.path.split("?")[0]
        with lock:
            counts[path] = counts.get(path, 0) + 1
            count = counts[path]
        if path == "/counts":
            return self.say(200, json.dumps(counts), [("Cache-Control", "no-store")])
        age, tag = ("Cache-Control", "max-age=60"), ("ETag", '"e"')
        if path.startswith("/gate/"):
            while not os.path.exists(path[6:]):
                time.sleep(0.01)
        if path.startswith("/large/"):
            return self.say(200, "x" * (3 << 20), [age])
        if path.startswith("/turns/"):
            if self.headers.get("If-None-Match"):
                return self.say(304, "", [("Cache-Control", "private, max-age=60"), tag])
            return self.say(200, f"{count}", [("Cache-Control", "max-age=0"), tag])
        if path.startswith("/cookie/"):
            return self.say(200, f"{count}", [("Cache-Control", "public, max-age=60"), ("Set-Cookie", f"session={count}")])
        if path.startswith("/any/"):
            return self.say(200, f"{count}", [age, ("Vary", "Accept, *")])
        if path.startswith("/address/"):
            return self.say(200, f"{count}", [age, ("Vary", "X-Real-IP")])
        if path.startswith("/gzip/"):
            return self.say(200, f"{count}", [age, ("Content-Encoding", "gzip")])
        seen = {"count": count, "method": self.command, "path": self.path, "body": body,
                "headers": {name.lower(): value for name, value in self.headers.items()}}
        self.say(200, json.dumps(seen), [age])

    def say(self, status, text, headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(text.encode())

    do_GET = do_HEAD = do_POST = answer

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

fn site(folder: &Path, authority: &str) -> Site {
    let folder = folder.display();
    Site::new("shop").file("clients.pem", authority).manifest(&format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n\
         clients = {{ ca = \"clients.pem\", require = false }}\n\
         [service.web]\nrun = \"env -C {folder} python3 {folder}/server.py\"\nstop = {{ grace = \"2s\" }}\n\
         health = {{ ready = {{ path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 200, start = \"5s\" }} }}\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\ncache = true\n\
         [[route]]\npaths = [\"/counts\", \"/health\"]\ncache = false\n"
    ))
}

#[test]
fn nobody_fills_empties_or_holds_up_what_others_get_over_each_protocol() {
    let sandbox = sandbox();
    let folder = sandbox.folder().join("app");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("server.py"), APP).unwrap();
    let ann = Place::new();
    make_certificate(ann.path());
    let authority = std::fs::read_to_string(ann.path().join("root.pem")).unwrap();
    sandbox.up(&site(&folder, &authority));
    for (name, client) in clients(&sandbox) {
        filled(name, &client);
        ones_own(name, &client);
        emptied(name, &client);
    }
    by_certificate(&sandbox, ann.path());
    purged_meanwhile(&sandbox, &folder);
    held_up(&sandbox);
}

fn count(client: &Client, path: &str) -> u64 {
    client.get("/counts").json()[path].as_u64().unwrap_or(0)
}

fn is_hit(answer: &Response) -> bool {
    answer.header("cache-status").unwrap_or_default().starts_with("seaworthy; hit")
}

/// What is no part of the key must not be part of what is kept.
fn filled(name: &str, client: &Client) {
    let evil = "evil.example";
    let told: [(&str, &str); 22] = [
        ("x-forwarded-host", evil),
        ("x-forwarded-server", evil),
        ("x-forwarded-for", evil),
        ("x-forwarded-proto", evil),
        ("x-forwarded-scheme", evil),
        ("x-forwarded-port", evil),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-path", "/evil"),
        ("x-forwarded", "host=evil.example"),
        ("forwarded", "host=evil.example"),
        ("x_forwarded_host", evil),
        ("x-host", evil),
        ("x-original-host", evil),
        ("x-original-url", "/evil"),
        ("x-rewrite-url", "/evil"),
        ("x-real-ip", evil),
        ("x-scheme", evil),
        ("x-url-scheme", evil),
        ("front-end-https", "evil"),
        ("x-http-method-override", "EVIL"),
        ("x-http-method", "EVIL"),
        ("x-method-override", "EVIL"),
    ];
    for (number, (field, value)) in told.into_iter().enumerate() {
        let target = format!("/{name}/filled/{number}");
        ask(client, "GET", &target, &[(field, value)]);
        let victim = ask(client, "GET", &target, &[]);
        assert!(
            !victim.text().to_ascii_lowercase().contains("evil"),
            "{name} {field}: {}",
            victim.text()
        );
    }
    // A body that no GET should have.
    let fat = format!("/{name}/fat");
    client.send("GET", &fat, &[], b"evil=1").unwrap();
    assert_eq!(ask(client, "GET", &fat, &[]).json()["body"], "", "{name}");
    // A part, or no body at all, is not the whole.
    for (number, (method, range)) in
        [("GET", "bytes=0-0"), ("HEAD", "bytes=0-"), ("HEAD", "")].into_iter().enumerate()
    {
        let target = format!("/{name}/part/{number}");
        let headers: &[(&str, &str)] = if range.is_empty() { &[] } else { &[("range", range)] };
        ask(client, method, &target, headers);
        let victim = ask(client, "GET", &target, &[]);
        assert_eq!((victim.status, victim.json()["method"].as_str()), (200, Some("GET")), "{name}");
    }
    // Each spelling of a path and a query is another one.
    let kept = ask(client, "GET", &format!("/{name}/spelt?a=1&b=2"), &[]).json()["count"].clone();
    for other in [
        "spelt",
        "spelt?",
        "spelt;evil?a=1&b=2",
        "Spelt?a=1&b=2",
        "spelt/?a=1&b=2",
        "spelt?b=2&a=1",
        "spelt?A=1&b=2",
        "spelt?a=1&b=2&utm_source=evil",
        "spelt?a=%31&b=2",
    ] {
        let answer = ask(client, "GET", &format!("/{name}/{other}"), &[]);
        assert!(answer.status == 404 || !is_hit(&answer), "{name} {other}: {answer:?}");
    }
    let again = ask(client, "GET", &format!("/{name}/spelt?a=1&b=2"), &[]);
    assert_eq!((is_hit(&again), &again.json()["count"]), (true, &kept), "{name}");
}

/// What is one person's, or depends on what nobody knows, is asked for each time.
fn ones_own(name: &str, client: &Client) {
    for kind in ["cookie", "any", "address"] {
        let target = format!("/{kind}/{name}");
        let counts: Vec<String> = (0..3).map(|_| ask(client, "GET", &target, &[]).text()).collect();
        assert_eq!(counts, ["1", "2", "3"], "{name} {kind}");
    }
    for who in [("authorization", "Bearer x"), ("cookie", "session=ann")] {
        let target = format!("/{name}/own/{}", who.0);
        assert!(ask(client, "GET", &target, &[who]).text().contains(who.1));
        assert!(!ask(client, "GET", &target, &[]).text().contains(who.1), "{name} {who:?}");
    }
    // A kept answer that the application then says is somebody's own.
    let target = format!("/turns/{name}");
    let turns: Vec<String> = (0..3).map(|_| ask(client, "GET", &target, &[]).text()).collect();
    // Asked for; said to be unchanged, but private from now on; asked for again.
    assert_eq!(turns, ["1", "1", "3"], "{name}");
    // Packed, and the application forgot `Vary`.
    let target = format!("/gzip/{name}");
    assert_eq!(ask(client, "GET", &target, &[("accept-encoding", "gzip")]).text(), "1");
    assert_eq!(ask(client, "GET", &target, &[]).text(), "2", "{name}");
    assert!(is_hit(&ask(client, "GET", &target, &[("accept-encoding", "gzip")])), "{name}");
}

/// Who shows a certificate says who asks, as by a cookie.
fn by_certificate(sandbox: &Sandbox, ann: &Path) {
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let (chain, key) = (ann.join("api.pem"), ann.join("api.key"));
    let ann = Client::over_http3_showing(address, HOST, &ca, (&chain, &key));
    assert!(ask(&ann, "GET", "/certified", &[]).text().contains("client-cert"));
    for (name, client) in clients(sandbox) {
        let told = ask(&client, "GET", "/certified", &[]).text();
        assert!(!told.contains("client-cert"), "{name}: {told}");
    }
}

/// Requests whose answers are not kept take nothing away from the others.
fn emptied(name: &str, client: &Client) {
    let target = format!("/{name}/stays");
    ask(client, "GET", &target, &[]);
    for header in [
        ("cookie", "session=ann"),
        ("authorization", "Bearer x"),
        ("cache-control", "no-store"),
        ("cache-control", "no-cache"),
        ("pragma", "no-cache"),
        ("range", "bytes=0-0"),
        ("x-http-method-override", "DELETE"),
    ] {
        ask(client, "GET", &target, &[header]);
        assert!(is_hit(&ask(client, "GET", &target, &[])), "{name} {header:?}");
    }
}

/// An answer that was under way when its path was purged is not kept.
fn purged_meanwhile(sandbox: &Sandbox, folder: &Path) {
    for (name, client) in clients(sandbox) {
        let target = format!("/gate/{name}");
        let site = sandbox.own_name("shop");
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| ask(&client, "GET", &target, &[]));
            eventually("the application was asked", LIMIT, || count(&client, &target) == 1);
            sandbox.run(["cache", "purge", &site, "/gate/*"]).success();
            std::fs::write(folder.join(name), "").unwrap();
            first.join().unwrap()
        });
        assert_eq!(first.status, 200, "{name}");
        assert!(!is_hit(&ask(&client, "GET", &target, &[])), "{name}");
        assert!(is_hit(&ask(&client, "GET", &target, &[])), "{name}");
        assert_eq!(count(&client, &target), 2, "{name}");
    }
}

/// Who asks first and then reads nothing, or goes away, holds up nobody.
fn held_up(sandbox: &Sandbox) {
    let head = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {HOST}:{}\r\n\r\n", sandbox.status().https().port())
    };
    let clients = clients(sandbox);
    let (_, h1) = &clients[0];
    for (number, (name, client)) in clients.iter().enumerate() {
        for goes in [false, true] {
            let target = format!("/large/{number}/{goes}");
            let mut first = h1.connect().unwrap();
            first.write_all(head(&target).as_bytes()).unwrap();
            eventually("the application was asked", LIMIT, || count(h1, &target) == 1);
            let mut begin = [0; 12];
            first.read_exact(&mut begin).unwrap();
            let held = (!goes).then_some(first);
            let second = ask(client, "GET", &target, &[]);
            assert!(
                is_hit(&second) && second.body.len() == 3 << 20,
                "{name} {goes}: {:?}",
                second.headers
            );
            assert_eq!(count(h1, &target), 1, "{name} {goes}");
            drop(held);
        }
    }
}
