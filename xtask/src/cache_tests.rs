//! `cargo xtask cache-tests`: the cache judged by `http-cache-tests`, the suite that other proxies publish.
//!
//! Runs the suite's own server behind the binary with `cache = true` and the suite's own client in front,
//! and counts. Invariant: a required test that guards privacy may not fail, whatever the count. Tests that
//! the suite's results show no shared proxy to pass (an error of ours that has no counter of theirs) are
//! counted as failed all the same. Not here: our own rules' tests, which stand beside the rules.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::setup::{FOR_CACHE_TESTS, setup};
use crate::{cargo, run, tidy};

/// The suite, pinned: another version may count differently.
const SUITE: &str = "http-cache-tests@0.4.5";
/// What must pass of the required tests (nginx 96, Varnish 118, Squid 134).
const NEEDED: usize = 120;
/// Required tests whose failure would show one person's answer to another.
const PRIVACY: [&str; 8] = [
    "cc-resp-private-shared",
    "cc-resp-no-store",
    "cc-resp-no-store-case-insensitive",
    "cc-resp-no-store-fresh",
    "other-authorization",
    "freshness-max-age-s-maxage-private",
    "freshness-max-age-s-maxage-private-multiple",
    "vary-no-match",
];

/// Prints each test's kind; run in the suite's folder.
const KINDS: &str = "import tests from './tests/index.mjs'; const kinds = {}; \
    for (const suite of tests) for (const test of suite.tests) \
    if (!test.browser_only) kinds[test.id] = test.kind || 'required'; console.log(JSON.stringify(kinds))";

/// Runs the suite and prints its figures.
pub(crate) fn cache_tests() -> Result<()> {
    setup(FOR_CACHE_TESTS)?;
    let folder = Folder::new()?;
    let suite = fetch(&folder.0)?;
    run(Command::new(cargo()).args(["build", "-p", "seaworthy"]))?;
    let target = tidy::metadata()?["target_directory"].as_str().map(PathBuf::from);
    let binary = target.context("cargo names no target folder")?.join("debug/seaworthy");
    let (origin, edge) = (free_port()?, free_port()?);
    let mut server = Command::new("node");
    server.arg("server/server.mjs").current_dir(&suite);
    server.env("npm_config_protocol", "http").env("npm_config_port", origin.to_string());
    server.env("npm_config_pidfile", folder.0.join("pid")).stdout(Stdio::null());
    let mut server = Process(server.spawn().context("could not start the suite's server")?);
    server.wait_for(origin)?;
    let platform = Platform::up(&binary, &folder.0, origin, edge)?;
    let mut client = Command::new("node");
    client.args(["--no-warnings", "cli.mjs"]).current_dir(&suite);
    client.env("npm_config_base", format!("http://127.0.0.1:{edge}"));
    let results = json(client.env("npm_package_config_id", ""))?;
    drop(platform);
    let kinds = ["--no-warnings", "--input-type=module", "-e", KINDS];
    report(&json(Command::new("node").args(kinds).current_dir(&suite))?, &results)
}

fn report(kinds: &Value, results: &Value) -> Result<()> {
    let kinds = kinds.as_object().context("the suite lists no tests")?;
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failed = Vec::new();
    for (test, kind) in kinds {
        let (kind, passed) = (kind.as_str().unwrap_or_default(), results[test] == true);
        let count = counts.entry(kind).or_default();
        *count = (count.0 + usize::from(passed), count.1 + 1);
        if kind == "required" && !passed {
            failed.push(test.as_str());
        }
    }
    for test in &failed {
        println!("failed: {test}: {}", results[*test]);
    }
    for (kind, (passed, all)) in &counts {
        println!("{kind}: {passed} of {all}");
    }
    let leaks: Vec<&&str> = failed.iter().filter(|test| PRIVACY.contains(*test)).collect();
    if !leaks.is_empty() {
        bail!("what is somebody's own was shown to others: {leaks:?}");
    }
    let passed = counts.get("required").map_or(0, |count| count.0);
    if passed < NEEDED {
        bail!("{passed} required tests passed, {NEEDED} are needed");
    }
    Ok(())
}

/// A temporary folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let place = std::env::temp_dir().join(format!("cache-tests-{}", std::process::id()));
        std::fs::create_dir_all(place.join("site"))?;
        Ok(Self(place))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The suite, unpacked, with what it needs.
fn fetch(folder: &Path) -> Result<PathBuf> {
    let quiet = |command: &mut Command| run(command.stdout(Stdio::null()).stderr(Stdio::null()));
    quiet(Command::new("npm").args(["pack", SUITE]).current_dir(folder))
        .context("npm could not fetch the suite")?;
    let archive = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let archive = archive.into_iter().find(|path| path.extension().is_some_and(|end| end == "tgz"));
    let archive = archive.context("npm packed nothing")?;
    quiet(Command::new("tar").arg("xzf").arg(&archive).current_dir(folder))?;
    // Beside the suite, not in it: its own list asks for a whole npm.
    let needs = ["install", "--no-save", "--ignore-scripts", "--prefix", ".", "node-fetch@2"];
    quiet(Command::new("npm").args(needs).current_dir(folder))
        .context("npm could not fetch what the suite needs")?;
    Ok(folder.join("package"))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn json(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::inherit()).output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{command:?}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// A process that ends with us.
struct Process(Child);

impl Process {
    fn wait_for(&mut self, port: u16) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if self.0.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(20) {
                bail!("the suite's server does not listen");
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A platform of its own, taken down at the end.
struct Platform {
    binary: PathBuf,
    folder: PathBuf,
}

impl Platform {
    fn up(binary: &Path, folder: &Path, origin: u16, edge: u16) -> Result<Self> {
        let manifest = format!(
            "site = \"suite\"\ndomains = [\"127.0.0.1\"]\n[tls]\nmode = \"off\"\n\
             [listen]\nhttp = \"127.0.0.1:{edge}\"\n[service.origin]\nupstreams = [\"http://127.0.0.1:{origin}\"]\n\
             [[route]]\npaths = [\"/*\"]\nto = \"origin\"\ncache = true\n"
        );
        std::fs::write(folder.join("site/seaworthy.toml"), manifest)?;
        let platform = Self { binary: binary.to_owned(), folder: folder.to_owned() };
        run(&mut platform.command(&["up", "--detach", "site"]))?;
        Ok(platform)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--state").arg(self.folder.join("state")).args(words);
        command.env("SEAWORTHY_RUN", self.folder.join("run")).current_dir(&self.folder);
        command
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.command(&["down", "--all"]).status().ok();
    }
}
