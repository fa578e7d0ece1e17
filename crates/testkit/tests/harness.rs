//! The parts of the harness against each other: the fake application as it is built, the client and
//! the load. What they say about a server can only be believed if they are right about this one.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use seaworthy_testkit::load::{Kind, Load, Target};
use seaworthy_testkit::{Client, eventually, eventually_some, process};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(10);

/// A running fake application; killed by its own handle when dropped.
struct Fake {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Fake {
    fn start(flags: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fakeapp"));
        command.args(flags).env("PORT", port.to_string()).current_dir(folder.path());
        let child =
            command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).spawn().unwrap();
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), folder }
    }

    fn ready(flags: &[&str]) -> Self {
        let fake = Self::start(flags);
        eventually("the fake application listens", LIMIT, || {
            fake.printed("out").contains("listening on")
        });
        fake
    }

    fn client(&self) -> Client {
        Client::http(self.address, "fake.localhost")
    }

    fn target(&self) -> Target {
        Target { address: self.address, host: "fake.localhost".to_owned(), ca: None }
    }

    fn printed(&self, stream: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(stream)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        eventually_some("the fake application ends", LIMIT, || self.child.try_wait().unwrap())
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn it_answers_what_it_was_asked() {
    let fake = Fake::ready(&[]);
    let client = fake.client();
    assert_eq!(client.get("/say?text=a%20b").text(), "a b");
    assert!(client.get("/").text().contains("<h1>"));
    assert_eq!(client.get("/status?code=503").status, 503);
    assert_eq!(client.get("/nothing").status, 404);
    assert_eq!(client.get("/bytes?n=100000").body.len(), 100_000);
    let seen = client.send("GET", "/headers", &[("x-a", "1"), ("X-A", "2")], b"").unwrap().json();
    assert_eq!(seen["headers"]["x-a"], serde_json::json!(["1", "2"]));
    assert_eq!(client.get("/instance").json()["pid"], fake.child.id());
    client.get("/log?text=hello");
    assert!(fake.printed("out").contains("hello\n") && fake.printed("err").contains("stderr"));
}

#[test]
fn bodies_stream_in_both_directions() {
    let fake = Fake::ready(&[]);
    let mut upload = fake.client().open("POST", "/echo", &[], Some(6)).unwrap();
    let head = upload.head().unwrap();
    assert_eq!(head.status, 200);
    for piece in [b"abc", b"def"] {
        upload.write(piece).unwrap();
        assert_eq!(upload.piece().unwrap().unwrap(), piece);
    }
    assert!(upload.piece().unwrap().is_none());
    let mut events = fake.client().open("GET", "/events?count=2&ms=1", &[], None).unwrap();
    assert_eq!(events.head().unwrap().header("content-type"), Some("text/event-stream"));
    for number in 0..2 {
        assert!(
            String::from_utf8(events.piece().unwrap().unwrap())
                .unwrap()
                .starts_with(&format!("id: {number}\n"))
        );
    }
    assert!(events.piece().unwrap().is_none());
    assert_eq!(fake.client().get("/slow-body?chunks=3&ms=1").text(), "drop 0\ndrop 1\ndrop 2\n");
}

#[test]
fn health_is_what_the_flags_or_a_request_say() {
    let fake = Fake::ready(&["--health-status", "503", "--health-json", "{\"ready\":false}"]);
    let health = fake.client().get("/health");
    assert_eq!((health.status, health.json()["ready"].clone()), (503, serde_json::json!(false)));
    fake.client().get("/set-health?status=200");
    assert_eq!(fake.client().get("/health").status, 200);
}

#[test]
fn on_term_it_finishes_what_is_under_way_and_ends_well() {
    let mut fake = Fake::ready(&[]);
    let mut slow = fake.client().open("GET", "/slow-body?chunks=5&ms=40", &[], None).unwrap();
    slow.head().unwrap();
    fake.signal(Signal::TERM);
    let mut drops = 0;
    while slow.piece().unwrap().is_some() {
        drops += 1;
    }
    assert_eq!((drops, fake.end().code()), (5, Some(0)));
}

#[test]
fn it_ignores_term_when_told_to() {
    let fake = Fake::ready(&["--ignore-term"]);
    fake.signal(Signal::TERM);
    eventually("it says that it ignores the signal", LIMIT, || {
        fake.printed("out").contains("ignoring")
    });
    assert_eq!(fake.client().get("/health").status, 200);
}

#[test]
fn it_ends_as_told() {
    let mut crashed = Fake::ready(&[]);
    crashed.client().try_get("/crash").ok();
    assert_eq!(crashed.end().code(), None, "an abort is a signal");
    let mut looping = Fake::start(&["--crash-loop", "--exit-code", "7"]);
    assert_eq!(looping.end().code(), Some(7));
    let mut needy = Fake::start(&["--require-env", "DATABASE_URL"]);
    assert_eq!(needy.end().code(), Some(1));
    assert!(needy.printed("err").contains("missing required environment variable DATABASE_URL"));
}

#[test]
fn a_hung_one_takes_connections_and_answers_nothing() {
    let fake = Fake::ready(&[]);
    fake.client().get("/hang");
    let short = Load::new(fake.target())
        .rate(Kind::KeepAlive, 50.0)
        .times(LIMIT, Duration::from_millis(300));
    let report = short.start(Duration::from_millis(200)).finish();
    let counts = report.of(Kind::KeepAlive);
    assert!(counts.lost > 0 && counts.lost == counts.issued, "{report}");
}

#[test]
fn grandchildren_stay_when_it_is_killed() {
    let mut fake = Fake::ready(&["--grandchildren", "2"]);
    let mine = fake.child.id();
    fake.signal(Signal::KILL);
    fake.end();
    let left = process::inside(&fake.folder());
    assert_eq!(
        left.iter().filter(|one| one.pid != mine && one.command.ends_with("--orphan")).count(),
        2,
        "{left:?}"
    );
    for one in &left {
        assert!(process::signal(one.pid, &fake.folder(), Signal::KILL));
    }
    eventually("they are gone", LIMIT, || process::inside(&fake.folder()).is_empty());
}

#[test]
fn it_grows_until_its_cap() {
    let fake = Fake::start(&["--leak", "--leak-cap-mib", "16"]);
    eventually("it says that nobody ended it", LIMIT, || {
        fake.printed("err").contains("leaked 16 MiB")
    });
}

#[test]
fn load_on_a_good_server_counts_nothing_but_good_answers() {
    let fake = Fake::ready(&["--keep-alive", "5s"]);
    let load = Load::new(fake.target())
        .rate(Kind::KeepAlive, 200.0)
        .rate(Kind::NewConnection, 50.0)
        .web_sockets(5);
    let report = load.start(Duration::from_millis(700)).finish();
    report.assert_clean();
    let (kept, new) = (report.of(Kind::KeepAlive), report.of(Kind::NewConnection));
    assert!(kept.ok >= 100 && new.ok >= 25 && report.web_sockets.echoes >= 10, "{report}");
    assert_eq!((kept.issued, new.issued), (kept.ok, new.ok));
}

#[test]
fn load_names_what_a_killed_server_costs() {
    let mut fake = Fake::ready(&[]);
    let running = Load::new(fake.target())
        .rate(Kind::KeepAlive, 200.0)
        .rate(Kind::NewConnection, 50.0)
        .web_sockets(2)
        .start(LIMIT);
    eventually("some answers and echoes", LIMIT, || {
        running.so_far().ok() > 20 && running.so_far().web_sockets.echoes > 2
    });
    fake.signal(Signal::KILL);
    fake.end();
    eventually("some refusals", LIMIT, || {
        running.so_far().refused() > 5 && running.so_far().web_sockets_broken() >= 2
    });
    let report = running.stop();
    let all = [Kind::KeepAlive, Kind::NewConnection].map(|kind| report.of(kind).clone());
    assert!(all.iter().all(|counts| counts.issued == counts.ok + counts.failures()), "{report}");
    assert!(report.web_sockets_broken() >= 2 && !report.described.is_empty(), "{report}");
}

#[test]
fn load_notices_wrong_statuses_and_answers_meant_for_somebody_else() {
    // A server that gives everybody the same text.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target {
        address: listener.local_addr().unwrap(),
        host: "fake.localhost".to_owned(),
        ca: None,
    };
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            use std::io::{Read as _, Write as _};
            let mut stream = stream;
            let read = stream.read(&mut [0; 4096]);
            let status = if number % 2 == 0 { "502 Bad Gateway" } else { "200 OK" };
            read.and_then(|_| {
                stream.write_all(
                    format!(
                        "HTTP/1.1 {status}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nsame"
                    )
                    .as_bytes(),
                )
            })
            .ok();
        }
    });
    let report = Load::new(target)
        .rate(Kind::NewConnection, 50.0)
        .start(Duration::from_millis(300))
        .finish();
    let wrong = &report.of(Kind::NewConnection).wrong;
    assert!(wrong[&502] > 0 && wrong[&0] > 0 && report.ok() == 0, "{report}");
}
