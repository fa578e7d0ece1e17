//! Control as a service of systemd: told to it, kept by it, started again by it.
//!
//! The manager here is a script that speaks systemd's protocols. The real one is asked by
//! `cargo xtask host-test`, which nothing but a real host or a virtual machine can do.

mod kept;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

/// The manager; ends with the test, what it started is the sandbox's.
struct Manager {
    process: Child,
    heard: PathBuf,
}

impl Manager {
    fn start(sandbox: &Sandbox) -> Self {
        let script = sandbox.folder().join("manager.py");
        std::fs::write(&script, include_str!("systemd/manager.py")).unwrap();
        let heard = sandbox.folder().join("heard");
        let log = std::fs::File::create(sandbox.folder().join("out/manager")).unwrap();
        let mut command = Command::new("python3");
        command.arg(script).arg(sandbox.folder().join("notify")).arg(&heard);
        command.arg(sandbox.folder().join("bin/seaworthy")).args(["control", "--state"]);
        command.arg(sandbox.state()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("SEAWORTHY_RUN", sandbox.folder().join("run"));
        command.env("SEAWORTHY_CRASH_FILE", sandbox.folder().join("crash"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let manager = Self { process: command.spawn().unwrap(), heard };
        manager.until("it serves", |heard| heard.contains("READY=1"));
        manager
    }

    fn heard(&self) -> String {
        std::fs::read_to_string(&self.heard).unwrap_or_default()
    }

    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        eventually(&format!("{what}: {}", self.heard()), LIMIT, || wanted(&self.heard()));
    }

    /// How often the service was started.
    fn starts(&self) -> usize {
        self.heard().matches("READY=1").count()
    }

    /// The names of what it keeps now.
    fn kept(&self) -> Vec<String> {
        let heard = self.heard();
        let last = heard.lines().rev().find_map(|line| line.strip_prefix("kept"));
        last.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// How the addresses that the edge listens on are called.
fn names(sandbox: &Sandbox) -> Vec<String> {
    let status = sandbox.status();
    let edge = &status.document()["edge"];
    let of = |scheme: &str| {
        let all = edge[scheme].as_array().unwrap().clone();
        let name = move |one: &serde_json::Value| one.as_str().unwrap().replace(':', "+");
        all.iter().map(|one| format!("{scheme}-{}", name(one))).collect::<Vec<_>>()
    };
    let mut names = [of("http"), of("https")].concat();
    names.sort();
    names
}

fn two() -> Site {
    Site::new("shop").app("web", FakeApp::new().instances(2))
}

#[test]
fn keeps_what_is_listened_on_and_a_death_of_control_and_edge_refuses_no_connection() {
    let sandbox = sandbox();
    let manager = Manager::start(&sandbox);
    sandbox.up(&two());
    let before = sandbox.status();
    assert_eq!(before.document()["control"]["keeper"], serde_json::Value::Null);
    assert_eq!(manager.kept(), names(&sandbox));
    assert!(!manager.kept().is_empty());
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 30);
    // Control first: it would start another edge.
    sandbox.kill_hard(before.control_pid());
    sandbox.kill_hard(before.edge_pid().unwrap());
    let after = eventually_some("control and edge are back", LIMIT, || {
        let status = sandbox.try_status()?;
        let both = status.control_pid() != before.control_pid()
            && status.edge_pid().is_some_and(|pid| Some(pid) != before.edge_pid());
        both.then_some(status)
    });
    let so_far = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > so_far + 60);
    let report = running.stop();
    assert_eq!(report.refused(), 0, "{report}");
    assert_eq!(manager.starts(), 2);
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    assert_eq!(manager.kept(), names(&sandbox));
}

#[test]
fn a_new_edge_takes_nobody_before_it_knows_what_is_served() {
    let sandbox = sandbox();
    let manager = Manager::start(&sandbox);
    sandbox.up(&two());
    let (before, client) = (sandbox.status(), sandbox.https(&shop()));
    // The next control says nothing more to its edge than what that knows when it begins.
    let trigger = sandbox.folder().join("crash");
    std::fs::write(&trigger, "wait edge-ensured").unwrap();
    sandbox.kill_hard(before.control_pid());
    sandbox.kill_hard(before.edge_pid().unwrap());
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(manager.starts(), 1, "control answers already");
    std::fs::remove_file(trigger).unwrap();
    manager.until("it serves again", |heard| heard.matches("READY=1").count() == 2);
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn starts_control_again_and_what_is_served_goes_on() {
    let sandbox = sandbox();
    let manager = Manager::start(&sandbox);
    sandbox.up(&two());
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 30);
    sandbox.terminate(before.control_pid());
    let after = eventually_some("the next control answers", LIMIT, || {
        sandbox.try_status().filter(|status| status.control_pid() != before.control_pid())
    });
    let so_far = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > so_far + 60);
    running.stop().assert_clean();
    assert_eq!(after.edge_pid(), before.edge_pid());
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before.ready_pids("shop/web"));
    assert_eq!(manager.kept(), names(&sandbox));
    manager.until("it says that it is not stuck", |heard| heard.contains("WATCHDOG=1"));
}

