//! System users: one for each site and one for the edge, when we are root.
//!
//! Invariant: what a site's user may do is nothing beyond its own folders. Users are made by the
//! distribution's own `useradd`, because a user that only we know breaks programs that ask for their
//! name or home. Where that tool is missing the caller goes on without and says so (a weaker guard).

use std::path::Path;
use std::process::{Command, Stdio};

use seaworthy_base::{Code, Fault, SiteName};
use seaworthy_runtime::model::User;
use seaworthy_sys::process::lookup_user;
use sha2::{Digest, Sha256};

/// The longest name that Linux tools accept.
const MAX_USER: usize = 32;

/// The user of a site: `sw-<site>`, shortened with a hash where it would be too long.
pub(crate) fn site_user_name(site: &SiteName) -> String {
    let plain = format!("sw-{site}");
    if plain.len() <= MAX_USER {
        return plain;
    }
    let digest = Sha256::digest(site.as_str().as_bytes());
    format!("{}-{:02x}{:02x}{:02x}", &plain[..MAX_USER - 7], digest[0], digest[1], digest[2])
}

/// Finds a user that must exist.
pub(crate) fn existing(name: &str) -> Result<User, Fault> {
    let found = lookup_user(name).ok().flatten();
    found
        .map(|user| User { name: user.name, uid: user.uid, gid: user.gid, groups: user.groups })
        .ok_or_else(|| {
            Fault::new(Code::SpawnFailed, format!("there is no system user `{name}`"))
                .next(format!("useradd --system --shell /usr/sbin/nologin {name}"))
        })
}

/// Finds a user of ours, making it when it is missing.
pub(crate) fn ensure(name: &str, home: &Path) -> Result<User, Fault> {
    if let Ok(user) = existing(name) {
        return Ok(user);
    }
    let made = Command::new("useradd")
        .args([
            "--system",
            "--user-group",
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            "--home-dir",
        ])
        .arg(home)
        .arg(name)
        .stdin(Stdio::null())
        .output();
    // Another platform on this server may have made it in the same moment: what counts is that it is there.
    existing(name).map_err(|fault| match made {
        Ok(output) => fault.because(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => fault.because(format!("`useradd` could not be run: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_are_never_too_long_and_differ() {
        let a: SiteName = "a".repeat(40).parse().unwrap();
        let b: SiteName = format!("{}b", "a".repeat(39)).parse().unwrap();
        assert!(site_user_name(&a).len() <= MAX_USER);
        assert_ne!(site_user_name(&a), site_user_name(&b));
        assert_eq!(site_user_name(&"shop".parse().unwrap()), "sw-shop");
    }
}
