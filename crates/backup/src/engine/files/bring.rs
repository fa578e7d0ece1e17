//! Bringing files back: content from each tar that holds some of it, then links, modes, owners and times.
//!
//! Invariants: nothing is written outside of the folder that is given (paths are taken apart and checked, links
//! are made last, so that none is followed); every file whose hash is known is compared while it is written; memory
//! does not depend on how many entries there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use seaworthy_base::{Code, Fault};
use sha2::{Digest, Sha256};

use super::index::{Entry, Kind, Reader, decode};
use super::{INDEX, TAR};
use crate::engine::{Parts, Placed, Trial, place};
use crate::facts::{Difference, TOLD};
use crate::model::RestoreTarget;
use crate::seal::{CHUNK, write_fault};
use crate::set::{Set, hex};
use crate::work::Work;

/// What a file takes on a disk besides its content, however small that is: the rest of a block.
const ENTRY: u64 = 4096;

/// Restores into a scratch folder and compares with the index and the counts.
pub(super) fn trial(work: &Work, set: &Set, parts: &Parts) -> Result<Trial, Fault> {
    let scratch = work.scratch()?;
    let bytes = set.databases.first().map_or(0, |facts| {
        let entries: u64 = facts.rows.values().sum();
        facts.bytes + entries * ENTRY
    });
    work.need_space(scratch.path(), bytes, "a drill")?;
    work.step("restoring files into a scratch folder");
    let mut trial = Trial::default();
    let brought = extract(work, set, parts, scratch.path(), &mut trial.differences)?;
    let saved = set.databases.first().map(|facts| facts.rows.clone()).unwrap_or_default();
    for kind in saved.keys().chain(brought.keys()).collect::<BTreeSet<_>>() {
        let (was, is) =
            (saved.get(kind).copied().unwrap_or(0), brought.get(kind).copied().unwrap_or(0));
        if was != is {
            trial.differences.push(Difference {
                subject: format!("number of {kind}"),
                saved: was.to_string(),
                restored: is.to_string(),
            });
        }
    }
    trial.rows = brought.values().sum();
    Ok(trial)
}

/// Restores trees: in place (each beside, then exchanged), or all into one folder.
pub(super) fn restore(
    work: &Work,
    set: &Set,
    parts: &Parts,
    target: &RestoreTarget,
    trees: &[(String, PathBuf)],
) -> Result<Placed, Fault> {
    let folder = match target {
        RestoreTarget::To { url } => Some(PathBuf::from(url.trim_start_matches("file://"))),
        RestoreTarget::Into { name } => trees.first().map(|(_, path)| path.with_file_name(name)),
        RestoreTarget::InPlace => None,
    };
    let whole = |differences: Vec<Difference>| match differences.first() {
        None => Ok(()),
        Some(first) => Err(Fault::new(
            Code::BackupDamaged,
            format!("backup {} does not hold what its index says", set.id),
        )
        .because(first.to_string())),
    };
    if let Some(folder) = folder {
        if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Fault::new(
                Code::RestoreUnconfirmed,
                format!("`{}` is there already and is not empty", folder.display()),
            )
            .because("a restore never writes over data")
            .next("name a folder that does not exist yet"));
        }
        work.step(format!("restoring into {}", folder.display()));
        let mut differences = Vec::new();
        extract(work, set, parts, &folder, &mut differences)?;
        whole(differences)?;
        return Ok(Placed { to: folder.display().to_string(), before: None });
    }
    let (mut to, mut before) = (Vec::new(), Vec::new());
    for (name, path) in trees {
        let draft = place::beside(path, "new", set);
        place::remove(&draft)?;
        work.step(format!("restoring {name}"));
        let mut differences = Vec::new();
        extract_tree(work, set, parts, &draft, name, &mut differences)?;
        whole(differences)?;
        let fresh = draft.join(name);
        let placed = place::exchange(&fresh, path, set, true, &[])?;
        place::remove(&draft)?;
        to.push(placed.to);
        before.extend(placed.before);
    }
    Ok(Placed { to: to.join(", "), before: (!before.is_empty()).then(|| before.join(", ")) })
}

/// How many of each kind came back.
type Brought = BTreeMap<String, u64>;

fn extract(
    work: &Work,
    set: &Set,
    parts: &Parts,
    into: &Path,
    differences: &mut Vec<Difference>,
) -> Result<Brought, Fault> {
    extract_tree(work, set, parts, into, "", differences)
}

/// Extracts everything below `tree` (all of it for the empty name) below `into`.
fn extract_tree(
    work: &Work,
    set: &Set,
    parts: &Parts,
    into: &Path,
    tree: &str,
    differences: &mut Vec<Difference>,
) -> Result<Brought, Fault> {
    let failed = |error: io::Error| {
        write_fault(format!("could not restore into `{}`", into.display()), &error)
    };
    let damaged = |error: io::Error| {
        Fault::new(Code::BackupDamaged, format!("the index of backup {} cannot be read", set.id))
            .because(error.to_string())
    };
    let entries =
        || -> Result<Reader, Fault> { Ok(Reader::new(parts.open(set.id.as_str(), INDEX)?)) };
    let wanted = |entry: &Entry| tree.is_empty() || entry.path().starts_with(tree);
    fs::create_dir_all(into).map_err(failed)?;
    let mut brought = Brought::new();
    let mut sources: BTreeSet<String> = BTreeSet::new();
    for entry in entries()? {
        let entry = entry.map_err(damaged)?;
        if !wanted(&entry) {
            continue;
        }
        match entry.kind {
            Kind::Folder => {
                let path = inside(into, &entry.path())?;
                fs::create_dir_all(&path).map_err(failed)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
                *brought.entry("folders".to_owned()).or_default() += 1;
            }
            Kind::File => drop(sources.insert(entry.from.as_ref().unwrap_or(&set.id).to_string())),
            _ => {}
        }
    }
    for source in &sources {
        let files = content(work, set, parts, source, into, &wanted, differences, entries()?)?;
        *brought.entry("files".to_owned()).or_default() += files;
    }
    finish(into, &wanted, entries()?, &mut brought).map_err(failed)?;
    Ok(brought)
}

