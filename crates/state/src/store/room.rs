//! Room for what has to be written at a moment in which a full disk must not be in the way.
//!
//! Between the end of one release and the start of the next, nothing serves until the start was written down; a disk that
//! fills right then would keep it so. What a file has of the disk it keeps, so both files of the store are made large
//! enough beforehand: SQLite's log is longer than it ever gets before SQLite begins it anew, and the database has free
//! pages. Writing into either then takes nothing from anybody. Invariant: where there is no room, nothing is kept of it
//! and the caller is told, before anything ended. Not here: file systems that write every block anew (btrfs, ZFS), on
//! which this is worth no more than the ballast.

use std::fs;

use rusqlite::params;

use super::{Result, Store};

/// Bytes. SQLite begins its log anew after 1000 pages of 4096 bytes, and one transaction may exceed that a little.
const ROOM: u64 = 5 << 20;
/// Free pages of the database: more than a site's journals and records grow in one deployment.
const PAGES: i64 = 256;

impl Store {
    /// Makes sure that what is written from now on needs no more of the disk. Costs nothing when that is so already.
    pub fn set_room_aside(&self) -> Result<()> {
        self.ensure_ballast();
        let made = self.make_room();
        if made.is_err() {
            // What was taken in vain is given back.
            self.one::<i64>("PRAGMA wal_checkpoint(TRUNCATE)", []).ok();
        }
        made
    }

    fn make_room(&self) -> Result<()> {
        let log = fs::metadata(self.dir.join("state.db-wal")).map_or(0, |log| log.len());
        let free: i64 = self.one("PRAGMA freelist_count", [])?.unwrap_or_default();
        if log < ROOM || free < PAGES {
            let fill =
                "INSERT OR REPLACE INTO settings (name, value) VALUES ('room', zeroblob(?1))";
            self.write(fill, params![ROOM as i64])?;
            self.write("DELETE FROM settings WHERE name = 'room'", [])?;
        }
        // The log begins anew, in what it has.
        self.one::<i64>("PRAGMA wal_checkpoint(RESTART)", []).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_afterwards_makes_no_file_larger() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.set_room_aside().unwrap();
        let sizes = || {
            ["state.db", "state.db-wal"]
                .map(|name| fs::metadata(dir.path().join(name)).unwrap().len())
        };
        let before = sizes();
        assert!(before[1] >= ROOM, "{before:?}");
        let site = "shop".parse().unwrap();
        let number = store.add_deployment(&site, |_| String::new()).unwrap();
        for round in 0..500 {
            store.put_deployment(number, &format!("{round}").repeat(5_000)).unwrap();
            store.put_setting(&format!("of a deployment {}", round % 50), "x").unwrap();
        }
        assert_eq!(sizes(), before);
        // Asked again it has nothing to do.
        store.set_room_aside().unwrap();
        assert_eq!(sizes(), before);
        assert_eq!(store.get_setting("room").unwrap(), None);
    }
}
