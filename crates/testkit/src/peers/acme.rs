//! Certificate authorities for one test: Pebble, and Caddy's ACME server.
//!
//! Both on free loopback ports, with a certificate of a throw-away authority on their API ([`Authority::api_root`])
//! and names resolved by the test's own name server. Pebble refuses a part of all nonces unless it is told not to,
//! as its authors recommend.

mod front;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;

pub use front::{Front, Ordered, Renewal};

use super::{Place, Server, command, command_as};
use crate::{Client, eventually};

/// How an authority is to behave.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where it looks for http-01.
    pub http: u16,
    /// Where it looks for tls-alpn-01.
    pub tls: u16,
    /// Its name server.
    pub dns: SocketAddr,
    /// So many of a hundred nonces are refused.
    pub refused_nonces: u8,
    /// Seconds that its certificates live.
    pub life: u32,
    /// Key id and key (base64url) that an account must be bound to.
    pub binding: Option<(String, String)>,
}

impl Wish {
    /// The usual: a twentieth of the nonces refused, certificates for 90 days.
    pub fn new(http: u16, tls: u16, dns: SocketAddr) -> Self {
        Self { http, tls, dns, refused_nonces: 5, life: 90 * 86_400, binding: None }
    }
}

/// A running authority.
#[derive(Debug)]
pub struct Authority {
    server: Server,
    place: Place,
    /// Its directory's URL.
    pub directory: String,
    port: u16,
    management: u16,
}

/// Where [`free_port`] looks: below what the kernel gives to those who ask for any port, of whom one may otherwise come
/// between this look and the server's.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port of loopback that nobody listens on, and that this process was not told before.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test runs beside each other begin far apart.
    let first = std::process::id().wrapping_mul(7919);
    let tried = || first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
    let mut ports = std::iter::repeat_with(|| (PORTS.start + tried()) as u16).take(PORTS.len());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

impl Authority {
    /// Starts Pebble on free ports.
    #[track_caller]
    pub fn pebble(wish: &Wish) -> Self {
        Self::pebble_at(wish, free_port())
    }

    /// Starts Pebble on that port.
    #[track_caller]
    pub fn pebble_at(wish: &Wish, port: u16) -> Self {
        let (place, management) = (Place::new(), free_port());
        make_certificate(place.path());
        let at = |name: &str| place.path().join(name).display().to_string();
        let mut config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": at("api.pem"),
            "privateKey": at("api.key"),
            "httpPort": wish.http,
            "tlsPort": wish.tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": wish.binding.is_some(),
            "certificateValidityPeriod": wish.life,
            "retryAfter": { "authz": 1, "order": 1 },
        }});
        if let Some((id, key)) = &wish.binding {
            config["pebble"]["externalAccountMACKeys"] = serde_json::json!({ id: key });
        }
        fs::write(place.path().join("config"), config.to_string()).expect("a configuration");
        let mut daemon = command(Path::new("pebble"), place.path());
        daemon.args(["-config", &at("config"), "-dnsserver", &wish.dns.to_string()]);
        daemon.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_VA_ALWAYS_VALID", "0");
        daemon.env("PEBBLE_WFE_NONCEREJECT", wish.refused_nonces.to_string());
        daemon.env("PEBBLE_AUTHZREUSE", "0");
        let server = Server::start(daemon, &place.path().join("log"));
        let directory = format!("https://127.0.0.1:{port}/dir");
        Self { server, place, directory, port, management }.ready("/dir")
    }

    /// Starts Caddy as an authority. It knows these names (lines of `/etc/hosts`) besides the system's, and looks
    /// at ports 80 and 443 of theirs, wherever a test would like it to look. Needs root, for a `/etc/hosts` of its own.
    #[track_caller]
    pub fn caddy(hosts: &str) -> Self {
        let (place, port) = (Place::new(), free_port());
        make_certificate(place.path());
        let at = |name: &str| place.path().join(name).display().to_string();
        let config = format!(
            "{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {}\n\tskip_install_trust\n}}\n\
             https://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n\ttls {} {}\n\tacme_server\n}}\n",
            at("data"),
            at("api.pem"),
            at("api.key"),
        );
        fs::write(place.path().join("Caddyfile"), config).expect("a configuration");
        let known = fs::read_to_string("/etc/hosts").unwrap_or_default();
        fs::write(place.path().join("hosts"), format!("{known}\n{hosts}\n")).expect("a file");
        let line = "mount --bind hosts /etc/hosts && exec setpriv --pdeathsig KILL --reuid=65534 \
                    --regid=65534 --clear-groups caddy run --adapter caddyfile --config Caddyfile";
        let mut daemon = command_as(None, Path::new("unshare"), place.path());
        daemon.args(["--mount", "sh", "-c", line]);
        daemon.env("HOME", place.path()).env("XDG_DATA_HOME", at("data"));
        let server = Server::start(daemon, &place.path().join("log"));
        let directory = format!("https://127.0.0.1:{port}/acme/local/directory");
        Self { server, place, directory, port, management: 0 }.ready("/acme/local/directory")
    }

    #[track_caller]
    fn ready(mut self, path: &str) -> Self {
        let client = self.client(self.port);
        eventually("the authority answers", Duration::from_secs(30), || {
            self.server.must_live();
            client.send("GET", path, &[], b"").is_ok_and(|answer| answer.status == 200)
        });
        self
    }

    fn client(&self, port: u16) -> Client {
        Client::https(([127, 0, 0, 1], port).into(), "127.0.0.1", &self.api_root())
    }

    /// The file with the root of its API's certificate.
    pub fn api_root(&self) -> PathBuf {
        self.place.path().join("root.pem")
    }

    /// A file with the root of what it issues.
    #[track_caller]
    pub fn root(&self) -> PathBuf {
        let file = self.place.path().join("issued-by.pem");
        if self.management == 0 {
            return self.place.path().join("data/pki/authorities/local/root.crt");
        }
        let answer = self.client(self.management).get("/roots/0");
        fs::write(&file, answer.text()).expect("a root");
        file
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        self.server.said()
    }

    /// Holds it: it takes connections and says nothing.
    pub fn freeze(&mut self) {
        self.server.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.server.signal(Signal::CONT);
    }
}

/// Makes a root (`root.pem`), and a certificate of it for 127.0.0.1 (`api.pem`, `api.key`), good for clients, too.
pub fn make_certificate(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(params, key).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &root);
    let leaf = leaf.expect("a certificate");
    for (name, text) in
        [("root.pem", root.pem()), ("api.pem", leaf.pem()), ("api.key", key.serialize_pem())]
    {
        fs::write(dir.join(name), text).expect("a file");
    }
    // The server runs as somebody else; the key is worth nothing.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(dir.join("api.key"), open).expect("a mode");
}
