//! Who can open a backup: the owner, and this server for its drills.
//!
//! The owner's identity is made here once and handed out once; only its public half is kept. The server's
//! drill key lies in the state folder (0600), so that unattended drills can open what they must prove.
//! Invariant: a key that others can read, and a text that is no key, are refused; no error shows a key.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use seaworthy_base::{Code, Fault};
use seaworthy_sys::files::{create_private_dir, write_atomically};

/// A new key of an owner.
pub struct OwnerKey {
    /// What is kept: `age1…`.
    pub recipient: String,
    /// What only the owner keeps: `AGE-SECRET-KEY-1…`.
    pub identity: String,
}

impl std::fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnerKey").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

/// Makes a key for an owner; it is kept nowhere.
pub fn make_owner_key() -> OwnerKey {
    let identity = Identity::generate();
    OwnerKey {
        recipient: identity.to_public().to_string(),
        identity: identity.to_string().expose_secret().to_owned(),
    }
}

/// What is wrong with a text that should be an age recipient.
pub fn recipient_problem(text: &str) -> Option<&'static str> {
    text.parse::<Recipient>().err()
}

/// This server's own key, made at first use.
pub(crate) fn drill_key(state: &Path) -> Result<Identity, Fault> {
    let path = state.join("drill.key");
    let failed = |error: &dyn std::error::Error| {
        Fault::new(
            Code::BackupKey,
            format!("could not use this server's drill key `{}`", path.display()),
        )
        .because_of(error)
    };
    create_private_dir(state, 0o711).map_err(|error| failed(&error))?;
    if !path.exists() {
        make(&path).map_err(|error| failed(&error))?;
    }
    let mode = fs::metadata(&path).map_err(|error| failed(&error))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Fault::new(
            Code::BackupKey,
            format!("`{}` can be read by others (mode {mode:o})", path.display()),
        )
        .next(format!("chmod 600 {}", path.display())));
    }
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    text.trim().parse().map_err(|why: &str| {
        Fault::new(Code::BackupKey, format!("`{}` holds no key", path.display())).because(why)
    })
}

/// Whole or not at all: a link, unlike a rename, fails when another process was first.
fn make(path: &Path) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    write_atomically(&draft, Identity::generate().to_string().expose_secret().as_bytes(), 0o600)?;
    let linked = match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&draft)?;
    linked
}

/// The identities of a key file's text.
pub(crate) fn identities(text: &str) -> Result<Vec<Identity>, Fault> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed: Result<Vec<Identity>, &str> = lines.map(str::parse).collect();
    let refuse = |why: &str| {
        Fault::new(Code::BackupKey, "the identity given cannot be used")
            .because(why)
            .next("give the file that holds the line AGE-SECRET-KEY-1…: --identity FILE")
    };
    match parsed {
        Ok(all) if all.is_empty() => Err(refuse("there is no key in it")),
        Ok(all) => Ok(all),
        Err(_) => Err(refuse("a line of it is no age identity")),
    }
}

/// The recipients of a new backup: the owner's and this server's.
pub(crate) fn recipients(owner: &[String], drill: &Identity) -> Result<Vec<Recipient>, Fault> {
    let owners = owner.iter().map(|text| {
        text.parse::<Recipient>().map_err(|why| {
            Fault::new(Code::BackupKey, format!("`{text}` is no age recipient"))
                .because(why)
                .next("seaworthy backup key --new")
        })
    });
    let mut all = owners.collect::<Result<Vec<_>, _>>()?;
    all.push(drill.to_public());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drill_key_is_made_once_and_refused_when_others_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = drill_key(dir.path()).unwrap().to_public().to_string();
        assert_eq!(drill_key(dir.path()).unwrap().to_public().to_string(), first);
        fs::set_permissions(dir.path().join("drill.key"), fs::Permissions::from_mode(0o640))
            .unwrap();
        assert!(drill_key(dir.path()).err().unwrap().what.contains("640"));
    }

    #[test]
    fn a_key_file_with_comments_is_read_and_no_error_shows_a_key() {
        let key = make_owner_key();
        assert!(recipient_problem(&key.recipient).is_none());
        let text = format!("# public key: {}\n{}\n", key.recipient, key.identity);
        assert_eq!(identities(&text).unwrap().len(), 1);
        let broken = key.identity.replace('1', "b");
        assert!(!format!("{:?}", identities(&broken).err().unwrap()).contains(&broken));
        assert!(identities("\n# x\n").is_err());
    }
}
