//! What systemd keeps beside the listeners of visitors: the UDP sockets of HTTP/3 (docs/decisions/024) and the addresses
//! at which applications call others (027). Where control and edge both end, none of them closes.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};

use seaworthy_testkit::peers::{Outside, Say};
use seaworthy_testkit::{
    Ask, Client, Sandbox, Site, Status, eventually, eventually_some, http3, process,
};

use super::{Manager, names};
use crate::{LIMIT, sandbox};

const HOST: &str = "shop.example";

/// A site over HTTP/3, whose application may call another server.
fn wide(peer: &Outside) -> Site {
    let to = peer.address();
    manifest("http3 = true\n", &format!("[outgoing.peer]\nto = \"http://{to}\"\n"))
}

fn manifest(listen: &str, more: &str) -> Site {
    Site::new("shop").manifest(&format!(
        "site = \"shop\"\ndomains = [\"{HOST}\"]\n{{listen}}{listen}[tls]\nmode = \"internal\"\n\
         [service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n{more}\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n"
    ))
}

fn peer() -> Outside {
    Outside::start(None, |_| Say(200, String::new(), "well".to_owned()))
}

/// The site as a visitor of HTTP/3 sees it.
fn visitor(sandbox: &Sandbox) -> Client {
    Client::over_http3(sandbox.status().https(), HOST, &sandbox.ca())
}

/// Where the application was told to call.
fn way(sandbox: &Sandbox) -> SocketAddr {
    let told = visitor(sandbox).get("/env?name=OUTGOING_PEER").json();
    let address = told["value"].as_str().and_then(|told| told.strip_prefix("http://"));
    address.unwrap().parse().unwrap()
}

/// The kernel's numbers of the sockets that are bound to a port and connected to nobody: that of a socket which was
/// open all the time is the same, and of no other.
fn bound(kind: &str, port: u16) -> BTreeSet<u64> {
    let table = fs::read_to_string(format!("/proc/net/{kind}")).unwrap();
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_there = fields[1].ends_with(&format!(":{port:04X}")) && fields[2].ends_with(":0000");
        is_there.then(|| fields[9].parse().unwrap())
    };
    table.lines().skip(1).filter_map(of).collect()
}

/// Ends control and edge by `kill -9`, and waits for the next ones.
fn kill_both(sandbox: &Sandbox) -> Status {
    let before = sandbox.status();
    // Control first: it would start another edge.
    sandbox.kill_hard(before.control_pid());
    sandbox.kill_hard(before.edge_pid().unwrap());
    eventually_some("control and edge are back", LIMIT, || {
        let status = sandbox.try_status()?;
        let both = status.control_pid() != before.control_pid()
            && status.edge_pid().is_some_and(|pid| Some(pid) != before.edge_pid());
        both.then_some(status)
    })
}

#[test]
fn http3_and_ways_out_lie_there_and_are_open_all_the_time_when_control_and_edge_die() {
    let (sandbox, peer) = (sandbox(), peer());
    let manager = Manager::start(&sandbox);
    sandbox.up(&wide(&peer));
    let (https, way) = (sandbox.status().https(), way(&sandbox));
    let mut expected = names(&sandbox);
    let named = |kind: &str, at: SocketAddr| format!("{kind}-{}", at.to_string().replace(':', "+"));
    expected.push(named("outgoing", way));
    expected.extend((0..4).map(|slot| named(&format!("http3.{slot}"), https)));
    expected.sort();
    assert_eq!(manager.kept(), expected);
    let open = || (bound("udp", https.port()), bound("tcp", way.port()));
    let before = open();
    assert_eq!((before.0.len(), before.1.len()), (4, 1));

    kill_both(&sandbox);
    assert_eq!(open(), before, "some were closed in between");
    assert_eq!(manager.kept(), expected);
    assert_eq!(visitor(&sandbox).get("/health").status, 200);
    assert_eq!(Client::http(way, "127.0.0.1").get("/").text(), "well");
    assert_eq!(manager.starts(), 2);

    // What is not wanted any more goes, and is closed.
    sandbox.up(&manifest("", ""));
    assert_eq!(manager.kept(), names(&sandbox));
    let closed = || open() == (BTreeSet::new(), BTreeSet::new());
    eventually(&format!("of {before:?} {:?} are closed", open()), LIMIT, closed);
}

/// Ends when it is told to.
#[derive(Default)]
struct Gate(Mutex<(bool, bool)>, Condvar);

impl Gate {
    fn pass(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 = true;
        drop(self.1.wait_while(state, |(_, open)| !*open).unwrap());
    }

    /// Whether anybody waits, or waited.
    fn is_reached(&self) -> bool {
        self.0.lock().unwrap().0
    }

    fn open(&self) {
        self.0.lock().unwrap().1 = true;
        self.1.notify_all();
    }
}

#[test]
fn a_request_that_an_old_edge_finishes_is_answered_though_control_and_the_new_edge_die() {
    let gate = Arc::<Gate>::default();
    let (sandbox, held) = (sandbox(), Arc::clone(&gate));
    let peer = Outside::start(None, move |_| {
        held.pass();
        Say(200, String::new(), "at last".to_owned())
    });
    let _manager = Manager::start(&sandbox);
    let slow = format!("[service.slow]\nupstreams = [\"http://{}\"]\n", peer.address());
    let slow = format!("{slow}[[route]]\npaths = [\"/slow\"]\nto = \"slow\"\n");
    sandbox.up(&manifest("http3 = true\n", &slow));
    let first = sandbox.status().edge_pid().unwrap();
    let ask = |target| Ask { method: "GET", target, headers: &[], body: b"" };
    let (address, ca) = (sandbox.status().https(), sandbox.ca());
    let (tell, told) = std::sync::mpsc::channel();
    let talk = std::thread::spawn(move || {
        let (slow, next) = (ask("/slow"), ask("/"));
        http3::around((address, HOST, &ca), (&slow, &next), move || told.recv().unwrap()).unwrap()
    });
    eventually("the request is under way", LIMIT, || gate.is_reached());
    sandbox.run(["restart", "--edge"]).success();
    kill_both(&sandbox);
    // New connections are the newest edge's, and none of its packets goes to the one that finishes.
    for _ in 0..8 {
        assert_eq!(visitor(&sandbox).get("/health").status, 200);
    }
    assert!(process::lives(first));
    gate.open();
    tell.send(()).unwrap();
    let (answer, _) = talk.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "at last"));
    eventually("the old edge ends", LIMIT, || !process::lives(first));
    assert_eq!(visitor(&sandbox).get("/health").status, 200);
}
