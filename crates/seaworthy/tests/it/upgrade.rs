//! `upgrade`: another build takes over under load, and one that does not come up changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{Sandbox, eventually};

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
