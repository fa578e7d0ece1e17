//! What a lockout is: which answers are failures, by what they are counted, and what is said to who is kept out.
//!
//! Invariant: nothing is counted here; a rule is what the manifest says, in the edge's words.

use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use seaworthy_base::policy::{self as said, Key, Refusal};

use super::texts::Texts;
use crate::policy::Refused;
use crate::policy::keys::{Keys, account, ident};

/// `lockout` of a route.
#[derive(Debug)]
pub(crate) struct Lockout {
    pub(super) names: Arc<Names>,
    pub(in crate::policy) ident: u64,
    pub(super) failures: u32,
    /// In seconds, as `locked`.
    pub(super) within: u64,
    pub(super) locked: u64,
    by: Vec<Key>,
    refusals: Vec<Refusal>,
    /// Where it counts with other servers too.
    pub(in crate::policy) store: Option<Box<str>>,
}

/// Whose it is, for all who are counted by it.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) site: Box<str>,
    pub(super) lockout: Box<str>,
    pub(super) ident: u64,
}

/// What an answer says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many refusals.
    Failure(u32),
    Success,
    /// Neither: a server error, or something else was wrong.
    Nothing,
}

impl Lockout {
    pub(in crate::policy) fn build(site: &str, given: &said::Lockout) -> Self {
        let ident = ident(site, &given.name);
        let lockout = given.name.as_str().into();
        Self {
            names: Arc::new(Names { site: site.into(), lockout, ident }),
            ident,
            failures: u32::from(given.failures.max(1)),
            within: given.within.as_secs().max(1),
            locked: given.locked.as_secs().max(1),
            by: once(&given.by),
            refusals: given.refusals.clone(),
            store: given.store.as_ref().map(|name| format!("{site}/{name}").into()),
        }
    }

    pub(in crate::policy) fn needs_body(&self) -> bool {
        self.by.iter().any(Key::needs_body)
    }

    /// By what it counts.
    pub(in crate::policy) fn by(&self) -> &[Key] {
        &self.by
    }

    /// Whether some answers are known by a text in their body.
    pub(in crate::policy) fn has_answer_text(&self) -> bool {
        self.refusals.iter().any(|one| one.body.is_some())
    }

    /// The texts that decide about an answer of this status.
    pub(super) fn texts(&self, status: StatusCode) -> impl Iterator<Item = &str> {
        let fitting = self.refusals.iter().filter(move |one| fits_status(one, status));
        fitting.filter_map(|one| one.body.as_deref())
    }

    /// Whether the answer's body decides.
    pub(crate) fn reads_answer(&self, status: StatusCode) -> bool {
        self.texts(status).next().is_some()
    }

    /// What an answer means.
    pub(crate) fn outcome(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        texts: &Texts,
    ) -> Outcome {
        if status.is_server_error() {
            return Outcome::Nothing;
        }
        let failures = |one: &Refusal| {
            let location = one.location.as_ref().is_none_or(|text| {
                let given = headers.get(LOCATION).and_then(|value| value.to_str().ok());
                given.is_some_and(|given| given.contains(text.as_str()))
            });
            let found = one.body.as_ref().map_or(1, |text| texts.count(text));
            if fits_status(one, status) && location { found } else { 0 }
        };
        match self.refusals.iter().map(failures).max().unwrap_or(0) {
            0 if status.as_u16() < 400 => Outcome::Success,
            0 => Outcome::Nothing,
            count => Outcome::Failure(count),
        }
    }

    /// The most failures; seconds within which they count; seconds of a lock.
    pub(in crate::policy) fn words(&self) -> (u32, u64, u64) {
        (self.failures, self.within, self.locked)
    }

    /// What a request is counted by: the address first.
    pub(in crate::policy) fn keys(&self, keys: &Keys<'_>) -> Vec<Counted> {
        let mut all: Vec<Counted> = Vec::new();
        for by in &self.by {
            let found = if by.needs_body() {
                keys.by_body(self.ident, by)
            } else {
                vec![keys.by_head(self.ident, by)]
            };
            for key in found {
                match all.iter_mut().find(|one| one.key == key) {
                    Some(one) => one.times += 1,
                    None => all.push(Counted { key, times: 1, by_ip: *by == Key::Ip }),
                }
            }
        }
        // Several guesses in one request are as many of its address.
        let guesses: u32 = all.iter().filter(|one| !one.by_ip).map(|one| one.times).sum();
        all.iter_mut().filter(|one| one.by_ip).for_each(|one| one.times = guesses.max(1));
        all.sort_by_key(|one| !one.by_ip);
        all
    }
}

/// Each of what is counted by, once: a field is the same one whether it is expected in JSON or in a form.
fn once(by: &[Key]) -> Vec<Key> {
    let field = |key: &Key| match key {
        Key::Json(name) | Key::Form(name) => Some(account(name)),
        _ => None,
    };
    let mut all: Vec<Key> = Vec::new();
    for key in by {
        let is_known = |one: &Key| one == key || (field(key).is_some() && field(one) == field(key));
        if !all.iter().any(is_known) {
            all.push(key.clone());
        }
    }
    all
}

fn fits_status(refusal: &Refusal, status: StatusCode) -> bool {
    refusal.status.is_empty() || refusal.status.contains(&status.as_u16())
}

/// A key that an attempt counts for.
#[derive(Debug, Clone, Copy)]
pub(in crate::policy) struct Counted {
    pub(in crate::policy) key: u64,
    pub(in crate::policy) times: u32,
    pub(in crate::policy) by_ip: bool,
}

/// So many would be guesses for free.
pub(in crate::policy) fn at_once(lockout: &Lockout) -> Refused {
    Refused::too_many(format!("too many attempts at once: {}", lockout.names.lockout), 1000)
}

/// Locked, for so many milliseconds more.
pub(in crate::policy) fn is_locked(lockout: &Lockout, one: Counted, left_ms: u64) -> Refused {
    let what = if one.by_ip { "address" } else { "account" };
    Refused::too_many(format!("the {what} is locked out: {}", lockout.names.lockout), left_ms)
}
