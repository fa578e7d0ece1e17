//! Where the files of a deployment come from: the folder, a git reference, a tar archive.
//!
//! Git runs as the folder's owner (its configuration may name programs), and an archive is taken apart
//! entry by entry: what leads out of it, links that do and devices are refused, not skipped. Invariant: what
//! was unpacked is gone when the deployment is over, and after a crash at the next start.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;

use rand::distr::{Alphanumeric, SampleString};
use seaworthy_api::Layout;
use seaworthy_api::model::Source;
use seaworthy_base::{Code, Fault};

use crate::release::disk_fault;

/// Entries of an archive, and bytes of all of them: a project that is larger does not belong into one.
const ENTRIES: usize = 500_000;
const BYTES: u64 = 8 << 30;

/// The files of a deployment.
#[derive(Debug)]
pub(super) struct Files {
    /// Where they are.
    pub dir: PathBuf,
    /// Where they came from, in words.
    pub words: String,
    _unpacked: Option<Unpacked>,
}

/// A folder that goes with this value.
#[derive(Debug)]
struct Unpacked(PathBuf);

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            crate::say(&format!("could not remove {}: {error}", self.0.display()));
        }
    }
}

/// Removes what deployments left that were cut off.
pub(super) fn sweep(layout: &Layout) {
    fs::remove_dir_all(layout.incoming()).ok();
}

/// Brings the files to a folder. Blocking.
pub(super) fn open(layout: &Layout, project: &Path, source: &Source) -> Result<Files, Fault> {
    match source {
        Source::Folder => Ok(Files {
            dir: project.to_path_buf(),
            words: format!("folder {}", project.display()),
            _unpacked: None,
        }),
        Source::Git(reference) => {
            let commit = commit_of(project, reference)?;
            let mut git = git(project, &["archive", "--format=tar", &commit])?;
            let mut child = git
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| no_git(project, &error.to_string()))?;
            let archive = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read>);
            let unpacked = archive.map(|archive| unpack(layout, archive));
            let status = child.wait().map_err(|error| no_git(project, &error.to_string()))?;
            let unpacked = unpacked.ok_or_else(|| no_git(project, "it printed nothing"))??;
            if !status.success() {
                return Err(no_git(project, &format!("`git archive` ended with {status}")));
            }
            let short = commit.get(..12).unwrap_or(&commit);
            let words = format!("git {reference} ({short})");
            Ok(Files { dir: unpacked.0.clone(), words, _unpacked: Some(unpacked) })
        }
        Source::Tar(path) => {
            let opened = File::open(path);
            let result = opened
                .map_err(|error| unusable(&format!("`{}`: {error}", path.display())))
                .and_then(|file| unpack(layout, Box::new(io::BufReader::new(file))));
            fs::remove_file(path).ok();
            let unpacked = result?;
            let words = "archive".to_owned();
            Ok(Files { dir: unpacked.0.clone(), words, _unpacked: Some(unpacked) })
        }
    }
}

fn unusable(cause: &str) -> Fault {
    Fault::new(Code::SourceUnusable, "the archive cannot be used")
        .because(cause)
        .next("git archive HEAD | seaworthy deploy --stdin   (nothing was changed)")
}

fn no_git(project: &Path, cause: &str) -> Fault {
    let what = format!("git could not give the files of `{}`", project.display());
    Fault::new(Code::SourceUnusable, what)
        .because(cause)
        .next(format!("git -C {} status", project.display()))
}

/// A git command as the folder's owner, with nothing of our environment.
fn git(project: &Path, arguments: &[&str]) -> Result<Command, Fault> {
    let owner = fs::metadata(project).map_err(|error| no_git(project, &error.to_string()))?;
    let mut command = Command::new("git");
    command.arg("-C").arg(project).args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    command
        .env_clear()
        .env("PATH", path)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("HOME", "/nonexistent");
    if seaworthy_sys::process::current_uid() == 0 && owner.uid() != 0 {
        command.uid(owner.uid()).gid(owner.gid());
    }
    Ok(command)
}

