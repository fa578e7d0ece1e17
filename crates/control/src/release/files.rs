//! A release: the project's files in a folder of their own, built and migrated once.
//!
//! Why a copy: what runs must not change under an editor, and going back needs what was there before.
//! Invariants: a release is found again by the hash of its content, so that applying the same folder
//! twice builds nothing; `seaworthy.toml` and files with secrets are no content; a failed build or
//! migration leaves everything that runs as it is. Not here: which release is wanted, strategies.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ignore::WalkBuilder;
use seaworthy_base::{Code, Fault, ServiceName};
use seaworthy_manifest::site::{Service, ServiceKind, Site};
use seaworthy_runtime::model::User;
use sha2::{Digest, Sha256};

/// What a folder holds, by hash: as a whole, and for each service's own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// SHA-256 over all files and the build commands, hex.
    pub whole: String,
    /// The same for the files below each service's `dir`.
    pub services: BTreeMap<ServiceName, String>,
    /// The files, relative to the project.
    pub files: Vec<PathBuf>,
}

/// Reads the project's files (those that `.gitignore` does not leave out) and hashes them.
pub(crate) fn fingerprint(project: &Path, site: &Site) -> Result<Fingerprint, Fault> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Fault::new(Code::FileMissing, format!("could not read `{}`", path.display()))
            .because(error.to_string())
            .next("check that the file exists and that this user may read it")
    };
    let files = content_files(project, site).map_err(|error| unreadable(project, &error))?;
    let mut whole = Sha256::new();
    let mut services: BTreeMap<ServiceName, Sha256> = BTreeMap::new();
    for service in site.services.values() {
        let commands = serde_json::to_vec(&(&service.dir, &service.build, &service.migrate))
            .unwrap_or_default();
        whole.update(&commands);
        services.entry(service.name.clone()).or_default().update(&commands);
    }
    for file in &files {
        let digest = hash_file(&project.join(file))
            .map_err(|error| unreadable(&project.join(file), &error))?;
        let entry = [file.as_os_str().as_encoded_bytes(), b"\0", &digest[..]].concat();
        whole.update(&entry);
        for service in site.services.values().filter(|service| below(file, &service.dir)) {
            services.entry(service.name.clone()).or_default().update(&entry);
        }
    }
    let services = services.into_iter().map(|(name, hash)| (name, hex(&hash.finalize()))).collect();
    Ok(Fingerprint { whole: hex(&whole.finalize()), services, files })
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn below(file: &Path, dir: &str) -> bool {
    let dir: PathBuf =
        Path::new(dir).components().filter(|part| !matches!(part, Component::CurDir)).collect();
    file.starts_with(dir)
}

fn content_files(project: &Path, site: &Site) -> Result<Vec<PathBuf>, ignore::Error> {
    let secrets: Vec<&str> = [&site.secrets.file, &site.secrets.dir, &site.secrets.age]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let mut files = Vec::new();
    for entry in
        WalkBuilder::new(project).hidden(false).require_git(false).follow_links(false).build()
    {
        let entry = entry?;
        let relative = entry.path().strip_prefix(project).unwrap_or(entry.path());
        let skip = relative.components().any(|part| part.as_os_str() == ".git")
            || relative == Path::new("seaworthy.toml")
            || relative == Path::new(".env")
            || secrets.iter().any(|secret| relative.starts_with(secret));
        let file = entry.file_type().is_some_and(|kind| kind.is_file() || kind.is_symlink());
        if file && !skip {
            files.push(relative.to_path_buf());
        }
    }
    files.sort();
    Ok(files)
}

fn hash_file(path: &Path) -> io::Result<[u8; 32]> {
    let meta = fs::symlink_metadata(path)?;
    let mut hash = Sha256::new();
    hash.update([u8::from(meta.permissions().mode() & 0o111 != 0), u8::from(meta.is_symlink())]);
    if meta.is_symlink() {
        hash.update(fs::read_link(path)?.as_os_str().as_encoded_bytes());
        return Ok(hash.finalize().into());
    }
    let (mut file, mut piece) = (fs::File::open(path)?, vec![0; 64 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&piece[..n]),
        }
    }
}

/// Copies the files into the release's final place; whatever an interrupted attempt left there goes first.
pub(crate) fn copy(project: &Path, files: &[PathBuf], into: &Path) -> io::Result<()> {
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    fs::create_dir_all(into)?;
    for file in files {
        let (from, to) = (project.join(file), into.join(file));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::symlink_metadata(&from)?.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else {
            fs::copy(&from, &to)?;
            // What is older than what tells whether it must be made anew.
            fs::File::open(&to)?.set_modified(fs::metadata(&from)?.modified()?)?;
        }
    }
    Ok(())
}

