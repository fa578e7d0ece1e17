//! The references under `docs/reference`, as the binary prints them about itself.
//!
//! Invariant: with `check` nothing is written; a stale file is an error that names the command.

use std::process::Command;

use anyhow::{Result, bail};

use crate::cargo;

/// What the binary prints, and where it is kept.
const GENERATED: [(&str, &str); 4] = [
    ("manifest", "docs/reference/manifest.md"),
    ("codes", "docs/reference/codes.md"),
    ("cli", "docs/reference/cli.md"),
    ("schema", "docs/reference/seaworthy.schema.json"),
];

/// Writes the references, or only compares them.
pub(crate) fn generate(check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (what, file) in GENERATED {
        let output = Command::new(cargo())
            .args(["run", "-q", "-p", "seaworthy", "--", "__reference", what])
            .env("NO_COLOR", "1")
            .output()?;
        if !output.status.success() {
            bail!("the binary printed no `{what}`: {}", String::from_utf8_lossy(&output.stderr));
        }
        if std::fs::read(file).ok().as_ref() == Some(&output.stdout) {
            continue;
        }
        if check {
            stale.push(file);
        } else {
            std::fs::create_dir_all("docs/reference")?;
            std::fs::write(file, &output.stdout)?;
            println!("wrote {file}");
        }
    }
    if !stale.is_empty() {
        bail!("out of date: {}; run `cargo xtask gen`", stale.join(", "));
    }
    Ok(())
}
