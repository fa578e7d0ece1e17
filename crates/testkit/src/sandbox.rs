//! A platform of its own for one test: folders, the binary, the processes it starts.
//!
//! The binary and the fake application are linked into the sandbox's `bin`, for two reasons: every
//! process can then be recognised as the sandbox's by its program, and a site's user can execute
//! them wherever the build lies. Sites get a name of their own too (`shop` is `shop-1a2bn3` to the binary,
//! and `shop` again in all that it prints): as root each site has a system user, and two runs must not
//! share one. Those users are removed at the end; `sw-edge`, which every platform on a server shares, stays.
//! Invariants: the folder's path is short (a Unix socket's may have 107 bytes); environment variables
//! of the test do not reach the binary.

mod build;
mod place;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::load::Target;
use crate::{Client, Output, Running, Site, Status, eventually, eventually_some, process};

/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(90);

/// Whether what needs root can be tried; says so where it cannot.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        crate::fakeapp::complain(&format!("NOT PROVEN: {what}; run as root"));
    }
    root
}

/// A platform of its own; everything it started ends with it.
#[derive(Debug)]
pub struct Sandbox {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    runs: Cell<u32>,
    /// What is added to the names of its sites.
    tag: String,
    sites: RefCell<BTreeSet<String>>,
    /// The mount namespace in which everything runs, where it has one of its own.
    place: Option<place::Place>,
}

impl Sandbox {
    /// A sandbox for that binary (`SEAWORTHY_BIN` in the environment wins).
    #[track_caller]
    pub fn new(binary: impl AsRef<Path>) -> Self {
        let chosen = std::env::var_os("SEAWORTHY_BIN")
            .map_or_else(|| binary.as_ref().to_path_buf(), PathBuf::from);
        let temporary =
            tempfile::Builder::new().prefix("sw-").tempdir_in("/tmp").expect("a folder in /tmp");
        let folder = temporary.keep();
        open(&folder, 0o711);
        for dir in ["bin", "p", "home", "out"] {
            fs::create_dir(folder.join(dir)).expect("a folder in the sandbox");
            open(&folder.join(dir), 0o755);
        }
        link(&chosen, &folder.join("bin/seaworthy"));
        link(&build::fakeapp(), &folder.join("bin/fakeapp"));
        Self {
            folder,
            environment: Vec::new(),
            runs: Cell::new(0),
            tag: tag(),
            sites: RefCell::default(),
            place: None,
        }
    }

    /// Another server: a sandbox whose sites have the same names as those of this one.
    #[track_caller]
    pub fn beside(&self, binary: impl AsRef<Path>) -> Self {
        let mut other = Self::new(binary);
        other.tag.clone_from(&self.tag);
        other
    }

    /// The same, with the state folder on a disk of its own (tmpfs) of so many MiB. Needs root.
    #[track_caller]
    pub fn on_a_disk_of(self, mebibytes: u32) -> Self {
        let state = self.state();
        fs::create_dir(&state).expect("a state folder");
        let disk = format!("mount -t tmpfs -o size={mebibytes}m,mode=711 disk {}", state.display());
        self.where_it_is_so(&disk)
    }

    /// The same, with another file in the place of one of the system's. Needs root.
    #[track_caller]
    pub fn with_file(self, path: &str, text: &str) -> Self {
        let file = self.folder.join("instead");
        fs::write(&file, text).expect("a file in the sandbox");
        self.where_it_is_so(&format!("mount --bind {} {path}", file.display()))
    }

    #[track_caller]
    fn where_it_is_so(mut self, mounts: &str) -> Self {
        assert!(self.place.is_none() && self.runs.get() == 0, "one change, before anything runs");
        self.place = Some(place::Place::start(&self.folder, mounts));
        self
    }

