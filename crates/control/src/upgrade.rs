//! Another build of Seaworthy takes the place of this one, on probation until it serves.
//!
//! Control becomes the new program in its own process (`exec`), so that whoever watches it notices nothing;
//! the new one adopts edge and instances as after any other end, then replaces the edge, whose long-lived
//! connections go on in the old process until its deadline. The state is copied first. Invariants: until
//! the new build has acknowledged everything, whoever starts control starts the previous one; a build that
//! does not come up costs a start of the old one and nothing else, the state included. Not here: shims,
//! which stay what they are (every control understands every shim).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_api::Layout;
use seaworthy_base::{Code, Fault};
use seaworthy_state::StateError;
use seaworthy_sys::files::write_atomically;

use crate::instances::store_fault;
use crate::platform::Platform;

/// Connections that the old edge still has get this long.
const LONG_LIVED: Duration = Duration::from_secs(60 * 60);
/// Set for a program that was chosen already.
const CHOSEN: &str = "SEAWORTHY_CHOSEN";
/// A program that does not even say its version by then hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Names the program that is on probation, while there is one.
fn probation(layout: &Layout) -> PathBuf {
    layout.state.join("upgrade/probation")
}

/// The state as it was before the upgrade.
fn copy(layout: &Layout) -> PathBuf {
    layout.state.join("upgrade/state.db")
}

/// Names the program that proved itself last.
fn proven(layout: &Layout) -> PathBuf {
    layout.state.join("program")
}

fn read_path(file: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(file).ok()?;
    Some(PathBuf::from(text.trim())).filter(|path| path.is_absolute())
}

/// The program that is to be started as control: the last that proved itself, or our own.
pub(crate) fn program(layout: &Layout, own: &Path) -> PathBuf {
    read_path(&proven(layout)).filter(|path| path.is_file()).unwrap_or_else(|| own.to_path_buf())
}

/// Whether a program is on probation: its end is not the end.
pub(crate) fn on_probation(layout: &Layout) -> bool {
    probation(layout).exists()
}

/// Looks at the new program, copies the state and marks the probation. The caller then becomes it.
pub(crate) async fn prepare(platform: &Arc<Platform>, new: &Path, who: &str) -> Result<(), Fault> {
    if let Some(holder) = platform.turns.any() {
        let what = format!("{holder} is deploying: the upgrade would cut it off");
        return Err(Fault::new(Code::DeployBusy, what).next("seaworthy status"));
    }
    let refused = |cause: String| {
        let what = format!("`{}` cannot take over", new.display());
        Fault::new(Code::UpgradeFailed, what)
            .because(cause)
            .next(format!("{} --version", new.display()))
    };
    let mut asking = tokio::process::Command::new(new);
    asking.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let said = tokio::time::timeout(PATIENCE, asking.output()).await;
    let said = said
        .map_err(|_| refused("it did not say its version".to_owned()))?
        .map_err(|error| refused(error.to_string()))?;
    let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if !said.status.success() || !version.starts_with("seaworthy ") {
        return Err(refused(format!("it is no Seaworthy: it said `{version}`")));
    }
    let layout = &platform.layout;
    let unwritable = |error: std::io::Error| {
        crate::release::disk_fault("could not prepare the upgrade".to_owned(), &error)
    };
    fs::create_dir_all(layout.state.join("upgrade")).map_err(unwritable)?;
    fs::remove_file(copy(layout)).ok();
    platform.store().copy_to(&copy(layout)).map_err(|error| store_fault(&error))?;
    let text = new.as_os_str().as_encoded_bytes();
    write_atomically(&probation(layout), text, 0o600).map_err(unwritable)?;
    platform.audit(who, "upgrade", &new.display().to_string(), &version);
    Ok(())
}

/// Where no keeper chooses: becomes the program that proved itself last, if that is another one than ours. Before anything
/// is opened; one that cannot be executed is said, and this one goes on.
pub(crate) fn become_the_chosen(layout: &Layout, own: &Path) {
    let chosen = program(layout, own);
    let real = |path: &Path| fs::canonicalize(path).ok();
    // Once: a program that stands at two places would become itself without end.
    if std::env::var_os(CHOSEN).is_some() || real(&chosen) == real(own) {
        return;
    }
    let mut command = Command::new(&chosen);
    command.args(std::env::args_os().skip(1)).env(CHOSEN, "1");
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    crate::say(&format!("could not become {}: {error}", chosen.display()));
}

