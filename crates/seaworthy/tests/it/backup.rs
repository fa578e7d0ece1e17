//! `backup`: a database is lost and comes back, and what is said of it meanwhile.

use std::fs;

use seaworthy_testkit::peers::Postgres;
use seaworthy_testkit::{FakeApp, Sandbox, Site, eventually};

use crate::{LIMIT, sandbox};

/// A site whose database is on that server.
fn site(sandbox: &Sandbox, server: &Postgres) -> Site {
    let second = sandbox.folder().join("second").display().to_string();
    let more = "[database.main]\nengine = \"postgres\"\nurl = \"secret:DATABASE_URL\"\nbackup = { at = \"02:00\", to = [\"local\", \"second\"], rpo = \"24h\", rto = \"1h\", drill = { sql = [\"SELECT count(*) = 1000 FROM users\"] } }\n[store.second]\nurl = \"file://SECOND\"";
    let site = Site::new("shop").app("web", FakeApp::new()).more(&more.replace("SECOND", &second));
    let project = sandbox.write(&site);
    let file = project.join(".env");
    fs::write(&file, format!("DATABASE_URL={}\n", server.url("shop"))).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    site
}

fn fill(server: &Postgres) {
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE users (id serial PRIMARY KEY, name text); INSERT INTO users (name) SELECT 'u' || n FROM generate_series(1, 1000) n");
}

#[test]
fn a_lost_database_comes_back_with_the_owners_key_and_nothing_is_called_verified_that_is_not() {
    let server = Postgres::start();
    fill(&server);
    let sandbox = sandbox();
    let site = site(&sandbox, &server);
    sandbox.up(&site);
    let now = sandbox.run(["backup", "now", "--site", "shop"]);
    now.success()
        .says(["AGE-SECRET-KEY-1", "local VERIFIED, second VERIFIED"])
        .never_says("s3cr:t/@");
    let key = now
        .raw_stderr()
        .split_whitespace()
        .find(|word| word.starts_with("AGE-SECRET-KEY-1"))
        .unwrap()
        .to_owned();
    sandbox.run(["backup", "now", "--site", "shop"]).success().never_says("AGE-SECRET-KEY-1");
    for folder in [sandbox.state(), sandbox.folder().join("second")] {
        assert_never_holds(&folder, &[key.as_bytes(), b"s3cr:t/@"]);
    }
    sandbox
        .run(["backup", "drill", "--site", "shop"])
        .success()
        .says(["passed", "1000 rows compared, nothing differs"]);
    sandbox.run(["backup", "list", "--site", "shop"]).success().says(["passed", "of 1d", "of 1h"]);
    let ids = sandbox.run(["backup", "list", "database.main", "--json", "--site", "shop"]).json();
    let id = ids["items"][0]["sets"][0]["set"]["id"].as_str().unwrap().to_owned();

    // Without a word nothing live is replaced; with it the old content stays beside.
    let refused = sandbox.run(["backup", "restore", "database.main", "--site", "shop"]);
    refused.code(1).says(["SW-BAK-012", "--yes database.main", "--into NAME"]);
    server.sql("shop", "DELETE FROM users WHERE id > 10");
    let restore = |more: &[&str]| {
        let words =
            ["backup", "restore", "database.main", "--yes", "database.main", "--site", "shop"];
        sandbox.run([&words, more].concat())
    };
    restore(&["--at", &id]).success().says(["kept as database shop_before_", "made just before"]);
    assert_eq!(server.sql("shop", "SELECT count(*) FROM users"), "1000");

    // The server's own key is lost with the server: the owner's opens it, and nothing else does.
    server.sql("postgres", "DROP DATABASE shop WITH (FORCE)");
    fs::remove_file(sandbox.state().join("backups/drill.key")).unwrap();
    restore(&["--at", &id]).code(1).says(["SW-BAK-005", "--identity FILE"]);
    let file = sandbox.folder().join("owner.txt");
    fs::write(&file, key).unwrap();
    restore(&["--at", &id, "--store", "second", "--identity", &file.display().to_string()])
        .success();
    assert_eq!(server.sql("shop", "SELECT count(*) FROM users"), "1000");

    // One flipped byte in one store: found, named, in `status`, and the other copy still counts.
    let part = sandbox
        .folder()
        .join("second")
        .join(sandbox.own_name("shop"))
        .join(format!("database.main/{id}/database.dump.zst.age"));
    let mut bytes = fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, bytes).unwrap();
    sandbox.run(["backup", "verify", "--site", "shop"]).code(1).says([
        "DAMAGED",
        "SW-BAK-004",
        "in `second`",
    ]);
    sandbox.run(["status"]).success().says(["SW-BAK-004"]);
    let list = sandbox.run(["backup", "list", "database.main", "--json", "--site", "shop"]).json();
    let sets = list["items"][0]["sets"].as_array().unwrap();
    let set = sets.iter().find(|set| set["set"]["id"] == id.as_str()).unwrap();
    let state = |at: usize| set["copies"][at][1]["state"].as_str().unwrap().to_owned();
    assert_eq!(
        (state(0).as_str(), state(1).as_str()),
        ("VERIFIED", "DAMAGED"),
        "no two stores share a file"
    );
}

