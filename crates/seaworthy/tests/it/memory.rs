//! A machine that has no room for two releases side by side (another file in the place of `/proc/meminfo`).

use seaworthy_testkit::{FakeApp, Site, eventually, is_root};

use crate::{LIMIT, sandbox, shop};

#[test]
fn that_does_not_suffice_for_both_leaves_one_old_instance_warm_and_says_what_going_back_takes() {
    if !is_root("a deployment where memory is short") {
        return;
    }
    let scarce =
        "MemTotal:       500000 kB\nMemFree:           900 kB\nMemAvailable:    20480 kB\n";
    let sandbox = sandbox().with_file("/proc/meminfo", scarce);
    let level = |level: &str| {
        let web = FakeApp::new().instances(3).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
        Site::new("shop").app("web", web).more("[deploy]\nwatch = { for = \"60s\" }")
    };
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    sandbox.up(&level("old"));
    let before = sandbox.wait_ready("shop/web", 3, LIMIT);
    // What the instances use is looked at once a second.
    eventually("what they use is known", LIMIT, || {
        let all = sandbox.status().instances("shop/web");
        all.iter().all(|one| one["memory"].as_u64().is_some_and(|memory| memory > 0))
    });
    let project = sandbox.write(&level("new"));
    let words = ["deploy".as_ref(), project.as_os_str(), "--strategy=blue-green".as_ref()];
    sandbox.run([&words[..], &["--plan".as_ref()]].concat()).success().says([
        "rolling",
        "and 20 MiB can be had: slot by slot, one old instance is kept warm",
        "one old instance takes over at once, and the others are started again (the last start took ",
    ]);
    let deploy = sandbox.spawn(words);
    eventually("it is watched", LIMIT, || {
        sandbox.run(["releases", "shop", "--json"]).json()["deployments"][0]["state"] == "watch"
    });
    assert_eq!(served(), "new");
    eventually("three new ones and one old one are left", LIMIT, || {
        let pids = sandbox.status().ready_pids("shop/web");
        pids.len() == 4 && pids.iter().filter(|pid| before.contains(pid)).count() == 1
    });
    sandbox.run(["abort", "shop"]).success();
    deploy.finish(LIMIT).code(1).says(["SW-REL-006"]);
    assert_eq!(served(), "old");
    let after = sandbox.wait_ready("shop/web", 3, LIMIT);
    assert_eq!(after.iter().filter(|pid| before.contains(pid)).count(), 1, "it took over");
}
