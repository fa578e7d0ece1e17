//! The path that the instance sees, when it is not the one that the client asked for.
//!
//! Invariants: routes, limits, cache and log go by the client's path; only what is passed on changes; a path is
//! rewritten however it is encoded, or what lies under the stripped beginning could be asked for by its own name.

use http::Uri;
use seaworthy_base::policy::Rewrite;

use crate::route::CanonicalPath;

/// The target with its path rewritten; none when it stays as it is.
pub(super) fn rewritten(rule: &Rewrite, uri: &Uri) -> Option<Uri> {
    let path = CanonicalPath::parse(uri.path()).ok()?;
    let path = path.as_str();
    let stripped = behind(path, &rule.strip).filter(|rest| {
        // `/api` is not the beginning of `/apiary`.
        rule.strip.is_empty() || rest.is_empty() || rest.starts_with('/')
    });
    let rest = stripped.unwrap_or(path);
    let mut target = String::with_capacity(rule.prefix.len() + uri.to_string().len() + 1);
    target.push_str(&rule.prefix);
    if !rest.starts_with('/') {
        target.push('/');
    }
    // Two slashes at the beginning would be a host to some applications.
    target.push_str(if rule.prefix.is_empty() && rest.starts_with("//") {
        rest.trim_start_matches('/')
    } else {
        rest
    });
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    target.parse().ok()
}

/// What stands behind a beginning, each character of which may be encoded.
fn behind<'a>(path: &'a str, beginning: &str) -> Option<&'a str> {
    let mut at = 0;
    for wanted in beginning.bytes() {
        let rest = path.get(at..)?;
        let encoded = rest.strip_prefix('%').and_then(|hex| hex.get(..2));
        let encoded = encoded.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let found = encoded.or_else(|| rest.bytes().next());
        if found != Some(wanted) {
            return None;
        }
        at += if encoded.is_some() { 3 } else { 1 };
    }
    path.get(at..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_away_at_a_slash_and_another_put_there() {
        for (strip, prefix, given, expected) in [
            ("/api", "", "/api/x?y=1", "/x?y=1"),
            ("/api", "", "/api", "/"),
            ("/api", "", "/apiary", "/apiary"),
            ("/api", "/v2", "/api/x", "/v2/x"),
            ("", "/v2", "/x%20y", "/v2/x%20y"),
            ("/api", "", "/api//evil.example/x", "/evil.example/x"),
            ("/api", "", "/other", "/other"),
            ("/api", "/v2", "/%61pi/x", "/v2/x"),
            ("/api", "/v2", "/ap%69", "/v2/"),
            ("/api", "/v2", "/%61piary", "/v2/apiary"),
            ("/@app", "", "/%40app/%c3%a9", "/%C3%A9"),
            ("/a!", "/b", "/a%21/x", "/b/x"),
        ] {
            let rule = Rewrite { strip: strip.to_owned(), prefix: prefix.to_owned() };
            let uri = rewritten(&rule, &given.parse().unwrap()).unwrap();
            assert_eq!(uri.to_string(), expected, "{given}");
        }
    }
}
