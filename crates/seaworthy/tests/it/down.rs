//! `down`: nothing is left running.

use seaworthy_testkit::{FakeApp, Site, eventually, process};

use crate::{LIMIT, sandbox, shop};

#[test]
fn nothing_at_all_is_left_running() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    assert!(
        sandbox.processes().len() >= 4,
        "control, edge, a shim and an application: {:#?}",
        sandbox.processes()
    );
    sandbox.run(["down", "--all"]).success();
    let left = sandbox.processes();
    assert!(left.is_empty(), "gone when `down` returns: {left:#?}");
    sandbox.run(["status"]).code(4);
}

#[test]
fn what_goes_on_without_control_is_ended_too() {
    let pages = Site::new("shop").more("[service.pages]\nstatic = \"public\"").route("/*", "pages");
    for site in [shop(), pages.file("public/index.html", "<p>page</p>")] {
        let sandbox = sandbox();
        sandbox.up(&site);
        let control = sandbox.status().control_pid();
        sandbox.terminate(control);
        eventually("control ended, and nobody starts it again", LIMIT, || {
            sandbox.run(["status"]).exit_code() == Some(4) && !process::lives(control)
        });
        assert!(!sandbox.processes().is_empty());
        sandbox.run(["down", "--all"]).success();
        let left = sandbox.processes();
        assert!(left.is_empty(), "gone when `down` returns: {left:#?}");
    }
}

#[test]
fn of_all_right_after_that_of_the_only_site_waits_for_the_end() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["down", "shop"]).success();
    sandbox.run(["down", "--all"]).success();
    let left = sandbox.processes();
    assert!(left.is_empty(), "gone when `down` returns: {left:#?}");
}

#[test]
fn an_up_right_after_it_or_in_the_midst_of_it_serves_all_the_same() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    for round in 0..4 {
        let down = sandbox.spawn(["down", "--all"]);
        if round % 2 == 0 {
            down.finish(LIMIT).success();
            sandbox.up(&shop());
        } else {
            // Whichever of the two is first, the last word is that of `up` or everything is down.
            let up = sandbox.try_up(&shop());
            down.finish(LIMIT);
            up.never_says("SW-INT-001");
            sandbox.up(&shop());
        }
        assert_eq!(sandbox.https(&shop()).get("/say?text=here").text(), "here");
    }
    sandbox.run(["down", "--all"]).success();
    let left = sandbox.processes();
    assert!(left.is_empty(), "no edge without an owner: {left:#?}");
}

#[test]
fn grandchildren_that_left_the_session_and_ignore_term_are_ended_too() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop")
        .app("web", FakeApp::new().grandchildren(3).key("stop = { grace = \"1s\" }")));
    let orphans: Vec<_> =
        sandbox.processes().into_iter().filter(|one| one.command.ends_with("--orphan")).collect();
    assert_eq!(orphans.len(), 3);
    sandbox.run(["down", "shop"]).success();
    assert!(orphans.iter().all(|one| !process::lives(one.pid)), "gone when `down` returns");
    sandbox.wait_for_silence(LIMIT);
}

#[test]
fn one_that_ignores_term_is_killed_after_its_grace() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop")
        .app("web", FakeApp::new().ignore_term().key("stop = { grace = \"500ms\" }")));
    sandbox.run(["down", "--all"]).success();
    sandbox.wait_for_silence(LIMIT);
}

#[test]
fn one_site_ends_and_the_other_goes_on() {
    let sandbox = sandbox();
    let blog = Site::new("blog").app("web", FakeApp::new());
    sandbox.up(&shop());
    sandbox.up(&blog);
    let before = sandbox.status().ready_pids("blog/web");
    sandbox.run(["down", "shop"]).success();
    assert_eq!(sandbox.status().ready_pids("blog/web"), before);
    assert!(sandbox.status().ready_pids("shop/web").is_empty());
    assert_eq!(sandbox.https(&blog).get("/").status, 200);
}

#[test]
fn an_unknown_site_is_named_beside_those_there_are() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    sandbox.run(["down", "shpo"]).code(1).says(["SW-CTL-005", "shpo", "shop"]);
}
