//! What every answer tells a browser: the secure profile, the content policy, cookies' attributes, and
//! who else may read it.
//!
//! The profile fills gaps: what the application or the route's own rules say stays, once. Invariants:
//! every answer has it, errors and redirects too; `Strict-Transport-Security` goes over HTTPS only and
//! never to names that mean this machine; `X-Frame-Options` never contradicts `frame-ancestors`.
//! Not here: the nonce on scripts and styles ([`crate::nonce`]).

use http::header::{
    CONTENT_SECURITY_POLICY, Entry, HeaderName, REFERRER_POLICY, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use seaworthy_base::policy::{Cookies, Policy};

use super::CompiledPolicy;
use crate::route::Rules;

/// A year, subdomains too: what preload lists and graders ask for. Not `preload`: that cannot be undone.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");

/// The other headers of the profile.
static PROFILE: [(HeaderName, HeaderValue); 6] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("geolocation=(), microphone=(), camera=()"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        // Not `same-origin`: pop-ups that sign in must be able to answer.
        HeaderValue::from_static("same-origin-allow-popups"),
    ),
];

/// What a route tells browsers.
#[derive(Debug)]
pub(crate) struct Browser {
    /// Headers of the profile that no rule of the route speaks of.
    gaps: Vec<(HeaderName, HeaderValue)>,
    /// The same as lines of a head.
    lines: Box<[u8]>,
    /// How long the names are that decide about the gaps: a bit for each length.
    lengths: u64,
    hsts: bool,
    csp: Option<Csp>,
    cookies: Option<Cookies>,
}

/// `csp`: the text around each `'nonce'`.
#[derive(Debug)]
struct Csp {
    parts: Vec<String>,
    fixed: HeaderValue,
    /// Only where the application sends none.
    only_missing: bool,
}

/// What is known of an answer's way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) status: StatusCode,
    pub(crate) secure: bool,
    pub(crate) host: &'a str,
    pub(crate) origin: Option<&'a HeaderValue>,
    /// The fresh value, where the route's policy has one.
    pub(crate) nonce: Option<&'a str>,
    /// Its head is written as lines.
    pub(crate) in_lines: bool,
    /// The site has `Strict-Transport-Security` on all of its routes.
    pub(crate) always_secure: bool,
}

impl Browser {
    /// The error is what cannot be a header.
    pub(super) fn build(policy: &Policy, rules: &Rules) -> Result<Self, String> {
        let removed = |name: &HeaderName| rules.remove.contains(name);
        let csp = policy.csp.as_ref().map(|text| Csp::build(text, rules)).transpose()?;
        let gaps: Vec<_> = PROFILE.iter().filter(|(name, _)| !removed(name)).cloned().collect();
        let framed = csp.as_ref().is_some_and(|csp| lets_frame(&csp.parts.concat()));
        let fits = |(name, _): &&(HeaderName, HeaderValue)| !(framed && *name == X_FRAME_OPTIONS);
        let in_lines: Vec<_> = gaps.iter().filter(fits).cloned().collect();
        let lines = profile_lines(&in_lines).into_bytes().into();
        let deciding = gaps.iter().map(|(name, _)| name).chain([&CONTENT_SECURITY_POLICY]);
        let lengths = deciding.fold(0, |bits, name| bits | 1 << name.as_str().len());
        let cookies = (policy.cookies != Cookies::default()).then(|| policy.cookies.clone());
        let hsts = !removed(&STRICT_TRANSPORT_SECURITY);
        Ok(Self { gaps, lines, lengths, hsts, csp, cookies })
    }

    /// The profile as lines of a head, for an answer that has nothing of it.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Whether an answer has nothing that decides about the gaps. By the lengths of its names: quick, and wrong only by
    /// saying no.
    fn is_bare(&self, headers: &HeaderMap) -> bool {
        let decides = |name: &HeaderName| self.lengths >> name.as_str().len().min(63) & 1 == 1;
        !headers.keys().any(decides)
    }

