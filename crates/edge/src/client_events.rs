//! What browsers tell of themselves (`@client-events`): counted by type, never kept.
//!
//! A batch is `{events, sessionId, timestamp}`; of each event only its `type` and one number (`value`, or
//! `duration` in milliseconds) are looked at, so that nothing of a person can stay. Invariants: a site has
//! [`TYPES`] types at most, what is beyond is counted as `other`; a batch counts whole or not at all; sums stay
//! numbers, whatever is sent. Not here: limits, which the route has, and how a body is read.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::model::EventCount;

/// Types of one site.
const TYPES: usize = 200;
/// Events of one batch.
pub(crate) const BATCH: usize = 500;
/// Bytes of one batch.
pub(crate) const LARGEST: usize = 64 << 10;
/// Values are counted by powers of two; the last one is for everything beyond.
const BUCKETS: usize = 24;
/// What is larger measures nothing (in milliseconds: thirty thousand years). As many of these as can be counted still
/// have a sum.
const MOST: f64 = 1e15;

/// One batch. Fields that nobody knows are passed over.
#[derive(Debug, Deserialize)]
struct Batch {
    events: Vec<Event>,
}

/// Its type stands where the page's library puts it, beside other things of those names.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: Option<Word>,
    #[serde(rename = "event")]
    what: Option<Word>,
    name: Option<Word>,
    value: Option<Number>,
    duration: Option<Number>,
}

/// Text, or something else that is passed over.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Other(IgnoredAny),
}

/// A number, or something else that is passed over.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Known(f64),
    Other(IgnoredAny),
}

impl Event {
    fn kind(&self) -> Option<&str> {
        [&self.kind, &self.what, &self.name].into_iter().flatten().find_map(|word| match word {
            Word::Text(text) => Some(text.as_str()),
            Word::Other(_) => None,
        })
    }

    fn value(&self) -> Option<f64> {
        [&self.value, &self.duration].into_iter().flatten().find_map(|number| match number {
            Number::Known(number) => Some(*number),
            Number::Other(_) => None,
        })
    }
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
        if batch.events.iter().any(|event| event.kind().is_none()) {
            return Err(NoBatch::NotOne);
        }
        if batch.events.is_empty() {
            return Ok(());
        }
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let types = sites.entry(site.to_owned()).or_default();
        for event in &batch.events {
            let kind = event.kind().unwrap_or_default();
            let known = types.contains_key(kind);
            let named = is_name(kind) && (known || types.len() < TYPES);
            let kind = if named { kind } else { "other" };
            add(types.entry(kind.to_owned()).or_default(), event.value());
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
    let Some(value) = value.filter(|value| (0.0..=MOST).contains(value)) else { return };
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

    #[test]
    fn numbers_that_measure_nothing_leave_sums_that_can_be_told() {
        let events = ClientEvents::default();
        for value in [
            "1.7e308",
            "1e15",
            "-1",
            "-0.0",
            "null",
            "\"12\"",
            "true",
            "{\"a\":[]}",
            "18446744073709551615",
        ] {
            let one = format!(
                r#"{{"events":[{{"type":"t","value":{value}}},{{"type":"t","value":{value}}}]}}"#
            );
            assert_eq!(events.count("shop", one.as_bytes()), Ok(()), "{value}");
        }
        // No JSON.
        for value in ["NaN", "Infinity", "1e999", "0x1"] {
            let one = format!(r#"{{"events":[{{"type":"t","value":{value}}}]}}"#);
            assert_eq!(events.count("shop", one.as_bytes()), Err(NoBatch::NotOne), "{value}");
        }
        let told = events.tell();
        let again: BTreeMap<String, BTreeMap<String, EventCount>> =
            serde_json::from_slice(&serde_json::to_vec(&told).unwrap()).unwrap();
        assert_eq!(again, told);
        let t = &told["shop"]["t"];
        assert_eq!((t.count, t.valued, t.sum), (18, 4, 2e15));
    }

    #[test]
    fn an_event_with_several_names_is_counted_by_its_type() {
        let events = ClientEvents::default();
        let batch = br#"{"events":[{"type":"click","name":"buy","value":null,"duration":5},
            {"name":"LCP","value":1200,"duration":1,"type":7},{"event":"open","name":"x"}]}"#;
        assert_eq!(events.count("shop", batch), Ok(()));
        let shop = events.tell().remove("shop").unwrap();
        assert_eq!(shop.keys().collect::<Vec<_>>(), ["LCP", "click", "open"]);
        assert_eq!((shop["click"].sum, shop["LCP"].sum), (5.0, 1200.0));
    }

    #[test]
    fn what_is_nested_deeply_or_repeated_costs_no_stack() {
        let events = ClientEvents::default();
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let depth = LARGEST / 8;
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for batch in [
                format!(r#"{{"x":{deep},"events":[]}}"#),
                format!(r#"{{"events":[{{"type":"a","detail":{deep}}}]}}"#),
                format!(r#"{{"events":[{{"type":"a","name":{deep}}}]}}"#),
                deep,
            ] {
                // Counted or refused, both are well.
                events.count("shop", batch.as_bytes()).ok();
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            ClientEvents::default().count("shop", &bytes).ok();
        }
    }
}
