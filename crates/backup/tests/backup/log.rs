//! PostgreSQL to any moment: what was committed before it is there, and nothing else.

use seaworthy_backup::{Action, Drilled, Event, RestoreTarget, Restored, Source};
use seaworthy_base::{Code, Timestamp};
use seaworthy_testkit::peers::{POSTGRES_18, Postgres};

use crate::platform::{Platform, Worker};

const ITEM: &str = "database.main";
const LOG: &str = "database.main.log";

fn log_of(server: &Postgres) -> Source {
    Source::PostgresLog { url: server.url("shop") }
}

/// Says when it was, after what was committed before and before what is committed after.
fn moment(server: &Postgres) -> Timestamp {
    let sql = "SELECT pg_sleep(0.005); SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint; SELECT pg_sleep(0.005)";
    let text = server.sql("shop", sql);
    Timestamp(text.lines().find_map(|line| line.trim().parse().ok()).unwrap())
}

fn follower(platform: &Platform, server: &Postgres) -> Worker {
    let mut follower = platform.start(LOG, &log_of(server), Action::Follow { every_ms: 200 });
    follower.until("following the log");
    follower
}

/// Reads on until everything up to that moment is stored.
fn stored(follower: &mut Worker, platform: &Platform, server: &Postgres, at: Timestamp) {
    loop {
        follower.until("the log is stored up to");
        let report = platform.list(LOG, &log_of(server));
        let until =
            |set: &seaworthy_backup::Set| set.databases[0].settings.get("until")?.parse().ok();
        let newest: Option<u64> = report.sets.iter().filter_map(|set| until(&set.set)).max();
        if newest.is_some_and(|newest| newest >= at.0) {
            return;
        }
        server.sql("shop", "INSERT INTO noise DEFAULT VALUES");
    }
}

fn back(platform: &Platform, server: &Postgres, at: Timestamp, target: RestoreTarget) -> Restored {
    let source = Source::Postgres { url: server.url("shop"), databases: None };
    platform.run(ITEM, &source, restore(at, target))
}

fn restore(at: Timestamp, target: RestoreTarget) -> Action {
    Action::Restore { set: None, at: Some(at), store: None, target, identity: None }
}

#[test]
fn a_database_comes_back_as_it_was_between_two_inserts() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE ROLE app LOGIN");
    server.sql("postgres", "CREATE DATABASE shop OWNER app");
    server.sql(
        "shop",
        "CREATE TABLE t (v int); CREATE TABLE noise (id serial); INSERT INTO t VALUES (0)",
    );
    let mut platform = Platform::new();
    platform.log = Some(LOG.to_owned());
    let mut following = follower(&platform, &server);
    let before = moment(&server);
    let base = platform.take(LOG, &log_of(&server));
    assert_eq!(base.set.engine, "postgres-log");

    server.sql("shop", "INSERT INTO t VALUES (1)");
    let first = moment(&server);
    server.sql(
        "shop",
        "INSERT INTO t VALUES (2); DROP TABLE IF EXISTS gone; CREATE TABLE gone (v int)",
    );
    let second = moment(&server);
    server.sql("shop", "DELETE FROM t");
    let third = moment(&server);
    stored(&mut following, &platform, &server, third);
    // Cut off in the middle of whatever it does; what it had received and not stored is on this machine.
    following.kill();
    server.sql("shop", "INSERT INTO t VALUES (99)");

    let content =
        |database: &str| server.sql(database, "SELECT string_agg(v::text, ',' ORDER BY v) FROM t");
    let into = |name: &str| RestoreTarget::Into { name: name.to_owned() };
    back(&platform, &server, first, into("at_first"));
    assert_eq!(content("at_first"), "0,1");
    // From the store alone: this machine lost what it received.
    std::fs::remove_dir_all(platform.state().join("log")).unwrap();
    back(&platform, &server, second, into("at_second"));
    assert_eq!(content("at_second"), "0,1,2");
    back(&platform, &server, third, into("at_third"));
    assert_eq!(content("at_third"), "");
    // Live data changes places with it, after a backup of what is there, and keeps its owner.
    let restored = back(&platform, &server, second, RestoreTarget::InPlace);
    assert!(restored.safety.is_some() && restored.before.is_some());
    assert_eq!(content("shop"), "0,1,2");
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'";
    assert_eq!(server.sql("postgres", owner), "app");

    // A moment that is not covered is none that is made up.
    let source = Source::Postgres { url: server.url("shop"), databases: None };
    let beyond = Timestamp(moment(&server).0 + 3_600_000);
    let fault = platform.fails(ITEM, &source, restore(beyond, into("beyond")));
    assert_eq!(fault.code, Code::NoSuchBackup, "{fault}");
    assert!(fault.to_string().contains("the stored log does not reach that moment"), "{fault}");
    // One before the first base backup: the newest backup from before it, and there is none.
    let fault = platform.fails(ITEM, &source, restore(before, into("before")));
    assert_eq!(fault.code, Code::NoSuchBackup, "{fault}");

    // A drill plays all of it and reads every table; a piece that is lost is found out.
    let drilled: Drilled = platform.drill(LOG, &log_of(&server));
    assert_eq!(drilled.drill.fault, None, "{:#?}", drilled.drill);
    assert_eq!(drilled.drill.set, base.set.id);
    let pieces = platform.list(LOG, &log_of(&server)).sets;
    let needed = &base.set.databases[0].settings["first"];
    let piece = pieces.iter().find(|set| set.set.parts.iter().any(|part| part.holds == *needed));
    let piece = piece.unwrap();
    std::fs::remove_dir_all(platform.set_dir(LOG, piece.set.id.as_str())).unwrap();
    std::fs::remove_dir_all(platform.state().join("log")).unwrap();
    let drilled: Drilled = platform.drill(LOG, &log_of(&server));
    let fault = drilled.drill.fault.unwrap();
    assert_eq!(fault.code, Code::BackupDamaged, "{fault}");
    assert!(fault.what.contains("gap"), "{fault}");
}