    /// Whether answers need a fresh nonce.
    pub(crate) fn wants_nonce(&self) -> bool {
        self.csp.as_ref().is_some_and(|csp| csp.parts.len() > 1)
    }
}

impl Csp {
    fn build(text: &str, rules: &Rules) -> Result<Self, String> {
        let mut text = text.trim_end_matches([';', ' ']).to_owned();
        if !text.to_ascii_lowercase().contains("frame-ancestors")
            && !rules.remove.contains(&X_FRAME_OPTIONS)
        {
            let framed = rules.set.iter().find(|(name, _)| *name == X_FRAME_OPTIONS);
            let own = framed
                .is_some_and(|(_, value)| value.as_bytes().eq_ignore_ascii_case(b"sameorigin"));
            text.push_str(if own {
                "; frame-ancestors 'self'"
            } else {
                "; frame-ancestors 'none'"
            });
        }
        Ok(Self {
            parts: text.split("'nonce'").map(str::to_owned).collect(),
            fixed: HeaderValue::from_str(&text)
                .map_err(|_| "content-security-policy".to_owned())?,
            only_missing: rules.only_missing,
        })
    }

    fn value(&self, nonce: Option<&str>) -> Option<HeaderValue> {
        if self.parts.len() == 1 {
            return Some(self.fixed.clone());
        }
        let quoted = ["'nonce-", nonce?, "'"].concat();
        HeaderValue::try_from(self.parts.join(&quoted)).ok()
    }
}

/// Completes an answer that is not one of an upgrade; but for [`Browser::lines`] where it says so.
pub(crate) fn finish(
    headers: &mut HeaderMap,
    policy: Option<&CompiledPolicy>,
    sight: Sight<'_>,
) -> bool {
    let Some(policy) = policy else {
        fill(headers, &PROFILE);
        // Who never sent a browser there by a route sends it nowhere by an error either.
        secure(headers, sight, sight.always_secure);
        return false;
    };
    let browser = &policy.browser;
    let in_lines = sight.in_lines && browser.is_bare(headers);
    if let Some(csp) = &browser.csp {
        let given = csp.only_missing && headers.contains_key(CONTENT_SECURITY_POLICY);
        // The page that a 304 stands for has the nonce that it was sent with: its header must stay too.
        let kept = sight.status == StatusCode::NOT_MODIFIED && browser.wants_nonce();
        if kept {
            headers.remove(CONTENT_SECURITY_POLICY);
        } else if let (false, Some(value)) = (given, csp.value(sight.nonce)) {
            headers.insert(CONTENT_SECURITY_POLICY, value);
        }
    }
    if !in_lines {
        fill(headers, &browser.gaps);
    }
    secure(headers, sight, browser.hsts);
    if let Some(cookies) = &browser.cookies {
        harden(headers, cookies, sight.secure);
    }
    if let Some(cors) = &policy.cors {
        cors.finish(sight.origin, headers);
    }
    in_lines
}

