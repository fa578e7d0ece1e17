//! A panic in control, at every step of a deployment: it is resolved as a death there is, at once and by the same process,
//! and the next deployment need not wait for anybody.
//!
//! The places are control's own (`crates/control/src/crash.rs`), in builds for tests only.

use std::fs;
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Site, eventually};

use crate::crash::{FROM_THE_SWITCH_ON, Scene, level};
use crate::{LIMIT, sandbox, shop};

/// Panics at a place, and sees what came of it.
fn panic_at(scene: &Scene, place: &str, site: &Site, before: &str, after: &str) {
    fs::write(&scene.trigger, format!("panic {place}")).unwrap();
    let control = scene.sandbox.status().control_pid();
    let said = scene.deploy(site);
    assert!(!scene.trigger.exists(), "{place} was never reached: {said}");
    let last = scene.last();
    let live = last["state"] == "live";
    assert_eq!(scene.served(), if live { after } else { before }, "{place}: {last:#}; {said}");
    assert_eq!(said.exit_code() == Some(0), live, "{said}");
    if place != "closed" {
        // Who asked is told, whatever came of it.
        said.says(["a test wanted a panic at"]);
        scene.sandbox.run(["audit"]).says(["take-over", "a defect of control"]);
    }
    if !live {
        said.says([
            "SW-REL-012",
            "was cut off in step",
            "seaworthy logs --control",
            "(does it again)",
        ]);
    }
    assert_eq!(scene.sandbox.status().control_pid(), control, "control lives through {place}");
    // Nobody holds the site any more.
    let project = scene.sandbox.write(site);
    let next = ["deploy".as_ref(), project.as_os_str(), "--no-wait".as_ref()];
    scene.sandbox.run(next).success();
    assert_eq!(scene.served(), after, "after {place}");
    assert_eq!(scene.last()["state"], "live");
}

/// Panics once at each of these places, under load.
fn play(strategy: &str, places: &[&str]) {
    let scene = Scene::new();
    let target = scene.sandbox.target(&shop());
    let running = Load::new(target).mixed(30.0).start(Duration::from_secs(240));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    let mut before = "first".to_owned();
    for (number, place) in places.iter().enumerate() {
        let after = format!("{strategy}-{number}");
        panic_at(&scene, place, &level(&after, strategy), &before, &after);
        before = after;
    }
    running.stop().assert_clean();
}

#[test]
fn up_to_the_gate_leaves_the_old_release_serving_and_nobody_waiting() {
    let places = [
        "fetch:before",
        "check:done",
        "build:done",
        "restore-point:before",
        "migrate:before",
        "migrate:done",
        "start:before",
        "gate:done",
    ];
    play("rolling", &places);
}

#[test]
fn from_the_switch_on_goes_on_with_the_release_that_serves() {
    play("blue-green", &FROM_THE_SWITCH_ON);
}

#[test]
fn between_two_releases_that_exclude_each_other_brings_one_of_them_back() {
    play("recreate", &["start:done", "migrate:before", "switch:before", "switched", "gate:before"]);
}

#[test]
fn of_a_first_deployment_and_of_its_death_leaves_a_journal_that_is_closed() {
    let sandbox = sandbox();
    let trigger = sandbox.folder().join("crash");
    let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", &trigger.display().to_string());
    let scene = Scene { sandbox, trigger };
    // Something else runs, so that there is a control to ask.
    scene.sandbox.up(&Site::new("other").app("web", FakeApp::new()));
    for asked in ["panic build:done", "build:done"] {
        fs::write(&scene.trigger, asked).unwrap();
        let said = scene.deploy(&level("first", "rolling"));
        assert_ne!(said.exit_code(), Some(0), "{said}");
        assert!(!scene.trigger.exists(), "{said}");
        let last = scene.last();
        assert_eq!(last["state"], "failed", "{asked}: {last:#}");
        assert_eq!(last["fault"]["code"], "SW-REL-012");
    }
    scene.deploy(&level("first", "rolling")).success();
    assert_eq!(scene.served(), "first");
}

#[test]
fn of_what_keeps_instances_alive_begins_it_again() {
    let scene = Scene::new();
    let before = scene.sandbox.status().ready_pids("shop/web");
    fs::write(&scene.trigger, "panic reconcile").unwrap();
    eventually("it panicked", LIMIT, || !scene.trigger.exists());
    scene.sandbox.kill_hard(
        scene.sandbox.status().instances("shop/web")[0]["shim_pid"].as_u64().unwrap() as u32,
    );
    eventually("another instance is ready", LIMIT, || {
        let now = scene.sandbox.status().ready_pids("shop/web");
        now.len() == 1 && now != before
    });
    scene.sandbox.run(["logs", "--control"]).says(["the loop of instances begins again"]);
}
