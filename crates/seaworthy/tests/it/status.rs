//! `status`: faults with their code, what was seen, and what to type next. Whole outputs are in `named`.

use std::net::TcpListener;

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};
use serde_json::Value;

use crate::{LIMIT, sandbox, shop};

/// Brings up a site whose only application is at fault, and returns the fault of that code after the
/// human form of `status` has named code, cause and next command too.
#[track_caller]
fn fault_of(sandbox: &Sandbox, app: FakeApp, code: &str) -> Value {
    sandbox.try_up(&Site::new("shop").app("web", app)).code(1);
    let fault = sandbox.wait_for_fault(code, LIMIT);
    let next = fault["next"].as_array().unwrap();
    assert!(!next.is_empty(), "{fault}");
    eventually(&format!("`status` for people names {code}"), LIMIT, || {
        sandbox.run(["status"]).raw_stdout().contains(code)
    });
    fault
}

fn text(fault: &Value) -> String {
    fault.to_string()
}

#[test]
fn a_site_that_is_well_is_said_to_be() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let status = sandbox.status();
    assert_eq!(status.document()["v"], 1);
    assert_eq!(status.faults(), Vec::<Value>::new());
    let pids =
        [vec![status.control_pid(), status.edge_pid().unwrap()], status.ready_pids("shop/web")]
            .concat();
    let running: Vec<u32> = sandbox.processes().iter().map(|one| one.pid).collect();
    assert!(pids.iter().all(|pid| running.contains(pid)), "{pids:?} of {running:?}");
    sandbox.run(["status"]).success().says(["shop", "web", "ready", "https://shop.localhost:"]);
}

#[test]
fn nothing_running_is_an_exit_code_of_its_own() {
    sandbox().run(["status"]).code(4).says(["SW-CTL-001", "seaworthy up"]);
}

#[test]
fn the_wrong_port_is_named_with_both_ports() {
    let sandbox = sandbox();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fault = fault_of(&sandbox, FakeApp::new().port(free), "SW-RUN-007");
    assert!(
        text(&fault).contains(&format!("127.0.0.1:{free}")) && text(&fault).contains("PORT="),
        "{fault}"
    );
    assert!(text(&fault).contains(&format!("port = {free}")), "{fault}");
}

#[test]
fn a_missing_program_is_named() {
    let sandbox = sandbox();
    let site = Site::new("shop").more("[service.web]\nrun = \"/nowhere/server --fast\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"");
    sandbox.try_up(&site).code(1);
    let fault = sandbox.wait_for_fault("SW-RUN-001", LIMIT);
    assert!(text(&fault).contains("/nowhere/server"), "{fault}");
}

#[test]
fn an_application_that_never_listens_is_named() {
    let fault = fault_of(&sandbox(), FakeApp::new().never_listen(), "SW-RUN-006");
    assert!(text(&fault).contains("PORT="), "{fault}");
}

#[test]
fn one_that_answers_badly_is_not_ready_and_says_what_it_answered() {
    let fault = fault_of(&sandbox(), FakeApp::new().health_status(503), "SW-RUN-011");
    assert!(text(&fault).contains("503"), "{fault}");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let sandbox = sandbox();
    let site = Site::new("shop").manifest(&format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:{port}\"\n[service.web]\nrun = \"{{fakeapp}}\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n"
    ));
    let output = sandbox.try_up(&site);
    output.code(1).says([
        "SW-EDG-001",
        format!("127.0.0.1:{port}").as_str(),
        format!("pid {}", std::process::id()).as_str(),
    ]);
}

#[test]
fn status_that_watches_shows_each_change_until_it_is_told_to_end() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let mut watching = sandbox.spawn(["status", "--watch"]);
    watching.wait_for_text("1/1 ready", LIMIT);
    sandbox.run(["scale", "shop/web", "2"]).success();
    watching.wait_for_text("2/2 ready  (by hand)", LIMIT);
    watching.interrupt();
    watching.finish(LIMIT).success();
}
