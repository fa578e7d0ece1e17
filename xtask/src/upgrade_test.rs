//! The upgrade from the previous version and back, with that version's own program.
//!
//! Its source is taken out of git and built beside ours; the end-to-end test then takes it. The previous version is
//! the last tag before this commit; where there is none yet, a commit has to be named. Invariant: the working
//! tree is not touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, run};

/// Builds the program of `revision` (the last tag when absent) and runs the test with it.
pub(crate) fn upgrade_test(revision: Option<&str>) -> Result<()> {
    let revision = match revision {
        Some(given) => given.to_owned(),
        None => last_tag()?,
    };
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let target = std::path::absolute(target)?;
    let source = target.join("previous");
    let program = build(&source, &revision, &target)?;
    run(Command::new(cargo())
        .args(["test", "-p", "seaworthy", "--test", "it", "--"])
        .args(["--ignored", "--exact"])
        .arg("upgrade::the_previous_version_takes_over_and_gives_back_what_it_wrote")
        .env("SEAWORTHY_PREVIOUS", program))
}

fn last_tag() -> Result<String> {
    let output =
        Command::new("git").args(["describe", "--tags", "--abbrev=0", "HEAD^"]).output()?;
    if !output.status.success() {
        bail!("there is no tag yet: cargo xtask upgrade-test COMMIT");
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Takes the revision's files out of git and builds them; its program gets a name of its own.
fn build(source: &Path, revision: &str, target: &Path) -> Result<PathBuf> {
    let archive = target.join("previous.tar");
    // What an earlier run left.
    if source.exists() {
        std::fs::remove_dir_all(source)?;
    }
    std::fs::create_dir_all(source)?;
    run(Command::new("git").args(["archive", "--format=tar", "-o"]).arg(&archive).arg(revision))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(source))?;
    run(Command::new(cargo())
        .args(["build", "-p", "seaworthy"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", target.join("previous-build")))?;
    let program = target.join("seaworthy-previous");
    std::fs::copy(target.join("previous-build/debug/seaworthy"), &program)
        .context("the program of the previous version")?;
    Ok(program)
}
