//! `[outgoing.X]`: an application calls somebody else's server through the edge, which keeps it to its rules.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use seaworthy_testkit::peers::{Call, Outside, Say, make_certificate};
use seaworthy_testkit::{Client, FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// Calls what it is told to, by the way that it is told, and says what came back.
const APP: &str = r#"
import http.client, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass

    def do_GET(self):
        self.say({})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        to = urlsplit(os.environ[asked["by"]])
        way = http.client.HTTPConnection(to.hostname, to.port, timeout=60)
        way.request(asked["method"], to.path + asked["path"], asked["body"], asked["headers"])
        answer = way.getresponse()
        self.say({"status": answer.status, "body": answer.read().decode(), "own": os.environ["OWN"],
                  "headers": {name.lower(): value for name, value in answer.getheaders()}})

    def say(self, what):
        text = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

/// A site with one way out.
fn site(peer: &Outside, rules: &str) -> Site {
    let to = peer.address();
    Site::new("shop")
        .app("web", FakeApp::new())
        .more(&format!("[outgoing.peer]\nto = \"http://{to}\"\n{rules}"))
}

/// Where the application was told to call.
fn way(sandbox: &Sandbox, site: &Site) -> SocketAddr {
    let told = sandbox.https(site).get("/env?name=OUTGOING_PEER").json();
    let address = told["value"].as_str().and_then(|told| told.strip_prefix("http://"));
    address.unwrap().parse().unwrap()
}

fn client(address: SocketAddr) -> Client {
    Client::http(address, "127.0.0.1")
}

fn well() -> Say {
    Say(200, String::new(), "well".to_owned())
}

/// Holds who comes until it is opened.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

#[test]
fn an_application_calls_over_tls_that_is_checked_and_nothing_secret_is_kept() {
    let sandbox = sandbox();
    let folder = tempfile_folder(&sandbox);
    make_certificate(&folder);
    let peer = Outside::start(Some(&folder), |call| {
        let to = call.header("host").unwrap();
        let more = format!(
            "Location: https://{to}/next\r\nX-Peer: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
        );
        Say(201, more, format!("{} {}", call.target, String::from_utf8_lossy(&call.body)))
    });
    let port = peer.address().port();
    let app = "[service.web]\nrun = \"python3 server.py\"\nenv = { OWN = \"$OUTGOING_API/own\" }\nstop = { grace = \"2s\" }\n\
        health = { ready = { path = \"/\", every = \"200ms\", timeout = \"2s\", failures = 3, start = \"5s\" } }\n";
    let site = Site::new("shop")
        .file("server.py", APP)
        .file("root.pem", &std::fs::read_to_string(folder.join("root.pem")).unwrap())
        .more(app)
        .more(&format!(
            "[outgoing.api]\nto = \"https://localhost:{port}/v1\"\nca = \"root.pem\"\n\
             [outgoing.strange-one]\nto = \"https://localhost:{port}\"\n\
             [[route]]\npaths = [\"/*\"]\nto = \"web\"\ncsrf = false"
        ));
    sandbox.up(&site);
    let ask = |by: &str, host: &str| {
        let headers = serde_json::json!({ "Authorization": "Bearer t0ps3cret", "X-Key": "k3y", "Host": host });
        let asked = serde_json::json!({ "by": by, "method": "POST", "path": "/p4th?q=qu3ry", "body": "b0dy", "headers": headers });
        let text = asked.to_string();
        sandbox.https(&site).send("POST", "/", &[], text.as_bytes()).unwrap().json()
    };
    let right = format!("localhost:{port}");
    let answer = ask("OUTGOING_API", &right);
    assert_eq!(answer["status"], 201, "{answer}");
    assert_eq!(answer["body"], "/v1/p4th?q=qu3ry b0dy");
    assert_eq!(
        (&answer["headers"]["x-peer"], &answer["headers"]["x-hop"]),
        (&"1".into(), &serde_json::Value::Null)
    );
    // A redirect there leads through here.
    let own = answer["own"].as_str().unwrap();
    let way = own.strip_suffix("/v1/own").unwrap();
    assert_eq!(answer["headers"]["location"], format!("{way}/next"));
    let calls = peer.calls();
    let call: &Call = calls.first().unwrap();
    assert_eq!((call.method.as_str(), call.header("host")), ("POST", Some(right.as_str())));
    assert_eq!(
        (call.header("authorization"), call.header("x-key")),
        (Some("Bearer t0ps3cret"), Some("k3y"))
    );
    assert!(call.headers.iter().all(|(name, _)| !name.starts_with("x-forwarded")), "{call:?}");

    // Whom nobody vouches for gets nothing.
    let answer = ask("OUTGOING_STRANGE_ONE", &right);
    assert_eq!(answer["status"], 502, "{answer}");
    let why = answer["headers"]["seaworthy-outgoing"].as_str().unwrap();
    assert!(
        why.contains("no TLS connection with `localhost`") && why.contains("certificate"),
        "{why}"
    );
    // Nor does a page that says another host here.
    assert_eq!(ask("OUTGOING_API", "evil.example")["status"], 421);
    assert_eq!(peer.calls().len(), 1);

    let told = sandbox.run(["status", "--json"]).raw_stdout().to_owned();
    let explained = sandbox.run(["explain", "instance", "shop/outgoing.strange-one"]);
    explained.success().says(["no TLS connection with `localhost`"]);
    let mut log = String::new();
    eventually("the calls are logged", LIMIT, || {
        sandbox.run(["logs", "shop", "--access"]).raw_stdout().clone_into(&mut log);
        log.matches("outgoing.api").count() >= 2
    });
    for secret in ["t0ps3cret", "k3y", "p4th", "qu3ry", "b0dy"] {
        assert!(!log.contains(secret) && !told.contains(secret), "{secret}: {log}{told}");
    }
    assert!(log.contains("\"status\":201") && log.contains("\"host\":\"localhost:"), "{log}");
}

fn tempfile_folder(sandbox: &Sandbox) -> std::path::PathBuf {
    let folder = sandbox.folder().join("certificate");
    std::fs::create_dir(&folder).unwrap();
    folder
}

#[test]
fn so_many_calls_are_made_at_once_and_new_rules_drop_none() {
    let sandbox = sandbox();
    let gate = Arc::new(Gate::default());
    let of_peer = Arc::clone(&gate);
    let peer = Outside::start(None, move |_| {
        of_peer.pass();
        well()
    });
    let few = site(&peer, "concurrency = 2\nhold = { calls = 4 }");
    sandbox.up(&few);
    let address = way(&sandbox, &few);
    let calls: Vec<_> = (0..6)
        .map(|number| std::thread::spawn(move || client(address).get(&format!("/{number}")).status))
        .collect();
    let state = || sandbox.status().site("shop")["outgoing"][0].clone();
    eventually("four wait", LIMIT, || {
        let state = state();
        state["active"] == 2 && state["waiting"] == 4
    });
    assert_eq!(peer.active(), 2);
    sandbox.run(["status"]).says(["outgoing peer", "2 calls under way, 4 wait"]);
    // There is room for no more.
    let refused = client(address).get("/more");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("seaworthy-outgoing"), Some("too many calls wait for their turn"));
    // Two more may go; nobody is told.
    sandbox.up(&site(&peer, "concurrency = 4\nhold = { calls = 4 }"));
    eventually("four are made", LIMIT, || peer.active() == 4);
    assert_eq!((state()["waiting"].clone(), way(&sandbox, &few)), (2.into(), address));
    gate.open();
    assert_eq!(calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>(), [200; 6]);
    assert_eq!((peer.most(), peer.calls().len()), (4, 6));
    // A new edge, and one that follows one that was killed, listen there too.
    sandbox.run(["restart", "--edge"]).success();
    assert_eq!(client(address).get("/").status, 200);
    sandbox.kill_hard(sandbox.status().edge_pid().unwrap());
    assert_eq!(client(address).get("/").status, 200);
    let control = sandbox.status().control_pid();
    sandbox.kill_hard(control);
    eventually("the next control", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != control)
    });
    sandbox.kill_hard(sandbox.status().edge_pid().unwrap());
    assert_eq!(client(address).get("/").status, 200);
}

