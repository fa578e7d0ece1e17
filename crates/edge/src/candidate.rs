//! A release that is being tried beside the one that serves: who gets it.
//!
//! Two ways lead to it. Who knows the key (a header, or a cookie that the preview address sets) always
//! does: the gate before a switch, and people who look at a preview. And a share of the visitors: each
//! draws a number once, kept in a cookie, and belongs to the new release as soon as the share is larger,
//! so that nobody changes sides while it grows. Invariant: the key stands in no answer but that of the
//! preview address, which has it already; the visitors' cookie tells nothing but its number.

use std::sync::Arc;

use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::body::ResponseBody;
use crate::model;
use crate::respond;

/// Carries the key: for programs. Who sends it, with whatever value, gets no kept answer.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("seaworthy-release");
/// Carries the key: for people.
const PREVIEW: &str = "seaworthy-release";
/// Carries the number that a visitor drew.
const VISIT: &str = "seaworthy-visit";
/// What precedes the key in the preview's address.
const ADDRESS: &str = "/.well-known/seaworthy/release/";
/// Numbers are drawn below this; a share is a number of them.
const WHOLE: u16 = 10_000;

/// The keys and the share, of a site that has a candidate.
#[derive(Debug, Clone)]
pub struct Candidate {
    id: String,
    key: String,
    share: u16,
    /// As people name it.
    pub(crate) release: Arc<str>,
}

/// Who gets which release.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The new one.
    pub(crate) next: bool,
    /// A number was drawn: the cookie that keeps it.
    pub(crate) cookie: Option<HeaderValue>,
}

impl Candidate {
    pub(crate) fn new(candidate: &model::Candidate) -> Self {
        Self {
            id: candidate.id.clone(),
            key: candidate.key.clone(),
            share: candidate.share.min(WHOLE),
            release: candidate.release.as_deref().unwrap_or(&candidate.id).into(),
        }
    }

    /// Whose request this is.
    pub(crate) fn choose(&self, headers: &HeaderMap, draw: impl FnOnce() -> u16) -> Choice {
        let key = self.key.as_bytes();
        let known = headers.get(HEADER).is_some_and(|given| equal(given.as_bytes(), key))
            || cookie(headers, PREVIEW).is_some_and(|given| equal(given.as_bytes(), key));
        if known {
            return Choice { next: true, cookie: None };
        }
        if self.share == 0 {
            return Choice::default();
        }
        if let Some(number) = self.drawn(headers) {
            return Choice { next: number < self.share, cookie: None };
        }
        let number = draw() % WHOLE;
        let text =
            format!("{VISIT}={}.{number}; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax", self.id);
        Choice { next: number < self.share, cookie: HeaderValue::from_str(&text).ok() }
    }

    /// The number that a visitor drew for this very rollout.
    fn drawn(&self, headers: &HeaderMap) -> Option<u16> {
        let (id, number) = cookie(headers, VISIT)?.split_once('.')?;
        let number: u16 = number.parse().ok()?;
        (id == self.id && number < WHOLE).then_some(number)
    }

    /// The answer of the preview's address: a cookie with the key, and the way to the first page.
    pub(crate) fn preview(&self, parts: &Parts, tls: bool) -> Option<Response<ResponseBody>> {
        let given = parts.uri.path().strip_prefix(ADDRESS)?;
        if !equal(given.as_bytes(), self.key.as_bytes()) {
            return None;
        }
        let secure = if tls { "; Secure" } else { "" };
        let text = format!("{PREVIEW}={}; Path=/; HttpOnly; SameSite=Lax{secure}", self.key);
        let mut response = respond::redirect(StatusCode::SEE_OTHER, "/");
        response.headers_mut().insert(SET_COOKIE, HeaderValue::from_str(&text).ok()?);
        Some(response)
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// Compares without telling by its time how much is right.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(share: u16) -> Candidate {
        let (id, key) = ("r2".to_owned(), "k3y".to_owned());
        Candidate { id, key, share, release: "r2".into() }
    }

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_key_leads_there_and_nothing_else_does_while_nobody_is_to_be_sent() {
        let next = |headers: &HeaderMap| candidate(0).choose(headers, || 0).next;
        assert!(next(&with(HEADER, "k3y")) && next(&with(COOKIE, "a=b; seaworthy-release=k3y")));
        assert!(!next(&with(HEADER, "k3")) && !next(&HeaderMap::new()));
        assert!(!next(&with(COOKIE, "seaworthy-visit=r2.0")));
    }

    #[test]
    fn a_visitor_draws_once_and_never_goes_back_while_the_share_grows() {
        let first = candidate(1000).choose(&HeaderMap::new(), || 2500);
        let text = first.cookie.as_ref().unwrap().to_str().unwrap().to_owned();
        assert!(!first.next && text.starts_with("seaworthy-visit=r2.2500;"), "{text}");
        let again = with(COOKIE, text.split(';').next().unwrap());
        let sides: Vec<bool> = [1000, 2500, 2501, 10_000]
            .map(|share| candidate(share).choose(&again, || 0).next)
            .into();
        assert_eq!(sides, [false, false, true, true]);
    }

    #[test]
    fn a_number_of_another_rollout_or_none_is_drawn_anew() {
        for cookie in ["seaworthy-visit=r1.5", "seaworthy-visit=r2.x", "seaworthy-visit=r2.60000"] {
            let choice = candidate(5000).choose(&with(COOKIE, cookie), || 7);
            assert!(choice.next && choice.cookie.is_some(), "{cookie}");
        }
    }
}
