//! The project's chores: `setup`, `test`, `host-test`, `tidy`, `gen [--check]`.
//!
//! Standard library only, so that it builds in a moment. Invariant: `setup` installs nothing that is
//! there already and says what it cannot install. Not here: anything that a user of Seaworthy runs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod host_test;
mod tidy;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["setup"] => setup(),
        ["test"] => setup().and_then(|()| test()),
        ["host-test"] => host_test::host_test(),
        ["tidy"] => tidy::tidy(),
        ["gen"] => generate(false),
        ["gen", "--check"] => generate(true),
        _ => {
            eprintln!("cargo xtask setup | test | host-test | tidy | gen [--check]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the tests need: a program, and the package that brings it on Debian and Ubuntu.
const NEEDED: [(&str, &str); 4] =
    [("python3", "python3-minimal"), ("curl", "curl"), ("git", "git"), ("cc", "gcc")];

/// Installs what is missing.
fn setup() -> Result<()> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(", "));
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let apt = |arguments: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.args(["-n", "apt-get"]);
        }
        run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-y", "-q"], &missing[..]].concat())
        .with_context(|| format!("install these by hand: {}", missing.join(" ")))
}

fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn test() -> Result<()> {
    run(Command::new(cargo()).args(["test", "--workspace"]))
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The references that the binary prints about itself.
const GENERATED: [(&str, &str); 4] = [
    ("manifest", "docs/reference/manifest.md"),
    ("codes", "docs/reference/codes.md"),
    ("cli", "docs/reference/cli.md"),
    ("schema", "docs/reference/seaworthy.schema.json"),
];

fn generate(check: bool) -> Result<()> {
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
