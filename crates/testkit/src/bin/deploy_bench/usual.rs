//! What people do otherwise, under the same load: nginx with two upstreams and a reload, and PM2's reload.
//!
//! As the guides have it: the new processes are started and waited for, nginx's list is rewritten and reloaded,
//! the old processes are ended by TERM and finish what they have; PM2 replaces the workers of a cluster that
//! ends in peace on SIGINT. Everything listens on free loopback ports and ends with this. Not here: opinions.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use seaworthy_testkit::load::{Load, RunningLoad, Target};
use seaworthy_testkit::peers::free_port;
use seaworthy_testkit::{Sandbox, eventually, process};

use super::{LIMIT, Plan, Row};

/// A stage of its own.
struct Stage {
    dir: tempfile::TempDir,
    fakeapp: PathBuf,
    https: u16,
    // Its folder holds the application's program.
    _sandbox: Sandbox,
}

/// A process that ends with this value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// TERM, and however long it takes then.
    fn end(&mut self) {
        run(Command::new("kill").args(["-TERM", &self.0.id().to_string()]));
        self.0.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if process::lives(self.0.id()) {
            self.0.kill().ok();
        }
        self.0.wait().ok();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1))
        .is_ok()
}

impl Stage {
    fn new(plan: &Plan) -> Self {
        let sandbox = Sandbox::new(&plan.binary);
        let dir = tempfile::Builder::new().prefix("sw-").tempdir_in("/tmp");
        let dir = dir.unwrap_or_else(|error| panic!("{error}"));
        let subject =
            ["-subj", "/CN=bench.localhost", "-addext", "subjectAltName=DNS:bench.localhost"];
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"])
            .args(subject)
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(dir.path()));
        Self { dir, fakeapp: sandbox.fakeapp(), https: free_port(), _sandbox: sandbox }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self, plan: &Plan) -> RunningLoad {
        let target = Target {
            address: ([127, 0, 0, 1], self.https).into(),
            host: "bench.localhost".to_owned(),
            ca: Some(self.path("cert.pem")),
        };
        let load = Load::new(target).mixed(plan.rate).web_sockets(plan.web_sockets);
        let running = load.start(Duration::from_secs(3600));
        eventually("load flows", LIMIT, || running.so_far().ok() > 20);
        running
    }

    fn configure(&self, ports: &[u16]) {
        let servers: String = ports
            .iter()
            .fold(String::new(), |all, port| all + &format!("server 127.0.0.1:{port};\n"));
        let text = format!(
            "worker_processes 2;\npid {pid};\nerror_log {log};\nevents {{ worker_connections 4096; }}\n\
             http {{\n access_log off;\n map $http_upgrade $how {{ default upgrade; '' ''; }}\n\
             upstream app {{\n{servers}keepalive 32;\n}}\n\
             server {{\n listen 127.0.0.1:{port} ssl http2;\n ssl_certificate {cert};\n ssl_certificate_key {key};\n\
             location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Host $host;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $how; }}\n }}\n}}\n",
            pid = self.path("pid").display(),
            log = self.path("error.log").display(),
            port = self.https,
            cert = self.path("cert.pem").display(),
            key = self.path("key.pem").display(),
        );
        fs::write(self.path("nginx.conf"), text).unwrap_or_else(|error| panic!("{error}"));
    }

    fn nginx(&self) -> Command {
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(self.path("nginx.conf")).arg("-e").arg(self.path("error.log"));
        nginx
    }

    fn start_nginx(&self) -> Running {
        let running = Running::start(self.nginx().args(["-g", "daemon off;"]));
        eventually("nginx listens", LIMIT, || listens(self.https));
        running
    }

    fn applications(&self) -> Vec<(u16, Running)> {
        let started: Vec<(u16, Running)> = (0..2)
            .map(|_| {
                let port = free_port();
                let mut command = Command::new(&self.fakeapp);
                (port, Running::start(command.env("PORT", port.to_string())))
            })
            .collect();
        eventually("the applications listen", LIMIT, || {
            started.iter().all(|(port, _)| listens(*port))
        });
        started
    }
}

fn ports(applications: &[(u16, Running)]) -> Vec<u16> {
    applications.iter().map(|(port, _)| *port).collect()
}

/// Two upstreams, rewritten and reloaded.
pub(crate) fn nginx(plan: &Plan) -> Row {
    println!("== nginx reload: {} times at {} requests/s", plan.times, plan.rate);
    let stage = Stage::new(plan);
    let mut old = stage.applications();
    stage.configure(&ports(&old));
    let nginx = stage.start_nginx();
    let running = stage.load(plan);
    for _ in 0..plan.times {
        let new = stage.applications();
        stage.configure(&ports(&new));
        run(stage.nginx().args(["-s", "reload"]));
        // `reload` says nothing of its end; the guides wait a second.
        std::thread::sleep(Duration::from_secs(1));
        old.iter_mut().for_each(|(_, one)| one.end());
        old = new;
    }
    let report = running.stop();
    drop(nginx);
    print!("{report}");
    Row { promised: false, ..Row::new("nginx reload", report) }
}

/// What the load asks for, as a Node application that ends in peace.
const APPLICATION: &str = "\
const http = require('http');
const { WebSocketServer } = require('ws');
const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  response.end(url.searchParams.get('text') ?? '');
});
const sockets = new WebSocketServer({ server });
sockets.on('connection', (socket) => socket.on('message', (text, binary) => socket.send(text, { binary })));
server.listen(process.env.PORT, '127.0.0.1');
process.on('SIGINT', () => {
  sockets.clients.forEach((socket) => socket.close(1001));
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
";

/// A cluster of two behind nginx, reloaded.
pub(crate) fn pm2(plan: &Plan) -> Row {
    println!("== pm2 reload: {} times at {} requests/s", plan.times, plan.rate);
    let stage = Stage::new(plan);
    let dir = stage.dir.path();
    fs::write(stage.path("app.js"), APPLICATION).unwrap_or_else(|error| panic!("{error}"));
    run(Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "pm2@6", "ws@8"])
        .current_dir(dir));
    let port = free_port();
    let home = stage.path("home");
    let pm2 = |words: &[&str]| run(pm2_command(dir, &home, port).args(words));
    pm2(&["start", "app.js", "--name", "web", "-i", "2"]);
    eventually("the cluster listens", LIMIT, || listens(port));
    stage.configure(&[port]);
    let nginx = stage.start_nginx();
    let running = stage.load(plan);
    for _ in 0..plan.times {
        pm2(&["reload", "web"]);
    }
    let report = running.stop();
    drop(nginx);
    pm2(&["kill"]);
    print!("{report}");
    Row { promised: false, ..Row::new("pm2 reload", report) }
}

fn pm2_command(dir: &Path, home: &Path, port: u16) -> Command {
    let mut command = Command::new(dir.join("node_modules/.bin/pm2"));
    command.current_dir(dir).env("PM2_HOME", home).env("PORT", port.to_string());
    command.stdin(Stdio::null());
    command
}