#[test]
fn what_a_server_refuses_is_said_and_tried_again() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("postgres", "CREATE ROLE plain LOGIN PASSWORD 'plain'");
    let platform = Platform::new();
    let url = server.url("shop").replace("boss:s3cr%3At%2F%40@", "plain:plain@");
    let mut follower =
        platform.start(LOG, &Source::PostgresLog { url }, Action::Follow { every_ms: 200 });
    let mut warnings = 0;
    while warnings < 2 {
        if let Some(Event::Warning { fault }) = follower.next() {
            assert_eq!(fault.code, Code::BackupSource, "{fault}");
            assert!(fault.next.iter().any(|step| step.contains("REPLICATION")), "{fault:?}");
            warnings += 1;
            server.sql("postgres", "SELECT 1");
        }
    }
    server.sql("postgres", "ALTER ROLE plain REPLICATION");
    follower.until("following the log");
    follower.kill();
}

#[test]
fn where_the_server_keeps_account_only_what_changed_is_copied_and_every_moment_comes_back() {
    let server = Postgres::start_18();
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE t (v int); CREATE TABLE noise (id serial); INSERT INTO t VALUES (0); CREATE TABLE ballast AS SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n",
    );
    // Who reads a row first marks it as committed: that is a change, too.
    server.sql("shop", "VACUUM");
    let mut platform = Platform::new();
    (platform.log, platform.programs) = (Some(LOG.to_owned()), Some(POSTGRES_18.into()));
    // The follower stores what it receives, at any time.
    platform.patient = true;
    let mut following = follower(&platform, &server);
    let step = |value: u32| {
        server.sql(
            "shop",
            &format!(
                "INSERT INTO t VALUES ({value}); UPDATE ballast SET n = n + 1 WHERE n = {value}"
            ),
        );
        moment(&server)
    };
    let whole = platform.take(LOG, &log_of(&server)).set;
    let first = step(1);
    let changed = platform.take(LOG, &log_of(&server)).set;
    let second = step(2);
    let again = platform.take(LOG, &log_of(&server)).set;
    let third = step(3);
    assert_eq!((&whole.needs[..], &changed.needs[..]), (&[][..], &[whole.id.clone()][..]));
    assert_eq!(again.needs, [whole.id.clone(), changed.id.clone()]);
    assert!(changed.plain_bytes() < whole.plain_bytes() / 4, "{changed:?}");
    stored(&mut following, &platform, &server, third);
    following.kill();

    let content =
        |database: &str| server.sql(database, "SELECT string_agg(v::text, ',' ORDER BY v) FROM t");
    let moments =
        [("first", first, "0,1"), ("second", second, "0,1,2"), ("third", third, "0,1,2,3")];
    for (name, at, expected) in moments {
        back(&platform, &server, at, RestoreTarget::Into { name: name.to_owned() });
        assert_eq!(content(name), expected);
        assert_eq!(
            server.sql(name, "SELECT count(*), min(length(repeat)) FROM ballast"),
            "40000|500"
        );
    }
    let drilled: Drilled = platform.drill(LOG, &log_of(&server));
    assert_eq!((drilled.drill.fault, drilled.drill.set), (None, again.id.clone()));
    assert!(drilled.rows > 40_000);

    // What it adds to is damaged: a drill says so, and the next one does not build on it.
    let part = platform.set_dir(LOG, changed.id.as_str()).join("base.tar.zst.age");
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let drilled: Drilled = platform.drill(LOG, &log_of(&server));
    assert_eq!(drilled.drill.fault.unwrap().code, Code::BackupDamaged);
    let verify = Action::Verify { full: true, set: None };
    platform.run::<seaworthy_backup::Verified>(LOG, &log_of(&server), verify);
    let anew = platform.take(LOG, &log_of(&server)).set;
    assert_eq!(anew.needs, []);
    // Nor is anything copied in part when this machine lost what it is compared with.
    std::fs::remove_dir_all(platform.state().join("records/shop").join(LOG).join("index")).unwrap();
    assert_eq!(platform.take(LOG, &log_of(&server)).set.needs, []);
}
