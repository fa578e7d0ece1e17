//! The edge and the worker are shut in: what they must not do they cannot, and what they are for goes on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

use seaworthy_testkit::peers::{Authority, Named, Wish};
use seaworthy_testkit::{Client, FakeApp, Sandbox, Site, eventually};

use crate::certificates::{public_site, wait_for_certificate, ways_in};
use crate::{LIMIT, sandbox};

/// What is tried from inside (`seaworthy_sys::sandbox::attempt`).
const TRIED: [&str; 8] = ["udp", "netlink", "code", "read", "write", "unix", "listen", "program"];
/// What is refused as such (EPERM): most of it would fail in another way, too.
const FORBIDDEN: [&str; 15] = [
    "memfd",
    "execve",
    "execveat",
    "io_uring",
    "userns",
    "ptrace",
    "peek",
    "poke",
    "getfd",
    "kcmp",
    "perf",
    "keys",
    "setns",
    "bind",
    "listening",
];

/// A platform that tries an application's socket and a file, both open to everybody: only the sandbox stands before them.
fn tempting() -> (Sandbox, UnixListener) {
    let sandbox = sandbox();
    let socket = sandbox.folder().join("app.sock");
    let listening = UnixListener::bind(&socket).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&socket, open).unwrap();
    let file = sandbox.folder().join("p/secret");
    std::fs::write(&file, "secret").unwrap();
    let places = format!("{}:{}", file.display(), socket.display());
    (sandbox.env("SEAWORTHY_SANDBOX_TRY", &places), listening)
}

/// What was tried is open to that user where nothing shuts it in.
fn could_have(sandbox: &Sandbox, user: u32) {
    use std::os::unix::process::CommandExt as _;
    let script = "import socket, sys; open(sys.argv[1]).read(); \
        socket.socket(socket.AF_UNIX).connect(sys.argv[2])";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script]).arg(sandbox.folder().join("p/secret"));
    python.arg(sandbox.folder().join("app.sock")).uid(user).gid(user);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_edge_and_the_worker_cannot_do_what_they_must_not_and_deploys_go_on() {
    let (sandbox, _listening) = tempting();
    let (ports, names) = (ways_in(), Named::start(""));
    let pebble = Authority::pebble(&Wish::new(ports.http, ports.https, names.address));
    let acme =
        format!("directories = [\"{}\"], resolvers = [\"{}\"]", pebble.directory, names.address);
    let site = public_site(&ports, "[\"shop.sea.test\"]", &acme, &pebble.api_root());
    sandbox.up(&site);
    wait_for_certificate(&sandbox, &pebble);
    let log = std::fs::read_to_string(sandbox.state().join("logs/control.log")).unwrap();
    for role in ["edge", "worker"] {
        for tried in TRIED {
            let line = format!("sandbox {role}: {tried} refused");
            assert!(log.contains(&line), "`{line}` is missing in {log}");
        }
        for tried in FORBIDDEN {
            let line =
                format!("sandbox {role}: {tried} refused (Operation not permitted (os error 1))");
            assert!(log.contains(&line), "`{line}` is missing in {log}");
        }
    }
    assert!(!log.contains("POSSIBLE"), "{log}");
    let users = ["edge", "worker"].map(|role| {
        let (mut lines, before) = (log.lines(), format!("sandbox {role}: user "));
        let said = lines.find_map(|line| line.split_once(&before)).unwrap().1;
        let (user, locks) = said.split_once(' ').unwrap();
        assert!(locks.starts_with("no_new_privs 1 seccomp 2 "), "{role}: {said}");
        if seaworthy_testkit::peers::unprivileged().is_some() {
            assert!(locks.ends_with("capabilities Ok(0)"), "{role}: {said}");
        }
        user.parse::<u32>().unwrap()
    });
    if seaworthy_testkit::is_root("that edge and worker have users of their own") {
        assert!(users[0] != users[1] && !users.contains(&0), "{users:?}");
        // Without the sandbox both could have had what they were refused.
        users.into_iter().for_each(|user| could_have(&sandbox, user));
    }
    // As the kernel sees it; as root it is nobody's user but its own.
    let edge = sandbox.status().edge_pid().unwrap();
    let seen = std::fs::read_to_string(format!("/proc/{edge}/status")).unwrap();
    let value = |name: &str| {
        let line = seen.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(value("NoNewPrivs:"), ["1"]);
    assert_eq!(value("Seccomp:"), ["2"]);
    if seaworthy_testkit::peers::unprivileged().is_some() {
        assert!(value("Uid:").iter().all(|uid| uid != "0"), "{seen}");
        assert_eq!(value("CapEff:"), ["0000000000000000"]);
    }
}

#[test]
fn what_a_later_deploy_brings_is_served_from_inside() {
    let sandbox = sandbox();
    let site = |text: &str, flag: &str| {
        Site::new("shop")
            .app("web", FakeApp::new().flag(flag))
            .more("[service.page]\nstatic = \"public\"")
            .route("/health", "web")
            .route("/*", "page")
            .file("public/index.html", text)
    };
    sandbox.up(&site("first", "--slow-start 1ms"));
    let client = sandbox.https(&site("", ""));
    assert_eq!(client.get("/index.html").text(), "first");
    sandbox.up(&site("second", "--slow-start 2ms"));
    assert_eq!(client.get("/index.html").text(), "second");
    assert_eq!(client.get("/health").status, 200);
    let edge = sandbox.status().edge_pid().unwrap();
    sandbox.run(["restart", "edge"]).success();
    eventually("another edge serves", LIMIT, || {
        sandbox.status().edge_pid().is_some_and(|pid| pid != edge)
    });
    assert_eq!(client.get("/index.html").text(), "second");
    // Its log is written and read all the same.
    eventually("the request stands in the log", LIMIT, || {
        sandbox.run(["logs", "shop", "--access"]).stdout().contains("/index.html")
    });
}

#[test]
fn an_edge_may_open_unix_sockets_once_an_instance_listens_on_one() {
    let sandbox = sandbox();
    let socket = sandbox.folder().join("app.sock");
    let listening = UnixListener::bind(&socket).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&socket, open).unwrap();
    std::thread::spawn(move || {
        for stream in listening.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _some = stream.read(&mut request).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere";
            stream.write_all(answer).unwrap();
        }
    });
    let plain = Site::new("shop").app("web", FakeApp::new());
    sandbox.up(&plain);
    let first = sandbox.status().edge_pid();
    let more = format!("[service.other]\nupstreams = [\"unix:{}\"]", socket.display());
    let both = plain.more(&more).route("/*", "web").route("/other/*", "other");
    sandbox.up(&both);
    let client = sandbox.https(&both);
    eventually("the socket answers", LIMIT, || {
        client.send("GET", "/other/", &[], b"").is_ok_and(|answer| answer.text() == "here")
    });
    assert_ne!(sandbox.status().edge_pid(), first);
}

