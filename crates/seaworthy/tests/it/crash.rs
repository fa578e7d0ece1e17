//! `kill -9` of control at every step of a deployment: one release or the other serves, never none; the
//! journal says which; the next deployment works without a hand.
//!
//! The places are control's own (`crates/control/src/crash.rs`), in builds for tests only.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

/// A release with something to do in every step.
pub(crate) fn level(level: &str, strategy: &str) -> Site {
    let keys = format!(
        "env = {{ LEVEL = \"{level}\" }}\nbuild = \"touch built\"\nmigrate = \"test -f built\""
    );
    let deploy = format!(
        "[deploy]\nstrategy = \"{strategy}\"\nchecks = \"true\"\nwatch = {{ for = \"200ms\" }}\ncanary = {{ steps = [\"50%\"], for = \"100ms\" }}"
    );
    // A file of its own: each level is another content, so that each is built and migrated.
    Site::new("shop").app("web", FakeApp::new().key(&keys)).more(&deploy).file("level", level)
}

/// A site that serves its first release, and what is to happen to control.
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    /// What is to happen, and where (`crates/control/src/crash.rs`).
    pub(crate) trigger: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let sandbox = sandbox();
        let trigger = sandbox.folder().join("crash");
        let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", &trigger.display().to_string());
        sandbox.up(&level("first", "rolling"));
        Self { sandbox, trigger }
    }

    pub(crate) fn served(&self) -> String {
        self.try_served().unwrap_or_default()
    }

    /// None while nobody answers for the application.
    fn try_served(&self) -> Option<String> {
        let answer = self.sandbox.https(&shop()).get("/env?name=LEVEL");
        (answer.status == 200).then(|| answer.json()["value"].as_str().map(str::to_owned))?
    }

    pub(crate) fn deploy(&self, site: &Site) -> seaworthy_testkit::Output {
        let project = self.sandbox.write(site);
        self.sandbox.run(["deploy".as_ref(), project.as_os_str()])
    }

    /// The newest deployment, when none goes on any more.
    pub(crate) fn last(&self) -> serde_json::Value {
        eventually_some("every deployment has an ending", LIMIT, || {
            let output = self.sandbox.run(["releases", "shop", "--json"]);
            let found: serde_json::Value = serde_json::from_str(output.raw_stdout()).ok()?;
            let all = found["deployments"].as_array()?;
            let ended = ["live", "failed", "taken back", "aborted"];
            let over = |one: &serde_json::Value| ended.iter().any(|word| one["state"] == *word);
            all.iter().all(over).then(|| all[0].clone())
        })
    }

    /// Dies at a place, and sees what came of it.
    fn die_at(&self, place: &str, site: &Site, before: &str, after: &str) {
        fs::write(&self.trigger, place).unwrap();
        let control = self.sandbox.status().control_pid();
        let cut = self.deploy(site);
        assert!(!self.trigger.exists(), "{place} was never reached: {:?}", cut.stderr());
        eventually("the next control answers", LIMIT, || {
            self.sandbox.try_status().is_some_and(|status| status.control_pid() != control)
        });
        let last = self.last();
        let served = self.served();
        let expected = if last["state"] == "live" { after } else { before };
        assert_eq!(served, expected, "killed at {place}; the journal says {last:#}");
        if place != "closed" {
            self.sandbox.run(["audit"]).success().says(["take-over", "shop deployment"]);
        }
        // Whatever it came to, the same deployment can be asked for again.
        self.deploy(site).success();
        assert_eq!(self.served(), after, "after {place}");
        assert_eq!(self.last()["state"], "live");
    }
}

/// The places of a deployment from which on the new release may be the one that serves.
pub(crate) const FROM_THE_SWITCH_ON: [&str; 10] = [
    "switch:before",
    "switched",
    "switch:done",
    "watch:before",
    "watch:done",
    "drain:before",
    "drain:done",
    "keep:before",
    "keep:done",
    "closed",
];

