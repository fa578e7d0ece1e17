//! The audit log: append-only, each entry chained to the one before by a hash.
//!
//! The hash of an entry covers the hash before it, its number and its text, so that a changed, removed or
//! inserted entry breaks the chain at its place. Invariant: nothing here changes or removes an entry. It
//! proves that the log was not edited by accident or in part; who can rewrite the whole file can rewrite
//! the chain, and therefore the newest hash is to be kept elsewhere too.

use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Result, Store};

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Counts up from 1 without a gap.
    pub number: u64,
    /// The entry, JSON.
    pub entry: String,
    /// Hex SHA-256 over the hash before, the number and the entry.
    pub hash: String,
}

/// What is wrong with the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// At which entry.
    pub number: u64,
    /// In words.
    pub what: String,
}

fn link(before: &str, number: u64, entry: &str) -> String {
    format!("{:x}", Sha256::digest(format!("{before}\n{number}\n{entry}")))
}

impl Store {
    /// Appends an entry.
    pub fn append_audit(&self, entry: &str) -> Result<u64> {
        self.transaction(|connection| {
            let last = "SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1";
            let last: Option<(i64, String)> =
                connection.query_row(last, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let (before, hash) = last.unwrap_or_default();
            let number = before + 1;
            let hash = link(&hash, number as u64, entry);
            let add = "INSERT INTO audit (id, entry, hash) VALUES (?1, ?2, ?3)";
            connection.execute(add, params![number, entry, hash])?;
            Ok(number as u64)
        })
    }

    /// The newest entries, oldest first.
    pub fn audit(&self, limit: u32) -> Result<Vec<AuditRow>> {
        let sql = "SELECT id, entry, hash FROM (SELECT * FROM audit ORDER BY id DESC LIMIT ?1) ORDER BY id";
        self.rows(sql, [limit], |row| {
            let number: i64 = row.get(0)?;
            Ok(AuditRow { number: number as u64, entry: row.get(1)?, hash: row.get(2)? })
        })
    }

    /// Follows the chain from its beginning: the number of entries and the newest hash, or where it breaks. A hash that
    /// was the newest once must be in it: a log that was cut off, or written anew, holds by itself.
    pub fn verify_audit(
        &self,
        since: Option<&str>,
    ) -> Result<std::result::Result<(u64, String), Broken>> {
        let (mut count, mut hash) = (0, String::new());
        let mut found = since.is_none();
        for row in self.audit(u32::MAX)? {
            count += 1;
            if row.number != count {
                let what = format!("entries {count} to {} are missing", row.number - 1);
                return Ok(Err(Broken { number: count, what }));
            }
            if row.hash != link(&hash, row.number, &row.entry) {
                let what = format!("entry {count} or one before it was changed");
                return Ok(Err(Broken { number: count, what }));
            }
            hash = row.hash;
            found |= since == Some(&*hash);
        }
        if !found {
            let what = "no entry has the hash that was the newest once: its end was cut off, or all of it was written anew";
            return Ok(Err(Broken { number: count, what: what.to_owned() }));
        }
        Ok(Ok((count, hash)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for text in ["one", "two", "three"] {
            store.append_audit(text).unwrap();
        }
        (dir, store)
    }

    #[test]
    fn an_untouched_chain_holds_and_a_changed_entry_breaks_it_at_its_place() {
        let (_dir, store) = store();
        assert_eq!(store.verify_audit(None).unwrap().unwrap().0, 3);
        assert_eq!(store.audit(2).unwrap()[0].entry, "two");
        store.connection.execute("UPDATE audit SET entry = 'TWO' WHERE id = 2", []).unwrap();
        assert_eq!(store.verify_audit(None).unwrap().unwrap_err().number, 2);
    }

    #[test]
    fn a_log_whose_end_was_cut_off_lacks_the_hash_that_was_the_newest() {
        let (_dir, store) = store();
        let newest = store.verify_audit(None).unwrap().unwrap().1;
        store.append_audit("four").unwrap();
        assert_eq!(store.verify_audit(Some(&newest)).unwrap().unwrap().0, 4);
        store.connection.execute("DELETE FROM audit WHERE id > 2", []).unwrap();
        assert_eq!(store.verify_audit(None).unwrap().unwrap().0, 2);
        assert!(store.verify_audit(Some(&newest)).unwrap().is_err());
    }

    #[test]
    fn a_removed_entry_breaks_it_and_so_does_one_with_a_hash_of_its_own() {
        let (_dir, first) = store();
        first.connection.execute("DELETE FROM audit WHERE id = 2", []).unwrap();
        assert_eq!(first.verify_audit(None).unwrap().unwrap_err().number, 2);
        let (_dir, second) = store();
        let forged = link("", 2, "forged");
        second
            .connection
            .execute("UPDATE audit SET entry = 'forged', hash = ?1 WHERE id = 2", [forged])
            .unwrap();
        assert_eq!(second.verify_audit(None).unwrap().unwrap_err().number, 2);
    }
}
