//! `mysql-tests`: backups of MySQL's own server, which no stable Debian has.
//!
//! Debian's unstable distribution has it. Its packages are brought by `apt` (which checks their signatures) with
//! folders of its own, and unpacked into the target folder with all that they need, the C library too: nothing of the
//! machine changes. Invariant: no test run is no success. They stay as they were brought; remove the folder to have
//! newer ones. Not here: what is tested (`crates/backup/tests/backup/mysql.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{FOR_TESTS, setup};
use crate::trial::target;
use crate::{cargo, run};

/// What is brought, with what it depends on.
const PACKAGES: [&str; 2] = ["mysql-server-core", "mysql-client-core"];
/// Where from.
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n";
/// Programs and where they are in their package.
const PROGRAMS: [(&str, &str); 3] =
    [("mysqld", "sbin/mysqld"), ("mysqldump", "bin/mysqldump"), ("mysql", "bin/mysql")];

/// Runs the tests.
pub(crate) fn mysql_tests() -> Result<()> {
    setup(FOR_TESTS)?;
    let programs = programs()?;
    run(Command::new(programs.join("mysqldump")).arg("--version"))?;
    let words =
        ["test", "-p", "seaworthy-backup", "--test", "backup", "--", "--ignored", "mysql::"];
    let mut list = Command::new(cargo());
    let listed = list.args(words).arg("--list").env("SEAWORTHY_MYSQL", &programs).output()?;
    if !String::from_utf8_lossy(&listed.stdout).contains(": test") {
        bail!("there is no test: {}", String::from_utf8_lossy(&listed.stderr));
    }
    run(Command::new(cargo()).args(words).env("SEAWORTHY_MYSQL", &programs))
}

/// The folder with the programs, brought here unless they are there.
fn programs() -> Result<PathBuf> {
    let folder = target()?.join("tools/mysql");
    let programs = folder.join("bin");
    if PROGRAMS.iter().all(|(name, _)| programs.join(name).is_file()) {
        return Ok(programs);
    }
    // Below `lib`: a program that is shut in may read what is in there beside its own folder.
    let root = folder.join("lib/root");
    fs::create_dir_all(&root)?;
    let packages = bring(&folder.join("apt"))?;
    for package in &packages {
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&root))?;
    }
    eprintln!("{} packages unpacked into {}", packages.len(), root.display());
    fs::create_dir_all(&programs)?;
    for (name, place) in PROGRAMS {
        let script = wrapper(&root, place)?;
        let path = programs.join(name);
        fs::write(&path, script).with_context(|| format!("could not write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(programs)
}

/// Has `apt` bring the packages into folders of its own, as for a machine on which nothing is installed.
fn bring(folder: &Path) -> Result<Vec<PathBuf>> {
    for name in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::write(folder.join("status"), "")?;
    fs::write(folder.join("sources.list"), SOURCE)?;
    let at = folder.display();
    let config = format!(
        "Dir::Etc::SourceList \"{at}/sources.list\";\nDir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
         Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
         APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nBinary::apt-get::APT::Keep-Downloaded-Packages \"true\";\n"
    );
    fs::write(folder.join("apt.conf"), config)?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        run(command.env("APT_CONFIG", folder.join("apt.conf")).args(["-q"]).args(words))
    };
    apt(&["update"])?;
    apt(&[&["install", "--download-only", "-y"], &PACKAGES[..]].concat())?;
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder.join("cache/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            packages.push(path);
        }
    }
    Ok(packages)
}

/// A script that starts a program of another distribution by that distribution's own loader and libraries.
fn wrapper(root: &Path, place: &str) -> Result<String> {
    let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let mut loader = None;
    for entry in fs::read_dir(&libraries)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ld-linux") {
            loader = Some(entry.path());
        }
    }
    let loader = loader.context("the packages bring no loader of programs")?;
    let (usr, libraries) = (root.join("usr"), libraries.display());
    let (usr, loader) = (usr.display(), loader.display());
    // The server looks for its messages and plugins where its package would have put them.
    let more = if place == "sbin/mysqld" {
        format!(
            " --basedir='{usr}' --lc-messages-dir='{usr}/share/mysql' --plugin-dir='{usr}/lib/mysql/plugin' --character-sets-dir='{usr}/share/mysql/charsets'"
        )
    } else {
        String::new()
    };
    Ok(format!(
        "#!/bin/sh\nexec '{loader}' --argv0 \"$0\" --library-path '{libraries}' '{usr}/{place}' \"$@\"{more}\n"
    ))
}
