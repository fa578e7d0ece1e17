//! PostgreSQL.

use std::os::unix::fs::PermissionsExt;

use seaworthy_backup::{Action, Drilled, RestoreTarget, Restored, Source, State, Taken};
use seaworthy_testkit::peers::{POSTGRES_18, Postgres};

use crate::platform::Platform;

const ITEM: &str = "database.main";

fn source(server: &Postgres) -> Source {
    Source::Postgres { url: server.url("shop"), databases: None }
}

/// A database with most of what people have in theirs.
fn fill(server: &Postgres) {
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'x'");
    server.sql("postgres", "CREATE DATABASE shop OWNER app");
    server.sql(
        "shop",
        r#"CREATE EXTENSION pg_trgm;
        CREATE SCHEMA stock;
        CREATE TABLE users (id bigserial PRIMARY KEY, name text NOT NULL CHECK (name <> ''), kind varchar(10) CHECK (kind IN ('a', 'b')));
        CREATE TABLE orders (id bigserial PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, at timestamptz DEFAULT now(), price numeric(12, 2));
        CREATE TABLE stock."odd
name" (k int PRIMARY KEY, v bytea);
        CREATE TABLE log (at date NOT NULL, line text) PARTITION BY RANGE (at);
        CREATE TABLE log_2026 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        CREATE TABLE schema_migrations (version bigint PRIMARY KEY);
        CREATE VIEW rich AS SELECT user_id, sum(price) FROM orders GROUP BY user_id;
        CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql AS 'SELECT x * 2';
        ALTER TABLE users ENABLE ROW LEVEL SECURITY;
        CREATE POLICY all_of ON users USING (true);
        INSERT INTO users (name, kind) SELECT 'user ' || n, 'a' FROM generate_series(1, 2000) n;
        INSERT INTO orders (user_id, price) SELECT 1 + n % 2000, n FROM generate_series(1, 20000) n;
        INSERT INTO stock."odd
name" SELECT n, decode(md5(n::text), 'hex') FROM generate_series(1, 500) n;
        INSERT INTO log SELECT '2026-06-01', 'line ' || n FROM generate_series(1, 300) n;
        INSERT INTO schema_migrations VALUES (20260101), (20260202);
        SELECT lo_from_bytea(0, 'large object');
        ALTER TABLE orders OWNER TO app; GRANT SELECT ON users TO app;
        ALTER DATABASE shop SET work_mem = '5MB';"#,
    );
}