fn commit_of(project: &Path, reference: &str) -> Result<String, Fault> {
    let words = format!("{reference}^{{commit}}");
    let run = |arguments: &[&str]| -> Result<Output, Fault> {
        git(project, arguments)?.output().map_err(|error| no_git(project, &error.to_string()))
    };
    let found = run(&["rev-parse", "--verify", "--end-of-options", &words])?;
    if found.status.success() {
        return Ok(String::from_utf8_lossy(&found.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&found.stderr).trim().to_owned();
    if said.contains("not a git repository") {
        return Err(no_git(project, &said));
    }
    let what = format!("there is no git reference `{reference}` in `{}`", project.display());
    let fault = Fault::new(Code::SourceUnusable, what);
    let branches = run(&["for-each-ref", "--count=10", "--format=%(refname:short)"])?;
    let branches = String::from_utf8_lossy(&branches.stdout).lines().collect::<Vec<_>>().join(", ");
    let fault =
        if branches.is_empty() { fault } else { fault.because(format!("there are: {branches}")) };
    Err(fault.next(format!("git -C {} fetch   (when it is elsewhere)", project.display())))
}

/// Takes an archive apart into a folder of its own.
fn unpack(layout: &Layout, archive: Box<dyn Read + '_>) -> Result<Unpacked, Fault> {
    let name = Alphanumeric.sample_string(&mut rand::rng(), 12);
    let dir = layout.incoming().join(name);
    fs::create_dir_all(&dir)
        .map_err(|error| disk_fault(format!("could not make `{}`", dir.display()), &error))?;
    let into = Unpacked(dir);
    let at_end = Rc::new(Cell::new(false));
    let mut archive = tar::Archive::new(Whole { from: archive, at_end: Rc::clone(&at_end) });
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    let entries = archive.entries().map_err(|error| unusable(&error.to_string()))?;
    let (mut count, mut bytes) = (0, 0);
    for entry in entries {
        let mut entry =
            entry.map_err(|error| unusable(&format!("it is cut off or damaged: {error}")))?;
        count += 1;
        bytes += entry.size();
        if count > ENTRIES || bytes > BYTES {
            return Err(unusable("it holds more than half a million files or 8 GiB"));
        }
        let kind = entry.header().entry_type();
        if matches!(kind, tar::EntryType::XGlobalHeader | tar::EntryType::XHeader) {
            continue;
        }
        let path = entry.path().map_err(|error| unusable(&error.to_string()))?.into_owned();
        let link = entry.link_name().map_err(|error| unusable(&error.to_string()))?;
        if let Some(why) = objection(&path, kind, link.as_deref()) {
            return Err(unusable(&format!("`{}` {why}", path.display())));
        }
        entry.unpack_in(&into.0).map_err(|error| {
            if at_end.get() {
                cut_off()
            } else {
                disk_fault(format!("could not unpack `{}`", path.display()), &error)
            }
        })?;
    }
    if at_end.get() {
        // Cut off between two files, it looks like an archive of fewer files.
        return Err(cut_off());
    }
    if count == 0 {
        return Err(unusable("there is nothing in it"));
    }
    Ok(into)
}

fn cut_off() -> Fault {
    unusable("it is cut off: its end is missing")
}

/// An archive that says at its end that it is whole is never read up to the end of its file.
struct Whole<R> {
    from: R,
    at_end: Rc<Cell<bool>>,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(room)?;
        if read == 0 && !room.is_empty() {
            self.at_end.set(true);
        }
        Ok(read)
    }
}

/// Why an entry is not taken.
fn objection(path: &Path, kind: tar::EntryType, link: Option<&Path>) -> Option<String> {
    if depth_below(path, 0).is_none() {
        return Some("leads out of the archive".to_owned());
    }
    match kind {
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::Directory => None,
        tar::EntryType::Symlink => {
            let above =
                path.components().filter(|part| matches!(part, Component::Normal(_))).count();
            let stays = link.is_some_and(|link| depth_below(link, above as i32 - 1).is_some());
            (!stays).then(|| {
                let link = link.map(|link| link.display().to_string()).unwrap_or_default();
                format!("is a link that leads out of the archive: `{link}`")
            })
        }
        _ => Some("is neither a file nor a folder nor a symbolic link".to_owned()),
    }
}

/// How deep a relative path ends below its root, when it never leaves it.
fn depth_below(path: &Path, start: i32) -> Option<i32> {
    path.components().try_fold(start, |depth, part| {
        let depth = match part {
            Component::Normal(_) => depth + 1,
            Component::CurDir => depth,
            Component::ParentDir => depth - 1,
            Component::RootDir | Component::Prefix(_) => -1,
        };
        (depth >= 0).then_some(depth)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().join("s"), run: dir.path().join("r") };
        (dir, layout)
    }

    fn archive(add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Box<dyn Read> {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder);
        Box::new(io::Cursor::new(builder.into_inner().unwrap()))
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, link: &str) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    }

    #[test]
    fn what_leads_out_of_an_archive_is_refused_and_leaves_nothing() {
        use tar::EntryType::{Char, Link, Regular, Symlink};
        let (_dir, layout) = layout();
        let cases: [(&[u8], _, &str); 7] = [
            (b"../x", Regular, ""),
            (b"a/../../x", Regular, ""),
            (b"/etc/x", Regular, ""),
            (b"x", Symlink, "../y"),
            (b"x", Symlink, "/etc/passwd"),
            (b"x", Link, "y"),
            (b"x", Char, ""),
        ];
        for (name, kind, link) in cases {
            let refused = unpack(&layout, archive(|builder| entry(builder, name, kind, link)));
            assert_eq!(refused.unwrap_err().code, Code::SourceUnusable, "{name:?} {link}");
        }
        assert_eq!(fs::read_dir(layout.incoming()).unwrap().count(), 0);
    }

    #[test]
    fn an_archive_that_is_cut_off_anywhere_is_refused() {
        let (_dir, layout) = layout();
        let mut whole = Vec::new();
        archive(|builder| {
            entry(builder, b"a", tar::EntryType::Regular, "");
            entry(builder, b"b", tar::EntryType::Regular, "");
        })
        .read_to_end(&mut whole)
        .unwrap();
        for cut in [512, 700, 1024] {
            let refused = unpack(&layout, Box::new(io::Cursor::new(whole[..cut].to_vec())));
            assert!(refused.unwrap_err().causes[0].contains("cut off"), "{cut}");
        }
        assert!(unpack(&layout, Box::new(io::Cursor::new(whole))).is_ok());
    }

    #[test]
    fn files_and_links_that_stay_inside_are_unpacked_and_gone_with_the_deployment() {
        let (_dir, layout) = layout();
        let unpacked = unpack(
            &layout,
            archive(|builder| {
                entry(builder, b"a/b", tar::EntryType::Regular, "");
                entry(builder, b"a/c", tar::EntryType::Symlink, "../a/b");
            }),
        )
        .unwrap();
        let place = unpacked.0.clone();
        assert!(place.join("a/b").is_file() && fs::read_link(place.join("a/c")).is_ok());
        drop(unpacked);
        assert!(!place.exists());
        assert!(unpack(&layout, Box::new(io::Cursor::new(b"no archive".repeat(100)))).is_err());
        assert!(unpack(&layout, archive(|_| {})).is_err());
    }
}
