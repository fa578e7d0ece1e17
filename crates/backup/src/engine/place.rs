//! Putting restored files where live ones are: complete beside, then renamed; what was there stays.
//!
//! Invariant: at every moment the old content is under its own name or under the name that is reported; a
//! restore that is cut off is simply made again.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};

use super::Placed;
use crate::model::RunAs;
use crate::seal::write_fault;
use crate::set::Set;

/// A name beside `path` that says what it is and of which backup: `app.db.before-20261121T081500Z-3f9a`.
pub(super) fn beside(path: &Path, word: &str, set: &Set) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{word}-{}", set.id));
    path.with_file_name(name)
}

/// Removes what an earlier restore that was cut off left.
pub(super) fn remove(path: &Path) -> Result<(), Fault> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(|error| write_fault(format!("could not remove `{}`", path.display()), &error))
}

/// Gives a new file the owner and mode of the one it replaces (or, where none is left, of its folder or the
/// site's user).
pub(super) fn give_like(
    fresh: &Path,
    live: &Path,
    source: &Path,
    run_as: Option<&RunAs>,
) -> Result<(), Fault> {
    let like = [live, source].into_iter().find_map(|path| fs::metadata(path).ok());
    let mode = like.as_ref().map_or(0o600, |meta| meta.mode() & 0o7777);
    let owner = like
        .map(|meta| (meta.uid(), meta.gid()))
        .or_else(|| run_as.map(|user| (user.uid, user.gid)));
    let given =
        fs::set_permissions(fresh, fs::Permissions::from_mode(mode)).and_then(|()| match owner {
            Some((uid, gid)) if seaworthy_sys::process::current_uid() == 0 => {
                chown(fresh, Some(uid), Some(gid))
            }
            _ => Ok(()),
        });
    given.map_err(|error| {
        write_fault(format!("could not give `{}` its owner and mode", fresh.display()), &error)
    })
}

/// Puts `fresh` in the place of `live`. With `replace` what is there moves aside, with its companions.
pub(super) fn exchange(
    fresh: &Path,
    live: &Path,
    set: &Set,
    replace: bool,
    companions: &[&str],
) -> Result<Placed, Fault> {
    let there = fs::symlink_metadata(live).is_ok();
    if there && !replace {
        remove(fresh)?;
        return Err(Fault::new(
            Code::RestoreUnconfirmed,
            format!("`{}` is there already", live.display()),
        )
        .because("a restore never writes over data")
        .next("name what does not exist yet: --into NAME or --to PATH"));
    }
    let mut aside = beside(live, "before", set);
    let mut number = 1;
    while fs::symlink_metadata(&aside).is_ok() {
        number += 1;
        aside = beside(live, &format!("before-{number}"), set);
    }
    let with = |path: &Path, end: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    };
    let moved = || -> io::Result<()> {
        if there {
            fs::rename(live, &aside)?;
        }
        for end in companions.iter().filter(|end| fs::symlink_metadata(with(live, end)).is_ok()) {
            fs::rename(with(live, end), with(&aside, end))?;
        }
        fs::rename(fresh, live)?;
        live.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    moved().map_err(|error| {
        write_fault(
            format!(
                "could not put `{}` in its place; what was there is `{}`",
                live.display(),
                aside.display()
            ),
            &error,
        )
    })?;
    Ok(Placed {
        to: live.display().to_string(),
        before: there.then(|| aside.display().to_string()),
    })
}
