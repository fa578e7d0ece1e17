//! What goes wrong on the way: damage anywhere in what is stored, tools that lie, disks that are full, keys that
//! do not fit, clocks that go back, runs that meet, workers that are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use seaworthy_backup::{Action, Event, RestoreTarget, SetReport, Source, State, Taken, Verified};
use seaworthy_testkit::peers::{MariaDb, Postgres, Redis, unprivileged};

use crate::platform::{Platform, Worker, take};

const ITEM: &str = "files.uploads";

fn files(platform: &Platform) -> Source {
    let root = platform.place.path().join("uploads");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("a"), "content of a\n".repeat(30_000)).unwrap();
    fs::write(
        root.join("b"),
        (0..200_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    Source::Files { trees: vec![("uploads".to_owned(), root)] }
}

fn restore(to: &Path) -> Action {
    let target = RestoreTarget::To { url: to.display().to_string() };
    Action::Restore { set: None, at: None, store: None, target, identity: None }
}

/// One byte of each kind of place: the header's version, a recipient's stanza, the header's code, the nonce, the
/// first piece, the middle, a piece's code, the last byte; and files that are cut or longer.
#[test]
fn damage_anywhere_is_found_and_nothing_damaged_is_ever_restored() {
    let platform = Platform::new();
    let source = files(&platform);
    let taken = platform.take(ITEM, &source);
    let dir = platform.set_dir(ITEM, taken.set.id.as_str());
    let full = || Action::Verify { full: true, set: None };
    let to = platform.place.path().join("restored");
    for file in ["files.tar.zst.age", "index.zst.age", "set.json"] {
        let (path, whole) = (dir.join(file), fs::read(dir.join(file)).unwrap());
        let mut damaged: Vec<Vec<u8>> = Vec::new();
        let header = whole.windows(4).position(|part| part == b"--- ").unwrap_or(whole.len() / 3);
        let length = whole.len();
        for at in [0, 20, 60, header, header + 10, header + 60, length / 2, length - 17, length - 1]
        {
            let mut bytes = whole.clone();
            bytes[at.min(length - 1)] ^= 0x04;
            damaged.push(bytes);
        }
        damaged.extend([
            Vec::new(),
            whole[..length - 1].to_vec(),
            whole[..length / 2].to_vec(),
            [&whole[..], b"x"].concat(),
        ]);
        for bytes in damaged {
            fs::write(&path, &bytes).unwrap();
            let verified: Verified = platform.run(ITEM, &source, full());
            assert!(matches!(verified.copies[0].3, State::Damaged(_)), "{file}: {verified:?}");
            let fault = platform.fails(ITEM, &source, restore(&to));
            assert_eq!(fault.code.as_str(), "SW-BAK-004", "{file}: {fault:?}");
            assert!(!to.exists(), "nothing was restored");
        }
        fs::write(&path, whole).unwrap();
    }
    // As it was written, it is good again.
    let verified: Verified = platform.run(ITEM, &source, full());
    assert_eq!(verified.copies[0].3, State::Verified);
    platform.run::<seaworthy_backup::Restored>(ITEM, &source, restore(&to));
    assert!(to.join("uploads/b").is_file());
}

/// Backs up, takes one thing away, and has the backup hold what is left without saying so.
fn drill_misses(platform: &Platform, source: &Source, lose: impl FnOnce(), said: &str) {
    let (item, other) = ("database.main", "database.forged");
    let taken = platform.take(item, source);
    lose();
    let forged = platform.take(other, source);
    platform.forge(item, &taken, other, &forged);
    let fault = platform.drill(item, source).drill.fault.unwrap();
    assert_eq!(fault.code.as_str(), "SW-BAK-007");
    assert!(fault.to_string().contains(said), "{fault}");
}

/// PostgreSQL, MariaDB and MySQL have a test of their own each.
#[test]
fn one_thing_that_is_missing_in_what_was_stored_makes_a_drill_fail() {
    let platform = Platform::new();
    let path = platform.place.path().join("app.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3)")
        .unwrap();
    let lose = || database.execute_batch("DELETE FROM t WHERE n = 2").unwrap();
    drill_misses(&platform, &Source::Sqlite { path }, lose, "rows of t: 3 were saved, 2 came back");

    let (platform, server) = (Platform::new(), Redis::start());
    server.run(&["EVAL", "for n = 1, 100 do redis.call('SET', 'k' .. n, 'v') end", "0"]);
    let lose = || drop(server.run(&["DEL", "k77"]));
    let said = "keys that do not expire: 100 were saved, 99 came back";
    drill_misses(&platform, &Source::Redis { url: server.url() }, lose, said);

    let platform = Platform::new();
    let source = files(&platform);
    let lose = || fs::remove_file(platform.place.path().join("uploads/a")).unwrap();
    drill_misses(&platform, &source, lose, "number of files: 2 were saved, 1 came back");
}

#[test]
fn a_key_that_does_not_fit_opens_nothing_and_runs_never_meet() {
    let platform = Platform::new();
    let source = files(&platform);
    platform.take(ITEM, &source);
    fs::remove_file(platform.state().join("drill.key")).unwrap();
    let to = platform.place.path().join("restored");
    let with = |identity: &str| match restore(&to) {
        Action::Restore { set, at, store, target, .. } => {
            Action::Restore { set, at, store, target, identity: Some(identity.to_owned()) }
        }
        other => other,
    };
    let stranger = seaworthy_backup::make_owner_key();
    for identity in [stranger.identity.as_str(), "no key", ""] {
        let fault = platform.fails(ITEM, &source, with(identity));
        assert_eq!(fault.code.as_str(), "SW-BAK-005", "{fault:?}");
        assert!(!to.exists() && !format!("{fault:?}").contains(&stranger.identity));
    }
    platform.run::<seaworthy_backup::Restored>(ITEM, &source, with(&platform.owner.identity));

    // While one run holds the item another is refused, or waits when it is told to.
    let lock = seaworthy_sys::process::Lock::try_acquire(
        &platform.state().join(format!("records/shop/{ITEM}/lock")),
    )
    .unwrap();
    assert_eq!(platform.fails(ITEM, &source, take()).code.as_str(), "SW-BAK-011");
    let mut patient = Worker::start(&seaworthy_backup::Job {
        patient: true,
        ..platform.job(ITEM, &source, take())
    });
    patient.until("waiting for another run");
    drop(lock);
    patient.finish().unwrap();
}

#[test]
fn a_clock_that_was_set_back_costs_no_backup_and_proves_nothing() {
    let platform = Platform::new();
    let source = files(&platform);
    let first = platform.take(ITEM, &source);
    // As if it had been made next week, by a clock that was wrong.
    let set = &first.set;
    let later = seaworthy_base::Timestamp(set.taken.0 + 7 * 86_400_000);
    let moved = seaworthy_backup::Set {
        id: seaworthy_backup::SetId::new(later, 1),
        taken: later,
        ..set.clone()
    };
    let (from, to) =
        (platform.set_dir(ITEM, set.id.as_str()), platform.set_dir(ITEM, moved.id.as_str()));
    fs::rename(from, &to).unwrap();
    fs::write(to.join("set.json"), moved.document().unwrap()).unwrap();
    let second = platform.take(ITEM, &source);
    assert!(
        second.set.id > moved.id
            && second.set.notes.iter().any(|note| note.contains("the clock said")),
        "{:?}",
        second.set.notes
    );
    assert_eq!(platform.list(ITEM, &source).sets[0].set.id, second.set.id);
}

/// A program in front of the real one.
fn wrapper(platform: &Platform, name: &str, script: &str) -> PathBuf {
    let dir = platform.place.path().join("bin");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_tool_that_ends_well_after_half_a_dump_or_with_a_warning_makes_nothing_green() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; USE shop; CREATE TABLE t (x INT); INSERT INTO t SELECT seq FROM seq_1_to_5000");
    let platform = Platform::new();
    let source = Source::Mysql { url: server.url("shop"), databases: None };
    let run = |script: &str| {
        let dir = wrapper(&platform, "mariadb-dump", script);
        let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
        Worker::start_with(&platform.job("database.main", &source, take()), &[("PATH", &path)])
            .finish()
    };
    let fault = run("/usr/bin/mariadb-dump \"$@\" | head -c 2000; exit 0").unwrap_err();
    assert!(fault.what.contains("is not whole"), "{fault:?}");
    let fault = run("exit 0").unwrap_err();
    assert!(fault.what.contains("is not whole"), "{fault:?}");
    assert_eq!(platform.list("database.main", &source).sets.len(), 0);

    let report =
        run("/usr/bin/mariadb-dump \"$@\" && echo 'Warning: skipped something' >&2").unwrap();
    let taken: Taken = serde_json::from_value(report).unwrap();
    assert!(taken.set.doubts[0].contains("skipped something"));
    let state = || platform.list("database.main", &source).sets[0].copies[0].1.clone();
    assert!(matches!(state(), State::Unverified(why) if why.contains("skipped something")));
    assert_eq!(platform.drill("database.main", &source).drill.fault, None);
    assert_eq!(state(), State::Verified, "the drill answered the doubt");
}

/// Takes a backup while staging lies on a file system of so many megabytes, in a mount namespace of the worker's.
fn on_a_small_disk(platform: &Platform, item: &str, source: &Source, megabytes: u32) -> Worker {
    with_little_room(platform, platform.job(item, source, take()), "staging", megabytes)
}

/// The same for another job and another folder of the state.
fn with_little_room(
    platform: &Platform,
    mut job: seaworthy_backup::Job,
    folder: &str,
    megabytes: u32,
) -> Worker {
    let root = unprivileged().is_some();
    if !root {
        job.run_as = None;
    }
    let folder = platform.state().join(folder);
    let line = format!(
        "mount -t tmpfs -o size={megabytes}m none '{}' && exec \"$0\" \"$@\"",
        folder.display()
    );
    let words: &[&str] =
        if root { &["unshare", "--mount"] } else { &["unshare", "--mount", "--map-root-user"] };
    Worker::start_under(&job, &[words, &["sh", "-c", &line]].concat())
}

/// What a tool tries and what came of it, on standard error: the backup keeps it.
const TRIES: &str = r#"
try() { name=$1; shift; if "$@" 2>/dev/null; then echo "$name POSSIBLE" >&2; else echo "$name refused" >&2; fi; }
try read bash -c ": < $SECRET"
try write bash -c ": > ${SECRET%/*}/written"
try elsewhere bash -c ": < /dev/tcp/127.0.0.1/$OTHER"
try datagram bash -c ": > /dev/udp/127.0.0.1/$OTHER"
try abstract python3 -c "import socket; socket.socket(socket.AF_UNIX).connect('\\0$ABSTRACT')"
try null bash -c ": > /dev/null"
"#;

/// What is open to everybody on the machine, and a script that tries it.
struct Open {
    folder: PathBuf,
    script: String,
    _listener: std::net::TcpListener,
    _abstract: std::os::unix::net::UnixListener,
}

/// Anybody may read it, write beside it and connect there: but for being shut in.
fn open_to_all(platform: &Platform) -> Open {
    use std::os::linux::net::SocketAddrExt;
    let folder = platform.place.path().join("open");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(folder.join("secret"), "x").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = format!("sw-test-{}-{port}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let script = TRIES
        .replace("$SECRET", &folder.join("secret").display().to_string())
        .replace("${SECRET%/*}", &folder.display().to_string())
        .replace("$OTHER", &port.to_string())
        .replace("$ABSTRACT", &name);
    Open {
        folder,
        script,
        _listener: listener,
        _abstract: std::os::unix::net::UnixListener::bind_addr(&address).unwrap(),
    }
}

/// What came of it.
const REFUSED: [&str; 6] = [
    "read refused",
    "write refused",
    "elsewhere refused",
    "datagram refused",
    "abstract refused",
    "null POSSIBLE",
];

#[test]
fn a_dump_tool_opens_nothing_but_what_it_was_given_and_reaches_nobody_but_its_server() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; USE shop; CREATE TABLE t (x INT); INSERT INTO t VALUES (1)");
    let platform = Platform::new();
    let open = open_to_all(&platform);
    let script = format!("{}exec /usr/bin/mariadb-dump \"$@\"", open.script);
    let path = format!(
        "{}:{}",
        wrapper(&platform, "mariadb-dump", &script).display(),
        std::env::var("PATH").unwrap()
    );
    let source = Source::Mysql { url: server.url("shop"), databases: None };
    let worker =
        Worker::start_with(&platform.job("database.main", &source, take()), &[("PATH", &path)]);
    let taken: Taken = serde_json::from_value(worker.finish().unwrap()).unwrap();
    assert_eq!(taken.set.doubts, REFUSED);
    assert_eq!(taken.set.databases[0].rows["t"], 1, "its server and its password are given");
    assert!(!open.folder.join("written").exists());
}

#[test]
fn a_scratch_server_opens_nothing_but_its_folders_and_reaches_nobody() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; USE shop; CREATE TABLE t (x INT); INSERT INTO t VALUES (1)");
    let platform = Platform::new();
    let source = Source::Mysql { url: server.url("shop"), databases: None };
    platform.take("database.main", &source);
    let open = open_to_all(&platform);
    // It says what came of it and does not come up: then what it said is told.
    let script = format!(
        "case \"$*\" in *--skip-networking*) {}exit 1;; esac\nexec /usr/sbin/mariadbd \"$@\"",
        open.script
    );
    let dir = wrapper(&platform, "mariadbd", &script);
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let drill = Action::Drill { set: None, store: None };
    let job = platform.job("database.main", &source, drill);
    let report = Worker::start_with(&job, &[("PATH", &path)]).finish().unwrap();
    let drilled: seaworthy_backup::Drilled = serde_json::from_value(report).unwrap();
    let fault = drilled.drill.fault.unwrap();
    assert_eq!(fault.evidence, REFUSED, "{fault:?}");
    assert!(!open.folder.join("written").exists());
    assert_eq!(platform.drill("database.main", &source).drill.fault, None, "the real one comes up");
}

