//! Values that the user set on this server, each encrypted with age in a file of its own.
//!
//! The key is an age identity of mode 0600 beside them: it protects copies and backups of the folder,
//! not against who can read the key. Invariants: every write is atomic; the index holds names and times,
//! never values; a key is never replaced by another, since that would lose every value; a key that others
//! can read is refused. Several processes may use one vault: a lock guards what is read and written back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use rand::distr::{Alphanumeric, SampleString};
use seaworthy_base::{SiteName, Timestamp};
use seaworthy_sys::files::{create_private_dir, write_atomically};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::secret::{Secret, SecretName};

/// Why the vault could not be used.
#[derive(Debug, Error)]
pub enum VaultError {
    /// A file could not be read or written.
    #[error("could not use `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read the key.
    #[error("`{}` can be read by others (mode {mode:o})", path.display())]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key is no key, or a value was encrypted with another one.
    #[error("`{}` cannot be opened with this server's key", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// There is no such secret.
    #[error("site `{site}` has no secret `{name}` here")]
    Missing {
        /// The site.
        site: SiteName,
        /// The secret.
        name: SecretName,
    },
}

/// What is known of a secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// When it was first set.
    pub created: Timestamp,
    /// When it was last changed.
    pub changed: Timestamp,
    /// How often it was set.
    pub version: u32,
    /// Since when a service uses it.
    pub used_since: Option<Timestamp>,
}

/// The encrypted values of one platform.
pub struct Vault {
    dir: PathBuf,
    identity: age::x25519::Identity,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_path_buf();
    move |source| VaultError::File { path, source }
}

/// Makes the key whole or not at all. A link, unlike a rename, fails when another process was first.
fn make_key(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = dir.join(format!("key.{}", Alphanumeric.sample_string(&mut rand::rng(), 12)));
    let identity = age::x25519::Identity::generate();
    write_atomically(&draft, identity.to_string().expose_secret().as_bytes(), 0o600)?;
    let linked = match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&draft)?;
    linked?;
    fs::File::open(dir)?.sync_all()
}