/// Links every `shared` path of a service to its place in the site's data folder, which starts as a
/// copy of what the project brings.
pub(crate) fn link_shared(service: &Service, release: &Path, data: &Path) -> io::Result<()> {
    for shared in &service.shared {
        let inside = release.join(&service.dir).join(shared);
        let outside = data.join("shared").join(&service.dir).join(shared);
        if let Some(parent) = outside.parent() {
            fs::create_dir_all(parent)?;
        }
        let brought = fs::symlink_metadata(&inside).is_ok();
        if !outside.exists() && brought {
            // Copied, not moved: the two may lie on different file systems.
            copy_tree(&inside, &outside)?;
        } else if !outside.exists() && Path::new(shared).extension().is_none() {
            fs::create_dir_all(&outside)?;
        }
        if brought {
            remove(&inside)?;
        } else if let Some(parent) = inside.parent() {
            fs::create_dir_all(parent)?;
        }
        symlink(&outside, &inside)?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !meta.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Removes from a published tree what was packed before the file beside it was changed: the edge would send the old
/// content. `from` is where it was copied from: copies have other times.
fn drop_outdated(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let copy = path.strip_prefix(from).map(|name| to.join(name)).map_err(io::Error::other)?;
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            drop_outdated(&path, &copy)?;
        } else if meta.is_file() && is_outdated(&path, &meta)? {
            fs::remove_file(&copy)?;
        }
    }
    Ok(())
}

/// Whether a file is an older one in packed form. A checkout writes its files in any order.
fn is_outdated(path: &Path, meta: &fs::Metadata) -> io::Result<bool> {
    const CHECKOUT: Duration = Duration::from_secs(60);
    let is_packed =
        path.extension().is_some_and(|end| ["br", "zst", "gz"].iter().any(|one| end == *one));
    let Ok(plain) = fs::metadata(path.with_extension("")) else { return Ok(false) };
    Ok(is_packed && plain.is_file() && meta.modified()? + CHECKOUT < plain.modified()?)
}

/// Copies what static services serve to where the edge may read it.
pub(crate) fn publish(site: &Site, release: &Path, public: &Path) -> Result<(), Fault> {
    for service in site.services.values() {
        let ServiceKind::Static { root, .. } = &service.kind else { continue };
        let (from, to) =
            (release.join(&service.dir).join(root), public.join(service.name.as_str()));
        if !from.is_dir() {
            return Err(Fault::new(
                Code::FileMissing,
                format!("the folder that service `{}` serves does not exist", service.name),
            )
            .because(format!(
                "`static = \"{root}\"` names `{}`, and no build command made it",
                Path::new(&service.dir).join(root).display()
            ))
            .next("check `static` and `build` of the service in seaworthy.toml"));
        }
        let result = (|| {
            if to.exists() {
                fs::remove_dir_all(&to)?;
            }
            copy_tree(&from, &to)?;
            drop_outdated(&from, &to)?;
            set_owner(public, None, 0o755, 0o644)
        })();
        result.map_err(|error| {
            disk_fault(format!("could not publish the files of `{}`", service.name), &error)
        })?;
    }
    Ok(())
}

/// Gives a tree to a user (or leaves the owner) and sets modes; a file keeps its execute bits.
pub(crate) fn set_owner(
    tree: &Path,
    owner: Option<(u32, u32)>,
    dir_mode: u32,
    file_mode: u32,
) -> io::Result<()> {
    let meta = fs::symlink_metadata(tree)?;
    if let Some((uid, gid)) = owner {
        lchown(tree, Some(uid), Some(gid))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let execute = meta.permissions().mode() & 0o111;
    let mode = if meta.is_dir() { dir_mode } else { file_mode | (execute & (file_mode >> 2)) };
    fs::set_permissions(tree, fs::Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in fs::read_dir(tree)? {
            set_owner(&entry?.path(), owner, dir_mode, file_mode)?;
        }
    }
    Ok(())
}

/// A release that is being built belongs to the site's user, a built one to us: the site may read it.
pub(crate) fn hand_over(release: &Path, user: Option<&User>, built: bool) -> io::Result<()> {
    match user {
        Some(user) if built => set_owner(release, Some((0, user.gid)), 0o750, 0o640),
        Some(user) => set_owner(release, Some((user.uid, user.gid)), 0o750, 0o640),
        None => Ok(()),
    }
}

/// Removes folders of a release; what cannot be removed is said.
pub(crate) fn discard(folders: &[PathBuf]) {
    for folder in folders {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                crate::say(&format!("could not remove `{}`: {error}", folder.display()));
            }
            _ => {}
        }
    }
}

