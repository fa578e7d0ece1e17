//! A Redis server for one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{Place, Server, command, make_certificate, run};
use crate::eventually;

/// A running server on a Unix socket with the password `s3cr:t/@`.
#[derive(Debug)]
pub struct Redis {
    server: Option<Server>,
    place: Place,
    /// 0: only its socket.
    port: u16,
    /// Whether it speaks TLS on that port.
    tls: bool,
}

impl Redis {
    /// Starts one, empty.
    #[track_caller]
    pub fn start() -> Self {
        let mut server = Self { server: None, place: Place::new(), port: 0, tls: false };
        server.launch();
        server
    }

    /// Starts one, empty, that listens on a loopback port too.
    #[track_caller]
    pub fn on_tcp() -> Self {
        let mut server =
            Self { server: None, place: Place::new(), port: super::free_port(), tls: false };
        server.launch();
        server
    }

    /// Starts one, empty, that speaks TLS on a loopback port, with a certificate of [`Self::authority`].
    #[track_caller]
    pub fn over_tls() -> Self {
        let mut server =
            Self { server: None, place: Place::new(), port: super::free_port(), tls: true };
        make_certificate(server.place.path());
        server.launch();
        server
    }

    /// The certificate of whoever made its own.
    pub fn authority(&self) -> PathBuf {
        self.place.path().join("root.pem")
    }

    /// Its URL by the port.
    pub fn tcp_url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://:s3cr%3At%2F%40@127.0.0.1:{}/0", self.port)
    }

    /// Kills it; it is gone.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.end(Signal::KILL);
        }
    }

    /// Holds it: it takes connections and says nothing.
    pub fn freeze(&mut self) {
        self.server.iter_mut().for_each(|server| server.signal(Signal::STOP));
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.server.iter_mut().for_each(|server| server.signal(Signal::CONT));
    }

    /// Starts it, empty; also again, in the same place.
    #[track_caller]
    pub fn launch(&mut self) {
        let server = self;
        let mut daemon = command(Path::new("redis-server"), server.place.path());
        let socket = server.socket().display().to_string();
        if server.tls {
            daemon.args(["--port", "0", "--tls-port", &server.port.to_string()]);
            daemon.args(["--tls-cert-file", "api.pem", "--tls-key-file", "api.key"]);
            daemon.args(["--tls-ca-cert-file", "root.pem", "--tls-auth-clients", "no"]);
        } else {
            daemon.args(["--port", &server.port.to_string()]);
        }
        daemon.args([
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            &socket,
            "--unixsocketperm",
            "777",
            "--requirepass",
            "s3cr:t/@",
            "--repl-diskless-sync-delay",
            "0",
            "--save",
            "",
            "--dir",
            ".",
        ]);
        let mut started = Server::start(daemon, &server.place.path().join("log"));
        eventually("Redis answers", Duration::from_secs(30), || {
            started.must_live();
            server.client().arg("PING").output().is_ok_and(|output| output.stdout == b"PONG\n")
        });
        server.server = Some(started);
    }

    fn socket(&self) -> PathBuf {
        self.place.path().join("s")
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let socket = self.socket().display().to_string().replace('/', "%2F");
        format!("redis://:s3cr%3At%2F%40@{socket}/0")
    }

    fn client(&self) -> Command {
        let mut client = command(Path::new("redis-cli"), self.place.path());
        client.env("REDISCLI_AUTH", "s3cr:t/@").stderr(Stdio::null()).arg("-s").arg(self.socket());
        client
    }

    /// Runs a command; its answer.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let output = run(self.client().args(words));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A client that goes on with commands from a text until it is dropped.
    #[track_caller]
    pub fn writes(&self, commands: &str) -> RedisClient {
        let file = self.place.path().join("writes");
        std::fs::write(&file, commands).expect("a file of commands");
        let mut client = self.client();
        client.stdin(std::fs::File::open(&file).expect("that file"));
        RedisClient { server: Server::start(client, &self.place.path().join("client.log")) }
    }

    /// A digest over everything that is in it, by the server itself.
    #[track_caller]
    pub fn digest(&self) -> String {
        self.run(&["DEBUG", "DIGEST"])
    }
}

/// A client that runs.
#[derive(Debug)]
pub struct RedisClient {
    server: Server,
}

impl RedisClient {
    /// Ends the test when it has ended.
    #[track_caller]
    pub fn must_run(&mut self) {
        self.server.must_live();
    }
}
