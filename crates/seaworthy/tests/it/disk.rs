//! A disk that is full: of what a build made, and at each step of a deployment.
//!
//! The state folder lies on a small disk of its own (tmpfs in a mount namespace), so these tests need root.

use std::fs;
use std::path::PathBuf;

use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, eventually_some, is_root};

use crate::crash::FROM_THE_SWITCH_ON;
use crate::{LIMIT, sandbox, shop};

fn served(sandbox: &Sandbox) -> String {
    let answer = sandbox.https(&shop()).get("/env?name=LEVEL").json();
    answer["value"].as_str().unwrap_or_default().to_owned()
}

fn deploy(sandbox: &Sandbox, site: &Site) -> Output {
    let project = sandbox.write(site);
    sandbox.run(["deploy".as_ref(), project.as_os_str()])
}

/// The newest deployment, when none goes on any more.
fn last(sandbox: &Sandbox) -> serde_json::Value {
    eventually_some("every deployment has an ending", LIMIT, || {
        let output = sandbox.run(["releases", "shop", "--json"]);
        let found: serde_json::Value = serde_json::from_str(output.raw_stdout()).ok()?;
        let all = found["deployments"].as_array()?;
        let ended = ["live", "failed", "taken back", "aborted"];
        let over = |one: &serde_json::Value| ended.iter().any(|word| one["state"] == *word);
        all.iter().all(over).then(|| all[0].clone())
    })
}

#[test]
fn that_a_build_filled_is_named_and_empty_again_for_the_next() {
    if !is_root("a build that fills its disk") {
        return;
    }
    let sandbox = sandbox().on_a_disk_of(24);
    let with = |level: &str, keys: &str| {
        let keys = format!("env = {{ LEVEL = \"{level}\" }}\n{keys}");
        let site = Site::new("shop").app("web", FakeApp::new().key(&keys)).file("level", level);
        site.more("[deploy]\nwatch = false")
    };
    sandbox.up(&with("old", ""));
    let before = sandbox.status();
    let build = "build = \"dd if=/dev/zero of=made bs=64k\"";
    deploy(&sandbox, &with("full", build)).code(1).says([
        "SW-REL-001",
        "the disk is full",
        "No space left on device",
        "df -h",
    ]);
    let after = sandbox.status();
    assert_eq!(served(&sandbox), "old");
    assert_eq!(after.control_pid(), before.control_pid());
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    assert_eq!(last(&sandbox)["state"], "failed");
    // Nobody has to make room: what came to nothing takes none.
    deploy(&sandbox, &with("new", "build = \"dd if=/dev/zero of=made bs=64k count=128\""))
        .success();
    assert_eq!(served(&sandbox), "new");
}

/// A release with something to do in every step.
fn level(level: &str, strategy: &str) -> Site {
    let keys = format!(
        "env = {{ LEVEL = \"{level}\" }}\nbuild = \"touch built\"\nmigrate = \"test -f built\""
    );
    let deploy = format!(
        "[deploy]\nstrategy = \"{strategy}\"\nchecks = \"true\"\nwatch = {{ for = \"200ms\" }}\ncanary = {{ steps = [\"50%\"], for = \"100ms\" }}"
    );
    Site::new("shop").app("web", FakeApp::new().key(&keys)).more(&deploy).file("level", level)
}