#[test]
fn a_backup_taken_under_writes_is_of_one_moment_and_a_destroyed_database_comes_back_exactly() {
    let server = Postgres::start();
    fill(&server);
    let platform = Platform::new();
    let script = server.folder().join("writes.sql");
    // Pairs: whatever moment is dumped, there are as many plus as minus rows.
    std::fs::write(&script, "CREATE TABLE pairs (v int, at bigserial);\n".to_owned() + &"BEGIN; INSERT INTO pairs VALUES (1); INSERT INTO users (name) VALUES ('w'); INSERT INTO pairs VALUES (-1); COMMIT;\n".repeat(200_000)).unwrap();
    let mut writer = server.client("shop", &script);
    server
        .wait_for("the writer writes", "shop", "SELECT count(*) FROM pairs", |count| count != "0");
    let taken = platform.take(ITEM, &source(&server));
    writer.must_run();
    drop(writer);
    let facts = &taken.set.databases[0];
    assert_eq!(facts.rows["public.orders"], 20_000);
    assert_eq!(facts.rows["stock.\"odd\nname\""], 500);
    assert_eq!(facts.rows["public.pairs"] % 2, 0);
    assert_eq!(facts.migrations["public.schema_migrations"], "20260202");
    assert!(facts.extensions.contains_key("pg_trgm") && facts.rows["public.users"] > 2000);
    assert_eq!(taken.set.doubts, Vec::<String>::new());
    platform.assert_tidy();

    let drilled: Drilled = platform.drill(ITEM, &source(&server));
    assert_eq!(drilled.drill.fault, None, "{:#?}", drilled.drill);
    assert_eq!(drilled.rows, facts.rows.values().sum::<u64>());
    let report = platform.list(ITEM, &source(&server));
    assert_eq!(report.sets[0].copies, [("local".to_owned(), State::Verified)]);
    assert!(report.rto_measured_ms().is_some() && report.rpo_now_ms().is_some());
    platform.assert_tidy();

    // What was dumped, by another way: the scratch copy's content is what the source had.
    server.sql("postgres", "DROP DATABASE shop WITH (FORCE)");
    let restored: Restored = platform.run(ITEM, &source(&server), restore(RestoreTarget::InPlace));
    assert_eq!((restored.before, restored.safety), (None, None), "there was nothing left to save");
    assert_eq!(
        server.sql("shop", "SELECT count(*), sum(v) FROM pairs"),
        format!("{}|0", facts.rows["public.pairs"])
    );
    let before = server.content("shop");

    // In place over live data: it is backed up first, stays under another name, and settings come along.
    let again = platform.take(ITEM, &source(&server));
    server.sql("shop", "DELETE FROM orders; ALTER DATABASE shop SET work_mem = '6MB'; REVOKE CONNECT ON DATABASE shop FROM PUBLIC; ALTER ROLE app PASSWORD 'rotated'");
    let password =
        || server.sql("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
    let rotated = password();
    let restored: Restored = platform.run(
        ITEM,
        &source(&server),
        Action::Restore {
            set: Some(again.set.id.to_string()),
            at: None,
            store: None,
            target: RestoreTarget::InPlace,
            identity: None,
        },
    );
    assert!(restored.safety.is_some());
    let old = restored.before.unwrap();
    assert_eq!(server.content("shop"), before);
    assert_eq!(server.sql("shop", "SHOW work_mem"), "6MB");
    let rights = "SELECT pg_get_userbyid(datdba), has_database_privilege('public', oid, 'CONNECT') FROM pg_database WHERE datname = 'shop'";
    assert_eq!(server.sql("postgres", rights), "app|f");
    assert_eq!(password(), rotated, "a role that is there stays as it is");
    assert_eq!(
        server.sql(old.strip_prefix("database ").unwrap(), "SELECT count(*) FROM orders"),
        "0"
    );
    let into: Restored = platform.run(
        ITEM,
        &source(&server),
        restore(RestoreTarget::Into { name: "copy".to_owned() }),
    );
    assert!(into.to.contains("(copy)"));
    assert_eq!(
        server.sql("copy", "SELECT count(*) FROM orders"),
        "0",
        "the newest is the one made before the restore"
    );
}

fn restore(target: RestoreTarget) -> Action {
    Action::Restore { set: None, at: None, store: None, target, identity: None }
}

#[test]
fn one_row_that_is_missing_in_what_was_stored_makes_a_drill_fail_and_the_backup_count_as_damaged() {
    let server = Postgres::start();
    fill(&server);
    let platform = Platform::new();
    let taken = platform.take(ITEM, &source(&server));
    server.sql("shop", "DELETE FROM orders WHERE id = 777");
    // The same backup, whole and sealed, but for that row.
    let forged = platform.take("database.forged", &source(&server));
    platform.forge(ITEM, &taken, "database.forged", &forged);
    let drilled = platform.drill(ITEM, &source(&server));
    let fault = drilled.drill.fault.unwrap();
    assert_eq!(fault.code.as_str(), "SW-BAK-007");
    assert!(
        fault.to_string().contains("rows of public.orders: 20000 were saved, 19999 came back"),
        "{fault}"
    );
    assert!(matches!(platform.list(ITEM, &source(&server)).sets[0].copies[0].1, State::Damaged(_)));
}

#[test]
fn ten_thousand_tables_and_none_are_backed_up_and_drilled() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    let platform = Platform::new();
    platform.take(ITEM, &source(&server));
    assert_eq!(platform.drill(ITEM, &source(&server)).drill.fault, None);
    // In pieces: one transaction would need as many locks as there are tables.
    for piece in 0..100 {
        server.sql("shop", &format!("DO $$ BEGIN FOR n IN 1..100 LOOP EXECUTE format('CREATE TABLE t_%s_%s (x int)', {piece}, n); END LOOP; END $$"));
    }
    server.sql("shop", "INSERT INTO t_99_100 VALUES (1), (2)");
    let taken: Taken = platform.run_small(ITEM, &source(&server), crate::platform::take());
    let rows = &taken.set.databases[0].rows;
    assert_eq!((rows.len(), rows["public.t_99_100"], rows["public.t_0_1"]), (10_000, 2, 0));
    let drill = Action::Drill { set: None, store: None };
    let drilled: Drilled = platform.run_small(ITEM, &source(&server), drill);
    assert_eq!((drilled.drill.fault, drilled.rows), (None, 2));
}

