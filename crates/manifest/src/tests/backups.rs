//! `[database.X]`, `[redis.X]`, `[files.X]`, `[store.X]`, `zone`.

use std::time::Duration;

use super::{messages, try_parse};
use crate::site::EnvValue;
use crate::site::backups::{Place, Rhythm, Source};

const SITE: &str = "site = \"shop\"\n[service.web]\nrun = \"x\"\n";

#[test]
fn what_the_guides_write_is_understood() {
    let text = format!("zone = \"Europe/Berlin\"\n{SITE}
[database.main]
engine = \"postgres\"
url = \"secret:DATABASE_URL\"
backup = {{ at = \"02:30\", keep = {{ daily = 30 }}, to = [\"local\", \"offsite\"], drill = \"monthly\", rpo = \"24h\", rto = \"1h\" }}
[database.users]
engine = \"mariadb\"
url = \"secret:BACKUP_URL\"
databases = \"finiaDB_%\"
backup = {{ every = \"6h\", drill = {{ every = \"3d\", sql = [\"SELECT 1\"] }} }}
[redis.main]
url = \"redis://localhost\"
[files.config]
paths = [\"cfg\"]
backup = {{}}
[store.offsite]
url = \"s3://backups/shop/production/\"
key = \"secret:AWS_KEY\"
secret = \"secret:AWS_SECRET\"
[store.nas]
url = \"sftp://backup@nas.example.com:2222//srv/finia\"
");
    let backups = try_parse(&text).unwrap().backups;
    let main = &backups.items["database.main"];
    assert_eq!(
        main.source,
        Source::Postgres { url: EnvValue::Secret("DATABASE_URL".to_owned()), databases: None }
    );
    let rules = main.backup.as_ref().unwrap();
    assert_eq!((rules.rhythm, rules.keep.daily, rules.keep.weekly), (Rhythm::At(150), 30, 0));
    assert_eq!(
        (rules.drill, rules.rto),
        (Some(Duration::from_secs(30 * 86_400)), Some(Duration::from_secs(3600)))
    );
    let users = backups.items["database.users"].backup.as_ref().unwrap();
    assert_eq!(users.rhythm, Rhythm::Every(Duration::from_secs(6 * 3600)));
    assert_eq!(users.drill_sql, ["SELECT 1"]);
    assert!(backups.items["redis.main"].backup.is_none());
    assert_eq!(backups.items["files.config"].backup.as_ref().unwrap().rhythm, Rhythm::At(120));
    assert!(
        matches!(&backups.stores["offsite"].place, Place::S3 { bucket, prefix, .. } if bucket == "backups" && prefix == "shop/production")
    );
    assert!(
        matches!(&backups.stores["nas"].place, Place::Sftp { port: 2222, path, .. } if path == "/srv/finia")
    );
}

#[test]
fn every_mistake_is_reported_at_its_place_with_what_to_write_instead() {
    for (text, place, message) in [
        ("[database.a]\nengine = \"postgress\"\nurl = \"x\"", "4:10", "is no engine that is known"),
        ("[database.a]\nurl = \"secret:U\"", "4:1", "does not say which `engine`"),
        ("[database.a]\nengine = \"sqlite\"", "4:10", "needs `path`"),
        ("[database.a]\nengine = \"mysql\"", "4:10", "needs `url`"),
        ("[files.a]\npaths = [\"../etc\"]", "4:10", "is no path that can be backed up"),
        ("[files.a]\npaths = [\"x\"]\nbackup = { at = \"2:00\" }", "5:17", "is no time of day"),
        ("[files.a]\npaths = [\"x\"]\nbackup = { at = \"24:00\" }", "5:17", "is no time of day"),
        (
            "[files.a]\npaths = [\"x\"]\nbackup = { at = \"02:00\", every = \"1h\" }",
            "5:34",
            "exclude each other",
        ),
        (
            "[files.a]\npaths = [\"x\"]\nbackup = { to = [\"nowhere\"] }",
            "5:18",
            "there is no store",
        ),
        (
            "[files.a]\npaths = [\"x\"]\nbackup = { keep = {} }",
            "5:19",
            "would keep the newest backup only",
        ),
        (
            "[files.a]\npaths = [\"x\"]\nbackup = { drill = \"sometimes\" }",
            "5:20",
            "is no duration",
        ),
        ("[store.a]\nurl = \"gs://bucket\"", "4:7", "planned"),
        ("[store.a]\nurl = \"ftp://host/x\"", "4:7", "incomplete"),
        ("[store.a]\nurl = \"sftp://-oProxyCommand=x@host/x\"", "4:7", "incomplete"),
        ("[store.a]\nurl = \"file://relative\"", "4:7", "incomplete"),
        (
            "[store.a]\nurl = \"file:///x\"\nencrypt = [\"AGE-SECRET-KEY-1ABC\"]",
            "5:12",
            "is no age recipient",
        ),
        ("[store.local]\nurl = \"file:///x\"", "3:8", "always there"),
    ] {
        let found = messages(&format!("[service.web]\nrun = \"x\"\n{text}\n"));
        let [only] = &found[..] else { panic!("{text}: {found:?}") };
        assert!(only.contains(message), "{text}: {only}");
        assert!(only.starts_with(place) || place == "3:8", "{text}: {only}");
    }
    let zone = messages("zone = \"Middle/Earth\"\n[service.web]\nrun = \"x\"\n");
    assert!(zone[0].contains("`Middle/Earth` is no time zone"), "{zone:?}");
}

#[test]
fn the_log_of_a_server_is_an_item_beside_it() {
    let text = format!(
        "{SITE}[database.main]\nengine = \"postgres\"\nurl = \"secret:U\"\nbackup = {{ to = [\"local\"], pitr = {{ keep = \"3d\", every = \"10s\" }} }}\n[database.other]\nurl = \"postgres://h/x\"\nbackup = {{ pitr = false }}"
    );
    let items = try_parse(&text).unwrap().backups.items;
    assert_eq!(
        items.keys().collect::<Vec<_>>(),
        ["database.main", "database.main.log", "database.other"]
    );
    let log = items["database.main.log"].backup.as_ref().unwrap();
    assert_eq!(log.rhythm, Rhythm::Every(Duration::from_secs(86_400)));
    let pitr = log.pitr.unwrap();
    assert_eq!((pitr.keep.as_secs(), pitr.every.as_secs()), (3 * 86_400, 10));
    for text in [
        "[database.a]\nengine = \"mysql\"\nurl = \"mysql://h/x\"\nbackup = { pitr = true }",
        "[redis.a]\nurl = \"redis://h\"\nbackup = { pitr = true }",
        "[files.a]\npaths = [\"x\"]\nbackup = { pitr = true }",
    ] {
        let found = messages(&format!("{SITE}{text}\n"));
        assert!(found.len() == 1 && found[0].contains("PostgreSQL only"), "{found:?}");
    }
}

#[test]
fn a_managed_server_is_backed_up_and_its_url_is_a_secret_that_is_made() {
    let text = format!(
        "{SITE}after = [\"database.main\"]\n[database.main]\nengine = \"postgres\"\nmanaged = true\n[database.old-one]\nengine = \"mariadb\"\nmanaged = true\n[redis.cache]\nmanaged = true\nurl = \"secret:CACHE\"\n[redis.other]\nmanaged = false\nurl = \"redis://h\""
    );
    let backups = try_parse(&text).unwrap().backups;
    let secret = |name: &str| EnvValue::Secret(name.to_owned());
    let url = |item: &str| match &backups.items[item].source {
        Source::Postgres { url, .. } | Source::Mysql { url, .. } | Source::Redis { url } => {
            url.clone()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(url("database.main"), secret("DATABASE_URL"));
    assert_eq!(url("database.old-one"), secret("OLD_ONE_DATABASE_URL"));
    assert_eq!(url("redis.cache"), secret("CACHE"));
    let names: Vec<&str> = backups.managed().map(|(name, _)| name).collect();
    assert_eq!(names, ["database.main", "database.old-one", "redis.cache"]);
    assert!(backups.items["database.main"].backup.is_some());
    for (text, message) in [
        (
            "[database.a]\nengine = \"postgres\"\nmanaged = true\nurl = \"postgres://h/x\"",
            "is made",
        ),
        ("[database.a]\nengine = \"sqlite\"\nmanaged = true", "has no server"),
        ("[database.a]\nengine = \"mysql\"\nmanaged = true\ndatabases = \"*\"", "one database"),
        (
            "[service.database-a]\nrun = \"y\"\n[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[database.a]\nengine = \"mysql\"\nmanaged = true",
            "has this name",
        ),
        ("[database.a]\nengine = \"mysql\"\nmanaged = \"yes\"", "true or false"),
    ] {
        let found = messages(&format!("{SITE}{text}\n"));
        let [only] = &found[..] else { panic!("{text}: {found:?}") };
        assert!(only.contains(message), "{text}: {only}");
    }
}

#[test]
fn a_url_with_a_password_is_never_shown() {
    let text = "[service.web]\nrun = \"x\"\n[database.a]\nurl = \"postgres://u:hunter2@h/db\"\npath = \"/x\"\n[store.s]\nurl = \"sftp://u:hunter2@h/x\"\nsecret = \"secret:hunter2\"\n";
    let report = try_parse(text).unwrap_err().render(false);
    assert!(!report.contains("hunter2"), "{report}");
}
