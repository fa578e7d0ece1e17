//! `restart`: new processes, nothing dropped.

use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

#[test]
fn of_a_service_replaces_its_instances_without_a_lost_request() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop").app("web", FakeApp::new().instances(2)));
    let before = sandbox.status().ready_pids("shop/web");
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    sandbox.run(["restart", "shop/web"]).success();
    let after = sandbox.wait_ready("shop/web", 2, LIMIT);
    running.stop().assert_clean();
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?} {after:?}");
}

#[test]
fn of_the_edge_hands_the_sockets_over_without_a_lost_request() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    sandbox.run(["restart", "--edge"]).success();
    let after = eventually_some("a new edge", LIMIT, || {
        sandbox.try_status().filter(|status| status.edge_pid() != before.edge_pid())
    });
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 40);
    running.stop().assert_clean();
    assert_eq!(after.https(), before.https());
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
}

#[test]
fn of_edge_and_control_hands_over_more_addresses_than_one_message_carries() {
    let sandbox = sandbox();
    // Each way out has an address of its own.
    let ways =
        (0..70).map(|number| format!("[outgoing.way{number}]\nto = \"http://127.0.0.1:9\"\n"));
    let site = Site::new("shop").app("web", FakeApp::new()).route("/*", "web");
    let site = site.more(&ways.collect::<String>());
    sandbox.up(&site);
    let before = sandbox.status();
    sandbox.run(["restart", "--edge"]).success();
    let after = eventually_some("a new edge", LIMIT, || {
        sandbox.try_status().filter(|status| status.edge_pid() != before.edge_pid())
    });
    sandbox.kill_hard(after.control_pid());
    eventually("another control", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != after.control_pid())
    });
    // What it did not get back it would bind again, and the edge has it.
    sandbox.up(&site.route("/more", "web"));
    assert_eq!(sandbox.status().edge_pid(), after.edge_pid());
    assert_eq!(sandbox.https(&shop()).get("/").status, 200);
}

#[test]
fn of_the_edge_leaves_each_visitor_with_the_instance_that_he_had() {
    let sandbox = sandbox();
    // The last words belong to the route.
    let site = Site::new("shop").app("web", FakeApp::new().instances(4));
    let site = site.route("/*", "web").more("sticky = \"cookie\"");
    sandbox.up(&site);
    sandbox.wait_ready("shop/web", 4, LIMIT);
    let client = sandbox.https(&site);
    let first = client.get("/instance");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let same = || {
        let answers = (0..12).map(|_| client.send("GET", "/instance", &[("cookie", &cookie)], b""));
        answers.into_iter().all(|answer| answer.unwrap().json()["pid"] == first.json()["pid"])
    };
    assert!(same());
    let before = sandbox.status().edge_pid();
    sandbox.run(["restart", "--edge"]).success();
    eventually("a new edge", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.edge_pid() != before)
    });
    assert!(same());
}

#[test]
fn of_what_does_not_run_is_refused() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["restart", "shop/nothing"]).code(1).says(["SW-CTL-006", "shop/nothing"]);
}
