//! `deploy` and `rollback`: nothing dropped, nothing half done, nothing silent.

use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

/// A watch and canary steps that a test can wait for.
const QUICK: &str =
    "watch = { for = \"1s\" }\ncanary = { steps = [\"20%\", \"60%\"], for = \"300ms\" }";

/// A release whose application knows its level.
fn level(level: &str, deploy: &str) -> Site {
    let web = FakeApp::new().instances(2).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    with(web, deploy)
}

fn with(web: FakeApp, deploy: &str) -> Site {
    Site::new("shop").app("web", web).more(&format!("[deploy]\n{QUICK}\n{deploy}"))
}

fn deploy(sandbox: &Sandbox, site: &Site, options: &[&str]) -> Output {
    let project = sandbox.write(site);
    let mut words = vec!["deploy".into(), project.into_os_string()];
    words.extend(options.iter().map(Into::into));
    sandbox.run(words)
}

fn served(sandbox: &Sandbox) -> String {
    let answer = sandbox.https(&shop()).get("/env?name=LEVEL").json();
    answer["value"].as_str().unwrap_or_default().to_owned()
}

fn releases(sandbox: &Sandbox) -> serde_json::Value {
    serde_json::from_str(sandbox.run(["releases", "shop", "--json"]).success().raw_stdout())
        .unwrap()
}

#[test]
fn every_strategy_and_the_way_back_replace_a_release_under_load_without_a_lost_request() {
    let sandbox = sandbox();
    sandbox.up(&level("zero", ""));
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(180));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    for strategy in ["rolling", "blue-green", "canary", "recreate"] {
        let before = sandbox.status().ready_pids("shop/web");
        deploy(&sandbox, &level(strategy, ""), &["--strategy", strategy]).success();
        assert_eq!(served(&sandbox), strategy);
        let after = sandbox.wait_ready("shop/web", 2, LIMIT);
        assert!(after.iter().all(|pid| !before.contains(pid)), "{strategy}");
    }
    sandbox.run(["rollback", "shop"]).success();
    assert_eq!(served(&sandbox), "canary");
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 30);
    running.stop().assert_clean();
    let found = releases(&sandbox);
    let states: Vec<&str> = found["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["live"; 6], "{found:#}");
    assert_eq!(found["deployments"][0]["verb"], "rollback");
}

#[test]
fn one_that_is_broken_behind_its_route_or_never_ready_changes_nothing() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let before = sandbox.status().ready_pids("shop/web");
    let running = Load::new(sandbox.target(&shop())).mixed(40.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    let broken = with(FakeApp::new().broken_after(0), "");
    let refused = deploy(&sandbox, &broken, &[]);
    refused.code(1).says(["SW-REL-004", "the answer was 500", "broken as asked"]);
    deploy(&sandbox, &with(FakeApp::new().crash_loop(), ""), &["--strategy", "blue-green"]).code(1);
    let smoke = "smoke = [{ get = \"/say?text=hello\", body = \"bye\" }]";
    deploy(&sandbox, &with(FakeApp::new(), smoke), &[]).code(1).says(["SW-REL-004", "`bye`"]);
    running.stop().assert_clean();
    assert_eq!(served(&sandbox), "old");
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before);
    eventually("nothing of the new ones is left", LIMIT, || {
        sandbox.status().instances("shop/web").len() == 2
    });
    assert_eq!(sandbox.status().site("shop")["rollout"], serde_json::Value::Null);
    sandbox.wait_for_fault("SW-REL-004", LIMIT);
}

#[test]
fn one_that_fails_after_the_switch_is_taken_back_to_the_instances_that_were_kept_warm() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let before = sandbox.status().ready_pids("shop/web");
    let running = Load::new(sandbox.target(&shop())).mixed(80.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 60);
    let web = FakeApp::new().instances(2).broken_after(25);
    let site = Site::new("shop").app("web", web).more("[deploy]\nwatch = { for = \"60s\" }");
    deploy(&sandbox, &site, &["--strategy", "blue-green"])
        .code(1)
        .says(["SW-REL-005", "failed (before: 0.0 %"]);
    running.stop();
    assert_eq!(served(&sandbox), "old");
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before, "nothing was started for it");
    let last = &releases(&sandbox)["deployments"][0];
    assert_eq!(
        (&last["state"], &last["fault"]["code"]),
        (&"taken back".into(), &"SW-REL-005".into())
    );
}

#[test]
fn a_paused_one_can_be_looked_at_and_others_wait_until_it_is_promoted_or_aborted() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let project = sandbox.write(&level("new", ""));
    let pause = |sandbox: &Sandbox| {
        sandbox.spawn([
            "deploy".as_ref(),
            project.as_os_str(),
            "--pause".as_ref(),
            "--strategy".as_ref(),
            "blue-green".as_ref(),
        ])
    };
    let preview = |sandbox: &Sandbox| {
        eventually_some("it is paused", LIMIT, || {
            let releases = sandbox.run(["releases", "shop", "--json"]);
            let found: serde_json::Value = serde_json::from_str(releases.raw_stdout()).ok()?;
            let paused = found["deployments"][0]["state"] == "pause";
            let status = sandbox.try_status().filter(|_| paused)?;
            Some(status.site("shop")["rollout"]["preview"].as_str()?.to_owned())
        })
    };
    let first = pause(&sandbox);
    let address = preview(&sandbox);
    assert_eq!(served(&sandbox), "old");
    let key = address.rsplit('/').next().unwrap().to_owned();
    let client = sandbox.https(&shop());
    let seen = client.send("GET", "/env?name=LEVEL", &[("seaworthy-release", &key)], b"").unwrap();
    assert_eq!(seen.json()["value"], "new");
    let second = sandbox.run(["deploy".as_ref(), project.as_os_str(), "--no-wait".as_ref()]);
    second.code(1).says(["SW-REL-007", "is deploying `shop`"]);
    sandbox.run(["abort", "shop"]).success();
    first.finish(LIMIT).code(1).says(["SW-REL-006"]);
    assert_eq!(served(&sandbox), "old");
    let again = pause(&sandbox);
    preview(&sandbox);
    sandbox.run(["promote", "shop"]).success();
    again.finish(LIMIT).success();
    assert_eq!(served(&sandbox), "new");
    sandbox.run(["promote", "shop"]).code(1).says(["no deployment of `shop` goes on"]);
}

#[test]
fn a_plan_says_what_will_happen_and_changes_nothing() {
    let sandbox = sandbox();
    sandbox.up(&level("old", ""));
    let changed = Site::new("shop")
        .app("web", FakeApp::new().instances(2).key("migrate = \"true\""))
        .more("[deploy]\nstrategy = \"blue-green\"\nsmoke = [{ get = \"/say?text=x\" }]");
    let said = deploy(&sandbox, &changed, &["--plan"]);
    said.success().says([
        "~ service web",
        "blue-green",
        "web: true",
        "no restore point",
        "/say?text=x",
        "30s",
    ]);
    assert_eq!(served(&sandbox), "old");
}
