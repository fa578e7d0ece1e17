//! One JSON line for each request, so that `explain` and any log tool can read it.
//!
//! Lines are gathered and written by 32 KiB or after a fifth of a second. The names of the fields are
//! settled. Invariant: values in a query that look like secrets are not written.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use seaworthy_base::{RequestId, Timestamp};
use seaworthy_sys::logfile::{LogRules, RotatingLog};
use serde::Serialize;

/// Written when so many bytes are gathered.
const GATHER: usize = 32 << 10;

/// What is known of a request at its end.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) time: String,
    pub(crate) id: String,
    pub(crate) site: &'a str,
    pub(crate) client: String,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: String,
    pub(crate) status: u16,
    #[serde(rename = "in")]
    pub(crate) bytes_in: u64,
    #[serde(rename = "out")]
    pub(crate) bytes_out: u64,
    pub(crate) ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_ms: Option<f64>,
    pub(crate) proto: &'static str,
    pub(crate) tls: bool,
    pub(crate) retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) agent: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) referer: &'a str,
}

/// The log, shared by all threads.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    log: RotatingLog,
    gathered: Vec<u8>,
    lines: u64,
}

impl AccessLog {
    /// Opens `access.log` in `dir`; where that cannot be written lines are dropped and counted.
    pub(crate) fn new(dir: &Path) -> Self {
        let rules =
            LogRules { path: dir.join("access.log"), max_size: 100 << 20, keep: 14, days: None };
        Self {
            inner: Arc::new(Mutex::new(Inner {
                log: RotatingLog::open(rules),
                gathered: Vec::new(),
                lines: 0,
            })),
        }
    }

    /// Gathers one line. Returns whether it is the first one: the caller then sees to a flush.
    pub(crate) fn write(&self, entry: &Entry<'_>) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = inner.gathered.is_empty();
        if serde_json::to_writer(&mut inner.gathered, entry).is_ok() {
            inner.gathered.push(b'\n');
            inner.lines += 1;
        }
        if inner.gathered.len() >= GATHER {
            inner.flush();
        }
        first
    }

    /// Writes what is gathered.
    pub(crate) fn flush(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

impl Inner {
    fn flush(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let rotated = self.log.write(&self.gathered, self.lines);
        self.gathered.clear();
        self.lines = 0;
        if let Some(file) = rotated {
            compress_aside(file);
        }
    }
}

fn compress_aside(file: PathBuf) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    command
        .arg("compress-log")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        // Waits in a thread of its own, so that no zombie stays.
        std::thread::spawn(move || child.wait());
    }
}

/// The time of a log line and the printed id.
pub(crate) fn stamp(id: RequestId) -> (String, String) {
    (Timestamp(id.millis()).to_string(), id.to_string())
}

/// A URL, such as a referer, as it may be written.
pub(crate) fn url_without_secrets(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    url.split_once('?')
        .map_or_else(|| url.to_owned(), |(path, query)| without_secrets(path, Some(query)))
}

/// Path and query as they may be written.
pub(crate) fn without_secrets(path: &str, query: Option<&str>) -> String {
    let Some(query) = query else { return path.to_owned() };
    let hidden = |pair: &str| {
        let (name, _) = pair.split_once('=')?;
        let lower =
            percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
        ["token", "key", "passw", "pwd", "secret", "code", "signature", "jwt", "session"]
            .iter()
            .any(|word| lower.contains(word))
            .then(|| format!("{name}=…"))
    };
    // `;` separates too, for some applications.
    let shown = |pair: &str| {
        let (body, end) =
            pair.strip_suffix(['&', ';']).map_or((pair, ""), |body| (body, &pair[body.len()..]));
        hidden(body).map_or_else(|| pair.to_owned(), |hidden| hidden + end)
    };
    let pairs: String = query.split_inclusive(['&', ';']).map(shown).collect();
    format!("{path}?{pairs}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_that_look_like_secrets_are_not_written() {
        assert_eq!(
            super::without_secrets("/a", Some("x=1&access_token=abc")),
            "/a?x=1&access_token=…"
        );
        assert_eq!(
            super::without_secrets("/a", Some("%74oken=a;password=b&x=1")),
            "/a?%74oken=…;password=…&x=1"
        );
        assert_eq!(
            super::url_without_secrets("https://a/b?code=1&x=2#token=3"),
            "https://a/b?code=…&x=2"
        );
    }
}
