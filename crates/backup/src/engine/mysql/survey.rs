//! What is in a MariaDB or MySQL database, asked of the source and of what was restored.

use std::collections::BTreeMap;

use seaworthy_base::Fault;
use sha2::{Digest, Sha256};

use super::connect::{Client, quote, text};
use crate::facts::{DatabaseFacts, Difference};
use crate::set::hex;

/// Each kind of object, and a query of one text for each object; `{db}` is the database.
const OBJECTS: [(&str, &str); 7] = [
    (
        "columns",
        "SELECT concat_ws('.', table_name, column_name, column_type, is_nullable) FROM information_schema.columns WHERE table_schema = {db}",
    ),
    (
        "constraints",
        "SELECT concat_ws('.', table_name, constraint_name, constraint_type) FROM information_schema.table_constraints WHERE table_schema = {db}",
    ),
    (
        "indexes",
        "SELECT concat_ws('.', table_name, index_name, seq_in_index, column_name, non_unique) FROM information_schema.statistics WHERE table_schema = {db}",
    ),
    ("views", "SELECT table_name FROM information_schema.views WHERE table_schema = {db}"),
    (
        "triggers",
        "SELECT concat_ws('.', trigger_name, event_object_table, action_timing, event_manipulation) FROM information_schema.triggers WHERE trigger_schema = {db}",
    ),
    (
        "routines",
        "SELECT concat_ws('.', routine_type, routine_name) FROM information_schema.routines WHERE routine_schema = {db}",
    ),
    ("events", "SELECT event_name FROM information_schema.events WHERE event_schema = {db}"),
];

/// Tables in which tools keep what was migrated, and how the last step is found.
const MIGRATIONS: [(&str, &str); 5] = [
    ("_prisma_migrations", "SELECT migration_name FROM {t} ORDER BY started_at DESC LIMIT 1"),
    ("alembic_version", "SELECT group_concat(version_num ORDER BY version_num) FROM {t}"),
    ("schema_migrations", "SELECT max(version) FROM {t}"),
    ("migrations", "SELECT migration FROM {t} ORDER BY id DESC LIMIT 1"),
    ("flyway_schema_history", "SELECT version FROM {t} ORDER BY installed_rank DESC LIMIT 1"),
];

/// Everything but the rows.
pub(super) fn facts(client: &Client, name: &str) -> Result<DatabaseFacts, Fault> {
    let db = text(name);
    let mut facts = DatabaseFacts { name: name.to_owned(), ..DatabaseFacts::default() };
    let about = client.rows(&format!("SELECT default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name = {db}"))?;
    for (setting, value) in ["charset", "collate"].into_iter().zip(about.into_iter().flatten()) {
        facts.settings.insert(setting.to_owned(), value);
    }
    let bytes = client.one(&format!("SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = {db}"))?;
    facts.bytes = bytes.split('.').next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    for (kind, query) in OBJECTS {
        let mut lines = client.column(&query.replace("{db}", &db))?;
        lines.sort();
        let hash = hex(&Sha256::digest(lines.join("\n").as_bytes()));
        facts.objects.insert(kind.to_owned(), (lines.len() as u64, hash));
    }
    let tables = tables(client, name)?;
    for (table, query) in MIGRATIONS {
        if tables.iter().any(|one| one == table) {
            let query = query.replace("{t}", &format!("{}.{}", quote(name), quote(table)));
            // A table of that name and another shape belongs to somebody else.
            facts.migrations.insert(table.to_owned(), client.one(&query).unwrap_or_default());
        }
    }
    Ok(facts)
}

/// The tables of a database.
pub(super) fn tables(client: &Client, name: &str) -> Result<Vec<String>, Fault> {
    client.column(&format!("SELECT table_name FROM information_schema.tables WHERE table_schema = {} AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')", text(name)))
}

/// Tables whose engine knows no transactions.
pub(super) fn without_transactions(client: &Client, name: &str) -> Result<Vec<String>, Fault> {
    client.column(&format!("SELECT t.table_name FROM information_schema.tables t JOIN information_schema.engines e ON e.engine = t.engine WHERE t.table_schema = {} AND t.table_type = 'BASE TABLE' AND e.transactions <> 'YES' LIMIT 20", text(name)))
}

/// The rows of every table, exactly.
pub(super) fn count(client: &Client, name: &str) -> Result<BTreeMap<String, u64>, Fault> {
    let all = tables(client, name)?;
    let mut rows = BTreeMap::new();
    for piece in all.chunks(200) {
        let each: Vec<String> = piece
            .iter()
            .map(|table| {
                format!("SELECT {}, count(*) FROM {}.{}", text(table), quote(name), quote(table))
            })
            .collect();
        for row in client.rows(&each.join(" UNION "))? {
            if let [table, count] = &row[..] {
                rows.insert(table.clone(), count.parse().unwrap_or(0));
            }
        }
    }
    Ok(rows)
}

/// The owner's own question: its first value must be neither NULL nor 0 nor empty.
pub(super) fn ask(client: &Client, name: &str, question: &str) -> Option<Difference> {
    let answer =
        client.one(&format!("USE {}; {}", quote(name), question.trim().trim_end_matches(';')));
    let restored = match answer {
        Ok(value) if value.is_empty() || value == "0" || value == "NULL" => format!("`{value}`"),
        Ok(_) => return None,
        Err(fault) => fault.causes.join(": "),
    };
    Some(Difference::untrue(question, restored))
}
