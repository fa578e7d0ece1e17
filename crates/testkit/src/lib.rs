//! The harness of the end-to-end tests: the real binary, a state folder of its own, free ports.
//!
//! Invariants: loopback only; two test runs side by side never meet; only processes of the own state
//! folder are ended (`down --all`). Not here: tests.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a harness fails the test it serves"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One platform with a project's folder, both gone at the end.
#[derive(Debug)]
pub struct Platform {
    binary: PathBuf,
    root: tempfile::TempDir,
}

/// What a request came to.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status; 0 when there was no answer.
    pub status: u16,
    /// The head as text.
    pub head: String,
    /// The body as text.
    pub body: String,
}

impl Platform {
    /// A platform that runs `binary`, with this manifest below `[listen]` on free loopback ports.
    pub fn new(binary: &str, manifest: &str) -> Self {
        let root = tempfile::Builder::new().prefix("sw-").tempdir().unwrap();
        for dir in [root.path().to_path_buf(), root.path().join("project")] {
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let platform = Self { binary: binary.into(), root };
        platform.manifest(manifest);
        platform
    }

    /// The project's folder.
    pub fn project(&self) -> PathBuf {
        self.root.path().join("project")
    }

    /// Writes the manifest anew.
    pub fn manifest(&self, text: &str) {
        let listen = "[listen]\nhttp = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:0\"\n";
        let at = text.find("\n[").map_or(text.len(), |at| at + 1);
        self.file("seaworthy.toml", &format!("{}{listen}{}", &text[..at], &text[at..]));
    }

    /// Writes a file of the project.
    pub fn file(&self, name: &str, text: &str) {
        let path = self.project().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The command, ready to be given a verb.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("NO_COLOR", "1")
            .env("SEAWORTHY_STATE", self.root.path().join("state"))
            .env("SEAWORTHY_RUN", self.root.path().join("run"));
        command.current_dir(self.root.path());
        command
    }

    /// Runs a verb to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// `up --detach`; what it said when it failed is in the panic.
    pub fn up(&self) {
        let output = self.try_up();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// `up --detach`.
    pub fn try_up(&self) -> Output {
        self.run(&["up", "project", "--detach"])
    }

    /// `status --json`.
    pub fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// What `status` shows people.
    pub fn shown(&self) -> String {
        String::from_utf8(self.run(&["status"]).stdout).unwrap()
    }

    /// The first instance in `status --json`.
    pub fn instance(&self) -> Value {
        self.status()["sites"][0]["services"][0]["instances"][0].clone()
    }

    /// The certificate of the platform's authority.
    pub fn ca(&self) -> PathBuf {
        self.root.path().join("state/ca.pem")
    }

    /// The address of plain HTTP.
    pub fn http(&self) -> String {
        self.status()["edge"]["http"][0].as_str().unwrap_or_default().to_owned()
    }

    /// One GET over plain HTTP on a fresh connection.
    pub fn get(&self, address: &str, host: &str, path: &str) -> Answer {
        raw(
            address,
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.run(&["down", "--all"]);
    }
}

/// Sends bytes and reads until the end.
pub fn raw(address: &str, bytes: &[u8]) -> Answer {
    let mut text = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        if stream.write_all(bytes).is_ok() {
            stream.read_to_end(&mut text).ok();
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Waits until something is true, looking often; fails the test when it does not become true.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < Duration::from_secs(30), "did not come true within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a process as `kill -9` does.
pub fn kill(pid: &Value) {
    let pid = pid.as_u64().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Whether a file exists.
pub fn exists(path: &Path) -> bool {
    path.exists()
}
