//! A clock that is set while everything runs, by a day back and by two on: processes, requests, logs and
//! releases go on, and each still says what it said.
//!
//! The wall clock of all our processes is that of libfaketime; the monotonic clock is the machine's.

use std::fs;
use std::path::PathBuf;

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

/// The library, wherever the distribution keeps it.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let at = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let found = folders.map(|folder| at(folder.path())).find(|library| library.exists());
    found.ok_or("libfaketime is missing (Debian and Ubuntu: package faketime)").unwrap()
}

pub(crate) struct Clock(PathBuf);

impl Clock {
    /// Sets the clock: so far from the machine's, as libfaketime writes it.
    pub(crate) fn set(&self, offset: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(&new, &self.0).unwrap();
    }
}

/// A platform whose processes have a clock of their own.
pub(crate) fn with_clock() -> (Sandbox, Clock) {
    let sandbox = sandbox();
    let file = sandbox.folder().join("clock");
    let clock = Clock(file.clone());
    clock.set("+0");
    let sandbox = sandbox
        .env("LD_PRELOAD", &library().display().to_string())
        .env("FAKETIME_TIMESTAMP_FILE", &file.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    (sandbox, clock)
}

/// What must be as it always is.
fn all_is_well(sandbox: &Sandbox, word: &str) {
    let before = sandbox.status();
    // A request is served, and found again by its id.
    let answer = sandbox.https(&shop()).get(&format!("/log?text=at-{word}"));
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").unwrap().to_owned();
    eventually("the request is in the access log", LIMIT, || {
        sandbox.run(["explain", "request", &id]).exit_code() == Some(0)
    });
    // An instance that dies is back.
    let pid = before.ready_pids("shop/web")[0];
    sandbox.kill_hard(pid);
    let back = eventually_some("the instance is back", LIMIT, || {
        let status = sandbox.try_status()?;
        status.ready_pids("shop/web").first().copied().filter(|new| *new != pid)
    });
    // Control that dies is back, and knows what runs.
    sandbox.kill_hard(before.control_pid());
    eventually("the next control has adopted it", LIMIT, || {
        sandbox.try_status().is_some_and(|status| {
            status.control_pid() != before.control_pid() && status.ready_pids("shop/web") == [back]
        })
    });
    // What it wrote is all there.
    sandbox.run(["logs", "shop/web"]).success().says([format!("at-{word}").as_str()]);
}

#[test]
fn that_is_set_back_or_on_costs_nothing() {
    let (sandbox, clock) = with_clock();
    sandbox.up(&shop());
    for (offset, word) in [("-1d", "earlier"), ("+2d", "later"), ("+0", "now")] {
        clock.set(offset);
        all_is_well(&sandbox, word);
        let changed = shop().file("changed.txt", word);
        sandbox.up(&changed);
        assert_eq!(sandbox.https(&shop()).get("/").status, 200, "{word}");
    }
    // They stand in the order in which they were made, whatever their times say.
    let listed = sandbox.run(["releases", "shop", "--json"]).json();
    let releases = listed["releases"].as_array().unwrap().iter();
    let (names, times): (Vec<_>, Vec<_>) = releases
        .map(|one| (one["id"].as_str().unwrap()[..2].to_owned(), one["made"].to_string()))
        .unzip();
    assert_eq!(names, ["r4", "r3", "r2", "r1"]);
    assert!(times[0] < times[1] && times[1] > times[2] && times[2] < times[3], "{times:?}");
}

#[test]
fn that_jumps_while_a_release_is_watched_neither_ends_the_watch_nor_stretches_it() {
    let (sandbox, clock) = with_clock();
    let level = |level: &str, app: FakeApp| {
        let app = app.key(&format!("env = {{ LEVEL = \"{level}\" }}"));
        Site::new("shop").app("web", app).more("[deploy]\nwatch = { for = \"1500ms\" }")
    };
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    let watched = |site: &Site| {
        let project = sandbox.write(site);
        let deploy = sandbox.spawn(["deploy".as_ref(), project.as_os_str()]);
        eventually("it is watched", LIMIT, || {
            sandbox.run(["releases", "shop", "--json"]).json()["deployments"][0]["state"] == "watch"
        });
        deploy
    };
    sandbox.up(&level("one", FakeApp::new()));
    for (offset, word) in [("-1d", "earlier"), ("+2d", "later"), ("+0", "now")] {
        let deploy = watched(&level(word, FakeApp::new()));
        clock.set(offset);
        deploy.finish(LIMIT).success();
        assert_eq!(served(), word);
        let last = sandbox.run(["releases", "shop", "--json"]).json()["deployments"][0].clone();
        let steps = last["steps"].as_array().unwrap();
        let watch = steps.iter().find(|step| step[0] == "watch").unwrap()[1].as_u64().unwrap();
        assert!((1500..60_000).contains(&watch), "{offset}: watched for {watch} ms; {last:#}");
    }
    // One that is worse is found out all the same.
    let bad = Site::new("shop")
        .app("web", FakeApp::new().broken_after(3))
        .more("[deploy]\nwatch = { for = \"60s\" }");
    let deploy = watched(&bad);
    clock.set("+3d");
    let client = sandbox.https(&shop());
    eventually("it is taken back", LIMIT, || {
        client.get("/");
        sandbox.run(["releases", "shop", "--json"]).json()["deployments"][0]["state"]
            == "taken back"
    });
    deploy.finish(LIMIT).code(1).says(["SW-REL-005"]);
    assert_eq!(served(), "now");
}

#[test]
fn that_went_on_while_nothing_ran_makes_up_for_a_missed_job_once() {
    let (sandbox, clock) = with_clock();
    let jobs = "[job.nightly]\nat = \"04:00\"\nservice = \"web\"\nrun = { shell = \"echo ran >> $DATA/ran\" }";
    let site = Site::new("shop").app("web", FakeApp::new()).more(jobs);
    sandbox.up(&site);
    let ran = || {
        let path = sandbox.state().join("data").join(sandbox.own_name("shop")).join("ran");
        fs::read_to_string(path).unwrap_or_default()
    };
    let down = || {
        let control = sandbox.status().control_pid();
        sandbox.terminate(control);
        eventually("control ended", LIMIT, || !seaworthy_testkit::process::lives(control));
    };
    // It is known from the first look at it on.
    sandbox.run(["job", "list"]).success().says(["nightly", "at 04:00"]);
    assert_eq!(ran(), "");
    // Three nights without anybody to run it.
    down();
    clock.set("+3d");
    sandbox.up(&site);
    eventually("it ran", LIMIT, || ran() == "ran\n");
    eventually("its result is kept", LIMIT, || {
        sandbox.run(["job", "list", "shop", "--json"]).json()["jobs"][0]["state"] == "ok"
    });
    // Nor does the next control make up for it again.
    down();
    sandbox.up(&site);
    sandbox.run(["job", "run", "nightly"]).success();
    assert_eq!(ran(), "ran\nran\n");
}
