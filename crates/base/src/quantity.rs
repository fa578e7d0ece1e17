//! Durations, sizes and rates as people write them: `"60s"`, `"500M"`, `"300/5m"`.
//!
//! One grammar for the manifest, the command line and what we print. Invariant: what
//! `format_*` and `Display` print parses back to the same value (property-tested).
//! Not here: calendar arithmetic; `1y` is 365 days.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is no duration, size or rate.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{given}` is no {kind}: write it like {examples}")]
pub struct QuantityError {
    /// The text as given, cut to 60 characters.
    pub given: String,
    /// What was expected: `duration`, `size` or `rate`.
    pub kind: &'static str,
    /// How it is written.
    pub examples: &'static str,
}

fn refuse(given: &str, kind: &'static str, examples: &'static str) -> QuantityError {
    QuantityError { given: given.chars().take(60).collect(), kind, examples }
}

/// Milliseconds in each unit, largest first.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `"250ms"`, `"60s"`, `"15m"`, `"24h"`, `"7d"`, `"4w"`, `"1y"` or a sum such as `"1h30m"`.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let bad = || refuse(text, "duration", "`250ms`, `60s`, `15m`, `24h`, `7d`");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1;
        let part = number.checked_mul(millis).ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration so that [`parse_duration`] reads it back (to the millisecond).
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in UNITS {
        // Weeks and years are read but not written: "10d" is clearer than "1w3d".
        if unit == "w" || unit == "y" {
            continue;
        }
        if millis >= size {
            out.push_str(&(millis / size).to_string());
            out.push_str(unit);
            millis %= size;
        }
    }
    out
}

/// A number of bytes, written `"500M"`: powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const SIZES: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

impl ByteSize {
    /// For people: down to whole MiB, to whole KiB where it is less than one.
    pub fn rounded(self) -> Self {
        let unit = if self.0 < 1 << 20 { 10 } else { 20 };
        Self(self.0 >> unit << unit)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad = || refuse(text, "size", "`64K`, `500M`, `1G`");
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let factor = match unit {
            "" | "B" => 1,
            _ => {
                let unit = unit.trim_end_matches("iB").trim_end_matches('B');
                SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in SIZES {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return f.pad(&format!("{}{unit}", self.0 / size));
            }
        }
        f.pad(&format!("{}B", self.0))
    }
}

/// So many events in a span of time, written `"10/s"`, `"300/5m"`, `"100/h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many events.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad = || refuse(text, "rate", "`10/s`, `5/m`, `300/5m`");
        let (count, per) = text.trim().split_once('/').ok_or_else(bad)?;
        let count: u32 = count.parse().map_err(|_| bad())?;
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
            parse_duration(per)
        } else {
            parse_duration(&format!("1{per}"))
        };
        let per = per.map_err(|_| bad())?;
        if count == 0 || per.is_zero() { Err(bad()) } else { Ok(Self { count, per }) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, format_duration(self.per))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_written_the_way_people_write_them() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "5", "s", "5 s", "-5s", "5sec", "99999999999999999999s", "999999999999999y"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!("500M".parse(), Ok(ByteSize(500 << 20)));
        assert_eq!("10MiB".parse(), Ok(ByteSize(10 << 20)));
        assert_eq!(ByteSize((3 << 20) + 5).rounded().to_string(), "3M");
        assert_eq!(ByteSize((3 << 10) + 5).rounded().to_string(), "3K");
        for bad in ["", "M", "1X", "1.5G", "-1", "99999999999999999999", "18446744073709551615T"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(n in any::<u64>(), count in 1u32.., per in 1u64..1 << 40) {
            let duration = Duration::from_millis(n >> 8);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(ByteSize(n).to_string().parse(), Ok(ByteSize(n)));
            let rate = Rate { count, per: Duration::from_millis(per) };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,40}") {
            let _ = (parse_duration(&text).is_ok(), text.parse::<ByteSize>().is_ok(), text.parse::<Rate>().is_ok());
        }
    }
}
