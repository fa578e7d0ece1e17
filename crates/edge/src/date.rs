//! The `Date` header (RFC 9110 § 6.6.1), made once a second and thread.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was written last.
#[derive(Debug, Default)]
pub(crate) struct Date(RefCell<(u64, Vec<u8>)>);

impl Date {
    /// Writes the whole line.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut last = self.0.borrow_mut();
        if last.0 != now || last.1.is_empty() {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            *last = (now, format!("date: {text}\r\n").into_bytes());
        }
        out.extend_from_slice(&last.1);
    }
}
