//! A name server (BIND) for one test: the zone `sea.test`, which takes signed updates.
//!
//! Every name in it leads to 127.0.0.1 unless the test says otherwise.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::acme::free_port;
use super::{Place, Server, command, run};
use crate::eventually;

/// Name of the key that updates are signed with.
pub const KEY_NAME: &str = "seaworthy-test";
/// The key.
pub const KEY: &str = "c2Vhd29ydGh5LXRlc3Qta2V5LW9mLTMyLWJ5dGVzISE=";

/// A running name server.
#[derive(Debug)]
pub struct Named {
    server: Server,
    place: Place,
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
}

impl Named {
    /// Starts one; `records` are lines of the zone besides those that are always there.
    #[track_caller]
    pub fn start(records: &str) -> Self {
        let (place, port) = (Place::new(), free_port());
        let dir = place.path().display().to_string();
        let config = format!(
            "options {{ directory \"{dir}\"; pid-file none; session-keyfile none; \
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; \
             dnssec-validation no; managed-keys-directory \"{dir}\"; }};\n\
             controls {{ }};\n\
             key \"{KEY_NAME}\" {{ algorithm hmac-sha256; secret \"{KEY}\"; }};\n\
             zone \"sea.test\" {{ type primary; file \"sea.test\"; \
             update-policy {{ grant {KEY_NAME} zonesub TXT; }}; }};\n"
        );
        let zone = format!(
            "$TTL 1\n@ SOA ns root 1 3600 600 86400 1\n@ NS ns\nns A 127.0.0.1\n@ A 127.0.0.1\n* A 127.0.0.1\n{records}\n"
        );
        fs::write(place.path().join("named.conf"), config).expect("a configuration");
        fs::write(place.path().join("sea.test"), zone).expect("a zone");
        if let Some((uid, gid)) = super::unprivileged() {
            for name in ["named.conf", "sea.test"] {
                std::os::unix::fs::chown(place.path().join(name), Some(uid), Some(gid))
                    .expect("root gives files away");
            }
        }
        let mut daemon = command(Path::new("/usr/sbin/named"), place.path());
        daemon.args(["-g", "-n", "1", "-c", &format!("{dir}/named.conf")]);
        let server = Server::start(daemon, &place.path().join("log"));
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut named = Self { server, place, address };
        eventually("the name server answers", Duration::from_secs(30), || {
            named.server.must_live();
            Command::new("dig")
                .args(["+tcp", "+short", "+tries=1", "+time=1", "-p", &port.to_string()])
                .args(["@127.0.0.1", "A", "x.sea.test"])
                .output()
                .is_ok_and(|output| output.stdout == b"127.0.0.1\n")
        });
        named
    }

    /// What it says of a name, one answer a line.
    #[track_caller]
    pub fn ask(&self, kind: &str, name: &str) -> String {
        let mut dig = Command::new("dig");
        dig.args(["+tcp", "+short", "-p", &self.address.port().to_string(), "@127.0.0.1"]);
        String::from_utf8_lossy(&run(dig.args([kind, name])).stdout).into_owned()
    }

    /// Adds a TXT record to the zone, as who has the key may.
    #[track_caller]
    pub fn add_txt(&self, name: &str, value: &str) {
        let port = self.address.port();
        let update = format!(
            "server 127.0.0.1 {port}\nkey hmac-sha256:{KEY_NAME} {KEY}\nupdate add {name} 1 TXT \"{value}\"\nsend\n"
        );
        let file = self.place.path().join("update");
        fs::write(&file, update).expect("a file");
        run(Command::new("nsupdate").arg("-v").arg(&file));
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        self.server.said()
    }
}
