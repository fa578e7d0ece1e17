//! `logs`: what the application wrote, with time, and stdout and stderr apart.

use std::fs;

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox, shop};

/// Files of the site's logs with their sizes.
fn files(sandbox: &Sandbox) -> Vec<(String, u64)> {
    let dir = sandbox.state().join("logs").join(sandbox.own_name("shop"));
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let each = entries.filter_map(|entry| {
        Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()))
    });
    each.collect()
}

#[test]
fn lines_of_both_streams_are_found_and_filtered() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let client = sandbox.https(&shop());
    client.get("/log?text=apples");
    client.get("/log?text=pears&stream=stderr");
    eventually("both lines are there", LIMIT, || {
        let output = sandbox.run(["logs", "shop/web"]);
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

#[test]
fn they_rotate_compress_and_never_hold_more_than_they_may() {
    let sandbox = sandbox();
    let rules = "logs = { max_size = \"64K\", keep = 3 }";
    sandbox.up(&Site::new("shop").app("web", FakeApp::new().key(rules)));
    let client = sandbox.https(&shop());
    let line = "x".repeat(200);
    for number in 0..20 {
        client.get(&format!("/log?text={number}-{line}&times=200"));
        // The newest file, the rotated ones, and one that is being compressed.
        let total: u64 = files(&sandbox).iter().map(|(_, size)| size).sum();
        assert!(total <= 6 * (64 << 10), "{total} bytes in {:?}", files(&sandbox));
    }
    client.get("/log?text=the-newest-line");
    eventually("what was rotated is compressed", LIMIT, || {
        let files = files(&sandbox);
        let rotated: Vec<_> =
            files.iter().map(|(name, _)| name).filter(|name| name.contains(".log.")).collect();
        rotated.len() == 3 && rotated.iter().all(|name| name.strip_suffix(".gz").is_some())
    });
    eventually("the newest line is there", LIMIT, || {
        sandbox.run(["logs", "shop"]).raw_stdout().contains("the-newest-line")
    });
    assert_eq!(sandbox.status().instances("shop/web")[0]["log_dropped"], 0);
}

#[test]
fn a_full_disk_costs_lines_that_are_counted_and_the_application_goes_on() {
    let sandbox = sandbox();
    let dir = sandbox.state().join("logs").join(sandbox.own_name("shop"));
    fs::create_dir_all(&dir).unwrap();
    let log = dir.join("web.0.1.log");
    // Every write to it fails as on a full disk, for any user.
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    sandbox.up(&shop());
    let client = sandbox.https(&shop());
    client.get("/log?text=lost&times=50");
    let dropped = || sandbox.status().instances("shop/web")[0]["log_dropped"].as_u64().unwrap();
    eventually("the lines are counted", LIMIT, || dropped() >= 50);
    sandbox.run(["status"]).success().says([format!("{} log lines dropped", dropped()).as_str()]);
    assert_eq!(client.get("/say?text=alive").text(), "alive");
    fs::remove_file(&log).unwrap();
    client.get("/log?text=there-is-room-again");
    eventually("it is said how many were dropped", LIMIT, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains("log lines were dropped: they could not be written")
            && said.contains("there-is-room-again")
    });
}

#[test]
fn what_earlier_generations_left_is_bounded_too() {
    let sandbox = sandbox();
    let rules = "logs = { max_size = \"64K\", keep = 1 }";
    let site = |number: u32| {
        let app = FakeApp::new().key(rules).key(&format!("env = {{ NUMBER = \"{number}\" }}"));
        Site::new("shop").app("web", app)
    };
    for number in 0..6 {
        sandbox.up(&site(number));
        eventually("the old instance is gone", LIMIT, || {
            sandbox.status().instances("shop/web").len() == 1
        });
        let left = files(&sandbox);
        assert!(left.len() <= 4, "the new one, the one before it and two older: {left:?}");
    }
}
