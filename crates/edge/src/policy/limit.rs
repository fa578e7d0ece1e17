//! Rates: nginx's leaky bucket with `burst` and `nodelay`.
//!
//! The arithmetic is nginx's own (thousandths of a request, whole milliseconds), so that a rate that was
//! moved here from nginx accepts and refuses the same requests; what is slower than a request a minute
//! counts in millionths. Invariants: a request counts against all limits or none; a bucket that holds more than its
//! rule allows (the rule was changed, or somebody wrote nonsense there) is a full one, so that nobody waits for longer
//! than one request of the rule's takes. Not here: what a key is, and where buckets stand ([`crate::table`]).

use std::sync::Arc;

use http::HeaderValue;
use http::header::HeaderName;
use seaworthy_base::policy::{self as said, Key};

use super::Refused;
use super::keys::{Hasher, Keys, ident};
use crate::table::Table;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `limit` of a route.
#[derive(Debug)]
pub(crate) struct Limit {
    name: String,
    pub(super) ident: u64,
    pub(crate) by: Key,
    /// Where it counts with other servers too.
    pub(crate) store: Option<Box<str>>,
    rule: Rule,
    /// `RateLimit-Policy`.
    policy: HeaderValue,
    label: String,
}

/// A rate in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// One request.
    unit: u64,
    /// So many units drain …
    rate: u64,
    /// … in so many milliseconds.
    per: u64,
    /// Units that may be in the bucket.
    burst: u64,
}

/// What is in a bucket, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    excess: u32,
    /// Milliseconds, the lower 32 bits.
    last: u32,
}

impl State {
    fn pack(self) -> u64 {
        u64::from(self.excess) << 32 | u64::from(self.last)
    }

    fn unpack(bits: u64) -> Self {
        Self { excess: (bits >> 32) as u32, last: bits as u32 }
    }
}

impl Rule {
    pub(crate) fn new(count: u32, per_ms: u64, burst: Option<u32>) -> Self {
        let burst = u64::from(burst.unwrap_or(count.saturating_sub(1)));
        let count = u64::from(count);
        if per_ms > 60_000 && burst < 4000 {
            // What nginx cannot express: in its thousandths an hourly rate would be rounded to nothing.
            return Self {
                unit: 1_000_000,
                rate: count * 1_000_000,
                per: per_ms,
                burst: burst * 1_000_000,
            };
        }
        let rate = (count * 1_000_000 / per_ms.max(1)).max(1);
        Self { unit: 1000, rate, per: 1000, burst: (burst * 1000).min(u64::from(u32::MAX)) }
    }

    /// The bucket after one more request; `Err` is how many milliseconds it must wait.
    pub(crate) fn take(self, before: Option<State>, now: u64) -> Result<State, u64> {
        let now32 = now as u32;
        let Some(before) = before else { return Ok(State { excess: 0, last: now32 }) };
        // Another thread may have read the clock a moment later.
        let elapsed = now32.wrapping_sub(before.last);
        let elapsed = if elapsed > u32::MAX - 60_000 { 0 } else { u64::from(elapsed) };
        let drained = self.rate.saturating_mul(elapsed) / self.per;
        let held = u64::from(before.excess).min(self.burst);
        let excess = (held + self.unit).saturating_sub(drained);
        if excess > self.burst {
            return Err(((excess - self.burst) * self.per).div_ceil(self.rate));
        }
        let last = if elapsed == 0 { before.last } else { now32 };
        Ok(State { excess: excess as u32, last })
    }
}

impl Rule {
    /// For a script: unit, rate, per, burst.
    pub(super) fn words(self) -> [u64; 4] {
        [self.unit, self.rate, self.per, self.burst]
    }
}

impl Limit {
    pub(super) fn words(&self) -> [u64; 4] {
        self.rule.words()
    }

    pub(super) fn build(site: &str, given: &said::Limit) -> Self {
        let per = given.rate.per;
        let rule = Rule::new(given.rate.count, per.as_millis() as u64, given.burst);
        let quoted: String = given
            .name
            .chars()
            .filter(|c| c.is_ascii_graphic() && !"\"\\".contains(*c) || *c == ' ')
            .collect();
        let seconds = per.as_secs().max(1);
        let policy = format!("\"{quoted}\";q={};w={seconds}", given.rate.count);
        Self {
            name: given.name.clone(),
            ident: ident(site, &given.name),
            by: given.by.clone(),
            store: given.store.as_ref().map(|name| format!("{site}/{name}").into()),
            rule,
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("")),
            label: quoted,
        }
    }

    pub(super) fn refuse(&self, wait_ms: u64) -> Refused {
        let mut refused =
            Refused::too_many(format!("more than the limit `{}`", self.name), wait_ms);
        let seconds = wait_ms.div_ceil(1000).max(1);
        let state = format!("\"{}\";r=0;t={seconds}", self.label);
        refused.headers.push((RATE_LIMIT_POLICY, self.policy.clone()));
        refused.headers.extend(HeaderValue::from_str(&state).map(|value| (RATE_LIMIT, value)));
        refused
    }
}

/// Counts a request against all limits, if all of them agree.
pub(crate) fn check(
    buckets: &Buckets,
    limits: &[Limit],
    keys: &Keys<'_>,
    now: u64,
) -> Result<(), Refused> {
    // The usual case without a list.
    if let [limit] = limits
        && !limit.by.needs_body()
    {
        let key = keys.by_head(limit.ident, &limit.by);
        return buckets.take(key, limit.rule, now).map_err(|wait| limit.refuse(wait));
    }
    let mut counted: Vec<(&Limit, u64)> = Vec::with_capacity(limits.len());
    for limit in limits {
        if limit.by.needs_body() {
            counted
                .extend(keys.by_body(limit.ident, &limit.by).into_iter().map(|key| (limit, key)));
        } else {
            counted.push((limit, keys.by_head(limit.ident, &limit.by)));
        }
    }
    if let [(limit, key)] = counted[..] {
        return buckets.take(key, limit.rule, now).map_err(|wait| limit.refuse(wait));
    }
    for (limit, key) in &counted {
        limit.rule.take(buckets.get(*key), now).map_err(|wait| limit.refuse(wait))?;
    }
    for (limit, key) in &counted {
        buckets.take(*key, limit.rule, now).map_err(|wait| limit.refuse(wait))?;
    }
    Ok(())
}

/// All buckets of all limits of all sites.
#[derive(Debug)]
pub(crate) struct Buckets(Arc<Table>);

impl Buckets {
    /// In a table that others may count in too.
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self(table)
    }

    pub(crate) fn hasher(&self) -> Hasher {
        self.0.hasher()
    }

    /// What is in a key's bucket.
    pub(crate) fn get(&self, key: u64) -> Option<State> {
        self.0.limits().get(key).map(State::unpack)
    }

    /// Counts one request of a key.
    pub(crate) fn take(&self, key: u64, rule: Rule, now: u64) -> Result<(), u64> {
        let quiet = |bits| u64::from((now as u32).wrapping_sub(State::unpack(bits).last));
        let after = |bits: Option<u64>| rule.take(bits.map(State::unpack), now).map(State::pack);
        self.0.limits().change(key, quiet, after)
    }

    /// Forgets what an address, account or value has used of a limit.
    pub(crate) fn forget(&self, limit: &Limit, what: &str) {
        for key in self.hasher().names(limit.ident, what) {
            self.0.limits().forget(key);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.0.limits().clear();
    }
}

#[cfg(test)]
mod tests;
