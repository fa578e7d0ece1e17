//! Managed databases: made, supervised, kept through releases and crashes, in every backup, and brought back.

use std::process::Command;

use seaworthy_testkit::peers::{Place, unprivileged};
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually, eventually_some};

use crate::backup::assert_never_holds;
use crate::{LIMIT, sandbox};

/// A program that is served and writes a row ten times a second with the database's own client.
fn writer(insert: &str) -> String {
    format!(
        "[service.writer]\nrun = {{ shell = '''python3 -m http.server --bind 127.0.0.1 $PORT >/dev/null 2>&1 & while :; do {insert}; sleep 0.1; done''' }}\nsecrets = [\"DATABASE_URL\"]\nafter = [\"database.main\"]\n"
    )
}

fn shop(version: &str, migrate: &str, more: &str) -> Site {
    let app = FakeApp::new()
        .key(&format!("migrate = {{ shell = '''{migrate}''' }}"))
        .key("secrets = [\"DATABASE_URL\"]")
        .key(&format!("env = {{ VERSION = \"{version}\" }}"));
    Site::new("shop").app("web", app).more(more).file("version", version)
}

fn secret(sandbox: &Sandbox, name: &str) -> String {
    let shown = sandbox.run(["secrets", "get", name, "--site", "shop"]);
    shown.success().raw_stdout().trim().to_owned()
}

