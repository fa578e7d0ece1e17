//! Which schema the databases have, and what was migrated since a release: read out of the journal.
//!
//! A stack: each migration that changed something lies on the one before, a rollback with its databases
//! takes the upper ones off. Invariant: a migration that failed lies on it too, since it may have done
//! anything. Not here: what a schema looks like; it has a name only, its tool's or its release's.

use std::collections::BTreeMap;

use seaworthy_base::ReleaseId;

use crate::journal::{Deployment, Point, Step};

/// The word for databases that nobody migrated.
pub const NONE: &str = "none";

/// One migration that the databases have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// In which release's code.
    pub release: Option<ReleaseId>,
    /// The schema that it left.
    pub schema: String,
    /// Whether it came to its end.
    pub whole: bool,
    /// Backups made right before it.
    pub points: Vec<Point>,
}

/// The migrations that the databases have, and the schema that each release was made for.
#[derive(Debug, Default)]
pub struct Ledger {
    stack: Vec<Migration>,
    of: BTreeMap<ReleaseId, String>,
}

impl Ledger {
    /// Reads the journal, newest deployment first.
    pub fn read(newest_first: &[Deployment]) -> Self {
        let mut ledger = Self::default();
        for deployment in newest_first.iter().rev() {
            for step in &deployment.steps {
                match step.step {
                    Step::Migrate => ledger.migrated(deployment, &step.note),
                    // Without a note it did not come to its end, and what was brought back was taken back.
                    Step::Restore if !step.note.is_empty() => ledger.back_to(&step.note),
                    _ => {}
                }
            }
            if let Some(release) = deployment.release {
                let today = ledger.today().to_owned();
                ledger.of.entry(release).or_insert(today);
            }
        }
        ledger
    }

    fn migrated(&mut self, deployment: &Deployment, note: &str) {
        let by = deployment.release.map_or_else(String::new, |release| release.to_string());
        let schema = if note.is_empty() { by } else { note.to_owned() };
        if self.today() != schema {
            self.stack.push(Migration {
                release: deployment.release,
                schema,
                whole: !note.is_empty(),
                points: deployment.points.clone(),
            });
        }
    }

    fn back_to(&mut self, schema: &str) {
        let at = self.position(schema).unwrap_or(0);
        self.stack.truncate(at);
    }

    /// How many migrations make up a schema; none when the databases do not have all of them.
    fn position(&self, schema: &str) -> Option<usize> {
        if schema == NONE {
            return Some(0);
        }
        self.stack.iter().rposition(|one| one.schema == schema).map(|at| at + 1)
    }

    /// The schema that the databases have.
    pub fn today(&self) -> &str {
        self.stack.last().map_or(NONE, |last| &last.schema)
    }

    /// The schema that a release was made for; none for a release that the journal does not know.
    pub fn of(&self, release: ReleaseId) -> Option<&str> {
        self.of.get(&release).map(String::as_str)
    }

    /// What was migrated since the schema of a release, oldest first; none when the databases never came by
    /// that schema, or lost it.
    pub fn since(&self, release: ReleaseId) -> Option<&[Migration]> {
        self.stack.get(self.position(self.of(release)?)?..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::deployment;
    use seaworthy_base::Timestamp;

    fn release(number: u32) -> ReleaseId {
        ReleaseId { number, digest: number }
    }

    fn did(number: u32, step: Step, note: &str) -> Deployment {
        let mut one = deployment();
        one.release = Some(release(number));
        one.begin(step, Timestamp(1));
        one.end(Timestamp(2), note);
        let (item, set) = ("database.main".to_owned(), format!("before-{number}"));
        one.points = vec![Point { item, set, at: Timestamp(u64::from(number)) }];
        one
    }

    fn read(oldest_first: &[Deployment]) -> Ledger {
        let newest_first: Vec<Deployment> = oldest_first.iter().rev().cloned().collect();
        Ledger::read(&newest_first)
    }

    #[test]
    fn what_was_migrated_since_a_release_is_known_until_it_is_taken_back() {
        let mut all = vec![
            did(1, Step::Migrate, "s-a"),
            did(2, Step::Migrate, "s-a"),
            did(3, Step::Migrate, "s-b"),
            did(4, Step::Migrate, "s-c"),
        ];
        let ledger = read(&all);
        assert_eq!((ledger.today(), ledger.of(release(2))), ("s-c", Some("s-a")));
        let since = ledger.since(release(1)).unwrap();
        assert_eq!(since.iter().map(|one| &*one.schema).collect::<Vec<_>>(), ["s-b", "s-c"]);
        assert_eq!(since[0].points[0].set, "before-3");
        all.push(did(2, Step::Restore, "s-a"));
        let ledger = read(&all);
        assert_eq!((ledger.today(), ledger.since(release(2)).unwrap().len()), ("s-a", 0));
        assert_eq!(ledger.since(release(4)), None, "its schema is gone");
    }

    #[test]
    fn a_migration_that_failed_may_have_done_anything_and_one_that_was_cut_off_too() {
        let ledger = read(&[did(1, Step::Migrate, "r1"), did(2, Step::Migrate, "")]);
        assert_eq!(ledger.today(), release(2).to_string());
        assert!(!ledger.since(release(1)).unwrap()[0].whole);
        let cut_off = did(1, Step::Restore, "");
        let ledger = read(&[did(1, Step::Migrate, "r1"), did(2, Step::Migrate, ""), cut_off]);
        assert_eq!(ledger.today(), release(2).to_string());
    }

    #[test]
    fn where_nobody_ever_migrated_every_release_has_the_same_schema() {
        let ledger = read(&[did(1, Step::Build, ""), did(2, Step::Build, "")]);
        assert_eq!((ledger.of(release(1)), ledger.today()), (Some(NONE), NONE));
        let ledger = read(&[did(1, Step::Build, ""), did(2, Step::Migrate, "r2")]);
        assert_eq!(ledger.since(release(1)).unwrap().len(), 1);
        let back = did(1, Step::Restore, NONE);
        let ledger = read(&[did(1, Step::Build, ""), did(2, Step::Migrate, "r2"), back]);
        assert_eq!(ledger.today(), NONE);
    }
}
