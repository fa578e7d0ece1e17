//! The real shim with real programs: `sh` and `python3` under every rule that it promises to keep.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seaworthy_base::Code;
use seaworthy_runtime::driver::{self, ShimClient};
use seaworthy_runtime::model::{
    ExitReason, Limits, Log, Phase, Ports, Probe, Restart, Spec, Status, Stop, User,
};
use tempfile::TempDir;

const SHIM: &str = env!("CARGO_BIN_EXE_shim-under-test");
const LONG: Duration = Duration::from_secs(20);

/// A server on the port and address given to it; what it does more is in `extra` (run before it serves).
fn server(bind: &str, extra: &str) -> Vec<String> {
    let code = format!(
        "import os,sys,socket,signal,threading,time\ndef say(*a): os.write(1,(' '.join(map(str,a))+'\\n').encode())\nfrom http.server import *\nhost,port={bind}\nclass S(ThreadingHTTPServer):\n  address_family=socket.AF_INET6 if ':' in host else socket.AF_INET\nclass H(BaseHTTPRequestHandler):\n  def do_GET(self):\n    b=str(os.getpid()).encode()\n    self.send_response(200)\n    self.send_header('Content-Length',str(len(b)))\n    self.end_headers()\n    self.wfile.write(b)\n  def log_message(self,*a): pass\n{extra}\ns=S((host,port),H)\ns.serve_forever()\n"
    );
    argv(&["python3", "-u", "-c", &code])
}

const GIVEN: &str = "'127.0.0.1',int(os.environ['PORT'])";

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

struct Instance {
    dir: TempDir,
    spec: Spec,
    program: PathBuf,
}

impl Instance {
    fn new(argv: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let probe = Probe {
            path: None,
            status: vec![],
            json: [].into(),
            headers: [].into(),
            every_ms: 200,
            timeout_ms: 500,
            failures: 2,
            start_ms: 3000,
        };
        let spec = Spec {
            id: "shop/web/0@1".parse().unwrap(),
            argv,
            dir: dir.path().to_owned(),
            environment: vec![("PATH".to_owned(), std::env::var("PATH").unwrap())],
            secret_environment: vec![],
            secret_files: vec![],
            user: None,
            ports: Ports::Environment(vec![("http".to_owned(), "PORT".to_owned())]),
            ready: probe.clone(),
            live: probe,
            limits: Limits::default(),
            restart: Restart {
                backoff_min_ms: 50,
                backoff_max_ms: 400,
                crashes: 3,
                within_ms: 60_000,
            },
            stop: Stop { signal: "TERM".to_owned(), grace_ms: 3000 },
            log: Log {
                path: dir.path().join("logs/web.log"),
                max_size: 1 << 20,
                keep: 3,
                days: None,
            },
            run_dir: dir.path().join("run"),
            hash: "h".to_owned(),
        };
        Self { dir, spec, program: SHIM.into() }
    }

    fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// The shim itself runs as `nobody`: no control groups, no root.
    fn unprivileged(mut self) -> Self {
        let wrapper = self.dir.path().join("as-nobody");
        std::fs::write(
            &wrapper,
            format!(
                "#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {SHIM} \"$@\"\n"
            ),
        )
        .unwrap();
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(&self.spec.run_dir).unwrap();
        for path in [self.dir.path(), self.spec.run_dir.as_path()] {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
        // pyenv's shims lie below a home that `nobody` may not enter.
        self.spec.environment =
            vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())];
        self.program = wrapper;
        self
    }

    fn launch(self) -> Self {
        driver::launch(&self.program, &self.spec).unwrap();
        self
    }

    fn client(&self) -> ShimClient {
        let begun = Instant::now();
        loop {
            match ShimClient::connect(&self.spec.run_dir, LONG) {
                Ok(client) => return client,
                Err(error) if begun.elapsed() > LONG => panic!("no shim: {error}"),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Waits for a status; a test that waits in vain says what it saw.
    fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut client = self.client();
        let begun = Instant::now();
        let mut status = client.status().unwrap();
        while !wanted(&status) {
            assert!(
                begun.elapsed() < LONG,
                "waited for: {what}; status {status:#?}\nlog:\n{}",
                self.log()
            );
            if let Some(event) =
                client.events_since(status.sequence, Duration::from_millis(100)).unwrap().pop()
            {
                status = event.status;
            } else {
                status = client.status().unwrap();
            }
        }
        status
    }

    fn ready(&self) -> Status {
        self.until("ready", |status| status.phase == Phase::Ready)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.spec.log.path).unwrap_or_default()
    }

    fn until_log(&self, word: &str) -> String {
        let begun = Instant::now();
        while !self.log().contains(word) {
            assert!(begun.elapsed() < LONG, "waited for `{word}` in the log:\n{}", self.log());
            std::thread::yield_now();
        }
        self.log()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Ok(mut client) = ShimClient::connect(&self.spec.run_dir, LONG) {
            let shim = client.status().map(|status| status.shim_pid);
            client.signal("KILL").ok();
            client.stop(true).ok();
            let begun = Instant::now();
            while self.spec.run_dir.join("sock").exists()
                && begun.elapsed() < Duration::from_secs(6)
            {
                std::thread::yield_now();
            }
            if let Ok(shim) = shim
                && self.spec.run_dir.join("sock").exists()
            {
                seaworthy_sys::process::signal_process(shim, 9);
            }
        }
        driver::sweep(&self.spec.id, &self.spec.run_dir).ok();
    }
}

fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn gone(pid: u32) {
    let begun = Instant::now();
    while alive(pid) {
        assert!(begun.elapsed() < LONG, "process {pid} is still there");
        std::thread::yield_now();
    }
}

fn pids_in(log: &str, word: &str) -> Vec<u32> {
    log.lines().filter_map(|line| line.split_once(word)?.1.trim().parse().ok()).collect()
}

fn packed(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "gz")
}

fn two_on_8000(bind: &str, prepare: impl Fn(Instance) -> Instance) {
    let start = |number: u32| {
        let one = prepare(Instance::new(server(bind, ""))).with(|spec| {
            spec.ports = Ports::Fixed(8000);
            spec.id.slot = number as u16;
        });
        one.launch()
    };
    let (a, b) = (start(0), start(1));
    let (one, two) = (a.ready(), b.ready());
    for status in [&one, &two] {
        let address = status.listening["http"];
        assert!(address.ip().is_loopback() && address.port() != 8000, "{address}");
        assert_eq!(get(address), status.pid.unwrap().to_string());
        assert_eq!(status.fault, None);
    }
    assert_ne!(one.listening, two.listening);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_ipv4() {
    two_on_8000("'0.0.0.0',8000", |one| one);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_ipv6() {
    two_on_8000("'::',8000", |one| one);
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_as_a_user() {
    two_on_8000("'0.0.0.0',8000", |one| {
        one.with(|spec| {
            spec.user = Some(User {
                name: "nobody".to_owned(),
                uid: 65534,
                gid: 65534,
                groups: vec![65534],
            });
            spec.environment = vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())];
        })
    });
}

#[test]
fn two_servers_on_one_fixed_port_run_side_by_side_without_root() {
    two_on_8000("'::',8000", Instance::unprivileged);
}

#[test]
fn a_program_restarted_on_its_fixed_port_serves_though_old_connections_linger() {
    // Without SO_REUSEADDR a port with lingering connections cannot be bound again for a minute.
    let one = Instance::new(server("'0.0.0.0',8000", "S.allow_reuse_address=False"))
        .with(|spec| spec.ports = Ports::Fixed(8000))
        .launch();
    let before = one.ready();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(before.listening["http"]).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
    }
    one.client().restart().unwrap();
    one.until("ready again", |status| {
        status.phase == Phase::Ready && status.pid.is_some() && status.pid != before.pid
    });
}

#[test]
fn workers_that_rebind_the_fixed_port_share_it() {
    let extra = "
class R(S):
  def server_bind(self):
    self.socket.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEPORT,1)
    ThreadingHTTPServer.server_bind(self)
