//! Stopping: everybody hears of it once, and nobody is left.

use crate::instance::{GIVEN, Instance, LONG, argv, gone, pids_in, server};
use seaworthy_runtime::driver;
use seaworthy_runtime::model::Phase;
use std::time::Instant;

#[test]
fn grandchildren_with_sessions_of_their_own_that_ignore_term_are_gone_after_a_stop() {
    for unprivileged in [false, true] {
        let extra = "
for n in range(2):
  if os.fork()==0:
    os.setsid(); signal.signal(signal.SIGTERM,signal.SIG_IGN)
    if os.fork()==0:
      say('grandchild',os.getpid())
      time.sleep(600)
    os._exit(0)
";
        let one = Instance::new(server(GIVEN, extra)).with(|spec| spec.stop.grace_ms = 300);
        let one = if unprivileged { one.unprivileged() } else { one }.launch();
        one.ready();
        let begun = Instant::now();
        while pids_in(&one.log(), "grandchild").len() < 2 {
            assert!(begun.elapsed() < LONG);
            std::thread::yield_now();
        }
        let grandchildren = pids_in(&one.log(), "grandchild");
        one.client().stop(false).unwrap();
        one.until("stopped", |status| status.phase == Phase::Stopped);
        for pid in grandchildren {
            gone(pid);
        }
    }
}

#[test]
fn a_program_starts_with_no_signal_blocked_or_ignored() {
    // Signals that python itself ignores are left out.
    let code = "import signal as s\nprint('blocked',sorted(s.pthread_sigmask(s.SIG_BLOCK,[])),[n for n in (1,2,3,15,17) if s.getsignal(n)==s.SIG_IGN],flush=True)\ns.pause()";
    let one = Instance::new(argv(&["python3", "-c", code])).launch();
    let log = one.until_log("blocked");
    assert!(log.contains("blocked [] []"), "{log}");
    one.until_log("started");
    one.client().stop(false).unwrap();
    one.until("stopped", |status| status.phase == Phase::Stopped);
    assert!(!one.log().contains("KILL"), "{}", one.log());
}

#[test]
fn orphans_hear_the_stop_signal_too_and_none_hears_it_twice() {
    for unprivileged in [false, true] {
        let extra = "
def heard(*a):
  say('heard',os.getpid())
signal.signal(signal.SIGTERM,heard)
if os.fork()==0:
  os.setsid()
  if os.fork()==0:
    while os.getppid()==0: time.sleep(.01)
    say('orphan',os.getpid())
    while True: time.sleep(.01)
  os._exit(0)
say('main',os.getpid())
";
        let one = Instance::new(server(GIVEN, extra)).with(|spec| spec.stop.grace_ms = 1500);
        let one = if unprivileged { one.unprivileged() } else { one }.launch();
        one.ready();
        one.until_log("orphan");
        one.client().stop(false).unwrap();
        one.until("stopped", |status| status.phase == Phase::Stopped);
        let log = one.log();
        for who in ["main ", "orphan "] {
            let pid = pids_in(&log, who)[0];
            let times = pids_in(&log, "heard ").iter().filter(|heard| **heard == pid).count();
            assert_eq!(
                times, 1,
                "{who}(unprivileged: {unprivileged}) heard TERM {times} times\n{log}"
            );
        }
    }
}

#[test]
fn a_program_that_dies_with_its_shim_leaves_nothing_after_a_sweep() {
    let extra = "
if os.fork()==0:
  os.setsid(); say('grandchild',os.getpid()); time.sleep(600)
";
    let one = Instance::new(server(GIVEN, extra)).launch();
    let status = one.ready();
    let grandchild = pids_in(&one.until_log("grandchild"), "grandchild")[0];
    seaworthy_sys::process::signal_process(status.shim_pid, 9);
    gone(status.pid.unwrap());
    driver::sweep(&one.spec.id, &one.spec.run_dir, None).unwrap();
    gone(grandchild);
}

#[test]
fn a_shim_that_is_told_to_end_stops_its_program_and_frees_its_lock() {
    let one = Instance::new(server(GIVEN, "")).launch();
    let status = one.ready();
    seaworthy_sys::process::signal_process(status.shim_pid, 15);
    gone(status.pid.unwrap());
    gone(status.shim_pid);
    assert!(!seaworthy_sys::process::Lock::is_locked(&one.spec.run_dir.join("lock")).unwrap());
}

#[test]
fn a_restart_asked_for_while_it_ends_does_not_revive_it() {
    let one = Instance::new(server(GIVEN, "signal.signal(signal.SIGTERM,signal.SIG_IGN)"))
        .with(|spec| spec.stop.grace_ms = 500)
        .launch();
    let status = one.ready();
    one.client().stop(true).unwrap();
    one.client().restart().ok();
    gone(status.shim_pid);
}
