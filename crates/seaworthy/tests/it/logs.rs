//! `logs`: what the application wrote, with time, and stdout and stderr apart.

use seaworthy_testkit::{FakeApp, Site, eventually};

use crate::{LIMIT, sandbox, shop};

#[test]
fn lines_of_both_streams_are_found_and_filtered() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let client = sandbox.https(&shop());
    client.get("/log?text=apples");
    client.get("/log?text=pears&stream=stderr");
    eventually("both lines are there", LIMIT, || {
        let output = sandbox.run(["logs", "shop", "--service", "web"]);
        output.success();
        output.raw_stdout().contains("apples") && output.raw_stdout().contains("pears")
    });
    sandbox
        .run(["logs", "shop", "--grep", "^.*app.es"])
        .success()
        .says(["apples"])
        .never_says("pears");
    sandbox.run(["logs", "shop", "--since", "10m"]).success().says(["apples"]);
    let whole = sandbox.run(["logs", "shop"]).stdout();
    let line = whole.lines().find(|line| line.contains("apples")).unwrap().to_owned();
    assert!(line.contains("[TIME]"), "{line}");
}

#[test]
fn following_shows_lines_as_they_come() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let mut follow = sandbox.spawn(["logs", "shop", "--follow"]);
    follow.wait_for_text("listening", LIMIT);
    sandbox.https(&shop()).get("/log?text=fresh-line");
    follow.wait_for_text("fresh-line", LIMIT);
}

#[test]
fn lines_from_before_a_crash_are_kept() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop").app("web", FakeApp::new()));
    let client = sandbox.https(&shop());
    client.get("/log?text=last-words");
    client.try_get("/crash").ok();
    sandbox.wait_ready("shop/web", 1, LIMIT);
    sandbox.run(["logs", "shop", "--service", "web"]).success().says(["last-words"]);
}

#[test]
fn a_bad_pattern_is_refused() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let output = sandbox.run(["logs", "shop", "--grep", "("]);
    assert!(matches!(output.exit_code(), Some(1 | 2)), "{output}");
}
