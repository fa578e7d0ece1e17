//! What is kept of certificates: a file for each site and one for the accounts, mode 0600, written whole.
//!
//! Invariants: a change is on the disk before anybody acts on it; a file that cannot be read costs a
//! certificate, not the start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seaworthy_acme::due::Past;
use seaworthy_acme::{Issued, Pending};
use seaworthy_base::challenge::Shown;
use seaworthy_base::{Fault, SiteName};
use seaworthy_sys::files::{create_private_dir, write_atomically};
use serde::{Deserialize, Serialize};

use super::own::{Files, Own};
use crate::release::disk_fault;

/// One site's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// The certificate that is served.
    pub certificate: Option<Issued>,
    /// An order that is about to be finished.
    pub pending: Option<Pending>,
    /// What the next decision follows from.
    pub past: Past,
    /// Why the last try failed.
    pub fault: Option<Fault>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Certificates {
    dir: PathBuf,
    sites: Mutex<BTreeMap<SiteName, Kept>>,
    /// One worker at a time for a site.
    turns: Mutex<BTreeMap<SiteName, Arc<tokio::sync::Mutex<()>>>>,
    /// What authorities are to find now, by site.
    shown: Mutex<BTreeMap<SiteName, Vec<Shown>>>,
    /// Certificates from files, as they were last read and good.
    pub(super) own: Mutex<BTreeMap<Files, Own>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Certificates {
    /// Those in a folder, which is made at first use.
    pub(crate) fn open(certs: &Path) -> std::io::Result<Self> {
        let dir = certs.join("acme");
        create_private_dir(&dir, 0o700)?;
        Ok(Self {
            dir,
            sites: Mutex::default(),
            turns: Mutex::default(),
            shown: Mutex::default(),
            own: Mutex::default(),
        })
    }

    fn path(&self, site: &SiteName) -> PathBuf {
        self.dir.join(format!("{site}.json"))
    }

    /// What is kept of a site.
    pub(crate) fn get(&self, site: &SiteName) -> Kept {
        let mut sites = locked(&self.sites);
        let kept = sites.entry(site.clone()).or_insert_with(|| read(&self.path(site)));
        kept.clone()
    }

    /// Changes what is kept; nothing is changed when it cannot be written.
    pub(crate) fn change(
        &self,
        site: &SiteName,
        change: impl FnOnce(&mut Kept),
    ) -> Result<(), Fault> {
        let mut sites = locked(&self.sites);
        let path = self.path(site);
        let mut kept = sites.get(site).cloned().unwrap_or_else(|| read(&path));
        change(&mut kept);
        write(&path, &kept)?;
        sites.insert(site.clone(), kept);
        Ok(())
    }

    /// Accounts, by directory; each belongs to one address of the operator.
    pub(crate) fn accounts(&self, email: Option<&str>) -> BTreeMap<String, serde_json::Value> {
        let all: BTreeMap<String, serde_json::Value> = read(&self.dir.join("accounts"));
        let suffix = format!("#{}", email.unwrap_or_default());
        let each = all.into_iter();
        each.filter_map(|(key, value)| Some((key.strip_suffix(&suffix)?.to_owned(), value)))
            .collect()
    }

    /// Keeps an account.
    pub(crate) fn put_account(
        &self,
        directory: &str,
        email: Option<&str>,
        credentials: serde_json::Value,
    ) -> Result<(), Fault> {
        // The lock of the sites: two workers of different sites may make accounts at the same time.
        let _one_at_a_time = locked(&self.sites);
        let path = self.dir.join("accounts");
        let mut all: BTreeMap<String, serde_json::Value> = read(&path);
        all.insert(format!("{directory}#{}", email.unwrap_or_default()), credentials);
        write(&path, &all)
    }

    /// The turn of a site.
    pub(crate) fn turn(&self, site: &SiteName) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(locked(&self.turns).entry(site.clone()).or_default())
    }

    /// Sets what authorities are to find of a site.
    pub(crate) fn show(&self, site: &SiteName, challenges: Vec<Shown>) {
        locked(&self.shown).insert(site.clone(), challenges);
    }

    /// What authorities are to find now.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        locked(&self.shown).values().flatten().cloned().collect()
    }
}

fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> T {
    let Ok(bytes) = fs::read(path) else { return T::default() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        crate::say(&format!("`{}` cannot be read and is begun anew: {error}", path.display()));
        T::default()
    })
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Fault> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    write_atomically(path, &bytes, 0o600)
        .map_err(|error| disk_fault(format!("could not write `{}`", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_again_and_accounts_belong_to_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let site: SiteName = "shop".parse().unwrap();
        let first = Certificates::open(dir.path()).unwrap();
        first.change(&site, |kept| kept.past.failures = 3).unwrap();
        first.put_account("https://ca/dir", Some("a@b.c"), 7.into()).unwrap();
        let again = Certificates::open(dir.path()).unwrap();
        assert_eq!(again.get(&site).past.failures, 3);
        assert_eq!(again.accounts(Some("a@b.c"))["https://ca/dir"], 7);
        assert!(again.accounts(None).is_empty());
        fs::write(again.path(&site), "rubbish").unwrap();
        let broken = Certificates::open(dir.path()).unwrap();
        assert_eq!(broken.get(&site).past.failures, 0);
    }
}