    /// A path of the sandbox as this test sees it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        self.place.as_ref().map_or_else(|| path.to_path_buf(), |place| place.seen(path))
    }

    /// A variable for every command, such as `SEAWORTHY_CRASH_AT`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The sandbox's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The state folder of its platform.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The fake application's program.
    pub fn fakeapp(&self) -> PathBuf {
        self.folder.join("bin/fakeapp")
    }

    /// The certificate to trust.
    pub fn ca(&self) -> PathBuf {
        self.seen(&self.state().join("ca.pem"))
    }

    /// Writes (or rewrites) a site's project folder and returns it.
    pub fn write(&self, site: &Site) -> PathBuf {
        let project = self.folder.join("p").join(&site.name);
        fs::create_dir_all(&project).expect("a project folder");
        for (path, text) in &site.files {
            let path = project.join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder"))
                .expect("folders of the project");
            fs::write(path, text).expect("a file of the project");
        }
        let text = site.text(&self.fakeapp().display().to_string());
        let (name, own) = (&site.name, self.own_name(&site.name));
        let text = text.replacen(&format!("site = \"{name}\""), &format!("site = \"{own}\""), 1);
        fs::write(project.join("seaworthy.toml"), text).expect("the manifest");
        self.sites.borrow_mut().insert(name.clone());
        project
    }

    /// The name that a site of this sandbox has in files and to the system.
    pub fn own_name(&self, site: &str) -> String {
        format!("{site}{}", self.tag)
    }

    /// A site's name (alone or in `site/service`) becomes the one that only this sandbox uses.
    fn argument(&self, word: &OsStr) -> OsString {
        let Some(text) = word.to_str() else { return word.to_owned() };
        let (site, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
        if self.sites.borrow().contains(site) {
            return format!("{}{rest}", self.own_name(site)).into();
        }
        word.to_owned()
    }

    /// A command to its end; one that takes longer than 90 s fails the test.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.spawn(arguments).finish(COMMAND_LIMIT)
    }

    /// A command that goes on.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let number = self.runs.get();
        self.runs.set(number + 1);
        let program = self.folder.join("bin/seaworthy");
        let mut command = match &self.place {
            Some(place) => place.command(&program),
            None => Command::new(program),
        };
        command.args(arguments.into_iter().map(|word| self.argument(word.as_ref())));
        command.current_dir(self.folder.join("p")).env_clear();
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        command.envs([
            ("PATH", path.as_str()),
            ("LANG", "C.UTF-8"),
            ("NO_COLOR", "1"),
            ("TZ", "UTC"),
        ]);
        command
            .env("HOME", self.folder.join("home"))
            .env("SEAWORTHY_STATE", self.state())
            .env("SEAWORTHY_RUN", self.folder.join("run"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let file = |kind: &str| self.folder.join(format!("out/{number}.{kind}"));
        Running::start(command, &self.folder, &self.tag, [file("out"), file("err")])
    }

    /// Writes the site and makes it run: `up --detach`, whatever it comes to.
    #[track_caller]
    pub fn try_up(&self, site: &Site) -> Output {
        let project = self.write(site);
        self.run([OsStr::new("up"), project.as_os_str(), OsStr::new("--detach")])
    }

    /// The same; ends the test unless it succeeds.
    #[track_caller]
    pub fn up(&self, site: &Site) -> Output {
        let output = self.try_up(site);
        output.success();
        output
    }

    /// `status --json`; ends the test when nobody answers.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.run(["status", "--json"]);
        output.success();
        Status::new(output.json())
    }

    /// What the edge holds resident, in KiB.
    #[track_caller]
    pub fn edge_memory(&self) -> u64 {
        let pid = self.status().edge_pid().expect("an edge runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// `status --json` while control may be away.
    pub fn try_status(&self) -> Option<Status> {
        let output = self.run(["status", "--json"]);
        (output.exit_code() == Some(0)).then(|| Status::new(output.json()))
    }

    /// Waits until a fault of that code is known, and returns it.
    #[track_caller]
    pub fn wait_for_fault(&self, code: &str, limit: Duration) -> serde_json::Value {
        eventually_some(&format!("a fault {code} in {}", self.last_status()), limit, || {
            self.try_status()?.fault(code)
        })
    }

    /// Waits until `site/service` has that many ready instances, and returns their processes.
    #[track_caller]
    pub fn wait_ready(&self, of: &str, count: usize, limit: Duration) -> Vec<u32> {
        eventually_some(&format!("{count} ready instances of {of}"), limit, || {
            Some(self.try_status()?.ready_pids(of)).filter(|pids| pids.len() == count)
        })
    }

    fn last_status(&self) -> String {
        self.try_status()
            .map_or_else(|| "no status".to_owned(), |status| status.document().to_string())
    }

    /// A client for the site over HTTPS.
    #[track_caller]
    pub fn https(&self, site: &Site) -> Client {
        Client::https(self.status().https(), &site.host(), &self.ca())
    }

    /// A client for the site over plain HTTP.
    #[track_caller]
    pub fn http(&self, site: &Site) -> Client {
        Client::http(self.status().http(), &site.host())
    }

    /// Where load for the site goes.
    #[track_caller]
    pub fn target(&self, site: &Site) -> Target {
        Target { address: self.status().https(), host: site.host(), ca: Some(self.ca()) }
    }

    /// `kill -9`; ends the test when the process is not one of this sandbox.
    #[track_caller]
    pub fn kill_hard(&self, pid: u32) {
        assert!(
            process::signal(pid, &self.folder, Signal::KILL),
            "process {pid} does not belong to {}",
            self.folder.display()
        );
    }

    /// Asks a process of this sandbox to end (TERM).
    #[track_caller]
    pub fn terminate(&self, pid: u32) {
        assert!(
            process::signal(pid, &self.folder, Signal::TERM),
            "process {pid} does not belong to {}",
            self.folder.display()
        );
    }

    /// `kill -9` to everything that runs here, until nothing does: what a power cut leaves.
    #[track_caller]
    pub fn cut_the_power(&self) {
        eventually("the sandbox is empty", Duration::from_secs(20), || self.sweep());
    }

    /// Kills what runs here; says whether nothing did.
    fn sweep(&self) -> bool {
        let left = self.processes();
        for one in &left {
            process::signal(one.pid, &self.folder, Signal::KILL);
        }
        left.is_empty()
    }

    /// What runs in this sandbox.
    pub fn processes(&self) -> Vec<process::Process> {
        process::inside(&self.folder)
    }

    /// Waits until nothing runs in this sandbox any more.
    #[track_caller]
    pub fn wait_for_silence(&self, limit: Duration) {
        let mut left = Vec::new();
        let begun = std::time::Instant::now();
        while begun.elapsed() < limit {
            left = self.processes();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("still running after {limit:?}: {left:#?}");
    }

    fn end_everything(&self) {
        let down = self.spawn(["down", "--all"]);
        // A binary that hangs must not hang the clean-up: Running's own drop kills it.
        let begun = std::time::Instant::now();
        while process::lives(down.pid()) && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(down);
        if std::thread::panicking() {
            self.sweep();
        } else {
            self.cut_the_power();
        }
        self.remove_users();
    }

    /// Removes the system users of its sites, known by the sandbox's tag.
    fn remove_users(&self) {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let names = users.lines().filter_map(|line| line.split(':').next());
        for name in names.filter(|name| name.starts_with("sw-") && name.ends_with(&self.tag)) {
            let mut command = Command::new("userdel");
            command.arg(name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // What is left over is a name in a list: no reason to fail a test that passed.
            command.status().ok();
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.runs.get() > 0 {
            self.end_everything();
        }
        if std::thread::panicking() {
            crate::fakeapp::complain(&format!("kept for inspection: {}", self.folder.display()));
        } else {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// `-1a2bn3`: the process and a count, so that no two sandboxes of a server have the same.
fn tag() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("-{:x}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("modes can be set");
}

/// A hard link, or a copy where the two lie on different file systems.
fn link(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)
            .unwrap_or_else(|error| panic!("`{}` cannot be used: {error}", from.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for the binary: a script that prints what it was given.
    fn pretend() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pretend");
        let script = "#!/bin/sh\n[ \"$1\" = stay ] && { sleep 60 & exit 0; }\nenv\necho \"args: $*\"\n[ \"$1\" = fail ] && exit 1\nexit 0\n";
        fs::write(&path, script).unwrap();
        open(&path, 0o755);
        (dir, path)
    }

    #[test]
    fn commands_get_a_clean_environment_and_folders_of_their_own() {
        let (_dir, binary) = pretend();
        let sandbox = Sandbox::new(binary).env("EXTRA", "1");
        let output = sandbox.run(["status", "--json"]);
        output.success().says(["args: status --json", "EXTRA=1", "NO_COLOR=1"]).never_says("CARGO");
        assert!(output.stdout().contains("SEAWORTHY_STATE=[PATH]/state"));
        assert!(sandbox.folder().as_os_str().len() < 30);
        sandbox.run(["fail"]).code(1);
    }

    #[test]
    fn what_stays_behind_is_ended_with_the_sandbox_and_its_folder_is_removed() {
        let (_dir, binary) = pretend();
        let sandbox = Sandbox::new(binary);
        sandbox.run(["stay"]).success();
        // The script's shell leaves a copy of itself that becomes `sleep` a moment later.
        let mut left = Vec::new();
        eventually("what stays is a sleeper", Duration::from_secs(5), || {
            left = sandbox.processes();
            left.iter().map(|one| one.command.as_str()).eq(["sleep 60"])
        });
        let folder = sandbox.folder().to_path_buf();
        drop(sandbox);
        assert!(!folder.exists() && !process::lives(left[0].pid));
    }

    #[test]
    fn a_site_is_written_with_the_real_path_of_the_application() {
        let (_dir, binary) = pretend();
        let sandbox = Sandbox::new(binary);
        let project = sandbox
            .write(&Site::new("shop").app("web", crate::FakeApp::new()).file("static/a.txt", "a"));
        let text = fs::read_to_string(project.join("seaworthy.toml")).unwrap();
        assert!(text.contains(&format!("run = \"{}\"", sandbox.fakeapp().display())), "{text}");
        assert_eq!(fs::read_to_string(project.join("static/a.txt")).unwrap(), "a");
    }
}
