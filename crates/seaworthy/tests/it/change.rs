//! `up` and `plan` on a changed manifest: a difference, never a restart of everything.

use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{Changes, FakeApp, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

#[test]
fn an_unrelated_route_leaves_processes_and_open_web_sockets_alone() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop()))
        .mixed(40.0)
        .web_sockets(4)
        .start(Duration::from_secs(120));
    eventually("sockets are open", LIMIT, || running.so_far().web_sockets.echoes >= 8);
    let changed = shop().more("[[route]]\npaths = [\"/teapot\"]\nrespond = { status = 418, body = \"short and stout\" }").route("/*", "web");
    sandbox.up(&changed);
    assert_eq!(sandbox.https(&shop()).get("/teapot").status, 418);
    let echoes = running.so_far().web_sockets.echoes;
    eventually("sockets still echo", LIMIT, || running.so_far().web_sockets.echoes >= echoes + 8);
    let report = running.stop();
    report.assert_clean();
    assert_eq!(report.web_sockets.opened, 4);
    let after = sandbox.status();
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
    assert_eq!((after.edge_pid(), after.control_pid()), (before.edge_pid(), before.control_pid()));
}

#[test]
fn a_changed_service_is_replaced_without_a_lost_request_and_the_other_is_untouched() {
    let sandbox = sandbox();
    let site = |level: &str| {
        let web = FakeApp::new().instances(2).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
        Site::new("shop")
            .app("web", web)
            .app("api", FakeApp::new())
            .route("/*", "web")
            .route("/api/*", "api")
    };
    sandbox.up(&site("one"));
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop())).mixed(60.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    sandbox.up(&site("two"));
    eventually("load goes on", LIMIT, || running.so_far().ok() > 60);
    running.stop().assert_clean();
    let after = sandbox.status();
    assert_eq!(after.ready_pids("shop/api"), before.ready_pids("shop/api"));
    assert!(
        after.ready_pids("shop/web").iter().all(|pid| !before.ready_pids("shop/web").contains(pid))
    );
    assert_eq!(sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"], "two");
}

#[test]
fn a_new_version_that_does_not_come_up_leaves_the_old_one_serving() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status().ready_pids("shop/web");
    sandbox.try_up(&Site::new("shop").app("web", FakeApp::new().crash_loop())).code(1);
    assert_eq!(sandbox.https(&shop()).get("/say?text=still").text(), "still");
    assert_eq!(sandbox.status().ready_pids("shop/web"), before);
}

#[test]
fn a_removed_service_ends_and_plan_says_so_first() {
    let sandbox = sandbox();
    sandbox.up(&shop().app("extra", FakeApp::new()));
    let project = sandbox.write(&shop());
    sandbox
        .run([std::ffi::OsStr::new("plan"), project.as_os_str()])
        .success()
        .says(["extra", "web"]);
    assert_eq!(sandbox.status().ready_pids("shop/extra").len(), 1, "a plan changes nothing");
    sandbox.up(&shop());
    eventually("it is gone", LIMIT, || sandbox.status().instances("shop/extra").is_empty());
}

#[test]
fn a_host_that_another_site_serves_is_refused() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let thief = Site::new("thief").manifest("site = \"thief\"\ndomains = [\"shop.localhost\"]\n{listen}[service.web]\nrun = \"{fakeapp}\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n");
    sandbox.try_up(&thief).code(1).says(["SW-CTL-007", "shop.localhost"]);
    assert_eq!(sandbox.https(&shop()).get("/").status, 200);
}

#[test]
fn a_changed_file_replaces_the_processes_that_run_from_it() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status().ready_pids("shop/web");
    sandbox.up(&shop().file("more.txt", "x"));
    let after = sandbox.wait_ready("shop/web", 1, LIMIT);
    assert_ne!(after, before);
}

#[test]
fn a_broken_manifest_of_one_site_is_nothing_to_another() {
    let sandbox = sandbox();
    let blog = Site::new("blog").app("web", FakeApp::new());
    sandbox.up(&shop());
    sandbox.up(&blog);
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop())).mixed(40.0).start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 20);
    let broken = Site::new("blog").manifest("site = \"blog\"\ndomains = [\n");
    sandbox.try_up(&broken).code(1).says(["SW-MAN-001"]);
    // Nor to a control that starts while it lies there.
    sandbox.kill_hard(before.control_pid());
    let after = eventually_some("the next control answers", LIMIT, || {
        sandbox.try_status().filter(|status| status.control_pid() != before.control_pid())
    });
    sandbox.up(&shop());
    running.stop().assert_clean();
    for service in ["shop/web", "blog/web"] {
        assert_eq!(after.ready_pids(service), before.ready_pids(service), "{service}");
    }
    assert_eq!(sandbox.https(&blog).get("/say?text=still").text(), "still");
}

#[test]
fn a_service_that_is_added_is_known_to_the_edge_before_anybody_is_sent_to_it() {
    let sandbox = sandbox();
    let asked = sandbox.folder().join("asked");
    let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", &asked.display().to_string());
    let page = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("http://{}", page.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in page.incoming().flatten() {
            let mut request = [0; 4096];
            let _some = std::io::Read::read(&mut stream, &mut request);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere";
            std::io::Write::write_all(&mut stream, answer).ok();
        }
    });
    let web = || FakeApp::new().key("dir = \"inside\"");
    let plain = || Site::new("shop").app("web", web()).file("inside/a.txt", "a");
    let with = |name: &str| {
        plain().more(&format!(
            "[service.{name}]\nupstreams = [\"{upstream}\"]\n[[route]]\npaths = [\"/{name}\"]\nto = \"{name}\"\n\
             [deploy]\nwatch = false\nsmoke = [{{ get = \"/{name}\", body = \"here\" }}]\n"
        ))
    };
    let deploy = |site: &Site| {
        let project = sandbox.write(site);
        sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
    };
    sandbox.up(&plain());
    let client = sandbox.https(&plain());
    // Whoever tells the edge of changes that nobody asked for is as slow as can be.
    std::fs::write(&asked, "wait reconcile").unwrap();
    deploy(&with("first").file("new.txt", "another release"));
    assert_eq!(client.get("/first").text(), "here");
    // No other release: only the routes change.
    deploy(&with("second").file("new.txt", "another release"));
    assert_eq!(client.get("/second").text(), "here");
    assert_ne!(client.get("/first").text(), "here");
    std::fs::remove_file(&asked).unwrap();
    sandbox.wait_ready("shop/web", 1, LIMIT);
}

/// A thousand of them beside a thousand WebSockets: `cargo xtask soak --phase changes`.
#[test]
fn changes_of_every_kind_touch_nobody_whom_they_are_not_about() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop()))
        .mixed(40.0)
        .web_sockets(10)
        .start(Duration::from_secs(300));
    eventually("sockets are open", LIMIT, || running.so_far().web_sockets.echoes >= 20);
    let mut changes = Changes::beside(shop());
    for _ in 0..16 {
        changes.make(&sandbox);
    }
    let echoes = running.so_far().web_sockets.echoes;
    eventually("sockets still echo", LIMIT, || running.so_far().web_sockets.echoes >= echoes + 20);
    let report = running.stop();
    report.assert_clean();
    assert_eq!(report.web_sockets.opened, 10);
    assert_eq!(sandbox.status().ready_pids("shop/web"), before.ready_pids("shop/web"));
}
