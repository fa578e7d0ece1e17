//! One instance under a real shim, and what tests ask of it.

use seaworthy_runtime::driver;
use seaworthy_runtime::driver::ShimClient;
use seaworthy_runtime::model::Limits;
use seaworthy_runtime::model::Log;
use seaworthy_runtime::model::Phase;
use seaworthy_runtime::model::Ports;
use seaworthy_runtime::model::Probe;
use seaworthy_runtime::model::Restart;
use seaworthy_runtime::model::Spec;
use seaworthy_runtime::model::Status;
use seaworthy_runtime::model::Stop;
use seaworthy_sys::cgroup::Delegated;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_shim-under-test");

/// Set by `cargo xtask host-test`: version 2 of control groups is there, and what it gives must be seen.
pub(crate) const PROVE: &str = "SEAWORTHY_PROVE_LIMITS";
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A server on the port and address given to it; what it does more is in `extra` (run before it serves).
pub(crate) fn server(bind: &str, extra: &str) -> Vec<String> {
    let code = format!(
        "import os,sys,socket,signal,threading,time\ndef say(*a): os.write(1,(' '.join(map(str,a))+'\\n').encode())\nfrom http.server import *\nhost,port={bind}\nclass S(ThreadingHTTPServer):\n  address_family=socket.AF_INET6 if ':' in host else socket.AF_INET\nclass H(BaseHTTPRequestHandler):\n  def do_GET(self):\n    b=str(os.getpid()).encode()\n    self.send_response(200)\n    self.send_header('Content-Length',str(len(b)))\n    self.end_headers()\n    self.wfile.write(b)\n  def log_message(self,*a): pass\n{extra}\ns=S((host,port),H)\ns.serve_forever()\n"
    );
    argv(&["python3", "-u", "-c", &code])
}

pub(crate) const GIVEN: &str = "'127.0.0.1',int(os.environ['PORT'])";

pub(crate) fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) struct Instance {
    pub(crate) dir: TempDir,
    pub(crate) spec: Spec,
    pub(crate) program: PathBuf,
}

impl Instance {
    pub(crate) fn new(argv: Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let probe = Probe {
            path: None,
            say: None,
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

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// The shim itself runs as `nobody`: no control groups, no root.
    pub(crate) fn unprivileged(mut self) -> Self {
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

    pub(crate) fn launch(self) -> Self {
        if std::env::var_os(PROVE).is_some() {
            // As control does: groups with limits hold no process themselves.
            Delegated::enter().unwrap();
        }
        driver::launch(&self.program, &self.spec, None).unwrap();
        self
    }

    pub(crate) fn client(&self) -> ShimClient {
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
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
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

    pub(crate) fn ready(&self) -> Status {
        self.until("ready", |status| status.phase == Phase::Ready)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.spec.log.path).unwrap_or_default()
    }

    pub(crate) fn until_log(&self, word: &str) -> String {
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
        driver::sweep(&self.spec.id, &self.spec.run_dir, None).ok();
    }
}

pub(crate) fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub(crate) fn gone(pid: u32) {
    let begun = Instant::now();
    while alive(pid) {
        assert!(begun.elapsed() < LONG, "process {pid} is still there");
        std::thread::yield_now();
    }
}

pub(crate) fn pids_in(log: &str, word: &str) -> Vec<u32> {
    log.lines().filter_map(|line| line.split_once(word)?.1.trim().parse().ok()).collect()
}
