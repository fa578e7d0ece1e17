//! What is counted is counted once: over connections, the old and the new edge, `kill -9` and an upgrade.

use std::io::{Read, Write};
use std::net::TcpStream;

use seaworthy_testkit::{Client, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// Twenty requests of an address, and then one each 72 minutes. Plain HTTP, so that a connection can be kept by hand.
fn site() -> Site {
    let app = "[service.web]\nrun = \"{fakeapp}\"\nhealth = { ready = { path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"5s\" } }\n";
    let routes = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\ncsrf = false\n\
        [[route]]\npaths = [\"/say\"]\nlimit = \"20/24h\"\n\
        [[route]]\npaths = [\"/status\"]\nlockout = { failures = 4, by = [\"header:x-name\"], match = [{ status = [401] }] }\n\
        [[route]]\npaths = [\"/broken/*\"]\nrewrite = { strip = \"/broken\" }\nbreaker = { errors = \"50%\", min_requests = 4, over = \"60s\", open = \"10m\" }\n";
    Site::new("shop").manifest(&format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n[tls]\nmode = \"off\"\n{app}{routes}"
    ))
}

/// How many of so many requests pass.
fn passed(client: &Client, count: usize) -> usize {
    let statuses: Vec<u16> = (0..count).map(|_| client.get("/say?text=x").status).collect();
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.into_iter().filter(|status| *status == 200).count()
}

fn client(sandbox: &Sandbox) -> Client {
    Client::http(sandbox.status().http(), "shop.localhost")
}

fn kill_edge(sandbox: &Sandbox) {
    let before = sandbox.status().edge_pid().unwrap();
    sandbox.kill_hard(before);
    eventually("another edge serves", LIMIT, || {
        sandbox.try_status().and_then(|status| status.edge_pid()).is_some_and(|pid| pid != before)
    });
}

/// One request on a connection that is there; the status, and whether it stays.
fn on(stream: &mut TcpStream) -> (u16, bool) {
    stream.write_all(b"GET /say?text=x HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).unwrap();
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.unwrap().parse().unwrap() {
                return (head[9..12].parse().unwrap(), !head.contains("connection: close"));
            }
        }
        assert!(read > 0, "{text}");
    }
}

#[test]
fn a_rate_is_one_rate_for_two_edges_and_after_kill_9_of_edge_and_control_and_an_upgrade() {
    let sandbox = sandbox();
    sandbox.up(&site());
    let mut kept = TcpStream::connect(sandbox.status().http()).unwrap();
    assert_eq!(on(&mut kept), (200, true));
    assert_eq!(passed(&client(&sandbox), 5), 5);
    // A new edge; the old one still has a connection.
    sandbox.run(["restart", "--edge"]).success();
    assert_eq!(passed(&client(&sandbox), 2), 2);
    assert_eq!(on(&mut kept), (200, false));
    // Nine are gone.
    kill_edge(&sandbox);
    assert_eq!(passed(&client(&sandbox), 3), 3);
    // The next control gets the table back from the edge that it finds.
    let control = sandbox.status().control_pid();
    sandbox.kill_hard(control);
    eventually("another control", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != control)
    });
    kill_edge(&sandbox);
    assert_eq!(passed(&client(&sandbox), 3), 3);
    let next = sandbox.folder().join("bin/seaworthy-next");
    std::fs::copy(sandbox.folder().join("bin/seaworthy"), &next).unwrap();
    sandbox.run(["upgrade".as_ref(), next.as_os_str()]).success();
    // Fifteen are gone: five are left, and not one more.
    assert_eq!(passed(&client(&sandbox), 12), 5);
    sandbox.run(["limits", "clear", "127.0.0.1"]).success();
    assert_eq!(passed(&client(&sandbox), 22), 20);
    sandbox.run(["limits", "clear", "--all"]).success();
    assert_eq!(passed(&client(&sandbox), 22), 20);
}

#[test]
fn failures_that_led_to_no_lockout_yet_and_an_open_breaker_outlive_the_edge() {
    let sandbox = sandbox();
    sandbox.up(&site());
    let log_in = |name: &str, status: u16| {
        let target = format!("/status?code={status}");
        let answer = client(&sandbox).send("POST", &target, &[("x-name", name)], b"").unwrap();
        answer.status
    };
    assert_eq!([log_in("ann", 401), log_in("ann", 401)], [401; 2]);
    kill_edge(&sandbox);
    assert_eq!([log_in("ann", 401), log_in("bob", 401)], [401; 2]);
    sandbox.run(["restart", "--edge"]).success();
    assert_eq!([log_in("ann", 401), log_in("ann", 200), log_in("bob", 200)], [401, 429, 200]);

    let broken = || client(&sandbox).get("/broken/status?code=500").status;
    let opened = (0..50).find(|_| broken() == 503).expect("the breaker opens");
    assert!(opened >= 1, "{opened}");
    kill_edge(&sandbox);
    assert_eq!([broken(), broken()], [503; 2]);
}

#[test]
fn what_the_edge_refuses_itself_is_no_failed_attempt() {
    let sandbox = sandbox();
    let app = "[service.web]\nrun = \"{fakeapp}\"\nhealth = { ready = { path = \"/health\", every = \"200ms\", timeout = \"2s\", failures = 2, start = \"5s\" } }\n";
    let routes = "[[route]]\npaths = [\"/*\"]\nto = \"web\"\n\
        [[route]]\npaths = [\"/status\"]\nlockout = { failures = 3, by = [\"ip\"], match = [{ status = [401, 403, 429] }] }\nlimit = \"8/24h by header:x-name\"\n";
    let site = Site::new("shop").manifest(&format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n[tls]\nmode = \"off\"\n{app}{routes}"
    ));
    sandbox.up(&site);
    let ask = |headers: &[(&str, &str)]| {
        let answer = client(&sandbox).send("POST", "/status?code=200", headers, b"");
        answer.unwrap().status
    };
    // A page elsewhere sends its visitor's browser here; it must not lock him out.
    let forged = [("cookie", "a=1"), ("origin", "https://evil.example"), ("x-name", "forged")];
    assert_eq!([0; 6].map(|_| ask(&forged)), [403; 6]);
    assert_eq!([0; 8].map(|_| ask(&[("x-name", "fast")])), [200; 8]);
    // Who is too fast has not failed.
    assert_eq!([0; 6].map(|_| ask(&[("x-name", "fast")])), [429; 6]);
    assert_eq!(ask(&[("x-name", "other")]), 200);
}