/// An I/O error on our own folders, told apart from a full disk.
pub(crate) fn disk_fault(what: String, error: &io::Error) -> Fault {
    let code = if error.kind() == io::ErrorKind::StorageFull {
        Code::DiskFull
    } else {
        Code::StateUnwritable
    };
    let next = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "findmnt -O ro   (shows what is mounted read-only)",
        io::ErrorKind::PermissionDenied => "id   (shows who you are: root, or the folder's owner?)",
        _ => "df -h   (shows which disk is full)",
    };
    Fault::new(code, what).because(error.to_string()).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(text: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Site) {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let site =
            seaworthy_manifest::parse(text, Path::new("seaworthy.toml"), dir.path()).unwrap();
        (dir, site)
    }

    const TWO: &str = "site = \"x\"\ndomains = [\"x.localhost\"]\n[service.a]\ndir = \"a\"\nstatic = \".\"\n[service.b]\ndir = \"b\"\nstatic = \".\"\n[[route]]\npaths = [\"/*\"]\nto = \"a\"\n[[route]]\npaths = [\"/b/*\"]\nto = \"b\"\n";

    #[test]
    fn the_manifest_ignored_files_and_secrets_are_no_content() {
        let (dir, site) = project(
            TWO,
            &[
                ("a/1", "x"),
                ("b/1", "y"),
                (".gitignore", "skip\n"),
                ("skip", "1"),
                (".env", "A=1"),
                ("seaworthy.toml", TWO),
            ],
        );
        let before = fingerprint(dir.path(), &site).unwrap();
        assert_eq!(before.files, [".gitignore", "a/1", "b/1"].map(PathBuf::from));
        fs::write(dir.path().join("skip"), "2").unwrap();
        fs::write(dir.path().join("seaworthy.toml"), "changed").unwrap();
        assert_eq!(fingerprint(dir.path(), &site).unwrap(), before);
    }

    #[test]
    fn what_was_packed_before_its_original_was_changed_is_not_published() {
        let text = "site = \"x\"\ndomains = [\"x.localhost\"]\n[service.a]\nstatic = \"public\"\n[[route]]\npaths = [\"/*\"]\nto = \"a\"\n";
        let names = ["js/old.js", "js/old.js.br", "js/new.js", "js/new.js.br", "js/alone.gz"];
        let files = names.map(|name| (format!("public/{name}"), name));
        let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
        let (dir, site) = project(text, &files);
        let of = |path: &Path| fs::File::options().write(true).open(path).unwrap();
        let now = std::time::SystemTime::now();
        let age = |name: &str, seconds: u64| {
            let then = now - Duration::from_secs(seconds);
            of(&dir.path().join("public").join(name)).set_modified(then).unwrap();
        };
        for (name, seconds) in [("js/old.js.br", 3600), ("js/new.js", 3600), ("js/alone.gz", 9000)]
        {
            age(name, seconds);
        }
        let (release, public) = (dir.path().join("release"), dir.path().join("out"));
        let listed: Vec<PathBuf> = files.iter().map(|(path, _)| path.into()).collect();
        copy(dir.path(), &listed, &release).unwrap();
        publish(&site, &release, &public).unwrap();
        let mut left: Vec<_> = fs::read_dir(public.join("a/js"))
            .unwrap()
            .map(|one| one.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["alone.gz", "new.js", "new.js.br", "old.js"]);
    }

    #[test]
    fn a_change_in_one_folder_changes_only_the_services_in_it() {
        let (dir, site) = project(TWO, &[("a/1", "x"), ("b/1", "y")]);
        let before = fingerprint(dir.path(), &site).unwrap();
        fs::write(dir.path().join("b/1"), "z").unwrap();
        let after = fingerprint(dir.path(), &site).unwrap();
        let (a, b): (ServiceName, ServiceName) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_ne!(after.whole, before.whole);
        assert_eq!(after.services[&a], before.services[&a]);
        assert_ne!(after.services[&b], before.services[&b]);
    }

    #[test]
    fn shared_paths_start_as_the_project_brings_them_and_outlive_the_release() {
        let text = "site = \"x\"\ndomains = [\"x.localhost\"]\n[service.a]\nrun = \"true\"\nshared = [\"cfg\", \"uploads\"]\n[[route]]\npaths = [\"/*\"]\nto = \"a\"\n";
        let (dir, site) = project(text, &[("cfg/a.yaml", "1")]);
        let service = site.services.values().next().unwrap();
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        for release in ["r1", "r2"] {
            let release = root.path().join(release);
            let files = fingerprint(dir.path(), &site).unwrap().files;
            copy(dir.path(), &files, &release).unwrap();
            link_shared(service, &release, &data).unwrap();
            fs::write(release.join("uploads").join("kept"), "1").unwrap();
        }
        fs::write(root.path().join("r1/cfg/a.yaml"), "edited").unwrap();
        assert_eq!(fs::read_to_string(root.path().join("r2/cfg/a.yaml")).unwrap(), "edited");
    }
}
