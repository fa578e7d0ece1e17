//! `socket`: applications that listen on Unix sockets are started, tried, served and replaced like all others.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, is_root};

use crate::{LIMIT, sandbox, shop};

/// A release whose application knows its level, on sockets.
fn level(level: &str) -> Site {
    let web = FakeApp::new()
        .instances(2)
        .flag("--socket $SOCKET")
        .key("socket = true")
        .key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    Site::new("shop")
        .app("web", web)
        .more("[deploy]\nwatch = { for = \"1s\" }\ncanary = { steps = [\"50%\"], for = \"300ms\" }")
}

/// Where the instances can be reached that are ready.
fn sockets(sandbox: &Sandbox) -> BTreeSet<String> {
    let ready = sandbox.status().instances("shop/web").into_iter();
    let ready = ready.filter(|one| one["state"] == "ready");
    ready.map(|one| one["socket"].as_str().unwrap().to_owned()).collect()
}

/// Folders of sockets that are there.
fn folders(sandbox: &Sandbox) -> usize {
    std::fs::read_dir(sandbox.folder().join("run/u")).unwrap().count()
}

#[test]
fn releases_roll_over_sockets_under_load_and_no_two_instances_share_one() {
    let sandbox = sandbox();
    sandbox.up(&level("zero"));
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(180));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    let served = || {
        let answer = sandbox.https(&shop()).get("/env?name=LEVEL").json();
        answer["value"].as_str().unwrap_or_default().to_owned()
    };
    let mut seen = sockets(&sandbox);
    assert_eq!(seen.len(), 2);
    for strategy in ["rolling", "blue-green", "canary", "recreate"] {
        let project = sandbox.write(&level(strategy));
        let project = project.to_str().unwrap();
        sandbox.run(["deploy", project, "--strategy", strategy]).success();
        assert_eq!(served(), strategy);
        sandbox.wait_ready("shop/web", 2, LIMIT);
        let now = sockets(&sandbox);
        assert!(now.is_disjoint(&seen) && now.len() == 2, "{strategy}: {now:?} after {seen:?}");
        seen.extend(now);
    }
    sandbox.run(["rollback", "shop"]).success();
    assert_eq!(served(), "canary");
    sandbox.run(["scale", "shop/web", "3"]).success();
    sandbox.wait_ready("shop/web", 3, LIMIT);
    assert_eq!(sockets(&sandbox).len(), 3);
    // A crash: the same instance makes its socket anew.
    let pids = sandbox.status().ready_pids("shop/web");
    sandbox.kill_hard(pids[0]);
    eventually("all three are ready again", LIMIT, || {
        let now = sandbox.status().ready_pids("shop/web");
        now.len() == 3 && !now.contains(&pids[0])
    });
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 30);
    running.stop().assert_clean();
    eventually("nothing is left of those that ended", LIMIT, || folders(&sandbox) == 3);
    let told = sandbox.run(["explain", "instance", "shop/web/0"]);
    let (told, status) = (told.raw_stdout(), sandbox.run(["status"]));
    let all = sockets(&sandbox);
    assert!(all.iter().any(|path| told.contains(path.as_str())), "{told}");
    assert!(all.iter().all(|path| status.raw_stdout().contains(path.as_str())), "{all:?}");
    sandbox.run(["down", "shop"]).success();
    eventually("nothing is left at all", LIMIT, || folders(&sandbox) == 0);
}

