//! An OpenSSH server for one test: SFTP only, one key, one user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Place, Server, command_as, run, unprivileged};
use crate::eventually;

/// As whom it runs for root: sshd takes `nobody` for a locked account.
const USER: (u32, u32) = (1, 1);

/// A running server on a loopback port.
#[derive(Debug)]
pub struct Sshd {
    server: Option<Server>,
    place: Place,
    /// Where it listens.
    pub port: u16,
    /// Who may log in: the user it runs as.
    pub user: String,
}

fn as_whom() -> Option<(u32, u32)> {
    unprivileged().map(|_| USER)
}

impl Sshd {
    /// Makes keys and starts one.
    #[track_caller]
    pub fn start() -> Self {
        let place = Place::new();
        let at = |name: &str| place.path().join(name).display().to_string();
        for name in ["host", "client"] {
            run(Command::new("ssh-keygen").args([
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                &at(name),
            ]));
        }
        fs::copy(at("client.pub"), at("authorized")).expect("the client's key");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\nForceCommand internal-sftp\n",
            at("host"),
            at("authorized")
        );
        fs::write(at("config"), config).expect("a configuration");
        for entry in fs::read_dir(place.path()).expect("the folder").flatten() {
            if let Some((uid, gid)) = as_whom() {
                chown(entry.path(), Some(uid), Some(gid)).expect("root gives files away");
            }
        }
        if let Some((uid, gid)) = as_whom() {
            chown(place.path(), Some(uid), Some(gid)).expect("root gives folders away");
        }
        fs::set_permissions(at("client"), fs::Permissions::from_mode(0o600)).expect("its mode");
        let uid = as_whom().map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid);
        let user = run(Command::new("id").args(["-un", &uid.to_string()]));
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        let mut sshd = Self { server: None, place, port, user };
        sshd.restart();
        sshd
    }

    /// Starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        let mut daemon = command_as(as_whom(), "/usr/sbin/sshd".as_ref(), self.place.path());
        daemon.args(["-D", "-e", "-f"]).arg(self.place.path().join("config"));
        let mut started = Server::start(daemon, &self.place.path().join("log"));
        eventually("sshd listens", Duration::from_secs(30), || {
            started.must_live();
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.server = Some(started);
    }

    /// Ends it, with the sessions that it serves.
    pub fn stop(&mut self) {
        drop(self.server.take());
        for session in crate::process::inside(self.place.path()) {
            crate::process::signal(session.pid, self.place.path(), rustix::process::Signal::KILL);
        }
    }

    /// A folder that the user may write.
    pub fn folder(&self) -> PathBuf {
        self.place.path().join("files")
    }

    /// The client's private key.
    pub fn key(&self) -> String {
        fs::read_to_string(self.place.path().join("client")).expect("the client's key")
    }

    /// The server's public key.
    pub fn host_key(&self) -> String {
        let text = fs::read_to_string(self.place.path().join("host.pub")).expect("the host's key");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// What it said.
    pub fn said(&self) -> String {
        self.server.as_ref().map(Server::said).unwrap_or_default()
    }
}