/// Tells of a difference, unless enough were told of.
fn tell(differences: &mut Vec<Difference>, one: Difference) {
    if differences.len() < TOLD {
        differences.push(one);
    }
}

/// Takes from one tar the files whose content it holds. Both are in the order of paths, so one pass is enough.
#[expect(clippy::too_many_arguments, reason = "one pass over two streams")]
fn content(
    work: &Work,
    set: &Set,
    parts: &Parts,
    source: &str,
    into: &Path,
    wanted: &dyn Fn(&Entry) -> bool,
    differences: &mut Vec<Difference>,
    index: Reader,
) -> Result<u64, Fault> {
    let failed = |error: io::Error| {
        write_fault(format!("could not restore into `{}`", into.display()), &error)
    };
    let damaged = |error: io::Error| {
        Fault::new(Code::BackupDamaged, format!("the files of backup {source} cannot be read"))
            .because(error.to_string())
    };
    let mut archive = tar::Archive::new(parts.open(source, TAR)?);
    let mut members = archive.entries().map_err(damaged)?;
    let (mut count, mut done, mut buffer) = (0, 0, vec![0; CHUNK]);
    for entry in index {
        let entry = entry.map_err(damaged)?;
        let from = entry.from.as_ref().unwrap_or(&set.id).as_str();
        if entry.kind != Kind::File || from != source || !wanted(&entry) {
            continue;
        }
        let path = entry.path();
        let mut member = loop {
            match members.next() {
                Some(member) => {
                    let member = member.map_err(damaged)?;
                    if member.path().map_err(damaged)? == path.as_path() {
                        break Some(member);
                    }
                }
                None => break None,
            }
        };
        let Some(member) = &mut member else {
            tell(
                differences,
                Difference {
                    subject: path.display().to_string(),
                    saved: "a file".to_owned(),
                    restored: "nothing".to_owned(),
                },
            );
            break;
        };
        let hash = write(member, &inside(into, &path)?, &mut buffer).map_err(failed)?;
        done += entry.size;
        work.moved(done, None);
        count += 1;
        if let Some(saved) = entry.sha256.filter(|saved| *saved != hash) {
            tell(
                differences,
                Difference { subject: path.display().to_string(), saved, restored: hash },
            );
        }
    }
    Ok(count)
}

fn write(from: &mut impl Read, to: &Path, buffer: &mut [u8]) -> io::Result<String> {
    let mut file = File::options().write(true).create_new(true).open(to)?;
    let mut hash = Sha256::new();
    loop {
        let got = from.read(buffer)?;
        let bytes = buffer.get(..got).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(bytes);
        io::Write::write_all(&mut file, bytes)?;
    }
}

/// Links, owners, modes and times; a folder after all that is below it, since what is made in it touches it.
fn finish(
    into: &Path,
    wanted: &dyn Fn(&Entry) -> bool,
    index: Reader,
    brought: &mut Brought,
) -> io::Result<()> {
    let root = seaworthy_sys::process::current_uid() == 0;
    // The folders that the walk is in: as many as they are deep.
    let mut open: Vec<(PathBuf, Entry)> = Vec::new();
    for entry in index {
        let entry = entry?;
        if !wanted(&entry) {
            continue;
        }
        let path =
            inside(into, &entry.path()).map_err(|fault| io::Error::other(fault.to_string()))?;
        while let Some((folder, left)) = open.pop() {
            if path.starts_with(&folder) {
                open.push((folder, left));
                break;
            }
            dress(&folder, &left, root)?;
        }
        match (entry.kind, &entry.link) {
            (Kind::Link, Some(target)) => {
                symlink(decode(target), &path)?;
                *brought.entry("links".to_owned()).or_default() += 1;
                if root {
                    lchown(&path, Some(entry.owner.0), Some(entry.owner.1))?;
                }
            }
            (Kind::File, _) => dress(&path, &entry, root)?,
            (Kind::Folder, _) => open.push((path, entry)),
            _ => {}
        }
    }
    open.iter().rev().try_for_each(|(path, entry)| dress(path, entry, root))
}

fn dress(path: &Path, entry: &Entry, root: bool) -> io::Result<()> {
    if root {
        lchown(path, Some(entry.owner.0), Some(entry.owner.1))?;
    }
    // Before the mode, by which its owner may not even be able to open it.
    let modified = UNIX_EPOCH + Duration::from_nanos(entry.times.0.max(0) as u64);
    File::open(path)?.set_modified(modified)?;
    // After the owner: changing that takes set-user-id bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(entry.mode))
}

/// A path below `into`, whatever an index says.
fn inside(into: &Path, path: &Path) -> Result<PathBuf, Fault> {
    let safe = path.components().all(|part| matches!(part, Component::Normal(_)));
    if safe && path.components().next().is_some() {
        return Ok(into.join(path));
    }
    Err(Fault::new(
        Code::BackupDamaged,
        format!("the index names `{}`, which leads out of the folder", path.display()),
    ))
}
