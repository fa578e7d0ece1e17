//! How `redis-cli` reaches a server: the password in its environment, never in an argument.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_base::{Code, Fault};

use crate::model::RunAs;
use crate::shut_in::ShutIn;
use crate::tool::{STALL, Tool};
use crate::url::{self, DatabaseUrl};
use crate::work::{Temporary, Work};

/// The port that a server has unless it is told otherwise.
const PORT: u16 = 6379;

/// Takes a URL apart; `unix:///path?db=1` is a socket's.
pub(super) fn parse(text: &str) -> Result<DatabaseUrl, Fault> {
    let mut url = url::parse(text, &["redis", "rediss", "valkey", "valkeys", "unix"])?;
    if url.scheme == "unix" {
        url.host = url.database.take().map(|path| format!("/{path}"));
        url.database = url.params.get("db").cloned();
    }
    Ok(url)
}

/// A client of one server.
#[derive(Debug)]
pub(super) struct Client {
    words: Vec<String>,
    password: Option<String>,
    dir: PathBuf,
    run_as: Option<RunAs>,
    shut_in: ShutIn,
    stall: Duration,
    shown: String,
}

impl Client {
    pub(super) fn new(url: &DatabaseUrl, scratch: &Temporary, work: &Work) -> Self {
        let mut words = Vec::new();
        match &url.host {
            Some(path) if path.starts_with('/') => words.extend(["-s".to_owned(), path.clone()]),
            host => {
                let host = host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
                words.extend([
                    "-h".to_owned(),
                    host,
                    "-p".to_owned(),
                    url.port.unwrap_or(PORT).to_string(),
                ]);
            }
        }
        if matches!(url.scheme.as_str(), "rediss" | "valkeys") {
            words.push("--tls".to_owned());
        }
        if let Some(user) = &url.user {
            words.extend(["--user".to_owned(), user.clone()]);
        }
        words.push("--no-auth-warning".to_owned());
        Self {
            words,
            password: url.password.clone(),
            dir: scratch.path().to_path_buf(),
            run_as: work.job.run_as.clone(),
            shut_in: ShutIn::client_of(url, PORT, Vec::new()),
            stall: work.patience(STALL),
            shown: url.shown(),
        }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The client, connected to that server.
    pub(super) fn tool(&self) -> Result<Tool, Fault> {
        let password = self.password.iter().map(|text| ("REDISCLI_AUTH".to_owned(), text.clone()));
        let tool = Tool::new("redis-cli", &self.dir, self.run_as.as_ref());
        Ok(tool.shut_in(self.shut_in.clone()).stall(self.stall).args(&self.words).envs(password))
    }

    /// Runs one command; its answer. Answers that are errors are faults (`redis-cli` ends well with them).
    pub(super) fn run(&self, words: &[&str]) -> Result<String, Fault> {
        let answer =
            self.tool()?.args(["-e"]).args(words).output(Code::BackupSource).map_err(|fault| {
                let cause = fault
                    .evidence
                    .iter()
                    .find(|line| !line.is_empty())
                    .cloned()
                    .unwrap_or_else(|| fault.causes.join(": "));
                Fault {
                    what: format!("{} could not be read", self.shown),
                    causes: vec![cause],
                    ..fault
                }
            })?;
        Ok(answer.trim_end().to_owned())
    }

    /// `INFO`, name by name.
    pub(super) fn about(&self) -> Result<BTreeMap<String, String>, Fault> {
        Ok(fields(&self.run(&["INFO"])?))
    }
}

/// The lines of an `INFO`.
pub(super) fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Keys and keys that expire by database, of an `INFO`.
pub(super) fn databases(about: &BTreeMap<String, String>) -> BTreeMap<u32, (u64, u64)> {
    let number = |text: &str, name: &str| {
        text.split(',').find_map(|part| part.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let each = about.iter().filter_map(|(name, text)| {
        Some((
            name.strip_prefix("db")?.parse().ok()?,
            (number(text, "keys="), number(text, "expires=")),
        ))
    });
    each.collect()
}
