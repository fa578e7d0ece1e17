//! Path patterns: exact, or with `*` that stands for any characters, `/` too.
//!
//! Patterns are compared with the percent-decoded path, and are decoded themselves, so that `/@fs/*`
//! also meets `/%40fs/`. Invariant: matching takes at most pattern × path steps (no exponential
//! backtracking) and never allocates.

use percent_encoding::percent_decode_str;

/// Whether a pattern of the configuration fits a path; both as they are written.
pub(crate) fn matches(pattern: &[u8], path: &[u8]) -> bool {
    glob(pattern, path, |a, b| a == b)
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Box<str>,
    kind: Kind,
    wide: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    /// One `*`, at the end.
    Prefix,
    Glob,
}

impl Pattern {
    /// Compiles a pattern; any text is one.
    pub(super) fn new(text: &str) -> Self {
        let decoded = percent_decode_str(text)
            .decode_utf8()
            .map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned);
        let kind = match decoded.find('*') {
            None => Kind::Exact,
            Some(at) if at + 1 == decoded.len() => Kind::Prefix,
            Some(_) => Kind::Glob,
        };
        Self { text: decoded.into(), kind, wide: false }
    }

    /// One that is read as widely as the laxest application would: letters in either case, and with or
    /// without a slash at the end.
    pub(super) fn wide(text: &str) -> Self {
        Self { wide: true, ..Self::new(text) }
    }

    /// Whether it fits a decoded path.
    pub(super) fn matches(&self, path: &str) -> bool {
        if self.wide { self.fits_widely(path) } else { self.fits(path.as_bytes()) }
    }

    /// Whether a path that is plain, too, fits it in one way only: nothing in either can be read in another
    /// case, without its last slash or with one.
    pub(super) fn is_plain(&self) -> bool {
        is_plain(&self.text) && self.folder().is_none()
    }

    /// Of `/admin/*` the folder itself, without its slash: many applications answer it as they do the one with.
    fn folder(&self) -> Option<&[u8]> {
        self.text.as_bytes().strip_suffix(b"/*").filter(|folder| !folder.is_empty())
    }

    fn fits(&self, path: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match self.kind {
            Kind::Exact => text == path,
            Kind::Prefix => path.starts_with(&text[..text.len() - 1]),
            Kind::Glob => glob(text, path, |a, b| a == b),
        }
    }

    /// Whether it fits as the laxest application would read both.
    pub(super) fn fits_widely(&self, path: &str) -> bool {
        let same = |a: u8, b: u8| a.eq_ignore_ascii_case(&b);
        let fits = |path: &str| {
            let text = self.text.as_bytes();
            let shorter = text.strip_suffix(b"/").unwrap_or(text);
            glob(text, path.as_bytes(), same)
                || glob(shorter, path.as_bytes(), same)
                || self.folder().is_some_and(|folder| glob(folder, path.as_bytes(), same))
        };
        fits(path) || path.strip_suffix('/').is_some_and(fits)
    }
}

/// Whether a path is in small letters and ends in no slash.
pub(super) fn is_plain(path: &str) -> bool {
    !(path.len() > 1 && path.ends_with('/') || path.bytes().any(|byte| byte.is_ascii_uppercase()))
}

/// The classic two-pointer match: on a mismatch the last `*` takes one more byte.
fn glob(pattern: &[u8], text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut at, mut pos) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while pos < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(byte) if same(*byte, text[pos]) => {
                at += 1;
                pos += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    pos = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}