#[test]
fn a_disk_that_fills_in_the_middle_of_a_dump_ends_the_dump() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    let platform = Platform::new();
    let source = Source::Postgres { url: server.url("shop"), databases: None };
    let good = platform.take("database.main", &source);
    // More than the pipe holds.
    server.sql(
        "shop",
        "CREATE TABLE t AS SELECT sha512(n::text::bytea) FROM generate_series(1, 100000) n",
    );
    // The dump waits for a lock that somebody holds; meanwhile somebody else fills the disk.
    let script = server.folder().join("lock.sql");
    fs::write(&script, "BEGIN; LOCK TABLE t; SELECT pg_sleep(600);").unwrap();
    let holder = server.client("shop", &script);
    let waits = |granted: &str, count: &str| {
        let sql =
            format!("SELECT count(*) FROM pg_locks WHERE {granted} AND relation = 't'::regclass");
        server.wait_for(granted, "shop", &sql, |is| is == count);
    };
    waits("granted AND mode = 'AccessExclusiveLock'", "1");
    let worker = on_a_small_disk(&platform, "database.main", &source, 300);
    waits("NOT granted", "1");
    let staging = platform.state().join("staging");
    let theirs = format!("/proc/{}/root{}", worker.pid(), staging.display());
    let mut filler = fs::File::create(Path::new(&theirs).join("filler")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut filler).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(holder);
    // A backend that sleeps does not notice that its client went.
    server.sql("shop", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
    let fault = worker.finish().unwrap_err();
    assert_eq!(fault.code.as_str(), "SW-CTL-004", "{fault:?}");
    let report = platform.list("database.main", &source);
    assert_eq!((report.sets.len(), &report.sets[0].set.id), (1, &good.set.id));
    assert_eq!(
        server.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
        ),
        "0"
    );
}