#[test]
fn calls_keep_to_a_rate() {
    let sandbox = sandbox();
    let peer = Outside::start(None, |_| well());
    let site = site(&peer, "rate = \"3/2s\"");
    sandbox.up(&site);
    let address = way(&sandbox, &site);
    let begun = Instant::now();
    let calls: Vec<_> =
        (0..7).map(|_| std::thread::spawn(move || client(address).get("/").status)).collect();
    let statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    assert_eq!(statuses, [200; 7]);
    // The seventh begins no sooner than two stretches after the first.
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(peer.calls().len(), 7);
}

#[test]
fn a_rate_is_one_over_an_edge_that_is_replaced_and_one_that_is_killed() {
    let sandbox = sandbox();
    let peer = Outside::start(None, |_| well());
    let site = site(&peer, "rate = \"9/24h\"\nhold = { calls = 10, for = \"1s\" }\nretry = false");
    sandbox.up(&site);
    let to = way(&sandbox, &site);
    let calls = |count: usize| {
        let statuses: Vec<u16> = (0..count).map(|_| client(to).get("/").status).collect();
        assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        statuses.into_iter().filter(|status| *status == 200).count()
    };
    assert_eq!(calls(4), 4);
    let edge = sandbox.status().edge_pid();
    sandbox.run(["restart", "edge"]).success();
    eventually("another edge", LIMIT, || sandbox.status().edge_pid() != edge);
    assert_eq!(calls(3), 3);
    let edge = sandbox.status().edge_pid().unwrap();
    sandbox.kill_hard(edge);
    eventually("another edge", LIMIT, || {
        sandbox.try_status().and_then(|status| status.edge_pid()).is_some_and(|pid| pid != edge)
    });
    assert_eq!(calls(5), 2);
}

