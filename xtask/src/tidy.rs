//! What the compiler does not check: module documentation, direction of dependencies, paths in the documents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Layers from the top down; a crate may depend on crates of lower layers only.
const LAYERS: [&[&str]; 7] = [
    &["seaworthy"],
    &["seaworthy-cli"],
    &["seaworthy-control"],
    &[
        "seaworthy-api",
        "seaworthy-edge",
        "seaworthy-runtime",
        "seaworthy-release",
        "seaworthy-backup",
        "seaworthy-acme",
    ],
    &["seaworthy-manifest", "seaworthy-state", "seaworthy-secrets"],
    &["seaworthy-sys"],
    &["seaworthy-base"],
];

/// Words that promise work instead of doing it.
const FORBIDDEN: [&str; 3] = ["TO\u{44}O", "FIX\u{4d}E", "dbg\u{21}("];

/// Checks everything; sizes are reported, the rest fails.
pub(crate) fn tidy() -> Result<()> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for dir in ["crates", "xtask"] {
        collect(Path::new(dir), &mut files)?;
    }
    let mut lengths: Vec<(usize, PathBuf)> = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file)?;
        if !text.starts_with("//!") && !file.ends_with("tests.rs") {
            problems.push(format!("{}: does not begin with `//!`", file.display()));
        }
        for word in FORBIDDEN {
            if text.contains(word) {
                problems.push(format!("{}: holds `{word}`", file.display()));
            }
        }
        if text.contains("uns\u{61}fe {") && !file.starts_with("crates/sys") {
            problems.push(format!("{}: `unsafe` belongs into crates/sys", file.display()));
        }
        let product = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        lengths.push((product, file.clone()));
    }
    problems.extend(direction()?);
    problems.extend(dead_paths()?);
    lengths.sort();
    let at = |share: usize| lengths.get(lengths.len() * share / 100).map_or(0, |(lines, _)| *lines);
    println!(
        "{} files, lines: median {}, p90 {}, longest {}",
        lengths.len(),
        at(50),
        at(90),
        lengths.last().map_or(0, |(lines, _)| *lines)
    );
    for (lines, file) in lengths.iter().filter(|(lines, _)| *lines > 500) {
        println!("long: {} has {lines} lines", file.display());
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// What cargo knows of this workspace.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let output =
        Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    serde_json::from_slice(&output.stdout).context("cargo metadata")
}

/// Dependencies that point up or sideways.
fn direction() -> Result<Vec<String>> {
    let metadata = metadata()?;
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = layer(name) else { continue };
        let normal = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|dependency| dependency["kind"].is_null());
        for dependency in normal.filter_map(|dependency| dependency["name"].as_str()) {
            if layer(dependency).is_some_and(|other| other <= own) {
                problems.push(format!("{name} depends on {dependency}: dependencies point down"));
            }
        }
    }
    Ok(problems)
}

/// Paths between backticks in the architecture that are not there.
fn dead_paths() -> Result<Vec<String>> {
    let text = fs::read_to_string("docs/ARCHITECTURE.md")?;
    let words = text.split('`').skip(1).step_by(2);
    let paths = words.filter(|word| {
        (word.starts_with("crates/") || word.starts_with("docs/") || word.starts_with("examples/"))
            && !word.contains(' ')
    });
    Ok(paths
        .filter(|path| !Path::new(path).exists())
        .map(|path| format!("docs/ARCHITECTURE.md names `{path}`, which is not there"))
        .collect())
}
