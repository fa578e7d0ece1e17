//! Rates: nginx's leaky bucket with `burst` and `nodelay`, in a table of fixed size.
//!
//! The arithmetic is nginx's own (thousandths of a request, whole milliseconds), so that a rate that was
//! moved here from nginx accepts and refuses the same requests; what is slower than a request a minute
//! counts in millionths. Invariants: a request counts against all limits or none; a key takes 16 bytes and
//! the table never grows: in a full row the key that was quiet for longest gives way; threads agree
//! without a lock. Not here: what a key is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use http::header::HeaderName;
use seaworthy_base::policy::{self as said, Key};

use super::Refused;
use super::keys::{Hasher, Keys, ident};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// `limit` of a route.
#[derive(Debug)]
pub(crate) struct Limit {
    name: String,
    ident: u64,
    pub(crate) by: Key,
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
        let excess = (u64::from(before.excess) + self.unit).saturating_sub(drained);
        if excess > self.burst {
            return Err(((excess - self.burst) * self.per).div_ceil(self.rate));
        }
        let last = if elapsed == 0 { before.last } else { now32 };
        Ok(State { excess: excess as u32, last })
    }
}

impl Limit {
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
            rule,
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("")),
            label: quoted,
        }
    }

    fn refuse(&self, wait_ms: u64) -> Refused {
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

/// Keys that share a cache line; within it a key may stand anywhere.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Row([Slot; 4]);

#[derive(Debug, Default)]
struct Slot {
    /// 0 for none.
    key: AtomicU64,
    state: AtomicU64,
}

/// 1,024 rows of four are 64 KiB.
const ROWS: usize = 1024;
/// 64 of them: 262,144 keys in 4 MiB at most.
const SHEETS: usize = 64;

/// All buckets of all limits of all sites. Memory is taken as keys come.
#[derive(Debug)]
pub(crate) struct Buckets {
    sheets: Vec<OnceLock<Box<[Row]>>>,
    hasher: Hasher,
}

impl Buckets {
    pub(crate) fn new() -> Self {
        let sheets = (0..SHEETS).map(|_| OnceLock::new()).collect();
        Self { sheets, hasher: Hasher::random() }
    }

    pub(crate) fn hasher(&self) -> Hasher {
        self.hasher
    }

    fn row(&self, key: u64) -> Option<&Row> {
        let (sheet, row) = (key as usize % SHEETS, (key >> 32) as usize % ROWS);
        let rows = self.sheets.get(sheet)?;
        rows.get_or_init(|| (0..ROWS).map(|_| Row::default()).collect()).get(row)
    }

    /// What is in a key's bucket.
    pub(crate) fn get(&self, key: u64) -> Option<State> {
        let slot = self.row(key)?.0.iter().find(|slot| slot.key.load(Ordering::Acquire) == key)?;
        Some(State::unpack(slot.state.load(Ordering::Acquire)))
    }

    /// Counts one request of a key.
    pub(crate) fn take(&self, key: u64, rule: Rule, now: u64) -> Result<(), u64> {
        let Some(row) = self.row(key) else { return Ok(()) };
        let found = row.0.iter().find(|slot| slot.key.load(Ordering::Acquire) == key);
        let Some(slot) = found else {
            let state = rule.take(None, now)?;
            row.put(key, state, now);
            return Ok(());
        };
        let mut bits = slot.state.load(Ordering::Acquire);
        loop {
            let after = rule.take(Some(State::unpack(bits)), now)?.pack();
            match slot.state.compare_exchange_weak(bits, after, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(changed) => bits = changed,
            }
        }
    }
}

impl Row {
    /// Puts a new key in a free slot, or in that of the key that was quiet for longest. Two threads that
    /// bring the same new key at the same moment may count one request less, never one too many.
    fn put(&self, key: u64, state: State, now: u64) {
        let quiet = |slot: &&Slot| {
            if slot.key.load(Ordering::Acquire) == 0 {
                return u32::MAX;
            }
            let last = State::unpack(slot.state.load(Ordering::Acquire)).last;
            (now as u32).wrapping_sub(last).min(u32::MAX - 1)
        };
        if let Some(slot) = self.0.iter().max_by_key(quiet) {
            slot.key.store(0, Ordering::Release);
            slot.state.store(state.pack(), Ordering::Release);
            slot.key.store(key, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
