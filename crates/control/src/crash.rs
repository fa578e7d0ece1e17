//! Places at which tests let control die as by `kill -9`, panic, let its disk be full, or let it wait.
//!
//! Every step of a deployment has three: before its work, after its work and before the journal knows, and
//! after. What is to happen stands in the file that `SEAWORTHY_CRASH_FILE` names: the place's name alone (die there,
//! once: the file goes first), `panic` and a place (a panic there, once), `edge` and a place (the edge dies there, once), `shim` or
//! `cli` and a place (so do the newest shim, and whoever asked for the deployment),
//! `full` and a place (from there on the disk is full, as long as the file is there), or `wait` and a place (as long as
//! the file says so). What is to happen after what happens once stands in the next line. Invariant: builds for use have none of it. Not here: what must hold afterwards (`tests/it/crash.rs`,
//! `tests/it/defect.rs`, `tests/it/disk.rs`).

#[cfg(debug_assertions)]
mod places {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    /// The place that was reached and from which on the disk is full.
    static FULL: Mutex<String> = Mutex::new(String::new());

    /// The file, and what its first line says.
    fn asked() -> Option<(PathBuf, String)> {
        let file = PathBuf::from(std::env::var_os("SEAWORTHY_CRASH_FILE")?);
        let text = fs::read_to_string(&file).ok()?;
        Some((file, text.trim().lines().next().unwrap_or_default().to_owned()))
    }

    /// Takes the first line away, and the file with the last; whether that was possible.
    fn spend(file: &Path) -> bool {
        let text = fs::read_to_string(file).unwrap_or_default();
        match text.trim().split_once('\n') {
            Some((_, rest)) => fs::write(file, rest).is_ok(),
            None => fs::remove_file(file).is_ok(),
        }
    }

    /// Does what is asked for at this place.
    pub(crate) fn point(place: &str) {
        let Some((file, text)) = asked() else { return };
        if text == place && spend(&file) {
            crate::processes::kill(std::process::id());
        }
        if text.strip_prefix("panic ") == Some(place) && spend(&file) {
            panic(place);
        }
        let of_others = text.split_once(' ').filter(|(_, at)| *at == place);
        if let Some((role @ ("edge" | "shim" | "cli"), _)) = of_others
            && spend(&file)
        {
            others(role, &file).into_iter().for_each(crate::processes::kill);
        }
        let Some(from) = text.strip_prefix("full ") else { return };
        let mut full = FULL.lock().unwrap_or_else(PoisonError::into_inner);
        if from == place {
            place.clone_into(&mut full);
        }
        if *full == from {
            fill(&file.with_extension("fill"));
        }
    }

    /// A defect of ours, as far as anybody can tell.
    #[expect(clippy::panic, reason = "a test asked for it")]
    fn panic(place: &str) {
        panic!("a test wanted a panic at {place}");
    }

    /// Processes of ours in a role: the edges, the newest shim, or commands that deploy.
    fn others(role: &str, file: &Path) -> Vec<u32> {
        let verb = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1).map(<[u8]>::to_vec).unwrap_or_default()
        };
        if role == "cli" {
            // No children of ours; those of the same test are told the same file.
            let told = format!("SEAWORTHY_CRASH_FILE={}", file.display());
            let is_told = |pid: &u32| {
                let all = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                all.split(|byte| *byte == 0).any(|one| one == told.as_bytes())
            };
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            return pids.filter(|pid| verb(pid) == b"deploy" && is_told(pid)).collect();
        }
        let own = seaworthy_sys::proc_tree::descendants(std::process::id()).into_iter();
        let mut found: Vec<u32> = own.filter(|pid| verb(pid) == role.as_bytes()).collect();
        if role == "shim" {
            // Process ids count up, but for once around in four million.
            found.sort_unstable();
            found.drain(..found.len().saturating_sub(1));
        }
        found
    }

    /// Takes all the room that is left, down to the last byte.
    fn fill(path: &Path) {
        let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) else { return };
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Waits at this place as long as that is asked for.
    pub(crate) async fn wait(place: &str) {
        let waits = || asked().is_some_and(|(_, text)| text.strip_prefix("wait ") == Some(place));
        while waits() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[cfg(debug_assertions)]
pub(crate) use places::{point, wait};

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_place: &str) {}

/// Nothing.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "it waits in builds for tests")]
pub(crate) async fn wait(_place: &str) {}
