//! An edge that goes while thousands of clients hold connections to it, and instances hold theirs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use seaworthy_testkit::load::Crowd;
use seaworthy_testkit::{Client, Site, eventually, eventually_some, process};

use crate::{LIMIT, sandbox};

/// As Node comes: it closes connections that were idle for five seconds, without a word.
const NODE: &str = "\
require('http')
  .createServer((request, response) => response.end(request.url))
  .listen(process.env.PORT, '127.0.0.1');
";

const CONNECTIONS: usize = 2_000;

#[test]
fn two_thousand_busy_connections_in_front_of_node_lose_no_request() {
    let sandbox = sandbox();
    let site = Site::new("shop").file("server.js", NODE).more(
        "[service.web]\nrun = \"node server.js\"\ninstances = 2\n\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n",
    );
    sandbox.up(&site);
    let before = sandbox.status();
    // Around the five seconds after which Node closes, so that many a request meets just that moment.
    let crowd = Crowd::start(sandbox.target(&site), CONNECTIONS, Duration::from_secs(5));
    eventually("all are connected and have asked twice", LIMIT * 2, || {
        let now = crowd.so_far();
        now.open == CONNECTIONS && now.answered >= 2 * CONNECTIONS as u64
    });
    sandbox.run(["restart", "--edge"]).success();
    eventually_some("a new edge", LIMIT, || {
        sandbox.try_status().filter(|status| status.edge_pid() != before.edge_pid())
    });
    eventually("everybody was told, and came back", LIMIT * 2, || {
        let now = crowd.so_far();
        now.told_to_close >= CONNECTIONS as u64 && now.open == CONNECTIONS
    });
    let report = crowd.stop();
    assert_eq!((report.lost, &report.reasons[..]), (0, &[][..]));
    assert_eq!(sandbox.status().ready_pids("shop/web"), before.ready_pids("shop/web"));
}

/// Ends at once when it is asked to, and answers `/slow` when somebody lets it: nothing but the edge's word keeps it.
const ABRUPT: &str = r#"
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        if self.path == "/slow":
            open(os.environ["BEGUN"], "w").close()
            while not os.path.exists(os.environ["GO"]):
                time.sleep(0.01)
        text = os.environ["RELEASE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

#[test]
fn an_instance_that_was_replaced_is_left_alone_until_it_has_answered() {
    answers_before_it_goes(false);
}

#[test]
fn an_instance_that_was_replaced_is_left_alone_until_it_has_answered_over_an_older_edge() {
    answers_before_it_goes(true);
}

fn answers_before_it_goes(over_an_older_edge: bool) {
    let sandbox = sandbox();
    // A folder that the site's user may write.
    let marks = sandbox.folder().join("marks");
    std::fs::create_dir(&marks).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&marks, open).unwrap();
    let (begun, go) = (marks.join("begun"), marks.join("go"));
    let site = |release: &str| {
        Site::new("shop").file("server.py", ABRUPT).more(&format!(
            "[service.web]\nrun = \"python3 server.py\"\nenv = {{ RELEASE = \"{release}\", BEGUN = \"{}\", GO = \"{}\" }}\n\n\
             [[route]]\npaths = [\"/*\"]\nto = \"web\"\n",
            begun.display(),
            go.display()
        ))
    };
    sandbox.up(&site("old"));
    let address = sandbox.status().https();
    let client = || Client::https(address, &site("").host(), &sandbox.ca());
    let asking = client();
    let slow = std::thread::spawn(move || asking.get("/slow"));
    eventually("the request is under way", LIMIT, || begun.exists());
    if over_an_older_edge {
        let before = sandbox.status().edge_pid();
        sandbox.run(["restart", "--edge"]).success();
        eventually("a new edge", LIMIT, || {
            sandbox.try_status().is_some_and(|status| status.edge_pid() != before)
        });
    }
    sandbox.up(&site("new"));
    assert_eq!(client().get("/").text(), "new");
    // Control has looked again and again by then.
    for _ in 0..30 {
        sandbox.status().control_pid();
        assert!(!slow.is_finished());
    }
    std::fs::write(&go, "").unwrap();
    assert_eq!(slow.join().unwrap().text(), "old");
    eventually("the old one has gone", LIMIT, || {
        sandbox.status().ready_pids("shop/web").len() == 1
    });
}

/// What release answers a kept connection.
fn release(kept: &mut TcpStream) -> String {
    kept.write_all(b"GET /env?name=RELEASE HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    kept.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut piece = [0; 4096];
        let read = kept.read(&mut piece).unwrap();
        answer.extend_from_slice(&piece[..read]);
        if read == 0 {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn an_edge_that_finishes_learns_of_the_next_release() {
    let sandbox = sandbox();
    let site = |release: &str| {
        Site::new("shop").manifest(&format!(
            "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n[tls]\nmode = \"off\"\n\
             [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\nenv = {{ RELEASE = \"{release}\" }}\n\
             [[route]]\npaths = [\"/*\"]\nto = \"web\"\n"
        ))
    };
    sandbox.up(&site("old"));
    let before = sandbox.status();
    let mut kept = TcpStream::connect(before.http()).unwrap();
    assert!(release(&mut kept).contains("\"old\""));
    sandbox.run(["restart", "--edge"]).success();
    eventually("a new edge", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.edge_pid() != before.edge_pid())
    });
    sandbox.up(&site("new"));
    let old = before.ready_pids("shop/web");
    eventually("the old release has gone", LIMIT, || old.iter().all(|pid| !process::lives(*pid)));
    let answer = release(&mut kept);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"new\""), "{answer}");
}
