//! Jobs: at their times, once at a time, with a result that is remembered.

use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox};

fn with(jobs: &str) -> Site {
    Site::new("shop").app("web", FakeApp::new().key("env = { LEVEL = \"seven\" }")).more(jobs)
}

fn job(sandbox: &Sandbox, name: &str) -> Option<serde_json::Value> {
    let output = sandbox.run(["job", "list", "shop", "--json"]);
    let found: serde_json::Value = serde_json::from_str(output.raw_stdout()).ok()?;
    found["jobs"].as_array()?.iter().find(|one| one["name"] == name).cloned()
}

#[test]
fn they_run_in_time_or_when_asked_and_their_results_are_kept() {
    let sandbox = sandbox();
    sandbox.up(&with(
        "[job.often]\nevery = \"1s\"\nservice = \"web\"\nrun = { shell = \"echo $LEVEL >> $DATA/ran\" }\n\
         [job.nightly]\nat = \"04:00\"\nget = \"/say?text=x\"\n\
         [job.bad]\ncron = \"0 0 1 1 *\"\npost = \"/status?code=503\"\n\
         [job.slow]\nat = \"04:00\"\nservice = \"web\"\nrun = \"sleep 600\"\ntimeout = \"300ms\"",
    ));
    let ran = || {
        std::fs::read_to_string(
            sandbox.state().join("data").join(sandbox.own_name("shop")).join("ran"),
        )
    };
    eventually("the job ran twice", LIMIT, || ran().is_ok_and(|text| text == "seven\nseven\n"));
    sandbox.run(["job", "run", "nightly"]).success().says(["nightly: ok"]);
    let nightly = job(&sandbox, "nightly").unwrap();
    assert_eq!((&nightly["state"], &nightly["when"]), (&"ok".into(), &"at 04:00".into()));
    sandbox.run(["job", "run", "bad"]).code(1).says(["SW-JOB-001", "the answer was 503"]);
    sandbox.run(["job", "run", "slow"]).code(1).says(["did not end within"]);
    let said = sandbox.run(["job", "run", "nightly", "--json"]);
    assert_eq!(said.success().json()["state"], "ok");
    sandbox.run(["job", "run", "none"]).code(1).says(["SW-JOB-002"]);
    sandbox.run(["job", "list"]).success().says(["often", "every 1s", "cron 0 0 1 1 *", "failed"]);
}

#[test]
fn one_that_still_runs_is_not_started_again_not_even_by_the_next_control() {
    let sandbox = sandbox();
    sandbox.up(&with(
        "[job.long]\nevery = \"1s\"\nservice = \"web\"\nrun = { shell = \"echo x >> $DATA/began; sleep 600\" }",
    ));
    let began = || {
        let path = sandbox.state().join("data").join(sandbox.own_name("shop")).join("began");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    eventually("it began", LIMIT, || began() == "x\n");
    let before = sandbox.status().control_pid();
    sandbox.kill_hard(before);
    let next = eventually_some("the next control answers", LIMIT, || {
        sandbox.try_status().filter(|status| status.control_pid() != before)
    });
    sandbox.run(["job", "run", "long"]).code(1).says(["runs already"]);
    assert_eq!(began(), "x\n");
    assert_eq!(sandbox.status().control_pid(), next.control_pid());
    // What is left of it holds nobody's platform: it is ended with the test.
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let inside = std::fs::read_link(entry.path().join("cwd"))
            .is_ok_and(|cwd| cwd.starts_with(sandbox.state().join("sites")));
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if inside && (line.starts_with(b"sh\0") || line.starts_with(b"sleep\0")) {
            let pid = entry.file_name();
            std::process::Command::new("kill").arg("-9").arg(pid).status().unwrap();
        }
    }
}