struct Scene {
    sandbox: Sandbox,
    asked: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let sandbox = sandbox().on_a_disk_of(24);
        let asked = sandbox.state().join("asked");
        let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", &asked.display().to_string());
        let asked = sandbox.seen(&asked);
        sandbox.up(&level("first", "rolling"));
        Self { sandbox, asked }
    }

    /// From a place on the disk is full until the deployment is over. Says what serves then.
    fn full_from(&self, place: &str, site: &Site, before: &str, after: &str) {
        fs::write(&self.asked, format!("full {place}")).unwrap();
        let control = self.sandbox.status().control_pid();
        let said = deploy(&self.sandbox, site);
        let filled = self.asked.with_extension("fill");
        assert!(filled.exists(), "{place} was never reached: {said}");
        let served_then = served(&self.sandbox);
        fs::remove_file(&self.asked).unwrap();
        fs::remove_file(&filled).unwrap();
        let last = last(&self.sandbox);
        let expected = if last["state"] == "live" { after } else { before };
        assert_eq!(served_then, expected, "full from {place}; the journal says {last:#}; {said}");
        assert_eq!(said.exit_code() == Some(0), last["state"] == "live", "{said}");
        if last["state"] != "live" {
            said.says(["df -h   (shows which disk is full)"]);
        }
        assert_eq!(self.sandbox.status().control_pid(), control, "it lived through {place}");
        assert_eq!(served(&self.sandbox), expected, "once there is room again after {place}");
        deploy(&self.sandbox, site).success();
        assert_eq!(served(&self.sandbox), after, "after {place}");
    }
}

/// Fills the disk once from each of these places on.
fn play(strategy: &str, places: &[&str]) {
    if !is_root("a disk that is full at each step of a deployment") {
        return;
    }
    let scene = Scene::new();
    let mut before = "first".to_owned();
    for (number, place) in places.iter().enumerate() {
        let after = format!("{strategy}-{number}");
        scene.full_from(place, &level(&after, strategy), &before, &after);
        before = after;
    }
}

#[test]
fn that_is_full_up_to_the_gate_leaves_the_old_release_serving() {
    let places = [
        "fetch:before",
        "fetch:done",
        "check:before",
        "build:before",
        "build:done",
        "restore-point:before",
        "migrate:before",
        "migrate:done",
        "start:before",
        "start:done",
        "gate:before",
        "gate:done",
    ];
    play("rolling", &places);
}

#[test]
fn that_is_full_from_the_switch_on_leaves_the_one_serving_that_the_journal_names() {
    play("blue-green", &FROM_THE_SWITCH_ON);
    play("canary", &["canary:before", "canary:done"]);
}

/// Whether the disk was full or not: what has to be written between the two was set aside before the old one ended.
#[test]
fn that_is_full_between_two_releases_that_exclude_each_other_keeps_neither_from_serving() {
    let places = [
        "check:before",
        "start:before",
        "start:done",
        "migrate:before",
        "migrate:done",
        "switch:before",
        "switched",
        "switch:done",
        "gate:before",
        "gate:done",
    ];
    play("recreate", &places);
}

#[test]
fn without_room_for_what_lies_between_two_releases_the_old_one_is_not_ended() {
    if !is_root("a disk without room between two releases") {
        return;
    }
    let scene = Scene::new();
    let pids = scene.sandbox.status().ready_pids("shop/web");
    // The build leaves room for the journal, and no more.
    let left = "$(( ($(stat -f -c %a .) * $(stat -f -c %S .) >> 20) - 4 ))";
    let fill =
        format!("build = {{ shell = \"dd if=/dev/zero of=$DATA/large bs=1M count={left}\" }}");
    let keys = format!("env = {{ LEVEL = \"second\" }}\n{fill}");
    let site = Site::new("shop")
        .app("web", FakeApp::new().key(&keys))
        .more("[deploy]\nstrategy = \"recreate\"\nwatch = false")
        .file("level", "second");
    let said = deploy(&scene.sandbox, &site);
    said.code(1).says(["SW-", "needs room set aside", "df -h"]);
    assert_eq!(scene.sandbox.status().ready_pids("shop/web"), pids);
    assert_eq!(served(&scene.sandbox), "first");
    let data = scene.sandbox.state().join("data").join(scene.sandbox.own_name("shop"));
    fs::remove_file(scene.sandbox.seen(&data.join("large"))).unwrap();
    assert_eq!(last(&scene.sandbox)["state"], "failed");
    deploy(&scene.sandbox, &level("second", "recreate")).success();
    assert_eq!(served(&scene.sandbox), "second");
}
