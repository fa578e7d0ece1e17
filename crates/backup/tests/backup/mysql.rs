//! MySQL's own server and tools, which no distribution that we test on has: `cargo xtask mysql-tests` brings them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use seaworthy_backup::{Action, RestoreTarget, Restored, Source};
use seaworthy_testkit::peers::MariaDb;

use crate::mariadb::{misses_a_row, proves};
use crate::platform::Platform;

const ITEM: &str = "database.main";

/// Where MySQL's programs are.
fn programs() -> PathBuf {
    let given = std::env::var_os("SEAWORTHY_MYSQL");
    given.unwrap_or_else(|| panic!("cargo xtask mysql-tests says where the programs are")).into()
}

/// A machine on which nothing of MariaDB's is found: what is in `/usr/bin` but for that, and MySQL's programs.
fn without_mariadb(platform: &mut Platform) {
    let folder = platform.place.path().join("bin");
    std::fs::create_dir_all(&folder).unwrap();
    for place in [Path::new("/usr/bin"), &programs()] {
        for entry in std::fs::read_dir(place).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if place != Path::new("/usr/bin")
                || !name.starts_with("maria") && !name.starts_with("mysql")
            {
                symlink(entry.path(), folder.join(name)).unwrap();
            }
        }
    }
    (platform.programs, platform.alone) = (Some(folder), true);
}

#[test]
#[ignore = "wants MySQL's own programs: cargo xtask mysql-tests brings them"]
fn databases_chosen_by_a_pattern_are_dumped_under_writes_lost_and_brought_back_exactly() {
    let mut platform = Platform::new();
    without_mariadb(&mut platform);
    proves(&MariaDb::start_mysql(&programs()), &platform);
}

#[test]
#[ignore = "wants MySQL's own programs: cargo xtask mysql-tests brings them"]
fn one_row_that_is_missing_in_what_was_stored_makes_a_drill_fail() {
    let mut platform = Platform::new();
    without_mariadb(&mut platform);
    misses_a_row(&MariaDb::start_mysql(&programs()), &platform);
}

#[test]
#[ignore = "wants MySQL's own programs: cargo xtask mysql-tests brings them"]
fn a_server_is_dumped_and_tried_out_by_programs_of_its_own_kind_where_both_are_installed() {
    let (theirs, ours) = (MariaDb::start_mysql(&programs()), MariaDb::start());
    let mut platform = Platform::new();
    platform.programs = Some(programs());
    for (server, tool, item) in
        [(&theirs, "mysqldump  Ver 9", "database.theirs"), (&ours, "MariaDB", "database.ours")]
    {
        server.sql(
            "CREATE DATABASE shop; CREATE TABLE shop.t (x INT); INSERT INTO shop.t VALUES (1)",
        );
        let source = Source::Mysql { url: server.url("shop"), databases: None };
        let taken = platform.take(item, &source);
        assert!(taken.set.tool.contains(tool), "{}", taken.set.tool);
        assert_eq!(taken.set.doubts, Vec::<String>::new());
        let drilled = platform.drill(item, &source);
        assert_eq!((drilled.drill.fault, drilled.rows), (None, 1));
    }
}

#[test]
#[ignore = "wants MySQL's own programs: cargo xtask mysql-tests brings them"]
fn users_roles_and_rights_come_back_with_their_passwords() {
    let server = MariaDb::start_mysql(&programs());
    // Salts are bytes: of so many some are no text, a quote, a backslash.
    let many = |sql: &str| {
        let all = (0..40).map(|n| sql.replace("WHO", &format!("`u{n}`@`%`")));
        all.collect::<Vec<_>>().join("; ")
    };
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.t (x INT); CREATE ROLE reader; GRANT SELECT ON shop.* TO reader; CREATE USER `an`@`%` IDENTIFIED BY 'p''w' DEFAULT ROLE reader; GRANT INSERT ON `shop`.* TO `an`@`%`; GRANT SELECT, EVENT, TRIGGER, SHOW VIEW, SHOW_ROUTINE, REPLICATION_APPLIER ON *.* TO `an`@`%`");
    server.sql(&many("CREATE USER WHO IDENTIFIED BY 'same'"));
    let mut platform = Platform::new();
    without_mariadb(&mut platform);
    let source = Source::Mysql { url: server.url("shop"), databases: None };
    let taken = platform.take(ITEM, &source);
    assert_eq!(taken.set.notes, Vec::<String>::new());
    assert_eq!(platform.drill(ITEM, &source).drill.fault, None);

    let state = || {
        let users = "SELECT user, host, plugin, hex(authentication_string), account_locked FROM mysql.user ORDER BY 1";
        let roles = "SELECT * FROM mysql.default_roles";
        [server.sql(users), server.sql("SHOW GRANTS FOR `an`@`%`"), server.sql(roles)]
    };
    let before = state();
    server.sql(&many("DROP USER WHO"));
    server.sql("DROP USER `an`@`%`; DROP ROLE reader; DROP DATABASE shop");
    let restore = || Action::Restore {
        set: None,
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    platform.run::<Restored>(ITEM, &source, restore());
    assert_eq!(state(), before);
    // The password is the one that it was, and opens what it opened.
    let as_user = server.url("shop").replace("boss:s3cr%3At%2F%40%22%5C", "an:p%27w");
    platform.take("database.an", &Source::Mysql { url: as_user, databases: None });

    // Who is there keeps what it has now.
    server
        .sql("ALTER USER `an`@`%` IDENTIFIED BY 'another'; ALTER USER `an`@`%` DEFAULT ROLE NONE");
    let now = state();
    platform.run::<Restored>(ITEM, &source, restore());
    assert_eq!(state(), now);
}