impl Vault {
    /// Opens the vault in `state/secrets`, making the key at first use.
    pub fn open(state: &Path) -> Result<Self, VaultError> {
        let dir = state.join("secrets");
        create_private_dir(&dir, 0o700).map_err(at(&dir))?;
        let path = dir.join("key.txt");
        if !path.exists() {
            make_key(&dir, &path).map_err(at(&path))?;
        }
        let mode = fs::metadata(&path).map_err(at(&path))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(VaultError::Exposed { path, mode });
        }
        let text = Secret::new(fs::read_to_string(&path).map_err(at(&path))?);
        let identity = text.expose().trim().parse().map_err(|_| VaultError::Key { path })?;
        Ok(Self { dir, identity })
    }

    fn file(&self, site: &SiteName, name: &SecretName) -> PathBuf {
        self.dir.join(site.as_str()).join(format!("{name}.age"))
    }

    /// Sets a value.
    pub fn set(
        &self,
        site: &SiteName,
        name: &SecretName,
        value: &Secret<String>,
    ) -> Result<(), VaultError> {
        let path = self.file(site, name);
        let folder = self.dir.join(site.as_str());
        create_private_dir(&folder, 0o700).map_err(at(&folder))?;
        let sealed = age::encrypt(&self.identity.to_public(), value.expose().as_bytes());
        let sealed = sealed.map_err(|_| VaultError::Key { path: path.clone() })?;
        let _lock = self.lock()?;
        write_atomically(&path, &sealed, 0o600).map_err(at(&path))?;
        let now = Timestamp::now();
        self.change_index(site, |index| {
            let fresh = Entry {
                name: name.to_string(),
                created: now,
                changed: now,
                version: 0,
                used_since: None,
            };
            let entry = index.entry(name.to_string()).or_insert(fresh);
            (entry.changed, entry.version, entry.used_since) = (now, entry.version + 1, None);
        })
    }

    /// A value, if it was set here.
    pub fn get(
        &self,
        site: &SiteName,
        name: &SecretName,
    ) -> Result<Option<Secret<String>>, VaultError> {
        let path = self.file(site, name);
        let sealed = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(&path))?,
        };
        let opened = age::decrypt(&self.identity, &sealed)
            .map_err(|_| VaultError::Key { path: path.clone() })?;
        let text = String::from_utf8(opened).map_err(|_| VaultError::Key { path })?;
        Ok(Some(Secret::new(text)))
    }

    /// Forgets a value. Returns whether there was one.
    pub fn remove(&self, site: &SiteName, name: &SecretName) -> Result<bool, VaultError> {
        let path = self.file(site, name);
        let _lock = self.lock()?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(at(&path))?,
        }
        self.change_index(site, |index| drop(index.remove(name.as_str())))?;
        Ok(true)
    }

    /// What is set for a site, by name.
    pub fn list(&self, site: &SiteName) -> Result<Vec<Entry>, VaultError> {
        Ok(self.index(site)?.into_values().collect())
    }

    /// Notes that a service uses the current value from now on.
    pub fn mark_used(&self, site: &SiteName, name: &SecretName) -> Result<(), VaultError> {
        let unused =
            self.index(site)?.get(name.as_str()).is_some_and(|entry| entry.used_since.is_none());
        if !unused {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.change_index(site, |index| {
            if let Some(entry) = index.get_mut(name.as_str()) {
                entry.used_since = Some(Timestamp::now());
            }
        })
    }

    /// Sets a new random value of `length` letters and digits.
    pub fn generate(
        &self,
        site: &SiteName,
        name: &SecretName,
        length: usize,
    ) -> Result<(), VaultError> {
        let value = Secret::new(Alphanumeric.sample_string(&mut rand::rng(), length));
        self.set(site, name, &value)
    }

    /// Replaces a value by a new random one of the same length.
    pub fn rotate(&self, site: &SiteName, name: &SecretName) -> Result<(), VaultError> {
        let old = self
            .get(site, name)?
            .ok_or_else(|| VaultError::Missing { site: site.clone(), name: name.clone() })?;
        self.generate(site, name, old.expose().chars().count().max(16))
    }

    fn index(&self, site: &SiteName) -> Result<BTreeMap<String, Entry>, VaultError> {
        let path = self.dir.join(site.as_str()).join("index.json");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(at(&path)(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| at(&path)(error.into())),
        }
    }

    /// Held while a value and the index change; let go when the file is dropped.
    fn lock(&self) -> Result<fs::File, VaultError> {
        let path = self.dir.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(file)
    }

    /// Changes the index; the caller holds the lock.
    fn change_index(
        &self,
        site: &SiteName,
        change: impl FnOnce(&mut BTreeMap<String, Entry>),
    ) -> Result<(), VaultError> {
        let path = self.dir.join(site.as_str()).join("index.json");
        let mut index = self.index(site)?;
        change(&mut index);
        let bytes = serde_json::to_vec_pretty(&index).map_err(|error| at(&path)(error.into()))?;
        write_atomically(&path, &bytes, 0o600).map_err(at(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_comes_back_and_stands_nowhere_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        let (site, name) = ("shop".parse().unwrap(), "DATABASE_URL".parse().unwrap());
        vault.set(&site, &name, &Secret::new("hunter2".to_owned())).unwrap();
        let again = Vault::open(dir.path()).unwrap();
        assert_eq!(again.get(&site, &name).unwrap().unwrap().expose(), "hunter2");
        let sealed = fs::read(vault.file(&site, &name)).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        again.rotate(&site, &name).unwrap();
        assert_ne!(vault.get(&site, &name).unwrap().unwrap().expose(), "hunter2");
        assert_eq!(vault.list(&site).unwrap()[0].version, 2);
        assert!(vault.remove(&site, &name).unwrap() && vault.get(&site, &name).unwrap().is_none());
    }

    #[test]
    fn a_key_is_made_once_however_many_open_the_vault_at_first() {
        let dir = tempfile::tempdir().unwrap();
        let (site, path): (SiteName, _) = ("shop".parse().unwrap(), dir.path());
        std::thread::scope(|scope| {
            for number in 0..8 {
                let site = &site;
                scope.spawn(move || {
                    let name = format!("S{number}").parse().unwrap();
                    Vault::open(path)
                        .unwrap()
                        .set(site, &name, &Secret::new(number.to_string()))
                        .unwrap();
                });
            }
        });
        let vault = Vault::open(path).unwrap();
        for number in 0..8 {
            let value = vault.get(&site, &format!("S{number}").parse().unwrap()).unwrap().unwrap();
            assert_eq!(value.expose(), &number.to_string());
        }
        assert_eq!(vault.list(&site).unwrap().len(), 8);
        assert!(fs::read_dir(path.join("secrets")).unwrap().all(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            !name.starts_with("key.") || name == "key.txt"
        }));
    }

    #[test]
    fn only_the_owner_may_read_the_vault_and_use_is_noted_until_the_next_change() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        let (site, name) = ("shop".parse().unwrap(), "A".parse().unwrap());
        vault.generate(&site, &name, 24).unwrap();
        assert_eq!(vault.get(&site, &name).unwrap().unwrap().expose().len(), 24);
        vault.mark_used(&site, &name).unwrap();
        assert!(vault.list(&site).unwrap()[0].used_since.is_some());
        vault.rotate(&site, &name).unwrap();
        assert!(vault.list(&site).unwrap()[0].used_since.is_none());
        for (path, wanted) in [
            ("", 0o700),
            ("key.txt", 0o600),
            ("shop", 0o700),
            ("shop/A.age", 0o600),
            ("shop/index.json", 0o600),
        ] {
            let mode =
                fs::metadata(dir.path().join("secrets").join(path)).unwrap().permissions().mode()
                    & 0o777;
            assert_eq!(mode, wanted, "{path}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Vault::open(dir.path()).unwrap();
        let key = dir.path().join("secrets/key.txt");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Vault::open(dir.path()).unwrap_err(),
            VaultError::Exposed { mode: 0o644, .. }
        ));
    }
}
