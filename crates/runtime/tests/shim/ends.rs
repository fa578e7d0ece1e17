//! Ends: the state says why as soon as it happened, how often, and when it is tried again.

use seaworthy_base::{Code, Timestamp};
use seaworthy_runtime::model::{ExitReason, Phase, Spec, Status};

use crate::instance::{GIVEN, Instance, argv, server};

/// Ten minutes: what is seen is the state between an end and the next start.
const PAUSE: u64 = 600_000;

fn waiting(spec: &mut Spec) {
    (spec.restart.backoff_min_ms, spec.restart.backoff_max_ms) = (PAUSE, PAUSE);
}

fn ended(one: &Instance) -> Status {
    let before = Timestamp::now().0;
    let status = one.until("the pause", |status| status.phase == Phase::Backoff);
    let next = status.next_start.unwrap().0;
    // Half of it, so that a slow machine does not matter.
    assert!(next > before + PAUSE / 2 && next <= Timestamp::now().0 + PAUSE, "{next}");
    assert_eq!((status.restarts, status.pid), (0, None));
    status
}

#[test]
fn between_an_end_and_the_next_start_the_state_says_why_and_when() {
    let cases = [
        (argv(&["sh", "-c", "exit 3"]), ExitReason::Code(3), Code::Exited),
        (
            argv(&["sh", "-c", "kill -SEGV $$"]),
            ExitReason::Signal("SIGSEGV".to_owned()),
            Code::Killed,
        ),
        (
            argv(&["no-such-program-here"]),
            ExitReason::CouldNotExec(
                "the program `no-such-program-here` is not in PATH".to_owned(),
            ),
            Code::ProgramMissing,
        ),
    ];
    for (argv, reason, code) in cases {
        let one = Instance::new(argv).with(waiting).launch();
        let status = ended(&one);
        let exit = status.last_exit.unwrap();
        assert_eq!((exit.reason, exit.listened), (reason, false));
        assert_eq!(status.fault.unwrap().code, code);
    }
}

#[test]
fn the_reason_stays_while_it_runs_again() {
    let script = "[ -e second ] || { touch second; exit 3; }; exec sleep 600";
    let one = Instance::new(argv(&["sh", "-c", script])).with(waiting).launch();
    ended(&one);
    one.client().restart().unwrap();
    let status = one.until("running again", |status| status.pid.is_some());
    assert_eq!((status.restarts, status.next_start), (1, None));
    assert_eq!(status.last_exit.unwrap().reason, ExitReason::Code(3));
}

#[test]
fn what_one_run_used_is_not_held_against_the_next() {
    let script = "import os,time\nif not os.path.exists('second'):\n  open('second','w'); x=b'x'*(64<<20)\ntime.sleep(600)";
    let one = Instance::new(argv(&["python3", "-c", script]))
        .with(|spec| spec.limits.memory_restart = Some(48 << 20))
        .launch();
    let first = one.until("too large", |status| status.wants_replacement);
    one.client().restart().unwrap();
    let second =
        one.until("another process", |status| status.pid.is_some_and(|pid| Some(pid) != first.pid));
    assert!(!second.wants_replacement && second.memory.is_none_or(|used| used < 48 << 20));
}

#[test]
fn a_stopped_instance_is_not_about_to_start() {
    let one = Instance::new(server(GIVEN, "")).launch();
    one.ready();
    one.client().stop(false).unwrap();
    let status = one.until("stopped", |status| status.phase == Phase::Stopped);
    assert_eq!((status.next_start, status.fault), (None, None));
    assert_eq!(status.last_exit.unwrap().reason, ExitReason::Asked);
}
