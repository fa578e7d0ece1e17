//! Going back behind a migration: what is in the databases afterwards, row for row.

use std::fs;

use seaworthy_testkit::load::Load;
use seaworthy_testkit::peers::{MariaDb, Postgres};
use seaworthy_testkit::{FakeApp, Output, Sandbox, Site, eventually, eventually_some};

use crate::{LIMIT, sandbox, shop};

/// Three real databases of one site.
struct Scene {
    postgres: Postgres,
    mariadb: MariaDb,
    sandbox: Sandbox,
}

/// What each database holds.
#[derive(Debug, PartialEq, Eq)]
struct Content([String; 3]);

impl Scene {
    fn new() -> Self {
        let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
        postgres.sql("postgres", "CREATE DATABASE shop");
        postgres.sql("shop", "CREATE TABLE users (id serial PRIMARY KEY, name text); INSERT INTO users (name) SELECT 'u' || n FROM generate_series(1, 500) n");
        mariadb.sql("CREATE DATABASE shop; USE shop; CREATE TABLE orders (id int PRIMARY KEY, what text); INSERT INTO orders SELECT seq, concat('o', seq) FROM seq_1_to_500");
        Self { postgres, mariadb, sandbox: sandbox() }
    }

    /// A release of that level, with something to migrate.
    fn site(&self, level: &str, migrate: &str) -> Site {
        let keys = format!(
            "instances = 2\nenv = {{ LEVEL = \"{level}\", PG = \"secret:PG\", MY = \"secret:MY\" }}\nmigrate = {migrate}"
        );
        let backup = "backup = { at = \"02:00\" }";
        let more = format!(
            "[deploy]\nwatch = false\n[database.main]\nengine = \"postgres\"\nurl = \"secret:PG\"\n{backup}\n[database.orders]\nengine = \"mariadb\"\nurl = \"secret:MY\"\n{backup}\n[database.notes]\nengine = \"sqlite\"\npath = \"$DATA/notes.db\"\n{backup}"
        );
        let site = Site::new("shop").app("web", FakeApp::new().key(&keys)).more(&more);
        let site = site.file("level", level);
        let project = self.sandbox.write(&site);
        let file = project.join(".env");
        let urls = format!("PG={}\nMY={}\n", self.postgres.url("shop"), self.mariadb.url("shop"));
        fs::write(&file, urls).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        site
    }

    fn deploy(&self, site: &Site) -> Output {
        let project = self.sandbox.write(site);
        self.sandbox.run(["deploy".as_ref(), project.as_os_str()])
    }

    fn notes(&self) -> std::path::PathBuf {
        self.sandbox.state().join("data").join(self.sandbox.own_name("shop")).join("notes.db")
    }

    /// What is written by people who use the site.
    fn write(&self, number: u32) {
        self.postgres.sql("shop", &format!("INSERT INTO users (name) VALUES ('late {number}')"));
        self.mariadb.sql(&format!("INSERT INTO shop.orders VALUES ({number}, 'late')"));
        sqlite(&self.notes(), &format!("INSERT INTO notes VALUES ('late {number}')"));
    }

    fn content(&self) -> Content {
        let notes = sqlite(&self.notes(), ".dump");
        Content([self.postgres.content("shop"), self.mariadb.content("shop"), notes])
    }

    fn served(&self) -> String {
        let answer = self.sandbox.https(&shop()).get("/env?name=LEVEL").json();
        answer["value"].as_str().unwrap_or_default().to_owned()
    }

    fn last(&self) -> serde_json::Value {
        eventually_some("every deployment has an ending", LIMIT, || {
            let found = self.sandbox.run(["releases", "shop", "--json"]);
            let found: serde_json::Value = serde_json::from_str(found.raw_stdout()).ok()?;
            let over = ["live", "failed", "taken back", "aborted"];
            let last = found["deployments"][0].clone();
            over.iter().any(|word| last["state"] == *word).then_some(last)
        })
    }
}

