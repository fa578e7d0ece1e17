//! `kill -9` of each of our processes under light load: what it costs a client.
//!
//! The same with a thousand requests a second is the soak (`seaworthy-testkit`, program `soak`).

use std::time::Duration;

use seaworthy_testkit::load::{Load, RunningLoad};
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

fn two() -> Site {
    Site::new("shop").app("web", FakeApp::new().instances(2))
}

fn light_load(sandbox: &Sandbox) -> RunningLoad {
    let running = Load::new(sandbox.target(&shop()))
        .mixed(60.0)
        .web_sockets(4)
        .start(Duration::from_secs(120));
    eventually("load flows", LIMIT, || {
        running.so_far().ok() > 30 && running.so_far().web_sockets.echoes > 4
    });
    running
}

fn some_more(running: &RunningLoad) {
    let before = running.so_far();
    eventually("load goes on", LIMIT, || {
        running.so_far().ok() > before.ok() + 60
            && running.so_far().web_sockets.echoes > before.web_sockets.echoes + 8
    });
}

#[test]
fn of_control_costs_nothing_and_the_next_one_adopts_what_runs() {
    let sandbox = sandbox();
    sandbox.up(&two());
    let before = sandbox.status();
    let running = light_load(&sandbox);
    sandbox.kill_hard(before.control_pid());
    let after = eventually_some("the next control answers", LIMIT, || {
        sandbox.try_status().filter(|status| status.control_pid() != before.control_pid())
    });
    some_more(&running);
    running.stop().assert_clean();
    assert_eq!(after.edge_pid(), before.edge_pid());
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT), before.ready_pids("shop/web"));
    sandbox.up(&two());
    assert_eq!(
        sandbox.status().ready_pids("shop/web"),
        before.ready_pids("shop/web"),
        "the next `up` still knows them"
    );
}

#[test]
fn of_one_instance_of_two_costs_at_most_what_it_was_answering() {
    let sandbox = sandbox();
    sandbox.up(&two());
    let before = sandbox.status().ready_pids("shop/web");
    let running = light_load(&sandbox);
    sandbox.kill_hard(before[0]);
    let after = eventually_some("two instances again", LIMIT, || {
        Some(sandbox.try_status()?.ready_pids("shop/web"))
            .filter(|pids| pids.len() == 2 && !pids.contains(&before[0]))
    });
    assert!(after.contains(&before[1]));
    eventually("load goes on", LIMIT, || running.so_far().ok() > 100);
    let report = running.stop();
    assert!(report.refused() == 0 && report.failures() <= 3, "{report}");
}

#[test]
fn of_the_edge_refuses_nobody_and_a_new_one_serves_on_the_same_sockets() {
    let sandbox = sandbox();
    sandbox.up(&two());
    let before = sandbox.status();
    let running = light_load(&sandbox);
    sandbox.kill_hard(before.edge_pid().unwrap());
    let after = eventually_some("a new edge", LIMIT, || {
        sandbox
            .try_status()
            .filter(|status| status.edge_pid().is_some_and(|pid| Some(pid) != before.edge_pid()))
    });
    some_more(&running);
    let report = running.stop();
    assert_eq!(report.refused(), 0, "{report}");
    assert!(report.worst_gap < Duration::from_secs(3), "{report}");
    assert_eq!((after.https(), after.http()), (before.https(), before.http()));
    assert_eq!(after.ready_pids("shop/web"), before.ready_pids("shop/web"));
}

#[test]
fn of_a_shim_ends_its_instance_and_another_takes_its_place() {
    let sandbox = sandbox();
    sandbox.up(&two());
    let before = sandbox.status();
    let shim = before.instances("shop/web")[0]["shim_pid"].as_u64().unwrap();
    let orphan = before.instances("shop/web")[0]["pid"].as_u64().unwrap() as u32;
    sandbox.kill_hard(shim as u32);
    eventually("its program is gone", LIMIT, || !seaworthy_testkit::process::lives(orphan));
    eventually("two instances again", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.ready_pids("shop/web").len() == 2)
    });
}

#[test]
fn of_everything_and_a_cold_start_brings_it_all_back() {
    let sandbox = sandbox();
    sandbox.up(&two());
    let address = sandbox.status().https();
    sandbox.cut_the_power();
    sandbox.up(&two());
    assert_eq!(sandbox.wait_ready("shop/web", 2, LIMIT).len(), 2);
    assert_eq!(sandbox.status().https(), address, "a free port, once chosen, stays");
    assert_eq!(sandbox.https(&shop()).get("/say?text=back").text(), "back");
}

#[test]
fn of_the_edge_keeps_those_waiting_who_come_while_there_is_none() {
    let sandbox = sandbox();
    sandbox.up(&shop());
    let (before, client) = (sandbox.status(), sandbox.https(&shop()));
    sandbox.kill_hard(before.edge_pid().unwrap());
    for number in 0..20 {
        assert_eq!(client.get(&format!("/say?text={number}")).text(), number.to_string());
    }
    assert_ne!(sandbox.status().edge_pid(), before.edge_pid());
}

#[test]
fn of_an_instance_is_no_concern_of_requests_that_come_afterwards() {
    let sandbox = sandbox();
    sandbox.up(&two());
    let (before, client) = (sandbox.status().ready_pids("shop/web"), sandbox.https(&shop()));
    sandbox.kill_hard(before[0]);
    for number in 0..50 {
        assert_eq!(client.get(&format!("/say?text={number}")).text(), number.to_string());
    }
    eventually("two instances again", LIMIT, || {
        let now = sandbox.status().ready_pids("shop/web");
        now.len() == 2 && !now.contains(&before[0])
    });
}

#[test]
fn of_an_application_takes_the_grandchildren_that_left_it_along() {
    let sandbox = sandbox();
    sandbox.up(&Site::new("shop").app("web", FakeApp::new().grandchildren(3)));
    let before = sandbox.status().ready_pids("shop/web");
    let orphans = || -> Vec<u32> {
        let all = sandbox.processes().into_iter();
        all.filter(|one| one.command.ends_with("--orphan")).map(|one| one.pid).collect()
    };
    let old = orphans();
    assert_eq!(old.len(), 3);
    sandbox.kill_hard(before[0]);
    eventually("it is ready again", LIMIT, || {
        let now = sandbox.status().ready_pids("shop/web");
        now.len() == 1 && now != before
    });
    assert!(old.iter().all(|pid| !seaworthy_testkit::process::lives(*pid)), "{old:?}");
    assert_eq!(orphans().len(), 3, "those of the new one only");
}
