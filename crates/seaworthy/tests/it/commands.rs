//! What commands of a deployment and jobs may do to the rest: they stand in control groups of their own, with limits,
//! and do not outlive the deployment that they belong to, however control dies.

use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, eventually, eventually_some, is_root};

use crate::{LIMIT, sandbox, shop};

const QUICK: &str = "[deploy]\nwatch = false";

/// A release with these lines in its service's table, and these in `[deploy]`.
fn with(keys: &str, deploy: &str) -> Site {
    let site = Site::new("shop").app("web", FakeApp::new().key(keys)).file("keys", keys);
    site.more(&format!("{QUICK}\n{deploy}"))
}

fn deploy(sandbox: &Sandbox, site: &Site) -> Output {
    let project = sandbox.write(site);
    sandbox.run(["deploy".as_ref(), project.as_os_str()])
}

/// What works in a release's folder and sleeps.
fn sleepers(sandbox: &Sandbox) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let sleeps = |pid: &u32| {
        let path = format!("/proc/{pid}");
        let inside = std::fs::read_link(format!("{path}/cwd"))
            .is_ok_and(|cwd| cwd.starts_with(sandbox.state().join("sites")));
        inside
            && std::fs::read(format!("{path}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
    };
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(sleeps).collect()
}

/// The deployments of the site, newest first, once none goes on.
fn ended(sandbox: &Sandbox) -> serde_json::Value {
    eventually_some("every deployment has an ending", LIMIT, || {
        let output = sandbox.run(["releases", "shop", "--json"]);
        let found: serde_json::Value = serde_json::from_str(output.raw_stdout()).ok()?;
        let all = found["deployments"].as_array()?;
        let over = |one: &serde_json::Value| one["state"] == "live" || one["state"] == "failed";
        all.iter().all(over).then(|| found["deployments"].clone())
    })
}

#[test]
fn of_a_deployment_end_with_control_those_in_sessions_of_their_own_too() {
    if !is_root("commands in control groups") {
        return;
    }
    let sandbox = sandbox();
    sandbox.up(&with("env = { LEVEL = \"old\" }", ""));
    let sleeps = "{ shell = \"setsid sleep 600 & sleep 600\" }";
    for (verb, cause) in [("build", "`build`"), ("migrate", "`migrate`")] {
        let project = sandbox.write(&with(&format!("{verb} = {sleeps}"), ""));
        let running = sandbox.spawn(["deploy".as_ref(), project.as_os_str()]);
        eventually("both of it run", LIMIT, || sleepers(&sandbox).len() == 2);
        let before = sandbox.status().control_pid();
        sandbox.kill_hard(before);
        eventually("the next control answers", LIMIT, || {
            sandbox.try_status().is_some_and(|status| status.control_pid() != before)
        });
        eventually("nothing of it is left", LIMIT, || sleepers(&sandbox).is_empty());
        let said = running.finish(LIMIT);
        said.code(1).says(["SW-CTL-010", "seaworthy status"]);
        let last = &ended(&sandbox)[0];
        assert_eq!(last["state"], "failed");
        let what = last["fault"]["what"].as_str().unwrap();
        assert!(what.contains(cause), "{what}");
        assert_eq!(sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"], "old");
    }
    deploy(&sandbox, &with("migrate = \"true\"", "")).success();
}

#[test]
fn that_leave_something_running_do_not_leave_it_beyond_the_deployment() {
    if !is_root("commands in control groups") {
        return;
    }
    let sandbox = sandbox();
    let leaves = "build = { shell = \"setsid sleep 600 > /dev/null 2>&1 & echo built\" }";
    sandbox.up(&with(leaves, ""));
    assert_eq!(sleepers(&sandbox), Vec::<u32>::new());
}

#[test]
fn that_need_more_memory_than_they_are_given_are_named_and_nothing_else_is_ended() {
    if !is_root("limits of control groups") {
        return;
    }
    let sandbox = sandbox();
    sandbox.up(&with("env = { LEVEL = \"old\" }", ""));
    let before = sandbox.status();
    let eats = "{ shell = \"head -c 400M /dev/zero | tail\" }";
    let site = with(&format!("build = {eats}"), "build_memory = \"64M\"\nbuild_cpu = 1.5");
    deploy(&sandbox, &site).code(1).says([
        "SW-REL-001",
        "more memory than the 64M",
        "raise `build_memory`",
    ]);
    // Without a limit of their own they go before anything that serves.
    let shows = "{ shell = \"cat /proc/self/oom_score_adj /proc/self/cgroup; exit 1\" }";
    let said = deploy(&sandbox, &with(&format!("build = {shows}"), ""));
    said.code(1).says(["| 500", "/seaworthy/shop.deployment."]);
    let after = sandbox.status();
    assert_eq!(after.control_pid(), before.control_pid());
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    // A job runs its service's code, and within its limits.
    let job = format!("[job.large]\nat = \"04:00\"\nservice = \"web\"\nrun = {eats}");
    sandbox.up(&with("memory = \"64M\"", "").more(&format!("\n{job}")));
    let said = sandbox.run(["job", "run", "large"]);
    said.code(1).says(["SW-JOB-001", "more memory than the 64M", "`memory` of its service"]);
}
