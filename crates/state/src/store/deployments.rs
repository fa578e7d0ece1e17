//! Deployments and the last runs of jobs: records in the form of who keeps them.

use rusqlite::params;
use seaworthy_base::SiteName;

use super::{Result, Store};

/// Deployments kept of each site.
const KEPT: i64 = 500;

impl Store {
    /// Adds a deployment; its number counts up over all sites and is never given out twice. `write` makes
    /// the record with the number in it. The oldest beyond five hundred of the site go.
    pub fn add_deployment(&self, site: &SiteName, write: impl Fn(u64) -> String) -> Result<u64> {
        self.transaction(|connection| {
            let add = "INSERT INTO deployments (site, record) VALUES (?1, '')";
            connection.execute(add, [site.as_str()])?;
            let id = connection.last_insert_rowid();
            let set = "UPDATE deployments SET record = ?2 WHERE id = ?1";
            connection.execute(set, params![id, write(id as u64)])?;
            let trim = "DELETE FROM deployments WHERE site = ?1 AND id <= (SELECT id FROM deployments WHERE site = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
            connection.execute(trim, params![site.as_str(), KEPT])?;
            Ok(id as u64)
        })
    }

    /// Replaces the record of a deployment.
    pub fn put_deployment(&self, number: u64, record: &str) -> Result<()> {
        let sql = "UPDATE deployments SET record = ?2 WHERE id = ?1";
        self.write(sql, params![number as i64, record])
    }

    /// The newest deployments of a site, newest first.
    pub fn deployments(&self, site: &SiteName, limit: u32) -> Result<Vec<String>> {
        let sql = "SELECT record FROM deployments WHERE site = ?1 ORDER BY id DESC LIMIT ?2";
        self.texts(sql, params![site.as_str(), limit])
    }

    /// The sites that were ever deployed, by name, whether there is anything of them or not.
    pub fn deployed_sites(&self) -> Result<Vec<SiteName>> {
        let names = self.texts("SELECT DISTINCT site FROM deployments ORDER BY site", [])?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Keeps what is known of a job's last run.
    pub fn put_job(&self, site: &SiteName, job: &str, record: &str) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO jobs (site, job, record) VALUES (?1, ?2, ?3)";
        self.write(sql, params![site.as_str(), job, record])
    }

    /// What is known of a job's last run.
    pub fn job(&self, site: &SiteName, job: &str) -> Result<Option<String>> {
        self.one("SELECT record FROM jobs WHERE site = ?1 AND job = ?2", [site.as_str(), job])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_numbered_replaced_and_come_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let add =
            |site: &SiteName| store.add_deployment(site, |number| format!("n{number}")).unwrap();
        assert_eq!([add(&a), add(&b), add(&a)], [1, 2, 3]);
        store.put_deployment(1, "changed").unwrap();
        assert_eq!(store.deployments(&a, 9).unwrap(), ["n3", "changed"]);
        assert_eq!(store.deployments(&b, 9).unwrap(), ["n2"]);
        assert_eq!(store.deployed_sites().unwrap(), [a.clone(), b.clone()]);
        store.put_job(&a, "nightly", "1").unwrap();
        assert_eq!(store.job(&a, "nightly").unwrap().as_deref(), Some("1"));
        assert_eq!(store.job(&b, "nightly").unwrap(), None);
    }
}
