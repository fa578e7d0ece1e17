//! `http2-tests`: HTTP/2 as the edge speaks it, judged by httpwg-cli, the cases of RFC 9113.
//!
//! The suite speaks no TLS, so HAProxy stands in between and carries bytes: it adds the handshake and nothing else.
//! The suite is pinned and built from crates.io into the target folder. Invariant: a case that is not passed fails.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::{FOR_HTTP2_TESTS, setup};
use crate::trial::{Trial, free_port, target};
use crate::{cargo, run};

/// Pinned: another version may hold other cases.
const VERSION: &str = "0.2.5";
/// How long the suite waits for a frame, in milliseconds: the machine may be busy.
const PATIENCE: &str = "2000";

/// Runs the suite and prints its figures.
pub(crate) fn http2_tests() -> Result<()> {
    setup(FOR_HTTP2_TESTS)?;
    let suite = suite()?;
    let trial = Trial::prepare("http2")?;
    run(Command::new(cargo()).args(["build", "-p", "seaworthy-testkit", "--bin", "fakeapp"]))?;
    let app = target()?.join("debug/fakeapp");
    let https = free_port()?;
    // It thinks: streams that are to be open at the same time would be answered one after the other.
    trial.up(&format!(
        "site = \"http2-tests\"\ndomains = [\"localhost\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n\
         https = \"127.0.0.1:{https}\"\n[tls]\nmode = \"internal\"\n\
         [service.app]\nrun = \"{} --think 100ms\"\nhealth = \"/health\"\n",
        app.display()
    ))?;
    let tunnel = Tunnel::start(&trial, https)?;
    let output = Command::new(suite)
        .args(["-a", &format!("127.0.0.1:{}", tunnel.port), "--frame-timeout", PATIENCE])
        .output()
        .context("could not run httpwg-cli")?;
    report(&String::from_utf8_lossy(&output.stderr))
}

/// The suite's program, built where it is not there yet.
fn suite() -> Result<PathBuf> {
    let root = target()?.join("tools");
    let program = root.join("bin/httpwg");
    if !program.is_file() {
        run(Command::new(cargo())
            .args(["install", "--locked", "--version", VERSION, "httpwg-cli", "--root"])
            .arg(&root))?;
    }
    Ok(program)
}

fn report(text: &str) -> Result<()> {
    let passed = text.lines().filter(|line| line.contains("Test passed:")).count();
    let failed: Vec<&str> = text.lines().filter(|line| line.contains("Test failed:")).collect();
    println!("{passed} of {} cases passed", passed + failed.len());
    if !failed.is_empty() {
        bail!(
            "{}",
            text.lines().filter(|line| !line.contains("passed:")).collect::<Vec<_>>().join("\n")
        );
    }
    if passed < 100 {
        bail!("the suite ran {passed} cases only:\n{text}");
    }
    Ok(())
}

/// Plain bytes in, the same bytes over TLS out.
struct Tunnel {
    port: u16,
    process: Child,
}

impl Tunnel {
    fn start(trial: &Trial, https: u16) -> Result<Self> {
        let port = free_port()?;
        let config = format!(
            "defaults\n  mode tcp\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n\
             listen tunnel\n  bind 127.0.0.1:{port}\n  \
             server edge 127.0.0.1:{https} ssl verify required ca-file {} alpn h2 sni str(localhost)\n",
            trial.authority().display()
        );
        let file = trial.folder().join("tunnel.cfg");
        std::fs::write(&file, config)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-f").arg(file).env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let process = haproxy.stdout(Stdio::null()).spawn().context("could not start haproxy")?;
        let mut tunnel = Self { port, process };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if tunnel.process.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(10) {
                bail!("haproxy does not listen");
            }
            std::thread::yield_now();
        }
        Ok(tunnel)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
