//! `tls-tests`: an edge of ours judged by testssl.sh and by sslyze. Fails below the grade A, on any finding that is
//! serious, and on anything that Mozilla's intermediate configuration does not have.
//!
//! A site of its own on free ports, with a certificate of a throw-away authority that testssl.sh is told to trust; the
//! grade is capped for trust only where the tool cannot be told (a chain that no store of its knows).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::trial::{Trial, free_port, target};
use crate::{run, setup};

/// A name that is not local: browsers are told to come back over TLS only where it is not.
const HOST: &str = "tls-tests.example";
/// Severities that fail.
const SERIOUS: [&str; 4] = ["LOW", "MEDIUM", "HIGH", "CRITICAL"];
/// What a throw-away certificate cannot have: trust, revocation, transparency, CAA, HSTS preloading.
const OF_THE_CERTIFICATE: [&str; 7] = [
    "cert_trust",
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "cert_ocspURL",
    "DNS_CAArecord",
    "certificate_transparency",
];

/// Runs it.
pub(crate) fn tls_tests() -> Result<()> {
    setup::setup(setup::FOR_TLS_TESTS)?;
    let trial = Trial::prepare("tls")?;
    let pages = trial.folder().join("site/public");
    std::fs::create_dir_all(&pages)?;
    std::fs::write(pages.join("index.html"), "<p>here</p>")?;
    let port = free_port()?;
    trial.up(&format!(
        "site = \"tls-tests\"\ndomains = [\"{HOST}\"]\n[listen]\nhttp = \"127.0.0.1:0\"\n\
         https = \"127.0.0.1:{port}\"\n[tls]\nmode = \"internal\"\n[service.page]\nstatic = \"public\"\n"
    ))?;
    judge(&trial, port)?;
    judge_by_mozilla(&trial, port)
}

/// From PyPI; another version is a change here.
const SSLYZE: &str = "6.3.1";

/// Compares with what Mozilla recommends for servers that everybody is to reach.
fn judge_by_mozilla(trial: &Trial, port: u16) -> Result<()> {
    let output = Command::new(sslyze()?)
        .arg("--mozilla_config=intermediate")
        .arg(format!("--certinfo_ca_file={}", trial.authority().display()))
        .arg(format!("{HOST}:{port}{{127.0.0.1}}"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict = text.split("COMPLIANCE AGAINST").nth(1).unwrap_or(&text);
    if !output.status.success() || !verdict.contains("OK - Compliant") {
        bail!("sslyze is not content:\n{verdict}");
    }
    println!("sslyze: what Mozilla's intermediate configuration asks for, and nothing else");
    Ok(())
}

/// The program, in an environment of its own; installed when it is not there.
fn sslyze() -> Result<PathBuf> {
    let folder = target()?.join(format!("tools/sslyze-{SSLYZE}"));
    let program = folder.join("bin/sslyze");
    if !program.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let wanted = format!("sslyze=={SSLYZE}");
        run(Command::new(folder.join("bin/pip")).args(["install", "-q", &wanted]))?;
    }
    Ok(program)
}

fn judge(trial: &Trial, port: u16) -> Result<()> {
    let report = trial.folder().join("report.json");
    let mut tool = Command::new("testssl");
    tool.args(["--quiet", "--color", "0", "--warnings", "off", "--jsonfile"]).arg(&report);
    tool.arg("--add-ca").arg(trial.authority());
    // It ends with the number of findings; what they are is in the report.
    let output = tool
        .args(["--ip", "127.0.0.1", &format!("{HOST}:{port}")])
        .output()
        .context("could not run testssl")?;
    let text = std::fs::read_to_string(&report)
        .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let word =
        |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let grade = findings.iter().find(|one| one["id"] == "overall_grade");
    // Versions before 3.2 give none: what costs the A is among the findings.
    let grade = grade.map(|one| word(one, "finding"));
    let serious: Vec<String> = findings
        .iter()
        .filter(|one| SERIOUS.contains(&word(one, "severity").as_str()))
        .filter(|one| {
            let id = word(one, "id");
            id != "overall_grade" && !OF_THE_CERTIFICATE.iter().any(|known| id.starts_with(known))
        })
        .map(|one| {
            format!("{}: {}: {}", word(one, "severity"), word(one, "id"), word(one, "finding"))
        })
        .collect();
    let given = grade.as_deref().unwrap_or("not given by this version");
    println!(
        "testssl.sh: {} findings, {} of them serious, grade {given}",
        findings.len(),
        serious.len()
    );
    serious.iter().for_each(|line| println!("{line}"));
    if findings.len() < 50 {
        bail!("testssl looked at {} things only", findings.len());
    }
    if !serious.is_empty() || grade.is_some_and(|grade| !grade.starts_with('A')) {
        bail!("testssl is not content");
    }
    Ok(())
}
