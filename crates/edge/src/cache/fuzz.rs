//! What must hold of any two requests: what is kept for the one is given to the other only when both ask
//! for the same in the same words.

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use seaworthy_base::policy::Cache as Rule;

use super::store::Store;
use super::{Key, Use, asked, may_keep};

/// Lines: scheme, host, target, `Accept-Language`, `Accept-Encoding`, `Authorization`.
fn request(input: &[u8]) -> (Key, HeaderMap) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let key = Key {
        site: "shop".into(),
        release: "r1".into(),
        port: 443,
        secure: next() == "https",
        host: next().to_ascii_lowercase().into(),
        target: next().into(),
    };
    let mut headers = HeaderMap::new();
    for name in ["accept-language", "accept-encoding", "authorization"] {
        let value = next();
        if let (Ok(value), false) = (HeaderValue::from_str(value), value.is_empty()) {
            headers.insert(name, value);
        }
    }
    (key, headers)
}

/// The members of a list, as a cache may compare them at the loosest.
fn members(headers: &HeaderMap, name: &str) -> Vec<String> {
    let line =
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let all: Vec<String> = line
        .unwrap_or_default()
        .split(',')
        .map(|one| one.split(';').map(str::trim).collect::<Vec<_>>().join(";").to_ascii_lowercase())
        .filter(|one| !one.is_empty())
        .collect();
    all
}

/// Whether a client takes a coding (RFC 9110 § 12.5.3). What is no header of codings says nothing.
fn accepts(members: &[String], coding: &str) -> bool {
    let of = |name: &str| {
        let mut found = members.iter().filter_map(|member| {
            let (given, rest) = member.split_once(';').unwrap_or((member, ""));
            let q = rest.split(';').find_map(|part| {
                let (key, value) = part.split_once('=')?;
                (key.trim() == "q").then(|| value.trim().parse::<f32>().ok())?
            });
            // Weights that are none count as the whole, those that say nothing after three digits as nothing.
            let q = q.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
            (given == name).then_some(q >= 0.001)
        });
        found.next()
    };
    let aliased = of(coding).or_else(|| (coding == "gzip").then(|| of("x-gzip")).flatten());
    aliased.or_else(|| of("*")).unwrap_or(coding == "identity")
}

pub(crate) fn key(first: &[u8], second: &[u8]) {
    const NOW: u64 = 1_763_000_000_000;
    let ((key, headers), (other, others)) = (request(first), request(second));
    let mut answer = HeaderMap::new();
    answer.insert("cache-control", HeaderValue::from_static("max-age=60"));
    answer.insert("vary", HeaderValue::from_static("Accept-Language, Accept-Encoding"));
    let given = asked(&Method::GET, &headers);
    let kept = may_keep(&Rule::default(), given, &headers, (StatusCode::OK, &answer), NOW);
    assert!(kept.is_none() || !headers.contains_key("authorization"), "it was somebody's own");
    let Some(kept) = kept else { return };
    let mut store = Store::new(1 << 20);
    store.put(&key, kept.into());
    assert!(matches!(store.find(&key, &headers, NOW), Use::Fresh(_)), "it is not found again");
    if matches!(store.find(&other, &others, NOW), Use::Fresh(_)) {
        assert_eq!(key, other);
        assert_eq!(members(&headers, "accept-language"), members(&others, "accept-language"));
        let (ours, theirs) =
            (members(&headers, "accept-encoding"), members(&others, "accept-encoding"));
        for coding in ["gzip", "br", "zstd", "deflate", "compress", "dcb", "identity"] {
            assert_eq!(
                accepts(&ours, coding),
                accepts(&theirs, coding),
                "{coding} {ours:?} {theirs:?}"
            );
        }
    }
}
