//! Finds the fake application's program, building it when the test's own build did not.
//!
//! Cargo gives a package's integration tests their own package's programs only, so the one of this
//! package is built here, into the same target folder, once for each test process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The program; `SEAWORTHY_FAKEAPP` in the environment wins.
pub(crate) fn fakeapp() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND
        .get_or_init(|| std::env::var_os("SEAWORTHY_FAKEAPP").map_or_else(make, PathBuf::from))
        .clone()
}

fn make() -> PathBuf {
    let us = std::env::current_exe().expect("the test's own program");
    // `target/debug/deps/it-…` for a test, `target/debug/soak` for a program.
    let profile = us
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .expect("a program lies in a folder");
    let target = profile.parent().expect("a profile's folder lies in the target folder");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command
            .args([
                "build",
                "--quiet",
                "--package",
                "seaworthy-testkit",
                "--bin",
                "fakeapp",
                "--target-dir",
            ])
            .arg(target);
        if profile.ends_with("release") {
            command.arg("--release");
        }
        let status = command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .status()
            .expect("cargo can be run");
        assert!(status.success(), "the fake application does not build");
    }
    let program = profile.join("fakeapp");
    assert!(
        Path::new(&program).exists(),
        "no `{}`: cargo build -p seaworthy-testkit --bin fakeapp",
        program.display()
    );
    program
}
