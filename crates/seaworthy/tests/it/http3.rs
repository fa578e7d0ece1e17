//! HTTP/3 as far as it is not the same as the others: when it is there, who is told, what becomes of it when the
//! edge or control is replaced. That routes and policies are the same: `policy`, `manifests`, `guide`.

use std::net::UdpSocket;

use seaworthy_testkit::{Ask, Client, FakeApp, Sandbox, Site, eventually, http3};

use crate::{LIMIT, sandbox};

const HOST: &str = "shop.example";

fn site(listen: &str) -> Site {
    Site::new("shop").file("public/index.html", "<p>one page</p>").file(
        "public/large.bin",
        &"0123456789abcdef".repeat(64 << 10),
    ).manifest(&format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\n{{listen}}{listen}[tls]\nmode = \"internal\"\n\
         [service.files]\nstatic = \"public\"\n[[route]]\npaths = [\"/*\"]\nto = \"files\"\n"
    ))
}

fn over_http3(sandbox: &Sandbox) -> Client {
    Client::over_http3(sandbox.status().https(), HOST, &sandbox.ca())
}

fn over_tcp(sandbox: &Sandbox) -> [Client; 2] {
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    [Client::https(address, HOST, &ca), Client::over_http2(address, HOST, &ca)]
}

/// The shop, served by a program; `more` of its route.
fn program(more: &str) -> Site {
    Site::new("shop").manifest(&format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\n{{listen}}http3 = true\n[tls]\nmode = \"internal\"\n\
         [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n{more}"
    ))
}

#[test]
fn it_is_spoken_and_announced_where_it_is_on_and_nowhere_else() {
    let sandbox = sandbox();
    sandbox.up(&site(""));
    let address = sandbox.status().https();
    for client in over_tcp(&sandbox) {
        assert_eq!(client.get("/index.html").header("alt-svc"), None);
    }
    // Nobody is bound there.
    drop(UdpSocket::bind(address).unwrap());
    assert!(!sandbox.run(["status"]).stdout().contains("http3"));

    sandbox.up(&site("http3 = true\n"));
    let told = format!("h3=\":{}\"; ma=3600", address.port());
    for client in over_tcp(&sandbox) {
        assert_eq!(client.get("/index.html").header("alt-svc"), Some(told.as_str()));
        // On errors as well.
        assert_eq!(client.get("/none").header("alt-svc"), Some(told.as_str()));
    }
    let page = over_http3(&sandbox).get("/index.html");
    assert_eq!((page.status, page.text().as_str()), (200, "<p>one page</p>"));
    assert_eq!(page.header("alt-svc"), None);
    assert!(page.header("date").is_some() && page.header("x-request-id").is_some());
    let line = format!("http3    UDP {address} (experimental)");
    assert!(sandbox.run(["status"]).raw_stdout().contains(&line));
    assert!(UdpSocket::bind(address).is_err());
    let id = page.header("x-request-id").unwrap();
    eventually("the request is known with its protocol", LIMIT, || {
        sandbox.run(["explain", "request", id]).stdout().contains("HTTP/3")
    });

    sandbox.up(&site("http3 = false\n"));
    for client in over_tcp(&sandbox) {
        assert_eq!(client.get("/index.html").header("alt-svc"), None);
    }
    eventually("the port is free", LIMIT, || UdpSocket::bind(address).is_ok());
    sandbox.up(&site("http3 = true\n"));
    assert_eq!(over_http3(&sandbox).get("/index.html").status, 200);
}

#[test]
fn a_site_that_did_not_ask_for_it_is_not_served_over_it() {
    let sandbox = sandbox();
    sandbox.up(&site("http3 = true\n"));
    let other = Site::new("other").app("web", FakeApp::new());
    sandbox.up(&other);
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let answer = Client::over_http3(address, &other.host(), &ca).get("/health");
    assert_eq!((answer.status, answer.header("alt-svc")), (421, None));
    let plain = Client::https(address, &other.host(), &ca).get("/health");
    assert_eq!((plain.status, plain.header("alt-svc")), (200, None));
    assert_eq!(over_http3(&sandbox).get("/index.html").status, 200);
}

