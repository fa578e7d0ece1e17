//! The control process: one for each state folder, reached by nobody else.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use seaworthy_testkit::{Client, eventually, process};

use crate::{LIMIT, sandbox, shop};

#[test]
fn a_second_one_on_the_same_state_folder_is_refused() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let state = sandbox.state();
    let second = sandbox
        .spawn([std::ffi::OsStr::new("control"), "--state".as_ref(), state.as_os_str()])
        .finish(LIMIT);
    second.code(1).says(["SW-CTL-002"]);
    assert_eq!(sandbox.https(&shop()).get("/").status, 200);
}

#[test]
fn one_that_is_told_to_end_leaves_everything_serving_and_the_next_one_adopts_it() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    sandbox.terminate(before.control_pid());
    eventually("it ends, and no keeper starts it again", LIMIT, || {
        sandbox.run(["status"]).exit_code() == Some(4) && !process::lives(before.control_pid())
    });
    let address = before.https();
    let client = Client::https(address, &shop().host(), &sandbox.ca());
    assert_eq!(client.get("/say?text=still").text(), "still");
    sandbox.up(&shop());
    let after = sandbox.status();
    assert_eq!(after.edge_pid(), before.edge_pid());
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
}

#[test]
fn its_socket_is_for_its_user_only() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let meta = std::fs::metadata(sandbox.folder().join("run/control.sock")).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let sandbox = sandbox();
    let project = sandbox.write(&shop());
    let blocked = sandbox.folder().join("out/file");
    std::fs::write(&blocked, "no folder").unwrap();
    let state = blocked.join("state");
    let output = sandbox.run([
        std::ffi::OsStr::new("up"),
        project.as_os_str(),
        "--detach".as_ref(),
        "--state".as_ref(),
        state.as_os_str(),
    ]);
    output.code(1).says(["SW-CTL-003", "out/file"]);
}
