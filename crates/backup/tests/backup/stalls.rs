//! Lines that go dead: nothing is ended, nothing moves any more. Whoever waits on one gives up by itself, says so,
//! publishes nothing and leaves alone what was there.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use seaworthy_backup::{Action, Event, RestoreTarget, Restored, Source, State, Taken, Verified};
use seaworthy_base::Fault;
use seaworthy_testkit::peers::{MariaDb, Postgres, Redis, Sshd};

use crate::platform::{Platform, take};
use crate::stores::{files, s3, s3_store, sftp_store};

const ITEM: &str = "database.main";
/// What moves nothing for so long is given up in these tests.
const STALL_MS: u64 = 5000;
/// A line goes dead after so many bytes: in the middle of what is transferred.
const SOME: usize = 2 << 20;

/// Where a line leads.
#[derive(Clone)]
enum End {
    Socket(PathBuf),
    Port(u16),
}

/// What a line does with a connection on which so many bytes went by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Every connection is dead from then on, and new ones, too.
    AllDead,
    /// This one is dead.
    OneDead,
    /// This one is cut.
    Cut,
    /// It goes on, slowly.
    Slow,
}

/// A line to a server.
struct Line {
    port: u16,
    limit: Arc<AtomicUsize>,
    /// All of its connections are dead, and new ones.
    dead: Arc<AtomicBool>,
}

trait Stream: Read + Write + Send + 'static {
    fn twin(&self) -> Box<dyn Stream>;
    fn cut(&self);
}

impl Stream for TcpStream {
    fn twin(&self) -> Box<dyn Stream> {
        Box::new(self.try_clone().unwrap())
    }
    fn cut(&self) {
        self.shutdown(Shutdown::Both).ok();
    }
}

impl Stream for UnixStream {
    fn twin(&self) -> Box<dyn Stream> {
        Box::new(self.try_clone().unwrap())
    }
    fn cut(&self) {
        self.shutdown(Shutdown::Both).ok();
    }
}

/// One direction of one connection.
struct Way {
    from: Box<dyn Stream>,
    to: Box<dyn Stream>,
    fate: Fate,
    limit: Arc<AtomicUsize>,
    /// Of the connection, both ways.
    passed: Arc<AtomicUsize>,
    /// This connection, for good; all of them.
    dead: (Arc<AtomicBool>, Arc<AtomicBool>),
}

impl Way {
    fn run(mut self) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = self.from.read(&mut buffer).unwrap_or(0);
            let passed = self.passed.fetch_add(got, Ordering::AcqRel) + got;
            let over = passed > self.limit.load(Ordering::Acquire);
            match self.fate {
                Fate::AllDead if over => self.dead.1.store(true, Ordering::Release),
                Fate::OneDead if over => self.dead.0.store(true, Ordering::Release),
                Fate::Cut if over => {
                    self.from.cut();
                    return self.to.cut();
                }
                Fate::Slow if over => std::thread::park_timeout(Duration::from_millis(120)),
                _ => {}
            }
            if self.dead.1.load(Ordering::Acquire) {
                self.dead.0.store(true, Ordering::Release);
            }
            while self.dead.0.load(Ordering::Acquire) {
                // With both of its ends open, for as long as the test runs.
                std::thread::park();
            }
            if got == 0 || self.to.write_all(&buffer[..got]).is_err() {
                return self.to.cut();
            }
        }
    }
}

impl Line {
    /// Good until [`Self::arm`].
    fn to(end: End, fate: Fate) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let limit = Arc::new(AtomicUsize::new(usize::MAX));
        let all: Arc<AtomicBool> = Arc::default();
        let (shared, dead) = (Arc::clone(&limit), Arc::clone(&all));
        std::thread::spawn(move || {
            for client in socket.incoming().map_while(Result::ok) {
                let server: Box<dyn Stream> = match &end {
                    End::Socket(path) => Box::new(UnixStream::connect(path).unwrap()),
                    End::Port(port) => Box::new(TcpStream::connect(("127.0.0.1", *port)).unwrap()),
                };
                let (one, passed): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
                let (back, forth) = (server.twin(), client.twin());
                for (from, to) in [(Box::new(client) as Box<dyn Stream>, server), (back, forth)] {
                    let way = Way {
                        from,
                        to,
                        fate,
                        limit: Arc::clone(&shared),
                        passed: Arc::clone(&passed),
                        dead: (Arc::clone(&one), Arc::clone(&all)),
                    };
                    std::thread::spawn(move || way.run());
                }
            }
        });
        Self { port, limit, dead }
    }

    /// From now on every connection has the line's fate after so many bytes.
    fn arm(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Release);
    }

    /// From now on connections are good; what is dead stays dead.
    fn mend(&self) {
        self.arm(usize::MAX);
        self.dead.store(false, Ordering::Release);
    }

    /// The URL of a database by this line instead of its socket.
    fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once('@').unwrap();
        let (_, after) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{}/{after}", self.port)
    }
}