S=R
if os.fork()==0: pass
";
    let one = Instance::new(server("'0.0.0.0',8000", extra))
        .with(|spec| spec.ports = Ports::Fixed(8000))
        .launch();
    let address = one.ready().listening["http"];
    let begun = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(get(address));
        assert!(begun.elapsed() < LONG, "only {seen:?} answer\n{}", one.log());
    }
}

#[test]
fn ready_is_known_soon_after_listening() {
    let one = Instance::new(server(GIVEN, "print('now',time.time(),flush=True)")).launch();
    one.ready();
    let at = seaworthy_base::Timestamp::now().0;
    let log = one.until_log("now ");
    let listened: f64 =
        log.lines().find_map(|line| line.split_once("now ")?.1.trim().parse().ok()).unwrap();
    let late = at.saturating_sub((listened * 1000.0) as u64);
    assert!(late < 400, "ready was known {late} ms after listening");
}

#[test]
fn stdout_and_stderr_are_told_apart_and_timed() {
    let one =
        Instance::new(argv(&["sh", "-c", "echo hello; echo oops >&2; printf 'no end'; sleep 60"]))
            .launch();
    let log = one.until_log("oops");
    let line = |kind: &str| {
        log.lines()
            .find(|line| line.split(' ').nth(1) == Some(kind))
            .map(str::to_owned)
            .unwrap_or_default()
    };
    assert!(
        line("out").ends_with(" out hello")
            && line("err").ends_with(" err oops")
            && line("sys").contains("started"),
        "{log}"
    );
    assert_eq!(line("out").split(' ').next().unwrap().len(), "2026-11-21T02:48:50.123Z".len());
    assert_eq!(std::fs::metadata(&one.spec.log.path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn logs_rotate_and_are_compressed_and_stay_bounded() {
    let one = Instance::new(argv(&["sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done; echo finished; sleep 60"])).with(|spec| spec.log.max_size = 50_000).launch();
    one.until_log("finished");
    let names = || {
        let entries = std::fs::read_dir(one.spec.log.path.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let begun = Instant::now();
    while !names().iter().any(|name| packed(name)) {
        assert!(begun.elapsed() < LONG, "{:?}", names());
        std::thread::yield_now();
    }
    let total: u64 = std::fs::read_dir(one.spec.log.path.parent().unwrap())
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len()))
        .sum();
    assert!(total <= 50_000 * 4, "{total} bytes in {:?}", names());
}

#[test]
fn compression_outlives_the_end_of_the_program_that_filled_the_log() {
    let one =
        Instance::new(argv(&["sh", "-c", "head -c 3000000 /dev/urandom | od -x; echo finished"]))
            .with(|spec| {
                spec.log.max_size = 2 << 20;
                spec.log.keep = 50;
                spec.restart.backoff_min_ms = 600_000;
                spec.restart.backoff_max_ms = 600_000;
            });
    let one = one.launch();
    one.until("ended", |status| status.phase == Phase::Backoff);
    let plain = || {
        let entries = std::fs::read_dir(one.spec.log.path.parent().unwrap()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("web.log.") && !packed(name))
            .collect::<Vec<_>>()
    };
    let begun = Instant::now();
    while !plain().is_empty() {
        assert!(begun.elapsed() < LONG, "never compressed: {:?}", plain());
        std::thread::yield_now();
    }
}

#[test]
fn grandchildren_with_sessions_of_their_own_that_ignore_term_are_gone_after_a_stop() {
    for unprivileged in [false, true] {
        let extra = "
for n in range(2):
  if os.fork()==0:
    os.setsid(); signal.signal(signal.SIGTERM,signal.SIG_IGN)
    if os.fork()==0:
      say('grandchild',os.getpid())
      time.sleep(600)
    os._exit(0)
";
        let one = Instance::new(server(GIVEN, extra)).with(|spec| spec.stop.grace_ms = 300);
        let one = if unprivileged { one.unprivileged() } else { one }.launch();
        one.ready();
        let begun = Instant::now();
        while pids_in(&one.log(), "grandchild").len() < 2 {
            assert!(begun.elapsed() < LONG);
            std::thread::yield_now();
        }
        let grandchildren = pids_in(&one.log(), "grandchild");
        one.client().stop(false).unwrap();
        one.until("stopped", |status| status.phase == Phase::Stopped);
        for pid in grandchildren {
            gone(pid);
        }
    }
}

#[test]
fn a_program_starts_with_no_signal_blocked_or_ignored() {
    // Signals that python itself ignores are left out.
    let code = "import signal as s\nprint('blocked',sorted(s.pthread_sigmask(s.SIG_BLOCK,[])),[n for n in (1,2,3,15,17) if s.getsignal(n)==s.SIG_IGN],flush=True)\ns.pause()";
    let one = Instance::new(argv(&["python3", "-c", code])).launch();
    let log = one.until_log("blocked");
    assert!(log.contains("blocked [] []"), "{log}");
    one.until_log("started");
    one.client().stop(false).unwrap();
    one.until("stopped", |status| status.phase == Phase::Stopped);
    assert!(!one.log().contains("KILL"), "{}", one.log());
}

#[test]
fn orphans_hear_the_stop_signal_too_and_none_hears_it_twice() {
    for unprivileged in [false, true] {
        let extra = "
def heard(*a):
  say('heard',os.getpid())
signal.signal(signal.SIGTERM,heard)
if os.fork()==0:
  os.setsid()
  if os.fork()==0:
    while os.getppid()==0: time.sleep(.01)
    say('orphan',os.getpid())
    while True: time.sleep(.01)
  os._exit(0)
say('main',os.getpid())
";
        let one = Instance::new(server(GIVEN, extra)).with(|spec| spec.stop.grace_ms = 1500);
        let one = if unprivileged { one.unprivileged() } else { one }.launch();
        one.ready();
        one.until_log("orphan");
        one.client().stop(false).unwrap();
        one.until("stopped", |status| status.phase == Phase::Stopped);
        let log = one.log();
        for who in ["main ", "orphan "] {
            let pid = pids_in(&log, who)[0];
            let times = pids_in(&log, "heard ").iter().filter(|heard| **heard == pid).count();
            assert_eq!(
                times, 1,
                "{who}(unprivileged: {unprivileged}) heard TERM {times} times\n{log}"
            );
        }
    }
}

#[test]
fn a_program_that_dies_with_its_shim_leaves_nothing_after_a_sweep() {
    let extra = "
if os.fork()==0:
  os.setsid(); say('grandchild',os.getpid()); time.sleep(600)
";
    let one = Instance::new(server(GIVEN, extra)).launch();
    let status = one.ready();
    let grandchild = pids_in(&one.until_log("grandchild"), "grandchild")[0];
    seaworthy_sys::process::signal_process(status.shim_pid, 9);
    gone(status.pid.unwrap());
    driver::sweep(&one.spec.id, &one.spec.run_dir).unwrap();
    gone(grandchild);
}

fn exec_error(argv: Vec<String>, change: impl FnOnce(&mut Spec, &Path)) -> (String, Code) {
    let one = Instance::new(argv);
    let dir = one.dir.path().to_owned();
    let one = one.with(|spec| change(spec, &dir)).launch();
    let status = one.until("could not exec", |status| matches!(&status.last_exit, Some(exit) if matches!(exit.reason, ExitReason::CouldNotExec(_))));
    let Some(ExitReason::CouldNotExec(what)) = status.last_exit.map(|exit| exit.reason) else {
        panic!()
    };
    (what, status.fault.unwrap().code)
}

#[test]
fn what_is_missing_for_an_exec_is_named() {
    let (what, code) = exec_error(argv(&["no-such-program-here"]), |_, _| {});
    assert_eq!(
        (what.as_str(), code),
        ("the program `no-such-program-here` is not in PATH", Code::ProgramMissing)
    );
    let (what, code) = exec_error(argv(&["no-such-folder-tool"]), |_, _| {});
    assert_eq!(
        (what.as_str(), code),
        ("the program `no-such-folder-tool` is not in PATH", Code::ProgramMissing)
    );
    let (what, code) =
        exec_error(argv(&["sh", "-c", "true"]), |spec, dir| spec.dir = dir.join("nowhere"));
    assert!(
        what.contains("working folder") && what.contains("nowhere") && code == Code::FileMissing,
        "{what}"
    );
    let (what, code) = exec_error(argv(&["./run.sh"]), |_, dir| {
        std::fs::write(dir.join("run.sh"), "#!/no/such/shell\n").unwrap();
        std::fs::set_permissions(dir.join("run.sh"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
    });
    assert!(what.contains("`/no/such/shell`") && code == Code::FileMissing, "{what}");
    let (what, code) = exec_error(argv(&["./run.sh"]), |_, dir| {
        std::fs::write(dir.join("run.sh"), "#!/bin/sh\n").unwrap()
    });
    assert!(what.contains("may not be executed") && code == Code::ProgramMissing, "{what}");
}

#[test]
fn a_missing_variable_is_the_cause_that_is_named() {
    let one =
        Instance::new(argv(&["python3", "-c", "import os; os.environ['DATABASE_URL']"])).launch();
    let status =
        one.until("a crash loop", |status| status.crash_loop && status.phase == Phase::Backoff);
    let fault = status.fault.unwrap();
    assert_eq!(fault.code, Code::CrashLoop);
    assert!(fault.causes.iter().any(|cause| cause.contains("`DATABASE_URL`")), "{fault:?}");
    assert!(fault.evidence.iter().any(|line| line.contains("KeyError")) && !fault.next.is_empty());
}

fn out_of_memory(one: Instance) {
    let one = one.with(|spec| spec.limits.memory_max = Some(64 << 20)).launch();
    let status = one.until("out of memory", |status| {
        status.last_exit.as_ref().is_some_and(|exit| exit.reason == ExitReason::OutOfMemory)
    });
    let fault = one.until("the fault", |status| status.fault.is_some()).fault.unwrap();
    assert!(
        fault.code == Code::OutOfMemory || fault.code == Code::CrashLoop,
        "{status:?} {fault:?}"
    );
}

const EATER: &str = "import time\nl=[]\nwhile True:\n  l.append(b'x'*(4<<20)); time.sleep(.02)";

#[test]
fn too_much_memory_is_ended_by_the_control_group() {
    out_of_memory(Instance::new(argv(&["python3", "-c", EATER])));
}

#[test]
fn too_much_memory_of_a_child_is_called_so_though_the_parent_ends_with_a_code() {
    out_of_memory(Instance::new(argv(&["sh", "-c", &format!("python3 -c \"{EATER}\"; exit 1")])));
}

#[test]
fn too_much_memory_is_ended_without_control_groups() {
    let one = Instance::new(argv(&["python3", "-c", EATER])).unprivileged();
    out_of_memory(one);
}

#[test]
fn memory_of_orphans_counts_without_control_groups() {
    let code = format!(
        "import os,time\nif os.fork()==0:\n  os.setsid()\n  if os.fork()==0:\n    exec({EATER:?})\n  os._exit(0)\ntime.sleep(600)"
    );
    out_of_memory(Instance::new(argv(&["python3", "-c", &code])).unprivileged());
}

#[test]
fn a_hung_program_is_restarted() {
    let one = Instance::new(server(GIVEN, "")).with(|spec| {
        spec.live.path = Some("/".to_owned());
        spec.ready.path = Some("/".to_owned());
    });
    let one = one.launch();
    let before = one.ready();
    one.client().signal("STOP").ok();
    seaworthy_sys::process::signal_process(before.pid.unwrap(), 19);
    let after = one.until("another process", |status| {
        status.phase == Phase::Ready && status.pid != before.pid
    });
    assert_eq!(after.last_exit.unwrap().reason, ExitReason::Hung);
    gone(before.pid.unwrap());
}

#[test]
fn a_live_program_that_was_never_ready_is_restarted_when_it_hangs() {
    let extra = "
def do_GET(self):
  if self.path=='/live' and not os.path.exists('hang'): self.send_response(200)
  elif self.path=='/live': time.sleep(600)
  else: self.send_response(503)
  self.send_header('Content-Length','0'); self.end_headers()
H.do_GET=do_GET
";
    let one = Instance::new(server(GIVEN, extra)).with(|spec| {
        spec.live.path = Some("/live".to_owned());
        spec.ready.path = Some("/ready".to_owned());
        spec.ready.start_ms = 600;
        spec.live.start_ms = 600;
    });
    let one = one.launch();
    let before = one.until("unready", |status| status.phase == Phase::Unready);
    assert_eq!(before.fault.unwrap().code, Code::NotReady);
    std::fs::write(one.dir.path().join("hang"), "").unwrap();
    one.until("restarted", |status| {
        status.last_exit.as_ref().is_some_and(|exit| exit.reason == ExitReason::Hung)
    });
}

#[test]
fn a_program_that_stops_listening_is_no_longer_ready() {
    let extra = "
def later():
  while not os.path.exists('close'): time.sleep(.02)
  s.shutdown(); s.server_close(); time.sleep(600)
threading.Thread(target=later).start()
";
    // The checks come more seldom than the look at the sockets: both ways must notice.
    for every_ms in [200, 11_000] {
        let one = Instance::new(server(GIVEN, extra)).with(|spec| {
            (spec.ready.every_ms, spec.ready.failures) = (every_ms, 1);
            spec.live.failures = 1_000_000;
        });
        stops_listening(&one.launch());
    }
}

fn stops_listening(one: &Instance) {
    one.ready();
    std::fs::write(one.dir.path().join("close"), "").unwrap();
    one.until("unready or restarted", |status| status.phase != Phase::Ready);
}

#[test]
fn wrong_port_other_address_and_silence_are_named() {
    // A slow machine may see "never listened" first: the right name must come and stay.
    let named = |one: Instance, code: Code| {
        let one = one.with(|spec| spec.ready.start_ms = 500).launch();
        one.until(code.as_str(), |status| {
            status.fault.as_ref().is_some_and(|fault| fault.code == code)
        });
    };
    named(Instance::new(server("'127.0.0.1',0", "")), Code::WrongPort);
    named(Instance::new(argv(&["sleep", "600"])), Code::NeverListened);
    let open = Instance::new(server("'0.0.0.0',int(os.environ['PORT'])", "")).launch();
    let status = open.ready();
    assert_eq!(status.fault.unwrap().code, Code::OtherAddress);
    assert_eq!(get(status.listening["http"]), status.pid.unwrap().to_string());
}

#[test]
fn ipv4_mapped_loopback_is_loopback() {
    let one = Instance::new(server("'::ffff:127.0.0.1',int(os.environ['PORT'])", "")).launch();
    assert_eq!(one.ready().fault, None);
}

#[test]
fn a_shim_that_is_told_to_end_stops_its_program_and_frees_its_lock() {
    let one = Instance::new(server(GIVEN, "")).launch();
    let status = one.ready();
    seaworthy_sys::process::signal_process(status.shim_pid, 15);
    gone(status.pid.unwrap());
    gone(status.shim_pid);
    assert!(!seaworthy_sys::process::Lock::is_locked(&one.spec.run_dir.join("lock")).unwrap());
}

#[test]
fn a_shim_and_its_program_hold_nothing_of_whoever_started_them() {
    let one = Instance::new(server(GIVEN, ""));
    let leak = std::fs::File::create(one.dir.path().join("leaked")).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let one = one.launch();
    let status = one.ready();
    let shim = PathBuf::from(format!("/proc/{}", status.shim_pid));
    assert_eq!(std::fs::read_link(shim.join("cwd")).unwrap(), Path::new("/"));
    let error = std::fs::read_link(shim.join("fd/2")).unwrap();
    assert_eq!(error, one.spec.run_dir.join("shim.log"));
    for pid in [status.shim_pid, status.pid.unwrap()] {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let held: Vec<PathBuf> =
            entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
        assert!(!held.iter().any(|path| path.ends_with("leaked")), "{held:?}");
    }
    assert_eq!(driver::last_words(&one.spec.run_dir), Vec::<String>::new());
}

#[test]
fn a_shim_that_cannot_begin_says_why_in_its_folder() {
    let one = Instance::new(server(GIVEN, ""));
    let one = one.launch();
    one.ready();
    driver::launch(&one.program, &one.spec).unwrap();
    let begun = Instant::now();
    while driver::last_words(&one.spec.run_dir).is_empty() {
        assert!(begun.elapsed() < LONG);
        std::thread::yield_now();
    }
    assert!(driver::last_words(&one.spec.run_dir)[0].contains("another shim owns"));
    assert_eq!(one.client().status().unwrap().phase, Phase::Ready);
}

#[test]
fn a_restart_asked_for_while_it_ends_does_not_revive_it() {
    let one = Instance::new(server(GIVEN, "signal.signal(signal.SIGTERM,signal.SIG_IGN)"))
        .with(|spec| spec.stop.grace_ms = 500)
        .launch();
    let status = one.ready();
    one.client().stop(true).unwrap();
    one.client().restart().ok();
    gone(status.shim_pid);
}

#[test]
fn secrets_reach_the_program_as_they_are_and_no_argv() {
    let one = Instance::new(argv(&["sh", "-c", "cat \"$KEY_FILE\"; echo; stat -c 'mode %a' \"$KEY_FILE\"; echo port $PORT arg $0; sleep 60", "$PORT"])).with(|spec| {
        spec.secret_files = vec![("KEY".to_owned(), "s3cret$PORT".to_owned())];
    });
    let one = one.launch();
    let log = one.until_log("arg ");
    assert!(
        log.contains("s3cret$PORT") && log.contains("mode 400") && !log.contains("arg $PORT"),
        "{log}"
    );
}

#[test]
fn nothing_is_replaced_inside_a_secret_variable() {
    let script = "echo plain=$PLAIN; echo \"secret=$SECRET.\"; sleep 60";
    let one = Instance::new(argv(&["sh", "-c", script])).with(|spec| {
        spec.environment.push(("PLAIN".to_owned(), "on-$PORT".to_owned()));
        spec.secret_environment = vec![("SECRET".to_owned(), "a$PORT$INSTANCE-b".to_owned())];
    });
    let log = one.launch().until_log("secret=");
    assert!(log.contains("secret=a$PORT$INSTANCE-b."), "{log}");
    assert!(log.contains("plain=on-") && !log.contains("plain=on-$PORT"), "{log}");
}

#[test]
fn more_open_files_than_the_host_allows_are_a_weaker_guard_and_no_failed_start() {
    for unprivileged in [false, true] {
        let one = Instance::new(server(GIVEN, ""));
        let one = if unprivileged { one.unprivileged() } else { one }
            .with(|spec| spec.limits.nofile = Some(1 << 40))
            .launch();
        let guards = one.ready().guards;
        assert!(guards.iter().any(|guard| guard.contains("`nofile`")), "{guards:?}");
    }
}

#[test]
fn a_shim_is_small() {
    let one = Instance::new(server(GIVEN, "")).launch();
    let status = one.ready();
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", status.shim_pid)).unwrap();
    let dirty: u64 = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("Private_Dirty:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
        })
        .unwrap();
    assert!(dirty <= 1024, "{dirty} KiB of private dirty memory");
    println!("{dirty} KiB");
}

#[test]
fn nonsense_on_the_socket_ends_that_connection_only() {
    let one = Instance::new(server(GIVEN, "")).launch();
    one.ready();
    for bytes in [&[0xff; 64][..], &[0, 0, 0, 2, b'{', b'}'], &[0, 0, 0, 9, 1]] {
        let mut stream =
            std::os::unix::net::UnixStream::connect(one.spec.run_dir.join("sock")).unwrap();
        stream.write_all(bytes).unwrap();
    }
    assert_eq!(one.client().status().unwrap().phase, Phase::Ready);
    assert_eq!(
        std::fs::metadata(one.spec.run_dir.join("sock")).unwrap().permissions().mode() & 0o777,
        0o600
    );
}
