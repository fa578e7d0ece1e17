//! The `Date` header (RFC 9110 § 6.6.1), made once a second and thread.

use std::cell::{RefCell, RefMut};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// What was made last.
#[derive(Debug)]
struct Last {
    second: u64,
    line: Vec<u8>,
    value: HeaderValue,
}

/// The date.
#[derive(Debug)]
pub(crate) struct Date(RefCell<Last>);

impl Default for Date {
    fn default() -> Self {
        let value = HeaderValue::from_static("");
        Self(RefCell::new(Last { second: 0, line: Vec::new(), value }))
    }
}

impl Date {
    /// Writes the whole line.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last().line);
    }

    /// The value alone.
    pub(crate) fn value(&self) -> HeaderValue {
        self.last().value.clone()
    }

    fn last(&self) -> RefMut<'_, Last> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut last = self.0.borrow_mut();
        if last.second != now || last.line.is_empty() {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            last.second = now;
            last.line = format!("date: {text}\r\n").into_bytes();
            last.value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        }
        last
    }
}