/// Adds `Strict-Transport-Security` where it is wanted and may be.
fn secure(headers: &mut HeaderMap, sight: Sight<'_>, is_wanted: bool) {
    let may = is_wanted && sight.secure && !is_local(sight.host);
    if may && !headers.contains_key(STRICT_TRANSPORT_SECURITY) {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
}

/// The whole profile as lines of a head.
pub(crate) fn all_lines() -> String {
    profile_lines(&PROFILE)
}

fn profile_lines(profile: &[(HeaderName, HeaderValue)]) -> String {
    let line = |(name, value): &(HeaderName, HeaderValue)| {
        format!("{name}: {}\r\n", value.to_str().unwrap_or_default())
    };
    profile.iter().map(line).collect()
}

/// Adds what is missing.
fn fill(headers: &mut HeaderMap, gaps: &[(HeaderName, HeaderValue)]) {
    // Once, instead of growing while they are put in.
    headers.reserve(gaps.len() + 2);
    for (name, value) in gaps {
        if *name == X_FRAME_OPTIONS && allows_frames(headers) {
            continue;
        }
        if let Entry::Vacant(gap) = headers.entry(name) {
            gap.insert(value.clone());
        }
    }
}

/// Whether a content policy lets somebody frame the page: then `DENY` would say something else.
fn allows_frames(headers: &HeaderMap) -> bool {
    let mut policies = headers.get_all(CONTENT_SECURITY_POLICY).iter();
    policies.any(|value| lets_frame(value.to_str().unwrap_or_default()))
}

/// The same of a policy's text.
fn lets_frame(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    // Several policies in one line are parted by commas.
    let mut directives = text.split([';', ',']).map(str::split_ascii_whitespace);
    directives.any(|mut words| {
        words.next() == Some("frame-ancestors") && words.next().is_some_and(|one| one != "'none'")
    })
}

/// Names that mean this machine: what a browser remembers of them would hold for every program on it.
fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.starts_with('[')
        || host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

/// Adds attributes to each cookie that lacks them.
fn harden(headers: &mut HeaderMap, cookies: &Cookies, secure: bool) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let all: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in all {
        let hardened = cookie.to_str().ok().map(|text| hardened(text, cookies, secure));
        let hardened = hardened.and_then(|text| HeaderValue::from_str(&text).ok());
        headers.append(SET_COOKIE, hardened.unwrap_or(cookie));
    }
}

fn hardened(cookie: &str, cookies: &Cookies, secure: bool) -> String {
    let has = |attribute: &str| {
        cookie.split(';').skip(1).any(|one| {
            one.split('=').next().unwrap_or_default().trim().eq_ignore_ascii_case(attribute)
        })
    };
    let mut out = cookie.to_owned();
    // Browsers drop `SameSite=None` without `Secure`.
    let none = cookies.same_site.as_deref() == Some("None");
    if (cookies.secure || none) && secure && !has("secure") {
        out.push_str("; Secure");
    }
    if cookies.http_only && !has("httponly") {
        out.push_str("; HttpOnly");
    }
    if let (Some(same_site), false) = (&cookies.same_site, has("samesite")) {
        out.push_str("; SameSite=");
        out.push_str(same_site);
    }
    out
}