#[test]
fn the_files_open_with_age_zstd_and_the_databases_own_tools_alone() {
    let server = Postgres::start();
    fill(&server);
    let sandbox = sandbox();
    sandbox.up(&site(&sandbox, &server));
    let now = sandbox.run(["backup", "now", "--site", "shop"]);
    let key = now
        .success()
        .raw_stderr()
        .split_whitespace()
        .find(|word| word.starts_with("AGE-SECRET-KEY-1"))
        .unwrap()
        .to_owned();
    let file = sandbox.folder().join("owner.txt");
    fs::write(&file, key).unwrap();
    let how = sandbox.run(["backup", "list", "--how", "--site", "shop"]);
    let line = how
        .success()
        .raw_stdout()
        .lines()
        .find(|line| line.contains("pg_restore"))
        .unwrap()
        .to_owned();
    // As printed, but for the key's file, the name that this sandbox gives its site, and where it goes.
    let line = line
        .replace("KEY", &file.display().to_string())
        .replace("/shop/", &format!("/{}/", sandbox.own_name("shop")));
    let line = line.replace("pg_restore --no-owner -d shop", "pg_restore --no-owner -f -");
    let output = std::process::Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {line}")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let holds = |words: &str| assert!(text.contains(words), "`{words}` is missing: {line}");
    holds("CREATE TABLE \"public\".\"users\"");
    holds("1000\tu1000");
}

#[test]
fn a_migration_has_a_restore_point_right_before_it_and_what_is_declared_is_backed_up_and_drilled_unasked()
 {
    let server = Postgres::start();
    fill(&server);
    let sandbox = sandbox();
    let migrate = "migrate = { shell = \"echo migrated\" }";
    let app = |version: &str| {
        FakeApp::new().key(migrate).key(&format!("env = {{ VERSION = \"{version}\" }}"))
    };
    let more = "[database.main]\nengine = \"postgres\"\nurl = \"secret:DATABASE_URL\"\nbackup = { every = \"1m\" }";
    let site = |version: &str| {
        Site::new("shop").app("web", app(version)).more(more).file("version", version)
    };
    let project = sandbox.write(&site("1"));
    let file = project.join(".env");
    fs::write(&file, format!("DATABASE_URL={}\n", server.url("shop"))).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    sandbox.up(&site("1")).never_says("restore point");
    sandbox.up(&site("2")).says(["restore point of database.main: 20"]);
    let sets =
        || sandbox.run(["backup", "list", "--json", "--site", "shop"]).json()["items"][0].clone();
    assert_eq!(
        sets()["sets"].as_array().unwrap().last().unwrap()["set"]["reason"],
        "before-migration"
    );
    // Nobody asked: the clock sees to the drill that follows the first backup.
    eventually("a drill that nobody asked for", LIMIT, || {
        sets()["last_drill"]["fault"].is_null() && !sets()["last_drill"].is_null()
    });
    server.sql("postgres", "ALTER ROLE boss PASSWORD 'changed'");
    let refused = sandbox.try_up(&site("3"));
    refused.code(1).says([
        "no restore point of `database.main`",
        "SW-BAK-002",
        "password authentication failed",
    ]);
    sandbox.run(["status"]).says(["SW-BAK-002"]);
}

/// Ends the test when a file below the folder holds one of the texts.
pub(crate) fn assert_never_holds(folder: &std::path::Path, texts: &[&[u8]]) {
    use std::os::unix::ffi::OsStrExt;
    let mut grep = std::process::Command::new("grep");
    grep.args([
        "--recursive",
        "--files-with-matches",
        "--text",
        "--fixed-strings",
        "--no-messages",
    ]);
    for text in texts {
        grep.arg("-e").arg(std::ffi::OsStr::from_bytes(text));
    }
    let found = grep.arg(folder).output().unwrap();
    // A file that goes away meanwhile is an error to grep, and none to us.
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}
