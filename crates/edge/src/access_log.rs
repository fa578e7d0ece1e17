//! One JSON line for each request, so that `explain` and any log tool can read it.
//!
//! Each thread gathers its own lines and writes them by 32 KiB, or when the sweep comes by. The names of
//! the fields are settled. Invariants: a line is valid JSON whatever the client sent; values in a query
//! that look like secrets are not written; nothing is allocated for a line that holds nothing unusual.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seaworthy_base::{RequestId, Timestamp};
use seaworthy_sys::logfile::{self, LogRules, RotatingLog};
use seaworthy_sys::process;

use crate::serve::Protocol;

/// Written when so many bytes are gathered.
const GATHER: usize = 32 << 10;
/// Most lines are shorter.
const LINE: usize = 512;

/// What is known of a request at its end.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Its time is the line's.
    pub(crate) id: RequestId,
    pub(crate) site: &'a str,
    pub(crate) client: IpAddr,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) micros: u64,
    pub(crate) upstream: Option<&'a str>,
    pub(crate) upstream_micros: Option<u64>,
    pub(crate) protocol: Protocol,
    pub(crate) tls: bool,
    pub(crate) retries: u32,
    /// `traceparent` that the client brought; empty for none.
    pub(crate) trace: &'a [u8],
    pub(crate) cause: Option<&'a str>,
    pub(crate) agent: &'a [u8],
    pub(crate) referer: &'a [u8],
}

/// The log, shared by all threads.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// By thread.
    gathered: Vec<Mutex<Gathered>>,
    log: Mutex<RotatingLog>,
}

