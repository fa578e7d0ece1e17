//! Kept answers, end to end: one request for many, stale ones that help out, nobody else's.

use seaworthy_testkit::{Client, Response, Sandbox, Site};

use crate::{LIMIT, sandbox};

/// Counts what it was asked, by path; fails or waits as it is told by a file.
const APP: &str = r#"
import json, os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock, counts = threading.Lock(), {}

class App(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def log_message(self, *args): pass

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        with lock:
            counts[path] = counts.get(path, 0) + 1
            count = counts[path]
        if path == "/counts":
            return self.say(200, json.dumps(counts), "no-store")
        status = 503 if os.path.exists("broken") else 200
        if path == "/slow":
            # Answers when somebody opens the gate, so that many ask meanwhile.
            while not os.path.exists("open"):
                time.sleep(0.01)
        if self.headers.get("If-None-Match") == '"e"' and path == "/tagged":
            return self.say(304, "", "max-age=60", [("ETag", '"e"')])
        extra = {"/tagged": [("ETag", '"e"')], "/cookie": [("Set-Cookie", "session=1")],
                 "/vary": [("Vary", "Accept-Language")]}.get(path, [])
        age = {"/tagged": "max-age=0", "/private": "private, max-age=60", "/helps": "max-age=0, stale-if-error=60",
               "/meanwhile": "max-age=0, stale-while-revalidate=60"}.get(path, "max-age=60")
        self.say(status, f"{path} {count} {self.headers.get('Accept-Language')}", age, extra)

    def say(self, status, text, cache, extra=()):
        body = text.encode()
        self.send_response(status)
        for name, value in [("Cache-Control", cache), ("Content-Type", "text/plain"), *extra]:
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = answer

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

fn site(folder: &str) -> Site {
    let manifest = format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n{{listen}}\
         [service.web]\nrun = \"env -C {folder} python3 {folder}/server.py\"\nstop = {{ grace = \"2s\" }}\n\
         health = {{ ready = {{ path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 200, start = \"5s\" }} }}\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\ncache = true\n\
         [[route]]\npaths = [\"/counts\", \"/health\"]\ncache = false\n"
    );
    Site::new("shop").manifest(&manifest)
}

fn get(client: &Client, target: &str, headers: &[(&str, &str)]) -> Response {
    client.send("GET", target, headers, b"").unwrap()
}

fn status_of(answer: &Response) -> &str {
    answer.header("cache-status").unwrap_or_default().split("; ttl").next().unwrap()
}

fn count(client: &Client, path: &str) -> u64 {
    client.get("/counts").json()[path].as_u64().unwrap_or(0)
}

#[test]
fn kept_answers_serve_many_help_out_and_stay_private() {
    let sandbox = sandbox();
    let folder = sandbox.folder().join("app");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("server.py"), APP).unwrap();
    let site = site(&folder.display().to_string());
    sandbox.up(&site);
    let h1 = sandbox.https(&site);
    let h2 = Client::over_http2(sandbox.status().https(), "shop.localhost", &sandbox.ca());
    for client in [&h1, &h2] {
        let first = get(client, "/x", &[]);
        assert!(first.text().starts_with("/x 1 "), "{}", first.text());
    }
    let hit = get(&h1, "/x", &[]);
    assert_eq!((status_of(&hit), hit.header("age").is_some()), ("seaworthy; hit", true));
    assert_eq!(hit.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(get(&h2, "/x", &[("range", "bytes=0-1")]).text(), "/x");
    assert_eq!(h2.send("HEAD", "/x", &[], b"").unwrap().header("content-length"), Some("9"));
    // What holds of the answer does not hold of the refusal of a part.
    let refused = get(&h2, "/x", &[("range", "bytes=99-")]);
    assert_eq!((refused.status, refused.header("content-range")), (416, Some("bytes */9")));
    assert_eq!((refused.header("cache-control"), refused.header("content-type")), (None, None));
    assert_eq!(get(&h1, "/x", &[("range", "bytes=0-0"), ("range", "bytes=1-1")]).status, 200);
    // What the application is told of its name and port is part of what is kept.
    let elsewhere = get(&h1, "/x", &[("host", "shop.localhost:1")]);
    assert_eq!(elsewhere.text(), "/x 2 None");
    // By language, and not for another query.
    assert_eq!(get(&h1, "/vary", &[("accept-language", "de")]).text(), "/vary 1 de");
    assert_eq!(get(&h1, "/vary", &[("accept-language", "en")]).text(), "/vary 2 en");
    assert_eq!(get(&h2, "/vary", &[("accept-language", "de")]).text(), "/vary 1 de");
    assert_eq!(get(&h1, "/x?y", &[]).text(), "/x 3 None");
    privacy(&h1);
    collapsing(&h2, &folder);
    staleness(&h1, &folder);
    changes(&sandbox, &h1);
}

