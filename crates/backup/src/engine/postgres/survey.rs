//! What is in a database: rows, sequences, objects, extensions, migrations; the same questions to the source,
//! in the dump's snapshot, and to what was restored.
//!
//! Objects are compared by name and kind, not by the text of their definition: the server writes some checks
//! and views differently after a restore, without any change of meaning.

use std::collections::BTreeMap;

use seaworthy_base::Fault;
use serde_json::Value;

use super::archive::Name;
use super::session::Session;
use crate::facts::{DatabaseFacts, Difference};

/// Tables of the owner's: not the server's own, not those of an extension, not temporary.
const OWN: &str = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// Each kind of object: its name, and a query of one line of text for each object.
const OBJECTS: [(&str, &str); 8] = [
    (
        "columns",
        "SELECT format('%I.%I.%I %s %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND {own}",
    ),
    (
        "constraints",
        "SELECT format('%I.%I.%I %s %s', n.nspname, c.relname, k.conname, k.contype, k.convalidated) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND {own}",
    ),
    (
        "indexes",
        "SELECT format('%I.%I %s %s', n.nspname, c.relname, i.indisunique, i.indisprimary) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND {own}",
    ),
    (
        "triggers",
        "SELECT format('%I.%I.%I %s', n.nspname, c.relname, t.tgname, t.tgenabled) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND {own}",
    ),
    (
        "views",
        "SELECT format('%I.%I %s', n.nspname, c.relname, c.relkind) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {own}",
    ),
    (
        "functions",
        "SELECT format('%I.%I(%s)', n.nspname, c.proname, pg_get_function_identity_arguments(c.oid)) FROM pg_proc c JOIN pg_namespace n ON n.oid = c.pronamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = c.oid AND d.deptype = 'e')",
    ),
    (
        "policies",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, p.polname) FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {own}",
    ),
    ("large objects", "SELECT oid::text FROM pg_largeobject_metadata"),
];

/// Tables in which tools keep what was migrated, and how the last step is found.
const MIGRATIONS: [(&str, &str); 9] = [
    ("_prisma_migrations", "migration_name FROM {t} ORDER BY started_at DESC LIMIT 1"),
    ("alembic_version", "string_agg(version_num, ',' ORDER BY version_num) FROM {t}"),
    ("schema_migrations", "max(version::text) FROM {t}"),
    ("django_migrations", "format('%s.%s', app, name) FROM {t} ORDER BY id DESC LIMIT 1"),
    ("flyway_schema_history", "version FROM {t} ORDER BY installed_rank DESC LIMIT 1"),
    ("__drizzle_migrations", "hash FROM {t} ORDER BY id DESC LIMIT 1"),
    ("_sqlx_migrations", "max(version)::text FROM {t}"),
    ("knex_migrations", "name FROM {t} ORDER BY id DESC LIMIT 1"),
    ("seaql_migrations", "max(version)::text FROM {t}"),
];

/// Everything but the rows, which take long and are counted while the dump runs.
pub(super) fn facts(session: &mut Session, name: &str) -> Result<DatabaseFacts, Fault> {
    let mut facts = DatabaseFacts { name: name.to_owned(), ..DatabaseFacts::default() };
    let about = session.one("SELECT json_build_object('encoding', pg_encoding_to_char(encoding), 'collate', datcollate, 'ctype', datctype, 'owner', pg_get_userbyid(datdba), 'bytes', pg_database_size(oid)) FROM pg_database WHERE datname = current_database()")?;
    for setting in ["encoding", "collate", "ctype", "owner"] {
        facts.settings.insert(setting.to_owned(), text(&about[setting]));
    }
    facts.bytes = about["bytes"].as_u64().unwrap_or_default();
    // Not every user may ask, and a standby answers otherwise.
    let position = "SELECT to_json(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text)";
    facts.position = text(&session.one(position)?);
    facts.sequences =
        sequences(session)?.into_iter().map(|(name, value)| (name, (value, value))).collect();
    for row in session.ask("SELECT json_build_array(extname, extversion) FROM pg_extension")? {
        facts.extensions.insert(text(&row[0]), text(&row[1]));
    }
    for (kind, query) in OBJECTS {
        let query = query.replace("{own}", OWN);
        let row = session.one(&format!("SELECT json_build_array(count(*), md5(coalesce(string_agg(line, chr(10) ORDER BY line COLLATE \"C\"), ''))) FROM ({query}) AS all_of (line)"))?;
        facts.objects.insert(kind.to_owned(), (row[0].as_u64().unwrap_or_default(), text(&row[1])));
    }
    facts.migrations = migrations(session)?;
    Ok(facts)
}