/// Adds a word to `Vary`, once.
pub(crate) fn add_vary(headers: &mut HeaderMap, word: &'static str) {
    let lists = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|one| one.trim() == "*" || one.trim().eq_ignore_ascii_case(word))
    };
    if !headers.get_all(VARY).iter().any(lists) {
        headers.append(VARY, HeaderValue::from_static(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{self, HeaderRules};

    fn policy(policy: Policy, rules: &HeaderRules) -> CompiledPolicy {
        let rules = Rules::build(rules).unwrap();
        let site = model::Site::default();
        CompiledPolicy::build(
            &policy,
            super::super::Scope { site: &site, rules: &rules, is_files: false },
        )
        .unwrap()
    }

    fn sight(host: &str, secure: bool) -> Sight<'_> {
        let (status, nonce) = (StatusCode::OK, Some("N"));
        let (always_secure, in_lines) = (true, false);
        Sight { status, secure, host, origin: None, nonce, always_secure, in_lines }
    }

    fn finished(
        policy: &CompiledPolicy,
        given: &[(&'static str, &'static str)],
        sight: Sight<'_>,
    ) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        finish(&mut headers, Some(policy), sight);
        headers
    }

    #[test]
    fn the_profile_fills_gaps_and_doubles_nothing() {
        let plain = policy(Policy::default(), &HeaderRules::default());
        let headers = finished(
            &plain,
            &[("x-frame-options", "SAMEORIGIN"), ("referrer-policy", "no-referrer")],
            sight("a.example", true),
        );
        assert_eq!(headers["x-frame-options"], "SAMEORIGIN");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["strict-transport-security"], "max-age=31536000; includeSubDomains");
        assert!(
            headers.keys().all(|name| headers.get_all(name).iter().count() == 1),
            "{headers:?}"
        );
        assert_eq!(headers.len(), 7);
        let removed =
            HeaderRules { remove: vec!["Permissions-Policy".to_owned()], ..HeaderRules::default() };
        assert!(
            !finished(&policy(Policy::default(), &removed), &[], sight("a.example", true))
                .contains_key("permissions-policy")
        );
    }

    /// Names with what the whole head says for each, sorted.
    fn said(headers: &HeaderMap, lines: &[u8]) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let map = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        let lines = std::str::from_utf8(lines).unwrap();
        let lines = lines.split_terminator("\r\n").map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        });
        let mut all: Vec<_> = map.chain(lines).collect();
        all.sort();
        all
    }

    #[test]
    fn in_the_map_or_as_lines_behind_it_the_answer_says_the_same() {
        let removed =
            HeaderRules { remove: vec!["Referrer-Policy".to_owned()], ..HeaderRules::default() };
        let csp = |text: &str| {
            let with = Policy { csp: Some(text.to_owned()), ..Policy::default() };
            policy(with, &HeaderRules::default())
        };
        let policies = [
            csp("script-src 'nonce'"),
            csp("frame-ancestors https://x.example"),
            policy(Policy::default(), &HeaderRules::default()),
            policy(Policy::default(), &removed),
        ];
        let mut bare = 0;
        for policy in &policies {
            for given in [
                &[][..],
                &[("server", "x"), ("etag", "\"1\"")],
                &[("x-frame-options", "SAMEORIGIN")],
                &[("content-security-policy", "frame-ancestors https://x.example")],
                &[
                    ("cross-origin-opener-policy", "same-origin"),
                    ("referrer-policy", "no-referrer"),
                ],
                &[("x-of-fifteen-15", "a name as long as another")],
            ] {
                let sight = sight("a.example", true);
                let whole = finished(policy, given, sight);
                let mut headers = HeaderMap::new();
                for (name, value) in given {
                    headers.append(*name, HeaderValue::from_static(value));
                }
                let in_lines =
                    finish(&mut headers, Some(policy), Sight { in_lines: true, ..sight });
                bare += u32::from(in_lines);
                let lines = if in_lines { policy.browser.lines() } else { b"" };
                assert_eq!(said(&headers, lines), said(&whole, b""), "{given:?}");
            }
        }
        assert!(bare >= 4, "{bare}");
    }

    #[test]
    fn browsers_are_told_to_insist_on_https_only_where_that_is_meant() {
        let plain = policy(Policy::default(), &HeaderRules::default());
        for (host, secure, told) in [
            ("a.example", true, true),
            ("a.example", false, false),
            ("localhost", true, false),
            ("shop.localhost", true, false),
            ("127.0.0.1", true, false),
            ("[::1]", true, false),
        ] {
            let headers = finished(&plain, &[], sight(host, secure));
            assert_eq!(headers.contains_key(STRICT_TRANSPORT_SECURITY), told, "{host}");
        }
    }

    #[test]
    fn frames_are_spoken_of_in_one_voice() {
        let plain = policy(Policy::default(), &HeaderRules::default());
        let framed = |csp: &'static str| {
            finished(&plain, &[("content-security-policy", csp)], sight("a.example", true))
                .get(X_FRAME_OPTIONS)
                .cloned()
        };
        assert_eq!(framed("default-src 'self'; frame-ancestors https://x.example"), None);
        assert_eq!(framed("frame-ancestors 'none'").unwrap(), "DENY");
        let with = |csp: &str, rules: &HeaderRules| {
            let policy = policy(Policy { csp: Some(csp.to_owned()), ..Policy::default() }, rules);
            finished(&policy, &[], sight("a.example", true))
        };
        let headers = with("default-src 'self';", &HeaderRules::default());
        assert_eq!(headers[CONTENT_SECURITY_POLICY], "default-src 'self'; frame-ancestors 'none'");
        let own = HeaderRules {
            set: vec![("X-Frame-Options".to_owned(), "SAMEORIGIN".to_owned())],
            ..HeaderRules::default()
        };
        assert_eq!(
            with("default-src 'self'", &own)[CONTENT_SECURITY_POLICY],
            "default-src 'self'; frame-ancestors 'self'"
        );
        let headers = with("frame-ancestors 'self'", &HeaderRules::default());
        assert!(!headers.contains_key(X_FRAME_OPTIONS));
    }

    #[test]
    fn a_nonce_stands_wherever_the_policy_asks_and_never_in_a_304() {
        let given = Policy {
            csp: Some(
                "script-src 'nonce' 'strict-dynamic'; style-src 'nonce'; frame-ancestors 'none'"
                    .to_owned(),
            ),
            ..Policy::default()
        };
        let policy = policy(given, &HeaderRules::default());
        assert!(policy.browser.wants_nonce());
        let headers = finished(
            &policy,
            &[("content-security-policy", "default-src *")],
            sight("a.example", true),
        );
        assert_eq!(
            headers[CONTENT_SECURITY_POLICY],
            "script-src 'nonce-N' 'strict-dynamic'; style-src 'nonce-N'; frame-ancestors 'none'"
        );
        let unchanged = Sight { status: StatusCode::NOT_MODIFIED, ..sight("a.example", true) };
        assert!(
            !finished(&policy, &[("content-security-policy", "x")], unchanged)
                .contains_key(CONTENT_SECURITY_POLICY)
        );
    }

    #[test]
    fn an_answer_of_no_route_is_as_secure_as_its_sites_routes() {
        let hsts = |sight: Sight<'_>| {
            let mut headers = HeaderMap::new();
            finish(&mut headers, None, sight);
            assert_eq!(headers["x-content-type-options"], "nosniff");
            headers.contains_key(STRICT_TRANSPORT_SECURITY)
        };
        assert!(hsts(sight("a.example", true)));
        assert!(!hsts(sight("a.example", false)) && !hsts(sight("a.localhost", true)));
        assert!(!hsts(Sight { always_secure: false, ..sight("a.example", true) }));
    }

    #[test]
    fn who_may_frame_a_page_is_found_however_a_policy_is_written() {
        for (policy, expected) in [
            ("frame-ancestors 'self'", true),
            ("default-src 'self';Frame-Ancestors\thttps://a.example", true),
            ("default-src 'self', frame-ancestors *", true),
            ("frame-ancestors 'NONE'", false),
            ("frame-ancestors", false),
            ("frame-ancestors-x 'self'", false),
            ("default-src 'self'", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(policy).unwrap());
            assert_eq!(allows_frames(&headers), expected, "{policy}");
        }
    }

    #[test]
    fn cookies_get_what_they_lack() {
        let all = Cookies { secure: true, http_only: true, same_site: Some("Lax".to_owned()) };
        assert_eq!(
            hardened("a=b; Path=/", &all, true),
            "a=b; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            hardened("a=b; secure; httponly; SAMESITE=None", &all, true),
            "a=b; secure; httponly; SAMESITE=None"
        );
        assert_eq!(
            hardened("secure=1", &Cookies { secure: true, ..Cookies::default() }, true),
            "secure=1; Secure"
        );
        assert_eq!(hardened("a=b", &Cookies { secure: true, ..Cookies::default() }, false), "a=b");
        let policy = policy(
            Policy { cookies: Cookies { secure: true, ..Cookies::default() }, ..Policy::default() },
            &HeaderRules::default(),
        );
        let headers = finished(
            &policy,
            &[("set-cookie", "a=1"), ("set-cookie", "b=2; Secure")],
            sight("a.example", true),
        );
        let said: Vec<_> =
            headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(said, ["a=1; Secure", "b=2; Secure"]);
    }
}
