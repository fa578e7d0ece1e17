//! How soon a new certificate is shown, and that open connections do not notice.
//!
//! A site with a certificate of its own gets another one, again and again, while connections are held open and
//! somebody shakes hands every few milliseconds. Control has a new certificate when it first reads the file: the kernel
//! notes when (`st_atime`, as it is where nobody mounts with `noatime`). From there to the end of the first
//! handshake that shows it is the figure. Not here: how soon control looks at files (every two seconds).

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::median;
use super::peers::{Stage, free_ports, make_certificate};
use super::scale::{Held, hold, words};

const HOST: &str = "tls.localhost";
/// Connections that are open all the while.
const OPEN: usize = 200;
/// In milliseconds.
const BOUND: f64 = 100.0;
/// For control to look at the files, and for the edge to show what is in them.
const PATIENCE: Duration = Duration::from_secs(20);
/// Who shakes hands.
const PROBE: &str = include_str!("certificate_probe.py");

/// Changes the certificate so many times.
pub(super) fn certificate(stage: &Stage, rounds: usize) -> Result<()> {
    println!("\ncertificate: another one, while {OPEN} connections are open");
    let [http, https] = free_ports()?;
    let platform = stage.platform("certificate")?;
    let (project, made) = (platform.dir.join("site"), platform.dir.join("made"));
    fs::create_dir_all(&project)?;
    fs::create_dir_all(&made)?;
    put(&made, &project, "first")?;
    fs::write(
        project.join("seaworthy.toml"),
        format!(
            "site = \"certificate\"\ndomains = [\"{HOST}\"]\n[listen]\nhttp = \"127.0.0.1:{http}\"\n\
             https = \"127.0.0.1:{https}\"\n[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n\
             [service.app]\nupstreams = [\"http://127.0.0.1:{}\"]\n",
            stage.upstream_port
        ),
    )?;
    platform.up(&project)?;
    let authority = platform.dir.join("trusted.pem");
    fs::copy(made.join("cert.pem"), &authority)?;
    let held = Held::start(
        &hold()?,
        OPEN,
        &words(&[
            ("habit", "idle-http1".to_owned()),
            ("address", format!("127.0.0.1:{https}")),
            ("host", HOST.to_owned()),
            ("authority", authority.display().to_string()),
        ]),
    )?;
    let mut times = Vec::new();
    let probe = platform.dir.join("probe.py");
    fs::write(&probe, PROBE)?;
    for round in 1..=rounds {
        // With an end, so that the first is not found in the tenth.
        let name = format!("number {round}.");
        let mut asking = Asking::start(&probe, https, &name)?;
        put(&made, &project, &name)?;
        let shown = asking.until_shown(&name)?;
        let had = read_at(&project.join("cert.pem"))?;
        let took = shown.saturating_sub(had).as_secs_f64() * 1000.0;
        println!("  round {round}  {took:>6.1} ms");
        times.push(took);
    }
    let counted = held.end()?;
    let worst = times.iter().copied().fold(0.0, f64::max);
    let stay = counted == format!("open {OPEN} turned-away 0");
    let usual = median(times);
    println!(
        "  shown after {usual:.1} ms, at the worst {worst:.1}   bound {BOUND}: {}   connections: {counted}",
        if usual <= BOUND && stay { "met" } else { "NOT met" }
    );
    Ok(())
}

/// A pair whose certificate has this name, put where the site has its own: the certificate last.
fn put(made: &Path, project: &Path, name: &str) -> Result<()> {
    make_certificate(made, name, HOST)?;
    for file in ["key.pem", "cert.pem"] {
        let fresh = project.join(format!("{file}.new"));
        fs::write(&fresh, fs::read(made.join(file))?)?;
        fs::rename(fresh, project.join(file))?;
    }
    Ok(())
}

/// Somebody who shakes hands until a certificate with this name is shown; ends with us.
struct Asking(Child);

impl Asking {
    fn start(probe: &Path, port: u16, name: &str) -> Result<Self> {
        let mut python = Command::new("python3");
        python.arg(probe).args([&port.to_string(), HOST, name]).stdout(Stdio::piped());
        Ok(Self(python.spawn().context("could not start python3")?))
    }

    /// When it was shown, since 1970.
    fn until_shown(&mut self, name: &str) -> Result<Duration> {
        let begun = Instant::now();
        while self.0.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                bail!("`{name}` was not shown within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        let mut output = self.0.stdout.take().context("the probe has no output")?;
        output.read_to_string(&mut said)?;
        let nanos = said.trim().parse().with_context(|| format!("the probe said `{said}`"))?;
        Ok(Duration::from_nanos(nanos))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// When somebody first read a file after it was made, since 1970.
fn read_at(file: &Path) -> Result<Duration> {
    let of = |seconds: i64, nanos: i64| -> Result<Duration> {
        Ok(Duration::new(u64::try_from(seconds)?, u32::try_from(nanos)?))
    };
    let found = fs::metadata(file)?;
    let read = of(found.atime(), found.atime_nsec())?;
    if read <= of(found.mtime(), found.mtime_nsec())? {
        bail!("the file system does not note when {} is read", file.display());
    }
    Ok(read)
}
