//! What browsers tell of themselves (`@client-events`): counted by type, never kept.
//!
//! A batch is `{events, sessionId, timestamp}`; of each event only its `type` and one number (`value`, or
//! `duration` in milliseconds) are looked at, so that nothing of a person can stay. Invariants: a site has
//! [`TYPES`] types at most, what is beyond is counted as `other`; a batch counts whole or not at all. Not
//! here: limits, which the route has, and how a body is read.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::model::EventCount;

/// Types of one site.
const TYPES: usize = 200;
/// Events of one batch.
pub(crate) const BATCH: usize = 500;
/// Bytes of one batch.
pub(crate) const LARGEST: usize = 64 << 10;
/// Values are counted by powers of two; the last one is for everything beyond.
const BUCKETS: usize = 24;

/// One batch. Fields that nobody knows are passed over.
#[derive(Debug, Deserialize)]
struct Batch {
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type", alias = "name", alias = "event")]
    kind: String,
    #[serde(default, alias = "duration")]
    value: Option<f64>,
}

/// Why a batch was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBatch {
    NotOne,
    TooMany,
}

/// The counts of all sites.
#[derive(Debug, Default)]
pub(crate) struct ClientEvents(Mutex<BTreeMap<String, BTreeMap<String, EventCount>>>);

impl ClientEvents {
    /// Counts a batch.
    pub(crate) fn count(&self, site: &str, body: &[u8]) -> Result<(), NoBatch> {
        let batch: Batch = serde_json::from_slice(body).map_err(|_| NoBatch::NotOne)?;
        if batch.events.len() > BATCH {
            return Err(NoBatch::TooMany);
        }
        if batch.events.is_empty() {
            return Ok(());
        }
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let types = sites.entry(site.to_owned()).or_default();
        for event in &batch.events {
            let known = types.contains_key(&event.kind);
            let named = is_name(&event.kind) && (known || types.len() < TYPES);
            let kind = if named { event.kind.as_str() } else { "other" };
            add(types.entry(kind.to_owned()).or_default(), event.value);
        }
        Ok(())
    }

    /// All counts.
    pub(crate) fn tell(&self) -> BTreeMap<String, BTreeMap<String, EventCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Words as programs name things: nobody's address or text.
fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-/".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

fn add(count: &mut EventCount, value: Option<f64>) {
    count.count += 1;
    let Some(value) = value.filter(|value| value.is_finite() && *value >= 0.0) else { return };
    count.valued += 1;
    count.sum += value;
    count.buckets.resize(BUCKETS, 0);
    let bucket = (0..BUCKETS - 1).find(|power| value < (1_u64 << power) as f64);
    if let Some(bucket) = count.buckets.get_mut(bucket.unwrap_or(BUCKETS - 1)) {
        *bucket += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_are_counted_by_type_and_their_values_by_size() {
        let events = ClientEvents::default();
        let batch = br#"{"events":[{"type":"sync","duration":3,"user":"ann@x"},{"type":"sync","duration":1000},
            {"name":"circuit_open"},{"type":"ann said: hello","value":-1}],"sessionId":"s","timestamp":1}"#;
        assert_eq!(events.count("shop", batch), Ok(()));
        assert_eq!(
            events.count("shop", br#"{"events":[],"sessionId":"debug","timestamp":1}"#),
            Ok(())
        );
        let told = events.tell();
        let shop = told.get("shop").unwrap();
        assert_eq!(shop.keys().collect::<Vec<_>>(), ["circuit_open", "other", "sync"]);
        let sync = &shop["sync"];
        assert_eq!((sync.count, sync.valued, sync.sum), (2, 2, 1003.0));
        assert_eq!((sync.buckets[2], sync.buckets[10]), (1, 1));
        assert!(!format!("{told:?}").contains("ann"));
    }

    #[test]
    fn what_is_no_batch_or_too_large_counts_nothing() {
        let events = ClientEvents::default();
        for text in
            ["", "[]", "{}", r#"{"events":{}}"#, r#"{"events":[{}]}"#, r#"{"events":[{"type":1}]}"#]
        {
            assert_eq!(events.count("shop", text.as_bytes()), Err(NoBatch::NotOne), "{text}");
        }
        let many = format!(r#"{{"events":[{}{{"type":"a"}}]}}"#, r#"{"type":"a"},"#.repeat(BATCH));
        assert_eq!(events.count("shop", many.as_bytes()), Err(NoBatch::TooMany));
        assert!(events.tell().is_empty());
        for number in 0..1000 {
            let one = format!(r#"{{"events":[{{"type":"t{number}"}}]}}"#);
            assert_eq!(events.count("shop", one.as_bytes()), Ok(()));
        }
        let shop = &events.tell()["shop"];
        assert_eq!((shop.len(), shop["other"].count), (TYPES + 1, 1000 - TYPES as u64));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            ClientEvents::default().count("shop", &bytes).ok();
        }
    }
}