fn psql(url: &str, sql: &str) -> Option<String> {
    let output = Command::new("psql").args(["-XqAt", url, "-c", sql]).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn password(url: &str) -> &str {
    url.split('@').next().unwrap().rsplit(':').next().unwrap()
}

#[test]
fn postgres_is_run_for_a_site_survives_crashes_and_releases_and_comes_back_from_a_backup() {
    let more = format!(
        "{}[database.main]\nengine = \"postgres\"\nmanaged = true\n",
        writer("psql -qX \"$DATABASE_URL\" -c 'INSERT INTO notes DEFAULT VALUES'")
    );
    let migrate =
        "psql -qX \"$DATABASE_URL\" -c 'CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY)'";
    let site = |version: &str| shop(version, migrate, &more);
    let sandbox = sandbox();
    sandbox.up(&site("1")).says(["starting the server `database-main`"]);
    let (url, boss) =
        (secret(&sandbox, "DATABASE_URL"), secret(&sandbox, "DATABASE_MAIN_ADMIN_URL"));
    let count =
        || psql(&url, "SELECT count(*) FROM notes").and_then(|text| text.parse::<u64>().ok());
    let grows = || {
        let before = eventually_some("rows", LIMIT, count);
        eventually("more rows", LIMIT, || count().is_some_and(|now| now > before + 2));
    };
    grows();
    let server = |sandbox: &Sandbox| sandbox.wait_ready("shop/database-main", 1, LIMIT)[0];
    let (first, web) = (server(&sandbox), sandbox.status().ready_pids("shop/web"));

    // A release replaces programs and leaves the server alone.
    sandbox.up(&site("2"));
    assert_ne!(sandbox.status().ready_pids("shop/web"), web);
    assert_eq!(server(&sandbox), first);
    let control = sandbox.status().control_pid();
    sandbox.kill_hard(control);
    eventually("the next control", LIMIT, || {
        sandbox.try_status().is_some_and(|status| status.control_pid() != control)
    });
    assert_eq!(server(&sandbox), first);

    // Its own crash costs a moment, and no row that was committed.
    let before = count().unwrap();
    sandbox.kill_hard(first);
    let second = eventually_some("another server", LIMIT, || {
        sandbox.try_status()?.ready_pids("shop/database-main").pop().filter(|pid| *pid != first)
    });
    assert!(count().is_some_and(|now| now >= before));
    grows();
    assert_eq!(psql(&boss, "SHOW unix_socket_directories").unwrap(), "");
    assert_eq!(psql(&boss, "SHOW listen_addresses").unwrap(), "127.0.0.1");
    assert_eq!(
        psql(&url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").unwrap(),
        "f"
    );
    assert_never_holds(&sandbox.state(), &[password(&url).as_bytes(), password(&boss).as_bytes()]);

    // In every backup, proven, and brought back as its owner's.
    sandbox.run(["backup", "now", "--site", "shop"]).success().says(["VERIFIED"]);
    sandbox
        .run(["backup", "drill", "--site", "shop"])
        .success()
        .says(["passed", "nothing differs"]);
    let saved = count().unwrap();
    psql(&url, "DROP TABLE notes").unwrap();
    assert_eq!(count(), None);
    let restore =
        ["backup", "restore", "database.main", "--yes", "database.main", "--site", "shop"];
    let ids = sandbox.run(["backup", "list", "database.main", "--json", "--site", "shop"]).json();
    let id = ids["items"][0]["sets"][0]["set"]["id"].as_str().unwrap().to_owned();
    sandbox.run([&restore[..], &["--at", &id]].concat()).success();
    assert!(count().is_some_and(|now| now > 0 && now <= saved + 50));
    grows();
    psql(&url, "CREATE TABLE made_after_the_restore (id int)").unwrap();

    // It ends after the programs, cleanly, and its data stays.
    let rows = count().unwrap();
    assert_eq!(server(&sandbox), second);
    sandbox.run(["down", "shop"]).success();
    sandbox.wait_for_silence(LIMIT);
    sandbox.up(&site("2"));
    assert!(count().is_some_and(|now| now >= rows));
    grows();
}

#[test]
fn a_database_that_cannot_start_says_why_and_what_to_do_and_nothing_else_changes() {
    let more = "[database.main]\nengine = \"postgres\"\nmanaged = true\n";
    let sandbox = sandbox();
    let site = |version: &str| shop(version, "true", more);
    sandbox.up(&site("1"));
    let folder =
        sandbox.state().join("databases").join(sandbox.own_name("shop")).join("database.main");
    sandbox.run(["down", "shop"]).success();
    // Data of a version that is not installed.
    std::fs::write(folder.join("data/PG_VERSION"), "9\n").unwrap();
    let refused = sandbox.try_up(&site("2"));
    refused.code(1).says(["SW-DAT-001", "the data is of PostgreSQL 9", "apt install postgresql-9"]);
}

#[test]
fn mariadb_and_redis_are_run_for_a_site_and_come_back_from_a_backup() {
    let more = format!(
        "{}[database.main]\nengine = \"mariadb\"\nmanaged = true\n[redis.main]\nmanaged = true\n",
        writer("true")
    );
    let sandbox = sandbox();
    let site = shop("1", "test -n \"$DATABASE_URL\"", &more);
    sandbox.up(&site);
    let url = secret(&sandbox, "DATABASE_URL");
    let mariadb = |url: &str, sql: &str| {
        let rest = url.strip_prefix("mysql://").unwrap();
        let (login, place) = rest.split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (port, database) = place.strip_prefix("127.0.0.1:").unwrap().split_once('/').unwrap();
        let output = Command::new("mariadb")
            .args([
                "-h127.0.0.1",
                "-P",
                port,
                "-u",
                user,
                &format!("-p{password}"),
                "-N",
                "-e",
                sql,
                database,
            ])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    mariadb(&url, "CREATE TABLE notes (id int PRIMARY KEY) SELECT seq AS id FROM seq_1_to_500")
        .unwrap();
    assert_eq!(mariadb(&url, "SELECT count(*) FROM mysql.global_priv"), None, "no administrator");
    let redis_url = secret(&sandbox, "REDIS_URL");
    let redis = |words: &[&str]| {
        let output = Command::new("redis-cli")
            .args(["--no-auth-warning", "-u", &redis_url])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(redis(&["SET", "greeting", "hello"]), "OK");
    for server in ["database-main", "redis-main"] {
        let name = format!("shop/{server}");
        let first = sandbox.wait_ready(&name, 1, LIMIT)[0];
        sandbox.kill_hard(first);
        eventually("another server", LIMIT, || {
            let status = sandbox.try_status();
            status.is_some_and(|status| status.ready_pids(&name).iter().any(|pid| *pid != first))
        });
    }
    assert_eq!(mariadb(&url, "SELECT count(*) FROM notes").unwrap(), "500");
    assert_eq!(redis(&["GET", "greeting"]), "hello");
    let admin = secret(&sandbox, "DATABASE_MAIN_ADMIN_URL");
    let open = "SELECT count(*) FROM mysql.global_priv WHERE json_value(priv, '$.authentication_string') = '' AND json_value(priv, '$.plugin') <> 'unix_socket' AND json_value(priv, '$.account_locked') IS NULL";
    assert_eq!(mariadb(&admin, open).unwrap(), "0", "nobody comes in without a password");
    assert_never_holds(
        &sandbox.state(),
        &[password(&url).as_bytes(), password(&admin).as_bytes(), password(&redis_url).as_bytes()],
    );
    sandbox.run(["backup", "now", "--site", "shop"]).success().never_says("FAILED");
    sandbox.run(["backup", "drill", "--site", "shop"]).success().never_says("FAILED");
    mariadb(&url, "DELETE FROM notes WHERE id > 10").unwrap();
    assert_eq!(redis(&["FLUSHALL"]), "OK");
    for item in ["database.main", "redis.main"] {
        let ids = sandbox.run(["backup", "list", item, "--json", "--site", "shop"]).json();
        let id = ids["items"][0]["sets"][0]["set"]["id"].as_str().unwrap().to_owned();
        sandbox
            .run(["backup", "restore", item, "--yes", item, "--site", "shop", "--at", &id])
            .success();
    }
    assert_eq!(mariadb(&url, "SELECT count(*) FROM notes").unwrap(), "500");
    assert_eq!(redis(&["GET", "greeting"]), "hello");
}

#[test]
fn a_managed_database_comes_back_as_it_was_at_a_moment() {
    let more = "[database.main]\nengine = \"postgres\"\nmanaged = true\nbackup = { pitr = { every = \"1s\" } }\n";
    let migrate = "psql -qX \"$DATABASE_URL\" -c 'CREATE TABLE notes (id int)'";
    let sandbox = sandbox();
    sandbox.up(&shop("1", migrate, more));
    let url = secret(&sandbox, "DATABASE_URL");
    sandbox.run(["backup", "now", "--site", "shop"]).success().says(["database.main.log"]);
    psql(&url, "INSERT INTO notes SELECT generate_series(1, 100)").unwrap();
    let moment = "SELECT pg_sleep(0.01); SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'); SELECT pg_sleep(0.01)";
    let at = psql(&url, moment).unwrap();
    psql(&url, "DELETE FROM notes WHERE id > 7").unwrap();
    let at = at.trim();
    let restore = ["backup", "restore", "database.main", "--at", at, "--site", "shop"];
    sandbox
        .run([&restore[..], &["--yes", "database.main"]].concat())
        .success()
        .says(["kept as database"]);
    assert_eq!(psql(&url, "SELECT count(*) FROM notes").unwrap(), "100");
    // The log goes on in the stores by itself, and all of it can be played.
    eventually("the log is stored", LIMIT, || {
        psql(&url, "INSERT INTO notes VALUES (0)").unwrap();
        let list =
            sandbox.run(["backup", "list", "database.main.log", "--json", "--site", "shop"]).json();
        let sets = list["items"][0]["sets"].as_array().unwrap();
        sets.iter().any(|set| set["set"]["reason"] == "log")
    });
    sandbox
        .run(["backup", "drill", "database.main.log", "--site", "shop"])
        .success()
        .says(["passed"]);
    sandbox.run(["status"]).success().never_says("SW-BAK");
}

#[test]
fn a_release_goes_back_with_its_managed_database_row_for_row() {
    let more = "[deploy]\nwatch = false\n[database.main]\nengine = \"postgres\"\nmanaged = true\nbackup = { at = \"02:00\" }\n";
    let line = |sql: &str| format!("psql -qX -v ON_ERROR_STOP=1 \"$DATABASE_URL\" -c \"{sql}\"");
    let sandbox = sandbox();
    let deploy = |version: &str, migrate: &str| {
        let project = sandbox.write(&shop(version, migrate, more));
        sandbox.run(["deploy".as_ref(), project.as_os_str()])
    };
    let serves = || {
        let site = Site::new("shop");
        sandbox.https(&site).get("/env?name=VERSION").json()["value"].clone()
    };
    sandbox.up(&shop(
        "1",
        &line("CREATE TABLE notes AS SELECT generate_series(1, 500) AS id"),
        more,
    ));
    let url = secret(&sandbox, "DATABASE_URL");
    let content =
        || psql(&url, "SELECT count(*), md5(string_agg(n::text, ',' ORDER BY n)) FROM notes n");
    let (before, server) = (content(), sandbox.wait_ready("shop/database-main", 1, LIMIT));
    assert!(before.is_some());
    // Half of a migration, and then no more.
    let half = format!("{}; false", line("DELETE FROM notes WHERE id < 100"));
    deploy("2", &half).code(1).says(["SW-REL-002", "restore point of database.main"]);
    assert_ne!(content(), before);
    let back = ["rollback", "shop", "--with-database"];
    sandbox.run(back).code(1).says(["SW-BAK-012", "what was written in the"]);
    sandbox.run([&back[..], &["--yes"]].concat()).success().says(["backing up what is there now"]);
    assert_eq!((content(), serves()), (before.clone(), "1".into()));
    // A whole one, and what people wrote since.
    deploy("3", &line("ALTER TABLE notes ADD mail text")).success();
    psql(&url, "INSERT INTO notes VALUES (501, 'late')").unwrap();
    sandbox.run(["rollback", "shop"]).code(1).says(["SW-REL-009", "--with-database"]);
    sandbox.run([&back[..], &["--yes"]].concat()).success();
    assert_eq!((content(), serves()), (before, "1".into()));
    // Its server went on all the while, and the application may write as before.
    assert_eq!(sandbox.wait_ready("shop/database-main", 1, LIMIT), server);
    psql(&url, "INSERT INTO notes VALUES (502)").unwrap();
    sandbox.run(["status"]).success().never_says("SW-BAK");
}

/// Everything above as a user who may change to no other: where root runs the tests, they are run once more as nobody.
#[test]
fn a_plain_user_gets_managed_databases_as_well() {
    let Some((uid, gid)) = unprivileged() else { return };
    let place = Place::new();
    let mut again = Command::new("setpriv");
    again.args([&format!("--reuid={uid}"), &format!("--regid={gid}")]);
    again.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    again.arg(std::env::current_exe().unwrap()).args(["--exact", "--test-threads=1"]);
    again.args([
        "database::postgres_is_run_for_a_site_survives_crashes_and_releases_and_comes_back_from_a_backup",
        "database::mariadb_and_redis_are_run_for_a_site_and_come_back_from_a_backup",
    ]);
    // Nobody builds.
    let sandbox = sandbox();
    again.env("SEAWORTHY_FAKEAPP", sandbox.fakeapp());
    let output = again.env("HOME", place.path()).env("TMPDIR", place.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
}
