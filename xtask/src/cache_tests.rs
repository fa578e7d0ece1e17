//! `cargo xtask cache-tests`: the cache judged by `http-cache-tests`, the suite that other proxies publish.
//!
//! Runs the suite's own server behind the binary with `cache = true` and the suite's own client in front,
//! and counts. Invariant: a required test that guards privacy may not fail, whatever the count. Tests that
//! the suite's results show no shared proxy to pass (an error of ours that has no counter of theirs) are
//! counted as failed all the same. Not here: our own rules' tests, which stand beside the rules.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run;
use crate::setup::{FOR_CACHE_TESTS, setup};
use crate::trial::{Trial, free_port};

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
    let trial = Trial::prepare("cache")?;
    let suite = fetch(trial.folder())?;
    let (origin, edge) = (free_port()?, free_port()?);
    let mut server = Command::new("node");
    server.arg("server/server.mjs").current_dir(&suite);
    server.env("npm_config_protocol", "http").env("npm_config_port", origin.to_string());
    server.env("npm_config_pidfile", trial.folder().join("pid")).stdout(Stdio::null());
    let mut server = Process(server.spawn().context("could not start the suite's server")?);
    server.wait_for(origin)?;
    trial.up(&format!(
        "site = \"suite\"\ndomains = [\"127.0.0.1\"]\n[tls]\nmode = \"off\"\n\
         [listen]\nhttp = \"127.0.0.1:{edge}\"\n[service.origin]\nupstreams = [\"http://127.0.0.1:{origin}\"]\n\
         [[route]]\npaths = [\"/*\"]\nto = \"origin\"\ncache = true\n"
    ))?;
    let mut client = Command::new("node");
    client.args(["--no-warnings", "cli.mjs"]).current_dir(&suite);
    client.env("npm_config_base", format!("http://127.0.0.1:{edge}"));
    let results = json(client.env("npm_package_config_id", ""))?;
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
