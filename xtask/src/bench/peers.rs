//! The proxies, their upstream, and their processes.
//!
//! All listen on free loopback ports and keep everything in one temporary folder. Invariants: only
//! processes that were started here are ended; ours without the edge's pid is an error, never a figure.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The headers that we put on every answer by default: the others are told to put them on too.
const PROFILE: [(&str, &str); 6] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("Permissions-Policy", "geolocation=(), microphone=(), camera=()"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin-allow-popups"),
];

/// Which proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    Haproxy,
    Seaworthy,
    /// For HTTP/3 only.
    Caddy,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Seaworthy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Seaworthy => "seaworthy",
            Self::Caddy => "caddy",
        }
    }
}

/// The folder, the upstream and our binary.
pub(super) struct Stage {
    pub(super) dir: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) upstream_port: u16,
    _upstream: Tree,
}

/// A proxy that serves.
pub(super) struct Running {
    pub(super) http: u16,
    pub(super) https: u16,
    processes: Processes,
}

enum Processes {
    Of(Tree),
    Ours(Platform),
}

/// A process with its children; ended when dropped.
struct Tree(Child);

/// Our processes, as `status --json` names them; down when dropped.
pub(super) struct Platform {
    binary: PathBuf,
    pub(super) dir: PathBuf,
}

