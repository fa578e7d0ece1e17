//! Limits: memory, open files, and what the shim itself takes.

use std::time::{Duration, Instant};

use seaworthy_base::Code;
use seaworthy_runtime::driver;
use seaworthy_runtime::model::{ExitReason, Phase, Status};
use seaworthy_sys::cgroup::Cgroup;

use crate::instance::{GIVEN, Instance, PROVE, argv, server};

/// Whether the kernel gave all limits. Where it does not, the rest of the test shows nothing, and says
/// so; under `cargo xtask host-test` it must.
fn proven(status: &Status) -> bool {
    if status.guards.is_empty() {
        return true;
    }
    let missing = status.guards.join("; ");
    assert!(std::env::var_os(PROVE).is_none(), "{missing}");
    eprintln!("unproven here: {missing}");
    false
}

fn group(one: &Instance) -> Cgroup {
    Cgroup::find(&driver::cgroup_name(&one.spec.id, &one.spec.run_dir)).unwrap()
}

#[test]
fn one_that_forks_without_end_meets_its_limit_and_the_shim_goes_on() {
    let extra = "
held=[]
try:
  while True:
    pid=os.fork()
    if pid==0: time.sleep(600); os._exit(0)
    held.append(pid)
except OSError as e: say('refused after',len(held),e.errno)
";
    let one = Instance::new(server(GIVEN, extra))
        .with(|spec| (spec.limits.processes, spec.stop.grace_ms) = (Some(12), 300))
        .launch();
    if !proven(&one.until("a start", |status| status.pid.is_some())) {
        return;
    }
    // EAGAIN, after eleven: the program itself is the twelfth.
    one.until_log("refused after 11 11");
    assert!(group(&one).refusals().0 > 0);
    assert!(group(&one).pids().len() > 10);
    one.client().stop(false).unwrap();
    one.until("stopped", |status| status.phase == Phase::Stopped);
    assert_eq!(group(&one).pids(), Vec::<u32>::new());
}

#[test]
fn one_that_says_nothing_of_processes_has_a_limit_all_the_same() {
    let one = Instance::new(server(GIVEN, "")).launch();
    if proven(&one.ready()) {
        let limit = group(&one).tasks_limit().unwrap();
        assert!(limit < seaworthy_sys::process::most_tasks() / 5, "{limit}");
    }
}

#[test]
fn cpu_is_bounded() {
    let busy = argv(&["python3", "-c", "while True: pass"]);
    let one = Instance::new(busy).with(|spec| spec.limits.cpu_millis = Some(200)).launch();
    if !proven(&one.until("a start", |status| status.pid.is_some())) {
        return;
    }
    let used = |status: &Status| status.cpu_ms.unwrap_or(0);
    let begun = Instant::now();
    let before = used(&one.until("some CPU", |status| used(status) > 0));
    one.until("more CPU", |status| used(status) > before + 300);
    assert!(group(&one).refusals().1 > 2, "it never had to wait");
    // A fifth of a core takes 1.5 s for 0.3 s; what was saved up before the first look is in the half.
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
}

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
