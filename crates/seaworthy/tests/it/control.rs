//! The control process: one for each state folder, reached by nobody else.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use seaworthy_testkit::peers::free_port;
use seaworthy_testkit::{Client, Site, eventually, eventually_some, is_root, process};

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
fn one_that_cannot_tell_the_edge_what_is_wanted_starts_none_and_tries_again() {
    let sandbox = sandbox();
    let port = free_port();
    let site = Site::new("shop").manifest(&format!(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:{port}\"\n\
         [tls]\nmode = \"internal\"\n[service.web]\nrun = \"{{fakeapp}}\"\nhealth = \"/health\"\n"
    ));
    sandbox.up(&site);
    let before = sandbox.status();
    sandbox.terminate(before.control_pid());
    eventually("it ends", LIMIT, || !process::lives(before.control_pid()));
    sandbox.kill_hard(before.edge_pid().unwrap());
    let taken = eventually_some("somebody else takes the port", LIMIT, || {
        TcpListener::bind(("127.0.0.1", port)).ok()
    });
    sandbox.try_up(&site).code(1).says(["SW-EDG-001"]);
    assert_eq!(sandbox.status().edge_pid(), None, "it would know nothing");
    drop(taken);
    eventually("the site is served", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.edge_pid().is_some())
            && sandbox.https(&site).try_get("/health").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn its_socket_is_for_its_user_only() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let meta = std::fs::metadata(sandbox.folder().join("run/control.sock")).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}

/// Says something to a socket, and how long the answer is.
const SAY: &str = r"
import socket, sys
stream = socket.socket(socket.AF_UNIX)
stream.settimeout(20)
stream.connect(sys.argv[1])
try:
    stream.sendall(bytes.fromhex(sys.argv[2]))
    print(len(stream.recv(4096)))
except ConnectionError:
    print(0)
";

#[test]
fn another_user_is_heard_by_neither_control_nor_the_edge_whatever_the_modes_of_their_sockets() {
    if !is_root("that another user is not heard") {
        return;
    }
    let sandbox = sandbox();
    sandbox.up(&shop());
    let run = sandbox.folder().join("run");
    let hex =
        |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let hello = br#"{"verb":"hello","proto":1,"build":"0"}"#;
    let said = [
        ("control.sock", hex(b"GET /v1/hello HTTP/1.1\r\nHost: control\r\n\r\n")),
        ("edge-1.sock", hex(&[&(hello.len() as u32).to_be_bytes()[..], hello].concat())),
    ];
    let set = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    set(&run, 0o755);
    for (name, bytes) in said {
        let socket = run.join(name);
        set(&socket, 0o666);
        for (user, is_heard) in [("0", true), ("65534", false)] {
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
            // Not one of this user's own.
            command.args(["/usr/bin/python3", "-c", SAY]).arg(&socket).arg(&bytes);
            let output = command.current_dir("/").output().unwrap();
            let answer = String::from_utf8(output.stdout).unwrap();
            let length: usize =
                answer.trim().parse().unwrap_or_else(|_| panic!("{:?}", output.stderr));
            assert_eq!(length > 0, is_heard, "{name} for {user}");
        }
    }
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