#[test]
fn large_answers_arrive_whole_beside_each_other() {
    let sandbox = sandbox();
    sandbox.up(&site("http3 = true\n"));
    let answers = over_http3(&sandbox).at_once(20, "GET", "/large.bin", &[], b"").unwrap();
    for answer in answers {
        assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
        assert_eq!(answer.header("content-length"), Some("1048576"));
    }
    let head = over_http3(&sandbox).send("HEAD", "/large.bin", &[], b"").unwrap();
    assert_eq!((head.header("content-length"), head.body.len()), (Some("1048576"), 0));
    let part = [("range", "bytes=5-9")];
    let part = over_http3(&sandbox).send("GET", "/large.bin", &part, b"").unwrap();
    assert_eq!((part.status, part.text().as_str()), (206, "56789"));
}

#[test]
fn it_goes_on_when_the_edge_or_control_is_replaced_or_killed() {
    let sandbox = sandbox();
    sandbox.up(&site("http3 = true\n"));
    let client = over_http3(&sandbox);
    assert_eq!(client.get("/index.html").status, 200);
    // More edges than there is room for finish at a time: each has somebody to wait for.
    for _ in 0..6 {
        http3::abandon(sandbox.status().https(), HOST, &sandbox.ca()).unwrap();
        let edge = sandbox.status().edge_pid();
        sandbox.run(["restart", "--edge"]).success();
        assert_ne!(sandbox.status().edge_pid(), edge);
        assert_eq!(client.get("/index.html").status, 200);
    }
    sandbox.kill_hard(sandbox.status().edge_pid().unwrap());
    eventually("another edge serves", LIMIT, || client.try_get("/index.html").is_ok());
    // The next control takes the sockets back and replaces the edge on them.
    sandbox.kill_hard(sandbox.status().control_pid());
    eventually("another control answers", LIMIT, || sandbox.try_status().is_some());
    assert_eq!(client.get("/index.html").status, 200);
    sandbox.run(["restart", "--edge"]).success();
    assert_eq!(client.get("/index.html").status, 200);
    for client in over_tcp(&sandbox) {
        assert!(client.get("/index.html").header("alt-svc").is_some());
    }
}

#[test]
fn large_requests_arrive_whole_and_longer_ones_than_allowed_do_not() {
    let sandbox = sandbox();
    let shop = program("body_limit = \"3M\"\n");
    sandbox.up(&shop);
    let client = over_http3(&sandbox);
    let body: Vec<u8> = (0..3_u32 << 20).map(|at| (at % 251) as u8).collect();
    let answer = client.send("POST", "/echo", &[], &body).unwrap();
    assert_eq!((answer.status, answer.body == body), (200, true));
    let more = vec![b'x'; (3 << 20) + 1];
    assert_eq!(client.send("POST", "/echo", &[], &more).unwrap().status, 413);
    // Without a length it is counted, while it is being answered already.
    assert!(!client.send("PUT", "/echo", &[], &more).is_ok_and(|answer| answer.status == 200));
}

#[test]
fn a_client_is_told_to_go_when_the_edge_is_replaced_and_its_request_is_answered() {
    let sandbox = sandbox();
    let shop = program("");
    sandbox.up(&shop);
    let ask = |target| Ask { method: "GET", target, headers: &[], body: b"" };
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let first = sandbox.status().edge_pid().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let talk = std::thread::spawn(move || {
        let (slow, next) = (ask("/sleep?ms=4000"), ask("/"));
        http3::around((address, HOST, &ca), (&slow, &next), move || told.recv().unwrap()).unwrap()
    });
    eventually("the request is under way", LIMIT, || {
        sandbox.status().document().to_string().contains("\"in_flight\":1")
    });
    sandbox.run(["restart", "--edge"]).success();
    tell.send(()).unwrap();
    let (answer, other) = talk.join().unwrap();
    assert_eq!(answer.status, 200);
    // Answered by the old edge, or known not to have been looked at.
    assert!(other.is_err() || other.is_ok_and(|other| other.status == 200));
    eventually("the old edge ends", LIMIT, || !seaworthy_testkit::process::lives(first));
    assert_eq!(over_http3(&sandbox).get("/").status, 200);
}

