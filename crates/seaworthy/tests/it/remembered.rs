//! What went wrong before: said while it is mended, remembered afterwards, over the end of control too.

use seaworthy_testkit::{FakeApp, Site, eventually};

use crate::{LIMIT, sandbox, shop};

#[track_caller]
fn tells_while_it_starts_again(fake: FakeApp, ask: &str, code: &str, afterwards: &str) {
    let sandbox = sandbox();
    let app = fake.slow_start("2s").key("restart = { backoff_min = \"10ms\" }");
    sandbox.up(&Site::new("shop").app("web", app));
    sandbox.https(&shop()).try_get(ask).ok();
    eventually("it starts again and says why", LIMIT, || {
        let one = &sandbox.status().instances("shop/web")[0];
        one["state"] == "starting" && one["fault"]["code"] == code
    });
    sandbox.run(["status"]).success().says([code]);
    sandbox.wait_ready("shop/web", 1, LIMIT);
    assert!(sandbox.status().fault(code).is_none());
    sandbox.run(["status"]).success().says([afterwards]);
}

#[test]
fn that_it_hung_is_said_while_it_starts_again_and_remembered_afterwards() {
    tells_while_it_starts_again(
        FakeApp::new(),
        "/hang",
        "SW-RUN-010",
        "restarts 1 (restarted: hung)",
    );
}

#[test]
fn that_memory_ran_out_is_said_while_it_starts_again_and_remembered_afterwards() {
    let fake = FakeApp::new().key("memory = \"64M\"");
    tells_while_it_starts_again(fake, "/leak", "SW-RUN-005", "restarts 1 (ended: out of memory)");
}

#[test]
fn why_an_up_was_refused_outlives_control_and_ends_with_the_next_up() {
    let sandbox = sandbox();
    let needy = Site::new("shop").app("web", FakeApp::new().key("secrets = [\"API_KEY\"]"));
    sandbox.try_up(&needy).code(1);
    let before = sandbox.status().control_pid();
    sandbox.kill_hard(before);
    eventually("the next control knows it too", LIMIT, || {
        sandbox.try_status().is_some_and(|status| {
            status.control_pid() != before && status.fault("SW-SEC-001").is_some()
        })
    });
    sandbox.run(["secrets", "generate", "API_KEY", "--site", "shop"]).success();
    sandbox.up(&needy);
    assert!(sandbox.status().faults().is_empty());
}

#[test]
fn an_up_that_was_taken_back_is_named_beside_what_still_runs() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.try_up(&Site::new("shop").app("web", FakeApp::new().crash_loop())).code(1);
    sandbox.run(["status"]).success().says([
        "the last `up` was not done",
        "SW-RUN-009",
        "1/1 ready",
    ]);
    sandbox.up(&shop());
    assert!(sandbox.status().faults().is_empty());
}
