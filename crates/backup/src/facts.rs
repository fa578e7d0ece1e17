//! What is known of a database at the moment of its dump, and how two such facts differ.
//!
//! Taken in the dump's own snapshot and again from what was restored; a drill passes only when nothing
//! differs. Invariant: comparing is pure. Not here: how an engine is asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// So many differences are told of; ten thousand more say nothing new.
pub(crate) const TOLD: usize = 1000;

/// Facts of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// Encoding, collation and whatever else a new one must be made with, by name.
    pub settings: BTreeMap<String, String>,
    /// Size on the server's disk in bytes.
    pub bytes: u64,
    /// Rows by table, exactly (`schema.table`); keys by database for Redis; files by folder.
    pub rows: BTreeMap<String, u64>,
    /// Sequences: their values before and after the dump, since they are outside of any snapshot.
    pub sequences: BTreeMap<String, (i64, i64)>,
    /// How many there are of each kind (constraints, indexes, views …), and a hash over their names.
    pub objects: BTreeMap<String, (u64, String)>,
    /// Extensions and versions.
    pub extensions: BTreeMap<String, String>,
    /// Last migration, by the table of the tool that keeps it.
    pub migrations: BTreeMap<String, String>,
    /// The server's position in its log.
    pub position: String,
}

/// One difference between what was saved and what came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is about: `rows of public.users`.
    pub subject: String,
    /// What was saved.
    pub saved: String,
    /// What came back.
    pub restored: String,
}

impl Difference {
    /// The owner's own question had no true answer in what came back.
    pub(crate) fn untrue(question: &str, restored: String) -> Self {
        Self { subject: format!("`{question}`"), saved: "a true answer".to_owned(), restored }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} were saved, {} came back", self.subject, self.saved, self.restored)
    }
}

/// All differences between what was saved and what was restored.
pub(crate) fn differences(saved: &DatabaseFacts, restored: &DatabaseFacts) -> Vec<Difference> {
    let mut all = Vec::new();
    compare(&mut all, "rows of", &saved.rows, &restored.rows, ToString::to_string);
    compare(&mut all, "", &saved.objects, &restored.objects, |(count, hash)| {
        format!("{count} ({})", hash.get(..8).unwrap_or(hash))
    });
    compare(&mut all, "extension", &saved.extensions, &restored.extensions, Clone::clone);
    compare(&mut all, "last migration in", &saved.migrations, &restored.migrations, Clone::clone);
    for (name, (before, after)) in &saved.sequences {
        let subject = format!("sequence {name}");
        let range = if before == after { before.to_string() } else { format!("{before}..{after}") };
        match restored.sequences.get(name) {
            Some((value, _)) if (*before.min(after)..=*before.max(after)).contains(value) => {}
            Some((value, _)) => {
                all.push(Difference { subject, saved: range, restored: value.to_string() });
            }
            None => all.push(Difference { subject, saved: range, restored: "nothing".to_owned() }),
        }
    }
    for name in restored.sequences.keys().filter(|name| !saved.sequences.contains_key(*name)) {
        all.push(Difference {
            subject: format!("sequence {name}"),
            saved: "nothing".to_owned(),
            restored: "one".to_owned(),
        });
    }
    all
}

fn compare<T: PartialEq>(
    all: &mut Vec<Difference>,
    what: &str,
    saved: &BTreeMap<String, T>,
    restored: &BTreeMap<String, T>,
    show: impl Fn(&T) -> String,
) {
    let names: std::collections::BTreeSet<&String> = saved.keys().chain(restored.keys()).collect();
    let shown = |value: Option<&T>| value.map_or_else(|| "nothing".to_owned(), &show);
    for name in names {
        let (before, after) = (saved.get(name), restored.get(name));
        if before != after {
            let subject = format!("{what} {name}").trim().to_owned();
            all.push(Difference { subject, saved: shown(before), restored: shown(after) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(rows: u64, sequence: (i64, i64)) -> DatabaseFacts {
        DatabaseFacts {
            rows: [("public.users".to_owned(), rows)].into(),
            sequences: [("public.users_id_seq".to_owned(), sequence)].into(),
            ..DatabaseFacts::default()
        }
    }

    #[test]
    fn one_missing_row_is_a_difference() {
        let found = differences(&facts(5, (5, 5)), &facts(4, (5, 5)));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "rows of public.users: 5 were saved, 4 came back");
    }

    #[test]
    fn a_sequence_may_have_moved_while_the_dump_ran_and_no_further() {
        assert!(differences(&facts(5, (5, 9)), &facts(5, (7, 7))).is_empty());
        assert_eq!(differences(&facts(5, (5, 9)), &facts(5, (10, 10))).len(), 1);
    }

    #[test]
    fn a_table_that_is_gone_or_new_is_a_difference() {
        let empty = DatabaseFacts { rows: BTreeMap::new(), ..facts(0, (1, 1)) };
        assert_eq!(differences(&facts(5, (1, 1)), &empty)[0].restored, "nothing");
        assert_eq!(differences(&empty, &facts(0, (1, 1)))[0].saved, "nothing");
    }
}