/// What is one person's own is asked for each time.
fn privacy(client: &Client) {
    for path in ["/private", "/cookie"] {
        assert_eq!(
            (get(client, path, &[]).text(), get(client, path, &[]).text()),
            (format!("{path} 1 None"), format!("{path} 2 None"))
        );
    }
    let ann = [("cookie", "session=ann")];
    assert_eq!(get(client, "/mine", &ann).text(), "/mine 1 None");
    assert_eq!(get(client, "/mine", &[]).text(), "/mine 2 None");
    assert_eq!(get(client, "/token", &[("authorization", "Bearer x")]).text(), "/token 1 None");
    assert_eq!(get(client, "/token", &[]).text(), "/token 2 None");
}

/// Thirty at once cost the application one request.
fn collapsing(client: &Client, folder: &std::path::Path) {
    let answers = std::thread::scope(|scope| {
        let all = scope.spawn(|| client.at_once(30, "GET", "/slow", &[], b"").unwrap());
        seaworthy_testkit::eventually("the application was asked", LIMIT, || {
            count(client, "/slow") == 1
        });
        std::fs::write(folder.join("open"), "").unwrap();
        all.join().unwrap()
    });
    assert!(answers.iter().all(|answer| answer.text() == "/slow 1 None"), "{answers:?}");
    assert_eq!(count(client, "/slow"), 1);
}

fn staleness(client: &Client, folder: &std::path::Path) {
    assert_eq!(get(client, "/tagged", &[]).text(), "/tagged 1 None");
    let again = get(client, "/tagged", &[]);
    assert_eq!(
        (again.text().as_str(), status_of(&again)),
        ("/tagged 1 None", "seaworthy; hit; detail=revalidated")
    );
    assert_eq!(status_of(&get(client, "/tagged", &[])), "seaworthy; hit");
    assert_eq!(get(client, "/meanwhile", &[]).text(), "/meanwhile 1 None");
    assert_eq!(get(client, "/meanwhile", &[]).text(), "/meanwhile 1 None");
    seaworthy_testkit::eventually("a newer answer came aside", LIMIT, || {
        get(client, "/meanwhile", &[]).text() != "/meanwhile 1 None"
    });
    assert_eq!(get(client, "/helps", &[]).text(), "/helps 1 None");
    std::fs::write(folder.join("broken"), "").unwrap();
    let helped = get(client, "/helps", &[]);
    assert_eq!((helped.status, helped.text().as_str()), (200, "/helps 1 None"));
    assert_eq!(status_of(&helped), "seaworthy; hit; detail=stale-if-error");
    assert_eq!(get(client, "/new", &[]).status, 503);
    std::fs::remove_file(folder.join("broken")).unwrap();
}

/// A successful change forgets what is kept of it, and so does `cache purge`.
fn changes(sandbox: &Sandbox, client: &Client) {
    assert_eq!(get(client, "/item", &[]).text(), "/item 1 None");
    assert_eq!(client.send("POST", "/item", &[], b"new").unwrap().text(), "/item 2 None");
    assert_eq!(get(client, "/item", &[]).text(), "/item 3 None");
    let name = sandbox.own_name("shop");
    sandbox.run(["cache", "purge", &name, "/it*"]).success().says(["1 answer forgotten"]);
    assert_eq!(get(client, "/item", &[]).text(), "/item 4 None");
    sandbox.run(["cache", "purge", "nobody"]).code(1).says(["there is no site `nobody`"]);
}
