//! `http3-tests`: HTTP/3 as the edge speaks it, asked by a client that has nothing in common with it (aioquic).
//!
//! The client is pinned and installed from PyPI into the target folder. Invariant: a check that does not pass fails.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::run;
use crate::setup::{FOR_HTTP3_TESTS, setup};
use crate::trial::{Trial, free_port, target};

/// Pinned: another version may see other things.
const CLIENT: &str = "aioquic==1.7.2";
/// The checks.
const PEER: &str = include_str!("http3_peer.py");
/// A name of its own: certificates are chosen by it.
const HOST: &str = "http3-tests.example";

/// Runs the checks and prints their figures.
pub(crate) fn http3_tests() -> Result<()> {
    setup(FOR_HTTP3_TESTS)?;
    let python = client()?;
    let trial = Trial::prepare("http3")?;
    let pages = trial.folder().join("site/public");
    std::fs::create_dir_all(&pages)?;
    std::fs::write(pages.join("index.html"), "<p>here</p>")?;
    std::fs::write(pages.join("large.bin"), vec![b'x'; 4 << 20])?;
    let port = free_port()?;
    trial.up(&format!(
        "site = \"http3-tests\"\ndomains = [\"{HOST}\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n\
         https = \"127.0.0.1:{port}\"\nhttp3 = true\n[tls]\nmode = \"internal\"\n\
         [service.page]\nstatic = \"public\"\n[[route]]\npaths = [\"/*\"]\nto = \"page\"\n\
         [[route]]\npaths = [\"/said\"]\nrespond = {{ body = \"said\" }}\n\
         [[route]]\npaths = [\"/small\"]\nbody_limit = \"1K\"\nrespond = {{ body = \"small\" }}\n"
    ))?;
    let peer = trial.folder().join("http3_peer.py");
    std::fs::write(&peer, PEER)?;
    run(Command::new(python).arg(peer).arg(port.to_string()).arg(HOST).arg(trial.authority()))
}

/// A Python that has the client.
fn client() -> Result<PathBuf> {
    let folder = target()?.join("tools/aioquic");
    let python = folder.join("bin/python3");
    let mut known = Command::new(&python);
    let known = known.args(["-c", "import aioquic.h3.connection"]).output();
    if !known.is_ok_and(|known| known.status.success()) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "-q", CLIENT]))?;
    }
    Ok(python)
}
