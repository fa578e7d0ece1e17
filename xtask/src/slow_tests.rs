//! `slow-tests`: clients that are slow on purpose, judged by slowhttptest in its four modes.
//!
//! The tool opens thousands of connections and asks, all the while, whether it is still served. The bound of
//! connections for each address is lifted, because the tool's own question comes from the same address as its attack;
//! what remains is what the edge can bear. The slow body goes to an application that reads it, the rest to files.
//! Invariants: a single moment without an answer fails, and so does an attack that was none.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{FOR_SLOW_TESTS, setup};
use crate::trial::{Trial, free_port, target};
use crate::{cargo, run};

/// Connections of the attack.
const CONNECTIONS: &str = "4000";
/// How long each mode goes on, in seconds.
const LENGTH: &str = "40";
/// A file that a slow reader does not get into its buffers at once.
const LARGE: usize = 4 << 20;

/// Connections that an attack must have had open at once to be one.
const ENOUGH: u64 = 2000;

/// The modes: name, flags, path, and whether it can hold connections: ranges are answered at once.
const MODES: [(&str, &[&str], &str, bool); 4] = [
    ("slow head", &["-H", "-i", "5", "-t", "GET"], "/", true),
    ("slow body", &["-B", "-i", "5", "-s", "8192", "-t", "POST"], "/app/echo", true),
    ("range", &["-R", "-a", "10", "-b", "3000", "-t", "HEAD"], "/large.bin", false),
    (
        "slow read",
        &["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
        "/large.bin",
        true,
    ),
];

/// Runs the four modes and prints what the tool saw.
pub(crate) fn slow_tests() -> Result<()> {
    setup(FOR_SLOW_TESTS)?;
    let trial = Trial::prepare("slow")?;
    let pages = trial.folder().join("site/public");
    std::fs::create_dir_all(&pages)?;
    std::fs::write(pages.join("index.html"), "<p>here</p>")?;
    std::fs::write(pages.join("large.bin"), vec![b'x'; LARGE])?;
    run(Command::new(cargo()).args(["build", "-p", "seaworthy-testkit", "--bin", "fakeapp"]))?;
    let app = target()?.join("debug/fakeapp");
    let port = free_port()?;
    trial.up(&format!(
        "site = \"slow-tests\"\ndomains = [\"127.0.0.1\"]\n[tls]\nmode = \"off\"\n\
         [listen]\nhttp = \"127.0.0.1:{port}\"\nconnections_per_address = 20000\n\
         [service.page]\nstatic = \"public\"\n\
         [service.app]\nrun = \"{}\"\nnofile = 8192\n\
         [[route]]\npaths = [\"/*\"]\nto = \"page\"\n\
         [[route]]\npaths = [\"/app/*\"]\nto = \"app\"\nrewrite = {{ strip = \"/app\" }}\n",
        app.display()
    ))?;
    let mut failed = Vec::new();
    for (name, flags, path, holds) in MODES {
        let seconds = mode(trial.folder(), flags, &format!("http://127.0.0.1:{port}{path}"))?;
        let most = seconds.iter().map(|one| one.connected).max().unwrap_or(0);
        let silent = seconds.iter().filter(|one| !one.available).count();
        println!(
            "{name:<9}  {} seconds, up to {most} connections, {silent} seconds without an answer",
            seconds.len()
        );
        if silent > 0 || seconds.len() < 5 || (holds && most < ENOUGH) {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not served all the while: {}", failed.join(", "));
    }
    Ok(())
}

/// What the tool saw in a second.
struct Second {
    connected: u64,
    available: bool,
}

/// Runs one mode; the tool writes a line for each second.
fn mode(folder: &Path, flags: &[&str], url: &str) -> Result<Vec<Second>> {
    let report = folder.join("report");
    let mut tool = Command::new("slowhttptest");
    tool.args(["-c", CONNECTIONS, "-r", "400", "-l", LENGTH, "-p", "3", "-v", "0", "-g", "-o"]);
    let output = tool.arg(&report).args(flags).args(["-u", url]).output()?;
    let text = std::fs::read_to_string(report.with_extension("csv"))
        .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
    // Seconds,Closed,Pending,Connected,Service Available
    let mut seconds = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let number = |index: usize| -> Result<u64> {
            fields
                .get(index)
                .with_context(|| line.to_owned())?
                .parse()
                .context("slowhttptest's table")
        };
        seconds.push(Second { connected: number(3)?, available: number(4)? > 0 });
    }
    Ok(seconds)
}