/// The socket that a URL names.
fn socket(url: &str) -> PathBuf {
    let host = url.split_once('@').unwrap().1.split(['/', ':']).next().unwrap();
    host.replace("%2F", "/").into()
}

fn gave_up(fault: &Fault) {
    let text = format!("{fault:?}");
    assert!(
        ["nothing moved for", "timed out", "TimedOut", "timeout"]
            .iter()
            .any(|word| text.contains(word)),
        "{fault:?}"
    );
}

/// A dump on a bad line ends by itself; what was there stays, and whoever asks is told. Returns why.
fn dump_ends(line: &Line, direct: &Source, bad: &Source) -> Fault {
    let mut platform = Platform::new();
    let good: Taken = platform.take(ITEM, direct);
    line.arm(SOME);
    platform.stall_ms = Some(STALL_MS);
    let fault = platform.fails(ITEM, bad, take());
    assert_eq!(fault.code.as_str(), "SW-BAK-002", "{fault:?}");
    let report = platform.list(ITEM, direct);
    assert_eq!(report.sets.len(), 1, "{:?}", report.sets);
    assert_eq!(report.sets[0].set.id, good.set.id);
    assert_eq!(report.sets[0].copies[0].1, State::Verified);
    assert_eq!(report.last_run.unwrap().fault.unwrap().code.as_str(), "SW-BAK-002");
    platform.assert_tidy();
    fault
}

#[test]
fn a_dump_of_postgres_on_a_line_that_goes_dead_is_given_up() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE t AS SELECT sha512(n::text::bytea) FROM generate_series(1, 60000) n",
    );
    let line = Line::to(End::Socket(server.folder().join(".s.PGSQL.5432")), Fate::AllDead);
    let direct = Source::Postgres { url: server.url("shop"), databases: None };
    let dead = Source::Postgres { url: line.url(&server.url("shop")), databases: None };
    gave_up(&dump_ends(&line, &direct, &dead));
}

/// What ends a connection ends the dump on it: a server that is restarted, a line that is cut.
#[test]
fn a_dump_of_mariadb_on_a_line_that_is_dead_or_cut_is_no_backup() {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; USE shop; CREATE TABLE t AS SELECT repeat(md5(seq), 20) AS x FROM seq_1_to_10000");
    let direct = Source::Mysql { url: server.url("shop"), databases: None };
    let on = |fate| {
        let line = Line::to(End::Socket(socket(&server.url("shop"))), fate);
        let bad = Source::Mysql { url: line.url(&server.url("shop")), databases: None };
        dump_ends(&line, &direct, &bad)
    };
    gave_up(&on(Fate::AllDead));
    on(Fate::Cut);
}

#[test]
fn a_dataset_of_redis_on_a_line_that_is_dead_or_cut_is_no_backup() {
    let server = Redis::start();
    let script = "for n = 1, 60000 do redis.call('SET', 'k' .. n, redis.sha1hex(n) .. redis.sha1hex(n .. 'x')) end";
    server.run(&["EVAL", script, "0"]);
    let direct = Source::Redis { url: server.url() };
    let on = |fate| {
        let line = Line::to(End::Socket(socket(&server.url())), fate);
        let bad = Source::Redis { url: line.url(&server.url()) };
        dump_ends(&line, &direct, &bad)
    };
    gave_up(&on(Fate::AllDead));
    on(Fate::Cut);
}

/// A store on a line that goes dead costs its own copy only, and is not read from either.
fn store_is_given_up(platform: &mut Platform, line: &Line, name: &str) {
    const ITEM: &str = "files.uploads";
    let (root, source) = files(platform);
    let first = platform.take(ITEM, &source);
    assert_eq!(first.failed.len(), 0, "{:?}", first.failed);

    // What is there cannot be read, and nothing is made of it.
    line.arm(SOME);
    platform.stall_ms = Some(STALL_MS);
    let to = platform.place.path().join("restored");
    let restore = || Action::Restore {
        set: None,
        at: None,
        store: Some(name.to_owned()),
        target: RestoreTarget::To { url: to.display().to_string() },
        identity: None,
    };
    gave_up(&platform.fails(ITEM, &source, Action::Verify { full: true, set: None }));
    line.mend();
    line.arm(SOME);
    gave_up(&platform.fails(ITEM, &source, restore()));
    assert!(!to.exists());
    line.mend();
    line.arm(SOME);

    std::fs::remove_file(root.join("large")).unwrap();
    files(platform);
    let taken = platform.take(ITEM, &source);
    assert_eq!(taken.stores, ["local"]);
    assert_eq!(taken.failed[0].store, name);
    gave_up(&taken.failed[0].fault);
    line.mend();
    platform.stall_ms = None;
}