/// The lines of one thread that are not written yet.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    lines: u64,
    /// The second that was printed last, as text up to the point before the milliseconds.
    second: (u64, String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLog {
    /// Opens `access.log` in `dir`; where that cannot be written lines are dropped and counted.
    pub(crate) fn new(dir: &Path, threads: u16) -> Self {
        let rules =
            LogRules { path: dir.join("access.log"), max_size: 100 << 20, keep: 14, days: None };
        let gathered = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Self { inner: Arc::new(Inner { gathered, log: Mutex::new(RotatingLog::open(rules)) }) }
    }

    /// Gathers one line of a thread.
    pub(crate) fn write(&self, thread: u16, entry: &Entry<'_>) {
        let Some(gathered) = self.inner.gathered.get(usize::from(thread)) else { return };
        let mut gathered = lock(gathered);
        gathered.add(entry);
        if gathered.bytes.len() >= GATHER {
            self.write_out(&mut gathered);
        }
    }

    /// Writes what a thread has gathered. Whether there was anything.
    pub(crate) fn flush_thread(&self, thread: u16) -> bool {
        let Some(gathered) = self.inner.gathered.get(usize::from(thread)) else { return false };
        let mut gathered = lock(gathered);
        let any = gathered.lines > 0;
        self.write_out(&mut gathered);
        any
    }

    /// Writes what all threads have gathered.
    pub(crate) fn flush(&self) {
        self.inner.gathered.iter().for_each(|gathered| self.write_out(&mut lock(gathered)));
    }

    fn write_out(&self, gathered: &mut Gathered) {
        if gathered.lines == 0 {
            return;
        }
        let rotated = lock(&self.inner.log).write(&gathered.bytes, gathered.lines);
        gathered.bytes.clear();
        gathered.lines = 0;
        if let Some(file) = rotated {
            compress_aside(file);
        }
    }
}

impl Gathered {
    fn add(&mut self, entry: &Entry<'_>) {
        let millis = entry.id.millis();
        if self.second.0 != millis / 1000 || self.second.1.is_empty() {
            let text = Timestamp(millis).to_string();
            self.second = (millis / 1000, text[..text.len() - 4].to_owned());
        }
        let out = &mut self.bytes;
        out.reserve(LINE);
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(self.second.1.as_bytes());
        three_digits(out, millis % 1000);
        out.extend_from_slice(b"Z\",\"id\":\"");
        out.extend_from_slice(&entry.id.encode());
        string(out, "\",\"site\":\"", entry.site.as_bytes());
        address(out, "\",\"client\":\"", entry.client);
        string(out, "\",\"method\":\"", entry.method.as_bytes());
        string(out, "\",\"host\":\"", entry.host.as_bytes());
        match entry.query {
            None => string(out, "\",\"path\":\"", entry.path.as_bytes()),
            Some(query) => {
                let shown = without_secrets(entry.path, query);
                string(out, "\",\"path\":\"", shown.as_bytes());
            }
        }
        number(out, "\",\"status\":", entry.status.into());
        number(out, ",\"in\":", entry.bytes_in);
        number(out, ",\"out\":", entry.bytes_out);
        millis_of(out, ",\"ms\":", entry.micros);
        if let Some(upstream) = entry.upstream {
            string(out, ",\"upstream\":\"", upstream.as_bytes());
            out.push(b'"');
        }
        if let Some(micros) = entry.upstream_micros {
            millis_of(out, ",\"upstream_ms\":", micros);
        }
        let protocol: &[u8] = match entry.protocol {
            Protocol::Http1 => b",\"proto\":\"HTTP/1.1\"",
            Protocol::Http2 => b",\"proto\":\"HTTP/2\"",
            Protocol::Http3 => b",\"proto\":\"HTTP/3\"",
        };
        out.extend_from_slice(protocol);
        out.extend_from_slice(if entry.tls { b",\"tls\":true" } else { b",\"tls\":false" });
        number(out, ",\"retries\":", entry.retries.into());
        let referer;
        let referer_bytes = if entry.referer.is_empty() {
            entry.referer
        } else {
            referer = url_without_secrets(&String::from_utf8_lossy(entry.referer));
            referer.as_bytes()
        };
        for (name, value) in [
            (",\"cause\":\"", entry.cause.unwrap_or_default().as_bytes()),
            (",\"trace\":\"", entry.trace.get(3..35).unwrap_or_default()),
            (",\"agent\":\"", entry.agent),
            (",\"referer\":\"", referer_bytes),
        ] {
            if !value.is_empty() {
                string(out, name, value);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b"}\n");
        self.lines += 1;
    }
}

/// A name, then a number.
fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A name, then microseconds as milliseconds.
fn millis_of(out: &mut Vec<u8>, name: &str, micros: u64) {
    number(out, name, micros / 1000);
    out.push(b'.');
    three_digits(out, micros % 1000);
}

fn three_digits(out: &mut Vec<u8>, value: u64) {
    let digit = |value: u64| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[digit(value / 100), digit(value / 10), digit(value)]);
}

/// A name up to the opening quote, then an address.
fn address(out: &mut Vec<u8>, name: &str, ip: IpAddr) {
    match ip {
        // By far the most, and formatting is dear.
        IpAddr::V4(ip) => {
            let mut before = name;
            for octet in ip.octets() {
                number(out, before, octet.into());
                before = ".";
            }
        }
        // A Vec takes every byte: writing to it cannot fail.
        IpAddr::V6(ip) => drop(write!(out, "{name}{ip}")),
    }
}

/// A name up to the opening quote, then the inside of a JSON string (RFC 8259 § 7).
fn string(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    let odd = |byte: &&u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    // All are counted, and not the first looked for, so that many are looked at in one step.
    if value.iter().filter(odd).count() == 0 {
        out.extend_from_slice(value);
        return;
    }
    for part in String::from_utf8_lossy(value).chars() {
        match part {
            '"' | '\\' => out.extend_from_slice(&[b'\\', part as u8]),
            // DEL and the controls of Latin-1 too: a log is read in terminals.
            _ if part.is_control() => drop(write!(out, "\\u{:04x}", u32::from(part))),
            _ => out.extend_from_slice(part.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn compress_aside(file: PathBuf) {
    // A thread, not a program: the edge may start none. On Linux priorities are a thread's own.
    let thread = std::thread::Builder::new().name("compress".to_owned());
    let started = thread.spawn(move || {
        process::yield_to_others();
        logfile::compress(&file)
    });
    // Without a thread, or on a full disk, the file stays as it is: control compresses what lies about.
    started.ok();
}

/// A URL, such as a referer, as it may be written.
fn url_without_secrets(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    match url.split_once('?') {
        Some((path, query)) => without_secrets(path, query),
        None => url.to_owned(),
    }
}

/// What names of query fields hold whose values nobody else should know.
const SECRET: [&str; 15] = [
    "token",
    "key",
    "passw",
    "pwd",
    "secret",
    "code",
    "sig",
    "jwt",
    "session",
    "auth",
    "credential",
    "otp",
    "ticket",
    "assertion",
    "saml",
];

/// Path and query as they may be written.
fn without_secrets(path: &str, query: &str) -> String {
    let decode = |text: &str| -> String {
        percent_encoding::percent_decode_str(text).decode_utf8_lossy().to_ascii_lowercase()
    };
    let is_secret = |name: &str| SECRET.iter().any(|word| name.contains(word));
    // `next=%2Fcallback%3Fcode%3D7`: an address within the value has fields of its own, or the value is made of such.
    let holds_secret = |value: &str| {
        let mut fields = value.split(['?', '&', ';', '#']).map(|field| field.split_once('='));
        // Before the first name may stand a path, which is none of it; what only ends in `=` is Base64.
        let first = fields.next().flatten().is_some_and(|(name, text)| {
            name.rsplit('/').next().is_some_and(is_secret) && !text.trim_matches('=').is_empty()
        });
        first || fields.flatten().any(|(name, _)| is_secret(name))
    };
    let hidden = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let hides = is_secret(&decode(name)) || holds_secret(&decode(&decode(value)));
        hides.then(|| format!("{name}=…"))
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
    use super::*;

    #[test]
    fn values_that_look_like_secrets_are_not_written() {
        assert_eq!(without_secrets("/a", "x=1&access_token=abc"), "/a?x=1&access_token=…");
        assert_eq!(
            without_secrets("/a", "%74oken=a;password=b&x=1"),
            "/a?%74oken=…;password=…&x=1"
        );
        assert_eq!(
            without_secrets("/a", "next=%2Fcb%3Fx%3D1%26code%3D7&q=a%3Fb"),
            "/a?next=…&q=a%3Fb"
        );
        assert_eq!(without_secrets("/a", "u=%252Fcb%253Ftoken%253D7"), "/a?u=…");
        assert_eq!(
            without_secrets("/a", "fragment=access_token%3Dabc%26x%3D1&f=%23id_token=7"),
            "/a?fragment=…&f=…"
        );
        // Base64, a path, and an address whose own name says nothing.
        for usual in ["x=fQkEyZw==", "next=%2Fauthors%2Fid%3D5", "u=https://auth.a/b=1"] {
            assert_eq!(without_secrets("/a", usual), format!("/a?{usual}"));
        }
        assert_eq!(
            without_secrets("/a", "X-Amz-Signature=1&X-Amz-Credential=2&sig=3&size=4"),
            "/a?X-Amz-Signature=…&X-Amz-Credential=…&sig=…&size=4"
        );
        assert_eq!(url_without_secrets("https://a/b?code=1&x=2#token=3"), "https://a/b?code=…&x=2");
    }

    proptest::proptest! {
        #[test]
        fn a_line_is_valid_json_whatever_the_client_sent(
            agent in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
            text in ".{0,30}",
            micros in proptest::prelude::any::<u64>(),
        ) {
            let mut gathered = Gathered::default();
            gathered.add(&Entry {
                id: RequestId::new(1_763_000_000_007, 1, 0, 1, 2),
                site: "shop", client: "::1".parse().unwrap(), method: "GET", host: &text,
                path: &text, query: Some(&text), status: 200, bytes_in: 1, bytes_out: micros, micros,
                upstream: Some(&text), upstream_micros: Some(micros), protocol: Protocol::Http2, tls: false,
                retries: 0, trace: b"", cause: Some(&text), agent: &agent, referer: &agent,
            });
            let line: serde_json::Value = serde_json::from_slice(&gathered.bytes).unwrap();
            proptest::prop_assert_eq!(&line["host"], &text);
            proptest::prop_assert_eq!(line["agent"].as_str().unwrap_or(""), String::from_utf8_lossy(&agent));
            proptest::prop_assert_eq!(&line["time"], "2025-11-13T02:13:20.007Z");
            proptest::prop_assert_eq!(gathered.bytes.iter().position(|byte| *byte == b'\n'), Some(gathered.bytes.len() - 1));
        }
    }
}