#[test]
fn starts_the_build_before_again_when_an_upgrade_does_not_come_up() {
    let sandbox = sandbox();
    let manager = Manager::start(&sandbox);
    sandbox.up(&two());
    let before = sandbox.status();
    let broken = sandbox.folder().join("bin/broken");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'seaworthy 9.9.9'\nexit 70\n";
    std::fs::write(&broken, script).unwrap();
    std::fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).unwrap();
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 30);
    let output = sandbox.run(["upgrade".as_ref(), broken.as_os_str()]);
    output.code(1).says(["SW-CTL-012", "did not come up"]);
    running.stop().assert_clean();
    let after = sandbox.status();
    assert_ne!(after.control_pid(), before.control_pid());
    assert_eq!(after.edge_pid(), before.edge_pid());
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before.ready_pids("shop/web"));
    assert_eq!((manager.starts(), manager.kept()), (2, names(&sandbox)));
}

#[test]
fn starts_the_build_that_took_over() {
    let sandbox = sandbox();
    let manager = Manager::start(&sandbox);
    sandbox.up(&shop());
    let before = sandbox.status();
    let next = sandbox.folder().join("bin/seaworthy-next");
    std::fs::copy(sandbox.folder().join("bin/seaworthy"), &next).unwrap();
    sandbox.run(["upgrade".as_ref(), next.as_os_str()]).success();
    let upgraded = sandbox.status();
    assert_eq!(upgraded.control_pid(), before.control_pid(), "the same process");
    sandbox.terminate(upgraded.control_pid());
    let after = eventually_some("the next control answers", LIMIT, || {
        sandbox.try_status().filter(|status| status.control_pid() != before.control_pid())
    });
    let program = std::fs::read_link(format!("/proc/{}/exe", after.control_pid())).unwrap();
    assert_eq!(program, next);
    assert_eq!(after.edge_pid(), upgraded.edge_pid());
    assert_eq!(manager.kept(), names(&sandbox));
}

#[test]
fn keeps_nothing_of_a_site_that_is_down_and_control_goes_on() {
    let sandbox = sandbox();
    let manager = Manager::start(&sandbox);
    sandbox.up(&two());
    let control = sandbox.status().control_pid();
    assert!(!manager.kept().is_empty());
    sandbox.run(["down", "--all"]).success();
    manager.until("nothing is kept", |_| manager.kept().is_empty());
    let status = sandbox.status();
    assert_eq!((status.control_pid(), manager.starts()), (control, 1));
    assert_eq!(status.edge_pid(), None);
    sandbox.up(&two());
    assert_eq!(manager.kept(), names(&sandbox));
}
