//! Starting: what is missing is named, secrets arrive as they are, nothing else does.

use crate::instance::{GIVEN, Instance, LONG, argv, server};
use seaworthy_base::Code;
use seaworthy_runtime::driver;
use seaworthy_runtime::model::ExitReason;
use seaworthy_runtime::model::Phase;
use seaworthy_runtime::model::Spec;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

fn exec_error(argv: Vec<String>, change: impl FnOnce(&mut Spec, &Path)) -> (String, Code) {
    let one = Instance::new(argv);
    let dir = one.dir.path().to_owned();
    let one = one.with(|spec| change(spec, &dir)).launch();
    let status = one.until("could not exec", |status| matches!(&status.last_exit, Some(exit) if matches!(exit.reason, ExitReason::CouldNotExec(_))));
    let Some(ExitReason::CouldNotExec(what)) = status.last_exit.map(|exit| exit.reason) else {
        panic!()
    };
    (what, status.fault.unwrap().code)
}

#[test]
fn what_is_missing_for_an_exec_is_named() {
    let (what, code) = exec_error(argv(&["no-such-program-here"]), |_, _| {});
    assert_eq!(
        (what.as_str(), code),
        ("the program `no-such-program-here` is not in PATH", Code::ProgramMissing)
    );
    let (what, code) = exec_error(argv(&["no-such-folder-tool"]), |_, _| {});
    assert_eq!(
        (what.as_str(), code),
        ("the program `no-such-folder-tool` is not in PATH", Code::ProgramMissing)
    );
    let (what, code) =
        exec_error(argv(&["sh", "-c", "true"]), |spec, dir| spec.dir = dir.join("nowhere"));
    assert!(
        what.contains("working folder") && what.contains("nowhere") && code == Code::FileMissing,
        "{what}"
    );
    let (what, code) = exec_error(argv(&["./run.sh"]), |_, dir| {
        std::fs::write(dir.join("run.sh"), "#!/no/such/shell\n").unwrap();
        std::fs::set_permissions(dir.join("run.sh"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
    });
    assert!(what.contains("`/no/such/shell`") && code == Code::FileMissing, "{what}");
    let (what, code) = exec_error(argv(&["./run.sh"]), |_, dir| {
        std::fs::write(dir.join("run.sh"), "#!/bin/sh\n").unwrap()
    });
    assert!(what.contains("may not be executed") && code == Code::ProgramMissing, "{what}");
}

#[test]
fn a_missing_variable_is_the_cause_that_is_named() {
    let one =
        Instance::new(argv(&["python3", "-c", "import os; os.environ['DATABASE_URL']"])).launch();
    let status =
        one.until("a crash loop", |status| status.crash_loop && status.phase == Phase::Backoff);
    let fault = status.fault.unwrap();
    assert_eq!(fault.code, Code::CrashLoop);
    assert!(fault.causes.iter().any(|cause| cause.contains("`DATABASE_URL`")), "{fault:?}");
    assert!(fault.evidence.iter().any(|line| line.contains("KeyError")) && !fault.next.is_empty());
}

#[test]
fn secrets_reach_the_program_as_they_are_and_no_argv() {
    let one = Instance::new(argv(&["sh", "-c", "cat \"$KEY_FILE\"; echo; stat -c 'mode %a' \"$KEY_FILE\"; echo port $PORT arg $0; sleep 60", "$PORT"])).with(|spec| {
        spec.secret_files = vec![("KEY".to_owned(), "s3cret$PORT".to_owned())];
    });
    let one = one.launch();
    let log = one.until_log("arg ");
    assert!(
        log.contains("s3cret$PORT") && log.contains("mode 400") && !log.contains("arg $PORT"),
        "{log}"
    );
}

#[test]
fn nothing_is_replaced_inside_a_secret_variable() {
    let script = "echo plain=$PLAIN; echo \"secret=$SECRET.\"; sleep 60";
    let one = Instance::new(argv(&["sh", "-c", script])).with(|spec| {
        spec.environment.push(("PLAIN".to_owned(), "on-$PORT".to_owned()));
        spec.secret_environment = vec![("SECRET".to_owned(), "a$PORT$INSTANCE-b".to_owned())];
    });
    let log = one.launch().until_log("secret=");
    assert!(log.contains("secret=a$PORT$INSTANCE-b."), "{log}");
    assert!(log.contains("plain=on-") && !log.contains("plain=on-$PORT"), "{log}");
}

#[test]
fn a_shim_and_its_program_hold_nothing_of_whoever_started_them() {
    let one = Instance::new(server(GIVEN, ""));
    let leak = std::fs::File::create(one.dir.path().join("leaked")).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let one = one.launch();
    let status = one.ready();
    let shim = PathBuf::from(format!("/proc/{}", status.shim_pid));
    assert_eq!(std::fs::read_link(shim.join("cwd")).unwrap(), Path::new("/"));
    let error = std::fs::read_link(shim.join("fd/2")).unwrap();
    assert_eq!(error, one.spec.run_dir.join("shim.log"));
    for pid in [status.shim_pid, status.pid.unwrap()] {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let held: Vec<PathBuf> =
            entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
        assert!(!held.iter().any(|path| path.ends_with("leaked")), "{held:?}");
    }
    assert_eq!(driver::last_words(&one.spec.run_dir), Vec::<String>::new());
}

#[test]
fn a_shim_that_cannot_begin_says_why_in_its_folder() {
    let one = Instance::new(server(GIVEN, ""));
    let one = one.launch();
    one.ready();
    driver::launch(&one.program, &one.spec, None).unwrap();
    let begun = Instant::now();
    let says = || driver::last_words(&one.spec.run_dir);
    // It may be read in mid-sentence.
    while !says().iter().any(|line| line.contains("another shim owns")) {
        assert!(begun.elapsed() < LONG, "{:?}", says());
        std::thread::yield_now();
    }
    assert_eq!(one.client().status().unwrap().phase, Phase::Ready);
}