#[test]
fn an_edge_that_serves_sockets_of_instances_reaches_those_and_no_other() {
    let (sandbox, _listening) = tempting();
    let web = FakeApp::new().flag("--socket $SOCKET").key("socket = true");
    let page = "[service.page]\nstatic = \"public\"";
    let site = Site::new("shop").app("web", web).more(page).route("/health", "web");
    let site = site.route("/*", "page").file("public/index.html", "page");
    sandbox.up(&site);
    let tried = || {
        let log = std::fs::read_to_string(sandbox.state().join("logs/control.log")).unwrap();
        let lines = log.lines().filter(|line| line.contains("sandbox edge: unix "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let guards = sandbox.run(["status"]).raw_stdout().to_owned();
    let told = guards.contains("Unix sockets of others are not shut off");
    if seaworthy_testkit::is_root("that the edge reaches no other socket") {
        assert!(!told, "{guards}");
    }
    let serves = || {
        let client = sandbox.https(&site);
        assert_eq!(client.get("/health").status, 200);
        // Files are served and logs written, under the paths that they always had.
        assert_eq!(client.get("/index.html").text(), "page");
    };
    serves();
    let edge = sandbox.status().edge_pid();
    sandbox.run(["restart", "edge"]).success();
    eventually("another edge", LIMIT, || sandbox.status().edge_pid() != edge);
    serves();
    eventually("the request stands in the log", LIMIT, || {
        sandbox.run(["logs", "shop", "--access"]).stdout().contains("/index.html")
    });
    let tried = tried();
    assert!(tried.len() >= 2, "{tried:?}");
    assert!(told || tried.iter().all(|line| line.contains("unix refused")), "{tried:?}");
    let log = std::fs::read_to_string(sandbox.state().join("logs/control.log")).unwrap();
    assert!(!log.contains("sandbox edge: read POSSIBLE"), "{log}");
}

#[test]
fn a_control_that_took_over_an_edge_starts_the_next_one_with_the_same_leave() {
    let sandbox = sandbox();
    let web = FakeApp::new().flag("--socket $SOCKET").key("socket = true");
    let site = Site::new("shop").app("web", web);
    sandbox.up(&site);
    let before = sandbox.status();
    sandbox.kill_hard(before.control_pid());
    eventually("another control", LIMIT, || {
        let status = sandbox.try_status();
        status.is_some_and(|status| status.control_pid() != before.control_pid())
    });
    assert_eq!(sandbox.status().edge_pid(), before.edge_pid());
    let client = sandbox.https(&site);
    assert_eq!(client.get("/health").status, 200);
    sandbox.run(["restart", "edge"]).success();
    eventually("another edge", LIMIT, || sandbox.status().edge_pid() != before.edge_pid());
    for _ in 0..10 {
        assert_eq!(client.get("/health").status, 200);
    }
}

#[test]
fn udp_sockets_come_from_control_and_the_edge_can_open_none() {
    let sandbox = sandbox().env("SEAWORTHY_SANDBOX_TRY", "/none:/none");
    let site = Site::new("shop").manifest(
        "site = \"shop\"\ndomains = [\"shop.localhost\"]\n{listen}http3 = true\n\
         [service.web]\nrun = \"{fakeapp}\"\nhealth = \"/health\"\n\
         [[route]]\npaths = [\"/*\"]\nto = \"web\"\n",
    );
    sandbox.up(&site);
    let over_http3 = || {
        let (address, ca) = (sandbox.status().https(), sandbox.ca());
        Client::over_http3(address, "shop.localhost", &ca).get("/health").status
    };
    assert_eq!(over_http3(), 200);
    sandbox.run(["restart", "--edge"]).success();
    assert_eq!(over_http3(), 200);
    let log = std::fs::read_to_string(sandbox.state().join("logs/control.log")).unwrap();
    assert!(log.matches("sandbox edge: udp refused").count() >= 2, "{log}");
    assert!(!log.contains("edge: udp POSSIBLE"), "{log}");
}
