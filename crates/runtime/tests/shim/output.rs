//! What a program writes: told apart, timed, rotated, compressed, bounded.

use crate::instance::{Instance, LONG, argv};
use seaworthy_runtime::model::Phase;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

fn packed(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "gz")
}

#[test]
fn stdout_and_stderr_are_told_apart_and_timed() {
    let one =
        Instance::new(argv(&["sh", "-c", "echo hello; echo oops >&2; printf 'no end'; sleep 60"]))
            .launch();
    let log = one.until_log("oops");
    let line = |kind: &str| {
        log.lines()
            .find(|line| line.split(' ').nth(1) == Some(kind))
            .map(str::to_owned)
            .unwrap_or_default()
    };
    assert!(
        line("out").ends_with(" out hello")
            && line("err").ends_with(" err oops")
            && line("sys").contains("started"),
        "{log}"
    );
    assert_eq!(line("out").split(' ').next().unwrap().len(), "2026-11-21T02:48:50.123Z".len());
    assert_eq!(std::fs::metadata(&one.spec.log.path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn logs_rotate_and_are_compressed_and_stay_bounded() {
    let one = Instance::new(argv(&["sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done; echo finished; sleep 60"])).with(|spec| spec.log.max_size = 50_000).launch();
    one.until_log("finished");
    let names = || {
        let entries = std::fs::read_dir(one.spec.log.path.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let begun = Instant::now();
    while !names().iter().any(|name| packed(name)) {
        assert!(begun.elapsed() < LONG, "{:?}", names());
        std::thread::yield_now();
    }
    let total: u64 = std::fs::read_dir(one.spec.log.path.parent().unwrap())
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len()))
        .sum();
    assert!(total <= 50_000 * 4, "{total} bytes in {:?}", names());
}

#[test]
fn compression_outlives_the_end_of_the_program_that_filled_the_log() {
    let one =
        Instance::new(argv(&["sh", "-c", "head -c 3000000 /dev/urandom | od -x; echo finished"]))
            .with(|spec| {
                spec.log.max_size = 2 << 20;
                spec.log.keep = 50;
                spec.restart.backoff_min_ms = 600_000;
                spec.restart.backoff_max_ms = 600_000;
            });
    let one = one.launch();
    one.until("ended", |status| status.phase == Phase::Backoff);
    let plain = || {
        let entries = std::fs::read_dir(one.spec.log.path.parent().unwrap()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("web.log.") && !packed(name))
            .collect::<Vec<_>>()
    };
    let begun = Instant::now();
    while !plain().is_empty() {
        assert!(begun.elapsed() < LONG, "never compressed: {:?}", plain());
        std::thread::yield_now();
    }
}