impl Stage {
    /// Makes the folder, the certificate and the upstream.
    pub(super) fn new(binary: PathBuf) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("seaworthy-bench-{}", std::process::id()));
        fs::create_dir_all(dir.join("www"))?;
        for path in [dir.clone(), dir.join("www")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(dir.join("www/big"), vec![b'x'; 64 << 10])?;
        let part = format!("<script>let x = 1;</script><p>{}</p>\n", "text ".repeat(505));
        let page = format!("<!doctype html><title>page</title><body>{}", part.repeat(20));
        fs::write(dir.join("www/page.html"), page)?;
        certificate(&dir)?;
        let [port] = free_ports()?;
        let body =
            format!("{{\\\"status\\\":\\\"healthy\\\",\\\"pad\\\":\\\"{}\\\"}}", "x".repeat(150));
        let at = dir.display();
        let config = format!(
            "worker_processes 1; daemon off; error_log {at}/upstream.err; pid {at}/upstream.pid; worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
 server {{ listen 127.0.0.1:{port} backlog=4096;
  location / {{ default_type application/json; return 200 \"{body}\"; }}
  location /upload {{ client_max_body_size 0; proxy_pass http://127.0.0.1:{port}/; }}
  location /page.html {{ types {{ text/html html; }} root {at}/www; }}
  location /big {{ root {at}/www; }} }} }}\n"
        );
        fs::write(dir.join("upstream.conf"), config)?;
        let upstream = Tree::start("1", &["nginx", "-c", &format!("{at}/upstream.conf")], &dir)?;
        await_http(port, "localhost")?;
        Ok(Self { dir, binary, upstream_port: port, _upstream: upstream })
    }

    /// Starts a proxy on core 0 and waits until it answers.
    pub(super) fn start(&self, kind: Kind) -> Result<Running> {
        self.start_with(kind, "proxy", false)
    }

    /// Another one of the kind, beside the first.
    pub(super) fn start_twin(&self, kind: Kind) -> Result<Running> {
        self.start_with(kind, "twin", false)
    }

    /// The same, where HTTP/3 is served too.
    pub(super) fn start_http3(&self, kind: Kind) -> Result<Running> {
        self.start_with(kind, "proxy", true)
    }

    fn start_with(&self, kind: Kind, name: &str, http3: bool) -> Result<Running> {
        let [http, https] = free_ports()?;
        let at = self.dir.display();
        let processes = match kind {
            Kind::Nginx => {
                let config = format!("{at}/{name}.nginx");
                fs::write(&config, self.nginx(name, http, https))?;
                Processes::Of(Tree::start("0", &["nginx", "-c", &config], &self.dir)?)
            }
            Kind::Haproxy => {
                fs::write(self.dir.join("haproxy.cfg"), self.haproxy(http, https))?;
                Processes::Of(Tree::start(
                    "0",
                    &["haproxy", "-f", &format!("{at}/haproxy.cfg")],
                    &self.dir,
                )?)
            }
            Kind::Caddy => {
                fs::write(self.dir.join("Caddyfile"), self.caddy(http, https))?;
                let config = format!("{at}/Caddyfile");
                let home = format!("XDG_DATA_HOME={at}/caddy");
                let words = ["env", &home, "GOMAXPROCS=1", "caddy", "run", "--config", &config];
                Processes::Of(Tree::start("0", &words, &self.dir)?)
            }
            Kind::Seaworthy => Processes::Ours(self.seaworthy(name, http, https, http3)?),
        };
        await_http(http, "plain.localhost")?;
        Ok(Running { http, https, processes })
    }

    fn nginx(&self, name: &str, http: u16, https: u16) -> String {
        let (at, port) = (self.dir.display(), self.upstream_port);
        let profile =
            PROFILE.map(|(name, value)| format!("   add_header {name} \"{value}\" always;"));
        let profile = profile.join("\n");
        let common = format!(
            "proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\";
   proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
   proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
   proxy_set_header X-Forwarded-Host $host:$server_port; proxy_set_header X-Forwarded-Port $server_port;
   proxy_set_header X-Request-Id $request_id; add_header X-Request-Id $request_id always;
{profile}"
        );
        format!(
            "worker_processes 1; daemon off; error_log {at}/{name}.err; pid {at}/{name}.pid; worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{ access_log {at}/{name}.access combined buffer=32k; keepalive_requests 100000000; keepalive_timeout 600s;
 upstream u {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 100000000; }}
 ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;
 server {{ listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{https} ssl http2 backlog=4096;
  location / {{ {common} }} }}
 limit_req_zone $binary_remote_addr zone=z:10m rate=1000000r/s;
 server {{ listen 127.0.0.1:{http}; server_name featured.localhost;
  location / {{ limit_req zone=z burst=10000 nodelay; {common} }} }} }}\n"
        )
    }

    fn haproxy(&self, http: u16, https: u16) -> String {
        let (at, port) = (self.dir.display(), self.upstream_port);
        let line = |(name, value)| format!("  http-response set-header {name} \"{value}\"");
        let profile = PROFILE.map(line).join("\n");
        format!(
            "global
  nbthread 1
  maxconn 4000
  log {at}/haproxy.log local0
defaults
  mode http
  log global
  option httplog
  timeout client 600s
  timeout server 600s
  timeout connect 5s
  http-reuse always
frontend f
  bind 127.0.0.1:{http}
  bind 127.0.0.1:{https} ssl crt {at}/both.pem alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-Id
  http-response set-header X-Request-Id %[unique-id]
{profile}
  default_backend b
backend b
  server s1 127.0.0.1:{port}\n"
        )
    }

    fn caddy(&self, http: u16, https: u16) -> String {
        let (at, port) = (self.dir.display(), self.upstream_port);
        let profile = PROFILE.map(|(name, value)| format!("  {name} \"{value}\""));
        let profile = profile.join("\n");
        format!(
            "{{
 admin off
 auto_https off
 servers {{
  protocols h1 h2 h3
 }}
}}
(common) {{
 bind 127.0.0.1
 log {{
  output file {at}/caddy.access
 }}
 header {{
{profile}
  X-Request-Id {{http.request.uuid}}
 }}
 reverse_proxy 127.0.0.1:{port}
}}
http://:{http} {{
 import common
}}
https://tls.localhost:{https} {{
 tls {at}/cert.pem {at}/key.pem
 import common
}}
"
        )
    }

    fn seaworthy(&self, name: &str, http: u16, https: u16, http3: bool) -> Result<Platform> {
        let platform = self.platform(name)?;
        let listen = format!("[listen]\nhttp = \"127.0.0.1:{http}\"\n");
        let service = format!(
            "[service.app]\nupstreams = [\"http://127.0.0.1:{}\"]\n[[route]]\npaths = [\"/*\"]\nto = \"app\"\n",
            self.upstream_port
        );
        let plain = format!(
            "site = \"bench-plain\"\ndomains = [\"plain.localhost\", \"featured.localhost\", \"nonce.localhost\"]\n{listen}[tls]\nmode = \"off\"\n{service}\
             [[route]]\npaths = [\"/*\"]\nhosts = [\"featured.localhost\"]\nlimit = \"1000000/s burst 10000 by ip\"\n\
             [[route]]\npaths = [\"/*\"]\nhosts = [\"nonce.localhost\"]\ncsp = \"default-src 'self'; script-src 'nonce'\"\n"
        );
        let tls = format!(
            "site = \"bench-tls\"\ndomains = [\"tls.localhost\"]\n{listen}https = \"127.0.0.1:{https}\"\nhttp3 = {http3}\n{service}"
        );
        for (name, manifest) in [("plain", plain), ("tls", tls)] {
            let project = platform.dir.join(name);
            fs::create_dir_all(&project)?;
            fs::write(project.join("seaworthy.toml"), manifest)?;
            platform.up(&project)?;
        }
        Ok(platform)
    }

    /// What a client trusts that speaks TLS with a proxy.
    pub(super) fn authority(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Seaworthy => self.dir.join("proxy/state/ca.pem"),
            Kind::Nginx | Kind::Haproxy | Kind::Caddy => self.dir.join("cert.pem"),
        }
    }

    /// A platform of our own with an empty state folder.
    pub(super) fn platform(&self, name: &str) -> Result<Platform> {
        let dir = self.dir.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        Ok(Platform { binary: self.binary.clone(), dir })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl Running {
    /// A platform of ours that serves plain HTTP on a port.
    pub(super) fn of_ours(http: u16, platform: Platform) -> Self {
        Self { http, https: 0, processes: Processes::Ours(platform) }
    }

    fn pids(&self) -> Result<Vec<u64>> {
        match &self.processes {
            Processes::Of(tree) => Ok(tree.pids()),
            Processes::Ours(platform) => platform.pids(),
        }
    }

    /// CPU so far in ticks of 10 ms: user and system, all processes.
    pub(super) fn cpu_ticks(&self) -> Result<u64> {
        let ticks = |pid: u64| -> Option<u64> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let after_name = stat.rsplit_once(')')?.1;
            let fields: Vec<&str> = after_name.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        Ok(self.pids()?.into_iter().filter_map(ticks).sum())
    }

    /// Resident set of all processes in KiB.
    pub(super) fn rss_kib(&self) -> Result<u64> {
        Ok(self.pids()?.into_iter().map(rss_kib).sum())
    }
}

/// Resident set of a process in KiB; 0 when it is gone.
pub(super) fn rss_kib(pid: u64) -> u64 {
    kib_of(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// A `name: N kB` line of a file in `/proc`; 0 when there is none.
pub(super) fn kib_of(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Tree {
    fn start(core: &str, words: &[&str], dir: &Path) -> Result<Self> {
        let log = fs::File::create(dir.join(format!("{}.out", words[0])))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("taskset")
            .args(["-c", core])
            .args(words)
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", words[0]))?;
        Ok(Self(child))
    }

    fn pids(&self) -> Vec<u64> {
        let mut found = vec![u64::from(self.0.id())];
        let mut at = 0;
        while let Some(pid) = found.get(at).copied() {
            let file = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(file).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|one| one.parse::<u64>().ok()));
            at += 1;
        }
        found
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let pids: Vec<String> = self.pids().iter().rev().map(ToString::to_string).collect();
        Command::new("kill").arg("-TERM").args(&pids).stderr(Stdio::null()).status().ok();
        self.0.wait().ok();
    }
}

impl Platform {
    /// A verb on core 0; its processes stay there.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&self.binary).args(words);
        command.env("SEAWORTHY_STATE", self.dir.join("state"));
        command.env("SEAWORTHY_RUN", self.dir.join("run"));
        command
    }

    pub(super) fn up(&self, project: &Path) -> Result<()> {
        let output = self.command(&["up", "--detach"]).arg(project).output()?;
        if !output.status.success() {
            bail!("up failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    pub(super) fn status(&self) -> Result<Value> {
        let output = self.command(&["status", "--json"]).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("status --json: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Control, its keeper and the edge.
    pub(super) fn pids(&self) -> Result<Vec<u64>> {
        let status = self.status()?;
        let edge = status["edge"]["pid"].as_u64().context("status --json names no edge.pid")?;
        let control = status["control"]["pid"].as_u64().context("no control.pid")?;
        Ok([Some(control), status["control"]["keeper"].as_u64(), Some(edge)]
            .into_iter()
            .flatten()
            .collect())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.command(&["down", "--all"]).output().ok();
    }
}

/// Free loopback ports, held together so that they differ.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// A self-signed P-256 certificate for the peers.
fn certificate(dir: &Path) -> Result<()> {
    make_certificate(dir, "tls.localhost", "tls.localhost")?;
    let both =
        fs::read_to_string(dir.join("cert.pem"))? + &fs::read_to_string(dir.join("key.pem"))?;
    Ok(fs::write(dir.join("both.pem"), both)?)
}

/// Waits until 200 comes from a port.
fn await_http(port: u16, host: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = Command::new("curl")
            .args(["-fsS", "-o", "/dev/null", "-H", &format!("Host: {host}")])
            .arg(format!("http://127.0.0.1:{port}/"))
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(15) {
            bail!("nothing answered 200 on port {port} within 15 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `key.pem` and `cert.pem` for a host, of a subject.
pub(super) fn make_certificate(dir: &Path, subject: &str, host: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", &format!("/CN={subject}")])
        .args(["-addext", &format!("subjectAltName=DNS:{host}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()?;
    if !output.status.success() {
        bail!("openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
