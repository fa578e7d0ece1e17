//! Limits: memory, open files, and what the shim itself takes.

use crate::instance::{GIVEN, Instance, argv, server};
use seaworthy_base::Code;
use seaworthy_runtime::model::ExitReason;

fn out_of_memory(one: Instance) {
    let one = one.with(|spec| spec.limits.memory_max = Some(64 << 20)).launch();
    let status = one.until("out of memory", |status| {
        status.last_exit.as_ref().is_some_and(|exit| exit.reason == ExitReason::OutOfMemory)
    });
    let fault = one.until("the fault", |status| status.fault.is_some()).fault.unwrap();
    assert!(
        fault.code == Code::OutOfMemory || fault.code == Code::CrashLoop,
        "{status:?} {fault:?}"
    );
}

const EATER: &str = "import time\nl=[]\nwhile True:\n  l.append(b'x'*(4<<20)); time.sleep(.02)";

#[test]
fn too_much_memory_is_ended_by_the_control_group() {
    out_of_memory(Instance::new(argv(&["python3", "-c", EATER])));
}

#[test]
fn too_much_memory_of_a_child_is_called_so_though_the_parent_ends_with_a_code() {
    out_of_memory(Instance::new(argv(&["sh", "-c", &format!("python3 -c \"{EATER}\"; exit 1")])));
}

#[test]
fn too_much_memory_is_ended_without_control_groups() {
    let one = Instance::new(argv(&["python3", "-c", EATER])).unprivileged();
    out_of_memory(one);
}

#[test]
fn memory_of_orphans_counts_without_control_groups() {
    let code = format!(
        "import os,time\nif os.fork()==0:\n  os.setsid()\n  if os.fork()==0:\n    exec({EATER:?})\n  os._exit(0)\ntime.sleep(600)"
    );
    out_of_memory(Instance::new(argv(&["python3", "-c", &code])).unprivileged());
}

#[test]
fn more_open_files_than_the_host_allows_are_a_weaker_guard_and_no_failed_start() {
    for unprivileged in [false, true] {
        let one = Instance::new(server(GIVEN, ""));
        let one = if unprivileged { one.unprivileged() } else { one }
            .with(|spec| spec.limits.nofile = Some(1 << 40))
            .launch();
        let guards = one.ready().guards;
        assert!(guards.iter().any(|guard| guard.contains("`nofile`")), "{guards:?}");
    }
}

#[test]
fn a_shim_is_small() {
    let one = Instance::new(server(GIVEN, "")).launch();
    let status = one.ready();
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", status.shim_pid)).unwrap();
    let dirty: u64 = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("Private_Dirty:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
        })
        .unwrap();
    assert!(dirty <= 1024, "{dirty} KiB of private dirty memory");
    println!("{dirty} KiB");
}
