//! `upgrade`: another build takes over under load, and one that does not come up changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox, shop};

fn program_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// The same build as another file: what an upgrade does to processes and sockets does not depend on what
/// is in it.
fn second_build(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.folder().join("bin/seaworthy-next");
    fs::copy(sandbox.folder().join("bin/seaworthy"), &path).unwrap();
    path
}

#[test]
fn another_build_takes_over_and_gives_back_without_a_lost_request_or_a_new_application() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop()))
        .mixed(60.0)
        .web_sockets(4)
        .start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().web_sockets.echoes >= 8);
    let next = second_build(&sandbox);
    sandbox.run(["upgrade".as_ref(), next.as_os_str()]).success().says(["has taken over"]);
    let after = sandbox.status();
    assert_eq!(program_of(after.control_pid()), next);
    assert_eq!(program_of(after.edge_pid().unwrap()), next);
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    assert_eq!(after.https(), before.https());
    let echoes = running.so_far().web_sockets.echoes;
    eventually("sockets still echo", LIMIT, || running.so_far().web_sockets.echoes >= echoes + 8);
    // A control that dies now is started again as what it became.
    sandbox.kill_hard(after.control_pid());
    eventually("the next control answers", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != after.control_pid())
    });
    let status = sandbox.status();
    assert_eq!(program_of(status.control_pid()), next);
    let older = status.document()["edge"]["draining"].as_array().unwrap().len();
    assert_eq!(older, 1, "the edge that still has the web sockets is known to every control");
    let back = sandbox.folder().join("bin/seaworthy");
    sandbox.run(["upgrade".as_ref(), back.as_os_str()]).success();
    assert_eq!(program_of(sandbox.status().control_pid()), back);
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 30);
    let report = running.stop();
    report.assert_clean();
    assert_eq!(report.web_sockets.opened, 4);
}

#[test]
fn one_that_is_none_or_does_not_come_up_changes_nothing() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    let script = |name: &str, text: &str| {
        let path = sandbox.folder().join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let foreign = script("foreign", "#!/bin/sh\necho something else\n");
    sandbox
        .run(["upgrade".as_ref(), foreign.as_os_str()])
        .code(1)
        .says(["SW-CTL-012", "no Seaworthy"]);
    assert_eq!(sandbox.status().control_pid(), before.control_pid());
    let broken = script(
        "broken",
        "#!/bin/sh\n[ \"$1\" = --version ] && echo seaworthy 9.9.9 && exit 0\nexit 1\n",
    );
    sandbox
        .run(["upgrade".as_ref(), broken.as_os_str()])
        .code(1)
        .says(["SW-CTL-012", "did not come up"]);
    let after = sandbox.status();
    assert_eq!(program_of(after.control_pid()), sandbox.folder().join("bin/seaworthy"));
    assert_eq!(after.edge_pid(), before.edge_pid());
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    sandbox.up(&shop().file("more.txt", "x"));
}

