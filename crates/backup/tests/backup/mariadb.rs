//! MariaDB.

use std::time::Duration;

use seaworthy_backup::{Action, RestoreTarget, Restored, Source};
use seaworthy_testkit::eventually;
use seaworthy_testkit::peers::MariaDb;

use crate::platform::{Platform, Worker, take};

const ITEM: &str = "database.users";

pub(crate) fn source(server: &MariaDb) -> Source {
    Source::Mysql { url: server.url(""), databases: Some("finiaDB_%".to_owned()) }
}

/// Ten thousand numbers from 1 on, in words that every server knows.
const NUMBERS: &str = "(SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS seq FROM (DIGITS) a, (DIGITS) b, (DIGITS) c, (DIGITS) e) n";
const DIGITS: &str = "SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9";

fn fill(server: &MariaDb) {
    let numbers = NUMBERS.replace("DIGITS", DIGITS);
    server.sql("CREATE DATABASE finiaDB_anna CHARACTER SET utf8mb4; CREATE DATABASE finiaDB_bert; CREATE DATABASE other");
    let anna = "USE finiaDB_anna; CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, name TEXT, raw BLOB);
        CREATE TABLE orders (id INT PRIMARY KEY, user INT, FOREIGN KEY (user) REFERENCES users (id));
        CREATE TABLE `odd ``name` (v TEXT); CREATE TABLE pairs (v INT);
        CREATE TABLE marks (n INT);
        CREATE VIEW rich AS SELECT name FROM users WHERE id > 5;
        CREATE PROCEDURE twice(IN x INT) SELECT x * 2;
        CREATE TRIGGER noted AFTER INSERT ON orders FOR EACH ROW INSERT INTO marks VALUES (NEW.id);
        CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM marks;
        INSERT INTO users (name, raw) SELECT concat('it''s (', seq, '),(\\\\', seq, '\n;'), unhex(sha2(seq, 256)) FROM NUMBERS WHERE seq <= 3000 ORDER BY seq;
        INSERT INTO orders SELECT seq, 1 + seq % 3000 FROM NUMBERS WHERE seq <= 2000;
        INSERT INTO `odd ``name` VALUES ('a\\'),(b'), ('ü€😀')";
    server.sql(&anna.replace("NUMBERS", &numbers));
    server.sql("USE finiaDB_bert; CREATE TABLE empty_one (x INT); CREATE TABLE t (x INT); INSERT INTO t VALUES (1), (2), (3)");
}

#[test]
fn databases_chosen_by_a_pattern_are_dumped_under_writes_lost_and_brought_back_exactly() {
    proves(&MariaDb::start(), &Platform::new());
}

/// Fills a server, backs up under writes, drills, loses everything, brings it back, once more over live data.
pub(crate) fn proves(server: &MariaDb, platform: &Platform) {
    fill(server);
    let filled = server.content("finiaDB_anna");
    let pair = "BEGIN; INSERT INTO pairs VALUES (1); INSERT INTO pairs VALUES (-1); COMMIT;\n";
    let mut writer = server.writes("finiaDB_anna", &pair.repeat(200_000));
    eventually("the writer writes", Duration::from_secs(30), || {
        server.sql("SELECT count(*) FROM finiaDB_anna.pairs") != "0"
    });
    let taken = platform.take(ITEM, &source(server));
    writer.must_run();
    drop(writer);
    let [anna, bert] = &taken.set.databases[..] else { panic!("{:?}", taken.set.databases) };
    assert_eq!(
        (anna.rows["users"], anna.rows["orders"], anna.rows["odd `name"], anna.rows["pairs"] % 2),
        (3000, 2000, 2, 0)
    );
    assert_eq!((bert.rows["empty_one"], bert.rows["t"]), (0, 3));
    assert_eq!(taken.set.doubts, Vec::<String>::new());
    assert!(taken.set.parts.iter().any(|part| part.holds == "users"), "{:?}", taken.set.notes);
    let drilled = platform.drill(ITEM, &source(server));
    assert_eq!(drilled.drill.fault, None, "{drilled:#?}");

    let all = Action::Restore {
        set: None,
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    server.sql("DROP DATABASE finiaDB_anna; DROP DATABASE finiaDB_bert");
    platform.run::<Restored>(ITEM, &source(server), all);
    let (lost, pairs) = (server.content("finiaDB_anna"), anna.rows["pairs"]);
    // All but what the writer wrote.
    let rest = lost.lines().filter(|line| !line.starts_with("INSERT INTO `pairs`"));
    let pairs_of_lines: Vec<(&str, &str)> = rest.zip(filled.lines()).collect();
    assert_eq!(pairs_of_lines.len(), filled.lines().count());
    pairs_of_lines.iter().for_each(|(is, was)| assert_eq!(is, was));
    assert_eq!(
        server.sql("SELECT count(*), coalesce(sum(v), 0) FROM finiaDB_anna.pairs"),
        format!("{pairs}\t0")
    );

    // In place over live data: tables change places at once, the rest follows, the old ones stay.
    let again = platform.take(ITEM, &source(server));
    server.sql("USE finiaDB_anna; DELETE FROM orders; DROP VIEW rich; DROP PROCEDURE twice; CREATE VIEW other_view AS SELECT 1");
    let restored: Restored = platform.run(
        ITEM,
        &source(server),
        Action::Restore {
            set: Some(again.set.id.to_string()),
            at: None,
            store: None,
            target: RestoreTarget::InPlace,
            identity: None,
        },
    );
    assert_eq!(server.content("finiaDB_anna"), lost);
    assert!(restored.safety.is_some() && restored.before.unwrap().contains("finiaDB_anna_before_"));

    let fault = platform.fails(
        ITEM,
        &Source::Mysql { url: server.url("x").replace("s3cr", "wrong"), databases: None },
        take(),
    );
    assert!(
        fault.code.as_str() == "SW-BAK-002" && fault.causes[0].contains("Access denied"),
        "{fault:?}"
    );
    platform.assert_tidy();
}

#[test]
fn one_row_that_is_missing_in_what_was_stored_makes_a_drill_fail() {
    misses_a_row(&MariaDb::start(), &Platform::new());
}

/// A backup without one row of those that it says it has.
pub(crate) fn misses_a_row(server: &MariaDb, platform: &Platform) {
    fill(server);
    let taken = platform.take(ITEM, &source(server));
    server.sql("DELETE FROM finiaDB_anna.orders WHERE id = 77");
    let forged = platform.take("database.forged", &source(server));
    platform.forge(ITEM, &taken, "database.forged", &forged);
    let fault = platform.drill(ITEM, &source(server)).drill.fault.unwrap();
    assert_eq!(fault.code.as_str(), "SW-BAK-007");
    assert!(
        fault.to_string().contains("rows of orders: 2000 were saved, 1999 came back"),
        "{fault}"
    );
}

#[test]
fn users_of_a_server_whose_dump_tool_does_not_know_them_are_asked_for_one_by_one() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.t (x INT); CREATE USER `o'dd`@`10.%` IDENTIFIED BY 'p''w'; GRANT SELECT, INSERT ON `shop`.* TO `o'dd`@`10.%`");
    let platform = Platform::new();
    let dir = platform.place.path().join("bin");
    std::fs::create_dir_all(&dir).unwrap();
    // As MySQL's own says it.
    let script = "#!/bin/sh\ncase \"$*\" in *--system*) echo \"mysqldump: [ERROR] unknown variable 'system=users'.\" >&2; exit 7;; esac\nexec /usr/bin/mariadb-dump \"$@\"\n";
    std::fs::write(dir.join("mariadb-dump"), script).unwrap();
    std::fs::set_permissions(
        dir.join("mariadb-dump"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let source = Source::Mysql { url: server.url("shop"), databases: None };
    let job = platform.job("database.main", &source, take());
    let report = Worker::start_with(&job, &[("PATH", &path)]).finish().unwrap();
    assert!(report["set"]["notes"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(platform.drill("database.main", &source).drill.fault, None);

    let user = "SELECT concat(user, host, plugin, authentication_string) FROM mysql.user WHERE user LIKE 'o%'";
    let grants = "SHOW GRANTS FOR `o'dd`@`10.%`";
    let before = (server.sql(user), server.sql(grants));
    server.sql("DROP USER `o'dd`@`10.%`; DROP DATABASE shop");
    let restored: Restored = platform.run(
        "database.main",
        &source,
        Action::Restore {
            set: None,
            at: None,
            store: None,
            target: RestoreTarget::InPlace,
            identity: None,
        },
    );
    assert_eq!(restored.before, None);
    assert_eq!((server.sql(user), server.sql(grants)), before);

    // Who is there keeps the password that it has now.
    server.sql("ALTER USER `o'dd`@`10.%` IDENTIFIED BY 'another'");
    let now = server.sql(user);
    assert_ne!(now, before.0);
    let again = Action::Restore {
        set: None,
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    let restored: Restored = platform.run("database.main", &source, again);
    assert!(restored.before.is_some());
    assert_eq!(server.sql(user), now);
}

#[test]
fn a_table_that_is_dropped_as_it_is_dumped_costs_another_try_and_a_database_may_have_none() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; CREATE DATABASE bare; USE shop; CREATE TABLE a (x INT); INSERT INTO a VALUES (1); CREATE TABLE b (x INT); CREATE TABLE c (x INT)");
    let platform = Platform::new();
    let holder = server.writes("shop", "LOCK TABLES b WRITE; SELECT sleep(600);");
    let asks = |what: &str| {
        let sql = format!("SELECT count(*) FROM information_schema.processlist WHERE {what}");
        eventually(what, Duration::from_secs(60), || server.sql(&sql) == "1");
    };
    asks("info LIKE 'SELECT sleep%' AND state = 'User sleep'");
    let source = Source::Mysql { url: server.url(""), databases: Some("*".to_owned()) };
    let worker = platform.start(ITEM, &source, take());
    asks("state = 'Waiting for table metadata lock'");
    server.sql("DROP TABLE shop.c");
    let held = server.sql("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT sleep%' AND state = 'User sleep'");
    server.sql(&format!("KILL {held}"));
    let taken: seaworthy_backup::Taken = serde_json::from_value(worker.finish().unwrap()).unwrap();
    drop(holder);
    let [bare, shop] = &taken.set.databases[..] else { panic!("{:?}", taken.set.databases) };
    assert_eq!((bare.rows.len(), shop.rows.len(), shop.rows["a"]), (0, 2, 1));
    assert_eq!(taken.set.doubts, Vec::<String>::new());
    assert_eq!(platform.drill(ITEM, &source).drill.fault, None);
    platform.assert_tidy();
}