/// The rows of every table, exactly: as they were `counted` where they were, else the server is asked. Locks are
/// let go again after each hundred tables: a transaction that holds ten thousand may exhaust the server's table
/// of locks.
pub(super) fn count(
    session: &mut Session,
    facts: &mut DatabaseFacts,
    counted: &BTreeMap<Name, u64>,
) -> Result<(), Fault> {
    let tables = session.ask(&format!("SELECT json_build_array(n.nspname, c.relname, format('%I.%I', n.nspname, c.relname)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {OWN} ORDER BY c.oid"))?;
    let mut left = Vec::new();
    for table in &tables {
        let shown = text(&table[2]);
        match counted.get(&(text(&table[0]), text(&table[1]))) {
            Some(rows) => drop(facts.rows.insert(shown, *rows)),
            None => left.push(shown),
        }
    }
    for some in left.chunks(100) {
        let count = |table: &String| format!("SELECT to_json(count(*)) FROM ONLY {table}");
        let questions: Vec<String> = some.iter().map(count).collect();
        session.run("SAVEPOINT counting")?;
        let rows = session.ask(&questions.join(";\n"))?;
        session.run("ROLLBACK TO counting; RELEASE counting")?;
        let rows = rows.iter().map(|rows| rows.as_u64().unwrap_or_default());
        facts.rows.extend(some.iter().cloned().zip(rows));
    }
    Ok(())
}

/// Where the sequences are after the dump: they are outside of any snapshot.
pub(super) fn sequences_after(
    session: &mut Session,
    facts: &mut DatabaseFacts,
) -> Result<(), Fault> {
    let after = sequences(session)?;
    facts.sequences.retain(|name, (_, last)| {
        // One that was dropped in between may or may not be in the dump: it tells nothing.
        after.get(name).is_some_and(|value| {
            *last = *value;
            true
        })
    });
    Ok(())
}

fn sequences(session: &mut Session) -> Result<BTreeMap<String, i64>, Fault> {
    let rows = session.ask(&format!("SELECT json_build_array(format('%I.%I', s.schemaname, s.sequencename), coalesce(s.last_value, s.start_value - s.increment_by)) FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename WHERE has_sequence_privilege(c.oid, 'SELECT') AND {OWN}"))?;
    Ok(rows.iter().map(|row| (text(&row[0]), row[1].as_i64().unwrap_or_default())).collect())
}

fn migrations(session: &mut Session) -> Result<BTreeMap<String, String>, Fault> {
    let names: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
    let list = names.join("', '");
    let found = session.ask(&format!("SELECT json_build_array(format('%I.%I', n.nspname, c.relname), c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relname IN ('{list}') AND has_table_privilege(c.oid, 'SELECT') AND {OWN}"))?;
    let mut all = BTreeMap::new();
    for row in found {
        let (table, name) = (text(&row[0]), text(&row[1]));
        let Some((_, query)) = MIGRATIONS.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        let query = query.replace("{t}", &table);
        // A table of that name and another shape belongs to somebody else.
        session.run("SAVEPOINT asking")?;
        let answer = session.try_one(&format!("SELECT to_json((SELECT {query}))"))?;
        session.run("ROLLBACK TO asking; RELEASE asking")?;
        all.insert(table, text(&answer));
    }
    Ok(all)
}

/// The owner's own question: its first value must be neither false, nor null, nor 0. A question that the
/// restored copy refuses is a difference as well.
pub(super) fn ask(session: &mut Session, question: &str) -> Option<Difference> {
    let question = question.trim().trim_end_matches(';');
    let sql = format!(
        "SELECT to_json(a) -> (SELECT k FROM json_object_keys(to_json(a)) k LIMIT 1) FROM ({question}) AS a LIMIT 1"
    );
    let answer = session.run("RESET search_path").and_then(|()| session.one(&sql));
    let restored = match answer {
        Ok(Value::Null) => "nothing".to_owned(),
        Ok(value) if value == false || value == 0 || value == "" => value.to_string(),
        Ok(_) => return None,
        Err(fault) => fault.causes.join(": "),
    };
    Some(Difference::untrue(question, restored))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(
        || if value.is_null() { String::new() } else { value.to_string() },
        str::to_owned,
    )
}
