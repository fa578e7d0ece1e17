//! Files and folders.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use seaworthy_backup::{Action, RestoreTarget, Restored, Source};

use crate::platform::Platform;

const ITEM: &str = "files.uploads";

fn source(platform: &Platform) -> Source {
    Source::Files { trees: vec![("uploads".to_owned(), platform.place.path().join("uploads"))] }
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for n in 0..300 {
        fs::write(root.join(format!("a/{n}.txt")), format!("file {n}\n").repeat(n)).unwrap();
    }
    fs::write(root.join("a/b/line\nend"), "x").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"no-utf8-\xff\xfe")), "y").unwrap();
    fs::write(root.join("a-b"), "sorts between a and a/b by bytes").unwrap();
    fs::write(root.join("long".repeat(60)), "z").unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    symlink("nowhere", root.join("a/dangling")).unwrap();
    fs::set_permissions(root.join("a/7.txt"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
}

/// Every entry with all that must come back.
fn listing(root: &Path) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let target = fs::read_link(&path).ok();
            let time = if meta.is_symlink() { 0 } else { meta.mtime_nsec() };
            all.push(format!(
                "{:?} {:o} {}:{} {time} {target:?} {content:?}",
                path.strip_prefix(root).unwrap().to_string_lossy(),
                meta.mode(),
                meta.uid(),
                meta.gid()
            ));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

fn restore(set: Option<&str>, target: RestoreTarget) -> Action {
    Action::Restore { set: set.map(str::to_owned), at: None, store: None, target, identity: None }
}

#[test]
fn unchanged_files_are_stored_once_and_every_state_comes_back_exactly() {
    let platform = Platform::new();
    let (root, source) = (platform.place.path().join("uploads"), source(&platform));
    fill(&root);
    let first = platform.take(ITEM, &source);
    assert_eq!(first.set.databases[0].rows["links"], 2);
    let then = listing(&root);

    // One more, one gone, one changed under the same size: only what is new is stored again.
    fs::write(root.join("a/new"), "new").unwrap();
    fs::remove_file(root.join("a/9.txt")).unwrap();
    fs::write(root.join("a/1.txt"), "FILE 1\n").unwrap();
    let second = platform.take(ITEM, &source);
    assert_eq!(second.set.needs, std::slice::from_ref(&first.set.id));
    assert!(second.set.parts[0].plain_bytes < 10_000, "{:?}", second.set.parts);
    let third = platform.take(ITEM, &source);
    assert_eq!(third.set.needs.len(), 2);
    let now = listing(&root);

    let drilled = platform.drill(ITEM, &source);
    assert_eq!(drilled.drill.fault, None, "{drilled:#?}");
    fs::remove_dir_all(&root).unwrap();
    platform.run::<Restored>(ITEM, &source, restore(None, RestoreTarget::InPlace));
    assert_eq!(listing(&root), now);
    let before = platform.place.path().join("before");
    platform.run::<Restored>(
        ITEM,
        &source,
        restore(
            Some(first.set.id.as_str()),
            RestoreTarget::To { url: before.display().to_string() },
        ),
    );
    assert_eq!(listing(&before.join("uploads")), then);

    // A damaged set is no base: the next one stands by itself.
    let part = platform.set_dir(ITEM, first.set.id.as_str()).join("files.tar.zst.age");
    let mut bytes = fs::read(&part).unwrap();
    bytes[1000] ^= 1;
    fs::write(&part, bytes).unwrap();
    platform.run::<seaworthy_backup::Verified>(
        ITEM,
        &source,
        Action::Verify { full: false, set: None },
    );
    let fourth = platform.take(ITEM, &source);
    assert!(fourth.set.needs.is_empty());
    assert_eq!(platform.drill(ITEM, &source).drill.fault, None);
    platform.assert_tidy();
}