/// There and back again under load, with deployments by either build; what `there` knows of the state is up to it.
fn there_and_back(sandbox: &Sandbox, there: &std::path::Path) {
    let back = sandbox.folder().join("bin/seaworthy");
    let level = |level: &str| {
        let web = FakeApp::new().key(&format!("env = {{ LEVEL = \"{level}\" }}"));
        Site::new("shop").app("web", web).more("[deploy]\nwatch = false")
    };
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    let deploy = |program: &std::path::Path, site: &Site| {
        let project = sandbox.write(site);
        let status = std::process::Command::new(program)
            .arg("deploy")
            .arg(project)
            .env("SEAWORTHY_STATE", sandbox.state())
            .env("SEAWORTHY_RUN", sandbox.folder().join("run"))
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    };
    sandbox.run(["scale", "shop/web", "2"]).success();
    sandbox.wait_ready("shop/web", 2, LIMIT);
    let running = Load::new(sandbox.target(&shop()))
        .mixed(60.0)
        .web_sockets(4)
        .start(Duration::from_secs(240));
    eventually("load flows", LIMIT, || running.so_far().web_sockets.echoes >= 8);
    let before = sandbox.status();
    let pids = before.ready_pids("shop/web");
    for _ in 0..2 {
        sandbox.run(["upgrade".as_ref(), there.as_os_str()]).success();
        assert_eq!(program_of(sandbox.status().control_pid()), there);
        assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), pids);
        sandbox.run(["upgrade".as_ref(), back.as_os_str()]).success();
        assert_eq!(program_of(sandbox.status().control_pid()), back);
        assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), pids);
    }
    // What one of them wrote, the other knows.
    sandbox.run(["upgrade".as_ref(), there.as_os_str()]).success();
    deploy(there, &level("there"));
    assert_eq!(served(), "there");
    sandbox.run(["upgrade".as_ref(), back.as_os_str()]).success();
    assert_eq!(served(), "there");
    sandbox.wait_ready("shop/web", 2, LIMIT);
    deploy(&back, &level("back"));
    sandbox.run(["releases", "shop"]).success().says(["* r"]);
    sandbox.run(["audit", "verify"]).success();
    sandbox.run(["rollback", "shop"]).success();
    assert_eq!(served(), "there");
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 30);
    let report = running.stop();
    assert_eq!((report.failures(), report.web_sockets_dropped()), (0, 0), "{report}");
}

#[test]
fn a_later_version_with_more_in_its_state_takes_over_and_gives_back_what_it_wrote() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let later = sandbox.folder().join("bin/seaworthy-later");
    fs::copy(sandbox.folder().join("bin/seaworthy"), &later).unwrap();
    there_and_back(&sandbox, &later);
    let version = std::process::Command::new("sqlite3")
        .arg(sandbox.state().join("state.db"))
        .arg("PRAGMA user_version; SELECT count(*) FROM later")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout), "3\n0\n", "the later one was here");
}

#[test]
#[ignore = "wants the program of the previous version: cargo xtask upgrade-test builds it"]
fn the_previous_version_takes_over_and_gives_back_what_it_wrote() {
    let previous = std::env::var("SEAWORTHY_PREVIOUS").unwrap();
    let sandbox = sandbox();
    sandbox.up(&shop());
    let place = sandbox.folder().join("bin/seaworthy-previous");
    fs::copy(previous, &place).unwrap();
    there_and_back(&sandbox, &place);
}

#[test]
fn after_a_reboot_control_brings_everything_back_from_the_state_folder_alone() {
    let sandbox = sandbox();
    let web = FakeApp::new().instances(2).key("env = { LEVEL = \"first\" }");
    sandbox.up(&Site::new("shop").app("web", web).more("[deploy]\nwatch = false"));
    sandbox.run(["scale", "shop/web", "3"]).success();
    sandbox.wait_ready("shop/web", 3, LIMIT);
    sandbox.run(["maintenance", "on", "shop"]).success();
    let address = sandbox.status().https();
    sandbox.cut_the_power();
    // What a reboot takes with it: sockets, locks, records of processes.
    fs::remove_dir_all(sandbox.folder().join("run")).unwrap();
    // As an init starts it, with nobody there who would say `up`.
    let control =
        sandbox.spawn(["control", "--keep", "--state", &sandbox.state().display().to_string()]);
    sandbox.wait_ready("shop/web", 3, LIMIT);
    let status = sandbox.status();
    assert_eq!(status.https(), address);
    assert_eq!(status.site("shop")["closed"], "maintenance");
    assert_eq!(sandbox.https(&shop()).get("/").status, 503);
    sandbox.run(["maintenance", "off", "shop"]).success();
    let answer = sandbox.https(&shop()).get("/env?name=LEVEL").json();
    assert_eq!(answer["value"], "first");
    sandbox.run(["down", "--all"]).success();
    control.finish(LIMIT);
}
