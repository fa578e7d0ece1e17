//! Places at which tests let control die as by `kill -9`.
//!
//! Every step of a deployment has three: before its work, after its work and before the journal knows, and
//! after. Invariant: builds for use have none. Not here: what must hold afterwards (`tests/it/crash.rs`).

/// Dies here when the file that `SEAWORTHY_CRASH_FILE` names holds this place's name. The file goes first,
/// so that it happens once.
#[cfg(debug_assertions)]
pub(crate) fn point(place: &str) {
    let Some(file) = std::env::var_os("SEAWORTHY_CRASH_FILE") else { return };
    if std::fs::read_to_string(&file).is_ok_and(|wanted| wanted.trim() == place)
        && std::fs::remove_file(&file).is_ok()
    {
        crate::processes::kill(std::process::id());
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_place: &str) {}