/// Kills control once at each of these places, under load.
fn play(strategy: &str, places: &[&str]) {
    let scene = Scene::new();
    let target = scene.sandbox.target(&shop());
    let running = Load::new(target).mixed(30.0).start(Duration::from_secs(240));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    let mut before = "first".to_owned();
    for (number, place) in places.iter().enumerate() {
        let after = format!("{strategy}-{number}");
        scene.die_at(place, &level(&after, strategy), &before, &after);
        before = after;
    }
    running.stop().assert_clean();
    eventually("nothing of the others is left", LIMIT, || {
        scene.sandbox.try_status().is_some_and(|one| one.instances("shop/web").len() == 1)
    });
}

#[test]
fn up_to_the_gate_leaves_the_old_release_serving() {
    let places = [
        "fetch:before",
        "fetch:done",
        "check:before",
        "check:done",
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
fn from_the_switch_on_leaves_one_of_the_two_serving() {
    play("blue-green", &FROM_THE_SWITCH_ON);
}

#[test]
fn of_a_canary_and_of_one_that_excludes_the_old_release_leaves_one_serving() {
    play("canary", &["canary:before", "canary:done"]);
    play(
        "recreate",
        &[
            "start:before",
            "start:done",
            "migrate:before",
            "switch:before",
            "switched",
            "gate:before",
        ],
    );
}

#[test]
fn after_an_edge_took_over_and_before_that_is_written_down_leaves_no_edge_that_nobody_knows() {
    let scene = Scene::new();
    let target = scene.sandbox.target(&shop());
    let running = Load::new(target).mixed(30.0).start(Duration::from_secs(240));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    let control = || scene.sandbox.try_status().map(|status| status.control_pid());
    // The second time the control that finds such an edge dies over the one that it starts, and so does the next.
    for times in [1, 3] {
        let before = control().unwrap();
        fs::write(&scene.trigger, vec!["edge-replaced"; times].join("\n")).unwrap();
        scene.sandbox.run(["restart", "--edge"]);
        eventually("the next control answers", LIMIT, || {
            control().is_some_and(|pid| pid != before) && !scene.trigger.exists()
        });
        let so_far = running.so_far().ok();
        eventually("load goes on", LIMIT, || running.so_far().ok() > so_far + 30);
    }
    // Whatever edge there is hears of it.
    scene.deploy(&level("second", "rolling")).success();
    assert_eq!(scene.served(), "second");
    running.stop().assert_clean();
    eventually("only the edge is left that control knows", LIMIT, || {
        let known = scene.sandbox.try_status().and_then(|status| status.edge_pid());
        let all = scene.sandbox.processes().into_iter();
        let edges = all.filter(|one| one.command.contains("seaworthy edge --number"));
        edges.map(|one| one.pid).eq(known)
    });
}

#[test]
fn on_the_way_back_goes_on_with_the_way_back() {
    let scene = Scene::new();
    let broken =
        Site::new("shop").app("web", FakeApp::new().broken_after(0)).file("level", "broken");
    for place in ["go-back:before", "go-back:done"] {
        fs::write(&scene.trigger, place).unwrap();
        scene.deploy(&broken);
        assert!(!scene.trigger.exists(), "{place} was never reached");
        assert_eq!(scene.last()["state"], "failed");
        assert_eq!(scene.served(), "first");
    }
    scene.deploy(&level("second", "rolling")).success();
    assert_eq!(scene.served(), "second");
}

#[test]
fn of_the_command_line_the_edge_and_a_new_shim_does_not_stop_a_deployment() {
    let scene = Scene::new();
    let running =
        Load::new(scene.sandbox.target(&shop())).mixed(30.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    let project = scene.sandbox.write(&level("second", "blue-green"));
    let words = ["deploy".as_ref(), project.as_os_str(), "--pause".as_ref()];
    let command = scene.sandbox.spawn(words);
    let paused = || {
        let output = scene.sandbox.run(["releases", "shop", "--json"]);
        output.raw_stdout().contains("\"state\": \"pause\"")
    };
    eventually("it is paused", LIMIT, paused);
    scene.sandbox.kill_hard(command.pid());
    let status = scene.sandbox.status();
    let newest = |status: &seaworthy_testkit::Status| {
        status.instances("shop/web").last().map(|one| one["shim_pid"].as_u64().unwrap_or(0) as u32)
    };
    let (edge, shim) = (status.edge_pid().unwrap(), newest(&status).unwrap());
    scene.sandbox.kill_hard(shim);
    scene.sandbox.kill_hard(edge);
    eventually("both are there again", LIMIT, || {
        scene.sandbox.try_status().is_some_and(|status| {
            status.edge_pid().is_some_and(|pid| pid != edge)
                && newest(&status).is_some_and(|pid| pid != shim)
                && status.ready_pids("shop/web").len() == 2
        })
    });
    assert!(paused(), "it still waits for its word");
    scene.sandbox.run(["promote", "shop"]).success();
    assert_eq!(scene.last()["state"], "live");
    assert_eq!(scene.served(), "second");
    // What the edge was answering when it was killed is lost with it; nobody was refused.
    assert_eq!(running.stop().refused(), 0);
}

/// A place in each step of a deployment.
const STEPS: [&str; 16] = [
    "fetch:before",
    "build:before",
    "migrate:before",
    "start:before",
    "start:done",
    "gate:before",
    "gate:done",
    "switch:before",
    "switched",
    "switch:done",
    "watch:before",
    "watch:done",
    "drain:before",
    "drain:done",
    "keep:before",
    "closed",
];

#[test]
fn of_who_asked_at_each_step_leaves_the_deployment_going_on() {
    let scene = Scene::new();
    let target = scene.sandbox.target(&shop());
    let running = Load::new(target).mixed(30.0).start(Duration::from_secs(240));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    for (number, place) in STEPS.iter().enumerate() {
        let strategy = ["rolling", "blue-green", "recreate"][number % 3];
        let after = format!("{strategy}-{number}");
        fs::write(&scene.trigger, format!("cli {place}")).unwrap();
        let said = scene.deploy(&level(&after, strategy));
        assert!(!scene.trigger.exists(), "{place} was never reached: {said}");
        assert_eq!(said.exit_code(), None, "it was killed: {said}");
        assert_eq!(scene.last()["state"], "live", "who asked was killed at {place}");
        assert_eq!(scene.served(), after, "who asked was killed at {place}");
    }
    running.stop().assert_clean();
}

#[test]
fn of_the_newest_shim_at_each_step_leaves_one_of_the_two_serving() {
    let scene = Scene::new();
    let mut before = "first".to_owned();
    for (number, place) in STEPS.iter().enumerate() {
        let strategy = ["rolling", "blue-green", "canary"][number % 3];
        let after = format!("{strategy}-{number}");
        fs::write(&scene.trigger, format!("shim {place}")).unwrap();
        let site = level(&after, strategy);
        let said = scene.deploy(&site);
        assert!(!scene.trigger.exists(), "{place} was never reached: {said}");
        let last = scene.last();
        let expected = if last["state"] == "live" { &after } else { &before };
        // While the only instance of the one comes back, one of the other that still drains may answer in its place,
        // or nobody does.
        let what = format!("what the journal names serves, a shim killed at {place}: {last:#}");
        eventually(&what, LIMIT, || scene.try_served().as_ref() == Some(expected));
        scene.deploy(&site).success();
        assert_eq!(scene.served(), after, "after {place}");
        before = after;
    }
}

#[test]
fn of_the_edge_at_each_step_stops_no_deployment_and_refuses_nobody() {
    let scene = Scene::new();
    let target = scene.sandbox.target(&shop());
    let running = Load::new(target).mixed(30.0).start(Duration::from_secs(240));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    for (number, place) in STEPS.iter().enumerate() {
        let strategy = ["rolling", "blue-green", "canary"][number % 3];
        let after = format!("{strategy}-{number}");
        let edge = scene.sandbox.status().edge_pid();
        fs::write(&scene.trigger, format!("edge {place}")).unwrap();
        let said = scene.deploy(&level(&after, strategy));
        assert!(!scene.trigger.exists(), "{place} was never reached: {said}");
        eventually("another edge serves", LIMIT, || {
            let status = scene.sandbox.try_status();
            status.and_then(|status| status.edge_pid()).is_some_and(|pid| Some(pid) != edge)
        });
        said.success();
        assert_eq!(scene.last()["state"], "live", "edge killed at {place}");
        assert_eq!(scene.served(), after, "edge killed at {place}");
    }
    // What an edge was answering is lost with it; nobody is refused.
    assert_eq!(running.stop().refused(), 0);
}