/// Becomes another program; returns only when that did not work.
pub(crate) fn become_it(layout: &Layout, new: &Path) -> std::io::Error {
    let mut command = Command::new(new);
    command.arg("control").arg("--state").arg(&layout.state).env("SEAWORTHY_RUN", &layout.run);
    for taken in seaworthy_sys::systemd::TAKEN {
        command.env_remove(taken);
    }
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    fs::remove_file(probation(layout)).ok();
    error
}

/// Before the state is opened: a probation of another program means that it did not come up, and that what
/// it may have made of the state goes.
pub(crate) fn settle(layout: &Layout, own: &Path) -> Result<(), Fault> {
    let Some(tried) = read_path(&probation(layout)).filter(|tried| tried != own) else {
        return Ok(());
    };
    crate::say(&format!("{} did not come up: the upgrade is taken back", tried.display()));
    let unwritable = |error: std::io::Error| {
        crate::release::disk_fault("could not take the upgrade back".to_owned(), &error)
    };
    let newer = matches!(
        seaworthy_state::Store::open(&layout.state),
        Err(StateError::TooNew { .. } | StateError::Corrupt { .. })
    );
    if newer && copy(layout).is_file() {
        for ending in ["-wal", "-shm"] {
            fs::remove_file(layout.state.join(format!("state.db{ending}"))).ok();
        }
        fs::rename(copy(layout), layout.state.join("state.db")).map_err(unwritable)?;
    }
    fs::remove_file(probation(layout)).map_err(unwritable)
}

/// After everything was adopted: the edge is replaced, and then the probation is over. An edge that cannot
/// be replaced ends this process, so that the previous program runs again.
pub(crate) async fn confirm(platform: &Arc<Platform>) -> Result<(), Fault> {
    let layout = &platform.layout;
    if read_path(&probation(layout)).as_deref() != Some(platform.program.as_path()) {
        return Ok(());
    }
    let serves = platform.world().sites.values().any(|site| site.running);
    if serves {
        let mut edge = platform.edge.lock().await;
        crate::serve::catch_up(platform, &mut edge).await?;
        edge.replace(LONG_LIVED).await?;
        crate::serve::remember(platform, &edge.record())?;
    }
    let unwritable = |error: std::io::Error| {
        crate::release::disk_fault("could not finish the upgrade".to_owned(), &error)
    };
    let text = platform.program.as_os_str().as_encoded_bytes();
    write_atomically(&proven(layout), text, 0o600).map_err(unwritable)?;
    fs::remove_file(probation(layout)).map_err(unwritable)?;
    fs::remove_file(copy(layout)).ok();
    let program = platform.program.display().to_string();
    platform.audit("control", "upgraded", &program, &crate::build_id());
    platform.event(None, None, "upgraded", &program, None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_did_not_come_up_is_forgotten_with_what_it_made_of_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().to_path_buf(), run: dir.path().join("run") };
        let store = seaworthy_state::Store::open(&layout.state).unwrap();
        store.put_setting("kept", "1").unwrap();
        fs::create_dir_all(dir.path().join("upgrade")).unwrap();
        store.copy_to(&copy(&layout)).unwrap();
        drop(store);
        // What a later build might leave: nothing that this one could open.
        fs::write(layout.state.join("state.db"), vec![7; 9000]).unwrap();
        fs::write(probation(&layout), "/new/seaworthy").unwrap();
        settle(&layout, Path::new("/old/seaworthy")).unwrap();
        let store = seaworthy_state::Store::open(&layout.state).unwrap();
        assert_eq!(store.get_setting("kept").unwrap().as_deref(), Some("1"));
        assert!(!on_probation(&layout));
    }

    #[test]
    fn the_program_that_proved_itself_is_started_unless_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().to_path_buf(), run: dir.path().join("run") };
        assert_eq!(program(&layout, Path::new("/own")), Path::new("/own"));
        let new = dir.path().join("new");
        fs::write(proven(&layout), new.as_os_str().as_encoded_bytes()).unwrap();
        assert_eq!(program(&layout, Path::new("/own")), Path::new("/own"));
        fs::write(&new, "x").unwrap();
        assert_eq!(program(&layout, Path::new("/own")), new);
    }
}
