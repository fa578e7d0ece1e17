//! WebSockets and event streams when their instance goes: told, one after another, and never cut.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox, shop};

/// Another release for each level.
fn level(level: &str) -> Site {
    let web = FakeApp::new().instances(2).key(&format!("env = {{ LEVEL = \"{level}\" }}"));
    Site::new("shop").app("web", web).more("[deploy]\nwatch = false\nsockets = \"2s\"")
}

/// A reader of events, as a shell has it: ends well only when the stream does.
fn reader(sandbox: &Sandbox, number: usize, version: &str) -> Child {
    let address = sandbox.status().https();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", version, "--cacert"]).arg(sandbox.ca());
    curl.args(["--resolve", &format!("shop.localhost:{}:{}", address.port(), address.ip())]);
    curl.arg(format!("https://shop.localhost:{}/events?ms=20", address.port()));
    curl.arg("--output").arg(sandbox.folder().join(format!("out/events-{number}")));
    curl.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn of_a_release_that_was_replaced_are_told_to_come_again() {
    let sandbox = sandbox();
    sandbox.up(&level("one"));
    let load = Load::new(sandbox.target(&shop())).mixed(30.0).web_sockets(12);
    let running = load.start(Duration::from_secs(120));
    let mut readers: Vec<Child> = ["--http1.1", "--http2", "--http1.1", "--http2"]
        .iter()
        .enumerate()
        .map(|(number, version)| reader(&sandbox, number, version))
        .collect();
    let heard = |number: usize| {
        let path = sandbox.folder().join(format!("out/events-{number}"));
        std::fs::read_to_string(path).unwrap_or_default()
    };
    eventually("all flows", LIMIT, || {
        let now = running.so_far();
        now.web_sockets.opened >= 12
            && now.web_sockets.echoes > 12
            && (0..4).all(|number| heard(number).contains("id: 3"))
    });
    let project = sandbox.write(&level("two"));
    sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
    // All of them were on instances of the old release.
    eventually("all WebSockets were told, and opened again", LIMIT, || {
        let now = running.so_far().web_sockets;
        now.closed.get(&1001).is_some_and(|told| *told >= 12) && now.opened >= 24
    });
    for (number, reader) in readers.iter_mut().enumerate() {
        let ended = reader.wait().unwrap();
        let text = heard(number);
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        assert!(ended.success() && last.starts_with("retry: "), "{ended}: {last:?}");
    }
    let echoes = running.so_far().web_sockets.echoes;
    eventually("the new ones echo", LIMIT, || running.so_far().web_sockets.echoes > echoes + 24);
    assert_eq!(sandbox.status().document()["edge"]["told"], 16);
    eventually("the old instances ended", LIMIT, || {
        sandbox.status().instances("shop/web").len() == 2
    });
    let report = running.stop();
    assert_eq!((report.failures(), report.web_sockets_dropped()), (0, 0), "{report}");
}

#[test]
fn of_an_edge_that_was_replaced_go_on_until_its_time_is_over() {
    let sandbox = sandbox();
    sandbox.up(&level("one"));
    let before = sandbox.status();
    let running = Load::new(sandbox.target(&shop())).web_sockets(8).start(Duration::from_secs(120));
    eventually("they echo", LIMIT, || running.so_far().web_sockets.echoes > 16);
    sandbox.run(["restart", "edge"]).success();
    eventually("a new edge", LIMIT, || sandbox.status().edge_pid() != before.edge_pid());
    let echoes = running.so_far().web_sockets.echoes;
    eventually("they go on", LIMIT, || running.so_far().web_sockets.echoes > echoes + 24);
    assert_eq!(running.so_far().web_sockets.opened, 8);
    // A release that is replaced now tells those that the older edge has, too.
    let project = sandbox.write(&level("two"));
    sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
    eventually("all were told, and opened again", LIMIT, || {
        let now = running.so_far().web_sockets;
        now.closed.get(&1001).is_some_and(|told| *told >= 8) && now.opened >= 16
    });
    let report = running.stop();
    assert_eq!(report.web_sockets_dropped(), 0, "{report}");
}