#[test]
fn a_server_that_goes_away_or_refuses_costs_nothing_that_was_there_and_publishes_nothing() {
    let mut server = Postgres::start();
    fill(&server);
    server.sql("shop", "INSERT INTO log SELECT '2026-06-01', repeat(md5(n::text), 100) FROM generate_series(1, 20000) n");
    let platform = Platform::new();
    let good = platform.take(ITEM, &source(&server));
    let wrong =
        Source::Postgres { url: server.url("shop").replace("s3cr%3At", "wrong"), databases: None };
    let fault = platform.fails(ITEM, &wrong, crate::platform::take());
    assert_eq!(fault.code.as_str(), "SW-BAK-002");
    assert!(fault.causes[0].contains("password authentication failed"), "{fault:?}");
    // A password that was good until yesterday.
    server.sql(
        "postgres",
        "CREATE ROLE late LOGIN SUPERUSER PASSWORD 'late' VALID UNTIL '2026-01-01'",
    );
    let late = server.url("shop").replace("boss:s3cr%3At%2F%40@", "late:late@");
    let late = Source::Postgres { url: late, databases: None };
    let fault = platform.fails(ITEM, &late, crate::platform::take());
    assert_eq!(fault.code.as_str(), "SW-BAK-002");
    server.sql("postgres", "ALTER ROLE late VALID UNTIL 'infinity'");
    platform.take("database.late", &late);
    let fault = platform.fails(
        ITEM,
        &Source::Postgres { url: server.url("nothing"), databases: None },
        crate::platform::take(),
    );
    assert!(fault.causes[0].contains("does not exist"), "{fault:?}");

    // Ended in the middle of the dump: a lock that somebody holds keeps it there.
    let script = server.folder().join("lock.sql");
    std::fs::write(&script, "BEGIN; LOCK TABLE orders; SELECT pg_sleep(600);").unwrap();
    let caught = |server: &Postgres| {
        let holder = server.client("shop", &script);
        let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'orders'::regclass";
        server.wait_for("the table is locked", "shop", locked, |count| count == "1");
        let mut worker = platform.start(ITEM, &source(server), crate::platform::take());
        worker.until("dumping shop");
        let waiting =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
        server.wait_for("the dump waits", "shop", waiting, |count| count == "1");
        (holder, worker)
    };
    let (holder, worker) = caught(&server);
    server.stop();
    let fault = worker.finish().unwrap_err();
    assert_eq!(fault.code.as_str(), "SW-BAK-002", "{fault:?}");
    drop(holder);
    server.restart();

    // The worker itself killed in the middle: what it left is removed by the next run.
    let (holder, worker) = caught(&server);
    worker.kill();
    drop(holder);
    // A backend that sleeps does not notice that its client went.
    server.sql("shop", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
    let report = platform.list(ITEM, &source(&server));
    assert_eq!(report.sets.iter().map(|set| &set.set.id).collect::<Vec<_>>(), [&good.set.id]);
    assert_eq!(report.sets[0].copies[0].1, State::Verified);
    platform.take(ITEM, &source(&server));
    platform.assert_tidy();
    assert_eq!(platform.drill(ITEM, &source(&server)).drill.fault, None);
}

#[test]
fn a_table_that_is_dropped_as_it_is_dumped_costs_another_try_and_no_other_table() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE gone (x int); CREATE TABLE here AS SELECT 1 AS x");
    let platform = Platform::new();
    let client = |name: &str, sql: &str| {
        let script = server.folder().join(name);
        std::fs::write(&script, sql).unwrap();
        server.client("shop", &script)
    };
    let locks = |which: &str, count: &str| {
        let sql = format!("SELECT count(*) FROM pg_locks WHERE {which}");
        server.wait_for(which, "shop", &sql, |is| is == count);
    };
    // One who keeps another from dropping the table at once.
    let keeper = client("keeper.sql", "SELECT pg_advisory_lock(7); SELECT pg_sleep(600);");
    locks("locktype = 'advisory' AND granted", "1");
    let dropper = "BEGIN; LOCK TABLE gone; SELECT pg_advisory_lock(7); DROP TABLE gone; COMMIT;";
    let dropper = client("dropper.sql", dropper);
    locks("locktype = 'advisory' AND NOT granted", "1");
    let mut worker = platform.start(ITEM, &source(&server), crate::platform::take());
    worker.until("dumping shop");
    locks("locktype = 'relation' AND relation = 'gone'::regclass AND NOT granted", "1");
    drop(keeper);
    server.sql("shop", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
    worker.until("dumping shop again");
    drop(dropper);
    let taken: Taken = serde_json::from_value(worker.finish().unwrap()).unwrap();
    let rows: Vec<_> = taken.set.databases[0].rows.iter().collect();
    assert_eq!(rows, [(&"public.here".to_owned(), &1)]);
    assert_eq!(platform.drill(ITEM, &source(&server)).drill.fault, None);
    platform.assert_tidy();
}

#[test]
fn rows_are_counted_in_dumps_of_the_newest_version_and_one_that_is_cut_is_no_backup() {
    let server = Postgres::start_18();
    fill_plainly(&server);
    let mut platform = Platform::new();
    platform.programs = Some(POSTGRES_18.into());
    let taken = platform.take(ITEM, &source(&server));
    let rows = &taken.set.databases[0].rows;
    assert_eq!((rows["public.a"], rows["public.\"b\nc\""], rows["public.empty"]), (3000, 1, 0));
    assert_eq!(platform.drill(ITEM, &source(&server)).drill.fault, None);
    // Only who knows the archive's form sees that the rest is missing.
    let programs = platform.place.path().join("programs");
    std::fs::create_dir_all(programs.join("bin")).unwrap();
    let script = format!("#!/bin/sh\n{POSTGRES_18}/pg_dump \"$@\" | head -c 50000\n");
    std::fs::write(programs.join("bin/pg_dump"), script).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(programs.join("bin/pg_dump"), mode).unwrap();
    let both = format!("{}:{POSTGRES_18}", programs.join("bin").display());
    platform.programs = Some(both.into());
    let fault = platform.fails(ITEM, &source(&server), crate::platform::take());
    assert!(fault.to_string().contains("it ends in the middle"), "{fault:?}");
}

fn fill_plainly(server: &Postgres) {
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        r#"CREATE TABLE a AS SELECT n, md5(n::text) FROM generate_series(1, 3000) n; CREATE TABLE empty (x int); CREATE TABLE "b
c" AS SELECT 1 AS x; SELECT lo_from_bytea(0, 'large object')"#,
    );
}
