//! MariaDB.

use std::time::Duration;

use seaworthy_backup::{Action, RestoreTarget, Restored, Source};
use seaworthy_testkit::eventually;
use seaworthy_testkit::peers::MariaDb;

use crate::platform::{Platform, Worker, take};

const ITEM: &str = "database.users";

fn source(server: &MariaDb) -> Source {
    Source::Mysql { url: server.url(""), databases: Some("finiaDB_%".to_owned()) }
}

fn fill(server: &MariaDb) {
    server.sql("CREATE DATABASE finiaDB_anna CHARACTER SET utf8mb4; CREATE DATABASE finiaDB_bert; CREATE DATABASE other");
    server.sql("USE finiaDB_anna; CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, name TEXT, raw BLOB);
        CREATE TABLE orders (id INT PRIMARY KEY, user INT, FOREIGN KEY (user) REFERENCES users (id));
        CREATE TABLE `odd ``name` (v TEXT); CREATE TABLE pairs (v INT);
        CREATE TABLE marks (n INT);
        CREATE VIEW rich AS SELECT name FROM users WHERE id > 5;
        CREATE PROCEDURE twice(IN x INT) SELECT x * 2;
        CREATE TRIGGER noted AFTER INSERT ON orders FOR EACH ROW INSERT INTO marks VALUES (NEW.id);
        CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM marks;
        INSERT INTO users (name, raw) SELECT concat('it''s (', seq, '),(\\\\', seq, '\n;'), unhex(md5(seq)) FROM seq_1_to_3000;
        INSERT INTO orders SELECT seq, 1 + seq % 3000 FROM seq_1_to_2000;
        INSERT INTO `odd ``name` VALUES ('a\\'),(b'), ('ü€😀')");
    server.sql("USE finiaDB_bert; CREATE TABLE empty_one (x INT); CREATE TABLE t (x INT); INSERT INTO t VALUES (1), (2), (3)");
}

#[test]
fn databases_chosen_by_a_pattern_are_dumped_under_writes_lost_and_brought_back_exactly() {
    let server = MariaDb::start();
    fill(&server);
    let platform = Platform::new();
    let pair = "BEGIN; INSERT INTO pairs VALUES (1); INSERT INTO pairs VALUES (-1); COMMIT;\n";
    let mut writer = server.writes("finiaDB_anna", &pair.repeat(200_000));
    eventually("the writer writes", Duration::from_secs(30), || {
        server.sql("SELECT count(*) FROM finiaDB_anna.pairs") != "0"
    });
    let taken = platform.take(ITEM, &source(&server));
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
    let drilled = platform.drill(ITEM, &source(&server));
    assert_eq!(drilled.drill.fault, None, "{drilled:#?}");

    let all = Action::Restore {
        set: None,
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    server.sql("DROP DATABASE finiaDB_anna; DROP DATABASE finiaDB_bert");
    platform.run::<Restored>(ITEM, &source(&server), all);
    let (lost, pairs) = (server.content("finiaDB_anna"), anna.rows["pairs"]);
    assert_eq!(
        server.sql("SELECT count(*), coalesce(sum(v), 0) FROM finiaDB_anna.pairs"),
        format!("{pairs}\t0")
    );

    // In place over live data: tables change places at once, the rest follows, the old ones stay.
    let again = platform.take(ITEM, &source(&server));
    server.sql("USE finiaDB_anna; DELETE FROM orders; DROP VIEW rich; DROP PROCEDURE twice; CREATE VIEW other_view AS SELECT 1");
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
