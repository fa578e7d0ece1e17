//! `Cache-Control`, read strictly: what is not understood never makes an answer fresher.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};

/// The directives that matter to a shared cache. A number that cannot be read is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) must_understand: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age: Option<u64>,
    pub(super) s_maxage: Option<u64>,
    pub(super) stale_while_revalidate: Option<u64>,
    pub(super) stale_if_error: Option<u64>,
    /// Fields named by `no-cache="…"` and `private="…"`: they are not used again.
    pub(super) fields: Vec<String>,
}

/// RFC 9111 § 1.2.2: what is larger counts as this.
const MAX_SECONDS: u64 = 1 << 31;

impl Directives {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        let lines = headers.get_all(CACHE_CONTROL).iter().map(HeaderValue::as_bytes);
        for line in lines {
            let line = String::from_utf8_lossy(line);
            for member in split(&line) {
                all.take(member);
                // Not a separator, and taken for one by who wrote it.
                let pieces = split_at(member, b';');
                if pieces.len() > 1 {
                    pieces.into_iter().for_each(|one| all.restrict(one));
                }
            }
        }
        all
    }

    /// Takes of what is written wrongly only what shows less to others, or for a shorter time.
    fn restrict(&mut self, directive: &str) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "private" => self.private = true,
            "no-cache" | "must-revalidate" | "proxy-revalidate" => self.no_cache = true,
            "max-age" | "s-maxage" => smallest(&mut self.max_age, Some(value)),
            _ => {}
        }
    }

    fn take(&mut self, directive: &str) {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (directive, None),
        };
        match name.to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "no-cache" | "private" if value.is_some_and(|value| named(value).is_some()) => {
                let names = value.and_then(named).unwrap_or_default().split(',');
                self.fields.extend(names.map(|name| name.trim().to_ascii_lowercase()));
            }
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => smallest(&mut self.max_age, value),
            "s-maxage" => smallest(&mut self.s_maxage, value),
            "stale-while-revalidate" => smallest(&mut self.stale_while_revalidate, value),
            "stale-if-error" => smallest(&mut self.stale_if_error, value),
            _ => {}
        }
    }
}

/// The names of fields in a value; none where they are not quoted, or none is there: then all of the answer is meant.
fn named(value: &str) -> Option<&str> {
    let names = value.strip_prefix('"')?.strip_suffix('"')?;
    (!names.trim().is_empty()).then_some(names)
}

/// Of several the smallest: whoever said less had a reason.
fn smallest(into: &mut Option<u64>, value: Option<&str>) {
    let text = value.unwrap_or_default();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let digits = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if digits { bare.parse().unwrap_or(MAX_SECONDS).min(MAX_SECONDS) } else { 0 };
    *into = Some(into.map_or(seconds, |before| before.min(seconds)));
}

/// A list's members; commas within quotes do not separate.
pub(super) fn split(line: &str) -> Vec<&str> {
    split_at(line, b',')
}

fn split_at(line: &str, separator: u8) -> Vec<&str> {
    let (mut members, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                members.push(line[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    members.push(line[from..].trim());
    members.retain(|member| !member.is_empty());
    members
}
