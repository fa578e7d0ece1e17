//! What is set by hand: hold, maintenance, scale; exec and run; and the log of who did it.

use std::time::Duration;

use seaworthy_testkit::load::{Kind, Load};
use seaworthy_testkit::{FakeApp, Site, eventually};

use crate::{LIMIT, sandbox, shop};

#[test]
fn a_held_site_keeps_requests_waiting_and_answers_them_all_when_it_opens() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["hold", "shop", "--for", "60s"]).success().says(["is held"]);
    assert_eq!(sandbox.status().site("shop")["closed"], "held");
    let client = sandbox.https(&shop());
    let waiting = std::thread::spawn(move || client.get("/say?text=patience").text());
    sandbox.run(["hold", "--off"]).success();
    assert_eq!(waiting.join().unwrap(), "patience");
    // A hold that nobody ends, ends by itself.
    sandbox.run(["hold", "shop", "--for", "300ms"]).success();
    assert_eq!(sandbox.https(&shop()).get("/say?text=by+itself").status, 200);
}

#[test]
fn maintenance_shows_a_page_to_all_but_those_who_may_pass_and_survives_control() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["maintenance", "on", "--retry-after", "5m"]).success();
    let answer = sandbox.https(&shop()).get("/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("300")));
    let before = sandbox.status().control_pid();
    sandbox.kill_hard(before);
    eventually("the next control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != before)
    });
    assert_eq!(sandbox.https(&shop()).get("/").status, 503);
    sandbox.run(["maintenance", "on", "--allow", "no network"]).code(1).says(["SW-EDG-003"]);
    sandbox.run(["maintenance", "on", "--allow", "127.0.0.0/8"]).success();
    assert_eq!(sandbox.https(&shop()).get("/").status, 200);
    sandbox.run(["maintenance", "off"]).success();
    assert_eq!(sandbox.status().site("shop")["closed"], serde_json::Value::Null);
}

#[test]
fn a_number_of_instances_set_by_hand_is_remembered_until_it_is_taken_back() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["scale", "shop/web", "3"]).success();
    sandbox.wait_ready("shop/web", 3, LIMIT);
    sandbox.up(&shop().file("more.txt", "another release"));
    sandbox.wait_ready("shop/web", 3, LIMIT);
    sandbox.run(["scale", "shop/web", "--manifest"]).success();
    eventually("one is left", LIMIT, || sandbox.status().instances("shop/web").len() == 1);
    sandbox.run(["scale", "shop/none", "3"]).code(1).says(["SW-CTL-006", "there are: shop/web"]);
}

#[test]
fn a_program_runs_in_the_environment_folder_and_user_of_a_service() {
    let sandbox = sandbox();
    let app = FakeApp::new().key("env = { LEVEL = \"seven\" }\ndir = \"inside\"");
    sandbox.up(&Site::new("shop").app("web", app).file("inside/here.txt", "found"));
    let said = sandbox.run(["run", "shop/web", "echo $LEVEL; cat here.txt; exit 7"]);
    said.code(7);
    assert_eq!(said.raw_stdout(), "seven\nfound");
    let said = sandbox.run(["exec", "shop/web", "--", "cat", "here.txt"]);
    said.success();
    assert_eq!(said.raw_stdout(), "found");
    sandbox.run(["exec", "shop/web", "no-such-program"]).code(1).says(["SW-RUN-001"]);
}

#[test]
fn whoever_did_something_stands_in_the_audit_log_whose_chain_holds() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["scale", "shop/web", "2"]).success();
    let said = sandbox.run(["audit"]);
    said.success().says(["up", "up-ended", "scale", "shop/web"]);
    let said = sandbox.run(["audit", "verify"]);
    said.success().says(["entries, whole; newest hash"]);
    let hash = said.raw_stdout().trim().rsplit(' ').next().unwrap().to_owned();
    sandbox.run(["scale", "shop/web", "--manifest"]).success();
    sandbox.run(["audit", "verify", "--since", &hash]).success();
    let other = hash.chars().rev().collect::<String>();
    let said = sandbox.run(["audit", "verify", "--since", &other]);
    said.code(1).says(["SW-CTL-011", "its end was cut off", "seaworthy audit --tail"]);
    sandbox.run(["audit", "--json"]).success();
}

#[test]
fn a_service_grows_with_its_load_says_why_and_a_number_by_hand_stands_until_it_is_taken_back() {
    let sandbox = sandbox();
    let web = FakeApp::new().key("instances = { min = 1, max = 3, rps = 20 }");
    sandbox.up(&Site::new("shop").app("web", web));
    assert_eq!(sandbox.status().instances("shop/web").len(), 1);
    let running = Load::new(sandbox.target(&shop()))
        .rate(Kind::KeepAlive, 150.0)
        .start(Duration::from_secs(120));
    sandbox.wait_ready("shop/web", 3, LIMIT);
    sandbox.run(["status"]).success().says(["3/3 ready  (of 1 to 3: ", "each, 20 wanted)"]);
    sandbox.run(["scale", "shop/web", "2"]).success();
    let two = sandbox.wait_ready("shop/web", 2, LIMIT);
    sandbox.run(["status"]).success().says(["2/2 ready  (by hand)"]);
    sandbox.kill_hard(sandbox.status().control_pid());
    eventually("the next control remembers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.ready_pids("shop/web") == two)
    });
    sandbox.run(["scale", "shop/web", "--manifest"]).success();
    sandbox.wait_ready("shop/web", 3, LIMIT);
    running.stop().assert_clean();
}