#[test]
fn an_edge_that_was_adopted_serves_it_where_it_comes_later_and_so_does_the_one_that_follows() {
    let sandbox = sandbox();
    sandbox.up(&site(""));
    let control = sandbox.status().control_pid();
    sandbox.kill_hard(control);
    eventually("another control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != control)
    });
    let adopted = sandbox.status().edge_pid();
    sandbox.up(&site("http3 = true\n"));
    assert_eq!(sandbox.status().edge_pid(), adopted);
    assert_eq!(over_http3(&sandbox).get("/index.html").status, 200);
    let next = sandbox.folder().join("bin/seaworthy-next");
    std::fs::copy(sandbox.folder().join("bin/seaworthy"), &next).unwrap();
    sandbox.run(["upgrade".as_ref(), next.as_os_str()]).success();
    assert_ne!(sandbox.status().edge_pid(), adopted);
    assert_eq!(over_http3(&sandbox).get("/index.html").status, 200);
    // Another address, by whoever is found now.
    let control = sandbox.status().control_pid();
    sandbox.kill_hard(control);
    eventually("another control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != control)
    });
    sandbox.up(&site("").manifest(&format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\n[listen]\nhttp3 = true\nhttp = \"127.0.0.1:0\"\n\
         https = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n[tls]\nmode = \"internal\"\n\
         [service.files]\nstatic = \"public\"\n[[route]]\npaths = [\"/*\"]\nto = \"files\"\n"
    )));
    let document = sandbox.status();
    let all = document.document()["edge"]["https"].as_array().unwrap().clone();
    assert_eq!(all.len(), 2);
    for one in all {
        let address = one.as_str().unwrap().parse().unwrap();
        let client = Client::over_http3(address, HOST, &sandbox.ca());
        assert_eq!(client.get("/index.html").status, 200, "{address}");
    }
}

#[test]
fn a_control_that_dies_when_it_gave_new_sockets_away_and_has_not_written_that_down_loses_none() {
    let sandbox = sandbox();
    let trigger = sandbox.folder().join("crash");
    let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", &trigger.display().to_string());
    sandbox.up(&site(""));
    let before = sandbox.status();
    std::fs::write(&trigger, "listened").unwrap();
    sandbox.try_up(&site("http3 = true\n"));
    assert!(!trigger.exists(), "it was never reached");
    eventually("another control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != before.control_pid())
    });
    sandbox.up(&site("http3 = true\n"));
    assert_eq!(over_http3(&sandbox).get("/index.html").status, 200);
    assert_eq!(sandbox.status().edge_pid(), before.edge_pid());
    // Its sockets are known for good.
    sandbox.run(["restart", "--edge"]).success();
    assert_eq!(over_http3(&sandbox).get("/index.html").status, 200);
}

#[test]
fn it_comes_back_when_control_and_the_newest_edge_die_while_an_old_one_finishes() {
    let sandbox = sandbox();
    let shop = program("");
    sandbox.up(&shop);
    let ask = |target| Ask { method: "GET", target, headers: &[], body: b"" };
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    // Longer than anything here takes: cut off with the connection, whoever it is that cuts it.
    let talk = std::thread::spawn(move || {
        let (slow, next) = (ask("/sleep?ms=120000"), ask("/"));
        http3::around((address, HOST, &ca), (&slow, &next), || {}).is_ok()
    });
    eventually("the request is under way", LIMIT, || {
        sandbox.status().document().to_string().contains("\"in_flight\":1")
    });
    let old = sandbox.status().edge_pid().unwrap();
    sandbox.run(["restart", "--edge"]).success();
    assert!(seaworthy_testkit::process::lives(old));
    let before = sandbox.status();
    sandbox.kill_hard(before.control_pid());
    sandbox.kill_hard(before.edge_pid().unwrap());
    eventually("control and edge are back", LIMIT, || {
        sandbox.try_status().is_some_and(|status| {
            status.control_pid() != before.control_pid()
                && status.edge_pid().is_some_and(|pid| Some(pid) != before.edge_pid())
        })
    });
    eventually("HTTP/3 is served", LIMIT, || {
        over_http3(&sandbox).try_get("/health").is_ok_and(|page| page.status == 200)
    });
    for client in over_tcp(&sandbox) {
        assert_eq!(client.get("/health").status, 200);
    }
    assert!(!talk.join().unwrap(), "the address was bound anew beside the old edge's");
}