#[test]
fn a_full_disk_publishes_nothing_and_keeps_what_was_there() {
    let platform = Platform::new();
    let source = files(&platform);
    let good = platform.take(ITEM, &source);
    let worker = on_a_small_disk(&platform, ITEM, &source, 1);
    let fault = worker.finish().unwrap_err();
    assert_eq!(fault.code.as_str(), "SW-CTL-004", "{fault:?}");
    let report = platform.list(ITEM, &source);
    assert_eq!(
        (report.sets.len(), &report.sets[0].set.id, &report.sets[0].copies[0].1),
        (1, &good.set.id, &State::Verified)
    );
    assert_eq!(report.last_run.unwrap().fault.unwrap().code.as_str(), "SW-CTL-004");
}

#[test]
fn a_drill_of_many_tiny_files_is_not_begun_where_their_blocks_have_no_room() {
    let platform = Platform::new();
    let root = platform.place.path().join("uploads");
    for folder in 0..60 {
        let folder = root.join(folder.to_string());
        fs::create_dir_all(&folder).unwrap();
        (0..1000).for_each(|n| fs::write(folder.join(n.to_string()), "").unwrap());
    }
    let source = Source::Files { trees: vec![("uploads".to_owned(), root)] };
    platform.take(ITEM, &source);
    let drill = || Action::Drill { set: None, store: None };
    fs::create_dir_all(platform.state().join("scratch")).unwrap();
    let worker = with_little_room(&platform, platform.job(ITEM, &source, drill()), "scratch", 400);
    let drilled: seaworthy_backup::Drilled =
        serde_json::from_value(worker.finish().unwrap()).unwrap();
    assert_eq!(drilled.drill.fault.unwrap().code.as_str(), "SW-CTL-004");
    assert_eq!(platform.drill(ITEM, &source).drill.fault, None);
}

