//! Any of our own processes may die.

use seaworthy_testkit::{eventually, kill};

#[test]
fn control_dies_and_the_next_one_adopts_what_runs() {
    let platform = super::site("instances = 2");
    platform.up();
    let (address, before) = (platform.http(), platform.status());
    kill(&before["control"]["pid"]);
    for _ in 0..50 {
        assert_eq!(platform.get(&address, "shop.localhost", "/").status, 200);
    }
    eventually("a new control answers", || platform.status()["control"]["pid"].is_u64());
    let after = platform.status();
    assert_ne!(after["control"]["pid"], before["control"]["pid"]);
    assert_eq!(after["edge"]["pid"], before["edge"]["pid"]);
    let pids = |status: &serde_json::Value| {
        status["sites"][0]["services"][0]["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["pid"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(pids(&after), pids(&before));
}

#[test]
fn the_edge_dies_and_no_connection_is_refused() {
    let platform = super::site("");
    platform.up();
    let (address, before) = (platform.http(), platform.status()["edge"]["pid"].clone());
    kill(&before);
    for _ in 0..20 {
        assert_eq!(platform.get(&address, "shop.localhost", "/").status, 200);
    }
    assert_ne!(platform.status()["edge"]["pid"], before);
}

#[test]
fn an_instance_dies_and_is_back_by_itself() {
    let platform = super::site("instances = 2");
    platform.up();
    let (address, before) = (platform.http(), platform.instance());
    kill(&before["pid"]);
    for _ in 0..50 {
        assert_eq!(platform.get(&address, "shop.localhost", "/").status, 200);
    }
    eventually("the instance is ready again", || {
        platform.instance()["state"] == "ready" && platform.instance()["pid"] != before["pid"]
    });
}

#[test]
fn a_changed_route_touches_no_process_and_a_changed_file_replaces_them() {
    let platform = super::site("");
    platform.up();
    let before = platform.instance()["pid"].clone();
    let file = platform.project().join("seaworthy.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[[route]]\npaths = [\"/no\"]\nblock = true\n")).unwrap();
    platform.up();
    assert_eq!(platform.instance()["pid"], before);
    assert_eq!(platform.get(&platform.http(), "shop.localhost", "/no").status, 404);
    platform.file("more.txt", "x");
    platform.up();
    eventually("the old instance is gone", || platform.instance()["pid"] != before);
}

#[test]
fn two_controls_on_one_state_folder_are_refused() {
    let platform = super::site("");
    platform.up();
    let second = platform.run(&["control"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another control process owns"));
}