/// What is in a store once it can be reached again.
fn is_only(platform: &Platform, name: &str, count: usize) {
    const ITEM: &str = "files.uploads";
    let (_, source) = files(platform);
    let report = platform.list(ITEM, &source);
    assert_eq!(report.failed.len(), 0, "{:?}", report.failed);
    let there = report.sets.iter().filter(|set| set.copies.iter().any(|(store, _)| store == name));
    assert_eq!(there.count(), count);
    assert_eq!(report.last_run.unwrap().fault.unwrap().code.as_str(), "SW-BAK-003");
    let local: Verified = platform.run(ITEM, &source, Action::Verify { full: true, set: None });
    assert!(local.copies.iter().all(|(.., state)| *state == State::Verified), "{local:?}");
    platform.assert_tidy();
}

#[test]
fn a_bucket_on_a_line_that_goes_dead_costs_its_own_copy_only() {
    let mut platform = Platform::new();
    let endpoint = s3(&platform.place.path().join("s3"));
    let port = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    let line = Line::to(End::Port(port), Fate::AllDead);
    platform.stores.push(s3_store(&format!("http://127.0.0.1:{}", line.port), "secret"));
    store_is_given_up(&mut platform, &line, "offsite");
    is_only(&platform, "offsite", 1);
}

#[test]
fn a_folder_behind_ssh_on_a_line_that_goes_dead_costs_its_own_copy_only() {
    let mut sshd = Sshd::start();
    let line = Line::to(End::Port(sshd.port), Fate::OneDead);
    sshd.port = line.port;
    let mut platform = Platform::new();
    platform.stores.push(sftp_store(&sshd, &sshd.host_key()));
    store_is_given_up(&mut platform, &line, "nas");
    is_only(&platform, "nas", 1);
}

#[test]
fn a_server_behind_ssh_that_takes_the_connection_and_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sshd = Sshd::start();
    sshd.port = silent.local_addr().unwrap().port();
    let mut platform = Platform { stall_ms: Some(STALL_MS), ..Platform::new() };
    platform.stores.push(sftp_store(&sshd, &sshd.host_key()));
    let (_, source) = files(&platform);
    let taken = platform.take("files.uploads", &source);
    assert_eq!((taken.stores.len(), taken.failed.len()), (1, 1), "{:?}", taken.failed);
}

/// Reads a copy back on a line that is bad but not dead.
fn is_read_back(fate: Fate) {
    let mut platform = Platform::new();
    let endpoint = s3(&platform.place.path().join("s3"));
    let port = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    let line = Line::to(End::Port(port), fate);
    platform.stores.push(s3_store(&format!("http://127.0.0.1:{}", line.port), "secret"));
    let (root, source) = files(&platform);
    platform.take("files.uploads", &source);
    // Less than a tenth of what is read.
    line.arm(800 << 10);
    // All tries that end after this time are over before a slow one has all.
    platform.stall_ms = Some(2000);
    let to = platform.place.path().join("restored");
    let restore = Action::Restore {
        set: None,
        at: None,
        store: Some("offsite".to_owned()),
        target: RestoreTarget::To { url: to.display().to_string() },
        identity: None,
    };
    let restored: Restored = platform.run("files.uploads", &source, restore);
    assert_eq!(restored.store, "offsite");
    let (is, was) = (to.join("uploads/large"), root.join("large"));
    assert_eq!(std::fs::read(is).unwrap(), std::fs::read(was).unwrap());
}

#[test]
fn what_takes_longer_than_a_dead_line_is_waited_for_is_read_as_long_as_it_comes() {
    is_read_back(Fate::Slow);
}

#[test]
fn what_breaks_off_again_and_again_is_read_on_from_there() {
    is_read_back(Fate::Cut);
}

#[test]
fn a_log_that_no_longer_arrives_is_told_of_and_followed_again() {
    const LOG: &str = "database.main.log";
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE t (x text)");
    // So soon it notices itself that nobody is there any more, and lets go of the slot.
    server.sql("postgres", "ALTER SYSTEM SET wal_sender_timeout = '3s'");
    server.sql("postgres", "SELECT pg_reload_conf()");
    let line = Line::to(End::Socket(server.folder().join(".s.PGSQL.5432")), Fate::OneDead);
    let log = Source::PostgresLog { url: line.url(&server.url("shop")) };
    let platform = Platform { stall_ms: Some(STALL_MS), ..Platform::new() };
    let mut follower = platform.start(LOG, &log, Action::Follow { every_ms: 200 });
    follower.until("following the log");
    line.arm(SOME);
    let write = "INSERT INTO t SELECT repeat(md5(n::text), 100) FROM generate_series(1, 3000) n";
    let fault = loop {
        server.sql("shop", write);
        if let Event::Warning { fault } = follower.next().unwrap() {
            break fault;
        }
    };
    assert!(fault.causes[0].contains("nothing arrived for 5 s"), "{fault:?}");
    // The next connection is good, and the slot has kept what did not arrive.
    line.mend();
    follower.until("the log is stored up to");
    follower.kill();
}