fn sqlite(path: &std::path::Path, sql: &str) -> String {
    let output = std::process::Command::new("sqlite3").arg(path).arg(sql).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const FIRST: &str = "{ shell = \"sqlite3 $DATA/notes.db 'CREATE TABLE notes (text); INSERT INTO notes VALUES (1)'\" }";

/// Changes all three, and fails when the work is half done.
const HALF: &str = "[{ shell = \"psql -q ${PG%%[?]*} -c 'DELETE FROM users WHERE id < 100; ALTER TABLE users DROP COLUMN name'\" }, { shell = \"sqlite3 $DATA/notes.db 'DROP TABLE notes; CREATE TABLE other (text)'\" }, \"false\"]";

#[test]
fn a_migration_that_failed_half_way_is_taken_back_row_for_row_with_the_database() {
    let scene = Scene::new();
    let sandbox = &scene.sandbox;
    sandbox.up(&scene.site("one", FIRST));
    scene.write(1000);
    let before = scene.content();
    scene.deploy(&scene.site("two", HALF)).code(1).says([
        "SW-REL-002",
        "restore point of database.main",
        "restore point of database.orders",
        "restore point of database.notes",
    ]);
    assert_ne!(scene.content(), before);
    sandbox.run(["rollback", "shop", "--with-database"]).code(1).says([
        "what was written in the",
        "SW-BAK-012",
        "--yes",
    ]);
    sandbox.run(["rollback", "shop", "--with-database", "--plan"]).success().says([
        "everything ends",
        "database.main  back to",
        "is lost",
    ]);
    assert_ne!(scene.content(), before, "nothing was done yet");
    // What was written since the restore point is what is lost, and it is in the fresh backup.
    let running =
        Load::new(sandbox.target(&shop())).mixed(20.0).start(std::time::Duration::from_secs(120));
    eventually("load flows", LIMIT, || running.so_far().ok() > 10);
    scene.mariadb.sql("INSERT INTO shop.orders VALUES (2000, 'after the restore point')");
    sandbox
        .run(["rollback", "shop", "--with-database", "--yes"])
        .success()
        .says(["ending all that runs; requests wait", "backing up what is there now"]);
    assert_eq!(scene.content(), before);
    assert_eq!(scene.served(), "one");
    let answered = running.so_far().ok();
    eventually("load goes on", LIMIT, || running.so_far().ok() > answered + 10);
    running.stop().assert_clean();
    let sets = sandbox.run(["backup", "list", "database.orders", "--site", "shop", "--json"]);
    let sets: serde_json::Value = serde_json::from_str(sets.success().raw_stdout()).unwrap();
    let sets = sets["items"][0]["sets"].as_array().unwrap();
    let reasons: Vec<&serde_json::Value> = sets.iter().map(|one| &one["set"]["reason"]).collect();
    assert_eq!(reasons, ["before-restore", "before-migration"]);
    sandbox.run(["releases", "shop"]).success().says(["* r1-"]);
    sandbox.run(["rollback", "shop", "--with-database", "--yes"]).code(1).says(["SW-REL-008"]);
    // The way forward is open.
    scene
        .deploy(&scene.site(
            "three",
            "{ shell = \"psql -q ${PG%%[?]*} -c 'ALTER TABLE users ADD mail text'\" }",
        ))
        .success();
    assert_eq!(scene.served(), "three");
    sandbox.run(["rollback", "shop"]).code(1).says(["SW-REL-009", "--with-database"]);
    sandbox.run(["rollback", "shop", "--with-database", "--yes"]).success();
    assert_eq!((scene.content(), scene.served()), (before, "one".to_owned()));
    // Its migration was taken back: the same files are a release that has to migrate again.
    scene
        .deploy(&scene.site(
            "three",
            "{ shell = \"psql -q ${PG%%[?]*} -c 'ALTER TABLE users ADD mail text'\" }",
        ))
        .success();
    scene.postgres.sql("shop", "SELECT mail FROM users LIMIT 1");
}

#[test]
fn of_control_while_databases_come_back_ends_with_all_of_them_back_and_the_release_that_fits() {
    let scene = Scene::new();
    let trigger = scene.sandbox.folder().join("crash");
    let scene = Scene {
        sandbox: scene.sandbox.env("SEAWORTHY_CRASH_FILE", &trigger.display().to_string()),
        ..scene
    };
    let sandbox = &scene.sandbox;
    sandbox.up(&scene.site("one", FIRST));
    let before = scene.content();
    let migrate = "[{ shell = \"psql -q ${PG%%[?]*} -c 'DELETE FROM users'\" }, { shell = \"sqlite3 $DATA/notes.db 'DELETE FROM notes'\" }]";
    let places = [
        "start:done",
        "restore:before",
        "restore:done",
        "restore:after",
        "switch:done",
        "keep:done",
    ];
    for (number, place) in places.iter().enumerate() {
        let level = format!("later-{number}");
        scene.deploy(&scene.site(&level, migrate)).success();
        let after = scene.content();
        assert_ne!(after, before);
        fs::write(&trigger, place).unwrap();
        let control = sandbox.status().control_pid();
        sandbox.run(["rollback", "shop", "--to", "r1", "--with-database", "--yes"]);
        assert!(!trigger.exists(), "{place} was never reached");
        eventually("the next control answers", LIMIT, || {
            sandbox.try_status().is_some_and(|status| status.control_pid() != control)
        });
        let last = scene.last();
        sandbox.wait_ready("shop/web", 2, LIMIT);
        let (data, code) =
            if last["state"] == "live" { (&before, "one") } else { (&after, &*level) };
        assert_eq!(scene.served(), code, "killed at {place}: {last:#}");
        assert_eq!(&scene.content(), data, "killed at {place}: {last:#}");
        if last["state"] != "live" {
            sandbox.run(["rollback", "shop", "--to", "r1", "--with-database", "--yes"]).success();
        }
        assert_eq!(
            (scene.content(), scene.served()),
            (Content(before.0.clone()), "one".to_owned())
        );
    }
}

#[test]
fn where_the_release_can_take_its_migration_back_a_rollback_lets_it() {
    let scene = Scene::new();
    let sandbox = &scene.sandbox;
    let migrate = |up: &str, down: &str| {
        format!(
            "{{ up = {{ shell = \"{up}\" }}, down = {down}, status = {{ shell = \"sqlite3 $DATA/notes.db .schema\" }} }}"
        )
    };
    let first = migrate("sqlite3 $DATA/notes.db 'CREATE TABLE notes (text)'", "\"true\"");
    let second = migrate(
        "sqlite3 $DATA/notes.db 'ALTER TABLE notes ADD mail'",
        "{ shell = \"sqlite3 $DATA/notes.db 'ALTER TABLE notes DROP mail'\" }",
    );
    sandbox.up(&scene.site("one", &first));
    scene.write(1000);
    let before = scene.content();
    scene.deploy(&scene.site("two", &second)).success();
    scene.postgres.sql("shop", "INSERT INTO users (name) VALUES ('kept')");
    sandbox
        .run(["rollback", "shop", "--plan"])
        .success()
        .says(["taken back by", "ALTER TABLE notes DROP mail"]);
    sandbox.run(["rollback", "shop"]).success().says(["restore point of database.notes"]);
    assert_eq!(scene.served(), "one");
    let after = scene.content();
    assert_eq!(after.0[1..], before.0[1..]);
    assert!(after.0[0].contains("kept") && !before.0[0].contains("kept"));
    // One that does not do what it says is noticed, and nothing of it stays.
    let broken = migrate(
        "sqlite3 $DATA/notes.db 'ALTER TABLE notes ADD phone'",
        "{ shell = \"sqlite3 $DATA/notes.db 'DELETE FROM notes'\" }",
    );
    scene.deploy(&scene.site("three", &broken)).success();
    let three = scene.content();
    sandbox.run(["rollback", "shop"]).code(1).says(["SW-REL-002", "`migrate.status` says so"]);
    assert_eq!((scene.content(), scene.served()), (three, "three".to_owned()));
}

#[test]
fn of_control_at_each_step_of_taking_a_migration_back_leaves_code_and_data_that_fit() {
    let sandbox = sandbox();
    let trigger = sandbox.folder().join("crash");
    let sandbox = sandbox.env("SEAWORTHY_CRASH_FILE", &trigger.display().to_string());
    let site = |level: &str, up: &str, down: &str| {
        let keys = format!(
            "env = {{ LEVEL = \"{level}\" }}\nmigrate = {{ up = {{ shell = \"sqlite3 $DATA/notes.db '{up}'\" }}, down = {{ shell = \"sqlite3 $DATA/notes.db '{down}'\" }} }}"
        );
        let more = "[deploy]\nwatch = false\n[database.notes]\nengine = \"sqlite\"\npath = \"$DATA/notes.db\"\nbackup = { at = \"02:00\" }\n";
        Site::new("shop").app("web", FakeApp::new().key(&keys)).more(more).file("level", level)
    };
    sandbox.up(&site("one", "CREATE TABLE notes (text)", "DROP TABLE notes"));
    let notes = sandbox.state().join("data").join(sandbox.own_name("shop")).join("notes.db");
    let served = || sandbox.https(&shop()).get("/env?name=LEVEL").json()["value"].clone();
    let columns = || sqlite(&notes, "SELECT group_concat(name) FROM pragma_table_info('notes')");
    let places = [
        "start:before",
        "start:done",
        "start:after",
        "restore-point:before",
        "restore-point:done",
        "restore-point:after",
        "restore:before",
        "restore:done",
        "restore:after",
        "switch:before",
        "switch:done",
        "gate:before",
        "keep:before",
        "keep:done",
        "closed",
    ];
    for (number, place) in places.iter().enumerate() {
        let (level, column) = (format!("later-{number}"), format!("more{number}"));
        let up = format!("ALTER TABLE notes ADD {column}");
        let down = format!("ALTER TABLE notes DROP {column}");
        let project = sandbox.write(&site(&level, &up, &down));
        sandbox.run(["deploy".as_ref(), project.as_os_str()]).success();
        sqlite(&notes, &format!("INSERT INTO notes (text) VALUES ('{number}')"));
        fs::write(&trigger, place).unwrap();
        let control = sandbox.status().control_pid();
        sandbox.run(["rollback", "shop", "--to", "r1"]);
        assert!(!trigger.exists(), "{place} was never reached");
        eventually("the next control answers", LIMIT, || {
            sandbox.try_status().is_some_and(|status| status.control_pid() != control)
        });
        let last = eventually_some("it has an ending", LIMIT, || {
            let found = sandbox.run(["releases", "shop", "--json"]);
            let found: serde_json::Value = serde_json::from_str(found.raw_stdout()).ok()?;
            let over = ["live", "failed", "taken back", "aborted"];
            let last = found["deployments"][0].clone();
            over.iter().any(|word| last["state"] == *word).then_some(last)
        });
        sandbox.wait_ready("shop/web", 1, LIMIT);
        let (code, data) = if last["state"] == "live" {
            ("one", "text\n".to_owned())
        } else {
            (&*level, format!("text,{column}\n"))
        };
        assert_eq!(served(), code, "killed at {place}: {last:#}");
        assert_eq!(columns(), data, "killed at {place}: {last:#}");
        if last["state"] != "live" {
            sandbox.run(["rollback", "shop", "--to", "r1"]).success();
        }
        assert_eq!((served(), columns()), ("one".into(), "text\n".to_owned()), "after {place}");
    }
    let rows = sqlite(&notes, "SELECT count(*) FROM notes");
    assert_eq!(rows, format!("{}\n", places.len()), "what was written stays");
}
