//! Deployments that fail in ways that nobody plans: what serves goes on, and each names its cause.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox, shop};

const QUICK: &str = "[deploy]\nwatch = false\ntimeout = \"4s\"";

/// What serves before.
fn old() -> Site {
    Site::new("shop").app("web", FakeApp::new().key("env = { LEVEL = \"old\" }")).more(QUICK)
}

/// A release with these lines in its service's table.
fn with(keys: &str) -> Site {
    Site::new("shop").app("web", FakeApp::new().key(keys)).more(QUICK).file("keys", keys)
}

fn deploy(sandbox: &Sandbox, site: &Site) -> Output {
    let project = sandbox.write(site);
    sandbox.run(["deploy".as_ref(), project.as_os_str()])
}

fn served(sandbox: &Sandbox) -> String {
    let answer = sandbox.https(&shop()).get("/env?name=LEVEL").json();
    answer["value"].as_str().unwrap_or_default().to_owned()
}

/// The most memory that a process ever had, in MiB.
fn peak(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn of_a_build_that_prints_a_gigabyte_the_beginning_is_shown_and_nothing_grows() {
    let sandbox = sandbox();
    sandbox.up(&old());
    let control = sandbox.status().control_pid();
    // In lines that nobody reads, and in one that never ends.
    let many = "yes $(head -c 60000 /dev/zero | tr '\\\\0' x) | head -c 512M";
    let one = "head -c 512M /dev/zero";
    let build = format!(
        "build = [{{ shell = \"{many}\" }}, {{ shell = \"{one}\" }}, {{ shell = \"echo the end; exit 3\" }}]"
    );
    let said = deploy(&sandbox, &with(&build));
    said.code(1).says([
        "SW-REL-001",
        "exit status: 3",
        "| the end",
        "the rest is in",
        "release.log",
    ]);
    assert!(said.raw_stderr().len() < 8 << 20, "{}", said.raw_stderr().len());
    let status = sandbox.status();
    assert_eq!(status.control_pid(), control);
    assert!(peak(control) < 150, "{} MiB", peak(control));
    let logs = sandbox.state().join("logs").join(sandbox.own_name("shop"));
    let files = fs::read_dir(logs).unwrap().flatten();
    let all: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(all < 80 << 20, "{all} bytes of logs");
    assert_eq!(served(&sandbox), "old");
}

#[test]
fn each_names_its_cause_and_the_old_release_serves() {
    let sandbox = sandbox();
    sandbox.up(&old());
    let fails = |keys: &str, says: &[&str]| {
        deploy(&sandbox, &with(keys)).code(1).says(says.iter().copied());
        assert_eq!(served(&sandbox), "old", "{keys}");
    };
    fails(
        "build = \"dd if=/dev/zero of=/dev/full bs=64k\"",
        &["SW-REL-001", "the disk is full", "No space left on device", "df -h"],
    );
    // Commands that somebody kills: the deployment fails, and the next one is none the wiser.
    fails("build = { shell = \"kill -9 $$\" }", &["SW-REL-001", "signal: 9"]);
    fails("migrate = { shell = \"kill -9 $$\" }", &["SW-REL-002", "signal: 9"]);
    // One that hangs, with what it started.
    let hangs = "build = { shell = \"sleep 600 & wait\" }";
    let site = Site::new("shop").app("web", FakeApp::new().key(hangs)).file("keys", hangs);
    let site = site.more(&format!("{QUICK}\nbuild_timeout = \"1s\""));
    deploy(&sandbox, &site).code(1).says(["SW-REL-001", "it did not end within 1s", "release.log"]);
    assert_eq!(served(&sandbox), "old");
    let sleeps = |one: &seaworthy_testkit::process::Process| one.command.contains("sleep 600");
    assert_eq!(sandbox.processes().into_iter().find(sleeps), None);
    let site = Site::new("shop").app("web", FakeApp::new()).file("keys", "checks");
    let site =
        site.more(&format!("{QUICK}\nchecks = {{ shell = \"echo 3 tests failed; exit 1\" }}"));
    deploy(&sandbox, &site).code(1).says(["SW-REL-011", "3 tests failed"]);
    assert_eq!(served(&sandbox), "old");
    fails("build = \"no-such-tool\"", &["SW-REL-001", "`no-such-tool` could not be started"]);
    // It listens, but not where it was told to.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let elsewhere = Site::new("shop").app("web", FakeApp::new().port(port)).more(QUICK);
    deploy(&sandbox, &elsewhere).code(1).says(["SW-REL-013", "(SW-RUN-007)"]);
    assert_eq!(served(&sandbox), "old");
    // Builds that succeed and make nothing.
    let program = Site::new("shop")
        .manifest("site = \"shop\"\ndomains = [\"shop.localhost\"]\n{listen}[service.web]\nbuild = \"true\"\nrun = \"./dist/server\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[deploy]\ntimeout = \"4s\"\n");
    deploy(&sandbox, &program).code(1).says(["./dist/server", "SW-RUN-001"]);
    assert_eq!(served(&sandbox), "old");
    let files = Site::new("shop")
        .manifest("site = \"shop\"\ndomains = [\"shop.localhost\"]\n{listen}[service.web]\nbuild = \"true\"\nstatic = \"dist\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n");
    deploy(&sandbox, &files).code(1).says(["no build command made it", "`static = \"dist\"`"]);
    assert_eq!(served(&sandbox), "old");
    // 200 on its health check, and broken for everybody else.
    let broken = Site::new("shop").app("web", FakeApp::new().broken_after(0)).more(QUICK);
    deploy(&sandbox, &broken).code(1).says(["SW-REL-004", "the answer was 500"]);
    assert_eq!(served(&sandbox), "old");
    eventually("nothing of them is left", LIMIT, || {
        sandbox.status().instances("shop/web").len() == 1
    });
}

#[test]
fn one_that_starts_only_on_the_third_try_is_given_three() {
    let sandbox = sandbox();
    sandbox.up(&old());
    let text = "site = \"shop\"\ndomains = [\"shop.localhost\"]\n{listen}[service.web]\nrun = { shell = \"echo x >> $DATA/tries; test $(wc -l < $DATA/tries) -gt 2 && LEVEL=third exec {fakeapp}; echo not yet; exit 1\" }\nrestart = { backoff_min = \"50ms\" }\nhealth = \"/health\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[deploy]\nwatch = false\n";
    deploy(&sandbox, &Site::new("shop").manifest(text)).success();
    assert_eq!(served(&sandbox), "third");
    assert_eq!(sandbox.status().instances("shop/web").last().unwrap()["restarts"], 2);
    // One that can be reached past the edge serves, and is told of.
    let open = Site::new("shop").app("web", FakeApp::new().bind(Ipv4Addr::UNSPECIFIED.into()));
    let open = open.more(QUICK);
    deploy(&sandbox, &open).success().says(["SW-RUN-008", "past the edge"]);
    // Also where it was ready long before anybody looked.
    let routed = open.more("\n[[route]]\npaths = [\"/x\"]\nrespond = { status = 204 }");
    deploy(&sandbox, &routed).success().says(["SW-RUN-008", "past the edge"]);
    sandbox.run(["status"]).says(["SW-RUN-008", "past the edge"]);
}