#[test]
fn a_server_that_fails_is_left_alone_and_tried_again() {
    let sandbox = sandbox();
    let ill = Arc::new(AtomicBool::new(true));
    let of_peer = Arc::clone(&ill);
    let peer = Outside::start(None, move |_| {
        if of_peer.load(Ordering::SeqCst) {
            Say(500, String::new(), "ill".to_owned())
        } else {
            well()
        }
    });
    let rules = |open: &str| {
        format!(
            "breaker = {{ errors = \"50%\", min_requests = 4, over = \"60s\", open = \"{open}\" }}"
        )
    };
    let site_with = |open: &str| site(&peer, &rules(open));
    sandbox.up(&site_with("10m"));
    let address = way(&sandbox, &site_with("10m"));
    let statuses: Vec<u16> = (0..6).map(|_| client(address).get("/").status).collect();
    assert_eq!(statuses, [500, 500, 500, 500, 503, 503]);
    let refused = client(address).get("/");
    assert!(refused.header("seaworthy-outgoing").unwrap().contains("circuit breaker"));
    assert_eq!(peer.calls().len(), 4);
    sandbox.run(["status"]).says(["circuit breaker open", "4 errors"]);
    sandbox
        .run(["explain", "instance", "shop/outgoing.peer"])
        .says(["its circuit breaker is open", "it answered with 500"]);
    // A new edge leaves it alone too.
    sandbox.kill_hard(sandbox.status().edge_pid().unwrap());
    assert_eq!(client(address).get("/").status, 503);
    assert_eq!(peer.calls().len(), 4);
    // Another rule is another breaker.
    sandbox.up(&site_with("1s"));
    assert_eq!((0..4).map(|_| client(address).get("/").status).collect::<Vec<_>>(), [500; 4]);
    ill.store(false, Ordering::SeqCst);
    eventually("it is tried again", LIMIT, || client(address).get("/").status == 200);
    let statuses: Vec<u16> = (0..6).map(|_| client(address).get("/").status).collect();
    assert_eq!(statuses, [200; 6]);
}

#[test]
fn who_asks_for_time_gets_it_and_a_post_is_made_once() {
    let sandbox = sandbox();
    let count = Arc::new(AtomicUsize::new(0));
    let of_peer = Arc::clone(&count);
    let peer = Outside::start(None, move |call| {
        let number = of_peer.fetch_add(1, Ordering::SeqCst);
        match (call.target.as_str(), number) {
            ("/first", 0) => Say(503, "Retry-After: 2\r\n".to_owned(), String::new()),
            ("/post", _) => Say(429, "Retry-After: 1\r\n".to_owned(), "no".to_owned()),
            ("/never", _) => Say(503, "Retry-After: 3000\r\n".to_owned(), "long".to_owned()),
            ("/soon", 3) => Say(503, String::new(), String::new()),
            _ => well(),
        }
    });
    let site = site(&peer, "retry = { times = 3, for = [429, 503] }");
    sandbox.up(&site);
    let address = way(&sandbox, &site);
    let begun = Instant::now();
    let first = std::thread::spawn(move || client(address).get("/first").status);
    eventually("it asked for time", LIMIT, || {
        sandbox.status().site("shop")["outgoing"][0]["paused_ms"].as_u64().is_some()
    });
    // Everybody waits, not only who was told.
    let other = client(address).send("POST", "/post", &[], b"once").unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(
        (other.status, other.header("retry-after"), other.text().as_str()),
        (429, Some("1"), "no")
    );
    assert_eq!(first.join().unwrap(), 200);
    assert_eq!(client(address).get("/soon").status, 200);
    let targets = |of: &str| peer.calls().iter().filter(|call| call.target == of).count();
    assert_eq!([targets("/first"), targets("/post"), targets("/soon")], [2, 1, 2]);
    // Longer than a call may wait: the answer is the application's to understand, and the next call is refused here.
    let never = client(address).get("/never");
    assert_eq!((never.status, never.text().as_str()), (503, "long"));
    let refused = client(address).get("/soon");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(refused.status == 503 && refused.header("seaworthy-outgoing").is_some(), "{refused:?}");
    assert!((2900..=3000).contains(&wait), "{wait}");
    assert_eq!([targets("/never"), targets("/soon")], [1, 2]);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    sandbox.up(&Site::new("shop")
        .app("web", FakeApp::new())
        .more(&format!("[outgoing.peer]\nto = \"http://{gone}\"\nretry = false")));
    let nobody = client(address).get("/");
    assert!([502, 503].contains(&nobody.status), "{nobody:?}");
}