/// A small application in WSGI, and its server as people start it.
fn with_gunicorn(release: &str) -> Site {
    let app = format!(
        "def app(environ, start):\n  seen = environ['HTTP_HOST'] + ' ' + environ.get('HTTP_X_FORWARDED_PROTO', '') + ' {release}'\n  start('200 OK', [('Content-Length', str(len(seen)))])\n  return [seen.encode()]\n"
    );
    let server = "const http = require('http');\n\
        http.createServer((ask, answer) => answer.end(ask.url + ' by node'))\n\
        .listen(process.env.RUNTIME_DIRECTORY + '/tmp/node.sock');\n";
    Site::new("shop")
        .manifest(
            "site = \"shop\"\ndomains = [\"shop.localhost\"]\n{listen}\n\
             [deploy]\nwatch = false\n\
             [service.web]\nrun = \"gunicorn --workers 2 --bind unix:$SOCKET shop:app\"\nsocket = true\nhealth = \"/\"\n\
             [service.node]\nrun = \"node server.js\"\nsocket = \"tmp/node.sock\"\nhealth = \"/health\"\n\
             [[route]]\npaths = [\"/*\"]\nto = \"web\"\n[[route]]\npaths = [\"/node/*\"]\nto = \"node\"\n",
        )
        .file("shop.py", &app)
        .file("server.js", server)
}

#[test]
fn gunicorn_and_node_are_served_and_replaced_on_their_sockets() {
    let sandbox = sandbox();
    sandbox.up(&with_gunicorn("one"));
    let client = sandbox.https(&shop());
    assert!(client.get("/").text().ends_with(" https one"), "{}", client.get("/").text());
    assert_eq!(client.get("/node/a?b").text(), "/node/a?b by node");
    let project = sandbox.write(&with_gunicorn("two"));
    sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
    assert!(client.get("/").text().ends_with(" https two"), "{}", client.get("/").text());
    sandbox.run(["rollback", "shop"]).success();
    assert!(client.get("/").text().ends_with(" https one"), "{}", client.get("/").text());
}

#[test]
fn other_users_reach_neither_the_socket_nor_the_folder_it_is_made_in() {
    let sandbox = sandbox();
    sandbox.up(&level("one"));
    if !is_root("that other sites cannot reach a socket") {
        return;
    }
    let shown = sockets(&sandbox).pop_first().unwrap();
    let own = shown.replace("/edge/s", "/app/sock");
    let connects = |path: &str, user: u32| {
        let code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", code, path]).uid(user).gid(user).stderr(Stdio::null());
        command.status().unwrap().success()
    };
    for path in [&shown, &own] {
        assert!(connects(path, 0), "{path} is there");
        assert!(!connects(path, 65_534), "{path} can be reached by nobody");
    }
    assert_eq!(sandbox.https(&shop()).get("/health").status, 200);
}

#[test]
fn one_that_listens_elsewhere_or_nowhere_is_told_so_and_a_path_too_long_before_it_starts() {
    let sandbox = sandbox();
    let folder = sandbox.folder().join("run-in-a-folder-of-a-long-name");
    let sandbox = sandbox.env("SEAWORTHY_RUN", folder.to_str().unwrap());
    let quick = "[deploy]\nwatch = false\ntimeout = \"4s\"";
    let site = |flag: &str, socket: &str| {
        let web = FakeApp::new().flag(flag).key(&format!("socket = {socket}"));
        Site::new("shop").app("web", web).more(quick)
    };
    let long = format!("\"{}\"", "a".repeat(64));
    let refused = sandbox.try_up(&site("--socket $SOCKET", &long));
    let told = refused.stderr();
    assert!(told.contains("a path of 1"), "{told}");
    assert!(told.contains("has room for 107") && told.contains("SEAWORTHY_RUN="), "{told}");
    let told = sandbox.try_up(&site("--slow-start 1ms", "true")).stderr();
    assert!(told.contains("instead of its Unix socket"), "{told}");
    let health = "{ ready = { path = \"/health\", every = \"200ms\", start = \"500ms\" } }";
    let silent = FakeApp::new().never_listen().health(health).key("socket = true");
    let told = sandbox.try_up(&Site::new("shop").app("web", silent).more(quick)).stderr();
    assert!(told.contains("does not listen on its socket"), "{told}");
    assert!(told.contains("--bind unix:$SOCKET"), "{told}");
}