/// The numbers in the file, or none when it is no whole database.
fn numbers(path: &Path) -> Option<Vec<i64>> {
    let database = rusqlite::Connection::open(path).ok()?;
    let fine: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).ok()?;
    let mut all = database.prepare("SELECT n FROM t ORDER BY n").ok()?;
    let all = all.query_map([], |row| row.get(0)).ok()?.collect::<Result<_, _>>().ok()?;
    (fine == "ok").then_some(all)
}

#[test]
fn a_worker_that_is_killed_at_any_step_publishes_nothing_half_and_loses_nothing() {
    let platform = Platform::new();
    let path = platform.place.path().join("app.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3)")
        .unwrap();
    drop(database);
    let source = Source::Sqlite { path: path.clone() };
    let item = "database.app";
    let good = platform.take(item, &source);
    let in_place = Action::Restore {
        set: Some(good.set.id.to_string()),
        at: None,
        store: None,
        target: RestoreTarget::InPlace,
        identity: None,
    };
    let drill = Action::Drill { set: None, store: None };
    for action in [take(), drill, in_place] {
        let (mut step, mut over) = (0, false);
        while !over {
            let mut worker = platform.start(item, &source, action.clone());
            for _ in 0..step {
                over |= worker.next().is_none_or(|event| matches!(event, Event::Done { .. }));
            }
            worker.kill();
            step += 1;
            // What is published is whole, what was there is there, and the file is the old one or the new one.
            let report = platform.list(item, &source);
            assert_eq!(report.failed.len(), 0, "{action:?} killed at {step}: {:?}", report.failed);
            assert!(report.sets.iter().any(|set| set.set.id == good.set.id));
            let damaged = |set: &&SetReport| matches!(set.copies[0].1, State::Damaged(_));
            assert!(!report.sets.iter().any(|set| damaged(&set)), "{action:?} killed at {step}");
            assert_eq!(numbers(&path).unwrap(), [1, 2, 3], "{action:?} killed at {step}");
        }
        assert!(step > 3, "{action:?} says what it does");
    }
    platform.take(item, &source);
    let verified: Verified = platform.run(item, &source, Action::Verify { full: true, set: None });
    assert!(verified.copies.iter().all(|(.., state)| *state == State::Verified), "{verified:?}");
    platform.assert_tidy();
}
