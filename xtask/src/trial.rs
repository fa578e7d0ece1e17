//! A platform with one site, for tools of others to judge.
//!
//! In a temporary folder, on free loopback ports, from a debug build; all of it is gone when the trial is dropped.
//! Not here: what the tools ask and what of their findings counts.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, run, tidy};

/// A platform; down and removed when dropped.
pub(crate) struct Trial {
    binary: PathBuf,
    folder: PathBuf,
}

impl Trial {
    /// Builds the binary and makes the folder, with `site` in it for the project.
    pub(crate) fn prepare(name: &str) -> Result<Self> {
        run(Command::new(cargo()).args(["build", "-p", "seaworthy"]))?;
        let binary = target()?.join("debug/seaworthy");
        let folder = std::env::temp_dir().join(format!("sw-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("site"))?;
        Ok(Self { binary, folder })
    }

    /// Brings the site up.
    pub(crate) fn up(&self, manifest: &str) -> Result<()> {
        std::fs::write(self.folder.join("site/seaworthy.toml"), manifest)?;
        run(&mut self.command(&["up", "--detach", "site"]))
    }

    /// Everything of the trial lies in it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The certificate authority that vouches for the site.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("state/ca.pem")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("SEAWORTHY_STATE", self.folder.join("state"));
        command.env("SEAWORTHY_RUN", self.folder.join("run"));
        command.current_dir(&self.folder).args(words);
        command
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.command(&["down", "--all"]).status().ok();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// A port of loopback that is free.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where cargo builds.
pub(crate) fn target() -> Result<PathBuf> {
    let target = tidy::metadata()?["target_directory"].as_str().map(PathBuf::from);
    target.context("cargo names no target folder")
}
